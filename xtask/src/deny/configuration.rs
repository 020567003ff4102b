//! The part of `deny.toml` that `cargo xtask deny` holds the tree to; the rest is for cargo-deny.

use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Configuration {
    pub(crate) bans: Bans,
    pub(crate) licenses: Licences,
    pub(crate) sources: Sources,
}

#[derive(Deserialize)]
pub(crate) struct Bans {
    pub(crate) deny: Vec<Ban>,
}

/// A crate that must not be there, or not twice.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Ban {
    #[serde(rename = "crate")]
    pub(crate) krate: String,
    pub(crate) reason: String,
    /// Packages that may depend on it all the same
    #[serde(default)]
    pub(crate) wrappers: Vec<String>,
    #[serde(default)]
    pub(crate) deny_multiple_versions: bool,
}

#[derive(Deserialize)]
pub(crate) struct Licences {
    pub(crate) allow: Vec<String>,
    #[serde(default)]
    pub(crate) exceptions: Vec<Exception>,
}

/// Licences that one crate may have in addition.
#[derive(Deserialize)]
pub(crate) struct Exception {
    #[serde(rename = "crate")]
    pub(crate) krate: String,
    pub(crate) allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Sources {
    pub(crate) allow_registry: Vec<String>,
    #[serde(default)]
    pub(crate) allow_git: Vec<String>,
}
