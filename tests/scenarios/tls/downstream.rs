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
    assert_eq!(counter(&proxy, "listener.main.ssl.fail_verify_error").await, 14);
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
