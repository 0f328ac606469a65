//! The records that the kernel programs, the user-level path and the offline tools share.
//!
//! A connection is one [`Block`] of four cache lines: the hot line of each direction, one line with the TCP
//! context of both, and one with the wide parts of IPv6 addresses and what only people and the slow path
//! read. An IPv4 UDP packet touches one line of it, IPv4 TCP two, IPv6 one more.
//!
//! # Who writes what
//! * Keys and rewrites are written by the slow path before the entry is published and never change while it
//!   is. `identity` is stored last; 0 means unpublished.
//! * [`Steer`] is one 64-bit word, so that path, adjacency and generations of a live entry change in one store.
//! * Counters, `last_seen` and a direction's half of the TCP context are written by packets of that direction,
//!   on any core; edges only move forward.
//! * Everything else belongs to the slow path.

use crate::cell::{Cell32, Cell64};
use crate::key::{self, Address, Key};
use crate::reason::REASON_SLOTS;
use crate::traffic::Traffic;

/// Raised with every change of a layout in this module or of the meaning of a field. State of another version
/// is not adopted.
pub const LAYOUT_VERSION: u32 = 4;

/// First word of [`Config`]: the bytes `flowhop` and a zero.
pub const MAGIC: u64 = u64::from_le_bytes(*b"flowhop\0");

/// Interfaces that can take part at once.
pub const PORTS: usize = 256;
/// Slots of the map from interface index to port (open addressing, [`PORT_PROBES`] tries).
pub const PORT_SLOTS: usize = 4096;
/// Neighbouring slots that may hold an interface index.
pub const PORT_PROBES: usize = 4;
/// Adjacencies.
pub const ADJACENCIES: usize = 65536;
/// Gates; see [`Gate`].
pub const GATES: usize = 16384;
/// Own addresses that are used by translations and have a port bitmap.
pub const PORT_MAPS: usize = 64;

/// One coarse clock unit is `1 << TICK_SHIFT` nanoseconds of the monotonic clock, about a millisecond.
pub const TICK_SHIFT: u32 = 20;

/// Coarse time: units of 2^20 ns (about 1.05 ms) of the monotonic clock, wrapping after 52 days.
pub type Tick = u32;

/// Which index the table uses.
pub mod index_kind {
    /// Our own lines of tags.
    pub const LINES: u32 = 0;
    /// A kernel hash map.
    pub const KERNEL_HASH: u32 = 1;
}

/// What every path reads of the whole: geometry, secret, generations, liveness of the daemon.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Config {
    /// [`MAGIC`].
    pub magic: Cell64,
    /// [`LAYOUT_VERSION`].
    pub layout: Cell32,
    /// One of [`index_kind`].
    pub index: Cell32,
    /// Index lines.
    pub buckets: Cell32,
    /// Connection blocks.
    pub blocks: Cell32,
    /// Secret of the key hash, fresh for every table.
    pub secret: [Cell32; 10],
    /// Generation of the policy, low 16 bits.
    pub policy_generation: Cell32,
    /// When the daemon was last known alive.
    pub heartbeat: Cell32,
    /// How long after the heartbeat exceptions are still handed down, in ticks.
    pub alive_for: Cell32,
    /// How long after the heartbeat cached flows are forwarded, in ticks.
    pub orphan_grace: Cell32,
    /// Interface index of the punt device; 0 = none.
    pub punt_ifindex: Cell32,
    /// Socket-buffer mark of packets that user space gives to the stack.
    pub reinject_mark: Cell32,
    /// Settings, see `config_flags`.
    pub flags: Cell32,
    /// Nanoseconds of a jiffy, 0 = not known: with `clock_base` the time in kernel programs.
    pub jiffy: Cell32,
    /// What the upper words of IPv4 addresses add to the hash of a key under this secret.
    pub mapped: Cell64,
    /// The monotonic clock's nanoseconds at jiffy 0.
    pub clock_base: Cell64,
    /// The jiffy, and the monotonic clock's nanoseconds, when the program that reads both was last run.
    pub jiffies_read: Cell64,
    /// See `jiffies_read`.
    pub clock_read: Cell64,
}

impl Config {
    /// The secret of the key hash.
    #[must_use]
    pub fn secret(&self) -> [u32; 10] {
        let mut words = [0; 10];
        for (word, cell) in words.iter_mut().zip(&self.secret) {
            *word = cell.load();
        }
        words
    }

    /// Stores the secret of the key hash, and what follows from it.
    pub fn set_secret(&self, words: [u32; 10]) {
        for (cell, word) in self.secret.iter().zip(words) {
            cell.store(word);
        }
        let [_, _, _, _, upper @ ..] = words;
        let any = key::mapped([0; 4]);
        self.mapped.store(key::upper_sum(&any, &any, &upper));
    }

    /// The hash of a key.
    #[inline(always)]
    #[must_use]
    pub fn hash(&self, key: &Key) -> u64 {
        let [a, b, c, d, upper @ ..] = &self.secret;
        let sum = if key.family() == 4 {
            self.mapped.load()
        } else {
            let [e, f, g, h, i, j] = upper;
            let upper = [e.load(), f.load(), g.load(), h.load(), i.load(), j.load()];
            key::upper_sum(&key.source, &key.destination, &upper)
        };
        key.hash_with([a.load(), b.load(), c.load(), d.load()], sum)
    }
}

/// Bits of [`Config::flags`].
pub mod config_flags {
    /// Packets to the box itself are judged by the slow path (a rule with `to = "self"`).
    pub const JUDGE_LOCAL: u32 = 1;
}

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
        let l = (low as u32).to_ne_bytes();
        Some(NextHop {
            ifindex: output as u32,
            generation: (output >> 32) as u16,
            port: (output >> 48) as u8,
            flags: (output >> 56) as u8,
            macs: [h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], l[0], l[1], l[2], l[3]],
            mtu: (low >> 32) as u32,
            lower: lower as u32,
            vid: (lower >> 32) as u16,
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
        self.mac_low_mtu.store(u64::from(low) | u64::from(hop.mtu) << 32);
        self.lower.store(u64::from(hop.lower) | u64::from(hop.vid) << 32);
        self.sequence.store(sequence.wrapping_add(3) & !1);
    }
}

/// Where a direction's packets go, in one word that is replaced whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steer {
    /// Index of the adjacency.
    pub adjacency: u16,
    /// Port that packets must come in through.
    pub ingress: u8,
    /// What the kernel paths do.
    pub action: Action,
    /// Entry waits until packets of its flow have left user space.
    pub pending: bool,
    /// Programs in drivers pass the packets on: the path is that of the socket buffer.
    pub skb: bool,
    /// The gate's epoch (low four bits) that a pending entry was published under.
    pub epoch: u8,
    /// Generation of the policy that the entry was judged under: the one in force, or one that is about to be.
    pub policy_generation: u16,
    /// Generation of the adjacency.
    pub adjacency_generation: u16,
}

/// What the kernel paths do with a direction's packets.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Hand down: the flow lives on the user-level path.
    #[default]
    User = 0,
    /// Forward.
    Forward = 1,
    /// Leave to the kernel's stack.
    Stack = 2,
    /// Drop.
    Drop = 3,
}

impl Steer {
    /// The packed word.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.adjacency as u64
            | (self.ingress as u64) << 16
            | (self.action as u64) << 24
            | (self.pending as u64) << 26
            | (self.skb as u64) << 27
            | ((self.epoch & 15) as u64) << 28
            | (self.policy_generation as u64) << 32
            | (self.adjacency_generation as u64) << 48
    }

    /// The fields of a packed word.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            adjacency: word as u16,
            ingress: (word >> 16) as u8,
            action: match (word >> 24) & 3 {
                0 => Action::User,
                1 => Action::Forward,
                2 => Action::Stack,
                _ => Action::Drop,
            },
            pending: word >> 26 & 1 != 0,
            skb: word >> 27 & 1 != 0,
            epoch: (word >> 28) as u8 & 15,
            policy_generation: (word >> 32) as u16,
            adjacency_generation: (word >> 48) as u16,
        }
    }
}

/// One direction of a connection: key, flow next hop, counters and age in one cache line.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Hot {
    /// Low word of the source address as received.
    pub source: Cell32,
    /// Low word of the destination address as received.
    pub destination: Cell32,
    /// Ports word of the key.
    pub ports: Cell32,
    /// Identity word of the key; 0 = unpublished; stored last.
    pub identity: Cell32,
    /// Low word of the source address as sent.
    pub new_source: Cell32,
    /// Low word of the destination address as sent.
    pub new_destination: Cell32,
    /// Ports word as sent.
    pub new_ports: Cell32,
    /// One's complement deltas in memory order: addresses in the low half, ports in the high half.
    pub deltas: Cell32,
    /// See [`Steer`].
    pub steer: Cell64,
    /// When a packet of this direction was last forwarded.
    pub last_seen: Cell32,
    /// `class | queue << 8 | meter << 16`: QoS class, output queue and meter profile, 0 = none.
    pub service: Cell32,
    /// Packets forwarded (a segmentation-offload super-packet counts as the one that it is here), and the bytes of
    /// their frames as received.
    pub traffic: Traffic,
}

/// One direction's half of a TCP connection's context.
#[repr(C)]
#[derive(Debug, Default)]
pub struct TcpHalf {
    /// `end | largest window << 32`: the highest sequence number sent (exclusive), and the largest window
    /// advertised, scaled, in bytes.
    pub sent: Cell64,
    /// `highest acknowledgment sent | granted << 32`: up to where this side allows its peer to send.
    pub allowed: Cell64,
    /// `flags | scale << 8 | shift << 32`: by how many bytes what this side sent is longer when it leaves (two's
    /// complement), where the slow path changes payload. All other numbers here are those of who chose them.
    pub state: Cell64,
    /// In the half of Forward, whatever the protocol: serial number of the connection that announced this one; 0 = none.
    pub parent: Cell32,
    /// Security association index, low half; 0 = none.
    pub association: Cell32,
}

/// What the slow path and people need of a connection; it outlives a restart of the daemon.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Owner {
    /// Identity of the rule (low half) and of the source translation (high half), 0 = none.
    pub rules: Cell32,
    /// When the connection was made.
    pub created: Cell32,
    /// Bits 0..8 path reason of Forward, 8..16 of Reverse; 16..31 identity of the translation that changed the
    /// destination, 0 = none; bit 31: that was done by a mapping of a source translation.
    pub flags: Cell32,
    /// Serial number of this use of the block, so that an identifier is not reused with the block.
    pub serial: Cell32,
}

/// A connection: both directions, 256 bytes.
#[repr(C, align(256))]
#[derive(Debug, Default)]
pub struct Block {
    /// Forward (from the initiator) and Reverse.
    pub hot: [Hot; 2],
    /// TCP context, each half written by packets of its direction.
    pub tcp: [TcpHalf; 2],
    /// Upper words of the addresses of Forward: source, destination, new source, new destination. Reverse
    /// reads them from the other end. IPv4 leaves them alone.
    pub wide: [[Cell32; 3]; 4],
    /// See [`Owner`].
    pub owner: Owner,
}

/// A line of the index: twelve entries of a tag and a place.
///
/// Entry `n` has its tag in `tags[n % 3]`, 16-bit lane `n / 3`, and its place in bytes `24 + 3n ..` of the
/// line: `block << 1 | direction`. A tag of 0 is an empty entry. This order keeps every masked index inside
/// the line, which is how the kernel's verifier comes to accept it.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Bucket {
    /// Three words of four 16-bit tags.
    pub tags: [Cell64; 3],
    /// Twelve 24-bit places and four bytes of room.
    pub places: [Cell64; 5],
}

/// Entries of a [`Bucket`].
pub const BUCKET_ENTRIES: usize = 12;
/// Largest number of connections that a place can name.
pub const MAX_BLOCKS: u32 = 1 << 23;

/// Order between the kernel paths and user space, for the flows whose key hash selects this gate.
///
/// One word: `packets handed to user space | epoch << 32`. A kernel path that misses, or meets a pending
/// entry, first adds 1 (a full barrier) and then looks again; user space raises the epoch by one
/// compare-and-exchange only while the count equals the packets it has finished with. So the raise happens
/// only when no packet of these flows is on its way through user space, and every entry that was published
/// under the old epoch is active from that instant on.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Gate(pub Cell64);

impl Gate {
    /// Counts a packet on its way to user space; returns the epoch (low four bits).
    #[inline(always)]
    #[must_use]
    pub fn enter(&self) -> u8 {
        (self.0.add(1) >> 32) as u8 & 15
    }

    /// Takes back an [`enter`](Self::enter): the packet did not go to user space after all.
    #[inline(always)]
    pub fn leave(&self) {
        self.0.add(u64::MAX);
    }

    /// Packets handed to user space so far (wrapping) and the epoch.
    #[must_use]
    pub fn read(&self) -> (u32, u32) {
        let word = self.0.load();
        (word as u32, (word >> 32) as u32)
    }

    /// Raises the epoch if exactly `handed` packets have been handed over; tells whether it did.
    #[must_use]
    pub fn raise(&self, handed: u32, epoch: u32) -> bool {
        let current = u64::from(handed) | u64::from(epoch) << 32;
        self.0.replace(current, u64::from(handed) | u64::from(epoch.wrapping_add(1)) << 32)
    }
}

/// Packets and bytes of one reason.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Count {
    /// Packets.
    pub packets: Cell64,
    /// Bytes of frames.
    pub bytes: Cell64,
}

/// What one path did with the packets of one port, by reason.
#[repr(C)]
#[derive(Debug)]
pub struct PortCounters(pub [Count; REASON_SLOTS]);

impl Default for PortCounters {
    fn default() -> Self {
        Self([const { Count { packets: ZERO, bytes: ZERO } }; REASON_SLOTS])
    }
}

#[cfg(not(target_arch = "bpf"))]
#[expect(clippy::declare_interior_mutable_const, reason = "an initialiser, copied into each place")]
const ZERO: Cell64 = Cell64::new(0);
#[cfg(target_arch = "bpf")]
const ZERO: Cell64 = Cell64::ZERO;

/// Ports of one own address that translations use: bits for TCP, UDP and ICMP identifiers.
#[repr(C)]
#[derive(Debug)]
pub struct PortMap(pub [[Cell64; 1024]; 3]);

/// Flags of an own address in the map that is consulted after a miss.
pub mod local_flags {
    /// The address has a port bitmap; its number is in the low half. A number that no bitmap has: all that is sent
    /// to the address is for the slow path to judge.
    pub const TRANSLATED: u32 = 1 << 16;
    /// Echo requests to it are translated.
    pub const ECHO: u32 = 1 << 17;
    /// Some protocol that has neither ports nor echo is translated.
    pub const OTHERS: u32 = 1 << 18;
}

/// The upper words of an address with its low word.
#[inline(always)]
#[must_use]
pub fn widen(upper: &[Cell32; 3], low: u32) -> Address {
    [upper[0].load(), upper[1].load(), upper[2].load(), low]
}

const _: () = assert!(size_of::<Hot>() == 64);
const _: () = assert!(size_of::<TcpHalf>() == 32);
const _: () = assert!(size_of::<Block>() == 256);
const _: () = assert!(size_of::<Bucket>() == 64);
const _: () = assert!(size_of::<Adjacency>() == 64);
const _: () = assert!(size_of::<Config>() == 128);
const _: () = assert!(size_of::<PortCounters>() == 16 * REASON_SLOTS);
// Design budget: 320 bytes a connection. An index at load 0.8 adds 2 * 64 / 12 / 0.8 bytes.
const _: () = assert!(size_of::<Block>() + 2 * size_of::<Bucket>() * 10 / (BUCKET_ENTRIES * 8) <= 320);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steer_round_trips() {
        let steer = Steer {
            adjacency: 0xbeef,
            ingress: 0x42,
            action: Action::Drop,
            pending: true,
            skb: true,
            epoch: 9,
            policy_generation: 0x1234,
            adjacency_generation: 0xfedc,
        };
        assert_eq!(Steer::unpack(steer.pack()), steer);
        assert_eq!(Steer::unpack(0), Steer::default());
    }

    #[test]
    fn the_hash_under_a_stored_secret_is_that_of_the_key() {
        let config = Config::default();
        let secret = [0x9e37_79b9, 1, 2, 3, 5, 7, 11, 13, 17, 19];
        config.set_secret(secret);
        assert_eq!(config.secret(), secret);
        let v4 = [key::mapped([10, 0, 0, 1]), key::mapped([192, 0, 2, 7])];
        let v6 = [[1, 2, 3, 4], [5, 6, 7, 8]];
        for ([source, destination], family) in [(v4, 4), (v6, 6)] {
            let key = Key { source, destination, ports: key::ports(1, 2), identity: Key::identity(6, family, 0) };
            assert_eq!(config.hash(&key), key.hash(&secret));
        }
    }

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

    // A5: the epoch moves only when nothing of the gate's flows is on its way.
    #[test]
    fn a_gate_is_raised_only_when_nothing_is_on_its_way() {
        let gate = Gate::default();
        assert_eq!(gate.enter(), 0);
        assert!(!gate.raise(0, 0));
        assert!(gate.raise(1, 0));
        assert_eq!(gate.read(), (1, 1));
        assert_eq!(gate.enter(), 1);
        gate.leave();
        assert_eq!(gate.read(), (1, 1));
    }
}
