//! An HTTP/1.1 connection that has become a tunnel: what the client sends is the request's body, what comes back the response's.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::body::Inbound;
use crate::drain::{Phase, Watcher};
use crate::error::Reason;
use crate::exchange::Ending;
use crate::io::{Io, Outbox};
use crate::message::{Body, BodyError, BodyStream, Frame};

/// What the client sends, as it comes.
pub(super) struct Upload {
    inbound: Rc<Inbound>,
}

impl Upload {
    /// Everything from here to the connection's end. What is here already comes first.
    pub(super) fn new(inbound: &Rc<Inbound>) -> Self {
        Self { inbound: inbound.clone() }
    }
}

impl BodyStream for Upload {
    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        loop {
            let here = self.inbound.with_buffer(|buffer| buffer.split().freeze());
            if !here.is_empty() {
                return Poll::Ready(Some(Ok(Frame::Data(here))));
            }
            match ready!(self.inbound.poll_first(context, READ)) {
                Ok(1..) => {}
                Ok(0) => return Poll::Ready(None),
                Err(_) => return Poll::Ready(Some(Err(BodyError::Reset))),
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

/// Carries bytes until both directions have ended, nothing has moved in either for `idle`, or the shutdown's deadline has come.
/// Returns why it was cut, if it was.
pub(super) async fn run(
    io: &Io,
    out: &mut Outbox,
    body: Body,
    ending: &Ending,
    idle: Option<Duration>,
    mut drain: Watcher,
) -> Option<Reason> {
    let last = Cell::new(Instant::now());
    let mut passage = Passage { io, out, body, sent: &ending.sent, last: &last, ended: false };
    let silent = async {
        let Some(idle) = idle else { return std::future::pending().await };
        loop {
            let moved = last.get().max(ending.last_received().unwrap_or(last.get()));
            if moved + idle <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(moved + idle).await;
        }
    };
    tokio::select! {
        biased;
        cut = poll_fn(|context| passage.poll(context)) => cut,
        () = silent => Some(Reason::IdleTimeout),
        () = drain.reached(Phase::Ended) => Some(Reason::Draining),
    }
}

struct Passage<'a> {
    io: &'a Io,
    out: &'a mut Outbox,
    body: Body,
    sent: &'a Cell<u64>,
    /// When the last piece came from upstream.
    last: &'a Cell<Instant>,
    /// Upstream has ended its direction.
    ended: bool,
}

impl Passage<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Reason>> {
        loop {
            match self.out.poll_flush(context, self.io, &mut false) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Some(Reason::DownstreamClosed)),
                Poll::Pending => {
                    // The client may send all it has before it reads.
                    self.body.poll_feed(context);
                    return Poll::Pending;
                }
            }
            if self.ended {
                return self.body.poll_drained(context).map(|()| None);
            }
            match ready!(self.body.poll_frame(context)) {
                Some(Ok(Frame::Data(data))) => {
                    self.sent.set(self.sent.get() + data.len() as u64);
                    self.last.set(Instant::now());
                    self.out.set_piece(data, b"");
                }
                Some(Err(BodyError::Broken)) => return Poll::Ready(Some(Reason::DownstreamClosed)),
                Some(Err(_)) => return Poll::Ready(Some(Reason::UpstreamBodyReset)),
                Some(Ok(Frame::Trailers(_))) | None => {
                    self.ended = true;
                    self.io.shutdown_write();
                }
            }
        }
    }
}

/// Bytes asked for at once.
const READ: usize = 64 * 1024;
