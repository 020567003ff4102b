//! G7: port 15012 of a control plane under too much of everything, by a caller that has proven who it is. Everything is refused within its bound,
//! memory stays where it was, and others are served.
//!
//! By default a tenth and less; at the battery's size with `SIDEGATE_FULL=1` (docs/hardening.md).

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use prost::Message as _;
use sidegate_tests::manifests::pod;
use sidegate_tests::sandbox::address;
use sidegate_tests::secured::{Files, SecuredPlane};
use sidegate_xds::envoy::config::core::v3::Node;
use sidegate_xds::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use sidegate_xds::google::protobuf::value::Kind;
use sidegate_xds::google::protobuf::{Struct, Value as Field};
use sidegate_xds::resource::ResourceType;

use super::*;

/// What comes of a call: its status in gRPC's words, or how it broke off.
type Outcome = Result<String, String>;

async fn connect(files: &Files, port: std::net::SocketAddr) -> Result<SendRequest<Bytes>, String> {
    let client = files.client().expect("files").alpn(&["h2"]);
    let connection = client.connect(port, "localhost").await.map_err(|error| error.to_string())?;
    let (requests, connection) = h2::client::handshake(connection.stream).await.map_err(told)?;
    tokio::spawn(connection);
    requests.ready().await.map_err(told)
}

fn told(error: h2::Error) -> String {
    error.to_string()
}

fn call(more: &[(&'static str, String)]) -> Request<()> {
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let mut request = Request::builder().method(Method::POST).uri(format!("https://localhost{path}"));
    request = request.header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in more {
        request = request.header(*name, value);
    }
    request.body(()).expect("a request")
}

/// Sends these bytes as the body of one call, as fast as they are taken, and waits for what comes of it.
async fn send(
    files: &Files,
    port: std::net::SocketAddr,
    more: &[(&'static str, String)],
    body: Bytes,
) -> Outcome {
    let mut requests = connect(files, port).await?;
    let (response, mut stream) = requests.send_request(call(more), false).map_err(told)?;
    let upload = async {
        let mut left = body;
        while !left.is_empty() {
            stream.reserve_capacity(left.len().min(65_536));
            let Some(Ok(room)) = std::future::poll_fn(|context| stream.poll_capacity(context)).await else {
                break;
            };
            let piece = left.split_to(room.min(left.len()));
            if stream.send_data(piece, false).is_err() {
                break;
            }
        }
        stream
    };
    let answer = async {
        let response = response.await.map_err(told)?;
        if let Some(status) = response.headers().get("grpc-status") {
            return Ok(String::from_utf8_lossy(status.as_bytes()).into_owned());
        }
        let mut body = response.into_body();
        // What it says is not what is asked here.
        if let Some(data) = body.data().await {
            return data.map(|data| format!("{} bytes", data.len())).map_err(told);
        }
        let trailers = body.trailers().await.map_err(told)?.unwrap_or_default();
        let status = trailers.get("grpc-status").map(|value| value.as_bytes().to_vec());
        Ok(String::from_utf8_lossy(&status.unwrap_or_default()).into_owned())
    };
    // An answer ends the upload.
    tokio::select! {
        answer = answer => answer,
        _stream = async { let kept = upload.await; std::future::pending::<()>().await; kept } => unreachable!(),
        () = tokio::time::sleep(wait::DEADLINE) => Err("no answer".to_owned()),
    }
}

/// A message as gRPC frames it.
fn framed(compressed: bool, message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a length").to_be_bytes();
    Bytes::from([&[u8::from(compressed)][..], &length, message].concat())
}

/// Asks as the sidecar of `app` for endpoints of so many names.
fn subscription(names: usize) -> Vec<u8> {
    let text = |text: &str| Field { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = [("NAMESPACE", "shop"), ("POD_NAME", "app"), ("SIDEGATE", "1")];
    let fields = fields.map(|(key, value)| (key.to_owned(), text(value))).into_iter().collect();
    let node = Node { id: "app".to_owned(), metadata: Some(Struct { fields }), ..Node::default() };
    let request = DeltaDiscoveryRequest {
        node: Some(node),
        type_url: ResourceType::Endpoint.type_url().to_owned(),
        resource_names_subscribe: (0..names).map(|number| format!("outbound|80||{number}.shop")).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    request.encode_to_vec()
}

/// Opens and resets streams over as many connections as it takes; how many there were, and how many connections.
async fn resets(files: &Files, port: std::net::SocketAddr, number: usize) -> (usize, usize) {
    let (mut opened, mut connections) = (0, 0);
    while opened < number {
        let Ok(mut requests) = connect(files, port).await else { continue };
        connections += 1;
        while opened < number {
            let Ok((response, mut stream)) = requests.send_request(call(&[]), false) else { break };
            opened += 1;
            // Its headers leave before its reset does; every tenth is even waited for until it is served.
            tokio::task::yield_now().await;
            if opened % 10 == 0 && response.await.is_err() {
                break;
            }
            stream.send_reset(h2::Reason::CANCEL);
            match requests.ready().await {
                Ok(next) => requests = next,
                Err(_) => break,
            }
        }
    }
    (opened, connections)
}

#[tokio::test]
async fn g7_too_much_of_everything_by_a_caller_that_is_known() {
    let full = std::env::var_os("SIDEGATE_FULL").is_some();
    let (megabytes, streams, floods) = if full { (100, 100_000, 1_000) } else { (10, 2_000, 20) };
    let sandbox = Sandbox::new();
    let (app, inbound, outbound) = (address(), address(), address());
    let manifest = pod("app", app, inbound.port(), outbound.port());
    let manifest = manifest.replace("spec: {containers", "spec: {serviceAccountName: app, containers");
    let plane = SecuredPlane::start(&sandbox, &[("pod.yaml", manifest)], &[]).await;
    let agent = plane.agent(&sandbox, "app").await;
    let (files, port) = (agent.files(), plane.secure());
    let before = plane.process.anonymous();
    let mut told = Vec::new();
    let mut tell = |what: &str, outcome: String| {
        told.push(format!("{what}: {outcome}; {} KiB", plane.process.anonymous()));
    };

    let huge = framed(false, &vec![0; megabytes << 20]);
    let outcome = send(&files, port, &[], huge).await;
    tell("a large message", format!("{outcome:?}"));
    assert_eq!(outcome.as_deref(), Ok("11"), "OUT_OF_RANGE");
    let bomb = tokio::process::Command::new("sh")
        .args(["-c", &format!("head -c {} /dev/zero | gzip -9", megabytes << 20)])
        .output();
    let bomb = bomb.await.expect("gzip").stdout;
    let outcome = send(&files, port, &[("grpc-encoding", "gzip".to_owned())], framed(true, &bomb)).await;
    tell("a message that is small until it is opened", format!("{outcome:?}"));
    assert_eq!(outcome.as_deref(), Ok("12"), "UNIMPLEMENTED");
    let outcome = send(&files, port, &[], framed(false, &subscription(10_000))).await;
    tell("10,000 names", format!("{outcome:?}"));
    assert!(outcome.as_ref().is_ok_and(|told| told.ends_with("bytes")), "{outcome:?}");
    for _ in 0..floods {
        let outcome = send(&files, port, &[("x-flood", "x".repeat(256 * 1024))], Bytes::new()).await;
        assert!(outcome.as_deref() != Ok("0"), "{outcome:?}");
    }
    tell("headers of 256 KiB", format!("{floods} times"));
    let (opened, connections) = resets(&files, port, streams).await;
    tell("streams opened and reset", format!("{opened} over {connections} connections"));

    let after = plane.process.anonymous();
    println!("G7: {before} KiB before, {after} KiB after\n  {}", told.join("\n  "));
    assert!(after < before + (32 << 10), "{before} KiB, then {after} KiB: {told:?}");
    // Others are served.
    let proxy = plane.proxy(&sandbox, "sidecar", "app").await;
    assert!(proxy.page("/ready").await.is_some());
}

/// Streams of nobody on the plaintext port, until it takes no more; how many it has taken, and what says that it is full.
async fn fill(port: std::net::SocketAddr, held: &mut Vec<Box<dyn std::any::Any>>) -> (usize, String) {
    let mut taken = 0;
    loop {
        let connection = tokio::net::TcpStream::connect(port).await.expect("a connection");
        let (mut requests, driver) = h2::client::handshake(connection).await.expect("a preface");
        tokio::spawn(driver);
        // A connection carries 128.
        for _ in 0..100 {
            requests = wait::within("room for a stream", requests.ready()).await.expect("a connection");
            let (response, stream) = requests.send_request(call(&[]), false).expect("a stream");
            let response = wait::within("an answer", response).await.expect("an answer");
            if let Some(status) = response.headers().get("grpc-status") {
                return (taken, String::from_utf8_lossy(status.as_bytes()).into_owned());
            }
            taken += 1;
            held.push(Box::new((response, stream)));
        }
        held.push(Box::new(requests));
    }
}

#[tokio::test]
async fn g7_nobody_on_the_plaintext_port_keeps_proxies_with_an_identity_out() {
    let sandbox = Sandbox::new();
    let (app, inbound, outbound) = (address(), address(), address());
    let manifest = pod("app", app, inbound.port(), outbound.port());
    let manifest = manifest.replace("spec: {containers", "spec: {serviceAccountName: app, containers");
    let plane = SecuredPlane::start(&sandbox, &[("pod.yaml", manifest)], &[]).await;
    let mut held = Vec::new();
    let (taken, status) = fill(plane.plain(), &mut held).await;
    assert_eq!((taken, status.as_str()), (1_000, "8"), "RESOURCE_EXHAUSTED");

    // More connections from one address than it may have: those beyond are closed, the others stay.
    let mut open = Vec::new();
    let closed = wait::until("a connection that is closed at once", async || {
        let mut connection = tokio::net::TcpStream::connect(plane.plain()).await.ok()?;
        let mut bytes = [0; 64];
        let read = tokio::io::AsyncReadExt::read(&mut connection, &mut bytes);
        match tokio::time::timeout(std::time::Duration::from_millis(20), read).await {
            Ok(read) if !read.as_ref().is_ok_and(|read| *read > 0) => Some(open.len()),
            _ => {
                open.push(connection);
                None
            }
        }
    })
    .await;
    assert!((200..256).contains(&closed), "{closed} beside those of the streams");

    let proxy = plane.proxy(&sandbox, "sidecar", "app").await;
    assert!(proxy.page("/ready").await.is_some());
    let status = plane.status().await.expect("a status");
    assert_eq!(status["proxies"][0]["name"], "app", "{status}");
    drop((held, open));
}
