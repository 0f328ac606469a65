//! The router's own answers: ICMP and ICMPv6 errors, TCP resets; and IPv4 fragmentation.
//!
//! Errors quote as much of the packet as the RFCs allow, are limited in rate, and are never about ICMP errors,
//! later fragments, or packets to or from what is no single host ([`whom`]). There is no source quench (RFC 6633)
//! among them. They go back the way the packet came: to the station that sent the frame, on the interface it came in.

mod whom;

use std::net::IpAddr;

use flowhop_flow::parse::ETHERNET;
use flowhop_flow::record::Tick;
use flowhop_flow::{Key, Parsed, Reason, Transport, key};
use flowhop_wire::build::{Checksum, Ip, L4, Spec, TcpFields};
use flowhop_wire::{Ethernet, Frame, Icmp, Ipv4, Ipv6, checksum, icmp4, icmp6, tcp_flags, verify};
use zerocopy::transmute_ref;

use crate::buffer::{Buffer, Offload};
use crate::engine::Engine;
use crate::errors::Headers;
use crate::io::{Arrived, Io};
use crate::module::NewSession;
use crate::validate::Problem;

/// An ICMP error for IPv4 is at most this long (RFC 1812 section 4.3.2.3).
const MAX_ERROR_V4: usize = 576;
/// An ICMPv6 error is at most as long as the smallest MTU (RFC 4443 section 2.4 c).
pub(crate) const MAX_ERROR_V6: usize = 1280;
/// Class selector 6, which is precedence 6: what errors of routers carry (RFC 1812 section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 48;
/// Ticks in a second, about.
const SECOND: Tick = 954;

/// Which answers there are, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answering {
    /// ICMP errors, redirects and resets in a second, at least 1.
    pub per_second: u32,
    /// Hosts of IPv4 are told of a better first hop (RFC 1812 section 5.2.7.2).
    pub redirects: bool,
}

impl Default for Answering {
    fn default() -> Self {
        Self { per_second: 200, redirects: false }
    }
}

/// Rate limit of own answers: a token bucket of one second's depth (RFC 1812 section 4.3.2.8, RFC 4443 2.4 f).
#[derive(Debug)]
pub struct Answers {
    answering: Answering,
    /// What is in the bucket: `SECOND` for each answer, so that a tick earns a whole number.
    credit: u64,
    at: Tick,
}

impl Answers {
    /// A full bucket.
    #[must_use]
    pub const fn new(answering: Answering, now: Tick) -> Self {
        Self { answering, credit: answering.per_second as u64 * SECOND as u64, at: now }
    }

    pub(crate) const fn change(&mut self, answering: Answering) {
        self.answering = answering;
    }

    fn take(&mut self, now: Tick) -> bool {
        let elapsed = now.wrapping_sub(self.at).min(SECOND);
        self.at = now;
        let per_second = u64::from(self.answering.per_second);
        self.credit = (self.credit + u64::from(elapsed) * per_second).min(per_second * u64::from(SECOND));
        let allowed = self.credit >= u64::from(SECOND);
        if allowed {
            self.credit -= u64::from(SECOND);
        }
        allowed
    }
}

/// Kind, code and the second word of an error in one family.
#[derive(Clone, Copy)]
struct Error {
    kind: u8,
    code: u8,
    rest: [u8; 4],
}

impl Error {
    const fn plain(kind: u8, code: u8) -> Self {
        Self { kind, code, rest: [0; 4] }
    }
}

impl Engine {
    pub(crate) fn answer_time_exceeded(&mut self, arrived: &Arrived, packet: &mut Buffer<'_>, io: &mut dyn Io) {
        let (v4, v6) = (Error::plain(icmp4::TIME_EXCEEDED, 0), Error::plain(icmp6::TIME_EXCEEDED, 0));
        self.answer(arrived, v4, v6, packet, io);
    }

    /// Tells the sender of a packet what is wrong with it (RFC 1812 section 4.3.3.5, RFC 4443 section 3.4).
    pub(crate) fn answer_problem(
        &mut self,
        arrived: &Arrived,
        problem: Problem,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) {
        let [.., pointer] = problem.pointer.to_be_bytes();
        let v4 = Error { kind: icmp4::PARAMETER_PROBLEM, code: 0, rest: [pointer, 0, 0, 0] };
        let v6 = Error { kind: icmp6::PARAMETER_PROBLEM, code: problem.code, rest: problem.pointer.to_be_bytes() };
        let Some((ip, headers)) = whom::headers(packet) else { return };
        // Of IPv6, a fragment that cannot be is answered wherever it is in its packet (RFC 8200 section 4.5).
        let error = match headers.family {
            4 if headers.later_fragment => return,
            4 => v4,
            _ => v6,
        };
        if !headers.is_error(ip) && self.came_rightly(arrived.port, &headers) {
            self.send_error(arrived, error, &headers, packet, io);
        }
    }

    /// Tells the sender of a first fragment that the others did not come in time (RFC 792, RFC 8200 section 4.5).
    pub(crate) fn answer_not_complete(&mut self, arrived: &Arrived, packet: &mut Buffer<'_>, io: &mut dyn Io) {
        if !whom::headers(packet).is_some_and(|(_, headers)| self.came_rightly(arrived.port, &headers)) {
            return;
        }
        let v4 = Error::plain(icmp4::TIME_EXCEEDED, icmp4::REASSEMBLY_EXCEEDED);
        let v6 = Error::plain(icmp6::TIME_EXCEEDED, icmp6::REASSEMBLY_EXCEEDED);
        self.answer(arrived, v4, v6, packet, io);
    }

    pub(crate) fn answer_too_big(&mut self, arrived: &Arrived, mtu: u32, packet: &mut Buffer<'_>, io: &mut dyn Io) {
        let [_, _, high, low] = mtu.min(0xffff).to_be_bytes();
        // RFC 1191 section 4 and RFC 4443 section 3.2.
        let v4 = Error { kind: icmp4::UNREACHABLE, code: 4, rest: [0, 0, high, low] };
        let v6 = Error { kind: icmp6::PACKET_TOO_BIG, code: 0, rest: mtu.to_be_bytes() };
        self.answer(arrived, v4, v6, packet, io);
    }

    /// Tells the sender that a packet was dropped for this reason, if that is told: there is no way, or no connection can
    /// be made for want of what it takes.
    pub(crate) fn answer_undeliverable(
        &mut self,
        arrived: &Arrived,
        reason: Reason,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) {
        let (v4, v6) = match reason {
            // RFC 1812 section 5.2.7.1, RFC 4443 section 3.1.
            Reason::NoRoute => (icmp4::NET_UNREACHABLE, icmp6::NO_ROUTE),
            Reason::LinkDown | Reason::NeighbourUnresolved => (icmp4::HOST_UNREACHABLE, icmp6::ADDRESS_UNREACHABLE),
            // There is room in a moment: the sender's repetition finds it, where an error would end the attempt.
            Reason::TableFull if self.table.wants_grace() => return,
            // RFC 5508 REQ-8.
            Reason::NatExhausted
            | Reason::NatUnsupported
            | Reason::NatLimit
            | Reason::AddressConflict
            | Reason::TableFull => (icmp4::ADMINISTRATIVELY_PROHIBITED, icmp6::ADMINISTRATIVELY_PROHIBITED),
            _ => return,
        };
        let (v4, v6) = (Error::plain(icmp4::UNREACHABLE, v4), Error::plain(icmp6::UNREACHABLE, v6));
        self.answer(arrived, v4, v6, packet, io);
    }

    /// Tells a host of IPv4 that the next hop of its packet is on its own link (RFC 1812 section 5.2.7.2), if a new
    /// connection goes out by the interface that it came in by, with the addresses that it came with. What expires here goes
    /// nowhere, and is answered for that.
    pub(crate) fn answer_redirect(
        &mut self,
        arrived: &Arrived,
        session: &NewSession,
        ttl: u8,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) {
        let Some(via) = session.via.filter(|via| self.answers.answering.redirects && via.port == arrived.port) else {
            return;
        };
        let translated = session.nat != 0 || session.destination_nat != 0;
        let (IpAddr::V4(next_hop), source) = (via.next_hop, key::ip(&session.key.source)) else { return };
        // It is sent from an address of the same network, or not at all.
        let own = self.own_address(arrived.port, source);
        let share = |other| self.routing.share_link(via.ifindex, source, other);
        if !translated && ttl > 1 && share(via.next_hop) && own.is_some_and(share) {
            let v4 = Error { kind: icmp4::REDIRECT, code: icmp4::REDIRECT_HOST, rest: next_hop.octets() };
            self.answer(arrived, v4, v4, packet, io);
        }
    }

    /// Port unreachable (RFC 792; RFC 4443 section 3.1).
    pub(crate) fn answer_port_unreachable(&mut self, arrived: &Arrived, packet: &mut Buffer<'_>, io: &mut dyn Io) {
        let (v4, v6) = (Error::plain(icmp4::UNREACHABLE, 3), Error::plain(icmp6::UNREACHABLE, 4));
        self.answer(arrived, v4, v6, packet, io);
    }

    /// Tells the sender that a rule refuses the connection.
    pub(crate) fn answer_reject(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) {
        match &parsed.transport {
            Transport::Tcp(segment) if segment.flags & tcp_flags::RST != 0 => {}
            Transport::Tcp(segment) => {
                if whom::headers(packet).is_some_and(|(_, headers)| self.whom(packet, &headers).is_some()) {
                    self.send_back(arrived, packet, reset_for(parsed, segment), io);
                }
            }
            _ => {
                // Communication administratively prohibited (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
                let v4 = Error::plain(icmp4::UNREACHABLE, icmp4::ADMINISTRATIVELY_PROHIBITED);
                let v6 = Error::plain(icmp6::UNREACHABLE, icmp6::ADMINISTRATIVELY_PROHIBITED);
                self.answer(arrived, v4, v6, packet, io);
            }
        }
    }

    fn answer(&mut self, arrived: &Arrived, v4: Error, v6: Error, packet: &mut Buffer<'_>, io: &mut dyn Io) {
        let Some((ip, headers)) = whom::headers(packet) else { return };
        if !headers.later_fragment && !headers.is_error(ip) {
            let error = if headers.family == 4 { v4 } else { v6 };
            self.send_error(arrived, error, &headers, packet, io);
        }
    }

    fn send_error(
        &mut self,
        arrived: &Arrived,
        error: Error,
        headers: &Headers,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) {
        let Some(source) = self.whom(packet, headers) else { return };
        let Some(own) = self.own_address(arrived.port, source) else { return };
        packet.complete_checksum();
        let v4 = headers.family == 4;
        let limit = if v4 { MAX_ERROR_V4 - Ipv4::LEN } else { MAX_ERROR_V6 - Ipv6::LEN } - Icmp::LEN;
        let original = packet.bytes().get(ETHERNET..).unwrap_or_default();
        let quoted = original.get(..original.len().min(limit)).unwrap_or_default().to_vec();
        let l4 = L4::Icmp { kind: error.kind, code: error.code, rest: error.rest };
        let spec = Spec::new(own, source, l4, &quoted);
        let spec = if v4 { spec.with_dscp(INTERNETWORK_CONTROL) } else { spec };
        self.send_back(arrived, packet, Some(spec), io);
    }

    /// Whether a packet that has been judged by nothing but its form may be answered: its source may come in here, and it is
    /// not to many. What is to be discarded silently for these is not answered for another fault (RFC 1812 section 4.3.2.7).
    fn came_rightly(&self, port: u8, headers: &Headers) -> bool {
        let identity = Key::identity(headers.protocol, headers.family, 0);
        let key = Key { source: headers.source, destination: headers.destination, ports: 0, identity };
        self.source_fault(port, &key).is_none() && !self.is_directed_broadcast(key::ip(&key.destination))
    }

    /// Whom an answer to a packet goes to, if anybody may be answered.
    fn whom(&self, packet: &Buffer<'_>, headers: &Headers) -> Option<IpAddr> {
        whom::sender(packet, headers).filter(|source| !self.is_directed_broadcast(*source))
    }

    /// The address of the interface that an answer to `source` carries.
    fn own_address(&self, port: u8, source: IpAddr) -> Option<IpAddr> {
        self.routing.source_towards(self.interfaces.port(port)?.ifindex, source)
    }

    fn send_back(&mut self, arrived: &Arrived, packet: &Buffer<'_>, spec: Option<Spec<'_>>, io: &mut dyn Io) {
        let (Some(spec), Some(link)) = (spec, packet.read::<ETHERNET>(0)) else { return };
        let link: &Ethernet = transmute_ref!(link);
        if self.answers.take(arrived.now) {
            self.send_own(arrived.port, link.source, spec, io);
        }
    }

    /// Sends a packet of the box's own to a station on a link; tells whether it left.
    pub(crate) fn send_own(&self, port: u8, station: [u8; 6], spec: Spec<'_>, io: &mut dyn Io) -> bool {
        let Some(interface) = self.interfaces.port(port) else { return false };
        let spec = spec.with_link(interface.mac, station);
        let mut frame = vec![0; spec.len()];
        let Ok(length) = spec.write(&mut frame) else { return false };
        frame.truncate(length);
        io.transmit(port, interface.ifindex, &mut frame, &Offload::default())
    }
}

/// A reset in the name of the destination (RFC 9293 section 3.10.7.1).
fn reset_for<'a>(parsed: &Parsed, segment: &flowhop_flow::parse::Segment) -> Option<Spec<'a>> {
    let has_ack = segment.flags & tcp_flags::ACK != 0;
    let length = segment.payload
        + u32::from(segment.flags & tcp_flags::SYN != 0)
        + u32::from(segment.flags & tcp_flags::FIN != 0);
    let (sequence, acknowledgment, flags) = if has_ack {
        (segment.acknowledgment, 0, tcp_flags::RST)
    } else {
        (0, segment.sequence.wrapping_add(length), tcp_flags::RST_ACK)
    };
    let fields = TcpFields {
        source_port: parsed.key.destination_port(),
        destination_port: parsed.key.source_port(),
        sequence,
        acknowledgment,
        flags,
        window: 0,
        ..TcpFields::default()
    };
    let (from, to) = (key::ip(&parsed.key.destination), key::ip(&parsed.key.source));
    let ip = Ip::between(from, to);
    Some(Spec { link: None, vlans: &[], ip, l4: L4::Tcp(fields), checksum: Checksum::Full, payload: &[] })
}

impl Buffer<'_> {
    /// Finishes a transport checksum that is the sum of the pseudo-header only although nothing beside the packet says
    /// so; tells whether it was one.
    pub(crate) fn complete_lost_checksum(&mut self) -> bool {
        let packet = self.bytes().get(ETHERNET..).unwrap_or_default();
        let Some(partial) = verify::lost_partial(packet) else { return false };
        let bytes = self.bytes_mut().get_mut(ETHERNET..ETHERNET + partial.end).unwrap_or_default();
        // A complete checksum may have that value by chance; then it comes out again.
        verify::complete_partial(bytes, partial.start, partial.offset).is_some_and(|value| value != partial.value)
    }

    /// Finishes a partial checksum, as before a packet is cut or quoted.
    pub(crate) fn complete_checksum(&mut self) {
        if self.offload.partial && self.offload.segmentation == 0 {
            let (start, offset) = (usize::from(self.offload.checksum_start), usize::from(self.offload.checksum_offset));
            // A start beyond the frame leaves it as it is: nothing that could be finished.
            let _absent = verify::complete_partial(self.bytes_mut(), start, offset);
            self.offload.partial = false;
        }
    }
}

/// Whether a packet may be cut on the way: IPv4 without "don't fragment".
pub(crate) fn may_fragment(packet: &Buffer<'_>, parsed: &Parsed) -> bool {
    parsed.key.family() == 4
        && packet.read::<{ Ipv4::LEN }>(parsed.network).is_some_and(|bytes| {
            let header: &Ipv4 = transmute_ref!(bytes);
            !header.dont_fragment()
        })
}

/// Cuts an IPv4 packet into fragments that fit the MTU (RFC 791 section 3.2) and sends each; false when one
/// could not be sent. Options are repeated in every fragment only if they are marked so.
pub(crate) fn fragment(frame: &[u8], mtu: u32, mut send: impl FnMut(&mut [u8]) -> bool) -> bool {
    let Some(bytes) = frame.get(ETHERNET..).and_then(|ip| ip.first_chunk::<{ Ipv4::LEN }>()) else { return false };
    let header: &Ipv4 = transmute_ref!(bytes);
    let (header_length, total) = (header.header_len(), usize::from(header.total_length.get()));
    let first_offset = header.fragment_offset();
    let more_follow = header.more_fragments();
    let Some(frame) = frame.get(..ETHERNET + total) else { return false };
    let (head, data) = frame.split_at(ETHERNET + header_length);
    let room = (mtu as usize).saturating_sub(header_length) & !7;
    if room == 0 {
        return false;
    }
    let pieces = data.chunks(room).count();
    for (number, piece) in data.chunks(room).enumerate() {
        let options = head.get(ETHERNET + Ipv4::LEN..).unwrap_or_default();
        let options = if number == 0 { options.to_vec() } else { copied_options(options) };
        let mut out = head.get(..ETHERNET + Ipv4::LEN).unwrap_or_default().to_vec();
        out.extend_from_slice(&options);
        out.extend_from_slice(piece);
        let offset = (first_offset + number * room) / 8;
        let more = number + 1 < pieces || more_follow;
        set_fragment(&mut out, Ipv4::LEN + options.len(), Ipv4::LEN + options.len() + piece.len(), offset as u16, more);
        if !send(&mut out) {
            return false;
        }
    }
    true
}

fn copied_options(options: &[u8]) -> Vec<u8> {
    let mut copied = Vec::new();
    for option in flowhop_wire::options::Ipv4Options::new(options).flatten() {
        if option.is_copied() {
            copied.push(option.kind);
            copied.push(option.data.len() as u8 + 2);
            copied.extend_from_slice(option.data);
        }
    }
    copied.resize(copied.len().next_multiple_of(4), 0);
    copied
}

pub(crate) fn set_fragment(frame: &mut [u8], header_length: usize, total: usize, offset: u16, more: bool) {
    let Some(header) = frame.get_mut(ETHERNET..ETHERNET + header_length) else { return };
    header[0] = 0x40 | (header_length / 4) as u8;
    header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    let flags = offset & 0x1fff | if more { 0x2000 } else { 0 };
    let [high, low] = flags.to_be_bytes();
    // The reserved bit goes into every fragment (RFC 1812 section 5.2.5).
    (header[6], header[7]) = (header[6] & 0x80 | high, low);
    header[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 1812 section 4.3.2.8: the rate holds however often it is asked; what is left over between two is not lost.
    #[test]
    fn the_rate_of_answers_holds_however_often_it_is_asked() {
        for (per_second, step) in [(200, 1), (200, 3), (200, 7), (10, 100), (950, 1), (2000, 1)] {
            let mut answers = Answers::new(Answering { per_second, ..Answering::default() }, 0);
            let burst = (0..2 * per_second).filter(|_| answers.take(0)).count();
            assert_eq!(burst, per_second as usize, "one second's depth");
            let mut taken = 0;
            for now in (step..=100 * SECOND).step_by(step as usize) {
                while answers.take(now) {
                    taken += 1;
                }
            }
            let right = 100 * per_second;
            assert!(taken <= right && taken + 1 + per_second * step / SECOND >= right, "{taken} of {right}");
        }
    }
}
