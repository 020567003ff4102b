//! Authorities that the user brings.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, DnType, IsCa, Issuer, KeyUsagePurpose, RsaKeySize};

use super::*;

/// A PKI of the user's: a root and an intermediate, on disk.
struct Pki {
    folder: PathBuf,
}

fn authority_params(name: &str, length: Option<u8>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "DE");
    params.distinguished_name.push(DnType::OrganizationName, "Example GmbH");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    super::super::leaf::set_validity(&mut params, START - 1000, START + 1000 * 86_400);
    params
}

impl Pki {
    fn make(scene: &Scene, name: &str, root_key: KeyPair, key: &KeyPair) -> Self {
        Self::with(scene, name, root_key, key, authority_params("Issuing CA", Some(0)))
    }

    fn with(scene: &Scene, name: &str, root_key: KeyPair, key: &KeyPair, params: CertificateParams) -> Self {
        let folder = scene.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        let root_params = authority_params(&format!("Root CA {name}"), None);
        let root = root_params.self_signed(&root_key).unwrap();
        let issuer = Issuer::new(root_params, root_key);
        let intermediate = params.signed_by(key, &issuer).unwrap();
        fs::write(folder.join("root.pem"), root.pem()).unwrap();
        fs::write(folder.join("cert.pem"), intermediate.pem()).unwrap();
        fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        Self { folder }
    }

    fn given(&self) -> Given {
        let file = |name: &str| self.folder.join(name);
        Given { certificate: file("cert.pem"), key: file("key.pem"), root: Some(file("root.pem")) }
    }
}

fn text(path: &std::path::Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn p256() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn options(scene: &Scene, given: Given) -> Options {
    Options { given: Some(given), ..scene.options() }
}

fn refusal(scene: &Scene, given: Given) -> String {
    Authority::open(options(scene, given)).unwrap_err().to_string()
}

#[tokio::test]
async fn an_intermediate_with_any_common_key_signs() {
    let p384 = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
    for (name, root, key) in [
        ("p384", p384(), p384()),
        ("rsa", rsa(RsaKeySize::_3072), rsa(RsaKeySize::_2048)),
        ("mixed", rsa(RsaKeySize::_2048), p256()),
    ] {
        let scene = Scene::new();
        let given = Pki::make(&scene, name, root, &key).given();
        let authority = Authority::open(options(&scene, given.clone())).unwrap();
        let issued = authority.issue(order("web")).await.unwrap();
        super::signing::verify(&issued, scene.now()).unwrap();
        assert_eq!(issued.chain[2], text(&given.root.unwrap()), "{name}");
        assert_eq!(issued.chain[1], text(&given.certificate), "{name}");
        assert!(!authority.report().roots[0].own);
        // Whoever starts it without the flags finds the same one.
        drop(authority);
        assert_eq!(scene.open().issue(order("web")).await.unwrap().root, issued.root, "{name}");
    }
}

#[tokio::test]
async fn a_root_alone_signs_too_and_leaves_never_outlive_it() {
    let scene = Scene::new();
    let folder = scene.folder.path();
    let key = p256();
    let mut params = authority_params("Root", None);
    super::super::leaf::set_validity(&mut params, START - 10, START + 600);
    fs::write(folder.join("root.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    let given = Given { certificate: folder.join("root.pem"), key: folder.join("key.pem"), root: None };
    let authority = Authority::open(options(&scene, given)).unwrap();
    let issued = authority.issue(order("web")).await.unwrap();
    assert_eq!(issued.chain.len(), 2, "leaf and root");
    super::signing::verify(&issued, scene.now()).unwrap();
    assert_eq!(issued.until, START + 600);
    let problems = authority.report().problems;
    assert!(problems.iter().any(|problem| problem.contains("expires in 0 days")), "{problems:?}");
    scene.pass(601);
    assert_eq!(
        authority.issue(order("web")).await,
        Err(IssueError::Unavailable("the key that signs has expired"))
    );
}

#[test]
fn what_cannot_sign_is_told_before_anything_is_served() {
    let scene = Scene::new();
    let key = p256();
    let good = Pki::make(&scene, "good", p256(), &key);
    let other = Pki::make(&scene, "other", p256(), &p256());
    let bad = |name: &str, change: fn(&mut CertificateParams)| {
        let mut params = authority_params("Issuing CA", Some(0));
        change(&mut params);
        Pki::with(&scene, name, p256(), &key, params).given()
    };
    let cases = [
        ("the private key is not the certificate's", Given { key: other.given().key, ..good.given() }),
        ("would not be accepted", Given { root: other.given().root, ..good.given() }),
        ("not self-signed", Given { root: None, ..good.given() }),
        ("No such file", Given { key: good.folder.join("missing.pem"), ..good.given() }),
        ("no private key", Given { key: good.given().certificate, ..good.given() }),
        ("CA:TRUE is missing", bad("leaf", |params| params.is_ca = IsCa::ExplicitNoCa)),
        ("keyCertSign", bad("usage", |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature])),
        ("has expired", bad("old", |params| super::super::leaf::set_validity(params, 1, START - 1))),
        (
            "not valid yet",
            bad("new", |params| super::super::leaf::set_validity(params, START + 60, START + 600)),
        ),
        (
            "would not be accepted",
            bad("constrained", |params| {
                params.name_constraints = Some(rcgen::NameConstraints {
                    permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("example.com".to_owned())],
                    excluded_subtrees: vec![],
                });
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
            }),
        ),
    ];
    for (told, given) in cases {
        let said = refusal(&scene, given);
        assert!(said.contains(told), "{told}: {said}");
        assert!(!said.contains("PRIVATE"), "{said}");
    }
    let encrypted = scene.folder.path().join("encrypted.pem");
    fs::write(
        &encrypted,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    assert!(refusal(&scene, Given { key: encrypted, ..good.given() }).contains("decrypt"));
    Authority::open(options(&scene, good.given())).unwrap();
}

#[test]
fn another_root_by_flags_is_no_rotation() {
    let scene = Scene::new();
    drop(scene.open());
    let given = Pki::make(&scene, "given", p256(), &p256()).given();
    assert!(refusal(&scene, given).contains("sidegate rotate-root"));
}

#[tokio::test]
async fn a_new_intermediate_of_the_same_root_is_taken_over() {
    let scene = Scene::new();
    let root_key = p256();
    let root_copy = KeyPair::try_from(root_key.serialized_der()).unwrap();
    let first = Pki::make(&scene, "first", root_key, &p256());
    let given = first.given();
    drop(Authority::open(options(&scene, given.clone())).unwrap());
    let key = p256();
    let params = authority_params("Issuing CA 2", Some(0));
    let issuer = Issuer::from_ca_cert_pem(&text(given.root.as_ref().unwrap()), root_copy).unwrap();
    fs::write(&given.certificate, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(&given.key, key.serialize_pem()).unwrap();
    let authority = Authority::open(options(&scene, given.clone())).unwrap();
    let issued = authority.issue(order("web")).await.unwrap();
    assert_eq!(issued.chain[1], text(&given.certificate));
}

#[tokio::test]
async fn a_given_root_is_rotated_to_a_given_root_and_does_not_come_back() {
    let scene = Scene::new();
    let old = Pki::make(&scene, "old", p256(), &p256()).given();
    let new = Pki::make(&scene, "new", p256(), &p256()).given();
    let authority = Authority::open(options(&scene, old.clone())).unwrap();
    assert!(authority.rotate(None).await.unwrap_err().to_string().contains("--new-cert"));
    authority.rotate(Some(new.clone())).await.unwrap();
    super::rotating::run_to_the_end(&scene, &authority);
    let issued = authority.issue(order("web")).await.unwrap();
    assert_eq!(issued.chain[2], text(new.root.as_ref().unwrap()));
    assert!(authority.rotate(Some(old.clone())).await.unwrap_err().to_string().contains("retired"));
    drop(authority);
    // The flags still name the old one.
    let again = Authority::open(options(&scene, old)).unwrap();
    assert_eq!(again.report().rotation.current, issued.root);
}

#[tokio::test]
async fn h6_our_own_root_given_back_by_flags_keeps_its_key() {
    let scene = Scene::new();
    let authority = scene.open();
    let root = authority.report().roots[0].fingerprint.clone();
    drop(authority);
    let file = |end: &str| scene.path().join(format!("{}{end}", &root[..16]));
    let issuing = scene.folder.path().join("issuing.pem");
    fs::copy(file(".issuing.pem"), &issuing).unwrap();
    let given =
        Given { certificate: issuing.clone(), key: issuing, root: Some(scene.path().join("root-cert.pem")) };
    let before = text(&file(".root.pem"));
    let authority = Authority::open(options(&scene, given)).unwrap();
    assert_eq!(text(&file(".root.pem")), before, "the root's key is nowhere else");
    assert!(authority.report().roots[0].own);
    authority.issue(order("web")).await.unwrap();
}
