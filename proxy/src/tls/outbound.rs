//! What other rooms need for connections of their own (to the control plane, to the certificate authority) and for judging certificates
//! that they are given.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, Error};

use super::failure::{Failure, HandshakeFailure};
use super::material::{Identity, MaterialError, Roots};
use super::verifier::{Clients, Servers};
use super::verify::{Policy, PolicyParts};

/// How to shake hands with a server that the policy accepts. Nothing is resumed: each connection proves everything anew.
///
/// # Errors
/// When the parts do not go together.
pub(crate) fn outbound(
    policy: Arc<Policy>,
    identity: Option<&Identity>,
    alpn: &[u8],
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(super::provider().clone());
    let builder = builder.with_safe_default_protocol_versions()?;
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(Servers { policy });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => {
            let resolver = SingleCertAndKey::from(rustls::sign::CertifiedKey::clone(&identity.key));
            let resolver: Arc<dyn ResolvesClientCert> = Arc::new(resolver);
            builder.with_client_cert_resolver(resolver)
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// What a handshake met, in words, and whether it was the other end's certificate.
pub(crate) fn describe(error: &io::Error) -> (String, bool) {
    let HandshakeFailure { kind, detail } = HandshakeFailure::of(error);
    (detail, matches!(kind, Failure::Untrusted(_) | Failure::Names | Failure::Pin))
}

impl Identity {
    /// Whether the roots vouch for it, for both ends of a connection.
    ///
    /// # Errors
    /// Why they do not.
    pub(crate) fn is_vouched_for(&self, roots: &Roots, now: SystemTime) -> Result<(), String> {
        let policy =
            Arc::new(Policy::new(PolicyParts { roots: Some(roots.clone()), ..PolicyParts::default() }));
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(now);
        let Some((leaf, intermediates)) = self.key.cert.split_first() else {
            return Err(MaterialError::NoCertificate.to_string());
        };
        // No policy here looks at the name.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let described = |error: Error| describe(&io::Error::other(error)).0;
        Servers { policy: policy.clone() }
            .verify_server_cert(leaf, intermediates, &name, &[], now)
            .map_err(described)?;
        let clients = Clients { policy, required: true };
        clients.verify_client_cert(leaf, intermediates, now).map(drop).map_err(described)
    }

    /// Without the certificates that are trusted anyway, or that nobody but themselves has signed: what a peer needs to see.
    pub(crate) fn without_roots(self, roots: &Roots) -> Self {
        let is_root = |der: &CertificateDer<'_>| {
            roots.der.contains(der)
                || super::Certificate::read(der).is_ok_and(|facts| facts.issuer == facts.subject)
        };
        let mut key = Arc::unwrap_or_clone(self.key);
        let mut place = 0;
        key.cert.retain(|der| {
            place += 1;
            place == 1 || !is_root(der)
        });
        Self { leaf: self.leaf, key: Arc::new(key) }
    }

    /// The chain in PEM form, leaf first.
    pub(crate) fn chain_pem(&self) -> String {
        self.key.cert.iter().map(|der| super::peer::pem(der)).collect()
    }
}

impl Roots {
    /// The first one alone.
    pub(crate) fn first(&self) -> Self {
        fn first<T: Clone>(all: &Arc<Vec<T>>) -> Arc<Vec<T>> {
            Arc::new(all.iter().take(1).cloned().collect())
        }
        Self { anchors: first(&self.anchors), certificates: first(&self.certificates), der: first(&self.der) }
    }

    /// All of them in PEM form, each once.
    pub(crate) fn pem(&self) -> String {
        let mut seen: Vec<&CertificateDer<'_>> = Vec::new();
        self.der.iter().for_each(|der| {
            if !seen.contains(&der) {
                seen.push(der);
            }
        });
        seen.into_iter().map(|der| super::peer::pem(der)).collect()
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn fingerprint(data: &[u8]) -> String {
    super::certificate::hexadecimal(&super::material::digest(data))
}

/// How many certificates are in a text.
pub(crate) fn count_certificates(text: &[u8]) -> usize {
    CertificateDer::pem_slice_iter(text).count()
}
