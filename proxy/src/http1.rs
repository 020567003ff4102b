//! The HTTP/1.1 codec: bytes in, events out; no IO (D2).
//!
//! One strict grammar (RFC 9112) for both directions. Nothing is copied through: a message is taken apart into a head, a framing and
//! content, and written anew from these, so that whatever stood between the lines of the original cannot reach the other side.
//! Where the RFC lets a recipient choose between repairing and refusing, this codec refuses: two parsers that repair differently
//! are what request smuggling is made of.
//!
//! - [`RequestParser`], [`ResponseParser`]: a head, as soon as it is complete. They remember how far they looked.
//! - [`BodyDecoder`]: the content after a head.
//! - [`encode_request`], [`encode_response`], [`encode_chunk_header`], [`encode_last_chunk`]: the way out.

use std::time::Duration;

use crate::message::{RequestHead, ResponseHead};

mod request;
mod response;
mod body;
mod encode;
mod target;
mod facts;
mod section;
mod field;
mod fault;

pub(crate) use body::{BodyDecoder, Decoded};
pub(crate) use encode::{
    CHUNK_END, RequestOptions, ResponseOptions, encode_chunk_header, encode_last_chunk, encode_request,
    encode_request_with, encode_response,
};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fault::Fault;
pub(crate) use fault::ParseError;
pub(crate) use field::{is_for_codecs, is_hop_by_hop, may_trail};
pub(crate) use request::RequestParser;
pub(crate) use response::ResponseParser;

#[cfg(test)]
mod tests;

/// Bounds on what a peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of a head, from its first line to the empty one, dropped fields included; the same bound again for trailers.
    pub(crate) head_bytes: usize,
    /// Field lines of a head, dropped ones included; the same bound again for trailers.
    pub(crate) fields: usize,
    /// Bytes of a request target.
    pub(crate) target_bytes: usize,
    /// Whether HTTP/1.0 requests are served. HTTP/1.0 responses always are.
    pub(crate) http_10: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 64 * 1024, fields: 100, target_bytes: 16 * 1024, http_10: false }
    }
}

/// How a message's content is delimited (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no content, and the head says nothing about it.
    None,
    /// Exactly that many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Until the sender closes; responses only.
    UntilClose,
}

impl Framing {
    /// Whether no content follows the head.
    pub(crate) const fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// What a request expects before it sends its content (RFC 9110 §10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Nothing.
    None,
    /// `100-continue`.
    Continue,
    /// Something else: answer 417.
    Unknown,
}

/// A request's head has arrived.
#[derive(Debug)]
pub(crate) struct RequestEvent {
    /// The head. Hop-by-hop fields, framing fields, `Expect` and `Host` are not in its headers any more. The scheme is that
    /// of an absolute target, else `http`: who knows the connection sets it right.
    pub(crate) head: RequestHead,
    /// How the content is delimited; never [`Framing::UntilClose`].
    pub(crate) framing: Framing,
    /// Whether the client allows another request on this connection.
    pub(crate) keep_alive: bool,
    /// The protocol the client wants to switch to, lower case; `h2c` is never offered. Several are joined by commas.
    pub(crate) upgrade: Option<Box<str>>,
    /// What the client waits for.
    pub(crate) expect: Expect,
    /// Whether the target was in absolute form: the client takes this for a proxy.
    pub(crate) absolute_form: bool,
    /// Whether the client takes trailers (`TE: trailers`).
    #[allow(dead_code, reason = "trailers go to every client today; those that refuse them are few")]
    pub(crate) te_trailers: bool,
}

/// A response's head has arrived. Interim (1xx) responses are events too.
#[derive(Debug)]
pub(crate) struct ResponseEvent {
    /// The head. Hop-by-hop and framing fields are not in its headers any more, except that `Content-Length` stays where
    /// it speaks of content that is not sent (HEAD, 304).
    pub(crate) head: ResponseHead,
    /// How the content is delimited.
    pub(crate) framing: Framing,
    /// Whether the connection can carry another request after this response's end.
    pub(crate) keep_alive: bool,
    /// How long the server says it keeps an idle connection (`Keep-Alive: timeout=`).
    pub(crate) keep_alive_timeout: Option<Duration>,
    /// The protocol the server switches to or offers, lower case.
    pub(crate) upgrade: Option<Box<str>>,
}
