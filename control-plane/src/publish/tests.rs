//! Which scopes are published when, under a paused clock.

use gateway_api::experimental::gateways::Gateway;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::timeout;

use super::*;
use crate::model::Name;
use crate::snapshot::SnapshotReader;

fn view(generation: u64, gateways: &[&str]) -> Arc<View> {
    let document = serde_json::json!({
        "metadata": { "namespace": "shop", "name": "web" },
        "spec": { "gatewayClassName": "sidegate", "listeners": [] },
    });
    let gateway: Arc<Gateway> = Arc::new(serde_json::from_value(document).unwrap());
    let gateways = gateways.iter().map(|name| (Name::new("shop", *name), Arc::clone(&gateway))).collect();
    Arc::new(View { generation, gateways, ..View::default() })
}

/// A Gateway as it is published before anyone asks: where there is an authority, for proxies that have proven who they are.
fn gateway(name: &str) -> Scope {
    Scope::Gateway { gateway: Name::new("shop", name), foreign: false, secure: true }
}

fn sidecar(name: &str) -> Scope {
    Scope::Sidecar { pod: Name::new("shop", name), foreign: false, secure: false }
}

fn trust(domain: &str) -> Trust {
    let bundles = [(domain.to_owned(), vec!["root".to_owned()])].into_iter().collect();
    Trust { trust_domain: domain.to_owned(), bundles, ..Trust::default() }
}

struct World {
    views: watch::Sender<Arc<View>>,
    trust: watch::Sender<Arc<Trust>>,
    snapshots: Snapshots,
    _verdicts: watch::Receiver<Verdicts>,
}

fn start(first: Arc<View>) -> World {
    let (views, receiver) = watch::channel(first);
    let (sender, _verdicts) = watch::channel(Verdicts::default());
    let snapshots = Snapshots::default();
    let (trust, trusts) = watch::channel(Arc::new(trust("none.test")));
    tokio::spawn(run(receiver, Some(trusts), snapshots.clone(), sender));
    World { views, trust, snapshots, _verdicts }
}

/// The first snapshot of this generation or a later one.
async fn reach(reader: &mut SnapshotReader, generation: u64) -> Arc<Snapshot> {
    let is_there =
        |latest: &Option<Arc<Snapshot>>| latest.as_ref().is_some_and(|one| one.generation >= generation);
    reader.wait_for(is_there).await.unwrap().clone().unwrap()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_the_first_full_view() {
    let world = start(Arc::default());
    let mut reader = world.snapshots.follow(&sidecar("a"));
    assert!(timeout(Duration::from_secs(3600), reader.changed()).await.is_err());
    world.views.send_replace(view(1, &[]));
    assert_eq!(reach(&mut reader, 1).await.generation, 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_scope_is_served_from_the_view_that_is_there() {
    let world = start(view(5, &[]));
    assert_eq!(reach(&mut world.snapshots.follow(&sidecar("a")), 5).await.generation, 5);
    assert_eq!(reach(&mut world.snapshots.follow(&sidecar("b")), 5).await.generation, 5);
}

#[tokio::test(start_paused = true)]
async fn changes_close_together_make_one_round() {
    let world = start(view(1, &[]));
    let mut reader = world.snapshots.follow(&sidecar("a"));
    assert_eq!(reach(&mut reader, 1).await.generation, 1);
    let begin = Instant::now();
    for generation in 2..=50 {
        world.views.send_replace(view(generation, &[]));
        tokio::task::yield_now().await;
    }
    assert_eq!(reach(&mut reader, 2).await.generation, 50, "one round for all");
    assert!(begin.elapsed() <= DEBOUNCE_LIMIT + Duration::from_millis(1), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_world_that_never_rests_is_published_all_the_same() {
    let world = start(view(1, &[]));
    let mut reader = world.snapshots.follow(&sidecar("a"));
    reach(&mut reader, 1).await;
    let views = world.views.clone();
    tokio::spawn(async move {
        for generation in 2.. {
            views.send_replace(view(generation, &[]));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let begin = Instant::now();
    reach(&mut reader, 2).await;
    assert!(begin.elapsed() <= DEBOUNCE_LIMIT + Duration::from_millis(2), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn equal_resources_are_shared_between_generations() {
    let world = start(view(1, &[]));
    let mut reader = world.snapshots.follow(&sidecar("a"));
    let first = reach(&mut reader, 1).await;
    world.views.send_replace(view(2, &[]));
    let second = reach(&mut reader, 2).await;
    assert_eq!(second.generation, 2);
    assert!(Arc::ptr_eq(&first.resources, &second.resources));
}

#[tokio::test(start_paused = true)]
async fn gateways_are_published_before_anyone_asks_and_unfollowed_scopes_are_forgotten() {
    let world = start(view(1, &["web"]));
    let mut kept = world.snapshots.follow(&sidecar("kept"));
    let mut left = world.snapshots.follow(&sidecar("left"));
    reach(&mut kept, 1).await;
    reach(&mut left, 1).await;
    // Within a round the order is open; a later round is behind all of an earlier one.
    for generation in 2..4 {
        world.views.send_replace(view(generation, &["web"]));
        reach(&mut kept, generation).await;
    }
    assert!(world.snapshots.latest(&gateway("web")).is_some());
    drop(left);
    for generation in 4..6 {
        world.views.send_replace(view(generation, &["api"]));
        reach(&mut kept, generation).await;
    }
    let scopes: Vec<Scope> = world.snapshots.scopes().into_iter().map(|(scope, _)| scope).collect();
    assert_eq!(scopes, [gateway("api"), sidecar("kept")]);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_trust_reaches_those_who_are_secure_and_nobody_else() {
    let pod: Arc<Pod> = Arc::new(
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "namespace": "shop",
                "name": "a",
                "annotations": { "sidegate.dev/inbound": "8080:15006" },
            },
            "status": { "podIP": "10.0.0.1" },
        }))
        .unwrap(),
    );
    let pods = [(Name::new("shop", "a"), pod)].into_iter().collect();
    let world = start(Arc::new(View { generation: 1, pods, ..View::default() }));
    let secure = Scope::Sidecar { pod: Name::new("shop", "a"), foreign: false, secure: true };
    let mut proven = world.snapshots.follow(&secure);
    let mut unproven = world.snapshots.follow(&sidecar("a"));
    reach(&mut proven, 1).await;
    let before = reach(&mut unproven, 1).await;
    for domain in ["one.test", "two.test"] {
        world.trust.send_replace(Arc::new(trust(domain)));
        let has_it = |latest: &Option<Arc<Snapshot>>| {
            let roots = latest.as_ref().and_then(|one| one.resources.secrets.get("ROOTCA"));
            roots.is_some_and(|roots| roots.body.windows(domain.len()).any(|part| part == domain.as_bytes()))
        };
        proven.wait_for(has_it).await.unwrap();
    }
    assert!(Arc::ptr_eq(&before.resources, &reach(&mut unproven, 1).await.resources));
}

#[tokio::test(start_paused = true)]
async fn views_are_published_when_nobody_will_ever_say_whom_to_trust() {
    let world = start(view(1, &[]));
    let mut reader = world.snapshots.follow(&sidecar("a"));
    drop(world.trust);
    world.views.send_replace(view(2, &[]));
    assert_eq!(reach(&mut reader, 2).await.generation, 2);
}

#[test]
fn a_false_verdict_of_one_scope_is_not_hidden_by_another() {
    let verdict = |object: &str, status: bool| Verdict {
        object: object.to_owned(),
        generation: 1,
        condition: "ResolvedRefs".to_owned(),
        status,
        reason: "R".to_owned(),
        message: String::new(),
    };
    let all = [verdict("b", true), verdict("a", true), verdict("a", false), verdict("a", true)];
    assert_eq!(merge(all.iter()), [verdict("a", false), verdict("b", true)]);
}
