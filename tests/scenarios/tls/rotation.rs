//! Certificates and roots that change while the proxy runs.

use std::path::Path;

use sidegate_tests::client::Http1;
use sidegate_tests::wait;

use super::*;

/// As [`showing`], from files.
fn from_files(chain: &Path, key: &Path) -> Value {
    json!({"common_tls_context": {"tls_certificates": [
        {"certificate_chain": {"filename": chain}, "private_key": {"filename": key}},
    ]}})
}

async fn shown(client: &Client, proxy: &Proxy) -> Option<rustls::pki_types::CertificateDer<'static>> {
    client.connect(proxy.address, "edge.test").await.ok().map(|connection| connection.certificate())
}

#[tokio::test]
async fn c10_good_pairs_are_taken_and_bad_ones_are_not() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let leaf = Leaf::dns(&["edge.test"]);
    let first = authority.issue(&leaf);
    let (chain, key) = first.write(&sandbox, "edge");
    let proxy = greeting().tls(from_files(&chain, &key)).start(&sandbox).await;
    let client = Client::new(&authority, None);
    let mut standing = client.connect(proxy.address, "edge.test").await.unwrap();
    assert_eq!(standing.certificate(), first.parts().0[0]);

    // Half written; the key of another; over already. Each is refused with words of its own, and the first pair stays.
    let (other, expired) = (authority.issue(&leaf), authority.issue(&leaf.clone().expired()));
    let log = || proxy.process.log();
    for (what, chain_text, key_text, word) in [
        (
            "half",
            &first.chain[..first.chain.len() / 2],
            &first.key,
            "certificate_chain: has no certificate in PEM form",
        ),
        ("other key", &first.chain, &other.key, "is not the key of the certificate"),
        ("expired", &expired.chain, &expired.key, "expired at"),
    ] {
        sandbox.write("edge.pem", chain_text);
        sandbox.write("edge.key", key_text);
        wait::until(&format!("{what} is refused"), async || log().contains(word).then_some(())).await;
        assert_eq!(shown(&client, &proxy).await.unwrap(), first.parts().0[0], "{what}");
    }
    // A good one, by a rename as editors do it.
    let second = authority.issue(&leaf);
    for (name, text) in [("edge.pem", &second.chain), ("edge.key", &second.key)] {
        let new = sandbox.write("new", text);
        std::fs::rename(new, sandbox.path().join(name)).unwrap();
    }
    wait::until("the second pair is shown", async || {
        (shown(&client, &proxy).await? == second.parts().0[0]).then_some(())
    })
    .await;
    // The connection from before knows nothing of it all.
    assert!(standing.get("edge.test", "/").await.unwrap().ends_with("hello"));
}

#[tokio::test]
async fn c10_kubernetes_swaps_its_link() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let leaf = Leaf::dns(&["edge.test"]);
    let pairs = [authority.issue(&leaf), authority.issue(&leaf)];
    for (index, pair) in pairs.iter().enumerate() {
        let folder = sandbox.path().join(format!("..{index}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("tls.crt"), &pair.chain).unwrap();
        std::fs::write(folder.join("tls.key"), &pair.key).unwrap();
    }
    let link =
        |target: &str, name: &str| std::os::unix::fs::symlink(target, sandbox.path().join(name)).unwrap();
    link("..0", "..data");
    link("..data/tls.crt", "tls.crt");
    link("..data/tls.key", "tls.key");
    let (chain, key) = (sandbox.path().join("tls.crt"), sandbox.path().join("tls.key"));
    let proxy = greeting().tls(from_files(&chain, &key)).start(&sandbox).await;
    let client = Client::new(&authority, None);
    assert_eq!(shown(&client, &proxy).await.unwrap(), pairs[0].parts().0[0]);
    link("..1", "..new");
    std::fs::rename(sandbox.path().join("..new"), sandbox.path().join("..data")).unwrap();
    wait::until("the second pair is shown", async || {
        (shown(&client, &proxy).await? == pairs[1].parts().0[0]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn c8_no_session_is_resumed_under_other_roots() {
    let sandbox = Sandbox::new();
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let pair = before.issue(&Leaf::dns(&["edge.test"]));
    let roots = sandbox.write("roots.pem", &before.pem);
    let mut context = requiring(&[&pair], &before);
    context["common_tls_context"]["validation_context"] = json!({"trusted_ca": {"filename": roots}});
    let proxy = greeting().tls(context).start(&sandbox).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        sandbox.write("roots.pem", &before.pem);
        let old = Client::with(&before, Some(&before.issue(&Leaf::uri("spiffe://td/old"))), &[version]);
        let new = Client::with(&before, Some(&after.issue(&Leaf::uri("spiffe://td/new"))), &[version]);
        wait::until("the old roots are in force", async || {
            old.get(proxy.address, "edge.test", "/").await.ok()
        })
        .await;
        // The same policy: resumed.
        let mut resumed = old.connect(proxy.address, "edge.test").await.unwrap();
        assert!(resumed.get("edge.test", "/").await.unwrap().ends_with("hello"));
        assert!(resumed.is_resumed());
        // Other roots: not even with a session from before.
        sandbox.write("roots.pem", &after.pem);
        wait::until("the new roots are in force", async || {
            new.get(proxy.address, "edge.test", "/").await.ok()
        })
        .await;
        let refused = old.get(proxy.address, "edge.test", "/").await;
        assert!(refused.is_err(), "{refused:?}");
    }
}

/// A listener of its own that shows this, beside that of [`greeting`].
fn beside(address: SocketAddr, context: Value) -> Value {
    let mut bootstrap = greeting().tls(context).bootstrap(address, None);
    let mut listener = bootstrap["static_resources"]["listeners"][0].take();
    listener["name"] = json!("strict");
    listener
}

#[tokio::test]
async fn c8_no_session_is_carried_to_a_listener_that_asks_for_certificates() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    // The same certificate and the same name, so that a client takes its session along.
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let strict = sidegate_tests::sandbox::address();
    let gateway = greeting().tls(showing(&[&pair]));
    let gateway = gateway.other_listener(beside(strict, requiring(&[&pair], &authority)));
    let proxy = gateway.with_admin().start(&sandbox).await;
    let own = authority.issue(&Leaf::uri("spiffe://td/ns/shop/sa/web"));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for shown in [None, Some(&own)] {
            let client = Client::with(&authority, shown, &[version]);
            for resumed in [false, true] {
                let mut open = client.connect(proxy.address, "edge.test").await.unwrap();
                assert!(open.get("edge.test", "/").await.unwrap().ends_with("hello"));
                assert_eq!(open.is_resumed(), resumed, "{version:?}");
            }
            let (mut taken_up, answer) = match client.connect(strict, "edge.test").await {
                Ok(mut there) => (there.is_resumed(), there.get("edge.test", "/").await),
                Err(error) => (false, Err(error)),
            };
            assert!(!taken_up, "{version:?}: a session of another policy");
            assert_eq!(answer.is_ok(), shown.is_some(), "{version:?}: {answer:?}");
            // And back: what the strict one gave is nothing to the open one.
            if shown.is_some() {
                let mut back = client.connect(proxy.address, "edge.test").await.unwrap();
                taken_up = back.is_resumed();
                assert!(back.get("edge.test", "/").await.unwrap().ends_with("hello") && !taken_up);
            }
        }
    }
    assert_eq!(proxy.stat("listener.strict.ssl.session_reused").await, 0);
}

#[tokio::test]
async fn a_new_client_certificate_serves_the_next_request() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let server = authority.issue(&Leaf::dns(&["app.test"]));
    let origin = secure::Origin::start("app", &server, Some(&authority)).await;
    let (chain, key) = authority.issue(&Leaf::uri("spiffe://td/first")).write(&sandbox, "own");
    let fields = json!({"sni": "app.test", "common_tls_context": {"tls_certificates": [
        {"certificate_chain": {"filename": chain}, "private_key": {"filename": key}},
    ]}});
    let proxy =
        originating(origin.address(), &trusting(&authority, fields)).with_admin().start(&sandbox).await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/").await.status, 200);
    }
    assert_eq!(origin.connections(), 1, "the connection is shared while nothing changes");
    let mut busy = Http1::connect(proxy.address).await.unwrap();
    busy.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    wait::until("the slow request", async || (origin.seen().len() == 4).then_some(())).await;
    assert_eq!(proxy.get("/").await.status, 200);
    assert_eq!(origin.connections(), 2, "one is busy");
    authority.issue(&Leaf::uri("spiffe://td/second")).write(&sandbox, "own");
    wait::until("another connection", async || {
        assert_eq!(proxy.get("/").await.status, 200);
        (origin.connections() > 2).then_some(())
    })
    .await;
    // What was busy meanwhile ends well, and its connection, which nothing may use any more, with it.
    let answer = wait::within("the slow answer", busy.response("GET")).await.unwrap();
    assert_eq!(answer.status, 200);
    wait::until_equal("connections", 1, async || counter(&proxy, "cluster.app.upstream_cx_active").await)
        .await;
}
