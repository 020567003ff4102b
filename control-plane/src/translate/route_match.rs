//! A match → Envoy's `RouteMatch`, and its place in the order of precedence.

use std::collections::BTreeSet;

use sidegate_xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use sidegate_xds::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use sidegate_xds::envoy::config::route::v3::route_match::PathSpecifier;
use sidegate_xds::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, RouteMatch};

use super::normal::{Match, PathMatch, ValueMatch};
use super::verdict::Problem;
use super::{header, wire};

/// How specific a match is, most significant first; the larger wins.
///
/// HTTP: exact path, then regular expression, then the longest prefix; method; number of headers; number of query
/// parameters. (The Gateway API leaves the place of regular expressions open.) gRPC: characters of the service, characters of
/// the method, number of headers. The two are never merged into one virtual host.
pub(super) type Rank = [usize; 5];

/// Translates one match; the problem's text starts with the field below the match.
pub(super) fn route_match(given: &Match<'_>) -> Result<(RouteMatch, Rank), Problem> {
    let (path, class, length) = path(given.path)?;
    let mut headers = Vec::new();
    if let Some(method) = given.method {
        headers.push(header_matcher(":method", HeaderMatchSpecifier::StringMatch(wire::exactly(method))));
    }
    let header_matches = header_matches(&given.headers)?;
    let query_parameters = query_matches(&given.query)?;
    let rank = match given.path {
        PathMatch::Grpc { .. } => [class, length, header_matches.len(), 0, 0],
        _ => {
            [class, length, usize::from(given.method.is_some()), header_matches.len(), query_parameters.len()]
        }
    };
    headers.extend(header_matches);
    Ok((RouteMatch { headers, query_parameters, path_specifier: Some(path), ..RouteMatch::default() }, rank))
}

/// The prefix that a prefix match stands for: without a trailing slash, except for `/` itself.
pub(super) fn prefix(value: &str) -> &str {
    match value.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    }
}

fn path(given: PathMatch<'_>) -> Result<(PathSpecifier, usize, usize), Problem> {
    match given {
        PathMatch::Exact(value) => {
            check_path(value)?;
            Ok((PathSpecifier::Path(value.to_owned()), 3, value.len()))
        }
        PathMatch::Prefix(value) => {
            check_path(value)?;
            Ok(match prefix(value) {
                "/" => (PathSpecifier::Prefix("/".to_owned()), 1, 1),
                // Whole elements of the path only: `/a` is a prefix of `/a/b`, not of `/ab`.
                prefix => (PathSpecifier::PathSeparatedPrefix(prefix.to_owned()), 1, prefix.len()),
            })
        }
        PathMatch::Regex(value) => {
            check_regex(value).map_err(|text| unsupported(format!("path.value: {text}")))?;
            Ok((PathSpecifier::SafeRegex(wire::regex(value)), 2, value.len()))
        }
        PathMatch::Grpc { service, method, regex } => grpc_path(service, method, regex),
    }
}

/// `/service/method`, where either part may be open.
fn grpc_path(
    service: Option<&str>,
    method: Option<&str>,
    regex: bool,
) -> Result<(PathSpecifier, usize, usize), Problem> {
    for (field, part) in [("service", service), ("method", method)] {
        let Some(part) = part else { continue };
        let checked = if regex { check_regex(part) } else { check_grpc_name(part) };
        checked.map_err(|text| unsupported(format!("method.{field}: {text}")))?;
    }
    let ranks = (service.map_or(0, str::len), method.map_or(0, str::len));
    let path = match (service, method, regex) {
        (None, None, _) => PathSpecifier::Prefix("/".to_owned()),
        (Some(service), Some(method), false) => PathSpecifier::Path(format!("/{service}/{method}")),
        (Some(service), None, false) => PathSpecifier::Prefix(format!("/{service}/")),
        (None, Some(method), false) => {
            PathSpecifier::SafeRegex(wire::regex(format!("/[^/]+/{}", regex::escape(method))))
        }
        (service, method, true) => {
            let part =
                |part: Option<&str>| part.map_or_else(|| "[^/]+".to_owned(), |part| format!("(?:{part})"));
            PathSpecifier::SafeRegex(wire::regex(format!("/{}/{}", part(service), part(method))))
        }
    };
    Ok((path, ranks.0, ranks.1))
}

fn header_matches(given: &[ValueMatch<'_>]) -> Result<Vec<HeaderMatcher>, Problem> {
    let mut seen = BTreeSet::new();
    let mut matchers = Vec::new();
    for (index, header) in given.iter().enumerate() {
        let at = |text: String| unsupported(format!("headers[{index}]: {text}"));
        let name = header.name.to_ascii_lowercase();
        header::check_name(&name).map_err(at)?;
        // Of several entries for one header only the first counts (Gateway API).
        if !seen.insert(name.clone()) {
            continue;
        }
        let value = if header.regex {
            check_regex(header.value).map_err(at)?;
            wire::matching(header.value)
        } else {
            wire::exactly(header.value)
        };
        matchers.push(header_matcher(&name, HeaderMatchSpecifier::StringMatch(value)));
    }
    Ok(matchers)
}

fn header_matcher(name: &str, specifier: HeaderMatchSpecifier) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..HeaderMatcher::default()
    }
}

fn query_matches(given: &[ValueMatch<'_>]) -> Result<Vec<QueryParameterMatcher>, Problem> {
    let mut seen = BTreeSet::new();
    let mut matchers = Vec::new();
    for (index, parameter) in given.iter().enumerate() {
        let at = |text: String| unsupported(format!("queryParams[{index}]: {text}"));
        if parameter.name.is_empty() || parameter.name.len() > 1024 {
            return Err(at("the name must have 1 to 1024 characters".to_owned()));
        }
        if !seen.insert(parameter.name) {
            continue;
        }
        let value = if parameter.regex {
            check_regex(parameter.value).map_err(at)?;
            wire::matching(parameter.value)
        } else {
            wire::exactly(parameter.value)
        };
        matchers.push(QueryParameterMatcher {
            name: parameter.name.to_owned(),
            query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(value)),
        });
    }
    Ok(matchers)
}

fn unsupported(text: String) -> Problem {
    Problem::new("UnsupportedValue", text)
}

/// The rules that the Gateway API's schema has for paths; a folder of manifests has no API server that checks them.
fn check_path(value: &str) -> Result<(), Problem> {
    let refuse = |text: &str| Err(unsupported(format!("path.value: {value:?} {text}")));
    if !value.starts_with('/') {
        return refuse("must start with /");
    }
    if value.bytes().any(|byte| byte <= b' ' || byte >= 0x7f || byte == b'?' || byte == b'#') {
        return refuse("must be a path only: no spaces, no ? and no #, other characters percent-encoded");
    }
    let lower = value.to_ascii_lowercase();
    let odd = ["//", "/./", "/../", "%2f"].iter().any(|part| lower.contains(part));
    if odd || lower.ends_with("/..") || lower.ends_with("/.") {
        return refuse(
            "must not contain //, /./, /../ or %2F: requests are matched after such parts are resolved",
        );
    }
    Ok(())
}

fn check_grpc_name(value: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if value.bytes().all(good) { Ok(()) } else { Err(format!("{value:?} is not a name of gRPC")) }
}

/// Whether both engines accept the expression: Rust's `regex` in our proxy, RE2 in Envoy. One that a proxy refuses would make
/// it refuse the whole route table.
fn check_regex(pattern: &str) -> Result<(), String> {
    if pattern.is_empty() {
        return Err("an empty regular expression".to_owned());
    }
    if let Some(construct) = unknown_to_re2(pattern) {
        return Err(format!("{pattern:?} uses {construct}, which RE2 does not know"));
    }
    regex::Regex::new(pattern).map(|_| ()).map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        format!("{pattern:?} is not a regular expression: {last}")
    })
}

/// A construct of Rust's `regex` that RE2 lacks.
fn unknown_to_re2(pattern: &str) -> Option<&'static str> {
    let bytes = pattern.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        match rest {
            [b'\\', b'u' | b'U', ..] => return Some("\\u"),
            [b'\\', b'<' | b'>', ..] | [b'\\', b'b', b'{', ..] => {
                return Some("a word boundary other than \\b");
            }
            [b'\\', _, ..] => at += 1,
            [b'(', b'?', flags @ ..] => {
                let ends = |byte: &u8| matches!(byte, b':' | b')' | b'<' | b'P');
                if flags.iter().take_while(|byte| !ends(byte)).any(|byte| matches!(byte, b'x' | b'u' | b'R'))
                {
                    return Some("a flag other than i, m, s and U");
                }
            }
            [b'{', count @ ..] => {
                let digits: String = count
                    .iter()
                    .take_while(|byte| byte.is_ascii_digit() || **byte == b',')
                    .map(|byte| char::from(*byte))
                    .collect();
                if digits.split(',').any(|number| number.parse::<u64>().is_ok_and(|number| number > 1000)) {
                    return Some("a repetition of more than 1000");
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}
