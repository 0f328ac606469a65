//! A rewritten packet has the checksums that a whole computation gives (RFC 1071, RFC 1624, RFC 768).
#![expect(clippy::expect_used, reason = "helpers of tests: a panic is their report")]

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use flowhop_flow::key::{self, ports};
use flowhop_flow::rewrite::{Rewrite, apply, renumber};
use flowhop_wire::build::Spec;
use flowhop_wire::checksum::Delta;
use flowhop_wire::tcp_flags::{ACK, PSH};
use flowhop_wire::verify;
use proptest::prelude::*;

use common::{Buffer, parsed};

/// What rewritten packets are given.
const IDENTIFICATION: u16 = 0xbeef;
const MACS: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

/// Rewrites a frame to new ends; the ports word of an echo keeps type and code.
fn rewritten(bytes: &[u8], source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut frame = Buffer { bytes: bytes.to_vec(), partial: false };
    let parsed = parsed(&frame);
    let new_ports = match parsed.key.protocol() {
        1 | 58 => ports(source.port(), parsed.key.destination_port()),
        _ => ports(source.port(), destination.port()),
    };
    let rewrite = Rewrite {
        source: key::address(source.ip()),
        destination: key::address(destination.ip()),
        ports: new_ports,
        address_delta: 0,
        port_delta: 0,
    };
    let rewrite = rewrite.with_deltas(&parsed.key.source, &parsed.key.destination, parsed.key.ports);
    apply(&mut frame, &parsed, &rewrite, &MACS, || IDENTIFICATION).expect("all headers are there");
    frame.bytes
}

fn address(v6: bool) -> impl Strategy<Value = IpAddr> {
    if v6 {
        // Few bits set, so that sums meet their two zeros.
        prop_oneof![any::<u128>(), 1..3u128, Just(u128::MAX - 1)].prop_map(|n| Ipv6Addr::from(n).into()).boxed()
    } else {
        prop_oneof![any::<u32>(), 1..3u32, Just(u32::MAX - 1)].prop_map(|n| Ipv4Addr::from(n).into()).boxed()
    }
}

fn ends() -> impl Strategy<Value = [SocketAddr; 4]> {
    any::<bool>().prop_flat_map(|v6| {
        let end = move || (address(v6), any::<u16>()).prop_map(SocketAddr::from);
        (end(), end(), end(), end()).prop_map(|(a, b, c, d)| [a, b, c, d])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    // The oracle is the builder: the packet as if it had been made with the new ends and one hop less.
    #[test]
    fn equals_a_packet_made_with_the_new_ends([a, b, c, d] in ends(), kind in 0..4u8, ttl in 2..=255u8, payload in prop::collection::vec(any::<u8>(), 1..64)) {
        // An echo's payload has a bit set somewhere: see `Delta::apply` for the datum that becomes all zeros.
        let mut payload = payload;
        payload[0] |= 1;
        let make = |source: SocketAddr, destination: SocketAddr, ttl: u8| {
            let spec = match kind {
                0 => Spec::tcp(source, destination, ACK | PSH, &payload).with_sequence(77, 99),
                1 => Spec::udp(source, destination, &payload),
                2 => Spec::echo_request(source.ip(), destination.ip(), source.port(), 7, &payload),
                _ => Spec::echo_reply(source.ip(), destination.ip(), source.port(), 7, &payload),
            };
            spec.with_ttl(ttl).to_vec().unwrap()
        };
        let is = rewritten(&make(a, b, ttl), c, d);
        let mut should = make(c, d, ttl - 1);
        should[..12].copy_from_slice(&MACS);
        prop_assert_eq!(is, should);
    }

    // RFC 768: no checksum stays none.
    #[test]
    fn udp_without_checksum_stays_without([a, b, c, d] in ends()) {
        let mut bytes = Spec::udp(a, b, b"payload").to_vec().unwrap();
        let field = if a.is_ipv4() { 34 + 6 } else { 54 + 6 };
        bytes[field..field + 2].fill(0);
        let is = rewritten(&bytes, c, d);
        prop_assert_eq!(&is[field..field + 2], &[0, 0]);
    }

    // A partial checksum, completed afterwards, is right (virtio NEEDS_CSUM).
    #[test]
    fn a_partial_checksum_completes([a, b, c, d] in ends(), tcp: bool) {
        let spec = if tcp { Spec::tcp(a, b, ACK, b"payload") } else { Spec::udp(a, b, b"payload") };
        let mut bytes = spec.to_vec().unwrap();
        let start = if a.is_ipv4() { 34 } else { 54 };
        let offset = if tcp { 16 } else { 6 };
        let protocol = if tcp { 6 } else { 17 };
        let length = bytes.len() - start;
        let pseudo = match (a.ip(), b.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => flowhop_wire::checksum::pseudo_v4(a.octets(), b.octets(), protocol, length as u16),
            (IpAddr::V6(a), IpAddr::V6(b)) => flowhop_wire::checksum::pseudo_v6(a.octets(), b.octets(), protocol, length as u32),
            _ => unreachable!(),
        };
        bytes[start + offset..start + offset + 2].copy_from_slice(&(pseudo as u16).to_be_bytes());
        let mut frame = Buffer { bytes, partial: true };
        let parsed = parsed(&frame);
        let rewrite = Rewrite { source: key::address(c.ip()), destination: key::address(d.ip()), ports: ports(c.port(), d.port()), address_delta: 0, port_delta: 0 };
        let rewrite = rewrite.with_deltas(&parsed.key.source, &parsed.key.destination, parsed.key.ports);
        apply(&mut frame, &parsed, &rewrite, &MACS, || IDENTIFICATION).unwrap();
        verify::complete_partial(&mut frame.bytes, start, offset).unwrap();
        prop_assert!(verify::transport(&frame.bytes[14..]).is_acceptable());
    }

    // A packet that was broken on the way stays recognisable as broken.
    #[test]
    fn a_wrong_checksum_stays_wrong([a, b, c, d] in ends(), error in 1..0xffffu16) {
        let mut bytes = Spec::tcp(a, b, ACK, b"payload").to_vec().unwrap();
        let field = if a.is_ipv4() { 34 + 16 } else { 54 + 16 };
        let right = u16::from_be_bytes([bytes[field], bytes[field + 1]]);
        // Not by 0xffff, which is the other form of the same number.
        let wrong = (u32::from(right) + u32::from(error)) % 0xffff;
        bytes[field..field + 2].copy_from_slice(&(wrong as u16).to_be_bytes());
        prop_assume!(!verify::transport(&bytes[14..]).is_acceptable());
        let is = rewritten(&bytes, c, d);
        prop_assert!(!verify::transport(&is[14..]).is_acceptable());
    }
}

// Found by the differential test: both ports may change while their sum does not.
#[test]
fn ports_are_rewritten_though_their_sum_stays() {
    let end = |port| SocketAddr::from(([10, 0, 0, 1], port));
    let bytes = Spec::udp(end(1000), end(2000), b"x").to_vec().unwrap();
    let is = rewritten(&bytes, end(2000), end(1000));
    let mut should = Spec::udp(end(2000), end(1000), b"x").with_ttl(63).to_vec().unwrap();
    should[..12].copy_from_slice(&MACS);
    assert_eq!(bytes[22], 64);
    assert_eq!(is, should);
}

// What numbers of a stream are shifted by changes the checksum as the ports do, and may do so as much as the addresses: the
// ports stay, and both deltas have the same bits.
#[test]
fn a_shift_of_numbers_may_weigh_as_much_as_the_new_addresses() {
    let end = |host| SocketAddr::from(([10, 0, 0, host], 1000));
    let make = |source, sequence| Spec::tcp(source, end(9), ACK, b"x").with_sequence(sequence, 99).to_vec().unwrap();
    let mut frame = Buffer { bytes: make(end(1), 77), partial: false };
    let parsed = parsed(&frame);
    let rewrite = Rewrite {
        source: key::address(end(2).ip()),
        destination: parsed.key.destination,
        ports: parsed.key.ports,
        address_delta: 0,
        port_delta: 0,
    };
    let mut rewrite = rewrite.with_deltas(&parsed.key.source, &parsed.key.destination, parsed.key.ports);
    let shifted = renumber(&mut frame, parsed.transport_offset, [1, 0]).unwrap();
    rewrite.port_delta = Delta(rewrite.port_delta).and(shifted).0;
    assert_eq!(rewrite.port_delta, rewrite.address_delta);
    apply(&mut frame, &parsed, &rewrite, &MACS, || IDENTIFICATION).unwrap();
    assert!(verify::transport(&frame.bytes[14..]).is_acceptable());
    assert_eq!(frame.bytes[34..], make(end(2), 78)[34..]);
}
