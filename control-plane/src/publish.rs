//! From a view to one snapshot for each scope that is of interest: those that proxies follow, and every Gateway
//! (so that what is wrong with it can be told before its first proxy connects).
//!
//! Changes that come close together make one round. Nothing is published before the first full view.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::model::{Scope, Trust, Verdict, View};
use crate::snapshot::{Snapshot, Snapshots};
use crate::translate::translate;

/// What translation says about objects, over all scopes; one line for each object and condition.
pub type Verdicts = Arc<Vec<Verdict>>;

/// Publishes until the views end.
///
/// Whom workloads trust may change at any time, too; until somebody is known, there is no mutual TLS.
pub async fn run(
    mut views: watch::Receiver<Arc<View>>,
    mut trust: watch::Receiver<Option<Arc<Trust>>>,
    snapshots: Snapshots,
    verdicts: watch::Sender<Verdicts>,
) {
    let mut publisher = Publisher { snapshots, by_scope: BTreeMap::new(), verdicts };
    // What is there already counts as a change.
    views.mark_changed();
    loop {
        let changed = tokio::select! {
            changed = views.changed() => match changed {
                Ok(()) => true,
                Err(_) => return,
            },
            // Without a certificate authority, the sender is gone from the beginning.
            Ok(()) = trust.changed() => true,
            () = publisher.snapshots.wanted() => false,
        };
        let since = Instant::now();
        if changed {
            settle(&mut views, since).await;
        }
        let view = Arc::clone(&views.borrow_and_update());
        if view.generation == 0 || view.held_back {
            // The index has read nothing yet, or not what it has to know. Streams that wait are found again with the first view.
            continue;
        }
        let trust: Option<Arc<Trust>> = trust.borrow_and_update().clone();
        let all = publisher.all_scopes(&view, trust.is_some());
        let scopes = if changed { all } else { publisher.snapshots.missing() };
        publisher.publish(&view, &trust, scopes, since).await;
    }
}

/// Waits for a moment of quiet after a change, but not for long.
async fn settle(views: &mut watch::Receiver<Arc<View>>, since: Instant) {
    let end = since + DEBOUNCE_LIMIT;
    while Instant::now() < end {
        views.mark_unchanged();
        let quiet = (Instant::now() + DEBOUNCE_QUIET).min(end);
        // Quiet, or no view will follow: what is there is to be published.
        if !matches!(timeout_at(quiet, views.changed()).await, Ok(Ok(()))) {
            return;
        }
    }
}

struct Publisher {
    snapshots: Snapshots,
    by_scope: BTreeMap<Scope, Vec<Verdict>>,
    verdicts: watch::Sender<Verdicts>,
}

impl Publisher {
    /// Whatever is followed, and every Gateway, as a proxy sees it that has what can be had. What nobody follows any longer is
    /// forgotten.
    fn all_scopes(&mut self, view: &View, secure: bool) -> Vec<Scope> {
        let gateways =
            view.gateways.keys().map(|name| Scope::Gateway { gateway: name.clone(), foreign: false, secure });
        let mut scopes: BTreeSet<Scope> = gateways.collect();
        for (scope, followed) in self.snapshots.scopes() {
            if followed || scopes.contains(&scope) || !self.snapshots.forget(&scope) {
                scopes.insert(scope);
            }
        }
        self.by_scope.retain(|scope, _| scopes.contains(scope));
        scopes.into_iter().collect()
    }

    async fn publish(
        &mut self,
        view: &Arc<View>,
        trust: &Option<Arc<Trust>>,
        scopes: Vec<Scope>,
        since: Instant,
    ) {
        let at_once = std::thread::available_parallelism().map_or(1, NonZero::get);
        let jobs = scopes.into_iter().map(|scope| {
            let job = Job {
                view: Arc::clone(view),
                trust: trust.clone(),
                previous: self.snapshots.latest(&scope),
                scope: scope.clone(),
                since,
            };
            async move { (scope, tokio::task::spawn_blocking(move || job.run()).await) }
        });
        // Translation is computation; it must not hold up the streams that share this thread.
        let mut done = futures_util::stream::iter(jobs.collect::<Vec<_>>()).buffer_unordered(at_once);
        while let Some((scope, result)) = done.next().await {
            match result {
                Ok((snapshot, verdicts)) => {
                    self.snapshots.publish(&scope, Arc::new(snapshot));
                    self.by_scope.insert(scope, verdicts);
                }
                Err(panic) => {
                    tracing::error!(?scope, %panic, "translation failed; its last snapshot stays in force")
                }
            }
        }
        let merged = merge(self.by_scope.values().flatten());
        self.verdicts.send_if_modified(|current| {
            let differs = **current != merged;
            if differs {
                *current = Arc::new(merged);
            }
            differs
        });
    }
}

/// The translation of one scope.
struct Job {
    view: Arc<View>,
    trust: Option<Arc<Trust>>,
    scope: Scope,
    previous: Option<Arc<Snapshot>>,
    since: Instant,
}

impl Job {
    fn run(self) -> (Snapshot, Vec<Verdict>) {
        let translation = translate(&self.view, self.trust.as_deref(), &self.scope);
        let generation = self.view.generation;
        let snapshot = match self.previous {
            Some(previous) if *previous.resources == translation.resources => {
                previous.renewed(generation, self.since)
            }
            _ => Snapshot::new(generation, self.since, translation.resources),
        };
        (snapshot.carrying(translation.policies), translation.verdicts)
    }
}

/// One verdict for each object and condition; what is false for one scope is not hidden by another.
fn merge<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> Vec<Verdict> {
    let mut merged: BTreeMap<(&str, &str), &Verdict> = BTreeMap::new();
    for verdict in verdicts {
        let known = merged.entry((&verdict.object, &verdict.condition)).or_insert(verdict);
        if known.status && !verdict.status {
            *known = verdict;
        }
    }
    merged.into_values().cloned().collect()
}

/// How long changes are gathered at most, and how much quiet ends the gathering.
const DEBOUNCE_LIMIT: Duration = Duration::from_millis(10);
const DEBOUNCE_QUIET: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests;
