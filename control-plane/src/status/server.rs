//! The admin page: `/status`, `/metrics`, `/healthz`, and `/rotate-root` and `/revoke` for who may read the authority's folder, over HTTP/1.1.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use super::{Reporter, judging, origin, revoke, rotate};

/// Serves the admin page for as long as it is polled.
pub async fn serve(listener: TcpListener, reporter: Arc<Reporter>) {
    let places = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    loop {
        // The semaphore is never closed; without a place the next connection waits in the system's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, _)) => {
                tokio::spawn(serve_connection(connection, Arc::clone(&reporter), place));
            }
            Err(error) => {
                // Out of file descriptors, or a connection that died in the queue: neither lasts.
                tracing::warn!(%error, "the admin page cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(connection: TcpStream, reporter: Arc<Reporter>, _place: OwnedSemaphorePermit) {
    let local = connection.local_addr().ok();
    let service = service_fn(move |request: Request<Incoming>| {
        let reporter = Arc::clone(&reporter);
        async move {
            if !origin::is_fine(&request, local) {
                return Ok(plain(StatusCode::FORBIDDEN, FOREIGN));
            }
            Ok::<_, Infallible>(match request.uri().path() {
                "/rotate-root" => rotate::answer(request, reporter.certifier()).await,
                "/revoke" => revoke::answer(request, reporter.certifier()).await,
                "/authz/check" => judging::answer(request, &reporter).await,
                _ => answer(&request, &reporter),
            })
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(connection), service);
    if let Ok(Err(error)) = timeout(CONNECTION_LIFE, served).await {
        tracing::debug!(%error, "an admin connection failed");
    }
}

fn answer(request: &Request<Incoming>, reporter: &Reporter) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/status" | "/metrics" | "/healthz") {
        return plain(
            StatusCode::NOT_FOUND,
            "there is /status, /metrics, /healthz, /rotate-root, /revoke and /authz/check\n",
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/status" => match serde_json::to_vec(&reporter.report(Instant::now(), SystemTime::now())) {
            Ok(body) => respond(StatusCode::OK, "application/json", body),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        "/metrics" => respond(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            reporter.metrics(SystemTime::now()),
        ),
        _ if reporter.is_ready() => plain(StatusCode::OK, "ok\n"),
        _ => plain(StatusCode::SERVICE_UNAVAILABLE, "the manifests are not read yet\n"),
    }
}

pub(super) fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text.to_owned())
}

pub(super) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

/// How many connections at once.
const CONNECTION_LIMIT: usize = 64;

/// What a page of anybody's is told.
const FOREIGN: &str = "ask by an address or as localhost, and not from a web page\n";

/// How long a request's head may take, and a connection may live.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
const CONNECTION_LIFE: Duration = Duration::from_secs(600);

/// How long to wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
