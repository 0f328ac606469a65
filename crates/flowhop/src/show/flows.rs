//! `show flows`.

use std::io;

use flowhop_engine::PathReason;
use serde_json::{Value, json};

use crate::show::View;
use crate::show::connection::{Connection, live};

impl View {
    pub(super) fn flows(&self, emit: &mut dyn FnMut(Value) -> io::Result<()>) -> io::Result<()> {
        live(&self.regions).map(|connection| self.flow(&connection)).try_for_each(emit)
    }

    fn flow(&self, connection: &Connection<'_>) -> Value {
        let age = connection.age(self);
        json!({
            "id": connection.serial,
            "protocol": connection.protocol(),
            "state": age.state,
            "rule": self.rules.name(connection.rule),
            "nat": self.nat_name(connection),
            "destination_nat": self.nats.name(connection.destination_nat),
            "helper": self.helper(connection),
            "parent": Some(connection.parent).filter(|parent| *parent != 0),
            "age_s": age.age_s,
            "idle_s": age.idle_s,
            "timeout_s": age.timeout_s,
            "forward": self.direction(connection, 0),
            "reverse": self.direction(connection, 1),
        })
    }

    /// What looks at the payload of a connection.
    fn helper(&self, connection: &Connection<'_>) -> Option<&'static str> {
        let current = &self.policy;
        // Between IPv6 and IPv4 nothing is read.
        if [connection.nat, connection.destination_nat].iter().any(|nat| current.prefixes.contains_key(nat)) {
            return None;
        }
        let index = current.rules.iter().position(|number| *number == connection.rule)?;
        let rule = current.policy.rules.get(index).filter(|_| connection.parent == 0)?;
        rule.helper.map(flowhop_policy::Helper::name)
    }

    fn direction(&self, connection: &Connection<'_>, direction: usize) -> Value {
        let [source, destination] = connection.received(direction);
        let [translated_source, translated_destination] = connection.sent(direction);
        let hot = &connection.block.hot[direction];
        let (packets, bytes) = hot.traffic.read();
        let reason = (connection.block.owner.flags.load() >> (8 * direction)) as u8;
        json!({
            "source": source,
            "destination": destination,
            "translated_source": translated_source,
            "translated_destination": translated_destination,
            "in": self.port_name(connection.steer(direction).ingress),
            "out": self.output(connection, direction),
            "path": connection.path(direction),
            "path_reason": PathReason::from_number(reason).name(),
            "packets": packets,
            "bytes": bytes,
        })
    }

    /// Where a direction leaves: by its adjacency, or else where its answers are expected.
    pub(super) fn output(&self, connection: &Connection<'_>, direction: usize) -> Option<&str> {
        let steer = connection.steer(direction);
        let hop = self
            .regions
            .adjacencies
            .get(usize::from(steer.adjacency))
            .and_then(flowhop_flow::record::Adjacency::read)
            .filter(|hop| hop.generation == steer.adjacency_generation && hop.ifindex != 0);
        self.port_name(hop.map_or_else(|| connection.steer(direction ^ 1).ingress, |hop| hop.port))
    }

    /// Name of the translation of a connection's source, else of its destination.
    pub(super) fn nat_name(&self, connection: &Connection<'_>) -> Option<&str> {
        self.nats.name(connection.nat).or_else(|| self.nats.name(connection.destination_nat))
    }
}
