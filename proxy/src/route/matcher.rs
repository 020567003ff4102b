//! Whether a route applies to a request: path, headers, query parameters.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::Method;
use regex::Regex;

use crate::message::RequestHead;

/// `RouteMatch`: all parts must hold.
#[derive(Debug)]
pub(crate) struct Matcher {
    /// The path.
    pub(crate) path: PathMatch,
    /// `case_sensitive` is false.
    pub(crate) ignore_case: bool,
    /// `headers`; `:method`, `:authority`, `:path` and `:scheme` are names like others.
    pub(crate) headers: Vec<HeaderMatch>,
    /// `query_parameters`.
    pub(crate) query: Vec<QueryMatch>,
    /// `grpc`: only requests with a gRPC content type.
    pub(crate) grpc: bool,
    /// `runtime_fraction`, in parts per million; `None` is all.
    pub(crate) fraction: Option<u32>,
}

/// How a path must look. The query string is not part of it.
#[derive(Debug)]
pub(crate) enum PathMatch {
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
pub(crate) struct HeaderMatch {
    /// The name, lower case, or a pseudo-header.
    pub(crate) name: Arc<str>,
    /// What must hold for it.
    pub(crate) test: HeaderTest,
    /// `invert_match`.
    pub(crate) invert: bool,
    /// `treat_missing_header_as_empty`.
    pub(crate) missing_as_empty: bool,
}

/// What must hold for a header.
#[derive(Debug)]
pub(crate) enum HeaderTest {
    /// `present_match`.
    Present,
    /// `string_match` and the older exact/prefix/… fields.
    String(StringMatch),
    /// `range_match`: start (inclusive), end (exclusive).
    Range(i64, i64),
}

/// `QueryParameterMatcher`.
#[derive(Debug)]
pub(crate) struct QueryMatch {
    /// The parameter's name.
    pub(crate) name: Arc<str>,
    /// What must hold; `None` is present.
    pub(crate) test: Option<StringMatch>,
}

/// `StringMatcher`.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is the StringMatcher field of the same name")]
pub(crate) enum StringMatch {
    Exact { text: Arc<str>, ignore_case: bool },
    Prefix { text: Arc<str>, ignore_case: bool },
    Suffix { text: Arc<str>, ignore_case: bool },
    Contains { text: Arc<str>, ignore_case: bool },
    Regex(Box<Regex>),
}

/// Which part of a [`Matcher`] did not hold; for explain.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mismatch<'a> {
    /// The path, or for a CONNECT matcher the method.
    Path(&'a PathMatch),
    /// A header.
    Header(&'a HeaderMatch),
    /// A query parameter.
    Query(&'a QueryMatch),
    /// Not a gRPC request.
    Grpc,
    /// The request is not among the fraction of requests that the route takes.
    Fraction(u32),
}

impl Matcher {
    /// The first part that does not hold, cheapest parts first; `None` when the request matches.
    /// `roll` is uniform over parts per million.
    pub(crate) fn mismatch(&self, head: &RequestHead, roll: u32) -> Option<Mismatch<'_>> {
        if !self.path.matches(head, self.ignore_case) {
            return Some(Mismatch::Path(&self.path));
        }
        if let Some(header) = self.headers.iter().find(|header| !header.matches(head)) {
            return Some(Mismatch::Header(header));
        }
        if let Some(query) = self.query.iter().find(|query| !query.matches(head.path.query())) {
            return Some(Mismatch::Query(query));
        }
        if self.grpc && !is_grpc(head) {
            return Some(Mismatch::Grpc);
        }
        match self.fraction {
            Some(fraction) if roll >= fraction => Some(Mismatch::Fraction(fraction)),
            _ => None,
        }
    }
}

impl PathMatch {
    fn matches(&self, head: &RequestHead, ignore_case: bool) -> bool {
        // A CONNECT request has no path: only a CONNECT matcher sees it (Envoy's `supportsPathlessHeaders`).
        if head.method == Method::CONNECT {
            return matches!(self, Self::Connect);
        }
        let path = head.path.path();
        match self {
            Self::Prefix(prefix) => starts_with(path, prefix, ignore_case),
            Self::Exact(wanted) => equals(path, wanted, ignore_case),
            Self::Separated(prefix) => {
                starts_with(path, prefix, ignore_case)
                    && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => regex.is_match(path),
            Self::Connect => false,
        }
    }
}

impl HeaderMatch {
    fn matches(&self, head: &RequestHead) -> bool {
        let value = match header_value(head, &self.name) {
            None if self.missing_as_empty => Some(Cow::Borrowed(&b""[..])),
            value => value,
        };
        let holds = match (&self.test, value) {
            (HeaderTest::Present, value) => value.is_some(),
            // A missing header fails its test whether inverted or not, as in Envoy; `treat_missing_header_as_empty` is the way out.
            (_, None) => return false,
            (HeaderTest::String(test), Some(value)) => test.matches(&value),
            (HeaderTest::Range(start, end), Some(value)) => {
                let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse::<i64>().ok());
                number.is_some_and(|number| (*start..*end).contains(&number))
            }
        };
        holds != self.invert
    }
}

impl QueryMatch {
    /// The first parameter of that name decides. Names and values are compared as they stand in the request, undecoded (as in Envoy).
    fn matches(&self, query: Option<&str>) -> bool {
        let pairs = query.unwrap_or_default().split('&');
        let value = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(name, _)| !name.is_empty() && *name == &*self.name)
            .map(|(_, value)| value);
        match (&self.test, value) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(test), Some(value)) => test.matches(value.as_bytes()),
        }
    }
}

impl StringMatch {
    /// Whether the text holds; bytes, because header values need not be UTF-8.
    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        let same = |one: &[u8], two: &str, ignore_case: bool| {
            if ignore_case { one.eq_ignore_ascii_case(two.as_bytes()) } else { one == two.as_bytes() }
        };
        match self {
            Self::Exact { text, ignore_case } => same(value, text, *ignore_case),
            Self::Prefix { text, ignore_case } => {
                value.get(..text.len()).is_some_and(|start| same(start, text, *ignore_case))
            }
            Self::Suffix { text, ignore_case } => {
                let start = value.len().checked_sub(text.len());
                start.and_then(|start| value.get(start..)).is_some_and(|end| same(end, text, *ignore_case))
            }
            Self::Contains { text, ignore_case } => {
                text.is_empty() || value.windows(text.len()).any(|window| same(window, text, *ignore_case))
            }
            Self::Regex(regex) => std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text)),
        }
    }
}

/// A header's value for matching. Repeated fields count as one, joined by commas (RFC 9110 §5.3); only that rare case allocates.
fn header_value<'a>(head: &'a RequestHead, name: &'a str) -> Option<Cow<'a, [u8]>> {
    let text = match name {
        ":method" => Some(head.method.as_str()),
        ":path" => Some(head.path.as_str()),
        ":scheme" => Some(head.scheme.as_str()),
        ":authority" | "host" => Some(head.authority.as_ref()?.as_str()),
        _ => None,
    };
    if let Some(text) = text {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    let mut values = head.headers.get_all(name);
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
    let mut joined = [first, second].join(&b',');
    for value in values {
        joined.push(b',');
        joined.extend_from_slice(value);
    }
    Some(Cow::Owned(joined))
}

/// gRPC by content type: `application/grpc`, alone or followed by a subtype or parameter.
fn is_grpc(head: &RequestHead) -> bool {
    let rest = head.headers.get("content-type").and_then(|value| value.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn starts_with(text: &str, prefix: &str, ignore_case: bool) -> bool {
    match text.as_bytes().get(..prefix.len()) {
        Some(start) if ignore_case => start.eq_ignore_ascii_case(prefix.as_bytes()),
        Some(start) => start == prefix.as_bytes(),
        None => false,
    }
}

fn equals(text: &str, wanted: &str, ignore_case: bool) -> bool {
    if ignore_case { text.eq_ignore_ascii_case(wanted) } else { text == wanted }
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(formatter, "wants {path}"),
            Self::Header(header) => write!(formatter, "wants {header}"),
            Self::Query(query) => write!(formatter, "wants {query}"),
            Self::Grpc => formatter.write_str("wants a gRPC request"),
            Self::Fraction(fraction) => {
                write!(formatter, "takes {} % of requests, not this one", f64::from(*fraction) / 10_000.0)
            }
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => write!(formatter, "path prefix {prefix}"),
            Self::Exact(path) => write!(formatter, "path {path}"),
            Self::Separated(prefix) => write!(formatter, "path {prefix} or below"),
            Self::Regex(regex) => write!(formatter, "path matching {regex}"),
            Self::Connect => formatter.write_str("method CONNECT"),
        }
    }
}

impl fmt::Display for HeaderMatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.invert { "not " } else { "" };
        match &self.test {
            HeaderTest::Present => write!(formatter, "header {} {not}present", self.name),
            HeaderTest::String(test) => write!(formatter, "header {} {not}{test}", self.name),
            HeaderTest::Range(start, end) => {
                write!(formatter, "header {} {not}a number from {start} to below {end}", self.name)
            }
        }
    }
}

impl fmt::Display for QueryMatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.test {
            None => write!(formatter, "query parameter {}", self.name),
            Some(test) => write!(formatter, "query parameter {} {test}", self.name),
        }
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact { text, .. } => write!(formatter, "\"{text}\""),
            Self::Prefix { text, .. } => write!(formatter, "starting with \"{text}\""),
            Self::Suffix { text, .. } => write!(formatter, "ending with \"{text}\""),
            Self::Contains { text, .. } => write!(formatter, "containing \"{text}\""),
            Self::Regex(regex) => write!(formatter, "matching {regex}"),
        }
    }
}

#[cfg(test)]
mod tests;
