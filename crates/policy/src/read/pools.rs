//! The keys of a `[[nat]]` that say how its external ports are shared out.

use toml::de::DeValue;

use super::node::{Choice, Node, Section};
use super::problem::Problem;
use super::report::Report;
use super::services;
use crate::{NatLimits, Pooling, PortPool};

/// Keys of the entry itself; `translate.ports` is read here as well.
pub(super) const KEYS: [&str; 4] = ["parity", "keep_port", "pooling", "limit"];
const LIMIT_KEYS: [&str; 2] = ["ports", "connections"];
const A_LIMIT: &str = "limit.ports = 1000, limit.connections = 2000, or both";
const A_COUNT: &str = "a number between 1 and 4294967295";
const ONE_RANGE: &str = "one range of ports, such as \"1024-65535\"";
const POOLINGS: [Choice<Pooling>; 2] = [("paired", Some(Pooling::Paired)), ("arbitrary", Some(Pooling::Arbitrary))];

/// Reads them. `None` after a fault.
pub(super) fn read(table: &Section<'_>, translate: &Section<'_>, report: &mut Report<'_>) -> Option<PortPool> {
    let ports = translate.get("ports").map_or(Some(None), |node| port_range(node, report).map(Some));
    let flag = |key, report: &mut Report<'_>| table.get(key).map_or(Some(false), |node| node.boolean(report));
    let parity = flag("parity", report);
    let keep_port = flag("keep_port", report);
    let pooling = table.get("pooling").map_or(Some(Pooling::Paired), |node| node.choice("pooling", &POOLINGS, report));
    let limits = table.get("limit").map_or(Some(NatLimits::default()), |node| limits(node, report));
    Some(PortPool { ports: ports?, parity: parity?, keep_port: keep_port?, pooling: pooling?, limits: limits? })
}

fn port_range(node: Node<'_>, report: &mut Report<'_>) -> Option<(u16, u16)> {
    let ports = services::port_list(node, report)?;
    match ports.ranges() {
        [range] => Some(*range),
        _ => {
            let what = "several ranges in \"ports\"".to_owned();
            report.error(node.at, &Problem::Contradiction { what, expected: ONE_RANGE });
            None
        }
    }
}

fn limits(node: Node<'_>, report: &mut Report<'_>) -> Option<NatLimits> {
    let section = node.section("\"limit\"", A_LIMIT, report)?;
    section.check_keys(&LIMIT_KEYS, report);
    let read = |key, report: &mut Report<'_>| match section.get(key) {
        Some(node) => count(node, report).map(Some),
        None => Some(None),
    };
    let (ports, connections) = (read("ports", report), read("connections", report));
    let limits = NatLimits { ports: ports?, connections: connections? };
    if limits == NatLimits::default() {
        report.error(node.at, &Problem::MissingKey { key: "ports", place: "\"limit\"", expected: "1000" });
        return None;
    }
    Some(limits)
}

fn count(node: Node<'_>, report: &mut Report<'_>) -> Option<u32> {
    let DeValue::Integer(written) = node.value else { return node.wrong_type(A_COUNT, report) };
    let number = node.as_integer().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
    if number.is_none() {
        let (what, value) = (format!("{:?} of", node.key), written.as_str().to_owned());
        report.error(node.at, &Problem::OutOfRange { what, value, expected: A_COUNT.to_owned() });
    }
    number
}
