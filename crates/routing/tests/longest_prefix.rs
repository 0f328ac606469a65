//! Lookup against an oracle that scans a list of routes from end to end.
#![cfg(test)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowhop_routing::{
    Change, Event, IpPrefix, Link, NextHop, Resolution, Route, RouteKind, Routing, TABLE_LOCAL, TABLE_MAIN,
    UnreachableReason,
};
use proptest::prelude::*;

const LINKS: u32 = 3;

#[derive(Debug, Clone)]
enum Operation {
    Add(Route),
    Replace(Route),
    /// Remove the route that is at this share of the list.
    Remove(prop::sample::Index),
    Carrier(u32, bool),
    /// Announce everything again but the route at this share of the list.
    Resync(prop::sample::Index),
}

/// Routes in order of arrival, links by index.
#[derive(Default)]
struct Oracle {
    routes: Vec<Route>,
    up: [bool; LINKS as usize],
}

impl Oracle {
    /// Next hops in the order in which the table keeps them.
    fn sorted(route: &Route) -> Route {
        let mut route = route.clone();
        route.next_hops.sort_by_key(|hop| (hop.ifindex, hop.gateway));
        route
    }

    fn of_same_metric(&self, route: &Route) -> Option<usize> {
        self.routes.iter().position(|r| (r.table, r.prefix, r.metric) == (route.table, route.prefix, route.metric))
    }

    fn add(&mut self, route: &Route, replace: bool) {
        let route = Oracle::sorted(route);
        let same_hops = |r: &Route| {
            let hops = |r: &Route| r.next_hops.iter().map(|hop| (hop.ifindex, hop.gateway)).collect::<Vec<_>>();
            hops(r) == hops(&route)
        };
        let same = self.routes.iter().position(|r| {
            (r.table, r.prefix, r.metric, r.kind) == (route.table, route.prefix, route.metric, route.kind)
                && same_hops(r)
        });
        let replaced = same.or_else(|| self.of_same_metric(&route).filter(|_| replace));
        match replaced {
            Some(at) => self.routes[at] = route,
            None => self.routes.push(route),
        }
    }

    fn is_up(&self, hop: &NextHop) -> bool {
        self.up[hop.ifindex as usize - 1]
    }

    /// The output and next hop, or the resolution that is none.
    fn lookup(&self, destination: IpAddr, hash: u32) -> Result<(u32, IpAddr), Resolution> {
        let mut reason = UnreachableReason::NoRoute;
        for table in [TABLE_LOCAL, TABLE_MAIN] {
            let mut best: Option<&Route> = None;
            let mut skipped = false;
            for route in self.routes.iter().filter(|r| r.table == table && r.prefix.contains(destination)) {
                let usable = route.kind != RouteKind::Unicast || route.next_hops.iter().any(|hop| self.is_up(hop));
                if !usable {
                    skipped = true;
                } else if best.is_none_or(|best| {
                    (route.prefix.length(), std::cmp::Reverse(route.metric))
                        > (best.prefix.length(), std::cmp::Reverse(best.metric))
                }) {
                    best = Some(route);
                }
            }
            if skipped && best.is_none() {
                reason = UnreachableReason::LinkDown;
            }
            let unreachable = |reason| Err(Resolution::Unreachable(reason));
            match best.map(|best| (best.kind, best)) {
                None | Some((RouteKind::Throw, _)) => {}
                Some((RouteKind::Local, _)) => return Err(Resolution::Local),
                Some((RouteKind::Broadcast, _)) => return Err(Resolution::Broadcast),
                Some((RouteKind::Blackhole, _)) => return unreachable(UnreachableReason::Blackhole),
                Some((RouteKind::Prohibit, _)) => return unreachable(UnreachableReason::Prohibit),
                Some((RouteKind::Unreachable, _)) => return unreachable(UnreachableReason::Refused),
                Some((RouteKind::Unicast, best)) => {
                    let tickets: Vec<&NextHop> = best
                        .next_hops
                        .iter()
                        .filter(|hop| self.is_up(hop))
                        .flat_map(|hop| std::iter::repeat_n(hop, usize::from(hop.weight)))
                        .collect();
                    let drawn = (f64::from(hash) / 2f64.powi(32) * tickets.len() as f64) as usize;
                    let hop = tickets[drawn];
                    return Ok((hop.ifindex, hop.gateway.unwrap_or(destination)));
                }
                Some((other, _)) => panic!("{other:?} is not generated"),
            }
        }
        Err(Resolution::Unreachable(reason))
    }
}

/// Addresses that share prefixes of all lengths with each other.
fn v4() -> impl Strategy<Value = IpAddr> {
    let octet = prop::sample::select(vec![0u8, 1, 2, 3, 127, 128, 192, 254, 255]);
    (prop::sample::select(vec![10u8, 11, 74]), octet.clone(), octet.clone(), octet)
        .prop_map(|(a, b, c, d)| Ipv4Addr::new(a, b, c, d).into())
}

fn v6() -> impl Strategy<Value = IpAddr> {
    let word = prop::sample::select(vec![0u16, 1, 2, 0x7fff, 0x8000, 0xfffe, 0xffff]);
    (prop::sample::select(vec![0x2001u16, 0x2000, 0x3001]), prop::array::uniform7(word)).prop_map(|(first, rest)| {
        let [b, c, d, e, f, g, h] = rest;
        Ipv6Addr::new(first, b, c, d, e, f, g, h).into()
    })
}

fn next_hop(family: impl Strategy<Value = IpAddr>) -> impl Strategy<Value = NextHop> {
    (prop::option::of(family), 1..=LINKS, 1u16..4).prop_map(|(gateway, ifindex, weight)| NextHop {
        gateway,
        ifindex,
        weight,
    })
}

/// IPv6 routes have one next hop: those with several grow and shrink, which has tests of its own.
fn route() -> impl Strategy<Value = Route> {
    let multipath = prop::collection::vec(next_hop(v4()), 1..4).prop_map(|mut hops| {
        hops.sort_by_key(|hop| (hop.ifindex, hop.gateway));
        hops.dedup_by_key(|hop| (hop.ifindex, hop.gateway));
        hops
    });
    let v4 = (v4(), 0u8..=32, multipath);
    let v6 = (v6(), 0u8..=128, next_hop(v6()).prop_map(|hop| vec![hop]));
    let kind = prop_oneof![
        6 => Just(RouteKind::Unicast),
        1 => prop::sample::select(vec![
            RouteKind::Local,
            RouteKind::Broadcast,
            RouteKind::Blackhole,
            RouteKind::Prohibit,
            RouteKind::Unreachable,
            RouteKind::Throw,
        ]),
    ];
    let table = prop_oneof![1 => Just(TABLE_LOCAL), 4 => Just(TABLE_MAIN)];
    (prop_oneof![2 => v4.boxed(), 1 => v6.boxed()], kind, table, 0u32..3).prop_map(
        |((address, length, next_hops), kind, table, metric)| Route {
            prefix: IpPrefix::new(address, length).unwrap(),
            metric,
            kind,
            table,
            next_hops,
            mtu: None,
            restricted: false,
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => route().prop_map(Operation::Add),
        2 => route().prop_map(Operation::Replace),
        4 => any::<prop::sample::Index>().prop_map(Operation::Remove),
        2 => (1..=LINKS, any::<bool>()).prop_map(|(ifindex, up)| Operation::Carrier(ifindex, up)),
        1 => any::<prop::sample::Index>().prop_map(Operation::Resync),
    ]
}

fn link(ifindex: u32, up: bool) -> Link {
    Link { up, ..Link::ethernet(ifindex, "eth", [2, 0, 0, 0, 0, ifindex as u8]) }
}

fn remove_at(routes: &mut Vec<Route>, at: prop::sample::Index) -> Option<Route> {
    (!routes.is_empty()).then(|| routes.remove(at.index(routes.len())))
}

fn answer(routing: &mut Routing, destination: IpAddr, hash: u32) -> Result<(u32, IpAddr), Resolution> {
    match routing.lookup(destination, hash) {
        Resolution::Via { ifindex, next_hop, .. } => Ok((ifindex, next_hop)),
        other => Err(other),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lookup_agrees_with_a_linear_scan(
        operations in prop::collection::vec(operation(), 1..60),
        destinations in prop::collection::vec((prop_oneof![2 => v4().boxed(), 1 => v6().boxed()], any::<u32>()), 20),
    ) {
        let mut routing = Routing::new(u16::MAX);
        let mut changes = Vec::new();
        let mut oracle = Oracle { up: [true; LINKS as usize], ..Oracle::default() };
        for ifindex in 1..=LINKS {
            routing.apply(Event::LinkUpsert(link(ifindex, true)), &mut changes);
        }
        for operation in operations {
            let before: Vec<_> = destinations.iter().map(|&(to, hash)| answer(&mut routing, to, hash)).collect();
            changes.clear();
            match operation {
                Operation::Add(route) => {
                    oracle.add(&route, false);
                    routing.apply(Event::RouteAdded(route), &mut changes);
                }
                Operation::Replace(route) => {
                    oracle.add(&route, true);
                    routing.apply(Event::RouteReplaced(route), &mut changes);
                }
                Operation::Remove(at) => {
                    if let Some(route) = remove_at(&mut oracle.routes, at) {
                        routing.apply(Event::RouteGone(route), &mut changes);
                    }
                }
                Operation::Carrier(ifindex, up) => {
                    oracle.up[ifindex as usize - 1] = up;
                    routing.apply(Event::LinkUpsert(link(ifindex, up)), &mut changes);
                }
                Operation::Resync(without) => {
                    remove_at(&mut oracle.routes, without);
                    routing.apply(Event::ResyncBegin, &mut changes);
                    for ifindex in 1..=LINKS {
                        let link = link(ifindex, oracle.up[ifindex as usize - 1]);
                        routing.apply(Event::LinkUpsert(link), &mut changes);
                    }
                    for route in &oracle.routes {
                        routing.apply(Event::RouteAdded(route.clone()), &mut changes);
                    }
                    routing.apply(Event::ResyncEnd, &mut changes);
                }
            }
            for (&(to, hash), before) in destinations.iter().zip(before) {
                let now = answer(&mut routing, to, hash);
                prop_assert_eq!(now, oracle.lookup(to, hash), "to {}", to);
                let announced = changes.iter().any(|change| {
                    matches!(change, Change::Routes { prefix } if prefix.contains(to))
                });
                prop_assert!(now == before || announced, "{} changed silently", to);
            }
        }
        prop_assert_eq!(routing.routes().count(), oracle.routes.len());
    }
}
