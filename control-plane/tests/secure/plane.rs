//! A control plane as a process, and callers of its TLS port.

use std::future::Ready;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, SanType};
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
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

const MANIFESTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, annotations: {sidegate.dev/outbound-proxy: \"15001\"}}
spec: {serviceAccountName: web, containers: []}
status: {podIP: 127.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, namespace: shop}
spec: {serviceAccountName: db, containers: []}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sidegate}
spec: {controllerName: sidegate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: public
  namespace: shop
  annotations: {sidegate.dev/service-account: edge}
spec:
  gatewayClassName: sidegate
  listeners: [{name: http, protocol: HTTP, port: 8080}]
";

/// A running control plane; ended with the test.
pub(crate) struct Plane {
    child: Child,
    log: Arc<Mutex<String>>,
    pub(crate) secure: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
}

impl Plane {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifests = folder.path().join("manifests");
        std::fs::create_dir(&manifests).unwrap();
        std::fs::write(manifests.join("shop.yaml"), MANIFESTS).unwrap();
        let addresses = ["--xds-address", "--admin-address", "--secure-xds-address"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_sidegate"))
            .arg("serve")
            .args(addresses.iter().flat_map(|flag| [*flag, "127.0.0.1:0"]))
            .args(flags)
            .arg("--manifests")
            .arg(&manifests)
            .arg("--ca-dir")
            .arg(folder.path().join("ca"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut admin, mut secure) = (None, None);
        let log = Arc::new(Mutex::new(String::new()));
        while admin.is_none() || secure.is_none() {
            let line = lines.next().expect("it ended before it listened").unwrap();
            let address = |mark: &str| line.split_once(mark).map(|(_, rest)| rest.trim().parse().unwrap());
            admin = admin.or(address("admin listening on "));
            secure = secure.or(address("tls listening on "));
            log.lock().unwrap().push_str(&(line.clone() + "\n"));
        }
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, log, secure: secure.unwrap(), admin: admin.unwrap(), folder }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// `sidegate token`.
    pub(crate) fn token(&self, account: &str, more: &[&str]) -> String {
        let mut flags = vec!["token", "--namespace", "shop", "--service-account", account];
        flags.extend(more);
        let output = sidegate(&flags, &self.ca());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(self.ca().join("root-cert.pem")).unwrap() {
            roots.add(root.unwrap()).unwrap();
        }
        roots
    }

    pub(crate) async fn connect(&self, leaf: Option<&Leaf>) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match leaf {
            Some(leaf) => builder.with_client_auth_cert(leaf.chain.clone(), leaf.key.clone_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("sidegate.sidegate-system.svc").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(self.secure).await?).await
    }

    pub(crate) async fn channel(&self, leaf: Option<&Leaf>) -> Channel {
        let connection = self.connect(leaf).await.unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{}", self.secure)).unwrap();
        endpoint.connect_with_connector(Once(Some(TokioIo::new(connection)))).await.unwrap()
    }

    /// Asks for a certificate with this request.
    pub(crate) async fn certificate(
        &self,
        leaf: Option<&Leaf>,
        token: Option<&str>,
        message: CertificateRequest,
    ) -> Result<Vec<String>, Status> {
        let mut client = tonic::client::Grpc::new(self.channel(leaf).await);
        client.ready().await.unwrap();
        let mut request = Request::new(message);
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let codec: ProstCodec<CertificateRequest, CertificateResponse> = ProstCodec::default();
        let path = http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE);
        let call = client.unary(request, path, codec);
        Ok(timeout(LIMIT, call).await.expect("no answer")?.into_inner().cert_chain)
    }

    /// A certificate by a token.
    pub(crate) async fn leaf(&self, account: &str) -> Leaf {
        let (message, key) = request(&[]);
        let token = self.token(account, &[]);
        Leaf::new(&self.certificate(None, Some(&token), message).await.unwrap(), key)
    }

    /// Opens a stream as this node.
    pub(crate) async fn stream(
        &self,
        leaf: Option<&Leaf>,
        token: Option<&str>,
        node: Node,
    ) -> Result<Open, Status> {
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel(leaf).await);
        let (requests, outbound) = mpsc::channel(16);
        let type_url = ResourceType::Listener.type_url().to_owned();
        let first = DeltaDiscoveryRequest { node: Some(node), type_url, ..DeltaDiscoveryRequest::default() };
        requests.send(first).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(outbound));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        Ok(Open { requests, responses })
    }

    /// `GET` on the admin page.
    pub(crate) fn page(&self, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut connection = std::net::TcpStream::connect(self.admin).unwrap();
        write!(connection, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        text
    }

    /// How often a reason was counted.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        let line = format!("sidegate_refused_callers_total{{reason=\"{reason}\"}} ");
        let page = self.page("/metrics");
        page.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    /// Waits until the log has this.
    pub(crate) async fn logged(&self, text: &str) {
        let wait = async {
            while !self.log().contains(text) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{text:?} was never logged:\n{}", self.log()));
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        assert!(!self.log().contains("panicked") || std::thread::panicking(), "{}", self.log());
    }
}

/// Runs `sidegate` with the authority's folder.
pub(crate) fn sidegate(flags: &[&str], ca: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidegate")).args(flags).arg("--ca-dir").arg(ca).output().unwrap()
}

/// A certificate with its key.
pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) pem: String,
    pub(crate) key_pem: String,
}

impl Leaf {
    /// From what the authority gave: the last one is the root, which nobody sends.
    pub(crate) fn new(chain: &[String], key: KeyPair) -> Self {
        let sent = &chain[..chain.len() - 1];
        Self {
            chain: sent.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect(),
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            pem: sent.concat(),
            key_pem: key.serialize_pem(),
        }
    }
}

/// A signing request for these URIs.
pub(crate) fn request(uris: &[&str]) -> (CertificateRequest, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    signed(&params)
}

/// A signing request that says this.
pub(crate) fn signed(params: &CertificateParams) -> (CertificateRequest, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    (CertificateRequest { csr, ..CertificateRequest::default() }, key)
}

pub(crate) fn node(fields: &[(&str, &str)]) -> Node {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields =
        fields.iter().chain(&[("SIDEGATE", "1")]).map(|(key, value)| ((*key).to_owned(), text(value)));
    Node { id: "test".to_owned(), metadata: Some(Struct { fields: fields.collect() }), ..Node::default() }
}

pub(crate) fn pod(name: &str) -> Node {
    node(&[("NAMESPACE", "shop"), ("POD_NAME", name)])
}

pub(crate) fn gateway() -> Node {
    node(&[("NAMESPACE", "shop"), ("GATEWAY", "public")])
}

/// An open stream.
pub(crate) struct Open {
    pub(crate) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Open {
    pub(crate) async fn hear(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let message = timeout(LIMIT, self.responses.message()).await.expect("no answer")?;
        Ok(message.expect("the stream ended without a word"))
    }
}

/// A connection that is there already.
struct Once(Option<TokioIo<TlsStream<TcpStream>>>);

impl tonic::codegen::Service<Uri> for Once {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        std::future::ready(self.0.take().ok_or_else(|| std::io::ErrorKind::NotConnected.into()))
    }
}
