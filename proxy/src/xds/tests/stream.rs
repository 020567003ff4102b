//! The client over a socket, against a server that the test plays.

use std::pin::Pin;

use sidegate_xds::resource::to_any;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status as GrpcStatus;
use wire::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};

use super::super::*;
use crate::compile::tests::fixture::{assignment, eds_cluster, upsert};
use crate::snapshot::{Handle, Publisher};

type Responses = mpsc::Sender<Result<wire::DeltaDiscoveryResponse, GrpcStatus>>;

/// One stream as the test sees it: what the client asks, and where to answer.
struct Conversation {
    requests: Streaming<Request>,
    responses: Responses,
}

impl Conversation {
    async fn next(&mut self) -> Request {
        self.requests.message().await.unwrap().unwrap()
    }

    async fn answer(&self, kind: ResourceType, nonce: &str, update: crate::compile::Update) {
        let resource = |one: crate::compile::Resource| wire::Resource {
            name: one.name,
            version: one.version,
            resource: Some(one.body),
            ..Default::default()
        };
        let response = wire::DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            nonce: nonce.to_owned(),
            resources: update.upserts.into_iter().map(resource).collect(),
            removed_resources: update.removals,
            ..Default::default()
        };
        self.responses.send(Ok(response)).await.unwrap();
    }
}

/// Hands every stream to the test.
struct Server(mpsc::Sender<Conversation>);

type ResponseStream<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, GrpcStatus>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream = ResponseStream<wire::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = ResponseStream<wire::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: tonic::Request<Streaming<wire::DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, GrpcStatus> {
        Err(GrpcStatus::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<Request>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, GrpcStatus> {
        let (responses, queue) = mpsc::channel(16);
        let conversation = Conversation { requests: request.into_inner(), responses };
        self.0.send(conversation).await.map_err(|_| GrpcStatus::unavailable("the test is over"))?;
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

struct Scenario {
    streams: mpsc::Receiver<Conversation>,
    snapshots: Handle,
    status: Status,
}

/// A running server and a running client of it.
async fn start() -> Scenario {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, streams) = mpsc::channel(4);
    let server = tonic::transport::Server::builder()
        .add_service(AggregatedDiscoveryServiceServer::new(Server(sender)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    let ads = Ads {
        cluster: "xds".to_owned(),
        endpoints: vec![AdsEndpoint { host: "127.0.0.1".to_owned(), port }],
        authority: None,
        connect_timeout: std::time::Duration::from_secs(1),
        initial_metadata: vec![("X-Test".to_owned(), "1".to_owned())],
        tls: None,
        clusters: true,
        listeners: true,
    };
    let publisher = Publisher::new();
    let snapshots = publisher.handle();
    let metrics = Metrics::new(0);
    let node = Node { id: "sidecar~web.shop".to_owned(), ..Node::default() };
    let client = Client::new(Compiler::new(publisher, metrics.clone()), Some(ads), node, metrics);
    let status = client.status();
    tokio::spawn(client.run());
    Scenario { streams, snapshots, status }
}

fn bad_cluster() -> crate::compile::Update {
    upsert(ResourceType::Cluster, "bad", "{name: bad, lb_policy: RING_HASH}")
}

#[tokio::test]
async fn a_conversation_with_its_end_and_its_next_beginning() {
    let mut scenario = start().await;
    let mut stream = scenario.streams.recv().await.unwrap();
    let clusters = stream.next().await;
    assert_eq!(clusters.type_url, ResourceType::Cluster.type_url());
    assert_eq!(clusters.node.unwrap().id, "sidecar~web.shop");
    assert_eq!(stream.next().await.type_url, ResourceType::Listener.type_url());

    let mut update = eds_cluster("a");
    update.upserts.extend(bad_cluster().upserts);
    stream.answer(ResourceType::Cluster, "c1", update).await;
    let nack = stream.next().await;
    assert_eq!(nack.response_nonce, "c1");
    assert_eq!(nack.error_detail.unwrap().message, "cluster bad: lb_policy: RING_HASH is not supported yet");
    let endpoints = stream.next().await;
    assert_eq!(
        (endpoints.type_url.as_str(), endpoints.response_nonce.as_str()),
        (ResourceType::Endpoint.type_url(), "")
    );
    assert_eq!(endpoints.resource_names_subscribe, ["a"]);

    stream.answer(ResourceType::Endpoint, "e1", assignment("a", &[80])).await;
    let ack = stream.next().await;
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("e1", None));
    // The ACK says "in force".
    assert!(scenario.snapshots.current().clusters.contains_key("a"));
    let report = scenario.status.read();
    assert!(report.connected_since.is_some());
    assert_eq!(report.of(ResourceType::Cluster).refused, 1);
    assert_eq!(report.of(ResourceType::Cluster).resources, 1);
    assert_eq!(report.of(ResourceType::Endpoint).accepted, 1);

    drop(stream);
    let mut stream = scenario.streams.recv().await.unwrap();
    let clusters = stream.next().await;
    assert!(clusters.node.is_some() && clusters.response_nonce.is_empty());
    assert_eq!(clusters.initial_resource_versions.keys().collect::<Vec<_>>(), ["a"]);
    let endpoints = stream.next().await;
    assert_eq!(endpoints.resource_names_subscribe, ["a"]);
    assert_eq!(endpoints.initial_resource_versions.keys().collect::<Vec<_>>(), ["a"]);
    assert!(scenario.snapshots.current().clusters.contains_key("a"), "served on while away");
    assert!(scenario.status.read().last_failure.is_some());
}

#[tokio::test]
async fn a_large_response_is_taken() {
    let mut scenario = start().await;
    let mut stream = scenario.streams.recv().await.unwrap();
    stream.next().await;
    stream.next().await;
    // More than the library's own limit of 4 MiB.
    let mut update = eds_cluster("a");
    let mut wire: sidegate_xds::envoy::config::cluster::v3::Cluster =
        sidegate_xds::resource::from_any(&update.upserts[0].body).unwrap();
    wire.alt_stat_name = "x".repeat(8 << 20);
    update.upserts[0].body = to_any(&wire);
    stream.answer(ResourceType::Cluster, "c1", update).await;
    assert_eq!(stream.next().await.response_nonce, "c1");
}

#[tokio::test]
async fn a_server_that_refuses_is_asked_again() {
    let mut scenario = start().await;
    let stream = scenario.streams.recv().await.unwrap();
    stream.responses.send(Err(GrpcStatus::unavailable("not ready"))).await.unwrap();
    drop(stream);
    scenario.streams.recv().await.unwrap();
    let report = scenario.status.read();
    assert_eq!(report.last_failure.as_deref(), Some("Unavailable: not ready"));
}
