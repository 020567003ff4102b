//! The head of a request that came over HTTP/2, held to the rules that the h2 crate leaves open (RFC 9113 §8.2, §8.3).
//!
//! The crate refuses by itself: unknown, repeated, late and missing pseudo-header fields, upper case, connection-specific fields, `te` other
//! than `trailers`, CR, LF and NUL, a `content-length` that the DATA does not keep. What it hides is in docs/adr/0008.

use http::header::{COOKIE, HOST};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method};

use crate::error::Reason;
use crate::http1::is_hop_by_hop;
use crate::message::{Headers, RequestHead, Scheme, Version, is_authority};

/// Why a request head is refused.
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
    /// CONNECT without a port: nobody knows where to (RFC 9110 §9.3.6).
    #[error("CONNECT names no port")]
    NoPort,
    /// Neither http nor https.
    #[error("the scheme is neither http nor https")]
    Scheme,
    /// Neither `/…` nor, for OPTIONS, `*`.
    #[error("the path does not begin with a slash")]
    Path,
    /// White space around a value (RFC 9113 §8.2.1).
    #[error("a field's value begins or ends with white space")]
    Value,
    /// Not one plain number.
    #[error("`content-length` is not one plain number")]
    ContentLength,
    /// Something other than `100-continue`.
    #[error("only `100-continue` is understood")]
    Expectation,
    /// More bytes than the bound.
    #[error("the header section is larger than the bound")]
    TooLarge,
    /// More fields than the bound.
    #[error("the header section has more fields than the bound")]
    TooManyFields,
}

impl HeadError {
    /// What the reply says.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::TooLarge | Self::TooManyFields => Reason::HeadersTooLarge,
            Self::Expectation => Reason::ExpectationFailed,
            _ => Reason::BadRequest,
        }
    }
}

/// A request that is refused for its head.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Why.
    pub(crate) error: HeadError,
    /// What is known of it: for the log, without fields and without anybody's credentials.
    pub(crate) head: RequestHead,
}

/// Bounds on a header section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadBounds {
    /// Bytes of names and values, and 32 for each field (RFC 9113 §6.5.2).
    pub(crate) bytes: usize,
    /// Fields; what a client splits `cookie` into counts as one.
    pub(crate) fields: usize,
}

/// A request's head, and what it asks of us.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The head.
    pub(crate) head: RequestHead,
    /// `expect: 100-continue`.
    pub(crate) expects_continue: bool,
}

/// Reads a head.
pub(crate) fn request_head(
    parts: http::request::Parts,
    bounds: HeadBounds,
) -> Result<Incoming, Box<Refused>> {
    let http::request::Parts { method, uri, headers, .. } = parts;
    let uri = uri.into_parts();
    let path = uri.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut head = RequestHead {
        method,
        scheme: Scheme::Http,
        authority: uri.authority,
        path,
        version: Version::Http2,
        headers: Headers::new(),
    };
    match complete(&mut head, uri.scheme.as_ref(), headers, bounds) {
        Ok(expects_continue) => Ok(Incoming { head, expects_continue }),
        Err(error) => {
            head.authority = head.authority.and_then(without_user);
            head.headers = Headers::new();
            Err(Box::new(Refused { error, head }))
        }
    }
}

/// Checks what the request line would say, and adds the fields. Whether a `100 Continue` is expected.
fn complete(
    head: &mut RequestHead,
    scheme: Option<&http::uri::Scheme>,
    mut headers: HeaderMap,
    bounds: HeadBounds,
) -> Result<bool, HeadError> {
    let room = bounds.bytes.checked_sub(head.path.as_str().len()).ok_or(HeadError::TooLarge)?;
    let authority = match one_authority(head.authority.as_ref(), &mut headers)? {
        Some(named) => head.authority.insert(named),
        None => head.authority.as_mut().ok_or(HeadError::NoAuthority)?,
    };
    if !is_authority(authority.as_str().as_bytes()) {
        return Err(HeadError::Authority);
    }
    if head.method == Method::CONNECT && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(HeadError::NoPort);
    }
    head.scheme = match scheme {
        Some(scheme) if *scheme == http::uri::Scheme::HTTPS => Scheme::Https,
        Some(scheme) if *scheme != http::uri::Scheme::HTTP => return Err(HeadError::Scheme),
        _ => Scheme::Http,
    };
    let is_server_wide = head.path == "*" && head.method == Method::OPTIONS;
    if !(head.path.as_str().starts_with('/') || is_server_wide) {
        return Err(HeadError::Path);
    }
    join_cookies(&mut headers, room)?;
    let mut section = Section { room, fields: bounds.fields, ..Section::default() };
    head.headers = Headers::from_map(headers);
    head.headers.retain(|name, value| section.keeps(name, value));
    section.fault.map_or(Ok(section.expects_continue), Err)
}

/// An authority without the user's name and password; `None` when nothing is left.
fn without_user(authority: Authority) -> Option<Authority> {
    match authority.as_str().rsplit_once('@') {
        Some((_, host)) => host.parse().ok(),
        None => Some(authority),
    }
}

/// The one authority of a request: what `host` says where there is no `:authority`, which it may only repeat. `host` is taken out.
fn one_authority(
    pseudo: Option<&Authority>,
    headers: &mut HeaderMap,
) -> Result<Option<Authority>, HeadError> {
    let hosts = headers.get_all(HOST).iter().count();
    match (pseudo, headers.remove(HOST)) {
        (_, Some(_)) if hosts > 1 => Err(HeadError::AuthorityMismatch),
        (Some(authority), Some(host))
            if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            Err(HeadError::AuthorityMismatch)
        }
        (Some(_), _) | (None, None) => Ok(None),
        (None, Some(host)) => host.as_bytes().try_into().map(Some).map_err(|_| HeadError::Authority),
    }
}

/// HTTP/2 may split `cookie` into crumbs; everything behind us expects one field (RFC 9113 §8.2.3). Gives the bytes that they make.
fn join_cookies(headers: &mut HeaderMap, room: usize) -> Result<usize, HeadError> {
    let crumbs = headers.get_all(COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return Ok(0);
    }
    // Each crumb counts with its share of the list, also those that one byte on the wire stood for (R2).
    let bytes = crumbs.iter().map(|crumb| crumb.len() + FIELD).sum();
    if bytes > room {
        return Err(HeadError::TooLarge);
    }
    let joined = crumbs.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, value);
    }
    Ok(bytes)
}

/// What is gathered in one walk over the fields.
#[derive(Debug, Default)]
struct Section {
    room: usize,
    fields: usize,
    has_length: bool,
    expects_continue: bool,
    fault: Option<HeadError>,
}

impl Section {
    fn keeps(&mut self, name: &[u8], value: &[u8]) -> bool {
        match self.check(name, value) {
            Ok(keeps) => keeps,
            Err(fault) => {
                self.fault = self.fault.or(Some(fault));
                false
            }
        }
    }

    fn check(&mut self, name: &[u8], value: &[u8]) -> Result<bool, HeadError> {
        self.room = self.room.checked_sub(name.len() + value.len() + FIELD).ok_or(HeadError::TooLarge)?;
        self.fields = self.fields.checked_sub(1).ok_or(HeadError::TooManyFields)?;
        let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        if is_space(value.first()) || is_space(value.last()) {
            return Err(HeadError::Value);
        }
        match name {
            b"content-length" => {
                if std::mem::replace(&mut self.has_length, true) || !is_plain_number(value) {
                    return Err(HeadError::ContentLength);
                }
                Ok(true)
            }
            b"expect" => {
                // We meet it ourselves.
                self.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
                if self.expects_continue { Ok(false) } else { Err(HeadError::Expectation) }
            }
            name => Ok(!is_hop_by_hop(name)),
        }
    }
}

/// A decimal number without sign or leading zero, that 64 bits hold.
fn is_plain_number(value: &[u8]) -> bool {
    let digits = value.iter().all(u8::is_ascii_digit) && (value.len() == 1 || value.first() != Some(&b'0'));
    digits && std::str::from_utf8(value).is_ok_and(|text| text.parse::<u64>().is_ok())
}

/// What the list that carries it costs for each field, besides name and value (RFC 9113 §6.5.2).
const FIELD: usize = 32;

#[cfg(test)]
mod tests;
