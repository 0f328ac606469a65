//! The reverse path: where a source address may come from (RFC 3704).

use std::net::IpAddr;

use crate::event::{TABLE_LOCAL, TABLE_MAIN};
use crate::fib::Match;
use crate::{IpPrefix, NextHop, RouteKind, Routing};

impl Routing {
    /// Whether packets to `address` may leave by `ifindex`: strict reverse-path check of a source address (RFC 3704
    /// section 2.2). Own addresses are reachable through no link.
    #[must_use]
    pub fn is_reachable_through(&self, address: IpAddr, ifindex: u32) -> bool {
        self.links.is_up(ifindex)
            && self.best(address).is_some_and(|(.., entry)| {
                entry.kind == RouteKind::Unicast && entry.next_hops.iter().any(|hop| hop.ifindex == ifindex)
            })
    }

    /// Whether some route to the most specific prefix that holds `address`, of whatever metric, leads through
    /// `ifindex`: feasible path (RFC 3704 section 2.3).
    #[must_use]
    pub fn is_feasible_through(&self, address: IpAddr, ifindex: u32) -> bool {
        let up = |ifindex| self.links.is_up(ifindex);
        if !up(ifindex) || !matches!(self.fib.longest_match(TABLE_LOCAL, address, up), Match::Nothing) {
            return false;
        }
        let Match::Entry(length, _) = self.fib.longest_match(TABLE_MAIN, address, up) else { return false };
        self.fib
            .entries(TABLE_MAIN, address, length)
            .iter()
            .any(|entry| entry.kind == RouteKind::Unicast && entry.next_hops.iter().any(|hop| hop.ifindex == ifindex))
    }

    /// Whether there is a route to `address` through any link, the default route included: loose reverse-path check
    /// (RFC 3704 section 2.4). What a route blackholes, prohibits or calls unreachable is not routed.
    #[must_use]
    pub fn is_routed(&self, address: IpAddr) -> bool {
        self.best(address).is_some_and(|(.., entry)| entry.kind == RouteKind::Unicast)
    }

    /// Whether `address` is on the link of another interface than `ifindex`: in the prefix of an own address there,
    /// which is also the best route to it, while `ifindex` has no address in its prefix.
    #[must_use]
    pub fn is_connected_elsewhere(&self, address: IpAddr, ifindex: u32) -> bool {
        let Some((_, length, entry)) = self.best(address).filter(|(.., entry)| entry.kind == RouteKind::Unicast) else {
            return false;
        };
        // Most sources are behind a router, or on the link that they come in from.
        let leads_here = |hop: &NextHop| hop.ifindex == ifindex;
        let on_link = |hop: &&NextHop| hop.gateway.is_none() && hop.ifindex != ifindex;
        if entry.next_hops.iter().any(leads_here) || !entry.next_hops.iter().any(|hop| on_link(&hop)) {
            return false;
        }
        let Ok(prefix) = IpPrefix::new(address, length) else { return false };
        let mut hops = entry.next_hops.iter().filter(on_link);
        hops.any(|hop| self.addresses.on_link(hop.ifindex).any(|own| own.is_on(&prefix)))
            && !self.addresses.on_link(ifindex).any(|own| own.holds(address))
    }
}
