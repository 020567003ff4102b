//! What the config staircase counts. It runs on one thread and seldom, so these cells are plain shared atomics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Counters of the config staircase.
#[derive(Debug, Default)]
pub(crate) struct ConfigMetrics {
    version: AtomicU64,
    updated_millis: AtomicU64,
    publications: AtomicU64,
    rejections: AtomicU64,
    connected: AtomicBool,
    connects: AtomicU64,
}

/// What the counters say at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConfigTotals {
    pub(super) version: u64,
    /// Seconds since the epoch; 0 before the first.
    pub(super) updated_seconds: f64,
    pub(super) publications: u64,
    pub(super) rejections: u64,
    pub(super) connected: bool,
    pub(super) connects: u64,
}

impl ConfigMetrics {
    /// A snapshot was published.
    pub(crate) fn published(&self, version: u64, at: SystemTime) {
        self.version.store(version, Ordering::Relaxed);
        let millis = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        self.updated_millis.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.publications.fetch_add(1, Ordering::Relaxed);
    }

    /// So many resources of an update were refused.
    pub(crate) fn rejected(&self, resources: u64) {
        self.rejections.fetch_add(resources, Ordering::Relaxed);
    }

    /// The stream from the control plane was opened or lost.
    pub(crate) fn connected(&self, connected: bool) {
        let before = self.connected.swap(connected, Ordering::Relaxed);
        if connected && !before {
            self.connects.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> ConfigTotals {
        ConfigTotals {
            version: self.version.load(Ordering::Relaxed),
            updated_seconds: self.updated_millis.load(Ordering::Relaxed) as f64 / 1_000.0,
            publications: self.publications.load(Ordering::Relaxed),
            rejections: self.rejections.load(Ordering::Relaxed),
            connected: self.connected.load(Ordering::Relaxed),
            connects: self.connects.load(Ordering::Relaxed),
        }
    }
}
