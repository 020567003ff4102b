//! A view and a scope → Envoy resources and verdicts. Pure: what goes in is the whole cache key.
//!
//! The children stand in the order of the path: the two scopes; how routes attach and become virtual hosts; what a rule
//! becomes; listeners, clusters and endpoints; the look-ups and the small change.

use std::collections::BTreeSet;

use sidegate_xds::resource::ResourceType;

use crate::model::{Scope, Trust, Verdict, View};
use crate::snapshot::{Resource, Resources};

mod behind;
mod gateway;
mod sidecar;
mod mesh;
mod https;
mod virtual_host;
mod attach;
mod route;
mod filter;
mod backend;
mod grants;
mod route_match;
mod header;
mod retry;
mod fronts;
mod inbound;
mod listener;
mod cluster;
mod endpoint;
mod security;
mod context;
mod policy;
mod access;
mod mode;
mod normal;
mod workload;
mod service;
mod hostname;
mod verdict;
mod canonical;
mod wire;

use context::Build;

pub use behind::{Behind, behind};
pub use gateway::CONTROLLER;

/// What one scope gets.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// The resources.
    pub resources: Resources,
    /// What is to be said about the objects that were read for them: sorted, each once.
    pub verdicts: Vec<Verdict>,
    /// The policies that the resources carry, as verdicts name them: `AuthorizationPolicy shop/web`.
    pub policies: BTreeSet<String>,
}

/// Translates the view for one scope. Without somebody to trust, or for a proxy that has not proven itself, there is no mutual TLS.
pub fn translate(view: &View, trust: Option<&Trust>, scope: &Scope) -> Translation {
    let mut resources = Resources::default();
    let mut build = Build::new(view, trust, scope);
    match scope {
        Scope::Gateway { gateway, .. } => gateway::translate(&mut build, gateway, &mut resources),
        Scope::Sidecar { pod, .. } => sidecar::translate(&mut build, pod, &mut resources),
    }
    build.world.access.conclude(view, &mut build.verdicts);
    clusters(&mut build, &mut resources);
    if let Some(trust) = build.world.trust.filter(|_| build.names_roots) {
        resources.secrets.insert(security::ROOTS.to_owned(), Resource::new(&security::roots(trust)));
    }
    let policies = build.verdicts.take_carried();
    Translation { resources, verdicts: build.verdicts.into_list(), policies }
}

/// The clusters that the routes refer to, and their endpoints.
fn clusters(build: &mut Build<'_>, resources: &mut Resources) {
    for (name, number) in std::mem::take(&mut build.clusters) {
        let world = &build.world;
        let Some(service) = world.service(&name) else { continue };
        let Some(port) = service::port(service, number) else { continue };
        let endpoints = endpoint::find(world, &name, service, port);
        let cluster = cluster::of_service(world, &name, number, port, &endpoints.identities);
        build.names_roots |= !cluster.transport_socket_matches.is_empty();
        let assignment = endpoint::assignment(&name, number, endpoints);
        resources
            .endpoints
            .insert(cluster.name.clone(), canonical::resource(ResourceType::Endpoint, &assignment));
        resources.clusters.insert(cluster.name.clone(), canonical::resource(ResourceType::Cluster, &cluster));
    }
}

#[cfg(test)]
mod tests;
