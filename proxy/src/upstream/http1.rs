//! One HTTP/1.1 connection to an endpoint, one exchange at a time.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::checkout::OpenCount;
use super::connect::{ConnectionClaim, Opened};
use super::line::Item;
use super::pool::Pools;
use super::{Attempt, Destination, MOST_FIELDS, Processed, SendError};
use crate::error::Reason;
use crate::http1::{
    BodyDecoder, CHUNK_END, Decoded, Framing, Limits, RequestOptions, ResponseEvent, ResponseParser,
    encode_chunk_header, encode_last_chunk, encode_request, encode_request_with,
};
use crate::io::{Io, Outbox, give_buffer};
use crate::message::{Body, BodyError, BodyStream, Frame, RequestHead, Response};
use crate::tls;

/// A connection, idle or taken by one exchange. Boxed for its life, as it is handed on twice for each exchange.
pub(super) struct Connection {
    pub(super) io: Io,
    /// Its TLS session.
    pub(super) session: Option<Arc<tls::Security>>,
    /// Bytes received and not yet decoded.
    buffer: BytesMut,
    /// Kept for its memory; between exchanges it is at a message's start.
    parser: ResponseParser,
    /// What is encoded and not yet sent.
    out: Outbox,
    pub(super) idle_since: Instant,
    /// `Keep-Alive: timeout=` of the last response, less a margin.
    pub(super) announced: Option<Duration>,
    pub(super) made: Instant,
    /// Exchanges completed.
    pub(super) served: u32,
    /// It was taken from among the idle ones.
    pub(super) was_idle: bool,
    claim: ConnectionClaim,
    count: OpenCount,
}

/// What an exchange for another protocol came to.
pub(super) enum Upgraded {
    /// The endpoint agreed: from here on the connection carries that protocol.
    Switched(Response, Switched),
    /// It answered as it would any request.
    Answered(Response),
}

/// A connection that speaks HTTP no more.
pub(super) struct Switched {
    pub(super) io: Io,
    /// Bytes that came behind the 101.
    pub(super) buffer: BytesMut,
    /// Its TLS session.
    pub(super) session: Option<Arc<tls::Security>>,
    /// Its places in the counts.
    pub(super) held: (ConnectionClaim, OpenCount),
}

impl Connection {
    pub(super) fn new(opened: Opened, claim: ConnectionClaim, count: OpenCount) -> Self {
        Self {
            io: opened.io,
            session: opened.session,
            buffer: BytesMut::new(),
            parser: ResponseParser::new(),
            out: Outbox::default(),
            idle_since: Instant::now(),
            announced: None,
            made: Instant::now(),
            served: 0,
            was_idle: false,
            claim,
            count,
        }
    }

    /// Gives memory back while nothing happens.
    pub(super) fn release_buffers(&mut self) {
        give_buffer(std::mem::take(&mut self.buffer));
        self.out = Outbox::default();
        self.parser = ResponseParser::new();
    }

    fn into_pool(mut self: Box<Self>) {
        self.served = self.served.saturating_add(1);
        self.idle_since = Instant::now();
        let pool = Rc::clone(&self.count.pool);
        if pool.keep.get().is_over(self.made.elapsed(), self.served) {
            // Closed: whoever waits hears of the free place, and has another one made.
            return;
        }
        pool.line.give(self);
        if pool.line.has_waiting() {
            // Who takes only a new one has it closed, where there is no place for both.
            pool.changed.notify_one();
        }
    }
}

impl Item for Box<Connection> {
    fn is_new(&self) -> bool {
        self.served == 0 && !self.was_idle
    }
}

impl Pools {
    pub(super) async fn send_http1(
        &self,
        destination: &Destination,
        attempt: Attempt<'_>,
    ) -> Result<Response, SendError> {
        let method = attempt.head.method.clone();
        // What has a body that is still coming may have become too long to be kept by the time it is needed again.
        let repeatable = method.is_idempotent() && !matches!(attempt.body, Body::Stream(_));
        let mut connection = self.checkout(destination, repeatable, attempt.fresh).await?;
        let framing = framing_of(&method, &attempt.body);
        encode_request(attempt.head, &framing, &mut connection.out.head);
        let pump = Pump::new(attempt.body, framing);
        let mut flight = Flight { connection, pump, method, written: false };
        let event = flight.head(None).await?;
        Ok(flight.into_response(event))
    }

    /// Asks the endpoint for another protocol. Nothing but the head is sent before it has agreed.
    pub(super) async fn upgrade_http1(
        &self,
        destination: &Destination,
        head: &RequestHead,
        fresh: bool,
        protocol: &str,
    ) -> Result<Upgraded, SendError> {
        let mut connection = self.checkout(destination, false, fresh).await?;
        let options = RequestOptions { upgrade: Some(protocol), ..RequestOptions::default() };
        encode_request_with(head, &Framing::None, &options, &mut connection.out.head);
        let pump = Pump::new(Body::Empty, Framing::None);
        let method = head.method.clone();
        let mut flight = Flight { connection, pump, method, written: false };
        let event = flight.head(Some(protocol)).await?;
        if event.head.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Upgraded::Answered(flight.into_response(event)));
        }
        let Connection { io, session, buffer, claim, count, .. } = *flight.connection;
        let response = Response { head: event.head, body: Body::Empty };
        Ok(Upgraded::Switched(response, Switched { io, session, buffer, held: (claim, count) }))
    }
}

fn framing_of(method: &Method, body: &Body) -> Framing {
    let expects_body = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    match body.remaining() {
        Some(0) if body.is_empty() && !expects_body => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

/// An exchange up to its response head.
struct Flight {
    connection: Box<Connection>,
    pump: Pump,
    method: Method,
    /// A byte of the request has left.
    written: bool,
}

impl Flight {
    /// The head of the final response; 101 is one when `upgrade` was asked for and is what it switches to.
    async fn head(&mut self, upgrade: Option<&str>) -> Result<ResponseEvent, SendError> {
        loop {
            let event = poll_fn(|context| self.poll_head(context)).await?;
            // Interim responses other than an upgrade are ours to ignore: we ask for none.
            if !event.head.status.is_informational() {
                return Ok(event);
            }
            if event.head.status == StatusCode::SWITCHING_PROTOCOLS {
                let wanted = upgrade.is_some() && event.upgrade.as_deref() == upgrade;
                let error = || SendError::maybe(Reason::UpstreamProtocolError, "101 that nobody asked for");
                return wanted.then_some(event).ok_or_else(error);
            }
        }
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<ResponseEvent, SendError>> {
        let sent = self.pump.poll(context, &mut self.connection, &mut self.written);
        if let Poll::Ready(Err(PumpError::Body(error))) = sent {
            return Poll::Ready(Err(SendError::of_request_body(error)));
        }
        loop {
            let Connection { io, buffer, parser, .. } = &mut *self.connection;
            if !buffer.is_empty() {
                match parser.parse(buffer, &RESPONSE_LIMITS, &self.method) {
                    Ok(Some(event)) => return Poll::Ready(Ok(event)),
                    Ok(None) => {}
                    Err(error) => {
                        let detail = format!("invalid response: {error}");
                        return Poll::Ready(Err(SendError::maybe(Reason::UpstreamProtocolError, detail)));
                    }
                }
            }
            buffer.reserve(HEAD_READ);
            let read = ready!(io.poll_read(context, buffer));
            match read {
                Ok(0) => return Poll::Ready(Err(self.closed("closed before the response head"))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(self.closed(&error.to_string()))),
            }
        }
    }

    fn closed(&self, what: &str) -> SendError {
        let reused = self.connection.served > 0 || self.connection.was_idle;
        let which = if reused { "reused connection" } else { "connection" };
        let processed = if self.written { Processed::Maybe } else { Processed::NotSent };
        let detail = format!("{} ({which}): {what}", self.connection.io.peer);
        SendError { reason: Reason::UpstreamReset, processed, reused, detail }
    }

    fn into_response(self, event: ResponseEvent) -> Response {
        let Self { mut connection, pump, .. } = self;
        connection.announced = event.keep_alive_timeout.map(|announced| {
            // A second of margin for the request's own way; half for very short announcements.
            announced.saturating_sub(Duration::from_secs(1)).max(announced / 2)
        });
        let mut exchange = Streaming {
            decoder: BodyDecoder::for_response(event.framing, &RESPONSE_LIMITS),
            reusable: event.keep_alive,
            connection: Some(connection),
            pump,
        };
        let body = match event.framing {
            Framing::None | Framing::Length(0) => {
                exchange.finish();
                Body::Empty
            }
            Framing::Length(length) if exchange.buffered() as u64 >= length => exchange.take_whole(length),
            _ => Body::stream(exchange),
        };
        Response { head: event.head, body }
    }
}

/// A response body that is still arriving; owns the connection until its end.
struct Streaming {
    connection: Option<Box<Connection>>,
    decoder: BodyDecoder,
    pump: Pump,
    /// Whether the connection may serve another exchange.
    reusable: bool,
}

impl Streaming {
    fn buffered(&self) -> usize {
        self.connection.as_ref().map_or(0, |connection| connection.buffer.len())
    }

    /// The common small response: all of it came with the head.
    fn take_whole(&mut self, length: u64) -> Body {
        let Some(connection) = &mut self.connection else { return Body::Empty };
        let data = connection.buffer.split_to(length as usize).freeze();
        self.finish();
        Body::Full(data)
    }

    /// Back to the pool, unless something is left over: unread bytes belong to nobody, an unsent request body to this exchange.
    fn finish(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.reusable && self.pump.is_done() && connection.buffer.is_empty() && connection.out.is_empty() {
            connection.into_pool();
        }
    }
}

impl BodyStream for Streaming {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        let this = &mut *self;
        let Some(connection) = &mut this.connection else { return Poll::Ready(None) };
        if !this.pump.is_done() {
            // What the request body still has to say; its failure only costs the connection.
            let mut written = true;
            let _ = this.pump.poll(context, connection, &mut written);
        }
        loop {
            match this.decoder.decode(&mut connection.buffer) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::Data(data)))),
                Ok(Decoded::Trailers(trailers)) => {
                    this.finish();
                    return Poll::Ready(Some(Ok(Frame::Trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    this.finish();
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {}
                Err(_) => return Poll::Ready(Some(Err(BodyError::Malformed))),
            }
            connection.buffer.reserve(BODY_READ);
            match ready!(connection.io.poll_read(context, &mut connection.buffer)) {
                Ok(0) => {
                    this.reusable = false;
                    if this.decoder.end_of_input().is_err() {
                        return Poll::Ready(Some(Err(BodyError::Reset)));
                    }
                    this.connection = None;
                    return Poll::Ready(None);
                }
                Ok(_) => {}
                Err(_) => return Poll::Ready(Some(Err(BodyError::Reset))),
            }
        }
    }

    fn poll_feed(mut self: Pin<&mut Self>, context: &mut Context<'_>) {
        let this = &mut *self;
        if let Some(connection) = &mut this.connection
            && !this.pump.is_done()
        {
            let mut written = true;
            let _ = this.pump.poll(context, connection, &mut written);
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    fn socket(&self) -> Option<(&Io, u64)> {
        let connection = self.connection.as_ref()?;
        let left = self.decoder.remaining().filter(|left| *left > 0)?;
        (self.pump.is_done() && connection.buffer.is_empty()).then_some((&connection.io, left))
    }

    fn took(mut self: Pin<&mut Self>, count: usize) {
        self.decoder.skip(count);
    }

    fn is_at_end(&self) -> bool {
        self.decoder.remaining() == Some(0)
    }
}

/// Sends a request: what is encoded already, then its body.
struct Pump {
    body: Body,
    chunked: bool,
    state: PumpState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PumpState {
    Sending,
    /// The body is at its end; what is encoded may still have to leave.
    Flushing,
    Done,
    Failed,
}

/// Why a request could not be sent to its end.
#[derive(Debug)]
enum PumpError {
    /// Its own body failed.
    Body(BodyError),
    /// The endpoint takes no more; its answer may still come.
    Write,
}

impl Pump {
    fn new(body: Body, framing: Framing) -> Self {
        let state = if body.is_empty() && framing != Framing::Chunked {
            PumpState::Flushing
        } else {
            PumpState::Sending
        };
        Self { body, chunked: framing == Framing::Chunked, state }
    }

    fn is_done(&self) -> bool {
        self.state == PumpState::Done
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        written: &mut bool,
    ) -> Poll<Result<(), PumpError>> {
        loop {
            match self.state {
                PumpState::Done => return Poll::Ready(Ok(())),
                PumpState::Failed => return Poll::Ready(Err(PumpError::Write)),
                PumpState::Sending | PumpState::Flushing => {}
            }
            // The head waits for the first piece of body if that is there: one write instead of two.
            let first = self.state == PumpState::Sending && !connection.out.has_piece() && !*written;
            if !first && ready!(connection.out.poll_flush(context, &connection.io, written)).is_err() {
                self.state = PumpState::Failed;
                continue;
            }
            if self.state == PumpState::Flushing {
                self.state = PumpState::Done;
                continue;
            }
            match self.body.poll_frame(context) {
                Poll::Ready(frame) => self.take_frame(frame, connection)?,
                Poll::Pending => {
                    if first && ready!(connection.out.poll_flush(context, &connection.io, written)).is_err() {
                        self.state = PumpState::Failed;
                        continue;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn take_frame(
        &mut self,
        frame: Option<Result<Frame, BodyError>>,
        connection: &mut Connection,
    ) -> Result<(), PumpError> {
        match frame {
            // An empty chunk would be the last one.
            Some(Ok(Frame::Data(data))) if data.is_empty() => {}
            Some(Ok(Frame::Data(data))) => {
                if self.chunked {
                    encode_chunk_header(data.len(), &mut connection.out.head);
                }
                connection.out.set_piece(data, if self.chunked { CHUNK_END } else { b"" });
            }
            Some(Ok(Frame::Trailers(trailers))) => {
                if self.chunked {
                    encode_last_chunk(Some(&trailers), &mut connection.out.head);
                }
                self.state = PumpState::Flushing;
            }
            Some(Err(error)) => {
                self.state = PumpState::Failed;
                return Err(PumpError::Body(error));
            }
            None => {
                if self.chunked {
                    encode_last_chunk(None, &mut connection.out.head);
                }
                self.state = PumpState::Flushing;
            }
        }
        Ok(())
    }
}

/// What a response may be: as large as a request's bounds allow.
const RESPONSE_LIMITS: Limits =
    Limits { head_bytes: 64 * 1024, fields: MOST_FIELDS, target_bytes: 0, http_10: true };

/// Bytes asked for when a response head is expected: heads and small bodies fit.
const HEAD_READ: usize = 8 * 1024;

/// Bytes asked for within a body.
const BODY_READ: usize = 64 * 1024;
