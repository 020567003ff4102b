//! `FilterChainMatch` → `snapshot::Criteria`.

use std::net::IpAddr;

use sidegate_xds::envoy::config::core::v3::CidrRange;
use sidegate_xds::envoy::config::listener::v3 as wire;
use wire::filter_chain_match::ConnectionSourceType;

use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::value;
use crate::snapshot::{Criteria, Prefix, ServerName, SourceKind};

/// Checks what a chain matches.
pub(super) fn compile(wire: &wire::FilterChainMatch) -> Result<Criteria, Problem> {
    unsupported(&[
        ("address_suffix", !wire.address_suffix.is_empty()),
        ("suffix_len", wire.suffix_len.is_some()),
    ])?;
    let criteria = Criteria {
        destination_port: value::number(wire.destination_port.as_ref())
            .map(|number| port(number).at("destination_port"))
            .transpose()?,
        destinations: each(&wire.prefix_ranges, "prefix_ranges", prefix)?,
        server_names: each(&wire.server_names, "server_names", |name| server_name(name))?,
        transport: (!wire.transport_protocol.is_empty()).then(|| wire.transport_protocol.as_str().into()),
        protocols: wire.application_protocols.iter().map(|protocol| protocol.as_str().into()).collect(),
        direct_sources: each(&wire.direct_source_prefix_ranges, "direct_source_prefix_ranges", prefix)?,
        source_kind: source_kind(value::choice(wire.source_type).at("source_type")?),
        sources: each(&wire.source_prefix_ranges, "source_prefix_ranges", prefix)?,
        source_ports: each(&wire.source_ports, "source_ports", |number| port(*number))?,
    };
    match criteria.combinations() {
        ..=MOST_COMBINATIONS => Ok(criteria),
        combinations => fail(format!(
            "{combinations} combinations of prefixes, names, protocols and ports; {MOST_COMBINATIONS} at most"
        )),
    }
}

/// Every item of a list, each problem with its place.
fn each<W, T>(list: &[W], field: &str, one: impl Fn(&W) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
    let items = list.iter().enumerate();
    items.map(|(index, item)| one(item).at(format_args!("{field}[{index}]"))).collect()
}

fn port(number: u32) -> Result<u16, Problem> {
    match u16::try_from(number) {
        Ok(port @ 1..) => Ok(port),
        _ => fail(format!("{number} is not a port")),
    }
}

/// A range of addresses.
pub(crate) fn prefix(range: &CidrRange) -> Result<Prefix, Problem> {
    let address: Result<IpAddr, _> = range.address_prefix.parse();
    let address = address
        .map_err(|_| Problem::new(format!("{} is not an IP address", range.address_prefix)))
        .at("address_prefix")?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match value::number(range.prefix_len.as_ref()).unwrap_or(0) {
        length if length <= most => Ok(Prefix::new(address, length as u8)),
        length => fail(format!("{length} is more than the {most} bits of the address")).at("prefix_len"),
    }
}

fn server_name(name: &str) -> Result<ServerName, Problem> {
    let lower = name.to_ascii_lowercase();
    match lower.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') && suffix.len() > 1 && !suffix.contains('*') => {
            Ok(ServerName::Suffix(suffix.into()))
        }
        _ if lower.contains('*') => {
            fail(format!("{name}: a `*` stands for the whole first part of a name only"))
        }
        _ => Ok(ServerName::Exact(lower.into())),
    }
}

fn source_kind(wire: ConnectionSourceType) -> SourceKind {
    match wire {
        ConnectionSourceType::Any => SourceKind::Any,
        ConnectionSourceType::SameIpOrLoopback => SourceKind::Local,
        ConnectionSourceType::External => SourceKind::External,
    }
}

/// Bounds what one chain may cost: the table has a place for each combination of its lists.
const MOST_COMBINATIONS: usize = 65_536;
