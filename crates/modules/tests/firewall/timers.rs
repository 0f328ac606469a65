//! How long connections and mappings live: RFC 5382 REQ-5, RFC 5508 REQ-2, RFC 7857.

use flowhop_engine::Timeouts;
use flowhop_flow::{Kind, Reason};
use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, FIN, RST, SYN};

use crate::bed::{Bed, LAN, WAN, at, ip};
use crate::mapping::udp;
use crate::pools::{REMOTE, SECOND};
use crate::translation::{CLIENT, HIDE, policy, syn};

const SERVER: &str = "198.51.100.2:80";

fn open_filtering() -> String {
    policy(&[&format!("{HIDE}filtering = \"endpoint-independent\"\n")])
}

impl Bed {
    /// Opens a connection from the client to the server; its external endpoint.
    fn establish(&mut self) -> std::net::SocketAddr {
        let (external, _) = self.connects([LAN, WAN], CLIENT, SERVER);
        self.says(LAN, ACK, 1001, 5001, external);
        external
    }

    /// A segment of that connection.
    #[track_caller]
    fn says(&mut self, port: u8, flags: u8, sequence: u32, acknowledgment: u32, external: std::net::SocketAddr) {
        let (from, to) = if port == LAN { (at(CLIENT), at(SERVER)) } else { (at(SERVER), external) };
        self.passes(port, &Spec::tcp(from, to, flags, &[]).with_sequence(sequence, acknowledgment));
    }

    fn lives(&self) -> bool {
        assert_eq!(self.engine.table().live() == 0, self.bindings.is_empty());
        self.engine.table().live() != 0
    }

    fn state(&self) -> &'static str {
        let number = self.engine.table().live_blocks().next().unwrap();
        flowhop_engine::ageing::state_of(self.engine.table().block(number).unwrap(), 6, self.engine.timeouts()).0
    }
}

// RFC 7857 section 2.2: a reset is passed on, and the connection stays for four minutes of silence.
#[test]
fn a_reset_connection_stays_for_four_silent_minutes() {
    let mut bed = Bed::with(&policy(&[HIDE]));
    let external = bed.establish();
    bed.says(WAN, RST, 5001, 0, external);
    assert_eq!(bed.state(), "reset");
    bed.pass(200 * SECOND);
    assert!(bed.lives());
    // Silence counts from the last packet.
    bed.says(LAN, ACK, 1001, 5001, external);
    bed.pass(230 * SECOND);
    assert!(bed.lives());
    bed.pass(15 * SECOND);
    assert!(!bed.lives());
}

// RFC 6146 section 3.5.2.2: if both sides go on, the reset was not one, and they have hours again.
#[test]
fn a_connection_whose_sides_go_on_after_a_reset_is_open_again() {
    let mut bed = Bed::with(&policy(&[HIDE]));
    let external = bed.establish();
    bed.says(WAN, RST, 5001, 0, external);
    for _ in 0..3 {
        bed.pass(130 * SECOND);
        bed.says(LAN, ACK, 1001, 5001, external);
    }
    assert_eq!(bed.state(), "reset", "one side alone is no connection");
    for _ in 0..4 {
        bed.pass(130 * SECOND);
        bed.says(LAN, ACK, 1001, 5001, external);
        bed.says(WAN, ACK, 5001, 1001, external);
    }
    assert_eq!(bed.state(), "established");
    bed.pass(7000 * SECOND);
    assert!(bed.lives());
    // The next reset is one again.
    bed.says(WAN, RST, 5001, 0, external);
    assert_eq!(bed.state(), "reset");
    bed.pass(245 * SECOND);
    assert!(!bed.lives());
}

// RFC 7857 section 2.1: opening and closing have times of their own.
#[test]
fn opening_and_closing_have_their_own_timeouts() {
    let set = |bed: &mut Bed| {
        let timeouts = Timeouts { tcp_opening: 30 * SECOND, tcp_closing: 600 * SECOND, ..*bed.engine.timeouts() };
        bed.engine.set_timeouts(timeouts);
    };
    let mut bed = Bed::with(&policy(&[HIDE]));
    set(&mut bed);
    bed.passes(LAN, &syn(CLIENT, SERVER));
    bed.pass(25 * SECOND);
    assert!(bed.lives());
    bed.pass(7 * SECOND);
    assert!(!bed.lives());

    let mut bed = Bed::with(&policy(&[HIDE]));
    set(&mut bed);
    let external = bed.establish();
    bed.pass(100 * SECOND);
    assert!(bed.lives());
    bed.says(LAN, FIN | ACK, 1001, 5001, external);
    bed.says(WAN, FIN | ACK, 5001, 1002, external);
    bed.says(LAN, ACK, 1002, 5002, external);
    assert_eq!(bed.state(), "closed");
    bed.pass(590 * SECOND);
    assert!(bed.lives());
    bed.pass(15 * SECOND);
    assert!(!bed.lives());
}

// RFC 5382 REQ-5: what is closed stays for four minutes unless the policy says otherwise.
#[test]
fn a_closed_connection_stays_for_four_minutes() {
    let mut bed = Bed::with(&policy(&[HIDE]));
    let external = bed.establish();
    bed.says(LAN, FIN | ACK, 1001, 5001, external);
    bed.says(WAN, FIN | ACK, 5001, 1002, external);
    bed.pass(235 * SECOND);
    assert!(bed.lives());
    bed.pass(10 * SECOND);
    assert!(!bed.lives());
}

// RFC 4787 REQ-6, RFC 7857: strangers do not keep a mapping; what its host sends does.
#[test]
fn what_comes_in_does_not_refresh_a_mapping() {
    let mut bed = Bed::with(&open_filtering());
    let external = bed.seen(CLIENT, REMOTE);
    bed.passes(WAN, &udp("198.51.100.3:7", external));
    bed.pass(200 * SECOND);
    bed.passes(WAN, &udp("198.51.100.3:7", external));
    assert_eq!(bed.seen(CLIENT, "198.51.100.3:7"), external);
    for _ in 0..2 {
        bed.pass(140 * SECOND);
        bed.passes(WAN, &udp("198.51.100.3:7", external));
    }
    assert_eq!(bed.engine.table().live(), 1, "the first one has ended");
    bed.pass(25 * SECOND);
    assert!(!bed.lives());
    let outcome = bed.send(WAN, &udp("198.51.100.3:7", external));
    assert_eq!((outcome.kind, outcome.reason), (Kind::Stack, Reason::Local));
    // A connection that the host began is kept by either side.
    let external = bed.seen(CLIENT, REMOTE);
    for _ in 0..5 {
        bed.pass(140 * SECOND);
        bed.passes(WAN, &udp(REMOTE, external));
    }
    assert!(bed.lives());
}

// RFC 7857: neither do resets and ICMP errors that answer what came in.
#[test]
fn refusing_what_comes_in_does_not_keep_a_mapping() {
    let mut bed = Bed::with(&open_filtering());
    let (_, external, _) = bed.passes(LAN, &syn(CLIENT, SERVER));
    bed.says(WAN, RST | ACK, 0, 1001, external);
    bed.pass(100 * SECOND);
    bed.passes(WAN, &Spec::tcp(at("198.51.100.3:7"), external, SYN, &[]).with_sequence(1, 0));
    let refusal = Spec::tcp(at(CLIENT), at("198.51.100.3:7"), RST | ACK, &[]).with_sequence(0, 2);
    bed.passes(LAN, &refusal);
    assert_eq!(bed.engine.table().live(), 2);
    bed.pass(22 * SECOND);
    assert_eq!(bed.engine.table().live(), 1, "the refused one is forgotten, the host's own not yet");
    bed.pass(130 * SECOND);
    assert!(!bed.lives());
}

// RFC 5508 REQ-2.
#[test]
fn a_mapping_of_echo_lives_for_a_minute() {
    let mut bed = Bed::with(&policy(&[HIDE]));
    bed.send(LAN, &Spec::echo_request(ip("10.1.0.2"), ip("198.51.100.2"), 7, 1, b"x"));
    bed.pass(58 * SECOND);
    assert!(bed.lives());
    bed.pass(4 * SECOND);
    assert!(!bed.lives());
}
