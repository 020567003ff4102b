//! Byte classes, and what each field name means to the codec.

/// Bytes of a token (RFC 9110 §5.6.2).
static TOKEN: [bool; 256] = token_table();

const fn token_table() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let symbol = matches!(
            byte as u8,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        table[byte] = symbol || (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    table
}

/// Whether a byte may stand in a token.
#[inline]
pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether all bytes may stand in a token, and there is one.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// Whether all bytes may stand in a field value, a reason phrase or a chunk extension: HTAB, SP, VCHAR, obs-text.
///
/// There is no early exit so that it becomes vector code.
#[inline]
pub(super) fn is_content(bytes: &[u8]) -> bool {
    !bytes.iter().fold(false, |bad, byte| bad | ((*byte < 0x20) & (*byte != b'\t')) | (*byte == 0x7f))
}

/// Whether a byte is optional white space.
#[inline]
pub(super) const fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Without white space around.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_space(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_space(*last)
    {
        bytes = rest;
    }
    bytes
}

/// The elements of a comma-separated list, empty ones left out.
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|element| !element.is_empty())
}

/// What a field means to the codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: it is passed on.
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Te,
    Expect,
    KeepAlive,
    /// Says something about one connection only and is of no use here.
    HopByHop,
    /// Between a client and the next proxy: not passed on, but what the configuration adds is sent.
    ProxyLogin,
    /// A name that some servers take for a framing field.
    Imitation,
}

/// What the field of that name means to the codec.
#[inline]
pub(super) fn classify(name: &[u8]) -> Known {
    let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
    match name.len() {
        2 if is(b"te") => Known::Te,
        4 if is(b"host") => Known::Host,
        6 if is(b"expect") => Known::Expect,
        7 if is(b"upgrade") => Known::Upgrade,
        10 if is(b"connection") => Known::Connection,
        10 if is(b"keep-alive") => Known::KeepAlive,
        14 if is(b"content-length") => Known::ContentLength,
        14 if is(b"http2-settings") => Known::HopByHop,
        14 if is(b"content_length") => Known::Imitation,
        16 if is(b"proxy-connection") => Known::HopByHop,
        17 if is(b"transfer-encoding") => Known::TransferEncoding,
        17 if is(b"transfer_encoding") => Known::Imitation,
        18 if is(b"proxy-authenticate") => Known::ProxyLogin,
        19 if is(b"proxy-authorization") => Known::ProxyLogin,
        25 if is(b"proxy-authentication-info") => Known::ProxyLogin,
        _ => Known::Other,
    }
}

/// Whether a field belongs to one connection and never goes further (RFC 9110 §7.6.1), `Host` and `Content-Length` left aside.
/// For heads that came by HTTP/2, where the codec cannot have removed them.
pub(crate) fn is_hop_by_hop(name: &[u8]) -> bool {
    matches!(
        classify(name),
        Known::Connection
            | Known::KeepAlive
            | Known::Te
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::HopByHop
            | Known::ProxyLogin
    )
}

/// Whether a field frames the message or belongs to one connection, so that only a codec may write it: HTTP/2 has no place for most of
/// these (RFC 9113 §8.2.2).
pub(crate) fn is_for_codecs(name: &[u8]) -> bool {
    match classify(name) {
        Known::ProxyLogin => false,
        Known::ContentLength => true,
        _ => is_hop_by_hop(name),
    }
}

fn has_prefix(name: &[u8], prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    })
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|candidate| name.eq_ignore_ascii_case(candidate.as_bytes()))
}

/// Families of fields that say who a message is from, what it carries or how it may be used.
const END_TO_END_PREFIXES: [&str; 13] = [
    "x-forwarded-",
    "x-envoy-",
    "x-sidegate-",
    "x-real-",
    "x-b3-",
    "x-client-",
    "content-",
    "accept",
    "if-",
    "sec-",
    "access-control-",
    "grpc-",
    "www-",
];

/// The same, one by one.
const END_TO_END: [&str; 33] = [
    "host",
    "authorization",
    "authentication-info",
    "cookie",
    "set-cookie",
    "forwarded",
    "x-request-id",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "cache-control",
    "age",
    "date",
    "etag",
    "expires",
    "expect",
    "last-modified",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "range",
    "referer",
    "retry-after",
    "server",
    "strict-transport-security",
    "trailer",
    "true-client-ip",
    "user-agent",
    "vary",
    "via",
    "x-api-key",
];

/// Whether a field stays even though `Connection` nominates it: a client must not be able to make the proxy drop what others
/// decide by (RFC 9110 §7.6.1 forbids to nominate such fields).
pub(super) fn is_end_to_end(name: &[u8]) -> bool {
    has_prefix(name, &END_TO_END_PREFIXES) || is_one_of(name, &END_TO_END)
}

/// Families of fields that are not taken from trailers.
const NO_TRAILER_PREFIXES: [&str; 9] = [
    "x-forwarded-",
    "x-envoy-",
    "x-sidegate-",
    "x-real-",
    "content-",
    "if-",
    "proxy-",
    "sec-",
    "access-control-",
];

/// The same, one by one.
const NO_TRAILER: [&str; 30] = [
    "trailer",
    "authorization",
    "authentication-info",
    "www-authenticate",
    "cookie",
    "set-cookie",
    "forwarded",
    "x-request-id",
    "x-api-key",
    "true-client-ip",
    "traceparent",
    "tracestate",
    "b3",
    "origin",
    "referer",
    "age",
    "cache-control",
    "date",
    "expires",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "strict-transport-security",
    "user-agent",
    "vary",
    "via",
    "warning",
    "x-http-method-override",
];

/// Whether a field may come in a trailer section (RFC 9110 §6.5.1): not if it frames, routes, authenticates or changes how the
/// content is read, since that was all decided when the head came.
pub(crate) fn may_trail(name: &[u8]) -> bool {
    classify(name) == Known::Other && !has_prefix(name, &NO_TRAILER_PREFIXES) && !is_one_of(name, &NO_TRAILER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trims_and_splits_lists() {
        assert_eq!(trim(b" \t a b\t "), b"a b");
        assert_eq!(trim(b"  "), b"");
        assert_eq!(elements(b", a ,,b,").collect::<Vec<_>>(), [b"a", b"b"]);
    }

    #[test]
    fn names_are_compared_without_case() {
        assert_eq!(classify(b"Transfer-Encoding"), Known::TransferEncoding);
        assert_eq!(classify(b"CONTENT_LENGTH"), Known::Imitation);
        assert!(is_end_to_end(b"X-Forwarded-For"));
        assert!(!is_end_to_end(b"X-Hop"));
        assert!(may_trail(b"Grpc-Status"));
        assert!(!may_trail(b"Content-Type"));
    }
}
