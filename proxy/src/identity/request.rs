//! A request for a certificate, and what an answer must be. Does no IO.
//!
//! The key is made for one request, stays in memory, and is thrown away with an answer that is no good.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use sidegate_xds::spiffe::SpiffeId;

use super::Failure;
use super::status::Outcome;
use crate::tls::{self, Certificate, Roots};

/// The proxy's own certificate with its key.
pub(crate) struct Leaf {
    /// Who it says the proxy is.
    pub(crate) id: SpiffeId,
    /// As rustls takes it.
    pub(crate) identity: Arc<tls::Identity>,
    /// The chain in PEM form: the leaf first, without the root.
    pub(crate) chain: String,
    key: String,
}

impl Leaf {
    /// What it says.
    pub(crate) fn facts(&self) -> &Certificate {
        &self.identity.leaf
    }

    /// The private key in PEM form: for those who serve with it, and for no page and no log.
    pub(crate) fn key_pem(&self) -> &str {
        &self.key
    }
}

impl fmt::Debug for Leaf {
    /// Nothing of the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Leaf").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A key and the question to have it certified.
pub(super) struct Request {
    key: KeyPair,
    /// The certificate signing request in PEM form.
    pub(super) csr: String,
}

impl Request {
    /// A new key. Says who we are when that is known; the authority decides it by what we prove.
    pub(super) fn new(id: Option<&SpiffeId>) -> Result<Self, Failure> {
        let failed =
            |error: rcgen::Error| Failure::new(Outcome::Answer, format!("cannot make a request: {error}"));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(id) = id {
            params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.as_str()).map_err(failed)?)];
        }
        let csr = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
        Ok(Self { key, csr })
    }

    /// Holds an answer against everything that a certificate of ours must be. `known` is who we were before.
    pub(super) fn accept(
        self,
        chain: &[String],
        roots: &Roots,
        known: Option<&SpiffeId>,
        now: SystemTime,
    ) -> Result<Leaf, Failure> {
        let bad = |text: String| Failure::new(Outcome::Answer, format!("the authority's answer: {text}"));
        let text = chain.join("\n");
        let certificates = tls::count_certificates(text.as_bytes());
        if certificates > LONGEST_CHAIN {
            return Err(bad(format!("has {certificates} certificates, more than {LONGEST_CHAIN}")));
        }
        let key = self.key.serialize_pem();
        let identity = tls::Identity::from_pem(text.as_bytes(), key.as_bytes());
        let identity = identity.map_err(|error| bad(error.to_string()))?.without_roots(roots);
        let names = &identity.leaf.names;
        let [uri] = names.uris.as_slice() else {
            return Err(bad(format!("has {} URIs where exactly one is an identity", names.uris.len())));
        };
        if names.doubtful > 0 {
            return Err(bad(format!("has a name that cannot be read beside {uri}")));
        }
        let id: SpiffeId = uri.parse().map_err(|error| bad(format!("is for {uri:?}: {error}")))?;
        if let Some(known) = known.filter(|known| **known != id) {
            return Err(bad(format!("is for {id}, and this proxy is {known}")));
        }
        identity.is_vouched_for(roots, now).map_err(|error| {
            bad(format!(
                "{error} (at {} by this host's clock; compare root_file)",
                crate::telemetry::rfc3339(now)
            ))
        })?;
        let left = identity.leaf.not_after.duration_since(now).unwrap_or_default();
        if left > LONGEST_LIFE {
            let until = crate::telemetry::rfc3339(identity.leaf.not_after);
            return Err(bad(format!("is good until {until}, longer than any certificate of ours may be")));
        }
        Ok(Leaf { id, chain: identity.chain_pem(), identity: Arc::new(identity), key })
    }
}

/// The leaf, those between, the root.
const LONGEST_CHAIN: usize = 12;

/// Whoever asks for a day and gets years has asked somebody else.
const LONGEST_LIFE: Duration = Duration::from_secs(398 * 86_400);

#[cfg(test)]
mod tests;
