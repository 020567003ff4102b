//! Who is trusted: a path to a root by webpki, then names, then pins. Both directions ask the same [`Policy`].
//!
//! Fails closed: a certificate that is in doubt anywhere is refused before its names are looked at.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DistinguishedName, Error, OtherError};
use webpki::{
    EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::bundle::Bundles;
use super::certificate::{Certificate, hexadecimal};
use super::material::{Revocation, Roots, digest};
use super::provider;
use super::signatures::Signatures;

/// A test for one subject alternative name.
pub(crate) struct NameMatch {
    /// The kind of name.
    pub(crate) kind: NameKind,
    /// The test as text: for messages, and for telling tests apart.
    pub(crate) text: Box<str>,
    /// The name itself, when it must be exactly that: DNS names then match wildcards in certificates.
    pub(crate) exact: Option<Box<str>>,
    /// The test.
    pub(crate) matches: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

/// The kind of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameKind {
    /// URI.
    Uri,
    /// DNS name.
    Dns,
    /// E-mail address.
    Email,
    /// IP address.
    Address,
}

impl fmt::Debug for NameMatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} {}", self.kind, self.text)
    }
}

impl NameMatch {
    fn is_met(&self, certificate: &Certificate) -> bool {
        let names = &certificate.names;
        let any = |names: &[Box<str>]| names.iter().any(|name| (self.matches)(name));
        match self.kind {
            NameKind::Uri => any(&names.uris),
            NameKind::Email => any(&names.emails),
            NameKind::Address => names.addresses.iter().any(|address| (self.matches)(&address.to_string())),
            NameKind::Dns => match &self.exact {
                Some(wanted) => names.dns.iter().any(|name| covers(name, wanted)),
                None => any(&names.dns),
            },
        }
    }
}

/// Whether a certificate's DNS name covers a host: equal in any case, or by a wildcard for its first label (RFC 6125 §6.4.3).
pub(super) fn covers(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(parent), Some((first, rest))) => {
            !first.is_empty() && parent.contains('.') && parent.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

/// The parts of a [`Policy`].
#[derive(Debug, Default)]
pub(crate) struct PolicyParts {
    /// `trusted_ca`.
    pub(crate) roots: Option<Roots>,
    /// `crl`.
    pub(crate) revocation: Option<Revocation>,
    /// `only_verify_leaf_cert_crl`.
    pub(crate) only_leaf_revocation: bool,
    /// `match_typed_subject_alt_names`: one of them must hold.
    pub(crate) names: Vec<NameMatch>,
    /// `verify_certificate_hash`.
    pub(crate) hashes: Vec<[u8; 32]>,
    /// `verify_certificate_spki`.
    pub(crate) keys: Vec<[u8; 32]>,
    /// The certificate must be for the name that the connection asked for.
    pub(crate) requested_name: bool,
    /// `suppress_client_ca_list`.
    pub(crate) hide_roots: bool,
    /// SPIFFE: roots by trust domain. They decide instead of `roots`.
    pub(crate) bundles: Option<Bundles>,
    /// Names that are not accepted, whoever vouches for them.
    pub(crate) denied: Denied,
}

/// SPIFFE ids that are not accepted any more.
pub(crate) type Denied = Arc<BTreeSet<Box<str>>>;

/// Who is trusted.
#[derive(Debug)]
pub(crate) struct Policy {
    parts: PolicyParts,
    /// Differs when anything differs that decides who is trusted: sessions are not resumed under another one (R8).
    pub(crate) fingerprint: [u8; 32],
    /// Differs when anything differs that decides who is accepted no more: revocation lists and denied ids.
    pub(super) revocation: [u8; 32],
    /// What clients are told of the roots.
    pub(super) hints: Vec<DistinguishedName>,
    /// Signatures under these roots that were found good.
    signatures: Signatures,
}

/// Why a certificate is refused, beyond what webpki finds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// It has none of the names that it must have.
    #[error("the peer's certificate is not accepted: expected {expected}; found {found}")]
    Names {
        /// What it must have.
        expected: String,
        /// What it has.
        found: String,
    },
    /// It is not pinned.
    #[error("the peer's certificate is not accepted: it is not one of those that are pinned")]
    Pin,
    /// It has not exactly one SPIFFE id.
    #[error("the peer's certificate is not accepted: it {0}")]
    Identity(String),
    /// Nobody vouches for ids of its trust domain.
    #[error("the peer's certificate is not accepted: there is no bundle for its trust domain {0:?}")]
    Domain(String),
    /// Its id is on the list of those that are denied.
    #[error("the peer's certificate is not accepted: {0} is denied")]
    Denied(String),
    /// Something in it is in doubt.
    #[error("the peer's certificate is not accepted: it {0}")]
    Doubt(String),
}

/// Why a certificate that was accepted would not be any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revoked {
    /// A revocation list names it, or one above it.
    Certificate,
    /// Its id is denied.
    Identity,
}

impl fmt::Display for Revoked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Certificate => "a revocation list names the peer's certificate",
            Self::Identity => "the peer's identity is denied",
        })
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

impl Policy {
    /// Puts the parts together.
    pub(crate) fn new(parts: PolicyParts) -> Self {
        let mut text = Vec::new();
        for root in parts.roots.iter().flat_map(|roots| &*roots.der) {
            text.extend(digest(root));
        }
        text.push(0);
        for (domain, roots) in parts.bundles.iter().flat_map(Bundles::iter) {
            text.extend(digest(domain.as_bytes()));
            text.extend(roots.der.iter().flat_map(|root| digest(root)));
            text.push(0);
        }
        text.push(u8::from(parts.bundles.is_some()));
        let revocation = revocation(&parts);
        text.extend(revocation);
        text.push(u8::from(parts.only_leaf_revocation) | (u8::from(parts.requested_name) << 1));
        for name in &parts.names {
            text.extend_from_slice(format!("{name:?}\n").as_bytes());
        }
        text.push(0);
        text.extend(parts.hashes.iter().chain(&parts.keys).flatten());
        text.extend([parts.hashes.len() as u8, parts.keys.len() as u8]);
        let fingerprint = digest(&text);
        let bundles = parts.bundles.iter().flat_map(Bundles::iter).map(|(_, roots)| roots);
        let own = parts.roots.iter().filter(|_| parts.bundles.is_none());
        let anchors = bundles.chain(own).filter(|_| !parts.hide_roots).flat_map(|roots| &*roots.anchors);
        let hints = anchors.map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect();
        Self { parts, fingerprint, revocation, hints, signatures: Signatures::default() }
    }

    /// Whether anything at all is verified.
    pub(crate) fn is_open(&self) -> bool {
        let parts = &self.parts;
        parts.roots.is_none()
            && parts.bundles.is_none()
            && parts.hashes.is_empty()
            && parts.keys.is_empty()
            && parts.names.is_empty()
            && !parts.requested_name
    }

    /// Whether names are looked at.
    pub(crate) fn checks_names(&self) -> bool {
        !self.parts.names.is_empty() || self.parts.requested_name
    }

    /// Whether the certificate is accepted.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: impl ExtendedKeyUsageValidator,
        requested: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Result<(), Error> {
        if intermediates.len() > CHAIN {
            return Err(Refusal::Doubt(format!("comes with {} others", intermediates.len())).into());
        }
        let certificate =
            Certificate::read(leaf).map_err(|error| Error::from(Refusal::Doubt(error.to_string())))?;
        if !certificate.may_sign {
            return Err(Refusal::Doubt("may not sign (key usage)".into()).into());
        }
        if certificate.has_several_identities() {
            return Err(Refusal::Doubt("has a SPIFFE id and another URI".into()).into());
        }
        // By its id alone, before any path is looked for: no domain's roots are ever tried for an id of another one (R7).
        let roots = match &self.parts.bundles {
            Some(bundles) => Some(bundles.of(&certificate)?),
            None => self.parts.roots.as_ref(),
        };
        let parsed = EndEntityCert::try_from(leaf).map_err(|error| certificate_error(&error))?;
        match roots {
            Some(roots) => self.verify_path(&parsed, roots, intermediates, usage, now)?,
            None => verify_time(&certificate, now)?,
        }
        self.verify_not_revoked(&certificate, leaf, intermediates)?;
        self.verify_pins(&certificate)?;
        self.verify_names(&certificate, &parsed, requested)
    }

    fn verify_path(
        &self,
        leaf: &EndEntityCert<'_>,
        roots: &Roots,
        intermediates: &[CertificateDer<'_>],
        usage: impl ExtendedKeyUsageValidator,
        now: UnixTime,
    ) -> Result<(), Error> {
        let lists: Vec<_> =
            self.parts.revocation.iter().flat_map(|revocation| revocation.lists.iter()).collect();
        let depth = if self.parts.only_leaf_revocation {
            RevocationCheckDepth::EndEntity
        } else {
            RevocationCheckDepth::Chain
        };
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| options.with_depth(depth));
        // With bundles, a trust domain that publishes no list must not lose its peers for the list of another one; elsewhere, as in Envoy,
        // who has lists has them for every issuer.
        let unknown = match self.parts.bundles {
            Some(_) => UnknownStatusPolicy::Allow,
            None => UnknownStatusPolicy::Deny,
        };
        let revocation = revocation.map(|options| options.with_status_policy(unknown));
        // As in Envoy: a list whose time is over does not tell who has been revoked since.
        let revocation =
            revocation.map(|options| options.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let algorithms = provider().signature_verification_algorithms.all;
        self.signatures.remembering(algorithms, |algorithms| {
            leaf.verify_for_usage(algorithms, &roots.anchors, intermediates, now, usage, revocation, None)
                .map(drop)
                .map_err(|error| certificate_error(&error))
        })
    }

    /// Why a certificate that was accepted before is not any more, if so. Its path and its time are not looked at again: who renews roots
    /// or leaves must not lose a connection by it.
    pub(super) fn revokes(
        &self,
        certificate: &Certificate,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<Revoked> {
        if self.denied_name(certificate).is_some() {
            return Some(Revoked::Identity);
        }
        let lists = self.parts.revocation.as_ref()?;
        let above = if self.parts.only_leaf_revocation { &[] } else { intermediates };
        std::iter::once(leaf).chain(above).any(|one| lists.names(one)).then_some(Revoked::Certificate)
    }

    /// The one of its names that is denied.
    fn denied_name<'a>(&self, certificate: &'a Certificate) -> Option<&'a str> {
        let denied = &self.parts.denied;
        certificate.names.uris.iter().map(|name| &**name).find(|name| denied.contains(*name))
    }

    fn verify_not_revoked(
        &self,
        certificate: &Certificate,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        match self.revokes(certificate, leaf, intermediates) {
            None => Ok(()),
            Some(Revoked::Certificate) => Err(CertificateError::Revoked.into()),
            Some(Revoked::Identity) => {
                let name = self.denied_name(certificate).unwrap_or_default();
                Err(Refusal::Denied(name.to_owned()).into())
            }
        }
    }

    fn verify_pins(&self, certificate: &Certificate) -> Result<(), Error> {
        let PolicyParts { hashes, keys, .. } = &self.parts;
        if hashes.is_empty() && keys.is_empty() {
            return Ok(());
        }
        let hashed = hashes.iter().any(|hash| *hexadecimal(hash) == *certificate.sha256);
        if hashed || keys.contains(&certificate.key_sha256) { Ok(()) } else { Err(Refusal::Pin.into()) }
    }

    fn verify_names(
        &self,
        certificate: &Certificate,
        parsed: &EndEntityCert<'_>,
        requested: Option<&ServerName<'_>>,
    ) -> Result<(), Error> {
        let names = &self.parts.names;
        if !names.is_empty() && !names.iter().any(|name| name.is_met(certificate)) {
            let expected: Vec<_> = names.iter().map(|name| &*name.text).collect();
            let expected = expected.join(" or ");
            return Err(Refusal::Names { expected, found: certificate.described_names() }.into());
        }
        if !self.parts.requested_name {
            return Ok(());
        }
        let valid = requested.is_some_and(|name| parsed.verify_is_valid_for_subject_name(name).is_ok());
        if valid {
            return Ok(());
        }
        let expected =
            requested.map_or_else(|| "a name to ask for".into(), |name| name.to_str().into_owned());
        Err(Refusal::Names { expected, found: certificate.described_names() }.into())
    }
}

/// What is revoked, as a number that tells two states apart.
fn revocation(parts: &PolicyParts) -> [u8; 32] {
    let mut text: Vec<u8> = parts.revocation.iter().flat_map(|revocation| revocation.digest).collect();
    for name in &*parts.denied {
        text.extend(digest(name.as_bytes()));
    }
    digest(&text)
}

/// Without roots there is no path that webpki would hold against the clock.
fn verify_time(certificate: &Certificate, now: UnixTime) -> Result<(), Error> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
    if certificate.has_expired(now) {
        return Err(CertificateError::Expired.into());
    }
    if certificate.not_before > now {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(())
}

const TOO_WEAK: &str = "is signed in a way that is not accepted, such as by SHA-1";

/// Refused for a reason that rustls has no word for.
pub(super) fn doubt(text: String) -> CertificateError {
    CertificateError::Other(OtherError(Arc::new(Refusal::Doubt(text))))
}

/// webpki's words in rustls', which chooses the alert by them.
fn certificate_error(error: &webpki::Error) -> Error {
    use webpki::Error as Webpki;
    let error = match error {
        Webpki::BadDer | Webpki::BadDerTime | Webpki::TrailingData(_) => CertificateError::BadEncoding,
        Webpki::CertExpired { .. } | Webpki::InvalidCertValidity => CertificateError::Expired,
        Webpki::CertNotValidYet { .. } => CertificateError::NotValidYet,
        Webpki::UnknownIssuer => CertificateError::UnknownIssuer,
        Webpki::CertRevoked => CertificateError::Revoked,
        Webpki::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        Webpki::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        Webpki::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        Webpki::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        Webpki::UnsupportedSignatureAlgorithmContext(_)
        | Webpki::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => doubt(TOO_WEAK.to_owned()),
        other => doubt(format!("is refused: {other}")),
    };
    Error::InvalidCertificate(error)
}

/// Certificates above a leaf: more of them are an attack on the path builder.
const CHAIN: usize = 16;

#[cfg(test)]
mod tests;
