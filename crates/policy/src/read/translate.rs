//! The addresses that a `[[nat]]` translates to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::addresses::{AddressRange, Text, parse_text};
use super::node::Node;
use super::problem::Problem;
use super::report::Report;
use crate::model::address::{address_key, is_usable_unicast, key_address};
use crate::{AddressSet, Family, Prefix64, PrefixPair, SourceTranslation};

const A_NEW_SOURCE: &str =
    "\"interface\", an address, a range \"198.51.100.7-198.51.100.9\" or a list of addresses and ranges";
const A_NEW_DESTINATION: &str =
    "an address \"10.1.0.80\", one with a port \"10.1.0.80:8443\", \"[fd00::80]:8443\", a prefix or a range";

/// Reads `translate.source`.
pub(super) fn source_translation(
    node: Node<'_>,
    family: Option<Family>,
    report: &mut Report<'_>,
) -> Option<SourceTranslation> {
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
    usable(node, text, "new source", (range.first, range.last), family, report).then_some(range)
}

/// What `translate.destination` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewDestination {
    /// First and last address.
    pub(super) inside: (IpAddr, IpAddr),
    pub(super) port: Option<u16>,
}

/// Reads `translate.destination`.
pub(super) fn new_destination(
    node: Node<'_>,
    family: Option<Family>,
    report: &mut Report<'_>,
) -> Option<NewDestination> {
    let text = node.string_expecting(A_NEW_DESTINATION, report)?.trim();
    let new = match (text.parse::<SocketAddr>(), parse_text(text)) {
        (Ok(endpoint), _) if endpoint.port() > 0 => {
            Some(NewDestination { inside: (endpoint.ip(), endpoint.ip()), port: Some(endpoint.port()) })
        }
        (Err(_), Ok(Text::Range(range) | Text::Prefix { range, exact: None })) => {
            Some(NewDestination { inside: (range.first, range.last), port: None })
        }
        _ => None,
    };
    let Some(new) = new else {
        let expected = A_NEW_DESTINATION.to_owned();
        let problem = Problem::BadValue { what: "new destination", value: text.to_owned(), near: None, expected };
        report.error(node.at, &problem);
        return None;
    };
    usable(node, text, "new destination", new.inside, family, report).then_some(new)
}

/// Whether hosts of the family may have these addresses.
fn usable(
    node: Node<'_>,
    text: &str,
    what: &'static str,
    (first, last): (IpAddr, IpAddr),
    family: Option<Family>,
    report: &mut Report<'_>,
) -> bool {
    if let Some(family) = family.filter(|family| !family.holds(first)) {
        let what = format!("{text:?} is of the other family: this translation is family = {:?}", family.name());
        report.error(
            node.at,
            &Problem::Contradiction {
                what,
                expected: "addresses of its own family; prefix64 = \"64:ff9b::/96\" translates IPv6 to IPv4",
            },
        );
        return false;
    }
    if !is_usable_unicast(first) || !is_usable_unicast(last) {
        let expected = "unicast addresses that a host may have".to_owned();
        report.error(node.at, &Problem::BadValue { what, value: text.to_owned(), near: None, expected });
        return false;
    }
    true
}

/// Reads `translate.prefix`: the first address and the length.
pub(super) fn prefix(node: Node<'_>, report: &mut Report<'_>) -> Option<(Ipv6Addr, u8)> {
    const A_PREFIX: &str = "an IPv6 prefix of at most 64 bits, \"2001:db8:1::/48\", with nothing behind it";
    let text = node.string_expecting(A_PREFIX, report)?.trim();
    let written =
        text.split_once('/').and_then(|(address, length)| Some((address.parse().ok()?, length.parse().ok()?)));
    let prefix =
        written.filter(|(address, length)| PrefixPair::new((*address, *length), (*address, *length)).is_some());
    if prefix.is_none() {
        let expected = A_PREFIX.to_owned();
        report.error(node.at, &Problem::BadValue { what: "prefix", value: text.to_owned(), near: None, expected });
    }
    prefix.filter(|(first, _)| {
        usable(node, text, "prefix", ((*first).into(), (*first).into()), Some(Family::Ipv6), report)
    })
}

/// Reads `prefix64`.
pub(super) fn prefix64(node: Node<'_>, report: &mut Report<'_>) -> Option<Prefix64> {
    const A_PREFIX64: &str = "\"64:ff9b::/96\", or an IPv6 prefix of your own of 32, 40, 48, 56, 64 or 96 bits, with nothing behind it and zeros in bits 64 to 71";
    let text = node.string_expecting(A_PREFIX64, report)?.trim();
    let is_usable = |prefix: &Prefix64| {
        let (first, _) = prefix.parts();
        first.to_ipv4_mapped().is_none() && is_usable_unicast(first.into())
    };
    let prefix = text.parse().ok().filter(is_usable);
    if prefix.is_none() {
        let expected = A_PREFIX64.to_owned();
        report.error(node.at, &Problem::BadValue { what: "prefix64", value: text.to_owned(), near: None, expected });
    }
    prefix
}
