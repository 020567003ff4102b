//! Stale connections, retries, exactly once (D8, D9).

use sidegate_tests::client::Protocol::Http2;
use sidegate_tests::client::{self, Http1, Protocol};
use sidegate_tests::gateway::Gateway;
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::sandbox::{Sandbox, address};

const RETRY: &str = "[{match: {prefix: /}, route: {cluster: app, retry_policy: {
    retry_on: 'connect-failure,refused-stream,reset,retriable-status-codes', retriable_status_codes: [503], num_retries: 2,
    retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {
      '@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}],
    host_selection_retry_max_attempts: 5}}}]";

#[tokio::test]
async fn an_origin_that_closes_silently_after_every_fifth_response_costs_nothing() {
    let sandbox = Sandbox::new();
    let origin = Origin::http1(|received| match received.nth {
        5 => Answer::text("ok").then_close(),
        _ => Answer::text("ok"),
    })
    .await;
    let proxy = Gateway::to(&[origin.address()]).start(&sandbox).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut client = Http1::connect(proxy.address).await.unwrap();
        clients.spawn(async move {
            let mut failed = 0;
            for _ in 0..2_500 {
                failed += usize::from(client.call(&Call::get("/")).await.unwrap().status != 200);
            }
            failed
        });
    }
    let failed: usize = clients.join_all().await.into_iter().sum();
    assert_eq!(failed, 0, "of 10,000 GETs");
    assert!(origin.connections() >= 2_000, "the origin did close: {}", origin.connections());
}

#[tokio::test]
async fn a_post_that_may_have_been_processed_is_not_sent_again() {
    let sandbox = Sandbox::new();
    // Every second request on a connection is read, and then the connection closes without an answer.
    let origin = Origin::http1(|received| match received.nth {
        2 => Answer::nothing(),
        _ => Answer::text("ok"),
    })
    .await;
    let proxy = Gateway::to(&[origin.address()]).start(&sandbox).await;

    for number in 0..200 {
        let response = proxy.get("/get").await;
        assert_eq!(response.status, 200, "GET {number}: {response:?}");
    }
    let (mut good, mut bad) = (0, 0);
    for number in 0..100 {
        let id = number.to_string();
        let response = proxy.call(&Call::post("/post", "once").header("x-id", &id)).await;
        match response.status {
            200 => good += 1,
            502 => bad += 1,
            _ => panic!("POST {number}: {response:?}"),
        }
        let delivered =
            origin.received().iter().filter(|received| received.header("x-id") == Some(&id)).count();
        assert_eq!(delivered, 1, "POST {number}, answered {}", response.status);
    }
    assert!(good > 0 && bad > 0, "{good} good, {bad} bad");
}

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

#[tokio::test]
async fn what_is_no_response_is_a_502_and_spoils_nothing() {
    let sandbox = Sandbox::new();
    let origin = Origin::http1(|received| match received.target.as_str() {
        "/garbage" => Answer::raw("SSH-2.0-OpenSSH_9.7\r\n\r\n"),
        "/two-lengths" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        "/both" => {
            Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        }
        "/nul" => Answer::raw("HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n"),
        "/bare-cr" => Answer::raw("HTTP/1.1 200 OK\r\nX-A: a\rX-B: b\r\nContent-Length: 0\r\n\r\n"),
        "/status" => Answer::raw("HTTP/1.1 1000 What\r\nContent-Length: 0\r\n\r\n"),
        "/switch" => Answer::raw("HTTP/1.1 101 Switching\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n"),
        "/head" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Le"),
        _ => Answer::text("fine"),
    })
    .await;
    let proxy = Gateway::to(&[origin.address()]).start(&sandbox).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    for target in ["/garbage", "/two-lengths", "/both", "/nul", "/bare-cr", "/status", "/switch", "/head"] {
        let bad = client.call(&Call::get(target)).await.unwrap();
        assert_eq!(bad.status, 502, "{target}: {bad:?}");
        assert!(bad.reason().is_some(), "{target}: {bad:?}");
        let good = client.call(&Call::get("/")).await.unwrap();
        assert_eq!((good.status, good.text().as_str()), (200, "fine"), "after {target}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_never_looks_complete() {
    let sandbox = Sandbox::new();
    let script = |received: &Received| match received.target.as_str() {
        "/length" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"),
        "/chunked" => Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n"),
        _ => {
            Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nxyz\r\n\r\n")
        }
    };
    let origin = Origin::http1(script).await;
    let proxy = Gateway::to(&[origin.address()]).start(&sandbox).await;
    for target in ["/length", "/chunked", "/bad-chunk"] {
        for protocol in [Protocol::Http1, Http2] {
            match client::try_call_over(protocol, proxy.address, &Call::get(target)).await {
                Ok(response) => {
                    assert!(!response.complete || response.status == 502, "{target}: {response:?}")
                }
                // A stream that is reset may take its head along.
                Err(error) => assert_eq!(protocol, Http2, "{target}: {error}"),
            }
        }
    }
}

/// Enough for a scenario that retries all the time.
const BUDGET: &str = "{circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 100}, min_retry_concurrency: 20}}]}}";
