//! Which routes attach to which listeners of a Gateway, and with which hostnames.

use std::collections::{BTreeMap, BTreeSet};

use gateway_api::experimental::gateways::{
    Gateway, GatewayListenersAllowedRoutesNamespacesFrom as From_,
    GatewayListenersAllowedRoutesNamespacesSelector as Selector,
};

use super::context::Build;
use super::hostname::{self, ANY};
use super::normal::{GATEWAY_GROUP, Parent, Route, RouteKind};
use super::security::Edge;
use super::verdict::{ACCEPTED, Problem};
use crate::model::{Name, View};

/// A listener of the Gateway that can serve routes.
#[derive(Debug)]
pub(super) struct GatewayListener<'a> {
    pub(super) name: &'a str,
    pub(super) port: u16,
    /// In lower case; [`ANY`] when the listener takes every host.
    pub(super) hostname: String,
    /// Which kinds of routes may attach.
    pub(super) kinds: BTreeSet<RouteKind>,
    pub(super) namespaces: Namespaces<'a>,
    pub(super) termination: Termination,
}

/// What becomes of a listener's connections before there is HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Termination {
    /// Nothing.
    Plaintext,
    /// TLS ends there.
    Tls(Edge),
    /// TLS should end there, and cannot at this proxy: routes attach, nothing is served.
    Withheld,
}

/// From where routes may attach.
#[derive(Clone, Copy, Debug)]
pub(super) enum Namespaces<'a> {
    All,
    Same,
    Selected(&'a Selector),
    Nowhere,
}

impl<'a> Namespaces<'a> {
    /// `allowedRoutes.namespaces` with its default, `Same`.
    pub(super) fn new(from: Option<&From_>, selector: Option<&'a Selector>) -> Self {
        match (from, selector) {
            (Some(From_::All), _) => Self::All,
            (Some(From_::Selector), Some(selector)) => Self::Selected(selector),
            (Some(From_::Selector), None) => Self::Nowhere,
            (Some(From_::Same) | None, _) => Self::Same,
        }
    }

    fn admits(self, view: &View, gateway: &str, route: &str) -> bool {
        match self {
            Self::All => true,
            Self::Same => gateway == route,
            Self::Nowhere => false,
            Self::Selected(selector) => selects(selector, &namespace_labels(view, route)),
        }
    }
}

/// A route on a listener.
#[derive(Debug)]
pub(super) struct Attachment {
    /// Index into the routes.
    pub(super) route: usize,
    /// Index into the listeners.
    pub(super) listener: usize,
    /// The hosts that route and listener have in common.
    pub(super) domains: BTreeSet<String>,
}

/// The routes of the view that name the Gateway as a parent, the senior first.
pub(super) fn routes_of<'a>(view: &'a View, is_parent: impl Fn(&Parent<'_>) -> bool) -> Vec<Route<'a>> {
    let http = view.http_routes.values().map(|route| Route::from(&**route));
    let grpc = view.grpc_routes.values().map(|route| Route::from(&**route));
    let mut routes: Vec<Route<'a>> =
        http.chain(grpc).filter(|route| route.parents.iter().any(&is_parent)).collect();
    routes.sort_by(|one, other| one.seniority().cmp(&other.seniority()));
    routes
}

/// Whether a parentRef names this Gateway.
pub(super) fn is_gateway(parent: &Parent<'_>, gateway: &Name) -> bool {
    parent.group == GATEWAY_GROUP && parent.kind == "Gateway" && parent.name == *gateway
}

/// Attaches routes to listeners. Why a parentRef leads nowhere is noted on its route.
pub(super) fn attach(
    build: &mut Build<'_>,
    gateway: &Gateway,
    listeners: &[GatewayListener<'_>],
    routes: &[Route<'_>],
) -> Vec<Attachment> {
    let name = super::verdict::name_of(&gateway.metadata);
    let mut attachments: Vec<Attachment> = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        note_hostnames(build, route);
        let mut found: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for (position, parent) in
            route.parents.iter().enumerate().filter(|(_, parent)| is_gateway(parent, &name))
        {
            match admit(build.world.view, &name, listeners, route, parent) {
                Ok(admitted) => found.extend(admitted),
                Err(problem) => {
                    let message = format!("spec.parentRefs[{position}]: Gateway {name}: {}", problem.message);
                    build.verdicts.note(&route.subject, ACCEPTED, Problem { message, ..problem });
                }
            }
        }
        for (listener, domains) in found {
            if let Some(senior) = conflict(&attachments, routes, route, listener, &domains) {
                let text = format!(
                    "Gateway {name}, listener {:?}: {} {}, which is older or of a lower name, serves the same hostnames; \
                     one kind of route must serve a hostname",
                    listeners[listener].name,
                    senior.kind.name(),
                    senior.name
                );
                build.verdicts.note(&route.subject, ACCEPTED, Problem::new("Conflicted", text));
                continue;
            }
            attachments.push(Attachment { route: index, listener, domains });
        }
    }
    attachments
}

fn note_hostnames(build: &mut Build<'_>, route: &Route<'_>) {
    for host in &route.bad_hostnames {
        let text =
            format!("spec.hostnames: {host:?} is not a hostname, with or without *. in front; it is ignored");
        build.verdicts.note(&route.subject, ACCEPTED, Problem::new("UnsupportedValue", text));
    }
}

/// The listeners that a parentRef leads to, each with the common hosts; or the reason why there are none.
fn admit(
    view: &View,
    gateway: &Name,
    listeners: &[GatewayListener<'_>],
    route: &Route<'_>,
    parent: &Parent<'_>,
) -> Result<BTreeMap<usize, BTreeSet<String>>, Problem> {
    let named = listeners.iter().enumerate().filter(|(_, listener)| {
        parent.section.is_none_or(|section| section == listener.name)
            && parent.port.is_none_or(|port| port == i32::from(listener.port))
    });
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        let text = match (parent.section, parent.port) {
            (None, None) => "it has no listener that can be used".to_owned(),
            (section, port) => {
                let section = section.map(|section| format!(" called {section:?}")).unwrap_or_default();
                let port = port.map(|port| format!(" on port {port}")).unwrap_or_default();
                format!("it has no usable listener{section}{port}")
            }
        };
        return Err(Problem::new("NoMatchingParent", text));
    }
    let allowing: Vec<_> = named
        .into_iter()
        .filter(|(_, listener)| {
            listener.kinds.contains(&route.kind)
                && listener.namespaces.admits(view, &gateway.namespace, &route.name.namespace)
        })
        .collect();
    if allowing.is_empty() {
        let text = format!(
            "no listener allows a {} of namespace {}; see allowedRoutes of its listeners",
            route.kind.name(),
            route.name.namespace
        );
        return Err(Problem::new("NotAllowedByListeners", text));
    }
    let common = allowing.into_iter().map(|(index, listener)| (index, domains(listener, route)));
    let common: BTreeMap<usize, BTreeSet<String>> =
        common.filter(|(_, domains)| !domains.is_empty()).collect();
    if common.is_empty() {
        let text = format!("no listener takes any of the hostnames {}", route.hostnames.join(", "));
        return Err(Problem::new("NoMatchingListenerHostname", text));
    }
    Ok(common)
}

/// The hosts that a listener and a route have in common. A route that gave only unusable hostnames has none.
fn domains(listener: &GatewayListener<'_>, route: &Route<'_>) -> BTreeSet<String> {
    if route.hostnames.is_empty() {
        return if route.bad_hostnames.is_empty() {
            BTreeSet::from([listener.hostname.clone()])
        } else {
            BTreeSet::new()
        };
    }
    let common = route.hostnames.iter().filter_map(|host| hostname::intersect(&listener.hostname, host));
    common.map(str::to_owned).collect()
}

/// A route of the other kind that is attached already and shares a host.
fn conflict<'r, 'a>(
    attachments: &[Attachment],
    routes: &'r [Route<'a>],
    route: &Route<'_>,
    listener: usize,
    domains: &BTreeSet<String>,
) -> Option<&'r Route<'a>> {
    let others = attachments
        .iter()
        .filter(|other| other.listener == listener && routes[other.route].kind != route.kind);
    let meets = |other: &&Attachment| {
        domains
            .iter()
            .any(|host| other.domains.iter().any(|taken| hostname::intersect(host, taken).is_some()))
    };
    others.into_iter().find(meets).map(|other| &routes[other.route])
}

/// Whether hosts of this pattern belong to the listener: no listener on its port is more specific for them.
pub(super) fn owns(listeners: &[GatewayListener<'_>], listener: usize, domain: &str) -> bool {
    let port = listeners[listener].port;
    let owner = listeners
        .iter()
        .enumerate()
        .filter(|(_, other)| other.port == port && hostname::covers(&other.hostname, domain))
        .max_by_key(
            |(_, other)| if other.hostname == ANY { (0, 0) } else { hostname::specificity(&other.hostname) },
        );
    owner.map(|(index, _)| index) == Some(listener)
}

fn namespace_labels(view: &View, namespace: &str) -> BTreeMap<String, String> {
    let object = view.namespaces.get(namespace);
    let mut labels = object.and_then(|object| object.metadata.labels.clone()).unwrap_or_default();
    // The API server sets this one on every namespace; a folder of manifests need not even name the namespace.
    labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
    labels
}

fn selects(selector: &Selector, labels: &BTreeMap<String, String>) -> bool {
    let exact = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten().all(|expression| {
        let value = labels.get(&expression.key);
        let listed =
            value.is_some_and(|value| expression.values.iter().flatten().any(|listed| listed == value));
        match expression.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            // An operator that nobody knows selects nothing: it must not open a listener.
            _ => false,
        }
    });
    exact && expressions
}
