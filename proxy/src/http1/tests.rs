//! Tests of the codec. Names that start with `a` and a number are the cases of the hardening battery.

use bytes::BytesMut;
use http::Method;

use super::*;

mod bodies;
mod encoding;
mod properties;
mod requests;
mod responses;

/// A request head, whole.
fn request(bytes: impl AsRef<[u8]>) -> Result<RequestEvent, ParseError> {
    let limits = Limits { http_10: true, ..Limits::default() };
    let mut buffer = BytesMut::from(bytes.as_ref());
    let event = RequestParser::new().parse(&mut buffer, &limits)?;
    Ok(event.expect("the head is incomplete"))
}

/// A GET with further header lines.
fn get(lines: impl AsRef<[u8]>) -> Result<RequestEvent, ParseError> {
    request([b"GET / HTTP/1.1\r\nHost: a.test\r\n", lines.as_ref(), b"\r\n\r\n"].concat())
}

/// A POST with further header lines.
fn post(lines: impl AsRef<[u8]>) -> Result<RequestEvent, ParseError> {
    request([b"POST / HTTP/1.1\r\nHost: a.test\r\n", lines.as_ref(), b"\r\n\r\n"].concat())
}

/// A response head to a method, whole.
fn response_to(method: &Method, bytes: impl AsRef<[u8]>) -> Result<ResponseEvent, ParseError> {
    let mut buffer = BytesMut::from(bytes.as_ref());
    let event = ResponseParser::new().parse(&mut buffer, &Limits::default(), method)?;
    Ok(event.expect("the head is incomplete"))
}

/// A 200 to GET with further header lines.
fn ok(lines: impl AsRef<[u8]>) -> Result<ResponseEvent, ParseError> {
    response_to(&Method::GET, [b"HTTP/1.1 200 OK\r\n", lines.as_ref(), b"\r\n\r\n"].concat())
}

fn fault<T: std::fmt::Debug>(result: Result<T, ParseError>) -> Fault {
    result.unwrap_err().fault()
}

fn names(headers: &crate::message::Headers) -> Vec<String> {
    headers.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
}
