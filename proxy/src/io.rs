//! A connection's byte stream, plain or [with TLS](secured). Everything works through `&self`: reading and writing may interleave
//! within one task without splitting.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

mod secured;
mod splice;

pub(crate) use secured::{Secured, Session};
pub(crate) use splice::Pipe;

/// A connection.
#[derive(Debug)]
pub(crate) struct Io {
    /// Borrowed for the length of one call each time.
    stream: RefCell<Stream>,
    /// The other end's address.
    pub(crate) peer: SocketAddr,
    /// Our address.
    pub(crate) local: SocketAddr,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<Secured>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(secured) => secured.stream(),
        }
    }
}

impl Io {
    /// Wraps a socket that is connected to `peer`, as whoever accepted or connected it knows.
    ///
    /// # Errors
    /// When the socket has no address of its own.
    pub(crate) fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        // On a socket for both families an IPv4 client has a mapped address: it is the same client.
        let (peer, local) = (canonical(peer), canonical(stream.local_addr()?));
        Ok(Self { stream: RefCell::new(Stream::Plain(stream)), peer, local })
    }

    /// Shakes hands in this session; `ahead` was read already. After an error the peer has been told why, as far as the socket took it.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] with the `rustls::Error` inside, or the socket's own.
    pub(crate) async fn secure(self, session: Session, ahead: BytesMut) -> io::Result<Self> {
        let Self { stream, peer, local } = self;
        let Stream::Plain(stream) = stream.into_inner() else {
            return Err(io::Error::other("TLS within TLS"));
        };
        let mut secured = Box::new(Secured::new(stream, session, ahead));
        std::future::poll_fn(|context| secured.poll_handshake(context)).await?;
        Ok(Self { stream: RefCell::new(Stream::Tls(secured)), peer, local })
    }

    /// Reads something of the TLS session; `None` on a plain connection.
    pub(crate) fn session<T>(&self, read: impl FnOnce(&rustls::CommonState) -> T) -> Option<T> {
        match &*self.stream.borrow() {
            Stream::Plain(_) => None,
            Stream::Tls(secured) => Some(read(secured.state())),
        }
    }

    /// Whether the socket's bytes are the connection's bytes: what moves them past this type (splice) may be used then alone.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(&*self.stream.borrow(), Stream::Plain(_))
    }

    /// Where the connection went before netfilter redirected it here; `None` when it was not.
    pub(crate) fn original_destination(&self) -> Option<SocketAddr> {
        let stream = self.stream.borrow();
        let Stream::Plain(stream) = &*stream else { return None };
        let socket = socket2::SockRef::from(stream);
        let original = if self.local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
        original.ok()?.as_socket().map(canonical)
    }

    /// Reads what is there, appending to the buffer (its spare capacity bounds the read); 0 is the end.
    pub(crate) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match &mut *self.stream.borrow_mut() {
            // tokio's own read knows that a short read has emptied the socket, and spares the system call that would say so.
            Stream::Plain(stream) => pin!(stream.read_buf(buffer)).poll(context),
            Stream::Tls(secured) => secured.poll_read(context, buffer),
        }
    }

    /// Until there may be something to read. Needs no buffer.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        match &*self.stream.borrow() {
            // An error is found by the read that follows.
            Stream::Plain(stream) => stream.poll_read_ready(context).map(drop),
            Stream::Tls(secured) => secured.poll_readable(context),
        }
    }

    /// Until the other end has said something, or closed. Where there is TLS, what a session says by itself is nothing.
    pub(crate) fn poll_spoken(&self, context: &mut Context<'_>) -> Poll<()> {
        match &mut *self.stream.borrow_mut() {
            Stream::Plain(stream) => stream.poll_read_ready(context).map(drop),
            Stream::Tls(secured) => secured.poll_spoken(context),
        }
    }

    /// Writes a part of the data.
    pub(crate) fn poll_write(&self, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let stream = &mut *self.stream.borrow_mut();
        let stream = match stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(secured) => return secured.poll_write(context, &[IoSlice::new(data)]),
        };
        loop {
            match stream.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(stream.poll_write_ready(context))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Writes a part of several pieces with one system call.
    pub(crate) fn poll_write_vectored(
        &self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = &mut *self.stream.borrow_mut();
        let stream = match stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(secured) => return secured.poll_write(context, pieces),
        };
        loop {
            match stream.try_write_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(stream.poll_write_ready(context))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Writes everything in the buffer, consuming it.
    pub(crate) fn poll_flush_buffer(
        &self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<()>> {
        while buffer.has_remaining() {
            let written = ready!(self.poll_write(context, buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            buffer.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the other end has closed, or sent something nobody asked for: a look at the socket without consuming.
    /// One system call.
    pub(crate) fn is_stale(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let stream = &mut *self.stream.borrow_mut();
        let stream = match stream {
            Stream::Plain(stream) => stream,
            // Data may be tickets, which the session has to see.
            Stream::Tls(secured) => return secured.is_stale(true),
        };
        let socket = socket2::SockRef::from(&*stream);
        match socket.peek(&mut byte) {
            // Data or end of stream: either way no fresh connection.
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Whether a closed or readable state is already known to the runtime. No system call.
    pub(crate) fn is_known_stale(&self) -> bool {
        let mut byte = [0_u8; 1];
        let stream = &mut *self.stream.borrow_mut();
        let stream = match stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(secured) => return secured.is_stale(false),
        };
        // `try_read` asks the kernel only when the runtime has seen an event, which an idle connection has no business having.
        match stream.try_read(&mut byte) {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Whether the other end has closed or reset, as far as the runtime knows, even if there is more to read before that. No system call.
    pub(crate) fn has_hung_up(&self) -> bool {
        let stream = self.stream.borrow();
        let ready = pin!(stream.socket().ready(Interest::READABLE));
        match ready.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ready) => ready.is_ok_and(|ready| ready.is_read_closed()),
            Poll::Pending => false,
        }
    }

    /// Closes our sending direction.
    pub(crate) fn shutdown_write(&self) {
        match &mut *self.stream.borrow_mut() {
            // Already closed by the other end is as good.
            Stream::Plain(stream) => {
                let _ = socket2::SockRef::from(&*stream).shutdown(std::net::Shutdown::Write);
            }
            Stream::Tls(secured) => secured.shutdown_write(),
        }
    }

    /// The end that follows must not be announced as an orderly one: TLS says nothing before the socket closes.
    pub(crate) fn leave_open_ended(&self) {
        if let Stream::Tls(secured) = &mut *self.stream.borrow_mut() {
            secured.leave_open_ended();
        }
    }

    /// Closing sends RST, so that the other end cannot mistake a cut response for a complete one.
    pub(crate) fn reset_on_close(&self) {
        match &mut *self.stream.borrow_mut() {
            Stream::Plain(stream) => {
                let _ = socket2::SockRef::from(&*stream).set_linger(Some(std::time::Duration::ZERO));
            }
            Stream::Tls(secured) => secured.cut(),
        }
    }
}

/// An IPv4 address that a socket for both families shows as an IPv6 one, as what it is.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

thread_local! {
    /// Receive buffers that no connection uses at the moment: idle connections hold none, busy ones do not allocate.
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// A receive buffer, empty.
pub(crate) fn take_buffer() -> BytesMut {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a receive buffer back; what it holds is lost.
pub(crate) fn give_buffer(mut buffer: BytesMut) {
    if buffer.capacity() > 0 && buffer.capacity() <= SPARE_BYTES {
        buffer.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_BUFFERS {
                spare.push(buffer);
            }
        });
    }
}

/// Gives up the buffers that no connection of this thread uses.
pub(crate) fn drop_spare_buffers() {
    SPARE.take();
}

const SPARE_BUFFERS: usize = 32;
const SPARE_BYTES: usize = 128 * 1024;

/// What is to leave on a connection: encoded bytes, then one piece of a body, then what ends the piece. One system call when the
/// socket takes it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Encoded bytes: heads, chunk headers.
    pub(crate) head: BytesMut,
    piece: Bytes,
    tail: &'static [u8],
}

impl Outbox {
    /// Adds a piece of body, with what ends it. Only when [`Self::has_piece`] is false.
    pub(crate) fn set_piece(&mut self, piece: Bytes, tail: &'static [u8]) {
        debug_assert!(!self.has_piece());
        (self.piece, self.tail) = (piece, tail);
    }

    /// Whether a piece of body waits to leave.
    pub(crate) fn has_piece(&self) -> bool {
        !self.piece.is_empty() || !self.tail.is_empty()
    }

    /// Whether nothing waits to leave.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && !self.has_piece()
    }

    /// Writes everything. `written` turns true with the first byte that leaves.
    pub(crate) fn poll_flush(
        &mut self,
        context: &mut Context<'_>,
        io: &Io,
        written: &mut bool,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let count = if self.has_piece() {
                let pieces = [IoSlice::new(&self.head), IoSlice::new(&self.piece), IoSlice::new(self.tail)];
                ready!(io.poll_write_vectored(context, &pieces))?
            } else {
                ready!(io.poll_write(context, &self.head))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written = true;
            self.consume(count);
        }
        Poll::Ready(Ok(()))
    }

    fn consume(&mut self, count: usize) {
        let head = count.min(self.head.len());
        self.head.advance(head);
        let piece = (count - head).min(self.piece.len());
        if piece == self.piece.len() {
            // What is empty still holds on to the whole buffer that it was cut from.
            self.piece = Bytes::new();
        } else {
            self.piece.advance(piece);
        }
        self.tail = &self.tail[count - head - piece..];
    }
}

/// The stream for codecs that want `AsyncRead + AsyncWrite` (h2): bytes read ahead come first, and writes of all streams that are
/// ready in one turn of the run queue are gathered into one system call.
#[derive(Debug)]
pub(crate) struct Gathered {
    io: Rc<Io>,
    ahead: BytesMut,
    pending: BytesMut,
    yielded: bool,
}

/// Gathered bytes past which a write no longer waits for company.
const GATHER_LIMIT: usize = 64 * 1024;

impl Gathered {
    /// Wraps a stream of which `ahead` was read already.
    pub(crate) fn new(io: Rc<Io>, ahead: BytesMut) -> Self {
        Self { io, ahead, pending: BytesMut::new(), yielded: false }
    }

    /// Bytes that were written and have not left.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }
}

impl AsyncRead for Gathered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead.is_empty() {
            return match &mut *this.io.stream.borrow_mut() {
                Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
                Stream::Tls(secured) => secured.poll_read(context, buffer).map_ok(drop),
            };
        }
        let count = this.ahead.len().min(buffer.remaining());
        buffer.put_slice(&this.ahead.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.pending.len() >= GATHER_LIMIT {
            let this = &mut *self;
            ready!(this.io.poll_flush_buffer(context, &mut this.pending))?;
        }
        self.pending.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.pending.is_empty() {
            return Poll::Ready(Ok(()));
        }
        // One turn of the run queue lets every other stream that is ready add its frames first.
        if !this.yielded && this.pending.len() < GATHER_LIMIT {
            this.yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(this.io.poll_flush_buffer(context, &mut this.pending))?;
        this.yielded = false;
        if this.pending.capacity() > GATHER_LIMIT {
            this.pending = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.io.poll_flush_buffer(context, &mut this.pending))?;
        this.io.shutdown_write();
        Poll::Ready(Ok(()))
    }
}
