//! What happens to the process, and what must not happen to those it serves: battery (h) of the hardening rules, each row by its id.

use std::time::Duration;

use serde_json::json;
use sidegate_tests::client::{Http1, Http2};
use sidegate_tests::gateway::{Gateway, typed};
use sidegate_tests::load::Load;
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::process::run;
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::switch::Switch;
use sidegate_tests::wait;
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

mod clock; // H4: steps of the wall clock

fn log_to(path: &str) -> String {
    let config =
        json!({"path": path, "log_format": {"text_format_source": {"inline_string": "%RESPONSE_CODE%\n"}}});
    json!({"access_log": [typed("log", "envoy.extensions.access_loggers.file.v3.FileAccessLog", config)]})
        .to_string()
}

#[tokio::test]
async fn h1_sigterm_under_load_fails_nothing_ten_times() {
    let local = LocalSet::new();
    let rounds: Vec<_> = (0..10).map(|_| local.spawn_local(sigterm_under_load())).collect();
    wait::within("ten shutdowns", local).await;
    for round in rounds {
        round.await.unwrap();
    }
}

/// What a shutdown owes to everything that had begun.
const FINISHED: &str = "what was begun is finished";

/// Everything that may be in flight, over two proxies: one that reads, one that passes on.
async fn sigterm_under_load() {
    let sandbox = Sandbox::new();
    let gate = Gate::new();
    let held = gate.clone();
    let script = move |received: &Received| match received.target.as_str() {
        "/held" => Answer::text("held").after(&held),
        "/grpc.S/M" => Answer::text("message").trailer("grpc-status", "0").after(&held),
        "/upload" => Answer::text(&received.body.len().to_string()),
        _ => Answer::text("ok"),
    };
    let origin = Origin::http1(script.clone()).await;
    let opaque = Origin::http1(script).await;
    let flags = ["--shutdown-delay-s", "1", "--drain-time-s", "15"];
    let mut proxy = Gateway::to(&[origin.address()]).with_admin().flags(&flags).start(&sandbox).await;
    let other = Sandbox::new();
    let mut passing = Gateway::opaque(&[opaque.address()]).flags(&flags).start(&other).await;

    let load = Load::start(proxy.address, 40, Call::get("/"));
    let mut kept = Http1::connect(proxy.address).await.expect(FINISHED);
    kept.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await.expect(FINISHED);
    let mut tcp = Http1::connect(passing.address).await.expect(FINISHED);
    tcp.send(b"GET /held HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect(FINISHED);
    let mut upload = Http1::connect(proxy.address).await.expect(FINISHED);
    upload.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n").await.expect(FINISHED);
    upload.send(&[b'x'; 100_000]).await.expect(FINISHED);
    let streams = Http2::connect(proxy.address).await.expect(FINISHED);
    let (get, call) = (Call::get("/held"), Call::post("/grpc.S/M", "m"));
    let call = call.header("content-type", "application/grpc").header("te", "trailers");
    let ending = async {
        let held = |origin: &Origin| origin.received().iter().filter(|r| r.target != "/").count();
        wait::until_equal("requests at the origin", 3, async || held(&origin)).await;
        wait::until_equal("requests through", 1, async || held(&opaque)).await;
        load.more(10).await;
        proxy.process.terminate();
        passing.process.terminate();
        // A load balancer sees it and sends no more; until then everything is served.
        wait::until_equal("readiness", 503, async || proxy.admin("/ready").await.status).await;
        let counts = load.stop().await;
        assert!(counts.failed == 0 && counts.good >= 10, "{counts:?}");
        wait::until("draining", async || proxy.process.log().contains("draining").then_some(())).await;
        upload.send(&[b'x'; 100_000]).await.expect(FINISHED);
        gate.open();
    };
    // Boxed: ten of these run at once.
    let all = Box::pin(async { tokio::join!(streams.call(&get), streams.call(&call), ending) });
    let (get, call, ()) = wait::within("the streams", all).await;
    let (get, call) = (get.expect(FINISHED), call.expect(FINISHED));
    assert_eq!((get.status, get.text().as_str(), get.complete), (200, "held", true));
    assert_eq!((call.status, call.trailer("grpc-status")), (200, Some("0")), "{call:?}");
    let kept = wait::within("the held response", kept.response("GET")).await.expect(FINISHED);
    assert_eq!((kept.status, kept.header("connection")), (200, Some("close")), "{kept:?}");
    let through = wait::within("the response through", tcp.response("GET")).await.expect(FINISHED);
    assert_eq!((through.status, through.text().as_str()), (200, "held"));
    // What is passed on unread ends with its ends.
    drop(tcp);
    let upload = wait::within("the upload", upload.response("POST")).await.expect(FINISHED);
    assert_eq!((upload.status, upload.text().as_str()), (200, "200000"));
    drop(streams);
    assert_eq!(proxy.process.ended().await.code(), Some(0));
    assert_eq!(passing.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn h1_a_websocket_is_cut_at_the_deadline_and_not_before() {
    let sandbox = Sandbox::new();
    let origin = Switch::agreeing().await;
    let mut proxy = Gateway::to(&[origin.address()])
        .http("{upgrade_configs: [{upgrade_type: websocket}]}")
        .flags(&["--shutdown-delay-s", "0", "--drain-time-s", "2"])
        .start(&sandbox)
        .await;
    let mut socket = Http1::connect(proxy.address).await.unwrap();
    let asked = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    socket.send(asked).await.unwrap();
    assert_eq!(socket.response("GET").await.unwrap().status, 101);
    proxy.process.terminate();
    let begun = Instant::now();
    wait::until("draining", async || proxy.process.log().contains("draining").then_some(())).await;
    socket.send(b"still here").await.unwrap();
    wait::until("bytes while draining", async || {
        origin.seen().iter().any(|seen| seen.through.ends_with(b"still here")).then_some(())
    })
    .await;
    assert_eq!(proxy.process.ended().await.code(), Some(0));
    assert!(begun.elapsed() > Duration::from_millis(1_900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn h2_after_a_kill_it_serves_at_once_again() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("ok").await;
    let mut proxy = Gateway::to(&[origin.address()]).start(&sandbox).await;
    for round in 0..5 {
        let mut idle = Http1::connect(proxy.address).await.unwrap();
        assert_eq!(idle.call(&Call::get("/")).await.unwrap().status, 200, "round {round}");
        proxy.process.kill().await;
        let begun = Instant::now();
        proxy.restart(&sandbox).await;
        assert_eq!(proxy.get("/").await.status, 200, "round {round}");
        // A second on a machine that has nothing else to do.
        assert!(begun.elapsed() < Duration::from_secs(5), "round {round}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn h5_a_full_disk_takes_the_log_only() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("ok").await;
    let proxy =
        Gateway::to(&[origin.address()]).http(&log_to("/dev/full")).with_admin().start(&sandbox).await;
    let load = Load::start(proxy.address, 50, Call::get("/"));
    load.more(50).await;
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{counts:?}");
    wait::until("lines that failed", async || {
        (proxy.stat("sidegate.access_log_lines_failed").await >= 50).then_some(())
    })
    .await;
    assert_eq!(proxy.stat("sidegate.access_log_lines_written").await, 0);
}

#[tokio::test]
async fn h5_when_there_is_room_again_lines_are_written() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("ok").await;
    let folder = sandbox.path().join("logs");
    let path = folder.join("access.log");
    let gateway = Gateway::to(&[origin.address()]).http(&log_to(&path.display().to_string())).with_admin();
    let proxy = gateway.start(&sandbox).await;
    assert_eq!(proxy.get("/").await.status, 200);
    wait::until("a line that failed", async || {
        (proxy.stat("sidegate.access_log_lines_failed").await > 0).then_some(())
    })
    .await;
    std::fs::create_dir(&folder).unwrap();
    assert_eq!(proxy.admin_post("/reopen_logs").await.status, 200);
    wait::until("a line", async || {
        assert_eq!(proxy.get("/").await.status, 200);
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains("200")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn h7_after_being_stopped_for_a_while_it_goes_on() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("ok").await;
    let proxy = Gateway::to(&[origin.address()]).with_admin().start(&sandbox).await;
    let load = Load::start(proxy.address, 20, Call::get("/"));
    load.more(20).await;
    proxy.process.pause();
    // That it does nothing for so long is what is tested.
    sleep(Duration::from_secs(5)).await;
    proxy.process.resume();
    let begun = Instant::now();
    load.more(40).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{counts:?}");
    assert_eq!(proxy.stat("cluster.app.membership_healthy").await, 1);
}

#[tokio::test]
async fn h9_what_cannot_be_bound_ends_it_at_once_and_nothing_listens() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let absent = ["203.0.113.1:80", "[2001:db8::1]:80"].map(|text| text.parse().unwrap());
    for bad in [taken.local_addr().unwrap(), absent[0], absent[1]] {
        let good = address();
        let mut config = Gateway::new().bootstrap(good, None);
        let mut second = config["static_resources"]["listeners"][0].clone();
        second["name"] = json!("second");
        second["address"] = sidegate_tests::gateway::socket(bad);
        config["static_resources"]["listeners"].as_array_mut().unwrap().push(second);
        let begun = Instant::now();
        let finished = run("sidegate-proxy", ["--config-yaml", &config.to_string(), "-l", "off"]).await;
        assert_eq!(finished.code, Some(2), "{bad}: {finished:?}");
        let lines: Vec<&str> = finished.err.lines().collect();
        assert!(lines.len() == 1 && lines[0].contains(&bad.to_string()), "{bad}: {finished:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{bad}: {:?}", begun.elapsed());
        assert!(TcpStream::connect(good).await.is_err(), "{bad}: half of it listens");
    }
    // The admin's address too.
    let config = Gateway::new().bootstrap(address(), Some(taken.local_addr().unwrap())).to_string();
    let finished = run("sidegate-proxy", ["--config-yaml", &config, "-l", "off"]).await;
    assert_eq!((finished.code, finished.err.lines().count()), (Some(2), 1), "{finished:?}");
}
