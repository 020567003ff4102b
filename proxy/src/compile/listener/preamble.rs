//! `listener_filters` → `snapshot::Preamble`.

use std::time::Duration;

use sidegate_xds::envoy::config::core::v3::proxy_protocol_config::Version;
use sidegate_xds::envoy::config::listener::v3 as wire;
use sidegate_xds::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use sidegate_xds::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;
use wire::listener_filter_chain_match_predicate::{MatchSet, Rule};

use crate::compile::extension;
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::value;
use crate::snapshot::{Inspection, ListenerFilter, PortRule, Preamble, ProxyHeaderRule};

/// Checks the listener filters and their bound of time.
pub(super) fn compile(wire: &wire::Listener) -> Result<Preamble, Problem> {
    let mut filters = Vec::with_capacity(wire.listener_filters.len());
    for (index, filter) in wire.listener_filters.iter().enumerate() {
        let place = format!("listener_filters[{index}] ({})", filter.name);
        let kind = inspection(filter).at(&place)?;
        let disabled = filter.filter_disabled.as_ref();
        let disabled =
            disabled.map(|rule| port_rule(rule, 0)).transpose().at("filter_disabled").at(&place)?;
        filters.push(ListenerFilter { kind, disabled });
    }
    let timeout = wire.listener_filters_timeout.as_ref();
    Ok(Preamble {
        filters,
        timeout: value::bound(timeout, Some(DEFAULT_TIMEOUT)).at("listener_filters_timeout")?,
        goes_on_late: wire.continue_on_listener_filters_timeout,
    })
}

fn inspection(filter: &wire::ListenerFilter) -> Result<Inspection, Problem> {
    let typed = match &filter.config_type {
        Some(wire::listener_filter::ConfigType::TypedConfig(any)) => Some(any),
        Some(wire::listener_filter::ConfigType::ConfigDiscovery(_)) => {
            return fail("is not supported yet").at("config_discovery");
        }
        None => None,
    };
    let kind = typed.map_or_else(|| filter.name.clone(), extension::type_name);
    match kind.rsplit('.').next().unwrap_or_default() {
        "TlsInspector" | "tls_inspector" => tls_inspector(typed).map(|()| Inspection::Tls),
        "HttpInspector" | "http_inspector" => Ok(Inspection::Http),
        "OriginalDst" | "original_dst" => Ok(Inspection::OriginalDestination),
        "ProxyProtocol" | "proxy_protocol" => proxy_header(typed).map(Inspection::ProxyHeader),
        _ => fail("is not supported yet"),
    }
}

/// Sizes have no effect: what is read is bounded.
fn tls_inspector(typed: Option<&Any>) -> Result<(), Problem> {
    let Some(any) = typed else { return Ok(()) };
    let inspector: TlsInspector = from_any(any).map_err(|error| Problem::new(error.to_string()))?;
    unsupported(&[
        ("enable_ja3_fingerprinting", value::flag(inspector.enable_ja3_fingerprinting.as_ref(), false)),
        ("enable_ja4_fingerprinting", value::flag(inspector.enable_ja4_fingerprinting.as_ref(), false)),
    ])
}

fn proxy_header(typed: Option<&Any>) -> Result<ProxyHeaderRule, Problem> {
    let mut rule = ProxyHeaderRule { optional: false, v1: true, v2: true };
    let Some(any) = typed else { return Ok(rule) };
    let filter: ProxyProtocol = from_any(any).map_err(|error| Problem::new(error.to_string()))?;
    unsupported(&[
        ("rules", !filter.rules.is_empty()),
        ("pass_through_tlvs", filter.pass_through_tlvs.is_some()),
    ])?;
    rule.optional = filter.allow_requests_without_proxy_protocol;
    for version in &filter.disallowed_versions {
        match value::choice(*version).at("disallowed_versions")? {
            Version::V1 => rule.v1 = false,
            Version::V2 => rule.v2 = false,
        }
    }
    if rule.v1 || rule.v2 { Ok(rule) } else { fail("leaves no version").at("disallowed_versions") }
}

fn port_rule(wire: &wire::ListenerFilterChainMatchPredicate, depth: usize) -> Result<PortRule, Problem> {
    if depth >= DEEPEST {
        return fail(format!("has rules in rules more than {DEEPEST} deep"));
    }
    let each = |set: &MatchSet| {
        set.rules.iter().map(|rule| port_rule(rule, depth + 1)).collect::<Result<Vec<_>, _>>()
    };
    match &wire.rule {
        Some(Rule::OrMatch(set)) => Ok(PortRule::Any(each(set).at("or_match")?)),
        Some(Rule::AndMatch(set)) => Ok(PortRule::All(each(set).at("and_match")?)),
        Some(Rule::NotMatch(rule)) => {
            Ok(PortRule::Not(Box::new(port_rule(rule, depth + 1).at("not_match")?)))
        }
        Some(Rule::AnyMatch(true)) => Ok(PortRule::Always),
        Some(Rule::DestinationPortRange(range)) => {
            match (u32::try_from(range.start), u32::try_from(range.end)) {
                (Ok(start), Ok(end)) if start < end => Ok(PortRule::Ports(start..end)),
                _ => fail("is empty").at("destination_port_range"),
            }
        }
        Some(Rule::AnyMatch(false)) | None => fail("says nothing"),
    }
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
const DEEPEST: usize = 16;
