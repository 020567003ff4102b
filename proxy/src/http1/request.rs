//! Request heads.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use http::uri::Authority;

use super::facts::Facts;
use super::fault::{Fault, ParseError};
use super::field::{self, Known};
use super::section::Section;
use super::target::{self, Target};
use super::{Expect, Framing, Limits, RequestEvent};
use crate::message::{RequestHead, Scheme, Version, parse_authority};

/// No method in use is longer than half of this.
const MAX_METHOD: usize = 32;

/// Empty lines that may stand before a request line, for clients that end content with one too many (RFC 9112 §2.2).
const MAX_BLANK_LINES: u8 = 4;

const VERSION_BYTES: usize = "HTTP/1.1".len();

/// Finds request heads at the start of a buffer.
#[derive(Debug, Default)]
pub(crate) struct RequestParser {
    blank_lines: u8,
    line: Option<RequestLine>,
    section: Section,
    /// The last `Host`: most connections name one only.
    host: Option<Authority>,
}

#[derive(Debug)]
struct RequestLine {
    method: Method,
    target: Range<usize>,
    version: Version,
}

impl RequestParser {
    /// A parser at the start of a message.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Takes a head off the buffer when it is complete; `None` while it is not. Between calls the buffer only grows.
    pub(crate) fn parse(
        &mut self,
        buffer: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Option<RequestEvent>, ParseError> {
        self.advance(buffer, limits).map_err(ParseError::Request)
    }

    fn advance(&mut self, buffer: &mut BytesMut, limits: &Limits) -> Result<Option<RequestEvent>, Fault> {
        if self.line.is_none() {
            self.skip_blank_lines(buffer)?;
            // A lone CR may be the first half of one more: the search for the line's end must not start before that is known.
            if buffer[..] == *b"\r" {
                return Ok(None);
            }
            self.line = self.request_line(buffer, limits)?;
        }
        if self.line.is_none() || !self.section.read(buffer, limits)? {
            return Ok(None);
        }
        let Some(line) = self.line.take() else { return Ok(None) };
        let head = buffer.split_to(self.section.lines.position()).freeze();
        let event = finish(line, &self.section, head, limits, &mut self.host)?;
        self.section.reset();
        self.blank_lines = 0;
        Ok(Some(event))
    }

    fn skip_blank_lines(&mut self, buffer: &mut BytesMut) -> Result<(), Fault> {
        while let [b'\r', next, ..] = buffer[..] {
            if next != b'\n' {
                return Err(Fault::BareCarriageReturn);
            }
            if self.blank_lines == MAX_BLANK_LINES {
                return Err(Fault::BlankLines);
            }
            self.blank_lines += 1;
            buffer.advance(2);
        }
        Ok(())
    }

    fn request_line(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<RequestLine>, Fault> {
        // Longer than this, the target or the method is too long, whatever comes.
        let longest = MAX_METHOD + 1 + limits.target_bytes + 1 + VERSION_BYTES + 2;
        let line = self.section.lines.next(bytes, longest);
        let Some(range) = line.map_err(|fault| too_long(fault, bytes))? else { return Ok(None) };
        let start = range.start;
        let end = self.section.lines.position();
        let line = parse_line(bytes.get(range).unwrap_or_default(), start, limits)?;
        if end > limits.head_bytes {
            return Err(Fault::HeadTooLarge);
        }
        Ok(Some(line))
    }
}

fn too_long(fault: Fault, bytes: &[u8]) -> Fault {
    match fault {
        Fault::HeadTooLarge if bytes.iter().take(MAX_METHOD + 1).any(|byte| *byte == b' ') => {
            Fault::TargetTooLong
        }
        Fault::HeadTooLarge => Fault::Method,
        other => other,
    }
}

fn parse_line(line: &[u8], start: usize, limits: &Limits) -> Result<RequestLine, Fault> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(if line.contains(&b'\r') { Fault::BareCarriageReturn } else { Fault::RequestLine });
    };
    if method.len() > MAX_METHOD || !field::is_token(method) {
        return Err(Fault::Method);
    }
    if target.len() > limits.target_bytes {
        return Err(Fault::TargetTooLong);
    }
    if target.is_empty() {
        return Err(Fault::RequestLine);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" if limits.http_10 => Version::Http10,
        _ if version.contains(&b'\r') => return Err(Fault::BareCarriageReturn),
        _ => return Err(Fault::Version),
    };
    let first = start + method.len() + 1;
    let target = first..first + target.len();
    let method = Method::from_bytes(method).map_err(|_| Fault::Method)?;
    Ok(RequestLine { method, target, version })
}

fn finish(
    line: RequestLine,
    section: &Section,
    head: Bytes,
    limits: &Limits,
    last_host: &mut Option<Authority>,
) -> Result<RequestEvent, Fault> {
    let RequestLine { method, target, version } = line;
    let facts = Facts::gather(section, &head, limits)?;
    let target = target::parse(&head, target, &method)?;
    let host = host(&facts, &head, version, last_host)?;
    if host.is_none() && target.authority.is_none() && version == Version::Http11 {
        return Err(Fault::HostMissing);
    }
    let framing = match facts.framing(version)? {
        Framing::Length(0) | Framing::None if method == Method::CONNECT => Framing::None,
        _ if method == Method::CONNECT => return Err(Fault::ConnectContent),
        framing => framing,
    };
    // HTTP/1.0 knows neither upgrades nor expectations (RFC 9110 §7.8, §10.1.1).
    let modern = version == Version::Http11;
    let upgrade = if modern { facts.upgrade(section, &head) } else { None };
    let expect = if modern || facts.expect != Expect::Continue { facts.expect } else { Expect::None };
    let Target { scheme, authority, path } = target;
    let headers = section
        .headers(&head, |field| field.known == Known::Other && !facts.is_nominated(field, section, &head));
    let authority = authority.or(host);
    let absolute_form = scheme.is_some();
    let scheme = scheme.unwrap_or(Scheme::Http);
    Ok(RequestEvent {
        head: RequestHead { method, scheme, authority, path, version, headers },
        framing,
        keep_alive: facts.keeps_alive(version),
        upgrade,
        expect,
        absolute_form,
        te_trailers: facts.te_trailers,
    })
}

/// `Host` must be there once and be an authority. Empty, it is as good as none: right only beside a target that names one.
fn host(
    facts: &Facts,
    head: &[u8],
    version: Version,
    last: &mut Option<Authority>,
) -> Result<Option<Authority>, Fault> {
    let Some(span) = facts.host else {
        return if version == Version::Http11 { Err(Fault::HostMissing) } else { Ok(None) };
    };
    if facts.hosts > 1 {
        return Err(Fault::HostRepeated);
    }
    let text = span.of(head);
    if text.is_empty() {
        return Ok(None);
    }
    if last.as_ref().is_none_or(|last| last.as_str().as_bytes() != text) {
        // A copy, so that it does not keep the whole head.
        *last = Some(parse_authority(Bytes::copy_from_slice(text)).ok_or(Fault::Host)?);
    }
    Ok(last.clone())
}
