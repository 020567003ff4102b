//! Sends one request to one endpoint over a pooled or new connection, and says what is known when that fails.
//!
//! D8 in one line: the pool itself sends a request again only when it was provably not processed.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::cluster::{AskFor, Cluster, Endpoint, Protocol, Security};
use crate::error::Reason;
use crate::message::{Body, BodyError, RequestHead, Response, Tunnel, Version};
use crate::tls;

mod checkout;
mod connect;
mod forward;
mod http1;
mod http2;
mod line;
mod pool;
mod tunnel;
mod watch;

pub(crate) use connect::{ConnectionClaim, ConnectionPlace, Opened, Want, connect};
pub(crate) use forward::Resolver;
pub(crate) use pool::Pools;
pub(crate) use watch::{Watch, Watched};

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// The cluster: its limits, time bounds and counters apply.
    pub(crate) cluster: Arc<Cluster>,
    /// The endpoint.
    pub(crate) endpoint: Arc<Endpoint>,
    /// The name to ask the endpoint for by TLS, where the request or the endpoint says it.
    server_name: Option<Arc<str>>,
    /// The TLS session of the connection that was taken, for the record.
    session: OnceCell<Arc<tls::Security>>,
}

impl Destination {
    /// Where a request goes.
    pub(crate) fn new(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>, head: &RequestHead) -> Self {
        let server_name = match cluster.sockets.of(&endpoint).map(|security| security.ask_for) {
            None | Some(AskFor::Configured) => None,
            Some(AskFor::Host) => endpoint.hostname.clone(),
            Some(AskFor::Authority) => {
                let host = head.authority.as_ref().map(|authority| authority.host());
                host.map(|host| host.trim_matches(['[', ']']).to_ascii_lowercase().into())
            }
        };
        Self { cluster, endpoint, server_name, session: OnceCell::new() }
    }

    /// What connections are secured with; `None` is plaintext.
    fn security(&self) -> Option<&Security> {
        self.cluster.sockets.of(&self.endpoint)
    }

    /// A connection was taken.
    fn took(&self, session: Option<&Arc<tls::Security>>) {
        // A second one, after the first was found to be closed, is of the same endpoint and the same credentials.
        let _ = session.is_some_and(|session| self.session.set(session.clone()).is_ok());
    }

    /// Whether the endpoint has shown an identity of the mesh, and we one to it: another proxy, as far as one can tell.
    pub(crate) fn is_mesh(&self) -> bool {
        self.session().is_some_and(|session| {
            session.own.is_some() && session.peer_id().is_some_and(|id| id.starts_with("spiffe://"))
        })
    }

    /// The TLS session of the connection that the request went out on, if there was one.
    pub(crate) fn session(&self) -> Option<&Arc<tls::Security>> {
        self.session.get()
    }
}

/// What is known of a request that failed before its response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processed {
    /// Nothing was sent: no connection, or it was closed before the first byte.
    NotSent,
    /// The endpoint said that it did not process it (REFUSED_STREAM, GOAWAY below its stream id).
    Refused,
    /// It may have been.
    Maybe,
}

/// A request that got no response head.
#[derive(Clone, Debug)]
pub(crate) struct SendError {
    /// Why.
    pub(crate) reason: Reason,
    /// Whether the endpoint may have acted on it.
    pub(crate) processed: Processed,
    /// It went out on a connection that had served others before: the endpoint may just have grown tired of it.
    pub(crate) reused: bool,
    /// For the operator.
    pub(crate) detail: String,
}

impl SendError {
    fn not_sent(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, processed: Processed::NotSent, reused: false, detail: detail.into() }
    }

    fn maybe(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, processed: Processed::Maybe, reused: false, detail: detail.into() }
    }

    /// The request's own body failed: the endpoint has got a part of it at most, and nobody waits for its answer.
    fn of_request_body(error: BodyError) -> Self {
        let reason = match error {
            BodyError::Malformed => Reason::BadRequest,
            BodyError::Reset | BodyError::Broken => Reason::DownstreamClosed,
        };
        Self::maybe(reason, format!("the request's body: {error}"))
    }
}

/// One try at sending a request; the head is borrowed, since another try may need it.
pub(crate) struct Attempt<'a> {
    /// The head.
    pub(crate) head: &'a RequestHead,
    /// The body.
    pub(crate) body: Body,
    /// Do not take a pooled connection: the last one was stale.
    pub(crate) fresh: bool,
    /// What the request asks for, when it is a tunnel; the body is left alone until it is there (R1).
    pub(crate) tunnel: Option<&'a Tunnel>,
}

/// Header fields, and trailer fields, that a response may have.
const MOST_FIELDS: usize = 200;

impl Pools {
    /// Sends a request and returns its response as soon as the head is there.
    pub(crate) async fn send(
        &self,
        destination: &Destination,
        attempt: Attempt<'_>,
    ) -> Result<Response, SendError> {
        let http2 = match destination.cluster.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Downstream => attempt.head.version == Version::Http2,
        };
        if let Some(tunnel) = attempt.tunnel {
            return Box::pin(self.open_tunnel(destination, attempt, tunnel, http2)).await;
        }
        if http2 {
            self.send_http2(destination, attempt).await
        } else {
            self.send_http1(destination, attempt).await
        }
    }
}
