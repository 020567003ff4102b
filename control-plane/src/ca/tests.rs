//! The authority as its callers see it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use tempfile::TempDir;

use super::*;

mod external;
mod given;
mod opening;
mod revoking;
mod rotating;
mod signing;

/// A folder of its own, and a clock that stands.
pub(super) struct Scene {
    pub(super) folder: TempDir,
    now: Arc<AtomicU64>,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), now: Arc::new(AtomicU64::new(START)) }
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("ca")
    }

    pub(super) fn options(&self) -> Options {
        let now = Arc::clone(&self.now);
        let clock = Clock::new(move || UNIX_EPOCH + Duration::from_secs(now.load(Ordering::Relaxed)));
        Options { clock, ..Options::new(self.path(), "cluster.local") }
    }

    pub(super) fn open(&self) -> Authority {
        Authority::open(self.options()).unwrap()
    }

    pub(super) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn pass(&self, seconds: u64) {
        self.now.fetch_add(seconds, Ordering::Relaxed);
    }

    pub(super) fn back(&self, seconds: u64) {
        self.now.fetch_sub(seconds, Ordering::Relaxed);
    }
}

/// November 2026.
pub(super) const START: u64 = 1_795_000_000;

pub(super) fn id(name: &str) -> SpiffeId {
    SpiffeId::workload("cluster.local", "shop", name).unwrap()
}

/// A request as a well-behaved workload makes it.
pub(super) fn request(identity: &SpiffeId, key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().unwrap())];
    params.serialize_request(key).unwrap().pem().unwrap()
}

pub(super) fn order(name: &str) -> Order {
    let identity = id(name);
    let request = request(&identity, &KeyPair::generate().unwrap());
    Order { request, identity, ttl: None, proof: Proof::Token(name.to_owned()), supersedes: None }
}

pub(super) fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}
