//! The JSON output against the schemas in docs/json/, which are a promise to scripts.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test on the spot")]

use std::path::Path;
use std::sync::Arc;

use flowhop::replay::capture::{Captured, LinkType};
use flowhop::replay::run::Replay;
use flowhop::show::{Agent, ModuleInfo, View, What, moved};
use flowhop::whose::{Lot, answer};
use flowhop_engine::Path as EnginePath;
use flowhop_flow::Reason;
use flowhop_flow::key::address;
use flowhop_modules::{Asked, Endpoint, Names, Peers, Shared};
use flowhop_policy::{Source, parse};
use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::SYN;
use serde_json::Value;

const POLICY: &str = r#"
[interfaces]
lan = { device = "lan0", zone = "inside" }
wan = { device = "wan0", zone = "outside", path = "user" }
[[rule]]
name = "all"
from = "inside"
to = "outside"
action = "allow"
[[rule]]
name = "web"
to = "inside"
destination = "10.1.0.80"
action = "allow"
[[nat]]
name = "hide"
to = "outside"
translate.source = "interface"
[[nat]]
name = "publish"
destination = "198.51.100.1"
service = ["tcp/443", "udp/1000-2000"]
translate.destination = "10.1.0.80:8443"
[[nat]]
name = "pairs"
source = "10.2.0.0/28"
translate.source = "198.51.100.16/28"
one_to_one = true
[[nat]]
name = "carrier"
source = "100.64.0.0/22"
translate.source = "198.51.100.64/28"
allocation = "deterministic"
[[nat]]
name = "prefix"
family = "ipv6"
source = "fd00:1:2::/48"
translate.prefix = "2001:db8:1::/48"
[[nat]]
name = "nat64"
to = "outside"
prefix64 = "64:ff9b::/96"
translate.source = "interface"
"#;

fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json").join(format!("{name}.schema.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The part of JSON Schema that the schemas use; a keyword that is not known here fails the test.
fn check(root: &Value, schema: &Value, value: &Value, place: &str) {
    for (keyword, wanted) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "$id" | "title" | "description" | "$defs" | "additionalProperties" => {}
            "$ref" => {
                let target = root.pointer(wanted.as_str().unwrap().trim_start_matches('#')).unwrap();
                check(root, target, value, place);
            }
            "type" => {
                let types: Vec<&str> = match wanted {
                    Value::Array(types) => types.iter().map(|name| name.as_str().unwrap()).collect(),
                    one => vec![one.as_str().unwrap()],
                };
                assert!(types.iter().any(|name| is(name, value)), "{place}: {value} is no {types:?}");
            }
            "const" => assert_eq!(value, wanted, "{place}"),
            "enum" => assert!(wanted.as_array().unwrap().contains(value), "{place}: {value} is none of {wanted}"),
            "minimum" => {
                if let Some(number) = value.as_f64() {
                    assert!(number >= wanted.as_f64().unwrap(), "{place}: {value}");
                }
            }
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, wanted, item, &format!("{place}[{number}]"));
                }
            }
            "required" => {
                if let Some(object) = value.as_object() {
                    let missing =
                        wanted.as_array().unwrap().iter().find(|key| !object.contains_key(key.as_str().unwrap()));
                    assert_eq!(missing, None, "{place}: {value}");
                }
            }
            "properties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    let property =
                        wanted.get(key).unwrap_or_else(|| panic!("{place} has {key:?}, the schema does not"));
                    check(root, property, value, &format!("{place}.{key}"));
                }
            }
            other => panic!("the schema uses {other:?}"),
        }
    }
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("the schema uses the type {other:?}"),
    }
}

/// A view with something of everything in it.
fn view(what: What) -> View {
    let policy = parse(&[Source { name: "policy.toml".to_owned(), text: POLICY.to_owned() }]).unwrap().policy;
    let (mut rules, mut nats) = (Names::default(), Names::default());
    let shared = Shared::new(policy.clone(), &mut rules, &mut nats);
    let mut replay = Replay::new(policy, None, 1 << 20).unwrap();
    let packets = [
        Spec::tcp("10.1.0.2:40000".parse().unwrap(), "203.0.113.1:80".parse().unwrap(), SYN, b""),
        Spec::tcp("[fd00::2]:40000".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap(), SYN, b""),
        Spec::echo_request("10.1.0.2".parse().unwrap(), "203.0.113.1".parse().unwrap(), 7, 1, b""),
        Spec::udp("10.1.0.2:5".parse().unwrap(), "127.0.0.1:6".parse().unwrap(), b""),
        Spec::tcp("10.1.0.3:40000".parse().unwrap(), "198.51.100.1:443".parse().unwrap(), SYN, b""),
    ];
    for (number, packet) in packets.iter().enumerate() {
        let captured = Captured { nanos: number as u64 * 5_000_000_000, link: LinkType::Ethernet, interface: None };
        let line = replay.packet(&captured, &[], &mut packet.to_vec().unwrap());
        let line = serde_json::to_value(&line).unwrap();
        let root = schema("replay");
        check(&root, &root, &line, "replay");
    }
    let mut view = View::of(replay.engine(), &shared.current(), &Arc::new(rules), &Arc::new(nats), 20_000, what);
    view.accounts.skb.add(0, Reason::Orphaned, 3, 300);
    view.asked.push(asked());
    view.agents.push(Agent { name: "netlink", protocol: "rtnetlink", state: "running".to_owned(), routes: 2 });
    view.modules.push(ModuleInfo { name: "filter", runs_after: vec!["route"] });
    view
}

/// A mapping that was asked for, with a filter.
fn asked() -> Asked {
    let endpoint = |text: &str, port| Endpoint { protocol: 6, address: address(text.parse().unwrap()), port };
    let peers = Peers { addresses: (0xffff_c633_6400, 0xffff_c633_64ff), port: Some(7000) };
    let (inside, external) = (endpoint("10.1.0.2", 8080), endpoint("198.51.100.253", 8081));
    Asked { inside, external, nat: 1, left: 954, filters: vec![peers] }
}

#[test]
fn every_output_is_as_its_schema_says() {
    use clap::ValueEnum;
    for what in What::value_variants() {
        let value = view(*what).value(*what).unwrap();
        let root = schema(what.name());
        check(&root, &root, &value, what.name());
        let list = &value[what.name()];
        assert!(list.as_array().is_none_or(|list| !list.is_empty()), "{value}");
    }
}

#[test]
fn a_move_is_answered_as_its_schema_says() {
    let root = schema("move");
    for value in [moved(1, Some([EnginePath::Driver, EnginePath::User])), moved(7, None)] {
        check(&root, &root, &value, "move");
    }
    assert_eq!(moved(1, Some([EnginePath::Skb, EnginePath::User]))["paths"], serde_json::json!(["skb", "user"]));
}

#[test]
fn whose_an_address_is_is_said_as_its_schema_says() {
    let root = schema("whose");
    let address = |text: &str| text.parse().unwrap();
    let lot = Lot { nat: "a", inside: address("10.1.0.2"), external: address("fd00::7"), ports: (1024, 2047) };
    check(&root, &root, &answer(&[lot, lot]), "whose");
    check(&root, &root, &answer(&[]), "whose");
}

#[test]
fn a_flow_says_what_the_contract_says() {
    let value = view(What::Flows).value(What::Flows).unwrap();
    let flows = value["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 4);
    let find = |protocol: &str, source: &str| {
        flows.iter().find(|flow| flow["protocol"] == protocol && flow["forward"]["source"] == source).unwrap()
    };
    let flow = find("tcp", "10.1.0.2:40000");
    let (forward, reverse) = (&flow["forward"], &flow["reverse"]);
    assert_eq!((&flow["rule"], &flow["nat"], &flow["state"]), (&"all".into(), &"hide".into(), &"syn_sent".into()));
    assert_eq!(flow["timeout_s"], 240.0);
    assert_eq!(forward["destination"], "203.0.113.1:80");
    assert_eq!(forward["translated_destination"], "203.0.113.1:80");
    assert!(forward["translated_source"].as_str().unwrap().starts_with("198.51.100.253:"), "{flow}");
    assert_eq!((&forward["in"], &forward["out"]), (&"lan".into(), &"wan".into()));
    assert_eq!((&forward["path"], &forward["packets"]), (&"skb".into(), &1.into()));
    assert_eq!(reverse["source"], "203.0.113.1:80");
    assert_eq!(reverse["destination"], forward["translated_source"]);
    assert_eq!(reverse["translated_destination"], "10.1.0.2:40000");
    assert_eq!((&reverse["in"], &reverse["out"]), (&"wan".into(), &"lan".into()));
    assert_eq!((&reverse["path"], &reverse["path_reason"]), (&"user".into(), &"interface".into()));

    assert_eq!(flow["destination_nat"], Value::Null);
    let published = find("tcp", "10.1.0.3:40000");
    assert_eq!((&published["nat"], &published["destination_nat"]), (&"hide".into(), &"publish".into()), "{published}");
    assert_eq!(published["forward"]["translated_destination"], "10.1.0.80:8443");

    assert_eq!(find("tcp", "[fd00::2]:40000")["nat"], Value::Null, "translation is IPv4 only");
    let ping = find("icmp", "10.1.0.2:7");
    assert_eq!(ping["forward"]["destination"], "203.0.113.1:7");
    let outside = ping["reverse"]["source"].as_str().unwrap().strip_prefix("203.0.113.1:").unwrap();
    assert_eq!(ping["forward"]["translated_source"], format!("198.51.100.253:{outside}"));
}

#[test]
fn what_is_published_is_shown_beside_the_connections() {
    let value = view(What::Nat).value(What::Nat).unwrap();
    let entries = value["nat"].as_array().unwrap();
    let kinds: Vec<_> = entries.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    let rows = [
        "published",
        "one_to_one",
        "deterministic",
        "prefix",
        "nat64",
        "pcp",
        "connection",
        "connection",
        "connection",
    ];
    assert_eq!(kinds, rows);
    let asked = &entries[5];
    assert_eq!(asked["destination"], "198.51.100.253:8081");
    assert_eq!((&asked["protocol"], &asked["translated_destination"]), (&"tcp".into(), &"10.1.0.2:8080".into()));
    assert_eq!(asked["lifetime_s"], 1.0);
    assert_eq!(asked["filters"][0]["addresses"], "198.51.100.0-198.51.100.255");
    assert_eq!(
        (&entries[4]["destination"], &entries[4]["translated_source"]),
        (&"64:ff9b::/96".into(), &"interface".into())
    );
    let (service, pairs, lots) = (&entries[0], &entries[1], &entries[2]);
    assert_eq!(
        (&entries[3]["source"], &entries[3]["translated_source"]),
        (&"fd00:1:2::/48".into(), &"2001:db8:1::/48".into())
    );
    assert_eq!((&lots["source"], &lots["destination"]), (&"100.64.0.0-100.64.3.255".into(), &"any".into()));
    assert_eq!((&lots["ports"], &lots["block"], &lots["sharing"]), (&"1024-65535".into(), &1008.into(), &64.into()));
    assert_eq!((&service["nat"], &service["flow"]), (&"publish".into(), &Value::Null));
    assert_eq!(service["service"], serde_json::json!(["tcp/443", "udp/1000-2000"]));
    assert_eq!(service["destination"], "198.51.100.1");
    assert_eq!(service["translated_destination"], "10.1.0.80:8443");
    assert_eq!(pairs["service"], serde_json::json!(["any"]));
    assert_eq!(pairs["source"], "10.2.0.0-10.2.0.15");
    assert_eq!(pairs["translated_source"], "198.51.100.16-198.51.100.31");
    assert_eq!(
        (&pairs["destination"], &pairs["translated_destination"]),
        (&pairs["translated_source"], &pairs["source"])
    );
}

#[test]
fn received_is_what_became_of_it() {
    let value = view(What::Status).value(What::Status).unwrap();
    let packets = &value["status"]["packets"];
    let number = |key: &str| packets[key].as_u64().unwrap();
    let fates = ["forwarded", "stack", "consumed", "held", "dropped"].map(number);
    assert_eq!(number("received"), fates.iter().sum::<u64>(), "{value}");
    assert_eq!(number("received"), 5 + 3);
}

// What is found depends on the machine; its form does not, with and without the rights to look at everything.
#[test]
fn doctor_says_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, POLICY).unwrap();
    for config in [None, Some(policy.as_path())] {
        let mut out = Vec::new();
        let exit = flowhop::doctor::doctor(config, true, &mut out).unwrap();
        let value: Value = serde_json::from_slice(&out).unwrap();
        let root = schema("doctor");
        check(&root, &root, &value, "doctor");
        assert_eq!(value["well"] == true, exit == flowhop::exit::Exit::Done);
        if config.is_some() {
            let interfaces = value["interfaces"].as_array().unwrap();
            let names: Vec<&Value> = interfaces.iter().map(|interface| &interface["name"]).collect();
            assert_eq!(names, ["lan", "wan"]);
            assert!(interfaces.iter().all(|interface| interface["path_reason"] == "absent"));
        }
    }
    let missing = flowhop::doctor::doctor(Some(&folder.path().join("none")), false, &mut Vec::new()).unwrap();
    assert_eq!(missing, flowhop::exit::Exit::Refused);
}

#[test]
fn the_selftest_reports_as_its_schema_says() {
    use flowhop::selftest::{clause, report};
    let clauses = clause::all();
    let passed = ["driver", "skb", "user"].map(|path| (path, None)).to_vec();
    let failed = vec![("user", Some("it did not come".to_owned()))];
    let outcome = |(place, clause): (usize, &clause::Clause)| report::Result {
        clause: *clause,
        paths: if place == 0 { failed.clone() } else { passed.clone() },
    };
    let value = report::json(&clauses.iter().enumerate().map(outcome).collect::<Vec<_>>());
    let root = schema("selftest");
    check(&root, &root, &value, "selftest");
    assert_eq!((&value["failed"], &value["clauses"][0]["user"]), (&1.into(), &"fail".into()));
}
