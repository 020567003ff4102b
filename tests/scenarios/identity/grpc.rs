//! gRPC by clients and servers that nobody here wrote, with the files of `sidegate agent`: grpc-go with go-spiffe calls a workload behind a
//! `STRICT` sidecar; grpcio is called by our proxy. Either refuses whoever is not whom it expects.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use sidegate_tests::client;
use sidegate_tests::manifests::pod;
use sidegate_tests::message::{Call, Response};
use sidegate_tests::peers::{Python, named};
use sidegate_tests::sandbox::address;
use sidegate_tests::secured::{Agent, SecuredPlane};
use tokio::process::Command;

use super::*;

const APP: &str = "spiffe://cluster.local/ns/shop/sa/app";
const CALLER: &str = "spiffe://cluster.local/ns/shop/sa/caller";

/// A Pod with a sidecar that speaks gRPC, for nobody but `caller`, by mutual TLS and nothing else.
fn manifests(app: SocketAddr, inbound: u16, outbound: u16) -> [(&'static str, String); 2] {
    let pod = pod("app", app, inbound, outbound);
    let pod = pod.replace("spec: {containers", "spec: {serviceAccountName: app, containers");
    let pod = pod.replace("port: 80, targetPort", "port: 80, appProtocol: kubernetes.io/h2c, targetPort");
    assert_eq!((pod.matches("serviceAccountName").count(), pod.matches("h2c").count()), (1, 1));
    let policies = "
apiVersion: sidegate.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {name: strict, namespace: shop}
spec: {mode: STRICT}
---
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: caller, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: app}]
  rules: [{from: [{source: {serviceAccounts: [caller]}}]}]
";
    [("pod.yaml", pod), ("policies.yaml", policies.to_owned())]
}

/// What grpc-go gets, by these files, of a server that has to be this.
async fn go(program: &OsString, agent: &Agent, at: SocketAddr, expected: &str) -> String {
    let mut command = Command::new(program);
    command.arg("-files").arg(agent.out.join("..data")).args(["-expect", expected, "-address"]);
    let output = command.arg(at.to_string()).kill_on_drop(true).output();
    let output = wait::within("the end of grpc-go", output).await.expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn c10_grpc_go_calls_a_strict_workload_with_the_agents_files() {
    let (Some(program), Some(python)) = (named("SIDEGATE_TEST_GRPC"), Python::find()) else { return };
    let sandbox = Sandbox::new();
    let (app, inbound, outbound) = (address(), address(), address());
    let inbound = SocketAddr::new(app.ip(), inbound.port());
    let _app = python.serve(&sandbox, "grpc/server.py", app, &[]).await;
    let manifests = manifests(app, inbound.port(), outbound.port());
    let plane = SecuredPlane::start(&sandbox, &manifests, &["--leaf-ttl", "60s"]).await;
    let sidecar = plane.proxy(&sandbox, "sidecar", "app").await;
    let (caller, other) = (plane.agent(&sandbox, "caller").await, plane.agent(&sandbox, "other").await);

    let good = go(&program, &caller, inbound, APP).await;
    assert!(good.contains("unary OK \"ping\"") && good.contains("stream OK"), "{good}");
    // The server is not who it should be: grpc-go does not speak to it.
    let wrong = go(&program, &caller, inbound, "spiffe://cluster.local/ns/shop/sa/nobody").await;
    assert!(wrong.contains("unary Unavailable") && wrong.contains("unexpected ID"), "{wrong}");
    // The client is known and not allowed.
    let denied = go(&program, &other, inbound, APP).await;
    assert!(
        denied.contains("unary PermissionDenied") && denied.contains("stream PermissionDenied"),
        "{denied}"
    );
    // The client is of another mesh.
    let elsewhere = Sandbox::new();
    let another = SecuredPlane::start(&elsewhere, &[], &[]).await;
    let stranger = another.agent(&elsewhere, "caller").await;
    std::fs::copy(caller.out.join("root-cert.pem"), stranger.out.join("..data/root-cert.pem")).unwrap();
    let refused = go(&program, &stranger, inbound, APP).await;
    assert!(refused.contains("unary Unavailable") && refused.contains("stream Unavailable"), "{refused}");
    // And nothing is served in the clear.
    assert!(client::try_call_over(client::Protocol::Http2, inbound, &ping()).await.is_err());
    let failed = sidecar.sum(|name| name.ends_with("ssl.fail_verify_error")).await;
    assert!(failed >= 1, "{failed}");
}

fn ping() -> Call {
    let call = Call::post("/shop.Shop/Buy", "\0\0\0\0\x04ping").host("app.shop");
    call.header("content-type", "application/grpc").header("te", "trailers")
}

/// A proxy with the identity `caller` that takes gRPC in the clear and calls a server which has to be `expected`.
async fn towards_grpc(
    plane: &SecuredPlane,
    account: &str,
    server: SocketAddr,
    (roots, expected): (&Path, &str),
) -> (Proxy, Sandbox) {
    let sandbox = Sandbox::new();
    let identity = plane.identity(&sandbox, account).await;
    let fields = json!({
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificate_sds_secret_configs": own(),
                "validation_context": {
                    "trusted_ca": {"filename": roots},
                    "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": expected}}],
                },
            },
        }},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}},
    });
    let gateway = Gateway::new()
        .cluster_with("app", &[server], &fields.to_string())
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
        .metadata(identity)
        .with_admin();
    (gateway.start(&sandbox).await, sandbox)
}

async fn answer(proxy: &Proxy) -> Response {
    client::call_over(client::Protocol::Http2, proxy.address, &ping()).await
}

#[tokio::test]
async fn c10_grpcio_serves_our_proxies_with_the_agents_files() {
    let Some(python) = Python::find() else { return };
    let sandbox = Sandbox::new();
    let plane = SecuredPlane::start(&sandbox, &[], &[]).await;
    let agent = plane.agent(&sandbox, "app").await;
    let (server, roots) = (address(), plane.root_file());
    let folder = agent.out.display().to_string();
    let _server = python.serve(&sandbox, "grpc/server.py", server, &[&folder, CALLER]).await;

    let (caller, _one) = towards_grpc(&plane, "caller", server, (&roots, APP)).await;
    let good = answer(&caller).await;
    assert_eq!((good.status, good.trailer("grpc-status")), (200, Some("0")), "{good:?}");
    assert_eq!(good.body, b"\0\0\0\0\x04ping");
    // The server has to be somebody else.
    let (expecting, _two) = towards_grpc(&plane, "caller", server, (&roots, CALLER)).await;
    let refused = answer(&expecting).await;
    assert_eq!(refused.header("grpc-status"), Some("14"), "{refused:?}");
    // The client is known and not whom the server serves: grpcio says so.
    let (other, _three) = towards_grpc(&plane, "other", server, (&roots, APP)).await;
    let denied = answer(&other).await;
    let status = denied.trailer("grpc-status").or(denied.header("grpc-status"));
    assert_eq!(status, Some("7"), "{denied:?}");
    // The client is of another mesh, and in the clear nothing is served.
    let elsewhere = Sandbox::new();
    let another = SecuredPlane::start(&elsewhere, &[], &[]).await;
    let (stranger, _four) = towards_grpc(&another, "caller", server, (&roots, APP)).await;
    assert_eq!(answer(&stranger).await.header("grpc-status"), Some("14"));
    assert!(client::try_call_over(client::Protocol::Http2, server, &ping()).await.is_err());
}
