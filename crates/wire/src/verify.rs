//! Whole checksums: verification on the slow path, and completion of partial ones.

use zerocopy::FromBytes;

use crate::checksum;
use crate::ipv6;
use crate::network::{Ipv4, Ipv6};
use crate::options::Ipv4Options;
use crate::protocol;
use crate::transport::{Tcp, Udp};

/// What a checksum turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// It is right.
    Valid,
    /// It is wrong.
    Invalid,
    /// UDP over IPv4 without a checksum, which is legitimate (RFC 768).
    Absent,
    /// There is nothing that could be verified in this packet: a fragment, a protocol without an Internet checksum,
    /// or a source route not yet travelled, with the final destination elsewhere than in the header.
    Uncovered,
    /// The lengths in the headers cannot be: no checksum can be made out.
    Malformed,
}

impl Verified {
    /// True unless the packet is damaged.
    #[inline]
    pub const fn is_acceptable(self) -> bool {
        matches!(self, Self::Valid | Self::Absent | Self::Uncovered)
    }

    #[inline]
    const fn of(sum: u32) -> Self {
        // RFC 1071 section 1: the sum with the checksum in its place is all ones, the other zero.
        if checksum::finish(sum) == 0 { Self::Valid } else { Self::Invalid }
    }
}

/// Verifies the header checksum of the IPv4 packet that begins with `packet` (RFC 791 section 3.1). Never `Absent` or
/// `Uncovered`.
pub fn ipv4_header(packet: &[u8]) -> Verified {
    match ipv4(packet) {
        Some((_, header, _)) => Verified::of(checksum::sum(header)),
        None => Verified::Malformed,
    }
}

/// Verifies the transport checksum of the IPv4 or IPv6 packet that begins with `packet`: TCP, UDP, ICMP and ICMPv6.
///
/// Bytes after the length that the IP header gives (padding of a minimal frame) do not count. The header checksum of
/// IPv4 is not looked at. UDP over IPv6 without a checksum is invalid (RFC 8200 section 8.1); a caller that expects
/// tunnels with zero checksums (RFC 6935) has to look at the field.
pub fn transport(packet: &[u8]) -> Verified {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => transport_v4(packet),
        Some(6) => transport_v6(packet),
        _ => Verified::Malformed,
    }
}

fn transport_v4(packet: &[u8]) -> Verified {
    let Some((ip, header, segment)) = ipv4(packet) else { return Verified::Malformed };
    let mut options = Ipv4Options::new(header.get(Ipv4::LEN..).unwrap_or_default()).flatten();
    if ip.is_fragment() || options.any(|option| option.is_source_route() && !is_travelled(option.data)) {
        return Verified::Uncovered;
    }
    let pseudo = |length: usize| checksum::pseudo_v4(ip.source, ip.destination, ip.protocol, length as u16);
    match ip.protocol {
        protocol::ICMP if segment.len() >= 4 => Verified::of(checksum::sum(segment)),
        protocol::ICMP => Verified::Malformed,
        protocol::UDP => udp(segment, pseudo, Verified::Absent),
        protocol::TCP => tcp(segment, pseudo),
        _ => Verified::Uncovered,
    }
}

fn transport_v6(packet: &[u8]) -> Verified {
    let Ok((ip, rest)) = Ipv6::ref_from_prefix(packet) else { return Verified::Malformed };
    let Some(payload) = rest.get(..usize::from(ip.payload_length.get())) else { return Verified::Malformed };
    let Ok(chain) = ipv6::walk(payload, ip.next_header) else { return Verified::Malformed };
    let Some(segment) = payload.get(chain.offset..) else { return Verified::Malformed };
    let split = chain.fragment.is_some_and(|fragment| !fragment.is_atomic());
    // RFC 8200 section 8.1: the pseudo-header has the final destination.
    if split || chain.routing.is_some_and(|routing| routing.segments_left > 0) {
        return Verified::Uncovered;
    }
    let pseudo = |length: usize| checksum::pseudo_v6(ip.source, ip.destination, chain.protocol, length as u32);
    match chain.protocol {
        protocol::ICMPV6 if segment.len() >= 4 => Verified::of(pseudo(segment.len()) + checksum::sum(segment)),
        protocol::ICMPV6 => Verified::Malformed,
        protocol::UDP => udp(segment, pseudo, Verified::Invalid),
        protocol::TCP => tcp(segment, pseudo),
        _ => Verified::Uncovered,
    }
}

fn tcp(segment: &[u8], pseudo: impl Fn(usize) -> u32) -> Verified {
    if segment.len() < Tcp::LEN {
        return Verified::Malformed;
    }
    Verified::of(pseudo(segment.len()) + checksum::sum(segment))
}

fn udp(segment: &[u8], pseudo: impl Fn(usize) -> u32, zero: Verified) -> Verified {
    let Ok((header, _)) = Udp::ref_from_prefix(segment) else { return Verified::Malformed };
    let length = usize::from(header.length.get());
    match segment.get(..length) {
        Some(datagram) if length >= Udp::LEN => match header.checksum.get() {
            0 => zero,
            _ => Verified::of(pseudo(length) + checksum::sum(datagram)),
        },
        _ => Verified::Malformed,
    }
}

/// Fixed header, whole header and payload of an IPv4 packet whose lengths can be (RFC 1812 section 5.2.2).
fn ipv4(packet: &[u8]) -> Option<(&Ipv4, &[u8], &[u8])> {
    let (ip, _) = Ipv4::ref_from_prefix(packet).ok()?;
    if ip.version() != 4 || ip.header_len() < Ipv4::LEN {
        return None;
    }
    let (header, payload) = packet.get(..usize::from(ip.total_length.get()))?.split_at_checked(ip.header_len())?;
    Some((ip, header, payload))
}

/// True if a source route with this data (pointer, then addresses) has no address left (RFC 791 section 3.1).
fn is_travelled(data: &[u8]) -> bool {
    data.first().is_none_or(|pointer| usize::from(*pointer) > data.len() + 2)
}

/// A transport checksum that may be partial. Offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostPartial {
    /// Where the transport header begins in the IP packet.
    pub start: usize,
    /// Where the field lies in the transport header.
    pub offset: usize,
    /// Where the IP packet ends.
    pub end: usize,
    /// What the field holds.
    pub value: u16,
}

/// The transport checksum of the TCP or UDP packet that begins with `packet`, if it is the folded sum of the
/// pseudo-header instead of a checksum: its sender left it to a device, and what says so got lost.
///
/// One in 65536 complete packets has the same value by chance; completing such a one gives the value that it has.
pub fn lost_partial(packet: &[u8]) -> Option<LostPartial> {
    let (start, end, protocol, sum) = match packet.first()? >> 4 {
        4 => {
            let (ip, header, segment) = ipv4(packet).filter(|(ip, ..)| !ip.is_fragment())?;
            let sum = checksum::pseudo_v4(ip.source, ip.destination, ip.protocol, segment.len() as u16);
            (header.len(), header.len() + segment.len(), ip.protocol, sum)
        }
        6 => {
            let (ip, rest) = Ipv6::ref_from_prefix(packet).ok()?;
            let payload = rest.get(..usize::from(ip.payload_length.get()))?;
            let chain = ipv6::walk(payload, ip.next_header).ok().filter(|chain| chain.fragment.is_none())?;
            let length = payload.len().checked_sub(chain.offset)?;
            let sum = checksum::pseudo_v6(ip.source, ip.destination, chain.protocol, length as u32);
            (Ipv6::LEN + chain.offset, Ipv6::LEN + payload.len(), chain.protocol, sum)
        }
        _ => return None,
    };
    let offset = match protocol {
        protocol::TCP => core::mem::offset_of!(Tcp, checksum),
        protocol::UDP => core::mem::offset_of!(Udp, checksum),
        _ => return None,
    };
    let value = u16::from_be_bytes(*packet.get(start + offset..end)?.first_chunk()?);
    (value == checksum::fold(sum)).then_some(LostPartial { start, offset, end, value })
}

/// Completes a partial checksum in place and gives the value stored: the checksum of everything from `csum_start` on,
/// its own field included, which holds the folded sum of the pseudo-header (virtio 1.2 section 5.1.6.2,
/// `skb_checksum_help` of Linux).
///
/// `bytes` must end where the packet ends, without the padding of a minimal frame; `csum_offset` counts from
/// `csum_start`. A computed zero is stored as `0xffff`, which UDP requires and the others take as equal.
/// `None`, with nothing changed, if the field is outside of `bytes`.
pub fn complete_partial(bytes: &mut [u8], csum_start: usize, csum_offset: usize) -> Option<u16> {
    let covered = bytes.get_mut(csum_start..)?;
    let checksum = checksum::finish_nonzero(checksum::sum(covered));
    *covered.get_mut(csum_offset..)?.first_chunk_mut()? = checksum.to_be_bytes();
    Some(checksum)
}
