//! The flight recorder: why the proxy answered with an error, kept in a bounded ring and explained in words (`/why/{id}`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::format::{rfc3339, sanitize};
use super::record::Record;
use crate::error::Reason;

mod advice;

/// Replies that are remembered, over all workers.
const CAPACITY: usize = 1_024;

/// Bytes of text kept from a request: notes must not keep a stranger's large head alive.
const TEXT_LIMIT: usize = 256;

/// Attempts kept with a note.
const ATTEMPT_LIMIT: usize = 8;

/// What is kept of a [`Record`]: bounded, and sharing no buffer with the request.
#[derive(Debug)]
pub(super) struct Note {
    id: u64,
    reason: Reason,
    status: Option<u16>,
    at: SystemTime,
    duration: Duration,
    method: String,
    authority: String,
    path: String,
    request_id: String,
    trace_id: Option<u128>,
    peer: SocketAddr,
    listener: Arc<str>,
    route: Option<Arc<str>>,
    origin: Option<Arc<str>>,
    cluster: Option<Arc<str>>,
    endpoint: Option<SocketAddr>,
    workload: Option<(Arc<str>, Arc<str>)>,
    attempts: u32,
    failures: Vec<(Option<SocketAddr>, Reason)>,
    detail: Option<String>,
}

impl Note {
    pub(super) fn of(record: &Record) -> Arc<Self> {
        let text = |bytes: &[u8]| sanitize(bytes, TEXT_LIMIT);
        Arc::new(Self {
            id: record.reason_id.unwrap_or_default(),
            reason: record.reason.unwrap_or(Reason::BadRequest),
            status: record.status.map(|status| status.as_u16()),
            at: record.start_wall,
            duration: record.duration,
            method: text(record.method.as_str().as_bytes()),
            authority: record
                .authority
                .as_ref()
                .map(|name| text(name.as_str().as_bytes()))
                .unwrap_or_default(),
            path: text(record.path.as_str().as_bytes()),
            request_id: record.request_id.as_ref().map(|id| text(id.as_bytes())).unwrap_or_default(),
            trace_id: record.trace_id,
            peer: record.peer,
            listener: record.listener.clone(),
            route: record.route.clone(),
            origin: record.origin.clone(),
            cluster: record.cluster.as_ref().map(|cluster| cluster.name.clone()),
            endpoint: record.endpoint,
            workload: record.workload.clone(),
            attempts: record.attempts,
            failures: record.attempt_failures.iter().copied().take(ATTEMPT_LIMIT).collect(),
            detail: record.detail.as_ref().map(|detail| text(detail.as_bytes())),
        })
    }

    fn explain(&self) -> Value {
        let next = advice::next_step(self.reason);
        json!({
            "id": reason_id_text(self.id),
            "reason": self.reason.label(),
            "response_flag": self.reason.flag(),
            "status": self.status,
            "summary": self.summary(),
            "next": next,
            "when": rfc3339(self.at),
            "duration_ms": self.duration.as_secs_f64() * 1_000.0,
            "request": {
                "method": self.method,
                "authority": self.authority,
                "path": self.path,
                "request_id": self.request_id,
                "trace_id": self.trace_id.map(|id| format!("{id:032x}")),
                "from": self.peer,
            },
            "where": {
                "listener": &*self.listener,
                "route": self.route.as_deref(),
                "route_object": self.origin.as_deref(),
                "cluster": self.cluster.as_deref(),
                "endpoint": self.endpoint,
                "workload": self.workload.as_ref().map(|(namespace, name)| format!("{namespace}/{name}")),
            },
            "attempts": {
                "made": self.attempts,
                "failed": self.failures.iter().map(|(address, reason)| json!({
                    "endpoint": address,
                    "reason": reason.label(),
                    "met": advice::what(*reason),
                })).collect::<Vec<_>>(),
            },
            "detail": self.detail,
        })
    }

    fn brief(&self) -> Value {
        json!({
            "id": reason_id_text(self.id),
            "reason": self.reason.label(),
            "when": rfc3339(self.at),
            "summary": self.summary(),
        })
    }

    /// The whole story in a few sentences.
    fn summary(&self) -> String {
        let mut text =
            format!("{} {}{} came in at listener {}", self.method, self.authority, self.path, self.listener);
        match (&self.route, &self.origin) {
            (Some(route), Some(origin)) => text += &format!(", matched route {route} ({origin})"),
            (Some(route), None) => text += &format!(", matched route {route}"),
            (None, _) => text += ", matched no route",
        }
        if let Some(cluster) = &self.cluster {
            text += &format!(" and went to cluster {cluster}");
        }
        // One failure that is the reason itself needs no second sentence.
        let mut failures = &self.failures[..];
        if let [(Some(address), reason)] = failures
            && *reason == self.reason
        {
            text += &format!(", endpoint {address}");
            failures = &[];
        }
        text += &format!(". {}.", advice::what(self.reason));
        for (address, reason) in failures {
            let place = address.map_or_else(|| "no endpoint".to_owned(), |address| address.to_string());
            text += &format!(" At {place}: {}.", advice::what(*reason));
        }
        if let Some(detail) = &self.detail {
            text += &format!(" The error was: {detail}.");
        }
        if let Some(status) = self.status {
            text += &format!(" The answer was {status}.");
        }
        text
    }
}

/// The ring. Its lock is touched only when an error reply is made, and by `/why`.
#[derive(Debug)]
pub(super) struct FlightRecorder {
    next: AtomicU64,
    ring: Mutex<VecDeque<Arc<Note>>>,
}

impl FlightRecorder {
    /// `start` makes ids differ between processes: an id from one proxy is not found in another.
    pub(super) fn new(start: u64) -> Self {
        // 40 bits: eight characters, with room to count for years.
        Self { next: AtomicU64::new(start >> 24), ring: Mutex::default() }
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps the note; says whether an older one had to go.
    pub(super) fn remember(&self, note: Arc<Note>) -> bool {
        let mut ring = self.lock();
        let oldest = if ring.len() >= CAPACITY { ring.pop_front() } else { None };
        ring.push_back(note);
        drop(ring);
        oldest.is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    // Stories are told outside the lock: a worker may be waiting to add one.

    pub(super) fn latest(&self, count: usize) -> Vec<Value> {
        let notes: Vec<_> = self.lock().iter().rev().take(count).cloned().collect();
        notes.iter().map(|note| note.brief()).collect()
    }

    pub(super) fn why(&self, id: u64) -> Option<Value> {
        let note = self.lock().iter().rev().find(|note| note.id == id).cloned();
        note.map(|note| note.explain())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Note>>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Crockford's alphabet: no letter looks like a digit.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// An id as it stands in `x-sidegate-reason` and `/why/{id}`.
pub(crate) fn reason_id_text(mut id: u64) -> String {
    let mut text = Vec::with_capacity(13);
    loop {
        text.push(ALPHABET[(id % 32) as usize]);
        id /= 32;
        if id == 0 {
            break;
        }
    }
    text.reverse();
    text.into_iter().map(char::from).collect()
}

/// The id that a text stands for, forgiving about case and look-alikes.
pub(crate) fn parse_reason_id(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 13 {
        return None;
    }
    text.bytes().try_fold(0_u64, |id, byte| {
        let byte = match byte.to_ascii_lowercase() {
            b'o' => b'0',
            b'i' | b'l' => b'1',
            other => other,
        };
        let digit = ALPHABET.iter().position(|letter| *letter == byte)?;
        id.checked_mul(32)?.checked_add(digit as u64)
    })
}
