//! E1, E2, E3, E6, E9: endpoints that break off, do not answer, answer nonsense, or are killed.

use std::net::SocketAddr;
use std::time::Duration;

use sidegate_tests::client::{self, Http1, Protocol};
use sidegate_tests::gateway::Gateway;
use sidegate_tests::guarded::Guarded;
use sidegate_tests::load::Load;
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

/// Where in a response an origin stops.
const PLACES: [(&str, &str); 5] = [
    ("before the head", ""),
    ("within the head", "HTTP/1.1 200 OK\r\nContent-Le"),
    ("within content", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
    ("within a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf"),
    ("after the content", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfull"),
];

#[tokio::test]
async fn e1_a_connection_that_ends_at_any_place() {
    for reset in [false, true] {
        let mut guarded = Guarded::scripted(move |received| {
            let row =
                received.target.trim_start_matches('/').parse::<usize>().ok().and_then(|row| PLACES.get(row));
            let Some((_, bytes)) = row else { return Answer::text("fine") };
            let answer = Answer::raw(*bytes);
            if reset { answer.then_reset() } else { answer }
        })
        .await;
        for (number, (place, _)) in PLACES.iter().enumerate() {
            for (method, protocol) in [
                ("GET", Protocol::Http1),
                ("POST", Protocol::Http1),
                ("GET", Protocol::Http2),
                ("POST", Protocol::Http2),
            ] {
                let case = format!("{method} by {protocol:?}, {place}, reset {reset}");
                let before = guarded.origin.count();
                let answer = client::try_call_over(
                    protocol,
                    guarded.proxy.address,
                    &Call::new(method, &format!("/{number}")).body("x"),
                )
                .await;
                let asked = guarded.origin.count() - before;
                let record = guarded.records(1).await.remove(0);
                match number {
                    0 | 1 => {
                        let answer = answer.unwrap_or_else(|error| panic!("{case}: {error}"));
                        assert_eq!(
                            (answer.status, answer.complete, record.status),
                            (502, true, 502),
                            "{case}: {answer:?}"
                        );
                        assert_eq!(record.reason, "upstream_reset", "{case}: {record:?}");
                    }
                    2 | 3 => {
                        let complete = answer.is_ok_and(|answer| answer.complete);
                        assert!(!complete && record.reason == "upstream_body_reset", "{case}: {record:?}");
                    }
                    _ => {
                        let answer = answer.unwrap_or_else(|error| panic!("{case}: {error}"));
                        assert_eq!(
                            (answer.status, answer.text().as_str(), answer.complete),
                            (200, "full", true),
                            "{case}"
                        );
                        assert_eq!((record.status, record.reason.as_str()), (200, "-"), "{case}");
                    }
                }
                // A GET may be asked once more over a new connection, if the old one may just have been stale; nothing else.
                let most = if method == "GET" && number < 2 { 2 } else { 1 };
                assert!(asked >= 1 && asked <= most, "{case}: asked {asked} times");
                assert_eq!(guarded.proxy.get("/fine").await.text(), "fine", "after {case}");
                guarded.records(1).await;
            }
        }
        guarded.finish().await;
    }
}

#[tokio::test]
async fn e1_another_endpoint_answers_what_may_be_asked_twice() {
    let good = Origin::named("good").await;
    let rude = Origin::http1(|_| Answer::nothing()).await;
    let ruder = Origin::http1(|_| Answer::raw("HTTP/1.1 200 OK\r\nContent-").then_reset()).await;
    let gateway = Gateway::new()
        .cluster_with("app", &[good.address(), rude.address(), ruder.address()], BUDGET)
        .routes(&retry("reset,connect-failure", ""));
    let mut guarded = Guarded::start("several", good, gateway).await;
    for number in 0..60 {
        let answer = guarded.proxy.get("/get").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "GET {number}: {answer:?}");
    }
    guarded.records(60).await;
    for number in 0..30 {
        let id = number.to_string();
        let answer = guarded.proxy.call(&Call::post("/post", "once").header("x-id", &id)).await;
        let all = [&guarded.origin, &rude, &ruder];
        let seen: usize = all.iter().map(|origin| count_id(origin, &id)).sum();
        assert_eq!(seen, 1, "POST {number}: {answer:?}");
        assert!(answer.status == 200 || answer.status >= 500, "POST {number}: {answer:?}");
        guarded.records(1).await;
    }
    guarded.finish().await;
}

fn count_id(origin: &Origin, id: &str) -> usize {
    origin.received().iter().filter(|received| received.header("x-id") == Some(id)).count()
}

/// An address that swallows connection requests, as a firewall that drops does: a listener whose queue is full.
struct Hole {
    address: SocketAddr,
    _listener: tokio::net::TcpListener,
    _queue: Vec<TcpStream>,
}

impl Hole {
    async fn new() -> Self {
        let address = address();
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(address).expect("a free address");
        let listener = socket.listen(1).expect("a listener");
        let mut queue = Vec::new();
        while let Ok(connected) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queue.push(connected.expect("a place in the queue"));
        }
        Self { address, _listener: listener, _queue: queue }
    }
}

#[tokio::test]
async fn e2_what_cannot_be_reached_is_told_in_time() {
    let hole = Hole::new().await;
    let silent = Origin::http1(|_| Answer::text("never").after(&Gate::new())).await;
    let quick = "{connect_timeout: 0.3s}";
    let gateway = Gateway::new()
        .cluster_with("refused", &[address()], quick)
        .cluster_with("hole", &[hole.address], quick)
        .cluster_with("silent", &[silent.address()], quick)
        .routes(
            "[{match: {prefix: /refused}, route: {cluster: refused}}, {match: {prefix: /hole}, route: {cluster: hole}},
              {match: {prefix: /silent}, route: {cluster: silent, timeout: 0.3s}}, {match: {prefix: /}, direct_response: {status: 200}}]",
        );
    let mut guarded = Guarded::start("several", silent, gateway).await;
    for (target, status, reason, least) in [
        ("/refused", 503, "connect_failure", 0),
        ("/hole", 503, "connect_timeout", 300),
        ("/silent", 504, "request_timeout", 300),
    ] {
        for method in ["GET", "POST"] {
            let start = Instant::now();
            let answer = guarded.proxy.call(&Call::new(method, target)).await;
            let took = start.elapsed();
            assert_eq!(
                (answer.status, answer.reason().unwrap_or_default().0),
                (status, reason),
                "{method} {target}"
            );
            assert!(took >= Duration::from_millis(least), "{method} {target}: after {took:?}");
            assert!(took < Duration::from_secs(5), "{method} {target}: after {took:?}");
            assert_eq!(guarded.records(1).await[0].reason, reason);
        }
    }
    wait::until_equal("given up by the proxy", 2, async || guarded.origin.abandoned()).await;
    guarded.finish().await;
}

#[tokio::test]
async fn e2_one_good_endpoint_is_enough() {
    let hole = Hole::new().await;
    let good = Origin::named("good").await;
    let silent = Origin::http1(|_| Answer::text("never").after(&Gate::new())).await;
    let endpoints = [hole.address, address(), good.address(), silent.address()];
    let fields = BUDGET.replacen('{', "{connect_timeout: 0.2s, ", 1);
    let gateway = Gateway::new()
        .cluster_with("app", &endpoints, &fields)
        .routes(&retry("connect-failure,reset,gateway-error", "per_try_timeout: 0.2s, "));
    let mut guarded = Guarded::start("several", good, gateway).await;
    for number in 0..40 {
        let answer = guarded.proxy.get("/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "GET {number}: {answer:?}");
    }
    guarded.records(40).await;
    guarded.finish().await;
}

#[tokio::test]
async fn e3_what_stalls_is_ended_and_freed() {
    for http2 in [false, true] {
        let script = |received: &Received| match received.target.as_str() {
            "/never" => Answer::text("never").after(&Gate::new()),
            "/half" => Answer::text("first, then nothing").paced(2, Duration::from_secs(600)),
            _ => Answer::text("fine"),
        };
        let route = "[{match: {prefix: /}, route: {cluster: app, timeout: 0.4s, idle_timeout: 0.3s}}]";
        let (origin, gateway) = match http2 {
            false => {
                let origin = Origin::recording(script).await;
                let gateway = Gateway::to(&[origin.address()]);
                (origin, gateway)
            }
            true => {
                let origin = Origin::http2(script).await;
                let gateway = Gateway::to_http2(&[origin.address()]);
                (origin, gateway)
            }
        };
        let mut guarded =
            Guarded::start(if http2 { "HTTP/2" } else { "HTTP/1.1" }, origin, gateway.routes(route)).await;
        for round in 0..5 {
            let answer = guarded.proxy.get("/never").await;
            assert_eq!(answer.status, 504, "round {round}: {answer:?}");
            let record = guarded.records(1).await.remove(0);
            assert!(matches!(record.reason.as_str(), "request_timeout" | "idle_timeout"), "{record:?}");
            let half = client::try_call(guarded.proxy.address, &Call::get("/half")).await;
            assert!(!half.is_ok_and(|answer| answer.complete), "round {round}");
            let record = guarded.records(1).await.remove(0);
            assert!(matches!(record.reason.as_str(), "request_timeout" | "idle_timeout"), "{record:?}");
            assert_eq!(guarded.proxy.get("/").await.status, 200, "round {round}");
            guarded.records(1).await;
        }
        wait::until_equal("answers that nobody waits for", true, async || guarded.origin.abandoned() >= 5)
            .await;
        guarded.finish().await;
    }
}

#[tokio::test]
async fn e6_nonsense_among_good_answers_fails_alone() {
    let mut guarded = Guarded::scripted(|received| match received.header("x-bad") {
        Some("split") => Answer::raw("HTTP/1.1 200 OK\r\nX-A: a\rX-B: b\r\nContent-Length: 0\r\n\r\n"),
        Some("lengths") => {
            Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab").then_go()
        }
        Some("extra") => {
            Answer::raw("HTTP/1.1 99 No\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").then_go()
        }
        Some(_) => Answer::raw("nonsense\r\n\r\n").then_go(),
        None => Answer::echo(received),
    })
    .await;
    let mut clients = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
        clients.spawn(async move {
            for number in 0..500 {
                let body = format!("{worker}-{number}");
                let kind = ["split", "lengths", "extra", "garbage", "split"][number / 100];
                let call = Call::post("/", body.clone()).header("x-id", &body);
                let (call, status) = match number % 100 {
                    50 => (call.header("x-bad", kind), 502),
                    _ => (call, 200),
                };
                let answer = wait::within(&body, client.call(&call)).await.unwrap();
                assert_eq!(answer.status, status, "{body}: {answer:?}");
                assert!(status != 200 || answer.text() == body, "{body} was answered with {}", answer.text());
            }
        });
    }
    clients.join_all().await;
    let records = guarded.records(4 * 500).await;
    let failed = records.iter().filter(|record| record.status == 502).count();
    assert_eq!(failed, 4 * 5, "{failed} failed");
    guarded.finish().await;
}

#[tokio::test]
async fn e9_endpoints_that_are_killed_fail_no_get() {
    let sandbox = Sandbox::new();
    let spare = Origin::named("spare").await;
    // Processes that answer, so that the kernel ends their connections as it does for any that is killed.
    let mut endpoints = Vec::new();
    for name in ["one", "two"] {
        let folder = Sandbox::new();
        let answers = format!(
            "[{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {name}}}}}}}]"
        );
        let proxy = Gateway::new().routes(&answers).start(&folder).await;
        endpoints.push((folder, proxy));
    }
    let addresses = [endpoints[0].1.address, endpoints[1].1.address, spare.address()];
    let proxy = Gateway::new()
        .cluster_with("app", &addresses, BUDGET)
        .routes(&retry("connect-failure,reset", ""))
        .start(&sandbox)
        .await;
    let load = Load::start(proxy.address, 200, Call::get("/"));
    load.more_of("one", 30).await;
    for (_, endpoint) in &mut endpoints {
        load.more(60).await;
        endpoint.process.kill().await;
    }
    load.more(100).await;
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "of {}: {:?}", counts.good, counts.failures);
}

#[tokio::test]
async fn e9_killing_an_endpoint_costs_posts_in_flight_only() {
    let folder = Sandbox::new();
    let spare = Origin::named("spare").await;
    let mut victim = Gateway::new()
        .routes("[{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: victim}}}]")
        .start(&folder)
        .await;
    let gateway = Gateway::new()
        .cluster_with("app", &[victim.address, spare.address()], BUDGET)
        .routes(&retry("connect-failure", ""));
    let guarded = Guarded::start("several", spare, gateway).await;
    let mut clients = tokio::task::JoinSet::new();
    const CLIENTS: usize = 4;
    for _ in 0..CLIENTS {
        let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
        clients.spawn(async move {
            let mut failed = 0;
            for _ in 0..300 {
                failed += usize::from(client.call(&Call::post("/", "x")).await.unwrap().status != 200);
            }
            failed
        });
    }
    wait::until_equal("a beginning", true, async || guarded.origin.count() > 100).await;
    victim.process.kill().await;
    let failed: usize = clients.join_all().await.into_iter().sum();
    assert!(failed <= CLIENTS, "{failed} POSTs failed, {CLIENTS} were in flight");
}

/// A route of our own control plane with a retry policy that tries other endpoints. (A foreign one's policy is obeyed for any method.)
fn retry(on: &str, more: &str) -> String {
    format!(
        "[{{metadata: {{filter_metadata: {{sidegate: {{kind: HTTPRoute, namespace: shop, name: web, rule: 0, generation: 1}}}}}},
          match: {{prefix: /}}, route: {{cluster: app, retry_policy: {{retry_on: '{on}', num_retries: 4, {more}
          retry_host_predicate: [{{name: envoy.retry_host_predicates.previous_hosts, typed_config: {{
            '@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}}}],
          host_selection_retry_max_attempts: 5}}}}}}]"
    )
}

/// Enough for a scenario that retries all the time.
const BUDGET: &str = "{circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 100}, min_retry_concurrency: 20}}]}}";
