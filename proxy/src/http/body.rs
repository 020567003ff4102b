//! An HTTP/1.1 connection's receiving side, shared between the server loop and the body of the request that is being served.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, Sleep};

use crate::http1::{BodyDecoder, Decoded, Framing, Limits};
use crate::io::{Io, give_buffer, take_buffer};
use crate::message::{BodyError, BodyStream, Frame};

/// The receiving side of a connection.
pub(super) struct Inbound {
    pub(super) io: Rc<Io>,
    state: RefCell<State>,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) awaits_continue: Cell<bool>,
    /// Reads of the current body so far: whether anything moves.
    reads: Cell<u32>,
    /// Looks now and then for a client that left while nobody reads its body.
    watch: RefCell<Option<Watch>>,
}

struct Watch {
    next: Pin<Box<Sleep>>,
    reads: u32,
}

struct State {
    buffer: BytesMut,
    /// The body of the current request, until it has been read to its end.
    decoder: Option<BodyDecoder>,
    failed: Option<BodyError>,
}

impl Inbound {
    pub(super) fn new(io: Rc<Io>, ahead: BytesMut) -> Rc<Self> {
        let state = State { buffer: ahead, decoder: None, failed: None };
        Rc::new(Self {
            io,
            state: RefCell::new(state),
            awaits_continue: Cell::new(false),
            reads: Cell::new(0),
            watch: RefCell::default(),
        })
    }

    /// Works on what has been received and not yet decoded.
    pub(super) fn with_buffer<T>(&self, work: impl FnOnce(&mut BytesMut) -> T) -> T {
        work(&mut self.state.borrow_mut().buffer)
    }

    /// Reads more; 0 is the end.
    pub(super) fn poll_read(&self, context: &mut Context<'_>, count: usize) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        state.buffer.reserve(count);
        self.io.poll_read(context, &mut state.buffer)
    }

    /// Waits for something to read, holding no buffer meanwhile; then reads it. 0 is the end.
    pub(super) fn poll_first(&self, context: &mut Context<'_>, count: usize) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        if state.buffer.is_empty() {
            give_buffer(std::mem::take(&mut state.buffer));
        }
        loop {
            ready!(self.io.poll_readable(context));
            if state.buffer.capacity() == 0 {
                state.buffer = take_buffer();
            }
            state.buffer.reserve(count);
            if let Poll::Ready(read) = self.io.poll_read(context, &mut state.buffer) {
                return Poll::Ready(read);
            }
            give_buffer(std::mem::take(&mut state.buffer));
        }
    }

    /// Begins the body of a request.
    pub(super) fn begin_body(self: &Rc<Self>, framing: Framing, limits: &Limits) -> RequestBody {
        self.state.borrow_mut().decoder = Some(BodyDecoder::new(framing, limits));
        RequestBody { inbound: self.clone() }
    }

    /// Whether the current request's body has been read to its end.
    pub(super) fn body_is_done(&self) -> bool {
        self.state.borrow().decoder.is_none()
    }

    /// Whether what is left of the current request's body may turn out to be no more than so many bytes; what is malformed has no end.
    pub(super) fn may_be_skipped(&self, most: usize) -> bool {
        let state = self.state.borrow();
        let left = state.decoder.as_ref().map_or(Some(0), BodyDecoder::remaining);
        state.failed.is_none() && left.is_none_or(|left| left <= most as u64)
    }

    /// Whether the client has gone, as far as can be seen while its request is being served. What it sends ahead is kept, up to a bound.
    pub(super) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.body_is_done() {
            return self.poll_left(context);
        }
        self.watch.take();
        loop {
            if self.state.borrow().buffer.len() >= READ_AHEAD {
                return Poll::Pending;
            }
            ready!(self.io.poll_readable(context));
            match ready!(self.poll_read(context, READ_AHEAD)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    /// Whether the client left in the middle of its body. Whoever reads the body sees it; but when the upstream takes no more, nobody
    /// reads, and the end waits behind what was sent before it.
    fn poll_left(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut watch = self.watch.borrow_mut();
        let watch = watch.get_or_insert_with(|| Watch {
            next: Box::pin(tokio::time::sleep(LOOK)),
            reads: self.reads.get(),
        });
        loop {
            ready!(watch.next.as_mut().poll(context));
            let stalled = std::mem::replace(&mut watch.reads, self.reads.get()) == self.reads.get();
            if stalled && self.io.has_hung_up() {
                return Poll::Ready(());
            }
            watch.next.as_mut().reset(Instant::now() + LOOK);
        }
    }

    /// The next piece of the current request's body.
    pub(super) fn poll_body(&self, context: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.awaits_continue.get() {
            ready!(self.poll_continue(context));
        }
        loop {
            let mut state = self.state.borrow_mut();
            let State { buffer, decoder, failed } = &mut *state;
            if let Some(error) = failed {
                return Poll::Ready(Some(Err(*error)));
            }
            let Some(active) = decoder else { return Poll::Ready(None) };
            match active.decode(buffer) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::Data(data)))),
                Ok(Decoded::Trailers(trailers)) => {
                    *decoder = None;
                    return Poll::Ready(Some(Ok(Frame::Trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    *decoder = None;
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {}
                Err(_) => *failed = Some(BodyError::Malformed),
            }
            if failed.is_some() {
                continue;
            }
            buffer.reserve(BODY_READ);
            match ready!(self.io.poll_read(context, buffer)) {
                Ok(1..) => self.reads.set(self.reads.get().wrapping_add(1)),
                Ok(0) | Err(_) => *failed = Some(BodyError::Reset),
            }
        }
    }

    /// Somebody wants the body: tell the client to send it (RFC 9110 §10.1.1).
    fn poll_continue(&self, context: &mut Context<'_>) -> Poll<()> {
        const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        // The send buffer of a connection that has nothing else to send takes 25 bytes; if not, the final response says all.
        let _ = ready!(self.io.poll_write(context, CONTINUE));
        self.awaits_continue.set(false);
        Poll::Ready(())
    }

    fn remaining(&self) -> Option<u64> {
        self.state.borrow().decoder.as_ref().map_or(Some(0), BodyDecoder::remaining)
    }
}

/// The body of the request that is being served.
pub(super) struct RequestBody {
    inbound: Rc<Inbound>,
}

impl BodyStream for RequestBody {
    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        self.inbound.poll_body(context)
    }

    fn remaining(&self) -> Option<u64> {
        self.inbound.remaining()
    }

    fn is_at_end(&self) -> bool {
        self.inbound.remaining() == Some(0)
    }
}

/// How often is looked whether a client is still there whose body nobody reads.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of following requests that are read while one is being served.
const READ_AHEAD: usize = 16 * 1024;
/// Bytes asked for within a body.
const BODY_READ: usize = 64 * 1024;
