//! Termination.

use super::*;

#[tokio::test]
async fn both_versions_and_both_protocols_are_served() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let proxy = greeting().tls(showing(&[&pair])).start(&sandbox).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = Client::with(&authority, None, &[version]);
        let response = client.get(proxy.address, "edge.test", "/").await.unwrap();
        assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("hello"), "{response}");
        let h2 = client.clone().alpn(&["h2"]).connect(proxy.address, "edge.test").await.unwrap();
        assert_eq!(h2.alpn().as_deref(), Some("h2"));
    }
}

#[tokio::test]
async fn the_origin_hears_of_https() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let origin = Origin::named("app").await;
    let proxy = Gateway::to(&[origin.address()]).tls(showing(&[&pair])).start(&sandbox).await;
    let response = Client::new(&authority, None).get(proxy.address, "edge.test", "/").await.unwrap();
    assert!(response.ends_with("app"), "{response}");
    assert_eq!(origin.last().header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn c5_each_name_gets_its_certificate_and_unknown_ones_the_first() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let first = authority.issue(&Leaf::dns(&["first.test"]));
    let exact = authority.issue(&Leaf::dns(&["a.wild.test"]));
    let wild = authority.issue(&Leaf::dns(&["*.wild.test"]));
    let proxy = greeting().tls(showing(&[&first, &exact, &wild])).start(&sandbox).await;
    let client = Client::new(&authority, None);
    for (name, pair) in [("first.test", &first), ("a.wild.test", &exact), ("b.wild.test", &wild)] {
        let connection = client.connect(proxy.address, name).await.unwrap();
        assert_eq!(connection.certificate(), pair.parts().0[0], "{name}");
    }
    // One label and no more; the first one is shown, which this client does not take for the name it asked for.
    for name in ["a.b.wild.test", "wild.test", "unknown.test"] {
        let refused = client.connect(proxy.address, name).await.unwrap_err();
        assert!(refused.to_string().contains("first.test"), "{name}: {refused}");
    }
}

#[tokio::test]
async fn c4_strict_means_a_trusted_certificate_or_nothing() {
    let sandbox = Sandbox::new();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("ours"));
    let pair = ours.issue(&Leaf::dns(&["edge.test"]));
    let origin = Origin::named("app").await;
    let proxy =
        Gateway::to(&[origin.address()]).tls(requiring(&[&pair], &ours)).with_admin().start(&sandbox).await;
    let good = ours.issue(&Leaf::uri("spiffe://td/ns/shop/sa/web"));
    let response = Client::new(&ours, Some(&good)).get(proxy.address, "edge.test", "/").await.unwrap();
    assert!(response.ends_with("app"), "{response}");
    let before = origin.count();

    let strangers = [
        ("no certificate", None),
        ("another authority of the same name", Some(theirs.issue(&Leaf::uri("spiffe://td/ns/shop/sa/web")))),
        ("signed by itself", Some(self_signed(&Leaf::uri("spiffe://td/ns/shop/sa/web")))),
        ("expired", Some(ours.issue(&Leaf::uri("spiffe://td/a").expired()))),
        ("not valid yet", Some(ours.issue(&Leaf::uri("spiffe://td/a").future()))),
        ("for servers only", Some(ours.issue(&Leaf::uri("spiffe://td/a").only_server()))),
        ("an authority itself", Some(ours.issue(&Leaf::uri("spiffe://td/a").authority()))),
        ("with two identities", Some(ours.issue(&Leaf::uri("spiffe://td/a").and_uri("spiffe://td/b")))),
        ("whose key may not sign", Some(ours.issue(&Leaf::uri("spiffe://td/a").cannot_sign()))),
    ];
    for (what, pair) in &strangers {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let client = Client::with(&ours, pair.as_ref(), &[version]);
            let refused = client.get(proxy.address, "edge.test", "/").await;
            assert!(refused.is_err(), "{what}: {refused:?}");
        }
    }
    // Plaintext to a port with TLS.
    let plain =
        sidegate_tests::client::try_call(proxy.address, &sidegate_tests::message::Call::get("/")).await;
    assert!(plain.is_err(), "{plain:?}");
    assert_eq!(origin.count(), before, "the origin has seen nothing of it");
    assert_eq!(counter(&proxy, "listener.main.ssl.fail_verify_no_cert").await, 2);
    assert_eq!(counter(&proxy, "listener.main.ssl.fail_verify_error").await, 16);
    assert_eq!(counter(&proxy, "listener.main.ssl.handshake").await, 1);
}

#[tokio::test]
async fn c6_what_was_agreed_on_is_spoken() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let proxy = greeting().tls(showing(&[&pair])).start(&sandbox).await;
    let client = Client::new(&authority, None);
    // None offered: HTTP/1.1.
    let mut none = client.connect(proxy.address, "edge.test").await.unwrap();
    assert_eq!(none.alpn(), None);
    assert!(none.get("edge.test", "/").await.unwrap().starts_with("HTTP/1.1 200"));
    // Unknown ones only: no connection.
    let unknown = client.clone().alpn(&["spdy/3"]).connect(proxy.address, "edge.test").await.unwrap_err();
    assert!(unknown.to_string().contains("NoApplicationProtocol"), "{unknown}");
    // h2 agreed on, HTTP/1.1 sent: not served.
    let mut mixed = client.clone().alpn(&["h2"]).connect(proxy.address, "edge.test").await.unwrap();
    let answer = mixed.get("edge.test", "/").await.unwrap_or_default();
    assert!(!answer.contains("200 OK"), "{answer}");
    // http/1.1 agreed on, HTTP/2's preface sent: refused.
    let mut preface = client.clone().alpn(&["http/1.1"]).connect(proxy.address, "edge.test").await.unwrap();
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    preface.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    let _ = preface.stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.1 5"), "{answer:?}");
}

#[tokio::test]
async fn c5_a_host_with_another_certificate_is_misdirected() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let first = authority.issue(&Leaf::dns(&["first.test", "also-first.test"]));
    let second = authority.issue(&Leaf::dns(&["second.test"]));
    let proxy = greeting().tls(showing(&[&first, &second])).start(&sandbox).await;
    let client = Client::new(&authority, None);
    for (host, status) in [
        ("first.test", "200"),
        ("also-first.test", "200"),
        ("FIRST.test", "200"),
        ("nobody.test", "200"),
        ("second.test", "421"),
        ("second.test.", "421"),
        ("SECOND.test.:443", "421"),
    ] {
        let mut connection = client.connect(proxy.address, "first.test").await.unwrap();
        let response = connection.get(host, "/").await.unwrap();
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {response}");
    }
}

#[tokio::test]
async fn c5_a_host_whose_chain_asks_for_certificates_is_not_reached_through_another() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    // One certificate for both, so that only the chains tell them apart.
    let pair = authority.issue(&Leaf::dns(&["open.test", "strict.test"]));
    let kind = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    let socket = typed("envoy.transport_sockets.tls", kind, requiring(&[&pair], &authority));
    let criteria = "{server_names: [strict.test], application_protocols: [h2, http/1.1]}";
    let mut gateway = greeting().http_chain("{server_names: [open.test]}");
    gateway = gateway.http_chain(criteria).last_chain(json!({"transport_socket": socket}));
    let proxy = gateway.tls(showing(&[&pair])).start(&sandbox).await;
    let client = Client::new(&authority, None).alpn(&["http/1.1"]);
    assert!(client.get(proxy.address, "strict.test", "/").await.is_err(), "it has no certificate");
    for (host, status) in [("open.test", "200"), ("strict.test", "421"), ("strict.test.", "421")] {
        let mut connection = client.connect(proxy.address, "open.test").await.unwrap();
        let response = connection.get(host, "/").await.unwrap();
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {response}");
    }
}

#[tokio::test]
async fn c13_who_is_revoked_is_refused_and_so_is_everybody_by_a_list_that_is_over() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let good = authority.issue(&Leaf::uri("spiffe://td/good"));
    let revoked = authority.issue(&Leaf::uri("spiffe://td/revoked"));
    for (list, lets_good_in) in
        [(authority.revoke(&[&revoked]), true), (authority.revoke_until(&[&revoked], 2025), false)]
    {
        let mut context = requiring(&[&pair], &authority);
        context["common_tls_context"]["validation_context"]["crl"] = json!({"inline_string": list});
        let proxy = greeting().tls(context).start(&sandbox).await;
        let get =
            async |shown| Client::new(&authority, Some(shown)).get(proxy.address, "edge.test", "/").await;
        assert!(get(&revoked).await.is_err());
        assert_eq!(get(&good).await.is_ok_and(|response| response.ends_with("hello")), lets_good_in);
    }
}

#[tokio::test]
async fn c5_a_server_name_may_be_required() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["first.test"]));
    let mut context = showing(&[&pair]);
    context["require_sni"] = json!(true);
    let proxy = greeting().tls(context).start(&sandbox).await;
    let with = Client::new(&authority, None).get(proxy.address, "first.test", "/").await.unwrap();
    assert!(with.ends_with("hello"), "{with}");
    let program = "openssl s_client -connect ADDRESS -noservername -quiet </dev/null"
        .replace("ADDRESS", &proxy.address.to_string());
    let output = std::process::Command::new("sh").args(["-c", &program]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() || text.contains("reset") || text.contains("errno"), "{output:?}");
}

#[tokio::test]
async fn c9_slow_handshakes_are_cut() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let chain = json!({"transport_socket_connect_timeout": "1s"});
    let proxy = greeting().tls(showing(&[&pair])).chain(chain).with_admin().start(&sandbox).await;
    let mut slow = Vec::new();
    for number in 0..100 {
        let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        // Nothing, the beginning of a record, or the beginning of a ClientHello.
        let beginning: &[u8] = match number % 3 {
            0 => b"",
            1 => b"\x16\x03\x01",
            _ => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaa",
        };
        stream.write_all(beginning).await.unwrap();
        slow.push(stream);
    }
    // Others are served meanwhile.
    let client = Client::new(&authority, None);
    for _ in 0..10 {
        assert!(client.get(proxy.address, "edge.test", "/").await.unwrap().ends_with("hello"));
    }
    for mut stream in slow {
        let mut rest = Vec::new();
        let ended =
            sidegate_tests::wait::within("the end of a slow handshake", stream.read_to_end(&mut rest)).await;
        // An alert or nothing; never a page.
        assert!(ended.is_err() || rest.len() < 64, "{rest:?}");
    }
    assert_eq!(counter(&proxy, "listener.main.ssl.handshake_timeout").await, 100);
}

#[tokio::test]
async fn the_next_hop_hears_of_the_client_certificate_only_from_us() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::uri("spiffe://td/ns/edge/sa/edge"));
    let own = authority.issue(&Leaf::dns(&["edge.test"]).and_uri("spiffe://td/ns/edge/sa/edge"));
    let caller = authority.issue(&Leaf::uri("spiffe://td/ns/shop/sa/web"));
    drop(pair);
    let origin = Origin::named("app").await;
    let fields = "{forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {subject: true, uri: true}}";
    let proxy = Gateway::to(&[origin.address()])
        .http(fields)
        .tls(requiring(&[&own], &authority))
        .start(&sandbox)
        .await;
    let mut connection =
        Client::new(&authority, Some(&caller)).connect(proxy.address, "edge.test").await.unwrap();
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let request = "GET / HTTP/1.1\r\nhost: edge.test\r\nx-forwarded-client-cert: Hash=beef;URI=spiffe://td/admin\r\nconnection: close\r\n\r\n";
    connection.stream.write_all(request.as_bytes()).await.unwrap();
    connection.stream.read_to_end(&mut Vec::new()).await.unwrap();
    let told = origin.last().header("x-forwarded-client-cert").unwrap_or_default().to_owned();
    assert!(told.starts_with("By=spiffe://td/ns/edge/sa/edge;Hash="), "{told}");
    assert!(
        told.ends_with(";Subject=\"CN=spiffe://td/ns/shop/sa/web\";URI=spiffe://td/ns/shop/sa/web"),
        "{told}"
    );
    assert!(!told.contains("beef") && !told.contains("admin"), "{told}");
    // Without TLS nothing is known, and nothing a client says of it is passed on.
    let plain = Gateway::to(&[origin.address()]).start(&Sandbox::new()).await;
    let call = sidegate_tests::message::Call::get("/").header("x-forwarded-client-cert", "Hash=beef");
    assert_eq!(plain.call(&call).await.status, 200);
    assert_eq!(origin.last().header("x-forwarded-client-cert"), None);
}

#[tokio::test]
async fn pages_show_certificates_and_never_keys() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let proxy = greeting().tls(requiring(&[&pair], &authority)).with_admin().start(&sandbox).await;
    let certs = proxy.admin("/certs").await.text();
    assert!(certs.contains("edge.test") && certs.contains("ca_cert"), "{certs}");
    let dump = proxy.admin("/config_dump").await.text();
    assert!(dump.contains("[redacted]") && dump.contains("BEGIN CERTIFICATE"), "{dump}");
    let secret = pair.key.lines().nth(1).unwrap();
    assert!(!dump.contains("PRIVATE KEY") && !dump.contains(secret), "a key is in the dump");
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains("sidegate_certificate_expiry_seconds{source=\"<inline>\"}"), "{metrics}");
}
