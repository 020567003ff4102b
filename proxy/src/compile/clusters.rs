//! The live clusters: accepted plans, their assignments, and which of them take traffic yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::cluster::{Dns, Plan, Source};
use super::endpoint::Assignment;
use super::patience::Patience;
use crate::cluster::{Cluster, EndpointSet, Service};
use crate::telemetry::{Metrics, ServiceName};

/// Every accepted cluster.
#[derive(Debug)]
pub(crate) struct Clusters {
    metrics: Metrics,
    slots: BTreeMap<Arc<str>, Slot>,
    /// Assignments by their own name; an absent one was said not to exist.
    assignments: BTreeMap<Arc<str>, Assigned>,
    /// Which clusters are made of an assignment.
    users: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

#[derive(Debug)]
struct Slot {
    plan: Arc<Plan>,
    /// What requests use: of this plan, or of the one before while this one is warming.
    serving: Option<Arc<Cluster>>,
    /// Set while the plan's first endpoints are awaited.
    warming: Option<Patience>,
    /// Set while the secrets of the plan's TLS are awaited.
    unsecured: Option<Patience>,
}

#[derive(Debug)]
enum Assigned {
    Known(Assignment),
    Absent,
}

/// A cluster whose names are to be resolved.
#[derive(Clone, Debug)]
pub(crate) struct Resolvable {
    /// The cluster.
    pub(crate) cluster: Arc<str>,
    /// What to resolve, and how often.
    pub(crate) dns: Arc<Dns>,
}

impl Clusters {
    /// No clusters; `metrics` makes the counters of those to come.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics, slots: BTreeMap::new(), assignments: BTreeMap::new(), users: BTreeMap::new() }
    }

    /// Takes a new or changed cluster. True when what requests see has changed.
    pub(crate) fn accept(&mut self, plan: Plan, now: Instant) -> bool {
        let plan = Arc::new(plan);
        let previous = self.detach(&plan.name);
        if let Source::Eds { name, .. } = &plan.source {
            self.users.entry(name.clone()).or_default().insert(plan.name.clone());
        }
        let waited_out =
            previous.as_ref().is_some_and(|slot| slot.warming.is_none() && same_source(&slot.plan, &plan));
        let serving = previous.and_then(|slot| slot.serving);
        let patience = match &plan.source {
            Source::Static(_) | Source::Forward | Source::Original { .. } => None,
            Source::Eds { name, .. } if self.assignments.contains_key(name) => None,
            // The same question was answered, or waited for in vain, before.
            Source::Eds { .. } | Source::Dns(_) if waited_out => None,
            Source::Eds { patience, .. } => Some(Patience::from(now, *patience)),
            Source::Dns(_) => Some(Patience::from(now, Some(super::patience::FIRST_ANSWER))),
        };
        let name = plan.name.clone();
        let unsecured = (!is_secured(&plan)).then(|| Patience::from(now, Some(SECRETS)));
        let slot = Slot { plan, serving, warming: patience, unsecured };
        let slot = self.slots.entry(name).insert_entry(slot).into_mut();
        if slot.warming.is_some() {
            return false;
        }
        slot.serve(&self.assignments, &self.metrics);
        true
    }

    /// Removes a cluster. True when requests could use it.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        self.detach(name).is_some_and(|slot| slot.serving.is_some())
    }

    fn detach(&mut self, name: &str) -> Option<Slot> {
        let slot = self.slots.remove(name)?;
        if let Source::Eds { name: assignment, .. } = &slot.plan.source
            && let Some(users) = self.users.get_mut(assignment)
        {
            users.remove(name);
            if users.is_empty() {
                self.users.remove(assignment);
            }
        }
        Some(slot)
    }

    /// Takes an assignment. True when a warming cluster takes traffic now; endpoints alone swap in place.
    pub(crate) fn assign(&mut self, name: &Arc<str>, assignment: Assignment) -> bool {
        self.assignments.insert(name.clone(), Assigned::Known(assignment));
        self.assigned(name)
    }

    /// An assignment does not exist. What was assigned before stays (as in Envoy); clusters that wait stop waiting.
    pub(crate) fn unassign(&mut self, name: &Arc<str>) -> bool {
        self.assignments.entry(name.clone()).or_insert(Assigned::Absent);
        self.assigned(name)
    }

    fn assigned(&mut self, name: &Arc<str>) -> bool {
        let mut structure = false;
        for user in self.users.get(name).into_iter().flatten() {
            if let Some(slot) = self.slots.get_mut(user) {
                structure |= slot.warming.take().is_some();
                slot.serve(&self.assignments, &self.metrics);
            }
        }
        structure
    }

    /// Takes the answers for a cluster's names: host → addresses. True when a warming cluster takes traffic now.
    pub(crate) fn resolve(&mut self, cluster: &str, answers: &dyn Fn(&str) -> Vec<IpAddr>) -> bool {
        let Some(slot) = self.slots.get_mut(cluster) else { return false };
        let Source::Dns(dns) = &slot.plan.source else { return false };
        let endpoints =
            slot.serving.as_ref().map(|serving| serving.endpoints.load_full()).unwrap_or_default();
        let assignment = dns.assignment(answers, &endpoints);
        let structure = slot.warming.take().is_some();
        slot.serve_with(&assignment, &self.metrics);
        structure
    }

    /// Secrets may have come. True when a cluster that waited for them takes traffic now.
    pub(crate) fn secured(&mut self) -> bool {
        let mut structure = false;
        for slot in self.slots.values_mut().filter(|slot| slot.unsecured.is_some()) {
            if is_secured(&slot.plan) {
                slot.unsecured = None;
                structure |= slot.warming.is_none();
                if slot.warming.is_none() {
                    slot.serve(&self.assignments, &self.metrics);
                }
            }
        }
        structure
    }

    /// Clusters that have waited long enough take traffic without endpoints. True when there was one.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let mut structure = false;
        for slot in self.slots.values_mut() {
            if slot.unsecured.as_ref().is_some_and(|patience| patience.is_over(now)) {
                tracing::warn!(
                    cluster = &*slot.plan.name,
                    "no secrets came in time; requests to the cluster fail until they do"
                );
                slot.unsecured = None;
                slot.serve(&self.assignments, &self.metrics);
                structure = true;
            }
            if slot.warming.as_ref().is_some_and(|patience| patience.is_over(now)) {
                tracing::warn!(
                    cluster = &*slot.plan.name,
                    "no endpoints came in time; the cluster starts without"
                );
                slot.warming = None;
                slot.serve(&self.assignments, &self.metrics);
                structure = true;
            }
        }
        structure
    }

    /// When the next cluster will have waited long enough.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let waits = self.slots.values().flat_map(|slot| [&slot.warming, &slot.unsecured]);
        waits.filter_map(|patience| patience.as_ref()?.deadline()).min()
    }

    /// Whether the cluster exists but takes no traffic yet.
    pub(crate) fn is_warming(&self, name: &str) -> bool {
        self.slots.get(name).is_some_and(|slot| slot.serving.is_none())
    }

    /// Whether the cluster exists.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.slots.contains_key(name)
    }

    /// The clusters that take traffic.
    pub(crate) fn serving(&self) -> FxHashMap<Arc<str>, Arc<Cluster>> {
        let serving =
            self.slots.iter().filter_map(|(name, slot)| Some((name.clone(), slot.serving.clone()?)));
        serving.collect()
    }

    /// Names of the assignments that clusters are made of.
    pub(crate) fn wanted(&self) -> BTreeSet<Arc<str>> {
        self.users.keys().cloned().collect()
    }

    /// The clusters whose endpoints come by EDS.
    pub(crate) fn discovered(&self) -> impl Iterator<Item = &str> {
        self.users.values().flatten().map(|name| &**name)
    }

    /// Whether some cluster is made of the assignment.
    pub(crate) fn is_assignment(&self, name: &str) -> bool {
        self.users.contains_key(name)
    }

    /// The clusters whose names are to be resolved.
    pub(crate) fn resolvable(&self) -> Vec<Resolvable> {
        let resolvable = self.slots.iter().filter_map(|(name, slot)| match &slot.plan.source {
            Source::Dns(dns) => Some(Resolvable { cluster: name.clone(), dns: dns.clone() }),
            _ => None,
        });
        resolvable.collect()
    }

    /// Forgets assignments that no cluster is made of.
    pub(crate) fn forget_unwanted(&mut self) {
        self.assignments.retain(|name, _| self.users.contains_key(name));
    }
}

impl Slot {
    fn serve(&mut self, assignments: &BTreeMap<Arc<str>, Assigned>, metrics: &Metrics) {
        let plan = self.plan.clone();
        match &plan.source {
            Source::Static(assignment) => self.serve_with(assignment, metrics),
            Source::Eds { name, .. } => match assignments.get(name) {
                Some(Assigned::Known(assignment)) => self.serve_with(assignment, metrics),
                Some(Assigned::Absent) | None => self.serve_as_it_is(metrics),
            },
            Source::Dns(_) => self.serve_as_it_is(metrics),
            Source::Forward | Source::Original { .. } => self.serve_with(&Assignment::empty(), metrics),
        }
    }

    /// With the endpoints that there were, or none.
    fn serve_as_it_is(&mut self, metrics: &Metrics) {
        self.renew(metrics);
        self.swap(|previous| (!previous.ready).then(|| EndpointSet::new(previous.all.clone())));
    }

    fn serve_with(&mut self, assignment: &Assignment, metrics: &Metrics) {
        self.renew(metrics);
        let locality_weighted = self.plan.balancing.locality_weighted;
        self.swap(|previous| assignment.endpoints(locality_weighted, previous));
    }

    fn swap(&self, change: impl FnOnce(&EndpointSet) -> Option<EndpointSet>) {
        if let Some(cluster) = &self.serving
            && let Some(endpoints) = change(&cluster.endpoints.load())
        {
            cluster.endpoints.store(Arc::new(endpoints));
        }
    }

    /// Makes the serving cluster one of the accepted plan. Endpoints, live counts and metrics are those of the one before.
    fn renew(&mut self, metrics: &Metrics) {
        // Without what secures it, the form before serves on (C4).
        if self.unsecured.is_some() {
            return;
        }
        let plan = &self.plan;
        let previous = self.serving.take();
        if let Some(previous) = &previous
            && is_of(previous, plan)
        {
            self.serving = Some(previous.clone());
            return;
        }
        let endpoints = previous.as_ref().map(|cluster| cluster.endpoints.load_full()).unwrap_or_default();
        let live = previous.as_ref().map(|cluster| cluster.live.clone()).unwrap_or_default();
        self.serving = Some(Arc::new(Cluster {
            name: plan.name.clone(),
            service: plan.service.clone(),
            policy: plan.policy(),
            protocol: plan.protocol,
            http2: plan.http2,
            connect_timeout: plan.connect_timeout,
            keep: plan.keep,
            discovery: plan.discovery(),
            limits: plan.limits,
            sockets: plan.sockets.clone(),
            proxy_header: plan.proxy_header,
            endpoints: ArcSwap::new(endpoints),
            live,
            // The same counters as before, while the Service behind it is the same.
            metrics: metrics.cluster(&plan.name, plan.service.as_ref().map(service_name)),
        }));
    }
}

/// How long a cluster waits for its secrets (Envoy's default for SDS).
const SECRETS: std::time::Duration = std::time::Duration::from_secs(15);

/// Whether the secrets of all its sockets have arrived.
fn is_secured(plan: &Plan) -> bool {
    plan.sockets.all().all(|security| security.context.is_ready())
}

/// Whether the cluster is what the plan says, endpoints apart.
fn is_of(cluster: &Cluster, plan: &Plan) -> bool {
    cluster.service == plan.service
        && cluster.protocol == plan.protocol
        && cluster.http2 == plan.http2
        && cluster.connect_timeout == plan.connect_timeout
        && cluster.keep == plan.keep
        && cluster.discovery == plan.discovery()
        && cluster.limits == plan.limits
        && cluster.sockets == plan.sockets
        && cluster.proxy_header == plan.proxy_header
        && std::mem::discriminant(&cluster.policy) == std::mem::discriminant(&plan.policy())
}

/// Whether both plans ask the same question for their endpoints.
fn same_source(one: &Plan, other: &Plan) -> bool {
    match (&one.source, &other.source) {
        (Source::Eds { name: one, .. }, Source::Eds { name: other, .. }) => one == other,
        (Source::Dns(one), Source::Dns(other)) => one.template.names() == other.template.names(),
        _ => false,
    }
}

fn service_name(service: &Service) -> ServiceName {
    ServiceName { namespace: service.namespace.clone(), name: service.name.clone(), port: service.port }
}

#[cfg(test)]
mod tests;
