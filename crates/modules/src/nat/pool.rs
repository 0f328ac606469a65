//! External addresses and ports.

use std::net::IpAddr;

use flowhop_flow::key::{Address, address};
use flowhop_policy::{address_key, key_address};
use rand_core::RngCore;

/// Addresses tried for one connection when the paired one has no port left.
const MAX_CANDIDATES: u128 = 4;
/// Random ports tried before the free ones are searched in order.
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

/// Ports of one external address and protocol that are in use.
#[derive(Debug)]
pub(super) struct Ports {
    bits: Box<[u64; 1024]>,
    used: u32,
}

impl Ports {
    pub(super) fn new() -> Self {
        Self { bits: Box::new([0; 1024]), used: 0 }
    }

    pub(super) fn is_used(&self, port: u16) -> bool {
        self.bits[usize::from(port >> 6)] >> (port & 63) & 1 != 0
    }

    /// One bit for each port, the lowest port first.
    pub(super) const fn bits(&self) -> &[u64; 1024] {
        &self.bits
    }

    pub(super) fn set(&mut self, port: u16, used: bool) {
        if self.is_used(port) == used {
            return;
        }
        self.bits[usize::from(port >> 6)] ^= 1 << (port & 63);
        self.used = if used { self.used + 1 } else { self.used - 1 };
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// A random free port from 1024 on that `allowed` admits; `None` when there is none.
    pub(super) fn take(&mut self, random: &mut dyn RngCore, allowed: impl Fn(u16) -> bool) -> Option<u16> {
        const LOW: u16 = 1024;
        let random_port = |random: &mut dyn RngCore| {
            LOW + ((u64::from(random.next_u32()) * u64::from(u16::MAX - LOW + 1)) >> 32) as u16
        };
        let mut candidate =
            (0..RANDOM_TRIES).map(|_| random_port(random)).find(|port| !self.is_used(*port) && allowed(*port));
        if candidate.is_none() {
            let start = random_port(random);
            candidate = (start..=u16::MAX).chain(LOW..start).find(|port| !self.is_used(*port) && allowed(*port));
        }
        let port = candidate?;
        self.set(port, true);
        Some(port)
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

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
        let mut ports = Ports::new();
        let mut random = Counter::from_seed([7; 8]);
        let mut seen = std::collections::HashSet::new();
        while let Some(port) = ports.take(&mut random, |port| port != 5000) {
            assert!(port >= 1024 && port != 5000);
            assert!(seen.insert(port));
        }
        assert_eq!(seen.len(), 65536 - 1024 - 1);
        ports.set(2000, false);
        assert_eq!(ports.take(&mut random, |port| port != 5000), Some(2000));
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
