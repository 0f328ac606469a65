//! The slow path under histories of packets, time, events and reloads.
//!
//! The bed is that of the firewall's tests. What is checked of each packet: that whatever leaves has right checksums if
//! what came had, that nothing that comes from outside gets inside without a connection, and that the table keeps within
//! its bounds.
#![no_main]
#![allow(dead_code, unreachable_pub, reason = "the bed has more than is used here")]

#[path = "../../crates/modules/tests/firewall/bed.rs"]
mod bed;
mod shared;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bed::{Bed, LAN, WAN, at, is_sound};
use flowhop_flow::Kind;
use flowhop_routing::{Event, NeighbourState};
use flowhop_wire::build::{L4, Spec};
use flowhop_wire::pcp::{Map, RequestHeader};
use flowhop_wire::protocol;
use libfuzzer_sys::fuzz_target;
use shared::{Input, mapped};

const POLICIES: [&str; 3] = [
    r#"
[[rule]]
name = "browse"
from = "inside"
to = ["outside", "inside"]
action = "allow"
[[nat]]
name = "hide"
to = "outside"
translate.source = "interface"
filtering = "endpoint-independent"
[[nat]]
name = "publish"
destination = "198.51.100.9"
service = ["tcp/80", "udp/80"]
translate.destination = "10.1.0.80:8080"
syn_cookies = "always"
[[nat]]
name = "nat64"
to = "outside"
prefix64 = "64:ff9b::/96"
translate.source = "198.51.100.9"
filtering = "endpoint-independent"
[[rule]]
name = "web"
to = "inside"
destination = "10.1.0.80"
action = "allow"
[pcp]
from = "inside"
to = "outside"
limit = 8
"#,
    r#"
[[rule]]
name = "files"
service = ["tcp/80", "tcp/1024"]
action = "allow"
helper = "ftp"
[[rule]]
name = "boot images"
service = "udp/53"
action = "allow"
helper = "tftp"
[[rule]]
name = "browse"
from = "inside"
to = "outside"
service = ["udp", "icmp"]
action = "allow"
[[nat]]
name = "hide"
to = "outside"
translate.source = "198.51.100.9"
mapping = "address-and-port-dependent"
"#,
    r#"
[[rule]]
name = "both"
take_up = true
source_limit = "100/s"
action = "allow"
"#,
];

fn inside(input: &mut Input<'_>) -> SocketAddr {
    let byte = input.byte();
    let host = ["10.1.0.2", "10.1.0.3", "10.1.0.80", "10.2.0.2"][usize::from(byte & 3)];
    at(&format!("{host}:{}", 1000 + u16::from(byte >> 2)))
}

fn outside(input: &mut Input<'_>) -> SocketAddr {
    let byte = input.byte();
    let host = ["198.51.100.2", "198.51.100.3", "198.51.100.1", "198.51.100.9"][usize::from(byte & 3)];
    at(&format!("{host}:{}", [80, 53, 8080, 1024][usize::from(byte >> 2 & 3)]))
}

/// An IPv6 host that sends to an IPv4 one.
fn across(destination: SocketAddr, port: u16) -> (SocketAddr, SocketAddr) {
    let IpAddr::V4(address) = destination.ip() else { return (destination, destination) };
    let [a, b, c, d] = address.octets().map(u16::from);
    let shown = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a << 8 | b, c << 8 | d);
    (SocketAddr::new("fd00:0:0:1::2".parse().unwrap(), port), (shown, destination.port()).into())
}

/// A host asks for a mapping of one of its ports, or for its end (RFC 6887 sections 7.1 and 11.1).
fn mapping_request(host: IpAddr, input: &mut Input<'_>) -> Vec<u8> {
    let bits = input.byte();
    let lifetime = if bits & 1 == 0 { 0 } else { u32::from(input.byte()) * 100 };
    let header = RequestHeader {
        version: 2,
        opcode: bits >> 1 & 3,
        reserved: 0.into(),
        lifetime: lifetime.into(),
        client: mapped(host),
    };
    let map = Map {
        nonce: [bits >> 3 & 1; 12],
        protocol: if bits & 0x10 == 0 { protocol::TCP } else { protocol::UDP },
        reserved: [0; 3],
        internal_port: (1000 + u16::from(input.byte() & 63)).into(),
        external_port: (1024 + u16::from(bits >> 5)).into(),
        external_address: mapped(host),
    };
    [header.bytes(), map.bytes()].concat()
}

fn step(bed: &mut Bed, input: &mut Input<'_>) {
    let operation = input.byte();
    let from_inside = operation & 0x80 != 0;
    let port = if from_inside { LAN } else { WAN };
    let (source, destination) = if from_inside {
        (inside(input), outside(input))
    } else if operation & 0x40 != 0 {
        // Back to where something came from.
        let last = bed.outside.sent.last().map(|(_, frame)| frame.clone());
        match last.filter(|frame| frame.len() >= 42 && frame[12..14] == [8, 0]) {
            Some(frame) => {
                let (a, b) = bed::ends(&frame);
                (b, a)
            }
            None => (outside(input), inside(input)),
        }
    } else {
        (outside(input), inside(input))
    };
    let texts: [&[u8]; 2] = [b"PORT 10,1,0,2,200,1\r\n", b"\0\x01a\0octet\0"];
    let payload: &[u8] = texts[usize::from(operation >> 4 & 1)];
    let crosses = from_inside && operation & 0x20 != 0;
    let (source, destination) = if crosses { across(destination, source.port()) } else { (source, destination) };
    let frame = match operation & 15 {
        3 if from_inside && !crosses => {
            let request = mapping_request(source.ip(), input);
            let spec = Spec::udp(source, at("10.1.0.1:5351"), &request);
            return receive(bed, port, spec.with_link(bed::INSIDE_MAC, bed::LAN_MAC).to_vec().ok(), input);
        }
        0..=3 => Spec::udp(source, destination, payload),
        4..=8 => {
            let (flags, sequence, acknowledgment) = (input.byte() & 0x3f, input.byte(), input.byte());
            let length = if sequence & 7 == 7 { payload.len() } else { usize::from(sequence & 7) };
            Spec::tcp(source, destination, flags, &payload[..length])
                .with_sequence(u32::from(sequence) * 512, u32::from(acknowledgment) * 512)
        }
        9 => Spec::echo_request(source.ip(), destination.ip(), source.port(), 1, payload),
        10 => Spec::new(source.ip(), destination.ip(), L4::Raw { protocol: input.byte() }, payload),
        11 => {
            // An error that quotes what was sent last.
            let quote =
                bed.outside.sent.last().map_or(Vec::new(), |(_, frame)| frame.get(14..).unwrap_or_default().to_vec());
            let l4 = L4::Icmp { kind: input.byte() & 15, code: input.byte() & 7, rest: [0; 4] };
            let spec = Spec::new(source.ip(), destination.ip(), l4, &quote);
            return receive(bed, port, spec.with_link(bed::OUTSIDE_MAC, bed::WAN_MAC).to_vec().ok(), input);
        }
        12 => return bed.pass(u32::from(input.byte()) * 50),
        13 => {
            drop(bed.turn());
            bed.begin_reload(POLICIES[usize::from(input.byte()) % POLICIES.len()]);
            return bed.services();
        }
        14 => {
            let (ifindex, address) = if from_inside { (11, source.ip()) } else { (12, source.ip()) };
            let state = if input.byte() & 1 == 0 { NeighbourState::Resolved([2; 6]) } else { NeighbourState::Failed };
            return bed.event(Event::NeighbourChanged { ifindex, address, state });
        }
        _ => {
            let length = usize::from(input.byte()) * 4;
            let frame = input.bytes(length);
            let link: &[u8] = if port == LAN { &bed::LAN_MAC } else { &bed::WAN_MAC };
            return receive(bed, port, Some([link, &frame[..]].concat()), input);
        }
    };
    let (from, to) = if port == LAN { (bed::INSIDE_MAC, bed::LAN_MAC) } else { (bed::OUTSIDE_MAC, bed::WAN_MAC) };
    receive(bed, port, frame.with_link(from, to).to_vec().ok(), input);
}

/// A frame comes in, with some bytes changed.
fn receive(bed: &mut Bed, port: u8, frame: Option<Vec<u8>>, input: &mut Input<'_>) {
    let Some(mut frame) = frame else { return };
    if input.byte() & 7 == 0 {
        for _ in 0..input.byte() & 3 {
            let (place, value) = (usize::from(input.byte()), input.byte());
            if let Some(byte) = frame.get_mut(place) {
                *byte ^= value;
            }
        }
    }
    let sound = frame.len() >= 34 && is_sound(&frame);
    let before = bed.outside.sent.len();
    let outcome = bed.receive(port, frame);
    if outcome.kind == Kind::Forward {
        assert!(outcome.session.is_some(), "forwarded without a connection: {outcome:?}");
        assert!(outcome.out.is_some(), "{outcome:?}");
        for (_, sent) in &bed.outside.sent[before..] {
            assert!(!sound || is_sound(sent), "a wrong checksum leaves: {sent:02x?}");
        }
    }
    if bed.outside.sent.len() > 64 {
        bed.outside.sent.drain(..32);
    }
    assert!(bed.engine.table().live() as usize <= bed.engine.table().regions().blocks.len());
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut bed = Bed::with(POLICIES[usize::from(input.byte()) % POLICIES.len()]);
    bed.services();
    for _ in 0..512 {
        if input.0.is_empty() {
            break;
        }
        step(&mut bed, &mut input);
    }
});
