//! Copies bytes both ways between two connections, with half-close and bounded buffers.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::drain::{Phase, Watcher};
use crate::io::{Io, give_buffer, take_buffer};
use crate::timer;

/// Copies until both directions have ended, the idle bound passes, or the shutdown's deadline comes.
/// `ahead` was read from the client already. Returns the bytes from and to the client.
pub(crate) async fn copy(
    client: &Io,
    upstream: &Io,
    ahead: Bytes,
    idle: Option<Duration>,
    mut drain: Watcher,
) -> (u64, u64) {
    let activity = Rc::new(Cell::new(Instant::now()));
    let mut up = Direction::new(client, upstream, ahead, activity.clone());
    let mut down = Direction::new(upstream, client, Bytes::new(), activity.clone());
    let copying = poll_fn(|context| {
        let (first, second) = (up.poll(context), down.poll(context));
        if up.failed || down.failed || (first.is_ready() && second.is_ready()) {
            return Poll::Ready(());
        }
        Poll::Pending
    });
    tokio::select! {
        biased;
        () = copying => {}
        () = timer::silence(idle, || activity.get()) => {}
        () = drain.reached(Phase::Ended) => {}
    }
    (up.copied, down.copied)
}

struct Direction<'a> {
    from: &'a Io,
    to: &'a Io,
    buffer: BytesMut,
    ended: bool,
    shut: bool,
    failed: bool,
    copied: u64,
    activity: Rc<Cell<Instant>>,
}

impl<'a> Direction<'a> {
    fn new(from: &'a Io, to: &'a Io, ahead: Bytes, activity: Rc<Cell<Instant>>) -> Self {
        let buffer = BytesMut::from(ahead);
        let copied = buffer.len() as u64;
        Self { from, to, buffer, ended: false, shut: false, failed: false, copied, activity }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.to.poll_flush_buffer(context, &mut self.buffer)).is_err() {
                self.failed = true;
                return Poll::Ready(());
            }
            if self.ended {
                if !std::mem::replace(&mut self.shut, true) {
                    self.to.shutdown_write();
                }
                return Poll::Ready(());
            }
            if self.from.poll_readable(context).is_pending() {
                // A silent direction holds no buffer.
                give_buffer(std::mem::take(&mut self.buffer));
                return Poll::Pending;
            }
            if self.buffer.capacity() == 0 {
                self.buffer = take_buffer();
            }
            self.buffer.reserve(COPY_BUFFER);
            match self.from.poll_read(context, &mut self.buffer) {
                Poll::Pending => continue,
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(count)) => {
                    self.copied += count as u64;
                    self.activity.set(Instant::now());
                }
                Poll::Ready(Err(_)) => {
                    self.failed = true;
                    return Poll::Ready(());
                }
            }
        }
    }
}

/// Bytes moved at once: below splice(2), the buffer's size is what bulk costs.
const COPY_BUFFER: usize = 64 * 1024;
