//! TLS ends in this process: a client that trusts whom it is told, and an origin that says who came.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::certificates::{Authority, Pair};
use crate::sandbox;

/// The one source of cryptography.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Trust in these.
pub fn roots(authorities: &[&Authority]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM")).expect("a root");
    }
    roots
}

/// A client, before it connects. Its sessions are resumed from one connection to the next.
#[derive(Clone, Debug)]
pub struct Client {
    config: ClientConfig,
    roots: Arc<RootCertStore>,
}

impl Client {
    /// Trusts one authority; shows `pair`, if any.
    ///
    /// # Panics
    /// Never: certificates were made here.
    pub fn new(authority: &Authority, pair: Option<&Pair>) -> Self {
        Self::with(authority, pair, rustls::ALL_VERSIONS)
    }

    /// As [`Client::new`], of certain versions.
    ///
    /// # Panics
    /// Never: certificates were made here.
    pub fn with(
        authority: &Authority,
        pair: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(versions).expect("versions");
        let builder = builder.with_root_certificates(roots(&[authority]));
        let config = match pair {
            Some(pair) => {
                let (chain, key) = pair.parts();
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
            None => builder.with_no_client_auth(),
        };
        Self { config, roots: Arc::new(roots(&[authority])) }
    }

    /// Trusts these roots, shows this certificate; all in PEM form.
    ///
    /// # Panics
    /// When they are in no such form.
    pub fn of(trusted: &str, chain: &str, key: &str) -> Self {
        let certificates = |pem: &str| {
            let all = CertificateDer::pem_slice_iter(pem.as_bytes());
            all.collect::<Result<Vec<_>, _>>().expect("certificates")
        };
        let mut roots = RootCertStore::empty();
        for root in certificates(trusted) {
            roots.add(root).expect("a root");
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(rustls::ALL_VERSIONS).expect("versions");
        let builder = builder.with_root_certificates(roots.clone());
        let config = builder.with_client_auth_cert(certificates(chain), key).expect("a pair");
        Self { config, roots: Arc::new(roots) }
    }

    /// Verifies who has signed the server's certificate, and not its name: a SPIFFE id is no DNS name.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn any_name(mut self) -> Self {
        let verifier = AnyName(self.roots.clone());
        self.config.dangerous().set_certificate_verifier(Arc::new(verifier));
        self
    }

    /// Offers these protocols.
    #[must_use]
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// Connects and shakes hands. With TLS 1.3 a server's refusal of this client only shows at the first read.
    ///
    /// # Errors
    /// What the handshake met.
    ///
    /// # Panics
    /// When the name is none.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        Ok(Connection { stream: connector.connect(name, stream).await? })
    }

    /// One GET on a connection of its own: the whole response.
    ///
    /// # Errors
    /// What the handshake or the response met.
    pub async fn get(&self, address: SocketAddr, name: &str, path: &str) -> io::Result<String> {
        let mut connection = self.connect(address, name).await?;
        connection.get(name, path).await
    }
}

/// Trusts whatever the roots vouch for.
#[derive(Debug)]
struct AnyName(Arc<RootCertStore>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms.all;
        let leaf = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.0, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The stream.
    pub stream: client::TlsStream<TcpStream>,
}

impl Connection {
    /// A GET over HTTP/1.1 that ends the connection: the whole response.
    ///
    /// # Errors
    /// What reading met; a connection that ends without close_notify is an error.
    pub async fn get(&mut self, host: &str, path: &str) -> io::Result<String> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        self.stream.read_to_string(&mut response).await?;
        Ok(response)
    }

    /// Whether the session was one from before.
    pub fn is_resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The protocol that was agreed on.
    pub fn alpn(&self) -> Option<String> {
        self.stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// The server's certificate.
    ///
    /// # Panics
    /// When it showed none.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone().into_owned()
    }
}

/// An origin with TLS. It answers every request with 200 and its name, one for `/slow` after [`SLOW`].
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// A connection as the origin saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The name it was asked for.
    pub server_name: Option<String>,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// Whether the client showed a certificate.
    pub certificate: bool,
    /// The request's head.
    pub head: String,
    /// Whether the session was one from before.
    pub resumed: bool,
}

impl Origin {
    /// Shows `pair`; asks clients for a certificate of `clients`, if given.
    ///
    /// # Panics
    /// When no address is free.
    pub async fn start(name: &str, pair: &Pair, clients: Option<&Authority>) -> Self {
        Self::start_with(
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len()),
            pair,
            clients,
            true,
        )
        .await
    }

    /// Answers every request with these bytes and closes, orderly or not.
    ///
    /// # Panics
    /// When no address is free.
    pub async fn start_with(answer: String, pair: &Pair, clients: Option<&Authority>, orderly: bool) -> Self {
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(rustls::ALL_VERSIONS).expect("versions");
        let builder = match clients {
            Some(authority) => {
                let roots = Arc::new(roots(&[authority]));
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
            None => builder.with_no_client_auth(),
        };
        let (chain, key) = pair.parts();
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind(sandbox::address()).await.expect("an address");
        let address = listener.local_addr().expect("an address");
        let (seen, connections) = (Arc::new(Mutex::default()), Arc::new(AtomicUsize::new(0)));
        let counted = connections.clone();
        let task = tokio::spawn(accept(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            answer,
            orderly,
            seen.clone(),
            counted,
        ));
        Self { address, seen, connections, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections shook hands.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    answer: String,
    orderly: bool,
    seen: Arc<Mutex<Vec<Seen>>>,
    counted: Arc<AtomicUsize>,
) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (acceptor, answer, seen, counted) =
            (acceptor.clone(), answer.clone(), seen.clone(), counted.clone());
        connections.spawn(async move {
            // An error is what a scenario provokes.
            if let Ok(stream) = acceptor.accept(socket).await {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = serve(stream, &answer, orderly, &seen).await;
            }
        });
    }
}

async fn serve(
    mut stream: server::TlsStream<TcpStream>,
    answer: &str,
    orderly: bool,
    seen: &Mutex<Vec<Seen>>,
) -> io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).await? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let session = stream.get_ref().1;
        let one = Seen {
            server_name: session.server_name().map(ToOwned::to_owned),
            alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            certificate: session.peer_certificates().is_some(),
            head: String::from_utf8_lossy(&head).into_owned(),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(one);
        if head.starts_with(b"GET /slow ") {
            tokio::time::sleep(SLOW).await;
        }
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
        if !orderly {
            // The socket alone: no close_notify.
            return stream.get_mut().0.shutdown().await;
        }
    }
}

/// How long an [`Origin`] takes over `/slow`.
pub const SLOW: std::time::Duration = std::time::Duration::from_secs(5);
