//! Certificates, keys, roots and revocation lists from their PEM form.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};

use super::certificate::{Certificate, Unreadable};
use super::provider;

/// A certificate chain with its private key.
pub(crate) struct Identity {
    /// What the leaf says.
    pub(crate) leaf: Certificate,
    pub(super) key: Arc<CertifiedKey>,
}

impl fmt::Debug for Identity {
    /// Nothing of the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.leaf == other.leaf && self.key.cert == other.key.cert
    }
}

/// Why PEM text is no use. Says nothing of what stands in a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MaterialError {
    /// The text has no certificate.
    #[error("certificate_chain: has no certificate in PEM form")]
    NoCertificate,
    /// A certificate is broken.
    #[error("certificate_chain: certificate {0} {1}")]
    Certificate(usize, Unreadable),
    /// The text has no private key, or a broken one.
    #[error("private_key: has no private key in PEM form that can be read")]
    NoKey,
    /// The key is of a kind that is not supported, or too short.
    #[error("private_key: is not a key that can sign here (RSA of 2048 bits or more, ECDSA, Ed25519)")]
    UnusableKey,
    /// The key is another certificate's.
    #[error("private_key: is not the key of the certificate in certificate_chain")]
    KeyMismatch,
    /// The certificate's time is over.
    #[error("certificate_chain: the certificate of {subject} expired at {at}")]
    Expired {
        /// Whose it is.
        subject: Box<str>,
        /// When.
        at: String,
    },
    /// The text has no root certificate.
    #[error("trusted_ca: has no certificate in PEM form")]
    NoRoot,
    /// A root certificate is broken.
    #[error("trusted_ca: certificate {0} cannot be read")]
    Root(usize),
    /// A revocation list is broken.
    #[error("crl: has no revocation list in PEM form that can be read")]
    Revocation,
    /// The cryptography refused the parts together.
    #[error("{0}")]
    Refused(String),
}

impl Identity {
    /// Reads a chain, leaf first, and its key.
    ///
    /// # Errors
    /// What is wrong with either, or that they do not belong together.
    pub(crate) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, MaterialError> {
        let chain = certificates(chain).ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or(MaterialError::NoCertificate)?;
        for (index, certificate) in chain.iter().enumerate().skip(1) {
            Certificate::read(certificate).map_err(|error| MaterialError::Certificate(index, error))?;
        }
        let leaf = Certificate::read(&chain[0]).map_err(|error| MaterialError::Certificate(0, error))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| MaterialError::NoKey)?;
        let key = provider().key_provider.load_private_key(key).map_err(|_| MaterialError::UnusableKey)?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) => Ok(Self { leaf, key: Arc::new(key) }),
            Err(_) => Err(MaterialError::KeyMismatch),
        }
    }
}

/// Certificates that are trusted without a signature above them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roots {
    pub(super) anchors: Arc<Vec<TrustAnchor<'static>>>,
    /// What they say, for pages.
    pub(crate) certificates: Arc<Vec<Certificate>>,
    pub(super) der: Arc<Vec<CertificateDer<'static>>>,
}

impl Roots {
    /// Reads every certificate of a bundle. One that cannot be read refuses the bundle, so that nothing is trusted less than was asked
    /// for in silence; `lenient` leaves it out, for the system's bundle.
    ///
    /// # Errors
    /// When there is none, or one is broken.
    pub(crate) fn from_pem(text: &[u8], lenient: bool) -> Result<Self, MaterialError> {
        let der = certificates(text).map_err(MaterialError::Root)?;
        let mut store = RootCertStore::empty();
        let mut read = Vec::new();
        let mut kept = Vec::new();
        for (index, root) in der.into_iter().enumerate() {
            match (Certificate::read(&root), store.add(root.clone())) {
                (Ok(certificate), Ok(())) => {
                    read.push(certificate);
                    kept.push(root);
                }
                (_, Ok(())) if lenient => kept.push(root),
                _ if lenient => {}
                _ => return Err(MaterialError::Root(index)),
            }
        }
        if store.is_empty() {
            return Err(MaterialError::NoRoot);
        }
        Ok(Self { anchors: Arc::new(store.roots), certificates: Arc::new(read), der: Arc::new(kept) })
    }
}

/// Revocation lists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Revocation {
    pub(super) lists: Arc<Vec<CertRevocationList<'static>>>,
    pub(super) digest: [u8; 32],
}

impl Revocation {
    /// Reads every list of a bundle.
    ///
    /// # Errors
    /// When there is none, or one is broken.
    pub(crate) fn from_pem(text: &[u8]) -> Result<Self, MaterialError> {
        let mut lists = Vec::new();
        for list in CertificateRevocationListDer::pem_slice_iter(text) {
            let list = list.map_err(|_| MaterialError::Revocation)?;
            let list = OwnedCertRevocationList::from_der(&list).map_err(|_| MaterialError::Revocation)?;
            lists.push(CertRevocationList::from(list));
        }
        if lists.is_empty() {
            return Err(MaterialError::Revocation);
        }
        Ok(Self { lists: Arc::new(lists), digest: digest(text) })
    }

    /// Whether one of the lists names the certificate. Which key signed the list is not asked here: whoever configures it is trusted,
    /// and of several lists of one issuer each counts.
    pub(super) fn names(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return false };
        let mut lists = self.lists.iter().filter(|list| list.issuer() == certificate.issuer());
        // A list that cannot be read in full names everybody.
        lists.any(|list| !matches!(list.find_serial(certificate.serial()), Ok(None)))
    }
}

/// SHA-256.
pub(crate) fn digest(data: &[u8]) -> [u8; 32] {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let mut output = [0; 32];
    if let Some(suite) = suite.tls13() {
        output.copy_from_slice(suite.common.hash_provider.hash(data).as_ref());
    }
    output
}

/// Every certificate of a text; the number of the one that is broken otherwise.
fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, usize> {
    let found = CertificateDer::pem_slice_iter(text).enumerate();
    found.map(|(index, certificate)| certificate.map_err(|_| index)).collect()
}
