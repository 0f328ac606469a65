//! The example of the contract: refused only for what this version does not do, and resolved as it says.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, outside of the functions that clippy knows as tests"
)]

use std::net::IpAddr;
use std::time::Duration;

use flowhop_policy::{
    Action, Dependence, Destination, Family, ForwardingPath, ICMP, ICMPV6, Martians, NewConnection, Policy,
    ReversePath, RuleTarget, Source, SourceTranslation, TCP, TableIndex, UDP, ZoneId, address_key, parse,
};

const CONTRACT: &str = include_str!("policies/contract.toml");

fn source(text: &str) -> [Source; 1] {
    [Source { name: "policy.toml".to_owned(), text: text.to_owned() }]
}

/// The example without the one thing that is refused.
fn supported() -> Policy {
    let text =
        CONTRACT.replace("translate.destination", "translate.enabled = false\ntranslate.source = \"interface\" #");
    let checked = parse(&source(&text)).unwrap_or_else(|faults| panic!("{}", faults[0]));
    assert_eq!(checked.warnings, []);
    checked.policy
}

fn connection(from: ZoneId, to: ZoneId, protocol: u8, source: &str, destination: &str, port: u16) -> NewConnection {
    let key = |address: &str| address_key(address.parse::<IpAddr>().unwrap());
    let icmp_type = match protocol {
        ICMP => 8,
        ICMPV6 => 128,
        _ => 0,
    };
    NewConnection {
        from,
        to: Destination::Zone(to),
        source: key(source),
        destination: key(destination),
        protocol,
        source_port: 40000,
        destination_port: port,
        icmp_type,
    }
}

#[test]
fn only_destination_translation_is_refused() {
    let faults = parse(&source(CONTRACT)).unwrap_err();
    let line = CONTRACT.lines().position(|line| line.starts_with("translate.destination")).unwrap() + 1;
    let found: Vec<_> = faults.iter().map(|fault| (fault.line as usize, fault.message.as_str())).collect();
    assert_eq!(found, [(line, "translate.destination is not supported yet by this version")]);
}

#[test]
fn the_example_means_what_it_says() {
    let policy = supported();
    assert_eq!(policy.zones, ["inside", "outside"]);
    let lan = policy.interface_by_name("lan").unwrap();
    assert_eq!((lan.device.as_str(), lan.zone, lan.path, lan.line), ("lan0", ZoneId(0), None, 2));
    assert_eq!((lan.rpf, lan.martians), (ReversePath::Off, Martians::Rfc1812));
    assert_eq!(policy.table.connections, 1_048_576);
    assert_eq!(policy.table.index, TableIndex::Lines);
    assert_eq!(policy.paths.orphan_grace, Duration::from_secs(120));
    assert!(policy.paths.allows(ForwardingPath::Driver));
    assert_eq!(policy.timeouts.tcp_established, Duration::from_secs(7440));

    let rule = &policy.rules[policy.rule_index_by_name("office browses").unwrap()];
    assert_eq!((rule.action, rule.log, rule.accelerate, rule.limit), (Action::Allow, true, true, None));
    assert_eq!(CONTRACT.lines().nth(rule.line as usize - 1).map(|line| line.starts_with("[[rule]]")), Some(true));
    assert!(matches!(rule.to, RuleTarget::Zones(_)));
    assert_eq!(policy.rule_index_by_name("nobody"), None);
    assert!(!policy.guards_self_from(ZoneId(0)));

    let nat = &policy.nats[0];
    assert_eq!(policy.nats.len(), 1);
    assert_eq!(nat.translate_source, Some(SourceTranslation::Interface));
    assert_eq!((nat.mapping, nat.filtering), (Dependence::EndpointIndependent, Dependence::AddressAndPortDependent));
    assert_eq!(nat.family, Family::Ipv4);
}

#[test]
fn the_example_decides_what_it_says() {
    let policy = supported();
    let (inside, outside) = (ZoneId(0), ZoneId(1));
    let decide = |c: NewConnection| policy.first_match(&c).map(|(_, rule)| rule.name.as_str());
    let browses = Some("office browses");
    for (protocol, from, port, expected) in [
        (TCP, "10.1.0.7", 443, browses),
        (TCP, "10.1.0.66", 443, None),
        (TCP, "10.2.0.7", 443, None),
        (TCP, "10.1.0.7", 22, None),
        (UDP, "10.1.0.7", 53, browses),
        (ICMP, "10.1.0.7", 0, browses),
    ] {
        assert_eq!(decide(connection(inside, outside, protocol, from, "192.0.2.1", port)), expected, "{from} {port}");
    }
    assert_eq!(decide(connection(inside, outside, ICMPV6, "fd00:0:0:1::9", "2001:db8::1", 0)), browses);
    assert_eq!(decide(connection(outside, inside, TCP, "192.0.2.1", "10.1.0.80", 443)), Some("published web server"));
    assert_eq!(decide(connection(outside, inside, TCP, "192.0.2.1", "10.1.0.81", 443)), None);
    assert_eq!(decide(connection(outside, outside, TCP, "10.1.0.7", "192.0.2.1", 443)), None);

    let nat = &policy.nats[0];
    assert!(nat.matches(&connection(inside, outside, TCP, "10.1.0.7", "192.0.2.1", 443)));
    assert!(!nat.matches(&connection(inside, outside, TCP, "fd00:0:0:1::9", "2001:db8::1", 443)));
    assert!(!nat.matches(&connection(outside, inside, TCP, "10.1.0.7", "192.0.2.1", 443)));
}

#[test]
fn all_that_is_left_out_has_its_default() {
    let text = "[interfaces]\nlan = { device = \"lan0\", zone = \"inside\", path = \"user\" }\n[[rule]]\nname = \"all\"\naction = \"reject\"\n";
    let policy = parse(&source(text)).unwrap().policy;
    let rule = &policy.rules[0];
    assert!(rule.source.is_any() && rule.destination.is_any() && rule.service.is_any() && rule.source_port.is_any());
    assert_eq!(rule.to, RuleTarget::Any);
    assert!(!rule.to.contains(Destination::SelfBox));
    assert_eq!(policy.interfaces[0].path, Some(ForwardingPath::User));
    let rest = (&policy.paths, policy.table, policy.timeouts);
    let default = Policy::default();
    assert_eq!(rest, (&default.paths, default.table, default.timeouts));
}

#[test]
fn pools_are_sorted_and_overlap_nowhere() {
    let text = "[[nat]]\nname = \"a\"\ntranslate.source = [\"198.51.100.9\", \"198.51.100.1-198.51.100.5\", \"198.51.100.4-198.51.100.7\", \"203.0.113.0/30\"]\n";
    let policy = parse(&source(text)).unwrap().policy;
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let ranges = vec![
        (ip("198.51.100.1"), ip("198.51.100.7")),
        (ip("198.51.100.9"), ip("198.51.100.9")),
        (ip("203.0.113.0"), ip("203.0.113.3")),
    ];
    assert_eq!(policy.nats[0].translate_source, Some(SourceTranslation::Ranges(ranges)));
}

#[test]
fn the_box_itself_is_guarded_from_the_zones_that_are_named() {
    let text = "rule = [ { name = \"ssh\", from = \"inside\", to = \"self\", service = \"tcp/22\", action = \"allow\" } ]\n[interfaces]\nlan = { device = \"lan0\", zone = \"inside\" }\nwan = { device = \"wan0\", zone = \"outside\" }\n";
    let checked = parse(&source(text)).unwrap();
    assert_eq!(checked.warnings, []);
    let policy = checked.policy;
    let zone = |name| policy.zone_id(name).unwrap();
    assert!(policy.guards_self_from(zone("inside")) && !policy.guards_self_from(zone("outside")));
}

#[test]
fn a_long_chain_of_sets_and_a_large_policy_are_no_trouble() {
    let mut text =
        "[interfaces]\nlan = { device = \"lan0\", zone = \"inside\" }\n[addresses]\ns0 = \"10.0.0.1\"\n".to_owned();
    for index in 1..50_000 {
        text.push_str(&format!("s{index} = \"s{}\"\n", index - 1));
    }
    for index in 0..2_000 {
        let (high, low) = (index / 250, index % 250);
        text.push_str(&format!("[[rule]]\nname = \"r{index}\"\nsource = [\"s49999\", \"10.9.{high}.{low}\"]\nservice = \"udp/{}\"\naction = \"allow\"\n", index + 1));
    }
    let checked = parse(&source(&text)).unwrap();
    assert_eq!((checked.policy.rules.len(), checked.warnings.len()), (2_000, 0));
}
