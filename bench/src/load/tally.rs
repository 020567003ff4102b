//! What came of the requests.

use std::cell::{Cell, RefCell};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Counts while the load runs.
#[derive(Default)]
pub(super) struct Tally {
    latencies: RefCell<Vec<u32>>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
}

/// One run of the load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Answers that were whole and as expected
    pub(crate) ok: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) seconds: f64,
    /// Microseconds from when a request was due to the end of its answer
    pub(crate) latency_median: u32,
    pub(crate) latency_p99: u32,
    pub(crate) latency_max: u32,
}

impl Tally {
    /// A good answer to a request that was due at `due`.
    pub(super) fn answered(&self, due: Instant) {
        self.latencies.borrow_mut().push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
    }

    /// A request, or a connection, that failed.
    pub(super) fn failed(&self, error: &anyhow::Error) {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
    }

    pub(super) fn report(&self, begun: Instant) -> Report {
        let mut latencies = self.latencies.borrow_mut();
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            latencies.get(index).or(latencies.last()).copied().unwrap_or(0)
        };
        Report {
            ok: latencies.len() as u64,
            errors: self.errors.get(),
            first_error: self.first_error.borrow().clone(),
            seconds: begun.elapsed().as_secs_f64(),
            latency_median: at(0.5),
            latency_p99: at(0.99),
            latency_max: at(1.0),
        }
    }
}
