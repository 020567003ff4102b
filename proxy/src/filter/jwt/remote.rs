//! Keys that are fetched: when, by whom, and for how long they are good. The fetching itself is done above, where there are connections.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::uri::{Authority, PathAndQuery};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::keys::KeySet;
use crate::message::Scheme;

/// Keys at a URL (`remote_jwks`). One instance per configuration, shared by all workers and kept across updates that do not change it.
#[derive(Debug)]
pub(crate) struct Remote {
    /// The cluster that answers.
    pub(crate) cluster: Arc<str>,
    /// The URL's scheme.
    pub(crate) scheme: Scheme,
    /// The URL's host and port.
    pub(crate) authority: Authority,
    /// The URL's path and query.
    pub(crate) path: PathAndQuery,
    /// A fetch takes no longer.
    pub(crate) timeout: Duration,
    /// `cache_duration`.
    pub(crate) cache: Duration,
    /// `failed_refetch_duration`: the first wait after a failure; each further one is twice as long, up to a bound.
    pub(crate) patience: Duration,
    keys: ArcSwapOption<KeySet>,
    times: Mutex<Times>,
    fetching: AtomicBool,
    /// Fetches that have ended, whatever came of them.
    ended: AtomicU64,
    end: Notify,
}

#[derive(Debug, Default)]
struct Times {
    /// When to fetch next; `None` is at once.
    due: Option<Instant>,
    /// Until when the keys there are are used, though no newer ones can be had.
    good_until: Option<Instant>,
    /// When the keys there are were fetched.
    fetched: Option<Instant>,
    failures: u32,
}

/// Where keys are.
#[derive(Debug)]
pub(crate) struct Place {
    /// The cluster that answers.
    pub(crate) cluster: Arc<str>,
    /// The URL's scheme.
    pub(crate) scheme: Scheme,
    /// The URL's host and port.
    pub(crate) authority: Authority,
    /// The URL's path and query.
    pub(crate) path: PathAndQuery,
}

impl Remote {
    /// Keys that have not been fetched yet.
    pub(crate) fn new(place: Place, timeout: Duration, cache: Duration, patience: Duration) -> Self {
        let Place { cluster, scheme, authority, path } = place;
        Self {
            cluster,
            scheme,
            authority,
            path,
            timeout,
            cache,
            patience,
            keys: ArcSwapOption::empty(),
            times: Mutex::default(),
            fetching: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            end: Notify::new(),
        }
    }

    /// The keys in force; `None` before the first fetch, and after none has succeeded for long.
    pub(super) fn current(&self, now: Instant) -> Option<Arc<KeySet>> {
        let keys = self.keys.load_full()?;
        self.times().good_until.is_some_and(|until| now < until).then_some(keys)
    }

    /// The right to fetch, when it is time to and nobody does.
    pub(crate) fn claim(self: &Arc<Self>, now: Instant) -> Option<Fetching> {
        if self.times().due.is_some_and(|due| now < due) || self.fetching.swap(true, Ordering::AcqRel) {
            return None;
        }
        Some(Fetching { remote: self.clone(), settled: false })
    }

    /// A token names a key that is not there: there may be new ones. Looks soon, but not again and again: strangers write tokens.
    pub(super) fn hasten(&self, now: Instant) {
        let mut times = self.times();
        let Some(fetched) = times.fetched else { return };
        let soon = now.max(fetched + BETWEEN_HASTENED);
        times.due = times.due.map(|due| due.min(soon));
    }

    /// Until the fetch that runs now, if one does, has ended; not longer than one may take.
    pub(crate) async fn settled(&self) {
        let before = self.ended.load(Ordering::Acquire);
        let ended = async {
            loop {
                let end = self.end.notified();
                if self.ended.load(Ordering::Acquire) != before || !self.fetching.load(Ordering::Acquire) {
                    return;
                }
                end.await;
            }
        };
        // The fetch has a bound of its own; this one is for a worker that has ended with a fetch in its hands.
        let _ = tokio::time::timeout(self.timeout + Duration::from_secs(1), ended).await;
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to fetch. Dropped without a word, it counts as a failure.
#[derive(Debug)]
pub(crate) struct Fetching {
    /// What is fetched.
    pub(crate) remote: Arc<Remote>,
    settled: bool,
}

impl Fetching {
    /// Keys came. `roll` is uniform: proxies do not all come back in the same moment.
    pub(crate) fn succeeded(mut self, keys: KeySet, now: Instant, roll: u32) {
        let remote = &self.remote;
        {
            let mut times = remote.times();
            // Before they expire, so that no request ever waits for the next ones.
            times.due = Some(now + remote.cache.mul_f64(0.7 + 0.2 * share(roll)));
            times.good_until = Some(now + remote.cache + STALE);
            times.fetched = Some(now);
            times.failures = 0;
        }
        remote.keys.store(Some(Arc::new(keys)));
        self.settled = true;
    }

    /// None came. Says whether older ones are still used.
    pub(crate) fn failed(mut self, now: Instant, roll: u32) -> bool {
        self.settled = true;
        self.postpone(now, roll)
    }

    fn postpone(&self, now: Instant, roll: u32) -> bool {
        let remote = &self.remote;
        let mut times = remote.times();
        let wait = remote
            .patience
            .saturating_mul(1 << times.failures.min(16))
            .min(LONGEST_WAIT.max(remote.patience));
        times.failures = times.failures.saturating_add(1);
        times.due = Some(now + wait.mul_f64(0.75 + 0.5 * share(roll)));
        times.good_until.is_some_and(|until| now < until)
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if !self.settled {
            self.postpone(Instant::now(), u32::MAX / 2);
        }
        self.remote.fetching.store(false, Ordering::Release);
        self.remote.ended.fetch_add(1, Ordering::AcqRel);
        self.remote.end.notify_waiters();
    }
}

fn share(roll: u32) -> f64 {
    f64::from(roll) / f64::from(u32::MAX)
}

/// How long keys are used beyond their time while none newer can be had: an outage of the issuer is not one of everything, but a key
/// that was taken back does not live on for ever.
const STALE: Duration = Duration::from_secs(6 * 3600);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const BETWEEN_HASTENED: Duration = Duration::from_secs(30);
