//! A rotation goes on without those who are named, and for everybody else as if they had not been.

use super::*;

/// A rotation of which proxy 3, the only one of its identity, hears nothing: its process stands still.
fn stuck() -> Model {
    let mut model = Model::new();
    model.happen(&Event::Start);
    [0, 1, 2].iter().for_each(|index| model.happen(&Event::Confirm(*index)));
    model
}

/// Everybody but proxy 3 does what it should, for so long.
fn others(model: &mut Model, seconds: u64) {
    for _ in 0..seconds / 5 {
        for index in [0, 1, 2] {
            model.happen(&Event::Confirm(index));
            model.happen(&Event::Renew(index));
        }
        model.happen(&Event::Pass(5));
        model.check();
    }
}

#[test]
fn a_proxy_that_stands_still_is_left_out_step_by_step_by_name() {
    let mut model = stuck();
    others(&mut model, 1_000);
    assert_eq!(
        model.rotation.phase,
        Phase::Distributing,
        "it holds its stream, so that it is waited for without end"
    );
    let whom = model.rotation.leave_out("shop/pod-3", model.now, &model.waiting()).unwrap();
    assert_eq!(whom, "sidecar shop/pod-3 (node proxy-3)");
    model.left_out.insert(3);
    model.keep();
    // A control plane that starts again knows it still.
    model.happen(&Event::Restart);
    (0..PROXIES).for_each(|index| model.happen(&Event::Connect(index)));
    assert_eq!(model.rotation.left_out(), [whom]);
    others(&mut model, 100);
    // Its leaf is over by now, so that only the last step could ask for it, and does not.
    assert_eq!(model.rotation.phase, Phase::Stable);
    assert!(model.rotation.left_out().is_empty(), "the next rotation waits for everybody");
}

#[test]
fn a_certificate_that_nobody_replaces_is_left_out_by_its_identity() {
    let mut model = Model::new();
    model.happen(&Event::Start);
    (0..PROXIES).for_each(|index| model.happen(&Event::Confirm(index)));
    model.happen(&Event::Pass(10));
    assert_eq!(model.rotation.phase, Phase::Signing);
    others(&mut model, 100);
    assert_eq!(model.rotation.phase, Phase::Signing, "a leaf of the old root lives");
    assert!(
        matches!(model.rotation.leave_out("proxy-3", model.now, &model.waiting()), Err(Refusal::NotWaited { waiting, .. }) if waiting == identity(3)),
        "this step asks for certificates, which are an identity's"
    );
    model.happen(&Event::WithoutIdentity(3));
    others(&mut model, 15);
    assert_eq!(model.rotation.phase, Phase::Retiring);
}

/// An id stands for what it has at that moment, not for a Pod that comes later.
#[test]
fn who_comes_or_renews_after_its_identity_was_left_out_is_waited_for() {
    let mut model = Model::new();
    model.happen(&Event::Start);
    model.happen(&Event::Pass(1));
    model.happen(&Event::WithoutIdentity(0));
    assert_eq!(
        model.waiting().iter().map(|one| one.who.as_str()).collect::<Vec<_>>(),
        ["sidecar shop/pod-3"]
    );
    (0..PROXIES).for_each(|index| model.happen(&Event::Confirm(index)));
    assert!(
        model.rotation.left_out().iter().all(|one| one.starts_with("certificates of")),
        "they live after all"
    );
    model.happen(&Event::Pass(1));
    model.happen(&Event::Renew(1));
    model.happen(&Event::Pass(10));
    assert_eq!(model.rotation.phase, Phase::Signing);
    model.happen(&Event::Renew(3));
    model.happen(&Event::Pass(61));
    let waiting = model.waiting();
    assert_eq!(waiting.iter().map(|one| one.who.as_str()).collect::<Vec<_>>(), [identity(0)]);
    assert!(waiting[0].what.contains("its certificate of the old root"), "one of three: {waiting:?}");
    model.check();
}

#[test]
fn who_is_not_waited_for_cannot_be_left_out_and_the_refusal_says_who_is() {
    let mut model = stuck();
    let waiting = model.waiting();
    for name in ["", "proxy-0", "shop/pod-0", "sidecar", identity(0).as_str(), "sidecar shop/pod-3\nproxy-3"]
    {
        let refusal = model.rotation.leave_out(name, 1_000, &waiting).unwrap_err();
        assert!(
            refusal.to_string().ends_with("waited for are: sidecar shop/pod-3 (node proxy-3)"),
            "{refusal}"
        );
    }
    assert!(model.rotation.left_out().is_empty());
    let none = model.rotation.leave_out("proxy-3", 1_000, &[]).unwrap_err();
    assert!(none.to_string().ends_with("waited for are: nobody"), "{none}");
    let mut stable = Rotation::stable("old".to_owned(), 0);
    assert_eq!(stable.leave_out("proxy-3", 1_000, &waiting), Err(Refusal::None));

    // Replicas of a Gateway are called the same, and each has a node id of its own.
    let replica = |node: &str| Waiting { node: Some(node.to_owned()), ..waiting[0].clone() };
    let replicas = [replica("one"), replica("two")];
    let refusal = model.rotation.leave_out("shop/pod-3", 1_000, &replicas).unwrap_err();
    assert!(refusal.to_string().ends_with("name one by its node id: one, two"), "{refusal}");
    assert_eq!(model.rotation.leave_out("two", 1_000, &replicas).unwrap(), "sidecar shop/pod-3 (node two)");
    assert!(model.rotation.is_left_out(&replicas[1]) && !model.rotation.is_left_out(&replicas[0]));
    // Another identity under its node id and title is another proxy.
    let other = Waiting { identity: Some(identity(0)), ..replica("two") };
    assert!(!model.rotation.is_left_out(&other));
}

#[test]
fn a_rotation_that_is_given_up_forgets_whom_it_left_out() {
    let mut model = stuck();
    model.happen(&Event::Without(3));
    assert_eq!(model.rotation.left_out().len(), 1);
    model.happen(&Event::Cancel);
    assert!(model.rotation.left_out().is_empty());
    model.happen(&Event::Start);
    assert!(model.waiting().iter().any(|one| one.who == "sidecar shop/pod-3"));
}
