//! IPv4 addresses embedded in IPv6 ones (RFC 6052), as stateful NAT64 uses them (RFC 6146).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A prefix that IPv4 addresses are embedded behind: of 32, 40, 48, 56, 64 or 96 bits (RFC 6052 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix64 {
    prefix: u128,
    length: u8,
}

/// Bits 64 to 71, which are zero in every such address (RFC 6052 section 2.2).
const RESERVED: u128 = 0xff << 56;
const RESERVED_OCTET: usize = 8;

impl Prefix64 {
    /// The well-known prefix, 64:ff9b::/96 (RFC 6052 section 2.1).
    pub const WELL_KNOWN: Self = Self { prefix: 0x0064_ff9b << 96, length: 96 };
    /// Lengths that there are.
    pub const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

    /// A prefix; `None` for another length, or if anything is behind it or in the reserved octet.
    #[must_use]
    pub fn new(prefix: Ipv6Addr, length: u8) -> Option<Self> {
        let prefix = prefix.to_bits();
        let behind = u128::MAX >> length.min(127);
        let fits = Self::LENGTHS.contains(&length) && prefix & (behind | RESERVED) == 0;
        fits.then_some(Self { prefix, length })
    }

    /// Its first address and its length in bits.
    #[must_use]
    pub const fn parts(&self) -> (Ipv6Addr, u8) {
        (Ipv6Addr::from_bits(self.prefix), self.length)
    }

    /// Whether an address has this prefix, whatever is behind it.
    #[must_use]
    pub const fn contains(&self, address: Ipv6Addr) -> bool {
        address.to_bits() & !(u128::MAX >> self.length) == self.prefix
    }

    /// The places of the four octets of an IPv4 address.
    fn places(self) -> impl Iterator<Item = usize> {
        let first = usize::from(self.length / 8);
        // Only where the address would reach over it does the reserved octet push octets on.
        (first..16).filter(move |place| *place != RESERVED_OCTET).take(4)
    }

    /// The address that stands for an IPv4 address.
    #[must_use]
    pub fn embed(self, address: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.prefix.to_be_bytes();
        for (place, octet) in self.places().zip(address.octets()) {
            octets[place] = octet;
        }
        octets.into()
    }

    /// The IPv4 address that an address stands for; what is behind it is not looked at (RFC 6052 section 2.3). `None` for
    /// one of another prefix, or with a reserved octet that is not zero.
    #[must_use]
    pub fn extract(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        if !self.contains(address) || address.to_bits() & RESERVED != 0 {
            return None;
        }
        let octets = address.octets();
        let mut found = [0; 4];
        for (octet, place) in found.iter_mut().zip(self.places()) {
            *octet = octets[place];
        }
        Some(found.into())
    }

    /// Whether packets to, or from, this IPv4 address may be translated with this prefix: never those of no single host,
    /// and with the well-known prefix none that is not global (RFC 6052 section 3.1). Addresses for documentation pass,
    /// since no host has them but in examples and tests.
    #[must_use]
    pub fn may_carry(&self, address: Ipv4Addr) -> bool {
        if !super::address::is_usable_unicast(address.into()) {
            return false;
        }
        let [a, b, c, _] = address.octets();
        let shared = a == 100 && b & 0xc0 == 64;
        let benchmarking = a == 198 && b & 0xfe == 18;
        let assignments = (a, b, c) == (192, 0, 0);
        let is_local = address.is_private() || address.is_link_local() || shared || benchmarking || assignments;
        *self != Self::WELL_KNOWN || !is_local
    }
}

impl fmt::Display for Prefix64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, length) = self.parts();
        write!(f, "{prefix}/{length}")
    }
}

/// Not a prefix that IPv4 addresses can be embedded behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits with nothing behind it and zeros in bits 64 to 71")]
pub struct NoPrefix64;

impl FromStr for Prefix64 {
    type Err = NoPrefix64;

    fn from_str(text: &str) -> Result<Self, NoPrefix64> {
        let (address, length) = text.split_once('/').ok_or(NoPrefix64)?;
        let parsed = address.parse().ok().zip(length.parse().ok());
        parsed.and_then(|(address, length)| Self::new(address, length)).ok_or(NoPrefix64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    // RFC 6052 section 2.4, both tables.
    #[test]
    fn addresses_are_embedded_as_the_tables_say() {
        let v4 = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, expected) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            let parsed: Prefix64 = prefix.parse().unwrap();
            assert_eq!(parsed.to_string(), prefix);
            assert_eq!(parsed.embed(v4), v6(expected), "{prefix}");
            assert_eq!(parsed.extract(v6(expected)), Some(v4), "{prefix}");
        }
        assert_eq!("64:ff9b::/96".parse(), Ok(Prefix64::WELL_KNOWN));
    }

    // RFC 6052 section 2.2: the lengths, the reserved octet, nothing behind the prefix.
    #[test]
    fn only_prefixes_of_the_six_lengths_are_taken() {
        for length in 0..=128 {
            assert_eq!(
                Prefix64::new(v6("2001:db8::"), length).is_some(),
                Prefix64::LENGTHS.contains(&length),
                "{length}"
            );
        }
        for text in ["2001:db8::1/96", "2001:db8:0:0:100::/96", "2001:db8::", "10.0.0.0/8", "x/96", "2001:db8:1::/32"] {
            assert_eq!(text.parse::<Prefix64>(), Err(NoPrefix64), "{text}");
        }
        let prefix: Prefix64 = "2001:db8:122:344::/64".parse().unwrap();
        assert_eq!(prefix.extract(v6("2001:db8:122:344:1c0:2:2100::")), None, "bits 64 to 71");
        assert_eq!(prefix.extract(v6("2001:db8:122:345:c0:2:2100::")), None);
        assert_eq!(prefix.extract(v6("2001:db8:122:344:c0:2:2100:1")), Some(Ipv4Addr::new(192, 0, 2, 33)), "a suffix");
    }

    // RFC 6052 section 3.1.
    #[test]
    fn the_well_known_prefix_is_for_global_addresses() {
        let own: Prefix64 = "2001:db8:64::/96".parse().unwrap();
        for (address, well_known, specific) in [
            ("8.8.8.8", true, true),
            ("198.51.100.2", true, true),
            ("10.1.0.1", false, true),
            ("172.16.0.1", false, true),
            ("192.168.1.1", false, true),
            ("100.64.0.1", false, true),
            ("169.254.1.1", false, true),
            ("198.18.0.1", false, true),
            ("192.0.0.8", false, true),
            ("127.0.0.1", false, false),
            ("0.1.2.3", false, false),
            ("224.0.0.1", false, false),
            ("255.255.255.255", false, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(Prefix64::WELL_KNOWN.may_carry(address), well_known, "{address}");
            assert_eq!(own.may_carry(address), specific, "{address}");
        }
    }
}
