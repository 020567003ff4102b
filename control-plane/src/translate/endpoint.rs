//! A Service's port → its endpoints.
//!
//! Where EndpointSlices exist for the Service, only they count. Where none does (manifests in a folder have no endpoint
//! controller), the Pods that the Service selects stand in for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sidegate_xds::envoy::config::core::v3::{HealthStatus, Locality};
use sidegate_xds::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use sidegate_xds::google::protobuf::Struct;
use sidegate_xds::spiffe::SpiffeId;

use super::context::World;
use super::verdict::name_of;
use super::workload::{self, Readiness};
use super::{service, wire};
use crate::model::Name;
use crate::model::policy::MeshTlsMode;

/// What an endpoint says of itself when it must prove an identity: which.
pub(super) const IDENTITY: &str = "identity";

/// What an endpoint says of itself when it has no identity.
pub(super) const PLAINTEXT: &str = "plaintext";

/// The endpoints of a Service's port.
pub(super) fn find<'a>(
    world: &World<'a>,
    name: &Name,
    service: &Service,
    port: &ServicePort,
) -> Endpoints<'a> {
    match world.slices_of(name) {
        Some(slices) => from_slices(world, name, service, port, slices),
        None => from_pods(world, name, service, port),
    }
}

/// The same as the cluster's load assignment.
pub(super) fn assignment(name: &Name, number: u16, endpoints: Endpoints<'_>) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: service::cluster_name(name, number),
        endpoints: localities(endpoints.found),
        ..ClusterLoadAssignment::default()
    }
}

/// One endpoint of an assignment that is made of an address only.
pub(super) fn plain(address: IpAddr, port: u16) -> LbEndpoint {
    LbEndpoint {
        health_status: HealthStatus::Healthy.into(),
        load_balancing_weight: wire::number(1),
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: wire::socket(address, port),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    }
}

/// One endpoint as it was found.
struct Found<'a> {
    zone: &'a str,
    readiness: Readiness,
    pod: Option<&'a Pod>,
    security: Security,
}

/// How an endpoint is to be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Security {
    /// As it always was: there is no mesh TLS for this proxy.
    None,
    /// In the clear, as nothing stands there that could prove anything, or it is not to.
    Plaintext,
    /// It must prove to be this.
    Identity(SpiffeId),
    /// It should prove an identity that cannot be written: nobody can.
    Unnameable,
}

impl Security {
    fn of(world: &World<'_>, pod: Option<&Pod>, app: u16) -> Self {
        let Some(trust) = world.trust else { return Self::None };
        let Some(pod) = pod.filter(|pod| workload::has_sidecar(pod, app)) else { return Self::Plaintext };
        let name = name_of(&pod.metadata);
        if world.modes.of(&name, app) == MeshTlsMode::Disable {
            return Self::Plaintext;
        }
        let account = workload::service_account(pod);
        match SpiffeId::workload(&trust.trust_domain, &name.namespace, account) {
            Ok(id) => Self::Identity(id),
            Err(_) => Self::Unnameable,
        }
    }

    /// What the endpoint says of itself.
    fn mark(&self) -> Option<Struct> {
        match self {
            Self::None => None,
            Self::Plaintext => Some(wire::single(PLAINTEXT, "true")),
            Self::Identity(id) => Some(wire::single(IDENTITY, id.as_str())),
            Self::Unnameable => Some(wire::single(IDENTITY, "")),
        }
    }
}

/// The endpoints of a Service's port.
#[derive(Default)]
pub(super) struct Endpoints<'a> {
    /// By address, so that an address that two slices list is one endpoint.
    found: BTreeMap<(IpAddr, u16), Found<'a>>,
    /// Whom they must prove to be. Those that are not ready count too: a cluster need not change whenever one is ready or not.
    pub(super) identities: BTreeSet<SpiffeId>,
}

impl<'a> Endpoints<'a> {
    fn add(&mut self, at: (IpAddr, u16), endpoint: Found<'a>) {
        if let Security::Identity(id) = &endpoint.security {
            self.identities.insert(id.clone());
        }
        if endpoint.readiness == Readiness::Unready {
            return;
        }
        // While an endpoint moves between slices both list it; the one that is ready is the newer word.
        let known = self.found.get(&at).map(|known| known.readiness);
        if known != Some(Readiness::Ready) {
            self.found.insert(at, endpoint);
        }
    }
}

fn from_slices<'a>(
    world: &World<'a>,
    name: &Name,
    service: &Service,
    port: &ServicePort,
    slices: &[&'a EndpointSlice],
) -> Endpoints<'a> {
    let mut endpoints = Endpoints::default();
    let family = address_type(service, slices);
    for slice in slices.iter().filter(|slice| slice.address_type == family) {
        let Some(number) = slice_port(slice, port) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(address) = endpoint.addresses.first().and_then(|text| text.parse().ok()) else {
                continue;
            };
            let pod = slice_pod(world, name, endpoint, address);
            let zone = endpoint.zone.as_deref().unwrap_or("");
            let reached = pod.map_or(number, |pod| workload::reached_at(pod, number));
            let security = Security::of(world, pod, number);
            let found = Found { zone, readiness: slice_readiness(endpoint), pod, security };
            endpoints.add((address, reached), found);
        }
    }
    endpoints
}

/// Of a dual-stack Service's two sets of slices, the one of its first family: each Pod is one endpoint, not two.
fn address_type(service: &Service, slices: &[&EndpointSlice]) -> String {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    let listed = |family: &String| slices.iter().any(|slice| slice.address_type == *family);
    let fallback = || {
        let has_v4 = slices.iter().any(|slice| slice.address_type == "IPv4");
        if has_v4 { "IPv4".to_owned() } else { "IPv6".to_owned() }
    };
    families.into_iter().find(listed).unwrap_or_else(fallback)
}

/// The slice's number for the Service's port: matched by name, which a single port may lack on both sides.
fn slice_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let wanted = port.name.as_deref().unwrap_or("");
    let matching = slice.ports.iter().flatten().find(|candidate| {
        candidate.name.as_deref().unwrap_or("") == wanted
            && candidate.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
    })?;
    service::port_number(matching.port?)
}

fn slice_readiness(endpoint: &SliceEndpoint) -> Readiness {
    let Some(conditions) = endpoint.conditions.as_ref() else { return Readiness::Ready };
    let ready = conditions.ready.unwrap_or(true);
    let terminating = conditions.terminating.unwrap_or(false);
    let serving = conditions.serving.unwrap_or(ready);
    match (ready, serving && terminating) {
        (true, _) => Readiness::Ready,
        (false, true) => Readiness::Draining,
        (false, false) => Readiness::Unready,
    }
}

fn slice_pod<'a>(
    world: &World<'a>,
    service: &Name,
    endpoint: &SliceEndpoint,
    address: IpAddr,
) -> Option<&'a Pod> {
    let by_name =
        endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod")).and_then(
            |target| {
                let namespace = target.namespace.as_deref().unwrap_or(&service.namespace);
                world.view.pods.get(&Name::new(namespace, target.name.as_deref()?)).map(|pod| &**pod)
            },
        );
    by_name.or_else(|| world.pod_at(&service.namespace, address))
}

fn from_pods<'a>(world: &World<'a>, name: &Name, service: &Service, port: &ServicePort) -> Endpoints<'a> {
    let mut endpoints = Endpoints::default();
    let Some(spec) = service.spec.as_ref() else { return endpoints };
    let Some(selector) = service::selector(service) else { return endpoints };
    let even_unready = spec.publish_not_ready_addresses.unwrap_or(false);
    for pod in world.pods_of(&name.namespace) {
        let labels = pod.metadata.labels.as_ref();
        let selected =
            selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
        let (true, Some(address)) = (selected, workload::address(pod)) else { continue };
        let Some(target) = target_port(pod, port) else { continue };
        let readiness = match workload::readiness(pod) {
            Readiness::Unready if even_unready => Readiness::Ready,
            other => other,
        };
        let zone =
            labels.and_then(|labels| labels.get("topology.kubernetes.io/zone")).map_or("", String::as_str);
        let security = Security::of(world, Some(pod), target);
        let found = Found { zone, readiness, pod: Some(pod), security };
        endpoints.add((address, workload::reached_at(pod, target)), found);
    }
    endpoints
}

/// The port of the app in a Pod that a Service's port leads to.
pub(super) fn target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target_port {
        Some(IntOrString::Int(number)) => service::port_number(*number),
        Some(IntOrString::String(name)) => workload::container_port(pod, name).or_else(|| name.parse().ok()),
        None => service::port_number(port.port),
    }
}

fn localities(found: BTreeMap<(IpAddr, u16), Found<'_>>) -> Vec<LocalityLbEndpoints> {
    let mut zones: BTreeMap<&str, Vec<LbEndpoint>> = BTreeMap::new();
    for ((address, port), endpoint) in found {
        let health = match endpoint.readiness {
            Readiness::Draining => HealthStatus::Draining,
            Readiness::Ready | Readiness::Unready => HealthStatus::Healthy,
        };
        let metadata = endpoint.pod.and_then(|pod| {
            wire::metadata([
                ("workload", workload::workload_name(pod).to_owned()),
                ("namespace", pod.metadata.namespace.clone().unwrap_or_default()),
                ("service_account", workload::service_account(pod).to_owned()),
                ("pod", pod.metadata.name.clone().unwrap_or_default()),
            ])
        });
        let metadata = match endpoint.security.mark() {
            None => metadata,
            Some(mark) => {
                let mut metadata = metadata.unwrap_or_default();
                metadata.filter_metadata.insert(wire::SOCKET_MATCH.to_owned(), mark);
                Some(metadata)
            }
        };
        let endpoint_of_zone = LbEndpoint { health_status: health.into(), metadata, ..plain(address, port) };
        zones.entry(endpoint.zone).or_default().push(endpoint_of_zone);
    }
    zones
        .into_iter()
        .map(|(zone, lb_endpoints)| LocalityLbEndpoints {
            locality: Some(Locality { zone: zone.to_owned(), ..Locality::default() }),
            load_balancing_weight: wire::number(u32::try_from(lb_endpoints.len()).unwrap_or(u32::MAX)),
            lb_endpoints,
            ..LocalityLbEndpoints::default()
        })
        .collect()
}
