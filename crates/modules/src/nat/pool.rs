//! External addresses and ports.

use std::net::IpAddr;

use flowhop_flow::key::{Address, address};
use flowhop_policy::{address_key, key_address};
use rand_core::RngCore;

use super::port_set;

/// Addresses tried for one connection when the paired one has no port left.
const MAX_CANDIDATES: u128 = 4;
/// Random ports tried before the free ones are looked for word by word.
const RANDOM_TRIES: usize = 24;

/// A place among `total`, at least 1, that an address always gets. Any fixed function will do that spreads neighbours:
/// they are often given out in order.
pub(super) const fn spread(address: u128, total: u128) -> u128 {
    address.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) % total
}

/// The address that an inside address is paired with, and the few after it.
pub(super) fn candidates(ranges: &[&(IpAddr, IpAddr)], inside: u128) -> Vec<Address> {
    let sizes: Vec<u128> =
        ranges.iter().map(|(first, last)| address_key(*last).saturating_sub(address_key(*first)) + 1).collect();
    let total: u128 = sizes.iter().sum();
    if total == 0 {
        return Vec::new();
    }
    let start = spread(inside, total);
    (0..MAX_CANDIDATES.min(total))
        .filter_map(|step| {
            let mut place = (start + step) % total;
            for ((first, _), size) in ranges.iter().zip(&sizes) {
                if place < *size {
                    return Some(address(key_address(address_key(*first) + place)));
                }
                place -= size;
            }
            None
        })
        .collect()
}

/// Ranges of ports, those that are even or odd as a port is first.
pub(super) fn of_parity(ranges: &[(u16, u16)], like: Option<u16>) -> Vec<PortRange> {
    let same = like.into_iter().flat_map(|port| ranges.iter().map(move |range| PortRange::new(*range, Some(port))));
    same.chain(ranges.iter().map(|range| PortRange::new(*range, None))).collect()
}

/// Ports between two, both included; all, or the even or odd ones alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortRange {
    first: u16,
    last: u16,
    step: u16,
}

impl PortRange {
    /// `like`: only ports that are even if this one is, odd if it is odd.
    pub(super) const fn new((first, last): (u16, u16), like: Option<u16>) -> Self {
        match like {
            None => Self { first, last, step: 1 },
            Some(port) if first == u16::MAX && (port ^ first) & 1 != 0 => Self { first, last: 0, step: 2 },
            Some(port) => Self { first: first + ((port ^ first) & 1), last, step: 2 },
        }
    }

    /// Whether a port is between the two; of either parity.
    pub(super) const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    const fn len(&self) -> u32 {
        if self.first > self.last { 0 } else { (self.last as u32 - self.first as u32) / self.step as u32 + 1 }
    }

    const fn port(&self, place: u32) -> u16 {
        self.first + place as u16 * self.step
    }

    /// A random port of those that are free (RFC 6056 section 3.3.1); `None` when there is none. `free`: the ports of a
    /// word.
    pub(super) fn pick(&self, random: &mut dyn RngCore, free: impl Fn(usize) -> u64) -> Option<u16> {
        let number = self.len();
        if number == 0 {
            return None;
        }
        let is_free = |port: &u16| free(usize::from(port >> 6)) >> (port & 63) & 1 != 0;
        let tried = (0..RANDOM_TRIES).map(|_| self.port(below(number, random))).find(is_free);
        tried.or_else(|| self.ports(random, &free).next())
    }

    /// Its free ports, from a random word on.
    pub(super) fn ports(&self, random: &mut dyn RngCore, free: impl Fn(usize) -> u64) -> impl Iterator<Item = u16> {
        let ends = (self.first, self.last);
        let same = if self.step == 1 { u64::MAX } else { (u64::MAX / 3) << (self.first & 1) };
        let (first, after) = (usize::from(self.first >> 6), usize::from(self.last >> 6) + 1);
        let start = first + below((after.saturating_sub(first)) as u32, random) as usize;
        let turn = random.next_u32() % 64;
        (start..after).chain(first..start.min(after)).flat_map(move |index| {
            let mut left = (free(index) & same & port_set::mask(ends, index)).rotate_right(turn);
            std::iter::from_fn(move || {
                let bit = (left.trailing_zeros() + turn) % 64;
                let found = left != 0;
                left &= left.wrapping_sub(1);
                found.then_some((index as u32 * 64 + bit) as u16)
            })
        })
    }
}

/// A number below another one; 0 below 0.
fn below(number: u32, random: &mut dyn RngCore) -> u32 {
    ((u64::from(random.next_u32()) * u64::from(number)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::super::port_set::PortSet;
    use super::*;

    struct Counter(u64);

    impl RngCore for Counter {
        fn next_u32(&mut self) -> u32 {
            self.next_u64() as u32
        }
        fn next_u64(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.0 >> 16
        }
        fn fill_bytes(&mut self, _: &mut [u8]) {}
    }

    impl SeedableRng for Counter {
        type Seed = [u8; 8];
        fn from_seed(seed: [u8; 8]) -> Self {
            Self(u64::from_le_bytes(seed))
        }
    }

    // RFC 4787 REQ-3: every port is given out once, down to the last.
    #[test]
    fn all_ports_are_found_and_none_twice() {
        let mut used = PortSet::default();
        used.set(5000, true);
        let mut random = Counter::from_seed([7; 8]);
        let mut seen = std::collections::HashSet::new();
        let mut take = |used: &mut PortSet, range: &PortRange| {
            let port = range.pick(&mut random, |index| !used.word(index))?;
            used.set(port, true);
            Some(port)
        };
        let range = PortRange::new((1024, 65535), None);
        while let Some(port) = take(&mut used, &range) {
            assert!(port >= 1024 && port != 5000);
            assert!(seen.insert(port));
        }
        assert_eq!(seen.len(), 65536 - 1024 - 1);
        used.set(2000, false);
        used.set(2001, false);
        assert_eq!(take(&mut used, &PortRange::new((1024, 65535), Some(7))), Some(2001));
        assert_eq!(take(&mut used, &PortRange::new((1024, 65535), Some(7))), None);
        assert_eq!(take(&mut used, &PortRange::new((1024, 1999), None)), None);
        assert_eq!(take(&mut used, &range), Some(2000));
    }

    // However few ports are free, each word is looked at a bounded number of times.
    #[test]
    fn a_search_in_vain_is_short() {
        let looked = std::cell::Cell::new(0);
        let busy = |_| {
            looked.set(looked.get() + 1);
            0
        };
        let mut random = Counter::from_seed([7; 8]);
        assert_eq!(PortRange::new((1024, 65535), None).pick(&mut random, busy), None);
        assert!(looked.get() <= 24 + 1024, "{}", looked.get());
    }

    #[test]
    fn free_ports_are_those_of_the_range() {
        let mut random = Counter::from_seed([7; 8]);
        for (ends, like) in
            [((5, 9), None), ((5, 9), Some(0)), ((60, 200), Some(1)), ((6, 6), Some(1)), ((65535, 65535), Some(2))]
        {
            let range = PortRange::new(ends, like);
            let mut found: Vec<u16> = range.ports(&mut random, |_| u64::MAX).collect();
            found.sort_unstable();
            assert_eq!(found, (0..range.len()).map(|place| range.port(place)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn ranges_of_one_parity_have_their_ports() {
        let ports = |range, like| {
            let range = PortRange::new(range, like);
            (0..range.len()).map(|place| range.port(place)).collect::<Vec<_>>()
        };
        assert_eq!(ports((5, 9), Some(0)), [6, 8]);
        assert_eq!(ports((5, 9), Some(1)), [5, 7, 9]);
        assert_eq!(ports((6, 6), Some(1)), []);
        assert_eq!(ports((65535, 65535), Some(2)), []);
        assert_eq!(ports((65535, 65535), Some(3)), [65535]);
        assert_eq!(ports((1, 65535), Some(4)).len(), 32767);
        assert_eq!(ports((1, 65535), None).len(), 65535);
    }

    // RFC 4787 REQ-2: paired pooling.
    #[test]
    fn an_inside_address_keeps_its_external_one() {
        let pool = [("198.51.100.10".parse().unwrap(), "198.51.100.19".parse().unwrap())];
        let ranges: Vec<_> = pool.iter().collect();
        let first = candidates(&ranges, 0x0a01_0002);
        assert_eq!(first, candidates(&ranges, 0x0a01_0002));
        assert_eq!(first.len(), 4);
        let spread: std::collections::HashSet<_> = (0..100).map(|n| candidates(&ranges, 0x0a01_0000 + n)[0]).collect();
        assert!(spread.len() >= 8);
    }
}
