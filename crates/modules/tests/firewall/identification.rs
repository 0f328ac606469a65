//! Identifications of translated IPv4 packets (RFC 6864 section 5.3.1).

use std::collections::HashSet;

use flowhop_flow::{Kind, Reason};
use flowhop_routing::{Event, Link};
use flowhop_wire::build::{Ip, L4, Spec};
use flowhop_wire::icmp4;

use crate::bed::{Bed, WAN_MAC, at, ends, framed, header, ip, is_sound};
use crate::pieces::split;

const OPEN: &str = "[[rule]]\nname = \"all\"\naction = \"allow\"\n";
const HIDE: &str = "[[nat]]\nname = \"hide\"\nto = \"outside\"\ntranslate.source = \"interface\"\n";

fn hidden() -> Bed {
    Bed::with(&format!("{OPEN}{HIDE}"))
}

fn udp<'a>(from: &str, to: &str, df: bool, id: u16, payload: &'a [u8]) -> Spec<'a> {
    let mut spec = Spec::udp(at(from), at(to), payload);
    if let Ip::V4(ip) = &mut spec.ip {
        (ip.df, ip.id) = (df, id);
    }
    spec
}

/// The identification that a packet leaves with.
fn leaves(bed: &mut Bed, port: u8, spec: &Spec<'_>) -> u16 {
    assert_eq!(bed.send(port, spec).kind, Kind::Forward);
    let (_, frame) = bed.last();
    assert!(is_sound(&frame));
    header(&frame).identification.get()
}

// Packets of two hosts with the same identification, which may be cut on their way, are not taken for one.
#[test]
fn hosts_behind_one_address_have_no_identification_in_common() {
    let mut bed = hidden();
    let mut seen = HashSet::new();
    for round in 0..30_000_u16 {
        for host in ["10.1.0.2:1000", "10.1.0.3:1000"] {
            let id = leaves(&mut bed, 1, &udp(host, "198.51.100.2:53", false, round, b"x"));
            assert!(seen.insert(id), "{id} again, after {} packets", seen.len());
        }
    }
    // What comes back has another address as well.
    assert_eq!(bed.send(1, &udp("10.1.0.2:1000", "198.51.100.2:53", false, 1, b"x")).kind, Kind::Forward);
    let back = ends(&bed.last().1).0.to_string();
    let ids: HashSet<_> =
        (0..100).map(|_| leaves(&mut bed, 2, &udp("198.51.100.2:53", &back, false, 7, b"x"))).collect();
    assert_eq!(ids.len(), 100);
}

// RFC 6864 section 4.1: of what cannot be cut it means nothing, and it stays; so does that of what is not translated.
#[test]
fn the_identification_of_others_stays() {
    let mut bed = hidden();
    for id in [0, 7, 0xffff] {
        assert_eq!(leaves(&mut bed, 1, &udp("10.1.0.2:1000", "198.51.100.2:53", true, id, b"x")), id);
    }
    let mut bed = Bed::with(OPEN);
    for id in [0, 7, 0xffff] {
        assert_eq!(leaves(&mut bed, 1, &udp("10.1.0.2:1000", "198.51.100.2:53", false, id, b"x")), id);
    }
}

/// The identifications of all frames that were sent.
fn sent(bed: &mut Bed) -> HashSet<u16> {
    bed.outside.sent.drain(..).map(|(_, frame)| header(&frame).identification.get()).collect()
}

// All fragments of a datagram have one, and another than those of another host's; also if they waited for a neighbour.
#[test]
fn fragments_have_that_of_their_datagram() {
    let mut bed = hidden();
    let mut seen = HashSet::new();
    for round in 0..20 {
        for (number, host) in ["10.1.0.2", "10.1.0.3"].iter().enumerate() {
            let spec = udp(&format!("{host}:1000"), "198.51.100.2:53", false, 7, &[9; 3000]);
            for frame in split(&framed(1, &spec), 7, 1000) {
                bed.receive(1, frame);
            }
            assert_eq!(bed.outside.sent.len(), 4);
            let ids = sent(&mut bed);
            assert_eq!(ids.len(), 1, "round {round}, host {number}: {ids:?}");
            assert!(seen.insert(ids.into_iter().next().unwrap()));
        }
    }
    let mut bed = Bed::sized(&format!("{OPEN}{HIDE}"), 1024, false);
    let spec = udp("10.1.0.2:1000", "198.51.100.77:53", false, 7, &[9; 3000]);
    for frame in split(&framed(1, &spec), 7, 1000) {
        bed.receive(1, frame);
    }
    assert!(bed.outside.sent.is_empty() && bed.engine.held() == 4);
    let state = flowhop_routing::NeighbourState::Resolved(WAN_MAC);
    bed.event(Event::NeighbourChanged { ifindex: 12, address: ip("198.51.100.77"), state });
    bed.settle();
    assert_eq!((bed.outside.sent.len(), sent(&mut bed).len()), (4, 1));
    // One that waited in vain is answered as its sender sent it.
    let spec = udp("10.1.0.2:1000", "198.51.100.78:53", false, 7, &[9; 3000]);
    for frame in split(&framed(1, &spec), 7, 1000) {
        bed.receive(1, frame);
    }
    let state = flowhop_routing::NeighbourState::Failed;
    bed.event(Event::NeighbourChanged { ifindex: 12, address: ip("198.51.100.78"), state });
    let quotes: Vec<_> = bed.outside.sent.iter().map(|(_, frame)| (frame[34], frame[46..48].to_vec())).collect();
    assert_eq!(quotes, [(icmp4::UNREACHABLE, vec![0, 7])]);
}

// What is cut here is cut with the new one.
#[test]
fn pieces_of_what_is_cut_have_one() {
    let mut bed = hidden();
    bed.event(Event::LinkUpsert(Link { mtu: 600, ..Link::ethernet(12, "wan0", WAN_MAC) }));
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let spec = udp("10.1.0.2:1000", "198.51.100.2:53", false, 7, &[9; 1400]);
        assert_eq!(bed.send(1, &spec).reason, Reason::Fragmented);
        assert!(bed.outside.sent.len() == 3 && bed.outside.sent.iter().all(|(_, frame)| frame.len() <= 614));
        let ids = sent(&mut bed);
        assert_eq!(ids.len(), 1);
        assert!(seen.insert(ids.into_iter().next().unwrap()));
    }
}

// Errors that are translated have theirs too: one router's may meet another's behind the same address.
#[test]
fn translated_errors_have_their_own() {
    let mut bed = hidden();
    assert_eq!(bed.send(1, &Spec::udp(at("10.1.0.2:1000"), at("198.51.100.2:53"), b"x")).kind, Kind::Forward);
    let (_, out) = bed.last();
    let quote = out[14..].to_vec();
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let l4 = L4::Icmp { kind: icmp4::UNREACHABLE, code: 1, rest: [0; 4] };
        let mut spec = Spec::new(ip("198.51.100.3"), ip("198.51.100.1"), l4, &quote);
        if let Ip::V4(ip) = &mut spec.ip {
            (ip.df, ip.id) = (false, 7);
        }
        assert!(seen.insert(leaves(&mut bed, 2, &spec)));
    }
}
