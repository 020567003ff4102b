//! Messages written anew: nothing of framing or connection management is taken from the headers that are passed on.

use bytes::{BufMut, BytesMut};
use http::uri::Authority;
use http::{Method, StatusCode};

use super::Framing;
use super::field::{self, Known};
use crate::message::{Headers, RequestHead, ResponseHead};

/// What ends a chunk's content.
pub(crate) const CHUNK_END: &[u8] = b"\r\n";

/// What a request says about its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestOptions<'a> {
    /// Whether the connection is to be kept afterwards.
    pub(crate) keep_alive: bool,
    /// The protocol to switch to.
    pub(crate) upgrade: Option<&'a str>,
    /// Whether trailers are welcome (`TE: trailers`).
    pub(crate) te_trailers: bool,
}

impl Default for RequestOptions<'_> {
    fn default() -> Self {
        Self { keep_alive: true, upgrade: None, te_trailers: false }
    }
}

/// What a response says about its connection, and whom it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseOptions<'a> {
    /// The client speaks HTTP/1.0: no chunks (content of unknown length goes out as it is and ends with the connection), and
    /// keeping the connection must be said. Interim responses are not for it: the caller leaves them out.
    pub(crate) to_http_10: bool,
    /// Whether the connection is kept afterwards.
    pub(crate) keep_alive: bool,
    /// The protocol that is switched to (101) or demanded (426).
    pub(crate) upgrade: Option<&'a str>,
}

impl Default for ResponseOptions<'_> {
    fn default() -> Self {
        Self { to_http_10: false, keep_alive: true, upgrade: None }
    }
}

/// Writes a request head for a connection that is kept, without upgrade.
pub(crate) fn encode_request(head: &RequestHead, framing: &Framing, out: &mut BytesMut) {
    encode_request_with(head, framing, &RequestOptions::default(), out);
}

/// Writes a request head: origin form (authority form for CONNECT), `Host` from the authority, one framing field from `framing`.
pub(crate) fn encode_request_with(
    head: &RequestHead,
    framing: &Framing,
    options: &RequestOptions<'_>,
    out: &mut BytesMut,
) {
    let path = head.path.as_str();
    out.reserve(path.len() + head.headers.wire_len() + 256);
    let host = head.authority.as_ref().map_or("", without_userinfo);
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    if head.method == Method::CONNECT {
        out.put_slice(host.as_bytes());
    } else {
        if !path.starts_with(['/', '*']) {
            out.put_u8(b'/');
        }
        out.put_slice(path.as_bytes());
    }
    out.put_slice(b" HTTP/1.1\r\n");
    put_field(b"host", host.as_bytes(), out);
    put_headers(
        &head.headers,
        |known| matches!(known, Known::Other | Known::Expect | Known::ProxyLogin),
        out,
    );
    match framing {
        Framing::Length(length) => put_length(*length, out),
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        // Some servers answer 411 to these when nothing is said (RFC 9110 §8.6).
        Framing::None if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => {
            put_length(0, out)
        }
        Framing::None | Framing::UntilClose => {}
    }
    if options.te_trailers {
        put_field(b"te", b"trailers", out);
    }
    let named = [
        (options.upgrade.is_some(), "upgrade"),
        (options.te_trailers, "te"),
        (!options.keep_alive && options.upgrade.is_none(), "close"),
    ];
    put_connection(&named, options.upgrade, out);
    out.put_slice(b"\r\n");
}

/// Writes a response head.
///
/// [`Framing::None`] writes no framing field and lets a `Content-Length` among the headers through: right for HEAD, 1xx, 204 and 304
/// only. Empty content is `Length(0)`.
pub(crate) fn encode_response(
    head: &ResponseHead,
    framing: &Framing,
    options: &ResponseOptions<'_>,
    out: &mut BytesMut,
) {
    let status = head.status;
    out.reserve(head.headers.wire_len() + 256);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    put_headers(
        &head.headers,
        |known| matches!(known, Known::Other | Known::Host | Known::Expect | Known::ProxyLogin),
        out,
    );
    let never = status.is_informational() || status == StatusCode::NO_CONTENT;
    let silent = status == StatusCode::NOT_MODIFIED || *framing == Framing::None;
    match framing {
        _ if never => {}
        _ if silent => put_announced_length(&head.headers, out),
        Framing::Length(length) => put_length(*length, out),
        Framing::Chunked if !options.to_http_10 => out.put_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Chunked | Framing::UntilClose | Framing::None => {}
    }
    let ends_by_close = !(never || silent)
        && (*framing == Framing::UntilClose || options.to_http_10 && *framing == Framing::Chunked);
    let interim = status.is_informational();
    let close = !options.keep_alive || ends_by_close;
    let named = [
        (options.upgrade.is_some(), "upgrade"),
        (close && !interim, "close"),
        (!close && !interim && options.to_http_10, "keep-alive"),
    ];
    put_connection(&named, options.upgrade, out);
    out.put_slice(b"\r\n");
}

/// Writes what precedes a chunk's content; [`CHUNK_END`] follows the content. `len` is not 0: that would end the message.
pub(crate) fn encode_chunk_header(len: usize, out: &mut BytesMut) {
    debug_assert!(len > 0);
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.put_u8(b"0123456789abcdef"[(len >> (4 * digit)) & 0xf]);
    }
    out.put_slice(b"\r\n");
}

/// Writes the end of chunked content. Fields that may not come in trailers are left out.
pub(crate) fn encode_last_chunk(trailers: Option<&Headers>, out: &mut BytesMut) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flat_map(Headers::iter) {
        if field::may_trail(name) {
            put_field(name, value, out);
        }
    }
    out.put_slice(b"\r\n");
}

fn put_headers(headers: &Headers, keep: impl Fn(Known) -> bool, out: &mut BytesMut) {
    // A header list holds nothing else than what this codec or the `http` crate has validated, and what the program itself writes.
    for (name, value) in headers.iter().filter(|(name, _)| keep(field::classify(name))) {
        put_line(name, value, out);
    }
}

fn put_field(name: &[u8], value: &[u8], out: &mut BytesMut) {
    // What is built is validated then; this keeps a mistake elsewhere from becoming a second header line.
    if !field::is_token(name) || !field::is_content(value) {
        debug_assert!(false, "a header that no message may have");
        return;
    }
    put_line(name, value, out);
}

fn put_line(name: &[u8], value: &[u8], out: &mut BytesMut) {
    debug_assert!(field::is_token(name) && field::is_content(value));
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn put_connection(named: &[(bool, &str)], upgrade: Option<&str>, out: &mut BytesMut) {
    let mut first = true;
    for (_, option) in named.iter().filter(|(present, _)| *present) {
        out.put_slice(if first { b"connection: " } else { b", " });
        out.put_slice(option.as_bytes());
        first = false;
    }
    if !first {
        out.put_slice(b"\r\n");
    }
    if let Some(protocol) = upgrade {
        put_field(b"upgrade", protocol.as_bytes(), out);
    }
}

/// The length of content that is not sent, if the headers say it once and well.
fn put_announced_length(headers: &Headers, out: &mut BytesMut) {
    let mut lengths = headers.get_all("content-length");
    if let (Some(length), None) = (lengths.next(), lengths.next())
        && !length.is_empty()
        && length.iter().all(u8::is_ascii_digit)
    {
        put_field(b"content-length", length, out);
    }
}

fn put_length(length: u64, out: &mut BytesMut) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    let mut rest = length;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.put_slice(b"content-length: ");
    out.put_slice(&digits[start..]);
    out.put_slice(b"\r\n");
}

/// Userinfo has no place in HTTP (RFC 9110 §4.2.4), wherever the authority came from.
fn without_userinfo(authority: &Authority) -> &str {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}
