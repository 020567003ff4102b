//! What the load sees: requests, failures and why, latencies, and the split as the `reviews` processes report it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::latency::Histogram;

/// The counters, shared by the requests in flight (each writes once, when it ends), the conductor (opens and closes
/// split windows) and the screen (reads). Locked for a few additions, never across an await.
#[derive(Clone, Debug)]
pub(super) struct SharedTally(Arc<Mutex<Tally>>);

impl SharedTally {
    /// All zero.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Tally::default())))
    }

    /// The counters, for as long as the returned value lives.
    pub(super) fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who answered, in the words of the answer itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The version of `reviews`.
    pub(super) version: String,
    /// The Pod of `reviews`.
    pub(super) pod: String,
    /// Whether the trace that the request began with reached `reviews`.
    pub(super) traced: bool,
}

/// How one request ended.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// When it should have been sent: latency counts from here, so a stall is not hidden.
    pub(super) intended: Instant,
    /// The split window that was open when it was sent.
    pub(super) window: Option<usize>,
    /// The answer, or why there is none: a class that repeats, and the whole text.
    pub(super) result: Result<Answer, Failure>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Short, to be counted by.
    pub(super) class: String,
    /// Everything known.
    pub(super) detail: String,
}

/// Everything counted so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Requests that ended.
    pub(super) requests: u64,
    /// Those that failed.
    pub(super) failed: u64,
    /// Failures by class.
    pub(super) failures: BTreeMap<String, u64>,
    /// The first few failures in full.
    pub(super) examples: Vec<String>,
    /// Latencies of all requests, failed ones too.
    pub(super) latency: Histogram,
    /// Answers by Pod of `reviews`.
    pub(super) pods: BTreeMap<String, u64>,
    /// Answers that still carried the trace they began with.
    pub(super) traced: u64,
    /// One entry for each split window, in order.
    pub(super) splits: Vec<Split>,
    open: Option<usize>,
    /// Requests that were sent in a window and have not ended.
    in_flight: u64,
    recent: VecDeque<Second>,
}

impl Tally {
    /// From now on, requests that are sent count for a split with this share of version 2.
    pub(super) fn open_window(&mut self, configured: f64) {
        self.open = Some(self.splits.len());
        self.splits.push(Split { configured, requests: 0, canary: 0 });
    }

    /// Requests that are sent from now on count for no split.
    pub(super) fn close_window(&mut self) {
        self.open = None;
    }

    /// A request is sent now; returns the open window, to be told when it ends.
    pub(super) fn send(&mut self) -> Option<usize> {
        self.in_flight += u64::from(self.open.is_some());
        self.open
    }

    /// Whether every request that was sent in a window has ended.
    pub(super) fn is_settled(&self) -> bool {
        self.in_flight == 0
    }

    /// Counts a request that ended `now`.
    pub(super) fn record(&mut self, outcome: Outcome, now: Instant) {
        let latency = now.saturating_duration_since(outcome.intended);
        self.requests += 1;
        self.in_flight -= u64::from(outcome.window.is_some());
        self.latency.record(latency);
        match outcome.result {
            Ok(answer) => self.record_answer(&answer, outcome.window),
            Err(failure) => self.record_failure(failure),
        }
        let second = self.current_second(now);
        second.requests += 1;
        second.latency.record(latency);
    }

    fn record_answer(&mut self, answer: &Answer, window: Option<usize>) {
        if let Some(split) = window.and_then(|index| self.splits.get_mut(index)) {
            split.requests += 1;
            split.canary += u64::from(answer.version == CANARY_VERSION);
        }
        self.traced += u64::from(answer.traced);
        match self.pods.get_mut(&answer.pod) {
            Some(count) => *count += 1,
            None => drop(self.pods.insert(answer.pod.clone(), 1)),
        }
    }

    fn record_failure(&mut self, failure: Failure) {
        self.failed += 1;
        *self.failures.entry(failure.class).or_default() += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(failure.detail);
        }
    }

    fn current_second(&mut self, now: Instant) -> &mut Second {
        if self.recent.back().is_none_or(|second| now.duration_since(second.began) >= Duration::from_secs(1))
        {
            if self.recent.len() == RECENT_SECONDS {
                self.recent.pop_front();
            }
            self.recent.push_back(Second { began: now, requests: 0, latency: Histogram::default() });
        }
        let last = self.recent.len() - 1;
        &mut self.recent[last]
    }

    /// The last few seconds, for the screen.
    pub(super) fn recent(&self, now: Instant) -> Recent {
        let mut recent = Recent::default();
        let mut latency = Histogram::default();
        let fresh = self.recent.iter().filter(|second| {
            now.duration_since(second.began) <= Duration::from_secs(RECENT_SECONDS as u64 + 1)
        });
        let mut began = None;
        for second in fresh {
            began = began.or(Some(second.began));
            recent.requests += second.requests;
            latency.add(&second.latency);
        }
        let elapsed = began.map_or(Duration::ZERO, |began| now.duration_since(began));
        recent.per_second = recent.requests as f64 / elapsed.as_secs_f64().max(1.0);
        recent.p50 = latency.quantile(0.5);
        recent.p99 = latency.quantile(0.99);
        recent
    }
}

/// A second's worth of outcomes.
#[derive(Debug)]
struct Second {
    began: Instant,
    requests: u64,
    latency: Histogram,
}

/// The last few seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Recent {
    /// Requests that ended.
    pub(super) requests: u64,
    /// The same, per second.
    pub(super) per_second: f64,
    /// The median latency.
    pub(super) p50: Option<Duration>,
    /// The 99th percentile of latency.
    pub(super) p99: Option<Duration>,
}

/// One configured split and what came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Split {
    /// The share of version 2 that the manifests ask for, 0 to 1.
    pub(super) configured: f64,
    /// Answered requests that were sent while it was applied at every proxy.
    pub(super) requests: u64,
    /// Those that version 2 answered.
    pub(super) canary: u64,
}

impl Split {
    /// The share of version 2 among the answers.
    pub(super) fn observed(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.canary as f64 / self.requests as f64 }
    }

    /// How far the observed share may lie from the configured one: five standard deviations of a fair draw.
    pub(super) fn tolerance(&self) -> f64 {
        let variance = self.configured * (1.0 - self.configured);
        5.0 * (variance / self.requests.max(1) as f64).sqrt()
    }

    /// Whether the split was kept; a split that nobody saw was not.
    pub(super) fn kept(&self) -> bool {
        self.requests > 0 && (self.observed() - self.configured).abs() <= self.tolerance() + ROUNDING
    }
}

/// The version whose share is the split.
const CANARY_VERSION: &str = "v2";
/// Far below one answer in a demo of any length, far above what a float loses.
const ROUNDING: f64 = 1e-12;
const EXAMPLES: usize = 5;
const RECENT_SECONDS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(version: &str) -> Result<Answer, Failure> {
        Ok(Answer { version: version.to_owned(), pod: format!("reviews-{version}-1"), traced: true })
    }

    fn split(configured: f64, canary: u64, requests: u64) -> Split {
        Split { configured, requests, canary }
    }

    #[test]
    fn five_sigma_of_a_coin() {
        // One standard deviation of 10 000 throws is 50.
        assert!(split(0.5, 5_250, 10_000).kept());
        assert!(!split(0.5, 5_251, 10_000).kept());
        assert!(split(0.5, 4_750, 10_000).kept());
        assert!(!split(0.5, 4_749, 10_000).kept());
    }

    #[test]
    fn everything_means_everything() {
        assert!(split(1.0, 3_000, 3_000).kept());
        assert!(!split(1.0, 2_999, 3_000).kept());
        assert!(!split(0.0, 1, 3_000).kept());
    }

    #[test]
    fn a_split_that_nobody_saw_was_not_kept() {
        assert!(!split(0.1, 0, 0).kept());
        assert!(!split(1.0, 0, 0).kept());
    }

    #[tokio::test(start_paused = true)]
    async fn only_requests_sent_in_a_window_count_for_its_split() {
        let mut tally = Tally::default();
        let now = Instant::now();
        let end = |tally: &mut Tally, window, result| {
            tally.record(Outcome { intended: now, window, result }, now);
        };
        let before = tally.send();
        end(&mut tally, before, answer("v1"));
        tally.open_window(0.5);
        let (first, slow) = (tally.send(), tally.send());
        end(&mut tally, first, answer("v2"));
        tally.close_window();
        assert_eq!((tally.send(), tally.is_settled()), (None, false));
        tally.open_window(1.0);
        // Sent in the first window, answered in the second.
        end(&mut tally, slow, answer("v1"));
        assert!(tally.is_settled());
        assert_eq!(tally.splits, [split(0.5, 1, 2), split(1.0, 0, 0)]);
        assert_eq!(tally.requests, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_by_class_and_shown_a_few_times() {
        let mut tally = Tally::default();
        let now = Instant::now();
        for number in 0..9 {
            let failure = Failure { class: "503".to_owned(), detail: format!("request {number}") };
            tally.record(Outcome { intended: now, window: None, result: Err(failure) }, now);
        }
        assert_eq!((tally.requests, tally.failed), (9, 9));
        assert_eq!(tally.failures["503"], 9);
        assert_eq!(tally.examples.len(), EXAMPLES);
    }

    #[tokio::test(start_paused = true)]
    async fn the_recent_seconds_forget() {
        let mut tally = Tally::default();
        let began = Instant::now();
        for second in 0..20 {
            let now = began + Duration::from_secs(second);
            for _ in 0..10 {
                tally.record(Outcome { intended: now, window: None, result: answer("v1") }, now);
            }
        }
        let recent = tally.recent(began + Duration::from_secs(20));
        assert_eq!(recent.requests, 50);
        assert!((recent.per_second - 10.0).abs() < 0.1, "{recent:?}");
        assert_eq!(tally.recent(began + Duration::from_secs(60)).requests, 0);
    }
}
