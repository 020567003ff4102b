//! How a cluster's endpoints are picked: the old enum, or `load_balancing_policy`.

use sidegate_xds::envoy::config::cluster::v3 as wire;
use sidegate_xds::envoy::config::cluster::v3::cluster::LbPolicy;
use sidegate_xds::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use sidegate_xds::envoy::extensions::load_balancing_policies as policies;
use sidegate_xds::envoy::extensions::load_balancing_policies::common::v3 as common;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;

use super::Source;
use crate::compile::problem::{At, Problem, fail};
use crate::compile::value;

/// How endpoints are picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Balancing {
    /// By which rule.
    pub(crate) rule: Rule,
    /// Localities are weighed by their own weight first.
    pub(crate) locality_weighted: bool,
}

/// The rules that are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the policy of the same name")]
pub(crate) enum Rule {
    LeastRequest,
    RoundRobin,
    Random,
}

/// Tuning of a policy (choice count, slow start, request bias) is accepted without effect.
pub(crate) fn compile(cluster: &wire::Cluster, source: &Source) -> Result<Balancing, Problem> {
    if let Some(policy) = &cluster.load_balancing_policy {
        return by_extension(policy, 0).at("load_balancing_policy");
    }
    let rule = match value::choice(cluster.lb_policy).at("lb_policy")? {
        LbPolicy::RoundRobin => Rule::RoundRobin,
        LbPolicy::LeastRequest => Rule::LeastRequest,
        LbPolicy::Random => Rule::Random,
        LbPolicy::ClusterProvided if matches!(source, Source::Forward | Source::Original { .. }) => {
            Rule::RoundRobin
        }
        LbPolicy::ClusterProvided => {
            return fail("CLUSTER_PROVIDED is for clusters that choose by themselves").at("lb_policy");
        }
        LbPolicy::RingHash => return fail("RING_HASH is not supported yet").at("lb_policy"),
        LbPolicy::Maglev => return fail("MAGLEV is not supported yet").at("lb_policy"),
        LbPolicy::LoadBalancingPolicyConfig => {
            return fail("is required by this lb_policy").at("load_balancing_policy");
        }
    };
    let localities =
        cluster.common_lb_config.as_ref().and_then(|common| common.locality_config_specifier.as_ref());
    let locality_weighted = matches!(localities, Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)));
    Ok(Balancing { rule, locality_weighted })
}

/// The first policy of the list that is known, as in Envoy.
fn by_extension(policy: &wire::LoadBalancingPolicy, depth: usize) -> Result<Balancing, Problem> {
    let mut names = Vec::new();
    for policy in &policy.policies {
        let Some(extension) = &policy.typed_extension_config else { continue };
        if let Some(any) = &extension.typed_config
            && let Some(balancing) = known(any, depth).at(&extension.name)?
        {
            return Ok(balancing);
        }
        names.push(extension.name.as_str());
    }
    fail(format!("none of these policies is supported: {}", names.join(", ")))
}

fn known(any: &Any, depth: usize) -> Result<Option<Balancing>, Problem> {
    let decoded = |error: sidegate_xds::resource::DecodeError| Problem::new(error.to_string());
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    let (rule, locality_weighted) = match name.strip_prefix("envoy.extensions.load_balancing_policies.") {
        Some("round_robin.v3.RoundRobin") => {
            let policy: policies::round_robin::v3::RoundRobin = from_any(any).map_err(decoded)?;
            (Rule::RoundRobin, weighs(policy.locality_lb_config.as_ref()))
        }
        Some("least_request.v3.LeastRequest") => {
            let policy: policies::least_request::v3::LeastRequest = from_any(any).map_err(decoded)?;
            (Rule::LeastRequest, weighs(policy.locality_lb_config.as_ref()))
        }
        Some("random.v3.Random") => {
            let policy: policies::random::v3::Random = from_any(any).map_err(decoded)?;
            (Rule::Random, weighs(policy.locality_lb_config.as_ref()))
        }
        Some("cluster_provided.v3.ClusterProvided") => (Rule::RoundRobin, false),
        Some("wrr_locality.v3.WrrLocality") if depth == 0 => {
            let policy: policies::wrr_locality::v3::WrrLocality = from_any(any).map_err(decoded)?;
            let Some(inner) = &policy.endpoint_picking_policy else {
                return fail("is required").at("endpoint_picking_policy");
            };
            (by_extension(inner, depth + 1).at("endpoint_picking_policy")?.rule, true)
        }
        _ => return Ok(None),
    };
    Ok(Some(Balancing { rule, locality_weighted }))
}

fn weighs(config: Option<&common::LocalityLbConfig>) -> bool {
    use common::locality_lb_config::LocalityConfigSpecifier;
    let specifier = config.and_then(|config| config.locality_config_specifier.as_ref());
    matches!(specifier, Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)))
}
