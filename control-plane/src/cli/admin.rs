//! Requests to the control plane's admin page.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One request.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// `http://127.0.0.1:15014`, or without the scheme.
    pub(super) address: &'a str,
    pub(super) method: Method,
    pub(super) path: &'a str,
    /// A bearer token.
    pub(super) token: Option<&'a str>,
    pub(super) body: Bytes,
}

impl<'a> Call<'a> {
    pub(super) fn get(address: &'a str, path: &'a str) -> Self {
        Self { address, method: Method::GET, path, token: None, body: Bytes::new() }
    }

    /// Sends it; gives status and body.
    pub(super) async fn send(self) -> Result<(StatusCode, Bytes), String> {
        let address = self.address;
        let with_scheme =
            if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let uri: Uri = with_scheme.parse().map_err(|error| format!("not an address: {error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err("only http:// is served".to_owned());
        }
        let host = uri.host().ok_or("the address has no host")?;
        let authority = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(DEFAULT_PORT));
        let connection = TcpStream::connect(authority).await.map_err(|error| error.to_string())?;
        // The page answers to addresses only: a name could be anybody's.
        let peer = connection.peer_addr().map_err(|error| error.to_string())?;
        let text = |error: hyper::Error| error.to_string();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(text)?;
        let driver = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(HOST, peer.to_string())
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(self.body)).map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        driver.abort();
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    }
}

/// Where the control plane's admin page is when the address names no port.
const DEFAULT_PORT: u16 = 15014;

/// How large an answer may be.
const BODY_LIMIT: usize = 64 * 1024 * 1024;
