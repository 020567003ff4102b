//! The delta state of one ADS stream. It does no IO: requests, snapshots and the time go in, responses come out.
//!
//! Order on the wire is make before break: secrets, clusters, endpoints, listeners, routes; then what is gone, backwards,
//! once the client confirmed that nothing refers to it any longer. No step waits for ever: a client may be slow
//! (Envoy withholds the ACK of clusters while they warm), may refuse, or may never ask.

mod flight;
mod ledger;
mod rejection;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sidegate_xds::resource::ResourceType;
use tokio::time::Instant;

use crate::snapshot::{Resource, Snapshot};
use ledger::{Answer, Ledger, Target};
pub use subscription::TooManyNames;
use subscription::Wildcard;

/// One request of a client, free of the wire's form.
#[derive(Clone, Debug)]
pub struct Request {
    /// The type that it is about.
    pub kind: ResourceType,
    /// Names to add.
    pub subscribe: Vec<String>,
    /// Names to drop.
    pub unsubscribe: Vec<String>,
    /// What the client holds from an earlier stream; read in the first request for a type only.
    pub initial_versions: Vec<(String, String)>,
    /// The response that this answers, or "".
    pub nonce: String,
    /// Why that response was refused.
    pub error: Option<String>,
}

/// One response to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The type that it is about.
    pub kind: ResourceType,
    /// Pairs it with its ACK or NACK.
    pub nonce: String,
    /// The version of all resources of the type together; for people.
    pub version: Arc<str>,
    /// New and changed resources by name.
    pub resources: Vec<(String, Resource)>,
    /// Names that are gone or never were.
    pub removed: Vec<String>,
}

/// What a request led to, beyond what is to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The client refused a response, with this text.
    pub refused: Option<String>,
    /// The client confirmed that it no longer holds these names.
    pub removed: Vec<String>,
}

/// How far one type is on one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeState {
    /// The client has everything and accepted it.
    Synced,
    /// Something is to be sent or was not answered yet.
    Pending,
    /// The client refused something of what is wanted now.
    Rejected,
    /// The client did not ask for this type.
    NotRequested,
}

/// What is known of one type on one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeReport {
    /// The type.
    pub kind: ResourceType,
    /// How many resources the client confirmed to hold.
    pub resources: usize,
    /// The version last sent.
    pub sent: Option<Arc<str>>,
    /// The version last accepted as a whole.
    pub accepted: Option<Arc<str>>,
    /// How far it is.
    pub state: TypeState,
    /// Why resources are refused.
    pub error: Option<String>,
    /// Of secrets: what the client has confirmed of the one that says whom it trusts.
    pub roots: Option<Holding>,
    /// Since when the state and the versions are these.
    pub since: Instant,
}

/// What a client has confirmed of one resource that it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The version that it has confirmed and that nothing else was sent after.
    pub confirmed: Option<Arc<str>>,
    /// Why it refuses the one that it should hold.
    pub refused: Option<String>,
}

/// The delta state of one ADS stream.
#[derive(Debug)]
pub struct Stream {
    opened: Instant,
    foreign: bool,
    /// Whether the client has proven who it is, so that it may have secrets.
    secure: bool,
    snapshot: Option<Arc<Snapshot>>,
    /// One for each type, in the order of [`ResourceType::ALL`].
    ledgers: [Ledger; ResourceType::COUNT],
    /// What the node was sent on earlier streams and may still hold, for types with wildcards.
    remembered: [BTreeSet<String>; ResourceType::COUNT],
    routes_held_since: Option<Instant>,
    last_nonce: u64,
    reports: [TypeReport; ResourceType::COUNT],
}

impl Stream {
    /// A stream that has just opened. `foreign` clients get endpoints again after each change of their cluster.
    /// `remembered` holds the names that the node was sent before: after a partly refused response Envoy does not
    /// list all that it holds.
    pub fn new(now: Instant, foreign: bool, remembered: [BTreeSet<String>; ResourceType::COUNT]) -> Self {
        let blank = |kind| TypeReport {
            kind,
            resources: 0,
            sent: None,
            accepted: None,
            state: TypeState::NotRequested,
            error: None,
            roots: None,
            since: now,
        };
        Self {
            opened: now,
            foreign,
            secure: false,
            snapshot: None,
            ledgers: Default::default(),
            remembered,
            routes_held_since: None,
            last_nonce: 0,
            reports: ResourceType::ALL.map(blank),
        }
    }

    /// A stream whose client has proven who it is: it may have secrets. Any other has none, whatever its snapshot holds.
    pub fn secured(self) -> Self {
        Self { secure: true, ..self }
    }

    /// Takes a request: an acknowledgement, a change of subscriptions, or both.
    ///
    /// # Errors
    /// When the client asks for more names than a stream may hold; the stream must end.
    pub fn on_request(&mut self, request: Request) -> Result<Outcome, TooManyNames> {
        let index = request.kind as usize;
        let ledger = &mut self.ledgers[index];
        let answer = ledger.answer(&request.nonce, request.error.as_deref());
        let asked =
            ledger.subscription.ask(request.subscribe, request.unsubscribe, Wildcard::of(request.kind))?;
        if asked.first {
            ledger.begin(request.initial_versions, std::mem::take(&mut self.remembered[index]));
        }
        ledger.ask(asked);
        Ok(match answer {
            Answer::Stale => Outcome::default(),
            Answer::Accepted { removed } => {
                self.doubt_children(request.kind, &removed);
                Outcome { refused: None, removed }
            }
            Answer::Refused { text } => Outcome { refused: Some(text), removed: Vec::new() },
        })
    }

    /// With a cluster go its endpoints, with a listener its routes: the client has dropped them, and says so later.
    fn doubt_children(&mut self, kind: ResourceType, removed: &[String]) {
        let children = match kind {
            ResourceType::Cluster => ResourceType::Endpoint,
            ResourceType::Listener => ResourceType::Route,
            ResourceType::Endpoint | ResourceType::Route | ResourceType::Secret => return,
        };
        self.ledgers[children as usize].doubt(removed);
    }

    /// Takes the latest snapshot of the client's scope.
    pub fn on_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        // The second lock on the same door: translation makes secrets for secure scopes only.
        let snapshot = if self.secure || snapshot.resources.secrets.is_empty() {
            snapshot
        } else {
            Arc::new(snapshot.without_secrets())
        };
        for kind in ResourceType::ALL {
            let same = self.snapshot.as_ref().is_some_and(|old| old.version(kind) == snapshot.version(kind));
            if !same {
                self.ledgers[kind as usize].offer(snapshot.resources.of(kind));
            }
        }
        self.snapshot = Some(snapshot);
    }

    /// The next response to send, if any may be sent now. It counts as sent.
    pub fn next(&mut self, now: Instant) -> Option<Push> {
        let snapshot = Arc::clone(self.snapshot.as_ref()?);
        for kind in ResourceType::ALL {
            self.ledgers[kind as usize].refresh(snapshot.resources.of(kind), now);
        }
        for kind in ResourceType::ALL {
            if let Some(push) = self.next_addition(kind, &snapshot, now) {
                return Some(push);
            }
        }
        for kind in [ResourceType::Route, ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Secret]
        {
            if let Some(push) = self.next_removal(kind, &snapshot, now) {
                return Some(push);
            }
        }
        self.note_applied(&snapshot);
        None
    }

    /// When [`Stream::next`] must be asked again although nothing happened.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let removals = self.ledgers.iter().flat_map(|ledger| ledger.retiring.values());
        let ledgers = self.ledgers.iter().flat_map(Ledger::deadlines);
        ledgers
            .chain(removals.map(|since| *since + REMOVAL_LIMIT))
            .chain(self.routes_held_since.map(|since| since + ROUTE_HOLD_LIMIT))
            .chain([self.opened + REMOVAL_LIMIT])
            .filter(|deadline| *deadline > now)
            .min()
    }

    /// The newest generation that the client has all of: nothing is pending, nothing is refused.
    pub fn applied_generation(&self) -> u64 {
        let asked = |kind: ResourceType| self.ledgers[kind as usize].subscription.is_requested();
        if !asked(ResourceType::Cluster) || !asked(ResourceType::Listener) {
            return 0;
        }
        let counts = |ledger: &&Ledger| ledger.subscription.is_requested() || !ledger.awaited.is_empty();
        self.ledgers.iter().filter(counts).map(|ledger| ledger.applied).min().unwrap_or(0)
    }

    /// How far each type is.
    pub fn report(&mut self, now: Instant) -> &[TypeReport; ResourceType::COUNT] {
        for (ledger, report) in self.ledgers.iter().zip(&mut self.reports) {
            let state = match ledger {
                ledger if !ledger.subscription.is_requested() => TypeState::NotRequested,
                ledger if ledger.is_refusing() => TypeState::Rejected,
                ledger if ledger.is_busy() => TypeState::Pending,
                _ => TypeState::Synced,
            };
            if (state, &ledger.sent, &ledger.accepted) != (report.state, &report.sent, &report.accepted) {
                report.since = now;
            }
            report.state = state;
            report.sent.clone_from(&ledger.sent);
            report.accepted.clone_from(&ledger.accepted);
            report.resources = ledger.live_count();
            report.error = ledger.error();
            if report.kind == ResourceType::Secret {
                report.roots = ledger.holding(ROOTS);
            }
        }
        &self.reports
    }

    fn next_addition(&mut self, kind: ResourceType, snapshot: &Arc<Snapshot>, now: Instant) -> Option<Push> {
        let hold = kind == ResourceType::Route && self.routes_must_wait(snapshot, now);
        let ledger = &mut self.ledgers[kind as usize];
        match &ledger.flight {
            Some(flight) if flight.has_unsent() => return self.send_part(kind, snapshot, now),
            Some(_) => return None,
            None => {}
        }
        // A listener's removal frees its address, so it travels with (and ahead of) its successor.
        let removed: Vec<String> = match kind {
            ResourceType::Listener => ledger.retiring.keys().cloned().collect(),
            _ => Vec::new(),
        };
        let has_upserts = ledger.has_upserts() && !hold;
        if !has_upserts && !ledger.has_answers() && removed.is_empty() {
            return None;
        }
        let todo = ledger.take_todo(hold);
        ledger.start(todo, removed, target(snapshot, kind, now));
        self.send_part(kind, snapshot, now)
    }

    /// Routes that lead to new clusters wait until the client took traffic's way there: the cluster, and its
    /// endpoints. Else requests would fail for as long as that takes.
    fn routes_must_wait(&mut self, snapshot: &Snapshot, now: Instant) -> bool {
        let clusters = &self.ledgers[ResourceType::Cluster as usize];
        let endpoints = &self.ledgers[ResourceType::Endpoint as usize];
        let routes = &self.ledgers[ResourceType::Route as usize];
        if !routes.has_upserts() {
            return false;
        }
        let blocked = clusters.subscription.is_requested()
            && (clusters.lacks_new(&snapshot.resources.clusters)
                || endpoints.lacks_new(&snapshot.resources.endpoints));
        if !blocked {
            self.routes_held_since = None;
            return false;
        }
        now < *self.routes_held_since.get_or_insert(now) + ROUTE_HOLD_LIMIT
    }

    fn next_removal(&mut self, kind: ResourceType, snapshot: &Arc<Snapshot>, now: Instant) -> Option<Push> {
        let ledger = &self.ledgers[kind as usize];
        if ledger.flight.is_some() || ledger.retiring.is_empty() {
            return None;
        }
        let referrers: &[ResourceType] = match kind {
            ResourceType::Listener => &[],
            ResourceType::Route => &[ResourceType::Listener],
            ResourceType::Cluster => &[ResourceType::Listener, ResourceType::Route],
            ResourceType::Endpoint => &[ResourceType::Listener, ResourceType::Route, ResourceType::Cluster],
            ResourceType::Secret => &[ResourceType::Listener, ResourceType::Cluster],
        };
        let free = referrers.iter().all(|referrer| self.no_longer_refers(*referrer, snapshot, now));
        let due = |since: Instant| free || now >= since + REMOVAL_LIMIT;
        let removed: Vec<String> =
            ledger.retiring.iter().filter(|(_, since)| due(**since)).map(|(name, _)| name.clone()).collect();
        if removed.is_empty() {
            return None;
        }
        let ledger = &mut self.ledgers[kind as usize];
        ledger.start(ledger::Todo::default(), removed, target(snapshot, kind, now));
        self.send_part(kind, snapshot, now)
    }

    /// Whether the client confirmed the current resources of a type, so that older ones refer to nothing.
    fn no_longer_refers(&self, kind: ResourceType, snapshot: &Snapshot, now: Instant) -> bool {
        let ledger = &self.ledgers[kind as usize];
        if !ledger.subscription.is_requested() {
            // On a new stream the types are asked for one after the other; old routes may still be in use.
            return now >= self.opened + REMOVAL_LIMIT;
        }
        ledger.is_settled() && !ledger.awaits(snapshot.resources.of(kind))
    }

    fn send_part(&mut self, kind: ResourceType, snapshot: &Snapshot, now: Instant) -> Option<Push> {
        self.last_nonce += 1;
        let nonce = format!("{:x}", self.last_nonce);
        let (part, resources, version) = self.ledgers[kind as usize].send_part(&nonce, now)?;
        let bodies = resources.of(kind);
        let found = |(name, _): &(String, Arc<str>)| Some((name.clone(), bodies.get(name)?.clone()));
        let push = Push {
            kind,
            nonce,
            version,
            resources: part.upserts.iter().filter_map(found).collect(),
            removed: part.removed,
        };
        self.expect_children(&push, snapshot, now);
        Some(push)
    }

    /// A cluster asks for its endpoints, a listener for its routes, both for their secrets. Envoy does not ask again when a cluster only
    /// changed, and waits for endpoints none the less.
    fn expect_children(&mut self, push: &Push, snapshot: &Snapshot, now: Instant) {
        if push.kind == ResourceType::Cluster {
            let endpoints = &mut self.ledgers[ResourceType::Endpoint as usize];
            let with_endpoints = push
                .resources
                .iter()
                .map(|(name, _)| name)
                .filter(|name| snapshot.resources.endpoints.contains_key(*name));
            endpoints.expect(with_endpoints.cloned(), now);
            if self.foreign {
                push.resources.iter().for_each(|(name, _)| endpoints.owe(name));
            }
        }
        if matches!(push.kind, ResourceType::Cluster | ResourceType::Listener) && !push.resources.is_empty() {
            let secrets = snapshot.resources.secrets.keys().cloned();
            self.ledgers[ResourceType::Secret as usize].expect(secrets, now);
        }
        if push.kind == ResourceType::Listener && !push.resources.is_empty() {
            let routes = snapshot.resources.routes.keys().cloned();
            self.ledgers[ResourceType::Route as usize].expect(routes, now);
        }
    }

    fn note_applied(&mut self, snapshot: &Snapshot) {
        for (kind, ledger) in ResourceType::ALL.into_iter().zip(&mut self.ledgers) {
            if ledger.is_settled() && !ledger.awaits(snapshot.resources.of(kind)) {
                ledger.applied = snapshot.generation;
                ledger.sent = Some(Arc::clone(snapshot.version(kind)));
                ledger.accepted.clone_from(&ledger.sent);
            }
        }
    }
}

fn target(snapshot: &Snapshot, kind: ResourceType, now: Instant) -> Target<'_> {
    Target {
        generation: snapshot.generation,
        version: snapshot.version(kind),
        resources: &snapshot.resources,
        wanted: snapshot.resources.of(kind),
        now,
    }
}

/// After this long without an answer, a response no longer holds newer ones back.
const ACK_LIMIT: Duration = Duration::from_secs(15);

/// How long what is gone waits for its referrers to let go of it (xDS protocol, "Eventual consistency").
const REMOVAL_LIMIT: Duration = Duration::from_secs(15);

/// How long routes wait for the new clusters of the same change. As long as our clusters' fetch timeout.
const ROUTE_HOLD_LIMIT: Duration = Duration::from_secs(5);

/// How long a client is expected to ask for the endpoints of a cluster or the routes of a listener.
const AWAIT_LIMIT: Duration = Duration::from_secs(5);

/// The secret that says whom a proxy trusts.
const ROOTS: &str = "ROOTCA";
