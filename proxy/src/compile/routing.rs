//! The live route tables and listeners, and which of them serve yet.
//!
//! Make before break: a listener serves once its table is there, a table once the clusters that it newly names take traffic,
//! each for a bounded time; until then the form before serves on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::clusters::Clusters;
use super::listener::{self, Routes};
use super::patience::Patience;
use super::route;
use crate::route::Table;
use crate::snapshot::Listener;

/// Every accepted route table and listener.
#[derive(Debug, Default)]
pub(crate) struct Routing {
    tables: BTreeMap<Arc<str>, Slot<route::Plan>>,
    /// Tables that were said not to exist.
    absent: BTreeSet<Arc<str>>,
    listeners: BTreeMap<Arc<str>, Slot<listener::Plan>>,
}

#[derive(Debug)]
struct Slot<P> {
    accepted: Arc<P>,
    serving: Option<Arc<P>>,
    /// How long the accepted form waits for what it needs.
    patience: Patience,
}

impl<P> Slot<P> {
    fn is_settled(&self) -> bool {
        self.serving.as_ref().is_some_and(|serving| Arc::ptr_eq(serving, &self.accepted))
    }

    fn deadline(&self) -> Option<Instant> {
        if self.is_settled() { None } else { self.patience.deadline() }
    }

    fn promote(&mut self) -> bool {
        self.serving = Some(self.accepted.clone());
        true
    }
}

impl Routing {
    /// Takes a new or changed listener.
    pub(crate) fn accept_listener(&mut self, plan: listener::Plan, now: Instant) {
        let longest = plan.routes().map(|routes| match routes {
            Routes::Discovered(_, patience) => patience.unwrap_or(Duration::MAX),
            Routes::Inline(..) | Routes::Opaque(_) => CLUSTERS,
        });
        let longest = longest.max().filter(|longest| *longest < Duration::MAX);
        let patience = Patience::from(now, longest);
        let name = plan.listener.name.clone();
        let serving = self.listeners.remove(&name).and_then(|slot| slot.serving);
        self.listeners.insert(name, Slot { accepted: Arc::new(plan), serving, patience });
    }

    /// Takes a new or changed table.
    pub(crate) fn accept_table(&mut self, name: &Arc<str>, plan: route::Plan, now: Instant) {
        let serving = self.tables.remove(name).and_then(|slot| slot.serving);
        self.absent.remove(name);
        let patience = Patience::from(now, Some(CLUSTERS));
        self.tables.insert(name.clone(), Slot { accepted: Arc::new(plan), serving, patience });
    }

    /// Removes a listener. True when it was serving.
    pub(crate) fn remove_listener(&mut self, name: &str) -> bool {
        self.listeners.remove(name).is_some_and(|slot| slot.serving.is_some())
    }

    /// A table does not exist. One that was there keeps routing while a listener refers to it (as in Envoy);
    /// listeners that wait for one that never was stop waiting.
    pub(crate) fn remove_table(&mut self, name: &Arc<str>) {
        if !self.tables.contains_key(name) {
            self.absent.insert(name.clone());
        }
    }

    /// The accepted form of a listener, for what its next form takes over.
    pub(crate) fn listener(&self, name: &str) -> Option<&listener::Plan> {
        self.listeners.get(name).map(|slot| &*slot.accepted)
    }

    /// The accepted form of a table, for what its next form takes over.
    pub(crate) fn table(&self, name: &str) -> Option<&route::Plan> {
        self.tables.get(name).map(|slot| &*slot.accepted)
    }

    /// Whether the table was accepted, so that some listener refers to it.
    pub(crate) fn has_table(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }

    /// Lets serve what has all that it waits for. True when anything changed.
    pub(crate) fn settle(&mut self, clusters: &Clusters, now: Instant) -> bool {
        let warm = |names: &BTreeSet<Arc<str>>| !names.iter().any(|name| clusters.is_warming(name));
        let mut changed = false;
        for slot in self.tables.values_mut().filter(|slot| !slot.is_settled()) {
            if warm(&slot.accepted.clusters) || slot.patience.is_over(now) {
                changed |= slot.promote();
            }
        }
        for slot in self.listeners.values_mut().filter(|slot| !slot.is_settled()) {
            let is_there = |routes: &Routes| match routes {
                Routes::Inline(_, plan) => warm(&plan.clusters),
                Routes::Opaque(names) => warm(names),
                Routes::Discovered(name, _) => {
                    let serves = self.tables.get(name).is_some_and(|slot| slot.serving.is_some());
                    serves || self.absent.contains(name)
                }
            };
            let asks_warm = !slot.accepted.asked().any(|name| clusters.is_warming(name));
            if (slot.accepted.is_secured() && asks_warm && slot.accepted.routes().all(is_there))
                || slot.patience.is_over(now)
            {
                changed |= slot.promote();
            }
        }
        changed
    }

    /// When the next listener or table will have waited long enough.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let listeners = self.listeners.values().filter_map(Slot::deadline);
        listeners.chain(self.tables.values().filter_map(Slot::deadline)).min()
    }

    /// Names of the tables that listeners refer to: those that serve, and those that are accepted.
    pub(crate) fn wanted(&self) -> BTreeSet<Arc<str>> {
        let plans = self
            .listeners
            .values()
            .flat_map(|slot| [Some(&slot.accepted), slot.serving.as_ref()].into_iter().flatten());
        let names = plans.flat_map(|plan| plan.routes()).filter_map(|routes| match routes {
            Routes::Discovered(name, _) => Some(name.clone()),
            Routes::Inline(..) | Routes::Opaque(_) => None,
        });
        names.collect()
    }

    /// Forgets tables that no listener refers to. True when one was serving.
    pub(crate) fn forget_unwanted(&mut self, wanted: &BTreeSet<Arc<str>>) -> bool {
        let before = self.tables.values().filter(|slot| slot.serving.is_some()).count();
        self.tables.retain(|name, _| wanted.contains(name));
        self.absent.retain(|name| wanted.contains(name));
        before != self.tables.values().filter(|slot| slot.serving.is_some()).count()
    }

    /// The tables that serve, inline ones under keys of their own.
    pub(crate) fn serving_tables(&self) -> FxHashMap<Arc<str>, Arc<Table>> {
        let discovered = self
            .tables
            .iter()
            .filter_map(|(name, slot)| Some((name.clone(), slot.serving.as_ref()?.table.clone())));
        let routes = self.serving_plans().flat_map(|plan| plan.routes());
        let inline = routes.filter_map(|routes| match routes {
            Routes::Inline(key, plan) => Some((key.clone(), plan.table.clone())),
            Routes::Discovered(..) | Routes::Opaque(_) => None,
        });
        discovered.chain(inline).collect()
    }

    /// The listeners that serve.
    pub(crate) fn serving_listeners(&self) -> FxHashMap<Arc<str>, Arc<Listener>> {
        self.serving_plans().map(|plan| (plan.listener.name.clone(), plan.listener.clone())).collect()
    }

    /// Accepted listeners.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = &listener::Plan> {
        self.listeners.values().map(|slot| &*slot.accepted)
    }

    fn serving_plans(&self) -> impl Iterator<Item = &Arc<listener::Plan>> {
        self.listeners.values().filter_map(|slot| slot.serving.as_ref())
    }
}

/// How long routes wait for clusters that wait for endpoints: more than those wait as a rule, so that this only bounds the
/// ones that would wait for ever.
const CLUSTERS: Duration = Duration::from_secs(15);
