//! What conditions say of what proxies say.

use std::sync::Arc;

use sidegate_xds::resource::ResourceType;
use tokio::time::Instant;

use super::*;
use crate::model::Name;
use crate::snapshot::{Resource, Resources};
use crate::xds::ProxyNode;

const POLICY: &str = "AuthorizationPolicy shop/web";

fn verdict(object: &str, condition: &str, status: bool) -> Verdict {
    Verdict {
        object: object.to_owned(),
        generation: 4,
        condition: condition.to_owned(),
        status,
        reason: condition.to_owned(),
        message: "sent".to_owned(),
    }
}

fn scope(pod: &str) -> Scope {
    Scope::Sidecar { pod: Name::new("shop", pod), foreign: false, secure: true }
}

/// A proxy of a Pod, and how it is with listeners: the version that it has accepted, what it refuses.
fn stream(pod: &str, state: TypeState, accepted: Option<&Arc<str>>) -> StreamReport {
    let report = |kind, state| TypeReport {
        kind,
        resources: 1,
        sent: None,
        accepted: accepted.cloned(),
        state,
        error: (state == TypeState::Rejected).then(|| "no such thing".to_owned()),
        roots: None,
        since: Instant::now(),
    };
    StreamReport {
        node: ProxyNode { id: pod.to_owned(), scope: scope(pod) },
        caller: None,
        connected: Instant::now(),
        applied_generation: 0,
        types: vec![report(ResourceType::Listener, state)],
    }
}

fn snapshot(policies: &[&str]) -> Arc<Snapshot> {
    let mut resources = Resources::default();
    resources.listeners.insert("inbound".to_owned(), Resource::new(&()));
    let policies = policies.iter().map(|policy| (*policy).to_owned()).collect();
    Arc::new(Snapshot::new(1, Instant::now(), resources).carrying(policies))
}

#[test]
fn what_a_proxy_refuses_is_not_programmed() {
    let said =
        vec![verdict("Pod shop/other", "Programmed", true), verdict("Pod shop/web", "Programmed", true)];
    let refused = stream("web", TypeState::Rejected, None);
    let found = conditions(said.clone(), &[refused], &Snapshots::default());
    assert_eq!(found[0], said[0]);
    assert!(!found[1].status && found[1].reason == "Refused", "{found:?}");
    assert!(found[1].message.contains("refuses a listener") && found[1].message.contains("no such thing"));
    let synced = stream("web", TypeState::Synced, None);
    assert_eq!(conditions(said.clone(), &[synced], &Snapshots::default()), said);
}

#[test]
fn a_policy_is_programmed_when_all_that_enforce_it_have_said_so() {
    let snapshots = Snapshots::default();
    let carrying = snapshot(&[POLICY]);
    for pod in ["a", "b", "c", "d", "e"] {
        snapshots.publish(&scope(pod), Arc::clone(&carrying));
    }
    snapshots.publish(&scope("free"), snapshot(&[]));
    let newest = carrying.version(ResourceType::Listener);
    let earlier: Arc<str> = "an earlier one".into();
    let said = || vec![verdict(POLICY, "Accepted", true), verdict("Pod shop/a", "Programmed", true)];
    let programmed = |streams: &[StreamReport]| {
        let found = conditions(said(), streams, &snapshots);
        found.into_iter().find(|verdict| verdict.object == POLICY && verdict.condition == "Programmed")
    };
    let has = |pod| stream(pod, TypeState::Synced, Some(newest));

    assert_eq!(programmed(&[]), None, "nobody enforces it");
    assert_eq!(
        programmed(&[stream("free", TypeState::Rejected, None)]),
        None,
        "it has nothing to do with it"
    );
    let all = programmed(&[has("a"), has("b")]).unwrap();
    assert!(all.status && all.generation == 4 && all.message.ends_with(": 2"), "{all:?}");

    for (state, version) in [
        (TypeState::Synced, Some(&earlier)),
        (TypeState::Pending, Some(newest)),
        (TypeState::NotRequested, None),
    ] {
        let one = programmed(&[has("a"), stream("b", state, version)]).unwrap();
        assert!(!one.status && one.reason == "NotAcknowledged", "{one:?}");
        assert!(
            one.message.starts_with("1 of 2 proxies") && one.message.ends_with("sidecar shop/b"),
            "{one:?}"
        );
    }
    let silent = StreamReport { types: Vec::new(), ..has("a") };
    assert_eq!(programmed(&[silent]).unwrap().reason, "NotAcknowledged");

    let refusing = ["b", "c", "d", "e"].map(|pod| stream(pod, TypeState::Rejected, Some(newest)));
    let one = programmed(&[&[has("a")][..], &refusing].concat()).unwrap();
    assert!(!one.status && one.reason == "Refused" && one.message.starts_with("4 of 5 proxies"), "{one:?}");
    assert!(one.message.contains("sidecar shop/b, sidecar shop/c, sidecar shop/d and 1 more"), "{one:?}");
}

#[test]
fn a_policy_that_is_not_accepted_is_not_called_programmed() {
    let snapshots = Snapshots::default();
    let carrying = snapshot(&[POLICY]);
    snapshots.publish(&scope("a"), Arc::clone(&carrying));
    let said = vec![verdict(POLICY, "Accepted", false)];
    let has = stream("a", TypeState::Synced, Some(carrying.version(ResourceType::Listener)));
    assert_eq!(conditions(said.clone(), &[has], &snapshots), said);
    let owes = stream("a", TypeState::Pending, None);
    assert_eq!(conditions(said, &[owes], &snapshots).len(), 2);
}

#[test]
fn a_service_that_is_asked_is_a_cluster() {
    assert!(carries("ExternalAuthorizationPolicy shop/opa", "cluster"));
    assert!(!carries(POLICY, "cluster") && carries(POLICY, "listener"));
    assert!(!carries(POLICY, "route"));
}
