//! What counts no more: on lists that peers verify, on disk, and at the authority itself.

use std::time::SystemTime;

use super::*;
use crate::authn::leaf::Anchors;
use crate::authn::refusal;

/// What the control plane says of a chain as client certificate.
fn judge(authority: &Authority, issued: &Issued, now: u64) -> Result<(), refusal::Reason> {
    let anchors = Anchors::new(&authority.trust().borrow()).unwrap();
    let ders = issued.chain.iter().map(|pem| pem::certificates(pem).unwrap().remove(0)).collect::<Vec<_>>();
    let at: SystemTime = UNIX_EPOCH + Duration::from_secs(now);
    anchors.identify(&ders[..ders.len() - 1], at).map(|_| ()).map_err(|refusal| refusal.reason)
}

const STOLEN: Reason = Reason::KeyCompromise;

#[tokio::test]
async fn a_revoked_leaf_counts_no_more_and_others_do() {
    let scene = Scene::new();
    let authority = scene.open();
    let key = KeyPair::generate().unwrap();
    let again = || Order { request: request(&id("web"), &key), ..order("web") };
    let (bad, good) = (authority.issue(again()).await.unwrap(), authority.issue(order("web")).await.unwrap());
    let printed = bad.serial.to_uppercase();
    authority.revoke(printed.clone(), STOLEN, false).await.unwrap();
    authority.revoke(printed, STOLEN, false).await.unwrap();
    assert_eq!(judge(&authority, &bad, scene.now()), Err(refusal::Reason::CertificateRevoked));
    judge(&authority, &good, scene.now()).unwrap();
    assert_eq!(authority.leaf(&bad.serial).unwrap().revoked, Some(scene.now()));
    let refused = authority.issue(again()).await;
    assert!(matches!(refused, Err(IssueError::Forbidden(_))), "its key gets nothing: {refused:?}");
    let Withdrawn { certificates, identities } = authority.withdrawn().await;
    assert_eq!((certificates.len(), identities.len()), (1, 0));
    assert_eq!(certificates[0].identity.as_deref(), Some(id("web").as_str()));
    assert_eq!(authority.report().revoked_leaves, 1);

    // As before after a restart, even when its holder had replaced it, until it is over.
    drop(authority);
    scene.pass(3600);
    let authority = scene.open();
    assert_eq!(judge(&authority, &bad, scene.now()), Err(refusal::Reason::CertificateRevoked));
    assert!(authority.leaf(&bad.serial).unwrap().revoked.is_some());
    let first = authority.trust().borrow().revocation.clone();
    let third = authority.issue(order("web")).await.unwrap();
    authority.revoke(third.serial.clone(), STOLEN, false).await.unwrap();
    let second = authority.trust().borrow().revocation.clone();
    assert_eq!((first.len(), second.len()), (1, 1), "one list of one issuer");
    scene.pass(23 * 3600 + 90);
    authority.inner.look(&[]);
    assert_eq!(authority.withdrawn().await.certificates.len(), 1, "the first is over");
    scene.pass(3600);
    authority.inner.look(&[]);
    assert_eq!(authority.trust().borrow().revocation, Vec::<String>::new());
}

#[tokio::test]
async fn who_is_not_in_the_ledger_is_revoked_by_force_alone() {
    let scene = Scene::new();
    let authority = scene.open();
    let issued = authority.issue(order("web")).await.unwrap();
    let next = Order { supersedes: Some(issued.serial.clone()), ..order("web") };
    authority.issue(next).await.unwrap();
    scene.pass(61);
    authority.inner.look(&[]);
    let refused = authority.revoke(issued.serial.clone(), STOLEN, false).await.unwrap_err();
    assert!(refused.to_string().contains("--force"), "{refused}");
    judge(&authority, &issued, scene.now()).unwrap();
    authority.revoke(issued.serial.clone(), STOLEN, true).await.unwrap();
    assert_eq!(judge(&authority, &issued, scene.now()), Err(refusal::Reason::CertificateRevoked));
    for wrong in ["", "xyz", &"ab".repeat(21)] {
        authority.revoke(wrong.to_owned(), STOLEN, true).await.unwrap_err();
    }
}

#[tokio::test]
async fn an_identity_is_denied_and_let_in_again_beside_what_people_wrote() {
    let scene = Scene::new();
    let authority = scene.open();
    let denied = scene.path().join("denied");
    let theirs = format!("# ours\n{} # left", id("gone"));
    std::fs::write(&denied, &theirs).unwrap();
    authority.deny(id("web"), STOLEN).await.unwrap();
    authority.deny(id("web"), STOLEN).await.unwrap();
    assert!(authority.is_denied(&id("web")) && authority.is_denied(&id("gone")));
    assert_eq!(authority.issue(order("web")).await, Err(IssueError::Denied(id("web").to_string())));
    assert_eq!(read(&scene.path(), "denied"), format!("{theirs}\n{} # key-compromise\n", id("web")));
    authority.admit_again(id("web")).await.unwrap();
    assert_eq!(read(&scene.path(), "denied"), format!("{theirs}\n"));
    authority.issue(order("web")).await.unwrap();
    authority.admit_again(id("web")).await.unwrap_err();
    let own = SpiffeId::workload("cluster.local", "sidegate-system", "sidegate").unwrap();
    authority.deny(own, STOLEN).await.unwrap_err();
    std::fs::write(&denied, "no id\n").unwrap();
    let broken = authority.deny(id("web"), STOLEN).await.unwrap_err();
    assert!(broken.to_string().contains("line 1"), "{broken}");
    std::fs::remove_file(&denied).unwrap();
    std::os::unix::fs::symlink(scene.path().join("elsewhere"), &denied).unwrap();
    authority.deny(id("web"), STOLEN).await.unwrap_err();
}

#[tokio::test]
async fn the_control_plane_shows_another_certificate_before_its_own_is_revoked() {
    let scene = Scene::new();
    let authority = scene.open();
    let mut serving = authority.serving(ServerNames::default()).await.unwrap();
    let first = serving.borrow_and_update().serial.clone();
    authority.revoke(first.clone(), STOLEN, false).await.unwrap();
    assert_ne!(serving.borrow_and_update().serial, first);
}

#[tokio::test]
async fn a_leaf_of_a_key_that_is_gone_is_revoked_by_its_identity_alone() {
    let scene = Scene::new();
    let authority = scene.open();
    scene.pass(276 * 86_400);
    let issued = authority.issue(order("web")).await.unwrap();
    let before = authority.issue(order("web")).await.unwrap();
    authority.revoke(before.serial.clone(), STOLEN, false).await.unwrap();
    authority.inner.look(&[]);
    let refused = authority.revoke(issued.serial.clone(), STOLEN, false).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("--id {}", id("web"))), "{refused}");
    assert_eq!(judge(&authority, &before, scene.now()), Err(refusal::Reason::CertificateRevoked));
    judge(&authority, &issued, scene.now()).unwrap();
}

#[tokio::test]
async fn what_was_revoked_is_never_forgotten_in_silence() {
    let scene = Scene::new();
    let authority = scene.open();
    let issued = authority.issue(order("web")).await.unwrap();
    authority.revoke(issued.serial, STOLEN, false).await.unwrap();
    drop(authority);
    for text in ["", "{}", r#"{"version":2,"number":1,"revoked":[],"lists":[]}"#] {
        std::fs::write(scene.path().join("revoked.json"), text).unwrap();
        let error = Authority::open(scene.options()).unwrap_err().to_string();
        assert!(error.contains("revoked.json") && error.contains("backup"), "{error}");
    }
}
