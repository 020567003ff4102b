//! The streams that are open, how far each is, and what nodes were sent before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_xds::resource::ResourceType;
use tokio::time::Instant;

use super::node::ProxyNode;
use super::stream::TypeReport;
use crate::authn::Caller;

/// How many nodes are remembered after their streams ended.
const NODE_LIMIT: usize = 4096;

/// How many names of one type are remembered of one node.
const NAME_LIMIT: usize = 20_000;

/// What is known of one stream.
#[derive(Clone, Debug)]
pub struct StreamReport {
    /// Who is at the other end.
    pub node: ProxyNode,
    /// Who has proven to be there; none on the plaintext port.
    pub caller: Option<Caller>,
    /// When the stream opened.
    pub connected: Instant,
    /// The newest generation that the proxy has all of; 0 for none.
    pub applied_generation: u64,
    /// How far each type is.
    pub types: Vec<TypeReport>,
}

/// Every open stream. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// Each stream writes its own entry, `status` reads. Locked for a map operation only, never across an await.
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    opened: u64,
    open: BTreeMap<u64, StreamReport>,
    /// By the whole node: an id is free text, and another's must not open what was remembered of its owner.
    memories: BTreeMap<ProxyNode, Memory>,
    /// The remembered nodes, the longest unheard of first.
    order: VecDeque<ProxyNode>,
}

type Memory = [BTreeSet<String>; ResourceType::COUNT];

impl Streams {
    /// The streams that are open now, the newest for each node. Two proxies with one id that serve different things are two.
    pub fn current(&self) -> Vec<StreamReport> {
        let shared = self.shared();
        let newest: BTreeMap<&ProxyNode, &StreamReport> =
            shared.open.values().map(|report| (&report.node, report)).collect();
        newest.into_values().cloned().collect()
    }

    /// How many streams are open.
    pub fn count(&self) -> usize {
        self.shared().open.len()
    }

    /// Enters a stream that has just introduced itself; it leaves when the ticket is dropped.
    pub(super) fn enter(&self, node: ProxyNode, caller: Option<Caller>, now: Instant) -> Ticket {
        let mut shared = self.shared();
        shared.opened += 1;
        let number = shared.opened;
        let report = StreamReport {
            node: node.clone(),
            caller,
            connected: now,
            applied_generation: 0,
            types: Vec::new(),
        };
        shared.open.insert(number, report);
        Ticket { streams: self.clone(), number, node }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Each entry is replaced as a whole, so a panic elsewhere does not spoil the map.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of one open stream.
#[derive(Debug)]
pub(super) struct Ticket {
    streams: Streams,
    number: u64,
    node: ProxyNode,
}

impl Ticket {
    /// Replaces what is known of the stream.
    pub(super) fn report(&self, applied_generation: u64, types: &[TypeReport]) {
        if let Some(report) = self.streams.shared().open.get_mut(&self.number) {
            report.applied_generation = applied_generation;
            report.types.clear();
            report.types.extend_from_slice(types);
        }
    }

    /// What the node was sent on earlier streams. Our own proxies list all that they hold when they reconnect.
    pub(super) fn recall(&self) -> Memory {
        if !self.node.is_foreign() {
            return Memory::default();
        }
        self.streams.shared().memories.get(&self.node).cloned().unwrap_or_default()
    }

    /// Remembers that the node may hold these names.
    pub(super) fn remember<'a>(&self, kind: ResourceType, names: impl Iterator<Item = &'a String>) {
        if !self.node.is_foreign() || !kind.is_wildcard() {
            return;
        }
        let mut shared = self.streams.shared();
        let shared = &mut *shared;
        if !shared.memories.contains_key(&self.node) {
            if shared.order.len() >= NODE_LIMIT
                && let Some(oldest) = shared.order.pop_front()
            {
                shared.memories.remove(&oldest);
            }
            shared.order.push_back(self.node.clone());
        }
        let memory = &mut shared.memories.entry(self.node.clone()).or_default()[kind as usize];
        for name in names {
            if memory.len() < NAME_LIMIT && !memory.contains(name) {
                memory.insert(name.clone());
            }
        }
    }

    /// Notes that the node no longer holds these names.
    pub(super) fn forget(&self, kind: ResourceType, names: &[String]) {
        if let Some(memory) = self.streams.shared().memories.get_mut(&self.node) {
            names.iter().for_each(|name| {
                memory[kind as usize].remove(name);
            });
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.streams.shared().open.remove(&self.number);
    }
}
