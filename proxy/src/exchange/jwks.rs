//! Fetches the keys that tokens are verified by, beside the data path: ahead of time by the clock, or because a request waits.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::call::{Call, call};
use crate::cluster::Cluster;
use crate::filter::Kind;
use crate::filter::jwt::{Fetching, KeySet, LONGEST_JWKS, Remote};
use crate::message::{Headers, RequestHead, Version};
use crate::snapshot::Snapshot;
use crate::telemetry::FilterEvent;
use crate::worker::Worker;

/// Fetches what is due. Call every second or so, on every worker: the first one that comes does it for all.
pub(crate) fn refresh(worker: &Rc<Worker>) {
    let snapshot = worker.snapshots.load();
    let now = Instant::now();
    let chains = snapshot.listeners.values().flat_map(|listener| listener.chains.iter());
    for http in chains.filter_map(|chain| chain.http()) {
        for entry in &http.filters {
            let Kind::Jwt(jwt) = &entry.kind else { continue };
            for remote in jwt.remotes() {
                begin(worker, &snapshot, &http.stat_prefix, remote, now);
            }
        }
    }
}

/// Until a provider's keys are there, or will not be: starts to fetch them if nobody does.
pub(super) async fn arrive(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    stat_prefix: &Arc<str>,
    remote: &Arc<Remote>,
) {
    begin(worker, snapshot, stat_prefix, remote, Instant::now());
    remote.settled().await;
}

fn begin(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    stat_prefix: &Arc<str>,
    remote: &Arc<Remote>,
    now: Instant,
) {
    let Some(fetching) = remote.claim(now) else { return };
    let cluster = snapshot.clusters.get(&remote.cluster).cloned();
    // On a task of its own: the request that started it may be abandoned, others wait for the same keys.
    tokio::task::spawn_local(fetch(worker.clone(), cluster, stat_prefix.clone(), fetching));
}

async fn fetch(worker: Rc<Worker>, cluster: Option<Arc<Cluster>>, stat_prefix: Arc<str>, fetching: Fetching) {
    let remote = fetching.remote.clone();
    let url = format!("{}://{}{}", remote.scheme.as_str(), remote.authority, remote.path.path());
    match keys(&worker, cluster.as_ref(), &remote).await {
        Ok(keys) => {
            worker.recorder.filtered(&stat_prefix, FilterEvent::JwksFetched);
            tracing::debug!(url, "keys were fetched");
            fetching.succeeded(keys, Instant::now(), worker.roll());
        }
        Err(error) => {
            worker.recorder.filtered(&stat_prefix, FilterEvent::JwksFailed);
            let goes_on = fetching.failed(Instant::now(), worker.roll());
            let then = if goes_on { "the last ones are used on" } else { "requests that need them fail" };
            tracing::warn!(url, "no keys: {error}; {then}; tried again soon");
        }
    }
}

async fn keys(
    worker: &Rc<Worker>,
    cluster: Option<&Arc<Cluster>>,
    remote: &Remote,
) -> Result<KeySet, String> {
    let mut headers = Headers::new();
    headers.set("accept", HeaderValue::from_static("application/json"));
    headers.set("user-agent", HeaderValue::from_static("sidegate"));
    let head = RequestHead {
        method: Method::GET,
        scheme: remote.scheme,
        authority: Some(remote.authority.clone()),
        path: remote.path.clone(),
        version: Version::Http11,
        headers,
    };
    let question = Call { head, body: bytes::Bytes::new(), timeout: remote.timeout, most: LONGEST_JWKS };
    let answered = call(worker, cluster, &remote.cluster, &question).await?;
    if answered.head.status != StatusCode::OK {
        // A redirect would lead where nobody has looked.
        return Err(format!("the answer is {}, not 200; redirects are not followed", answered.head.status));
    }
    KeySet::read(&answered.body)
}
