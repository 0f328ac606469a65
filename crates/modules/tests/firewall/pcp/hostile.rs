//! Hosts that mean harm (RFC 6887 section 18).

use flowhop_flow::{Kind, Reason};
use flowhop_wire::build::Spec;
use flowhop_wire::pcp::{MAX_LEN, ResultCode};
use flowhop_wire::protocol::{TCP, UDP};

use super::{Ask, HOST, REMOTE, SECOND, mapped, policy};
use crate::bed::{Bed, LAN, WAN, at, ip};
use crate::mapping::udp;
use crate::translation::syn;

// Section 18.3.2: what is made up is not answered, whoever is named in it.
#[test]
fn sources_that_are_made_up_are_dropped() {
    let mut bed = Bed::with(&policy(""));
    for (from, reason) in [
        ("10.2.0.1", Reason::SpoofedSource),
        ("198.51.100.2", Reason::SpoofedConnected),
        ("203.0.113.9", Reason::WrongInterface),
        ("10.1.0.255", Reason::MartianSource),
    ] {
        let message = Ask::new(TCP, 80).of(from).bytes();
        let from = format!("{from}:4000");
        bed.refused(LAN, &Spec::udp(at(&from), at("10.1.0.1:5351"), &message), Kind::Drop, reason);
        assert!(bed.outside.sent.is_empty());
    }
    let message = Ask::new(TCP, 80).bytes();
    let portless = Spec::udp(at("10.1.0.2:0"), at("10.1.0.1:5351"), &message);
    bed.refused(LAN, &portless, Kind::Drop, Reason::PcpInvalid);
}

// Section 13.1: nobody maps another host, whatever is said in the header or the options.
#[test]
fn nobody_is_mapped_by_another_host() {
    let mut bed = Bed::with(&policy(""));
    let mut message = Ask::new(TCP, 22).of("10.1.0.3").bytes();
    assert_eq!(bed.tell(HOST, &message).unwrap()[3], ResultCode::AddressMismatch as u8);
    message[8..24].copy_from_slice(&mapped(ip(HOST)));
    message.extend([1, 0, 0, 16]);
    message.extend(mapped(ip("10.1.0.3")));
    assert_eq!(bed.tell(HOST, &message).unwrap()[3], ResultCode::UnsupportedOption as u8);
    assert!(bed.bindings.is_empty());
}

// A flood is answered up to its limit; others are answered beside it.
#[test]
fn a_flood_of_requests_is_bounded() {
    let mut bed = Bed::with(&policy(""));
    let mut answered = 0;
    for port in 1..1000 {
        match bed.tell(HOST, &Ask::new(UDP, port).bytes()) {
            Ok(_) => answered += 1,
            Err(reason) => assert_eq!(reason, Reason::PcpLimit),
        }
    }
    assert_eq!(answered, 50);
    assert_eq!(bed.bindings.len(), 50, "fewer than its quota");
    assert_eq!(bed.ask(&Ask::new(TCP, 80).of("10.1.0.3")).result, 0);
    bed.pass(2 * SECOND);
    assert_eq!(bed.ask(&Ask::new(TCP, 80)).result, 0);
}

// Mappings in all are a share of the table: 1024 / 16 here.
#[test]
fn there_is_room_for_so_many_mappings() {
    let mut bed = Bed::with(&policy("limit = 1000\n"));
    let mut granted = 0;
    for port in 1..=100 {
        let got = bed.ask(&Ask::new(UDP, port));
        granted += u32::from(got.result == 0);
        assert!(got.result == 0 || got.result == ResultCode::NoResources as u8, "{got:?}");
        bed.pass(30);
    }
    assert_eq!(granted, 64);
    assert_eq!(bed.granted(&Ask::new(UDP, 1)), bed.granted(&Ask::new(UDP, 1)), "what there is goes on");
    bed.pass(3700 * SECOND);
    assert!(bed.bindings.is_empty());
    bed.granted(&Ask::new(UDP, 1));
}

// Whoever asks in many names leaves ports for what others send: a quarter is there to be asked for.
#[test]
fn ports_are_left_for_what_is_sent() {
    let text =
        policy("limit = 1000\n").replace("translate.source", "translate.ports = \"2000-2063\"\ntranslate.source");
    let mut bed = Bed::with(&text);
    let mut granted = 0;
    for port in 1..=40 {
        let got = bed.ask(&Ask::new(UDP, port).of(["10.1.0.2", "10.1.0.3"][usize::from(port) % 2]));
        granted += u32::from(got.result == 0);
        assert!(got.result == 0 || got.result == ResultCode::NoResources as u8, "{got:?}");
        bed.pass(30);
    }
    assert_eq!(granted, 15);
    bed.granted(&Ask::new(TCP, 1));
    for port in 100..130 {
        bed.seen(&format!("10.1.0.80:{port}"), "198.51.100.2:53");
    }
    // One more is had when one is given back, and what there is can be renewed.
    bed.granted(&Ask::new(UDP, 2));
    bed.ask(&Ask::new(UDP, 2).lasting(0));
    bed.granted(&Ask::new(UDP, 1000));
    bed.denied(&Ask::new(UDP, 1001), ResultCode::NoResources);
}

// Ports that the operator keeps are not to be had, by suggestion or by having sent from there before.
#[test]
fn ports_may_be_kept_from_those_who_ask() {
    let mut bed = Bed::with(&policy("ports = [\"3000-3009\", 5000]\n"));
    for suggested in ["198.51.100.1:2000", "198.51.100.1:3010", "0.0.0.0:0"] {
        let got = bed.granted(&Ask::new(TCP, 8080).like(suggested));
        assert!((3000..=3009).contains(&got.port()) || got.port() == 5000, "{got}");
        bed.denied(
            &Ask::new(TCP, 8081).like("198.51.100.1:1194").with(&[2, 0, 0, 0]),
            ResultCode::CannotProvideExternal,
        );
        bed.ask(&Ask::new(TCP, 8080).lasting(0));
    }
    assert_eq!(bed.granted(&Ask::new(UDP, 5000)), at("198.51.100.1:5000"));
    let seen = bed.seen("10.1.0.2:7000", "198.51.100.2:53");
    assert!(!(3000..=3009).contains(&seen.port()) && seen.port() != 5000);
    bed.denied(&Ask::new(UDP, 7000), ResultCode::NotAuthorized);
    assert_eq!(bed.reload(&policy("ports = 4000\n")).1, 0);
    bed.pass(SECOND);
    assert_eq!(bed.granted(&Ask::new(UDP, 5000)), at("198.51.100.1:4000"), "that of before has ended");
}

// Every byte of a request may be anything: it is answered or dropped, never by more bytes than it has or than a header.
#[test]
fn whatever_a_request_holds_it_is_judged() {
    let mut bed = Bed::with(&policy(""));
    let option = super::filter_option(128, 0, "198.51.100.2");
    let whole = Ask::new(TCP, 8080).with(&option).bytes();
    let mut number = 12345u32;
    for round in 0..20_000usize {
        let mut message = whole.clone();
        for _ in 0..1 + round % 3 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let place = (number >> 8) as usize % message.len();
            message[place] = number as u8;
        }
        message.truncate(message.len() - round % 7 * (round % 5));
        bed.now += 20;
        if let Ok(answer) = bed.tell(HOST, &message) {
            assert!(answer.len() <= message.len().next_multiple_of(4).max(24) && answer.len() <= MAX_LEN);
        }
    }
    for length in [0, 1, 2, 23, 24, 1100, 1101, 1400] {
        bed.pass(100);
        let message = vec![2; length];
        let answer = bed.tell(HOST, &message);
        assert_eq!(answer.is_ok(), length >= 24, "{length}");
    }
    // The nonce is what the request is answered by: none of the changes has made more than the host may have.
    assert!(bed.bindings.len() <= 64);
}

// The external port of another host is not to be had: while it is mapped, while it rests, and by way of its deletion
// with a guess at the nonce (section 15).
#[test]
fn the_port_of_another_host_is_not_to_be_had() {
    let mut bed = Bed::with(&policy(""));
    let external = bed.granted(&Ask::new(TCP, 8080));
    let wanted = external.to_string();
    let thief = Ask::new(TCP, 8080).of("10.1.0.3").like(&wanted).with(&[2, 0, 0, 0]);
    bed.denied(&thief, ResultCode::CannotProvideExternal);
    for guess in 0..40 {
        bed.denied(&Ask::new(TCP, 8080).lasting(0).knowing([guess; 12]), ResultCode::NotAuthorized);
    }
    bed.pass(2 * SECOND);
    bed.ask(&Ask::new(TCP, 8080).lasting(0));
    bed.denied(&thief, ResultCode::CannotProvideExternal);
    bed.pass(130 * SECOND);
    assert_eq!(bed.granted(&thief), external, "after it has rested");
}

// Who is outside cannot ask, whatever the source, nor use up what a host asked for.
#[test]
fn strangers_are_not_served() {
    let mut bed = Bed::with(&policy(""));
    let message = Ask::new(TCP, 80).bytes();
    for (from, to) in [("10.1.0.2:9", "198.51.100.1:5351"), ("10.1.0.2:9", "10.1.0.1:5351"), (REMOTE, "10.1.0.1:5351")]
    {
        let outcome = bed.send(WAN, &Spec::udp(at(from), at(to), &message));
        assert_ne!(outcome.kind, Kind::Consume, "{from} {to}");
    }
    assert!(bed.bindings.is_empty() && bed.outside.sent.is_empty());
    // A stranger's answer has no effect: responses are dropped.
    let mut response = message.clone();
    response[1] |= 0x80;
    assert_eq!(bed.tell(HOST, &response), Err(Reason::PcpInvalid));
    // Connections that came in keep the port; they do not keep the mapping.
    let external = bed.granted(&Ask::new(UDP, 4000).lasting(120));
    assert_eq!(bed.send(WAN, &udp(REMOTE, external)).kind, Kind::Forward);
    for _ in 0..4 {
        bed.pass(60 * SECOND);
        assert_eq!(bed.send(WAN, &udp(REMOTE, external)).kind, Kind::Forward);
    }
    assert_eq!(bed.send(WAN, &udp("198.51.100.3:9", external)).kind, Kind::Drop);
}

// Where mappings depend on the remote end as well, what was asked for is for all (section 16.1).
#[test]
fn dependent_mappings_give_way_to_what_was_asked_for() {
    let dependent =
        policy("").replace("translate.source", "mapping = \"address-and-port-dependent\"\ntranslate.source");
    let mut bed = Bed::with(&dependent);
    let before = bed.seen("10.1.0.2:4000", "198.51.100.2:53");
    let external = bed.granted(&Ask::new(UDP, 4000));
    assert_ne!(external, before);
    for remote in ["198.51.100.3:53", "198.51.100.3:54"] {
        assert_eq!(bed.seen("10.1.0.2:4000", remote), external);
    }
    assert_eq!(bed.send(WAN, &udp(REMOTE, external)).kind, Kind::Forward);
    bed.ask(&Ask::new(UDP, 4000).lasting(0));
    assert_ne!(bed.seen("10.1.0.2:4000", "198.51.100.3:55"), external);
    assert_eq!(bed.send(WAN, &udp("198.51.100.2:99", external)).kind, Kind::Drop);
    bed.ends_clean();
}

// A port that is mapped for TCP says nothing about the other end of a connection that is under way.
#[test]
fn a_segment_without_a_connection_opens_none() {
    let mut bed = Bed::with(&policy(""));
    let external = bed.granted(&Ask::new(TCP, 8080));
    let segment = Spec::tcp(at(REMOTE), external, 0x10, &[]).with_sequence(1, 1);
    bed.refused(WAN, &segment, Kind::Drop, Reason::NotNew);
    assert_eq!(bed.send(WAN, &syn(REMOTE, &external.to_string())).kind, Kind::Forward);
    assert_eq!(bed.send(LAN, &syn("10.1.0.3:1", "10.1.0.2:8080")).kind, Kind::Drop, "inside it is nobody's right");
}
