//! SYNs that come to a mapping from a stranger (RFC 5382 REQ-4; RFC 9293 section 3.5, simultaneous open).

use std::net::SocketAddr;

use flowhop_flow::{Kind, Reason};
use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::SYN;

use crate::bed::{Bed, LAN, WAN, at, header, ip, is_sound};
use crate::pools::SECOND;
use crate::translation::{CLIENT, HIDE, policy, syn};

const STRANGER: &str = "198.51.100.3:7000";

fn inbound(to: SocketAddr) -> Spec<'static> {
    Spec::tcp(at(STRANGER), to, SYN, &[]).with_sequence(9000, 0)
}

impl Bed {
    /// A mapping of the client, made by a connection to somebody else.
    fn mapped(more: &str) -> (Self, SocketAddr) {
        let mut bed = Self::with(&policy(&[&format!("{HIDE}{more}\n")]));
        let (_, external, _) = bed.passes(LAN, &syn(CLIENT, "198.51.100.2:80"));
        (bed, external)
    }

    #[track_caller]
    fn holds(&mut self, spec: &Spec<'_>) {
        self.refused(WAN, spec, Kind::Hold, Reason::HeldSyn);
    }

    fn counted(&self, reason: Reason) -> u64 {
        self.engine.counters().get(WAN, reason).0
    }
}

#[test]
fn a_stranger_is_told_after_six_seconds_that_nobody_is_there() {
    let (mut bed, external) = Bed::mapped("");
    bed.holds(&inbound(external));
    bed.pass(3 * SECOND);
    // Repeated: one answer is enough.
    bed.refused(WAN, &inbound(external), Kind::Drop, Reason::NatFiltered);
    bed.pass(2 * SECOND);
    assert_eq!((bed.outside.sent.len(), bed.counted(Reason::HeldSyn), bed.counted(Reason::NatFiltered)), (0, 1, 1));
    bed.pass(2 * SECOND);
    assert_eq!((bed.counted(Reason::HeldSyn), bed.counted(Reason::NatFiltered)), (0, 2));
    let (port, frame) = bed.last();
    assert_eq!(
        (port, header(&frame).protocol, header(&frame).destination, is_sound(&frame)),
        (WAN, 1, [198, 51, 100, 3], true)
    );
    assert_eq!(frame[34..36], [3, 3], "port unreachable");
    assert_eq!(frame[42 + 12..42 + 20], [[198, 51, 100, 3], [198, 51, 100, 1]].concat(), "it quotes the SYN");
    assert_eq!(frame[42 + 22..42 + 24], external.port().to_be_bytes());
    assert!(bed.outside.sent.is_empty());
    bed.ends_clean();
}

// Both open the same connection: the SYN that came too early is forgotten, the next one passes.
#[test]
fn a_stranger_that_is_called_meanwhile_is_not_answered() {
    let (mut bed, external) = Bed::mapped("");
    bed.holds(&inbound(external));
    bed.pass(5 * SECOND);
    let (_, source, _) = bed.passes(LAN, &syn(CLIENT, STRANGER));
    assert_eq!(source, external);
    assert_eq!((bed.counted(Reason::HeldSyn), bed.counted(Reason::NatFiltered)), (0, 1));
    let (port, _, destination) = bed.passes(WAN, &inbound(external));
    assert_eq!((port, destination), (LAN, at(CLIENT)));
    bed.pass(10 * SECOND);
    assert!(bed.outside.sent.is_empty());
}

// Calling somebody else is no reason to stay silent.
#[test]
fn another_connection_of_the_same_mapping_does_not_count() {
    let (mut bed, external) = Bed::mapped("");
    bed.holds(&inbound(external));
    bed.passes(LAN, &syn(CLIENT, "198.51.100.3:7001"));
    bed.pass(7 * SECOND);
    assert_eq!(bed.outside.sent.len(), 1);
}

#[test]
fn the_policy_may_stay_silent() {
    let (mut bed, external) = Bed::mapped("unsolicited = \"drop\"");
    bed.refused(WAN, &inbound(external), Kind::Drop, Reason::NatFiltered);
    bed.pass(7 * SECOND);
    assert!(bed.outside.sent.is_empty());
    // Nothing but SYNs is answered, and nothing without a mapping.
    let (mut bed, external) = Bed::mapped("");
    let udp = Spec::udp(at(STRANGER), external, b"x");
    bed.refused(WAN, &udp, Kind::Stack, Reason::Local);
    bed.seen(CLIENT, "198.51.100.2:53");
    bed.pass(7 * SECOND);
    assert!(bed.outside.sent.is_empty());
}

// Memory is fixed, and so is the rate of answers: the rest is dropped.
#[test]
fn a_flood_is_dropped_without_an_answer() {
    let (mut bed, external) = Bed::mapped("");
    let mut held = 0;
    for port in 1..=2000u16 {
        let spec = Spec::tcp(SocketAddr::new(ip("198.51.100.3"), port), external, SYN, &[]).with_sequence(1, 0);
        let outcome = bed.send(WAN, &spec);
        held += u32::from(outcome.reason == Reason::HeldSyn);
        assert!(matches!(outcome.reason, Reason::HeldSyn | Reason::NatFiltered));
    }
    assert_eq!(held, 1024);
    bed.pass(7 * SECOND);
    assert_eq!((bed.counted(Reason::HeldSyn), bed.counted(Reason::NatFiltered)), (0, 2000));
    assert!((1..=400).contains(&bed.outside.sent.len()), "{}", bed.outside.sent.len());
    bed.holds(&inbound(external));
}

// Two inside hosts that open to each other's mappings are connected, with neither told anything.
#[test]
fn inside_hosts_open_to_each_other() {
    let (mut bed, first) = Bed::mapped("");
    let (_, second, _) = bed.passes(LAN, &syn("10.1.0.3:40000", "198.51.100.2:80"));
    bed.refused(LAN, &syn(CLIENT, &second.to_string()), Kind::Hold, Reason::HeldSyn);
    let (port, source, destination) = bed.passes(LAN, &syn("10.1.0.3:40000", &first.to_string()));
    assert_eq!((port, source, destination), (LAN, second, at(CLIENT)));
    let (port, source, destination) = bed.passes(LAN, &syn(CLIENT, &second.to_string()));
    assert_eq!((port, source, destination), (LAN, first, at("10.1.0.3:40000")));
    bed.pass(10 * SECOND);
    assert!(bed.outside.sent.is_empty());
}
