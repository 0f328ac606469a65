//! Connections between IPv6 and IPv4 (stateful NAT64, RFC 6146): their packets are written anew as ones of the other
//! family (RFC 7915; [`flowhop_wire::siit`]).
//!
//! One direction of such a connection has an IPv6 key, the other an IPv4 one. Everything else about it is as with any
//! other connection; only the last step, the rewriting, is done here, and nowhere in the kernel programs, which hand its
//! packets down. Datagrams in fragments are translated whole and cut again, no longer than their fragments were.

use std::net::Ipv4Addr;

use flowhop_flow::forward::{Hit, admit, count, hot, wire_packets};
use flowhop_flow::key::{self, Address};
use flowhop_flow::parse::ETHERNET;
use flowhop_flow::record::{Block, NextHop, Steer, Tick};
use flowhop_flow::{Key, Parsed, Reason};
use flowhop_table::{BlockIndex, key_of};
use flowhop_wire::siit::{self, Ends, Fault, MAX_UNMARKED, MIN_MTU_V6, Mtus};
use flowhop_wire::{Ipv4, Ipv6, Ipv6Fragment, ethertype, protocol};
use zerocopy::IntoBytes;

use crate::answers;
use crate::buffer::{Buffer, Offload};
use crate::engine::{Engine, UserHost};
use crate::errors::Way;
use crate::identification::identify;
use crate::io::{Arrived, Io};
use crate::known::Sent;
use crate::module::Context;

/// What a fragment of IPv6 is longer than one of IPv4: the IPv6 header for the IPv4 one, and a fragment header.
pub(crate) const FRAGMENTS_DIFFER: usize = Ipv6::LEN - Ipv4::LEN + Ipv6Fragment::LEN;
/// Bytes that the headers of the two families differ by.
const DIFFERENCE: u32 = (Ipv6::LEN - Ipv4::LEN) as u32;
/// What a quote with extensions behind it may be padded by (RFC 4884 section 3).
const PADDING: usize = 128;
/// Kinds of segmentation (virtio-net): TCP over IPv4, TCP over IPv6; the flag beside them is about ECN.
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const ECN: u8 = 0x80;

/// Whether a connection is between IPv6 and IPv4.
pub(crate) fn crosses(block: &Block) -> bool {
    let [forward, reverse] = [0, 1].map(|direction: usize| (block.hot[direction].identity.load() >> 8) as u8);
    forward != reverse
}

/// A packet written in the other family.
struct Written {
    frame: Vec<u8>,
    offload: Offload,
    /// With what identification it may be cut.
    fragmentable: Option<u32>,
}

impl Engine {
    /// Judges a packet by its entry, as [`judge`](flowhop_flow::forward::judge) does, translates it and sends it.
    ///
    /// # Errors
    /// The reason why it cannot go on by this entry as it is; it is unchanged.
    pub(crate) fn translate(
        &self,
        arrived: &Arrived,
        parsed: &Parsed,
        hit: &Hit<'_>,
        steer: Steer,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Result<Sent, Reason> {
        let answers = key_of(hit.block, hit.direction ^ 1);
        let identification = || identify(self.table.config(), &answers, wire_packets(parsed, packet.segment()));
        let mut written = write(packet, parsed, &answers, identification).map_err(reason)?;
        let is_v6 = answers.family() == 6;
        let longest = longest(&written, parsed, packet.segment());
        // No IPv6 host can be told to send less than that: what a device cuts anyway it cuts smaller.
        let shrinkable = packet.segment() != 0 && !is_v6 && longest as usize <= MAX_UNMARKED;
        let length = if shrinkable || written.fragmentable.is_some() { 0 } else { longest };
        let host = UserHost(&self.table);
        let hop = admit(&host, self.table.config(), packet, parsed, hit, steer, arrived.port, length)?;
        count(hot(hit), (packet.bytes().len() + ETHERNET - parsed.network) as u64, arrived.now);
        let link = written.frame.get_mut(..hop.macs.len()).ok_or(Reason::Truncated)?;
        link.copy_from_slice(&hop.macs);
        if shrinkable {
            let beyond = u16::try_from(longest.saturating_sub(hop.mtu)).unwrap_or(u16::MAX);
            written.offload.segment = written.offload.segment.saturating_sub(beyond).max(1);
        }
        // What IPv6 hosts cannot be told about: IPv4 packets that may be cut are brought down to what any link carries
        // (RFC 7915 section 4).
        let carried = if is_v6 { (hop.mtu as usize).min(MIN_MTU_V6) } else { hop.mtu as usize };
        let room = io.room(carried, !is_v6);
        // What came in fragments leaves in fragments.
        let was_cut = if room < carried { Reason::Forwarded } else { Reason::Fragmented };
        let whole = written.frame.len() <= ETHERNET + room;
        let reason = match written.fragmentable.filter(|_| !whole) {
            None if io.transmit(hop.port, hop.ifindex, &mut written.frame, &written.offload) => Reason::Forwarded,
            None => Reason::Device,
            Some(identification) => {
                Buffer::new(&mut written.frame, written.offload).complete_checksum();
                let offload = Offload::default();
                let send = |piece: &mut [u8]| io.transmit(hop.port, hop.ifindex, piece, &offload);
                if cut(&written.frame, room, identification, send) { was_cut } else { Reason::Device }
            }
        };
        Ok(Sent { port: hop.port, reason })
    }

    /// Tells the sender of a packet that its translation is too big, in terms of its own family.
    pub(crate) fn answer_too_big_across(
        &mut self,
        arrived: &Arrived,
        number: BlockIndex,
        direction: usize,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) {
        let Some(hop) = self.hop_of(number, direction) else { return };
        let mtu = if is_v4(packet.bytes()) {
            hop.mtu.saturating_sub(DIFFERENCE)
        } else {
            hop.mtu.saturating_add(DIFFERENCE).max(MIN_MTU_V6 as u32)
        };
        self.answer_too_big(arrived, mtu, packet, io);
    }

    /// Translates an error about a packet of such a connection, and sends it.
    pub(crate) fn related_across(
        &self,
        parsed: &Parsed,
        way: Way,
        hop: &NextHop,
        packet: &Buffer<'_>,
        io: &mut dyn Io,
    ) -> Result<(), Reason> {
        let block = self.table.block(way.block).ok_or(Reason::BadRecord)?;
        let original = key_of(block, way.direction ^ 1);
        let ports = original.ports.to_ne_bytes();
        let end = parsed.network + parsed.length as usize;
        let error = packet.bytes().get(parsed.network..end).ok_or(Reason::Truncated)?;
        let mut frame = vec![0; ETHERNET + error.len() + 2 * FRAGMENTS_DIFFER + PADDING];
        let out = frame.get_mut(ETHERNET..).ok_or(Reason::Truncated)?;
        // The packet came in where its errors leave.
        let other = self.hop_of(way.block, way.direction ^ 1).map_or(u32::MAX, |hop| hop.mtu);
        let room = hop.mtu as usize;
        let length = if original.family() == 6 {
            // Routers are shown by their own addresses, embedded as that of the host is.
            let source = self.shown_embedded(block, &parsed.key.source).ok_or(Reason::NatUnsupported)?;
            let ends =
                Ends { source: key::bytes(&original.source), destination: key::bytes(&original.destination), ports };
            let mtus = Mtus { v4: other, v6: hop.mtu };
            siit::error_to_v6(error, (&source, &ends.source), &ends, mtus, room, out)
        } else {
            // Nobody on this side has an address that could be shown but the host itself (RFC 7915 section 5.1).
            let source = v4(&original.destination);
            let ends = Ends { source: v4(&original.source), destination: v4(&original.destination), ports };
            let mtus = Mtus { v4: hop.mtu, v6: other };
            siit::error_to_v4(error, (&source, &ends.source), &ends, mtus, room, out)
        };
        frame.truncate(ETHERNET + length.map_err(reason)?);
        link(&mut frame, original.family());
        let macs = frame.get_mut(..hop.macs.len()).ok_or(Reason::Truncated)?;
        macs.copy_from_slice(&hop.macs);
        if io.transmit(hop.port, hop.ifindex, &mut frame, &Offload::default()) { Ok(()) } else { Err(Reason::Device) }
    }

    /// The address that an IPv4 node is shown to IPv6 hosts by, under the translation of a connection.
    fn shown_embedded(&self, block: &Block, address: &Address) -> Option<[u8; 16]> {
        let std::net::IpAddr::V4(address) = key::ip(address) else { return None };
        let view = crate::views::view_of(block);
        let shown = [view.nat, view.destination_nat]
            .into_iter()
            .find_map(|nat| self.modules.iter().find_map(|module| module.embedded(nat, address)));
        shown.map(|address| address.octets())
    }

    /// Whether one of these translations (identities) is between IPv6 and IPv4. What payload says of addresses means
    /// nothing on its other side, so no helper looks at it.
    pub(crate) fn is_between_families(&self, nats: [u16; 2]) -> bool {
        let embeds = |nat| self.modules.iter().any(|module| module.embedded(nat, Ipv4Addr::UNSPECIFIED).is_some());
        nats.into_iter().any(embeds)
    }

    /// Whether a packet belongs to a connection between IPv6 and IPv4, or would begin one.
    pub(crate) fn is_across(&mut self, key: &Key, port: u8, now: Tick) -> bool {
        match self.table.find(key, self.table.hash(key)) {
            Some((block, _)) => self.table.block(block).is_some_and(crosses),
            None => {
                let from = self.interfaces.port(port).map_or(u16::MAX, |interface| interface.zone);
                let mut context = Context {
                    routing: &mut self.routing,
                    interfaces: &self.interfaces,
                    random: &mut self.random,
                    sources: &self.sources,
                    now,
                };
                self.modules.iter().any(|module| module.changes_family(key, from, &mut context))
            }
        }
    }
}

/// Why a packet that has no translation is dropped.
const fn reason(fault: Fault) -> Reason {
    match fault {
        Fault::SourceRoute => Reason::SourceRoute,
        Fault::Malformed => Reason::BadHeader,
        Fault::Protocol | Fault::Message | Fault::TooLong => Reason::NatUnsupported,
    }
}

fn v4(address: &Address) -> [u8; 4] {
    address[3].to_ne_bytes()
}

/// Writes a packet as what the other direction is received with, turned round.
fn write(
    packet: &Buffer<'_>,
    parsed: &Parsed,
    answers: &Key,
    identify: impl FnOnce() -> u16,
) -> Result<Written, Fault> {
    let [a, b, c, d] = answers.ports.to_ne_bytes();
    let ports = match answers.protocol() {
        protocol::ICMP | protocol::ICMPV6 => [a, b, 0, 0],
        _ => [c, d, a, b],
    };
    let end = parsed.network + parsed.length as usize;
    let ip = packet.bytes().get(parsed.network..end).ok_or(Fault::Malformed)?;
    let partial = packet.offload.partial;
    if partial && matches!(answers.protocol(), protocol::ICMP | protocol::ICMPV6) {
        // No stack leaves that to a device: IPv4 has no pseudo-header there.
        return Err(Fault::Malformed);
    }
    let mut frame = vec![0; ETHERNET + ip.len() + FRAGMENTS_DIFFER];
    let out = frame.get_mut(ETHERNET..).ok_or(Fault::TooLong)?;
    let translated = if answers.family() == 6 {
        let ends = Ends { source: key::bytes(&answers.destination), destination: key::bytes(&answers.source), ports };
        siit::to_v6(ip, &ends, partial, out)?
    } else {
        let ends = Ends { source: v4(&answers.destination), destination: v4(&answers.source), ports };
        siit::to_v4(ip, &ends, identify(), partial, out)?
    };
    frame.truncate(ETHERNET + translated.length);
    link(&mut frame, answers.family());
    let moved = |place: u16| {
        let place = usize::from(place) + ETHERNET + translated.transport;
        place.saturating_sub(parsed.transport_offset) as u16
    };
    let mut offload = packet.offload;
    if offload.partial {
        offload.checksum_start = moved(offload.checksum_start);
    }
    if offload.segmentation != 0 {
        offload.headers = moved(offload.headers);
        let kind = match offload.segmentation & !ECN {
            TCP_V4 => TCP_V6,
            TCP_V6 => TCP_V4,
            same => same,
        };
        offload.segmentation = kind | offload.segmentation & ECN;
    }
    // A device cuts super-packets as their segments say.
    let fragmentable = translated.fragmentable.filter(|_| offload.segmentation == 0);
    Ok(Written { frame, offload, fragmentable })
}

pub(crate) fn is_v4(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&ethertype::IPV4.to_be_bytes())
}

/// Sets the type of a frame's packet.
fn link(frame: &mut [u8], family: u8) {
    let kind = if family == 6 { ethertype::IPV6 } else { ethertype::IPV4 };
    if let Some(field) = frame.get_mut(12..14) {
        field.copy_from_slice(&kind.to_be_bytes());
    }
}

/// Bytes, from the IP header on, of the longest packet that goes on the wire.
fn longest(written: &Written, parsed: &Parsed, segment: u32) -> u32 {
    let whole = (written.frame.len() - ETHERNET) as u32;
    if segment == 0 {
        return whole;
    }
    let before = parsed.length - (parsed.transport_offset - parsed.network) as u32;
    let headers = whole - before;
    // As it came, less its own headers.
    flowhop_flow::forward::wire_length(parsed, segment) - (parsed.transport_offset - parsed.network) as u32 + headers
}

/// Cuts a frame into fragments of at most `room` bytes from the IP header on, and sends each; false when one could not be
/// sent.
fn cut(frame: &[u8], room: usize, identification: u32, send: impl FnMut(&mut [u8]) -> bool) -> bool {
    if is_v4(frame) {
        return answers::fragment(frame, room as u32, send);
    }
    cut_v6(frame, room, identification, send).unwrap_or(false)
}

/// The same of an IPv6 frame without extension headers (RFC 8200 section 4.5).
fn cut_v6(frame: &[u8], room: usize, identification: u32, mut send: impl FnMut(&mut [u8]) -> bool) -> Option<bool> {
    let (head, data) = frame.split_first_chunk::<{ ETHERNET + Ipv6::LEN }>()?;
    let most = room.checked_sub(Ipv6::LEN + Ipv6Fragment::LEN)? & !7;
    if most == 0 {
        return None;
    }
    let pieces = data.chunks(most).count();
    for (number, piece) in data.chunks(most).enumerate() {
        let mut out = head.to_vec();
        let next_header = std::mem::replace(&mut out[ETHERNET + 6], protocol::FRAGMENT);
        out[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&((piece.len() + Ipv6Fragment::LEN) as u16).to_be_bytes());
        let more = number + 1 < pieces;
        let fragment = Ipv6Fragment {
            next_header,
            reserved: 0,
            offset_flags: ((number * most) as u16 | u16::from(more)).into(),
            identification: identification.into(),
        };
        out.extend_from_slice(fragment.as_bytes());
        out.extend_from_slice(piece);
        if !send(&mut out) {
            return Some(false);
        }
    }
    Some(true)
}
