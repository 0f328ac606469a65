//! `[[nat]]`.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use toml::de::DeValue;

use super::cookies;
use super::node::{Choice, Node, Section};
use super::pools;
use super::problem::Problem;
use super::report::Report;
use super::rules::{Placed, Scope, TakenNames, address_set, flag, name, service_set, zone_match};
use super::translate::{self, NewDestination};
use super::values;
use crate::model::address::{address_key, key_address};
use crate::{
    AddressSet, Dependence, DestinationTranslation, Family, NatRule, PrefixPair, ServiceSet, SourceTranslation,
    ZoneMatch,
};

const KEYS: [&str; 15] = [
    "name",
    "from",
    "to",
    "source",
    "destination",
    "service",
    "translate",
    "one_to_one",
    "mapping",
    "filtering",
    "unsolicited",
    "mss_clamp",
    "family",
    "prefix64",
    "syn_cookies",
];
const TRANSLATE_KEYS: [&str; 4] = ["source", "destination", "prefix", "ports"];
const A_TRANSLATION: &str = "translate.source = \"…\" or translate.destination = \"…\"";
const WITH_PREFIX64: &str = "translate.source alone: an IPv6 source becomes that IPv4 address, a destination behind prefix64 the IPv4 address that it stands for";
const AN_EXTERNAL_ADDRESS: &str = "\"198.51.100.1\", the address that clients use";
const WHOLE_PREFIX: &str = "rules that say what may pass: the whole prefix is translated, whatever is sent";
const WHOLE_ADDRESSES: &str = "rules that say what may pass: one_to_one translates all that its addresses send and get";

const DEPENDENCES: [Choice<Dependence>; 3] = [
    ("endpoint-independent", Some(Dependence::EndpointIndependent)),
    ("address-dependent", Some(Dependence::AddressDependent)),
    ("address-and-port-dependent", Some(Dependence::AddressAndPortDependent)),
];
const UNSOLICITED: [Choice<bool>; 2] = [("answer", Some(true)), ("drop", Some(false))];
const FAMILIES: [Choice<Family>; 2] = [("ipv4", Some(Family::Ipv4)), ("ipv6", Some(Family::Ipv6))];

/// What an entry translates, as written.
#[derive(Clone, Copy)]
enum Kind<'d> {
    /// `translate.source` alone.
    Source,
    /// `translate.destination` alone.
    Destination,
    /// Both.
    Both,
    /// `translate.source`, which is this, with `one_to_one`.
    OneToOne(Node<'d>),
    /// `translate.prefix`, which is this.
    Prefix(Node<'d>),
}

/// What an entry is about, where it could be read.
struct Selection {
    family: Option<Family>,
    from: Option<ZoneMatch>,
    source: Option<AddressSet>,
    destination: Option<AddressSet>,
    service: Option<ServiceSet>,
}

/// Reads one translation. `None` if it is disabled or at fault.
pub(crate) fn read(
    table: &Section<'_>,
    scope: &Scope,
    taken: &mut TakenNames,
    report: &mut Report<'_>,
) -> Option<Placed<NatRule>> {
    let mut enabled = table.check_keys(&[&KEYS[..], &pools::KEYS].concat(), report);
    let family = table.get("family").map_or(Some(Family::Ipv4), |node| node.choice("family", &FAMILIES, report));
    let prefix64 = table.get("prefix64").map(|node| translate::prefix64(node, report));
    // What NAT64 translates to is IPv4.
    let family = if prefix64.is_some() { Some(Family::Ipv4) } else { family };
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
        .map_or(Some(Dependence::EndpointIndependent), |node| node.choice("mapping", &DEPENDENCES, report));
    let filtering = table
        .get("filtering")
        .map_or(Some(Dependence::AddressAndPortDependent), |node| node.choice("filtering", &DEPENDENCES, report));
    let mss_clamp = table.get("mss_clamp").map_or(Some(None), |node| values::mss_clamp(node, report));
    let answers_unsolicited =
        table.get("unsolicited").map_or(Some(true), |node| node.choice("treatment", &UNSOLICITED, report));
    let selection = Selection { family, from, source, destination, service };
    let Some(translate) = translate else { return no_translation(table, report) };
    let translate = translate?;
    if prefix64.is_some() && !fits_prefix64(table, &translate, report) {
        return None;
    }
    let pool = pools::read(table, &translate, report);
    let log = flag(table, "log", false, report);
    let (translate_source, translate_destination) = translations(table, &translate, &selection, report)?;
    let pool = pool.filter(|_| pools::overlap_fits(table, translate_source.as_ref(), report));
    let syn_cookies = cookies::read(table.get("syn_cookies"), translate_destination.as_ref(), report);
    let pool = match (pool, &selection.source, family) {
        (Some(pool), Some(source), Some(family)) => {
            pools::deterministic(table, pool, source, family, translate_source.as_ref(), report)
        }
        _ => None,
    };

    if !enabled {
        return None;
    }
    let nat = NatRule {
        name: name?,
        from: selection.from?,
        to: to?,
        source: selection.source?,
        destination: selection.destination?,
        service: selection.service?,
        translate_source,
        translate_destination,
        mapping: mapping?,
        filtering: filtering?,
        answers_unsolicited: answers_unsolicited?,
        pool: pool?,
        log: log?,
        mss_clamp: mss_clamp?,
        syn_cookies: syn_cookies?,
        family: if prefix64.is_some() { Family::Ipv6 } else { family? },
        prefix64: transpose(prefix64)?,
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

type Translations = (Option<SourceTranslation>, Option<DestinationTranslation>);

/// Both halves of an entry. `None` after a fault, or when what they need was at fault or not looked up.
fn translations(
    table: &Section<'_>,
    translate: &Section<'_>,
    selection: &Selection,
    report: &mut Report<'_>,
) -> Option<Translations> {
    let kind = kind(table, translate, report)?;
    let fits = fits(table, translate, kind, report);
    let new_source = translate.get("source").map(|node| translate::source_translation(node, selection.family, report));
    let new_destination =
        translate.get("destination").map(|node| translate::new_destination(node, selection.family, report));
    let port = match (translate.get("destination"), new_destination, &selection.service) {
        (Some(node), Some(Some(new)), Some(service)) => port_fits(node, new, service, report),
        _ => true,
    };
    let (new_source, new_destination) = (transpose(new_source)?, transpose(new_destination)?);
    if !fits || !port {
        return None;
    }
    match (kind, new_source, new_destination) {
        (Kind::OneToOne(node), Some(external), _) => one_to_one(table, node, &external, selection, report),
        (Kind::Prefix(node), ..) => prefix(table, node, selection, report),
        (_, new_source, None) => Some((new_source, None)),
        (_, new_source, Some(new)) => {
            let family = selection.family?;
            let translation = DestinationTranslation {
                family,
                from: selection.from.clone()?,
                source: selection.source.clone()?,
                external: selection.destination.as_ref()?.of_family(family),
                service: selection.service.clone()?,
                inside: new.inside,
                port: new.port,
                prefix: None,
            };
            Some((new_source, Some(translation)))
        }
    }
}

/// Absent is fine, unreadable is not.
fn transpose<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    read.map_or(Some(None), |value| value.map(Some))
}

fn kind<'d>(table: &Section<'_>, translate: &Section<'d>, report: &mut Report<'_>) -> Option<Kind<'d>> {
    let one_to_one = table.get("one_to_one").map_or(Some(false), |node| node.boolean(report));
    if let Some(node) = translate.get("prefix") {
        let others = [translate.get("source"), translate.get("destination"), table.get("one_to_one")];
        let Some(other) = others.into_iter().flatten().next() else { return Some(Kind::Prefix(node)) };
        let what = format!("{:?} beside translate.prefix, which is both ways by itself", other.key);
        report.error(other.at, &Problem::Contradiction { what, expected: "translate.prefix alone" });
        return None;
    }
    match (translate.get("source"), translate.get("destination"), one_to_one?) {
        (None, None, _) => no_translation(table, report),
        (Some(node), None, true) => Some(Kind::OneToOne(node)),
        (_, Some(node), true) => {
            let what = "\"one_to_one\" beside translate.destination, which it says already".to_owned();
            report.error(node.at, &Problem::Contradiction { what, expected: "translate.source alone" });
            None
        }
        (Some(_), None, false) => Some(Kind::Source),
        (Some(_), Some(_), false) => Some(Kind::Both),
        (None, Some(_), false) => Some(Kind::Destination),
    }
}

/// Keys that mean nothing for a kind of entry, and what is expected in their place.
fn meaningless(kind: Kind<'_>) -> Vec<(&'static str, &'static str)> {
    const FOLLOWS: &str =
        "\"destination\" to say which packets it is about: where they go follows from the translation";
    const SOURCES: &str = "it only beside translate.source";
    const SOURCE_ALONE: &str = "it in an entry with translate.source alone";
    let all = |keys: &[&'static str], expected| keys.iter().map(|key| (*key, expected)).collect::<Vec<_>>();
    match kind {
        Kind::Source => Vec::new(),
        Kind::Destination => {
            let sources = [&["mapping", "filtering", "unsolicited"], &pools::KEYS[..]].concat();
            [vec![("to", FOLLOWS)], all(&sources, SOURCES)].concat()
        }
        Kind::Both => all(&["filtering", "allocation", "block"], SOURCE_ALONE),
        Kind::OneToOne(_) | Kind::Prefix(_) => {
            let ports = [&["destination", "service", "mapping", "filtering", "unsolicited"], &pools::KEYS[..]].concat();
            all(&ports, if matches!(kind, Kind::Prefix(_)) { WHOLE_PREFIX } else { WHOLE_ADDRESSES })
        }
    }
}

/// Reports keys that mean nothing, and lacks, for this kind of entry.
fn fits(table: &Section<'_>, translate: &Section<'_>, kind: Kind<'_>, report: &mut Report<'_>) -> bool {
    let beside = match kind {
        Kind::Source => return true,
        Kind::Destination => "translate.destination alone",
        Kind::Both => "translate.destination",
        Kind::OneToOne(_) => "one_to_one",
        Kind::Prefix(_) => "translate.prefix",
    };
    let mut fits = true;
    let ports = translate.get("ports").filter(|_| !matches!(kind, Kind::Both));
    let named = meaningless(kind).into_iter().filter_map(|(key, expected)| Some((table.get(key)?, expected)));
    for (node, expected) in named.chain(ports.map(|node| (node, "it only beside translate.source"))) {
        let what = format!("{:?} beside {beside}", node.key);
        report.error(node.at, &Problem::Contradiction { what, expected });
        fits = false;
    }
    let (key, expected) = match kind {
        Kind::OneToOne(_) => ("source", "\"10.1.0.16/28\", as many addresses as translate.source has"),
        Kind::Prefix(_) => ("source", "\"fd00:1:2::/48\", one prefix of at most 64 bits"),
        _ => ("destination", AN_EXTERNAL_ADDRESS),
    };
    if table.get(key).is_none() {
        let place = match kind {
            Kind::OneToOne(_) => "a one_to_one translation",
            Kind::Prefix(_) => "a translation of prefixes",
            _ => "a translation of destinations",
        };
        report.error(table.at, &Problem::MissingKey { key, place, expected });
        fits = false;
    }
    fits
}

/// Reports what means nothing beside `prefix64`.
fn fits_prefix64(table: &Section<'_>, translate: &Section<'_>, report: &mut Report<'_>) -> bool {
    const NO_FAMILY: &str = "none: its sources are IPv6, what they become is IPv4";
    const BY_PORTS: &str =
        "allocation = \"ports\" or \"blocks\": there are too many IPv6 sources for ports that follow from them";
    const NOTHING_IN_COMMON: &str = "none: IPv6 and IPv4 networks have no addresses in common";
    let deterministic = |node: &Node<'_>| matches!(node.value, DeValue::String(word) if word == "deterministic");
    let beside = [
        (table.get("family"), NO_FAMILY),
        (table.get("one_to_one"), WITH_PREFIX64),
        (translate.get("destination"), WITH_PREFIX64),
        (translate.get("prefix"), WITH_PREFIX64),
        (table.get("allocation").filter(deterministic), BY_PORTS),
        (table.get("overlap"), NOTHING_IN_COMMON),
    ];
    let mut fits = true;
    for (node, expected) in beside.into_iter().filter_map(|(node, expected)| Some((node?, expected))) {
        let what = format!("{:?} beside \"prefix64\"", node.key);
        report.error(node.at, &Problem::Contradiction { what, expected });
        fits = false;
    }
    if translate.get("source").is_none() && fits {
        let place = "a translation with prefix64";
        report.error(table.at, &Problem::MissingKey { key: "translate.source", place, expected: "\"interface\"" });
        fits = false;
    }
    fits
}

/// A new port means something only where all that is translated has ports.
fn port_fits(node: Node<'_>, new: NewDestination, service: &ServiceSet, report: &mut Report<'_>) -> bool {
    let fits = new.port.is_none() || service.only_has_ports();
    if !fits {
        let what = "a new port, but not all of \"service\" has ports".to_owned();
        let expected = "a \"service\" of TCP and UDP alone, such as \"tcp/443\", or the new address without a port";
        report.error(node.at, &Problem::Contradiction { what, expected });
    }
    fits
}

/// Source and external addresses, place by place, in both directions.
fn one_to_one(
    table: &Section<'_>,
    node: Node<'_>,
    external: &SourceTranslation,
    selection: &Selection,
    report: &mut Report<'_>,
) -> Option<Translations> {
    const ONE_RANGE: &str = "one address, prefix or range";
    let SourceTranslation::Ranges(ranges) = external else {
        let what = "\"one_to_one\" to the address of an interface".to_owned();
        report.error(node.at, &Problem::Contradiction { what, expected: ONE_RANGE });
        return None;
    };
    let family = selection.family?;
    let inside = selection.source.as_ref()?.of_family(family);
    let mut single = true;
    if let (Some(at), false) = (table.get("source"), inside.ranges().len() == 1) {
        let what = "\"one_to_one\" from more, or less, than one range of its family".to_owned();
        report.error(at.at, &Problem::Contradiction { what, expected: ONE_RANGE });
        single = false;
    }
    let [(first, last)] = ranges[..] else {
        let what = "\"one_to_one\" to several ranges".to_owned();
        report.error(node.at, &Problem::Contradiction { what, expected: ONE_RANGE });
        return None;
    };
    let (&(inside_first, inside_last), true) = (inside.ranges().first()?, single) else { return None };
    let sizes =
        [(inside_first, inside_last), (address_key(first), address_key(last))].map(|(first, last)| last - first);
    if sizes[0] != sizes[1] {
        let [inside, external] = sizes.map(|beyond| beyond.saturating_add(1));
        let what = format!("{inside} source addresses and {external} to translate them to");
        report.error(node.at, &Problem::Contradiction { what, expected: "as many of one as of the other" });
        return None;
    }
    let inside: (IpAddr, IpAddr) = (key_address(inside_first), key_address(inside_last));
    let back = DestinationTranslation {
        family,
        from: ZoneMatch::Any,
        source: AddressSet::any(),
        external: AddressSet::of_keys(vec![(address_key(first), address_key(last))]),
        service: ServiceSet::any(),
        inside,
        port: None,
        prefix: None,
    };
    Some((Some(SourceTranslation::OneToOne { inside, external: (first, last) }), Some(back)))
}

/// A prefix for another, in both directions (RFC 6296).
fn prefix(table: &Section<'_>, node: Node<'_>, selection: &Selection, report: &mut Report<'_>) -> Option<Translations> {
    const FAMILY: &str = "family = \"ipv6\"; IPv4 has one_to_one";
    if selection.family? != Family::Ipv6 {
        let what = "translate.prefix without family = \"ipv6\"".to_owned();
        report.error(node.at, &Problem::Contradiction { what, expected: FAMILY });
        return None;
    }
    let external = translate::prefix(node, report)?;
    let source = selection.source.as_ref()?.of_family(Family::Ipv6);
    let inside = match source.ranges() {
        [(first, last)] if (last - first) & (last - first).wrapping_add(1) == 0 => {
            Some((*first, (last - first).leading_zeros()))
        }
        _ => None,
    };
    let pair = inside.and_then(|(first, length)| {
        PrefixPair::new((Ipv6Addr::from_bits(first), u8::try_from(length).ok()?), external)
    });
    let Some(pair) = pair else {
        let at = table.get("source").map_or(table.at, |node| node.at);
        let what = "\"source\" is not one prefix of at most 64 bits".to_owned();
        report.error(at, &Problem::Contradiction { what, expected: "\"fd00:1:2::/48\"" });
        return None;
    };
    let (first, last) = pair.external_range();
    let back = DestinationTranslation {
        family: Family::Ipv6,
        from: ZoneMatch::Any,
        source: AddressSet::any(),
        external: AddressSet::of_keys(vec![(address_key(first.into()), address_key(last.into()))]),
        service: ServiceSet::any(),
        inside: pair.inside_range(),
        port: None,
        prefix: Some(pair),
    };
    Some((Some(SourceTranslation::Prefix(pair)), Some(back)))
}
