//! The TCP context of a connection and the check of every segment against it.
//!
//! The rules are those of G. van Rooij's "Real stateful TCP packet filtering" as the field has refined them,
//! with RFC 5961 for resets. For a segment from one side to its peer, with everything modulo 2^32:
//!
//! 1. `sequence <= limit`: not beyond what the peer allowed;
//! 2. `end >= own end - peer's largest window`: not older than what the peer may still want;
//! 3. `acknowledgment <= peer's end`: nothing is acknowledged that was not sent;
//! 4. `acknowledgment >= peer's end - max(own largest window, 66000)`: not absurdly old.
//!
//! Each half is written by segments of its own direction only and read by the other, its edges only move
//! forward, and every change is one bounded compare-and-exchange, because one direction may run on several
//! cores at once.

use flowhop_wire::{Frame, tcp_flags as tcp};

use crate::cell::Cell64;
use crate::halves::{pair, split};
use crate::parse::Segment;
use crate::reason::Reason;
use crate::record::TcpHalf;

/// Bits of a half's state.
pub mod flag {
    /// This side sent a SYN.
    pub const SYN: u8 = 1;
    /// This side sent an acknowledgment, so that it has granted its peer a window.
    pub const GRANTED: u8 = 2;
    /// This side sent a FIN.
    pub const FIN: u8 = 4;
    /// This side acknowledged its peer's FIN.
    pub const FIN_ACKED: u8 = 8;
    /// This side sent a RST that its peer will act on.
    pub const RST: u8 = 16;
    /// This side offered window scaling.
    pub const SCALE: u8 = 32;
    /// This side offered selective acknowledgments.
    pub const SACK: u8 = 64;
    /// The numbers of this half are known.
    pub const KNOWN: u8 = 128;
    /// This side has opened the connection.
    pub const OPEN: u8 = SYN | KNOWN;
    /// And has said so to a peer that it has heard of.
    pub const OPEN_TO_PEER: u8 = OPEN | GRANTED;
}

/// Largest acceptable distance of an acknowledgment behind what was sent, unless the window is larger.
pub const MAX_ACK_DISTANCE: u32 = 66_000;
/// Largest window scale (RFC 7323 section 2.3).
pub const MAX_SCALE: u8 = 14;
/// How much data a SYN may have carried that its acknowledgment does not cover (RFC 7413: one segment).
const MAX_SYN_DATA: u32 = 9216;
/// Attempts of a compare-and-exchange before the packet is handed down.
const ATTEMPTS: usize = 4;
/// Bit of a half's state word: its shift is the same for all of its numbers, and every path applies it.
const CONSTANT: u32 = 1 << 16;

/// What people call the state of a connection, derived from both halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The initiator's SYN was seen.
    SynSent,
    /// Both SYNs were seen.
    SynReceived,
    /// Both sides have acknowledged.
    Established,
    /// One side has finished sending.
    Closing,
    /// Both have, and both know it.
    Closed,
    /// A side has reset the connection.
    Reset,
}

impl Phase {
    /// The name that operators see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Reset => "reset",
        }
    }

    /// The phase of a connection from the state flags of both halves, Forward first.
    #[must_use]
    pub const fn of(forward: u8, reverse: u8) -> Self {
        let both = forward & reverse;
        if (forward | reverse) & flag::RST != 0 {
            Self::Reset
        } else if both & (flag::FIN | flag::FIN_ACKED) == flag::FIN | flag::FIN_ACKED {
            Self::Closed
        } else if (forward | reverse) & flag::FIN != 0 {
            Self::Closing
        } else if both & flag::GRANTED != 0 {
            Self::Established
        } else if both & flag::KNOWN != 0 {
            Self::SynReceived
        } else {
            Self::SynSent
        }
    }
}

impl TcpHalf {
    /// The state flags, see [`flag`].
    #[inline(always)]
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.state.load() as u8
    }

    /// The end of what this side has sent.
    #[must_use]
    pub fn end(&self) -> u32 {
        split(self.sent.load()).0
    }

    /// Up to where this side has acknowledged what its peer sent; 0 before it has.
    #[must_use]
    pub fn acknowledged(&self) -> u32 {
        split(self.allowed.load()).0
    }

    /// By how many bytes what this side sent is longer when it leaves, modulo 2^32.
    #[must_use]
    pub fn shift(&self) -> u32 {
        split(self.state.load()).1
    }

    /// Notes the shift. Only for connections whose packets all go to the slow path, on its one thread.
    pub fn set_shift(&self, shift: u32) {
        let (low, _) = split(self.state.load());
        self.state.store(pair(low & !CONSTANT, shift));
    }

    /// What is added to the numbers of this side on every path; 0 where the slow path shifts them itself.
    #[inline(always)]
    #[must_use]
    pub fn constant_shift(&self) -> u32 {
        constant(self.state.load())
    }

    /// Whether [`set_constant_shift`](Self::set_constant_shift) was called since the connection began, with whatever number.
    #[inline(always)]
    #[must_use]
    pub fn has_constant_shift(&self) -> bool {
        split(self.state.load()).0 & CONSTANT != 0
    }

    /// Has a constant added to the numbers of this side on every path; the other side needs one as well, if only of nothing.
    /// Only while all packets go to the slow path, on its one thread.
    pub fn set_constant_shift(&self, shift: u32) {
        let (low, _) = split(self.state.load());
        self.state.store(pair(low | CONSTANT, shift));
    }

    fn set_flags(&self, add: u8) -> Result<(), Reason> {
        update(&self.state, |word| word | u64::from(add))
    }
}

/// Window scale and SACK as offered in the options of a SYN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Window scale, clamped to [`MAX_SCALE`].
    pub scale: Option<u8>,
    /// Selective acknowledgments are permitted.
    pub sack: bool,
}

/// Reads the options of a SYN; `None` when they are malformed or take more than `turns` steps.
#[inline(always)]
pub fn offer<F: Frame>(packet: &F, transport: usize, segment: &Segment, turns: usize) -> Option<Offer> {
    let mut offer = Offer::default();
    let mut at = 20usize;
    let end = usize::from(segment.header);
    for _ in 0..turns {
        at = forget(at, segment.sequence);
        if at >= end {
            return Some(offer);
        }
        let kind = packet.read::<1>(transport + at)?[0];
        match kind {
            0 => return Some(offer),
            1 => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let length = usize::from(packet.read::<1>(transport + at + 1)?[0]);
        if length < 2 || at + length > end {
            return None;
        }
        match (kind, length) {
            (3, 3) => offer.scale = Some(packet.read::<1>(transport + at + 2)?[0].min(MAX_SCALE)),
            (4, 2) => offer.sack = true,
            _ => {}
        }
        at += length;
    }
    (at >= end).then_some(offer)
}

/// The same offset inside a TCP header, of which the kernel's verifier knows no more than that.
///
/// It follows the exact values of packet offsets, and each way through a list of options makes another one: without
/// this it would go through all lists that there can be. `unknown` is any number that it does not know.
#[inline(always)]
pub(crate) fn forget(offset: usize, unknown: u32) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut hidden = offset as u64 ^ u64::from(unknown);
        // SAFETY: no instruction at all; the value passes through a register unchanged.
        unsafe { core::arch::asm!("/* {0} */", inout(reg) hidden) };
        ((hidden ^ u64::from(unknown)) & 63) as usize
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = unknown;
        offset
    }
}

/// Starts the context with an initiator's SYN: `own` is Forward, `peer` is Reverse. The slow path calls it
/// before the entry is published.
pub fn open(own: &TcpHalf, peer: &TcpHalf, segment: &Segment, offer: Offer) {
    peer.sent.store(0);
    peer.allowed.store(0);
    peer.state.store(0);
    own.sent.store(pair(end_of(segment), u32::from(segment.window).max(1)));
    own.allowed.store(0);
    own.state.store(state(flag::OPEN, offer));
}

/// Starts the context of a connection that is running already with a segment of one side's. What its handshake agreed on
/// was not seen, so windows are taken for as large as they can be: the scale is [`MAX_SCALE`], and the peer may have sent
/// all that such a window allows.
pub fn take_up(own: &TcpHalf, peer: &TcpHalf, segment: &Segment) {
    let window = u32::from(u16::MAX) << MAX_SCALE;
    let offer = Offer { scale: Some(MAX_SCALE), sack: false };
    let ahead = segment.acknowledgment.wrapping_add(window);
    own.sent.store(pair(end_of(segment), window));
    own.allowed.store(pair(segment.acknowledgment, ahead));
    peer.sent.store(pair(ahead, window));
    peer.allowed.store(pair(segment.sequence, end_of(segment).wrapping_add(window)));
    for half in [own, peer] {
        half.state.store(state(flag::OPEN_TO_PEER, offer));
    }
}

/// Adds the other side's SYN to an opening connection: simultaneous open (RFC 9293 section 3.5).
pub fn open_too(own: &TcpHalf, segment: &Segment, offer: Offer) {
    own.sent.store(pair(end_of(segment), u32::from(segment.window).max(1)));
    own.state.store(state(flag::OPEN, offer));
}

/// Whether a SYN is the one that this side has sent before.
#[must_use]
pub fn repeats(own: &TcpHalf, segment: &Segment) -> bool {
    let (end, _) = split(own.sent.load());
    end.wrapping_sub(end_of(segment)) <= MAX_ACK_DISTANCE
}

/// Whether a sequence number may be that of a segment under way from the side of `own`: neither acknowledged by `peer`
/// nor beyond what was sent. What an ICMP error quotes has to be (RFC 5927 section 4.1).
///
/// The end of what was sent counts, as there a segment without data is. Before the peer has acknowledged anything, only
/// the SYN and what it carried can be under way.
#[must_use]
pub fn in_flight(own: &TcpHalf, peer: &TcpHalf, sequence: u32) -> bool {
    if own.flags() & flag::KNOWN == 0 {
        return false;
    }
    let (end, _) = split(own.sent.load());
    let oldest = if peer.flags() & flag::GRANTED != 0 {
        split(peer.allowed.load()).0
    } else {
        end.wrapping_sub(1 + MAX_SYN_DATA)
    };
    at_most(oldest, sequence) && at_most(sequence, end)
}

/// Whether a segment of an open connection would pass [`check`], which is not asked to move anything on.
#[must_use]
pub fn accepts(own: &TcpHalf, peer: &TcpHalf, segment: &Segment) -> bool {
    let known = own.flags() & peer.flags() & flag::KNOWN != 0;
    let flags = segment.flags & tcp::STATE;
    let edges = Edges::load(own, peer, peer.flags());
    known
        && matches!(flags, tcp::ACK | tcp::FIN_ACK)
        && edges.sequence_fits(segment.sequence, end_of(segment))
        && edges.acknowledgment_fits(segment.acknowledgment.wrapping_sub(peer.constant_shift()))
}

/// Checks a segment from the side of `own` to the side of `peer` and moves the context on.
///
/// `offer` is asked for the options of an acceptable SYN|ACK only.
///
/// # Errors
/// The reason to hand the packet down; the context is then as it was.
#[inline(always)]
pub fn check(
    own: &TcpHalf,
    peer: &TcpHalf,
    segment: &Segment,
    offer: impl FnOnce() -> Option<Offer>,
) -> Result<(), Reason> {
    let flags = segment.flags & tcp::STATE;
    match flags {
        tcp::SYN => return Err(Reason::TcpSyn),
        tcp::ACK | tcp::FIN_ACK => {}
        tcp::SYN_ACK => return syn_ack(own, peer, segment, offer),
        tcp::RST | tcp::RST_ACK => return reset(own, peer, segment),
        _ => return Err(Reason::TcpFlags),
    }
    let own_state = own.state.load();
    let peer_state = peer.state.load();
    if own_state as u8 & flag::KNOWN == 0 || peer_state as u8 & flag::KNOWN == 0 {
        return Err(Reason::TcpState);
    }
    let edges = Edges::load(own, peer, peer_state as u8);
    let end = end_of(segment);
    // What is acknowledged has left with other numbers than those here.
    let acknowledgment = segment.acknowledgment.wrapping_sub(constant(peer_state));
    if !edges.sequence_fits(segment.sequence, end) || !edges.acknowledgment_fits(acknowledgment) {
        return Err(Reason::TcpWindow);
    }
    let scaled = own_state as u8 & peer_state as u8 & flag::SCALE != 0;
    let scale = if scaled { (own_state >> 8) as u32 & 15 } else { 0 };
    let window = u32::from(segment.window) << scale;
    let granted = acknowledgment.wrapping_add(window);
    let first_grant = own_state as u8 & flag::GRANTED == 0;

    advance_sent(own, end, window)?;
    advance_allowed(own, acknowledgment, granted, first_grant)?;
    let mut add = flag::GRANTED;
    if flags == tcp::FIN_ACK {
        add |= flag::FIN;
    }
    if peer_state as u8 & flag::FIN != 0 && acknowledgment == edges.peer_end {
        add |= flag::FIN_ACKED;
    }
    if own_state as u8 & add != add { own.set_flags(add) } else { Ok(()) }
}

/// The numbers that the four rules compare.
struct Edges {
    own_end: u32,
    own_window: u32,
    limit: u32,
    peer_end: u32,
    peer_window: u32,
}

impl Edges {
    #[inline(always)]
    fn load(own: &TcpHalf, peer: &TcpHalf, peer_flags: u8) -> Self {
        let (own_end, own_window) = split(own.sent.load());
        let (peer_end, peer_window) = split(peer.sent.load());
        let (_, granted) = split(peer.allowed.load());
        // Until the peer has granted a window, nothing may follow what the opening segment carried.
        let limit = if peer_flags & flag::GRANTED != 0 { granted } else { own_end };
        Self { own_end, own_window, limit, peer_end, peer_window }
    }

    /// Rules 1 and 2.
    #[inline(always)]
    fn sequence_fits(&self, sequence: u32, end: u32) -> bool {
        at_most(sequence, self.limit) && at_most(self.own_end.wrapping_sub(self.peer_window), end)
    }

    /// Rules 3 and 4.
    #[inline(always)]
    fn acknowledgment_fits(&self, acknowledgment: u32) -> bool {
        let distance = if self.own_window > MAX_ACK_DISTANCE { self.own_window } else { MAX_ACK_DISTANCE };
        at_most(acknowledgment, self.peer_end) && at_most(self.peer_end.wrapping_sub(distance), acknowledgment)
    }
}

/// The answer to an initiator's SYN, first or repeated.
#[inline(always)]
fn syn_ack(
    own: &TcpHalf,
    peer: &TcpHalf,
    segment: &Segment,
    offer: impl FnOnce() -> Option<Offer>,
) -> Result<(), Reason> {
    let own_state = own.state.load();
    let peer_flags = peer.flags();
    if peer_flags & flag::SYN == 0 || (own_state | u64::from(peer_flags)) as u8 & flag::RST != 0 {
        return Err(Reason::TcpState);
    }
    let end = end_of(segment);
    let (peer_end, _) = split(peer.sent.load());
    let acknowledgment = segment.acknowledgment.wrapping_sub(peer.constant_shift());
    let unacknowledged = peer_end.wrapping_sub(acknowledgment);
    if own_state as u8 & flag::KNOWN != 0 {
        // Repeated: it must lie wholly in what this side has sent, and changes nothing.
        let (own_end, own_window) = split(own.sent.load());
        let behind = own_end.wrapping_sub(end);
        return if behind <= own_window.max(MAX_ACK_DISTANCE) && unacknowledged <= MAX_ACK_DISTANCE {
            Ok(())
        } else {
            Err(Reason::TcpWindow)
        };
    }
    if unacknowledged > MAX_SYN_DATA {
        return Err(Reason::TcpWindow);
    }
    let Some(offer) = offer() else {
        return Err(Reason::TcpSyn);
    };
    let window = u32::from(segment.window);
    let granted = acknowledgment.wrapping_add(window);
    // State goes last: whoever sees KNOWN finds the numbers.
    let written = own.sent.replace(0, pair(end, window.max(1)))
        && own.allowed.replace(0, pair(acknowledgment, granted))
        && own.state.replace(0, state(flag::OPEN_TO_PEER, offer));
    if written { Ok(()) } else { Err(Reason::Contention) }
}

/// A reset. Only one that its receiver will act on ends the connection (RFC 5961 section 3.2): its sequence
/// number is exactly what the receiver waits for. Others in the window pass and change nothing, so that the
/// receiver's challenge and its answer can do their work.
#[inline(always)]
fn reset(own: &TcpHalf, peer: &TcpHalf, segment: &Segment) -> Result<(), Reason> {
    let own_flags = own.flags();
    let peer_flags = peer.flags();
    if peer_flags & flag::KNOWN == 0 {
        return Err(Reason::TcpState);
    }
    let edges = Edges::load(own, peer, peer_flags);
    let acknowledges = segment.flags & tcp::ACK != 0;
    let acknowledgment = segment.acknowledgment.wrapping_sub(peer.constant_shift());
    if own_flags & flag::KNOWN == 0 {
        // The answer to a SYN for a closed port (RFC 9293 section 3.10.7.1).
        let exact = acknowledges && edges.peer_end.wrapping_sub(acknowledgment) <= MAX_SYN_DATA;
        return if exact { own.set_flags(flag::RST) } else { Err(Reason::TcpWindow) };
    }
    let end = end_of(segment);
    if !edges.sequence_fits(segment.sequence, end) {
        return Err(Reason::TcpWindow);
    }
    if acknowledges && !edges.acknowledgment_fits(acknowledgment) {
        return Err(Reason::TcpWindow);
    }
    let (expected, _) = split(peer.allowed.load());
    let exact = (peer_flags & flag::GRANTED != 0 && segment.sequence == expected) || segment.sequence == edges.own_end;
    if exact && own_flags & flag::RST == 0 { own.set_flags(flag::RST) } else { Ok(()) }
}

/// The sequence number behind the segment: SYN and FIN take one each (RFC 9293 section 3.4).
#[inline(always)]
fn end_of(segment: &Segment) -> u32 {
    let syn = u32::from(segment.flags & tcp::SYN != 0);
    let fin = u32::from(segment.flags & tcp::FIN != 0);
    segment.sequence.wrapping_add(segment.payload).wrapping_add(syn).wrapping_add(fin)
}

#[inline(always)]
fn advance_sent(own: &TcpHalf, end: u32, window: u32) -> Result<(), Reason> {
    update(&own.sent, |word| {
        let (old_end, old_window) = split(word);
        pair(later(old_end, end), old_window.max(window))
    })
}

#[inline(always)]
fn advance_allowed(own: &TcpHalf, acknowledgment: u32, granted: u32, first: bool) -> Result<(), Reason> {
    update(&own.allowed, |word| {
        let (old_acknowledgment, old_granted) = split(word);
        // A word of zero was never written: zero is then no edge to compare with.
        if first && word == 0 {
            pair(acknowledgment, granted)
        } else {
            pair(later(old_acknowledgment, acknowledgment), later(old_granted, granted))
        }
    })
}

/// Replaces a shared word by a function of it, in a bounded number of attempts.
#[inline(always)]
fn update(cell: &Cell64, change: impl Fn(u64) -> u64) -> Result<(), Reason> {
    for _ in 0..ATTEMPTS {
        let old = cell.load();
        let new = change(old);
        if new == old || cell.replace(old, new) {
            return Ok(());
        }
    }
    Err(Reason::Contention)
}

/// `a <= b` in sequence space (RFC 9293 section 3.4).
#[inline(always)]
const fn at_most(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) as i32 >= 0
}

#[inline(always)]
const fn later(a: u32, b: u32) -> u32 {
    if at_most(a, b) { b } else { a }
}

/// The constant shift of a state word.
#[inline(always)]
const fn constant(word: u64) -> u32 {
    let (low, shift) = split(word);
    if low & CONSTANT != 0 { shift } else { 0 }
}

#[inline(always)]
const fn state(flags: u8, offer: Offer) -> u64 {
    let flags = if offer.sack { flags | flag::SACK } else { flags };
    match offer.scale {
        Some(scale) => (flags | flag::SCALE) as u64 | (scale as u64) << 8,
        None => flags as u64,
    }
}
