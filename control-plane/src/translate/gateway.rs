//! Everything a Gateway's proxy needs: its listeners, their route tables, and the clusters that those name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use gateway_api::experimental::gateways::{Gateway, GatewayListeners};
use sidegate_xds::envoy::config::listener::v3::FilterChainMatch;
use sidegate_xds::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use sidegate_xds::resource::{ResourceType, to_any};

use super::access::Place;
use super::attach::{self, Attachment, GatewayListener, Namespaces, Termination};
use super::canonical;
use super::context::Build;
use super::hostname::{self, ANY};
use super::listener::{self, Filters};
use super::normal::{GATEWAY_GROUP, Route, RouteKind};
use super::policy::{Limit, RATE_LIMIT_FILTER};
use super::route::{self, Compiled};
use super::verdict::{ACCEPTED, PROGRAMMED, Problem, RESOLVED_REFS, Subject};
use super::virtual_host::{self, Entry};
use super::{https, security, service, wire};
use crate::model::Name;
use crate::snapshot::Resources;

/// Protocols of listeners.
const HTTP: &str = "HTTP";
const HTTPS: &str = "HTTPS";

/// The controller that Gateways of our own name through their class.
pub const CONTROLLER: &str = "sidegate.dev/gateway-controller";

/// Translates one Gateway. Clusters are only collected here, in `build`.
pub(super) fn translate(build: &mut Build<'_>, name: &Name, resources: &mut Resources) {
    let Some(gateway) = build.world.view.gateways.get(name).map(|gateway| &**gateway) else {
        let subject = Subject::absent("Gateway", name);
        let text = "a proxy asks for this Gateway, and there is no such object";
        build.verdicts.note(&subject, ACCEPTED, Problem::new("Pending", text));
        return;
    };
    let subject = Subject::new("Gateway", &gateway.metadata);
    if let Err(problem) = check_class(build, gateway) {
        build.verdicts.note(&subject, ACCEPTED, problem);
        return;
    }
    let listeners = listeners(build, gateway, &subject, resources);
    let addresses = addresses(build, gateway, &subject);
    let routes = attach::routes_of(build.world.view, |parent| attach::is_gateway(parent, name));
    let attachments = attach::attach(build, gateway, &listeners, &routes);
    let ports: BTreeSet<u16> = listeners.iter().map(|listener| listener.port).collect();
    for port in &ports {
        let port = Port { gateway: name, number: *port, addresses: &addresses, listeners: &listeners };
        port.translate(build, &routes, &attachments, resources);
    }
    for (index, route) in routes.iter().enumerate() {
        let serves = |attachment: &&Attachment| {
            attachment.route == index && listeners[attachment.listener].termination != Termination::Withheld
        };
        if !attachments.iter().any(|attachment| serves(&attachment)) {
            route::examine(build, route);
        }
        let accepted = Problem::new("Accepted", format!("attached to Gateway {name}"));
        let resolved = Problem::new("ResolvedRefs", "all references lead somewhere");
        build.verdicts.conclude(&route.subject, &[(ACCEPTED, accepted), (RESOLVED_REFS, resolved)]);
    }
    let accepted = Problem::new("Accepted", format!("{} listeners", listeners.len()));
    if ports.is_empty() {
        build.verdicts.note(&subject, PROGRAMMED, Problem::new("Invalid", "no listener can be used"));
        build.verdicts.conclude(&subject, &[]);
    } else {
        let programmed = Problem::new("Programmed", "sent to every proxy that serves this Gateway");
        build.verdicts.conclude(&subject, &[(ACCEPTED, accepted), (PROGRAMMED, programmed)]);
    }
}

/// Whether the Gateway is ours.
fn check_class(build: &Build<'_>, gateway: &Gateway) -> Result<(), Problem> {
    let class_name = &gateway.spec.gateway_class_name;
    let Some(class) = build.world.view.gateway_classes.get(class_name) else {
        let text = format!(
            "spec.gatewayClassName: GatewayClass {class_name} does not exist; one with controllerName {CONTROLLER} makes \
             this Gateway Sidegate's"
        );
        return Err(Problem::new("Pending", text));
    };
    let controller = &class.spec.controller_name;
    if controller == CONTROLLER {
        return Ok(());
    }
    let text = format!(
        "spec.gatewayClassName: GatewayClass {class_name} belongs to controller {controller}; Sidegate's is {CONTROLLER}"
    );
    Err(Problem::new("Pending", text))
}

/// The listeners that can serve routes; what is wrong with the others is noted.
fn listeners<'a>(
    build: &mut Build<'_>,
    gateway: &'a Gateway,
    subject: &Subject,
    resources: &mut Resources,
) -> Vec<GatewayListener<'a>> {
    let mut usable = Vec::new();
    for (index, given) in gateway.spec.listeners.iter().enumerate() {
        let at = |problem: Problem| {
            let message = format!("spec.listeners[{index}] ({:?}): {}", given.name, problem.message);
            Problem { message, ..problem }
        };
        let kinds = kinds(given);
        if let Err(problem) = &kinds {
            build.verdicts.note(subject, RESOLVED_REFS, at(problem.clone()));
        }
        match usable_listener(gateway, given, kinds.unwrap_or_else(|_| known_kinds(given))) {
            Ok(listener) if given.protocol == HTTPS => {
                let (termination, notes) = https::terminate(build, gateway, given, resources);
                for (condition, problem) in notes {
                    build.verdicts.note(subject, condition, at(problem));
                }
                usable.push(GatewayListener { termination, ..listener });
            }
            Ok(listener) => usable.push(listener),
            Err(problem) => build.verdicts.note(subject, ACCEPTED, at(problem)),
        }
    }
    usable
}

fn usable_listener<'a>(
    gateway: &Gateway,
    given: &'a GatewayListeners,
    kinds: BTreeSet<RouteKind>,
) -> Result<GatewayListener<'a>, Problem> {
    if !matches!(given.protocol.as_str(), HTTP | HTTPS) {
        let text = format!("protocol {} is not supported yet; HTTP and HTTPS are", given.protocol);
        return Err(Problem::new("UnsupportedProtocol", text));
    }
    let other = if given.protocol == HTTP { HTTPS } else { HTTP };
    if gateway.spec.listeners.iter().any(|peer| peer.port == given.port && peer.protocol == other) {
        let text = format!("a listener of protocol {other} has the same port; neither is used");
        return Err(Problem::new("ProtocolConflict", text));
    }
    let port = service::port_number(given.port)
        .ok_or_else(|| Problem::new("PortUnavailable", format!("{} is not a port", given.port)))?;
    let hostname = given.hostname.as_deref().filter(|host| !host.is_empty()).map(str::to_ascii_lowercase);
    if let Some(host) = hostname.as_deref().filter(|host| !hostname::is_valid(host)) {
        return Err(Problem::new("UnsupportedValue", format!("{host:?} is not a hostname")));
    }
    let same = |other: &&GatewayListeners| {
        let other_host =
            other.hostname.as_deref().filter(|host| !host.is_empty()).map(str::to_ascii_lowercase);
        other.port == given.port && other.protocol == given.protocol && other_host == hostname
    };
    if gateway.spec.listeners.iter().filter(same).count() > 1 {
        // The Gateway API forbids to choose one of them.
        let text = "another listener has the same port and hostname; neither is used";
        return Err(Problem::new("HostnameConflict", text));
    }
    let namespaces = given.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    Ok(GatewayListener {
        name: &given.name,
        port,
        hostname: hostname.unwrap_or_else(|| ANY.to_owned()),
        kinds,
        termination: Termination::Plaintext,
        namespaces: Namespaces::new(
            namespaces.and_then(|namespaces| namespaces.from.as_ref()),
            namespaces.and_then(|namespaces| namespaces.selector.as_ref()),
        ),
    })
}

/// The kinds of routes that a listener allows; an error when it names one that does not exist here.
fn kinds(given: &GatewayListeners) -> Result<BTreeSet<RouteKind>, Problem> {
    let named = given.allowed_routes.iter().flat_map(|allowed| allowed.kinds.iter().flatten());
    let unknown = named.clone().find(|kind| route_kind(kind.group.as_deref(), &kind.kind).is_none());
    match unknown {
        Some(kind) => {
            let text = format!("allowedRoutes.kinds: routes of kind {} are not supported", kind.kind);
            Err(Problem::new("InvalidRouteKinds", text))
        }
        None => Ok(known_kinds(given)),
    }
}

fn known_kinds(given: &GatewayListeners) -> BTreeSet<RouteKind> {
    let named = given.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_ref());
    match named.filter(|named| !named.is_empty()) {
        Some(named) => {
            named.iter().filter_map(|kind| route_kind(kind.group.as_deref(), &kind.kind)).collect()
        }
        None => BTreeSet::from([RouteKind::Http, RouteKind::Grpc]),
    }
}

fn route_kind(group: Option<&str>, kind: &str) -> Option<RouteKind> {
    let kinds = [RouteKind::Http, RouteKind::Grpc].into_iter().find(|known| known.name() == kind);
    kinds.filter(|_| group.unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP)
}

/// The addresses to listen on; none means all of IPv4.
fn addresses(build: &mut Build<'_>, gateway: &Gateway, subject: &Subject) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (index, given) in gateway.spec.addresses.iter().flatten().enumerate() {
        let value = given.value.as_deref().unwrap_or("");
        let is_ip = given.r#type.as_deref().is_none_or(|kind| kind == "IPAddress");
        match value.parse::<IpAddr>() {
            Ok(address) if is_ip => {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            _ => {
                let text = format!(
                    "spec.addresses[{index}]: {value:?} is not an address of type IPAddress; it is ignored"
                );
                build.verdicts.note(subject, PROGRAMMED, Problem::new("AddressNotAssigned", text));
            }
        }
    }
    addresses
}

/// One port of the Gateway: all its listeners on that port.
struct Port<'p, 'a> {
    gateway: &'p Name,
    number: u16,
    addresses: &'p [IpAddr],
    listeners: &'p [GatewayListener<'a>],
}

impl Port<'_, '_> {
    fn translate(
        &self,
        build: &mut Build<'_>,
        routes: &[Route<'_>],
        attachments: &[Attachment],
        resources: &mut Resources,
    ) {
        let serves = |index: usize| {
            let listener = &self.listeners[index];
            listener.port == self.number && listener.termination != Termination::Withheld
        };
        let here: Vec<&Attachment> = attachments.iter().filter(|each| serves(each.listener)).collect();
        let mut compiled: BTreeMap<usize, Vec<Compiled>> = BTreeMap::new();
        for attachment in &here {
            let compile = || route::compile(build, &routes[attachment.route], Some(self.number));
            compiled.entry(attachment.route).or_insert_with(compile);
        }
        let entries: Vec<Entry<'_, '_>> = here
            .iter()
            .map(|attachment| Entry {
                listener: attachment.listener,
                domains: &attachment.domains,
                route: &routes[attachment.route],
                compiled: &compiled[&attachment.route],
            })
            .collect();
        let hosts = virtual_host::assemble(self.listeners, self.number, &entries);
        let is_plain = |listener: &&GatewayListener<'_>| listener.termination == Termination::Plaintext;
        if !self
            .listeners
            .iter()
            .filter(|listener| listener.port == self.number)
            .all(|listener| is_plain(&listener))
        {
            return self.terminate(build, hosts, resources);
        }
        let (mut filters, virtual_hosts) = self.limit(build, hosts);
        filters.access = build.world.access_at(self.place(), &mut build.verdicts);
        build.clusters.extend(build.world.asked_at(self.place()));
        let name = format!("{}/{}", self.gateway, self.number);
        let listener = listener::gateway(&name, self.addresses, self.number, filters);
        resources.listeners.insert(name.clone(), canonical::resource(ResourceType::Listener, &listener));
        add_table(name, virtual_hosts, resources);
    }

    fn place(&self) -> Place<'_> {
        Place::Gateway { name: self.gateway, port: self.number }
    }

    /// HTTPS: a chain and a table for each listener, chosen by the name that the client asks for in its handshake.
    fn terminate(&self, build: &mut Build<'_>, hosts: Vec<(usize, VirtualHost)>, resources: &mut Resources) {
        let here = |listener: &GatewayListener<'_>| listener.port == self.number;
        let mut chains = Vec::new();
        build.clusters.extend(build.world.asked_at(self.place()));
        for (index, listener) in self.listeners.iter().enumerate().filter(|(_, listener)| here(listener)) {
            let Termination::Tls(edge) = &listener.termination else { continue };
            let name = format!("{}/{}/{}", self.gateway, self.number, listener.name);
            let own = hosts.iter().filter(|(owner, _)| *owner == index);
            let mut virtual_hosts: Vec<VirtualHost> = own.map(|(_, host)| host.clone()).collect();
            let mut filters = self.limit_listener(build, index, &virtual_hosts);
            filters.access = build.world.access_at(self.place(), &mut build.verdicts);
            let others = self.listeners.iter().filter(|other| here(other) && other.name != listener.name);
            virtual_hosts
                .extend(https::misdirected(&virtual_hosts, others.map(|other| other.hostname.clone())));
            let matching = FilterChainMatch {
                transport_protocol: "tls".to_owned(),
                server_names: (listener.hostname != ANY)
                    .then(|| listener.hostname.clone())
                    .into_iter()
                    .collect(),
                ..FilterChainMatch::default()
            };
            let filter = listener::over_tls(&name, filters, edge.clients.is_some());
            chains.push(listener::chain(listener.name, matching, Some(security::edge(edge)), vec![filter]));
            add_table(name, virtual_hosts, resources);
        }
        if chains.is_empty() {
            return;
        }
        let name = format!("{}/{}", self.gateway, self.number);
        let listener = listener::terminating(&name, self.addresses, self.number, chains);
        resources.listeners.insert(name, canonical::resource(ResourceType::Listener, &listener));
    }

    /// The Gateway's own limit on one of its listeners, with a bucket of its own.
    fn limit_listener(&self, build: &Build<'_>, index: usize, hosts: &[VirtualHost]) -> Filters {
        let name = self.listeners[index].name;
        if let Some(limit) = build.world.policies.gateway_limit(self.gateway, name) {
            let place = format!("Gateway/{}/{name}", self.gateway);
            return Filters::limiting(Some(limit.to_wire(&place, false)));
        }
        let is_limited = |host: &VirtualHost| {
            host.routes.iter().any(|route| route.typed_per_filter_config.contains_key(RATE_LIMIT_FILTER))
        };
        if hosts.iter().any(is_limited) { Filters::limiting(None) } else { Filters::default() }
    }

    /// Puts the Gateway's own limits where they belong: on the whole port when all its listeners have the same one, so that
    /// it is one bucket; else on the virtual hosts of each listener.
    fn limit(&self, build: &Build<'_>, hosts: Vec<(usize, VirtualHost)>) -> (Filters, Vec<VirtualHost>) {
        let limit_of =
            |listener: usize| build.world.policies.gateway_limit(self.gateway, self.listeners[listener].name);
        let here = (0..self.listeners.len()).filter(|index| self.listeners[*index].port == self.number);
        let limits: Vec<Option<&Limit>> = here.map(limit_of).collect();
        let common = limits
            .first()
            .copied()
            .flatten()
            .filter(|first| limits.iter().all(|limit| *limit == Some(*first)));
        if let Some(limit) = common {
            let limit = limit.to_wire(&format!("Gateway/{}/{}", self.gateway, self.number), false);
            return (Filters::limiting(Some(limit)), hosts.into_iter().map(|(_, host)| host).collect());
        }
        let mut any = false;
        let mut limited = Vec::new();
        for (listener, mut host) in hosts {
            if let Some(limit) = limit_of(listener) {
                let place = format!("Gateway/{}/{}", self.gateway, self.listeners[listener].name);
                let limit = to_any(&limit.to_wire(&place, false));
                host.typed_per_filter_config = HashMap::from([(RATE_LIMIT_FILTER.to_owned(), limit)]);
                any = true;
            }
            any |=
                host.routes.iter().any(|route| route.typed_per_filter_config.contains_key(RATE_LIMIT_FILTER));
            limited.push(host);
        }
        (if any { Filters::limiting(None) } else { Filters::default() }, limited)
    }
}

/// A table by RDS, under the name of what asks for it.
fn add_table(name: String, virtual_hosts: Vec<VirtualHost>, resources: &mut Resources) {
    let table = RouteConfiguration {
        name: name.clone(),
        virtual_hosts,
        validate_clusters: wire::boolean(false),
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    };
    resources.routes.insert(name, canonical::resource(ResourceType::Route, &table));
}
