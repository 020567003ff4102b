//! Whether a route applies to a request: path, headers, query parameters.

use std::sync::Arc;

use regex::Regex;

use crate::message::RequestHead;

/// `RouteMatch`: all parts must hold.
#[derive(Debug)]
pub struct Matcher {
    /// The path.
    pub path: PathMatch,
    /// `case_sensitive` is false.
    pub ignore_case: bool,
    /// `headers`; `:method`, `:authority`, `:path` and `:scheme` are names like others.
    pub headers: Vec<HeaderMatch>,
    /// `query_parameters`.
    pub query: Vec<QueryMatch>,
    /// `grpc`: only requests with a gRPC content type.
    pub grpc: bool,
    /// `runtime_fraction`, in parts per million; `None` is all.
    pub fraction: Option<u32>,
}

/// How a path must look. The query string is not part of it.
#[derive(Debug)]
pub enum PathMatch {
    /// `prefix`.
    Prefix(Arc<str>),
    /// `path`.
    Exact(Arc<str>),
    /// `path_separated_prefix`: the prefix itself, or followed by `/`.
    Separated(Arc<str>),
    /// `safe_regex`, on the whole path.
    Regex(Box<Regex>),
    /// `connect_matcher`: CONNECT requests.
    Connect,
}

/// `HeaderMatcher`.
#[derive(Debug)]
pub struct HeaderMatch {
    /// The name, lower case, or a pseudo-header.
    pub name: Arc<str>,
    /// What must hold for it.
    pub test: HeaderTest,
    /// `invert_match`.
    pub invert: bool,
    /// `treat_missing_header_as_empty`.
    pub missing_as_empty: bool,
}

/// What must hold for a header.
#[derive(Debug)]
pub enum HeaderTest {
    /// `present_match`.
    Present,
    /// `string_match` and the older exact/prefix/… fields.
    String(StringMatch),
    /// `range_match`: start (inclusive), end (exclusive).
    Range(i64, i64),
}

/// `QueryParameterMatcher`.
#[derive(Debug)]
pub struct QueryMatch {
    /// The parameter's name.
    pub name: Arc<str>,
    /// What must hold; `None` is present.
    pub test: Option<StringMatch>,
}

/// `StringMatcher`.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is the StringMatcher field of the same name")]
pub enum StringMatch {
    Exact { text: Arc<str>, ignore_case: bool },
    Prefix { text: Arc<str>, ignore_case: bool },
    Suffix { text: Arc<str>, ignore_case: bool },
    Contains { text: Arc<str>, ignore_case: bool },
    Regex(Box<Regex>),
}

impl Matcher {
    /// Whether the request matches. `roll` is uniform over parts per million.
    pub fn matches(&self, _head: &RequestHead, _roll: u32) -> bool {
        false
    }
}
