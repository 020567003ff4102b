//! A TLS session over a socket, driven without buffers of its own while nothing is under way: rustls' unbuffered interface decrypts in
//! the receive buffer and encrypts into one buffer that all of a worker's connections share.
//!
//! An idle connection holds the session's keys and nothing else. What the socket does not take, and what the caller has no room for,
//! waits here.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read as _};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CommonState, Error};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{give_buffer, take_buffer};

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
}

/// What one look at the received bytes came to.
enum Step {
    /// Something was decrypted or encoded: look again.
    Again,
    /// Nothing more without another read.
    NeedMore,
    /// The peer has said that it sends no more.
    Ended,
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
                Err(error) => {
                    self.send_alert();
                    return Poll::Ready(Err(invalid(error)));
                }
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
            self.incoming.reserve(HANDSHAKE_READ);
            match self.receive_now(look) {
                Ok(0) => return true,
                Ok(_) => self.undecided = true,
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
            while self.undecided {
                match self.step(&mut Nowhere) {
                    Ok(Step::Again) if self.left.is_empty() => {}
                    Ok(Step::NeedMore) => self.undecided = false,
                    _ => return true,
                }
            }
            self.release();
        }
    }

    /// Says that we send no more, and closes our direction.
    pub(crate) fn shutdown_write(&mut self) {
        if self.say_goodbye() {
            let _ = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
        }
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
        let step = self.step(into).map_err(|error| {
            self.send_alert();
            invalid(error)
        })?;
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

    fn step(&mut self, into: &mut dyn Sink) -> Result<Step, Error> {
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
            match written.map_err(invalid)? {
                Written::Bytes(count) => return Ok(count),
                Written::Again => {}
                Written::Ended if !self.ended => self.ended = true,
                Written::Ended => return Err(io::ErrorKind::BrokenPipe.into()),
                Written::Never => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
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
        for _ in 0..ALERTS {
            if !matches!(self.step(&mut Nowhere), Ok(Step::Again)) {
                break;
            }
        }
        let _ = self.stream.try_write(&self.outgoing);
    }

    /// Sends close_notify. False when there is still something before it that the socket has not taken.
    fn say_goodbye(&mut self) -> bool {
        if std::mem::replace(&mut self.shut, true) || self.state().is_handshaking() {
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

/// Where decrypted bytes go.
pub(crate) trait Sink {
    /// How many bytes there is room for.
    fn room(&self) -> usize;
    /// Takes bytes, at most as many as there is room for.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for BytesMut {
    fn room(&self) -> usize {
        self.capacity() - self.len()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }
}

impl Sink for tokio::io::ReadBuf<'_> {
    fn room(&self) -> usize {
        self.remaining()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }
}

/// Has no room: what is decrypted waits.
struct Nowhere;

impl Sink for Nowhere {
    fn room(&self) -> usize {
        0
    }

    fn put(&mut self, _: &[u8]) {}
}

/// What a look at the session may produce.
struct Outputs<'a> {
    into: &'a mut dyn Sink,
    left: &'a mut BytesMut,
    outgoing: &'a mut BytesMut,
}

impl Outputs<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let count = if self.left.is_empty() { bytes.len().min(self.into.room()) } else { 0 };
        self.into.put(&bytes[..count]);
        self.left.extend_from_slice(&bytes[count..]);
    }
}

fn take_status<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Outputs<'_>,
) -> (usize, Result<Step, Error>) {
    let mut discard = status.discard;
    let step = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Step::Again),
                Some(Err(error)) => break Err(error),
                Some(Ok(record)) => {
                    discard += record.discard;
                    out.put(record.payload);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(|room| data.encode(room), out.outgoing),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It waits in `outgoing`, which nothing overtakes.
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Ended),
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Step::NeedMore),
        // Early data is never offered and never accepted.
        Ok(_) => Err(Error::General("unexpected state of the session".into())),
    };
    (discard, step)
}

fn encode(
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    outgoing: &mut BytesMut,
) -> Result<Step, Error> {
    let start = outgoing.len();
    let mut room = HANDSHAKE_READ;
    loop {
        outgoing.resize(start + room, 0);
        match encode(&mut outgoing[start..]) {
            Ok(count) => {
                outgoing.truncate(start + count);
                return Ok(Step::Again);
            }
            Err(EncodeError::InsufficientSize(needed)) if needed.required_size > room => {
                room = needed.required_size;
            }
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}

enum Written {
    Bytes(usize),
    Again,
    Ended,
    /// The session takes nothing more.
    Never,
}

fn write_with<D>(
    status: UnbufferedStatus<'_, '_, D>,
    data: &[u8],
    cipher: &mut [u8],
    out: &mut Outputs<'_>,
) -> (usize, Result<Written, Error>) {
    let discard = status.discard;
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            let written = match traffic.encrypt(data, cipher) {
                Ok(count) => Ok(Written::Bytes(count)),
                Err(EncryptError::EncryptExhausted) => Err(Error::EncryptError),
                Err(error) => Err(Error::General(error.to_string())),
            };
            (discard, written)
        }
        state => {
            let (discard, step) = take_status(UnbufferedStatus { discard, state }, out);
            let written = step.map(|step| match step {
                Step::Again => Written::Again,
                Step::Ended => Written::Ended,
                Step::NeedMore => Written::Never,
            });
            (discard, written)
        }
    }
}

enum Goodbye {
    Bytes(usize),
    Again,
    Never,
}

fn goodbye<D>(
    status: UnbufferedStatus<'_, '_, D>,
    bytes: &mut [u8],
    out: &mut Outputs<'_>,
) -> (usize, Goodbye) {
    let discard = status.discard;
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            (discard, Goodbye::Bytes(traffic.queue_close_notify(bytes).unwrap_or(0)))
        }
        // Both sides have said so.
        Ok(ConnectionState::Closed) => (discard, Goodbye::Never),
        state => match take_status(UnbufferedStatus { discard, state }, out) {
            (discard, Ok(Step::Again | Step::Ended)) => (discard, Goodbye::Again),
            (discard, _) => (discard, Goodbye::Never),
        },
    }
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The pieces of a write, cut into records.
struct Source<'a> {
    pieces: &'a [IoSlice<'a>],
    offset: usize,
}

impl<'a> Source<'a> {
    /// The next record's plaintext: in place where one piece fills it, else small pieces put together in `plain`.
    fn next<'p>(&mut self, plain: &'p mut Vec<u8>) -> &'p [u8]
    where
        'a: 'p,
    {
        plain.clear();
        while let Some(piece) = self.pieces.first() {
            let rest = &piece[self.offset..];
            if plain.is_empty() && rest.len() >= RECORD {
                self.offset += RECORD;
                return &rest[..RECORD];
            }
            let count = rest.len().min(RECORD - plain.len());
            plain.extend_from_slice(&rest[..count]);
            self.offset += count;
            if self.offset == piece.len() {
                self.pieces = &self.pieces[1..];
                self.offset = 0;
            }
            if plain.len() == RECORD {
                break;
            }
        }
        plain
    }
}

/// Buffers of one worker for encrypting: used within one call, so one of each is enough.
struct Scratch {
    plain: Vec<u8>,
    cipher: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { plain: Vec::with_capacity(RECORD), cipher: vec![0; RECORDS * RECORD_ROOM] });
}

/// The most that a record carries (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;
/// A record, its own overhead, and an answer to a key update before it.
const RECORD_ROOM: usize = RECORD + 256;
/// Records encrypted for one write to the socket.
const RECORDS: usize = 4;
/// Bytes asked of the socket at once.
const READ: usize = 64 * 1024;
const HANDSHAKE_READ: usize = 4 * 1024;
/// Bytes of an unfinished handshake that are kept: its longest message is 64 KiB (rustls), in records.
const HANDSHAKE_BYTES: usize = 128 * 1024;
/// States that an error may still have to say.
const ALERTS: usize = 4;
/// States that may stand before the session is ready to say goodbye.
const GOODBYES: usize = 64;
/// Room for an encrypted alert.
const CLOSE_NOTIFY: usize = 128;
