//! Istio's request series: the key of one, its counters, and each worker's table of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustc_hash::{FxHashMap, FxHasher};

use super::cluster::{ClusterMetrics, ServiceName};
use super::counter::{Counter, Histogram};
use super::record::Record;

/// What tells request series apart, in the order of Istio's labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels {
    pub(super) inbound: bool,
    /// The cluster's Service, or what is known of it: namespace, name.
    pub(super) service: Option<(Arc<str>, Arc<str>)>,
    /// The cluster's name; tells the destination when there is no Service.
    pub(super) cluster: Arc<str>,
    /// The workload that answered: namespace, name.
    pub(super) workload: Option<(Arc<str>, Arc<str>)>,
    /// Who asked, and who answered, by the certificates of the mesh that were shown.
    pub(super) source: Option<Arc<str>>,
    pub(super) destination: Option<Arc<str>>,
    /// Inbound: the client has proven who it is.
    pub(super) mutual: bool,
    pub(super) protocol: Protocol,
    /// 0 when the exchange ended without a response.
    pub(super) code: u16,
    pub(super) grpc_status: Option<u16>,
    pub(super) flags: &'static str,
}

/// Istio's `request_protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Protocol {
    Http,
    Grpc,
    /// A connection that was not looked into; counted in families of its own.
    Tcp,
}

impl Protocol {
    /// What an exchange is.
    pub(super) fn of_exchange(record: &Record) -> Self {
        if record.grpc { Self::Grpc } else { Self::Http }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

impl Labels {
    fn of(record: &Record, protocol: Protocol) -> Self {
        let cluster = record.cluster.as_deref();
        let service = cluster.and_then(|cluster| cluster.service.as_ref());
        Self {
            inbound: record.inbound,
            service: service.map(|ServiceName { namespace, name, .. }| (namespace.clone(), name.clone())),
            cluster: cluster.map(|cluster| cluster.name.clone()).unwrap_or_default(),
            workload: record.workload.clone(),
            source: source(record).map(Into::into),
            destination: destination(record).map(Into::into),
            mutual: is_mutual(record),
            protocol,
            code: record.status.map_or(0, |status| status.as_u16()),
            grpc_status: record.grpc_status,
            flags: flags(record),
        }
    }

    /// The series that everything past the bound is counted under.
    fn overflow(protocol: Protocol) -> Self {
        let overflow: Arc<str> = super::OVERFLOW.into();
        Self {
            inbound: false,
            service: Some((overflow.clone(), overflow.clone())),
            cluster: overflow.clone(),
            workload: Some((overflow.clone(), overflow)),
            source: None,
            destination: None,
            mutual: false,
            protocol,
            code: 0,
            grpc_status: None,
            flags: "-",
        }
    }

    fn is_of(&self, record: &Record, protocol: Protocol) -> bool {
        self.inbound == record.inbound
            && self.code == record.status.map_or(0, |status| status.as_u16())
            && self.flags == flags(record)
            && self.protocol == protocol
            && self.grpc_status == record.grpc_status
            && self.workload == record.workload
            && self.mutual == is_mutual(record)
            && self.source.as_deref() == source(record)
            && self.destination.as_deref() == destination(record)
    }
}

/// Inbound the client, outbound ourselves.
fn source(record: &Record) -> Option<&str> {
    match record.inbound {
        true => record.security.as_ref()?.peer_id(),
        false => record.upstream_security.as_ref()?.own_id(),
    }
}

/// Inbound ourselves, towards those who have proven themselves; outbound the endpoint.
fn destination(record: &Record) -> Option<&str> {
    match record.inbound {
        true => record.security.as_ref().filter(|security| security.peer.is_some())?.own_id(),
        false => record.upstream_security.as_ref()?.peer_id(),
    }
}

fn is_mutual(record: &Record) -> bool {
    record.inbound && record.security.as_ref().is_some_and(|security| security.peer.is_some())
}

fn flags(record: &Record) -> &'static str {
    record.reason.map_or("-", |reason| reason.flag())
}

/// One series' counters in one worker.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) labels: Labels,
    cluster_id: u64,
    /// Gone when the configuration has no such cluster any more: then the series may make room.
    cluster: Option<Weak<ClusterMetrics>>,
    pub(super) count: Counter,
    /// Connections that began; exchanges count when they end only.
    pub(super) opened: Counter,
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
}

impl Series {
    fn is_of(&self, record: &Record, protocol: Protocol) -> bool {
        self.cluster_id == cluster_id(record) && self.labels.is_of(record, protocol)
    }

    fn is_stale(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.strong_count() == 0)
    }

    /// A connection begins.
    pub(super) fn begin(&self, _: &Record) {
        self.opened.add(1);
    }

    /// An exchange or a connection is over.
    pub(super) fn observe(&self, record: &Record) {
        self.count.add(1);
        self.duration.observe_thousandths(micros(record.duration));
        self.request_bytes.observe_thousandths(record.bytes_received.saturating_mul(1_000));
        self.response_bytes.observe_thousandths(record.bytes_sent.saturating_mul(1_000));
    }
}

pub(super) fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn cluster_id(record: &Record) -> u64 {
    record.cluster.as_ref().map_or(0, |cluster| cluster.id)
}

/// The bound on series: so many different label sets, however many workers count them. Asked only when a worker meets a label set
/// that is new to it.
#[derive(Debug)]
pub(super) struct SeriesBound {
    bound: usize,
    /// Label sets in use, and by how many workers.
    known: Mutex<BTreeMap<Labels, usize>>,
    overflowed: AtomicU64,
}

impl SeriesBound {
    pub(super) fn new(bound: usize) -> Self {
        Self { bound, known: Mutex::default(), overflowed: AtomicU64::new(0) }
    }

    /// Notes that something was counted under the overflow series.
    pub(super) fn note_overflow(&self) {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    pub(super) fn is_reached(&self) -> bool {
        self.lock().len() >= self.bound
    }

    /// Drops the worker's series of clusters that are gone; says whether there was one. They cannot be counted in any more.
    pub(super) fn drop_stale(&self, shared: &SharedSeries) -> bool {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shared.len();
        shared.retain(|series| {
            let stale = series.is_stale();
            if stale {
                self.release(&series.labels);
            }
            !stale
        });
        shared.len() < before
    }

    fn claim(&self, labels: &Labels) -> bool {
        let mut known = self.lock();
        if let Some(holders) = known.get_mut(labels) {
            *holders += 1;
            return true;
        }
        let fits = known.len() < self.bound;
        if fits {
            known.insert(labels.clone(), 1);
        }
        fits
    }

    fn release(&self, labels: &Labels) {
        let mut known = self.lock();
        let left = known.get_mut(labels).map_or(0, |holders| {
            *holders = holders.saturating_sub(1);
            *holders
        });
        if left == 0 {
            known.remove(labels);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Labels, usize>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a scrape reads of one worker's series. Locked by the worker only when it makes a series.
pub(super) type SharedSeries = Mutex<Vec<Arc<Series>>>;

/// One worker's table: the hash of what a record says → its series.
#[derive(Debug)]
pub(super) struct SeriesTable {
    /// A record's hash leads to the few series that have it; contents decide.
    by_hash: RefCell<FxHashMap<u64, Vec<Arc<Series>>>>,
    /// One for exchanges and one for connections.
    overflow: RefCell<[Option<Arc<Series>>; 2]>,
    /// Records with new label sets that go to the overflow series unasked, so that a flood of them does not queue for the bound.
    unasked: Cell<u32>,
}

/// See [`SeriesTable`].
const UNASKED: u32 = 1_000;

impl SeriesTable {
    pub(super) fn new() -> Self {
        Self { by_hash: RefCell::default(), overflow: RefCell::default(), unasked: Cell::new(0) }
    }

    /// Counts the record in its series.
    pub(super) fn count(
        &self,
        record: &Record,
        protocol: Protocol,
        shared: &SharedSeries,
        bound: &SeriesBound,
        count: fn(&Series, &Record),
    ) {
        let hash = hash(record, protocol);
        let by_hash = self.by_hash.borrow();
        let known = by_hash.get(&hash);
        if let Some(series) = known.and_then(|series| series.iter().find(|one| one.is_of(record, protocol))) {
            return count(series, record);
        }
        drop(by_hash);
        match self.admit(record, protocol, shared, bound) {
            Some(series) => {
                count(&series, record);
                self.by_hash.borrow_mut().entry(hash).or_default().push(series);
            }
            None => {
                bound.note_overflow();
                let mut overflow = self.overflow.borrow_mut();
                let series = overflow[usize::from(protocol == Protocol::Tcp)]
                    .get_or_insert_with(|| publish(Labels::overflow(protocol), None, shared));
                count(series, record);
            }
        }
    }

    /// A new series, if the bound has room or room can be made.
    #[cold]
    fn admit(
        &self,
        record: &Record,
        protocol: Protocol,
        shared: &SharedSeries,
        bound: &SeriesBound,
    ) -> Option<Arc<Series>> {
        if let Some(left) = self.unasked.get().checked_sub(1) {
            self.unasked.set(left);
            return None;
        }
        let labels = Labels::of(record, protocol);
        if !bound.claim(&labels) {
            bound.drop_stale(shared);
            self.by_hash.borrow_mut().retain(|_, series| {
                series.retain(|one| !one.is_stale());
                !series.is_empty()
            });
            if !bound.claim(&labels) {
                self.unasked.set(UNASKED);
                return None;
            }
        }
        Some(publish(labels, record.cluster.as_ref(), shared))
    }
}

fn publish(labels: Labels, cluster: Option<&Arc<ClusterMetrics>>, shared: &SharedSeries) -> Arc<Series> {
    let series = Arc::new(Series {
        labels,
        cluster_id: cluster.map_or(0, |cluster| cluster.id),
        cluster: cluster.map(Arc::downgrade),
        count: Counter::default(),
        opened: Counter::default(),
        duration: Histogram::default(),
        request_bytes: Histogram::default(),
        response_bytes: Histogram::default(),
    });
    shared.lock().unwrap_or_else(PoisonError::into_inner).push(series.clone());
    series
}

fn hash(record: &Record, protocol: Protocol) -> u64 {
    let mut hasher = FxHasher::default();
    cluster_id(record).hash(&mut hasher);
    record.status.map_or(0, |status| status.as_u16()).hash(&mut hasher);
    record.reason.hash(&mut hasher);
    record.grpc_status.hash(&mut hasher);
    (record.inbound, protocol).hash(&mut hasher);
    record.workload.hash(&mut hasher);
    // Ourselves are the same in all of them.
    let other = if record.inbound { source(record) } else { destination(record) };
    other.hash(&mut hasher);
    hasher.finish()
}
