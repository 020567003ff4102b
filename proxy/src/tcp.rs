//! The opaque road: choose a cluster and an endpoint, connect, copy both ways.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::BytesMut;
use tokio::time::Instant;

use crate::cluster::{Cluster, Discovery, Endpoint, EndpointId, Lease, now_millis, pick};
use crate::error::Reason;
use crate::exchange::Downstream;
use crate::io::Io;
use crate::message::{Headers, RequestHead, Version};
use crate::relay;
use crate::snapshot::Tcp;
use crate::telemetry::{self, Record};
use crate::upstream::{ConnectionClaim, ConnectionPlace, Opened, Want, Watched, connect};
use crate::worker::Worker;

/// Serves one connection to its end. `ahead` was read already.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    tcp: Arc<Tcp>,
    io: Io,
    ahead: BytesMut,
) {
    open(worker, downstream, tcp).await.carry(io, ahead).await;
}

/// A connection whose endpoint was dialled, before anything is copied. Dropped, it was never there.
pub(crate) struct Opening {
    worker: Rc<Worker>,
    /// The connection's place on its filter chain.
    downstream: Rc<Downstream>,
    tcp: Arc<Tcp>,
    record: Box<Record>,
    outcome: Result<(Opened, Claims), (Reason, String)>,
}

/// What a connection holds for as long as it is open.
struct Claims {
    _open: ConnectionClaim,
    _lease: Lease,
    watched: Watched,
}

/// Until the connection may not go on: either end is revoked, the policies in force deny it, or its filter chain is gone and it has had the
/// time to finish that a shutdown would give it. What to say of it.
async fn cut(worker: &Worker, downstream: &Downstream, upstream: &Watched) -> (Reason, String) {
    let gone = async {
        downstream.gone().await;
        // Boxed: connections have no room for what few of them ever need.
        Box::pin(tokio::time::sleep(worker.drain.patience())).await;
    };
    tokio::select! {
        biased;
        why = downstream.denied(worker) => (Reason::AccessDenied, why),
        () = downstream.revoked() => {
            let why = downstream.member.revoked().map(|revoked| revoked.to_string()).unwrap_or_default();
            (Reason::PeerRevoked, format!("the client: {why}"))
        }
        why = upstream.revoked() => (Reason::PeerRevoked, format!("the endpoint: {why}")),
        () = gone => (Reason::NoFilterChain, "its filter chain is not configured any more".to_owned()),
    }
}

/// Dials an endpoint for a connection.
pub(crate) async fn open(worker: Rc<Worker>, downstream: Rc<Downstream>, tcp: Arc<Tcp>) -> Opening {
    let mut record = new_record(&downstream.connection);
    let outcome = dial(&worker, &downstream, &tcp, &mut record).await;
    Opening { worker, downstream, tcp, record, outcome }
}

impl Opening {
    /// Until the endpoint has sent something, or closed; for ever when it could not be reached.
    pub(crate) async fn spoke(&self) {
        match &self.outcome {
            Ok((upstream, _)) => poll_fn(|context| upstream.io.poll_spoken(context)).await,
            Err(_) => std::future::pending().await,
        }
    }

    /// Copies both ways until either side is done. `ahead` was read already.
    pub(crate) async fn carry(self, io: Io, ahead: BytesMut) {
        let Self { worker, downstream, tcp, mut record, outcome } = self;
        if let Ok((upstream, _)) = &outcome {
            record.upstream_security = upstream.session.clone();
        }
        worker.recorder.connection_began(&*record);
        match outcome {
            Ok((upstream, claims)) => {
                let drain = worker.drain.clone();
                let longest = tcp.max_duration.map(|longest| longest.saturating_sub(record.start.elapsed()));
                let bounds = relay::Bounds { idle: tcp.idle_timeout, longest };
                let cut = cut(&worker, &downstream, &claims.watched);
                let copying = relay::copy(&io, &upstream.io, ahead.freeze(), bounds, drain, cut);
                let copied = copying.await;
                (record.bytes_received, record.bytes_sent) = (copied.received, copied.sent);
                if let Some((reason, detail)) = failure(copied.end) {
                    record.fail(reason, worker.recorder.next_reason_id(), detail);
                }
            }
            Err((reason, detail)) => {
                record.fail(reason, worker.recorder.next_reason_id(), detail);
                io.reset_on_close();
            }
        }
        record.duration = record.start.elapsed();
        worker.recorder.connection_ended(&*record, &tcp.access_logs);
    }
}

/// What to say of a copy that did not end in order.
fn failure(end: relay::End<(Reason, String)>) -> Option<(Reason, String)> {
    let (reason, detail) = match end {
        relay::End::Orderly => return None,
        relay::End::Cut(cut) => return Some(cut),
        relay::End::ClientFailed => (Reason::DownstreamClosed, "the client's connection was reset"),
        relay::End::UpstreamFailed => (Reason::UpstreamBodyReset, "the endpoint's connection was reset"),
        relay::End::Silent => (Reason::IdleTimeout, "nothing moved within idle_timeout"),
        relay::End::Old => (Reason::MaxDuration, "it lasted for max_downstream_connection_duration"),
        relay::End::Shutdown => (Reason::Draining, "the shutdown's deadline came"),
    };
    Some((reason, detail.to_owned()))
}

/// Connects to an endpoint of the chosen cluster, another one after each failure.
async fn dial(
    worker: &Rc<Worker>,
    downstream: &Downstream,
    tcp: &Tcp,
    record: &mut Record,
) -> Result<(Opened, Claims), (Reason, String)> {
    let cluster = choose_cluster(worker, tcp)?;
    record.cluster = Some(cluster.metrics.clone());
    let mut tried = Vec::new();
    let mut last = (Reason::NoHealthyEndpoint, format!("{} has no available endpoint", cluster.name));
    for _ in 0..tcp.max_connect_attempts.max(1) {
        let Some(endpoint) = choose_endpoint(worker, downstream, &cluster, &tried) else { break };
        if endpoint.address == downstream.accepted {
            return Err((Reason::NoHealthyEndpoint, "the endpoint is this listener itself".into()));
        }
        let Some(place) = ConnectionPlace::take(&cluster, false) else {
            let detail = format!("{} connections open to {}", cluster.limits.connections, cluster.name);
            return Err((Reason::UpstreamOverflow, detail));
        };
        let lease = Lease::new(endpoint.clone());
        record.attempts += 1;
        record.endpoint = Some(endpoint.address);
        let introduced = downstream.introduced(&cluster, endpoint.clone());
        match connect(&cluster, &introduced, Want::OPAQUE, &worker.recorder).await {
            Ok(opened) => {
                let watched = worker.watch.add(&cluster, opened.session.as_ref());
                let claims = Claims { _open: place.opened(&worker.recorder), _lease: lease, watched };
                return Ok((opened, claims));
            }
            Err(error) => {
                endpoint.suspect(now_millis());
                record.attempt_failures.push((Some(endpoint.address), error.reason));
                last = (error.reason, error.detail);
            }
        }
        tried.push(endpoint.id);
    }
    Err(last)
}

/// The original destination, or one of the cluster's own endpoints.
fn choose_endpoint(
    worker: &Worker,
    downstream: &Downstream,
    cluster: &Cluster,
    tried: &[EndpointId],
) -> Option<Arc<Endpoint>> {
    if let Discovery::Original { port } = cluster.discovery {
        return Some(worker.resolver.original(downstream.connection.local, port));
    }
    let set = cluster.endpoints.load_full();
    pick(&cluster.policy, &set, tried, now_millis, &mut || worker.roll())
}

fn choose_cluster(worker: &Worker, tcp: &Tcp) -> Result<Arc<Cluster>, (Reason, String)> {
    let snapshot = worker.snapshots.load();
    let nothing = no_request();
    let name = tcp.target.choose(&nothing, worker.roll()).map_or("(none)", |choice| choice.cluster);
    let missing = || (Reason::NoCluster, format!("cluster {name} does not exist"));
    snapshot.clusters.get(name).cloned().ok_or_else(missing)
}

/// The record of a connection that begins.
pub(crate) fn new_record(connection: &telemetry::Downstream) -> Box<Record> {
    Box::new(Record::new(connection, &no_request(), Instant::now(), SystemTime::now()))
}

/// A connection has no request; what asks for one finds nothing in it.
fn no_request() -> RequestHead {
    RequestHead {
        method: http::Method::CONNECT,
        scheme: crate::message::Scheme::Http,
        authority: None,
        path: http::uri::PathAndQuery::from_static("/"),
        version: Version::Http11,
        headers: Headers::new(),
    }
}
