//! `[[nat]]`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::addresses::{AddressRange, Text, parse_text};
use super::node::{Choice, Node, Section};
use super::problem::Problem;
use super::report::Report;
use super::rules::{Placed, Scope, TakenNames, address_set, name, service_set, zone_match};
use crate::model::address::{address_key, is_usable_unicast, key_address};
use crate::{AddressSet, Dependence, Family, NatRule, SourceTranslation, ZoneMatch};

const KEYS: [&str; 10] =
    ["name", "from", "to", "source", "destination", "service", "translate", "mapping", "filtering", "family"];
const TRANSLATE_KEYS: [&str; 2] = ["source", "destination"];
const A_TRANSLATION: &str = "translate.source = \"…\" or translate.destination = \"…\"";
const A_NEW_SOURCE: &str =
    "\"interface\", an address, a range \"198.51.100.7-198.51.100.9\" or a list of addresses and ranges";
const A_NEW_DESTINATION: &str = "an address \"10.1.0.80\", one with a port \"10.1.0.80:8443\", or a range";

const MAPPINGS: [Choice<Dependence>; 3] = [
    ("endpoint-independent", Some(Dependence::EndpointIndependent)),
    ("address-dependent", None),
    ("address-and-port-dependent", None),
];
const FILTERINGS: [Choice<Dependence>; 3] = [
    ("endpoint-independent", Some(Dependence::EndpointIndependent)),
    ("address-dependent", Some(Dependence::AddressDependent)),
    ("address-and-port-dependent", Some(Dependence::AddressAndPortDependent)),
];
const FAMILIES: [Choice<Family>; 2] = [("ipv4", Some(Family::Ipv4)), ("ipv6", Some(Family::Ipv6))];

/// Reads one translation. `None` if it is disabled or at fault.
pub(crate) fn read(
    table: &Section<'_>,
    scope: &Scope,
    taken: &mut TakenNames,
    report: &mut Report<'_>,
) -> Option<Placed<NatRule>> {
    let mut enabled = table.check_keys(&KEYS, report);
    let family = table.get("family").map_or(Some(Family::Ipv4), |node| node.choice("family", &FAMILIES, report));
    let translate = table.get("translate").map(|node| node.section("\"translate\"", A_TRANSLATION, report));
    if let Some(Some(translate)) = &translate {
        enabled &= translate.check_keys(&TRANSLATE_KEYS, report);
    }

    let name = name(table, "translation", enabled, taken, report);
    let from = table.get("from").map_or(Some(ZoneMatch::Any), |node| zone_match(node, enabled, scope, report));
    let to = table.get("to").map_or(Some(ZoneMatch::Any), |node| zone_match(node, enabled, scope, report));
    let source = address_set(table, "source", enabled, scope, report);
    let destination = address_set(table, "destination", enabled, scope, report);
    let service = service_set(table, enabled, scope, report);
    let mapping = table
        .get("mapping")
        .map_or(Some(Dependence::EndpointIndependent), |node| node.choice("mapping", &MAPPINGS, report));
    let filtering = table
        .get("filtering")
        .map_or(Some(Dependence::AddressAndPortDependent), |node| node.choice("filtering", &FILTERINGS, report));
    let translate_source = match translate {
        Some(section) => new_source(table, &section?, family, report),
        None => no_translation(table, report),
    };

    if !enabled {
        return None;
    }
    let nat = NatRule {
        name: name?,
        from: from?,
        to: to?,
        source: source?,
        destination: destination?,
        service: service?,
        translate_source: translate_source?,
        mapping: mapping?,
        filtering: filtering?,
        family: family?,
        file: Arc::from(report.file_name(table.at.file)),
        line: report.line(table.at),
    };
    Some(Placed { at: table.at, what: nat })
}

fn no_translation<T>(table: &Section<'_>, report: &mut Report<'_>) -> Option<T> {
    report.error(
        table.at,
        &Problem::MissingKey { key: "translate", place: "a translation", expected: "{ source = \"…\" }" },
    );
    None
}

/// Both keys of `translate`.
fn new_source(
    table: &Section<'_>,
    translate: &Section<'_>,
    family: Option<Family>,
    report: &mut Report<'_>,
) -> Option<Option<SourceTranslation>> {
    let source = translate.get("source");
    let destination = translate.get("destination");
    if let Some(node) = destination {
        refuse_destination(node, report);
    }
    match source {
        Some(node) => source_translation(node, family, report).map(Some),
        None if destination.is_some() => None,
        None => no_translation(table, report),
    }
}

fn source_translation(node: Node<'_>, family: Option<Family>, report: &mut Report<'_>) -> Option<SourceTranslation> {
    let nodes = node.at_least_one(A_NEW_SOURCE, report);
    let mut ranges = Vec::with_capacity(nodes.len());
    for item in &nodes {
        let text = item.string_expecting(A_NEW_SOURCE, report).map(str::trim);
        match text {
            Some("interface") if nodes.len() == 1 => return Some(SourceTranslation::Interface),
            Some("interface") => {
                let what = "\"interface\" beside an address".to_owned();
                report.error(item.at, &Problem::Contradiction { what, expected: A_NEW_SOURCE });
                ranges.push(None);
            }
            Some(text) => ranges.push(new_source_range(*item, text, family, report)),
            None => ranges.push(None),
        }
    }
    let ranges: Vec<AddressRange> = ranges.into_iter().collect::<Option<_>>()?;
    if ranges.is_empty() {
        return None;
    }
    // Overlaps would let two mappings lease the same port.
    let keys = ranges.iter().map(|range| (address_key(range.first), address_key(range.last))).collect();
    let merged = AddressSet::of_keys(keys);
    let addresses = merged.ranges().iter().map(|(first, last)| (key_address(*first), key_address(*last)));
    Some(SourceTranslation::Ranges(addresses.collect()))
}

fn new_source_range(
    node: Node<'_>,
    text: &str,
    family: Option<Family>,
    report: &mut Report<'_>,
) -> Option<AddressRange> {
    let (Ok(Text::Range(range)) | Ok(Text::Prefix { range, exact: None })) = parse_text(text) else {
        let problem = Problem::BadValue {
            what: "new source",
            value: text.to_owned(),
            near: None,
            expected: A_NEW_SOURCE.to_owned(),
        };
        report.error(node.at, &problem);
        return None;
    };
    if let Some(family) = family.filter(|family| !family.holds(range.first)) {
        let what = format!("{text:?} is of the other family: this translation is family = {:?}", family.name());
        report.error(node.at, &Problem::Contradiction { what, expected: "addresses of its own family" });
        return None;
    }
    if !is_usable_unicast(range.first) || !is_usable_unicast(range.last) {
        let expected = "unicast addresses that a host may have".to_owned();
        report.error(node.at, &Problem::BadValue { what: "new source", value: text.to_owned(), near: None, expected });
        return None;
    }
    Some(range)
}

/// Destination translation is checked like everything else, and refused.
fn refuse_destination(node: Node<'_>, report: &mut Report<'_>) {
    let nodes = node.at_least_one(A_NEW_DESTINATION, report);
    let mut is_good = !nodes.is_empty();
    for item in &nodes {
        let Some(text) = item.string_expecting(A_NEW_DESTINATION, report) else {
            is_good = false;
            continue;
        };
        if !is_new_destination(text.trim()) {
            let expected = A_NEW_DESTINATION.to_owned();
            let problem = Problem::BadValue { what: "new destination", value: text.to_owned(), near: None, expected };
            report.error(item.at, &problem);
            is_good = false;
        }
    }
    if is_good {
        let what = "translate.destination".to_owned();
        report.error(node.at, &Problem::NotSupported { what, expected: Some("translate.source".to_owned()) });
    }
}

fn is_new_destination(text: &str) -> bool {
    let is_usable = |address: IpAddr| is_usable_unicast(address);
    match text.parse::<SocketAddr>() {
        Ok(endpoint) => endpoint.port() > 0 && is_usable(endpoint.ip()),
        Err(_) => matches!(parse_text(text), Ok(Text::Range(range)) if is_usable(range.first) && is_usable(range.last)),
    }
}
