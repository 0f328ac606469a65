//! IP validation (block 420): is this a packet that a router may look at any further?
//!
//! Every check has its own reason. What the fast path could not read (options, extension headers, fragments) is
//! read here in full.

pub mod addresses;
pub mod headers;

use flowhop_flow::key;
use flowhop_flow::parse::{self, ETHERNET, Parsed, Segment, Transport};
use flowhop_flow::{Key, Reason};
use flowhop_wire::{
    Ethernet, Frame, Icmp, Ipv4, Ipv6, Tcp, Udp, checksum, ethertype, icmp4, icmp6, ipv6, protocol, verify,
};
use zerocopy::transmute_ref;

pub use addresses::Martians;
pub use headers::Passing;

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
}

/// What a packet turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validated {
    /// A packet with a key: whole, or the first fragment of one.
    Flow(Parsed, Option<FragmentPlace>),
    /// A later fragment; its transport is opaque and its key has no ports.
    Later(Parsed, FragmentPlace),
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
    /// Where the IPv6 option is that demands an answer (RFC 8200 section 4.2), in bytes after the fixed header.
    pub unknown_option: Option<usize>,
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self { reason, unknown_option: None }
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
    let (Validated::Flow(parsed, _) | Validated::Later(parsed, _) | Validated::Message(parsed)) = &validated else {
        return Ok(validated);
    };
    addresses::judge(&parsed.key, martians)?;
    transport_checksum(packet, &validated)?;
    Ok(validated)
}

fn ipv4(packet: &Buffer<'_>, passing: &Passing) -> Result<Validated, Reason> {
    let bytes = packet.read::<{ Ipv4::LEN }>(ETHERNET).ok_or(Reason::Truncated)?;
    let header: &Ipv4 = transmute_ref!(bytes);
    let header_length = header.header_len();
    let length = usize::from(header.total_length.get());
    if header.version() != 4 || header_length < Ipv4::LEN {
        return Err(Reason::BadHeader);
    }
    if length < header_length {
        return Err(Reason::BadLength);
    }
    let whole = packet.bytes().get(ETHERNET..ETHERNET + length).ok_or(Reason::Truncated)?;
    let header_bytes = whole.get(..header_length).ok_or(Reason::Truncated)?;
    if checksum::finish(checksum::sum(header_bytes)) != 0 {
        return Err(Reason::BadIpChecksum);
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
        return upper(packet, parsed);
    }
    let place = FragmentPlace {
        identification: u32::from(header.identification.get()),
        offset: header.fragment_offset() as u32,
        length: (length - header_length) as u32,
        more: header.more_fragments(),
    };
    fragment(packet, parsed, place)
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
                length: payload.saturating_sub(header.header + 8) as u32,
                more: header.more,
            };
            Ok(fragment(packet, parsed, place)?)
        }
        _ => Ok(upper(packet, parsed)?),
    }
}

/// A whole packet behind its IP headers.
fn upper(packet: &Buffer<'_>, parsed: Parsed) -> Result<Validated, Reason> {
    match parse::transport(packet, parsed) {
        Ok(parsed) => Ok(Validated::Flow(parsed, None)),
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
fn fragment(packet: &Buffer<'_>, mut parsed: Parsed, place: FragmentPlace) -> Result<Validated, Reason> {
    let reaches_too_far = place.offset + place.length > 0xffff;
    if place.length == 0 || (place.more && !place.length.is_multiple_of(8)) || reaches_too_far {
        return Err(Reason::BadFragment);
    }
    if place.offset != 0 {
        let in_header = parsed.key.protocol() == protocol::TCP && place.offset < Tcp::LEN as u32;
        return if in_header { Err(Reason::BadFragment) } else { Ok(Validated::Later(parsed, place)) };
    }
    let at = parsed.transport_offset;
    let rest = (parsed.length as usize).checked_sub(at - parsed.network).ok_or(Reason::Truncated)?;
    match (parsed.key.protocol(), parsed.key.family()) {
        (protocol::TCP, _) => {
            let bytes = packet.read::<{ Tcp::LEN }>(at).ok_or(Reason::BadFragment)?;
            let header: &Tcp = transmute_ref!(bytes);
            let length = header.header_len();
            if length < Tcp::LEN || length > rest {
                return Err(Reason::BadFragment);
            }
            parsed.key.ports = word(bytes);
            parsed.transport = Transport::Tcp(Segment {
                sequence: header.sequence.get(),
                acknowledgment: header.acknowledgment.get(),
                flags: header.flags & 0x3f,
                window: header.window.get(),
                header: length as u8,
                payload: (rest - length) as u32,
                vouched: false,
            });
        }
        (protocol::UDP, _) => {
            let bytes = packet.read::<{ Udp::LEN }>(at).ok_or(Reason::BadFragment)?;
            if rest < Udp::LEN {
                return Err(Reason::BadFragment);
            }
            parsed.key.ports = word(bytes);
            parsed.transport = Transport::Udp;
        }
        (protocol::ICMP, 4) | (protocol::ICMPV6, 6) => {
            let bytes = packet.read::<{ Icmp::LEN }>(at).ok_or(Reason::BadFragment)?;
            let header: &Icmp = transmute_ref!(bytes);
            let echo = match parsed.key.family() {
                4 => matches!(header.kind, icmp4::ECHO_REQUEST | icmp4::ECHO_REPLY),
                _ => matches!(header.kind, icmp6::ECHO_REQUEST | icmp6::ECHO_REPLY),
            };
            if rest < Icmp::LEN || !echo {
                return Err(Reason::BadFragment);
            }
            parsed.key.ports = u32::from_ne_bytes([header.rest[0], header.rest[1], header.kind, header.code]);
            parsed.transport = Transport::Echo;
        }
        _ => {}
    }
    Ok(Validated::Flow(parsed, Some(place)))
}

const fn word<const N: usize>(bytes: &[u8; N]) -> u32 {
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Verifies the transport checksum of whole packets whose device did not vouch for it.
fn transport_checksum(packet: &Buffer<'_>, validated: &Validated) -> Result<(), Reason> {
    let (Validated::Flow(parsed, None) | Validated::Message(parsed)) = validated else {
        return Ok(());
    };
    if packet.offload.partial || packet.offload.verified {
        return Ok(());
    }
    let end = parsed.network + parsed.length as usize;
    let bytes = packet.bytes().get(parsed.network..end).ok_or(Reason::Truncated)?;
    match verify::transport(bytes) {
        verify::Verified::Invalid => Err(Reason::BadChecksum),
        verify::Verified::Malformed => Err(Reason::TransportLength),
        _ => Ok(()),
    }
}
