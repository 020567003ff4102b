//! The service as a client meets it: real gRPC over the loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sidegate_xds::envoy::config::core::v3::Node;
use sidegate_xds::envoy::service::discovery::v3::DiscoveryRequest;
use sidegate_xds::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sidegate_xds::google::protobuf::value::Kind;
use sidegate_xds::google::protobuf::{Struct, Value};
use sidegate_xds::google::rpc;
use sidegate_xds::resource::ResourceType::{self, Cluster, Listener};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::stream::TypeState;
use super::*;
use crate::model::{Name, Scope};
use crate::snapshot::{Resource, Resources, Snapshot};

struct Server {
    address: SocketAddr,
    snapshots: Snapshots,
    streams: Streams,
    metrics: Metrics,
    ending: watch::Sender<bool>,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Server {
    async fn start() -> Self {
        Self::start_with(plain::Limits::default()).await
    }

    async fn start_with(limits: plain::Limits) -> Self {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (snapshots, streams, metrics) = (Snapshots::default(), Streams::default(), Metrics::default());
        let (ending, end) = watch::channel(false);
        let service =
            Service::new(snapshots.clone(), streams.clone(), metrics.clone(), end).with_limits(limits);
        let task = tokio::spawn(service.serve(listener));
        Self { address, snapshots, streams, metrics, ending, task }
    }

    fn publish(&self, generation: u64, clusters: &[(&str, &str)]) {
        let mut resources = Resources::default();
        for (name, text) in clusters {
            let resource = Resource { version: (*text).into(), body: (*text).to_owned().into() };
            resources.clusters.insert((*name).to_owned(), resource);
        }
        self.snapshots.publish(&scope(), Arc::new(Snapshot::new(generation, Instant::now(), resources)));
    }

    async fn connect(&self) -> Client {
        let mut client =
            AggregatedDiscoveryServiceClient::connect(format!("http://{}", self.address)).await.unwrap();
        let (requests, outbound) = mpsc::channel(16);
        let responses =
            client.delta_aggregated_resources(ReceiverStream::new(outbound)).await.unwrap().into_inner();
        Client { requests, responses }
    }

    /// Waits for a report of the only proxy that is as it should be.
    async fn wait_report(&self, is_right: impl Fn(&StreamReport) -> bool) {
        let wait = async {
            while !self.streams.current().first().is_some_and(&is_right) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, wait).await.expect("the report never becomes right");
    }
}

struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn say(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn hear(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        timeout(LIMIT, self.responses.message()).await.expect("no response")
    }

    async fn hear_some(&mut self) -> DeltaDiscoveryResponse {
        self.hear().await.unwrap().unwrap()
    }

    async fn acknowledge(&self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        let error_detail = error.map(|message| rpc::Status {
            code: 13,
            message: message.to_owned(),
            ..rpc::Status::default()
        });
        self.say(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }
}

const LIMIT: Duration = Duration::from_secs(20);

fn scope() -> Scope {
    Scope::Gateway { gateway: Name::new("shop", "web"), foreign: false, secure: false }
}

fn node(id: &str, metadata: &[(&str, &str)]) -> Node {
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = metadata.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
    Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Node::default() }
}

fn gateway_node(id: &str) -> Node {
    node(id, &[("NAMESPACE", "shop"), ("GATEWAY", "web"), ("SIDEGATE", "1")])
}

fn ask(kind: ResourceType, node: Option<Node>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { node, type_url: kind.type_url().to_owned(), ..DeltaDiscoveryRequest::default() }
}

fn bodies(response: &DeltaDiscoveryResponse) -> Vec<(&str, &str)> {
    response
        .resources
        .iter()
        .map(|one| (one.name.as_str(), std::str::from_utf8(&one.resource.as_ref().unwrap().value).unwrap()))
        .collect()
}

#[tokio::test]
async fn a_proxy_subscribes_follows_refuses_and_comes_back() {
    let server = Server::start().await;
    server.publish(1, &[("a", "a1"), ("b", "b1")]);
    let mut client = server.connect().await;
    client.say(ask(Cluster, Some(gateway_node("g")))).await;
    client.say(ask(Listener, None)).await;
    let first = client.hear_some().await;
    assert_eq!(bodies(&first), [("a", "a1"), ("b", "b1")]);
    assert_eq!(first.resources[0].resource.as_ref().unwrap().type_url, Cluster.type_url());
    client.acknowledge(&first, None).await;
    server.wait_report(|report| report.applied_generation == 1).await;

    server.publish(2, &[("a", "a2"), ("b", "b1")]);
    let second = client.hear_some().await;
    assert_eq!(bodies(&second), [("a", "a2")]);
    client.acknowledge(&second, Some("a: no such thing")).await;
    server.wait_report(|report| report.types[Cluster as usize].state == TypeState::Rejected).await;
    assert_eq!(
        server.streams.current()[0].types[Cluster as usize].error.as_deref(),
        Some("a: no such thing")
    );
    assert_eq!(server.streams.current()[0].applied_generation, 1);

    server.publish(3, &[("a", "a3"), ("b", "b1")]);
    let third = client.hear_some().await;
    assert_eq!(bodies(&third), [("a", "a3")]);
    client.acknowledge(&third, None).await;
    server.wait_report(|report| report.applied_generation == 3).await;
    drop(client);

    server.publish(4, &[("a", "a3"), ("c", "c1")]);
    let mut client = server.connect().await;
    let held: HashMap<String, String> = [("a", "a3"), ("b", "b1")]
        .into_iter()
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect();
    let again =
        DeltaDiscoveryRequest { initial_resource_versions: held, ..ask(Cluster, Some(gateway_node("g"))) };
    client.say(again).await;
    client.say(ask(Listener, None)).await;
    assert_eq!(bodies(&client.hear_some().await), [("c", "c1")], "what it holds is not sent again");
}

#[tokio::test]
async fn a_proxy_that_is_early_waits_and_never_sees_an_empty_world() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.say(ask(Cluster, Some(gateway_node("g")))).await;
    timeout(LIMIT, server.snapshots.wanted()).await.unwrap();
    assert_eq!(server.snapshots.missing(), [scope()]);
    server
        .wait_report(|report| {
            report.types.get(Cluster as usize).is_some_and(|one| one.state == TypeState::Pending)
        })
        .await;
    server.publish(1, &[("a", "a1")]);
    assert_eq!(bodies(&client.hear_some().await), [("a", "a1")]);
}

#[tokio::test]
async fn a_stream_without_a_usable_node_is_told_what_to_set() {
    let server = Server::start().await;
    let cases = [
        (None, "node.id"),
        (Some(node("x", &[("GATEWAY", "web")])), "NAMESPACE"),
        (Some(node("x", &[("NAMESPACE", "shop")])), "POD_NAME"),
    ];
    for (node, expected) in cases {
        let mut client = server.connect().await;
        client.say(ask(Cluster, node)).await;
        let status = client.hear().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{}", status.message());
    }
}

#[tokio::test]
async fn the_state_of_the_world_variant_is_refused_with_advice() {
    let server = Server::start().await;
    let mut client =
        AggregatedDiscoveryServiceClient::connect(format!("http://{}", server.address)).await.unwrap();
    let requests = tokio_stream::iter([DiscoveryRequest::default()]);
    let status = client.stream_aggregated_resources(requests).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("DELTA_GRPC"));
}

#[tokio::test]
async fn a_type_that_is_not_served_is_no_error() {
    let server = Server::start().await;
    server.publish(1, &[("a", "a1")]);
    let mut client = server.connect().await;
    let unknown = "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned();
    client.say(DeltaDiscoveryRequest { type_url: unknown, ..ask(Cluster, Some(gateway_node("g"))) }).await;
    client.say(ask(Cluster, None)).await;
    assert_eq!(bodies(&client.hear_some().await), [("a", "a1")]);
}

#[tokio::test]
async fn two_streams_of_one_node_are_served_and_the_newest_is_reported() {
    let server = Server::start().await;
    server.publish(1, &[("a", "a1")]);
    let mut old = server.connect().await;
    old.say(ask(Cluster, Some(gateway_node("g")))).await;
    let response = old.hear_some().await;
    old.acknowledge(&response, None).await;
    server.wait_report(|report| report.types[Cluster as usize].state == TypeState::Synced).await;
    let mut new = server.connect().await;
    new.say(ask(Cluster, Some(gateway_node("g")))).await;
    new.hear_some().await;
    assert_eq!(server.streams.count(), 2);
    server.wait_report(|report| report.types[Cluster as usize].state == TypeState::Pending).await;
    assert_eq!(server.streams.current().len(), 1);
    server.publish(2, &[("a", "a2")]);
    assert_eq!(bodies(&old.hear_some().await), [("a", "a2")]);
    drop(new);
    server
        .wait_report(|report| report.types[Cluster as usize].sent.is_some() && server.streams.count() == 1)
        .await;
}

/// Whether the server has closed a connection; it says nothing to one on which nothing was said.
async fn is_closed(connection: &mut tokio::net::TcpStream) -> bool {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = Vec::new();
    timeout(LIMIT, connection.read_to_end(&mut bytes)).await.is_ok()
}

#[tokio::test]
async fn g7_the_plaintext_port_takes_so_many_connections_and_of_one_address_fewer() {
    let limits = plain::Limits { connections: 3, of_address: 2, streams: 10 };
    let server = Server::start_with(limits).await;
    let from = async |source: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        socket.connect(server.address).await.unwrap()
    };
    let refused = |cause| server.metrics.refused_connections.get_or_create(&CauseLabel { cause }).get();
    let held = [from("127.0.0.1").await, from("127.0.0.1").await];
    assert!(is_closed(&mut from("127.0.0.1").await).await, "one address has as many as it may");
    let other = from("127.0.0.2").await;
    assert!(is_closed(&mut from("127.0.0.3").await).await, "there are as many as there may be");
    assert_eq!((refused("address_limit"), refused("limit")), (1, 1));
    drop((held, other));
    // The server hears of the ends when it hears of them.
    let come_back = async {
        loop {
            let connected =
                AggregatedDiscoveryServiceClient::connect(format!("http://{}", server.address)).await;
            if connected.is_ok() {
                return;
            }
        }
    };
    timeout(LIMIT, come_back).await.expect("a place that is free is given again");
}

#[tokio::test]
async fn g7_the_plaintext_port_takes_so_many_streams() {
    let server = Server::start_with(plain::Limits { streams: 1, ..plain::Limits::default() }).await;
    server.publish(1, &[("a", "a1")]);
    let client = server.connect().await;
    client.say(ask(Cluster, Some(gateway_node("one")))).await;
    server.wait_report(|report| report.node.id == "one").await;
    let mut second =
        AggregatedDiscoveryServiceClient::connect(format!("http://{}", server.address)).await.unwrap();
    let (_requests, outbound) = mpsc::channel(1);
    let refused = second.delta_aggregated_resources(ReceiverStream::new(outbound)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}

#[tokio::test]
async fn the_end_closes_streams_without_an_error() {
    let server = Server::start().await;
    server.publish(1, &[("a", "a1")]);
    let mut client = server.connect().await;
    client.say(ask(Cluster, Some(gateway_node("g")))).await;
    client.hear_some().await;
    server.ending.send_replace(true);
    assert_eq!(client.hear().await.unwrap(), None);
    drop(client);
    timeout(LIMIT, server.task).await.expect("the service does not end").unwrap().unwrap();
    assert_eq!(server.metrics.streams.get(), 0);
}

#[tokio::test]
async fn plaintext_stays_on_the_machine_and_a_taken_address_is_named() {
    let refused = bind("0.0.0.0:15010".parse().unwrap()).await.unwrap_err();
    assert!(matches!(refused, BindError::NotLoopback(_)));
    assert!(refused.to_string().contains("127.0.0.1:15010"), "{refused}");
    let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let taken = bind(first.local_addr().unwrap()).await.unwrap_err().to_string();
    assert!(
        taken.contains("--xds-address") && taken.contains(&first.local_addr().unwrap().to_string()),
        "{taken}"
    );
}

/// One stream without a network, under a paused clock.
struct Bare {
    requests: mpsc::Sender<Result<DeltaDiscoveryRequest, Status>>,
    responses: mpsc::Receiver<Result<DeltaDiscoveryResponse, Status>>,
    metrics: Metrics,
    _ending: watch::Sender<bool>,
}

fn bare(snapshots: &Snapshots) -> Bare {
    let (requests, inbound) = mpsc::channel(16);
    let (outbound, responses) = mpsc::channel(1);
    let (ending, end) = watch::channel(false);
    let metrics = Metrics::default();
    let surroundings = Surroundings {
        snapshots: snapshots.clone(),
        streams: Streams::default(),
        metrics: metrics.clone(),
        ending: end,
    };
    let place = Places::new(1).take(None).unwrap();
    tokio::spawn(connection::serve(surroundings, None, ReceiverStream::new(inbound), outbound, place));
    Bare { requests, responses, metrics, _ending: ending }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_cut() {
    let snapshots = Snapshots::default();
    let mut resources = Resources::default();
    let resource = Resource { version: "1".into(), body: "x".into() };
    resources.clusters.insert("a".to_owned(), resource.clone());
    resources.listeners.insert("l".to_owned(), resource);
    snapshots.publish(&scope(), Arc::new(Snapshot::new(1, Instant::now(), resources)));
    let mut stream = bare(&snapshots);
    stream.requests.send(Ok(ask(Cluster, Some(gateway_node("g"))))).await.unwrap();
    stream.requests.send(Ok(ask(Listener, None))).await.unwrap();
    // One response waits in the channel, unread; the next finds no room. The sender is dropped when the stream is cut.
    stream.requests.closed().await;
    let cut = stream.metrics.refused_streams.get_or_create(&CauseLabel { cause: "stalled" }).get();
    assert_eq!(cut, 1);
    assert!(stream.responses.recv().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_word_is_cut() {
    let mut stream = bare(&Snapshots::default());
    let status = stream.responses.recv().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}
