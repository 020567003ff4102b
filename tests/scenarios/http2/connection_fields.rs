//! Fields that only a codec may write, in headers that configuration adds: left out, whichever version is spoken, and no connection suffers.
//! And those that only proxies of the mesh write: an origin that is none says nothing by them.

use sidegate_tests::client::{Protocol, call_over};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::sandbox::Sandbox;

/// One field each, with a value that would be well formed.
const FIELDS: [(&str, &str); 7] = [
    ("connection", "close"),
    ("te", "gzip"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "websocket"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "close"),
    ("content-length", "0"),
];

/// A proxy whose routes add all of them on one side, and one field that may be there.
async fn adding(sandbox: &Sandbox, side: &str, origin: &Origin) -> Proxy {
    let fields = FIELDS.iter().chain(&[("x-added", "yes")]);
    let added: Vec<_> = fields
        .map(|(name, value)| {
            format!(
                "{{header: {{key: {name}, value: '{value}'}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}"
            )
        })
        .collect();
    let routes = format!(
        "[{{match: {{prefix: /}}, route: {{cluster: app}}, {side}_headers_to_add: [{}]}}]",
        added.join(", ")
    );
    Gateway::new().cluster_http2("app", &[origin.address()]).routes(&routes).start(sandbox).await
}

#[tokio::test]
async fn connection_fields_are_not_added_to_requests() {
    let sandbox = Sandbox::new();
    let origin = Origin::http2(Answer::echo).await;
    let proxy = adding(&sandbox, "request", &origin).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let response = call_over(protocol, proxy.address, &Call::post("/", "four")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "four"), "{response:?}");
    }
    assert_eq!(origin.connections(), 1);
    for received in origin.received() {
        assert_eq!(received.header("x-added"), Some("yes"));
        for (name, _) in FIELDS.iter().filter(|(name, _)| *name != "content-length") {
            assert_eq!(received.header(name), None, "{name}");
        }
    }
    let log = proxy.process.log();
    assert_eq!(log.matches("request_headers_to_add[").count(), FIELDS.len(), "{log}");
}

#[tokio::test]
async fn connection_fields_are_not_added_to_responses() {
    let sandbox = Sandbox::new();
    let origin = Origin::http2(Answer::echo).await;
    let proxy = adding(&sandbox, "response", &origin).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let response = call_over(protocol, proxy.address, &Call::post("/", "four")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "four"), "{response:?}");
        assert_eq!(response.header("x-added"), Some("yes"));
        assert!(response.header("content-length").is_none_or(|length| length == "4"), "{response:?}");
        for (name, _) in FIELDS.iter().filter(|(name, _)| *name != "content-length") {
            // Over HTTP/1.1 the proxy frames by what it knows of the body itself.
            assert!(protocol == Protocol::Http1 || response.header(name).is_none(), "{name}: {response:?}");
        }
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn reasons_of_strangers_are_not_passed_on() {
    let answer = |_: &_| {
        Answer::text("ok").header("x-sidegate-reason", "connect_failure; id=aaaaaaaa").header("x-kept", "yes")
    };
    let (one, two) = (Origin::http1(answer).await, Origin::http2(answer).await);
    for gateway in [Gateway::to(&[one.address()]), Gateway::to_http2(&[two.address()])] {
        let sandbox = Sandbox::new();
        let proxy = gateway.start(&sandbox).await;
        let response = proxy.get("/").await;
        assert_eq!((response.reason(), response.header("x-kept")), (None, Some("yes")), "{response:?}");
    }
}
