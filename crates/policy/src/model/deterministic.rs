//! External ports that follow from the inside address (RFC 7422), so that nothing has to be logged.
//!
//! With `N` inside addresses, `M` external ones and `P` ports of each, numbered from 0 in their order:
//!
//! ```text
//! sharing = ceil(N / M)          inside addresses that share an external one
//! block   = floor(P / sharing)   ports that each of them has, of every protocol
//!
//! inside i    ->  external i / sharing, ports first + (i % sharing) * block ... + block - 1
//! external e, port p  ->  inside e * sharing + (p - first) / block
//! ```

use std::net::IpAddr;

use super::address::{address_key, key_address};

/// Inclusive ranges of addresses, sorted and disjoint, as their keys.
type Ranges = Vec<(u128, u128)>;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deterministic {
    inside: Ranges,
    external: Ranges,
    ports: (u16, u16),
    sharing: u128,
    block: u16,
}

impl Deterministic {
    /// Inside and external addresses and ports; `None` if there is not one port for each inside address, or no address.
    #[must_use]
    pub fn new(inside: &[(IpAddr, IpAddr)], external: &[(IpAddr, IpAddr)], ports: (u16, u16)) -> Option<Self> {
        let keys = |ranges: &[(IpAddr, IpAddr)]| -> Ranges {
            ranges.iter().map(|(first, last)| (address_key(*first), address_key(*last))).collect()
        };
        let (inside, external) = (keys(inside), keys(external));
        let (inside_number, external_number) = (number(&inside)?, number(&external)?);
        let sharing = inside_number.div_ceil(external_number);
        let total = u128::from(ports.1).checked_sub(u128::from(ports.0))? + 1;
        let block = u16::try_from(total / sharing).unwrap_or(u16::MAX);
        (block > 0).then_some(Self { inside, external, ports, sharing, block })
    }

    /// Inside addresses that share an external one.
    #[must_use]
    pub const fn sharing(&self) -> u128 {
        self.sharing
    }

    /// Ports that an inside address has.
    #[must_use]
    pub const fn block(&self) -> u16 {
        self.block
    }

    /// First and last of the ports that are given out.
    #[must_use]
    pub const fn ports(&self) -> (u16, u16) {
        self.ports
    }

    /// The external address of an inside one, and its first and last port.
    #[must_use]
    pub fn external_of(&self, inside: IpAddr) -> Option<(IpAddr, (u16, u16))> {
        let place = place(&self.inside, address_key(inside))?;
        let address = member(&self.external, place / self.sharing)?;
        let offset = (place % self.sharing) * u128::from(self.block);
        let first = u16::try_from(u128::from(self.ports.0) + offset).ok()?;
        Some((key_address(address), (first, first.checked_add(self.block - 1)?)))
    }

    /// First and last of the ports of an address that inside addresses have between them; `None`: it is no external one.
    #[must_use]
    pub fn given_out(&self, external: IpAddr) -> Option<(u16, u16)> {
        place(&self.external, address_key(external))?;
        let number = u16::try_from(self.sharing.saturating_mul(u128::from(self.block))).unwrap_or(u16::MAX);
        Some((self.ports.0, self.ports.0.saturating_add(number - 1)))
    }

    /// The inside address that a port of an external address belongs to.
    #[must_use]
    pub fn inside_of(&self, external: IpAddr, port: u16) -> Option<IpAddr> {
        let place = place(&self.external, address_key(external))?;
        let block = u128::from(port.checked_sub(self.ports.0)? / self.block);
        let inside = place.checked_mul(self.sharing)?.checked_add(block)?;
        (block < self.sharing).then(|| member(&self.inside, inside).map(key_address)).flatten()
    }
}

/// How many addresses there are; `None` if none, or as many as a number cannot say.
fn number(ranges: &Ranges) -> Option<u128> {
    let sum = ranges.iter().try_fold(0_u128, |sum, (first, last)| sum.checked_add((last - first).checked_add(1)?));
    sum.filter(|sum| *sum > 0)
}

fn place(ranges: &Ranges, key: u128) -> Option<u128> {
    let mut before = 0;
    for (first, last) in ranges {
        if (*first..=*last).contains(&key) {
            return Some(before + (key - first));
        }
        before += last - first + 1;
    }
    None
}

fn member(ranges: &Ranges, mut place: u128) -> Option<u128> {
    for (first, last) in ranges {
        if place <= last - first {
            return Some(first + place);
        }
        place -= last - first + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn range(first: &str, last: &str) -> (IpAddr, IpAddr) {
        (first.parse().unwrap(), last.parse().unwrap())
    }

    // RFC 7422 section 2: there and back, for every port of every address; no port has two owners.
    #[test]
    fn what_is_given_out_can_be_found_again() {
        let inside = [range("100.64.0.0", "100.64.0.99"), range("100.64.1.7", "100.64.1.9")];
        let external = [range("192.0.2.1", "192.0.2.2"), range("198.51.100.0", "198.51.100.2")];
        let lots = Deterministic::new(&inside, &external, (1024, 65535)).unwrap();
        assert_eq!((lots.sharing(), lots.block()), (21, 3072));
        let mut seen = HashSet::new();
        for key in (0..100).map(|n| 0x6440_0000 + n).chain(0x6440_0107..=0x6440_0109) {
            let host = IpAddr::from(std::net::Ipv4Addr::from(key));
            let (address, (first, last)) = lots.external_of(host).unwrap();
            assert_eq!(last - first, 3071);
            for port in first..=last {
                assert!(seen.insert((address, port)));
                assert_eq!(lots.inside_of(address, port), Some(host));
            }
        }
        assert_eq!(lots.inside_of("192.0.2.1".parse().unwrap(), 1023), None);
        assert_eq!(lots.inside_of("192.0.2.1".parse().unwrap(), 65535), Some("100.64.0.20".parse().unwrap()));
        assert_eq!(lots.inside_of("198.51.100.2".parse().unwrap(), 1024 + 20 * 3072), None, "nobody is there");
        assert_eq!(lots.inside_of("192.0.2.9".parse().unwrap(), 2000), None);
        assert_eq!(lots.given_out("192.0.2.1".parse().unwrap()), Some((1024, 65535)));
        assert_eq!(lots.given_out("192.0.2.9".parse().unwrap()), None);
        assert_eq!(lots.external_of("100.64.0.100".parse().unwrap()), None);
    }

    #[test]
    fn a_pool_that_is_too_small_or_too_large_is_told() {
        let one = [range("192.0.2.1", "192.0.2.1")];
        assert_eq!(Deterministic::new(&[range("10.0.0.0", "10.255.255.255")], &one, (1024, 65535)), None);
        assert_eq!(
            Deterministic::new(&[range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")], &one, (1, 65535)),
            None
        );
        assert_eq!(Deterministic::new(&[], &one, (1, 65535)), None);
        let lots = Deterministic::new(&one, &[range("10.0.0.0", "10.255.255.255")], (1, 65535)).unwrap();
        assert_eq!((lots.sharing(), lots.block()), (1, 65535));
        assert_eq!(lots.external_of(one[0].0), Some(("10.0.0.0".parse().unwrap(), (1, 65535))));
    }
}
