//! Frames of HTTP/2 as bytes (RFC 9113 §4.1), right or wrong, and just enough HPACK (RFC 7541) for requests.

use bytes::{Buf, BytesMut};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 0x1;
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame, as it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) payload: BytesMut,
}

/// Appends a frame.
pub(super) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    out.extend(length);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// Takes the next whole frame off what was read.
pub(super) fn read(buffer: &mut BytesMut) -> Option<Frame> {
    let [high, middle, low, kind, flags, ..] = *buffer.first_chunk::<9>()?;
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    if buffer.len() < 9 + length {
        return None;
    }
    buffer.advance(9);
    Some(Frame { kind, flags, payload: buffer.split_to(length) })
}

/// A block of fields that leaves the peer's table alone.
pub(super) fn request(method: Method, path: &str) -> Vec<u8> {
    let mut block = vec![match method {
        Method::Get => 0x82,
        Method::Post => 0x83,
    }];
    block.push(0x86); // :scheme http
    block.push(0x04); // :path, literal, not indexed
    string(&mut block, path.as_bytes());
    block.push(0x01); // :authority, the same
    string(&mut block, b"bench.example");
    block
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
}

/// A literal field, kept in the peer's table or not.
pub(super) fn field(block: &mut Vec<u8>, keep: bool, name: &[u8], value: &[u8]) {
    block.push(if keep { 0x40 } else { 0x00 });
    string(block, name);
    string(block, value);
}

/// Its length in seven bits and more, then the string as it is (RFC 7541 §5.2).
fn string(block: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        block.push(text.len() as u8);
    } else {
        block.push(127);
        let mut left = text.len() - 127;
        while left >= 128 {
            block.push((left % 128) as u8 | 0x80);
            left /= 128;
        }
        block.push(left as u8);
    }
    block.extend(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut out = Vec::new();
        write(&mut out, PING, ACK, 0, b"12345678");
        write(&mut out, DATA, 0, 3, b"");
        let mut buffer = BytesMut::from(&out[..]);
        let ping = read(&mut buffer).unwrap();
        assert_eq!((ping.kind, ping.flags, &ping.payload[..]), (PING, ACK, &b"12345678"[..]));
        assert_eq!(read(&mut buffer).unwrap().kind, DATA);
        assert_eq!(read(&mut buffer), None);
    }

    #[test]
    fn long_strings_have_long_lengths() {
        let mut block = Vec::new();
        string(&mut block, &[b'x'; 1_337 + 127]);
        // 1337 = 10 * 128 + 57, as in RFC 7541 §C.1.2, with a prefix of seven bits.
        assert_eq!(block[..3], [127, 57 | 0x80, 10]);
    }
}
