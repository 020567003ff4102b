//! Shared HTTP/2 connections to an endpoint: several when busy, evicted as soon as they are closed or going away (D8).

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::Method;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect::{ConnectionClaim, Opened};
use super::pool::Pools;
use super::{Attempt, Destination, MOST_FIELDS, Processed, SendError};
use crate::cluster::Keep;
use crate::error::Reason;
use crate::http2::{
    Guard, Guarded, Options, Pump, PumpError, incoming, is_local, keep_alive, outgoing_request,
    response_head, watch_silence,
};
use crate::io::Gathered;
use crate::message::{Body, Response};
use crate::tls;

mod checkout;
mod stream;

use checkout::MAX_CONNECTIONS;
use stream::{Farewells, StreamClaim};

/// One shared connection.
#[derive(Clone)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    state: Rc<State>,
}

#[derive(Debug)]
struct State {
    /// What passes by, and the requests in flight.
    guard: Rc<Guard>,
    /// Its TLS session.
    session: Option<Arc<tls::Security>>,
    farewells: Farewells,
    /// A stream has ended: another may begin.
    freed: Rc<Notify>,
    /// Asks the endpoint whether it is there.
    probe: Notify,
    /// Streams that may share the connection, by configuration.
    most: usize,
    /// It did not answer a ping.
    dead: Cell<bool>,
    /// The connection's task has ended, or it is not to be used for new requests.
    closed: Cell<bool>,
    made: Instant,
    /// Requests that were given a place on it.
    begun: Cell<u32>,
    idle_since: Cell<Instant>,
    /// When the last response began: before that, nothing is known of the other end.
    heard: Cell<Option<Instant>>,
}

impl Connection {
    /// Whether it can take no more requests, or has been idle for long.
    pub(super) fn is_closed(&self, now: Instant, keep: &Keep) -> bool {
        let state = &self.state;
        let idle = || {
            let limit = keep.idle.or(IDLE_LIMIT);
            // A new one waits for the request that it was made for.
            let limit = if state.begun.get() == 0 { limit.max(LEAST_IDLE) } else { limit };
            state.guard.active() == 0 && now.duration_since(state.idle_since.get()) > limit
        };
        state.closed.get() || idle() || keep.is_over(now.duration_since(state.made), state.begun.get())
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
            let Connection { sender, state } = self.checkout_http2(destination).await?;
            let Ok(mut sender) = sender.ready().await else {
                state.closed.set(true);
                continue;
            };
            let head = outgoing_request(attempt.head, &attempt.body)
                .map_err(|error| SendError::not_sent(Reason::BadRequest, error.to_string()))?;
            let (response, stream) = match sender.send_request(head, end) {
                Ok(sent) => sent,
                // It was ready just now: what is wrong is the request that we made, and the connection is everybody's.
                Err(error) if is_local(&error) => return Err(unsendable(&error)),
                Err(_) => {
                    state.closed.set(true);
                    continue;
                }
            };
            destination.took(state.session.as_ref());
            state.probe_if_idle(&destination.cluster.http2);
            let claim = StreamClaim::new(state);
            claim.hold(response);
            let pump = (!end).then(|| Pump::upload(attempt.body, stream));
            return receive(pump, claim, &method).await;
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
        if !allows_tunnels(&sender, &connection.state.guard, destination.cluster.connect_timeout).await {
            let detail = "the endpoint does not take extended CONNECT (RFC 8441)";
            return Err(SendError::not_sent(Reason::UpstreamProtocolError, detail));
        }
        let (response, mut stream) =
            sender.send_request(head, false).map_err(|error| match is_local(&error) {
                true => unsendable(&error),
                false => failed(&error),
            })?;
        destination.took(connection.state.session.as_ref());
        let claim = StreamClaim::new(connection.state);
        claim.hold(response);
        let answer = poll_fn(|context| claim.poll_response(context)).await;
        let (parts, received) = answer.map_err(|error| failure(&error, &claim))?.into_parts();
        claim.answered();
        let mut head = response_head(parts);
        let upload = if head.status.is_success() {
            Some(Pump::new(attempt.body, stream))
        } else {
            // No tunnel: there is nothing to send.
            let _ = stream.send_data(Bytes::new(), true);
            None
        };
        let body = incoming(received, &mut head.headers, MOST_FIELDS, ending(claim), upload);
        Ok(Response { head, body })
    }
}

/// Speaks HTTP/2 on a connection, by a task that lasts as long as it.
async fn start(
    opened: Opened,
    claim: ConnectionClaim,
    options: Options,
    freed: Rc<Notify>,
) -> Result<Connection, SendError> {
    let Opened { io, session } = opened;
    let guard = Rc::new(Guard::new(options.budgets, false));
    let io = Guarded::new(Gathered::new(Rc::new(io), BytesMut::new()), guard.clone(), None);
    let (sender, connection) = settings(&options)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(|error| SendError::not_sent(Reason::ConnectFailure, error.to_string()))?;
    let state = Rc::new(State {
        guard,
        session,
        farewells: Farewells::default(),
        freed,
        probe: Notify::new(),
        most: options.max_concurrent_streams.map_or(usize::MAX, |most| most as usize),
        dead: Cell::new(false),
        closed: Cell::new(false),
        made: Instant::now(),
        begun: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        heard: Cell::new(None),
    });
    let task_state = state.clone();
    tokio::task::spawn_local(async move {
        drive(connection, &task_state, &options).await;
        task_state.closed.set(true);
        task_state.freed.notify_waiters();
        drop(claim);
    });
    Ok(Connection { sender, state })
}

fn settings(options: &Options) -> h2::client::Builder {
    let shared = options.max_concurrent_streams.unwrap_or(STREAMS_BEFORE_ANOTHER as u32);
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(options.stream_window)
        // As many streams as share a connection may each fill their window: clients that do not read must not hold up the others.
        .initial_connection_window_size(options.connection_window(shared))
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(64 * 1024)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(None);
    if let Some(bytes) = options.table_bytes {
        builder.header_table_size(bytes);
    }
    builder
}

type Transport = h2::client::Connection<Guarded, Bytes>;

/// Runs a connection until either end closes it, or the other end is found dead or hostile.
async fn drive(mut connection: Transport, state: &State, options: &Options) {
    let pings = connection.ping_pong();
    let alive = async {
        match (pings, options.keepalive) {
            (Some(pings), Some(keepalive)) => {
                keep_alive(pings, keepalive, &state.probe, rand::random).await;
            }
            (Some(pings), None) => watch_silence(pings, state.guard.clone()).await,
            (None, _) => std::future::pending().await,
        }
    };
    let settled = async {
        loop {
            state.guard.settled().await;
            state.freed.notify_waiters();
        }
    };
    tokio::select! {
        biased;
        () = settled => {}
        // Why it ended is told to each stream; the pool only needs to know that it did.
        _ = connection => {}
        cut = state.guard.tripped() => tracing::warn!("an HTTP/2 connection to an endpoint is cut: {cut}"),
        () = alive => state.dead.set(true),
        () = state.farewells.run() => {}
    }
}

/// What is called when a response's body has ended, or is dropped before that.
fn ending(claim: StreamClaim) -> impl FnOnce(bool) + 'static {
    move |ended| {
        if ended {
            claim.ended();
        }
    }
}

impl State {
    /// Asks whether the endpoint is there when the connection has been idle for long (`connection_idle_interval`).
    fn probe_if_idle(&self, options: &Options) {
        let idle = options.keepalive.and_then(|keepalive| keepalive.idle);
        if self.guard.active() == 0 && idle.is_some_and(|idle| self.idle_since.get().elapsed() > idle) {
            self.probe.notify_one();
        }
    }
}

/// Whether the endpoint has said that streams may be tunnels. On a new connection, that is still on its way.
async fn allows_tunnels(sender: &SendRequest<Bytes>, guard: &Guard, patience: Duration) -> bool {
    let said = async {
        while !sender.is_extended_connect_protocol_enabled() {
            guard.settled().await;
        }
    };
    tokio::time::timeout(patience.min(SETTINGS_WAIT), said).await.is_ok()
}

async fn receive(mut pump: Option<Pump>, claim: StreamClaim, method: &Method) -> Result<Response, SendError> {
    let received = poll_fn(|context| {
        if let Some(sending) = &mut pump
            && let Poll::Ready(end) = sending.poll(context)
        {
            pump = None;
            if let Err(PumpError::Body(error)) = end {
                return Poll::Ready(Err(SendError::of_request_body(error)));
            }
        }
        claim.poll_response(context).map_err(|error| failure(&error, &claim))
    });
    let (parts, stream) = received.await?.into_parts();
    claim.answered();
    let mut head = response_head(parts);
    // What answers HEAD, and 304, announces a length that no body follows.
    let bodiless = *method == Method::HEAD || head.status == http::StatusCode::NOT_MODIFIED;
    if bodiless {
        if stream.is_end_stream() {
            claim.ended();
        }
        return Ok(Response { head, body: Body::Empty });
    }
    let body = incoming(stream, &mut head.headers, MOST_FIELDS, ending(claim), pump);
    Ok(Response { head, body })
}

/// A request that the h2 crate does not take: a defect of ours, which another attempt would only repeat.
fn unsendable(error: &h2::Error) -> SendError {
    SendError::not_sent(Reason::Internal, format!("the request cannot be sent over HTTP/2: {error}"))
}

fn failure(error: &h2::Error, claim: &StreamClaim) -> SendError {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // h2 fails a stream with the peer's GOAWAY only when its id is above the last one that the peer processed.
    let beyond_goaway = error.is_go_away() && error.is_remote();
    if error.is_go_away() || error.is_io() {
        claim.state.closed.set(true);
    }
    // Our own GOAWAY says that the endpoint broke the protocol, not that it closed.
    let left = beyond_goaway || error.is_io();
    let processed = if refused || beyond_goaway { Processed::Refused } else { Processed::Maybe };
    // A connection that has served others may just have been closed for its age, and refuses what comes meanwhile; a stream that the
    // endpoint resets is another matter.
    let dead = claim.state.dead.get();
    let reused = dead || claim.state.heard.get().is_some() && (refused || left);
    // Whatever ended it, there is nothing left to reset.
    claim.ended();
    let detail = match dead {
        true => "HTTP/2: the endpoint was silent and did not answer a ping".to_owned(),
        false => format!("HTTP/2: {error}"),
    };
    let reason = if error.is_library() { Reason::UpstreamProtocolError } else { Reason::UpstreamReset };
    SendError { reason, processed, reused, detail }
}

/// How long a request for a tunnel waits for the endpoint's SETTINGS.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);
/// Streams on every connection after which another one is opened.
const STREAMS_BEFORE_ANOTHER: usize = 100;
/// How often a request looks for a connection before it gives up.
const CHECKOUTS: usize = MAX_CONNECTIONS + 2;
/// An unused connection is closed after this.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// The least of it for a connection that has served nobody.
const LEAST_IDLE: Duration = Duration::from_secs(1);
/// Bytes of one stream held for an endpoint that does not read.
const SEND_BUFFER: usize = 64 * 1024;
const MAX_FRAME: u32 = 64 * 1024;
