//! The ADS service: who may open a stream, where it listens, how it ends. Each stream has one task
//! (`connection`); what it says is decided without IO (`stream`).

mod admission;
mod connection;
mod metrics;
mod node;
mod places;
mod plain;
pub mod stream;
mod streams;
pub mod witness;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sidegate_xds::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use sidegate_xds::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream as Messages;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::authn::{Authenticator, Caller, Peer};
use crate::model::View;
use crate::snapshot::Snapshots;
use admission::Applicant;
use connection::Surroundings;
use metrics::CauseLabel;
pub use metrics::Metrics;
pub use node::ProxyNode;
use places::Places;
pub use plain::share_of as plain_share_of;
pub use streams::{StreamReport, Streams};

/// The ADS service, before it listens.
#[derive(Clone, Debug)]
pub struct Service {
    surroundings: Surroundings,
    places: Places,
    /// How much the plaintext port takes.
    limits: plain::Limits,
    /// Who must be known before a stream begins; none on the plaintext port, where nobody can be and nobody gets secrets.
    gate: Option<Gate>,
}

/// What decides who may have what.
#[derive(Clone, Debug)]
struct Gate {
    authenticator: Authenticator,
    views: watch::Receiver<Arc<View>>,
}

/// Why the service does not listen where it should.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Plaintext beyond the machine.
    #[error(
        "--xds-address {0}: xDS without TLS is for the loopback only; give a loopback address, for example 127.0.0.1:{port}",
        port = .0.port()
    )]
    NotLoopback(SocketAddr),
    /// The system refuses.
    #[error("{}", describe_bind("--xds-address", .address, .reason))]
    Refused {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        reason: std::io::Error,
    },
}

/// Takes the address for plaintext ADS.
///
/// # Errors
/// Refuses addresses beyond the loopback: plaintext xDS has no identities and no secrets (D17).
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    if !address.ip().to_canonical().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|reason| BindError::Refused { address, reason })
}

/// Why an address cannot be taken, and what to do about it.
pub fn describe_bind(flag: &str, address: &SocketAddr, reason: &std::io::Error) -> String {
    if reason.kind() == std::io::ErrorKind::AddrInUse {
        return format!(
            "{address} is in use by another program: stop it, or give another address with {flag}"
        );
    }
    format!("{flag} {address}: {reason}")
}

impl Service {
    /// A service that reads `snapshots`, keeps `streams` up to date, and ends its streams when `ending` turns true.
    pub fn new(
        snapshots: Snapshots,
        streams: Streams,
        metrics: Metrics,
        ending: watch::Receiver<bool>,
    ) -> Self {
        let limits = plain::Limits::default();
        Self {
            surroundings: Surroundings { snapshots, streams, metrics, ending },
            places: Places::new(limits.streams),
            limits,
            gate: None,
        }
    }

    /// The same, taking few connections in plaintext when the process may open few files.
    #[must_use]
    pub fn within(self, files: usize) -> Self {
        Self { limits: self.limits.within(files), ..self }
    }

    #[cfg(test)]
    fn with_limits(self, limits: plain::Limits) -> Self {
        Self { places: Places::new(limits.streams), limits, ..self }
    }

    /// The same service for the TLS port: a stream is for those whom `authenticator` knows, and serves what is theirs in `views`. One identity
    /// may have `share` streams, and the plaintext port's take nothing of these.
    #[must_use]
    pub fn secured(
        &self,
        authenticator: Authenticator,
        views: watch::Receiver<Arc<View>>,
        share: usize,
    ) -> Self {
        let places = Places::new(STREAM_LIMIT).with_share(share);
        Self { gate: Some(Gate { authenticator, views }), places, ..self.clone() }
    }

    /// The service in gRPC's form.
    pub(crate) fn into_server(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(REQUEST_LIMIT)
            .max_encoding_message_size(usize::MAX)
    }

    /// Serves until the end, then until all streams are closed.
    ///
    /// # Errors
    /// What the transport says when it cannot go on.
    pub async fn serve(self, listener: TcpListener) -> Result<(), tonic::transport::Error> {
        let mut ending = self.surroundings.ending.clone();
        // Connections wait here for a moment at most.
        let (sender, visitors) = mpsc::channel(16);
        let metrics = self.surroundings.metrics.clone();
        let accepting = tokio::spawn(plain::accept(listener, self.limits, metrics, sender));
        let served = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_LIMIT))
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .http2_max_header_list_size(HEADER_LIMIT)
            .add_service(self.into_server())
            .serve_with_incoming_shutdown(ReceiverStream::new(visitors), async move {
                // An error means that the sender is gone, which is an end, too.
                let _ = ending.wait_for(|ending| *ending).await;
            })
            .await;
        accepting.abort();
        served
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream =
        Pin<Box<dyn Messages<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(
            "only incremental xDS is served: set `api_type: DELTA_GRPC` in dynamic_resources.ads_config",
        ))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let applicant = match &self.gate {
            Some(gate) => Some(gate.apply(&request).await?),
            None => None,
        };
        let caller = applicant.as_ref().map(Applicant::caller);
        let place = self.places.take(caller.map(|caller| &caller.identity)).map_err(|none| {
            let cause = CauseLabel { cause: none.cause() };
            self.surroundings.metrics.refused_streams.get_or_create(&cause).inc();
            note_full(caller, none);
            Status::resource_exhausted(none.to_string())
        })?;
        // Room for one response: the next is made when this one has left, from what is then the newest state.
        let (outbound, responses) = mpsc::channel(1);
        let inbound = request.into_inner();
        tokio::spawn(connection::serve(self.surroundings.clone(), applicant, inbound, outbound, place));
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// At `debug`: who is refused tries again, and the counter tells how often.
fn note_full(caller: Option<&Caller>, none: places::NoPlace) {
    let caller = caller.map(|caller| caller.identity.to_string()).unwrap_or_default();
    tracing::debug!(caller, "a stream was refused: {none}");
}

impl Gate {
    /// Finds out who calls before any message is read.
    async fn apply<T>(&self, request: &Request<T>) -> Result<Applicant, Status> {
        let peer = request.extensions().get::<Peer>();
        let headers = request.metadata().as_ref();
        let session = self.authenticator.authenticate(headers, peer, "an xDS stream was").await;
        let session = session.map_err(|refusal| Status::from(&refusal))?;
        Ok(Applicant::new(session, self.views.clone(), self.authenticator.refusals().clone()))
    }
}

/// How many streams may be open at once on the TLS port.
const STREAM_LIMIT: usize = 10_000;

/// How many streams one connection may carry; a proxy needs one.
const STREAMS_PER_CONNECTION: u32 = 128;

/// How large one request may be: subscriptions and the versions that a reconnecting proxy holds.
const REQUEST_LIMIT: usize = 4 * 1024 * 1024;

/// How large the headers of a call may be.
const HEADER_LIMIT: u32 = 16 * 1024;

/// How often a silent connection is asked whether it lives, and how long it may take to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(20);
