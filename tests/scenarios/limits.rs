//! Rate limits, circuit breakers, timeouts: what is refused, and by which words.

use sidegate_tests::gateway::{Gateway, router, typed, yaml};
use sidegate_tests::message::{Call, Response};
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::{client, wait};

fn reason(response: &Response) -> &str {
    response.reason().map(|(reason, _)| reason).unwrap_or_default()
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_a_504() {
    let sandbox = Sandbox::new();
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |_| Answer::text("late").after(&held)).await;
    let proxy = Gateway::new()
        .cluster("app", &[origin.address()])
        .routes("[{match: {prefix: /}, route: {cluster: app, timeout: 0.2s}}]")
        .start(&sandbox)
        .await;
    let response = proxy.get("/").await;
    assert_eq!((response.status, reason(&response)), (504, "request_timeout"), "{response:?}");
    wait::until_equal("abandoned requests", 1, async || origin.abandoned()).await;
}

#[tokio::test]
async fn a_rate_limit_counts_over_all_workers() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let limit = typed(
        "envoy.filters.http.local_ratelimit",
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        yaml(
            "{stat_prefix: limit, token_bucket: {max_tokens: 20, tokens_per_fill: 20, fill_interval: 600s},
              filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}}",
        ),
    );
    let filters = serde_json::json!({"http_filters": [limit, router()]});
    let proxy =
        Gateway::to(&[origin.address()]).http(&filters.to_string()).two_workers().start(&sandbox).await;
    let mut statuses = Vec::new();
    for _ in 0..60 {
        // A new connection each, so that both workers get some.
        let response = proxy.get("/").await;
        if response.status == 429 {
            assert_eq!(reason(&response), "rate_limited");
        }
        statuses.push(response.status);
    }
    let count = |status| statuses.iter().filter(|seen| **seen == status).count();
    assert_eq!((count(200), count(429)), (20, 40));
    assert_eq!(origin.count(), 20);
}

#[tokio::test]
async fn a_circuit_breaker_refuses_at_once_and_lets_go_again() {
    let sandbox = Sandbox::new();
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |_| Answer::text("ok").after(&held)).await;
    let proxy = Gateway::new()
        .cluster_with("app", &[origin.address()], "{circuit_breakers: {thresholds: [{max_requests: 3}]}}")
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
        .two_workers()
        .start(&sandbox)
        .await;
    let address = proxy.address;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..3 {
        waiting.spawn(async move { client::call(address, &Call::get("/")).await.status });
    }
    wait::until_equal("requests at the origin", 3, async || origin.count()).await;
    let refused = proxy.get("/").await;
    assert_eq!((refused.status, reason(&refused)), (503, "upstream_overflow"), "{refused:?}");
    gate.open();
    assert_eq!(waiting.join_all().await, [200, 200, 200]);
    wait::until_equal("the next status", 200, async || proxy.get("/").await.status).await;
}
