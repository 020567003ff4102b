//! The rotation of the root, without IO: time, what proxies confirmed and which leaves live go in; what to do comes out.
//!
//! `Stable` → `Distributing` (everybody is told to trust the new root, too) → `Signing` (leaves come from the new root) → `Retiring`
//! (everybody is told to forget the old one) → `Stable`. Between two of them stands a gate that waits without limit and names whom
//! it waits for. Whatever is not known counts against going on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ledger::{LiveLeaf, SKEW};

mod gate;
mod without;

pub use gate::Waiting;

/// How careful a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a gate must be clear without a break before it opens, in seconds: a proxy between two connections is not overlooked.
    pub hold: u64,
    /// How long a leaf counts as in use after its holder got another one, in seconds.
    pub grace: u64,
    /// Whether proxies that are not connected are waited for until their leaves expire.
    pub wait_for_absent: bool,
    /// How long a leaf lives at most, in seconds.
    pub leaf_life: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { hold: 10, grace: 60, wait_for_absent: true, leaf_life: super::options::LEAF_TTL.as_secs() }
    }
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// One root, trusted and signing.
    Stable,
    /// Two roots are trusted, the old one signs.
    Distributing,
    /// Two roots are trusted, the new one signs.
    Signing,
    /// The old root is no longer trusted.
    Retiring,
}

/// A proxy as the ADS service sees it: what it has confirmed of the roots that it was told to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its node id.
    pub proxy: String,
    /// For people: `sidecar shop/web-1`.
    pub title: String,
    /// Who it has proven to be.
    pub identity: String,
    /// For how many seconds it has been connected.
    pub connected: u64,
    /// What it confirmed.
    pub roots: Roots,
}

/// What a proxy says of the roots that it was told to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// It did not ask for any.
    NotAsked,
    /// It was told, or will be, and has not confirmed.
    Unconfirmed,
    /// It refuses what it was told.
    Refused(String),
    /// It trusts exactly these: fingerprints (SHA-256 of the certificate).
    Confirmed(BTreeSet<String>),
}

/// A rotation as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// How far it is.
    pub phase: Phase,
    /// The root in force; the old one while there are two.
    pub current: String,
    /// The root that comes, if one does.
    pub next: Option<String>,
    /// When the phase began, in seconds since 1970.
    pub since: u64,
    /// Proxies that were connected within the life of a leaf.
    #[serde(default)]
    seen: BTreeMap<String, Seen>,
    /// Until when proxies may exist that there was no room to remember.
    #[serde(default)]
    overlooked_until: u64,
    /// The same of single identities, which had too many.
    #[serde(default)]
    overlooked: BTreeMap<String, u64>,
    /// Leaves from up to then are counted against the proxies that are known.
    #[serde(default)]
    baseline: u64,
    /// Proxies that its gates do not wait for, by what they are remembered by.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    without: BTreeSet<String>,
    /// Identities for whose leaves its gates do not wait, if they are not from after this moment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    without_leaves: BTreeMap<String, u64>,
    /// Since when the gate has been clear; not kept, so that it must hold again after a restart.
    #[serde(skip)]
    clear_since: Option<u64>,
}

/// A proxy that was connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    title: String,
    identity: String,
    /// When it was last connected.
    last: u64,
    /// Whether it has confirmed that it trusts the new root.
    confirmed: bool,
}

/// What has to be done, after the rotation was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell everybody whom to trust now, and sign with [`Rotation::signs`].
    Publish,
    /// Destroy this root's key: nothing was signed with it.
    Drop(String),
    /// Destroy this root's key: nothing will be signed with it again, and it does not come back.
    Retire(String),
}

/// Why a command is refused; for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One at a time.
    #[error(
        "a rotation is under way already ({0:?}): wait for it, or cancel it before it signs with the new root"
    )]
    UnderWay(Phase),
    /// There is none.
    #[error("no rotation is under way")]
    None,
    /// It is too late to go back.
    #[error("leaves are signed by the new root already ({0:?}): it can only go on")]
    TooLate(Phase),
    /// The same root again.
    #[error("this root is the one in force")]
    Same,
    /// Nobody waits for it.
    #[error("{name} is not waited for in this step; waited for are: {waiting}")]
    NotWaited {
        /// The name that was given.
        name: String,
        /// Who is waited for.
        waiting: String,
    },
    /// The name is that of several.
    #[error("{many} proxies that are waited for are called {name}: name one by its node id: {nodes}")]
    Ambiguous {
        /// The name that was given.
        name: String,
        /// How many are called so.
        many: usize,
        /// Their node ids.
        nodes: String,
    },
}

impl Rotation {
    /// No rotation, with one root.
    pub fn stable(current: String, now: u64) -> Self {
        Self {
            phase: Phase::Stable,
            current,
            next: None,
            since: now,
            seen: BTreeMap::new(),
            overlooked_until: 0,
            overlooked: BTreeMap::new(),
            baseline: now,
            without: BTreeSet::new(),
            without_leaves: BTreeMap::new(),
            clear_since: None,
        }
    }

    /// Goes on after a restart. What was seen last may not have been kept, so that everybody has to be accounted for again: whoever was
    /// away may have come back, got another certificate, and gone again unwritten, so that it counts as seen now.
    #[must_use]
    pub fn resumed(mut self, now: u64) -> Self {
        self.baseline = now;
        self.clear_since = None;
        // An earlier version remembered a proxy by its node id alone.
        let seen = std::mem::take(&mut self.seen).into_iter();
        let whole = |(name, seen): (String, Seen)| {
            let seen = Seen { last: seen.last.max(now), ..seen };
            let name = if name.contains(SEPARATOR) { name } else { key(&seen.identity, &seen.title, &name) };
            (name, seen)
        };
        self.seen = seen.map(whole).collect();
        self
    }

    /// The root that signs leaves.
    pub fn signs(&self) -> &str {
        match (self.phase, &self.next) {
            (Phase::Signing | Phase::Retiring, Some(next)) => next,
            _ => &self.current,
        }
    }

    /// The root that signs the control plane's own certificate: the old one for as long as it is trusted, because a proxy's
    /// bootstrap is renewed by others than us.
    pub fn signs_own(&self) -> &str {
        match (self.phase, &self.next) {
            (Phase::Retiring, Some(next)) => next,
            _ => &self.current,
        }
    }

    /// The roots that are trusted, the one that signs first.
    pub fn trusted(&self) -> Vec<&str> {
        let current = self.current.as_str();
        match (self.phase, self.next.as_deref()) {
            (Phase::Distributing, Some(next)) => vec![current, next],
            (Phase::Signing, Some(next)) => vec![next, current],
            (Phase::Retiring, Some(next)) => vec![next],
            _ => vec![current],
        }
    }

    /// The roots whose keys are needed.
    pub fn kept(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.current.as_str()).chain(self.next.as_deref())
    }

    /// Begins: everybody is to trust `next`, too.
    ///
    /// # Errors
    /// While another rotation is under way.
    pub fn start(&mut self, next: String, now: u64) -> Result<Vec<Action>, Refusal> {
        if self.phase != Phase::Stable {
            return Err(Refusal::UnderWay(self.phase));
        }
        if next == self.current {
            return Err(Refusal::Same);
        }
        self.seen.values_mut().for_each(|seen| seen.confirmed = false);
        self.next = Some(next);
        self.enter(Phase::Distributing, now);
        Ok(vec![Action::Publish])
    }

    /// Goes back to the old root alone, as long as nothing was signed by the new one.
    ///
    /// # Errors
    /// When there is nothing to cancel, or it is too late.
    pub fn cancel(&mut self, now: u64) -> Result<Vec<Action>, Refusal> {
        match self.phase {
            Phase::Stable => Err(Refusal::None),
            Phase::Signing | Phase::Retiring => Err(Refusal::TooLate(self.phase)),
            Phase::Distributing => {
                let dropped = self.next.take();
                self.enter(Phase::Stable, now);
                Ok(std::iter::once(Action::Publish).chain(dropped.map(Action::Drop)).collect())
            }
        }
    }

    /// Looks at the world: remembers who is connected, and goes on when the gate has been clear for long enough.
    pub fn look(&mut self, now: u64, world: &World<'_>, settings: &Settings) -> Vec<Action> {
        self.remember(now, world, settings);
        if self.phase == Phase::Stable {
            return Vec::new();
        }
        if !self.waiting(now, world, settings).is_empty() {
            self.clear_since = None;
            return Vec::new();
        }
        // A clock that was set back must not make the gate wait for the time that it lost.
        let since = *self.clear_since.get_or_insert(now);
        self.clear_since = Some(since.min(now));
        if now.saturating_sub(since) < settings.hold {
            return Vec::new();
        }
        self.go_on(now)
    }

    /// Whom the gate waits for.
    pub fn waiting(&self, now: u64, world: &World<'_>, settings: &Settings) -> Vec<Waiting> {
        let mut waiting = match self.phase {
            Phase::Stable => Vec::new(),
            Phase::Distributing => self.without_new(now, world, settings),
            Phase::Signing => self.leaves_of_old(now, world, settings),
            Phase::Retiring => self.with_old(world),
        };
        waiting.retain(|one| !self.is_left_out(one));
        waiting
    }

    /// Whether the gate is clear and only has to stay so.
    pub fn is_clear(&self) -> bool {
        self.clear_since.is_some()
    }

    fn go_on(&mut self, now: u64) -> Vec<Action> {
        match self.phase {
            Phase::Stable => Vec::new(),
            Phase::Distributing => {
                self.enter(Phase::Signing, now);
                vec![Action::Publish]
            }
            Phase::Signing => {
                self.enter(Phase::Retiring, now);
                vec![Action::Publish]
            }
            Phase::Retiring => {
                let Some(next) = self.next.take() else { return Vec::new() };
                let old = std::mem::replace(&mut self.current, next);
                self.enter(Phase::Stable, now);
                vec![Action::Publish, Action::Retire(old)]
            }
        }
    }

    fn enter(&mut self, phase: Phase, now: u64) {
        self.phase = phase;
        (self.since, self.baseline) = (now, now);
        if phase == Phase::Stable {
            // The next rotation waits for everybody again.
            self.without.clear();
            self.without_leaves.clear();
        }
        self.clear_since = None;
    }

    fn remember(&mut self, now: u64, world: &World<'_>, settings: &Settings) {
        let life = settings.leaf_life + SKEW;
        self.seen.retain(|_, seen| seen.last.saturating_add(life) > now);
        self.overlooked.retain(|_, until| *until > now);
        let mut of_identity: BTreeMap<String, usize> = BTreeMap::new();
        for seen in self.seen.values() {
            *of_identity.entry(seen.identity.clone()).or_default() += 1;
        }
        let mut unconfirmed: BTreeSet<String> = BTreeSet::new();
        for witness in world.witnesses {
            let key = witness.key();
            if !self.seen.contains_key(&key) {
                let many = of_identity.entry(witness.identity.clone()).or_default();
                if *many >= SEEN_OF_ONE {
                    self.overlooked.insert(witness.identity.clone(), now + life);
                    continue;
                }
                if self.seen.len() >= SEEN_LIMIT {
                    self.overlooked_until = now + life;
                    continue;
                }
                *many += 1;
            }
            let confirmed = match (&witness.roots, &self.next) {
                (Roots::Confirmed(roots), Some(next)) => roots.contains(next),
                _ => false,
            };
            if confirmed {
                // It lives after all.
                self.without.remove(&key);
            } else {
                unconfirmed.insert(key.clone());
            }
            // Of two streams of one proxy both have to confirm.
            let confirmed = !unconfirmed.contains(&key);
            let (title, identity) = (witness.title.clone(), witness.identity.clone());
            self.seen.insert(key, Seen { title, identity, last: now, confirmed });
        }
    }
}

impl Witness {
    /// What it is remembered by. A node's id is free text, and another's can be taken; who it is and what it serves was proven.
    fn key(&self) -> String {
        key(&self.identity, &self.title, &self.proxy)
    }
}

fn key(identity: &str, title: &str, node: &str) -> String {
    format!("{identity}{SEPARATOR}{title}{SEPARATOR}{node}")
}

/// What is seen of the world at one moment.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// Proxies that are connected and have proven who they are.
    pub witnesses: &'a [Witness],
    /// Leaves that may be in use.
    pub leaves: &'a [LiveLeaf],
}

/// How many proxies are remembered, and of one identity.
const SEEN_LIMIT: usize = 50_000;
const SEEN_OF_ONE: usize = 10_000;

/// Stands in no identity, no title and no node's id.
const SEPARATOR: char = '\n';

#[cfg(test)]
mod tests;
