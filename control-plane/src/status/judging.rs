//! `POST /authz/check`: what a caller may do, asked of whoever was given to the reporter to judge.
//!
//! A judgement is computation, and everybody on the machine may ask: one is made at a time, few wait, and none for nobody.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::Reporter;
use super::server::{plain, respond};

/// How many may be judged, and may wait for that.
#[derive(Debug)]
pub(super) struct Bench {
    waiting: Semaphore,
    judging: Arc<Semaphore>,
}

impl Default for Bench {
    fn default() -> Self {
        Self { waiting: Semaphore::new(WAITING), judging: Arc::new(Semaphore::new(1)) }
    }
}

/// Whether anybody still waits for an answer: whoever does holds the sender, which is gone with it, however that comes about.
#[derive(Clone, Debug)]
pub struct Wanted(watch::Receiver<()>);

impl Wanted {
    /// Whether to stop.
    pub fn is_over(&self) -> bool {
        self.0.has_changed().is_err()
    }

    /// Resolves when nobody waits any more.
    #[cfg(test)]
    pub(super) async fn over(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

pub(super) async fn answer(request: Request<Incoming>, reporter: &Arc<Reporter>) -> Response<Full<Bytes>> {
    if *request.method() != Method::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    // A page in a browser cannot send this type to others without asking them first.
    if !is_json(request.headers().get(CONTENT_TYPE)) {
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send content-type: application/json\n");
    }
    let body = timeout(READING, Limited::new(request.into_body(), QUESTION_LIMIT).collect()).await;
    let Ok(Ok(body)) = body else {
        return plain(StatusCode::BAD_REQUEST, "the question broke off, or is too long\n");
    };
    let Ok(_waiting) = reporter.bench().waiting.try_acquire() else { return busy() };
    timeout(JUDGING, judge(Arc::clone(reporter), body.to_bytes())).await.unwrap_or_else(|_| busy())
}

async fn judge(reporter: Arc<Reporter>, question: Bytes) -> Response<Full<Bytes>> {
    let (_asking, wanted) = watch::channel(());
    let wanted = Wanted(wanted);
    // The semaphore is never closed.
    let Ok(turn) = Arc::clone(&reporter.bench().judging).acquire_owned().await else { return busy() };
    // Translation is computation; it must not hold up the streams that share this thread.
    let judged = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        reporter.judge(&question, &wanted)
    });
    match judged.await {
        Ok(Ok(answer)) => respond(StatusCode::OK, "application/json", answer),
        Ok(Err(reason)) => plain(StatusCode::BAD_REQUEST, &format!("{reason}\n")),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn is_json(kind: Option<&HeaderValue>) -> bool {
    let text = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

fn busy() -> Response<Full<Bytes>> {
    let mut response = plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "too many questions are asked at once, or this one took too long: try again, and name one port\n",
    );
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// How many may wait for their turn, the one whose turn it is among them.
const WAITING: usize = 8;

/// How long a question may be, in bytes, and how long it may take to come, and to be answered.
const QUESTION_LIMIT: usize = 64 * 1024;
const READING: Duration = Duration::from_secs(5);
const JUDGING: Duration = Duration::from_secs(20);
