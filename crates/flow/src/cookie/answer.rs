//! A SYN is turned into the SYN|ACK that answers it, in place.

use flowhop_wire::checksum::{self, Delta};
use flowhop_wire::{Frame, Ipv4, Ipv6, protocol, tcp_flags};

use super::digest::seal;
use super::{Cookies, WINDOW};
use crate::forward::Packet;
use crate::parse::{ETHERNET, Parsed, Segment};
use crate::record::Tick;

/// Steps through the options of a SYN in search of its segment size; behind them it is taken for absent.
const TURNS: usize = 4;
/// Hops of a packet that starts here (RFC 1700).
const HOPS: u8 = 64;

/// Turns a SYN into its answer. `removed` is what its payload, which is cut off, made of the checksum. `None`: its own
/// checksum is wrong, and nothing was changed.
pub fn answer<P: Packet>(
    cookies: &Cookies,
    packet: &mut P,
    parsed: &Parsed,
    syn: &Segment,
    size: u16,
    removed: Delta,
    now: Tick,
) -> Option<()> {
    let cookie = seal(cookies, &parsed.key, syn.sequence, announced(packet, parsed, syn), now);
    Answer { cookie, size }.write(packet, parsed, syn, removed)
}

/// The place of the segment size that the options of a SYN announce.
#[inline(always)]
pub(super) fn announced<F: Frame>(packet: &F, parsed: &Parsed, syn: &Segment) -> u32 {
    size_index(announced_size(packet, parsed.transport_offset, syn, parsed.key.family()))
}

/// That size; what is assumed without one (RFC 9293 section 3.7.1).
#[inline(always)]
fn announced_size<F: Frame>(packet: &F, transport: usize, segment: &Segment, family: u8) -> u16 {
    let none = if family == 4 { 536 } else { 1220 };
    let mut at = 20usize;
    let end = usize::from(segment.header);
    for _ in 0..TURNS {
        at = crate::tcp::forget(at, segment.sequence);
        if at + 4 > end {
            return none;
        }
        let Some(&[kind, length, high, low]) = packet.read::<4>(transport + at) else { return none };
        match (kind, length) {
            (0, _) => return none,
            (1, _) => at += 1,
            (2, 4) => return u16::from_be_bytes([high, low]),
            (_, 0 | 1) => return none,
            (_, length) => at += usize::from(length),
        }
    }
    none
}

/// The place of the largest of the [`SIZES`] that is not above a size.
#[inline(always)]
const fn size_index(size: u16) -> u32 {
    (size >= 536) as u32
        + (size >= 1220) as u32
        + (size >= 1360) as u32
        + (size >= 1400) as u32
        + (size >= 1440) as u32
        + (size >= 1460) as u32
        + (size >= 8960) as u32
}

/// What a SYN is answered with: its sequence number, and the segment size that it announces.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    pub(super) cookie: u32,
    pub(super) size: u16,
}

impl Answer {
    /// Writes it over the SYN; the checksum is brought along by what changed. `None`: the checksum of the SYN is wrong, and
    /// nothing was changed, or a header is outside the packet after all (never seen after a successful parse).
    #[inline(always)]
    pub(super) fn write<P: Packet>(self, packet: &mut P, parsed: &Parsed, syn: &Segment, removed: Delta) -> Option<()> {
        let at = parsed.transport_offset;
        // Without options in the SYN there is no room for one in an answer that is not to be longer.
        let header = if syn.header >= 24 { 24u8 } else { 20 };
        if P::WHOLE_CHECKSUMS && !is_whole(packet, parsed, syn)? {
            return None;
        }
        let options = self.options(packet, at, syn)?;
        let changed = self.header(packet, at, syn, header)?;
        let lengths = [u16::from(syn.header) + syn.payload as u16, u16::from(header)].map(wire);
        let network = if parsed.key.family() == 4 { Ipv4::LEN } else { Ipv6::LEN };
        let length = network as u16 + u16::from(header);
        if parsed.key.family() == 4 {
            ipv4(packet, parsed, length)?;
        } else {
            ipv6(packet, parsed, u16::from(header))?;
        }
        if parsed.network >= ETHERNET {
            let link = packet.write::<12>(0)?;
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *link;
            *link = [g, h, i, j, k, l, a, b, c, d, e, f];
        }
        let pseudo = Delta::ZERO.replace16(lengths[0], lengths[1]);
        packet.fix_checksum(at + 16, pseudo, options.and(changed).and(removed), false)?;
        packet.shorten(parsed.network + usize::from(length))
    }

    /// Clears the options and leaves the segment size in front, if there is room; what that makes of the sum.
    #[inline(always)]
    fn options<P: Packet>(self, packet: &mut P, at: usize, syn: &Segment) -> Option<Delta> {
        let mut sum = Sum(0);
        for number in 0..10usize {
            let offset = 20 + 4 * number;
            if offset >= usize::from(syn.header) {
                break;
            }
            let [high, low] = self.size.to_be_bytes();
            let new = if number == 0 { [2, 4, high, low] } else { [0; 4] };
            let place = packet.write::<4>(at + offset)?;
            sum.replace(*place, new);
            *place = new;
        }
        Some(sum.delta())
    }

    #[inline(always)]
    fn header<P: Packet>(self, packet: &mut P, at: usize, syn: &Segment, header: u8) -> Option<Delta> {
        let place = packet.write::<20>(at)?;
        let mut sum = Sum(0);
        let (words, _) = place.as_chunks_mut::<4>();
        let [ports, sequence, acknowledgment, control, end] = words else { return None };
        let [a, b, c, d] = *ports;
        let [high, low] = WINDOW.to_be_bytes();
        for (place, new) in [
            (ports, [c, d, a, b]),
            (sequence, self.cookie.to_be_bytes()),
            (acknowledgment, syn.sequence.wrapping_add(1).to_be_bytes()),
            (control, [header << 2, tcp_flags::SYN_ACK, high, low]),
        ] {
            sum.replace(*place, new);
            *place = new;
        }
        let [one, other, c, d] = *end;
        sum.replace([0, 0, c, d], [0; 4]);
        *end = [one, other, 0, 0];
        Some(sum.delta())
    }
}

/// A difference of sums, in memory order.
struct Sum(u64);

impl Sum {
    #[inline(always)]
    const fn replace(&mut self, old: [u8; 4], new: [u8; 4]) {
        self.0 += !u32::from_ne_bytes(old) as u64 + u32::from_ne_bytes(new) as u64;
    }

    #[inline(always)]
    const fn delta(self) -> Delta {
        Delta(folded(self.0))
    }
}

#[inline(always)]
const fn folded(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    checksum::fold(sum as u32)
}

/// Whether the checksum of a SYN without payload is right.
#[inline(always)]
fn is_whole<P: Packet>(packet: &P, parsed: &Parsed, syn: &Segment) -> Option<bool> {
    let mut sum = 0u64;
    for number in 0..15usize {
        if 4 * number >= usize::from(syn.header) {
            break;
        }
        sum += u64::from(u32::from_ne_bytes(*packet.read::<4>(parsed.transport_offset + 4 * number)?));
    }
    let v4 = parsed.key.family() == 4;
    for number in 0..4 {
        if !v4 || number == 3 {
            sum += u64::from(parsed.key.source[number]) + u64::from(parsed.key.destination[number]);
        }
    }
    sum += u64::from(wire(u16::from(protocol::TCP))) + u64::from(wire(u16::from(syn.header)));
    Some(folded(sum) == 0xffff)
}

/// A word as it lies in the packet.
#[inline(always)]
const fn wire(word: u16) -> u16 {
    u16::from_ne_bytes(word.to_be_bytes())
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &mut P, parsed: &Parsed, length: u16) -> Option<()> {
    let header = packet.write::<{ Ipv4::LEN }>(parsed.network)?;
    let (words, _) = header.as_chunks_mut::<4>();
    let [first, second, third, source, destination] = words else { return None };
    let [high, low] = length.to_be_bytes();
    *first = [0x45, 0, high, low];
    // No identification is needed where nothing may be cut (RFC 6864 section 4.1).
    *second = [0, 0, 0x40, 0];
    *third = [HOPS, protocol::TCP, 0, 0];
    core::mem::swap(source, destination);
    let sum = [*first, *second, *third, *source, *destination].map(|word| u64::from(u32::from_ne_bytes(word)));
    let [a, b, c, d, e] = sum;
    let [one, other] = (!folded(a + b + c + d + e)).to_ne_bytes();
    *third = [HOPS, protocol::TCP, one, other];
    Some(())
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &mut P, parsed: &Parsed, length: u16) -> Option<()> {
    let mut sum = Sum(0);
    let header = packet.write::<{ Ipv6::LEN }>(parsed.network)?;
    let (words, _) = header.as_chunks_mut::<4>();
    let [first, second, s0, s1, s2, s3, d0, d1, d2, d3] = words else { return None };
    // The flow label of the SYN, and no traffic class.
    let [_, b, c, d] = *first;
    let new = [0x60, b & 0x0f, c, d];
    sum.replace(*first, new);
    *first = new;
    let [.., next, hops] = *second;
    let [high, low] = length.to_be_bytes();
    sum.replace([0, 0, next, hops], [0, 0, next, HOPS]);
    *second = [high, low, next, HOPS];
    core::mem::swap(s0, d0);
    core::mem::swap(s1, d1);
    core::mem::swap(s2, d2);
    core::mem::swap(s3, d3);
    packet.header_changed(sum.delta());
    Some(())
}
