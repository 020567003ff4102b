//! What may stand in a certificate signing request: a public key, and nothing that its caller has not proven.
//!
//! Whatever a request says beyond its key must be what the authority would write anyway; everything else is refused rather than
//! ignored, so that a caller learns that it asked for more than it gets.

use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData as _,
    SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_COMMON_NAME;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{X509Name, X509Version};

use super::error::IssueError;

/// The public key of a request that asks for nothing but `identity`.
pub(super) fn check(pem: &str, identity: &str) -> Result<SubjectPublicKeyInfo, IssueError> {
    let der = decode(pem)?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|_| malformed("it is not a PKCS #10 request"))?;
    if !rest.is_empty() {
        return Err(malformed("something follows it"));
    }
    let info = &request.certification_request_info;
    if info.version != X509Version::V1 {
        return Err(malformed("its version is not 1"));
    }
    // The key before its signature: no work for a key that is not wanted.
    let key = check_key(info.subject_pki.raw)?;
    check_strength(&info.subject_pki)?;
    check_form(&info.subject_pki)?;
    request.verify_signature().map_err(|_| {
        malformed("its signature does not verify: it was not made with the key that it shows")
    })?;
    check_subject(&info.subject, identity)?;
    let mut asked = false;
    for attribute in info.iter_attributes() {
        match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(extensions) if !asked => {
                asked = true;
                let mut seen = Vec::new();
                for extension in &extensions.extensions {
                    if seen.contains(&&extension.oid) {
                        return Err(forbidden("an extension stands in it twice"));
                    }
                    seen.push(&extension.oid);
                    check_extension(extension.parsed_extension(), identity)?;
                }
            }
            ParsedCriAttribute::ExtensionRequest(_) => return Err(forbidden("it asks for extensions twice")),
            _ => return Err(forbidden("it has an attribute that is not a request for extensions")),
        }
    }
    Ok(key)
}

fn decode(pem: &str) -> Result<CertificateSigningRequestDer<'static>, IssueError> {
    if pem.len() > REQUEST_LIMIT {
        return Err(malformed(&format!("it is longer than {} KiB", REQUEST_LIMIT / 1024)));
    }
    // One of our readers takes the first section, another might take the last: so there is one.
    if pem.matches("-----BEGIN ").count() != 1 {
        return Err(malformed("it must have exactly one PEM section, CERTIFICATE REQUEST"));
    }
    CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| malformed("it is not PEM with a section CERTIFICATE REQUEST"))
}

fn check_key(raw: &[u8]) -> Result<SubjectPublicKeyInfo, IssueError> {
    let wanted = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256];
    let key = SubjectPublicKeyInfo::from_der(raw).ok().filter(|key| wanted.contains(&key.algorithm()));
    key.ok_or_else(|| forbidden("its key is not ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits"))
}

fn check_strength(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<(), IssueError> {
    let Ok(PublicKey::RSA(rsa)) = key.parsed() else { return Ok(()) };
    let bits = significant_bits(rsa.modulus);
    if !(2048..=4096).contains(&bits) {
        return Err(forbidden(&format!("its RSA key has {bits} bits: 2048 to 4096 are accepted")));
    }
    if rsa.try_exponent().is_ok_and(|exponent| exponent >= 65537 && exponent % 2 == 1) {
        return Ok(());
    }
    Err(forbidden("the exponent of its RSA key is even, too large, or less than 65537"))
}

/// A point has two forms, and keys are told apart by their bytes: there is one form, so that a key is one key.
fn check_form(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<(), IssueError> {
    let Ok(PublicKey::EC(point)) = key.parsed() else { return Ok(()) };
    if point.data().first() == Some(&UNCOMPRESSED) {
        return Ok(());
    }
    Err(forbidden("its key is a compressed point: send it uncompressed"))
}

fn significant_bits(number: &[u8]) -> usize {
    let mut number = number;
    while let [0, rest @ ..] = number {
        number = rest;
    }
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// Agents send no subject, or one with an empty organisation; a common name is nobody's identity, but somebody might take it for one.
fn check_subject(subject: &X509Name<'_>, identity: &str) -> Result<(), IssueError> {
    for attribute in subject.iter_attributes() {
        let value = attribute.as_slice();
        let own = *attribute.attr_type() == OID_X509_COMMON_NAME && value == identity.as_bytes();
        if !value.is_empty() && !own {
            return Err(forbidden("its subject says something: leave it empty, the identity is a URI"));
        }
    }
    Ok(())
}

fn check_extension(extension: &ParsedExtension<'_>, identity: &str) -> Result<(), IssueError> {
    match extension {
        ParsedExtension::SubjectAlternativeName(names) => match names.general_names.as_slice() {
            [GeneralName::URI(uri)] if *uri == identity => Ok(()),
            _ => Err(forbidden(&format!(
                "its subject alternative names must be exactly URI:{identity}, which is who you have proven to be, or none"
            ))),
        },
        ParsedExtension::BasicConstraints(constraints) if !constraints.ca => Ok(()),
        ParsedExtension::BasicConstraints(_) => {
            Err(forbidden("it asks for a certificate authority (CA:TRUE)"))
        }
        ParsedExtension::KeyUsage(usage) => {
            // Bit 0 is digitalSignature, bit 2 keyEncipherment, which agents add by habit.
            if usage.flags & !0b101 == 0 {
                return Ok(());
            }
            Err(forbidden("it asks for key usages beyond digitalSignature and keyEncipherment"))
        }
        ParsedExtension::ExtendedKeyUsage(usage) => {
            let more = usage.any
                || usage.code_signing
                || usage.email_protection
                || usage.time_stamping
                || usage.ocsp_signing
                || !usage.other.is_empty();
            if more {
                Err(forbidden("it asks for extended key usages beyond server and client authentication"))
            } else {
                Ok(())
            }
        }
        _ => Err(forbidden("it asks for an extension that workloads do not get")),
    }
}

fn malformed(what: &str) -> IssueError {
    IssueError::Request(what.to_owned())
}

fn forbidden(what: &str) -> IssueError {
    IssueError::Forbidden(what.to_owned())
}

/// How long a request may be; one with an RSA key of 4,096 bits has 2 KiB.
const REQUEST_LIMIT: usize = 16 * 1024;

/// Begins an elliptic curve's point with both coordinates (SEC 1, 2.3.3).
const UNCOMPRESSED: u8 = 4;

#[cfg(test)]
mod tests;
