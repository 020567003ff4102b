//! What goes out.

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::*;
use crate::message::{Headers, Name, Scheme, Value, Version};

fn head(method: Method, path: &'static str) -> RequestHead {
    RequestHead {
        method,
        scheme: Scheme::Http,
        authority: Some(Authority::from_static("a.test:81")),
        path: PathAndQuery::from_static(path),
        version: Version::Http2,
        headers: Headers::new(),
    }
}

fn encoded(head: &RequestHead, framing: Framing) -> String {
    let mut out = BytesMut::new();
    encode_request(head, &framing, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

fn answered(
    status: u16,
    fields: &[(&'static str, &'static str)],
    framing: Framing,
    options: &ResponseOptions<'_>,
) -> String {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.append(Name::Static(name), Value::Static(value));
    }
    let status = StatusCode::from_u16(status).unwrap();
    let mut out = BytesMut::new();
    encode_response(&ResponseHead { status, version: Version::Http11, headers }, &framing, options, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn a_request_comes_apart_and_together() {
    let text = "GET /a?b=c HTTP/1.1\r\nHost: a.test\r\nX-One: 1 \r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\n";
    let event = request(text).unwrap();
    assert_eq!(
        encoded(&event.head, event.framing),
        "GET /a?b=c HTTP/1.1\r\nhost: a.test\r\nX-One: 1\r\ncontent-length: 5\r\n\r\n"
    );
}

#[test]
fn a_response_comes_apart_and_together() {
    let event = ok("Server: x\r\nTransfer-Encoding: Chunked").unwrap();
    let mut out = BytesMut::new();
    encode_response(&event.head, &event.framing, &ResponseOptions::default(), &mut out);
    assert_eq!(out, "HTTP/1.1 200 OK\r\nServer: x\r\ntransfer-encoding: chunked\r\n\r\n");
}

#[test]
fn targets_take_the_form_of_their_method() {
    assert!(
        encoded(&head(Method::GET, "/x?y"), Framing::None)
            .starts_with("GET /x?y HTTP/1.1\r\nhost: a.test:81\r\n\r\n")
    );
    assert!(encoded(&head(Method::OPTIONS, "*"), Framing::None).starts_with("OPTIONS * HTTP/1.1\r\n"));
    assert!(encoded(&head(Method::GET, "?y"), Framing::None).starts_with("GET /?y HTTP/1.1\r\n"));
    let connect = encoded(&head(Method::CONNECT, "/"), Framing::None);
    assert_eq!(connect, "CONNECT a.test:81 HTTP/1.1\r\nhost: a.test:81\r\n\r\n");
}

#[test]
fn b14_a_request_from_http2_has_one_host_and_one_framing_field() {
    let mut map = HeaderMap::new();
    for (name, value) in [
        ("host", "b"),
        ("content-length", "9"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("keep-alive", "1"),
        ("proxy-connection", "1"),
        ("x-one", "1"),
        ("content_length", "4"),
    ] {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let mut head = head(Method::POST, "/");
    head.headers = Headers::from_map(map);
    let start = "POST / HTTP/1.1\r\nhost: a.test:81\r\nx-one: 1\r\n";
    assert_eq!(encoded(&head, Framing::Chunked), format!("{start}transfer-encoding: chunked\r\n\r\n"));
    assert_eq!(encoded(&head, Framing::Length(7)), format!("{start}content-length: 7\r\n\r\n"));
    assert_eq!(encoded(&head, Framing::None), format!("{start}content-length: 0\r\n\r\n"));
    head.authority = Some(Authority::from_static("user@c.test"));
    assert!(encoded(&head, Framing::None).contains("\r\nhost: c.test\r\n"));
}

#[test]
fn a_request_says_what_it_needs_of_the_connection() {
    let mut out = BytesMut::new();
    let options =
        RequestOptions { upgrade: Some("websocket"), te_trailers: true, ..RequestOptions::default() };
    encode_request_with(&head(Method::GET, "/"), &Framing::None, &options, &mut out);
    let text = String::from_utf8(out.to_vec()).unwrap();
    assert!(
        text.ends_with("\r\nte: trailers\r\nconnection: upgrade, te\r\nupgrade: websocket\r\n\r\n"),
        "{text}"
    );
}

#[test]
fn a_response_is_framed_as_its_status_and_client_need() {
    let plain = ResponseOptions::default();
    let old = ResponseOptions { to_http_10: true, ..plain };
    let length = [("content-length", "9"), ("x", "1")];
    let cases = [
        (answered(200, &length, Framing::Length(3), &plain), "200 OK\r\nx: 1\r\ncontent-length: 3\r\n\r\n"),
        (answered(200, &length, Framing::None, &plain), "200 OK\r\nx: 1\r\ncontent-length: 9\r\n\r\n"),
        (
            answered(304, &length, Framing::None, &plain),
            "304 Not Modified\r\nx: 1\r\ncontent-length: 9\r\n\r\n",
        ),
        (answered(304, &[], Framing::Length(0), &plain), "304 Not Modified\r\n\r\n"),
        (answered(204, &length, Framing::Length(0), &plain), "204 No Content\r\nx: 1\r\n\r\n"),
        (answered(103, &length, Framing::None, &plain), "103 Early Hints\r\nx: 1\r\n\r\n"),
        (answered(200, &[], Framing::UntilClose, &plain), "200 OK\r\nconnection: close\r\n\r\n"),
        (answered(200, &[], Framing::Chunked, &old), "200 OK\r\nconnection: close\r\n\r\n"),
        (
            answered(200, &[], Framing::Length(1), &old),
            "200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\n",
        ),
        (answered(299, &[], Framing::Length(0), &plain), "299 \r\ncontent-length: 0\r\n\r\n"),
        (
            answered(200, &[("content-length", "9"), ("content-length", "9")], Framing::None, &plain),
            "200 OK\r\n\r\n",
        ),
    ];
    for (text, wanted) in cases {
        assert_eq!(text, format!("HTTP/1.1 {wanted}"));
    }
    let closing = ResponseOptions { keep_alive: false, ..plain };
    assert!(answered(200, &[], Framing::Length(0), &closing).contains("\r\nconnection: close\r\n"));
    assert!(!answered(100, &[], Framing::None, &closing).contains("connection"));
    let switching = ResponseOptions { upgrade: Some("websocket"), keep_alive: false, ..plain };
    let text = answered(101, &[], Framing::None, &switching);
    assert_eq!(text, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
}

#[test]
fn a12_trailers_go_out_without_what_may_not_trail() {
    let mut trailers = Headers::new();
    for name in ["grpc-status", "content-length", "host", "x-sum"] {
        trailers.append(Name::Static(name), Value::Static("0"));
    }
    let mut out = BytesMut::new();
    encode_last_chunk(Some(&trailers), &mut out);
    assert_eq!(out, "0\r\ngrpc-status: 0\r\nx-sum: 0\r\n\r\n");
    out.clear();
    encode_last_chunk(None, &mut out);
    assert_eq!(out, "0\r\n\r\n");
}

#[test]
fn chunk_sizes_are_hexadecimal() {
    for (size, wanted) in [
        (1, "1\r\n"),
        (15, "f\r\n"),
        (16, "10\r\n"),
        (4096, "1000\r\n"),
        (usize::MAX, "ffffffffffffffff\r\n"),
    ] {
        let mut out = BytesMut::new();
        encode_chunk_header(size, &mut out);
        assert_eq!(out, wanted);
    }
}
