//! A TLS session over a socket, driven without buffers of its own while nothing is under way: rustls' unbuffered interface decrypts in
//! the receive buffer and encrypts into one buffer that all of a worker's connections share.
//!
//! An idle connection holds the session's keys and nothing else. What the socket does not take, and what the caller has no room for,
//! waits here.

use std::io::{self, IoSlice, Read as _};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, Error};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{give_buffer, take_buffer};

mod records;

pub(crate) use records::Sink;

use records::{
    Goodbye, HANDSHAKE_READ, Nowhere, Outputs, RECORD_ROOM, SCRATCH, Scratch, Source, Step, Written, goodbye,
    invalid, take_status, write_with,
};

/// Either side's session.
pub(crate) enum Session {
    /// We are the server.
    Server(UnbufferedServerConnection),
    /// We are the client.
    Client(UnbufferedClientConnection),
}

/// A socket with a TLS session.
pub(crate) struct Secured {
    stream: TcpStream,
    session: Session,
    /// Received and not yet decrypted; given back when empty.
    incoming: BytesMut,
    /// Whether `incoming` may hold another whole record.
    undecided: bool,
    /// Decrypted, and the caller had no room for it.
    left: BytesMut,
    /// Encrypted, and the socket did not take it.
    outgoing: BytesMut,
    /// Bytes of the caller's that are in `outgoing`: told to the caller when they have left.
    committed: usize,
    /// The peer has said that it sends no more.
    ended: bool,
    /// We have said so, or must not.
    shut: bool,
    /// What the peer sent is no TLS, or not what may come here: the session must not look at it again.
    broken: Option<Error>,
}

impl std::fmt::Debug for Secured {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Secured").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Secured {
    /// A session that has yet to shake hands; `ahead` was read from the socket already.
    pub(crate) fn new(stream: TcpStream, session: Session, ahead: BytesMut) -> Self {
        Self {
            stream,
            session,
            undecided: true,
            incoming: ahead,
            left: BytesMut::new(),
            outgoing: BytesMut::new(),
            committed: 0,
            ended: false,
            shut: false,
            broken: None,
        }
    }

    /// The socket underneath.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What the handshake came to.
    pub(crate) fn state(&self) -> &CommonState {
        match &self.session {
            Session::Server(session) => session,
            Session::Client(session) => session,
        }
    }

    /// Shakes hands. After an error the peer has been told why, as far as the socket took it.
    pub(crate) fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.step(&mut Nowhere) {
                Ok(Step::Again) if self.state().is_handshaking() => continue,
                Ok(Step::Again) => {}
                Ok(Step::NeedMore) => self.undecided = false,
                Ok(Step::Ended) => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                Err(error) => return Poll::Ready(Err(invalid(error))),
            }
            ready!(self.poll_outgoing(context))?;
            if !self.state().is_handshaking() {
                self.undecided = true;
                return Poll::Ready(Ok(()));
            }
            if self.incoming.len() > HANDSHAKE_BYTES {
                return Poll::Ready(Err(invalid(Error::General("the handshake is too long".into()))));
            }
            if ready!(self.poll_receive(context, HANDSHAKE_READ))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Appends what is decrypted, as much as there is room for. 0 is the end as the peer announced it; an end without announcement is an
    /// error, since anybody could have made it.
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut dyn Sink,
    ) -> Poll<io::Result<usize>> {
        let mut total = self.take_left(into);
        loop {
            while self.undecided && into.room() > 0 {
                let before = into.room();
                match self.decrypt(into)? {
                    Step::Again => total += before - into.room(),
                    Step::NeedMore => self.undecided = false,
                    Step::Ended => break,
                }
            }
            if !self.outgoing.is_empty() && self.committed == 0 {
                // An answer to the peer's key update. What does not leave now leaves with the next write.
                let _ = self.poll_outgoing(context);
            }
            if total > 0 || into.room() == 0 {
                return Poll::Ready(Ok(total));
            }
            if self.ended {
                return Poll::Ready(Ok(0));
            }
            match ready!(self.poll_receive(context, READ)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Until a read may find something.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.undecided || self.ended || !self.left.is_empty() {
            return Poll::Ready(());
        }
        self.stream.poll_read_ready(context).map(drop)
    }

    /// Encrypts a part of the pieces and sends it. Ready once what was taken has all left: until then the caller comes back with the
    /// same bytes in front.
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.committed == 0 {
            ready!(self.poll_outgoing(context))?;
            if self.shut {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.committed = self.encrypt(pieces)?;
        }
        ready!(self.poll_outgoing(context))?;
        Poll::Ready(Ok(std::mem::take(&mut self.committed)))
    }

    /// Whether the peer has closed, or sent anything but what a session sends by itself (tickets). `look` asks the socket; otherwise the
    /// runtime's knowledge decides.
    pub(crate) fn is_stale(&mut self, look: bool) -> bool {
        if self.ended || !self.left.is_empty() {
            return true;
        }
        loop {
            // What came with the last read may not have been looked at: the reader had no room for more.
            while self.undecided {
                match self.step(&mut Nowhere) {
                    Ok(Step::Again) if self.left.is_empty() => {}
                    Ok(Step::NeedMore) => self.undecided = false,
                    _ => return true,
                }
            }
            if self.incoming.capacity() == 0 {
                self.incoming = take_buffer();
            }
            self.incoming.reserve(HANDSHAKE_READ);
            match self.receive_now(look) {
                Ok(0) => return true,
                Ok(_) => self.undecided = true,
                Err(error) => {
                    self.release();
                    return error.kind() != io::ErrorKind::WouldBlock;
                }
            }
        }
    }

    /// Until the peer has said something of its own, or closed; what a session says by itself is none of it.
    pub(crate) fn poll_spoken(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.is_stale(false) {
                return Poll::Ready(());
            }
            // The last word of the handshake may have to leave yet.
            if let Poll::Ready(Err(_)) = self.poll_outgoing(context) {
                return Poll::Ready(());
            }
            if ready!(self.stream.poll_read_ready(context)).is_err() {
                return Poll::Ready(());
            }
        }
    }

    /// Says that we send no more, and closes our direction.
    pub(crate) fn shutdown_write(&mut self) {
        if self.say_goodbye() {
            let _ = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
        }
    }

    /// The end that follows must not be announced as an orderly one.
    pub(crate) fn leave_open_ended(&mut self) {
        self.shut = true;
    }

    /// The end that follows must not look like an orderly one.
    pub(crate) fn cut(&mut self) {
        self.shut = true;
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
    }

    fn take_left(&mut self, into: &mut dyn Sink) -> usize {
        let count = self.left.len().min(into.room());
        if count > 0 {
            into.put(&self.left[..count]);
            self.left.advance(count);
            if self.left.is_empty() {
                self.left = BytesMut::new();
            }
        }
        count
    }

    fn decrypt(&mut self, into: &mut dyn Sink) -> io::Result<Step> {
        let step = self.step(into).map_err(invalid)?;
        if matches!(step, Step::NeedMore) {
            self.release();
        }
        Ok(step)
    }

    /// A connection that waits for its peer holds no buffer.
    fn release(&mut self) {
        if self.incoming.is_empty() && self.incoming.capacity() > 0 {
            give_buffer(std::mem::take(&mut self.incoming));
        }
    }

    fn poll_receive(&mut self, context: &mut Context<'_>, count: usize) -> Poll<io::Result<usize>> {
        if self.incoming.capacity() == 0 {
            self.incoming = take_buffer();
        }
        self.incoming.reserve(count);
        let received = pin!(self.stream.read_buf(&mut self.incoming)).poll(context);
        if received.is_pending() {
            self.release();
        }
        self.undecided |= matches!(received, Poll::Ready(Ok(1..)));
        received
    }

    fn receive_now(&mut self, look: bool) -> io::Result<usize> {
        if !look {
            return self.stream.try_read_buf(&mut self.incoming);
        }
        // Past the runtime, which may not have been told yet.
        let mut bytes = [0; 1024];
        let count = (&*socket2::SockRef::from(&self.stream)).read(&mut bytes)?;
        self.incoming.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// Lets the session look at what has come. After an error the peer has been told why, as far as the socket took it.
    fn step(&mut self, into: &mut dyn Sink) -> Result<Step, Error> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let step = self.advance(into);
        step.inspect_err(|error| {
            self.broken = Some(error.clone());
            self.send_alert();
        })
    }

    fn advance(&mut self, into: &mut dyn Sink) -> Result<Step, Error> {
        let Self { session, incoming, left, outgoing, .. } = self;
        let out = &mut Outputs { into, left, outgoing };
        let (discard, step) = match session {
            Session::Server(session) => take_status(session.process_tls_records(incoming), out),
            Session::Client(session) => take_status(session.process_tls_records(incoming), out),
        };
        incoming.advance(discard.min(incoming.len()));
        if matches!(step, Ok(Step::Ended)) {
            self.ended = true;
            self.undecided = false;
        }
        step
    }

    /// Encrypts from the front of the pieces and sends what the socket takes at once. Returns how much of the pieces that was.
    fn encrypt(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { plain, cipher } = scratch;
            let mut source = Source { pieces, offset: 0 };
            let (mut taken, mut filled) = (0, 0);
            while filled + RECORD_ROOM <= cipher.len() {
                let data = source.next(plain);
                if data.is_empty() {
                    break;
                }
                filled += self.encrypt_record(data, &mut cipher[filled..])?;
                taken += data.len();
            }
            self.send(&cipher[..filled])?;
            Ok(taken)
        })
    }

    /// The session always sees the bytes that it has not consumed: it remembers where in them its unfinished messages are.
    fn encrypt_record(&mut self, data: &[u8], cipher: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.broken.is_some() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let Self { session, incoming, left, outgoing, .. } = self;
            let out = &mut Outputs { into: &mut Nowhere, left, outgoing };
            let (discard, written) = match session {
                Session::Server(session) => {
                    write_with(session.process_tls_records(incoming), data, cipher, out)
                }
                Session::Client(session) => {
                    write_with(session.process_tls_records(incoming), data, cipher, out)
                }
            };
            incoming.advance(discard.min(incoming.len()));
            match written.map_err(|error| self.give_up(error))? {
                Written::Bytes(count) => return Ok(count),
                Written::Again => {}
                Written::Ended if !self.ended => self.ended = true,
                Written::Ended => return Err(io::ErrorKind::BrokenPipe.into()),
                Written::Never => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    fn give_up(&mut self, error: Error) -> io::Error {
        self.broken.get_or_insert_with(|| error.clone());
        self.send_alert();
        invalid(error)
    }

    /// Sends what the socket takes; the rest waits.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = if self.outgoing.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            }
        } else {
            0
        };
        if sent < bytes.len() {
            self.outgoing.extend_from_slice(&bytes[sent..]);
        }
        Ok(())
    }

    fn poll_outgoing(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match self.stream.try_write(&self.outgoing) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.outgoing.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_write_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.outgoing.capacity() > 0 {
            self.outgoing = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// After an error the session has an alert to send: once, and only if the socket takes it.
    fn send_alert(&mut self) {
        self.shut = true;
        // No further than that: it would stumble over the same bytes again.
        while self.state().wants_write() && matches!(self.advance(&mut Nowhere), Ok(Step::Again)) {}
        let _ = self.stream.try_write(&self.outgoing);
    }

    /// Sends close_notify. False when there is still something before it that the socket has not taken.
    fn say_goodbye(&mut self) -> bool {
        if std::mem::replace(&mut self.shut, true) || self.broken.is_some() || self.state().is_handshaking() {
            return true;
        }
        if !self.outgoing.is_empty() || self.committed > 0 {
            return false;
        }
        let mut bytes = [0; CLOSE_NOTIFY];
        // Data that nobody will read may stand before the session is ready to say it.
        for _ in 0..GOODBYES {
            let Self { session, incoming, left, outgoing, .. } = self;
            let out = &mut Outputs { into: &mut Nowhere, left, outgoing };
            let (discard, said) = match session {
                Session::Server(session) => goodbye(session.process_tls_records(incoming), &mut bytes, out),
                Session::Client(session) => goodbye(session.process_tls_records(incoming), &mut bytes, out),
            };
            incoming.advance(discard.min(incoming.len()));
            match said {
                Goodbye::Bytes(count) => {
                    return self.send(&bytes[..count]).is_ok() && self.outgoing.is_empty();
                }
                Goodbye::Again => {}
                Goodbye::Never => return true,
                Goodbye::Broken(error) => {
                    self.give_up(error);
                    return true;
                }
            }
        }
        true
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.say_goodbye();
        self.release();
    }
}

/// Bytes asked of the socket at once.
const READ: usize = 64 * 1024;
/// Bytes of an unfinished handshake that are kept: its longest message is 64 KiB (rustls), in records.
const HANDSHAKE_BYTES: usize = 128 * 1024;
/// States that may stand before the session is ready to say goodbye.
const GOODBYES: usize = 64;
/// Room for an encrypted alert.
const CLOSE_NOTIFY: usize = 128;

#[cfg(test)]
mod tests;
