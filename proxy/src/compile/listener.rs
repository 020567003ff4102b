//! `envoy.config.listener.v3.Listener` → `snapshot::Listener`.

use std::net::SocketAddr;
use std::sync::Arc;

use sidegate_xds::envoy::config::core::v3::TrafficDirection;
use sidegate_xds::envoy::config::listener::v3 as wire;
use tokio::time::Instant;

use super::extension;
use super::problem::{At, Problem, fail, unsupported};
use super::tls::Contexts;
use super::value;
use crate::snapshot::{Direction, Listener};

mod chain;
mod criteria;

pub(crate) use chain::{ChainPlan, Routes};

/// A checked listener.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The listener.
    pub(crate) listener: Arc<Listener>,
    /// Its chains.
    pub(crate) chains: Vec<ChainPlan>,
}

impl Plan {
    /// Where the routes of its chains are.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Routes> {
        self.chains.iter().map(|chain| &chain.routes)
    }
}

/// Checks a listener. What `previous` has too is taken over: chains, counts, token buckets.
pub(crate) fn compile(
    wire: &wire::Listener,
    previous: Option<&Plan>,
    contexts: &mut Contexts,
    now: Instant,
) -> Result<Plan, Problem> {
    refuse_unsupported(wire)?;
    for (index, filter) in wire.listener_filters.iter().enumerate() {
        listener_filter(filter).at(format_args!("listener_filters[{index}] ({})", filter.name))?;
    }
    let addresses = addresses(wire)?;
    let name = name(wire);
    let (table, chains) = chain::compile(wire, previous, contexts, now)?;
    let bind = value::flag(wire.bind_to_port.as_ref(), true)
        && wire.deprecated_v1.as_ref().is_none_or(|old| value::flag(old.bind_to_port.as_ref(), true));
    let listener = Listener {
        name,
        addresses,
        bind,
        chains: table,
        direction: match wire.traffic_direction() {
            TrafficDirection::Inbound => Direction::Inbound,
            TrafficDirection::Outbound | TrafficDirection::Unspecified => Direction::Outbound,
        },
    };
    Ok(Plan { listener: Arc::new(listener), chains })
}

/// The name; a static listener may have none and then has its address's.
pub(crate) fn name(wire: &wire::Listener) -> Arc<str> {
    let address = || value::host_and_port(wire.address.as_ref()).ok();
    match wire.name.as_str() {
        "" => address().map(|(host, port)| format!("{host}_{port}").into()).unwrap_or_default(),
        name => name.into(),
    }
}

/// Accepted without effect: socket tuning, statistics, buffers, the listener's own access log.
fn refuse_unsupported(wire: &wire::Listener) -> Result<(), Problem> {
    unsupported(&[
        ("use_original_dst", value::flag(wire.use_original_dst.as_ref(), false)),
        ("transparent", value::flag(wire.transparent.as_ref(), false)),
        ("fcds_config", wire.fcds_config.is_some()),
        ("filter_chain_matcher", wire.filter_chain_matcher.is_some()),
        ("udp_listener_config", wire.udp_listener_config.is_some()),
        ("api_listener", wire.api_listener.is_some()),
        ("internal_listener", wire.listener_specifier.is_some()),
    ])
}

/// Inspectors are inert: the proxy detects protocols by itself.
fn listener_filter(filter: &wire::ListenerFilter) -> Result<(), Problem> {
    let kind = match &filter.config_type {
        Some(wire::listener_filter::ConfigType::TypedConfig(any)) => extension::type_name(any),
        _ => String::new(),
    };
    let inert = kind.ends_with("tls_inspector.v3.TlsInspector")
        || kind.ends_with("http_inspector.v3.HttpInspector")
        || (kind.is_empty()
            && (filter.name.ends_with("tls_inspector") || filter.name.ends_with("http_inspector")));
    if inert { Ok(()) } else { fail("is not supported yet") }
}

fn addresses(wire: &wire::Listener) -> Result<Vec<SocketAddr>, Problem> {
    let mut addresses = vec![value::socket_address(wire.address.as_ref()).at("address")?];
    for (index, additional) in wire.additional_addresses.iter().enumerate() {
        let address = value::socket_address(additional.address.as_ref());
        addresses.push(address.at(format_args!("additional_addresses[{index}].address"))?);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests;
