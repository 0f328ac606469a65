//! What a policy without faults may still have got wrong.

use super::problem::{Doubt, Problem};
use super::report::{At, Report};
use super::rules::Placed;
use crate::{
    Action, AddressSet, Allocation, Destination, Family, NatRule, PcpSettings, Rule, RuleTarget, ServiceSet,
    SourceTranslation, ZoneId, ZoneMatch,
};

/// Warns of rules and translations that match nothing or are never reached.
pub(crate) fn reach(rules: &[Placed<Rule>], nats: &[Placed<NatRule>], zone_count: usize, report: &mut Report<'_>) {
    let crosses = nats.iter().any(|nat| nat.what.prefix64.is_some());
    for (index, rule) in rules.iter().enumerate() {
        let Rule { name, source, destination, service, .. } = &rule.what;
        // Rules see a source before and a destination after translation: with NAT64 of two families.
        let crosses = crosses && source.has_ipv6() && destination.has_ipv4();
        if let Some(why) = nothing_matches(source, destination, service, crosses) {
            report.warning(rule.at, &Doubt::MatchesNothing { kind: "rule", name: name.clone(), why });
        } else if let Some(by) = rules[..index].iter().find(|by| hides_rule(&by.what, &rule.what, zone_count)) {
            let place = report.place(by.at, rule.at.file);
            let (name, by) = (name.clone(), by.what.name.clone());
            report.warning(rule.at, &Doubt::Unreachable { kind: "rule", name, by, place });
        }
    }
    for (index, nat) in nats.iter().enumerate() {
        let NatRule { name, source, destination, service, family, prefix64, .. } = &nat.what;
        let crosses = prefix64.is_some() && source.has_ipv6() && destination.has_ipv4();
        let why = nothing_matches(source, destination, service, crosses).or_else(|| match prefix64 {
            Some(_) => (!crosses).then_some("it has no IPv6 sources, or no IPv4 destinations"),
            None => nothing_of_family(*family, source, destination),
        });
        if let Some(why) = why {
            report.warning(nat.at, &Doubt::MatchesNothing { kind: "translation", name: name.clone(), why });
        } else if let Some(by) = nats[..index].iter().find(|by| hides_nat(&by.what, &nat.what, zone_count)) {
            let place = report.place(by.at, nat.at.file);
            let (name, by) = (name.clone(), by.what.name.clone());
            report.warning(nat.at, &Doubt::Unreachable { kind: "translation", name, by, place });
        }
    }
}

/// Refuses external addresses that one translation gives out by blocks or by the inside address, and another one gives
/// out as well: their ports would not have the owner that follows, or that is logged.
pub(crate) fn shared_pools(nats: &[Placed<NatRule>], report: &mut Report<'_>) {
    const OF_ITS_OWN: &str = "external addresses that no other translation gives out";
    let ranges = |nat: &NatRule| match &nat.translate_source {
        Some(SourceTranslation::Ranges(ranges)) => ranges.clone(),
        Some(SourceTranslation::OneToOne { external, .. }) => vec![*external],
        Some(SourceTranslation::Prefix(pair)) => {
            let (first, last) = pair.external_range();
            vec![(first.into(), last.into())]
        }
        Some(SourceTranslation::Interface) | None => Vec::new(),
    };
    let carried = |nat: &NatRule| nat.pool.allocation != Allocation::Ports;
    for (index, nat) in nats.iter().enumerate() {
        let own = ranges(&nat.what);
        let meets = |other: &&Placed<NatRule>| {
            let others = ranges(&other.what);
            (carried(&nat.what) || carried(&other.what))
                && own.iter().any(|own| others.iter().any(|other| own.0 <= other.1 && other.0 <= own.1))
        };
        if let Some(other) = nats[..index].iter().find(meets) {
            let what = format!("translation {:?} gives out external addresses of {:?}", nat.what.name, other.what.name);
            report.error(nat.at, &Problem::Contradiction { what, expected: OF_ITS_OWN });
        }
    }
}

/// Warns of zones from which rules with `to = "self"` shut out SSH.
pub(crate) fn ssh(rules: &[Placed<Rule>], zones: &[String], report: &mut Report<'_>) {
    let to_self: Vec<_> = rules.iter().filter(|rule| rule.what.to == RuleTarget::SelfBox).collect();
    let mut told = vec![false; zones.len()];
    for rule in &to_self {
        let closed: Vec<String> = (0_u16..)
            .map(ZoneId)
            .zip(zones)
            .filter(|(zone, _)| rule.what.from.contains(*zone))
            .filter(|(zone, _)| !std::mem::replace(&mut told[zone.index()], true))
            .filter(|(zone, _)| !ssh_is_open(*zone, &to_self))
            .map(|(_, name)| format!("{name:?}"))
            .collect();
        if !closed.is_empty() {
            report.warning(rule.at, &Doubt::SshClosed { zones: closed.join(", ") });
        }
    }
}

/// Warns if one rule forbids all that hosts may ask for, as a last one that drops everything does.
pub(crate) fn asking(rules: &[Placed<Rule>], settings: &PcpSettings, at: At, report: &mut Report<'_>) {
    let from = ZoneMatch::Zones(settings.to.clone());
    let covers = |rule: &&Placed<Rule>| {
        let Rule { service, source, destination, .. } = &rule.what;
        let inside = settings.from.as_slice().iter().all(|zone| rule.what.to.contains(Destination::Zone(*zone)));
        let services = service.ports(crate::TCP).is_any() && service.ports(crate::UDP).is_any();
        let from_any = source.is_any() && rule.what.source_port.is_any();
        // No number of zones: one that is "any" covers them whatever it is.
        inside && services && from_any && destination.covers(&settings.source) && rule.what.from.covers(&from, 0)
    };
    if let Some(rule) = rules.iter().find(covers).filter(|rule| rule.what.action != Action::Allow) {
        let place = report.place(rule.at, at.file);
        report.warning(at, &Doubt::NothingToAskFor { rule: rule.what.name.clone(), place });
    }
}

/// Whether some SSH connection from the zone is allowed before all are refused.
fn ssh_is_open(zone: ZoneId, to_self: &[&Placed<Rule>]) -> bool {
    let ssh = ServiceSet::tcp_port(22);
    for Placed { what: rule, .. } in to_self.iter().filter(|rule| rule.what.from.contains(zone)) {
        if rule.action == Action::Allow {
            let some_source_port = rule.source_port.ranges().first().map(|(first, _)| *first);
            let is_ssh = some_source_port.is_some_and(|port| rule.service.matches(crate::TCP, port, 22, 0));
            if is_ssh && !rule.source.is_empty() && !rule.destination.is_empty() {
                return true;
            }
        } else if rule.source.is_any() && rule.destination.is_any() && rule.service.covers(&ssh) {
            return false;
        }
    }
    false
}

/// Whether no connection can get past `by` to `rule`. What a rule's limit refuses is dropped by that rule.
fn hides_rule(by: &Rule, rule: &Rule, zone_count: usize) -> bool {
    by.from.covers(&rule.from, zone_count)
        && by.to.covers(&rule.to, zone_count)
        && by.service.covers(&rule.service)
        && by.source.covers(&rule.source)
        && by.destination.covers(&rule.destination)
}

/// Whether no connection can get past `by` to either half of `nat`.
fn hides_nat(by: &NatRule, nat: &NatRule, zone_count: usize) -> bool {
    hides_source(by, nat, zone_count) && hides_destination(by, nat, zone_count)
}

fn hides_source(by: &NatRule, nat: &NatRule, zone_count: usize) -> bool {
    if nat.translate_source.is_none() || nat.is_twofold() {
        // Nothing to hide, or nothing that goes without the other half.
        return true;
    }
    let zones = |by: &ZoneMatch, nat: &ZoneMatch| by.covers(nat, zone_count);
    by.translate_source.is_some()
        && !by.is_twofold()
        && by.family == nat.family
        && by.prefix64 == nat.prefix64
        && zones(&by.from, &nat.from)
        && zones(&by.to, &nat.to)
        && by.service.covers(&nat.service)
        && by.source.covers(&nat.source)
        && by.destination.covers(&nat.destination)
}

fn hides_destination(by: &NatRule, nat: &NatRule, zone_count: usize) -> bool {
    let Some(nat) = &nat.translate_destination else { return true };
    by.translate_destination.as_ref().is_some_and(|by| {
        by.family == nat.family
            && by.from.covers(&nat.from, zone_count)
            && by.service.covers(&nat.service)
            && by.source.covers(&nat.source)
            && by.external.covers(&nat.external)
    })
}

/// `crosses`: it may be about IPv6 sources and IPv4 destinations.
fn nothing_matches(
    source: &AddressSet,
    destination: &AddressSet,
    service: &ServiceSet,
    crosses: bool,
) -> Option<&'static str> {
    if source.is_empty() {
        Some("its source is empty")
    } else if destination.is_empty() {
        Some("its destination is empty")
    } else if service.is_empty() {
        Some("its service is empty")
    } else if !crosses
        && [Family::Ipv4, Family::Ipv6].iter().all(|family| nothing_of_family(*family, source, destination).is_some())
    {
        Some("its source and its destination are of different families")
    } else {
        None
    }
}

fn nothing_of_family(family: Family, source: &AddressSet, destination: &AddressSet) -> Option<&'static str> {
    let is_empty = |set: &AddressSet| match family {
        Family::Ipv4 => !set.has_ipv4(),
        Family::Ipv6 => !set.has_ipv6(),
    };
    (is_empty(source) || is_empty(destination)).then_some("it has no addresses of its family")
}
