//! The server side of HTTP: which version a connection speaks, then that version's loop; one call per request into `exchange`.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};

use crate::detect::{self, Protocol};
use crate::exchange::Downstream;
use crate::io::Io;
use crate::message::Version;
use crate::snapshot::{Codec, Http};
use crate::timer;
use crate::worker::Worker;

mod body;
mod bulk;
mod http1;
mod http2;
mod tunnel;

/// Serves one connection to its end.
/// `ahead` was read already.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    http: Arc<Http>,
    io: Io,
    mut ahead: BytesMut,
) {
    let io = Rc::new(io);
    let agreed = io.session(|session| session.alpn_protocol().map(|protocol| protocol == b"h2"));
    let protocol = match (http.codec, agreed) {
        // What was agreed on is spoken, whatever the bytes look like (C6); without an agreement there is HTTP/1.1.
        (Codec::Auto | Codec::Http1, Some(None | Some(false))) => Protocol::Http1,
        (Codec::Auto | Codec::Http2, Some(Some(true))) => Protocol::Http2,
        (Codec::Http1, Some(Some(true))) | (Codec::Http2, Some(Some(false))) => {
            tracing::debug!("the listener's alpn_protocols offer what its codec_type does not speak");
            return io.reset_on_close();
        }
        (Codec::Http1, None) => Protocol::Http1,
        (Codec::Http2, None | Some(None)) => Protocol::Http2,
        (Codec::Auto, None) => match first_bytes(&downstream, &http, &io, &mut ahead).await {
            Some(protocol) => protocol,
            None => return,
        },
    };
    let version = if protocol == Protocol::Http2 { Version::Http2 } else { Version::Http11 };
    let _open = worker.recorder.http_opened(&http.stat_prefix, version);
    let cut = cut(&downstream, worker.drain.patience());
    let serving = async {
        match protocol {
            // Boxed: connections of HTTP/1.1 have no room for it.
            Protocol::Http2 => {
                Box::pin(http2::serve(worker, downstream.clone(), &http, io.clone(), ahead)).await;
            }
            Protocol::Http1 | Protocol::Undecided => {
                http1::serve(worker, downstream.clone(), io.clone(), ahead).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = serving => {}
        // What is left of a response must not be taken for the whole of it.
        () = cut => io.reset_on_close(),
    }
}

/// Until a connection whose client is revoked, or whose filter chain is gone, has had its time: it was asked to end when that was found out.
/// A client that does not do so, and what has no end, a tunnel, must not outlive the rules that let it in.
async fn cut(downstream: &Downstream, patience: Duration) {
    // Boxed: connections have no room for what few of them ever need.
    let revoked = async {
        downstream.revoked().await;
        Box::pin(tokio::time::sleep(GRACE)).await;
    };
    let gone = async {
        downstream.gone().await;
        Box::pin(tokio::time::sleep(patience)).await;
    };
    tokio::select! {
        () = revoked => {}
        () = gone => {}
    }
}

/// Until a connection without a request is to be closed because the proxy shuts down, its filter chain is gone, or memory is scarce.
async fn last_call(downstream: &Downstream) {
    downstream.unwelcome().await;
    tokio::time::sleep(LAST_CALL).await;
}

/// Until so much time has passed; for ever where nothing bounds.
async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Reads until the bytes decide; `None` when the client has gone, was silent for too long, or we are shutting down.
async fn first_bytes(
    downstream: &Downstream,
    http: &Http,
    io: &Io,
    ahead: &mut BytesMut,
) -> Option<Protocol> {
    let deciding = pin!(async {
        loop {
            match detect::classify(ahead) {
                Protocol::Undecided => {}
                decided => return Some(decided),
            }
            ahead.reserve(FIRST_READ);
            let read = std::future::poll_fn(|context| io.poll_read(context, ahead)).await;
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
    });
    tokio::select! {
        biased;
        decided = timer::within(http.timeouts.headers, deciding) => decided.ok().flatten(),
        () = last_call(downstream) => None,
    }
}

/// Whether a response has no content whatever its head says (RFC 9110 §6.4.1): bytes sent all the same would be taken for the next response.
fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || *method == Method::HEAD
}

/// How long a connection without a request may still send one once it is asked to end: what is on its way when we close would
/// be lost.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How long exchanges of a revoked client may still take.
const GRACE: Duration = Duration::from_secs(2);

/// Bytes asked for first: most request heads fit.
const FIRST_READ: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_content_follows_what_has_none() {
        assert!(is_bodiless(&Method::GET, StatusCode::NO_CONTENT));
        assert!(is_bodiless(&Method::GET, StatusCode::NOT_MODIFIED));
        assert!(is_bodiless(&Method::HEAD, StatusCode::OK));
        assert!(!is_bodiless(&Method::GET, StatusCode::RESET_CONTENT));
    }
}
