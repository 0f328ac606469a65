//! `[addresses]`, and lists of addresses wherever they stand.

use std::net::IpAddr;

use super::names::{Entry, NamedSet, Names, Value};
use super::node::{Node, Section};
use super::problem::{Doubt, Problem};
use super::report::Report;
use crate::AddressSet;
use crate::model::address::{IPV4_FIRST, IPV4_LAST, address_key, key_address};

const AN_ADDRESS: &str =
    "an address \"10.1.0.1\", a prefix \"10.1.0.0/24\", a range \"10.1.0.1-10.1.0.9\" or the name of a set";
const ADDRESSES: &str = "an address, a prefix, a range or the name of a set, or a list of them; \"!\" excludes";

impl NamedSet for AddressSet {
    const KIND: &'static str = "address set";
    const EXPECTED: &'static str = "a name defined in [addresses], an address, a prefix or a range";

    fn combine(included: &[Self], excluded: &[Self]) -> Self {
        let union = |sets: &[Self]| Self::of_keys(sets.iter().flat_map(Self::ranges).copied().collect());
        let base = match included {
            [] => Self::any(),
            [only] => only.clone(),
            several => union(several),
        };
        base.without(&union(excluded))
    }

    fn nothing() -> Self {
        Self::none()
    }
}

/// Reads one `[addresses]` table.
pub(crate) fn read(section: &Section<'_>, names: &mut Names<AddressSet>, report: &mut Report<'_>) {
    let enabled = section.is_enabled(report);
    for (key_at, node) in section.named_entries(report) {
        if !matches!(parse_text(node.key), Ok(Text::Name(name)) if name == node.key) {
            let why = "it would be read as an address, a prefix or a range";
            report.error(key_at, &Problem::ReservedName { kind: "an address set", name: node.key.to_owned(), why });
            continue;
        }
        let entries = list(&node.one_or_many(), report);
        if enabled {
            names.define(node.key, key_at, entries, report);
        }
    }
}

/// The entries of a list that a rule has; `None` after a fault.
pub(crate) fn rule_list(node: Node<'_>, report: &mut Report<'_>) -> Option<Vec<Entry<AddressSet>>> {
    let nodes = node.at_least_one(ADDRESSES, report);
    if nodes.is_empty() { None } else { list(&nodes, report) }
}

fn list(nodes: &[Node<'_>], report: &mut Report<'_>) -> Option<Vec<Entry<AddressSet>>> {
    let entries: Vec<Option<_>> = nodes.iter().map(|node| entry(*node, report)).collect();
    entries.into_iter().collect()
}

fn entry(node: Node<'_>, report: &mut Report<'_>) -> Option<Entry<AddressSet>> {
    let written = node.string_expecting(ADDRESSES, report)?;
    let (excluded, text) = match written.trim().strip_prefix('!') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, written.trim()),
    };
    let value = match parse_text(text) {
        Ok(Text::Any) => Value::Set(AddressSet::any()),
        Ok(Text::Range(range)) => Value::Set(range.set()),
        Ok(Text::Prefix { range, exact }) => {
            if let Some(exact) = exact {
                report.warning(node.at, &Doubt::HostBits { written: text.to_owned(), read: exact });
            }
            Value::Set(range.set())
        }
        Ok(Text::Name(name)) => Value::Name(name.to_owned()),
        Err(error) => {
            let what = error.what();
            let problem = Problem::BadValue { what, value: text.to_owned(), near: None, expected: error.expected() };
            report.error(node.at, &problem);
            return None;
        }
    };
    Some(Entry { at: node.at, excluded, value })
}

/// Two addresses of one family, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressRange {
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
}

impl AddressRange {
    fn set(self) -> AddressSet {
        let keys = AddressSet::of_keys(vec![(address_key(self.first), address_key(self.last))]);
        // The keys of IPv4 lie among those of IPv6: `::/0` would hold them.
        if self.first.is_ipv4() { keys } else { keys.without(&AddressSet::ipv4()) }
    }
}

/// What an address written out can be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Text<'t> {
    Any,
    Range(AddressRange),
    /// `exact`: how it should have been written, if it has bits beyond the prefix.
    Prefix {
        range: AddressRange,
        exact: Option<String>,
    },
    Name(&'t str),
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressError {
    Address,
    Prefix { longest: Option<u8> },
    Range,
    Swapped,
    Mixed,
    Mapped,
}

impl AddressError {
    /// What the text is not: it completes "… is no".
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Prefix { .. } => "prefix",
            Self::Range => "range of addresses",
            Self::Swapped => "range: its first address is above its last",
            Self::Mixed => "range: its ends are of different families",
            Self::Mapped => "address that is seen on a wire",
        }
    }

    pub(crate) fn expected(self) -> String {
        match self {
            Self::Address => AN_ADDRESS.to_owned(),
            Self::Prefix { longest: None } => "a prefix such as \"10.1.0.0/24\" or \"2001:db8::/32\"".to_owned(),
            Self::Prefix { longest: Some(longest) } => format!("a prefix length between 0 and {longest}"),
            Self::Range | Self::Mixed => "two addresses of one family, \"10.1.0.1-10.1.0.9\"".to_owned(),
            Self::Swapped => "the lower address first".to_owned(),
            Self::Mapped => "the IPv4 address itself".to_owned(),
        }
    }
}

/// Reads one entry without its "!".
pub(crate) fn parse_text(text: &str) -> Result<Text<'_>, AddressError> {
    if text == "any" {
        return Ok(Text::Any);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return range(address, address).map(Text::Range);
    }
    if let Some((address, length)) = text.split_once('/') {
        return prefix(address, length);
    }
    if let Some((first, last)) = text.split_once('-') {
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) => return range(first, last).map(Text::Range),
            (Err(_), Err(_)) if !looks_numeric(first.trim()) => {}
            (Err(_), Ok(_)) | (Ok(_) | Err(_), Err(_)) => return Err(AddressError::Range),
        }
    }
    let is_name =
        !text.is_empty() && !text.starts_with('!') && !looks_numeric(text) && !text.contains(char::is_control);
    if is_name { Ok(Text::Name(text)) } else { Err(AddressError::Address) }
}

fn prefix(address: &str, length: &str) -> Result<Text<'static>, AddressError> {
    let none = AddressError::Prefix { longest: None };
    let address: IpAddr = address.trim().parse().map_err(|_| none)?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let out_of_range = AddressError::Prefix { longest: Some(longest) };
    let length = Some(length.trim()).filter(|length| length.bytes().all(|byte| byte.is_ascii_digit()));
    let length: u8 =
        length.and_then(|length| length.parse().ok()).filter(|length| *length <= longest).ok_or(out_of_range)?;

    let beyond = u128::MAX.checked_shr(u32::from(128 - longest + length)).unwrap_or(0);
    let key = address_key(address);
    let first = key_address(key & !beyond);
    let last = key_address(key | beyond);
    let range = AddressRange { first, last };
    if !address.is_ipv4() && key & !beyond >= IPV4_FIRST && key | beyond <= IPV4_LAST {
        return Err(AddressError::Mapped);
    }
    let exact = (key & beyond != 0).then(|| format!("{first}/{length}"));
    Ok(Text::Prefix { range, exact })
}

fn range(first: IpAddr, last: IpAddr) -> Result<AddressRange, AddressError> {
    let mapped = |address: IpAddr| matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if mapped(first) || mapped(last) {
        Err(AddressError::Mapped)
    } else if first.is_ipv4() != last.is_ipv4() {
        Err(AddressError::Mixed)
    } else if first > last {
        Err(AddressError::Swapped)
    } else {
        Ok(AddressRange { first, last })
    }
}

/// Whether a text is meant as an address, right or wrong: `10.1.0.300`, `fe80::1%lan0`.
fn looks_numeric(text: &str) -> bool {
    text.contains(':') || text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> AddressSet {
        match parse_text(text) {
            Ok(Text::Any) => AddressSet::any(),
            Ok(Text::Range(range) | Text::Prefix { range, .. }) => range.set(),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn holds(set: &AddressSet, address: &str) -> bool {
        set.contains_address(address.parse().unwrap())
    }

    #[test]
    fn prefixes_hold_what_they_say() {
        let office = set("10.1.0.0/24");
        assert!(holds(&office, "10.1.0.0") && holds(&office, "10.1.0.255"));
        assert!(!holds(&office, "10.1.1.0") && !holds(&office, "10.0.255.255"));
        assert_eq!(set("0.0.0.0/0"), AddressSet::ipv4());
        assert_eq!(set("10.1.0.7/32"), set("10.1.0.7"));
        let v6 = set("fd00:0:0:1::/64");
        assert!(holds(&v6, "fd00:0:0:1:ffff::1") && !holds(&v6, "fd00:0:0:2::"));
    }

    #[test]
    fn ipv6_never_holds_ipv4() {
        for text in ["::/0", "::/64", "::/80", "::-ffff::"] {
            assert!(!holds(&set(text), "10.1.0.1"), "{text}");
            assert!(holds(&set(text), "::1"), "{text}");
        }
        assert_eq!(AddressSet::any().without(&AddressSet::ipv4()), set("::/0"));
        assert_eq!(parse_text("::ffff:10.0.0.1"), Err(AddressError::Mapped));
        assert_eq!(parse_text("::ffff:10.0.0.0/104"), Err(AddressError::Mapped));
        assert_eq!(parse_text("::ffff:0:0/96"), Err(AddressError::Mapped));
    }

    #[test]
    fn what_is_a_name_and_what_is_not() {
        for name in ["office", "web-servers", "10th floor", "a.b", "dead"] {
            assert_eq!(parse_text(name), Ok(Text::Name(name)));
        }
        for (text, error) in [
            ("10.1.0.300", AddressError::Address),
            ("", AddressError::Address),
            ("!x", AddressError::Address),
            ("fe80::1%lan0", AddressError::Address),
            ("10.1.0.0/33", AddressError::Prefix { longest: Some(32) }),
            ("10.1.0.0/+8", AddressError::Prefix { longest: Some(32) }),
            ("10.1.0.0/", AddressError::Prefix { longest: Some(32) }),
            ("::/129", AddressError::Prefix { longest: Some(128) }),
            ("office/24", AddressError::Prefix { longest: None }),
            ("10.1.0.9-10.1.0.1", AddressError::Swapped),
            ("10.1.0.9-::1", AddressError::Mixed),
            ("10.1.0.9-20", AddressError::Range),
            ("10.1.0-20", AddressError::Range),
        ] {
            assert_eq!(parse_text(text), Err(error), "{text}");
        }
    }

    #[test]
    fn host_bits_are_told() {
        let Ok(Text::Prefix { exact, .. }) = parse_text("10.1.0.5/24") else { panic!() };
        assert_eq!(exact.as_deref(), Some("10.1.0.0/24"));
    }
}
