//! `flowhop replay` on small captures: what becomes of each packet, and that it is the same twice.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test on the spot")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Ended};

use flowhop::replay::capture::{Capture, Captured, Described, LinkType};
use flowhop::replay::output::Output;
use flowhop::replay::run::Replay;
use flowhop_policy::{Source, parse};
use flowhop_wire::build::{L4, Spec, TcpFields};
use flowhop_wire::tcp_flags::{ACK, FIN, PSH, SYN};
use serde_json::Value;

const POLICY: &str = r#"
[interfaces]
lan = { device = "lan0", zone = "inside" }
wan = { device = "wan0", zone = "outside" }

[[rule]]
name = "out"
from = "inside"
to = "outside"
service = ["tcp/80", "udp/53", "icmp/echo-request"]
action = "allow"

[[rule]]
name = "no telnet"
from = "inside"
to = "outside"
service = "tcp/23"
action = "reject"

[[nat]]
name = "hide"
to = "outside"
translate.source = "interface"
"#;

const INSIDE: &str = "10.1.0.2";
const OUTSIDE: &str = "203.0.113.80";
/// What `wan` is called from outside.
const OWN: &str = "198.51.100.253";
const START: u64 = 1_700_000_000_000_000_000;
const MILLISECOND: u64 = 1_000_000;

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn tcp<'a>(ends: [SocketAddr; 2], flags: u8, [sequence, acknowledgment]: [u32; 2], payload: &'a [u8]) -> Spec<'a> {
    let [from, to] = ends;
    let fields = TcpFields {
        source_port: from.port(),
        destination_port: to.port(),
        sequence,
        acknowledgment,
        flags,
        ..TcpFields::default()
    };
    Spec::new(from.ip(), to.ip(), L4::Tcp(fields), payload)
}

/// A capture in the making: each packet goes through a replay at once, because answers have to go where the
/// translation says.
struct Making {
    replay: Replay,
    capture: Output<Vec<u8>>,
    nanos: u64,
    lines: Vec<String>,
}

impl Making {
    fn new() -> Self {
        Self::with(POLICY)
    }

    fn with(policy: &str) -> Self {
        let source = Source { name: "policy.toml".to_owned(), text: policy.to_owned() };
        let policy = parse(&[source]).unwrap().policy;
        let replay = Replay::new(policy, None, 1 << 20).unwrap();
        Self { replay, capture: Output::new(Vec::new(), false).unwrap(), nanos: START, lines: Vec::new() }
    }

    /// Sends a packet; returns the frames that came of it.
    fn send(&mut self, spec: &Spec<'_>) -> Vec<Vec<u8>> {
        self.send_in(None, spec)
    }

    /// The same for a packet that was captured on an interface of the policy, by its place.
    fn send_in(&mut self, interface: Option<usize>, spec: &Spec<'_>) -> Vec<Vec<u8>> {
        let mut bytes = spec.with_link([4, 4, 4, 4, 4, 4], [6, 6, 6, 6, 6, 6]).to_vec().unwrap();
        self.capture.write(self.nanos, &bytes).unwrap();
        let captured = Captured { nanos: self.nanos, link: LinkType::Ethernet, interface };
        let described = [Described::default(), Described::default()];
        let line = self.replay.packet(&captured, &described, &mut bytes);
        self.lines.push(format!(
            "{} {} {} {} {} {}",
            line.verdict,
            line.reason,
            line.path,
            line.rule.as_deref().unwrap_or("-"),
            line.flow.map_or("-".to_owned(), |flow| flow.to_string()),
            line.out.as_deref().unwrap_or("-")
        ));
        let sent = self.replay.sent().to_vec();
        self.replay.clear_sent();
        self.nanos += MILLISECOND * 10;
        sent
    }
}

fn port_at(frame: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([frame[offset], frame[offset + 1]])
}

/// A handshake, data and an end; a question and its answer; a ping; and what is not allowed.
fn traffic() -> Making {
    let mut m = Making::new();
    let (client, server) = (at(INSIDE, 40000), at(OUTSIDE, 80));
    let sent = m.send(&tcp([client, server], SYN, [100, 0], b""));
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0][..12], [2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 0, 2], "to the router behind wan, from wan");
    assert_eq!(sent[0][26..30], [198, 51, 100, 253]);
    let own = at(OWN, port_at(&sent[0], 34));
    let answer = m.send(&tcp([server, own], SYN | ACK, [500, 101], b""));
    assert_eq!(answer[0][30..34], [10, 1, 0, 2]);
    assert_eq!(port_at(&answer[0], 36), 40000);
    m.send(&tcp([client, server], ACK, [101, 501], b""));
    m.send(&tcp([client, server], ACK | PSH, [101, 501], b"GET /"));
    m.send(&tcp([server, own], ACK | PSH, [501, 106], b"hello"));
    m.send(&tcp([server, own], ACK, [0x4000_0000, 106], b"blind injection"));
    m.send(&tcp([client, server], ACK | FIN, [106, 506], b""));
    m.send(&tcp([server, own], ACK | FIN, [506, 107], b""));
    m.send(&tcp([client, server], ACK, [107, 507], b""));

    let sent = m.send(&Spec::udp(at(INSIDE, 5353), at(OUTSIDE, 53), b"question"));
    let own = at(OWN, port_at(&sent[0], 34));
    m.send(&Spec::udp(at(OUTSIDE, 53), own, b"answer"));
    m.send(&Spec::udp(at("203.0.113.99", 53), own, b"from somebody else"));

    let [near, far] = [INSIDE, OUTSIDE].map(|address| address.parse().unwrap());
    let sent = m.send(&Spec::echo_request(near, far, 77, 1, b"ping"));
    let identifier = port_at(&sent[0], 38);
    m.send(&Spec::echo_reply(far, OWN.parse().unwrap(), identifier, 1, b"ping"));

    m.send(&tcp([at(INSIDE, 40001), at(OUTSIDE, 25)], SYN, [1, 0], b""));
    let reset = m.send(&tcp([at(INSIDE, 40002), at(OUTSIDE, 23)], SYN, [1, 0], b""));
    assert_eq!(reset[0][26..38], [203, 0, 113, 80, 10, 1, 0, 2, 0, 23, 0x9c, 0x42], "a reset, in the server's name");
    m
}

const GOLDEN: &[&str] = &[
    "forward forwarded user out 1 wan",
    "forward forwarded skb out 1 lan",
    "forward forwarded skb out 1 wan",
    "forward forwarded skb out 1 wan",
    "forward forwarded skb out 1 lan",
    "drop tcp_window user out 1 -",
    "forward forwarded skb out 1 wan",
    "forward forwarded skb out 1 lan",
    "forward forwarded skb out 1 wan",
    "forward forwarded user out 2 wan",
    "forward forwarded skb out 2 lan",
    "drop nat_filtered user - - -",
    "forward forwarded user out 3 wan",
    "forward forwarded skb out 3 lan",
    "drop no_rule user - - -",
    "drop rule_reject user no telnet - -",
];

#[test]
fn what_becomes_of_each_packet() {
    assert_eq!(traffic().lines, GOLDEN);
}

const PUBLISHED: &str = r#"
[interfaces]
lan = { device = "lan0", zone = "inside" }
wan = { device = "wan0", zone = "outside" }

[[rule]]
name = "web"
to = "inside"
destination = "10.1.0.0/24"
service = ["tcp/8443", "tcp/22"]
action = "allow"

[[rule]]
name = "out"
from = "inside"
to = "outside"
action = "allow"

[[nat]]
name = "pairs"
to = "outside"
source = "10.1.0.16-10.1.0.19"
translate.source = "198.51.100.16-198.51.100.19"
one_to_one = true

[[nat]]
name = "hide"
to = "outside"
source = "10.0.0.0/8"
translate.source = "interface"

[[nat]]
name = "publish"
destination = ["198.51.100.1", "198.51.100.253"]
service = "tcp/443"
translate.destination = "10.1.0.80:8443"
"#;

fn ends(frame: &[u8]) -> [String; 2] {
    [(26, 34), (30, 36)].map(|(address, port)| {
        let octets: [u8; 4] = frame[address..address + 4].try_into().unwrap();
        SocketAddr::from((octets, port_at(frame, port))).to_string()
    })
}

// C8, C9, RFC 4787 REQ-9: the very same code makes published services, hairpins and pairs.
#[test]
fn published_services_hairpins_and_pairs() {
    let mut m = Making::with(PUBLISHED);
    let (lan, wan) = (Some(0), Some(1));
    let stranger = at("192.0.2.7", 5000);
    let server = at("10.1.0.80", 8443);
    // From outside; the server has never been seen. One address is the box's own, one is not.
    for (number, own) in [(0, "198.51.100.1"), (1, OWN)] {
        let stranger = at("192.0.2.7", 5000 + number);
        let sent = m.send_in(wan, &tcp([stranger, at(own, 443)], SYN, [100, 0], b""));
        assert_eq!(ends(&sent[0]), [stranger.to_string(), server.to_string()]);
        let answer = m.send_in(lan, &tcp([server, stranger], SYN | ACK, [500, 101], b""));
        assert_eq!(ends(&answer[0]), [format!("{own}:443"), stranger.to_string()]);
    }
    // From inside, by the external address: the server sees that address, not its neighbour's.
    let client = at(INSIDE, 40000);
    let sent = m.send_in(lan, &tcp([client, at(OWN, 443)], SYN, [100, 0], b""));
    let [seen, to] = ends(&sent[0]);
    assert!(seen.starts_with(OWN) && to == server.to_string(), "{seen} {to}");
    let answer = m.send_in(lan, &tcp([server, seen.parse().unwrap()], SYN | ACK, [500, 101], b""));
    assert_eq!(ends(&answer[0]), [format!("{OWN}:443"), client.to_string()]);
    let sent = m.send_in(lan, &tcp([client, at(OUTSIDE, 80)], SYN, [100, 0], b""));
    assert_eq!(ends(&sent[0])[0], seen, "one mapping for all destinations");
    // Pairs keep their ports, in both directions.
    let sent = m.send_in(lan, &tcp([at("10.1.0.18", 1234), at(OUTSIDE, 80)], SYN, [100, 0], b""));
    assert_eq!(ends(&sent[0])[0], "198.51.100.18:1234");
    let sent = m.send_in(wan, &tcp([stranger, at("198.51.100.19", 22)], SYN, [100, 0], b""));
    assert_eq!(ends(&sent[0])[1], "10.1.0.19:22");
    // The rest of an own address is the box's, the rest of a pair's is for the rules.
    m.send_in(wan, &tcp([stranger, at(OWN, 80)], SYN, [100, 0], b""));
    m.send_in(wan, &tcp([stranger, at("198.51.100.19", 23)], SYN, [100, 0], b""));
    assert_eq!(
        m.lines,
        [
            "forward forwarded user web 1 lan",
            "forward forwarded skb web 1 wan",
            "forward forwarded user web 2 lan",
            "forward forwarded skb web 2 wan",
            "forward forwarded user web 3 lan",
            "forward forwarded skb web 3 lan",
            "forward forwarded user out 4 wan",
            "forward forwarded user out 5 wan",
            "forward forwarded user web 6 lan",
            "stack local user - - -",
            "drop no_rule user - - -",
        ]
    );
}

fn replay(words: &[&str], folder: &Path) -> Ended {
    Command::new(env!("CARGO_BIN_EXE_flowhop")).arg("replay").args(words).current_dir(folder).output().unwrap()
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("policy.toml"), POLICY).unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let (_kept, folder) = folder();
    std::fs::write(folder.join("in.pcap"), traffic().capture.finish().unwrap()).unwrap();
    let runs: Vec<(Vec<u8>, Vec<u8>)> = ["a.pcap", "b.pcap"]
        .into_iter()
        .map(|out| {
            let ended = replay(&["policy.toml", "in.pcap", "-o", out, "-j"], &folder);
            assert!(ended.status.success(), "{ended:?}");
            (ended.stdout, std::fs::read(folder.join(out)).unwrap())
        })
        .collect();
    assert_eq!(runs[0], runs[1]);
    let lines: Vec<Value> =
        String::from_utf8_lossy(&runs[0].0).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), GOLDEN.len());
    for (place, (line, golden)) in lines.iter().zip(GOLDEN).enumerate() {
        assert_eq!(line["index"], place);
        assert!(golden.starts_with(&format!(
            "{} {} ",
            line["verdict"].as_str().unwrap(),
            line["reason"].as_str().unwrap()
        )));
    }
    // Thirteen are forwarded, and one reset is sent; times are those of the capture.
    let mut capture = Capture::open(&runs[0].1[..]).unwrap();
    let (mut bytes, mut times) = (Vec::new(), Vec::new());
    while let Some(captured) = capture.next(&mut bytes).unwrap() {
        times.push((captured.nanos - START) / MILLISECOND);
    }
    assert_eq!(times, [0, 10, 20, 30, 40, 60, 70, 80, 90, 100, 120, 130, 150]);
}

#[test]
fn what_is_no_capture_is_refused() {
    let (_kept, folder) = folder();
    std::fs::write(folder.join("in.pcap"), b"not a capture at all").unwrap();
    let refused = |words: &[&str], said: &str| {
        let ended = replay(words, &folder);
        let err = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!((ended.status.code(), ended.stdout.is_empty()), (Some(1), true), "{words:?}: {err}");
        assert!(err.contains(said), "{words:?}: {err}");
    };
    refused(&["policy.toml", "in.pcap", "-o", "out.pcap"], "neither a pcap nor a pcapng file");
    assert!(!folder.join("out.pcap").exists());
    refused(&["policy.toml", "absent.pcap"], "absent.pcap");
    refused(&["absent.toml", "in.pcap"], "absent.toml");
    let good = traffic().capture.finish().unwrap();
    std::fs::write(folder.join("in.pcap"), &good).unwrap();
    refused(&["policy.toml", "in.pcap", "--in", "dmz"], "no interface \"dmz\"");
    refused(&["policy.toml", "in.pcap", "-o", "in.pcap"], "both the capture to read and the one to write");
    std::fs::write(folder.join("in.pcap"), &good[..good.len() - 1]).unwrap();
    let ended = replay(&["policy.toml", "in.pcap", "-j"], &folder);
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&ended.stdout).lines().count(), GOLDEN.len() - 1, "what was whole was replayed");
}

#[test]
fn from_outside_nothing_passes() {
    let (_kept, folder) = folder();
    std::fs::write(folder.join("in.pcap"), traffic().capture.finish().unwrap()).unwrap();
    let ended = replay(&["policy.toml", "in.pcap", "--in", "wan", "-j"], &folder);
    assert!(ended.status.success());
    let text = String::from_utf8(ended.stdout).unwrap();
    assert!(!text.contains("\"verdict\":\"forward\""), "{text}");
}

/// Whatever a capture says, the program ends with an answer.
#[test]
fn damaged_packets_do_no_harm() {
    let mut made = traffic();
    let good = made.capture.finish().unwrap();
    let source = Source { name: "policy.toml".to_owned(), text: POLICY.to_owned() };
    let mut capture = Capture::open(&good[..]).unwrap();
    let mut bytes = Vec::new();
    let policy = parse(&[source]).unwrap().policy;
    made.replay = Replay::new(policy, None, 1 << 20).unwrap();
    let mut state = 1u32;
    while let Some(captured) = capture.next(&mut bytes).unwrap() {
        for length in 0..bytes.len() {
            let mut cut = bytes[..length].to_vec();
            made.replay.packet(&captured, &[], &mut cut);
            let mut damaged = bytes.clone();
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            damaged[length] ^= (state >> 24) as u8;
            made.replay.packet(&captured, &[], &mut damaged);
            made.replay.clear_sent();
        }
    }
}

// docs/nat.md, "For carriers": what a translation is to log is written on standard error, beside the packets.
#[test]
fn mappings_are_logged_on_standard_error() {
    let policy = format!("{POLICY}log = true\n");
    let mut m = Making::with(&policy);
    let question = Spec::udp(at(INSIDE, 5353), at(OUTSIDE, 53), b"question");
    let own = port_at(&m.send(&question)[0], 34);
    let about = format!("protocol=17 inside={INSIDE} inside_port=5353 external={OWN} external_port={own}");
    assert_eq!(m.replay.leases(), [format!("flowhop: nat=\"hide\" mapping=begin {about}")]);
    m.send(&question);
    assert!(m.replay.leases().is_empty());
    // Another one after the first has ended.
    m.nanos += 400_000 * MILLISECOND;
    m.send(&Spec::udp(at(INSIDE, 5354), at(OUTSIDE, 53), b"question"));
    let leases = m.replay.leases().to_vec();
    assert!(leases.contains(&format!("flowhop: nat=\"hide\" mapping=end {about}")), "{leases:?}");

    let (_kept, folder) = folder();
    std::fs::write(folder.join("policy.toml"), policy).unwrap();
    std::fs::write(folder.join("in.pcap"), m.capture.finish().unwrap()).unwrap();
    let ended = replay(&["policy.toml", "in.pcap", "-j"], &folder);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.stdout).lines().count(), 3);
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(errors.matches("mapping=begin").count(), 2, "{errors}");
    assert_eq!(errors.matches("mapping=end").count(), 1, "{errors}");
}
