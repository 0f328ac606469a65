//! `[pcp]`.

use super::node::Section;
use super::problem::{Doubt, Problem};
use super::report::{At, Report};
use super::rules::{Scope, address_set, zone_match};
use super::services;
use super::values::{duration, number, show_duration};
use crate::{PcpSettings, PortSet, ZoneMatch, ZoneSet};

const KEYS: [&str; 7] = ["from", "to", "source", "ports", "min_lifetime", "max_lifetime", "limit"];
const ZONES: &str = "a zone, or a list of zones";

/// The one table that takes part.
#[derive(Default)]
pub(crate) struct Reader {
    pub(crate) settings: Option<PcpSettings>,
    /// Where it is.
    pub(crate) first: Option<At>,
}

impl Reader {
    pub(crate) fn read(&mut self, section: &Section<'_>, scope: &Scope, report: &mut Report<'_>) {
        let enabled = section.check_keys(&KEYS, report);
        let settings = settings(section, enabled, scope, report);
        if !enabled {
            return;
        }
        if let Some(first) = self.first {
            let first = report.place(first, section.at.file);
            report.error(section.at, &Problem::Duplicate { kind: "table", name: "pcp".to_owned(), first });
            return;
        }
        self.first = Some(section.at);
        self.settings = settings;
    }
}

/// What it says; `None` after a fault, or if it takes no part.
fn settings(section: &Section<'_>, enabled: bool, scope: &Scope, report: &mut Report<'_>) -> Option<PcpSettings> {
    let from = zones(section, "from", enabled, scope, report);
    let to = zones(section, "to", enabled, scope, report);
    let source = address_set(section, "source", enabled, scope, report);
    let ports = section.get("ports").map_or(Some(PortSet::any()), |node| services::port_list(node, report));
    let lifetime = |key, default, report: &mut Report<'_>| match section.get(key) {
        Some(node) => duration(node, report),
        None => Some(default),
    };
    let min_lifetime = lifetime("min_lifetime", PcpSettings::MIN_LIFETIME, report);
    let max_lifetime = lifetime("max_lifetime", PcpSettings::MAX_LIFETIME, report);
    let limit = match section.get("limit") {
        Some(node) => number("limit", 1..=PcpSettings::LARGEST_LIMIT, node, report),
        None => Some(PcpSettings::LIMIT),
    };
    let (min_lifetime, max_lifetime) = (min_lifetime?, max_lifetime?);
    if min_lifetime > max_lifetime {
        let node = section.get("min_lifetime").or_else(|| section.get("max_lifetime"));
        let (least, most) = (show_duration(min_lifetime), show_duration(max_lifetime));
        let what = format!("mappings that last {least} at least and {most} at most");
        let expected = "min_lifetime (\"120s\" if not said) no longer than max_lifetime (\"1d\" if not said)";
        report.error(node.map_or(section.at, |node| node.at), &Problem::Contradiction { what, expected });
        return None;
    }
    if let Some(node) = section.get("min_lifetime")
        && enabled
        && min_lifetime < PcpSettings::MIN_LIFETIME
    {
        let (value, floor) = (show_duration(min_lifetime), show_duration(PcpSettings::MIN_LIFETIME));
        report.warning(node.at, &Doubt::BelowFloor { key: "min_lifetime", value, floor, rfc: "RFC 6887 section 15" });
    }
    let (from, to) = (from?, to?);
    if let (Some(node), Some(both)) = (section.get("to"), from.as_slice().iter().find(|zone| to.contains(**zone))) {
        let name = scope.zones.names.get(both.index()).map_or("", String::as_str);
        let what = format!("zone {name:?} both in \"from\" and in \"to\" of [pcp]");
        let expected = "zones whose hosts ask in `from`, zones that reach them in `to`";
        report.error(node.at, &Problem::Contradiction { what, expected });
        return None;
    }
    Some(PcpSettings { from, to, source: source?, ports: ports?, min_lifetime, max_lifetime, limit: limit? })
}

/// Zones by name: "any" would have strangers ask.
fn zones(
    section: &Section<'_>,
    key: &'static str,
    enabled: bool,
    scope: &Scope,
    report: &mut Report<'_>,
) -> Option<ZoneSet> {
    let node = section.require(key, "\"ZONE\"", report)?;
    match zone_match(node, enabled, scope, report)? {
        ZoneMatch::Zones(zones) => Some(zones),
        ZoneMatch::Any => {
            let what = format!("\"any\" in {key:?} of [pcp]");
            report.error(node.at, &Problem::Contradiction { what, expected: ZONES });
            None
        }
    }
}
