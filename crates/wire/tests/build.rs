//! Packets as built, byte by byte, and verified.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking; helpers outside of test functions too")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use flowhop_wire::build::{BuildError, Checksum, Extension, Ip, L4, Spec, TcpFields, V4, V6};
use flowhop_wire::verify::{self, Verified};
use flowhop_wire::{Ethernet, Icmp, Ipv4, Ipv6, Tcp, Udp, VlanTag, ethertype, icmp4, icmp6, ipv6, protocol, tcp_flags};
use proptest::prelude::*;
use zerocopy::FromBytes;

/// Writes into a buffer of other bytes, so that a byte left out shows, and gives the packet.
fn write(spec: &Spec<'_>) -> Vec<u8> {
    let mut buffer = vec![0xa5; spec.len() + 3];
    let length = spec.write(&mut buffer).unwrap();
    assert_eq!(length, spec.len());
    assert_eq!(buffer[length..], [0xa5; 3], "written past the end");
    buffer.truncate(length);
    buffer
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn udp_over_ipv4_byte_by_byte() {
    let spec = Spec::udp(address("10.0.0.1:4000"), address("192.0.2.1:53"), b"abc").without_link();
    // Header checksum and UDP checksum computed by another program after RFC 1071.
    let expected = [
        0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0x6e, 0xcc, 10, 0, 0, 1, 192, 0, 2, 1, // IPv4
        0x0f, 0xa0, 0, 53, 0, 11, 0x5f, 0x9e, b'a', b'b', b'c', // UDP
    ];
    assert_eq!(write(&spec), expected);
    assert_eq!(verify::ipv4_header(&expected), Verified::Valid);
    assert_eq!(verify::transport(&expected), Verified::Valid);
}

#[test]
fn tags_from_the_outside_in() {
    // IEEE 802.1Q clause 9.5: the service tag is outside of the customer tag.
    let spec = Spec::tcp(address("[2001:db8::1]:1"), address("[2001:db8::2]:2"), tcp_flags::SYN, &[])
        .with_link([1; 6], [2; 6])
        .with_vlans(&[0x6064, 0x1007]);
    let packet = write(&spec);
    let (ethernet, rest) = Ethernet::read_from_prefix(&packet).unwrap();
    assert_eq!((ethernet.source, ethernet.destination), ([1; 6], [2; 6]));
    assert_eq!(ethernet.ethertype.get(), ethertype::QINQ);
    let (outer, rest) = VlanTag::read_from_prefix(rest).unwrap();
    assert_eq!((outer.vlan_id(), outer.pcp(), outer.drop_eligible()), (100, 3, false));
    assert_eq!(outer.ethertype.get(), ethertype::VLAN);
    let (inner, rest) = VlanTag::read_from_prefix(rest).unwrap();
    assert_eq!((inner.vlan_id(), inner.pcp(), inner.drop_eligible()), (7, 0, true));
    assert_eq!(inner.ethertype.get(), ethertype::IPV6);
    assert_eq!(spec.ip_offset(), packet.len() - rest.len());
    assert_eq!(verify::transport(rest), Verified::Valid);
    let single = write(&spec.with_vlans(&[5]));
    assert_eq!(single[12..18], [0x81, 0, 0, 5, 0x86, 0xdd]);
}

#[test]
fn every_field_of_ipv4_and_tcp() {
    let ip = V4 {
        source: [10, 0, 0, 1],
        destination: [10, 0, 0, 2],
        ttl: 7,
        dscp: 46,
        ecn: 1,
        id: 0x1234,
        df: false,
        more: true,
        offset: 80,
        options: &[148, 4, 0, 0, 1],
    };
    let tcp = TcpFields {
        source_port: 1,
        destination_port: 2,
        sequence: 3,
        acknowledgment: 4,
        flags: tcp_flags::SYN | tcp_flags::ACK,
        window: 5,
        urgent: 6,
        options: &[2, 4, 5, 0xb4, 1],
    };
    let spec = Spec {
        link: None,
        vlans: &[9],
        ip: Ip::V4(ip),
        l4: L4::Tcp(tcp),
        checksum: Checksum::Value(0xbeef),
        payload: b"xyz",
    };
    let packet = write(&spec);
    let (header, _) = Ipv4::read_from_prefix(&packet).unwrap();
    assert_eq!((header.version(), header.header_len(), header.dscp(), header.ecn()), (4, 28, 46, 1));
    assert_eq!((header.total_length.get(), header.identification.get()), (28 + 28 + 3, 0x1234));
    assert_eq!((header.dont_fragment(), header.more_fragments(), header.fragment_offset()), (false, true, 80));
    assert!(header.is_fragment());
    assert_eq!((header.ttl, header.protocol), (7, protocol::TCP));
    assert_eq!(packet[20..28], [148, 4, 0, 0, 1, 0, 0, 0]);
    assert_eq!(verify::ipv4_header(&packet), Verified::Valid);
    let (header, options) = Tcp::read_from_prefix(&packet[spec.l4_offset()..]).unwrap();
    assert_eq!((header.source_port.get(), header.destination_port.get(), header.header_len()), (1, 2, 28));
    assert_eq!((header.sequence.get(), header.acknowledgment.get()), (3, 4));
    assert_eq!((header.flags, header.window.get(), header.urgent.get()), (18, 5, 6));
    assert_eq!((header.checksum.get(), &options[..8]), (0xbeef, &[2, 4, 5, 0xb4, 1, 0, 0, 0][..]));
    assert_eq!(packet[spec.payload_offset()..], *b"xyz");
}

#[test]
fn extension_headers_are_linked() {
    // RFC 8200 section 4: each header names the next one; section 8.1: the pseudo-header has the upper protocol.
    let extensions = [
        Extension { protocol: protocol::HOP_BY_HOP, bytes: &[0xa5, 0, 5, 2, 0, 0, 1, 0] },
        Extension { protocol: protocol::DESTINATION_OPTIONS, bytes: &[0xa5, 0, 1, 4, 0, 0, 0, 0] },
    ];
    let ip = V6 { hop_limit: 255, dscp: 46, ecn: 2, flow_label: 0xf_1234, extensions: &extensions, ..V6::default() };
    let l4 = L4::Icmp { kind: icmp6::PACKET_TOO_BIG, code: 0, rest: 1280u32.to_be_bytes() };
    let spec = Spec { link: None, vlans: &[], ip: Ip::V6(ip), l4, checksum: Checksum::Full, payload: &[1; 5] };
    let packet = write(&spec);
    let (header, rest) = Ipv6::read_from_prefix(&packet).unwrap();
    assert_eq!((header.version(), header.dscp(), header.ecn(), header.flow_label()), (6, 46, 2, 0xf_1234));
    assert_eq!((header.payload_length.get(), header.hop_limit), (16 + 8 + 5, 255));
    let chain = ipv6::walk(rest, header.next_header).unwrap();
    assert_eq!((chain.protocol, chain.offset + 40), (protocol::ICMPV6, spec.l4_offset()));
    assert_eq!(chain.hop_by_hop.unwrap().router_alert, Some(0));
    assert_eq!(Icmp::read_from_prefix(&rest[16..]).unwrap().0.mtu6(), 1280);
    assert_eq!(verify::transport(&packet), Verified::Valid);
}

#[test]
fn echo_of_both_families() {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    for (source, destination, kinds) in [
        (v4, v4, [icmp4::ECHO_REQUEST, icmp4::ECHO_REPLY]),
        (v6, v6, [icmp6::ECHO_REQUEST, icmp6::ECHO_REPLY]),
        (v4, v6, [icmp6::ECHO_REQUEST, icmp6::ECHO_REPLY]),
    ] {
        let request = Spec::echo_request(source, destination, 0x1234, 7, b"ping").without_link();
        let reply = Spec::echo_reply(destination, source, 0x1234, 7, b"ping").without_link();
        for (spec, kind) in [request, reply].into_iter().zip(kinds) {
            let packet = write(&spec);
            assert_eq!(verify::transport(&packet), Verified::Valid);
            let (icmp, _) = Icmp::read_from_prefix(&packet[spec.l4_offset()..]).unwrap();
            assert_eq!((icmp.kind, icmp.code, icmp.identifier(), icmp.sequence()), (kind, 0, 0x1234, 7));
        }
    }
}

#[test]
fn udp_zero_checksum() {
    // RFC 768: absent over IPv4. RFC 8200 section 8.1: not allowed over IPv6.
    let none = Checksum::Value(0);
    let v4 = Spec::udp(address("10.0.0.1:1"), address("10.0.0.2:2"), b"x").without_link().with_checksum(none);
    let v6 = Spec::udp(address("[::1]:1"), address("[::2]:2"), b"x").without_link().with_checksum(none);
    assert_eq!(verify::transport(&write(&v4)), Verified::Absent);
    assert_eq!(verify::transport(&write(&v6)), Verified::Invalid);
    // A computed zero is transmitted as all ones: the payload is chosen to be the complement of the rest.
    let probe = Spec::udp(address("10.0.0.1:1"), address("10.0.0.2:2"), &[0, 0]).without_link();
    let rest = write(&probe)[26..28].to_vec();
    let spec = Spec { payload: &rest, ..probe };
    let packet = write(&spec);
    assert_eq!(packet[26..28], [0xff, 0xff]);
    assert_eq!(verify::transport(&packet), Verified::Valid);
}

#[test]
fn what_cannot_be_written() {
    let spec = Spec::udp(address("10.0.0.1:1"), address("10.0.0.2:2"), b"x");
    let mut buffer = [0xa5; 43];
    for available in 0..buffer.len() {
        let expected = Err(BuildError::BufferTooSmall { needed: 43, available });
        assert_eq!(spec.write(&mut buffer[..available]), expected);
        assert_eq!(buffer, [0xa5; 43], "written in spite of the error");
    }
    assert_eq!(spec.write(&mut buffer), Ok(43));

    let options = [1; 41];
    let tcp = Spec::tcp(address("10.0.0.1:1"), address("10.0.0.2:2"), 0, &[]).with_tcp_options(&options);
    assert_eq!(tcp.write(&mut [0; 200]), Err(BuildError::OptionsTooLong { length: 41 }));
    let ip = Spec { ip: Ip::V4(V4 { options: &options, ..V4::default() }), ..spec };
    assert_eq!(ip.write(&mut [0; 200]), Err(BuildError::OptionsTooLong { length: 41 }));

    // RFC 791 section 3.1: the total length includes the header; RFC 8200 section 3: the payload length does not.
    let (payload, mut buffer) = (vec![0; 65_536], vec![0; 70_000]);
    let of = |length: usize| Spec { payload: &payload[..length], ..spec };
    assert_eq!(of(65_535 - 28).write(&mut buffer), Ok(65_535 + 14));
    assert_eq!(of(65_535 - 27).write(&mut buffer), Err(BuildError::PacketTooLong { length: 65_536 }));
    let ip = Ip::V6(V6::default());
    assert_eq!(Spec { ip, ..of(65_535 - 8) }.write(&mut buffer), Ok(65_535 + 54));
    assert_eq!(Spec { ip, ..of(65_535 - 7) }.write(&mut buffer), Err(BuildError::PacketTooLong { length: 65_536 }));
}

#[test]
fn setters_reach_their_fields() {
    let v4 = Spec::tcp(address("10.0.0.1:1"), address("10.0.0.2:2"), 0, &[]);
    let v6 = Spec::tcp(address("[::1]:1"), address("[::2]:2"), 0, &[]);
    for spec in [v4, v6] {
        let spec = spec.without_link().with_ttl(3).with_dscp(10).with_sequence(5, 6).with_window(7);
        let packet = write(&spec);
        match spec.ip {
            Ip::V4(_) => {
                let (ip, _) = Ipv4::read_from_prefix(&packet).unwrap();
                assert_eq!((ip.ttl, ip.dscp()), (3, 10));
            }
            Ip::V6(_) => {
                let (ip, _) = Ipv6::read_from_prefix(&packet).unwrap();
                assert_eq!((ip.hop_limit, ip.dscp()), (3, 10));
            }
        }
        let (tcp, _) = Tcp::read_from_prefix(&packet[spec.l4_offset()..]).unwrap();
        assert_eq!((tcp.sequence.get(), tcp.acknowledgment.get(), tcp.window.get()), (5, 6, 7));
    }
    assert!(matches!(v4.with_sequence(1, 2).l4, L4::Tcp(TcpFields { sequence: 1, acknowledgment: 2, .. })));
    assert_eq!(Udp::LEN, 8);
}

proptest! {
    #[test]
    fn what_is_built_verifies_and_damage_shows(
        v6: bool,
        kind in 0..3u8,
        options in prop::collection::vec(any::<u8>(), 0..=40),
        payload in prop::collection::vec(any::<u8>(), 0..100),
        place: prop::sample::Index,
        flip in 1..=255u8,
    ) {
        let ip = if v6 { Ip::V6(V6::default()) } else { Ip::V4(V4::default()) };
        let l4 = match kind {
            0 => L4::Tcp(TcpFields { options: &options, ..TcpFields::default() }),
            1 => L4::Udp { source_port: 1, destination_port: 2 },
            _ => L4::Icmp { kind: 200, code: 0, rest: [1, 2, 3, 4] },
        };
        let spec = Spec { link: None, vlans: &[], ip, l4, checksum: Checksum::Full, payload: &payload };
        let mut packet = write(&spec);
        prop_assert_eq!(verify::transport(&packet), Verified::Valid);

        // Padding of a minimal frame does not count.
        packet.extend([0xff; 3]);
        prop_assert_eq!(verify::transport(&packet), Verified::Valid);
        packet.truncate(spec.len());

        // One changed byte never goes unnoticed, unless it is one of those that UDP gives a meaning.
        let place = spec.l4_offset() + place.index(packet.len() - spec.l4_offset());
        packet[place] ^= flip;
        let found = verify::transport(&packet);
        if kind == 1 {
            prop_assert_ne!(found, Verified::Valid);
        } else {
            prop_assert_eq!(found, Verified::Invalid);
        }

        let partial = spec.with_checksum(Checksum::Partial);
        let mut packet = write(&partial);
        let (start, offset) = (spec.l4_offset(), match kind { 0 => 16, 1 => 6, _ => 2 });
        prop_assert!(verify::complete_partial(&mut packet, start, offset).is_some());
        prop_assert_eq!(verify::transport(&packet), Verified::Valid);
    }
}
