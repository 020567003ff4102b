//! The PROXY protocol, versions 1 and 2, in and out: pure. Strict: one spelling of everything, no more bytes than it may have.
//! Source: HAProxy's `proxy-protocol.txt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a connection's first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// No PROXY header.
    Absent,
    /// So far they may be one.
    Incomplete,
    /// One.
    Complete(Complete),
    /// They begin as one, and are none.
    Malformed(&'static str),
}

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Complete {
    /// Its bytes.
    pub(crate) length: usize,
    /// Its version.
    pub(crate) version: Version,
    /// Client and the address that it connected to; `None` when the header says to use the connection's own.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
}

/// The two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Bytes of the longest header that is taken: addresses and what senders add (TLS facts, cloud identities) need a fraction of it.
pub(crate) const MOST_BYTES: usize = 4096;

/// Looks at a connection's first bytes.
pub(crate) fn parse(prefix: &[u8]) -> Header {
    if begins(prefix, SIGNATURE) {
        return if prefix.len() < SIGNATURE.len() { Header::Incomplete } else { parse_v2(prefix) };
    }
    if begins(prefix, WORD) {
        return if prefix.len() < WORD.len() { Header::Incomplete } else { parse_v1(prefix) };
    }
    Header::Absent
}

/// Whether one is the beginning of the other.
fn begins(prefix: &[u8], whole: &[u8]) -> bool {
    let common = prefix.len().min(whole.len());
    prefix[..common] == whole[..common]
}

fn parse_v1(prefix: &[u8]) -> Header {
    let line = &prefix[..prefix.len().min(MOST_LINE)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return match line {
            // Only the carriage return may be the last byte so far.
            _ if line[..line.len() - 1].iter().any(u8::is_ascii_control) => Header::Malformed(LINE),
            _ if line.len() == MOST_LINE => Header::Malformed("a PROXY line of more than 107 bytes"),
            _ => Header::Incomplete,
        };
    };
    if line[..end].iter().any(u8::is_ascii_control) {
        return Header::Malformed(LINE);
    }
    let complete =
        |addresses| Header::Complete(Complete { length: end + 2, version: Version::V1, addresses });
    let Ok(text) = std::str::from_utf8(&line[WORD.len()..end]) else { return Header::Malformed(LINE) };
    let mut words = text.split(' ');
    let family = words.next();
    if family == Some("UNKNOWN") {
        return complete(None);
    }
    let fields: [Option<&str>; 5] = std::array::from_fn(|_| words.next());
    let [Some(source), Some(destination), Some(source_port), Some(port), None] = fields else {
        return Header::Malformed(LINE);
    };
    let address = |text: &str| match family {
        Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let socket = |ip: &str, port: &str| Some(SocketAddr::new(address(ip)?, decimal_port(port)?));
    match (socket(source, source_port), socket(destination, port)) {
        (Some(source), Some(destination)) => complete(Some((source, destination))),
        _ => Header::Malformed(LINE),
    }
}

/// Digits only, without zeros in front.
fn decimal_port(text: &str) -> Option<u16> {
    let sane = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if sane { text.parse().ok() } else { None }
}

fn parse_v2(prefix: &[u8]) -> Header {
    let rest = &prefix[SIGNATURE.len()..];
    let command = match rest.first() {
        None => return Header::Incomplete,
        Some(0x20) => Command::Local,
        Some(0x21) => Command::Proxy,
        Some(_) => return Header::Malformed("a PROXY header of an unknown version or command"),
    };
    // What LOCAL says of addresses means nothing, whatever it is.
    let addresses = match (command, rest.get(1)) {
        (_, None) => return Header::Incomplete,
        (Command::Local, _) | (_, Some(0x00)) => 0,
        (_, Some(0x11)) => 12,
        (_, Some(0x21)) => 36,
        (_, Some(0x31 | 0x32)) => return Header::Malformed("a PROXY header with addresses of a Unix socket"),
        (_, Some(_)) => return Header::Malformed("a PROXY header for something else than TCP"),
    };
    let Some(length) = rest.get(2..4) else { return Header::Incomplete };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length < addresses {
        return Header::Malformed("a PROXY header too short for its addresses");
    }
    if V2_HEADER + length > MOST_BYTES {
        return Header::Malformed("a PROXY header of more than 4 KiB");
    }
    let Some(body) = prefix.get(V2_HEADER..V2_HEADER + length) else { return Header::Incomplete };
    let (binary, extra) = body.split_at(addresses);
    let unspecified = addresses == 0;
    if !unspecified && !are_fields(extra) {
        return Header::Malformed("a PROXY header whose extra fields do not fit");
    }
    let addresses = if unspecified { None } else { binary_addresses(binary) };
    Header::Complete(Complete { length: V2_HEADER + length, version: Version::V2, addresses })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Local,
    Proxy,
}

fn binary_addresses(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if bytes.len() == 12 {
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
        return Some(((address(0)?, port(8)?).into(), (address(4)?, port(10)?).into()));
    }
    let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
    Some(((address(0)?, port(32)?).into(), (address(16)?, port(34)?).into()))
}

/// Whether the bytes are whole fields of type, length and value.
fn are_fields(mut bytes: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = bytes {
        let Some(rest) = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) else { return false };
        bytes = rest;
    }
    bytes.is_empty()
}

/// The header that tells an upstream where a connection comes from. Addresses of two families cannot be told: then the upstream is
/// told nothing (`UNKNOWN`, `LOCAL`).
pub(crate) fn encode(version: Version, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    match version {
        Version::V1 => encode_v1(source, destination).into_bytes(),
        Version::V2 => encode_v2(source, destination),
    }
}

fn encode_v1(source: SocketAddr, destination: SocketAddr) -> String {
    let family = match (source, destination) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => "TCP4",
        (SocketAddr::V6(_), SocketAddr::V6(_)) => "TCP6",
        _ => return "PROXY UNKNOWN\r\n".to_owned(),
    };
    let (source_ip, ip) = (source.ip(), destination.ip());
    format!("PROXY {family} {source_ip} {ip} {} {}\r\n", source.port(), destination.port())
}

fn encode_v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([0x21, 0x11, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header.extend([0x21, 0x21, 0, 36]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        _ => {
            header.extend([0x20, 0, 0, 0]);
            return header;
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

const WORD: &[u8] = b"PROXY ";
const LINE: &str = "a malformed PROXY line";
/// The longest line of version 1 with its end.
const MOST_LINE: usize = 107;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEADER: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(bytes: &[u8]) -> Complete {
        match parse(bytes) {
            Header::Complete(complete) => complete,
            other => panic!("{other:?}: {bytes:?}"),
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn lines() {
        let header = complete(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET");
        assert_eq!(
            header.addresses,
            Some(("192.0.2.1:56324".parse().unwrap(), "198.51.100.2:443".parse().unwrap()))
        );
        assert_eq!((header.length, header.version), (45, Version::V1));
        let header = complete(b"PROXY TCP6 2001:db8::1 ::2 1 2\r\n");
        assert_eq!(header.addresses.unwrap().0, "[2001:db8::1]:1".parse().unwrap());
        assert_eq!(complete(b"PROXY UNKNOWN\r\n").addresses, None);
        assert_eq!(complete(b"PROXY UNKNOWN ffff:f::1 x 1 2\r\n").addresses, None);
    }

    #[test]
    fn a4_malformed_lines() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 056 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +56 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.2 1 443\r\n",
            "PROXY TCP4 ::1 ::1 1 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 1 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 443\r\n",
            "PROXY \r\n",
            "PROXY TCP4\n192.0.2.1",
            "PROXY TCP4\0",
        ] {
            let cut = line.strip_suffix("\0").unwrap_or(line);
            let padded = if cut == line { line.to_owned() } else { format!("{line} ") };
            assert!(matches!(parse(padded.as_bytes()), Header::Malformed(_)), "{line:?}");
        }
        assert!(matches!(parse(&[b"PROXY ".as_slice(), &[b'a'; 101]].concat()), Header::Malformed(_)));
        assert_eq!(parse(&[b"PROXY ".as_slice(), &[b'a'; 100]].concat()), Header::Incomplete);
    }

    #[test]
    fn binary_headers() {
        let body = [192, 0, 2, 1, 198, 51, 100, 2, 0, 7, 1, 187];
        let header = complete(&v2(0x21, 0x11, &body));
        assert_eq!(
            header.addresses,
            Some(("192.0.2.1:7".parse().unwrap(), "198.51.100.2:443".parse().unwrap()))
        );
        let with_fields = [&body[..], &[0x04, 0, 2, 9, 9, 0xe0, 0, 0]].concat();
        assert_eq!(complete(&v2(0x21, 0x11, &with_fields)).length, 16 + 12 + 8);
        assert_eq!(
            complete(&v2(0x20, 0x31, &[0; 216])).addresses,
            None,
            "LOCAL: a health check of the sender's own"
        );
        assert_eq!(complete(&v2(0x21, 0x00, b"anything")).addresses, None);
    }

    #[test]
    fn a4_malformed_binary_headers() {
        for bytes in [
            v2(0x11, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x12, &[0; 12]),
            v2(0x21, 0x31, &[0; 216]),
            v2(0x21, 0x41, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x11, &[0; 13]),
            v2(0x21, 0x11, &[&[0; 12][..], &[4, 0, 9, 1]].concat()),
            v2(0x21, 0x11, &[0; 4096]),
        ] {
            assert!(matches!(parse(&bytes), Header::Malformed(_)), "{bytes:?}");
        }
    }

    #[test]
    fn every_cut_is_incomplete_and_what_is_written_is_read() {
        let v4 = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (source, destination) in
            [(v4("192.0.2.1:7"), v4("198.51.100.2:443")), (v4("[::1]:7"), v4("[::2]:8"))]
        {
            for version in [Version::V1, Version::V2] {
                let bytes = encode(version, source, destination);
                for cut in 0..bytes.len() {
                    assert_eq!(parse(&bytes[..cut]), Header::Incomplete, "{cut}");
                }
                let header = complete(&bytes);
                assert_eq!(
                    header,
                    Complete { length: bytes.len(), version, addresses: Some((source, destination)) }
                );
            }
        }
        for version in [Version::V1, Version::V2] {
            let mixed = encode(version, v4("192.0.2.1:7"), v4("[::2]:8"));
            assert_eq!(complete(&mixed).addresses, None);
        }
    }

    #[test]
    fn what_is_no_header_is_known_early() {
        for bytes in [&b"GET / HTTP/1.1"[..], b"PR", b"P", b"\r\n\r\n", b"PROXX", b"\r\n\r\nQ"] {
            let expected =
                if matches!(bytes, b"PR" | b"P" | b"\r\n\r\n") { Header::Incomplete } else { Header::Absent };
            assert_eq!(parse(bytes), expected, "{bytes:?}");
        }
    }
}
