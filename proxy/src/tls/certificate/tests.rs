use std::net::{Ipv4Addr, Ipv6Addr};

use rcgen::{
    CertificateParams, CustomExtension, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};

use super::*;

/// A certificate with these names, and what else the test wants of it.
fn read(names: Vec<SanType>, more: impl FnOnce(&mut CertificateParams)) -> Certificate {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.distinguished_name.push(DnType::CommonName, "web");
    more(&mut params);
    let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    Certificate::read(made.der()).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

#[test]
fn every_kind_of_name_is_read_and_told() {
    let certificate = read(
        vec![
            uri("spiffe://a/b"),
            dns("web.test"),
            SanType::Rfc822Name("ada@web.test".try_into().unwrap()),
            SanType::IpAddress(Ipv4Addr::new(10, 1, 2, 3).into()),
            SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
        ],
        |_| {},
    );
    let names = &certificate.names;
    assert_eq!((&*names.uris, &*names.dns), (&["spiffe://a/b".into()][..], &["web.test".into()][..]));
    assert_eq!(*names.emails, ["ada@web.test".into()]);
    assert_eq!(*names.addresses, ["10.1.2.3".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
    assert_eq!((names.doubtful, names.uri_count), (0, 1));
    assert_eq!(certificate.described_names(), "spiffe://a/b, web.test, ada@web.test, 10.1.2.3, ::1");
    assert_eq!(read(Vec::new(), |_| {}).described_names(), "no names");
}

#[test]
fn what_is_in_doubt_matches_nothing_and_is_counted() {
    // With a space, without a character, longer than any name; the longest that there is.
    let long = |length: usize| format!("spiffe://a/{}", "b".repeat(length - "spiffe://a/".len()));
    let texts = ["spiffe://a/b c".to_owned(), String::new(), long(2049)];
    let certificate = read(texts.iter().map(|text| uri(text)).collect(), |_| {});
    assert_eq!((certificate.names.doubtful, certificate.names.uri_count), (3, 3));
    assert_eq!(certificate.described_names(), "3 that cannot be read");
    assert_eq!(certificate.id(), None);
    assert_eq!(read(vec![uri(&long(2048))], |_| {}).id(), Some(&*long(2048)));
    let certificate =
        read(vec![dns("a\u{0}b"), dns(""), SanType::Rfc822Name("a b".try_into().unwrap())], |_| {});
    assert_eq!(certificate.names, Names { doubtful: 3, ..Names::default() });
    // Addresses of five and of no bytes.
    for length in [0, 3, 5, 15, 17] {
        assert_eq!(address(&vec![1; length]), None, "{length}");
    }
    assert_eq!(address(&[10, 1, 2, 3]), Some(Ipv4Addr::new(10, 1, 2, 3).into()));
    assert_eq!(address(&[0; 16]), Some(Ipv6Addr::UNSPECIFIED.into()));
}

#[test]
fn an_id_stands_alone() {
    assert_eq!(read(vec![uri("spiffe://a/b"), dns("b")], |_| {}).id(), Some("spiffe://a/b"));
    for (other, several) in [("spiffe://a/c", true), ("https://a/c", true)] {
        let certificate = read(vec![uri("spiffe://a/b"), uri(other)], |_| {});
        assert_eq!((certificate.id(), certificate.has_several_identities()), (None, several), "{other}");
    }
    // One URI, or several of which none is an id, claim nothing that they have not.
    assert!(!read(vec![uri("spiffe://a/b")], |_| {}).has_several_identities());
    assert!(!read(vec![uri("https://a"), uri("https://b")], |_| {}).has_several_identities());
    assert!(!read(Vec::new(), |_| {}).has_several_identities());
    // A second URI that cannot be read counts too.
    let certificate = read(vec![uri("spiffe://a/b"), uri("spiffe://a/b c")], |_| {});
    assert_eq!((certificate.id(), certificate.has_several_identities()), (None, true));
}

#[test]
fn its_time_is_over_behind_its_last_second() {
    let certificate = read(Vec::new(), |params| {
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 2);
    });
    let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000);
    let end = begin + Duration::from_secs(86_400);
    assert_eq!((certificate.not_before, certificate.not_after), (begin, end));
    assert!(!certificate.has_expired(begin));
    assert!(!certificate.has_expired(end));
    assert!(certificate.has_expired(end + Duration::from_secs(1)));
    assert_eq!(time(-1), Err(Unreadable::Time));
    assert_eq!(time(0), Ok(SystemTime::UNIX_EPOCH));
}

#[test]
fn key_usage_says_what_a_key_may_do() {
    let of = |usages: &[KeyUsagePurpose]| {
        let certificate = read(Vec::new(), |params| params.key_usages = usages.to_vec());
        (certificate.may_sign, certificate.may_certify)
    };
    assert_eq!(of(&[]), (true, false));
    assert_eq!(of(&[KeyUsagePurpose::DigitalSignature]), (true, false));
    assert_eq!(of(&[KeyUsagePurpose::KeyEncipherment]), (false, false));
    assert_eq!(of(&[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign]), (true, true));
    assert_eq!(of(&[KeyUsagePurpose::CrlSign]), (false, true));
}

#[test]
fn subject_serial_and_fingerprint_are_written_as_tools_do() {
    let certificate =
        read(Vec::new(), |params| params.serial_number = Some(SerialNumber::from(vec![0x0a, 0xb0])));
    assert_eq!((&*certificate.subject, &*certificate.issuer), ("CN=web", "CN=web"));
    assert_eq!(&*certificate.serial, "0ab0");
    assert_eq!(certificate.sha256.len(), 64);
    assert!(certificate.sha256.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
}

#[test]
fn a_certificate_is_whole_and_nothing_stands_behind_it() {
    let made = |extension: Option<CustomExtension>| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::NoCa;
        params.custom_extensions.extend(extension);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    };
    let mut der = made(None);
    assert!(Certificate::read(&der).is_ok());
    der.push(0);
    assert_eq!(Certificate::read(&der), Err(Unreadable::Encoding));
    assert_eq!(Certificate::read(&der[..der.len() - 2]), Err(Unreadable::Encoding));
    assert_eq!(Certificate::read(b""), Err(Unreadable::Encoding));
    // Name constraints that are none, in an extension that nobody would have looked at.
    let broken = CustomExtension::from_oid_content(&[2, 5, 29, 30], vec![0xff, 0x01]);
    assert_eq!(Certificate::read(&made(Some(broken))), Err(Unreadable::Extension));
}
