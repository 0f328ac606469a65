//! How external addresses and ports are shared out: RFC 4787 REQ-2 to REQ-4, RFC 5382 REQ-7, RFC 6056, RFC 6888 REQ-2,
//! REQ-4, REQ-5, REQ-8.

use std::collections::HashSet;
use std::net::SocketAddr;

use flowhop_flow::{Kind, Reason};

use crate::bed::{Bed, LAN, WAN, at, ip};
use crate::mapping::udp;
use crate::translation::{HIDE, policy, syn};

pub(crate) const REMOTE: &str = "198.51.100.2:53";
pub(crate) const SECOND: u32 = 954;

pub(crate) fn pool(addresses: &str, more: &str) -> String {
    let hide = HIDE.replace("\"interface\"", &format!("\"{addresses}\""));
    policy(&[&format!("{hide}{more}\n")])
}

impl Bed {
    /// Ends everything at once.
    pub(crate) fn end_all(&mut self) {
        let table = self.engine.table();
        let serials: Vec<u32> =
            table.live_blocks().map(|number| table.block(number).unwrap().owner.serial.load()).collect();
        for serial in serials {
            assert!(self.engine.delete(serial));
        }
        while self.turn() {}
        assert!(self.bindings.is_empty());
    }

    #[track_caller]
    pub(crate) fn refuses(&mut self, from: &str, reason: Reason) {
        self.refused(LAN, &udp(from, at(REMOTE)), Kind::Drop, reason);
    }
}

// RFC 4787 REQ-2, RFC 6888 REQ-2: all that an inside address has is at one external address, even when that has no port
// left.
#[test]
fn an_inside_address_stays_with_its_external_address() {
    let text = pool("198.51.100.20-198.51.100.23", "translate.ports = \"2000-2009\"");
    let mut bed = Bed::with(&text);
    let mut external = HashSet::new();
    for port in 1..=10 {
        external.insert(bed.seen(&format!("10.1.0.2:{}", 5000 + port), REMOTE));
    }
    let addresses: HashSet<_> = external.iter().map(SocketAddr::ip).collect();
    assert_eq!((external.len(), addresses.len()), (10, 1));
    bed.refuses("10.1.0.2:6000", Reason::NatExhausted);
    // A restart does not change that.
    let (mut bed, adopted) = bed.adopt();
    assert_eq!(adopted, (10, 0));
    bed.refuses("10.1.0.2:6000", Reason::NatExhausted);
    // One that has nothing yet gets another address if its own is full: there are as many as are tried.
    for host in ["10.1.0.3", "10.1.0.4", "10.1.0.5"] {
        let first = bed.seen(&format!("{host}:1"), REMOTE);
        assert!(!addresses.contains(&first.ip()));
        assert_eq!(bed.seen(&format!("{host}:2"), REMOTE).ip(), first.ip());
    }
    bed.ends_clean();

    let mut bed =
        Bed::with(&pool("198.51.100.20-198.51.100.23", "translate.ports = \"2000-2009\"\npooling = \"arbitrary\""));
    let mut addresses = HashSet::new();
    for port in 1..=40 {
        addresses.insert(bed.seen(&format!("10.1.0.2:{}", 5000 + port), REMOTE).ip());
    }
    assert_eq!(addresses.len(), 4);
    bed.refuses("10.1.0.2:6000", Reason::NatExhausted);
}

// RFC 4787 REQ-3 a, REQ-4; RFC 6056: ports are not the inside ones unless the operator says so.
#[test]
fn ports_keep_what_the_policy_says_of_them() {
    let ports = [53, 1023, 1024, 1025, 40000, 40001];
    let seen = |more: &str| {
        let mut bed = Bed::with(&pool("198.51.100.20", more));
        ports.map(|port| (port, bed.seen(&format!("10.1.0.2:{port}"), REMOTE).port()))
    };
    let plain = seen("");
    assert!(plain.iter().all(|(inside, external)| (*inside < 1024) == (*external < 1024)), "{plain:?}");
    assert!(plain.iter().filter(|(inside, external)| inside == external).count() < 2, "{plain:?}");
    let even = seen("parity = true");
    assert!(even.iter().all(|(inside, external)| inside % 2 == external % 2), "{even:?}");
    assert!(even.iter().all(|(inside, external)| (*inside < 1024) == (*external < 1024)), "{even:?}");
    assert!(seen("keep_port = true").iter().all(|(inside, external)| inside == external));
    let ranged = seen("keep_port = true\ntranslate.ports = \"1024-1099\"");
    assert!(ranged.iter().all(|(_, external)| (1024..=1099).contains(external)), "{ranged:?}");
    assert_eq!((ranged[2].1, ranged[3].1), (1024, 1025));
}

// Own addresses: ports below 1024 are the box's, kept or not. A port that is taken is not kept.
#[test]
fn a_port_that_is_taken_is_not_kept() {
    let mut bed = Bed::with(&policy(&[&format!("{HIDE}keep_port = true\n")]));
    assert_eq!(bed.seen("10.1.0.2:5060", REMOTE), at("198.51.100.1:5060"));
    let other = bed.seen("10.1.0.3:5060", REMOTE);
    assert!(other.port() != 5060 && other.port() > 1023);
    assert!(bed.seen("10.1.0.2:53", REMOTE).port() > 1023);
    assert!(bed.seen("10.1.0.2:40000", REMOTE).port() != 40000, "the kernel's own range");
    bed.ends_clean();
}

// RFC 6888 REQ-8.
#[test]
fn a_freed_port_rests_before_another_host_gets_it() {
    let one = pool("198.51.100.20", "translate.ports = \"2000-2001\"");
    let mut bed = Bed::with(&one);
    let first = bed.seen("10.1.0.2:5000", REMOTE);
    bed.end_all();
    let second = bed.seen("10.1.0.3:5000", REMOTE);
    assert_ne!(second, first);
    // There is nothing else: the resting port is better than none.
    assert_eq!(bed.seen("10.1.0.3:5001", REMOTE), first);
    bed.end_all();
    // Whoever had it gets it back; for others two minutes pass.
    let mut seen = HashSet::new();
    for _ in 0..20 {
        seen.insert(bed.seen("10.1.0.3:5001", REMOTE));
        bed.end_all();
        bed.pass(SECOND);
    }
    assert_eq!(seen, HashSet::from([first]));
    bed.pass(120 * SECOND);
    let mut seen = HashSet::new();
    for round in 0..20 {
        seen.insert(bed.seen(&format!("10.1.0.2:{}", 7000 + round), REMOTE));
        bed.end_all();
        bed.pass(121 * SECOND);
    }
    assert_eq!(seen, HashSet::from([first, second]));
    // As long, and as many, as policy says.
    bed.bindings.set_rest(10 * SECOND, 1);
    let mut seen = HashSet::new();
    for round in 0..20 {
        seen.insert(bed.seen(&format!("10.1.0.3:{}", 8000 + round), REMOTE));
        bed.end_all();
        bed.pass(11 * SECOND);
    }
    assert_eq!(seen, HashSet::from([first, second]));
    bed.bindings.set_rest(120 * SECOND, 1);
    let [a, b] = ["10.1.0.2:9000", "10.1.0.2:9001"].map(|inside| bed.seen(inside, REMOTE));
    bed.end_all();
    let last = bed.seen("10.1.0.3:9000", REMOTE);
    assert!([a, b].contains(&last), "one of the two rests no more");
}

// RFC 6888 REQ-8, RFC 6056: with nearly every port of an address in use or resting the free ones are found, then the
// host's own, then those of others.
#[test]
fn the_last_free_ports_are_found_among_those_that_rest() {
    let text = pool("198.51.100.20", "translate.ports = \"2000-2999\"");
    let mut bed = Bed::sized(&text, 4096, false);
    let mut seen = HashSet::new();
    for port in 1..=998 {
        seen.insert(bed.seen(&format!("10.1.0.2:{}", 5000 + port), REMOTE));
    }
    bed.end_all();
    for port in 1..=2 {
        assert!(seen.insert(bed.seen(&format!("10.1.0.3:{port}"), REMOTE)), "rests");
    }
    assert_eq!(seen.len(), 1000);
    for port in 1..=998 {
        bed.seen(&format!("10.1.0.3:{}", 5000 + port), REMOTE);
    }
    bed.refuses("10.1.0.3:9000", Reason::NatExhausted);
    bed.ends_clean();
}

// RFC 6888 REQ-4, REQ-5: what one subscriber has, the others cannot miss.
#[test]
fn a_subscriber_has_so_many_ports_and_connections() {
    let text = pool("198.51.100.20", "limit.ports = 3\nlimit.connections = 4\nfiltering = \"endpoint-independent\"");
    let mut bed = Bed::with(&text);
    let external = bed.seen("10.1.0.2:5000", REMOTE);
    bed.seen("10.1.0.2:5001", REMOTE);
    bed.passes(LAN, &syn("10.1.0.2:5000", "198.51.100.2:80"));
    bed.refuses("10.1.0.2:5002", Reason::NatLimit);
    bed.refused(LAN, &syn("10.1.0.2:5001", "198.51.100.2:80"), Kind::Drop, Reason::NatLimit);
    // What comes in is counted apart: strangers do not lock a subscriber out.
    for port in 95..99 {
        bed.passes(WAN, &udp(&format!("198.51.100.3:{port}"), external));
    }
    bed.refused(WAN, &udp("198.51.100.3:99", external), Kind::Drop, Reason::NatLimit);
    // The same mapping again takes no port, but is a connection more.
    bed.seen("10.1.0.2:5000", "198.51.100.3:53");
    bed.refused(LAN, &udp("10.1.0.2:5000", at("198.51.100.3:54")), Kind::Drop, Reason::NatLimit);
    bed.refused(WAN, &udp("198.51.100.3:99", external), Kind::Drop, Reason::NatLimit);
    // Others are not concerned. What is there goes on, after a restart as well.
    bed.seen("10.1.0.3:5002", REMOTE);
    assert_eq!(bed.seen("10.1.0.2:5000", REMOTE), external);
    let (mut bed, adopted) = bed.adopt();
    assert_eq!(adopted, (9, 0));
    bed.refuses("10.1.0.2:5002", Reason::NatLimit);
    bed.refused(WAN, &udp("198.51.100.3:99", external), Kind::Drop, Reason::NatLimit);
    bed.end_all();
    bed.seen("10.1.0.2:5002", REMOTE);
    bed.ends_clean();
}

// Identifiers of echo are shared out like ports.
#[test]
fn identifiers_of_echo_are_from_the_range_as_well() {
    let mut bed = Bed::with(&pool("198.51.100.20", "translate.ports = \"2000-2009\"\nparity = true"));
    for identifier in 1..=10 {
        let echo = flowhop_wire::build::Spec::echo_request(ip("10.1.0.2"), ip("198.51.100.2"), identifier, 1, b"x");
        assert_eq!(bed.send(LAN, &echo).kind, Kind::Forward);
        let (_, frame) = bed.last();
        assert!((2000..=2009).contains(&u16::from_be_bytes([frame[38], frame[39]])));
    }
    bed.ends_clean();
}
