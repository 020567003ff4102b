//! Formats: what they print, what they refuse, and that nothing in a request can break a line.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::error::Reason;
use crate::telemetry::tests::{record, session};

fn line(format: &str, record: &Record) -> String {
    let mut out = Vec::new();
    LogFormat::parse_text(format).unwrap().write(record, &mut out);
    String::from_utf8(out).unwrap()
}

fn answered() -> Record {
    Record {
        status: Some(http::StatusCode::OK),
        endpoint: Some(([10, 0, 0, 9], 8080).into()),
        route: Some("web-0".into()),
        request_id: Some(http::HeaderValue::from_static("11111111-2222-4333-8444-555555555555")),
        trace_id: Some(0xabc),
        attempts: 1,
        upstream_time: Some(Duration::from_millis(4)),
        request_time: Some(Duration::from_millis(2)),
        duration: Duration::from_micros(7_900),
        bytes_received: 10,
        bytes_sent: 2_000,
        request_headers: vec![("user-agent".into(), b"curl/8".to_vec())],
        ..record()
    }
}

#[test]
fn the_default_is_envoys() {
    let mut out = Vec::new();
    LogFormat::default().write(&answered(), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        concat!(
            r#"[2025-01-01T13:30:00.250Z] "GET /cart?item=1 HTTP/1.1" 200 - 10 2000 7 4 "-" "curl/8" "#,
            r#""11111111-2222-4333-8444-555555555555" "shop.example" "10.0.0.9:8080""#,
            "\n"
        )
    );
    assert_eq!(
        LogFormat::default().wanted_request_headers(),
        [Arc::from("user-agent"), Arc::from("x-forwarded-for")]
    );
}

#[test]
fn istios_default_parses() {
    let format = concat!(
        r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% "#,
        "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
        r#""%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% "#,
        r#"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%UPSTREAM_HOST%" "#,
        "%UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% ",
        "%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
    );
    let line = line(format, &answered());
    assert!(line.ends_with("- - 192.0.2.1:80 192.0.2.7:50000 - web-0\n"), "{line}");
    assert!(line.contains("200 - via_upstream - \"-\" 10 2000 7 4"), "{line}");
}

#[test]
fn operators_print_what_the_record_holds() {
    let mut record = answered();
    for (format, text) in [
        ("%START_TIME(%d/%b/%Y:%T %z %s.%3f)%", "01/Jan/2025:13:30:00 +0000 1735738200.250"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%DOWNSTREAM_LOCAL_PORT%", "192.0.2.7|80"),
        ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_DURATION%", "4 3 2"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %STREAM_ID%", "1 11111111-2222-4333-8444-555555555555"),
        ("%TRACE_ID%", "00000000000000000000000000000abc"),
        ("%REQ(User-Agent):4% %REQ(missing?user-agent)% %RESP(x)%", "curl curl/8 -"),
        ("100%% %TRAILER(grpc-message)% %DYNAMIC_METADATA(a:b)%", "100% - -"),
        ("%REQ(:PATH):5% %REQ(HOST)%", "/cart shop.example"),
        ("%GRPC_STATUS%", "-"),
    ] {
        assert_eq!(line(format, &record), format!("{text}\n"), "{format}");
    }
    record.grpc = true;
    record.grpc_status = Some(14);
    assert_eq!(
        line("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%", &record),
        "Unavailable UNAVAILABLE 14\n"
    );
    record.status = None;
    record.reason = Some(Reason::DownstreamClosed);
    record.reason_id = Some(33);
    assert_eq!(
        line("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %SIDEGATE_REASON_ID%", &record),
        "0 DC downstream_closed 11\n"
    );
}

#[test]
fn operators_of_tls_tell_the_two_sides_apart() {
    let (web, app, own) = ("spiffe://td/web", "spiffe://td/app", "spiffe://td/own");
    let record = Record {
        security: Some(session(web, own)),
        upstream_security: Some(session(app, own)),
        ..answered()
    };
    for (format, text) in [
        ("%DOWNSTREAM_PEER_URI_SAN% %UPSTREAM_PEER_URI_SAN%", format!("{web} {app}")),
        ("%DOWNSTREAM_LOCAL_URI_SAN% %UPSTREAM_LOCAL_URI_SAN%", format!("{own} {own}")),
        ("%DOWNSTREAM_TLS_VERSION% %UPSTREAM_TLS_VERSION%", "TLSv1.3 TLSv1.3".to_owned()),
        ("%UPSTREAM_TLS_CIPHER% %UPSTREAM_PEER_DNS_SAN%", "TLS_AES_128_GCM_SHA256 -".to_owned()),
        ("%UPSTREAM_PEER_SOMETHING% %UPSTREAM_TLS_SESSION_ID%", "- -".to_owned()),
    ] {
        assert_eq!(line(format, &record), format!("{text}\n"), "{format}");
    }
    assert_eq!(line("%UPSTREAM_PEER_URI_SAN% %UPSTREAM_TLS_VERSION%", &answered()), "- -\n");
    assert!(LogFormat::parse_text("%UPSTREAM_TLS_NONSENSE%").is_err());
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    for (format, message) in [
        ("%NONSENSE%", "unknown operator %NONSENSE%"),
        ("a 5% b", "a `%` at byte 3 begins no operator (a literal one is written `%%`)"),
        ("%DURATION", "%DURATION%: the closing `%` is missing"),
        ("%REQ(a%", "%REQ%: the parenthesis is not closed"),
        ("%REQ()%", "%REQ%: the header's name is missing"),
        ("%REQ(a):x%", "%REQ%: the length after `:` is not a number"),
        ("%START_TIME(%Q)%", "%START_TIME%: unknown conversion %Q"),
    ] {
        assert_eq!(LogFormat::parse_text(format).unwrap_err().to_string(), message);
    }
    let nested = json!({"a": [{"b": "%NONSENSE%"}]});
    let error = LogFormat::parse_json(&nested).unwrap_err();
    assert_eq!(error, FormatError::UnknownOperator("NONSENSE".into()));
    assert_eq!(LogFormat::parse_json(&json!("text")).unwrap_err(), FormatError::NotAnObject);
}

#[test]
fn json_keeps_types_and_nesting() {
    let format = json!({
        "code": "%RESPONSE_CODE%",
        "line": "%REQ(:METHOD)% took %DURATION% \"ms\"",
        "missing": "%ROUTE_NAME%",
        "nested": {"agent": "%REQ(USER-AGENT)%", "list": ["%PROTOCOL%", 1, true, null]},
    });
    let record = Record { route: None, ..answered() };
    let parsed = LogFormat::parse_json(&format).unwrap();
    let mut out = Vec::new();
    parsed.write(&record, &mut out);
    let expected = json!({
        "code": 200,
        "line": "GET took 7 \"ms\"",
        "missing": null,
        "nested": {"agent": "curl/8", "list": ["HTTP/1.1", 1, true, null]},
    });
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), expected);
    out.clear();
    parsed.omit_empty_values().write(&record, &mut out);
    let written: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert!(written.get("missing").is_none());
}

#[test]
fn a_value_cannot_forge_a_line_or_a_field() {
    let evil = b"a\" 200 - \r\n[now] \"GET /forged\x1b[2J\xff\xe2\x80\xae\\".to_vec();
    let record = Record { request_headers: vec![("user-agent".into(), evil)], ..record() };
    assert_eq!(
        line("\"%REQ(USER-AGENT)%\"", &record),
        concat!(r#""a\" 200 - \x0d\x0a[now] \"GET /forged\x1b[2J\xff\xe2\x80\xae\\""#, "\n")
    );
}

proptest! {
    #[test]
    fn one_exchange_is_one_line_of_bounded_length(
        value in proptest::collection::vec(any::<u8>(), 0..6_000),
        json in any::<bool>(),
    ) {
        let record = Record { request_headers: vec![("x".into(), value)], ..record() };
        let format = if json {
            LogFormat::parse_json(&json!({"x": "%REQ(X)%", "text": "<%REQ(X)%>"})).unwrap()
        } else {
            LogFormat::parse_text("\"%REQ(X)%\"").unwrap()
        };
        let mut out = Vec::new();
        format.write(&record, &mut out);
        prop_assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert!(out.iter().all(|byte| *byte >= b' ' || *byte == b'\n'));
        prop_assert!(out.len() <= 16 * VALUE_LIMIT);
        if json {
            serde_json::from_slice::<serde_json::Value>(&out).unwrap();
        }
    }

    #[test]
    fn any_text_parses_or_is_refused(text in "[%A-Z()?:_a-z0-9 ]{0,60}") {
        let _ = LogFormat::parse_text(&text);
    }
}
