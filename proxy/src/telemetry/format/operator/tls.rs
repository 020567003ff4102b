//! The operators that tell of TLS sessions: the client's, and the one with the endpoint.

use std::io::Write;

use super::{Scratch, Value, optional, print};
use crate::telemetry::format::time;
use crate::telemetry::record::Record;
use crate::tls::Security;

/// What is known of a TLS session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fact {
    session: Session,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum Session {
    Downstream,
    Upstream,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Version,
    Cipher,
    ServerName,
    /// Of the other end's certificate, or of ours.
    Certificate(Side, CertificateFact),
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Peer,
    Own,
}

#[derive(Clone, Copy, Debug)]
enum CertificateFact {
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
        if name == "REQUESTED_SERVER_NAME" {
            return Some(Self { session: Session::Downstream, what: What::ServerName });
        }
        let (session, name) = match name.strip_prefix("DOWNSTREAM_") {
            Some(rest) => (Session::Downstream, rest),
            None => (Session::Upstream, name.strip_prefix("UPSTREAM_")?),
        };
        Some(Self { session, what: What::parse(name)? })
    }

    /// What it is for the record's connections.
    pub(super) fn value<'a>(self, record: &'a Record, scratch: &'a mut Scratch) -> Value<'a> {
        let security = match self.session {
            Session::Downstream => record.security.as_deref(),
            Session::Upstream => record.upstream_security.as_deref(),
        };
        security.map_or(Value::Missing, |security| self.what.value(security, scratch))
    }
}

impl What {
    fn parse(name: &str) -> Option<Self> {
        let (side, fact) = match name {
            "TLS_VERSION" => return Some(What::Version),
            "TLS_CIPHER" => return Some(What::Cipher),
            _ => match name.strip_prefix("PEER_") {
                Some(fact) => (Side::Peer, fact),
                None => (Side::Own, name.strip_prefix("LOCAL_")?),
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
        Some(What::Certificate(side, fact))
    }

    fn value<'a>(self, security: &'a Security, scratch: &'a mut Scratch) -> Value<'a> {
        let (side, fact) = match self {
            What::Version => return Value::Text(security.version.as_bytes()),
            What::Cipher => return Value::Text(security.cipher.as_bytes()),
            What::ServerName => return optional(security.server_name.as_deref()),
            What::Certificate(side, fact) => (side, fact),
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
