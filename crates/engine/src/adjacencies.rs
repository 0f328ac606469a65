//! Adjacencies: from what routing knows of neighbours to records that every path reads, and the packets that wait for
//! them.

use flowhop_flow::Reason;
use flowhop_flow::key::{self, Address};
use flowhop_flow::record::{NextHop, Tick};
use flowhop_routing::{AdjacencyIndex, AdjacencyState, Family, Inherited, Origin, Resolution, UnreachableReason};

use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::hold::{Held, Wait};
use crate::io::{Arrived, Io};
use crate::known::NOWHERE;

impl Engine {
    /// Takes over the adjacencies that an adopted table has. Their records stay as they are, in use, until
    /// [`interfaces_changed`](Self::interfaces_changed) is called with everything known.
    pub fn inherit_adjacencies(&mut self) {
        let records = &self.table.regions().adjacencies;
        let used = records.iter().rposition(|record| record.generation() != 0).map_or(0, |last| last + 1);
        let slots = records.iter().take(used.min(usize::from(NOWHERE.0))).map(|record| Inherited {
            generation: record.generation(),
            tenant: record.origin().map(|(next_hop, family, mtu)| Origin {
                ifindex: record.read().map_or(0, |hop| hop.ifindex),
                next_hop: key::ip(&key::words(&next_hop)),
                family: if family == 4 { Family::V4 } else { Family::V6 },
                route_mtu: (mtu != 0).then_some(mtu),
            }),
        });
        self.routing.inherit(slots);
        self.taking_over = true;
    }

    /// Brings the records of all adjacencies in line with the interfaces, after a change of those.
    pub fn interfaces_changed(&mut self) {
        self.taking_over = false;
        for adjacency in self.routing.adjacencies() {
            self.write_adjacency(adjacency.index);
        }
    }

    /// Writes an adjacency to the table, and lets go what waited for it.
    pub(crate) fn adjacency_changed(&mut self, index: AdjacencyIndex, now: Tick, io: &mut dyn Io) {
        if self.taking_over {
            return;
        }
        let Some(adjacency) = self.routing.adjacency(index) else { return };
        let resolved = adjacency.state == AdjacencyState::Resolved;
        let failed = matches!(adjacency.state, AdjacencyState::Failed | AdjacencyState::Down);
        let (ifindex, next_hop, stale) = (adjacency.ifindex, adjacency.next_hop, adjacency.stale);
        self.write_adjacency(index);
        if stale {
            io.resolve(ifindex, next_hop);
        }
        if resolved {
            self.release(index.get(), now, io);
        } else if failed {
            let taken = self.hold.take(Wait::Neighbour(index.get()));
            self.give_up(taken, now, io);
        }
    }

    /// Asks for neighbours that could not be asked for before, after a change of own addresses.
    pub(crate) fn ask_for_neighbours(&mut self, now: Tick, io: &mut dyn Io) {
        for index in std::mem::take(&mut self.unasked) {
            self.want_neighbour(AdjacencyIndex::new(index), now, io);
        }
    }

    pub(crate) fn write_adjacency(&self, index: AdjacencyIndex) {
        let Some(adjacency) = self.routing.adjacency(index) else { return };
        let interface = self.interfaces.ifindex(adjacency.ifindex);
        let (mac, source) = (adjacency.mac.unwrap_or_default(), adjacency.source_mac.unwrap_or_default());
        let usable = adjacency.state == AdjacencyState::Resolved && interface.is_some();
        let headerless = if adjacency.mac.is_none() { NextHop::HEADERLESS } else { 0 };
        let lower = interface.filter(|interface| interface.takes_frames).map(|interface| interface.lower);
        let [a, b, c, d, e, f] = mac;
        let [g, h, i, j, k, l] = source;
        let hop = NextHop {
            ifindex: adjacency.ifindex,
            generation: adjacency.generation,
            port: interface.map_or(0, |interface| interface.port),
            flags: if usable { NextHop::RESOLVED | headerless } else { 0 },
            macs: [a, b, c, d, e, f, g, h, i, j, k, l],
            mtu: adjacency.mtu,
            lower: lower.map_or(0, |lower| lower.ifindex),
            vid: lower.map_or(0, |lower| lower.vid),
        };
        if let Some(record) = self.table.regions().adjacencies.get(usize::from(index.get()))
            && record.read() != Some(hop)
        {
            let origin = adjacency.origin();
            let family = if origin.family == Family::V4 { 4 } else { 6 };
            record.set_origin(key::bytes(&key::address(origin.next_hop)), family, origin.route_mtu.unwrap_or(0));
            record.write(&hop);
        }
    }

    /// Forwards what waited for a neighbour, in order.
    fn release(&mut self, adjacency: u16, now: Tick, io: &mut dyn Io) {
        for mut held in self.hold.take(Wait::Neighbour(adjacency)) {
            self.counters.take_back(held.port, Reason::HeldNeighbour, held.bytes.len());
            let arrived = Arrived { port: held.port, gate: held.gate, driver: held.driver, now };
            let mut packet = Buffer::new(&mut held.bytes, held.offload);
            self.receive(&arrived, &mut packet, io);
        }
    }

    /// Drops what waited in vain; if it was for a neighbour, the senders are told (RFC 1812 section 5.2.7.1).
    pub(crate) fn give_up(&mut self, packets: Vec<Held>, now: Tick, io: &mut dyn Io) {
        for mut held in packets {
            self.counters.take_back(held.port, held.wait.reason(), held.bytes.len());
            self.gates.finish(held.gate);
            let dropped = match held.wait {
                Wait::Move(..) => Some(Reason::HoldFull),
                Wait::Server(_) => Some(Reason::ServerSilent),
                Wait::Neighbour(_) => None,
            };
            if let Some(reason) = dropped {
                self.counters.add(held.port, reason, held.bytes.len());
                continue;
            }
            self.counters.add(held.port, Reason::NeighbourUnresolved, held.bytes.len());
            let arrived = Arrived { port: held.port, gate: 0, driver: held.driver, now };
            let mut packet = Buffer::new(&mut held.bytes, held.offload);
            self.answer_undeliverable(&arrived, Reason::NeighbourUnresolved, &mut packet, io);
        }
    }

    /// Looks a destination up, with the record of a fresh adjacency written to the table.
    pub(crate) fn route(&mut self, destination: &Address, hash: u64) -> Resolution {
        let mut resolution = self.routing.lookup(key::ip(destination), hash as u32);
        if resolution == Resolution::Unreachable(UnreachableReason::AdjacencyTableFull)
            && self.retain_adjacencies_early()
        {
            resolution = self.routing.lookup(key::ip(destination), hash as u32);
        }
        if let Resolution::Via { adjacency, .. } = resolution {
            self.write_adjacency(adjacency);
        }
        resolution
    }
}
