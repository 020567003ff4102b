//! Blocks of addresses, as policies and flags write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A block of addresses: `10.0.0.0/8`, `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its address as it is written; bits behind the length are of no meaning.
    pub address: IpAddr,
    /// How many bits of the address count.
    pub length: u8,
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address or block such as 10.0.0.0/8 or ::1");
        let (address, length) =
            text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => whole,
            Some(digits) if digits.starts_with('+') => return Err(wrong()),
            Some(digits) => digits.parse().map_err(|_| wrong())?,
        };
        if length > whole { Err(wrong()) } else { Ok(Self { address, length }) }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

impl Block {
    /// Whether an address is in it. Those of the other family never are, an IPv4 address that is mapped into IPv6 neither.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |own: u128, other: u128, bits: u32| {
            let shift = bits - u32::from(self.length);
            own.checked_shr(shift).unwrap_or(0) == other.checked_shr(shift).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same(own.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Block {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_a_block_of_one() {
        assert_eq!(block("10.0.0.1").to_string(), "10.0.0.1/32");
        assert_eq!(block("2001:db8::1").to_string(), "2001:db8::1/128");
        assert_eq!(block("10.1.2.3/8").to_string(), "10.1.2.3/8");
        for wrong in
            ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/", "10.0.0.0/+8", "host"]
        {
            let error = wrong.parse::<Block>().unwrap_err();
            assert!(error.contains("10.0.0.0/8"), "{wrong}: {error}");
        }
    }

    #[test]
    fn the_bits_of_its_length_count() {
        for (text, inside, outside) in [
            ("10.1.2.3/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.128/25", "10.0.0.255", "10.0.0.127"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "::1", "10.0.0.1"),
            ("::1", "::1", "::2"),
        ] {
            assert!(block(text).contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(!block(text).contains(outside.parse().unwrap()), "{text} {outside}");
        }
    }
}
