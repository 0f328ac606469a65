//! Destination translation, hairpinning, several external addresses, one-to-one (checklist C8, C9; RFC 4787 REQ-9,
//! RFC 5382 REQ-8).

use std::net::SocketAddr;

use flowhop_engine::Outcome;
use flowhop_engine::view_of;
use flowhop_flow::{Kind, Reason};
use flowhop_routing::Event;
use flowhop_wire::build::{L4, Spec};
use flowhop_wire::tcp_flags;

use crate::bed::{Bed, LAN, WAN, at, ends, header, ip, is_sound};

const RULES: &str = r#"
[[rule]]
name = "browse"
from = "inside"
to = "outside"
action = "allow"
[[rule]]
name = "to the web servers"
to = "inside"
destination = ["10.1.0.80/30", "fd00:0:0:1::80"]
action = "allow"
[[rule]]
name = "between the inside hosts"
from = "inside"
to = "inside"
destination = "10.2.0.0/24"
action = "allow"
"#;
pub(crate) const HIDE: &str = r#"
[[nat]]
name = "hide"
to = "outside"
source = "10.0.0.0/8"
translate.source = "interface"
"#;
const PUBLISH: &str = r#"
[[nat]]
name = "publish"
destination = "198.51.100.1"
service = "tcp/443"
translate.destination = "10.1.0.80:8443"
"#;

pub(crate) fn policy(nats: &[&str]) -> String {
    format!("{RULES}{}", nats.concat())
}

pub(crate) const CLIENT: &str = "10.1.0.2:40000";
const REMOTE: &str = "198.51.100.2:50000";

pub(crate) fn syn(from: &str, to: &str) -> Spec<'static> {
    Spec::tcp(at(from), at(to), tcp_flags::SYN, &[]).with_sequence(1000, 0)
}

impl Bed {
    /// Sends a packet that must pass; where it left, and with which ends.
    #[track_caller]
    pub(crate) fn passes(&mut self, port: u8, spec: &Spec<'_>) -> (u8, SocketAddr, SocketAddr) {
        let outcome = self.send(port, spec);
        assert_eq!((outcome.kind, outcome.reason), (Kind::Forward, Reason::Forwarded));
        let (port, frame) = self.last();
        assert!(is_sound(&frame));
        let (source, destination) = ends(&frame);
        (port, source, destination)
    }

    /// Opens a TCP connection up to the answer, which must come back with the ends that were asked for. What the
    /// server sees of it.
    #[track_caller]
    pub(crate) fn connects(&mut self, ports: [u8; 2], from: &str, to: &str) -> (SocketAddr, SocketAddr) {
        let (out, seen, server) = self.passes(ports[0], &syn(from, to));
        assert_eq!(out, ports[1]);
        let flags = tcp_flags::SYN | tcp_flags::ACK;
        let answer = self.passes(ports[1], &Spec::tcp(server, seen, flags, &[]).with_sequence(5000, 1001));
        assert_eq!(answer, (ports[0], at(to), at(from)));
        (seen, server)
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, port: u8, spec: &Spec<'_>, kind: Kind, reason: Reason) {
        let outcome = self.send(port, spec);
        assert_eq!((outcome.kind, outcome.reason), (kind, reason));
    }

    fn identities(&self, outcome: &Outcome) -> (u16, u16, bool) {
        let (block, _) = outcome.session.unwrap();
        let view = view_of(self.engine.table().block(block).unwrap());
        (view.nat, view.destination_nat, view.inbound)
    }

    /// Ends everything; nothing of it may be left.
    pub(crate) fn ends_clean(mut self) {
        self.pass(8000 * 954);
        assert_eq!(self.engine.table().live(), 0);
        assert!(self.bindings.is_empty());
    }
}

#[test]
fn a_published_service_is_reached_from_outside() {
    let mut bed = Bed::with(&policy(&[HIDE, PUBLISH]));
    let outcome = bed.send(WAN, &syn(REMOTE, "198.51.100.1:443"));
    assert_eq!(bed.identities(&outcome), (0, 2, false));
    let (seen, server) = bed.connects([WAN, LAN], REMOTE, "198.51.100.1:443");
    assert_eq!((seen, server), (at(REMOTE), at("10.1.0.80:8443")), "the source stays");
    // interface.md: addresses and ports in use by a translation are flowhop's first; the rest is the box's.
    bed.refused(WAN, &syn(REMOTE, "198.51.100.1:22"), Kind::Stack, Reason::Local);
    bed.refused(WAN, &Spec::udp(at(REMOTE), at("198.51.100.1:443"), b"x"), Kind::Stack, Reason::Local);
    bed.ends_clean();
}

// Fail closed: translation says where, rules say whether. They see the destination after translation.
#[test]
fn a_translation_alone_admits_nothing() {
    let mut bed = Bed::with(&format!("{HIDE}{PUBLISH}"));
    bed.refused(WAN, &syn(REMOTE, "198.51.100.1:443"), Kind::Drop, Reason::NoRule);
    let rule = "[[rule]]\nname = \"a\"\naction = \"allow\"\n";
    bed.reload(&format!("{rule}destination = \"198.51.100.1\"\n{PUBLISH}"));
    bed.refused(WAN, &syn(REMOTE, "198.51.100.1:443"), Kind::Drop, Reason::NoRule);
    bed.reload(&format!("{rule}service = \"tcp/443\"\n{PUBLISH}"));
    bed.refused(WAN, &syn(REMOTE, "198.51.100.1:443"), Kind::Drop, Reason::NoRule);
    bed.reload(&format!("{rule}destination = \"10.1.0.80\"\nservice = \"tcp/8443\"\n{PUBLISH}"));
    bed.connects([WAN, LAN], REMOTE, "198.51.100.1:443");
}

#[test]
fn a_translation_for_one_zone_leaves_the_port_to_the_box_for_others() {
    let publish =
        PUBLISH.replace("destination = \"198", "from = \"outside\"\nsource = \"!198.51.100.3\"\ndestination = \"198");
    let mut bed = Bed::with(&policy(&[HIDE, &publish]));
    bed.connects([WAN, LAN], REMOTE, "198.51.100.1:443");
    bed.refused(LAN, &syn(CLIENT, "198.51.100.1:443"), Kind::Stack, Reason::Local);
    bed.refused(WAN, &syn("198.51.100.3:1000", "198.51.100.1:443"), Kind::Stack, Reason::Local);
}

// C8, RFC 4787 REQ-9, RFC 5382 REQ-8: a client on the server's own segment, by the external address.
#[test]
fn an_inside_client_reaches_the_service_by_its_external_address() {
    let mut bed = Bed::with(&policy(&[HIDE, PUBLISH]));
    let (seen, server) = bed.connects([LAN, LAN], CLIENT, "198.51.100.1:443");
    assert_eq!((seen.ip(), server), (ip("198.51.100.1"), at("10.1.0.80:8443")));
    // Endpoint-independent: the same endpoint has the same mapping outside, whichever came first.
    let (_, outside, _) = bed.passes(LAN, &syn(CLIENT, "198.51.100.2:80"));
    assert_eq!(outside, seen);
    let (_, first, _) = bed.passes(LAN, &syn("10.1.0.2:40001", "198.51.100.2:80"));
    let (then, _) = bed.connects([LAN, LAN], "10.1.0.2:40001", "198.51.100.1:443");
    assert_eq!(then, first);
    assert_eq!(bed.bindings.len(), 2);
    bed.ends_clean();
}

#[test]
fn hairpinning_needs_no_source_translation() {
    let mut bed = Bed::with(&policy(&[PUBLISH]));
    let (seen, _) = bed.connects([LAN, LAN], CLIENT, "198.51.100.1:443");
    assert_eq!(seen.ip(), ip("198.51.100.1"), "the address that the client addressed");
    let outcome = bed.send(LAN, &syn(CLIENT, "198.51.100.1:443"));
    assert_eq!(bed.identities(&outcome), (1, 1, false));
    let (port, seen, _) = bed.passes(WAN, &syn(REMOTE, "198.51.100.1:443"));
    assert_eq!((port, seen), (LAN, at(REMOTE)), "only what would return the way it came");
    bed.ends_clean();
}

#[test]
fn hairpinning_uses_the_pool_of_the_client() {
    let pool = HIDE.replace("interface", "198.51.100.32/29");
    let mut bed = Bed::with(&policy(&[&pool, PUBLISH]));
    let (seen, _) = bed.connects([LAN, LAN], CLIENT, "198.51.100.1:443");
    let (_, outside, _) = bed.passes(LAN, &syn(CLIENT, "198.51.100.2:80"));
    assert_eq!(outside, seen);
    assert!(seen.ip() >= ip("198.51.100.32") && seen.ip() <= ip("198.51.100.39"));
    bed.ends_clean();
}

// RFC 4787 REQ-9: both hosts have mappings; each sees the other by the external endpoint.
#[test]
fn two_inside_hosts_meet_at_their_mappings() {
    let open = format!("{HIDE}filtering = \"endpoint-independent\"\n");
    let mut bed = Bed::with(&policy(&[&open]));
    let udp = |from: &str, to: SocketAddr| Spec::udp(at(from), to, b"x");
    let (_, first, _) = bed.passes(LAN, &udp("10.1.0.2:1000", at("198.51.100.2:53")));
    let (_, second, _) = bed.passes(LAN, &udp("10.1.0.3:1000", at("198.51.100.2:53")));
    let (port, source, destination) = bed.passes(LAN, &udp("10.1.0.2:1000", second));
    assert_eq!((port, source, destination), (LAN, first, at("10.1.0.3:1000")));
    let answer = bed.passes(LAN, &udp("10.1.0.3:1000", first));
    assert_eq!(answer, (LAN, second, at("10.1.0.2:1000")));
    // From outside too, with the source as it is.
    let (port, source, _) = bed.passes(WAN, &udp("198.51.100.3:9", first));
    assert_eq!((port, source), (LAN, at("198.51.100.3:9")));
    // All of it survives a reload and a restart, and none of it the end of the translation.
    assert_eq!(bed.reload(&policy(&[&open])), (4, 0));
    let (mut bed, adopted) = bed.adopt();
    assert_eq!((adopted, bed.bindings.len()), ((4, 0), 2));
    assert_eq!(bed.reload(&policy(&[&open])), (4, 0));
    assert_eq!(bed.reload(&policy(&[HIDE])), (3, 1), "closed to strangers; the inside host has answered");
    bed.ends_clean();
}

#[test]
fn without_open_filtering_a_mapping_is_closed_to_inside_hosts_too() {
    let mut bed = Bed::with(&policy(&[HIDE]));
    let (_, first, _) = bed.passes(LAN, &Spec::udp(at("10.1.0.2:1000"), at("198.51.100.2:53"), b"x"));
    bed.refused(LAN, &Spec::udp(at("10.1.0.3:1000"), first, b"x"), Kind::Drop, Reason::NatFiltered);
}

// What is published is leased to nobody.
#[test]
fn mappings_keep_away_from_published_ports() {
    let wide = PUBLISH
        .replace("\"tcp/443\"", "[\"tcp/1024-31999\", \"udp/2000-65535\"]")
        .replace("10.1.0.80:8443", "10.1.0.80");
    let mut bed = Bed::with(&policy(&[HIDE, &wide]));
    for port in 1..=300u16 {
        let source = format!("10.1.0.2:{port}");
        let (_, external, _) = bed.passes(LAN, &syn(&source, "198.51.100.2:80"));
        assert!((32000..32768).contains(&external.port()) || external.port() > 60999, "{external}");
        let (_, external, _) = bed.passes(LAN, &Spec::udp(at(&source), at("198.51.100.2:53"), b"x"));
        assert!((1024..2000).contains(&external.port()), "{external}");
    }
    // A host that gets all that nobody else has asked for leaves no port unpublished; masquerading goes on.
    let exposed =
        "[[nat]]\nname = \"exposed\"\ndestination = \"198.51.100.1\"\ntranslate.destination = \"10.1.0.80\"\n";
    let mut bed = Bed::with(&policy(&[HIDE, exposed]));
    let (_, external, _) = bed.passes(LAN, &syn(CLIENT, "198.51.100.2:80"));
    let flags = tcp_flags::SYN | tcp_flags::ACK;
    let answer = Spec::tcp(at("198.51.100.2:80"), external, flags, &[]).with_sequence(5000, 1001);
    assert_eq!(bed.passes(WAN, &answer), (LAN, at("198.51.100.2:80"), at(CLIENT)));
    let (_, _, server) = bed.passes(WAN, &syn(REMOTE, "198.51.100.1:2222"));
    assert_eq!(server, at("10.1.0.80:2222"));
}

#[test]
fn one_to_one_keeps_ports_in_both_directions() {
    let pairs = "[[nat]]\nname = \"pairs\"\nto = \"outside\"\nsource = \"10.1.0.80-10.1.0.83\"\ntranslate.source = \"198.51.100.20-198.51.100.23\"\none_to_one = true\n";
    let mut bed = Bed::with(&policy(&[pairs, HIDE]));
    let (seen, _) = bed.connects([LAN, WAN], "10.1.0.82:1234", "198.51.100.2:80");
    assert_eq!(seen, at("198.51.100.22:1234"));
    let (seen, server) = bed.connects([WAN, LAN], REMOTE, "198.51.100.21:443");
    assert_eq!((seen, server), (at(REMOTE), at("10.1.0.81:443")));
    // Not of the pairs: masqueraded. The rules decide about what comes in.
    let (_, other, _) = bed.passes(LAN, &syn(CLIENT, "198.51.100.2:80"));
    assert_eq!(other.ip(), ip("198.51.100.1"));
    bed.refused(WAN, &syn(REMOTE, "198.51.100.24:443"), Kind::Drop, Reason::NoRule);
    // Hairpin: one of the pairs is known by its own external address, another host by the box's.
    let (seen, server) = bed.connects([LAN, LAN], "10.1.0.80:5555", "198.51.100.21:443");
    assert_eq!((seen, server), (at("198.51.100.20:5555"), at("10.1.0.81:443")));
    let (seen, _) = bed.connects([LAN, LAN], "10.1.0.3:5555", "198.51.100.21:443");
    assert_eq!(seen.ip(), ip("10.1.0.1"), "the pair's address has no port to lend");
    let echo = Spec::echo_request(ip("198.51.100.2"), ip("198.51.100.23"), 7, 1, b"x");
    assert_eq!(bed.send(WAN, &echo).kind, Kind::Forward);
    assert_eq!(header(&bed.last().1).destination, [10, 1, 0, 83]);

    let flows = bed.engine.table().live();
    assert_eq!(bed.reload(&policy(&[pairs, HIDE])), (flows, 0));
    let (mut bed, adopted) = bed.adopt();
    assert_eq!((adopted, bed.bindings.len()), ((flows, 0), 2));
    // The same sources under a pool: what came in ends, and what has no mapping. The masqueraded one stays.
    let pool = pairs.replace("one_to_one = true\n", "");
    assert_eq!(bed.reload(&policy(&[&pool, HIDE])), (1, flows - 1));
    bed.ends_clean();
}

#[test]
fn several_servers_share_their_clients() {
    let farm = PUBLISH.replace("10.1.0.80:8443", "10.1.0.80/30");
    let mut bed = Bed::with(&policy(&[&farm]));
    let mut seen = std::collections::HashSet::new();
    for host in 1..=60 {
        let one = bed.passes(WAN, &syn(&format!("192.0.2.{host}:1000"), "198.51.100.1:443")).2;
        let other = bed.passes(WAN, &syn(&format!("192.0.2.{host}:1001"), "198.51.100.1:443")).2;
        assert_eq!(one, other, "a client stays with its server");
        seen.insert(one.ip());
    }
    assert_eq!(seen.len(), 4);
    // Ranges of the same size go place by place.
    let rows = PUBLISH.replace("\"198.51.100.1\"", "\"198.51.100.40/30\"").replace("10.1.0.80:8443", "10.1.0.80/30");
    let mut bed = Bed::with(&policy(&[&rows]));
    for place in 0..4 {
        let (_, _, server) = bed.passes(WAN, &syn(REMOTE, &format!("198.51.100.{}:443", 40 + place)));
        assert_eq!(server, at(&format!("10.1.0.{}:443", 80 + place)));
    }
}

// Several external addresses: one inside endpoint, two translations, a mapping under each.
#[test]
fn an_endpoint_has_a_mapping_under_each_translation() {
    let special = HIDE.replace("\"hide\"", "\"special\"").replace("interface", "198.51.100.9")
        + "destination = \"198.51.100.3\"\n";
    let mut bed = Bed::with(&policy(&[&special, HIDE]));
    let mut external = |to: &str| bed.passes(LAN, &Spec::udp(at(CLIENT), at(to), b"x")).1;
    let (first, second) = (external("198.51.100.3:53"), external("198.51.100.2:53"));
    assert_eq!((first.ip(), second.ip()), (ip("198.51.100.9"), ip("198.51.100.1")));
    assert_eq!((external("198.51.100.3:54"), external("198.51.100.2:54")), (first, second));
    assert_eq!(bed.bindings.len(), 2);
    bed.ends_clean();
}

// A mapping at an address that the interface does not have any more is kept for its connections alone.
#[test]
fn new_connections_follow_a_changed_interface_address() {
    let mut bed = Bed::with(&policy(&[HIDE]));
    let udp = |to: &str| Spec::udp(at(CLIENT), at(to), b"x");
    let (_, before, _) = bed.passes(LAN, &udp("198.51.100.2:53"));
    bed.event(Event::AddressGone { ifindex: 12, address: ip("198.51.100.1"), prefix_len: 24 });
    let (_, after, _) = bed.passes(LAN, &udp("198.51.100.2:54"));
    assert_eq!((before.ip(), after.ip()), (ip("198.51.100.1"), ip("198.51.100.9")));
    assert_eq!(bed.passes(LAN, &udp("198.51.100.2:53")).1, before);
    assert_eq!(bed.passes(LAN, &udp("198.51.100.2:55")).1, after);
    bed.ends_clean();
}

// Issue 3 item 6: what stays allowed keeps its translation, what does not ends.
#[test]
fn a_reload_ends_what_is_translated_otherwise() {
    let farm = PUBLISH.replace("10.1.0.80:8443", "10.1.0.80-10.1.0.81");
    let mut bed = Bed::with(&policy(&[HIDE, &farm]));
    bed.connects([WAN, LAN], REMOTE, "198.51.100.1:443");
    bed.connects([LAN, LAN], CLIENT, "198.51.100.1:443");
    let same = policy(&[HIDE, &farm]);
    assert_eq!(bed.reload(&same), (2, 0));
    assert_eq!(bed.reload(&policy(&[HIDE, &farm.replace("80-10.1.0.81", "80-10.1.0.83")])), (2, 0), "more servers");
    assert_eq!(bed.reload(&policy(&[HIDE, &farm.replace("\"publish\"", "\"another name\"")])), (0, 2));

    let mut again = |text: &str| {
        bed.reload(&same);
        bed.pass(300 * 954);
        bed.connects([WAN, LAN], REMOTE, "198.51.100.1:443");
        bed.connects([LAN, LAN], CLIENT, "198.51.100.1:443");
        bed.reload(text)
    };
    assert_eq!(again(&policy(&[HIDE])), (0, 2), "no longer published");
    assert_eq!(again(&policy(&[HIDE, &farm.replace("10.1.0.80-10.1.0.81", "10.1.0.82")])), (0, 2), "other servers");
    assert_eq!(again(&policy(&[&farm])), (1, 1), "the source translation of the client is gone");
    assert_eq!(again(&policy(&[&farm.replace("service", "from = \"outside\"\nservice"), HIDE])), (1, 1));
    bed.ends_clean();
}

// A service that is published while connections to the same address exist: they are not what is translated now.
#[test]
fn what_is_published_later_ends_what_went_elsewhere() {
    let redirect = "[[nat]]\nname = \"own resolver\"\nfrom = \"inside\"\ndestination = \"!10.0.0.0/8\"\nservice = \"udp/53\"\ntranslate.destination = \"10.1.0.80\"\n";
    let mut bed = Bed::with(&policy(&[HIDE]));
    bed.passes(LAN, &Spec::udp(at(CLIENT), at("198.51.100.2:53"), b"x"));
    bed.passes(LAN, &Spec::udp(at(CLIENT), at("198.51.100.2:123"), b"x"));
    assert_eq!(bed.reload(&policy(&[HIDE, redirect])), (1, 1));
    bed.pass(1000);
    let (port, source, destination) = bed.passes(LAN, &Spec::udp(at(CLIENT), at("198.51.100.2:53"), b"x"));
    assert_eq!((port, destination, source.ip()), (LAN, at("10.1.0.80:53"), ip("198.51.100.1")), "it keeps its mapping");
    bed.ends_clean();
}

// B9: a new process has the same mappings, and gives each back once.
#[test]
fn adopted_connections_keep_both_translations() {
    let mut bed = Bed::with(&policy(&[HIDE, PUBLISH]));
    let (seen, server) = bed.connects([LAN, LAN], CLIENT, "198.51.100.1:443");
    bed.connects([WAN, LAN], REMOTE, "198.51.100.1:443");
    let (mut bed, adopted) = bed.adopt();
    assert_eq!((adopted, bed.bindings.len()), ((2, 0), 1));
    assert_eq!(bed.reload(&policy(&[HIDE, PUBLISH])), (2, 0));
    let ack = Spec::tcp(at(CLIENT), at("198.51.100.1:443"), tcp_flags::ACK, &[]).with_sequence(1001, 5001);
    assert_eq!(bed.passes(LAN, &ack), (LAN, seen, server));
    let (_, external, _) = bed.passes(LAN, &syn(CLIENT, "198.51.100.2:80"));
    assert_eq!(external, seen);
    bed.ends_clean();
}

// One entry with both keys: the client is another one for the server, whoever it is.
#[test]
fn one_entry_may_translate_both_ends() {
    let both = "[[nat]]\nname = \"both\"\nto = \"inside\"\ndestination = \"198.51.100.1\"\nservice = \"tcp/443\"\ntranslate.destination = \"10.1.0.80:8443\"\ntranslate.source = \"interface\"\n";
    let mut bed = Bed::with(&policy(&[both, HIDE]));
    let outcome = bed.send(WAN, &syn(REMOTE, "198.51.100.1:443"));
    assert_eq!(bed.identities(&outcome), (1, 1, false));
    let (seen, server) = bed.connects([WAN, LAN], REMOTE, "198.51.100.1:443");
    assert_eq!((seen.ip(), server), (ip("10.1.0.1"), at("10.1.0.80:8443")));
    // It is about nothing else that goes inside.
    let (_, seen, _) = bed.passes(WAN, &syn(REMOTE, "10.1.0.80:8443"));
    assert_eq!(seen, at(REMOTE));
    assert_eq!(bed.reload(&policy(&[both, HIDE])), (2, 0));
    assert_eq!(bed.reload(&policy(&[PUBLISH, HIDE])), (1, 1));
    bed.ends_clean();
}

// C8: in and out through the same interface, with and without translation.
#[test]
fn one_arm_is_enough() {
    let mut bed = Bed::with(&policy(&[HIDE, PUBLISH]));
    let (seen, server) = bed.connects([LAN, LAN], CLIENT, "10.2.0.2:80");
    assert_eq!((seen, server), (at(CLIENT), at("10.2.0.2:80")));
    let (seen, server) = bed.connects([LAN, LAN], "10.2.0.2:5000", "198.51.100.1:443");
    assert_eq!((seen.ip(), server), (ip("198.51.100.1"), at("10.1.0.80:8443")));
}

// An address that is published whole: echo requests and protocols without ports as well. The box keeps the answers
// to its own requests.
#[test]
fn a_whole_address_is_published_with_echo_and_all_protocols() {
    let whole = "[[nat]]\nname = \"whole\"\ndestination = \"198.51.100.9\"\ntranslate.destination = \"10.1.0.80\"\n";
    let mut bed = Bed::with(&policy(&[whole, HIDE]));
    let (remote, external) = (ip("198.51.100.2"), ip("198.51.100.9"));
    assert_eq!(bed.send(WAN, &Spec::echo_request(remote, external, 7, 1, b"x")).kind, Kind::Forward);
    let (port, frame) = bed.last();
    assert_eq!((port, header(&frame).destination, is_sound(&frame)), (LAN, [10, 1, 0, 80], true));
    assert_eq!(bed.send(LAN, &Spec::echo_reply(ip("10.1.0.80"), remote, 7, 1, b"x")).kind, Kind::Forward);
    assert_eq!(header(&bed.last().1).source, [198, 51, 100, 9]);
    let gre = |from, to| Spec::new(from, to, L4::Raw { protocol: 47 }, &[0; 20]);
    assert_eq!(bed.send(WAN, &gre(remote, external)).kind, Kind::Forward);
    assert_eq!(header(&bed.last().1).destination, [10, 1, 0, 80]);
    bed.refused(WAN, &Spec::echo_reply(remote, external, 9, 1, b"x"), Kind::Stack, Reason::Local);
    bed.refused(WAN, &Spec::echo_request(remote, ip("198.51.100.1"), 7, 1, b"x"), Kind::Stack, Reason::Local);
    bed.refused(WAN, &gre(remote, ip("198.51.100.1")), Kind::Stack, Reason::Local);
    // Its checksum covers the addresses, and nobody rewrites it.
    let lite = Spec::new(remote, external, L4::Raw { protocol: 136 }, &[0; 20]);
    bed.refused(WAN, &lite, Kind::Drop, Reason::NatUnsupported);
    bed.ends_clean();
}

#[test]
fn ipv6_is_translated_where_the_policy_says_so() {
    let text = PUBLISH.replace("198.51.100.1", "2001:db8:0:2::1").replace("10.1.0.80:8443", "[fd00:0:0:1::80]:8443");
    let mut bed = Bed::with(&policy(&[&format!("{text}family = \"ipv6\"\n")]));
    let (seen, server) = bed.connects([WAN, LAN], "[2001:db8:0:2::2]:1000", "[2001:db8:0:2::1]:443");
    assert_eq!((seen, server), (at("[2001:db8:0:2::2]:1000"), at("[fd00:0:0:1::80]:8443")));
    let (seen, _) = bed.connects([LAN, LAN], "[fd00:0:0:1::2]:1000", "[2001:db8:0:2::1]:443");
    assert_eq!(seen.ip(), ip("2001:db8:0:2::1"));
    bed.ends_clean();
}

// What fails half-way leaves nothing behind.
#[test]
fn a_connection_that_cannot_be_made_gives_everything_back() {
    let two = PUBLISH.replace("\"198.51.100.1\"", "[\"198.51.100.1\", \"198.51.100.9\"]");
    let mut bed = Bed::with(&policy(&[&two, HIDE]));
    bed.connects([WAN, LAN], REMOTE, "198.51.100.1:443");
    // The server could not tell the two apart.
    bed.refused(WAN, &syn(REMOTE, "198.51.100.9:443"), Kind::Drop, Reason::NatExhausted);
    bed.connects([LAN, LAN], CLIENT, "198.51.100.1:443");
    bed.refused(LAN, &syn(CLIENT, "198.51.100.9:443"), Kind::Drop, Reason::NatExhausted);
    bed.ends_clean();
}

// Under the same name a translation of another kind is another one: a connection that has no share of a mapping must not
// give one back.
#[test]
fn a_translation_of_another_kind_is_another_one() {
    let pairs = "[[nat]]\nname = \"hide\"\nto = \"outside\"\nsource = \"10.1.0.2\"\n\
                 translate.source = \"198.51.100.20\"\n";
    let mut bed = Bed::with(&policy(&[pairs, "one_to_one = true\n"]));
    assert_eq!(bed.seen(CLIENT, REMOTE), at("198.51.100.20:40000"));
    bed.begin_reload(&policy(&[pairs, "keep_port = true\n"]));
    assert_eq!(bed.seen(CLIENT, "198.51.100.3:53"), at("198.51.100.20:40000"));
    let done = bed.judged();
    assert_eq!((done.live, done.ended, bed.bindings.len()), (1, 1, 1));
    bed.pass(30 * 954);
    assert_eq!((bed.engine.table().live(), bed.bindings.len()), (1, 1));
    bed.ends_clean();
}
