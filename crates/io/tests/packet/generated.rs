//! The kernel filter's program against the rules in its documentation, written down a second time and in plain Rust.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowhop_io::cbpf::{Claim, DROP, FilterError, KernelFilter, PASS};
use proptest::prelude::*;

use crate::interpreter::{Frame, check, run};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a test says of a packet.
#[derive(Clone, Debug)]
struct Packet {
    mac: u8,
    tag: Option<u16>,
    destination: IpAddr,
    protocol: u8,
    hop_limit: u8,
    /// 32-bit words of options (IPv4).
    options: u8,
    /// In units of 8 bytes; `None` without fragmentation.
    fragment: Option<u16>,
    /// First bytes of the transport header.
    transport: Vec<u8>,
}

impl Packet {
    fn new(destination: &str, protocol: u8, transport: &[u8]) -> Self {
        let transport = transport.to_vec();
        let destination = destination.parse().unwrap();
        Self { mac: 2, tag: None, destination, protocol, hop_limit: 64, options: 0, fragment: None, transport }
    }

    fn to_port(destination: &str, protocol: u8, port: u16) -> Self {
        let [a, b] = port.to_be_bytes();
        Self::new(destination, protocol, &[0, 53, a, b, 0, 8, 0, 0])
    }

    fn icmp(destination: &str, kind: u8, identifier: u16) -> Self {
        let [a, b] = identifier.to_be_bytes();
        let protocol = if destination.contains(':') { 58 } else { 1 };
        Self::new(destination, protocol, &[kind, 0, 0, 0, a, b, 0, 1])
    }

    fn frame(&self) -> Frame {
        let mut bytes = vec![self.mac, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        match self.destination {
            IpAddr::V4(destination) => {
                bytes.extend([0x08, 0x00, 0x45 + self.options, 0, 0, 0, 0, 0]);
                let fragment = self.fragment.map_or(0x4000, |offset| 0x2000 | offset);
                bytes.extend(fragment.to_be_bytes());
                bytes.extend([self.hop_limit, self.protocol, 0, 0, 203, 0, 113, 9]);
                bytes.extend(destination.octets());
                bytes.extend(std::iter::repeat_n(1, usize::from(self.options) * 4));
            }
            IpAddr::V6(destination) => {
                let next = if self.fragment.is_some() { 44 } else { self.protocol };
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next, self.hop_limit]);
                bytes.extend("2001:db8:9::9".parse::<Ipv6Addr>().unwrap().octets());
                bytes.extend(destination.octets());
                if let Some(offset) = self.fragment {
                    bytes.extend([self.protocol, 0]);
                    bytes.extend((offset << 3 | 1).to_be_bytes());
                    bytes.extend([0; 4]);
                }
            }
        }
        bytes.extend(&self.transport);
        Frame { bytes, tag: self.tag }
    }
}

/// The documented rules.
fn expected(filter: &KernelFilter, packet: &Packet) -> u32 {
    let passes = if packet.tag.is_some_and(|tag| tag & 0xfff != 0) || packet.mac & 1 != 0 {
        true
    } else if filter.own.contains(&packet.destination) {
        !filter.translated.iter().any(|(address, claim)| *address == packet.destination && claimed(claim, packet))
    } else if let IpAddr::V6(destination) = packet.destination {
        let discovery = packet.protocol == 58 && (133..=137).contains(&packet.transport[0]);
        discovery
            && packet.fragment.is_none()
            && packet.hop_limit == 255
            && destination.segments()[0] & 0xffc0 == 0xfe80
    } else {
        false
    };
    if passes { PASS } else { DROP }
}

fn claimed(claim: &Claim, packet: &Packet) -> bool {
    let word = |offset: usize| u16::from_be_bytes([packet.transport[offset], packet.transport[offset + 1]]);
    let (icmp, reply, request) = if packet.destination.is_ipv4() { (1, 0, 8) } else { (58, 129, 128) };
    packet.fragment.unwrap_or(0) == 0
        && match claim {
            Claim::Tcp(ports) => packet.protocol == TCP && ports.contains(&word(2)),
            Claim::Udp(ports) => packet.protocol == UDP && ports.contains(&word(2)),
            Claim::Echo(identifiers) => {
                packet.protocol == icmp && packet.transport[0] == reply && identifiers.contains(&word(4))
            }
            Claim::EchoRequest => packet.protocol == icmp && packet.transport[0] == request,
            Claim::Protocol(protocol) => packet.protocol == *protocol,
        }
}

fn filter() -> KernelFilter {
    let [wan, lan, published, wan6] =
        ["198.51.100.1", "10.1.0.1", "198.51.100.3", "2001:db8::1"].map(|text| text.parse().unwrap());
    KernelFilter {
        own: vec![wan, lan, wan6, published, "fe80::1".parse().unwrap()],
        translated: vec![
            (published, Claim::EchoRequest),
            (wan, Claim::Tcp(32768..=65535)),
            (wan, Claim::Tcp(443..=443)),
            (wan, Claim::Udp(32768..=65535)),
            (wan, Claim::Echo(32768..=65535)),
            (wan, Claim::Protocol(47)),
            (wan6, Claim::Tcp(32768..=65535)),
            (wan6, Claim::Udp(32768..=65535)),
            (wan6, Claim::Echo(0..=9)),
        ],
    }
}

#[test]
fn each_kind_of_packet_has_its_verdict() {
    let (wan, lan, wan6) = ("198.51.100.1", "10.1.0.1", "2001:db8::1");
    let to_port = Packet::to_port;
    let [vlan, priority] = [7, 0xe000].map(|tag| Packet { tag: Some(tag), ..to_port("192.0.2.9", UDP, 53) });
    let group = Packet { mac: 0x33, ..to_port("ff02::1", UDP, 546) };
    let options = Packet { options: 10, ..to_port(wan, TCP, 40000) };
    let solicitation = Packet { hop_limit: 255, ..Packet::icmp("fe80::7", 135, 0) };
    let first = |packet| Packet { fragment: Some(0), ..packet };
    let later = |packet| Packet { fragment: Some(185), ..packet };
    for (what, packet, verdict) in [
        ("transit", to_port("192.0.2.9", TCP, 22), DROP),
        ("transit, IPv6", to_port("2001:db8::9", TCP, 22), DROP),
        ("on a VLAN", vlan, PASS),
        ("transit with a priority", priority, DROP),
        ("to a group", group, PASS),
        ("SSH to the box", to_port(wan, TCP, 22), PASS),
        ("SSH to the box, IPv6", to_port(wan6, TCP, 22), PASS),
        ("a reply to a translated connection", to_port(wan, TCP, 32768), DROP),
        ("the same with options", options, DROP),
        ("the same, UDP", to_port(wan, UDP, 65535), DROP),
        ("the same, IPv6", to_port(wan6, UDP, 40000), DROP),
        ("the published port", to_port(wan, TCP, 443), DROP),
        ("the same number, UDP", to_port(wan, UDP, 443), PASS),
        ("the same on an address without translations", to_port(lan, TCP, 40000), PASS),
        ("ping", Packet::icmp(wan, 8, 40000), PASS),
        ("a reply to a translated ping", Packet::icmp(wan, 0, 40000), DROP),
        ("a reply to the box's own ping", Packet::icmp(wan, 0, 77), PASS),
        ("ping, IPv6", Packet::icmp(wan6, 128, 5), PASS),
        ("a reply to a translated ping, IPv6", Packet::icmp(wan6, 129, 5), DROP),
        ("a ping that is translated", Packet::icmp("198.51.100.3", 8, 5), DROP),
        ("a reply to the box's own ping from there", Packet::icmp("198.51.100.3", 0, 5), PASS),
        ("an error", Packet::icmp(wan, 3, 0), PASS),
        ("translated GRE", Packet::new(wan, 47, &[0; 8]), DROP),
        ("GRE to the box", Packet::new(lan, 47, &[0; 8]), PASS),
        ("a first fragment to a translated port", first(to_port(wan, UDP, 40000)), DROP),
        ("a later one", later(to_port(wan, UDP, 40000)), PASS),
        ("a first fragment to the box", first(to_port(wan, UDP, 53)), PASS),
        ("a first fragment to a translated port, IPv6", first(to_port(wan6, UDP, 40000)), DROP),
        ("a later one, IPv6", later(to_port(wan6, UDP, 40000)), PASS),
        ("a later one in transit", later(to_port("192.0.2.9", UDP, 40000)), DROP),
        ("a solicitation to a new address", solicitation.clone(), PASS),
        ("one that came from afar", Packet { hop_limit: 254, ..solicitation.clone() }, DROP),
        ("one in transit", Packet { destination: "2001:db8::9".parse().unwrap(), ..solicitation }, DROP),
    ] {
        assert_eq!(expected(&filter(), &packet), verdict, "the rules: {what}");
        assert_eq!(run(&filter().compile().unwrap(), &packet.frame()), verdict, "the program: {what}");
    }
}

#[test]
fn what_is_not_ip_passes_but_for_doubled_priorities() {
    let program = filter().compile().unwrap();
    let verdict = |ethertype: u16, tag| {
        let mut bytes = vec![2; 12];
        bytes.extend(ethertype.to_be_bytes());
        bytes.resize(60, 0);
        run(&program, &Frame { bytes, tag })
    };
    assert_eq!(verdict(0x0806, None), PASS);
    assert_eq!(verdict(0x88cc, None), PASS);
    assert_eq!(verdict(0x0806, Some(0)), PASS);
    assert_eq!(verdict(0x8100, Some(0)), DROP);
    assert_eq!(verdict(0x88a8, Some(0)), DROP);
    assert_eq!(verdict(0x8100, Some(5)), PASS);
}

#[test]
fn short_frames_end_the_program() {
    let program = filter().compile().unwrap();
    let packets = [
        Packet::to_port("198.51.100.1", TCP, 40000),
        Packet::icmp("2001:db8::1", 129, 5),
        Packet::icmp("fe80::2", 135, 0),
    ];
    for packet in packets {
        let frame = packet.frame();
        for length in 0..frame.bytes.len() {
            run(&program, &Frame { bytes: frame.bytes[..length].to_vec(), tag: None });
        }
    }
}

#[test]
fn too_many_addresses_are_refused_and_many_are_not() {
    let addresses = |count: u32| (0..count).map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)));
    let with = |count| KernelFilter { own: addresses(count).collect(), ..KernelFilter::default() };
    let program = with(2000).compile().unwrap();
    check(&program);
    let last = Packet::to_port("10.0.7.207", TCP, 22).frame();
    assert_eq!(run(&program, &last), PASS);
    let beyond = Packet::to_port("10.0.7.208", TCP, 22).frame();
    assert_eq!(run(&program, &beyond), DROP);
    match with(2048).compile() {
        Err(error @ FilterError::TooLarge { addresses: 2048, instructions: 4097.. }) => {
            assert!(error.to_string().contains("2048 own addresses"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let many =
        addresses(64).flat_map(|own| (0..64).map(move |n| (own, Claim::Udp(n * 1000..=n * 1000 + 500)))).collect();
    let same = KernelFilter { own: addresses(64).collect(), translated: many };
    check(&same.compile().unwrap());
}

fn address() -> impl Strategy<Value = IpAddr> {
    let texts = ["198.51.100.1", "198.51.100.2", "10.0.0.1", "2001:db8::1", "2001:db8::2", "2001:db8:1::1", "fe80::1"];
    prop::sample::select(texts.map(|text| text.parse().unwrap()).to_vec())
}

/// Few, so that packets hit the ends of ranges.
fn number() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![0, 1, 2, 79, 80, 81, 32767, 32768, 40000, 65534, 65535])
}

fn protocol() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![1, TCP, UDP, 47, 58])
}

fn claim() -> impl Strategy<Value = Claim> {
    let range = || (number(), number()).prop_map(|(a, b)| a..=b);
    prop_oneof![
        3 => range().prop_map(Claim::Tcp),
        3 => range().prop_map(Claim::Udp),
        3 => range().prop_map(Claim::Echo),
        1 => Just(Claim::EchoRequest),
        1 => protocol().prop_map(Claim::Protocol),
    ]
}

fn any_filter() -> impl Strategy<Value = KernelFilter> {
    let own = prop::collection::vec(address(), 0..8);
    let translated = prop::collection::vec((address(), claim()), 0..12);
    (own, translated).prop_map(|(own, translated)| KernelFilter { own, translated })
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let kind = prop::sample::select(vec![0u8, 3, 8, 129, 132, 133, 137, 138]);
    let link =
        (prop::sample::select(vec![2u8, 2, 2, 1]), prop::sample::select(vec![None, None, None, Some(0), Some(9)]));
    let network = (address(), protocol(), prop::sample::select(vec![255u8, 254]), 0u8..=10);
    let fragment = prop::sample::select(vec![None, None, None, Some(0), Some(1), Some(8191)]);
    (link, network, fragment, kind, number()).prop_map(
        |((mac, tag), (destination, protocol, hop_limit, options), fragment, kind, number)| {
            let [a, b] = number.to_be_bytes();
            let transport = match protocol {
                1 | 58 => vec![kind, 0, 0, 0, a, b, 0, 0],
                _ => vec![0, 0, a, b, 0, 0, 0, 0],
            };
            Packet { mac, tag, destination, protocol, hop_limit, options, fragment, transport }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn programs_do_what_the_rules_say(
        filter in any_filter(),
        packets in prop::collection::vec(any_packet(), 1..40),
    ) {
        let program = filter.compile().unwrap();
        check(&program);
        for packet in packets {
            prop_assert_eq!(run(&program, &packet.frame()), expected(&filter, &packet), "{:?}", packet);
        }
    }

    #[test]
    fn arbitrary_frames_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..120), tag in any::<Option<u16>>()) {
        run(&filter().compile().unwrap(), &Frame { bytes, tag });
    }
}
