//! What links, neighbours, addresses and dumps do to lookups and adjacencies.
#![cfg(test)]

use std::net::IpAddr;

use flowhop_routing::{
    Adjacency, AdjacencyIndex, AdjacencyState, Change, Event, Family, InterfaceAddress, IpPrefix, Link, LinkLayer,
    NeighbourState, NextHop, Resolution, Route, RouteKind, Routing, UnreachableReason,
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

fn eth(ifindex: u32) -> Link {
    Link::ethernet(ifindex, &format!("eth{ifindex}"), MAC)
}

fn via(prefix: &str, gateway: &str, ifindex: u32) -> Route {
    Route::unicast(prefix.parse().unwrap(), Some(address(gateway)), ifindex)
}

fn neighbour(ifindex: u32, of: &str, state: NeighbourState) -> Event {
    Event::NeighbourChanged { ifindex, address: address(of), state }
}

/// Applies one event and returns what changed.
fn apply(routing: &mut Routing, event: Event) -> Vec<Change> {
    let mut changes = Vec::new();
    routing.apply(event, &mut changes);
    changes
}

fn index(routing: &mut Routing, destination: &str) -> AdjacencyIndex {
    match routing.lookup(address(destination), 0) {
        Resolution::Via { adjacency, .. } => adjacency,
        other => panic!("{destination}: {other:?}"),
    }
}

fn adjacency(routing: &Routing, index: AdjacencyIndex) -> &Adjacency {
    routing.adjacency(index).unwrap()
}

fn unreachable(reason: UnreachableReason) -> Resolution {
    Resolution::Unreachable(reason)
}

/// Two links; the default route leads through the second.
fn two_links() -> Routing {
    let mut routing = Routing::new(4);
    for event in [
        Event::LinkUpsert(eth(1)),
        Event::LinkUpsert(eth(2)),
        Event::RouteAdded(Route::unicast(prefix("10.0.1.0/24"), None, 1)),
        Event::RouteAdded(via("192.0.2.0/24", "10.0.1.1", 1)),
        Event::RouteAdded(via("0.0.0.0/0", "10.0.2.1", 2)),
    ] {
        apply(&mut routing, event);
    }
    routing
}

#[test]
fn a_neighbour_comes_changes_and_goes_in_place() {
    let mut routing = two_links();
    let index = index(&mut routing, "192.0.2.1");
    let first = adjacency(&routing, index).clone();
    assert_eq!((first.state, first.source_mac, first.mtu), (AdjacencyState::Incomplete, Some(MAC), 1500));
    assert_eq!((first.family, first.layer2), (Family::V4, LinkLayer::Ethernet));
    let steps = [
        (NeighbourState::Probing, AdjacencyState::Incomplete, None, false),
        (NeighbourState::Resolved(PEER), AdjacencyState::Resolved, Some(PEER), false),
        (NeighbourState::Stale(PEER), AdjacencyState::Resolved, Some(PEER), true),
        (NeighbourState::Resolved(MAC), AdjacencyState::Resolved, Some(MAC), false),
        (NeighbourState::Failed, AdjacencyState::Failed, None, false),
        (NeighbourState::Gone, AdjacencyState::Incomplete, None, false),
    ];
    let mut before = first.clone();
    for (state, expected, mac, stale) in steps {
        let changes = apply(&mut routing, neighbour(1, "10.0.1.1", state));
        let now = adjacency(&routing, index);
        assert_eq!((now.state, now.mac, now.stale), (expected, mac, stale), "{state:?}");
        assert_eq!(now.generation, first.generation, "{state:?}");
        let announced = changes == [Change::Adjacency(index)];
        assert_eq!(announced, *now != before, "{state:?}: {changes:?}");
        before = now.clone();
    }
    assert_eq!(apply(&mut routing, neighbour(2, "10.0.1.1", NeighbourState::Resolved(PEER))), [], "on another link");
}

#[test]
fn a_neighbour_known_before_the_first_packet_is_used_at_once() {
    let mut routing = two_links();
    apply(&mut routing, neighbour(2, "10.0.2.1", NeighbourState::Resolved(PEER)));
    let index = index(&mut routing, "8.8.8.8");
    assert_eq!(adjacency(&routing, index).mac, Some(PEER));
}

#[test]
fn lookups_that_lead_the_same_way_share_an_adjacency() {
    let mut routing = two_links();
    let first = index(&mut routing, "192.0.2.1");
    assert_eq!(index(&mut routing, "192.0.2.2"), first);
    assert_eq!(index(&mut routing, "10.0.1.1"), first, "the router itself");
    assert_ne!(index(&mut routing, "10.0.1.2"), first);
    apply(&mut routing, Event::RouteAdded(Route { mtu: Some(1280), ..via("198.51.100.0/24", "10.0.1.1", 1) }));
    let small = index(&mut routing, "198.51.100.1");
    assert_ne!(small, first, "another MTU");
    assert_eq!(adjacency(&routing, small).mtu, 1280);
    apply(&mut routing, neighbour(1, "10.0.1.1", NeighbourState::Resolved(PEER)));
    assert_eq!((adjacency(&routing, small).mac, adjacency(&routing, first).mac), (Some(PEER), Some(PEER)));
}

#[test]
fn a_route_mtu_above_the_links_does_not_count() {
    let mut routing = two_links();
    apply(&mut routing, Event::RouteAdded(Route { mtu: Some(9000), ..via("198.51.100.0/24", "10.0.1.1", 1) }));
    let index = index(&mut routing, "198.51.100.1");
    assert_eq!(adjacency(&routing, index).mtu, 1500);
    let changes = apply(&mut routing, Event::LinkUpsert(Link { mtu: 9000, ..eth(1) }));
    assert_eq!(changes, [Change::Link { ifindex: 1 }, Change::Adjacency(index)]);
    assert_eq!(adjacency(&routing, index).mtu, 9000);
}

#[test]
fn a_full_table_is_told_and_recovers() {
    let mut routing = two_links();
    let used: Vec<_> = (1..=4).map(|n| index(&mut routing, &format!("10.0.1.{n}"))).collect();
    assert_eq!(routing.lookup(address("10.0.1.5"), 0), unreachable(UnreachableReason::AdjacencyTableFull));
    assert_eq!(index(&mut routing, "10.0.1.4"), used[3], "known ones are found");
    let generation = adjacency(&routing, used[1]).generation;
    assert_eq!(routing.retain_adjacencies(|index| index != used[1]), 1);
    assert_eq!(index(&mut routing, "10.0.1.5"), used[1]);
    assert_ne!(adjacency(&routing, used[1]).generation, generation);
    assert_eq!(routing.adjacency(AdjacencyIndex::new(4)), None);
}

#[test]
fn headerless_links_need_no_neighbour() {
    let mut routing = Routing::new(1);
    apply(&mut routing, Event::LinkUpsert(Link::headerless(7, "tun0")));
    apply(&mut routing, Event::RouteAdded(Route::unicast(prefix("10.9.0.0/16"), None, 7)));
    let index = index(&mut routing, "10.9.1.1");
    let tun = adjacency(&routing, index);
    assert_eq!((tun.state, tun.layer2), (AdjacencyState::Resolved, LinkLayer::Headerless));
    assert_eq!((tun.mac, tun.source_mac), (None, None));
}

#[test]
fn links_without_resolution_send_to_their_own_address() {
    let mut routing = Routing::new(1);
    apply(&mut routing, Event::LinkUpsert(Link { no_arp: true, ..eth(7) }));
    let index = routing.adjacency_towards(7, address("10.9.1.1"), Family::V4).unwrap();
    assert_eq!(
        (adjacency(&routing, index).state, adjacency(&routing, index).mac),
        (AdjacencyState::Resolved, Some(MAC))
    );
}

#[test]
fn a_link_of_unknown_kind_is_left_to_the_kernel() {
    let mut routing = two_links();
    apply(&mut routing, Event::LinkUpsert(Link { layer2: LinkLayer::Other, ..eth(1) }));
    assert_eq!(routing.lookup(address("192.0.2.1"), 0), unreachable(UnreachableReason::Unsupported));
}

#[test]
fn losing_carrier_invalidates_at_once_and_coming_back_asks_for_a_dump() {
    let mut routing = two_links();
    let index_1 = index(&mut routing, "192.0.2.1");
    apply(&mut routing, neighbour(1, "10.0.1.1", NeighbourState::Resolved(PEER)));
    let generation = adjacency(&routing, index_1).generation;

    let changes = apply(&mut routing, Event::LinkUpsert(Link { up: false, ..eth(1) }));
    let down = adjacency(&routing, index_1).clone();
    assert_eq!((down.state, down.mac), (AdjacencyState::Down, None));
    assert_ne!(down.generation, generation);
    for expected in [
        Change::Link { ifindex: 1 },
        Change::Adjacency(index_1),
        Change::Routes { prefix: prefix("10.0.1.0/24") },
        Change::Routes { prefix: prefix("192.0.2.0/24") },
    ] {
        assert!(changes.contains(&expected), "{expected:?}");
    }
    assert!(matches!(routing.lookup(address("192.0.2.1"), 0), Resolution::Via { ifindex: 2, .. }), "the default route");
    assert_eq!(
        routing.adjacency_towards(1, address("10.0.1.1"), Family::V4),
        Err(UnreachableReason::LinkDown),
        "even when asked for by name"
    );

    let changes = apply(&mut routing, Event::LinkUpsert(eth(1)));
    assert!(changes.contains(&Change::NeedResync));
    let again = adjacency(&routing, index_1);
    assert_eq!((again.state, again.generation), (AdjacencyState::Resolved, down.generation));
    assert_eq!(index(&mut routing, "192.0.2.1"), index_1, "carrier alone loses no route");
}

#[test]
fn going_down_administratively_flushes_ipv4_routes_but_not_own_addresses() {
    let mut routing = two_links();
    let own = Route { kind: RouteKind::Local, table: 255, ..Route::unicast(prefix("10.0.1.9/32"), None, 1) };
    let multipath = Route {
        next_hops: [1, 2].map(|ifindex| NextHop { gateway: None, ifindex, weight: 1 }).to_vec(),
        ..via("203.0.113.0/24", "10.0.1.1", 1)
    };
    apply(&mut routing, Event::RouteAdded(own));
    apply(&mut routing, Event::RouteAdded(multipath));
    apply(&mut routing, Event::RouteAdded(via("2001:db8::/32", "fe80::1", 1)));
    apply(&mut routing, Event::LinkUpsert(Link { up: false, admin_up: false, ..eth(1) }));
    let left: Vec<_> = routing.routes().map(|route| route.prefix.to_string()).collect();
    assert_eq!(left, ["10.0.1.9/32", "0.0.0.0/0", "203.0.113.0/24", "2001:db8::/32"]);
    assert_eq!(routing.lookup(address("10.0.1.9"), 0), Resolution::Local);
    assert_eq!(routing.lookup(address("2001:db8::1"), 0), unreachable(UnreachableReason::LinkDown));
    assert!(matches!(routing.lookup(address("203.0.113.1"), 0), Resolution::Via { ifindex: 2, .. }));
}

#[test]
fn a_link_that_is_gone_takes_everything_along() {
    let mut routing = two_links();
    let own = InterfaceAddress::global(1, address("10.0.1.9"), 24);
    apply(&mut routing, Event::AddressAdded(own));
    let index_1 = index(&mut routing, "192.0.2.1");
    let changes = apply(&mut routing, Event::LinkGone { ifindex: 1 });
    assert!(changes.contains(&Change::OwnAddresses) && changes.contains(&Change::Adjacency(index_1)));
    assert_eq!(adjacency(&routing, index_1).state, AdjacencyState::Down);
    assert!(!routing.is_own(own.address));
    assert_eq!(routing.routes().count(), 1, "the default route");
    assert_eq!(apply(&mut routing, Event::LinkGone { ifindex: 1 }), [], "once is enough");
}

#[test]
fn many_changed_prefixes_are_announced_as_one() {
    let mut routing = two_links();
    for n in 0..=255 {
        apply(&mut routing, Event::RouteAdded(via(&format!("20.0.{n}.0/24"), "10.0.1.1", 1)));
    }
    let changes = apply(&mut routing, Event::LinkUpsert(Link { up: false, ..eth(1) }));
    assert_eq!(changes, [Change::Link { ifindex: 1 }, Change::Routes { prefix: IpPrefix::ALL_V4 }]);
}

#[test]
fn a_dump_keeps_what_it_repeats_and_drops_the_rest() {
    let mut routing = two_links();
    apply(&mut routing, Event::AddressAdded(InterfaceAddress::global(1, address("10.0.1.9"), 24)));
    apply(&mut routing, neighbour(2, "10.0.2.1", NeighbourState::Resolved(PEER)));
    let (kept, lost) = (index(&mut routing, "8.8.8.8"), index(&mut routing, "192.0.2.1"));
    apply(&mut routing, Event::RouteAdded(Route { table: 77, ..via("20.0.0.0/8", "10.0.1.1", 1) }));
    assert_eq!(routing.ignored_routes().collect::<Vec<_>>(), [(77, 1)]);

    assert_eq!(apply(&mut routing, Event::ResyncBegin), []);
    assert_eq!(apply(&mut routing, Event::LinkUpsert(eth(2))), []);
    assert_eq!(apply(&mut routing, Event::RouteAdded(via("0.0.0.0/0", "10.0.2.1", 2))), []);
    assert_eq!(apply(&mut routing, neighbour(2, "10.0.2.1", NeighbourState::Resolved(PEER))), []);
    assert!(matches!(routing.lookup(address("192.0.2.1"), 0), Resolution::Via { ifindex: 1, .. }), "until the end");
    let changes = apply(&mut routing, Event::ResyncEnd);
    assert!(changes.contains(&Change::Link { ifindex: 1 }) && changes.contains(&Change::OwnAddresses));
    assert!(changes.contains(&Change::Adjacency(lost)) && !changes.contains(&Change::Adjacency(kept)));
    assert_eq!(adjacency(&routing, kept).mac, Some(PEER));
    assert_eq!(routing.links().count(), 1);
    assert_eq!(routing.ignored_routes().count(), 0);
    assert_eq!(apply(&mut routing, Event::ResyncEnd), [], "an end without a begin changes nothing");
    assert_eq!(routing.links().count(), 1);
}

#[test]
fn a_dump_that_lost_a_neighbour_unresolves_it() {
    let mut routing = two_links();
    apply(&mut routing, neighbour(2, "10.0.2.1", NeighbourState::Resolved(PEER)));
    let index = index(&mut routing, "8.8.8.8");
    apply(&mut routing, Event::ResyncBegin);
    apply(&mut routing, Event::LinkUpsert(eth(2)));
    let changes = apply(&mut routing, Event::ResyncEnd);
    assert!(changes.contains(&Change::Adjacency(index)));
    assert_eq!(adjacency(&routing, index).state, AdjacencyState::Incomplete);
}

#[test]
fn a_lost_ipv4_address_asks_for_a_dump_unless_one_is_going_on() {
    let mut routing = two_links();
    let own = InterfaceAddress::global(1, address("10.0.1.9"), 24);
    let gone = Event::AddressGone { ifindex: 1, address: own.address, prefix_len: 24 };
    apply(&mut routing, Event::AddressAdded(own));
    assert_eq!(apply(&mut routing, gone.clone()), [Change::OwnAddresses, Change::NeedResync]);
    assert_eq!(apply(&mut routing, gone.clone()), []);
    apply(&mut routing, Event::ResyncBegin);
    apply(&mut routing, Event::AddressAdded(own));
    assert_eq!(apply(&mut routing, gone), [Change::OwnAddresses]);
}

#[test]
fn an_ipv6_multipath_route_grows_and_shrinks() {
    let mut routing = Routing::new(8);
    apply(&mut routing, Event::LinkUpsert(eth(1)));
    let to = |gateways: &[&str]| Route {
        next_hops: gateways
            .iter()
            .map(|gateway| NextHop { gateway: Some(address(gateway)), ifindex: 1, weight: 1 })
            .collect(),
        ..via("2001:db8::/32", "fe80::1", 1)
    };
    let hops = |routing: &Routing| {
        let all: Vec<_> = routing.routes().map(|route| route.next_hops.len()).collect();
        all
    };
    apply(&mut routing, Event::RouteAdded(to(&["fe80::1"])));
    apply(&mut routing, Event::RouteAdded(to(&["fe80::1", "fe80::2"])));
    assert_eq!(hops(&routing), [2], "the same route, extended");
    apply(&mut routing, Event::RouteGone(to(&["fe80::3"])));
    assert_eq!(hops(&routing), [2], "not one of its next hops");
    apply(&mut routing, Event::RouteGone(to(&["fe80::1"])));
    assert_eq!(hops(&routing), [1]);
    apply(&mut routing, Event::RouteAdded(to(&["fe80::1", "fe80::2", "fe80::3"])));
    apply(&mut routing, Event::RouteReplaced(to(&["fe80::4"])));
    assert_eq!(hops(&routing), [1]);
    apply(&mut routing, Event::RouteGone(to(&["fe80::4"])));
    assert_eq!(hops(&routing), [] as [usize; 0]);
}

#[test]
fn weights_share_the_flows() {
    let mut routing = two_links();
    let hop = |ifindex, weight| NextHop { gateway: Some(address("10.0.1.1")), ifindex, weight };
    let route = Route { next_hops: vec![hop(1, 3), hop(2, 1)], ..via("203.0.113.0/24", "10.0.1.1", 1) };
    apply(&mut routing, Event::RouteAdded(route));
    let through = |routing: &mut Routing, ifindex| {
        (0..1000u32)
            .filter(|n| {
                let hash = n.wrapping_mul(0x9e37_79b9);
                matches!(routing.lookup(address("203.0.113.1"), hash), Resolution::Via { ifindex: i, .. } if i == ifindex)
            })
            .count()
    };
    assert!((740..=760).contains(&through(&mut routing, 1)));
    apply(&mut routing, Event::LinkUpsert(Link { up: false, ..eth(1) }));
    assert_eq!(through(&mut routing, 2), 1000);
}

#[test]
fn some_destinations_need_no_route() {
    let mut routing = two_links();
    apply(&mut routing, Event::RouteAdded(via("::/0", "fe80::1", 2)));
    for (destination, expected) in [
        ("224.0.0.1", Resolution::Multicast),
        ("ff0e::1", Resolution::Multicast),
        ("255.255.255.255", Resolution::Broadcast),
        ("127.0.0.9", Resolution::Local),
        ("::1", Resolution::Local),
        ("0.0.0.0", unreachable(UnreachableReason::NoRoute)),
        ("::", unreachable(UnreachableReason::NoRoute)),
        ("fe80::77", unreachable(UnreachableReason::LinkLocal)),
    ] {
        assert_eq!(routing.lookup(address(destination), 0), expected, "{destination}");
    }
}

#[test]
fn reverse_path_follows_the_route() {
    let routing = two_links();
    assert!(routing.is_reachable_through(address("192.0.2.1"), 1));
    assert!(!routing.is_reachable_through(address("192.0.2.1"), 2));
    assert!(routing.is_reachable_through(address("8.8.8.8"), 2));
    assert!(!routing.is_reachable_through(address("2001:db8::1"), 2));
    let route = routing.route_to(address("192.0.2.1")).unwrap();
    assert_eq!(route, via("192.0.2.0/24", "10.0.1.1", 1));
}

// RFC 3704 sections 2.2 to 2.4: what only a worse route leads to is feasible, not strict; loose asks for any route.
#[test]
fn feasible_and_loose_reverse_paths_accept_more() {
    let mut routing = two_links();
    let spare = Route { metric: 500, ..via("192.0.2.0/24", "10.0.2.9", 2) };
    assert!(!routing.is_feasible_through(address("192.0.2.1"), 2), "the default route is not to that prefix");
    apply(&mut routing, Event::RouteAdded(spare));
    assert!(!routing.is_reachable_through(address("192.0.2.1"), 2));
    assert!(routing.is_feasible_through(address("192.0.2.1"), 2));
    assert!(routing.is_feasible_through(address("192.0.2.1"), 1));
    assert!(routing.is_routed(address("8.8.8.8")), "by the default route");
    assert!(!routing.is_routed(address("2001:db8::1")));
    let black = Route { kind: RouteKind::Blackhole, next_hops: Vec::new(), ..via("8.8.8.0/24", "10.0.2.9", 2) };
    apply(&mut routing, Event::RouteAdded(black));
    assert!(!routing.is_routed(address("8.8.8.8")));
}

// An address on the link of one interface does not come in by another, unless a route says so.
#[test]
fn what_is_connected_elsewhere_is_known() {
    let mut routing = two_links();
    for (ifindex, own, length, network) in [(1, "10.7.0.1", 16, "10.7.0.0/16"), (2, "10.8.0.1", 24, "10.8.0.0/24")] {
        apply(&mut routing, Event::AddressAdded(InterfaceAddress::global(ifindex, address(own), length)));
        apply(&mut routing, Event::RouteAdded(Route::unicast(network.parse().unwrap(), None, ifindex)));
    }
    assert!(routing.is_connected_elsewhere(address("10.7.0.9"), 2));
    assert!(!routing.is_connected_elsewhere(address("10.7.0.9"), 1));
    assert!(!routing.is_connected_elsewhere(address("192.0.2.1"), 2), "behind a router");
    // A more specific route leads through the other.
    apply(&mut routing, Event::RouteAdded(via("10.7.3.0/24", "10.0.2.9", 2)));
    assert!(!routing.is_connected_elsewhere(address("10.7.3.9"), 2));
    // Both are on the same link.
    apply(&mut routing, Event::AddressAdded(InterfaceAddress::global(2, address("10.7.0.2"), 16)));
    assert!(!routing.is_connected_elsewhere(address("10.7.0.9"), 2));
}

#[test]
fn an_ipv4_destination_behind_an_ipv6_router_has_its_own_adjacency() {
    let mut routing = two_links();
    apply(&mut routing, Event::RouteAdded(via("100.64.0.0/10", "fe80::1", 1)));
    apply(&mut routing, Event::RouteAdded(via("2001:db8::/32", "fe80::1", 1)));
    let (v4, v6) = (index(&mut routing, "100.64.0.1"), index(&mut routing, "2001:db8::1"));
    assert_ne!(v4, v6);
    let families = (adjacency(&routing, v4).family, adjacency(&routing, v6).family);
    assert_eq!(families, (Family::V4, Family::V6));
    assert_eq!(adjacency(&routing, v4).next_hop, address("fe80::1"));
}
