//! `sidegate agent`: the same certificate for data planes that are not ours.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sidegate_tests::plane::DataPlane;
use sidegate_tests::process::{Process, program, run};
use sidegate_tests::sandbox::address;
use tokio::process::Command;

use super::*;

fn flags(issuer: &Issuer, sandbox: &Sandbox) -> Vec<String> {
    let (root, token) = issuer.files(sandbox);
    let path = |path: &Path| path.display().to_string();
    let (socket, out) = (sandbox.path().join("sds.sock"), sandbox.path().join("out"));
    let flags = [
        "agent",
        "--ca-address",
        &issuer.address.to_string(),
        "--root-file",
        &path(&root),
        "--token-file",
        &path(&token),
        "--sds-socket",
        &path(&socket),
        "--out",
        &path(&out),
    ];
    flags.map(str::to_owned).to_vec()
}

fn start(issuer: &Issuer, sandbox: &Sandbox) -> Process {
    Process::start(sandbox, "agent", &program("sidegate"), flags(issuer, sandbox))
}

async fn shell(command: String) -> String {
    let output = Command::new("sh").args(["-c", &command]).kill_on_drop(true).output();
    let output = wait::within("openssl", output).await.expect("a shell");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn an_agent_keeps_files_that_belong_together() {
    let sandbox = Sandbox::new();
    let issuer = Issuer::start(WEB, Duration::from_secs(6)).await;
    let _agent = start(&issuer, &sandbox);
    let out = sandbox.path().join("out");
    wait::until("the files", async || out.join("key.pem").exists().then_some(())).await;
    let mode = std::fs::metadata(out.join("key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let folder = out.display();
    let verified =
        shell(format!("openssl verify -CAfile {folder}/root-cert.pem {folder}/cert-chain.pem")).await;
    assert!(verified.contains("cert-chain.pem: OK"), "{verified}");
    // Whoever reads both through one generation gets a pair, over several renewals.
    let mut seen = std::collections::BTreeSet::new();
    wait::until("renewals", async || {
        let generation = std::fs::canonicalize(out.join("..data")).ok()?;
        let (chain, key) = (generation.join("cert-chain.pem"), generation.join("key.pem"));
        let modulus =
            |what: &str, path: &Path| format!("openssl {what} -in {} -pubout 2>/dev/null", path.display());
        let certificate = shell(format!("openssl x509 -in {} -noout -pubkey", chain.display())).await;
        let public = shell(modulus("pkey", &key)).await;
        assert_eq!(certificate, public);
        assert!(public.contains("BEGIN PUBLIC KEY"), "{public}");
        seen.insert(public);
        (seen.len() >= 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agents_socket_is_its_own() {
    let sandbox = Sandbox::new();
    let issuer = Issuer::start(WEB, Duration::from_secs(60)).await;
    let path = sandbox.path().join("sds.sock");
    let mut agent = start(&issuer, &sandbox);
    let serves = async || tokio::net::UnixStream::connect(&path).await.ok();
    wait::until("the socket", serves).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = run("sidegate", flags(&issuer, &sandbox)).await;
    assert_eq!(second.code, Some(2), "{}", second.err);
    assert!(second.err.contains("another agent serves it"), "{}", second.err);
    // Killed, it leaves its socket behind; the next one takes the place.
    agent.kill().await;
    assert!(path.exists() && serves().await.is_none());
    let mut agent = start(&issuer, &sandbox);
    wait::until("the socket again", serves).await;
    agent.terminate();
    assert_eq!(agent.ended().await.code(), Some(0));
    assert!(!path.exists(), "in order, it takes its socket along");
    // Mistakes are one line each.
    let wrong =
        ["agent", "--ca-address", "nowhere", "--root-file", "/none", "--token-file", "/none", "--out", "x"];
    let ended = run("sidegate", wrong).await;
    assert_eq!((ended.code, ended.err.lines().count()), (Some(2), 3), "{}", ended.err);
    assert!(ended.err.contains("--ca-address: expected HOST:PORT"), "{}", ended.err);
}

/// An Envoy that takes plaintext and speaks mutual TLS to `upstream`, and the other way round on `inbound`, all by the agent's SDS.
fn envoy(agent: &Path, outbound: std::net::SocketAddr, upstream: std::net::SocketAddr, admin: u16) -> Value {
    let roots = json!({"name": "ROOTCA", "sds_config": own()[0]["sds_config"]});
    let context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": own(),
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"exact": WEB}}]},
                "validation_context_sds_secret_config": roots,
            },
        },
    });
    let mut bootstrap = Gateway::new()
        .cluster_with(
            "app",
            &[upstream],
            &json!({"transport_socket": {
            "name": "envoy.transport_sockets.tls", "typed_config": context}})
            .to_string(),
        )
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
        .bootstrap(outbound, Some(([127, 0, 0, 1], admin).into()));
    bootstrap["node"] = json!({"id": "envoy", "cluster": "envoy"});
    let sds = json!({
        "name": "sds-grpc", "type": "STATIC", "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}},
        "load_assignment": {"cluster_name": "sds-grpc", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"pipe": {"path": agent.display().to_string()}}}}]}]},
    });
    bootstrap["static_resources"]["clusters"].as_array_mut().expect("clusters").push(sds);
    bootstrap
}

#[tokio::test]
async fn c10_an_envoy_is_a_mesh_peer_by_our_agent() {
    let Some(DataPlane::Envoy(program)) = DataPlane::envoy() else { return };
    let (own_side, other_side) = (Sandbox::new(), Sandbox::new());
    let issuer = Issuer::start(WEB, Duration::from_secs(6)).await;
    let _agent = start(&issuer, &other_side);
    let proxy = greeting(&issuer, &own_side).start(&own_side).await;
    let outbound = address();
    let bootstrap = envoy(
        &other_side.path().join("sds.sock"),
        outbound,
        proxy.address,
        sidegate_tests::sandbox::local_port(),
    );
    let config = other_side.write("envoy.json", &bootstrap.to_string()).display().to_string();
    let flags = ["-c", &config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"];
    let _envoy = Process::start(&other_side, "envoy", &program, flags);
    let call = sidegate_tests::message::Call::get("/");
    wait::until("an answer through Envoy", async || {
        let answer = sidegate_tests::client::try_call(outbound, &call).await.ok()?;
        (answer.status == 200 && answer.text() == "hello").then_some(())
    })
    .await;
    // Over several leaves on both sides, nothing fails.
    let load = sidegate_tests::load::Load::start(outbound, 50, call);
    let renewed = issuer.asked().len() + 4;
    wait::until("renewals", async || (issuer.asked().len() >= renewed).then_some(())).await;
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
    assert!(counts.good > 50, "{}", counts.good);
}
