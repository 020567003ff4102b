//! H8: a mixed load for a while, with clients that reset, peers that are slow and origins that are restarted: whatever failed was the doing of
//! an upstream and could not be tried again, and nothing is left behind. `cargo xtask soak` runs it for longer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sidegate_tests::client::{Http1, Http2};
use sidegate_tests::fountain::{Fountain, narrow};
use sidegate_tests::gateway::{Gateway, Proxy, socket, tcp_proxy, typed};
use sidegate_tests::message::{Call, Received, Response};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::resources::{Usage, mebibytes};
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::switch::Switch;
use sidegate_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// What became of a request, by its id.
type Ledger = Arc<Mutex<Vec<(String, Result<Response, String>)>>>;

const ROUTES: &str = "[
  {match: {prefix: /endless}, route: {cluster: slow, timeout: 0s}},
  {match: {prefix: /socket}, route: {cluster: sockets, timeout: 0s}},
  {match: {prefix: /}, route: {cluster: app, retry_policy: {
    retry_on: 'connect-failure,refused-stream,reset', num_retries: 4, host_selection_retry_max_attempts: 5,
    retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {
      '@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}}}]";
const BUDGET: &str = "{circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 100}, min_retry_concurrency: 50}}]}}";

fn answer(received: &Received) -> Answer {
    match received.target.as_str() {
        "/grpc.S/M" => Answer::text("message").trailer("grpc-status", "0"),
        "/large" => Answer::text(&"x".repeat(300_000)),
        _ => Answer::text("ok"),
    }
}

#[tokio::test]
async fn h8_soak() {
    let seconds =
        std::env::var("SIDEGATE_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let until = Instant::now() + Duration::from_secs(seconds);
    let sandbox = Sandbox::new();
    let (slow, sockets, echo) = (Fountain::start(0).await, Switch::agreeing().await, echo().await);
    let opaque = address();
    let unread = json!({"name": "unread", "address": socket(opaque), "filter_chains": [{"filters": [tcp_proxy("echo")]}]});
    let apps = [address(), address(), address()];
    let log = sandbox.path().join("access.log");
    let config = json!({"path": log, "log_format": {"json_format": {"id": "%REQ(X-ID)%", "reason": "%SIDEGATE_REASON%"}}});
    let logs = typed("log", "envoy.extensions.access_loggers.file.v3.FileAccessLog", config);
    let mut origins = Vec::new();
    for app in apps {
        origins.push(Origin::http1_at(app, answer).await);
    }
    let proxy = Gateway::new()
        .cluster_with("app", &apps, BUDGET)
        .cluster("slow", &[slow.address()])
        .cluster("sockets", &[sockets.address()])
        .cluster("echo", &[echo])
        .other_listener(unread)
        .routes(ROUTES)
        .http("{stream_idle_timeout: 2s, upgrade_configs: [{upgrade_type: websocket}]}")
        .http(&json!({"access_log": [logs]}).to_string())
        .with_admin()
        .two_workers()
        .start(&sandbox)
        .await;
    let ledger = Ledger::default();
    let mut crowd = crowd(&ledger, proxy.address, opaque, until);
    let mut samples = Vec::new();
    let mut delivered = BTreeMap::<String, usize>::new();
    for round in 0.. {
        if Instant::now() >= until {
            break;
        }
        sleep(Duration::from_secs(1)).await;
        samples.push(Usage::of(proxy.process.id()));
        // One of three is killed and started anew, every other second.
        if round % 2 == 1 {
            let index = round / 2 % apps.len();
            let old = origins.remove(index);
            note(&old, &mut delivered);
            drop(old);
            wait::until("the address to be free", async || std::net::TcpListener::bind(apps[index]).ok())
                .await;
            origins.insert(index, Origin::http1_at(apps[index], answer).await);
        }
    }
    while let Some(ended) = crowd.join_next().await {
        ended.expect("a client that does not panic");
    }
    origins.iter().for_each(|origin| note(origin, &mut delivered));
    let twice: Vec<_> =
        delivered.iter().filter(|(id, count)| id.starts_with("post") && **count > 1).collect();
    assert!(twice.is_empty(), "delivered more than once: {twice:?}");
    audit(&ledger.lock().unwrap(), &log);
    flat(&samples);
    settled(&proxy).await;
}

/// Everybody who asks, four of each kind.
fn crowd(ledger: &Ledger, http: SocketAddr, opaque: SocketAddr, until: Instant) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    for client in 0..4 {
        crowd.spawn(over_http1(client, http, until, ledger.clone()));
        crowd.spawn(over_http2(client, http, until, ledger.clone()));
        crowd.spawn(rude(http, until));
        crowd.spawn(websocket(http, until));
        crowd.spawn(unread_bytes(opaque, until));
    }
    crowd
}

fn note(origin: &Origin, delivered: &mut BTreeMap<String, usize>) {
    for received in origin.received() {
        *delivered.entry(received.header("x-id").unwrap_or("none").to_owned()).or_default() += 1;
    }
}

async fn over_http1(client: usize, address: SocketAddr, until: Instant, ledger: Ledger) {
    let mut connection = Http1::connect(address).await.expect("the proxy listens");
    for number in 0.. {
        if Instant::now() >= until {
            return;
        }
        let (kind, call) = match number % 4 {
            0 => ("post", Call::post("/post", "x".repeat(1_000))),
            1 => ("post", Call::post("/post", "x".repeat(100_000)).chunked()),
            2 => ("get", Call::get("/large")),
            _ => ("get", Call::get("/")),
        };
        let id = format!("{kind}-h1-{client}-{number}");
        let outcome = connection.call(&call.header("x-id", &id)).await.map_err(|error| error.to_string());
        if outcome.is_err() || !connection.is_reusable() {
            connection = Http1::connect(address).await.expect("the proxy listens");
        }
        ledger.lock().expect("no client has panicked").push((id, outcome));
        sleep(Duration::from_millis(10)).await;
    }
}

async fn over_http2(client: usize, address: SocketAddr, until: Instant, ledger: Ledger) {
    let connection = Http2::connect(address).await.expect("the proxy listens");
    for number in 0.. {
        if Instant::now() >= until {
            return;
        }
        let ids = ["get", "post", "get"].map(|kind| format!("{kind}-h2-{client}-{number}"));
        let calls = (
            Call::get("/").header("x-id", &ids[0]),
            Call::post("/grpc.S/M", "m").header("content-type", "application/grpc").header("x-id", &ids[1]),
            Call::get("/large").header("x-id", &format!("{}-large", ids[2])),
        );
        let outcomes =
            tokio::join!(connection.call(&calls.0), connection.call(&calls.1), connection.call(&calls.2));
        let [get, post, large] = ids;
        for (id, outcome) in [(get, outcomes.0), (post, outcomes.1), (format!("{large}-large"), outcomes.2)] {
            ledger
                .lock()
                .expect("no client has panicked")
                .push((id, outcome.map_err(|error| error.to_string())));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Resets in the middle of requests and responses, and reads nothing.
async fn rude(address: SocketAddr, until: Instant) {
    while Instant::now() < until {
        for bytes in [
            "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HT",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1",
        ] {
            let Ok(mut socket) = narrow(address).await else { continue };
            let _ = socket.write_all(bytes.as_bytes()).await;
            sleep(Duration::from_millis(100)).await;
            let _ = socket.set_zero_linger();
        }
    }
}

async fn websocket(address: SocketAddr, until: Instant) {
    const ASK: &[u8] = b"GET /socket HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    while Instant::now() < until {
        let mut socket = Http1::connect(address).await.expect("the proxy listens");
        socket.send(ASK).await.expect("an open connection");
        assert_eq!(socket.response("GET").await.expect("an answer").status, 101);
        for _ in 0..10 {
            socket.send(b"a message").await.expect("an open tunnel");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Sends back what comes, to its end.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind(address()).await.expect("an address for an origin");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reading, mut writing) = socket.split();
                let _ = tokio::io::copy(&mut reading, &mut writing).await;
                let _ = writing.shutdown().await;
            });
        }
    });
    address
}

/// Bytes of no protocol: small and large, ended in order, and every fourth time broken off.
async fn unread_bytes(address: SocketAddr, until: Instant) {
    for number in 0_usize.. {
        if Instant::now() >= until {
            return;
        }
        let mut socket = TcpStream::connect(address).await.expect("the proxy listens");
        let bytes: Vec<u8> = (0..1 + number % 5 * 60_000).map(|index| index as u8).collect();
        if number % 4 == 3 {
            let _ = socket.try_write(&bytes);
            continue;
        }
        let (mut reading, mut writing) = socket.split();
        let mut rest = Vec::new();
        // What comes back is read meanwhile: nobody holds it.
        let sending = async {
            writing.write_all(&bytes).await?;
            writing.shutdown().await
        };
        let (read, sent) = tokio::join!(reading.read_to_end(&mut rest), sending);
        read.and(sent).expect("a connection that ends in order");
        assert!(rest == bytes, "{} of {} bytes came back", rest.len(), bytes.len());
        sleep(Duration::from_millis(50)).await;
    }
}

/// Every failure is told by the log to be an upstream's doing, and was none that could be tried again.
fn audit(ledger: &[(String, Result<Response, String>)], log: &Path) {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let reasons: BTreeMap<String, String> = lines
        .map(|line| [&line["id"], &line["reason"]].map(|value| value.as_str().unwrap_or("-").to_owned()))
        .map(|[id, reason]| (id, reason))
        .collect();
    let mut failed = 0;
    for (id, outcome) in ledger {
        if matches!(outcome, Ok(response) if response.status == 200 && response.complete && response.header("grpc-status").is_none_or(|status| status == "0"))
        {
            continue;
        }
        failed += 1;
        let reason = reasons.get(id).map_or("not logged", String::as_str);
        let cut = matches!(reason, "upstream_body_reset");
        let lost = id.starts_with("post")
            && matches!(reason, "upstream_reset" | "retries_exhausted" | "upstream_protocol_error");
        assert!(cut || lost, "{id} failed for {reason}: {outcome:?}");
    }
    eprintln!("soak: {} requests, {failed} failed by their upstream", ledger.len());
    assert!(ledger.len() > 100, "{} requests", ledger.len());
}

/// The last third takes no more than the one before.
fn flat(samples: &[Usage]) {
    let third = samples.len() / 3;
    let most = |part: &[Usage]| {
        part.iter()
            .map(|usage| (usage.memory, usage.descriptors))
            .fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)))
    };
    let (before, after) = (most(&samples[third..2 * third]), most(&samples[2 * third..]));
    assert!(after.0 <= before.0 + mebibytes(3), "memory: {before:?}, then {after:?}");
    assert!(after.1 <= before.1 + 40, "descriptors: {before:?}, then {after:?}");
}

async fn settled(proxy: &Proxy) {
    for name in [
        "listener.main.downstream_cx_active",
        "listener.unread.downstream_cx_active",
        "http.main.downstream_rq_active",
        "cluster.app.upstream_rq_active",
    ] {
        wait::until_equal(name, 0, async || proxy.stat(name).await).await;
    }
    assert_eq!(proxy.stat("sidegate.panics").await, 0);
}
