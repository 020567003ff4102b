//! One worker's counters, and the [`Recorder`] through which it counts.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

use super::access_log::{AccessLog, LogWriter};
use super::authorization::{Authorizations, Authorized, SharedAuthorizations};
use super::cluster::ClusterMetrics;
use super::counter::{Counter, Histogram, PerReason};
use super::filter_event::FilterEvent;
use super::record::Record;
use super::request::{Protocol, Series, SeriesTable, SharedSeries, micros};
use super::{Metrics, OVERFLOW, flight};
use crate::error::Reason;
use crate::message::Version;
use crate::tls::{Distrust, Failure, Security};

/// What one worker counts apart from clusters. Aligned so that no two workers write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Shard {
    pub(super) series: SharedSeries,
    pub(super) managers: Published<ManagerBlock>,
    pub(super) listeners: Published<ListenerBlock>,
    pub(super) authorizations: SharedAuthorizations,
    pub(super) reasons: PerReason<Counter>,
    pub(super) forgotten_reasons: Counter,
}

/// Named blocks as a scrape sees them. Locked by the worker only when it makes one.
pub(super) type Published<T> = Mutex<Vec<(Arc<str>, Arc<T>)>>;

/// A connection manager's counters in one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct ManagerBlock {
    pub(super) started: Counter,
    pub(super) ended: Counter,
    /// Statuses by class, 1xx to 5xx.
    pub(super) classes: [Counter; 5],
    pub(super) time: Histogram,
    pub(super) opened: Counter,
    pub(super) opened_http2: Counter,
    pub(super) closed: Counter,
    pub(super) received_bytes: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) rate_limit_exceeded: Counter,
    pub(super) rate_limit_enforced: Counter,
    pub(super) overload: Counter,
    pub(super) filters: [Counter; FilterEvent::ALL.len()],
}

impl ManagerBlock {
    /// How often a filter did something.
    pub(super) fn filter(&self, event: FilterEvent) -> u64 {
        self.filters.get(event as usize).map_or(0, Counter::get)
    }
}

/// A listener's counters in one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct ListenerBlock {
    pub(super) opened: Counter,
    pub(super) closed: Counter,
    pub(super) overflow: Counter,
    pub(super) overload: Counter,
    pub(super) tls: TlsCounters,
    pub(super) unsecured: Counter,
    pub(super) no_filter_chain: Counter,
    pub(super) preamble_timeout: Counter,
    pub(super) preamble_malformed: Counter,
}

/// What happened to TLS handshakes.
#[derive(Debug, Default)]
pub(super) struct TlsCounters {
    pub(super) handshakes: Counter,
    pub(super) resumed: Counter,
    pub(super) without_certificate: Counter,
    pub(super) errors: Counter,
    pub(super) no_certificate: Counter,
    pub(super) names: Counter,
    pub(super) pins: Counter,
    pub(super) untrusted: Counter,
    pub(super) time: Counter,
    pub(super) revoked: Counter,
    pub(super) identity: Counter,
    /// Open connections that ended because their client was revoked.
    pub(super) ended: Counter,
    pub(super) overflow: Counter,
    pub(super) timeouts: Counter,
}

/// A worker's own way to its blocks by name.
#[derive(Debug)]
struct Blocks<T> {
    by_name: RefCell<FxHashMap<Arc<str>, Arc<T>>>,
}

impl<T: Default> Blocks<T> {
    fn new() -> Self {
        Self { by_name: RefCell::default() }
    }

    /// Counts in the block of that name, without touching its reference count.
    fn with(&self, name: &Arc<str>, published: &Published<T>, bound: usize, count: impl FnOnce(&T)) {
        if let Some(block) = self.by_name.borrow().get(name) {
            return count(block);
        }
        count(&self.get(name, published, bound));
    }

    fn get(&self, name: &Arc<str>, published: &Published<T>, bound: usize) -> Arc<T> {
        let mut by_name = self.by_name.borrow_mut();
        let name = if by_name.len() < bound { name.clone() } else { OVERFLOW.into() };
        let block = by_name.entry(name.clone()).or_insert_with(|| {
            let block = Arc::new(T::default());
            published.lock().unwrap_or_else(PoisonError::into_inner).push((name, block.clone()));
            block
        });
        block.clone()
    }
}

/// One worker's way to count, log and remember. One per worker: counters have a single writing thread.
/// No method waits: where another thread reads what is written here, it is by atomics or by exchanging a buffer.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    local: Rc<Local>,
}

#[derive(Debug)]
struct Local {
    metrics: Metrics,
    worker: usize,
    shard: Arc<Shard>,
    series: SeriesTable,
    managers: Blocks<ManagerBlock>,
    listeners: Blocks<ListenerBlock>,
    authorizations: Authorizations,
    log: LogWriter,
}

impl Drop for Local {
    fn drop(&mut self) {
        self.metrics.give_back(self.worker);
    }
}

impl Recorder {
    /// For [`Metrics::recorder`], which sees to it that a worker has one only.
    pub(super) fn new(metrics: Metrics, worker: usize, shard: Arc<Shard>) -> Self {
        let log = LogWriter::new(metrics.outlets().clone(), worker);
        let local = Local {
            metrics,
            worker,
            shard,
            series: SeriesTable::new(),
            managers: Blocks::new(),
            listeners: Blocks::new(),
            authorizations: Authorizations::default(),
            log,
        };
        Self { local: Rc::new(local) }
    }

    /// A connection was accepted; it counts as active until the guard is dropped.
    pub(crate) fn downstream_opened(&self, listener: &Arc<str>) -> OpenConnection {
        let local = &*self.local;
        let block = local.listeners.get(listener, &local.shard.listeners, local.metrics.bound());
        block.opened.add(1);
        OpenConnection { block: Open::Listener(block), thread: PhantomData }
    }

    /// A connection was refused because a bound on connections is reached.
    pub(crate) fn downstream_overflow(&self, listener: &Arc<str>) {
        let local = &*self.local;
        let bound = local.metrics.bound();
        local.listeners.with(listener, &local.shard.listeners, bound, |block| block.overflow.add(1));
        self.count_reason(Reason::DownstreamOverflow);
    }

    /// The proxy ended a connection for this reason.
    pub(crate) fn connection_cut(&self, reason: Reason) {
        self.count_reason(reason);
    }

    /// A connection was refused because memory is scarce.
    pub(crate) fn downstream_overload(&self, listener: &Arc<str>) {
        let local = &*self.local;
        let bound = local.metrics.bound();
        local.listeners.with(listener, &local.shard.listeners, bound, |block| block.overload.add(1));
        self.count_reason(Reason::Overload);
    }

    /// A TLS session came about with a client.
    pub(crate) fn handshake_done(&self, listener: &Arc<str>, security: &Security) {
        let local = &*self.local;
        local.listeners.with(listener, &local.shard.listeners, local.metrics.bound(), |block| {
            block.tls.handshakes.add(1);
            block.tls.resumed.add(u64::from(security.resumed));
            block.tls.without_certificate.add(u64::from(security.peer.is_none()));
        });
    }

    /// No TLS session came about with a client.
    pub(crate) fn handshake_failed(&self, listener: &Arc<str>, failure: Failure) {
        let local = &*self.local;
        local.listeners.with(listener, &local.shard.listeners, local.metrics.bound(), |block| {
            let counter = match failure {
                Failure::NoCertificate => &block.tls.no_certificate,
                Failure::Names => &block.tls.names,
                Failure::Pin => &block.tls.pins,
                Failure::Untrusted(why) => {
                    // Beside Envoy's counter for all of them.
                    match why {
                        Distrust::Time => block.tls.time.add(1),
                        Distrust::Revoked => block.tls.revoked.add(1),
                        Distrust::Identity => block.tls.identity.add(1),
                        Distrust::Other => {}
                    }
                    &block.tls.untrusted
                }
                Failure::Overflow => &block.tls.overflow,
                Failure::Timeout => &block.tls.timeouts,
                Failure::NotReady | Failure::Refused | Failure::Closed | Failure::Protocol => {
                    &block.tls.errors
                }
            };
            counter.add(1);
        });
        let overflow = failure == Failure::Overflow;
        self.count_reason(if overflow { Reason::DownstreamOverflow } else { Reason::DownstreamTlsFailure });
    }

    /// A connection came without TLS to a listener that has chains for mutual TLS too.
    pub(crate) fn downstream_unsecured(&self, listener: &Arc<str>) {
        let local = &*self.local;
        let bound = local.metrics.bound();
        local.listeners.with(listener, &local.shard.listeners, bound, |block| block.unsecured.add(1));
    }

    /// An open connection ends because its client was revoked.
    pub(crate) fn peer_revoked(&self, listener: &Arc<str>) {
        let local = &*self.local;
        let bound = local.metrics.bound();
        local.listeners.with(listener, &local.shard.listeners, bound, |block| block.tls.ended.add(1));
        self.count_reason(Reason::PeerRevoked);
    }

    /// A connection ended before it was on a filter chain. [`Recorder::connection_ended`] must follow.
    pub(crate) fn connection_refused(&self, listener: &Arc<str>, reason: Reason) {
        let local = &*self.local;
        let bound = local.metrics.bound();
        local.listeners.with(listener, &local.shard.listeners, bound, |block| match reason {
            Reason::NoFilterChain => block.no_filter_chain.add(1),
            Reason::DownstreamTimeout => block.preamble_timeout.add(1),
            Reason::BadPreamble => block.preamble_malformed.add(1),
            Reason::DownstreamOverflow => block.overflow.add(1),
            _ => {}
        });
    }

    /// A connection turned out to speak HTTP; it counts as the manager's until the guard is dropped.
    pub(crate) fn http_opened(&self, stat_prefix: &Arc<str>, version: Version) -> OpenConnection {
        let local = &*self.local;
        let block = local.managers.get(stat_prefix, &local.shard.managers, local.metrics.bound());
        block.opened.add(1);
        if version == Version::Http2 {
            block.opened_http2.add(1);
        }
        OpenConnection { block: Open::Manager(block), thread: PhantomData }
    }

    /// A request's head is complete. [`Recorder::exchange_ended`] must follow.
    pub(crate) fn exchange_started(&self, stat_prefix: &Arc<str>) {
        self.manager(stat_prefix, |block| block.started.add(1));
    }

    /// The exchange is over: counts it, writes it to the logs, and remembers it when the proxy made an error reply.
    pub(crate) fn exchange_ended(&self, record: impl Borrow<Record>, logs: &[Arc<AccessLog>]) {
        let record = record.borrow();
        self.count_manager(record);
        if let Some(cluster) = &record.cluster {
            self.count_cluster(cluster, record);
        }
        self.ended(record, Protocol::of_exchange(record), logs);
    }

    /// A connection that is passed on unseen has reached its endpoint, or will not. [`Recorder::connection_ended`] must follow.
    pub(crate) fn connection_began(&self, record: impl Borrow<Record>) {
        let local = &*self.local;
        let bound = local.metrics.series_bound();
        local.series.count(record.borrow(), Protocol::Tcp, &local.shard.series, bound, Series::begin);
    }

    /// A connection that was passed on unseen is over; what its record says of a request means nothing.
    pub(crate) fn connection_ended(&self, record: impl Borrow<Record>, logs: &[Arc<AccessLog>]) {
        let record = record.borrow();
        if let Some(cluster) = &record.cluster {
            self.with(cluster, |block| {
                block.received_bytes.add(record.bytes_sent);
                block.sent_bytes.add(record.bytes_received);
            });
        }
        self.ended(record, Protocol::Tcp, logs);
    }

    /// A connection to an endpoint was made.
    pub(crate) fn upstream_opened(&self, cluster: &ClusterMetrics) {
        self.with(cluster, |block| block.opened.add(1));
    }

    /// A connection to an endpoint is gone.
    pub(crate) fn upstream_closed(&self, cluster: &ClusterMetrics) {
        self.with(cluster, |block| block.closed.add(1));
    }

    /// A request is sent to an endpoint: the first attempt or another.
    pub(crate) fn upstream_attempt(&self, cluster: &ClusterMetrics) {
        self.with(cluster, |block| block.attempts.add(1));
    }

    /// A request is tried again.
    pub(crate) fn upstream_retry(&self, cluster: &ClusterMetrics) {
        self.with(cluster, |block| block.retries.add(1));
    }

    /// A retry was due and the retry budget (or `max_retries`) refused it.
    pub(crate) fn retry_overflow(&self, cluster: &ClusterMetrics) {
        self.with(cluster, |block| block.retry_overflow.add(1));
    }

    /// A connection to an endpoint could not be made.
    pub(crate) fn connect_failed(&self, cluster: &ClusterMetrics, timeout: bool) {
        self.with(cluster, |block| {
            block.connect_fail.add(1);
            block.connect_timeout.add(u64::from(timeout));
        });
    }

    /// An attempt did not end within `per_try_timeout`.
    pub(crate) fn per_try_timeout(&self, cluster: &ClusterMetrics) {
        self.with(cluster, |block| block.per_try_timeouts.add(1));
    }

    /// A request was over a local rate limit, whether it was refused (then its record says so too) or let through.
    pub(crate) fn rate_limited(&self, stat_prefix: &Arc<str>) {
        self.manager(stat_prefix, |block| block.rate_limit_exceeded.add(1));
    }

    /// An RBAC filter has decided.
    pub(crate) fn authorized(&self, told: &Authorized<'_>) {
        let local = &*self.local;
        local.authorizations.count(told, &local.shard.authorizations, local.metrics.bound());
    }

    /// A filter did something.
    pub(crate) fn filtered(&self, stat_prefix: &Arc<str>, event: FilterEvent) {
        self.manager(stat_prefix, |block| {
            if let Some(counter) = block.filters.get(event as usize) {
                counter.add(1);
            }
        });
    }

    /// An id for the reply that is being made; see [`super::reason_id_text`].
    pub(crate) fn next_reason_id(&self) -> u64 {
        self.local.metrics.flight().next_id()
    }

    fn ended(&self, record: &Record, protocol: Protocol, logs: &[Arc<AccessLog>]) {
        let local = &*self.local;
        let bound = local.metrics.series_bound();
        local.series.count(record, protocol, &local.shard.series, bound, Series::observe);
        for log in logs {
            local.log.write(log, record);
        }
        let Some(reason) = record.reason else { return };
        self.count_reason(reason);
        if !reason.is_configured() && record.reason_id.is_some() {
            let forgotten = local.metrics.flight().remember(flight::Note::of(record));
            local.shard.forgotten_reasons.add(u64::from(forgotten));
        }
    }

    fn count_manager(&self, record: &Record) {
        self.manager(&record.stat_prefix, |block| {
            block.ended.add(1);
            if let Some(class) = record.status.and_then(|status| class(&block.classes, status)) {
                class.add(1);
            }
            block.time.observe_thousandths(micros(record.duration));
            block.received_bytes.add(record.bytes_received);
            block.sent_bytes.add(record.bytes_sent);
            match record.reason {
                Some(Reason::RateLimited) => block.rate_limit_enforced.add(1),
                Some(Reason::Overload) => block.overload.add(1),
                _ => {}
            }
        });
    }

    fn count_cluster(&self, cluster: &ClusterMetrics, record: &Record) {
        self.with(cluster, |block| {
            if let Some(status) = record.status {
                block.completed.add(1);
                block.codes.add(status.as_u16());
                if let Some(class) = class(&block.classes, status) {
                    class.add(1);
                }
            }
            let answered = record.reason.is_none() && record.status.is_some_and(|s| !s.is_server_error());
            if record.attempts > 1 && answered {
                block.retry_success.add(1);
            }
            if record.attempts > 0 {
                block.sent_bytes.add(record.bytes_received);
            }
            // Without it what was sent to the client is the proxy's own reply.
            if let Some(time) = record.upstream_time {
                block.time.observe_thousandths(micros(time));
                block.received_bytes.add(record.bytes_sent);
            }
            let counter = match record.reason {
                Some(Reason::RequestTimeout) => &block.timeouts,
                Some(Reason::UpstreamOverflow) => &block.pending_overflow,
                Some(Reason::RetriesExhausted) => &block.retries_exhausted,
                Some(Reason::NoHealthyEndpoint) => &block.no_endpoint,
                Some(Reason::UpstreamReset | Reason::UpstreamBodyReset) => &block.resets,
                _ => return,
            };
            counter.add(1);
        });
    }

    fn count_reason(&self, reason: Reason) {
        if let Some(counter) = self.local.shard.reasons.0.get(reason as usize) {
            counter.add(1);
        }
    }

    fn manager(&self, stat_prefix: &Arc<str>, count: impl FnOnce(&ManagerBlock)) {
        let local = &*self.local;
        local.managers.with(stat_prefix, &local.shard.managers, local.metrics.bound(), count);
    }

    fn with(&self, cluster: &ClusterMetrics, count: impl FnOnce(&super::cluster::ClusterBlock)) {
        if let Some(block) = cluster.block(self.local.worker) {
            count(block);
        }
    }
}

fn class(classes: &[Counter; 5], status: http::StatusCode) -> Option<&Counter> {
    classes.get(usize::from(status.as_u16() / 100).wrapping_sub(1))
}

/// An open connection; dropping it counts it as closed. Stays on its worker's thread.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    block: Open,
    thread: PhantomData<Rc<()>>,
}

#[derive(Debug)]
enum Open {
    Listener(Arc<ListenerBlock>),
    Manager(Arc<ManagerBlock>),
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        match &self.block {
            Open::Listener(block) => block.closed.add(1),
            Open::Manager(block) => block.closed.add(1),
        }
    }
}
