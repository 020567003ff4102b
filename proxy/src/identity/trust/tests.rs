//! Roots by file and by discovery.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use sidegate_xds::envoy::config::core::v3::TypedExtensionConfig;
use sidegate_xds::resource::to_any;
use wire::spiffe_cert_validator_config::TrustDomain;

use super::*;

fn root(name: &str) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..DataSource::default() })
}

fn bundles(domains: &[(&str, &str)]) -> wire::CertificateValidationContext {
    let domain = |(name, pem): &(&str, &str)| TrustDomain {
        name: (*name).to_owned(),
        trust_bundle: inline(pem),
        ..TrustDomain::default()
    };
    let config = wire::SpiffeCertValidatorConfig {
        trust_domains: domains.iter().map(domain).collect(),
        ..wire::SpiffeCertValidatorConfig::default()
    };
    wire::CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: "envoy.tls.cert_validator.spiffe".to_owned(),
            typed_config: Some(to_any(&config)),
        }),
        ..wire::CertificateValidationContext::default()
    }
}

fn names(roots: &Roots) -> Vec<String> {
    let name = |subject: &str| subject.trim_start_matches("CN=rcgen self signed cert, CN=").to_owned();
    roots.certificates.iter().map(|root| name(root.subject.trim_start_matches("CN="))).collect()
}

#[test]
fn only_the_own_trust_domains_bundle_counts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("root.pem");
    std::fs::write(&file, root("file")).unwrap();
    let mut trust = Trust::new(file.clone());
    assert_eq!(names(&trust.read().unwrap()), ["file"]);
    assert!(trust.signing().is_none());
    let (old, new, other) = (root("old"), root("new"), root("other"));
    trust.discover(&bundles(&[("other.test", &other), ("td", &format!("{new}{old}"))]), "td");
    assert_eq!(names(&trust.read().unwrap()), ["new", "old", "file"]);
    assert_eq!(names(&trust.signing().unwrap()), ["new"]);
    // Another domain's, a broken one, none at all: what was there stays.
    for context in [bundles(&[("other.test", &other)]), bundles(&[("td", "no PEM")]), Default::default()] {
        trust.discover(&context, "td");
        assert_eq!(names(&trust.signing().unwrap()), ["new"]);
    }
    // A file that is gone or half written.
    for text in ["", "-----BEGIN CERTIFICATE-----\nMIIB"] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(names(&trust.read().unwrap()), ["new", "old"]);
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(names(&trust.read().unwrap()), ["new", "old"]);
}

#[test]
fn istios_form_is_one_bundle() {
    let mut trust = Trust::new("/nowhere/at/all".into());
    assert!(trust.read().unwrap_err().contains("root_file: cannot read /nowhere/at/all"));
    let context = wire::CertificateValidationContext {
        trusted_ca: inline(&root("mesh")),
        ..wire::CertificateValidationContext::default()
    };
    trust.discover(&context, "td");
    assert_eq!(names(&trust.read().unwrap()), ["mesh"]);
}
