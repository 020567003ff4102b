//! What stands when rules change: connections, handshakes, tunnels and relays that were let in by others.

use std::net::SocketAddr;

use sidegate_tests::ads::Ads;
use sidegate_tests::certificates::{Authority, Leaf};
use sidegate_tests::frames::{Raw, code, get, kind};
use sidegate_tests::origin::{Answer, Gate};
use sidegate_tests::process::{Process, program};
use sidegate_tests::sandbox::address;
use sidegate_tests::secure;
use sidegate_tests::switch::Switch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A proxy that is told its one listener, and told another later.
struct Stage {
    gateway: Gateway,
    at: SocketAddr,
    ads: Ads,
    _proxy: Process,
    _sandbox: Sandbox,
}

impl Stage {
    /// Connections that should end have three seconds.
    async fn start(gateway: Gateway) -> Self {
        let (sandbox, at) = (Sandbox::new(), address());
        let ads = Ads::start(&[listener(&gateway, at)]).await;
        let mut bootstrap = gateway.bootstrap(at, None);
        bootstrap["static_resources"]["listeners"] = json!([]);
        let config = sandbox.write("ads.json", &ads.bootstrap(bootstrap).to_string());
        let config = config.display().to_string();
        let flags = ["-c", &config, "--drain-time-s", "3"].map(str::to_owned);
        let proxy = Process::start(&sandbox, "proxy", &program("sidegate-proxy"), flags);
        ads.accepted(1).await;
        wait::until("it listens", async || tokio::net::TcpStream::connect(at).await.ok()).await;
        Self { gateway, at, ads, _proxy: proxy, _sandbox: sandbox }
    }

    /// The listener changed so is in force.
    async fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut listener = listener(&self.gateway, self.at);
        change(&mut listener["filter_chains"][0]);
        self.ads.accepted(self.ads.push(&[listener])).await;
    }

    /// Nobody in the clear is let in any more.
    async fn secure(&self) {
        let (authority, leaf) = (Authority::new("mesh"), Leaf::uri("spiffe://td/app"));
        let pair = authority.issue(&leaf);
        self.change(|chain| chain["transport_socket"] = tls(&pair, &authority)).await;
    }
}

fn listener(gateway: &Gateway, at: SocketAddr) -> Value {
    gateway.bootstrap(at, None)["static_resources"]["listeners"][0].take()
}

/// Mutual TLS.
fn tls(pair: &sidegate_tests::certificates::Pair, clients: &Authority) -> Value {
    let context = json!({"require_client_certificate": true, "common_tls_context": {
        "tls_certificates": [pair.inline()],
        "validation_context": {"trusted_ca": {"inline_string": clients.pem}},
    }});
    let kind = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    typed("envoy.transport_sockets.tls", kind, context)
}

fn deny(chain: &mut Value) {
    let filters = chain["filters"].as_array_mut().expect("filters");
    filters.insert(0, network_filter(rules("DENY", "p", any(), any())));
}

/// How a stream ended: its status, or the code of its reset.
async fn outcome(raw: &mut Raw, stream: u32) -> Result<u16, u32> {
    loop {
        let frame = wait::within("an answer", raw.next_of(stream)).await.expect("the connection is open");
        match frame.kind {
            kind::HEADERS => return Ok(frame.status().expect("a status")),
            kind::RST_STREAM => return Err(frame.code().expect("a code")),
            _ => {}
        }
    }
}

/// A client of HTTP/2 with one request under way, whose answer waits for the gate, and that answers no ping.
async fn busy(at: SocketAddr, origin: &Origin) -> Raw {
    let mut raw = Raw::connect(at, &[]).await.expect("a connection");
    raw.send(&get(1, "/held")).await.expect("it is open");
    wait::until("the request has come", async || (origin.count() == 1).then_some(())).await;
    raw
}

async fn held() -> (Gate, Origin) {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |received| match received.target.as_str() {
        "/held" => Answer::text("late").after(&held),
        _ => Answer::text("app"),
    })
    .await;
    (gate, origin)
}

#[tokio::test]
async fn f11_a_client_that_never_leaves_gets_nothing_more_when_its_chain_is_gone() {
    let (_gate, origin) = held().await;
    let stage = Stage::start(Gateway::to(&[origin.address()])).await;
    let mut raw = busy(stage.at, &origin).await;
    raw.send(&get(3, "/")).await.unwrap();
    assert_eq!(outcome(&mut raw, 3).await, Ok(200));
    stage.secure().await;
    let mut stream = 5;
    wait::until("streams are not served at all", async || {
        raw.send(&get(stream, "/")).await.expect("the connection is open");
        let outcome = outcome(&mut raw, stream).await;
        stream += 2;
        assert!(matches!(outcome, Ok(421) | Err(code::REFUSED_STREAM)), "{outcome:?}");
        outcome.is_err().then_some(())
    })
    .await;
    let (_, closed) = raw.rest(wait::DEADLINE).await;
    assert!(closed, "the stream that is under way keeps it open");
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn f11_what_is_on_its_way_when_a_chain_goes_is_judged_by_what_takes_its_place() {
    let (gate, origin) = held().await;
    let stage = Stage::start(Gateway::to(&[origin.address()])).await;
    let mut raw = busy(stage.at, &origin).await;
    let denied = http_filter(json!({"rules": rules("DENY", "p", path_prefix("/no"), any())}));
    let list = json!([denied, router()]);
    stage
        .change(|chain| {
            chain["filter_chain_match"] = json!({"transport_protocol": "raw_buffer"});
            chain["filters"][0]["typed_config"]["http_filters"] = list;
        })
        .await;
    for (stream, path, wanted) in [(3, "/yes", 200), (5, "/no", 403)] {
        raw.send(&get(stream, path)).await.unwrap();
        assert_eq!(outcome(&mut raw, stream).await, Ok(wanted), "{path}");
    }
    gate.open();
    assert_eq!(outcome(&mut raw, 1).await, Ok(200));
}

#[tokio::test]
async fn f11_who_need_not_show_a_certificate_before_must_now() {
    let (_gate, origin) = held().await;
    let authority = Authority::new("mesh");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let with = |required: bool| {
        let mut socket = tls(&pair, &authority);
        socket["typed_config"]["require_client_certificate"] = json!(required);
        socket
    };
    let stage =
        Stage::start(Gateway::to(&[origin.address()]).chain(json!({"transport_socket": with(false)}))).await;
    let own = authority.issue(&Leaf::uri("spiffe://td/client"));
    let mut nobody = secure::Client::new(&authority, None).connect(stage.at, "edge.test").await.unwrap();
    let mut known = secure::Client::new(&authority, Some(&own)).connect(stage.at, "edge.test").await.unwrap();
    for connection in [&mut nobody, &mut known] {
        connection.stream.write_all(b"GET / HTTP/1.1\r\nhost: edge.test\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"app") {
            assert_ne!(connection.stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    }
    stage.change(|chain| chain["transport_socket"] = with(true)).await;
    let answers = (nobody.get("edge.test", "/").await, known.get("edge.test", "/").await);
    assert!(answers.0.is_err() || answers.0.as_ref().is_ok_and(|text| text.contains(" 421 ")), "{answers:?}");
    // What this one has shown is still enough; unless it was too late to say so.
    assert!(answers.1.as_ref().is_ok_and(|text| text.contains(" 200 ")) || answers.1.is_err(), "{answers:?}");
    assert!(origin.count() <= 3);
}

#[tokio::test]
async fn f11_tunnels_and_relays_end_some_time_after_their_chain() {
    let origin = Switch::agreeing().await;
    let http = Gateway::to(&[origin.address()]).http("{upgrade_configs: [{upgrade_type: websocket}]}");
    for gateway in [http, Gateway::opaque(&[origin.address()])] {
        let stage = Stage::start(gateway).await;
        let mut client = Http1::connect(stage.at).await.unwrap();
        let ask = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        client.send(ask.as_bytes()).await.unwrap();
        assert_eq!(wait::within("101", client.response("GET")).await.unwrap().status, 101);
        stage.secure().await;
        let ended = async {
            while client.send(b"ping").await.is_ok() && client.read(4).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        wait::within("the end", ended).await;
    }
}

#[tokio::test]
async fn f11_a_relay_that_is_denied_by_now_ends() {
    let origin = Origin::named("app").await;
    let stage = Stage::start(Gateway::opaque(&[origin.address()])).await;
    let mut client = Http1::connect(stage.at).await.unwrap();
    assert_eq!(client.call(&Call::get("/")).await.unwrap().status, 200);
    // Other rules that let it through do it no harm.
    stage
        .change(|chain| {
            let nobody = json!({"source_ip": {"address_prefix": "192.0.2.1", "prefix_len": 32}});
            let filters = chain["filters"].as_array_mut().unwrap();
            filters.insert(0, network_filter(rules("DENY", "p", any(), nobody)));
        })
        .await;
    assert_eq!(client.call(&Call::get("/")).await.unwrap().status, 200);
    stage.change(deny).await;
    let rest = wait::within("the end", client.rest()).await;
    assert!(rest.is_ok_and(|rest| rest.is_empty()) || client.call(&Call::get("/")).await.is_err());
    assert_eq!(origin.count(), 2);
}

/// A client that has sent its ClientHello, and what it does when it goes on: whether it gets an answer.
struct Slow(rustls::ClientConnection, std::net::TcpStream);

impl Slow {
    async fn start(at: SocketAddr, authority: &Authority) -> Self {
        let pair = authority.issue(&Leaf::uri("spiffe://td/client"));
        let (chain, key) = pair.parts();
        let builder = rustls::ClientConfig::builder_with_provider(secure::provider());
        let builder = builder.with_safe_default_protocol_versions().expect("as the test has it");
        let config = builder
            .with_root_certificates(secure::roots(&[authority]))
            .with_client_auth_cert(chain, key)
            .expect("as the test has it");
        let name = "edge.test".try_into().expect("as the test has it");
        let mut session =
            rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("as the test has it");
        let mut stream = std::net::TcpStream::connect(at).expect("as the test has it");
        stream.set_read_timeout(Some(wait::DEADLINE)).expect("as the test has it");
        session.write_tls(&mut stream).expect("as the test has it");
        // The other side has made its choice when it answers.
        let mut byte = [0];
        wait::until("an answer", async || stream.peek(&mut byte).is_ok().then_some(())).await;
        Self(session, stream)
    }

    fn go_on(mut self) -> String {
        let mut text = String::new();
        let asked = self.0.complete_io(&mut self.1).and_then(|_| {
            let mut stream = rustls::Stream::new(&mut self.0, &mut self.1);
            let ask = b"GET / HTTP/1.1\r\nhost: edge.test\r\nconnection: close\r\n\r\n";
            std::io::Write::write_all(&mut stream, ask)?;
            std::io::Read::read_to_string(&mut stream, &mut text)
        });
        drop(asked);
        text
    }
}

#[tokio::test]
async fn f11_a_handshake_held_open_is_judged_when_it_is_done() {
    let origin = Origin::named("app").await;
    let authority = Authority::new("mesh");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let gateway =
        Gateway::opaque(&[origin.address()]).chain(json!({"transport_socket": tls(&pair, &authority)}));
    let stage = Stage::start(gateway).await;
    let (first, second) = (Slow::start(stage.at, &authority).await, Slow::start(stage.at, &authority).await);
    let asked = tokio::task::spawn_blocking(|| first.go_on()).await.unwrap();
    assert!(asked.starts_with("HTTP/1.1 200"), "{asked}");
    stage.change(deny).await;
    let asked = tokio::task::spawn_blocking(|| second.go_on()).await.unwrap();
    assert_eq!((asked.as_str(), origin.count()), ("", 1));
    // The same when the chain is gone.
    stage.change(|_| ()).await;
    let third = Slow::start(stage.at, &authority).await;
    let other = authority.issue(&Leaf::dns(&["other.test"]));
    stage.change(|chain| chain["transport_socket"] = tls(&other, &authority)).await;
    let asked = tokio::task::spawn_blocking(|| third.go_on()).await.unwrap();
    assert_eq!((asked.as_str(), origin.count()), ("", 1));
}
