//! How policies write texts: exact, `abc*`, `*abc`, `*`.

use sidegate_xds::envoy::r#type::matcher::v3::StringMatcher;
use sidegate_xds::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::super::wire;

/// Matches a value as policies write it; `before` is put before what does not begin with a wildcard.
pub(super) fn matcher(value: &str, before: &str) -> StringMatcher {
    let pattern = if value == "*" {
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

/// A host, in any case, with or without a trailing dot and a port.
pub(super) fn host(value: &str) -> StringMatcher {
    let middle = match (value.strip_prefix('*'), value.strip_suffix('*')) {
        _ if value == "*" => ".+".to_owned(),
        (Some(end), _) => format!(".*{}", escaped(end)),
        (_, Some(start)) => format!("{}.*", escaped(start)),
        _ => escaped(value),
    };
    wire::matching(&format!("(?i){middle}\\.?(:[0-9]+)?"))
}

/// The text itself as a regular expression.
pub(super) fn escaped(text: &str) -> String {
    regex::escape(text)
}
