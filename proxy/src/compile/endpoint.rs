//! `ClusterLoadAssignment` → endpoints, in two steps: the assignment as checked, then the set of one cluster,
//! which inherits identity and live state from the set before it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::config::core::v3::HealthStatus;
use sidegate_xds::envoy::config::endpoint::v3 as wire;

use super::problem::{At, Problem, fail, unsupported};
use super::value;
use crate::cluster::{Endpoint, EndpointSet, Labels, Origin};

/// A checked assignment. `A` is a member's address: one to connect to, or a name still to be resolved.
#[derive(Debug, PartialEq)]
pub(crate) struct Assignment<A = SocketAddr> {
    localities: Vec<Locality<A>>,
}

#[derive(Debug, PartialEq)]
struct Locality<A> {
    priority: u32,
    weight: Option<u32>,
    members: Vec<Member<A>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Member<A> {
    address: A,
    hostname: Option<Arc<str>>,
    weight: u32,
    available: bool,
    origin: Option<Origin>,
    labels: Option<Arc<Labels>>,
}

/// A name and port that stand for addresses.
pub(crate) type Name = (Arc<str>, u16);

/// An assignment by IP addresses: from EDS, or of a static cluster.
pub(crate) fn by_address(assignment: &wire::ClusterLoadAssignment) -> Result<Assignment, Problem> {
    compile(assignment, &|endpoint| value::socket_address(endpoint.address.as_ref()))
}

/// An assignment by names: of a cluster that resolves them.
pub(crate) fn by_name(assignment: &wire::ClusterLoadAssignment) -> Result<Assignment<Name>, Problem> {
    compile(assignment, &|endpoint| value::host_and_port(endpoint.address.as_ref()))
}

type Address<'a, A> = &'a dyn Fn(&wire::Endpoint) -> Result<A, Problem>;

fn compile<A>(
    assignment: &wire::ClusterLoadAssignment,
    address: Address<'_, A>,
) -> Result<Assignment<A>, Problem> {
    let drops = assignment.policy.iter().any(|policy| !policy.drop_overloads.is_empty());
    unsupported(&[
        ("policy.drop_overloads", drops),
        ("named_endpoints", !assignment.named_endpoints.is_empty()),
    ])?;
    let localities = assignment.endpoints.iter().enumerate();
    let localities = localities
        .map(|(index, locality)| compile_locality(locality, address).at(format_args!("endpoints[{index}]")))
        .collect::<Result<_, _>>()?;
    Ok(Assignment { localities })
}

fn compile_locality<A>(
    wire: &wire::LocalityLbEndpoints,
    address: Address<'_, A>,
) -> Result<Locality<A>, Problem> {
    unsupported(&[("lb_config", wire.lb_config.is_some())])?;
    let members = wire.lb_endpoints.iter().enumerate();
    let members = members
        .map(|(index, member)| {
            compile_member(member, wire, address).at(format_args!("lb_endpoints[{index}]"))
        })
        .collect::<Result<_, _>>()?;
    Ok(Locality {
        priority: wire.priority,
        weight: value::number(wire.load_balancing_weight.as_ref()),
        members,
    })
}

fn compile_member<A>(
    wire: &wire::LbEndpoint,
    locality: &wire::LocalityLbEndpoints,
    address: Address<'_, A>,
) -> Result<Member<A>, Problem> {
    use wire::lb_endpoint::HostIdentifier;
    let endpoint = match &wire.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => return unsupported_member("endpoint_name"),
        None => return fail("endpoint is required"),
    };
    let weight = value::number(wire.load_balancing_weight.as_ref()).unwrap_or(1);
    if weight == 0 {
        return Err(Problem::new("must be at least 1").at("load_balancing_weight"));
    }
    let health = value::choice(wire.health_status).at("health_status")?;
    let unavailable =
        matches!(health, HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout);
    Ok(Member {
        address: address(endpoint).at("endpoint.address")?,
        hostname: value::text(&endpoint.hostname),
        weight,
        available: !unavailable,
        origin: value::sidegate_metadata(wire.metadata.as_ref()).map(origin),
        // A locality's own counts for those of its endpoints that have none.
        labels: labels(wire.metadata.as_ref()).or_else(|| labels(locality.metadata.as_ref())),
    })
}

/// `envoy.transport_socket_match`. What is no plain value no match asks for.
fn labels(metadata: Option<&core::Metadata>) -> Option<Arc<Labels>> {
    let fields = metadata?.filter_metadata.get("envoy.transport_socket_match")?;
    let plain = |(name, value): (&String, &_)| Some((name.as_str().into(), value::plain(value)?));
    Some(Arc::new(fields.fields.iter().filter_map(plain).collect()))
}

fn unsupported_member<A>(field: &str) -> Result<Member<A>, Problem> {
    Err(Problem::new("is not supported yet").at(field))
}

fn origin(fields: &sidegate_xds::google::protobuf::Struct) -> Origin {
    let field = |name| value::field(fields, name).unwrap_or_default();
    Origin {
        workload: field("workload"),
        namespace: field("namespace"),
        service_account: field("service_account"),
        pod: field("pod"),
    }
}

impl Assignment {
    /// One that says nothing: no endpoints.
    pub(crate) fn empty() -> Self {
        Self { localities: Vec::new() }
    }

    /// The set for a cluster. Endpoints whose key is in `previous` are the same ones: unchanged as they stand, else inheriting.
    /// `None` when nothing differs from `previous`.
    pub(crate) fn endpoints(&self, locality_weighted: bool, previous: &EndpointSet) -> Option<EndpointSet> {
        let before: HashMap<_, _> = previous.all.iter().map(|endpoint| (endpoint.key(), endpoint)).collect();
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        for locality in &self.localities {
            let share = Share::of(locality, locality_weighted);
            for member in &locality.members {
                let endpoint = member.endpoint(locality.priority, share);
                // A key that comes twice is one endpoint: the first (Envoy ignores duplicates too).
                if seen.insert((endpoint.address, endpoint.origin.as_ref().map(|origin| origin.pod.clone())))
                {
                    all.push(carry_over(endpoint, &before));
                }
            }
        }
        let same = previous.ready
            && all.len() == previous.all.len()
            && all.iter().zip(&previous.all).all(|(new, old)| Arc::ptr_eq(new, old));
        (!same).then(|| EndpointSet::new(all))
    }
}

fn carry_over(
    mut endpoint: Endpoint,
    before: &HashMap<(SocketAddr, Option<&str>), &Arc<Endpoint>>,
) -> Arc<Endpoint> {
    if let Some(previous) = before.get(&endpoint.key()) {
        if endpoint.says_the_same(previous) {
            return Arc::clone(previous);
        }
        if endpoint.is_who_was(previous) {
            endpoint.inherit(previous);
        }
    }
    Arc::new(endpoint)
}

impl Member<SocketAddr> {
    fn endpoint(&self, priority: u32, share: Share) -> Endpoint {
        let (weight, available) = share.apply(self.weight);
        let mut endpoint = Endpoint::new(self.address, weight);
        endpoint.hostname = self.hostname.clone();
        endpoint.available = self.available && available;
        endpoint.origin = self.origin.clone();
        endpoint.labels = self.labels.clone();
        endpoint.priority = priority;
        endpoint
    }
}

/// How a locality's weight turns into those of its members.
#[derive(Clone, Copy)]
enum Share {
    /// Localities are not weighed: each member's own weight counts.
    Own,
    /// The locality's weight, and the sum of its members'.
    Locality(u32, u64),
    /// Localities are weighed and this one has no weight: no traffic.
    Nothing,
}

impl Share {
    fn of<A>(locality: &Locality<A>, locality_weighted: bool) -> Self {
        match (locality_weighted, locality.weight) {
            (false, _) => Self::Own,
            (true, None | Some(0)) => Self::Nothing,
            (true, Some(weight)) => {
                let sum = locality.members.iter().map(|member| u64::from(member.weight)).sum();
                Self::Locality(weight, sum)
            }
        }
    }

    fn apply(self, weight: u32) -> (u32, bool) {
        match self {
            Self::Own => (weight, true),
            Self::Nothing => (weight, false),
            Self::Locality(locality, sum) => {
                let scaled = u64::from(locality.min(1 << 20)) * u64::from(weight) * PRECISION / sum.max(1);
                (u32::try_from(scaled).unwrap_or(u32::MAX).max(1), true)
            }
        }
    }
}

/// Scale of folded weights, so that a locality of weight 1 divides well among many members.
const PRECISION: u64 = 1 << 10;

impl Assignment<Name> {
    /// The names to resolve, each once.
    pub(crate) fn names(&self) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::new();
        for member in self.localities.iter().flat_map(|locality| &locality.members) {
            if !names.contains(&member.address) {
                names.push(member.address.clone());
            }
        }
        names
    }

    /// The same with each member replaced by one per address that its name stands for.
    pub(crate) fn resolved(&self, addresses: impl Fn(&str) -> Vec<IpAddr>) -> Assignment {
        let localities = self.localities.iter().map(|locality| Locality {
            priority: locality.priority,
            weight: locality.weight,
            members: locality.members.iter().flat_map(|member| member.resolved(&addresses)).collect(),
        });
        Assignment { localities: localities.collect() }
    }
}

impl Member<Name> {
    fn resolved(&self, addresses: impl Fn(&str) -> Vec<IpAddr>) -> Vec<Member<SocketAddr>> {
        let (host, port) = &self.address;
        let member = |address| Member {
            address: SocketAddr::new(address, *port),
            hostname: Some(self.hostname.as_ref().unwrap_or(host).clone()),
            weight: self.weight,
            available: self.available,
            origin: self.origin.clone(),
            labels: self.labels.clone(),
        };
        addresses(host).into_iter().map(member).collect()
    }
}

#[cfg(test)]
mod tests;
