//! How policies write texts: exact, `abc*`, `*abc`, `*`.

use sidegate_xds::envoy::r#type::matcher::v3::StringMatcher;
use sidegate_xds::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::super::wire;

/// Whether any value will do, an empty one too: whoever asks whether something is there must not be passed by a value of nothing.
pub(super) fn is_anything(value: &str) -> bool {
    value == "*"
}

/// Matches a value as policies write it; `before` is put before what does not begin with a wildcard.
pub(super) fn matcher(value: &str, before: &str) -> StringMatcher {
    let pattern = if is_anything(value) {
        return wire::matching(".+");
    } else if let Some(end) = value.strip_prefix('*') {
        MatchPattern::Suffix(end.to_owned())
    } else if let Some(start) = value.strip_suffix('*') {
        MatchPattern::Prefix(format!("{before}{start}"))
    } else {
        MatchPattern::Exact(format!("{before}{value}"))
    };
    StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }
}

/// A host, in any case, with or without a trailing dot and a port: one of these. Only what ends anywhere but at the end needs a regular
/// expression, of which a proxy takes so many.
pub(super) fn host(value: &str) -> Vec<StringMatcher> {
    if let Some(end) = value.strip_prefix('*') {
        return vec![wire::matching(&format!("(?i).*{}\\.?(:[0-9]+)?", escaped(end)))];
    }
    let in_any_case = |pattern| StringMatcher { match_pattern: Some(pattern), ignore_case: true };
    if let Some(start) = value.strip_suffix('*') {
        return vec![in_any_case(MatchPattern::Prefix(start.to_owned()))];
    }
    let rooted = format!("{value}.");
    vec![
        in_any_case(MatchPattern::Exact(value.to_owned())),
        in_any_case(MatchPattern::Prefix(format!("{value}:"))),
        in_any_case(MatchPattern::Prefix(format!("{rooted}:"))),
        in_any_case(MatchPattern::Exact(rooted)),
    ]
}

/// The text itself as a regular expression.
pub(super) fn escaped(text: &str) -> String {
    regex::escape(text)
}
