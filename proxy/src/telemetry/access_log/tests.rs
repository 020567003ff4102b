//! The way of a line from a worker to a file.

use std::io::Read;
use std::process::Command;

use super::*;
use crate::telemetry::Metrics;
use crate::telemetry::tests::record;

fn log(path: &std::path::Path) -> Vec<Arc<AccessLog>> {
    let format = LogFormat::parse_text("%REQ(:METHOD)%").unwrap();
    vec![Arc::new(AccessLog { path: path.to_str().unwrap().into(), format })]
}

#[test]
fn what_was_logged_before_a_flush_is_in_the_file_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let metrics = Metrics::new(2);
    let logs = log(&path);
    for round in 1..=3 {
        for worker in 0..2 {
            let recorder = metrics.recorder(worker);
            (0..100).for_each(|_| recorder.exchange_ended(record(), &logs));
        }
        metrics.flush_logs(Duration::from_secs(20));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| *line == "GET").count(), round * 200);
    }
    let totals = metrics.outlets().totals();
    assert_eq!(totals, LogTotals { written: 600, dropped: 0, failed: 0 });
}

#[test]
fn a_reader_that_does_not_read_costs_lines_but_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    let format = LogFormat::parse_text(&"x".repeat(64 * 1024)).unwrap();
    let logs = [Arc::new(AccessLog { path: path.to_str().unwrap().into(), format })];
    // Twice what the queue holds: this loop would never end if a worker waited for the pipe.
    for _ in 0..2 * QUEUE_BYTES / (64 * 1024) {
        recorder.exchange_ended(record(), &logs);
    }
    let totals = metrics.outlets().totals();
    assert!(totals.dropped > 0, "{totals:?}");
    // Lets the writing thread end.
    let drain = std::thread::spawn(move || {
        let mut buffer = vec![0; 1024 * 1024];
        while reader.read(&mut buffer).is_ok_and(|count| !buffer[..count].contains(&b'!')) {}
    });
    metrics.flush_logs(Duration::from_secs(20));
    let last = LogFormat::parse_text("!").unwrap();
    let logs = [Arc::new(AccessLog { path: path.to_str().unwrap().into(), format: last })];
    recorder.exchange_ended(record(), &logs);
    drain.join().unwrap();
}

#[test]
fn a_full_disk_is_counted() {
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    recorder.exchange_ended(record(), &log(std::path::Path::new("/dev/full")));
    metrics.flush_logs(Duration::from_secs(20));
    assert_eq!(metrics.outlets().totals(), LogTotals { written: 0, dropped: 0, failed: 1 });
}

#[test]
fn files_past_the_bound_are_refused_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    for number in 0..OUTLETS + 3 {
        recorder.exchange_ended(record(), &log(&folder.path().join(number.to_string())));
    }
    metrics.flush_logs(Duration::from_secs(20));
    let totals = metrics.outlets().totals();
    assert_eq!(totals, LogTotals { written: OUTLETS as u64, dropped: 3, failed: 0 });
}
