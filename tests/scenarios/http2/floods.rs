//! B3 to B8: each flood ends its own connection with ENHANCE_YOUR_CALM, early, and nobody else's.

use sidegate_tests::frames::{
    Flooded, Raw, block, code, data, flag, flood, frame, get, headers, kind, literal, request, reset,
    settings, window_update,
};
use sidegate_tests::origin::{Answer, Gate};
use sidegate_tests::wait;
use tokio::task::JoinSet;

use super::{QUIET, Stage};

/// Streams as a client numbers them.
fn ids(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 1 + 2 * number)
}

fn assert_calmed(case: &str, flooded: &Flooded) {
    assert!(flooded.closed, "{case}: still open after {}", flooded.written);
    // The notice may be lost where what was sent after it makes the system reset the connection.
    assert!(
        matches!(flooded.goaway, None | Some(code::ENHANCE_YOUR_CALM)),
        "{case}: told {:?}",
        flooded.goaway
    );
}

#[tokio::test]
async fn b3_rapid_reset() {
    let gate = Gate::new();
    let held = gate.clone();
    let stage = Stage::scripted(move |received| match received.target.as_str() {
        "/victim" => Answer::text("ok"),
        _ => Answer::text("late").after(&held),
    })
    .await;
    let pairs = ids(20_000).map(|id| [get(id, "/attack"), reset(id, code::CANCEL)].concat());
    let flooded = flood(stage.raw().await, true, pairs).await;
    assert_calmed("one connection", &flooded);
    stage.flooded(1).await;
    assert!(stage.attacks() <= 100, "{} requests reached the origin", stage.attacks());
    gate.open();
    stage.finish().await;
}

/// Each stream is let through to the origin before it is reset, and fifty connections do so at once.
#[tokio::test]
async fn b3_patient_rapid_reset_on_fifty_connections() {
    let stage = Stage::new().await;
    let mut attackers = JoinSet::new();
    for _ in 0..50 {
        let raw = stage.raw().await;
        attackers.spawn(flood(
            raw,
            true,
            ids(2_000).map(|id| [get(id, "/attack"), reset(id, code::CANCEL)].concat()),
        ));
    }
    for flooded in attackers.join_all().await {
        assert_calmed("one of fifty", &flooded);
    }
    stage.flooded(50).await;
    assert!(stage.attacks() <= 50 * 100, "{} requests reached the origin", stage.attacks());
    stage.finish().await;
}

#[tokio::test]
async fn b4_made_you_reset() {
    let gate = Gate::new();
    let held = gate.clone();
    let stage = Stage::scripted(move |received| match received.target.as_str() {
        "/victim" => Answer::text("ok"),
        _ => Answer::text("late").after(&held),
    })
    .await;
    // Each makes us end the stream, or the connection, after work has begun.
    type Tail = fn(u32) -> Vec<u8>;
    let table: [(&str, u8, Tail); 6] = [
        ("WINDOW_UPDATE of 0", flag::WHOLE, |id| window_update(id, 0)),
        ("a window past 2^31", flag::WHOLE, |id| window_update(id, 0x7fff_ffff)),
        ("DATA after the end", flag::WHOLE, |id| data(id, flag::NONE, b"more")),
        ("HEADERS after the end", flag::WHOLE, |id| headers(id, flag::WHOLE, &request("GET", "/again"))),
        ("PRIORITY of 4 bytes", flag::WHOLE, |id| frame(kind::PRIORITY, flag::NONE, id, &[0; 4])),
        ("PRIORITY on itself", flag::WHOLE, |id| {
            frame(kind::PRIORITY, flag::NONE, id, &[&id.to_be_bytes()[..], &[1]].concat())
        }),
    ];
    for (case, flags, tail) in table {
        let before = stage.attacks();
        let pieces = ids(5_000).map(|id| [headers(id, flags, &request("GET", "/attack")), tail(id)].concat());
        let flooded = flood(stage.raw().await, true, pieces).await;
        assert!(flooded.closed, "{case}: still open after {}", flooded.written);
        let started = stage.attacks() - before;
        assert!(started <= 100, "{case}: {started} requests reached the origin");
    }
    let too_long = ids(5_000).map(|id| {
        let fields = [request("POST", "/attack"), vec![("content-length", "1")]].concat();
        [headers(id, flag::END_HEADERS, &fields), data(id, flag::END_STREAM, b"too long")].concat()
    });
    let before = stage.attacks();
    assert_calmed("content-length", &flood(stage.raw().await, true, too_long).await);
    assert_eq!(stage.attacks(), before, "an incomplete request was taken for whole");
    gate.open();
    stage.finish().await;
}

#[tokio::test]
async fn b5_continuation() {
    let stage = Stage::new().await;
    let first = || frame(kind::HEADERS, flag::END_STREAM, 1, &block(&request("GET", "/attack")));
    let more = |payload: Vec<u8>| frame(kind::CONTINUATION, flag::NONE, 1, &payload);
    let field = block(&[("x-a", &"a".repeat(1_000))]);
    let table = [("1 KB", field), ("empty", Vec::new())];
    for (case, payload) in table {
        let pieces = std::iter::once(first()).chain((0..50_000).map(|_| more(payload.clone())));
        assert_calmed(case, &flood(stage.raw().await, true, pieces).await);
    }
    stage.flooded(2).await;
    // Another frame within a block is a broken connection, not a flood.
    let mut raw = stage.raw().await;
    raw.send(&[first(), frame(kind::PING, flag::NONE, 0, &[0; 8])].concat()).await.unwrap();
    let (frames, closed) = raw.rest(QUIET).await;
    assert!(closed && frames.iter().any(|frame| frame.code() == Some(code::PROTOCOL_ERROR)), "{frames:?}");
    wait::until_equal("broken connections", 1.0, async || stage.cuts("downstream_protocol_error").await)
        .await;
    assert_eq!(stage.attacks(), 0);
    stage.finish().await;
}

/// A block that never ends holds up a connection only as long as a request's head may take.
#[tokio::test]
async fn b5_headers_that_never_end() {
    let origin = sidegate_tests::origin::Origin::http1(Answer::echo).await;
    let gateway =
        sidegate_tests::gateway::Gateway::to(&[origin.address()]).http("{request_headers_timeout: 0.3s}");
    let stage = Stage::start(origin, gateway).await;
    let first = frame(kind::HEADERS, flag::END_STREAM, 1, &block(&request("GET", "/attack")));
    for piece in [&first[..], &first[..20]] {
        let mut raw = stage.raw().await;
        raw.send(piece).await.unwrap();
        let end = async { while raw.next().await.is_some() {} };
        wait::within("the end of the connection", end).await;
    }
    stage.flooded(2).await;
    stage.finish().await;
}

#[tokio::test]
async fn b6_control_frames() {
    let stage = Stage::new().await;
    type Piece = fn(u32) -> Vec<u8>;
    let table: [(&str, Piece); 6] = [
        ("PING", |_| frame(kind::PING, flag::NONE, 0, &[7; 8])),
        ("SETTINGS", |number| settings(&[(1, 4096 * (number % 2))])),
        ("PRIORITY", |_| frame(kind::PRIORITY, flag::NONE, 3, &[0, 0, 0, 1, 9])),
        ("WINDOW_UPDATE", |_| window_update(0, 1)),
        ("unknown", |_| frame(0xb, flag::NONE, 0, &[0; 64])),
        ("a table that flaps", |number| settings(&[(1, number % 2 * 65_536), (4, 65_535 - number % 2)])),
    ];
    for (case, piece) in table {
        for reads in [true, false] {
            let flooded = flood(stage.raw().await, reads, (0..50_000).map(piece)).await;
            assert_calmed(case, &flooded);
        }
    }
    stage.flooded(12).await;
    let mut raw = stage.raw().await;
    raw.send(&reset(1, code::CANCEL)).await.unwrap();
    assert!(raw.rest(QUIET).await.1, "RST_STREAM on a stream that never was ends the connection");
    assert!(stage.growth() <= 4 * 1024, "{} KiB more", stage.growth());
    stage.finish().await;
}

#[tokio::test]
async fn b7_tiny_data() {
    let stage = Stage::new().await;
    let open = || headers(1, flag::END_HEADERS, &request("POST", "/attack"));
    let padded = [&[254][..], &[0; 254]].concat();
    let table = [
        ("empty", flag::NONE, Vec::new()),
        ("one byte", flag::NONE, b"x".to_vec()),
        ("padding", flag::PADDED, padded),
    ];
    for (case, flags, payload) in &table {
        let frames = (0..50_000).map(|_| data(1, *flags, payload));
        let flooded = flood(stage.raw().await, true, std::iter::once(open()).chain(frames)).await;
        assert_calmed(&format!("{case} on an open stream"), &flooded);
        // The stream is over by the time that these come.
        let frames = (0..50_000).map(|_| data(1, *flags, payload));
        let over = [open(), reset(1, code::CANCEL)].concat();
        let flooded = flood(stage.raw().await, true, std::iter::once(over).chain(frames)).await;
        assert!(flooded.closed, "{case} on a reset stream: {flooded:?}");
    }
    assert!(stage.attacks() <= 3, "{}", stage.attacks());
    assert!(stage.growth() <= 4 * 1024, "{} KiB more", stage.growth());
    stage.finish().await;
}

/// What padding and dropped DATA took from the connection's window is given back: a long connection does not come to a stop.
#[tokio::test]
async fn b7_no_credit_is_lost() {
    let stage = Stage::scripted(|received| match received.target.as_str() {
        // Refused before its content is read.
        "/refused" => Answer::status(413),
        _ => Answer::echo(received),
    })
    .await;
    let mut raw = stage.raw().await;
    raw.send(&window_update(0, 0x3fff_ffff)).await.unwrap();
    let padded = [&[200][..], &[b'x'; 1_000], &[0; 200]].concat();
    // Far more than the connection's window, in padding and in content nobody reads.
    for number in 0..150 {
        let id = 1 + 2 * number;
        let path = if number % 2 == 0 { "/refused" } else { "/read" };
        let mut bytes = headers(id, flag::END_HEADERS, &request("POST", path));
        (0..48).for_each(|_| bytes.extend(data(id, flag::PADDED, &padded)));
        bytes.extend(data(id, flag::END_STREAM, b"end"));
        raw.send(&bytes).await.unwrap();
        let (status, _) = super::outcome(&mut raw, id).await;
        let expected = if number % 2 == 0 { 413 } else { 200 };
        assert_eq!(status, Some(expected), "stream {id}");
    }
    drop(raw);
    stage.finish().await;
}

#[tokio::test]
async fn b8_hpack_bombs() {
    let stage = Stage::new().await;
    let long = "v".repeat(3_900);
    let pseudo = block(&request("GET", "/attack"));
    // One large entry in the table, then thousands of one-byte references to it.
    let bomb = |name: &str, value: &str, count: usize, first: bool| {
        let mut bytes = pseudo.clone();
        if first {
            literal(0x40, name.as_bytes(), value.as_bytes(), &mut bytes);
        }
        bytes.extend(std::iter::repeat_n(0x80 | 62, count));
        bytes
    };
    for (name, value) in [("x-a", long.as_str()), ("cookie", &long), ("host", "app.test"), ("trailer", &long)]
    {
        let mut raw = stage.raw().await;
        for (number, id) in ids(20).enumerate() {
            let bytes = bomb(name, value, 12_000, number == 0);
            if raw.send(&frame(kind::HEADERS, flag::WHOLE, id, &bytes)).await.is_err() {
                break;
            }
        }
        let (frames, _) = raw.rest(QUIET).await;
        assert!(
            frames.iter().all(|frame| frame.status().is_none_or(|status| status >= 400)),
            "{name}: {frames:?}"
        );
    }
    // 16 MB of fields that differ.
    let value = "b".repeat(15_000);
    let more = block(&[("x-c", &value)]);
    let streams = ids(250).flat_map(|id| {
        let first = block(&[request("GET", "/attack"), vec![("x-b", &value)]].concat());
        let rest = (0..5).map(|_| frame(kind::CONTINUATION, flag::NONE, id, &more));
        std::iter::once(frame(kind::HEADERS, flag::END_STREAM, id, &first)).chain(rest).collect::<Vec<_>>()
    });
    assert_calmed("16 MB", &flood(stage.raw().await, true, streams).await);
    assert_eq!(stage.attacks(), 0);
    assert!(stage.growth() <= 1024, "{} KiB more", stage.growth());
    stage.finish().await;
}

/// An honest client may give up on a page, keep alive for long, type, and stream small messages.
#[tokio::test]
async fn honest_clients_are_never_cut() {
    let gate = Gate::new();
    let held = gate.clone();
    let stage = Stage::scripted(move |received| match received.target.as_str() {
        "/slow" => Answer::text("late").after(&held),
        _ => Answer::text("ok"),
    })
    .await;
    let mut raw: Raw = stage.raw().await;
    let mut next = ids(u32::MAX / 4);
    let mut id = || next.next().expect("a stream");
    for _ in 0..10 {
        // A page of a hundred resources, read, then one that is left before anything came.
        for _ in 0..100 {
            let id = id();
            raw.send(&[get(id, "/resource"), frame(kind::PRIORITY, flag::NONE, id, &[0; 5])].concat())
                .await
                .unwrap();
            assert_eq!(super::outcome(&mut raw, id).await, (Some(200), None));
        }
        let left: Vec<u32> = (0..100).map(|_| id()).collect();
        for id in &left {
            raw.send(&get(*id, "/slow")).await.unwrap();
        }
        for id in &left {
            raw.send(&reset(*id, code::CANCEL)).await.unwrap();
        }
        raw.send(&frame(kind::PING, flag::NONE, 0, &[1; 8])).await.unwrap();
    }
    let last = id();
    raw.send(&get(last, "/resource")).await.unwrap();
    assert_eq!(super::outcome(&mut raw, last).await, (Some(200), None));
    stage.flooded(0).await;
    gate.open();
    drop(raw);
    stage.finish().await;
}
