//! The opaque road: choose a cluster and an endpoint, connect, copy both ways.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::BytesMut;
use tokio::time::Instant;

use crate::cluster::{Cluster, Lease, now_millis, pick};
use crate::error::Reason;
use crate::exchange::Downstream;
use crate::io::Io;
use crate::message::{Headers, RequestHead, Version};
use crate::relay;
use crate::snapshot::Tcp;
use crate::telemetry::Record;
use crate::upstream::{ConnectionClaim, ConnectionPlace, Want, connect};
use crate::worker::Worker;

/// Serves one connection to its end. `ahead` was read already.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    tcp: Arc<Tcp>,
    io: Io,
    ahead: BytesMut,
) {
    let mut record = new_record(&downstream);
    let outcome = open(&worker, &downstream, &tcp, &mut record).await;
    match outcome {
        Ok((upstream, _claims)) => {
            let drain = worker.drain.clone();
            let (received, sent) = relay::copy(&io, &upstream, ahead.freeze(), tcp.idle_timeout, drain).await;
            (record.bytes_received, record.bytes_sent) = (received, sent);
        }
        Err((reason, detail)) => {
            record.reason = Some(reason);
            record.reason_id = Some(worker.recorder.next_reason_id());
            record.detail = Some(detail);
            io.reset_on_close();
        }
    }
    record.duration = record.start.elapsed();
    worker.recorder.connection_ended(&*record, &tcp.access_logs);
}

/// What a connection holds for as long as it is open.
struct Claims {
    _open: ConnectionClaim,
    _lease: Lease,
}

/// Connects to an endpoint of the chosen cluster, another one after each failure.
async fn open(
    worker: &Rc<Worker>,
    downstream: &Downstream,
    tcp: &Tcp,
    record: &mut Record,
) -> Result<(Io, Claims), (Reason, String)> {
    let cluster = choose_cluster(worker, tcp)?;
    record.cluster = Some(cluster.metrics.clone());
    let mut tried = Vec::new();
    let mut last = (Reason::NoHealthyEndpoint, format!("{} has no available endpoint", cluster.name));
    for _ in 0..tcp.max_connect_attempts.max(1) {
        let set = cluster.endpoints.load_full();
        let Some(endpoint) = pick(&cluster.policy, &set, &tried, now_millis(), &mut || worker.roll()) else {
            break;
        };
        if endpoint.address == downstream.connection.local {
            return Err((Reason::NoHealthyEndpoint, "the endpoint is this listener itself".into()));
        }
        let Some(place) = ConnectionPlace::take(&cluster, false) else {
            let detail = format!("{} connections open to {}", cluster.limits.connections, cluster.name);
            return Err((Reason::UpstreamOverflow, detail));
        };
        let lease = Lease::new(endpoint.clone());
        record.attempts += 1;
        record.endpoint = Some(endpoint.address);
        match connect(&cluster, &endpoint, Want::OPAQUE, &worker.recorder).await {
            Ok(io) => return Ok((io, Claims { _open: place.opened(&worker.recorder), _lease: lease })),
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

fn choose_cluster(worker: &Worker, tcp: &Tcp) -> Result<Arc<Cluster>, (Reason, String)> {
    let snapshot = worker.snapshots.load();
    let nothing = no_request();
    let name = tcp.target.choose(&nothing, worker.roll()).map_or("(none)", |choice| choice.cluster);
    let missing = || (Reason::NoCluster, format!("cluster {name} does not exist"));
    snapshot.clusters.get(name).cloned().ok_or_else(missing)
}

fn new_record(downstream: &Downstream) -> Box<Record> {
    Box::new(Record::new(&downstream.connection, &no_request(), Instant::now(), SystemTime::now()))
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
