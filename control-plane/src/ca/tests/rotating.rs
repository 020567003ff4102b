//! The rotation as the authority does it: on disk, in certificates and in what everybody is told to trust.

use std::collections::BTreeSet;

use super::*;
use crate::ca::rotation::{Roots, Witness};

fn fingerprints_of(authority: &Authority) -> Vec<String> {
    authority.report().roots.into_iter().map(|root| root.fingerprint).collect()
}

fn witness(authority: &Authority, confirmed: bool) -> Witness {
    let trusted: BTreeSet<String> = fingerprints_of(authority).into_iter().collect();
    Witness {
        proxy: "web-1".to_owned(),
        title: "sidecar shop/web-1".to_owned(),
        identity: id("web").to_string(),
        connected: 100,
        roots: if confirmed { Roots::Confirmed(trusted) } else { Roots::Unconfirmed },
    }
}

/// Nobody is connected, and leaves are left to expire.
pub(super) fn run_to_the_end(scene: &Scene, authority: &Authority) {
    for _ in 0..20 {
        scene.pass(25 * 3600);
        if authority.inner.look(&[]) == Phase::Stable {
            return;
        }
    }
    panic!("it does not end: {:?}", authority.report().rotation);
}

/// The files that hold keys, by their generations.
fn generations(scene: &Scene) -> BTreeSet<String> {
    let names = std::fs::read_dir(scene.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.iter().filter_map(|name| super::super::generation::id_of(name)).map(str::to_owned).collect()
}

#[allow(clippy::too_many_lines, reason = "one story, read from top to bottom")]
#[tokio::test]
async fn a_root_is_exchanged_without_a_moment_in_which_somebody_is_not_trusted() {
    let scene = Scene::new();
    let authority = scene.open();
    let mut trust = authority.trust();
    let own = async |trust: &mut watch::Receiver<Arc<Trust>>| {
        trust.borrow_and_update().bundles["cluster.local"]
            .iter()
            .flat_map(|pem| fingerprints(pem))
            .collect::<Vec<_>>()
    };
    let serving = authority.serving(ServerNames::default()).await.unwrap();
    let old = authority.issue(order("web")).await.unwrap();
    let own_before = serving.borrow().serial.clone();
    authority.rotate(None).await.unwrap();
    let trusted = own(&mut trust).await;
    assert_eq!((trusted.len(), &trusted[0]), (2, &old.root), "both, and the old one signs");
    let new = trusted[1].clone();
    assert_eq!(super::read(&scene.path(), "root-cert.pem").matches("BEGIN").count(), 2);
    assert!(authority.rotate(None).await.unwrap_err().to_string().contains("under way"));

    let unconfirmed = [witness(&authority, false)];
    for _ in 0..5 {
        scene.pass(10);
        assert_eq!(authority.inner.look(&unconfirmed), Phase::Distributing);
    }
    let waiting = authority.report().rotation.waiting;
    assert_eq!((waiting.len(), waiting[0].who.as_str()), (1, "sidecar shop/web-1"), "{waiting:?}");
    assert_eq!(authority.issue(order("web")).await.unwrap().root, old.root, "not before it is confirmed");
    let early = authority.issue(order("web")).await.unwrap();

    let confirmed = [witness(&authority, true)];
    authority.inner.look(&confirmed);
    scene.pass(10);
    // The earlier leaves have holders that nobody knows: one proxy has one leaf.
    assert_eq!(authority.inner.look(&confirmed), Phase::Distributing);
    scene.pass(24 * 3600 + 61);
    let latest = authority.issue(order("web")).await.unwrap();
    assert_eq!(latest.root, old.root);
    authority.inner.look(&confirmed);
    scene.pass(10);
    assert_eq!(authority.inner.look(&confirmed), Phase::Signing);
    assert_eq!(own(&mut trust).await, [new.clone(), old.root.clone()], "both, and the new one signs");
    assert_ne!(serving.borrow().serial, own_before, "half its life is over");
    let served_root = authority.leaf(&serving.borrow().serial).unwrap().root;
    assert_eq!(served_root, old.root, "bootstraps may know only the old one");
    assert!(authority.leaf(&early.serial).is_none(), "it is over");

    let renewed = Order { supersedes: Some(latest.serial.clone()), ..order("web") };
    let renewed = authority.issue(renewed).await.unwrap();
    assert_eq!(renewed.root, new);
    super::signing::verify(&renewed, scene.now()).unwrap();
    authority.inner.look(&confirmed);
    assert_eq!(
        authority.report().rotation.waiting[0].who,
        id("web").as_str(),
        "it may still use the old leaf"
    );
    scene.pass(61);
    authority.inner.look(&confirmed);
    scene.pass(10);
    assert_eq!(authority.inner.look(&confirmed), Phase::Retiring);
    assert_eq!(own(&mut trust).await, std::slice::from_ref(&new));
    assert_eq!(authority.leaf(&serving.borrow().serial).unwrap().root, new);
    assert_eq!(generations(&scene).len(), 2, "the old key is there until everybody has forgotten it");

    let forgotten = [witness(&authority, true)];
    authority.inner.look(&forgotten);
    scene.pass(10);
    assert_eq!(authority.inner.look(&forgotten), Phase::Stable);
    assert_eq!(generations(&scene).into_iter().collect::<Vec<_>>(), [new[..16].to_owned()]);
    assert!(!super::read(&scene.path(), "authority.json").contains("\"next\": \""));
}

#[tokio::test]
async fn a_rotation_goes_on_after_a_death_in_any_phase() {
    let scene = Scene::new();
    let mut authority = scene.open();
    authority.issue(order("web")).await.unwrap();
    authority.rotate(None).await.unwrap();
    let mut phases = Vec::new();
    for _ in 0..60 {
        drop(authority);
        authority = scene.open();
        let phase = authority.report().rotation.phase;
        let again = fingerprints_of(&authority);
        assert_eq!(
            again[0],
            authority.issue(Order { ttl: Some(Duration::from_secs(60)), ..order("pay") }).await.unwrap().root
        );
        phases.push(phase);
        if phase == Phase::Stable {
            break;
        }
        // Each life sees a gate clear for long enough, and no more.
        scene.pass(24 * 3600 + 61);
        authority.inner.look(&[]);
        scene.pass(10);
        authority.inner.look(&[]);
    }
    phases.dedup();
    assert_eq!(phases, [Phase::Distributing, Phase::Signing, Phase::Retiring, Phase::Stable]);
}

#[tokio::test]
async fn what_cannot_be_written_has_not_happened() {
    let scene = Scene::new();
    let authority = scene.open();
    let before = (fingerprints_of(&authority), authority.trust().borrow().clone());
    // A folder in the place of the draft: the state cannot be replaced.
    let draft = scene.path().join("authority.json.draft");
    std::fs::create_dir(&draft).unwrap();
    assert!(authority.rotate(None).await.is_err());
    assert_eq!((fingerprints_of(&authority), authority.trust().borrow().clone()), before);
    assert_eq!(authority.report().rotation.phase, Phase::Stable);
    std::fs::remove_dir(&draft).unwrap();
    authority.rotate(None).await.unwrap();
    std::fs::create_dir(&draft).unwrap();
    scene.pass(100);
    authority.inner.look(&[]);
    scene.pass(100);
    assert_eq!(authority.inner.look(&[]), Phase::Distributing, "the step is not taken");
    assert!(!authority.report().problems.is_empty());
    std::fs::remove_dir(&draft).unwrap();
    assert_ne!(authority.inner.look(&[]), Phase::Stable);
    drop(authority);
    scene.open();
}

#[tokio::test]
async fn a_rotation_that_is_given_up_leaves_the_old_root() {
    let scene = Scene::new();
    let authority = scene.open();
    let before = fingerprints_of(&authority);
    assert!(authority.cancel().await.is_err(), "there is none");
    authority.rotate(None).await.unwrap();
    authority.cancel().await.unwrap();
    assert_eq!(fingerprints_of(&authority), before);
    assert_eq!(generations(&scene).len(), 1);
    assert_eq!(super::read(&scene.path(), "root-cert.pem").matches("BEGIN").count(), 1);
    authority.rotate(None).await.unwrap();
}

#[tokio::test]
async fn the_admin_port_takes_commands_only_from_who_can_read_the_folder() {
    let (scene, other) = (Scene::new(), Scene::new());
    let authority = scene.open();
    drop(other.open());
    assert!(authority.admits(&pass(&scene.path()).unwrap()));
    assert!(!authority.admits(&pass(&other.path()).unwrap()), "of another folder");
    assert!(!authority.admits(""));
    let good = pass(&scene.path()).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    // {"alg":"none"}
    assert!(!authority.admits(&format!("eyJhbGciOiJub25lIn0.{}.", parts[1])));
    assert!(!authority.admits(&format!("eyJhbGciOiJub25lIn0.{}.{}", parts[1], parts[2])));
    assert!(pass(&scene.folder.path().join("nowhere")).is_err());
}

#[tokio::test]
async fn a_proxy_is_left_out_by_command_on_the_disk_and_for_everybody_to_see() {
    let scene = Scene::new();
    let authority = scene.open();
    let leave_out = async |authority: &Authority, name: &str| {
        authority.leave_out(name.to_owned()).await.map_err(|error| error.to_string())
    };
    assert!(leave_out(&authority, "web-1").await.unwrap_err().contains("no rotation is under way"));
    authority.rotate(None).await.unwrap();
    let stubborn = [witness(&authority, false)];
    authority.inner.look(&stubborn);
    let refused = leave_out(&authority, "web-2").await.unwrap_err();
    assert!(refused.contains("waited for are: sidecar shop/web-1 (node web-1)"), "{refused}");
    // What cannot be written has not happened.
    let draft = scene.path().join("authority.json.draft");
    std::fs::create_dir(&draft).unwrap();
    assert!(leave_out(&authority, "shop/web-1").await.is_err());
    std::fs::remove_dir(&draft).unwrap();
    assert!(authority.report().rotation.without.is_empty());

    leave_out(&authority, "shop/web-1").await.unwrap();
    let turn = authority.report().rotation;
    assert_eq!((turn.waiting.len(), turn.without), (0, vec!["sidecar shop/web-1 (node web-1)".to_owned()]));
    drop(authority);
    let authority = scene.open();
    assert_eq!(authority.report().rotation.without.len(), 1, "it outlives a restart");
    let mut phases = Vec::new();
    for _ in 0..10 {
        scene.pass(10);
        phases.push(authority.inner.look(&stubborn));
    }
    assert_eq!(phases.last(), Some(&Phase::Stable), "{phases:?}: {:?}", authority.report().rotation.waiting);
    assert!(authority.report().rotation.without.is_empty());
}

#[tokio::test]
async fn m3_who_is_denied_holds_up_no_rotation() {
    let scene = Scene::new();
    let authority = scene.open();
    authority.issue(order("web")).await.unwrap();
    authority.rotate(None).await.unwrap();
    let stubborn = [witness(&authority, false)];
    authority.inner.look(&stubborn);
    scene.pass(100);
    assert_eq!(authority.inner.look(&[]), Phase::Distributing, "it is waited for");
    std::fs::write(scene.path().join("denied"), id("web").as_str()).unwrap();
    let mut phases = Vec::new();
    for _ in 0..10 {
        scene.pass(10);
        phases.push(authority.inner.look(&stubborn));
    }
    assert_eq!(phases.last(), Some(&Phase::Stable), "{phases:?}: {:?}", authority.report().rotation.waiting);
}
