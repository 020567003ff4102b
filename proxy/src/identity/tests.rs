//! What the keeper publishes, tells and decides, call by call. Whom it asks is in the scenarios.

use std::path::PathBuf;
use std::time::SystemTime;

use futures_util::FutureExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, IsCa, Issuer,
    KeyPair, SanType,
};
use sidegate_xds::envoy::config::core::v3::DataSource;
use sidegate_xds::envoy::config::core::v3::data_source::Specifier;
use sidegate_xds::resource::to_any;
use tempfile::TempDir;

use super::*;
use crate::tls::Roots;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn root(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

const WEB: &str = "spiffe://td/ns/shop/sa/web";
const HOUR: Duration = Duration::from_secs(3600);

impl Authority {
    /// A certificate that is good for a day.
    fn leaf(&self) -> Leaf {
        let request = request::Request::new(None).unwrap();
        let key = CertificateSigningRequestParams::from_pem(&request.csr).unwrap().public_key;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(WEB.try_into().unwrap())];
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + 24 * HOUR).into();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().pem();
        let roots = Roots::from_pem(self.pem.as_bytes(), false).unwrap();
        request.accept(&[leaf], &roots, None, SystemTime::now()).unwrap()
    }
}

/// An identity whose files are in a folder of its own.
struct Scene {
    _folder: TempDir,
    root_file: PathBuf,
    handle: Handle,
    keeper: Keeper,
}

fn scene(authority: &Authority, change: impl FnOnce(&mut Identity)) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let root_file = folder.path().join("roots.pem");
    std::fs::write(&root_file, &authority.pem).unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "a.b.c").unwrap();
    let mut settings = Identity::new("ca.test:15012", None, &root_file, &token_file, None).unwrap();
    change(&mut settings);
    let (handle, keeper) = new(settings);
    Scene { _folder: folder, root_file, handle, keeper }
}

fn secret_of(roots: &str) -> Any {
    let trusted_ca = Some(DataSource {
        specifier: Some(Specifier::InlineString(roots.to_owned())),
        ..DataSource::default()
    });
    let context = wire::CertificateValidationContext { trusted_ca, ..Default::default() };
    let kind = Some(wire::secret::Type::ValidationContext(context));
    to_any(&wire::Secret { name: ROOTS.to_owned(), r#type: kind })
}

impl Scene {
    fn attempts(&self, outcome: Outcome) -> u64 {
        let at = Outcome::ALL.iter().position(|(one, _)| *one == outcome).unwrap();
        self.handle.status().read().attempts[at]
    }

    /// Whether another certificate will be asked for within that time, though the wall's clock stands.
    fn asks_within(&mut self, time: Duration) -> bool {
        let now = Moment::now();
        self.keeper.renewal.step(Moment { steady: now.steady + time, ..now }) == Step::Ask
    }
}

#[test]
fn what_was_issued_is_in_force_and_told() {
    let authority = root("ours");
    let mut scene = scene(&authority, |_| {});
    assert!(scene.handle.ready().now_or_never().is_none());
    assert!(scene.handle.status().read().waits_for().unwrap().contains("a certificate from ca.test:15012"));
    scene.keeper.issued(authority.leaf());
    scene.handle.changed().now_or_never().unwrap();
    assert!(scene.handle.changed().now_or_never().is_none(), "nothing else has changed");
    scene.handle.ready().now_or_never().unwrap();
    let leaf = scene.handle.material().leaf.unwrap();
    assert_eq!(leaf.id.as_str(), WEB);
    let report = scene.handle.status().read();
    assert_eq!(report.leaf.as_ref(), Some(leaf.facts()));
    assert_eq!((report.waits_for(), report.expired, report.last_failure), (None, None, None));
    assert_eq!((scene.attempts(Outcome::Renewed), scene.attempts(Outcome::Token)), (1, 0));
    assert!(!scene.asks_within(10 * HOUR), "by the wall's clock nothing is due");
}

#[test]
fn a_server_of_ours_has_the_same_certificate_with_its_key() {
    let authority = root("ours");
    let mut scene = scene(&authority, |_| {});
    let mut own = own::Own::of(scene.handle.clone());
    assert!(own.certificate().is_none());
    scene.keeper.answered(Err(Failure::new(Outcome::Refused, "not you")));
    assert_eq!(own.last_failure().as_deref(), Some("not you"));
    scene.keeper.issued(authority.leaf());
    own.changed().now_or_never().unwrap();
    assert!(own.changed().now_or_never().is_none());
    assert_eq!(own.last_failure(), None);
    let (certificate, leaf) = (own.certificate().unwrap(), scene.handle.material().leaf.unwrap());
    assert_eq!((&certificate.chain, &*certificate.key), (&leaf.chain, leaf.key_pem()));
    assert_eq!(*certificate.serial, *leaf.facts().serial);
    assert_eq!(certificate.until, leaf.facts().not_after);
    let shown = format!("{certificate:?}");
    assert!(shown.contains(&certificate.serial) && !shown.contains("PRIVATE"), "{shown}");
    // Its trust is told as a proxy's is: of another root, the certificate is replaced soon.
    own.trust(&root("another").pem);
    scene.keeper.discover();
    assert!(scene.asks_within(Duration::from_secs(4)));
}

#[test]
fn a_failure_is_told_until_the_next_certificate() {
    let authority = root("ours");
    let mut scene = scene(&authority, |_| {});
    assert!(scene.asks_within(Duration::ZERO));
    scene.keeper.answered(Err(Failure::new(Outcome::Refused, "not you")));
    assert_eq!((scene.attempts(Outcome::Refused), scene.attempts(Outcome::Renewed)), (1, 0));
    let waits = scene.handle.status().read().waits_for().unwrap();
    assert_eq!(waits, "waiting for a certificate from ca.test:15012: not you");
    assert!(!scene.asks_within(Duration::ZERO), "not at once again");
    assert!(scene.asks_within(Duration::from_secs(1)));
    scene.keeper.answered(Ok(authority.leaf()));
    assert_eq!(scene.handle.status().read().last_failure, None);
    assert!(scene.handle.material().leaf.is_some());
}

#[test]
fn what_is_over_is_shown_no_more() {
    let authority = root("ours");
    let mut scene = scene(&authority, |_| {});
    scene.keeper.issued(authority.leaf());
    let until = scene.handle.material().leaf.unwrap().facts().not_after;
    scene.keeper.expire();
    assert!(scene.handle.material().leaf.is_none());
    let report = scene.handle.status().read();
    assert_eq!((report.leaf.as_ref(), report.expired), (None, Some(until)));
    assert!(report.waits_for().unwrap().contains("certificate expired at"));
    scene.keeper.issued(authority.leaf());
    assert_eq!(scene.handle.status().read().expired, None);
}

#[test]
fn roots_are_published_when_they_have_changed_and_kept_when_they_cannot_be_read() {
    let (authority, other) = (root("ours"), root("another"));
    let mut scene = scene(&authority, |_| {});
    scene.keeper.look_at_roots();
    scene.handle.changed().now_or_never().unwrap();
    let one = scene.handle.material().roots.unwrap();
    assert_eq!(scene.handle.status().read().roots.len(), 1);
    scene.keeper.look_at_roots();
    assert!(scene.handle.changed().now_or_never().is_none(), "the same roots");
    std::fs::write(&scene.root_file, "half").unwrap();
    scene.keeper.look_at_roots();
    assert_eq!(scene.handle.material().roots.unwrap(), one);
    std::fs::write(&scene.root_file, format!("{}{}", authority.pem, other.pem)).unwrap();
    scene.keeper.look_at_roots();
    scene.handle.changed().now_or_never().unwrap();
    assert_ne!(scene.handle.material().roots.unwrap(), one);
    assert_eq!(scene.handle.status().read().roots.len(), 2);
}

#[test]
fn a_certificate_of_a_root_that_does_not_sign_now_is_replaced_soon() {
    let (authority, next) = (root("ours"), root("next"));
    let first_ours = format!("{}{}", authority.pem, next.pem);
    let first_theirs = format!("{}{}", next.pem, authority.pem);
    for (roots, external, soon) in [
        (&first_ours, false, false),
        (&first_theirs, false, true),
        (&next.pem, false, true),
        // Of an external authority nobody knows which one signs.
        (&first_theirs, true, false),
        (&next.pem, true, true),
    ] {
        for told_before in [true, false] {
            let mut scene = scene(&authority, |settings| settings.external = external);
            if told_before {
                scene.handle.trust(&secret_of(roots));
                scene.keeper.discover();
                assert_eq!(scene.keeper.trust.distributed().map(drop), None, "whose bundle is not known yet");
            }
            scene.keeper.issued(authority.leaf());
            if !told_before {
                scene.handle.trust(&secret_of(roots));
                scene.keeper.discover();
            }
            assert_eq!(scene.asks_within(Duration::from_secs(4)), soon, "{external} {told_before}");
            assert!(scene.handle.material().roots.is_some());
        }
    }
}

#[test]
fn what_was_issued_later_is_held_against_the_root_that_signs_now() {
    let (authority, next) = (root("ours"), root("next"));
    let mut scene = scene(&authority, |_| {});
    scene.keeper.issued(authority.leaf());
    scene.handle.trust(&secret_of(&format!("{}{}", next.pem, authority.pem)));
    scene.keeper.discover();
    scene.keeper.issued(authority.leaf());
    assert!(scene.asks_within(Duration::from_secs(10)), "again of the old root");
    scene.keeper.issued(next.leaf());
    assert!(!scene.asks_within(HOUR));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_heeded_once_a_minute() {
    let authority = root("ours");
    let mut scene = scene(&authority, |_| {});
    scene.keeper.issued(authority.leaf());
    scene.keeper.refused();
    assert!(scene.asks_within(Duration::from_secs(4)));
    scene.keeper.issued(authority.leaf());
    tokio::time::advance(Duration::from_secs(59)).await;
    scene.keeper.refused();
    assert!(!scene.asks_within(HOUR), "two who disagree would ask without end");
    tokio::time::advance(Duration::from_secs(1)).await;
    scene.keeper.refused();
    assert!(scene.asks_within(Duration::from_secs(10)));
}

#[test]
fn only_what_speaks_of_the_certificate_is_a_refusal_of_it() {
    let scene = scene(&root("ours"), |_| {});
    let heeded = |failure: tonic::Status| {
        scene.handle.heed(&failure);
        scene.keeper.refused.notified().now_or_never().is_some()
    };
    assert!(!heeded(tonic::Status::permission_denied("denied")));
    assert!(heeded(tonic::Status::unauthenticated("revoked")));
}

#[tokio::test(start_paused = true)]
async fn it_asks_again_and_again_and_takes_the_roots_when_they_come() {
    let authority = root("ours");
    let mut scene = scene(&authority, |_| {});
    std::fs::remove_file(&scene.root_file).unwrap();
    let (handle, root_file) = (scene.handle.clone(), scene.root_file.clone());
    let failures = |handle: &Handle| handle.status().read().attempts[2];
    let keeper = std::mem::replace(&mut scene.keeper, new((*handle.settings).clone()).1);
    let running = tokio::spawn(keeper.run());
    let later = async |seconds: u64| {
        for _ in 0..seconds {
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
        }
    };
    later(60).await;
    let before = failures(&handle);
    assert!((5..60).contains(&before), "{before}");
    later(60).await;
    assert!(failures(&handle) > before);
    assert!(handle.material().roots.is_none());
    std::fs::write(root_file, &authority.pem).unwrap();
    later(6).await;
    assert!(handle.material().roots.is_some());
    running.abort();
}

#[test]
fn secrets_are_named_and_there_when_what_they_hold_is() {
    let authority = root("ours");
    let mut scene = scene(&authority, |_| {});
    let of = |scene: &Scene| scene.handle.material().secrets();
    assert_eq!(of(&scene), [("default", None), ("ROOTCA", None)]);
    scene.keeper.look_at_roots();
    scene.keeper.issued(authority.leaf());
    let leaf = scene.handle.material().leaf.unwrap();
    let text = |source: Option<DataSource>| match source.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).unwrap(),
        other => panic!("{other:?}"),
    };
    let [(_, certificate), (_, roots)] = of(&scene).map(|(name, secret)| {
        let secret = secret.unwrap();
        assert_eq!(secret.name, name);
        (name, secret.r#type.unwrap())
    });
    let wire::secret::Type::TlsCertificate(certificate) = certificate else { panic!("{certificate:?}") };
    assert_eq!(text(certificate.certificate_chain), leaf.chain);
    assert_eq!(text(certificate.private_key), leaf.key_pem());
    let wire::secret::Type::ValidationContext(context) = roots else { panic!("{roots:?}") };
    assert_eq!(text(context.trusted_ca), *scene.handle.material().roots.unwrap());
}

#[test]
fn causes_are_told_in_one_line_and_none_twice() {
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Link(&'static str, #[source] Option<Box<Link>>);
    let chain = Link("outer", Some(Box::new(Link("middle", Some(Box::new(Link("inner", None)))))));
    assert_eq!(in_one_line(&chain), "outer: middle: inner");
    let twice = Link("outer: inner", Some(Box::new(Link("inner", None))));
    assert_eq!(in_one_line(&twice), "outer: inner");
    let status = tonic::Status::unavailable("closed");
    assert_eq!(describe(&status), "Unavailable: closed");
    assert_eq!(describe(&tonic::Status::from_error(Box::new(chain))), "Unknown: outer: middle: inner");
}
