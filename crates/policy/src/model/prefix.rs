//! Prefix translation for IPv6 (RFC 6296): addresses change, ports and checksums of what they carry stay.
//!
//! The prefix is exchanged, and one word behind it makes up for the difference in the one's complement sum of the whole
//! address: the fourth word of the address, which names the subnet, if the prefix leaves it free, else the first word of
//! the interface identifier that is not `ffff`.

use std::net::{IpAddr, Ipv6Addr};

/// Two prefixes that stand for each other. Where one is shorter, it is taken with zeros up to the length of the other
/// (RFC 6296 section 3.7): its other subnets have no counterpart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixPair {
    inside: u128,
    external: u128,
    length: u8,
}

impl PrefixPair {
    /// Longest prefix: the interface identifier is not part of it.
    pub const LONGEST: u8 = 64;
    /// Up to this length the word of the subnet makes up for the difference.
    const WITH_SUBNET: u8 = 48;

    /// The pair of two prefixes with their lengths; `None` for a length of 0 or more than [`LONGEST`](Self::LONGEST) (the
    /// interface identifier of a unicast address has 64 bits, RFC 4291 section 2.5.1), or bits beyond it.
    #[must_use]
    pub fn new(inside: (Ipv6Addr, u8), external: (Ipv6Addr, u8)) -> Option<Self> {
        let is_prefix = |(first, length): (Ipv6Addr, u8)| {
            (1..=Self::LONGEST).contains(&length) && first.to_bits() & u128::MAX >> length == 0
        };
        let length = inside.1.max(external.1);
        let (first, other) = (inside.0.to_bits(), external.0.to_bits());
        (is_prefix(inside) && is_prefix(external)).then_some(Self { inside: first, external: other, length })
    }

    /// Bits of the longer prefix.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The inside prefix and the external one.
    #[must_use]
    pub const fn prefixes(&self) -> (Ipv6Addr, Ipv6Addr) {
        (Ipv6Addr::from_bits(self.inside), Ipv6Addr::from_bits(self.external))
    }

    /// First and last inside address that has a counterpart.
    #[must_use]
    pub const fn inside_range(&self) -> (IpAddr, IpAddr) {
        let last = self.inside | u128::MAX >> self.length;
        (IpAddr::V6(Ipv6Addr::from_bits(self.inside)), IpAddr::V6(Ipv6Addr::from_bits(last)))
    }

    /// First and last external address.
    #[must_use]
    pub const fn external_range(&self) -> (Ipv6Addr, Ipv6Addr) {
        (Ipv6Addr::from_bits(self.external), Ipv6Addr::from_bits(self.external | u128::MAX >> self.length))
    }

    /// The external address of an inside one; `None` for one that is not of the prefix, or has none: that of the subnet
    /// `ffff` behind prefixes of up to 48 bits, with nothing but `ffff`, or nothing at all, in its interface identifier, here
    /// or there, behind longer ones (RFC 6296 sections 3.4, 3.5, 3.7).
    #[must_use]
    pub fn external_of(&self, inside: u128) -> Option<u128> {
        self.exchange(inside, self.inside, self.external)
    }

    /// The inside address of an external one; `None` as above.
    #[must_use]
    pub fn inside_of(&self, external: u128) -> Option<u128> {
        self.exchange(external, self.external, self.inside)
    }

    fn exchange(&self, address: u128, from: u128, to: u128) -> Option<u128> {
        let host = u128::MAX >> self.length;
        if address & !host != from {
            return None;
        }
        let with_subnet = self.length <= Self::WITH_SUBNET;
        if !with_subnet && address as u64 == 0 {
            return None;
        }
        let words = if with_subnet { 3..4 } else { 4..8 };
        let shift = |word: usize| 112 - 16 * word;
        let word = words.into_iter().find(|word| (address >> shift(*word)) as u16 != u16::MAX)?;
        let adjusted = plus(plus((address >> shift(word)) as u16, sum(from)), !sum(to));
        let adjusted = if adjusted == u16::MAX { 0 } else { adjusted };
        let rest = address & host & !(u128::from(u16::MAX) << shift(word));
        let exchanged = to | rest | u128::from(adjusted) << shift(word);
        // From an identifier of nothing there would be no way back.
        (with_subnet || exchanged as u64 != 0).then_some(exchanged)
    }
}

/// One's complement sum of two words.
const fn plus(a: u16, b: u16) -> u16 {
    let sum = a as u32 + b as u32;
    (sum as u16) + (sum >> 16) as u16
}

/// One's complement sum of the words of an address.
fn sum(address: u128) -> u16 {
    address.to_be_bytes().as_chunks::<2>().0.iter().fold(0, |all, word| plus(all, u16::from_be_bytes(*word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(text: &str) -> u128 {
        text.parse::<Ipv6Addr>().unwrap().to_bits()
    }

    fn pair(inside: &str, external: &str, length: u8) -> PrefixPair {
        PrefixPair::new((inside.parse().unwrap(), length), (external.parse().unwrap(), length)).unwrap()
    }

    // RFC 6296 section 3.4 and its example: FD01:0203:0405:0001::1234 becomes 2001:0DB8:0001:D550::1234.
    #[test]
    fn the_subnet_makes_up_for_the_prefix() {
        let pair = pair("fd01:203:405::", "2001:db8:1::", 48);
        let (inside, external) = (bits("fd01:203:405:1::1234"), bits("2001:db8:1:d550::1234"));
        assert_eq!(pair.external_of(inside), Some(external));
        assert_eq!(pair.inside_of(external), Some(inside));
        assert_eq!(pair.external_of(bits("fd01:203:405:ffff::1")), None);
        assert_eq!(pair.external_of(bits("fd01:203:406:1::1")), None);
    }

    // Checksum-neutral and one to one, for all subnets and for all kinds of prefix.
    #[test]
    fn sums_stay_and_no_two_become_one() {
        for (inside, external, length) in [
            ("fd01:203:405::", "2001:db8:1::", 48),
            ("fd00::", "2001:db8::", 32),
            ("fd01:203:405:100::", "2001:db8:1:aa00::", 56),
            ("fd01:203:405:7::", "2001:db8:1:9::", 64),
            ("fdff:ffff:ffff::", "2001:db8:1::", 48),
        ] {
            let pair = pair(inside, external, length);
            let mut seen = std::collections::HashSet::new();
            for word in 0..=0xfffe_u128 {
                let place = if length <= 48 { 64 } else { 48 };
                let address = bits(inside) | word << place | 0x1234;
                let there = pair.external_of(address).unwrap();
                assert_eq!(plus(sum(there), !sum(address)), u16::MAX, "{:?}", Ipv6Addr::from_bits(address));
                assert_eq!(pair.inside_of(there), Some(address), "{:?}", Ipv6Addr::from_bits(address));
                assert!(seen.insert(there));
            }
        }
    }

    // RFC 6296 section 3.5: the next word where one has no room.
    #[test]
    fn the_first_word_that_can_makes_up_for_a_long_prefix() {
        let pair = pair("fd01:203:405:7::", "2001:db8:1:9::", 64);
        let inside = bits("fd01:203:405:7:ffff:2:3:4");
        let external = pair.external_of(inside).unwrap();
        assert_eq!(external & 0xffff_0000_ffff_ffff_u128, inside & 0xffff_0000_ffff_ffff_u128);
        assert_eq!(pair.inside_of(external), Some(inside));
        assert_eq!(pair.external_of(bits("fd01:203:405:7:ffff:ffff:ffff:ffff")), None);
        assert_eq!(pair.external_of(bits("fd01:203:405:7::")), None, "RFC 6296 section 3.7");
        assert_eq!(pair.inside_of(bits("2001:db8:1:9::")), None);
        // What would become an identifier of nothing could not be answered: there is no way back from that.
        let [from, to] = ["fd01:203:405:7::", "2001:db8:1:9::"].map(|prefix| sum(bits(prefix)));
        let inside = bits("fd01:203:405:7::") | u128::from(plus(to, !from)) << 48;
        assert_eq!(
            (pair.external_of(inside), pair.external_of(inside | 1).and_then(|seen| pair.inside_of(seen))),
            (None, Some(inside | 1))
        );
    }

    // RFC 6296 section 3.7: the shorter prefix with zeros; its other subnets have no counterpart.
    #[test]
    fn prefixes_of_two_lengths_stand_for_each_other() {
        let parse = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        for (inside, external) in [(48, 56), (56, 48), (40, 48), (64, 48)] {
            let pair = PrefixPair::new((parse("fd01:203::"), inside), (parse("2001:db8::"), external)).unwrap();
            let length = inside.max(external);
            assert_eq!(pair.length(), length);
            for host in [0x1234_u128, 0xffff_0000_0000_0000, 1 << 63] {
                let address = bits("fd01:203::") | host;
                let there = pair.external_of(address).unwrap();
                assert_eq!(there >> (128 - length), bits("2001:db8::") >> (128 - length));
                assert_eq!((pair.inside_of(there), plus(sum(there), !sum(address))), (Some(address), u16::MAX));
            }
            assert_eq!(pair.external_of(bits("fd01:203::1") | 1 << (128 - length)), None, "/{inside} and /{external}");
        }
    }

    #[test]
    fn only_prefixes_make_a_pair() {
        let new =
            |a: &str, b: &str, length| PrefixPair::new((a.parse().unwrap(), length), (b.parse().unwrap(), length));
        assert_eq!(new("fd00::1", "2001:db8::", 64), None);
        assert_eq!(new("fd00::", "2001:db8::", 0), None);
        assert_eq!(new("fd00::", "2001:db8::", 65), None);
        assert_eq!(new("fd00::", "2001:db8:1::", 32), None);
    }
}
