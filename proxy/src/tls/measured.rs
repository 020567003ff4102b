//! The verification of clients alone, to be held against rustls' own.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;

use super::bundle::{Bundles, TrustDomainOf};
use super::certificate::Certificate;
use super::material::Roots;
use super::verifier::Clients;
use super::verify::{Policy, PolicyParts};

/// Verifies clients of one trust domain, as a listener does (`SPIFFECertValidatorConfig`), with nothing remembered yet.
///
/// # Errors
/// When the roots are none.
pub fn clients(
    trust_domain: &str,
    roots: &[u8],
    trust_domain_of: TrustDomainOf,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = Roots::from_pem(roots, false).map_err(|error| error.to_string())?;
    let mut bundles = Bundles::new(trust_domain_of);
    bundles.insert(trust_domain, roots);
    let parts = PolicyParts { bundles: Some(bundles), ..PolicyParts::default() };
    Ok(Arc::new(Clients { policy: Arc::new(Policy::new(parts)), required: true }))
}

/// Who a client is, read from its certificate as it is for each connection.
pub fn id_of(certificate: &CertificateDer<'_>) -> Option<String> {
    Certificate::read(certificate).ok()?.id().map(str::to_owned)
}
