//! What an authority's certificate says, and whether it can do what it is for.

use std::time::Duration;

use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::leaf::{Leaf, Serial};
use super::pem;

/// For whom and when an authority is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment<'a> {
    pub(super) trust_domain: &'a str,
    /// Seconds since 1970.
    pub(super) now: u64,
}

/// What is of interest in an authority's certificate.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) from: u64,
    pub(super) until: u64,
    pub(super) is_self_signed: bool,
    /// SHA-256 of its public key.
    pub(super) key: String,
    pub(super) organisation: String,
    is_authority: bool,
    may_sign: bool,
    /// The bits of the public key, as the key pair would show them.
    public_key: Vec<u8>,
    rsa_bits: Option<usize>,
}

impl Facts {
    pub(super) fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("not a certificate: {error}"))?;
        if !rest.is_empty() {
            return Err("something follows the certificate".to_owned());
        }
        let broken = |error: x509_parser::error::X509Error| format!("the certificate is broken: {error}");
        let constraints = certificate.basic_constraints().map_err(broken)?;
        let usage = certificate.key_usage().map_err(broken)?;
        let key = certificate.public_key();
        let rsa_bits = match key.parsed() {
            Ok(x509_parser::public_key::PublicKey::RSA(rsa)) => Some(rsa.key_size()),
            _ => None,
        };
        let organisation = certificate.subject().iter_organization().next();
        Ok(Self {
            from: seconds(certificate.validity().not_before.timestamp()),
            until: seconds(certificate.validity().not_after.timestamp()),
            is_self_signed: certificate.subject() == certificate.issuer()
                && certificate.verify_signature(None).is_ok(),
            key: pem::fingerprint(key.raw),
            organisation: organisation.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned(),
            is_authority: constraints.is_some_and(|constraints| constraints.value.ca),
            may_sign: usage.is_none_or(|usage| usage.value.key_cert_sign()),
            public_key: key.subject_public_key.data.to_vec(),
            rsa_bits,
        })
    }

    /// Whether it says that it is an authority at all.
    pub(super) fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// Whether it may sign certificates, now.
    pub(super) fn check_authority(&self, what: &str, now: u64) -> Result<(), String> {
        if !self.is_authority {
            return Err(format!("{what} is not a certificate authority's (CA:TRUE is missing)"));
        }
        if !self.may_sign {
            return Err(format!("{what} may not sign certificates (keyCertSign is missing)"));
        }
        if now >= self.until {
            return Err(format!("{what} has expired {} ago", people(now - self.until)));
        }
        if now < self.from {
            return Err(format!(
                "{what} is not valid yet, but in {}: is this machine's clock right?",
                people(self.from - now)
            ));
        }
        if let Some(bits) = self.rsa_bits.filter(|bits| *bits < 2048) {
            return Err(format!("{what} has an RSA key of {bits} bits: at least 2048 are needed"));
        }
        Ok(())
    }

    /// Whether a private key is this certificate's.
    pub(super) fn check_key(&self, key: &KeyPair) -> Result<(), String> {
        if key.der_bytes() == self.public_key {
            return Ok(());
        }
        Err("the private key is not the certificate's: give the key that belongs to the first certificate"
            .to_owned())
    }
}

/// The one certificate of a text.
pub(super) fn only(text: &str) -> Result<CertificateDer<'static>, String> {
    let mut certificates = pem::certificates(text)?;
    match (certificates.pop(), certificates.is_empty()) {
        (Some(certificate), true) => Ok(certificate),
        _ => Err("there must be exactly one certificate in it".to_owned()),
    }
}

/// The private key of a text. Its algorithm must be one that every peer can verify.
pub(super) fn key(text: &str) -> Result<KeyPair, String> {
    if text.contains("ENCRYPTED") {
        return Err(
            "the private key is encrypted: decrypt it first (openssl pkey -in FILE -out FILE)".to_owned()
        );
    }
    let der = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| "there is no private key in it that can be read as PEM".to_owned())?;
    let key = KeyPair::try_from(&der).map_err(|_| UNUSABLE.to_owned())?;
    let usable = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256];
    if usable.contains(&key.algorithm()) { Ok(key) } else { Err(UNUSABLE.to_owned()) }
}

/// Signs a leaf for nobody and verifies it as a peer would: names, signatures, path length and constraints all fit.
pub(super) fn probe(
    issuer: &Issuer<'_, KeyPair>,
    chain: &[CertificateDer<'_>],
    root: &CertificateDer<'_>,
    at: &Moment<'_>,
) -> Result<(), String> {
    let failed = |what: &dyn std::fmt::Display| {
        format!(
            "a certificate that it signs would not be accepted ({what}): check that the chain leads from the certificate to the root, and that nothing in it forbids URI names"
        )
    };
    let nobody = KeyPair::generate().map_err(|error| error.to_string())?;
    let identity = format!("spiffe://{}/ns/probe/sa/probe", at.trust_domain);
    let leaf = Leaf {
        serial: Serial([0x40; 16]),
        identity: &identity,
        dns: &[],
        addresses: &[],
        from: at.now.saturating_sub(1),
        until: at.now + 60,
    };
    let leaf = CertificateDer::from(leaf.sign(&nobody, issuer).map_err(|error| failed(&error))?);
    let end = webpki::EndEntityCert::try_from(&leaf).map_err(|error| failed(&error))?;
    let anchor = webpki::anchor_from_trusted_cert(root).map_err(|error| failed(&error))?;
    let algorithms = default_provider().signature_verification_algorithms;
    for usage in [webpki::KeyUsage::client_auth(), webpki::KeyUsage::server_auth()] {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(at.now));
        end.verify_for_usage(algorithms.all, std::slice::from_ref(&anchor), chain, time, usage, None, None)
            .map_err(|error| failed(&error))?;
    }
    Ok(())
}

fn seconds(timestamp: i64) -> u64 {
    u64::try_from(timestamp).unwrap_or_default()
}

/// A span in the unit that people would use.
pub(super) fn people(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

const UNUSABLE: &str = "the private key is not ECDSA P-256 or P-384, or RSA of at least 2048 bits";
