//! Shadow mode: of one packet in so many that a kernel program forwards, what it was before and after, for the slow path to
//! judge once more and compare.
//!
//! A program that takes a sample keeps the head of the packet and all that its judgement depends on and that changes with
//! packets ([`Sample::of`]), rewrites the packet, and adds the head of what became of it. Everything else the slow path knows
//! by itself: it makes the entry anew from the keys of the connection, and has the same function judge the same packet by
//! that. A bit that fell over in memory, a program that the kernel translated wrongly, and an entry that somebody else wrote
//! to are told by the difference.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::forward::{Hit, halves, hot};
use crate::record::{NextHop, Steer, TcpHalf};

/// Bytes that are kept of a packet: all headers that are ever looked at or written to, with a tag.
pub const HEAD: usize = 128;

/// Bits of [`Sample::flags`].
pub mod sample_flags {
    /// By the program in a driver.
    pub const DRIVER: u8 = 1;
}

/// A packet that was forwarded, before and after. All numbers in the order of the machine.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Sample {
    /// The entry's steering word.
    pub steer: u64,
    /// The TCP context before, own half and peer's: `sent`, `allowed`, `state` of each.
    pub tcp: [u64; 6],
    /// Length of the packet from the link-layer header on.
    pub length: u32,
    /// Payload of each segment of a super-packet, else 0.
    pub segment: u32,
    /// Output interface.
    pub ifindex: u32,
    /// Bytes in [`before`](Self::before) and in [`after`](Self::after).
    pub kept: u16,
    /// Port that it came in through.
    pub port: u8,
    /// Offset of the IP header.
    pub network: u8,
    /// See [`sample_flags`].
    pub flags: u8,
    /// Room.
    pub unused: [u8; 7],
    /// The head of the packet as it came.
    pub before: [u8; HEAD],
    /// The head of what became of it.
    pub after: [u8; HEAD],
}

impl Sample {
    /// Notes what a packet's judgement by an entry depends on.
    #[inline(always)]
    pub fn note(&mut self, hit: &Hit<'_>, steer: Steer, port: u8, network: usize, [length, segment]: [u32; 2]) {
        let (own, peer) = halves(hit);
        self.steer = steer.pack();
        self.tcp = words(own, peer);
        (self.length, self.segment) = (length, segment);
        (self.port, self.network) = (port, network as u8);
        self.ifindex = 0;
    }
}

#[inline(always)]
fn words(own: &TcpHalf, peer: &TcpHalf) -> [u64; 6] {
    [own.sent.load(), own.allowed.load(), own.state.load(), peer.sent.load(), peer.allowed.load(), peer.state.load()]
}

/// Whether the next packet of a direction is one to be looked at, when one in `every` is: a power of two of at most
/// [`MOST`], or 0 for none.
#[inline(always)]
#[must_use]
pub fn is_due(hit: &Hit<'_>, every: u32) -> bool {
    // None at all for 0, without another comparison.
    (hot(hit).traffic.recent_packets() & every.wrapping_sub(1)).wrapping_add(1) == every
}

/// The largest number of packets of which one is looked at.
pub const MOST: u32 = 1 << 23;

/// Nothing is ever sent to no interface, so that a sample without one is not whole.
#[inline(always)]
#[must_use]
pub const fn output(hop: &NextHop, driver: bool) -> u32 {
    if driver { hop.lower } else { hop.ifindex }
}

const _: () = assert!(size_of::<Sample>() == 8 + 48 + 12 + 12 + 2 * HEAD);
