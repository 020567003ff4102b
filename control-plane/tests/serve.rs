//! `sidegate serve` and `sidegate status` as processes: what they print, how they end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use sidegate_xds::envoy::config::core::v3::Node;
use sidegate_xds::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use sidegate_xds::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sidegate_xds::google::protobuf::value::Kind;
use sidegate_xds::google::protobuf::{Struct, Value};
use sidegate_xds::google::rpc::Status;
use sidegate_xds::resource::ResourceType;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sidegate}
spec: {controllerName: sidegate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: shop}
spec:
  gatewayClassName: sidegate
  listeners: [{name: http, protocol: HTTP, port: 8080}]
";

/// A running `sidegate serve`; ended with the test.
struct Serve {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    xds: SocketAddr,
    admin: SocketAddr,
}

impl Serve {
    fn start(folder: &Path) -> Self {
        let addresses = ["--xds-address", "--admin-address", "--secure-xds-address"];
        let mut child = command(&["serve"])
            .args(addresses.iter().flat_map(|flag| [flag, "127.0.0.1:0"]))
            .arg("--ca-dir")
            .arg(folder.join(".ca"))
            .arg("--manifests")
            .arg(folder)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let xds = listening(&mut stderr, "xds listening on ");
        let admin = listening(&mut stderr, "admin listening on ");
        Self { child, stderr, xds, admin }
    }

    fn status(&self, format: &str) -> Output {
        command(&["status", "--address", &format!("http://{}", self.admin), "-o", format]).output().unwrap()
    }

    fn end(mut self) -> (Option<i32>, String) {
        let id = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: sends a signal to a child of ours that was not waited for yet.
        #[allow(unsafe_code, reason = "there is no safe way to send a signal in the standard library")]
        unsafe {
            libc::kill(id, libc::SIGTERM);
        }
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate"));
    command.args(arguments);
    command
}

fn listening(stderr: &mut impl BufRead, mark: &str) -> SocketAddr {
    loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before it said {mark}");
        if let Some((_, address)) = line.split_once(mark) {
            return address.trim().parse().unwrap();
        }
    }
}

const POLICY: &str = "\
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: front, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]
  action: DENY
  rules: [{to: [{operation: {paths: [/forbidden]}}]}]
";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), GATEWAY).unwrap();
    folder
}

/// A proxy of ours, as the Gateway `shop/web`, asks for listeners.
fn first_request() -> DeltaDiscoveryRequest {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let metadata = [("NAMESPACE", "shop"), ("GATEWAY", "web"), ("SIDEGATE", "1")];
    let fields = metadata.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
    let node = Node { id: "test".to_owned(), metadata: Some(Struct { fields }), ..Node::default() };
    let type_url = ResourceType::Listener.type_url().to_owned();
    DeltaDiscoveryRequest { node: Some(node), type_url, ..DeltaDiscoveryRequest::default() }
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_proxy_is_served_and_shown_and_the_end_is_quick_and_clean() {
    let folder = folder();
    let serve = Serve::start(folder.path());
    let mut client =
        AggregatedDiscoveryServiceClient::connect(format!("http://{}", serve.xds)).await.unwrap();
    let (requests, outbound) = mpsc::channel(4);
    let request = first_request();
    requests.send(request).await.unwrap();
    let stream = client.delta_aggregated_resources(ReceiverStream::new(outbound)).await.unwrap();
    let mut responses = stream.into_inner();
    let response = responses.message().await.unwrap().unwrap();
    assert_eq!(response.resources[0].name, "shop/web/8080");

    let table = serve.status("table");
    let text = String::from_utf8(table.stdout).unwrap();
    assert_eq!(table.status.code(), Some(3), "nothing is acknowledged: {text}");
    assert!(text.contains("shop/web  gateway"), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&serve.status("json").stdout).unwrap();
    assert_eq!(json["proxies"][0]["id"], "test");
    let types = json["proxies"][0]["types"].as_array().unwrap();
    let listeners = types.iter().find(|status| status["type"] == "listener").unwrap();
    assert_eq!(listeners["state"], "pending");

    let ended = tokio::task::spawn_blocking(move || serve.end());
    assert_eq!(responses.message().await.unwrap(), None, "the stream ends without an error");
    drop((client, requests, responses));
    let (code, rest) = tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap().unwrap();
    assert_eq!(code, Some(0), "{rest}");
}

/// Scripts by the exit code, people by the table, and whoever wrote the Gateway or a policy by the object's condition.
#[tokio::test]
async fn what_a_proxy_refuses_is_told_to_everybody() {
    let folder = folder();
    std::fs::write(folder.path().join("policy.yaml"), POLICY).unwrap();
    let serve = Serve::start(folder.path());
    let mut client =
        AggregatedDiscoveryServiceClient::connect(format!("http://{}", serve.xds)).await.unwrap();
    let (requests, outbound) = mpsc::channel(4);
    requests.send(first_request()).await.unwrap();
    let stream = client.delta_aggregated_resources(ReceiverStream::new(outbound)).await.unwrap();
    let mut responses = stream.into_inner();
    let response = responses.message().await.unwrap().unwrap();
    let condition = |json: &serde_json::Value, object: &str| {
        let conditions = json["conditions"].as_array().unwrap();
        let is_it = |one: &&serde_json::Value| one["object"] == object && one["type"] == "Programmed";
        conditions.iter().find(is_it).cloned().unwrap_or_default()
    };
    let report = || serde_json::from_slice::<serde_json::Value>(&serve.status("json").stdout).unwrap();
    let policy = condition(&report(), "AuthorizationPolicy shop/front");
    assert_eq!(policy["reason"], "NotAcknowledged", "{policy}");
    assert!(policy["message"].as_str().unwrap().ends_with(": gateway shop/web"), "{policy}");

    let refusal = DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: Some(Status {
            code: 3,
            message: "shop/web/8080: no such thing".to_owned(),
            ..Status::default()
        }),
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(refusal).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while serve.status("json").status.code() != Some(1) {
        assert!(Instant::now() < deadline, "{:?}", serve.status("table"));
        // The command blocks this thread, on which the refusal has to leave; nothing is answered to it.
        let _ = tokio::time::timeout(Duration::from_millis(20), responses.message()).await;
    }
    let json = report();
    for object in ["Gateway shop/web", "AuthorizationPolicy shop/front"] {
        let refused = condition(&json, object);
        assert!(refused["status"] == false && refused["reason"] == "Refused", "{refused}");
    }
    let table = serve.status("table");
    let text = String::from_utf8(table.stdout).unwrap();
    assert_eq!(table.status.code(), Some(1), "{text}");
    assert!(
        text.contains("1 of 1 proxies that enforce it refuse") && text.contains("no such thing"),
        "{text}"
    );
    for name in ["status", "rotate-root"] {
        let help = command(&[name, "--help"]).output().unwrap().stdout;
        assert!(String::from_utf8(help).unwrap().contains("Exit codes: 0 "), "{name}");
    }
    drop((client, requests, responses));
}

#[test]
fn what_keeps_it_from_starting_is_one_clear_line() {
    let folder = folder();
    let serve = Serve::start(folder.path());
    let taken = serve.xds.to_string();
    let start = |folder: &Path, xds: &str, admin: &str| {
        let mut command = command(&["serve", "--no-ca", "--xds-address", xds, "--admin-address", admin]);
        command.arg("--manifests").arg(folder).output().unwrap()
    };
    let cases = [
        (start(folder.path(), &taken, "127.0.0.1:0"), vec![taken.as_str(), "in use", "--xds-address"]),
        (start(folder.path(), "127.0.0.1:0", &taken), vec![taken.as_str(), "in use", "--admin-address"]),
        (start(folder.path(), "0.0.0.0:0", "127.0.0.1:0"), vec!["--xds-address", "loopback"]),
        (start(&folder.path().join("none"), "127.0.0.1:0", "127.0.0.1:0"), vec!["none", "folder"]),
    ];
    for (output, expected) in cases {
        let line = last_line(&output);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(expected.iter().all(|part| line.contains(part)), "{line}");
    }
}

#[test]
fn status_without_a_control_plane_says_what_to_do() {
    let output = command(&["status", "--address", "http://127.0.0.1:1"]).output().unwrap();
    let line = last_line(&output);
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(line.contains("sidegate serve") && line.contains("--address"), "{line}");
}
