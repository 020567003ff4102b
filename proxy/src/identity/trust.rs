//! Who vouches for the authority, the control plane and our own certificate: the file of roots, and the own trust domain's bundle in the
//! last `ROOTCA` that was accepted.

use std::path::PathBuf;
use std::sync::Arc;

use sidegate_xds::envoy::config::core::v3::DataSource;
use sidegate_xds::envoy::config::core::v3::data_source::Specifier;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3 as wire;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;

use crate::settings;
use crate::tls::Roots;

/// The roots that are trusted beneath everything else.
#[derive(Debug)]
pub(super) struct Trust {
    file: PathBuf,
    /// The own trust domain's bundle by discovery.
    discovered: Option<Bundle>,
}

/// A bundle in PEM form, and what is in it.
#[derive(Clone, Debug)]
struct Bundle {
    pem: Arc<[u8]>,
    roots: Roots,
}

impl Trust {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, discovered: None }
    }

    /// Takes what discovery says of the own trust domain. What says nothing, or cannot be read, changes nothing: the compiler has judged
    /// it already.
    pub(super) fn discover(&mut self, context: &wire::CertificateValidationContext, trust_domain: &str) {
        let Some(pem) = own_bundle(context, trust_domain) else { return };
        match Roots::from_pem(&pem, false) {
            Ok(roots) => self.discovered = Some(Bundle { pem, roots }),
            Err(error) => tracing::warn!(%error, trust_domain, "ROOTCA: the own trust domain's bundle"),
        }
    }

    /// The root that signs now, when discovery says so.
    pub(super) fn signing(&self) -> Option<Roots> {
        self.discovered.as_ref().map(|bundle| bundle.roots.first())
    }

    /// The roots that discovery says.
    pub(super) fn distributed(&self) -> Option<Roots> {
        self.discovered.as_ref().map(|bundle| bundle.roots.clone())
    }

    /// All roots as they are now; the file is read again.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn read(&self) -> Result<Roots, String> {
        let name = self.file.display();
        let file = settings::read_bounded(&self.file);
        let text = match (&self.discovered, file) {
            (None, Err(error)) => return Err(format!("root_file: {error}")),
            (None, Ok(file)) => file,
            (Some(bundle), Err(_)) => bundle.pem.to_vec(),
            // The one that signs now stands first.
            (Some(bundle), Ok(file)) => [&*bundle.pem, b"\n", &file].concat(),
        };
        match (Roots::from_pem(&text, false), &self.discovered) {
            (Ok(roots), _) => Ok(roots),
            // Half a file, while somebody writes it.
            (Err(_), Some(bundle)) => Ok(bundle.roots.clone()),
            (Err(error), None) => Err(format!("root_file {name}: {error}")),
        }
    }
}

/// The PEM text of the own trust domain's bundle in a `ROOTCA`.
fn own_bundle(context: &wire::CertificateValidationContext, trust_domain: &str) -> Option<Arc<[u8]>> {
    let Some(validator) = &context.custom_validator_config else {
        // Istio's form: one bundle for everybody it trusts.
        return bytes(context.trusted_ca.as_ref()?);
    };
    let config = spiffe(validator.typed_config.as_ref()?)?;
    let own = config.trust_domains.iter().find(|domain| domain.name == trust_domain)?;
    bytes(own.trust_bundle.as_ref()?)
}

fn spiffe(any: &Any) -> Option<wire::SpiffeCertValidatorConfig> {
    from_any(any).ok()
}

fn bytes(source: &DataSource) -> Option<Arc<[u8]>> {
    match source.specifier.as_ref()? {
        Specifier::InlineBytes(bytes) => Some(bytes.as_slice().into()),
        Specifier::InlineString(text) => Some(text.as_bytes().into()),
        Specifier::Filename(name) => settings::read_bounded(name.as_ref()).ok().map(Into::into),
        Specifier::EnvironmentVariable(_) => None,
    }
}

#[cfg(test)]
mod tests;
