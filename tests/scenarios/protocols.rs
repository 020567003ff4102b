//! HTTP/1.1 and HTTP/2 on either side, opaque TCP, explicit proxy.

use sidegate_tests::client::{Http1, Http2, Protocol};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use Protocol::{Http1 as H1, Http2 as H2};

/// An origin and a proxy before it.
async fn pair(
    sandbox: &Sandbox,
    upstream: Protocol,
    script: impl Fn(&Received) -> Answer + Send + Sync + 'static,
) -> (Origin, Proxy) {
    let origin = match upstream {
        H1 => Origin::http1(script).await,
        H2 => Origin::http2(script).await,
    };
    let gateway = match upstream {
        H1 => Gateway::to(&[origin.address()]),
        H2 => Gateway::to_http2(&[origin.address()]),
    };
    (origin, gateway.start(sandbox).await)
}

/// Everything that must be so whatever is spoken on either side.
async fn carries(downstream: Protocol, upstream: Protocol) {
    let sandbox = Sandbox::new();
    let (origin, proxy) = pair(&sandbox, upstream, answer).await;

    let plain = proxy.call_over(downstream, &Call::get("/plain?q=1").header("x-mine", "yes")).await;
    assert_eq!((plain.status, plain.text().as_str()), (200, "plain"), "{plain:?}");
    assert_eq!(plain.header("x-theirs"), Some("yes"));
    let received = origin.last();
    assert_eq!((received.method.as_str(), received.target.as_str()), ("GET", "/plain?q=1"));
    assert_eq!((received.authority.as_str(), received.header("x-mine")), ("app.test", Some("yes")));

    let head = proxy.call_over(downstream, &Call::new("HEAD", "/plain")).await;
    assert_eq!((head.status, head.body.len(), head.complete), (200, 0, true), "{head:?}");
    for status in [204, 304] {
        let empty = proxy.call_over(downstream, &Call::get(&format!("/{status}"))).await;
        assert_eq!((empty.status, empty.body.len(), empty.complete), (status, 0, true), "{empty:?}");
    }

    let posted = proxy.call_over(downstream, &Call::post("/echo", "some words")).await;
    assert_eq!((posted.status, posted.text().as_str()), (200, "some words"));
    let chunked = proxy.call_over(downstream, &Call::post("/echo", "more words").chunked()).await;
    assert_eq!((chunked.status, chunked.text().as_str()), (200, "more words"));

    let trailing = Call::post("/trailers", "body").header("te", "trailers").trailer("x-checksum", "17");
    let trailing = proxy.call_over(downstream, &trailing).await;
    assert_eq!((trailing.text().as_str(), trailing.trailer("x-sum")), ("body", Some("42")), "{trailing:?}");
    let trailers = origin.last().trailers;
    assert_eq!(trailers, [("x-checksum".to_owned(), "17".to_owned())]);

    let grpc =
        Call::post("/grpc", "\0\0\0\0\0").header("content-type", "application/grpc").header("te", "trailers");
    let grpc = proxy.call_over(downstream, &grpc).await;
    assert_eq!((grpc.status, grpc.trailer("grpc-status")), (200, Some("5")), "{grpc:?}");
}

fn answer(received: &Received) -> Answer {
    match received.target.as_str() {
        "/204" => Answer::status(204),
        "/304" => Answer::status(304),
        "/echo" => Answer::echo(received),
        "/trailers" => Answer::echo(received).trailer("x-sum", "42"),
        "/grpc" => {
            Answer::text("\0\0\0\0\0").header("content-type", "application/grpc").trailer("grpc-status", "5")
        }
        _ => Answer::text("plain").header("x-theirs", "yes"),
    }
}

#[tokio::test]
async fn http1_to_http1() {
    carries(H1, H1).await;
}

#[tokio::test]
async fn http2_to_http1() {
    carries(H2, H1).await;
}

#[tokio::test]
async fn http1_to_http2() {
    carries(H1, H2).await;
}

#[tokio::test]
async fn http2_to_http2() {
    carries(H2, H2).await;
}

/// What goes from socket to socket within the kernel ends where the body ends, and an early end is seen.
#[tokio::test]
async fn large_bodies_keep_their_place_on_kept_connections() {
    let sandbox = Sandbox::new();
    let content = |length: usize| -> Vec<u8> { (0..length).map(|index| (index % 249) as u8).collect() };
    let (origin, proxy) = pair(&sandbox, H1, move |received| {
        let length = received.target.trim_start_matches("/cut/").trim_start_matches('/').parse().unwrap();
        if received.target.starts_with("/cut/") {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * length);
            return Answer::raw([head.as_bytes(), &content(length)].concat()).then_close();
        }
        Answer::text("").body(content(length))
    })
    .await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    for length in [70_000, 3, 262_144, 65_536, 10_000_000, 1_000_001, 0, 5_000_000] {
        let answer = client.call(&Call::get(&format!("/{length}"))).await.unwrap();
        assert_eq!((answer.status, answer.body.len(), answer.complete), (200, length, true));
        assert!(answer.body == content(length), "{length}");
    }
    assert_eq!(origin.connections(), 1, "the upstream connection is used again");
    let cut = proxy.call_over(H1, &Call::get("/cut/3000000")).await;
    assert!(!cut.complete && content(3_000_000).starts_with(&cut.body), "{}", cut.body.len());
    let after = client.call(&Call::get("/9")).await.unwrap();
    assert_eq!(after.body, content(9));
}

#[tokio::test]
async fn ten_mebibytes_go_both_ways() {
    let body: Vec<u8> = (0..10 * 1024 * 1024_u32).map(|index| (index % 251) as u8).collect();
    for (downstream, upstream) in [(H1, H1), (H2, H2), (H2, H1)] {
        let sandbox = Sandbox::new();
        let (origin, proxy) = pair(&sandbox, upstream, Answer::echo).await;
        let back = proxy.call_over(downstream, &Call::post("/", body.clone())).await;
        assert!(
            origin.last().body == body,
            "{downstream:?} to {upstream:?}: what went up is not what was sent"
        );
        assert!(
            back.body == body && back.complete,
            "{downstream:?} to {upstream:?}: what came down is not that"
        );
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = pair(&sandbox, H1, |received| Answer::text(&received.target)).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    let pipeline: String =
        (1..=3).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(pipeline.as_bytes()).await.unwrap();
    for number in 1..=3 {
        assert_eq!(client.response("GET").await.unwrap().text(), format!("/{number}"));
    }
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn header_names_keep_their_case_over_http1() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = pair(&sandbox, H1, |_| Answer::text("").header("X-ThEiRs", "1")).await;
    let response = proxy.call(&Call::get("/").header("X-MiNe", "1")).await;
    assert!(origin.last().headers.iter().any(|(name, _)| name == "X-MiNe"), "{:?}", origin.last());
    assert!(response.headers.iter().any(|(name, _)| name == "X-ThEiRs"), "{response:?}");
}

#[tokio::test]
async fn what_is_for_one_hop_stays_on_it() {
    let sandbox = Sandbox::new();
    let script = |_: &Received| {
        Answer::text("")
            .header("Connection", "x-theirs")
            .header("X-Theirs", "1")
            .header("Keep-Alive", "timeout=60")
    };
    let (origin, proxy) = pair(&sandbox, H1, script).await;
    let call = Call::get("/")
        .header("Connection", "x-mine, keep-alive")
        .header("X-Mine", "1")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive");
    let response = proxy.call(&call).await;
    for name in ["x-mine", "keep-alive", "proxy-connection"] {
        assert_eq!(origin.last().header(name), None, "{name} has reached the origin");
    }
    for name in ["x-theirs", "keep-alive"] {
        assert_eq!(response.header(name), None, "{name} has reached the client");
    }
}

#[tokio::test]
async fn the_edge_believes_nobody() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let proxy = Gateway::to(&[origin.address()]).http("{use_remote_address: true}").start(&sandbox).await;
    let call = Call::get("/")
        .header("x-envoy-upstream-rq-timeout-ms", "1")
        .header("X-Envoy-Retry-On", "5xx")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-proto", "https");
    proxy.call(&call).await;
    let received = origin.last();
    assert!(
        !received.headers.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with("x-envoy-upstream"))
    );
    assert_eq!(received.header("x-envoy-retry-on"), None);
    assert_eq!(received.header("x-forwarded-for"), Some("6.6.6.6, 127.0.0.1"));
    assert_eq!(received.header("x-forwarded-proto"), Some("http"));
    assert!(received.header("x-request-id").is_some_and(|id| id.len() == 36));
}

#[tokio::test]
async fn a_trace_goes_on_or_begins() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let proxy = Gateway::to(&[origin.address()]).http("{tracing: {}}").start(&sandbox).await;

    proxy.get("/").await;
    let received = origin.last();
    let fresh = received.header("traceparent").expect("a new trace").to_owned();
    assert!(fresh.starts_with("00-") && fresh.len() == 55, "{fresh}");

    let trace = "0af7651916cd43dd8448eb211c80319c";
    proxy.call(&Call::get("/").header("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"))).await;
    let received = origin.last();
    let continued = received.header("traceparent").unwrap_or_default();
    assert!(continued.contains(trace) && !continued.contains("b7ad6b7169203331"), "{continued}");

    let b3 = Call::get("/")
        .header("x-b3-traceid", trace)
        .header("x-b3-spanid", "b7ad6b7169203331")
        .header("x-b3-sampled", "1");
    proxy.call(&b3).await;
    let received = origin.last();
    assert_eq!(received.header("x-b3-traceid"), Some(trace));
    assert_ne!(received.header("x-b3-spanid"), Some("b7ad6b7169203331"));

    proxy.call(&Call::get("/").header("b3", &format!("{trace}-b7ad6b7169203331-1"))).await;
    let received = origin.last();
    let single: Vec<&str> = received.header("b3").unwrap_or_default().split('-').collect();
    assert!(single.len() >= 3 && single[0] == trace && single[1] != "b7ad6b7169203331", "{single:?}");
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_before_it_sends() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = pair(&sandbox, H1, Answer::echo).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client
        .send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await
        .unwrap();
    let interim = wait::within("100", client.read(b"HTTP/1.1 100 Continue\r\n\r\n".len())).await.unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&interim));
    client.send(b"hello").await.unwrap();
    assert_eq!(client.response("POST").await.unwrap().text(), "hello");
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    for upstream in [H1, H2] {
        let sandbox = Sandbox::new();
        let gate = Gate::new();
        let held = gate.clone();
        let (origin, proxy) = pair(&sandbox, upstream, move |_| Answer::text("late").after(&held)).await;
        let mut client = Http1::connect(proxy.address).await.unwrap();
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        wait::until_equal("requests at the origin", 1, async || origin.count()).await;
        drop(client);
        wait::until_equal("abandoned requests", 1, async || origin.abandoned()).await;
    }
}

#[tokio::test]
async fn streams_share_a_connection_without_waiting_for_each_other() {
    let sandbox = Sandbox::new();
    let gate = Gate::new();
    let held = gate.clone();
    let script = move |received: &Received| match received.target.as_str() {
        "/slow" => Answer::text("slow").after(&held),
        _ => Answer::text("fast"),
    };
    let (origin, proxy) = pair(&sandbox, H2, script).await;
    let client = Http2::connect(proxy.address).await.unwrap();
    let slow = Call::get("/slow");
    let slow = client.call(&slow);
    let fast = async {
        wait::until_equal("requests at the origin", 1, async || origin.count()).await;
        let fast = client.call(&Call::get("/fast")).await.unwrap();
        gate.open();
        fast
    };
    let (slow, fast) = wait::within("both", async { tokio::join!(slow, fast) }).await;
    assert_eq!((slow.unwrap().text().as_str(), fast.text().as_str()), ("slow", "fast"));
}

#[tokio::test]
async fn more_streams_than_a_connection_takes_wait_their_turn() {
    for upstream in [H1, H2] {
        let sandbox = Sandbox::new();
        let (origin, proxy) = pair(&sandbox, upstream, |received| Answer::text(&received.target)).await;
        let client = std::sync::Arc::new(Http2::connect(proxy.address).await.unwrap());
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..400 {
            let client = client.clone();
            calls.spawn(async move {
                let target = format!("/{number}");
                let response = client.call(&Call::get(&target)).await.unwrap();
                (response.status, response.text() == target)
            });
        }
        let answers = wait::within("every answer", calls.join_all()).await;
        assert!(answers.iter().all(|answer| *answer == (200, true)), "to {upstream:?}: {answers:?}");
        assert_eq!(origin.count(), 400);
    }
}

/// Two thousand small messages with bodies over one connection: an empty DATA frame behind each would make the h2 crate at the
/// other end take us for an attacker.
#[tokio::test]
async fn many_small_messages_do_not_look_like_abuse() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = pair(&sandbox, H2, |_| Answer::text("pong")).await;
    let client = Http2::connect(proxy.address).await.unwrap();
    for number in 0..2_000 {
        let response = client.call(&Call::post("/", "ping")).await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "pong"), "request {number}");
    }
    assert_eq!((origin.count(), origin.connections()), (2_000, 1));
}

#[tokio::test]
async fn a_goaway_loses_nothing() {
    let sandbox = Sandbox::new();
    let script = |received: &Received| match received.nth % 3 {
        0 => Answer::text("ok").then_go_away(),
        _ => Answer::text("ok"),
    };
    let (origin, proxy) = pair(&sandbox, H2, script).await;
    let client = Http2::connect(proxy.address).await.unwrap();
    for number in 0..60 {
        let response = client.call(&Call::post("/", "x")).await.unwrap();
        assert_eq!(response.status, 200, "request {number}: {response:?}");
    }
    assert_eq!(origin.count(), 60, "every POST was delivered once");
    assert!(origin.connections() > 10);
}

#[tokio::test]
async fn e4_tcp_is_passed_on_with_each_direction_ending_by_itself() {
    for server_first in [false, true] {
        let sandbox = Sandbox::new();
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            // The first connection only asks whether anybody listens.
            drop(listener.accept().await.unwrap());
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            if server_first {
                socket.write_all(b"nothing more from here").await.unwrap();
                socket.shutdown().await.unwrap();
                socket.read_to_end(&mut all).await.unwrap();
            } else {
                // The answer begins only when the question has ended.
                socket.read_to_end(&mut all).await.unwrap();
                socket.write_all(&all.iter().rev().copied().collect::<Vec<_>>()).await.unwrap();
            }
            all
        });
        let proxy = Gateway::opaque(&[address]).with_admin().start(&sandbox).await;
        let mut client = Http1::connect(proxy.address).await.unwrap();
        if server_first {
            let heard = wait::within("all that the server says", client.rest()).await.unwrap();
            assert_eq!(heard, b"nothing more from here");
        }
        // What is said after the other side's end still arrives.
        let question = b"not http at all ".repeat(20_000);
        client.send(&question).await.unwrap();
        client.finish().await.unwrap();
        if !server_first {
            let mut answer = wait::within("the answer", client.rest()).await.unwrap();
            answer.reverse();
            assert!(answer == question, "{} bytes came back", answer.len());
        }
        assert!(server.await.unwrap() == question);
        wait::until_equal("connections open", 0, async || {
            proxy.stat("listener.main.downstream_cx_active").await
        })
        .await;
    }
}

/// Over HTTP/1.1 nobody can tell a client that has said all from one that has left: the end of its side is taken for leaving, as most do.
#[tokio::test]
async fn e4_a_client_over_http1_that_ends_its_side_has_left_and_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |_| Answer::text("late").after(&held)).await;
    let proxy = Gateway::to(&[origin.address()]).with_admin().start(&sandbox).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    wait::until_equal("requests at the origin", 1, async || origin.count()).await;
    client.finish().await.unwrap();
    wait::until_equal("abandoned requests", 1, async || origin.abandoned()).await;
    for name in ["listener.main.downstream_cx_active", "cluster.app.upstream_rq_active"] {
        wait::until_equal(name, 0, async || proxy.stat(name).await).await;
    }
}

/// A listener that serves as its clients' HTTP proxy.
async fn explicit_proxy(sandbox: &Sandbox) -> Proxy {
    let cache = "dns_cache_config: {name: passthrough, dns_lookup_family: V4_PREFERRED}";
    let cluster = format!(
        "{{lb_policy: CLUSTER_PROVIDED, cluster_type: {{name: envoy.clusters.dynamic_forward_proxy, typed_config: {{
          '@type': type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, {cache}}}}}}}"
    );
    let filters = format!(
        "{{upgrade_configs: [{{upgrade_type: CONNECT}}], http_filters: [
          {{name: envoy.filters.http.dynamic_forward_proxy, typed_config: {{
            '@type': type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig, {cache}}}}},
          {{name: envoy.filters.http.router, typed_config: {{
            '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}"
    );
    Gateway::new()
        .cluster_with("away", &[], &cluster)
        .routes(
            "[{match: {connect_matcher: {}}, route: {cluster: away, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}},
              {match: {prefix: /}, route: {cluster: away}}]",
        )
        .http(&filters)
        .start(sandbox)
        .await
}

#[tokio::test]
async fn an_explicit_proxy_takes_absolute_targets_and_connect() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("away").await;
    let proxy = explicit_proxy(&sandbox).await;

    let host = origin.address().to_string();
    let absolute = proxy.call(&Call::get(&format!("http://{host}/a")).host(&host)).await;
    assert_eq!((absolute.status, absolute.text().as_str()), (200, "away"), "{absolute:?}");
    assert_eq!((origin.last().target.as_str(), origin.last().authority.as_str()), ("/a", host.as_str()));

    let mut client = Http1::connect(proxy.address).await.unwrap();
    let tunnel = client.call(&Call::new("CONNECT", &host).host(&host)).await.unwrap();
    assert_eq!(tunnel.status, 200, "{tunnel:?}");
    let through = client.call(&Call::get("/b").host(&host)).await.unwrap();
    assert_eq!((through.text().as_str(), origin.last().target.as_str()), ("away", "/b"));
}
