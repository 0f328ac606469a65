//! No message, however broken, may do more than be counted.

use proptest::prelude::*;

use super::*;

/// A message of `kind` whose payload is well-formed as far as attributes go, or not at all.
fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attribute() -> impl Strategy<Value = Vec<u8>> {
    (0u16..40, prop::collection::vec(any::<u8>(), 0..24), 0u16..8).prop_map(|(kind, value, lie)| {
        let length = u16::try_from(value.len()).unwrap() + 4;
        let length = if lie == 0 { length + 9 } else { length };
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    })
}

fn fixed_part() -> impl Strategy<Value = Vec<u8>> {
    let family = prop::sample::select(vec![0u8, 2, 7, 10]);
    (family, prop::collection::vec(any::<u8>(), 7..16)).prop_map(|(family, rest)| {
        let mut bytes = vec![family];
        bytes.extend(rest);
        bytes
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_survived(datagram in prop::collection::vec(any::<u8>(), 0..256)) {
        decode_datagram(&datagram, &mut Vec::new());
    }

    #[test]
    fn broken_messages_are_survived(
        kind in 16u16..32,
        fixed in fixed_part(),
        attributes in prop::collection::vec(attribute(), 0..12),
        cut in 0usize..64,
    ) {
        let payload: Vec<u8> = fixed.into_iter().chain(attributes.concat()).collect();
        let mut datagram = message(kind, &payload);
        decode_datagram(&datagram, &mut Vec::new());
        datagram.truncate(datagram.len().saturating_sub(cut));
        decode_datagram(&datagram, &mut Vec::new());
    }
}

#[test]
fn a_message_that_claims_to_be_shorter_than_its_header_ends_the_walk() {
    let mut datagram = message(libc::RTM_NEWLINK, &[0; 16]);
    datagram[0] = 4;
    let mut events = Vec::new();
    assert_eq!(decode_datagram(&datagram, &mut events), 0);
    assert!(events.is_empty());
}

#[test]
fn a_message_behind_a_broken_one_is_still_read() {
    let mut link = [0u8; 16];
    link[4] = 7;
    let mut datagram = message(libc::RTM_NEWROUTE, &[2, 33]);
    datagram.extend(message(libc::RTM_DELLINK, &link));
    let mut events = Vec::new();
    assert_eq!(decode_datagram(&datagram, &mut events), 1);
    assert_eq!(events, [Event::LinkGone { ifindex: 7 }]);
}

#[test]
fn ports_leaving_a_bridge_are_not_links_going_away() {
    let mut port = [0u8; 16];
    port[0] = u8::try_from(libc::AF_BRIDGE).unwrap();
    port[4] = 7;
    let mut events = Vec::new();
    decode_datagram(&message(libc::RTM_DELLINK, &port), &mut events);
    assert!(events.is_empty());
}
