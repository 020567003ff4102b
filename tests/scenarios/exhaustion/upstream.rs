//! Endpoints that fail or stop: retries stay within their budget, what cannot be served fails at once.

use std::time::Duration;

use sidegate_tests::client::{self, Http1};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::resources::{Usage, mebibytes};
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// So many clients at once, so many requests each; how many got which status.
async fn storm(proxy: &Proxy, clients: usize, each: usize) -> Vec<u16> {
    let mut crowd = JoinSet::new();
    for _ in 0..clients {
        let address = proxy.address;
        crowd.spawn(async move {
            let mut client = Http1::connect(address).await.expect("the proxy listens");
            let mut statuses = Vec::new();
            for _ in 0..each {
                statuses.push(client.call(&Call::get("/")).await.expect("an answer").status);
            }
            statuses
        });
    }
    wait::within("the storm's end", crowd.join_all()).await.into_iter().flatten().collect()
}

const BUDGET: &str = "{circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 20}, min_retry_concurrency: 3}}]}}";

fn retrying(policy: &str) -> String {
    format!("[{{match: {{prefix: /}}, route: {{cluster: app, timeout: 10s, retry_policy: {{{policy}}}}}}}]")
}

#[tokio::test]
async fn d10_an_upstream_that_always_refuses_gets_little_more_than_its_load() {
    let sandbox = Sandbox::new();
    let origin = Origin::http1(|_| Answer::status(503)).await;
    let proxy = Gateway::new()
        .cluster_with("app", &[origin.address()], BUDGET)
        .routes(&retrying("retry_on: 5xx, num_retries: 5"))
        .start(&sandbox)
        .await;
    let statuses = storm(&proxy, 50, 40).await;
    assert!(statuses.iter().all(|status| *status == 503));
    let (offered, sent) = (statuses.len(), origin.count());
    // A fifth of all that is in flight, retries among it: a quarter of the rest.
    assert!(sent > offered && sent * 4 <= offered * 5 + 12, "{sent} sent for {offered} offered");
}

#[tokio::test]
async fn d10_an_upstream_that_never_answers_gets_little_more_than_its_load() {
    let sandbox = Sandbox::new();
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |_| Answer::text("never").after(&held)).await;
    let proxy = Gateway::new()
        .cluster_with("app", &[origin.address()], BUDGET)
        .routes(&retrying("retry_on: 5xx, num_retries: 3, per_try_timeout: 0.2s"))
        .with_admin()
        .start(&sandbox)
        .await;
    let statuses = storm(&proxy, 50, 5).await;
    assert!(statuses.iter().all(|status| *status == 504), "{statuses:?}");
    let (offered, sent) = (statuses.len(), proxy.stat("cluster.app.upstream_rq_total").await);
    let sent = usize::try_from(sent).unwrap();
    assert!(sent > offered && sent * 10 <= offered * 13, "{sent} sent for {offered} offered");
    wait::until_equal("requests in flight", 0, async || proxy.stat("cluster.app.upstream_rq_active").await)
        .await;
}

#[tokio::test]
async fn d11_when_the_upstream_stops_what_has_no_room_fails_at_once() {
    let sandbox = Sandbox::new();
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |_| Answer::text("late").after(&held)).await;
    let limits = "{circuit_breakers: {thresholds: [{max_requests: 40, max_connections: 40, max_pending_requests: 20}]}}";
    let proxy = Gateway::new()
        .cluster_with("app", &[origin.address()], limits)
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
        .with_admin()
        .start(&sandbox)
        .await;
    let before = Usage::of(proxy.process.id()).memory;
    let address = proxy.address;
    let mut waiting = JoinSet::new();
    for _ in 0..40 {
        waiting.spawn(async move { client::call(address, &Call::get("/")).await.status });
    }
    wait::until_equal("requests at the origin", 40, async || origin.count()).await;
    let begun = Instant::now();
    let statuses = storm(&proxy, 20, 20).await;
    let each = begun.elapsed() / 20;
    assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
    assert!(each < Duration::from_secs(1), "{each:?}");
    assert_eq!(origin.count(), 40);
    let grown = Usage::of(proxy.process.id()).memory.saturating_sub(before);
    assert!(grown < mebibytes(8), "{grown}");
    gate.open();
    assert!(waiting.join_all().await.into_iter().all(|status| status == 200));
    wait::until_equal("the next status", 200, async || proxy.get("/").await.status).await;
}

#[tokio::test]
async fn d11_where_nobody_listens_the_answer_comes_at_once() {
    let sandbox = Sandbox::new();
    let proxy = Gateway::to(&[address()]).start(&sandbox).await;
    let begun = Instant::now();
    let statuses = storm(&proxy, 20, 5).await;
    assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
    assert!(begun.elapsed() / 5 < Duration::from_secs(1), "{:?}", begun.elapsed());
}
