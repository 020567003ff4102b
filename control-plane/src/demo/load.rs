//! The load: requests at fixed moments whatever the answers do (an open loop), each with its own deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::Client;
use super::sample::reason_in;
use super::tally::{Answer, Failure, Outcome, SharedTally};
use super::trace;

/// Whom to ask and how often.
#[derive(Debug)]
pub(super) struct Load {
    client: Client,
    host: HeaderValue,
    per_second: u32,
    tally: SharedTally,
}

impl Load {
    /// A load on the gateway at `address` for one host.
    pub(super) fn new(
        address: SocketAddr,
        host: &'static str,
        per_second: u32,
        tally: SharedTally,
    ) -> Arc<Self> {
        let host = HeaderValue::from_static(host);
        Arc::new(Self { client: Client::new(address), host, per_second, tally })
    }

    /// Sends until `stop` says so, then waits for what is in flight.
    pub(super) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let began = Instant::now();
        let permits = Arc::new(Semaphore::new(outstanding_limit(self.per_second)));
        let mut flights = JoinSet::new();
        for number in 0_u64.. {
            let intended = began + Duration::from_nanos(number * 1_000_000_000 / u64::from(self.per_second));
            tokio::select! {
                () = tokio::time::sleep_until(intended) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            while flights.try_join_next().is_some() {}
            let window = self.tally.lock().send();
            match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => {
                    let load = Arc::clone(&self);
                    flights.spawn(async move {
                        load.one(intended, window).await;
                        drop(permit);
                    });
                }
                // Not sending it would flatter the latencies of the others: it is a failure.
                Err(_full) => self.record(intended, window, Err(overload())),
            }
        }
        while flights.join_next().await.is_some() {}
    }

    async fn one(&self, intended: Instant, window: Option<usize>) {
        let trace_id: u128 = rand::random();
        let result = match tokio::time::timeout_at(intended + DEADLINE, self.ask(trace_id)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Failure {
                class: format!("no answer within {} s", DEADLINE.as_secs()),
                detail: format!("no answer within {} s (trace {trace_id:032x})", DEADLINE.as_secs()),
            }),
        };
        self.record(intended, window, result);
    }

    /// One request and what it came to.
    pub(super) async fn ask(&self, trace_id: u128) -> Result<Answer, Failure> {
        let mut request = Request::new(Empty::new());
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("sidegate-demo"));
        trace::start(trace_id, rand::random(), request.headers_mut());
        let response = self.client.send(request).await.map_err(|error| Failure {
            class: "connection".to_owned(),
            detail: format!("the gateway: {error}"),
        })?;
        judge(&response, trace_id)
    }

    fn record(&self, intended: Instant, window: Option<usize>, result: Result<Answer, Failure>) {
        self.tally.lock().record(Outcome { intended, window, result }, Instant::now());
    }
}

/// Only a 200 with the words of a `reviews` process in it is an answer.
fn judge(response: &Response<bytes::Bytes>, trace_id: u128) -> Result<Answer, Failure> {
    let body = response.body();
    if response.status() != StatusCode::OK {
        let reason = response.headers().get("x-sidegate-reason").and_then(|reason| reason.to_str().ok());
        return Err(refused(response.status(), reason.unwrap_or_default(), &reason_in(body)));
    }
    let wrong = |what: &str| Failure {
        class: what.to_owned(),
        detail: format!("{what}: {}", String::from_utf8_lossy(&body[..body.len().min(EXCERPT)])),
    };
    let answer: Value = serde_json::from_slice(body).map_err(|_| wrong("200 without JSON"))?;
    let reviews = innermost(&answer);
    let text = |field: &str| reviews.get(field).and_then(Value::as_str).map(str::to_owned);
    match (text("name").as_deref(), text("version"), text("pod")) {
        (Some("reviews"), Some(version), Some(pod)) => {
            let traced = text("trace_id").is_some_and(|seen| same_trace(&seen, trace_id));
            Ok(Answer { version, pod, traced })
        }
        _ => Err(wrong("200 without reviews")),
    }
}

/// The gateway's own answers carry a reason; what failed deeper is told by the apps, the innermost last.
fn refused(status: StatusCode, reason: &str, text: &str) -> Failure {
    let status = status.as_u16();
    let innermost = text.rfind("http://").map_or("", |start| &text[start..]);
    let class = match (reason.split(';').next().unwrap_or_default().trim(), innermost) {
        ("", "") => status.to_string(),
        ("", innermost) => format!("{status}: {innermost}"),
        (reason, _) => format!("{status} {reason}"),
    };
    Failure { class, detail: format!("{status} {reason} {text}") }
}

fn innermost(answer: &Value) -> &Value {
    let mut answer = answer;
    while let Some(next) = answer.get("upstream") {
        answer = next;
    }
    answer
}

/// B3 allows the short form of an id: its last 64 bits.
fn same_trace(seen: &str, sent: u128) -> bool {
    match u128::from_str_radix(seen, 16) {
        Ok(seen_id) if seen.len() == 16 => seen_id == sent & u128::from(u64::MAX),
        Ok(seen_id) => seen_id == sent.max(1),
        Err(_) => false,
    }
}

fn overload() -> Failure {
    let class = "too many unanswered".to_owned();
    Failure { detail: "not sent: too many requests were unanswered".to_owned(), class }
}

/// What a deadline's worth of requests can pile up to, within reason.
fn outstanding_limit(per_second: u32) -> usize {
    (per_second as usize * DEADLINE.as_secs() as usize).clamp(64, 8192)
}

/// An answer later than this is a failure.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
const EXCERPT: usize = 800;

#[cfg(test)]
mod tests;
