//! What rustls' states come to: bytes decrypted, bytes to send; and how a write is cut into records.

use std::cell::RefCell;
use std::io::{self, IoSlice};

use bytes::{BufMut, BytesMut};
use rustls::Error;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

/// What one look at the received bytes came to.
pub(super) enum Step {
    /// Something was decrypted or encoded: look again.
    Again,
    /// Nothing more without another read.
    NeedMore,
    /// The peer has said that it sends no more.
    Ended,
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
pub(super) struct Nowhere;

impl Sink for Nowhere {
    fn room(&self) -> usize {
        0
    }

    fn put(&mut self, _: &[u8]) {}
}

/// What a look at the session may produce.
pub(super) struct Outputs<'a> {
    pub(super) into: &'a mut dyn Sink,
    pub(super) left: &'a mut BytesMut,
    pub(super) outgoing: &'a mut BytesMut,
}

impl Outputs<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let count = if self.left.is_empty() { bytes.len().min(self.into.room()) } else { 0 };
        self.into.put(&bytes[..count]);
        self.left.extend_from_slice(&bytes[count..]);
    }
}

pub(super) fn take_status<D>(
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

pub(super) enum Written {
    Bytes(usize),
    Again,
    Ended,
    /// The session takes nothing more.
    Never,
}

pub(super) fn write_with<D>(
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

pub(super) enum Goodbye {
    Bytes(usize),
    Again,
    Never,
    Broken(Error),
}

pub(super) fn goodbye<D>(
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
            (discard, Ok(Step::NeedMore)) => (discard, Goodbye::Never),
            (discard, Err(error)) => (discard, Goodbye::Broken(error)),
        },
    }
}

pub(super) fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The pieces of a write, cut into records.
pub(super) struct Source<'a> {
    pub(super) pieces: &'a [IoSlice<'a>],
    pub(super) offset: usize,
}

impl<'a> Source<'a> {
    /// The next record's plaintext: in place where one piece fills it, else small pieces put together in `plain`.
    pub(super) fn next<'p>(&mut self, plain: &'p mut Vec<u8>) -> &'p [u8]
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
pub(super) struct Scratch {
    pub(super) plain: Vec<u8>,
    pub(super) cipher: Vec<u8>,
}

thread_local! {
    pub(super) static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { plain: Vec::with_capacity(RECORD), cipher: vec![0; RECORDS * RECORD_ROOM] });
}

/// The most that a record carries (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;
/// A record, its own overhead, and an answer to a key update before it.
pub(super) const RECORD_ROOM: usize = RECORD + 256;
/// Records encrypted for one write to the socket.
const RECORDS: usize = 4;
pub(super) const HANDSHAKE_READ: usize = 4 * 1024;
