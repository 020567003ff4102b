//! Where keys may be fetched from: whoever writes a JWTPolicy chooses the URL, and must not reach with it what only this machine reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::block::Block;

/// What is allowed beyond the default.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Blocks that may be asked whatever they are, also without TLS.
    pub allowed: Vec<Block>,
}

impl Guard {
    /// Whether an operator has named this address.
    pub(super) fn names(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|block| block.contains(address.to_canonical()))
    }

    /// Whether an address may be asked: not this machine, its links, or nobody in particular.
    pub(super) fn permits(&self, address: IpAddr) -> bool {
        if self.names(address) {
            return true;
        }
        match address.to_canonical() {
            IpAddr::V4(address) => is_elsewhere_v4(address),
            IpAddr::V6(address) => is_elsewhere_v6(address),
        }
    }
}

fn is_elsewhere_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    // 0/8 is this network; 100.64/10 holds some clouds' own services.
    let shared = first == 100 && (64..128).contains(&second);
    !(first == 0
        || shared
        || first >= 240
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast())
}

fn is_elsewhere_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // Some clouds serve their metadata at fd00:ec2::254.
    let metadata = segments[..2] == [0xfd00, 0x0ec2];
    // A network's own NAT64 (RFC 8215): where in it the IPv4 address stands, the network alone knows.
    let translated = segments[..3] == [0x64, 0xff9b, 1];
    !(address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || metadata
        || translated
        || embedded(segments).into_iter().flatten().any(|embedded| !is_elsewhere_v4(embedded)))
}

/// What embeds IPv4 addresses leads to them.
fn embedded(segments: [u16; 8]) -> [Option<Ipv4Addr>; 2] {
    let address = |high: u16, low: u16| Some(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)));
    match segments {
        // NAT64; the compatible form; the translated one, `::ffff:0:a.b.c.d` (RFC 2765).
        [0x64, 0xff9b, .., high, low]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low] => [address(high, low), None],
        // 6to4.
        [0x2002, high, low, ..] => [address(high, low), None],
        // Teredo: the server, and the client with all its bits turned (RFC 4380, 4).
        [0x2001, 0, high, low, .., end_high, end_low] => [address(high, low), address(!end_high, !end_low)],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g8_what_only_this_machine_reaches_is_not_asked() {
        let guard = Guard::default();
        for address in [
            "127.0.0.1",
            "127.255.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::7f00:1",
            "64:ff9b:1:7f00:0:100::",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1::7f00:1",
            "::ffff:0:127.0.0.1",
            "2001:0:7f00:1::",
            "2001:0:808:808:0:0:80ff:fffe",
        ] {
            assert!(!guard.permits(address.parse().unwrap()), "{address}");
        }
        for address in [
            "10.96.0.12",
            "192.168.1.1",
            "172.16.0.1",
            "8.8.8.8",
            "2001:4860::8888",
            "fd12::1",
            "64:ff9b::808:808",
            "2001:0:808:808::f7f7:f7f7",
        ] {
            assert!(guard.permits(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn what_an_operator_names_is_asked() {
        let guard = Guard { allowed: vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()] };
        for address in ["127.0.0.1", "::ffff:127.0.0.9", "::1"] {
            assert!(guard.permits(address.parse().unwrap()), "{address}");
        }
        assert!(!guard.permits("169.254.169.254".parse().unwrap()));
        let everything = Guard { allowed: vec!["0.0.0.0/0".parse().unwrap()] };
        assert!(everything.permits("169.254.169.254".parse().unwrap()));
    }
}
