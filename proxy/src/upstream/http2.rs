//! Shared HTTP/2 connections to an endpoint: several when busy, evicted as soon as they are closed or going away (D8).

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use http::Method;
use tokio::time::Instant;

use super::connect::{ConnectionPlace, Want, connect};
use super::pool::{PendingClaim, Pool, Pools};
use super::{Attempt, Destination, Processed, SendError};
use crate::error::Reason;
use crate::http2::{Pump, PumpError, incoming, outgoing_request, response_head};
use crate::io::Gathered;
use crate::message::{Body, Response};

/// One shared connection.
#[derive(Clone)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    state: Rc<State>,
}

struct State {
    /// Requests in flight on it.
    streams: Cell<usize>,
    /// The connection's task has ended, or it is not to be used for new requests.
    closed: Cell<bool>,
    idle_since: Cell<Instant>,
    /// When the last response began: before that, nothing is known of the other end.
    heard: Cell<Option<Instant>>,
}

impl Connection {
    /// Whether it can take no more requests, or has been idle for long.
    pub(super) fn is_closed(&self, now: Instant) -> bool {
        let idle = self.state.streams.get() == 0;
        self.state.closed.get() || (idle && now.duration_since(self.state.idle_since.get()) > IDLE_LIMIT)
    }
}

impl Pools {
    pub(super) async fn send_http2(
        &self,
        destination: &Destination,
        attempt: Attempt<'_>,
    ) -> Result<Response, SendError> {
        let method = attempt.head.method.clone();
        let end = attempt.body.is_empty();
        // A pooled connection may turn out to be closed; that costs nothing but another look.
        for _ in 0..CHECKOUTS {
            let connection = self.checkout_http2(destination).await?;
            let Ok(mut sender) = connection.sender.clone().ready().await else {
                connection.state.closed.set(true);
                continue;
            };
            let head = outgoing_request(attempt.head, &attempt.body)
                .map_err(|error| SendError::not_sent(Reason::BadRequest, error.to_string()))?;
            let Ok((response, stream)) = sender.send_request(head, end) else {
                connection.state.closed.set(true);
                continue;
            };
            let claim = StreamClaim::new(connection.state);
            let pump = (!end).then(|| Pump::new(attempt.body, stream));
            return receive(response, pump, claim, &method).await;
        }
        let detail = "every HTTP/2 connection closed before it could be used";
        Err(SendError { reused: true, ..SendError::not_sent(Reason::ConnectFailure, detail) })
    }

    /// Extended CONNECT (RFC 8441): the stream becomes a tunnel once the endpoint has answered 2xx. Nothing but the head is sent before.
    pub(super) async fn connect_http2(
        &self,
        destination: &Destination,
        attempt: Attempt<'_>,
        protocol: &str,
    ) -> Result<Response, SendError> {
        let mut head = outgoing_request(attempt.head, &Body::Empty)
            .map_err(|error| SendError::not_sent(Reason::BadRequest, error.to_string()))?;
        *head.method_mut() = Method::CONNECT;
        head.extensions_mut().insert(h2::ext::Protocol::from(protocol));
        let connection = self.checkout_http2(destination).await?;
        let failed = |error: &h2::Error| SendError::not_sent(Reason::UpstreamReset, error.to_string());
        let mut sender = connection.sender.clone().ready().await.map_err(|error| failed(&error))?;
        if !allows_tunnels(&sender, destination.cluster.connect_timeout).await {
            let detail = "the endpoint does not take extended CONNECT (RFC 8441)";
            return Err(SendError::not_sent(Reason::UpstreamProtocolError, detail));
        }
        let (response, mut stream) = sender.send_request(head, false).map_err(|error| failed(&error))?;
        let claim = StreamClaim::new(connection.state);
        let (parts, received) = response.await.map_err(|error| failure(&error, &claim))?.into_parts();
        claim.answered();
        let mut head = response_head(parts);
        let upload = if head.status.is_success() {
            Some(Pump::new(attempt.body, stream))
        } else {
            // No tunnel: there is nothing to send.
            let _ = stream.send_data(Bytes::new(), true);
            None
        };
        let body = incoming(received, &mut head.headers, move || drop(claim), upload);
        Ok(Response { head, body })
    }

    async fn checkout_http2(&self, destination: &Destination) -> Result<Connection, SendError> {
        let pool = self.of(destination);
        loop {
            let best = pool.least_busy();
            let busy = best.as_ref().is_none_or(|connection| {
                let limit = connection.sender.current_max_send_streams().min(STREAMS_BEFORE_ANOTHER);
                connection.state.streams.get() >= limit
            });
            let connections = pool.shared.borrow().len();
            let may_open = connections < MAX_CONNECTIONS && !pool.connecting.get();
            let best = match best {
                Some(best) if !busy || !may_open => return Ok(best),
                best => best,
            };
            if !pool.connecting.get() {
                return match (ConnectionPlace::take(&destination.cluster, best.is_none()), best) {
                    // Boxed: every request would carry the room that making a connection needs.
                    (Some(place), _) => Box::pin(self.open_http2(destination, &pool, place)).await,
                    // At the bound on connections, streams share what there is.
                    (None, Some(best)) => Ok(best),
                    (None, None) => continue,
                };
            }
            let _waiting = PendingClaim::new(&destination.cluster)?;
            let failures = pool.failures.get();
            pool.changed.notified().await;
            if pool.failures.get() != failures {
                // One bound of time for all who wait: not one after the other against an address that does not answer.
                let (reason, detail) = &*pool.failure.borrow();
                return Err(SendError::not_sent(*reason, detail.clone()));
            }
        }
    }

    async fn open_http2(
        &self,
        destination: &Destination,
        pool: &Rc<Pool>,
        place: ConnectionPlace,
    ) -> Result<Connection, SendError> {
        let _connecting = Connecting::new(pool);
        let cluster = &destination.cluster;
        let want = Want { protocol: Some(b"h2"), server_name: destination.server_name.as_deref() };
        let connected = connect(cluster, &destination.endpoint, want, &self.recorder).await;
        let io = connected.inspect_err(|error| {
            pool.failures.set(pool.failures.get() + 1);
            pool.failure.replace((error.reason, error.detail.clone()));
        })?;
        let claim = place.opened(&self.recorder);
        let io = Gathered::new(Rc::new(io), BytesMut::new());
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(64 * 1024)
            .max_send_buffer_size(256 * 1024);
        let (sender, connection) = builder
            .handshake::<_, Bytes>(io)
            .await
            .map_err(|error| SendError::not_sent(Reason::ConnectFailure, error.to_string()))?;
        let state = Rc::new(State {
            streams: Cell::new(0),
            closed: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            heard: Cell::new(None),
        });
        let task_state = state.clone();
        tokio::task::spawn_local(async move {
            // Why it ended is told to each stream; the pool only needs to know that it did.
            let _ = connection.await;
            task_state.closed.set(true);
            drop(claim);
        });
        let connection = Connection { sender, state };
        pool.shared.borrow_mut().push(connection.clone());
        Ok(connection)
    }
}

impl Pool {
    fn least_busy(&self) -> Option<Connection> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| !connection.state.closed.get());
        shared.iter().min_by_key(|connection| connection.state.streams.get()).cloned()
    }
}

/// Only one connection to an endpoint is being made at a time; the others wait until this is dropped.
struct Connecting<'a> {
    pool: &'a Pool,
}

impl<'a> Connecting<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.connecting.set(true);
        Self { pool }
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.pool.connecting.set(false);
        self.pool.changed.notify_waiters();
    }
}

/// Whether the endpoint has said that streams may be tunnels. On a new connection, that is still on its way.
async fn allows_tunnels(sender: &SendRequest<Bytes>, patience: Duration) -> bool {
    let said = async {
        // The crate tells nobody when SETTINGS arrive.
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(SETTINGS_LOOK).await;
        }
    };
    tokio::time::timeout(patience.min(SETTINGS_WAIT), said).await.is_ok()
}

async fn receive(
    mut response: ResponseFuture,
    mut pump: Option<Pump>,
    claim: StreamClaim,
    method: &Method,
) -> Result<Response, SendError> {
    let received = poll_fn(|context| {
        if let Some(sending) = &mut pump
            && let Poll::Ready(end) = sending.poll(context)
        {
            pump = None;
            if let Err(PumpError::Body(error)) = end {
                return Poll::Ready(Err(SendError::of_request_body(error)));
            }
        }
        std::pin::Pin::new(&mut response).poll(context).map_err(|error| failure(&error, &claim))
    });
    let (parts, stream) = received.await?.into_parts();
    claim.answered();
    let mut head = response_head(parts);
    // What answers HEAD, and 304, announces a length that no body follows.
    let bodiless = *method == Method::HEAD || head.status == http::StatusCode::NOT_MODIFIED;
    if bodiless {
        return Ok(Response { head, body: Body::Empty });
    }
    let body = incoming(stream, &mut head.headers, move || drop(claim), pump);
    Ok(Response { head, body })
}

fn failure(error: &h2::Error, claim: &StreamClaim) -> SendError {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // h2 fails a stream with the peer's GOAWAY only when its id is above the last one that the peer processed.
    let beyond_goaway = error.is_go_away() && error.is_remote();
    if error.is_go_away() || error.is_io() {
        claim.state.closed.set(true);
    }
    let processed = if refused || beyond_goaway { Processed::Refused } else { Processed::Maybe };
    // A connection that has served others may just have been closed for its age; a stream that the endpoint resets is another matter.
    let reused = claim.state.heard.get().is_some() && (error.is_go_away() || error.is_io());
    SendError { reason: Reason::UpstreamReset, processed, reused, detail: format!("HTTP/2: {error}") }
}

/// A request's place among the streams of its connection.
struct StreamClaim {
    state: Rc<State>,
    sent: Instant,
    answered: Cell<bool>,
}

impl StreamClaim {
    fn new(state: Rc<State>) -> Self {
        state.streams.set(state.streams.get() + 1);
        Self { state, sent: Instant::now(), answered: Cell::new(false) }
    }

    /// The response has begun.
    fn answered(&self) {
        self.answered.set(true);
        self.state.heard.set(Some(Instant::now()));
    }
}

impl Drop for StreamClaim {
    fn drop(&mut self) {
        self.state.streams.set(self.state.streams.get() - 1);
        let now = Instant::now();
        self.state.idle_since.set(now);
        // Given up on, and no other request was answered since it was sent: the other end may be gone without a word. What follows goes
        // over another connection.
        let heard = self.state.heard.get().is_some_and(|heard| heard > self.sent);
        if !self.answered.get() && !heard && now.duration_since(self.sent) > SILENCE {
            self.state.closed.set(true);
        }
    }
}

/// How long a request for a tunnel waits for the endpoint's SETTINGS, and how often it looks.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);
const SETTINGS_LOOK: Duration = Duration::from_millis(5);
/// Streams on every connection after which another one is opened.
const STREAMS_BEFORE_ANOTHER: usize = 100;
/// Connections to one endpoint from one worker.
const MAX_CONNECTIONS: usize = 4;
/// How often a request looks for a connection before it gives up.
const CHECKOUTS: usize = MAX_CONNECTIONS + 2;
/// A request that was given up after so long says something about its connection.
const SILENCE: Duration = Duration::from_secs(1);
/// An unused connection is closed after this.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
const STREAM_WINDOW: u32 = 256 * 1024;
/// As many streams as share a connection may each fill their window: clients that do not read must not hold up the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_BEFORE_ANOTHER as u32;
const MAX_FRAME: u32 = 64 * 1024;
