//! A certificate authority that does as it is told: the wire form of `istio.v1.auth.IstioCertificateService` over TLS, with answers that
//! are right, wrong, late, or none. On the same port a [control plane](ads), as ours has them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use prost::Message;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use sidegate_xds::ca::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Authority, Leaf};
use crate::sandbox::{self, Sandbox};
use crate::secure::{provider, roots};

pub mod ads;

/// The name that the authority's own certificate has.
pub const NAME: &str = "sidegate.sidegate-system.svc";

/// The token that it believes, until the script says otherwise.
pub const TOKEN: &str = "a.good.token";

/// What the authority does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What was asked for.
    Good,
    /// A certificate for somebody else's key.
    OtherKey,
    /// A certificate for these URIs.
    For(Vec<String>),
    /// No answer for a long time.
    Late,
    /// `PERMISSION_DENIED`.
    Refuse,
    /// A certificate that another authority of the same name has signed.
    Stranger,
    /// A megabyte.
    Huge,
}

/// What the authority goes by.
#[derive(Clone, Debug)]
pub struct Script {
    /// Who the caller is.
    pub id: String,
    /// How long its certificates are good.
    pub life: Duration,
    /// What becomes of requests.
    pub answer: Answer,
    /// The token that is believed; none, and no token is.
    pub token: Option<String>,
    /// Whether a certificate is believed.
    pub certificates: bool,
}

/// A request as the authority saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The token that came with it.
    pub token: Option<String>,
    /// Whether the caller showed a certificate.
    pub certificate: bool,
    /// The signing request in PEM form.
    pub csr: String,
    /// The validity that was asked for, in seconds.
    pub validity: i64,
}

/// A running authority.
pub struct Issuer {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    /// The root that signs.
    authority: Mutex<Arc<Authority>>,
    /// Everybody whose certificates are believed, and the server's own issuer first.
    trusted: Vec<Arc<Authority>>,
    script: Mutex<Script>,
    asked: Mutex<Vec<Asked>>,
    plane: ads::Plane,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Issuer {
    /// An authority that gives certificates of that life to that id.
    pub async fn start(id: &str, life: Duration) -> Self {
        Self::start_with(id, life, vec![Arc::new(Authority::new("mesh"))]).await
    }

    /// The same, of these authorities: the first signs and vouches for the server, all are believed.
    ///
    /// # Panics
    /// When no address is free, or without an authority.
    pub async fn start_with(id: &str, life: Duration, trusted: Vec<Arc<Authority>>) -> Self {
        let script = Script {
            id: id.to_owned(),
            life,
            answer: Answer::Good,
            token: Some(TOKEN.to_owned()),
            certificates: true,
        };
        let shared = Arc::new(Shared {
            authority: Mutex::new(trusted[0].clone()),
            trusted,
            script: Mutex::new(script),
            asked: Mutex::default(),
            plane: ads::Plane::default(),
        });
        let address = sandbox::address();
        let task = listen(address, shared.clone()).await;
        Self { address, shared, task }
    }

    /// The authority that signs now.
    pub fn authority(&self) -> Arc<Authority> {
        lock(&self.shared.authority).clone()
    }

    /// From now on this one signs.
    pub fn sign_with(&self, authority: &Arc<Authority>) {
        *lock(&self.shared.authority) = authority.clone();
    }

    /// Changes what it does.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut lock(&self.shared.script));
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// The control plane on the same port.
    pub fn plane(&self) -> &ads::Plane {
        &self.shared.plane
    }

    /// Is away, with every connection.
    pub fn stop(&mut self) {
        self.task.abort();
    }

    /// Is back, at the same address.
    pub async fn start_again(&mut self) {
        self.task = listen(self.address, self.shared.clone()).await;
    }

    /// Writes roots and token, and gives the node's metadata that names them.
    pub fn identity(&self, sandbox: &Sandbox) -> serde_json::Value {
        let (root, token) = self.files(sandbox);
        serde_json::json!({"SIDEGATE_IDENTITY": {
            "ca_address": self.address.to_string(), "root_file": root, "token_file": token,
        }})
    }

    /// Writes roots and token.
    pub fn files(&self, sandbox: &Sandbox) -> (PathBuf, PathBuf) {
        let token = lock(&self.shared.script).token.clone().unwrap_or_default();
        (
            sandbox.write("root.pem", &self.shared.trusted[0].pem),
            sandbox.write("token", &format!("{token}\n")),
        )
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(address: SocketAddr, shared: Arc<Shared>) -> JoinHandle<()> {
    let server = shared.trusted[0].issue(&Leaf::dns(&[NAME]));
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(rustls::ALL_VERSIONS).expect("versions");
    let trusted: Vec<&Authority> = shared.trusted.iter().map(|authority| &**authority).collect();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&trusted)), provider());
    let clients = clients.allow_unauthenticated().build().expect("a verifier");
    let (chain, key) = server.parts();
    let mut config = builder.with_client_cert_verifier(clients).with_single_cert(chain, key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener =
        crate::wait::until("the address is free again", async || TcpListener::bind(address).await.ok());
    let listener = listener.await;
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            connections.spawn(serve(acceptor.clone(), socket, shared.clone()));
        }
    })
}

async fn serve(acceptor: TlsAcceptor, socket: TcpStream, shared: Arc<Shared>) {
    // An error is what a scenario provokes.
    let Ok(stream) = acceptor.accept(socket).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().is_some();
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let shared = shared.clone();
        calls.spawn(async move {
            let token = request.headers().get("authorization").and_then(|value| value.to_str().ok());
            let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(ToOwned::to_owned);
            match request.uri().path() {
                CREATE_CERTIFICATE => create(request, respond, &shared, token, certificate).await,
                ads::PATH => shared.plane.serve(request, respond, token, certificate).await,
                _ => finish(respond, Err((12, "no such method"))),
            }
        });
    }
}

async fn create(
    request: Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
    shared: &Shared,
    token: Option<String>,
    certificate: bool,
) {
    let mut reader = Reader::new(request.into_body());
    let Some(request) = reader.next::<CertificateRequest>().await else { return };
    lock(&shared.asked).push(Asked {
        token: token.clone(),
        certificate,
        csr: request.csr.clone(),
        validity: request.validity_duration,
    });
    let script = lock(&shared.script).clone();
    let believed = (certificate && script.certificates) || (token.is_some() && token == script.token);
    if !believed {
        return finish(respond, Err((16, "who are you?")));
    }
    let authority = lock(&shared.authority).clone();
    let sign = |authority: &Authority, csr: &str, ids: &[&str]| {
        let now = SystemTime::now();
        authority.sign(csr, ids, now - Duration::from_secs(60), now + script.life)
    };
    let chain = match &script.answer {
        Answer::Good => sign(&authority, &request.csr, &[&script.id]),
        Answer::OtherKey => sign(&authority, &crate::certificates::signing_request(), &[&script.id]),
        Answer::For(ids) => {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            sign(&authority, &request.csr, &ids)
        }
        Answer::Late => {
            tokio::time::sleep(LATE).await;
            return;
        }
        Answer::Refuse => return finish(respond, Err((7, "not you"))),
        Answer::Stranger => sign(&Authority::new("mesh"), &request.csr, &[&script.id]),
        Answer::Huge => vec!["x".repeat(1 << 20)],
    };
    finish(respond, Ok(frame(&CertificateResponse { cert_chain: chain })));
}

/// Ends a call with one message, or with a status and its text.
fn finish(mut respond: SendResponse<Bytes>, answer: Result<Bytes, (u8, &str)>) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
    // The caller may be gone.
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let mut trailers = HeaderMap::new();
    let (status, text) = match answer {
        Ok(message) => {
            let _ = stream.send_data(message, false);
            (0, "")
        }
        Err((status, text)) => (status, text),
    };
    trailers.insert("grpc-status", http::HeaderValue::from(u16::from(status)));
    trailers.insert("grpc-message", text.parse().expect("a text"));
    let _ = stream.send_trailers(trailers);
}

/// A message as gRPC sends it.
fn frame(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).expect("a short message"));
    message.encode(&mut bytes).expect("room");
    bytes.freeze()
}

/// Messages as gRPC sends them.
struct Reader {
    body: h2::RecvStream,
    read: BytesMut,
}

impl Reader {
    fn new(body: h2::RecvStream) -> Self {
        Self { body, read: BytesMut::new() }
    }

    /// The next message; none at the end.
    async fn next<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if let Some(head) = self.read.first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if self.read.len() >= 5 + length {
                    let message = self.read.split_to(5 + length).freeze().slice(5..);
                    return Some(M::decode(message).expect("a message"));
                }
            }
            let data = self.body.data().await?.ok()?;
            let _ = self.body.flow_control().release_capacity(data.len());
            self.read.extend_from_slice(&data);
        }
    }
}

/// Longer than anybody waits.
const LATE: Duration = Duration::from_secs(120);
