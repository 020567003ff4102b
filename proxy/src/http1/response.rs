//! Response heads.

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};

use super::facts::Facts;
use super::fault::{Fault, ParseError};
use super::field::{self, Known};
use super::section::Section;
use super::{Framing, Limits, ResponseEvent};
use crate::message::{ResponseHead, Version};

/// Finds response heads at the start of a buffer.
#[derive(Debug, Default)]
pub(crate) struct ResponseParser {
    line: Option<StatusLine>,
    section: Section,
}

#[derive(Clone, Copy, Debug)]
struct StatusLine {
    version: Version,
    status: StatusCode,
}

impl ResponseParser {
    /// A parser at the start of a message.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Takes a head off the buffer when it is complete; `None` while it is not. Between calls the buffer only grows.
    /// What follows the message stays in the buffer: bytes there when nothing was asked for are the caller's to refuse.
    pub(crate) fn parse(
        &mut self,
        buffer: &mut BytesMut,
        limits: &Limits,
        request_method: &Method,
    ) -> Result<Option<ResponseEvent>, ParseError> {
        self.advance(buffer, limits, request_method).map_err(ParseError::Response)
    }

    fn advance(
        &mut self,
        buffer: &mut BytesMut,
        limits: &Limits,
        request_method: &Method,
    ) -> Result<Option<ResponseEvent>, Fault> {
        if self.line.is_none() {
            let Some(range) = self.section.lines.next(buffer, limits.head_bytes)? else { return Ok(None) };
            self.line = Some(parse_line(buffer.get(range).unwrap_or_default())?);
        }
        if !self.section.read(buffer, limits)? {
            return Ok(None);
        }
        let Some(line) = self.line.take() else { return Ok(None) };
        let head = buffer.split_to(self.section.lines.position()).freeze();
        let event = finish(line, &self.section, head, limits, request_method)?;
        self.section.reset();
        Ok(Some(event))
    }
}

/// `HTTP/1.1 200 OK`; the space after the status may be missing with the phrase, as many servers have it.
fn parse_line(line: &[u8]) -> Result<StatusLine, Fault> {
    let fault = if line.contains(&b'\r') { Fault::BareCarriageReturn } else { Fault::StatusLine };
    let (version, rest) = line.split_at_checked("HTTP/1.1 ".len()).ok_or(fault)?;
    let version = match version {
        b"HTTP/1.1 " => Version::Http11,
        b"HTTP/1.0 " => Version::Http10,
        _ if version.starts_with(b"HTTP/") => return Err(Fault::Version),
        _ => return Err(fault),
    };
    let (code, phrase) = rest.split_at_checked(3).ok_or(fault)?;
    if !matches!(phrase, [] | [b' ', ..]) || !field::is_content(phrase) {
        return Err(fault);
    }
    if !code.iter().all(u8::is_ascii_digit) {
        return Err(Fault::StatusLine);
    }
    let status = StatusCode::from_bytes(code).ok().filter(|status| status.as_u16() < 600);
    Ok(StatusLine { version, status: status.ok_or(Fault::Status)? })
}

fn finish(
    line: StatusLine,
    section: &Section,
    head: Bytes,
    limits: &Limits,
    method: &Method,
) -> Result<ResponseEvent, Fault> {
    let StatusLine { version, status } = line;
    let facts = Facts::gather(section, &head, limits)?;
    let declared = facts.framing(version)?;
    let silent = *method == Method::HEAD || status == StatusCode::NOT_MODIFIED;
    let never = status.is_informational() || status == StatusCode::NO_CONTENT;
    let tunnel = *method == Method::CONNECT && status.is_success();
    let framing = match declared {
        _ if silent || never || tunnel => Framing::None,
        Framing::None => Framing::UntilClose,
        declared => declared,
    };
    // A 204 with a framing field announces bytes that nobody will read: what follows cannot be trusted to be a response.
    let ambiguous = never && !declared.is_empty();
    let switches = status == StatusCode::SWITCHING_PROTOCOLS || tunnel;
    let keep_alive = facts.keeps_alive(version) && framing != Framing::UntilClose && !ambiguous && !switches;
    let keep_length = silent && !never;
    let headers = section.headers(&head, |field| match field.known {
        Known::Other => !facts.is_nominated(field, section, &head),
        Known::Host | Known::Expect => true,
        Known::ContentLength => keep_length,
        _ => false,
    });
    Ok(ResponseEvent {
        head: ResponseHead { status, version, headers },
        framing,
        keep_alive,
        keep_alive_timeout: facts.keep_alive_timeout,
        upgrade: facts.upgrade(section, &head),
    })
}
