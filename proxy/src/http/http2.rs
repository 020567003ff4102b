//! The server loop of one HTTP/2 connection: accept streams, one task each, until both sides are done.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{Reason as H2Reason, RecvStream};
use http::Method;
use tokio::sync::Notify;

use super::is_bodiless;
use crate::drain::Phase;
use crate::error::Reason;
use crate::exchange::{Downstream, Served, refuse, serve as serve_exchange};
use crate::http2::{Pump, PumpError, incoming, outgoing_response, request_head};
use crate::io::{Gathered, Io};
use crate::message::{Body, BodyError, Request, Response};
use crate::snapshot::Http;
use crate::timer;
use crate::worker::Worker;

/// Serves one connection to its end. `ahead` was read already and begins with the preface.
pub(super) async fn serve(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    http: &Http,
    io: Rc<Io>,
    ahead: BytesMut,
) {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(http.max_concurrent_streams)
        .max_header_list_size(u32::try_from(http.max_header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER);
    let handshake = builder.handshake(Gathered::new(io, ahead));
    let streams = Rc::new(Streams::default());
    let Ok(Ok(connection)) = timer::within(http.timeouts.headers, handshake).await else { return };
    accept(connection, worker, downstream, http, &streams).await;
}

type Transport = Connection<Gathered, Bytes>;

/// Accepts streams until the client closes, an idle bound passes, or the shutdown asks for an end: then GOAWAY, and what runs may finish.
async fn accept(
    mut connection: Transport,
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    http: &Http,
    streams: &Rc<Streams>,
) {
    let (mut drain, mut end) = (worker.drain.clone(), worker.drain.clone());
    let mut leaving = false;
    let mut accepted = 0_u32;
    loop {
        let busy = streams.open.get() > 0;
        let patience = if leaving { Some(FAREWELL) } else { http.timeouts.idle }.filter(|_| !busy);
        let next = tokio::select! {
            biased;
            next = timer::within(patience, connection.accept()) => next,
            // The idle bound runs from here.
            () = streams.changed.notified(), if busy => {
                if streams.is_flooded() {
                    calm(&mut connection).await;
                    return;
                }
                continue;
            }
            () = drain.reached(Phase::Draining), if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
                continue;
            }
            () = end.reached(Phase::Ended), if leaving => {
                connection.abrupt_shutdown(H2Reason::NO_ERROR);
                return;
            }
        };
        match next {
            Ok(Some(Ok((request, respond)))) => {
                accepted = accepted.saturating_add(1);
                let stream = Stream {
                    worker: worker.clone(),
                    downstream: downstream.clone(),
                    streams: streams.clone(),
                    respond,
                };
                stream.spawn(request, http.timeouts.stream_idle);
            }
            Ok(Some(Err(_)) | None) => return,
            // The client did not even answer our farewell.
            Err(timer::Elapsed) if leaving => return,
            Err(timer::Elapsed) => {
                leaving = true;
                connection.graceful_shutdown();
            }
        }
        if !leaving && http.max_requests_per_connection.is_some_and(|most| accepted >= most) {
            leaving = true;
            connection.graceful_shutdown();
        }
    }
}

/// Ends a connection that floods us.
async fn calm(connection: &mut Transport) {
    connection.abrupt_shutdown(H2Reason::ENHANCE_YOUR_CALM);
    // Only the farewell has yet to leave.
    let closed = poll_fn(|context| connection.poll_closed(context));
    let _ = timer::within(Some(FAREWELL), closed).await;
}

/// The streams of one connection that are being served.
#[derive(Default)]
struct Streams {
    open: Cell<usize>,
    /// The last one has ended, or there is a flood.
    changed: Notify,
    /// Streams that were answered, and that the client reset before that.
    answered: Cell<u32>,
    abandoned: Cell<u32>,
}

impl Streams {
    fn answered(&self) {
        self.answered.set(self.answered.get().saturating_add(1));
    }

    fn abandoned(&self) {
        self.abandoned.set(self.abandoned.get().saturating_add(1));
        if self.is_flooded() {
            self.changed.notify_one();
        }
    }

    /// Work is asked for in order to be thrown away (CVE-2023-44487): many resets, and more of them than answers, so that a connection
    /// that does useful work may also cancel as it likes (R6).
    fn is_flooded(&self) -> bool {
        self.abandoned.get() >= MOST_ABANDONED && self.abandoned.get() > self.answered.get()
    }
}

struct StreamCount {
    streams: Rc<Streams>,
}

impl StreamCount {
    fn new(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self { streams: streams.clone() }
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        let left = self.streams.open.get() - 1;
        self.streams.open.set(left);
        if left == 0 {
            self.streams.changed.notify_one();
        }
    }
}

/// One stream.
struct Stream {
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    streams: Rc<Streams>,
    respond: SendResponse<Bytes>,
}

impl Stream {
    fn spawn(self, request: http::Request<RecvStream>, idle: Option<Duration>) {
        let count = StreamCount::new(&self.streams);
        tokio::task::spawn_local(async move {
            self.serve(request, idle).await;
            drop(count);
        });
    }

    async fn serve(mut self, request: http::Request<RecvStream>, idle: Option<Duration>) {
        let (parts, stream) = request.into_parts();
        let method = parts.method.clone();
        let served = match request_head(parts) {
            Err(error) => {
                let detail = Some(error.to_string());
                refuse(&self.worker, &self.downstream, None, Reason::BadRequest, detail)
            }
            // A tunnel over one stream is not served yet; the answer says so rather than half-working.
            Ok(head) if method == Method::CONNECT => {
                refuse(&self.worker, &self.downstream, Some(head), Reason::UpgradeRefused, None)
            }
            Ok(mut head) => {
                // What the transport is, whatever the client calls it.
                head.scheme = self.downstream.scheme;
                let body = incoming(stream, &mut head.headers, || (), None);
                let Some(served) = self.run_exchange(Request { head, body }).await else {
                    return self.streams.abandoned();
                };
                served
            }
        };
        self.streams.answered();
        self.send(served, &method, idle).await;
    }

    /// Runs the exchange, unless the client resets the stream before it is done.
    async fn run_exchange(&mut self, request: Request) -> Option<Served> {
        let mut exchange = pin!(serve_exchange(&self.worker, &self.downstream, request));
        let respond = &mut self.respond;
        poll_fn(|context| {
            if let Poll::Ready(served) = exchange.as_mut().poll(context) {
                return Poll::Ready(Some(served));
            }
            respond.poll_reset(context).map(|_| None)
        })
        .await
    }

    async fn send(mut self, served: Served, method: &Method, idle: Option<Duration>) {
        let Served { response: Response { head, body }, ending, idle: own_idle, .. } = served;
        let idle = own_idle.or(idle);
        let body = if is_bodiless(method, head.status) { Body::Empty } else { body };
        let end = body.is_empty();
        let Ok(stream) = self.respond.send_response(outgoing_response(head, &body), end) else {
            ending.finish(0, None, Some(Reason::DownstreamClosed));
            return;
        };
        if end {
            ending.finish(0, None, None);
            return;
        }
        let mut pump = Pump::new(body, stream);
        let cut = send_body(&mut pump, idle).await;
        ending.finish(pump.sent, pump.grpc_status, cut);
    }
}

/// Sends the body; returns why it was cut, if it was. The idle bound is on progress, not on the whole.
async fn send_body(pump: &mut Pump, idle: Option<Duration>) -> Option<Reason> {
    loop {
        let before = pump.sent;
        match timer::within(idle, poll_fn(|context| pump.poll(context))).await {
            Ok(Ok(())) => return None,
            Ok(Err(PumpError::Peer)) => return Some(Reason::DownstreamClosed),
            Ok(Err(PumpError::Body(BodyError::Timeout))) => return Some(Reason::RequestTimeout),
            Ok(Err(PumpError::Body(_))) => return Some(Reason::UpstreamBodyReset),
            Err(timer::Elapsed) if pump.sent == before => {
                pump.reset();
                return Some(Reason::IdleTimeout);
            }
            Err(timer::Elapsed) => {}
        }
    }
}

const STREAM_WINDOW: u32 = 256 * 1024;
/// Uploads that stall must not hold up the others of the connection: in a mesh, one connection carries many clients.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Streams that a client may reset before they are answered, when those are most of its streams. Envoy allows 500.
const MOST_ABANDONED: u32 = 200;
/// How long a connection that was told to end, and serves nothing, may take to do so.
const FAREWELL: Duration = Duration::from_secs(30);
/// Bytes of responses held for a client that does not read.
const SEND_BUFFER: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_a_flood_only_where_they_are_most_of_it() {
        let streams = Streams::default();
        (0..MOST_ABANDONED - 1).for_each(|_| streams.abandoned());
        assert!(!streams.is_flooded());
        streams.abandoned();
        assert!(streams.is_flooded());
        (0..MOST_ABANDONED).for_each(|_| streams.answered());
        assert!(!streams.is_flooded());
    }
}
