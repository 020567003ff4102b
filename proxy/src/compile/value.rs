//! The small values that every resource is made of: durations, fractions, addresses, text tests, metadata.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use sidegate_xds::bounds::{LARGEST_PROGRAM, LONGEST_PATTERN};
use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::r#type::matcher::v3 as matcher;
use sidegate_xds::envoy::r#type::v3 as kind;
use sidegate_xds::google::protobuf;
use sidegate_xds::spiffe::trust_domain_of;

use super::problem::{At, Problem, fail};
use crate::route::StringMatch;
use crate::tls::Denied;

/// A duration, which must not be negative.
pub(crate) fn duration(value: &protobuf::Duration) -> Result<Duration, Problem> {
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => fail("is not a duration of zero or more"),
    }
}

/// A bound of time: absent is the default, zero is none.
pub(crate) fn bound(
    value: Option<&protobuf::Duration>,
    default: Option<Duration>,
) -> Result<Option<Duration>, Problem> {
    let Some(value) = value else { return Ok(default) };
    Ok(Some(duration(value)?).filter(|duration| !duration.is_zero()))
}

/// A duration that must be there to wait for; zero is refused.
pub(crate) fn interval(value: Option<&protobuf::Duration>, default: Duration) -> Result<Duration, Problem> {
    match value.map(duration).transpose()? {
        None => Ok(default),
        Some(duration) if duration.is_zero() => fail("must be more than zero"),
        Some(duration) => Ok(duration),
    }
}

/// A wrapped boolean.
pub(crate) fn flag(value: Option<&protobuf::BoolValue>, default: bool) -> bool {
    value.map_or(default, |value| value.value)
}

/// A wrapped number.
pub(crate) fn number(value: Option<&protobuf::UInt32Value>) -> Option<u32> {
    value.map(|value| value.value)
}

/// An enum's value by its number. A number that this program does not know must not pass for the default.
pub(crate) fn choice<E: TryFrom<i32>>(number: i32) -> Result<E, Problem> {
    E::try_from(number).map_err(|_| Problem::new(format!("{number} is not a value that this proxy knows")))
}

/// Text, unless empty.
pub(crate) fn text(value: &str) -> Option<Arc<str>> {
    (!value.is_empty()).then(|| value.into())
}

/// A fraction in parts per million, at most all.
pub(crate) fn parts_per_million(fraction: &kind::FractionalPercent) -> u32 {
    use kind::fractional_percent::DenominatorType;
    let scale = match fraction.denominator() {
        DenominatorType::Hundred => 10_000,
        DenominatorType::TenThousand => 100,
        DenominatorType::Million => 1,
    };
    fraction.numerator.saturating_mul(scale).min(ALL)
}

/// All of a million.
pub(crate) const ALL: u32 = 1_000_000;

/// A runtime fraction by its default value: there is no runtime layer to override it. `absent` when it says nothing.
pub(crate) fn runtime_fraction(fraction: Option<&core::RuntimeFractionalPercent>, absent: u32) -> u32 {
    fraction.and_then(|fraction| fraction.default_value.as_ref()).map_or(absent, parts_per_million)
}

/// Host (an IP address or a name) and port.
pub(crate) fn host_and_port(address: Option<&core::Address>) -> Result<(Arc<str>, u16), Problem> {
    use core::address::Address;
    let socket = match address.and_then(|address| address.address.as_ref()) {
        Some(Address::SocketAddress(socket)) => socket,
        Some(Address::Pipe(_)) => return fail("pipe addresses are not supported yet"),
        Some(Address::EnvoyInternalAddress(_)) => return fail("internal addresses are not supported yet"),
        None => return fail("socket_address is required"),
    };
    if socket.protocol() != core::socket_address::Protocol::Tcp {
        return Err(Problem::new("only TCP is supported yet").at("protocol"));
    }
    if !socket.network_namespace_filepath.is_empty() {
        return Err(Problem::new("is not supported yet").at("network_namespace_filepath"));
    }
    let port = match &socket.port_specifier {
        Some(core::socket_address::PortSpecifier::PortValue(port)) => u16::try_from(*port)
            .map_err(|_| Problem::new(format!("{port} is not a port")).at("port_value"))?,
        _ => return Err(Problem::new("is required").at("port_value")),
    };
    match socket.address.as_str() {
        "" => Err(Problem::new("is required").at("address")),
        host => Ok((host.into(), port)),
    }
}

/// An IP address and port.
pub(crate) fn socket_address(address: Option<&core::Address>) -> Result<SocketAddr, Problem> {
    let (host, port) = host_and_port(address)?;
    let parsed: Result<IpAddr, _> = host.parse();
    let address = parsed.map_err(|_| Problem::new(format!("{host} is not an IP address")).at("address"))?;
    Ok(SocketAddr::new(address, port))
}

/// A regular expression that must match the whole text, as everywhere in Envoy.
pub(crate) fn whole_regex(regex: &matcher::RegexMatcher) -> Result<Box<Regex>, Problem> {
    // Compiled by itself first: `a)(b` must not become valid inside the group.
    part_regex(regex)?;
    Ok(Box::new(build(&format!(r"\A(?:{})\z", regex.regex))?))
}

/// A regular expression that may match anywhere (rewriting).
pub(crate) fn part_regex(regex: &matcher::RegexMatcher) -> Result<Regex, Problem> {
    build(&regex.regex)
}

fn build(pattern: &str) -> Result<Regex, Problem> {
    if pattern.len() > LONGEST_PATTERN {
        return Err(Problem::new(format!("is longer than {LONGEST_PATTERN} bytes")).at("regex"));
    }
    let regex = regex::RegexBuilder::new(pattern).size_limit(LARGEST_PROGRAM).build();
    regex.map_err(|error| Problem::new(error.to_string().replace('\n', " ")).at("regex"))
}

/// `StringMatcher`.
pub(crate) fn string_match(wire: &matcher::StringMatcher) -> Result<StringMatch, Problem> {
    use matcher::string_matcher::MatchPattern;
    let ignore_case = wire.ignore_case;
    let Some(pattern) = &wire.match_pattern else { return fail("match_pattern is required") };
    Ok(match pattern {
        MatchPattern::Exact(text) => StringMatch::Exact { text: text.as_str().into(), ignore_case },
        MatchPattern::Prefix(text) => StringMatch::Prefix { text: text.as_str().into(), ignore_case },
        MatchPattern::Suffix(text) => StringMatch::Suffix { text: text.as_str().into(), ignore_case },
        MatchPattern::Contains(text) => StringMatch::Contains { text: text.as_str().into(), ignore_case },
        MatchPattern::SafeRegex(regex) => StringMatch::Regex(whole_regex(regex).at("safe_regex")?),
        MatchPattern::Custom(_) => return Err(Problem::new("is not supported yet").at("custom")),
    })
}

/// The fields that Sidegate's control plane leaves for its proxies, when it made the resource.
pub(crate) fn sidegate_metadata(metadata: Option<&core::Metadata>) -> Option<&protobuf::Struct> {
    metadata?.filter_metadata.get("sidegate")
}

/// A field of a struct as text; whole numbers without a fraction.
pub(crate) fn field(fields: &protobuf::Struct, name: &str) -> Option<Arc<str>> {
    use protobuf::value::Kind;
    match fields.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.as_str().into()),
        Kind::NumberValue(number) => Some(number.to_string().into()),
        _ => None,
    }
}

/// A plain value of a struct, in a spelling that no value of another kind has; `None` for what holds others.
pub(crate) fn plain(value: &protobuf::Value) -> Option<Box<str>> {
    use protobuf::value::Kind;
    Some(match value.kind.as_ref()? {
        Kind::StringValue(text) => format!("={text}").into(),
        Kind::NumberValue(number) => number.to_string().into(),
        Kind::BoolValue(truth) => truth.to_string().into(),
        Kind::NullValue(_) => "null".into(),
        Kind::StructValue(_) | Kind::ListValue(_) => return None,
    })
}

/// `denied_identities` of our metadata: SPIFFE ids that are not accepted, on a listener of its clients, on a cluster of its endpoints.
pub(crate) fn denied_identities(metadata: Option<&core::Metadata>) -> Result<Denied, Problem> {
    use protobuf::value::Kind;
    const PLACE: &str = "metadata.filter_metadata.sidegate.denied_identities";
    let Some(field) = sidegate_metadata(metadata).and_then(|fields| fields.fields.get("denied_identities"))
    else {
        return Ok(Denied::default());
    };
    let Some(Kind::ListValue(list)) = &field.kind else { return fail("is not a list").at(PLACE) };
    if list.values.len() > MOST_DENIED {
        return fail(format!("has more than {MOST_DENIED} ids: use a crl")).at(PLACE);
    }
    let mut denied = BTreeSet::new();
    for (index, value) in list.values.iter().enumerate() {
        let Some(Kind::StringValue(text)) = &value.kind else {
            return fail("is not text").at(format_args!("{PLACE}[{index}]"));
        };
        // What is no id would deny nobody, and whoever wrote it would not know.
        let checked = trust_domain_of(text).map_err(|error| Problem::new(error.to_string()));
        checked.at(format_args!("{PLACE}[{index}]"))?;
        denied.insert(text.as_str().into());
    }
    Ok(Arc::new(denied))
}

const MOST_DENIED: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(pattern: &str) -> matcher::RegexMatcher {
        matcher::RegexMatcher { regex: pattern.to_owned(), engine_type: None }
    }

    #[test]
    fn regexes_match_the_whole_text() {
        assert!(whole_regex(&regex("a|bc")).unwrap().is_match("bc"));
        assert!(!whole_regex(&regex("a|bc")).unwrap().is_match("abc"));
        assert!(!whole_regex(&regex("(?m)a$")).unwrap().is_match("a\nb"));
        assert!(whole_regex(&regex("a)(b")).is_err());
        assert!(whole_regex(&regex("[")).unwrap_err().to_string().starts_with("regex: "));
    }

    #[test]
    fn durations() {
        let wire = |seconds, nanos| protobuf::Duration { seconds, nanos };
        assert_eq!(duration(&wire(1, 500_000_000)).unwrap(), Duration::from_millis(1500));
        assert!(duration(&wire(-1, 0)).is_err());
        let default = Some(Duration::from_secs(9));
        assert_eq!(bound(None, default).unwrap(), default);
        assert_eq!(bound(Some(&wire(0, 0)), default).unwrap(), None);
        assert!(interval(Some(&wire(0, 0)), Duration::ZERO).is_err());
    }

    #[test]
    fn only_ids_can_be_denied() {
        let denied = |text: &str| {
            let text = format!("{{filter_metadata: {{sidegate: {{denied_identities: {text}}}}}}}");
            let metadata: core::Metadata = crate::compile::tests::fixture::yaml(&text);
            let denied = denied_identities(Some(&metadata)).map_err(|problem| problem.to_string());
            denied.map(|denied| denied.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(denied("[spiffe://td/b, spiffe://td/a]").unwrap(), ["spiffe://td/a", "spiffe://td/b"]);
        let place = "metadata.filter_metadata.sidegate.denied_identities";
        let refused = denied("[spiffe://td/a, spiffe://td]").unwrap_err();
        assert!(refused.starts_with(&format!("{place}[1]: ")), "{refused}");
        assert_eq!(denied("[1]").unwrap_err(), format!("{place}[0]: is not text"));
        assert_eq!(denied("spiffe://td/a").unwrap_err(), format!("{place}: is not a list"));
        assert!(denied_identities(None).unwrap().is_empty());
    }

    #[test]
    fn addresses() {
        let wire = |address: &str, port| {
            let socket = core::SocketAddress {
                address: address.to_owned(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
                ..Default::default()
            };
            core::Address { address: Some(core::address::Address::SocketAddress(socket)) }
        };
        assert_eq!(socket_address(Some(&wire("::1", 80))).unwrap(), "[::1]:80".parse().unwrap());
        assert_eq!(
            socket_address(Some(&wire("web", 80))).unwrap_err().to_string(),
            "address: web is not an IP address"
        );
        assert_eq!(
            socket_address(Some(&wire("::1", 70_000))).unwrap_err().to_string(),
            "port_value: 70000 is not a port"
        );
        assert!(socket_address(None).is_err());
    }
}
