//! The operators that tell of the client's TLS session.

use std::io::Write;

use super::{Scratch, Value, optional, print};
use crate::telemetry::format::time;
use crate::telemetry::record::Record;

/// What is known of a TLS session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fact {
    Version,
    Cipher,
    ServerName,
    /// Of the client's certificate, or of ours.
    Certificate(Side, CertificateFact),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Peer,
    Own,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum CertificateFact {
    UriNames,
    DnsNames,
    Addresses,
    Emails,
    Subject,
    Issuer,
    Serial,
    Fingerprint,
    Start,
    End,
    Pem,
}

impl Fact {
    /// The fact that an operator of Envoy's prints; `None` for another operator.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (side, fact) = match name {
            "DOWNSTREAM_TLS_VERSION" => return Some(Fact::Version),
            "DOWNSTREAM_TLS_CIPHER" => return Some(Fact::Cipher),
            "REQUESTED_SERVER_NAME" => return Some(Fact::ServerName),
            _ => match name.strip_prefix("DOWNSTREAM_PEER_") {
                Some(fact) => (Side::Peer, fact),
                None => (Side::Own, name.strip_prefix("DOWNSTREAM_LOCAL_")?),
            },
        };
        let fact = match fact {
            "URI_SAN" => CertificateFact::UriNames,
            "DNS_SAN" => CertificateFact::DnsNames,
            "IP_SAN" => CertificateFact::Addresses,
            "EMAIL_SAN" => CertificateFact::Emails,
            "SUBJECT" => CertificateFact::Subject,
            "ISSUER" => CertificateFact::Issuer,
            "SERIAL" => CertificateFact::Serial,
            "FINGERPRINT_256" => CertificateFact::Fingerprint,
            "CERT_V_START" => CertificateFact::Start,
            "CERT_V_END" => CertificateFact::End,
            "CERT" if matches!(side, Side::Peer) => CertificateFact::Pem,
            _ => return None,
        };
        Some(Fact::Certificate(side, fact))
    }

    /// What it is for the record's client.
    pub(super) fn value<'a>(self, record: &'a Record, scratch: &'a mut Scratch) -> Value<'a> {
        let Some(security) = record.security.as_deref() else { return Value::Missing };
        let (side, fact) = match self {
            Fact::Version => return Value::Text(security.version.as_bytes()),
            Fact::Cipher => return Value::Text(security.cipher.as_bytes()),
            Fact::ServerName => return optional(security.server_name.as_deref()),
            Fact::Certificate(side, fact) => (side, fact),
        };
        let peer = security.peer.as_ref();
        let certificate = match side {
            Side::Peer => peer.map(|peer| &peer.certificate),
            Side::Own => security.own.as_ref().map(|own| &own.leaf),
        };
        let Some(certificate) = certificate else { return Value::Missing };
        let names = &certificate.names;
        match fact {
            CertificateFact::Subject => Value::Text(certificate.subject.as_bytes()),
            CertificateFact::Issuer => Value::Text(certificate.issuer.as_bytes()),
            CertificateFact::Serial => Value::Text(certificate.serial.as_bytes()),
            CertificateFact::Fingerprint => Value::Text(certificate.sha256.as_bytes()),
            CertificateFact::UriNames => list(names.uris.iter(), scratch),
            CertificateFact::DnsNames => list(names.dns.iter(), scratch),
            CertificateFact::Emails => list(names.emails.iter(), scratch),
            CertificateFact::Addresses => list(names.addresses.iter(), scratch),
            CertificateFact::Start => {
                time::write_rfc3339(certificate.not_before, scratch);
                Value::Text(scratch)
            }
            CertificateFact::End => {
                time::write_rfc3339(certificate.not_after, scratch);
                Value::Text(scratch)
            }
            CertificateFact::Pem => match peer {
                Some(peer) => print(scratch, format_args!("{}", peer.pem())),
                None => Value::Missing,
            },
        }
    }
}

/// Names with commas in between, as Envoy writes them.
fn list<'a, T: std::fmt::Display>(names: impl Iterator<Item = T>, scratch: &'a mut Scratch) -> Value<'a> {
    for (index, name) in names.enumerate() {
        let separator = if index > 0 { "," } else { "" };
        // Writing to a Vec does not fail.
        let _ = write!(scratch, "{separator}{name}");
    }
    if scratch.is_empty() { Value::Missing } else { Value::Text(scratch) }
}
