//! The identity as SDS has it: the secrets `default` and `ROOTCA`.

use sidegate_xds::envoy::config::core::v3::DataSource;
use sidegate_xds::envoy::config::core::v3::data_source::Specifier;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3 as wire;
use wire::secret::Type;

use super::Material;

/// The name of the proxy's own certificate.
pub(crate) const DEFAULT: &str = "default";

/// The name of what says whom to trust.
pub(crate) const ROOTS: &str = "ROOTCA";

impl Material {
    /// Both secrets by name, each if there is one.
    pub(crate) fn secrets(&self) -> [(&'static str, Option<wire::Secret>); 2] {
        let leaf = self.leaf.as_ref().map(|leaf| {
            Type::TlsCertificate(wire::TlsCertificate {
                certificate_chain: inline(&leaf.chain),
                private_key: inline(leaf.key_pem()),
                ..wire::TlsCertificate::default()
            })
        });
        let roots = self.roots.as_ref().map(|roots| {
            Type::ValidationContext(wire::CertificateValidationContext {
                trusted_ca: inline(roots),
                ..wire::CertificateValidationContext::default()
            })
        });
        let secret = |name: &'static str, kind: Option<Type>| {
            (name, kind.map(|kind| wire::Secret { name: name.to_owned(), r#type: Some(kind) }))
        };
        [secret(DEFAULT, leaf), secret(ROOTS, roots)]
    }
}

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::InlineBytes(text.as_bytes().to_vec())),
        ..DataSource::default()
    })
}
