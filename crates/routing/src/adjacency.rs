//! Adjacencies: what a frame to a neighbour looks like.
//!
//! # What
//!
//! A bounded table of slots. A flow names a slot by index and remembers the generation it saw; it may use the slot
//! only while both agree and the state is [`AdjacencyState::Resolved`].
//!
//! # States
//!
//! ```text
//!              neighbour resolved                 link down or gone (generation + 1)
//!   Incomplete ─────────────────► Resolved ──┐  from any state ───────────────► Down
//!      ▲  │ no answer                │       │                                    │
//!      │  ▼                          ▼       │             link up                │
//!      └ Failed ◄── no answer ── (stale) ────┘   Incomplete or Resolved ◄─────────┘
//! ```
//!
//! A slot leaves the table only by [`AdjacencyTable::retain`], when its user says that nothing names it; its
//! generation goes on counting, so that a flow that was overlooked does not match the next tenant.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::event::{Link, NeighbourState};

/// The number of a slot in the adjacency table, as flows and the forwarding paths name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdjacencyIndex(u16);

impl AdjacencyIndex {
    /// The index with this number, as read back from a flow record. It need not be in use.
    #[must_use]
    pub fn new(index: u16) -> AdjacencyIndex {
        AdjacencyIndex(index)
    }

    /// The number: below the table's capacity.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    fn slot(self) -> usize {
        usize::from(self.0)
    }
}

/// The network protocol that an adjacency carries; it decides the EtherType.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, EtherType 0x0800.
    V4,
    /// IPv6, EtherType 0x86dd.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// What stands in front of the network header on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkLayer {
    /// An Ethernet header.
    Ethernet,
    /// Nothing (TUN, IP tunnels, PPP as its driver shows it).
    Headerless,
    /// Something that flowhop does not build (InfiniBand, …): no adjacency can be made.
    Other,
}

/// Whether an adjacency can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdjacencyState {
    /// Frames can be sent.
    Resolved,
    /// The neighbour's address is not known: have it resolved.
    Incomplete,
    /// The neighbour does not answer.
    Failed,
    /// The link is down or gone.
    Down,
}

/// What a frame to a next hop looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjacency {
    /// The slot.
    pub index: AdjacencyIndex,
    /// Changes when flows that name the slot must be resolved again; never 0.
    pub generation: u16,
    /// Output interface index.
    pub ifindex: u32,
    /// The neighbour: a router, or a directly connected destination.
    pub next_hop: IpAddr,
    /// Protocol of the packets it carries; the next hop may be of the other one.
    pub family: Family,
    /// What stands in front of the network header.
    pub layer2: LinkLayer,
    /// Destination of frames; `None` while unresolved and on headerless links.
    pub mac: Option<[u8; 6]>,
    /// Source of frames: the output device's own address; `None` on headerless links.
    pub source_mac: Option<[u8; 6]>,
    /// Largest network-layer packet in bytes: the link's, or the route's where that is smaller.
    pub mtu: u32,
    /// Whether it can be used.
    pub state: AdjacencyState,
    /// Resolved, but not confirmed lately: use should have the neighbour confirmed.
    pub stale: bool,
    /// MTU attribute of the route it was made for; part of what tells adjacencies apart.
    route_mtu: Option<u32>,
}

/// What an adjacency was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Output interface index.
    pub ifindex: u32,
    /// The neighbour.
    pub next_hop: IpAddr,
    /// Protocol of the packets.
    pub family: Family,
    /// MTU attribute of the route.
    pub route_mtu: Option<u32>,
}

/// A slot as an earlier process left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    /// Generation of its last tenant.
    pub generation: u16,
    /// What its last tenant was made for, if that is known.
    pub tenant: Option<Origin>,
}

/// What tells adjacencies apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AdjacencyKey {
    pub(crate) ifindex: u32,
    pub(crate) next_hop: IpAddr,
    pub(crate) family: Family,
    pub(crate) route_mtu: Option<u32>,
}

/// The bounded table.
#[derive(Debug)]
pub(crate) struct AdjacencyTable {
    capacity: u16,
    slots: Vec<Slot>,
    free: Vec<AdjacencyIndex>,
    /// Few share a neighbour: one for each family and route MTU.
    by_neighbour: HashMap<(u32, IpAddr), Vec<AdjacencyIndex>>,
}

#[derive(Debug)]
struct Slot {
    generation: u16,
    tenant: Option<Adjacency>,
}

impl AdjacencyTable {
    pub(crate) fn new(capacity: u16) -> AdjacencyTable {
        AdjacencyTable {
            capacity,
            slots: Vec::with_capacity(usize::from(capacity)),
            free: Vec::new(),
            by_neighbour: HashMap::with_capacity(usize::from(capacity)),
        }
    }

    /// Takes over the slots of an earlier process, tenants included: flows name them. Until links and neighbours are
    /// announced they are down.
    pub(crate) fn inherit(&mut self, slots: impl IntoIterator<Item = Inherited>) {
        for inherited in slots.into_iter().take(usize::from(self.capacity)) {
            let Ok(index) = u16::try_from(self.slots.len()).map(AdjacencyIndex) else { return };
            let generation = inherited.generation;
            let tenant = inherited.tenant.map(|origin| Adjacency {
                index,
                generation,
                ifindex: origin.ifindex,
                next_hop: origin.next_hop,
                family: origin.family,
                layer2: LinkLayer::Ethernet,
                mac: None,
                source_mac: None,
                mtu: 0,
                state: AdjacencyState::Down,
                stale: false,
                route_mtu: origin.route_mtu,
            });
            match &tenant {
                Some(tenant) if self.find(&tenant.key()).is_none() => {
                    self.by_neighbour.entry((tenant.ifindex, tenant.next_hop)).or_default().push(index);
                    self.slots.push(Slot { generation, tenant: Some(tenant.clone()) });
                }
                _ => {
                    self.slots.push(Slot { generation, tenant: None });
                    self.free.push(index);
                }
            }
        }
    }

    pub(crate) fn get(&self, index: AdjacencyIndex) -> Option<&Adjacency> {
        self.slots.get(index.slot())?.tenant.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Adjacency> {
        self.slots.iter().filter_map(|slot| slot.tenant.as_ref())
    }

    pub(crate) fn find(&self, key: &AdjacencyKey) -> Option<AdjacencyIndex> {
        let candidates = self.by_neighbour.get(&(key.ifindex, key.next_hop))?;
        let mut candidates = candidates.iter().copied();
        candidates.find(|&index| self.get(index).is_some_and(|a| a.key() == *key))
    }

    /// Makes an adjacency that is not in the table; `None` when the table is full.
    pub(crate) fn allocate(
        &mut self,
        key: AdjacencyKey,
        link: &Link,
        neighbour: Option<NeighbourState>,
    ) -> Option<AdjacencyIndex> {
        let index = self.vacant_slot()?;
        let slot = self.slots.get_mut(index.slot())?;
        slot.generation = next_generation(slot.generation);
        let mut adjacency = Adjacency {
            index,
            generation: slot.generation,
            ifindex: key.ifindex,
            next_hop: key.next_hop,
            family: key.family,
            layer2: link.layer2,
            mac: None,
            source_mac: None,
            mtu: 0,
            state: AdjacencyState::Incomplete,
            stale: false,
            route_mtu: key.route_mtu,
        };
        adjacency.refresh(Some(link), neighbour);
        slot.tenant = Some(adjacency);
        let of_neighbour = self.by_neighbour.entry((key.ifindex, key.next_hop));
        of_neighbour.or_default().push(index);
        Some(index)
    }

    fn vacant_slot(&mut self) -> Option<AdjacencyIndex> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = u16::try_from(self.slots.len()).ok().filter(|&next| next < self.capacity)?;
        self.slots.push(Slot { generation: 0, tenant: None });
        Some(AdjacencyIndex(index))
    }

    /// Brings the adjacencies through a link in line with it; tells those that changed.
    pub(crate) fn refresh_link(
        &mut self,
        ifindex: u32,
        link: Option<&Link>,
        neighbour: impl Fn(IpAddr) -> Option<NeighbourState>,
        mut changed: impl FnMut(AdjacencyIndex),
    ) {
        for slot in &mut self.slots {
            if let Some(next_hop) = slot.next_hop_through(ifindex)
                && let Some(index) = slot.refresh(link, neighbour(next_hop))
            {
                changed(index);
            }
        }
    }

    /// Brings the adjacencies of a neighbour in line with it; tells those that changed.
    pub(crate) fn refresh_neighbour(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        link: Option<&Link>,
        neighbour: Option<NeighbourState>,
        mut changed: impl FnMut(AdjacencyIndex),
    ) {
        let of_neighbour = self.by_neighbour.get(&(ifindex, address));
        for index in of_neighbour.into_iter().flatten() {
            if let Some(slot) = self.slots.get_mut(index.slot())
                && let Some(index) = slot.refresh(link, neighbour)
            {
                changed(index);
            }
        }
    }

    /// Frees the slots that `in_use` refuses; returns how many.
    pub(crate) fn retain(&mut self, mut in_use: impl FnMut(AdjacencyIndex) -> bool) -> usize {
        let mut freed = 0;
        for slot in &mut self.slots {
            let Some(adjacency) = slot.tenant.take_if(|adjacency| !in_use(adjacency.index)) else {
                continue;
            };
            let neighbour = (adjacency.ifindex, adjacency.next_hop);
            if let Some(of_neighbour) = self.by_neighbour.get_mut(&neighbour) {
                of_neighbour.retain(|&index| index != adjacency.index);
                if of_neighbour.is_empty() {
                    self.by_neighbour.remove(&neighbour);
                }
            }
            self.free.push(adjacency.index);
            freed += 1;
        }
        freed
    }
}

impl Slot {
    fn next_hop_through(&self, ifindex: u32) -> Option<IpAddr> {
        let adjacency = self.tenant.as_ref()?;
        (adjacency.ifindex == ifindex).then_some(adjacency.next_hop)
    }

    /// Returns the index when anything changed.
    fn refresh(&mut self, link: Option<&Link>, neighbour: Option<NeighbourState>) -> Option<AdjacencyIndex> {
        let adjacency = self.tenant.as_mut()?;
        let before = adjacency.clone();
        adjacency.refresh(link, neighbour);
        if adjacency.state == AdjacencyState::Down && before.state != AdjacencyState::Down {
            self.generation = next_generation(self.generation);
            adjacency.generation = self.generation;
        }
        (*adjacency != before).then_some(adjacency.index)
    }
}

impl Adjacency {
    /// What it was made for.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { ifindex: self.ifindex, next_hop: self.next_hop, family: self.family, route_mtu: self.route_mtu }
    }

    pub(crate) fn key(&self) -> AdjacencyKey {
        AdjacencyKey { ifindex: self.ifindex, next_hop: self.next_hop, family: self.family, route_mtu: self.route_mtu }
    }

    /// Derives everything that can change from the link and the neighbour as they are.
    fn refresh(&mut self, link: Option<&Link>, neighbour: Option<NeighbourState>) {
        self.mac = None;
        self.stale = false;
        let Some(link) = link.filter(|link| link.up && link.layer2 != LinkLayer::Other) else {
            self.state = AdjacencyState::Down;
            return;
        };
        self.layer2 = link.layer2;
        self.source_mac = link.mac.filter(|_| link.layer2 == LinkLayer::Ethernet);
        self.mtu = self.route_mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
        (self.state, self.mac, self.stale) = match (link.layer2, neighbour) {
            (LinkLayer::Headerless, _) => (AdjacencyState::Resolved, None, false),
            _ if link.no_arp => (AdjacencyState::Resolved, link.mac, false),
            (_, Some(NeighbourState::Resolved(mac))) => (AdjacencyState::Resolved, Some(mac), false),
            (_, Some(NeighbourState::Stale(mac))) => (AdjacencyState::Resolved, Some(mac), true),
            (_, Some(NeighbourState::Failed)) => (AdjacencyState::Failed, None, false),
            (_, Some(NeighbourState::Probing | NeighbourState::Gone) | None) => {
                (AdjacencyState::Incomplete, None, false)
            }
        };
    }
}

/// 0 is skipped: a zeroed record never names a living adjacency.
fn next_generation(generation: u16) -> u16 {
    match generation.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u8) -> AdjacencyKey {
        let next_hop = IpAddr::from([192, 0, 2, last]);
        AdjacencyKey { ifindex: 1, next_hop, family: Family::V4, route_mtu: None }
    }

    #[test]
    fn is_bounded_and_reuses_slots_under_another_generation() {
        let link = Link::ethernet(1, "a", [2; 6]);
        let mut table = AdjacencyTable::new(2);
        let first = table.allocate(key(1), &link, None).unwrap();
        let second = table.allocate(key(2), &link, None).unwrap();
        assert_eq!(table.allocate(key(3), &link, None), None);
        let generation = table.get(first).unwrap().generation;

        assert_eq!(table.retain(|index| index == second), 1);
        assert_eq!(table.get(first), None);
        assert_eq!(table.find(&key(1)), None);
        let third = table.allocate(key(3), &link, None).unwrap();
        assert_eq!(third, first);
        assert_ne!(table.get(third).unwrap().generation, generation);
        assert_eq!(table.iter().count(), 2);
    }

    #[test]
    fn a_table_of_no_slots_is_full() {
        let link = Link::ethernet(1, "a", [2; 6]);
        assert_eq!(AdjacencyTable::new(0).allocate(key(1), &link, None), None);
    }

    #[test]
    fn generation_skips_zero() {
        assert_eq!(next_generation(0), 1);
        assert_eq!(next_generation(u16::MAX), 1);
    }

    #[test]
    fn a_link_that_needs_an_unknown_header_is_never_usable() {
        let mut link = Link::ethernet(1, "ib0", [2; 6]);
        link.layer2 = LinkLayer::Other;
        let mut table = AdjacencyTable::new(1);
        let index = table.allocate(key(1), &link, None).unwrap();
        assert_eq!(table.get(index).unwrap().state, AdjacencyState::Down);
    }
}
