//! `[[rule]]`.

use std::collections::HashMap;
use std::sync::Arc;

use super::interfaces::Zones;
use super::names::{Entry, NamedSet, Names};
use super::node::{Choice, Node, Section};
use super::problem::Problem;
use super::report::{At, Report};
use super::{addresses, services, values};
use crate::{
    Action, AddressSet, Helper, PortSet, Rule, RuleTarget, ServiceSet, TCP, TableSettings, ZoneMatch, ZoneSet,
};

const KEYS: [&str; 16] = [
    "name",
    "from",
    "to",
    "source",
    "destination",
    "service",
    "source_port",
    "action",
    "log",
    "limit",
    "source_limit",
    "source_connections",
    "accelerate",
    "take_up",
    "mss_clamp",
    "helper",
];
const ACTIONS: [Choice<Action>; 3] =
    [("allow", Some(Action::Allow)), ("drop", Some(Action::Drop)), ("reject", Some(Action::Reject))];
const HELPERS: [Choice<Helper>; 3] =
    [("ftp", Some(Helper::Ftp)), ("tftp", Some(Helper::Tftp)), ("sip", Some(Helper::Sip))];
const A_ZONE: &str = "a zone, a list of zones or \"any\"";

/// What names in rules and translations stand for.
pub(crate) struct Scope {
    pub(crate) zones: Zones,
    pub(crate) addresses: Names<AddressSet>,
    pub(crate) services: Names<ServiceSet>,
}

/// A rule and where it begins.
pub(crate) struct Placed<T> {
    pub(crate) at: At,
    pub(crate) what: T,
}

/// Names of one kind, with their first places.
#[derive(Default)]
pub(crate) struct TakenNames(HashMap<String, At>);

impl TakenNames {
    pub(crate) fn take(&mut self, kind: &'static str, name: &str, at: At, report: &mut Report<'_>) {
        if let Some(first) = self.0.get(name) {
            let first = report.place(*first, at.file);
            report.error(at, &Problem::Duplicate { kind, name: name.to_owned(), first });
        } else {
            self.0.insert(name.to_owned(), at);
        }
    }
}

/// The tables of a `[[rule]]` or a `[[nat]]`, in the order of the file.
pub(crate) fn tables<'d>(
    node: Node<'d>,
    place: &'static str,
    expected: &str,
    report: &mut Report<'_>,
) -> Vec<Section<'d>> {
    if !matches!(node.value, toml::de::DeValue::Array(_)) {
        node.wrong_type::<()>(expected, report);
        return Vec::new();
    }
    node.one_or_many().into_iter().filter_map(|item| item.section(place, expected, report)).collect()
}

/// Reads one rule. `None` if it is disabled or at fault.
pub(crate) fn read(
    table: &Section<'_>,
    scope: &Scope,
    taken: &mut TakenNames,
    report: &mut Report<'_>,
) -> Option<Placed<Rule>> {
    let enabled = table.check_keys(&KEYS, report);
    let name = name(table, "rule", enabled, taken, report);
    let from = table.get("from").map_or(Some(ZoneMatch::Any), |node| zone_match(node, enabled, scope, report));
    let to = table.get("to").map_or(Some(RuleTarget::Any), |node| target(node, enabled, scope, report));
    let source = address_set(table, "source", enabled, scope, report);
    let destination = address_set(table, "destination", enabled, scope, report);
    let service = service_set(table, enabled, scope, report);
    let source_port = table.get("source_port").map_or(Some(PortSet::any()), |node| services::port_list(node, report));
    let action = table
        .require("action", "\"allow\", \"drop\" or \"reject\"", report)
        .and_then(|node| node.choice("action", &ACTIONS, report));
    let log = flag(table, "log", false, report);
    let limit = table.get("limit").map_or(Some(None), |node| values::rate(node, report).map(Some));
    let source_limit = table.get("source_limit").map_or(Some(None), |node| values::rate(node, report).map(Some));
    let source_connections = table.get("source_connections").map_or(Some(None), |node| {
        values::number("source_connections", 1..=TableSettings::MAX_CONNECTIONS, node, report).map(Some)
    });
    let accelerate = flag(table, "accelerate", true, report);
    let take_up = flag(table, "take_up", false, report);
    let mss_clamp = table.get("mss_clamp").map_or(Some(None), |node| values::mss_clamp(node, report));
    let helper = table.get("helper").map_or(Some(None), |node| node.choice("helper", &HELPERS, report).map(Some));

    if let (Some(service), Some(ports), Some(node)) = (&service, &source_port, table.get("source_port"))
        && enabled
        && !ports.is_any()
        && !service.has_ports()
    {
        let what = "\"source_port\" beside a service that has no ports".to_owned();
        report.error(node.at, &Problem::Contradiction { what, expected: "a service of TCP or UDP" });
        return None;
    }
    if to == Some(RuleTarget::SelfBox) {
        for key in ["log", "limit", "source_limit", "source_connections"] {
            if let Some(node) = table.get(key) {
                let what = format!("{key:?} of a rule with to = \"self\"");
                report.error(node.at, &Problem::NotSupported { what, expected: None });
            }
        }
    }
    if let (Some(node), Some(true)) = (table.get("take_up"), take_up)
        && (to == Some(RuleTarget::SelfBox) || action.is_some_and(|action| action != Action::Allow))
    {
        let what = "\"take_up\" of a rule that forwards nothing".to_owned();
        report.error(node.at, &Problem::Contradiction { what, expected: "action = \"allow\", and not to = \"self\"" });
        return None;
    }
    if let (Some(node), Some(Some(_))) = (table.get("mss_clamp"), mss_clamp)
        && (to == Some(RuleTarget::SelfBox) || action.is_some_and(|action| action != Action::Allow))
    {
        let what = "\"mss_clamp\" of a rule that forwards nothing".to_owned();
        report.error(node.at, &Problem::Contradiction { what, expected: "it in a rule that allows what is forwarded" });
    }
    if let (Some(node), Some(Some(helper))) = (table.get("helper"), helper) {
        let forwards = to != Some(RuleTarget::SelfBox) && action.is_none_or(|action| action == Action::Allow);
        check_helper(node, helper, forwards, service.as_ref().filter(|_| enabled), report)?;
    }
    if !enabled {
        return None;
    }
    let source_port = source_port?;
    let rule = Rule {
        name: name?,
        from: from?,
        to: to?,
        source: source?,
        destination: destination?,
        service: service?.with_source_ports(source_port.clone()),
        source_port,
        action: action?,
        log: log?,
        limit: limit?,
        source_limit: source_limit?,
        source_connections: source_connections?,
        accelerate: accelerate?,
        take_up: take_up?,
        mss_clamp: mss_clamp?,
        helper: helper?,
        file: Arc::from(report.file_name(table.at.file)),
        line: report.line(table.at),
    };
    Some(Placed { at: table.at, what: rule })
}

/// A helper keeps all connections of its rule on the `user` path and reads what they say, so the rule has to be about
/// services that speak its protocol.
fn check_helper(
    node: Node<'_>,
    helper: Helper,
    forwards: bool,
    service: Option<&ServiceSet>,
    report: &mut Report<'_>,
) -> Option<()> {
    let (what, expected) = if !forwards {
        let what = "\"helper\" of a rule that forwards nothing".to_owned();
        (what, "action = \"allow\", and not to = \"self\"")
    } else if service.is_some_and(|service| !service.names_ports_of(helper.protocol())) {
        let transport = if helper.protocol() == TCP { "TCP" } else { "UDP" };
        let what = format!("helper = {:?} of a rule that is not for ports of {transport} alone", helper.name());
        let expected = match helper {
            Helper::Ftp => "a service such as \"tcp/21\"",
            Helper::Tftp => "a service such as \"udp/69\"",
            Helper::Sip => "a service such as \"udp/5060\"",
        };
        (what, expected)
    } else {
        return Some(());
    };
    report.error(node.at, &Problem::Contradiction { what, expected });
    None
}

/// A name that no other enabled table of its kind has.
pub(crate) fn name(
    table: &Section<'_>,
    kind: &'static str,
    enabled: bool,
    taken: &mut TakenNames,
    report: &mut Report<'_>,
) -> Option<String> {
    let node = table.require("name", "\"…\"", report)?;
    let name = node.string(report)?;
    if name.trim().is_empty() || name.contains(char::is_control) {
        let expected = "a name that people can read".to_owned();
        report.error(node.at, &Problem::BadValue { what: "name", value: name.to_owned(), near: None, expected });
        return None;
    }
    if enabled {
        taken.take(kind, name, node.at, report);
    }
    Some(name.to_owned())
}

/// `from`, or the `to` of a translation. Names are looked up only if the table takes part.
pub(crate) fn zone_match(node: Node<'_>, enabled: bool, scope: &Scope, report: &mut Report<'_>) -> Option<ZoneMatch> {
    let names = zone_names(node, report)?;
    if let Some((at, _)) = names.iter().find(|(_, name)| *name == "self") {
        let what = format!("\"self\" in {:?}: the traffic of the box itself is the kernel's business", node.key);
        report.error(*at, &Problem::Contradiction { what, expected: A_ZONE });
        return None;
    }
    if names.iter().any(|(_, name)| *name == "any") {
        return Some(ZoneMatch::Any);
    }
    zones(&names, enabled, scope, report).map(ZoneMatch::Zones)
}

fn target(node: Node<'_>, enabled: bool, scope: &Scope, report: &mut Report<'_>) -> Option<RuleTarget> {
    let names = zone_names(node, report)?;
    match names.iter().find(|(_, name)| *name == "self") {
        Some(_) if names.len() == 1 => return Some(RuleTarget::SelfBox),
        Some((at, _)) => {
            let what = "\"self\" beside a zone: the box itself takes rules of its own".to_owned();
            report.error(*at, &Problem::Contradiction { what, expected: "to = \"self\"" });
            return None;
        }
        None => {}
    }
    if names.iter().any(|(_, name)| *name == "any") {
        return Some(RuleTarget::Any);
    }
    zones(&names, enabled, scope, report).map(RuleTarget::Zones)
}

fn zone_names<'d>(node: Node<'d>, report: &mut Report<'_>) -> Option<Vec<(At, &'d str)>> {
    let nodes = node.at_least_one(A_ZONE, report);
    let names: Vec<Option<_>> =
        nodes.iter().map(|node| Some((node.at, node.string_expecting(A_ZONE, report)?))).collect();
    if names.is_empty() { None } else { names.into_iter().collect() }
}

fn zones(names: &[(At, &str)], enabled: bool, scope: &Scope, report: &mut Report<'_>) -> Option<ZoneSet> {
    if !enabled {
        return None;
    }
    let zones: Vec<Option<_>> = names.iter().map(|(at, name)| scope.zones.resolve(*at, name, report)).collect();
    zones.into_iter().collect::<Option<Vec<_>>>().map(ZoneSet::of)
}

pub(crate) fn address_set(
    table: &Section<'_>,
    key: &str,
    enabled: bool,
    scope: &Scope,
    report: &mut Report<'_>,
) -> Option<AddressSet> {
    let Some(node) = table.get(key) else { return Some(AddressSet::any()) };
    let entries = addresses::rule_list(node, report)?;
    evaluate(&scope.addresses, &entries, enabled, report)
}

pub(crate) fn service_set(
    table: &Section<'_>,
    enabled: bool,
    scope: &Scope,
    report: &mut Report<'_>,
) -> Option<ServiceSet> {
    let Some(node) = table.get("service") else { return Some(ServiceSet::any()) };
    let entries = services::rule_list(node, report)?;
    evaluate(&scope.services, &entries, enabled, report)
}

fn evaluate<S: NamedSet>(names: &Names<S>, entries: &[Entry<S>], enabled: bool, report: &mut Report<'_>) -> Option<S> {
    if enabled { names.evaluate(entries, report) } else { None }
}

pub(crate) fn flag(table: &Section<'_>, key: &str, default: bool, report: &mut Report<'_>) -> Option<bool> {
    table.get(key).map_or(Some(default), |node| node.boolean(report))
}
