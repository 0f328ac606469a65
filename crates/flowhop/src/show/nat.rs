//! `show nat`: what is published, what follows from addresses alone, what hosts have asked for, and the translations of
//! live connections.

use std::io;
use std::net::{IpAddr, SocketAddr};

use flowhop_flow::key::ip;
use flowhop_modules::{Asked, Endpoint};
use flowhop_policy::{AddressSet, Allocation, DestinationTranslation, NatRule, SourceTranslation, key_address};
use serde_json::{Value, json};

use crate::convert::seconds;
use crate::show::View;
use crate::show::connection::{Connection, live, protocol_name};

impl View {
    /// Published services, pairs, prefixes and deterministic translations in the order of the policy, then mappings that
    /// were asked for, then connections.
    pub(super) fn nat(&self, emit: &mut dyn FnMut(Value) -> io::Result<()>) -> io::Result<()> {
        let published = self
            .policy
            .policy
            .nats
            .iter()
            .filter_map(|nat| between(nat).or_else(|| published(nat)).or_else(|| deterministic(nat)));
        let connections = live(&self.regions)
            .filter(|connection| connection.nat != 0 || connection.destination_nat != 0)
            .map(|connection| self.translated(&connection));
        let asked = self.asked.iter().map(|asked| self.asked_for(asked));
        published.chain(asked).chain(connections).try_for_each(emit)
    }

    /// A mapping that a host has asked for: where whoever connects goes to.
    fn asked_for(&self, asked: &Asked) -> Value {
        let Asked { inside, external, nat, left, filters } = asked;
        let end = |end: &Endpoint| SocketAddr::new(ip(&end.address), end.port).to_string();
        let filters = filters.iter().map(|filter| {
            let (first, last) = filter.addresses;
            json!({ "addresses": range((key_address(first), key_address(last))), "port": filter.port })
        });
        json!({
            "kind": "pcp",
            "flow": null,
            "nat": self.nats.name(*nat),
            "destination_nat": null,
            "protocol": protocol_name(inside.protocol),
            "service": null,
            "source": null,
            "destination": end(external),
            "translated_source": null,
            "translated_destination": end(inside),
            "in": null,
            "out": null,
            "ports": null,
            "block": null,
            "sharing": null,
            "lifetime_s": seconds(u32::try_from(*left).unwrap_or(u32::MAX)),
            "filters": filters.collect::<Vec<_>>(),
        })
    }

    /// What a connection's first packet came with and left with.
    fn translated(&self, connection: &Connection<'_>) -> Value {
        let [source, destination] = connection.received(0);
        let [translated_source, translated_destination] = connection.sent(0);
        json!({
            "kind": "connection",
            "flow": connection.serial,
            "nat": self.nat_name(connection),
            "destination_nat": self.nats.name(connection.destination_nat),
            "protocol": connection.protocol(),
            "service": null,
            "source": source,
            "destination": destination,
            "translated_source": translated_source,
            "translated_destination": translated_destination,
            "in": self.port_name(connection.steer(0).ingress),
            "out": self.output(connection, 0),
            "ports": null,
            "block": null,
            "sharing": null,
            "lifetime_s": null,
            "filters": null,
        })
    }
}

fn published(nat: &NatRule) -> Option<Value> {
    let translation = nat.translate_destination.as_ref()?;
    let (kind, pair) = match &nat.translate_source {
        Some(SourceTranslation::OneToOne { inside, external }) => {
            ("one_to_one", Some((range(*inside), range(*external))))
        }
        Some(SourceTranslation::Prefix(pair)) => {
            let (inside, external) = pair.prefixes();
            let text = |prefix| format!("{prefix}/{}", pair.length());
            ("prefix", Some((text(inside), text(external))))
        }
        _ => ("published", None),
    };
    let (source, translated_source) = pair.unzip();
    Some(json!({
        "kind": kind,
        "flow": null,
        "nat": nat.name,
        "destination_nat": nat.name,
        "protocol": null,
        "service": translation.service.spelled(),
        "source": source,
        "destination": external(translation),
        "translated_source": translated_source,
        "translated_destination": inside(translation),
        "in": null,
        "out": null,
        "ports": null,
        "block": null,
        "sharing": null,
        "lifetime_s": null,
        "filters": null,
    }))
}

/// A translation between IPv6 and IPv4: destinations behind its prefix are the IPv4 addresses that they stand for.
fn between(nat: &NatRule) -> Option<Value> {
    let prefix = nat.prefix64?;
    let external = match &nat.translate_source {
        Some(SourceTranslation::Ranges(external)) => {
            external.iter().map(|pair| range(*pair)).collect::<Vec<_>>().join(", ")
        }
        _ => "interface".to_owned(),
    };
    Some(json!({
        "kind": "nat64",
        "flow": null,
        "nat": nat.name,
        "destination_nat": null,
        "protocol": null,
        "service": nat.service.spelled(),
        "source": addresses(&nat.source),
        "destination": prefix.to_string(),
        "translated_source": external,
        "translated_destination": addresses(&nat.destination),
        "in": null,
        "out": null,
        "ports": null,
        "block": null,
        "sharing": null,
        "lifetime_s": null,
        "filters": null,
    }))
}

/// What an external address and port are worked out from; see [`flowhop_policy::Deterministic`].
fn deterministic(nat: &NatRule) -> Option<Value> {
    let (Allocation::Deterministic(lots), Some(SourceTranslation::Ranges(external))) =
        (&nat.pool.allocation, &nat.translate_source)
    else {
        return None;
    };
    let inside = nat.source.of_family(nat.family);
    let (first, last) = lots.ports();
    let destination = addresses(&nat.destination);
    Some(json!({
        "kind": "deterministic",
        "flow": null,
        "nat": nat.name,
        "destination_nat": null,
        "protocol": null,
        "service": nat.service.spelled(),
        "source": addresses(&inside),
        "destination": destination,
        "translated_source": external.iter().map(|pair| range(*pair)).collect::<Vec<_>>().join(", "),
        "translated_destination": destination,
        "in": null,
        "out": null,
        "ports": format!("{first}-{last}"),
        "block": lots.block(),
        "sharing": u64::try_from(lots.sharing()).unwrap_or(u64::MAX),
        "lifetime_s": null,
        "filters": null,
    }))
}

fn external(translation: &DestinationTranslation) -> String {
    addresses(&translation.external)
}

fn addresses(set: &AddressSet) -> String {
    if set.is_any() {
        return "any".to_owned();
    }
    let ranges = set.ranges().iter();
    let texts: Vec<String> = ranges.map(|(first, last)| range((key_address(*first), key_address(*last)))).collect();
    texts.join(", ")
}

fn inside(translation: &DestinationTranslation) -> String {
    match (translation.inside.0, translation.port) {
        (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        (_, None) => range(translation.inside),
    }
}

fn range((first, last): (IpAddr, IpAddr)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
