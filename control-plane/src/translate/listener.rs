//! Envoy listeners: a gateway's port, and the two kinds of a sidecar. What a chain of theirs is made of stands here too.

use std::net::IpAddr;
use std::time::Duration;

use sidegate_xds::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use sidegate_xds::envoy::config::core::v3::{HttpProtocolOptions, TrafficDirection, TransportSocket};
use sidegate_xds::envoy::config::listener::v3::{
    AdditionalAddress, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter,
    filter::ConfigType as FilterConfig, listener_filter::ConfigType as ListenerFilterConfig,
};
use sidegate_xds::envoy::config::route::v3::RouteConfiguration;
use sidegate_xds::envoy::extensions::filters::http::dynamic_forward_proxy::v3::{
    FilterConfig as ForwardProxy, filter_config,
};
use sidegate_xds::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use sidegate_xds::envoy::extensions::filters::http::router::v3::Router;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, ForwardClientCertDetails, RouteSpecifier, ServerHeaderTransformation,
    SetCurrentClientCertDetails, Tracing, UpgradeConfig,
};
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use sidegate_xds::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use sidegate_xds::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy, tcp_proxy::ClusterSpecifier,
};
use sidegate_xds::resource::to_any;

use super::policy::RATE_LIMIT_FILTER;
use super::{cluster, wire};

/// How long a stream may be quiet where streams are to live long: inside of the mesh, and on GRPCRoutes. (A gateway's other
/// streams have Envoy's default of 5 minutes.)
pub(super) const QUIET_STREAM: Duration = Duration::from_secs(3600);

/// How long a client may take for its TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

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
    let manager = at_edge(name, filters);
    on_addresses(addresses, port, listener(name, TrafficDirection::Inbound, &manager))
}

/// On each of the addresses; none means all of IPv4.
fn on_addresses(addresses: &[IpAddr], port: u16, listener: Listener) -> Listener {
    let mut addresses = addresses.iter();
    let first = addresses.next().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let additional = addresses.map(|address| AdditionalAddress {
        address: wire::socket(*address, port),
        ..AdditionalAddress::default()
    });
    Listener { address: wire::socket(first, port), additional_addresses: additional.collect(), ..listener }
}

/// A port of a Gateway whose chains terminate TLS, one for each of its listeners.
pub(super) fn terminating(name: &str, addresses: &[IpAddr], port: u16, chains: Vec<FilterChain>) -> Listener {
    Listener {
        listener_filters: vec![tls_inspector()],
        filter_chains: chains,
        ..on_addresses(addresses, port, bare(name, TrafficDirection::Inbound))
    }
}

/// What serves the routes of one HTTPS listener. `verified`: clients have shown a certificate, and the app may know whose.
pub(super) fn over_tls(name: &str, filters: Filters, verified: bool) -> Filter {
    let manager = at_edge(name, filters);
    let manager =
        if verified { names_client(manager, ForwardClientCertDetails::SanitizeSet) } else { manager };
    serving(&manager)
}

/// Where requests come from outside: the client is whoever connects, and no header gets past what is taken off by being spelled with `_`,
/// which many an application reads as `-`.
fn at_edge(name: &str, filters: Filters) -> HttpConnectionManager {
    HttpConnectionManager {
        use_remote_address: wire::boolean(true),
        common_http_protocol_options: Some(HttpProtocolOptions {
            headers_with_underscores_action: HeadersWithUnderscoresAction::DropHeader.into(),
            ..HttpProtocolOptions::default()
        }),
        route_specifier: Some(by_rds(name)),
        ..manager(name, filters, &["websocket"])
    }
}

/// What serves HTTP in front of a sidecar's app. `verified`: the client is one of the mesh, and says who asked it.
pub(super) fn to_app(name: &str, routes: RouteConfiguration, filters: Filters, verified: bool) -> Filter {
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        stream_idle_timeout: Some(wire::duration(QUIET_STREAM)),
        ..manager(name, filters, &["websocket"])
    };
    let manager =
        if verified { names_client(manager, ForwardClientCertDetails::AppendForward) } else { manager };
    serving(&manager)
}

/// `x-forwarded-client-cert` with the client's ids. Without this the header is taken away, whoever sent it.
fn names_client(manager: HttpConnectionManager, details: ForwardClientCertDetails) -> HttpConnectionManager {
    HttpConnectionManager {
        forward_client_cert_details: details.into(),
        set_current_client_cert_details: Some(SetCurrentClientCertDetails {
            subject: wire::boolean(true),
            dns: true,
            uri: true,
            ..SetCurrentClientCertDetails::default()
        }),
        ..manager
    }
}

/// What copies bytes to a cluster.
pub(super) fn opaque(name: &str, cluster: &str) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    };
    Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(FilterConfig::TypedConfig(to_any(&proxy))),
    }
}

/// Reads the beginning of a connection, to tell TLS from what is none.
pub(super) fn tls_inspector() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(ListenerFilterConfig::TypedConfig(to_any(&TlsInspector::default()))),
        ..ListenerFilter::default()
    }
}

/// A chain for what matches.
pub(super) fn chain(
    name: &str,
    matching: FilterChainMatch,
    security: Option<TransportSocket>,
    filters: Vec<Filter>,
) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(matching),
        transport_socket_connect_timeout: security.is_some().then(|| wire::duration(HANDSHAKE_LIMIT)),
        transport_socket: security,
        filters,
        ..FilterChain::default()
    }
}

/// A listener that has no chains yet.
pub(super) fn bare(name: &str, direction: TrafficDirection) -> Listener {
    Listener {
        name: name.to_owned(),
        stat_prefix: name.to_owned(),
        traffic_direction: direction.into(),
        ..Listener::default()
    }
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
    Listener { default_filter_chain: Some(for_all(vec![serving(manager)])), ..bare(name, direction) }
}

/// The chain of whatever no other chain matches.
pub(super) fn for_all(filters: Vec<Filter>) -> FilterChain {
    FilterChain { filters, ..FilterChain::default() }
}

fn serving(manager: &HttpConnectionManager) -> Filter {
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(FilterConfig::TypedConfig(to_any(manager))),
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
