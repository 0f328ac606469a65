//! Connections between IPv6 and IPv4 (stateful NAT64: RFC 6146, with RFC 7915 and RFC 6052).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use flowhop_engine::view_of;
use flowhop_engine::{Arrived, Buffer, Offload, PathReason};
use flowhop_flow::record::Action;
use flowhop_flow::record::Steer;
use flowhop_flow::{Kind, Reason};
use flowhop_policy::Prefix64;
use flowhop_routing::{Event, Link, NeighbourState};
use flowhop_wire::build::{Ip, L4, Spec, V4};
use flowhop_wire::tcp_flags;

use crate::bed::{Bed, LAN, WAN, at, ends, framed, header, ip, is_sound};
use crate::mapping::udp;
use crate::pieces::split;
use crate::translation::syn;

const RULES: &str = r#"
[[rule]]
name = "out"
from = "inside"
to = "outside"
source = "fd00::/16"
destination = ["198.51.100.0/24", "203.0.113.0/24", "10.0.0.0/8"]
action = "allow"
[[rule]]
name = "old world"
from = "inside"
to = "outside"
source = "10.0.0.0/8"
action = "allow"
"#;
const NAT64: &str = r#"
[[nat]]
name = "nat64"
to = "outside"
source = "fd00::/16"
prefix64 = "64:ff9b::/96"
translate.source = "interface"
"#;
const CLIENT: &str = "[fd00:0:0:1::2]:40000";
const OTHER: &str = "[fd00:0:0:1::80]:41000";
const SERVER: &str = "198.51.100.2:80";
const SERVER6: &str = "[64:ff9b::c633:6402]:80";

fn policy(more: &str) -> String {
    format!("{RULES}{NAT64}{more}")
}

fn embedded(endpoint: SocketAddr) -> SocketAddr {
    let IpAddr::V4(address) = endpoint.ip() else { panic!("{endpoint}") };
    SocketAddr::new(Prefix64::WELL_KNOWN.embed(address).into(), endpoint.port())
}

impl Bed {
    /// What an inside IPv6 endpoint is known as to an IPv4 server.
    #[track_caller]
    fn known_to(&mut self, from: &str, to: &str) -> SocketAddr {
        let (port, source, destination) = self.passes(LAN, &udp(from, embedded(at(to))));
        assert_eq!((port, destination), (WAN, at(to)));
        source
    }
}

// RFC 6146 sections 3.5.2 and 3.6: the source by a binding, the destination by what it stands for, and back.
#[test]
fn an_ipv6_host_reaches_an_ipv4_server() {
    let mut bed = Bed::with(&policy(""));
    let (seen, server) = bed.connects([LAN, WAN], CLIENT, SERVER6);
    assert_eq!((seen.ip(), server), (ip("198.51.100.1"), at(SERVER)));
    // Data both ways, windows and all.
    let (port, source, _) =
        bed.passes(LAN, &Spec::tcp(at(CLIENT), at(SERVER6), tcp_flags::ACK, b"GET /").with_sequence(1001, 5001));
    assert_eq!((port, source), (WAN, seen));
    let answer = Spec::tcp(at(SERVER), seen, tcp_flags::ACK, b"200").with_sequence(5001, 1006);
    assert_eq!(bed.passes(WAN, &answer), (LAN, at(SERVER6), at(CLIENT)));
    let outcome = bed.send(WAN, &Spec::tcp(at(SERVER), seen, tcp_flags::ACK, b"x").with_sequence(0x7000_0000, 1006));
    assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, Reason::TcpWindow));
    // On the user path, and said to be.
    let number = bed.engine.table().live_blocks().next().unwrap();
    let block = bed.engine.table().block(number).unwrap();
    let view = view_of(block);
    assert_eq!(view.keys.map(|key| key.family()), [6, 4]);
    let reason = PathReason::from_number(block.owner.flags.load() as u8);
    assert_eq!((reason, reason.name()), (PathReason::Nat64, "nat64"));
    // It goes on over reload and restart.
    assert_eq!(bed.reload(&policy("")), (1, 0));
    let (mut bed, adopted) = bed.adopt();
    assert_eq!(adopted, (1, 0));
    assert_eq!(bed.bindings.len(), 1);
    assert_eq!(bed.passes(WAN, &answer), (LAN, at(SERVER6), at(CLIENT)));
    assert_eq!(bed.reload(&policy("").replace("64:ff9b::/96", "2001:db8:64::/96")), (0, 1));
    bed.ends_clean();
}

// The kernel programs never forward what has to be written anew, whatever an operator orders.
#[test]
fn its_packets_never_leave_the_user_path() {
    let mut bed = Bed::sized(&policy(""), 1024, true);
    bed.connects([LAN, WAN], CLIENT, SERVER6);
    bed.settle();
    let on_user_path = |bed: &Bed| {
        let number = bed.engine.table().live_blocks().next().unwrap();
        let block = bed.engine.table().block(number).unwrap();
        block.hot.iter().all(|hot| Steer::unpack(hot.steer.load()).action == Action::User)
    };
    assert!(on_user_path(&bed));
    let number = bed.engine.table().live_blocks().next().unwrap();
    let serial = bed.engine.table().block(number).unwrap().owner.serial.load();
    assert!(bed.engine.move_flow(serial, Some(flowhop_engine::Path::Skb), bed.now).is_err());
    bed.engine.paths_changed();
    bed.pass(10_000);
    assert!(on_user_path(&bed));
    assert_eq!(bed.reload(&policy("")), (1, 0));
    bed.pass(1000);
    assert!(on_user_path(&bed));
}

// RFC 6146 section 3.5.3, RFC 7915 sections 4.2 and 5.2.
#[test]
fn echo_passes() {
    let mut bed = Bed::with(&policy(""));
    let (client, server6) = (ip("fd00:0:0:1::2"), ip("64:ff9b::c633:6402"));
    assert_eq!(bed.send(LAN, &Spec::echo_request(client, server6, 77, 1, b"data")).kind, Kind::Forward);
    let (port, frame) = bed.last();
    assert!(is_sound(&frame));
    assert_eq!((port, frame[34], header(&frame).protocol), (WAN, 8, 1));
    let identifier = u16::from_be_bytes([frame[38], frame[39]]);
    let reply = Spec::echo_reply(ip("198.51.100.2"), header(&frame).source.into(), identifier, 1, b"data");
    assert_eq!(bed.send(WAN, &reply).kind, Kind::Forward);
    let (port, frame) = bed.last();
    let mut expected = framed(LAN, &Spec::echo_reply(server6, client, 77, 1, b"data").with_ttl(63));
    expected[..12].copy_from_slice(&frame[..12]);
    assert_eq!((port, frame), (LAN, expected));
    bed.ends_clean();
}

// Rules see the IPv6 source and the IPv4 destination (RFC 6146 section 3.5 leaves that to policy).
#[test]
fn rules_see_the_source_before_and_the_destination_after_translation() {
    let mut bed = Bed::with(&policy(""));
    bed.refused(LAN, &udp("[fd01::2]:1", at(SERVER6)), Kind::Drop, Reason::NoRoute);
    let closed = policy("").replace("\"203.0.113.0/24\", ", "").replace("198.51.100.0/24", "198.51.100.3");
    let mut bed = Bed::with(&closed);
    bed.refused(LAN, &udp(CLIENT, at(SERVER6)), Kind::Drop, Reason::NoRule);
    assert!(bed.bindings.is_empty());
    bed.known_to(CLIENT, "198.51.100.3:53");
    bed.ends_clean();
}

// RFC 6146 section 3.5 (sources behind the prefix), RFC 6052 section 3.1 (no address that is not global behind the
// well-known prefix), RFC 6146 section 3 (no other protocol).
#[test]
fn what_must_not_be_translated_is_refused() {
    let mut bed = Bed::with(&policy(""));
    for address in ["64:ff9b::a01:2", "64:ff9b::c0a8:101", "64:ff9b::7f00:1", "64:ff9b::e000:1"] {
        let spec = Spec::udp(at(CLIENT), (ip(address), 53).into(), b"x");
        bed.refused(LAN, &spec, Kind::Drop, Reason::MartianDestination);
    }
    bed.refused(LAN, &udp("[64:ff9b::c633:6409]:1", at(SERVER6)), Kind::Drop, Reason::MartianSource);
    bed.refused(WAN, &udp("[64:ff9b::c633:6409]:1", at("[fd00:0:0:1::2]:1")), Kind::Drop, Reason::MartianSource);
    let gre = Spec::new(ip("fd00:0:0:1::2"), ip("64:ff9b::c633:6402"), L4::Raw { protocol: 47 }, &[0; 20]);
    bed.refused(LAN, &gre, Kind::Drop, Reason::NatUnsupported);
    // Told in its own family: administratively prohibited (RFC 5508 REQ-8).
    let (port, frame) = bed.last();
    assert_eq!((port, &frame[54..56]), (LAN, &[1, 1][..]));
    // A prefix of one's own may lead to private addresses.
    let mut bed = Bed::with(&policy("").replace("64:ff9b::/96", "2001:db8:64::/48"));
    let private = Prefix64::new("2001:db8:64::".parse().unwrap(), 48).unwrap().embed(Ipv4Addr::new(198, 51, 100, 2));
    let (_, _, destination) = bed.passes(LAN, &udp(CLIENT, (private, 80).into()));
    assert_eq!(destination, at(SERVER));
    bed.ends_clean();
}

// RFC 6146 sections 3.5.1 and 3.5.2: mappings do not depend on the destination; filtering as the policy says.
#[test]
fn mappings_and_filters_are_those_of_any_source_translation() {
    for (filtering, other_port, other_address) in [
        ("endpoint-independent", true, true),
        ("address-dependent", true, false),
        ("address-and-port-dependent", false, false),
    ] {
        let mut bed = Bed::with(&policy(&format!("filtering = \"{filtering}\"\n")));
        let external = bed.known_to(CLIENT, "198.51.100.2:53");
        assert_eq!(bed.known_to(CLIENT, "198.51.100.3:54"), external);
        assert_eq!(bed.bindings.len(), 1);
        let mut bed = Bed::with(&policy(&format!("filtering = \"{filtering}\"\n")));
        let external = bed.known_to(CLIENT, "198.51.100.2:53");
        let mut admits = |from: &str| {
            let outcome = bed.send(WAN, &udp(from, external));
            if outcome.kind == Kind::Forward {
                let (port, frame) = bed.last();
                assert!(is_sound(&frame));
                assert_eq!((port, ends(&frame)), (LAN, (embedded(at(from)), at(CLIENT))));
            } else {
                assert_eq!(outcome.reason, Reason::NatFiltered);
            }
            outcome.kind == Kind::Forward
        };
        assert!(admits("198.51.100.2:53"));
        assert_eq!(admits("198.51.100.2:54"), other_port, "{filtering}");
        assert_eq!(admits("198.51.100.3:53"), other_address, "{filtering}");
        let live = bed.engine.table().live();
        assert_eq!(bed.reload(&policy(&format!("filtering = \"{filtering}\"\n"))).0, live);
        let (bed, adopted) = bed.adopt();
        assert_eq!(adopted, (live, 0));
        bed.ends_clean();
    }
}

// RFC 6146 section 3.8: two hosts behind the box by the addresses that they have outside.
#[test]
fn two_ipv6_hosts_meet_at_their_mappings() {
    let open = policy("filtering = \"endpoint-independent\"\n");
    let mut bed = Bed::with(&open);
    let external = bed.known_to(OTHER, "198.51.100.2:53");
    let (port, source, destination) = bed.passes(LAN, &udp(CLIENT, embedded(external)));
    assert_eq!((port, destination), (LAN, at(OTHER)));
    let IpAddr::V6(seen) = source.ip() else { panic!("{source}") };
    assert_eq!(Prefix64::WELL_KNOWN.extract(seen), Some(Ipv4Addr::new(198, 51, 100, 1)));
    assert_eq!(bed.passes(LAN, &udp(OTHER, source)), (LAN, embedded(external), at(CLIENT)));
    assert_eq!(bed.bindings.len(), 2);
    // In fragments, from another port: both ends are IPv6, so these go as they came.
    let large = Spec::udp(at("[fd00:0:0:1::2]:40002"), embedded(external), &[4; 3000]);
    for piece in split(&framed(LAN, &large), 5, 1232) {
        bed.receive(LAN, piece);
    }
    let sent = std::mem::take(&mut bed.outside.sent);
    assert_eq!((sent.len(), together(&sent, 1280)[8..].to_vec()), (3, vec![4; 3000]));
    assert!(
        sent.iter().all(|(port, frame)| *port == LAN && frame[38..54] == framed(LAN, &udp(CLIENT, at(OTHER)))[38..54])
    );
    let live = bed.engine.table().live();
    assert_eq!(bed.reload(&open), (live, 0));
    let (bed, adopted) = bed.adopt();
    assert_eq!(adopted, (live, 0));
    bed.ends_clean();
    // An IPv4 host behind the box, translated itself, and one IPv6 host.
    let both = format!(
        "{open}[[nat]]\nname = \"hide\"\nto = \"outside\"\nsource = \"10.0.0.0/8\"\nfiltering = \"endpoint-independent\"\ntranslate.source = \"interface\"\n"
    );
    let mut bed = Bed::with(&both);
    let external = bed.known_to(OTHER, "198.51.100.2:53");
    let (port, source, destination) = bed.passes(LAN, &udp("10.1.0.2:5000", external));
    assert_eq!((port, destination), (LAN, at(OTHER)));
    assert_eq!(bed.passes(LAN, &udp(OTHER, source)), (LAN, external, at("10.1.0.2:5000")));
    let old = bed.seen("10.1.0.3:6000", "198.51.100.2:53");
    let (port, source, destination) = bed.passes(LAN, &udp(CLIENT, embedded(old)));
    assert_eq!((port, destination), (LAN, at("10.1.0.3:6000")));
    assert_eq!(bed.passes(LAN, &udp("10.1.0.3:6000", source)), (LAN, embedded(old), at(CLIENT)));
    let live = bed.engine.table().live();
    assert_eq!(bed.reload(&both), (live, 0));
    let (bed, adopted) = bed.adopt();
    assert_eq!(adopted, (live, 0));
    bed.ends_clean();
    // Nothing is there but the box itself.
    let mut bed = Bed::with(&open);
    bed.refused(LAN, &udp(CLIENT, at("[64:ff9b::c633:6401]:99")), Kind::Drop, Reason::NatFiltered);
}

/// An ICMP error as it came to a host: source, type and code, second word, quote.
fn error(frame: &[u8]) -> (IpAddr, [u8; 2], u32, Vec<u8>) {
    assert!(is_sound(frame));
    let (at, source) = if frame[12..14] == [8, 0] {
        (34, IpAddr::from(header(frame).source))
    } else {
        (54, IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap())))
    };
    let word = u32::from_be_bytes(frame[at + 4..at + 8].try_into().unwrap());
    (source, [frame[at], frame[at + 1]], word, frame[at + 8..].to_vec())
}

// RFC 6146 section 3.5 and RFC 7915 sections 4.2, 4.3: errors of IPv4 routers reach the host, with its own packet quoted
// and the router shown by its own address; those of IPv6 routers the server.
#[test]
fn errors_are_translated_with_what_they_quote() {
    let mut bed = Bed::with(&policy(""));
    let sent = Spec::udp(at(CLIENT), at(SERVER6), &[5; 100]);
    let original = framed(LAN, &sent)[14..].to_vec();
    assert_eq!(bed.send(LAN, &sent).kind, Kind::Forward);
    let (_, frame) = bed.last();
    let external = ends(&frame).0;
    let quote = &frame[14..14 + 60];
    for (kind, code, rest, new, word) in [
        (11, 0, [0; 4], [3, 0], 0),
        (3, 3, [0; 4], [1, 4], 0),
        (3, 13, [0; 4], [1, 1], 0),
        (3, 4, [0, 0, 0, 100], [2, 0], 1280),
    ] {
        let spec = Spec::new(ip("198.51.100.99"), external.ip(), L4::Icmp { kind, code, rest }, quote);
        let outcome = bed.send(WAN, &spec);
        assert_eq!((outcome.kind, outcome.reason), (Kind::Forward, Reason::Forwarded), "{kind} {code}");
        let (port, frame) = bed.last();
        let (source, kind, value, quoted) = error(&frame);
        assert_eq!((port, source), (LAN, ip("64:ff9b::c633:6463")));
        assert_eq!((kind, value), (new, word));
        assert_eq!(quoted[..7], original[..7]);
        assert_eq!(quoted[7], 63, "the hop limit that it left with");
        assert_eq!(quoted[8..], original[8..80]);
    }
    // From behind the prefix nobody but the box sends (RFC 6146 section 3.5).
    let unreachable = L4::Icmp { kind: 1, code: 4, rest: [0; 4] };
    assert_eq!(bed.send(LAN, &udp("[fd00:0:0:1::2]:7", at("[2001:db8:0:2::2]:7"))).reason, Reason::NoRule);
    let forged = Spec::new(ip("64:ff9b::c633:6463"), ip("fd00:0:0:1::2"), unreachable, &original);
    bed.refused(LAN, &forged, Kind::Drop, Reason::MartianSource);
    // A type without counterpart; a quote of a stranger's packet.
    let none = Spec::new(ip("198.51.100.99"), external.ip(), L4::Icmp { kind: 3, code: 14, rest: [0; 4] }, quote);
    bed.refused(WAN, &none, Kind::Drop, Reason::NatUnsupported);
    // From inside: the server's packet, and an error of a router on the way to the host.
    let answer = Spec::udp(at(SERVER), external, &[6; 100]);
    assert_eq!(bed.send(WAN, &answer).kind, Kind::Forward);
    let (_, frame) = bed.last();
    let original = framed(WAN, &answer)[14..].to_vec();
    let l4 = L4::Icmp { kind: 1, code: 4, rest: [0; 4] };
    let spec = Spec::new(ip("fd00:0:0:1::99"), ip("64:ff9b::c633:6402"), l4, &frame[14..]);
    assert_eq!(bed.send(LAN, &spec).kind, Kind::Forward);
    let (port, frame) = bed.last();
    let (source, kind, _, quoted) = error(&frame);
    assert_eq!((port, source, kind), (WAN, external.ip(), [3, 3]));
    assert_eq!(quoted[12..], original[12..]);
    bed.ends_clean();
}

// The box's own errors are of the sender's family: hop limit, MTU with the difference of the headers (RFC 7915 sections 4
// and 5, RFC 6146 section 3.6).
#[test]
fn own_errors_are_of_the_family_of_the_sender() {
    let mut bed = Bed::with(&policy(""));
    let external = bed.known_to(CLIENT, SERVER);
    bed.refused(LAN, &udp(CLIENT, at(SERVER6)).with_ttl(1), Kind::Drop, Reason::TtlExceeded);
    let (port, frame) = bed.last();
    let (source, kind, _, quoted) = error(&frame);
    assert_eq!((port, source, kind), (LAN, ip("fd00:0:0:1::1"), [3, 0]));
    assert_eq!(quoted, framed(LAN, &udp(CLIENT, at(SERVER6)).with_ttl(1))[14..]);
    let mut lan = Link::ethernet(11, "lan0", crate::bed::LAN_MAC);
    lan.mtu = 1300;
    let mut wan = Link::ethernet(12, "wan0", crate::bed::WAN_MAC);
    wan.mtu = 1400;
    bed.event(Event::LinkUpsert(lan));
    bed.event(Event::LinkUpsert(wan));
    // 1420 bytes of IPv6 are 1400 of IPv4.
    for (payload, fits) in [(1420 - 48, true), (1421 - 48, false)] {
        let outcome = bed.send(LAN, &Spec::udp(at(CLIENT), at(SERVER6), &vec![0; payload]));
        assert_eq!(outcome.kind == Kind::Forward, fits, "{payload}");
        let (port, frame) = bed.last();
        if fits {
            assert_eq!((port, frame.len()), (WAN, 1414));
        } else {
            let (_, kind, mtu, _) = error(&frame);
            assert_eq!((port, kind, mtu), (LAN, [2, 0], 1420));
        }
    }
    for (payload, fits) in [(1280 - 28, true), (1281 - 28, false)] {
        let outcome = bed.send(WAN, &Spec::udp(at(SERVER), external, &vec![0; payload]));
        assert_eq!(outcome.kind == Kind::Forward, fits, "{payload}");
        let (port, frame) = bed.last();
        if fits {
            assert_eq!((port, frame.len()), (LAN, 1314));
        } else {
            let (_, kind, mtu, _) = error(&frame);
            assert_eq!((port, kind, mtu), (WAN, [3, 4], 1280));
        }
    }
    bed.ends_clean();
}

/// Puts fragments, or a whole packet, together again; each has to fit.
fn together(frames: &[(u8, Vec<u8>)], most: usize) -> Vec<u8> {
    let v4 = frames[0].1[12..14] == [8, 0];
    let mut parts: Vec<(usize, Vec<u8>)> = Vec::new();
    for (_, frame) in frames {
        assert!(frame.len() <= 14 + most, "{}", frame.len());
        if v4 {
            parts.push((header(frame).fragment_offset(), frame[34..].to_vec()));
        } else if frame[20] == 44 {
            parts.push((usize::from(u16::from_be_bytes([frame[56], frame[57]]) & 0xfff8), frame[62..].to_vec()));
        } else {
            parts.push((0, frame[54..].to_vec()));
        }
    }
    parts.sort();
    let mut whole = Vec::new();
    for (offset, data) in parts {
        assert_eq!(offset, whole.len());
        whole.extend(data);
    }
    whole
}

// RFC 6146 section 3.4, RFC 7915 sections 4.1 and 5.1.1: fragments in both directions, in any order, echo included.
#[test]
fn fragments_are_translated() {
    let mut bed = Bed::with(&policy(""));
    let payload: Vec<u8> = (0..3000u32).map(|byte| byte as u8).collect();
    let external = bed.known_to("[fd00:0:0:1::2]:2000", "198.51.100.2:53");
    for reversed in [false, true] {
        for echo in [false, true] {
            let spec = if echo {
                Spec::echo_request(ip("fd00:0:0:1::2"), ip("64:ff9b::c633:6402"), 2000, 1, &payload)
            } else {
                Spec::udp(at("[fd00:0:0:1::2]:2000"), at("[64:ff9b::c633:6402]:53"), &payload)
            };
            let mut pieces = split(&framed(LAN, &spec), 0x1234, 1232);
            if reversed {
                pieces.reverse();
            }
            bed.outside.sent.clear();
            let (last, first) = pieces.split_last().unwrap();
            for piece in first {
                assert_eq!(bed.receive(LAN, piece.clone()).reason, Reason::HeldFragment);
            }
            assert_eq!(bed.receive(LAN, last.clone()).kind, Kind::Forward);
            let sent = std::mem::take(&mut bed.outside.sent);
            assert_eq!(sent.len(), 3);
            assert!(sent.iter().all(|(port, frame)| *port == WAN && header(frame).identification.get() == 0x1234));
            // 1280 bytes of IPv6 with a fragment header are 1252 of IPv4.
            let whole = together(&sent, 1252);
            let mut frame = sent[0].1[..34].to_vec();
            frame.extend_from_slice(&whole);
            assert_eq!(frame[42..], payload);
            let length = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&length.to_be_bytes());
            assert!(flowhop_wire::verify::transport(&frame[14..]).is_acceptable());
            // Back: the server's, which may be cut.
            let (server, seen) = (ip("198.51.100.2"), external.ip());
            let mut spec = if echo {
                Spec::echo_reply(server, seen, u16::from_be_bytes([whole[4], whole[5]]), 1, &payload)
            } else {
                Spec::udp((server, 53).into(), external, &payload)
            };
            let Ip::V4(fields) = spec.ip else { panic!("IPv4") };
            spec.ip = Ip::V4(V4 { df: false, ..fields });
            let mut pieces = split(&framed(WAN, &spec), 0x4321, 1480);
            if reversed {
                pieces.reverse();
            }
            for piece in pieces {
                bed.receive(WAN, piece);
            }
            let sent = std::mem::take(&mut bed.outside.sent);
            // None is longer than any IPv6 link takes (RFC 7915 section 4).
            let whole = together(&sent, 1280);
            assert!(
                sent.iter().all(|(port, frame)| *port == LAN && frame[20] == 44 && frame[58..62] == [0, 0, 0x43, 0x21])
            );
            assert_eq!(whole[8..], payload);
        }
    }
    bed.ends_clean();
}

// RFC 7915 section 4: an IPv4 packet that may be cut leaves in pieces that any IPv6 link takes; section 5.1: one that came
// in 1280 bytes may be cut on its way through IPv4.
#[test]
fn packets_that_may_be_cut_are() {
    let mut bed = Bed::with(&policy(""));
    let external = bed.known_to(CLIENT, SERVER);
    let payload = [9; 1400];
    let mut spec = Spec::udp(at(SERVER), external, &payload);
    let Ip::V4(fields) = spec.ip else { panic!("IPv4") };
    spec.ip = Ip::V4(V4 { df: false, id: 7, ..fields });
    let outcome = bed.send(WAN, &spec);
    assert_eq!((outcome.kind, outcome.reason), (Kind::Consume, Reason::Fragmented));
    let sent = std::mem::take(&mut bed.outside.sent);
    assert_eq!(sent.len(), 2);
    assert_eq!(together(&sent, 1280)[8..], payload);
    let mut wan = Link::ethernet(12, "wan0", crate::bed::WAN_MAC);
    wan.mtu = 600;
    bed.event(Event::LinkUpsert(wan));
    let outcome = bed.send(LAN, &Spec::udp(at(CLIENT), at(SERVER6), &payload[..1280 - 48]));
    assert_eq!((outcome.kind, outcome.reason), (Kind::Consume, Reason::Fragmented));
    let sent = std::mem::take(&mut bed.outside.sent);
    assert_eq!(together(&sent, 600)[8..], payload[..1280 - 48]);
    // A longer one may not: its sender is told the least that there is.
    let outcome = bed.send(LAN, &Spec::udp(at(CLIENT), at(SERVER6), &payload[..1281 - 48]));
    assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, Reason::TooBig));
    let (_, frame) = bed.last();
    assert_eq!(error(&frame).2, 1280);
    bed.ends_clean();
}

// RFC 7915 section 4.5: UDP without a checksum, whole and in fragments.
#[test]
fn udp_without_a_checksum_gets_one() {
    let mut bed = Bed::with(&policy(""));
    let external = bed.known_to(CLIENT, SERVER);
    let spec = Spec::udp(at(SERVER), external, b"no checksum");
    let mut frame = framed(WAN, &spec);
    frame[40..42].fill(0);
    assert_eq!(bed.receive(WAN, frame).kind, Kind::Forward);
    let (_, frame) = bed.last();
    let expected = framed(LAN, &Spec::udp(at(SERVER6), at(CLIENT), b"no checksum"));
    assert_eq!(frame[54..], expected[54..]);
    let payload = [3; 2000];
    let mut frame = framed(WAN, &Spec::udp(at(SERVER), external, &payload));
    frame[40..42].fill(0);
    for piece in split(&frame, 9, 1480) {
        bed.receive(WAN, piece);
    }
    let sent = std::mem::take(&mut bed.outside.sent);
    let whole = together(&sent, 1280);
    let expected = framed(LAN, &Spec::udp(at(SERVER6), at(CLIENT), &payload));
    assert_eq!(whole, expected[54..]);
    bed.ends_clean();
}

// Super-packets and partial checksums of hosts on the same machine go through as they are, in the other family's words.
#[test]
fn offloads_are_translated() {
    let mut bed = Bed::with(&policy(""));
    let (seen, _) = bed.connects([LAN, WAN], CLIENT, SERVER6);
    let data = [1; 4000];
    let spec = Spec::tcp(at(CLIENT), at(SERVER6), tcp_flags::ACK, &data).with_sequence(1001, 5001);
    let mut frame = framed(LAN, &spec.with_checksum(flowhop_wire::build::Checksum::Partial));
    let offload = Offload {
        partial: true,
        verified: false,
        checksum_start: 54,
        checksum_offset: 16,
        segmentation: 4,
        segment: 1000,
        headers: 74,
    };
    struct Kept(Vec<(Vec<u8>, Offload)>);
    impl flowhop_engine::Io for Kept {
        fn transmit(&mut self, _: u8, _: u32, frame: &mut [u8], offload: &Offload) -> bool {
            self.0.push((frame.to_vec(), *offload));
            true
        }
        fn stack(&mut self, _: u8, _: &mut [u8], _: &Offload) -> bool {
            false
        }
        fn resolve(&mut self, _: u32, _: IpAddr) {}
        fn log(&mut self, _: &flowhop_engine::LogEvent) {}
    }
    let mut kept = Kept(Vec::new());
    let arrived = Arrived { port: LAN, gate: 0, driver: false, now: bed.now };
    let outcome = bed.engine.receive(&arrived, &mut Buffer::new(&mut frame, offload), &mut kept);
    assert_eq!((outcome.kind, outcome.reason), (Kind::Forward, Reason::Forwarded));
    let (mut frame, sent) = kept.0.pop().unwrap();
    assert_eq!(sent, Offload { checksum_start: 34, segmentation: 1, headers: 54, ..offload });
    flowhop_wire::verify::complete_partial(&mut frame, 34, 16).unwrap();
    assert!(is_sound(&frame));
    assert_eq!(ends(&frame), (seen, at(SERVER)));
    // The IPv4 link takes less than what any IPv6 host may send: the device cuts smaller (RFC 7915 section 5.1).
    let mut wan = Link::ethernet(12, "wan0", crate::bed::WAN_MAC);
    wan.mtu = 600;
    bed.event(Event::LinkUpsert(wan));
    let mut frame = framed(LAN, &spec.with_sequence(5001, 5001).with_checksum(flowhop_wire::build::Checksum::Partial));
    let outcome = bed.engine.receive(&arrived, &mut Buffer::new(&mut frame, offload), &mut kept);
    assert_eq!((outcome.kind, outcome.reason), (Kind::Forward, Reason::Forwarded));
    assert_eq!(kept.0.pop().unwrap().1.segment, 560);
    let long = Offload { segment: 1300, ..offload };
    let mut frame = framed(LAN, &spec.with_sequence(9001, 5001).with_checksum(flowhop_wire::build::Checksum::Partial));
    let outcome = bed.engine.receive(&arrived, &mut Buffer::new(&mut frame, long), &mut kept);
    assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, Reason::TooBig));
}

// The neighbour is not known yet: the packet waits as it came.
#[test]
fn packets_wait_for_their_neighbour() {
    let mut bed = Bed::with(&policy(""));
    let to = "[64:ff9b::c633:6405]:80";
    bed.refused(LAN, &syn(CLIENT, to), Kind::Hold, Reason::HeldNeighbour);
    assert_eq!(bed.outside.resolved.last(), Some(&ip("198.51.100.5")));
    let state = NeighbourState::Resolved(crate::bed::OUTSIDE_MAC);
    bed.event(Event::NeighbourChanged { ifindex: 12, address: ip("198.51.100.5"), state });
    let (port, frame) = bed.last();
    assert_eq!((port, ends(&frame).1), (WAN, at("198.51.100.5:80")));
    bed.ends_clean();
}

// RFC 6384 is not there: no helper reads what is said of addresses that mean nothing on the other side.
#[test]
fn helpers_do_not_read_it() {
    let ftp = "[[rule]]\nname = \"ftp\"\nfrom = \"inside\"\nto = \"outside\"\nservice = \"tcp/21\"\naction = \"allow\"\nhelper = \"ftp\"\n";
    let both = format!("{ftp}{}", policy(""));
    let mut bed = Bed::with(&both);
    let (seen, server) = bed.connects([LAN, WAN], CLIENT, "[64:ff9b::c633:6402]:21");
    let reason = |bed: &Bed| {
        let number = bed.engine.table().live_blocks().next().unwrap();
        PathReason::from_number(bed.engine.table().block(number).unwrap().owner.flags.load() as u8)
    };
    assert_eq!(reason(&bed), PathReason::Nat64);
    let command = b"EPRT |2|fd00:0:0:1::2|50000|\r\n";
    let sent = Spec::tcp(at(CLIENT), at("[64:ff9b::c633:6402]:21"), tcp_flags::ACK, command).with_sequence(1001, 5001);
    assert_eq!(bed.passes(LAN, &sent), (WAN, seen, server));
    // Under another policy and back again, too.
    assert_eq!(bed.reload(&policy("")), (1, 0));
    assert_eq!(bed.reload(&both), (1, 0));
    bed.pass(1000);
    assert_eq!(reason(&bed), PathReason::Nat64);
    bed.ends_clean();
}

// What SYNs announce fits both sides: IPv6 headers on one, IPv4 headers on the other.
#[test]
fn segments_are_clamped_to_both_sides() {
    let mut bed = Bed::with(&policy("mss_clamp = true\n"));
    let spec = syn(CLIENT, SERVER6).with_tcp_options(&[2, 4, 0x23, 0]);
    assert_eq!(bed.send(LAN, &spec).kind, Kind::Forward);
    let (_, frame) = bed.last();
    assert!(is_sound(&frame));
    assert_eq!(u16::from_be_bytes([frame[56], frame[57]]), 1440);
    bed.ends_clean();
}
