//! A [`Policy`] as rustls asks it, for either side of a handshake.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::KeyUsage;

use super::provider;
use super::verify::{Policy, doubt};

/// A policy as rustls asks it, on the server's side.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) policy: Arc<Policy>,
    pub(super) required: bool,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.policy.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.policy.verify(leaf, intermediates, KeyUsage::client_auth(), None, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// A policy as rustls asks it, on the client's side.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) policy: Arc<Policy>,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.policy.is_open() {
            self.policy.verify(leaf, intermediates, KeyUsage::server_auth(), Some(server_name), now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

fn tls12_signature(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider().signature_verification_algorithms;
    rustls::crypto::verify_tls12_signature(message, leaf, signature, algorithms).map_err(of_handshake)
}

fn tls13_signature(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, leaf, signature, algorithms).map_err(of_handshake)
}

/// The words for a bad signature speak of the one in the certificate. This one is the handshake's, which a key makes that is somebody
/// else's, or one that no signature is accepted of.
fn of_handshake(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::BadSignature) => Error::InvalidCertificate(doubt(
            "has another key than has signed the handshake, or one that is too short (RSA below 2,048 bits)"
                .to_owned(),
        )),
        other => other,
    }
}

fn schemes() -> Vec<SignatureScheme> {
    provider().signature_verification_algorithms.supported_schemes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::verify::PolicyParts;

    #[test]
    fn either_side_takes_the_signatures_of_every_key_that_a_workload_has() {
        let policy = Arc::new(Policy::new(PolicyParts::default()));
        let clients = Clients { policy: policy.clone(), required: true };
        for schemes in [clients.supported_verify_schemes(), Servers { policy }.supported_verify_schemes()] {
            for scheme in [
                SignatureScheme::ECDSA_NISTP256_SHA256,
                SignatureScheme::ECDSA_NISTP384_SHA384,
                SignatureScheme::ED25519,
                SignatureScheme::RSA_PSS_SHA256,
            ] {
                assert!(schemes.contains(&scheme), "{scheme:?}");
            }
            assert!(!schemes.contains(&SignatureScheme::RSA_PKCS1_SHA1));
        }
    }

    #[test]
    fn a_certificate_is_demanded_where_one_is_required() {
        let clients = |required| Clients { policy: Arc::new(Policy::new(PolicyParts::default())), required };
        assert!(clients(true).client_auth_mandatory());
        assert!(!clients(false).client_auth_mandatory());
    }

    #[test]
    fn a_bad_signature_of_the_handshake_is_not_told_as_one_of_the_certificate() {
        let told = of_handshake(Error::InvalidCertificate(CertificateError::BadSignature)).to_string();
        assert!(told.contains("has another key than has signed the handshake"), "{told}");
        assert_eq!(of_handshake(Error::DecryptError), Error::DecryptError);
    }
}
