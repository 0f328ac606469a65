//! The chain of extension headers, as far as RFC 8200 and its updates say how it ends.

use flowhop_wire::ipv6::{
    Chain, ChainError, Fragment, HopByHop, Ipv6Options, MAX_HEADERS, Routing, UnknownAction, UnknownOption, walk,
};
use flowhop_wire::protocol;
use proptest::prelude::*;

const EMPTY: Chain = Chain {
    protocol: 0,
    offset: 0,
    hop_by_hop: None,
    routing: None,
    routing_type0: false,
    fragment: None,
    authenticated: false,
};

#[test]
fn no_extension_header() {
    assert_eq!(walk(&[], protocol::TCP), Ok(Chain { protocol: protocol::TCP, ..EMPTY }));
    assert_eq!(walk(&[1, 2], protocol::NO_NEXT), Ok(Chain { protocol: protocol::NO_NEXT, ..EMPTY }));
    assert_eq!(walk(&[0; 8], protocol::ESP).unwrap().protocol, protocol::ESP);
}

#[test]
fn router_alert() {
    // RFC 2711 section 2.1, as in an MLD message.
    let chain = walk(&[58, 0, 5, 2, 0, 0, 1, 0], protocol::HOP_BY_HOP).unwrap();
    let hop_by_hop = Some(HopByHop { router_alert: Some(0), ..HopByHop::default() });
    assert_eq!(chain, Chain { protocol: 58, offset: 8, hop_by_hop, ..EMPTY });
    let malformed = walk(&[58, 0, 5, 1, 0, 1, 1, 0], protocol::HOP_BY_HOP);
    assert_eq!(malformed, Err(ChainError::Option { kind: 5, offset: 2 }));
}

#[test]
fn jumbo_and_unknown_options() {
    // RFC 2675 section 2; RFC 8200 section 4.2 for the action bits.
    let bytes = [17, 1, 0xc2, 4, 0, 1, 0, 0, 0x3e, 0, 0x7e, 0, 0xbe, 0, 1, 0];
    let found = walk(&bytes, protocol::HOP_BY_HOP).unwrap().hop_by_hop.unwrap();
    assert_eq!(found.jumbo, Some(0x1_0000));
    assert_eq!(found.unknown, Some(UnknownOption { kind: 0x7e, offset: 10 }));
    assert_eq!(found.unknown.unwrap().action(), UnknownAction::Discard);
    assert_eq!(UnknownAction::of(0x80), UnknownAction::DiscardReport);
    assert_eq!(UnknownAction::of(0xc0), UnknownAction::DiscardReportUnicast);
}

#[test]
fn option_beyond_its_header() {
    let bytes = [17, 0, 1, 5, 0, 0, 0, 0, 9, 9, 9];
    assert_eq!(walk(&bytes, protocol::HOP_BY_HOP), Err(ChainError::Option { kind: 1, offset: 2 }));
    let bytes = [17, 0, 1, 3, 0, 0, 0, 7];
    assert_eq!(walk(&bytes, protocol::HOP_BY_HOP), Err(ChainError::Option { kind: 7, offset: 7 }));
}

#[test]
fn hop_by_hop_only_first() {
    let bytes = [[0, 0, 1, 4, 0, 0, 0, 0], [6, 0, 1, 4, 0, 0, 0, 0]].concat();
    for first in [protocol::DESTINATION_OPTIONS, protocol::HOP_BY_HOP] {
        assert_eq!(walk(&bytes, first), Err(ChainError::HopByHopNotFirst { offset: 8 }));
    }
}

#[test]
fn routing_type_0() {
    // RFC 5095.
    let mut bytes = [0; 24];
    bytes[..4].copy_from_slice(&[6, 2, 0, 1]);
    let routing = Some(Routing { kind: 0, segments_left: 1, header: 0 });
    let expected = Chain { protocol: 6, offset: 24, routing, routing_type0: true, ..EMPTY };
    assert_eq!(walk(&bytes, protocol::ROUTING), Ok(expected));
    bytes[2] = 4;
    assert!(!walk(&bytes, protocol::ROUTING).unwrap().routing_type0);
}

#[test]
fn authentication_header_counts_in_fours() {
    // RFC 4302 section 2.2: length in words of 4 bytes, minus 2.
    let mut bytes = [0; 24];
    bytes[..2].copy_from_slice(&[17, 4]);
    assert_eq!(walk(&bytes, protocol::AH), Ok(Chain { protocol: 17, offset: 24, authenticated: true, ..EMPTY }));
}

#[test]
fn fragments() {
    let first = [60, 0, 0, 1, 0, 0, 0, 7, 6, 0, 1, 4, 0, 0, 0, 0];
    let fragment = Fragment { header: 0, next_header: 60, offset: 0, more: true, identification: 7 };
    assert_eq!(
        walk(&first, protocol::FRAGMENT),
        Ok(Chain { protocol: 6, offset: 16, fragment: Some(fragment), ..EMPTY })
    );
    // RFC 7112 section 5: the first fragment must hold the whole chain.
    assert_eq!(walk(&first[..12], protocol::FRAGMENT), Err(ChainError::SplitAcrossFragments { header: 60, offset: 8 }));
    // The bytes of a later fragment are not headers.
    let later = [60, 0, 0, 0x11, 0, 0, 0, 7, 0xff, 0xff];
    let chain = walk(&later, protocol::FRAGMENT).unwrap();
    assert_eq!((chain.protocol, chain.offset, chain.fragment.unwrap().offset), (60, 8, 16));
    assert!(!chain.fragment.unwrap().is_first());
    // RFC 6946 section 2.
    let atomic = walk(&[17, 0, 0, 0, 0, 0, 0, 7], protocol::FRAGMENT).unwrap();
    assert!(atomic.fragment.unwrap().is_atomic());
    let twice = [44, 0, 0, 0, 0, 0, 0, 7, 6, 0, 0, 0, 0, 0, 0, 7];
    assert_eq!(walk(&twice, protocol::FRAGMENT), Err(ChainError::RepeatedFragment { offset: 8 }));
}

#[test]
fn limits() {
    let header = [60, 0, 1, 4, 0, 0, 0, 0];
    let mut bytes = [header; MAX_HEADERS + 1];
    bytes[MAX_HEADERS - 1][0] = 6;
    assert_eq!(walk(bytes.as_flattened(), 60).unwrap().offset, MAX_HEADERS * 8);
    bytes[MAX_HEADERS - 1][0] = 60;
    bytes[MAX_HEADERS][0] = 6;
    assert_eq!(walk(bytes.as_flattened(), 60), Err(ChainError::TooManyHeaders));
    let mut padding = [0; 40];
    padding[1] = 4;
    assert_eq!(walk(&padding, 0), Err(ChainError::TooManyOptions));
}

#[test]
fn impossible_lengths() {
    for header in [0, 43, 44, 51, 60] {
        let truncated = Err(ChainError::Truncated { header, offset: 0 });
        assert_eq!(walk(&[], header), truncated);
        assert_eq!(walk(&[6], header), truncated);
        assert_eq!(walk(&[6, 255, 0, 0, 0, 0, 0], header), truncated);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_walked_in_bounds(
        bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60), 0u8..4, any::<u8>()], 0..200),
        first in prop::sample::select(vec![0u8, 43, 44, 51, 60, 6]),
    ) {
        if let Ok(chain) = walk(&bytes, first) {
            prop_assert!(chain.offset <= bytes.len());
            prop_assert!(chain.fragment.is_none_or(|fragment| fragment.header + 8 <= chain.offset));
        }
        for option in Ipv6Options::new(&bytes).flatten() {
            prop_assert_eq!(bytes[option.offset], option.kind);
        }
    }
}
