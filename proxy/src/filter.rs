//! What runs around an exchange, between routing and the upstream.
//!
//! Cardinality: `on_request` runs exactly once per request, after the route is chosen and before the first attempt, in the chain's order;
//! never again for a retry. A filter may answer; then later filters and the upstream see nothing.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::error::Reason;
use crate::message::RequestHead;

mod grpc_web;
mod ratelimit;

pub(crate) use grpc_web::GrpcWeb;
pub(crate) use ratelimit::LocalRateLimit;

/// The filters of a connection manager, in order, router left out.
pub(crate) type Chain = Vec<Arc<Entry>>;

/// Per-route configuration: filter name → what replaces the chain's own.
pub(crate) type Overrides = Vec<(Arc<str>, Option<Kind>)>;

/// One filter in a chain.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its name in the configuration; per-route overrides refer to it.
    pub(crate) name: Arc<str>,
    /// What it does.
    pub(crate) kind: Kind,
}

/// Every filter there is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// `envoy.filters.http.local_ratelimit`.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// `envoy.filters.http.grpc_web`: see [`GrpcWeb`].
    GrpcWeb,
    /// Present in the configuration but with no effect here (e.g. a rate limit without a bucket: per-route only).
    Inert,
}

/// A filter's answer instead of the upstream's.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Why.
    pub(crate) reason: Reason,
    /// The status.
    pub(crate) status: StatusCode,
    /// Further headers.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Runs the chain for one request; the first reply ends it.
pub(crate) fn on_request(
    chain: &Chain,
    overrides: &Overrides,
    _head: &mut RequestHead,
    now: Instant,
) -> Option<Reply> {
    for entry in chain {
        let own = overrides.iter().find(|(name, _)| *name == entry.name);
        let kind = match own {
            // An override of `None` disables the filter on this route.
            Some((_, None)) => continue,
            Some((_, Some(kind))) => kind,
            None => &entry.kind,
        };
        let reply = match kind {
            Kind::LocalRateLimit(limit) => limit.on_request(now),
            Kind::GrpcWeb | Kind::Inert => None,
        };
        if reply.is_some() {
            return reply;
        }
    }
    None
}

/// Whether gRPC-Web is translated on this route.
pub(crate) fn translates_grpc_web(chain: &Chain, overrides: &Overrides) -> bool {
    chain.iter().any(|entry| {
        matches!(entry.kind, Kind::GrpcWeb)
            && !overrides.iter().any(|(name, kind)| *name == entry.name && kind.is_none())
    })
}
