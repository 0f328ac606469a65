//! Hosts that ask for mappings (RFC 6887), and what they may not have.

mod filters;
mod hostile;
mod pinholes;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use flowhop_flow::{Kind, Reason};
use flowhop_routing::Event;
use flowhop_wire::build::Spec;
use flowhop_wire::pcp::{self, Filter, Map, RequestHeader, ResponseHeader, ResultCode, opcode};
use flowhop_wire::protocol::{TCP, UDP};

use crate::bed::{Bed, LAN, WAN, at, ends, ip, is_sound};
use crate::mapping::udp;
use crate::translation::syn;

/// Nothing comes in but what is asked for.
pub(crate) const PCP: &str = "[pcp]\nfrom = \"inside\"\nto = \"outside\"\n";
const OUT: &str = "[[rule]]\nname = \"out\"\nfrom = \"inside\"\nto = \"outside\"\naction = \"allow\"\n";
const HIDE: &str = "[[nat]]\nname = \"hide\"\nto = \"outside\"\ntranslate.source = \"interface\"\n";
const SECOND: u32 = 954;
const HOST: &str = "10.1.0.2";
const REMOTE: &str = "198.51.100.2:50000";
const NONCE: [u8; 12] = *b"nobody knows";

pub(crate) fn policy(more: &str) -> String {
    format!("{OUT}{HIDE}{PCP}{more}")
}

/// A request, as a host with that address makes it.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) host: &'a str,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) lifetime: u32,
    pub(crate) suggested: &'a str,
    pub(crate) nonce: [u8; 12],
    pub(crate) options: &'a [u8],
}

impl<'a> Ask<'a> {
    pub(crate) const fn new(protocol: u8, port: u16) -> Self {
        Self { host: HOST, protocol, port, lifetime: 3600, suggested: "0.0.0.0:0", nonce: NONCE, options: &[] }
    }

    pub(crate) const fn of(self, host: &'a str) -> Self {
        Self { host, ..self }
    }

    pub(crate) const fn lasting(self, lifetime: u32) -> Self {
        Self { lifetime, ..self }
    }

    pub(crate) const fn like(self, suggested: &'a str) -> Self {
        Self { suggested, ..self }
    }

    pub(crate) const fn with(self, options: &'a [u8]) -> Self {
        Self { options, ..self }
    }

    pub(crate) const fn knowing(self, nonce: [u8; 12]) -> Self {
        Self { nonce, ..self }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header = RequestHeader {
            version: pcp::VERSION,
            opcode: opcode::MAP,
            reserved: 0.into(),
            lifetime: self.lifetime.into(),
            client: mapped(ip(self.host)),
        };
        let suggested = at(self.suggested);
        let map = Map {
            nonce: self.nonce,
            protocol: self.protocol,
            reserved: [0; 3],
            internal_port: self.port.into(),
            external_port: suggested.port().into(),
            external_address: mapped(suggested.ip()),
        };
        [header.bytes(), map.bytes(), self.options].concat()
    }
}

pub(crate) fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An answer: result, lifetime, external endpoint, epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) result: u8,
    pub(crate) lifetime: u32,
    pub(crate) external: SocketAddr,
    pub(crate) epoch: u32,
    pub(crate) whole: Vec<u8>,
}

impl Bed {
    /// What a host's message to the server is answered with, if it is answered.
    pub(crate) fn tell(&mut self, host: &str, message: &[u8]) -> Result<Vec<u8>, Reason> {
        let server = if ip(host).is_ipv4() { "10.1.0.1" } else { "fd00:0:0:1::1" };
        let (from, to) = (SocketAddr::new(ip(host), 5555), SocketAddr::new(ip(server), pcp::SERVER_PORT));
        self.outside.sent.clear();
        let outcome = self.send(LAN, &Spec::udp(from, to, message));
        if outcome.kind != Kind::Consume {
            assert!(self.outside.sent.is_empty());
            return Err(outcome.reason);
        }
        let (port, frame) = self.last();
        assert!(is_sound(&frame) && self.outside.sent.is_empty());
        assert_eq!((port, ends(&frame)), (LAN, (to, from)));
        let answer = frame[if ip(host).is_ipv4() { 42 } else { 62 }..].to_vec();
        let refused = answer[3] != 0;
        assert_eq!(outcome.reason, if refused { Reason::PcpRefused } else { Reason::PcpAnswered });
        Ok(answer)
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, ask: &Ask<'_>) -> Got {
        let whole = self.tell(ask.host, &ask.bytes()).unwrap();
        let (header, rest) = ResponseHeader::split(&whole).unwrap();
        let (map, _) = Map::split(rest).unwrap();
        assert_eq!((header.version, header.opcode, header.reserved), (2, 0x81, 0));
        assert_eq!((map.nonce, map.protocol, map.internal_port.get()), (ask.nonce, ask.protocol, ask.port));
        let external = SocketAddr::new(Ipv6Addr::from(map.external_address).to_canonical(), map.external_port.get());
        Got { result: header.result, lifetime: header.lifetime.get(), external, epoch: header.epoch.get(), whole }
    }

    /// The external endpoint that a host is granted.
    #[track_caller]
    pub(crate) fn granted(&mut self, ask: &Ask<'_>) -> SocketAddr {
        let got = self.ask(ask);
        assert_eq!(got.result, 0, "{got:?}");
        got.external
    }

    #[track_caller]
    pub(crate) fn denied(&mut self, ask: &Ask<'_>, result: ResultCode) -> u32 {
        let got = self.ask(ask);
        assert_eq!(got.result, result as u8, "{got:?}");
        assert_eq!(got.external, at(ask.suggested), "copied");
        got.lifetime
    }

    /// Whether a stranger's SYN to an external endpoint arrives at this host and port; its rule then.
    #[track_caller]
    pub(crate) fn reached(&mut self, from: &str, external: SocketAddr, inside: &str) -> bool {
        let outcome = self.send(WAN, &syn(from, &external.to_string()));
        if outcome.kind != Kind::Forward {
            assert!(matches!(outcome.kind, Kind::Drop | Kind::Hold | Kind::Stack), "{outcome:?}");
            return false;
        }
        let (port, frame) = self.last();
        assert!(is_sound(&frame));
        assert_eq!((port, ends(&frame)), (LAN, (at(from), at(inside))));
        true
    }
}

// RFC 6887 section 10.1, RFC 6888 REQ-9: a host that asks for it can be reached, and is known by the same endpoint when
// it sends itself (section 11.3).
#[test]
fn a_host_that_asks_can_be_reached() {
    let mut bed = Bed::with(&policy(""));
    assert!(!bed.reached(REMOTE, at("198.51.100.1:8080"), "10.1.0.2:8080"));
    let got = bed.ask(&Ask::new(TCP, 8080));
    assert_eq!((got.result, got.lifetime, got.external), (0, 3600, at("198.51.100.1:8080")));
    assert!(bed.reached(REMOTE, got.external, "10.1.0.2:8080"));
    let (_, answer, _) = bed.passes(LAN, &Spec::tcp(at("10.1.0.2:8080"), at(REMOTE), 0x12, &[]).with_sequence(7, 1001));
    assert_eq!(answer, got.external);
    // Nothing else was opened: section 11.3.
    assert_eq!(bed.send(WAN, &udp(REMOTE, got.external)).kind, Kind::Stack);
    let seen = bed.connects([LAN, WAN], "10.1.0.2:8080", "198.51.100.3:80").0;
    assert_eq!(seen, got.external);
    let udp_got = bed.granted(&Ask::new(UDP, 8080));
    assert_eq!(bed.seen("10.1.0.2:8080", "198.51.100.3:53"), udp_got);
    bed.ask(&Ask::new(TCP, 8080).lasting(0));
    bed.ask(&Ask::new(UDP, 8080).lasting(0));
    bed.ends_clean();
}

// RFC 6887 section 11.3, 4: what is sent before says which external endpoint it is, and outlives the mapping.
#[test]
fn a_mapping_that_is_there_already_is_the_one_that_is_granted() {
    let mut bed = Bed::with(&policy(""));
    let seen = bed.seen("10.1.0.2:4000", "198.51.100.2:53");
    let other = "198.51.100.3:53";
    assert_eq!(bed.send(WAN, &udp(other, seen)).reason, Reason::NatFiltered);
    assert_eq!(bed.granted(&Ask::new(UDP, 4000).like("198.51.100.1:20000")), seen);
    assert_eq!(bed.send(WAN, &udp(other, seen)).kind, Kind::Forward);
    assert_eq!(bed.ask(&Ask::new(UDP, 4000).lasting(0)).result, 0);
    assert_eq!(bed.send(WAN, &udp("198.51.100.3:54", seen)).reason, Reason::NatFiltered);
    assert_eq!(bed.send(WAN, &udp(other, seen)).kind, Kind::Forward, "what came in goes on");
    assert_eq!(bed.seen("10.1.0.2:4000", "198.51.100.2:54"), seen);
    // Section 15.1: an outbound mapping is not deleted.
    bed.denied(&Ask::new(UDP, 4000).lasting(0), ResultCode::NotAuthorized);
    assert_eq!(bed.ask(&Ask::new(UDP, 4001).lasting(0)).result, 0, "nothing to delete");
    bed.ends_clean();
}

// RFC 6887 section 15: for as long as its lifetime, within the bounds of the policy; renewed by the same request.
#[test]
fn a_mapping_lasts_as_long_as_it_was_granted() {
    let mut bed = Bed::with(&policy("min_lifetime = \"2m\"\nmax_lifetime = \"10m\"\n"));
    let ask = Ask::new(TCP, 8080);
    for (asked, granted) in [(1, 120), (300, 300), (u32::MAX, 600)] {
        assert_eq!(bed.ask(&ask.lasting(asked)).lifetime, granted);
    }
    let external = bed.granted(&ask.lasting(120));
    bed.pass(100 * SECOND);
    assert_eq!(bed.granted(&ask.lasting(120).like("198.51.100.9:7777")), external, "regardless of what is suggested");
    bed.pass(110 * SECOND);
    assert!(bed.reached(REMOTE, external, "10.1.0.2:8080"));
    bed.pass(12 * SECOND);
    assert!(!bed.reached("198.51.100.3:1", external, "10.1.0.2:8080"));
    // RFC 6888 REQ-8: its port is another host's not before it has rested.
    let other = Ask::new(TCP, 8080).of("10.1.0.3").like("198.51.100.1:8080");
    bed.pass(300 * SECOND);
    assert_ne!(bed.granted(&other), external, "the stranger's half-open connection has ended just now");
    assert_eq!(bed.granted(&ask.like("198.51.100.1:8080")), external, "it is still its own");
}

// RFC 6887 section 11.3: who does not know the nonce changes nothing, and is told for how long.
#[test]
fn who_does_not_know_the_nonce_changes_nothing() {
    let mut bed = Bed::with(&policy(""));
    let ask = Ask::new(TCP, 8080).lasting(1000);
    let external = bed.granted(&ask);
    bed.pass(100 * SECOND);
    for lifetime in [0, 1, 5000] {
        let left = bed.denied(&ask.lasting(lifetime).knowing([0; 12]), ResultCode::NotAuthorized);
        assert!((895..=901).contains(&left), "{left}");
    }
    assert!(bed.reached(REMOTE, external, "10.1.0.2:8080"));
    assert_eq!(bed.ask(&ask.lasting(0).like("198.51.100.77:77")).external, at("198.51.100.77:77"), "copied: 15.1");
    assert!(!bed.reached("198.51.100.3:1", external, "10.1.0.2:8080"));
    assert_eq!(bed.ask(&ask.lasting(0)).result, 0, "the same again has the same answer");
}

// RFC 6887 sections 11.3 and 13.2: what is suggested is given if it can be, and else something else, unless nothing else
// will do.
#[test]
fn what_is_suggested_is_a_hint_unless_nothing_else_will_do() {
    let publish = "[[nat]]\nname = \"web\"\ndestination = \"198.51.100.1\"\nservice = \"tcp/8443\"\n\
                   translate.destination = \"10.1.0.80\"\n";
    let mut bed = Bed::with(&format!("{publish}{}", policy("")));
    assert_eq!(bed.granted(&Ask::new(TCP, 80).like("198.51.100.1:8081")), at("198.51.100.1:8081"));
    let prefer = [2, 0, 0, 0];
    let other = Ask::new(TCP, 80).of("10.1.0.3");
    // Taken, the box's own services and clients, a published service, another address, none at all.
    for suggested in [
        "198.51.100.1:8081",
        "198.51.100.1:22",
        "198.51.100.1:40000",
        "198.51.100.1:8443",
        "198.51.100.2:8082",
        "127.0.0.1:8082",
        "224.0.0.1:8082",
    ] {
        let ask = other.like(suggested);
        bed.denied(&ask.with(&prefer), ResultCode::CannotProvideExternal);
        let got = bed.granted(&ask);
        assert_eq!(got.ip(), ip("198.51.100.1"));
        assert!(got.port() >= 1024 && ![8081, 8443].contains(&got.port()), "{got}");
        bed.ask(&ask.lasting(0));
    }
    // Section 11.3: never these, whoever asks.
    for port in [5350, 5351] {
        let suggested = format!("198.51.100.1:{port}");
        bed.denied(&Ask::new(UDP, port).like(&suggested).with(&prefer), ResultCode::CannotProvideExternal);
        assert!(![5350, 5351].contains(&bed.granted(&Ask::new(UDP, port)).port()));
    }
    let exact = Ask::new(TCP, 90).like("198.51.100.1:9090").with(&prefer);
    let got = bed.ask(&exact);
    assert_eq!((got.external, got.whole.len(), &got.whole[60..]), (at("198.51.100.1:9090"), 64, &prefer[..]));
    assert_eq!(bed.granted(&exact), at("198.51.100.1:9090"));
    bed.denied(&exact.like("198.51.100.1:9091"), ResultCode::CannotProvideExternal);
    bed.denied(&exact.like("198.51.100.1:0"), ResultCode::MalformedOption);
    bed.denied(&exact.lasting(0), ResultCode::MalformedOption);
    // Section 11.3: what is published is static.
    let static_one = bed.ask(&Ask::new(TCP, 8443).of("10.1.0.80"));
    assert_eq!((static_one.lifetime, static_one.external), (u32::MAX, at("198.51.100.1:8443")));
    bed.denied(&Ask::new(TCP, 8443).of("10.1.0.80").lasting(0), ResultCode::NotAuthorized);
}

// RFC 6887 sections 7.3, 11.3, 13.1: requests that are refused, and how.
#[test]
fn requests_are_refused_with_the_result_that_the_section_names() {
    let mut bed = Bed::with(&policy("source = [\"10.1.0.0/24\", \"!10.1.0.66\"]\nlimit = 3\n"));
    let third = |address: &str| [&[1, 0, 0, 16][..], &mapped(ip(address))].concat();
    let (other, own) = (third("10.1.0.3"), third(HOST));
    let ask = Ask::new(TCP, 8080);
    for (ask, result) in [
        (ask.with(&other), ResultCode::UnsupportedOption),
        (ask.with(&own), ResultCode::MalformedRequest),
        (ask.with(&[1, 0, 0, 0]), ResultCode::MalformedOption),
        (ask.with(&[99, 0, 0, 0]), ResultCode::UnsupportedOption),
        (ask.with(&[2, 0, 0, 4, 0, 0, 0, 0]).like("198.51.100.1:99"), ResultCode::MalformedOption),
        (ask.with(&[2, 0, 0, 0, 2, 0, 0, 0]).like("198.51.100.1:99"), ResultCode::MalformedOption),
        (ask.of("10.1.0.66"), ResultCode::NotAuthorized),
        (ask.of("10.2.0.2"), ResultCode::NotAuthorized),
        (Ask::new(0, 8080), ResultCode::MalformedRequest),
        (Ask::new(0, 8080).lasting(0), ResultCode::MalformedRequest),
        (Ask::new(0, 0), ResultCode::UnsupportedProtocol),
        (Ask::new(TCP, 0), ResultCode::UnsupportedProtocol),
        (Ask::new(132, 5000), ResultCode::UnsupportedProtocol),
        (Ask::new(1, 0), ResultCode::UnsupportedProtocol),
    ] {
        assert_eq!(bed.denied(&ask, result), 1800);
    }
    // Optional ones are ignored, and not in the answer.
    assert_eq!(bed.ask(&ask.with(&[200, 0, 0, 2, 1, 2, 0, 0])).whole.len(), 60);
    for wildcard in [Ask::new(0, 0), Ask::new(TCP, 0)] {
        assert_eq!(bed.ask(&wildcard.lasting(0)).result, 0);
    }
    bed.granted(&Ask::new(TCP, 8081));
    bed.granted(&Ask::new(UDP, 8081));
    assert_eq!(bed.denied(&Ask::new(TCP, 8082), ResultCode::UserExceedsQuota), 30);
    bed.granted(&Ask::new(TCP, 8082).of("10.1.0.3"));
    bed.granted(&Ask::new(TCP, 8081));
    bed.ask(&Ask::new(TCP, 8081).lasting(0));
    bed.granted(&Ask::new(TCP, 8082));
    // Section 8.2: an inner translator that does not know of this.
    let mut elsewhere = ask.bytes();
    elsewhere[23] = 99;
    let answer = bed.tell(HOST, &elsewhere).unwrap();
    assert_eq!((answer[3], &answer[12..24]), (ResultCode::AddressMismatch as u8, &[0; 12][..]));
}

// RFC 6887 sections 8.5, 9 and 14.1, RFC 6886 section 3.5.
#[test]
fn announcements_are_answered_and_other_versions_refused() {
    let mut bed = Bed::with(&policy(""));
    bed.pass(100);
    let header = |version, opcode| {
        let client = mapped(ip(HOST));
        RequestHeader { version, opcode, reserved: 0.into(), lifetime: 0.into(), client }.bytes().to_vec()
    };
    bed.pass(77 * SECOND);
    let answer = bed.tell(HOST, &header(2, 0)).unwrap();
    assert_eq!((&answer[..8], answer.len()), (&[2, 0x80, 0, 0, 0, 0, 0, 0][..], 24));
    let epoch = u32::from_be_bytes(answer[8..12].try_into().unwrap());
    assert!((76..=78).contains(&epoch), "{epoch}");
    let mismatch = [&header(2, 0)[..8], &mapped(ip("10.1.0.99"))].concat();
    assert_eq!(bed.tell(HOST, &mismatch).unwrap()[3], ResultCode::AddressMismatch as u8);
    let options = [header(2, 0), vec![99, 0, 0, 0]].concat();
    assert_eq!(bed.tell(HOST, &options).unwrap()[3], ResultCode::UnsupportedOption as u8);
    let filter = [header(2, 0), vec![2, 0, 0, 0]].concat();
    assert_eq!(bed.tell(HOST, &filter).unwrap()[3], ResultCode::MalformedOption as u8);
    // NAT-PMP's question for the external address.
    let answer = bed.tell(HOST, &[0, 0]).unwrap();
    assert_eq!(answer[..4], [2, 0x80, 0, 1]);
    for version in [1, 3, 255] {
        assert_eq!(bed.tell(HOST, &header(version, 1)).unwrap()[..4], [2, 0x81, 0, 1]);
    }
    let peer = [header(2, 2), vec![0; 56]].concat();
    assert_eq!(bed.tell(HOST, &peer).unwrap()[..4], [2, 0x82, 0, 4], "PEER is not spoken");
    assert_eq!(bed.tell(HOST, &header(2, 2)).unwrap()[3], ResultCode::MalformedRequest as u8);
}

/// The payloads of announcements that were sent, in order; they leave by the inside interface.
fn announced(bed: &mut Bed) -> Vec<(SocketAddr, u32)> {
    let sent = std::mem::take(&mut bed.outside.sent);
    let read = |(port, frame): (u8, Vec<u8>)| {
        assert!(is_sound(&frame));
        let (source, destination) = ends(&frame);
        assert_eq!((port, source.port(), destination.port()), (LAN, pcp::SERVER_PORT, pcp::CLIENT_PORT));
        let v4 = destination.is_ipv4();
        assert_eq!(frame[..6], if v4 { [1, 0, 0x5e, 0, 0, 1] } else { [0x33, 0x33, 0, 0, 0, 1] });
        let payload = &frame[if v4 { 42 } else { 62 }..];
        assert_eq!((&payload[..8], payload.len()), (&[2, 0x80, 0, 0, 0, 0, 0, 0][..], 24));
        (destination, u32::from_be_bytes(payload[8..12].try_into().unwrap()))
    };
    sent.into_iter().map(read).collect()
}

// RFC 6887 sections 8.5, 14.1.3: at start, and when the box loses the address that mappings are at.
#[test]
fn all_hosts_are_told_when_state_is_lost() {
    let mut bed = Bed::with(&policy(""));
    bed.turn();
    // From each of its addresses there.
    let groups = [at("224.0.0.1:5350"), at("224.0.0.1:5350"), at("[ff02::1]:5350")];
    assert_eq!(announced(&mut bed), groups.map(|group| (group, 0)));
    for (pause, told) in [(200, 0), (60, 3), (400, 0), (100, 3), (900, 0), (100, 3), (100_000, 0)] {
        bed.now += pause;
        bed.turn();
        let all = announced(&mut bed);
        assert_eq!(all.len(), told, "after {pause}");
    }
    let ask = Ask::new(TCP, 8080);
    assert!(bed.ask(&ask).epoch > 100);
    bed.add_address(12, "198.51.100.8", 24);
    bed.pass(2 * SECOND);
    assert!(bed.ask(&ask).epoch > 100, "one more is no loss");
    bed.event(Event::AddressGone { ifindex: 12, address: ip("198.51.100.1"), prefix_len: 24 });
    bed.outside.sent.clear();
    bed.pass(2 * SECOND);
    assert!(announced(&mut bed).len() >= 6);
    let got = bed.ask(&ask);
    assert!(got.epoch < 5 && got.external.ip() != ip("198.51.100.1"), "{got:?}");
}

// RFC 6887 section 8.2: only from where a client is expected; everywhere else, and without the table, it is the kernel's.
#[test]
fn only_zones_that_are_named_are_served() {
    let mut bed = Bed::with(&policy(""));
    let message = Ask::new(TCP, 80).bytes();
    let sent =
        |bed: &mut Bed, port, from: &str, to: &str| bed.send(port, &Spec::udp(at(from), at(to), &message)).reason;
    assert_eq!(sent(&mut bed, WAN, REMOTE, "198.51.100.1:5351"), Reason::Local);
    assert_eq!(sent(&mut bed, WAN, REMOTE, "10.1.0.1:5351"), Reason::Local);
    assert_eq!(sent(&mut bed, LAN, "10.1.0.2:5", "198.51.100.1:5351"), Reason::Local);
    assert_eq!(sent(&mut bed, LAN, "10.1.0.2:5", "10.1.0.1:5350"), Reason::Local);
    assert_eq!(sent(&mut bed, LAN, "10.1.0.2:5", "10.1.0.1:5351"), Reason::PcpAnswered);
    assert_eq!(sent(&mut bed, LAN, "10.1.0.2:5", "10.2.0.1:5351"), Reason::PcpAnswered);
    let mut bed = Bed::with(&format!("{OUT}{HIDE}"));
    assert_eq!(sent(&mut bed, LAN, "10.1.0.2:5", "10.1.0.1:5351"), Reason::Local);
}

// RFC 6887 section 7.4: without an external address there is a network failure; as without one that may be used (RFC 4787
// REQ-7).
#[test]
fn without_an_external_address_nothing_is_granted() {
    let mut bed = Bed::with(&policy(""));
    bed.add_address(12, "10.1.0.129", 26);
    assert_eq!(bed.denied(&Ask::new(TCP, 80), ResultCode::NetworkFailure), 30);
    bed.event(Event::AddressGone { ifindex: 12, address: ip("10.1.0.129"), prefix_len: 26 });
    bed.granted(&Ask::new(TCP, 80));
    for address in ["198.51.100.1", "198.51.100.9"] {
        bed.event(Event::AddressGone { ifindex: 12, address: ip(address), prefix_len: 24 });
    }
    bed.pass(2 * SECOND);
    bed.denied(&Ask::new(TCP, 80), ResultCode::NetworkFailure);
    assert!(bed.bindings.is_empty());
}

// RFC 6887 section 8.1: IPv6 hosts ask their default router, which they know by a link-local address; what they are
// reached by is another one of their own (section 8.4).
#[test]
fn a_router_is_asked_by_its_link_local_address() {
    let mut bed = Bed::with(&format!("{OUT}{PCP}"));
    bed.add_address(11, "fe80::1", 64);
    bed.add_address(12, "fe80::1", 64);
    let mut asked = |port, from: &str, host: &str| {
        let message = Ask::new(TCP, 8080).of(host).like("[::]:0").bytes();
        bed.outside.sent.clear();
        let reason = bed.send(port, &Spec::udp(at(from), at("[fe80::1]:5351"), &message)).reason;
        (reason, bed.outside.sent.pop().map(|(port, frame)| (port, ends(&frame), frame[65])))
    };
    let (router, host, local) = (at("[fe80::1]:5351"), at("[fd00:0:0:1::2]:99"), at("[fe80::2]:99"));
    let answer = (LAN, (router, host), 0);
    assert_eq!(asked(LAN, "[fd00:0:0:1::2]:99", "fd00:0:0:1::2"), (Reason::PcpAnswered, Some(answer)));
    let answer = (LAN, (router, local), ResultCode::NotAuthorized as u8);
    assert_eq!(asked(LAN, "[fe80::2]:99", "fe80::2"), (Reason::PcpRefused, Some(answer)));
    assert_eq!(asked(LAN, "[2001:db8:0:2::9]:99", "2001:db8:0:2::9"), (Reason::SpoofedConnected, None));
    assert_eq!(asked(LAN, "[fd00:0:0:1::1]:99", "fd00:0:0:1::1"), (Reason::SpoofedSource, None));
    assert_eq!(asked(WAN, "[2001:db8:0:2::9]:99", "2001:db8:0:2::9"), (Reason::Local, None));
    assert!(bed.reached("[2001:db8:0:2::2]:5", at("[fd00:0:0:1::2]:8080"), "[fd00:0:0:1::2]:8080"));
}

// A rule forbids what a host has asked for; what allows it is the table.
#[test]
fn a_rule_may_forbid_what_was_asked_for() {
    let forbid = |action: &str| {
        let rule =
            format!("[[rule]]\nname = \"no\"\nfrom = \"outside\"\nservice = \"tcp/1-1023\"\naction = \"{action}\"\n");
        format!("{rule}{}", policy(""))
    };
    let mut bed = Bed::with(&forbid("drop"));
    let (low, high) = (bed.granted(&Ask::new(TCP, 22)), bed.granted(&Ask::new(TCP, 2222)));
    bed.refused(WAN, &syn(REMOTE, &low.to_string()), Kind::Drop, Reason::RuleDrop);
    assert!(bed.reached(REMOTE, high, "10.1.0.2:2222"));
    bed.reload(&forbid("reject"));
    bed.refused(WAN, &syn("198.51.100.3:9", &low.to_string()), Kind::Drop, Reason::RuleReject);
    bed.reload(&forbid("allow"));
    assert!(bed.reached(REMOTE, low, "10.1.0.2:22"));
}

// A reload keeps what it still allows, with its connections, and ends the rest; a restart keeps connections.
#[test]
fn reloads_and_restarts() {
    let mut bed = Bed::with(&policy(""));
    let (a, b) = (bed.granted(&Ask::new(TCP, 80)), bed.granted(&Ask::new(TCP, 80).of("10.1.0.3")));
    let connects = |bed: &mut Bed| {
        assert!(bed.reached(REMOTE, a, "10.1.0.2:80"));
        assert!(bed.reached(REMOTE, b, "10.1.0.3:80"));
    };
    connects(&mut bed);
    let epoch = bed.ask(&Ask::new(TCP, 80)).epoch;
    assert_eq!(bed.reload(&policy("max_lifetime = \"2h\"\n")), (2, 0));
    bed.pass(3 * SECOND);
    assert!(bed.ask(&Ask::new(TCP, 80)).epoch >= epoch + 2, "nothing was lost");
    let (mut bed, adopted) = bed.adopt();
    assert_eq!(adopted, (2, 0));
    let now = bed.now;
    let done = bed.engine.policy_adopted(now);
    assert_eq!((done.live, done.ended), (2, 0));
    connects(&mut bed);
    assert!(!bed.reached("198.51.100.3:1", a, "10.1.0.2:80"), "the mapping itself is to be asked for again");
    let got = bed.ask(&Ask::new(TCP, 80).like(&a.to_string()));
    assert_eq!((got.external, got.epoch), (a, 0));
    assert!(bed.reached("198.51.100.3:1", a, "10.1.0.2:80"));
    bed.granted(&Ask::new(TCP, 80).of("10.1.0.3"));
    assert_eq!(bed.reload(&policy("source = \"10.1.0.2\"\n")), (2, 1));
    bed.pass(2 * SECOND);
    assert!(bed.reached("198.51.100.3:2", a, "10.1.0.2:80"));
    assert!(!bed.reached("198.51.100.3:2", b, "10.1.0.3:80"));
    assert!(bed.ask(&Ask::new(TCP, 80)).epoch < 3, "that is a loss");
    assert_eq!(bed.reload(&format!("{OUT}{HIDE}")), (0, 3));
    bed.pass(SECOND);
    assert!(!bed.reached("198.51.100.3:3", a, "10.1.0.2:80"));
    bed.ends_clean();
}

pub(crate) fn filter_option(prefix_length: u8, port: u16, address: &str) -> Vec<u8> {
    let filter = Filter { reserved: 0, prefix_length, port: port.into(), address: mapped(ip(address)) };
    [&[3, 0, 0, 20], filter.bytes()].concat()
}
