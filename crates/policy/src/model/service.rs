//! Sets of ports and of services.

use super::ranges::Ranges;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// A set of ports as sorted disjoint inclusive ranges.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortSet(Ranges<u16>);

impl PortSet {
    /// Every port: what an absent `source_port` means.
    #[must_use]
    pub fn any() -> Self {
        Self(Ranges::all())
    }

    /// No port at all.
    #[must_use]
    pub fn none() -> Self {
        Self(Ranges::none())
    }

    /// The union of inclusive ranges, in any order.
    #[must_use]
    pub fn of_ranges(ranges: Vec<(u16, u16)>) -> Self {
        Self(Ranges::union(ranges))
    }

    /// Every port that is not in the set.
    #[must_use]
    pub fn outside(&self) -> Self {
        Self(Ranges::all().without(&self.0))
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        Self::of_ranges(self.ranges().iter().chain(other.ranges()).copied().collect())
    }

    /// Whether the port is in the set. Binary search.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(port)
    }

    /// Whether everything in `other` is in this set.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0.covers(&other.0)
    }

    /// Whether this is every port.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.is_all()
    }

    /// Whether no port is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, inclusive, sorted, with gaps between them.
    #[must_use]
    pub fn ranges(&self) -> &[(u16, u16)] {
        self.0.as_slice()
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self::any()
    }
}

/// A set of 256 numbers: protocols, ICMP types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Bits([u64; 4]);

impl Bits {
    const NONE: Self = Self([0; 4]);
    const ALL: Self = Self([u64::MAX; 4]);

    fn insert(&mut self, bit: u8) {
        self.0[usize::from(bit >> 6)] |= 1 << (bit & 63);
    }

    fn contains(self, bit: u8) -> bool {
        self.0[usize::from(bit >> 6)] >> (bit & 63) & 1 != 0
    }

    fn covers(self, other: Self) -> bool {
        self.0.iter().zip(other.0).all(|(mine, theirs)| theirs & !mine == 0)
    }

    fn union(self, other: Self) -> Self {
        let mut both = self;
        for (mine, theirs) in both.0.iter_mut().zip(other.0) {
            *mine |= theirs;
        }
        both
    }
}

/// One entry of a service list: a protocol, or some ports or types of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceItem {
    Protocol(u8),
    TcpPorts(u16, u16),
    UdpPorts(u16, u16),
    IcmpType(u8),
    Icmpv6Type(u8),
}

/// What a `service` and a `source_port` admit: protocols, ports of TCP and UDP, types of ICMP and ICMPv6.
///
/// In normal form: a protocol is in `whole` exactly when all its ports or types are in the set, and where
/// the source port is restricted, protocols without ports are in no part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceSet {
    whole: Bits,
    tcp: PortSet,
    udp: PortSet,
    icmp: Bits,
    icmpv6: Bits,
    source_ports: PortSet,
}

impl ServiceSet {
    /// Every packet of every protocol: what an absent `service` means.
    #[must_use]
    pub fn any() -> Self {
        Self { whole: Bits::ALL, ..Self::none() }.normalized()
    }

    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self {
            whole: Bits::NONE,
            tcp: PortSet::none(),
            udp: PortSet::none(),
            icmp: Bits::NONE,
            icmpv6: Bits::NONE,
            source_ports: PortSet::any(),
        }
    }

    /// One destination port of TCP.
    #[must_use]
    pub fn tcp_port(port: u16) -> Self {
        Self::of_items([ServiceItem::TcpPorts(port, port)])
    }

    pub(crate) fn of_items(items: impl IntoIterator<Item = ServiceItem>) -> Self {
        let mut set = Self::none();
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                ServiceItem::Protocol(protocol) => set.whole.insert(protocol),
                ServiceItem::TcpPorts(first, last) => tcp.push((first, last)),
                ServiceItem::UdpPorts(first, last) => udp.push((first, last)),
                ServiceItem::IcmpType(kind) => set.icmp.insert(kind),
                ServiceItem::Icmpv6Type(kind) => set.icmpv6.insert(kind),
            }
        }
        set.tcp = PortSet::of_ranges(tcp);
        set.udp = PortSet::of_ranges(udp);
        set.normalized()
    }

    /// The union of two sets that leave the source port open.
    pub(crate) fn union(&self, other: &Self) -> Self {
        Self {
            whole: self.whole.union(other.whole),
            tcp: self.tcp.union(&other.tcp),
            udp: self.udp.union(&other.udp),
            icmp: self.icmp.union(other.icmp),
            icmpv6: self.icmpv6.union(other.icmpv6),
            source_ports: PortSet::any(),
        }
        .normalized()
    }

    /// The part of this set that comes from these source ports.
    pub(crate) fn with_source_ports(mut self, source_ports: PortSet) -> Self {
        self.source_ports = source_ports;
        self.normalized()
    }

    /// Whether a packet with these fields is in the set. A port or type that the protocol does not have is ignored.
    #[must_use]
    pub fn matches(&self, protocol: u8, source_port: u16, destination_port: u16, icmp_type: u8) -> bool {
        match protocol {
            TCP => self.tcp.contains(destination_port) && self.source_ports.contains(source_port),
            UDP => self.udp.contains(destination_port) && self.source_ports.contains(source_port),
            ICMP => self.icmp.contains(icmp_type),
            ICMPV6 => self.icmpv6.contains(icmp_type),
            _ => self.whole.contains(protocol),
        }
    }

    /// Whether everything in `other` is in this set.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.whole.covers(other.whole)
            && self.tcp.covers(&other.tcp)
            && self.udp.covers(&other.udp)
            && self.icmp.covers(other.icmp)
            && self.icmpv6.covers(other.icmpv6)
            && self.source_ports.covers(&other.source_ports)
    }

    /// Whether this is every packet of every protocol.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.whole == Bits::ALL
    }

    /// Whether some packet with ports is in the set, so that a `source_port` beside it means something.
    #[must_use]
    pub fn has_ports(&self) -> bool {
        !self.tcp.is_empty() || !self.udp.is_empty()
    }

    /// Whether every packet in the set is of a protocol with ports.
    #[must_use]
    pub fn only_has_ports(&self) -> bool {
        self.has_ports() && self.others().next().is_none() && [self.icmp, self.icmpv6] == [Bits::NONE; 2]
    }

    /// Whether every packet in the set is of TCP, or else of UDP, and not every packet of it is in the set.
    #[must_use]
    pub fn names_ports_of(&self, protocol: u8) -> bool {
        let other = if protocol == TCP { &self.udp } else { &self.tcp };
        self.only_has_ports() && other.is_empty() && !self.ports(protocol).is_any()
    }

    /// The destination ports of TCP, or else of UDP, in the set.
    #[must_use]
    pub fn ports(&self, protocol: u8) -> &PortSet {
        if protocol == TCP { &self.tcp } else { &self.udp }
    }

    /// Protocols in the set that have neither ports nor types.
    pub fn others(&self) -> impl Iterator<Item = u8> {
        let whole = self.whole;
        (0..=u8::MAX).filter(move |number| !matches!(*number, TCP | UDP | ICMP | ICMPV6) && whole.contains(*number))
    }

    /// The set as a policy file spells it, item by item; of ICMP types that have no name there the number.
    #[must_use]
    pub fn spelled(&self) -> Vec<String> {
        if self.is_any() {
            return vec!["any".to_owned()];
        }
        let mut words = Vec::new();
        for (name, ports) in [("tcp", &self.tcp), ("udp", &self.udp)] {
            words.extend(ports.ranges().iter().map(|range| match *range {
                (0, u16::MAX) => name.to_owned(),
                (first, last) if first == last => format!("{name}/{first}"),
                (first, last) => format!("{name}/{first}-{last}"),
            }));
        }
        let kinds = (0..=u8::MAX).filter(|kind| self.icmp.contains(*kind));
        match self.icmp {
            Bits::ALL => words.push("icmp".to_owned()),
            _ => words.extend(kinds.map(|kind| match kind {
                8 => "icmp/echo-request".to_owned(),
                other => format!("icmp/{other}"),
            })),
        }
        if self.icmp == Bits::NONE && self.icmpv6.contains(128) {
            words.push("icmp/echo-request".to_owned());
        }
        words.extend(self.others().map(|number| number.to_string()));
        words
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_ports() && [self.whole, self.icmp, self.icmpv6] == [Bits::NONE; 3]
    }

    fn normalized(mut self) -> Self {
        for (protocol, ports) in [(TCP, &mut self.tcp), (UDP, &mut self.udp)] {
            if self.whole.contains(protocol) {
                *ports = PortSet::any();
            } else if ports.is_any() {
                self.whole.insert(protocol);
            }
        }
        for (protocol, types) in [(ICMP, &mut self.icmp), (ICMPV6, &mut self.icmpv6)] {
            if self.whole.contains(protocol) {
                *types = Bits::ALL;
            } else if *types == Bits::ALL {
                self.whole.insert(protocol);
            }
        }
        if !self.source_ports.is_any() {
            self.whole = Bits::NONE;
            self.icmp = Bits::NONE;
            self.icmpv6 = Bits::NONE;
        }
        self
    }
}

impl Default for ServiceSet {
    fn default() -> Self {
        Self::any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_is_one_in_both_families() {
        let echo = ServiceSet::of_items([ServiceItem::IcmpType(8), ServiceItem::Icmpv6Type(128)]);
        assert!(echo.matches(ICMP, 0, 0, 8) && echo.matches(ICMPV6, 0, 0, 128));
        assert!(!echo.matches(ICMP, 0, 0, 128) && !echo.matches(ICMPV6, 0, 0, 8) && !echo.matches(TCP, 8, 8, 8));
        assert!(ServiceSet::any().covers(&echo) && !echo.covers(&ServiceSet::any()));
    }

    #[test]
    fn all_ports_one_by_one_are_the_protocol() {
        let parts = ServiceSet::of_items([ServiceItem::TcpPorts(0, 1023), ServiceItem::TcpPorts(1024, 65535)]);
        assert_eq!(parts, ServiceSet::of_items([ServiceItem::Protocol(TCP)]));
    }

    #[test]
    fn a_source_port_leaves_only_what_has_ports() {
        let from_dns = ServiceSet::any().with_source_ports(PortSet::of_ranges(vec![(53, 53)]));
        assert!(from_dns.matches(UDP, 53, 4000, 0) && from_dns.matches(TCP, 53, 1, 0));
        assert!(
            !from_dns.matches(UDP, 54, 53, 0) && !from_dns.matches(ICMP, 53, 0, 8) && !from_dns.matches(47, 53, 0, 0)
        );
        assert!(ServiceSet::any().covers(&from_dns) && !from_dns.covers(&ServiceSet::any()));
    }
}
