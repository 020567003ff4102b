//! Another service decides about each request: by gRPC (tonic) and by HTTP, what it changes, and what comes of it when it fails.

mod policy;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sidegate_tests::authorizer::Authorizer;
use sidegate_tests::client::Protocol;
use sidegate_tests::gateway::{Gateway, router, typed, yaml};
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;
use sidegate_xds::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use sidegate_xds::envoy::service::auth::v3::check_response::HttpResponse;
use sidegate_xds::envoy::service::auth::v3::{
    AttributeContext, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use sidegate_xds::envoy::r#type::v3::HttpStatus;
use sidegate_xds::google::rpc::Status;

const GRPC: &str =
    "grpc_service: {envoy_grpc: {cluster_name: authz}, timeout: 0.5s}, transport_api_version: V3";
const HTTP: &str = "http_service: {server_uri: {uri: 'http://authz.test', cluster: authz, timeout: 0.5s}, path_prefix: /check, \
    authorization_response: {allowed_upstream_headers: {patterns: [{prefix: x-}]}}}";

fn filter(fields: &str) -> Value {
    typed(
        "envoy.filters.http.ext_authz",
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        yaml(&format!("{{{fields}}}")),
    )
}

fn gateway(app: SocketAddr, authorizer: SocketAddr, fields: &str) -> Gateway {
    let filters = json!({"http_filters": [filter(fields), router()]});
    let gateway = Gateway::to(&[app]).http(&filters.to_string()).with_admin();
    if fields.contains("grpc_service") {
        gateway.cluster_http2("authz", &[authorizer])
    } else {
        gateway.cluster("authz", &[authorizer])
    }
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue { key: key.to_owned(), value: value.to_owned(), ..HeaderValue::default() };
    HeaderValueOption { header: Some(header), ..HeaderValueOption::default() }
}

fn answer(code: i32, http_response: HttpResponse) -> CheckResponse {
    let status = Status { code, message: "no such user".to_owned(), details: Vec::new() };
    CheckResponse { status: Some(status), http_response: Some(http_response), ..CheckResponse::default() }
}

/// Lets those in who say who they are.
fn doorkeeper(attributes: &AttributeContext) -> CheckResponse {
    let request = attributes.request.clone().and_then(|request| request.http).unwrap_or_default();
    match request.headers.get("x-user") {
        Some(user) => answer(
            0,
            HttpResponse::OkResponse(OkHttpResponse {
                headers: vec![option("x-known-as", user), option("host", "evil.test")],
                headers_to_remove: vec!["x-user".to_owned()],
                response_headers_to_add: vec![option("x-checked", "yes")],
                ..OkHttpResponse::default()
            }),
        ),
        None => answer(
            16,
            HttpResponse::DeniedResponse(DeniedHttpResponse {
                status: Some(HttpStatus { code: 401 }),
                headers: vec![option("www-authenticate", "Basic"), option("content-type", "text/html")],
                body: "<p>who are you?</p>".to_owned(),
            }),
        ),
    }
}

#[tokio::test]
async fn a_grpc_service_decides() {
    let sandbox = Sandbox::new();
    let app = Origin::named("app").await;
    let authorizer = Authorizer::start(|attributes| Ok(doorkeeper(attributes))).await;
    let proxy = gateway(app.address(), authorizer.address(), GRPC).start(&sandbox).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let call = Call::get("/a?b=c").header("X-User", "ada").header("x-twice", "1").header("x-twice", "2");
        let response = proxy.call_over(protocol, &call).await;
        assert_eq!((response.status, response.header("x-checked")), (200, Some("yes")), "{response:?}");
        let seen = app.last();
        assert_eq!((seen.header("x-known-as"), seen.header("x-user")), (Some("ada"), None));
        assert_eq!(seen.authority, "app.test");
        let asked = authorizer.last_request();
        assert_eq!(
            (asked.method.as_str(), asked.path.as_str(), asked.host.as_str()),
            ("GET", "/a?b=c", "app.test")
        );
        assert_eq!(asked.headers["x-twice"], "1,2");

        let before = app.count();
        let denied = proxy.call_over(protocol, &Call::get("/")).await;
        assert_eq!((denied.status, denied.text().as_str()), (401, "<p>who are you?</p>"), "{denied:?}");
        assert_eq!(
            (denied.header("www-authenticate"), denied.header("content-type")),
            (Some("Basic"), Some("text/html"))
        );
        assert_eq!(app.count(), before);
        let (reason, id) = denied.reason().expect("a reason");
        assert_eq!(reason, "external_denial");
        let told = wait::until("the story is known", async || {
            let page = proxy.admin(&format!("/why/{id}")).await;
            (page.status == 200).then(|| page.text())
        })
        .await;
        assert!(told.contains("no such user"), "{told}");
    }
    assert_eq!(proxy.stat("http.main.ext_authz.ok").await, 2);
    assert_eq!(proxy.stat("http.main.ext_authz.denied").await, 2);
}

#[tokio::test]
async fn an_http_service_decides() {
    let sandbox = Sandbox::new();
    let app = Origin::named("app").await;
    let authorizer = Origin::http1(|received| match received.header("authorization") {
        Some("let me in") => Answer::status(200).header("x-known-as", "ada").header("set-cookie", "a=b"),
        _ => Answer::status(302).header("location", "https://login.test/").body("go there"),
    })
    .await;
    let proxy = gateway(app.address(), authorizer.address(), HTTP).start(&sandbox).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let call = Call::get("/a?b=c").header("authorization", "let me in").header("cookie", "secret");
        let response = proxy.call_over(protocol, &call).await;
        assert_eq!((response.status, response.header("set-cookie")), (200, None), "{response:?}");
        assert_eq!(app.last().header("x-known-as"), Some("ada"));
        let asked = authorizer.last();
        assert_eq!((asked.target.as_str(), asked.header("cookie")), ("/check/a?b=c", None));
        let denied = proxy.call_over(protocol, &Call::get("/")).await;
        assert_eq!((denied.status, denied.header("location")), (302, Some("https://login.test/")));
        assert_eq!(denied.text(), "go there");
    }
    assert_eq!(app.count(), 2);
}

#[tokio::test]
async fn a_service_that_cannot_be_asked_denies() {
    let never = Gate::new();
    let held = never.clone();
    let slow = Origin::http1(move |_| Answer::text("yes").after(&held)).await;
    let broken = Origin::http1(|_| Answer::nothing()).await;
    let failing = Origin::http1(|_| Answer::status(503)).await;
    let refusing = Authorizer::start(|_| Err(tonic::Status::unavailable("not today"))).await;
    let app = Origin::named("app").await;
    for (fields, service) in [
        (HTTP, address()),
        (HTTP, slow.address()),
        (HTTP, broken.address()),
        (HTTP, failing.address()),
        (GRPC, address()),
        (GRPC, refusing.address()),
        // It speaks, but no gRPC.
        (GRPC, failing.address()),
    ] {
        let sandbox = Sandbox::new();
        let proxy = gateway(app.address(), service, fields).start(&sandbox).await;
        let begun = tokio::time::Instant::now();
        let response = proxy.get("/").await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let reason = response.reason().map(|(reason, _)| reason);
        assert_eq!((response.status, reason), (403, Some("external_authorization_failure")), "{response:?}");
        assert_eq!(response.text(), "sidegate: external authorization failure\n");
        assert_eq!(proxy.stat("http.main.ext_authz.error").await, 1);
    }
    assert_eq!(app.count(), 0);
    let sandbox = Sandbox::new();
    let fields = format!("{HTTP}, failure_mode_allow: true, failure_mode_allow_header_add: true");
    let proxy = gateway(app.address(), failing.address(), &fields).start(&sandbox).await;
    assert_eq!(proxy.get("/").await.status, 200);
    assert_eq!(app.last().header("x-envoy-auth-failure-mode-allowed"), Some("true"));
    assert_eq!(proxy.stat("http.main.ext_authz.failure_mode_allowed").await, 1);
}

#[tokio::test]
async fn the_service_sees_the_body_and_the_app_gets_it() {
    let sandbox = Sandbox::new();
    // Fails the first time, so that the body is needed again.
    let tries = Arc::new(AtomicUsize::new(0));
    let app = Origin::http1(move |received| match tries.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => Answer::status(503),
        _ => Answer::echo(received),
    })
    .await;
    let authorizer = Authorizer::start(|attributes| {
        let request = attributes.request.clone().and_then(|request| request.http).unwrap_or_default();
        Ok(match request.body.contains("please") {
            true => answer(0, HttpResponse::OkResponse(OkHttpResponse::default())),
            false => answer(7, HttpResponse::DeniedResponse(DeniedHttpResponse::default())),
        })
    })
    .await;
    let fields = format!("{GRPC}, with_request_body: {{max_request_bytes: 1000}}");
    let proxy = gateway(app.address(), authorizer.address(), &fields)
        .routes(
            "[{match: {prefix: /}, route: {cluster: app, retry_policy: {retry_on: 5xx, num_retries: 1}}}]",
        )
        .start(&sandbox)
        .await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for call in [Call::post("/", "please"), Call::post("/", "pretty please").chunked()] {
            let response = proxy.call_over(protocol, &call).await;
            assert_eq!(response.status, 200, "{response:?}");
            assert!(response.text().ends_with("please"));
            assert_eq!(authorizer.last_request().body.len(), response.body.len());
        }
        assert_eq!(proxy.call_over(protocol, &Call::post("/", "now!")).await.status, 403);
        let before = authorizer.count();
        let long = "please".repeat(200);
        assert_eq!(proxy.call_over(protocol, &Call::post("/", long.as_str())).await.status, 413);
        assert_eq!(proxy.call_over(protocol, &Call::post("/", long).chunked()).await.status, 413);
        assert_eq!(authorizer.count(), before, "half a body is not asked about");
    }
}

#[tokio::test]
async fn a_long_body_is_shown_in_part_and_sent_whole() {
    let sandbox = Sandbox::new();
    let app = Origin::http1(Answer::echo).await;
    let authorizer =
        Authorizer::start(|_| Ok(answer(0, HttpResponse::OkResponse(OkHttpResponse::default())))).await;
    let fields = format!(
        "{GRPC}, with_request_body: {{max_request_bytes: 1000, allow_partial_message: true, pack_as_bytes: true}}"
    );
    let proxy = gateway(app.address(), authorizer.address(), &fields).start(&sandbox).await;
    let body: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let response = proxy.call_over(protocol, &Call::post("/", body.clone())).await;
        assert_eq!((response.status, response.body == body), (200, true));
        let asked = authorizer.last_request();
        assert_eq!((asked.raw_body.as_slice(), asked.size), (&body[..1000], 300_000));
    }
}

#[tokio::test]
async fn routes_switch_it_off_and_add_context() {
    let sandbox = Sandbox::new();
    let app = Origin::named("app").await;
    let authorizer = Authorizer::start(|attributes| {
        Ok(match attributes.context_extensions.get("team").map(String::as_str) {
            Some("shop") => answer(0, HttpResponse::OkResponse(OkHttpResponse::default())),
            _ => answer(7, HttpResponse::DeniedResponse(DeniedHttpResponse::default())),
        })
    })
    .await;
    let per_route =
        "'@type': type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
    let proxy = gateway(app.address(), authorizer.address(), GRPC)
        .routes(&format!(
            "[{{match: {{prefix: /open}}, route: {{cluster: app}}, typed_per_filter_config: {{envoy.filters.http.ext_authz: {{{per_route}, disabled: true}}}}}},
              {{match: {{prefix: /shop}}, route: {{cluster: app}}, typed_per_filter_config: {{envoy.filters.http.ext_authz: {{{per_route}, check_settings: {{context_extensions: {{team: shop}}}}}}}}}},
              {{match: {{prefix: /}}, route: {{cluster: app}}}}]"
        ))
        .start(&sandbox)
        .await;
    for (path, status) in [("/open", 200), ("/shop", 200), ("/", 403)] {
        assert_eq!(proxy.get(path).await.status, status, "{path}");
    }
    assert_eq!(authorizer.count(), 2);
}
