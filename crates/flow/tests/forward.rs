//! The order of the checks, where the histories of the differential test do not lead: what hosts leave to the defaults, SYN
//! cookies, refusals with their reasons, and the user-level path (checklist A6, A14, B14).
#![expect(clippy::expect_used, reason = "helpers of tests fail the test on the spot")]

mod common;

use flowhop_flow::cookie::{Service, ServiceKey, origin, service_flags, state};
use flowhop_flow::forward::wire_packets;
use flowhop_flow::key::{self, Address, Key};
use flowhop_flow::parse::{self, Parsed};
use flowhop_flow::record::{Action, Adjacency, Block, Config, Gate, NextHop, Port, PortKey, Steer, config_flags};
use flowhop_flow::{Arrival, Hit, Host, Kind, Level, Packet, Reason, Verdict, forward};
use flowhop_wire::build::Spec;
use flowhop_wire::{ethertype, protocol, tcp_flags};

use common::{Buffer, parsed};

const NOW: u32 = 100_000;
const PORT: u8 = 3;
const OTHER_PORT: u8 = 4;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const INSIDE: &str = "10.0.0.2:4000";
const OUTSIDE: &str = "198.51.100.7:443";
const OWN: &str = "192.0.2.1:500";

/// One port, one entry, one neighbour.
#[derive(Default)]
struct Small<const LEVEL: u8> {
    config: Config,
    port: Port,
    block: Block,
    key: Option<Key>,
    neighbour: Adjacency,
    gate: Gate,
    service: Option<(ServiceKey, Service)>,
}

impl<const LEVEL: u8> Host for Small<LEVEL> {
    const LEVEL: Level = if LEVEL == 0 { Level::Skb } else { Level::User };

    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }
    fn port(&self, key: PortKey) -> Option<(u8, &Port)> {
        (key.ifindex <= 1).then_some((PORT + key.ifindex as u8, &self.port))
    }
    fn find(&self, key: &Key, _: u64) -> Option<Hit<'_>> {
        (self.key == Some(*key)).then_some(Hit { block: &self.block, direction: 0 })
    }
    fn adjacency(&self, _: u16) -> Option<&Adjacency> {
        Some(&self.neighbour)
    }
    fn gate(&self, _: u32) -> Option<&Gate> {
        Some(&self.gate)
    }
    fn is_local(&self, destination: &Address, _: Option<&Key>) -> bool {
        *destination == address(OWN)
    }
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.service.as_ref().filter(|(known, _)| known == key).map(|(_, service)| service)
    }
    fn origin(&self, _: &Address) -> u32 {
        origin::ANYWHERE
    }
}

/// What a host is that says nothing of what need not be said.
struct Silent(Small<0>);

impl Host for Silent {
    const LEVEL: Level = Level::Skb;

    fn config(&self) -> Option<&Config> {
        self.0.config()
    }
    fn port(&self, key: PortKey) -> Option<(u8, &Port)> {
        self.0.port(key)
    }
    fn find(&self, key: &Key, hash: u64) -> Option<Hit<'_>> {
        self.0.find(key, hash)
    }
    fn adjacency(&self, index: u16) -> Option<&Adjacency> {
        self.0.adjacency(index)
    }
    fn gate(&self, number: u32) -> Option<&Gate> {
        self.0.gate(number)
    }
    fn is_local(&self, destination: &Address, transport: Option<&Key>) -> bool {
        self.0.is_local(destination, transport)
    }
}

fn address(endpoint: &str) -> Address {
    key::address(endpoint.parse::<std::net::SocketAddr>().expect("an endpoint").ip())
}

fn small<const LEVEL: u8>() -> Small<LEVEL> {
    let small = Small::default();
    small.port.set_mac(MAC);
    small.config.heartbeat.store(NOW);
    small.config.alive_for.store(100);
    small.config.orphan_grace.store(1000);
    small.config.policy_generation.store(7);
    small.neighbour.write(&NextHop { ifindex: 9, generation: 1, flags: NextHop::RESOLVED, mtu: 1500, ..NextHop::NONE });
    small
}

/// A frame for the router.
fn frame(spec: &Spec<'_>) -> Buffer {
    Buffer { bytes: spec.with_link([2, 0, 0, 0, 0, 9], MAC).to_vec().expect("a packet"), partial: false }
}

fn udp(from: &str, to: &str) -> Buffer {
    frame(&Spec::udp(from.parse().expect("source"), to.parse().expect("destination"), b"payload"))
}

fn tcp(flags: u8) -> Buffer {
    let (from, to) = (OUTSIDE.parse().expect("source"), INSIDE.parse().expect("destination"));
    frame(&Spec::tcp(from, to, flags, b"").with_sequence(1, 1))
}

fn judge<H: Host>(host: &H, frame: &mut Buffer, ifindex: u32) -> Verdict {
    forward(host, frame, &Arrival::ethernet(ifindex, 0), NOW)
}

fn reason<H: Host>(host: &H, frame: &mut Buffer) -> (Kind, Reason) {
    let verdict = judge(host, frame, 0);
    (verdict.kind, verdict.reason)
}

/// Has the host know the flow of a frame, as this word says.
fn know<const LEVEL: u8>(small: &mut Small<LEVEL>, parsed: &Parsed, action: Action) {
    small.key = Some(parsed.key);
    let steer = Steer {
        skb: false,
        adjacency: 0,
        ingress: PORT,
        action,
        pending: false,
        epoch: 0,
        policy_generation: 7,
        adjacency_generation: 1,
    };
    small.block.hot[0].steer.store(steer.pack());
}

#[test]
fn what_hosts_and_packets_need_not_say() {
    let host = Silent(small());
    assert!(host.service(&ServiceKey::default()).is_none());
    // Nobody is answered whose origin nobody knows.
    assert_eq!(host.origin(&[0; 4]), origin::ASK);
    assert!(host.sends_back(PORT));
    let frame = udp(INSIDE, OUTSIDE);
    assert!(!frame.head(&mut [0; flowhop_flow::shadow::HEAD], 0));
}

#[test]
fn a_refused_flow_is_dropped_for_the_reason_that_it_was_refused_for() {
    let mut packet = udp(INSIDE, OUTSIDE);
    let mut small = small::<0>();
    know(&mut small, &parsed(&packet), Action::Drop);
    for (noted, expected) in [
        (Reason::NoRule as u32, Reason::NoRule),
        (Reason::RuleDrop as u32, Reason::RuleDrop),
        (Reason::Miss as u32, Reason::FlowDropped),
        (0, Reason::FlowDropped),
    ] {
        small.block.hot[0].service.store(noted);
        assert_eq!(reason(&small, &mut packet).1, expected, "{noted}");
    }
}

#[test]
fn a_refusal_is_about_its_port_and_its_policy() {
    let mut packet = udp(INSIDE, OUTSIDE);
    let mut small = small::<0>();
    know(&mut small, &parsed(&packet), Action::Drop);
    assert_eq!(reason(&small, &mut packet), (Kind::Drop, Reason::FlowDropped));
    let elsewhere = judge(&small, &mut packet, 1);
    assert_eq!((elsewhere.port, elsewhere.reason), (OTHER_PORT, Reason::SlowPath));
    small.config.policy_generation.store(8);
    assert_eq!(reason(&small, &mut packet), (Kind::HandDown, Reason::SlowPath));
    // One that is about to be in force has judged it already.
    small.config.policy_generation.store(6);
    assert_eq!(reason(&small, &mut packet), (Kind::Drop, Reason::FlowDropped));
}

// A fragment's ports are not known, so that it is the box's own by its address alone.
#[test]
fn what_cannot_be_parsed_is_local_or_stays_on_its_link_before_it_is_an_exception() {
    let small = small::<0>();
    let fragment = |to: &str| {
        let mut packet = udp(INSIDE, to);
        packet.bytes[20] = 0x20;
        seal(&mut packet);
        packet
    };
    assert_eq!(reason(&small, &mut fragment(OUTSIDE)), (Kind::HandDown, Reason::Fragment));
    assert_eq!(reason(&small, &mut fragment(OWN)), (Kind::Stack, Reason::Local));
    assert_eq!(reason(&small, &mut fragment("224.0.0.251:5353")), (Kind::Stack, Reason::LinkLocal));
    // The slow path puts together what policy judges, and asks about its own addresses itself.
    let user = self::small::<1>();
    assert_eq!(reason(&user, &mut fragment(OWN)).1, Reason::Fragment);
    small.config.flags.store(config_flags::JUDGE_LOCAL);
    assert_eq!(reason(&small, &mut fragment(OWN)), (Kind::HandDown, Reason::Fragment));
}

fn seal(packet: &mut Buffer) {
    packet.bytes[24..26].fill(0);
    let sum = flowhop_wire::checksum::finish(flowhop_wire::checksum::sum(&packet.bytes[14..34]));
    packet.bytes[24..26].copy_from_slice(&sum.to_be_bytes());
}

// RFC 4987 section 3.6: answered while cookies are on, by a box whose daemon lives.
#[test]
fn syns_are_answered_while_cookies_are_on_and_the_daemon_lives() {
    let mut small = small::<0>();
    let syn = tcp(tcp_flags::SYN);
    let service = Service::default();
    service.word.store(1460);
    service.ports[0].store(1 << PORT);
    small.service = Some((ServiceKey::of(&parsed(&syn).key), service));
    let judged = |small: &Small<0>| reason(small, &mut tcp(tcp_flags::SYN));
    assert_eq!(judged(&small), (Kind::HandDown, Reason::Miss));
    small.config.cookies.state.store(state::ANSWER);
    assert_eq!(judged(&small).1, Reason::SynCookie);
    // At the last moment that it counts as alive, and after it.
    small.config.heartbeat.store(NOW - 100);
    assert_eq!(judged(&small).1, Reason::SynCookie);
    small.config.heartbeat.store(NOW - 101);
    assert_eq!(judged(&small), (Kind::Drop, Reason::NoDaemon));
    // `ALWAYS` is a matter of a state that is on.
    small.config.heartbeat.store(NOW);
    small.config.cookies.state.store(0);
    small.service.iter().for_each(|(_, service)| service.word.store(1460 | service_flags::ALWAYS));
    assert_eq!(judged(&small), (Kind::HandDown, Reason::Miss));
    // An acknowledgment of nothing.
    small.config.cookies.state.store(state::ACCEPT);
    assert_eq!(reason(&small, &mut tcp(tcp_flags::ACK)).1, Reason::CookieRefused);
}

// What a program forwards is counted and stamped; a packet that the slow path forwards by an entry is judged alike.
#[test]
fn the_user_path_forwards_what_programs_leave_to_it() {
    let mut small = small::<1>();
    let mut packet = udp(INSIDE, OUTSIDE);
    let parsed = parsed(&packet);
    assert_eq!((parsed.key.family(), packet.bytes[12..14] == ethertype::IPV4.to_be_bytes()), (4, true));
    assert_eq!(parsed.key.protocol(), protocol::UDP);
    know(&mut small, &parsed, Action::User);
    // No grace for orphans where the daemon itself judges.
    small.config.heartbeat.store(NOW - 5000);
    let verdict = judge(&small, &mut packet, 0);
    assert_eq!((verdict.kind, verdict.hop.ifindex), (Kind::Forward, 9));
    assert_eq!(small.block.hot[0].traffic.read().0, 1);
    assert_eq!(small.block.hot[0].last_seen.load(), NOW);
}

// Links without a header (tun, ppp, WireGuard): the first four bits say what it is.
#[test]
fn a_packet_without_a_link_header_is_told_by_its_version() {
    let (mut small, host) = (small::<0>(), "[fd00::2]:4000");
    let bare = |packet: &Buffer| Buffer { bytes: packet.bytes[14..].to_vec(), partial: false };
    let arrival = Arrival { network: 0, ..Arrival::ethernet(0, 0) };
    for (from, to) in [(INSIDE, OUTSIDE), (host, "[2001:db8::7]:443")] {
        let packet = udp(from, to);
        know(&mut small, &parsed(&packet), Action::Forward);
        assert_eq!(forward(&small, &mut bare(&packet), &arrival, NOW).kind, Kind::Forward, "{from}");
        for version in [0, 5, 7, 15] {
            let mut other = bare(&packet);
            other.bytes[0] = version << 4 | other.bytes[0] & 15;
            assert_eq!(forward(&small, &mut other, &arrival, NOW).reason, Reason::NotIp, "version {version}");
        }
    }
    let nothing = Buffer { bytes: Vec::new(), partial: false };
    assert_eq!(forward(&small, &mut { nothing }, &arrival, NOW).reason, Reason::NotIp);
}

// RFC 6864: each packet that a super-packet is cut into has an identification of its own.
#[test]
fn a_super_packet_is_as_many_as_it_may_be_cut_into() {
    let (from, to) = (INSIDE.parse().expect("source"), OUTSIDE.parse().expect("destination"));
    let whole = parsed(&frame(&Spec::udp(from, to, &[0; 4000 - 28])));
    assert_eq!(whole.length, 4000);
    for (segment, packets) in [(0, 1), (1400, 3), (4000, 2), (4001, 1), (1, 4001)] {
        assert_eq!(wire_packets(&whole, segment), packets, "{segment}");
    }
}

// RFC 6887 section 8.1: an IPv6 host knows its router by a link-local address, and asks it there.
#[test]
fn requests_for_mappings_are_no_matter_of_the_link_where_there_is_a_server() {
    let small = small::<0>();
    let ask = |to: &str| reason(&small, &mut udp("[fe80::2]:4000", to)).1;
    assert_eq!(ask("[fe80::1]:5351"), Reason::LinkLocal);
    small.config.flags.store(config_flags::SERVES);
    assert_eq!(ask("[fe80::1]:5351"), Reason::Miss);
    for other in ["[fe80::1]:5352", "[ff02::1]:5351"] {
        assert_eq!(ask(other), Reason::LinkLocal, "{other}");
    }
    assert_eq!(reason(&small, &mut udp(INSIDE, "224.0.0.1:5351")).1, Reason::LinkLocal);
    let (from, to) = ("[fe80::2]:4000".parse().expect("source"), "[fe80::1]:5351".parse().expect("destination"));
    assert_eq!(reason(&small, &mut frame(&Spec::tcp(from, to, tcp_flags::SYN, b""))).1, Reason::LinkLocal);
}

// A clock that lags a little is no silence, and a daemon that is long dead does not come alive when the clock wraps.
#[test]
fn silence_is_told_from_a_clock_that_lags_and_from_one_that_wraps() {
    const LAG: u32 = 4096;
    const LONGEST: u32 = 1 << 31;
    let small = small::<0>();
    let judged = |heartbeat: u32| {
        small.config.heartbeat.store(heartbeat);
        (reason(&small, &mut udp(INSIDE, OUTSIDE)).1, small.config.heartbeat.load())
    };
    assert_eq!(judged(NOW + LAG), (Reason::Miss, NOW + LAG));
    assert_eq!(judged(NOW + LAG + 1), (Reason::NoDaemon, NOW.wrapping_sub(LONGEST)));
    assert_eq!(judged(NOW.wrapping_sub(LONGEST - 1)).1, NOW.wrapping_sub(LONGEST - 1));
    assert_eq!(judged(NOW.wrapping_sub(LONGEST + 9)), (Reason::NoDaemon, NOW.wrapping_sub(LONGEST)));
}

// RFC 768, RFC 9293: a length of less than a header is a bad header, but only where there is a header.
#[test]
fn what_lies_behind_the_packet_is_no_header() {
    let small = small::<0>();
    let with = |ip_length: u8, udp_length: u8| {
        let mut packet = udp(INSIDE, OUTSIDE);
        packet.bytes[16..18].copy_from_slice(&[0, ip_length]);
        packet.bytes[38..40].copy_from_slice(&[0, udp_length]);
        seal(&mut packet);
        reason(&small, &mut packet).1
    };
    assert_eq!(with(20, 0), Reason::Truncated);
    assert_eq!(with(27, 7), Reason::Truncated);
    assert_eq!(with(28, 7), Reason::BadHeader);
    assert_eq!(with(28, 9), Reason::Truncated);
    assert_eq!(with(28, 8), Reason::Miss);
    let with = |ip_length: u8, offset: u8| {
        let mut packet = tcp(tcp_flags::ACK);
        packet.bytes[16..18].copy_from_slice(&[0, ip_length]);
        packet.bytes[46] = offset << 4;
        seal(&mut packet);
        reason(&small, &mut packet).1
    };
    assert_eq!([with(20, 0), with(39, 4), with(39, 5)], [Reason::Truncated; 3]);
    assert_eq!([with(40, 4), with(40, 5)], [Reason::BadHeader, Reason::Miss]);
}

// RFC 8200 section 4: headers that a walk went through may be longer than the packet says that it is.
#[test]
fn a_transport_header_beyond_the_end_is_truncated() {
    let packet = udp(INSIDE, OUTSIDE);
    let whole = parsed(&packet);
    let reason = |length| parse::transport(&packet, Parsed { length, ..whole }).map_err(|exception| exception.reason);
    assert!(reason(whole.length).is_ok());
    for length in [0, 19, 20, 27] {
        assert_eq!(reason(length).err(), Some(Reason::Truncated), "{length}");
    }
}
