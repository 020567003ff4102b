//! Memory: what idles, what is slow, and what happens near the ceiling.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use sidegate_tests::client::{self, Protocol};
use sidegate_tests::fountain::{Fountain, WATER, narrow};
use sidegate_tests::frames::{self, Raw};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::Call;
use sidegate_tests::resources::{Usage, mebibytes};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Clients that ask for a body without end and never read.
async fn slow_readers(proxy: &Proxy, most: usize) -> Vec<TcpStream> {
    let mut readers = Vec::new();
    for _ in 0..most {
        let Ok(mut socket) = narrow(proxy.address).await else { continue };
        if socket.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.is_ok() {
            readers.push(socket);
        }
    }
    readers
}

/// New slow readers, of either protocol, until told to stop; they stay until then.
async fn attack(address: SocketAddr) {
    let mut readers = Vec::new();
    let mut streams = Vec::new();
    loop {
        if let Ok(mut socket) = narrow(address).await
            && socket.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.is_ok()
        {
            readers.push(socket);
        }
        if readers.len() % 20 == 1
            && let Ok(mut raw) = Raw::connect(address, &[(4, 1_000_000)]).await
        {
            for stream in 0..50 {
                let _ = raw.send(&frames::get(2 * stream + 1, "/endless")).await;
            }
            streams.push(raw);
        }
        // Refused at once when there is no room: no busy loop.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn d6_near_the_ceiling_new_work_is_refused_and_the_stuck_goes_first() {
    let sandbox = Sandbox::new();
    let origin = Fountain::start(0).await;
    let gateway = Gateway::to(&[origin.address()]).with_admin().flags(&["--memory-ceiling", "32MiB"]);
    let mut proxy = gateway.start(&sandbox).await;
    let (process, address) = (proxy.process.id(), proxy.address);
    let kept = client::Http2::connect(address).await.unwrap();
    // A stream in flight keeps the connection: idle ones are asked to go.
    let upload = Call::post("/upload", "x");
    let mut held = pin!(kept.call(&upload));
    assert!(timeout(Duration::from_millis(100), held.as_mut()).await.is_err());

    let attack = tokio::spawn(attack(address));
    let (mut unready, mut reset, mut refused, mut grpc) = (false, false, None, false);
    let call = Call::post("/s/m", "").header("content-type", "application/grpc").header("te", "trailers");
    let mut most = 0;
    // What the clients and the operator see; memory comes and goes meanwhile, as the stuck are cut and new ones come.
    wait::until("every sign of it", async || {
        let ready = proxy.admin("/ready").await;
        if ready.status == 503 {
            unready = true;
            let text = ready.text();
            assert!(text.starts_with("OVERLOADED: ") && text.contains("% of 32 MiB"), "{text}");
        }
        reset |= client::try_call(address, &Call::get("/")).await.is_err();
        let answer = kept.call(&Call::get("/")).await.unwrap();
        if answer.status == 503 {
            let (reason, id) = answer.reason().unwrap();
            assert_eq!(reason, "overload");
            refused = Some(id.to_owned());
        }
        let answer = kept.call(&call).await.unwrap();
        grpc |= answer.status == 200 && answer.header("grpc-status") == Some("14");
        most = most.max(Usage::of(process).memory);
        let cut = proxy.stat("sidegate.reasons.overload").await;
        (unready && reset && refused.is_some() && grpc && cut > 100).then_some(())
    })
    .await;
    assert!(most < mebibytes(48), "{} MiB", most >> 20);
    assert!(proxy.stat("listener.main.downstream_cx_overload_reject").await > 0);
    let why = proxy.admin(&format!("/why/{}", refused.unwrap())).await.text();
    assert!(why.contains("% of 32 MiB"), "{why}");

    attack.abort();
    let released = Instant::now();
    wait::until_equal("readiness", 200, async || proxy.admin("/ready").await.status).await;
    for number in 0..50 {
        let protocol = if number % 2 == 0 { Protocol::Http1 } else { Protocol::Http2 };
        assert_eq!(proxy.call_over(protocol, &Call::get("/")).await.status, 200);
    }
    assert!(released.elapsed() < Duration::from_secs(10), "{:?}", released.elapsed());
    assert!(timeout(Duration::from_millis(100), held.as_mut()).await.is_err(), "what was begun goes on");
    assert!(proxy.process.is_running());
}

#[tokio::test]
async fn d2_an_idle_connection_costs_a_few_kib() {
    let sandbox = Sandbox::new();
    let origin = Fountain::start(0).await;
    let proxy = Gateway::to(&[origin.address()]).with_admin().start(&sandbox).await;
    let call = Call::get("/");
    for (protocol, most) in [(Protocol::Http1, 24), (Protocol::Http2, 48)] {
        assert_eq!(proxy.call_over(protocol, &call).await.status, 200);
        let before = Usage::of(proxy.process.id()).memory;
        let (mut ones, mut twos) = (Vec::new(), Vec::new());
        for _ in 0..COUNT {
            match protocol {
                Protocol::Http1 => {
                    let mut client = client::Http1::connect(proxy.address).await.unwrap();
                    assert_eq!(client.call(&call).await.unwrap().status, 200);
                    ones.push(client);
                }
                Protocol::Http2 => {
                    let client = client::Http2::connect(proxy.address).await.unwrap();
                    assert_eq!(client.call(&call).await.unwrap().status, 200);
                    twos.push(client);
                }
            }
        }
        // Loosely: an unoptimised program's tasks are several times as large. `cargo xtask bench` has the figure.
        let each = Usage::of(proxy.process.id()).memory.saturating_sub(before) / COUNT / 1024;
        assert!(each <= most, "{protocol:?}: {each} KiB for each idle connection");
        let begun = Instant::now();
        assert_eq!(proxy.call_over(protocol, &call).await.status, 200);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    wait::until_equal("connections open", 0, async || proxy.stat("listener.main.downstream_cx_active").await)
        .await;
}

const COUNT: u64 = 1_000;

#[tokio::test]
async fn d5_uploads_to_a_slow_upstream_wait_with_the_client() {
    let sandbox = Sandbox::new();
    let origin = Fountain::start(10_000).await;
    let proxy = Gateway::to(&[origin.address()]).start(&sandbox).await;
    assert_eq!(proxy.get("/").await.status, 200);
    let before = Usage::of(proxy.process.id()).memory;
    let mut uploads = tokio::task::JoinSet::new();
    for number in 0..100 {
        let address = proxy.address;
        uploads.spawn(async move {
            let mut socket = TcpStream::connect(address).await?;
            let framing =
                if number % 2 == 0 { "Content-Length: 100000000" } else { "Transfer-Encoding: chunked" };
            socket
                .write_all(format!("POST /upload HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").as_bytes())
                .await?;
            loop {
                if number % 2 == 1 {
                    socket.write_all(b"10000\r\n").await?;
                }
                socket.write_all(&WATER).await?;
                if number % 2 == 1 {
                    socket.write_all(b"\r\n").await?;
                }
            }
            #[allow(unreachable_code, reason = "it tells the type of the errors")]
            std::io::Result::Ok(())
        });
    }
    wait::until_equal("uploads at the origin", 101, async || origin.requests()).await;
    // Long enough for every buffer on the way to be full.
    wait::until("a slow upstream's progress", async || (origin.read() > 500_000).then_some(())).await;
    let grown = Usage::of(proxy.process.id()).memory.saturating_sub(before);
    assert!(grown <= mebibytes(16), "{} KiB for 100 uploads", grown / 1024);
    assert_eq!(proxy.get("/").await.status, 200);
}

#[tokio::test]
async fn d5_downloads_for_slow_clients_wait_with_the_upstream() {
    let sandbox = Sandbox::new();
    let origin = Fountain::start(0).await;
    let proxy = Gateway::to(&[origin.address()]).with_admin().start(&sandbox).await;
    assert_eq!(proxy.get("/").await.status, 200);
    let before = Usage::of(proxy.process.id()).memory;
    let readers = slow_readers(&proxy, 100).await;
    wait::until_equal("downloads at the origin", 101, async || origin.requests()).await;
    let settled = async || {
        let first = Usage::of(proxy.process.id()).memory;
        tokio::time::sleep(Duration::from_millis(300)).await;
        (Usage::of(proxy.process.id()).memory <= first).then_some(first)
    };
    let grown = wait::until("memory to settle", settled).await.saturating_sub(before);
    assert!(grown <= mebibytes(16), "{} KiB for {} downloads", grown / 1024, readers.len());
    assert_eq!(proxy.get("/").await.status, 200);
}
