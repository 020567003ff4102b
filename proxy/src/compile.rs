//! Resources as they arrive → the rooms' own types → a published snapshot, or named rejections. Wire types die here.
//!
//! The [`Compiler`] is the only writer of the landing. What it accepts replaces what it held under that name; what it refuses
//! is named, and the last good form stays. Structure is published as a new snapshot; endpoints swap inside their cluster.
//! It does no IO and asks no clock: the `xds` room brings both. The files that certificates are in are the exception: [`tls`] reads them.

#![allow(deprecated, reason = "control planes still send, and files still hold, older fields of Envoy's API")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use prost::{Message, Name};
use sidegate_xds::envoy::config::bootstrap::v3::Bootstrap;
use sidegate_xds::envoy::config::cluster::v3::Cluster;
use sidegate_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;
use sidegate_xds::envoy::config::listener::v3::Listener;
use sidegate_xds::envoy::config::route::v3::RouteConfiguration;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::Secret;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::{ResourceType, from_any, to_any};
use tokio::time::Instant;

use crate::error::Rejection;
use crate::settings;
use crate::snapshot::{Publisher, Snapshot};
use crate::telemetry::Metrics;
use crate::tls::Certificates;

mod access_log;
mod authz;
mod cluster;
mod clusters;
mod endpoint;
mod ext_authz;
mod extension;
mod filter;
mod header;
mod http;
mod http2;
mod ineffective;
mod jwt;
mod ledger;
mod listener;
mod patience;
mod problem;
mod route;
mod routing;
mod tcp;
mod tls;
mod update;
mod value;

pub(crate) use cluster::Dns;
pub(crate) use clusters::Resolvable;
pub(crate) use ledger::{Accepted, Entry, Ledger, Refused};
pub(crate) use update::{Outcome, Resource, Update};

use clusters::Clusters;
use problem::{Problem, fail};
use routing::Routing;
use tls::Contexts;

/// Whether somebody has been told that a field has no effect, and the first resource that has it.
#[derive(Debug)]
enum Told {
    Not(Arc<str>),
    Once,
}

/// The writer of the landing.
pub(crate) struct Compiler {
    publisher: Publisher,
    metrics: Metrics,
    ledger: Ledger,
    clusters: Clusters,
    routing: Routing,
    /// TLS contexts, and the secrets that they are made of.
    contexts: Contexts,
    /// What was accepted and has no effect, by type and field.
    ineffective: BTreeMap<(ResourceType, &'static str), Told>,
    /// What requests see has changed since the last publication.
    dirty: bool,
    /// Resources may have come that nothing refers to, or lost what referred to them.
    references_changed: bool,
}

impl Compiler {
    /// A compiler of the empty configuration.
    pub(crate) fn new(publisher: Publisher, metrics: Metrics) -> Self {
        Self {
            publisher,
            ledger: Ledger::default(),
            clusters: Clusters::new(metrics.clone()),
            metrics,
            routing: Routing::default(),
            contexts: Contexts::default(),
            ineffective: BTreeMap::new(),
            dirty: false,
            references_changed: false,
        }
    }

    /// From now on the configuration may ask for the proxy's own identity.
    pub(crate) fn has_identity(&mut self) {
        self.contexts.secrets().has_identity();
    }

    /// From now on the secret is asked for whether anything refers to it or not.
    pub(crate) fn always_want(&mut self, secret: &'static str) {
        self.contexts.always_want(secret);
    }

    /// What was accepted, for dumps and status.
    pub(crate) fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    /// Takes the bootstrap's own resources. They stay for ever: the control plane cannot change them.
    ///
    /// # Errors
    /// Every resource that was refused.
    pub(crate) fn load_static(&mut self, bootstrap: &Bootstrap, now: Instant) -> Result<(), Vec<Rejection>> {
        let mut rejections = Vec::new();
        if let Some(resources) = &bootstrap.static_resources {
            for secret in &resources.secrets {
                if let Err(problem) = self.contexts.secrets().fix(secret.clone()) {
                    let name = secret.name.clone();
                    rejections.push(Rejection { kind: "secret", name, message: problem.to_string() });
                }
            }
            for cluster in &resources.clusters {
                self.load(ResourceType::Cluster, cluster.name.as_str().into(), cluster, now, &mut rejections);
            }
            for listener in &resources.listeners {
                self.load(ResourceType::Listener, listener::name(listener), listener, now, &mut rejections);
            }
        }
        if rejections.is_empty() {
            rejections = self.cross_check(bootstrap);
        }
        self.settle(now);
        if rejections.is_empty() { Ok(()) } else { Err(rejections) }
    }

    fn load<M: Message + Name>(
        &mut self,
        kind: ResourceType,
        name: Arc<str>,
        wire: &M,
        now: Instant,
        rejections: &mut Vec<Rejection>,
    ) {
        let body = to_any(wire);
        let taken = self.ledger.is_fixed(kind, &name);
        let compiled =
            if taken { fail("its name is there twice") } else { self.compile(kind, &name, &body, now) };
        match compiled {
            Ok(()) => self.note_accepted(kind, name, String::new(), body, true),
            Err(problem) => rejections.push(rejection(kind, &name, &problem)),
        }
    }

    /// What only shows when all static resources are there: two listeners on one address, routes to clusters that no one will bring.
    fn cross_check(&self, bootstrap: &Bootstrap) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        let mut bound = BTreeMap::new();
        let dynamic = bootstrap.dynamic_resources.as_ref();
        if dynamic.is_none_or(|dynamic| dynamic.ads_config.is_none()) {
            rejections.extend(self.without_source());
        }
        let dynamic = dynamic.is_some_and(|dynamic| dynamic.cds_config.is_some());
        for plan in self.routing.accepted() {
            let name = &plan.listener.name;
            for address in
                plan.listener.addresses.iter().filter(|address| plan.listener.bind && address.port() != 0)
            {
                if let Some(other) = bound.insert(*address, name.clone()) {
                    let problem = Problem::new(format!("{address} is the address of listener {other} too"));
                    rejections.push(rejection(ResourceType::Listener, name, &problem.at("address")));
                }
            }
            let clusters = plan.routes().flat_map(|routes| match routes {
                _ if dynamic => None,
                listener::Routes::Inline(_, plan) => Some(&plan.clusters),
                listener::Routes::Opaque(clusters) => Some(clusters),
                listener::Routes::Discovered(..) => None,
            });
            let clusters: BTreeSet<_> = clusters.flatten().collect();
            let asked = plan.asked().filter(|_| !dynamic).map(|cluster| ("filters", cluster));
            let named = clusters.into_iter().map(|cluster| ("routes", cluster)).chain(asked);
            for (what, cluster) in named.filter(|(_, cluster)| !self.clusters.contains(cluster)) {
                let problem =
                    Problem::new(format!("its {what} name cluster {cluster}, which does not exist"));
                rejections.push(rejection(ResourceType::Listener, name, &problem));
            }
        }
        rejections
    }

    /// Without a control plane, what waits for resources from it would wait in vain.
    fn without_source(&self) -> Vec<Rejection> {
        let no_source = |kind, name: &str, what: &str| {
            let problem =
                Problem::new(format!("{what} come by ADS, but there is no dynamic_resources.ads_config"));
            rejection(kind, name, &problem)
        };
        let clusters = self.clusters.discovered();
        let clusters = clusters.map(|name| no_source(ResourceType::Cluster, name, "its endpoints"));
        let waits = |plan: &&listener::Plan| {
            plan.routes().any(|routes| matches!(routes, listener::Routes::Discovered(..)))
        };
        let listeners = self.routing.accepted().filter(waits);
        let listeners =
            listeners.map(|plan| no_source(ResourceType::Listener, &plan.listener.name, "its routes"));
        let secrets = self.contexts.wanted();
        let secrets = secrets.iter().map(|name| no_source(ResourceType::Secret, name, "it would"));
        clusters.chain(listeners).chain(secrets).collect()
    }

    /// What was accepted since the last call and has no effect here, one line each. A field is told of once, by the first resource that has
    /// it: control planes send many alike, again and again.
    pub(crate) fn ineffective(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for ((kind, field), told) in &mut self.ineffective {
            if let Told::Not(name) = std::mem::replace(told, Told::Once) {
                lines.push(format!("{} {name}: {field}: has no effect in this proxy", kind.noun()));
            }
        }
        lines
    }

    fn note_ineffective(&mut self, kind: ResourceType, name: &Arc<str>, fields: ineffective::Fields) {
        for field in fields {
            self.ineffective.entry((kind, field)).or_insert_with(|| Told::Not(name.clone()));
        }
    }

    /// Takes an update: the good resources are applied and published, the bad ones are named.
    pub(crate) fn apply(&mut self, update: Update, now: Instant) -> Outcome {
        let kind = update.kind;
        let parents = kind.is_wildcard();
        let known = |name: &String| self.is_referred_to(kind, name);
        self.references_changed |= parents || !update.upserts.iter().all(|resource| known(&resource.name));
        for name in &update.removals {
            self.remove(kind, name.as_str().into());
        }
        let mut rejections = Vec::new();
        let mut seen = BTreeSet::new();
        let twice: BTreeSet<String> =
            update.upserts.iter().filter(|one| !seen.insert(&one.name)).map(|one| one.name.clone()).collect();
        for name in &twice {
            // Which copy is meant? Neither is taken.
            let problem = Problem::new("is there twice in one response");
            rejections.push(rejection(kind, name, &problem));
        }
        for resource in update.upserts.into_iter().filter(|resource| !twice.contains(&resource.name)) {
            rejections.extend(self.accept(kind, resource, now));
        }
        if !rejections.is_empty() {
            self.metrics.config().rejected(rejections.len() as u64);
        }
        for line in self.ineffective() {
            tracing::warn!("{line}");
        }
        Outcome { rejections, published: self.settle(now) }
    }

    fn accept(&mut self, kind: ResourceType, resource: Resource, now: Instant) -> Option<Rejection> {
        let Resource { name, version, body } = resource;
        let name: Arc<str> = name.into();
        let compiled = if self.ledger.is_fixed(kind, &name) {
            fail("the bootstrap has one of this name, which stays")
        } else if self.ledger.confirm(kind, &name, &body, &version) {
            return None;
        } else {
            self.compile(kind, &name, &body, now)
        };
        match compiled {
            Ok(()) => {
                self.note_accepted(kind, name, version, body, false);
                None
            }
            Err(problem) => {
                let rejection = rejection(kind, &name, &problem);
                let refused = Refused { message: problem.to_string(), version, at: SystemTime::now() };
                self.ledger.refuse(kind, name, refused);
                Some(rejection)
            }
        }
    }

    fn note_accepted(&self, kind: ResourceType, name: Arc<str>, version: String, body: Any, fixed: bool) {
        let accepted = Accepted { version, body: Arc::new(body), at: SystemTime::now() };
        self.ledger.accept(kind, name, fixed, accepted);
    }

    /// Checks one resource and takes it into the live state.
    fn compile(
        &mut self,
        kind: ResourceType,
        name: &Arc<str>,
        body: &Any,
        now: Instant,
    ) -> Result<(), Problem> {
        match kind {
            ResourceType::Cluster => {
                let wire: Cluster = decode(body)?;
                named(name, &wire.name)?;
                let plan = cluster::compile(&wire, &mut self.contexts)?;
                self.dirty |= self.clusters.accept(plan, now);
                self.note_ineffective(kind, name, ineffective::of_cluster(&wire));
            }
            ResourceType::Endpoint => {
                let wire: ClusterLoadAssignment = decode(body)?;
                let assignment = endpoint::by_address(&wire)?;
                self.dirty |= self.clusters.assign(name, assignment);
            }
            ResourceType::Listener => {
                let wire: Listener = decode(body)?;
                named(name, &listener::name(&wire))?;
                let plan = listener::compile(&wire, self.routing.listener(name), &mut self.contexts, now)?;
                self.routing.accept_listener(plan, now);
                self.note_ineffective(kind, name, ineffective::of_listener(&wire));
            }
            ResourceType::Route => {
                let wire: RouteConfiguration = decode(body)?;
                named(name, &wire.name)?;
                let plan = route::compile(&wire, self.routing.table(name), now)?;
                self.routing.accept_table(name, plan, now);
                self.note_ineffective(kind, name, ineffective::of_table(&wire));
            }
            ResourceType::Secret => {
                let wire: Secret = decode(body)?;
                named(name, &wire.name)?;
                self.contexts.accept_secret(wire)?;
                self.dirty |= self.clusters.secured();
            }
        }
        Ok(())
    }

    /// Removes a resource; of an unknown name, nothing happens.
    fn remove(&mut self, kind: ResourceType, name: Arc<str>) {
        if self.ledger.is_fixed(kind, &name) {
            return;
        }
        match kind {
            ResourceType::Cluster => self.dirty |= self.clusters.remove(&name),
            ResourceType::Listener => self.dirty |= self.routing.remove_listener(&name),
            ResourceType::Endpoint => self.dirty |= self.clusters.unassign(&name),
            ResourceType::Route => self.routing.remove_table(&name),
            // What was there stays as long as something refers to it (as in Envoy).
            ResourceType::Secret => {}
        }
        // Assignments and tables live as long as something refers to them.
        if kind.is_wildcard() {
            self.ledger.remove(kind, &name);
        }
    }

    /// Takes the answers for a cluster's names.
    pub(crate) fn resolved(
        &mut self,
        cluster: &str,
        answers: &dyn Fn(&str) -> Vec<IpAddr>,
        now: Instant,
    ) -> Outcome {
        self.dirty |= self.clusters.resolve(cluster, answers);
        Outcome { rejections: Vec::new(), published: self.settle(now) }
    }

    /// Takes a secret of the proxy's own identity; `None` when it is over. It stands in no ledger, so that no dump ever has the key.
    pub(crate) fn identify(&mut self, name: &'static str, secret: Option<Secret>, now: Instant) -> Outcome {
        let mut rejections = Vec::new();
        match secret {
            None => self.contexts.withdraw_own(name),
            Some(secret) => {
                let problem = self.contexts.accept_own(secret).err();
                rejections.extend(problem.map(|problem| rejection(ResourceType::Secret, name, &problem)));
                self.dirty |= self.clusters.secured();
            }
        }
        Outcome { rejections, published: self.settle(now) }
    }

    /// Looks at the files that certificates are in. Those that have changed are in force from now on, unless something is wrong with them.
    pub(crate) fn look_at_files(&mut self) {
        self.contexts.look_at_files();
    }

    /// The certificates that contexts in use are made of.
    pub(crate) fn certificates(&self) -> Certificates {
        self.contexts.certificates()
    }

    /// Lets go on what has waited long enough. Call at [`Compiler::deadline`]; at other times nothing happens.
    pub(crate) fn expire(&mut self, now: Instant) -> Outcome {
        self.dirty |= self.clusters.expire(now);
        Outcome { rejections: Vec::new(), published: self.settle(now) }
    }

    /// When [`Compiler::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.clusters.deadline(), self.routing.deadline()].into_iter().flatten().min()
    }

    /// Names of the resources of a type that others refer to: what to subscribe to.
    pub(crate) fn wanted(&self, kind: ResourceType) -> BTreeSet<Arc<str>> {
        match kind {
            ResourceType::Endpoint => self.clusters.wanted(),
            ResourceType::Route => self.routing.wanted(),
            ResourceType::Secret => self.contexts.wanted(),
            ResourceType::Cluster | ResourceType::Listener => BTreeSet::new(),
        }
    }

    /// The clusters whose names are to be resolved.
    pub(crate) fn resolvable(&self) -> Vec<Resolvable> {
        self.clusters.resolvable()
    }

    /// Whether something surely refers to the resource.
    fn is_referred_to(&self, kind: ResourceType, name: &str) -> bool {
        match kind {
            ResourceType::Endpoint => self.clusters.is_assignment(name),
            ResourceType::Route => self.routing.has_table(name),
            ResourceType::Secret => self.contexts.wanted().contains(name),
            ResourceType::Cluster | ResourceType::Listener => true,
        }
    }

    fn forget_unwanted(&mut self) {
        self.clusters.forget_unwanted();
        self.contexts.forget_unused();
        let secrets = self.contexts.wanted();
        self.ledger.retain(ResourceType::Secret, |name| secrets.contains(name));
        let tables = self.routing.wanted();
        self.dirty |= self.routing.forget_unwanted(&tables);
        let clusters = &self.clusters;
        self.ledger.retain(ResourceType::Endpoint, |name| clusters.is_assignment(name));
        self.ledger.retain(ResourceType::Route, |name| tables.contains(name));
    }

    /// Forgets children without parents, promotes what is ready, and publishes if requests see anything else than before.
    fn settle(&mut self, now: Instant) -> bool {
        self.dirty |= self.routing.settle(&self.clusters, now);
        // New endpoints of clusters that serve already, the most frequent change by far, end here.
        if self.dirty || std::mem::take(&mut self.references_changed) {
            self.forget_unwanted();
        }
        if !std::mem::take(&mut self.dirty) {
            return false;
        }
        let published = self.publisher.publish(Snapshot {
            listeners: self.routing.serving_listeners(),
            routes: self.routing.serving_tables(),
            clusters: self.clusters.serving(),
            ..Snapshot::default()
        });
        self.metrics.config().published(published.version, SystemTime::now());
        true
    }
}

/// Checks a bootstrap's own resources as the program would at its start.
pub(crate) fn validate(bootstrap: &Bootstrap) -> (Vec<Rejection>, Vec<String>) {
    let mut compiler = Compiler::new(Publisher::new(), Metrics::new(0));
    if settings::names_identity(bootstrap.node.as_ref()) {
        compiler.has_identity();
    }
    let rejections = compiler.load_static(bootstrap, Instant::now()).err().unwrap_or_default();
    (rejections, compiler.ineffective())
}

fn decode<M: Message + Name + Default>(body: &Any) -> Result<M, Problem> {
    from_any(body).map_err(|error| Problem::new(error.to_string()))
}

/// A resource is known by one name.
fn named(name: &str, own: &str) -> Result<(), Problem> {
    match name {
        "" => fail("name is required"),
        name if name == own => Ok(()),
        _ => fail(format!("the resource inside is called {own:?}")),
    }
}

fn rejection(kind: ResourceType, name: &str, problem: &Problem) -> Rejection {
    Rejection { kind: kind.noun(), name: name.to_owned(), message: problem.to_string() }
}

#[cfg(test)]
pub(crate) mod tests;
