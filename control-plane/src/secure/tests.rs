//! The TLS port as its callers meet it: real TLS, real gRPC, over the loopback.

mod bounds;
mod calls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sidegate_xds::ca::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use sidegate_xds::envoy::config::core::v3::Node;
use sidegate_xds::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sidegate_xds::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sidegate_xds::google::protobuf::value::Kind;
use sidegate_xds::google::protobuf::{Struct, Value};
use sidegate_xds::resource::ResourceType;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::door::Limits;
use super::*;
use crate::authn::leaf;
use crate::authn::refusal::{Reason, Refusal, Refusals};
use crate::authn::tests::fixture::{Root, Says, root, trust};
use crate::authn::tokens::TokenKey;
use crate::authn::{Authenticator, Caller, Subject};
use crate::ca::Serving;
use crate::issue::Authority;
use crate::model::{Name, Scope, Trust, View};
use crate::snapshot::{Resource, Resources, Snapshot, Snapshots};
use crate::xds::{Metrics, Streams};

/// An authority that signs nothing and says for whom it would have.
struct Echo;

impl Authority for Echo {
    fn issue<'a>(
        &'a self,
        caller: &'a Caller,
        request: &'a str,
        _validity: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<String>, Refusal>> + Send + 'a>> {
        Box::pin(async move { Ok(vec![format!("{} {request}", caller.identity)]) })
    }
}

/// A TLS port with everything behind it.
struct Port {
    address: SocketAddr,
    root: Root,
    tokens: TokenKey,
    snapshots: Snapshots,
    streams: Streams,
    refusals: Refusals,
    views: watch::Sender<Arc<View>>,
    trust: watch::Sender<Arc<Trust>>,
    shown: watch::Sender<Option<Arc<Serving>>>,
    _ending: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

const LIMIT: Duration = Duration::from_secs(20);
const SERVER: &str = "sidegate.sidegate-system.svc";

/// Now, for certificates that must be good today.
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(super) fn shown(root: &Root) -> Option<Arc<Serving>> {
    let now = seconds();
    let (der, key) = root.leaf(&Says {
        uris: &["spiffe://cluster.local/ns/sidegate-system/sa/sidegate"],
        dns: &[SERVER],
        from: now - 60,
        until: now + 3600,
        serial: now,
        ..Says::default()
    });
    Some(Arc::new(Serving { chain: vec![der], key, serial: now.to_string(), until: now + 3600 }))
}

/// A world with a Pod of the account `web`, one of `db`, and a Gateway `public`.
fn view(generation: u64, web: &str) -> Arc<View> {
    let pod = |name: &str, account: &str| {
        let pod = serde_json::json!({
            "metadata": {"name": name, "namespace": "shop"}, "spec": {"containers": [], "serviceAccountName": account},
        });
        (Name::new("shop", name), Arc::new(serde_json::from_value(pod).unwrap()))
    };
    let gateway = serde_json::json!({
        "metadata": {"name": "public", "namespace": "shop"}, "spec": {"gatewayClassName": "sidegate", "listeners": []},
    });
    Arc::new(View {
        generation,
        pods: BTreeMap::from([pod("web-1", web), pod("db-1", "db")]),
        gateways: BTreeMap::from([(
            Name::new("shop", "public"),
            Arc::new(serde_json::from_value(gateway).unwrap()),
        )]),
        ..View::default()
    })
}

impl Port {
    async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    async fn with_limits(limits: Limits) -> Self {
        Self::with_share(limits, 1_000).await
    }

    /// One identity may have so many streams.
    async fn with_share(limits: Limits, share: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = root("mesh");
        let (trust, trusted) = watch::channel(Arc::new(trust(&[&root])));
        let (shown, showing) = watch::channel(shown(&root));
        let (views, seen) = watch::channel(view(1, "web"));
        let (ending, end) = watch::channel(false);
        let refusals = Refusals::default();
        let anchors = leaf::follow(trusted).unwrap();
        let tokens = TokenKey::open(folder.path()).unwrap();
        let authenticator = Authenticator::new(tokens, None, anchors.clone(), refusals.clone());
        let (snapshots, streams) = (Snapshots::default(), Streams::default());
        let discovery =
            xds::Service::new(snapshots.clone(), streams.clone(), Metrics::default(), end.clone());
        let discovery = discovery.secured(authenticator.clone(), seen.clone(), share);
        let certificates = CertificateService::new(authenticator, Arc::new(Echo)).renewing(seen);
        let door = Door::new(showing, anchors, refusals.clone()).with_limits(limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, door, discovery, certificates, end));
        let tokens = TokenKey::open(folder.path()).unwrap();
        Self {
            address,
            root,
            tokens,
            snapshots,
            streams,
            refusals,
            views,
            trust,
            shown,
            _ending: ending,
            _folder: folder,
        }
    }

    fn token(&self, account: &str) -> String {
        self.token_of("shop", account, None)
    }

    fn token_of(&self, namespace: &str, account: &str, pod: Option<&str>) -> String {
        let subject = Subject {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            pod: pod.map(str::to_owned),
        };
        self.tokens.mint(&subject, Duration::from_secs(600), SystemTime::now()).unwrap()
    }

    /// A leaf of this mesh for an account of `shop`.
    fn leaf(&self, account: &str, life: u64) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (now, uri) = (seconds(), format!("spiffe://cluster.local/ns/shop/sa/{account}"));
        self.root.leaf(&Says { uris: &[&uri], from: now - 60, until: now + life, ..Says::default() })
    }

    async fn connect(
        &self,
        leaf: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> TlsStream<TcpStream> {
        self.try_connect(leaf).await.unwrap()
    }

    async fn try_connect(
        &self,
        leaf: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match leaf {
            Some((chain, key)) => builder.with_client_auth_cert(vec![chain], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connection = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(SERVER).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, connection).await
    }

    async fn channel(&self, leaf: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>) -> Channel {
        let connection = self.connect(leaf).await;
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect_with_connector(Once(Some(TokioIo::new(connection)))).await.unwrap()
    }

    /// A channel, and what resolves when the other end closes its connection.
    async fn watched(
        &self,
        leaf: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> (Channel, tokio::sync::oneshot::Receiver<()>) {
        let mut connection = self.connect(leaf).await;
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let (closes, closed) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let _closes = closes;
            let (mut incoming, mut outgoing) = tokio::io::split(&mut connection);
            let (mut from, mut to) = tokio::io::split(&mut far);
            tokio::select! {
                _ = tokio::io::copy(&mut incoming, &mut to) => {}
                _ = async {
                    let _ = tokio::io::copy(&mut from, &mut outgoing).await;
                    std::future::pending::<()>().await
                } => {}
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        (endpoint.connect_with_connector(Once(Some(TokioIo::new(near)))).await.unwrap(), closed)
    }

    /// Opens a stream as this node and gives the first answer.
    async fn stream(&self, channel: Channel, token: Option<&str>, node: Node) -> Result<Open, Status> {
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let (requests, outbound) = mpsc::channel(16);
        requests.send(ask(ResourceType::Cluster, Some(node))).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(outbound));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", bearer(token));
        }
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        Ok(Open { requests, responses })
    }

    /// Waits until a reason was counted.
    async fn counted(&self, reason: Reason) {
        let count = async {
            while self.refusals.count(reason) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, count).await.unwrap_or_else(|_| panic!("{reason:?} was not counted"));
    }

    fn publish(&self, scope: &Scope) {
        let mut resources = Resources::default();
        resources.clusters.insert("a".to_owned(), Resource { version: "1".into(), body: "a1".into() });
        self.snapshots.publish(scope, Arc::new(Snapshot::new(1, tokio::time::Instant::now(), resources)));
    }
}

/// A connection that is there already.
struct Once<C>(Option<TokioIo<C>>);

impl<C> tonic::codegen::Service<Uri> for Once<C> {
    type Response = TokioIo<C>;
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        std::future::ready(self.0.take().ok_or_else(|| std::io::ErrorKind::NotConnected.into()))
    }
}

/// An open stream.
struct Open {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Open {
    async fn hear(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        timeout(LIMIT, self.responses.message()).await.expect("no answer")
    }

    async fn refused(&mut self) -> Status {
        self.hear().await.expect_err("a refusal")
    }
}

fn bearer(token: &str) -> MetadataValue<Ascii> {
    format!("Bearer {token}").parse().unwrap()
}

fn ask(kind: ResourceType, node: Option<Node>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { node, type_url: kind.type_url().to_owned(), ..DeltaDiscoveryRequest::default() }
}

fn node(fields: &[(&str, &str)]) -> Node {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields =
        fields.iter().chain(&[("SIDEGATE", "1")]).map(|(key, value)| ((*key).to_owned(), text(value)));
    Node { id: "node".to_owned(), metadata: Some(Struct { fields: fields.collect() }), ..Node::default() }
}

fn pod(namespace: &str, name: &str) -> Node {
    node(&[("NAMESPACE", namespace), ("POD_NAME", name)])
}

fn sidecar(name: &str) -> Scope {
    Scope::Sidecar { pod: Name::new("shop", name), foreign: false, secure: true }
}

/// Begins a call for a certificate and says nothing.
async fn mute(channel: Channel, token: String) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::pending::<CertificateRequest>());
    request.metadata_mut().insert("authorization", bearer(&token));
    let codec: ProstCodec<CertificateRequest, CertificateResponse> = ProstCodec::default();
    let path = http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE);
    client.client_streaming(request, path, codec).await.map(drop)
}

/// Asks for a certificate.
async fn certificate(
    channel: Channel,
    token: Option<&str>,
    message: CertificateRequest,
) -> Result<Vec<String>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", bearer(token));
    }
    let codec: ProstCodec<CertificateRequest, CertificateResponse> = ProstCodec::default();
    let path = http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE);
    let call = client.unary(request, path, codec);
    Ok(timeout(LIMIT, call).await.expect("no answer")?.into_inner().cert_chain)
}
