//! Headers that the fast path handles, and the key they make.
//!
//! One pass, fixed offsets: Ethernet, IPv4 without options or IPv6 without extension headers, then TCP, UDP,
//! ICMP echo, or any other protocol by its addresses. Everything else ends in an [`Exception`] that says why
//! and, where it could be read, whom the packet is for, so that the caller can tell the box's own packets.

use flowhop_wire::{Frame, Icmp, Ipv4, Ipv6, Tcp, Udp, checksum, icmp4, icmp6, protocol, tcp_flags};
use zerocopy::transmute_ref;

use crate::key::{self, Address, Key};
use crate::reason::Reason;

/// Length of an Ethernet header in bytes.
pub const ETHERNET: usize = 14;

/// What follows the IP header, as far as forwarding touches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP with what the window check reads.
    Tcp(Segment),
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo request or reply.
    Echo,
    /// Another protocol, or a later fragment: nothing is rewritten behind the IP header.
    Opaque,
}

/// A TCP segment, numbers in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Flag byte, see `flowhop_wire::tcp_flags`.
    pub flags: u8,
    /// Window as in the header, unscaled.
    pub window: u16,
    /// Bytes of the TCP header, options included (20 to 60).
    pub header: u8,
    /// Bytes of payload.
    pub payload: u32,
    /// The slow path has judged this segment itself (a SYN): the context is not asked and does not change.
    pub vouched: bool,
}

/// A packet whose headers were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The key of its flow.
    pub key: Key,
    /// Offset of the IP header in bytes.
    pub network: usize,
    /// Offset of the transport header in bytes.
    pub transport_offset: usize,
    /// The transport header.
    pub transport: Transport,
    /// Bytes from the IP header to the end of the packet, link-layer padding excluded.
    pub length: u32,
    /// Time to live or hop limit as received.
    pub ttl: u8,
}

/// A packet that the fast path cannot read to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Why.
    pub reason: Reason,
    /// Destination, if the IP header was long enough to say; else unspecified (all zero).
    pub destination: Address,
}

impl Exception {
    const fn nowhere(reason: Reason) -> Self {
        Self { reason, destination: [0; 4] }
    }
}

/// Reads an IPv4 packet at `network`. The context goes into the key.
///
/// # Errors
/// An [`Exception`] for whatever the fast path hands down.
#[inline(always)]
pub fn ipv4<F: Frame>(packet: &F, network: usize, context: u16) -> Result<Parsed, Exception> {
    let Some(bytes) = packet.read::<{ Ipv4::LEN }>(network) else {
        return Err(Exception::nowhere(Reason::Truncated));
    };
    let header: &Ipv4 = transmute_ref!(bytes);
    let destination = key::mapped(header.destination);
    let fail = |reason| Err(Exception { reason, destination });
    if header.version_ihl != 0x45 {
        return fail(if header.version() == 4 && header.header_len() > Ipv4::LEN {
            Reason::Options
        } else {
            Reason::BadHeader
        });
    }
    let length = u32::from(header.total_length.get());
    if (length as usize) < Ipv4::LEN {
        return fail(Reason::BadHeader);
    }
    if !packet.holds(network + length as usize) {
        return fail(Reason::Truncated);
    }
    if checksum_of(bytes) != 0xffff {
        return fail(Reason::BadIpChecksum);
    }
    if header.is_fragment() {
        return fail(Reason::Fragment);
    }
    let key = Key {
        source: key::mapped(header.source),
        destination,
        ports: 0,
        identity: Key::identity(header.protocol, 4, context),
    };
    transport(
        packet,
        Parsed {
            key,
            network,
            transport_offset: network + Ipv4::LEN,
            transport: Transport::Opaque,
            length,
            ttl: header.ttl,
        },
    )
}

/// Reads an IPv6 packet at `network`. The context goes into the key.
///
/// # Errors
/// An [`Exception`] for whatever the fast path hands down.
#[inline(always)]
pub fn ipv6<F: Frame>(packet: &F, network: usize, context: u16) -> Result<Parsed, Exception> {
    let Some(bytes) = packet.read::<{ Ipv6::LEN }>(network) else {
        return Err(Exception::nowhere(Reason::Truncated));
    };
    let header: &Ipv6 = transmute_ref!(bytes);
    let destination = key::words(&header.destination);
    let fail = |reason| Err(Exception { reason, destination });
    if header.version() != 6 {
        return fail(Reason::BadHeader);
    }
    let length = Ipv6::LEN as u32 + u32::from(header.payload_length.get());
    if !packet.holds(network + length as usize) {
        return fail(Reason::Truncated);
    }
    match header.next_header {
        protocol::FRAGMENT => return fail(Reason::Fragment),
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS | protocol::AH | protocol::NO_NEXT => {
            return fail(Reason::ExtensionHeader);
        }
        // Mobility, HIP and Shim6 are extension headers as well (RFC 7045).
        135 | 139 | 140 => return fail(Reason::ExtensionHeader),
        _ => {}
    }
    let key = Key {
        source: key::words(&header.source),
        destination,
        ports: 0,
        identity: Key::identity(header.next_header, 6, context),
    };
    transport(
        packet,
        Parsed {
            key,
            network,
            transport_offset: network + Ipv6::LEN,
            transport: Transport::Opaque,
            length,
            ttl: header.hop_limit,
        },
    )
}

/// Completes a packet whose IP part was read by its transport header: ports, lengths, TCP numbers.
///
/// The slow path calls it with the offset that its walk over options and extension headers gave.
///
/// # Errors
/// As [`ipv4`].
#[inline(always)]
pub fn transport<F: Frame>(packet: &F, mut parsed: Parsed) -> Result<Parsed, Exception> {
    let destination = parsed.key.destination;
    let fail = |reason| Err(Exception { reason, destination });
    // Length of what is behind the IP headers; the caller saw to it that it is inside the packet.
    let rest = (parsed.length as usize).wrapping_sub(parsed.transport_offset - parsed.network) as u32;
    if rest > parsed.length {
        return fail(Reason::Truncated);
    }
    // What a header that is wrong is: behind the end of the packet nothing is one.
    let bad = |least| if rest < least as u32 { Reason::Truncated } else { Reason::BadHeader };
    match (parsed.key.protocol(), parsed.key.family()) {
        (protocol::TCP, _) => {
            let Some(bytes) = packet.read::<{ Tcp::LEN }>(parsed.transport_offset) else {
                return fail(Reason::Truncated);
            };
            let header: &Tcp = transmute_ref!(bytes);
            let length = header.header_len() as u32;
            if length < Tcp::LEN as u32 {
                return fail(bad(Tcp::LEN));
            }
            if length > rest {
                return fail(Reason::Truncated);
            }
            parsed.key.ports = first_word(bytes);
            parsed.transport = Transport::Tcp(Segment {
                sequence: header.sequence.get(),
                acknowledgment: header.acknowledgment.get(),
                flags: header.flags & tcp_flags::CONTROL,
                window: header.window.get(),
                header: length as u8,
                payload: rest - length,
                vouched: false,
            });
        }
        (protocol::UDP, _) => {
            let Some(bytes) = packet.read::<{ Udp::LEN }>(parsed.transport_offset) else {
                return fail(Reason::Truncated);
            };
            let header: &Udp = transmute_ref!(bytes);
            let length = u32::from(header.length.get());
            if length < Udp::LEN as u32 {
                return fail(bad(Udp::LEN));
            }
            if length > rest {
                return fail(Reason::Truncated);
            }
            parsed.key.ports = first_word(bytes);
            parsed.transport = Transport::Udp;
        }
        (protocol::ICMP, 4) | (protocol::ICMPV6, 6) => {
            let Some(bytes) = packet.read::<{ Icmp::LEN }>(parsed.transport_offset) else {
                return fail(Reason::Truncated);
            };
            if rest < Icmp::LEN as u32 {
                return fail(Reason::Truncated);
            }
            let header: &Icmp = transmute_ref!(bytes);
            match (parsed.key.family(), header.kind, header.code) {
                (4, icmp4::ECHO_REQUEST | icmp4::ECHO_REPLY, 0) | (6, icmp6::ECHO_REQUEST | icmp6::ECHO_REPLY, 0) => {}
                // Valid only as its neighbour sent it (RFC 4861 section 6.1): what has been forwarded is no business of
                // the stack's.
                (6, icmp6::ROUTER_SOLICITATION..=icmp6::REDIRECT, _) if parsed.ttl == 255 => {
                    return fail(Reason::NeighbourDiscovery);
                }
                _ => return fail(Reason::Icmp),
            }
            parsed.key.ports = u32::from_ne_bytes([header.rest[0], header.rest[1], header.kind, header.code]);
            parsed.transport = Transport::Echo;
        }
        _ => {}
    }
    Ok(parsed)
}

/// The one's complement sum over an IPv4 header without options, in memory order: `0xffff` when it is right.
#[inline(always)]
fn checksum_of(header: &[u8; Ipv4::LEN]) -> u16 {
    let words: &[[u8; 4]; 5] = transmute_ref!(header);
    let mut sum = 0u64;
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    checksum::fold(sum as u32)
}

#[inline(always)]
fn first_word<const N: usize>(bytes: &[u8; N]) -> u32 {
    match bytes.as_slice() {
        [a, b, c, d, ..] => u32::from_ne_bytes([*a, *b, *c, *d]),
        _ => 0,
    }
}
