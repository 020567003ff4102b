//! Finds the frames in a byte stream that passes by: heads only (RFC 9113 §4.1), no payload is kept or copied.

use std::ops::ControlFlow;

/// A frame's head, and the beginning of its payload where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// The payload's length in bytes.
    pub(super) length: usize,
    /// The type (RFC 9113 §6).
    pub(super) kind: u8,
    /// Its flags.
    pub(super) flags: u8,
    /// The error code of RST_STREAM.
    pub(super) code: u32,
    /// Bytes of padding, with the length that announces it, of DATA.
    pub(super) padding: usize,
}

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const PRIORITY: u8 = 0x2;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PING: u8 = 0x6;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

/// `END_STREAM` of DATA and HEADERS, `ACK` of SETTINGS and PING.
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;

/// Bytes of a frame's head.
const HEAD: usize = 9;
/// Payload looked at: an error code.
const MOST_PEEKED: usize = 4;

/// Where in a frame the stream is.
#[derive(Debug, Default)]
pub(super) struct Walker {
    /// Bytes that belong to the preface or to a payload.
    skip: usize,
    /// The beginning of a frame that was cut by the end of a piece.
    partial: [u8; HEAD + MOST_PEEKED],
    have: usize,
}

impl Walker {
    /// A stream that begins with so many bytes that are no frame.
    pub(super) fn after(preface: usize) -> Self {
        Self { skip: preface, ..Self::default() }
    }

    /// Whether the stream stands within a frame.
    pub(super) fn is_within_frame(&self) -> bool {
        self.have > 0 || self.skip > 0
    }

    /// Shows every frame that begins in `bytes`, as soon as its head has come. Gives the number of bytes up to the one after which
    /// `look` broke off, all of them if it did not.
    pub(super) fn walk(&mut self, bytes: &[u8], mut look: impl FnMut(FrameHead) -> ControlFlow<()>) -> usize {
        let mut at = 0;
        loop {
            let passed = self.skip.min(bytes.len() - at);
            self.skip -= passed;
            at += passed;
            if at == bytes.len() {
                return at;
            }
            let rest = &bytes[at..];
            let Some((head, taken)) = self.take(rest) else { return bytes.len() };
            at += taken;
            if look(head).is_break() {
                return at;
            }
        }
    }

    /// The frame that begins or goes on here, and the bytes of it that were taken; `None` when its head is not whole yet.
    fn take(&mut self, rest: &[u8]) -> Option<(FrameHead, usize)> {
        if self.have == 0 && rest.len() >= HEAD + MOST_PEEKED {
            let (head, size) = parse(rest)?;
            self.skip = head.length - (size - HEAD);
            return Some((head, size));
        }
        let mut taken = 0;
        for byte in rest {
            self.partial[self.have] = *byte;
            self.have += 1;
            taken += 1;
            if let Some((head, size)) = parse(&self.partial[..self.have]) {
                self.have = 0;
                self.skip = head.length - (size - HEAD);
                return Some((head, taken));
            }
        }
        None
    }
}

/// A head with what is looked at of its payload, and the bytes that makes; `None` when there are fewer.
fn parse(bytes: &[u8]) -> Option<(FrameHead, usize)> {
    let [high, middle, low, kind, flags, _, _, _, _, payload @ ..] = bytes else { return None };
    let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
    let mut head = FrameHead { length, kind: *kind, flags: *flags, code: 0, padding: 0 };
    let mut peeked = 0;
    if *kind == RST_STREAM && length >= 4 {
        head.code = u32::from_be_bytes(*payload.first_chunk()?);
        peeked = 4;
    } else if *kind == DATA && flags & PADDED != 0 && length > 0 {
        head.padding = usize::from(*payload.first()?) + 1;
        peeked = 1;
    }
    Some((head, HEAD + peeked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        bytes.extend_from_slice(payload);
        bytes
    }

    fn stream() -> Vec<u8> {
        let mut bytes = b"preface".to_vec();
        bytes.extend(frame(SETTINGS, 0, &[]));
        bytes.extend(frame(DATA, PADDED, &[2, b'x', 0, 0]));
        bytes.extend(frame(RST_STREAM, 0, &[0, 0, 0, 8]));
        bytes.extend(frame(RST_STREAM, 0, &[1]));
        bytes.extend(frame(HEADERS, END_HEADERS, &[7; 200]));
        bytes.extend(frame(PING, ACK, &[0; 8]));
        bytes
    }

    fn heads(pieces: &[&[u8]]) -> Vec<FrameHead> {
        let mut walker = Walker::after(7);
        let mut heads = Vec::new();
        for piece in pieces {
            let passed = walker.walk(piece, |head| {
                heads.push(head);
                ControlFlow::Continue(())
            });
            assert_eq!(passed, piece.len());
        }
        assert!(!walker.is_within_frame());
        heads
    }

    #[test]
    fn frames_are_the_same_wherever_the_stream_is_cut() {
        let stream = stream();
        let whole = heads(&[&stream]);
        let seen: Vec<_> = whole.iter().map(|head| (head.kind, head.length)).collect();
        assert_eq!(
            seen,
            [(SETTINGS, 0), (DATA, 4), (RST_STREAM, 4), (RST_STREAM, 1), (HEADERS, 200), (PING, 8)]
        );
        assert_eq!((whole[1].padding, whole[2].code), (3, 8));
        for cut in 0..stream.len() {
            assert_eq!(heads(&[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(heads(&bytes), whole);
    }

    #[test]
    fn breaking_off_says_where() {
        let stream = stream();
        let mut walker = Walker::after(7);
        let passed = walker.walk(&stream, |head| match head.kind {
            RST_STREAM => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert_eq!(passed, 7 + 9 + 13 + 13);
    }
}
