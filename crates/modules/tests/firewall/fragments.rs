//! Datagrams in fragments: inspected as a whole, forwarded as they came.

use std::net::SocketAddr;

use flowhop_engine::Limits;
use flowhop_flow::{Kind, Reason};
use flowhop_routing::{Event, Link, NeighbourState};
use flowhop_wire::build::{L4, Spec};
use flowhop_wire::{checksum, icmp4, icmp6, protocol, tcp_flags, verify};
use proptest::prelude::*;

use crate::bed::{Bed, WAN_MAC, at, ends, framed, ip};
use crate::pieces::{piece, split};

const NAT: &str = r#"
[[rule]]
name = "browse"
from = "inside"
to = "outside"
action = "allow"
[[nat]]
name = "hide"
to = "outside"
translate.source = "interface"
[[nat]]
name = "hide six"
to = "outside"
family = "ipv6"
translate.source = "interface"
"#;
const PLAIN: &str = "[[rule]]\nname = \"all\"\naction = \"allow\"\n";

/// Client, server, the client as it is seen through [`NAT`].
fn ends_of(v6: bool) -> [&'static str; 3] {
    if v6 {
        ["fd00:0:0:1::2", "2001:db8:0:2::2", "2001:db8:0:2::1"]
    } else {
        ["10.1.0.2", "198.51.100.2", "198.51.100.1"]
    }
}

fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// What a receiver makes of fragments in any order, from the IP header on.
fn join(frames: &[Vec<u8>]) -> Vec<u8> {
    let v4 = frames[0][12..14] == [8, 0];
    let (start, field) = if v4 { (34, 20) } else { (62, 56) };
    let place = |frame: &[u8]| {
        let field = u16::from_be_bytes([frame[field], frame[field + 1]]);
        usize::from(if v4 { (field & 0x1fff) * 8 } else { field & 0xfff8 })
    };
    let mut all: Vec<_> = frames.iter().map(|frame| (place(frame), &frame[start..])).collect();
    all.sort_unstable();
    let mut data = Vec::new();
    for (place, bytes) in all {
        assert_eq!(place, data.len(), "neither hole nor overlap");
        data.extend_from_slice(bytes);
    }
    let mut whole = if v4 { frames[0][14..34].to_vec() } else { frames[0][14..54].to_vec() };
    if v4 {
        whole[2..4].copy_from_slice(&((20 + data.len()) as u16).to_be_bytes());
        whole[6..8].fill(0);
        whole[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(&whole));
        whole[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        whole[6] = frames[0][54];
        whole[4..6].copy_from_slice(&(data.len() as u16).to_be_bytes());
    }
    whole.extend(data);
    whole
}

impl Bed {
    fn kept(&self, port: u8) -> u64 {
        self.engine.counters().get(port, Reason::HeldFragment).0
    }

    /// Sends fragments in this order; all but the last are kept. Gives the last one's outcome.
    fn sends(&mut self, port: u8, frames: &[Vec<u8>]) -> (Kind, Reason) {
        self.outside.sent.clear();
        let (last, others) = frames.split_last().unwrap();
        for frame in others {
            let outcome = self.receive(port, frame.clone());
            assert_eq!((outcome.kind, outcome.reason), (Kind::Hold, Reason::HeldFragment));
            assert!(self.outside.sent.is_empty());
        }
        let outcome = self.receive(port, last.clone());
        assert_eq!(self.kept(port), 0);
        (outcome.kind, outcome.reason)
    }

    /// The same for fragments that are forwarded; what is sent, as a receiver puts it together.
    fn whole(&mut self, port: u8, frames: &[Vec<u8>]) -> Vec<u8> {
        let before = self.engine.counters().get(port, Reason::Forwarded).0;
        assert_eq!(self.sends(port, frames), (Kind::Forward, Reason::Forwarded));
        assert_eq!(self.engine.counters().get(port, Reason::Forwarded).0, before + frames.len() as u64);
        let sent: Vec<_> = self.outside.sent.drain(..).map(|(_, frame)| frame).collect();
        let lengths = |frames: &[Vec<u8>]| {
            let mut lengths: Vec<_> = frames.iter().map(Vec::len).collect();
            lengths.sort_unstable();
            lengths
        };
        assert_eq!(lengths(&sent), lengths(frames), "the fragments that came");
        let whole = join(&sent);
        assert!(verify::transport(&whole).is_acceptable());
        whole
    }
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // RFC 4787 REQ-14, RFC 5508: fragments in any order, both ways, translated and not, in both families.
    #[test]
    fn datagrams_pass_whole_in_any_order(
        v6: bool,
        translated: bool,
        echo: bool,
        length in 1usize..6000,
        size in (1usize..180).prop_map(|words| words * 8),
        seed: u64,
    ) {
        prop_assume!(length + 8 > size && (length + 8).div_ceil(size) <= 100);
        let mut bed = Bed::with(if translated { NAT } else { PLAIN });
        let [client, server, external] = ends_of(v6);
        let data = payload(length);
        let shuffled = |mut frames: Vec<Vec<u8>>| {
            let mut state = seed | 1;
            for at in (1..frames.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                frames.swap(at, (state >> 33) as usize % (at + 1));
            }
            frames
        };
        let request = if echo {
            Spec::echo_request(ip(client), ip(server), 77, 1, &data)
        } else {
            Spec::udp(socket(client, 4000), socket(server, 53), &data)
        };
        let whole = bed.whole(1, &shuffled(split(&framed(1, &request), 9, size)));
        let start = if v6 { 40 } else { 20 };
        prop_assert_eq!(&whole[start + 8..], &data[..]);
        let seen = if translated { external } else { client };
        let word = |at: usize| u16::from_be_bytes([whole[start + at], whole[start + at + 1]]);
        let answer = if echo {
            Spec::echo_reply(ip(server), ip(seen), word(4), 1, &data)
        } else {
            Spec::udp(socket(server, 53), socket(seen, word(0)), &data)
        };
        let whole = bed.whole(2, &shuffled(split(&framed(2, &answer), 9, size)));
        prop_assert_eq!(&whole[start + 8..], &data[..]);
        let mut frame = vec![0; 14];
        frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
        frame.extend(whole);
        if echo {
            prop_assert_eq!(&frame[14 + start + 4..14 + start + 6], &[0, 77]);
        } else {
            prop_assert_eq!(ends(&frame).1, socket(client, 4000));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    // Fragments with bytes changed anywhere, cut anywhere, in any order: no panic, every packet is accounted for, and in the
    // end nothing is kept.
    #[test]
    fn hostile_fragments_leave_nothing_behind(
        v6: bool,
        translated: bool,
        length in 0usize..400,
        pieces in prop::collection::vec((0usize..50, 0usize..50, 0u16..3), 1..40),
        changes in prop::collection::vec((0usize..40, 0usize..120, any::<u8>()), 0..30),
        cuts in prop::collection::vec((0usize..40, 1usize..60), 0..6),
    ) {
        let mut bed = Bed::with(if translated { NAT } else { PLAIN });
        let [client, server, _] = ends_of(v6);
        let data = payload(length);
        let frame = framed(1, &Spec::udp(socket(client, 1), socket(server, 2), &data));
        let end = length + 8;
        let mut frames: Vec<_> = pieces
            .iter()
            .map(|(from, words, id)| {
                let from = (from * 8).min((end - 1) & !7);
                piece(&frame, *id, from, (from + (words + 1) * 8).min(end))
            })
            .collect();
        for (number, place, value) in changes {
            let count = frames.len();
            let frame = &mut frames[number % count];
            let place = 14 + place % (frame.len() - 14);
            frame[place] = value;
        }
        for (number, bytes) in cuts {
            let count = frames.len();
            let frame = &mut frames[number % count];
            frame.truncate(frame.len().saturating_sub(bytes).max(14));
        }
        let count = frames.len() as u64;
        for frame in frames {
            bed.receive(1, frame);
        }
        bed.pass(61 * 954);
        prop_assert_eq!(bed.kept(1), 0);
        let counted: u64 = Reason::ALL.iter().map(|reason| bed.engine.counters().get(1, *reason).0).sum();
        prop_assert_eq!(counted, count);
        let bytes = Reason::ALL.iter().map(|reason| bed.engine.counters().get(1, *reason).1).max();
        prop_assert!(bytes < Some(1 << 20), "no count of bytes has run below zero");
    }
}

// RFC 5722, RFC 1858: nothing of a datagram that overlaps itself gets through, in either family.
#[test]
fn overlapping_fragments_are_dropped() {
    for v6 in [false, true] {
        let mut bed = Bed::with(PLAIN);
        let [client, server, _] = ends_of(v6);
        let frame = framed(1, &Spec::udp(socket(client, 1), socket(server, 2), &payload(100)));
        for (from, to) in [(8, 48), (40, 88), (0, 32), (0, 48)] {
            let mut evil = frame.clone();
            let last = evil.len() - 1;
            evil[last] ^= 1;
            let start = if v6 { 54 } else { 34 };
            evil[start + from + 7] ^= 1;
            let order = [piece(&frame, 3, 0, 40), piece(&frame, 3, 48, 88), piece(&evil, 3, from, to)];
            bed.receive(1, order[0].clone());
            bed.receive(1, order[1].clone());
            let before = bed.engine.counters().get(1, Reason::OverlappingFragment).0;
            assert_eq!(bed.receive(1, order[2].clone()).reason, Reason::OverlappingFragment, "{from} {to}");
            assert_eq!(bed.receive(1, piece(&frame, 3, 40, 48)).reason, Reason::OverlappingFragment);
            assert_eq!(bed.engine.counters().get(1, Reason::OverlappingFragment).0, before + 4);
            assert_eq!(bed.kept(1), 0);
            bed.pass(61 * 954);
        }
        assert!(bed.outside.sent.is_empty());
        // A repetition ends nothing, and is not sent twice.
        bed.receive(1, piece(&frame, 3, 0, 40));
        assert_eq!(bed.receive(1, piece(&frame, 3, 0, 40)).reason, Reason::RepeatedFragment);
        assert_eq!(bed.receive(1, piece(&frame, 3, 40, 200)).reason, Reason::Forwarded);
        assert_eq!(bed.outside.sent.len(), 2);
    }
}

// RFC 1858, RFC 3128, RFC 7112: the first fragment holds the whole transport header, no other reaches into it.
#[test]
fn tiny_fragments_are_dropped() {
    for v6 in [false, true] {
        let mut bed = Bed::with(PLAIN);
        let [client, server, _] = ends_of(v6);
        let options = [2, 4, 5, 180, 1, 1, 1, 0];
        let tcp = Spec::tcp(socket(client, 1), socket(server, 2), tcp_flags::SYN, &[1; 64]).with_tcp_options(&options);
        let tcp = framed(1, &tcp);
        for (from, to, reason) in [
            (0, 8, Reason::TinyFragment),
            (0, 16, Reason::TinyFragment),
            (0, 24, Reason::TinyFragment),
            (8, 24, Reason::TinyFragment),
            (16, 24, Reason::TinyFragment),
            (0, 32, Reason::HeldFragment),
        ] {
            assert_eq!(bed.receive(1, piece(&tcp, 1, from, to)).reason, reason, "{from} {to}");
        }
        assert_eq!(bed.receive(1, piece(&tcp, 1, 32, 200)).reason, Reason::Forwarded);
        // Data in front of the options' end is an overlap.
        assert_eq!(bed.receive(1, piece(&tcp, 2, 0, 32)).reason, Reason::HeldFragment);
        assert_eq!(bed.receive(1, piece(&tcp, 2, 24, 200)).reason, Reason::OverlappingFragment);
    }
    // The chain of extension headers goes on in the next fragment.
    let mut bed = Bed::with(PLAIN);
    let [client, server, _] = ends_of(true);
    let mut frame = framed(1, &Spec::udp(socket(client, 1), socket(server, 2), &[0; 64]));
    frame[20] = protocol::DESTINATION_OPTIONS;
    frame[54..62].copy_from_slice(&[protocol::UDP, 3, 1, 4, 0, 0, 0, 0]);
    assert_eq!(bed.receive(1, piece(&frame, 1, 0, 24)).reason, Reason::TinyFragment);
}

// RFC 8200 section 4.5: lengths that cannot be are answered.
#[test]
fn ipv6_fragments_of_impossible_length_are_answered() {
    let mut bed = Bed::with(PLAIN);
    let [client, server, _] = ends_of(true);
    let frame = framed(1, &Spec::udp(socket(client, 1), socket(server, 2), &[0; 64]));
    let mut odd = piece(&frame, 1, 0, 40);
    odd.pop();
    odd[18..20].copy_from_slice(&47u16.to_be_bytes());
    let mut far = piece(&frame, 1, 40, 72);
    far[56..58].copy_from_slice(&0xfff8u16.to_be_bytes());
    for (frame, pointer) in [(odd, 4u32), (far, 42)] {
        assert_eq!(bed.receive(1, frame).reason, Reason::BadFragment);
        let (port, answer) = bed.last();
        assert_eq!((port, answer[54], answer[55]), (1, icmp6::PARAMETER_PROBLEM, icmp6::ERRONEOUS_FIELD));
        assert_eq!(answer[58..62], pointer.to_be_bytes());
    }
}

// RFC 6946: a packet that is whole in spite of its fragment header has nothing to do with others of its identification.
#[test]
fn atomic_fragments_stand_for_themselves() {
    let mut bed = Bed::with(NAT);
    let [client, server, external] = ends_of(true);
    let frame = framed(1, &Spec::udp(socket(client, 1), socket(server, 2), &payload(100)));
    assert_eq!(bed.receive(1, piece(&frame, 5, 0, 40)).reason, Reason::HeldFragment);
    let outcome = bed.receive(1, piece(&frame, 5, 0, 500));
    assert_eq!((outcome.kind, outcome.reason), (Kind::Forward, Reason::Forwarded));
    let (_, sent) = bed.last();
    assert_eq!(sent.len(), frame.len() + 8);
    assert_eq!(sent[22..38], external.parse::<std::net::Ipv6Addr>().unwrap().octets());
    assert!(verify::transport(&sent[14..]).is_acceptable());
    assert_eq!(bed.receive(1, piece(&frame, 5, 40, 500)).reason, Reason::Forwarded);
    assert_eq!(bed.outside.sent.len(), 2);
}

// RFC 792, RFC 8200 section 4.5: in time, or dropped; told if the first fragment came.
#[test]
fn what_is_not_complete_in_time_is_dropped() {
    for (v6, seconds) in [(false, 30), (true, 60)] {
        let mut bed = Bed::with(PLAIN);
        let [client, server, _] = ends_of(v6);
        let frame = framed(1, &Spec::udp(socket(client, 1), socket(server, 2), &payload(100)));
        for (number, from, answered) in [(1, 0, true), (2, 40, false)] {
            bed.receive(1, piece(&frame, number, from, from + 40));
            bed.pass((seconds - 2) * 954);
            assert_eq!(bed.kept(1), 1);
            bed.pass(4 * 954);
            assert_eq!(bed.kept(1), 0);
            assert_eq!(bed.engine.counters().get(1, Reason::FragmentTimeout).0, u64::from(number));
            assert_eq!(bed.outside.sent.len(), usize::from(answered));
            if answered {
                let (_, error) = bed.last();
                let (at, kind) = if v6 { (54, icmp6::TIME_EXCEEDED) } else { (34, icmp4::TIME_EXCEEDED) };
                assert_eq!((error[at], error[at + 1]), (kind, 1));
                assert!(verify::transport(&error[14..]).is_acceptable());
            }
        }
        // What comes later begins anew.
        assert_eq!(bed.receive(1, piece(&frame, 1, 0, 40)).reason, Reason::HeldFragment);
    }
}

// RFC 9293: of a segment in fragments the window check knows the end, so that its acknowledgment is in the window.
#[test]
fn a_segment_in_fragments_is_acknowledged_to_its_end() {
    for v6 in [false, true] {
        let mut bed = Bed::with(NAT);
        let [client, server, external] = ends_of(v6);
        let (client, server) = (socket(client, 40_000), socket(server, 80));
        let syn = Spec::tcp(client, server, tcp_flags::SYN, &[]).with_sequence(1000, 0).with_window(60_000);
        assert_eq!(bed.send(1, &syn).kind, Kind::Forward);
        let outside = ends(&bed.last().1).0;
        assert_eq!(outside.ip(), ip(external));
        let flags = tcp_flags::SYN | tcp_flags::ACK;
        let answer = Spec::tcp(server, outside, flags, &[]).with_sequence(5000, 1001).with_window(60_000);
        assert_eq!(bed.send(2, &answer).kind, Kind::Forward);
        let data = payload(5000);
        let segment = Spec::tcp(client, server, tcp_flags::ACK, &data).with_sequence(1001, 5001).with_window(60_000);
        let mut frames = split(&framed(1, &segment), 4, 1448);
        frames.reverse();
        let whole = bed.whole(1, &frames);
        assert_eq!(whole[whole.len() - 5000..], data);
        let beyond = Spec::tcp(server, outside, tcp_flags::ACK, &[]).with_sequence(5001, 6002).with_window(60_000);
        assert_eq!(bed.send(2, &beyond).reason, Reason::TcpWindow);
        let last = Spec::tcp(server, outside, tcp_flags::ACK, &[]).with_sequence(5001, 6001).with_window(60_000);
        assert_eq!(bed.send(2, &last).reason, Reason::Forwarded, "the acknowledgment of the whole");
        // Out of the window as a whole: none of it passes.
        let far = Spec::tcp(client, server, tcp_flags::ACK, &data).with_sequence(90_000_000, 5001);
        assert_eq!(bed.sends(1, &split(&framed(1, &far), 5, 1448)), (Kind::Drop, Reason::TcpWindow));
        assert_eq!(bed.engine.counters().get(1, Reason::TcpWindow).0, 4);
        assert!(bed.outside.sent.is_empty());
    }
}

// What is wrong with the whole is wrong with each of its fragments.
#[test]
fn the_whole_is_inspected() {
    for v6 in [false, true] {
        let mut bed = Bed::with(PLAIN);
        let [client, server, _] = ends_of(v6);
        let start = if v6 { 54 } else { 34 };
        let frame = framed(1, &Spec::udp(socket(client, 1), socket(server, 2), &payload(100)));
        let mut damaged = frame.clone();
        damaged[start + 90] ^= 1;
        assert_eq!(bed.sends(1, &split(&damaged, 1, 40)), (Kind::Drop, Reason::BadChecksum));
        assert_eq!(bed.engine.counters().get(1, Reason::BadChecksum).0, 3);
        let mut long = frame.clone();
        long[start + 5] = 200;
        assert_eq!(bed.sends(1, &split(&long, 1, 40)), (Kind::Drop, Reason::TransportLength));
        // A datagram that no rule allows.
        let refused = framed(2, &Spec::udp(socket(server, 1), socket(client, 2), &payload(100)));
        let mut closed = Bed::with(NAT);
        assert_eq!(closed.sends(2, &split(&refused, 1, 40)), (Kind::Drop, Reason::NoRule));
        assert_eq!(closed.engine.counters().get(2, Reason::NoRule).0, 3);
        // One to the box itself is left to its stack, fragment by fragment.
        let own = if v6 { "fd00:0:0:1::1" } else { "10.1.0.1" };
        let local = framed(1, &Spec::udp(socket(client, 1), socket(own, 2), &payload(100)));
        assert_eq!(bed.sends(1, &split(&local, 1, 40)), (Kind::Stack, Reason::Local));
        assert_eq!(bed.engine.counters().get(1, Reason::Local).0, 3);
    }
    // RFC 6980: neighbour discovery is never in fragments.
    let mut bed = Bed::with(PLAIN);
    let l4 = L4::Icmp { kind: icmp6::NEIGHBOR_SOLICITATION, code: 0, rest: [0; 4] };
    let spec = Spec::new(ip("fd00:0:0:1::2"), ip("fd00:0:0:1::1"), l4, &[0; 60]).with_ttl(255);
    assert_eq!(bed.sends(1, &split(&framed(1, &spec), 1, 40)), (Kind::Drop, Reason::BadFragment));
    // RFC 791, RFC 8200: no packet is longer than 65535 bytes, headers included ("ping of death").
    let frame = framed(1, &Spec::udp(socket("10.1.0.2", 1), socket("198.51.100.2", 2), &[0; 65_507]));
    let mut frames = split(&frame, 1, 1480);
    let last = frames.last_mut().unwrap();
    last.extend_from_slice(&[0; 8]);
    let length = u16::from_be_bytes([last[16], last[17]]) + 8;
    last[16..18].copy_from_slice(&length.to_be_bytes());
    last[24..26].fill(0);
    let sum = checksum::finish(checksum::sum(&last[14..34]));
    last[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(bed.sends(1, &frames), (Kind::Drop, Reason::BadFragment));
}

// RFC 791 section 3.2, RFC 4787 REQ-13: fragments are cut again where they do not fit and may be; IPv6 is told.
#[test]
fn fragments_are_cut_again_where_they_must() {
    let data = payload(3000);
    for v6 in [false, true] {
        let mut bed = Bed::with(NAT);
        bed.event(Event::LinkUpsert(Link { mtu: 1300, ..Link::ethernet(12, "wan0", WAN_MAC) }));
        let [client, server, _] = ends_of(v6);
        let frame = framed(1, &Spec::udp(socket(client, 1), socket(server, 2), &data));
        let frames = split(&frame, 1, 1448);
        if v6 {
            assert_eq!(bed.sends(1, &frames), (Kind::Drop, Reason::TooBig));
            let (port, error) = bed.last();
            assert_eq!((port, error[54]), (1, icmp6::PACKET_TOO_BIG));
            assert_eq!(error[58..62], 1300u32.to_be_bytes());
            assert!(bed.outside.sent.is_empty());
            continue;
        }
        let (kind, reason) = bed.sends(1, &frames);
        assert_eq!((kind, reason), (Kind::Forward, Reason::Forwarded), "the last fits");
        assert_eq!(bed.engine.counters().get(1, Reason::Fragmented).0, 2);
        let sent: Vec<_> = bed.outside.sent.drain(..).map(|(_, frame)| frame).collect();
        assert_eq!(sent.len(), 5);
        assert!(sent.iter().all(|frame| frame.len() <= 14 + 1300));
        let whole = join(&sent);
        assert!(verify::transport(&whole).is_acceptable());
        assert_eq!(whole[28..], data);
    }
}

// RFC 5508 REQ-4: an ICMP error in fragments is translated with the packet that it quotes, wherever that is cut.
#[test]
fn icmp_errors_in_fragments_are_translated() {
    for (translated, size) in [(true, 8), (true, 24), (true, 32), (true, 304), (false, 32)] {
        let mut bed = Bed::with(if translated { NAT } else { PLAIN });
        let [client, server, external] = ends_of(false);
        let data = payload(500);
        let request = Spec::udp(socket(client, 4000), socket(server, 53), &data);
        assert_eq!(bed.send(1, &request).kind, Kind::Forward);
        let quoted = bed.last().1.split_off(14);
        let seen = if translated { external } else { client };
        let l4 = L4::Icmp { kind: icmp4::UNREACHABLE, code: 1, rest: [0; 4] };
        let error = framed(2, &Spec::new(ip("198.51.100.3"), ip(seen), l4, &quoted));
        let mut frames = split(&error, 6, size);
        frames.reverse();
        assert_eq!(bed.sends(2, &frames), (Kind::Forward, Reason::Forwarded), "{translated} {size}");
        let sent: Vec<_> = bed.outside.sent.drain(..).map(|(_, frame)| frame).collect();
        assert_eq!(sent.len(), frames.len(), "in fragments of the length that it came in");
        let whole = join(&sent);
        assert!(verify::transport(&whole).is_acceptable());
        assert_eq!(whole[16..20], [10, 1, 0, 2]);
        let original = request.without_link().to_vec().unwrap();
        assert_eq!(whole[28 + 12..28 + 28], original[12..28], "the quote is what was sent");
        assert_eq!(whole[28 + 28..], data);
        // A wrong checksum (RFC 5508 REQ-3), and one to the box.
        let mut damaged = error.clone();
        damaged[60] ^= 1;
        assert_eq!(bed.sends(2, &split(&damaged, 7, size)), (Kind::Drop, Reason::BadChecksum));
        let l4 = L4::Icmp { kind: icmp4::UNREACHABLE, code: 1, rest: [0; 4] };
        let own = framed(1, &Spec::new(ip(client), ip("10.1.0.1"), l4, &quoted));
        assert_eq!(bed.sends(1, &split(&own, 8, size)), (Kind::Stack, Reason::Local));
    }
}

// A neighbour that is not known yet: fragments wait for it as other packets do, and everything is accounted for.
#[test]
fn fragments_wait_for_their_neighbour() {
    let mut bed = Bed::with(NAT);
    let gone = |bed: &mut Bed, ifindex, address| {
        bed.event(Event::NeighbourChanged { ifindex, address: ip(address), state: NeighbourState::Gone });
    };
    gone(&mut bed, 12, "198.51.100.2");
    let data = payload(3000);
    let request = Spec::udp(at("10.1.0.2:4000"), at("198.51.100.2:53"), &data);
    let frames = split(&framed(1, &request), 1, 1448);
    assert_eq!(bed.sends(1, &frames), (Kind::Hold, Reason::HeldNeighbour));
    assert_eq!(bed.engine.counters().get(1, Reason::HeldNeighbour).0, 3);
    bed.neighbours();
    let whole = join(&bed.outside.sent.drain(..).map(|(_, frame)| frame).collect::<Vec<_>>());
    assert_eq!(whole[28..], data);
    let counted = |bed: &Bed, port| {
        let of = |reason| bed.engine.counters().get(port, reason);
        [of(Reason::HeldNeighbour), of(Reason::HeldFragment)]
    };
    assert_eq!(counted(&bed, 1), [(0, 0); 2]);
    assert_eq!(bed.engine.counters().get(1, Reason::Forwarded).0, 3);

    gone(&mut bed, 11, "10.1.0.2");
    let l4 = L4::Icmp { kind: icmp4::UNREACHABLE, code: 1, rest: [0; 4] };
    let error = framed(2, &Spec::new(ip("198.51.100.3"), ip("198.51.100.1"), l4, &whole[..500]));
    assert_eq!(bed.sends(2, &split(&error, 1, 256)), (Kind::Consume, Reason::Reassembled));
    bed.neighbours();
    assert_eq!(counted(&bed, 2), [(0, 0); 2]);
    assert_eq!(bed.outside.sent.len(), 1);
}

// Memory is bounded, and one source cannot take it from another.
#[test]
fn one_source_does_not_keep_others_from_being_served() {
    let mut bed = Bed::with(PLAIN);
    let other = framed(1, &Spec::udp(at("10.1.0.3:1"), at("198.51.100.2:2"), &payload(100)));
    bed.receive(1, piece(&other, 1, 0, 40));
    let flood = framed(1, &Spec::udp(at("10.1.0.2:1"), at("198.51.100.2:2"), &payload(1400)));
    let limit = Limits::default().datagrams / 8;
    for identification in 0..2 * limit as u16 {
        assert_eq!(bed.receive(1, piece(&flood, identification, 0, 1000)).reason, Reason::HeldFragment);
    }
    assert_eq!(bed.kept(1), 1 + limit as u64);
    assert_eq!(bed.engine.counters().get(1, Reason::FragmentLimit).0, limit as u64);
    assert_eq!(bed.receive(1, piece(&other, 1, 40, 200)).reason, Reason::Forwarded);
}
