//! Making a connection to an endpoint, within the cluster's time bound.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::SendError;
use crate::cluster::{AskFor, Cluster, Endpoint, Live, Security, Suspicion, now_millis};
use crate::error::Reason;
use crate::io::Io;
use crate::proxy_header::{self, Version};
use crate::telemetry::{ClusterMetrics, Recorder};
use crate::tls;

/// What a connection is wanted for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want<'a> {
    /// The protocol that will be spoken, by its ALPN name; `None` is none that we know.
    pub(crate) protocol: Option<&'static [u8]>,
    /// The name to ask for instead of the configured one.
    pub(crate) server_name: Option<&'a str>,
}

impl Want<'_> {
    /// For bytes that are not looked into.
    pub(crate) const OPAQUE: Self = Want { protocol: None, server_name: None };
}

/// A connection that was made.
pub(crate) struct Opened {
    /// The connection.
    pub(crate) io: Io,
    /// Its TLS session; `None` is plaintext.
    pub(crate) session: Option<Arc<tls::Security>>,
}

/// Connects to an endpoint on behalf of a cluster, for one who waits for it: dropped, nothing is left of it.
pub(crate) async fn connect(
    cluster: &Cluster,
    endpoint: &Endpoint,
    want: Want<'_>,
    recorder: &Recorder,
) -> Result<Opened, SendError> {
    Dial::new(cluster, endpoint, want).run(recorder).await
}

/// An attempt to connect to an endpoint on behalf of a cluster. It holds neither: when both are gone, nobody wants what it brings.
pub(super) struct Dial {
    address: SocketAddr,
    /// `connect_timeout`: over the whole of it.
    limit: Duration,
    /// How the connection begins by telling who the client is.
    introduction: Option<Box<[u8]>>,
    /// The handshake; `None` is plaintext.
    prepared: Result<Option<Box<tls::Prepared>>, Failure>,
    protocol: Option<&'static [u8]>,
    metrics: Arc<ClusterMetrics>,
    suspicion: Suspicion,
}

type Failure = (Reason, String);

impl Dial {
    /// An attempt that has yet to begin.
    pub(super) fn new(cluster: &Cluster, endpoint: &Endpoint, want: Want<'_>) -> Self {
        let security = cluster.sockets.of(endpoint);
        Self {
            address: endpoint.address,
            limit: cluster.connect_timeout,
            introduction: cluster.proxy_header.map(|version| introduction(version, endpoint)),
            prepared: security.map(|security| prepare(security, endpoint, want)).transpose(),
            protocol: want.protocol,
            metrics: cluster.metrics.clone(),
            suspicion: endpoint.suspicion(),
        }
    }

    /// Connects: where the endpoint has TLS, the handshake is a part of it, and nothing is ever sent without (C4).
    pub(super) async fn run(self, recorder: &Recorder) -> Result<Opened, SendError> {
        let Self { address, limit, introduction, prepared, protocol, metrics, suspicion } = self;
        let secured = !matches!(prepared, Ok(None));
        let making = async {
            let prepared = prepared?;
            let io = open(address).await?;
            if let Some(introduction) = introduction {
                introduce(&io, &introduction).await?;
            }
            match prepared {
                None => Ok(Opened { io, session: None }),
                Some(prepared) => Box::pin(secure(prepared, io, address, protocol)).await,
            }
        };
        let made = tokio::time::timeout(limit, making).await;
        let made = made.unwrap_or_else(|_| {
            let what = if secured { "accept and shake hands" } else { "accept" };
            Err((Reason::ConnectTimeout, format!("{address} did not {what} within {limit:?}")))
        });
        made.map_err(|(reason, detail)| {
            // Here, once for each attempt: there may be many who wait for it, or none any more.
            suspicion.raise(now_millis());
            recorder.connect_failed(&metrics, reason == Reason::ConnectTimeout);
            SendError::not_sent(reason, detail)
        })
    }
}

async fn open(address: SocketAddr) -> Result<Io, Failure> {
    let connected = TcpStream::connect(address).await;
    let prepared =
        connected.and_then(|stream| stream.set_nodelay(true).and_then(|()| Io::new(stream, address)));
    prepared.map_err(|error| (Reason::ConnectFailure, describe(address, &error)))
}

/// Says who the client is, ahead of everything else. Without one (a mirrored request) the header says that there is none.
fn introduction(version: Version, endpoint: &Endpoint) -> Box<[u8]> {
    let (client, destination) = endpoint.client.unwrap_or((NOBODY_V4, NOBODY_V6));
    proxy_header::encode(version, client, destination).into()
}

async fn introduce(io: &Io, introduction: &[u8]) -> Result<(), Failure> {
    let mut header = BytesMut::from(introduction);
    let written = poll_fn(|context| io.poll_flush_buffer(context, &mut header)).await;
    written.map_err(|error| (Reason::ConnectFailure, describe(io.peer, &error)))
}

/// Addresses of two families, which no header can hold.
const NOBODY_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const NOBODY_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

fn prepare(security: &Security, endpoint: &Endpoint, want: Want<'_>) -> Result<Box<tls::Prepared>, Failure> {
    let by_host = (security.ask_for == AskFor::Host).then_some(endpoint.hostname.as_deref()).flatten();
    let name = want.server_name.or(by_host);
    let prepared = security.context.prepare(name, endpoint.address.ip(), want.protocol);
    prepared.map_err(|failure| failed(endpoint.address, &failure.detail))
}

fn failed(address: SocketAddr, detail: &str) -> Failure {
    (Reason::UpstreamTlsFailure, format!("{address}: {detail}"))
}

async fn secure(
    prepared: Box<tls::Prepared>,
    io: Io,
    address: SocketAddr,
    protocol: Option<&'static [u8]>,
) -> Result<Opened, Failure> {
    let connected = prepared.connect(io).await;
    let (io, established) = connected.map_err(|failure| failed(address, &failure.detail))?;
    // What was agreed on is spoken, or nothing is (C6).
    match (protocol, established.alpn.as_deref()) {
        (Some(wanted), Some(agreed)) if wanted != agreed => {
            let agreed = String::from_utf8_lossy(agreed);
            let wanted = String::from_utf8_lossy(wanted);
            Err(failed(address, &format!("TLS: the endpoint speaks {agreed}, the cluster {wanted}")))
        }
        _ => Ok(Opened { io, session: Some(established.security) }),
    }
}

fn describe(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{address} refuses connections: nothing listens there"),
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            format!("{address}: this proxy has no descriptor left for the connection (ulimit -n)")
        }
        _ => format!("{address}: {error}"),
    }
}

/// A place among a cluster's connections, taken before the connection is made so that a burst does not overshoot the bound.
/// Not the cluster itself, which would keep its endpoints alive for pools after it is gone.
pub(crate) struct ConnectionPlace {
    live: Arc<Live>,
    metrics: Arc<ClusterMetrics>,
}

impl ConnectionPlace {
    /// Takes a place; `None` when `max_connections` is reached, unless it is needed all the same.
    pub(crate) fn take(cluster: &Cluster, needed: bool) -> Option<Self> {
        // In one step: what was taken only to be given back would be missed by whoever was woken meanwhile, and nobody would wake him again.
        let within =
            |open: u32| (needed || open < cluster.limits.connections).then(|| open.saturating_add(1));
        let taken = cluster.live.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        taken.is_ok().then(|| Self { live: cluster.live.clone(), metrics: cluster.metrics.clone() })
    }

    /// The connection was made: counted as open for as long as this lives.
    pub(crate) fn opened(self, recorder: &Recorder) -> ConnectionClaim {
        recorder.upstream_opened(&self.metrics);
        ConnectionClaim { place: self, recorder: recorder.clone() }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.live.connections.fetch_sub(1, Ordering::Relaxed);
        self.live.freed.notify_one();
    }
}

/// One open connection, counted against the cluster for as long as it lives.
pub(crate) struct ConnectionClaim {
    place: ConnectionPlace,
    recorder: Recorder,
}

impl Drop for ConnectionClaim {
    fn drop(&mut self) {
        self.recorder.upstream_closed(&self.place.metrics);
    }
}
