//! E7, E10: names that do not resolve, endpoints that are slow, and none that is there.

use std::time::Duration;

use sidegate_tests::client::Http1;
use sidegate_tests::gateway::Gateway;
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;
use tokio::task::JoinSet;
use tokio::time::Instant;

const CACHE: &str = "dns_cache_config: {name: away, dns_lookup_family: V4_PREFERRED}";

#[tokio::test]
async fn e7_a_name_that_does_not_resolve_fails_its_own_requests_at_once() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let away = format!(
        "{{lb_policy: CLUSTER_PROVIDED, cluster_type: {{name: envoy.clusters.dynamic_forward_proxy, typed_config: {{
          '@type': type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, {CACHE}}}}}}}"
    );
    let filters = format!(
        "{{http_filters: [
          {{name: envoy.filters.http.dynamic_forward_proxy, typed_config: {{
            '@type': type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig, {CACHE}}}}},
          {{name: envoy.filters.http.router, typed_config: {{
            '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}"
    );
    let proxy = Gateway::new()
        .cluster("app", &[origin.address()])
        .cluster_with("away", &[], &away)
        .routes(
            "[{match: {prefix: /app}, route: {cluster: app}}, {match: {prefix: /}, route: {cluster: away}}]",
        )
        .http(&filters)
        .start(&sandbox)
        .await;
    // No resolver is asked: a label has 63 bytes at most.
    let mut client = Http1::connect(proxy.address).await.unwrap();
    for host in [format!("{}.test", "a".repeat(64)), format!("www.{}", "b".repeat(100))] {
        let begun = Instant::now();
        let response = client.call(&Call::get("/").host(&host)).await.unwrap();
        assert_eq!(response.status, 503, "{host}: {response:?}");
        let reason = response.header("x-sidegate-reason").unwrap_or_default();
        assert!(reason.starts_with("dns_failure"), "{host}: {response:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{host}: {:?}", begun.elapsed());
        assert_eq!(client.call(&Call::get("/app")).await.unwrap().text(), "app");
    }
    // A literal is no name.
    let literal = client.call(&Call::get("/").host(&origin.address().to_string())).await.unwrap();
    assert_eq!(literal.text(), "app", "{literal:?}");
}

#[tokio::test]
async fn e10_a_slow_endpoint_gets_less_than_its_share() {
    let sandbox = Sandbox::new();
    let mut origins = Vec::new();
    for pause in [200, 20, 20, 20, 20] {
        let answer = Answer::text("four").paced(2, Duration::from_millis(pause));
        origins.push(Origin::http1(move |_| answer.clone()).await);
    }
    let endpoints: Vec<_> = origins.iter().map(Origin::address).collect();
    let proxy = Gateway::new()
        .cluster_with("app", &endpoints, "{lb_policy: LEAST_REQUEST}")
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
        .start(&sandbox)
        .await;
    let mut crowd = JoinSet::new();
    for _ in 0..20 {
        let address = proxy.address;
        crowd.spawn(async move {
            let mut client = Http1::connect(address).await.expect("the proxy listens");
            for _ in 0..40 {
                let response = client.call(&Call::get("/")).await.expect("an answer");
                assert_eq!((response.status, response.complete), (200, true), "{response:?}");
            }
        });
    }
    crowd.join_all().await;
    let counts: Vec<usize> = origins.iter().map(Origin::count).collect();
    let fair = counts.iter().sum::<usize>() / counts.len();
    assert!(counts[0] > 0 && counts[0] < fair / 2, "{counts:?}");
}

/// What could not be connected is tried elsewhere.
const ELSEWHERE: &str = "[{match: {prefix: /}, route: {cluster: app, retry_policy: {
  retry_on: connect-failure, num_retries: 2, host_selection_retry_max_attempts: 5,
  retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {
    '@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}}}]";

#[tokio::test]
async fn e10_when_none_is_there_it_fails_at_once_and_the_first_one_that_comes_serves() {
    let sandbox = Sandbox::new();
    let endpoints = [address(), address(), address()];
    let proxy = Gateway::new().cluster("app", &endpoints).routes(ELSEWHERE).start(&sandbox).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    let begun = Instant::now();
    for _ in 0..50 {
        let response = client.call(&Call::get("/")).await.unwrap();
        assert_eq!(response.status, 503, "{response:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let origin = Origin::http1_at(endpoints[1], |_| Answer::text("back")).await;
    let back = Instant::now();
    wait::until("an answer", async || {
        let response = client.call(&Call::get("/")).await.expect("an answer");
        (response.status == 200).then_some(())
    })
    .await;
    // Two seconds on a machine that has nothing else to do.
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    // And from then on nobody notices those that are not there.
    for _ in 0..50 {
        assert_eq!(client.call(&Call::get("/")).await.unwrap().status, 200);
    }
    assert!(origin.count() > 50);
}
