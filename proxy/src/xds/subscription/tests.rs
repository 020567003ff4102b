use sidegate_xds::google::protobuf::{Any, Duration as WireDuration};

use super::*;

const CLUSTER: ResourceType = ResourceType::Cluster;
const ENDPOINT: ResourceType = ResourceType::Endpoint;

fn subscriptions() -> Subscriptions {
    Subscriptions::new(Node { id: "me".to_owned(), ..Node::default() }, true, true)
}

fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn resource(name: &str, version: &str) -> wire::Resource {
    wire::Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(Any::default()),
        ..wire::Resource::default()
    }
}

fn response(kind: ResourceType, nonce: &str, resources: Vec<wire::Resource>) -> wire::DeltaDiscoveryResponse {
    wire::DeltaDiscoveryResponse {
        type_url: kind.type_url().to_owned(),
        nonce: nonce.to_owned(),
        resources,
        ..Default::default()
    }
}

fn rejection(name: &str, message: &str) -> Rejection {
    Rejection { kind: "cluster", name: name.to_owned(), message: message.to_owned() }
}

fn upserts(update: &Update) -> Vec<&str> {
    update.upserts.iter().map(|resource| resource.name.as_str()).collect()
}

impl Subscriptions {
    /// Receives and accepts.
    fn take(&mut self, response: wire::DeltaDiscoveryResponse) -> (Update, Request) {
        let (update, pending) = self.receive(response, Instant::now()).unwrap();
        let answer = self.answer(pending, &[]);
        (update, answer)
    }
}

#[test]
fn a_stream_opens_with_the_node_once_and_wildcards_without_names() {
    let mut subscriptions = subscriptions();
    let requests = subscriptions.open();
    let urls: Vec<_> = requests.iter().map(|request| request.type_url.rsplit('.').next().unwrap()).collect();
    assert_eq!(urls, ["Cluster", "Listener"]);
    assert_eq!(requests[0].node.as_ref().unwrap().id, "me");
    assert!(requests[1].node.is_none());
    assert!(requests.iter().all(|request| request.resource_names_subscribe.is_empty()));
    let request = subscriptions.want(ENDPOINT, names(&["a"])).remove(0);
    assert!(request.node.is_none() && request.response_nonce.is_empty());
    assert_eq!(request.resource_names_subscribe, ["a"]);
}

#[test]
fn types_that_the_bootstrap_does_not_name_are_not_asked_for() {
    let mut subscriptions = Subscriptions::new(Node::default(), false, false);
    assert!(subscriptions.open().is_empty());
    assert!(subscriptions.receive(response(CLUSTER, "1", vec![]), Instant::now()).is_none());
    let request = subscriptions.want(ENDPOINT, names(&["a"])).remove(0);
    assert!(request.node.is_some(), "the first request of the stream, whatever its type");
}

#[test]
fn responses_that_nobody_asked_for_are_dropped() {
    let mut subscriptions = subscriptions();
    subscriptions.open();
    assert!(subscriptions.receive(response(ENDPOINT, "1", vec![]), Instant::now()).is_none());
    let mut secret = response(CLUSTER, "1", vec![]);
    secret.type_url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned();
    assert!(subscriptions.receive(secret, Instant::now()).is_none());
}

#[test]
fn an_ack_carries_the_nonce_and_nothing_else() {
    let mut subscriptions = subscriptions();
    subscriptions.open();
    let (update, answer) =
        subscriptions.take(response(CLUSTER, "n1", vec![resource("a", ""), resource("b", "")]));
    assert_eq!(upserts(&update), ["a", "b"]);
    assert_eq!(
        answer,
        Request {
            type_url: CLUSTER.type_url().to_owned(),
            response_nonce: "n1".to_owned(),
            ..Request::default()
        }
    );
    assert_eq!(subscriptions.held(CLUSTER), 2);
}

#[test]
fn a_nack_names_what_was_refused_and_the_rest_is_held() {
    let mut subscriptions = subscriptions();
    subscriptions.open();
    let resources = vec![resource("a", "1"), resource("b", "1"), resource("c", "1")];
    let (_, pending) = subscriptions.receive(response(CLUSTER, "n", resources), Instant::now()).unwrap();
    let answer = subscriptions.answer(pending, &[rejection("b", "no"), rejection("c", "never")]);
    assert_eq!(answer.response_nonce, "n");
    let error = answer.error_detail.unwrap();
    assert_eq!((error.code, error.message.as_str()), (3, "cluster b: no\ncluster c: never"));
    subscriptions.close();
    let versions = &subscriptions.open()[0].initial_resource_versions;
    assert_eq!(versions.iter().collect::<Vec<_>>(), [(&"a".to_owned(), &"1".to_owned())]);
}

#[test]
fn a_refused_update_leaves_the_older_version_held() {
    let mut subscriptions = subscriptions();
    subscriptions.open();
    subscriptions.take(response(CLUSTER, "1", vec![resource("a", "1")]));
    let (_, pending) =
        subscriptions.receive(response(CLUSTER, "2", vec![resource("a", "2")]), Instant::now()).unwrap();
    subscriptions.answer(pending, &[rejection("a", "no")]);
    assert_eq!(subscriptions.open()[0].initial_resource_versions["a"], "1");
}

#[test]
fn a_nack_is_bounded() {
    let mut subscriptions = subscriptions();
    subscriptions.open();
    let (_, pending) = subscriptions.receive(response(CLUSTER, "n", vec![]), Instant::now()).unwrap();
    let many: Vec<_> =
        (0..100).map(|index| rejection(&format!("cluster-{index}"), &"é".repeat(60))).collect();
    let message = subscriptions.answer(pending, &many).error_detail.unwrap().message;
    assert!(message.len() <= 4096 && message.len() > 3500, "{}", message.len());
    let told = message.lines().count() - 1;
    assert!(message.ends_with(&format!("… and {} more", 100 - told)), "{message}");
    let (_, pending) = subscriptions.receive(response(CLUSTER, "n", vec![]), Instant::now()).unwrap();
    let message =
        subscriptions.answer(pending, &[rejection("a", &"é".repeat(9000))]).error_detail.unwrap().message;
    assert!(message.len() <= 4096 && message.starts_with("cluster a: éé"), "{}", message.len());
}

#[test]
fn names_follow_what_is_wanted() {
    let mut subscriptions = subscriptions();
    assert!(subscriptions.want(ENDPOINT, names(&["a"])).is_empty(), "no stream yet");
    let requests = subscriptions.open();
    assert_eq!(requests[1].resource_names_subscribe, ["a"]);
    assert!(subscriptions.want(ENDPOINT, names(&["a"])).is_empty(), "nothing new");
    let request = subscriptions.want(ENDPOINT, names(&["b", "c"])).remove(0);
    assert_eq!(request.resource_names_subscribe, ["b", "c"]);
    assert_eq!(request.resource_names_unsubscribe, ["a"]);
    let request = subscriptions.want(ENDPOINT, names(&[])).remove(0);
    assert!(request.resource_names_subscribe.is_empty(), "to want nothing is not to want everything");
    assert_eq!(request.resource_names_unsubscribe, ["b", "c"]);
    subscriptions.close();
    assert!(subscriptions.open().iter().all(|request| request.type_url != ENDPOINT.type_url()));
}

#[test]
fn by_name_types_take_only_what_is_wanted() {
    let mut subscriptions = subscriptions();
    subscriptions.want(ENDPOINT, names(&["a", "alias"]));
    subscriptions.open();
    let mut aliased = resource("real", "1");
    aliased.aliases = vec!["other".to_owned(), "alias".to_owned()];
    let mut answer = response(ENDPOINT, "1", vec![resource("a", "1"), resource("stranger", "1"), aliased]);
    answer.removed_resources = vec!["stranger".to_owned(), "b".to_owned()];
    let (update, _) = subscriptions.take(answer);
    assert_eq!(upserts(&update), ["a", "alias"]);
    assert!(update.removals.is_empty());
    assert_eq!(subscriptions.held(ENDPOINT), 2);
}

#[test]
fn removals_and_errors_are_removals() {
    let mut subscriptions = subscriptions();
    subscriptions.want(ENDPOINT, names(&["a", "b", "c"]));
    subscriptions.open();
    subscriptions.take(response(ENDPOINT, "1", vec![resource("a", "1")]));
    let mut answer = response(ENDPOINT, "2", vec![]);
    let name = |name: &str| wire::ResourceName { name: name.to_owned(), ..Default::default() };
    answer.removed_resources = vec!["a".to_owned()];
    answer.removed_resource_names = vec![name("b")];
    answer.resource_errors = vec![wire::ResourceError { resource_name: Some(name("c")), error_detail: None }];
    let (update, _) = subscriptions.take(answer);
    assert_eq!(update.removals, ["a", "b", "c"]);
    assert_eq!(subscriptions.held(ENDPOINT), 0);
}

#[test]
fn a_time_to_live_is_refreshed_by_heartbeats_and_ends() {
    let mut subscriptions = subscriptions();
    subscriptions.open();
    let start = Instant::now();
    let with_ttl = |body: bool| {
        let mut resource = resource("a", "1");
        resource.ttl = Some(WireDuration { seconds: 2, nanos: 0 });
        resource.resource = body.then(Any::default);
        response(CLUSTER, "n", vec![resource])
    };
    let mut take = |response, at| {
        let (update, pending) = subscriptions.receive(response, at).unwrap();
        (update.upserts.len(), subscriptions.answer(pending, &[]).error_detail)
    };
    let seconds = |seconds| start + Duration::from_secs(seconds);
    assert!(take(with_ttl(false), start).1.unwrap().message.contains("is not held from before"));
    assert_eq!(take(with_ttl(true), start), (1, None));
    assert_eq!(take(with_ttl(false), seconds(1)), (0, None));
    assert_eq!(subscriptions.deadline(), Some(seconds(3)));
    assert!(subscriptions.expire(seconds(2)).is_empty());
    let removals = subscriptions.expire(seconds(3));
    assert_eq!(removals[0].removals, ["a"]);
    assert_eq!(subscriptions.held(CLUSTER), 0);
    assert_eq!(subscriptions.deadline(), None);
}
