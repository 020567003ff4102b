//! `RouteMatch` → `Matcher`.

use sidegate_xds::envoy::config::route::v3 as wire;

use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::value;
use crate::route::{HeaderMatch, HeaderTest, Matcher, PathMatch, QueryMatch, StringMatch};

/// Checks a match.
pub(crate) fn compile(wire: &wire::RouteMatch) -> Result<Matcher, Problem> {
    unsupported(&[
        ("tls_context", wire.tls_context.is_some()),
        ("dynamic_metadata", !wire.dynamic_metadata.is_empty()),
        ("filter_state", !wire.filter_state.is_empty()),
        ("cookies", !wire.cookies.is_empty()),
    ])?;
    let headers = wire.headers.iter().enumerate();
    let headers = headers.map(|(index, header)| self::header(header).at(format_args!("headers[{index}]")));
    let query = wire.query_parameters.iter().enumerate();
    let query = query.map(|(index, query)| self::query(query).at(format_args!("query_parameters[{index}]")));
    let fraction = wire.runtime_fraction.as_ref();
    Ok(Matcher {
        path: path(wire.path_specifier.as_ref())?,
        ignore_case: !value::flag(wire.case_sensitive.as_ref(), true),
        headers: headers.collect::<Result<_, _>>()?,
        query: query.collect::<Result<_, _>>()?,
        grpc: wire.grpc.is_some(),
        fraction: fraction
            .map(|fraction| value::runtime_fraction(Some(fraction), value::ALL))
            .filter(|fraction| *fraction < value::ALL),
    })
}

fn path(wire: Option<&wire::route_match::PathSpecifier>) -> Result<PathMatch, Problem> {
    use wire::route_match::PathSpecifier;
    Ok(match wire {
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(prefix.as_str().into()),
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.as_str().into()),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            // Envoy's own rule: the separator is what follows the prefix.
            let well_formed =
                prefix.starts_with('/') && !prefix.ends_with('/') && !prefix.contains(['?', '#']);
            if !well_formed {
                return fail("must start with / and not end with it").at("path_separated_prefix");
            }
            PathMatch::Separated(prefix.as_str().into())
        }
        Some(PathSpecifier::SafeRegex(regex)) => {
            PathMatch::Regex(value::whole_regex(regex).at("safe_regex")?)
        }
        Some(PathSpecifier::ConnectMatcher(_)) => PathMatch::Connect,
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            return fail("is not supported yet").at("path_match_policy");
        }
        None => return fail("has no path specifier that this proxy knows"),
    })
}

/// `HeaderMatcher`; also used for retriable headers.
fn header(wire: &wire::HeaderMatcher) -> Result<HeaderMatch, Problem> {
    use wire::header_matcher::HeaderMatchSpecifier as Specifier;
    if wire.name.is_empty() {
        return fail("is required").at("name");
    }
    let text = |text: &String| text.as_str().into();
    let ignore_case = false;
    let mut invert = wire.invert_match;
    let test = match &wire.header_match_specifier {
        None | Some(Specifier::PresentMatch(true)) => HeaderTest::Present,
        Some(Specifier::PresentMatch(false)) => {
            invert = !invert;
            HeaderTest::Present
        }
        Some(Specifier::StringMatch(test)) => {
            HeaderTest::String(value::string_match(test).at("string_match")?)
        }
        Some(Specifier::ExactMatch(value)) => {
            HeaderTest::String(StringMatch::Exact { text: text(value), ignore_case })
        }
        Some(Specifier::PrefixMatch(value)) => {
            HeaderTest::String(StringMatch::Prefix { text: text(value), ignore_case })
        }
        Some(Specifier::SuffixMatch(value)) => {
            HeaderTest::String(StringMatch::Suffix { text: text(value), ignore_case })
        }
        Some(Specifier::ContainsMatch(value)) => {
            HeaderTest::String(StringMatch::Contains { text: text(value), ignore_case })
        }
        Some(Specifier::SafeRegexMatch(regex)) => {
            HeaderTest::String(StringMatch::Regex(value::whole_regex(regex).at("safe_regex_match")?))
        }
        Some(Specifier::RangeMatch(range)) => HeaderTest::Range(range.start, range.end),
    };
    Ok(HeaderMatch {
        name: wire.name.to_ascii_lowercase().into(),
        test,
        invert,
        missing_as_empty: wire.treat_missing_header_as_empty,
    })
}

fn query(wire: &wire::QueryParameterMatcher) -> Result<QueryMatch, Problem> {
    use wire::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    if wire.name.is_empty() {
        return fail("is required").at("name");
    }
    let test = match &wire.query_parameter_match_specifier {
        None | Some(Specifier::PresentMatch(true)) => None,
        Some(Specifier::PresentMatch(false)) => {
            return fail("false is not supported yet").at("present_match");
        }
        Some(Specifier::StringMatch(test)) => Some(value::string_match(test).at("string_match")?),
    };
    Ok(QueryMatch { name: wire.name.as_str().into(), test })
}
