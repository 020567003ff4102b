//! What is signed, and what is not.

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

/// Verifies a chain as a peer does, against its own last certificate.
pub(super) fn verify(issued: &Issued, now: u64) -> Result<(), webpki::Error> {
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
    assert!(verify(&issued, scene.now() + 24 * 3600 + 1).is_err(), "it lives for a day");
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

#[tokio::test]
async fn g4_a_key_belongs_to_one_identity() {
    let scene = Scene::new();
    let authority = scene.open();
    let key = KeyPair::generate().unwrap();
    let with = |name: &str, key: &KeyPair| Order { request: request(&id(name), key), ..order(name) };
    authority.issue(with("web", &key)).await.unwrap();
    authority.issue(with("web", &key)).await.unwrap();
    let refused = authority.issue(with("pay", &key)).await;
    assert!(matches!(refused, Err(IssueError::Forbidden(_))), "{refused:?}");
    scene.pass(25 * 3600);
    authority.inner.look(&[]);
    authority.issue(with("pay", &key)).await.unwrap();
    let name = std::fs::read_dir(scene.path()).unwrap().map(|entry| entry.unwrap().path());
    let issuing = name.into_iter().find(|path| path.to_string_lossy().ends_with(".issuing.pem")).unwrap();
    let own = certificate::key(&std::fs::read_to_string(issuing).unwrap()).unwrap();
    let refused = authority.issue(with("web", &own)).await;
    assert!(matches!(refused, Err(IssueError::Forbidden(_))), "the authority's own key: {refused:?}");
}

#[tokio::test]
async fn g4_the_identity_is_the_callers_and_of_our_trust_domain() {
    let scene = Scene::new();
    let authority = scene.open();
    let stolen = Order { request: order("pay").request, ..order("web") };
    assert!(matches!(authority.issue(stolen).await, Err(IssueError::Forbidden(_))));
    let foreign: SpiffeId = "spiffe://elsewhere/ns/shop/sa/web".parse().unwrap();
    let request = request(&foreign, &KeyPair::generate().unwrap());
    let refused = authority.issue(Order { request, identity: foreign, ..order("web") }).await;
    assert!(matches!(refused, Err(IssueError::Forbidden(_))), "{refused:?}");
    assert_eq!(authority.report().live_leaves, 0);
}

#[tokio::test]
async fn one_identity_is_given_so_many_and_no_more() {
    let scene = Scene::new();
    let authority = Authority::open(Options { leaves_per_minute: 3, ..scene.options() }).unwrap();
    for _ in 0..3 {
        authority.issue(order("web")).await.unwrap();
    }
    let refused = authority.issue(order("web")).await;
    assert!(matches!(refused, Err(IssueError::TooMany { limit: 3, seconds: 60, .. })), "{refused:?}");
    authority.issue(order("pay")).await.unwrap();
    scene.pass(60);
    authority.issue(order("web")).await.unwrap();
}

#[tokio::test]
async fn a_denied_id_gets_nothing_from_the_moment_it_is_written_down() {
    let scene = Scene::new();
    let authority = scene.open();
    authority.issue(order("web")).await.unwrap();
    let denied = scene.path().join("denied");
    std::fs::write(&denied, format!("# left the company\n{}  # since today\n\n", id("web"))).unwrap();
    authority.inner.look(&[]);
    assert_eq!(authority.issue(order("web")).await, Err(IssueError::Denied(id("web").to_string())));
    assert!(authority.is_denied(&id("web")) && !authority.is_denied(&id("pay")));
    assert_eq!(authority.trust().borrow().denied, [id("web").as_str()]);
    // A slip of the pen does not let anybody in.
    std::fs::write(&denied, "not an id").unwrap();
    authority.inner.look(&[]);
    assert!(authority.is_denied(&id("web")));
    assert!(authority.report().problems[0].contains("line 1"), "{:?}", authority.report().problems);
    drop(authority);
    assert!(Authority::open(scene.options()).unwrap_err().to_string().contains("line 1"));
    std::fs::remove_file(&denied).unwrap();
    scene.open().issue(order("web")).await.unwrap();
}

#[tokio::test]
async fn the_control_plane_serves_under_its_names_and_renews_by_itself() {
    let scene = Scene::new();
    let authority = scene.open();
    let names = ServerNames {
        dns: vec!["control.example".to_owned()],
        addresses: vec!["127.0.0.1".parse().unwrap()],
    };
    let mut serving = authority.serving(names).await.unwrap();
    let first = Arc::clone(&serving.borrow_and_update());
    let (_, leaf) = X509Certificate::from_der(&first.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    assert_eq!(
        names,
        [
            GeneralName::URI("spiffe://cluster.local/ns/sidegate-system/sa/sidegate"),
            GeneralName::DNSName("sidegate.sidegate-system.svc"),
            GeneralName::DNSName("localhost"),
            GeneralName::DNSName("control.example"),
            GeneralName::IPAddress(&[127, 0, 0, 1]),
        ]
    );
    authority.inner.look(&[]);
    assert!(!serving.has_changed().unwrap());
    scene.pass(12 * 3600 + 1);
    authority.inner.look(&[]);
    assert!(serving.has_changed().unwrap(), "half of it is over");
    assert!(authority.leaf(&first.serial).unwrap().superseded.is_some());
}

#[tokio::test]
async fn l5_one_identity_does_not_use_up_everybodys_leaves() {
    let scene = Scene::new();
    let authority = scene.open();
    for index in 0..2_500 {
        let leaf = LiveLeaf {
            serial: format!("{index:032x}"),
            identity: id("web").to_string(),
            root: String::new(),
            key: index.to_string(),
            issued: scene.now(),
            until: scene.now() + 3600,
            proof: String::new(),
            superseded: None,
            revoked: None,
            issuer: String::new(),
            own: false,
        };
        authority.inner.state().ledger.insert(leaf);
    }
    assert_eq!(authority.issue(order("web")).await.unwrap_err().cause(), "full");
    authority.issue(order("pay")).await.unwrap();
}
