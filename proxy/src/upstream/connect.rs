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

/// One open connection, counted against the cluster for as long as it lives.
pub(super) struct ConnectionClaim {
    cluster: Arc<Cluster>,
    recorder: Recorder,
}

impl ConnectionClaim {
    /// Counts a connection that was just made.
    pub(super) fn new(cluster: &Arc<Cluster>, recorder: &Recorder) -> Self {
        cluster.live.connections.fetch_add(1, Ordering::Relaxed);
        recorder.upstream_opened(&cluster.metrics);
        Self { cluster: cluster.clone(), recorder: recorder.clone() }
    }
}

impl Drop for ConnectionClaim {
    fn drop(&mut self) {
        self.cluster.live.connections.fetch_sub(1, Ordering::Relaxed);
        self.recorder.upstream_closed(&self.cluster.metrics);
    }
}
