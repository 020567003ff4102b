//! What do the first bytes speak? Pure, over a prefix.

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
}
