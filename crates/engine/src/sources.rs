//! How many connections each source has: for limits, and to say who fills the table.
//!
//! A source is the address that a connection's first packet came from, before translation; of IPv6 the upper 64 bits,
//! since a host takes addresses below them as it likes (RFC 8981). Memory is bounded by the table: there is no source
//! without a connection.

use std::collections::HashMap;
use std::net::IpAddr;

use flowhop_flow::key::{self, Address, V4_MAPPED};

/// Room that is made at start; more sources than that make the map grow, up to one for each connection.
const FIRST: usize = 65_536;

/// Connections by source.
#[derive(Debug)]
pub struct Sources(HashMap<Address, u32>);

/// A source and how many connections it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The address, or the first one of the prefix of 64 bits.
    pub source: IpAddr,
    /// Its connections.
    pub connections: u32,
}

/// What counts as one source.
#[must_use]
pub const fn source_of(address: &Address) -> Address {
    let [a, b, c, d] = *address;
    if a | b == 0 && c == V4_MAPPED { [a, b, c, d] } else { [a, b, 0, 0] }
}

impl Sources {
    /// None yet, for a table of so many connections.
    #[must_use]
    pub fn new(connections: usize) -> Self {
        Self(HashMap::with_capacity(connections.min(FIRST)))
    }

    /// A connection begins.
    pub fn opened(&mut self, address: &Address) {
        *self.0.entry(source_of(address)).or_default() += 1;
    }

    /// A connection is gone.
    pub fn closed(&mut self, address: &Address) {
        let source = source_of(address);
        match self.0.get_mut(&source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.0.remove(&source)),
        }
    }

    /// How many the source of an address has.
    #[must_use]
    pub fn connections(&self, address: &Address) -> u32 {
        self.0.get(&source_of(address)).copied().unwrap_or(0)
    }

    /// How many sources there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The `n` sources with the most connections, the most first.
    #[must_use]
    pub fn top(&self, n: usize) -> Vec<Share> {
        let mut top: Vec<(u32, Address)> = Vec::with_capacity(n + 1);
        for (address, count) in &self.0 {
            if top.len() < n || top.last().is_some_and(|(least, _)| least < count) {
                let place = top.partition_point(|(more, other)| (more, address) > (count, other));
                top.insert(place, (*count, *address));
                top.truncate(n);
            }
        }
        top.into_iter().map(|(connections, address)| Share { source: key::ip(&address), connections }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        key::address(text.parse().unwrap())
    }

    #[test]
    fn sources_come_and_go_with_their_connections() {
        let mut sources = Sources::new(16);
        for (text, count) in [("10.0.0.1", 3), ("10.0.0.2", 5), ("fd00::1", 2), ("fd00::2", 2), ("10.0.0.3", 1)] {
            (0..count).for_each(|_| sources.opened(&address(text)));
        }
        // RFC 8981: the two hosts of one prefix of 64 bits are one source.
        assert_eq!(sources.connections(&address("fd00::9")), 4);
        let top: Vec<(String, u32)> = sources.top(3).iter().map(|s| (s.source.to_string(), s.connections)).collect();
        assert_eq!(top, [("10.0.0.2".into(), 5), ("fd00::".into(), 4), ("10.0.0.1".into(), 3)]);
        (0..5).for_each(|_| sources.closed(&address("10.0.0.2")));
        assert_eq!((sources.connections(&address("10.0.0.2")), sources.len()), (0, 3));
    }
}
