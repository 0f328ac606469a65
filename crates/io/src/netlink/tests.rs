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

/// An attribute as the kernel lays it out.
fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap() + 4;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The link that an announcement of index 7 with these attributes describes.
fn announced_link(attributes: &[Vec<u8>]) -> Link {
    let mut payload = vec![0; 16];
    payload[4] = 7;
    payload.extend(attributes.concat());
    let mut events = Vec::new();
    assert_eq!(decode_datagram(&message(libc::RTM_NEWLINK, &payload), &mut events), 0);
    let Some(Event::LinkUpsert(link)) = events.pop() else { panic!("no link") };
    link
}

/// `IFLA_LINKINFO` as the VLAN driver fills it in (`vlan_fill_info` of the kernel): the tag's EtherType (in network
/// byte order), the ID, the flags.
fn vlan_info(protocol: u16, id: u16) -> Vec<u8> {
    let data = [nla(5, &protocol.to_be_bytes()), nla(1, &id.to_ne_bytes()), nla(2, &[1, 0, 0, 0, 255, 255, 255, 255])];
    nla(
        libc::IFLA_LINKINFO,
        &[nla(libc::IFLA_INFO_KIND, b"vlan\0"), nla(libc::IFLA_INFO_DATA, &data.concat())].concat(),
    )
}

#[test]
fn a_vlan_device_tells_its_id_and_what_it_is_on() {
    let lower = nla(libc::IFLA_LINK, &3u32.to_ne_bytes());
    let link = announced_link(&[lower.clone(), vlan_info(0x8100, 4094)]);
    assert_eq!((link.kind.as_deref(), link.lower, link.vlan), (Some("vlan"), Some(3), Some(4094)));
    let link = announced_link(&[vlan_info(0x88a8, 9), lower]);
    assert_eq!((link.kind.as_deref(), link.lower, link.vlan), (Some("vlan"), Some(3), None), "IEEE 802.1ad");
}

#[test]
fn attributes_of_other_drivers_are_no_vlan_ids() {
    // Number 1 is an ID for VXLAN, too, and it has a number 5.
    let data = [nla(1, &[4, 0]), nla(5, &[0x81, 0])].concat();
    let info = [nla(libc::IFLA_INFO_KIND, b"other\0"), nla(libc::IFLA_INFO_DATA, &data)].concat();
    assert_eq!(announced_link(&[nla(libc::IFLA_LINKINFO, &info)]).vlan, None);
}

#[test]
fn indexes_of_other_namespaces_name_nothing_here() {
    let lower = |index: u32| nla(libc::IFLA_LINK, &index.to_ne_bytes());
    let elsewhere = nla(libc::IFLA_LINK_NETNSID, &0u32.to_ne_bytes());
    assert_eq!(announced_link(&[lower(3)]).lower, Some(3));
    assert_eq!(announced_link(&[lower(3), elsewhere.clone()]).lower, None);
    assert_eq!(announced_link(&[elsewhere, lower(3)]).lower, None);
    assert_eq!(announced_link(&[lower(0)]).lower, None, "a tunnel that is bound to no device");
    assert_eq!(announced_link(&[lower(7)]).lower, None, "itself");
}

#[test]
fn a_port_tells_the_kind_of_its_master() {
    let info = nla(libc::IFLA_LINKINFO, &nla(libc::IFLA_INFO_SLAVE_KIND, b"bond\0"));
    let link = announced_link(&[nla(libc::IFLA_MASTER, &9u32.to_ne_bytes()), info]);
    assert_eq!((link.kind, link.master, link.master_kind.as_deref()), (None, Some(9), Some("bond")));
}
