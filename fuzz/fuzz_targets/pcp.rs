//! Hosts that ask for mappings, well and ill, beside the connections that use them.
//!
//! What is checked: an answer is no longer than its request, or than a header; nobody comes in whom a host neither asked for
//! nor sent to; mappings keep within their bounds; and when all time is over nothing is left.
#![no_main]
#![allow(dead_code, unreachable_pub, reason = "the bed has more than is used here")]

#[path = "../../crates/modules/tests/firewall/bed.rs"]
mod bed;
mod shared;

use std::net::{IpAddr, SocketAddr};

use bed::{Bed, LAN, WAN, at, ends, is_sound};
use flowhop_flow::Kind;
use flowhop_flow::key::ip;
use flowhop_wire::build::Spec;
use flowhop_wire::pcp::{Map, RequestHeader, opcode};
use flowhop_wire::tcp_flags::SYN;
use libfuzzer_sys::fuzz_target;
use shared::{Input, mapped};

const POLICIES: [&str; 4] = [
    r#"
[[rule]]
name = "out"
from = "inside"
to = "outside"
action = "allow"
[[nat]]
name = "hide"
to = "outside"
translate.source = "interface"
[pcp]
from = "inside"
to = "outside"
limit = 5
"#,
    r#"
[[rule]]
name = "out"
from = "inside"
to = "outside"
action = "allow"
[[rule]]
name = "no"
from = "outside"
to = "inside"
service = ["tcp/80", "udp/81"]
action = "drop"
[[nat]]
name = "hide"
to = "outside"
translate.source = "198.51.100.9"
mapping = "address-and-port-dependent"
allocation = "blocks"
block = 16
[[nat]]
name = "nat64"
to = "outside"
prefix64 = "64:ff9b::/96"
translate.source = "198.51.100.20"
[pcp]
from = "inside"
to = "outside"
source = ["10.1.0.2", "fd00::/16"]
min_lifetime = "1s"
"#,
    r#"
[[rule]]
name = "out"
from = "inside"
to = "outside"
action = "allow"
[[nat]]
name = "pairs"
to = "outside"
source = "10.1.0.2-10.1.0.3"
translate.source = "198.51.100.32-198.51.100.33"
one_to_one = true
[pcp]
from = "inside"
to = "outside"
"#,
    r#"
[[rule]]
name = "out"
from = "inside"
to = "outside"
action = "allow"
[[nat]]
name = "hide"
to = "outside"
translate.source = "interface"
"#,
];

const HOSTS: [&str; 4] = ["10.1.0.2", "10.1.0.3", "fd00:0:0:1::2", "10.2.0.2"];
const REMOTES: [&str; 3] = ["198.51.100.2", "198.51.100.3", "2001:db8:0:2::2"];

fn request(input: &mut Input<'_>, host: &str) -> Vec<u8> {
    let kind = input.byte();
    let lifetime = [0, 1, 130, 100_000][usize::from(kind & 3)];
    let header = RequestHeader {
        version: if kind & 0x40 == 0 { 2 } else { kind },
        opcode: if kind & 0x80 == 0 { opcode::MAP } else { input.byte() },
        reserved: 0.into(),
        lifetime: lifetime.into(),
        client: mapped(bed::ip(host)),
    };
    let suggested =
        [("0.0.0.0", 0), ("::", 0), ("198.51.100.1", 80), ("198.51.100.9", 2048)][usize::from(kind >> 2 & 3)];
    let map = Map {
        nonce: [input.byte() & 1; 12],
        protocol: [6, 17, 17, 6, 0, 132, 6, 17][usize::from(input.byte() & 7)],
        reserved: [0; 3],
        internal_port: u16::from(80 + (input.byte() & 7)).into(),
        external_port: (suggested.1 + u16::from(kind >> 4 & 1)).into(),
        external_address: mapped(bed::ip(suggested.0)),
    };
    let mut message = [header.bytes(), map.bytes()].concat();
    for _ in 0..input.byte() & 3 {
        let code = [1, 2, 3, 3, 3, 200, 77, 3][usize::from(input.byte() & 7)];
        let length = [16, 0, 20, 20, 20, 5, 4, 19][usize::from(input.byte() & 7)];
        let mut option = vec![code, 0, 0, length];
        let prefix = [0, 96 + 24, 128, 64, 95][usize::from(input.byte() % 5)];
        option.extend([0, prefix, 0, input.byte() & 1]);
        option.extend(mapped(bed::ip(input.pick(&REMOTES))));
        option.resize(4 + usize::from(length).next_multiple_of(4), 0);
        message.extend(option);
    }
    if input.byte() & 7 == 0 {
        let (place, value) = (usize::from(input.byte()) % message.len(), input.byte());
        message[place] ^= value;
        let length = message.len() - usize::from(input.byte() & 15).min(message.len());
        message.truncate(length);
    }
    message
}

fn ask(bed: &mut Bed, input: &mut Input<'_>) {
    let host = input.pick(&HOSTS);
    let server = if bed::ip(host).is_ipv4() { "10.1.0.1:5351" } else { "[fd00:0:0:1::1]:5351" };
    let message = request(input, host);
    bed.outside.sent.clear();
    let outcome = bed.send(LAN, &Spec::udp(SocketAddr::new(bed::ip(host), 5000), at(server), &message));
    if outcome.kind != Kind::Consume {
        assert!(bed.outside.sent.is_empty(), "{outcome:?}");
        return;
    }
    let (port, frame) = bed.outside.sent.pop().expect("an answer");
    assert!(port == LAN && is_sound(&frame) && ends(&frame).0 == at(server));
    let answer = &frame[if bed::ip(host).is_ipv4() { 42 } else { 62 }..];
    assert!(answer.len() <= message.len().next_multiple_of(4).max(24), "{} for {}", answer.len(), message.len());
    assert!(answer[0] == 2 && answer[1] & 0x80 != 0);
}

/// What comes in from outside without a connection is for somebody who has asked, or has sent.
fn come_in(bed: &mut Bed, input: &mut Input<'_>) {
    let asked = bed.bindings.all_asked(bed.now);
    let place = usize::from(input.byte());
    let target = match asked.get(place % asked.len().max(1)) {
        Some(asked) if place & 0x80 == 0 => SocketAddr::new(ip(&asked.external.address), asked.external.port),
        _ => at(input.pick(&["198.51.100.1:80", "198.51.100.9:1030", "[fd00:0:0:1::2]:81", "198.51.100.32:80"])),
    };
    let Some(remote) = REMOTES.iter().find(|remote| bed::ip(remote).is_ipv4() == target.is_ipv4()) else { return };
    let from = SocketAddr::new(bed::ip(remote), 1000 + u16::from(input.byte()));
    let before = bed.engine.table().live();
    let tcp = input.byte() & 1 == 0;
    let spec = if tcp { Spec::tcp(from, target, SYN, b"") } else { Spec::udp(from, target, b"x") };
    let outcome = bed.send(WAN, &spec);
    if outcome.kind == Kind::Forward && bed.engine.table().live() > before {
        let protocol = if tcp { 6 } else { 17 };
        let is = |asked: &flowhop_modules::Asked| {
            asked.inside.protocol == protocol
                && (ip(&asked.external.address), asked.external.port) == (target.ip(), target.port())
        };
        assert!(asked.iter().any(is), "{target} was not asked for: {outcome:?}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut bed = Bed::with(POLICIES[usize::from(input.byte()) % POLICIES.len()]);
    for _ in 0..256 {
        if input.0.is_empty() {
            break;
        }
        match input.byte() & 15 {
            0..=5 => ask(&mut bed, &mut input),
            6..=9 => come_in(&mut bed, &mut input),
            10 | 11 => {
                let host = input.pick(&HOSTS[..2]);
                let (port, remote) = (80 + u16::from(input.byte() & 7), input.pick(&REMOTES[..2]));
                let spec = Spec::udp(SocketAddr::new(bed::ip(host), port), SocketAddr::new(bed::ip(remote), 53), b"x");
                bed.send(LAN, &spec);
            }
            12 => bed.pass(u32::from(input.byte()) * 1000),
            13 => drop(bed.reload(POLICIES[usize::from(input.byte()) % POLICIES.len()])),
            _ => drop(bed.turn()),
        }
        assert!(bed.bindings.all_asked(bed.now).len() <= 1024 / 16);
        bed.outside.sent.clear();
    }
    bed.reload(POLICIES[3]);
    // In strides: what falls due in one is done in its turns.
    for _ in 0..24 {
        bed.now += 400_000;
        while bed.turn() {}
    }
    assert!(bed.bindings.all_asked(bed.now).is_empty() && bed.bindings.is_empty() && bed.engine.table().live() == 0);
});
