//! The admin page: `/status`, `/metrics`, `/healthz`, and `/rotate-root` and `/revoke` for who may read the authority's folder, over HTTP/1.1.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use super::{Reporter, revoke, rotate};

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
    let service = service_fn(move |request: Request<Incoming>| {
        let reporter = Arc::clone(&reporter);
        async move {
            Ok::<_, Infallible>(match request.uri().path() {
                "/rotate-root" => rotate::answer(request, reporter.certifier()).await,
                "/revoke" => revoke::answer(request, reporter.certifier()).await,
                "/authz/check" => judge(request, &reporter).await,
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

/// Asks the judgement that the reporter was given.
async fn judge(request: Request<Incoming>, reporter: &Arc<Reporter>) -> Response<Full<Bytes>> {
    if *request.method() != Method::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
        response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("POST"));
        return response;
    }
    let Ok(body) = Limited::new(request.into_body(), QUESTION_LIMIT).collect().await else {
        return plain(StatusCode::BAD_REQUEST, "the question broke off, or is too long\n");
    };
    let (reporter, body) = (Arc::clone(reporter), body.to_bytes());
    // Translation is computation; it must not hold up the streams that share this thread.
    match tokio::task::spawn_blocking(move || reporter.judge(&body)).await {
        Ok(Ok(answer)) => respond(StatusCode::OK, "application/json", answer),
        Ok(Err(reason)) => plain(StatusCode::BAD_REQUEST, &format!("{reason}\n")),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
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

/// How long a question about a request may be, in bytes.
const QUESTION_LIMIT: usize = 64 * 1024;

/// How long a request's head may take, and a connection may live.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
const CONNECTION_LIFE: Duration = Duration::from_secs(600);

/// How long to wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
