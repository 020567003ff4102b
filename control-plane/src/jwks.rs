//! The key sets that JWTPolicies name by URL: fetched here, off every data path, and put into the views that pass through.
//!
//! The last good set stays in force while its URL does not answer. A set that has never come leaves its issuer without keys, by which
//! no token is valid: nothing stands in for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::model::View;

mod fetch;
mod guard;

pub use guard::Guard;

/// Passes views on, with the key sets that have come. Ends with the views.
pub async fn run(mut views: watch::Receiver<Arc<View>>, keyed: watch::Sender<Arc<View>>, guard: Guard) {
    let mut keeper = Keeper::new(guard);
    views.mark_changed();
    loop {
        let due = keeper.next_due();
        tokio::select! {
            changed = views.changed() => {
                if changed.is_err() {
                    return;
                }
                keeper.follow(named(&views.borrow()), Instant::now());
            }
            Some(done) = keeper.running.join_next() => match done {
                Ok((url, result)) => {
                    if !keeper.take(&url, result, Instant::now()) {
                        continue;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "fetching a key set failed");
                    continue;
                }
            },
            () = wait(due) => {
                keeper.fetch(Instant::now());
                continue;
            }
        }
        keeper.fetch(Instant::now());
        let view = Arc::clone(&views.borrow_and_update());
        keyed.send_replace(keeper.with_keys(view));
    }
}

async fn wait(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The URLs that policies name, each with the namespaces that do.
type Named = BTreeMap<String, BTreeSet<String>>;

fn named(view: &View) -> Named {
    let mut named = Named::new();
    for (name, policy) in &view.jwt_policies {
        for url in policy.spec.jwt_rules.iter().filter_map(|rule| rule.jwks_uri.clone()) {
            named.entry(url).or_default().insert(name.namespace.clone());
        }
    }
    named
}

/// The URLs whose sets are kept: what has been fetched stays; then each namespace in turn has one more, until there is no room.
fn choose(named: Named, fetched: impl Fn(&str) -> bool) -> BTreeSet<String> {
    if named.len() <= MOST_SETS {
        return named.into_keys().collect();
    }
    tracing::warn!(urls = named.len(), "more than {MOST_SETS} key sets are named; the rest is not fetched");
    let mut chosen: BTreeSet<String> = named.keys().filter(|url| fetched(url)).cloned().collect();
    let mut shares: BTreeMap<String, VecDeque<String>> = BTreeMap::new();
    for (url, namespaces) in named {
        for namespace in namespaces {
            shares.entry(namespace).or_default().push_back(url.clone());
        }
    }
    while chosen.len() < MOST_SETS && !shares.is_empty() {
        shares.retain(|_, urls| {
            while let Some(url) = urls.pop_front() {
                if chosen.len() < MOST_SETS && chosen.insert(url) {
                    return true;
                }
            }
            false
        });
    }
    chosen
}

/// All key sets. This task alone has it.
struct Keeper {
    guard: Arc<Guard>,
    sets: BTreeMap<String, Set>,
    running: JoinSet<(String, Result<Arc<str>, String>)>,
    /// The hosts that are being asked.
    asked: BTreeSet<String>,
}

struct Set {
    keys: Option<Arc<str>>,
    /// When it is fetched next; `None` while it is.
    due: Option<Instant>,
    failures: u32,
}

impl Keeper {
    fn new(guard: Guard) -> Self {
        let (sets, running) = (BTreeMap::new(), JoinSet::new());
        Self { guard: Arc::new(guard), sets, running, asked: BTreeSet::new() }
    }

    fn follow(&mut self, named: Named, now: Instant) {
        let wanted = choose(named, |url| self.sets.get(url).is_some_and(|set| set.keys.is_some()));
        self.sets.retain(|url, _| wanted.contains(url));
        for url in wanted {
            let fresh = || Set { keys: None, due: Some(now), failures: 0 };
            self.sets.entry(url).or_insert_with(fresh);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let room = self.asked.len() < AT_ONCE;
        self.ready().filter_map(|(_, set)| set.due).min().filter(|_| room)
    }

    /// The sets whose host is not being asked.
    fn ready(&self) -> impl Iterator<Item = (&String, &Set)> {
        self.sets.iter().filter(|(url, _)| !self.asked.contains(&host(url)))
    }

    /// Begins what is due: what has waited for longest first, and one at a time of each host, so that a slow one holds up itself.
    fn fetch(&mut self, now: Instant) {
        while self.asked.len() < AT_ONCE {
            let due = self.ready().filter_map(|(url, set)| Some((set.due.filter(|due| *due <= now)?, url)));
            let Some((_, url)) = due.min() else { return };
            let (url, guard) = (url.clone(), Arc::clone(&self.guard));
            self.asked.insert(host(&url));
            if let Some(set) = self.sets.get_mut(&url) {
                set.due = None;
            }
            self.running.spawn(async move {
                let result = fetch::key_set(&url, &guard).await;
                (url, result)
            });
        }
    }

    /// Notes how a fetch ended; true when the keys are others than before.
    fn take(&mut self, url: &str, result: Result<Arc<str>, String>, now: Instant) -> bool {
        self.asked.remove(&host(url));
        let Some(set) = self.sets.get_mut(url) else { return false };
        match result {
            Ok(keys) => {
                let differs = set.keys.as_ref() != Some(&keys);
                if differs {
                    tracing::info!(url, bytes = keys.len(), "new keys for JSON Web Tokens");
                }
                *set = Set { keys: Some(keys), due: Some(now + jittered(REFRESH)), failures: 0 };
                differs
            }
            Err(why) => {
                let in_force = if set.keys.is_some() {
                    "the keys that came last"
                } else {
                    "none: no token of this issuer is valid"
                };
                tracing::warn!(url, why, in_force, "cannot fetch keys for JSON Web Tokens");
                let pause = SHORTEST_PAUSE * 2_u32.saturating_pow(set.failures.min(16));
                set.failures += 1;
                set.due = Some(now + jittered(pause.min(LONGEST_PAUSE)));
                false
            }
        }
    }

    fn with_keys(&self, view: Arc<View>) -> Arc<View> {
        let keys = self.sets.iter().filter_map(|(url, set)| Some((url.clone(), set.keys.clone()?)));
        let key_sets: BTreeMap<String, Arc<str>> = keys.collect();
        if key_sets.is_empty() { view } else { Arc::new(View { key_sets, ..View::clone(&view) }) }
    }
}

/// Whom a URL asks. One that cannot be read asks nobody, and fails at once.
fn host(url: &str) -> String {
    let uri = url.parse::<http::Uri>().ok();
    uri.and_then(|uri| Some(uri.authority()?.as_str().to_ascii_lowercase())).unwrap_or_else(|| url.to_owned())
}

/// Between nine tenths and the whole, so that many control planes do not ask at once.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.9..1.0))
}

/// How many sets are kept, and fetched at once.
const MOST_SETS: usize = 256;
const AT_ONCE: usize = 8;

/// How long a set is used before it is fetched again.
const REFRESH: Duration = Duration::from_secs(20 * 60);

/// How long to wait after a failure, at first and at most.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
mod tests;
