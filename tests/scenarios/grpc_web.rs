//! gRPC-Web in front of gRPC: both forms, both ways, and what the proxy answers by itself.

use sidegate_tests::client::Protocol;
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;

/// A message of three bytes, and what the browser gets behind it.
const MESSAGE: &str = "\0\0\0\0\x03abc";
const TRAILERS: &str = "grpc-status: 0\r\ngrpc-message: well\r\n";

async fn gateway(sandbox: &Sandbox, endpoints: &[std::net::SocketAddr]) -> Proxy {
    let log = sandbox.path().join("access.log");
    let http = format!(
        "{{http_filters: [
            {{name: envoy.filters.http.grpc_web, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb}}}},
            {{name: envoy.filters.http.router, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}],
          access_log: [{{name: file, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog,
            path: {}, log_format: {{text_format_source: {{inline_string: '%GRPC_STATUS_NUMBER%'}}}}}}}}]}}",
        log.display()
    );
    Gateway::to_http2(endpoints).http(&http).start(sandbox).await
}

fn call(kind: &str, body: &str) -> Call {
    Call::post("/shop.Cart/Get", body).header("content-type", kind).header("x-grpc-web", "1")
}

#[tokio::test]
async fn browsers_talk_to_a_grpc_server() {
    let sandbox = Sandbox::new();
    let origin = Origin::http2(|received: &Received| {
        let answer = Answer::echo(received).header("content-type", "application/grpc+proto");
        answer.trailer("grpc-status", "0").trailer("grpc-message", "well")
    })
    .await;
    let proxy = gateway(&sandbox, &[origin.address()]).await;
    let frame = [b"\x80\0\0\0", &[TRAILERS.len() as u8][..], TRAILERS.as_bytes()].concat();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let response = proxy.call_over(protocol, &call("application/grpc-web+proto", MESSAGE)).await;
        assert_eq!(
            (response.status, response.header("content-type")),
            (200, Some("application/grpc-web+proto"))
        );
        assert_eq!(response.body, [MESSAGE.as_bytes(), &frame].concat(), "{protocol:?}");
        assert!(response.complete && response.trailers.is_empty());
        let received = origin.last();
        assert_eq!(
            (received.header("content-type"), received.header("te")),
            (Some("application/grpc+proto"), Some("trailers"))
        );
        assert_eq!((received.body.as_slice(), received.header("x-grpc-web")), (MESSAGE.as_bytes(), None));

        // The message as text, in two padded pieces.
        let response = proxy.call_over(protocol, &call("application/grpc-web-text", "AAAAAAM=YWJj")).await;
        assert_eq!(response.header("content-type"), Some("application/grpc-web-text+proto"));
        assert_eq!(origin.last().body, MESSAGE.as_bytes());
        assert_eq!(response.text(), "AAAAAANhYmM=gAAAACRncnBjLXN0YXR1czogMA0KZ3JwYy1tZXNzYWdlOiB3ZWxsDQo=");
    }
    // What is no gRPC-Web is left alone, and what is no text is no request.
    let response = proxy.call_over(Protocol::Http2, &call("application/grpc", MESSAGE)).await;
    assert_eq!((response.body.as_slice(), response.trailers.len()), (MESSAGE.as_bytes(), 2));
    let before = origin.count();
    let refused = proxy.call(&call("application/grpc-web-text", "AAAA AAA")).await;
    assert_eq!(refused.header("content-type"), Some("application/grpc-web-text+proto"), "{refused:?}");
    assert!(refused.header("grpc-status").is_some_and(|status| status != "0"));
    assert_eq!(origin.count(), before);
    let path = sandbox.path().join("access.log");
    wait::until("the access log", async || {
        std::fs::read_to_string(&path).unwrap_or_default().starts_with("0\n0\n0\n0\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_the_proxy_answers_itself_is_in_their_form() {
    let sandbox = Sandbox::new();
    let proxy = gateway(&sandbox, &[sidegate_tests::sandbox::address()]).await;
    let response = proxy.call(&call("application/grpc-web+proto", MESSAGE)).await;
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/grpc-web+proto")));
    assert_eq!(response.header("grpc-status"), Some("14"), "{response:?}");
}
