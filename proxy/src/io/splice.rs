//! Moving bytes from one plain socket to another through a pipe, without their coming up into this program: splice(2).
//!
//! Pays for bulk only: it takes two system calls for each step, as copying does, but no copy. Linux; elsewhere there are no pipes.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;

use super::{Io, Stream};

/// A pipe between two sockets. What it holds when it is dropped is lost.
#[derive(Debug)]
pub(crate) struct Pipe {
    ends: Option<Ends>,
    /// Bytes in it.
    held: usize,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    /// Empty pipes that nobody uses at the moment.
    static SPARE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    /// Pipes in use. They hold descriptors and memory of the kernel, so there is a bound.
    static TAKEN: Cell<usize> = const { Cell::new(0) };
    /// The system does not let us: seen once, not tried again.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

impl Pipe {
    /// A pipe for bytes of `from` that are to go to `to`; `None` when one of them is not plain, there are many already, or the system
    /// has none: then the bytes have to be copied.
    pub(crate) fn between(from: &Io, to: &Io) -> Option<Self> {
        if !from.is_plain() || !to.is_plain() || REFUSED.get() || TAKEN.get() >= MOST_TAKEN {
            return None;
        }
        let ends = SPARE.with_borrow_mut(Vec::pop).map_or_else(new_ends, Ok).ok()?;
        TAKEN.set(TAKEN.get() + 1);
        Some(Self { ends: Some(ends), held: 0 })
    }

    /// Whether nothing waits in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Bytes that wait in it.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes at most `most` bytes of what is there; 0 is the end. Only when the pipe is empty.
    ///
    /// # Errors
    /// The socket's; [`io::ErrorKind::Unsupported`] when the system does not let us, and nothing was taken.
    pub(crate) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        from: &Io,
        most: u64,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_empty());
        let most = usize::try_from(most).unwrap_or(STEP).min(STEP);
        let stream = from.stream.borrow();
        let (Stream::Plain(stream), Some(ends)) = (&*stream, &self.ends) else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        loop {
            ready!(stream.poll_read_ready(context))?;
            // The pipe has room: to block can only mean that the socket is empty.
            let moved = stream.try_io(Interest::READABLE, || {
                Ok(splice(stream, None, &ends.write, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
            });
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_refusal(&error) => {
                    REFUSED.set(true);
                    return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
                }
                moved => {
                    self.held = *moved.as_ref().unwrap_or(&0);
                    return Poll::Ready(moved);
                }
            }
        }
    }

    /// Sends everything that it holds.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn poll_drain(&mut self, context: &mut Context<'_>, to: &Io) -> Poll<io::Result<()>> {
        let stream = to.stream.borrow();
        let (Stream::Plain(stream), Some(ends)) = (&*stream, &self.ends) else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        while self.held > 0 {
            let moved = stream.try_io(Interest::WRITABLE, || {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                Ok(splice(&ends.read, None, stream, None, self.held, flags)?)
            });
            match moved {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => self.held = self.held.saturating_sub(moved),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(stream.poll_write_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        TAKEN.set(TAKEN.get().saturating_sub(1));
        // Another's bytes must never come out of it.
        if let (Some(ends), true) = (self.ends.take(), self.is_empty()) {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < MOST_SPARE {
                    spare.push(ends);
                }
            });
        }
    }
}

fn new_ends() -> io::Result<Ends> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Less than asked for, where the user's share of pipe memory is used up, is still a pipe.
    let _ = fcntl_setpipe_size(&write, STEP);
    Ok(Ends { read, write })
}

/// What a filter of system calls or a strange socket says.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
}

/// Bytes moved at once, and a pipe's size.
const STEP: usize = 256 * 1024;
/// Pipes in use by one worker.
const MOST_TAKEN: usize = 128;
/// Pipes kept by one worker.
const MOST_SPARE: usize = 16;

#[cfg(test)]
mod tests;
