//! Where a cluster's endpoints come from: in place, EDS, DNS, or the request itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sidegate_xds::envoy::config::cluster::v3 as wire;
use sidegate_xds::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, DnsLookupFamily,
};
use sidegate_xds::envoy::config::core::v3::{DnsResolutionConfig, TypedExtensionConfig};
use sidegate_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;
use sidegate_xds::envoy::extensions::clusters::dns::v3::DnsCluster;
use sidegate_xds::envoy::extensions::clusters::dynamic_forward_proxy::v3 as forward;
use sidegate_xds::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use sidegate_xds::google::protobuf;
use sidegate_xds::resource::from_any;

use crate::cluster::EndpointSet;
use crate::compile::endpoint::{self, Assignment, Name};
use crate::compile::patience::FIRST_ANSWER;
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::{extension, value};

/// Where endpoints come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// In the cluster itself.
    Static(Assignment),
    /// By EDS.
    Eds {
        /// `service_name`, or the cluster's own.
        name: Arc<str>,
        /// How long a new cluster waits for its first assignment; `None` is for ever.
        patience: Option<Duration>,
    },
    /// By resolving names.
    Dns(Arc<Dns>),
    /// By the request's own authority.
    Forward,
    /// Where a redirected connection wanted to go.
    Original {
        /// `upstream_port_override`.
        port: Option<u16>,
    },
}

/// A cluster that resolves names.
#[derive(Debug, PartialEq)]
pub(crate) struct Dns {
    /// The assignment with names where addresses will be.
    pub(crate) template: Assignment<Name>,
    /// How often.
    pub(crate) refresh: Duration,
    /// Which addresses of an answer count.
    pub(crate) family: Family,
    /// `LOGICAL_DNS`: one address at a time.
    pub(crate) logical: bool,
}

/// `dns_lookup_family`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// IPv4, or IPv6 when there is none.
    PreferV4,
    /// Both.
    All,
}

impl Dns {
    /// The assignment for answers; `previous` says which address a logical cluster stays with.
    pub(crate) fn assignment(
        &self,
        answers: &dyn Fn(&str) -> Vec<IpAddr>,
        previous: &EndpointSet,
    ) -> Assignment {
        self.template.resolved(|host| {
            let mut addresses = self.family.choose(answers(host));
            if self.logical {
                let kept = addresses.iter().copied().find(|address| {
                    previous.all.iter().any(|endpoint| SocketAddr::ip(&endpoint.address) == *address)
                });
                addresses = kept.or(addresses.first().copied()).into_iter().collect();
            }
            addresses
        })
    }
}

impl Family {
    /// The addresses that count, each once and in an order that does not change with the resolver's.
    fn choose(self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        addresses.sort_unstable();
        addresses.dedup();
        let has_v4 = addresses.iter().any(IpAddr::is_ipv4);
        addresses.retain(|address| match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
            Self::PreferV4 => address.is_ipv4() || !has_v4,
            Self::All => true,
        });
        addresses
    }
}

/// Finds the source of a cluster.
pub(crate) fn compile(cluster: &wire::Cluster) -> Result<Source, Problem> {
    match &cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            by_extension(cluster, custom).at(format_args!("cluster_type[{}]", custom.name))
        }
        // The field is an enum whose zero is STATIC.
        None => by_type(cluster, DiscoveryType::Static),
        Some(ClusterDiscoveryType::Type(number)) => match DiscoveryType::try_from(*number) {
            Ok(kind) => by_type(cluster, kind),
            Err(_) => fail(format!("{number} is not a discovery type")).at("type"),
        },
    }
}

fn by_type(cluster: &wire::Cluster, kind: DiscoveryType) -> Result<Source, Problem> {
    match kind {
        DiscoveryType::Static => {
            let assignment = cluster.load_assignment.as_ref().map(endpoint::by_address).transpose();
            Ok(Source::Static(assignment.at("load_assignment")?.unwrap_or_else(Assignment::empty)))
        }
        DiscoveryType::Eds => eds(cluster).at("eds_cluster_config"),
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            refuse_resolvers(
                cluster.dns_resolution_config.as_ref(),
                cluster.typed_dns_resolver_config.as_ref(),
            )?;
            unsupported(&[("dns_resolvers", !cluster.dns_resolvers.is_empty())])?;
            let logical = kind == DiscoveryType::LogicalDns;
            let family = family(cluster.dns_lookup_family());
            dns(cluster.load_assignment.as_ref(), cluster.dns_refresh_rate.as_ref(), family, logical)
        }
        DiscoveryType::OriginalDst => original(cluster).at("original_dst_lb_config"),
    }
}

/// A client's header does not say where to go: that would let anybody in front of this proxy reach anything behind it.
fn original(cluster: &wire::Cluster) -> Result<Source, Problem> {
    use wire::cluster::LbConfig;
    if cluster.load_assignment.is_some() {
        return fail("an ORIGINAL_DST cluster has no endpoints of its own").at("load_assignment");
    }
    let Some(LbConfig::OriginalDstLbConfig(config)) = &cluster.lb_config else {
        return Ok(Source::Original { port: None });
    };
    unsupported(&[
        ("use_http_header", config.use_http_header),
        ("http_header_name", !config.http_header_name.is_empty()),
        ("metadata_key", config.metadata_key.is_some()),
    ])?;
    match value::number(config.upstream_port_override.as_ref()).map(u16::try_from) {
        None => Ok(Source::Original { port: None }),
        Some(Ok(port @ 1..)) => Ok(Source::Original { port: Some(port) }),
        Some(_) => fail("is not a port").at("upstream_port_override"),
    }
}

fn eds(cluster: &wire::Cluster) -> Result<Source, Problem> {
    let config = cluster.eds_cluster_config.as_ref().ok_or_else(|| Problem::new("is required"))?;
    let source = config.eds_config.as_ref().ok_or_else(|| Problem::new("is required").at("eds_config"))?;
    extension::is_ads(source).at("eds_config")?;
    let patience = value::bound(source.initial_fetch_timeout.as_ref(), Some(FIRST_ANSWER));
    let patience = patience.at("eds_config.initial_fetch_timeout")?;
    let name = value::text(&config.service_name).unwrap_or_else(|| cluster.name.as_str().into());
    Ok(Source::Eds { name, patience })
}

fn dns(
    assignment: Option<&ClusterLoadAssignment>,
    refresh: Option<&protobuf::Duration>,
    family: Family,
    logical: bool,
) -> Result<Source, Problem> {
    let assignment = assignment.ok_or_else(|| Problem::new("is required").at("load_assignment"))?;
    let template = endpoint::by_name(assignment).at("load_assignment")?;
    if logical && template.names().len() != 1 {
        return fail("a LOGICAL_DNS cluster has exactly one endpoint").at("load_assignment");
    }
    let refresh = value::interval(refresh, Duration::from_secs(5)).at("dns_refresh_rate")?;
    Ok(Source::Dns(Arc::new(Dns { template, refresh, family, logical })))
}

fn by_extension(cluster: &wire::Cluster, custom: &CustomClusterType) -> Result<Source, Problem> {
    let any = custom.typed_config.as_ref().ok_or_else(|| Problem::new("typed_config is required"))?;
    let decoded = |error: sidegate_xds::resource::DecodeError| Problem::new(error.to_string());
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig" => {
            let config: forward::ClusterConfig = from_any(any).map_err(decoded)?;
            use forward::cluster_config::ClusterImplementationSpecifier as Implementation;
            let subclusters =
                matches!(config.cluster_implementation_specifier, Some(Implementation::SubClustersConfig(_)));
            unsupported(&[("sub_clusters_config", subclusters)])?;
            Ok(Source::Forward)
        }
        "envoy.extensions.clusters.dns.v3.DnsCluster" => {
            let config: DnsCluster = from_any(any).map_err(decoded)?;
            refuse_resolvers(None, config.typed_dns_resolver_config.as_ref())?;
            let logical = config.all_addresses_in_single_endpoint;
            let lookup = config.dns_lookup_family();
            let lookup =
                DnsLookupFamily::from_str_name(lookup.as_str_name()).unwrap_or(DnsLookupFamily::Auto);
            let refresh = config.dns_refresh_rate.as_ref();
            dns(cluster.load_assignment.as_ref(), refresh, family(lookup), logical)
        }
        other => fail(format!("{other} is not supported yet")),
    }
}

/// AUTO prefers IPv6 in Envoy, which sends requests for `localhost` to `::1` where few servers listen; here it prefers IPv4.
fn family(wire: DnsLookupFamily) -> Family {
    match wire {
        DnsLookupFamily::V4Only => Family::V4,
        DnsLookupFamily::V6Only => Family::V6,
        DnsLookupFamily::Auto | DnsLookupFamily::V4Preferred => Family::PreferV4,
        DnsLookupFamily::All => Family::All,
    }
}

/// Names are resolved by the system's resolver; asking others is refused, tuning them has no effect.
fn refuse_resolvers(
    legacy: Option<&DnsResolutionConfig>,
    typed: Option<&TypedExtensionConfig>,
) -> Result<(), Problem> {
    let any = typed.and_then(|typed| typed.typed_config.as_ref());
    let cares: Option<CaresDnsResolverConfig> = any.and_then(|any| from_any(any).ok());
    unsupported(&[
        ("dns_resolution_config.resolvers", legacy.is_some_and(|config| !config.resolvers.is_empty())),
        ("typed_dns_resolver_config.resolvers", cares.is_some_and(|config| !config.resolvers.is_empty())),
    ])
}
