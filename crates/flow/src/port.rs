//! The records of interfaces, and how a program finds that of a packet.

use crate::cell::{Cell32, Cell64};

/// Slots of the map from interface index to port (open addressing, [`PORT_PROBES`] tries).
pub const PORT_SLOTS: usize = 4096;
/// Neighbouring slots that may hold an interface index.
pub const PORT_PROBES: usize = 4;

/// An interface that policy names.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Port {
    /// Interface index; 0 = absent.
    pub ifindex: Cell32,
    /// `flags | queues << 16`: see [`port_flags`]; where the sockets of its receive queues begin in the map of
    /// AF_XDP sockets.
    pub driver: Cell32,
    /// The first four bytes of the interface's own link-layer address.
    pub mac_high: Cell32,
    /// The last two bytes, in the low half in memory order.
    pub mac_low: Cell32,
}

impl Port {
    /// The interface's link-layer address.
    #[inline(always)]
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.mac_high.load().to_ne_bytes();
        let [e, f, _, _] = self.mac_low.load().to_ne_bytes();
        [a, b, c, d, e, f]
    }

    /// Stores the interface's link-layer address.
    pub fn set_mac(&self, mac: [u8; 6]) {
        let [a, b, c, d, e, f] = mac;
        self.mac_high.store(u32::from_ne_bytes([a, b, c, d]));
        self.mac_low.store(u32::from_ne_bytes([e, f, 0, 0]));
    }
}

/// Bits of [`Port::driver`].
pub mod port_flags {
    /// The program in the driver judges packets of this port; without it they all pass on to the socket buffer.
    pub const DRIVER: u32 = 1;
    /// The device below takes frames from programs in drivers: what came in can be sent back there.
    pub const SENDS_BACK: u32 = 2;
}

/// Receive queues of one device that can have a socket.
pub const QUEUES: usize = 64;
/// AF_XDP sockets: those of 64 devices.
pub const SOCKETS: usize = 64 * QUEUES;

/// What identifies a port in a packet: the device that received it, and the VLAN id in the frame (0 = none).
///
/// A VLAN interface is known twice: under its own index, as the stack shows it, and under the index of the device
/// below it with its VLAN id, as the driver sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// Interface index.
    pub ifindex: u32,
    /// VLAN id, 0 = none.
    pub vid: u16,
}

impl PortKey {
    /// The key of an interface by its own index.
    #[inline(always)]
    #[must_use]
    pub const fn of(ifindex: u32) -> Self {
        Self { ifindex, vid: 0 }
    }

    /// One of the [`PORT_PROBES`] slots where the port may be found.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self, probe: u32) -> u32 {
        // VLANs of one device go to places far apart, and interfaces made one after the other beside each other.
        self.ifindex.wrapping_add((self.vid as u32).wrapping_mul(97)).wrapping_add(probe) & (PORT_SLOTS as u32 - 1)
    }
}

/// A slot of the map to port numbers. One 64-bit word: `ifindex | VLAN id << 32 | port << 48 | 1 << 63`.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct PortSlot(pub Cell64);

impl PortSlot {
    const USED: u64 = 1 << 63;

    const fn key(key: PortKey) -> u64 {
        key.ifindex as u64 | (key.vid as u64) << 32 | Self::USED
    }

    /// The word of a port.
    #[must_use]
    pub const fn word(key: PortKey, port: u8) -> u64 {
        Self::key(key) | (port as u64) << 48
    }

    /// The port, if the slot holds this key.
    #[inline(always)]
    #[must_use]
    pub fn port_of(&self, key: PortKey) -> Option<u8> {
        let word = self.0.load();
        (word & !(0xff << 48) == Self::key(key)).then_some((word >> 48) as u8)
    }

    /// The key and port that the slot holds.
    #[must_use]
    pub fn tenant(&self) -> Option<(PortKey, u8)> {
        let word = self.0.load();
        let key = PortKey { ifindex: word as u32, vid: (word >> 32) as u16 };
        (word & Self::USED != 0).then_some((key, (word >> 48) as u8))
    }
}
