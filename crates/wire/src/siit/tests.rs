use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::build::{Extension, Ip, L4, Spec, V4 as SpecV4, V6};
use crate::{tcp_flags, verify};

const CLIENT: &str = "2001:db8::2";
const SERVER6: &str = "64:ff9b::198.51.100.2";
const EXTERNAL: &str = "198.51.100.1";
const SERVER: &str = "198.51.100.2";

fn v4(text: &str) -> [u8; 4] {
    text.parse::<Ipv4Addr>().unwrap().octets()
}

fn v6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn port_bytes(source: u16, destination: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    [a, b, c, d]
}

fn out_ends(ports: [u8; 4]) -> Ends<[u8; 4]> {
    Ends { source: v4(EXTERNAL), destination: v4(SERVER), ports }
}

fn back_ends(ports: [u8; 4]) -> Ends<[u8; 16]> {
    Ends { source: v6(SERVER6), destination: v6(CLIENT), ports }
}

fn bytes(spec: &Spec<'_>) -> Vec<u8> {
    spec.without_link().to_vec().unwrap()
}

fn at(address: &str, port: u16) -> std::net::SocketAddr {
    (address.parse::<IpAddr>().unwrap(), port).into()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Translates to IPv4; what came out must be sound.
fn down(packet: &[u8], ports: [u8; 4]) -> (Vec<u8>, Translated) {
    let mut out = std::vec![0xa5; 70_000];
    let translated = to_v4(packet, &out_ends(ports), 0x7777, false, &mut out).unwrap();
    out.truncate(translated.length);
    assert!(verify::ipv4_header(&out).is_acceptable());
    (out, translated)
}

fn up(packet: &[u8], ports: [u8; 4]) -> (Vec<u8>, Translated) {
    let mut out = std::vec![0xa5; 70_000];
    let translated = to_v6(packet, &back_ends(ports), false, &mut out).unwrap();
    out.truncate(translated.length);
    (out, translated)
}

fn header4(packet: &[u8]) -> Ipv4 {
    Ipv4::read_from_prefix(packet).unwrap().0
}

fn header6(packet: &[u8]) -> Ipv6 {
    Ipv6::read_from_prefix(packet).unwrap().0
}

// RFC 7915 section 5.1: traffic class, hop limit, identification, "don't fragment".
#[test]
fn headers_are_translated_to_ipv4() {
    let mut spec = Spec::udp(at(CLIENT, 1000), at(SERVER6, 53), &[7; 1000]).with_ttl(9);
    let Ip::V6(fields) = spec.ip else { panic!("IPv6") };
    spec.ip = Ip::V6(V6 { dscp: 46, ecn: 1, flow_label: 0x1234, ..fields });
    let (packet, translated) = down(&bytes(&spec), port_bytes(40000, 53));
    let header = header4(&packet);
    assert_eq!((header.dscp(), header.ecn(), header.ttl, header.protocol), (46, 1, 8, protocol::UDP));
    assert_eq!((header.source, header.destination), (v4(EXTERNAL), v4(SERVER)));
    assert_eq!((usize::from(header.total_length.get()), header.identification.get()), (1028, 0x7777));
    assert!(!header.dont_fragment() && !header.is_fragment());
    assert_eq!(translated, Translated { length: 1028, transport: 20, fragmentable: Some(0) });
    assert!(verify::transport(&packet).is_acceptable());
    assert_eq!(packet[20..24], port_bytes(40000, 53));
    for (payload, marked) in [(1232, false), (1233, true)] {
        let (packet, translated) =
            down(&bytes(&Spec::udp(at(CLIENT, 1), at(SERVER6, 2), &std::vec![0; payload])), [0; 4]);
        assert_eq!(header4(&packet).dont_fragment(), marked, "{payload}");
        assert_eq!(translated.fragmentable.is_none(), marked);
    }
}

// RFC 7915 section 4.1.
#[test]
fn headers_are_translated_to_ipv6() {
    let mut spec = Spec::udp(at(SERVER, 53), at(EXTERNAL, 40000), &[7; 1000]).with_ttl(9);
    let Ip::V4(fields) = spec.ip else { panic!("IPv4") };
    // A record route of three places, which is left behind.
    spec.ip = Ip::V4(SpecV4 { dscp: 46, ecn: 1, id: 0x4321, df: false, options: &[7, 7, 4, 0, 0, 0, 0], ..fields });
    let (packet, translated) = up(&bytes(&spec), port_bytes(53, 1000));
    let header = header6(&packet);
    assert_eq!((header.dscp(), header.ecn(), header.hop_limit, header.next_header), (46, 1, 8, protocol::UDP));
    assert_eq!((header.flow_label(), header.payload_length.get()), (0, 1008));
    assert_eq!((header.source, header.destination), (v6(SERVER6), v6(CLIENT)));
    assert_eq!(translated, Translated { length: 1048, transport: 40, fragmentable: Some(0x4321) });
    assert!(verify::transport(&packet).is_acceptable());
    spec.ip = Ip::V4(fields);
    assert_eq!(up(&bytes(&spec), [0; 4]).1.fragmentable, None, "don't fragment");
}

// RFC 7915 section 4.1: an unexpired source route; section 5.1: a routing header with segments left.
#[test]
fn source_routes_are_refused() {
    let mut out = [0; 200];
    let spec = Spec::udp(at(SERVER, 53), at(EXTERNAL, 1), b"x");
    let Ip::V4(fields) = spec.ip else { panic!("IPv4") };
    for (options, refused) in
        [([131, 7, 4, 10, 0, 0, 1], true), ([137, 7, 4, 10, 0, 0, 1], true), ([131, 7, 8, 10, 0, 0, 1], false)]
    {
        let spec = Spec { ip: Ip::V4(SpecV4 { options: &options, ..fields }), ..spec };
        let result = to_v6(&bytes(&spec), &back_ends([0; 4]), false, &mut out);
        assert_eq!(result.err(), refused.then_some(Fault::SourceRoute));
    }
    let spec = Spec::udp(at(CLIENT, 1), at(SERVER6, 53), b"x");
    let Ip::V6(fields) = spec.ip else { panic!("IPv6") };
    for (left, refused) in [(1, true), (0, false)] {
        let bytes6 = [0, 0, 4, left, 0, 0, 0, 0];
        let extensions = [Extension { protocol: protocol::ROUTING, bytes: &bytes6 }];
        let spec = Spec { ip: Ip::V6(V6 { extensions: &extensions, ..fields }), ..spec };
        let result = to_v4(&bytes(&spec), &out_ends([0; 4]), 0, false, &mut out);
        assert_eq!(result.err(), refused.then_some(Fault::SourceRoute));
        if let Ok(translated) = result {
            assert_eq!(translated.length, 20 + 9, "extension headers are left behind");
        }
    }
}

// RFC 7915 sections 4.2, 5.2: echo, whose checksum has a pseudo-header in IPv6 alone.
#[test]
fn echo_is_translated_both_ways() {
    let request = bytes(&Spec::echo_request(ip(CLIENT), ip(SERVER6), 77, 3, b"payload"));
    let (packet, _) = down(&request, port_bytes(5000, 0));
    assert!(verify::transport(&packet).is_acceptable());
    assert_eq!(packet, {
        let mut spec = Spec::echo_request(ip(EXTERNAL), ip(SERVER), 5000, 3, b"payload").with_ttl(63);
        let Ip::V4(fields) = spec.ip else { panic!("IPv4") };
        spec.ip = Ip::V4(SpecV4 { id: 0x7777, df: false, ..fields });
        bytes(&spec)
    });
    let reply = bytes(&Spec::echo_reply(ip(SERVER), ip(EXTERNAL), 5000, 3, b"payload"));
    let (packet, _) = up(&reply, port_bytes(77, 0));
    assert_eq!(packet, bytes(&Spec::echo_reply(ip(SERVER6), ip(CLIENT), 77, 3, b"payload").with_ttl(63)));
}

// RFC 7915 section 4.5: IPv6 wants a checksum. One that was wrong stays wrong.
#[test]
fn checksums_are_made_up_or_kept_as_wrong_as_they_were() {
    let mut packet = bytes(&Spec::udp(at(SERVER, 53), at(EXTERNAL, 40000), b"data!"));
    packet[26..28].fill(0);
    let (made, _) = up(&packet, port_bytes(53, 1000));
    assert_eq!(made, bytes(&Spec::udp(at(SERVER6, 53), at(CLIENT, 1000), b"data!").with_ttl(63)));
    let mut wrong = bytes(&Spec::tcp(at(CLIENT, 1), at(SERVER6, 2), tcp_flags::ACK, b"data"));
    wrong[62] ^= 1;
    let (packet, _) = down(&wrong, port_bytes(1, 2));
    assert!(!verify::transport(&packet).is_acceptable());
    // A partial one is the sum of the new pseudo-header.
    let partial = Spec::tcp(at(CLIENT, 1), at(SERVER6, 2), tcp_flags::ACK, b"data");
    let mut partial = bytes(&partial.with_checksum(crate::build::Checksum::Partial));
    let mut out = std::vec![0; 200];
    let length = to_v4(&partial, &out_ends(port_bytes(9, 2)), 0, true, &mut out).unwrap().length;
    out.truncate(length);
    verify::complete_partial(&mut out, 20, 16).unwrap();
    assert!(verify::transport(&out).is_acceptable());
    partial.truncate(50);
    assert_eq!(to_v4(&partial, &out_ends([0; 4]), 0, true, &mut out).err(), Some(Fault::Malformed));
}

// RFC 7915 section 5.1.1: of a fragment header the low half of the identification is taken over.
#[test]
fn a_fragment_header_is_translated() {
    let mut spec = Spec::udp(at(CLIENT, 1), at(SERVER6, 2), &[1; 1400]);
    let Ip::V6(fields) = spec.ip else { panic!("IPv6") };
    let fragment = [0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78];
    let extensions = [Extension { protocol: protocol::FRAGMENT, bytes: &fragment }];
    spec.ip = Ip::V6(V6 { extensions: &extensions, ..fields });
    let (packet, translated) = down(&bytes(&spec), port_bytes(1, 2));
    let header = header4(&packet);
    assert_eq!((header.identification.get(), header.flags_fragment.get()), (0x5678, 0));
    assert_eq!(translated.fragmentable, Some(0));
}

// Found by the fuzz target `headers`: a UDP length beyond the packet, with a checksum that happens to be right.
#[test]
fn udp_longer_than_its_packet_has_no_translation() {
    let packet = [
        72, 0, 0, 41, 0, 27, 0, 0, 0, 17, 72, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 131, 3, 116, 3, 3, 3, 131, 3, 3, 3,
        3, 3, 3, 3, 9, 8, 255, 255,
    ];
    let ends = Ends { source: [0x20; 16], destination: [0xfd; 16], ports: [1, 2, 3, 4] };
    assert_eq!(to_v6(&packet, &ends, false, &mut [0; 441]).err(), Some(Fault::Malformed));
}

// RFC 6146 section 3: TCP, UDP and ICMP alone.
#[test]
fn other_protocols_and_messages_have_no_translation() {
    let mut out = [0; 200];
    for number in [protocol::SCTP, protocol::GRE, protocol::ESP, protocol::ICMP, protocol::NO_NEXT] {
        let spec = Spec::new(ip(CLIENT), ip(SERVER6), L4::Raw { protocol: number }, &[0; 20]);
        assert_eq!(
            to_v4(&bytes(&spec), &out_ends([0; 4]), 0, false, &mut out).err(),
            Some(Fault::Protocol),
            "{number}"
        );
    }
    for kind in [icmp6::MLD_QUERY, icmp6::NEIGHBOR_SOLICITATION, 200] {
        let spec = Spec::new(ip(CLIENT), ip(SERVER6), L4::Icmp { kind, code: 0, rest: [0; 4] }, &[0; 20]);
        assert_eq!(to_v4(&bytes(&spec), &out_ends([0; 4]), 0, false, &mut out).err(), Some(Fault::Message), "{kind}");
    }
}

/// An error about a UDP packet, or what is quoted of it.
fn error4(kind: u8, code: u8, rest: [u8; 4], quote: &[u8]) -> Vec<u8> {
    bytes(&Spec::new(ip("198.51.100.9"), ip(EXTERNAL), L4::Icmp { kind, code, rest }, quote))
}

fn error6(kind: u8, code: u8, rest: [u8; 4], quote: &[u8]) -> Vec<u8> {
    bytes(&Spec::new(ip("2001:db8::9"), ip(SERVER6), L4::Icmp { kind, code, rest }, quote))
}

const MTUS: Mtus = Mtus { v4: 1500, v6: 1500 };

fn error_up(packet: &[u8], mtus: Mtus) -> Result<Vec<u8>, Fault> {
    let mut out = std::vec![0xa5; 4000];
    let router = v6("64:ff9b::198.51.100.9");
    let quoted = Ends { source: v6(CLIENT), destination: v6(SERVER6), ports: port_bytes(1000, 53) };
    let length = error_to_v6(packet, (&router, &v6(CLIENT)), &quoted, mtus, 1500, &mut out)?;
    out.truncate(length);
    assert!(verify::transport(&out).is_acceptable());
    assert_eq!(usize::from(header6(&out).payload_length.get()) + 40, length);
    Ok(out)
}

fn error_down(packet: &[u8], mtus: Mtus) -> Result<Vec<u8>, Fault> {
    let mut out = std::vec![0xa5; 4000];
    let quoted = Ends { source: v4(SERVER), destination: v4(EXTERNAL), ports: port_bytes(53, 40000) };
    let length = error_to_v4(packet, (&v4(EXTERNAL), &v4(SERVER)), &quoted, mtus, 1500, &mut out)?;
    out.truncate(length);
    assert!(verify::ipv4_header(&out).is_acceptable() && verify::transport(&out).is_acceptable());
    Ok(out)
}

// RFC 7915 section 4.2, the whole table.
#[test]
fn types_of_errors_are_translated_to_icmpv6() {
    let sent = bytes(&Spec::udp(at(EXTERNAL, 40000), at(SERVER, 53), &[1; 100]));
    let mut expected = std::collections::BTreeMap::new();
    for (code, new) in [
        (0, (1, 0)),
        (1, (1, 0)),
        (2, (4, 1)),
        (3, (1, 4)),
        (4, (2, 0)),
        (5, (1, 0)),
        (6, (1, 0)),
        (7, (1, 0)),
        (8, (1, 0)),
        (9, (1, 1)),
        (10, (1, 1)),
        (11, (1, 0)),
        (12, (1, 0)),
        (13, (1, 1)),
        (15, (1, 1)),
    ] {
        expected.insert((3u8, code), new);
    }
    for (code, new) in [(0, (3, 0)), (1, (3, 1))] {
        expected.insert((11, code), new);
    }
    for code in [0, 2] {
        expected.insert((12, code), (4, 0));
    }
    for kind in [3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 17] {
        for code in 0..=16u8 {
            if kind == 11 && code > 1 {
                continue;
            }
            let result = error_up(&error4(kind, code, [0, 0, 0, 100], &sent), MTUS);
            assert_eq!(
                result.ok().map(|packet| (packet[40], packet[41])),
                expected.get(&(kind, code)).copied(),
                "{kind} {code}"
            );
        }
    }
    let protocol = error_up(&error4(3, 2, [0; 4], &sent), MTUS).unwrap();
    assert_eq!(protocol[44..48], [0, 0, 0, 6], "the pointer is to the next header");
}

// RFC 7915 section 5.2, the whole table.
#[test]
fn types_of_errors_are_translated_to_icmp() {
    let sent = bytes(&Spec::udp(at(SERVER6, 53), at(CLIENT, 1000), &[1; 100]));
    let expected = [
        ((1, 0), (3, 1)),
        ((1, 1), (3, 10)),
        ((1, 2), (3, 1)),
        ((1, 3), (3, 1)),
        ((1, 4), (3, 3)),
        ((2, 0), (3, 4)),
        ((3, 0), (11, 0)),
        ((3, 1), (11, 1)),
        ((4, 0), (12, 0)),
        ((4, 1), (3, 2)),
    ];
    for kind in [1, 2, 3, 4, 5, 100, 127, 130, 135, 137] {
        for code in 0..6u8 {
            if (kind == 3 && code > 1) || (kind == 2 && code > 0) {
                continue;
            }
            let result = error_down(&error6(kind, code, [0, 0, 0, 0], &sent), MTUS);
            let new = expected.iter().find(|(old, _)| *old == (kind, code)).map(|(_, new)| *new);
            assert_eq!(result.ok().map(|packet| (packet[20], packet[21])), new, "{kind} {code}");
        }
    }
}

// RFC 7915, figures 3 and 6: where the pointers of parameter problems go.
#[test]
fn pointers_of_parameter_problems_are_translated() {
    let sent = bytes(&Spec::udp(at(EXTERNAL, 40000), at(SERVER, 53), b"x"));
    let figure3 = |old| match old {
        0 | 1 => Some(old),
        2 | 3 => Some(4),
        8 => Some(7),
        9 => Some(6),
        12..=15 => Some(8),
        16..=19 => Some(24),
        _ => None,
    };
    for old in 0..=40u8 {
        let new = error_up(&error4(12, 0, [old, 0, 0, 0], &sent), MTUS).ok().map(|packet| packet[47]);
        assert_eq!(new, figure3(old), "{old}");
    }
    let sent = bytes(&Spec::udp(at(SERVER6, 53), at(CLIENT, 1000), b"x"));
    let figure6 = |old| match old {
        0 | 1 => Some(old),
        4 | 5 => Some(2),
        6 => Some(9),
        7 => Some(8),
        8..=23 => Some(12),
        24..=39 => Some(16),
        _ => None,
    };
    for old in 0..=48u8 {
        let new = error_down(&error6(4, 0, [0, 0, 0, old], &sent), MTUS).ok().map(|packet| packet[24]);
        assert_eq!(new, figure6(old), "{old}");
    }
}

// RFC 7915 sections 4.2 and 5.2: MTUs differ by the headers; those of the links count as well; IPv6 has 1280 at least.
#[test]
fn mtus_are_adjusted() {
    let sent = bytes(&Spec::udp(at(EXTERNAL, 40000), at(SERVER, 53), &[1; 1400]));
    let mtu_up = |named: u16, mtus| {
        let [high, low] = named.to_be_bytes();
        let packet = error_up(&error4(3, 4, [0, 0, high, low], &sent), mtus).unwrap();
        u32::from_be_bytes(packet[44..48].try_into().unwrap())
    };
    assert_eq!(mtu_up(1400, MTUS), 1420);
    assert_eq!(mtu_up(576, MTUS), 1280);
    assert_eq!(mtu_up(1400, Mtus { v4: 1300, v6: 1500 }), 1320);
    assert_eq!(mtu_up(1400, Mtus { v4: 1500, v6: 1300 }), 1300);
    assert_eq!(mtu_up(0, MTUS), 1280, "of 1428 bytes the plateau below is 1006");
    let sent = bytes(&Spec::udp(at(SERVER6, 53), at(CLIENT, 1000), &[1; 1400]));
    let mtu_down = |named: u32, mtus| {
        let packet = error_down(&error6(2, 0, named.to_be_bytes(), &sent), mtus).unwrap();
        u16::from_be_bytes([packet[26], packet[27]])
    };
    assert_eq!(mtu_down(1400, MTUS), 1380);
    assert_eq!(mtu_down(1400, Mtus { v4: 1300, v6: 1500 }), 1300);
    assert_eq!(mtu_down(1400, Mtus { v4: 1500, v6: 1300 }), 1280);
}

// RFC 7915 sections 4.3 and 5.3: the quote is what its sender sent, whatever is there of it.
#[test]
fn quotes_look_as_they_were_sent() {
    let payload = [3; 60];
    for protocol in [protocol::UDP, protocol::TCP, protocol::ICMP] {
        let pair = |source, destination, ports: (u16, u16)| match protocol {
            protocol::UDP => bytes(&Spec::udp(at(source, ports.0), at(destination, ports.1), &payload)),
            protocol::TCP => bytes(&Spec::tcp(at(source, ports.0), at(destination, ports.1), tcp_flags::ACK, &payload)),
            _ => bytes(&Spec::echo_request(ip(source), ip(destination), ports.0, 7, &payload)),
        };
        let (as_v4, as_v6) = (pair(EXTERNAL, SERVER, (40000, 53)), pair(CLIENT, SERVER6, (1000, 53)));
        for cut in [28, 30, 38, as_v4.len()] {
            let packet = error_up(&error4(11, 0, [0; 4], &as_v4[..cut]), MTUS).unwrap();
            // The next header is there whole, with the length of what was sent.
            assert_eq!(packet[48..], as_v6[..cut + 20], "{protocol} {cut}");
        }
        let (as_v4, as_v6) = (pair(SERVER, EXTERNAL, (53, 40000)), pair(SERVER6, CLIENT, (53, 1000)));
        for cut in [48, 50, 58, as_v6.len()] {
            let packet = error_down(&error6(3, 0, [0; 4], &as_v6[..cut]), MTUS).unwrap();
            let (head, rest) = packet[28..].split_at(20);
            assert_eq!(rest, &as_v4[20..cut - 20], "{protocol} {cut}");
            assert_eq!(
                (head[2..4].to_vec(), head[8..10].to_vec(), &head[12..]),
                (as_v4[2..4].to_vec(), as_v4[8..10].to_vec(), &as_v4[12..20])
            );
            assert_eq!(checksum::finish(checksum::sum(head)), 0);
        }
    }
}

// RFC 4884: extensions stay behind the quote, where its new length says; what does not fit loses them.
#[test]
fn extensions_follow_the_quote() {
    let sent = bytes(&Spec::udp(at(EXTERNAL, 40000), at(SERVER, 53), &[1; 72]));
    let mut quote = sent.clone();
    quote.resize(128, 0);
    let extensions = [0x20, 0, 0x11, 0x22, 0, 8, 1, 1, 9, 9, 9, 9];
    quote.extend_from_slice(&extensions);
    let packet = error_up(&error4(11, 0, [0, 32, 0, 0], &quote), MTUS).unwrap();
    assert_eq!(packet[44], 16, "128 bytes in words of 8");
    assert_eq!(packet[48 + 128..], extensions);
    assert_eq!(packet[48 + 120..48 + 128], [0; 8], "padded");
    let packet = error_up(&error4(12, 0, [1, 32, 0, 0], &quote), MTUS).unwrap();
    assert_eq!(packet.len(), 48 + 120, "parameter problems of ICMPv6 have none");
    let mut long = bytes(&Spec::udp(at(EXTERNAL, 40000), at(SERVER, 53), &[1; 980]));
    long.extend_from_slice(&[5; 260]);
    let packet = error_up(&error4(11, 0, [0, 252, 0, 0], &long), MTUS).unwrap();
    assert_eq!((packet.len(), packet[44]), (48 + 1028, 0));
    let long = bytes(&Spec::udp(at(EXTERNAL, 40000), at(SERVER, 53), &[1; 1400]));
    assert_eq!(error_up(&error4(11, 0, [0; 4], &long), MTUS).unwrap().len(), 1280, "RFC 4443 section 2.4 c");
}

proptest! {
    // Whatever comes: no panic; what has a translation comes back as it was.
    #[test]
    fn any_bytes_are_refused_or_translated(packet in proptest::collection::vec(any::<u8>(), 0..200), v4_first in any::<bool>()) {
        let mut packet = packet;
        if let Some(first) = packet.first_mut() {
            *first = if v4_first { 0x45 } else { 0x60 };
        }
        let mut out = std::vec![0; 2000];
        let _any = to_v4(&packet, &out_ends([1; 4]), 1, false, &mut out);
        let _any = to_v6(&packet, &back_ends([1; 4]), false, &mut out);
        let _any = error_up(&packet, MTUS);
        let _any = error_down(&packet, MTUS);
    }

    #[test]
    fn there_and_back_is_the_same(payload in proptest::collection::vec(any::<u8>(), 0..1500), kind in 0..3, ports in any::<[u8; 4]>()) {
        let spec = match kind {
            0 => Spec::udp(at(CLIENT, 1000), at(SERVER6, 53), &payload),
            1 => Spec::tcp(at(CLIENT, 1000), at(SERVER6, 53), tcp_flags::ACK, &payload),
            _ => Spec::echo_request(ip(CLIENT), ip(SERVER6), 1000, 9, &payload),
        };
        let sent = bytes(&spec);
        let (middle, _) = down(&sent, ports);
        prop_assert!(verify::transport(&middle).is_acceptable());
        let mut out = std::vec![0; 3000];
        let ends = Ends { source: v6(CLIENT), destination: v6(SERVER6), ports: port_bytes(1000, 53) };
        let length = to_v6(&middle, &ends, false, &mut out).unwrap().length;
        prop_assert_eq!(&out[..7], &sent[..7]);
        prop_assert_eq!(&out[8..length], &sent[8..]);
    }
}
