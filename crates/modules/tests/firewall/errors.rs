//! ICMP and ICMPv6 errors about connections (RFC 5508 REQ-3 to REQ-6, RFC 4787 REQ-10 and REQ-12, RFC 5382 REQ-9 and
//! REQ-10, RFC 5927 section 4.1).

use std::net::{IpAddr, SocketAddr};

use flowhop_flow::{Kind, Reason};
use flowhop_routing::{Event, Link, NeighbourState};
use flowhop_wire::build::{Checksum, Extension, Ip, L4, Spec, V6};
use flowhop_wire::{Udp, checksum, icmp4, icmp6, protocol, tcp_flags, verify};
use proptest::prelude::*;
use zerocopy::FromBytes;

use crate::bed::*;

/// Inside to outside, translated in both families; the outside may open nothing.
const TRANSLATED: &str = r#"
[[rule]]
name = "out"
from = "inside"
to = "outside"
action = "allow"
[[nat]]
name = "hide"
to = "outside"
translate.source = "interface"
[[nat]]
name = "hide, IPv6"
to = "outside"
family = "ipv6"
translate.source = "interface"
"#;
/// The same, nothing translated.
const PLAIN: &str = r#"
[[rule]]
name = "out"
from = "inside"
to = "outside"
action = "allow"
"#;

/// Addresses of one family: the hosts of the bed, and a router beyond each of them.
#[derive(Clone, Copy, Debug)]
struct Places {
    client: IpAddr,
    server: IpAddr,
    inside_router: IpAddr,
    outside_router: IpAddr,
    external: IpAddr,
}

fn places(v6: bool) -> Places {
    let [client, server, inside_router, outside_router, external] = if v6 {
        ["fd00:0:0:1::2", "2001:db8:0:2::2", "fd00:0:0:1::99", "2001:db8:0:2::99", "2001:db8:0:2::1"]
    } else {
        ["10.1.0.2", "198.51.100.2", "10.1.0.99", "198.51.100.99", "198.51.100.1"]
    };
    Places {
        client: ip(client),
        server: ip(server),
        inside_router: ip(inside_router),
        outside_router: ip(outside_router),
        external: ip(external),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Udp,
    Tcp,
    Echo,
    Gre,
}

const PROTOCOLS: [Protocol; 4] = [Protocol::Udp, Protocol::Tcp, Protocol::Echo, Protocol::Gre];

/// A packet from `from` to `to`, the initiator's or an answer. Segments are data that nobody has acknowledged.
fn packet<'a>(
    protocol: Protocol,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    answers: bool,
    payload: &'a [u8],
) -> Spec<'a> {
    let (source, destination) = (SocketAddr::from(from), SocketAddr::from(to));
    let (sequence, acknowledgment) = if answers { (9001, 1001) } else { (1001, 9001) };
    match protocol {
        Protocol::Udp => Spec::udp(source, destination, payload),
        Protocol::Tcp => {
            Spec::tcp(source, destination, tcp_flags::ACK, payload).with_sequence(sequence, acknowledgment)
        }
        Protocol::Echo if answers => Spec::echo_reply(from.0, to.0, to.1, 1, payload),
        Protocol::Echo => Spec::echo_request(from.0, to.0, from.1, 1, payload),
        Protocol::Gre => Spec::new(from.0, to.0, L4::Raw { protocol: 47 }, payload),
    }
}

/// An error from a node to the source of `about`, an IP packet.
fn error(from: IpAddr, to: IpAddr, kinds: (u8, u8), about: &[u8]) -> Spec<'_> {
    let kind = if from.is_ipv4() { kinds.0 } else { kinds.1 };
    Spec::new(from, to, L4::Icmp { kind, code: 1, rest: [0, 0, 5, 0x78] }, about)
}

const UNREACHABLE: (u8, u8) = (icmp4::UNREACHABLE, icmp6::UNREACHABLE);
const KINDS: [(u8, u8); 4] = [
    UNREACHABLE,
    (icmp4::TIME_EXCEEDED, icmp6::TIME_EXCEEDED),
    (icmp4::PARAMETER_PROBLEM, icmp6::PARAMETER_PROBLEM),
    (icmp4::UNREACHABLE, icmp6::PACKET_TOO_BIG),
];

/// An IP packet one hop further: what a forwarded packet that was not translated looks like.
fn hop(spec: &Spec<'_>) -> Vec<u8> {
    let ttl = match spec.ip {
        Ip::V4(v4) => v4.ttl,
        Ip::V6(v6) => v6.hop_limit,
    };
    spec.without_link().with_ttl(ttl - 1).to_vec().unwrap()
}

/// Makes the checksum of the IPv4 header that bytes begin with right.
fn set_checksum(ip: &mut [u8]) {
    let length = usize::from(ip[0] & 15) * 4;
    ip[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&ip[..length]));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Source, destination, and ICMP message of a frame.
fn parts(frame: &[u8]) -> (IpAddr, IpAddr, &[u8]) {
    let v6 = frame[14] >> 4 == 6;
    let address = |at: usize| -> IpAddr {
        if v6 {
            <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap().into()
        } else {
            <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap().into()
        }
    };
    if v6 { (address(22), address(38), &frame[54..]) } else { (address(26), address(30), &frame[34..]) }
}

fn is_sound_error(frame: &[u8]) -> bool {
    let v6 = frame[14] >> 4 == 6;
    verify::transport(&frame[14..]) == verify::Verified::Valid
        && (v6 || verify::ipv4_header(&frame[14..]) == verify::Verified::Valid)
}

/// A connection in a bed: a packet and its answer have passed.
struct Connection {
    bed: Bed,
    places: Places,
    /// The packet as the client sent it, one hop on.
    request: Vec<u8>,
    /// The same as it went out.
    request_sent: Vec<u8>,
    /// The answer as the server sent it, one hop on.
    answer: Vec<u8>,
    /// The same as the client got it.
    answer_sent: Vec<u8>,
}

fn connection(policy: &str, v6: bool, protocol: Protocol, payload: &[u8]) -> Connection {
    let places = places(v6);
    let mut bed = Bed::with(policy);
    let (client, server) = ((places.client, 40000), (places.server, 53));
    let mut pass = |port, spec: &Spec<'_>| {
        assert_eq!(bed.send(port, spec).kind, Kind::Forward);
        bed.last().1[14..].to_vec()
    };
    let external = |sent: &[u8]| {
        let place = if v6 { 40 } else { 20 } + if protocol == Protocol::Echo { 4 } else { 0 };
        let seen = if policy == PLAIN { places.client } else { places.external };
        (seen, sent.get(place..).and_then(|rest| rest.first_chunk()).map_or(0, |port| u16::from_be_bytes(*port)))
    };
    if protocol == Protocol::Tcp {
        let syn = pass(1, &Spec::tcp(client.into(), server.into(), tcp_flags::SYN, &[]).with_sequence(1000, 0));
        let (flags, to) = (tcp_flags::SYN | tcp_flags::ACK, external(&syn));
        pass(2, &Spec::tcp(server.into(), to.into(), flags, &[]).with_sequence(9000, 1001));
    }
    let first = packet(protocol, client, server, false, payload);
    let request_sent = pass(1, &first);
    let second = packet(protocol, server, external(&request_sent), true, payload);
    let answer_sent = pass(2, &second);
    Connection { bed, places, request: hop(&first), request_sent, answer: hop(&second), answer_sent }
}

/// Everything of a connection that could change.
fn state(bed: &Bed) -> Vec<u64> {
    let table = bed.engine.table();
    let mut words = Vec::new();
    for block in table.live_blocks().filter_map(|number| table.block(number)) {
        for direction in 0..2 {
            let (hot, tcp) = (&block.hot[direction], &block.tcp[direction]);
            let (packets, bytes) = hot.traffic.read();
            words.extend([packets, bytes, hot.steer.load(), hot.last_seen.load().into()]);
            words.extend([tcp.sent.load(), tcp.allowed.load(), tcp.state.load()]);
        }
    }
    words
}

// RFC 5508 REQ-4: from outside to the client, with what the client sent; type, code and pointer as they were. REQ-6.
#[test]
fn an_error_from_outside_reaches_the_client() {
    for (policy, v6, protocol, kinds) in
        [PLAIN, TRANSLATED].iter().flat_map(|policy| [false, true].map(|v6| (*policy, v6))).flat_map(|(policy, v6)| {
            PROTOCOLS.into_iter().flat_map(move |protocol| KINDS.map(|kinds| (policy, v6, protocol, kinds)))
        })
    {
        // Longer than the MTU that the errors name.
        let mut c = connection(policy, v6, protocol, &[7; 1380]);
        let seen = if policy == PLAIN { c.places.client } else { c.places.external };
        for from in [c.places.outside_router, c.places.server] {
            c.bed.now += 5;
            let before = state(&c.bed);
            let outcome = c.bed.send(2, &error(from, seen, kinds, &c.request_sent));
            let context = format!("{protocol:?}, {kinds:?} from {from} to {seen}");
            assert_eq!(
                (outcome.kind, outcome.reason, outcome.out),
                (Kind::Forward, Reason::Forwarded, Some(1)),
                "{context}"
            );
            assert_eq!(state(&c.bed), before, "{context}");
            let (port, frame) = c.bed.last();
            let (source, destination, message) = parts(&frame);
            assert_eq!((port, source, destination), (1, from, c.places.client), "{context}");
            assert_eq!(frame[..12], [INSIDE_MAC, LAN_MAC].concat(), "{context}");
            assert_eq!(message[..2], [if v6 { kinds.1 } else { kinds.0 }, 1], "{context}");
            assert_eq!(message[4..8], [0, 0, 5, 0x78], "{context}");
            assert_eq!(message[8..], c.request, "{context}");
            assert_eq!(if v6 { frame[21] } else { frame[22] }, 63, "{context}");
            assert!(is_sound_error(&frame), "{context}");
        }
        let answers = if protocol == Protocol::Tcp { 2 } else { 1 };
        assert_eq!(c.bed.engine.counters().get(2, Reason::Forwarded).0, answers + 2, "answers and two errors");
    }
}

// RFC 5508 REQ-5: from the client, or a router inside, to the server; both shown as the external address.
#[test]
fn an_error_from_inside_reaches_the_server() {
    for (policy, v6, protocol) in [PLAIN, TRANSLATED]
        .iter()
        .flat_map(|policy| [false, true].map(|v6| (*policy, v6)))
        .flat_map(|(policy, v6)| PROTOCOLS.map(|protocol| (policy, v6, protocol)))
    {
        let mut c = connection(policy, v6, protocol, b"some payload");
        for from in [c.places.inside_router, c.places.client] {
            let before = state(&c.bed);
            let outcome = c.bed.send(1, &error(from, c.places.server, UNREACHABLE, &c.answer_sent));
            let context = format!("{protocol:?} from {from}, {policy}");
            assert_eq!(
                (outcome.kind, outcome.reason, outcome.out),
                (Kind::Forward, Reason::Forwarded, Some(2)),
                "{context}"
            );
            assert_eq!(state(&c.bed), before, "{context}");
            let (_, frame) = c.bed.last();
            let (source, destination, message) = parts(&frame);
            let shown = if policy == PLAIN { from } else { c.places.external };
            assert_eq!((source, destination), (shown, c.places.server), "{context}");
            assert_eq!(message[8..], c.answer, "{context}");
            assert!(is_sound_error(&frame), "{context}");
        }
    }
}

// A connection whose destination is translated: from outside to a mapping that lets everybody in (RFC 4787 REQ-8). Its
// errors are those of the others with the directions in exchange.
#[test]
fn errors_about_a_translated_destination_are_translated() {
    let policy = TRANSLATED.replace("translate.source", "filtering = \"endpoint-independent\"\ntranslate.source");
    let mut bed = Bed::with(&policy);
    let Places { client, server, inside_router, outside_router, external } = places(false);
    bed.send(1, &Spec::udp((client, 40000).into(), (server, 53).into(), b"opens the mapping"));
    let (_, frame) = bed.last();
    let mapped = (external, u16::from_be_bytes([frame[34], frame[35]]));
    let peer = (ip("198.51.100.7"), 7000);
    let (ifindex, state) = (12, NeighbourState::Resolved(OUTSIDE_MAC));
    bed.event(Event::NeighbourChanged { ifindex, address: peer.0, state });
    let request = Spec::udp(peer.into(), mapped.into(), b"some payload");
    assert_eq!(bed.send(2, &request).kind, Kind::Forward);
    let request_sent = bed.last().1[14..].to_vec();
    for from in [client, inside_router] {
        assert_eq!(bed.send(1, &error(from, peer.0, UNREACHABLE, &request_sent)).kind, Kind::Forward);
        let (port, frame) = bed.last();
        let (source, destination, message) = parts(&frame);
        assert_eq!((port, source, destination), (2, external, peer.0), "the inside is not shown");
        assert_eq!(message[8..], hop(&request));
        assert!(is_sound_error(&frame));
    }
    let answer = Spec::udp((client, 40000).into(), peer.into(), b"some answer");
    assert_eq!(bed.send(1, &answer).kind, Kind::Forward);
    let answer_sent = bed.last().1[14..].to_vec();
    assert_eq!(bed.send(2, &error(outside_router, external, UNREACHABLE, &answer_sent)).kind, Kind::Forward);
    let (port, frame) = bed.last();
    let (source, destination, message) = parts(&frame);
    assert_eq!((port, source, destination), (1, outside_router, client));
    assert_eq!(message[8..], hop(&answer));
    assert!(is_sound_error(&frame));
}

// Both ends translated: a service on the client's own segment, by its external address (RFC 5508 REQ-7).
#[test]
fn errors_about_published_services_and_hairpins_are_translated() {
    let publish = "[[nat]]\nname = \"publish\"\ndestination = \"198.51.100.1\"\nservice = \"udp/53\"\ntranslate.destination = \"10.1.0.80:5353\"\n";
    let rule = "[[rule]]\nname = \"in\"\nto = \"inside\"\ndestination = \"10.1.0.80\"\naction = \"allow\"\n";
    let mut bed = Bed::with(&format!("{rule}{TRANSLATED}{publish}"));
    let server = ip("10.1.0.80");
    let external = at("198.51.100.1:53");
    for (port, client) in [(2, at("198.51.100.2:7000")), (1, at("10.1.0.2:7000"))] {
        let request = Spec::udp(client, external, b"some payload");
        assert_eq!(bed.send(port, &request).kind, Kind::Forward);
        let sent = bed.last().1[14..].to_vec();
        let (seen, _) = ends(&bed_frame(&sent));
        assert_eq!(bed.send(1, &error(server, seen.ip(), UNREACHABLE, &sent)).kind, Kind::Forward);
        let (out, frame) = bed.last();
        let (source, destination, message) = parts(&frame);
        assert_eq!((out, source, destination), (port, external.ip(), client.ip()));
        assert_eq!(message[8..], hop(&request));
        assert!(is_sound_error(&frame));
    }
}

/// A packet with a link-layer header in front.
fn bed_frame(packet: &[u8]) -> Vec<u8> {
    [&[0; 12], &[8, 0][..], packet].concat()
}

// RFC 5927 section 4.1, at its edges; RFC 5382 REQ-10: nothing ends or changes.
#[test]
fn what_is_quoted_of_a_segment_has_to_be_in_flight() {
    let mut bed = Bed::with(TRANSLATED);
    let (client, server) = (at("10.1.0.2:40000"), at("198.51.100.2:80"));
    let mut exchange = |port: u8, spec: Spec<'_>| {
        assert_eq!(bed.send(port, &spec).kind, Kind::Forward);
        bed.last().1[14..].to_vec()
    };
    let with_sequence = |quoted: &[u8], sequence: u32| {
        let mut quoted = quoted.to_vec();
        quoted[24..28].copy_from_slice(&sequence.to_be_bytes());
        quoted
    };
    let syn = exchange(1, Spec::tcp(client, server, tcp_flags::SYN, &[]).with_sequence(1000, 0));
    let outside = SocketAddr::new(ip("198.51.100.1"), u16::from_be_bytes([syn[20], syn[21]]));
    // The SYN itself, before anything came back: a port that nobody listens at, a host that is not there.
    for (sequence, passes) in [(1000, true), (1001, true), (1002, false), (1000u32.wrapping_sub(20_000), false)] {
        let quoted = with_sequence(&syn, sequence);
        let outcome = bed.send(2, &error(ip("198.51.100.99"), outside.ip(), UNREACHABLE, &quoted));
        let expected = if passes { Reason::Forwarded } else { Reason::TcpWindow };
        assert_eq!(outcome.reason, expected, "{sequence}");
    }
    let mut exchange = |port: u8, spec: Spec<'_>| {
        assert_eq!(bed.send(port, &spec).kind, Kind::Forward);
        bed.last().1[14..].to_vec()
    };
    exchange(2, Spec::tcp(server, outside, tcp_flags::SYN | tcp_flags::ACK, &[]).with_sequence(5000, 1001));
    exchange(1, Spec::tcp(client, server, tcp_flags::ACK, &[0; 500]).with_sequence(1001, 5001));
    let answer = exchange(2, Spec::tcp(server, outside, tcp_flags::ACK, &[0; 300]).with_sequence(5001, 1201));
    // The server has acknowledged 200 of 500 bytes; the client none of 300.
    let before = state(&bed);
    for (sequence, passes) in [(1200, false), (1201, true), (1501, true), (1502, false), (1201 + (1 << 31), false)] {
        let quoted = with_sequence(&syn, sequence);
        let outcome = bed.send(2, &error(ip("198.51.100.99"), outside.ip(), UNREACHABLE, &quoted));
        let expected = if passes { Reason::Forwarded } else { Reason::TcpWindow };
        assert_eq!(outcome.reason, expected, "{sequence}");
    }
    for (sequence, passes) in [(5000, false), (5001, true), (5301, true), (5302, false)] {
        let quoted = with_sequence(&answer, sequence);
        let outcome = bed.send(1, &error(ip("10.1.0.2"), server.ip(), UNREACHABLE, &quoted));
        let expected = if passes { Reason::Forwarded } else { Reason::TcpWindow };
        assert_eq!(outcome.reason, expected, "{sequence}");
    }
    assert_eq!(state(&bed), before);
    assert_eq!(bed.engine.table().live(), 1);
}

// RFC 4787 REQ-12, RFC 5508 REQ-6: errors keep nothing alive.
#[test]
fn errors_do_not_keep_a_connection_alive() {
    let mut c = connection(TRANSLATED, false, Protocol::Echo, b"ping");
    for _ in 0..7 {
        c.bed.pass(10 * 954);
        c.bed.send(2, &error(c.places.outside_router, c.places.external, UNREACHABLE, &c.request_sent));
    }
    assert_eq!(c.bed.engine.table().live(), 0);
}

// RFC 792: header and 8 bytes are quoted; less names no connection.
#[test]
fn a_short_quote_is_enough() {
    for protocol in [Protocol::Udp, Protocol::Tcp, Protocol::Echo] {
        for length in [0, 8, 20, 27, 28, 36, 38] {
            let mut c = connection(TRANSLATED, false, protocol, b"some payload");
            let quoted = &c.request_sent[..length];
            let outcome = c.bed.send(2, &error(c.places.outside_router, c.places.external, UNREACHABLE, quoted));
            if length < 28 {
                assert_eq!((outcome.kind, outcome.reason), (Kind::Stack, Reason::Local), "{length}");
                continue;
            }
            assert_eq!(outcome.kind, Kind::Forward, "{protocol:?}, {length}");
            let (_, frame) = c.bed.last();
            assert_eq!(parts(&frame).2[8..], c.request[..length], "{protocol:?}");
            assert!(is_sound_error(&frame));
        }
    }
}

// RFC 5508 REQ-3: an IPv4 header whose checksum is wrong is not believed (a); options are passed over (b), wrong
// checksums of transport headers stay wrong by what they were (c).
#[test]
fn quotes_with_options_and_wrong_checksums_are_translated() {
    let mut c = connection(TRANSLATED, false, Protocol::Udp, b"some payload");
    let with_options = |ip: &[u8]| {
        let mut longer = ip[..20].to_vec();
        longer[0] = 0x47;
        longer.extend_from_slice(&[1, 1, 1, 1, 7, 3, 4, 0]);
        longer.extend_from_slice(&ip[20..]);
        longer
    };
    let mut quoted = with_options(&c.request_sent);
    let mut expected = with_options(&c.request);
    for bytes in [&mut quoted, &mut expected] {
        // Time to live, and a byte of payload.
        bytes[8] = 7;
        bytes[40] ^= 0xff;
        set_checksum(bytes);
    }
    let mut wrong = quoted.clone();
    wrong[8] = 6;
    let refused = c.bed.send(2, &error(c.places.outside_router, c.places.external, UNREACHABLE, &wrong));
    assert_eq!((refused.kind, refused.reason), (Kind::Drop, Reason::IcmpQuote));
    let outcome = c.bed.send(2, &error(c.places.outside_router, c.places.external, UNREACHABLE, &quoted));
    assert_eq!(outcome.kind, Kind::Forward);
    let (_, frame) = c.bed.last();
    assert_eq!(parts(&frame).2[8..], expected);
    // No checksum stays none (RFC 768).
    let mut none = c.request_sent.clone();
    none[26..28].fill(0);
    c.bed.send(2, &error(c.places.outside_router, c.places.external, UNREACHABLE, &none));
    let (_, frame) = c.bed.last();
    let (udp, _) = Udp::read_from_prefix(&frame[62..]).unwrap();
    assert_eq!((udp.source_port.get(), udp.checksum.get()), (40000, 0));
}

// RFC 8200: extension headers in front of what is quoted, and of the error itself.
#[test]
fn extension_headers_are_walked() {
    let places = places(true);
    let mut bed = Bed::with(TRANSLATED);
    let bytes = &[0, 0, 1, 4, 0, 0, 0, 0];
    let extensions = [Extension { protocol: protocol::DESTINATION_OPTIONS, bytes }];
    let extended = |spec: Spec<'_>| {
        let Ip::V6(v6) = spec.ip else { panic!("two IPv6 addresses") };
        Ip::V6(V6 { extensions: &extensions, ..v6 })
    };
    let mut spec = packet(Protocol::Udp, (places.client, 1), (places.server, 2), false, b"some payload");
    spec.ip = extended(spec);
    assert_eq!(bed.send(1, &spec).kind, Kind::Forward);
    let sent = bed.last().1[14..].to_vec();
    let mut answer = error(places.outside_router, places.external, UNREACHABLE, &sent);
    answer.ip = extended(answer);
    assert_eq!(bed.send(2, &answer).kind, Kind::Forward);
    let (_, frame) = bed.last();
    assert_eq!(frame[14 + 40 + 8 + 8..], hop(&spec));
    assert!(is_sound_error(&frame));
}

// RFC 5927 section 7, RFC 1191 section 3, RFC 8201 section 4: an MTU is smaller than the packet that was too big for it.
#[test]
fn an_mtu_that_cannot_be_is_not_believed() {
    for (v6, length, mtu, passes) in [
        (false, 1400, 1427, true),
        (false, 1400, 1428, false),
        (false, 1400, 68, true),
        (false, 1400, 67, false),
        (false, 1400, 0, true),
        (true, 1400, 1447, true),
        (true, 1400, 1448, false),
        (true, 1400, 1280, true),
        (true, 1400, 1279, false),
        (true, 1400, 0, false),
        (true, 1000, 1280, false),
    ] {
        let mut c = connection(TRANSLATED, v6, Protocol::Udp, &vec![7; length]);
        let [.., a, b] = u32::to_be_bytes(mtu);
        let l4 = if v6 {
            L4::Icmp { kind: icmp6::PACKET_TOO_BIG, code: 0, rest: [0, 0, a, b] }
        } else {
            L4::Icmp { kind: icmp4::UNREACHABLE, code: 4, rest: [0, 0, a, b] }
        };
        let outcome = c.bed.send(2, &Spec::new(c.places.outside_router, c.places.external, l4, &c.request_sent));
        let expected = if passes { (Kind::Forward, Reason::Forwarded) } else { (Kind::Drop, Reason::IcmpQuote) };
        assert_eq!((outcome.kind, outcome.reason), expected, "{v6} {length} {mtu}");
    }
}

// RFC 4884: extensions behind the quote pass as they are, with the attribute that says where they begin.
#[test]
fn extensions_pass_unharmed() {
    for v6 in [false, true] {
        let mut c = connection(TRANSLATED, v6, Protocol::Udp, &[7; 20]);
        let mut quoted = c.request_sent.clone();
        let mut expected = c.request.clone();
        // An extension structure with one object of 8 bytes: MPLS labels (RFC 4950).
        let extension = [0x20, 0, 0x8e, 0x13, 0, 8, 1, 1, 0, 1, 0x21, 1];
        for bytes in [&mut quoted, &mut expected] {
            bytes.resize(128, 0);
            bytes.extend_from_slice(&extension);
        }
        let (kind, rest) =
            if v6 { (icmp6::TIME_EXCEEDED, [16, 0, 0, 0]) } else { (icmp4::TIME_EXCEEDED, [0, 32, 0, 0]) };
        let l4 = L4::Icmp { kind, code: 0, rest };
        let spec = Spec::new(c.places.outside_router, c.places.external, l4, &quoted);
        assert_eq!(c.bed.send(2, &spec).kind, Kind::Forward);
        let (_, frame) = c.bed.last();
        assert_eq!(parts(&frame).2[4..8], rest);
        assert_eq!(parts(&frame).2[8..], expected);
        assert!(is_sound_error(&frame));
    }
}

/// What may not pass, and why.
#[test]
fn errors_out_of_place_are_dropped() {
    let c = connection(TRANSLATED, false, Protocol::Udp, b"some payload");
    let Connection { mut bed, places, request_sent, answer_sent, .. } = c;
    let before = state(&bed);
    let mut refused = |port: u8, spec: Spec<'_>, reason: Reason| {
        let outcome = bed.send(port, &spec);
        assert_eq!((outcome.kind, outcome.reason), (reason.slow_kind(), reason));
        assert!(bed.outside.sent.is_empty(), "{reason:?} is answered");
        bed.engine.counters().get(port, reason).0
    };
    // About a packet that left on the other side.
    let stray = error(places.inside_router, places.external, UNREACHABLE, &request_sent);
    refused(1, stray, Reason::WrongInterface);
    let stray = error(places.outside_router, places.server, UNREACHABLE, &answer_sent);
    refused(2, stray, Reason::WrongInterface);
    // To somebody else than the sender of what is quoted (RFC 1122 section 3.2.2).
    let to_client = error(places.outside_router, places.client, UNREACHABLE, &request_sent);
    refused(2, to_client, Reason::IcmpUnrelated);
    // In the box's own name.
    let own = error(ip("10.1.0.1"), places.external, UNREACHABLE, &request_sent);
    refused(2, own, Reason::SpoofedSource);
    let last_hop = error(places.outside_router, places.external, UNREACHABLE, &request_sent).with_ttl(1);
    refused(2, last_hop, Reason::TtlExceeded);
    // Source quench (RFC 6633), redirect (RFC 1812 section 5.2.7.2), a timestamp request.
    for kind in [icmp4::SOURCE_QUENCH, icmp4::REDIRECT, icmp4::TIMESTAMP_REQUEST] {
        refused(1, error(places.client, places.server, (kind, 0), &answer_sent), Reason::IcmpUnrelated);
        // Those to the box itself are its own business.
        refused(2, error(places.outside_router, places.external, (kind, 0), &request_sent), Reason::Local);
    }
    // About no connection; about an error.
    let mut unknown = answer_sent.clone();
    unknown[20] ^= 1;
    refused(1, error(places.client, places.server, UNREACHABLE, &unknown), Reason::IcmpUnrelated);
    let inner = error(places.server, places.client, UNREACHABLE, &request_sent).without_link().to_vec().unwrap();
    refused(1, error(places.client, places.server, UNREACHABLE, &inner), Reason::IcmpUnrelated);
    // A wrong checksum (RFC 5508 REQ-3).
    let damaged = error(places.outside_router, places.external, UNREACHABLE, &request_sent);
    assert_eq!(refused(2, damaged.with_checksum(Checksum::Value(1)), Reason::BadChecksum), 1);
    // Without a connection the box's own errors are its stack's.
    let mut other = request_sent.clone();
    other[20] ^= 1;
    refused(2, error(places.outside_router, places.external, UNREACHABLE, &other), Reason::Local);
    assert_eq!(state(&bed), before);
}

// Later fragments have no ports; where a connection has none either, they are enough.
#[test]
fn fragments_are_related_as_far_as_they_can_be() {
    for (protocol, passes) in [(Protocol::Udp, false), (Protocol::Gre, true)] {
        let mut c = connection(TRANSLATED, false, protocol, &[0; 64]);
        for (field, passes) in [(0x2000u16, true), (0x0003, passes)] {
            let mut quoted = c.request_sent.clone();
            quoted[6..8].copy_from_slice(&field.to_be_bytes());
            set_checksum(&mut quoted);
            let outcome = c.bed.send(2, &error(c.places.outside_router, c.places.external, UNREACHABLE, &quoted));
            let expected = if passes { Kind::Forward } else { Kind::Stack };
            assert_eq!(outcome.kind, expected, "{protocol:?} {field:#x}");
        }
    }
}

// RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 c, RFC 4884: too long an error is cut, extensions first.
#[test]
fn a_long_error_is_cut() {
    for (v6, mtu, attribute, expected) in [
        (false, 600, 0, 600),
        (false, 600, 32, 20 + 8 + 128),
        (false, 600, 200, 600),
        (true, 1300, 0, 1280),
        (true, 1300, 16, 40 + 8 + 128),
    ] {
        let mut c = connection(TRANSLATED, v6, Protocol::Udp, &[7; 1400]);
        c.bed.event(Event::LinkUpsert(Link { mtu, ..Link::ethernet(11, "lan0", LAN_MAC) }));
        let kind = if v6 { icmp6::TIME_EXCEEDED } else { icmp4::TIME_EXCEEDED };
        let rest = if v6 { [attribute, 0, 0, 0] } else { [0, attribute, 0, 0] };
        let l4 = L4::Icmp { kind, code: 0, rest };
        let spec = Spec::new(c.places.outside_router, c.places.external, l4, &c.request_sent);
        assert_eq!(c.bed.send(2, &spec).kind, Kind::Forward);
        let (_, frame) = c.bed.last();
        assert_eq!(frame.len(), 14 + expected, "{v6}, {attribute}");
        assert!(is_sound_error(&frame), "{v6}, {attribute}");
        let message = parts(&frame).2;
        assert_eq!(message[4..8], [0; 4], "the attribute goes with what it points to");
        assert_eq!(message[8..], c.request[..message.len() - 8]);
    }
}

// An error waits for its neighbour as any packet, and what waited in vain is not answered (RFC 1812 section 4.3.2.7).
#[test]
fn an_error_waits_for_its_neighbour_and_is_never_answered() {
    let mut c = connection(TRANSLATED, false, Protocol::Udp, b"some payload");
    let gone = |bed: &mut Bed| {
        let (ifindex, address) = (11, ip("10.1.0.2"));
        bed.event(Event::NeighbourChanged { ifindex, address, state: NeighbourState::Gone });
    };
    gone(&mut c.bed);
    let spec = error(c.places.outside_router, c.places.external, UNREACHABLE, &c.request_sent);
    assert_eq!(c.bed.send(2, &spec).reason, Reason::HeldNeighbour);
    assert!(c.bed.outside.sent.is_empty());
    c.bed.neighbours();
    let (port, frame) = c.bed.last();
    assert_eq!((port, &parts(&frame).2[8..]), (1, &c.request[..]));
    assert_eq!(c.bed.engine.counters().get(2, Reason::HeldNeighbour).0, 0);

    gone(&mut c.bed);
    assert_eq!(c.bed.send(2, &spec).reason, Reason::HeldNeighbour);
    c.bed.pass(5000);
    assert_eq!(c.bed.engine.counters().get(2, Reason::NeighbourUnresolved).0, 1);
    assert!(c.bed.outside.sent.is_empty(), "an error about an error");
}

// RFC 1812 section 4.3.2.7: of a datagram in fragments only the first one is answered.
#[test]
fn later_fragments_are_not_answered() {
    let mut bed = Bed::new(false);
    let (ifindex, address) = (11, ip("10.1.0.2"));
    bed.event(Event::NeighbourChanged { ifindex, address, state: NeighbourState::Resolved(INSIDE_MAC) });
    let whole = Spec::udp(at("10.1.0.2:1000"), at("198.51.100.2:53"), &[0; 64]);
    let whole = whole.with_link(INSIDE_MAC, LAN_MAC).to_vec().unwrap();
    for (from, to, field, reason) in [(0usize, 40, 0x2000u16, Reason::HeldFragment), (40, 72, 5, Reason::HeldNeighbour)]
    {
        let mut frame = whole[..34].to_vec();
        frame.extend_from_slice(&whole[34 + from..34 + to]);
        frame[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum::finish(checksum::sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(bed.receive(1, frame).reason, reason);
    }
    bed.pass(5000);
    assert_eq!(bed.outside.sent.len(), 1);
    let (_, frame) = bed.last();
    assert_eq!(frame[34 + 8 + 6..34 + 8 + 8], [0x20, 0], "about the first fragment");
}

// RFC 4443 section 3.3: ESP behind an extension header is no later fragment.
#[test]
fn esp_behind_extension_headers_is_answered() {
    let mut bed = Bed::new(true);
    let bytes = &[0, 0, 1, 4, 0, 0, 0, 0];
    let extensions = [Extension { protocol: protocol::DESTINATION_OPTIONS, bytes }];
    let l4 = L4::Raw { protocol: protocol::ESP };
    let mut spec = Spec::new(ip("fd00:0:0:1::2"), ip("2001:db8:0:2::2"), l4, &[0; 32]).with_ttl(1);
    let Ip::V6(v6) = spec.ip else { panic!("two IPv6 addresses") };
    spec.ip = Ip::V6(V6 { extensions: &extensions, ..v6 });
    assert_eq!(bed.send(1, &spec).reason, Reason::TtlExceeded);
    assert_eq!(bed.last().1[54], icmp6::TIME_EXCEEDED);
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop::sample::select(PROTOCOLS.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    // RFC 4787 REQ-10, RFC 5382 REQ-9: whatever was sent and however much of it is quoted, the sender gets its own
    // bytes back.
    #[test]
    fn what_comes_back_is_what_was_sent(
        v6: bool,
        protocol in protocols(),
        translated: bool,
        inside: bool,
        payload in prop::collection::vec(any::<u8>(), 0..200),
        quoted in 8usize..400,
        kinds in prop::sample::select(KINDS.to_vec()),
    ) {
        let mut payload = payload;
        if v6 && kinds.1 == icmp6::PACKET_TOO_BIG {
            // Longer than the MTU that the error names.
            payload.resize(1380, 7);
        }
        let mut c = connection(if translated { TRANSLATED } else { PLAIN }, v6, protocol, &payload);
        let (port, from, sent, original) = if inside {
            (1, c.places.inside_router, &c.answer_sent, &c.answer)
        } else {
            (2, c.places.outside_router, &c.request_sent, &c.request)
        };
        let to = if inside { c.places.server } else if translated { c.places.external } else { c.places.client };
        let length = sent.len().min(quoted + if v6 { 40 } else { 20 });
        let outcome = c.bed.send(port, &error(from, to, kinds, &sent[..length]));
        if length < if v6 { 48 } else { 28 } && protocol != Protocol::Gre {
            prop_assert_ne!(outcome.kind, Kind::Forward);
        } else {
            prop_assert_eq!(outcome.kind, Kind::Forward);
            let (_, frame) = c.bed.last();
            // Half a checksum cannot be put back: what is carried out of the other half is not known.
            let half = protocol == Protocol::Tcp && length == 17 + if v6 { 40 } else { 20 };
            let known = length - usize::from(half);
            prop_assert_eq!(&parts(&frame).2[8..8 + known], &original[..known]);
            prop_assert_eq!(parts(&frame).2.len(), 8 + length);
            prop_assert!(is_sound_error(&frame));
        }
    }

    // Random bytes, and a right quote with some of them changed: no panic, and nothing goes on unless it names the
    // connection, byte for byte where it is looked at.
    #[test]
    fn hostile_quotes_get_nowhere(
        v6: bool,
        protocol in protocols(),
        kind: u8,
        changes in prop::collection::vec((0usize..60, any::<u8>()), 0..4),
        random in prop::collection::vec(any::<u8>(), 0..120),
        length in 0usize..200,
    ) {
        let mut c = connection(TRANSLATED, v6, protocol, b"some payload");
        let (from, to) = (c.places.outside_router, c.places.external);
        prop_assert_ne!(c.bed.send(2, &error(from, to, (kind, kind), &random)).kind, Kind::Forward);
        let mut quoted = c.request_sent.clone();
        for (place, value) in changes {
            let place = place % quoted.len();
            quoted[place] = value;
        }
        quoted.truncate(length);
        let outcome = c.bed.send(2, &error(from, to, (kind, kind), &quoted));
        if outcome.kind == Kind::Forward {
            let (_, frame) = c.bed.last();
            let (source, destination, _) = parts(&frame);
            prop_assert_eq!((source, destination), (from, c.places.client));
            prop_assert!(is_sound_error(&frame));
            let addresses = if v6 { 8..40 } else { 12..20 };
            prop_assert_eq!(&quoted[addresses.clone()], &c.request_sent[addresses]);
        }
        // Whatever came, the connection is as it was: its next error passes.
        let last = c.bed.send(2, &error(from, to, UNREACHABLE, &c.request_sent));
        prop_assert_eq!(last.kind, Kind::Forward);
    }
}
