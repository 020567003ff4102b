use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use sidegate_xds::spiffe::trust_domain_of;
use webpki::KeyUsage;

use super::*;
use crate::tls::failure::{Distrust, Failure, HandshakeFailure};

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Ca {
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(7_u64));
        params
    }

    fn root(name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn roots(&self) -> Roots {
        Roots::from_pem(self.pem.as_bytes(), false).unwrap()
    }

    fn leaf(&self, uris: &[&str]) -> CertificateDer<'static> {
        self.leaf_with(uris, |_| {})
    }

    /// URIs are written as they are, whatever they hold.
    fn leaf_with(
        &self,
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(SERIAL));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2099, 1, 1);
        if !uris.is_empty() {
            let names = uris.iter().flat_map(|uri| tagged(0x86, uri.as_bytes())).collect::<Vec<_>>();
            let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], tagged(0x30, &names));
            params.custom_extensions.push(extension);
        }
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }

    fn list(&self, serials: &[u64], until: i32) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

const SERIAL: u64 = 1_000_001;
/// 2026-01-01.
const NOW: u64 = 1_767_225_600;

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut der = vec![tag];
    match length {
        0..128 => der.push(length as u8),
        128..256 => der.extend([0x81, length as u8]),
        _ => der.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    der.extend_from_slice(content);
    der
}

fn bundles(domains: &[(&str, &Ca)]) -> PolicyParts {
    let mut bundles = Bundles::new(|text| trust_domain_of(text).ok());
    for (domain, authority) in domains {
        assert!(bundles.insert(domain, authority.roots()));
    }
    PolicyParts { bundles: Some(bundles), ..PolicyParts::default() }
}

fn rooted(authority: &Ca) -> PolicyParts {
    PolicyParts { roots: Some(authority.roots()), ..PolicyParts::default() }
}

fn lists(texts: &[String]) -> Option<Revocation> {
    Some(Revocation::from_pem(texts.concat().as_bytes()).unwrap())
}

fn denied(ids: &[&str]) -> Denied {
    Arc::new(ids.iter().map(|id| (*id).into()).collect())
}

fn exactly(kind: NameKind, name: &str) -> NameMatch {
    let wanted = name.to_owned();
    NameMatch {
        kind,
        text: name.into(),
        exact: Some(name.into()),
        matches: Box::new(move |name| name == wanted),
    }
}

fn at(policy: &Policy, leaf: &CertificateDer<'_>, above: &[CertificateDer<'_>], now: u64) -> Verdict {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let verified = policy.verify(leaf, above, KeyUsage::client_auth(), None, now);
    verified.map_err(|error| {
        let failure = HandshakeFailure::of(&std::io::Error::other(error));
        (failure.kind, failure.detail)
    })
}

type Verdict = Result<(), (Failure, String)>;

fn verdict(parts: PolicyParts, leaf: &CertificateDer<'_>) -> Verdict {
    at(&Policy::new(parts), leaf, &[], NOW)
}

fn kind(verdict: Verdict) -> Option<Failure> {
    verdict.err().map(|(kind, _)| kind)
}

const OTHER: Option<Failure> = Some(Failure::Untrusted(Distrust::Other));
const IDENTITY: Option<Failure> = Some(Failure::Untrusted(Distrust::Identity));
const REVOKED: Option<Failure> = Some(Failure::Untrusted(Distrust::Revoked));
const TIME: Option<Failure> = Some(Failure::Untrusted(Distrust::Time));

#[test]
fn c3_each_trust_domain_vouches_for_its_own_ids_alone() {
    // One name for both, so that only keys and domains tell them apart.
    let (one, other) = (Ca::root("ca"), Ca::root("ca"));
    let both = || bundles(&[("one", &one), ("other", &other)]);
    assert_eq!(verdict(both(), &one.leaf(&["spiffe://one/a"])), Ok(()));
    assert_eq!(verdict(both(), &other.leaf(&["spiffe://other/a"])), Ok(()));
    assert_eq!(kind(verdict(both(), &other.leaf(&["spiffe://one/a"]))), OTHER);
    assert_eq!(kind(verdict(both(), &one.leaf(&["spiffe://other/a"]))), OTHER);
    let (kind, detail) = verdict(both(), &one.leaf(&["spiffe://third/a"])).unwrap_err();
    assert_eq!(Some(kind), IDENTITY);
    assert!(detail.ends_with(r#"there is no bundle for its trust domain "third""#), "{detail}");
    // The bundles decide, whatever else is trusted.
    let beside = PolicyParts { roots: Some(other.roots()), ..bundles(&[("one", &one)]) };
    assert_eq!(kind_of(beside, &other, "spiffe://one/a"), OTHER);
}

fn kind_of(parts: PolicyParts, authority: &Ca, id: &str) -> Option<Failure> {
    kind(verdict(parts, &authority.leaf(&[id])))
}

#[test]
fn c2_exactly_one_uri_which_is_an_id() {
    let authority = Ca::root("ca");
    let parts = || bundles(&[("td", &authority)]);
    let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
    assert_eq!(verdict(parts(), &authority.leaf(&["spiffe://td/ns/a/sa/b"])), Ok(()));
    assert_eq!(verdict(parts(), &authority.leaf(&[&longest])), Ok(()));
    let long = format!("{longest}a");
    let many: &[(&[&str], &str)] = &[
        (&[], "has no URI"),
        (&["spiffe://td/a", "spiffe://td/b"], "has a SPIFFE id and another URI"),
        (&["spiffe://td/a", "spiffe://td/a"], "has a SPIFFE id and another URI"),
        (&["spiffe://td/a", "https://td/a"], "has a SPIFFE id and another URI"),
        (&["https://td/a", "https://td/b"], "has 2 URIs"),
        (&["spiffe://td/a", "spiffe://td/b\0"], "has a SPIFFE id and another URI"),
        (&["spiffe://td/a\0"], "has a URI that cannot be read"),
        (&["spiffe://td/a b"], "has a URI that cannot be read"),
        (&["spiffe://td/\u{e9}"], ""),
        (&[&long], "has a URI that cannot be read"),
        (&["https://td/a"], "which is no SPIFFE id"),
        (&["SPIFFE://td/a"], "which is no SPIFFE id"),
        (&["spiffe://TD/a"], "which is no SPIFFE id"),
        (&["spiffe://td/a%00"], "which is no SPIFFE id"),
        (&["spiffe://td/a/"], "which is no SPIFFE id"),
        (&["spiffe://td/a?b"], "which is no SPIFFE id"),
        (&["spiffe://td/a#b"], "which is no SPIFFE id"),
        (&["spiffe://td:443/a"], "which is no SPIFFE id"),
        (&["spiffe://u@td/a"], "which is no SPIFFE id"),
        (&["spiffe://td"], "which is no SPIFFE id"),
        (&["spiffe://td/"], "which is no SPIFFE id"),
        (&["spiffe://td/a/../b"], "which is no SPIFFE id"),
    ];
    for (uris, text) in many {
        let (kind, detail) = verdict(parts(), &authority.leaf(uris)).unwrap_err();
        assert!(
            matches!(kind, Failure::Untrusted(Distrust::Identity | Distrust::Other)),
            "{uris:?} {kind:?}"
        );
        assert!(detail.contains(text), "{uris:?}: {detail}");
    }
    // Without bundles a URI need not be an id.
    assert_eq!(verdict(rooted(&authority), &authority.leaf(&["https://td/a"])), Ok(()));
    assert_eq!(verdict(rooted(&authority), &authority.leaf(&["https://td/a", "https://td/b"])), Ok(()));
}

#[test]
fn c3_a_workload_signs_for_nobody() {
    let authority = Ca::root("ca");
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        let leaf = authority.leaf_with(&["spiffe://td/a"], |params| params.key_usages.push(usage));
        let (kind, detail) = verdict(bundles(&[("td", &authority)]), &leaf).unwrap_err();
        assert!(Some(kind) == IDENTITY && detail.contains("may sign others"), "{detail}");
        assert_eq!(verdict(rooted(&authority), &leaf), Ok(()), "elsewhere that is webpki's to say");
    }
    let cannot = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    assert_eq!(kind(verdict(rooted(&authority), &authority.leaf_with(&["spiffe://td/a"], cannot))), OTHER);
    let silent = |params: &mut CertificateParams| params.key_usages.clear();
    assert_eq!(verdict(rooted(&authority), &authority.leaf_with(&["spiffe://td/a"], silent)), Ok(()));
}

#[test]
fn c3_chains_are_as_long_as_they_need_to_be() {
    let root = Ca::root("root");
    let middle = root.below("middle");
    let leaf = middle.leaf(&["spiffe://td/a"]);
    let policy = Policy::new(bundles(&[("td", &root)]));
    assert_eq!(at(&policy, &leaf, std::slice::from_ref(&middle.der), NOW), Ok(()));
    assert_eq!(kind(at(&policy, &leaf, &[], NOW)), OTHER);
    let many = |count: usize| vec![middle.der.clone(); count];
    assert_eq!(at(&policy, &leaf, &many(CHAIN), NOW), Ok(()));
    let (_, detail) = at(&policy, &leaf, &many(CHAIN + 1), NOW).unwrap_err();
    assert!(detail.contains("comes with 17 others"), "{detail}");
}

#[test]
fn c1_a_certificate_holds_from_its_first_second_to_its_last() {
    let authority = Ca::root("ca");
    let day = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 2);
    };
    let leaf = authority.leaf_with(&["spiffe://td/a"], day);
    let leaf_hash = digest(&leaf);
    let pinned = PolicyParts { hashes: vec![leaf_hash], ..PolicyParts::default() };
    for policy in [Policy::new(bundles(&[("td", &authority)])), Policy::new(pinned)] {
        let end = NOW + 86_400;
        for (now, expected) in [
            (NOW - 3_600, TIME),
            (NOW - 1, TIME),
            (NOW, None),
            (end, None),
            (end + 1, TIME),
            (end + 3_600, TIME),
        ] {
            assert_eq!(kind(at(&policy, &leaf, &[], now)), expected, "{}", now - NOW);
        }
    }
}

#[test]
fn c13_lists_concern_the_domain_of_their_issuer() {
    let (one, other) = (Ca::root("one"), Ca::root("other"));
    let leaf = one.leaf(&["spiffe://one/a"]);
    let stranger = other.leaf(&["spiffe://other/a"]);
    let with = |list: String| PolicyParts {
        revocation: lists(&[list]),
        ..bundles(&[("one", &one), ("other", &other)])
    };
    assert_eq!(kind(verdict(with(one.list(&[SERIAL], 2099)), &leaf)), REVOKED);
    assert_eq!(verdict(with(one.list(&[SERIAL], 2099)), &stranger), Ok(()), "the same serial elsewhere");
    assert_eq!(verdict(with(one.list(&[5], 2099)), &leaf), Ok(()));
    // A list that is over tells nothing of its own domain any more, and nothing of the other one as before.
    assert_eq!(kind(verdict(with(one.list(&[5], 2025)), &leaf)), OTHER);
    assert_eq!(verdict(with(one.list(&[5], 2025)), &stranger), Ok(()));
    // Without bundles every issuer has a list.
    let plain = PolicyParts { revocation: lists(&[other.list(&[], 2099)]), ..rooted(&one) };
    assert_eq!(kind(verdict(plain, &leaf)), OTHER);
    // Of two lists of one issuer both count.
    let two = PolicyParts {
        revocation: lists(&[one.list(&[5], 2099), one.list(&[SERIAL], 2099)]),
        ..bundles(&[("one", &one)])
    };
    assert_eq!(kind(verdict(two, &leaf)), REVOKED);
}

#[test]
fn c13_denied_ids_are_refused_whoever_vouches() {
    let authority = Ca::root("ca");
    let leaf = authority.leaf(&["spiffe://td/a"]);
    let with = |ids: &[&str]| PolicyParts { denied: denied(ids), ..bundles(&[("td", &authority)]) };
    let (kind, detail) = verdict(with(&["spiffe://td/a", "spiffe://td/b"]), &leaf).unwrap_err();
    assert_eq!(Some(kind), REVOKED);
    assert!(detail.ends_with("spiffe://td/a is denied"), "{detail}");
    assert_eq!(verdict(with(&["spiffe://td/b", "spiffe://td/aa", "spiffe://td"]), &leaf), Ok(()));
}

#[test]
fn c13_open_connections_are_held_against_revocation_alone() {
    let root = Ca::root("root");
    let middle = root.below("middle");
    let leaf = middle.leaf(&["spiffe://td/a"]);
    let certificate = Certificate::read(&leaf).unwrap();
    let above = [middle.der.clone()];
    let revokes = |parts: PolicyParts| Policy::new(parts).revokes(&certificate, &leaf, &above);
    let listed = |list: String| PolicyParts { revocation: lists(&[list]), ..bundles(&[("td", &root)]) };
    assert_eq!(revokes(bundles(&[("td", &root)])), None);
    assert_eq!(revokes(bundles(&[("td", &Ca::root("new"))])), None, "other roots close nothing");
    assert_eq!(revokes(listed(middle.list(&[SERIAL], 2099))), Some(Revoked::Certificate));
    assert_eq!(revokes(listed(middle.list(&[5], 2099))), None);
    assert_eq!(revokes(listed(middle.list(&[SERIAL], 2025))), Some(Revoked::Certificate), "once is for ever");
    assert_eq!(revokes(listed(middle.list(&[5], 2025))), None, "a list that is over closes nothing");
    assert_eq!(revokes(listed(root.list(&[SERIAL], 2099))), None, "another issuer's serial");
    // What is above it: unless only leaves are asked for.
    assert_eq!(revokes(listed(root.list(&[7], 2099))), Some(Revoked::Certificate));
    let leaves = PolicyParts { only_leaf_revocation: true, ..listed(root.list(&[7], 2099)) };
    assert_eq!(revokes(leaves), None);
    let named = PolicyParts { denied: denied(&["spiffe://td/a"]), ..bundles(&[("td", &root)]) };
    assert_eq!(revokes(named), Some(Revoked::Identity));
}

#[test]
fn c8_whatever_decides_about_trust_is_in_the_fingerprint() {
    let (one, other) = (Ca::root("one"), Ca::root("other"));
    let list = one.list(&[5], 2099);
    let base = || bundles(&[("td", &one)]);
    let policies = [
        PolicyParts::default(),
        rooted(&one),
        rooted(&other),
        base(),
        bundles(&[("td", &other)]),
        bundles(&[("dt", &one)]),
        bundles(&[("td", &one), ("dt", &other)]),
        bundles(&[("td", &other), ("dt", &one)]),
        PolicyParts { roots: Some(one.roots()), ..base() },
        PolicyParts { revocation: lists(std::slice::from_ref(&list)), ..base() },
        PolicyParts { revocation: lists(&[one.list(&[6], 2099)]), ..base() },
        PolicyParts { denied: denied(&["spiffe://td/a"]), ..base() },
        PolicyParts { denied: denied(&["spiffe://td/a", "spiffe://td/b"]), ..base() },
        PolicyParts { only_leaf_revocation: true, ..base() },
        PolicyParts { requested_name: true, ..base() },
        PolicyParts { names: vec![exactly(NameKind::Uri, "a")], ..base() },
        PolicyParts { names: vec![exactly(NameKind::Dns, "a")], ..base() },
        PolicyParts { hashes: vec![[1; 32]], ..base() },
        PolicyParts { keys: vec![[1; 32]], ..base() },
    ];
    let all: BTreeSet<_> = policies.map(|parts| Policy::new(parts).fingerprint).into();
    assert_eq!(all.len(), 19);
    assert_eq!(Policy::new(base()).fingerprint, Policy::new(base()).fingerprint);
    // What is revoked has a number of its own, which roots do not touch.
    let revocation = |parts| Policy::new(parts).revocation;
    assert_eq!(revocation(base()), revocation(bundles(&[("td", &other)])));
    let named = revocation(PolicyParts { denied: denied(&["spiffe://td/a"]), ..base() });
    let listed = revocation(PolicyParts { revocation: lists(&[list]), ..base() });
    assert!(revocation(base()) != named && revocation(base()) != listed && named != listed);
}

#[test]
fn what_is_open_and_what_checks_names() {
    let authority = Ca::root("ca");
    assert!(Policy::new(PolicyParts::default()).is_open());
    let closed = [
        rooted(&authority),
        bundles(&[("td", &authority)]),
        PolicyParts { hashes: vec![[0; 32]], ..PolicyParts::default() },
        PolicyParts { keys: vec![[0; 32]], ..PolicyParts::default() },
        PolicyParts { names: vec![exactly(NameKind::Uri, "a")], ..PolicyParts::default() },
        PolicyParts { requested_name: true, ..PolicyParts::default() },
    ];
    for (index, parts) in closed.into_iter().enumerate() {
        let policy = Policy::new(parts);
        assert!(!policy.is_open(), "{index}");
        assert_eq!(policy.checks_names(), index >= 4, "{index}");
    }
    let hints = |parts| Policy::new(parts).hints.len();
    assert_eq!(hints(rooted(&authority)), 1);
    assert_eq!(hints(bundles(&[("a", &authority), ("b", &authority)])), 2);
    assert_eq!(hints(PolicyParts { roots: Some(authority.roots()), ..bundles(&[("a", &authority)]) }), 1);
    assert_eq!(hints(PolicyParts { hide_roots: true, ..rooted(&authority) }), 0);
}

#[test]
fn signatures_are_verified_once_and_all_else_each_time() {
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let middle = root.below("middle");
    let day = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 2);
    };
    let leaf = middle.leaf_with(&["spiffe://td/a"], day);
    let above = [middle.der.clone()];
    let policy = Policy::new(bundles(&[("td", &root)]));
    let count = |policy: &Policy| policy.signatures.len();
    assert_eq!(at(&policy, &leaf, &above, NOW), Ok(()));
    assert_eq!(count(&policy), 2, "the leaf's and the one above it");
    assert_eq!(at(&policy, &leaf, &above, NOW), Ok(()));
    assert_eq!(count(&policy), 2);
    // The time is looked at each time.
    assert_eq!(kind(at(&policy, &leaf, &above, NOW + 86_401)), TIME);
    assert_eq!(kind(at(&policy, &leaf, &above, NOW - 1)), TIME);
    assert_eq!(at(&policy, &leaf, &above, NOW + 86_400), Ok(()));
    // What it may be used for, too.
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let usage = KeyUsage::required(&[1, 3, 6, 1]);
    assert!(policy.verify(&leaf, &above, usage, None, now).is_err());
    // Another bundle knows nothing of it, whatever its domain is called.
    let stranger = Policy::new(bundles(&[("td", &other)]));
    assert_eq!(kind(at(&stranger, &leaf, &above, NOW)), OTHER);
    assert_eq!(count(&stranger), 0);
    // What is missing above it is missed.
    assert_eq!(kind(at(&policy, &leaf, &[], NOW)), OTHER);
    assert_eq!(count(&policy), 2);
}

#[test]
fn a_certificate_that_differs_by_a_byte_is_another_one() {
    let root = Ca::root("root");
    let middle = root.below("middle");
    let leaf = middle.leaf(&["spiffe://td/a"]);
    let policy = Policy::new(bundles(&[("td", &root)]));
    assert_eq!(at(&policy, &leaf, std::slice::from_ref(&middle.der), NOW), Ok(()));
    let changed = |der: &CertificateDer<'_>, place: usize| {
        let mut bytes = der.to_vec();
        bytes[place] ^= 1;
        CertificateDer::from(bytes)
    };
    for place in 0..middle.der.len() {
        let above = [changed(&middle.der, place)];
        assert!(at(&policy, &leaf, &above, NOW).is_err(), "byte {place} of the one above");
    }
    for place in 0..leaf.len() {
        let changed = changed(&leaf, place);
        let above = std::slice::from_ref(&middle.der);
        assert!(at(&policy, &changed, above, NOW).is_err(), "byte {place} of the leaf");
    }
    assert_eq!(policy.signatures.len(), 2, "and none of them is kept");
}

#[test]
fn lists_and_denials_hold_for_who_was_known() {
    let root = Ca::root("root");
    let leaf = root.leaf(&["spiffe://td/a"]);
    // A list is part of the policy: who is revoked is so under another one.
    let listed =
        |list: String| Policy::new(PolicyParts { revocation: lists(&[list]), ..bundles(&[("td", &root)]) });
    let before = listed(root.list(&[5], 2027));
    for _ in 0..2 {
        assert_eq!(at(&before, &leaf, &[], NOW), Ok(()));
        assert_eq!(before.signatures.len(), 2, "the leaf's and the list's");
    }
    assert_eq!(kind(at(&listed(root.list(&[SERIAL], 2027)), &leaf, &[], NOW)), REVOKED);
    let with = PolicyParts { denied: denied(&["spiffe://td/a"]), ..bundles(&[("td", &root)]) };
    assert_eq!(kind(verdict(with, &leaf)), REVOKED);
    // Under one policy a list ends while its signature stays good.
    assert_eq!(kind(at(&before, &leaf, &[], NOW + 2 * 366 * 86_400)), OTHER);
    // And one that names the certificate does so each time.
    let after = listed(root.list(&[SERIAL], 2027));
    for _ in 0..2 {
        assert_eq!(kind(at(&after, &leaf, &[], NOW)), REVOKED);
    }
}

#[test]
fn names_and_pins() {
    let authority = Ca::root("ca");
    let leaf = authority.leaf(&["spiffe://td/a"]);
    let named = |kind, name: &str| {
        let names = vec![exactly(kind, "nobody"), exactly(kind, name)];
        verdict(PolicyParts { names, ..bundles(&[("td", &authority)]) }, &leaf)
    };
    assert_eq!(named(NameKind::Uri, "spiffe://td/a"), Ok(()));
    assert_eq!(kind(named(NameKind::Uri, "spiffe://td/A")), Some(Failure::Names));
    assert_eq!(kind(named(NameKind::Email, "spiffe://td/a")), Some(Failure::Names));
    assert_eq!(kind(named(NameKind::Dns, "spiffe://td/a")), Some(Failure::Names));
    let certificate = Certificate::read(&leaf).unwrap();
    let pinned = |hashes: &[[u8; 32]], keys: &[[u8; 32]]| {
        let parts = PolicyParts { hashes: hashes.to_vec(), keys: keys.to_vec(), ..rooted(&authority) };
        kind(verdict(parts, &leaf))
    };
    assert_eq!(pinned(&[[0; 32], digest(&leaf)], &[]), None);
    assert_eq!(pinned(&[], &[[0; 32], certificate.key_sha256]), None);
    assert_eq!(pinned(&[[0; 32]], &[certificate.key_sha256]), None, "either will do");
    assert_eq!(pinned(&[[0; 32]], &[]), Some(Failure::Pin));
    assert_eq!(pinned(&[], &[digest(&leaf)]), Some(Failure::Pin));
}

#[test]
fn a_wildcard_stands_for_one_label() {
    for (name, host, expected) in [
        ("a.test", "a.test", true),
        ("A.test", "a.TEST", true),
        ("a.test", "b.test", false),
        ("*.b.test", "a.b.test", true),
        ("*.B.test", "a.b.TEST", true),
        ("*.b.test", "b.test", false),
        ("*.b.test", ".b.test", false),
        ("*.b.test", "a.a.b.test", false),
        ("*.test", "a.test", false),
        ("a*.b.test", "ab.b.test", false),
    ] {
        assert_eq!(covers(name, host), expected, "{name} {host}");
    }
}
