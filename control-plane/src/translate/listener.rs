//! Envoy listeners: a gateway's port, and the two kinds of a sidecar.

use std::net::IpAddr;
use std::time::Duration;

use sidegate_xds::envoy::config::core::v3::TrafficDirection;
use sidegate_xds::envoy::config::listener::v3::{
    AdditionalAddress, Filter, FilterChain, Listener, filter::ConfigType as FilterConfig,
};
use sidegate_xds::envoy::config::route::v3::RouteConfiguration;
use sidegate_xds::envoy::extensions::filters::http::dynamic_forward_proxy::v3::{
    FilterConfig as ForwardProxy, filter_config,
};
use sidegate_xds::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use sidegate_xds::envoy::extensions::filters::http::router::v3::Router;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, RouteSpecifier, ServerHeaderTransformation, Tracing, UpgradeConfig,
};
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use sidegate_xds::resource::to_any;

use super::policy::RATE_LIMIT_FILTER;
use super::{cluster, wire};

/// How long a stream may be quiet where streams are to live long: inside of the mesh, and on GRPCRoutes. (A gateway's other
/// streams have Envoy's default of 5 minutes.)
pub(super) const QUIET_STREAM: Duration = Duration::from_secs(3600);

/// What stands between the connection manager and the router.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// The limit of the whole listener; `Some` with an empty bucket when only routes limit.
    pub(super) rate_limit: Option<LocalRateLimit>,
    /// Hosts are resolved for the passthrough cluster.
    pub(super) forward_proxy: bool,
    /// Who may ask for what; these come first.
    pub(super) access: Vec<HttpFilter>,
}

impl Filters {
    /// Limits requests where routes say so, or everywhere by `limit`.
    pub(super) fn limiting(limit: Option<LocalRateLimit>) -> Self {
        let per_route =
            || LocalRateLimit { stat_prefix: "per_route".to_owned(), ..LocalRateLimit::default() };
        Self { rate_limit: Some(limit.unwrap_or_else(per_route)), ..Self::default() }
    }
}

/// A port of a Gateway, with its route table by RDS under the listener's name.
pub(super) fn gateway(name: &str, addresses: &[IpAddr], port: u16, filters: Filters) -> Listener {
    let manager = HttpConnectionManager {
        use_remote_address: wire::boolean(true),
        route_specifier: Some(by_rds(name)),
        ..manager(name, filters, &["websocket"])
    };
    let mut addresses = addresses.iter();
    let first = addresses.next().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let additional = addresses.map(|address| AdditionalAddress {
        address: wire::socket(*address, port),
        ..AdditionalAddress::default()
    });
    Listener {
        address: wire::socket(first, port),
        additional_addresses: additional.collect(),
        ..listener(name, TrafficDirection::Inbound, &manager)
    }
}

/// A sidecar's port in front of its app.
pub(super) fn inbound(address: IpAddr, port: u16, routes: RouteConfiguration, filters: Filters) -> Listener {
    let name = format!("inbound|{port}||");
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        stream_idle_timeout: Some(wire::duration(QUIET_STREAM)),
        ..manager(&name, filters, &["websocket"])
    };
    Listener { address: wire::socket(address, port), ..listener(&name, TrafficDirection::Inbound, &manager) }
}

/// A sidecar's explicit HTTP proxy for its app.
pub(super) fn outbound_proxy(name: &str, address: IpAddr, port: u16, filters: Filters) -> Listener {
    let manager = HttpConnectionManager {
        route_specifier: Some(by_rds(name)),
        stream_idle_timeout: Some(wire::duration(QUIET_STREAM)),
        ..manager(name, filters, &["websocket", "CONNECT"])
    };
    Listener { address: wire::socket(address, port), ..listener(name, TrafficDirection::Outbound, &manager) }
}

fn by_rds(name: &str) -> RouteSpecifier {
    RouteSpecifier::Rds(Rds { config_source: wire::ads(), route_config_name: name.to_owned() })
}

fn listener(name: &str, direction: TrafficDirection, manager: &HttpConnectionManager) -> Listener {
    Listener {
        name: name.to_owned(),
        stat_prefix: name.to_owned(),
        traffic_direction: direction.into(),
        default_filter_chain: Some(FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(FilterConfig::TypedConfig(to_any(manager))),
            }],
            ..FilterChain::default()
        }),
        ..Listener::default()
    }
}

fn manager(name: &str, filters: Filters, upgrades: &[&str]) -> HttpConnectionManager {
    let upgrade =
        |kind: &&str| UpgradeConfig { upgrade_type: (*kind).to_owned(), ..UpgradeConfig::default() };
    HttpConnectionManager {
        stat_prefix: name.to_owned(),
        codec_type: CodecType::Auto.into(),
        http_filters: http_filters(filters),
        tracing: Some(Tracing::default()),
        generate_request_id: wire::boolean(true),
        normalize_path: wire::boolean(true),
        merge_slashes: true,
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        upgrade_configs: upgrades.iter().map(upgrade).collect(),
        ..HttpConnectionManager::default()
    }
}

fn http_filters(filters: Filters) -> Vec<HttpFilter> {
    let filter = |name: &str, config| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    };
    let mut chain = filters.access;
    if let Some(limit) = &filters.rate_limit {
        chain.push(filter(RATE_LIMIT_FILTER, to_any(limit)));
    }
    if filters.forward_proxy {
        let specifier = filter_config::ImplementationSpecifier::DnsCacheConfig(cluster::dns_cache());
        let config = ForwardProxy { implementation_specifier: Some(specifier), ..ForwardProxy::default() };
        chain.push(filter("envoy.filters.http.dynamic_forward_proxy", to_any(&config)));
    }
    chain.push(filter("envoy.filters.http.router", to_any(&Router::default())));
    chain
}
