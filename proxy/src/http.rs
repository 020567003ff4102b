//! The server side of HTTP: which version a connection speaks, then that version's loop; one call per request into `exchange`.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use crate::detect::{self, Protocol};
use crate::exchange::Downstream;
use crate::io::Io;
use crate::message::Version;
use crate::snapshot::{Codec, Http};
use crate::timer;
use crate::worker::Worker;

mod body;
mod http1;
mod http2;

/// Serves one connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, downstream: Rc<Downstream>, http: Arc<Http>, io: Io) {
    let io = Rc::new(io);
    let mut ahead = BytesMut::new();
    let protocol = match http.codec {
        Codec::Http1 => Protocol::Http1,
        Codec::Http2 => Protocol::Http2,
        Codec::Auto => match first_bytes(&worker, &http, &io, &mut ahead).await {
            Some(protocol) => protocol,
            None => return,
        },
    };
    let version = if protocol == Protocol::Http2 { Version::Http2 } else { Version::Http11 };
    let _open = worker.recorder.http_opened(&http.stat_prefix, version);
    match protocol {
        Protocol::Http2 => http2::serve(worker, downstream, &http, io, ahead).await,
        Protocol::Http1 | Protocol::Undecided => http1::serve(worker, downstream, io, ahead).await,
    }
}

/// Reads until the bytes decide; `None` when the client has gone, was silent for too long, or we are shutting down.
async fn first_bytes(worker: &Worker, http: &Http, io: &Io, ahead: &mut BytesMut) -> Option<Protocol> {
    let mut drain = worker.drain.clone();
    let deciding = async {
        loop {
            ahead.reserve(FIRST_READ);
            let read = std::future::poll_fn(|context| io.poll_read(context, ahead)).await;
            if !matches!(read, Ok(1..)) {
                return None;
            }
            match detect::classify(ahead) {
                Protocol::Undecided => {}
                decided => return Some(decided),
            }
        }
    };
    tokio::select! {
        biased;
        decided = timer::within(http.timeouts.headers, deciding) => decided.ok().flatten(),
        () = drain.reached(crate::drain::Phase::Draining) => None,
    }
}

/// Bytes asked for first: most request heads fit.
const FIRST_READ: usize = 4 * 1024;
