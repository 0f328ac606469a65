//! `[interfaces]` and the zones that they make.

use std::collections::HashMap;

use super::node::{Choice, Node, Section};
use super::problem::{Problem, one_of};
use super::report::{At, Report};
use super::suggest::nearest;
use crate::{ForwardingPath, Interface, Martians, ReversePath, ZoneId};

const AN_INTERFACE: &str = "{ device = \"…\", zone = \"…\" }";
const KEYS: [&str; 5] = ["device", "zone", "path", "rpf", "martians"];

/// Words that mean something else in the place of a zone.
const NOT_ZONES: [&str; 2] = ["any", "self"];

/// The kernel's limit without the closing zero (IFNAMSIZ in linux/if.h).
const LONGEST_DEVICE: usize = 15;

const PATHS: [Choice<ForwardingPath>; 3] = [
    ("driver", Some(ForwardingPath::Driver)),
    ("skb", Some(ForwardingPath::Skb)),
    ("user", Some(ForwardingPath::User)),
];
const RPF: [Choice<ReversePath>; 4] = [
    ("strict", Some(ReversePath::Strict)),
    ("feasible", Some(ReversePath::Feasible)),
    ("loose", Some(ReversePath::Loose)),
    ("off", Some(ReversePath::Off)),
];
const MARTIANS: [Choice<Martians>; 3] =
    [("rfc1812", Some(Martians::Rfc1812)), ("registry", Some(Martians::Registry)), ("off", Some(Martians::Off))];

/// The interfaces and zones of all files.
#[derive(Default)]
pub(crate) struct Interfaces {
    pub(crate) interfaces: Vec<Interface>,
    /// Where each interface that asks for a path does so.
    pub(crate) path_requests: Vec<(At, ForwardingPath)>,
    pub(crate) zones: Zones,
    /// Names and devices, with their first places.
    taken: HashMap<(&'static str, String), At>,
}

/// Zones by name.
#[derive(Default)]
pub(crate) struct Zones {
    pub(crate) names: Vec<String>,
    by_name: HashMap<String, ZoneId>,
}

impl Zones {
    /// The zone that a `from` or `to` names; `None` after a fault.
    pub(crate) fn resolve(&self, at: At, name: &str, report: &mut Report<'_>) -> Option<ZoneId> {
        let zone = self.by_name.get(name).copied();
        if zone.is_none() {
            let near = nearest(name, self.names.iter().map(String::as_str));
            let expected = if self.names.is_empty() {
                "an interface with that zone in [interfaces]".to_owned()
            } else {
                one_of(&self.names)
            };
            report.error(at, &Problem::UndefinedZone { name: name.to_owned(), near, expected });
        }
        zone
    }

    fn intern(&mut self, name: &str) -> Option<ZoneId> {
        if let Some(zone) = self.by_name.get(name) {
            return Some(*zone);
        }
        let zone = u16::try_from(self.names.len()).ok().map(ZoneId)?;
        self.names.push(name.to_owned());
        self.by_name.insert(name.to_owned(), zone);
        Some(zone)
    }
}

impl Interfaces {
    /// Reads one `[interfaces]` table.
    pub(crate) fn read(&mut self, section: &Section<'_>, report: &mut Report<'_>) {
        let section_enabled = section.is_enabled(report);
        for (key_at, node) in section.named_entries(report) {
            let Some(table) = node.section("an interface", AN_INTERFACE, report) else { continue };
            // The place of a table written with dots or a header is that of its name.
            let table = Section { at: key_at, enabled: section_enabled, ..table };
            let enabled = table.check_keys(&KEYS, report);
            if node.key.is_empty() {
                let why = "it is empty";
                let problem = Problem::ReservedName { kind: "an interface", name: String::new(), why };
                report.error(key_at, &problem);
            } else {
                self.read_one(node.key, &table, enabled, report);
            }
        }
    }

    fn read_one(&mut self, name: &str, table: &Section<'_>, enabled: bool, report: &mut Report<'_>) {
        let device_node = table.require("device", "\"lan0\"", report);
        let device = device_node.and_then(|node| device(node, report));
        let zone = table.require("zone", "\"inside\"", report).and_then(|node| self.zone(node, report));
        let path_node = table.get("path");
        let path = path_node.map(|node| node.choice("path", &PATHS, report));
        let rpf = table.get("rpf").map(|node| node.choice("reverse path check", &RPF, report));
        let martians = table.get("martians").map(|node| node.choice("set of martians", &MARTIANS, report));

        if !enabled {
            return;
        }
        self.take("interface", name, table.at, report);
        if let (Some(device), Some(node)) = (device, device_node) {
            self.take("device", device, node.at, report);
        }
        if let (Some(Some(path)), Some(node)) = (path, path_node) {
            self.path_requests.push((node.at, path));
        }
        let (Some(device), Some(zone)) = (device, zone) else { return };
        self.interfaces.push(Interface {
            name: name.to_owned(),
            device: device.to_owned(),
            zone,
            path: path.flatten(),
            rpf: rpf.flatten().unwrap_or_default(),
            martians: martians.flatten().unwrap_or_default(),
            line: report.line(table.at),
        });
    }

    /// A disabled interface makes its zone too: rules about it need not be disabled with it.
    fn zone(&mut self, node: Node<'_>, report: &mut Report<'_>) -> Option<ZoneId> {
        let name = node.string(report)?;
        let why = if NOT_ZONES.contains(&name) {
            "it means something else in a rule"
        } else if name.is_empty() || name.contains(char::is_control) {
            "it is empty or has control characters"
        } else {
            let zone = self.zones.intern(name);
            if zone.is_none() {
                let expected = "at most 65536 zones".to_owned();
                report
                    .error(node.at, &Problem::OutOfRange { what: "zone".to_owned(), value: name.to_owned(), expected });
            }
            return zone;
        };
        report.error(node.at, &Problem::ReservedName { kind: "a zone", name: name.to_owned(), why });
        None
    }

    fn take(&mut self, kind: &'static str, name: &str, at: At, report: &mut Report<'_>) {
        if let Some(first) = self.taken.get(&(kind, name.to_owned())) {
            let first = report.place(*first, at.file);
            report.error(at, &Problem::Duplicate { kind, name: name.to_owned(), first });
        } else {
            self.taken.insert((kind, name.to_owned()), at);
        }
    }
}

fn device<'d>(node: Node<'d>, report: &mut Report<'_>) -> Option<&'d str> {
    let name = node.string(report)?;
    // What the kernel takes: dev_valid_name() in net/core/dev.c.
    let is_valid = (1..=LONGEST_DEVICE).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if !is_valid {
        let expected = format!("a name of 1 to {LONGEST_DEVICE} characters without spaces, \"/\" and \":\"");
        report.error(node.at, &Problem::BadValue { what: "device name", value: name.to_owned(), near: None, expected });
    }
    is_valid.then_some(name)
}
