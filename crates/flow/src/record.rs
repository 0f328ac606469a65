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

pub use crate::adjacency::{Adjacency, NextHop};
use crate::cell::{Cell32, Cell64};
use crate::cookie::Cookies;
pub use crate::gate::Gate;
use crate::halves::{pair, split};
use crate::identifications::Identifications;
use crate::key::{self, Address, Key};
pub use crate::port::{PORT_PROBES, PORT_SLOTS, Port, PortKey, PortSlot, QUEUES, SOCKETS, port_flags};
use crate::reason::REASON_SLOTS;
pub use crate::steer::{Action, Steer};
use crate::traffic::Traffic;

/// Raised with every change of a layout of these records or of the meaning of a field. State of another version
/// is not adopted.
pub const LAYOUT_VERSION: u32 = 8;

/// First word of [`Config`]: the bytes `flowhop` and a zero.
pub const MAGIC: u64 = u64::from_le_bytes(*b"flowhop\0");

/// Interfaces that can take part at once.
pub const PORTS: usize = 256;
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
    /// Index lines that there is memory for.
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
    /// One packet in so many of those that programs forward is looked at once more, see
    /// [`shadow::is_due`](crate::shadow::is_due); 0 = none.
    pub shadow: Cell32,
    /// Room.
    pub unused: Cell32,
    /// Which of the index lines are in use, a [`Span`].
    pub span: Cell64,
    /// SYN cookies.
    pub cookies: Cookies,
    /// Where the next identifications of translated IPv4 packets come from.
    pub identifications: Identifications,
    /// The jiffy, and the monotonic clock's nanoseconds, when the program that reads both was last run.
    pub jiffies_read: Cell64,
    /// See `jiffies_read`.
    pub clock_read: Cell64,
}

/// Lines that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first of them.
    pub start: u32,
    /// How many.
    pub lines: u32,
}

impl Span {
    /// As one word.
    #[must_use]
    pub const fn pack(self) -> u64 {
        pair(self.lines, self.start)
    }

    /// From one word.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        let (lines, start) = split(word);
        Self { start, lines }
    }
}

impl Config {
    /// Where the index is.
    #[inline(always)]
    #[must_use]
    pub fn span(&self) -> Span {
        Span::unpack(self.span.load())
    }

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

    /// The identification of the next IPv4 packet from `source` to `destination` whose key has this `identity`; `packets` are
    /// those that it is cut into on its way out, which have the following ones. None comes again among the next 65536 of them.
    #[inline(always)]
    pub fn identify(&self, source: &Address, destination: &Address, identity: u32, packets: u32) -> u16 {
        let hash = self.hash(&Key { source: *source, destination: *destination, ports: 0, identity });
        self.identifications.next(hash, packets)
    }
}

/// Bits of [`Config::flags`].
pub mod config_flags {
    /// Packets to the box itself are judged by the slow path (a rule with `to = "self"`).
    pub const JUDGE_LOCAL: u32 = 1;
    /// The slow path answers requests for mappings (RFC 6887), which IPv6 hosts send to the link-local address of their router.
    pub const SERVES: u32 = 2;
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
    /// `flags | scale << 8 | constant << 16 | shift << 32`: by how many bytes what this side sent is longer when it
    /// leaves (two's complement), where the slow path changes payload; or, with `constant`, what is added to its numbers
    /// on every path. All other numbers here are those of who chose them.
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

/// A line of the index: twelve entries of a tag and a place, `2 * block + direction`.
///
/// Entry `n` has its place in bytes `3n ..` of the line, and its tag where [`TAG_PLACES`] says. A tag of 0 is an empty entry.
/// Places come first so that four bytes from any `3n` below 48 are inside the line, which is how the kernel's verifier comes
/// to accept that they are read.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Bucket {
    /// Twelve 24-bit places and four bytes of room.
    pub places: [Cell64; 5],
    /// Three words of four 16-bit tags.
    pub tags: [Cell64; 3],
}

/// Word, and 16-bit lane in it, of the tag of each entry of a [`Bucket`].
///
/// The numbers of the entries in a lane follow one another in the four highest bits of a constant that is shifted to the left,
/// so that a multiplication by it turns the bit that stands for a tag into the number of the entry.
pub const TAG_PLACES: [(usize, u32); BUCKET_ENTRIES] =
    [(0, 0), (1, 0), (2, 0), (1, 2), (1, 3), (0, 1), (2, 1), (2, 2), (2, 3), (0, 2), (0, 3), (1, 1)];

/// Entries of a [`Bucket`].
pub const BUCKET_ENTRIES: usize = 12;
/// Largest number of connections that a place can name.
pub const MAX_BLOCKS: u32 = 1 << 23;

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
const _: () = assert!(core::mem::offset_of!(Config, identifications) == 192);
const _: () = assert!(size_of::<PortCounters>() == 16 * REASON_SLOTS);
// Design budget: 320 bytes a connection. An index at load 0.8 adds 2 * 64 / 12 / 0.8 bytes.
const _: () = assert!(size_of::<Block>() + 2 * size_of::<Bucket>() * 10 / (BUCKET_ENTRIES * 8) <= 320);

#[cfg(test)]
mod tests {
    use super::*;

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
}
