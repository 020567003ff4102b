//! A cluster: its endpoints in a cell of their own, how one is picked, and its limits (`envoy.config.cluster.v3.Cluster`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

mod balance;
mod endpoint;
mod keep;
mod socket;

pub(crate) use balance::{Policy, pick};
pub(crate) use endpoint::{Endpoint, EndpointId, EndpointSet, Lease, Origin, Suspicion, now_millis};
pub(crate) use keep::{Idle, Keep};
pub(crate) use socket::{Labels, MOST_MATCHES, SocketMatch, Sockets};

use crate::http2;
use crate::proxy_header;
use crate::telemetry::ClusterMetrics;
use crate::tls::ClientContext;

/// A cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// What it is for Kubernetes (`metadata.filter_metadata["sidegate"]`), for labels.
    pub(crate) service: Option<Service>,
    /// How an endpoint is picked.
    pub(crate) policy: Policy,
    /// What it speaks.
    pub(crate) protocol: Protocol,
    /// How HTTP/2 is spoken.
    pub(crate) http2: http2::Options,
    /// `connect_timeout`, default 5 s.
    pub(crate) connect_timeout: Duration,
    /// How long its connections are kept.
    pub(crate) keep: Keep,
    /// Where endpoints come from.
    pub(crate) discovery: Discovery,
    /// `circuit_breakers.thresholds[0]`.
    pub(crate) limits: Limits,
    /// How its connections are secured, by endpoint.
    pub(crate) sockets: Arc<Sockets>,
    /// Connections begin with a PROXY header of this version.
    pub(crate) proxy_header: Option<proxy_header::Version>,
    /// The endpoints: the one cell of a cluster, written by the config staircase alone.
    pub(crate) endpoints: ArcSwap<EndpointSet>,
    /// What is in flight now, over all workers; carried over when the cluster is updated.
    pub(crate) live: Arc<Live>,
    /// Its counters; carried over when the cluster is updated.
    pub(crate) metrics: Arc<ClusterMetrics>,
}

/// The Kubernetes object behind a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its kind, `Service` as a rule.
    pub(crate) kind: Arc<str>,
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its name.
    pub(crate) name: Arc<str>,
    /// The port.
    pub(crate) port: u16,
}

/// What a cluster's endpoints speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What the downstream spoke (`use_downstream_protocol_config`).
    Downstream,
}

/// How connections are secured.
#[derive(Clone, Debug)]
pub(crate) struct Security {
    /// What handshakes use.
    pub(crate) context: Arc<ClientContext>,
    /// Which name is asked for.
    pub(crate) ask_for: AskFor,
}

impl PartialEq for Security {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.context, &other.context) && self.ask_for == other.ask_for
    }
}

/// The name that a server is asked for (SNI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskFor {
    /// The context's own, if it has one.
    Configured,
    /// The request's authority (`auto_sni`).
    Authority,
    /// The endpoint's host name (`auto_host_sni`).
    Host,
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// In the cluster itself.
    Static,
    /// By EDS under this name.
    Eds(Arc<str>),
    /// By resolving these names again and again (`STRICT_DNS`, `LOGICAL_DNS`): host and port.
    Dns(Vec<(Arc<str>, u16)>),
    /// By the request's own authority (`envoy.clusters.dynamic_forward_proxy`).
    Forward,
    /// Where a redirected connection wanted to go (`ORIGINAL_DST`).
    Original {
        /// `upstream_port_override`.
        port: Option<u16>,
    },
}

/// Bounds towards a cluster, over all workers. Envoy's defaults: 1024 each, 3 retries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// `max_connections`.
    pub(crate) connections: u32,
    /// `max_pending_requests`: waiting for a connection.
    pub(crate) pending: u32,
    /// `max_requests`: in flight.
    pub(crate) requests: u32,
    /// `max_retries`, when there is no budget.
    pub(crate) retries: u32,
    /// `retry_budget`: percent of active requests, and the number always allowed.
    pub(crate) retry_budget: Option<(f64, u32)>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, pending: 1024, requests: 1024, retries: 3, retry_budget: None }
    }
}

/// What is in flight towards a cluster, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Connections open.
    pub(crate) connections: AtomicU32,
    /// Requests waiting for a connection.
    pub(crate) pending: AtomicU32,
    /// Requests in flight, first attempts and retries.
    pub(crate) requests: AtomicU32,
    /// Retries in flight.
    pub(crate) retries: AtomicU32,
    /// A connection was closed, on whichever worker: one that waits for a place may look again.
    pub(crate) freed: tokio::sync::Notify,
}

impl Cluster {
    /// Claims a place among the requests in flight; `None` when `max_requests` is reached.
    pub(crate) fn claim_request(self: &Arc<Self>) -> Option<RequestClaim> {
        let active = self.live.requests.fetch_add(1, Ordering::Relaxed);
        if active >= self.limits.requests {
            self.live.requests.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(RequestClaim { cluster: self.clone() })
    }

    /// Claims a place among the retries in flight; `None` when the budget is used up.
    pub(crate) fn claim_retry(self: &Arc<Self>) -> Option<RetryClaim> {
        let allowed = match self.limits.retry_budget {
            Some((percent, minimum)) => {
                let active = self.live.requests.load(Ordering::Relaxed);
                minimum.max((f64::from(active) * percent / 100.0) as u32)
            }
            None => self.limits.retries,
        };
        let running = self.live.retries.fetch_add(1, Ordering::Relaxed);
        if running >= allowed {
            self.live.retries.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(RetryClaim { cluster: self.clone() })
    }
}

/// A place among the requests in flight, given back on drop.
#[derive(Debug)]
pub(crate) struct RequestClaim {
    cluster: Arc<Cluster>,
}

impl Drop for RequestClaim {
    fn drop(&mut self) {
        self.cluster.live.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place among the retries in flight, given back on drop.
#[derive(Debug)]
pub(crate) struct RetryClaim {
    cluster: Arc<Cluster>,
}

impl Drop for RetryClaim {
    fn drop(&mut self) {
        self.cluster.live.retries.fetch_sub(1, Ordering::Relaxed);
    }
}
