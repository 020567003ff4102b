//! Versions, cipher suites and groups (`TlsParameters`).

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{NamedGroup, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::provider;

/// What may be agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// TLS 1.2 may be spoken.
    pub(crate) tls12: bool,
    /// TLS 1.3 may be spoken.
    pub(crate) tls13: bool,
    /// Suites of TLS 1.2 by OpenSSL's names, the rest left out; `None` for all.
    pub(crate) suites: Option<Vec<String>>,
    /// Groups by their names, in order of preference; `None` for the default.
    pub(crate) groups: Option<Vec<String>>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { tls12: true, tls13: true, suites: None, groups: None }
    }
}

impl Parameters {
    pub(super) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static ONLY_TLS12: [&SupportedProtocolVersion; 1] = [&version::TLS12];
        static ONLY_TLS13: [&SupportedProtocolVersion; 1] = [&version::TLS13];
        static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
        match (self.tls12, self.tls13) {
            (true, false) => &ONLY_TLS12,
            (false, true) => &ONLY_TLS13,
            _ => &BOTH,
        }
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        if self.suites.is_none() && self.groups.is_none() {
            return provider().clone();
        }
        let mut chosen = CryptoProvider::clone(provider());
        if let Some(suites) = &self.suites {
            // As in Envoy, the list says nothing about TLS 1.3.
            chosen.cipher_suites.retain(|suite| {
                suite.tls13().is_some() || suites.iter().any(|name| *name == name_of(*suite))
            });
        }
        if let Some(groups) = &self.groups {
            let all = std::mem::take(&mut chosen.kx_groups);
            let find =
                |name: &String| all.iter().copied().find(|group| group_named(name) == Some(group.name()));
            chosen.kx_groups = groups.iter().filter_map(find).collect();
        }
        Arc::new(chosen)
    }

    /// Whether a suite of TLS 1.2 is known under the name.
    pub(crate) fn knows_suite(name: &str) -> bool {
        SUITES.iter().any(|(_, known)| *known == name)
    }

    /// Whether a group is known under the name.
    pub(crate) fn knows_group(name: &str) -> bool {
        group_named(name).is_some_and(|group| provider().kx_groups.iter().any(|known| known.name() == group))
    }
}

/// A suite as OpenSSL and Envoy name it.
pub(super) fn name_of(suite: SupportedCipherSuite) -> String {
    let name = format!("{:?}", suite.suite());
    match SUITES.iter().find(|(rustls, _)| *rustls == name) {
        Some((_, openssl)) => (*openssl).to_owned(),
        None => name.replace("TLS13_", "TLS_"),
    }
}

fn group_named(name: &str) -> Option<NamedGroup> {
    Some(match name {
        "X25519" => NamedGroup::X25519,
        "P-256" | "prime256v1" | "secp256r1" => NamedGroup::secp256r1,
        "P-384" | "secp384r1" => NamedGroup::secp384r1,
        "X25519MLKEM768" => NamedGroup::X25519MLKEM768,
        _ => return None,
    })
}

const SUITES: [(&str, &str); 6] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
];
