//! `request_mirror_policies`: copies of a request to other clusters, whose answers nobody sees.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Cluster, now_millis, pick};
use crate::message::{Body, RequestHead};
use crate::route::Forward;
use crate::snapshot::Snapshot;
use crate::upstream::{Attempt, Destination};
use crate::worker::Worker;

/// Sends the copies that the route asks for, on tasks of their own. `body` yields the request's body again; `None` when it was too
/// long to be kept, and then nothing is mirrored: half a request would be another request.
pub(super) fn mirror(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    forward: &Forward,
    head: &RequestHead,
    body: impl Fn() -> Option<Body>,
) {
    for (name, share) in &forward.mirrors {
        let roll = (u64::from(worker.roll()) * 1_000_000) >> 32;
        if roll >= u64::from(*share) {
            continue;
        }
        let (Some(cluster), Some(body)) = (snapshot.clusters.get(name).cloned(), body()) else { continue };
        tokio::task::spawn_local(send(worker.clone(), cluster, shadow(head), body));
    }
}

/// The copy's head: its host says that it is one, as Envoy's does.
fn shadow(head: &RequestHead) -> RequestHead {
    let mut head = head.clone();
    if let Some(authority) = &head.authority {
        let port = authority.port().map(|port| format!(":{port}")).unwrap_or_default();
        head.authority = format!("{}-shadow{port}", authority.host()).parse().ok().or(head.authority);
    }
    head
}

async fn send(worker: Rc<Worker>, cluster: Arc<Cluster>, head: RequestHead, body: Body) {
    // A mirror obeys the bounds of its cluster, and takes no more time than a bound of its own.
    let Some(_claim) = cluster.claim_request() else { return };
    let set = cluster.endpoints.load_full();
    let Some(endpoint) = pick(&cluster.policy, &set, &[], now_millis, &mut || worker.roll()) else {
        return;
    };
    worker.recorder.upstream_attempt(&cluster.metrics);
    let destination = Destination::new(cluster, endpoint, &head);
    let exchange = async {
        let attempt = Attempt { head: &head, body, fresh: false, tunnel: None };
        // Whatever comes of it, nobody waits for it.
        let Ok(mut response) = worker.pools.send(&destination, attempt).await else { return };
        while let Some(Ok(_)) = response.body.frame().await {}
    };
    let _ = tokio::time::timeout(LONGEST, exchange).await;
}

const LONGEST: Duration = Duration::from_secs(15);
