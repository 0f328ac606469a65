//! Refused connections are remembered, for the kernel paths to drop them (checklist A13).

use flowhop_engine::refusals::is_refusal;
use flowhop_flow::record::{Action, Steer};
use flowhop_flow::{Kind, Reason};
use flowhop_routing::{Event, IpPrefix, Route};
use flowhop_wire::build::Spec;

use crate::bed::{Bed, LAN, WAN, at, ip};

const STRANGER: &str = "198.51.100.2:53";
const HOST: &str = "10.1.0.2:1234";

fn refuse(bed: &mut Bed) -> (Kind, Reason) {
    let outcome = bed.send(WAN, &Spec::udp(at(STRANGER), at(HOST), b"x"));
    (outcome.kind, outcome.reason)
}

fn refused() -> (Kind, Reason) {
    (Kind::Drop, Reason::NoRule)
}

const OUTGOING: &str = r#"
[[rule]]
name = "out"
from = "inside"
to = "outside"
action = "allow"
"#;

fn incoming() -> String {
    format!("{OUTGOING}[[rule]]\nname = \"in\"\nfrom = \"outside\"\nto = \"inside\"\naction = \"allow\"\n")
}

// A13: the entry says "drop", on the port that the packets came in through, for the reason that they were refused with.
#[test]
fn what_is_refused_twice_is_remembered_for_a_while() {
    let mut bed = Bed::with(OUTGOING);
    assert_eq!(refuse(&mut bed), refused());
    assert_eq!((bed.engine.refusals(), bed.engine.table().live()), (0, 0), "a scan fills nothing");
    assert_eq!(refuse(&mut bed), refused());
    assert_eq!((bed.engine.refusals(), bed.engine.table().live()), (1, 1));
    let number = bed.engine.table().live_blocks().next().unwrap();
    let block = bed.engine.table().block(number).unwrap();
    let steer = Steer::unpack(block.hot[0].steer.load());
    assert!(is_refusal(block));
    assert_eq!((steer.action, steer.ingress), (Action::Drop, WAN));
    assert_eq!(block.hot[0].service.load(), u32::from(Reason::NoRule.number()));
    assert_eq!(refuse(&mut bed), refused());
    assert_eq!(bed.engine.refusals(), 1);
    bed.pass(12_000);
    assert_eq!((bed.engine.refusals(), bed.engine.table().live()), (0, 0));
}

// An attacker must not be able to keep an inside host from talking to an address by being refused in its name.
#[test]
fn a_connection_that_needs_the_key_takes_it() {
    let mut bed = Bed::with(OUTGOING);
    refuse(&mut bed);
    refuse(&mut bed);
    let out = bed.send(LAN, &Spec::udp(at(HOST), at(STRANGER), b"x"));
    assert_eq!(out.kind, Kind::Forward);
    let back = bed.send(WAN, &Spec::udp(at(STRANGER), at(HOST), b"x"));
    assert_eq!((back.kind, back.session), (Kind::Forward, out.session));
    bed.pass(2000);
    assert_eq!(bed.engine.refusals(), 0);
}

#[test]
fn another_policy_or_interface_is_asked_anew() {
    let mut bed = Bed::with(OUTGOING);
    refuse(&mut bed);
    refuse(&mut bed);
    let elsewhere = bed.send(LAN, &Spec::udp(at(STRANGER), at(HOST), b"x"));
    assert_ne!(elsewhere.reason, Reason::FlowDropped);
    refuse(&mut bed);
    refuse(&mut bed);
    bed.reload(&incoming());
    assert_eq!(refuse(&mut bed).0, Kind::Forward);
}

#[test]
fn a_route_that_leads_elsewhere_is_asked_about() {
    let mut bed = Bed::with(OUTGOING);
    refuse(&mut bed);
    refuse(&mut bed);
    assert_eq!(bed.engine.refusals(), 1);
    bed.event(Event::RouteAdded(Route::unicast(IpPrefix::host(ip("10.1.0.2")), Some(ip("10.1.0.3")), 11)));
    bed.pass(2000);
    assert_eq!(bed.engine.refusals(), 0);
}

// Refusals take a small share of the table, whatever comes.
#[test]
fn there_are_few_of_them() {
    let mut bed = Bed::with(OUTGOING);
    for port in 1..500 {
        let spec = Spec::udp(at(&format!("198.51.100.2:{port}")), at(HOST), b"x");
        bed.send(WAN, &spec);
        bed.send(WAN, &spec);
    }
    assert_eq!(bed.engine.refusals(), 1024 / 16);
}

// What is taken out and waits for its grace period is neither a connection nor a refusal.
#[test]
fn what_is_removed_counts_as_nothing() {
    let mut bed = Bed::sized(OUTGOING, 64, true);
    refuse(&mut bed);
    refuse(&mut bed);
    bed.send(LAN, &Spec::udp(at("10.1.0.3:1"), at(STRANGER), b"x"));
    assert_eq!((bed.engine.refusals(), bed.engine.table().live()), (1, 2));
    assert_eq!(bed.send(LAN, &Spec::udp(at(HOST), at(STRANGER), b"x")).kind, Kind::Forward, "takes its key");
    assert_eq!((bed.engine.refusals(), bed.engine.table().live()), (0, 2));
    assert!(bed.engine.table().wants_grace());
    let other = "198.51.100.2:54";
    for _ in 0..2 {
        bed.send(WAN, &Spec::udp(at(other), at(HOST), b"x"));
    }
    assert_eq!(bed.engine.refusals(), 1);
    bed.settle();
    assert_eq!((bed.engine.refusals(), bed.engine.table().live()), (1, 3), "the one of before is not taken off twice");
}
