//! One look at everything that is counted: shards added up, and what other rooms give with the scrape.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use super::access_log::LogTotals;
use super::authorization::{AuthorizationBlock, Scope};
use super::cluster::ClusterMetrics;
use super::config::ConfigTotals;
use super::counter::{HistogramTotal, PerReason};
use super::labels::LocalWorkload;
use super::request::{Labels, Series};
use super::shard::{ListenerBlock, ManagerBlock, Published, Shard};
use crate::overload;

/// What a scrape needs from rooms that stand above telemetry, by value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    /// Every cluster's state now.
    pub(crate) clusters: Vec<ClusterState>,
    /// Listeners bound now.
    pub(crate) listeners: u64,
    /// Worker threads.
    pub(crate) concurrency: u64,
    /// Envoy's `server.state`: 0 live, 1 draining, 2 before initialisation, 3 initialising.
    pub(crate) state: u64,
    /// Memory and its ceiling.
    pub(crate) overload: overload::Report,
    /// Under Envoy's name, whether it is in force: what is given up or refused for want of memory.
    pub(crate) overload_actions: Vec<(&'static str, bool)>,
    /// Sources of certificates: when the first of each expires, in seconds since 1970.
    pub(crate) certificates: std::collections::BTreeMap<Arc<str>, u64>,
    /// The proxy's own certificate, if it has one.
    pub(crate) identity: Option<IdentityState>,
}

/// The proxy's own certificate now.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdentityState {
    /// When it ends, in seconds since 1970; none when none is in force.
    pub(crate) expiry: Option<u64>,
    /// When the first of its roots ends.
    pub(crate) roots_expiry: Option<u64>,
    /// Attempts to get one, by what came of them.
    pub(crate) attempts: Vec<(&'static str, u64)>,
}

/// A cluster's state now.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterState {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Endpoints.
    pub(crate) members: u64,
    /// Endpoints that get requests.
    pub(crate) available: u64,
    /// Requests in flight.
    pub(crate) requests: u64,
    /// Requests waiting for a connection.
    pub(crate) pending: u64,
}

/// Everything that is counted, at one moment.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) requests: BTreeMap<Labels, RequestTotal>,
    /// Clusters that were used, by name.
    pub(super) clusters: Vec<Arc<ClusterMetrics>>,
    pub(super) managers: BTreeMap<Arc<str>, Vec<Arc<ManagerBlock>>>,
    pub(super) listeners: BTreeMap<Arc<str>, Vec<Arc<ListenerBlock>>>,
    pub(super) authorizations: BTreeMap<Scope, Vec<Arc<AuthorizationBlock>>>,
    pub(super) reasons: PerReason<u64>,
    pub(super) reasons_forgotten: u64,
    pub(super) reasons_remembered: usize,
    pub(super) config: ConfigTotals,
    pub(super) panics: u64,
    pub(super) series_overflow: u64,
    pub(super) log: LogTotals,
    pub(super) local: LocalWorkload,
    pub(super) started: Option<SystemTime>,
    pub(super) inputs: Inputs,
}

/// A request series over all workers.
#[derive(Debug, Default)]
pub(super) struct RequestTotal {
    pub(super) count: u64,
    pub(super) opened: u64,
    pub(super) duration: HistogramTotal,
    pub(super) request_bytes: HistogramTotal,
    pub(super) response_bytes: HistogramTotal,
}

impl RequestTotal {
    fn add(&mut self, series: &Series) {
        self.count += series.count.get();
        self.opened += series.opened.get();
        self.duration.add(&series.duration);
        self.request_bytes.add(&series.request_bytes);
        self.response_bytes.add(&series.response_bytes);
    }
}

impl Totals {
    pub(super) fn gather(shards: &[Arc<Shard>], clusters: Vec<Arc<ClusterMetrics>>, inputs: &Inputs) -> Self {
        let mut totals = Self { inputs: inputs.clone(), ..Self::default() };
        totals.inputs.clusters.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        totals.clusters = clusters;
        totals.clusters.retain(|cluster| cluster.used_blocks().next().is_some());
        for shard in shards {
            for series in &*shard.series.lock().unwrap_or_else(PoisonError::into_inner) {
                totals.requests.entry(series.labels.clone()).or_default().add(series);
            }
            collect(&shard.managers, &mut totals.managers);
            collect(&shard.listeners, &mut totals.listeners);
            for block in &*shard.authorizations.lock().unwrap_or_else(PoisonError::into_inner) {
                totals.authorizations.entry(block.scope.clone()).or_default().push(block.clone());
            }
            for (total, counter) in totals.reasons.0.iter_mut().zip(&shard.reasons.0) {
                *total += counter.get();
            }
            totals.reasons_forgotten += shard.forgotten_reasons.get();
        }
        totals
    }
}

fn collect<T>(published: &Published<T>, into: &mut BTreeMap<Arc<str>, Vec<Arc<T>>>) {
    for (name, block) in &*published.lock().unwrap_or_else(PoisonError::into_inner) {
        into.entry(name.clone()).or_default().push(block.clone());
    }
}
