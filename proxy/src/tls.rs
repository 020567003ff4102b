//! TLS for both directions: certificates and what they say, who is trusted, and the handshakes.
//!
//! A [`ServerContext`] or [`ClientContext`] is a cell: the configuration that handshakes use from now on is swapped in it when a
//! certificate is renewed, without touching connections. What an identity may do is not decided here; who the peer is, is.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

mod bundle;
mod certificate;
mod client;
mod failure;
mod material;
#[cfg(feature = "measured")]
pub(crate) mod measured;
mod outbound;
mod parameters;
mod peer;
mod resumption;
mod server;
mod shown;
mod signatures;
mod verifier;
mod verify;

pub(crate) use bundle::Bundles;
pub(crate) use certificate::Certificate;
pub(crate) use client::{ClientContext, ClientPlan, Prepared};
pub(crate) use failure::{Distrust, Failure};
pub(crate) use material::{Identity, MaterialError, Revocation, Roots};
pub(crate) use outbound::{count_certificates, describe, fingerprint, outbound};
pub(crate) use parameters::Parameters;
pub(crate) use peer::{Peer, Security};
pub(crate) use resumption::Remember;
pub(crate) use server::{ClientAuthentication, ServerContext, ServerPlan, accept};
pub(crate) use shown::{Certificates, Shown};
pub(crate) use verify::{Denied, NameKind, NameMatch, Policy, PolicyParts, Revoked};

/// The one source of cryptography.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

/// Why no handshake is made.
const NOT_READY: &str = "TLS: no certificate is in force: it has not arrived yet, or has expired (the admin page's /ready and /certs say which)";
