//! What do the first bytes speak? Pure, over a bounded prefix.

mod client_hello;

pub(crate) use client_hello::{ClientHello, Hello, MOST_BYTES as MOST_HELLO, client_hello};

/// What a connection speaks, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The HTTP/2 connection preface (RFC 9113 §3.4).
    Http2,
    /// Not HTTP/2: HTTP/1, or something that its parser will refuse.
    Http1,
    /// The bytes so far are a part of the preface.
    Undecided,
}

/// The client's connection preface.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Classifies what has arrived so far.
pub(crate) fn classify(prefix: &[u8]) -> Protocol {
    let common = prefix.len().min(PREFACE.len());
    if prefix[..common] != PREFACE[..common] {
        return Protocol::Http1;
    }
    if common == PREFACE.len() { Protocol::Http2 } else { Protocol::Undecided }
}

/// What an HTTP inspector tells of a prefix: the name by which filter chains match it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    /// This version: `http/1.0`, `http/1.1` or `h2c`.
    Version(&'static str),
    /// Not HTTP.
    Other,
    /// It may be.
    Undecided,
}

/// Looks for the HTTP/2 preface or an HTTP/1 request line.
pub(crate) fn http_version(prefix: &[u8]) -> Http {
    match classify(prefix) {
        Protocol::Http2 => return Http::Version("h2c"),
        Protocol::Undecided => return Http::Undecided,
        Protocol::Http1 => {}
    }
    // A recipient skips an empty line before a request (RFC 9112 §2.2).
    let prefix = prefix.strip_prefix(b"\r\n").unwrap_or(prefix);
    let method = prefix.iter().position(|byte| !byte.is_ascii_uppercase() && !b"-_".contains(byte));
    match method {
        None if prefix.len() <= LONGEST_METHOD => return Http::Undecided,
        Some(end @ 1..=LONGEST_METHOD) if prefix[end] == b' ' => {}
        _ => return if prefix == b"\r" { Http::Undecided } else { Http::Other },
    }
    let Some(end) = prefix.iter().position(|byte| *byte == b'\n') else {
        let long = prefix.len() >= LONGEST_LINE || prefix.contains(&0);
        return if long { Http::Other } else { Http::Undecided };
    };
    let line = prefix[..end].strip_suffix(b"\r").unwrap_or(&prefix[..end]);
    match line {
        _ if line.ends_with(b" HTTP/1.1") => Http::Version("http/1.1"),
        _ if line.ends_with(b" HTTP/1.0") => Http::Version("http/1.0"),
        _ => Http::Other,
    }
}

const LONGEST_METHOD: usize = 32;
const LONGEST_LINE: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_at_the_first_byte_that_differs() {
        assert_eq!(classify(b""), Protocol::Undecided);
        assert_eq!(classify(b"P"), Protocol::Undecided);
        assert_eq!(classify(b"POST / HTTP/1.1"), Protocol::Http1);
        assert_eq!(classify(b"PRI * HTTP/2.0\r\n"), Protocol::Undecided);
        assert_eq!(classify(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"), Protocol::Http2);
        assert_eq!(classify(b"PRI * HTTP/1.1\r\n"), Protocol::Http1);
    }

    #[test]
    fn versions_of_http() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], Http::Version("http/1.1")),
            (b"\r\nM-SEARCH * HTTP/1.0\n", Http::Version("http/1.0")),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Http::Version("h2c")),
            (b"", Http::Undecided),
            (b"PRI", Http::Undecided),
            (b"\r", Http::Undecided),
            (b"GET / HTTP/1.1", Http::Undecided),
            (b"GET / HTTP/3.1\r\n", Http::Other),
            (b"get / HTTP/1.1\r\n", Http::Other),
            (b"SSH-2.0-OpenSSH\r\n", Http::Other),
            (b"\x16\x03\x01", Http::Other),
            (b"GET \0", Http::Other),
            (b" GET / HTTP/1.1\r\n", Http::Other),
        ] {
            assert_eq!(http_version(bytes), expected, "{bytes:?}");
        }
        assert_eq!(http_version(&[b'A'; 33]), Http::Other);
    }
}
