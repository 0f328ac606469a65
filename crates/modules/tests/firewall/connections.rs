//! Connections through the slow path: opened, refused, translated, ended.

use std::net::SocketAddr;

use flowhop_engine::{Arrived, Buffer, Offload};
use flowhop_flow::{Kind, Reason};
use flowhop_routing::{Event, InterfaceAddress, Link, NeighbourState};
use flowhop_wire::build::{L4, Spec};
use flowhop_wire::{tcp_flags, verify};

use crate::bed::{Bed, INSIDE_MAC, LAN_MAC, OUTSIDE_MAC, WAN_MAC, at, ends, header, ip, is_sound, tcp};

// F10, C2: the first packet is forwarded by the entry that it caused; replies come back translated.
#[test]
fn a_masqueraded_tcp_connection_lives_and_dies() {
    let mut bed = Bed::new(true);
    let (client, server) = (at("10.1.0.2:40000"), at("198.51.100.2:80"));
    let syn = bed.send(1, &Spec::tcp(client, server, tcp_flags::SYN, &[]).with_sequence(1000, 0));
    assert_eq!((syn.kind, syn.out), (Kind::Forward, Some(2)));
    let (port, frame) = bed.last();
    assert_eq!(port, 2);
    assert_eq!(frame[..12], [OUTSIDE_MAC, WAN_MAC].concat());
    assert_eq!(header(&frame).source, [198, 51, 100, 1]);
    assert_eq!(header(&frame).ttl, 63);
    assert!(is_sound(&frame));
    let outside = SocketAddr::new(ip("198.51.100.1"), tcp(&frame).source_port.get());

    let flags = tcp_flags::SYN | tcp_flags::ACK;
    let answer = bed.send(2, &Spec::tcp(server, outside, flags, &[]).with_sequence(5000, 1001));
    assert_eq!((answer.kind, answer.out, answer.session), (Kind::Forward, Some(1), syn.session));
    let (_, frame) = bed.last();
    assert_eq!((header(&frame).destination, tcp(&frame).destination_port.get()), ([10, 1, 0, 2], 40000));
    assert!(is_sound(&frame));

    let ack = bed.send(1, &Spec::tcp(client, server, tcp_flags::ACK, b"GET /").with_sequence(1001, 5001));
    assert_eq!(ack.kind, Kind::Forward);
    // RFC 5961: a reset out of the window does not get through, one in it but inexact ends nothing.
    let far = bed.send(2, &Spec::tcp(server, outside, tcp_flags::RST, &[]).with_sequence(5001 + 10_000_000, 0));
    assert_eq!((far.kind, far.reason), (Kind::Drop, Reason::TcpWindow));
    let stray = bed.send(2, &Spec::tcp(server, outside, tcp_flags::ACK, b"x").with_sequence(5001 + 10_000_000, 1001));
    assert_eq!((stray.kind, stray.reason), (Kind::Drop, Reason::TcpWindow));
    let data = bed.send(2, &Spec::tcp(server, outside, tcp_flags::ACK, b"200").with_sequence(5001, 1006));
    assert_eq!(data.kind, Kind::Forward);

    // RFC 7857: an exact reset is forwarded and the state kept for the transitory time.
    let exact = bed.send(1, &Spec::tcp(client, server, tcp_flags::RST, &[]).with_sequence(1006, 0));
    assert_eq!(exact.kind, Kind::Forward);
    assert_eq!(bed.engine.table().live(), 1);
    bed.pass(250 * 954);
    assert_eq!(bed.engine.table().live(), 0);
}

// Fail closed: what no rule allows does not pass, and a spoofed inside address gets nowhere.
#[test]
fn what_no_rule_allows_does_not_pass() {
    let mut bed = Bed::new(true);
    let outcome = bed.send(2, &Spec::udp(at("198.51.100.2:53"), at("10.1.0.2:53"), b"x"));
    assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, Reason::NoRule));
    bed.send(1, &Spec::udp(at("10.1.0.2:1234"), at("198.51.100.2:53"), b"x"));
    let spoofed = bed.send(2, &Spec::udp(at("10.1.0.2:1234"), at("198.51.100.2:53"), b"x"));
    assert_eq!((spoofed.kind, spoofed.reason), (Kind::Drop, Reason::WrongInterface));
    let rejected =
        bed.send(2, &Spec::tcp(at("198.51.100.2:999"), at("10.1.0.2:23"), tcp_flags::SYN, &[]).with_sequence(7, 0));
    assert_eq!((rejected.kind, rejected.reason), (Kind::Drop, Reason::RuleReject));
    let (port, frame) = bed.last();
    assert_eq!(port, 2);
    assert_eq!(tcp(&frame).flags, tcp_flags::RST | tcp_flags::ACK);
    assert_eq!(tcp(&frame).acknowledgment.get(), 8);
    assert!(is_sound(&frame));
    // To the box itself: the kernel's.
    let own = bed.send(2, &Spec::tcp(at("198.51.100.2:999"), at("198.51.100.1:22"), tcp_flags::SYN, &[]));
    assert_eq!((own.kind, own.reason), (Kind::Stack, Reason::Local));
}

// RFC 4787 REQ-1: one inside endpoint, one external endpoint, for all destinations; REQ-3: for no other.
#[test]
fn mapping_is_endpoint_independent_and_ports_are_not_shared() {
    let mut bed = Bed::new(true);
    let mut external = |source: &str, destination: &str| {
        let outcome = bed.send(1, &Spec::udp(at(source), at(destination), b"x"));
        assert_eq!(outcome.kind, Kind::Forward);
        let (_, frame) = bed.last();
        u16::from_be_bytes([frame[34], frame[35]])
    };
    let first = external("10.1.0.2:1000", "198.51.100.2:53");
    assert_eq!(external("10.1.0.2:1000", "198.51.100.2:54"), first);
    assert_ne!(external("10.1.0.2:1001", "198.51.100.2:53"), first);
}

#[test]
fn packets_wait_for_their_neighbour_in_order() {
    let mut bed = Bed::new(false);
    for number in 0..3u8 {
        let outcome = bed.send(1, &Spec::udp(at("10.1.0.2:1000"), at("198.51.100.2:53"), &[number]));
        assert_eq!((outcome.kind, outcome.reason), (Kind::Hold, Reason::HeldNeighbour));
    }
    assert!(bed.outside.resolved.contains(&ip("198.51.100.2")));
    assert!(bed.outside.sent.is_empty());
    bed.neighbours();
    let numbers: Vec<u8> = bed.outside.sent.iter().map(|(_, frame)| frame[42]).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(bed.engine.counters().get(1, Reason::Forwarded).0, 3);
    assert_eq!(bed.engine.counters().get(1, Reason::HeldNeighbour).0, 0);
}

// RFC 4861 section 7.2.2: the kernel solicits in its own name from a link-local address. Before there is one, as for a
// moment after a link has come up, it would stay silent for a second.
#[test]
fn an_ipv6_neighbour_is_asked_for_when_there_is_an_address_to_ask_from() {
    let mut bed = Bed::new(false);
    let neighbour = ip("2001:db8:0:2::2");
    let mut local = InterfaceAddress::global(12, ip("fe80::12"), 64);
    local.tentative = true;
    for number in 0..3u8 {
        let outcome = bed.send(1, &Spec::udp(at("[fd00:0:0:1::2]:1000"), at("[2001:db8:0:2::2]:53"), &[number]));
        assert_eq!((outcome.kind, outcome.reason), (Kind::Hold, Reason::HeldNeighbour));
    }
    bed.event(Event::AddressAdded(local));
    assert!(!bed.outside.resolved.contains(&neighbour));
    local.tentative = false;
    bed.event(Event::AddressAdded(local));
    bed.add_address(12, "2001:db8:0:2::9", 64);
    assert_eq!(bed.outside.resolved.iter().filter(|asked| **asked == neighbour).count(), 1);
    bed.neighbours();
    assert_eq!(bed.outside.sent.len(), 3);
}

// RFC 1812 section 5.3.1 and RFC 4443 section 3.3: TTL and hop limit are answered.
#[test]
fn expired_ttl_is_answered() {
    let mut bed = Bed::new(true);
    for (source, destination, kind) in
        [("10.1.0.2:1000", "198.51.100.2:53", 11), ("[fd00:0:0:1::2]:1000", "[2001:db8:0:2::2]:53", 3)]
    {
        let outcome = bed.send(1, &Spec::udp(at(source), at(destination), b"x").with_ttl(1));
        assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, Reason::TtlExceeded));
        let (port, frame) = bed.last();
        let offset = if frame[12..14] == [8, 0] { 34 } else { 54 };
        assert_eq!((port, frame[offset]), (1, kind));
        assert!(verify::transport(&frame[14..]).is_acceptable());
    }
}

// RFC 4787 REQ-14, RFC 791: fragments follow their first one, in any order.
#[test]
fn fragments_follow_their_first_one() {
    let mut bed = Bed::new(true);
    let payload: Vec<u8> = (0..64).collect();
    let whole = Spec::udp(at("10.1.0.2:1000"), at("198.51.100.2:53"), &payload)
        .with_link(INSIDE_MAC, LAN_MAC)
        .to_vec()
        .unwrap();
    let piece = |from: usize, to: usize, more: bool| {
        let mut frame = whole[..34].to_vec();
        frame.extend_from_slice(&whole[34 + from..34 + to]);
        frame[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
        let field = (from / 8) as u16 | if more { 0x2000 } else { 0 };
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        frame[24..26].fill(0);
        let sum = flowhop_wire::checksum::finish(flowhop_wire::checksum::sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let arrived = Arrived { port: 1, gate: 0, driver: false, now: bed.now };
    let mut outcomes = Vec::new();
    for mut frame in [piece(40, 72, false), piece(0, 40, true)] {
        let mut packet = Buffer::new(&mut frame, Offload::default());
        outcomes.push(bed.engine.receive(&arrived, &mut packet, &mut bed.outside).kind);
    }
    assert_eq!(outcomes, [Kind::Hold, Kind::Forward]);
    let mut data = vec![0; 72];
    for (_, frame) in &bed.outside.sent {
        assert_eq!(header(frame).source, [198, 51, 100, 1]);
        let offset = header(frame).fragment_offset();
        let length = usize::from(header(frame).total_length.get()) - 20;
        data[offset..offset + length].copy_from_slice(&frame[34..34 + length]);
    }
    assert_eq!(data[8..], payload);
    // The checksum over the whole datagram holds after translation.
    let mut rebuilt = bed.outside.sent[0].1[14..34].to_vec();
    rebuilt[2..4].copy_from_slice(&92u16.to_be_bytes());
    rebuilt[6..8].fill(0);
    rebuilt.extend_from_slice(&data);
    assert!(verify::transport(&rebuilt).is_acceptable());
}

// RFC 1191, RFC 4787 REQ-13: too big with DF is answered, without DF it is cut.
#[test]
fn what_is_too_big_is_answered_or_cut() {
    let mut bed = Bed::new(true);
    bed.event(Event::LinkUpsert(Link { mtu: 600, ..Link::ethernet(12, "wan0", WAN_MAC) }));
    let payload = vec![7; 1000];
    let mut spec = Spec::udp(at("10.1.0.2:1000"), at("198.51.100.2:53"), &payload);
    let flowhop_wire::build::Ip::V4(v4) = &mut spec.ip else { panic!() };
    v4.df = true;
    let outcome = bed.send(1, &spec);
    assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, Reason::TooBig));
    let (port, frame) = bed.last();
    assert_eq!((port, frame[34], frame[35]), (1, 3, 4));
    assert_eq!(u16::from_be_bytes([frame[40], frame[41]]), 600);
    assert!(frame.len() <= 14 + 576);
    let flowhop_wire::build::Ip::V4(v4) = &mut spec.ip else { panic!() };
    v4.df = false;
    let outcome = bed.send(1, &spec);
    assert_eq!((outcome.kind, outcome.reason), (Kind::Consume, Reason::Fragmented));
    assert_eq!(bed.outside.sent.len(), 2);
    assert!(
        bed.outside
            .sent
            .iter()
            .all(|(_, frame)| frame.len() <= 614 && verify::ipv4_header(&frame[14..]).is_acceptable())
    );
}

// A neighbour that never answers: its packets are dropped after a while, with their reason, and the sender is told.
#[test]
fn a_neighbour_that_never_answers_costs_its_packets_and_is_reported() {
    let mut bed = Bed::new(false);
    bed.event(Event::NeighbourChanged {
        ifindex: 11,
        address: ip("10.1.0.2"),
        state: NeighbourState::Resolved(INSIDE_MAC),
    });
    let outcome = bed.send(1, &Spec::udp(at("10.1.0.2:1000"), at("198.51.100.2:53"), b"x"));
    assert_eq!(outcome.reason, Reason::HeldNeighbour);
    bed.pass(5000);
    assert_eq!(bed.engine.held(), 0);
    assert_eq!(bed.engine.counters().get(1, Reason::NeighbourUnresolved).0, 1);
    assert_eq!(bed.engine.counters().get(1, Reason::HeldNeighbour).0, 0);
    let (port, frame) = bed.last();
    assert_eq!((port, frame[34], frame[35]), (1, 3, 1));
}

// F5: a table full of connections that are answered drops new ones, with its reason, and keeps the others.
#[test]
fn a_full_table_refuses_and_recovers() {
    let mut bed = Bed::new(true);
    let mut opened = 0;
    let mut refused = 0;
    for port in 1000..2100u16 {
        let source = SocketAddr::new(ip("10.1.0.2"), port);
        match bed.send(1, &Spec::udp(source, at("198.51.100.2:53"), b"x")).reason {
            Reason::Forwarded => {
                opened += 1;
                let (source, destination) = ends(&bed.last().1);
                assert_eq!(bed.send(2, &Spec::udp(destination, source, b"y")).kind, Kind::Forward);
            }
            Reason::TableFull => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((opened, refused), (1024, 1100 - 1024));
    bed.pass(12_000);
    for port in [1000, 1500, 2023] {
        let source = SocketAddr::new(ip("10.1.0.2"), port);
        assert_eq!(bed.send(1, &Spec::udp(source, at("198.51.100.2:53"), b"x")).kind, Kind::Forward, "{port}");
    }
    assert_eq!(bed.send(1, &Spec::udp(at("10.1.0.2:5000"), at("198.51.100.2:53"), b"x")).reason, Reason::TableFull);
    bed.pass(301 * 954);
    assert_eq!(bed.send(1, &Spec::udp(at("10.1.0.2:5000"), at("198.51.100.2:53"), b"x")).kind, Kind::Forward);
}

// B17: deleting the entry ends the flow.
#[test]
fn deleting_a_flow_ends_it() {
    let mut bed = Bed::new(true);
    let outcome = bed.send(1, &Spec::echo_request(ip("10.1.0.2"), ip("198.51.100.2"), 77, 1, b"x"));
    assert_eq!(outcome.kind, Kind::Forward);
    let (_, serial) = outcome.session.unwrap();
    let (_, frame) = bed.last();
    let identifier = u16::from_be_bytes([frame[38], frame[39]]);
    let reply = Spec::echo_reply(ip("198.51.100.2"), ip("198.51.100.1"), identifier, 1, b"x");
    assert_eq!(bed.send(2, &reply).kind, Kind::Forward);
    assert!(bed.engine.delete(serial));
    assert!(!bed.engine.delete(serial));
    let late = bed.send(2, &reply);
    assert_ne!(late.kind, Kind::Forward);
}

// A1: another protocol is forwarded by its addresses.
#[test]
fn other_protocols_go_by_their_addresses() {
    let mut bed = Bed::new(true);
    let spec = Spec::new(ip("10.1.0.2"), ip("198.51.100.2"), L4::Raw { protocol: 47 }, &[0; 20]);
    assert_eq!(bed.send(1, &spec).kind, Kind::Forward);
    let back = Spec::new(ip("198.51.100.2"), ip("198.51.100.1"), L4::Raw { protocol: 47 }, &[0; 20]);
    assert_eq!(bed.send(2, &back).kind, Kind::Forward);
    assert_eq!(header(&bed.last().1).destination, [10, 1, 0, 2]);
}
