//! The same certificate for a server of ours that is no proxy: the control plane, when somebody else is the authority.
//!
//! What it shares with the proxy is the keeper; here its material is handed to the program around it.

use std::sync::Arc;
use std::time::SystemTime;

use sidegate_xds::envoy::config::core::v3::DataSource;
use sidegate_xds::envoy::config::core::v3::data_source::Specifier;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3 as wire;

use super::Handle;
use crate::settings::Identity;

/// A certificate with its key.
#[derive(Clone)]
pub struct Certificate {
    /// The leaf first, without the root, in PEM form.
    pub chain: String,
    /// The private key in PEM form: for no page and no log.
    pub key: String,
    /// The serial number in hex digits.
    pub serial: String,
    /// Until when it is good.
    pub until: SystemTime,
}

impl std::fmt::Debug for Certificate {
    /// Nothing of the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Certificate").field("serial", &self.serial).finish_non_exhaustive()
    }
}

/// What is in force.
#[derive(Clone, Debug)]
pub struct Own {
    handle: Handle,
}

/// A certificate that is kept in force for as long as the future is polled: asked for, renewed, taken away when it is over.
pub fn keep(settings: Identity) -> (Own, impl Future<Output = ()> + Send) {
    let (handle, keeper) = super::new(settings);
    (Own { handle }, keeper.run())
}

impl Own {
    /// The one in force; none before the first, and none when it is over.
    pub fn certificate(&self) -> Option<Certificate> {
        let leaf = self.handle.material().leaf?;
        let facts = leaf.facts();
        Some(Certificate {
            chain: leaf.chain.clone(),
            key: leaf.key_pem().to_owned(),
            serial: facts.serial.to_string(),
            until: facts.not_after,
        })
    }

    /// Why the last attempt failed; gone with the next certificate.
    pub fn last_failure(&self) -> Option<String> {
        self.handle.status().read().last_failure
    }

    /// Waits until something else is in force.
    pub async fn changed(&mut self) {
        self.handle.changed().await;
    }

    /// Tells whom everybody trusts now, in PEM form: a certificate that none of them vouches for is replaced soon.
    pub fn trust(&self, roots: &str) {
        let trusted_ca = Some(DataSource {
            specifier: Some(Specifier::InlineString(roots.to_owned())),
            ..DataSource::default()
        });
        let context = wire::CertificateValidationContext { trusted_ca, ..Default::default() };
        self.handle.discovered.send_replace(Some(Arc::new(context)));
    }
}

#[cfg(test)]
impl Own {
    /// Of a keeper that the test drives itself.
    pub(super) fn of(handle: Handle) -> Self {
        Self { handle }
    }
}
