//! [`Record`]: everything about one exchange that telemetry may ask for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::cluster::ClusterMetrics;
use crate::error::Reason;
use crate::message::{RequestHead, Version};
use crate::tls::Security;

/// Everything about one exchange that a log line, a metric or `/why` may ask for. The exchange fills it on its way.
#[derive(Debug)]
pub(crate) struct Record {
    /// When the head was complete.
    pub(crate) start: Instant,
    /// The same by the wall clock.
    pub(crate) start_wall: SystemTime,
    /// The listener's name.
    pub(crate) listener: Arc<str>,
    /// The connection manager's `stat_prefix`.
    pub(crate) stat_prefix: Arc<str>,
    /// Inbound: reporter `destination`.
    pub(crate) inbound: bool,
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// The address it connected to.
    pub(crate) local: SocketAddr,
    /// The client's TLS session.
    pub(crate) security: Option<Arc<Security>>,
    /// Request version.
    pub(crate) version: Version,
    /// Request method.
    pub(crate) method: Method,
    /// Request authority.
    pub(crate) authority: Option<http::uri::Authority>,
    /// Request path before rewriting, and query.
    pub(crate) path: http::uri::PathAndQuery,
    /// A few request headers that formats ask for; the log formats in force say which (lower-case name, value).
    pub(crate) request_headers: Vec<(Arc<str>, Vec<u8>)>,
    /// The same for responses.
    pub(crate) response_headers: Vec<(Arc<str>, Vec<u8>)>,
    /// `x-request-id`.
    pub(crate) request_id: Option<http::HeaderValue>,
    /// The trace id, when tracing.
    pub(crate) trace_id: Option<u128>,
    /// gRPC by content type.
    pub(crate) grpc: bool,
    /// The route's name.
    pub(crate) route: Option<Arc<str>>,
    /// The Kubernetes object behind the route.
    pub(crate) origin: Option<Arc<str>>,
    /// The cluster's counters, which name it.
    pub(crate) cluster: Option<Arc<ClusterMetrics>>,
    /// The last endpoint tried.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Its workload: namespace, name.
    pub(crate) workload: Option<(Arc<str>, Arc<str>)>,
    /// The TLS session with it.
    pub(crate) upstream_security: Option<Arc<Security>>,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// What each attempt met, oldest first; only failures.
    pub(crate) attempt_failures: Vec<(Option<SocketAddr>, Reason)>,
    /// Response status.
    pub(crate) status: Option<StatusCode>,
    /// `grpc-status` of the response, from head or trailers.
    pub(crate) grpc_status: Option<u16>,
    /// Why the proxy answered itself or cut the exchange.
    pub(crate) reason: Option<Reason>,
    /// The id in `x-sidegate-reason`, when there is one.
    pub(crate) reason_id: Option<u64>,
    /// Free text with the reason: the error of the last attempt.
    pub(crate) detail: Option<String>,
    /// From the start until the request's last byte was received.
    pub(crate) request_time: Option<Duration>,
    /// Time spent in the upstream until its head (`x-envoy-upstream-service-time`).
    pub(crate) upstream_time: Option<Duration>,
    /// Body bytes received.
    pub(crate) bytes_received: u64,
    /// Body bytes sent.
    pub(crate) bytes_sent: u64,
    /// The whole exchange, set at the end.
    pub(crate) duration: Duration,
}

/// What a [`Record`] takes from the connection that a request came on.
#[derive(Clone, Debug)]
pub(crate) struct Downstream {
    /// The listener's name.
    pub(crate) listener: Arc<str>,
    /// The connection manager's `stat_prefix`.
    pub(crate) stat_prefix: Arc<str>,
    /// Inbound: reporter `destination`.
    pub(crate) inbound: bool,
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// The address it connected to.
    pub(crate) local: SocketAddr,
    /// Its TLS session.
    pub(crate) security: Option<Arc<Security>>,
}

impl Record {
    /// Why it ended otherwise than it should.
    pub(crate) fn fail(&mut self, reason: Reason, id: u64, detail: String) {
        self.reason = Some(reason);
        self.reason_id = Some(id);
        self.detail = Some(detail);
    }

    /// The record of a request that begins, with nothing decided.
    pub(crate) fn new(downstream: &Downstream, head: &RequestHead, start: Instant, wall: SystemTime) -> Self {
        Self {
            start,
            start_wall: wall,
            listener: downstream.listener.clone(),
            stat_prefix: downstream.stat_prefix.clone(),
            inbound: downstream.inbound,
            peer: downstream.peer,
            local: downstream.local,
            security: downstream.security.clone(),
            version: head.version,
            method: head.method.clone(),
            authority: head.authority.clone(),
            path: head.path.clone(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            request_id: None,
            trace_id: None,
            grpc: false,
            route: None,
            origin: None,
            cluster: None,
            endpoint: None,
            workload: None,
            upstream_security: None,
            attempts: 0,
            attempt_failures: Vec::new(),
            status: None,
            grpc_status: None,
            reason: None,
            reason_id: None,
            detail: None,
            request_time: None,
            upstream_time: None,
            bytes_received: 0,
            bytes_sent: 0,
            duration: Duration::ZERO,
        }
    }
}
