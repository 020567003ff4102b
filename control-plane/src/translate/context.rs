//! What one translation works with: the view with the look-ups made from it, and what has been collected so far.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rustc_hash::FxHashMap;
use sidegate_xds::envoy::config::listener::v3::Filter;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use sidegate_xds::spiffe::SpiffeId;

use super::access::{Access, Mesh, Place};
use super::gateway::CONTROLLER;
use super::mode::Modes;
use super::policy::Policies;
use super::verdict::Verdicts;
use super::{service, workload};
use crate::model::{Name, Scope, Trust, View, account};

/// The view and its look-ups.
pub(super) struct World<'a> {
    pub(super) view: &'a View,
    pub(super) policies: Policies<'a>,
    pub(super) access: Access<'a>,
    /// Who vouches for whom; `None` where there is no mutual TLS, because nobody does or because the proxy has not proven itself.
    pub(super) trust: Option<&'a Trust>,
    pub(super) modes: Modes<'a>,
    /// The ids of our Gateways.
    gateways: Vec<String>,
    slices: FxHashMap<Name, Vec<&'a EndpointSlice>>,
    pods: FxHashMap<IpAddr, Vec<&'a Pod>>,
    /// Service ports that some GRPCRoute sends to, or that a policy asks by gRPC: they speak HTTP/2 whatever else they say.
    grpc: BTreeSet<(Name, u16)>,
}

/// The trust domain of peers where there is no authority that says which.
const TRUST_DOMAIN: &str = "cluster.local";

/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl<'a> World<'a> {
    /// Makes the look-ups. Notes on policies go to `verdicts`.
    pub(super) fn new(view: &'a View, trust: Option<&'a Trust>, verdicts: &mut Verdicts) -> Self {
        let mut slices: FxHashMap<_, Vec<_>> = FxHashMap::default();
        for (name, slice) in &view.endpoint_slices {
            if let Some(service) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME))
            {
                let service = Name::new(name.namespace.as_str(), service.as_str());
                slices.entry(service).or_default().push(&**slice);
            }
        }
        let mut pods: FxHashMap<_, Vec<_>> = FxHashMap::default();
        for pod in view.pods.values() {
            if let Some(address) = workload::address(pod) {
                pods.entry(address).or_default().push(&**pod);
            }
        }
        Self {
            view,
            policies: Policies::new(view, verdicts),
            access: Access::new(view),
            trust,
            modes: Modes::new(view, verdicts),
            gateways: trust.map_or_else(Vec::new, |trust| gateways(view, trust)),
            slices,
            pods,
            grpc: grpc_backends(view),
        }
    }

    /// Whose ids the policies mean that name a namespace or a service account.
    fn mesh(&self) -> Mesh<'_> {
        let trust_domain = self.trust.map_or(TRUST_DOMAIN, |trust| &trust.trust_domain);
        Mesh { trust_domain, gateways: self.trust.map(|_| &*self.gateways) }
    }

    /// The filters that say who may ask for what at a place.
    pub(super) fn access_at(&self, place: Place<'_>, verdicts: &mut Verdicts) -> Vec<HttpFilter> {
        self.access.http(self.view, self.mesh(), place, verdicts)
    }

    /// The filters that say who may connect where bytes are opaque.
    pub(super) fn access_by_connection(&self, place: Place<'_>, verdicts: &mut Verdicts) -> Vec<Filter> {
        self.access.network(self.view, self.mesh(), place, verdicts)
    }

    /// The Service ports that requests at a place are asked about: the proxy needs their clusters.
    pub(super) fn asked_at(&self, place: Place<'_>) -> Vec<(Name, u16)> {
        self.access.asked(self.view, place)
    }

    /// The Service's EndpointSlices, if it has any.
    pub(super) fn slices_of(&self, service: &Name) -> Option<&[&'a EndpointSlice]> {
        self.slices.get(service).map(Vec::as_slice)
    }

    /// The Pod of a namespace that has an address.
    pub(super) fn pod_at(&self, namespace: &str, address: IpAddr) -> Option<&'a Pod> {
        // Pods on the host's network share its address.
        let mut here = self.pods.get(&address)?.iter().copied();
        here.find(|pod| pod.metadata.namespace.as_deref() == Some(namespace))
    }

    /// The Pods of a namespace.
    pub(super) fn pods_of(&self, namespace: &str) -> impl Iterator<Item = &'a Pod> + use<'a> {
        let namespace = namespace.to_owned();
        let pods: &'a BTreeMap<Name, _> = &self.view.pods;
        pods.range(Name::new(namespace.clone(), "")..)
            .take_while(move |(name, _)| name.namespace == namespace)
            .map(|(_, pod): (_, &'a std::sync::Arc<Pod>)| &**pod)
    }

    /// A Service that can be a cluster.
    pub(super) fn service(&self, name: &Name) -> Option<&'a Service> {
        self.view.services.get(name).map(|service| &**service)
    }

    /// Whether a Service's port is spoken to in HTTP/2.
    pub(super) fn speaks_h2(&self, name: &Name, number: u16, port: &ServicePort) -> bool {
        service::declares_h2(port) || self.grpc.contains(&(name.clone(), number))
    }
}

fn gateways(view: &View, trust: &Trust) -> Vec<String> {
    let ours = view.gateways.iter().filter(|(_, gateway)| {
        let class = view.gateway_classes.get(&gateway.spec.gateway_class_name);
        class.is_some_and(|class| class.spec.controller_name == CONTROLLER)
    });
    let ids = ours.filter_map(|(name, gateway)| {
        SpiffeId::workload(&trust.trust_domain, &name.namespace, account::of_gateway(gateway)).ok()
    });
    ids.map(|id| id.as_str().to_owned()).collect()
}

fn grpc_backends(view: &View) -> BTreeSet<(Name, u16)> {
    let mut found: BTreeSet<_> = Access::asked_by_grpc(view).collect();
    for (name, route) in &view.grpc_routes {
        let rules = route.spec.rules.iter().flatten();
        for backend in rules.flat_map(|rule| rule.backend_refs.iter().flatten()) {
            let namespace = backend.namespace.as_deref().unwrap_or(&name.namespace);
            if let Some(port) = backend.port.and_then(service::port_number) {
                found.insert((Name::new(namespace, backend.name.as_str()), port));
            }
        }
    }
    found
}

/// One translation under way.
pub(super) struct Build<'a> {
    pub(super) world: World<'a>,
    /// A data plane other than ours: it gets no retries that could deliver a request twice.
    pub(super) foreign: bool,
    /// It has proven who it is, and may have secrets.
    pub(super) secure: bool,
    pub(super) verdicts: Verdicts,
    /// The Service ports that routes refer to.
    pub(super) clusters: BTreeSet<(Name, u16)>,
    /// Something refers to the secret that says whom to trust.
    pub(super) names_roots: bool,
}

impl<'a> Build<'a> {
    /// A fresh one.
    pub(super) fn new(view: &'a View, trust: Option<&'a Trust>, scope: &Scope) -> Self {
        let (foreign, secure) = match scope {
            Scope::Gateway { foreign, secure, .. } | Scope::Sidecar { foreign, secure, .. } => {
                (*foreign, *secure)
            }
        };
        let mut verdicts = Verdicts::default();
        let world = World::new(view, trust.filter(|_| secure), &mut verdicts);
        Self { world, foreign, secure, verdicts, clusters: BTreeSet::new(), names_roots: false }
    }
}
