//! A view and a scope → Envoy resources and verdicts. Pure: what goes in is the whole cache key.
//!
//! The children stand in the order of the path: the two scopes; how routes attach and become virtual hosts; what a rule
//! becomes; listeners, clusters and endpoints; the look-ups and the small change.

use sidegate_xds::resource::ResourceType;

use crate::model::{Scope, Verdict, View};
use crate::snapshot::Resources;

mod gateway;
mod sidecar;
mod mesh;
mod virtual_host;
mod attach;
mod route;
mod filter;
mod backend;
mod grants;
mod route_match;
mod header;
mod retry;
mod listener;
mod cluster;
mod endpoint;
mod context;
mod policy;
mod access;
mod normal;
mod workload;
mod service;
mod hostname;
mod verdict;
mod canonical;
mod wire;

use context::Build;

pub use gateway::CONTROLLER;

/// What one scope gets.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// The resources.
    pub resources: Resources,
    /// What is to be said about the objects that were read for them: sorted, each once.
    pub verdicts: Vec<Verdict>,
}

/// Translates the view for one scope.
pub fn translate(view: &View, scope: &Scope) -> Translation {
    let mut resources = Resources::default();
    let mut build = match scope {
        Scope::Gateway { gateway, foreign, .. } => {
            let mut build = Build::new(view, *foreign);
            gateway::translate(&mut build, gateway, &mut resources);
            build
        }
        Scope::Sidecar { pod, foreign, .. } => {
            let mut build = Build::new(view, *foreign);
            sidecar::translate(&mut build, pod, &mut resources);
            build
        }
    };
    clusters(&mut build, &mut resources);
    Translation { resources, verdicts: build.verdicts.into_list() }
}

/// The clusters that the routes refer to, and their endpoints.
fn clusters(build: &mut Build<'_>, resources: &mut Resources) {
    for (name, number) in std::mem::take(&mut build.clusters) {
        let world = &build.world;
        let Some(service) = world.service(&name) else { continue };
        let Some(port) = service::port(service, number) else { continue };
        let cluster = cluster::of_service(world, &name, number, port);
        let assignment = endpoint::assignment(world, &name, service, port);
        resources
            .endpoints
            .insert(cluster.name.clone(), canonical::resource(ResourceType::Endpoint, &assignment));
        resources.clusters.insert(cluster.name.clone(), canonical::resource(ResourceType::Cluster, &cluster));
    }
}

#[cfg(test)]
mod tests;
