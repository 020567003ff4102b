//! What is counted, logged and remembered. Hot paths touch only their worker's shard.
//!
//! Counting: a [`Recorder`] per worker adds to cells that only its thread writes; a scrape ([`Metrics::encode`]) sums them.
//! Logging: a line is formatted by the worker into its lane of the log's [outlet](access_log), which a thread of its own writes.
//! Remembering: the [flight recorder](flight) keeps why the proxy answered with an error, for `/why/{id}`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

mod access_log;
mod authorization;
mod cluster;
mod config;
mod counter;
mod exposition;
mod families;
mod filter_event;
mod flight;
mod format;
mod labels;
mod process;
mod record;
mod request;
mod shard;
mod stats;
mod totals;

pub(crate) use access_log::AccessLog;
pub(crate) use authorization::Authorized;
pub(crate) use cluster::{ClusterMetrics, ServiceName};
pub(crate) use config::ConfigMetrics;
pub(crate) use exposition::Exposition;
pub(crate) use filter_event::FilterEvent;
pub(crate) use flight::{parse_reason_id, reason_id_text};
pub(crate) use format::{HeaderFormat, LogFormat, rfc3339};
pub(crate) use labels::LocalWorkload;
pub(crate) use record::{Downstream, Record};
pub(crate) use shard::Recorder;
pub(crate) use totals::{ClusterState, IdentityState, Inputs};

/// The name under which everything past a bound on series is counted.
const OVERFLOW: &str = "overflow";

/// Series of one family, by default.
const SERIES_BOUND: usize = 2_000;

/// All of a process's telemetry.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bound: usize,
    series_bound: request::SeriesBound,
    clusters: cluster::Clusters,
    /// Every recorder's shard. Written when a recorder is made, read by scrapes.
    shards: Mutex<Vec<Arc<shard::Shard>>>,
    /// Which workers have their recorder.
    taken: Box<[AtomicBool]>,
    outlets: Arc<access_log::Outlets>,
    flight: flight::FlightRecorder,
    config: ConfigMetrics,
    panics: AtomicU64,
    local: OnceLock<LocalWorkload>,
    started: SystemTime,
}

impl Metrics {
    /// Telemetry for so many workers, and one more recorder (the last index) for the control thread.
    pub(crate) fn new(workers: usize) -> Self {
        Self::with_bound(workers, SERIES_BOUND)
    }

    fn with_bound(workers: usize, bound: usize) -> Self {
        let slots = workers + 1;
        let shared = Shared {
            bound,
            series_bound: request::SeriesBound::new(bound),
            clusters: cluster::Clusters::new(slots, bound),
            shards: Mutex::default(),
            taken: (0..slots).map(|_| AtomicBool::new(false)).collect(),
            outlets: Arc::new(access_log::Outlets::new(slots)),
            flight: flight::FlightRecorder::new(rand::random()),
            config: ConfigMetrics::default(),
            panics: AtomicU64::new(0),
            local: OnceLock::new(),
            started: SystemTime::now(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Says which workload this proxy stands beside, for Istio's labels. Once, before serving.
    pub(crate) fn set_local(&self, local: LocalWorkload) {
        // A second call would make old series lie; the first one holds.
        let _ = self.shared.local.set(local);
    }

    /// The cluster's counters; the same as before while somebody holds them.
    pub(crate) fn cluster(&self, name: &str, service: Option<ServiceName>) -> Arc<ClusterMetrics> {
        let (metrics, overflows) = self.shared.clusters.get(name, service);
        if overflows {
            self.shared.series_bound.note_overflow();
        }
        metrics
    }

    /// A worker's recorder. Counters have one writing thread, so a worker (`0..=workers`) has one at a time;
    /// clones of it stay on its thread.
    ///
    /// # Panics
    /// When the worker is out of range or has its recorder already: counts would be lost silently.
    pub(crate) fn recorder(&self, worker: usize) -> Recorder {
        let free = self.shared.taken.get(worker).is_some_and(|taken| !taken.swap(true, Ordering::AcqRel));
        assert!(free, "worker {worker} has no recorder to give");
        let shard = Arc::new(shard::Shard::default());
        self.shared.shards.lock().unwrap_or_else(PoisonError::into_inner).push(shard.clone());
        Recorder::new(self.clone(), worker, shard)
    }

    /// What the config staircase counts.
    pub(crate) fn config(&self) -> &ConfigMetrics {
        &self.shared.config
    }

    /// Code has panicked.
    pub(crate) fn panicked(&self) {
        self.shared.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Why the proxy answered with that error, as long as it is remembered.
    pub(crate) fn why(&self, id: u64) -> Option<serde_json::Value> {
        self.shared.flight.why(id)
    }

    /// The latest error replies, newest first, in brief.
    pub(crate) fn latest_reasons(&self, count: usize) -> Vec<serde_json::Value> {
        self.shared.flight.latest(count)
    }

    /// Opens the log files again, after somebody has moved them.
    pub(crate) fn reopen_logs(&self) {
        self.shared.outlets.reopen();
    }

    /// Waits until what was logged so far is written, at most so long. Blocks: for shutdown only.
    pub(crate) fn flush_logs(&self, within: Duration) {
        self.shared.outlets.flush(within);
    }

    /// Appends everything that is counted to `out`.
    pub(crate) fn encode(&self, out: &mut String, form: Exposition, inputs: &Inputs) {
        exposition::encode(out, form, self.totals(inputs));
    }

    /// Appends Envoy's `name: value` list to `out`: the lines whose name is `wanted`.
    pub(crate) fn encode_stats(&self, out: &mut String, wanted: &dyn Fn(&str) -> bool, inputs: &Inputs) {
        stats::encode(out, wanted, &self.totals(inputs));
    }

    fn totals(&self, inputs: &Inputs) -> totals::Totals {
        let shards = self.shared.shards.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.shared.series_bound.is_reached() {
            // A worker makes room only for itself; one that meets nothing new would hold its stale series for ever.
            shards.iter().for_each(|shard| {
                self.shared.series_bound.drop_stale(&shard.series);
            });
        }
        let mut totals = totals::Totals::gather(&shards, self.shared.clusters.all(), inputs);
        totals.config = self.shared.config.read();
        totals.panics = self.shared.panics.load(Ordering::Relaxed);
        totals.series_overflow = self.shared.series_bound.overflowed();
        totals.log = self.shared.outlets.totals();
        totals.reasons_remembered = self.shared.flight.len();
        totals.local = self.shared.local.get().cloned().unwrap_or_default();
        totals.started = Some(self.shared.started);
        totals
    }

    fn bound(&self) -> usize {
        self.shared.bound
    }

    fn series_bound(&self) -> &request::SeriesBound {
        &self.shared.series_bound
    }

    fn flight(&self) -> &flight::FlightRecorder {
        &self.shared.flight
    }

    fn outlets(&self) -> &Arc<access_log::Outlets> {
        &self.shared.outlets
    }

    fn give_back(&self, worker: usize) {
        if let Some(taken) = self.shared.taken.get(worker) {
            taken.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;
