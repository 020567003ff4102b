//! Tests of the codec.

use bytes::BytesMut;
use http::Method;

use super::*;

fn request(text: &str) -> Result<Option<RequestEvent>, ParseError> {
    RequestParser::new().parse(&mut BytesMut::from(text), &Limits::default())
}

#[test]
fn a_request_comes_apart_and_together() {
    let text = "GET /a?b=c HTTP/1.1\r\nHost: a.test\r\nX-One: 1 \r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\n";
    let event = request(text).unwrap().unwrap();
    assert_eq!(event.framing, Framing::Length(5));
    let mut out = BytesMut::new();
    encode_request(&event.head, &event.framing, &mut out);
    assert_eq!(out, "GET /a?b=c HTTP/1.1\r\nhost: a.test\r\nX-One: 1\r\ncontent-length: 5\r\n\r\n");
}

#[test]
fn a_response_comes_apart_and_together() {
    let mut buffer = BytesMut::from(
        "HTTP/1.1 200 Fine\r\nServer: x\r\nTransfer-Encoding: Chunked\r\n\r\n5;e=1\r\nhello\r\n0\r\nX-Sum: 1\r\nHost: b\r\n\r\nrest",
    );
    let limits = Limits::default();
    let event = ResponseParser::new().parse(&mut buffer, &limits, &Method::GET).unwrap().unwrap();
    assert!(event.keep_alive);
    let mut out = BytesMut::new();
    encode_response(&event.head, &event.framing, &ResponseOptions::default(), &mut out);
    assert_eq!(out, "HTTP/1.1 200 OK\r\nServer: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut body = BodyDecoder::for_response(event.framing, &limits);
    assert!(matches!(body.decode(&mut buffer), Ok(Decoded::Data(data)) if data == "hello"));
    let Ok(Decoded::Trailers(trailers)) = body.decode(&mut buffer) else { panic!("no trailers") };
    assert_eq!(trailers.iter().collect::<Vec<_>>(), [(&b"X-Sum"[..], &b"1"[..])]);
    assert!(body.is_done());
    assert!(matches!(body.decode(&mut buffer), Ok(Decoded::End)));
    assert_eq!(buffer, "rest");
}
