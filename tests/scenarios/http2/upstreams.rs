//! B15: endpoints that go away, refuse, limit, push, fall silent. What was provably not processed is sent again, also a POST; a shared
//! connection is not spoilt for the others.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sidegate_tests::client::{Http1, Http2, Protocol, call_over};
use sidegate_tests::frames::{Frame, Raw, code, data, flag, frame, goaway, kind, literal, ok, reset};
use sidegate_tests::gateway::Gateway;
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Stage;

/// An endpoint played by hand: each connection, from 1, by script.
pub(super) struct Played {
    pub(super) address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
    connections: Arc<AtomicUsize>,
}

impl Played {
    pub(super) async fn start<F, P>(settings: &'static [(u16, u32)], play: F) -> Self
    where
        F: Fn(usize, Raw) -> P + Send + 'static,
        P: Future<Output = Option<()>> + Send + 'static,
    {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let task = tokio::spawn(async move {
            let mut playing = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                if let Ok(raw) = Raw::accept(socket, settings).await {
                    playing.spawn(play(number, raw));
                }
            }
        });
        Self { address, task, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The next frame that ends a request; pings are answered on the way.
pub(super) async fn request_end(raw: &mut Raw) -> Option<Frame> {
    loop {
        let next = raw.next().await?;
        match next.kind {
            kind::PING if next.flags & flag::ACK == 0 => {
                raw.send(&frame(kind::PING, flag::ACK, 0, &next.payload)).await.ok()?;
            }
            kind::HEADERS | kind::DATA if next.flags & flag::END_STREAM != 0 => return Some(next),
            _ => {}
        }
    }
}

fn answer(stream: u32, text: &str) -> Vec<u8> {
    [ok(stream, flag::NONE), data(stream, flag::END_STREAM, text.as_bytes())].concat()
}

/// Answers everything.
async fn serve(mut raw: Raw, text: &'static str) -> Option<()> {
    loop {
        let end = request_end(&mut raw).await?;
        raw.send(&answer(end.stream, text)).await.ok()?;
    }
}

async fn posts(address: std::net::SocketAddr, count: usize) -> Vec<(u16, String)> {
    let client = Arc::new(Http2::connect(address).await.expect("the proxy listens"));
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let client = client.clone();
        calls.spawn(async move {
            let response = client.call(&Call::post("/", "x")).await.expect("a response");
            (response.status, response.text())
        });
    }
    wait::within("every answer", calls.join_all()).await
}

#[tokio::test]
async fn b15_goaway_mid_stream() {
    let sandbox = Sandbox::new();
    let endpoint = Played::start(&[], async |number, mut raw: Raw| {
        if number > 1 {
            return serve(raw, "second").await;
        }
        let mut streams = Vec::new();
        while streams.len() < 3 {
            streams.push(request_end(&mut raw).await?.stream);
        }
        streams.sort_unstable();
        // The first one finishes; the others were never looked at.
        raw.send(&goaway(streams[0], code::NO_ERROR)).await.ok()?;
        raw.send(&answer(streams[0], "first")).await.ok()?;
        while raw.next().await.is_some() {}
        Some(())
    })
    .await;
    let proxy = Gateway::to_http2(&[endpoint.address]).start(&sandbox).await;
    let mut answers = posts(proxy.address, 3).await;
    answers.sort();
    let expected = [(200, "first".to_owned()), (200, "second".to_owned()), (200, "second".to_owned())];
    assert_eq!(answers, expected);
    assert_eq!(endpoint.connections(), 2);
}

#[tokio::test]
async fn b15_refused_streams_are_sent_again() {
    let sandbox = Sandbox::new();
    let endpoint = Played::start(&[], async |_, mut raw: Raw| {
        let mut seen = 0;
        loop {
            let end = request_end(&mut raw).await?;
            seen += 1;
            let bytes =
                if seen <= 2 { reset(end.stream, code::REFUSED_STREAM) } else { answer(end.stream, "ok") };
            raw.send(&bytes).await.ok()?;
        }
    })
    .await;
    let proxy = Gateway::to_http2(&[endpoint.address]).start(&sandbox).await;
    assert_eq!(posts(proxy.address, 1).await, [(200, "ok".to_owned())]);
    assert_eq!(endpoint.connections(), 1);
}

/// Refuses every stream, and counts them.
async fn refusing() -> (Played, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let played = Played::start(&[], move |_, mut raw: Raw| {
        let seen = seen.clone();
        async move {
            loop {
                let end = request_end(&mut raw).await?;
                seen.fetch_add(1, Ordering::Relaxed);
                raw.send(&reset(end.stream, code::REFUSED_STREAM)).await.ok()?;
            }
        }
    })
    .await;
    (played, count)
}

/// The pool's own retries are three for a request, not three for each retry of the policy.
#[tokio::test]
async fn b15_refused_streams_are_sent_again_within_bounds() {
    for retries in [0, 2, 5] {
        let sandbox = Sandbox::new();
        let (endpoint, count) = refusing().await;
        let policy = format!("retry_policy: {{retry_on: refused-stream, num_retries: {retries}}}");
        let policy = if retries == 0 { String::new() } else { policy };
        let proxy = Gateway::new()
            .cluster_http2("app", &[endpoint.address])
            .routes(&format!("[{{match: {{prefix: /}}, route: {{cluster: app, {policy}}}}}]"))
            .with_admin()
            .start(&sandbox)
            .await;
        let response = proxy.get("/").await;
        assert!(response.status >= 502, "{response:?}");
        assert_eq!(count.load(Ordering::Relaxed), 1 + 3 + retries);
        let page = proxy.admin("/stats/prometheus").await.text();
        let counted = page
            .lines()
            .find(|line| line.starts_with("envoy_cluster_upstream_rq_retry{"))
            .unwrap_or_default();
        assert!(counted.ends_with(&format!(" {}", 3 + retries)), "{counted}");
    }
}

/// Who refuses on a new connection is asked no more by this request while there is another endpoint.
#[tokio::test]
async fn b15_another_endpoint_is_asked_after_a_refusal() {
    let sandbox = Sandbox::new();
    let (endpoint, count) = refusing().await;
    let other = Origin::http2(|_| Answer::text("other")).await;
    let proxy = Gateway::to_http2(&[endpoint.address, other.address()]).start(&sandbox).await;
    for _ in 0..20 {
        let response = proxy.call(&Call::post("/", "x")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "other"), "{response:?}");
    }
    assert!(count.load(Ordering::Relaxed) <= 20, "{count:?}");
}

/// One malformed answer ends its connection. What else was under way there was not refused, and nobody asked for it to be sent again.
#[tokio::test]
async fn b15_a_malformed_answer_is_the_endpoints_fault() {
    let sandbox = Sandbox::new();
    let endpoint = Played::start(&[], async |number, mut raw: Raw| {
        if number > 1 {
            return serve(raw, "again").await;
        }
        let first = request_end(&mut raw).await?.stream;
        raw.send(&answer(first, "first")).await.ok()?;
        let (one, _) = (request_end(&mut raw).await?.stream, request_end(&mut raw).await?.stream);
        let mut block = vec![0x88];
        literal(0x00, b"x-bad", b"a\0b", &mut block);
        raw.send(&frame(kind::HEADERS, flag::END_HEADERS, one, &block)).await.ok()?;
        while raw.next().await.is_some() {}
        Some(())
    })
    .await;
    let proxy = Gateway::to_http2(&[endpoint.address]).start(&sandbox).await;
    assert_eq!(proxy.get("/").await.text(), "first");
    let (one, two) =
        wait::within("both", Box::pin(async { tokio::join!(proxy.get("/"), proxy.get("/")) })).await;
    for response in [one, two] {
        let reason = response.reason().map(|(reason, _)| reason);
        assert_eq!((response.status, reason), (502, Some("upstream_protocol_error")), "{response:?}");
    }
    assert_eq!(endpoint.connections(), 1);
    assert_eq!(proxy.get("/").await.text(), "again");
}

#[tokio::test]
async fn b15_an_early_response_is_kept() {
    let sandbox = Sandbox::new();
    let endpoint = Played::start(&[], async |_, mut raw: Raw| {
        loop {
            let next = raw.next().await?;
            if next.kind == kind::HEADERS {
                // The answer does not need the content (RFC 9113 §8.1).
                raw.send(&[answer(next.stream, "early"), reset(next.stream, code::NO_ERROR)].concat())
                    .await
                    .ok()?;
            }
        }
    })
    .await;
    let proxy = Gateway::to_http2(&[endpoint.address]).start(&sandbox).await;
    let call = Call::post("/", vec![b'x'; 4 * 1024 * 1024]);
    let response = call_over(Protocol::Http2, proxy.address, &call).await;
    assert_eq!((response.status, response.text().as_str()), (200, "early"));
}

#[tokio::test]
async fn b15_one_stream_at_a_time() {
    let sandbox = Sandbox::new();
    let endpoint = Played::start(&[(3, 1)], async |_, mut raw: Raw| {
        let mut open = HashSet::new();
        loop {
            let end = request_end(&mut raw).await?;
            open.insert(end.stream);
            assert_eq!(open.len(), 1);
            raw.send(&answer(end.stream, "ok")).await.ok()?;
            open.remove(&end.stream);
        }
    })
    .await;
    let proxy = Gateway::to_http2(&[endpoint.address]).start(&sandbox).await;
    let answers = posts(proxy.address, 90).await;
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
}

#[tokio::test]
async fn b15_no_streams_at_all_is_no_hang() {
    let sandbox = Sandbox::new();
    // What is sent before its SETTINGS have come is refused, as it must be.
    let endpoint = Played::start(&[(3, 0)], async |_, mut raw: Raw| {
        loop {
            let end = request_end(&mut raw).await?;
            raw.send(&reset(end.stream, code::REFUSED_STREAM)).await.ok()?;
        }
    })
    .await;
    let proxy = Gateway::new()
        .cluster_http2("app", &[endpoint.address])
        .routes("[{match: {prefix: /}, route: {cluster: app, timeout: 0.5s}}]")
        .start(&sandbox)
        .await;
    for _ in 0..10 {
        let response = proxy.get("/").await;
        assert!(response.status >= 502, "{response:?}");
    }
    assert!(endpoint.connections() <= 8, "{}", endpoint.connections());
}

#[tokio::test]
async fn b15_a_push_is_refused() {
    let sandbox = Sandbox::new();
    let endpoint = Played::start(&[], async |number, mut raw: Raw| {
        if number > 1 {
            return serve(raw, "ok").await;
        }
        let end = request_end(&mut raw).await?;
        let promise = [
            &2_u32.to_be_bytes()[..],
            &sidegate_tests::frames::block(&sidegate_tests::frames::request("GET", "/pushed")),
        ]
        .concat();
        raw.send(&frame(kind::PUSH_PROMISE, flag::END_HEADERS, end.stream, &promise)).await.ok()?;
        while raw.next().await.is_some() {}
        Some(())
    })
    .await;
    let proxy = Gateway::to_http2(&[endpoint.address]).start(&sandbox).await;
    let response = proxy.get("/").await;
    assert_eq!(response.status, 502, "{response:?}");
    assert_eq!(proxy.get("/").await.text(), "ok");
}

/// An endpoint that vanished without a word is found out by a ping, and what may be sent again is.
#[tokio::test]
async fn b15_a_silent_endpoint_is_found_out() {
    let sandbox = Sandbox::new();
    let endpoint = Played::start(&[], async |number, mut raw: Raw| {
        if number > 1 {
            return serve(raw, "ok").await;
        }
        while raw.next().await.is_some() {}
        Some(())
    })
    .await;
    let proxy = Gateway::new()
        .cluster_http2("app", &[endpoint.address])
        .routes("[{match: {prefix: /}, route: {cluster: app, timeout: 60s}}]")
        .start(&sandbox)
        .await;
    let started = tokio::time::Instant::now();
    let response = proxy.get("/").await;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{response:?}");
    assert!(started.elapsed() < Duration::from_secs(18), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_configured_keepalive_ends_silent_peers_on_both_sides() {
    let origin = Origin::http1(Answer::echo).await;
    let keepalive = "{connection_keepalive: {interval: 0.2s, timeout: 0.3s}}";
    let gateway = Gateway::to(&[origin.address()]).http(&format!("{{http2_protocol_options: {keepalive}}}"));
    let stage = Stage::start(origin, gateway).await;
    let mut silent = stage.raw().await;
    let mut polite = stage.raw().await;
    let answering = async {
        for _ in 0..4 {
            let ping = loop {
                let next = polite.next().await.expect("an open connection");
                if next.kind == kind::PING {
                    break next;
                }
            };
            polite.send(&frame(kind::PING, flag::ACK, 0, &ping.payload)).await.expect("an open connection");
        }
    };
    let ending = async { while silent.next().await.is_some() {} };
    wait::within("both", async { tokio::join!(answering, ending) }).await;
    stage.flooded(1).await;
    drop(polite);
    stage.finish().await;
}

/// A thousand clients that vanish at once do not make the endpoint take us for an attacker: who shares the connection is not harmed.
#[tokio::test]
async fn b15_a_thousand_clients_vanish() {
    let sandbox = Sandbox::new();
    let (late, slow) = (Gate::new(), Gate::new());
    let (held, kept) = (late.clone(), slow.clone());
    let origin = Origin::http2(move |received| match received.target.as_str() {
        "/late" => Answer::text("late").after(&held),
        "/slow" => Answer::text("slow").after(&kept),
        _ => Answer::text("ok"),
    })
    .await;
    let proxy = Gateway::to_http2(&[origin.address()]).start(&sandbox).await;
    let address = proxy.address;
    let slow_call =
        tokio::spawn(async move { call_over(Protocol::Http2, address, &Call::get("/slow")).await });
    wait::until_equal("requests at the origin", 1, async || origin.count()).await;
    let mut clients = Vec::new();
    for _ in 0..1_000 {
        let mut client = Http1::connect(address).await.expect("the proxy listens");
        client.send(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("an open connection");
        clients.push(client);
    }
    wait::until_equal("requests at the origin", 1_001, async || origin.count()).await;
    let connections = origin.connections();
    drop(clients);
    for _ in 0..100 {
        let response = proxy.get("/victim").await;
        assert_eq!(response.status, 200, "{response:?}");
    }
    wait::until("most streams given up", async || (origin.abandoned() >= 100).then_some(())).await;
    slow.open();
    let slow = wait::within("the slow answer", slow_call).await.expect("no panic");
    assert_eq!((slow.status, slow.text().as_str()), (200, "slow"));
    assert!(origin.connections() <= connections + 1, "{} after {connections}", origin.connections());
    late.open();
}
