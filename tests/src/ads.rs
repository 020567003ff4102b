//! A control plane in this process that says exactly what a scenario wants said: listeners by delta ADS, in Envoy's own words.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use sidegate_xds::envoy::config::listener::v3::Listener;
use sidegate_xds::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use sidegate_xds::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use sidegate_xds::json::{Descriptors, Format};
use sidegate_xds::resource::{ResourceType, to_any};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::gateway::socket;
use crate::wait;

/// The control plane.
#[derive(Debug)]
pub struct Ads {
    address: SocketAddr,
    wanted: watch::Sender<Wanted>,
    said: watch::Receiver<Said>,
    task: JoinHandle<()>,
}

/// What proxies are to have.
#[derive(Clone, Debug, Default)]
struct Wanted {
    version: u64,
    listeners: Vec<Listener>,
}

/// What a proxy said last.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// The version that it has acknowledged.
    pub accepted: u64,
    /// The version that it has refused, and why.
    pub refused: Option<(u64, String)>,
}

impl Ads {
    /// Serves these listeners.
    ///
    /// # Panics
    /// When no address is free, or a listener is none.
    pub async fn start(listeners: &[Value]) -> Self {
        let bound = TcpListener::bind((crate::sandbox::address().ip(), 0)).await.expect("a free address");
        let address = bound.local_addr().expect("an address");
        let (wanted, wants) = watch::channel(Wanted { version: 1, listeners: parse(listeners) });
        let (says, said) = watch::channel(Said::default());
        let service = AggregatedDiscoveryServiceServer::new(Service { wants, says: Arc::new(says) });
        let serving = tonic::transport::Server::builder().add_service(service);
        let task = tokio::spawn(async move {
            serving.serve_with_incoming(TcpIncoming::from(bound)).await.expect("the control plane serves");
        });
        Self { address, wanted, said, task }
    }

    /// Where a bootstrap finds it: lay these over one with clusters of its own.
    pub fn bootstrap(&self, mut bootstrap: Value) -> Value {
        bootstrap["node"] = json!({"id": "test", "cluster": "test"});
        bootstrap["dynamic_resources"] = json!({
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        });
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let cluster = json!({
            "name": "xds",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "xds",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(self.address)}}]}],
            },
            "typed_extension_protocol_options": {options: {
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
        });
        if let Some(clusters) = bootstrap["static_resources"]["clusters"].as_array_mut() {
            clusters.push(cluster);
        }
        bootstrap
    }

    /// Pushes other listeners; the version by which the proxy will speak of them.
    ///
    /// # Panics
    /// When a listener is none.
    pub fn push(&self, listeners: &[Value]) -> u64 {
        let listeners = parse(listeners);
        self.wanted.send_modify(|wanted| *wanted = Wanted { version: wanted.version + 1, listeners });
        self.wanted.borrow().version
    }

    /// What the proxy said, as it comes.
    pub fn said(&self) -> watch::Receiver<Said> {
        self.said.clone()
    }

    /// Waits until the proxy has acknowledged a version.
    pub async fn accepted(&self, version: u64) {
        let mut said = self.said();
        let accepted = said.wait_for(|said| {
            assert!(said.refused.is_none(), "{:?}", said.refused);
            said.accepted >= version
        });
        wait::within("an acknowledgement", accepted).await.expect("the control plane runs");
    }

    /// Waits until the proxy has refused a version; why.
    pub async fn refused(&self, version: u64) -> String {
        let mut said = self.said();
        let refused = said.wait_for(|said| said.refused.as_ref().is_some_and(|(of, _)| *of >= version));
        let said = wait::within("a refusal", refused).await.expect("the control plane runs");
        said.refused.as_ref().map(|(_, why)| why.clone()).unwrap_or_default()
    }
}

impl Drop for Ads {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn parse(listeners: &[Value]) -> Vec<Listener> {
    static DESCRIPTORS: LazyLock<Descriptors> =
        LazyLock::new(|| Descriptors::load().expect("the descriptors of Envoy's messages"));
    let decode = |value: &Value| DESCRIPTORS.decode(&value.to_string(), Format::Yaml);
    listeners.iter().map(|value| decode(value).unwrap_or_else(|problems| panic!("{problems:?}"))).collect()
}

struct Service {
    wants: watch::Receiver<Wanted>,
    says: Arc<watch::Sender<Said>>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (outbound, responses) = mpsc::channel(4);
        tokio::spawn(converse(self.wants.clone(), self.says.clone(), request.into_inner(), outbound));
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// One stream: what is wanted, whenever that changes, once it was subscribed to.
async fn converse(
    mut wants: watch::Receiver<Wanted>,
    says: Arc<watch::Sender<Said>>,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    outbound: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    let mut subscribed = false;
    loop {
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                let listeners = request.type_url == ResourceType::Listener.type_url();
                if let Ok(version) = request.response_nonce.parse::<u64>() {
                    let error = request.error_detail.map(|status| status.message);
                    says.send_modify(|said| match error {
                        Some(why) => said.refused = Some((version, why)),
                        None if listeners => said.accepted = version,
                        None => {}
                    });
                    continue;
                }
                if listeners && !subscribed {
                    subscribed = true;
                } else {
                    let nothing = DeltaDiscoveryResponse { type_url: request.type_url, ..Default::default() };
                    if outbound.send(Ok(nothing)).await.is_err() {
                        return;
                    }
                    continue;
                }
            }
            changed = wants.changed(), if subscribed => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let wanted = wants.borrow_and_update().clone();
        let version = wanted.version.to_string();
        let resource = |listener: &Listener| Resource {
            name: listener.name.clone(),
            version: version.clone(),
            resource: Some(to_any(listener)),
            ..Default::default()
        };
        let response = DeltaDiscoveryResponse {
            type_url: ResourceType::Listener.type_url().to_owned(),
            nonce: version.clone(),
            resources: wanted.listeners.iter().map(resource).collect(),
            ..Default::default()
        };
        if outbound.send(Ok(response)).await.is_err() {
            return;
        }
    }
}
