//! Memory: what idles, what is slow, and what happens near the ceiling.

use std::pin::pin;
use std::time::Duration;

use sidegate_tests::client::{self, Protocol};
use sidegate_tests::fountain::{Fountain, narrow};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::Call;
use sidegate_tests::resources::{Usage, mebibytes};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Clients that ask for a body without end and never read, until the proxy takes no more; a failed one is given up.
async fn slow_readers(proxy: &Proxy, most: usize) -> Vec<TcpStream> {
    let mut readers = Vec::new();
    for _ in 0..most {
        let Ok(mut socket) = narrow(proxy.address).await else { continue };
        if socket.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.is_ok() {
            readers.push(socket);
        }
        if proxy.admin("/ready").await.status != 200 {
            break;
        }
    }
    readers
}

#[tokio::test]
async fn d6_near_the_ceiling_new_work_is_refused_and_old_work_finished() {
    let sandbox = Sandbox::new();
    let origin = Fountain::start(0).await;
    let gateway = Gateway::to(&[origin.address()]).with_admin().flags(&["--memory-ceiling", "32MiB"]);
    let mut proxy = gateway.start(&sandbox).await;
    let process = proxy.process.id();
    assert_eq!(proxy.get("/").await.status, 200);
    let kept = client::Http2::connect(proxy.address).await.unwrap();
    // A stream in flight keeps the connection: idle ones are asked to go.
    let upload = Call::post("/upload", "x");
    let mut held = pin!(kept.call(&upload));
    assert!(timeout(Duration::from_millis(100), held.as_mut()).await.is_err());

    let readers = slow_readers(&proxy, 2_000).await;
    let ready = proxy.admin("/ready").await;
    assert_eq!(ready.status, 503, "after {} slow readers: {:?}", readers.len(), Usage::of(process));
    assert!(ready.text().starts_with("OVERLOADED: ") && ready.text().contains("% of 32 MiB"), "{ready:?}");
    // A new connection is reset; a new request on an old one is told why.
    assert!(client::try_call(proxy.address, &Call::get("/")).await.is_err());
    let refused = kept.call(&Call::get("/")).await.unwrap();
    assert_eq!((refused.status, refused.reason().map(|(reason, _)| reason)), (503, Some("overload")));
    let (_, id) = refused.reason().unwrap();
    let why = proxy.admin(&format!("/why/{id}")).await.text();
    assert!(why.contains("% of 32 MiB"), "{why}");
    let call = Call::post("/s/m", "").header("content-type", "application/grpc").header("te", "trailers");
    let refused = kept.call(&call).await.unwrap();
    assert_eq!((refused.status, refused.header("grpc-status")), (200, Some("14")), "{refused:?}");
    assert!(proxy.stat("listener.main.downstream_cx_overload_reject").await > 0);
    assert_eq!(proxy.stat("overload.envoy.overload_actions.stop_accepting_requests.active").await, 1);
    let usage = Usage::of(process);
    assert!(usage.memory < mebibytes(40), "{usage:?}");

    let released = Instant::now();
    drop(readers);
    wait::until_equal("readiness", 200, async || proxy.admin("/ready").await.status).await;
    for number in 0..50 {
        let protocol = if number % 2 == 0 { Protocol::Http1 } else { Protocol::Http2 };
        assert_eq!(proxy.call_over(protocol, &Call::get("/")).await.status, 200);
    }
    assert!(released.elapsed() < Duration::from_secs(10), "{:?}", released.elapsed());
    assert!(timeout(Duration::from_millis(100), held.as_mut()).await.is_err(), "what was begun goes on");
    assert!(proxy.process.is_running());
}
