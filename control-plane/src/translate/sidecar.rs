//! Everything a Pod's sidecar needs: listeners in front of its app, its outbound proxy, and a cluster for every Service.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::{Pod, ServicePort};
use sidegate_xds::envoy::config::route::v3::route::Action;
use sidegate_xds::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, UpgradeConfig, upgrade_config::ConnectConfig,
};
use sidegate_xds::envoy::config::route::v3::route_match::{ConnectMatcher, PathSpecifier};
use sidegate_xds::envoy::config::route::v3::{
    RetryPolicy, Route as WireRoute, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use sidegate_xds::resource::{ResourceType, to_any};

use super::access::Place;
use super::context::Build;
use super::fronts::Fronts;
use super::inbound::{self, Intake};
use super::listener::{self, Filters};
use super::mesh::{self, MeshRoutes};
use super::policy::RATE_LIMIT_FILTER;
use super::verdict::{ACCEPTED, PROGRAMMED, Problem, Subject};
use super::virtual_host::host;
use super::{canonical, cluster, hostname, retry, service, wire, workload};
use crate::model::Name;
use crate::model::policy::MeshTlsMode;
use crate::snapshot::Resources;

/// The name of the outbound listener and of its route table.
const OUTBOUND_PROXY: &str = "outbound-proxy";

/// Translates one Pod's sidecar.
pub(super) fn translate(build: &mut Build<'_>, name: &Name, resources: &mut Resources) {
    let Some(pod) = build.world.view.pods.get(name).map(|pod| &**pod) else {
        let subject = Subject::absent("Pod", name);
        let text = "a proxy asks for this Pod, and there is no such object";
        build.verdicts.note(&subject, PROGRAMMED, Problem::new("Pending", text));
        return;
    };
    let subject = Subject::new("Pod", &pod.metadata);
    match workload::address(pod) {
        Some(address) => {
            inbound(build, &subject, name, pod, address, resources);
            outbound(build, &subject, name, pod, address, resources);
        }
        None => {
            let text = "status.podIP is missing: the sidecar does not know where to listen";
            build.verdicts.note(&subject, PROGRAMMED, Problem::new("Pending", text));
        }
    }
    let programmed = Problem::new("Programmed", "sent to the Pod's sidecar");
    build.verdicts.conclude(&subject, &[(PROGRAMMED, programmed)]);
}

/// A listener and a cluster for each pair of the annotation.
fn inbound(
    build: &mut Build<'_>,
    subject: &Subject,
    name: &Name,
    pod: &Pod,
    address: IpAddr,
    resources: &mut Resources,
) {
    let pairs = match workload::inbound_ports(pod) {
        Ok(pairs) => pairs,
        Err(problem) => return build.verdicts.note(subject, PROGRAMMED, problem),
    };
    for (app, sidecar) in pairs {
        let fronts = Fronts::of(build, name, pod, app);
        let intake = match intake(build, name, app) {
            Ok(intake) => intake,
            Err(problem) => {
                build.verdicts.note(subject, PROGRAMMED, problem);
                continue;
            }
        };
        build.names_roots |= intake != Intake::Plaintext;
        let (world, place) = (&build.world, Place::Pod { pod, port: app });
        let verdicts = &mut build.verdicts;
        let port = inbound::Port {
            app,
            sidecar,
            intake,
            opaque: fronts.opaque,
            access: world.access_at(place, verdicts),
            access_by_connection: world.access_by_connection(place, verdicts),
            denied: world.trust.map_or(&[], |trust| &trust.denied),
        };
        let asked = world.asked_at(place);
        let listener = port.listener(address, &inbound_routes(app));
        build.clusters.extend(asked);
        resources
            .listeners
            .insert(listener.name.clone(), canonical::resource(ResourceType::Listener, &listener));
        let cluster = cluster::inbound(address, app, fronts.h2);
        resources.clusters.insert(cluster.name.clone(), canonical::resource(ResourceType::Cluster, &cluster));
    }
}

fn inbound_routes(app: u16) -> RouteConfiguration {
    let name = cluster::inbound_name(app);
    let action = to_cluster(&name, Some(retry::to_own_app()));
    RouteConfiguration {
        virtual_hosts: vec![host(vec!["*".to_owned()], vec![everything(&name, action)])],
        name,
        validate_clusters: wire::boolean(false),
        ..RouteConfiguration::default()
    }
}

/// Which connections the sidecar takes in front of an app port.
fn intake(build: &Build<'_>, name: &Name, app: u16) -> Result<Intake, Problem> {
    let has_identity = build.world.trust.is_some();
    match (build.world.modes.of(name, app), has_identity) {
        (MeshTlsMode::Disable, _) | (MeshTlsMode::Permissive, false) => Ok(Intake::Plaintext),
        (MeshTlsMode::Permissive, true) => Ok(Intake::Any),
        (MeshTlsMode::Strict, true) => Ok(Intake::Mesh),
        (MeshTlsMode::Strict, false) => {
            let text = format!(
                "port {app} is STRICT, and its sidecar has not proven who it is: nothing listens there. Let it connect to the control \
                 plane by TLS (`sidegate bootstrap` with an identity)"
            );
            Err(Problem::new("Pending", text))
        }
    }
}

/// The explicit HTTP proxy, if the Pod asks for one, and the clusters behind it.
fn outbound(
    build: &mut Build<'_>,
    subject: &Subject,
    name: &Name,
    pod: &Pod,
    address: IpAddr,
    resources: &mut Resources,
) {
    let port = match workload::outbound_proxy(pod) {
        Ok(Some(port)) => port,
        Ok(None) => return,
        Err(problem) => return build.verdicts.note(subject, PROGRAMMED, problem),
    };
    let routes = MeshRoutes::new(build, &name.namespace);
    let mut hosts = service_hosts(build, &name.namespace, &routes);
    routes.conclude(build);
    hosts.push(passthrough_host());
    let limited = hosts
        .iter()
        .flat_map(|host| &host.routes)
        .any(|route| route.typed_per_filter_config.contains_key(RATE_LIMIT_FILTER));
    let filters = if limited { Filters::limiting(None) } else { Filters::default() };
    // Only the app may use its proxy; where the Pod's own address is a loopback one (several "Pods" on one machine), the
    // proxy stands there, so that they do not meet.
    let bind = if address.is_loopback() { address } else { Ipv4Addr::LOCALHOST.into() };
    let listener =
        listener::outbound_proxy(OUTBOUND_PROXY, bind, port, Filters { forward_proxy: true, ..filters });
    resources
        .listeners
        .insert(OUTBOUND_PROXY.to_owned(), canonical::resource(ResourceType::Listener, &listener));
    let table = RouteConfiguration {
        name: OUTBOUND_PROXY.to_owned(),
        virtual_hosts: hosts,
        validate_clusters: wire::boolean(false),
        ..RouteConfiguration::default()
    };
    resources.routes.insert(OUTBOUND_PROXY.to_owned(), canonical::resource(ResourceType::Route, &table));
    let passthrough = cluster::passthrough();
    resources
        .clusters
        .insert(passthrough.name.clone(), canonical::resource(ResourceType::Cluster, &passthrough));
}

/// One virtual host for each port of each Service.
fn service_hosts(build: &mut Build<'_>, namespace: &str, routes: &MeshRoutes<'_>) -> Vec<VirtualHost> {
    let mut hosts = Vec::new();
    let mut taken = BTreeSet::new();
    let services: Vec<_> = build.world.view.services.iter().collect();
    for (name, object) in services {
        // A name for something outside is no Service of the mesh: it passes, and DNS resolves it.
        if service::is_external_name(object) {
            continue;
        }
        if !hostname::is_valid(&service::host(name)) {
            let text = "metadata: its name makes no hostname, so that no app can ask for it";
            let subject = Subject::new("Service", &object.metadata);
            build.verdicts.note(&subject, ACCEPTED, Problem::new("Invalid", text));
            continue;
        }
        for (number, port) in service::ports(object) {
            build.clusters.insert((name.clone(), number));
            let mut domains = domains(name, number, namespace);
            domains.retain(|domain| taken.insert(domain.clone()));
            if domains.is_empty() {
                continue;
            }
            let mut wire_routes =
                routes.of(name, number).unwrap_or_else(|| vec![default_route(build, name, number, port)]);
            // A tunnel cannot be routed by what is said inside of it: it goes where it would have gone without the mesh.
            wire_routes.push(connect_route());
            let mut each = host(domains, wire_routes);
            each.name = format!("{}:{number}", service::host(name));
            hosts.push(each);
        }
    }
    hosts
}

/// Every name under which an app may ask for a Service's port; port 80 is also asked for without a port.
fn domains(name: &Name, number: u16, own_namespace: &str) -> Vec<String> {
    let full = service::host(name);
    let mut hosts = vec![
        full,
        format!("{}.{}.svc", name.name, name.namespace),
        format!("{}.{}", name.name, name.namespace),
    ];
    if name.namespace == own_namespace {
        hosts.push(name.name.clone());
    }
    let with_port: Vec<String> = hosts.iter().map(|host| format!("{host}:{number}")).collect();
    if number == 80 { hosts.into_iter().chain(with_port).collect() } else { with_port }
}

/// Where a Service's requests go that no HTTPRoute or GRPCRoute claims. They have no time bound: nobody asked for one, and
/// a long download must not break because a sidecar was put in between.
fn default_route(build: &Build<'_>, name: &Name, number: u16, port: &ServicePort) -> WireRoute {
    let mut action =
        to_cluster(&service::cluster_name(name, number), Some(retry::by_default(build.foreign, None)));
    action.cluster_not_found_response_code = ClusterNotFoundResponseCode::InternalServerError.into();
    let mut route = everything(&format!("Service/{name}/{number}"), action);
    route.metadata = wire::metadata([
        ("kind", "Service".to_owned()),
        ("namespace", name.namespace.clone()),
        ("name", name.name.clone()),
        ("rule", number.to_string()),
        ("generation", mesh::generation(build, name).to_string()),
    ]);
    if let Some(limit) = build.world.policies.service_limit(name, port.name.as_deref()) {
        let limit =
            limit.to_wire(&format!("Service/{name}/{number}"), build.world.speaks_h2(name, number, port));
        route.typed_per_filter_config.insert(RATE_LIMIT_FILTER.to_owned(), to_any(&limit));
    }
    route
}

/// The last virtual host: what the mesh does not know passes untouched (D14).
fn passthrough_host() -> VirtualHost {
    let forward = everything("passthrough", to_cluster(cluster::PASSTHROUGH, None));
    host(vec!["*".to_owned()], vec![connect_route(), forward])
}

/// CONNECT: the tunnel ends here, and its bytes go to the host that the request names.
fn connect_route() -> WireRoute {
    let action = RouteAction {
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "CONNECT".to_owned(),
            connect_config: Some(ConnectConfig::default()),
            ..UpgradeConfig::default()
        }],
        ..to_cluster(cluster::PASSTHROUGH, None)
    };
    route("connect", PathSpecifier::ConnectMatcher(ConnectMatcher {}), action)
}

fn everything(name: &str, action: RouteAction) -> WireRoute {
    route(name, PathSpecifier::Prefix("/".to_owned()), action)
}

fn route(name: &str, path: PathSpecifier, action: RouteAction) -> WireRoute {
    WireRoute {
        name: name.to_owned(),
        r#match: Some(RouteMatch { path_specifier: Some(path), ..RouteMatch::default() }),
        action: Some(Action::Route(action)),
        ..WireRoute::default()
    }
}

fn to_cluster(name: &str, retry_policy: Option<RetryPolicy>) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.to_owned())),
        timeout: Some(wire::duration(std::time::Duration::ZERO)),
        retry_policy,
        ..RouteAction::default()
    }
}
