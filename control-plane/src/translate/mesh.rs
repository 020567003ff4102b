//! HTTPRoutes and GRPCRoutes that name a Service as their parent (GAMMA): they replace the default route of its ports.
//!
//! A route in the Service's own namespace is for everybody; one in another namespace is for the callers of that namespace,
//! and there takes the place of the Service owner's.

use std::collections::{BTreeMap, BTreeSet};

use sidegate_xds::envoy::config::route::v3::Route as WireRoute;

use super::attach;
use super::context::Build;
use super::normal::{Parent, Route};
use super::route::{self, Compiled};
use super::verdict::{ACCEPTED, Problem, RESOLVED_REFS};
use super::{service, virtual_host};
use crate::model::Name;

/// The routes of all Service ports, for the callers of one namespace.
pub(super) struct MeshRoutes<'a> {
    routes: Vec<Route<'a>>,
    compiled: BTreeMap<usize, Vec<Compiled>>,
    /// Service and port → the routes that claim it, the senior first.
    claims: BTreeMap<(Name, u16), Vec<usize>>,
}

impl<'a> MeshRoutes<'a> {
    /// Finds and compiles them. What is wrong with them is noted.
    pub(super) fn new(build: &mut Build<'a>, namespace: &str) -> Self {
        let view = build.world.view;
        let mut routes = attach::routes_of(view, is_service);
        // Another namespace's routes to services that are not its own are not for this caller.
        routes.retain(|route| {
            route.name.namespace == namespace
                || route
                    .parents
                    .iter()
                    .any(|parent| is_service(parent) && parent.name.namespace == route.name.namespace)
        });
        let mut mesh = Self { routes, compiled: BTreeMap::new(), claims: BTreeMap::new() };
        for index in 0..mesh.routes.len() {
            mesh.claim(build, index, namespace);
        }
        mesh.prefer_own(namespace);
        let claiming: BTreeSet<usize> = mesh.claims.values().flatten().copied().collect();
        for (index, route) in mesh.routes.iter().enumerate() {
            if claiming.contains(&index) {
                mesh.compiled.insert(index, route::compile(build, route, None));
            } else {
                route::examine(build, route);
            }
        }
        mesh
    }

    /// The routes of a Service's port in the order of precedence, if any route claims it.
    pub(super) fn of(&self, service: &Name, port: u16) -> Option<Vec<WireRoute>> {
        let claims = self.claims.get(&(service.clone(), port))?;
        let objects = claims.iter().map(|index| (&self.routes[*index], self.compiled[index].as_slice()));
        Some(virtual_host::in_order(objects))
    }

    /// Says of each route whether it was accepted.
    pub(super) fn conclude(&self, build: &mut Build<'_>) {
        for route in &self.routes {
            let accepted = Problem::new("Accepted", "attached to its Services");
            let resolved = Problem::new("ResolvedRefs", "all references lead somewhere");
            build.verdicts.conclude(&route.subject, &[(ACCEPTED, accepted), (RESOLVED_REFS, resolved)]);
        }
    }

    fn claim(&mut self, build: &mut Build<'_>, index: usize, namespace: &str) {
        let route = &self.routes[index];
        for (position, parent) in route.parents.iter().enumerate().filter(|(_, parent)| is_service(parent)) {
            let for_caller =
                parent.name.namespace == route.name.namespace || route.name.namespace == namespace;
            let claimed = ports(build, parent).and_then(|ports| {
                for port in ports.into_iter().filter(|_| for_caller) {
                    let claims = self.claims.entry((parent.name.clone(), port)).or_default();
                    let senior = claims
                        .iter()
                        .map(|claim| &self.routes[*claim])
                        .find(|other| other.kind != route.kind);
                    if let Some(senior) = senior {
                        let text =
                            format!("{} {} serves port {port} already", senior.kind.name(), senior.name);
                        return Err(Problem::new("Conflicted", text));
                    }
                    if !claims.contains(&index) {
                        claims.push(index);
                    }
                }
                Ok(())
            });
            if let Err(problem) = claimed {
                let message =
                    format!("spec.parentRefs[{position}]: Service {}: {}", parent.name, problem.message);
                build.verdicts.note(&route.subject, ACCEPTED, Problem { message, ..problem });
            }
        }
    }

    /// Where the caller's namespace has routes of its own to a Service of another one, only those count.
    fn prefer_own(&mut self, namespace: &str) {
        for ((service, _), claims) in &mut self.claims {
            let own = |index: &usize| self.routes[*index].name.namespace == namespace;
            if service.namespace != namespace && claims.iter().any(own) {
                claims.retain(own);
            }
        }
    }
}

/// Whether a parentRef names a Service.
pub(super) fn is_service(parent: &Parent<'_>) -> bool {
    parent.group.is_empty() && parent.kind == "Service"
}

/// `metadata.generation` of a Service.
pub(super) fn generation(build: &Build<'_>, name: &Name) -> i64 {
    build.world.service(name).and_then(|service| service.metadata.generation).unwrap_or(0)
}

/// The ports of the Service that a parentRef names.
fn ports(build: &Build<'_>, parent: &Parent<'_>) -> Result<Vec<u16>, Problem> {
    let Some(object) = build.world.service(&parent.name) else {
        return Err(Problem::new("NoMatchingParent", "does not exist"));
    };
    let offered: Vec<u16> = service::ports(object).map(|(number, _)| number).collect();
    match parent.port {
        None => Ok(offered),
        Some(port) => match service::port_number(port).filter(|port| offered.contains(port)) {
            Some(port) => Ok(vec![port]),
            None => Err(Problem::new("NoMatchingParent", format!("has no TCP port {port}"))),
        },
    }
}
