//! Between proxies: mutual TLS by identity, told from an application's own TLS and from plaintext on one port.

use std::time::Duration;

use sidegate_tests::client;
use sidegate_tests::message::Call;
use sidegate_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;

/// What a chain for mesh traffic matches.
const MESH: &str = "{transport_protocol: tls, application_protocols: [istio, istio-peer-exchange, istio-http/1.0, istio-http/1.1, istio-h2]}";
const INBOUND: &str = "{traffic_direction: INBOUND, listener_filters: [{name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]}";

/// `SPIFFECertValidatorConfig` with one trust domain.
pub(super) fn validator(authority: &Authority) -> Value {
    json!({
        "name": "envoy.tls.cert_validator.spiffe",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
            "trust_domains": [{"name": "td", "trust_bundle": {"inline_string": authority.pem}}],
        },
    })
}

/// What a proxy of the mesh shows, and whom it lets in.
pub(super) fn mutual(own: &Pair, authority: &Authority, alpn: &[&str]) -> Value {
    json!({
        "require_client_certificate": true,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "tls_certificates": [own.inline()],
            "alpn_protocols": alpn,
            "validation_context": {"custom_validator_config": validator(authority)},
        },
    })
}

pub(super) fn downstream(context: Value) -> Value {
    let kind = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    json!({"transport_socket": typed("envoy.transport_sockets.tls", kind, context)})
}

/// A socket that accepts exactly this id.
fn towards(id: &str, own: &Pair, alpn: &[&str]) -> Value {
    let kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let context = json!({"common_tls_context": {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
        "tls_certificates": [own.inline()],
        "alpn_protocols": alpn,
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": id}}],
            },
            "validation_context_sds_secret_config": {"name": "ROOTCA"},
        },
    }});
    typed("envoy.transport_sockets.tls", kind, context)
}

/// The secret that every socket of [`towards`] is made of.
fn rootca(authority: &Authority) -> Value {
    json!([{"name": "ROOTCA", "validation_context": {"custom_validator_config": validator(authority)}}])
}

/// An endpoint, and the identity that it is known by.
fn endpoint(address: SocketAddr, identity: Option<&str>) -> Value {
    let mut endpoint = json!({"endpoint": {"address": sidegate_tests::gateway::socket(address)}});
    if let Some(identity) = identity {
        endpoint["metadata"] =
            json!({"filter_metadata": {"envoy.transport_socket_match": {"identity": identity}}});
    }
    endpoint
}

/// Fields of a cluster: these endpoints, and TLS for each of these identities.
fn cluster(endpoints: &[Value], identities: &[(&str, Value)], http2: bool) -> String {
    let matches: Vec<_> = identities
        .iter()
        .map(|(id, socket)| json!({"name": id, "match": {"identity": id}, "transport_socket": socket}))
        .collect();
    let mut fields = json!({
        "type": "STATIC",
        "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": endpoints}]},
        "transport_socket_matches": matches,
    });
    if http2 {
        fields["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    fields.to_string()
}

const WEB: &str = "spiffe://td/ns/shop/sa/web";
const APP: &str = "spiffe://td/ns/shop/sa/app";

/// A proxy that sends everything to an endpoint which has to be [`APP`].
async fn outbound(sandbox: &Sandbox, authority: &Authority, endpoint_: Value, http2: bool) -> Proxy {
    let own = authority.issue(&Leaf::uri(WEB));
    let alpn = if http2 { ["istio", "h2"] } else { ["istio", "http/1.1"] };
    let fields = cluster(&[endpoint_], &[(APP, towards(APP, &own, &alpn))], http2);
    Gateway::new()
        .cluster_with("app", &[], &fields)
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
        .secrets(rootca(authority))
        .with_admin()
        .start(sandbox)
        .await
}

/// A request by a client of the application's own TLS, until the answer ends so: the application keeps its connection open.
async fn ask_by_own_tls(public: &Authority, address: SocketAddr, end: &[u8]) {
    let client = Client::new(public, None).alpn(&["http/1.1"]);
    let mut connection = client.connect(address, "app.test").await.expect("its own certificate");
    let request = b"GET / HTTP/1.1\r\nhost: app.test\r\n\r\n";
    connection.stream.write_all(request).await.expect("it listens");
    let mut response = Vec::new();
    while !response.ends_with(end) {
        response.push(wait::within("the answer", connection.stream.read_u8()).await.expect("an answer"));
    }
}

#[tokio::test]
async fn c4_a_permissive_port_takes_mesh_tls_the_apps_own_tls_and_plaintext() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("mesh");
    let public = Authority::new("public");
    let app = Origin::named("app").await;
    let own_tls = secure::Origin::start("by itself", &public.issue(&Leaf::dns(&["app.test"])), None).await;
    let server = authority.issue(&Leaf::uri(APP));
    let inbound = Gateway::new()
        .cluster("app", &[app.address()])
        .cluster("own", &[own_tls.address()])
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
        .listener(INBOUND)
        .http_chain(MESH)
        .last_chain(downstream(mutual(&server, &authority, &["h2", "http/1.1"])))
        .opaque_chain("{transport_protocol: tls}", "own")
        .http_chain("{transport_protocol: raw_buffer}")
        .with_admin()
        .start(&sandbox)
        .await;
    // The mesh, over either version.
    for http2 in [false, true] {
        let sandbox = Sandbox::new();
        let outbound = outbound(&sandbox, &authority, endpoint(inbound.address, Some(APP)), http2).await;
        for _ in 0..2 {
            let response = outbound.get("/").await;
            assert_eq!((response.status, response.text().as_str()), (200, "app"), "{http2}: {response:?}");
        }
        let page = outbound.admin("/metrics").await.text();
        let series = page.lines().find(|line| line.starts_with("istio_requests_total{")).unwrap();
        for label in [
            format!("source_principal=\"{WEB}\""),
            format!("destination_principal=\"{APP}\""),
            "connection_security_policy=\"unknown\"".to_owned(),
        ] {
            assert!(series.contains(&label), "{label}: {series}");
        }
        let clusters = outbound.admin("/clusters").await.text();
        assert!(clusters.contains(&format!("::transport_socket::{APP}\n")), "{clusters}");
    }
    // The application's own TLS, untouched.
    ask_by_own_tls(&public, inbound.address, b"by itself").await;
    assert_eq!(own_tls.seen().last().unwrap().server_name.as_deref(), Some("app.test"));
    // Plaintext.
    assert_eq!(inbound.get("/").await.text(), "app");
    let page = inbound.admin("/metrics").await.text();
    let with = |labels: &[&str]| {
        page.lines()
            .filter(|line| line.starts_with("istio_requests_total{"))
            .any(|line| labels.iter().all(|label| line.contains(label)))
    };
    assert!(
        with(&[
            "connection_security_policy=\"mutual_tls\"",
            &format!("source_principal=\"{WEB}\""),
            &format!("destination_principal=\"{APP}\""),
        ]),
        "{page}"
    );
    assert!(with(&["connection_security_policy=\"none\"", "source_principal=\"unknown\""]), "{page}");
    // The start's probe is one of them.
    assert!(inbound.stat("listener.main.downstream_cx_unsecured").await >= 2);
}

#[tokio::test]
async fn c4_a_strict_port_takes_mesh_tls_alone() {
    let sandbox = Sandbox::new();
    let (authority, public) = (Authority::new("mesh"), Authority::new("public"));
    let app = Origin::named("app").await;
    let server = authority.issue(&Leaf::uri(APP));
    let inbound = Gateway::to(&[app.address()])
        .listener(INBOUND)
        .http_chain(MESH)
        .last_chain(downstream(mutual(&server, &authority, &["h2", "http/1.1"])))
        .with_admin()
        .start(&sandbox)
        .await;
    let mesh = outbound(&Sandbox::new(), &authority, endpoint(inbound.address, Some(APP)), true).await;
    assert_eq!(mesh.get("/").await.text(), "app");
    let before = (app.count(), inbound.stat("listener.main.no_filter_chain_match").await);
    // Plaintext, the mesh's own proxy without knowing better, foreign TLS with and without a certificate of the mesh.
    assert!(client::try_call(inbound.address, &Call::get("/")).await.is_err());
    let plain = outbound(&Sandbox::new(), &authority, endpoint(inbound.address, None), true).await;
    assert!(plain.get("/").await.status >= 500);
    let web = authority.issue(&Leaf::uri(WEB));
    for (trusts, pair) in [(&public, None), (&authority, Some(&web))] {
        let foreign = Client::new(trusts, pair).alpn(&["h2", "http/1.1"]);
        assert!(foreign.get(inbound.address, "app.test", "/").await.is_err());
    }
    // One that offers the mesh's protocols and shows nothing.
    let nobody = sclient(inbound.address, &["-alpn", "istio,http/1.1"]).await;
    assert!(!nobody.contains("200 OK"), "{nobody}");
    assert_eq!(app.count(), before.0, "the application has seen nothing of it");
    let refused = inbound.stat("listener.main.no_filter_chain_match").await - before.1;
    assert!(refused >= 4, "{refused}");
    assert_eq!(inbound.stat("listener.main.ssl.fail_verify_no_cert").await, 1);
    let reasons = inbound.admin("/metrics").await.text();
    assert!(reasons.contains("no_filter_chain"), "{reasons}");
}

/// What `openssl s_client` gets for a GET with these arguments, and what it says.
async fn sclient(address: SocketAddr, arguments: &[&str]) -> String {
    let mut all = vec!["s_client".to_owned(), "-connect".to_owned(), address.to_string()];
    all.extend(["-ign_eof"].iter().chain(arguments).map(|argument| (*argument).to_owned()));
    // The origin behind the proxy is in this thread.
    let running = tokio::task::spawn_blocking(move || openssl(all));
    wait::within("openssl", running).await.expect("openssl is installed")
}

fn openssl(arguments: Vec<String>) -> String {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut input = child.stdin.take().expect("a pipe");
    // It may have ended before.
    let _ = input.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn openssl_is_a_peer_of_the_mesh_on_either_side() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("mesh");
    let app = Origin::named("app").await;
    let server = authority.issue(&Leaf::uri(APP));
    let inbound = Gateway::to(&[app.address()])
        .listener(INBOUND)
        .http_chain(MESH)
        .last_chain(downstream(mutual(&server, &authority, &["h2", "http/1.1"])))
        .start(&sandbox)
        .await;
    let (chain, key) = authority.issue(&Leaf::uri(WEB)).write(&sandbox, "web");
    let (chain, key) = (chain.display().to_string(), key.display().to_string());
    let pair = ["-cert", chain.as_str(), "-key", key.as_str()];
    for (alpn, text) in [
        ("istio,http/1.1", "ALPN protocol: http/1.1"),
        ("istio,h2", "ALPN protocol: h2"),
        ("istio", "no application protocol"),
    ] {
        let answer = sclient(inbound.address, &[&pair[..], &["-alpn", alpn]].concat()).await;
        assert!(answer.contains(text), "{alpn}: {answer}");
        assert_eq!(answer.contains("200 OK"), alpn.ends_with("1.1"), "{alpn}: {answer}");
    }
    // As a server: what it agrees on is spoken or refused.
    for (alpn, agrees) in [("http/1.1", true), ("h2", false), ("istio", false)] {
        let (chain, key) = authority.issue(&Leaf::uri(APP)).write(&sandbox, "app");
        let address = sidegate_tests::sandbox::address();
        let program = format!(
            "exec openssl s_server -accept {address} -cert {} -key {} -alpn {alpn} -www -tls1_3",
            chain.display(),
            key.display()
        );
        let mut child = std::process::Command::new("sh")
            .args(["-c", &program])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("openssl is installed");
        wait::until("openssl listens", async || TcpStream::connect(address).await.ok()).await;
        let proxy = outbound(&Sandbox::new(), &authority, endpoint(address, Some(APP)), false).await;
        let response = proxy.get("/").await;
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        assert_eq!(response.status == 200, agrees, "{alpn}: {response:?}");
    }
}

#[tokio::test]
async fn c12_each_endpoint_is_spoken_to_as_what_it_is() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("mesh");
    let plain = Origin::named("plain").await;
    let app = Origin::named("app").await;
    let server = authority.issue(&Leaf::uri(APP));
    let inbound = Gateway::to(&[app.address()])
        .listener(INBOUND)
        .http_chain(MESH)
        .last_chain(downstream(mutual(&server, &authority, &["h2", "http/1.1"])))
        .start(&sandbox)
        .await;
    let own = authority.issue(&Leaf::uri(WEB));
    let other = "spiffe://td/ns/shop/sa/other";
    let alpn = ["istio", "http/1.1"];
    let identities = [(APP, towards(APP, &own, &alpn)), (other, towards(other, &own, &alpn))];
    let start = async |endpoints: &[Value]| {
        Gateway::new()
            .cluster_with("app", &[], &cluster(endpoints, &identities, false))
            .routes("[{match: {prefix: /}, route: {cluster: app}}]")
            .secrets(rootca(&authority))
            .with_admin()
            .start(&Sandbox::new())
            .await
    };
    // One cluster: TLS to one endpoint, plaintext to the other.
    let proxy = start(&[endpoint(inbound.address, Some(APP)), endpoint(plain.address(), None)]).await;
    let mut answers = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let response = proxy.get("/").await;
        assert_eq!(response.status, 200, "{response:?}");
        answers.insert(response.text());
    }
    assert_eq!(answers, ["app".to_owned(), "plain".to_owned()].into());
    // Somebody else than expected behind the address: nothing is sent.
    let before = app.count();
    let proxy = start(&[endpoint(inbound.address, Some(other))]).await;
    let response = proxy.get("/").await;
    assert_eq!(response.status, 503, "{response:?}");
    assert!(response.header("x-sidegate-reason").is_some_and(|why| why.starts_with("upstream_tls_failure")));
    // Plaintext where TLS is chosen: nothing is sent either.
    let proxy = start(&[endpoint(plain.address(), Some(APP))]).await;
    let count = plain.count();
    assert_eq!(proxy.get("/").await.status, 503);
    assert_eq!((app.count(), plain.count()), (before, count));
}

#[allow(clippy::too_many_lines, reason = "one table, read from top to bottom")]
#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once_through_both_proxies() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("mesh");
    let greeter = TcpListener::bind(sidegate_tests::sandbox::address()).await.unwrap();
    let address = greeter.local_addr().unwrap();
    let greeting = tokio::spawn(async move {
        loop {
            let (mut stream, _) = greeter.accept().await.unwrap();
            tokio::spawn(async move {
                // An error is a client that has gone.
                let _ = stream.write_all(b"220 hello\r\n").await;
                let mut word = [0; 5];
                if stream.read_exact(&mut word).await.is_ok() {
                    let _ = stream.write_all(&word).await;
                }
            });
        }
    });
    let server = authority.issue(&Leaf::uri(APP));
    let inbound = Gateway::new()
        .cluster("app", &[address])
        .listener(INBOUND)
        .opaque_chain(MESH, "app")
        .last_chain(downstream(mutual(&server, &authority, &["istio"])))
        .opaque_chain("{transport_protocol: tls}", "app")
        .opaque_chain("{transport_protocol: raw_buffer}", "app")
        .with_admin()
        .start(&sandbox)
        .await;
    let own = authority.issue(&Leaf::uri(WEB));
    let socket = towards(APP, &own, &["istio"]);
    let fields = cluster(&[endpoint(inbound.address, Some(APP))], &[(APP, socket)], false);
    let outbound = Gateway::new()
        .cluster_with("app", &[], &fields)
        .opaque_chain("{}", "app")
        .secrets(rootca(&authority))
        .with_admin()
        .start(&Sandbox::new())
        .await;
    // Through the mesh at once; around it, a silent client on a port that is inspected, within moments.
    for (proxy, bound) in [(&outbound, Duration::from_secs(1)), (&inbound, Duration::from_secs(2))] {
        let started = Instant::now();
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let mut word = [0; 11];
        let greeted = wait::within("the greeting", stream.read_exact(&mut word)).await;
        if let Err(error) = greeted {
            let story = proxy.admin("/why").await.text();
            panic!("{error}: {story}\n{}", inbound.admin("/why").await.text());
        }
        assert_eq!(&word, b"220 hello\r\n");
        assert!(started.elapsed() < bound, "{:?}", started.elapsed());
        stream.write_all(b"quit\n").await.unwrap();
        let mut echo = [0; 5];
        wait::within("the echo", stream.read_exact(&mut echo)).await.unwrap();
        assert_eq!(&echo, b"quit\n");
    }
    let page = wait::until("the series", async || {
        let page = inbound.admin("/metrics").await.text();
        let mutual = page.lines().any(|line| {
            line.starts_with("istio_tcp_connections_closed_total{")
                && line.contains("connection_security_policy=\"mutual_tls\"")
                && line.contains(&format!("source_principal=\"{WEB}\""))
        });
        mutual.then_some(page)
    })
    .await;
    assert!(page.contains("connection_security_policy=\"none\""), "{page}");
    greeting.abort();
}

#[tokio::test]
async fn c5_the_apps_own_chain_misdirects_no_request_of_the_mesh() {
    let sandbox = Sandbox::new();
    let (authority, public) = (Authority::new("mesh"), Authority::new("public"));
    let app = Origin::named("app").await;
    let server = authority.issue(&Leaf::uri(APP));
    let edge = public.issue(&Leaf::dns(&["app.test"]));
    let inbound = Gateway::to(&[app.address()])
        .listener(INBOUND)
        .http_chain(MESH)
        .last_chain(downstream(mutual(&server, &authority, &["h2", "http/1.1"])))
        .http_chain("{transport_protocol: tls}")
        .last_chain(downstream(showing(&[&edge])))
        .start(&sandbox)
        .await;
    let mesh = outbound(&Sandbox::new(), &authority, endpoint(inbound.address, Some(APP)), true).await;
    let response = mesh.call(&Call::get("/").host("app.test")).await;
    assert_eq!((response.status, response.text().as_str()), (200, "app"), "{response:?}");
    let response = Client::new(&public, None).get(inbound.address, "app.test", "/").await.unwrap();
    assert!(response.ends_with("app"), "{response}");
}
