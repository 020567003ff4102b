//! What the certificate authority is told when it opens.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How the authority works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where keys, the ledger of leaves and the rotation's state are kept; made when it is missing.
    pub directory: PathBuf,
    /// The trust domain of every id that it signs.
    pub trust_domain: String,
    /// A certificate and key of the user's own PKI; without one the authority makes its own root.
    pub given: Option<Given>,
    /// How long a leaf lives at most, and when nobody asks for less.
    pub leaf_ttl: Duration,
    /// Roots of other trust domains, or more roots of the own one: files that are watched.
    pub bundles: Vec<(String, PathBuf)>,
    /// How many leaves one identity may get within a minute.
    pub leaves_per_minute: u32,
    /// How careful a rotation is.
    pub rotation: super::rotation::Settings,
    /// What time it is.
    pub clock: Clock,
}

impl Options {
    /// The defaults, for a directory and a trust domain.
    pub fn new(directory: impl Into<PathBuf>, trust_domain: impl Into<String>) -> Self {
        Self {
            directory: directory.into(),
            trust_domain: trust_domain.into(),
            given: None,
            leaf_ttl: LEAF_TTL,
            bundles: Vec::new(),
            leaves_per_minute: LEAVES_PER_MINUTE,
            rotation: super::rotation::Settings::default(),
            clock: Clock::default(),
        }
    }
}

/// A certificate authority that the user brings: an intermediate of their PKI, or a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The certificate that signs leaves, then the certificates between it and the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The root; none when the first certificate is one.
    pub root: Option<PathBuf>,
}

/// Wall-clock time, which certificates are about; a test hands its own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// A clock of one's own.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Seconds since 1970.
    pub(super) fn now(&self) -> u64 {
        (self.0)().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Clock")
    }
}

/// How long a leaf lives when nothing else is said.
pub const LEAF_TTL: Duration = Duration::from_secs(24 * 3600);

/// A hundred Pods of one account may start at once, and none of them can flood the ledger.
const LEAVES_PER_MINUTE: u32 = 300;
