//! `[paths]`, `[table]`, `[timeouts]` and `[ip]`.

use std::collections::HashMap;
use std::time::Duration;

use super::node::{Choice, Node, Section};
use super::problem::{Doubt, Problem};
use super::report::{At, Report};
use super::values::{duration, number, show_duration};
use crate::{ForwardingPath, Handling, IpSettings, PathSettings, TableIndex, TableSettings, Timeouts};

const PATH_KEYS: [&str; 3] = ["allowed", "orphan_grace", "shadow"];
const TABLE_KEYS: [&str; 4] = ["connections", "half_open", "resting_ports", "index"];
const TIMEOUT_KEYS: [&str; 8] =
    ["udp", "tcp_established", "tcp_transitory", "tcp_opening", "tcp_closing", "icmp", "other", "port_rest"];
const HANDLING_KEYS: [&str; 9] = [
    "record_route",
    "timestamp",
    "router_alert",
    "security",
    "obsolete_options",
    "experimental_options",
    "unknown_options",
    "hop_by_hop",
    "routing_header",
];
const ANSWER_KEYS: [&str; 2] = ["redirects", "errors_per_second"];

/// `driver` may be allowed though this version never chooses it.
const PATHS: [Choice<ForwardingPath>; 3] = [
    ("driver", Some(ForwardingPath::Driver)),
    ("skb", Some(ForwardingPath::Skb)),
    ("user", Some(ForwardingPath::User)),
];
const INDICES: [Choice<TableIndex>; 2] =
    [("lines", Some(TableIndex::Lines)), ("kernel-hash", Some(TableIndex::KernelHash))];
/// The last one only where there is something to record.
const HANDLINGS: [Choice<Handling>; 3] =
    [("drop", Some(Handling::Drop)), ("pass", Some(Handling::Pass)), ("record", Some(Handling::Record))];

/// What an RFC demands at least, in seconds.
const FLOORS: [(&str, u64, &str); 7] = [
    ("udp", 120, "RFC 4787 REQ-5"),
    ("tcp_established", 7440, "RFC 5382 REQ-5"),
    ("tcp_transitory", 240, "RFC 5382 REQ-5"),
    // RFC 7857 section 2.1 lets it be short, but the answer to an inbound SYN takes 6 seconds (RFC 5382 REQ-4).
    ("tcp_opening", 6, "RFC 5382 REQ-4"),
    ("tcp_closing", 240, "RFC 5382 REQ-5"),
    ("icmp", 60, "RFC 5508 REQ-2"),
    ("port_rest", 120, "RFC 6888 REQ-8"),
];

/// The settings of all files. Each may be set once.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) paths: PathSettings,
    pub(crate) table: TableSettings,
    pub(crate) timeouts: Timeouts,
    pub(crate) ip: IpSettings,
    set: HashMap<(&'static str, &'static str), At>,
    half_open: Option<At>,
    resting_ports: Option<At>,
}

impl Settings {
    pub(crate) fn read_paths(&mut self, section: &Section<'_>, report: &mut Report<'_>) {
        let enabled = section.check_keys(&PATH_KEYS, report);
        if let Some(node) = section.get("allowed") {
            let allowed = allowed_paths(node, report);
            if enabled && self.is_first("paths", "allowed", node, report) {
                self.paths.allowed = allowed;
            }
        }
        if let Some(node) = section.get("shadow") {
            let one_in = number("shadow", 1..=PathSettings::MOST_SHADOW, node, report);
            if enabled && self.is_first("paths", "shadow", node, report) {
                self.paths.shadow = one_in.map_or(0, u32::next_power_of_two);
            }
        }
        if let Some(node) = section.get("orphan_grace") {
            let grace = duration(node, report);
            if enabled && self.is_first("paths", "orphan_grace", node, report) {
                self.paths.orphan_grace = grace.unwrap_or(self.paths.orphan_grace);
            }
        }
    }

    pub(crate) fn read_table(&mut self, section: &Section<'_>, report: &mut Report<'_>) {
        let enabled = section.check_keys(&TABLE_KEYS, report);
        if let Some(node) = section.get("connections") {
            let (min, max) = (TableSettings::MIN_CONNECTIONS, TableSettings::MAX_CONNECTIONS);
            let connections = number("connections", min..=max, node, report);
            if enabled && self.is_first("table", "connections", node, report) {
                self.table.connections = connections.unwrap_or(self.table.connections);
            }
        }
        if let Some(node) = section.get("half_open") {
            let half_open = number("half_open", 1..=TableSettings::MAX_CONNECTIONS, node, report);
            if enabled && self.is_first("table", "half_open", node, report) {
                self.table.half_open = half_open;
                self.half_open = Some(node.at);
            }
        }
        if let Some(node) = section.get("resting_ports") {
            let resting = number("resting_ports", 1..=TableSettings::MAX_CONNECTIONS, node, report);
            if enabled && self.is_first("table", "resting_ports", node, report) {
                self.table.resting_ports = resting;
                self.resting_ports = Some(node.at);
            }
        }
        if let Some(node) = section.get("index") {
            let index = node.choice("index", &INDICES, report);
            if enabled && self.is_first("table", "index", node, report) {
                self.table.index = index.unwrap_or_default();
            }
        }
    }

    pub(crate) fn read_timeouts(&mut self, section: &Section<'_>, report: &mut Report<'_>) {
        let enabled = section.check_keys(&TIMEOUT_KEYS, report);
        for key in TIMEOUT_KEYS {
            let Some(node) = section.get(key) else { continue };
            let value = duration(node, report);
            if !enabled || !self.is_first("timeouts", key, node, report) {
                continue;
            }
            if let Some(value) = value {
                warn_below_floor(key, value, node, report);
                self.set_timeout(key, value);
            }
        }
    }

    pub(crate) fn read_ip(&mut self, section: &Section<'_>, report: &mut Report<'_>) {
        let enabled = section.check_keys(&[&HANDLING_KEYS[..], &ANSWER_KEYS[..]].concat(), report);
        if let Some(node) = section.get("redirects") {
            let redirects = node.boolean(report);
            if enabled && self.is_first("ip", "redirects", node, report) {
                self.ip.redirects = redirects.unwrap_or(self.ip.redirects);
            }
        }
        if let Some(node) = section.get("errors_per_second") {
            let most = number("errors_per_second", 1..=IpSettings::MAX_ERRORS, node, report);
            if enabled && self.is_first("ip", "errors_per_second", node, report) {
                self.ip.errors_per_second = most.unwrap_or(self.ip.errors_per_second);
            }
        }
        for key in HANDLING_KEYS {
            let Some(node) = section.get(key) else { continue };
            let choices = if matches!(key, "record_route" | "timestamp") { &HANDLINGS[..] } else { &HANDLINGS[..2] };
            let handling = node.choice("handling", choices, report);
            if enabled && self.is_first("ip", key, node, report) {
                let place = self.handling(key);
                *place = handling.unwrap_or(*place);
            }
        }
    }

    /// A part is not larger than the whole.
    pub(crate) fn check_table(&self, report: &mut Report<'_>) {
        let connections = self.table.connections;
        for (key, at, most) in [
            ("half_open", self.half_open, self.table.half_open),
            ("resting_ports", self.resting_ports, self.table.resting_ports),
        ] {
            if let (Some(at), Some(most)) = (at, most)
                && most > connections
            {
                let what = format!("{key} = {most} of {connections} connections");
                report.error(at, &Problem::Contradiction { what, expected: "no more than `connections`" });
            }
        }
    }

    /// An interface may not ask for a path that is not allowed.
    pub(crate) fn check_requests(&self, requests: &[(At, ForwardingPath)], report: &mut Report<'_>) {
        for (at, path) in requests {
            // `user` serves in any case.
            if *path != ForwardingPath::User && !self.paths.allows(*path) {
                let what = format!("path {:?} is not among those that [paths] allows", path.name());
                report.error(*at, &Problem::Contradiction { what, expected: "a path in `allowed`, or none" });
            }
        }
    }

    const fn set_timeout(&mut self, key: &str, value: Duration) {
        let timeouts = &mut self.timeouts;
        match key.as_bytes() {
            b"udp" => timeouts.udp = value,
            b"tcp_established" => timeouts.tcp_established = value,
            b"tcp_transitory" => timeouts.tcp_transitory = value,
            b"tcp_opening" => timeouts.tcp_opening = Some(value),
            b"tcp_closing" => timeouts.tcp_closing = Some(value),
            b"icmp" => timeouts.icmp = value,
            b"port_rest" => timeouts.port_rest = value,
            _ => timeouts.other = value,
        }
    }

    fn handling(&mut self, key: &str) -> &mut Handling {
        match key {
            "record_route" => &mut self.ip.record_route,
            "timestamp" => &mut self.ip.timestamp,
            "router_alert" => &mut self.ip.router_alert,
            "security" => &mut self.ip.security,
            "obsolete_options" => &mut self.ip.obsolete_options,
            "experimental_options" => &mut self.ip.experimental_options,
            "unknown_options" => &mut self.ip.unknown_options,
            "hop_by_hop" => &mut self.ip.hop_by_hop,
            _ => &mut self.ip.routing_header,
        }
    }

    fn is_first(&mut self, section: &'static str, key: &'static str, node: Node<'_>, report: &mut Report<'_>) -> bool {
        if let Some(first) = self.set.get(&(section, key)) {
            let first = report.place(*first, node.at.file);
            report.error(node.at, &Problem::Duplicate { kind: "setting", name: format!("{section}.{key}"), first });
            return false;
        }
        self.set.insert((section, key), node.at);
        true
    }
}

fn allowed_paths(node: Node<'_>, report: &mut Report<'_>) -> Option<Vec<ForwardingPath>> {
    let nodes = node.at_least_one("[\"user\"] for the slow path alone", report);
    let paths: Vec<Option<_>> = nodes.iter().map(|item| item.choice("path", &PATHS, report)).collect();
    paths.into_iter().collect()
}

fn warn_below_floor(key: &'static str, value: Duration, node: Node<'_>, report: &mut Report<'_>) {
    let Some((_, floor, rfc)) = FLOORS.iter().find(|(name, ..)| *name == key) else { return };
    let floor = Duration::from_secs(*floor);
    if value < floor {
        let (value, floor) = (show_duration(value), show_duration(floor));
        report.warning(node.at, &Doubt::BelowFloor { key, value, floor, rfc });
    }
}
