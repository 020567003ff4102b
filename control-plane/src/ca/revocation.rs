//! The certificates that count no more, and the lists that say so: one for each key that signs leaves, on disk and in memory.
//!
//! A list is good for as long as the certificate of the key that signed it: no leaf of that key lives longer, so no list has to be made
//! anew because time went by, and a control plane that is away locks nobody out (proxies refuse everybody whose list is over).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, KeyUsagePurpose, RevocationReason, RevokedCertParams,
    SerialNumber,
};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::directory::Directory;
use super::error::CaError;
use super::generation::Generation;
use super::ledger::SKEW;
use super::pem;
use super::report::Reason;

/// One certificate that counts no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Its serial number, in hex digits.
    pub serial: String,
    /// Whose it is; none when the ledger does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// SHA-256 of the root that it chains to.
    pub root: String,
    /// SHA-256 of the public key that has signed it.
    pub issuer: String,
    /// SHA-256 of its own public key, which gets no certificate any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When it was revoked, in seconds since 1970.
    pub at: u64,
    /// When it expires at the latest; until then it stays on the list.
    pub until: u64,
    /// Why.
    pub reason: Reason,
}

/// A list as proxies get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct List {
    /// SHA-256 of the public key that has signed it.
    issuer: String,
    pem: String,
}

/// All of them: `revoked.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revocations {
    version: u32,
    /// The number of the last list; each list has a larger one than all before.
    number: u64,
    revoked: Vec<Revoked>,
    lists: Vec<List>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self { version: VERSION, number: 0, revoked: Vec::new(), lists: Vec::new() }
    }
}

impl Revocations {
    /// Reads what the folder has. A file that cannot be used is an error: without it the revoked would be let in.
    pub(super) fn open(directory: &Directory) -> Result<Self, CaError> {
        let Some(text) = directory.read(NAME)? else { return Ok(Self::default()) };
        let unusable = |what: String| {
            CaError::content(
                &directory.file(NAME),
                format!(
                    "{what}: bring it back from a backup; without it certificates that were revoked count again"
                ),
            )
        };
        let kept: Self = serde_json::from_str(&text).map_err(|error| {
            unusable(format!("it is not what a control plane of this version writes ({error})"))
        })?;
        if kept.version != VERSION {
            return Err(unusable(format!(
                "its version is {}, and this control plane knows {VERSION}",
                kept.version
            )));
        }
        Ok(kept)
    }

    pub(super) fn save(&self, directory: &Directory) -> Result<(), CaError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| CaError::content(&directory.file(NAME), error.to_string()))?;
        directory.write(NAME, &(text + "\n"))
    }

    /// These with one more, signed by its issuer.
    pub(super) fn with(&self, revoked: Revoked, issuer: &Generation, now: u64) -> Result<Self, CaError> {
        if self.revoked.len() >= MOST {
            return Err(CaError::Refused(format!(
                "{MOST} certificates are revoked already, and each proxy holds them all: deny identities (--id), or rotate the root (sidegate rotate-root)"
            )));
        }
        let mut next = self.clone();
        // By the clock, so that it grows even when the folder was brought back from a backup.
        next.number = (self.number + 1).max(now);
        next.revoked.push(revoked);
        let named = next.revoked.iter().filter(|one| one.issuer == issuer.issuing_key());
        let pem = sign(named, issuer, next.number, now).map_err(CaError::Refused)?;
        next.lists.retain(|list| list.issuer != issuer.issuing_key());
        next.lists.push(List { issuer: issuer.issuing_key().to_owned(), pem });
        Ok(next)
    }

    /// Forgets certificates that are over or whose root is gone, and lists that name nobody any more; says whether there were any.
    pub(super) fn expire(&mut self, generations: &BTreeMap<String, Arc<Generation>>, now: u64) -> bool {
        let before = self.revoked.len();
        self.revoked
            .retain(|one| one.until.saturating_add(SKEW) > now && generations.contains_key(&one.root));
        let issuers: BTreeSet<&str> = self.revoked.iter().map(|one| one.issuer.as_str()).collect();
        self.lists.retain(|list| issuers.contains(list.issuer.as_str()));
        self.revoked.len() != before
    }

    /// The lists in PEM form.
    pub(super) fn lists(&self) -> impl Iterator<Item = &str> {
        self.lists.iter().map(|list| list.pem.as_str())
    }

    pub(super) fn all(&self) -> &[Revoked] {
        &self.revoked
    }

    /// Whether a list of this key names the certificate.
    pub(super) fn names(&self, issuer: &str, serial: &str) -> bool {
        self.revoked.iter().any(|one| one.serial == serial && one.issuer == issuer)
    }

    /// The public keys that get no certificate any more.
    pub(super) fn keys(&self) -> BTreeSet<String> {
        self.revoked.iter().filter_map(|one| one.key.clone()).collect()
    }
}

fn sign<'a>(
    revoked: impl Iterator<Item = &'a Revoked>,
    issuer: &Generation,
    number: u64,
    now: u64,
) -> Result<String, String> {
    let usages = issuer.issuer.key_usages();
    if !usages.is_empty() && !usages.contains(&KeyUsagePurpose::CrlSign) {
        return Err("the certificate that signs (--ca-cert) may not sign revocation lists (cRLSign is missing): make the list with the tools of your PKI and write it into crl.pem of --ca-dir, or deny the identity (sidegate revoke --id)".to_owned());
    }
    let moment = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let revoked = revoked.map(|one| {
        Ok(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&bytes(&one.serial).ok_or("a serial number is broken")?),
            revocation_time: moment(one.at),
            reason_code: code(one.reason),
            invalidity_date: None,
        })
    });
    let params = CertificateRevocationListParams {
        // Another machine's clock may be behind ours.
        this_update: moment(now.saturating_sub(SKEW)),
        next_update: moment(issuer.issuing_until),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect::<Result<_, &str>>()?,
        key_identifier_method: key_id(issuer)?,
    };
    params
        .signed_by(&issuer.issuer)
        .and_then(|list| list.pem())
        .map_err(|error| format!("the revocation list could not be signed: {error}"))
}

/// How the issuer's certificate names its key; some verifiers find a list's issuer by nothing else.
fn key_id(issuer: &Generation) -> Result<KeyIdMethod, String> {
    let signing = issuer.chain.first().unwrap_or(&issuer.root);
    let ders = pem::certificates(signing)?;
    let der = ders.first().ok_or("the certificate that signs cannot be read")?;
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let named = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    });
    Ok(named.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified))
}

const fn code(reason: Reason) -> Option<RevocationReason> {
    match reason {
        Reason::Unspecified => None,
        Reason::KeyCompromise => Some(RevocationReason::KeyCompromise),
        Reason::AffiliationChanged => Some(RevocationReason::AffiliationChanged),
        Reason::Superseded => Some(RevocationReason::Superseded),
        Reason::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
        Reason::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
    }
}

/// A serial number as people copy it from tools: hex digits, in either case, with or without colons → as the ledger writes it.
pub(super) fn serial(text: &str) -> Result<String, CaError> {
    let plain: String = text.trim().chars().filter(|character| *character != ':').collect();
    let lower = plain.to_ascii_lowercase();
    let digits = lower.strip_prefix("0x").unwrap_or(&lower).trim_start_matches("00");
    let whole = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits.to_owned() };
    match bytes(&whole) {
        Some(bytes) if (1..=20).contains(&bytes.len()) => Ok(whole),
        _ => Err(CaError::Refused(format!(
            "{text:?} is not a serial number: give its hex digits, at most 40 (`openssl x509 -noout -serial`, or the proxy's /certs)"
        ))),
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) || hex.len() % 2 == 1 {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

/// What was revoked.
pub(super) const NAME: &str = "revoked.json";
const VERSION: u32 = 1;

/// How many there may be: each proxy gets them all, 40 bytes each.
const MOST: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_taken_as_tools_print_them() {
        for text in ["4a0b", "4A0B", "4A:0B", "0x4a0b", "004a0b", " 4a0b\n"] {
            assert_eq!(serial(text).unwrap(), "4a0b", "{text}");
        }
        assert_eq!(serial("a0b").unwrap(), "0a0b");
        for text in ["", "00", "xyz", "4a 0b", "é0", &"ab".repeat(21), "+1", "-1"] {
            assert!(serial(text).is_err(), "{text}");
        }
    }
}
