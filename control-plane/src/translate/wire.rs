//! Small values of Envoy's types that every file of this room needs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use sidegate_xds::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, Metadata, RuntimeFractionalPercent,
    SocketAddress, address, config_source, socket_address,
};
use sidegate_xds::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};
use sidegate_xds::envoy::r#type::v3::FractionalPercent;
use sidegate_xds::envoy::r#type::v3::fractional_percent::DenominatorType;
use sidegate_xds::google::protobuf::{
    BoolValue, Duration as WireDuration, Struct, UInt32Value, Value, value::Kind as ValueKind,
};

/// The key under which everything that a decision can name stands in `filter_metadata`.
pub(super) const METADATA_KEY: &str = "sidegate";

/// A wrapped number.
pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// A wrapped boolean.
pub(super) fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// A duration; the Gateway API's durations end at 99,999 hours, so seconds always fit.
pub(super) fn duration(value: Duration) -> WireDuration {
    WireDuration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

/// `filter_metadata["sidegate"]` with these strings.
pub(super) fn metadata<const N: usize>(fields: [(&str, String); N]) -> Option<Metadata> {
    let fields = fields
        .into_iter()
        .map(|(key, text)| (key.to_owned(), Value { kind: Some(ValueKind::StringValue(text)) }))
        .collect();
    Some(Metadata {
        filter_metadata: HashMap::from([(METADATA_KEY.to_owned(), Struct { fields })]),
        ..Metadata::default()
    })
}

/// Where an endpoint says how it is to be connected to, and a cluster what that means.
pub(super) const SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// A struct of one text.
pub(super) fn single(key: &str, text: &str) -> Struct {
    Struct { fields: [(key.to_owned(), self::text(text))].into_iter().collect() }
}

/// A text as a value.
pub(super) fn text(text: &str) -> Value {
    Value { kind: Some(ValueKind::StringValue(text.to_owned())) }
}

/// "Ask for it on this stream"; a proxy stops waiting after 5 s and goes on without.
pub(super) fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        initial_fetch_timeout: Some(duration(Duration::from_secs(5))),
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    })
}

/// A TCP address.
pub(super) fn socket(ip: IpAddr, port: u16) -> Option<Address> {
    Some(Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    })
}

/// A regular expression that must match the whole value.
pub(super) fn regex(pattern: impl Into<String>) -> RegexMatcher {
    RegexMatcher { regex: pattern.into(), ..RegexMatcher::default() }
}

/// Matches exactly this text.
pub(super) fn exactly(text: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(text.to_owned())),
        ..StringMatcher::default()
    }
}

/// Matches the whole text against a regular expression.
pub(super) fn matching(pattern: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::SafeRegex(regex(pattern))),
        ..StringMatcher::default()
    }
}

/// A share in millionths.
pub(super) fn millionths(numerator: u32) -> Option<RuntimeFractionalPercent> {
    Some(RuntimeFractionalPercent {
        default_value: Some(FractionalPercent { numerator, denominator: DenominatorType::Million.into() }),
        ..RuntimeFractionalPercent::default()
    })
}

/// Always.
pub(super) fn always() -> Option<RuntimeFractionalPercent> {
    Some(RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: 100,
            denominator: DenominatorType::Hundred.into(),
        }),
        ..RuntimeFractionalPercent::default()
    })
}
