//! A Service's port → an Envoy cluster; and the two other clusters of a sidecar.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServicePort;
use prost::Name as _;
use sidegate_xds::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds};
use sidegate_xds::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbPolicy,
    TransportSocketMatch,
};
use sidegate_xds::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use sidegate_xds::envoy::config::core::v3::{Http2ProtocolOptions, TransportSocket};
use sidegate_xds::envoy::config::endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints};
use sidegate_xds::envoy::extensions::clusters::dynamic_forward_proxy::v3::{ClusterConfig, cluster_config};
use sidegate_xds::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use sidegate_xds::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use sidegate_xds::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};
use sidegate_xds::envoy::r#type::v3::Percent;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::to_any;
use sidegate_xds::spiffe::SpiffeId;

use super::context::World;
use super::policy::BackendSettings;
use super::security::Inside;
use super::{endpoint, security, service, wire};
use crate::model::policy::LoadBalancing;
use crate::model::{Name, Trust};

/// The cluster for whatever the mesh does not know (D14).
pub(super) const PASSTHROUGH: &str = "PassthroughCluster";

/// Bounds on what one proxy has open towards one Service port, where no BackendPolicy says otherwise.
const MAX_CONNECTIONS: u32 = 16_384;
const MAX_PENDING_REQUESTS: u32 = 16_384;
const MAX_REQUESTS: u32 = 65_536;

/// The cluster of a Service's port; its endpoints come by EDS under the same name.
pub(super) fn of_service(
    world: &World<'_>,
    name: &Name,
    number: u16,
    port: &ServicePort,
    identities: &BTreeSet<SpiffeId>,
) -> Cluster {
    let settings = world.policies.backend(name, number, port.name.as_deref());
    let metadata = wire::metadata([
        ("kind", "Service".to_owned()),
        ("namespace", name.namespace.clone()),
        ("name", name.name.clone()),
        ("port", number.to_string()),
    ]);
    let denied = world.trust.map_or(&[][..], |trust| &trust.denied);
    let metadata = security::denied(denied, metadata);
    let h2 = world.speaks_h2(name, number, port);
    let server_name = format!("outbound_.{number}_._.{}", service::host(name));
    let sockets = world.trust.map(|trust| sockets(trust, identities, &server_name, h2));
    let (transport_socket, transport_socket_matches) = sockets.unzip();
    Cluster {
        transport_socket,
        transport_socket_matches: transport_socket_matches.unwrap_or_default(),
        name: service::cluster_name(name, number),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: wire::ads(), ..EdsClusterConfig::default() }),
        connect_timeout: Some(wire::duration(settings.connect_timeout)),
        lb_policy: lb_policy(settings.load_balancing).into(),
        circuit_breakers: Some(limits(&settings)),
        typed_extension_protocol_options: protocol(h2),
        metadata,
        ..Cluster::default()
    }
}

/// How to connect to endpoints, by what they say of themselves: mutual TLS with exactly the identity that each must have, plaintext
/// for those that are known to have none. To one of which nothing is known, for as long as cluster and endpoints come from two
/// different moments, there is no connection: it must not be spoken to in the clear by accident.
fn sockets(
    trust: &Trust,
    identities: &BTreeSet<SpiffeId>,
    server_name: &str,
    h2: bool,
) -> (TransportSocket, Vec<TransportSocketMatch>) {
    let inside = if h2 { Inside::Http2 } else { Inside::Http1 };
    let secured = identities.iter().map(|id| TransportSocketMatch {
        name: id.to_string(),
        r#match: Some(wire::single(endpoint::IDENTITY, id.as_str())),
        transport_socket: Some(security::to_identity(id.as_str(), server_name, inside)),
    });
    let plain = TransportSocketMatch {
        name: endpoint::PLAINTEXT.to_owned(),
        r#match: Some(wire::single(endpoint::PLAINTEXT, "true")),
        transport_socket: Some(security::plaintext()),
    };
    (security::to_nobody(trust), secured.chain([plain]).collect())
}

/// The cluster of the app behind a sidecar, on the Pod's own address.
pub(super) fn inbound(address: IpAddr, app: u16, h2: bool) -> Cluster {
    let name = inbound_name(app);
    let endpoints = LocalityLbEndpoints {
        lb_endpoints: vec![endpoint::plain(address, app)],
        load_balancing_weight: wire::number(1),
        ..LocalityLbEndpoints::default()
    };
    Cluster {
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![endpoints],
            ..ClusterLoadAssignment::default()
        }),
        name,
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        connect_timeout: Some(wire::duration(BackendSettings::default().connect_timeout)),
        circuit_breakers: Some(limits(&BackendSettings::default())),
        typed_extension_protocol_options: protocol(h2),
        ..Cluster::default()
    }
}

/// The name of the cluster and of the route configuration of an app port.
pub(super) fn inbound_name(app: u16) -> String {
    format!("inbound|{app}||")
}

/// The cluster that connects to whatever host a request names.
pub(super) fn passthrough() -> Cluster {
    let config = ClusterConfig {
        cluster_implementation_specifier: Some(
            cluster_config::ClusterImplementationSpecifier::DnsCacheConfig(dns_cache()),
        ),
        ..ClusterConfig::default()
    };
    Cluster {
        name: PASSTHROUGH.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
            name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
            typed_config: Some(to_any(&config)),
        })),
        connect_timeout: Some(wire::duration(Duration::from_secs(10))),
        lb_policy: LbPolicy::ClusterProvided.into(),
        circuit_breakers: Some(limits(&BackendSettings::default())),
        ..Cluster::default()
    }
}

/// The DNS cache that the passthrough cluster and the filter in front of it share.
pub(super) fn dns_cache() -> DnsCacheConfig {
    DnsCacheConfig {
        name: "passthrough".to_owned(),
        dns_lookup_family: DnsLookupFamily::V4Preferred.into(),
        ..DnsCacheConfig::default()
    }
}

fn lb_policy(balancing: LoadBalancing) -> LbPolicy {
    match balancing {
        LoadBalancing::LeastRequest => LbPolicy::LeastRequest,
        LoadBalancing::RoundRobin => LbPolicy::RoundRobin,
    }
}

fn limits(settings: &BackendSettings) -> CircuitBreakers {
    let or = |value: Option<u32>, default: u32| wire::number(value.unwrap_or(default));
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: or(settings.limits.max_connections, MAX_CONNECTIONS),
            max_pending_requests: or(settings.limits.max_pending_requests, MAX_PENDING_REQUESTS),
            max_requests: or(settings.limits.max_requests, MAX_REQUESTS),
            retry_budget: Some(thresholds::RetryBudget {
                budget_percent: Some(Percent { value: settings.retry_percent.into() }),
                min_retry_concurrency: wire::number(settings.min_retry_concurrency),
                ..thresholds::RetryBudget::default()
            }),
            ..Thresholds::default()
        }],
        ..CircuitBreakers::default()
    }
}

/// HTTP/2 where it is known; Envoy's default, HTTP/1.1, elsewhere.
fn protocol(h2: bool) -> HashMap<String, Any> {
    if !h2 {
        return HashMap::new();
    }
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())),
        })),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(HttpProtocolOptions::full_name(), to_any(&options))])
}
