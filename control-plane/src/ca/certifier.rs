//! Who certifies identities: our own authority, or somebody else's.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::external::External;
use super::options::Options;
use super::{Authority, CaError, ExternalOptions};
use crate::model::Trust;

/// What is to be opened.
#[derive(Clone, Debug)]
pub enum Settings {
    /// The control plane signs.
    Own(Options),
    /// Somebody else does.
    External(ExternalOptions),
}

/// Who certifies. Clones are the same one.
#[derive(Clone, Debug)]
pub enum Certifier {
    /// The control plane signs.
    Own(Authority),
    /// Somebody else does.
    External(External),
}

impl Certifier {
    /// Opens the folder. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be used; the text says what to do.
    pub fn open(settings: Settings) -> Result<Self, CaError> {
        match settings {
            Settings::Own(options) => Authority::open(options).map(Self::Own),
            Settings::External(options) => External::open(options).map(Self::External),
        }
    }

    /// Whom workloads trust, now and whenever it changes.
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        match self {
            Self::Own(authority) => authority.trust(),
            Self::External(external) => external.trust(),
        }
    }

    /// Whether a bearer token comes from somebody who may read the folder.
    pub fn admits(&self, token: &str) -> bool {
        match self {
            Self::Own(authority) => authority.admits(token),
            Self::External(external) => external.admits(token),
        }
    }

    /// The folder.
    pub fn directory(&self) -> &Path {
        match self {
            Self::Own(authority) => authority.directory(),
            Self::External(external) => external.directory(),
        }
    }

    /// Our own authority, if it is that.
    pub fn own(&self) -> Option<&Authority> {
        match self {
            Self::Own(authority) => Some(authority),
            Self::External(_) => None,
        }
    }

    /// Somebody else's, if it is that.
    pub fn external(&self) -> Option<&External> {
        match self {
            Self::Own(_) => None,
            Self::External(external) => Some(external),
        }
    }
}
