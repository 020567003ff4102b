//! Ranges of addresses: `CidrRange`.

use std::net::IpAddr;

/// A range of addresses. IPv4 in IPv6's clothes (`::ffff:10.0.0.1`) is IPv4, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// IPv4: bits and mask.
    V4(u32, u32),
    /// IPv6: bits and mask.
    V6(u128, u128),
}

impl Range {
    /// The range of addresses that share their first bits with this one; `None` when it has not so many.
    pub(crate) fn new(address: IpAddr, length: u32) -> Option<Self> {
        match address {
            IpAddr::V4(address) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
                Some(Self::V4(address.to_bits() & mask, mask))
            }
            IpAddr::V6(address) if length <= 128 => {
                match (address.to_ipv4_mapped(), length.checked_sub(96)) {
                    (Some(address), Some(length)) => Self::new(address.into(), length),
                    _ => {
                        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
                        Some(Self::V6(address.to_bits() & mask, mask))
                    }
                }
            }
            _ => None,
        }
    }

    /// Whether the address is in the range.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        match (self, address.to_canonical()) {
            (Self::V4(bits, mask), IpAddr::V4(address)) => address.to_bits() & mask == bits,
            (Self::V6(bits, mask), IpAddr::V6(address)) => address.to_bits() & mask == bits,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_shares_their_bits() {
        let holds = |range: &str, length, address: &str| {
            Range::new(range.parse().unwrap(), length).unwrap().contains(address.parse().unwrap())
        };
        assert!(holds("10.1.2.3", 8, "10.200.0.1") && !holds("10.0.0.0", 8, "11.0.0.1"));
        assert!(holds("0.0.0.0", 0, "1.2.3.4") && !holds("0.0.0.0", 0, "fd00::1"));
        assert!(holds("fd00::", 8, "fd12::1") && !holds("fd00::", 8, "fe00::1"));
        assert!(holds("::ffff:10.0.0.0", 104, "10.9.9.9") && holds("10.0.0.0", 8, "::ffff:10.9.9.9"));
        assert!(holds("1.2.3.4", 32, "1.2.3.4") && !holds("1.2.3.4", 32, "1.2.3.5"));
        assert_eq!(Range::new("1.2.3.4".parse().unwrap(), 33), None);
        assert_eq!(Range::new("::1".parse().unwrap(), 129), None);
    }
}
