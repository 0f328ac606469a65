//! How a source translation shares out its external addresses and ports.

use super::deterministic::Deterministic;

/// Which of several external addresses the mappings of an inside address get (RFC 4787 section 4.1, REQ-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// One and the same, as long as there are any.
    #[default]
    Paired,
    /// The same as long as it has ports to give, then another.
    Arbitrary,
}

impl Pooling {
    /// As the file spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Paired => "paired",
            Self::Arbitrary => "arbitrary",
        }
    }
}

/// How an inside address comes by external ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// One by one.
    #[default]
    Ports,
    /// So many at a time, which are its own as long as it uses one of them.
    Blocks(u16),
    /// They follow from its address.
    Deterministic(Deterministic),
}

/// What one inside address may have under a translation (RFC 6888 REQ-4, REQ-5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatLimits {
    /// Mappings, each of which takes an external port; `None`: no limit.
    pub ports: Option<u32>,
    /// Connections by mappings.
    pub connections: Option<u32>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPool {
    /// First and last external port, or identifier; `None`: from 1024 on, and below that where the inside port is.
    pub ports: Option<(u16, u16)>,
    /// Even ports become even ones, odd ports odd ones, where there are any left (RFC 4787 REQ-4).
    pub parity: bool,
    /// A port stays as it is where it is free.
    pub keep_port: bool,
    /// The address of an interface is used although its network has addresses in common with the one that connections come
    /// from (RFC 4787 REQ-7).
    pub overlap: bool,
    /// Which of several addresses.
    pub pooling: Pooling,
    /// How an inside address comes by ports.
    pub allocation: Allocation,
    /// What one inside address may have.
    pub limits: NatLimits,
}

/// The last port of those that a host needs privileges for (RFC 4787 REQ-3 a).
const LAST_SYSTEM: u16 = 1023;

impl PortPool {
    /// The ranges that a new external port is taken from, in this order. A port stays on its side of 1024 where it can;
    /// what is above gets nothing below, unless the operator has named those ports. `port`: the inside port, `None` for
    /// identifiers of echo, which have no sides.
    #[must_use]
    pub fn ranges(&self, port: Option<u16>) -> Vec<(u16, u16)> {
        let (first, last) = self.ports.unwrap_or((1, u16::MAX));
        let low = (first, last.min(LAST_SYSTEM));
        let high = (first.max(LAST_SYSTEM + 1), last);
        let ranges = match (port, self.ports) {
            (None, Some(whole)) => vec![whole],
            (Some(port), _) if port <= LAST_SYSTEM => vec![low, high],
            (Some(_), Some(_)) => vec![high, low],
            (_, None) => vec![high],
        };
        ranges.into_iter().filter(|(first, last)| first <= last).collect()
    }

    /// All ports that are given out in blocks or by the address.
    #[must_use]
    pub fn whole_range(&self) -> (u16, u16) {
        self.ports.unwrap_or((LAST_SYSTEM + 1, u16::MAX))
    }

    /// Whether a port may be kept.
    #[must_use]
    pub fn keeps(&self, port: u16) -> bool {
        self.keep_port && self.ports.is_none_or(|(first, last)| (first..=last).contains(&port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 4787 REQ-3 a.
    #[test]
    fn ports_stay_on_their_side() {
        let pool = PortPool::default();
        assert_eq!(pool.ranges(Some(53)), [(1, 1023), (1024, 65535)]);
        assert_eq!(pool.ranges(Some(1024)), [(1024, 65535)]);
        assert_eq!(pool.ranges(None), [(1024, 65535)]);
        let pool = PortPool { ports: Some((1000, 1999)), ..PortPool::default() };
        assert_eq!(pool.ranges(Some(53)), [(1000, 1023), (1024, 1999)]);
        assert_eq!(pool.ranges(Some(5353)), [(1024, 1999), (1000, 1023)]);
        assert_eq!(pool.ranges(None), [(1000, 1999)]);
        let pool = PortPool { ports: Some((2000, 2999)), ..PortPool::default() };
        assert_eq!(pool.ranges(Some(53)), [(2000, 2999)]);
    }
}
