//! What every episode begins with: ports, next hops, own addresses, limits.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowhop_flow::record::NextHop;

use super::Packet;
use crate::reference::UsedPorts;

/// Limits that an episode starts with, in ticks.
pub const ALIVE_FOR: u32 = 4000;
/// See [`ALIVE_FOR`].
pub const ORPHAN_GRACE: u32 = 20_000;
/// Interface indices of ports.
pub const PORTS: [u32; 4] = [2, 3, 4, 6];
/// Interface index of no port.
pub const NO_PORT: u32 = 5;
/// The last port is a VLAN of a device that is a port itself: the index of that device, and the VLAN id.
pub const VLAN: (u32, u16) = (2, 100);
/// The port that programs in drivers leave alone.
pub const NOT_IN_DRIVER: u32 = 4;
/// Generation that the policy starts with.
pub const POLICY: u16 = 7;

/// Number of the port of one of the [`PORTS`].
#[must_use]
pub const fn port_number(ifindex: u32) -> u8 {
    ifindex as u8 * 3
}

/// Link-layer address of a port.
#[must_use]
pub const fn port_mac(ifindex: u32) -> [u8; 6] {
    [0x02, 0, 0x5e, 0x10, 0x20, ifindex as u8]
}

/// What a frame is like on the wire where a program in a driver sees it: a VLAN device's has its tag, with priority
/// bits, and comes in through the device below.
#[must_use]
pub fn on_the_wire(packet: &Packet) -> Packet {
    let mut packet = packet.clone();
    if packet.arrival.ifindex == PORTS[3] {
        packet.arrival.ifindex = VLAN.0;
        if packet.bytes.len() >= 12 {
            let [high, low] = VLAN.1.to_be_bytes();
            packet.bytes.splice(12..12, [0x81, 0, 0xa0 | high, low]);
        }
    }
    packet.arrival.segment = 0;
    packet
}

/// Next hops that an episode starts with: toward the inside, the outside, a VLAN with a small MTU, unresolved, through a
/// device that takes no frames from drivers, and to the VLAN of [`VLAN`].
#[must_use]
pub fn neighbours() -> [NextHop; 6] {
    let hop = |i: u8, ifindex, mtu, flags, (lower, vid)| NextHop {
        lower,
        vid,
        ifindex,
        generation: 100 + u16::from(i),
        port: port_number(ifindex),
        flags,
        macs: [2, 1, 1, 1, 1, i, 2, 0, 0x5e, 0x10, 0x20, ifindex as u8],
        mtu,
    };
    [
        hop(0, 2, 1500, 1, (2, 0)),
        hop(1, 3, 1500, 1, (3, 0)),
        hop(2, 3, 600, 1, (3, 20)),
        hop(3, 3, 1500, 0, (3, 0)),
        hop(4, 4, 9000, 1, (0, 0)),
        hop(5, 6, 1500, 1, VLAN),
    ]
}

pub(super) const NAT4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(super) const NAT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
pub(super) const OWN4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
pub(super) const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe);

/// Ports of the translated own addresses that translations use.
#[must_use]
pub fn used_ports() -> UsedPorts {
    let mut used = HashSet::new();
    for row in 0..3 {
        used.extend((0..400).map(|port| (row, port)));
        used.extend((20_000..24_000).map(|port| (row, port)));
    }
    used
}

/// The box's own addresses.
#[must_use]
pub fn locals() -> Vec<(IpAddr, Option<UsedPorts>)> {
    vec![(OWN4.into(), None), (OWN6.into(), None), (NAT4.into(), Some(used_ports())), (NAT6.into(), Some(used_ports()))]
}
