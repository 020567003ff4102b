//! What the admin page says of what happened.

use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;

async fn observed(sandbox: &Sandbox) -> (Origin, Proxy) {
    let origin = Origin::http1(|received| match received.target.as_str() {
        "/503" => Answer::status(503),
        _ => Answer::text("ok"),
    })
    .await;
    let proxy = Gateway::to(&[origin.address()]).two_workers().with_admin().start(sandbox).await;
    wait::until_equal("readiness", 200, async || proxy.admin("/ready").await.status).await;
    (origin, proxy)
}

/// The sum of a counter's samples whose labels contain all of these.
async fn count(proxy: &Proxy, name: &str, labels: &[&str]) -> f64 {
    let page = proxy.admin("/stats/prometheus").await.text();
    let samples = page.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test]
async fn counters_say_what_was_sent() {
    let sandbox = Sandbox::new();
    let (_origin, proxy) = observed(&sandbox).await;
    for _ in 0..25 {
        proxy.get("/").await;
    }
    for _ in 0..5 {
        proxy.get("/503").await;
    }
    // What is counted when a response has been sent may be a moment behind the client.
    let table: [(&str, &[&str], f64); 5] = [
        ("istio_requests_total", &["response_code=\"200\""], 25.0),
        ("istio_requests_total", &["response_code=\"503\""], 5.0),
        ("envoy_cluster_upstream_rq_total", &["envoy_cluster_name=\"app\""], 30.0),
        ("envoy_http_downstream_rq_total", &["envoy_http_conn_manager_prefix=\"main\""], 30.0),
        ("envoy_http_downstream_rq_xx", &["envoy_response_code_class=\"5\""], 5.0),
    ];
    for (name, labels, expected) in table {
        let what = format!("{name}{labels:?}");
        wait::until_equal(&what, expected, async || count(&proxy, name, labels).await).await;
    }
}

#[tokio::test]
async fn a_failure_can_be_looked_up_by_its_id() {
    let sandbox = Sandbox::new();
    let proxy = Gateway::new()
        .cluster("app", &[sidegate_tests::sandbox::address()])
        .routes("[{match: {prefix: /}, name: the-route, route: {cluster: app}}]")
        .with_admin()
        .start(&sandbox)
        .await;
    let failed = proxy.call(&Call::get("/some/page").host("shop.test")).await;
    assert_eq!(failed.status, 503, "{failed:?}");
    let (reason, id) = failed.reason().expect("a reason");
    assert_eq!(reason, "connect_failure");
    let why = wait::until("the explanation", async || {
        let page = proxy.admin(&format!("/why/{id}")).await;
        (page.status == 200).then(|| page.text())
    })
    .await;
    for word in ["connect_failure", "/some/page", "the-route", "app"] {
        assert!(why.contains(word), "{word} is not said: {why}");
    }
}

#[tokio::test]
async fn dumps_show_what_is_in_force() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = observed(&sandbox).await;
    let dump = proxy.admin("/config_dump").await;
    assert_eq!(dump.status, 200);
    let dump: serde_json::Value = serde_json::from_slice(&dump.body).expect("JSON");
    let text = dump.to_string();
    for word in ["ClustersConfigDump", "ListenersConfigDump", "\"main\"", "\"app\""] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    let clusters = proxy.admin("/clusters").await.text();
    assert!(clusters.contains(&format!("app::{}", origin.address())), "{clusters}");
    assert!(proxy.admin("/listeners").await.text().contains(&proxy.address.to_string()));
}

#[tokio::test]
async fn the_log_level_changes_while_it_runs() {
    let sandbox = Sandbox::new();
    let (_origin, proxy) = observed(&sandbox).await;
    assert!(proxy.admin("/logging").await.text().contains("info"));
    assert_eq!(proxy.admin_post("/logging?level=debug").await.status, 200);
    assert!(proxy.admin("/logging").await.text().contains("debug"));
    assert_eq!(proxy.admin_post("/logging?level=loud").await.status, 400);
}

#[tokio::test]
async fn a_proxy_that_ends_is_not_ready() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("ok").await;
    let gateway = Gateway::to(&[origin.address()]).with_admin().flags(&[
        "--shutdown-delay-s",
        "2",
        "--drain-time-s",
        "2",
    ]);
    let mut proxy = gateway.start(&sandbox).await;
    wait::until_equal("readiness", 200, async || proxy.admin("/ready").await.status).await;
    proxy.process.terminate();
    wait::until_equal("readiness", 503, async || proxy.admin("/ready").await.status).await;
    assert_eq!(proxy.get("/").await.status, 200, "it is still served");
    assert_eq!(proxy.process.ended().await.code(), Some(0));
}
