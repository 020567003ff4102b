//! The landing (D3): everything compiled, immutable, swapped by one pointer store.
//!
//! `compile` writes through the [`Publisher`]; workers read through their own [`Reader`], once per request.
//! Endpoints swap inside their cluster's cell; nothing else in a snapshot changes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::filter;
use crate::http2;
use crate::message::{EscapedSlashes, Scheme};
use crate::route;
use crate::telemetry::AccessLog;

mod chain;
mod listener;
mod matching;
mod trust;

pub(crate) use chain::{ChainId, Chains, Choice, FilterChain, Road, Security};
pub(crate) use listener::{
    ByAddress, Direction, Inspection, Listener, ListenerFilter, PortRule, Preamble, ProxyHeaderRule,
    SocketSettings,
};
pub(crate) use matching::{Criteria, Facts, Prefix, RAW, ServerName, SourceKind, TLS, Told};
pub(crate) use trust::{Forwarding, StripPort, Underscores};

/// Everything a proxy serves by, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Grows by one with every publication; 0 is the empty snapshot before the first.
    pub(crate) version: u64,
    /// Listeners by name.
    pub(crate) listeners: FxHashMap<Arc<str>, Arc<Listener>>,
    /// The same by address: those that are bound, and those that wait for what others hand over.
    pub(crate) by_address: ByAddress,
    /// Route tables by name (`RouteConfiguration.name`), those inside listeners included.
    pub(crate) routes: FxHashMap<Arc<str>, Arc<route::Table>>,
    /// Clusters by name.
    pub(crate) clusters: FxHashMap<Arc<str>, Arc<Cluster>>,
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
#[derive(Debug)]
pub(crate) struct Http {
    /// `stat_prefix`.
    pub(crate) stat_prefix: Arc<str>,
    /// `codec_type`.
    pub(crate) codec: Codec,
    /// Name of the route table, by RDS or inline (inline tables are in `Snapshot::routes` too, under a name of their own).
    pub(crate) routes: Arc<str>,
    /// The filters, router left out.
    pub(crate) filters: filter::Chain,
    /// `use_remote_address`: the peer is not trusted; its address is appended to `x-forwarded-for` and internal headers are stripped.
    pub(crate) use_remote_address: bool,
    /// What is believed of `x-forwarded-*`, and what is written there.
    pub(crate) forwarding: Forwarding,
    /// `headers_with_underscores_action`.
    pub(crate) underscores: Underscores,
    /// `strip_any_host_port`, `strip_matching_host_port`.
    pub(crate) strip_port: StripPort,
    /// `strip_trailing_host_dot`.
    pub(crate) strip_trailing_dot: bool,
    /// `scheme_header_transformation.scheme_to_overwrite`.
    pub(crate) scheme: Option<Scheme>,
    /// `http_protocol_options.default_host_for_http_10`.
    pub(crate) default_host: Option<http::uri::Authority>,
    /// `always_set_request_id_in_response`.
    pub(crate) request_id_in_response: bool,
    /// `generate_request_id`.
    pub(crate) generate_request_id: bool,
    /// `preserve_external_request_id`.
    pub(crate) preserve_external_request_id: bool,
    /// `normalize_path`.
    pub(crate) normalize_path: bool,
    /// `merge_slashes`.
    pub(crate) merge_slashes: bool,
    /// `path_with_escaped_slashes_action`.
    pub(crate) escaped_slashes: EscapedSlashes,
    /// `tracing` is present: trace context is continued and written.
    pub(crate) tracing: bool,
    /// Whether `upgrade_configs` allows CONNECT.
    pub(crate) allow_connect: bool,
    /// Lower-case upgrade types of `upgrade_configs` other than CONNECT.
    pub(crate) upgrades: Vec<Arc<str>>,
    /// `http2_protocol_options.allow_connect`: streams may be tunnels (RFC 8441).
    pub(crate) extended_connect: bool,
    /// `server_name` for local replies and, unless passed through, all responses.
    pub(crate) server_name: Option<Arc<str>>,
    /// `server_header_transformation` is PASS_THROUGH.
    pub(crate) pass_server_header: bool,
    /// `server_header_transformation` is APPEND_IF_ABSENT.
    pub(crate) keep_server_header: bool,
    /// `via`.
    pub(crate) via: Option<Arc<str>>,
    /// Bounds of time; `None` is no bound.
    pub(crate) timeouts: HttpTimeouts,
    /// Bound on the bytes of a header section (`max_request_headers_kb`), default 64 KiB here.
    pub(crate) max_header_bytes: usize,
    /// Bound on the number of header fields, default 100.
    pub(crate) max_header_count: usize,
    /// `max_concurrent_streams` of HTTP/2, default 100.
    pub(crate) max_concurrent_streams: u32,
    /// The rest of `http2_protocol_options`.
    pub(crate) http2: http2::Options,
    /// `max_requests_per_connection`.
    pub(crate) max_requests_per_connection: Option<u32>,
    /// `http_protocol_options.accept_http_10`.
    pub(crate) accept_http_10: bool,
    /// Access logs to write.
    pub(crate) access_logs: Vec<Arc<AccessLog>>,
    /// What the next hop is told of the client's certificate.
    pub(crate) client_certificate: ClientCertificate,
}

/// `forward_client_cert_details` and `set_current_client_cert_details`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// What becomes of `x-forwarded-client-cert`.
    pub(crate) mode: ForwardMode,
    /// Our element names the subject.
    pub(crate) subject: bool,
    /// Our element holds the certificate.
    pub(crate) cert: bool,
    /// Our element holds the chain.
    pub(crate) chain: bool,
    /// Our element names the DNS names.
    pub(crate) dns: bool,
    /// Our element names the URIs.
    pub(crate) uri: bool,
}

/// `forward_client_cert_details`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ForwardMode {
    /// Removed.
    #[default]
    Sanitize,
    /// Passed on, of clients with a certificate.
    Forward,
    /// The same, with our element at its end.
    Append,
    /// Our element alone.
    Set,
}

/// Time bounds of the HTTP connection manager.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpTimeouts {
    /// A connection without active requests (`common_http_protocol_options.idle_timeout`), default 1 h.
    pub(crate) idle: Option<Duration>,
    /// No byte on a stream (`stream_idle_timeout`), default 5 min.
    pub(crate) stream_idle: Option<Duration>,
    /// From the first byte of a request to its head's end (`request_headers_timeout`), default 10 s here (Envoy: none).
    pub(crate) headers: Option<Duration>,
    /// From the first byte to the last of a request (`request_timeout`), default none.
    pub(crate) request: Option<Duration>,
    /// A whole exchange (`common_http_protocol_options.max_stream_duration`), default none.
    pub(crate) longest: Option<Duration>,
    /// A connection, until it is asked to end (`common_http_protocol_options.max_connection_duration`), default none.
    pub(crate) connection: Option<Duration>,
    /// Then, what still may come on it (`drain_timeout`), default 5 s.
    pub(crate) drain: Duration,
    /// How long a client is listened to after the last response (`delayed_close_timeout`), default 1 s; zero is not at all.
    pub(crate) delayed_close: Duration,
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(3600)),
            stream_idle: Some(Duration::from_secs(300)),
            headers: Some(Duration::from_secs(10)),
            request: None,
            longest: None,
            connection: None,
            drain: Duration::from_secs(5),
            delayed_close: Duration::from_secs(1),
        }
    }
}

/// `codec_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// By the first bytes.
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 with prior knowledge only.
    Http2,
}

/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Debug)]
pub(crate) struct Tcp {
    /// `stat_prefix`.
    pub(crate) stat_prefix: Arc<str>,
    /// `cluster` or `weighted_clusters`.
    pub(crate) target: route::Target,
    /// `idle_timeout`, default 1 h.
    pub(crate) idle_timeout: Option<Duration>,
    /// `max_downstream_connection_duration`.
    pub(crate) max_duration: Option<Duration>,
    /// `max_connect_attempts`, default 1.
    pub(crate) max_connect_attempts: u32,
    /// Access logs to write.
    pub(crate) access_logs: Vec<Arc<AccessLog>>,
}

/// The writing end. One owner: the config staircase.
pub(crate) struct Publisher {
    shared: Arc<Shared>,
    changed: watch::Sender<u64>,
}

struct Shared {
    current: ArcSwap<Snapshot>,
    /// Version of `current`, readable without touching the pointer.
    version: AtomicU64,
}

impl Publisher {
    /// A publisher of the empty snapshot.
    pub(crate) fn new() -> Self {
        let shared = Shared { current: ArcSwap::default(), version: AtomicU64::new(0) };
        Self { shared: Arc::new(shared), changed: watch::Sender::new(0) }
    }

    /// Makes the snapshot the one that every request from now on is served by. Its version, and where its
    /// listeners are, are set here.
    pub(crate) fn publish(&self, mut snapshot: Snapshot) -> Arc<Snapshot> {
        snapshot.version = self.shared.version.load(Ordering::Relaxed) + 1;
        snapshot.by_address = ByAddress::of(snapshot.listeners.values());
        let version = snapshot.version;
        let snapshot = Arc::new(snapshot);
        self.shared.current.store(snapshot.clone());
        self.shared.version.store(version, Ordering::Release);
        self.changed.send_replace(version);
        snapshot
    }

    /// A handle from which workers make their readers.
    pub(crate) fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone(), changed: self.changed.subscribe() }
    }
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

/// What crosses to a worker's thread.
#[derive(Clone)]
pub(crate) struct Handle {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
}

impl Handle {
    /// What is published now.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// Ticks with every publication.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// One worker's reader.
    pub(crate) fn reader(&self) -> Reader {
        let cached = Rc::new(self.shared.current.load_full());
        Reader { shared: self.shared.clone(), cached: RefCell::new(cached), changed: self.changed.clone() }
    }
}

/// A snapshot as one worker holds it: the outer count is the worker's own, so that requests of different workers do not share one.
#[allow(
    clippy::redundant_allocation,
    reason = "the `Arc`'s count is shared by all threads, the `Rc`'s is not"
)]
pub(crate) type Loaded = Rc<Arc<Snapshot>>;

/// One worker's reading end: a load is one atomic read and a count that no other thread touches.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    cached: RefCell<Loaded>,
    changed: watch::Receiver<u64>,
}

impl Reader {
    /// Ticks with every publication.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// The current snapshot. Call once per request, and keep what it returns for the whole of it.
    pub(crate) fn load(&self) -> Loaded {
        let mut cached = self.cached.borrow_mut();
        if cached.version != self.shared.version.load(Ordering::Acquire) {
            *cached = Rc::new(self.shared.current.load_full());
        }
        cached.clone()
    }
}
