//! Every bound of time, before and after a response's head: what is cut, with which reason, and what is not.

use std::time::Duration;

use sidegate_tests::client::{Http1, Http2};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

/// A proxy before one endpoint with fields of the route and of the connection manager, and a log of status and flags.
async fn bounded(sandbox: &Sandbox, origin: std::net::SocketAddr, route: &str, http: &str) -> Proxy {
    let log = sandbox.path().join("access.log");
    let log = format!(
        "{{access_log: [{{name: file, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog,
          path: {}, log_format: {{text_format_source: {{inline_string: '%RESPONSE_CODE% %RESPONSE_FLAGS%'}}}}}}}}]}}",
        log.display()
    );
    let routes = format!("[{{match: {{prefix: /}}, route: {{cluster: app, {route}}}}}]");
    Gateway::to(&[origin]).routes(&routes).http(http).http(&log).start(sandbox).await
}

async fn logged(sandbox: &Sandbox, expected: &str) {
    let path = sandbox.path().join("access.log");
    wait::until_equal("the access log", expected.to_owned(), async || {
        std::fs::read_to_string(&path).unwrap_or_default().trim_end().to_owned()
    })
    .await;
}

/// An endpoint that answers with a head and the first byte of a long body as soon as it has seen a head, and reads on.
async fn early() -> std::net::SocketAddr {
    let listener = TcpListener::bind(address()).await.expect("an address");
    let place = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                let _ = socket.read(&mut bytes).await;
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n.").await;
                while matches!(socket.read(&mut bytes).await, Ok(1..)) {}
            });
        }
    });
    place
}

/// Uploads a byte every 50 ms until `until`, then ends the body; gives when the connection was cut.
async fn upload(proxy: &Proxy, until: Duration) -> Duration {
    let mut client = Http1::connect(proxy.address).await.expect("the proxy listens");
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.expect("sent");
    let started = Instant::now();
    let mut ended = false;
    wait::within("the cut", async {
        loop {
            if started.elapsed() >= until && !ended {
                ended = true;
                let _ = client.send(b"0\r\n\r\n").await;
            }
            if !ended {
                let _ = client.send(b"1\r\nx\r\n").await;
            }
            let look = tokio::time::timeout(Duration::from_millis(50), client.readable());
            if let Ok(Ok(false) | Err(_)) = look.await {
                return started.elapsed();
            }
        }
    })
    .await
}

#[tokio::test]
async fn the_routes_timeout_runs_while_the_client_does_not_read() {
    let sandbox = Sandbox::new();
    let origin = Origin::http1(|_| Answer::text(&"x".repeat(30_000_000))).await;
    let proxy = bounded(&sandbox, origin.address(), "timeout: 0.5s", "{}").await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    logged(&sandbox, "200 UT").await;
}

#[tokio::test]
async fn a_request_that_outlasts_its_answers_beginning_is_bounded() {
    let second = Duration::from_secs(1);
    // By the request's own bound while it is sent,
    let sandbox = Sandbox::new();
    let proxy = bounded(&sandbox, early().await, "timeout: 15s", "{request_timeout: 0.5s}").await;
    assert!(upload(&proxy, 20 * second).await < 10 * second);
    logged(&sandbox, "200 DT").await;
    // by the route's from its end on,
    let sandbox = Sandbox::new();
    let proxy = bounded(&sandbox, early().await, "timeout: 0.5s", "{}").await;
    let cut = upload(&proxy, second).await;
    assert!(cut >= second + second / 2 && cut < 10 * second, "{cut:?}");
    logged(&sandbox, "200 UT").await;
    // and by silence in both directions, but not in one.
    let sandbox = Sandbox::new();
    let proxy = bounded(&sandbox, early().await, "timeout: 0s", "{stream_idle_timeout: 0.5s}").await;
    let cut = upload(&proxy, second + second / 2).await;
    assert!(cut >= 2 * second && cut < 10 * second, "{cut:?}");
    logged(&sandbox, "200 SI").await;
}

#[tokio::test]
async fn a_whole_exchange_is_bounded() {
    let never = Gate::new();
    let held = never.clone();
    let origin = Origin::http1(move |_| Answer::text("never").after(&held)).await;
    let common = "{common_http_protocol_options: {max_stream_duration: 0.3s}}";
    let sandbox = Sandbox::new();
    let proxy = bounded(&sandbox, origin.address(), "timeout: 0s", common).await;
    let response = proxy.get("/").await;
    assert_eq!(response.status, 504, "{response:?}");
    assert!(response.header("x-sidegate-reason").is_some_and(|reason| reason.starts_with("max_duration")));
    logged(&sandbox, "504 DT").await;
    // The route's own takes its place; after the head, the response is cut.
    let sandbox = Sandbox::new();
    let route = "timeout: 0s, max_stream_duration: {max_stream_duration: 0.5s}";
    let proxy = bounded(&sandbox, early().await, route, common).await;
    let started = Instant::now();
    assert!(!proxy.get("/").await.complete);
    assert!(started.elapsed() >= Duration::from_millis(500));
    logged(&sandbox, "200 DT").await;
}

#[tokio::test]
async fn b17_grpc_timeout_is_a_deadline() {
    let never = Gate::new();
    let held = never.clone();
    let origin = Origin::http2(move |_| Answer::text("never").after(&held)).await;
    for (route, asked, least) in [
        ("timeout: 15s", "300m", 300),
        // The route's bound on it, and what is kept back for the way.
        ("timeout: 15s, max_grpc_timeout: 0.4s", "10S", 400),
        (
            "timeout: 15s, max_stream_duration: {grpc_timeout_header_max: 0s, grpc_timeout_header_offset: 0.2s}",
            "600m",
            400,
        ),
    ] {
        let sandbox = Sandbox::new();
        let routes = format!("[{{match: {{prefix: /}}, route: {{cluster: app, {route}}}}}]");
        let proxy = Gateway::to_http2(&[origin.address()]).routes(&routes).start(&sandbox).await;
        let client = Http2::connect(proxy.address).await.unwrap();
        let call = Call::post("/a.B/C", "\0\0\0\0\0")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let started = Instant::now();
        let response =
            wait::within("an answer", client.call(&call.header("grpc-timeout", asked))).await.unwrap();
        assert_eq!((response.status, response.header("grpc-status")), (200, Some("4")), "{response:?}");
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(least) && took < Duration::from_secs(10), "{route}: {took:?}");
    }
}

#[tokio::test]
async fn silence_within_one_attempt_leads_to_another() {
    let never = Gate::new();
    let held = never.clone();
    let stuck = Origin::http1(move |_| Answer::text("never").after(&held)).await;
    let good = Origin::named("good").await;
    let sandbox = Sandbox::new();
    let route = "[{match: {prefix: /}, route: {cluster: app, retry_policy: {retry_on: 'reset,5xx', num_retries: 2, per_try_idle_timeout: 0.3s,
        retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {
        '@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}}}]";
    let proxy = Gateway::to(&[stuck.address(), good.address()]).routes(route).start(&sandbox).await;
    for _ in 0..4 {
        assert_eq!(proxy.get("/").await.text(), "good");
    }
    assert!(stuck.count() > 0);
}

#[tokio::test]
async fn a_connection_that_has_lasted_long_is_asked_to_end() {
    let origin = Origin::named("app").await;
    let sandbox = Sandbox::new();
    let http = "{common_http_protocol_options: {max_connection_duration: 0.4s}, drain_timeout: 0.2s}";
    let proxy = bounded(&sandbox, origin.address(), "timeout: 15s", http).await;
    let mut busy = Http1::connect(proxy.address).await.unwrap();
    let mut idle = Http1::connect(proxy.address).await.unwrap();
    let streams = Http2::connect(proxy.address).await.unwrap();
    assert_eq!(busy.call(&Call::get("/")).await.unwrap().header("connection"), None);
    assert_eq!(idle.call(&Call::get("/")).await.unwrap().status, 200);
    assert_eq!(streams.call(&Call::get("/")).await.unwrap().status, 200);
    sleep(Duration::from_millis(400)).await;
    let last = busy.call(&Call::get("/")).await.unwrap();
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(!wait::within("the idle connection's end", idle.readable()).await.unwrap_or(false));
    wait::until("GOAWAY", async || streams.is_closed().then_some(())).await;
}

#[tokio::test]
async fn a_connection_serves_so_many_requests_and_no_more() {
    let origin = Origin::named("app").await;
    let sandbox = Sandbox::new();
    let http = "{common_http_protocol_options: {max_requests_per_connection: 3}, drain_timeout: 0.2s}";
    let proxy = bounded(&sandbox, origin.address(), "timeout: 15s", http).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    let streams = Http2::connect(proxy.address).await.unwrap();
    for number in 1..=3 {
        let answer = client.call(&Call::get("/")).await.unwrap();
        let close = (number == 3).then_some("close");
        assert_eq!((answer.status, answer.header("connection")), (200, close), "request {number}");
        assert_eq!(streams.call(&Call::get("/")).await.unwrap().status, 200, "stream {number}");
    }
    assert_eq!(wait::within("the end", client.rest()).await.unwrap(), b"");
    wait::until("GOAWAY", async || streams.is_closed().then_some(())).await;
    assert_eq!(origin.count(), 6);
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let origin = Origin::named("app").await;
    let sandbox = Sandbox::new();
    let http = "{common_http_protocol_options: {idle_timeout: 0.4s}, drain_timeout: 0.2s}";
    let proxy = bounded(&sandbox, origin.address(), "timeout: 15s", http).await;
    let begun = Instant::now();
    let mut used = Http1::connect(proxy.address).await.unwrap();
    let mut fresh = Http1::connect(proxy.address).await.unwrap();
    let streams = Http2::connect(proxy.address).await.unwrap();
    assert_eq!(used.call(&Call::get("/")).await.unwrap().header("connection"), None);
    assert_eq!(streams.call(&Call::get("/")).await.unwrap().status, 200);
    assert_eq!(wait::within("the end of one that was used", used.rest()).await.unwrap(), b"");
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    wait::within("the end of one that never was", fresh.rest()).await.unwrap();
    wait::until("GOAWAY", async || streams.is_closed().then_some(())).await;
}

#[tokio::test]
async fn a_request_that_stalls_is_told_that_its_connection_ends() {
    let origin = Origin::named("app").await;
    let sandbox = Sandbox::new();
    let proxy = bounded(&sandbox, origin.address(), "timeout: 15s", "{request_timeout: 0.4s}").await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await.unwrap();
    let response = wait::within("an answer", client.response("POST")).await.unwrap();
    assert_eq!((response.status, response.header("connection")), (408, Some("close")));
    let begun = Instant::now();
    assert_eq!(wait::within("the end", client.rest()).await.unwrap(), b"");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    logged(&sandbox, "408 DT").await;
}
