//! The server loop of one HTTP/1.1 connection: head → exchange → response, in order, until either side is done.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::body::Inbound;
use super::tunnel::{self, Upload};
use super::{bulk, is_bodiless};
use crate::error::Reason;
use crate::exchange::{Downstream, Ending, Served, refuse, serve as serve_exchange};
use crate::http1::{
    Expect, Framing, Limits, ParseError, RequestEvent, RequestParser, ResponseOptions, encode_response,
};
use crate::io::{Io, Outbox};
use crate::message::{Body, Frame, Request, Response, Scheme, Tunnel, Version};
use crate::snapshot::Http;
use crate::timer;
use crate::worker::Worker;

mod sending;

use sending::Sending;

/// Serves one connection to its end. `ahead` was read already.
pub(super) async fn serve(worker: Rc<Worker>, downstream: Rc<Downstream>, io: Rc<Io>, ahead: BytesMut) {
    let inbound = Inbound::new(io.clone(), ahead);
    let mut connection = Connection {
        worker,
        downstream,
        inbound,
        io,
        parser: RequestParser::new(),
        out: Outbox::default(),
        served: 0,
        since: Instant::now(),
        linger: SKIP_TIME,
        busy: false,
    };
    while connection.serve_next().await == Next::Another {}
}

struct Connection {
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    inbound: Rc<Inbound>,
    io: Rc<Io>,
    parser: RequestParser,
    out: Outbox,
    served: u32,
    /// When it was accepted.
    since: Instant,
    /// How long the client is listened to after the last response.
    linger: Duration,
    /// A request has come and its response has not left.
    busy: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Ended from outside within a response, which must not be taken for complete.
        if self.busy {
            self.io.reset_on_close();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Another,
    Close,
}

/// Why no request head came.
enum NoHead {
    /// Nothing was asked: the client left, was idle for too long, or we are shutting down.
    Nothing,
    /// A head began and did not end in time.
    Late,
    /// What came is no request.
    Invalid(ParseError),
}

/// What the response needs to know of its request.
#[derive(Clone)]
struct Asked {
    method: Method,
    version: Version,
    keep_alive: bool,
    tunnel: Option<Tunnel>,
}

impl Connection {
    /// What is rare is boxed, here and below: the connection's task has room for what is not.
    async fn serve_next(&mut self) -> Next {
        let Some(http) = self.downstream.http(&self.worker) else { return Next::Close };
        let limits = limits_of(&http);
        self.linger = http.timeouts.delayed_close;
        let event = match self.read_head(&http, &limits).await {
            Ok(event) => event,
            Err(NoHead::Nothing) => return Next::Close,
            Err(NoHead::Late) => return Box::pin(self.refuse(Reason::DownstreamTimeout, None)).await,
            Err(NoHead::Invalid(error)) => {
                return Box::pin(self.refuse(error.reason(), Some(error.to_string()))).await;
            }
        };
        if let Some((reason, detail)) = not_served(&event, self.downstream.scheme) {
            return Box::pin(self.refuse_request(event, reason, detail)).await;
        }
        self.busy = true;
        self.served = self.served.saturating_add(1);
        let full = http.max_requests_per_connection.is_some_and(|most| self.served >= most);
        let asked = Asked {
            method: event.head.method.clone(),
            version: event.head.version,
            keep_alive: event.keep_alive && !full,
            tunnel: tunnel_of(&event),
        };
        let served = {
            let mut request = self.begin_request(event, &limits, asked.tunnel.clone());
            self.run_exchange(&mut request).await
        };
        let Some(served) = served else {
            self.busy = false;
            return Next::Close;
        };
        self.respond(served, &asked, &http).await
    }

    async fn read_head(&mut self, http: &Http, limits: &Limits) -> Result<RequestEvent, NoHead> {
        // A pipelined request may be here already.
        if let Some(event) = self.parse(limits)? {
            return Ok(event);
        }
        if self.inbound.with_buffer(|buffer| buffer.is_empty()) {
            self.wait_for_request(http).await?;
        }
        let reading = pin!(async {
            loop {
                if let Some(event) = self.parse(limits)? {
                    return Ok(event);
                }
                let read = poll_fn(|context| self.inbound.poll_read(context, HEAD_READ)).await;
                if !matches!(read, Ok(1..)) {
                    return Err(NoHead::Nothing);
                }
            }
        });
        timer::within(http.timeouts.headers, reading).await.unwrap_or(Err(NoHead::Late))
    }

    fn parse(&mut self, limits: &Limits) -> Result<Option<RequestEvent>, NoHead> {
        let parser = &mut self.parser;
        self.inbound.with_buffer(|buffer| {
            if buffer.is_empty() { Ok(None) } else { parser.parse(buffer, limits).map_err(NoHead::Invalid) }
        })
    }

    /// Waits for the first byte of a request. An idle connection holds no buffer.
    async fn wait_for_request(&mut self, http: &Http) -> Result<(), NoHead> {
        let inbound = &self.inbound;
        let first = poll_fn(|context| inbound.poll_first(context, HEAD_READ));
        let left = |most: Duration| (most + http.timeouts.drain).saturating_sub(self.since.elapsed());
        let aged = super::after(http.timeouts.connection.map(left));
        tokio::select! {
            biased;
            read = timer::within(http.timeouts.idle, first) => match read {
                Ok(Ok(1..)) => Ok(()),
                _ => Err(NoHead::Nothing),
            },
            () = super::last_call(&self.downstream) => Err(NoHead::Nothing),
            () = aged => Err(NoHead::Nothing),
        }
    }

    /// Whether it has lasted as long as a connection may (`max_connection_duration`).
    fn is_old(&self, http: &Http) -> bool {
        http.timeouts.connection.is_some_and(|most| self.since.elapsed() >= most)
    }

    fn begin_request(&mut self, mut event: RequestEvent, limits: &Limits, tunnel: Option<Tunnel>) -> Request {
        event.head.scheme = self.downstream.scheme;
        let body = match event.framing {
            _ if tunnel.is_some() => Body::stream(Upload::new(&self.inbound)),
            Framing::None | Framing::Length(0) => Body::Empty,
            framing => {
                self.inbound.awaits_continue.set(event.expect == Expect::Continue);
                Body::stream(self.inbound.begin_body(framing, limits))
            }
        };
        Request { head: event.head, body, tunnel }
    }

    /// Runs the exchange, unless the client leaves before it is done.
    async fn run_exchange(&self, request: &mut Request) -> Option<Served> {
        // Not boxed: the connection's task is as large while it is idle, but one exchange after the other costs no allocation.
        let mut exchange = pin!(serve_exchange(&self.worker, &self.downstream, request));
        poll_fn(|context| {
            if let Poll::Ready(served) = exchange.as_mut().poll(context) {
                return Poll::Ready(Some(served));
            }
            self.inbound.poll_gone(context).map(|()| None)
        })
        .await
    }

    async fn respond(&mut self, served: Served, asked: &Asked, http: &Http) -> Next {
        if served.tunnel {
            return Box::pin(self.run_tunnel(served, asked, http)).await;
        }
        let Response { head, body } = served.response;
        let framing = framing_of(asked, head.status, &body);
        let request_done = self.inbound.body_is_done();
        let keep_alive = asked.keep_alive
            // What follows a tunnel that was refused may be meant for it: it must not run as a request (A15, A16).
            && asked.tunnel.is_none()
            && framing != Framing::UntilClose
            && (request_done || !self.inbound.awaits_continue.get())
            // It says that the rest is not waited for any longer (RFC 9110 §15.5.9).
            && (request_done || head.status != StatusCode::REQUEST_TIMEOUT)
            && self.inbound.may_be_skipped(SKIP_BYTES)
            && !self.is_old(http)
            && !self.downstream.is_leaving(&self.worker);
        let options =
            ResponseOptions { to_http_10: asked.version == Version::Http10, keep_alive, upgrade: None };
        encode_response(&head, &framing, &options, &mut self.out.head);
        let body = if is_bodiless(&asked.method, head.status) { Body::Empty } else { body };
        let mut sending = Sending { chunked: framing == Framing::Chunked, grpc_status: None };
        let idle = served.bounds.idle.or(http.timeouts.stream_idle);
        let cut = {
            let sent = pin!(self.send_body(body, &mut sending, idle, &served.ending));
            served.bounds.cover(sent).await.unwrap_or_else(Some)
        };
        served.ending.finish(sending.grpc_status, cut);
        self.busy = false;
        if cut.is_some() {
            // The client must not take what it has for complete.
            self.io.reset_on_close();
            return Next::Close;
        }
        if !keep_alive {
            self.close_gently().await;
            return Next::Close;
        }
        if request_done || self.skip_body().await {
            return Next::Another;
        }
        self.close_gently().await;
        Next::Close
    }

    /// Sends the body; returns why it was cut, if it was.
    async fn send_body(
        &mut self,
        mut body: Body,
        sending: &mut Sending,
        idle: Option<Duration>,
        ending: &Ending,
    ) -> Option<Reason> {
        loop {
            if self.out.is_empty()
                && !sending.chunked
                && let Some(cut) = bulk::send(&self.inbound, &mut body, idle, ending).await
            {
                return Some(cut);
            }
            // The head waits for the first piece if that is there: one write instead of two.
            let ready = poll_fn(|context| match body.poll_frame(context) {
                Poll::Ready(frame) => Poll::Ready(Some(frame)),
                Poll::Pending => Poll::Ready(None),
            });
            let frame = match ready.await {
                Some(frame) => frame,
                None => {
                    if let Some(cut) = self.flush(idle, &mut body, ending).await {
                        return Some(cut);
                    }
                    let next = poll_fn(|context| {
                        if let Poll::Ready(frame) = body.poll_frame(context) {
                            return Poll::Ready(Some(frame));
                        }
                        self.inbound.poll_gone(context).map(|()| None)
                    });
                    match ending.moving(idle, next).await {
                        Ok(Some(frame)) => frame,
                        Ok(None) => return Some(Reason::DownstreamClosed),
                        Err(timer::Elapsed) => return Some(Reason::IdleTimeout),
                    }
                }
            };
            let last = match sending.encode(frame, &mut self.out, &ending.sent) {
                Ok(last) => last,
                Err(reason) => return Some(reason),
            };
            if let Some(cut) = self.flush(idle, &mut body, ending).await {
                return Some(cut);
            }
            if last {
                return None;
            }
        }
    }

    async fn flush(&mut self, idle: Option<Duration>, body: &mut Body, ending: &Ending) -> Option<Reason> {
        let (out, io) = (&mut self.out, &self.io);
        let flushing = poll_fn(|context| {
            let flushed = out.poll_flush(context, io, &mut false);
            if flushed.is_pending() {
                body.poll_feed(context);
            }
            flushed
        });
        match ending.taken(idle, flushing).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(Reason::DownstreamClosed),
            Err(cut) => Some(cut),
        }
    }

    /// Reads what is left of a request body that nobody wanted, within bounds; true when the next request may follow (R5).
    async fn skip_body(&mut self) -> bool {
        let mut left = SKIP_BYTES;
        let skipping = poll_fn(|context| {
            loop {
                let frame = std::task::ready!(self.inbound.poll_body(context));
                match frame {
                    None | Some(Ok(Frame::Trailers(_))) => return Poll::Ready(true),
                    Some(Err(_)) => return Poll::Ready(false),
                    Some(Ok(Frame::Data(data))) => match left.checked_sub(data.len()) {
                        Some(rest) => left = rest,
                        None => return Poll::Ready(false),
                    },
                }
            }
        });
        tokio::time::timeout(SKIP_TIME, skipping).await.unwrap_or(false)
    }

    /// Ends our direction first and reads a little on, so that a reset does not overtake the response (RFC 9112 §9.6).
    async fn close_gently(&mut self) {
        self.io.shutdown_write();
        if self.inbound.body_is_done() && self.inbound.with_buffer(|buffer| buffer.is_empty()) {
            return;
        }
        let deadline = Instant::now() + self.linger;
        let mut left = SKIP_BYTES;
        let reading = poll_fn(|context| {
            loop {
                self.inbound.with_buffer(BytesMut::clear);
                match std::task::ready!(self.inbound.poll_read(context, HEAD_READ)) {
                    Ok(0) | Err(_) => return Poll::Ready(()),
                    Ok(count) if count > left => return Poll::Ready(()),
                    Ok(count) => left -= count,
                }
            }
        });
        let _ = timer::until(Some(deadline), reading).await;
    }

    async fn run_tunnel(&mut self, served: Served, asked: &Asked, http: &Http) -> Next {
        let Response { head, body } = served.response;
        let upgrade = match &asked.tunnel {
            Some(Tunnel::Upgrade(protocol)) => Some(&**protocol),
            _ => None,
        };
        let options = ResponseOptions { to_http_10: false, keep_alive: true, upgrade };
        encode_response(&head, &Framing::None, &options, &mut self.out.head);
        let idle = served.bounds.idle.or(http.timeouts.stream_idle);
        let drain = self.worker.drain.clone();
        let cut = tunnel::run(&self.io, &mut self.out, body, &served.ending, idle, drain).await;
        served.ending.finish(None, cut);
        self.busy = false;
        if cut.is_some() {
            self.io.reset_on_close();
        }
        Next::Close
    }

    /// Answers what is no request; the connection cannot be used on.
    async fn refuse(&mut self, reason: Reason, detail: Option<String>) -> Next {
        let served = refuse(&self.worker, &self.downstream, None, reason, detail);
        self.send_refusal(served, &Method::GET).await
    }

    /// Answers a request that is not served; its body, if any, is not read, so the connection ends.
    async fn refuse_request(&mut self, event: RequestEvent, reason: Reason, detail: &str) -> Next {
        let (method, detail) = (event.head.method.clone(), Some(detail.to_owned()));
        let served = refuse(&self.worker, &self.downstream, Some(event.head), reason, detail);
        self.send_refusal(served, &method).await
    }

    async fn send_refusal(&mut self, served: Served, method: &Method) -> Next {
        let Response { head, body } = served.response;
        let bodiless = is_bodiless(method, head.status);
        let framing =
            if bodiless { Framing::None } else { Framing::Length(body.remaining().unwrap_or_default()) };
        let body = if bodiless { Body::Empty } else { body };
        let options = ResponseOptions { to_http_10: false, keep_alive: false, upgrade: None };
        encode_response(&head, &framing, &options, &mut self.out.head);
        let mut sending = Sending { chunked: false, grpc_status: None };
        let cut = self.send_body(body, &mut sending, Some(SKIP_TIME), &served.ending).await;
        served.ending.finish(None, cut);
        self.close_gently().await;
        Next::Close
    }
}

fn limits_of(http: &Http) -> Limits {
    Limits {
        head_bytes: http.max_header_bytes,
        fields: http.max_header_count,
        target_bytes: MAX_TARGET,
        http_10: http.accept_http_10,
    }
}

/// Requests that are understood and not served: why, and what the operator should know.
fn not_served(event: &RequestEvent, scheme: Scheme) -> Option<(Reason, &'static str)> {
    // A client that takes us for a proxy may name another scheme: we would have to originate TLS for it.
    if event.absolute_form && event.head.scheme != scheme {
        return Some((Reason::BadRequest, "the target names another scheme than the connection's"));
    }
    if event.expect == Expect::Unknown {
        return Some((Reason::ExpectationFailed, "only `100-continue` is understood"));
    }
    if event.upgrade.is_some() && !event.framing.is_empty() {
        return Some((Reason::BadRequest, "a request for an upgrade with content is not served"));
    }
    None
}

/// What the request asks the connection to become.
fn tunnel_of(event: &RequestEvent) -> Option<Tunnel> {
    if event.head.method == Method::CONNECT {
        return Some(Tunnel::Connect);
    }
    event.upgrade.as_deref().map(|protocol| Tunnel::Upgrade(protocol.into()))
}

fn framing_of(asked: &Asked, status: StatusCode, body: &Body) -> Framing {
    if is_bodiless(&asked.method, status) {
        return Framing::None;
    }
    match body.remaining() {
        Some(length) => Framing::Length(length),
        None if asked.version == Version::Http10 => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

/// Bytes asked for when a head is expected.
const HEAD_READ: usize = 4 * 1024;
/// The longest request target (RFC 9112 §3 asks for 8,000 at least).
const MAX_TARGET: usize = 16 * 1024;
/// How much of an unwanted body is read so that the connection can go on, and for how long.
const SKIP_BYTES: usize = 256 * 1024;
const SKIP_TIME: Duration = Duration::from_secs(2);
