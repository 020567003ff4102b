//! Answers of authorities that are right, wrong, and hostile.

use std::time::UNIX_EPOCH;

use rcgen::{
    BasicConstraints, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, PublicKeyData,
};

use super::*;

/// An authority with a certificate of its own.
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

impl Authority {
    fn roots(&self) -> Roots {
        Roots::from_pem(self.pem.as_bytes(), false).unwrap()
    }

    fn intermediate(&self) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "between");
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> String {
        params.signed_by(key, &self.issuer).unwrap().pem()
    }
}

const WEB: &str = "spiffe://td/ns/shop/sa/web";

/// For these URIs, good from the middle of 2026 until the end of July.
fn params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.not_before = rcgen::date_time_ymd(2026, 6, 1);
    params.not_after = rcgen::date_time_ymd(2026, 8, 1);
    params
}

/// The first of July 2026.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_782_864_000)
}

fn day() -> Duration {
    Duration::from_secs(86_400)
}

fn key(request: &Request) -> rcgen::PublicKey {
    CertificateSigningRequestParams::from_pem(&request.csr).unwrap().public_key
}

/// Signs a request by these parameters and hands the answer back.
fn answer(params: &CertificateParams) -> Result<Leaf, Failure> {
    let authority = root("ours");
    let request = Request::new(None).unwrap();
    let leaf = authority.sign(params, &key(&request));
    request.accept(&[leaf, authority.pem.clone()], &authority.roots(), None, now())
}

#[track_caller]
fn refused(answer: Result<Leaf, Failure>, words: &str) {
    let failure = answer.unwrap_err();
    assert_eq!(failure.outcome, Outcome::Answer);
    assert!(failure.text.contains(words), "{failure} does not say {words:?}");
}

#[test]
fn a_request_says_who_we_are_when_we_know() {
    let known: SpiffeId = WEB.parse().unwrap();
    let ours = CertificateSigningRequestParams::from_pem(&Request::new(Some(&known)).unwrap().csr).unwrap();
    assert_eq!(ours.params.subject_alt_names, [SanType::URI(WEB.try_into().unwrap())]);
    assert_eq!(ours.public_key.algorithm(), &PKCS_ECDSA_P256_SHA256);
    let unknown = CertificateSigningRequestParams::from_pem(&Request::new(None).unwrap().csr).unwrap();
    assert_eq!(unknown.params.subject_alt_names, []);
    assert_eq!(unknown.params.distinguished_name, DistinguishedName::new());
    assert_ne!(ours.public_key, unknown.public_key, "no key is used twice");
}

#[test]
fn a_good_answer_is_taken_without_its_root() {
    let authority = root("ours");
    let between = authority.intermediate();
    let request = Request::new(None).unwrap();
    let leaf = between.sign(&params(&[WEB]), &key(&request));
    let chain = [leaf.clone(), between.pem.clone(), authority.pem.clone()];
    let taken = request.accept(&chain, &authority.roots(), None, now()).unwrap();
    assert_eq!(taken.id.as_str(), WEB);
    let lines = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().concat();
    assert_eq!(lines(&taken.chain), lines(&format!("{leaf}{}", between.pem)));
    // What is served with it is what was made for it.
    tls::Identity::from_pem(taken.chain.as_bytes(), taken.key_pem().as_bytes()).unwrap();
    assert!(!format!("{taken:?}").contains("PRIVATE"));
}

#[test]
fn all_certificates_may_stand_in_one_text() {
    let authority = root("ours");
    let request = Request::new(None).unwrap();
    let leaf = authority.sign(&params(&[WEB]), &key(&request));
    let text = format!("{leaf}{}", authority.pem);
    request.accept(&[text], &authority.roots(), None, now()).unwrap();
}

#[test]
fn c10_another_key_is_refused() {
    let authority = root("ours");
    let (request, other) = (Request::new(None).unwrap(), Request::new(None).unwrap());
    let leaf = authority.sign(&params(&[WEB]), &key(&other));
    refused(request.accept(&[leaf], &authority.roots(), None, now()), "is not the key of the certificate");
}

#[test]
fn exactly_one_uri_is_an_identity() {
    refused(answer(&params(&[])), "has 0 URIs");
    refused(answer(&params(&[WEB, "spiffe://td/ns/shop/sa/admin"])), "has 2 URIs");
    refused(answer(&params(&["https://td/web"])), "begins with spiffe://");
    refused(answer(&params(&["spiffe://td"])), "has a path");
    let mut with_name = params(&[]);
    with_name.subject_alt_names = vec![SanType::DnsName("web.shop".try_into().unwrap())];
    refused(answer(&with_name), "has 0 URIs");
    with_name.subject_alt_names.push(SanType::URI(WEB.try_into().unwrap()));
    answer(&with_name).unwrap();
}

#[test]
fn who_we_were_we_stay() {
    let authority = root("ours");
    let known: SpiffeId = "spiffe://td/ns/shop/sa/api".parse().unwrap();
    let request = Request::new(Some(&known)).unwrap();
    let leaf = authority.sign(&params(&[WEB]), &key(&request));
    refused(
        request.accept(&[leaf], &authority.roots(), Some(&known), now()),
        "is for spiffe://td/ns/shop/sa/web, and this proxy is spiffe://td/ns/shop/sa/api",
    );
}

#[test]
fn times_that_cannot_be_right_are_refused() {
    let mut expired = params(&[WEB]);
    expired.not_after = rcgen::date_time_ymd(2026, 6, 30);
    refused(answer(&expired), "has expired");
    let mut future = params(&[WEB]);
    future.not_before = rcgen::date_time_ymd(2026, 7, 2);
    refused(answer(&future), "is not valid yet (at 2026-07-01T00:00:00");
    let mut long = params(&[WEB]);
    long.not_after = rcgen::date_time_ymd(2036, 1, 1);
    refused(answer(&long), "longer than any certificate of ours may be");
}

#[test]
fn nobody_else_vouches() {
    let (ours, theirs) = (root("ours"), root("ours"));
    let request = Request::new(None).unwrap();
    let leaf = theirs.sign(&params(&[WEB]), &key(&request));
    // With its root, which proves nothing.
    let answer = request.accept(&[leaf, theirs.pem.clone()], &ours.roots(), None, now());
    refused(answer, "compare root_file");
    let request = Request::new(None).unwrap();
    let own = params(&[WEB]).self_signed(&request.key).unwrap().pem();
    refused(request.accept(&[own], &ours.roots(), None, now()), "compare root_file");
}

#[test]
fn what_a_leaf_may_not_be_or_do() {
    let mut authority = params(&[WEB]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    refused(answer(&authority), "is refused");
    for usage in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth] {
        let mut half = params(&[WEB]);
        half.extended_key_usages = vec![usage];
        refused(answer(&half), "not meant for this use");
    }
}

#[test]
fn what_is_no_answer() {
    let roots = root("ours").roots();
    let none: [Vec<String>; 3] = [vec![], vec![String::new()], vec!["no PEM".to_owned()]];
    for chain in none {
        refused(Request::new(None).unwrap().accept(&chain, &roots, None, now()), "has no certificate");
    }
    let many = vec![root("many").pem; 13];
    refused(Request::new(None).unwrap().accept(&many, &roots, None, now()), "has 13 certificates");
}

#[test]
fn the_root_that_signs_now_stands_first() {
    let (old, new) = (root("old"), root("new"));
    let request = Request::new(None).unwrap();
    let leaf = old.sign(&params(&[WEB]), &key(&request));
    let both = Roots::from_pem(format!("{}{}", new.pem, old.pem).as_bytes(), false).unwrap();
    let leaf = request.accept(&[leaf], &both, None, now()).unwrap();
    assert!(leaf.identity.is_vouched_for(&both, now()).is_ok());
    assert!(leaf.identity.is_vouched_for(&both.first(), now()).is_err());
    assert!(leaf.identity.is_vouched_for(&old.roots().first(), now()).is_ok());
    assert!(leaf.identity.is_vouched_for(&old.roots(), now() + 60 * day()).is_err());
}
