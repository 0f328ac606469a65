//! Mappings that hosts have asked for: the explicit dynamic inbound mappings of RFC 6887.
//!
//! One belongs to an inside endpoint and lets in whom its filters name, everybody if there are none, until its time is
//! over. Where the endpoint is translated it keeps a binding, which connections of the host use as well; where it is not,
//! or by the address alone, it is no more than permission: a *pinhole*. Memory is bounded: a share of the table.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use flowhop_engine::sources::source_of;
use flowhop_flow::key::Address;
use flowhop_flow::record::Tick;

use super::bindings::Endpoint;
use crate::shared::number;

/// Filters that one mapping may have (RFC 6887 section 13.3: one at least).
pub(crate) const FILTERS: usize = 16;
/// The share of the table that there may be mappings for: one in so many.
const SHARE: usize = 16;

/// The time in ticks since a clock was made, which does not wrap.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    total: u64,
    last: Option<Tick>,
}

impl Clock {
    /// It has to be asked once in 52 days at least.
    pub(crate) fn at(&mut self, now: Tick) -> u64 {
        let passed = now.wrapping_sub(self.last.unwrap_or(now));
        // What is said to be before is taken for the same moment.
        if passed <= Tick::MAX / 2 {
            self.total += u64::from(passed);
            self.last = Some(now);
        }
        self.total
    }
}

/// Who may send to a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peers {
    /// First and last address, as numbers; IPv4 is mapped.
    pub addresses: (u128, u128),
    /// The port; `None`: any.
    pub port: Option<u16>,
}

impl Peers {
    fn hold(&self, peer: &Endpoint) -> bool {
        let (first, last) = self.addresses;
        (first..=last).contains(&number(&peer.address)) && self.port.is_none_or(|port| port == peer.port)
    }
}

/// What a host is granted.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// Who changes the mapping has to know it.
    pub(crate) nonce: [u8; 12],
    /// How long it lasts, in ticks.
    pub(crate) lifetime: Tick,
    /// Who may send to it; nobody named: all.
    pub(crate) filters: Vec<Peers>,
}

/// A mapping that a host has asked for.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    /// How it is known outside.
    pub(crate) external: Endpoint,
    /// The translation that keeps a binding for it; 0: it is a pinhole.
    pub(crate) nat: u16,
    pub(crate) nonce: [u8; 12],
    /// When it ends.
    pub(super) until: u64,
    pub(crate) filters: Vec<Peers>,
}

impl Mapping {
    /// Whether who is known by one of these endpoints may send to it.
    pub(super) fn lets_in<'a>(&self, mut known: impl Iterator<Item = &'a Endpoint>) -> bool {
        self.filters.is_empty() || known.any(|peer| self.filters.iter().any(|filter| filter.hold(peer)))
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Explicit {
    by_inside: HashMap<Endpoint, Mapping>,
    by_end: BTreeSet<(u64, Endpoint)>,
    of_host: HashMap<Address, u32>,
    /// By external address and protocol, pinholes aside.
    at: HashMap<(Address, u8), u32>,
    room: usize,
    clock: Clock,
}

impl Explicit {
    /// None yet, for a table of so many connections.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            by_inside: HashMap::new(),
            by_end: BTreeSet::new(),
            of_host: HashMap::new(),
            at: HashMap::new(),
            room: connections / SHARE,
            clock: Clock::default(),
        }
    }

    pub(super) fn get(&self, inside: &Endpoint) -> Option<&Mapping> {
        self.by_inside.get(inside)
    }

    /// Ticks that a mapping has left.
    pub(super) fn left(&mut self, inside: &Endpoint, now: Tick) -> u64 {
        let now = self.clock.at(now);
        self.by_inside.get(inside).map_or(0, |mapping| mapping.until.saturating_sub(now))
    }

    /// How many the host of an address has.
    pub(super) fn of(&self, address: &Address) -> u32 {
        self.of_host.get(&source_of(address)).copied().unwrap_or(0)
    }

    /// How many of the same protocol there are at an external address.
    pub(super) fn at(&self, external: &Endpoint) -> u32 {
        self.at.get(&(external.address, external.protocol)).copied().unwrap_or(0)
    }

    pub(super) fn is_full(&self) -> bool {
        self.by_inside.len() >= self.room
    }

    /// Notes a mapping, or that it goes on.
    pub(super) fn put(&mut self, inside: Endpoint, external: Endpoint, nat: u16, grant: Grant, now: Tick) {
        self.take(&inside);
        let Grant { nonce, lifetime, filters } = grant;
        let until = self.clock.at(now) + u64::from(lifetime);
        self.by_inside.insert(inside, Mapping { external, nat, nonce, until, filters });
        self.by_end.insert((until, inside));
        *self.of_host.entry(source_of(&inside.address)).or_default() += 1;
        if nat != 0 {
            *self.at.entry((external.address, external.protocol)).or_default() += 1;
        }
    }

    /// Takes a mapping out.
    pub(super) fn take(&mut self, inside: &Endpoint) -> Option<Mapping> {
        let mapping = self.by_inside.remove(inside)?;
        self.by_end.remove(&(mapping.until, *inside));
        one_less(&mut self.of_host, &source_of(&inside.address));
        if mapping.nat != 0 {
            one_less(&mut self.at, &(mapping.external.address, mapping.external.protocol));
        }
        Some(mapping)
    }

    /// The first one whose time is over.
    pub(super) fn first_over(&mut self, now: Tick) -> Option<Endpoint> {
        let now = self.clock.at(now);
        self.by_end.first().filter(|(until, _)| *until <= now).map(|(_, inside)| *inside)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Endpoint, &Mapping)> {
        self.by_inside.iter()
    }
}

fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, u32>, of: &K) {
    match counts.get_mut(of) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(counts.remove(of)),
    }
}

#[cfg(test)]
mod tests {
    use flowhop_flow::key::address;

    use super::*;

    fn endpoint(text: &str, port: u16) -> Endpoint {
        Endpoint { protocol: 6, address: address(text.parse().unwrap()), port }
    }

    fn grant(lifetime: Tick) -> Grant {
        Grant { nonce: [1; 12], lifetime, filters: Vec::new() }
    }

    // RFC 6887 section 15: active for the duration of the lifetime, across the wrap of ticks.
    #[test]
    fn a_mapping_ends_with_its_lifetime_and_not_before() {
        let mut all = Explicit::new(1024);
        let (a, b) = (endpoint("10.1.0.2", 80), endpoint("10.1.0.3", 80));
        let start = Tick::MAX - 50;
        all.put(a, a, 0, grant(100), start);
        all.put(b, b, 0, grant(200), start);
        assert_eq!(all.first_over(start.wrapping_add(99)), None);
        assert_eq!(all.left(&a, start.wrapping_add(99)), 1);
        all.put(b, b, 0, grant(50), start.wrapping_add(99));
        assert_eq!(all.first_over(start.wrapping_add(100)), Some(a));
        assert!(all.take(&a).is_some());
        assert_eq!(all.first_over(start.wrapping_add(148)), None);
        assert_eq!(all.first_over(start.wrapping_add(149)), Some(b));
        assert_eq!((all.of(&a.address), all.of(&b.address)), (0, 1));
    }

    #[test]
    fn a_host_of_ipv6_is_its_prefix() {
        let mut all = Explicit::new(1024);
        for (text, port) in [("fd00::1", 1), ("fd00::2", 1), ("fd00::2", 2), ("fd00:0:0:1::2", 2)] {
            let inside = endpoint(text, port);
            all.put(inside, inside, 0, grant(9), 0);
        }
        assert_eq!(all.of(&endpoint("fd00::77", 0).address), 3);
    }
}
