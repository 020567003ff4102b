//! Connections to the authority and to the control plane: dialled and proven here, before gRPC sees them, so that what fails has a name.

use std::future::Ready;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;

use super::status::Outcome;
use crate::tls::{self, Policy};

/// Whom to connect to, and how both ends prove themselves.
pub(crate) struct Target<'a> {
    /// A name or an address.
    pub(crate) host: &'a str,
    /// Its port.
    pub(crate) port: u16,
    /// What is asked for; the host when absent.
    pub(crate) server_name: Option<&'a str>,
    /// Who may answer.
    pub(crate) policy: Arc<Policy>,
    /// What we show.
    pub(crate) identity: Option<&'a tls::Identity>,
    /// For both, the connection and the handshake.
    pub(crate) time_limit: Duration,
    /// The setting that the roots come from, for messages.
    pub(crate) roots: &'a str,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct DialError {
    pub(super) outcome: Outcome,
    text: String,
}

/// A proven connection, for one gRPC channel: when it breaks, the channel is broken, so that no other connection is made under it with
/// what is out of date.
pub(crate) struct Dialled(Option<TokioIo<TlsStream<TcpStream>>>);

/// Connects, shakes hands, verifies.
///
/// # Errors
/// With address and cause, and what to compare.
pub(crate) async fn dial(target: Target<'_>) -> Result<Dialled, DialError> {
    let failed = |outcome, text| DialError { outcome, text };
    let (address, limit) = (format!("{}:{}", target.host, target.port), target.time_limit);
    let late = |what| failed(Outcome::Timeout, format!("{address}: {what} within {limit:?}"));
    let asked = target.server_name.unwrap_or(target.host);
    let name = ServerName::try_from(asked.to_owned())
        .map_err(|_| failed(Outcome::Unreachable, format!("{asked:?} is no name to ask a server for")))?;
    let config = tls::outbound(target.policy, target.identity, b"h2")
        .map_err(|error| failed(Outcome::Unreachable, format!("{address}: {error}")))?;
    let connecting = TcpStream::connect((target.host, target.port));
    let stream = match tokio::time::timeout(limit, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(Outcome::Unreachable, format!("{address}: {error}"))),
        Err(_) => return Err(late("no connection")),
    };
    // Requests are small, and an answer is waited for.
    let _ = stream.set_nodelay(true);
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, stream);
    match tokio::time::timeout(limit, Box::pin(shaking)).await {
        Ok(Ok(stream)) => Ok(Dialled(Some(TokioIo::new(stream)))),
        Ok(Err(error)) => {
            let (text, untrusted) = tls::describe(&error);
            let outcome = if untrusted { Outcome::Untrusted } else { Outcome::Unreachable };
            let advice = match untrusted {
                true => {
                    format!("; compare {} with the authority that {address} shows for {asked}", target.roots)
                }
                false => String::new(),
            };
            Err(failed(outcome, format!("{address}: {text}{advice}")))
        }
        Err(_) => Err(late("no TLS handshake")),
    }
}

impl Service<Uri> for Dialled {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let ended = || io::Error::new(io::ErrorKind::NotConnected, "the connection has ended");
        std::future::ready(self.0.take().ok_or_else(ended))
    }
}
