//! One form for HTTPRoute and GRPCRoute.
//!
//! The published types repeat every nested type for every place it occurs in; from here on there is one of each, borrowed
//! from the object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::verdict::{Problem, Subject};
use crate::model::Name;

mod grpc;
mod http;
mod parts;

pub(super) use parts::{Backend, Filter, HeaderOps, Mirror, Redirect, Reference, Rewrite, RewritePath};

/// The API group of Gateway, HTTPRoute and their like.
pub(super) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Which kind of route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RouteKind {
    Http,
    Grpc,
}

impl RouteKind {
    /// The Kubernetes kind.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

/// An HTTPRoute or a GRPCRoute.
#[derive(Debug)]
pub(super) struct Route<'a> {
    pub(super) kind: RouteKind,
    pub(super) name: Name,
    pub(super) generation: i64,
    pub(super) created: Option<&'a Time>,
    pub(super) subject: Subject,
    /// In lower case; those that are no hostnames stand in `bad_hostnames`.
    pub(super) hostnames: Vec<String>,
    pub(super) bad_hostnames: Vec<&'a str>,
    pub(super) parents: Vec<Parent<'a>>,
    pub(super) rules: Vec<Rule<'a>>,
}

impl Route<'_> {
    /// Orders routes as conflicts are decided: the older, then the lower namespace/name. One without a creation time
    /// (a manifest in a folder) counts as the youngest.
    pub(super) fn seniority(&self) -> (bool, Option<&Time>, &Name, RouteKind) {
        (self.created.is_none(), self.created, &self.name, self.kind)
    }
}

/// A `parentRef` with its defaults filled in.
#[derive(Debug)]
pub(super) struct Parent<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) name: Name,
    pub(super) section: Option<&'a str>,
    pub(super) port: Option<i32>,
}

/// One rule.
#[derive(Debug)]
pub(super) struct Rule<'a> {
    pub(super) name: Option<&'a str>,
    /// Never empty: a rule without matches matches everything.
    pub(super) matches: Vec<Match<'a>>,
    pub(super) filters: Vec<Filter<'a>>,
    pub(super) backends: Vec<Backend<'a>>,
    pub(super) request_timeout: Option<&'a str>,
    pub(super) backend_timeout: Option<&'a str>,
    pub(super) retry: Option<Retry<'a>>,
    /// Asked for, and not supported.
    pub(super) session_persistence: bool,
}

/// One match.
#[derive(Debug, Default)]
pub(super) struct Match<'a> {
    pub(super) path: PathMatch<'a>,
    pub(super) method: Option<&'static str>,
    pub(super) headers: Vec<ValueMatch<'a>>,
    pub(super) query: Vec<ValueMatch<'a>>,
}

/// How the path is matched.
#[derive(Clone, Copy, Debug)]
pub(super) enum PathMatch<'a> {
    Exact(&'a str),
    Prefix(&'a str),
    Regex(&'a str),
    /// gRPC's `/service/method`; either part may be open.
    Grpc {
        service: Option<&'a str>,
        method: Option<&'a str>,
        regex: bool,
    },
}

impl Default for PathMatch<'_> {
    fn default() -> Self {
        Self::Prefix("/")
    }
}

/// A header or a query parameter and its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValueMatch<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
    pub(super) regex: bool,
}

/// When to try again.
#[derive(Debug)]
pub(super) struct Retry<'a> {
    pub(super) attempts: Option<i64>,
    pub(super) backoff: Option<&'a str>,
    pub(super) codes: Vec<i64>,
}

/// Reads a Gateway API duration (GEP-2257).
pub(super) fn duration(text: &str) -> Result<std::time::Duration, Problem> {
    let read = text.parse::<gateway_api::Duration>();
    read.map(|read| std::time::Duration::new(read.as_secs(), read.subsec_nanos())).map_err(|_| {
        Problem::new("UnsupportedValue", format!("{text:?} is not a duration such as 500ms, 10s or 1m30s"))
    })
}

/// Splits hostnames into good ones, in lower case, and others.
fn hostnames(given: Option<&Vec<String>>) -> (Vec<String>, Vec<&str>) {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for host in given.into_iter().flatten() {
        let lower = host.to_ascii_lowercase();
        if super::hostname::is_valid(&lower) { good.push(lower) } else { bad.push(host.as_str()) }
    }
    (good, bad)
}
