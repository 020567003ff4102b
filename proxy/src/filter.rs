//! What runs around an exchange, between routing and the upstream.
//!
//! Cardinality: `on_request` runs exactly once per request, after the route is chosen and before the first attempt, in the chain's order;
//! never again for a retry. A filter may answer; then later filters and the upstream see nothing. A filter that must wait for something
//! asks: the exchange finds the answer, which [`resume`] hands to it, and the chain goes on after it.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::authorization::HeaderChange;
use crate::error::Reason;
use crate::message::{Headers, RequestHead, ResponseHead};
use crate::telemetry::{Downstream, FilterEvent, Recorder};

pub(crate) mod authz;
pub(crate) mod ext_authz;
#[cfg(test)]
mod fixture;
mod grpc_web;
pub(crate) mod jwt;
mod predicate;
mod ratelimit;

pub(crate) use authz::Rbac;
pub(crate) use grpc_web::GrpcWeb;
pub(crate) use predicate::Predicate;
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
    /// `envoy.filters.http.jwt_authn`.
    Jwt(Arc<jwt::Jwt>),
    /// What a route says for it.
    JwtRoute(jwt::JwtRoute),
    /// `envoy.filters.http.ext_authz`.
    ExternalAuthorization(Arc<ext_authz::ExternalAuthorization>),
    /// What a route says for it.
    ExternalAuthorizationRoute(Arc<ext_authz::RouteCheck>),
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

/// What the chain says of a request so far.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It goes on.
    Continue,
    /// It goes on, by the route that it has now: a filter has changed what routes look at.
    Reroute,
    /// It is answered.
    Reply(Reply),
    /// It is answered, with this content.
    ReplyWith(Reply, Bytes),
    /// A filter must know something first. The answer goes to [`resume`], and the chain then on.
    Ask(Box<Question>),
}

impl From<Option<Reply>> for Verdict {
    fn from(reply: Option<Reply>) -> Self {
        reply.map_or(Self::Continue, Self::Reply)
    }
}

/// What a filter waits for.
#[derive(Debug)]
pub(crate) enum Question {
    /// Keys that tokens are verified by.
    Keys(jwt::Waiting),
    /// What another service says of the request.
    Check(ext_authz::Waiting),
}

/// What was found out.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The keys are there, or will not be.
    Keys,
    /// What the service answered, or why it did not.
    Check(Result<Answered, ext_authz::Trouble>),
}

/// The whole of a response to the proxy itself.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The head.
    pub(crate) head: ResponseHead,
    /// The content.
    pub(crate) body: Bytes,
    /// The trailers; none is empty.
    pub(crate) trailers: Headers,
}

/// What filters have found out about a request: Envoy's dynamic metadata, by the name of the filter that says it.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    said: Vec<(Arc<str>, Value)>,
    /// What is to be counted, as bits.
    events: u32,
    /// What the response gets.
    response: Vec<HeaderChange>,
}

impl Attributes {
    /// Notes what a filter says; another word under the same name replaces it.
    pub(crate) fn set(&mut self, filter: Arc<str>, value: Value) {
        match self.said.iter_mut().find(|(name, _)| *name == filter) {
            Some((_, known)) => *known = value,
            None => self.said.push((filter, value)),
        }
    }

    /// Adds to what a filter says.
    pub(crate) fn merge(&mut self, filter: &str, fields: Map<String, Value>) {
        match self.said.iter_mut().find(|(name, _)| **name == *filter) {
            Some((_, Value::Object(known))) => known.extend(fields),
            Some((_, known)) => *known = fields.into(),
            None => self.said.push((filter.into(), fields.into())),
        }
    }

    /// What a filter said.
    pub(crate) fn get(&self, filter: &str) -> Option<&Value> {
        self.said.iter().find(|(name, _)| &**name == filter).map(|(_, value)| value)
    }

    /// The response gets these headers too, whoever makes it.
    pub(crate) fn change_response(&mut self, changes: Vec<HeaderChange>) {
        self.response.extend(changes);
    }

    /// What the response gets.
    pub(crate) fn take_response_changes(&mut self) -> Vec<HeaderChange> {
        std::mem::take(&mut self.response)
    }

    /// Notes something to count.
    pub(crate) fn note(&mut self, event: FilterEvent) {
        self.events |= 1 << event as u32;
    }

    /// The same, if it is so.
    pub(crate) fn note_if(&mut self, is_so: bool, event: FilterEvent) {
        self.events |= u32::from(is_so) << event as u32;
    }

    /// What is to be counted; nothing is afterwards.
    pub(crate) fn take_events(&mut self) -> impl Iterator<Item = FilterEvent> + use<> {
        let events = std::mem::take(&mut self.events);
        FilterEvent::ALL.into_iter().filter(move |event| events & (1 << *event as u32) != 0)
    }
}

/// The filters in force on a route, by name.
pub(crate) fn in_force<'a>(
    chain: &'a Chain,
    overrides: &'a Overrides,
) -> impl Iterator<Item = (&'a Arc<str>, &'a Kind)> {
    chain.iter().filter_map(|entry| {
        let own = overrides.iter().find(|(name, _)| *name == entry.name);
        // An override of `None` disables the filter on this route; one of another kind must not.
        let kind = own.map_or(Some(&entry.kind), |(_, kind)| kind.as_ref())?;
        let stands = matches!((&entry.kind, kind), (Kind::Rbac(_), other) if !matches!(other, Kind::Rbac(_)));
        Some((&entry.name, if stands { &entry.kind } else { kind }))
    })
}

/// Runs the chain for one request, from its `next` filter on; whatever is not to continue ends it, for now or for good.
pub(crate) fn on_request(
    chain: &Chain,
    overrides: &Overrides,
    next: &mut usize,
    context: &mut Context<'_>,
) -> Verdict {
    while let Some(entry) = chain.get(*next) {
        *next += 1;
        let own = overrides.iter().find(|(name, _)| *name == entry.name);
        let own = match own {
            // An override of `None` disables the filter on this route.
            Some((_, None)) => continue,
            Some((_, Some(kind))) => Some(kind),
            None => None,
        };
        let verdict = match (&entry.kind, own) {
            (Kind::Jwt(jwt), Some(Kind::JwtRoute(route))) => jwt.on_request(Some(route), context),
            (Kind::ExternalAuthorization(check), Some(Kind::ExternalAuthorizationRoute(route))) => {
                check.on_request(Some(route), context)
            }
            // A route's word for another kind of filter says nothing of these, and must not switch them off.
            (Kind::Jwt(jwt), _) => jwt.on_request(None, context),
            (Kind::ExternalAuthorization(check), _) => check.on_request(None, context),
            (Kind::Rbac(_), Some(other)) if !matches!(other, Kind::Rbac(_)) => {
                run(&entry.kind, &entry.name, context)
            }
            (kind, None | Some(Kind::JwtRoute(_) | Kind::ExternalAuthorizationRoute(_))) => {
                run(kind, &entry.name, context)
            }
            (_, Some(kind)) => run(kind, &entry.name, context),
        };
        if !matches!(verdict, Verdict::Continue) {
            return verdict;
        }
    }
    Verdict::Continue
}

/// One filter that decides at once.
fn run(kind: &Kind, name: &Arc<str>, context: &mut Context<'_>) -> Verdict {
    match kind {
        Kind::LocalRateLimit(limit) => limit.on_request(context.now).into(),
        Kind::Rbac(rbac) => rbac.on_request(name, context).into(),
        _ => Verdict::Continue,
    }
}

/// Gives a filter the answer that it asked for.
pub(crate) fn resume(question: Question, answer: Answer, context: &mut Context<'_>) -> Verdict {
    match (question, answer) {
        (Question::Keys(waiting), Answer::Keys) => waiting.resume(context),
        (Question::Check(waiting), Answer::Check(answer)) => waiting.resume(answer, context),
        // The exchange answers what it was asked; anything else would be a way around the filter.
        (Question::Keys(_), Answer::Check(_)) | (Question::Check(_), Answer::Keys) => Verdict::Reply(Reply {
            reason: Reason::Internal,
            status: Reason::Internal.status(),
            headers: Vec::new(),
            detail: Some("a filter was given the answer to another question".to_owned()),
        }),
    }
}

/// The clusters that the filters of a chain send requests of their own to.
pub(crate) fn clusters(chain: &Chain) -> impl Iterator<Item = &Arc<str>> {
    chain.iter().flat_map(|entry| {
        let (jwt, check) = match &entry.kind {
            Kind::Jwt(jwt) => (Some(jwt), None),
            Kind::ExternalAuthorization(check) => (None, Some(&check.cluster)),
            _ => (None, None),
        };
        jwt.into_iter().flat_map(|jwt| jwt.remotes()).map(|remote| &remote.cluster).chain(check)
    })
}

/// Whether gRPC-Web is translated on this route.
pub(crate) fn translates_grpc_web(chain: &Chain, overrides: &Overrides) -> bool {
    chain.iter().any(|entry| {
        matches!(entry.kind, Kind::GrpcWeb)
            && !overrides.iter().any(|(name, kind)| *name == entry.name && kind.is_none())
    })
}
