//! What strangers put into signing requests.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, RsaKeySize, SanType,
};

use super::*;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn made(change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = params();
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn named(names: Vec<SanType>) -> String {
    made(|params| params.subject_alt_names = names)
}

#[test]
fn g4_what_agrees_with_the_proven_identity_is_taken() {
    let common = |name: &'static str| {
        move |params: &mut CertificateParams| params.distinguished_name.push(DnType::CommonName, name)
    };
    for (what, pem) in [
        ("nothing but a key", made(|_| {})),
        ("its id", named(vec![uri(WEB)])),
        (
            "an empty organisation, as agents send it",
            made(|params| params.distinguished_name.push(DnType::OrganizationName, "")),
        ),
        ("its id as a common name", made(common(WEB))),
        ("not a certificate authority", made(|params| params.is_ca = IsCa::ExplicitNoCa)),
        (
            "usages of TLS",
            made(|params| {
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
                params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ),
    ] {
        assert!(check(&pem, WEB).is_ok(), "{what}: {:?}", check(&pem, WEB).err());
    }
}

#[allow(clippy::too_many_lines, reason = "one story, read from top to bottom")]
#[test]
fn g4_whatever_goes_beyond_the_proven_identity_is_refused() {
    let extension = |oid: &[u64]| CustomExtension::from_oid_content(oid, vec![0x05, 0x00]);
    let cases = [
        ("another id", named(vec![uri("spiffe://cluster.local/ns/shop/sa/pay")])),
        ("another namespace", named(vec![uri("spiffe://cluster.local/ns/bank/sa/web")])),
        ("another trust domain", named(vec![uri("spiffe://elsewhere/ns/shop/sa/web")])),
        ("a longer id", named(vec![uri(&format!("{WEB}/"))])),
        ("a shorter id", named(vec![uri(&WEB[..WEB.len() - 1])])),
        ("other letters", named(vec![uri("SPIFFE://cluster.local/ns/shop/sa/web")])),
        ("an id with a port", named(vec![uri("spiffe://cluster.local:1/ns/shop/sa/web")])),
        ("a wildcard", named(vec![uri("spiffe://cluster.local/ns/shop/sa/*")])),
        ("a second id", named(vec![uri(WEB), uri("spiffe://cluster.local/ns/shop/sa/pay")])),
        ("its id twice", named(vec![uri(WEB), uri(WEB)])),
        ("a DNS name", named(vec![uri(WEB), dns("pay.shop.svc")])),
        ("only a DNS name", named(vec![dns("pay.shop.svc")])),
        ("a wildcard DNS name", named(vec![dns("*.svc")])),
        ("the id as a DNS name", named(vec![dns(WEB)])),
        ("an address", named(vec![uri(WEB), SanType::IpAddress("10.0.0.1".parse().unwrap())])),
        ("a mail address", named(vec![SanType::Rfc822Name(WEB.try_into().unwrap())])),
        (
            "a common name",
            made(|params| {
                params.distinguished_name.push(DnType::CommonName, "spiffe://cluster.local/ns/shop/sa/pay")
            }),
        ),
        (
            "an organisation",
            made(|params| params.distinguished_name.push(DnType::OrganizationName, "system:masters")),
        ),
        ("CA:TRUE", made(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("CA:TRUE, path length 0", made(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))),
        ("keyCertSign", made(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign])),
        (
            "digitalSignature and cRLSign",
            made(|params| {
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]
            }),
        ),
        ("any usage", made(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any])),
        (
            "code signing",
            made(|params| {
                params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::CodeSigning]
            }),
        ),
        (
            "an unknown usage",
            made(|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 1])]
            }),
        ),
        ("name constraints", made(|params| params.custom_extensions = vec![extension(&[2, 5, 29, 30])])),
        (
            "an unknown extension",
            made(|params| params.custom_extensions = vec![extension(&[1, 3, 6, 1, 4, 1, 99999, 1])]),
        ),
        (
            "a second list of names",
            made(|params| {
                params.subject_alt_names = vec![uri(WEB)];
                // The same name again, by hand.
                let mut content =
                    vec![0x30, u8::try_from(WEB.len() + 2).unwrap(), 0x86, u8::try_from(WEB.len()).unwrap()];
                content.extend(WEB.bytes());
                params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], content)];
            }),
        ),
    ];
    for (what, pem) in cases {
        let refused = check(&pem, WEB);
        assert!(matches!(refused, Err(IssueError::Forbidden(_))), "{what}: {:?}", refused.map(|_| "signed"));
    }
}

#[test]
fn g4_an_attribute_beside_the_extensions_is_refused() {
    // challengePassword, as a UTF8String.
    let attribute =
        rcgen::Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 7], values: vec![0x31, 0x03, 0x0c, 0x01, 0x61] };
    let key = KeyPair::generate().unwrap();
    let request = params().serialize_request_with_attributes(&key, vec![attribute]).unwrap().pem().unwrap();
    assert!(
        matches!(check(&request, WEB), Err(IssueError::Forbidden(_))),
        "{:?}",
        check(&request, WEB).err()
    );
}

#[test]
fn g4_weak_and_strange_keys_are_refused() {
    let with = |key: &KeyPair| params().serialize_request(key).unwrap().pem().unwrap();
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        assert!(check(&with(&KeyPair::generate_for(algorithm).unwrap()), WEB).is_ok(), "{algorithm:?}");
    }
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    assert!(check(&with(&rsa), WEB).is_ok(), "RSA 2048");
    let large = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    assert!(matches!(check(&with(&large), WEB), Err(IssueError::Forbidden(_))), "P-521");
    // 1024 bits, made with `openssl req -new -newkey rsa:1024 -nodes -subj /`.
    assert!(matches!(check(RSA_1024, WEB), Err(IssueError::Forbidden(text)) if text.contains("1024")));
}

#[test]
fn g4_a_request_that_its_key_did_not_sign_is_refused() {
    let pem = named(vec![uri(WEB)]);
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
    let encode =
        |der: &[u8]| super::super::pem::certificate(der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
    assert!(check(&encode(&der), WEB).is_ok());
    // Another key under the same signature, one bit of the signature, one bit of the name.
    let mut flipped = der.to_vec();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    assert!(matches!(check(&encode(&flipped), WEB), Err(IssueError::Request(_))));
    let at = der.windows(3).position(|bytes| bytes == b"web").unwrap();
    let mut renamed = der.to_vec();
    renamed[at..at + 3].copy_from_slice(b"pay");
    assert!(matches!(check(&encode(&renamed), WEB), Err(IssueError::Request(_))));
    assert!(check(&encode(&renamed), "spiffe://cluster.local/ns/shop/sa/pay").is_err());
    for end in 0..der.len() {
        assert!(check(&encode(&der[..end]), WEB).is_err(), "the first {end} bytes");
    }
    let mut longer = der.to_vec();
    longer.push(0);
    assert!(check(&encode(&longer), WEB).is_err(), "something follows");
}

#[test]
fn g4_only_one_section_of_bounded_size_is_read() {
    let good = named(vec![uri(WEB)]);
    let other = named(vec![uri("spiffe://cluster.local/ns/shop/sa/pay")]);
    for (what, pem) in [
        ("nothing", String::new()),
        ("no PEM", "hello".to_owned()),
        ("two requests", format!("{good}{other}")),
        ("a request after another section", format!("-----BEGIN X-----\nAAAA\n-----END X-----\n{good}")),
        ("a certificate", good.replace("CERTIFICATE REQUEST", "CERTIFICATE")),
        ("no end", good.replace("-----END", "----")),
        ("1 MiB", format!("{good}{}", "\n".repeat(1 << 20))),
        (
            "1 MiB of base64",
            format!(
                "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
                "A".repeat(1 << 20)
            ),
        ),
    ] {
        assert!(matches!(check(&pem, WEB), Err(IssueError::Request(_))), "{what}");
    }
}

#[test]
fn l1_one_key_has_one_form() {
    let refused = check(COMPRESSED, WEB).unwrap_err();
    assert!(matches!(&refused, IssueError::Forbidden(text) if text.contains("compressed")), "{refused}");
}

/// A P-256 key as a compressed point.
const COMPRESSED: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIGaMEICAQAwADA5MBMGByqGSM49AgEGCCqGSM49AwEHAyIAA1Qtg9PWJ64v5Vuo
2lI7Y0V8XZHfmeS3S3L3fM3CGzkmoAAwCgYIKoZIzj0EAwIDSAAwRQIhAMFVub7i
EX78equjtRYVPNsesfCwedwwAJQOH+lZQ8HyAiBbVZvWT1rd1WLy5Gv57mJFb/ho
sq10JlGiD9yCweYNjg==
-----END CERTIFICATE REQUEST-----
";

const RSA_1024: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIIBPzCBqQIBADAAMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC5s/1I95xd
otKlGmJDBTKo8zGSJ/yZLBCshJLAkBGtX33jfw94KXCnJHKNXugbEKFVblhHB57G
FJpT6qpB6jwA+CIpH4df2xuOirJipkM3xsXM+R0Rn1KHp9n1MeZ7l77ABl8ly+J5
gcgfkskD1ZFV/DqBJQ2IFX/Imv8udjcrDQIDAQABoAAwDQYJKoZIhvcNAQELBQAD
gYEAiRw935/evr/6qeQcSyCas3VU+z/WFLQrRfRORmayYI1BXB3BTHEb12OLU6Iu
gOa952GwRDWn1luFVlR/k2T/C5arRSksyJKDBJsyz5t43BP/eDs6JRliCp2zQ6OR
iwMcYpUdmdsa9XDmj5ASSQkNeurlMg088+6olw5RfzMnolQ=
-----END CERTIFICATE REQUEST-----
";
