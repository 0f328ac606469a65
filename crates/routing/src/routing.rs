//! The state machine: events in, changes and answers out.

mod reverse;

use std::net::{IpAddr, Ipv4Addr};

use crate::address::OwnAddresses;

use crate::adjacency::{AdjacencyKey, AdjacencyTable, Inherited};
use crate::event::{TABLE_LOCAL, TABLE_MAIN};
use crate::fib::{Entry, Fib, Join, Match};
use crate::links::{Links, Neighbours};
use crate::{
    Adjacency, AdjacencyIndex, Change, Event, Family, InterfaceAddress, IpPrefix, Link, LinkLayer, NeighbourState,
    NextHop, Resolution, Route, RouteKind, UnreachableReason,
};

/// Above this many prefixes of one family that change at once, the whole family is announced as changed.
const CHANGED_PREFIXES_LISTED: usize = 64;

/// Links, addresses, routes, neighbours and adjacencies as the kernel announced them.
///
/// ```
/// use flowhop_routing::{AdjacencyState, Event, Link, NeighbourState, Resolution, Route, Routing};
///
/// let mut routing = Routing::new(1024);
/// let mut changes = Vec::new();
/// let router = "192.0.2.1".parse().unwrap();
/// for event in [
///     Event::LinkUpsert(Link::ethernet(2, "eth0", [2, 0, 0, 0, 0, 1])),
///     Event::RouteAdded(Route::unicast("0.0.0.0/0".parse()?, Some(router), 2)),
/// ] {
///     routing.apply(event, &mut changes);
/// }
///
/// let Resolution::Via { adjacency, next_hop, .. } = routing.lookup("198.51.100.7".parse().unwrap(), 0) else {
///     panic!("the default route leads there");
/// };
/// assert_eq!(next_hop, router);
/// assert_eq!(routing.adjacency(adjacency).unwrap().state, AdjacencyState::Incomplete); // have it resolved
///
/// let state = NeighbourState::Resolved([2, 0, 0, 0, 0, 2]);
/// routing.apply(Event::NeighbourChanged { ifindex: 2, address: router, state }, &mut changes);
/// assert_eq!(routing.adjacency(adjacency).unwrap().mac, Some([2, 0, 0, 0, 0, 2]));
/// # Ok::<(), flowhop_routing::PrefixError>(())
/// ```
#[derive(Debug)]
pub struct Routing {
    links: Links,
    addresses: OwnAddresses,
    neighbours: Neighbours,
    fib: Fib,
    adjacencies: AdjacencyTable,
    /// Counts resynchronisations; what was announced since the last one began carries this number.
    epoch: u32,
    resyncing: bool,
}

/// A lookup's answer before an adjacency is looked for.
enum Decision {
    Final(Resolution),
    Forward { hop: NextHop, route_mtu: Option<u32> },
}

impl Routing {
    /// An empty mirror with room for `adjacencies` adjacencies; memory for them is taken at once (about 130 bytes each).
    #[must_use]
    pub fn new(adjacencies: u16) -> Routing {
        Routing {
            links: Links::default(),
            addresses: OwnAddresses::default(),
            neighbours: Neighbours::default(),
            fib: Fib::default(),
            adjacencies: AdjacencyTable::new(adjacencies),
            epoch: 0,
            resyncing: false,
        }
    }

    /// Takes over the adjacencies of an earlier process, by slot, before any event.
    pub fn inherit(&mut self, slots: impl IntoIterator<Item = Inherited>) {
        self.adjacencies.inherit(slots);
    }

    /// Takes an event in and pushes what follows from it to `changes`.
    pub fn apply(&mut self, event: Event, changes: &mut Vec<Change>) {
        match event {
            Event::LinkUpsert(link) => self.upsert_link(link, changes),
            Event::LinkGone { ifindex } => self.remove_link(ifindex, changes),
            Event::AddressAdded(address) => {
                if self.addresses.upsert(address, self.epoch) {
                    changes.push(Change::OwnAddresses);
                }
            }
            Event::AddressGone { ifindex, address, prefix_len } => {
                self.remove_address(ifindex, address, prefix_len, changes);
            }
            Event::RouteAdded(route) => self.insert_route(&route, Join::Add, changes),
            Event::RouteReplaced(route) => self.insert_route(&route, Join::Replace, changes),
            Event::RouteGone(route) => {
                if self.fib.remove(&route) {
                    push_routes(vec![route.prefix], changes);
                }
            }
            Event::NeighbourChanged { ifindex, address, state } => self.set_neighbour(ifindex, address, state, changes),
            Event::ResyncBegin => self.begin_resync(),
            Event::ResyncEnd => self.end_resync(changes),
        }
    }

    /// Where a packet to `destination` goes, with an adjacency that is made if there is none yet.
    ///
    /// `flow_hash` chooses among the next hops of a multipath route, in proportion to their weights; the same hash
    /// gives the same next hop as long as the usable next hops stay the same. It need not agree with the kernel's choice.
    ///
    /// The adjacency of [`Resolution::Via`] may be in any state but [`AdjacencyState::Down`](crate::AdjacencyState):
    /// have the neighbour resolved when it is incomplete or failed, confirmed when it is stale.
    pub fn lookup(&mut self, destination: IpAddr, flow_hash: u32) -> Resolution {
        let (hop, route_mtu) = match self.decide(destination, flow_hash) {
            Decision::Final(resolution) => return resolution,
            Decision::Forward { hop, route_mtu } => (hop, route_mtu),
        };
        let next_hop = hop.gateway.unwrap_or(destination);
        let key = AdjacencyKey { ifindex: hop.ifindex, next_hop, family: Family::of(destination), route_mtu };
        match self.find_or_allocate(key) {
            Ok(adjacency) => Resolution::Via { ifindex: hop.ifindex, next_hop, adjacency },
            Err(reason) => Resolution::Unreachable(reason),
        }
    }

    /// The adjacency for packets of `family` to a next hop that policy rather than a route has chosen.
    ///
    /// # Errors
    ///
    /// [`UnreachableReason::LinkDown`], [`UnreachableReason::Unsupported`] (link layer that is not built here) or
    /// [`UnreachableReason::AdjacencyTableFull`].
    pub fn adjacency_towards(
        &mut self,
        ifindex: u32,
        next_hop: IpAddr,
        family: Family,
    ) -> Result<AdjacencyIndex, UnreachableReason> {
        self.find_or_allocate(AdjacencyKey { ifindex, next_hop, family, route_mtu: None })
    }

    /// The route that a packet to `destination` takes, as announced; `None` where [`Routing::lookup`] finds no usable route.
    #[must_use]
    pub fn route_to(&self, destination: IpAddr) -> Option<Route> {
        let (table, length, entry) = self.best(destination)?;
        Some(entry.to_route(table, IpPrefix::new(destination, length).ok()?))
    }

    /// The same where it stands: its table, the length of its prefix, and itself.
    fn best(&self, destination: IpAddr) -> Option<(u32, u8, &Entry)> {
        [TABLE_LOCAL, TABLE_MAIN].into_iter().find_map(|table| {
            match self.fib.longest_match(table, destination, |ifindex| self.links.is_up(ifindex)) {
                Match::Entry(length, entry) if entry.kind != RouteKind::Throw => Some((table, length, entry)),
                Match::Entry(..) | Match::LinkDown | Match::Nothing => None,
            }
        })
    }

    /// The adjacency in a slot, or `None` when the slot is free.
    #[must_use]
    pub fn adjacency(&self, index: AdjacencyIndex) -> Option<&Adjacency> {
        self.adjacencies.get(index)
    }

    /// All adjacencies, in order of index.
    pub fn adjacencies(&self) -> impl Iterator<Item = &Adjacency> {
        self.adjacencies.iter()
    }

    /// Frees the adjacencies that `in_use` refuses and returns how many those were. The caller must know that no flow
    /// record names them and that no forwarding path still reads such a record.
    pub fn retain_adjacencies(&mut self, in_use: impl FnMut(AdjacencyIndex) -> bool) -> usize {
        self.adjacencies.retain(in_use)
    }

    /// All links, in order of interface index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.iter()
    }

    /// The link with this interface index.
    #[must_use]
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(ifindex)
    }

    /// All addresses of this machine, in order of interface index and announcement.
    pub fn own_addresses(&self) -> impl Iterator<Item = &InterfaceAddress> {
        self.addresses.iter()
    }

    /// The addresses of a link, in order of announcement.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = &InterfaceAddress> {
        self.addresses.on_link(ifindex)
    }

    /// The address to masquerade with on a link towards a next hop, of the next hop's family: global before link-local,
    /// preferred before deprecated, in the next hop's prefix before others, primary before secondary.
    #[must_use]
    pub fn source_towards(&self, ifindex: u32, next_hop: IpAddr) -> Option<IpAddr> {
        let own = self.addresses.source_towards(ifindex, next_hop)?;
        Some(own.address)
    }

    /// Whether two addresses are in one and the same connected prefix of a link.
    #[must_use]
    pub fn share_link(&self, ifindex: u32, one: IpAddr, other: IpAddr) -> bool {
        self.addresses.on_link(ifindex).any(|own| own.holds(one) && own.holds(other))
    }

    /// The other links whose connected prefixes of a family have addresses in common with those of a link.
    pub fn overlapping(&mut self, ifindex: u32, is_v4: bool) -> &[u32] {
        self.addresses.overlapping(ifindex, is_v4)
    }

    /// Whether the kernel has an address to ask for a neighbour from. It asks for IPv6 neighbours in its own name from a
    /// link-local address, which is not there for a moment after a link has come up; asked too early it stays silent,
    /// and repeats that a second later.
    #[must_use]
    pub fn can_ask(&self, ifindex: u32, next_hop: IpAddr) -> bool {
        let is_source = |own: &InterfaceAddress| match own.address {
            IpAddr::V6(address) => address.is_unicast_link_local() && !own.tentative,
            IpAddr::V4(_) => false,
        };
        next_hop.is_ipv4() || self.addresses.on_link(ifindex).any(is_source)
    }

    /// Whether `address` is configured on any link or is a loopback address. Destinations made local by a route alone
    /// are not included: ask [`Routing::lookup`].
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(address)
    }

    /// Whether `address` is the broadcast address of a connected prefix.
    #[must_use]
    pub fn is_directed_broadcast(&self, address: Ipv4Addr) -> bool {
        self.addresses.is_directed_broadcast(address)
            || matches!(
                self.fib
                    .longest_match(TABLE_LOCAL, address.into(), |ifindex| self
                        .links
                        .is_up(ifindex)),
                Match::Entry(32, entry) if entry.kind == RouteKind::Broadcast
            )
    }

    /// Prefixes that are on a link by an own address: address, length in bits, interface index.
    pub fn on_link_prefixes(&self) -> impl Iterator<Item = (IpAddr, u8, u32)> {
        self.addresses.iter().filter_map(|own| {
            let prefix = own.on_link_prefix()?;
            Some((prefix.address(), prefix.length(), own.ifindex))
        })
    }

    /// Broadcast addresses of connected prefixes.
    pub fn directed_broadcasts(&self) -> impl Iterator<Item = Ipv4Addr> {
        let by_address =
            |own: &InterfaceAddress| [own.broadcast, own.on_link_prefix().and_then(|p| p.directed_broadcast())];
        let by_route = self.routes().filter(|route| route.kind == RouteKind::Broadcast && route.prefix.length() == 32);
        let by_route = by_route.filter_map(|route| match route.prefix.address() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        self.addresses.iter().flat_map(by_address).flatten().chain(by_route)
    }

    /// All routes that are looked up: table *local* before *main*, IPv4 before IPv6, in order of prefix and metric.
    pub fn routes(&self) -> impl Iterator<Item = Route> {
        let all = self.fib.iter();
        all.map(|(table, prefix, entry)| entry.to_route(table, prefix))
    }

    /// How many announced routes are not looked up, by table: those of other tables than *local* and *main*, and those
    /// for some packets only. Where this is not empty, forwarding may differ from the kernel's: warn about it.
    pub fn ignored_routes(&self) -> impl Iterator<Item = (u32, u64)> {
        self.fib.ignored()
    }

    fn decide(&self, destination: IpAddr, flow_hash: u32) -> Decision {
        if let Some(decided) = decide_by_bits(destination) {
            return Decision::Final(decided);
        }
        let mut reason = UnreachableReason::NoRoute;
        for table in [TABLE_LOCAL, TABLE_MAIN] {
            let up = |ifindex| self.links.is_up(ifindex);
            match self.fib.longest_match(table, destination, up) {
                Match::Entry(_, entry) => {
                    if let Some(decision) = self.decide_by_route(entry, destination, flow_hash) {
                        return decision;
                    }
                }
                Match::LinkDown => reason = UnreachableReason::LinkDown,
                Match::Nothing => {}
            }
        }
        Decision::Final(Resolution::Unreachable(reason))
    }

    /// `None` sends the lookup on to the next table.
    fn decide_by_route(&self, entry: &Entry, destination: IpAddr, flow_hash: u32) -> Option<Decision> {
        let unreachable = Resolution::Unreachable;
        Some(Decision::Final(match entry.kind {
            RouteKind::Throw => return None,
            RouteKind::Local | RouteKind::Anycast => Resolution::Local,
            RouteKind::Broadcast => Resolution::Broadcast,
            RouteKind::Multicast => Resolution::Multicast,
            RouteKind::Blackhole => unreachable(UnreachableReason::Blackhole),
            RouteKind::Unreachable => unreachable(UnreachableReason::Refused),
            RouteKind::Prohibit => unreachable(UnreachableReason::Prohibit),
            RouteKind::Unsupported => unreachable(UnreachableReason::Unsupported),
            RouteKind::Unicast if is_ipv6_link_local(destination) => unreachable(UnreachableReason::LinkLocal),
            RouteKind::Unicast => match self.choose_next_hop(&entry.next_hops, flow_hash) {
                Some(hop) => {
                    return Some(Decision::Forward { hop, route_mtu: entry.mtu });
                }
                None => unreachable(UnreachableReason::LinkDown),
            },
        }))
    }

    /// Picks among the usable next hops in proportion to their weights.
    fn choose_next_hop(&self, next_hops: &[NextHop], flow_hash: u32) -> Option<NextHop> {
        let usable = || next_hops.iter().filter(|hop| self.links.is_up(hop.ifindex));
        let weight = |hop: &NextHop| u64::from(hop.weight.max(1));
        let total: u64 = usable().map(weight).sum();
        // The hash as a fraction of its range, scaled to the sum of weights: below `total` by construction.
        let mut point = (u64::from(flow_hash) * total) >> 32;
        usable()
            .find(|hop| {
                let within = point < weight(hop);
                point = point.saturating_sub(weight(hop));
                within
            })
            .copied()
    }

    fn find_or_allocate(&mut self, key: AdjacencyKey) -> Result<AdjacencyIndex, UnreachableReason> {
        let link = self.links.get(key.ifindex).filter(|link| link.up);
        let link = link.ok_or(UnreachableReason::LinkDown)?;
        if link.layer2 == LinkLayer::Other {
            return Err(UnreachableReason::Unsupported);
        }
        if let Some(index) = self.adjacencies.find(&key) {
            return Ok(index);
        }
        let neighbour = self.neighbours.get(key.ifindex, key.next_hop);
        self.adjacencies.allocate(key, link, neighbour).ok_or(UnreachableReason::AdjacencyTableFull)
    }

    fn upsert_link(&mut self, link: Link, changes: &mut Vec<Change>) {
        let ifindex = link.ifindex;
        let now = link.clone();
        let before = self.links.upsert(link, self.epoch);
        if before.as_ref() == Some(&now) {
            return;
        }
        changes.push(Change::Link { ifindex });
        self.refresh_link(ifindex, changes);
        let Some(before) = before else {
            return;
        };
        if before.up != now.up {
            push_routes(self.fib.prefixes_through(ifindex), changes);
        }
        if before.admin_up && !now.admin_up {
            let links = &self.links;
            let admin_up = |ifindex| links.get(ifindex).is_some_and(|link| link.admin_up);
            push_routes(self.fib.flush_down(admin_up), changes);
        }
        let came_up = !before.up && now.up;
        if came_up || before.master != now.master {
            self.need_resync(changes);
        }
    }

    fn remove_link(&mut self, ifindex: u32, changes: &mut Vec<Change>) {
        if !self.links.remove(ifindex) {
            return;
        }
        changes.push(Change::Link { ifindex });
        self.neighbours.remove_link(ifindex);
        self.refresh_link(ifindex, changes);
        if self.addresses.remove_link(ifindex) {
            changes.push(Change::OwnAddresses);
        }
        push_routes(self.fib.flush_gone(ifindex), changes);
    }

    fn remove_address(&mut self, ifindex: u32, address: IpAddr, prefix_len: u8, changes: &mut Vec<Change>) {
        if !self.addresses.remove(ifindex, address, prefix_len) {
            return;
        }
        changes.push(Change::OwnAddresses);
        if address.is_ipv4() {
            // The kernel flushes IPv4 routes that prefer this source, and with a link's last address all of the
            // link's routes, without announcing them.
            self.need_resync(changes);
        }
    }

    fn insert_route(&mut self, route: &Route, join: Join, changes: &mut Vec<Change>) {
        if self.fib.insert(route, join, self.epoch) {
            push_routes(vec![route.prefix], changes);
        }
    }

    fn set_neighbour(&mut self, ifindex: u32, address: IpAddr, state: NeighbourState, changes: &mut Vec<Change>) {
        self.neighbours.set(ifindex, address, state, self.epoch);
        let link = self.links.get(ifindex);
        let changed = |index| changes.push(Change::Adjacency(index));
        self.adjacencies.refresh_neighbour(ifindex, address, link, Some(state), changed);
    }

    fn refresh_link(&mut self, ifindex: u32, changes: &mut Vec<Change>) {
        let (links, neighbours) = (&self.links, &self.neighbours);
        self.adjacencies.refresh_link(
            ifindex,
            links.get(ifindex),
            |address| neighbours.get(ifindex, address),
            |index| changes.push(Change::Adjacency(index)),
        );
    }

    fn begin_resync(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.resyncing = true;
        self.fib.forget_ignored();
    }

    /// A dump that is already going on will tell.
    fn need_resync(&self, changes: &mut Vec<Change>) {
        if !self.resyncing && !changes.contains(&Change::NeedResync) {
            changes.push(Change::NeedResync);
        }
    }

    fn end_resync(&mut self, changes: &mut Vec<Change>) {
        if !std::mem::take(&mut self.resyncing) {
            return;
        }
        for ifindex in self.links.outdated(self.epoch) {
            self.remove_link(ifindex, changes);
        }
        for (ifindex, address) in self.neighbours.outdated(self.epoch) {
            self.set_neighbour(ifindex, address, NeighbourState::Gone, changes);
        }
        if self.addresses.sweep(self.epoch) {
            changes.push(Change::OwnAddresses);
        }
        push_routes(self.fib.sweep(self.epoch), changes);
    }
}

/// Destinations whose bits alone decide.
fn decide_by_bits(destination: IpAddr) -> Option<Resolution> {
    // RFC 1122 §3.2.1.3 and RFC 4291 §2.5.3: never forwarded, even where the loopback link is down.
    if destination.is_loopback() {
        return Some(Resolution::Local);
    }
    if destination.is_multicast() {
        return Some(Resolution::Multicast);
    }
    if destination == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Some(Resolution::Broadcast);
    }
    // RFC 1122 §3.2.1.3 and RFC 4291 §2.5.2: never a destination, whatever the default route says.
    destination.is_unspecified().then_some(Resolution::Unreachable(UnreachableReason::NoRoute))
}

fn is_ipv6_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Announces the prefixes, or where they are many, all of their family.
fn push_routes(prefixes: Vec<IpPrefix>, changes: &mut Vec<Change>) {
    let (v4, v6): (Vec<_>, Vec<_>) = prefixes.into_iter().partition(|prefix| prefix.address().is_ipv4());
    for (mut changed, all) in [(v4, IpPrefix::ALL_V4), (v6, IpPrefix::ALL_V6)] {
        changed.dedup();
        if changed.len() > CHANGED_PREFIXES_LISTED {
            changed = vec![all];
        }
        changes.extend(changed.into_iter().map(|prefix| Change::Routes { prefix }));
    }
}
