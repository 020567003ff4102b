//! Where the control plane is: `dynamic_resources` and the static cluster that it names.

use std::time::Duration;

use sidegate_xds::envoy::config::bootstrap::v3::Bootstrap;
use sidegate_xds::envoy::config::bootstrap::v3::bootstrap::DynamicResources;
use sidegate_xds::envoy::config::cluster::v3::Cluster;
use sidegate_xds::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use sidegate_xds::envoy::config::core::v3::api_config_source::ApiType;
use sidegate_xds::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use sidegate_xds::envoy::config::core::v3::grpc_service::TargetSpecifier;
use sidegate_xds::envoy::config::core::v3::{ApiConfigSource, ApiVersion, ConfigSource};
use sidegate_xds::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use sidegate_xds::json::Problem;

use super::bootstrap::{host_and_port, problem};

mod tls;

pub use tls::{AdsCertificate, AdsName, AdsTls, Source};

/// The control plane and what to ask it for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ads {
    /// The static cluster it stands in, for logs and counters.
    pub cluster: String,
    /// Its addresses, to be tried in turn; at least one.
    pub endpoints: Vec<AdsEndpoint>,
    /// The `:authority` to send, where it differs from the cluster's name.
    pub authority: Option<String>,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// Headers of the stream.
    pub initial_metadata: Vec<(String, String)>,
    /// How either end proves itself; without it, the stream is plaintext.
    pub tls: Option<AdsTls>,
    /// Whether clusters come from it.
    pub clusters: bool,
    /// Whether listeners come from it.
    pub listeners: bool,
}

/// One address of the control plane; the host may be a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdsEndpoint {
    /// IP address or name.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Finds the control plane. `None` with no new problem: the configuration is static.
pub(super) fn extract(bootstrap: &Bootstrap, has_identity: bool, problems: &mut Vec<Problem>) -> Option<Ads> {
    let dynamic = bootstrap.dynamic_resources.as_ref()?;
    let clusters = comes_by_ads(dynamic.cds_config.as_ref(), "dynamic_resources.cds_config", problems);
    let listeners = comes_by_ads(dynamic.lds_config.as_ref(), "dynamic_resources.lds_config", problems);
    refuse_locators(dynamic, problems);
    let Some(source) = &dynamic.ads_config else {
        if clusters || listeners {
            problems.push(problem(ADS_CONFIG, "is missing, and `ads: {}` refers to it"));
        }
        return None;
    };
    check_protocol(source, problems);
    let [service] = source.grpc_services.as_slice() else {
        let text = format!("expected exactly one control plane, found {}", source.grpc_services.len());
        problems.push(problem(format!("{ADS_CONFIG}.grpc_services"), text));
        return None;
    };
    let path = format!("{ADS_CONFIG}.grpc_services[0]");
    let Some(TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else {
        let text = "write `envoy_grpc: {cluster_name: …}` with the name of a static cluster";
        problems.push(problem(path, text));
        return None;
    };
    let (index, cluster) = find_cluster(bootstrap, &target.cluster_name, &path, problems)?;
    let place = format!("static_resources.clusters[{index}]");
    let metadata = service.initial_metadata.iter().map(|header| (header.key.clone(), header.value.clone()));
    Some(Ads {
        cluster: cluster.name.clone(),
        endpoints: endpoints(cluster, &place, problems),
        tls: tls::extract(cluster, &place, has_identity, problems),
        authority: Some(target.authority.clone()).filter(|authority| !authority.is_empty()),
        connect_timeout: connect_timeout(cluster),
        initial_metadata: metadata.collect(),
        clusters,
        listeners,
    })
}

/// Whether resources come from the control plane; any other source is a problem.
fn comes_by_ads(source: Option<&ConfigSource>, path: &str, problems: &mut Vec<Problem>) -> bool {
    match source.map(|source| &source.config_source_specifier) {
        None => false,
        Some(Some(ConfigSourceSpecifier::Ads(_))) => true,
        Some(_) => {
            problems.push(problem(
                path,
                "resources come by ADS only: write `ads: {}` and put the server into `ads_config`",
            ));
            false
        }
    }
}

fn refuse_locators(dynamic: &DynamicResources, problems: &mut Vec<Problem>) {
    for (name, locator) in [
        ("cds_resources_locator", &dynamic.cds_resources_locator),
        ("lds_resources_locator", &dynamic.lds_resources_locator),
    ] {
        if !locator.is_empty() {
            problems.push(problem(
                format!("dynamic_resources.{name}"),
                "`xdstp://` names are not understood here",
            ));
        }
    }
}

/// One protocol is spoken here: delta ADS with v3 resources.
fn check_protocol(source: &ApiConfigSource, problems: &mut Vec<Problem>) {
    let kind = ApiType::try_from(source.api_type).ok();
    if kind != Some(ApiType::DeltaGrpc) {
        let found = kind.map_or("nothing", |kind| kind.as_str_name());
        let text = format!("write DELTA_GRPC, the only protocol spoken here (found {found})");
        problems.push(problem(format!("{ADS_CONFIG}.api_type"), text));
    }
    // AUTO meant v2 once; there is only v3 now.
    if ApiVersion::try_from(source.transport_api_version) == Ok(v2()) {
        problems.push(problem(
            format!("{ADS_CONFIG}.transport_api_version"),
            "write V3, the only version spoken here",
        ));
    }
}

#[allow(deprecated, reason = "named only to refuse it")]
fn v2() -> ApiVersion {
    ApiVersion::V2
}

fn find_cluster<'bootstrap>(
    bootstrap: &'bootstrap Bootstrap,
    name: &str,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<(usize, &'bootstrap Cluster)> {
    let clusters = bootstrap.static_resources.as_ref().map_or(&[][..], |resources| &resources.clusters);
    let found = clusters.iter().enumerate().find(|(_, cluster)| cluster.name == name);
    if found.is_none() {
        let names: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).take(10).collect();
        let known = if names.is_empty() {
            "there are none".to_owned()
        } else {
            format!("there are {}", names.join(", "))
        };
        let text = format!("no cluster in static_resources is called {name:?}; {known}");
        problems.push(problem(format!("{path}.envoy_grpc.cluster_name"), text));
    }
    found
}

/// The cluster's addresses. Whoever must first ask somebody where the control plane is cannot begin.
fn endpoints(cluster: &Cluster, path: &str, problems: &mut Vec<Problem>) -> Vec<AdsEndpoint> {
    let kind = match cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind).ok(),
        Some(ClusterDiscoveryType::ClusterType(_)) => None,
        None => Some(DiscoveryType::Static),
    };
    if !matches!(kind, Some(DiscoveryType::Static | DiscoveryType::StrictDns | DiscoveryType::LogicalDns)) {
        let text = "the control plane's cluster must give its addresses: write STATIC or STRICT_DNS with a load_assignment";
        problems.push(problem(format!("{path}.type"), text));
        return Vec::new();
    }
    let problems_before = problems.len();
    let localities = cluster.load_assignment.as_ref().map_or(&[][..], |assignment| &assignment.endpoints);
    let mut found = Vec::new();
    for (locality_index, locality) in localities.iter().enumerate() {
        for (index, endpoint) in locality.lb_endpoints.iter().enumerate() {
            let address = match &endpoint.host_identifier {
                Some(HostIdentifier::Endpoint(endpoint)) => endpoint.address.as_ref(),
                _ => None,
            };
            match address.ok_or_else(|| "is missing".to_owned()).and_then(host_and_port) {
                Ok((host, port)) => found.push(AdsEndpoint { host: host.to_owned(), port }),
                Err(text) => {
                    let place = format!(
                        "{path}.load_assignment.endpoints[{locality_index}].lb_endpoints[{index}].endpoint.address"
                    );
                    problems.push(problem(place, text));
                }
            }
        }
    }
    if found.is_empty() && problems.len() == problems_before {
        problems.push(problem(format!("{path}.load_assignment"), "the control plane has no address"));
    }
    found
}

fn connect_timeout(cluster: &Cluster) -> Duration {
    let duration = cluster.connect_timeout.as_ref();
    let given = duration.and_then(|duration| {
        let seconds = u64::try_from(duration.seconds).ok()?;
        Some(Duration::new(seconds, u32::try_from(duration.nanos).ok()?))
    });
    given.unwrap_or(DEFAULT_CONNECT_TIMEOUT)
}

const ADS_CONFIG: &str = "dynamic_resources.ads_config";

/// Envoy's default.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
