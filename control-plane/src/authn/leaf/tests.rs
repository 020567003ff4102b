//! Which certificates speak for whom.

use super::*;
use crate::authn::tests::fixture::{NOW, Root, Says, WEB, at, root, trust};

fn reason(anchors: &Anchors, root: &Root, says: &Says<'_>) -> Reason {
    anchors.identify(&root.chain(says), at(NOW)).unwrap_err().reason
}

#[test]
fn a_leaf_of_this_mesh_speaks_for_its_uri() {
    let root = root("a");
    let anchors = Anchors::new(&trust(&[&root])).unwrap();
    let says = Says { dns: &["web.shop.svc"], ..Says::default() };
    let leaf = anchors.identify(&root.chain(&says), at(NOW)).unwrap();
    assert_eq!(leaf.identity.as_str(), WEB);
    assert_eq!(
        (leaf.serial.as_str(), leaf.not_before, leaf.not_after),
        ("4711", at(NOW - 60), at(NOW + 3600))
    );
    assert_eq!(leaf.root.len(), 64);
}

#[test]
fn a_certificate_of_a_workload_is_valid_and_has_one_uri_of_this_trust_domain() {
    let (ours, theirs) = (root("a"), root("a"));
    let anchors = Anchors::new(&trust(&[&ours])).unwrap();
    let uris = |uris| Says { uris, ..Says::default() };
    for (says, expected) in [
        (Says { until: NOW - 1, ..Says::default() }, Reason::CertificateExpired),
        (Says { until: NOW, ..Says::default() }, Reason::CertificateExpired),
        (Says { from: NOW + 60, until: NOW + 120, ..Says::default() }, Reason::CertificateUntrusted),
        (uris(&[]), Reason::CertificateIdentity),
        (uris(&[WEB, "spiffe://cluster.local/ns/shop/sa/db"]), Reason::CertificateIdentity),
        (uris(&[WEB, WEB]), Reason::CertificateIdentity),
        (uris(&["spiffe://other.example/ns/shop/sa/web"]), Reason::CertificateIdentity),
        (uris(&["spiffe://Cluster.local/ns/shop/sa/web"]), Reason::CertificateIdentity),
        (uris(&["https://cluster.local/ns/shop/sa/web"]), Reason::CertificateIdentity),
        (Says { authority: true, ..Says::default() }, Reason::CertificateUntrusted),
    ] {
        assert_eq!(reason(&anchors, &ours, &says), expected, "{:?}", says.uris);
    }
    // A root of the same name, of another mesh.
    assert_eq!(reason(&anchors, &theirs, &Says::default()), Reason::CertificateUntrusted);
    assert_eq!(anchors.identify(&[], at(NOW)).unwrap_err().reason, Reason::CertificateUntrusted);
}

#[test]
fn every_root_of_the_bundle_counts_and_is_named() {
    let (old, new) = (root("old"), root("new"));
    let both = Anchors::new(&trust(&[&new, &old])).unwrap();
    let (by_old, by_new) = (old.chain(&Says::default()), new.chain(&Says::default()));
    let roots = [&by_old, &by_new].map(|chain| both.identify(chain, at(NOW)).unwrap().root);
    assert_ne!(roots[0], roots[1]);
    let only_new = Anchors::new(&trust(&[&new])).unwrap();
    assert_eq!(only_new.identify(&by_old, at(NOW)).unwrap_err().reason, Reason::CertificateUntrusted);
    assert_eq!(only_new.identify(&by_new, at(NOW)).unwrap().root, roots[1]);
    // Another trust domain's roots speak for its own workloads only, and those do not call here.
    let mut federated = trust(&[&new]);
    federated.bundles.insert("other.example".to_owned(), vec![old.pem.clone()]);
    let federated = Anchors::new(&federated).unwrap();
    assert_eq!(federated.identify(&by_old, at(NOW)).unwrap_err().reason, Reason::CertificateUntrusted);
}

#[test]
fn the_revoked_and_the_denied_are_out() {
    let root = root("a");
    let mut trust = trust(&[&root]);
    trust.revocation.push(root.revoke(0x4711));
    trust.denied.push(WEB.to_owned());
    let anchors = Anchors::new(&trust).unwrap();
    assert_eq!(reason(&anchors, &root, &Says::default()), Reason::CertificateRevoked);
    let other = anchors.identify(&root.chain(&Says { serial: 0x4712, ..Says::default() }), at(NOW)).unwrap();
    assert_eq!(anchors.admit(&other.identity).unwrap_err().reason, Reason::Denied);
    assert_eq!(anchors.admit(&"spiffe://cluster.local/ns/shop/sa/db".parse().unwrap()), Ok(()));
}

#[test]
fn of_several_lists_of_one_issuer_each_counts() {
    let (root, other) = (root("a"), root("b"));
    let mut trust = trust(&[&root, &other]);
    trust.revocation.extend([root.revoke(1), root.revoke(0x4711), root.revoke(2)]);
    let anchors = Anchors::new(&trust).unwrap();
    assert_eq!(reason(&anchors, &root, &Says::default()), Reason::CertificateRevoked);
    let of = |root: &Root, serial| root.chain(&Says { serial, ..Says::default() });
    anchors.identify(&of(&root, 3), at(NOW)).unwrap();
    anchors.identify(&of(&other, 0x4711), at(NOW)).unwrap();
}

#[test]
fn l6_a_list_counts_for_what_stands_above_a_leaf_and_while_it_lasts() {
    let root = root("a");
    let issuing = root.below("issuing", 0x77);
    let middle = CertificateDer::from_pem_slice(issuing.pem.as_bytes()).unwrap();
    let chain = [issuing.leaf(&Says::default()).0, middle];
    let judged = |list: Option<String>| {
        let mut trust = trust(&[&root]);
        trust.revocation.extend(list);
        Anchors::new(&trust).unwrap().identify(&chain, at(NOW)).map(|leaf| leaf.serial)
    };
    assert_eq!(judged(None).unwrap(), "4711");
    assert_eq!(judged(Some(root.revoke(0x78))).unwrap(), "4711");
    assert_eq!(judged(Some(root.revoke(0x77))).unwrap_err().reason, Reason::CertificateRevoked);
    let over = judged(Some(root.revoke_until(0x78, 2026))).unwrap_err();
    assert!(over.reason == Reason::CertificateUntrusted && over.text.contains("is over"), "{over}");
}

#[test]
fn half_a_bundle_is_no_bundle() {
    let root = root("a");
    assert!(Anchors::new(&trust(&[])).is_err());
    let mut broken = trust(&[&root]);
    broken
        .bundles
        .get_mut("cluster.local")
        .unwrap()
        .push("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned());
    assert!(Anchors::new(&broken).is_err());
    let mut broken = trust(&[&root]);
    broken.revocation.push("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".to_owned());
    assert!(Anchors::new(&broken).is_err());
}

#[tokio::test]
async fn anchors_follow_trust_and_survive_a_bundle_that_cannot_be_used() {
    let (old, new) = (root("old"), root("new"));
    let (sender, receiver) = watch::channel(Arc::new(trust(&[&old])));
    let mut anchors = follow(receiver).unwrap();
    let chain = new.chain(&Says::default());
    assert!(anchors.borrow_and_update().identify(&chain, at(NOW)).is_err());
    sender.send_replace(Arc::new(trust(&[])));
    sender.send_replace(Arc::new(trust(&[&old, &new])));
    anchors.changed().await.unwrap();
    assert!(anchors.borrow().identify(&chain, at(NOW)).is_ok());
    let (_, none) = watch::channel(Arc::new(trust(&[])));
    assert!(follow(none).is_err());
}
