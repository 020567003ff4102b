//! Escaping: what a stranger sent cannot end a line, a field or a string, nor steer a terminal.

/// Hexadecimal digits.
const HEX: &[u8; 16] = b"0123456789abcdef";

/// For text formats: printable ASCII as it is, `"` and `\` with a backslash, everything else as `\xNN`.
pub(super) fn text(bytes: &[u8], out: &mut Vec<u8>) {
    escape(bytes, out, |byte, out| match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        _ => out.extend_from_slice(&[b'\\', b'x', high(byte), low(byte)]),
    });
}

/// For JSON strings. Bytes that are not ASCII are taken as UTF-8 where they are, else as the replacement character;
/// control characters of every kind are escaped.
pub(super) fn json(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.is_ascii() {
        return json_ascii(bytes, out);
    }
    for character in String::from_utf8_lossy(bytes).chars() {
        let mut buffer = [0; 4];
        match character {
            _ if character.is_ascii() => json_ascii(character.encode_utf8(&mut buffer).as_bytes(), out),
            // C1 controls, line and paragraph separators, and the marks that turn the direction of text.
            '\u{80}'..='\u{9f}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => json_unicode(character as u16, out),
            _ => out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes()),
        }
    }
}

/// For text that the configuration gave and that goes into a JSON string.
pub(super) fn json_ascii(bytes: &[u8], out: &mut Vec<u8>) {
    escape(bytes, out, |byte, out| match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => json_unicode(u16::from(byte), out),
    });
}

fn json_unicode(code: u16, out: &mut Vec<u8>) {
    let [first, second] = code.to_be_bytes();
    out.extend_from_slice(&[b'\\', b'u', high(first), low(first), high(second), low(second)]);
}

/// Copies runs of harmless bytes at once.
fn escape(bytes: &[u8], out: &mut Vec<u8>, special: impl Fn(u8, &mut Vec<u8>)) {
    let mut rest = bytes;
    while let Some(position) =
        rest.iter().position(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\'))
    {
        let (plain, after) = rest.split_at(position);
        out.extend_from_slice(plain);
        let Some((byte, after)) = after.split_first() else { return };
        special(*byte, out);
        rest = after;
    }
    out.extend_from_slice(rest);
}

fn high(byte: u8) -> u8 {
    HEX[usize::from(byte >> 4)]
}

fn low(byte: u8) -> u8 {
    HEX[usize::from(byte & 15)]
}
