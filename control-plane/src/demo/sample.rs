//! `sidegate sample-app` (hidden): one process of the demo's shop.
//!
//! It answers every request with what it is, in JSON, and with the answer of the next app inside it. It knows nothing
//! of the mesh but the address of an HTTP proxy, and does the one thing that tracing asks of an app: it passes the
//! trace headers on.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::client::Client;
use super::trace;

/// The flags of `sidegate sample-app`.
#[derive(Clone, Debug, clap::Args)]
#[command(disable_version_flag = true)]
pub struct SampleArgs {
    /// What the app calls itself
    #[arg(long)]
    name: String,
    /// The version it runs
    #[arg(long, default_value = "v1")]
    version: String,
    /// The Pod it runs in; name and version when absent
    #[arg(long)]
    pod: Option<String>,
    /// Where to listen, e.g. 127.0.0.11:9080
    #[arg(long)]
    listen: SocketAddr,
    /// The next app, e.g. http://catalog.shop/; without it the app answers by itself
    #[arg(long)]
    upstream: Option<Uri>,
    /// The HTTP proxy to call it through, e.g. http://127.0.0.11:15001; without it the app calls directly
    #[arg(long)]
    proxy: Option<Uri>,
}

/// Serves until SIGTERM or SIGINT, then finishes what is in flight.
pub async fn run(args: SampleArgs) -> ExitCode {
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sample-app: {error}");
            ExitCode::from(2)
        }
    }
}

async fn serve(args: SampleArgs) -> Result<(), SampleError> {
    let (mut terminate, mut interrupt) =
        (listen_for(SignalKind::terminate())?, listen_for(SignalKind::interrupt())?);
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| SampleError::Listen { address: args.listen, reason: error.to_string() })?;
    let app = Arc::new(App::new(args).await?);
    let (stop, stopping) = watch::channel(false);
    let permits = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(_) = connections.join_next() => continue,
        };
        let Some((stream, permit)) = accepted else { continue };
        let (app, stopping) = (Arc::clone(&app), stopping.clone());
        connections.spawn(async move {
            serve_connection(app, stream, stopping).await;
            drop(permit);
        });
    }
    drop(listener);
    stop.send_replace(true);
    let all_done = async { while connections.join_next().await.is_some() {} };
    // Whoever still waits after this long has given up.
    let _late = tokio::time::timeout(DRAIN_LIMIT, all_done).await;
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _peer)) => Some((stream, permit)),
        Err(error) => {
            eprintln!("sample-app: cannot accept a connection: {error}");
            // Out of file descriptors, most likely: give running requests time to return some.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn serve_connection(app: Arc<App>, stream: TcpStream, mut stopping: watch::Receiver<bool>) {
    if stream.set_nodelay(true).is_err() {
        return; // The peer is gone already.
    }
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, std::convert::Infallible>(app.answer(request).await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopping.wait_for(|stop| *stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        eprintln!("sample-app: a connection ended early: {error}");
    }
}

/// One app of the shop.
#[derive(Debug)]
struct App {
    name: String,
    version: String,
    pod: String,
    upstream: Option<Upstream>,
}

/// The next app.
#[derive(Debug)]
struct Upstream {
    client: Client,
    /// The request target: the whole URL for a proxy, the path for the app itself.
    target: Uri,
    host: HeaderValue,
}

impl App {
    async fn new(args: SampleArgs) -> Result<Self, SampleError> {
        let pod = args.pod.unwrap_or_else(|| format!("{}-{}", args.name, args.version));
        let upstream = match args.upstream {
            Some(url) => Some(Upstream::new(url, args.proxy).await?),
            None => None,
        };
        Ok(Self { name: args.name, version: args.version, pod, upstream })
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == HEALTH_PATH {
            return self.respond(StatusCode::OK, Vec::new());
        }
        let headers = request.headers();
        let text = |value: Option<String>| value.map_or(Value::Null, Value::String);
        let mut fields = vec![
            (
                "request_id",
                text(headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned)),
            ),
            ("trace_id", text(trace::trace_id(headers))),
        ];
        let Some(upstream) = &self.upstream else { return self.respond(StatusCode::OK, fields) };
        match tokio::time::timeout(UPSTREAM_LIMIT, upstream.call(headers)).await {
            Ok(Ok(answer)) => {
                fields.push(("upstream", answer));
                self.respond(StatusCode::OK, fields)
            }
            Ok(Err(reason)) => {
                fields.push(("error", Value::String(reason)));
                self.respond(StatusCode::BAD_GATEWAY, fields)
            }
            Err(_elapsed) => {
                let reason =
                    format!("{} did not answer within {} s", upstream.target, UPSTREAM_LIMIT.as_secs());
                fields.push(("error", Value::String(reason)));
                self.respond(StatusCode::GATEWAY_TIMEOUT, fields)
            }
        }
    }

    fn respond(&self, status: StatusCode, fields: Vec<(&str, Value)>) -> Response<Full<Bytes>> {
        let mut body = json!({
            "name": self.name,
            "version": self.version,
            "pod": self.pod,
            "process": std::process::id(),
        });
        for (name, value) in fields {
            body[name] = value;
        }
        let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl Upstream {
    async fn new(url: Uri, proxy: Option<Uri>) -> Result<Self, SampleError> {
        let wrong = |reason: &str| SampleError::Upstream { url: url.to_string(), reason: reason.to_owned() };
        let authority = url.authority().ok_or_else(|| wrong("no host"))?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("no usable host"))?;
        let target = match &proxy {
            Some(_) => url.clone(),
            None => url
                .path_and_query()
                .map_or_else(|| Ok(Uri::from_static("/")), |path| path.as_str().parse())
                .map_err(|_| wrong("no usable path"))?,
        };
        let nearest = proxy.as_ref().unwrap_or(&url);
        let nearest_host = nearest.host().ok_or_else(|| wrong("the proxy has no host"))?;
        let mut addresses = tokio::net::lookup_host((nearest_host, nearest.port_u16().unwrap_or(80)))
            .await
            .map_err(|error| wrong(&error.to_string()))?;
        let address = addresses.next().ok_or_else(|| wrong("its host has no address"))?;
        Ok(Self { client: Client::new(address), target, host })
    }

    /// Asks the next app; the answer is its JSON.
    async fn call(&self, incoming: &HeaderMap) -> Result<Value, String> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.target.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        trace::forward(incoming, request.headers_mut());
        let response =
            self.client.send(request).await.map_err(|error| format!("{}: {error}", self.target))?;
        let body = response.body();
        if response.status() != StatusCode::OK {
            return Err(format!(
                "{} answered {}: {}",
                self.target,
                response.status().as_u16(),
                reason_in(body)
            ));
        }
        serde_json::from_slice(body).map_err(|error| format!("{} answered no JSON: {error}", self.target))
    }
}

/// What a failed answer says: the `error` of an app like this one, else the text itself.
pub(super) fn reason_in(body: &[u8]) -> String {
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    match answer.as_ref().and_then(|answer| answer.get("error")).and_then(Value::as_str) {
        Some(error) => error.to_owned(),
        None => String::from_utf8_lossy(&body[..body.len().min(REASON_LIMIT)]).trim().to_owned(),
    }
}

fn listen_for(kind: SignalKind) -> Result<tokio::signal::unix::Signal, SampleError> {
    signal(kind).map_err(|error| SampleError::Signal(error.to_string()))
}

/// Why the app cannot start.
#[derive(Debug, thiserror::Error)]
enum SampleError {
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: SocketAddr, reason: String },
    #[error(
        "--upstream {url}: {reason}; write it like http://catalog.shop/, and --proxy like http://127.0.0.1:15001"
    )]
    Upstream { url: String, reason: String },
    #[error("cannot listen for signals: {0}")]
    Signal(String),
}

/// Answered by the app alone, without the next one.
pub(super) const HEALTH_PATH: &str = "/healthz";
const CONNECTION_LIMIT: usize = 4096;
const UPSTREAM_LIMIT: Duration = Duration::from_secs(5);
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How much of a failed answer is passed on as the reason.
const REASON_LIMIT: usize = 600;

#[cfg(test)]
mod tests;
