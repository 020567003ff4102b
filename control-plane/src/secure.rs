//! The TLS port: whoever comes in proves who it is at each call, to the xDS service or to the certificate service.
//!
//! The port is on the network, so everything about it has a bound: handshakes, connections of nobody, streams, headers, messages.

mod door;
mod guest;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

pub use door::{Door, Shown};

use crate::issue::CertificateService;
use crate::xds;

/// Serves both services until `ending` turns true, then until their calls are over.
///
/// # Errors
/// What the transport says when it cannot go on.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    discovery: xds::Service,
    certificates: CertificateService,
    mut ending: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    // Handshakes that are done wait here for a moment at most.
    let (sender, guests) = mpsc::channel(16);
    let accepting = tokio::spawn(door.accept(listener, sender));
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_LIMIT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(HEADER_LIMIT)
        .http2_max_pending_accept_reset_streams(Some(RESET_LIMIT))
        .http2_max_local_error_reset_streams(Some(RESET_LIMIT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(discovery.into_server())
        .add_service(certificates)
        .serve_with_incoming_shutdown(ReceiverStream::new(guests), async move {
            // An error means that the sender is gone, which is an end, too.
            let _ = ending.wait_for(|ending| *ending).await;
        })
        .await;
    accepting.abort();
    served
}

/// How many streams one connection may carry; a proxy needs one for xDS and one for a certificate.
const STREAMS_PER_CONNECTION: u32 = 16;

/// How large the headers of a call may be: a token has up to 8 KiB.
const HEADER_LIMIT: u32 = 16 * 1024;

/// How many streams a peer may open and reset at once before its connection ends.
const RESET_LIMIT: usize = 20;

/// What a connection may send before somebody reads it: nobody reads the messages of a stranger.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// How often a silent connection is asked whether it lives, and how long it may take to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(20);
