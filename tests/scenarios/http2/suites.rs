//! B1: suites that nobody here wrote. Skipped where the program is not at hand; `cargo xtask test` installs it.

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
