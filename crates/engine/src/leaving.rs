//! Packets as they leave a helper: with other texts, other numbers and other lengths, and all checksums right.

use flowhop_flow::parse::Segment;
use flowhop_flow::{Parsed, Transport};
use flowhop_wire::options::{TcpOption, TcpOptions};
use flowhop_wire::{Ipv4, Ipv6, Tcp, Udp, checksum, protocol, tcp_flags};
use zerocopy::FromBytes;

use crate::buffer::{Buffer, Offload};
use crate::module::Payload;
use crate::shift::Shift;

/// A packet as it leaves, and what the check is to see of it.
pub(crate) struct Leaving {
    pub(crate) bytes: Vec<u8>,
    pub(crate) parsed: Parsed,
}

/// A segment with the numbers and texts of its own stream, and with acknowledgments of its peer's; `None` when not all of
/// it is in the packet.
pub(crate) fn shifted(
    packet: &Buffer<'_>,
    parsed: &Parsed,
    segment: &Segment,
    [own, peer]: [&Shift; 2],
) -> Option<Leaving> {
    let payload = own.splice(segment.sequence, payload_of(packet, parsed)?);
    let mut bytes = packet.bytes().get(..parsed.transport_offset + usize::from(segment.header))?.to_vec();
    let header = bytes.get_mut(parsed.transport_offset..)?;
    let mut seen = *segment;
    let (fields, options) = Tcp::mut_from_prefix(header).ok()?;
    fields.sequence.set(own.sent(segment.sequence));
    if segment.flags & tcp_flags::ACK != 0 {
        seen.acknowledgment = peer.acknowledged(segment.acknowledgment);
        fields.acknowledgment.set(seen.acknowledgment);
        put_back_selected(options, peer);
    }
    if segment.flags & tcp_flags::URG != 0 {
        let urgent = segment.sequence.wrapping_add(u32::from(fields.urgent.get()));
        fields.urgent.set(own.sent(urgent).wrapping_sub(own.sent(segment.sequence)) as u16);
    }
    bytes.extend_from_slice(&payload);
    let length = finish(&mut bytes, parsed, &packet.offload)?;
    let parsed = Parsed { length, transport: Transport::Tcp(seen), ..*parsed };
    Some(Leaving { bytes, parsed })
}

/// The payload of a packet; `None` when not all of it is in the packet.
pub(crate) fn payload_of<'a>(packet: &'a Buffer<'_>, parsed: &Parsed) -> Option<&'a [u8]> {
    let end = parsed.network + parsed.length as usize;
    match &parsed.transport {
        Transport::Tcp(segment) => {
            let first = parsed.transport_offset + usize::from(segment.header);
            (end == first + segment.payload as usize).then_some(packet.bytes().get(first..end)?)
        }
        Transport::Udp => {
            let datagram = packet.bytes().get(parsed.transport_offset..end)?;
            let (header, payload) = Udp::ref_from_prefix(datagram).ok()?;
            payload.get(..usize::from(header.length.get()).checked_sub(Udp::LEN)?)
        }
        Transport::Echo | Transport::Opaque => None,
    }
}

/// Puts the blocks of selective acknowledgments back to what the sender of the data has chosen. Blocks of which nothing is
/// left make room for "no operation".
fn put_back_selected(options: &mut [u8], shift: &Shift) {
    let mut list = TcpOptions::new(options);
    while let Some(Ok(option)) = list.next() {
        let TcpOption::Sack(blocks) = option else { continue };
        let at = list.offset();
        let length = 2 + 8 * blocks.len();
        let kept: Vec<u8> = blocks
            .iter()
            .filter_map(|block| shift.selected(block))
            .flat_map(|(first, end)| [first.to_be_bytes(), end.to_be_bytes()])
            .flatten()
            .collect();
        let Some(place) = options.get_mut(at..at + length) else { return };
        place.fill(flowhop_wire::options::tcp_option::NO_OPERATION);
        if let Some((head, room)) = place.split_at_mut_checked(2)
            && !kept.is_empty()
        {
            head.copy_from_slice(&[flowhop_wire::options::tcp_option::SACK, 2 + kept.len() as u8]);
            room.get_mut(..kept.len()).unwrap_or_default().copy_from_slice(&kept);
        }
        return;
    }
}

/// A datagram with other texts in it; `None` when no packet can be that long.
pub(crate) fn replaced(packet: &Buffer<'_>, parsed: &Parsed, said: &Payload) -> Option<Leaving> {
    let payload = payload_of(packet, parsed)?;
    let mut bytes = packet.bytes().get(..parsed.transport_offset + Udp::LEN)?.to_vec();
    let mut done = 0;
    for replacement in &said.replacements {
        bytes.extend_from_slice(payload.get(done..replacement.at)?);
        bytes.extend_from_slice(&replacement.new);
        done = replacement.at + replacement.old;
    }
    bytes.extend_from_slice(payload.get(done..)?);
    let length = finish(&mut bytes, parsed, &packet.offload)?;
    Some(Leaving { bytes, parsed: Parsed { length, ..*parsed } })
}

/// Takes "don't fragment" off an IPv4 packet.
pub(crate) fn allow_fragments(bytes: &mut [u8], parsed: &Parsed) {
    let Some(header) = bytes.get_mut(parsed.network..parsed.transport_offset) else { return };
    if let Some(flags) = header.get_mut(6) {
        *flags &= !0x40;
    }
    let _whole = set_header_checksum(header);
}

fn set_header_checksum(header: &mut [u8]) -> Option<()> {
    Ipv4::mut_from_prefix(header).ok()?.0.checksum.set(0);
    let sum = checksum::finish(checksum::sum(header));
    Ipv4::mut_from_prefix(header).ok()?.0.checksum.set(sum);
    Some(())
}

/// Sets lengths and checksums of a frame whose TCP segment or UDP datagram ends with it. Returns its length from the IP
/// header on; `None` when no packet can be that long. What came in with a checksum that is to be completed leaves so, and
/// a datagram without one.
fn finish(bytes: &mut [u8], parsed: &Parsed, offload: &Offload) -> Option<u32> {
    let segment = u32::try_from(bytes.len() - parsed.transport_offset).ok()?;
    let transport = parsed.key.protocol();
    let ip = bytes.get_mut(parsed.network..)?;
    let length = ip.len() as u32;
    let pseudo = if parsed.key.family() == 4 {
        let header_bytes = ip.get_mut(..parsed.transport_offset - parsed.network)?;
        Ipv4::mut_from_prefix(header_bytes).ok()?.0.total_length.set(u16::try_from(length).ok()?);
        set_header_checksum(header_bytes)?;
        let (header, _) = Ipv4::ref_from_prefix(header_bytes).ok()?;
        checksum::pseudo_v4(header.source, header.destination, transport, segment as u16)
    } else {
        let (header, _) = Ipv6::mut_from_prefix(ip).ok()?;
        header.payload_length.set(u16::try_from(length as usize - Ipv6::LEN).ok()?);
        checksum::pseudo_v6(header.source, header.destination, transport, segment)
    };
    let segment = bytes.get_mut(parsed.transport_offset..)?;
    if transport == protocol::UDP {
        let (header, _) = Udp::mut_from_prefix(segment).ok()?;
        header.length.set(u16::try_from(length as usize - (parsed.transport_offset - parsed.network)).ok()?);
        if header.checksum.get() == 0 {
            return Some(length);
        }
        header.checksum.set(0);
        let sum = if offload.partial {
            checksum::fold(pseudo)
        } else {
            checksum::finish_nonzero(pseudo + checksum::sum(segment))
        };
        Udp::mut_from_prefix(segment).ok()?.0.checksum.set(sum);
        return Some(length);
    }
    let (header, _) = Tcp::mut_from_prefix(segment).ok()?;
    header.checksum.set(0);
    let sum = if offload.partial { checksum::fold(pseudo) } else { checksum::finish(pseudo + checksum::sum(segment)) };
    let (header, _) = Tcp::mut_from_prefix(segment).ok()?;
    header.checksum.set(sum);
    Some(length)
}

/// A segment as two, each as if its sender had sent it so. `None` for one that cannot be: of one byte, or one that a device
/// is to cut anyway.
pub(crate) fn split(packet: &Buffer<'_>, parsed: &Parsed) -> Option<[Leaving; 2]> {
    let Transport::Tcp(segment) = &parsed.transport else { return None };
    let payload = payload_of(packet, parsed).filter(|payload| payload.len() > 1 && packet.offload.segmentation == 0)?;
    let (first, second) = payload.split_at(payload.len() / 2);
    let headers = packet.bytes().get(..parsed.transport_offset + usize::from(segment.header))?;
    let piece = |at: usize, payload: &[u8], flags: u8| {
        let mut bytes = [headers, payload].concat();
        let (fields, _) = Tcp::mut_from_prefix(bytes.get_mut(parsed.transport_offset..)?).ok()?;
        let urgent = fields.urgent.get().saturating_sub(at as u16);
        let flags = if urgent == 0 { flags & !tcp_flags::URG } else { flags };
        let sequence = segment.sequence.wrapping_add(at as u32);
        fields.sequence.set(sequence);
        fields.urgent.set(urgent);
        fields.flags = flags;
        let length = finish(&mut bytes, parsed, &packet.offload)?;
        let transport = Transport::Tcp(Segment { sequence, flags, payload: payload.len() as u32, ..*segment });
        Some(Leaving { bytes, parsed: Parsed { length, transport, ..*parsed } })
    };
    let not_last = segment.flags & !(tcp_flags::FIN | tcp_flags::PSH);
    Some([piece(0, first, not_last)?, piece(first.len(), second, segment.flags)?])
}
