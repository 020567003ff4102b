//! What a certificate says: names, times, key usage. Read strictly; a name that is in doubt matches nothing.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::material::digest;

/// A certificate's facts, for matching, logs and pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// The subject, as RFC 4514 writes it.
    pub(crate) subject: Box<str>,
    /// The issuer.
    pub(crate) issuer: Box<str>,
    /// The serial number in lower-case hexadecimal.
    pub(crate) serial: Box<str>,
    /// The subject alternative names.
    pub(crate) names: Names,
    /// From when it is valid.
    pub(crate) not_before: SystemTime,
    /// Until when.
    pub(crate) not_after: SystemTime,
    /// SHA-256 of the whole, in lower-case hexadecimal.
    pub(crate) sha256: Box<str>,
    /// SHA-256 of the public key's `SubjectPublicKeyInfo`.
    pub(super) key_sha256: [u8; 32],
    /// `keyUsage` is absent or allows signatures.
    pub(super) may_sign: bool,
    /// `keyUsage` allows signing certificates or revocation lists.
    pub(super) may_certify: bool,
}

/// Subject alternative names by kind; those that are in doubt are left out, and counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// `uniformResourceIdentifier`.
    pub(crate) uris: Vec<Box<str>>,
    /// `dNSName`.
    pub(crate) dns: Vec<Box<str>>,
    /// `rfc822Name`.
    pub(crate) emails: Vec<Box<str>>,
    /// `iPAddress`.
    pub(crate) addresses: Vec<IpAddr>,
    /// Names of any other kind, or with characters that no name of theirs has.
    pub(crate) doubtful: usize,
    /// Names of the kind `uniformResourceIdentifier`, those in doubt too.
    pub(super) uri_count: usize,
}

/// Why a certificate could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// Not DER, or not a certificate.
    #[error("is not a certificate")]
    Encoding,
    /// An extension that names are in is broken, or there twice.
    #[error("has an extension that cannot be read")]
    Extension,
    /// A time that no clock shows.
    #[error("has a time that cannot be")]
    Time,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When anything that matters here is in doubt.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| Unreadable::Encoding)?;
        if !rest.is_empty() {
            return Err(Unreadable::Encoding);
        }
        let names = match parsed.subject_alternative_name().map_err(|_| Unreadable::Extension)? {
            Some(extension) => Names::of(&extension.value.general_names),
            None => Names::default(),
        };
        let broken =
            |extension: &ParsedExtension<'_>| matches!(extension, ParsedExtension::ParseError { .. });
        if parsed.extensions().iter().any(|extension| broken(extension.parsed_extension())) {
            return Err(Unreadable::Extension);
        }
        let usage = parsed.key_usage().map_err(|_| Unreadable::Extension)?;
        let validity = parsed.validity();
        Ok(Self {
            subject: parsed.subject().to_string().into(),
            issuer: parsed.issuer().to_string().into(),
            serial: hexadecimal(parsed.raw_serial()).into(),
            names,
            not_before: time(validity.not_before.timestamp())?,
            not_after: time(validity.not_after.timestamp())?,
            sha256: hexadecimal(&digest(der)).into(),
            key_sha256: digest(parsed.public_key().raw),
            may_sign: usage.as_ref().is_none_or(|usage| usage.value.digital_signature()),
            may_certify: usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()),
        })
    }

    /// Its one URI: of several, none is its identity.
    pub(crate) fn id(&self) -> Option<&str> {
        match (self.names.uri_count, self.names.uris.as_slice()) {
            (1, [id]) => Some(id),
            _ => None,
        }
    }

    /// Whether its time is over.
    pub(crate) fn has_expired(&self, now: SystemTime) -> bool {
        self.not_after < now
    }

    /// Whether it claims a SPIFFE id beside another URI: it has no identity then (SPIFFE X509-SVID §2; R7).
    pub(super) fn has_several_identities(&self) -> bool {
        self.names.uri_count > 1 && self.names.uris.iter().any(|uri| uri.starts_with("spiffe:"))
    }

    /// Every name as text, for messages.
    pub(crate) fn described_names(&self) -> String {
        let Names { uris, dns, emails, addresses, doubtful, .. } = &self.names;
        let mut all: Vec<String> = uris.iter().chain(dns).chain(emails).map(ToString::to_string).collect();
        all.extend(addresses.iter().map(ToString::to_string));
        if *doubtful > 0 {
            all.push(format!("{doubtful} that cannot be read"));
        }
        if all.is_empty() { "no names".to_owned() } else { all.join(", ") }
    }
}

impl Names {
    fn of(names: &[GeneralName<'_>]) -> Self {
        let mut found = Self::default();
        for name in names {
            found.uri_count += usize::from(matches!(name, GeneralName::URI(_)));
            match name {
                GeneralName::URI(text) if is_plain(text) => found.uris.push((*text).into()),
                GeneralName::DNSName(text) if is_plain(text) => found.dns.push((*text).into()),
                GeneralName::RFC822Name(text) if is_plain(text) => found.emails.push((*text).into()),
                GeneralName::IPAddress(bytes) => match address(bytes) {
                    Some(address) => found.addresses.push(address),
                    None => found.doubtful += 1,
                },
                _ => found.doubtful += 1,
            }
        }
        found
    }
}

/// Printable ASCII without spaces: what every name of these kinds is made of. NUL and look-alikes are none (C2).
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn time(seconds: i64) -> Result<SystemTime, Unreadable> {
    let since = u64::try_from(seconds).map_err(|_| Unreadable::Time)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since)).ok_or(Unreadable::Time)
}

/// Lower-case hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The longest name: SPIFFE ids have 2,048 bytes at most.
const NAME: usize = 2048;

#[cfg(test)]
impl Certificate {
    /// One with so many names that cannot be read, and nothing else.
    pub(crate) fn with_doubts(doubtful: usize) -> Self {
        Self {
            subject: "".into(),
            issuer: "".into(),
            serial: "".into(),
            names: Names { doubtful, ..Names::default() },
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            sha256: "".into(),
            key_sha256: [0; 32],
            may_sign: true,
            may_certify: false,
        }
    }
}

#[cfg(test)]
mod tests;
