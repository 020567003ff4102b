//! What counts as `host` or `host:port`: one strict rule for `Host`, `:authority` and targets.

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::uri::Authority;

/// A host name with its port is no longer than this.
const MAX_BYTES: usize = 255 + ":65535".len();

/// Takes `host` or `host:port`, strictly: a name of letters, digits, `-`, `.`, `_` and `~` without empty labels (one dot at the end
/// is allowed), an IPv4 address, or an IPv6 address in brackets without zone; a port of digits up to 65535. So neither userinfo
/// nor a list nor a percent-encoded name.
pub(crate) fn parse_authority(bytes: Bytes) -> Option<Authority> {
    if !is_authority(&bytes) {
        return None;
    }
    Authority::from_maybe_shared(bytes).ok()
}

/// Whether the bytes are what [`parse_authority`] takes.
pub(crate) fn is_authority(bytes: &[u8]) -> bool {
    if bytes.len() > MAX_BYTES {
        return false;
    }
    let (valid, rest) = match bytes {
        [b'[', inner @ ..] => {
            let Some(end) = inner.iter().position(|byte| *byte == b']') else { return false };
            let (address, rest) = inner.split_at(end);
            let address = std::str::from_utf8(address).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
            (address.is_some(), rest.get(1..).unwrap_or_default())
        }
        _ => {
            let end = bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len());
            let (name, rest) = bytes.split_at(end);
            (is_name(name), rest)
        }
    };
    valid
        && match rest {
            [] => true,
            [b':', port @ ..] => is_port(port),
            _ => false,
        }
}

fn is_name(name: &[u8]) -> bool {
    let mut previous = b'.';
    for byte in name {
        let valid = match byte {
            b'.' => previous != b'.',
            b'-' | b'_' | b'~' => true,
            byte => byte.is_ascii_alphanumeric(),
        };
        if !valid {
            return false;
        }
        previous = *byte;
    }
    !name.is_empty()
}

fn is_port(port: &[u8]) -> bool {
    port.iter().all(u8::is_ascii_digit)
        && std::str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_taken_and_one_byte_more_is_not() {
        let longest = |bytes| ("a".repeat(bytes) + ":65535", "a".repeat(bytes + 1) + ":65535");
        let (good, bad) = longest(255);
        assert!(is_authority(good.as_bytes()) && !is_authority(bad.as_bytes()));
    }

    #[test]
    fn takes_hosts_and_ports() {
        for good in ["a", "a.test", "A.Test.", "a_b.test:80", "10.0.0.1:65535", "[::1]", "[2001:db8::1]:443"]
        {
            assert!(parse_authority(Bytes::from(good)).is_some(), "{good}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for bad in [
            "",
            ".",
            ".a",
            "a..b",
            "a..",
            ":80",
            "a:",
            "a:65536",
            "a:8o",
            "a:+80",
            "a:80:80",
            "a,b",
            "a, b",
            "u@a",
            "u:p@a",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a%41",
            "[::1",
            "::1",
            "[fe80::1%25eth0]",
            "[fe80::1%eth0]",
            "[v1.a]",
            "[::1]x",
            "a b",
            "ä.test",
            "[]",
            "[::1]:",
            "*",
        ] {
            assert!(parse_authority(Bytes::from(bad)).is_none(), "{bad}");
        }
        assert!(!is_authority(&[b'a'; 300]));
    }
}
