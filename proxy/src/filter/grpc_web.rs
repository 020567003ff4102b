//! gRPC-Web ↔ gRPC: what browsers can send and read, for servers that speak gRPC.
//!
//! A browser sees no trailers: they become a last frame of the body, marked by the top bit of its first byte. The text form is the same in
//! base64, in pieces that may each be padded (gRPC-Web, "Protocol differences vs gRPC over HTTP2").

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;

use crate::message::{Body, BodyError, BodyStream, Frame, Headers, Request, Response};

/// A request that was translated: how its response has to go back.
#[derive(Debug)]
pub(crate) struct GrpcWeb {
    text: bool,
    /// `grpc-status` of the trailers, once they have come.
    status: Rc<Cell<Option<u16>>>,
}

impl GrpcWeb {
    /// Makes a gRPC request of a gRPC-Web one; `None`, and nothing changed, when it is none.
    pub(crate) fn translate(request: &mut Request) -> Option<Self> {
        let headers = &mut request.head.headers;
        let (text, rest) = form(headers.get("content-type")?)?;
        let content_type = HeaderValue::from_bytes(&[b"application/grpc", rest].concat()).ok()?;
        let text_back = match headers.get("accept").and_then(form) {
            Some((accepted, _)) => accepted,
            None => text,
        };
        headers.set("content-type", content_type);
        headers.remove("content-length");
        headers.remove("x-grpc-web");
        let body = std::mem::take(&mut request.body);
        request.body =
            if text { Body::stream(Decoding { inner: body, rest: BytesMut::new() }) } else { body };
        Some(Self { text: text_back, status: Rc::default() })
    }

    /// Makes a gRPC-Web response of a gRPC one. What is no gRPC at all is left as it is: its status says enough.
    pub(crate) fn translate_back(&self, response: &mut Response) {
        let headers = &mut response.head.headers;
        if !headers.get("content-type").is_some_and(|value| value.starts_with(b"application/grpc")) {
            return;
        }
        let kind = if self.text { TEXT } else { BINARY };
        headers.set("content-type", HeaderValue::from_static(kind));
        headers.remove("content-length");
        if !response.body.is_empty() {
            let inner = std::mem::take(&mut response.body);
            let encoding = Encoding { inner, text: self.text, ended: false, status: self.status.clone() };
            response.body = Body::stream(encoding);
        }
    }

    /// Where the status of trailers to come is noted.
    pub(crate) fn status(&self) -> Rc<Cell<Option<u16>>> {
        self.status.clone()
    }
}

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";

/// Whether a content type is gRPC-Web's text form, and what follows its name (`+proto`).
fn form(content_type: &[u8]) -> Option<(bool, &[u8])> {
    let rest = content_type.strip_prefix(b"application/grpc-web")?;
    let (text, rest) = match rest.strip_prefix(b"-text") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    matches!(rest.first(), None | Some(b'+' | b';')).then_some((text, rest))
}

/// A request's body out of base64.
struct Decoding {
    inner: Body,
    /// Less than one group of four.
    rest: BytesMut,
}

impl BodyStream for Decoding {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        loop {
            let frame = match ready!(self.inner.poll_frame(context)) {
                Some(Ok(Frame::Data(data))) => data,
                None if !self.rest.is_empty() => return Poll::Ready(Some(Err(BodyError::Malformed))),
                other => return Poll::Ready(other),
            };
            self.rest.extend_from_slice(&frame);
            let whole = self.rest.len() - self.rest.len() % 4;
            let groups = self.rest.split_to(whole);
            match decode(&groups) {
                Some(data) if data.is_empty() => {}
                Some(data) => return Poll::Ready(Some(Ok(Frame::Data(data.into())))),
                None => return Poll::Ready(Some(Err(BodyError::Malformed))),
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

/// Groups of four, of which any may be padded and so end a piece.
fn decode(groups: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(groups.len() / 4 * 3);
    let mut pieces = groups;
    while !pieces.is_empty() {
        let end = pieces.chunks(4).position(|group| group.ends_with(b"="));
        let end = end.map_or(pieces.len(), |group| (group + 1) * 4);
        let (piece, rest) = pieces.split_at_checked(end)?;
        STANDARD.decode_vec(piece, &mut out).ok()?;
        pieces = rest;
    }
    Some(out)
}

/// A response's body with its trailers in it.
struct Encoding {
    inner: Body,
    text: bool,
    ended: bool,
    status: Rc<Cell<Option<u16>>>,
}

impl Encoding {
    fn frame(&self, data: Bytes) -> Frame {
        Frame::Data(if self.text { STANDARD.encode(&data).into() } else { data })
    }
}

impl BodyStream for Encoding {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(self.inner.poll_frame(context)) {
            Some(Ok(Frame::Data(data))) => self.frame(data),
            Some(Ok(Frame::Trailers(trailers))) => {
                self.ended = true;
                self.status.set(trailers.get_str("grpc-status").and_then(|text| text.parse().ok()));
                self.frame(trailer_frame(&trailers))
            }
            other => return Poll::Ready(other),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn poll_feed(mut self: Pin<&mut Self>, context: &mut Context<'_>) {
        self.inner.poll_feed(context);
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

fn trailer_frame(trailers: &Headers) -> Bytes {
    let mut lines = BytesMut::new();
    for (name, value) in trailers.iter() {
        lines.put_slice(&name.to_ascii_lowercase());
        lines.put_slice(b": ");
        lines.put_slice(value);
        lines.put_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + lines.len());
    frame.put_u8(TRAILERS);
    frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    frame.put(lines);
    frame.freeze()
}

/// The first byte of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Name, Value};

    #[test]
    fn forms_are_told_apart() {
        assert_eq!(form(b"application/grpc-web"), Some((false, &b""[..])));
        assert_eq!(form(b"application/grpc-web-text+proto"), Some((true, &b"+proto"[..])));
        assert_eq!(form(b"application/grpc-webs"), None);
        assert_eq!(form(b"application/grpc"), None);
    }

    #[tokio::test]
    async fn text_comes_in_pieces_of_any_length_padded_anywhere() {
        let text = format!("{}{}", STANDARD.encode(b"one"), STANDARD.encode(b"four"));
        for length in 1..=text.len() {
            let pieces: Vec<Bytes> = text.as_bytes().chunks(length).map(Bytes::copy_from_slice).collect();
            let mut body = Decoding { inner: Body::stream(Pieces(pieces)), rest: BytesMut::new() };
            let mut out = Vec::new();
            while let Some(frame) =
                std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
            {
                let Ok(Frame::Data(data)) = frame else { panic!("{frame:?}") };
                out.extend_from_slice(&data);
            }
            assert_eq!(out, b"onefour", "in pieces of {length}");
        }
        for broken in ["AAA", "????", "=AAA"] {
            let pieces = Pieces(vec![Bytes::from(broken)]);
            let mut body = Decoding { inner: Body::stream(pieces), rest: BytesMut::new() };
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            assert!(matches!(frame, Some(Err(BodyError::Malformed))), "{broken}: {frame:?}");
        }
    }

    #[test]
    fn trailers_become_a_frame() {
        let mut trailers = Headers::new();
        trailers.append(Name::Static("Grpc-Status"), Value::Static("0"));
        assert_eq!(&trailer_frame(&trailers)[..], b"\x80\0\0\0\x10grpc-status: 0\r\n");
    }

    /// A body in the pieces that are given.
    struct Pieces(Vec<Bytes>);

    impl BodyStream for Pieces {
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame, BodyError>>> {
            let next = (!self.0.is_empty()).then(|| self.0.remove(0));
            Poll::Ready(next.map(|data| Ok(Frame::Data(data))))
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }
}
