//! What is signed, and what is not.

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

/// Verifies a chain as a peer does, against its own last certificate.
fn verify(issued: &Issued, now: u64) -> Result<(), webpki::Error> {
    let ders: Vec<CertificateDer<'_>> =
        issued.chain.iter().map(|pem| pem::certificates(pem).unwrap().remove(0)).collect();
    let (leaf, rest) = ders.split_first().unwrap();
    let (root, between) = rest.split_last().unwrap();
    let anchor = webpki::anchor_from_trusted_cert(root).unwrap();
    webpki::EndEntityCert::try_from(leaf)?
        .verify_for_usage(
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
            &[anchor],
            between,
            UnixTime::since_unix_epoch(Duration::from_secs(now)),
            webpki::KeyUsage::client_auth(),
            None,
            None,
        )
        .map(|_| ())
}

#[tokio::test]
async fn a_leaf_says_who_its_holder_is_and_nothing_else() {
    let scene = Scene::new();
    let authority = scene.open();
    let issued = authority.issue(order("web")).await.unwrap();
    verify(&issued, scene.now()).unwrap();
    assert_eq!(verify(&issued, scene.now() + 24 * 3600 + 1).is_err(), true, "it lives for a day");
    assert_eq!(issued.chain.len(), 3, "leaf, issuing, root");
    let der = pem::certificates(&issued.chain[0]).unwrap().remove(0);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "without a subject the names are critical");
    assert_eq!(names.value.general_names, [GeneralName::URI(id("web").as_str())]);
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.any && extended.other.is_empty());
    let kinds: Vec<&ParsedExtension<'_>> =
        leaf.extensions().iter().map(|one| one.parsed_extension()).collect();
    assert!(kinds.iter().any(|kind| matches!(kind, ParsedExtension::SubjectKeyIdentifier(_))));
    assert!(kinds.iter().any(|kind| matches!(kind, ParsedExtension::AuthorityKeyIdentifier(_))));
    assert_eq!(leaf.raw_serial().len(), 16, "126 random bits");
    assert_eq!(pem::hex(leaf.raw_serial()), issued.serial);
    let validity = leaf.validity();
    assert_eq!(validity.not_before.timestamp(), scene.now() as i64 - 60);
    assert_eq!(validity.not_after.timestamp() as u64, issued.until);
    assert_eq!(authority.leaf(&issued.serial).unwrap().identity, id("web").as_str());
}

#[tokio::test]
async fn g4_no_caller_gets_a_longer_life_than_the_authority_gives() {
    let scene = Scene::new();
    let authority = scene.open();
    let life = async |ttl: Option<Duration>| {
        let issued = authority.issue(Order { ttl, ..order("web") }).await.unwrap();
        issued.until - scene.now()
    };
    assert_eq!(life(None).await, 24 * 3600);
    assert_eq!(life(Some(Duration::MAX)).await, 24 * 3600);
    assert_eq!(life(Some(Duration::from_secs(3600))).await, 3600);
    assert_eq!(life(Some(Duration::ZERO)).await, 60, "shorter ones expire between two clocks");
}
