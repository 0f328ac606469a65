//! ICMP and ICMPv6 errors about connections: related by the packet that they quote, translated as its connection is.
//!
//! # What
//! An error is about a packet that left this box in one direction of a connection. The quoted packet's addresses and
//! ports in exchange are the key of the other direction: the error goes the way that packets of that direction go, with
//! the quote put back to what the sender of the packet sent (RFC 5508 REQ-4, REQ-5; RFC 4787 REQ-12 b; RFC 5382 REQ-9).
//! Errors about what a rule allowed pass with it; no rule is asked.
//!
//! # Rules
//! * It is sent to the source of the packet that it is about (RFC 1122 section 3.2.2, RFC 4443 section 3.1), it came in
//!   where answers to that packet may come in, what it quotes of a TCP segment is in flight (RFC 5927 section 4.1), and it
//!   names no MTU that cannot be (section 7). Otherwise anybody could send errors about anybody's connections.
//! * It changes nothing of the connection: no state, no counter, no timer (RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382
//!   REQ-10). What the entry lacks (route, policy) is mended as for any packet.
//! * Redirects are for the link they were sent on (RFC 1812 section 5.2.7.2); source quench is not forwarded (RFC 6633
//!   section 8); an error is never answered, but cut where the output's MTU is too small for it.

mod quote;

use std::mem::offset_of;

use flowhop_flow::forward::{Hit, halves, hot, rewrite_of};
use flowhop_flow::key::{self, Address};
use flowhop_flow::parse::{ETHERNET, Parsed};
use flowhop_flow::record::{NextHop, Steer};
use flowhop_flow::rewrite::{Rewrite, fix_in_place};
use flowhop_flow::{Key, Kind, Reason, tcp};
use flowhop_table::{BlockIndex, key_of};
use flowhop_wire::checksum::Delta;
use flowhop_wire::{Frame, Icmp, Ipv4, Ipv6, Tcp, Udp, checksum, icmp4, icmp6, protocol};
use zerocopy::FromBytes;

use crate::answers::MAX_ERROR_V6;
use crate::buffer::{Buffer, Offload};
use crate::engine::Engine;
use crate::io::{Arrived, Io, Outcome};
use crate::nat64;

pub(crate) use quote::Headers;
use quote::Quote;

/// Mends that one error may bring about: policy, route, and once more.
const TRIES: usize = 3;

/// The direction of a connection that an error travels with.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) block: BlockIndex,
    pub(crate) direction: usize,
}

impl Engine {
    /// An ICMP or ICMPv6 message other than echo: an error about a connection, the box's own, or nobody's.
    pub(crate) fn message(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Outcome {
        if parsed.key.family() == 6 && self.modules.iter().any(|module| module.embeds(&parsed.key.source)) {
            return Outcome::of(Reason::MartianSource);
        }
        // The connection comes first: with a translation the error is sent to an address that is the box's own.
        if let Some(quote) = quoted(packet, parsed)
            && let Some((block, direction)) = self.table.find(&quote.answers, self.table.hash(&quote.answers))
        {
            return self.related(arrived, parsed, &quote, Way { block, direction }, packet, io);
        }
        if self.routing.is_own(key::ip(&parsed.key.destination)) {
            self.to_stack(arrived.port, Reason::Local, packet, io)
        } else {
            Outcome::of(Reason::IcmpUnrelated)
        }
    }

    /// An error about a packet of the direction opposite to `way`.
    fn related(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        quote: &Quote,
        way: Way,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Outcome {
        let Some(block) = self.table.block(way.block) else { return Outcome::of(Reason::BadRecord) };
        let (serial, rule) = (block.owner.serial.load(), block.owner.rules.load() as u16);
        let outcome = |reason| Outcome { session: Some((way.block, serial)), rule, ..Outcome::of(reason) };
        let hop = match self.admit(arrived, parsed, quote, way, packet, io) {
            Ok(hop) => hop,
            Err(reason) => return outcome(reason),
        };
        let Some(block) = self.table.block(way.block) else { return Outcome::of(Reason::BadRecord) };
        if nat64::crosses(block) {
            return match self.related_across(parsed, way, &hop, packet, io) {
                Ok(()) => Outcome { out: Some(hop.port), ..outcome(Reason::Forwarded) },
                Err(Reason::Device) => Outcome { kind: Kind::Drop, ..outcome(Reason::Device) },
                Err(reason) => outcome(reason),
            };
        }
        let original = key_of(block, way.direction ^ 1);
        let source = shown_source(&parsed.key.source, &Hit { block, direction: way.direction });
        let quote = &Quote { chosen: self.chosen(quote, way), ..*quote };
        let answers = Key { source: original.source, destination: source, ports: 0, identity: parsed.key.identity };
        let Some(length) = translate(packet, parsed, quote, &original, &source, &hop) else {
            return outcome(Reason::Truncated);
        };
        self.identify_message(parsed, &answers, packet);
        self.record_hop(&hop, parsed, packet, arrived.now);
        let Some(frame) = packet.bytes_mut().get_mut(..ETHERNET + length) else {
            return outcome(Reason::Truncated);
        };
        if io.transmit(hop.port, hop.ifindex, frame, &Offload::default()) {
            Outcome { out: Some(hop.port), ..outcome(Reason::Forwarded) }
        } else {
            Outcome { kind: Kind::Drop, ..outcome(Reason::Device) }
        }
    }

    /// Judges an error before anything of it is changed; holds it if its neighbour is not known.
    fn admit(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        quote: &Quote,
        way: Way,
        packet: &Buffer<'_>,
        io: &mut dyn Io,
    ) -> Result<NextHop, Reason> {
        if packet.offload.segmentation != 0 {
            return Err(Reason::BadHeader);
        }
        if let Some(reason) = self.source_fault(arrived.port, &parsed.key) {
            return Err(reason);
        }
        if !quote.is_sound || !is_possible_mtu(packet, parsed, quote) {
            return Err(Reason::IcmpQuote);
        }
        for _ in 0..TRIES {
            let block = self.table.block(way.block).ok_or(Reason::BadRecord)?;
            let hit = Hit { block, direction: way.direction };
            let (peer, own) = halves(&hit);
            if self.chosen(quote, way).is_some_and(|sequence| !tcp::in_flight(own, peer, sequence)) {
                return Err(Reason::TcpWindow);
            }
            let steer = Steer::unpack(hot(&hit).steer.load());
            match self.next_hop(arrived, parsed, steer) {
                Ok(hop) => return Ok(hop),
                Err(Reason::StalePolicy) => self.revalidate(way.block, arrived.now)?,
                Err(Reason::StaleAdjacency) => {
                    self.reroute(way.block, way.direction, arrived.now, io)?;
                }
                Err(Reason::NeighbourUnresolved) => {
                    return Err(self.hold_packet(arrived, steer.adjacency, packet, io));
                }
                Err(reason) => return Err(reason),
            }
        }
        Err(Reason::StaleAdjacency)
    }

    /// The sequence number that the sender of a quoted segment chose, where it left with another one.
    fn chosen(&self, quote: &Quote, way: Way) -> Option<u32> {
        let block = self.table.block(way.block)?;
        let constant = block.tcp[(way.direction & 1) ^ 1].constant_shift();
        let shift = self.dialogues.shift(block.owner.serial.load(), way.direction ^ 1);
        let sequence = quote.sequence?.wrapping_sub(constant);
        Some(shift.map_or(sequence, |shift| shift.acknowledged(sequence)))
    }

    /// Where packets of a direction go, if this error may go with them.
    fn next_hop(&self, arrived: &Arrived, parsed: &Parsed, steer: Steer) -> Result<NextHop, Reason> {
        // Routers on the way may be reached through other interfaces than the host behind them, but not in other zones.
        let zone_of = |port| self.interfaces.port(port).map(|interface| interface.zone);
        let zone = zone_of(arrived.port);
        if zone.is_none() || zone != zone_of(steer.ingress) {
            return Err(Reason::WrongInterface);
        }
        if self.is_stale(steer) {
            return Err(Reason::StalePolicy);
        }
        let records = &self.table.regions().adjacencies;
        let hop = records.get(usize::from(steer.adjacency)).ok_or(Reason::BadRecord)?.read().ok_or(Reason::Torn)?;
        if hop.generation != steer.adjacency_generation {
            return Err(Reason::StaleAdjacency);
        }
        if hop.flags & NextHop::RESOLVED == 0 {
            return Err(Reason::NeighbourUnresolved);
        }
        if parsed.ttl <= 1 { Err(Reason::TtlExceeded) } else { Ok(hop) }
    }
}

/// What a message quotes, if it is an error that may be forwarded, sent to the source of what it quotes.
fn quoted(packet: &Buffer<'_>, parsed: &Parsed) -> Option<Quote> {
    let family = parsed.key.family();
    let message = packet.bytes().get(parsed.transport_offset..parsed.network + parsed.length as usize)?;
    let forwardable = match (family, message.first()?) {
        (4, &kind) => matches!(kind, icmp4::UNREACHABLE | icmp4::TIME_EXCEEDED | icmp4::PARAMETER_PROBLEM),
        (_, &kind) => matches!(kind, icmp6::UNREACHABLE..=icmp6::PARAMETER_PROBLEM),
    };
    let quote = forwardable.then(|| Quote::read(message.get(Icmp::LEN..)?, family)).flatten()?;
    (quote.key.source == parsed.key.destination).then_some(quote)
}

/// Whether the quoted packet can have been too big for the MTU that an error names, if it names one.
///
/// A receiver would send smaller packets at once, whoever says so (RFC 5927 section 7). No link has less than 68 bytes
/// (RFC 791 section 3.2); of IPv6 none has less than 1280, and errors that say so are to be discarded (RFC 8201 section 4).
fn is_possible_mtu(packet: &Buffer<'_>, parsed: &Parsed, quote: &Quote) -> bool {
    const SMALLEST_V4: u32 = 68;
    let Some(&[kind, code, _, _, a, b, c, d]) = packet.read::<{ Icmp::LEN }>(parsed.transport_offset) else {
        return false;
    };
    let (mtu, smallest) = match (parsed.key.family(), kind, code) {
        // A router older than RFC 1191 names none.
        (4, icmp4::UNREACHABLE, icmp4::FRAGMENTATION_NEEDED) if [c, d] == [0, 0] => return true,
        (4, icmp4::UNREACHABLE, icmp4::FRAGMENTATION_NEEDED) => (u32::from_be_bytes([0, 0, c, d]), SMALLEST_V4),
        (6, icmp6::PACKET_TOO_BIG, _) => (u32::from_be_bytes([a, b, c, d]), MAX_ERROR_V6 as u32),
        _ => return true,
    };
    // A packet beyond 64 KiB, as hosts hand them to their devices, has no length in its header.
    mtu >= smallest && (quote.total == 0 || mtu < quote.total)
}

/// The source that the receiver sees. Behind a translated source every node is shown as that source (RFC 5508 REQ-5):
/// the far host because its packets are, a router because its own address means nothing on the other side. One that is
/// not behind a translation keeps its own, which is what makes routes traceable.
fn shown_source(source: &Address, way: &Hit<'_>) -> Address {
    let own = key_of(way.block, way.direction);
    let sent = full(&rewrite_of(way, own.family()).source, own.family());
    if sent == own.source { *source } else { sent }
}

/// An address of a rewrite in the form that keys have.
const fn full(address: &Address, family: u8) -> Address {
    if family == 4 { [0, 0, key::V4_MAPPED, address[3]] } else { *address }
}

/// Rewrites an error for the sender of the packet that it quotes, whose key was `original`. Returns how long it then is,
/// in bytes from the IP header on; `None` when a header is outside the packet, which a parsed error's is not.
fn translate(
    packet: &mut Buffer<'_>,
    parsed: &Parsed,
    quote: &Quote,
    original: &Key,
    source: &Address,
    hop: &NextHop,
) -> Option<usize> {
    restore(packet, parsed.transport_offset + Icmp::LEN, quote, original)?;
    let length = cut(packet, parsed, hop.mtu as usize)?;
    let destination = &original.source;
    write_addresses(packet, parsed.network, parsed.key.family(), source, destination)?;
    let frame = packet.bytes_mut().get_mut(..ETHERNET + length)?;
    let pseudo = if parsed.key.family() == 4 {
        finish_v4(frame, parsed)?;
        0
    } else {
        finish_v6(frame, parsed)?
    };
    let message = frame.get_mut(parsed.transport_offset..)?;
    let field = offset_of!(Icmp, checksum);
    message.get_mut(field..field + 2)?.fill(0);
    let sum = checksum::finish(pseudo + checksum::sum(message));
    message.get_mut(field..field + 2)?.copy_from_slice(&sum.to_be_bytes());
    frame.get_mut(..hop.macs.len())?.copy_from_slice(&hop.macs);
    Some(length)
}

/// Puts a quote at `at` back to what was sent: addresses, ports or identifier, and checksums as far as they are quoted,
/// by difference, so that one that was wrong stays so.
fn restore(packet: &mut Buffer<'_>, at: usize, quote: &Quote, original: &Key) -> Option<()> {
    let Key { source, destination, ports, .. } = *original;
    let back = Rewrite { source, destination, ports, address_delta: 0, port_delta: 0 }.with_deltas(
        &quote.key.source,
        &quote.key.destination,
        quote.key.ports,
    );
    let (addresses, port_delta) = (Delta(back.address_delta), Delta(back.port_delta));
    let family = original.family();
    write_addresses(packet, at, family, &source, &destination)?;
    if family == 4 {
        fix_in_place(packet, at + offset_of!(Ipv4, checksum), addresses, Delta::ZERO, false, false)?;
    }
    let transport = at + quote.headers;
    let bytes = ports.to_ne_bytes();
    match (original.protocol(), family) {
        (protocol::TCP, _) => {
            *packet.write::<4>(transport)? = bytes;
            let mut changes = port_delta;
            if let (Some(sent), Some(chosen)) = (quote.sequence, quote.chosen)
                && sent != chosen
            {
                let [sent, chosen] = [sent, chosen].map(|number| u32::from_ne_bytes(number.to_be_bytes()));
                *packet.write::<4>(transport + offset_of!(Tcp, sequence))? = chosen.to_ne_bytes();
                changes = changes.replace32(sent, chosen);
            }
            let field = transport + offset_of!(Tcp, checksum);
            if field + 2 <= at + quote.length {
                fix_in_place(packet, field, addresses, changes, false, false)?;
            }
            Some(())
        }
        (protocol::UDP, _) => {
            *packet.write::<4>(transport)? = bytes;
            fix_in_place(packet, transport + offset_of!(Udp, checksum), addresses, port_delta, true, false)
        }
        (protocol::ICMP, 4) | (protocol::ICMPV6, 6) => {
            *packet.write::<2>(transport + offset_of!(Icmp, rest))? = [bytes[0], bytes[1]];
            // ICMP for IPv4 sums no pseudo-header (RFC 792).
            let addresses = if family == 4 { Delta::ZERO } else { addresses };
            fix_in_place(packet, transport + offset_of!(Icmp, checksum), addresses, port_delta, false, false)
        }
        _ => Some(()),
    }
}

/// Writes source and destination of the IP header at `at`.
fn write_addresses(
    packet: &mut Buffer<'_>,
    at: usize,
    family: u8,
    source: &Address,
    destination: &Address,
) -> Option<()> {
    if family == 4 {
        *packet.write::<4>(at + offset_of!(Ipv4, source))? = source[3].to_ne_bytes();
        *packet.write::<4>(at + offset_of!(Ipv4, destination))? = destination[3].to_ne_bytes();
    } else {
        *packet.write::<16>(at + offset_of!(Ipv6, source))? = key::bytes(source);
        *packet.write::<16>(at + offset_of!(Ipv6, destination))? = key::bytes(destination);
    }
    Some(())
}

/// Decides how much of an error fits the output: all of it, or as much as the MTU and, for ICMPv6, the smallest MTU
/// (RFC 4443 section 2.4 c) allow. Returns its length from the IP header on.
///
/// Extensions behind the quote (RFC 4884) go first, as half of them would be taken for damage; the attribute that says
/// where they begin goes with them.
fn cut(packet: &mut Buffer<'_>, parsed: &Parsed, mtu: usize) -> Option<usize> {
    let length = parsed.length as usize;
    if length <= mtu {
        return Some(length);
    }
    let v4 = parsed.key.family() == 4;
    let limit = if v4 { mtu } else { mtu.min(MAX_ERROR_V6) };
    // In words of 4 bytes for ICMP, of 8 for ICMPv6, and there not in every type (RFC 4884 sections 3 and 4).
    let kind = packet.read::<1>(parsed.transport_offset)?[0];
    let attribute = match (v4, kind) {
        (true, _) => Some((5, 4)),
        (false, icmp6::UNREACHABLE | icmp6::TIME_EXCEEDED) => Some((4, 8)),
        _ => None,
    };
    let Some((place, unit)) = attribute else { return Some(limit) };
    let words = packet.write::<1>(parsed.transport_offset + place)?;
    let quoted = usize::from(std::mem::take(&mut words[0])) * unit;
    let headers = parsed.transport_offset - parsed.network + Icmp::LEN;
    Some(if quoted == 0 { limit } else { limit.min(headers + quoted) })
}

/// Sets time to live, length and checksum of an IPv4 frame that is as long as it will be.
fn finish_v4(frame: &mut [u8], parsed: &Parsed) -> Option<()> {
    let ip = frame.get_mut(parsed.network..)?;
    let length = ip.len() as u16;
    let header_bytes = ip.get_mut(..parsed.transport_offset - parsed.network)?;
    let (header, _) = Ipv4::mut_from_prefix(header_bytes).ok()?;
    header.ttl = header.ttl.wrapping_sub(1);
    header.total_length.set(length);
    header.checksum.set(0);
    let sum = checksum::finish(checksum::sum(header_bytes));
    let (header, _) = Ipv4::mut_from_prefix(header_bytes).ok()?;
    header.checksum.set(sum);
    Some(())
}

/// Sets hop limit and length of an IPv6 frame that is as long as it will be; gives the sum of its pseudo-header.
fn finish_v6(frame: &mut [u8], parsed: &Parsed) -> Option<u32> {
    let message = frame.len().checked_sub(parsed.transport_offset)?;
    let (header, rest) = Ipv6::mut_from_prefix(frame.get_mut(parsed.network..)?).ok()?;
    header.hop_limit = header.hop_limit.wrapping_sub(1);
    header.payload_length.set(rest.len() as u16);
    Some(checksum::pseudo_v6(header.source, header.destination, protocol::ICMPV6, message as u32))
}
