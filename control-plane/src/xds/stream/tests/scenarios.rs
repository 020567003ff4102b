//! The protocol's rules, one scenario each.

use std::collections::BTreeSet;
use std::time::Duration;

use sidegate_xds::resource::ResourceType::{self, Cluster, Endpoint, Listener, Route, Secret};

use super::super::{ACK_LIMIT, Push, REMOVAL_LIMIT, ROUTE_HOLD_LIMIT, Request, Stream, TypeState};
use super::model::{Refusal, Wire, request, resources};
use crate::snapshot::Resources;

/// One gateway: a listener, its routes, a cluster with endpoints.
fn shop(cluster: &str, listener: &str) -> Resources {
    resources(&[
        (Cluster, "a", cluster),
        (Endpoint, "a", "e1"),
        (Listener, "l", listener),
        (Route, "l", "r1 > a"),
    ])
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn sent(push: &Push) -> Vec<&str> {
    push.resources.iter().map(|(name, _)| name.as_str()).collect()
}

fn kinds(pushes: &[Push]) -> Vec<ResourceType> {
    pushes.iter().map(|push| push.kind).collect()
}

fn state(wire: &mut Wire, kind: ResourceType) -> TypeState {
    let now = wire.now;
    wire.stream.report(now)[kind as usize].state
}

/// A wire whose client has done nothing yet.
fn silent(resources: Resources, foreign: bool) -> Wire {
    let mut wire = Wire::new(resources, Refusal::Partly, foreign);
    wire.client.outbox.clear();
    wire
}

fn say(wire: &mut Wire, request: Request) {
    wire.stream.on_request(request).unwrap();
}

fn ack(wire: &mut Wire, push: &Push) {
    say(wire, Request { nonce: push.nonce.clone(), ..request(push.kind) });
}

#[test]
fn a_new_client_gets_everything_in_order() {
    let mut wire = Wire::new(shop("c1", "l1"), Refusal::Partly, false);
    let pushes = wire.settle();
    let mut order = kinds(&pushes);
    assert_eq!(order[..2], [Cluster, Listener], "listeners do not wait for the ACK of clusters");
    order.sort();
    assert_eq!(order, [Cluster, Endpoint, Listener, Route]);
    wire.assert_equal();
    assert_eq!(wire.stream.applied_generation(), 1);
    assert_eq!(state(&mut wire, Route), TypeState::Synced);
}

#[test]
fn nothing_is_sent_before_the_first_snapshot() {
    let wire = silent(shop("c1", "l1"), false);
    let mut stream = Stream::new(wire.now, false, Default::default());
    stream.on_request(request(Cluster)).unwrap();
    assert_eq!(stream.next(wire.now), None);
    assert_eq!(stream.report(wire.now)[Cluster as usize].state, TypeState::Pending);
    stream.on_snapshot(wire.snapshot);
    assert_eq!(sent(&stream.next(wire.now).unwrap()), ["a"]);
}

#[test]
fn changes_merge_while_a_response_is_in_the_air() {
    let mut wire = silent(shop("c1", "l1"), false);
    say(&mut wire, request(Cluster));
    let first = wire.send().unwrap();
    for version in 2..102 {
        wire.publish(shop(&format!("c{version}"), "l1"));
        assert_eq!(wire.send(), None, "one response at a time");
    }
    ack(&mut wire, &first);
    let second = wire.send().unwrap();
    assert_eq!(second.resources[0].1.body.as_ref(), b"c101");
    ack(&mut wire, &second);
    assert_eq!(wire.send(), None);
}

#[test]
fn an_answer_that_never_comes_holds_back_nothing_newer_for_long() {
    let mut wire = silent(shop("c1", "l1"), false);
    say(&mut wire, request(Cluster));
    let first = wire.send().unwrap();
    wire.advance(ACK_LIMIT);
    assert_eq!(wire.send(), None, "the same is not sent again");
    wire.publish(shop("c2", "l1"));
    let second = wire.send().unwrap();
    ack(&mut wire, &first);
    assert_ne!(state(&mut wire, Cluster), TypeState::Synced, "the first one's ACK came too late");
    ack(&mut wire, &second);
    assert_eq!(wire.send(), None);
    assert_eq!(state(&mut wire, Cluster), TypeState::Synced);
}

#[test]
fn endpoints_follow_a_changed_cluster_of_a_foreign_client() {
    for foreign in [true, false] {
        let mut wire = Wire::new(shop("c1", "l1"), Refusal::Partly, foreign);
        wire.settle();
        wire.publish(shop("c2", "l1"));
        let expected = if foreign { vec![Cluster, Endpoint] } else { vec![Cluster] };
        assert_eq!(kinds(&wire.settle()), expected);
    }
}

#[test]
fn a_name_that_does_not_exist_is_answered() {
    let mut wire = silent(shop("c1", "l1"), false);
    say(&mut wire, Request { subscribe: names(&["ghost"]), ..request(Endpoint) });
    let push = wire.send().unwrap();
    assert_eq!((push.kind, push.removed.as_slice()), (Endpoint, names(&["ghost"]).as_slice()));
    assert_eq!(wire.send(), None);
}

#[test]
fn a_name_asked_for_again_is_answered_again() {
    let mut wire = silent(shop("c1", "l1"), false);
    say(&mut wire, Request { subscribe: names(&["a"]), ..request(Endpoint) });
    let push = wire.send().unwrap();
    ack(&mut wire, &push);
    assert_eq!(wire.send(), None);
    say(&mut wire, Request { unsubscribe: names(&["a"]), ..request(Endpoint) });
    assert_eq!(wire.send(), None);
    say(&mut wire, Request { subscribe: names(&["a"]), ..request(Endpoint) });
    assert_eq!(sent(&wire.send().unwrap()), ["a"]);
}

#[test]
fn an_unsubscribed_name_under_a_wildcard_is_answered() {
    let mut wire = silent(shop("c1", "l1"), false);
    say(&mut wire, Request { subscribe: names(&["*", "a", "ghost"]), ..request(Cluster) });
    let push = wire.send().unwrap();
    assert_eq!((sent(&push), push.removed.clone()), (vec!["a"], names(&["ghost"])));
    ack(&mut wire, &push);
    say(&mut wire, Request { unsubscribe: names(&["a"]), ..request(Cluster) });
    assert_eq!(sent(&wire.send().unwrap()), ["a"]);
}

#[test]
fn a_stale_nonce_confirms_nothing_but_its_names_count() {
    let mut wire = silent(shop("c1", "l1"), false);
    say(&mut wire, request(Cluster));
    wire.send().unwrap();
    say(&mut wire, Request { nonce: "of another stream".to_owned(), ..request(Cluster) });
    assert_eq!(state(&mut wire, Cluster), TypeState::Pending);
    let stale = Request { nonce: "7f".to_owned(), subscribe: names(&["a"]), ..request(Endpoint) };
    say(&mut wire, stale);
    assert_eq!(sent(&wire.send().unwrap()), ["a"]);
}

#[test]
fn what_a_reconnecting_client_holds_is_not_sent_again_and_what_is_gone_is_removed() {
    let wire = silent(shop("c1", "l1"), false);
    let version = wire.snapshot.resources.clusters["a"].version.to_string();
    let mut stream = Stream::new(wire.now, false, Default::default());
    stream.on_snapshot(wire.snapshot);
    let held = vec![("a".to_owned(), version), ("gone".to_owned(), "1".to_owned())];
    stream.on_request(Request { initial_versions: held, ..request(Cluster) }).unwrap();
    assert_eq!(stream.next(wire.now), None, "old routes may still lead there");
    stream.on_request(request(Listener)).unwrap();
    stream.on_request(Request { subscribe: names(&["l"]), ..request(Route) }).unwrap();
    for _ in 0..2 {
        let push = stream.next(wire.now).unwrap();
        stream.on_request(Request { nonce: push.nonce, ..request(push.kind) }).unwrap();
    }
    let push = stream.next(wire.now).unwrap();
    assert_eq!((push.kind, sent(&push), push.removed.clone()), (Cluster, vec![], names(&["gone"])));
}

#[test]
fn what_a_node_was_sent_before_and_does_not_list_is_removed() {
    let wire = silent(shop("c1", "l1"), true);
    let mut remembered: [BTreeSet<String>; ResourceType::COUNT] = Default::default();
    remembered[Listener as usize].insert("forgotten".to_owned());
    let mut stream = Stream::new(wire.now, true, remembered);
    stream.on_snapshot(wire.snapshot);
    stream.on_request(request(Listener)).unwrap();
    let push = stream.next(wire.now).unwrap();
    assert_eq!((sent(&push), push.removed.clone()), (vec!["l"], names(&["forgotten"])));
}

#[test]
fn named_resources_are_sent_on_every_new_stream() {
    let wire = silent(shop("c1", "l1"), false);
    let version = wire.snapshot.resources.endpoints["a"].version.to_string();
    let mut stream = Stream::new(wire.now, false, Default::default());
    stream.on_snapshot(wire.snapshot);
    let held = vec![("a".to_owned(), version)];
    let asked = Request { subscribe: names(&["a"]), initial_versions: held, ..request(Endpoint) };
    stream.on_request(asked).unwrap();
    assert_eq!(sent(&stream.next(wire.now).unwrap()), ["a"]);
}

#[test]
fn a_cluster_goes_only_after_the_routes_let_go_of_it() {
    let mut wire = Wire::new(shop("c1", "l1"), Refusal::Partly, false);
    wire.settle();
    wire.publish(resources(&[
        (Cluster, "b", "c1"),
        (Endpoint, "b", "e1"),
        (Listener, "l", "l1"),
        (Route, "l", "r2 > b"),
    ]));
    let pushes = wire.settle();
    assert_eq!(kinds(&pushes), [Cluster, Endpoint, Route, Cluster]);
    assert_eq!(pushes[3].removed, names(&["a"]));
    wire.assert_equal();
}

#[test]
fn a_client_that_refuses_the_new_routes_loses_the_old_clusters_late() {
    let mut wire = Wire::new(shop("c1", "l1"), Refusal::Partly, false);
    wire.settle();
    wire.publish(resources(&[(Listener, "l", "l1"), (Route, "l", "bad r2")]));
    assert_eq!(kinds(&wire.settle()), [Route]);
    assert_eq!(state(&mut wire, Cluster), TypeState::Pending);
    wire.advance(REMOVAL_LIMIT);
    assert_eq!(kinds(&wire.settle()), [Cluster]);
    assert_eq!(state(&mut wire, Route), TypeState::Rejected);
}

#[test]
fn routes_wait_for_a_new_cluster_but_not_for_ever() {
    let mut wire = Wire::new(shop("c1", "l1"), Refusal::Partly, false);
    wire.settle();
    wire.publish(resources(&[
        (Cluster, "a", "c1"),
        (Cluster, "b", "c1"),
        (Endpoint, "a", "e1"),
        (Endpoint, "b", "e1"),
        (Listener, "l", "l1"),
        (Route, "l", "r2 > a b"),
    ]));
    assert_eq!(wire.send().unwrap().kind, Cluster);
    assert_eq!(wire.send(), None);
    wire.advance(ROUTE_HOLD_LIMIT - Duration::from_millis(1));
    assert_eq!(wire.send(), None);
    wire.advance(Duration::from_millis(1));
    assert_eq!(wire.send().unwrap().kind, Route);
}

#[test]
fn a_refused_resource_is_reported_kept_back_and_mended() {
    let mut wire = Wire::new(shop("bad c1", "l1"), Refusal::Whole, false);
    wire.rest();
    assert_eq!(state(&mut wire, Cluster), TypeState::Rejected);
    let now = wire.now;
    assert_eq!(wire.stream.report(now)[Cluster as usize].error.as_deref(), Some("a: is bad"));
    assert_eq!(wire.stream.applied_generation(), 0);
    wire.publish(shop("bad c1", "l2"));
    assert_eq!(kinds(&wire.settle()), [Listener], "the same version is not sent again");
    wire.publish(shop("c2", "l2"));
    wire.rest();
    assert_eq!(state(&mut wire, Cluster), TypeState::Synced);
    assert_eq!(wire.stream.report(now)[Cluster as usize].error, None);
    assert_eq!(wire.stream.applied_generation(), 3);
    wire.assert_equal();
}

#[test]
fn a_generation_that_changes_nothing_is_applied_at_once() {
    let mut wire = Wire::new(shop("c1", "l1"), Refusal::Partly, false);
    wire.settle();
    wire.publish(shop("c1", "l1"));
    assert_eq!(wire.send(), None);
    assert_eq!(wire.stream.applied_generation(), 2);
}

#[test]
fn a_listeners_removal_travels_with_its_successor() {
    let mut wire = Wire::new(shop("c1", "l1"), Refusal::Partly, false);
    wire.settle();
    wire.publish(resources(&[(Cluster, "a", "c1"), (Endpoint, "a", "e1"), (Listener, "l2", "static")]));
    let push = wire.send().unwrap();
    assert_eq!((push.kind, sent(&push), push.removed.clone()), (Listener, vec!["l2"], names(&["l"])));
}

#[test]
fn large_responses_come_in_parts_without_waiting() {
    let body = "x".repeat(300 * 1024);
    let list: Vec<String> = (0..10).map(|index| format!("c{index}")).collect();
    let world: Vec<(ResourceType, &str, &str)> =
        list.iter().map(|name| (Cluster, name.as_str(), body.as_str())).collect();
    let mut wire = silent(resources(&world), false);
    say(&mut wire, request(Cluster));
    let parts: Vec<Push> = std::iter::from_fn(|| wire.send()).collect();
    assert_eq!(parts.iter().map(|part| part.resources.len()).collect::<Vec<_>>(), [3, 3, 3, 1]);
    parts.iter().for_each(|part| ack(&mut wire, part));
    assert_eq!(wire.send(), None);
    assert_eq!(state(&mut wire, Cluster), TypeState::Synced);
}

#[test]
fn a_client_that_wants_only_clusters_is_not_applied() {
    let mut wire = silent(shop("c1", "l1"), false);
    say(&mut wire, request(Cluster));
    let push = wire.send().unwrap();
    ack(&mut wire, &push);
    assert_eq!(wire.send(), None);
    assert_eq!(wire.stream.applied_generation(), 0);
    assert_eq!(state(&mut wire, Listener), TypeState::NotRequested);
}

/// A gateway with a certificate that its listener shows.
fn secured(secret: &str) -> Resources {
    let mut shop = shop("c1", "l1 needs:s");
    shop.secrets = resources(&[(Secret, "s", secret)]).secrets;
    shop
}

#[test]
fn secrets_go_to_those_who_name_them_and_never_to_a_wildcard() {
    let mut wire = silent(secured("key"), false);
    say(&mut wire, request(Secret));
    say(&mut wire, Request { subscribe: names(&["*"]), ..request(Secret) });
    assert_eq!(wire.send(), None, "neither the old form nor the new one");
    assert_eq!(state(&mut wire, Secret), TypeState::Synced);
    say(&mut wire, Request { subscribe: names(&["s", "ghost"]), ..request(Secret) });
    let push = wire.send().unwrap();
    assert_eq!((push.kind, sent(&push), push.removed.clone()), (Secret, vec!["s"], names(&["ghost"])));
    ack(&mut wire, &push);
    assert_eq!(wire.send(), None);
    assert_eq!(state(&mut wire, Secret), TypeState::Synced);
}

#[test]
fn a_stream_that_has_proven_nothing_has_no_secrets_whatever_its_snapshot_holds() {
    let wire = silent(secured("key"), false);
    let mut stream = Stream::new(wire.now, false, Default::default());
    stream.on_snapshot(wire.snapshot);
    stream.on_request(Request { subscribe: names(&["s"]), ..request(Secret) }).unwrap();
    let push = stream.next(wire.now).unwrap();
    assert_eq!((push.resources, push.removed), (vec![], names(&["s"])));
    stream.on_request(Request { subscribe: names(&["*"]), ..request(Secret) }).unwrap();
    assert_eq!(stream.next(wire.now), None);
}

#[test]
fn a_changed_secret_comes_before_what_names_it_and_goes_after() {
    let mut wire = Wire::new(secured("old"), Refusal::Partly, true);
    wire.settle();
    wire.assert_equal();
    let mut changed = secured("new");
    changed.clusters = shop("c2", "").clusters;
    wire.publish(changed);
    assert_eq!(kinds(&wire.settle())[..2], [Secret, Cluster]);
    wire.assert_equal();
    // The listener lets go of its secret: nobody is told that it is gone before.
    wire.publish(shop("c2", "l2"));
    let pushes = wire.settle();
    assert_eq!(pushes[0].kind, Listener);
    assert!(pushes.iter().all(|push| push.kind != Secret || push.removed.is_empty()), "{pushes:?}");
    wire.assert_equal();
}

#[test]
fn a_generation_is_applied_when_its_secrets_are() {
    let mut wire = Wire::new(secured("key"), Refusal::Partly, false);
    // The client asks for everything but the secret, and is about to.
    while let Some(request) = wire.client.outbox.pop_front() {
        if request.kind != Secret {
            wire.stream.on_request(request).unwrap();
        }
        while wire.send().is_some() {}
        wire.client.step();
        wire.client.step();
    }
    assert_eq!(wire.stream.applied_generation(), 0, "the listener waits for its certificate");
    say(&mut wire, Request { subscribe: names(&["s"]), ..request(Secret) });
    wire.settle();
    assert_eq!(wire.stream.applied_generation(), 1);
}
