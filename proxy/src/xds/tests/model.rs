//! Random updates, bad resources, chunked responses and stream cuts at any message boundary: in the end the proxy holds what
//! the server has (statements 30, 41 to 45, 55).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use proptest::prelude::*;
use sidegate_xds::google::protobuf::Any;

use crate::compile::tests::fixture::{assignment, eds_cluster, listener, table, upsert};
use crate::compile::{Compiler, Update};
use crate::snapshot::Publisher;
use crate::xds::subscription::{Request, Subscriptions};

use super::super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Forms of every resource: three good ones and, last, a bad one.
static FORMS: LazyLock<BTreeMap<(ResourceType, &'static str), Vec<Any>>> = LazyLock::new(|| {
    let body = |update: Update| update.upserts[0].body.clone();
    let mut forms = BTreeMap::new();
    for (index, name) in NAMES.into_iter().enumerate() {
        let other = |step: usize| NAMES[(index + step) % 3];
        let moved = |service: &str| {
            let text = format!(
                "{{name: {name}, type: EDS, eds_cluster_config: {{service_name: {service}, eds_config: {{ads: {{}}}}}}}}"
            );
            upsert(ResourceType::Cluster, name, &text)
        };
        let bad_cluster =
            upsert(ResourceType::Cluster, name, &format!("{{name: {name}, lb_policy: MAGLEV}}"));
        let clusters = [eds_cluster(name), moved(other(1)), moved(other(2)), bad_cluster];
        forms.insert((ResourceType::Cluster, name), clusters.map(body).to_vec());
        let bad = "endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: web, port_value: 1}}}}]}]";
        let bad = upsert(ResourceType::Endpoint, name, &format!("{{cluster_name: {name}, {bad}}}"));
        let endpoints = [assignment(name, &[1]), assignment(name, &[1, 2]), assignment(name, &[]), bad];
        forms.insert((ResourceType::Endpoint, name), endpoints.map(body).to_vec());
        let port = 1000 + index as u16;
        let bad = upsert(ResourceType::Listener, name, &format!("{{name: {name}}}"));
        let listeners =
            [listener(name, port, name), listener(name, port, other(1)), listener(name, port, other(2)), bad];
        forms.insert((ResourceType::Listener, name), listeners.map(body).to_vec());
        let bad = upsert(ResourceType::Route, name, &format!("{{name: {name}, vhost_header: x}}"));
        let routes = [table(name, "a"), table(name, "b"), table(name, "ghost"), bad];
        forms.insert((ResourceType::Route, name), routes.map(body).to_vec());
    }
    forms
});

/// A server with a delta state of its own, as simple as the protocol allows.
#[derive(Default)]
struct Server {
    /// Kind → name → form.
    state: BTreeMap<ResourceType, BTreeMap<&'static str, usize>>,
    /// istiod sends no versions; then it cannot know what the client holds.
    versions: bool,
    stream: Option<Stream>,
}

#[derive(Default)]
struct Stream {
    requests: usize,
    nonces: u64,
    unanswered: BTreeSet<(ResourceType, String)>,
    kinds: BTreeMap<ResourceType, Subscribed>,
}

#[derive(Default)]
struct Subscribed {
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the client was told: a form, that it is absent (`Some(None)`), or what it claims to hold.
    told: BTreeMap<String, Told>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Told {
    Form(usize),
    Absent,
    Claimed,
}

impl Server {
    fn request(&mut self, request: Request) {
        let versions = self.versions;
        let stream = self.stream.as_mut().unwrap();
        stream.requests += 1;
        assert_eq!(request.node.is_some(), stream.requests == 1, "the node is in the first request only");
        let kind = ResourceType::from_type_url(&request.type_url).unwrap();
        if !request.response_nonce.is_empty() {
            assert!(
                request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty()
            );
            assert!(stream.unanswered.remove(&(kind, request.response_nonce)), "answered once");
            return;
        }
        let first = !stream.kinds.contains_key(&kind);
        let subscribed = stream.kinds.entry(kind).or_default();
        if first {
            subscribed.wildcard = request.resource_names_subscribe.is_empty();
            for (name, version) in &request.initial_resource_versions {
                let told = if versions { Told::Form(version.parse().unwrap()) } else { Told::Claimed };
                subscribed.told.insert(name.clone(), told);
            }
        } else {
            assert!(request.initial_resource_versions.is_empty());
        }
        for name in request.resource_names_unsubscribe {
            assert!(subscribed.names.remove(&name));
            subscribed.told.remove(&name);
        }
        for name in request.resource_names_subscribe {
            // Explicitly subscribed names are always answered.
            if !first {
                subscribed.told.remove(&name);
            }
            assert!(subscribed.names.insert(name), "a name is subscribed to once");
        }
    }

    /// The next response of a type, with at most `most` resources.
    fn push(&mut self, kind: ResourceType, most: usize) -> Option<wire::DeltaDiscoveryResponse> {
        let stream = self.stream.as_mut()?;
        let subscribed = stream.kinds.get_mut(&kind)?;
        let state = self.state.entry(kind).or_default();
        let mut response =
            wire::DeltaDiscoveryResponse { type_url: kind.type_url().to_owned(), ..Default::default() };
        let wanted = |name: &str| subscribed.wildcard || subscribed.names.contains(name);
        for (name, form) in state.iter().filter(|(name, _)| wanted(name)) {
            if response.resources.len() < most && subscribed.told.get(*name) != Some(&Told::Form(*form)) {
                response.resources.push(wire::Resource {
                    name: (*name).to_owned(),
                    version: if self.versions { form.to_string() } else { String::new() },
                    resource: Some(FORMS[&(kind, *name)][*form].clone()),
                    ..Default::default()
                });
                subscribed.told.insert((*name).to_owned(), Told::Form(*form));
            }
        }
        let known: BTreeSet<String> = subscribed.told.keys().chain(&subscribed.names).cloned().collect();
        for name in known {
            if !state.contains_key(name.as_str()) && subscribed.told.get(&name) != Some(&Told::Absent) {
                subscribed.told.insert(name.clone(), Told::Absent);
                response.removed_resources.push(name);
            }
        }
        if response.resources.is_empty() && response.removed_resources.is_empty() {
            return None;
        }
        stream.nonces += 1;
        response.nonce = stream.nonces.to_string();
        stream.unanswered.insert((kind, response.nonce.clone()));
        Some(response)
    }
}

/// Both ends and what is on its way between them.
struct World {
    server: Server,
    subscriptions: Subscriptions,
    compiler: Compiler,
    to_server: VecDeque<Request>,
    to_client: VecDeque<wire::DeltaDiscoveryResponse>,
    now: Instant,
}

/// What this world has: secrets have no form that means anything without the others.
const KINDS: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];

#[derive(Clone, Debug)]
enum Step {
    Set(ResourceType, usize, usize),
    Remove(ResourceType, usize),
    Push(ResourceType, usize),
    Request,
    Response,
    Cut,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(KINDS.to_vec());
    prop_oneof![
        4 => (kind.clone(), 0..3_usize, 0..4_usize).prop_map(|(kind, name, form)| Step::Set(kind, name, form)),
        2 => (kind.clone(), 0..3_usize).prop_map(|(kind, name)| Step::Remove(kind, name)),
        8 => (kind, 1..4_usize).prop_map(|(kind, most)| Step::Push(kind, most)),
        8 => Just(Step::Request),
        8 => Just(Step::Response),
        1 => Just(Step::Cut),
        1 => Just(Step::Wait),
    ]
}

impl World {
    fn new(versions: bool) -> Self {
        let compiler = Compiler::new(Publisher::new(), Metrics::new(0));
        let subscriptions = Subscriptions::new(Node::default(), true, true);
        let server = Server { versions, ..Server::default() };
        let now = Instant::now();
        let (to_server, to_client) = (VecDeque::new(), VecDeque::new());
        let mut world = Self { server, subscriptions, compiler, to_server, to_client, now };
        world.connect();
        world
    }

    fn connect(&mut self) {
        self.server.stream = Some(Stream::default());
        self.to_client.clear();
        self.to_server = self.subscriptions.open().into();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Set(kind, name, form) => {
                self.server.state.entry(kind).or_default().insert(NAMES[name], form);
            }
            Step::Remove(kind, name) => {
                self.server.state.entry(kind).or_default().remove(NAMES[name]);
            }
            Step::Push(kind, most) => self.to_client.extend(self.server.push(kind, most)),
            Step::Request => {
                self.to_server.pop_front().into_iter().for_each(|request| self.server.request(request))
            }
            Step::Response => self.respond(),
            Step::Cut => {
                self.subscriptions.close();
                self.follow();
                self.connect();
            }
            Step::Wait => {
                self.now += std::time::Duration::from_secs(3);
                self.compiler.expire(self.now);
                self.follow();
            }
        }
    }

    fn respond(&mut self) {
        let Some(response) = self.to_client.pop_front() else { return };
        let (update, pending) = self.subscriptions.receive(response, self.now).unwrap();
        let outcome = self.compiler.apply(update, self.now);
        self.to_server.push_back(self.subscriptions.answer(pending, &outcome.rejections));
        self.follow();
    }

    fn follow(&mut self) {
        for kind in [ResourceType::Endpoint, ResourceType::Route] {
            let wanted = self.compiler.wanted(kind);
            self.to_server.extend(self.subscriptions.want(kind, wanted));
        }
    }

    /// Lets everything that is on its way arrive.
    fn come_to_rest(&mut self) {
        loop {
            while !self.to_server.is_empty() || !self.to_client.is_empty() {
                self.step(Step::Request);
                self.step(Step::Response);
            }
            for kind in KINDS {
                self.step(Step::Push(kind, 2));
            }
            if self.to_client.is_empty() {
                break;
            }
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        prop_assert!(
            self.server.stream.as_ref().unwrap().unanswered.is_empty(),
            "every response is answered"
        );
        for kind in KINDS {
            let state = self.server.state.entry(kind).or_default();
            let wanted = self.compiler.wanted(kind);
            let expected: BTreeMap<_, _> = state
                .iter()
                .filter(|(name, _)| kind.is_wildcard() || wanted.contains(**name))
                .map(|(name, form)| ((*name).to_owned(), &FORMS[&(kind, *name)][*form]))
                .collect();
            let entries = self.compiler.ledger().entries(kind);
            let held: BTreeMap<_, _> = entries
                .iter()
                // A child that the server dropped serves on while its parent refers to it.
                .filter(|entry| kind.is_wildcard() || state.contains_key(&*entry.name))
                .filter_map(|entry| Some((entry.name.to_string(), &*entry.accepted.as_ref()?.body)))
                .collect();
            prop_assert_eq!(&held, &expected, "{:?}", kind);
            prop_assert_eq!(self.subscriptions.held(kind), expected.len(), "{:?}", kind);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn ends_in_the_servers_state(versions: bool, steps in prop::collection::vec(step(), 0..250)) {
        let mut world = World::new(versions);
        for step in steps {
            world.step(step);
        }
        // What is bad is mended in the end.
        for (kind, names) in &mut world.server.state {
            for form in names.values_mut().filter(|form| **form == 3) {
                *form = kind.noun().len() % 3;
            }
        }
        world.come_to_rest();
        world.check()?;
        // And nothing that has come to rest waits for anything but endpoints that do not exist.
        world.now += std::time::Duration::from_secs(60);
        world.compiler.expire(world.now);
        prop_assert_eq!(world.compiler.deadline(), None);
    }
}
