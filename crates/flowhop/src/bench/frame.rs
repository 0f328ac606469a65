//! Frames of generated flows.
//!
//! Flow `i` comes from `10.64.0.0 + i / 64` or `fd00:0:0:40:: + i / 64`, port `2048 + i % 64`, and goes to one place behind
//! the outside host.

use flowhop_wire::{checksum, ethertype, protocol};

use super::load::{Form, Shape};
use crate::lab::Family;

/// The first source.
const SOURCES: [u8; 4] = [10, 64, 0, 0];
const SOURCES_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0];
/// Where everything goes: behind the outside host, which has no such address and so answers nothing.
pub(super) const TARGET: [u8; 4] = [192, 0, 2, 1];
const TARGET_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1];
/// Where a frame of IPv4 without a tag says that.
pub(super) const TARGET_AT: usize = Form::plain(Shape::Udp).target();
pub(super) const TARGET_PORT: u16 = 9;
pub(super) const FIRST_PORT: u16 = 2048;
/// Flows of one source address.
pub(super) const PER_ADDRESS: u32 = 64;
/// Sequence numbers of both ends' handshakes.
pub(super) const FIRST_SEQUENCE: [u32; 2] = [1000, 5000];

/// Length of an Ethernet header.
const LINK: usize = 14;
/// An 802.1Q tag without a VLAN.
const PRIORITY_TAG: [u8; 4] = [0x81, 0, 0x60, 0];
/// Bytes from the transport header to the end of the shortest frame: as in the shortest Ethernet frame with IPv4. All
/// families carry the same payload.
const SEGMENT: usize = 26;
/// The longest of the shortest frames.
const ROOM: usize = LINK + PRIORITY_TAG.len() + 40 + SEGMENT;

/// Link-layer destination and source of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) to: [u8; 6],
    pub(super) from: [u8; 6],
}

/// Places in a frame.
impl Form {
    /// Of the IP header.
    pub(super) const fn network(self) -> usize {
        if self.tagged { LINK + PRIORITY_TAG.len() } else { LINK }
    }

    /// Of the checksum of the IP header.
    pub(super) const fn header_checksum(self) -> Option<usize> {
        match self.family {
            Family::V4 => Some(self.network() + 10),
            Family::V6 => None,
        }
    }

    /// Of the time to live, or hop limit.
    pub(super) const fn hops(self) -> usize {
        match self.family {
            Family::V4 => self.network() + 8,
            Family::V6 => self.network() + 7,
        }
    }

    /// Of the number of the transport protocol.
    pub(super) const fn protocol_place(self) -> usize {
        match self.family {
            Family::V4 => self.network() + 9,
            Family::V6 => self.network() + 6,
        }
    }

    /// Of the source address.
    pub(super) const fn source(self) -> usize {
        match self.family {
            Family::V4 => self.network() + 12,
            Family::V6 => self.network() + 8,
        }
    }

    /// Of its last four bytes; flows differ in the last two.
    pub(super) const fn source_end(self) -> usize {
        self.target() - 4
    }

    /// Of the destination address.
    pub(super) const fn target(self) -> usize {
        match self.family {
            Family::V4 => self.source() + 4,
            Family::V6 => self.source() + 16,
        }
    }

    /// Of the transport header.
    pub(super) const fn transport(self) -> usize {
        match self.family {
            Family::V4 => self.network() + 20,
            Family::V6 => self.network() + 40,
        }
    }

    /// Of the transport's checksum.
    pub(super) const fn checksum(self) -> usize {
        match self.shape {
            Shape::Udp => self.transport() + 6,
            Shape::Syn | Shape::Ack => self.transport() + 16,
        }
    }

    /// Of the end of all headers.
    pub(super) const fn headers(self) -> usize {
        match self.shape {
            Shape::Udp => self.transport() + 8,
            Shape::Syn | Shape::Ack => self.transport() + 20,
        }
    }

    /// Length of the shortest frame.
    pub(super) const fn shortest(self) -> usize {
        self.transport() + SEGMENT
    }

    const fn protocol(self) -> u8 {
        match self.shape {
            Shape::Udp => protocol::UDP,
            Shape::Syn | Shape::Ack => protocol::TCP,
        }
    }

    pub(super) const fn ethertype(self) -> u16 {
        match self.family {
            Family::V4 => ethertype::IPV4,
            Family::V6 => ethertype::IPV6,
        }
    }

    /// The last four bytes of the first source, which the numbers of flows are added to.
    pub(super) const fn source_base(self) -> u32 {
        match self.family {
            Family::V4 => u32::from_be_bytes(SOURCES),
            Family::V6 => 0,
        }
    }
}

/// A frame without what differs between flows: last half of the source address, source port, checksums. It is as long as
/// the given one, which is all zeros.
pub(super) fn blank(hop: Hop, form: Form, frame: &mut [u8]) {
    let segment = (frame.len() - form.transport()) as u16;
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&hop.to);
    put(&hop.from);
    if form.tagged {
        put(&PRIORITY_TAG);
    }
    put(&form.ethertype().to_be_bytes());
    match form.family {
        Family::V4 => {
            put(&[0x45, 0]);
            put(&(20 + segment).to_be_bytes());
            // Identification, "do not fragment", time to live.
            put(&[0, 0, 0x40, 0, 64, form.protocol(), 0, 0]);
            put(&SOURCES);
            put(&TARGET);
        }
        Family::V6 => {
            put(&[0x60, 0, 0, 0]);
            put(&segment.to_be_bytes());
            put(&[form.protocol(), 64]);
            put(&SOURCES_V6);
            put(&TARGET_V6);
        }
    }
    put(&[0, 0]);
    put(&TARGET_PORT.to_be_bytes());
    let [ours, theirs] = FIRST_SEQUENCE;
    match form.shape {
        Shape::Udp => put(&segment.to_be_bytes()),
        Shape::Syn | Shape::Ack => {
            let first = form.shape == Shape::Syn;
            put(&if first { ours } else { ours + 1 }.to_be_bytes());
            put(&if first { 0 } else { theirs + 1 }.to_be_bytes());
            put(&[5 << 4, if first { 2 } else { 0x10 }, 0xff, 0xff]);
        }
    }
}

/// The sums over a frame's IP header, and over the transport's pseudo-header and segment.
pub(super) fn sums(frame: &[u8], form: Form) -> [u32; 2] {
    let ip = checksum::sum(&frame[form.network()..form.transport()]);
    let segment = &frame[form.transport()..];
    let length = segment.len() as u16;
    let pseudo = match form.family {
        Family::V4 => {
            let (source, target) = (part(frame, form.source()), part(frame, form.target()));
            checksum::pseudo_v4(source, target, form.protocol(), length)
        }
        Family::V6 => {
            let (source, target) = (part(frame, form.source()), part(frame, form.target()));
            checksum::pseudo_v6(source, target, form.protocol(), length.into())
        }
    };
    [ip, pseudo + checksum::sum(segment)].map(|sum| u32::from(checksum::fold(sum)))
}

/// So many bytes of a frame, at a place inside it.
fn part<const N: usize>(frame: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|place| frame[at + place])
}

/// A short frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    bytes: [u8; ROOM],
    length: usize,
}

impl Frame {
    /// The shortest packet of a flow, whole.
    pub(super) fn of(hop: Hop, form: Form, flow: u32) -> Self {
        let mut frame = Self { bytes: [0; ROOM], length: form.shortest() };
        blank(hop, form, frame.as_mut());
        let low = (flow / PER_ADDRESS) as u16;
        let port = FIRST_PORT + (flow % PER_ADDRESS) as u16;
        frame.bytes[form.source_end() + 2..][..2].copy_from_slice(&low.to_be_bytes());
        frame.bytes[form.transport()..][..2].copy_from_slice(&port.to_be_bytes());
        frame.complete(form);
        frame
    }

    /// The same bytes; `None` where they are none of these short frames.
    pub(super) fn copied(bytes: &[u8], form: Form) -> Option<Self> {
        let mut frame = Self { bytes: [0; ROOM], length: form.shortest() };
        frame.as_mut().copy_from_slice(bytes.get(..form.shortest())?);
        Some(frame)
    }

    /// Makes its checksums right, where there is zero or another in their place.
    pub(super) fn complete(&mut self, form: Form) {
        for at in form.header_checksum().into_iter().chain([form.checksum()]) {
            self.bytes[at..at + 2].fill(0);
        }
        let [ip, transport] = sums(self.as_ref(), form).map(|sum| checksum::finish(sum).to_be_bytes());
        if let Some(at) = form.header_checksum() {
            self.bytes[at..at + 2].copy_from_slice(&ip);
        }
        self.bytes[form.checksum()..][..2].copy_from_slice(&transport);
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl AsMut<[u8]> for Frame {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use flowhop_flow::parse;
    use flowhop_wire::frame::SliceFrame;

    use super::*;

    pub(in super::super) const HOP: Hop = Hop { to: [2; 6], from: [4; 6] };

    /// All forms that there are.
    pub(in super::super) fn forms() -> impl Iterator<Item = Form> {
        let shapes = [Shape::Udp, Shape::Syn, Shape::Ack];
        shapes.into_iter().flat_map(|shape| [Form::plain(shape), Form::v6(shape), Form::tagged(shape)])
    }

    #[test]
    fn frames_have_right_checksums() {
        for form in forms() {
            for flow in [0, 17, 65_535, (1 << 20) - 1] {
                let frame = Frame::of(HOP, form, flow);
                let [ip, transport] = sums(frame.as_ref(), form).map(checksum::finish);
                assert_eq!(transport, 0, "{form}");
                assert!(form.family == Family::V6 || ip == 0, "{form}");
            }
        }
    }

    #[test]
    fn frames_are_what_the_firewall_reads() {
        for form in forms() {
            let mut frame = Frame::of(HOP, form, 64 * 258 + 5);
            let packet = SliceFrame::new(frame.as_mut());
            let parsed = match form.family {
                Family::V4 => parse::ipv4(&packet, form.network(), 0),
                Family::V6 => parse::ipv6(&packet, form.network(), 0),
            };
            let parsed = parsed.unwrap_or_else(|exception| panic!("{form}: {:?}", exception.reason));
            assert_eq!(parsed.transport_offset, form.transport(), "{form}");
            assert_eq!(parsed.key.source[3].to_ne_bytes()[2..], [1, 2], "{form}");
            assert_eq!((parsed.key.source_port(), parsed.key.destination_port()), (FIRST_PORT + 5, TARGET_PORT));
        }
    }

    #[test]
    fn the_usual_frames_are_the_shortest_of_ethernet() {
        assert_eq!(Form::plain(Shape::Udp).shortest(), 60);
        assert!(forms().all(|form| form.shortest() <= ROOM));
        assert_eq!(TARGET_AT, 30);
    }
}
