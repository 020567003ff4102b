//! Clients that take their time: cut at the bound of each phase, while everybody else is served.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use sidegate_tests::client::Http1;
use sidegate_tests::fountain::{Fountain, narrow};
use sidegate_tests::frames::{self, Raw, data, flag, headers, kind, request};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::load::Load;
use sidegate_tests::message::Call;
use sidegate_tests::resources::Usage;
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// The bounds are short so that the scenario is; by default heads have 10 s (the battery's bound) and silent streams 5 minutes.
const BOUNDS: &str = "{request_headers_timeout: 1s, stream_idle_timeout: 1s, request_timeout: 2s}";

async fn gateway(sandbox: &Sandbox, origin: SocketAddr) -> Proxy {
    Gateway::to(&[origin]).http(BOUNDS).with_admin().start(sandbox).await
}

/// Sends `first`, then `drip` ten times a second, until the other side closes; how long that took.
async fn drip(address: SocketAddr, first: Vec<u8>, drip: &'static [u8]) -> Duration {
    let begun = Instant::now();
    let mut socket = TcpStream::connect(address).await.expect("the proxy listens");
    let _ = socket.write_all(&first).await;
    let (mut reading, mut writing) = socket.split();
    let dripping = async {
        while writing.write_all(drip).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let mut sink = Vec::new();
    tokio::select! {
        _ = reading.read_to_end(&mut sink) => {}
        () = dripping => {}
    }
    begun.elapsed()
}

/// Runs so many of them beside a load; the longest that one lasted. Nobody of the load may notice.
async fn beside_a_load<F: Future<Output = Duration> + Send + 'static>(
    proxy: &Proxy,
    count: usize,
    slow: impl Fn(SocketAddr) -> F,
) -> Duration {
    let load = Load::start(proxy.address, 50, Call::get("/"));
    let mut crowd = JoinSet::new();
    for _ in 0..count {
        crowd.spawn(slow(proxy.address));
    }
    let lasted = wait::within("the end of the slow ones", crowd.join_all()).await;
    let counts = load.stop().await;
    assert!(counts.failed == 0 && counts.good > 0, "{counts:?}");
    wait::until("the connections' end", async || {
        (proxy.stat("listener.main.downstream_cx_active").await <= 1).then_some(())
    })
    .await;
    lasted.into_iter().max().unwrap_or_default()
}

/// Each bound is one or two seconds; the rest is for a busy machine.
const PROMPT: Duration = Duration::from_secs(8);

#[tokio::test]
async fn d1_slow_heads_are_cut_and_cost_little() {
    let sandbox = Sandbox::new();
    let origin = Fountain::start(0).await;
    let proxy = gateway(&sandbox, origin.address()).await;
    assert_eq!(proxy.get("/").await.status, 200);
    let before = Usage::of(proxy.process.id()).memory;
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ".to_vec();
    let lasted = beside_a_load(&proxy, 300, |address| drip(address, head.clone(), b"a")).await;
    assert!(lasted < PROMPT, "{lasted:?}");
    let grown = Usage::of(proxy.process.id()).memory.saturating_sub(before);
    assert!(grown < 300 * 32 * 1024, "{grown} bytes for 300 connections");
    // Silence after the connection, and a preface that never ends.
    for first in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let lasted = beside_a_load(&proxy, 50, |address| drip(address, first.to_vec(), b"")).await;
        assert!(lasted < PROMPT, "{first:?}: {lasted:?}");
    }
    assert!(proxy.stat("sidegate.reasons.downstream_timeout").await >= 300);
}

#[tokio::test]
async fn d1_slow_bodies_are_cut() {
    let sandbox = Sandbox::new();
    let origin = Fountain::start(1_000_000).await;
    let proxy = gateway(&sandbox, origin.address()).await;
    // Silent after the first byte; and one that drips, for as long as a request may take.
    let head = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n1".to_vec();
    let lasted = beside_a_load(&proxy, 100, |address| drip(address, head.clone(), b"")).await;
    assert!(lasted < PROMPT, "{lasted:?}");
    let lasted = beside_a_load(&proxy, 100, |address| drip(address, head.clone(), b"1")).await;
    assert!(lasted < PROMPT, "{lasted:?}");
    let chunked = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let lasted = beside_a_load(&proxy, 100, |address| drip(address, chunked.clone(), b"1\r\na\r\n")).await;
    assert!(lasted < PROMPT, "{lasted:?}");
}

#[tokio::test]
async fn d1_slow_readers_are_cut() {
    let sandbox = Sandbox::new();
    let origin = Fountain::start(0).await;
    let proxy = gateway(&sandbox, origin.address()).await;
    let reader = |address| async move {
        let begun = Instant::now();
        let mut socket = narrow(address).await.expect("the proxy listens");
        socket.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("a request");
        // Closed by a reset, which a write meets.
        while socket.write_all(b"\r\n").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
        begun.elapsed()
    };
    let lasted = beside_a_load(&proxy, 100, reader).await;
    assert!(lasted < PROMPT, "{lasted:?}");
    assert!(proxy.stat("sidegate.reasons.idle_timeout").await >= 100);
}

#[tokio::test]
async fn d1_slow_streams_are_cut_and_their_connection_serves_on() {
    let sandbox = Sandbox::new();
    let origin = Fountain::start(1_000_000).await;
    let proxy = gateway(&sandbox, origin.address()).await;
    let connection = |address| async move {
        let begun = Instant::now();
        // A window of one byte for responses.
        let mut raw = Raw::connect(address, &[(4, 1)]).await.expect("the proxy listens");
        raw.send(&headers(1, flag::WHOLE, &request("GET", "/endless"))).await.expect("a request");
        raw.send(&headers(3, flag::END_HEADERS, &request("POST", "/upload"))).await.expect("a request");
        raw.send(&data(3, flag::NONE, b"1")).await.expect("a byte");
        let mut ended = BTreeSet::new();
        while ended.len() < 2 {
            let frame = raw.next().await.expect("the connection lives");
            let reset = frame.kind == kind::RST_STREAM;
            if reset || frame.status() == Some(408) || frame.status() == Some(504) {
                ended.insert(frame.stream);
            }
        }
        let lasted = begun.elapsed();
        raw.send(&frames::get(5, "/")).await.expect("a request");
        assert_eq!(raw.next_of(5).await.and_then(|frame| frame.status()), Some(200));
        lasted
    };
    let lasted = beside_a_load(&proxy, 50, connection).await;
    assert!(lasted < PROMPT, "{lasted:?}");
}

#[tokio::test]
async fn d1_ten_seconds_is_the_default_for_a_head() {
    let sandbox = Sandbox::new();
    let origin = Fountain::start(0).await;
    let proxy = Gateway::to(&[origin.address()]).start(&sandbox).await;
    let begun = Instant::now();
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(b"GET / HT").await.unwrap();
    let response = wait::within("the proxy's patience", client.response("GET")).await.unwrap();
    assert_eq!(response.status, 408);
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}
