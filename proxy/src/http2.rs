//! HTTP/2 by the h2 crate, for both directions: heads in and out, bodies in ([`incoming`]) and out ([`Pump`]).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

mod frames;
mod guard;
mod guarded;
mod head;
mod options;

pub(crate) use guard::{Budgets, Cut, Guard};
pub(crate) use guarded::Guarded;
pub(crate) use head::{HeadBounds, Incoming, Refused, request_head};
pub(crate) use options::{Keepalive, Options, keep_alive, watch_silence};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, TE};

use crate::http1::{is_for_codecs, is_hop_by_hop, may_trail};
use crate::message::{
    Body, BodyError, BodyStream, Frame, Headers, RequestHead, ResponseHead, Scheme, Version,
};

/// Whether the h2 crate did not take what we asked of it: nothing has left, and the other end has no part in it.
pub(crate) fn is_local(error: &h2::Error) -> bool {
    // The crate has no name for its own kind: every other one is of the transport or has a code.
    !error.is_io() && error.reason().is_none()
}

fn without_connection_fields(map: HeaderMap) -> Headers {
    let mut headers = Headers::from_map(map);
    headers.retain(|name, _| !is_connection_field(name));
    headers
}

/// What may trail (RFC 9110 §6.5.1); the rest was decided when the head came.
fn trailers_of(map: HeaderMap) -> Headers {
    let mut trailers = Headers::from_map(map);
    trailers.retain(|name, _| may_trail(name));
    trailers
}

/// Fields that are about one connection and have no place in HTTP/2 (RFC 9113 §8.2.2), and an expectation that we meet ourselves.
fn is_connection_field(name: &[u8]) -> bool {
    is_hop_by_hop(name) || name.eq_ignore_ascii_case(b"expect")
}

/// The head of a request to send. `body` gives the content length when it is known.
pub(crate) fn outgoing_request(head: &RequestHead, body: &Body) -> Result<http::Request<()>, http::Error> {
    let grpc = is_grpc(&head.headers);
    let mut request = http::Request::new(());
    *request.method_mut() = head.method.clone();
    *request.version_mut() = http::Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.scheme =
        Some(if head.scheme == Scheme::Https { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
    uri.authority = head.authority.clone();
    uri.path_and_query = Some(head.path.clone());
    *request.uri_mut() = http::Uri::from_parts(uri)?;
    // The length, and `te`.
    // Whatever put one there: the h2 crate sends no head that has a connection's field, and the length is the body's.
    let ours = usize::from(has_length(body)) + usize::from(grpc);
    let mut map = head.headers.to_map(ours, |name| !is_for_codecs(name));
    add_length(&mut map, body);
    if grpc {
        // gRPC servers insist on it; it is connection-level, so ours to say.
        map.insert(TE, http::HeaderValue::from_static("trailers"));
    }
    *request.headers_mut() = map;
    Ok(request)
}

/// The head of a response that came in. Returns the length that its framing announces.
pub(crate) fn response_head(parts: http::response::Parts) -> ResponseHead {
    ResponseHead {
        status: parts.status,
        version: Version::Http2,
        headers: without_connection_fields(parts.headers),
    }
}

/// The head of a response to send. The length is the body's, but for one that is never sent (HEAD, 304): there it is what would have been.
pub(crate) fn outgoing_response(head: ResponseHead, body: &Body, bodiless: bool) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    let announced = |name: &[u8]| bodiless && name.eq_ignore_ascii_case(b"content-length");
    let wanted = |name: &[u8]| !is_for_codecs(name) || announced(name);
    let mut map = head.headers.into_map_of(usize::from(has_length(body)), wanted);
    add_length(&mut map, body);
    *response.headers_mut() = map;
    response
}

fn has_length(body: &Body) -> bool {
    body.remaining().is_some() && !body.is_empty()
}

fn add_length(map: &mut HeaderMap, body: &Body) {
    if let (Some(length), false) = (body.remaining(), body.is_empty()) {
        map.insert(CONTENT_LENGTH, length.into());
    }
}

/// Whether a message is gRPC (`application/grpc`, `application/grpc+…`), not gRPC-Web.
pub(crate) fn is_grpc(headers: &Headers) -> bool {
    headers.get("content-type").is_some_and(|value| {
        value
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'+' || rest[0] == b';')
    })
}

/// Takes the content length out of the header section: from here on the body knows it.
fn take_length(headers: &mut Headers) -> Option<u64> {
    let length = headers.get_str("content-length").and_then(|text| text.parse().ok());
    headers.remove("content-length");
    length
}

/// The body of a message that came in. `headers` loses its content length to the body. `done` is told once, whether it has ended or was
/// dropped before that.
pub(crate) fn incoming(
    stream: RecvStream,
    headers: &mut Headers,
    most_trailers: usize,
    done: impl FnOnce(bool) + 'static,
    feeder: Option<Pump>,
) -> Body {
    let remaining = take_length(headers);
    if stream.is_end_stream() && feeder.is_none() {
        done(true);
        return Body::Empty;
    }
    let done = Some(done);
    let held = Held::Never;
    let (consumed, data_ended) = (0, false);
    Body::stream(IncomingBody { stream, remaining, most_trailers, consumed, data_ended, held, feeder, done })
}

/// The body of a request that came in: as [`incoming`]. Its last piece is only given on once the client has ended it there: where its length
/// was announced, whoever gets all of that takes the request for whole (B13).
pub(crate) fn incoming_request(stream: RecvStream, headers: &mut Headers, most_trailers: usize) -> Body {
    let remaining = take_length(headers);
    if stream.is_end_stream() {
        return Body::Empty;
    }
    let (held, feeder, done) = (Held::Nothing, None, None::<fn(bool)>);
    let (consumed, data_ended) = (0, false);
    Body::stream(IncomingBody { stream, remaining, most_trailers, consumed, data_ended, held, feeder, done })
}

/// A piece that waits for the stream's end.
#[derive(Debug)]
enum Held {
    /// Pieces are given on as they come.
    Never,
    Nothing,
    Piece(Bytes),
}

/// A body from HTTP/2. The window is opened again only when the next piece is asked for: not reading is back-pressure.
struct IncomingBody<D: FnOnce(bool)> {
    stream: RecvStream,
    remaining: Option<u64>,
    /// Fields that the trailers may have: to cut them could cut off the one that says how the call went.
    most_trailers: usize,
    consumed: usize,
    data_ended: bool,
    held: Held,
    /// The request body that is still being sent while its response comes in.
    feeder: Option<Pump>,
    done: Option<D>,
}

impl<D: FnOnce(bool) + 'static> BodyStream for IncomingBody<D> {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        // Sound without a projection: every field is `Unpin`, `D` is only ever called.
        let this = &mut *self;
        if let Some(feeder) = &mut this.feeder
            && feeder.poll(context).is_ready()
        {
            this.feeder = None;
        }
        if this.consumed > 0 {
            // The stream may be reset by now; then the next read says so.
            let _ = this.stream.flow_control().release_capacity(std::mem::take(&mut this.consumed));
        }
        while !this.data_ended {
            match ready!(this.stream.poll_data(context)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    this.remaining = this.remaining.map(|left| left.saturating_sub(data.len() as u64));
                    let is_all = this.remaining == Some(0) && !this.stream.is_end_stream();
                    if is_all && matches!(this.held, Held::Nothing) {
                        this.held = Held::Piece(data);
                        continue;
                    }
                    this.consumed = data.len();
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(BodyError::Reset))),
                None => this.data_ended = true,
            }
        }
        if let Held::Piece(data) = std::mem::replace(&mut this.held, Held::Never) {
            this.consumed = data.len();
            return Poll::Ready(Some(Ok(Frame::Data(data))));
        }
        let trailers = ready!(this.stream.poll_trailers(context));
        if let Some(done) = this.done.take() {
            done(true);
        }
        match trailers {
            Ok(Some(map)) if map.len() > this.most_trailers => Poll::Ready(Some(Err(BodyError::Malformed))),
            Ok(Some(map)) => Poll::Ready(Some(Ok(Frame::Trailers(trailers_of(map))))),
            Ok(None) => Poll::Ready(None),
            Err(_) => Poll::Ready(Some(Err(BodyError::Reset))),
        }
    }

    fn poll_feed(mut self: Pin<&mut Self>, context: &mut Context<'_>) {
        if let Some(feeder) = &mut self.feeder
            && feeder.poll(context).is_ready()
        {
            self.feeder = None;
        }
    }

    fn poll_drained(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.feeder {
            Some(feeder) => feeder.poll(context).map(drop),
            None => Poll::Ready(()),
        }
    }

    fn remaining(&self) -> Option<u64> {
        match &self.held {
            Held::Piece(data) => Some(data.len() as u64),
            _ => self.remaining,
        }
    }

    fn is_at_end(&self) -> bool {
        !matches!(self.held, Held::Piece(_)) && self.stream.is_end_stream()
    }
}

impl<D: FnOnce(bool)> Unpin for IncomingBody<D> {}

impl<D: FnOnce(bool)> Drop for IncomingBody<D> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(false);
        }
    }
}

/// Sends a body on a stream, within the peer's window.
pub(crate) struct Pump {
    body: Body,
    stream: SendStream<Bytes>,
    /// A piece taken from the body that the window has no room for yet.
    waiting: Bytes,
    /// A first piece that is the whole body is handed over at once, whatever room there is.
    at_once: bool,
    /// Bytes sent.
    pub(crate) sent: u64,
    /// `grpc-status` of the trailers, when they had one.
    pub(crate) grpc_status: Option<u16>,
}

/// How a [`Pump`] ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PumpError {
    /// The body itself failed; the stream was reset, so that the peer cannot take it for complete.
    Body(BodyError),
    /// The peer does not want it any more.
    Peer,
}

impl Pump {
    /// Starts sending.
    pub(crate) fn new(body: Body, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, waiting: Bytes::new(), at_once: false, sent: 0, grpc_status: None }
    }

    /// Starts sending on a stream that was opened just now: until its head has left there is no room for content, so that a small message
    /// would wait for it, be woken, and leave on its own. It is no more memory there than here.
    pub(crate) fn upload(body: Body, stream: SendStream<Bytes>) -> Self {
        Self { at_once: true, ..Self::new(body, stream) }
    }

    /// Whether there is something to send that the peer gives no room for.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends what can be sent; ready when the body is at its end.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        loop {
            if !self.waiting.is_empty() {
                if ready!(self.poll_send(context))? {
                    return self.end(context);
                }
                continue;
            }
            let frame = match self.body.poll_frame(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    // Without data in hand nothing else would notice that the peer has gone.
                    return match self.stream.poll_reset(context) {
                        Poll::Ready(_) => Poll::Ready(Err(PumpError::Peer)),
                        Poll::Pending => Poll::Pending,
                    };
                }
            };
            match frame {
                Some(Ok(Frame::Data(data))) => {
                    let first = std::mem::take(&mut self.at_once);
                    if first && data.len() <= AT_ONCE && self.body.is_empty() {
                        self.send(data, true)?;
                        return self.end(context);
                    }
                    self.stream.reserve_capacity(data.len());
                    self.waiting = data;
                }
                Some(Ok(Frame::Trailers(trailers))) => {
                    self.grpc_status = trailers.get_str("grpc-status").and_then(|text| text.parse().ok());
                    let sent = self.stream.send_trailers(trailers.into_map(0));
                    return Poll::Ready(sent.map_err(|_| PumpError::Peer));
                }
                Some(Err(error)) => {
                    self.stream.send_reset(h2::Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(PumpError::Body(error)));
                }
                None => {
                    let sent = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(sent.map_err(|_| PumpError::Peer));
                }
            }
        }
    }

    /// See [`BodyStream::poll_drained`]; at once when the peer has gone.
    pub(crate) fn poll_drained(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.body.poll_drained(context)
    }

    /// Gives up.
    pub(crate) fn reset(&mut self) {
        self.stream.send_reset(h2::Reason::CANCEL);
    }

    /// Sends as much of the waiting piece as the window takes; true when that was the end of the body.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, PumpError>> {
        let mut capacity = self.stream.capacity();
        if capacity == 0 {
            capacity = match self.stream.poll_capacity(context) {
                Poll::Ready(Some(Ok(capacity))) => capacity,
                Poll::Ready(_) => return Poll::Ready(Err(PumpError::Peer)),
                Poll::Pending => {
                    self.body.poll_feed(context);
                    return Poll::Pending;
                }
            };
        }
        let piece = self.waiting.split_to(capacity.min(self.waiting.len()));
        let last = self.waiting.is_empty() && self.body.is_empty();
        self.send(piece, last)?;
        Poll::Ready(Ok(last))
    }

    fn send(&mut self, piece: Bytes, last: bool) -> Result<(), PumpError> {
        self.sent += piece.len() as u64;
        self.stream.send_data(piece, last).map_err(|_| PumpError::Peer)
    }

    /// The body is told that it was read to its end: its connection may then serve another.
    fn end(&mut self, context: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        let _ = self.body.poll_frame(context);
        Poll::Ready(Ok(()))
    }
}

/// What a frame holds by default.
const AT_ONCE: usize = 16 * 1024;
