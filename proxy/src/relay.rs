//! Copies bytes both ways between two connections, with half-close and bounded buffers.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::drain::{Phase, Watcher};
use crate::io::{Io, Pipe, give_buffer, take_buffer};
use crate::timer;

/// How long a connection may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Without a byte in either direction.
    pub(crate) idle: Option<Duration>,
    /// At all.
    pub(crate) longest: Option<Duration>,
}

/// What a copy came to.
#[derive(Debug)]
pub(crate) struct Copied<C> {
    /// Bytes from the client.
    pub(crate) received: u64,
    /// Bytes to the client.
    pub(crate) sent: u64,
    /// Why it ended.
    pub(crate) end: End<C>,
}

/// Why a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End<C> {
    /// Both directions came to their ends.
    Orderly,
    /// The client's connection failed: it was reset, say.
    ClientFailed,
    /// The upstream's did.
    UpstreamFailed,
    /// Nothing moved for too long.
    Silent,
    /// It lasted for too long.
    Old,
    /// The shutdown's deadline came.
    Shutdown,
    /// It was asked for.
    Cut(C),
}

/// Copies until both directions have ended, one side fails, a bound passes, the shutdown's deadline comes, or `cut` says to stop. What was
/// cut on one side is reset on the other, so that it does not look complete there. `ahead` was read from the client already.
pub(crate) async fn copy<C>(
    client: &Io,
    upstream: &Io,
    ahead: Bytes,
    bounds: Bounds,
    mut drain: Watcher,
    cut: impl Future<Output = C>,
) -> Copied<C> {
    let activity = Rc::new(Cell::new(Instant::now()));
    let mut up = Direction::new(client, upstream, ahead, activity.clone());
    let mut down = Direction::new(upstream, client, Bytes::new(), activity.clone());
    let copying = poll_fn(|context| {
        let up_done = up.poll(context, down.failed).is_ready();
        let down_done = down.poll(context, up.failed).is_ready();
        match (up.failed, down.failed) {
            (Some(Side::Source), _) => Poll::Ready(End::ClientFailed),
            (_, Some(Side::Source)) => Poll::Ready(End::UpstreamFailed),
            // Who takes nothing more may have said something before: that still goes to the other.
            (Some(Side::Sink), _) if down_done || !upstream.is_plain() => Poll::Ready(End::UpstreamFailed),
            (_, Some(Side::Sink)) if up_done || !client.is_plain() => Poll::Ready(End::ClientFailed),
            (None, None) if up_done && down_done => Poll::Ready(End::Orderly),
            _ => Poll::Pending,
        }
    });
    let end = tokio::select! {
        biased;
        cut = cut => End::Cut(cut),
        end = copying => end,
        () = timer::silence(bounds.idle, || activity.get()) => End::Silent,
        () = end(bounds.longest) => End::Old,
        () = drain.reached(Phase::Ended) => End::Shutdown,
    };
    match end {
        End::Orderly => {}
        End::ClientFailed | End::UpstreamFailed => {
            up.break_off();
            down.break_off();
        }
        End::Silent | End::Old | End::Shutdown | End::Cut(_) => {
            client.reset_on_close();
            upstream.reset_on_close();
        }
    }
    Copied { received: up.copied, sent: down.copied, end }
}

async fn end(longest: Option<Duration>) {
    match longest {
        Some(longest) => tokio::time::sleep(longest).await,
        None => std::future::pending().await,
    }
}

/// An end of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Where bytes come from.
    Source,
    /// Where they go.
    Sink,
}

struct Direction<'a> {
    from: &'a Io,
    to: &'a Io,
    buffer: BytesMut,
    /// Much comes at once: it goes through a pipe, if there is one to be had.
    bulk: bool,
    pipe: Option<Pipe>,
    ended: bool,
    shut: bool,
    failed: Option<Side>,
    copied: u64,
    activity: Rc<Cell<Instant>>,
}

impl<'a> Direction<'a> {
    fn new(from: &'a Io, to: &'a Io, ahead: Bytes, activity: Rc<Cell<Instant>>) -> Self {
        let buffer = BytesMut::from(ahead);
        Self {
            from,
            to,
            copied: buffer.len() as u64,
            buffer,
            bulk: false,
            pipe: None,
            ended: false,
            shut: false,
            failed: None,
            activity,
        }
    }

    /// Moves what there is. `other` says whether the other direction has failed: what comes to an end by that has no orderly one.
    fn poll(&mut self, context: &mut Context<'_>, other: Option<Side>) -> Poll<()> {
        if self.failed.is_some() {
            return Poll::Ready(());
        }
        loop {
            if ready!(self.poll_give(context)).is_err() {
                self.failed = Some(Side::Sink);
                return Poll::Ready(());
            }
            if self.ended {
                if other.is_none() && !std::mem::replace(&mut self.shut, true) {
                    self.to.shutdown_write();
                }
                return Poll::Ready(());
            }
            if self.from.poll_readable(context).is_pending() {
                // A silent direction holds neither buffer nor pipe.
                if self.buffer.capacity() > 0 {
                    give_buffer(std::mem::take(&mut self.buffer));
                }
                self.pipe = None;
                return Poll::Pending;
            }
            match self.poll_take(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(count)) => {
                    self.copied += count as u64;
                    self.activity.set(Instant::now());
                    self.bulk = count >= BULK;
                }
                // Nothing was taken: it is copied instead.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Unsupported => self.bulk = false,
                Poll::Ready(Err(_)) => {
                    self.failed = Some(Side::Source);
                    return Poll::Ready(());
                }
            }
        }
    }

    /// Sees to it that what was not all given does not look complete. A direction that had its end is left to it: a reset would take back
    /// what is still on its way.
    fn break_off(&self) {
        if self.shut {
            return;
        }
        if self.to.is_plain() {
            self.to.reset_on_close();
        } else {
            self.to.leave_open_ended();
        }
    }

    /// Sends everything that was taken.
    fn poll_give(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(pipe) = &mut self.pipe {
            ready!(pipe.poll_drain(context, self.to))?;
        }
        self.to.poll_flush_buffer(context, &mut self.buffer)
    }

    /// Takes what is there, into the pipe or into the buffer; both are empty.
    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.pipe = match self.pipe.take() {
            pipe @ Some(_) if self.bulk => pipe,
            None if self.bulk => Pipe::between(self.from, self.to),
            _ => None,
        };
        if let Some(pipe) = &mut self.pipe {
            return pipe.poll_fill(context, self.from, u64::MAX);
        }
        if self.buffer.capacity() == 0 {
            self.buffer = take_buffer();
        }
        self.buffer.reserve(COPY_BUFFER);
        self.from.poll_read(context, &mut self.buffer)
    }
}

/// Bytes copied at once where there is no pipe: the buffer's size is what bulk costs then.
const COPY_BUFFER: usize = 64 * 1024;
/// So much at once is bulk, which goes through a pipe.
const BULK: usize = 16 * 1024;
