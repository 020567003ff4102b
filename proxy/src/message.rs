//! One HTTP message as the rooms see it, whatever version carried it: heads, [`Headers`], [`Body`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};

use crate::io::Io;

mod alike;
mod authority;
mod headers;
mod path;
mod replay;
mod websocket;

pub(crate) use authority::{is_authority, parse_authority};
pub(crate) use headers::{Headers, Name, Value, drop_spare_fields};
pub(crate) use path::{EscapedSlashes, PathError, PathOptions, normalize};
pub(crate) use replay::Replay;
pub(crate) use websocket::{accept_of, new_key};

/// The version a message came in or goes out with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// As in `%PROTOCOL%`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// `:scheme`, or what the connection implies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// Cleartext.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// The word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The head of a request. `Host`/`:authority` lives in `authority` only, never in `headers`.
#[derive(Clone, Debug)]
pub(crate) struct RequestHead {
    /// The method.
    pub(crate) method: Method,
    /// The scheme.
    pub(crate) scheme: Scheme,
    /// The authority; absent only from HTTP/1.0 requests without `Host`.
    pub(crate) authority: Option<Authority>,
    /// Path and query as they arrived or as normalisation left them; for CONNECT `/`.
    pub(crate) path: PathAndQuery,
    /// The version it came in.
    pub(crate) version: Version,
    /// The header fields, hop-by-hop ones removed by the codec room.
    pub(crate) headers: Headers,
}

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    /// The head.
    pub(crate) head: RequestHead,
    /// The body. Of a request for a tunnel it is what goes through, to be left alone until the other side has agreed (R1).
    pub(crate) body: Body,
    /// What the connection or stream is to become.
    pub(crate) tunnel: Option<Tunnel>,
}

/// What a request asks its connection, or its stream, to become once the other side agrees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tunnel {
    /// CONNECT (RFC 9110 §9.3.6).
    Connect,
    /// Another protocol, lower case: `Upgrade` (RFC 9110 §7.8) or extended CONNECT (RFC 8441).
    Upgrade(Arc<str>),
}

/// The head of a response.
#[derive(Clone, Debug)]
pub(crate) struct ResponseHead {
    /// The status.
    pub(crate) status: StatusCode,
    /// The version it came in.
    #[allow(dead_code, reason = "for logs of what an upstream speaks")]
    pub(crate) version: Version,
    /// The header fields, hop-by-hop ones removed by the codec room.
    pub(crate) headers: Headers,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    /// The head.
    pub(crate) head: ResponseHead,
    /// The body.
    pub(crate) body: Body,
}

/// A piece of a body.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    /// Content.
    Data(Bytes),
    /// Trailer fields; the last frame.
    Trailers(Headers),
}

/// A body in pieces. After `None` or an error it is not polled again. Dropping it early aborts the message.
pub(crate) trait BodyStream {
    /// The next piece. The stream reads no further ahead than one piece: not polling is back-pressure.
    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>>;

    /// Bytes still to come, when the framing says so.
    fn remaining(&self) -> Option<u64>;

    /// Does what the message's other direction needs while nobody wants a piece: a client may send all of its request before it reads
    /// the response to it. Does nothing for most.
    fn poll_feed(self: Pin<&mut Self>, _context: &mut Context<'_>) {}

    /// After the end: until the other direction has ended too. Only a tunnel's outlives it.
    fn poll_drained(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// The socket whose next bytes are the rest of the content, and how many those are; `None` when that is not so. Who takes some of
    /// them from it says so by [`Self::took`].
    fn socket(&self) -> Option<(&Io, u64)> {
        None
    }

    /// So many bytes of the content were taken from the socket.
    fn took(self: Pin<&mut Self>, _count: usize) {}

    /// Whether it is known that no piece follows, trailers included: the last piece can then be sent as the last, rather than be
    /// followed by an empty one, which receivers count as abuse. The stream is polled once more all the same.
    fn is_at_end(&self) -> bool {
        false
    }
}

/// A message's content.
#[derive(Default)]
pub(crate) enum Body {
    /// None.
    #[default]
    Empty,
    /// All of it is here.
    Full(Bytes),
    /// It comes in pieces.
    Stream(Pin<Box<dyn BodyStream>>),
}

impl Body {
    /// Wraps a stream.
    pub(crate) fn stream(stream: impl BodyStream + 'static) -> Self {
        Self::Stream(Box::pin(stream))
    }

    /// Whether nothing is left to read.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(data) => data.is_empty(),
            Self::Stream(stream) => stream.is_at_end(),
        }
    }

    /// Bytes still to come, when known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(data) => Some(data.len() as u64),
            Self::Stream(stream) => stream.remaining(),
        }
    }

    /// The next piece.
    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(_) => {
                let Self::Full(data) = std::mem::take(self) else { return Poll::Ready(None) };
                if data.is_empty() { Poll::Ready(None) } else { Poll::Ready(Some(Ok(Frame::Data(data)))) }
            }
            Self::Stream(stream) => stream.as_mut().poll_frame(context),
        }
    }

    /// See [`BodyStream::poll_feed`].
    pub(crate) fn poll_feed(&mut self, context: &mut Context<'_>) {
        if let Self::Stream(stream) = self {
            stream.as_mut().poll_feed(context);
        }
    }

    /// See [`BodyStream::poll_drained`].
    pub(crate) fn poll_drained(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Stream(stream) => stream.as_mut().poll_drained(context),
            Self::Empty | Self::Full(_) => Poll::Ready(()),
        }
    }

    /// See [`BodyStream::socket`].
    pub(crate) fn socket(&self) -> Option<(&Io, u64)> {
        if let Self::Stream(stream) = self { stream.socket() } else { None }
    }

    /// See [`BodyStream::took`].
    pub(crate) fn took(&mut self, count: usize) {
        if let Self::Stream(stream) = self {
            stream.as_mut().took(count);
        }
    }

    /// The next piece, awaited.
    pub(crate) async fn frame(&mut self) -> Option<Result<Frame, BodyError>> {
        std::future::poll_fn(|context| self.poll_frame(context)).await
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => formatter.write_str("Empty"),
            Self::Full(data) => write!(formatter, "Full({})", data.len()),
            Self::Stream(stream) => write!(formatter, "Stream({:?})", stream.remaining()),
        }
    }
}

/// Why a body ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// The sender closed or reset.
    #[error("the sender ended the body early")]
    Reset,
    /// The framing is broken.
    #[error("the body's framing is broken")]
    Malformed,
    /// Of a tunnel: the receiver's own side of it has broken.
    #[error("the other direction broke")]
    Broken,
}
