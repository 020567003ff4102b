//! The certificate authority: whose word it is that a key belongs to an identity, and how its root is changed without anybody
//! losing trust.
//!
//! `issue` (above) proves who asks; this room signs, remembers every leaf that may be in use, and tells everybody whom to trust.
//! What moves the root is a state machine without IO (`rotation`); `keeper` does what it says and keeps it on disk.

mod certificate;
mod certifier;
mod deny;
mod directory;
mod error;
mod external;
mod generation;
mod give;
mod journal;
mod keeper;
mod leaf;
mod ledger;
mod limit;
mod metrics;
mod open;
mod options;
mod pass;
mod pem;
pub mod report;
mod request;
mod revocation;
mod revoke;
pub mod rotation;
mod serving;
mod trust;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sidegate_xds::spiffe::SpiffeId;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::model::Trust;
pub use certifier::{Certifier, Settings};
pub use deny::identity;
use directory::Directory;
pub use error::{CaError, IssueError};
pub use external::{External, ExternalOptions, ExternalReport};
use generation::Generation;
use journal::Journal;
use keeper::Keeper;
use ledger::Ledger;
pub use ledger::LiveLeaf;
use limit::Limiter;
pub use metrics::Metrics;
pub use options::{Clock, Given, LEAF_TTL, Options};
pub use pass::pass;
use report::{Reason, Report, Withdrawn};
pub use revocation::Revoked;
use rotation::{Phase, Witness};
pub use serving::{ServerNames, Serving};

/// What a caller asks for, after it has proven who it is.
#[derive(Clone, Debug)]
pub struct Order {
    /// A PKCS #10 request in PEM form; only its public key is taken.
    pub request: String,
    /// Who the caller has proven to be.
    pub identity: SpiffeId,
    /// How long it wants the certificate for; none leaves it to the authority.
    pub ttl: Option<Duration>,
    /// How it has proven itself.
    pub proof: Proof,
    /// The serial number of the leaf that it has shown, if it has: the new one takes its place.
    pub supersedes: Option<String>,
}

/// How a caller has proven who it is; for the log and the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A token of this subject.
    Token(String),
    /// A leaf with this serial number, that is still valid.
    Certificate(String),
}

/// A certificate that was given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// PEM certificates, one each: the leaf first, the root last.
    pub chain: Vec<String>,
    /// The leaf's serial number, in hex digits.
    pub serial: String,
    /// When it expires, in seconds since 1970.
    pub until: u64,
    /// SHA-256 of the root.
    pub root: String,
}

/// The authority. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Authority {
    inner: Arc<Inner>,
}

/// Locks are taken in the order of the fields. The first two are held while the disk is written, so only threads that may block
/// take them.
#[derive(Debug)]
struct Inner {
    /// The rotation, the roots' keys and the user's files. Written by the loop of `run` and by commands.
    keeper: Mutex<Keeper>,
    /// The ledger's file.
    journal: Mutex<Journal>,
    /// The control plane's own certificate, once somebody serves with it.
    served: Mutex<Option<serving::Served>>,
    /// What signing needs, and what people see; locked for moments.
    state: Mutex<State>,
    directory: Directory,
    secret: pass::Secret,
    options: Options,
    trust: watch::Sender<Arc<Trust>>,
    metrics: Metrics,
    /// A command wants to be looked at.
    turned: Notify,
}

#[derive(Debug)]
struct State {
    signer: Arc<Generation>,
    /// What signs the control plane's own certificate.
    own_signer: Arc<Generation>,
    ledger: Ledger,
    limiter: Limiter,
    denied: BTreeSet<String>,
    /// SHA-256 of public keys whose certificates were revoked.
    revoked_keys: BTreeSet<String>,
    view: keeper::View,
}

impl Authority {
    /// Opens the folder, makes or reads the keys, and goes on with a rotation that was under way. Blocks on the disk.
    ///
    /// # Errors
    /// When the folder cannot be trusted or used, or what the user gave cannot sign; the text says what to do.
    pub fn open(options: Options) -> Result<Self, CaError> {
        open::open(options).map(|inner| Self { inner: Arc::new(inner) })
    }

    /// Signs what a caller may have.
    ///
    /// # Errors
    /// When it asks for more than it has proven, too often, or the ledger cannot be kept.
    pub async fn issue(&self, order: Order) -> Result<Issued, IssueError> {
        let inner = Arc::clone(&self.inner);
        // The disk and the key both take their time; the streams of this thread do not wait for them.
        let signed = tokio::task::spawn_blocking(move || inner.issue(&order)).await;
        signed.unwrap_or(Err(IssueError::Unavailable("signing failed")))
    }

    /// Whom workloads trust, now and whenever it changes.
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.inner.trust.subscribe()
    }

    /// The control plane's own certificate, renewed for as long as `run` is polled.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub async fn serving(&self, names: ServerNames) -> Result<watch::Receiver<Arc<Serving>>, IssueError> {
        let inner = Arc::clone(&self.inner);
        let serving = tokio::task::spawn_blocking(move || inner.serve_as(names)).await;
        serving.unwrap_or(Err(IssueError::Unavailable("signing failed")))
    }

    /// Looks after everything that time, files and proxies change, for as long as it is polled. `witnesses` says which proxies are
    /// connected and proven, and what each has confirmed.
    pub async fn run(self, witnesses: impl Fn() -> Vec<Witness> + Send) {
        loop {
            let witnesses = witnesses();
            let inner = Arc::clone(&self.inner);
            let looked = tokio::task::spawn_blocking(move || inner.look(&witnesses)).await;
            let pace = match looked {
                Ok(Phase::Stable) => STABLE_PACE,
                Ok(_) => TURNING_PACE,
                Err(panic) => {
                    tracing::error!(%panic, "the certificate authority could not look after its rotation");
                    STABLE_PACE
                }
            };
            // Either way it is time to look again.
            let _ = timeout(pace, self.inner.turned.notified()).await;
        }
    }

    /// Begins to rotate the root: to one that is made now, or to one that the user gives. `run` does the rest.
    ///
    /// # Errors
    /// While another rotation is under way, or when the new root cannot be used.
    pub async fn rotate(&self, given: Option<Given>) -> Result<(), CaError> {
        self.command(move |inner| inner.rotate(given.as_ref())).await
    }

    /// Gives a rotation up, as long as nothing was signed by the new root.
    ///
    /// # Errors
    /// When there is none, or it is too late.
    pub async fn cancel(&self) -> Result<(), CaError> {
        self.command(Inner::cancel).await
    }

    /// Goes on with a rotation without waiting for a proxy (by node id, or by what it serves) or for anybody of a SPIFFE id. Everybody else is
    /// waited for as before.
    ///
    /// # Errors
    /// When there is none, or it does not wait for such a one; the text lists for whom it does.
    pub async fn leave_out(&self, name: String) -> Result<(), CaError> {
        self.command(move |inner| inner.leave_out(&name)).await
    }

    /// Revokes a certificate by its serial number, as tools print it: proxies end its connections, and nobody takes it any more. One that
    /// is not in the ledger only by force.
    ///
    /// # Errors
    /// When it cannot be put on a list; the text says what to do instead.
    pub async fn revoke(&self, serial: String, reason: Reason, force: bool) -> Result<(), CaError> {
        self.command(move |inner| inner.revoke(&serial, reason, force)).await
    }

    /// Denies an identity, whatever certificate it shows.
    ///
    /// # Errors
    /// When the list cannot be written, or is somebody else's.
    pub async fn deny(&self, identity: SpiffeId, reason: Reason) -> Result<(), CaError> {
        self.command(move |inner| inner.deny(&identity, reason)).await
    }

    /// Denies it no more.
    ///
    /// # Errors
    /// When it is not denied, or the list cannot be written.
    pub async fn admit_again(&self, identity: SpiffeId) -> Result<(), CaError> {
        self.command(move |inner| inner.admit_again(&identity)).await
    }

    /// What was revoked and who is denied.
    pub async fn withdrawn(&self) -> Withdrawn {
        let inner = Arc::clone(&self.inner);
        // The keeper is locked while the disk is written.
        tokio::task::spawn_blocking(move || inner.withdrawn()).await.unwrap_or_default()
    }

    async fn command(
        &self,
        work: impl FnOnce(&Inner) -> Result<(), CaError> + Send + 'static,
    ) -> Result<(), CaError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        self.inner.turned.notify_one();
        done.unwrap_or_else(|panic| Err(CaError::Refused(format!("the command failed: {panic}"))))
    }

    /// Everything that people want to know.
    pub fn report(&self) -> Report {
        self.inner.report()
    }

    /// Whether a bearer token comes from somebody who may read the folder (see [`pass`]).
    pub fn admits(&self, token: &str) -> bool {
        self.inner.secret.accepts(token)
    }

    /// The leaf with a serial number, if it may be in use and was given out by this authority.
    pub fn leaf(&self, serial: &str) -> Option<LiveLeaf> {
        self.inner.state().ledger.get(serial).cloned()
    }

    /// Whether an id is on the deny list.
    pub fn is_denied(&self, identity: &SpiffeId) -> bool {
        self.inner.state().denied.contains(identity.as_str())
    }

    /// The trust domain that it signs for.
    pub fn trust_domain(&self) -> &str {
        &self.inner.options.trust_domain
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.inner.directory.path()
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Every change under a lock is whole before it can panic, so a poisoned lock is a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SHA-256 of each certificate in a PEM text, as roots are named; nothing when it cannot be read.
pub fn fingerprints(pem: &str) -> BTreeSet<String> {
    let certificates = pem::certificates(pem).unwrap_or_default();
    certificates.iter().map(|der| pem::fingerprint(der)).collect()
}

/// How often everything is looked at: with nothing under way, and while a rotation waits.
const STABLE_PACE: Duration = Duration::from_secs(2);
const TURNING_PACE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
