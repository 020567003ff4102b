//! Host and request → the route that decides (`envoy.config.route.v3.RouteConfiguration`).
//!
//! Selection is pure and generic over a [`Recorder`]: served, explained and replayed requests take the same code (D4).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::uri::PathAndQuery;
use regex::Regex;

use crate::filter;
use crate::message::{Headers, Name, RequestHead, Value};
use crate::telemetry::HeaderFormat;

mod matcher;
mod retry;
mod table;

pub(crate) use matcher::{HeaderMatch, HeaderTest, Matcher, PathMatch, QueryMatch, StringMatch};
pub(crate) use table::{Table, VirtualHost};

/// Notes each step of a decision; [`Silent`] compiles to nothing.
pub(crate) trait Recorder {
    /// A step was taken; `text` is only built when the recorder listens.
    fn note(&mut self, text: impl FnOnce() -> String);
}

/// The recorder of served requests: hears nothing, costs nothing.
pub(crate) struct Silent;

impl Recorder for Silent {
    fn note(&mut self, _: impl FnOnce() -> String) {}
}

impl Recorder for Vec<String> {
    fn note(&mut self, text: impl FnOnce() -> String) {
        self.push(text());
    }
}

/// One route: when it applies, and what then.
#[derive(Debug)]
pub(crate) struct Route {
    /// `name`, or what the configuration's place makes of it; for logs (`%ROUTE_NAME%`) and explain.
    pub(crate) name: Arc<str>,
    /// When it applies.
    pub(crate) matcher: Matcher,
    /// What then.
    pub(crate) action: Action,
    /// The Kubernetes object behind it (`metadata.filter_metadata["sidegate"]`): `HTTPRoute shop/web rule 0 generation 3`.
    pub(crate) origin: Option<Arc<str>>,
    /// Header changes, the route's own first, then the virtual host's, then the table's (Envoy's order).
    pub(crate) request_headers: Vec<Arc<HeaderChanges>>,
    /// The same for responses.
    pub(crate) response_headers: Vec<Arc<HeaderChanges>>,
    /// Per-route configuration of filters (`typed_per_filter_config`, most specific wins), by filter name.
    pub(crate) filters: filter::Overrides,
}

/// What a route does.
#[derive(Debug)]
pub(crate) enum Action {
    /// Sends the request on.
    Forward(Box<Forward>),
    /// Answers 3xx.
    Redirect(Box<Redirect>),
    /// Answers by itself.
    Direct(Box<Direct>),
}

/// `RouteAction`.
#[derive(Debug)]
pub(crate) struct Forward {
    /// Where to.
    pub(crate) target: Target,
    /// `cluster_not_found_response_code`, default 503.
    pub(crate) cluster_not_found: StatusCode,
    /// `timeout`: from the end of the request to the end of the response; `None` is none. Envoy's default is 15 s.
    pub(crate) timeout: Option<Duration>,
    /// `idle_timeout`; overrides the connection manager's stream idle timeout.
    pub(crate) idle_timeout: Option<Duration>,
    /// `max_stream_duration.max_stream_duration`: in place of the connection manager's; `Some(None)` is no bound.
    pub(crate) longest: Option<Option<Duration>>,
    /// `max_stream_duration.grpc_timeout_header_max` and `_offset`: `grpc-timeout` in place of `longest`.
    pub(crate) grpc_stream: Option<GrpcTimeout>,
    /// `max_grpc_timeout` and `grpc_timeout_offset`: `grpc-timeout` in place of `timeout`.
    pub(crate) grpc_timeout: Option<GrpcTimeout>,
    /// Retries; `None` is none.
    pub(crate) retry: Option<Arc<RetryPolicy>>,
    /// Path rewriting.
    pub(crate) rewrite: Rewrite,
    /// `host_rewrite_literal` and its kin.
    pub(crate) host_rewrite: HostRewrite,
    /// `request_mirror_policies`: clusters, with the share in parts per million.
    pub(crate) mirrors: Vec<(Arc<str>, u32)>,
    /// CONNECT requests are terminated here and their payload forwarded (`connect_config`).
    pub(crate) terminate_connect: bool,
    /// `upgrade_configs`: lower-case types that the route allows or forbids, whatever the connection manager says.
    pub(crate) upgrades: Vec<(Arc<str>, bool)>,
}

/// How much of a caller's `grpc-timeout` is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GrpcTimeout {
    /// At most this; `None` is all of it.
    pub(crate) most: Option<Duration>,
    /// Less this, unless nothing would be left.
    pub(crate) offset: Duration,
}

/// Where a request or connection goes.
#[derive(Debug)]
pub(crate) enum Target {
    /// One cluster.
    Cluster(Arc<str>),
    /// `weighted_clusters`; the total is the sum, at least 1.
    Weighted {
        /// The clusters; those of weight 0 are left out.
        clusters: Vec<WeightedCluster>,
        /// Sum of the weights.
        total: u32,
    },
    /// `cluster_header`: the cluster is named by this request header (lower case).
    Header(Arc<str>),
}

/// One of several weighted clusters.
#[derive(Debug)]
pub(crate) struct WeightedCluster {
    /// The cluster.
    pub(crate) name: Arc<str>,
    /// Its weight, at least 1.
    pub(crate) weight: u32,
    /// Header changes of its own, applied before the route's.
    pub(crate) request_headers: Option<Arc<HeaderChanges>>,
    /// The same for responses.
    pub(crate) response_headers: Option<Arc<HeaderChanges>>,
}

impl Target {
    /// Chooses a cluster. `roll` is uniform over `u32`; the choice is `roll` scaled to the total weight.
    pub(crate) fn choose<'a>(&'a self, head: &'a RequestHead, roll: u32) -> Option<Choice<'a>> {
        match self {
            Self::Cluster(name) => Some(Choice { cluster: name, weighted: None }),
            Self::Weighted { clusters, total } => {
                let mut point = ((u64::from(roll) * u64::from(*total)) >> 32) as u32;
                for cluster in clusters {
                    if point < cluster.weight {
                        return Some(Choice { cluster: &cluster.name, weighted: Some(cluster) });
                    }
                    point -= cluster.weight;
                }
                None
            }
            Self::Header(name) => {
                head.headers.get_str(name).map(|cluster| Choice { cluster, weighted: None })
            }
        }
    }
}

/// The cluster chosen by a [`Target`].
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    /// Its name.
    pub(crate) cluster: &'a str,
    /// Its entry when there were several.
    pub(crate) weighted: Option<&'a WeightedCluster>,
}

/// Path rewriting of a forwarded request (query strings are kept).
#[derive(Debug)]
pub(crate) enum Rewrite {
    /// None.
    Keep,
    /// `prefix_rewrite`: the matched prefix, or the whole matched path, becomes this.
    Prefix(Arc<str>),
    /// `regex_rewrite`: every match in the path becomes the substitution (Rust's `${1}` form).
    Regex(Box<(Regex, String)>),
}

/// Host rewriting of a forwarded request.
#[derive(Debug)]
pub(crate) enum HostRewrite {
    /// As it came.
    Keep,
    /// `host_rewrite_literal`.
    Literal(http::uri::Authority),
    /// `auto_host_rewrite`: the endpoint's host name.
    Auto,
}

/// `RedirectAction`.
#[derive(Debug)]
pub(crate) struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub(crate) status: StatusCode,
    /// `scheme_redirect` / `https_redirect`.
    pub(crate) scheme: Option<Arc<str>>,
    /// `host_redirect`.
    pub(crate) host: Option<Arc<str>>,
    /// `port_redirect`.
    pub(crate) port: Option<u16>,
    /// What happens to the path.
    pub(crate) path: RedirectPath,
    /// `strip_query`.
    pub(crate) strip_query: bool,
}

/// The path of a redirect.
#[derive(Debug)]
pub(crate) enum RedirectPath {
    /// As it came.
    Keep,
    /// `path_redirect`: this instead; a query in it replaces the request's.
    Full(PathAndQuery),
    /// `prefix_rewrite`.
    Prefix(Arc<str>),
}

/// `DirectResponseAction`.
#[derive(Debug)]
pub(crate) struct Direct {
    /// The status.
    pub(crate) status: StatusCode,
    /// The body.
    pub(crate) body: bytes::Bytes,
}

/// `RetryPolicy`.
#[derive(Clone, Debug)]
pub(crate) struct RetryPolicy {
    /// The conditions of `retry_on`.
    pub(crate) on: RetryOn,
    /// `retriable_status_codes`.
    pub(crate) statuses: Vec<StatusCode>,
    /// `num_retries`, default 1.
    pub(crate) retries: u32,
    /// `per_try_timeout`.
    pub(crate) per_try_timeout: Option<Duration>,
    /// `per_try_idle_timeout`: silence within one attempt.
    pub(crate) per_try_idle: Option<Duration>,
    /// `retry_host_predicate: previous_hosts`: another endpoint each time, when there is one.
    pub(crate) other_endpoint: bool,
    /// `retry_back_off`: base and maximum of the jittered exponential back-off; Envoy's default is 25 ms and 250 ms.
    pub(crate) back_off: (Duration, Duration),
    /// Only idempotent methods, except where nothing was processed (D9: routes of our own control plane).
    pub(crate) idempotent_only: bool,
    /// Bytes of request body kept for another attempt; 64 KiB.
    pub(crate) replay_limit: usize,
}

/// The conditions of `retry_on`, HTTP and gRPC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "the field's own list of independent conditions")]
pub(crate) struct RetryOn {
    /// `5xx` (also every failure without a response).
    pub(crate) server_error: bool,
    /// `gateway-error`: 502, 503, 504.
    pub(crate) gateway_error: bool,
    /// `connect-failure`.
    pub(crate) connect_failure: bool,
    /// `refused-stream`.
    pub(crate) refused_stream: bool,
    /// `reset`: any failure before the response head.
    pub(crate) reset: bool,
    /// `reset-before-request`: nothing of the request was sent.
    pub(crate) reset_before_request: bool,
    /// `retriable-4xx`: 409.
    pub(crate) retriable_4xx: bool,
    /// `retriable-status-codes`.
    pub(crate) retriable_statuses: bool,
    /// gRPC status codes in the response head (`cancelled` 1, `deadline-exceeded` 4, `resource-exhausted` 8, `internal` 13, `unavailable` 14), as bits.
    pub(crate) grpc: u32,
}

/// Additions and removals of header fields, in the order in which they apply: removals, then additions.
#[derive(Debug, Default)]
pub(crate) struct HeaderChanges {
    /// Lower-case names to remove.
    pub(crate) remove: Vec<Arc<str>>,
    /// Fields to add.
    pub(crate) add: Vec<HeaderAddition>,
}

/// `HeaderValueOption`.
#[derive(Debug)]
pub(crate) struct HeaderAddition {
    /// The name.
    pub(crate) name: http::HeaderName,
    /// The value.
    pub(crate) value: AddedValue,
    /// `append_action`.
    pub(crate) action: AppendAction,
}

/// `append_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppendAction {
    /// `APPEND_IF_EXISTS_OR_ADD`.
    Append,
    /// `ADD_IF_ABSENT`.
    AddIfAbsent,
    /// `OVERWRITE_IF_EXISTS_OR_ADD`.
    Overwrite,
    /// `OVERWRITE_IF_EXISTS`.
    OverwriteIfExists,
}

/// What a field gets.
#[derive(Debug)]
pub(crate) enum AddedValue {
    /// Always this.
    Fixed(http::HeaderValue),
    /// Made for each message (`%…%`).
    Made(Box<HeaderFormat>),
}

impl HeaderChanges {
    /// Request headers that added values tell of, when the changes are a response's.
    pub(crate) fn wanted_request_headers(&self) -> impl Iterator<Item = &Arc<str>> {
        self.add.iter().flat_map(|addition| match &addition.value {
            AddedValue::Fixed(_) => [].iter(),
            AddedValue::Made(format) => format.wanted_request_headers().iter(),
        })
    }

    /// Applies the changes to a header section. `make` writes a value that is made; the field is left out where there is none.
    pub(crate) fn apply(
        &self,
        headers: &mut Headers,
        mut make: impl FnMut(&HeaderFormat, &Headers) -> Option<http::HeaderValue>,
    ) {
        for name in &self.remove {
            headers.remove(name);
        }
        for addition in &self.add {
            let value = match &addition.value {
                AddedValue::Fixed(value) => value.clone(),
                AddedValue::Made(format) => match make(format, headers) {
                    Some(value) => value,
                    None => continue,
                },
            };
            let present = headers.contains(addition.name.as_str());
            let (name, value) = (Name::Http(addition.name.clone()), Value::Http(value));
            match addition.action {
                AppendAction::Append => headers.append(name, value),
                AppendAction::AddIfAbsent if !present => headers.append(name, value),
                AppendAction::Overwrite => headers.insert(name, value),
                AppendAction::OverwriteIfExists if present => headers.insert(name, value),
                AppendAction::AddIfAbsent | AppendAction::OverwriteIfExists => {}
            }
        }
    }
}
