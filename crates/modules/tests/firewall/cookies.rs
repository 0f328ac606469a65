//! SYN cookies in the slow path: what an acknowledgment opens, what a server's answer makes of it, and what strangers can
//! do about it (checklist F12; RFC 4987 section 3.6).

use std::net::SocketAddr;

use flowhop_engine::ReversePath;
use flowhop_flow::cookie::{LIFE, WINDOW};
use flowhop_flow::{Kind, Reason};
use flowhop_table::BlockIndex;
use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, ECE, FIN, PSH, RST, SYN, URG};
use flowhop_wire::{Ipv4, Tcp, options};
use zerocopy::FromBytes;

use crate::bed::{Bed, LAN, WAN, at, ends, ip, is_sound};

/// What clients address, and where it is.
const PUBLIC: &str = "198.51.100.1:443";
const SERVER: &str = "10.1.0.80:8443";
const CLIENT: &str = "198.51.100.2:40000";
/// Client's and server's first sequence numbers: both come round.
const INITIAL: u32 = u32::MAX - 3;
const SERVERS: u32 = u32::MAX - 100;
/// A second, in ticks.
const SECOND: u32 = 954;

fn policy(cookies: &str, more: &str) -> String {
    format!(
        "[[rule]]\nname = \"web\"\nfrom = \"outside\"\nto = \"inside\"\nservice = \"tcp/8443\"\naction = \"allow\"\n{more}\n\
         [[nat]]\nname = \"publish\"\ndestination = \"198.51.100.1\"\nservice = [\"tcp/443\", \"tcp/444\"]\n\
         translate.destination = \"{SERVER}\"\nsyn_cookies = \"{cookies}\"\n"
    )
}

fn published(cookies: &str, more: &str) -> Bed {
    let mut bed = Bed::with(&policy(cookies, more));
    bed.services();
    bed
}

fn always() -> Bed {
    published("always", "")
}

/// What a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
}

fn said(frame: &[u8]) -> Said {
    assert!(is_sound(frame), "{frame:?}");
    let tcp = header(frame);
    Said { flags: tcp.flags, sequence: tcp.sequence.get(), acknowledgment: tcp.acknowledgment.get() }
}

fn header(frame: &[u8]) -> Tcp {
    let at = 14 + Ipv4::read_from_prefix(&frame[14..]).unwrap().0.header_len();
    Tcp::read_from_prefix(&frame[at..]).unwrap().0
}

/// The segment size that a frame announces.
fn size(frame: &[u8]) -> Option<u16> {
    let header = header(frame);
    let list = &frame[34 + Tcp::LEN..34 + header.header_len()];
    options::TcpOptions::new(list).find_map(|option| match option.unwrap() {
        options::TcpOption::Mss(size) => Some(size),
        _ => None,
    })
}

impl Bed {
    fn segment(&mut self, port: u8, from: &str, to: &str, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Reason {
        let spec = Spec::tcp(at(from), at(to), flags, payload).with_sequence(numbers.0, numbers.1);
        self.send(port, &spec).reason
    }

    fn client(&mut self, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Reason {
        self.segment(WAN, CLIENT, PUBLIC, flags, numbers, payload)
    }

    fn server(&mut self, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Reason {
        self.segment(LAN, SERVER, CLIENT, flags, numbers, payload)
    }

    /// Sends a SYN and returns the cookie.
    fn cookie_of(&mut self, from: &str, to: &str) -> u32 {
        let spec = Spec::tcp(at(from), at(to), SYN, &[])
            .with_sequence(INITIAL, 0)
            .with_tcp_options(&[2, 4, 5, 130, 4, 2, 1, 3, 3, 7]);
        assert_eq!(self.send(WAN, &spec).reason, Reason::SynCookie);
        let (port, frame) = self.last();
        assert_eq!((port, ends(&frame)), (WAN, (at(to), at(from))));
        let answer = said(&frame);
        assert_eq!((answer.flags, answer.acknowledgment), (SYN | ACK, INITIAL.wrapping_add(1)));
        assert_eq!((size(&frame), header(&frame).window.get()), (Some(1460), WINDOW));
        answer.sequence
    }

    /// The client's handshake; returns the cookie.
    fn shake_hands(&mut self) -> u32 {
        let cookie = self.cookie_of(CLIENT, PUBLIC);
        assert_eq!(self.live(), 0, "nothing is remembered");
        assert_eq!(self.client(ACK, (INITIAL.wrapping_add(1), cookie.wrapping_add(1)), b""), Reason::CookieAccepted);
        let (port, frame) = self.last();
        assert_eq!((port, ends(&frame)), (LAN, (at(CLIENT), at(SERVER))));
        assert_eq!(said(&frame), Said { flags: SYN, sequence: INITIAL, acknowledgment: 0 });
        assert_eq!(size(&frame), Some(1400), "of the client's 1410");
        cookie
    }

    /// The server's part of it.
    fn answer(&mut self) {
        assert_eq!(self.server(SYN | ACK, (SERVERS, INITIAL.wrapping_add(1)), b""), Reason::ServerAnswered);
        let (port, frame) = self.outside.sent.remove(0);
        assert_eq!((port, ends(&frame)), (LAN, (at(CLIENT), at(SERVER))));
        let expected = Said { flags: ACK, sequence: INITIAL.wrapping_add(1), acknowledgment: SERVERS.wrapping_add(1) };
        assert_eq!(said(&frame), expected);
    }

    fn live(&self) -> u32 {
        self.engine.table().live()
    }

    fn only(&self) -> BlockIndex {
        let mut live = self.engine.table().live_blocks();
        let only = live.next().expect("a connection");
        assert_eq!(live.next(), None);
        only
    }

    fn dropped(&self, reason: Reason) -> u64 {
        self.engine.counters().get(WAN, reason).0
    }

    /// Both sides talk, in the numbers that each knows.
    fn talk(&mut self, cookie: u32, done: [u32; 2]) {
        let (c, s) = (INITIAL.wrapping_add(1 + done[0]), 1 + done[1]);
        assert_eq!(self.client(PSH | ACK, (c, cookie.wrapping_add(s)), b"request"), Reason::Forwarded);
        let (_, frame) = self.last();
        let expected = Said { flags: PSH | ACK, sequence: c, acknowledgment: SERVERS.wrapping_add(s) };
        assert_eq!(said(&frame), expected);
        let c = c.wrapping_add(7);
        assert_eq!(self.server(PSH | ACK, (SERVERS.wrapping_add(s), c), b"an answer"), Reason::Forwarded);
        let (_, frame) = self.last();
        assert_eq!(said(&frame), Said { flags: PSH | ACK, sequence: cookie.wrapping_add(s), acknowledgment: c });
        // What was acknowledged in the other space is nowhere near.
        assert_eq!(self.client(ACK, (c, SERVERS.wrapping_add(s + 9)), b""), Reason::TcpWindow);
        assert_eq!(self.client(ACK, (c, cookie.wrapping_add(s + 9)), b""), Reason::Forwarded);
        self.outside.sent.clear();
    }
}

// RFC 4987 section 3.6; RFC 9293 section 3.4: every number of the server's is moved by the same distance, both ways.
#[test]
fn a_connection_is_opened_by_its_acknowledgment() {
    let mut bed = always();
    let cookie = bed.shake_hands();
    assert_eq!(bed.live(), 1);
    bed.answer();
    assert!(bed.outside.sent.is_empty(), "the client has its SYN|ACK already");
    bed.talk(cookie, [0, 0]);
    bed.talk(cookie, [7, 9]);
    // Both finish, and what is repeated after that has its place.
    let (c, s) = (INITIAL.wrapping_add(15), 19);
    assert_eq!(bed.client(FIN | ACK, (c, cookie.wrapping_add(s)), b""), Reason::Forwarded);
    assert_eq!(bed.server(FIN | ACK, (SERVERS.wrapping_add(s), c.wrapping_add(1)), b""), Reason::Forwarded);
    assert_eq!(said(&bed.last().1).sequence, cookie.wrapping_add(s));
    assert_eq!(bed.client(ACK, (c.wrapping_add(1), cookie.wrapping_add(s + 1)), b""), Reason::Forwarded);
    assert_eq!(said(&bed.last().1).acknowledgment, SERVERS.wrapping_add(s + 1));
    // A new connection on its remains is an ordinary one: the server's number is the server's again.
    assert_eq!(bed.client(SYN, (77, 0), b""), Reason::Forwarded);
    assert_eq!(bed.server(SYN | ACK, (5000, 78), b""), Reason::Forwarded);
    assert_eq!(said(&bed.last().1), Said { flags: SYN | ACK, sequence: 5000, acknowledgment: 78 });
    let status = bed.engine.cookies();
    assert_eq!((status.accepted, status.opening, status.services), (1, 0, 2));
}

// RFC 5961 section 3.2: resets are exact in the receiver's own numbers, on either side.
#[test]
fn resets_are_exact_in_either_space() {
    for from_server in [false, true] {
        let mut bed = always();
        let cookie = bed.shake_hands();
        bed.answer();
        bed.talk(cookie, [0, 0]);
        let (c, s) = (INITIAL.wrapping_add(8), 10);
        if from_server {
            assert_eq!(bed.server(RST, (SERVERS.wrapping_add(s), 0), b""), Reason::Forwarded);
            assert_eq!(said(&bed.last().1), Said { flags: RST, sequence: cookie.wrapping_add(s), acknowledgment: 0 });
        } else {
            assert_eq!(bed.client(RST | ACK, (c, cookie.wrapping_add(s)), b""), Reason::Forwarded);
            let expected = Said { flags: RST | ACK, sequence: c, acknowledgment: SERVERS.wrapping_add(s) };
            assert_eq!(said(&bed.last().1), expected);
        }
        let block = bed.engine.table().block(bed.only()).unwrap();
        let phase = flowhop_flow::tcp::Phase::of(block.tcp[0].flags(), block.tcp[1].flags());
        assert_eq!(phase, flowhop_flow::tcp::Phase::Reset);
    }
}

// What a client sends before its server has answered is kept, and goes on in order; not without end.
#[test]
fn data_waits_for_the_server() {
    let mut bed = always();
    let cookie = bed.shake_hands();
    let numbers = |at: u32| (INITIAL.wrapping_add(1 + at), cookie.wrapping_add(1));
    for piece in 0..20 {
        let expected = if piece < 16 { Reason::HeldServer } else { Reason::HoldFull };
        assert_eq!(bed.client(ACK, numbers(piece * 3), b"abc"), expected, "{piece}");
    }
    // An acknowledgment of something else is not.
    assert_eq!(bed.client(ACK, (INITIAL.wrapping_add(1), cookie.wrapping_add(2)), b""), Reason::TcpWindow);
    assert_eq!(bed.engine.held(), 16);
    bed.outside.sent.clear();
    bed.answer();
    let sent: Vec<Said> = bed.outside.sent.iter().map(|(_, frame)| said(frame)).collect();
    let expected = (0..16).map(|piece| Said {
        flags: ACK,
        sequence: INITIAL.wrapping_add(1 + piece * 3),
        acknowledgment: SERVERS.wrapping_add(1),
    });
    assert_eq!(sent, expected.collect::<Vec<_>>());
    assert_eq!((bed.engine.held(), bed.dropped(Reason::HeldServer)), (0, 0));
    // The first of them may be what proves the client: its acknowledgment was lost.
    let mut bed = always();
    let cookie = bed.cookie_of(CLIENT, PUBLIC);
    let numbers = (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
    assert_eq!(bed.client(PSH | ACK, numbers, b"first"), Reason::HeldServer);
    assert_eq!(said(&bed.last().1).flags, SYN);
    bed.answer();
    assert_eq!(said(&bed.last().1).sequence, INITIAL.wrapping_add(1));
}

// RFC 9293 section 3.10.7.3: a server that refuses ends the client's connection where the client is.
#[test]
fn a_servers_reset_reaches_the_client() {
    let mut bed = always();
    let cookie = bed.shake_hands();
    let numbers = (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
    assert_eq!(bed.client(ACK, numbers, b"hello"), Reason::HeldServer);
    // One that acknowledges nothing, or something else, is nobody's.
    assert_eq!(bed.server(RST, (0, 0), b""), Reason::TcpState);
    assert_eq!(bed.server(RST | ACK, (0, INITIAL.wrapping_add(9)), b""), Reason::TcpState);
    bed.outside.sent.clear();
    assert_eq!(bed.server(RST | ACK, (0, INITIAL.wrapping_add(1)), b""), Reason::Forwarded);
    let (port, frame) = bed.last();
    assert_eq!((port, ends(&frame)), (WAN, (at(PUBLIC), at(CLIENT))));
    let expected = Said { flags: RST | ACK, sequence: cookie.wrapping_add(1), acknowledgment: INITIAL.wrapping_add(1) };
    assert_eq!(said(&frame), expected);
    assert_eq!((bed.engine.held(), bed.dropped(Reason::ServerSilent)), (0, 1));
    assert_eq!(bed.engine.cookies().opening, 0);
}

// A server that is silent is asked again, and given up; its client is told.
#[test]
fn a_silent_server_is_given_up() {
    let mut bed = always();
    let cookie = bed.shake_hands();
    let mut seen = Vec::new();
    for tick in 1..=12 * SECOND {
        bed.now += 1;
        bed.turn();
        for (port, frame) in std::mem::take(&mut bed.outside.sent) {
            let said = said(&frame);
            if port == LAN {
                assert_eq!(said, Said { flags: SYN, sequence: INITIAL, acknowledgment: 0 });
            } else {
                assert_eq!(ends(&frame), (at(PUBLIC), at(CLIENT)));
                assert_eq!((said.flags, said.sequence), (RST | ACK, cookie.wrapping_add(1)));
            }
            seen.push((port, (tick + SECOND / 2) / SECOND));
        }
    }
    assert_eq!(seen, [(LAN, 1), (LAN, 3), (LAN, 7), (WAN, 11)]);
    assert_eq!((bed.live(), bed.engine.cookies().opening), (0, 0));
}

// A server that still has an old connection of the same ports says so with an acknowledgment: it learns that there is none,
// and takes the SYN that is repeated (RFC 9293 section 3.5.1).
#[test]
fn a_half_open_server_is_reset() {
    let mut bed = always();
    bed.shake_hands();
    assert_eq!(bed.server(ACK, (123_456, 99), b""), Reason::TcpState);
    let (port, frame) = bed.last();
    assert_eq!((port, said(&frame)), (LAN, Said { flags: RST, sequence: 99, acknowledgment: 0 }));
    assert_eq!(ends(&frame), (at(CLIENT), at(SERVER)));
    bed.outside.sent.clear();
    bed.pass(2 * SECOND);
    assert_eq!(said(&bed.outside.sent[0].1).flags, SYN);
    bed.outside.sent.clear();
    bed.answer();
}

// Replay: what was good once is not when its time is over, nor for another connection.
#[test]
fn cookies_are_of_one_time_and_place() {
    let mut bed = always();
    let cookie = bed.cookie_of(CLIENT, PUBLIC);
    let numbers = (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
    // Other ends: another service of the same server, another port, another client.
    for (from, to) in [(CLIENT, "198.51.100.1:444"), ("198.51.100.2:40001", PUBLIC), ("198.51.100.3:40000", PUBLIC)] {
        assert_eq!(bed.segment(WAN, from, to, ACK, numbers, b""), Reason::CookieRefused);
    }
    // Another beginning: it may be a segment that follows, of a connection that is not there.
    assert_eq!(bed.client(ACK, (numbers.0.wrapping_add(5), numbers.1), b"x"), Reason::NotNew);
    assert_eq!(bed.client(ACK, (numbers.0, numbers.1.wrapping_add(8)), b""), Reason::CookieRefused);
    // What is no acknowledgment by itself.
    for flags in [SYN | ACK, RST, RST | ACK, FIN] {
        assert_eq!(bed.client(flags, numbers, b""), Reason::NotNew, "{flags:#x}");
    }
    assert_eq!(bed.live(), 0);
    bed.pass(LIFE);
    assert_eq!(bed.client(ACK, numbers, b""), Reason::CookieRefused, "its time is over");
    assert_eq!(bed.live(), 0);
    assert!(bed.outside.sent.is_empty(), "nothing of that is answered");
}

// Guessing and floods of acknowledgments: none opens anything, none is answered.
#[test]
fn floods_of_acknowledgments_open_nothing() {
    let mut bed = always();
    for number in 0..100_000u32 {
        let from = SocketAddr::new(ip("198.51.100.2"), 1024 + (number % 60_000) as u16);
        let word = number.wrapping_mul(0x9e37_79b1);
        let spec = Spec::tcp(from, at(PUBLIC), ACK, &[]).with_sequence(word.rotate_left(13), word);
        let reason = bed.send(WAN, &spec).reason;
        assert!(matches!(reason, Reason::CookieRefused | Reason::NotNew), "{number}: {reason:?}");
    }
    assert!(bed.dropped(Reason::NotNew) < 50, "one in 2^14 names a connection that is not there");
    assert_eq!((bed.live(), bed.engine.cookies().accepted), (0, 0));
    assert!(bed.outside.sent.is_empty());
}

// A client repeats its SYN, its acknowledgment and its data; another one has the same ends.
#[test]
fn repeats_change_nothing() {
    let mut bed = always();
    let cookie = bed.cookie_of(CLIENT, PUBLIC);
    assert_eq!(bed.cookie_of(CLIENT, PUBLIC), cookie, "the same in one slot of time");
    bed.shake_hands();
    let numbers = (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
    assert_eq!(bed.client(ACK, numbers, b""), Reason::HeldServer);
    // The SYN once more, late, with options that nobody agreed on: the one in the client's name goes.
    let late = Spec::tcp(at(CLIENT), at(PUBLIC), SYN, &[]).with_sequence(INITIAL, 0).with_tcp_options(&[1, 3, 3, 7]);
    assert_eq!(bed.send(WAN, &late).reason, Reason::Forwarded);
    assert_eq!(size(&bed.last().1), Some(1400));
    // Another client, or the same one anew, with the same ends: it has to wait.
    assert_eq!(bed.client(SYN, (5, 0), b""), Reason::TcpState);
    assert_eq!(bed.live(), 1);
    bed.answer();
    bed.outside.sent.clear();
    // The server repeats its SYN|ACK: its acknowledgment was lost. The client answers it, as it answers any old one.
    assert_eq!(bed.server(SYN | ACK, (SERVERS, INITIAL.wrapping_add(1)), b""), Reason::Forwarded);
    let expected = Said { flags: SYN | ACK, sequence: cookie, acknowledgment: INITIAL.wrapping_add(1) };
    assert_eq!(said(&bed.last().1), expected);
    bed.talk(cookie, [0, 0]);
    assert_eq!(bed.client(ACK, numbers, b""), Reason::Forwarded, "late, in the window");
}

// The policy is asked when the client is known to be there: rules, limits of sources, what is left of the service.
#[test]
fn rules_are_asked_at_the_acknowledgment() {
    let mut bed = published("always", "source_connections = 1");
    bed.shake_hands();
    bed.answer();
    let from = "198.51.100.2:40001";
    let cookie = bed.cookie_of(from, PUBLIC);
    let numbers = (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
    assert_eq!(bed.segment(WAN, from, PUBLIC, ACK, numbers, b""), Reason::SourceLimit);
    let (port, frame) = bed.last();
    assert_eq!((port, ends(&frame)), (WAN, (at(PUBLIC), at(from))));
    assert_eq!(said(&frame), Said { flags: RST, sequence: numbers.1, acknowledgment: 0 });
    assert!(bed.outside.sent.is_empty(), "and nothing else");
    assert_eq!((bed.live(), bed.engine.cookies().opening), (1, 0));
}

#[test]
fn a_service_that_is_gone_takes_no_acknowledgments() {
    let mut bed = always();
    let cookie = bed.cookie_of(CLIENT, PUBLIC);
    bed.reload("");
    bed.services();
    let numbers = (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
    // The address is the box's own again.
    assert_eq!(bed.client(ACK, numbers, b""), Reason::Local);
    assert_eq!(bed.client(SYN, (INITIAL, 0), b""), Reason::Local);
    assert_eq!(bed.engine.cookies().services, 0);

    // The rule goes while the server is asked: the connection ends, and what the client sends is dropped.
    let mut bed = always();
    let cookie = bed.shake_hands();
    let numbers = (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
    assert_eq!(bed.client(ACK, numbers, b"hello"), Reason::HeldServer);
    bed.reload("");
    bed.services();
    bed.pass(12 * SECOND);
    assert_eq!((bed.live(), bed.engine.cookies().opening, bed.engine.held()), (0, 0, 0));
    assert_eq!(bed.server(SYN | ACK, (SERVERS, INITIAL.wrapping_add(1)), b""), Reason::NotNew);
}

// The daemon is killed: connections go on with their distance, cookies stay good, and one without a server is forgotten.
#[test]
fn another_process_goes_on() {
    let mut bed = always();
    let cookie = bed.shake_hands();
    bed.answer();
    bed.talk(cookie, [0, 0]);
    let other = "198.51.100.3:50000";
    let waiting = bed.cookie_of(other, PUBLIC);
    let half = "198.51.100.3:50001";
    let half_cookie = bed.cookie_of(half, PUBLIC);
    let numbers = |cookie: u32| (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
    assert_eq!(bed.segment(WAN, half, PUBLIC, ACK, numbers(half_cookie), b""), Reason::CookieAccepted);
    let (mut bed, kept) = bed.adopt();
    assert_eq!(kept.0, 1);
    bed.services();
    bed.talk(cookie, [7, 9]);
    assert_eq!(bed.segment(WAN, other, PUBLIC, ACK, numbers(waiting), b""), Reason::CookieAccepted);
    // Its client says more: that is the cookie's acknowledgment as well.
    assert_eq!(bed.segment(WAN, half, PUBLIC, ACK, numbers(half_cookie), b"hello"), Reason::HeldServer);
}

// The same where answering had begun under pressure: the next process, which feels none, takes what was answered before.
#[test]
fn another_process_takes_what_was_answered_under_pressure() {
    let mut bed = published("auto", "");
    for number in 0..200 {
        let from = SocketAddr::new(std::net::Ipv4Addr::from(0x0b00_0000 + number).into(), 1024);
        bed.send(WAN, &Spec::tcp(from, at(PUBLIC), SYN, &[]).with_sequence(1, 0));
    }
    bed.outside.sent.clear();
    let cookie = bed.cookie_of(CLIENT, PUBLIC);
    // Nobody is half open any more.
    let half_open: Vec<_> = bed.engine.table().live_blocks().collect();
    for number in half_open {
        let serial = bed.engine.table().block(number).unwrap().owner.serial.load();
        assert!(bed.engine.delete(serial));
    }
    let (mut bed, _) = bed.adopt();
    bed.services();
    assert!(!bed.engine.cookies().answering);
    let numbers = (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
    assert_eq!(bed.client(ACK, numbers, b""), Reason::CookieAccepted);
    // A SYN is opened as ever, and soon a late acknowledgment is nothing any more.
    assert_eq!(bed.segment(WAN, "198.51.100.3:1", PUBLIC, SYN, (1, 0), b""), Reason::Forwarded);
    bed.pass(LIFE + 1000);
    assert_eq!(bed.segment(WAN, "198.51.100.3:2", PUBLIC, ACK, (1, 1), b""), Reason::NotNew);
}

// RFC 3704, RFC 1812 section 5.3.8: no answer to a source that cannot be there; nothing but plain SYNs is answered.
#[test]
fn what_is_doubtful_is_not_answered() {
    let mut bed = always();
    for (from, reason) in [
        ("10.1.0.2:1000", Reason::SpoofedConnected),
        ("198.51.100.9:1000", Reason::SpoofedSource),
        ("198.51.100.255:1000", Reason::MartianSource),
        ("255.255.255.255:1000", Reason::MulticastSource),
        ("224.0.0.5:1000", Reason::MulticastSource),
        ("127.0.0.1:1000", Reason::LoopbackAddress),
        ("0.0.0.1:1000", Reason::MartianSource),
        ("169.254.3.3:1000", Reason::LinkLocalTransit),
        (PUBLIC, Reason::LandAttack),
    ] {
        assert_eq!(bed.segment(WAN, from, PUBLIC, SYN, (1, 0), b""), reason, "{from}");
        assert!(bed.outside.sent.is_empty(), "{from}");
    }
    // RFC 9293 section 3.10.7.2: data is not taken; RFC 3168 section 6.1.1: ECN is not agreed on.
    for (flags, payload) in [(SYN, &b"data"[..]), (SYN | ECE, b"")] {
        assert_eq!(bed.client(flags, (INITIAL, 0), payload), Reason::SynCookie);
        let (_, frame) = bed.last();
        let expected = (SYN | ACK, INITIAL.wrapping_add(1));
        assert_eq!((said(&frame).flags, said(&frame).acknowledgment), expected);
        assert!(frame.len() <= 14 + 20 + 20 + payload.len(), "no longer than what asked");
    }
    // Those that start something else are judged as ever.
    for flags in [SYN | FIN, SYN | URG] {
        let reason = bed.segment(WAN, "198.51.100.3:1000", PUBLIC, flags, (INITIAL, 0), b"");
        assert_ne!(reason, Reason::SynCookie, "{flags:#x}");
    }
    bed.outside.sent.clear();
    let mut wan = bed.engine.interfaces().port(WAN).unwrap().clone();
    wan.reverse_path = ReversePath::Strict;
    bed.engine.interfaces_mut().set(wan);
    assert_eq!(bed.segment(WAN, "203.0.113.7:1000", PUBLIC, SYN, (1, 0), b""), Reason::ReversePath);
    assert!(bed.outside.sent.is_empty());
    bed.cookie_of(CLIENT, PUBLIC);
}

// Answering begins under pressure and ends some time after it; "off" is off.
#[test]
fn answering_follows_pressure() {
    let flood = |bed: &mut Bed, range: std::ops::Range<u32>| {
        range
            .map(|number| {
                let from = SocketAddr::new(std::net::Ipv4Addr::from(0x0b00_0000 + number).into(), 1024);
                let reason = bed.send(WAN, &Spec::tcp(from, at(PUBLIC), SYN, &[]).with_sequence(1, 0)).reason;
                bed.outside.sent.clear();
                reason
            })
            .filter(|reason| *reason == Reason::SynCookie)
            .count()
    };
    let mut bed = published("auto", "");
    // The table has room for 1024, a quarter of them half open.
    assert_eq!(flood(&mut bed, 0..128), 0);
    let answered = flood(&mut bed, 128..5000);
    assert!(answered >= 4870, "{answered}");
    let (live, status) = (bed.live(), bed.engine.cookies());
    assert!(live <= 130 && status.answering, "{live} {status:?}");
    // A client gets through, and its connection lasts.
    let cookie = bed.shake_hands_in_a_flood();
    bed.answer();
    bed.talk(cookie, [0, 0]);
    // What it was answered with before the end is good after it.
    let late = bed.cookie_of("198.51.100.3:50000", PUBLIC);
    let numbers = (INITIAL.wrapping_add(1), late.wrapping_add(1));
    bed.pass(20 * SECOND);
    assert!(bed.engine.cookies().answering, "half-open connections are as many as before");
    bed.pass(230 * SECOND);
    assert!(!bed.engine.cookies().answering);
    assert_eq!(bed.segment(WAN, "198.51.100.3:50000", PUBLIC, ACK, numbers, b""), Reason::CookieRefused);
    bed.pass(LIFE);
    assert_eq!(bed.segment(WAN, "198.51.100.3:50000", PUBLIC, ACK, numbers, b""), Reason::NotNew);
    assert_eq!(flood(&mut bed, 6000..6010), 0);
    bed.talk(cookie, [7, 9]);

    let mut bed = published("off", "");
    assert_eq!(flood(&mut bed, 0..2000), 0);
    assert_eq!(bed.engine.cookies().services, 0);
}

impl Bed {
    /// The same while others are half open.
    fn shake_hands_in_a_flood(&mut self) -> u32 {
        let cookie = self.cookie_of(CLIENT, PUBLIC);
        assert_eq!(self.client(ACK, (INITIAL.wrapping_add(1), cookie.wrapping_add(1)), b""), Reason::CookieAccepted);
        self.outside.sent.clear();
        cookie
    }
}

// A neighbour that is not known yet: the SYN waits for it, and nothing is counted twice.
#[test]
fn the_server_is_a_neighbour_that_has_to_be_found() {
    let mut bed = Bed::unresolved_with(&policy("always", ""));
    bed.services();
    let cookie = bed.cookie_of(CLIENT, PUBLIC);
    let numbers = (INITIAL.wrapping_add(1), cookie.wrapping_add(1));
    assert_eq!(bed.client(ACK, numbers, b""), Reason::CookieAccepted);
    assert_eq!(bed.client(ACK, numbers, b"hello"), Reason::HeldServer);
    assert!(bed.outside.sent.is_empty());
    assert_eq!((bed.engine.held(), bed.dropped(Reason::HeldNeighbour)), (2, 1));
    bed.neighbours();
    assert_eq!(said(&bed.last().1).flags, SYN);
    bed.answer();
    assert_eq!(said(&bed.last().1).sequence, numbers.0);
    for reason in [Reason::HeldNeighbour, Reason::HeldServer] {
        assert_eq!(bed.dropped(reason), 0, "{reason:?}");
    }
    assert_eq!(bed.engine.held(), 0);
}

// A service in both families, answered and opened alike; the way back is that of the zone that it is published to.
#[test]
fn hairpins_and_zones() {
    let mut bed = always();
    // An inside client reaches it by the same address, and is hidden behind it.
    let inside = "10.1.0.2:40000";
    let spec = Spec::tcp(at(inside), at(PUBLIC), SYN, &[]).with_sequence(INITIAL, 0);
    assert_eq!(bed.send(LAN, &spec).reason, Reason::SynCookie);
    let (port, frame) = bed.last();
    assert_eq!((port, ends(&frame)), (LAN, (at(PUBLIC), at(inside))));
    // No rule lets it: it is told at its acknowledgment.
    let numbers = (INITIAL.wrapping_add(1), said(&frame).sequence.wrapping_add(1));
    assert_eq!(bed.segment(LAN, inside, PUBLIC, ACK, numbers, b""), Reason::NoRule);
    assert_eq!(said(&bed.last().1).flags, RST);

    let outside_only = policy("always", "").replace("name = \"publish\"", "name = \"publish\"\nfrom = \"outside\"");
    let mut bed = Bed::with(&outside_only);
    bed.services();
    assert_ne!(bed.send(LAN, &spec).reason, Reason::SynCookie, "it is not published there");
    bed.cookie_of(CLIENT, PUBLIC);
    assert_eq!(bed.send(WAN, &Spec::tcp(at(CLIENT), at("198.51.100.1:445"), SYN, &[])).kind, Kind::Stack);
}

// A helper looks at such a connection as at any other: what it makes longer or shorter comes on top of the constant.
#[test]
fn helpers_read_connections_that_cookies_opened() {
    let mut bed = Bed::with(
        "[[rule]]\nname = \"files\"\nfrom = \"outside\"\nto = \"inside\"\nservice = \"tcp/21\"\naction = \"allow\"\n\
         helper = \"ftp\"\n[[nat]]\nname = \"publish\"\ndestination = \"198.51.100.1\"\nservice = \"tcp/21\"\n\
         translate.destination = \"10.1.0.80\"\nsyn_cookies = \"always\"\n",
    );
    bed.services();
    let (public, server) = ("198.51.100.1:21", "10.1.0.80:21");
    let cookie = bed.cookie_of(CLIENT, public);
    let c = INITIAL.wrapping_add(1);
    assert_eq!(bed.segment(WAN, CLIENT, public, ACK, (c, cookie.wrapping_add(1)), b""), Reason::CookieAccepted);
    assert_eq!(bed.segment(LAN, server, CLIENT, SYN | ACK, (SERVERS, c), b""), Reason::ServerAnswered);
    assert_eq!(said(&bed.last().1).acknowledgment, SERVERS.wrapping_add(1));
    bed.outside.sent.clear();
    let asks = bed.segment(WAN, CLIENT, public, PSH | ACK, (c, cookie.wrapping_add(1)), b"PASV\r\n");
    assert_eq!(asks, Reason::Forwarded);
    assert_eq!(said(&bed.last().1), Said { flags: PSH | ACK, sequence: c, acknowledgment: SERVERS.wrapping_add(1) });
    let c = c.wrapping_add(6);
    let (before, after) =
        (&b"227 Entering Passive Mode (10,1,0,80,200,10)\r\n"[..], "227 Entering Passive Mode (198,51,100,1,");
    let s = SERVERS.wrapping_add(1);
    assert_eq!(bed.segment(LAN, server, CLIENT, PSH | ACK, (s, c), before), Reason::Forwarded);
    let (_, frame) = bed.last();
    assert_eq!(said(&frame).sequence, cookie.wrapping_add(1));
    let text = String::from_utf8_lossy(&frame[34 + header(&frame).header_len()..]).into_owned();
    assert!(text.starts_with(after), "{text}");
    // The client has it all, and the server learns just that; what follows has its place behind the longer text.
    let heard = text.len() as u32;
    assert_ne!(heard, before.len() as u32);
    let acknowledges = (c, cookie.wrapping_add(1 + heard));
    assert_eq!(bed.segment(WAN, CLIENT, public, ACK, acknowledges, b""), Reason::Forwarded);
    assert_eq!(said(&bed.last().1).acknowledgment, s.wrapping_add(before.len() as u32));
    let next = (s.wrapping_add(before.len() as u32), c);
    assert_eq!(bed.segment(LAN, server, CLIENT, PSH | ACK, next, b"226 Done\r\n"), Reason::Forwarded);
    assert_eq!(said(&bed.last().1).sequence, cookie.wrapping_add(1 + heard));
}

// What is kept for a server is given up after a while; then there is room for what the client repeats.
#[test]
fn what_is_kept_makes_room() {
    let mut bed = always();
    let cookie = bed.shake_hands();
    let numbers = |at: u32| (INITIAL.wrapping_add(1 + at), cookie.wrapping_add(1));
    for piece in 0..16 {
        assert_eq!(bed.client(ACK, numbers(piece), b"a"), Reason::HeldServer);
    }
    assert_eq!(bed.client(ACK, numbers(16), b"a"), Reason::HoldFull);
    bed.pass(4 * SECOND);
    assert_eq!((bed.engine.held(), bed.dropped(Reason::ServerSilent)), (0, 16));
    assert_eq!(bed.client(ACK, numbers(0), b"a"), Reason::HeldServer);
    bed.outside.sent.clear();
    bed.answer();
    assert_eq!(said(&bed.last().1).sequence, numbers(0).0);
}
