//! What came of it: the verdict, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::board::{Board, State};
use super::plan::Action;
use super::security::Security;
use super::tally::{Split, Tally};
use super::words;

/// The result of a demo; its JSON is the last line of `--output json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    passed: bool,
    requests: u64,
    failed: u64,
    config_swaps: usize,
    splits: Vec<SplitReport>,
    latency_ms: LatencyReport,
    failures: BTreeMap<String, u64>,
    failure_examples: Vec<String>,
    swaps: Vec<SwapReport>,
    endpoints_lost: usize,
    control_plane_restarts: usize,
    security: Security,
    reviews_answers: BTreeMap<String, u64>,
    traces_carried: u64,
    rate: u32,
    duration_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Shares are between 0 and 1.
#[derive(Clone, Debug, Serialize)]
struct SplitReport {
    configured: f64,
    observed: f64,
    requests: u64,
    tolerance: f64,
    kept: bool,
}

#[derive(Clone, Debug, Serialize)]
struct LatencyReport {
    p50: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
struct SwapReport {
    change: String,
    applied_ms: f64,
}

impl Report {
    /// Draws the sum. `error` is what broke the demo off, if anything did.
    pub(super) fn new(board: &Board, tally: &Tally, rate: u32, error: Option<String>) -> Self {
        let splits: Vec<SplitReport> = tally.splits.iter().map(SplitReport::new).collect();
        let done = |wanted: Action| {
            let lines = board.lines.iter();
            lines.filter(|line| line.action == wanted && matches!(line.state, State::Done(_))).count()
        };
        let in_millis = |duration: Option<Duration>| duration.map(rounded_millis);
        let all_kept = !splits.is_empty() && splits.iter().all(|split| split.kept);
        Self {
            passed: error.is_none()
                && tally.requests > 0
                && tally.failed == 0
                && all_kept
                && board.security.holds(),
            requests: tally.requests,
            failed: tally.failed,
            config_swaps: board.swaps.len(),
            splits,
            latency_ms: LatencyReport {
                p50: in_millis(tally.latency.quantile(0.5)),
                p99: in_millis(tally.latency.quantile(0.99)),
                max: in_millis(tally.latency.longest()),
            },
            failures: tally.failures.clone(),
            failure_examples: tally.examples.clone(),
            swaps: board
                .swaps
                .iter()
                .map(|swap| SwapReport { change: swap.change.clone(), applied_ms: rounded_millis(swap.took) })
                .collect(),
            endpoints_lost: done(Action::LosePod),
            control_plane_restarts: done(Action::RestartControlPlane),
            security: board.security.clone(),
            reviews_answers: tally.pods.clone(),
            traces_carried: tally.traced,
            rate,
            duration_seconds: board.duration.as_secs_f64(),
            error,
        }
    }

    /// Whether no request failed and every split was kept.
    pub(super) fn passed(&self) -> bool {
        self.passed
    }

    /// One line of JSON.
    pub(super) fn json(&self) -> String {
        // Strings and numbers only: there is nothing in it that cannot be written.
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    /// A short page for people.
    pub(super) fn text(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _written = self.write(&mut page);
        page
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let verdict = if self.passed { "passed" } else { "FAILED" };
        writeln!(page, "sidegate demo: {verdict}\n")?;
        writeln!(
            page,
            "  requests   {} in {} s at {}/s; {} failed",
            words::count(self.requests),
            self.duration_seconds,
            self.rate,
            words::count(self.failed)
        )?;
        for (class, count) in &self.failures {
            writeln!(page, "             {} × {class}", words::count(*count))?;
        }
        let latency = &self.latency_ms;
        let millis =
            |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1} ms"));
        writeln!(
            page,
            "  latency    p50 {}, p99 {}, longest {}; gateway → web → catalog → reviews and back",
            millis(latency.p50),
            millis(latency.p99),
            millis(latency.max)
        )?;
        self.write_splits(page)?;
        self.write_swaps(page)?;
        writeln!(
            page,
            "  survived   {} endpoint lost, {} control plane restart",
            self.endpoints_lost, self.control_plane_restarts
        )?;
        self.write_security(page)?;
        let pods: Vec<String> = self
            .reviews_answers
            .iter()
            .map(|(pod, count)| format!("{pod} {}", words::count(*count)))
            .collect();
        writeln!(page, "  answers    {}", if pods.is_empty() { "none".to_owned() } else { pods.join(", ") })?;
        writeln!(
            page,
            "  traces     {} of {} reached reviews with the id they began with",
            words::count(self.traces_carried),
            words::count(self.requests)
        )?;
        for example in &self.failure_examples {
            writeln!(page, "  failure    {example}")?;
        }
        Ok(())
    }

    fn write_security(&self, page: &mut String) -> std::fmt::Result {
        let Security { edges, without_tls, .. } = &self.security;
        let edges: Vec<String> =
            edges.iter().map(|(edge, count)| format!("{edge} {}", words::count(*count))).collect();
        writeln!(page, "  mutual TLS {}; without TLS {}", edges.join(", "), words::count(*without_tls))?;
        let forbidden = if self.security.forbidden_denied { "denied by policy" } else { "NOT DENIED" };
        writeln!(
            page,
            "  refused    plaintext by {} of {} sidecars; web → reviews {forbidden}",
            self.security.plaintext_refused, self.security.plaintext_tried
        )?;
        let renewed = self.security.root_rotated_ms.map_or_else(
            || "the root of trust was not exchanged".to_owned(),
            |millis| format!("the root of trust exchanged in {millis} ms"),
        );
        let next = self.security.next_expiry_seconds.map_or_else(
            || "unknown".to_owned(),
            |seconds| format!("in {} h {} min", seconds / 3600, seconds / 60 % 60),
        );
        writeln!(page, "  identity   {renewed}; the next certificate expires {next}")
    }

    fn write_splits(&self, page: &mut String) -> std::fmt::Result {
        for (index, split) in self.splits.iter().enumerate() {
            let head = if index == 0 { "splits" } else { "" };
            let verdict = if split.kept { "kept" } else { "NOT KEPT" };
            writeln!(
                page,
                "  {head:<9}  v2 {:>6} configured, {:>6} observed in {:>6} answers: {verdict} (5σ = {})",
                words::percent(split.configured),
                words::percent(split.observed),
                words::count(split.requests),
                words::percent(split.tolerance)
            )?;
        }
        Ok(())
    }

    fn write_swaps(&self, page: &mut String) -> std::fmt::Result {
        let times = self.swaps.iter().map(|swap| swap.applied_ms);
        let (fastest, slowest) =
            times.fold((f64::INFINITY, 0.0_f64), |(low, high), took| (low.min(took), high.max(took)));
        match self.swaps.len() {
            0 => writeln!(page, "  config     no swap"),
            count => writeln!(
                page,
                "  config     {count} swaps; from the edit of a file to every proxy: {fastest:.0} to {slowest:.0} ms"
            ),
        }
    }
}

impl SplitReport {
    fn new(split: &Split) -> Self {
        let rounded = |share: f64| (share * 1e6).round() / 1e6;
        Self {
            configured: split.configured,
            observed: rounded(split.observed()),
            requests: split.requests,
            tolerance: rounded(split.tolerance()),
            kept: split.kept(),
        }
    }
}

fn rounded_millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::board::Swap;
    use crate::demo::plan;

    fn board() -> Board {
        let duration = Duration::from_secs(60);
        let mut board = Board::new(duration, &plan::steps(duration));
        for line in &mut board.lines {
            line.state = State::Done(String::new());
        }
        board.security = Security {
            plaintext_tried: 5,
            plaintext_refused: 5,
            forbidden_denied: true,
            edges: BTreeMap::from([("web → catalog".to_owned(), 12_000)]),
            ..Security::default()
        };
        board.swaps.push(Swap { change: "move the canary".to_owned(), took: Duration::from_micros(81_250) });
        board
    }

    fn tally() -> Tally {
        let mut tally = Tally::default();
        (tally.requests, tally.traced) = (12_000, 12_000);
        tally.splits = vec![
            Split { configured: 0.1, requests: 3_000, canary: 310 },
            Split { configured: 1.0, requests: 3_000, canary: 3_000 },
        ];
        tally.latency.record(Duration::from_millis(3));
        tally
    }

    #[test]
    fn the_last_line_has_what_programs_read() {
        let report = Report::new(&board(), &tally(), 200, None);
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["requests"], 12_000);
        assert_eq!(json["failed"], 0);
        assert_eq!(json["config_swaps"], 1);
        assert_eq!(json["splits"][0]["configured"], 0.1);
        assert_eq!(json["splits"][0]["observed"], 0.103_333);
        assert_eq!(json["splits"][0]["requests"], 3_000);
        assert_eq!(json["latency_ms"]["p50"], 3.0);
        assert_eq!(json["swaps"][0]["applied_ms"], 81.25);
        assert!(!report.json().contains('\n'));
        assert!(report.passed());
    }

    #[test]
    fn one_failed_request_fails_the_demo_and_is_named() {
        let mut tally = tally();
        tally.failed = 1;
        tally.failures.insert("503 no_endpoint".to_owned(), 1);
        let report = Report::new(&board(), &tally, 200, None);
        assert!(!report.passed());
        assert!(
            report.text().contains("FAILED") && report.text().contains("1 × 503 no_endpoint"),
            "{}",
            report.text()
        );
    }

    #[test]
    fn one_split_out_of_bounds_fails_the_demo() {
        let mut tally = tally();
        tally.splits[1].canary -= 1;
        let report = Report::new(&board(), &tally, 200, None);
        assert!(!report.passed());
        assert!(report.text().contains("NOT KEPT"));
    }

    #[test]
    fn a_demo_that_broke_off_did_not_pass() {
        assert!(!Report::new(&board(), &tally(), 200, Some("the gateway died".to_owned())).passed());
        assert!(!Report::new(&board(), &Tally::default(), 200, None).passed());
    }

    #[test]
    fn people_read_a_page() {
        let text = Report::new(&board(), &tally(), 200, None).text();
        assert!(text.starts_with("sidegate demo: passed\n"), "{text}");
        assert!(text.contains("12 000 in 60 s at 200/s; 0 failed"), "{text}");
        assert!(
            text.contains("v2   10 % configured, 10.3 % observed in  3 000 answers: kept (5σ = 2.7 %)"),
            "{text}"
        );
    }
}
