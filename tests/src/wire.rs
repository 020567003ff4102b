//! HTTP/1.1 bytes on a socket: enough to play either side, lenient where a proxy must be strict.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::message::{Call, Fields, values};

/// A socket and what was read ahead.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    buffer: BytesMut,
    /// Everything that came, where somebody wants to read it again.
    tape: Option<Tape>,
}

/// What came over one connection.
pub(crate) type Tape = Arc<Mutex<Vec<u8>>>;

/// A start line and headers.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) start: String,
    pub(crate) fields: Fields,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    None,
    Length(usize),
    Chunked,
    Close,
}

impl Wire {
    pub(crate) fn new(socket: TcpStream) -> Self {
        // Without it, small writes wait for acknowledgements and every scenario is slow.
        let _ = socket.set_nodelay(true);
        Self { socket, buffer: BytesMut::new(), tape: None }
    }

    pub(crate) fn recorded(socket: TcpStream, tape: Option<Tape>) -> Self {
        Self { tape, ..Self::new(socket) }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// False at the end of the stream.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(64 * 1024);
        let before = self.buffer.len();
        let read = self.socket.read_buf(&mut self.buffer).await?;
        if let Some(tape) = &self.tape {
            tape.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&self.buffer[before..]);
        }
        Ok(read > 0)
    }

    /// Everything until the other side ends.
    pub(crate) async fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill().await? {}
        Ok(self.buffer.split().to_vec())
    }

    /// At least so many bytes.
    pub(crate) async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.more().await?;
        }
        Ok(self.buffer.split_to(count).to_vec())
    }

    /// Resolves when the other side has gone. What it still sends is kept for later.
    pub(crate) async fn gone(&mut self) {
        while self.fill().await.unwrap_or(false) {}
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.fill().await? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut looked = 0;
        loop {
            if let Some(end) = self.buffer[looked..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(looked + end + 1);
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                return Ok(line.iter().map(|byte| char::from(*byte)).collect());
            }
            looked = self.buffer.len();
            self.more().await?;
        }
    }

    /// None when the stream ends, or breaks, before anything came.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
        if self.buffer.is_empty() && !self.fill().await.unwrap_or(false) {
            return Ok(None);
        }
        let start = self.line().await?;
        Ok(Some(Head { start, fields: self.fields().await? }))
    }

    async fn fields(&mut self) -> io::Result<Fields> {
        let mut fields = Fields::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| io::Error::other(format!("no field: {line:?}")))?;
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    /// The body goes into `into` as it comes, so that what came before an error is known too.
    pub(crate) async fn body(&mut self, end: End, into: &mut Vec<u8>) -> io::Result<Fields> {
        match end {
            End::None => {}
            End::Length(length) => self.take(length, into).await?,
            End::Close => into.extend(self.rest().await?),
            End::Chunked => loop {
                let line = self.line().await?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
                if size == 0 {
                    return self.fields().await;
                }
                self.take(size, into).await?;
                self.line().await?;
            },
        }
        Ok(Fields::new())
    }

    async fn take(&mut self, count: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            if self.buffer.is_empty() {
                self.more().await?;
            }
            let piece = left.min(self.buffer.len());
            into.extend_from_slice(&self.buffer[..piece]);
            self.buffer.advance(piece);
            left -= piece;
        }
        Ok(())
    }
}

/// What a message's headers say of its body; `otherwise` when they say nothing.
pub(crate) fn end_of(fields: &Fields, otherwise: End) -> End {
    if !values(fields, "transfer-encoding").is_empty() {
        return End::Chunked;
    }
    let length = values(fields, "content-length").first().and_then(|text| text.parse().ok());
    length.map_or(otherwise, End::Length)
}

/// Appends a body in chunks, with its trailers.
pub(crate) fn push_chunked(body: &[u8], trailers: &Fields, out: &mut Vec<u8>) {
    for piece in body.chunks(CHUNK) {
        out.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        out.extend_from_slice(piece);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n");
    push_fields(trailers, out);
    out.extend(b"\r\n");
}

pub(crate) fn push_fields(fields: &Fields, out: &mut Vec<u8>) {
    for (name, value) in fields {
        out.extend(format!("{name}: {value}\r\n").into_bytes());
    }
}

/// A request as it goes over HTTP/1.1.
pub(crate) fn encode(call: &Call) -> Vec<u8> {
    let mut out = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", call.method, call.target, call.host).into_bytes();
    push_fields(&call.headers, &mut out);
    let body = call.body.as_deref();
    if call.chunked {
        out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        push_chunked(body.unwrap_or_default(), &call.trailers, &mut out);
    } else {
        if let Some(body) = body {
            out.extend(format!("Content-Length: {}\r\n", body.len()).into_bytes());
        }
        out.extend(b"\r\n");
        out.extend_from_slice(body.unwrap_or_default());
    }
    out
}

const CHUNK: usize = 16 * 1024;
