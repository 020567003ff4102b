//! Who a TLS client certificate speaks for, and whom the mesh trusts to say so.
//!
//! The chain is judged twice: by rustls at the handshake, and again at each call and whenever trust changes, because a connection
//! lives longer than what was true when it began.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, RootCertStore};
use sidegate_xds::spiffe::SpiffeId;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

mod lists;

use lists::Lists;

use super::refusal::{Reason, Refusal};
use crate::model::Trust;

/// A certificate chain as a peer sent it, the leaf first.
pub type Chain = Arc<[CertificateDer<'static>]>;

/// What is known of a client certificate that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its one URI.
    pub identity: SpiffeId,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// SHA-256 of the root that it chains to, in hexadecimal.
    pub root: Arc<str>,
}

/// The roots of the own trust domain, ready to verify with. Made anew whenever trust changes.
pub struct Anchors {
    trust_domain: String,
    roots: Vec<Anchor>,
    lists: Lists,
    denied: BTreeSet<String>,
    at_handshake: Arc<dyn ClientCertVerifier>,
}

struct Anchor {
    fingerprint: Arc<str>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for Anchors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots: Vec<&str> = self.roots.iter().map(|root| root.fingerprint.as_ref()).collect();
        formatter
            .debug_struct("Anchors")
            .field("roots", &roots)
            .field("denied", &self.denied)
            .finish_non_exhaustive()
    }
}

/// A trust bundle that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the roots of the trust domain {domain} cannot be used: {reason}")]
pub struct AnchorsError {
    domain: String,
    reason: String,
}

impl Anchors {
    /// Reads the own trust domain's roots, the lists of the revoked, and the denied.
    ///
    /// # Errors
    /// When a root or a list is not what it should be: nobody is trusted by half a bundle.
    pub fn new(trust: &Trust) -> Result<Self, AnchorsError> {
        let failed = |reason: String| AnchorsError { domain: trust.trust_domain.clone(), reason };
        let mut lists = Vec::new();
        for text in &trust.revocation {
            for list in CertificateRevocationListDer::pem_slice_iter(text.as_bytes()) {
                lists.push(list.map_err(|error| failed(format!("a revocation list: {error}")))?);
            }
        }
        let mut roots = Vec::new();
        let mut all = RootCertStore::empty();
        for text in trust.bundles.get(&trust.trust_domain).into_iter().flatten() {
            for root in CertificateDer::pem_slice_iter(text.as_bytes()) {
                let root = root.map_err(|error| failed(format!("a root: {error}")))?;
                let mut one = RootCertStore::empty();
                one.add(root.clone()).map_err(|error| failed(format!("a root: {error}")))?;
                all.add(root.clone()).map_err(|error| failed(format!("a root: {error}")))?;
                let verifier = verifier(one, &lists).map_err(&failed)?;
                roots.push(Anchor { fingerprint: fingerprint(&root).into(), verifier });
            }
        }
        if roots.is_empty() {
            return Err(failed("there is none".to_owned()));
        }
        let at_handshake = verifier(all, &lists).map_err(&failed)?;
        let denied = trust.denied.iter().cloned().collect();
        let lists = Lists::read(&lists).map_err(&failed)?;
        Ok(Self { trust_domain: trust.trust_domain.clone(), roots, lists, denied, at_handshake })
    }

    /// What rustls asks at a handshake. A client without a certificate may have a token.
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.at_handshake)
    }

    /// The trust domain that identities are of.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Whether an identity is refused whatever it shows.
    ///
    /// # Errors
    /// When it is.
    pub fn admit(&self, identity: &SpiffeId) -> Result<(), Refusal> {
        if self.denied.contains(identity.as_str()) {
            let text = format!("{identity} is on the list of denied identities");
            return Err(Refusal::new(Reason::Denied, text));
        }
        Ok(())
    }

    /// Judges a chain now.
    ///
    /// # Errors
    /// Why it speaks for nobody.
    pub fn identify(&self, chain: &[CertificateDer<'static>], now: SystemTime) -> Result<Leaf, Refusal> {
        let (leaf, rest) = chain.split_first().ok_or_else(|| untrusted("the chain is empty"))?;
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let mut worst = untrusted("no root that is trusted now has signed it");
        for root in &self.roots {
            match root.verifier.verify_client_cert(leaf, rest, time) {
                Ok(_) if self.lists.name(leaf) => return Err(revoked()),
                Ok(_) => {
                    let leaf = read(leaf, Arc::clone(&root.fingerprint), &self.trust_domain)?;
                    // The last second of a certificate is its end, as it is for a stream.
                    return if now < leaf.not_after { Ok(leaf) } else { Err(expired()) };
                }
                // Another root says only that it is not its own; what the right one says is the reason.
                Err(error) if is_unknown_issuer(&error) => {}
                Err(error) => worst = explain(&error),
            }
        }
        Err(worst)
    }
}

fn verifier(
    roots: RootCertStore,
    lists: &[CertificateRevocationListDer<'static>],
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(lists.iter().cloned())
        // A root without a list has revoked nobody.
        .allow_unknown_revocation_status()
        // Nobody knows whom a list that is over would name today (ADR 12).
        .enforce_revocation_expiration()
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())
}

/// What a failure of the handshake or of a later look at the chain is to its sender.
pub(crate) fn explain(error: &rustls::Error) -> Refusal {
    let rustls::Error::InvalidCertificate(problem) = error else {
        return Refusal::new(Reason::HandshakeFailed, format!("the TLS handshake failed: {error}"));
    };
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => expired(),
        CertificateError::Revoked => revoked(),
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            untrusted("the revocation list of its issuer is over, and the control plane needs the next one")
        }
        other => untrusted(&other.to_string()),
    }
}

fn expired() -> Refusal {
    Refusal::new(
        Reason::CertificateExpired,
        "the client certificate has expired: connect without it, and with a token",
    )
}

fn revoked() -> Refusal {
    Refusal::new(
        Reason::CertificateRevoked,
        "the client certificate was revoked: ask for a new one with a token",
    )
}

fn untrusted(why: &str) -> Refusal {
    Refusal::new(
        Reason::CertificateUntrusted,
        format!("the client certificate is not trusted ({why}): ask for a new one with a token"),
    )
}

fn is_unknown_issuer(error: &rustls::Error) -> bool {
    // A root whose key was exchanged under the same name fails by the signature.
    matches!(
        error,
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)
    )
}

fn read(der: &CertificateDer<'_>, root: Arc<str>, trust_domain: &str) -> Result<Leaf, Refusal> {
    let wrong = |why: String| {
        Refusal::new(
            Reason::CertificateIdentity,
            format!("the client certificate speaks for no workload of {trust_domain}: {why}"),
        )
    };
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| wrong("it cannot be read".to_owned()))?;
    if certificate.is_ca() {
        return Err(wrong("it is an authority's".to_owned()));
    }
    let names =
        certificate.subject_alternative_name().map_err(|_| wrong("its names cannot be read".to_owned()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let [uri] = uris.as_slice() else {
        return Err(wrong(format!("it has {} URIs instead of one", uris.len())));
    };
    let identity: SpiffeId = uri.parse().map_err(|error| wrong(format!("its URI is no id: {error}")))?;
    if identity.trust_domain() != trust_domain {
        return Err(wrong(format!("it is of the trust domain {}", identity.trust_domain())));
    }
    let validity = certificate.validity();
    Ok(Leaf {
        identity,
        serial: hexadecimal(certificate.raw_serial()),
        not_before: time(validity.not_before.timestamp()),
        not_after: time(validity.not_after.timestamp()),
        root,
    })
}

fn time(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or_default())
}

fn fingerprint(root: &CertificateDer<'_>) -> String {
    hexadecimal(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, root).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keeps anchors in step with trust for as long as trust is told of. A bundle that cannot be used changes nothing.
///
/// # Errors
/// When the first one cannot be used.
pub fn follow(mut trust: watch::Receiver<Arc<Trust>>) -> Result<watch::Receiver<Arc<Anchors>>, AnchorsError> {
    let first = Anchors::new(&trust.borrow_and_update())?;
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        while trust.changed().await.is_ok() {
            let latest = Arc::clone(&trust.borrow_and_update());
            match Anchors::new(&latest) {
                Ok(anchors) => drop(sender.send_replace(Arc::new(anchors))),
                Err(error) => tracing::error!(%error, "the last good trust stays in force for callers"),
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests;
