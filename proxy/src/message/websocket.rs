//! The two headers in which WebSocket over HTTP/1.1 (RFC 6455 §4) differs from WebSocket over HTTP/2 (RFC 8441 §5): a gate between the
//! two must make them.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What every server appends to the key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The `sec-websocket-accept` that answers this `sec-websocket-key`.
pub(crate) fn accept_of(key: &[u8]) -> String {
    // The hash proves nothing: it only shows that the other side knows the protocol.
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

/// A new `sec-websocket-key`.
pub(crate) fn new_key(bits: u128) -> String {
    STANDARD.encode(bits.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(new_key(1), "AAAAAAAAAAAAAAAAAAAAAQ==");
    }
}
