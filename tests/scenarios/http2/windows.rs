//! B9: who does not read is waited for, within bounds of memory and time; nobody else waits.

use std::sync::Arc;

use sidegate_tests::client::{Http2, Protocol, call_over};
use sidegate_tests::frames::{Raw, data, flag, frame, get, kind, ok, settings, window_update};
use sidegate_tests::gateway::Gateway;
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;
use tokio::task::JoinSet;

use super::Stage;
use super::upstreams::Played;

const MEGABYTE: usize = 1024 * 1024;

fn script(received: &Received) -> Answer {
    match received.target.as_str() {
        "/victim" => Answer::text("ok"),
        _ => Answer::text(&"m".repeat(MEGABYTE)),
    }
}

/// With a stream idle timeout of a second.
async fn stage(http2: bool) -> Stage {
    let origin = if http2 { Origin::http2(script).await } else { Origin::http1(script).await };
    let gateway =
        if http2 { Gateway::to_http2(&[origin.address()]) } else { Gateway::to(&[origin.address()]) };
    Stage::start(origin, gateway.http("{stream_idle_timeout: 2s}")).await
}

/// Opens a hundred streams and reads until every head is there.
async fn hundred(stage: &Stage, window: u32) -> Raw {
    let mut raw = Raw::connect(stage.proxy.address, &[(4, window)]).await.expect("the proxy listens");
    for number in 0..100 {
        raw.send(&get(1 + 2 * number, "/large")).await.expect("an open connection");
    }
    let mut heads = 0;
    while heads < 100 {
        let frame = wait::within("a hundred heads", raw.next()).await.expect("an open connection");
        heads += usize::from(frame.kind == kind::HEADERS);
    }
    raw
}

async fn zero_window(http2: bool, most: usize) {
    let stage = stage(http2).await;
    let mut raw = hundred(&stage, 0).await;
    let mut resets = 0;
    let mut growth = 0;
    while resets < 100 {
        growth = growth.max(stage.growth());
        let frame = wait::within("a reset for each stream", raw.next()).await.expect("an open connection");
        resets += usize::from(frame.kind == kind::RST_STREAM);
    }
    println!("100 streams of 1 MiB and no window, endpoint over HTTP/2: {http2}: {growth} KiB more");
    assert!(growth <= most, "{growth} KiB more");
    drop(raw);
    stage.finish().await;
}

#[tokio::test]
async fn b9_zero_window() {
    zero_window(false, 4 * 1024).await;
}

#[tokio::test]
async fn b9_zero_window_before_http2() {
    zero_window(true, 16 * 1024).await;
}

#[tokio::test]
async fn b9_windows_of_one_byte() {
    let stage = stage(false).await;
    let mut raw = hundred(&stage, 1).await;
    let mut bytes = 0;
    while bytes < 2_000 {
        let frame = wait::within("more bytes", raw.next()).await.expect("an open connection");
        if frame.kind == kind::DATA {
            assert_eq!(frame.payload.len(), 1);
            bytes += 1;
            raw.send(&window_update(frame.stream, 1)).await.expect("an open connection");
        }
    }
    assert!(stage.growth() <= 4 * 1024, "{} KiB more", stage.growth());
    drop(raw);
    stage.finish().await;
}

#[tokio::test]
async fn b9_a_window_that_shrinks_below_zero() {
    let stage = stage(false).await;
    let mut raw = stage.raw().await;
    raw.send(&get(1, "/large")).await.expect("an open connection");
    let mut bytes = 0;
    while bytes < 65_535 {
        let frame = wait::within("the first window", raw.next_of(1)).await.expect("an open connection");
        bytes += if frame.kind == kind::DATA { frame.payload.len() } else { 0 };
    }
    // The stream's window is 65,535 below zero now, and then one byte above.
    let shrunk = [settings(&[(4, 0)]), window_update(0, 0x3fff_ffff), window_update(1, 65_536)].concat();
    raw.send(&shrunk).await.expect("an open connection");
    let next = wait::within("one byte", raw.next_of(1)).await.expect("an open connection");
    assert_eq!((next.kind, next.payload.len()), (kind::DATA, 1));
    raw.send(&[settings(&[(4, 65_535)]), window_update(1, 2 * MEGABYTE as u32)].concat())
        .await
        .expect("an open connection");
    bytes += 1;
    loop {
        let frame = wait::within("the rest", raw.next_of(1)).await.expect("an open connection");
        bytes += frame.payload.len();
        if frame.flags & flag::END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(bytes, MEGABYTE);
    drop(raw);
    stage.finish().await;
}

/// A client that neither reads nor closes: what waits for it is bounded, and its streams end.
#[tokio::test]
async fn b9_a_client_that_never_reads() {
    let stage = stage(false).await;
    let mut raw = Raw::connect(stage.proxy.address, &[(4, 0x7fff_ffff)]).await.expect("the proxy listens");
    raw.send(&window_update(0, 0x7fff_0000)).await.expect("an open connection");
    for number in 0..100 {
        raw.send(&get(1 + 2 * number, "/large")).await.expect("an open connection");
    }
    wait::until_equal("requests at the origin", 100, async || stage.attacks()).await;
    let (mut growth, mut looks) = (0, 0);
    wait::until("a second passes", async || {
        growth = growth.max(stage.growth());
        looks += 1;
        (looks > 100).then_some(())
    })
    .await;
    assert!(growth <= 16 * 1024, "{growth} KiB more");
    raw.send(&frame(kind::PING, flag::NONE, 0, &[0; 8])).await.expect("an open connection");
    drop(raw);
    stage.finish().await;
}

/// A hundred uploads to an endpoint that takes nothing: each waits in its window.
#[tokio::test]
async fn b9_uploads_to_an_endpoint_that_does_not_read() {
    for http2 in [false, true] {
        let stalled =
            tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = stalled.local_addr().expect("an address");
        let held = tokio::spawn(async move {
            let mut sockets = Vec::new();
            while let Ok((socket, _)) = stalled.accept().await {
                sockets.push(socket);
            }
        });
        let origin = Origin::named("ok").await;
        let gateway = Gateway::new().cluster("app", &[origin.address()]);
        let gateway = if http2 {
            gateway.cluster_http2("slow", &[address])
        } else {
            gateway.cluster("slow", &[address])
        };
        let gateway = gateway.routes(
            "[{match: {prefix: /upload}, route: {cluster: slow}}, {match: {prefix: /}, route: {cluster: app}}]",
        );
        let stage = Stage::start(origin, gateway).await;
        let client = Arc::new(Http2::connect(stage.proxy.address).await.expect("the proxy listens"));
        let call = Arc::new(Call::post("/upload", vec![b'u'; MEGABYTE]));
        let mut uploads = JoinSet::new();
        for _ in 0..100 {
            let (client, call) = (client.clone(), call.clone());
            uploads.spawn(async move { drop(client.call(&call).await) });
        }
        let (mut last, mut same) = (0, 0);
        wait::until("memory that does not grow", async || {
            let now = stage.growth();
            same = if now <= last { same + 1 } else { 0 };
            last = last.max(now);
            (same > 100).then_some(())
        })
        .await;
        println!("100 stalled uploads, endpoint over HTTP/2: {http2}: {last} KiB more");
        assert!(last <= 16 * 1024, "{last} KiB more");
        uploads.shutdown().await;
        drop(client);
        held.abort();
        stage.finish().await;
    }
}

/// A small message is on its way before the endpoint has room for it: it comes as the window opens, byte by byte, and whole.
#[tokio::test]
async fn b9_a_small_upload_waits_for_the_endpoints_window() {
    let sandbox = Sandbox::new();
    let endpoint = Played::start(&[(4, 0)], async |_, mut raw: Raw| {
        let mut pieces = Vec::new();
        loop {
            let next = raw.next().await?;
            let bytes = match next.kind {
                kind::HEADERS => window_update(next.stream, 1),
                kind::DATA => {
                    pieces.push(String::from_utf8_lossy(&next.payload).into_owned());
                    if next.flags & flag::END_STREAM == 0 {
                        window_update(next.stream, 1)
                    } else {
                        let text = std::mem::take(&mut pieces).join(" ");
                        let content = data(next.stream, flag::END_STREAM, text.as_bytes());
                        [ok(next.stream, flag::NONE), content].concat()
                    }
                }
                _ => continue,
            };
            raw.send(&bytes).await.ok()?;
        }
    })
    .await;
    let proxy = Gateway::to_http2(&[endpoint.address]).start(&sandbox).await;
    let post = async || call_over(Protocol::Http2, proxy.address, &Call::post("/", "abc")).await;
    // The first may come before the proxy knows of the window.
    assert_eq!(post().await.status, 200);
    let answer = post().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "a b c"));
}
