//! backendRefs → weighted Envoy clusters.

use sidegate_xds::envoy::config::route::v3::weighted_cluster::ClusterWeight;

use super::context::Build;
use super::normal::{Backend, Filter, Reference, Route, Rule};
use super::verdict::{ACCEPTED, PARTIALLY_INVALID, Problem, RESOLVED_REFS};
use super::{grants, header, service, wire};
use crate::model::Name;

/// The Gateway API's bound on a weight; it keeps their sum within Envoy's.
const MAX_WEIGHT: u32 = 1_000_000;

/// Where a rule's requests go.
#[derive(Clone, Debug)]
pub(super) enum Destination {
    /// In shares.
    Clusters(Vec<ClusterWeight>),
    /// Nowhere: there is no backend with a weight.
    Nowhere,
}

/// The Service ports of a rule, for policies on them.
pub(super) type Services = Vec<(Name, Option<String>)>;

/// Resolves the backendRefs of a rule. A reference that leads nowhere keeps its share, under the name of a cluster that does
/// not exist, so that its share of the requests fails as the Gateway API demands.
pub(super) fn destination(build: &mut Build<'_>, route: &Route<'_>, index: usize) -> (Destination, Services) {
    let rule: &Rule<'_> = &route.rules[index];
    let mut clusters = Vec::new();
    let mut services = Vec::new();
    for (position, backend) in rule.backends.iter().enumerate() {
        let field = format!("spec.rules[{index}].backendRefs[{position}]");
        let resolved = resolve(build, route, &backend.reference);
        let unsupported = unsupported_filter(backend);
        let name = match (resolved, unsupported) {
            (Ok((name, port, port_name)), None) => {
                if backend.weight > 0 {
                    services.push((name.clone(), port_name));
                }
                service::cluster_name(&name, port)
            }
            (Ok(_), Some(problem)) => {
                let problem = Problem { message: format!("{field}.{}", problem.message), ..problem };
                build.verdicts.note(&route.subject, ACCEPTED, problem.clone());
                blackhole(route, index, position, problem.reason)
            }
            (Err(problem), _) => {
                let problem = Problem { message: format!("{field}: {}", problem.message), ..problem };
                let reason = problem.reason;
                build.verdicts.note(&route.subject, RESOLVED_REFS, problem);
                blackhole(route, index, position, reason)
            }
        };
        let weight = u32::try_from(backend.weight).unwrap_or(0).min(MAX_WEIGHT);
        if i64::from(weight) != i64::from(backend.weight) {
            let text =
                format!("{field}.weight: {} is not 0 to {MAX_WEIGHT}; {weight} is used", backend.weight);
            build.verdicts.note(&route.subject, PARTIALLY_INVALID, Problem::new("UnsupportedValue", text));
        }
        if weight > 0 {
            clusters.push(cluster_weight(name, weight, backend));
        }
    }
    if clusters.is_empty() {
        (Destination::Nowhere, services)
    } else {
        (Destination::Clusters(clusters), services)
    }
}

/// The cluster of a reference, or why there is none.
pub(super) fn resolve(
    build: &mut Build<'_>,
    route: &Route<'_>,
    reference: &Reference<'_>,
) -> Result<(Name, u16, Option<String>), Problem> {
    if !reference.group.is_empty() || reference.kind != "Service" {
        let text = format!(
            "kind {:?} of group {:?} is not supported; use a Service",
            reference.kind, reference.group
        );
        return Err(Problem::new("InvalidKind", text));
    }
    let name = Name::new(reference.namespace.unwrap_or(&route.name.namespace), reference.name);
    if !grants::allows_service(build.world.view, route.kind.name(), &route.name.namespace, &name) {
        let text = format!(
            "no ReferenceGrant in namespace {} lets a {} of namespace {} refer to Service {name}",
            name.namespace,
            route.kind.name(),
            route.name.namespace
        );
        return Err(Problem::new("RefNotPermitted", text));
    }
    let missing = |text: String| Err(Problem::new("BackendNotFound", text));
    let Some(found) = build.world.service(&name) else {
        return missing(format!("Service {name} does not exist"));
    };
    if service::is_external_name(found) {
        let text = format!("Service {name} is of type ExternalName, which routes cannot use");
        return Err(Problem::new("UnsupportedProtocol", text));
    }
    let Some(number) = reference.port.and_then(service::port_number) else {
        return missing(format!("a port of Service {name} must be given"));
    };
    let Some(port) = service::port(found, number) else {
        let offered: Vec<String> = service::ports(found).map(|(number, _)| number.to_string()).collect();
        return missing(format!("Service {name} has no TCP port {number}; it has: {}", offered.join(", ")));
    };
    build.clusters.insert((name.clone(), number));
    Ok((name, number, port.name.clone()))
}

/// The name of a cluster that does not exist.
fn blackhole(route: &Route<'_>, rule: usize, position: usize, reason: &str) -> String {
    format!("blackhole|{reason}|{}|{rule}|{position}", route.name)
}

fn unsupported_filter(backend: &Backend<'_>) -> Option<Problem> {
    backend.filters.iter().enumerate().find_map(|(index, filter)| {
        let at = |text: &str| Problem::new("UnsupportedValue", format!("filters[{index}]: {text}"));
        match filter {
            Filter::RequestHeaders(ops) | Filter::ResponseHeaders(ops) => {
                header::check(ops).err().map(|text| at(&text))
            }
            Filter::Unsupported(name) => Some(at(&format!("{name} is not supported on a backendRef"))),
            Filter::Mirror(_) | Filter::Redirect(_) | Filter::Rewrite(_) => {
                Some(at("only changes of headers are supported on a backendRef"))
            }
        }
    })
}

fn cluster_weight(name: String, weight: u32, backend: &Backend<'_>) -> ClusterWeight {
    let mut cluster = ClusterWeight { name, weight: wire::number(weight), ..ClusterWeight::default() };
    for given in &backend.filters {
        match given {
            Filter::RequestHeaders(ops) => {
                cluster.request_headers_to_add.extend(header::to_add(ops));
                cluster.request_headers_to_remove.extend(header::to_remove(ops));
            }
            Filter::ResponseHeaders(ops) => {
                cluster.response_headers_to_add.extend(header::to_add(ops));
                cluster.response_headers_to_remove.extend(header::to_remove(ops));
            }
            Filter::Mirror(_) | Filter::Redirect(_) | Filter::Rewrite(_) | Filter::Unsupported(_) => {}
        }
    }
    cluster
}
