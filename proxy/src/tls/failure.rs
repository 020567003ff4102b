//! Why a handshake did not come about.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::verify::Refusal;

/// What kind of failure: what counters tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Our own certificates or roots have not arrived yet.
    NotReady,
    /// It took too long.
    Timeout,
    /// Too many others are under way.
    Overflow,
    /// The peer showed no certificate where one is required.
    NoCertificate,
    /// The peer's certificate has none of the names that it must have.
    Names,
    /// The peer's certificate is not one of those that are pinned.
    Pin,
    /// The peer's certificate is not trusted for another reason.
    Untrusted(Distrust),
    /// The other end refused ours.
    Refused,
    /// The other end closed, or the network failed.
    Closed,
    /// What came is not TLS, or not such as is spoken here.
    Protocol,
}

/// Why a certificate is not trusted: what counters tell apart beyond Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distrust {
    /// Its time is over, or has not begun.
    Time,
    /// It is revoked, or its id is denied.
    Revoked,
    /// It has not exactly one SPIFFE id, or one of a trust domain that is not known.
    Identity,
    /// Anything else: no path to a root, a use that it is not meant for, something in doubt.
    Other,
}

impl Distrust {
    fn of(error: &CertificateError, refusal: Option<&Refusal>) -> Self {
        match (error, refusal) {
            (_, Some(Refusal::Identity(_) | Refusal::Domain(_))) => Self::Identity,
            (_, Some(Refusal::Denied(_))) | (CertificateError::Revoked, _) => Self::Revoked,
            (
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
                _,
            ) => Self::Time,
            _ => Self::Other,
        }
    }
}

/// A failed handshake.
#[derive(Debug)]
pub(crate) struct HandshakeFailure {
    /// Its kind.
    pub(crate) kind: Failure,
    /// For the operator.
    pub(crate) detail: String,
}

impl HandshakeFailure {
    pub(super) fn new(kind: Failure, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    pub(super) fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(error) => Self::of_tls(error),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::new(Failure::Closed, "TLS: the other end closed before the handshake was done")
            }
            None => Self::new(Failure::Closed, format!("TLS: {error}")),
        }
    }

    fn of_tls(error: &Error) -> Self {
        let refusal = refusal(error);
        let kind = match (error, refusal) {
            (_, Some(Refusal::Names { .. })) => Failure::Names,
            (_, Some(Refusal::Pin)) => Failure::Pin,
            (Error::NoCertificatesPresented, _) => Failure::NoCertificate,
            (Error::InvalidCertificate(error), refusal) => Failure::Untrusted(Distrust::of(error, refusal)),
            (Error::AlertReceived(_), _) => Failure::Refused,
            _ => Failure::Protocol,
        };
        let detail = match (error, refusal) {
            (_, Some(refusal)) => format!("TLS: {refusal}"),
            (Error::NoCertificatesPresented, _) => "TLS: the peer showed no certificate".to_owned(),
            (Error::InvalidCertificate(error), _) => {
                format!("TLS: the peer's certificate is not accepted: {}", describe(error))
            }
            (Error::AlertReceived(alert), _) => format!("TLS: the peer refused: {}", alert_text(*alert)),
            (Error::InvalidMessage(_), _) => format!("TLS: what came is not TLS: {error}"),
            _ => format!("TLS: {error}"),
        };
        Self::new(kind, detail)
    }
}

fn refusal(error: &Error) -> Option<&Refusal> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

fn describe(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet".to_owned()
        }
        CertificateError::UnknownIssuer => "no trusted root has issued it".to_owned(),
        CertificateError::Revoked => "it is revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not meant for this use (extended key usage)".to_owned()
        }
        CertificateError::BadSignature => {
            "its signature was not made by the trusted root of its issuer's name".to_owned()
        }
        CertificateError::BadEncoding => "it cannot be read".to_owned(),
        other => other.to_string(),
    }
}

/// `certificate_expired` and the like.
fn alert_text(alert: AlertDescription) -> String {
    let name = format!("{alert:?}");
    let mut text = String::with_capacity(name.len() + 4);
    for (index, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests;
