//! Response heads against the battery.

use super::*;
use crate::error::Reason;

#[test]
fn a18_a_head_cannot_be_split() {
    assert_eq!(fault(ok("X: a\rSet-Cookie: b")), Fault::BareCarriageReturn);
    assert_eq!(fault(ok("X: a\nSet-Cookie: b")), Fault::BareLineFeed);
    assert_eq!(fault(ok("X: a\0b")), Fault::FieldValue);
    let line = |text: &str| response_to(&Method::GET, format!("HTTP/1.1 200 {text}\r\n\r\n"));
    assert_eq!(fault(line("O\rK")), Fault::BareCarriageReturn);
    assert_eq!(fault(line("O\0K")), Fault::StatusLine);
    assert!(line("Ö K\t!").is_ok());
}

#[test]
fn a19_interim_responses_are_events() {
    let mut buffer = BytesMut::from(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    let mut parser = ResponseParser::new();
    let mut seen = Vec::new();
    while let Some(event) = parser.parse(&mut buffer, &Limits::default(), &Method::GET).unwrap() {
        assert!(event.keep_alive);
        seen.push((event.head.status.as_u16(), event.framing));
    }
    assert_eq!(seen, [(100, Framing::None), (103, Framing::None), (200, Framing::Length(0))]);
}

#[test]
fn a19_switching_protocols_says_to_which() {
    let text = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    let event = response_to(&Method::GET, text).unwrap();
    assert_eq!(event.upgrade.as_deref(), Some("websocket"));
    assert_eq!((event.framing, event.keep_alive), (Framing::None, false));
    let event =
        response_to(&Method::GET, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert_eq!(event.upgrade, None);
}

#[test]
fn what_only_requests_mean_is_passed_on_with_a_response() {
    let headers = ok("Host: b\r\nExpect: c").unwrap().head.headers;
    assert_eq!((headers.get_str("host"), headers.get_str("expect")), (Some("b"), Some("c")));
}

#[test]
fn a21_head_204_and_304_have_no_content() {
    let head =
        response_to(&Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n\r\n");
    assert_eq!(fault(head), Fault::TransferEncoding);
    let event = response_to(&Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").unwrap();
    assert_eq!((event.framing, event.keep_alive), (Framing::None, true));
    assert_eq!(event.head.headers.get("content-length"), Some(&b"9"[..]));
    let event = response_to(&Method::HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert_eq!((event.framing, event.head.headers.len()), (Framing::None, 0));
    let event =
        response_to(&Method::GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\nbody").unwrap();
    assert_eq!(event.framing, Framing::None);
    assert!(event.head.headers.contains("content-length"));
    // Bytes that a 204 announces must not be taken for the next response.
    let event = response_to(&Method::GET, "HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n").unwrap();
    assert_eq!((event.framing, event.keep_alive, event.head.headers.len()), (Framing::None, false, 0));
    let event = response_to(&Method::GET, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert!(event.keep_alive);
}

#[test]
fn a26_bad_framing_is_the_upstreams_fault() {
    for (lines, wanted) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Fault::TransferEncodingAndLength),
        ("Content-Length: 5\r\nContent-Length: 5", Fault::ContentLengthRepeated),
        ("Content-Length: five", Fault::ContentLength),
        ("Transfer-Encoding: gzip, chunked", Fault::TransferEncoding),
        ("Transfer-Encoding: gzip", Fault::TransferEncoding),
        ("X : 1", Fault::FieldNameSpace),
    ] {
        let error = ok(lines).unwrap_err();
        assert_eq!((error.fault(), error.reason()), (wanted, Reason::UpstreamProtocolError), "{lines}");
    }
    let large = format!("X: {}", "a".repeat(1 << 20));
    assert_eq!(ok(large).unwrap_err().reason(), Reason::UpstreamProtocolError);
    assert_eq!(
        fault(response_to(&Method::GET, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")),
        Fault::TransferEncodingInHttp10
    );
}

#[test]
fn a26_garbage_is_no_status_line() {
    for (line, wanted) in [
        ("HTTP/1.1 99 X", Fault::StatusLine),
        ("HTTP/1.1 099 X", Fault::Status),
        ("HTTP/1.1 600 X", Fault::Status),
        ("HTTP/1.1 999 X", Fault::Status),
        ("HTTP/1.1 1000 X", Fault::StatusLine),
        ("HTTP/1.1 2x0 X", Fault::StatusLine),
        ("HTTP/1.1  200 X", Fault::StatusLine),
        ("HTTP/1.1\t200 X", Fault::Version),
        ("HTTP/1.1", Fault::StatusLine),
        ("HTTP/2.0 200 OK", Fault::Version),
        ("ICY 200 OK X", Fault::StatusLine),
        ("\0\0\0\0", Fault::StatusLine),
        ("", Fault::StatusLine),
        (" HTTP/1.1 200 OK", Fault::StatusLine),
    ] {
        assert_eq!(fault(response_to(&Method::GET, format!("{line}\r\n\r\n"))), wanted, "{line}");
    }
    for line in ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.0 200 OK", "HTTP/1.1 599 X"] {
        assert!(response_to(&Method::GET, format!("{line}\r\n\r\n")).is_ok(), "{line}");
    }
}

#[test]
fn a26_extra_bytes_stay_in_sight() {
    let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n");
    let limits = Limits::default();
    let event = ResponseParser::new().parse(&mut buffer, &limits, &Method::GET).unwrap().unwrap();
    let mut body = BodyDecoder::for_response(event.framing, &limits);
    assert!(matches!(body.decode(&mut buffer), Ok(Decoded::Data(data)) if data == "ok"));
    assert!(body.is_done());
    assert_eq!(buffer, "HTTP/1.1 200 OK\r\n");
}

#[test]
fn content_without_length_ends_with_the_connection() {
    let event = ok("Server: x").unwrap();
    assert_eq!((event.framing, event.keep_alive), (Framing::UntilClose, false));
    let mut body = BodyDecoder::for_response(event.framing, &Limits::default());
    let mut buffer = BytesMut::from("all of it");
    assert!(matches!(body.decode(&mut buffer), Ok(Decoded::Data(data)) if data == "all of it"));
    assert!(matches!(body.decode(&mut buffer), Ok(Decoded::NeedMore)));
    assert_eq!(body.end_of_input(), Ok(()));
    assert!(matches!(body.decode(&mut buffer), Ok(Decoded::End)));
}

#[test]
fn a_tunnel_starts_after_a_successful_connect() {
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let event = response_to(&Method::CONNECT, text).unwrap();
    assert_eq!((event.framing, event.keep_alive, event.head.headers.len()), (Framing::None, false, 0));
    let text = "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(response_to(&Method::CONNECT, text).unwrap().framing, Framing::Length(5));
}

#[test]
fn hop_by_hop_fields_are_taken_out_and_read() {
    let event = ok(
        "Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: max=5, timeout=7\r\nProxy-Authenticate: Basic\r\n\
         Set-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0",
    )
    .unwrap();
    assert_eq!(names(&event.head.headers), ["Set-Cookie", "Set-Cookie"]);
    assert_eq!(event.keep_alive_timeout, Some(Duration::from_secs(7)));
    assert_eq!(ok("Keep-Alive: timeout=-1").unwrap().keep_alive_timeout, None);
    assert_eq!(ok("Keep-Alive: time").unwrap().keep_alive_timeout, None);
}

#[test]
fn http_10_is_kept_only_when_said() {
    let keep = |line: &str| {
        let text = format!("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n{line}\r\n\r\n");
        response_to(&Method::GET, text).unwrap().keep_alive
    };
    assert!(!keep("X: 1"));
    assert!(keep("Connection: keep-alive"));
}
