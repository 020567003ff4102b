//! A client and a world, small enough to be obviously right.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sidegate_xds::resource::ResourceType::{self, Cluster, Endpoint, Listener, Route, Secret};
use sidegate_xds::resource::content_version;
use tokio::time::Instant;

use super::super::{Push, Request, Stream};
use crate::snapshot::{Resource, Resources, Snapshot};

/// A resource whose body is the text.
pub(super) fn resource(text: &str) -> Resource {
    Resource {
        version: content_version(text.as_bytes()).into(),
        body: Bytes::copy_from_slice(text.as_bytes()),
    }
}

/// Resources from texts: `[(type, name, body)]`.
pub(super) fn resources(texts: &[(ResourceType, &str, &str)]) -> Resources {
    let mut resources = Resources::default();
    for (kind, name, text) in texts {
        let map = match kind {
            Cluster => &mut resources.clusters,
            Endpoint => &mut resources.endpoints,
            Listener => &mut resources.listeners,
            Route => &mut resources.routes,
            Secret => &mut resources.secrets,
        };
        map.insert((*name).to_owned(), resource(text));
    }
    resources
}

/// How a client refuses a response with something bad in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Applies what is good, names what is bad.
    Partly,
    /// Applies nothing, names what is bad.
    Whole,
    /// Applies nothing, names nothing.
    Mute,
}

#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) version: String,
    pub(super) body: String,
    /// Envoy does not list what it applied out of a refused response; our own proxy does.
    listed: bool,
}

/// A client that wants all clusters and listeners, the endpoints of its clusters, the routes of its listeners, the secrets of both.
pub(super) struct Client {
    pub(super) held: [BTreeMap<String, Copy>; ResourceType::COUNT],
    asked: [BTreeSet<String>; ResourceType::COUNT],
    pub(super) inbox: VecDeque<Push>,
    pub(super) outbox: VecDeque<Request>,
    refusal: Refusal,
    foreign: bool,
    /// How often each version of a resource was refused.
    pub(super) refused: BTreeMap<(ResourceType, String, String), usize>,
}

pub(super) fn request(kind: ResourceType) -> Request {
    Request {
        kind,
        subscribe: vec![],
        unsubscribe: vec![],
        initial_versions: vec![],
        nonce: String::new(),
        error: None,
    }
}

impl Client {
    pub(super) fn new(refusal: Refusal, foreign: bool) -> Self {
        let mut client = Self {
            foreign,
            held: Default::default(),
            asked: Default::default(),
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            refusal,
            refused: BTreeMap::new(),
        };
        client.reconnect();
        client
    }

    /// A new stream: everything on the way is lost; what is held is declared.
    pub(super) fn reconnect(&mut self) {
        self.inbox.clear();
        self.outbox.clear();
        for kind in ResourceType::ALL {
            let listed = self.held[kind as usize].iter().filter(|(_, copy)| copy.listed);
            let initial_versions = listed.map(|(name, copy)| (name.clone(), copy.version.clone())).collect();
            let subscribe: Vec<String> = self.asked[kind as usize].iter().cloned().collect();
            if kind.is_wildcard() || !subscribe.is_empty() {
                self.outbox.push_back(Request { subscribe, initial_versions, ..request(kind) });
            }
        }
    }

    /// Takes one response and answers it.
    pub(super) fn step(&mut self) {
        let Some(push) = self.inbox.pop_front() else { return };
        let names: BTreeSet<&String> =
            push.resources.iter().map(|(name, _)| name).chain(&push.removed).collect();
        assert_eq!(names.len(), push.resources.len() + push.removed.len(), "a name twice in one response");
        let text = |resource: &Resource| String::from_utf8(resource.body.to_vec()).unwrap();
        let bad: Vec<&String> = push
            .resources
            .iter()
            .filter(|(_, resource)| text(resource).contains("bad"))
            .map(|(name, _)| name)
            .collect();
        let error = match self.refusal {
            _ if bad.is_empty() => None,
            Refusal::Mute => Some("I do not like it".to_owned()),
            Refusal::Partly | Refusal::Whole => {
                Some(bad.iter().map(|name| format!("{name}: is bad")).collect::<Vec<_>>().join(", "))
            }
        };
        if error.is_none() || self.refusal == Refusal::Partly {
            for (name, resource) in &push.resources {
                if !bad.contains(&name) {
                    let version = resource.version.to_string();
                    let copy =
                        Copy { version, body: text(resource), listed: error.is_none() || !self.foreign };
                    self.apply(push.kind, name, copy);
                }
            }
            push.removed.iter().for_each(|name| self.remove(push.kind, name));
        }
        for name in bad {
            let version =
                push.resources.iter().find(|(other, _)| other == name).unwrap().1.version.to_string();
            *self.refused.entry((push.kind, name.clone(), version)).or_default() += 1;
        }
        self.outbox.push_back(Request { nonce: push.nonce, error, ..request(push.kind) });
    }

    fn apply(&mut self, kind: ResourceType, name: &str, copy: Copy) {
        let asks = kind.is_wildcard() || self.asked[kind as usize].contains(name);
        if !asks {
            return;
        }
        let children = child(kind).filter(|_| !copy.body.contains("static"));
        self.held[kind as usize].insert(name.to_owned(), copy);
        self.ask_for_secrets();
        if let Some(children) = children
            && self.asked[children as usize].insert(name.to_owned())
        {
            self.outbox.push_back(Request { subscribe: vec![name.to_owned()], ..request(children) });
        }
    }

    /// Asks for the secrets that clusters and listeners need, and lets go of the others.
    fn ask_for_secrets(&mut self) {
        let users = self.held[Cluster as usize].values().chain(self.held[Listener as usize].values());
        let needed: BTreeSet<String> =
            users.flat_map(|copy| secrets(&copy.body)).map(str::to_owned).collect();
        let asked = std::mem::replace(&mut self.asked[Secret as usize], needed.clone());
        let subscribe: Vec<String> = needed.difference(&asked).cloned().collect();
        let unsubscribe: Vec<String> = asked.difference(&needed).cloned().collect();
        self.held[Secret as usize].retain(|name, _| needed.contains(name));
        if !subscribe.is_empty() || !unsubscribe.is_empty() {
            self.outbox.push_back(Request { subscribe, unsubscribe, ..request(Secret) });
        }
    }

    fn remove(&mut self, kind: ResourceType, name: &str) {
        self.held[kind as usize].remove(name);
        self.ask_for_secrets();
        if let Some(children) = child(kind)
            && self.asked[children as usize].remove(name)
        {
            self.held[children as usize].remove(name);
            self.outbox.push_back(Request { unsubscribe: vec![name.to_owned()], ..request(children) });
        }
    }

    /// The clusters that held routes lead to and that cannot take traffic.
    pub(super) fn broken_routes(&self) -> Vec<(String, String)> {
        let mut broken = Vec::new();
        for (name, copy) in &self.held[Route as usize] {
            for cluster in targets(&copy.body) {
                let ready = self.held[Cluster as usize].contains_key(cluster)
                    && self.held[Endpoint as usize].contains_key(cluster);
                if !ready {
                    broken.push((name.clone(), cluster.to_owned()));
                }
            }
        }
        broken
    }

    /// What is held, as far as it is asked for.
    pub(super) fn texts(&self, kind: ResourceType) -> BTreeMap<&str, &str> {
        self.held[kind as usize].iter().map(|(name, copy)| (name.as_str(), copy.body.as_str())).collect()
    }
}

fn child(kind: ResourceType) -> Option<ResourceType> {
    match kind {
        Cluster => Some(Endpoint),
        Listener => Some(Route),
        Endpoint | Route | Secret => None,
    }
}

/// The secrets in the body of a cluster or listener: `v3 needs:s1`.
fn secrets(body: &str) -> impl Iterator<Item = &str> {
    body.split_whitespace().filter_map(|word| word.strip_prefix("needs:"))
}

/// The clusters in a route's body: `v3 > a b`.
fn targets(body: &str) -> impl Iterator<Item = &str> {
    body.split_once('>').map(|(_, list)| list).unwrap_or_default().split_whitespace()
}

/// A client and a server with a wire between them.
pub(super) struct Wire {
    pub(super) stream: Stream,
    pub(super) client: Client,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) now: Instant,
    foreign: bool,
    /// What the server remembers of the node.
    memory: [BTreeSet<String>; ResourceType::COUNT],
}

impl Wire {
    pub(super) fn new(resources: Resources, refusal: Refusal, foreign: bool) -> Self {
        let now = Instant::now();
        let snapshot = Arc::new(Snapshot::new(1, now, resources));
        let mut wire = Self {
            stream: Stream::new(now, foreign, Default::default()).secured(),
            client: Client::new(refusal, foreign),
            snapshot,
            now,
            foreign,
            memory: Default::default(),
        };
        wire.stream.on_snapshot(Arc::clone(&wire.snapshot));
        wire
    }

    pub(super) fn publish(&mut self, resources: Resources) {
        self.snapshot = Arc::new(Snapshot::new(self.snapshot.generation + 1, self.now, resources));
        self.stream.on_snapshot(Arc::clone(&self.snapshot));
    }

    pub(super) fn reconnect(&mut self) {
        self.client.reconnect();
        self.stream = Stream::new(self.now, self.foreign, self.memory.clone()).secured();
        self.stream.on_snapshot(Arc::clone(&self.snapshot));
    }

    /// The server sends one response.
    pub(super) fn send(&mut self) -> Option<Push> {
        let push = self.stream.next(self.now)?;
        if self.foreign && push.kind.is_wildcard() {
            self.memory[push.kind as usize].extend(push.resources.iter().map(|(name, _)| name.clone()));
        }
        self.client.inbox.push_back(push.clone());
        Some(push)
    }

    /// The server takes one request.
    pub(super) fn receive(&mut self) -> bool {
        let Some(request) = self.client.outbox.pop_front() else { return false };
        let kind = request.kind;
        for name in self.stream.on_request(request).unwrap().removed {
            self.memory[kind as usize].remove(&name);
        }
        true
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Everything that can happen without time passing happens; returns what was sent.
    pub(super) fn settle(&mut self) -> Vec<Push> {
        let mut sent = Vec::new();
        for _ in 0..100_000 {
            let received = self.receive();
            let pushed = self.send();
            let idle = !received && pushed.is_none() && self.client.inbox.is_empty();
            sent.extend(pushed);
            self.client.step();
            if idle {
                return sent;
            }
        }
        panic!("the stream never comes to rest");
    }

    /// Time passes until nothing more is to come.
    pub(super) fn rest(&mut self) {
        for _ in 0..1000 {
            self.settle();
            match self.stream.deadline(self.now) {
                Some(deadline) => self.now = deadline,
                None => return,
            }
        }
        panic!("the stream always has a next deadline");
    }

    /// The client holds exactly what the server has.
    pub(super) fn assert_equal(&self) {
        for kind in ResourceType::ALL {
            let texts = self.snapshot.resources.of(kind).iter();
            let wanted: BTreeMap<&str, &str> = texts
                .map(|(name, resource)| (name.as_str(), std::str::from_utf8(&resource.body).unwrap()))
                .collect();
            assert_eq!(self.client.texts(kind), wanted, "{}", kind.noun());
        }
    }
}
