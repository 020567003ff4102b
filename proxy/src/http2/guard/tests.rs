use std::time::Duration;

use super::*;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags, 0, 0, 0, 1]);
    bytes.extend_from_slice(payload);
    bytes
}

fn guard() -> Guard {
    strict(Budgets::default())
}

fn strict(budgets: Budgets) -> Guard {
    let guard = Guard::new(budgets, true);
    assert_eq!(guard.received(&[b'P'; PREFACE]), PREFACE);
    guard
}

/// How many of these frames pass before the cut.
fn passed(guard: &Guard, bytes: &[u8], most: usize) -> usize {
    (0..most).find(|_| guard.received(bytes) < bytes.len() || guard.cut().is_some()).unwrap_or(most)
}

const REQUEST: u8 = END_STREAM | END_HEADERS;

#[tokio::test(start_paused = true)]
async fn a_hundred_resets_for_nothing_are_the_last() {
    let guard = guard();
    let mut pair = frame(HEADERS, REQUEST, &[0x82]);
    pair.extend(frame(RST_STREAM, 0, &[0, 0, 0, 8]));
    assert_eq!(passed(&guard, &pair, 5_000), 99);
    assert_eq!(guard.cut(), Some(Cut::Resets));
    assert_eq!(guard.tripped().await, Cut::Resets);
}

#[tokio::test(start_paused = true)]
async fn resets_are_set_against_answers_and_time() {
    let guard = guard();
    let reset = frame(RST_STREAM, 0, &[0, 0, 0, 8]);
    for _ in 0..1_000 {
        guard.answered();
        assert_eq!(passed(&guard, &reset, 1), 1);
    }
    // Ninety at once, every five seconds, as long as you like.
    for _ in 0..100 {
        assert_eq!(passed(&guard, &reset, 90), 90);
        tokio::time::advance(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn time_spent_idle_is_no_credit() {
    let guard = guard();
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert_eq!(passed(&guard, &frame(RST_STREAM, 0, &[0, 0, 0, 8]), 5_000), 99);
}

#[tokio::test(start_paused = true)]
async fn a_client_may_give_up_on_everything_it_has_open() {
    let guard = guard();
    let reset = frame(RST_STREAM, 0, &[0, 0, 0, 8]);
    guard.set_active(1_000);
    assert_eq!(passed(&guard, &reset, 1), 1);
    guard.set_active(0);
    assert_eq!(passed(&guard, &reset, 999), 999);
    assert_eq!(passed(&guard, &reset, 2), 0);
}

#[tokio::test(start_paused = true)]
async fn resets_that_we_are_made_to_send_count_like_the_peers() {
    for (code, most) in [(MALFORMED, 100), (FLOW_CONTROL, 100), (STREAM_CLOSED, 1_000), (REFUSED, 1_000)] {
        let guard = guard();
        guard.flushed();
        let code = code.to_be_bytes();
        let sent = (1..5_000).find(|_| {
            guard.sent(&frame(RST_STREAM, 0, &code));
            guard.flushed();
            guard.cut().is_some()
        });
        assert_eq!(sent, Some(most), "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn our_own_resets_are_not_the_peers_doing() {
    let guard = Guard::new(Budgets::default(), true);
    for code in [0_u32, 2, 8] {
        for _ in 0..5_000 {
            guard.sent(&frame(RST_STREAM, 0, &code.to_be_bytes()));
            guard.flushed();
        }
    }
    assert_eq!(guard.cut(), None);
}

#[tokio::test(start_paused = true)]
async fn frames_without_content_are_a_thousand_at_most() {
    let table = [
        (PING, 0, 8, Cut::Control),
        (PING, ACK, 8, Cut::Control),
        (SETTINGS, 0, 0, Cut::Control),
        (SETTINGS, ACK, 0, Cut::Control),
        (PRIORITY, 0, 5, Cut::Control),
        (0xf, 0, 100, Cut::Control),
        (DATA, 0, 0, Cut::Control),
        (DATA, 0, 1, Cut::Control),
        (WINDOW_UPDATE, 0, 4, Cut::WindowUpdates),
    ];
    for (kind, flags, length, cut) in table {
        let guard = guard();
        assert_eq!(passed(&guard, &frame(kind, flags, &vec![0; length]), 50_000), 999, "type {kind}");
        assert_eq!(guard.cut(), Some(cut));
    }
    let guard = self::guard();
    for _ in 0..5_000 {
        guard.sent(&frame(PING, 0, &[0; 8]));
        guard.flushed();
        assert_eq!(passed(&guard, &frame(PING, ACK, &[0; 8]), 1), 1, "what we asked for");
    }
    let padded: Vec<u8> = [&[254][..], &[0; 255]].concat();
    assert_eq!(passed(&self::guard(), &frame(DATA, 0x8, &padded), 50_000), 999);
}

#[tokio::test(start_paused = true)]
async fn what_a_busy_client_sends_is_no_flood() {
    let guard = guard();
    // Two million small messages on long streams, acknowledged one by one.
    let message = frame(DATA, 0, &[0, 0, 0, 0, 1, 7]);
    for _ in 0..200_000 {
        guard.received(&message);
        guard.sent(&message);
        guard.flushed();
        guard.received(&frame(WINDOW_UPDATE, 0, &[0, 0, 0, 6]));
        guard.received(&frame(WINDOW_UPDATE, 0, &[0, 0, 0, 6]));
    }
    // A keep-alive every second, keystrokes, and SETTINGS now and then, for a day.
    for second in 0..86_400 {
        guard.received(&frame(PING, 0, &[0; 8]));
        passed(&guard, &frame(DATA, 0, b"x"), 10);
        if second % 60 == 0 {
            guard.received(&frame(SETTINGS, 0, &[]));
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // Requests as a browser describes them.
    for _ in 0..10_000 {
        guard.received(&frame(HEADERS, REQUEST, &[0x82; 30]));
        passed(&guard, &frame(PRIORITY, 0, &[0; 5]), 4);
    }
    assert_eq!(guard.cut(), None);
}

#[tokio::test(start_paused = true)]
async fn header_blocks_are_bounded_in_frames_and_bytes() {
    let guard = guard();
    guard.received(&frame(HEADERS, 0, &[0x82]));
    assert!(guard.is_within_header_block());
    assert_eq!(passed(&guard, &frame(CONTINUATION, 0, &[]), 50_000), 16);
    assert_eq!(guard.cut(), Some(Cut::HeaderBlock));

    let guard = self::guard();
    guard.received(&frame(HEADERS, 0, &[0; 16_384]));
    assert_eq!(passed(&guard, &frame(CONTINUATION, 0, &[0; 16_384]), 50), 3);

    let guard = self::guard();
    for _ in 0..1_000 {
        guard.received(&frame(HEADERS, 0, &[0; 16_384]));
        guard.received(&frame(CONTINUATION, END_HEADERS, &[0; 16_384]));
    }
    assert!(!guard.is_within_header_block());
    assert_eq!(guard.cut(), None);
}

#[tokio::test(start_paused = true)]
async fn part_of_a_header_frame_is_part_of_a_block() {
    let guard = guard();
    let request = frame(HEADERS, REQUEST, &[0x82; 30]);
    guard.received(&request[..20]);
    assert!(guard.is_within_header_block());
    guard.received(&request[20..]);
    assert!(!guard.is_within_header_block());
    guard.received(&frame(DATA, 0, &[0; 30])[..20]);
    assert!(!guard.is_within_header_block());
}

#[tokio::test(start_paused = true)]
async fn configured_bounds_hold() {
    let budgets = Budgets { empty_frames: Some(1), priority_per_stream: Some(2), ..Budgets::default() };
    let guard = strict(budgets);
    assert_eq!(passed(&guard, &frame(DATA, 0, &[]), 10), 1);
    assert_eq!(guard.cut(), Some(Cut::EmptyFrames));
    let guard = strict(budgets);
    guard.received(&frame(HEADERS, REQUEST, &[0x82]));
    assert_eq!(passed(&guard, &frame(PRIORITY, 0, &[0; 5]), 10), 4);
    let guard = strict(Budgets { cut_on_malformed: true, ..Budgets::default() });
    guard.sent(&frame(RST_STREAM, 0, &[0, 0, 0, 1]));
    assert_eq!(guard.cut(), Some(Cut::Malformed));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_not_written_to_for_ever() {
    let guard = guard();
    let sent = (1..5_000).find(|_| {
        guard.sent(&frame(PING, ACK, &[0; 8]));
        guard.cut().is_some()
    });
    assert_eq!((sent, guard.cut()), (Some(1_001), Some(Cut::Outbound)));
}

#[tokio::test(start_paused = true)]
async fn large_frames_may_be_acknowledged_in_as_many_steps_as_small_ones() {
    // A Go server allows frames of 1 MiB, and acknowledges every 4 KiB that its handler reads, for the stream and for the connection.
    let guard = Guard::new(Budgets::default(), false);
    let piece = frame(DATA, 0, &vec![0; 64 * 1024]);
    for _ in 0..1_000 {
        guard.sent(&piece);
        guard.flushed();
        assert_eq!(passed(&guard, &frame(WINDOW_UPDATE, 0, &[0, 0, 16, 0]), 32), 32);
    }
    assert_eq!(guard.cut(), None);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_says_on_many_streams_may_be_short() {
    let guard = Guard::new(Budgets::default(), false);
    assert_eq!(passed(&guard, &frame(DATA, 0, &[0x81, 1, b'x']), 50_000), 50_000);
    assert_eq!(passed(&guard, &frame(DATA, 0x8, &[1, 0]), 50_000), 999, "padding says nothing");
}
