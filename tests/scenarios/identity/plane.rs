//! The stream to the control plane over TLS, and the roots that come by it.

use sidegate_tests::gateway::{socket, typed};
use sidegate_tests::issuer::NAME;
use sidegate_tests::process::{Process, program};
use sidegate_tests::sandbox::address;
use sidegate_xds::envoy::config::listener::v3::Listener;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::Secret;
use sidegate_xds::json::{Descriptors, Format};
use sidegate_xds::resource::to_any;

use super::*;

/// A bootstrap that knows the control plane, which is the issuer, and nothing else.
fn bootstrap(issuer: &Issuer, sandbox: &Sandbox, admin: std::net::SocketAddr, server_name: &str) -> Value {
    let (root, _) = issuer.files(sandbox);
    let context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": server_name,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": own(),
            "validation_context": {"trusted_ca": {"filename": root}},
        },
    });
    json!({
        "node": {"id": "sidecar~web.shop", "metadata": issuer.identity(sandbox)},
        "admin": {"address": socket(admin)},
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
            "cds_config": {"ads": {}}, "lds_config": {"ads": {}},
        },
        "static_resources": {"clusters": [{
            "name": "xds", "type": "STATIC", "connect_timeout": "2s",
            "load_assignment": {"cluster_name": "xds", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": socket(issuer.address)}}]}]},
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        }]},
    })
}

fn start(sandbox: &Sandbox, bootstrap: &Value) -> Process {
    let config = sandbox.write("bootstrap.json", &bootstrap.to_string()).display().to_string();
    Process::start(sandbox, "proxy", &program("sidegate-proxy"), ["-c", &config, "--concurrency", "1"])
}

/// A listener that says `hello` over mutual TLS; whom it trusts comes by the stream.
fn listener(name: &str, at: std::net::SocketAddr) -> Value {
    let roots = json!({"name": "ROOTCA", "sds_config": {"ads": {}, "resource_api_version": "V3"}});
    let context = json!({"require_client_certificate": true, "common_tls_context": {
        "tls_certificate_sds_secret_configs": own(),
        "validation_context_sds_secret_config": roots,
    }});
    let kind = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    let mut plain = Gateway::new()
        .routes("[{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: hello}}}]")
        .bootstrap(at, None);
    let mut listener = plain["static_resources"]["listeners"][0].take();
    listener["name"] = json!(name);
    listener["filter_chains"][0]["transport_socket"] = typed("envoy.transport_sockets.tls", kind, context);
    listener
}

fn put_listener(issuer: &Issuer, name: &str, at: std::net::SocketAddr) {
    let text = listener(name, at).to_string();
    let listener: Listener =
        Descriptors::load().expect("descriptors").decode(&text, Format::Json).expect("a listener");
    issuer.plane().put(name, to_any(&listener));
}

/// `ROOTCA` with these roots of the own trust domain, the first of which signs now.
fn put_roots(issuer: &Issuer, authorities: &[&Authority]) {
    let pem: String = authorities.iter().map(|authority| authority.pem.as_str()).collect();
    let validator = json!({"name": "envoy.tls.cert_validator.spiffe", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
        "trust_domains": [
            {"name": "other.test", "trust_bundle": {"inline_string": Authority::new("other").pem}},
            {"name": "td", "trust_bundle": {"inline_string": pem}},
        ],
    }});
    let text = json!({"name": "ROOTCA", "validation_context": {"custom_validator_config": validator}});
    let secret: Secret =
        Descriptors::load().expect("descriptors").decode(&text.to_string(), Format::Json).expect("a secret");
    issuer.plane().put("ROOTCA", to_any(&secret));
}

#[tokio::test]
async fn c10_the_root_that_signs_now_is_followed_over_the_stream() {
    let sandbox = Sandbox::new();
    let (old, new) = (Arc::new(Authority::new("old")), Arc::new(Authority::new("new")));
    let mut issuer =
        Issuer::start_with(WEB, Duration::from_secs(3_600), vec![old.clone(), new.clone()]).await;
    let (one, two, admin) = (address(), address(), address());
    put_listener(&issuer, "one", one);
    put_listener(&issuer, "two", two);
    put_roots(&issuer, &[&old]);
    let process = start(&sandbox, &bootstrap(&issuer, &sandbox, admin, NAME));
    let by_old = client(&old);
    for address in [one, two] {
        wait::until("a handshake", async || by_old.get(address, HOST, "/").await.ok()).await;
    }
    let streams = issuer.plane().streams();
    assert!(streams[0].certificate && streams[0].token.is_none(), "certificate first, then the stream");
    assert_eq!(issuer.asked().len(), 1);
    // Nobody is ever asked for the proxy's own certificate but the authority.
    let asked = streams.iter().flat_map(|stream| &stream.requests);
    let mut names = asked.flat_map(|request| &request.resource_names_subscribe);
    assert!(names.all(|name| name != "default"));

    // Two listeners share the secret: one acknowledgement, and it is in force in both by then.
    let secrets = |issuer: &Issuer| issuer.plane().verdicts("Secret");
    wait::until("an acknowledgement", async || (secrets(&issuer) == (1, vec![])).then_some(())).await;
    let by_new = Client::new(&old, Some(&new.issue(&Leaf::uri("spiffe://td/ns/shop/sa/new")))).any_name();
    assert!(by_new.get(one, HOST, "/").await.is_err());
    put_roots(&issuer, &[&old, &new]);
    wait::until("an acknowledgement", async || (secrets(&issuer).0 == 2).then_some(())).await;
    for address in [one, two] {
        by_new.get(address, HOST, "/").await.expect("in force when acknowledged");
    }
    assert_eq!(issuer.asked().len(), 1, "the old root signs still");

    // The other one signs now: everybody renews soon, at a leaf's age of seconds instead of half an hour.
    issuer.sign_with(&new);
    put_roots(&issuer, &[&new, &old]);
    let sees_new = client(&new);
    wait::until("a leaf of the new root", async || sees_new.get(one, HOST, "/").await.ok()).await;
    sees_new.get(two, HOST, "/").await.expect("in both listeners");
    let asked = issuer.asked();
    assert!(asked.len() == 2 && asked[1].certificate && asked[1].token.is_none(), "{asked:?}");

    // The server goes and comes: the next stream shows the new leaf.
    let before = issuer.plane().streams().len();
    issuer.stop();
    issuer.start_again().await;
    wait::until("another stream", async || (issuer.plane().streams().len() > before).then_some(())).await;
    let last = issuer.plane().streams().pop().unwrap();
    assert!(last.certificate && last.token.is_none());
    assert_eq!(secrets(&issuer).1, Vec::<String>::new());
    assert!(!process.log().contains("PRIVATE"));
}

#[tokio::test]
async fn c10_a_control_plane_of_another_name_is_not_spoken_to() {
    let sandbox = Sandbox::new();
    let issuer = Issuer::start(WEB, Duration::from_secs(3_600)).await;
    let admin = address();
    let process = start(&sandbox, &bootstrap(&issuer, &sandbox, admin, "other.sidegate-system.svc"));
    wait::until("a refusal", async || {
        let log = process.log();
        let line = log.lines().find(|line| line.contains("cannot reach the control plane"))?.to_owned();
        assert!(line.contains("expected other.sidegate-system.svc") && line.contains("trusted_ca"), "{line}");
        Some(())
    })
    .await;
    assert!(issuer.plane().streams().is_empty());
}

#[tokio::test]
async fn c10_an_authority_that_is_away_at_the_start_is_waited_for() {
    let sandbox = Sandbox::new();
    let mut issuer = Issuer::start(WEB, Duration::from_secs(3_600)).await;
    issuer.stop();
    let (at, admin) = (address(), address());
    put_listener(&issuer, "one", at);
    put_roots(&issuer, &[&issuer.authority()]);
    let bootstrap = bootstrap(&issuer, &sandbox, admin, NAME);
    let _process = start(&sandbox, &bootstrap);
    let ready = async || {
        let call = sidegate_tests::message::Call::get("/ready").host(&admin.to_string());
        sidegate_tests::client::try_call(admin, &call).await.ok()
    };
    wait::until("/ready says what it waits for", async || {
        let text = ready().await?.text();
        (text.contains("waiting for a certificate from") && text.contains("refused")).then_some(())
    })
    .await;
    issuer.start_again().await;
    wait::until("ready", async || (ready().await?.status == 200).then_some(())).await;
    client(&issuer.authority()).get(at, HOST, "/").await.expect("a handshake");
}
