//! Bytes that nobody checked: no parser may panic or read outside, whatever they are.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking; helpers outside of test functions too")]

use flowhop_wire::build::{Extension, Ip, L4, Spec, TcpFields, V4, V6};
use flowhop_wire::verify::{self, Verified};
use flowhop_wire::{Frame, SliceFrame, ipv6, protocol};
use proptest::prelude::*;

fn everything(bytes: &mut [u8]) {
    let _ = verify::ipv4_header(bytes);
    let _ = verify::transport(bytes);
    if let Some((first, rest)) = bytes.split_first() {
        let _ = ipv6::walk(rest, *first);
    }
    let length = bytes.len();
    let mut frame = SliceFrame::new(bytes);
    for offset in [0, 1, length.saturating_sub(4), length, usize::MAX] {
        assert_eq!(frame.read::<4>(offset).is_some(), offset.checked_add(4).is_some_and(|end| end <= length));
        assert_eq!(frame.write::<4>(offset).is_some(), frame.read::<4>(offset).is_some());
    }
}

/// A valid packet, since random bytes hardly get past the first check.
fn valid(v6: bool, tcp: bool, ip_options: &[u8]) -> Vec<u8> {
    let mut header = vec![0, 0];
    header.extend(ip_options);
    header.resize(header.len().next_multiple_of(8), 0);
    header[1] = (header.len() / 8 - 1) as u8;
    let fragment = [0; 8];
    let extensions = [
        Extension { protocol: protocol::HOP_BY_HOP, bytes: &header },
        Extension { protocol: protocol::FRAGMENT, bytes: &fragment },
        Extension { protocol: protocol::ROUTING, bytes: &header },
    ];
    let ip = if v6 {
        Ip::V6(V6 { extensions: &extensions, ..V6::default() })
    } else {
        Ip::V4(V4 { options: ip_options, ..V4::default() })
    };
    let l4 = if tcp { L4::Tcp(TcpFields::default()) } else { L4::Udp { source_port: 1, destination_port: 2 } };
    let spec = Spec { link: None, vlans: &[], ip, l4, checksum: Default::default(), payload: &[7; 9] };
    let mut buffer = vec![0xa5; spec.len()];
    spec.write(&mut buffer).unwrap();
    buffer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        everything(&mut bytes);
    }

    #[test]
    fn damaged_packets(
        v6: bool,
        tcp: bool,
        options in prop::collection::vec(any::<u8>(), 0..=40),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut: prop::sample::Index,
    ) {
        let mut bytes = valid(v6, tcp, &options);
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        everything(&mut bytes);
        let cut = cut.index(bytes.len());
        everything(&mut bytes[..cut]);
    }

    #[test]
    fn partial_checksum_anywhere(
        mut bytes in prop::collection::vec(any::<u8>(), 0..100),
        start in prop_oneof![0..120usize, Just(usize::MAX)],
        offset in prop_oneof![0..120usize, Just(usize::MAX)],
    ) {
        let before = bytes.clone();
        let fits = start.checked_add(offset).and_then(|place| place.checked_add(2)).is_some_and(|end| end <= bytes.len());
        prop_assert_eq!(verify::complete_partial(&mut bytes, start, offset).is_some(), fits);
        prop_assert!(fits || bytes == before);
    }
}

#[test]
fn impossible_lengths_of_ipv4() {
    // RFC 1812 section 5.2.2: link length, version, header length, total length.
    let good = valid(false, true, &[]);
    assert_eq!(verify::ipv4_header(&good), Verified::Valid);
    let with = |place: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[place] = value;
        bytes
    };
    for bad in [with(0, 0x44), with(0, 0x55), with(0, 0x4f), with(2, 1), with(3, 19), good[..19].to_vec(), vec![]] {
        assert_eq!(verify::ipv4_header(&bad), Verified::Malformed, "{bad:?}");
        assert_eq!(verify::transport(&bad), Verified::Malformed, "{bad:?}");
    }
    assert_eq!(verify::ipv4_header(&with(8, 63)), Verified::Invalid);
}

#[test]
fn impossible_lengths_of_udp() {
    // RFC 768: the least length is 8.
    let good = valid(false, false, &[]);
    for length in [0, 7, 18] {
        let mut bad = good.clone();
        bad[25] = length;
        assert_eq!(verify::transport(&bad), Verified::Malformed);
    }
}

#[test]
fn what_no_checksum_covers() {
    let mut fragment = valid(false, true, &[]);
    fragment[6] = 0x20;
    assert_eq!(verify::transport(&fragment), Verified::Uncovered);
    // RFC 791 section 3.1: pointer 4 of length 7 has an address to go, pointer 8 has none.
    let source_route = |pointer| valid(false, true, &[131, 7, pointer, 10, 0, 0, 1]);
    assert_eq!(verify::transport(&source_route(4)), Verified::Uncovered);
    assert_eq!(verify::transport(&source_route(8)), Verified::Valid);
    let mut other = valid(false, true, &[]);
    other[9] = protocol::GRE;
    assert_eq!(verify::transport(&other), Verified::Uncovered);
    assert!(Verified::Absent.is_acceptable() && !Verified::Malformed.is_acceptable());
}

#[test]
fn what_no_checksum_covers_in_ipv6() {
    // RFC 8200 section 8.1 (final destination), section 4.5 (fragments); RFC 6946 (atomic ones are whole).
    let with = |protocol, bytes: &[u8]| {
        let ip = Ip::V6(V6 { extensions: &[Extension { protocol, bytes }], ..V6::default() });
        let l4 = L4::Tcp(TcpFields::default());
        let spec = Spec { link: None, vlans: &[], ip, l4, checksum: Default::default(), payload: &[7; 9] };
        let mut buffer = vec![0xa5; spec.len()];
        spec.write(&mut buffer).unwrap();
        verify::transport(&buffer)
    };
    let routing = |segments_left| with(protocol::ROUTING, &[0, 0, 4, segments_left, 0, 0, 0, 0]);
    assert_eq!(routing(0), Verified::Valid);
    assert_eq!(routing(1), Verified::Uncovered);
    let fragment = |offset_flags| with(protocol::FRAGMENT, &[0, 0, 0, offset_flags, 0, 0, 0, 1]);
    assert_eq!(fragment(0), Verified::Valid);
    assert_eq!(fragment(1), Verified::Uncovered);
    assert_eq!(fragment(8), Verified::Uncovered);
    assert_eq!(with(protocol::ROUTING, &[0, 200, 4, 0, 0, 0, 0, 0]), Verified::Malformed);
}
