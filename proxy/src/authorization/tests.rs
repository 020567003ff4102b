use prost::Message as _;
use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::service::auth::v3 as wire;
use sidegate_xds::envoy::r#type::v3::HttpStatus;
use sidegate_xds::google::protobuf;
use sidegate_xds::google::rpc;
use wire::check_response::HttpResponse;

use super::*;

fn framed(response: &wire::CheckResponse) -> Vec<u8> {
    let message = response.encode_to_vec();
    let mut out = vec![0];
    out.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    out.extend(message);
    out
}

fn response(code: i32, http_response: Option<HttpResponse>) -> wire::CheckResponse {
    let status = rpc::Status { code, message: "because\r\nof".to_owned(), details: Vec::new() };
    wire::CheckResponse { status: Some(status), http_response, ..wire::CheckResponse::default() }
}

fn option(key: &str, value: &str) -> core::HeaderValueOption {
    let header =
        core::HeaderValue { key: key.to_owned(), value: value.to_owned(), ..core::HeaderValue::default() };
    core::HeaderValueOption { header: Some(header), ..core::HeaderValueOption::default() }
}

fn allowed(ok: wire::OkHttpResponse) -> Result<Changes, String> {
    match decode(&framed(&response(0, Some(HttpResponse::OkResponse(ok)))))? {
        Decision::Allow(changes) => Ok(changes),
        other => Err(format!("{other:?}")),
    }
}

#[test]
#[allow(deprecated, reason = "services still set the older field")]
fn what_is_allowed_may_change_the_request_within_bounds() {
    let mut appended = option("X-Many", "2");
    appended.append = Some(protobuf::BoolValue { value: true });
    let mut absent = option("x-if", "1");
    absent.append_action = core::header_value_option::HeaderAppendAction::AddIfAbsent.into();
    let changes = allowed(wire::OkHttpResponse {
        headers: vec![
            option("x-user", "ada"),
            appended,
            absent,
            option("Host", "evil.test"),
            option(":path", "/admin"),
            option("Content-Length", "0"),
            option("X-Envoy-Internal", "true"),
            option("x-sidegate-reason", "none"),
        ],
        headers_to_remove: vec!["Authorization".into(), "host".into(), ":method".into()],
        response_headers_to_add: vec![option("set-cookie", "a=b")],
        ..wire::OkHttpResponse::default()
    })
    .unwrap();
    let written: Vec<_> = changes.headers.iter().map(|one| (one.name.as_str(), one.action)).collect();
    let wanted = [("x-user", Action::Overwrite), ("x-many", Action::Append), ("x-if", Action::AddIfAbsent)];
    assert_eq!(written, wanted);
    assert_eq!(changes.remove, ["authorization"]);
    assert_eq!(changes.response_headers.len(), 1);
    for (key, value) in [("a b", "1"), ("x", "a\r\nb: c"), ("", "1")] {
        let ok = wire::OkHttpResponse { headers: vec![option(key, value)], ..Default::default() };
        assert!(allowed(ok).unwrap_err().contains("cannot be written"), "{key} {value:?}");
    }
    let many = wire::OkHttpResponse { headers: vec![option("x", "y"); 101], ..Default::default() };
    assert!(allowed(many).unwrap_err().contains("more than 100"));
    let long = wire::OkHttpResponse { headers: vec![option("x", &"y".repeat(40_000))], ..Default::default() };
    assert!(allowed(long).unwrap_err().contains("longer than"));
}

#[test]
fn denials_have_a_status_and_are_bounded() {
    let denied = |code: i32, status: Option<i32>, body: String| {
        let status = status.map(|code| HttpStatus { code });
        let denied = wire::DeniedHttpResponse { status, body, headers: vec![option("location", "/login")] };
        decode(&framed(&response(code, Some(HttpResponse::DeniedResponse(denied)))))
    };
    let Ok(Decision::Deny(denial)) = denied(7, Some(302), "x".repeat(100_000)) else { panic!("not denied") };
    assert_eq!((denial.status.as_u16(), denial.body.len(), denial.headers.len()), (302, MOST_BODY, 1));
    assert!(!denial.detail.contains('\n'), "{}", denial.detail);
    assert!(matches!(denied(7, None, String::new()), Ok(Decision::Deny(denial)) if denial.status == 403));
    for status in [100, 101, 99, 600, 70_000, -1] {
        assert!(denied(7, Some(status), String::new()).is_err(), "{status}");
    }
    // OK and a denial in one is neither.
    assert!(denied(0, Some(403), String::new()).is_err());
}

#[test]
fn whatever_is_not_ok_is_not_allowed() {
    let ok = Some(HttpResponse::OkResponse(wire::OkHttpResponse::default()));
    for code in [1, 2, 7, 16, -1, i32::MAX] {
        assert!(matches!(decode(&framed(&response(code, ok.clone()))), Ok(Decision::Deny(_))), "{code}");
        assert!(matches!(decode(&framed(&response(code, None))), Ok(Decision::Deny(_))), "{code}");
    }
    assert!(matches!(decode(&framed(&response(0, None))), Ok(Decision::Allow(_))));
    let failed = HttpResponse::ErrorResponse(wire::DeniedHttpResponse::default());
    assert!(matches!(decode(&framed(&response(0, Some(failed)))), Ok(Decision::Failed(_))));
}

#[test]
fn what_is_no_message_is_no_answer() {
    let good = framed(&response(0, None));
    assert!(decode(&good).is_ok());
    for length in 0..good.len() {
        assert!(decode(&good[..length]).is_err(), "{length} bytes");
    }
    assert!(decode(&[&good[..], b"x"].concat()).is_err());
    let compressed = [&[1], &good[1..]].concat();
    assert!(decode(&compressed).unwrap_err().contains("compressed"));
    assert!(decode(b"\0\0\0\0\x02\xff\xff").is_err());
}

#[test]
fn metadata_nested_without_end_is_refused() {
    let mut value = protobuf::Value { kind: Some(protobuf::value::Kind::BoolValue(true)) };
    for _ in 0..1_000 {
        let list = protobuf::ListValue { values: vec![value] };
        value = protobuf::Value { kind: Some(protobuf::value::Kind::ListValue(list)) };
    }
    let fields = protobuf::Struct { fields: [("deep".to_owned(), value)].into() };
    let mut response = response(0, None);
    response.dynamic_metadata = Some(fields);
    assert!(decode(&framed(&response)).is_err());
}

#[test]
fn the_question_tells_every_header_once() {
    use crate::message::{Headers, Name, RequestHead, Scheme, Value, Version};
    let mut headers = Headers::new();
    for (name, value) in [("X-A", "1"), ("x-a", "2"), ("cookie", "secret")] {
        headers.append(Name::Static(name), Value::Static(value));
    }
    headers.append(Name::Static("x-bytes"), Value::Http(HeaderValue::from_bytes(b"\xff").unwrap()));
    let head = RequestHead {
        method: http::Method::GET,
        scheme: Scheme::Https,
        authority: "shop.test".parse().ok(),
        path: "/a?b=c".parse().unwrap(),
        version: Version::Http2,
        headers,
    };
    let connection = crate::telemetry::Downstream {
        listener: "l".into(),
        stat_prefix: "s".into(),
        inbound: true,
        peer: "[::1]:1000".parse().unwrap(),
        local: "127.0.0.1:2".parse().unwrap(),
        security: None,
    };
    let said = serde_json::json!({"sub": "ada", "level": 7, "roles": ["a", null, true]});
    let bytes = encode(&Asked {
        head: &head,
        connection: &connection,
        body: Bytes::from_static(b"caf\xc3"),
        raw_body: false,
        size: Some(4),
        time: std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_500),
        shows: &|name| name != "cookie",
        extensions: &[("team".to_owned(), "shop".to_owned())],
        metadata: vec![("envoy.filters.http.jwt_authn", &said)],
        certificate: true,
        session: true,
    });
    assert_eq!(bytes[..5], [&[0][..], &u32::try_from(bytes.len() - 5).unwrap().to_be_bytes()].concat());
    let attributes = wire::CheckRequest::decode(&bytes[5..]).unwrap().attributes.unwrap();
    let request = attributes.request.unwrap();
    assert_eq!(request.time.unwrap(), protobuf::Timestamp { seconds: 1, nanos: 500_000_000 });
    let http = request.http.unwrap();
    assert_eq!(http.headers["x-a"], "1,2");
    assert_eq!(http.headers["x-bytes"], "\u{fffd}");
    assert!(!http.headers.contains_key("cookie"));
    assert_eq!(http.headers[":path"], "/a?b=c");
    assert_eq!((http.body.as_str(), http.size), ("caf\u{fffd}", 4));
    assert_eq!(
        (http.host.as_str(), http.scheme.as_str(), http.protocol.as_str()),
        ("shop.test", "https", "HTTP/2")
    );
    assert_eq!(attributes.context_extensions["team"], "shop");
    let metadata = &attributes.metadata_context.unwrap().filter_metadata["envoy.filters.http.jwt_authn"];
    assert_eq!(metadata.fields.len(), 3);
    assert!(attributes.source.unwrap().principal.is_empty());
}
