//! `show fib`: the forwarding table, with both kinds of entries.
//!
//! A route entry refers to the next hop of a route, which is a router or a link; a flow entry refers to a flow next
//! hop, which holds the context of its connection and names the adjacency that its packets leave by.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use flowhop_flow::record::{Adjacency as Record, NextHop as Hop};
use flowhop_routing::{Adjacency, NextHop, Route, RouteKind, TABLE_LOCAL};
use serde_json::{Value, json};

use crate::show::View;
use crate::show::connection::{Connection, live, mac};

/// Neighbours by link and address.
type Neighbours<'a> = HashMap<(u32, IpAddr), &'a Adjacency>;

impl View {
    pub(super) fn fib(&self, emit: &mut dyn FnMut(Value) -> io::Result<()>) -> io::Result<()> {
        let neighbours: Neighbours<'_> =
            self.adjacencies.iter().map(|adjacency| ((adjacency.ifindex, adjacency.next_hop), adjacency)).collect();
        for route in &self.routes {
            emit(self.route_entry(route, &neighbours))?;
        }
        let by_number: HashMap<u16, &Adjacency> =
            self.adjacencies.iter().map(|adjacency| (adjacency.index.get(), adjacency)).collect();
        for connection in live(&self.regions) {
            for direction in 0..2 {
                emit(self.flow_entry(&connection, direction, &by_number))?;
            }
        }
        Ok(())
    }

    fn route_entry(&self, route: &Route, neighbours: &Neighbours<'_>) -> Value {
        let hops: Vec<Value> = route.next_hops.iter().map(|hop| self.route_next_hop(hop, neighbours)).collect();
        json!({
            "kind": "route",
            "prefix": route.prefix.to_string(),
            "table": if route.table == TABLE_LOCAL { "local" } else { "main" },
            "type": route_kind(route.kind),
            "metric": route.metric,
            "flow": null,
            "direction": null,
            "protocol": null,
            "source": null,
            "destination": null,
            "next_hops": hops,
        })
    }

    fn route_next_hop(&self, hop: &NextHop, neighbours: &Neighbours<'_>) -> Value {
        let neighbour = hop.gateway.and_then(|gateway| neighbours.get(&(hop.ifindex, gateway)));
        json!({
            "kind": if hop.gateway.is_some() { "router" } else { "link" },
            "gateway": hop.gateway.map(|gateway| gateway.to_string()),
            "mac": neighbour.and_then(|neighbour| neighbour.mac).map(mac),
            "interface": self.ifindex_name(hop.ifindex),
            "ifindex": hop.ifindex,
            "adjacency": neighbour.map(|neighbour| neighbour.index.get()),
            "weight": hop.weight.max(1),
            "translated_source": null,
            "translated_destination": null,
            "context": null,
        })
    }

    fn flow_entry(
        &self,
        connection: &Connection<'_>,
        direction: usize,
        adjacencies: &HashMap<u16, &Adjacency>,
    ) -> Value {
        let [source, destination] = connection.received(direction);
        json!({
            "kind": "flow",
            "prefix": null,
            "table": null,
            "type": null,
            "metric": null,
            "flow": connection.serial,
            "direction": if direction == 0 { "forward" } else { "reverse" },
            "protocol": connection.protocol(),
            "source": source,
            "destination": destination,
            "next_hops": [self.flow_next_hop(connection, direction, adjacencies)],
        })
    }

    fn flow_next_hop(
        &self,
        connection: &Connection<'_>,
        direction: usize,
        adjacencies: &HashMap<u16, &Adjacency>,
    ) -> Value {
        let steer = connection.steer(direction);
        let hop = self.regions.adjacencies.get(usize::from(steer.adjacency)).and_then(Record::read);
        let hop = hop.filter(|hop| hop.generation == steer.adjacency_generation);
        let adjacency =
            adjacencies.get(&steer.adjacency).filter(|adjacency| adjacency.generation == steer.adjacency_generation);
        let [translated_source, translated_destination] = connection.sent(direction);
        let age = connection.age(self);
        let router = hop.filter(|hop| hop.flags & Hop::RESOLVED != 0).map(|hop| {
            let [a, b, c, d, e, f, ..] = hop.macs;
            mac([a, b, c, d, e, f])
        });
        json!({
            "kind": "flow",
            "gateway": adjacency.map(|adjacency| adjacency.next_hop.to_string()),
            "mac": router,
            "interface": self.output(connection, direction),
            "ifindex": hop.map(|hop| hop.ifindex),
            "adjacency": hop.map(|_| steer.adjacency),
            "weight": null,
            "translated_source": translated_source,
            "translated_destination": translated_destination,
            "context": {
                "state": age.state,
                "path": connection.path(direction),
                "idle_s": age.idle_s,
                "timeout_s": age.timeout_s,
                "rule": self.rules.name(connection.rule),
                "nat": self.nat_name(connection),
                "service": connection.block.hot[direction].service.load(),
                "tcp": connection.tcp(direction),
            },
        })
    }

    fn ifindex_name(&self, ifindex: u32) -> Option<&str> {
        let port = self.ports.iter().find(|port| port.interface.ifindex == ifindex)?;
        Some(&port.interface.name)
    }
}

const fn route_kind(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Unicast => "unicast",
        RouteKind::Local => "local",
        RouteKind::Broadcast => "broadcast",
        RouteKind::Anycast => "anycast",
        RouteKind::Multicast => "multicast",
        RouteKind::Blackhole => "blackhole",
        RouteKind::Unreachable => "unreachable",
        RouteKind::Prohibit => "prohibit",
        RouteKind::Throw => "throw",
        RouteKind::Unsupported => "unsupported",
    }
}
