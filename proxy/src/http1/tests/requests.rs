//! Request heads against the battery.

use bytes::{BufMut, BytesMut};

use super::*;
use crate::error::Reason;
use crate::message::Scheme;

#[test]
fn a1_both_framings_are_refused() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
    ] {
        assert_eq!(fault(post(lines)), Fault::TransferEncodingAndLength, "{lines}");
    }
}

#[test]
fn a2_content_is_framed_whatever_the_method() {
    for method in ["GET", "OPTIONS", "HEAD", "DELETE"] {
        let event = request(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n")).unwrap();
        assert_eq!(event.framing, Framing::Length(33));
        let event =
            request(format!("{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")).unwrap();
        assert_eq!(event.framing, Framing::Chunked);
    }
    assert_eq!(post("X: 1").unwrap().framing, Framing::None);
}

#[test]
fn a3_repeated_lengths_are_refused() {
    assert_eq!(fault(post("Content-Length: 5\r\nContent-Length: 5")), Fault::ContentLengthRepeated);
    assert_eq!(fault(post("Content-Length: 5\r\ncontent-length: 6")), Fault::ContentLengthRepeated);
    assert_eq!(fault(post("Content-Length: 5, 5")), Fault::ContentLength);
    assert_eq!(fault(post("Content-Length: 5,6")), Fault::ContentLength);
}

#[test]
fn a4_odd_lengths_are_refused() {
    for length in
        ["+5", "-1", "0x5", "", "5 6", "18446744073709551621", "0005", "5.0", "5;", "\u{665}", "1e3"]
    {
        assert_eq!(fault(post(format!("Content-Length: {length}"))), Fault::ContentLength, "{length}");
    }
    assert_eq!(post("Content-Length:  7\t").unwrap().framing, Framing::Length(7));
    assert_eq!(post("Content-Length: 18446744073709551615").unwrap().framing, Framing::Length(u64::MAX));
    assert_eq!(post("Content-Length: 0").unwrap().framing, Framing::Length(0));
}

#[test]
fn a5_bad_names_are_refused() {
    for (line, wanted) in [
        ("X : 1", Fault::FieldNameSpace),
        ("X\t: 1", Fault::FieldNameSpace),
        ("X Y: 1", Fault::FieldName),
        ("X(Y): 1", Fault::FieldName),
        ("X\0: 1", Fault::FieldName),
        ("X\u{e4}: 1", Fault::FieldName),
        (": 1", Fault::FieldName),
        (":path: /", Fault::FieldName),
        ("X", Fault::FieldColon),
        ("X 1", Fault::FieldColon),
        ("\"X\": 1", Fault::FieldName),
    ] {
        assert_eq!(fault(get(line)), wanted, "{line}");
    }
}

#[test]
fn a6_only_one_plain_chunked_is_a_transfer_encoding() {
    for value in [
        "xchunked",
        "chunked, identity",
        "gzip, chunked",
        "\"chunked\"",
        "chunked;q=1",
        "chunked,",
        ",chunked",
        "identity",
        "",
        "chunked chunked",
        "x\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\ntransfer-encoding: identity",
    ] {
        assert_eq!(fault(post(format!("Transfer-Encoding: {value}"))), Fault::TransferEncoding, "{value}");
    }
    assert_eq!(fault(post("Transfer-Encoding: \x0bchunked")), Fault::FieldValue);
    assert_eq!(fault(post("Transfer-Encoding:\r\n chunked")), Fault::FieldFold);
    assert_eq!(fault(post("Transfer-Encoding : chunked")), Fault::FieldNameSpace);
    assert_eq!(fault(post("Transfer_Encoding: chunked")), Fault::FieldImitation);
    assert_eq!(fault(post("content_length: 5")), Fault::FieldImitation);
    assert_eq!(post("tRANSFER-eNCODING:\tCHUNKED ").unwrap().framing, Framing::Chunked);
}

#[test]
fn a7_http_10_has_no_chunks() {
    let bytes = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(fault(request(bytes)), Fault::TransferEncodingInHttp10);
    let event = request("POST / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((event.framing, event.keep_alive), (Framing::None, false));
}

#[test]
fn a8_folded_lines_are_refused() {
    assert_eq!(fault(get("X: 1\r\n 2")), Fault::FieldFold);
    assert_eq!(fault(get("X: 1\r\n\t2: 3")), Fault::FieldFold);
    assert_eq!(fault(request("GET / HTTP/1.1\r\n Host: a\r\n\r\n")), Fault::FieldFold);
}

#[test]
fn a9_line_ends_are_crlf() {
    for (bytes, wanted) in [
        ("GET / HTTP/1.1\nHost: a\n\n", Fault::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", Fault::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\n", Fault::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Fault::BareCarriageReturn),
        ("GET / HTTP/1.1\r\nHost: a\rX: 1\r\n\r\n", Fault::BareCarriageReturn),
        ("GET / HTTP/1.1\r\nHo\rst: a\r\n\r\n", Fault::BareCarriageReturn),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n", Fault::BareCarriageReturn),
        ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Fault::BareCarriageReturn),
        ("GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareCarriageReturn),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", Fault::BareCarriageReturn),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareLineFeed),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareCarriageReturn),
    ] {
        assert_eq!(fault(request(bytes)), wanted, "{bytes:?}");
    }
}

#[test]
fn a9_a_few_empty_lines_may_come_first() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(request(format!("{}{head}", "\r\n".repeat(4))).is_ok());
    assert_eq!(fault(request(format!("{}{head}", "\r\n".repeat(5)))), Fault::BlankLines);
}

#[test]
fn a10_control_characters_are_refused() {
    for control in (0_u8..0x20).chain([0x7f]).filter(|byte| !matches!(byte, b'\t' | b'\r' | b'\n')) {
        let text = char::from(control);
        assert_eq!(fault(get(format!("X: a{text}b"))), Fault::FieldValue, "{control}");
        assert_eq!(fault(get(format!("X{text}: a"))), Fault::FieldName, "{control}");
        let bytes = format!("GET /{text} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(fault(request(bytes)), Fault::Target, "{control}");
        let bytes = format!("G{text}T / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(fault(request(bytes)), Fault::Method, "{control}");
    }
}

#[test]
fn a10_text_beyond_ascii_is_kept_in_values_and_paths() {
    let event = get(b"X: \xff\xe4\tb").unwrap();
    assert_eq!(event.head.headers.get("x"), Some(&b"\xff\xe4\tb"[..]));
    let event = request("GET /ä HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(event.head.path, "/ä");
    assert_eq!(fault(request(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n")), Fault::Target);
}

#[test]
fn a13_the_authority_of_the_target_wins() {
    let event = request("GET HTTP://a.test:8080/x?y HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
    assert_eq!(event.head.authority.unwrap(), "a.test:8080");
    assert_eq!(event.head.path, "/x?y");
    assert_eq!((event.head.scheme, event.absolute_form), (Scheme::Http, true));
    assert!(event.head.headers.is_empty());
    let event = request("GET https://a.test?q HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    assert_eq!((event.head.path.as_str(), event.head.scheme), ("/?q", Scheme::Https));
    let event = request("OPTIONS http://a.test HTTP/1.1\r\nHost:\r\n\r\n").unwrap();
    assert_eq!(event.head.path, "*");
    let event = request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((event.head.path.as_str(), event.absolute_form), ("*", false));
    // Two slashes are a path, not an authority.
    let event = request("GET //b.test/x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((event.head.path.as_str(), event.head.authority.unwrap().as_str()), ("//b.test/x", "a"));
}

#[test]
fn a13_other_targets_are_refused() {
    for (target, wanted) in [
        ("/#x", Fault::Fragment),
        ("http://a/#", Fault::Fragment),
        ("*", Fault::Target),
        ("a.test:80", Fault::Target),
        ("x", Fault::Target),
        ("?x", Fault::Target),
        ("http:/a", Fault::Target),
        ("http:///x", Fault::Authority),
        ("http://", Fault::Authority),
        ("http://u:p@a/", Fault::Authority),
        ("http://a:99999/", Fault::Authority),
        ("ftp://a/", Fault::Scheme),
        ("://a/", Fault::Scheme),
        ("/a`", Fault::Target),
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(fault(request(bytes)), wanted, "{target}");
    }
    assert_eq!(fault(request("OPTIONS http://a HTTP/1.1\r\n\r\n")), Fault::HostMissing);
    assert_eq!(fault(request("GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n")), Fault::Host);
}

#[test]
fn a13_the_request_line_has_three_parts() {
    for line in [
        "GET /",
        "GET",
        "",
        "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / / HTTP/1.1",
        "GET\t/\tHTTP/1.1",
    ] {
        let result = request(format!("{line}\r\nHost: a\r\n\r\n"));
        assert!(result.is_err() || line.is_empty(), "{line}");
    }
    // An empty first line is skipped; then `Host: a` is no request line.
    assert_eq!(fault(request("\r\nHost: a\r\n\r\n")), Fault::RequestLine);
}

#[test]
fn a14_there_is_one_good_host() {
    for (lines, wanted) in [
        ("", Fault::HostMissing),
        ("Host:\r\n", Fault::HostMissing),
        ("Host: a\r\nHost: a\r\n", Fault::HostRepeated),
        ("Host: a\r\nhost: b\r\n", Fault::HostRepeated),
        ("Host: a, b\r\n", Fault::Host),
        ("Host: a,b\r\n", Fault::Host),
        ("Host: u@a\r\n", Fault::Host),
        ("Host: a/b\r\n", Fault::Host),
        ("Host: a:b\r\n", Fault::Host),
        ("Host: a:65536\r\n", Fault::Host),
        ("Host: a:\r\n", Fault::Host),
        ("Host: [fe80::1%25eth0]\r\n", Fault::Host),
        ("Host: a?b\r\n", Fault::Host),
        ("Host: http://a\r\n", Fault::Host),
    ] {
        assert_eq!(fault(request(format!("GET / HTTP/1.1\r\n{lines}\r\n"))), wanted, "{lines}");
    }
    let event = request("GET / HTTP/1.1\r\nHOST: A.Test.:80\r\n\r\n").unwrap();
    assert_eq!(event.head.authority.unwrap(), "a.test.:80");
    assert!(event.head.headers.is_empty());
    assert!(request("GET / HTTP/1.0\r\n\r\n").unwrap().head.authority.is_none());
}

#[test]
fn a15_upgrades_are_noted_and_taken_out() {
    let upgrade = |lines: &str| {
        let event = get(lines).unwrap();
        assert!(event.head.headers.is_empty(), "{lines}");
        event.upgrade
    };
    assert_eq!(upgrade("Connection: Upgrade\r\nUpgrade: WebSocket").as_deref(), Some("websocket"));
    assert_eq!(upgrade("Connection: keep-alive, upgrade\r\nUpgrade: foo/2").as_deref(), Some("foo/2"));
    assert_eq!(upgrade("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A"), None);
    assert_eq!(upgrade("Connection: Upgrade\r\nUpgrade: H2C, websocket").as_deref(), Some("websocket"));
    assert_eq!(upgrade("Connection: Upgrade\r\nUpgrade: a\r\nUpgrade: b").as_deref(), Some("a,b"));
    assert_eq!(upgrade("Upgrade: websocket"), None);
    assert_eq!(upgrade("Connection: upgrade"), None);
    let event = request("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert_eq!(event.upgrade, None);
}

#[test]
fn a16_connect_names_host_and_port_and_has_no_content() {
    let event = request("CONNECT a.test:443 HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\nearly").unwrap();
    assert_eq!(event.head.authority.unwrap(), "a.test:443");
    assert_eq!((event.head.path.as_str(), event.framing), ("/", Framing::None));
    for target in ["a.test", "a.test:0", "a.test:", "/", "*", "http://a.test:80/", "u@a:1", ":443"] {
        let bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(fault(request(bytes)), Fault::Authority, "{target}");
    }
    for line in ["Content-Length: 1", "Transfer-Encoding: chunked"] {
        let bytes = format!("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
        assert_eq!(fault(request(bytes)), Fault::ConnectContent);
    }
}

#[test]
fn a17_sizes_have_bounds_with_their_own_reasons() {
    let reason = |result: Result<RequestEvent, ParseError>| result.unwrap_err().reason();
    assert!(get(format!("X: {}", "a".repeat(60_000))).is_ok());
    assert_eq!(reason(get(format!("X: {}", "a".repeat(66_000)))), Reason::HeadersTooLarge);
    assert_eq!(reason(get(format!("X: {}", "a".repeat(1 << 20)))), Reason::HeadersTooLarge);
    assert!(get(["X: 1"; 99].join("\r\n")).is_ok());
    assert_eq!(fault(get(["X: 1"; 100].join("\r\n"))), Fault::TooManyFields);
    assert_eq!(reason(get(["X: 1"; 10_000].join("\r\n"))), Reason::HeadersTooLarge);
    let path = |length: usize| request(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(length)));
    assert!(path(8 * 1024).is_ok());
    assert_eq!(reason(path(17 * 1024)), Reason::TargetTooLong);
    assert_eq!(reason(path(128 * 1024)), Reason::TargetTooLong);
    let method = |length: usize| request(format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(length)));
    assert!(method(32).is_ok());
    assert_eq!(fault(method(33)), Fault::Method);
    assert_eq!(fault(method(32 * 1024)), Fault::Method);
    // Dropped fields count too (R2).
    assert_eq!(fault(get(["Proxy-Connection: x"; 100].join("\r\n"))), Fault::TooManyFields);
}

#[test]
fn a17_a_head_without_end_is_refused_at_the_bound() {
    let limits = Limits::default();
    for (start, wanted) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nX: ", Fault::HeadTooLarge),
        ("GET /", Fault::TargetTooLong),
        ("GET", Fault::Method),
    ] {
        let mut parser = RequestParser::new();
        let mut buffer = BytesMut::from(start);
        let error = loop {
            match parser.parse(&mut buffer, &limits) {
                Ok(event) => assert!(event.is_none()),
                Err(error) => break error,
            }
            buffer.put_u8(b'a');
        };
        assert_eq!(error.fault(), wanted);
        assert!(buffer.len() <= limits.head_bytes + 1);
    }
}

#[test]
fn a20_expectations_are_known_or_not() {
    let expect = |lines: &str| {
        let event = get(lines).unwrap();
        assert!(event.head.headers.is_empty());
        event.expect
    };
    assert_eq!(expect("Expect: 100-Continue"), Expect::Continue);
    for odd in
        ["Expect: y 100-continue", "Expect: 417", "Expect:", "Expect: 100-continue\r\nExpect: 100-continue"]
    {
        assert_eq!(expect(odd), Expect::Unknown, "{odd}");
    }
    let event = request("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(event.expect, Expect::None);
}

#[test]
fn a23_what_follows_stays_in_the_buffer() {
    let one = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    let mut buffer = BytesMut::from(format!("{one}abcGET /2 HTTP/1.1\r\nHost : a\r\n\r\n").as_str());
    let limits = Limits::default();
    let mut parser = RequestParser::new();
    assert_eq!(parser.parse(&mut buffer, &limits).unwrap().unwrap().head.path, "/1");
    let mut body = BodyDecoder::new(Framing::Length(3), &limits);
    assert!(matches!(body.decode(&mut buffer), Ok(Decoded::Data(data)) if data == "abc"));
    assert!(body.is_done());
    assert_eq!(fault(parser.parse(&mut buffer, &limits)), Fault::FieldNameSpace);
}

#[test]
fn a24_hop_by_hop_fields_are_taken_out() {
    let event = get(
        "Connection: x-hop, close\r\nX-Hop: 1\r\nx-hop: 2\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip, trailers\r\n\
         Proxy-Authorization: b\r\nX-Stays: 1",
    )
    .unwrap();
    assert_eq!(names(&event.head.headers), ["X-Stays"]);
    assert!(event.te_trailers && !event.keep_alive);
}

#[test]
fn a24_a_client_cannot_strip_what_others_decide_by() {
    let kept = [
        "Authorization",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Real-Ip",
        "Cookie",
        "Content-Type",
        "Forwarded",
        "X-Envoy-Peer",
        "X-Request-Id",
        "Traceparent",
        "X-B3-TraceId",
        "Sec-WebSocket-Key",
        "Via",
    ];
    let lines: Vec<_> = kept.iter().map(|name| format!("{name}: 1")).collect();
    let event = post(format!(
        "Connection: {}, Host, Content-Length\r\nContent-Length: 3\r\n{}",
        kept.join(" ,").to_lowercase(),
        lines.join("\r\n")
    ))
    .unwrap();
    assert_eq!(names(&event.head.headers), kept);
    assert_eq!(event.framing, Framing::Length(3));
    assert!(event.head.authority.is_some());
}

#[test]
fn a24_an_option_of_the_same_length_is_another_option() {
    // As long as `close`, `keep-alive` and `upgrade`: they nominate fields, and mean nothing else.
    let event = get("Connection: x-hop\r\nX-Hop: 1").unwrap();
    assert!(event.keep_alive && event.head.headers.is_empty());
    let event = request("GET / HTTP/1.0\r\nConnection: x-hop-name\r\nX-Hop-Name: 1\r\n\r\n").unwrap();
    assert!(!event.keep_alive && event.head.headers.is_empty());
    let event = get("Connection: x-hop-1\r\nX-Hop-1: 1\r\nUpgrade: websocket").unwrap();
    assert!(event.upgrade.is_none() && event.head.headers.is_empty());
}

#[test]
fn a24_the_list_of_connection_options_is_bounded() {
    assert!(get(format!("Connection: {}", ["a"; 100].join(","))).is_ok());
    assert_eq!(fault(get(format!("Connection: {}", ["a"; 101].join(",")))), Fault::ConnectionOptions);
}

#[test]
fn a25_other_versions_are_refused() {
    for version in [
        "HTTP/0.9",
        "HTTP/1.2",
        "HTTP/1.10",
        "HTTP/2.0",
        "HTTP/2",
        "http/1.1",
        "HTTP/1.1x",
        "HTTP/1,1",
        "HTTP/01.1",
        "ICY/1.1",
    ] {
        let bytes = format!("GET / {version}\r\nHost: a\r\n\r\n");
        assert_eq!(fault(request(bytes)), Fault::Version, "{version}");
    }
    let mut buffer = BytesMut::from("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(fault(RequestParser::new().parse(&mut buffer, &Limits::default())), Fault::Version);
}

#[test]
fn connections_are_kept_as_the_version_says() {
    assert!(get("X: 1").unwrap().keep_alive);
    assert!(!get("Connection: Close").unwrap().keep_alive);
    assert!(!get("Connection: keep-alive, close").unwrap().keep_alive);
    let keep = |line: &str| request(format!("GET / HTTP/1.0\r\n{line}\r\n\r\n")).unwrap().keep_alive;
    assert!(keep("Connection: Keep-Alive"));
    assert!(!keep("Connection: keep-alive\r\nConnection: close"));
    assert!(!keep("Proxy-Connection: keep-alive"));
}

#[test]
fn a27_names_with_underscores_are_kept() {
    assert_eq!(names(&get("X_Forwarded_For: 1").unwrap().head.headers), ["X_Forwarded_For"]);
}
