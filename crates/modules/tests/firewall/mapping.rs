//! What a mapping depends on, and who may use it from outside: the nine kinds of RFC 4787 sections 4.1 and 5, RFC 5382
//! REQ-1 and REQ-3.

use std::net::SocketAddr;

use flowhop_engine::view_of;
use flowhop_flow::{Kind, Reason};
use flowhop_routing::{Event, IpPrefix, Route};
use flowhop_wire::build::Spec;

use crate::bed::{Bed, LAN, WAN, at, ip};
use crate::translation::{CLIENT, HIDE, policy, syn};

const DEPENDENCES: [&str; 3] = ["endpoint-independent", "address-dependent", "address-and-port-dependent"];
const OTHER: &str = "10.1.0.3:40000";

fn kind(mapping: &str, filtering: &str) -> String {
    policy(&[&format!("{HIDE}mapping = \"{mapping}\"\nfiltering = \"{filtering}\"\n")])
}

fn all_nine(test: impl Fn(Bed, usize, usize)) {
    for (mapping, mapped) in DEPENDENCES.iter().enumerate() {
        for (filtering, filtered) in DEPENDENCES.iter().enumerate() {
            println!("mapping {mapped}, filtering {filtered}");
            test(Bed::with(&kind(mapped, filtered)), mapping, filtering);
        }
    }
}

pub(crate) fn udp(from: &str, to: SocketAddr) -> Spec<'static> {
    Spec::udp(at(from), to, b"x")
}

impl Bed {
    #[track_caller]
    pub(crate) fn seen(&mut self, from: &str, to: &str) -> SocketAddr {
        let (port, source, destination) = self.passes(LAN, &udp(from, at(to)));
        assert_eq!((port, destination), (WAN, at(to)));
        source
    }
}

// RFC 4787 REQ-7: no address of a network that has some in common with the inside, unless policy says so.
#[test]
fn no_address_of_a_network_that_is_inside_as_well() {
    for overlap in [false, true] {
        let mut bed = Bed::with(&policy(&[&format!("{HIDE}overlap = {overlap}\n")]));
        bed.seen(CLIENT, "198.51.100.2:53");
        bed.add_address(12, "10.1.0.129", 26);
        // What is open goes on.
        bed.seen(CLIENT, "198.51.100.2:53");
        if overlap {
            bed.seen(OTHER, "198.51.100.2:53");
            continue;
        }
        bed.refuses(OTHER, Reason::AddressConflict);
        let (address, prefix_len) = (ip("10.1.0.129"), 26);
        bed.event(Event::AddressGone { ifindex: 12, address, prefix_len });
        bed.seen(OTHER, "198.51.100.2:53");
        // One prefix of IPv6 on both sides, as with proxies for neighbour discovery, is no matter of IPv4.
        bed.add_address(12, "fd00:0:0:1::77", 64);
        bed.seen("10.1.0.3:7", "198.51.100.2:53");
    }
}

// RFC 4787 section 4.1: what another remote address, or port, means for the external endpoint.
#[test]
fn the_external_endpoint_depends_on_what_the_mapping_says() {
    all_nine(|mut bed, mapping, _| {
        let remotes = ["198.51.100.2:53", "198.51.100.2:54", "198.51.100.3:53"];
        let [first, port, address] = remotes.map(|remote| bed.seen(CLIENT, remote));
        assert_eq!(first == port, mapping < 2);
        assert_eq!(first == address, mapping < 1);
        assert!([port, address].iter().all(|external| external.ip() == first.ip()), "paired: RFC 4787 REQ-2");
        // The same again is the same, after a reload and a restart as well; TCP has mappings of its own.
        let nats = remotes.map(|remote| bed.seen(CLIENT, remote));
        assert_eq!(nats, [first, port, address]);
        let (mut bed, adopted) = bed.adopt();
        assert_eq!(adopted, (3, 0));
        assert_eq!(bed.bindings.len(), [1, 2, 3][mapping]);
        let again = bed.seen(CLIENT, "198.51.100.3:99");
        assert_eq!(again == address, mapping < 2);
        bed.passes(LAN, &syn(CLIENT, "198.51.100.2:53"));
        assert_eq!(bed.bindings.len(), [2, 3, 5][mapping]);
        bed.ends_clean();
    });
}

// RFC 4787 section 5, REQ-8: who may open a session to a mapping.
#[test]
fn strangers_are_filtered_as_the_policy_says() {
    all_nine(|mut bed, _, filtering| {
        let external = bed.seen(CLIENT, "198.51.100.2:53");
        let mut admits = |from: &str| {
            let outcome = bed.send(WAN, &udp(from, external));
            if outcome.kind == Kind::Drop {
                assert_eq!(outcome.reason, Reason::NatFiltered);
            }
            outcome.kind == Kind::Forward
        };
        assert!(admits("198.51.100.2:53"), "the answer");
        assert_eq!(admits("198.51.100.2:54"), filtering < 2);
        assert_eq!(admits("198.51.100.3:53"), filtering < 1);
        let connections = bed.engine.table().live();
        assert_eq!(connections, 3 - filtering as u32);
        // What was let in is answered from the same endpoint, whatever the mapping depends on.
        if filtering < 2 {
            assert_eq!(bed.seen(CLIENT, "198.51.100.2:54"), external);
        }
        let (mut bed, adopted) = bed.adopt();
        assert_eq!(adopted, (connections, 0));
        let outcome = bed.send(WAN, &udp("198.51.100.2:55", external));
        assert_eq!(outcome.kind == Kind::Forward, filtering < 2);
        bed.ends_clean();
    });
}

// RFC 4787 REQ-9: between inside hosts by their external endpoints, source included. Where filtering asks for it, one
// that has not been sent to is not let in; once both have sent, they are connected.
#[test]
fn inside_hosts_meet_whatever_the_mapping_and_the_filtering() {
    all_nine(|mut bed, mapping, filtering| {
        let first = bed.seen(CLIENT, "198.51.100.2:53");
        let second = bed.seen(OTHER, "198.51.100.2:53");
        let towards_second = udp(CLIENT, second);
        if filtering > 0 {
            bed.refused(LAN, &towards_second, Kind::Drop, Reason::NatFiltered);
            if mapping > 0 {
                // Nobody knows the endpoint that a packet to the second one would come from.
                bed.refused(LAN, &udp(OTHER, first), Kind::Drop, Reason::NatFiltered);
                return bed.ends_clean();
            }
            let (port, source, destination) = bed.passes(LAN, &udp(OTHER, first));
            assert_eq!((port, source, destination), (LAN, second, at(CLIENT)));
            let answer = bed.passes(LAN, &towards_second);
            assert_eq!(answer, (LAN, first, at(OTHER)));
            // By address is enough where ports do not matter; another port of the peer is another stranger otherwise.
            let outcome = bed.send(LAN, &udp("10.1.0.3:40001", first));
            assert_eq!(outcome.kind == Kind::Forward, filtering < 2, "{outcome:?}");
        } else {
            let (port, source, destination) = bed.passes(LAN, &towards_second);
            assert_eq!((port, destination), (LAN, at(OTHER)));
            assert_eq!((source.ip(), source == first), (ip("198.51.100.1"), mapping == 0));
            assert_eq!(bed.passes(LAN, &udp(OTHER, source)), (LAN, second, at(CLIENT)));
        }
        // Both survive a reload and a restart.
        let connections = bed.engine.table().live();
        let text = kind(DEPENDENCES[mapping], DEPENDENCES[filtering]);
        assert_eq!(bed.reload(&text), (connections, 0));
        let (mut bed, adopted) = bed.adopt();
        assert_eq!(adopted, (connections, 0));
        assert_eq!(bed.reload(&text), (connections, 0));
        bed.ends_clean();
    });
}

// A host has asked for answers for a while only, and only a host that has a mapping.
#[test]
fn asking_for_answers_is_forgotten() {
    let mut bed = Bed::with(&kind("endpoint-independent", "address-and-port-dependent"));
    let first = bed.seen(CLIENT, "198.51.100.2:53");
    let second = bed.seen(OTHER, "198.51.100.2:53");
    bed.refused(LAN, &udp(CLIENT, second), Kind::Drop, Reason::NatFiltered);
    bed.refused(LAN, &udp("10.1.0.4:40000", second), Kind::Drop, Reason::NatFiltered);
    bed.refused(WAN, &udp("198.51.100.3:1", first), Kind::Drop, Reason::NatFiltered);
    bed.pass(121 * 954);
    bed.refused(LAN, &udp(OTHER, first), Kind::Drop, Reason::NatFiltered);
    bed.ends_clean();
}

// Who has an inside address, but is outside, asks for nobody's answers and is not known as an inside host; also where the
// inside network is behind a router, and nothing looks at sources (rpf = "off").
#[test]
fn made_up_sources_open_no_filter() {
    let (client, other) = ("10.9.0.2:40000", "10.9.0.3:40000");
    let mut bed = Bed::with(&kind("endpoint-independent", "address-and-port-dependent"));
    let network = IpPrefix::new(ip("10.9.0.0"), 24).unwrap();
    bed.event(Event::RouteAdded(Route::unicast(network, Some(ip("10.1.0.2")), 11)));
    let first = bed.seen(client, "198.51.100.2:53");
    let second = bed.seen(other, "198.51.100.2:53");
    bed.refused(WAN, &udp(client, second), Kind::Drop, Reason::NatFiltered);
    bed.refused(LAN, &udp(other, first), Kind::Drop, Reason::NatFiltered);
    // The second one has sent, so that the first is let in; not who only says that he is the first.
    bed.refused(WAN, &udp(client, second), Kind::Drop, Reason::NatFiltered);
    bed.passes(LAN, &udp(client, second));
    bed.ends_clean();
}

// A mapping made under another kind goes on for its connections; new ones follow the policy.
#[test]
fn another_kind_of_mapping_is_for_new_connections() {
    let mut bed = Bed::with(&kind("endpoint-independent", "address-dependent"));
    let before = bed.seen(CLIENT, "198.51.100.2:53");
    assert_eq!(bed.reload(&kind("address-dependent", "address-dependent")), (1, 0));
    assert_eq!(bed.seen(CLIENT, "198.51.100.2:53"), before);
    assert_ne!(bed.seen(CLIENT, "198.51.100.3:53"), before);
    bed.ends_clean();
}

// Another kind of filtering is for the mappings that exist as well: docs/nat.md.
#[test]
fn another_kind_of_filtering_is_for_the_mappings_that_exist() {
    let under = |filtering: usize| kind("endpoint-independent", DEPENDENCES[filtering]);
    let mut bed = Bed::with(&under(0));
    let external = bed.seen(CLIENT, "198.51.100.2:53");
    bed.passes(WAN, &udp("198.51.100.2:54", external));
    bed.passes(WAN, &udp("198.51.100.3:53", external));
    assert_eq!(bed.reload(&under(1)), (2, 1));
    bed.refused(WAN, &udp("198.51.100.3:53", external), Kind::Drop, Reason::NatFiltered);
    bed.passes(WAN, &udp("198.51.100.2:54", external));
    bed.passes(WAN, &udp("198.51.100.2:55", external));
    assert_eq!(bed.reload(&under(2)), (1, 2));
    bed.refused(WAN, &udp("198.51.100.2:54", external), Kind::Drop, Reason::NatFiltered);
    bed.passes(WAN, &udp("198.51.100.2:53", external));
    // And the other way.
    assert_eq!(bed.reload(&under(1)), (1, 0));
    bed.passes(WAN, &udp("198.51.100.2:54", external));
    bed.refused(WAN, &udp("198.51.100.3:53", external), Kind::Drop, Reason::NatFiltered);
    assert_eq!(bed.reload(&under(0)), (2, 0));
    bed.passes(WAN, &udp("198.51.100.3:53", external));
    bed.ends_clean();
}

// RFC 4787 REQ-6, RFC 7857: what comes in keeps no mapping, however much there is of it; its port stays in use until that
// has ended, and the host may take the mapping up again.
#[test]
fn strangers_keep_no_mapping() {
    let mut bed = Bed::with(&kind("endpoint-independent", "endpoint-independent"));
    let external = bed.seen(CLIENT, "198.51.100.2:53");
    let mut admitted = 0;
    for port in 1..=20 {
        bed.pass(100 * 954);
        let outcome = bed.send(WAN, &udp(&format!("198.51.100.3:{port}"), external));
        admitted += u32::from(outcome.kind == Kind::Forward);
    }
    assert_eq!(admitted, 2, "not 300 seconds after the host has sent");
    bed.ends_clean();

    let mut bed = Bed::with(&kind("endpoint-independent", "endpoint-independent"));
    let external = bed.seen(CLIENT, "198.51.100.2:53");
    bed.pass(200 * 954);
    bed.passes(WAN, &udp("198.51.100.3:1", external));
    bed.pass(200 * 954);
    bed.refused(WAN, &udp("198.51.100.3:2", external), Kind::Drop, Reason::NatFiltered);
    let (mut bed, adopted) = bed.adopt();
    assert_eq!(adopted, (1, 0));
    bed.refused(WAN, &udp("198.51.100.3:2", external), Kind::Drop, Reason::NatFiltered);
    assert_eq!(bed.seen(CLIENT, "198.51.100.3:53"), external);
    bed.passes(WAN, &udp("198.51.100.3:2", external));
    bed.ends_clean();
}

// After a restart a mapping is for whom its host sends to, whoever else is found first in the table.
#[test]
fn a_restart_does_not_give_a_mapping_to_a_stranger() {
    let mut strangers_first = false;
    for (mapping, other) in
        [("address-dependent", "198.51.100.2:99"), ("address-and-port-dependent", "198.51.100.2:53")]
    {
        let mut bed = Bed::with(&kind(mapping, "endpoint-independent"));
        let place = bed.send(LAN, &udp(OTHER, at("198.51.100.2:53"))).session.unwrap();
        let external = bed.seen(CLIENT, "198.51.100.2:53");
        // Strangers may get the place of a connection that has ended, before that of the mapping's host.
        assert!(bed.engine.delete(place.1));
        while bed.turn() {}
        for port in 1..=100 {
            bed.passes(WAN, &udp(&format!("198.51.100.3:{port}"), external));
        }
        let table = bed.engine.table();
        let first = table.block(table.live_blocks().next().unwrap()).unwrap();
        strangers_first |= view_of(first).inbound;
        let (mut bed, adopted) = bed.adopt();
        assert_eq!(adopted, (101, 0));
        assert_eq!(bed.seen(CLIENT, other), external);
        assert_ne!(bed.seen(CLIENT, "198.51.100.3:999"), external);
        bed.ends_clean();
    }
    assert!(strangers_first);
}
