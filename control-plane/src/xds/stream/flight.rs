//! One response on its way to a client, in parts when it is large.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::ledger::Target;
use crate::snapshot::Resources;

/// How many bytes of resources one part carries; a single larger resource travels alone. Many gRPC clients refuse
/// messages above 4 MiB.
const PART_BYTES: usize = 1024 * 1024;

/// What a resource costs on the wire beyond its name and body: type URL, version, tags.
const RESOURCE_OVERHEAD: usize = 128;

/// One response on the wire.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    /// Names and versions.
    pub(super) upserts: Vec<(String, Arc<str>)>,
    /// Names that do not exist, or no longer.
    pub(super) removed: Vec<String>,
}

/// A response whose parts are sent without waiting for each other's ACK.
#[derive(Debug)]
pub(super) struct Flight {
    /// What the parts' bodies are taken from.
    pub(super) resources: Arc<Resources>,
    /// The generation of the snapshot.
    pub(super) generation: u64,
    /// The version of all resources of the type in the snapshot.
    pub(super) version: Arc<str>,
    /// Whether nothing is left to be sent once this has landed.
    pub(super) whole: bool,
    /// When the last part was sent.
    pub(super) since: Instant,
    unsent: VecDeque<Part>,
    in_air: Vec<(String, Part)>,
}

impl Flight {
    pub(super) fn new(
        upserts: Vec<(String, Arc<str>)>,
        removed: Vec<String>,
        whole: bool,
        target: Target<'_>,
    ) -> Self {
        Self {
            resources: Arc::clone(target.resources),
            generation: target.generation,
            version: Arc::clone(target.version),
            whole,
            since: target.now,
            unsent: divide(upserts, removed, &target),
            in_air: Vec::new(),
        }
    }

    /// The next part to send.
    pub(super) fn send(&mut self, nonce: &str, now: Instant) -> Option<Part> {
        let part = self.unsent.pop_front()?;
        self.since = now;
        self.in_air.push((nonce.to_owned(), part.clone()));
        Some(part)
    }

    /// Whether parts wait to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Takes the part that a nonce stands for, and says whether it was the last one.
    pub(super) fn land(&mut self, nonce: &str) -> Option<(Part, bool)> {
        let index = self.in_air.iter().position(|(sent, _)| sent == nonce)?;
        let (_, part) = self.in_air.remove(index);
        Some((part, self.in_air.is_empty() && self.unsent.is_empty()))
    }

    /// Gives up what was not sent yet; says whether nothing of the flight is left.
    pub(super) fn drop_unsent(&mut self) -> bool {
        self.whole &= self.unsent.is_empty();
        self.unsent.clear();
        self.in_air.is_empty()
    }

    /// Whether this very version is on its way.
    pub(super) fn carries(&self, name: &str, version: &Arc<str>) -> bool {
        let parts = self.in_air.iter().map(|(_, part)| part).chain(&self.unsent);
        parts
            .flat_map(|part| &part.upserts)
            .any(|(sent, sent_version)| sent == name && sent_version == version)
    }

    /// Whether the removal of this name is on its way.
    pub(super) fn removes(&self, name: &str) -> bool {
        self.in_air.iter().any(|(_, part)| part.removed.iter().any(|removed| removed == name))
    }
}

fn divide(upserts: Vec<(String, Arc<str>)>, removed: Vec<String>, target: &Target<'_>) -> VecDeque<Part> {
    let mut parts = VecDeque::new();
    let mut part = Part::default();
    let mut size = 0;
    let mut close_before = |part: &mut Part, next: usize| {
        if size > 0 && size + next > PART_BYTES {
            parts.push_back(std::mem::take(part));
            size = 0;
        }
        size += next;
    };
    // Removals lead: a listener's address must be free before its successor takes it.
    for name in removed {
        close_before(&mut part, name.len() + 2);
        part.removed.push(name);
    }
    for (name, version) in upserts {
        let body = target.wanted.get(&name).map_or(0, |resource| resource.body.len());
        close_before(&mut part, name.len() + body + RESOURCE_OVERHEAD);
        part.upserts.push((name, version));
    }
    parts.push_back(part);
    parts
}
