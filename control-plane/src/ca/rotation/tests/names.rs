//! Node ids are free text: nobody confirms for somebody else by them, and nobody is forgotten for many of them.

use super::*;

fn leaf(index: usize) -> LiveLeaf {
    LiveLeaf {
        serial: index.to_string(),
        identity: identity(index),
        root: "old".to_owned(),
        key: index.to_string(),
        issued: 90,
        until: 90 + SETTINGS.leaf_life,
        proof: String::new(),
        superseded: None,
        revoked: None,
        issuer: String::new(),
        own: false,
    }
}

fn witness(index: usize, node: &str, confirmed: bool) -> Witness {
    let roots = ["old", "new"].map(str::to_owned).into();
    Witness {
        proxy: node.to_owned(),
        title: format!("sidecar shop/pod-{index}"),
        identity: identity(index),
        connected: 50,
        roots: if confirmed { Roots::Confirmed(roots) } else { Roots::Unconfirmed },
    }
}

fn waits(rotation: &mut Rotation, now: u64, witnesses: &[Witness], leaves: &[LiveLeaf]) -> Vec<String> {
    let world = World { witnesses, leaves };
    rotation.look(now, &world, &SETTINGS);
    let waiting = rotation.waiting(now, &world, &SETTINGS);
    waiting.into_iter().map(|waiting| waiting.who).collect()
}

#[test]
fn m2_nobody_confirms_by_the_node_id_of_another() {
    let mut rotation = Rotation::stable("old".to_owned(), 0);
    rotation.start("new".to_owned(), 100).unwrap();
    let leaves = [leaf(0), leaf(3)];
    let victim = witness(0, "node", false);
    assert_eq!(waits(&mut rotation, 101, std::slice::from_ref(&victim), &leaves).len(), 2);
    // The victim is between two connections; another identity, and then another Pod of the same one, come under its id.
    for liar in [3, 1] {
        let left = waits(&mut rotation, 102, &[witness(liar, "node", true)], &leaves);
        assert!(left.contains(&victim.title), "{liar}: {left:?}");
    }
    let both = [witness(3, "node", true), witness(0, "node", true), victim];
    waits(&mut rotation, 103, &both, &leaves);
    let left = waits(&mut rotation, 104, &both[..1], &leaves);
    assert_eq!(left, ["sidecar shop/pod-0"], "one of its two streams had not confirmed");
}

#[test]
fn m2_what_an_earlier_version_remembered_is_the_same_proxy() {
    let mut rotation = Rotation::stable("old".to_owned(), 0);
    rotation.start("new".to_owned(), 100).unwrap();
    waits(&mut rotation, 101, &[witness(0, "node", false)], &[leaf(0)]);
    let mut kept = serde_json::to_value(&rotation).unwrap();
    let seen = kept["seen"].as_object_mut().unwrap();
    let one = seen.values().next().unwrap().clone();
    seen.clear();
    seen.insert("node".to_owned(), one);
    let mut rotation = serde_json::from_value::<Rotation>(kept).unwrap().resumed(102);
    assert_eq!(rotation.seen.len(), 1);
    waits(&mut rotation, 103, &[witness(0, "node", true)], &[leaf(0)]);
    assert_eq!(rotation.seen.len(), 1);
    assert!(waits(&mut rotation, 104, &[], &[]).is_empty());
}

#[test]
fn m3_made_up_proxies_of_one_identity_are_its_own_trouble() {
    let mut rotation = Rotation::stable("old".to_owned(), 0);
    rotation.start("new".to_owned(), 100).unwrap();
    let crowd: Vec<Witness> = (0..SEEN_OF_ONE + 10).map(|node| witness(3, &node.to_string(), true)).collect();
    let leaves = [leaf(0), leaf(3)];
    waits(&mut rotation, 101, &crowd, &leaves);
    assert_eq!(rotation.seen.len(), SEEN_OF_ONE);
    let left = waits(&mut rotation, 102, &[witness(0, "node", true)], &leaves);
    assert!(left.iter().all(|who| who.contains(&identity(3))), "{left:?}");
    assert!(left.iter().any(|who| who.contains("than can be remembered")), "{left:?}");
    let without = waits(&mut rotation, 103, &[witness(0, "node", true)], &leaves[..1]);
    assert!(without.is_empty(), "denied, or without a leaf that lives: {without:?}");
}
