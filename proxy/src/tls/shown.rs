//! The certificates in use, as pages and metrics show them: what they say and where they come from, never a key.

use std::sync::{Arc, Mutex, PoisonError};

use super::certificate::Certificate;

/// A certificate in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The secret's name, the file, or `<inline>`.
    pub(crate) source: Arc<str>,
    /// Whether it is trusted (`trusted_ca`) rather than shown.
    pub(crate) is_root: bool,
    /// What it says.
    pub(crate) certificate: Certificate,
}

/// Every certificate in use. Cloning shares it: the compiler writes, admin reads, on the same thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Certificates {
    all: Arc<Mutex<Arc<Vec<Shown>>>>,
}

impl Certificates {
    /// What is in use now.
    pub(crate) fn read(&self) -> Arc<Vec<Shown>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces it all.
    pub(crate) fn write(&self, shown: Vec<Shown>) {
        *self.all.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
    }
}
