//! Stale connections, retries, exactly once (D8, D9), and how long connections are kept.

use std::time::Duration;

use sidegate_tests::client::Http1;
use sidegate_tests::gateway::Gateway;
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;

const RETRY: &str = "[{match: {prefix: /}, route: {cluster: app, retry_policy: {
    retry_on: 'connect-failure,refused-stream,reset,retriable-status-codes', retriable_status_codes: [503], num_retries: 2,
    retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {
      '@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}],
    host_selection_retry_max_attempts: 5}}}]";

#[tokio::test]
async fn another_endpoint_is_tried_where_the_route_says_so() {
    let sandbox = Sandbox::new();
    let good = Origin::named("good").await;
    let nobody = address();
    let sick = Origin::http1(|_| Answer::status(503)).await;
    let rude = Origin::http1(|_| Answer::nothing()).await;
    let endpoints = [good.address(), nobody, sick.address(), rude.address()];
    let proxy = Gateway::new()
        .cluster_with("app", &endpoints, BUDGET)
        .routes(RETRY.replace("num_retries: 2", "num_retries: 4").as_str())
        .start(&sandbox)
        .await;
    for number in 0..100 {
        let response = proxy.get("/").await;
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "good"),
            "request {number}: {response:?}"
        );
    }
    assert!(sick.count() > 0 && rude.count() > 0, "the bad ones were asked too");
}

#[tokio::test]
async fn a_large_upload_finds_the_endpoint_that_listens() {
    let sandbox = Sandbox::new();
    let good = Origin::http1(Answer::echo).await;
    let proxy = Gateway::new()
        .cluster_with("app", &[address(), good.address(), address()], BUDGET)
        .routes(RETRY)
        .start(&sandbox)
        .await;
    let body: Vec<u8> = (0..1024 * 1024_u32).map(|index| (index % 253) as u8).collect();
    for number in 0..10 {
        let call = Call::post("/", body.clone());
        let call = if number % 2 == 0 { call } else { call.chunked() };
        let response = proxy.call(&call).await;
        assert_eq!(response.status, 200, "upload {number}: {response:?}");
        assert!(response.body == body, "upload {number} came back otherwise");
    }
    assert_eq!(good.count(), 10, "every upload was delivered once");
}

#[tokio::test]
async fn without_a_retry_policy_nothing_is_tried_again() {
    let sandbox = Sandbox::new();
    let sick = Origin::http1(|_| Answer::status(503)).await;
    let proxy = Gateway::to(&[sick.address()]).start(&sandbox).await;
    assert_eq!(proxy.get("/").await.status, 503);
    assert_eq!(sick.count(), 1);
}

/// Enough for a scenario that retries all the time.
const BUDGET: &str = "{circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 100}, min_retry_concurrency: 20}}]}}";

#[tokio::test]
async fn d11_those_who_wait_for_a_connection_are_served_in_the_order_they_came() {
    let sandbox = Sandbox::new();
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |_| Answer::text("ok").after(&held)).await;
    let limits = "{circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 4}]}}";
    let proxy = Gateway::new()
        .cluster_with("app", &[origin.address()], limits)
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
        .with_admin()
        .start(&sandbox)
        .await;
    let mut clients = Vec::new();
    for number in 0..5 {
        let mut client = Http1::connect(proxy.address).await.unwrap();
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        clients.push(client);
        wait::until("the place in the queue", async || {
            let stats = proxy.admin("/stats").await.text();
            let line = stats.lines().find(|line| line.contains("upstream_rq_pending_active"));
            let waits = line.is_some_and(|line| line.ends_with(&format!(" {number}")));
            (origin.count() == 1 && (waits || number == 0)).then_some(())
        })
        .await;
    }
    // One more than may wait fails at once.
    assert_eq!(proxy.get("/6").await.status, 503);
    gate.open();
    for mut client in clients {
        assert_eq!(wait::within("an answer", client.response("GET")).await.unwrap().status, 200);
    }
    let order: Vec<String> = origin.received().into_iter().map(|received| received.target).collect();
    assert_eq!(order, ["/0", "/1", "/2", "/3", "/4"]);
    assert_eq!(origin.connections(), 1);
}

/// The fields of a cluster whose connections are kept as the options say, over HTTP/1.1 or HTTP/2.
fn kept(protocol: &str, common: &str) -> String {
    format!(
        "{{typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{
            '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions,
            explicit_http_config: {{{protocol}: {{}}}}, common_http_protocol_options: {common}}}}}}}"
    )
}

/// An origin of each protocol, with the field that chooses it.
async fn of_each_protocol() -> [(&'static str, Origin); 2] {
    [
        ("http_protocol_options", Origin::named("one").await),
        ("http2_protocol_options", Origin::http2(|_| Answer::text("two")).await),
    ]
}

#[tokio::test]
async fn a_connection_serves_as_many_requests_as_it_may() {
    for (protocol, origin) in of_each_protocol().await {
        let sandbox = Sandbox::new();
        let fields = kept(protocol, "{max_requests_per_connection: 3}");
        let proxy = Gateway::new()
            .cluster_with("app", &[origin.address()], &fields)
            .routes("[{match: {prefix: /}, route: {cluster: app}}]")
            .start(&sandbox)
            .await;
        for number in 1..=7_usize {
            assert_eq!(proxy.get("/").await.status, 200);
            assert_eq!(origin.connections(), number.div_ceil(3), "{protocol}: after {number} requests");
        }
        // At once too: who waits takes turns on more connections.
        let answers =
            tokio::join!(proxy.get("/"), proxy.get("/"), proxy.get("/"), proxy.get("/"), proxy.get("/"));
        let answers = [answers.0, answers.1, answers.2, answers.3, answers.4];
        assert!(answers.iter().all(|answer| answer.status == 200), "{protocol}: {answers:?}");
        let connections = origin.connections();
        assert!(connections >= 4, "{protocol}: 12 requests over {connections} connections");
    }
}

#[tokio::test]
async fn a_connection_is_closed_after_the_idle_time_that_is_configured() {
    for (protocol, origin) in of_each_protocol().await {
        let sandbox = Sandbox::new();
        let proxy = Gateway::new()
            .cluster_with("app", &[origin.address()], &kept(protocol, "{idle_timeout: 0.2s}"))
            .routes("[{match: {prefix: /}, route: {cluster: app}}]")
            .start(&sandbox)
            .await;
        proxy.get("/").await;
        // Before the sweep comes by: it is not used again.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(proxy.get("/").await.status, 200);
        assert_eq!(origin.connections(), 2, "{protocol}");
        wait::until("the end of both", async || (origin.open_connections() == 0).then_some(())).await;
    }
}

#[tokio::test]
async fn a_connection_takes_nothing_new_after_its_time() {
    for (protocol, origin) in of_each_protocol().await {
        let sandbox = Sandbox::new();
        let proxy = Gateway::new()
            .cluster_with("app", &[origin.address()], &kept(protocol, "{max_connection_duration: 0.3s}"))
            .routes("[{match: {prefix: /}, route: {cluster: app}}]")
            .start(&sandbox)
            .await;
        for _ in 0..10 {
            assert_eq!(proxy.get("/").await.status, 200);
            // So that the bound passes between requests, and none of them is idle for as long.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let connections = origin.connections();
        assert!((3..=5).contains(&connections), "{protocol}: {connections} connections in a second");
    }
}
