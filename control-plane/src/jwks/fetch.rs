//! One key set by one request: the address is looked up once and checked, and that address is the one that is asked. Nothing is
//! followed elsewhere.

use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::guard::Guard;
use crate::model::access::bounds::{LONGEST_JWKS, MOST_KEYS};

/// Fetches a set.
pub(super) async fn key_set(url: &str, guard: &Guard) -> Result<Arc<str>, String> {
    timeout(LIMIT, fetch(url, guard))
        .await
        .map_err(|_| format!("no complete answer within {} s", LIMIT.as_secs()))?
}

async fn fetch(url: &str, guard: &Guard) -> Result<Arc<str>, String> {
    let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
    let host = uri.host().ok_or("the URL names no host")?.trim_matches(['[', ']']).to_owned();
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("the URL must begin with https://".to_owned()),
    };
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let address = address(&host, port, guard).await?;
    if !secure && !guard.names(address.ip()) && !is_inside(&host) {
        return Err(
            "without TLS anybody on the way could give other keys: use https:// (or --jwks-allow)".to_owned()
        );
    }
    let stream =
        TcpStream::connect(address).await.map_err(|error| format!("cannot connect to {address}: {error}"))?;
    if !secure {
        return ask(stream, &uri).await;
    }
    let name = ServerName::try_from(host.clone()).map_err(|_| format!("{host:?} is not a host name"))?;
    let connector = TlsConnector::from(tls()?);
    let stream =
        connector.connect(name, stream).await.map_err(|error| format!("TLS with {host} failed: {error}"))?;
    ask(stream, &uri).await
}

/// Names that only resolve inside of the cluster.
fn is_inside(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    host.ends_with(".svc") || host.ends_with(".svc.cluster.local")
}

async fn address(host: &str, port: u16, guard: &Guard) -> Result<SocketAddr, String> {
    let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| format!("cannot resolve {host}: {error}"))?
            .collect(),
    };
    let permitted = found.iter().find(|address| guard.permits(address.ip()));
    permitted.copied().ok_or_else(|| match found.first() {
        Some(address) => format!(
            "{host} is {}, which is not asked: it is this machine's own, its link's or reserved (allow it with --jwks-allow)",
            address.ip()
        ),
        None => format!("{host} has no address"),
    })
}

fn tls() -> Result<Arc<ClientConfig>, String> {
    static CONFIG: LazyLock<Result<Arc<ClientConfig>, String>> = LazyLock::new(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            return Err(
                "this machine trusts nobody: no root certificates are installed (ca-certificates)".to_owned()
            );
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    });
    CONFIG.clone()
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
) -> Result<Arc<str>, String> {
    let said = |error: hyper::Error| match error.source() {
        Some(source) => format!("the answer is broken: {error}: {source}"),
        None => format!("the answer is broken: {error}"),
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    let connection = tokio::spawn(connection);
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "sidegate")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(said);
    let read = async {
        let response = response?;
        match response.status().as_u16() {
            200 => {}
            300..=399 => {
                return Err(
                    "it answers with a redirect, which is not followed: name the URL itself".to_owned()
                );
            }
            status => return Err(format!("it answers with status {status}")),
        }
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|_| format!("the answer broke off, or has more than {LARGEST} bytes"))?;
        checked(&body.to_bytes())
    };
    let result = read.await;
    connection.abort();
    result
}

/// A set of keys, in the shortest form.
fn checked(body: &[u8]) -> Result<Arc<str>, String> {
    let value: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| format!("the answer is not JSON: {error}"))?;
    let keys = match value.get("keys").and_then(serde_json::Value::as_array) {
        Some(keys) if keys.is_empty() => return Err("the answer has no key in it".to_owned()),
        Some(keys) if keys.len() > MOST_KEYS => {
            return Err(format!("the answer has more than {MOST_KEYS} keys in it"));
        }
        Some(keys) => keys,
        None => return Err("the answer is no JSON Web Key Set: {\"keys\": […]}".to_owned()),
    };
    let keys: Vec<serde_json::Value> = keys.iter().filter_map(public).collect();
    if keys.is_empty() {
        return Err("the answer has no key in it that can be read".to_owned());
    }
    let text = serde_json::json!({ "keys": keys }).to_string();
    if text.len() > LONGEST_JWKS {
        return Err(format!("the keys in the answer have more than {LONGEST_JWKS} bytes"));
    }
    Ok(text.into())
}

/// What proxies look at of a key: texts, as they came. What else an issuer writes there is nobody's concern, and private parts must go
/// nowhere. A key with a member of another kind is none.
fn public(key: &serde_json::Value) -> Option<serde_json::Value> {
    let key = key.as_object()?;
    let mut kept = serde_json::Map::new();
    for name in MEMBERS {
        let Some(value) = key.get(name).filter(|value| !value.is_null()) else { continue };
        let fits = match value {
            serde_json::Value::Array(items) if name == "key_ops" => items.iter().all(|item| item.is_string()),
            value => value.is_string() && name != "key_ops",
        };
        if !fits {
            return None;
        }
        kept.insert(name.to_owned(), value.clone());
    }
    kept.contains_key("kty").then_some(serde_json::Value::Object(kept))
}

/// RFC 7517 §4 and RFC 7518 §6, of keys that verify signatures.
const MEMBERS: [&str; 10] = ["kty", "use", "key_ops", "alg", "kid", "crv", "n", "e", "x", "y"];

/// For all of it.
const LIMIT: Duration = Duration::from_secs(10);

/// Bytes of an answer.
const LARGEST: usize = LONGEST_JWKS;
