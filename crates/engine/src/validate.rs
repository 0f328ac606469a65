//! IP validation (block 420): is this a packet that a router may look at any further?
//!
//! Every check has its own reason. What the fast path could not read (options, extension headers, fragments) is
//! read here in full.

pub mod addresses;
pub mod headers;

use flowhop_flow::key;
use flowhop_flow::parse::{self, ETHERNET, Parsed, Transport};
use flowhop_flow::{Key, Reason};
use flowhop_wire::{
    Ethernet, Frame, Icmp, Ipv4, Ipv6, Ipv6Fragment, Tcp, Udp, checksum, ethertype, icmp6, ipv6, protocol, verify,
};
use zerocopy::transmute_ref;

pub use addresses::Martians;
pub use headers::{Passing, Recording};

use crate::buffer::Buffer;

/// Place of a fragment in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPlace {
    /// Identification, as wide as the family has it.
    pub identification: u32,
    /// Offset of its data in the original payload, in bytes.
    pub offset: u32,
    /// Bytes of data.
    pub length: u32,
    /// More fragments follow.
    pub more: bool,
    /// Where its data begins in the frame.
    pub data: usize,
}

/// What a packet turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validated {
    /// A whole packet with a key.
    Flow(Parsed),
    /// A fragment; its transport is opaque and its key has no ports.
    Fragment(Parsed, FragmentPlace),
    /// An ICMP or ICMPv6 message other than echo.
    Message(Parsed),
    /// Neighbour discovery: the kernel's.
    NeighbourDiscovery,
    /// Not IP after all.
    NotIp,
}

/// Why a packet is dropped, and what its sender is told about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Why.
    pub reason: Reason,
    /// What its sender is told.
    pub problem: Option<Problem>,
}

/// A parameter problem (RFC 792, RFC 4443 section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its code in ICMPv6; in ICMP for IPv4 there is only 0.
    pub code: u8,
    /// Where in the packet it is, in bytes from the fixed header on.
    pub pointer: u32,
}

impl Problem {
    const fn field(pointer: u32) -> Self {
        Self { code: icmp6::ERRONEOUS_FIELD, pointer }
    }
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self { reason, problem: None }
    }
}

/// Validates a frame.
///
/// # Errors
/// The reason to drop it with.
pub fn validate(packet: &Buffer<'_>, martians: Martians, passing: &Passing) -> Result<Validated, Fault> {
    let link = packet.read::<ETHERNET>(0).ok_or(Reason::Truncated)?;
    let link: &Ethernet = transmute_ref!(link);
    let validated = match link.ethertype.get() {
        ethertype::IPV4 => ipv4(packet, passing)?,
        ethertype::IPV6 => ipv6(packet, passing)?,
        _ => return Ok(Validated::NotIp),
    };
    let (Validated::Flow(parsed) | Validated::Fragment(parsed, _) | Validated::Message(parsed)) = &validated else {
        return Ok(validated);
    };
    addresses::judge(&parsed.key, martians)?;
    transport_checksum(packet, &validated)?;
    Ok(validated)
}

fn ipv4(packet: &Buffer<'_>, passing: &Passing) -> Result<Validated, Fault> {
    let bytes = packet.read::<{ Ipv4::LEN }>(ETHERNET).ok_or(Reason::Truncated)?;
    let header: &Ipv4 = transmute_ref!(bytes);
    let header_length = header.header_len();
    let length = usize::from(header.total_length.get());
    if header.version() != 4 || header_length < Ipv4::LEN {
        return Err(Reason::BadHeader.into());
    }
    if length < header_length {
        return Err(Reason::BadLength.into());
    }
    let header_bytes = packet.bytes().get(ETHERNET..ETHERNET + header_length).ok_or(Reason::Truncated)?;
    if checksum::finish(checksum::sum(header_bytes)) != 0 {
        return Err(Reason::BadIpChecksum.into());
    }
    if packet.bytes().len() < ETHERNET + length {
        // RFC 1812 section 5.2.2: the pointer is to the total length.
        return Err(Fault { reason: Reason::Truncated, problem: Some(Problem::field(2)) });
    }
    headers::ipv4(header_bytes.get(Ipv4::LEN..).unwrap_or_default(), passing)?;
    let parsed = Parsed {
        key: Key {
            source: key::mapped(header.source),
            destination: key::mapped(header.destination),
            ports: 0,
            identity: Key::identity(header.protocol, 4, 0),
        },
        network: ETHERNET,
        transport_offset: ETHERNET + header_length,
        transport: Transport::Opaque,
        length: length as u32,
        ttl: header.ttl,
    };
    if !header.is_fragment() {
        return Ok(upper(packet, parsed)?);
    }
    let place = FragmentPlace {
        identification: u32::from(header.identification.get()),
        offset: header.fragment_offset() as u32,
        length: (length - header_length) as u32,
        more: header.more_fragments(),
        data: parsed.transport_offset,
    };
    Ok(fragment(packet, parsed, place)?)
}

fn ipv6(packet: &Buffer<'_>, passing: &Passing) -> Result<Validated, Fault> {
    let bytes = packet.read::<{ Ipv6::LEN }>(ETHERNET).ok_or(Reason::Truncated)?;
    let header: &Ipv6 = transmute_ref!(bytes);
    if header.version() != 6 {
        return Err(Reason::BadHeader.into());
    }
    let payload = usize::from(header.payload_length.get());
    let start = ETHERNET + Ipv6::LEN;
    if payload == 0 && header.next_header == protocol::HOP_BY_HOP {
        // The length is in an option (RFC 2675 section 3), or there is none.
        let rest = packet.bytes().get(start..).unwrap_or_default();
        let jumbo = ipv6::walk(rest, header.next_header).ok().and_then(|chain| chain.hop_by_hop?.jumbo);
        return Err(if jumbo.is_some() { Reason::Jumbogram } else { Reason::BadLength }.into());
    }
    let rest = packet.bytes().get(start..start + payload).ok_or(Reason::Truncated)?;
    let chain = ipv6::walk(rest, header.next_header).map_err(|error| headers::reason(&error))?;
    headers::ipv6(&chain, passing)?;
    let parsed = Parsed {
        key: Key {
            source: key::words(&header.source),
            destination: key::words(&header.destination),
            ports: 0,
            identity: Key::identity(chain.protocol, 6, 0),
        },
        network: ETHERNET,
        transport_offset: start + chain.offset,
        transport: Transport::Opaque,
        length: (Ipv6::LEN + payload) as u32,
        ttl: header.hop_limit,
    };
    match chain.fragment {
        // A packet that is whole in spite of its fragment header is no fragment (RFC 6946).
        Some(header) if !header.is_atomic() => {
            let place = FragmentPlace {
                identification: header.identification,
                offset: header.offset as u32,
                length: payload.saturating_sub(header.header + Ipv6Fragment::LEN) as u32,
                more: header.more,
                data: start + header.header + Ipv6Fragment::LEN,
            };
            if place.more && !place.length.is_multiple_of(8) {
                // RFC 8200 section 4.5: the pointer is to the payload length.
                return Err(Fault { reason: Reason::BadFragment, problem: Some(Problem::field(4)) });
            }
            if place.offset + place.length > 0xffff {
                // There to the fragment offset.
                let pointer = (place.data - Ipv6Fragment::LEN - ETHERNET + 2) as u32;
                return Err(Fault { reason: Reason::BadFragment, problem: Some(Problem::field(pointer)) });
            }
            Ok(fragment(packet, parsed, place)?)
        }
        _ => Ok(upper(packet, parsed)?),
    }
}

/// A whole packet behind its IP headers.
fn upper(packet: &Buffer<'_>, parsed: Parsed) -> Result<Validated, Reason> {
    match parse::transport(packet, parsed) {
        Ok(parsed) => Ok(Validated::Flow(parsed)),
        Err(exception) => match exception.reason {
            Reason::Icmp => Ok(Validated::Message(parsed)),
            Reason::NeighbourDiscovery => Ok(Validated::NeighbourDiscovery),
            // The IP header was right about what is there.
            Reason::Truncated | Reason::BadHeader => Err(Reason::TransportLength),
            reason => Err(reason),
        },
    }
}

/// A fragment: the first one has to hold the transport header (RFC 1858, RFC 7112), others must not reach into
/// it (RFC 3128), and all but the last are multiples of eight bytes.
fn fragment(packet: &Buffer<'_>, parsed: Parsed, place: FragmentPlace) -> Result<Validated, Reason> {
    let reaches_too_far = place.offset + place.length > 0xffff;
    if place.length == 0 || (place.more && !place.length.is_multiple_of(8)) || reaches_too_far {
        return Err(Reason::BadFragment);
    }
    if packet.offload.partial || packet.offload.segmentation != 0 {
        // No stack leaves the checksum or the cutting of a fragment to a device: it is about the whole.
        return Err(Reason::BadFragment);
    }
    let needed = match (parsed.key.protocol(), parsed.key.family()) {
        (protocol::TCP, _) if place.offset == 0 => {
            let bytes = packet.read::<{ Tcp::LEN }>(parsed.transport_offset).ok_or(Reason::TinyFragment)?;
            let header: &Tcp = transmute_ref!(bytes);
            header.header_len().max(Tcp::LEN)
        }
        (protocol::TCP, _) => Tcp::LEN,
        (protocol::UDP, _) => Udp::LEN,
        (protocol::ICMP, 4) | (protocol::ICMPV6, 6) => Icmp::LEN,
        _ => 0,
    };
    // Of a later fragment of IPv6 it is not known how far its data is from the transport header.
    let header = parsed.transport_offset - parsed.network;
    let is_tiny = if place.offset == 0 {
        (parsed.length as usize).saturating_sub(header) < needed
    } else {
        (place.offset as usize) < needed
    };
    if is_tiny { Err(Reason::TinyFragment) } else { Ok(Validated::Fragment(parsed, place)) }
}

/// Whether it is UDP without a checksum. Receivers drop that over IPv6, except for tunnels that ask for it; who is
/// between has to let it pass (RFC 6936 section 5).
fn is_udp_without_checksum(parsed: &Parsed, packet: &Buffer<'_>) -> bool {
    parsed.key.protocol() == protocol::UDP
        && packet.read::<{ Udp::LEN }>(parsed.transport_offset).is_some_and(|udp| udp[6..] == [0, 0])
}

/// Verifies the transport checksum of whole packets whose device did not vouch for it.
fn transport_checksum(packet: &Buffer<'_>, validated: &Validated) -> Result<(), Reason> {
    let (Validated::Flow(parsed) | Validated::Message(parsed)) = validated else {
        return Ok(());
    };
    if packet.offload.partial || packet.offload.verified {
        return Ok(());
    }
    let end = parsed.network + parsed.length as usize;
    let bytes = packet.bytes().get(parsed.network..end).ok_or(Reason::Truncated)?;
    match verify::transport(bytes) {
        verify::Verified::Invalid if is_udp_without_checksum(parsed, packet) => Ok(()),
        verify::Verified::Invalid => Err(Reason::BadChecksum),
        verify::Verified::Malformed => Err(Reason::TransportLength),
        _ => Ok(()),
    }
}
