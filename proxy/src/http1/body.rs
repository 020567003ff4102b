//! Content after a head: by length, in chunks, or until the end of input.

use bytes::{Buf, Bytes, BytesMut};

use super::fault::{Fault, ParseError};
use super::field;
use super::section::Section;
use super::{Framing, Limits};
use crate::message::Headers;

/// Bytes of chunk extensions over a whole message; they are never passed on.
const MAX_EXTENSION_BYTES: usize = 16 * 1024;

/// Digits of a chunk size: what fits 64 bits.
const MAX_SIZE_DIGITS: u8 = 16;

/// Takes a message's content out of the buffer, piece by piece, without copying it.
#[derive(Debug)]
pub(crate) struct BodyDecoder {
    state: State,
    limits: Limits,
    extension_bytes: usize,
    of_response: bool,
}

/// A piece of content.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// Content; never empty.
    Data(Bytes),
    /// Trailer fields, those that may not come there left out; never empty. `End` follows.
    Trailers(Headers),
    /// The message is complete.
    End,
    /// The buffer holds no further piece.
    NeedMore,
}

#[derive(Debug)]
enum State {
    Length(u64),
    UntilClose,
    Size {
        digits: u8,
        size: u64,
    },
    /// White space after the size: only an extension may follow.
    Space(u64),
    Extension(u64),
    /// After the CR of the size's line.
    SizeFeed(u64),
    Chunk(u64),
    /// After the chunk's last byte.
    ChunkReturn,
    /// After the CR behind the chunk.
    ChunkFeed,
    Trailers(Section),
    Done,
}

const NEXT_SIZE: State = State::Size { digits: 0, size: 0 };

impl BodyDecoder {
    /// A decoder for the content of a request.
    pub(crate) fn new(framing: Framing, limits: &Limits) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => NEXT_SIZE,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, limits: *limits, extension_bytes: 0, of_response: false }
    }

    /// The same for a response: its errors blame the upstream.
    pub(crate) fn for_response(framing: Framing, limits: &Limits) -> Self {
        Self { of_response: true, ..Self::new(framing, limits) }
    }

    /// Takes the next piece off the buffer. After an error the decoder is of no further use.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, ParseError> {
        self.advance(buffer).map_err(|fault| self.error(fault))
    }

    #[cfg(any(test, feature = "fuzzing"))]
    /// Whether nothing more of this message will be taken off the buffer.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Bytes of content still to come, when the framing says so.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// So many bytes of content of known length were taken without passing through here; no more than [`Self::remaining`].
    pub(crate) fn skip(&mut self, count: usize) {
        if let State::Length(left) = &mut self.state {
            *left = left.saturating_sub(count as u64);
            if *left == 0 {
                self.state = State::Done;
            }
        }
    }

    /// The sender has closed. That ends content without length, and cuts all other.
    pub(crate) fn end_of_input(&mut self) -> Result<(), ParseError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(self.error(Fault::Truncated)),
        }
    }

    fn error(&self, fault: Fault) -> ParseError {
        if self.of_response { ParseError::Response(fault) } else { ParseError::Request(fault) }
    }

    fn advance(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Fault> {
        loop {
            match &mut self.state {
                State::Done => return Ok(Decoded::End),
                State::UntilClose | State::Length(_) | State::Chunk(_) if buffer.is_empty() => {
                    return Ok(Decoded::NeedMore);
                }
                State::UntilClose => return Ok(Decoded::Data(buffer.split().freeze())),
                State::Length(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::Chunk(left) => {
                    let data = take(buffer, left);
                    if *left == 0 {
                        self.state = State::ChunkReturn;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::Trailers(section) => {
                    if !section.read(buffer, &self.limits)? {
                        return Ok(Decoded::NeedMore);
                    }
                    let trailers = take_trailers(section, buffer);
                    self.state = State::Done;
                    if !trailers.is_empty() {
                        return Ok(Decoded::Trailers(trailers));
                    }
                }
                _ => {
                    if !self.between_chunks(buffer)? {
                        return Ok(Decoded::NeedMore);
                    }
                }
            }
        }
    }

    /// Reads what stands between the content of two chunks. True when content or trailers come next.
    fn between_chunks(&mut self, buffer: &mut BytesMut) -> Result<bool, Fault> {
        let mut read = 0;
        for byte in buffer.iter().copied() {
            read += 1;
            self.state = match self.state {
                State::Size { digits, size } => match hex(byte) {
                    Some(_) if digits == MAX_SIZE_DIGITS => return Err(Fault::ChunkSize),
                    Some(digit) => State::Size { digits: digits + 1, size: (size << 4) | digit },
                    None if digits == 0 => return Err(Fault::ChunkSize),
                    None => self.after_size(byte, size)?,
                },
                State::Space(size) => match byte {
                    b'\r' => return Err(Fault::ChunkExtension),
                    byte => self.after_size(byte, size)?,
                },
                State::Extension(size) => match byte {
                    b'\r' => State::SizeFeed(size),
                    byte => {
                        self.count_extension(byte)?;
                        State::Extension(size)
                    }
                },
                State::SizeFeed(_) if byte != b'\n' => return Err(Fault::BareCarriageReturn),
                State::SizeFeed(0) => State::Trailers(Section::default()),
                State::SizeFeed(size) => State::Chunk(size),
                State::ChunkReturn if byte != b'\r' => return Err(Fault::ChunkEnd),
                State::ChunkReturn => State::ChunkFeed,
                State::ChunkFeed if byte != b'\n' => return Err(Fault::ChunkEnd),
                _ => NEXT_SIZE,
            };
            if matches!(self.state, State::Chunk(_) | State::Trailers(_)) {
                buffer.advance(read);
                return Ok(true);
            }
        }
        buffer.advance(read);
        Ok(false)
    }

    /// What may follow a size: the line's end, or an extension, before which white space may stand (RFC 9112 §7.1.1).
    fn after_size(&mut self, byte: u8, size: u64) -> Result<State, Fault> {
        match byte {
            b'\r' => Ok(State::SizeFeed(size)),
            b'\n' => Err(Fault::BareLineFeed),
            b';' | b' ' | b'\t' => {
                self.count_extension(byte)?;
                Ok(if byte == b';' { State::Extension(size) } else { State::Space(size) })
            }
            _ => Err(Fault::ChunkSize),
        }
    }

    fn count_extension(&mut self, byte: u8) -> Result<(), Fault> {
        if byte == b'\n' {
            return Err(Fault::BareLineFeed);
        }
        if !field::is_content(&[byte]) {
            return Err(Fault::ChunkExtension);
        }
        self.extension_bytes += 1;
        if self.extension_bytes > MAX_EXTENSION_BYTES {
            return Err(Fault::ChunkExtensionsTooLong);
        }
        Ok(())
    }
}

fn take(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let available = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= available as u64;
    buffer.split_to(available).freeze()
}

fn take_trailers(section: &Section, buffer: &mut BytesMut) -> Headers {
    let length = section.lines.position();
    if section.fields.is_empty() {
        buffer.advance(length);
        return Headers::new();
    }
    let bytes = buffer.split_to(length).freeze();
    section.headers(&bytes, |field| field::may_trail(field.name.of(&bytes)))
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}
