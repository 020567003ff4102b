//! `envoy.config.listener.v3.Listener` → `snapshot::Listener`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sidegate_xds::envoy::config::core::v3::TrafficDirection;
use sidegate_xds::envoy::config::listener::v3 as wire;
use sidegate_xds::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;
use tokio::time::Instant;

use super::extension;
use super::filter::Buckets;
use super::problem::{At, Problem, fail, unsupported};
use super::route;
use super::value;
use super::{http, tcp};
use crate::snapshot::{Chain, Direction, Listener};

const CONNECTION_MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const CONNECTION_LIMIT: &str = "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit";

/// A checked listener.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The listener.
    pub(crate) listener: Arc<Listener>,
    /// Where its routes are.
    pub(crate) routes: Routes,
    /// The token buckets of its filters.
    pub(crate) buckets: Buckets,
}

/// Where a listener's routes are.
#[derive(Debug)]
pub(crate) enum Routes {
    /// In the listener itself; the key is the table's name in the snapshot.
    Inline(Arc<str>, route::Plan),
    /// By RDS under this name; how long a new listener waits for it, `None` being for ever.
    Discovered(Arc<str>, Option<Duration>),
    /// It has none: these clusters are where its connections go.
    Opaque(BTreeSet<Arc<str>>),
}

/// Checks a listener. Buckets that `previous` has too are taken over.
pub(crate) fn compile(wire: &wire::Listener, previous: Option<&Plan>, now: Instant) -> Result<Plan, Problem> {
    refuse_unsupported(wire)?;
    for (index, filter) in wire.listener_filters.iter().enumerate() {
        listener_filter(filter).at(format_args!("listener_filters[{index}] ({})", filter.name))?;
    }
    let addresses = addresses(wire)?;
    let name = name(wire);
    let (place, chain) = only_chain(wire)?;
    let compiled = filters(chain, &name, previous, now).at(place)?;
    let bind = value::flag(wire.bind_to_port.as_ref(), true)
        && wire.deprecated_v1.as_ref().is_none_or(|old| value::flag(old.bind_to_port.as_ref(), true));
    let listener = Listener {
        name,
        addresses,
        bind,
        chain: compiled.chain,
        max_connections: compiled.max_connections,
        open: previous.map(|previous| previous.listener.open.clone()).unwrap_or_default(),
        direction: match wire.traffic_direction() {
            TrafficDirection::Inbound => Direction::Inbound,
            TrafficDirection::Outbound | TrafficDirection::Unspecified => Direction::Outbound,
        },
    };
    Ok(Plan { listener: Arc::new(listener), routes: compiled.routes, buckets: compiled.buckets })
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

/// The one chain that serves every connection, and its place.
fn only_chain(wire: &wire::Listener) -> Result<(&'static str, &wire::FilterChain), Problem> {
    let matches = |chain: &wire::FilterChain| {
        chain
            .filter_chain_match
            .as_ref()
            .is_some_and(|criteria| *criteria != wire::FilterChainMatch::default())
    };
    match (&wire.default_filter_chain, wire.filter_chains.as_slice()) {
        (Some(chain), []) => Ok(("default_filter_chain", chain)),
        (None, [chain]) if !matches(chain) => Ok(("filter_chains[0]", chain)),
        (None, []) => fail("needs a filter chain").at("filter_chains"),
        _ => fail("several chains, or one with match criteria, are not supported yet").at("filter_chains"),
    }
}

struct Compiled {
    chain: Chain,
    routes: Routes,
    buckets: Buckets,
    max_connections: Option<u32>,
}

fn filters(
    wire: &wire::FilterChain,
    name: &Arc<str>,
    previous: Option<&Plan>,
    now: Instant,
) -> Result<Compiled, Problem> {
    extension::is_plaintext(wire.transport_socket.as_ref()).at("transport_socket")?;
    unsupported(&[("use_proxy_proto", value::flag(wire.use_proxy_proto.as_ref(), false))])?;
    let mut max_connections = None;
    let last = wire.filters.len().saturating_sub(1);
    for (index, filter) in wire.filters.iter().enumerate() {
        let place = format!("filters[{index}] ({})", filter.name);
        let Some(wire::filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
            return fail("typed_config is required").at(place);
        };
        let kind = extension::type_name(any);
        match (kind.as_str(), index == last) {
            (CONNECTION_MANAGER | TCP_PROXY, false) => return fail("must be the last filter").at(place),
            (CONNECTION_MANAGER, true) => {
                let http::Manager { http, routes, buckets } =
                    http::compile(any, name, previous, now).at(place)?;
                return Ok(Compiled { chain: Chain::Http(Arc::new(http)), routes, buckets, max_connections });
            }
            (TCP_PROXY, true) => {
                let (tcp, clusters) = tcp::compile(any).at(place)?;
                let (chain, routes) = (Chain::Tcp(Arc::new(tcp)), Routes::Opaque(clusters));
                return Ok(Compiled { chain, routes, buckets: Buckets::default(), max_connections });
            }
            (CONNECTION_LIMIT, _) => max_connections = connection_limit(any).at(place)?,
            _ if extension::is_telemetry(any) => {}
            (kind, _) => return fail(format!("{kind} is not supported by this proxy")).at(place),
        }
    }
    fail("must end in http_connection_manager or tcp_proxy").at("filters")
}

fn connection_limit(any: &Any) -> Result<Option<u32>, Problem> {
    let limit: ConnectionLimit = from_any(any).map_err(|error| Problem::new(error.to_string()))?;
    let enabled = limit
        .runtime_enabled
        .as_ref()
        .is_none_or(|runtime| value::flag(runtime.default_value.as_ref(), true));
    let connections = limit.max_connections.as_ref().map(|limit| limit.value);
    match connections.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)) {
        None | Some(0) => fail("must be at least 1").at("max_connections"),
        limit => Ok(limit.filter(|_| enabled)),
    }
}

#[cfg(test)]
mod tests;
