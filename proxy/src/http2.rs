//! HTTP/2 by the h2 crate, for both directions: heads in and out, bodies in ([`incoming`]) and out ([`Pump`]).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

mod frames;
mod guard;
mod guarded;

pub(crate) use guard::{Budgets, Guard};
pub(crate) use guarded::Guarded;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HOST, TE};
use http::uri::PathAndQuery;

use crate::http1::{is_hop_by_hop, may_trail};
use crate::message::{
    Body, BodyError, BodyStream, Frame, Headers, RequestHead, ResponseHead, Scheme, Version, is_authority,
};

/// Why a request head from HTTP/2 is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    /// No `:authority` and no `host`.
    #[error("the request names no authority")]
    NoAuthority,
    /// `host` differs from `:authority`, or there are several.
    #[error("`host` and `:authority` differ")]
    AuthorityMismatch,
    /// User information, or what no host can be (RFC 9113 §8.3.1).
    #[error("the authority is no host and port")]
    Authority,
}

/// The head of a request that came in.
pub(crate) fn request_head(parts: http::request::Parts) -> Result<RequestHead, HeadError> {
    let mut map = parts.headers;
    let uri = parts.uri.into_parts();
    let hosts = map.get_all(HOST).iter().count();
    let host = map.remove(HOST);
    let authority = match (uri.authority, host) {
        (_, Some(_)) if hosts > 1 => return Err(HeadError::AuthorityMismatch),
        (Some(authority), Some(host))
            if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            return Err(HeadError::AuthorityMismatch);
        }
        (Some(authority), _) => authority,
        (None, Some(host)) => {
            host.as_bytes().try_into().map_err(|_: http::uri::InvalidUri| HeadError::AuthorityMismatch)?
        }
        (None, None) => return Err(HeadError::NoAuthority),
    };
    if !is_authority(authority.as_str().as_bytes()) {
        return Err(HeadError::Authority);
    }
    let scheme = match uri.scheme {
        Some(scheme) if scheme == http::uri::Scheme::HTTPS => Scheme::Https,
        _ => Scheme::Http,
    };
    join_cookies(&mut map);
    let path = uri.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let headers = without_connection_fields(map);
    Ok(RequestHead {
        method: parts.method,
        scheme,
        authority: Some(authority),
        path,
        version: Version::Http2,
        headers,
    })
}

/// HTTP/2 may split `cookie` into crumbs; everything behind us expects one field (RFC 9113 §8.2.3).
fn join_cookies(map: &mut HeaderMap) {
    let crumbs = map.get_all(http::header::COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return;
    }
    let joined = crumbs.iter().map(http::HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(value) = http::HeaderValue::from_bytes(&joined) {
        map.insert(http::header::COOKIE, value);
    }
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
pub(crate) fn outgoing_request(head: RequestHead, body: &Body) -> Result<http::Request<()>, http::Error> {
    let grpc = is_grpc(&head.headers);
    let mut request = http::Request::new(());
    *request.method_mut() = head.method;
    *request.version_mut() = http::Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.scheme =
        Some(if head.scheme == Scheme::Https { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
    uri.authority = head.authority;
    uri.path_and_query = Some(head.path);
    *request.uri_mut() = http::Uri::from_parts(uri)?;
    let mut map = head.headers.into_map();
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

/// The head of a response to send.
pub(crate) fn outgoing_response(head: ResponseHead, body: &Body) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    let mut map = head.headers.into_map();
    if !map.contains_key(CONTENT_LENGTH) && !body.is_empty() {
        add_length(&mut map, body);
    }
    *response.headers_mut() = map;
    response
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

/// The body of a message that came in. `headers` loses its content length to the body.
pub(crate) fn incoming(
    stream: RecvStream,
    headers: &mut Headers,
    done: impl FnOnce() + 'static,
    feeder: Option<Pump>,
) -> Body {
    let remaining = take_length(headers);
    if stream.is_end_stream() && feeder.is_none() {
        done();
        return Body::Empty;
    }
    Body::stream(Incoming { stream, remaining, consumed: 0, data_ended: false, feeder, done: Some(done) })
}

/// A body from HTTP/2. The window is opened again only when the next piece is asked for: not reading is back-pressure.
struct Incoming<D: FnOnce()> {
    stream: RecvStream,
    remaining: Option<u64>,
    consumed: usize,
    data_ended: bool,
    /// The request body that is still being sent while its response comes in.
    feeder: Option<Pump>,
    done: Option<D>,
}

impl<D: FnOnce() + 'static> BodyStream for Incoming<D> {
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
                    this.consumed = data.len();
                    this.remaining = this.remaining.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(BodyError::Reset))),
                None => this.data_ended = true,
            }
        }
        let trailers = ready!(this.stream.poll_trailers(context));
        if let Some(done) = this.done.take() {
            done();
        }
        match trailers {
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
        self.remaining
    }

    fn is_at_end(&self) -> bool {
        self.stream.is_end_stream()
    }
}

impl<D: FnOnce()> Unpin for Incoming<D> {}

impl<D: FnOnce()> Drop for Incoming<D> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done();
        }
    }
}

/// Sends a body on a stream, within the peer's window.
pub(crate) struct Pump {
    body: Body,
    stream: SendStream<Bytes>,
    /// A piece taken from the body that the window has no room for yet.
    waiting: Bytes,
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
        Self { body, stream, waiting: Bytes::new(), sent: 0, grpc_status: None }
    }

    /// Sends what can be sent; ready when the body is at its end.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        loop {
            if !self.waiting.is_empty() {
                if ready!(self.poll_send(context))? {
                    // The body is told that it was read to its end: its connection may then serve another.
                    let _ = self.body.poll_frame(context);
                    return Poll::Ready(Ok(()));
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
                    self.stream.reserve_capacity(data.len());
                    self.waiting = data;
                }
                Some(Ok(Frame::Trailers(trailers))) => {
                    self.grpc_status = trailers.get_str("grpc-status").and_then(|text| text.parse().ok());
                    let sent = self.stream.send_trailers(trailers.into_map());
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
        self.sent += piece.len() as u64;
        let last = self.waiting.is_empty() && self.body.is_empty();
        if self.stream.send_data(piece, last).is_err() {
            return Poll::Ready(Err(PumpError::Peer));
        }
        Poll::Ready(Ok(last))
    }
}
