//! The server loop of one HTTP/2 connection: accept streams, one task each, until both sides are done.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::ext::Protocol;
use h2::server::{Connection, SendResponse};
use h2::{Reason as H2Reason, RecvStream};
use http::{Method, StatusCode};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::is_bodiless;
use crate::drain::Phase;
use crate::error::Reason;
use crate::exchange::{Downstream, Ending, MOMENT, Served, refuse, serve as serve_exchange};
use crate::http2::{
    Budgets, Cut, Guard, Guarded, HeadBounds, Incoming, Keepalive, Pump, PumpError, Refused,
    incoming_request, is_local, keep_alive, outgoing_response, request_head,
};
use crate::io::{Gathered, Io};
use crate::message::{Body, BodyError, Request, Response, Tunnel};
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
    let budgets = Budgets { header_bytes: http.max_header_bytes, ..http.http2.budgets };
    let streams = Rc::new(Streams::new(Guard::new(budgets, true)));
    let guarded =
        Guarded::new(Gathered::new(io.clone(), ahead), streams.guard.clone(), http.timeouts.headers);
    let handshake = pin!(settings(http).handshake(guarded));
    let Ok(Ok(connection)) = timer::within(http.timeouts.headers, handshake).await else { return };
    let ended = accept(connection, worker.clone(), downstream.clone(), http, &streams).await;
    if let Err(reason) = ended {
        worker.recorder.connection_cut(reason);
        linger(&io).await;
    }
}

fn settings(http: &Http) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(http.http2.stream_window)
        // Uploads that stall must not hold up the others of the connection: in a mesh, one connection carries many clients.
        .initial_connection_window_size(http.http2.connection_window(http.max_concurrent_streams))
        .max_concurrent_streams(http.max_concurrent_streams)
        // A little above our own bound: what is just over it gets an answer with a reason, and a record.
        .max_header_list_size(u32::try_from(http.max_header_bytes + HEADER_MARGIN).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        // Frames for streams that we ended early may be on their way for as many as may be open.
        .max_concurrent_reset_streams(http.max_concurrent_streams.clamp(50, 1_000) as usize)
        // The guard counts these two, and forgets with time; for a lifetime, or for what one read brings, they would end honest
        // connections: a browser that leaves a page gives up on all its streams at once.
        .max_local_error_reset_streams(None)
        .max_pending_accept_reset_streams(http.max_concurrent_streams.max(100) as usize);
    if let Some(bytes) = http.http2.table_bytes {
        builder.header_table_size(bytes);
    }
    if http.extended_connect {
        builder.enable_connect_protocol();
    }
    builder
}

type Transport = Connection<Guarded, Bytes>;

/// Accepts streams until the client closes, an idle bound passes, or the shutdown asks for an end: then GOAWAY, and what runs may finish.
/// The error says why we ended the connection ourselves.
async fn accept(
    mut connection: Transport,
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    http: &Http,
    streams: &Rc<Streams>,
) -> Result<(), Reason> {
    let _keepalive =
        http.http2.keepalive.and_then(|keepalive| Pinging::start(&mut connection, keepalive, streams));
    let mut end = worker.drain.clone();
    let (mut leaving, mut accepted): (Option<Instant>, _) = (None, 0_u32);
    let mut aged = pin!(super::after(http.timeouts.connection));
    loop {
        let busy = streams.guard.active() > 0;
        let patience = if leaving.is_some() { Some(FAREWELL) } else { http.timeouts.idle }.filter(|_| !busy);
        let next = tokio::select! {
            biased;
            next = timer::within(patience, poll_fn(|context| connection.poll_accept(context))) => next,
            cut = streams.guard.tripped() => return Err(calm(&mut connection, &downstream, cut).await),
            // The idle bound runs from here.
            () = streams.changed.notified(), if busy => continue,
            () = asked_to_end(&downstream, busy, aged.as_mut()), if leaving.is_none() => {
                leaving = Some(Instant::now());
                connection.graceful_shutdown();
                continue;
            }
            () = end.reached(Phase::Ended), if leaving.is_some() => {
                connection.abrupt_shutdown(H2Reason::NO_ERROR);
                return Ok(());
            }
        };
        match next {
            Ok(Some(Ok((_, mut respond)))) if leaving.is_some_and(|since| since.elapsed() >= STRAGGLERS) => {
                // The last word about which streams are served waits for a ping of ours to be answered, which nobody must do.
                respond.send_reset(H2Reason::REFUSED_STREAM);
            }
            Ok(Some(Ok((request, respond)))) => {
                accepted = accepted.saturating_add(1);
                let bounds = HeadBounds { bytes: http.max_header_bytes, fields: http.max_header_count };
                let (worker, downstream) = (worker.clone(), downstream.clone());
                let stream = Stream { worker, downstream, streams: streams.clone(), bounds, respond };
                stream.spawn(request, http.timeouts.stream_idle);
            }
            Ok(Some(Err(error))) => return broken(&error, &downstream),
            Ok(None) => return Ok(()),
            // The client did not even answer our farewell.
            Err(timer::Elapsed) if leaving.is_some() => return Ok(()),
            Err(timer::Elapsed) => {
                leaving = Some(Instant::now());
                connection.graceful_shutdown();
            }
        }
        if leaving.is_none() && http.max_requests_per_connection.is_some_and(|most| accepted >= most) {
            leaving = Some(Instant::now());
            connection.graceful_shutdown();
        }
    }
}

/// Why the h2 crate ended the connection, if it was for something that the client did.
fn broken(error: &h2::Error, downstream: &Downstream) -> Result<(), Reason> {
    if !error.is_go_away() || !error.is_library() {
        return Ok(());
    }
    tracing::warn!(client = %downstream.connection.peer, "an HTTP/2 connection is cut: {error}");
    match error.reason() {
        Some(H2Reason::ENHANCE_YOUR_CALM) => Err(Reason::DownstreamFlood),
        _ => Err(Reason::DownstreamProtocolError),
    }
}

/// Until the connection should end, for its age too; one that serves nothing also for want of memory.
async fn asked_to_end(downstream: &Downstream, busy: bool, aged: Pin<&mut impl Future<Output = ()>>) {
    let asked = async { if busy { downstream.leaving().await } else { downstream.unwelcome().await } };
    tokio::select! {
        () = asked => {}
        () = aged => {}
    }
}

/// Ends a connection that floods us.
async fn calm(connection: &mut Transport, downstream: &Downstream, cut: Cut) -> Reason {
    tracing::warn!(client = %downstream.connection.peer, "an HTTP/2 connection is cut: {cut}");
    connection.abrupt_shutdown(H2Reason::ENHANCE_YOUR_CALM);
    // Only the farewell has yet to leave.
    let closed = poll_fn(|context| connection.poll_closed(context));
    let _ = timer::within(Some(LINGER), closed).await;
    Reason::DownstreamFlood
}

/// Takes what is still coming, for a moment: closing over unread bytes resets the connection, and the client would not learn why.
async fn linger(io: &Io) {
    let mut left = MOST_LINGERED;
    let draining = pin!(async {
        let mut scrap = BytesMut::new();
        while left > 0 {
            scrap.clear();
            scrap.reserve(LINGER_READ);
            match poll_fn(|context| io.poll_read(context, &mut scrap)).await {
                Ok(count @ 1..) => left = left.saturating_sub(count),
                _ => return,
            }
        }
    });
    let _ = timer::within(Some(LINGER), draining).await;
}

/// The streams of one connection that are being served.
struct Streams {
    /// The last one has ended.
    changed: Notify,
    guard: Rc<Guard>,
}

impl Streams {
    fn new(guard: Guard) -> Self {
        Self { changed: Notify::new(), guard: Rc::new(guard) }
    }
}

/// Pings the client while it lives.
struct Pinging {
    task: tokio::task::JoinHandle<()>,
}

impl Pinging {
    fn start(connection: &mut Transport, keepalive: Keepalive, streams: &Streams) -> Option<Self> {
        let (pings, guard) = (connection.ping_pong()?, streams.guard.clone());
        let task = tokio::task::spawn_local(async move {
            keep_alive(pings, keepalive, &Notify::new(), rand::random).await;
            guard.trip(Cut::Silent);
        });
        Some(Self { task })
    }
}

impl Drop for Pinging {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct StreamCount {
    streams: Rc<Streams>,
}

impl StreamCount {
    fn new(streams: &Rc<Streams>) -> Self {
        streams.guard.set_active(streams.guard.active() + 1);
        Self { streams: streams.clone() }
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        let left = self.streams.guard.active() - 1;
        self.streams.guard.set_active(left);
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
    bounds: HeadBounds,
    respond: SendResponse<Bytes>,
}

impl Stream {
    fn spawn(self, request: http::Request<RecvStream>, idle: Option<Duration>) {
        let count = StreamCount::new(&self.streams);
        // Boxed: the runtime moves a task several times, the last time when it has ended.
        tokio::task::spawn_local(Box::pin(self.serve(request, idle, count)));
    }

    /// `_count` goes with the future.
    async fn serve(
        mut self,
        request: http::Request<RecvStream>,
        idle: Option<Duration>,
        _count: StreamCount,
    ) {
        let (mut parts, stream) = request.into_parts();
        let method = parts.method.clone();
        let started = Instant::now();
        let tunnel = tunnel_of(&mut parts);
        let served = match request_head(parts, self.bounds) {
            Err(refused) => {
                let Refused { error, mut head } = *refused;
                head.scheme = self.downstream.scheme;
                let detail = Some(error.to_string());
                refuse(&self.worker, &self.downstream, Some(head), error.reason(), detail)
            }
            Ok(Incoming { mut head, expects_continue }) => {
                // What the transport is, whatever the client calls it.
                head.scheme = self.downstream.scheme;
                if self.was_reset().await {
                    // Only the record: what nobody waits for is not begun.
                    drop(refuse(&self.worker, &self.downstream, Some(head), Reason::DownstreamClosed, None));
                    return;
                }
                if expects_continue && !stream.is_end_stream() {
                    // Content waits in its window, not on the wire: it may as well come (RFC 9110 §10.1.1).
                    self.send_continue();
                }
                let body = incoming_request(stream, &mut head.headers, self.bounds.fields);
                let Some(served) = self.run_exchange(&mut Request { head, body, tunnel }).await else {
                    if started.elapsed() >= PATIENT {
                        self.streams.guard.answered();
                    }
                    return;
                };
                served
            }
        };
        self.streams.guard.answered();
        self.send(served, &method, idle).await;
    }

    fn send_continue(&mut self) {
        let mut interim = http::Response::new(());
        *interim.status_mut() = StatusCode::CONTINUE;
        // A stream that is over by now has no use for it.
        let _ = self.respond.send_informational(interim);
    }

    /// Whether the client gave up before we looked.
    async fn was_reset(&mut self) -> bool {
        let (respond, guard) = (&mut self.respond, &self.streams.guard);
        poll_fn(|context| Poll::Ready(guard.has_seen_reset() && respond.poll_reset(context).is_ready())).await
    }

    /// Runs the exchange, unless the client resets the stream before it is done.
    async fn run_exchange(&mut self, request: &mut Request) -> Option<Served> {
        // Not boxed: the stream's task is, and the room serves to send the response in afterwards.
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

    /// Why a response's head could not be sent. A client that has gone makes the h2 crate complain of us too.
    async fn unsent(&mut self, error: &h2::Error) -> Reason {
        let respond = &mut self.respond;
        let gone = poll_fn(|context| Poll::Ready(respond.poll_reset(context).is_ready())).await;
        if gone || !is_local(error) {
            return Reason::DownstreamClosed;
        }
        tracing::error!("a response cannot be sent over HTTP/2: {error}");
        self.respond.send_reset(H2Reason::INTERNAL_ERROR);
        Reason::Internal
    }

    async fn send(mut self, served: Served, method: &Method, idle: Option<Duration>) {
        let Served { response: Response { mut head, body }, ending, bounds, tunnel } = served;
        let idle = bounds.idle.or(idle);
        if tunnel && head.status == StatusCode::SWITCHING_PROTOCOLS {
            // What the upstream's version calls 101 is 200 here, and needs no proof (RFC 8441 §5).
            head.status = StatusCode::OK;
            head.headers.remove("sec-websocket-accept");
        }
        let bodiless = is_bodiless(method, head.status);
        let body = if bodiless { Body::Empty } else { body };
        let end = body.is_empty();
        let stream = match self.respond.send_response(outgoing_response(head, &body, bodiless), end) {
            Ok(stream) => stream,
            Err(error) => {
                let reason = self.unsent(&error).await;
                ending.finish(None, Some(reason));
                return;
            }
        };
        if end {
            ending.finish(None, None);
            return;
        }
        let mut pump = Pump::new(body, stream);
        let sent = {
            let sending = pin!(send_body(&mut pump, idle, &ending));
            bounds.cover(sending).await
        };
        let mut cut = match sent {
            Ok(cut) => cut,
            Err(reason) => {
                pump.reset();
                Some(reason)
            }
        };
        if tunnel && cut.is_none() {
            let drained = timer::within(idle, poll_fn(|context| pump.poll_drained(context))).await;
            cut = drained.is_err().then_some(Reason::IdleTimeout);
        }
        ending.sent.set(pump.sent);
        ending.finish(pump.grpc_status, cut);
    }
}

/// What the stream is to become. An extended CONNECT is, from here on, the request for an upgrade that it stands for.
fn tunnel_of(parts: &mut http::request::Parts) -> Option<Tunnel> {
    if parts.method != Method::CONNECT {
        return None;
    }
    let Some(protocol) = parts.extensions.remove::<Protocol>() else { return Some(Tunnel::Connect) };
    parts.method = Method::GET;
    Some(Tunnel::Upgrade(protocol.as_str().to_ascii_lowercase().into()))
}

/// Sends the body; returns why it was cut, if it was. The idle bound is on progress, not on the whole.
async fn send_body(pump: &mut Pump, idle: Option<Duration>, ending: &Ending) -> Option<Reason> {
    let mut still: Option<Instant> = None;
    loop {
        let before = (pump.sent, ending.last_received());
        let blocked = pump.is_blocked();
        // Looked after more closely once the client takes nothing: it may have to go for want of memory.
        let wait = if blocked { Some(idle.map_or(MOMENT, |idle| idle.min(MOMENT))) } else { idle };
        let step = poll_fn(|context| {
            let polled = pump.poll(context);
            ending.sent.set(pump.sent);
            match polled {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if pump.is_blocked() && !blocked => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        match timer::within(wait, step).await {
            Ok(None) => {}
            Ok(Some(Ok(()))) => return None,
            Ok(Some(Err(PumpError::Peer | PumpError::Body(BodyError::Broken)))) => {
                return Some(Reason::DownstreamClosed);
            }
            Ok(Some(Err(PumpError::Body(_)))) => return Some(Reason::UpstreamBodyReset),
            Err(timer::Elapsed) if (pump.sent, ending.last_received()) == before => {
                let since = *still.get_or_insert_with(|| Instant::now() - wait.unwrap_or_default());
                if let Some(cut) = ending.cut_of(since, idle, blocked) {
                    pump.reset();
                    return Some(cut);
                }
                continue;
            }
            Err(timer::Elapsed) => {}
        }
        still = None;
    }
}

/// A client that gives up after so long has waited: it is not out to waste our work.
const PATIENT: Duration = Duration::from_secs(1);
/// How long a connection that was cut takes in what is still coming, and how much of that.
const LINGER: Duration = Duration::from_secs(1);
const MOST_LINGERED: usize = 4 * 1024 * 1024;
/// Bytes past the bound on header bytes that the h2 crate still hands to us.
const HEADER_MARGIN: usize = 16 * 1024;
const LINGER_READ: usize = 64 * 1024;
/// How long streams may still be opened on a connection that was told to end: those that were on their way.
const STRAGGLERS: Duration = Duration::from_secs(2);
/// How long a connection that was told to end, and serves nothing, may take to do so.
const FAREWELL: Duration = Duration::from_secs(30);
/// Bytes of responses held for a client that does not read.
const SEND_BUFFER: usize = 64 * 1024;
