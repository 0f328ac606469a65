//! The record of a next hop, which is read in one piece while it changes.

use crate::cell::Cell64;
use crate::halves::{pair, split};

/// The next hop of a route: a neighbour on a link. Guarded by `sequence`: odd while being changed.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Adjacency {
    /// Even when stable; raised by two with every change.
    pub sequence: Cell64,
    /// `ifindex | generation << 32 | port << 48 | flags << 56`.
    pub output: Cell64,
    /// Destination link-layer address (6 bytes), then the first two of the source.
    pub mac_high: Cell64,
    /// The last four bytes of the source address in memory order, then the MTU in bytes.
    pub mac_low_mtu: Cell64,
    /// For the slow path alone: what the adjacency was made for, so that the next process finds it again. The next
    /// hop's 16 bytes in two words; then `1 | family << 8 | MTU attribute of the route << 32`, 0 = nothing.
    pub origin: [Cell64; 3],
    /// For programs in drivers: `ifindex | VLAN id << 32` of the device that carries the frames, 0 = it takes none
    /// from such a program. Guarded by `sequence` like the rest.
    pub lower: Cell64,
}

/// What an adjacency says, read in one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// Output interface.
    pub ifindex: u32,
    /// Generation that entries must name.
    pub generation: u16,
    /// Port number of the output interface.
    pub port: u8,
    /// See the constants.
    pub flags: u8,
    /// Destination address, then source address.
    pub macs: [u8; 12],
    /// Largest layer-3 packet in bytes.
    pub mtu: u32,
    /// The device that carries the frames, for programs in drivers; 0 = it takes none from there.
    pub lower: u32,
    /// VLAN id that frames carry there, 0 = none.
    pub vid: u16,
}

impl NextHop {
    /// The link-layer address is known, or none is needed.
    pub const RESOLVED: u8 = 1;
    /// The output has no link-layer header (tun, WireGuard, PPP).
    pub const HEADERLESS: u8 = 2;

    /// Nowhere.
    pub const NONE: Self =
        Self { ifindex: 0, generation: 0, port: 0, flags: 0, macs: [0; 12], mtu: 0, lower: 0, vid: 0 };
}

impl Adjacency {
    /// Reads the adjacency in one piece; `None` when it changed meanwhile.
    #[inline(always)]
    #[must_use]
    pub fn read(&self) -> Option<NextHop> {
        let before = self.sequence.load();
        let output = self.output.load();
        let high = self.mac_high.load();
        let low = self.mac_low_mtu.load();
        let lower = self.lower.load();
        let after = self.sequence.load();
        if before != after || before & 1 != 0 {
            return None;
        }
        let h = high.to_ne_bytes();
        let (low, mtu) = split(low);
        let l = low.to_ne_bytes();
        let (lower, vid) = split(lower);
        Some(NextHop {
            ifindex: output as u32,
            generation: (output >> 32) as u16,
            port: (output >> 48) as u8,
            flags: (output >> 56) as u8,
            macs: [h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], l[0], l[1], l[2], l[3]],
            mtu,
            lower,
            vid: vid as u16,
        })
    }

    /// The generation of the last tenant, also when a killed writer left the record half changed.
    #[must_use]
    pub fn generation(&self) -> u16 {
        (self.output.load() >> 32) as u16
    }

    /// What the adjacency was made for: next hop, family (4 or 6), MTU attribute of the route (0 = none).
    #[must_use]
    pub fn origin(&self) -> Option<([u8; 16], u8, u32)> {
        let word = self.origin[2].load();
        let [high, low] = [self.origin[0].load().to_ne_bytes(), self.origin[1].load().to_ne_bytes()];
        let mut next_hop = [0; 16];
        for (byte, from) in next_hop.iter_mut().zip(high.into_iter().chain(low)) {
            *byte = from;
        }
        (word & 1 != 0).then_some((next_hop, (word >> 8) as u8, (word >> 32) as u32))
    }

    /// Notes what the adjacency was made for.
    pub fn set_origin(&self, next_hop: [u8; 16], family: u8, route_mtu: u32) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = next_hop;
        self.origin[2].store(0);
        self.origin[0].store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
        self.origin[1].store(u64::from_ne_bytes([i, j, k, l, m, n, o, p]));
        self.origin[2].store(1 | u64::from(family) << 8 | u64::from(route_mtu) << 32);
    }

    /// Replaces the adjacency. One writer only.
    pub fn write(&self, hop: &NextHop) {
        let m = &hop.macs;
        let sequence = self.sequence.load();
        // The full barrier keeps the odd number before the fields; the release store keeps the even one after. A
        // writer that was killed half-way has left an odd number, from which the next odd one is two away.
        self.sequence.add(1 + (sequence & 1));
        self.output.store(
            u64::from(hop.ifindex)
                | u64::from(hop.generation) << 32
                | u64::from(hop.port) << 48
                | u64::from(hop.flags) << 56,
        );
        self.mac_high.store(u64::from_ne_bytes([m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7]]));
        let low = u32::from_ne_bytes([m[8], m[9], m[10], m[11]]);
        self.mac_low_mtu.store(pair(low, hop.mtu));
        self.lower.store(pair(hop.lower, hop.vid.into()));
        self.sequence.store(sequence.wrapping_add(3) & !1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacency_reads_what_was_written_and_refuses_half_a_change() {
        let adjacency = Adjacency::default();
        let hop = NextHop {
            ifindex: 7,
            generation: 3,
            port: 2,
            flags: NextHop::RESOLVED,
            macs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
            mtu: 1500,
            lower: 6,
            vid: 100,
        };
        adjacency.write(&hop);
        assert_eq!(adjacency.read(), Some(hop));
        adjacency.sequence.add(1);
        assert_eq!(adjacency.read(), None);
    }

    #[test]
    fn what_it_was_made_for_and_its_generation_outlive_a_writer() {
        let adjacency = Adjacency::default();
        assert_eq!((adjacency.origin(), adjacency.generation()), (None, 0));
        let next_hop = std::array::from_fn(|n| n as u8 + 1);
        for (family, mtu) in [(4, 0), (6, 1400), (6, u32::MAX)] {
            adjacency.set_origin(next_hop, family, mtu);
            assert_eq!(adjacency.origin(), Some((next_hop, family, mtu)));
        }
        adjacency.write(&NextHop { ifindex: u32::MAX, generation: 0x1234, port: 0xff, flags: 0xff, ..NextHop::NONE });
        adjacency.sequence.add(1);
        assert_eq!((adjacency.read(), adjacency.generation()), (None, 0x1234));
    }
}
