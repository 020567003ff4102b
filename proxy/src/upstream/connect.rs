//! Making a connection to an endpoint, within the cluster's time bound.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;

use super::SendError;
use crate::cluster::Cluster;
use crate::error::Reason;
use crate::io::Io;
use crate::telemetry::Recorder;

/// Connects to an address on behalf of a cluster.
pub(crate) async fn connect(
    cluster: &Arc<Cluster>,
    address: SocketAddr,
    recorder: &Recorder,
) -> Result<Io, SendError> {
    let attempt = tokio::time::timeout(cluster.connect_timeout, TcpStream::connect(address));
    let failed = |reason, detail: String| {
        recorder.connect_failed(&cluster.metrics, reason == Reason::ConnectTimeout);
        Err(SendError::not_sent(reason, detail))
    };
    let stream = match attempt.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed(Reason::ConnectFailure, describe(address, &error)),
        Err(_) => {
            let limit = cluster.connect_timeout;
            return failed(Reason::ConnectTimeout, format!("{address} did not accept within {limit:?}"));
        }
    };
    let prepared = stream.set_nodelay(true).and_then(|()| Io::new(stream));
    match prepared {
        Ok(io) => Ok(io),
        Err(error) => failed(Reason::ConnectFailure, describe(address, &error)),
    }
}

fn describe(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{address} refuses connections: nothing listens there"),
        _ => format!("{address}: {error}"),
    }
}

/// A place among a cluster's connections, taken before the connection is made so that a burst does not overshoot the bound.
pub(crate) struct ConnectionPlace {
    cluster: Arc<Cluster>,
}

impl ConnectionPlace {
    /// Takes a place; `None` when `max_connections` is reached, unless it is needed all the same.
    pub(crate) fn take(cluster: &Arc<Cluster>, needed: bool) -> Option<Self> {
        let open = cluster.live.connections.fetch_add(1, Ordering::Relaxed);
        let place = Self { cluster: cluster.clone() };
        (needed || open < cluster.limits.connections).then_some(place)
    }

    /// The connection was made: counted as open for as long as this lives.
    pub(crate) fn opened(self, recorder: &Recorder) -> ConnectionClaim {
        recorder.upstream_opened(&self.cluster.metrics);
        ConnectionClaim { place: self, recorder: recorder.clone() }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.cluster.live.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One open connection, counted against the cluster for as long as it lives.
pub(crate) struct ConnectionClaim {
    place: ConnectionPlace,
    recorder: Recorder,
}

impl Drop for ConnectionClaim {
    fn drop(&mut self) {
        self.recorder.upstream_closed(&self.place.cluster.metrics);
    }
}
