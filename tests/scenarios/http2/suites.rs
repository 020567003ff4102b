//! B1, B2: suites that nobody here wrote. Skipped where the program is not at hand; `cargo xtask test` installs it.

use std::path::PathBuf;
use std::process::Stdio;

use sidegate_tests::gateway::Gateway;
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::wait;
use tokio::process::Command;

use super::Stage;

/// A program of somebody else's, by the variable that names it.
fn program(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from);
    if found.is_none() {
        eprintln!("SKIPPED: {variable} names no program");
    }
    found
}

/// The lines of a run of h2spec that tell of failures, and its summary.
async fn h2spec(program: &PathBuf, stage: &Stage, flags: &[&str]) -> (Vec<String>, String) {
    let address = stage.proxy.address;
    let mut command = Command::new(program);
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-o", "3"]);
    command.args(flags).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(5 * wait::DEADLINE, command.output()).await;
    let output = output.expect("h2spec ends").expect("h2spec starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = text.lines().map(str::trim).filter(|line| line.starts_with('×')).map(str::to_owned);
    let mut failed: Vec<String> = failed.collect();
    failed.sort();
    failed.dedup();
    let summary = text.lines().rev().find(|line| line.contains("tests,")).unwrap_or(&text).to_owned();
    (failed, summary)
}

#[tokio::test]
async fn b1_h2spec() {
    let Some(program) = program("SIDEGATE_TEST_H2SPEC") else { return };
    let origin = Origin::http1(|_| Answer::text(&"content ".repeat(100))).await;
    let gateway = Gateway::to(&[origin.address()]);
    let stage = Stage::start(origin, gateway).await;
    for flags in [&[][..], &["--strict"]] {
        let (failed, summary) = h2spec(&program, &stage, flags).await;
        println!("{flags:?}: {summary}");
        assert_eq!(failed, ACCEPTED, "{summary}");
    }
    stage.finish().await;
}

/// What h2spec would have otherwise: a broken preface is answered as the HTTP/1.1 request that it then is, with 400 and a close, because the
/// port speaks both.
const ACCEPTED: [&str; 1] = ["× 2: Sends invalid connection preface"];

/// What httpwg says of each case that it does not take for passed, and how many passed of how many.
///
/// Its cases run one after the other: where many connections share its ring, it takes the end of one for that of another.
async fn httpwg(program: &PathBuf, stage: &Stage) -> (Vec<String>, String) {
    let address = stage.proxy.address.to_string();
    let mut command = Command::new(program);
    command.args(["--address", &address, "--connect-timeout", "10000", "--frame-timeout", PATIENCE]);
    command.env("SEQUENTIAL", "1").env("RUST_LOG", "off").env("RUST_BACKTRACE", "0").env("NO_COLOR", "1");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(5 * wait::DEADLINE, command.output()).await;
    let output = output.expect("httpwg ends").expect("httpwg starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let failed = text.lines().filter_map(|line| line.split_once("Test failed: "));
    let mut failed: Vec<String> =
        failed.map(|(_, name)| name.trim_start_matches("RFC 9113 :: ").to_owned()).collect();
    // A case that finds the connection closed ends in a panic of its own, and is on neither list.
    if !text.contains(&format!("Test passed: RFC 9113 :: {RACED}"))
        && !failed.iter().any(|case| case == RACED)
    {
        failed.push(RACED.to_owned());
    }
    failed.sort();
    let summary = text.lines().rev().find(|line| line.contains(" tests in ")).unwrap_or(&text);
    // Two of its numbers stand in colours.
    (failed, summary.replace("\u{1b}[1;32m", "").replace("\u{1b}[0m", ""))
}

#[tokio::test]
async fn b2_httpwg() {
    let Some(program) = program("SIDEGATE_TEST_HTTPWG") else { return };
    let origin = Origin::http1(|_| Answer::text(&"content ".repeat(100))).await;
    let gateway = Gateway::to(&[origin.address()]);
    let stage = Stage::start(origin, gateway).await;
    let (failed, summary) = httpwg(&program, &stage).await;
    println!("{summary}");
    let differences: Vec<&str> = DIFFERENCES.iter().flat_map(|(_, cases)| cases.iter().copied()).collect();
    let new: Vec<_> = failed.iter().filter(|case| !differences.contains(&case.as_str())).collect();
    assert!(new.is_empty(), "{new:#?}: {summary}");
    let passed = 107 - failed.len();
    assert!(summary.contains(&format!("{passed}/107 tests")), "{summary}");
    stage.finish().await;
}

/// How long httpwg waits for a frame. It waits so long once for each difference that is a status instead of a reset.
const PATIENCE: &str = "2000";

/// Passes or not, by what comes first.
const RACED: &str = "7. error codes :: sends goaway frame with unknown error code";

/// Where we differ from what httpwg wants, each group with its reason. Every one of these messages is refused.
const DIFFERENCES: [(&str, &[&str]); 5] = [
    (
        "A client that says GOAWAY and has no stream open has said goodbye: the connection is closed, sometimes before the PING that the case \
         sends after it.",
        &[RACED],
    ),
    (
        "The connection ends with PROTOCOL_ERROR instead of the code that fits best: so says the h2 crate. RFC 9113 §5.4.1 lets an \
         endpoint end more than the stream, and the code only tells people why.",
        &[
            "4. http frames :: invalid header block fragment",
            "5. streams and multiplexing :: closed sends headers frame",
            "5. streams and multiplexing :: closed sends headers frame after rst stream",
            "5. streams and multiplexing :: half closed remote sends data frame",
            "5. streams and multiplexing :: half closed remote sends headers frame",
            "6. frame definitions :: sends data frame on invalid stream state",
            "6. frame definitions :: sends ping frame with invalid length",
            "6. frame definitions :: sends priority frame with invalid length",
            "6. frame definitions :: sends rst stream frame with invalid length",
            "6. frame definitions :: sends settings frame with ack and payload",
            "6. frame definitions :: sends settings frame with invalid length",
            "6. frame definitions :: sends settings initial window size with exceeded max window size value",
            "6. frame definitions :: sends settings initial window size with invalid value",
            "6. frame definitions :: sends window update frame with invalid length",
        ],
    ),
    (
        "Answered with 400 instead of a reset, as RFC 9113 §8.1.1 allows, so that the log and the client have a reason.",
        &[
            "8. expressing http semantics in http2 :: sends connect without authority",
            "8. expressing http semantics in http2 :: sends headers frame with leading space in field value",
            "8. expressing http semantics in http2 :: sends headers frame with mismatched host authority",
            "8. expressing http semantics in http2 :: sends headers frame with trailing tab in field value",
        ],
    ),
    (
        "The h2 crate drops pseudo-header fields of trailers before we see them; none is passed on (b12_pseudo_headers_in_trailers).",
        &["8. expressing http semantics in http2 :: sends headers frame with pseudo header in trailer"],
    ),
    (
        "The case sends a PUSH_PROMISE without END_HEADERS, and no CONTINUATION: the frame has not ended, and its connection is cut when its \
         time is over (b5_headers_that_never_end).",
        &["8. expressing http semantics in http2 :: client sends push promise frame"],
    ),
];
