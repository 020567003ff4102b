//! The client's half of delta ADS. It does no IO: the wish list, responses, verdicts and the time go in, requests come out.
//!
//! Two rules shape it (both are istiod's, and harmless elsewhere): an ACK or NACK carries no change of subscriptions, and what is
//! held is listed when a stream opens anew, so that the server can say what went away meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sidegate_xds::envoy::config::core::v3::Node;
use sidegate_xds::envoy::service::discovery::v3 as wire;
use sidegate_xds::google::rpc::Status;
use sidegate_xds::resource::ResourceType;
use tokio::time::Instant;

use crate::compile::{Resource, Update};
use crate::error::Rejection;

/// A request on the stream.
pub(crate) type Request = wire::DeltaDiscoveryRequest;

/// What this client asks for and holds, of every type.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    node: Node,
    /// Whether a request was sent on this stream: only the first one names the node.
    introduced: bool,
    open: bool,
    types: [Subscription; 5],
}

/// What this client asks for and holds, of one type.
#[derive(Debug)]
struct Subscription {
    kind: ResourceType,
    scope: Scope,
    /// Whether this stream has a request for the type.
    asked: bool,
    /// What the server may believe this client holds: accepted, and not removed since.
    held: BTreeMap<Arc<str>, Held>,
}

#[derive(Debug)]
enum Scope {
    /// Nothing: the bootstrap does not say that the type comes from here.
    Off,
    /// Everything that the server has for this node.
    Wildcard,
    /// What the accepted resources of other types refer to, and which of it was subscribed to on this stream.
    Names { wanted: BTreeSet<Arc<str>>, subscribed: BTreeSet<Arc<str>> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    version: String,
    /// Until when, if the server does not send it again (`ttl`).
    until: Option<Instant>,
}

/// A response that waits for its verdict.
#[derive(Debug)]
pub(crate) struct Pending {
    kind: ResourceType,
    nonce: String,
    /// Name → what to hold once it is accepted.
    offered: BTreeMap<Arc<str>, Held>,
    removed: Vec<Arc<str>>,
    malformed: Vec<Rejection>,
}

impl Subscriptions {
    /// A client that holds nothing. `clusters` and `listeners`: whether those come from the server.
    pub(crate) fn new(node: Node, clusters: bool, listeners: bool) -> Self {
        let types = ResourceType::TAKEN.map(|kind| {
            let scope = match (kind, clusters, listeners) {
                (ResourceType::Cluster, true, _) | (ResourceType::Listener, _, true) => Scope::Wildcard,
                (ResourceType::Cluster | ResourceType::Listener, _, _) => Scope::Off,
                (ResourceType::Endpoint | ResourceType::Route | ResourceType::Secret, _, _) => {
                    Scope::Names { wanted: BTreeSet::new(), subscribed: BTreeSet::new() }
                }
            };
            Subscription { kind, scope, asked: false, held: BTreeMap::new() }
        });
        Self { node, introduced: false, open: false, types }
    }

    /// A stream opens: the first requests on it. Nothing of the stream before counts any more, its nonces least of all.
    pub(crate) fn open(&mut self) -> Vec<Request> {
        self.introduced = false;
        self.open = true;
        let mut requests = Vec::new();
        for subscription in &mut self.types {
            requests.extend(subscription.open());
        }
        self.introduce(requests)
    }

    /// The stream is gone. What is held stays.
    pub(crate) fn close(&mut self) {
        self.open = false;
    }

    /// Says which resources of a by-name type are referred to now. The requests that follow from it, if a stream is open.
    pub(crate) fn want(&mut self, kind: ResourceType, names: BTreeSet<Arc<str>>) -> Vec<Request> {
        let open = self.open;
        let request = self.subscription(kind).want(names, open);
        self.introduce(request.into_iter().collect())
    }

    /// Reads a response. `None` for one that nobody asked for: dropped without ACK, as Envoy does.
    pub(crate) fn receive(
        &mut self,
        response: wire::DeltaDiscoveryResponse,
        now: Instant,
    ) -> Option<(Update, Pending)> {
        let kind = ResourceType::TAKEN.into_iter().find(|kind| kind.type_url() == response.type_url)?;
        let subscription = self.subscription(kind);
        subscription.asked.then(|| subscription.receive(response, now))
    }

    /// The verdict on a response: which of its resources were refused. The one ACK or NACK that answers it.
    pub(crate) fn answer(&mut self, pending: Pending, rejections: &[Rejection]) -> Request {
        let Pending { kind, nonce, offered, removed, malformed } = pending;
        let subscription = self.subscription(kind);
        for name in removed {
            subscription.held.remove(&name);
        }
        for (name, held) in offered {
            // Unsubscribed while it was compiled? Then it is not held: the server will send it again when asked.
            if subscription.wants(&name) && !rejections.iter().any(|rejection| *rejection.name == *name) {
                subscription.held.insert(name, held);
            }
        }
        let refused: Vec<_> = malformed.iter().chain(rejections).collect();
        let error_detail = (!refused.is_empty()).then(|| refusal(&refused));
        Request {
            type_url: kind.type_url().to_owned(),
            response_nonce: nonce,
            error_detail,
            ..Request::default()
        }
    }

    /// Resources whose time is over: removals to apply.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Update> {
        let mut updates = Vec::new();
        for subscription in &mut self.types {
            let expired = subscription.expire(now);
            if !expired.is_empty() {
                updates.push(Update { kind: subscription.kind, upserts: Vec::new(), removals: expired });
            }
        }
        updates
    }

    /// When [`Subscriptions::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let held = self.types.iter().flat_map(|subscription| subscription.held.values());
        held.filter_map(|held| held.until).min()
    }

    /// How many resources of a type are held.
    pub(crate) fn held(&self, kind: ResourceType) -> usize {
        let subscription = self.types.iter().find(|subscription| subscription.kind == kind);
        subscription.map_or(0, |subscription| subscription.held.len())
    }

    fn subscription(&mut self, kind: ResourceType) -> &mut Subscription {
        let index = match kind {
            ResourceType::Cluster => 0,
            ResourceType::Endpoint => 1,
            ResourceType::Listener => 2,
            ResourceType::Route => 3,
            ResourceType::Secret => 4,
        };
        &mut self.types[index]
    }

    /// Puts the node into the first request of the stream.
    fn introduce(&mut self, mut requests: Vec<Request>) -> Vec<Request> {
        if let Some(first) = requests.first_mut().filter(|_| !self.introduced) {
            first.node = Some(self.node.clone());
            self.introduced = true;
        }
        requests
    }
}

impl Subscription {
    fn open(&mut self) -> Option<Request> {
        self.asked = false;
        match &mut self.scope {
            Scope::Off => None,
            Scope::Wildcard => Some(self.first_request(Vec::new())),
            Scope::Names { wanted, subscribed } => {
                subscribed.clone_from(wanted);
                let names: Vec<_> = wanted.iter().map(ToString::to_string).collect();
                // The first request without names would mean all of them.
                (!names.is_empty()).then(|| self.first_request(names))
            }
        }
    }

    fn first_request(&mut self, subscribe: Vec<String>) -> Request {
        self.asked = true;
        let held = self.held.iter().map(|(name, held)| (name.to_string(), held.version.clone()));
        Request {
            type_url: self.kind.type_url().to_owned(),
            resource_names_subscribe: subscribe,
            initial_resource_versions: held.collect(),
            ..Request::default()
        }
    }

    fn want(&mut self, names: BTreeSet<Arc<str>>, open: bool) -> Option<Request> {
        let Scope::Names { wanted, subscribed } = &mut self.scope else { return None };
        if *wanted == names {
            return None;
        }
        *wanted = names;
        self.held.retain(|name, _| wanted.contains(name));
        if !open {
            return None;
        }
        let text = |name: &Arc<str>| name.to_string();
        let subscribe: Vec<_> = wanted.difference(subscribed).map(text).collect();
        let unsubscribe: Vec<_> = subscribed.difference(wanted).map(text).collect();
        subscribed.clone_from(wanted);
        if !self.asked {
            return Some(self.first_request(subscribe));
        }
        Some(Request {
            type_url: self.kind.type_url().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..Request::default()
        })
    }

    fn wants(&self, name: &str) -> bool {
        match &self.scope {
            Scope::Off => false,
            Scope::Wildcard => true,
            Scope::Names { wanted, .. } => wanted.contains(name),
        }
    }

    fn receive(&mut self, response: wire::DeltaDiscoveryResponse, now: Instant) -> (Update, Pending) {
        let mut update = Update { kind: self.kind, upserts: Vec::new(), removals: Vec::new() };
        let mut pending = Pending {
            kind: self.kind,
            nonce: response.nonce,
            offered: BTreeMap::new(),
            removed: Vec::new(),
            malformed: Vec::new(),
        };
        for resource in response.resources {
            self.receive_resource(resource, now, &mut update, &mut pending);
        }
        let by_constraint = response.removed_resource_names.into_iter().map(|name| name.name);
        // An error about a name that was asked for says that there is no such resource for this client (xRFC TP3).
        let failed = response.resource_errors.into_iter().filter_map(|error| {
            let name = error.resource_name?.name;
            let message = error.error_detail.map(|status| status.message).unwrap_or_default();
            tracing::warn!(kind = self.kind.noun(), name, message, "the control plane has no such resource");
            Some(name)
        });
        for name in response.removed_resources.into_iter().chain(by_constraint).chain(failed) {
            if self.wants(&name) {
                pending.removed.push(name.as_str().into());
                update.removals.push(name);
            }
        }
        (update, pending)
    }

    fn receive_resource(
        &mut self,
        resource: wire::Resource,
        now: Instant,
        update: &mut Update,
        pending: &mut Pending,
    ) {
        let own = match (&resource.resource_name, resource.name) {
            (Some(name), text) if text.is_empty() => name.name.clone(),
            (_, text) => text,
        };
        // What was asked for by an alias arrives under its own name.
        let Some(name) = std::iter::once(own).chain(resource.aliases).find(|name| self.wants(name)) else {
            return;
        };
        let until = resource.ttl.as_ref().and_then(ttl).and_then(|ttl| now.checked_add(ttl));
        let held = Held { version: resource.version.clone(), until };
        match resource.resource {
            Some(body) => {
                pending.offered.insert(name.as_str().into(), held);
                update.upserts.push(Resource { name, version: resource.version, body });
            }
            // A heartbeat: the same as before, for longer.
            None => match self.held.get_mut(name.as_str()) {
                Some(before) => before.until = until,
                None => pending.malformed.push(Rejection {
                    kind: self.kind.noun(),
                    name,
                    message: "came without a body and is not held from before".to_owned(),
                }),
            },
        }
    }

    fn expire(&mut self, now: Instant) -> Vec<String> {
        let over = |held: &Held| held.until.is_some_and(|until| until <= now);
        let expired =
            self.held.iter().filter(|(_, held)| over(held)).map(|(name, _)| name.to_string()).collect();
        self.held.retain(|_, held| !over(held));
        expired
    }
}

fn ttl(wire: &sidegate_xds::google::protobuf::Duration) -> Option<Duration> {
    let seconds = u64::try_from(wire.seconds).ok()?;
    Some(Duration::new(seconds, u32::try_from(wire.nanos).ok()?))
}

/// One line for each refused resource, at most [`TEXT_LIMIT`] bytes in all: servers keep and print it.
fn refusal(rejections: &[&Rejection]) -> Status {
    let mut message = String::new();
    for (index, rejection) in rejections.iter().enumerate() {
        let line = rejection.to_string();
        let separator = usize::from(index > 0);
        if message.len() + separator + line.len() > TEXT_LIMIT - MORE {
            let room = (TEXT_LIMIT - MORE).saturating_sub(message.len());
            // At least the first one's beginning, at a character's boundary.
            if index == 0 {
                let end = (0..=room).rev().find(|end| line.is_char_boundary(*end)).unwrap_or_default();
                message.push_str(&line[..end]);
            }
            message.push_str(&format!("\n… and {} more", rejections.len() - index - usize::from(index == 0)));
            break;
        }
        if index > 0 {
            message.push('\n');
        }
        message.push_str(&line);
    }
    Status { code: INVALID_ARGUMENT, message, details: Vec::new() }
}

/// Bytes of a NACK's text.
const TEXT_LIMIT: usize = 4096;

/// Bytes kept free for the last line.
const MORE: usize = 64;

/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

#[cfg(test)]
mod tests;
