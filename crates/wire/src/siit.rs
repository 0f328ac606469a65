//! IP/ICMP translation (RFC 7915): a packet of one family written as one of the other, and ICMP errors with the packet
//! that they quote.
//!
//! # What
//! [`to_v4`] and [`to_v6`] translate a packet of TCP, UDP or ICMP echo; [`error_to_v4`] and [`error_to_v6`] an ICMP error.
//! Both go through the same reader and writer of headers, so a quote looks as its packet did on the other side. Which
//! addresses and ports there are is the caller's to say.
//!
//! # Rules
//! * Checksums of TCP, UDP and echo are changed by difference, so that one that was wrong stays so; UDP without one gets
//!   one on its way to IPv6, where there has to be one. That of an ICMP error is computed, since its quote changes.
//! * IPv4 options and IPv6 extension headers are left behind (sections 4.1 and 5.1), but a source route that is not at its
//!   end is refused.
//! * A quote may end anywhere; its header says how long its packet was.

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use crate::checksum::{self, Delta};
use crate::options::Ipv4Options;
use crate::{Icmp, Ipv4, Ipv6, Ipv6Fragment, Tcp, Udp, icmp4, icmp6, ipv6, protocol};

/// Largest IPv4 packet that is sent without "don't fragment" (RFC 7915 section 5.1): from IPv6 it had 1280 bytes at most,
/// and no IPv6 host can be told to send less.
pub const MAX_UNMARKED: usize = 1260;
/// The smallest MTU of IPv6 (RFC 8200 section 5).
pub const MIN_MTU_V6: usize = 1280;
/// Plateaus of RFC 1191 section 7, for routers that name no MTU.
const PLATEAUS: [u32; 11] = [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
/// What a quote with extensions behind it is padded to at least (RFC 4884 section 3).
const MIN_EXTENDED_QUOTE: usize = 128;
/// Offset of the checksum in an ICMP message.
const ICMP_CHECKSUM: usize = core::mem::offset_of!(Icmp, checksum);

/// The ends of a packet as it will be sent. `ports` is the first word of TCP and UDP; of echo its first half is the
/// identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Ports, or identifier.
    pub ports: [u8; 4],
}

/// MTUs of the links on both sides, for what an error says of an MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtus {
    /// Of the IPv4 link.
    pub v4: u32,
    /// Of the IPv6 link.
    pub v6: u32,
}

/// Why a packet has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Headers that are not whole, or make no sense.
    Malformed,
    /// Neither TCP nor UDP nor an ICMP echo message (RFC 6146 section 3), or authenticated.
    Protocol,
    /// A source route or routing header that is not at its end (RFC 7915 sections 4.1 and 5.1).
    SourceRoute,
    /// An ICMP message that the other family has no counterpart of (RFC 7915 sections 4.2 and 5.2).
    Message,
    /// No packet of the other family can be that long, or there is no room for it.
    TooLong,
}

/// A translated packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// Bytes written.
    pub length: usize,
    /// Where its transport header begins.
    pub transport: usize,
    /// It may be cut into fragments on its way, with this identification.
    pub fragmentable: Option<u32>,
}

/// What of a packet's headers is taken over.
struct Packet<'a> {
    class: u8,
    hops: u8,
    /// Of its own family.
    protocol: u8,
    fragment: Option<Piece>,
    dont_fragment: bool,
    identification: u16,
    /// Sum of its addresses.
    addresses: u32,
    /// Bytes of transport header and payload as the headers say.
    length: usize,
    /// As many of them as are there.
    payload: &'a [u8],
}

#[derive(Clone, Copy)]
struct Piece {
    offset: usize,
    more: bool,
    identification: u32,
}

/// How a packet is treated: sent on, or quoted in an error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Sent { partial: bool },
    Quoted,
}

impl Role {
    /// Hops that the packet goes.
    const fn hops(self) -> u8 {
        match self {
            Self::Sent { .. } => 1,
            Self::Quoted => 0,
        }
    }
}

/// Translates an IPv6 packet. `identification` is for one without a fragment header; `partial`: its transport checksum is
/// the sum of the pseudo-header alone.
///
/// # Errors
/// See [`Fault`]; `out` is then undefined.
pub fn to_v4(
    packet: &[u8],
    ends: &Ends<[u8; 4]>,
    identification: u16,
    partial: bool,
    out: &mut [u8],
) -> Result<Translated, Fault> {
    let read = read_v6(packet, false)?;
    let length = write_v4(&read, ends, identification, Role::Sent { partial }, out)?;
    let unmarked = read.fragment.is_some() || length <= MAX_UNMARKED;
    Ok(Translated { length, transport: Ipv4::LEN, fragmentable: unmarked.then_some(0) })
}

/// Translates an IPv4 packet that is whole. `partial` as for [`to_v4`].
///
/// # Errors
/// See [`Fault`]; `out` is then undefined.
pub fn to_v6(packet: &[u8], ends: &Ends<[u8; 16]>, partial: bool, out: &mut [u8]) -> Result<Translated, Fault> {
    let read = read_v4(packet, false)?;
    if read.fragment.is_some() {
        return Err(Fault::Malformed);
    }
    let length = write_v6(&read, ends, Role::Sent { partial }, out)?;
    let fragmentable = (!read.dont_fragment).then_some(u32::from(read.identification));
    Ok(Translated { length, transport: Ipv6::LEN, fragmentable })
}

/// Translates an ICMP error (RFC 7915 sections 4.2 and 4.3). `quoted` are the ends of the packet that it is about as its
/// sender sent it, `outer` source and destination of the error, `room` the bytes that it may have at most.
///
/// # Errors
/// See [`Fault`]; `out` is then undefined.
pub fn error_to_v6(
    packet: &[u8],
    outer: (&[u8; 16], &[u8; 16]),
    quoted: &Ends<[u8; 16]>,
    mtus: Mtus,
    room: usize,
    out: &mut [u8],
) -> Result<usize, Fault> {
    let read = read_v4(packet, false)?;
    let (head, rest) = read.payload.split_first_chunk::<{ Icmp::LEN }>().ok_or(Fault::Malformed)?;
    let extended = matches!(head[0], icmp4::UNREACHABLE | icmp4::TIME_EXCEEDED | icmp4::PARAMETER_PROBLEM);
    let (quote, extensions) = split(rest, if extended { usize::from(head[5]) * 4 } else { 0 });
    let inner = read_v4(quote, true)?;
    let (kind, code, mut word) = error_kind_to_v6(head, inner.length + Ipv4::LEN, mtus)?;
    let start = Ipv6::LEN + Icmp::LEN;
    let room = room.min(out.len()).min(MIN_MTU_V6);
    let written = write_v6(&inner, quoted, Role::Quoted, out.get_mut(start..).ok_or(Fault::TooLong)?)?;
    let keeps = matches!(kind, icmp6::UNREACHABLE | icmp6::TIME_EXCEEDED);
    let (end, units) = extend(out, start, written, extensions.filter(|_| keeps), 8, room).ok_or(Fault::TooLong)?;
    if keeps {
        word[0] = units;
    }
    let message = out.get_mut(Ipv6::LEN..end).ok_or(Fault::TooLong)?;
    set_message(message, kind, code, word);
    let pseudo = checksum::pseudo_v6(*outer.0, *outer.1, protocol::ICMPV6, message.len() as u32);
    sum_message(message, pseudo);
    let header = v6_header(read.class, message.len(), protocol::ICMPV6, read.hops.saturating_sub(1), outer)?;
    put(out, header.as_bytes())?;
    Ok(end)
}

/// Translates an ICMPv6 error (RFC 7915 sections 5.2 and 5.3); see [`error_to_v6`].
///
/// # Errors
/// See [`Fault`]; `out` is then undefined.
pub fn error_to_v4(
    packet: &[u8],
    outer: (&[u8; 4], &[u8; 4]),
    quoted: &Ends<[u8; 4]>,
    mtus: Mtus,
    room: usize,
    out: &mut [u8],
) -> Result<usize, Fault> {
    let read = read_v6(packet, false)?;
    let (head, rest) = read.payload.split_first_chunk::<{ Icmp::LEN }>().ok_or(Fault::Malformed)?;
    let extended = matches!(head[0], icmp6::UNREACHABLE | icmp6::TIME_EXCEEDED);
    let (quote, extensions) = split(rest, if extended { usize::from(head[4]) * 8 } else { 0 });
    let inner = read_v6(quote, true)?;
    let (kind, code, mut word) = error_kind_to_v4(head, mtus)?;
    let start = Ipv4::LEN + Icmp::LEN;
    let room = room.min(out.len());
    let written = write_v4(&inner, quoted, 0, Role::Quoted, out.get_mut(start..).ok_or(Fault::TooLong)?)?;
    let (end, units) = extend(out, start, written, extensions, 4, room).ok_or(Fault::TooLong)?;
    word[1] = units;
    let message = out.get_mut(Ipv4::LEN..end).ok_or(Fault::TooLong)?;
    set_message(message, kind, code, word);
    sum_message(message, 0);
    let header = v4_header(&V4 {
        class: read.class,
        length: end,
        identification: 0,
        flags_fragment: Ipv4::DONT_FRAGMENT,
        hops: read.hops.saturating_sub(1),
        protocol: protocol::ICMP,
        source: *outer.0,
        destination: *outer.1,
    })?;
    put(out, header.as_bytes())?;
    Ok(end)
}

/// A quote, and the extensions behind it if its length is said.
fn split(rest: &[u8], quoted: usize) -> (&[u8], Option<&[u8]>) {
    match rest.split_at_checked(quoted) {
        Some((quote, extensions)) if quoted != 0 && !extensions.is_empty() => (quote, Some(extensions)),
        _ => (rest, None),
    }
}

/// Puts extensions behind a quote of `written` bytes at `start`, padded as they ask for (RFC 4884 sections 3 to 5), or
/// cuts the quote where there is no room for both. Returns where the message ends and the length attribute, in `unit`s.
fn extend(
    out: &mut [u8],
    start: usize,
    written: usize,
    extensions: Option<&[u8]>,
    unit: usize,
    room: usize,
) -> Option<(usize, u8)> {
    let padded = written.max(MIN_EXTENDED_QUOTE).next_multiple_of(unit);
    let units = u8::try_from(padded / unit).ok();
    match (extensions, units) {
        (Some(extensions), Some(units)) if start + padded + extensions.len() <= room => {
            out.get_mut(start + written..start + padded)?.fill(0);
            out.get_mut(start + padded..start + padded + extensions.len())?.copy_from_slice(extensions);
            Some((start + padded + extensions.len(), units))
        }
        _ => Some(((start + written).min(room), 0)),
    }
}

fn set_message(message: &mut [u8], kind: u8, code: u8, word: [u8; 4]) {
    if let Some(head) = message.first_chunk_mut::<{ Icmp::LEN }>() {
        let [a, b, c, d] = word;
        *head = [kind, code, 0, 0, a, b, c, d];
    }
}

fn sum_message(message: &mut [u8], pseudo: u32) {
    let sum = checksum::finish(pseudo + checksum::sum(message));
    if let Some(field) = message.get_mut(ICMP_CHECKSUM..ICMP_CHECKSUM + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Type, code and second word of an ICMPv6 error for an ICMP one about a packet of `total` bytes (RFC 7915 section 4.2).
fn error_kind_to_v6(head: &[u8; Icmp::LEN], total: usize, mtus: Mtus) -> Result<(u8, u8, [u8; 4]), Fault> {
    let [kind, code, _, _, pointer, _, high, low] = *head;
    let unreachable = |code| Ok((icmp6::UNREACHABLE, code, [0; 4]));
    match (kind, code) {
        (icmp4::UNREACHABLE, icmp4::PROTOCOL_UNREACHABLE) => {
            // The next header, which is what the receiver does not know.
            Ok((icmp6::PARAMETER_PROBLEM, icmp6::UNKNOWN_NEXT_HEADER, 6u32.to_be_bytes()))
        }
        (icmp4::UNREACHABLE, icmp4::PORT_UNREACHABLE) => unreachable(icmp6::PORT_UNREACHABLE),
        (icmp4::UNREACHABLE, icmp4::FRAGMENTATION_NEEDED) => {
            let named = match u32::from(u16::from_be_bytes([high, low])) {
                0 => PLATEAUS.into_iter().find(|plateau| (*plateau as usize) < total).unwrap_or(0),
                named => named,
            };
            let mtu = (named + 20).min(mtus.v6).min(mtus.v4.saturating_add(20)).max(MIN_MTU_V6 as u32);
            Ok((icmp6::PACKET_TOO_BIG, 0, mtu.to_be_bytes()))
        }
        (icmp4::UNREACHABLE, 0 | 1 | 5 | 6 | 7 | 8 | 11 | 12) => unreachable(icmp6::NO_ROUTE),
        (icmp4::UNREACHABLE, 9 | 10 | 13 | 15) => unreachable(icmp6::ADMINISTRATIVELY_PROHIBITED),
        (icmp4::TIME_EXCEEDED, _) => Ok((icmp6::TIME_EXCEEDED, code, [0; 4])),
        (icmp4::PARAMETER_PROBLEM, 0 | 2) => {
            let pointer: u32 = match pointer {
                0 | 1 => u32::from(pointer),
                2 | 3 => 4,
                8 => 7,
                9 => 6,
                12..=15 => 8,
                16..=19 => 24,
                _ => return Err(Fault::Message),
            };
            Ok((icmp6::PARAMETER_PROBLEM, icmp6::ERRONEOUS_FIELD, pointer.to_be_bytes()))
        }
        _ => Err(Fault::Message),
    }
}

/// Type, code and second word of an ICMP error for an ICMPv6 one (RFC 7915 section 5.2).
fn error_kind_to_v4(head: &[u8; Icmp::LEN], mtus: Mtus) -> Result<(u8, u8, [u8; 4]), Fault> {
    let [kind, code, _, _, rest @ ..] = *head;
    let value = u32::from_be_bytes(rest);
    let unreachable = |code| Ok((icmp4::UNREACHABLE, code, [0; 4]));
    match (kind, code) {
        (icmp6::UNREACHABLE, icmp6::NO_ROUTE | icmp6::BEYOND_SCOPE | icmp6::ADDRESS_UNREACHABLE) => {
            unreachable(icmp4::HOST_UNREACHABLE)
        }
        (icmp6::UNREACHABLE, icmp6::ADMINISTRATIVELY_PROHIBITED) => unreachable(icmp4::HOST_PROHIBITED),
        (icmp6::UNREACHABLE, icmp6::PORT_UNREACHABLE) => unreachable(icmp4::PORT_UNREACHABLE),
        (icmp6::PACKET_TOO_BIG, _) => {
            let mtu = value.saturating_sub(20).min(mtus.v4).min(mtus.v6.saturating_sub(20)).min(0xffff);
            let [_, _, high, low] = mtu.to_be_bytes();
            Ok((icmp4::UNREACHABLE, icmp4::FRAGMENTATION_NEEDED, [0, 0, high, low]))
        }
        (icmp6::TIME_EXCEEDED, _) => Ok((icmp4::TIME_EXCEEDED, code, [0; 4])),
        (icmp6::PARAMETER_PROBLEM, icmp6::ERRONEOUS_FIELD) => {
            let pointer = match value {
                0 => 0,
                1 => 1,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..=23 => 12,
                24..=39 => 16,
                _ => return Err(Fault::Message),
            };
            Ok((icmp4::PARAMETER_PROBLEM, 0, [pointer, 0, 0, 0]))
        }
        (icmp6::PARAMETER_PROBLEM, icmp6::UNKNOWN_NEXT_HEADER) => unreachable(icmp4::PROTOCOL_UNREACHABLE),
        _ => Err(Fault::Message),
    }
}

fn read_v4(bytes: &[u8], quoted: bool) -> Result<Packet<'_>, Fault> {
    let (header, _) = Ipv4::ref_from_prefix(bytes).map_err(|_| Fault::Malformed)?;
    let (start, total) = (header.header_len(), usize::from(header.total_length.get()));
    let present = total.min(bytes.len());
    if header.version() != 4 || start < Ipv4::LEN || start > present || (!quoted && total > bytes.len()) {
        return Err(Fault::Malformed);
    }
    let options = bytes.get(Ipv4::LEN..start).ok_or(Fault::Malformed)?;
    if !quoted && is_source_routed(options)? {
        return Err(Fault::SourceRoute);
    }
    let identification = header.identification.get();
    let piece = Piece {
        offset: header.fragment_offset(),
        more: header.more_fragments(),
        identification: u32::from(identification),
    };
    Ok(Packet {
        class: header.dscp_ecn,
        hops: header.ttl,
        protocol: header.protocol,
        fragment: header.is_fragment().then_some(piece),
        dont_fragment: header.dont_fragment(),
        identification,
        addresses: checksum::sum(&header.source) + checksum::sum(&header.destination),
        length: total - start,
        payload: bytes.get(start..present).ok_or(Fault::Malformed)?,
    })
}

/// Whether there is a source route that is not at its end: its pointer is within it (RFC 791 section 3.1).
fn is_source_routed(options: &[u8]) -> Result<bool, Fault> {
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    for option in Ipv4Options::new(options) {
        let option = option.map_err(|_| Fault::Malformed)?;
        if matches!(option.kind, LOOSE | STRICT) {
            let pointer = option.data.first().copied().unwrap_or(0);
            return Ok(usize::from(pointer) <= option.data.len() + 2);
        }
    }
    Ok(false)
}

fn read_v6(bytes: &[u8], quoted: bool) -> Result<Packet<'_>, Fault> {
    let (header, rest) = Ipv6::ref_from_prefix(bytes).map_err(|_| Fault::Malformed)?;
    let payload = usize::from(header.payload_length.get());
    if header.version() != 6 || (!quoted && payload > rest.len()) {
        return Err(Fault::Malformed);
    }
    let rest = rest.get(..payload.min(rest.len())).ok_or(Fault::Malformed)?;
    let chain = ipv6::walk(rest, header.next_header).map_err(|_| Fault::Malformed)?;
    if chain.authenticated {
        return Err(Fault::Protocol);
    }
    if !quoted && chain.routing.is_some_and(|routing| routing.segments_left != 0) {
        return Err(Fault::SourceRoute);
    }
    let fragment = chain.fragment.map(|fragment| Piece {
        offset: fragment.offset,
        more: fragment.more,
        identification: fragment.identification,
    });
    Ok(Packet {
        class: header.traffic_class(),
        hops: header.hop_limit,
        protocol: chain.protocol,
        fragment,
        dont_fragment: false,
        identification: 0,
        addresses: checksum::sum(&header.source) + checksum::sum(&header.destination),
        length: payload.checked_sub(chain.offset).ok_or(Fault::Malformed)?,
        payload: rest.get(chain.offset..).ok_or(Fault::Malformed)?,
    })
}

/// Writes a packet that was IPv6 (RFC 7915 section 5.1). Returns the bytes written; of a quote these may be fewer than its
/// header says.
fn write_v4(
    packet: &Packet<'_>,
    ends: &Ends<[u8; 4]>,
    identification: u16,
    role: Role,
    out: &mut [u8],
) -> Result<usize, Fault> {
    let total = Ipv4::LEN + packet.length;
    let (identification, flags_fragment) = match packet.fragment {
        Some(piece) => {
            let more = if piece.more { Ipv4::MORE_FRAGMENTS } else { 0 };
            (piece.identification as u16, (piece.offset / 8) as u16 | more)
        }
        None if total <= MAX_UNMARKED => (identification, 0),
        None => (identification, Ipv4::DONT_FRAGMENT),
    };
    let protocol = match packet.protocol {
        protocol::ICMPV6 => protocol::ICMP,
        known @ (protocol::TCP | protocol::UDP) => known,
        _ => return Err(Fault::Protocol),
    };
    let header = v4_header(&V4 {
        class: packet.class,
        length: total,
        identification,
        flags_fragment,
        hops: packet.hops.saturating_sub(role.hops()),
        protocol,
        source: ends.source,
        destination: ends.destination,
    })?;
    put(out, header.as_bytes())?;
    let body = body(packet, Ipv4::LEN, out)?;
    let addresses = checksum::sum(&ends.source) + checksum::sum(&ends.destination);
    if packet.protocol == protocol::ICMPV6 {
        let pseudo = pseudo_of(packet.addresses, protocol::ICMPV6, packet.length);
        echo(body, ends.ports, Delta(checksum::fold(pseudo)).inverse(), |kind| match kind {
            icmp6::ECHO_REQUEST => Some(icmp4::ECHO_REQUEST),
            icmp6::ECHO_REPLY => Some(icmp4::ECHO_REPLY),
            _ => None,
        })?;
    } else {
        transport(body, packet, ends.ports, addresses, role, false)?;
    }
    Ok(Ipv4::LEN + packet.payload.len())
}

/// Writes a packet that was IPv4 (RFC 7915 section 4.1); see [`write_v4`].
fn write_v6(packet: &Packet<'_>, ends: &Ends<[u8; 16]>, role: Role, out: &mut [u8]) -> Result<usize, Fault> {
    let next_header = match packet.protocol {
        protocol::ICMP => protocol::ICMPV6,
        known @ (protocol::TCP | protocol::UDP) => known,
        _ => return Err(Fault::Protocol),
    };
    let extra = if packet.fragment.is_some() { Ipv6Fragment::LEN } else { 0 };
    let start = Ipv6::LEN + extra;
    let first = if packet.fragment.is_some() { protocol::FRAGMENT } else { next_header };
    let hops = packet.hops.saturating_sub(role.hops());
    let addresses = (&ends.source, &ends.destination);
    let header = v6_header(packet.class, extra + packet.length, first, hops, addresses)?;
    put(out, header.as_bytes())?;
    if let Some(piece) = packet.fragment {
        let fragment = Ipv6Fragment {
            next_header,
            reserved: 0,
            offset_flags: U16::new(piece.offset as u16 & 0xfff8 | u16::from(piece.more)),
            identification: U32::new(piece.identification),
        };
        put(out.get_mut(Ipv6::LEN..).ok_or(Fault::TooLong)?, fragment.as_bytes())?;
    }
    let body = body(packet, start, out)?;
    let addresses = checksum::sum(&ends.source) + checksum::sum(&ends.destination);
    if packet.protocol == protocol::ICMP {
        let pseudo = pseudo_of(addresses, protocol::ICMPV6, packet.length);
        echo(body, ends.ports, Delta(checksum::fold(pseudo)), |kind| match kind {
            icmp4::ECHO_REQUEST => Some(icmp6::ECHO_REQUEST),
            icmp4::ECHO_REPLY => Some(icmp6::ECHO_REPLY),
            _ => None,
        })?;
    } else {
        transport(body, packet, ends.ports, addresses, role, true)?;
    }
    Ok(start + packet.payload.len())
}

/// Copies transport header and payload to `start`.
fn body<'o>(packet: &Packet<'_>, start: usize, out: &'o mut [u8]) -> Result<&'o mut [u8], Fault> {
    let body = out.get_mut(start..start + packet.payload.len()).ok_or(Fault::TooLong)?;
    body.copy_from_slice(packet.payload);
    Ok(body)
}

/// The sum of a pseudo-header, which is the same in both families.
fn pseudo_of(addresses: u32, protocol: u8, length: usize) -> u32 {
    addresses + u32::from(protocol) + (length as u32 >> 16) + (length as u32 & 0xffff)
}

/// Writes ports and checksum of TCP or UDP, as far as they are there.
fn transport(
    body: &mut [u8],
    packet: &Packet<'_>,
    ports: [u8; 4],
    new_addresses: u32,
    role: Role,
    needs_checksum: bool,
) -> Result<(), Fault> {
    if packet.fragment.is_some_and(|piece| piece.offset != 0) {
        return Ok(());
    }
    // What a length that is not there is summed over, receivers of the two families do not agree on.
    if packet.protocol == protocol::UDP && role != Role::Quoted && packet.fragment.is_none() {
        let length = body.get(4..6).and_then(|field| field.first_chunk::<2>()).ok_or(Fault::Malformed)?;
        if !(Udp::LEN..=body.len()).contains(&usize::from(u16::from_be_bytes(*length))) {
            return Err(Fault::Malformed);
        }
    }
    let addresses = Delta::ZERO.replace16(checksum::fold(packet.addresses), checksum::fold(new_addresses));
    let first = body.first_chunk_mut::<4>().ok_or(Fault::Malformed)?;
    let words = Delta::ZERO.replace32(u32::from_be_bytes(*first), u32::from_be_bytes(ports));
    *first = ports;
    let udp = packet.protocol == protocol::UDP;
    let place = if udp { core::mem::offset_of!(Udp, checksum) } else { core::mem::offset_of!(Tcp, checksum) };
    let Some(field) = body.get_mut(place..).and_then(|rest| rest.first_chunk_mut::<2>()) else {
        return if role == Role::Quoted { Ok(()) } else { Err(Fault::Malformed) };
    };
    let old = u16::from_be_bytes(*field);
    let new = match role {
        Role::Sent { partial: true } => addresses.apply_partial(old),
        Role::Sent { .. } if udp && old == 0 && needs_checksum => {
            // RFC 7915 section 4.5, RFC 6146 section 3.4: IPv6 wants one, and the whole is here.
            let length = body.get(4..6).and_then(|field| field.first_chunk::<2>()).ok_or(Fault::Malformed)?;
            let length = usize::from(u16::from_be_bytes(*length));
            let covered = checksum::sum(body.get(..length).ok_or(Fault::Malformed)?);
            checksum::finish_nonzero(pseudo_of(new_addresses, protocol::UDP, length) + covered)
        }
        _ if udp => addresses.and(words).apply_udp(old),
        _ => addresses.and(words).apply(old),
    };
    let field = body.get_mut(place..).and_then(|rest| rest.first_chunk_mut::<2>()).ok_or(Fault::Malformed)?;
    *field = new.to_be_bytes();
    Ok(())
}

/// Writes type, identifier and checksum of an echo message; `pseudo` is what the pseudo-header adds or takes.
fn echo(body: &mut [u8], ports: [u8; 4], pseudo: Delta, kind: impl Fn(u8) -> Option<u8>) -> Result<(), Fault> {
    let head = body.first_chunk_mut::<{ Icmp::LEN }>().ok_or(Fault::Malformed)?;
    let new_kind = kind(head[0]).filter(|_| head[1] == 0).ok_or(Fault::Message)?;
    let identifier = |head: &[u8; Icmp::LEN]| u16::from_be_bytes([head[4], head[5]]);
    let first = |kind| u16::from_be_bytes([kind, 0]);
    let delta = pseudo
        .replace16(first(head[0]), first(new_kind))
        .replace16(identifier(head), u16::from_be_bytes([ports[0], ports[1]]));
    let sum = delta.apply(u16::from_be_bytes([head[2], head[3]])).to_be_bytes();
    [head[0], head[2], head[3], head[4], head[5]] = [new_kind, sum[0], sum[1], ports[0], ports[1]];
    Ok(())
}

/// What an IPv4 header says.
struct V4 {
    class: u8,
    length: usize,
    identification: u16,
    flags_fragment: u16,
    hops: u8,
    protocol: u8,
    source: [u8; 4],
    destination: [u8; 4],
}

fn v4_header(fields: &V4) -> Result<Ipv4, Fault> {
    let mut header = Ipv4 {
        version_ihl: 0x45,
        dscp_ecn: fields.class,
        total_length: U16::new(u16::try_from(fields.length).map_err(|_| Fault::TooLong)?),
        identification: U16::new(fields.identification),
        flags_fragment: U16::new(fields.flags_fragment),
        ttl: fields.hops,
        protocol: fields.protocol,
        checksum: U16::new(0),
        source: fields.source,
        destination: fields.destination,
    };
    header.checksum.set(checksum::finish(checksum::sum(header.as_bytes())));
    Ok(header)
}

fn v6_header(
    class: u8,
    payload: usize,
    next_header: u8,
    hop_limit: u8,
    (source, destination): (&[u8; 16], &[u8; 16]),
) -> Result<Ipv6, Fault> {
    Ok(Ipv6 {
        version_class_flow: U32::new(6 << 28 | u32::from(class) << 20),
        payload_length: U16::new(u16::try_from(payload).map_err(|_| Fault::TooLong)?),
        next_header,
        hop_limit,
        source: *source,
        destination: *destination,
    })
}

fn put(out: &mut [u8], bytes: &[u8]) -> Result<(), Fault> {
    out.get_mut(..bytes.len()).ok_or(Fault::TooLong)?.copy_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests;
