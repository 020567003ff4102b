//! A connection's byte stream under its [`Guard`]: every byte passes by, none is copied.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::guard::{Cut, Guard};
use crate::io::Gathered;

/// The stream that the h2 crate reads and writes.
#[derive(Debug)]
pub(crate) struct Guarded {
    io: Gathered,
    guard: Rc<Guard>,
    /// How long a header block may take.
    patience: Option<Duration>,
    /// Runs while a header block has begun and not ended.
    slow: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    /// Puts a stream under guard. A header block must end within `patience`.
    pub(crate) fn new(io: Gathered, guard: Rc<Guard>, patience: Option<Duration>) -> Self {
        Self { io, guard, patience, slow: None }
    }

    fn watch_header_block(&mut self, context: &mut Context<'_>) {
        let Some(patience) = self.patience.filter(|_| self.guard.is_within_header_block()) else {
            self.slow = None;
            return;
        };
        let slow = self.slow.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        if slow.as_mut().poll(context).is_ready() {
            self.guard.trip(Cut::SlowHeaderBlock);
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Whoever owns the connection has been told, and will not read on.
        if this.guard.cut().is_some() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.io).poll_read(context, buffer);
        if !matches!(read, Poll::Ready(Ok(()))) {
            if read.is_pending() {
                this.watch_header_block(context);
            }
            return read;
        }
        let came = &buffer.filled()[before..];
        if came.is_empty() {
            return read;
        }
        let passed = this.guard.received(came);
        buffer.set_filled(before + passed);
        // None at all would be the end of the stream.
        if passed == 0 { Poll::Pending } else { read }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.io).poll_write(context, data))?;
        if this.io.waiting() <= written {
            this.guard.flushed();
        }
        this.guard.sent(&data[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(context))?;
        self.guard.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
