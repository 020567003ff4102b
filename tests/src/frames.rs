//! HTTP/2 frames by hand (RFC 9113 §4, §6): a client that may break every rule.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// Frame types.
pub mod kind {
    #![allow(missing_docs, reason = "the names of RFC 9113 §6")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags.
pub mod flag {
    #![allow(missing_docs, reason = "the names of RFC 9113 §6")]
    pub const NONE: u8 = 0;
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    /// HEADERS of a request without content.
    pub const WHOLE: u8 = END_STREAM | END_HEADERS;
}

/// The error codes that tests meet (RFC 9113 §7).
pub mod code {
    #![allow(missing_docs, reason = "the names of RFC 9113 §7")]
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }

    /// The status of response HEADERS, from an encoder that was told to keep no table.
    pub fn status(&self) -> Option<u16> {
        if self.kind != kind::HEADERS {
            return None;
        }
        let block = match self.payload.as_slice() {
            // Dynamic table size updates come first.
            [first, rest @ ..] if first & 0xe0 == 0x20 => rest,
            block => block,
        };
        const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
        match block {
            [index @ 0x88..=0x8e, ..] => Some(STATIC[usize::from(index - 0x88)]),
            [0x48 | 0x08 | 0x18, length, text @ ..] => {
                let text = text.get(..usize::from(length & 0x7f))?;
                let digits = if length & 0x80 == 0 { text.to_vec() } else { digits(text) };
                std::str::from_utf8(&digits).ok()?.parse().ok()
            }
            _ => None,
        }
    }
}

/// Digits out of Huffman's code (RFC 7541, appendix B).
fn digits(coded: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = coded.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0, |sum, bit| sum << 1 | bit);
    let (mut at, mut digits) = (0, Vec::new());
    while digits.len() < 3 && at + 5 <= bits.len() {
        let short = number(&bits[at..at + 5]);
        if short < 3 {
            digits.push(b'0' + short);
            at += 5;
        } else if at + 6 <= bits.len() {
            digits.push(b'3' + number(&bits[at..at + 6]).wrapping_sub(0b01_1001));
            at += 6;
        } else {
            break;
        }
    }
    digits
}

/// A frame as it goes out, of the length that it has.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// HEADERS with these fields, each literal.
pub fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, &block(fields))
}

/// A request's pseudo-header fields, for `app.test`.
pub fn request<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "http"), (":authority", "app.test"), (":path", path)]
}

/// A GET, whole.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, flag::WHOLE, &request("GET", path))
}

/// A response's head: 200.
pub fn ok(stream: u32, flags: u8) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, &[0x88])
}

/// GOAWAY.
pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(kind::GOAWAY, flag::NONE, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// RST_STREAM.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, flag::NONE, stream, &code.to_be_bytes())
}

/// DATA.
pub fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, payload)
}

/// WINDOW_UPDATE.
pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, flag::NONE, stream, &increment.to_be_bytes())
}

/// SETTINGS.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(kind::SETTINGS, flag::NONE, 0, &payload)
}

/// A header block: literals without indexing and without Huffman's code (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        literal(0x00, name.as_bytes(), value.as_bytes(), &mut block);
    }
    block
}

/// One literal field; 0x40 as the first byte puts it into the table.
pub fn literal(first: u8, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    for text in [name, value] {
        integer(text.len(), out);
        out.extend_from_slice(text);
    }
}

/// An integer with a 7-bit prefix (RFC 7541 §5.1).
fn integer(value: usize, out: &mut Vec<u8>) {
    if value < 127 {
        return out.push(value as u8);
    }
    out.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// A connection.
#[derive(Debug)]
pub struct Raw {
    reader: Reader,
    writer: OwnedWriteHalf,
}

/// Its receiving half.
#[derive(Debug)]
pub struct Reader {
    socket: OwnedReadHalf,
    buffer: BytesMut,
}

impl Raw {
    /// Connects and sends the preface with SETTINGS that forbid the other side's table, and these.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(address: SocketAddr, values: &[(u16, u32)]) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        let _ = socket.set_nodelay(true);
        let (reader, writer) = socket.into_split();
        let mut raw = Self { reader: Reader { socket: reader, buffer: BytesMut::new() }, writer };
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        first.extend(settings(&[&[(1, 0)], values].concat()));
        first.extend(frame(kind::SETTINGS, flag::ACK, 0, &[]));
        raw.send(&first).await?;
        Ok(raw)
    }

    /// The server's side of a connection that was accepted: reads the preface, sends SETTINGS with these.
    ///
    /// # Errors
    /// When the other side does not speak HTTP/2.
    pub async fn accept(mut socket: TcpStream, values: &[(u16, u32)]) -> io::Result<Self> {
        let _ = socket.set_nodelay(true);
        let mut preface = [0; 24];
        socket.read_exact(&mut preface).await?;
        if !preface.starts_with(b"PRI * HTTP/2.0") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (reader, writer) = socket.into_split();
        let mut raw = Self { reader: Reader { socket: reader, buffer: BytesMut::new() }, writer };
        raw.send(&[settings(values), frame(kind::SETTINGS, flag::ACK, 0, &[])].concat()).await?;
        Ok(raw)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await
    }

    /// The next frame; `None` at the end, however that came.
    pub async fn next(&mut self) -> Option<Frame> {
        self.reader.next().await
    }

    /// The next frame of a stream that is not WINDOW_UPDATE.
    pub async fn next_of(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.stream == stream && frame.kind != kind::WINDOW_UPDATE {
                return Some(frame);
            }
        }
    }

    /// Every frame until the other side closes, or says nothing for a while.
    pub async fn rest(&mut self, patience: Duration) -> (Vec<Frame>, bool) {
        let mut frames = Vec::new();
        loop {
            match timeout(patience, self.next()).await {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, true),
                Err(_) => return (frames, false),
            }
        }
    }

    /// Both halves, for what sends and reads at once.
    pub fn split(self) -> (Reader, OwnedWriteHalf) {
        (self.reader, self.writer)
    }
}

impl Reader {
    /// The next frame; `None` at the end, however that came.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            self.buffer.reserve(64 * 1024);
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let [high, middle, low, kind, flags, one, two, three, four, ..] = *self.buffer else { return None };
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if self.buffer.len() < 9 + length {
            return None;
        }
        self.buffer.advance(9);
        let payload = self.buffer.split_to(length).to_vec();
        let stream = u32::from_be_bytes([one & 0x7f, two, three, four]);
        Some(Frame { kind, flags, stream, payload })
    }
}

/// What has become of a connection that was flooded.
#[derive(Clone, Debug, Default)]
pub struct Flooded {
    /// Pieces that were written before the other side closed.
    pub written: usize,
    /// The error code of its GOAWAY.
    pub goaway: Option<u32>,
    /// It closed.
    pub closed: bool,
}

/// Sends piece after piece until the other side closes or there are no more. `reads` also takes what comes back; else nobody does until
/// writing has ended.
pub async fn flood(raw: Raw, reads: bool, mut pieces: impl Iterator<Item = Vec<u8>>) -> Flooded {
    let (mut reader, mut writer) = raw.split();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let watching = async {
        if !reads {
            let _ = stopped.changed().await;
        }
        let mut goaway = None;
        loop {
            match timeout(PATIENCE, reader.next()).await {
                Ok(Some(frame)) => goaway = goaway.or(frame.code().filter(|_| frame.kind == kind::GOAWAY)),
                Ok(None) => return (goaway, true),
                Err(_) => return (goaway, false),
            }
        }
    };
    let writing = async {
        let mut written = 0;
        // A few at a time: the cut is then seen near where it happens.
        for piece in &mut pieces {
            match timeout(PATIENCE, writer.write_all(&piece)).await {
                Ok(Ok(())) => written += 1,
                _ => break,
            }
            if written % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
        stop.send_replace(true);
        written
    };
    let ((goaway, closed), written) = tokio::join!(watching, writing);
    Flooded { written, goaway, closed }
}

/// Longer than the proxy takes to cut.
const PATIENCE: Duration = Duration::from_secs(5);
