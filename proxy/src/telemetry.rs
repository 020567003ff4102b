//! What is counted, logged and remembered. Hot paths touch only their worker's shard.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::error::Reason;
use crate::message::Version;

/// Everything about one exchange that a log line, a metric or `/why` may ask for. The exchange fills it on its way.
#[derive(Debug)]
pub struct Record {
    /// When the head was complete.
    pub start: Instant,
    /// The same by the wall clock.
    pub start_wall: SystemTime,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The connection manager's `stat_prefix`.
    pub stat_prefix: Arc<str>,
    /// Inbound: reporter `destination`.
    pub inbound: bool,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// Request version.
    pub version: Version,
    /// Request method.
    pub method: Method,
    /// Request authority.
    pub authority: Option<http::uri::Authority>,
    /// Request path before rewriting, and query.
    pub path: http::uri::PathAndQuery,
    /// A few request headers that formats ask for; the log formats in force say which (lower-case name, value).
    pub request_headers: Vec<(Arc<str>, Vec<u8>)>,
    /// The same for responses.
    pub response_headers: Vec<(Arc<str>, Vec<u8>)>,
    /// `x-request-id`.
    pub request_id: Option<http::HeaderValue>,
    /// The trace id, when tracing.
    pub trace_id: Option<u128>,
    /// gRPC by content type.
    pub grpc: bool,
    /// The route's name.
    pub route: Option<Arc<str>>,
    /// The Kubernetes object behind the route.
    pub origin: Option<Arc<str>>,
    /// The cluster's counters, which name it.
    pub cluster: Option<Arc<ClusterMetrics>>,
    /// The last endpoint tried.
    pub endpoint: Option<SocketAddr>,
    /// Its workload: namespace, name.
    pub workload: Option<(Arc<str>, Arc<str>)>,
    /// Attempts made.
    pub attempts: u32,
    /// What each attempt met, oldest first; only failures.
    pub attempt_failures: Vec<(Option<SocketAddr>, Reason)>,
    /// Response status.
    pub status: Option<StatusCode>,
    /// `grpc-status` of the response, from head or trailers.
    pub grpc_status: Option<u16>,
    /// Why the proxy answered itself or cut the exchange.
    pub reason: Option<Reason>,
    /// The id in `x-sidegate-reason`, when there is one.
    pub reason_id: Option<u64>,
    /// Free text with the reason: the error of the last attempt.
    pub detail: Option<String>,
    /// Time spent in the upstream until its head (`x-envoy-upstream-service-time`).
    pub upstream_time: Option<Duration>,
    /// Body bytes received.
    pub bytes_received: u64,
    /// Body bytes sent.
    pub bytes_sent: u64,
    /// The whole exchange, set at the end.
    pub duration: Duration,
}

/// A cluster's counters and what names it in labels.
#[derive(Debug, Default)]
pub struct ClusterMetrics {
    /// The cluster's name.
    pub name: Arc<str>,
}

/// An access log's format.
#[derive(Debug, Default)]
pub struct LogFormat {}
