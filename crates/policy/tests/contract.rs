//! The example of the contract, resolved as it says, and the meaning of translations.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, outside of the functions that clippy knows as tests"
)]

use std::net::IpAddr;
use std::time::Duration;

use flowhop_policy::{
    Action, Dependence, Destination, Family, ForwardingPath, ICMP, ICMPV6, IpSettings, Martians, NatRule,
    NewConnection, Policy, ReversePath, RuleTarget, Source, SourceTranslation, TCP, TableIndex, UDP, ZoneId,
    address_key, parse,
};

const CONTRACT: &str = include_str!("policies/contract.toml");

fn source(text: &str) -> [Source; 1] {
    [Source { name: "policy.toml".to_owned(), text: text.to_owned() }]
}

fn example() -> Policy {
    let checked = parse(&source(CONTRACT)).unwrap_or_else(|faults| panic!("{}", faults[0]));
    assert_eq!(checked.warnings, []);
    checked.policy
}

fn range(first: &str, last: &str) -> (IpAddr, IpAddr) {
    (first.parse().unwrap(), last.parse().unwrap())
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
fn the_example_means_what_it_says() {
    let policy = example();
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
    assert_eq!(policy.nats.len(), 2);
    assert_eq!(nat.translate_source, Some(SourceTranslation::Interface));
    assert_eq!((nat.mapping, nat.filtering), (Dependence::EndpointIndependent, Dependence::AddressAndPortDependent));
    assert_eq!((nat.family, &nat.translate_destination), (Family::Ipv4, &None));

    let web = &policy.nats[1];
    let new = web.translate_destination.as_ref().unwrap();
    assert_eq!((&web.translate_source, new.inside, new.port), (&None, range("10.1.0.80", "10.1.0.80"), None));
    assert_eq!(new.external, web.destination);
}

#[test]
fn the_example_decides_what_it_says() {
    let policy = example();
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

    // Without `from`: also for inside clients.
    let web = policy.nats[1].translate_destination.as_ref().unwrap();
    for (from, protocol, destination, port, expected) in [
        (outside, TCP, "198.51.100.1", 443, true),
        (inside, TCP, "198.51.100.1", 443, true),
        (outside, TCP, "198.51.100.1", 80, false),
        (outside, UDP, "198.51.100.1", 443, false),
        (outside, TCP, "198.51.100.2", 443, false),
    ] {
        assert_eq!(
            web.matches(&connection(from, inside, protocol, "192.0.2.1", destination, port)),
            expected,
            "{port}"
        );
    }
}

fn nats(text: &str) -> Vec<NatRule> {
    let text = format!(
        "[interfaces]\nlan = {{ device = \"lan0\", zone = \"inside\" }}\nwan = {{ device = \"wan0\", zone = \"outside\" }}\n{text}"
    );
    let checked = parse(&source(&text)).unwrap_or_else(|faults| panic!("{}", faults[0]));
    assert_eq!(checked.warnings, [], "{text}");
    checked.policy.nats
}

#[test]
fn a_destination_may_be_an_endpoint_a_prefix_or_a_range() {
    for (written, family, inside, port) in [
        ("10.1.0.80", "ipv4", range("10.1.0.80", "10.1.0.80"), None),
        (" 10.1.0.80:8443 ", "ipv4", range("10.1.0.80", "10.1.0.80"), Some(8443)),
        ("[fd00::80]:8443", "ipv6", range("fd00::80", "fd00::80"), Some(8443)),
        ("fd00::80", "ipv6", range("fd00::80", "fd00::80"), None),
        ("10.1.0.80/30", "ipv4", range("10.1.0.80", "10.1.0.83"), None),
        ("10.1.0.80-10.1.0.82", "ipv4", range("10.1.0.80", "10.1.0.82"), None),
    ] {
        let external = if family == "ipv4" { "198.51.100.1" } else { "2001:db8::1" };
        let text = format!(
            "[[nat]]\nname = \"a\"\nfamily = \"{family}\"\ndestination = \"{external}\"\nservice = [\"tcp/443\", \"udp/443\"]\ntranslate.destination = \"{written}\"\n"
        );
        let new = nats(&text)[0].translate_destination.clone().unwrap();
        assert_eq!((new.inside, new.port, new.place_of(0)), (inside, port, None), "{written}");
    }
}

#[test]
fn ranges_of_the_same_size_go_place_by_place() {
    let text = "[addresses]\nboth = [\"198.51.100.16/30\", \"2001:db8::/126\"]\n[[nat]]\nname = \"a\"\ndestination = \"both\"\ntranslate.destination = \"10.1.0.4-10.1.0.7\"\n";
    let new = nats(text)[0].translate_destination.clone().unwrap();
    let key = |address: &str| address_key(address.parse().unwrap());
    assert_eq!(new.place_of(key("198.51.100.18")), Some(2));
    assert_eq!(new.member(2), key("10.1.0.6"));
    assert_eq!(new.member(99), key("10.1.0.7"), "never beyond the last");
    let text = text.replace("10.1.0.7", "10.1.0.6");
    let new = nats(&text)[0].translate_destination.clone().unwrap();
    assert_eq!((new.members(), new.place_of(key("198.51.100.18"))), (3, None));
}

#[test]
fn one_to_one_goes_both_ways() {
    let text = "[[nat]]\nname = \"a\"\nto = \"outside\"\nsource = \"10.1.0.16/30\"\ntranslate.source = \"198.51.100.20-198.51.100.23\"\none_to_one = true\n";
    let nat = nats(text).remove(0);
    let (inside, external) = (range("10.1.0.16", "10.1.0.19"), range("198.51.100.20", "198.51.100.23"));
    assert_eq!(nat.translate_source, Some(SourceTranslation::OneToOne { inside, external }));
    let back = nat.translate_destination.as_ref().unwrap();
    assert_eq!((back.inside, back.port, nat.is_fixed(), nat.is_twofold()), (inside, None, true, false));
    let from = |zone, destination| back.matches(&connection(ZoneId(zone), ZoneId(0), UDP, "192.0.2.1", destination, 9));
    assert!(from(0, "198.51.100.20") && from(1, "198.51.100.23") && !from(1, "198.51.100.24"));
    assert!(!nats(&text.replace("one_to_one = true", "one_to_one = false"))[0].is_fixed());
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
fn who_may_ask_for_mappings_and_for_what() {
    let interfaces = "[interfaces]\nlan = { device = \"lan0\", zone = \"inside\" }\nwan = { device = \"wan0\", zone = \"outside\" }\n";
    let read = |more: &str| parse(&source(&format!("{interfaces}{more}"))).unwrap().policy.pcp;
    assert_eq!((read(""), read("[pcp]\nenabled = false\nfrom = \"inside\"\nto = \"outside\"\n")), (None, None));
    let table = "[pcp]\nfrom = \"inside\"\nto = [\"outside\"]\n";
    let plain = read(table).unwrap();
    assert!(plain.ports.is_any() && plain.source.is_any() && plain.limit == 64);
    let seconds = |asked| plain.lifetime(asked).as_secs();
    assert_eq!([0, 1, 120, 5000, u32::MAX].map(seconds), [120, 120, 120, 5000, 86_400]);
    let (inside, outside) = (ZoneId(0), ZoneId(1));
    assert!(plain.to.contains(outside) && !plain.to.contains(inside));
    let host = |text: &str| text.parse::<IpAddr>().unwrap();
    assert!(plain.serves(inside, host("10.1.0.2")) && !plain.serves(outside, host("10.1.0.2")));
    let more = "source = [\"10.1.0.0/24\", \"!10.1.0.66\"]\nports = [\"1024-2047\", 5000]\nlimit = 7\n";
    let narrow = read(&format!("{table}{more}")).unwrap();
    assert!(narrow.serves(inside, host("10.1.0.2")) && !narrow.serves(inside, host("10.1.0.66")));
    assert!(!narrow.serves(inside, host("fd00::1")));
    assert_eq!((narrow.limit, narrow.ports.ranges()), (7, &[(1024, 2047), (5000, 5000)][..]));
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

// standards.md 4.1: what is validated is the operator's choice per interface, what options may pass is in `[ip]`; the
// defaults are those of RFC 1812 section 5.3.7 and RFC 7126.
#[test]
fn validation_is_chosen_by_interface() {
    let text = include_str!("policies/everything.toml");
    let policy = parse(&[Source { name: "p.toml".into(), text: text.into() }]).unwrap().policy;
    let of = |name| {
        let interface = policy.interface_by_name(name).unwrap();
        (interface.rpf, interface.martians)
    };
    assert_eq!(of("lan"), (ReversePath::Strict, Martians::Rfc1812));
    assert_eq!(of("wan"), (ReversePath::Off, Martians::Off));
    assert_eq!(of("dmz"), (ReversePath::Feasible, Martians::Registry));
    assert_eq!(of("vpn"), (ReversePath::Loose, Martians::Rfc1812));
    let IpSettings {
        record_route,
        timestamp,
        router_alert,
        security,
        obsolete_options,
        experimental_options,
        unknown_options,
        hop_by_hop,
        routing_header,
        redirects,
        errors_per_second,
    } = policy.ip;
    let all = [
        record_route,
        timestamp,
        router_alert,
        security,
        obsolete_options,
        experimental_options,
        unknown_options,
        hop_by_hop,
        routing_header,
    ];
    let by_default = example().ip;
    assert_eq!(by_default, IpSettings::default());
    let default = [
        by_default.record_route,
        by_default.timestamp,
        by_default.router_alert,
        by_default.security,
        by_default.obsolete_options,
        by_default.experimental_options,
        by_default.unknown_options,
        by_default.hop_by_hop,
        by_default.routing_header,
    ];
    assert!(all.iter().zip(default).all(|(set, default)| *set != default), "the file says the contrary of each");
    assert_eq!((redirects, errors_per_second), (true, 1000));
}
