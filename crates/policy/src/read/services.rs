//! `[services]`, and lists of services and ports wherever they stand.

use toml::de::DeValue;

use super::names::{Entry, NamedSet, Names, Value};
use super::node::{Node, Section};
use super::problem::{Problem, one_of};
use super::report::Report;
use super::suggest::nearest;
use crate::model::service::ServiceItem;
use crate::{ICMP, ICMPV6, PortSet, ServiceSet, TCP, UDP};

const A_SERVICE: &str =
    "a service such as \"tcp/443\", \"udp/5000-5100\", \"icmp/echo-request\", \"esp\" or 47, or a name from [services]";
const A_PORT: &str = "a port or a range: 53, \"53\", \"1024-65535\"";
const PORTS: &str = "a port between 1 and 65535 or a range \"1024-2047\"";

/// Protocols by name. A protocol with types or ports is all of them.
const PROTOCOLS: [(&str, &[u8]); 6] =
    [("tcp", &[TCP]), ("udp", &[UDP]), ("icmp", &[ICMP, ICMPV6]), ("esp", &[50]), ("ah", &[51]), ("gre", &[47])];

/// ICMP queries by name (RFC 792, RFC 950), with the same query of ICMPv6 if there is one (RFC 4443).
const QUERIES: [(&str, u8, Option<u8>); 4] = [
    ("echo-request", 8, Some(128)),
    ("timestamp-request", 13, None),
    ("information-request", 15, None),
    ("address-mask-request", 17, None),
];

impl NamedSet for ServiceSet {
    const KIND: &'static str = "service";
    const EXPECTED: &'static str = A_SERVICE;

    fn combine(included: &[Self], _excluded: &[Self]) -> Self {
        included.iter().fold(Self::none(), |all, one| all.union(one))
    }

    fn nothing() -> Self {
        Self::none()
    }
}

/// Reads one `[services]` table.
pub(crate) fn read(section: &Section<'_>, names: &mut Names<ServiceSet>, report: &mut Report<'_>) {
    let enabled = section.is_enabled(report);
    for (key_at, node) in section.named_entries(report) {
        if !matches!(parse_text(node.key), Ok(Text::Name(name)) if name == node.key) {
            let why = "it would be read as a protocol or a port";
            report.error(key_at, &Problem::ReservedName { kind: "a service", name: node.key.to_owned(), why });
            continue;
        }
        let entries = list(&node.one_or_many(), report);
        if enabled {
            names.define(node.key, key_at, entries, report);
        }
    }
}

/// The entries of a list that a rule has; `None` after a fault.
pub(crate) fn rule_list(node: Node<'_>, report: &mut Report<'_>) -> Option<Vec<Entry<ServiceSet>>> {
    let nodes = node.at_least_one(A_SERVICE, report);
    if nodes.is_empty() { None } else { list(&nodes, report) }
}

/// A list of ports; `None` after a fault.
pub(crate) fn port_list(node: Node<'_>, report: &mut Report<'_>) -> Option<PortSet> {
    let nodes = node.at_least_one(A_PORT, report);
    let ranges: Vec<Option<_>> = nodes.iter().map(|node| port(*node, report)).collect();
    if ranges.is_empty() {
        return None;
    }
    ranges.into_iter().collect::<Option<Vec<_>>>().map(PortSet::of_ranges)
}

fn list(nodes: &[Node<'_>], report: &mut Report<'_>) -> Option<Vec<Entry<ServiceSet>>> {
    let entries: Vec<Option<_>> = nodes.iter().map(|node| entry(*node, report)).collect();
    entries.into_iter().collect()
}

fn entry(node: Node<'_>, report: &mut Report<'_>) -> Option<Entry<ServiceSet>> {
    let number;
    let text = match node.value {
        DeValue::String(text) => text.trim(),
        DeValue::Integer(written) => {
            // Hexadecimal is as good as decimal here; what does not fit is shown as it was written.
            number = node.as_integer().map_or_else(|| written.as_str().to_owned(), |number| number.to_string());
            &number
        }
        _ => return node.wrong_type(A_SERVICE, report),
    };
    let value = match parse_text(text) {
        Ok(Text::Any) => Value::Set(ServiceSet::any()),
        Ok(Text::Items(items)) => Value::Set(ServiceSet::of_items(items)),
        Ok(Text::Name(name)) => Value::Name(name.to_owned()),
        Err(error) => {
            let near = error.near(text);
            let problem =
                Problem::BadValue { what: error.what(), value: text.to_owned(), near, expected: error.expected() };
            report.error(node.at, &problem);
            return None;
        }
    };
    Some(Entry { at: node.at, excluded: false, value })
}

fn port(node: Node<'_>, report: &mut Report<'_>) -> Option<(u16, u16)> {
    let (written, range) = match node.value {
        DeValue::String(text) => (text.to_string(), parse_ports(text)),
        DeValue::Integer(number) => {
            let port = node.as_integer().and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
            (number.to_string(), port.map(|port| (port, port)))
        }
        _ => return node.wrong_type(A_PORT, report),
    };
    if range.is_none() {
        let problem = Problem::BadValue { what: "port", value: written, near: None, expected: PORTS.to_owned() };
        report.error(node.at, &problem);
    }
    range
}

#[derive(Debug, PartialEq, Eq)]
enum Text<'t> {
    Any,
    Items(Vec<ServiceItem>),
    Name(&'t str),
}

/// Why a text is no service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServiceError {
    Service,
    Exclusion,
    Number,
    Protocol,
    Port,
    Query,
}

impl ServiceError {
    /// What the text is not: it completes "… is no".
    fn what(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Exclusion => "service; only addresses can be excluded",
            Self::Number => "protocol number",
            Self::Protocol => "service of a protocol with ports or types",
            Self::Port => "service with a port or a range of ports",
            Self::Query => "ICMP query; errors pass with the connection that they are about",
        }
    }

    fn expected(self) -> String {
        match self {
            Self::Service | Self::Exclusion => A_SERVICE.to_owned(),
            Self::Number => "a number between 0 and 255".to_owned(),
            Self::Protocol => "\"tcp/…\", \"udp/…\" or \"icmp/…\"".to_owned(),
            Self::Port => PORTS.to_owned(),
            Self::Query => one_of(&QUERIES.map(|(name, ..)| format!("icmp/{name}"))),
        }
    }

    fn near(self, text: &str) -> Option<String> {
        let (protocol, rest) = text.split_once('/')?;
        match self {
            Self::Protocol => nearest(protocol, ["tcp", "udp", "icmp"]).map(|near| format!("{near}/{rest}")),
            Self::Query => nearest(rest, QUERIES.map(|(name, ..)| name)).map(|near| format!("icmp/{near}")),
            _ => None,
        }
    }
}

fn parse_text(text: &str) -> Result<Text<'_>, ServiceError> {
    if text == "any" {
        return Ok(Text::Any);
    }
    if let Some((_, numbers)) = PROTOCOLS.iter().find(|(name, _)| *name == text) {
        return Ok(Text::Items(numbers.iter().map(|number| ServiceItem::Protocol(*number)).collect()));
    }
    if let Some((protocol, rest)) = text.split_once('/') {
        return parse_part(protocol, rest).map(Text::Items);
    }
    if text.starts_with('!') {
        return Err(ServiceError::Exclusion);
    }
    if text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        let number = text.parse().map_err(|_| ServiceError::Number)?;
        return Ok(Text::Items(vec![ServiceItem::Protocol(number)]));
    }
    if text.is_empty() || text.contains(char::is_control) { Err(ServiceError::Service) } else { Ok(Text::Name(text)) }
}

/// What follows the slash: ports, or a query.
fn parse_part(protocol: &str, rest: &str) -> Result<Vec<ServiceItem>, ServiceError> {
    match protocol {
        "tcp" => {
            let (first, last) = parse_ports(rest).ok_or(ServiceError::Port)?;
            Ok(vec![ServiceItem::TcpPorts(first, last)])
        }
        "udp" => {
            let (first, last) = parse_ports(rest).ok_or(ServiceError::Port)?;
            Ok(vec![ServiceItem::UdpPorts(first, last)])
        }
        "icmp" => {
            let (_, v4, v6) = QUERIES.iter().find(|(name, ..)| *name == rest).ok_or(ServiceError::Query)?;
            Ok(std::iter::once(ServiceItem::IcmpType(*v4)).chain(v6.map(ServiceItem::Icmpv6Type)).collect())
        }
        _ => Err(ServiceError::Protocol),
    }
}

/// A port, which is never 0, or a range, which may begin there.
fn parse_ports(text: &str) -> Option<(u16, u16)> {
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (parse_port(first)?, parse_port(last)?);
            (first <= last).then_some((first, last))
        }
        None => parse_port(text).filter(|port| *port > 0).map(|port| (port, port)),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> ServiceSet {
        match parse_text(text) {
            Ok(Text::Items(items)) => ServiceSet::of_items(items),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn services_hold_what_they_say() {
        assert!(set("tcp/443").matches(TCP, 1, 443, 0) && !set("tcp/443").matches(UDP, 1, 443, 0));
        assert!(set("udp/1024-2047").matches(UDP, 1, 2047, 0) && !set("udp/1024-2047").matches(UDP, 1, 2048, 0));
        assert!(set("tcp").matches(TCP, 1, 0, 0));
        assert!(set("icmp").matches(ICMP, 0, 0, 13) && set("icmp").matches(ICMPV6, 0, 0, 128));
        assert!(set("icmp/timestamp-request").matches(ICMP, 0, 0, 13));
        assert!(!set("icmp/timestamp-request").matches(ICMPV6, 0, 0, 13));
        assert!(set("47").matches(47, 0, 0, 0) && set("gre") == set("47") && set("6") == set("tcp"));
    }

    #[test]
    fn what_is_no_service() {
        for (text, error) in [
            ("tcp/0", ServiceError::Port),
            ("tcp/65536", ServiceError::Port),
            ("tcp/https", ServiceError::Port),
            ("tcp/+80", ServiceError::Port),
            ("udp/9-1", ServiceError::Port),
            ("udp/", ServiceError::Port),
            ("esp/1", ServiceError::Protocol),
            ("tpc/80", ServiceError::Protocol),
            ("icmp/unreachable", ServiceError::Query),
            ("256", ServiceError::Number),
            ("-1", ServiceError::Number),
            ("!tcp", ServiceError::Exclusion),
            ("", ServiceError::Service),
        ] {
            assert_eq!(parse_text(text), Err(error), "{text}");
        }
    }
}
