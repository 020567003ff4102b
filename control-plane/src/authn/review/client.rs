//! One POST to the Kubernetes API server over a connection of its own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::ReviewSettings;

/// Why no API server can be asked.
#[derive(Debug, thiserror::Error)]
pub enum ReviewerError {
    /// The address.
    #[error("--token-review {0}: {1}")]
    Address(String, &'static str),
    /// The roots.
    #[error("--token-review-ca {}: {reason}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Speaks to one API server.
pub(super) struct Client {
    host: String,
    port: u16,
    authority: HeaderValue,
    prefix: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    credential: Option<PathBuf>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Client")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(settings: &ReviewSettings) -> Result<Self, ReviewerError> {
        let wrong = |why| ReviewerError::Address(settings.url.clone(), why);
        let form = "write https://HOST:PORT";
        let uri: Uri = settings.url.parse().map_err(|_| wrong(form))?;
        let authority = uri.authority().ok_or_else(|| wrong(form))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong(form));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let tls = match uri.scheme_str() {
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong("the host is no name"))?;
                Some((Arc::new(tls(settings)?), name))
            }
            Some("http") if is_loopback(&host) => None,
            Some("http") => {
                return Err(wrong("tokens go over TLS only, except on the loopback: write https://"));
            }
            _ => return Err(wrong(form)),
        };
        Ok(Self {
            port: authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong(form))?,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            credential: settings.credential.clone(),
            host,
            tls,
        })
    }

    /// Posts JSON and gives the body of a good answer, or what went wrong.
    pub(super) async fn post(&self, path: &str, body: Vec<u8>) -> Result<Bytes, String> {
        let mut request = Request::post(format!("{}{path}", self.prefix))
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        if let Some(file) = &self.credential {
            request.headers_mut().insert(AUTHORIZATION, credential(file.clone()).await?);
        }
        let connection = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| format!("{}:{}: {error}", self.host, self.port))?;
        match &self.tls {
            None => exchange(connection, request).await,
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let connection = connector
                    .connect(name.clone(), connection)
                    .await
                    .map_err(|error| format!("{}:{}: TLS: {error}", self.host, self.port))?;
                exchange(connection, request).await
            }
        }
    }
}

async fn exchange<C>(connection: C, request: Request<Full<Bytes>>) -> Result<Bytes, String>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(text)?;
    // Ends with the connection, which ends with this exchange.
    let driver = AbortOnDrop(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(text)?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("it answers {status}; may this control plane create tokenreviews?"));
    }
    let body =
        Limited::new(response.into_body(), BODY_LIMIT).collect().await.map_err(|error| error.to_string())?;
    drop(driver);
    Ok(body.to_bytes())
}

/// A task that ends with its owner.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads the control plane's own token, which is nobody's to log.
async fn credential(file: PathBuf) -> Result<HeaderValue, String> {
    let shown = file.display().to_string();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(file)).await;
    let text = read.map_err(|error| error.to_string())?.map_err(|error| format!("{shown}: {error}"))?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
        .map_err(|_| format!("{shown}: not a token"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn tls(settings: &ReviewSettings) -> Result<ClientConfig, ReviewerError> {
    let path = settings.roots.clone().ok_or_else(|| {
        ReviewerError::Address(
            settings.url.clone(),
            "give the roots of the API server's certificate with --token-review-ca FILE",
        )
    })?;
    let wrong = |reason: String| ReviewerError::Roots { path: path.clone(), reason };
    let roots = roots(&path).map_err(wrong)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        let root = root.map_err(|error| error.to_string())?;
        store.add(root).map_err(|error| error.to_string())?;
    }
    if store.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(store) }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// A TokenReview has a few kilobytes.
const BODY_LIMIT: usize = 256 * 1024;
