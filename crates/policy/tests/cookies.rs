//! When SYNs to published services are answered with cookies: what an entry means that says so, or nothing.
#![expect(clippy::panic, reason = "helpers of tests: a panic is their report")]

use flowhop_policy::{NatRule, Source, SynCookies, parse};

const BASE: &str = "interfaces.lan = { device = \"lan0\", zone = \"inside\" }\n";

fn nat(text: &str) -> NatRule {
    let text = format!("{BASE}[[nat]]\nname = \"a\"\n{text}\n");
    let source = Source { name: "p.toml".to_owned(), text };
    parse(&[source]).unwrap_or_else(|faults| panic!("{}", faults[0])).policy.nats.remove(0)
}

const SERVER: &str = "translate.destination = \"10.1.0.80\"";

#[test]
fn nothing_said_is_auto_where_that_can_be() {
    for (text, expected, endpoints) in [
        ("destination = \"198.51.100.1\"\nservice = \"tcp/443\"", SynCookies::Auto, 1),
        ("destination = \"198.51.100.0/28\"\nservice = [\"tcp/1-64\", \"udp/9\"]", SynCookies::Auto, 1024),
        ("destination = \"198.51.100.0/28\"\nservice = \"tcp/1-65\"", SynCookies::Off, 1040),
        ("destination = \"198.51.100.1\"\nservice = \"udp/443\"", SynCookies::Off, 0),
        ("destination = \"198.51.100.1\"", SynCookies::Off, 65536),
        ("destination = \"198.51.100.1\"\nservice = \"tcp/443\"\nsource = \"10.0.0.0/8\"", SynCookies::Off, 1),
        ("destination = \"198.51.100.1\"\nservice = \"tcp/443\"\nsyn_cookies = \"always\"", SynCookies::Always, 1),
        ("destination = \"198.51.100.1\"\nservice = \"tcp/443\"\nsyn_cookies = \"off\"", SynCookies::Off, 1),
    ] {
        let nat = nat(&format!("{text}\n{SERVER}"));
        assert_eq!(nat.syn_cookies, expected, "{text}");
        assert_eq!(nat.translate_destination.map(|translation| translation.tcp_endpoints()), Some(endpoints), "{text}");
    }
    let hidden = nat("to = \"inside\"\ntranslate.source = \"interface\"");
    assert_eq!(hidden.syn_cookies, SynCookies::Off);
    let all = nat("family = \"ipv6\"\ndestination = \"::/0\"\ntranslate.destination = \"fd00::80\"");
    assert_eq!(all.translate_destination.map(|translation| translation.tcp_endpoints()), Some(u128::MAX));
}
