//! Who is revoked while connections are open (battery C13): they end, new ones are refused, and nobody else notices.

use std::time::Duration;

use sidegate_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::mesh::{downstream, mutual, validator};
use super::*;

/// A GET on a connection that stays open.
async fn ask(connection: &mut secure::Connection) -> std::io::Result<String> {
    connection.stream.write_all(b"GET / HTTP/1.1\r\nhost: edge.test\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"app") {
        let mut byte = [0];
        if connection.stream.read(&mut byte).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Until the other end closes or resets.
async fn ended(connection: &mut secure::Connection) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PROMPT, connection.stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "it is still open");
}

/// Within 5 seconds of the list being in force; files are looked at every two.
const PROMPT: Duration = Duration::from_secs(8);

#[tokio::test]
async fn c13_connections_of_the_revoked_end_and_all_others_stay() {
    let sandbox = Sandbox::new();
    let (authority, next) = (Authority::new("mesh"), Authority::new("next"));
    let app = Origin::named("app").await;
    let server = authority.issue(&Leaf::dns(&["edge.test"]).and_uri("spiffe://td/edge"));
    let list = sandbox.write("crl.pem", &authority.revoke(&[]));
    let roots = sandbox.write("roots.pem", &authority.pem);
    let mut validation = validator(&authority);
    validation["typed_config"]["trust_domains"][0]["trust_bundle"] = json!({"filename": roots});
    let mut context = mutual(&server, &authority, &["http/1.1"]);
    context["common_tls_context"]["validation_context"] =
        json!({"custom_validator_config": validation, "crl": {"filename": list}});
    let http = Gateway::to(&[app.address()])
        .chain(downstream(context.clone()))
        .with_admin()
        .start(&Sandbox::new())
        .await;
    let tcp = Gateway::opaque(&[app.address()])
        .chain(downstream(context))
        .with_admin()
        .start(&Sandbox::new())
        .await;
    let bad = authority.issue(&Leaf::uri("spiffe://td/bad"));
    let good = authority.issue(&Leaf::uri("spiffe://td/good"));
    let mut open = Vec::new();
    for pair in [&bad, &good] {
        for proxy in [&http, &tcp] {
            let mut connection =
                Client::new(&authority, Some(pair)).connect(proxy.address, "edge.test").await.unwrap();
            ask(&mut connection).await.unwrap();
            open.push(connection);
        }
    }
    let [mut bad_http, mut bad_tcp, mut good_http, mut good_tcp] =
        <[secure::Connection; 4]>::try_from(open).ok().unwrap();
    // Another root, and somebody else's serial: nothing ends.
    sandbox.write("roots.pem", &format!("{}{}", authority.pem, next.pem));
    let nobody = authority.issue(&Leaf::uri("spiffe://td/nobody"));
    sandbox.write("crl.pem", &authority.revoke(&[&nobody]));
    let newcomer = next.issue(&Leaf::uri("spiffe://td/new"));
    wait::until("the new root is in force", async || {
        Client::new(&authority, Some(&newcomer)).get(http.address, "edge.test", "/").await.ok()
    })
    .await;
    for connection in [&mut bad_http, &mut bad_tcp, &mut good_http, &mut good_tcp] {
        ask(connection).await.unwrap();
    }
    assert_eq!(http.stat("listener.main.ssl.peer_revoked").await, 0);

    sandbox.write("crl.pem", &authority.revoke(&[&bad, &nobody]));
    tokio::join!(ended(&mut bad_http), ended(&mut bad_tcp));
    for connection in [&mut good_http, &mut good_tcp] {
        ask(connection).await.unwrap();
    }
    for proxy in [&http, &tcp] {
        assert!(Client::new(&authority, Some(&bad)).get(proxy.address, "edge.test", "/").await.is_err());
        wait::until_equal("ended", 1, async || proxy.stat("listener.main.ssl.peer_revoked").await).await;
        assert_eq!(proxy.stat("listener.main.ssl.fail_verify_revoked").await, 1);
        let page = proxy.admin("/metrics").await.text();
        assert!(page.contains("peer_revoked"), "{page}");
    }
}

#[tokio::test]
async fn c13_what_a_revoked_client_asks_is_cut() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("mesh");
    let gate = sidegate_tests::origin::Gate::new();
    let held = gate.clone();
    let app = Origin::http1(move |_| sidegate_tests::origin::Answer::text("app").after(&held)).await;
    let server = authority.issue(&Leaf::uri("spiffe://td/app"));
    let list = sandbox.write("crl.pem", &authority.revoke(&[]));
    let mut context = mutual(&server, &authority, &["h2"]);
    context["common_tls_context"]["validation_context"]["crl"] = json!({"filename": list});
    let inbound =
        Gateway::to(&[app.address()]).chain(downstream(context)).with_admin().start(&Sandbox::new()).await;
    let own = authority.issue(&Leaf::uri("spiffe://td/web"));
    let kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let context = json!({"common_tls_context": {
        "tls_certificates": [own.inline()], "alpn_protocols": ["istio", "h2"],
        "validation_context": {"custom_validator_config": validator(&authority)},
    }});
    let fields = json!({
        "transport_socket": typed("envoy.transport_sockets.tls", kind, context),
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
    });
    let outbound = originating(inbound.address, &fields.to_string()).start(&Sandbox::new()).await;
    let waiting = async {
        let response = outbound.get("/").await;
        assert!(response.status >= 500, "{response:?}");
    };
    let revoking = async {
        wait::until("the request has come", async || (app.count() == 1).then_some(())).await;
        sandbox.write("crl.pem", &authority.revoke(&[&own]));
    };
    let both = tokio::time::timeout(PROMPT, async { tokio::join!(waiting, revoking) }).await;
    assert!(both.is_ok(), "the request is still under way");
    // The next one finds nobody who lets it in.
    gate.open();
    let response = outbound.get("/").await;
    assert!(response.status >= 500, "{response:?}");
    assert_eq!(inbound.stat("listener.main.ssl.peer_revoked").await, 1);
    assert!(inbound.stat("listener.main.ssl.fail_verify_revoked").await >= 1);
    assert_eq!(app.count(), 1);
}

#[tokio::test]
async fn c13_revoked_endpoints_get_nothing_more() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("mesh");
    let server = authority.issue(&Leaf::uri("spiffe://td/app"));
    let origin = secure::Origin::start("app", &server, None).await;
    let list = sandbox.write("crl.pem", &authority.revoke(&[]));
    let kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let context = json!({"common_tls_context": {"validation_context": {
        "custom_validator_config": validator(&authority), "crl": {"filename": list},
    }}});
    let fields = json!({"transport_socket": typed("envoy.transport_sockets.tls", kind, context)}).to_string();
    // Their logs are read: each in a folder of its own, which stays.
    let folders = (Sandbox::new(), Sandbox::new());
    let http = originating(origin.address(), &fields).with_admin().start(&folders.0).await;
    let tcp = Gateway::new()
        .cluster_with("app", &[origin.address()], &fields)
        .opaque_chain("{}", "app")
        .start(&folders.1)
        .await;
    assert_eq!(http.get("/").await.text(), "app");
    let mut relayed = sidegate_tests::client::Http1::connect(tcp.address).await.unwrap();
    let call = sidegate_tests::message::Call::get("/");
    assert_eq!(relayed.call(&call).await.unwrap().text(), "app");
    // Others are revoked: both connections stay.
    let other = authority.issue(&Leaf::uri("spiffe://td/other"));
    sandbox.write("crl.pem", &authority.revoke(&[&other]));
    for proxy in [&http, &tcp] {
        wait::until("the list is in force", async || {
            proxy.process.log().contains("in force from now on").then_some(())
        })
        .await;
    }
    assert_eq!(relayed.call(&call).await.unwrap().text(), "app");
    assert_eq!(http.get("/").await.text(), "app");

    sandbox.write("crl.pem", &authority.revoke(&[&server]));
    let rest = tokio::time::timeout(PROMPT, relayed.rest()).await;
    assert!(rest.is_ok(), "the relayed connection is still open");
    let response = wait::until("it is refused", async || {
        let response = http.get("/").await;
        (response.status == 503).then_some(response)
    })
    .await;
    assert!(response.header("x-sidegate-reason").is_some_and(|why| why.starts_with("upstream_tls_failure")));
    wait::until_equal("pooled connections", 0, async || http.stat("cluster.app.upstream_cx_active").await)
        .await;
}

#[tokio::test]
async fn c13_denied_identities_are_refused_on_either_side() {
    let authority = Authority::new("mesh");
    let app = Origin::named("app").await;
    let server = authority.issue(&Leaf::dns(&["edge.test"]).and_uri("spiffe://td/app"));
    let denied = json!({"filter_metadata": {"sidegate": {"denied_identities": ["spiffe://td/bad", "spiffe://td/app"]}}});
    let proxy = Gateway::to(&[app.address()])
        .listener(&json!({"metadata": denied}).to_string())
        .chain(downstream(mutual(&server, &authority, &["http/1.1"])))
        .with_admin()
        .start(&Sandbox::new())
        .await;
    let get = async |id: &str| {
        let pair = authority.issue(&Leaf::uri(id));
        Client::new(&authority, Some(&pair)).get(proxy.address, "edge.test", "/").await
    };
    assert!(get("spiffe://td/good").await.unwrap().ends_with("app"));
    assert!(get("spiffe://td/bad").await.is_err());
    assert!(get("spiffe://td/bad2").await.unwrap().ends_with("app"));
    assert_eq!(proxy.stat("listener.main.ssl.fail_verify_revoked").await, 1);
    let origin = secure::Origin::start("app", &server, None).await;
    let kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let context = json!({"common_tls_context": {"validation_context": {
        "custom_validator_config": validator(&authority),
    }}});
    let socket = typed("envoy.transport_sockets.tls", kind, context);
    for (metadata, status) in [(json!({}), 200), (denied, 503)] {
        let fields = json!({"transport_socket": socket, "metadata": metadata}).to_string();
        let proxy = originating(origin.address(), &fields).start(&Sandbox::new()).await;
        assert_eq!(proxy.get("/").await.status, status);
    }
}
