//! An endpoint: where it is, what it is, and its live state, which survives updates by key.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::Labels;

/// An identity for pools: never used twice in a process, so that an address that is handed to another pod is another endpoint (D8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EndpointId(u64);

/// How long an endpoint that could not be reached is avoided. Short: it is a guess, and discovery knows better soon.
const SUSPECT_MILLIS: u64 = 1_000;

/// Milliseconds since the first call in this process; the clock is the timers' own.
pub(crate) fn now_millis() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed().as_millis();
    u64::try_from(elapsed).unwrap_or(u64::MAX)
}

/// The workload behind an endpoint (`metadata.filter_metadata["sidegate"]`), for labels, explain and identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The workload's name.
    pub(crate) workload: Arc<str>,
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its service account.
    pub(crate) service_account: Arc<str>,
    /// Its pod.
    pub(crate) pod: Arc<str>,
}

/// One endpoint (`LbEndpoint`).
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Its identity for pools.
    pub(crate) id: EndpointId,
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// `hostname`, for `auto_host_rewrite`.
    pub(crate) hostname: Option<Arc<str>>,
    /// `load_balancing_weight`, at least 1.
    pub(crate) weight: u32,
    /// `priority` of its locality: others take over when all of the lower numbers are unavailable.
    pub(crate) priority: u32,
    /// Whether new requests may go to it: not UNHEALTHY, DRAINING or TIMEOUT.
    pub(crate) available: bool,
    /// The workload.
    pub(crate) origin: Option<Origin>,
    /// Requests in flight over all workers; shared with the endpoint of the same key in the previous set.
    pub(crate) in_flight: Arc<AtomicU32>,
    /// When it may be picked again after it could not be reached, in milliseconds of [`now_millis`]; shared likewise.
    suspect_until: Arc<AtomicU64>,
    /// `envoy.transport_socket_match` of its metadata: says how connections to it are secured.
    pub(crate) labels: Option<Arc<Labels>>,
    /// What [`super::Sockets`] found for these labels.
    pub(super) socket: AtomicU64,
    /// Whom connections to it are for, and where that client wanted to go: what a PROXY header says.
    pub(crate) client: Option<(SocketAddr, SocketAddr)>,
}

impl Endpoint {
    /// A new endpoint with an identity of its own.
    pub(crate) fn new(address: SocketAddr, weight: u32) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: EndpointId(NEXT.fetch_add(1, Ordering::Relaxed)),
            address,
            hostname: None,
            weight: weight.max(1),
            priority: 0,
            available: true,
            origin: None,
            in_flight: Arc::default(),
            suspect_until: Arc::default(),
            labels: None,
            socket: AtomicU64::new(0),
            client: None,
        }
    }

    /// The same endpoint for one client alone: connections to it, which begin by telling who the client is, serve nobody else.
    pub(crate) fn for_client(&self, client: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            hostname: self.hostname.clone(),
            weight: self.weight,
            priority: self.priority,
            origin: self.origin.clone(),
            suspect_until: self.suspect_until.clone(),
            labels: self.labels.clone(),
            client: Some((client, destination)),
            ..Self::new(self.address, self.weight)
        }
    }

    /// Takes over identity and live state from the endpoint that was at this key before: its pooled connections stay good.
    pub(crate) fn inherit(&mut self, previous: &Endpoint) {
        self.id = previous.id;
        self.in_flight = previous.in_flight.clone();
        self.suspect_until = previous.suspect_until.clone();
    }

    /// Whether the other one differs in nothing but identity and live state.
    pub(crate) fn says_the_same(&self, other: &Endpoint) -> bool {
        self.address == other.address
            && self.hostname == other.hostname
            && self.weight == other.weight
            && self.priority == other.priority
            && self.available == other.available
            && self.origin == other.origin
            && self.labels == other.labels
    }

    /// Whether both are one and the same workload: connections to one must not serve requests for another, at whatever address.
    pub(crate) fn is_who_was(&self, other: &Endpoint) -> bool {
        let account = |endpoint: &Self| endpoint.origin.as_ref().map(|origin| origin.service_account.clone());
        self.labels == other.labels && account(self) == account(other)
    }

    /// It could not be reached: for a moment others are picked first. Without this an endpoint that is gone, having nothing in flight,
    /// would look like the least busy one and attract every request.
    pub(crate) fn suspect(&self, now: u64) {
        self.suspicion().raise(now);
    }

    /// What can be said of the endpoint by those who do not keep it alive.
    pub(crate) fn suspicion(&self) -> Suspicion {
        Suspicion(self.suspect_until.clone())
    }

    /// Whether it could not be reached a moment ago.
    pub(crate) fn is_suspect(&self, now: impl Fn() -> u64) -> bool {
        let until = self.suspect_until.load(Ordering::Relaxed);
        until != 0 && until > now()
    }

    /// What makes two endpoints the same across updates: address and pod.
    pub(crate) fn key(&self) -> (SocketAddr, Option<&str>) {
        (self.address, self.origin.as_ref().map(|origin| &*origin.pod))
    }
}

/// Whether an endpoint is to be avoided for a moment; see [`Endpoint::suspect`].
#[derive(Debug)]
pub(crate) struct Suspicion(Arc<AtomicU64>);

impl Suspicion {
    /// It could not be reached.
    pub(crate) fn raise(&self, now: u64) {
        self.0.store(now + SUSPECT_MILLIS, Ordering::Relaxed);
    }
}

/// The in-flight claim on an endpoint, returned on drop.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The endpoint.
    pub(crate) endpoint: Arc<Endpoint>,
}

impl Lease {
    /// Claims.
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { endpoint }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The endpoints of a cluster at one moment, those of the active priority; immutable.
#[derive(Debug, Default)]
pub(crate) struct EndpointSet {
    /// All endpoints, unavailable ones too (dumps show them).
    pub(crate) all: Vec<Arc<Endpoint>>,
    /// The ones that requests go to.
    pub(crate) available: Vec<Arc<Endpoint>>,
    /// Whether the available ones differ in weight.
    pub(crate) weighted: bool,
    /// Whether this came from discovery; an EDS cluster before its first answer is not ready.
    pub(crate) ready: bool,
}

impl EndpointSet {
    /// A set from discovery. Requests go to the available endpoints of the lowest priority number that has any.
    pub(crate) fn new(all: Vec<Arc<Endpoint>>) -> Self {
        let usable = || all.iter().filter(|endpoint| endpoint.available);
        let priority = usable().map(|endpoint| endpoint.priority).min();
        let available: Vec<_> =
            usable().filter(|endpoint| Some(endpoint.priority) == priority).cloned().collect();
        let weighted = available.windows(2).any(|pair| pair[0].weight != pair[1].weight);
        Self { all, available, weighted, ready: true }
    }
}
