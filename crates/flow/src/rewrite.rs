//! Rewriting a packet by its flow next hop: link-layer addresses, TTL, addresses, ports or ICMP identifier, the IPv4
//! identification where addresses change; checksums by difference only (RFC 1624 equation 3).
//!
//! One's complement sums are the same in either byte order, so everything here stays in memory order.

use flowhop_wire::checksum::Delta;
use flowhop_wire::{Frame, Icmp, Ipv4, Ipv6, Tcp, Udp, tcp_flags};

use crate::forward::Packet;
use crate::key::{Address, Key};
use crate::parse::{ETHERNET, Parsed, Transport};

/// What lowering the first byte of a word by one does to a sum in memory order.
const TTL_DELTA: Delta = Delta(!u16::from_ne_bytes([1, 0]));

/// What a direction's packets look like when they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Ports word, as in a key.
    pub ports: u32,
    /// One's complement delta of the addresses, in memory order.
    pub address_delta: u16,
    /// One's complement delta of the ports, in memory order.
    pub port_delta: u16,
}

impl Rewrite {
    /// The deltas of replacing what a key says by what this rewrite says.
    ///
    /// Of an ICMP ports word only the identifier counts; type and code never change.
    #[must_use]
    pub const fn with_deltas(mut self, source: &Address, destination: &Address, ports: u32) -> Self {
        let mut addresses = Delta::ZERO;
        let mut word = 0;
        while word < 4 {
            addresses = addresses.replace32(source[word], self.source[word]);
            addresses = addresses.replace32(destination[word], self.destination[word]);
            word += 1;
        }
        self.address_delta = canonical(addresses);
        self.port_delta = canonical(Delta::ZERO.replace32(ports, self.ports));
        self
    }
}

impl Rewrite {
    /// Whether the addresses of an IPv4 packet become others.
    #[inline(always)]
    #[must_use]
    pub const fn moves(&self, key: &Key) -> bool {
        self.source[3] != key.source[3] || self.destination[3] != key.destination[3]
    }
}

/// Zero has two forms in one's complement; the flow next hop keeps the plain one, which means "unchanged".
pub(crate) const fn canonical(delta: Delta) -> u16 {
    if delta.0 == 0xffff { 0 } else { delta.0 }
}

/// Rewrites a parsed packet. Link-layer addresses are written where there is a link-layer header. `identify` is asked for
/// the identification of an IPv4 packet with another address that may be cut into fragments (RFC 6864 section 5.3.1);
/// fragments keep theirs. `None` when a header turned out to be outside the packet after all.
#[inline(always)]
pub fn apply<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    rewrite: &Rewrite,
    macs: &[u8; 12],
    identify: impl FnOnce() -> u16,
) -> Option<()> {
    network(packet, parsed, rewrite, identify)?;
    // Both ports may change while their sum, and with it the delta, stays.
    if rewrite.address_delta | rewrite.port_delta != 0 || rewrite.ports != parsed.key.ports {
        transport(packet, parsed, rewrite)?;
    }
    if parsed.network < ETHERNET {
        return Some(());
    }
    // Last, because a packet that was refused half-way is handed down with its link-layer header as it came.
    let link = packet.write::<ETHERNET>(0)?;
    let [head @ .., _, _] = link;
    *head = *macs;
    Some(())
}

/// Adds to the sequence number of the TCP segment at an offset, and takes from its acknowledgment; what that makes of its
/// checksum, in memory order.
#[inline(always)]
pub fn renumber<P: Packet>(packet: &mut P, at: usize, [own, peer]: [u32; 2]) -> Option<Delta> {
    // All is read from the packet again, so that nothing has to be kept for the few that this is about.
    let header = packet.write::<16>(at)?;
    let (words, _) = header.as_chunks_mut::<4>();
    let [_, sequence, acknowledgment, [_, flags, ..]] = words else { return None };
    let mut delta = Delta::ZERO;
    let mut replace = |place: &mut [u8; 4], add: u32| {
        let new = u32::from_be_bytes(*place).wrapping_add(add).to_be_bytes();
        delta = delta.replace32(u32::from_ne_bytes(*place), u32::from_ne_bytes(new));
        *place = new;
    };
    replace(sequence, own);
    if *flags & tcp_flags::ACK != 0 {
        replace(acknowledgment, 0u32.wrapping_sub(peer));
    }
    Some(delta)
}

#[inline(always)]
fn network<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    rewrite: &Rewrite,
    identify: impl FnOnce() -> u16,
) -> Option<()> {
    if parsed.key.family() == 4 {
        let header = packet.write::<{ Ipv4::LEN }>(parsed.network)?;
        let old = u16::from_ne_bytes([header[10], header[11]]);
        let mut delta = Delta(rewrite.address_delta).and(TTL_DELTA);
        if may_be_cut(header) && rewrite.moves(&parsed.key) {
            let (was, is) = (u16::from_ne_bytes([header[4], header[5]]), identify().to_be_bytes());
            delta = delta.replace16(was, u16::from_ne_bytes(is));
            [header[4], header[5]] = is;
        }
        let new = delta.apply(old).to_ne_bytes();
        header[8] = header[8].wrapping_sub(1);
        header[10] = new[0];
        header[11] = new[1];
        let source = rewrite.source[3].to_ne_bytes();
        let destination = rewrite.destination[3].to_ne_bytes();
        let [.., a, b, c, d, e, f, g, h] = header;
        [*a, *b, *c, *d] = source;
        [*e, *f, *g, *h] = destination;
    } else {
        let header = packet.write::<{ Ipv6::LEN }>(parsed.network)?;
        header[7] = header[7].wrapping_sub(1);
        // In words of four bytes, or the kernel programs would store each byte by itself.
        let ([_, _, s0, s1, s2, s3, d0, d1, d2, d3], _) = header.as_chunks_mut::<4>() else { return None };
        [*s0, *s1, *s2, *s3] = rewrite.source.map(u32::to_ne_bytes);
        [*d0, *d1, *d2, *d3] = rewrite.destination.map(u32::to_ne_bytes);
    }
    Some(())
}

/// Whether an IPv4 packet is a fragment of one.
#[must_use]
pub const fn is_fragment(header: &[u8; Ipv4::LEN]) -> bool {
    header[6] & 0x3f | header[7] != 0
}

/// Whether an IPv4 packet is no fragment and may become some: all flags but the reserved one, and the offset, are 0.
#[inline(always)]
#[must_use]
pub const fn may_be_cut(header: &[u8; Ipv4::LEN]) -> bool {
    header[6] & 0x7f | header[7] == 0
}

#[inline(always)]
fn transport<P: Packet>(packet: &mut P, parsed: &Parsed, rewrite: &Rewrite) -> Option<()> {
    let at = parsed.transport_offset;
    let ports = rewrite.ports.to_ne_bytes();
    let addresses = Delta(rewrite.address_delta);
    let port_delta = Delta(rewrite.port_delta);
    match parsed.transport {
        Transport::Tcp(_) => {
            *packet.write::<4>(at)? = ports;
            packet.fix_checksum(at + core::mem::offset_of!(Tcp, checksum), addresses, port_delta, false)
        }
        Transport::Udp => {
            *packet.write::<4>(at)? = ports;
            packet.fix_checksum(at + core::mem::offset_of!(Udp, checksum), addresses, port_delta, true)
        }
        Transport::Echo => {
            *packet.write::<2>(at + core::mem::offset_of!(Icmp, rest))? = [ports[0], ports[1]];
            // ICMP for IPv4 sums no pseudo-header (RFC 792); ICMPv6 does (RFC 4443 section 2.3).
            let addresses = if parsed.key.family() == 4 { Delta::ZERO } else { addresses };
            packet.fix_checksum(at + core::mem::offset_of!(Icmp, checksum), addresses, port_delta, false)
        }
        Transport::Opaque => Some(()),
    }
}

/// Applies the deltas to a transport checksum in plain bytes: the form for buffers without offloads, and, with
/// `partial`, for those whose checksum field holds the sum of the pseudo-header only.
#[inline(always)]
pub fn fix_in_place<F: Frame>(
    packet: &mut F,
    offset: usize,
    addresses: Delta,
    ports: Delta,
    udp: bool,
    partial: bool,
) -> Option<()> {
    let field = packet.write::<2>(offset)?;
    let old = u16::from_ne_bytes(*field);
    let new = if partial {
        addresses.apply_partial(old)
    } else if udp {
        addresses.and(ports).apply_udp(old)
    } else {
        addresses.and(ports).apply(old)
    };
    *field = new.to_ne_bytes();
    Some(())
}
