//! Ending in order: what was begun is finished, what comes while the listener is open is served, and then it is over.

use std::time::Duration;

use sidegate_tests::client::{Http1, Http2};
use sidegate_tests::gateway::Gateway;
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn sigterm_finishes_what_was_begun() {
    let sandbox = Sandbox::new();
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |received: &Received| match received.target.as_str() {
        "/held" => Answer::text("held").after(&held),
        "/long" => Answer::text(&"x".repeat(300_000)).paced(30, Duration::from_millis(50)),
        _ => Answer::text("ok"),
    })
    .await;
    let gateway = Gateway::to(&[origin.address()]).two_workers();
    let mut proxy = gateway.flags(&["--shutdown-delay-s", "0", "--drain-time-s", "20"]).start(&sandbox).await;

    let mut idle = Http1::connect(proxy.address).await.unwrap();
    assert_eq!(idle.call(&Call::get("/")).await.unwrap().status, 200);
    let mut kept = Http1::connect(proxy.address).await.unwrap();
    kept.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let streams = Http2::connect(proxy.address).await.unwrap();
    let mut download = Http1::connect(proxy.address).await.unwrap();
    download.send(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (one, two) = (Call::get("/held"), Call::get("/held"));
    let (one, two) = (streams.call(&one), streams.call(&two));

    let ending = async {
        wait::until_equal("requests at the origin", 5, async || origin.count()).await;
        proxy.process.terminate();
        // A connection that nobody uses is closed at once; then everything else knows too.
        assert!(!wait::within("the idle connection's end", idle.readable()).await.unwrap_or(false));
        gate.open();
    };
    let (one, two, ()) = wait::within("the streams", async { tokio::join!(one, two, ending) }).await;
    for stream in [one.unwrap(), two.unwrap()] {
        assert_eq!((stream.status, stream.text().as_str(), stream.complete), (200, "held", true));
    }
    let held = wait::within("the held response", kept.response("GET")).await.unwrap();
    assert_eq!((held.status, held.text().as_str()), (200, "held"));
    assert_eq!(held.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("close"));
    let long = wait::within("the download", download.response("GET")).await.unwrap();
    assert!(long.complete && long.body.len() == 300_000, "{} of 300,000 bytes", long.body.len());
    drop(streams);
    assert_eq!(proxy.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn while_it_is_announced_everything_is_still_served() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("ok").await;
    let gateway = Gateway::to(&[origin.address()]).flags(&["--shutdown-delay-s", "1", "--drain-time-s", "5"]);
    let mut proxy = gateway.start(&sandbox).await;
    proxy.process.terminate();
    wait::until("the announcement", async || proxy.process.log().contains("shutting down").then_some(()))
        .await;
    assert_eq!(proxy.get("/").await.status, 200);
    assert_eq!(proxy.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_sigterm_ends_it_now() {
    let sandbox = Sandbox::new();
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |_| Answer::text("never").after(&held)).await;
    let gateway =
        Gateway::to(&[origin.address()]).flags(&["--shutdown-delay-s", "0", "--drain-time-s", "600"]);
    let mut proxy = gateway.start(&sandbox).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    wait::until_equal("requests at the origin", 1, async || origin.count()).await;
    proxy.process.terminate();
    wait::until("draining", async || proxy.process.log().contains("draining").then_some(())).await;
    assert!(proxy.process.is_running());
    proxy.process.terminate();
    assert_eq!(proxy.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_response_that_is_cut_does_not_look_complete() {
    let sandbox = Sandbox::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    let path = sandbox.path().join("access.log");
    let log = format!(
        "{{access_log: [{{name: file, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog,
          path: {}, log_format: {{text_format_source: {{inline_string: '%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_SENT%'}}}}}}}}]}}",
        path.display()
    );
    let flags = ["--shutdown-delay-s", "0", "--drain-time-s", "600"];
    let mut proxy = Gateway::to(&[endpoint]).http(&log).flags(&flags).start(&sandbox).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut origin, _) = wait::within("a request", listener.accept()).await.unwrap();
    // It ends with the connection, as far as the endpoint says.
    origin.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nab").await.unwrap();
    let mut seen = Vec::new();
    wait::within("two bytes", async {
        while !seen.ends_with(b"ab\r\n") {
            assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0);
        }
    })
    .await;
    proxy.process.terminate();
    wait::until("draining", async || proxy.process.log().contains("draining").then_some(())).await;
    proxy.process.terminate();
    let end = wait::within("the end", client.read(&mut [0; 16])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(proxy.process.ended().await.code(), Some(0));
    assert_eq!(std::fs::read_to_string(path).unwrap().trim_end(), "200 OM 2");
}
