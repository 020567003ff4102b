//! Who asks and whose word counts (I3), and what a gate makes of a request's host, scheme and header names.

use std::time::Duration;

use sidegate_tests::client::{Http1, Protocol};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::sandbox::Sandbox;
use tokio::time::Instant;

const INSIDE: &str = "internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}";

async fn gate(sandbox: &Sandbox, http: &str) -> (Origin, Proxy) {
    let origin = Origin::http1(Answer::echo).await;
    let proxy = Gateway::to(&[origin.address()]).http(http).start(sandbox).await;
    (origin, proxy)
}

fn sent<'a>(received: &'a Received, name: &str) -> Option<&'a str> {
    received.header(name)
}

#[tokio::test]
async fn i3_an_edge_says_who_asked_and_believes_no_stranger() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = gate(&sandbox, "{use_remote_address: true, append_x_forwarded_port: true}").await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let call = Call::get("/")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-forwarded-proto", "https")
            .header("x-envoy-internal", "true")
            .header("x-envoy-retry-on", "5xx")
            .header("x-envoy-upstream-rq-timeout-ms", "1")
            .header("x-envoy-external-address", "6.6.6.6");
        assert_eq!(proxy.call_over(protocol, &call).await.status, 200);
        let received = origin.last();
        let list = sent(&received, "x-forwarded-for").unwrap_or_default();
        assert!(list.starts_with("6.6.6.6, 127."), "{list}");
        assert_eq!(sent(&received, "x-forwarded-proto"), Some("http"));
        assert_eq!(sent(&received, "x-forwarded-port"), Some(proxy.address.port().to_string().as_str()));
        assert_eq!(sent(&received, "x-envoy-external-address"), list.strip_prefix("6.6.6.6, "));
        for name in ["x-envoy-internal", "x-envoy-retry-on", "x-envoy-upstream-rq-timeout-ms"] {
            assert_eq!(sent(&received, name), None, "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn i3_a_proxy_behind_trusted_hops_passes_their_word_on() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = gate(&sandbox, "{use_remote_address: true, xff_num_trusted_hops: 1}").await;
    let call =
        Call::get("/").header("x-forwarded-for", "6.6.6.6, 1.1.1.1").header("x-forwarded-proto", "https");
    assert_eq!(proxy.call(&call).await.status, 200);
    let received = origin.last();
    assert_eq!(sent(&received, "x-forwarded-proto"), Some("https"));
    assert_eq!(sent(&received, "x-envoy-external-address"), Some("1.1.1.1"));
}

#[tokio::test]
async fn i3_insiders_steer_time_and_retries() {
    let sandbox = Sandbox::new();
    let never = Gate::new();
    let held = never.clone();
    let origin = Origin::http1(move |received: &Received| match received.target.as_str() {
        "/held" => Answer::text("never").after(&held),
        _ => Answer::status(503),
    })
    .await;
    let http = format!("{{{INSIDE}, use_remote_address: true}}");
    let proxy = Gateway::to(&[origin.address()]).http(&http).start(&sandbox).await;

    let started = Instant::now();
    let call = Call::get("/held").header("x-envoy-upstream-rq-timeout-ms", "200");
    assert_eq!(proxy.call(&call).await.status, 504);
    assert!(started.elapsed() < Duration::from_secs(10));
    let received = origin.last();
    assert_eq!(sent(&received, "x-envoy-expected-rq-timeout-ms"), Some("200"));
    assert_eq!(sent(&received, "x-envoy-upstream-rq-timeout-ms"), None, "it was for us");
    assert_eq!(sent(&received, "x-envoy-internal"), Some("true"));

    let before = origin.count();
    let call = Call::get("/sick").header("x-envoy-retry-on", "5xx").header("x-envoy-max-retries", "2");
    assert_eq!(proxy.call(&call).await.status, 503);
    assert_eq!(origin.count() - before, 3);
    // One who speaks for somebody else is no insider.
    let before = origin.count();
    assert_eq!(proxy.call(&call.header("x-forwarded-for", "127.0.0.9")).await.status, 503);
    assert_eq!(origin.count() - before, 1);
}

#[tokio::test]
async fn a27_names_with_underscores_as_the_gate_is_told() {
    for (action, status, passed) in
        [("ALLOW", 200, true), ("REJECT_REQUEST", 400, false), ("DROP_HEADER", 200, false)]
    {
        let sandbox = Sandbox::new();
        let common =
            format!("{{common_http_protocol_options: {{headers_with_underscores_action: {action}}}}}");
        let (origin, proxy) = gate(&sandbox, &common).await;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let call = Call::get("/").header("X_Forwarded_For", "6.6.6.6").header("X_App", "1");
            assert_eq!(proxy.call_over(protocol, &call).await.status, status, "{action} {protocol:?}");
            if status == 200 {
                let seen = origin.last();
                assert_eq!(sent(&seen, "x_app").is_some(), passed, "{action} {protocol:?}");
                // What proxies say of a client is not for the client to say.
                assert_eq!(sent(&seen, "x_forwarded_for"), None, "{action} {protocol:?}");
            }
        }
        assert_eq!(origin.count() > 0, status == 200);
    }
}

#[tokio::test]
async fn hosts_and_schemes_as_the_gate_is_told() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = gate(&sandbox, "{strip_any_host_port: true}").await;
    assert_eq!(proxy.call(&Call::get("/").host("a.test:8080")).await.status, 200);
    assert_eq!(origin.last().authority, "a.test");

    let sandbox = Sandbox::new();
    let http = "{http_protocol_options: {accept_http_10: true, default_host_for_http_10: old.test}}";
    let (origin, proxy) = gate(&sandbox, http).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(client.response("GET").await.unwrap().status, 200);
    assert_eq!(origin.last().authority, "old.test");

    let sandbox = Sandbox::new();
    let http = "{http_protocol_options: {accept_http_10: true}, strip_trailing_host_dot: true}";
    let (origin, proxy) = gate(&sandbox, http).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(client.response("GET").await.unwrap().status, 400);
    assert_eq!(origin.count(), 0, "no host is made up");
    assert_eq!(proxy.call(&Call::get("/").host("a.test.")).await.status, 200);
    assert_eq!(origin.last().authority, "a.test");

    let sandbox = Sandbox::new();
    let routes = "[{match: {prefix: /}, redirect: {path_redirect: /new}}]";
    let http = "{scheme_header_transformation: {scheme_to_overwrite: https}, always_set_request_id_in_response: true}";
    let proxy = Gateway::new().routes(routes).http(http).start(&sandbox).await;
    let response = proxy.call(&Call::get("/old").host("a.test")).await;
    assert_eq!(response.header("location"), Some("https://a.test/new"), "{response:?}");
    assert!(response.header("x-request-id").is_some_and(|id| id.len() == 36));
}

#[tokio::test]
async fn headers_are_made_of_what_is_known() {
    let sandbox = Sandbox::new();
    let origin = Origin::http1(|_| Answer::text("ok").header("x-version", "7").header("server", "app")).await;
    let routes = "[{match: {prefix: /}, name: only, route: {cluster: app},
        request_headers_to_add: [
          {header: {key: x-client, value: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% by %PROTOCOL%'}},
          {header: {key: x-told, value: '%REQ(x-asked)%'}}, {header: {key: x-nothing, value: '%REQ(x-absent)%'}}],
        response_headers_to_add: [{header: {key: x-seen, value: '%RESP(x-version)% of %REQ(x-asked)% on %ROUTE_NAME% at %UPSTREAM_CLUSTER%'}}]}]";
    let http = "{server_name: gate, server_header_transformation: APPEND_IF_ABSENT}";
    let proxy = Gateway::to(&[origin.address()]).routes(routes).http(http).start(&sandbox).await;
    let response = proxy.call(&Call::get("/").header("x-asked", "me")).await;
    let received = origin.last();
    assert!(
        sent(&received, "x-client")
            .is_some_and(|value| value.starts_with("127.") && value.ends_with(" by HTTP/1.1"))
    );
    assert_eq!((sent(&received, "x-told"), sent(&received, "x-nothing")), (Some("me"), None));
    assert_eq!(response.header("x-seen"), Some("7 of me on only at app"), "{response:?}");
    assert_eq!(response.header("server"), Some("app"));
}
