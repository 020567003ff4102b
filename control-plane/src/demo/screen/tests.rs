//! The screen as text, without a terminal.

use super::*;
use crate::demo::plan;

fn board() -> Board {
    let duration = Duration::from_secs(60);
    Board::new(duration, &plan::steps(duration))
}

fn text(page: &[Spans]) -> String {
    page.iter().map(|line| render(line, 200, false) + "\n").collect()
}

#[tokio::test(start_paused = true)]
async fn before_traffic_only_the_script_is_shown() {
    let mut board = board();
    board.notes.push("port 8080 is in use: the gateway listens on 8081".to_owned());
    let text = text(&page(&board, &Tally::default(), Instant::now()));
    assert!(text.starts_with("sidegate demo  starting\n  port 8080 is in use"), "{text}");
    assert!(text.contains("  · 0:13  move the canary to 50 %\n"), "{text}");
    assert!(!text.contains("latency"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn under_traffic_the_split_stands_beside_the_configured_one() {
    let (mut board, mut tally) = (board(), Tally::default());
    board.began = Some(Instant::now());
    board.applied.generation = Some(3);
    (board.applied.at, board.applied.of) = (5, 6);
    tally.splits.push(Split { configured: 0.5, requests: 1_000, canary: 493 });
    tally.requests = 1_000;
    tally.failed = 1;
    let text = text(&page(&board, &tally, Instant::now()));
    assert!(text.contains("99.90 % ok, 1 failed"), "{text}");
    assert!(text.contains("████████████████████░░░░░░░░░░░░░░░░░░░░  v2 50 %\n"), "{text}");
    assert!(text.contains("v2 49.3 %  of 1 000 answers"), "{text}");
    assert!(text.contains("version 3 applied at 5 of 6 proxies; no swap yet"), "{text}");
}

#[test]
fn a_line_never_wraps() {
    let spans = vec![(Look::Bold, "twelve chars".to_owned()), (Look::Dim, "and some more".to_owned())];
    assert_eq!(render(&spans, 15, false), "twelve charsand");
    assert_eq!(render(&spans, 5, true), "\x1b[1mtwelv\x1b[0m\x1b[2m\x1b[0m");
}

#[test]
fn progress_lines_are_told_once() {
    let mut board = board();
    let mut told = Told::default();
    board.gateway = Some("http://127.0.0.1:8080".to_owned());
    assert_eq!(told.news(&board), ["gateway: http://127.0.0.1:8080", "starting…"]);
    assert!(told.news(&board).is_empty());
    board.lines[0].state = State::Done("applied everywhere after 80 ms".to_owned());
    board.doing = board.lines[0].action.to_string();
    assert_eq!(
        told.news(&board),
        [" 0:03  try plaintext, and a forbidden call: applied everywhere after 80 ms"]
    );
    assert!(told.news(&board).is_empty());
}

#[test]
fn bars_are_as_long_as_their_share() {
    for (share, filled) in [(0.0, 0), (0.1, 4), (0.5, 20), (1.0, 40), (1.1, 40)] {
        assert_eq!(bar(share).chars().filter(|&cell| cell == '█').count(), filled);
        assert_eq!(bar(share).chars().count(), BAR);
    }
}
