use std::sync::Arc;

use rustls::{AlertDescription as Alert, InvalidMessage, OtherError};

use super::*;

fn of(error: Error) -> (Failure, String) {
    let failure = HandshakeFailure::of(&io::Error::other(error));
    (failure.kind, failure.detail)
}

fn certificate(error: CertificateError) -> (Failure, String) {
    of(Error::InvalidCertificate(error))
}

#[test]
fn each_kind_is_told_from_the_others_and_says_why() {
    let refused = |refusal: Refusal| certificate(CertificateError::Other(OtherError(Arc::new(refusal))));
    let names = Refusal::Names { expected: "a".into(), found: "b".into() };
    for ((kind, detail), wanted, words) in [
        (refused(names), Failure::Names, "expected a; found b"),
        (refused(Refusal::Pin), Failure::Pin, "not one of those that are pinned"),
        (refused(Refusal::Identity("is x".into())), Failure::Untrusted(Distrust::Identity), "it is x"),
        (refused(Refusal::Domain("d".into())), Failure::Untrusted(Distrust::Identity), "no bundle"),
        (refused(Refusal::Denied("i".into())), Failure::Untrusted(Distrust::Revoked), "i is denied"),
        (refused(Refusal::Doubt("is odd".into())), Failure::Untrusted(Distrust::Other), "it is odd"),
        (of(Error::NoCertificatesPresented), Failure::NoCertificate, "showed no certificate"),
        (
            of(Error::AlertReceived(Alert::CertificateExpired)),
            Failure::Refused,
            "refused: certificate_expired",
        ),
        (of(Error::AlertReceived(Alert::UnknownCA)), Failure::Refused, "refused: unknown_"),
        (of(Error::InvalidMessage(InvalidMessage::InvalidContentType)), Failure::Protocol, "is not TLS"),
        (of(Error::HandshakeNotComplete), Failure::Protocol, "TLS: "),
    ] {
        assert_eq!(kind, wanted, "{detail}");
        assert!(detail.starts_with("TLS: ") && detail.contains(words), "{detail}");
    }
}

#[test]
fn a_certificate_that_is_not_trusted_says_what_is_wrong_with_it() {
    use CertificateError as E;
    for (error, wanted, words) in [
        (E::Expired, Distrust::Time, "it has expired"),
        (E::NotValidYet, Distrust::Time, "it is not valid yet"),
        (E::Revoked, Distrust::Revoked, "it is revoked"),
        (E::UnknownIssuer, Distrust::Other, "no trusted root has issued it"),
        (E::InvalidPurpose, Distrust::Other, "extended key usage"),
        (E::BadSignature, Distrust::Other, "its signature was not made by the trusted root"),
        (E::BadEncoding, Distrust::Other, "it cannot be read"),
    ] {
        let (kind, detail) = certificate(error);
        assert_eq!(kind, Failure::Untrusted(wanted), "{detail}");
        assert!(detail.contains(words), "{detail}");
    }
}

#[test]
fn an_end_that_closes_is_no_failure_of_tls() {
    let failure = HandshakeFailure::of(&io::ErrorKind::UnexpectedEof.into());
    assert_eq!(failure.kind, Failure::Closed);
    assert!(failure.detail.contains("closed before the handshake was done"), "{}", failure.detail);
    let failure = HandshakeFailure::of(&io::ErrorKind::ConnectionReset.into());
    assert_eq!(failure.kind, Failure::Closed);
    assert!(failure.detail.contains("reset"), "{}", failure.detail);
}
