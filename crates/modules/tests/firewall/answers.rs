//! The router's own ICMP errors: about what, to whom, how much of it (RFC 1812 section 4.3.2, RFC 4443 section 2.4).

use flowhop_engine::{Answering, Martians, ReversePath};
use flowhop_flow::{Kind, Reason};
use flowhop_routing::{Event, InterfaceAddress, IpPrefix, Route};
use flowhop_wire::build::{L4, Spec};
use flowhop_wire::{checksum, icmp4, icmp6, tcp_flags, verify};

use crate::bed::{Bed, INSIDE_MAC, LAN_MAC, at, ip, is_sound};

const OPEN: &str = "[[rule]]\nname = \"all\"\naction = \"allow\"\n";
const REJECT: &str = "[[rule]]\nname = \"none\"\naction = \"reject\"\n";

fn udp<'a>(v6: bool, payload: &'a [u8]) -> Spec<'a> {
    if v6 {
        Spec::udp(at("[fd00:0:0:1::2]:1"), at("[2001:db8:0:2::2]:2"), payload)
    } else {
        Spec::udp(at("10.1.0.2:1"), at("198.51.100.2:2"), payload)
    }
}

/// The error that a bed sent last: type, code, what it quotes.
fn error(bed: &mut Bed) -> (u8, u8, Vec<u8>) {
    let (port, frame) = bed.last();
    assert_eq!((port, &frame[..12]), (1, &[INSIDE_MAC, LAN_MAC].concat()[..]));
    assert!(verify::transport(&frame[14..]).is_acceptable());
    let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
    (frame[at], frame[at + 1], frame[at + 8..].to_vec())
}

// RFC 1812 section 4.3.2.3: 576 bytes; RFC 4443 section 2.4 c: 1280 bytes; no byte less than fits.
#[test]
fn errors_quote_as_much_as_fits() {
    for (v6, length, quoted) in [(false, 10, 38), (false, 1400, 548), (true, 10, 58), (true, 1400, 1232)] {
        let mut bed = Bed::with(OPEN);
        let payload = vec![3; length];
        let spec = udp(v6, &payload).with_ttl(1);
        assert_eq!(bed.send(1, &spec).reason, Reason::TtlExceeded);
        // RFC 1812 section 4.3.2.5: precedence 6.
        let class = bed.outside.sent[0].1[15];
        assert_eq!(class, if v6 { 0 } else { 6 << 5 });
        let (.., quote) = error(&mut bed);
        assert_eq!(quote, spec.without_link().to_vec().unwrap()[..quoted]);
    }
}

// RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e: nothing is sent about errors, to nobody, to many.
#[test]
fn nobody_is_answered_about_what_must_not_be() {
    let mut bed = Bed::with(REJECT);
    let interface = bed.engine.interfaces().port(1).unwrap().clone();
    let (martians, reverse_path) = (Martians::Off, ReversePath::Off);
    bed.engine.interfaces_mut().set(flowhop_engine::Interface { martians, reverse_path, ..interface });
    let answered = |bed: &mut Bed, spec: &Spec<'_>, what: &str| {
        bed.outside.sent.clear();
        assert_eq!(bed.send(1, spec).kind, Kind::Drop, "{what}");
        !bed.outside.sent.is_empty()
    };
    assert!(answered(&mut bed, &udp(false, b"x"), "a datagram"));
    assert!(answered(&mut bed, &udp(true, b"x"), "a datagram"));
    for source in ["0.1.2.3:1", "250.1.2.3:1", "10.2.0.255:1"] {
        for spec in [
            Spec::udp(at(source), at("198.51.100.2:2"), b"x"),
            Spec::tcp(at(source), at("198.51.100.2:2"), tcp_flags::SYN, &[]),
        ] {
            assert!(!answered(&mut bed, &spec, source), "{source} is no single host");
        }
    }
    // In a frame for many stations.
    for v6 in [false, true] {
        let mut frame = udp(v6, b"x").with_link(INSIDE_MAC, LAN_MAC).to_vec().unwrap();
        frame[..6].fill(0xff);
        bed.outside.sent.clear();
        assert_eq!(bed.receive(1, frame).reason, Reason::RuleReject);
        assert!(bed.outside.sent.is_empty());
    }
    // About errors, redirects and source quenches, whatever becomes of them.
    let mut bed = Bed::with(OPEN);
    for kind in [3, 4, 5, 11, 12] {
        let l4 = L4::Icmp { kind, code: 0, rest: [0; 4] };
        let spec = Spec::new(ip("10.1.0.2"), ip("198.51.100.2"), l4, &[0; 28]).with_ttl(1);
        assert!(!answered(&mut bed, &spec, "an error"));
    }
    // Of a reset nobody hears.
    let mut bed = Bed::with(REJECT);
    let reset = Spec::tcp(at("10.1.0.2:1"), at("198.51.100.2:2"), tcp_flags::RST, &[]);
    assert!(!answered(&mut bed, &reset, "a reset"));
}

// RFC 1812 section 5.2.7.1, RFC 4443 section 3.1: what is not reachable and why.
#[test]
fn unreachable_says_why() {
    let mut bed = Bed::with(OPEN);
    for (destination, v6) in [("192.0.2.1:9", false), ("[2600::1]:9", true)] {
        let source = if v6 { "[fd00:0:0:1::2]:1" } else { "10.1.0.2:1" };
        assert_eq!(bed.send(1, &Spec::udp(at(source), at(destination), b"x")).reason, Reason::NoRoute);
        let (kind, code, _) = error(&mut bed);
        let expected =
            if v6 { (icmp6::UNREACHABLE, icmp6::NO_ROUTE) } else { (icmp4::UNREACHABLE, icmp4::NET_UNREACHABLE) };
        assert_eq!((kind, code), expected);
    }
}

// RFC 5508 REQ-8: a session that cannot be made is answered with code 13; a rule that drops is not.
#[test]
fn what_cannot_be_translated_is_answered() {
    const NAT: &str = "[[nat]]\nname = \"hide\"\nto = \"outside\"\ntranslate.source = \"198.51.100.77\"\n";
    let mut bed = Bed::with(&format!("{OPEN}{NAT}"));
    let other = |source: &str| Spec::new(ip(source), ip("198.51.100.2"), L4::Raw { protocol: 47 }, b"x").with_ttl(64);
    assert_eq!(bed.send(1, &other("10.1.0.2")).kind, Kind::Forward);
    bed.outside.sent.clear();
    // Without ports there is one connection of a protocol between two addresses.
    let second = bed.send(1, &other("10.1.0.3"));
    assert_eq!((second.kind, second.reason), (Kind::Drop, Reason::NatExhausted));
    let (kind, code, _) = error(&mut bed);
    assert_eq!((kind, code), (icmp4::UNREACHABLE, icmp4::ADMINISTRATIVELY_PROHIBITED));
    let mut bed = Bed::with("[[rule]]\nname = \"none\"\naction = \"drop\"\n");
    assert_eq!(bed.send(1, &other("10.1.0.2")).reason, Reason::RuleDrop);
    assert!(bed.outside.sent.is_empty());
}

// RFC 1812 section 5.2.7.2: a host is told of a next hop on its own link, if policy says so and nothing is translated.
#[test]
fn hosts_are_told_of_a_better_first_hop() {
    let mut bed = Bed::with(OPEN);
    let network = IpPrefix::new(ip("192.0.2.0"), 24).unwrap();
    bed.event(Event::RouteAdded(Route::unicast(network, Some(ip("10.1.0.3")), 11)));
    let told = |bed: &mut Bed, source: &str, destination: &str| {
        bed.outside.sent.clear();
        assert_eq!(bed.send(1, &Spec::udp(at(source), at(destination), b"x")).kind, Kind::Forward);
        let redirects = bed.outside.sent.iter().filter(|(_, frame)| frame[34..36] == [icmp4::REDIRECT, 1]);
        redirects.map(|(port, frame)| (*port, is_sound(frame), frame[26..34].to_vec(), frame[38..42].to_vec())).next()
    };
    assert_eq!(told(&mut bed, "10.1.0.2:1", "192.0.2.1:1"), None, "not asked for");
    bed.engine.set_answering(Answering { redirects: true, ..Answering::default() });
    let redirect = (1, true, vec![10, 1, 0, 1, 10, 1, 0, 2], vec![10, 1, 0, 3]);
    assert_eq!(told(&mut bed, "10.1.0.2:2", "192.0.2.1:1"), Some(redirect), "from its own network, to it");
    assert_eq!(told(&mut bed, "10.1.0.2:2", "192.0.2.1:1"), None, "once for a connection");
    assert_eq!(told(&mut bed, "10.2.0.2:2", "192.0.2.1:1"), None, "another network than the next hop's");
    assert_eq!(told(&mut bed, "10.1.0.2:2", "198.51.100.2:1"), None, "by another interface");
    let direct = told(&mut bed, "10.1.0.2:3", "10.1.0.80:1").map(|(.., to)| to);
    assert_eq!(direct, Some(vec![10, 1, 0, 80]), "the destination itself");
    // Not from an address of another network than the host's.
    let mut deprecated = InterfaceAddress::global(11, ip("10.1.0.1"), 24);
    for (preferred, expected) in [(false, None), (true, Some(vec![10, 1, 0, 80]))] {
        deprecated.preferred = preferred;
        bed.event(Event::AddressAdded(deprecated));
        let source = if preferred { "10.1.0.2:5" } else { "10.1.0.2:6" };
        assert_eq!(told(&mut bed, source, "10.1.0.80:1").map(|(.., to)| to), expected);
    }
    // What is not forwarded after all.
    bed.outside.sent.clear();
    let expired = Spec::udp(at("10.1.0.2:4"), at("192.0.2.1:1"), b"x").with_ttl(1);
    assert_eq!(bed.send(1, &expired).reason, Reason::TtlExceeded);
    let kinds: Vec<_> = bed.outside.sent.iter().map(|(_, frame)| frame[34]).collect();
    assert_eq!(kinds, [icmp4::TIME_EXCEEDED]);
}

// RFC 1812 section 4.3.2.7: what is discarded silently for its source, or is sent to many, is not answered for its form.
#[test]
fn faults_of_form_are_not_answered_to_those_who_may_not_send() {
    let mut bed = Bed::with(OPEN);
    let interface = bed.engine.interfaces().port(1).unwrap().clone();
    let reverse_path = ReversePath::Strict;
    bed.engine.interfaces_mut().set(flowhop_engine::Interface { reverse_path, ..interface });
    let answered = |bed: &mut Bed, v6: bool, source: &str, destination: &str| {
        bed.outside.sent.clear();
        let mut frame =
            Spec::udp(at(source), at(destination), &[7; 100]).with_link(INSIDE_MAC, LAN_MAC).to_vec().unwrap();
        let reason = if v6 {
            // A fragment of impossible length.
            frame.splice(54..54, [17, 0, 0, 1, 0, 0, 0, 1]);
            frame[20] = 44;
            frame.truncate(54 + 8 + 13);
            frame[18..20].copy_from_slice(&21_u16.to_be_bytes());
            Reason::BadFragment
        } else {
            frame.truncate(100);
            Reason::Truncated
        };
        assert_eq!(bed.receive(1, frame).reason, reason, "{source} {destination}");
        !bed.outside.sent.is_empty()
    };
    assert!(answered(&mut bed, false, "10.1.0.2:1", "198.51.100.2:2"));
    assert!(answered(&mut bed, true, "[fd00:0:0:1::2]:1", "[2001:db8:0:2::2]:2"));
    for (source, what) in [
        ("198.51.100.2:1", "on the link of another interface"),
        ("192.0.2.1:1", "without a way back"),
        ("10.1.0.1:1", "the router itself"),
        ("198.51.100.9:1", "the router by another interface"),
    ] {
        assert!(!answered(&mut bed, false, source, "198.51.100.3:2"), "{what}");
    }
    assert!(!answered(&mut bed, true, "[2001:db8:0:2::2]:1", "[2001:db8:0:2::3]:2"));
    assert!(!answered(&mut bed, false, "10.1.0.2:1", "198.51.100.255:2"), "a directed broadcast");
    // First fragments whose others do not come.
    for (source, expected) in [("10.1.0.2:1", 1), ("198.51.100.2:1", 0)] {
        bed.outside.sent.clear();
        let mut frame =
            Spec::udp(at(source), at("198.51.100.3:2"), &[7; 100]).with_link(INSIDE_MAC, LAN_MAC).to_vec().unwrap();
        frame.truncate(14 + 20 + 64);
        set_length(&mut frame, 84, 0x2000);
        assert_eq!(bed.receive(1, frame).reason, Reason::HeldFragment);
        bed.pass(32 * 954);
        assert_eq!(bed.outside.sent.len(), expected, "{source}");
    }
}

/// Sets total length and flags of the IPv4 header of a frame.
fn set_length(frame: &mut [u8], total: u16, flags: u16) {
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[20..22].copy_from_slice(&flags.to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::finish(checksum::sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

// RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f: so many in a second, and the others in silence.
#[test]
fn errors_are_limited() {
    let mut bed = Bed::with(OPEN);
    let spec = udp(false, b"x").with_ttl(1);
    for _ in 0..1000 {
        assert_eq!(bed.send(1, &spec).reason, Reason::TtlExceeded);
    }
    assert_eq!(bed.outside.sent.len(), 200);
    bed.now += 954;
    bed.send(1, &spec);
    assert_eq!(bed.outside.sent.len(), 201);
    bed.engine.set_answering(Answering { per_second: 10, ..Answering::default() });
    bed.now += 954;
    for _ in 0..100 {
        bed.send(1, &spec);
    }
    assert_eq!(bed.outside.sent.len(), 211, "as policy says");
}
