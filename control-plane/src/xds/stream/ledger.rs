//! One type on one stream: what the client may hold, what is on its way, what it rejected, and what is still to be sent.
//!
//! At most one flight (one response, or the parts of a large one) is in the air; everything that changes meanwhile
//! merges into the next one, so that nothing queues up for a slow client.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::flight::{Flight, Part};
use super::rejection;
use super::subscription::{Asked, Subscription};
use super::{ACK_LIMIT, AWAIT_LIMIT, Holding};
use crate::snapshot::{Resource, Resources};

/// Resources of one type, by name.
pub(super) type Wanted = BTreeMap<String, Resource>;

/// What a client may hold under one name.
#[derive(Clone, Debug, Default)]
struct Held {
    /// The version that it confirmed; `None` while something else may be there.
    version: Option<Arc<str>>,
    /// Whether it confirmed any version since the name was last removed: the name is in use and works.
    live: bool,
}

/// A version of a resource that the client refused, and why.
#[derive(Clone, Debug)]
struct Refused {
    version: Arc<str>,
    text: String,
}

/// The state of one type on one stream.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) subscription: Subscription,
    held: BTreeMap<String, Held>,
    /// Names that must be answered even if the client is thought to hold them.
    owed: BTreeSet<String>,
    refused: BTreeMap<String, Refused>,
    /// Groups of resources that were refused together, without a word on which of them is bad.
    suspects: VecDeque<BTreeSet<String>>,
    pub(super) flight: Option<Flight>,
    /// Whether `todo` and `retiring` must be computed again.
    stale: bool,
    todo: Todo,
    /// Held names that are gone, and since when they wait for their referrers.
    pub(super) retiring: BTreeMap<String, Instant>,
    /// Names that the client will ask for because of something it was sent, and since when.
    pub(super) awaited: BTreeSet<String>,
    pub(super) awaited_since: Option<Instant>,
    /// The newest generation that the client has all of.
    pub(super) applied: u64,
    pub(super) sent: Option<Arc<str>>,
    pub(super) accepted: Option<Arc<str>>,
}

/// What is to be sent next.
#[derive(Debug, Default)]
pub(super) struct Todo {
    pub(super) upserts: Vec<(String, Arc<str>)>,
    /// Names that the client asked for and that do not exist.
    pub(super) missing: Vec<String>,
}

/// What an ACK or NACK meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// No response of this stream is waiting for it.
    Stale,
    /// Accepted; these names are gone from the client.
    Accepted { removed: Vec<String> },
    /// Refused, with what the client says.
    Refused { text: String },
}

impl Ledger {
    /// Takes what the first request of a stream declares as held, and what is remembered of the node's last stream.
    pub(super) fn begin(&mut self, declared: Vec<(String, String)>, remembered: BTreeSet<String>) {
        for name in remembered {
            if self.subscription.covers(&name) {
                self.held.insert(name, Held::default());
            }
        }
        for (name, version) in declared {
            if self.subscription.covers(&name) {
                self.held.insert(name, Held { version: Some(version.into()), live: true });
            }
        }
    }

    /// Takes the changes of a subscription.
    pub(super) fn ask(&mut self, asked: Asked) {
        let changed =
            asked.first || asked.lost_wildcard || !asked.owed.is_empty() || !asked.dropped.is_empty();
        self.stale |= changed;
        for name in &asked.dropped {
            self.forget(name);
        }
        if asked.lost_wildcard {
            self.held.retain(|name, _| self.subscription.covers(name));
            self.owed.retain(|name| self.subscription.covers(name));
            self.retiring.retain(|name, _| self.subscription.covers(name));
            self.refused.retain(|name, _| self.subscription.covers(name));
        }
        self.owed.extend(asked.owed);
    }

    fn forget(&mut self, name: &str) {
        self.held.remove(name);
        self.owed.remove(name);
        self.retiring.remove(name);
        self.refused.remove(name);
        self.awaited.remove(name);
    }

    /// Makes a name answered again although it did not change.
    pub(super) fn owe(&mut self, name: &str) {
        if self.subscription.covers(name) {
            self.owed.insert(name.to_owned());
            self.stale = true;
        }
    }

    /// Notes that the client may have dropped these names by itself.
    pub(super) fn doubt(&mut self, names: &[String]) {
        for name in names {
            if let Some(held) = self.held.get_mut(name) {
                *held = Held::default();
            }
        }
    }

    /// Notes that the wanted resources changed: what was not sent yet is dropped in favour of the newer ones.
    pub(super) fn offer(&mut self, wanted: &Wanted) {
        self.stale = true;
        self.refused
            .retain(|name, refused| wanted.get(name).is_some_and(|new| new.version == refused.version));
        if self.flight.as_mut().is_some_and(Flight::drop_unsent) {
            self.flight = None;
        }
    }

    /// Computes what is to be sent, if it may have changed and a response may be sent now.
    pub(super) fn refresh(&mut self, wanted: &Wanted, now: Instant) {
        if self.awaited_since.is_some_and(|since| now >= since + AWAIT_LIMIT) {
            self.stop_awaiting();
        }
        let overdue = self.flight.as_ref().is_some_and(|flight| now >= flight.since + ACK_LIMIT);
        if !self.stale || (self.flight.is_some() && !overdue) {
            return;
        }
        self.stale = false;
        self.find_upserts(wanted);
        self.find_removals(wanted, now);
        if let Some(flight) = &self.flight {
            // No answer for long. Sending the same again would not help; something newer might.
            let same = self.todo.upserts.iter().all(|(name, version)| flight.carries(name, version))
                && self.todo.missing.is_empty()
                && self.retiring.keys().all(|name| flight.removes(name));
            if same {
                self.todo = Todo::default();
                self.retiring.clear();
                return;
            }
            self.flight = None;
        }
        self.prune_suspects();
    }

    fn prune_suspects(&mut self) {
        if self.suspects.is_empty() {
            return;
        }
        let due: BTreeSet<&str> = self.todo.upserts.iter().map(|(name, _)| name.as_str()).collect();
        for group in &mut self.suspects {
            group.retain(|name| due.contains(name.as_str()));
        }
        self.suspects.retain(|group| !group.is_empty());
    }

    fn find_upserts(&mut self, wanted: &Wanted) {
        let mut todo = Todo::default();
        let mut consider = |name: &String, resource: &Resource| {
            let due =
                self.owed.contains(name) || (!self.has(name, resource) && !self.refuses(name, resource));
            if due {
                todo.upserts.push((name.clone(), Arc::clone(&resource.version)));
            }
        };
        if self.subscription.is_wildcard() {
            wanted.iter().for_each(|(name, resource)| consider(name, resource));
        } else {
            let found = self.subscription.names().iter().filter_map(|name| wanted.get_key_value(name));
            found.for_each(|(name, resource)| consider(name, resource));
        }
        todo.missing = self
            .owed
            .iter()
            .filter(|name| !wanted.contains_key(*name) && !self.held.contains_key(*name))
            .cloned()
            .collect();
        self.todo = todo;
    }

    fn find_removals(&mut self, wanted: &Wanted, now: Instant) {
        let mut retiring = std::mem::take(&mut self.retiring);
        retiring.retain(|name, _| self.held.contains_key(name) && !wanted.contains_key(name));
        for name in self.held.keys().filter(|name| !wanted.contains_key(*name)) {
            retiring.entry(name.clone()).or_insert(now);
        }
        self.retiring = retiring;
    }

    fn has(&self, name: &str, resource: &Resource) -> bool {
        self.held.get(name).is_some_and(|held| held.version.as_ref() == Some(&resource.version))
    }

    fn refuses(&self, name: &str, resource: &Resource) -> bool {
        self.refused.get(name).is_some_and(|refused| refused.version == resource.version)
    }

    /// Whether resources wait to be sent.
    pub(super) fn has_upserts(&self) -> bool {
        !self.todo.upserts.is_empty()
    }

    /// Whether names wait to be answered with "does not exist".
    pub(super) fn has_answers(&self) -> bool {
        !self.todo.missing.is_empty()
    }

    /// What may go out next: one group of suspects alone, else everything; `only_answers` holds the upserts back.
    pub(super) fn take_todo(&mut self, only_answers: bool) -> Todo {
        if only_answers {
            return Todo { upserts: Vec::new(), missing: std::mem::take(&mut self.todo.missing) };
        }
        while let Some(group) = self.suspects.pop_front() {
            let (chosen, rest): (Vec<_>, Vec<_>) =
                self.todo.upserts.drain(..).partition(|(name, _)| group.contains(name));
            self.todo.upserts = rest;
            if !chosen.is_empty() {
                return Todo { upserts: chosen, missing: std::mem::take(&mut self.todo.missing) };
            }
        }
        std::mem::take(&mut self.todo)
    }

    /// Puts a flight in the air; its parts leave one by one.
    pub(super) fn start(&mut self, todo: Todo, removed: Vec<String>, target: Target<'_>) {
        for name in &removed {
            self.retiring.remove(name);
        }
        let upserts = todo.upserts;
        let removed = removed.into_iter().chain(todo.missing).collect();
        let whole = self.todo.upserts.is_empty()
            && self.todo.missing.is_empty()
            && self.retiring.is_empty()
            && self.suspects.is_empty()
            && self.refused.is_empty();
        self.flight = Some(Flight::new(upserts, removed, whole, target));
        self.sent = self.flight.as_ref().map(|flight| Arc::clone(&flight.version));
    }

    /// The next part that is to be sent; from here on the client may hold it.
    pub(super) fn send_part(
        &mut self,
        nonce: &str,
        now: Instant,
    ) -> Option<(Part, Arc<Resources>, Arc<str>)> {
        let flight = self.flight.as_mut()?;
        let part = flight.send(nonce, now)?;
        for (name, _) in &part.upserts {
            self.owed.remove(name);
            self.held.entry(name.clone()).or_default().version = None;
        }
        for name in &part.removed {
            self.owed.remove(name);
            if let Some(held) = self.held.get_mut(name) {
                *held = Held::default();
            }
        }
        Some((part, Arc::clone(&flight.resources), Arc::clone(&flight.version)))
    }

    /// Takes an ACK or a NACK.
    pub(super) fn answer(&mut self, nonce: &str, error: Option<&str>) -> Answer {
        let Some((part, landed)) = self.flight.as_mut().and_then(|flight| flight.land(nonce)) else {
            return Answer::Stale;
        };
        let answer = match error {
            None => self.accept(part),
            Some(text) => self.refuse(part, text),
        };
        if landed {
            let flight = self.flight.take().filter(|flight| flight.whole && self.refused.is_empty());
            if let Some(flight) = flight.filter(|_| self.suspects.is_empty() && self.awaited.is_empty()) {
                self.applied = self.applied.max(flight.generation);
                self.accepted = Some(flight.version);
            }
        }
        answer
    }

    fn accept(&mut self, part: Part) -> Answer {
        for (name, version) in part.upserts {
            self.awaited.remove(&name);
            self.refused.remove(&name);
            if self.subscription.covers(&name) {
                self.held.insert(name, Held { version: Some(version), live: true });
            }
        }
        for name in &part.removed {
            self.refused.remove(name);
            // A name that came back meanwhile is found by the next refresh: it is not held.
            self.held.remove(name);
        }
        if self.awaited.is_empty() {
            self.awaited_since = None;
        }
        Answer::Accepted { removed: part.removed }
    }

    /// Which of the part's resources are bad? Those that the text names. When it names none, halves are sent
    /// until the bad ones stand alone: each is sent again a logarithmic number of times, never in a loop.
    fn refuse(&mut self, part: Part, text: &str) -> Answer {
        self.stale = true;
        if part.upserts.is_empty() {
            // Nobody can refuse to lose something: take it as gone rather than send it again.
            part.removed.iter().for_each(|name| self.forget(name));
            return Answer::Refused { text: rejection::shorten(text) };
        }
        let named = if let [(name, _)] = part.upserts.as_slice() {
            vec![(name.as_str(), rejection::shorten(text))]
        } else {
            rejection::named(text, part.upserts.iter().map(|(name, _)| name.as_str()))
        };
        let bad: BTreeSet<&str> = named.iter().map(|(name, _)| *name).collect();
        let mut rest: Vec<String> = part
            .upserts
            .iter()
            .map(|(name, _)| name)
            .filter(|name| !bad.contains(name.as_str()))
            .cloned()
            .collect();
        if bad.is_empty() {
            let half = rest.split_off(rest.len() / 2);
            self.suspects.push_back(half.into_iter().collect());
        }
        if !rest.is_empty() {
            self.suspects.push_front(rest.into_iter().collect());
        }
        for (name, text) in named {
            self.awaited.remove(name);
            let version =
                part.upserts.iter().find(|(sent, _)| sent == name).map(|(_, version)| Arc::clone(version));
            if let Some(version) = version {
                self.refused.insert(name.to_owned(), Refused { version, text });
            }
        }
        Answer::Refused { text: rejection::shorten(text) }
    }

    /// Notes names that the client is going to ask for.
    pub(super) fn expect(&mut self, names: impl Iterator<Item = String>, now: Instant) {
        let before = self.awaited.len();
        self.awaited.extend(names.filter(|name| !self.held.get(name).is_some_and(|held| held.live)));
        if self.awaited.len() > before {
            self.awaited_since = Some(now);
        }
    }

    fn stop_awaiting(&mut self) {
        self.awaited.clear();
        self.awaited_since = None;
    }

    /// Whether something wanted that the client asked for, or is about to ask for, was neither confirmed nor refused.
    pub(super) fn lacks_new(&self, wanted: &Wanted) -> bool {
        wanted.iter().any(|(name, resource)| {
            (self.subscription.covers(name) || self.awaited.contains(name))
                && !self.held.get(name).is_some_and(|held| held.live)
                && !self.refuses(name, resource)
        })
    }

    /// Whether the client is about to ask for something wanted.
    pub(super) fn awaits(&self, wanted: &Wanted) -> bool {
        self.awaited.iter().any(|name| wanted.contains_key(name))
    }

    /// Whether the client has everything, confirmed. True only right after a [`Ledger::refresh`].
    pub(super) fn is_settled(&self) -> bool {
        self.subscription.is_requested() && !self.is_busy() && !self.is_refusing()
    }

    /// Whether anything is to be sent or on its way.
    pub(super) fn is_busy(&self) -> bool {
        self.stale
            || self.flight.is_some()
            || !self.todo.upserts.is_empty()
            || !self.todo.missing.is_empty()
            || !self.retiring.is_empty()
    }

    /// Whether something of what is wanted now was refused.
    pub(super) fn is_refusing(&self) -> bool {
        !self.refused.is_empty() || !self.suspects.is_empty()
    }

    /// When this type must be looked at again although nothing happens.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let unanswered = self.flight.as_ref().filter(|_| self.stale).map(|flight| flight.since + ACK_LIMIT);
        unanswered.into_iter().chain(self.awaited_since.map(|since| since + AWAIT_LIMIT))
    }

    /// What the client has confirmed of one name; nothing when it did not ask for it.
    pub(super) fn holding(&self, name: &str) -> Option<Holding> {
        let asked = self.subscription.is_requested() && self.subscription.covers(name);
        asked.then(|| Holding {
            confirmed: self.held.get(name).and_then(|held| held.version.clone()),
            refused: self.refused.get(name).map(|refused| refused.text.clone()),
        })
    }

    /// How many resources the client has confirmed.
    pub(super) fn live_count(&self) -> usize {
        self.held.values().filter(|held| held.live).count()
    }

    /// Why the client refuses what it refuses, by resource.
    pub(super) fn error(&self) -> Option<String> {
        let texts: Vec<&str> = self.refused.values().map(|refused| refused.text.as_str()).collect();
        (!texts.is_empty()).then(|| rejection::shorten(&texts.join("; ")))
    }
}

/// What a flight carries resources of.
pub(super) struct Target<'a> {
    pub(super) generation: u64,
    pub(super) version: &'a Arc<str>,
    pub(super) resources: &'a Arc<Resources>,
    pub(super) wanted: &'a Wanted,
    pub(super) now: Instant,
}
