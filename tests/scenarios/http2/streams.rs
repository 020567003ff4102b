//! B16: connections that last: streams without number, and the last number that a stream may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sidegate_tests::client::Http2;
use sidegate_tests::frames::{get, kind};
use sidegate_tests::gateway::Gateway;
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Origin};
use tokio::task::JoinSet;

use super::{Stage, outcome};

/// Streams on one connection: what the environment says (`SIDEGATE_STREAMS=1000000` is the battery's own figure), or fewer.
fn streams() -> usize {
    std::env::var("SIDEGATE_STREAMS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

/// Sends so many requests, fifty at a time, over one connection.
async fn send(client: &Arc<Http2>, count: usize) {
    let left = Arc::new(AtomicUsize::new(count));
    let mut tasks = JoinSet::new();
    for _ in 0..50 {
        let (client, left) = (client.clone(), left.clone());
        tasks.spawn(async move {
            let call = Call::get("/many");
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                let response = client.call(&call).await.expect("a response on the one connection");
                assert_eq!((response.status, response.complete), (200, true), "{response:?}");
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn b16_a_connection_carries_streams_without_number() {
    let origin = Origin::forgetful(|_| Answer::text("ok")).await;
    let gateway = Gateway::to(&[origin.address()]);
    let stage = Stage::start(origin, gateway).await;
    let client = Arc::new(Http2::connect(stage.proxy.address).await.unwrap());
    // What a connection needs at all is there after the first ones.
    let total = streams();
    send(&client, total / 10).await;
    let before = stage.proxy.process.anonymous();
    send(&client, total - total / 10).await;
    let growth = stage.proxy.process.anonymous().saturating_sub(before);
    println!("{total} streams on one connection: {growth} KiB more");
    // What one stream needs is several hundred bytes: of all of them, that would be more than this.
    assert!(growth <= 4 * 1024, "{growth} KiB more");
    assert!(!client.is_closed());
    drop(client);
    stage.finish().await;
}

#[tokio::test]
async fn b16_the_last_stream_is_served_and_the_next_connection_begins_anew() {
    let stage = Stage::new().await;
    let mut raw = stage.raw().await;
    raw.send(&get(0x7fff_ffff, "/last")).await.unwrap();
    assert_eq!(outcome(&mut raw, 0x7fff_ffff).await, (Some(200), None));
    // There is no greater number, and a smaller one has been used up (RFC 9113 §5.1.1): this connection is over.
    raw.send(&get(1, "/again")).await.unwrap();
    let (frames, closed) = raw.rest(sidegate_tests::wait::DEADLINE).await;
    assert!(closed && !frames.iter().any(|frame| frame.kind == kind::HEADERS), "{frames:?}");
    assert_eq!(stage.attacks(), 1);
    let mut next = stage.raw().await;
    next.send(&get(1, "/first")).await.unwrap();
    assert_eq!(outcome(&mut next, 1).await, (Some(200), None));
    drop((raw, next));
    stage.finish().await;
}
