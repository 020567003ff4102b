//! What runs around an exchange, between routing and the upstream.
//!
//! Cardinality: `on_request` runs exactly once per request, after the route is chosen and before the first attempt, in the chain's order;
//! never again for a retry. A filter may answer; then later filters and the upstream see nothing.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::error::Reason;
use crate::message::RequestHead;
use crate::telemetry::{Downstream, Recorder};

pub(crate) mod authz;
mod grpc_web;
mod ratelimit;

pub(crate) use authz::Rbac;
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
    /// `envoy.filters.http.rbac`: see [`authz`].
    Rbac(Arc<Rbac>),
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
    /// What the operator should know beyond the reason (policy, rule, what failed); never sent to the client.
    pub(crate) detail: Option<String>,
}

/// What filters see of a request, and leave for filters after them.
pub(crate) struct Context<'a> {
    /// When the request began.
    pub(crate) now: Instant,
    /// The connection: addresses, and who is at its other end.
    pub(crate) connection: &'a Downstream,
    /// The address at the connection's other end, whoever it speaks for.
    pub(crate) direct: IpAddr,
    /// The client's address, as trusted hops tell it.
    pub(crate) client: IpAddr,
    /// The request's head; its path is canonical.
    pub(crate) head: &'a mut RequestHead,
    /// What filters have found out.
    pub(crate) attributes: &'a mut Attributes,
    /// Where they count.
    pub(crate) recorder: &'a Recorder,
    /// What the operator should know of a request that passes, e.g. what a dry run would have done.
    pub(crate) notes: &'a mut Vec<String>,
}

/// What filters have found out about a request: Envoy's dynamic metadata, by the name of the filter that says it.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<(Arc<str>, Value)>);

impl Attributes {
    /// Notes what a filter says; another word under the same name replaces it.
    pub(crate) fn set(&mut self, filter: Arc<str>, value: Value) {
        match self.0.iter_mut().find(|(name, _)| *name == filter) {
            Some((_, known)) => *known = value,
            None => self.0.push((filter, value)),
        }
    }

    /// Adds to what a filter says.
    pub(crate) fn merge(&mut self, filter: &str, fields: Map<String, Value>) {
        match self.0.iter_mut().find(|(name, _)| **name == *filter) {
            Some((_, Value::Object(known))) => known.extend(fields),
            Some((_, known)) => *known = fields.into(),
            None => self.0.push((filter.into(), fields.into())),
        }
    }

    /// What a filter said.
    pub(crate) fn get(&self, filter: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| &**name == filter).map(|(_, value)| value)
    }
}

/// The filters in force on a route, by name.
pub(crate) fn in_force<'a>(
    chain: &'a Chain,
    overrides: &'a Overrides,
) -> impl Iterator<Item = (&'a Arc<str>, &'a Kind)> {
    chain.iter().filter_map(|entry| {
        let own = overrides.iter().find(|(name, _)| *name == entry.name);
        // An override of `None` disables the filter on this route.
        let kind = own.map_or(Some(&entry.kind), |(_, kind)| kind.as_ref())?;
        Some((&entry.name, kind))
    })
}

/// Runs the chain for one request; the first reply ends it.
pub(crate) fn on_request(chain: &Chain, overrides: &Overrides, context: &mut Context<'_>) -> Option<Reply> {
    for (name, kind) in in_force(chain, overrides) {
        let reply = match kind {
            Kind::LocalRateLimit(limit) => limit.on_request(context.now),
            Kind::Rbac(rbac) => rbac.on_request(name, context),
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
