//! A request of the proxy's own to a cluster, for a filter: bounded in time and in bytes, followed nowhere.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::retry;
use crate::cluster::{Cluster, Discovery, Endpoint, Lease, now_millis, pick};
use crate::error::Reason;
use crate::filter::Answered;
use crate::message::{Body, Frame, Headers, RequestHead, ResponseHead};
use crate::upstream::{Attempt, Destination};
use crate::worker::Worker;

/// What is asked.
pub(super) struct Call {
    pub(super) head: RequestHead,
    pub(super) body: Bytes,
    /// From the choice of an endpoint to the answer's last byte.
    pub(super) timeout: Duration,
    /// Bytes of an answer; a longer one is none.
    pub(super) most: usize,
}

/// Asks. The error says for the operator what happened.
pub(super) async fn call(
    worker: &Rc<Worker>,
    cluster: Option<&Arc<Cluster>>,
    name: &str,
    call: &Call,
) -> Result<Answered, String> {
    let Some(cluster) = cluster else { return Err(format!("cluster {name} does not exist")) };
    match tokio::time::timeout(call.timeout, exchange(worker, cluster, call)).await {
        Ok(Ok(answered)) => Ok(answered),
        Ok(Err(error)) => Err(format!("{name}: {error}")),
        Err(_) => Err(format!("{name} did not answer within {:?}", call.timeout)),
    }
}

async fn exchange(worker: &Rc<Worker>, cluster: &Arc<Cluster>, call: &Call) -> Result<Answered, String> {
    let Some(_claim) = cluster.claim_request() else {
        return Err(format!("{} requests are in flight already", cluster.limits.requests));
    };
    let mut fresh = false;
    let mut tries = 0;
    loop {
        let endpoint = endpoint(worker, cluster, &call.head).await?;
        let lease = Lease::new(endpoint.clone());
        worker.recorder.upstream_attempt(&cluster.metrics);
        let destination = Destination::new(cluster.clone(), endpoint, &call.head);
        let body = if call.body.is_empty() { Body::Empty } else { Body::Full(call.body.clone()) };
        let attempt = Attempt { head: &call.head, body, fresh, tunnel: None };
        let error = match worker.pools.send(&destination, attempt).await {
            Ok(response) => return read(response.head, response.body, call.most).await,
            Err(error) => error,
        };
        if matches!(
            error.reason,
            Reason::ConnectFailure | Reason::ConnectTimeout | Reason::UpstreamTlsFailure
        ) {
            lease.endpoint.suspect(now_millis());
        }
        // Asking twice does no harm: what was lost with a tired connection is asked again.
        tries += 1;
        if tries >= MOST_TRIES || !(retry::is_free(&error, &call.head.method) || error.reused) {
            return Err(format!("{}: {}", error.reason.label(), error.detail));
        }
        fresh = true;
    }
}

async fn endpoint(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    head: &RequestHead,
) -> Result<Arc<Endpoint>, String> {
    match cluster.discovery {
        Discovery::Forward => {
            let authority = head.authority.as_ref().map_or("", |authority| authority.as_str());
            let port = if head.scheme == crate::message::Scheme::Https { 443 } else { 80 };
            let found = worker.resolver.endpoint(authority, port, cluster.connect_timeout).await;
            return found.map_err(|error| error.detail);
        }
        Discovery::Original { .. } => {
            return Err("an ORIGINAL_DST cluster cannot be asked by the proxy itself".to_owned());
        }
        Discovery::Static | Discovery::Eds(_) | Discovery::Dns(_) => {}
    }
    let set = cluster.endpoints.load();
    pick(&cluster.policy, &set, &[], now_millis, &mut || worker.roll())
        .ok_or_else(|| "no endpoint is available".to_owned())
}

async fn read(head: ResponseHead, mut body: Body, most: usize) -> Result<Answered, String> {
    if body.remaining().is_some_and(|length| length > most as u64) {
        return Err(format!("the answer is longer than {most} bytes"));
    }
    let (mut content, mut trailers) = (BytesMut::new(), Headers::new());
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| format!("the answer broke off: {error}"))? {
            Frame::Data(data) if content.len() + data.len() > most => {
                return Err(format!("the answer is longer than {most} bytes"));
            }
            Frame::Data(data) => content.extend_from_slice(&data),
            Frame::Trailers(fields) => trailers = fields,
        }
    }
    Ok(Answered { head, body: content.freeze(), trailers })
}

const MOST_TRIES: u32 = 3;
