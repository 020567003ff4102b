//! `TcpProxy` → `snapshot::Tcp`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sidegate_xds::envoy::extensions::filters::network::tcp_proxy::v3 as wire;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;
use wire::tcp_proxy::ClusterSpecifier;

use super::access_log;
use super::problem::{At, Problem, fail, unsupported};
use super::value;
use crate::route::{Target, WeightedCluster};
use crate::snapshot::Tcp;

/// Checks a TCP proxy; also the clusters that it names. Hash policies have no effect: no balancer here hashes.
pub(crate) fn compile(any: &Any) -> Result<(Tcp, BTreeSet<Arc<str>>), Problem> {
    let proxy: wire::TcpProxy = from_any(any).map_err(|error| Problem::new(error.to_string()))?;
    unsupported(&[
        ("on_demand", proxy.on_demand.is_some()),
        ("metadata_match", proxy.metadata_match.is_some()),
        ("tunneling_config", proxy.tunneling_config.is_some()),
        ("proxy_protocol_tlvs", !proxy.proxy_protocol_tlvs.is_empty()),
        ("upstream_connect_mode", proxy.upstream_connect_mode != 0),
    ])?;
    let target = target(proxy.cluster_specifier.as_ref())?;
    let clusters = match &target {
        Target::Cluster(name) => BTreeSet::from([name.clone()]),
        Target::Weighted { clusters, .. } => clusters.iter().map(|cluster| cluster.name.clone()).collect(),
        Target::Header(_) => BTreeSet::new(),
    };
    let hour = Some(Duration::from_secs(3600));
    let tcp = Tcp {
        stat_prefix: proxy.stat_prefix.as_str().into(),
        target,
        idle_timeout: value::bound(proxy.idle_timeout.as_ref(), hour).at("idle_timeout")?,
        max_duration: value::bound(proxy.max_downstream_connection_duration.as_ref(), None)
            .at("max_downstream_connection_duration")?,
        max_connect_attempts: value::number(proxy.max_connect_attempts.as_ref()).unwrap_or(1).max(1),
        access_logs: access_log::compile(&proxy.access_log)?,
    };
    Ok((tcp, clusters))
}

fn target(wire: Option<&ClusterSpecifier>) -> Result<Target, Problem> {
    let weighted = match wire {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => {
            return Ok(Target::Cluster(name.as_str().into()));
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted,
        _ => return fail("is required").at("cluster"),
    };
    let mut clusters = Vec::new();
    let mut total: u32 = 0;
    for (index, cluster) in weighted.clusters.iter().enumerate() {
        let place = format!("weighted_clusters.clusters[{index}]");
        unsupported(&[("metadata_match", cluster.metadata_match.is_some())]).at(&place)?;
        let sum =
            total.checked_add(cluster.weight).filter(|_| cluster.weight > 0 && !cluster.name.is_empty());
        let Some(sum) = sum else { return fail("needs a name and a weight of at least 1").at(place) };
        total = sum;
        clusters.push(WeightedCluster {
            name: cluster.name.as_str().into(),
            weight: cluster.weight,
            request_headers: None,
            response_headers: None,
        });
    }
    match total {
        0 => fail("needs at least one").at("weighted_clusters.clusters"),
        total => Ok(Target::Weighted { clusters, total }),
    }
}
