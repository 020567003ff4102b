//! The four forms of a request target (RFC 9112 §3.2).

use std::ops::Range;

use bytes::Bytes;
use http::Method;
use http::uri::{Authority, PathAndQuery};

use super::fault::Fault;
use crate::message::{Scheme, parse_authority};

/// What a request target says.
#[derive(Debug)]
pub(super) struct Target {
    /// Of an absolute target.
    pub(super) scheme: Option<Scheme>,
    /// Of an absolute target or CONNECT.
    pub(super) authority: Option<Authority>,
    /// `/` for CONNECT, `*` for the whole server.
    pub(super) path: PathAndQuery,
}

/// Reads the target that stands at `range` of `head`.
pub(super) fn parse(head: &Bytes, range: Range<usize>, method: &Method) -> Result<Target, Fault> {
    let bytes = head.get(range.clone()).unwrap_or_default();
    check_bytes(bytes)?;
    if *method == Method::CONNECT {
        return authority_form(head.slice(range));
    }
    match bytes {
        [b'/', ..] => Ok(Target { scheme: None, authority: None, path: path(head.slice(range))? }),
        b"*" if *method == Method::OPTIONS => {
            Ok(Target { scheme: None, authority: None, path: PathAndQuery::from_static("*") })
        }
        _ => absolute_form(head, range, method),
    }
}

fn check_bytes(bytes: &[u8]) -> Result<(), Fault> {
    let bad = bytes.iter().fold(false, |bad, byte| bad | (*byte <= 0x20) | (*byte == 0x7f) | (*byte == b'#'));
    if !bad {
        return Ok(());
    }
    Err(match bytes.iter().find(|byte| **byte <= 0x20 || **byte == 0x7f || **byte == b'#') {
        Some(b'#') => Fault::Fragment,
        Some(b'\r') => Fault::BareCarriageReturn,
        _ => Fault::Target,
    })
}

fn path(bytes: Bytes) -> Result<PathAndQuery, Fault> {
    PathAndQuery::from_maybe_shared(bytes).map_err(|_| Fault::Target)
}

fn authority_form(bytes: Bytes) -> Result<Target, Fault> {
    let authority = parse_authority(bytes).ok_or(Fault::Authority)?;
    // Without a port nobody knows where to connect to (RFC 9110 §9.3.6).
    if authority.port_u16().is_none_or(|port| port == 0) {
        return Err(Fault::Authority);
    }
    Ok(Target { scheme: None, authority: Some(authority), path: PathAndQuery::from_static("/") })
}

fn absolute_form(head: &Bytes, range: Range<usize>, method: &Method) -> Result<Target, Fault> {
    let bytes = head.get(range.clone()).unwrap_or_default();
    let Some(colon) = bytes.windows(3).position(|window| window == b"://") else { return Err(Fault::Target) };
    let scheme = match bytes.get(..colon).unwrap_or_default() {
        word if word.eq_ignore_ascii_case(b"http") => Scheme::Http,
        word if word.eq_ignore_ascii_case(b"https") => Scheme::Https,
        _ => return Err(Fault::Scheme),
    };
    let start = colon + "://".len();
    let after = bytes.get(start..).unwrap_or_default();
    let end = start + after.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(after.len());
    let authority = head.slice(range.start + start..range.start + end);
    let authority = parse_authority(authority).ok_or(Fault::Authority)?;
    let path = match bytes.get(end) {
        // The last proxy sends such a request as `*` (RFC 9112 §3.2.4).
        None if *method == Method::OPTIONS => PathAndQuery::from_static("*"),
        None => PathAndQuery::from_static("/"),
        Some(b'/') => path(head.slice(range.start + end..range.end))?,
        Some(_) => {
            let mut rooted = Vec::with_capacity(1 + bytes.len() - end);
            rooted.push(b'/');
            rooted.extend_from_slice(bytes.get(end..).unwrap_or_default());
            path(rooted.into())?
        }
    };
    Ok(Target { scheme: Some(scheme), authority: Some(authority), path })
}
