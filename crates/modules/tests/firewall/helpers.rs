//! Helpers: control connections of FTP (RFC 959, RFC 2428, RFC 2577) and requests of TFTP (RFC 1350), and the connections
//! that they announce. What both ends see of the control connection has to be one stream (RFC 9293 section 3.4), whatever
//! is replaced in it.

use std::net::SocketAddr;

use flowhop_engine::view_of;
use flowhop_engine::{Outcome, Path, PathReason};
use flowhop_flow::{Kind, Reason};
use flowhop_routing::{Event, Link};
use flowhop_wire::build::{L4, Spec, TcpFields};
use flowhop_wire::tcp_flags::{ACK, FIN, PSH, RST, SYN};
use flowhop_wire::{Tcp, icmp4};
use zerocopy::FromBytes;

use crate::bed::{Bed, LAN, WAN, WAN_MAC, at, ends, is_sound};

mod hostile;

/// Out to FTP servers, masqueraded in both families; in to one of our own, published in both.
const FTP: &str = r#"
[[rule]]
name = "files"
from = "inside"
to = "outside"
service = "tcp/21"
action = "allow"
helper = "ftp"
[[rule]]
name = "our files"
from = "outside"
to = "inside"
service = "tcp/21"
action = "allow"
helper = "ftp"
[[rule]]
name = "boot images"
from = "inside"
to = "outside"
service = "udp/69"
action = "allow"
helper = "tftp"
[[rule]]
name = "telephones"
from = "inside"
to = "outside"
service = "udp/5060"
action = "allow"
helper = "sip"
"#;
const MASQUERADE: &str = r#"
[[nat]]
name = "hide"
from = "inside"
to = "outside"
translate.source = "interface"
[[nat]]
name = "hide, IPv6"
from = "inside"
to = "outside"
family = "ipv6"
translate.source = "interface"
"#;
const PUBLISH: &str = r#"
[[nat]]
name = "publish"
from = "outside"
destination = "198.51.100.1"
service = "tcp/21"
translate.destination = "10.1.0.80"
[[nat]]
name = "publish, IPv6"
from = "outside"
destination = "2001:db8:0:2::1"
service = "tcp/21"
family = "ipv6"
translate.destination = "[fd00:0:0:1::80]:21"
"#;

const CLIENT: &str = "10.1.0.2:40000";
const SERVER: &str = "198.51.100.2:21";
const CLIENT6: &str = "[fd00:0:0:1::2]:40000";
const SERVER6: &str = "[2001:db8:0:2::2]:21";
const STREAMS: [u32; 2] = [1000, 5_000_000];

fn nats() -> String {
    format!("{FTP}{MASQUERADE}{PUBLISH}")
}

/// A control connection, as both ends have it: by direction, 0 is the client's.
#[derive(Clone, Copy, Debug)]
struct Control {
    /// The port of the box that each is at.
    ports: [u8; 2],
    /// Each as it knows itself, and as it knows the other.
    own: [SocketAddr; 2],
    peer: [SocketAddr; 2],
    /// What each sends next, and expects next.
    next: [u32; 2],
    expects: [u32; 2],
    block: u32,
    serial: u32,
}

/// A segment as it came out.
#[derive(Debug)]
struct Came {
    sequence: u32,
    acknowledgment: u32,
    text: String,
    options: Vec<u8>,
    frame: Vec<u8>,
}

fn came(frame: Vec<u8>) -> Came {
    assert!(is_sound(&frame), "{frame:?}");
    let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
    let length = if at == 34 { 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]])) } else { frame.len() };
    let (header, _) = Tcp::read_from_prefix(&frame[at..]).unwrap();
    let data = at + header.header_len();
    Came {
        sequence: header.sequence.get(),
        acknowledgment: header.acknowledgment.get(),
        text: String::from_utf8_lossy(&frame[data..length]).into_owned(),
        options: frame[at + 20..data].to_vec(),
        frame,
    }
}

fn segment<'a>(from: SocketAddr, to: SocketAddr, flags: u8, numbers: (u32, u32), payload: &'a [u8]) -> Spec<'a> {
    Spec::tcp(from, to, flags, payload).with_sequence(numbers.0, numbers.1)
}

impl Bed {
    /// Connects from one port to the other, with these first numbers of client and server.
    #[track_caller]
    fn control(&mut self, ports: [u8; 2], client: &str, server: &str, first: [u32; 2]) -> Control {
        let (client, server) = (at(client), at(server));
        let outcome = self.send(ports[0], &segment(client, server, SYN, (first[0], 0), &[]));
        assert_eq!(outcome.reason, Reason::Forwarded);
        let (block, serial) = outcome.session.unwrap();
        let (_, frame) = self.last();
        let (seen, real) = ends(&frame);
        let next = first.map(|number| number.wrapping_add(1));
        let answer = segment(real, seen, SYN | ACK, (first[1], next[0]), &[]);
        assert_eq!(self.send(ports[1], &answer).reason, Reason::Forwarded);
        let (_, frame) = self.last();
        assert_eq!(ends(&frame), (server, client));
        let mut control = Control {
            ports,
            own: [client, real],
            peer: [server, seen],
            next,
            expects: [next[1], next[0]],
            block,
            serial,
        };
        self.speaks(&mut control, 0, "");
        assert_eq!(self.speaks(&mut control, 1, "220 ready\r\n"), "220 ready\r\n");
        control
    }

    fn part(&mut self, control: &Control, who: usize, at: u32, flags: u8, payload: &[u8]) -> Outcome {
        let numbers = (at, control.expects[who]);
        self.send(control.ports[who], &segment(control.own[who], control.peer[who], flags, numbers, payload))
    }

    /// One end says something: it arrives next in the other's stream, is acknowledged there, and the acknowledgment arrives
    /// here for what was said. What the other end gets.
    #[track_caller]
    fn speaks(&mut self, control: &mut Control, who: usize, text: &str) -> String {
        let flags = if text.is_empty() { ACK } else { ACK | PSH };
        let outcome = self.part(control, who, control.next[who], flags, text.as_bytes());
        assert_eq!((outcome.kind, outcome.reason), (Kind::Forward, Reason::Forwarded), "{text:?}");
        self.arrives(control, who, text.len())
    }

    /// What was sent last is next in the other end's stream.
    #[track_caller]
    fn arrives(&mut self, control: &mut Control, who: usize, length: usize) -> String {
        let (port, frame) = self.last();
        assert_eq!(port, control.ports[who ^ 1]);
        let came = came(frame);
        assert_eq!(came.sequence, control.expects[who ^ 1], "the sequence number");
        assert_eq!(came.acknowledgment, control.next[who ^ 1], "the acknowledgment");
        control.next[who] = control.next[who].wrapping_add(length as u32);
        control.expects[who ^ 1] = control.expects[who ^ 1].wrapping_add(came.text.len() as u32);
        if length > 0 {
            let outcome = self.part(control, who ^ 1, control.next[who ^ 1], ACK, &[]);
            assert_eq!(outcome.reason, Reason::Forwarded);
            let (_, frame) = self.last();
            assert_eq!(super::helpers::came(frame).acknowledgment, control.next[who]);
        }
        came.text
    }

    /// A command that makes the client listen, and where the server then is told to connect to.
    #[track_caller]
    fn active(&mut self, control: &mut Control, port: u16) -> SocketAddr {
        let SocketAddr::V4(own) = control.own[0] else { panic!() };
        let address = own.ip().to_string().replace('.', ",");
        let text = self.speaks(control, 0, &format!("PORT {address},{},{}\r\n", port >> 8, port & 255));
        numbers(text.strip_prefix("PORT ").unwrap())
    }

    /// A reply that makes the server listen, and where the client then is told to connect to.
    #[track_caller]
    fn passive(&mut self, control: &mut Control, port: u16) -> SocketAddr {
        assert_eq!(self.speaks(control, 0, "PASV\r\n"), "PASV\r\n");
        let SocketAddr::V4(own) = control.own[1] else { panic!() };
        let address = own.ip().to_string().replace('.', ",");
        let reply = format!("227 Entering Passive Mode ({address},{},{}).\r\n", port >> 8, port & 255);
        let text = self.speaks(control, 1, &reply);
        numbers(text.strip_prefix("227 Entering Passive Mode (").unwrap())
    }

    fn parent_of(&self, block: u32) -> u32 {
        view_of(self.engine.table().block(block).unwrap()).parent
    }

    fn goes_on(&self, session: (u32, u32)) -> bool {
        let block = self.engine.table().block(session.0).unwrap();
        flowhop_table::is_live(block) && block.owner.serial.load() == session.1
    }

    /// Opens a connection that must pass, and has it answered; its block and serial number, what the other end sees.
    #[track_caller]
    fn data(&mut self, ports: [u8; 2], from: SocketAddr, to: SocketAddr) -> ((u32, u32), SocketAddr, SocketAddr) {
        let outcome = self.send(ports[0], &segment(from, to, SYN, (7000, 0), &[]));
        assert_eq!(outcome.reason, Reason::Forwarded, "{from} to {to}");
        let (port, frame) = self.last();
        assert_eq!(port, ports[1]);
        assert!(is_sound(&frame));
        let (seen, real) = ends(&frame);
        let answer = segment(real, seen, SYN | ACK, (9000, 7001), &[]);
        assert_eq!(self.send(ports[1], &answer).reason, Reason::Forwarded);
        let (_, frame) = self.last();
        assert_eq!(ends(&frame), (to, from));
        let ack = segment(from, to, ACK, (7001, 9001), &[]);
        assert_eq!(self.send(ports[0], &ack).reason, Reason::Forwarded);
        (outcome.session.unwrap(), seen, real)
    }
}

/// `h1,h2,h3,h4,p1,p2` and whatever follows.
fn numbers(text: &str) -> SocketAddr {
    let text = text.split(|c: char| c != ',' && !c.is_ascii_digit()).next().unwrap();
    let parts: Vec<u8> = text.split(',').map(|part| part.parse().unwrap()).collect();
    let [a, b, c, d, high, low] = parts[..] else { panic!("{text}") };
    ([a, b, c, d], u16::from_be_bytes([high, low])).into()
}

// RFC 959 section 5.4, RFC 2577: the client listens behind a masquerade; the server connects to what it was told, and
// nobody else does.
#[test]
fn an_active_connection_comes_in_through_the_masquerade() {
    for first in [STREAMS, [u32::MAX - 30, u32::MAX - 12]] {
        let mut bed = Bed::with(&nats());
        let mut control = bed.control([LAN, WAN], CLIENT, SERVER, first);
        let told = bed.active(&mut control, 50_000);
        assert_eq!(told.ip(), at("198.51.100.1:1").ip());
        // Not from elsewhere, not to another port, not from inside.
        for (port, from, to, kind, reason) in [
            (WAN, at("198.51.100.3:20"), told, Kind::Hold, Reason::HeldSyn),
            (WAN, at("198.51.100.2:20"), SocketAddr::new(told.ip(), told.port() ^ 1), Kind::Stack, Reason::Local),
            (LAN, at("10.1.0.3:20"), told, Kind::Hold, Reason::HeldSyn),
        ] {
            bed.refused(port, &segment(from, to, SYN, (1, 0), &[]), kind, reason);
        }
        let server = at("198.51.100.2:20");
        let (session, seen, real) = bed.data([WAN, LAN], server, told);
        assert_eq!((seen, real), (server, at("10.1.0.2:50000")));
        assert_eq!(bed.parent_of(session.0), control.serial);
        let view = view_of(bed.engine.table().block(session.0).unwrap());
        assert_eq!(view.rule, view_of(bed.engine.table().block(control.block).unwrap()).rule);
        // Once.
        let again = segment(at("198.51.100.2:2020"), told, SYN, (1, 0), &[]);
        bed.refused(WAN, &again, Kind::Hold, Reason::HeldSyn);
        // What follows is one stream in both directions; another announcement shifts it further.
        for port in [50_001, 1024, 65_535] {
            assert_eq!(bed.speaks(&mut control, 1, "200 fine\r\n"), "200 fine\r\n");
            let told = bed.active(&mut control, port);
            bed.data([WAN, LAN], at("198.51.100.2:20"), told);
        }
        // It ends with its parent.
        assert!(bed.goes_on(session));
        assert!(bed.engine.delete(control.serial));
        bed.pass(100);
        assert!(!bed.goes_on(session));
        assert_eq!(bed.engine.table().live(), 0);
        bed.ends_clean();
    }
}

// RFC 959 section 5.4: the server listens, and is known by what it says; the client's source is translated as that of the
// control connection, though no rule nor translation is for that port.
#[test]
fn a_passive_connection_goes_out_through_the_masquerade() {
    let only = MASQUERADE.replacen("to = \"outside\"", "to = \"outside\"\nservice = \"tcp/21\"", 1);
    let mut bed = Bed::with(&format!("{FTP}{only}"));
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let target = at("198.51.100.2:51000");
    bed.refused(LAN, &segment(at("10.1.0.2:40001"), target, SYN, (1, 0), &[]), Kind::Drop, Reason::NoRule);
    assert_eq!(bed.passive(&mut control, 51_000), target);
    bed.refused(LAN, &segment(at("10.1.0.3:40001"), target, SYN, (1, 0), &[]), Kind::Drop, Reason::NoRule);
    let (session, seen, real) = bed.data([LAN, WAN], at("10.1.0.2:40002"), target);
    assert_eq!((seen.ip(), real), (at("198.51.100.1:1").ip(), target));
    assert_eq!(bed.parent_of(session.0), control.serial);
    bed.refused(LAN, &segment(at("10.1.0.2:40003"), target, SYN, (1, 0), &[]), Kind::Drop, Reason::NoRule);
    bed.engine.delete(control.serial);
    bed.pass(100);
    assert!(!bed.goes_on(session));
    bed.ends_clean();
}

// A server that is published listens at a port that the box gives away, or at its own if that is published as well.
#[test]
fn a_passive_connection_comes_in_to_a_published_server() {
    let mut bed = Bed::with(&nats());
    let client = "198.51.100.2:40000";
    let mut control = bed.control([WAN, LAN], client, "198.51.100.1:21", STREAMS);
    let told = bed.passive(&mut control, 51_000);
    assert_eq!(told.ip(), at("198.51.100.1:1").ip());
    bed.refused(WAN, &segment(at("198.51.100.3:1000"), told, SYN, (1, 0), &[]), Kind::Hold, Reason::HeldSyn);
    let (session, seen, real) = bed.data([WAN, LAN], at("198.51.100.2:40001"), told);
    assert_eq!((seen, real), (at("198.51.100.2:40001"), at("10.1.0.80:51000")));
    assert_eq!(bed.parent_of(session.0), control.serial);
    // The server connects as what it is known by.
    let SocketAddr::V4(listens) = at("198.51.100.2:45000") else { panic!() };
    assert_eq!(bed.active(&mut control, 45_000), listens.into());
    let (_, seen, _) = bed.data([LAN, WAN], at("10.1.0.80:20"), listens.into());
    assert_eq!(seen.ip(), at("198.51.100.1:1").ip());
    bed.engine.delete(control.serial);
    bed.pass(100);
    assert_eq!(bed.engine.table().live(), 0);
    bed.ends_clean();

    let wide = PUBLISH.replacen("\"tcp/21\"", "[\"tcp/21\", \"tcp/51000-51009\"]", 1);
    let mut bed = Bed::with(&format!("{FTP}{MASQUERADE}{wide}"));
    let mut control = bed.control([WAN, LAN], client, "198.51.100.1:21", STREAMS);
    assert_eq!(bed.passive(&mut control, 51_000), at("198.51.100.1:51000"));
    bed.data([WAN, LAN], at("198.51.100.2:40001"), at("198.51.100.1:51000"));
    bed.ends_clean();
}

// Both ends are translated, so both streams are rewritten and shifted, each against the acknowledgments of the other.
#[test]
fn both_streams_are_shifted_at_once() {
    let other = PUBLISH.replacen("from = \"outside\"", "from = \"inside\"", 1);
    let other = other.replacen("198.51.100.1", "198.51.100.9", 1).replacen("10.1.0.80", "198.51.100.2", 1);
    for first in [STREAMS, [u32::MAX - 40, u32::MAX - 60]] {
        let mut bed = Bed::with(&format!("{FTP}{MASQUERADE}{other}"));
        let mut control = bed.control([LAN, WAN], CLIENT, "198.51.100.9:21", first);
        for port in 0..10 {
            let told = bed.active(&mut control, 50_000 + port);
            assert_eq!(told.ip(), at("198.51.100.1:1").ip());
            let (session, seen, _) = bed.data([WAN, LAN], at("198.51.100.2:20"), told);
            assert_eq!(seen.ip(), at("198.51.100.9:1").ip(), "the server as its client knows it");
            assert_eq!(bed.parent_of(session.0), control.serial);
            let told = bed.passive(&mut control, 51_000 + port);
            assert_eq!(told.ip(), at("198.51.100.9:1").ip());
            let from = SocketAddr::new(at(CLIENT).ip(), 41_000 + port);
            let (_, seen, real) = bed.data([LAN, WAN], from, told);
            assert_eq!((seen.ip(), real), (at("198.51.100.1:1").ip(), SocketAddr::new(at(SERVER).ip(), 51_000 + port)));
        }
        let block = bed.engine.table().block(control.block).unwrap();
        assert!(block.tcp.iter().all(|half| half.shift() != 0));
        bed.ends_clean();
    }
}

// RFC 2428: in both families, translated and not.
#[test]
fn extended_commands_are_heard_in_both_families() {
    for policy in [nats(), FTP.to_owned()] {
        let plain = policy == FTP;
        let mut bed = Bed::with(&policy);
        let mut control = bed.control([LAN, WAN], CLIENT6, SERVER6, STREAMS);
        let text = bed.speaks(&mut control, 0, "EPRT |2|fd00:0:0:1::2|50000|\r\n");
        let parts: Vec<&str> = text.split('|').collect();
        let told: SocketAddr = format!("[{}]:{}", parts[2], parts[3]).parse().unwrap();
        assert_eq!(told == at("[fd00:0:0:1::2]:50000"), plain);
        let (_, _, real) = bed.data([WAN, LAN], at("[2001:db8:0:2::2]:20"), told);
        assert_eq!(real, at("[fd00:0:0:1::2]:50000"));
        assert_eq!(bed.speaks(&mut control, 0, "EPSV\r\n"), "EPSV\r\n");
        let reply = "229 Entering Extended Passive Mode (|||51000|)\r\n";
        assert_eq!(bed.speaks(&mut control, 1, reply), reply);
        bed.data([LAN, WAN], at("[fd00:0:0:1::2]:40001"), at("[2001:db8:0:2::2]:51000"));
        bed.engine.delete(control.serial);
        bed.ends_clean();
    }
    for (client, server, from) in [
        ("198.51.100.2:40000", "198.51.100.1", "198.51.100.2:1234"),
        (SERVER6, "[2001:db8:0:2::1]", "[2001:db8:0:2::2]:1234"),
    ] {
        let mut bed = Bed::with(&nats());
        let mut control = bed.control([WAN, LAN], client, &format!("{server}:21"), STREAMS);
        bed.speaks(&mut control, 0, "EPSV\r\n");
        let text = bed.speaks(&mut control, 1, "229 Entering Extended Passive Mode (|||51000|)\r\n");
        let port = text.split('|').nth(3).unwrap();
        assert_ne!(port, "51000");
        let (_, _, real) = bed.data([WAN, LAN], at(from), at(&format!("{server}:{port}")));
        assert_eq!((real.ip(), real.port()), (control.own[1].ip(), 51_000));
        bed.ends_clean();
    }
}

// RFC 2577 section 3: nobody is made to connect to somebody else, or to a port below 1024.
#[test]
fn only_the_end_itself_may_be_announced() {
    let mut bed = Bed::with(&nats());
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    for line in [
        "PORT 10,1,0,3,200,0\r\n",
        "PORT 10,1,0,2,3,255\r\n",
        "PORT 10,1,0,2,0,0\r\n",
        "EPRT |1|198.51.100.9|5000|\r\n",
        "EPRT |2|fd00:0:0:1::2|5000|\r\n",
        "PORT 10,1,0,2,200\r\n",
    ] {
        let outcome = bed.part(&control, 0, control.next[0], ACK, line.as_bytes());
        assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, Reason::HelperRefused), "{line}");
        assert!(bed.outside.sent.is_empty());
    }
    assert!(bed.bindings.len() == 1, "nothing but the control connection's");
    // Its client says something else instead.
    bed.active(&mut control, 50_000);
    // A server that does not know its own address is passed on, and nothing is expected.
    for reply in ["227 (10,9,9,9,200,0)\r\n", "227 (198,51,100,2,0,80)\r\n", "227 no\r\n"] {
        assert_eq!(bed.speaks(&mut control, 0, "PASV\r\n"), "PASV\r\n");
        let outcome = bed.part(&control, 1, control.next[1], ACK, reply.as_bytes());
        assert_eq!((outcome.kind, outcome.reason), (Kind::Forward, Reason::HelperDeclined));
        assert_eq!(bed.arrives(&mut control, 1, reply.len()), reply);
    }
    for to in ["198.51.100.2:51200", "198.51.100.2:80"] {
        bed.refused(LAN, &segment(at("10.1.0.2:40001"), at(to), SYN, (1, 0), &[]), Kind::Drop, Reason::NoRule);
    }
}

// Repeated whole, in other pieces, or with what follows: the same bytes at the same numbers (RFC 9293 section 3.8.1).
#[test]
fn what_is_repeated_is_changed_the_same_way() {
    for first in [STREAMS, [u32::MAX - 20, u32::MAX - 12], [u32::MAX - 60, 0]] {
        let mut bed = Bed::with(&nats());
        let mut control = bed.control([LAN, WAN], CLIENT, SERVER, first);
        let begins = control.next[0];
        let text = "USER a\r\nPORT 10,1,0,2,200,0\r\nLIST\r\n";
        let there = control.expects[1];
        let sent = bed.speaks(&mut control, 0, text);
        assert_ne!(sent, text);
        let mut again = Vec::new();
        for from in 0..text.len() {
            for end in [from + 1, from + 9, text.len()].map(|end| end.min(text.len())) {
                let at = begins.wrapping_add(from as u32);
                let outcome = bed.part(&control, 0, at, ACK, &text.as_bytes()[from..end]);
                assert_eq!(outcome.reason, Reason::Forwarded);
                let came = came(bed.last().1);
                let place = came.sequence.wrapping_sub(there) as usize;
                assert_eq!(came.text, sent[place..place + came.text.len()]);
                again.push(came.text.len());
            }
        }
        assert!(again.contains(&sent.len()));
        assert_eq!(bed.bindings.len(), 2, "announced once");
        assert_eq!(bed.speaks(&mut control, 0, "NOOP\r\n"), "NOOP\r\n");
    }
}

// A line in pieces: what is not translated needs no more than its end; what has left is not changed any more.
#[test]
fn lines_in_pieces_are_acted_on_when_they_can_be() {
    let line = "PORT 10,1,0,2,200,0\r\n";
    for cut in 1..line.len() {
        for translated in [true, false] {
            let mut bed = Bed::with(&if translated { nats() } else { FTP.to_owned() });
            let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
            let (head, tail) = line.split_at(cut);
            assert_eq!(bed.speaks(&mut control, 0, head), head);
            let outcome = bed.part(&control, 0, control.next[0], ACK, tail.as_bytes());
            let arrived = bed.arrives(&mut control, 0, tail.len());
            // 198,51,100,1 begins as 10,1,0,2 does.
            let acted_on = !translated || cut <= "PORT 1".len();
            let reason = if acted_on { Reason::Forwarded } else { Reason::HelperDeclined };
            assert_eq!(outcome.reason, reason, "{cut}");
            let told = numbers(format!("{head}{arrived}").strip_prefix("PORT ").unwrap());
            if acted_on {
                bed.data([WAN, LAN], at("198.51.100.2:20"), told);
            } else {
                assert_eq!((arrived.as_str(), bed.bindings.len()), (tail, 1));
            }
        }
    }
}

// What comes behind a gap is not looked at and not passed on; the sender repeats it (RFC 9293 section 3.8.1).
#[test]
fn segments_out_of_order_have_to_be_repeated() {
    let mut bed = Bed::with(&nats());
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let ahead = control.next[0].wrapping_add(8);
    let outcome = bed.part(&control, 0, ahead, ACK, b"PORT 10,1,0,2,200,0\r\n");
    assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, Reason::HelperIncomplete));
    // An acknowledgment alone passes.
    assert_eq!(bed.part(&control, 0, ahead, ACK, &[]).reason, Reason::Forwarded);
    bed.outside.sent.clear();
    assert_eq!(bed.speaks(&mut control, 0, "USER a\r\n"), "USER a\r\n");
    bed.active(&mut control, 51_200);
    // What is not acceptable is not looked at, either.
    let outcome = bed.part(&control, 0, control.next[0].wrapping_add(10_000_000), ACK, b"PORT 10,1,0,2,1,1\r\n");
    assert_eq!(outcome.reason, Reason::TcpWindow);
}

// RFC 2018 section 3: blocks are put back as acknowledgments are; what is left of none is no block.
#[test]
fn selective_acknowledgments_are_put_back() {
    let mut bed = Bed::with(&nats());
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let begins = control.next[0];
    let there = control.expects[1];
    let text = "PORT 10,1,0,2,200,0\r\n";
    let sent = bed.speaks(&mut control, 0, text);
    let more = sent.len() - text.len();
    for (blocks, expected) in [
        (vec![(sent.len(), sent.len() + 10)], vec![(text.len(), text.len() + 10)]),
        (vec![(0, 5), (sent.len() - 1, sent.len())], vec![(0, 5), (text.len() - 1, text.len())]),
        // A part of the text is none of the old one's.
        (vec![(18, 20)], vec![]),
        (vec![(18, 20), (sent.len(), sent.len() + 1)], vec![(text.len(), text.len() + 1)]),
    ] {
        let mut options = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
        for (first, end) in &blocks {
            options.extend(there.wrapping_add(*first as u32).to_be_bytes());
            options.extend(there.wrapping_add(*end as u32).to_be_bytes());
        }
        let mut spec = segment(control.own[1], control.peer[1], ACK, (control.next[1], control.expects[1]), &[]);
        if let L4::Tcp(fields) = &mut spec.l4 {
            *fields = TcpFields { options: &options, ..*fields };
        }
        assert_eq!(bed.send(WAN, &spec).reason, Reason::Forwarded);
        let came = came(bed.last().1);
        assert_eq!(came.acknowledgment, control.next[0]);
        let found: Vec<(usize, usize)> = match came.options.as_slice() {
            [1, 1, 5, length, rest @ ..] => rest[..usize::from(*length) - 2]
                .chunks(8)
                .map(|pair| {
                    let number = |at: usize| u32::from_be_bytes(pair[at..at + 4].try_into().unwrap());
                    (number(0).wrapping_sub(begins) as usize, number(4).wrapping_sub(begins) as usize)
                })
                .collect(),
            other => {
                assert!(other.iter().all(|byte| *byte == 1));
                Vec::new()
            }
        };
        assert_eq!(found, expected, "{more}");
    }
}

// RFC 9293 section 3.7.1: a segment that grew beyond the MTU leaves as two.
#[test]
fn a_segment_that_outgrows_the_output_leaves_as_two() {
    for v6 in [false, true] {
        let mut bed = Bed::with(&nats());
        let (client, server, headers) = if v6 { (CLIENT6, SERVER6, 60) } else { (CLIENT, SERVER, 40) };
        bed.event(Event::LinkUpsert(Link { mtu: 1300, ..Link::ethernet(12, "wan0", WAN_MAC) }));
        bed.neighbours();
        let mut control = bed.control([LAN, WAN], client, server, STREAMS);
        let line = if v6 { "EPRT |2|fd00:0:0:1::2|1024|\r\n" } else { "PORT 10,1,0,2,4,0\r\n" };
        let text = format!("{}\r\n{line}", "x".repeat(1300 - headers - line.len() - 2));
        assert_eq!(text.len(), 1300 - headers);
        let outcome = bed.part(&control, 0, control.next[0], ACK | PSH | FIN, text.as_bytes());
        assert_eq!((outcome.kind, outcome.reason), (Kind::Consume, Reason::Fragmented));
        let [first, second] = [0, 1].map(|at| came(bed.outside.sent[at].1.clone()));
        assert!(first.frame.len() <= 1314 && second.frame.len() <= 1314);
        assert_eq!(second.sequence, control.expects[1].wrapping_add(first.text.len() as u32));
        let flags = |came: &Came| came.frame[if v6 { 54 } else { 34 } + 13];
        assert_eq!([flags(&first), flags(&second)], [ACK, ACK | PSH | FIN]);
        assert_eq!(first.text.len() + second.text.len(), outcome_length(&text, &first, &second));
        control.next[0] += text.len() as u32 + 1;
    }
}

/// The length of the text with what it says replaced by what arrived.
fn outcome_length(text: &str, first: &Came, second: &Came) -> usize {
    let all = format!("{}{}", first.text, second.text);
    let head = text.find('\n').unwrap() + 1;
    assert_eq!(all[..head], text[..head]);
    assert!(all.ends_with("\r\n") && all.len() > text.len());
    all.len()
}

// The control connection stays where it is read; data takes the fast path (interface.md, `path_reason`).
#[test]
fn data_is_accelerated_and_the_control_connection_is_not() {
    let mut bed = Bed::sized(&nats(), 64, true);
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let told = bed.active(&mut control, 50_000);
    let (session, ..) = bed.data([WAN, LAN], at("198.51.100.2:20"), told);
    bed.settle();
    assert_eq!((bed.paths(control.block), bed.reasons(control.block)), ([Path::User; 2], [PathReason::Helper; 2]));
    assert_eq!((bed.paths(session.0), bed.reasons(session.0)), ([Path::Skb; 2], [PathReason::Default; 2]));
    assert!(bed.engine.move_flow(control.serial, Some(Path::Skb), bed.now).is_err());
    assert_eq!(bed.engine.move_flow(control.serial, None, bed.now), Ok([Path::User; 2]));
    bed.engine.paths_changed();
    bed.pass(1000);
    assert_eq!(bed.paths(control.block), [Path::User; 2]);
}

// What a new policy says of a control connection holds for what it announced; numbers stay shifted.
#[test]
fn a_reload_judges_data_by_its_control_connection() {
    let mut bed = Bed::with(&nats());
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let told = bed.active(&mut control, 50_000);
    let (session, ..) = bed.data([WAN, LAN], at("198.51.100.2:20"), told);
    let expected = bed.active(&mut control, 50_001);
    let renamed = nats().replacen("\"files\"", "\"other files\"", 1);
    assert_eq!(bed.reload(&renamed), (2, 0));
    let rule = |bed: &Bed, block: u32| view_of(bed.engine.table().block(block).unwrap()).rule;
    assert_eq!(rule(&bed, session.0), rule(&bed, control.block));
    // What is expected comes in under that rule.
    let (later, ..) = bed.data([WAN, LAN], at("198.51.100.2:2021"), expected);
    assert_eq!(rule(&bed, later.0), rule(&bed, control.block));
    let expected = bed.active(&mut control, 50_002);
    // Without the helper nothing is expected and nothing goes on that was.
    let without = nats().replacen("helper = \"ftp\"", "", 1);
    assert_eq!(bed.reload(&without), (1, 2));
    assert!(!bed.goes_on(session) && !bed.goes_on(later));
    bed.pass(1000);
    let syn = segment(at("198.51.100.2:20"), expected, SYN, (1, 0), &[]);
    assert_ne!(bed.send(WAN, &syn).kind, Kind::Forward);
    assert_eq!(bed.speaks(&mut control, 1, "200 fine\r\n"), "200 fine\r\n");
    let line = "PORT 10,1,0,2,200,1\r\n";
    assert_eq!(bed.speaks(&mut control, 0, line), line);
    assert_eq!(bed.reasons(control.block), [PathReason::Helper; 2]);
    // With it again it is read on.
    bed.reload(&nats());
    let told = bed.active(&mut control, 50_003);
    let (session, ..) = bed.data([WAN, LAN], at("198.51.100.2:20"), told);
    let none =
        nats().replacen("service = \"tcp/21\"\naction = \"allow\"", "service = \"tcp/21\"\naction = \"drop\"", 1);
    let none = none.replacen("helper = \"ftp\"\n", "", 1);
    assert_eq!(bed.reload(&none), (0, 2));
    assert!(!bed.goes_on(session));
}

// interface.md: a new start adopts everything: the shift, who belongs to whom, and that it is read.
#[test]
fn another_process_goes_on_with_both() {
    let mut bed = Bed::with(&nats());
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let told = bed.active(&mut control, 50_000);
    let (session, ..) = bed.data([WAN, LAN], at("198.51.100.2:20"), told);
    let (mut bed, adopted) = bed.adopt();
    assert_eq!(adopted, (2, 0));
    assert_eq!(bed.speaks(&mut control, 1, "200 fine\r\n"), "200 fine\r\n");
    let told = bed.active(&mut control, 50_001);
    bed.data([WAN, LAN], at("198.51.100.2:20"), told);
    assert!(bed.engine.delete(control.serial));
    bed.pass(100);
    assert!(!bed.goes_on(session));
    assert_eq!(bed.engine.table().live(), 0);
    bed.ends_clean();
}

// A long transfer keeps its control connection, which says nothing meanwhile.
#[test]
fn a_control_connection_lasts_as_long_as_its_data() {
    let mut bed = Bed::with(&nats());
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let told = bed.active(&mut control, 50_000);
    let (session, ..) = bed.data([WAN, LAN], at("198.51.100.2:20"), told);
    for _ in 0..4 {
        bed.pass(3600 * 954);
        let ack = segment(at("10.1.0.2:50000"), at("198.51.100.2:20"), ACK, (9001, 7001), &[]);
        assert_eq!(bed.send(LAN, &ack).reason, Reason::Forwarded);
    }
    bed.outside.sent.clear();
    assert_eq!(bed.speaks(&mut control, 1, "226 done\r\n"), "226 done\r\n");
    bed.pass(7200 * 954);
    assert!(bed.goes_on(session));
    bed.pass(600 * 954);
    assert!(!bed.goes_on(session) && !bed.goes_on((control.block, control.serial)));
    bed.ends_clean();
}

// What is announced is expected for a minute; then its port is free.
#[test]
fn what_does_not_come_is_not_waited_for() {
    let mut bed = Bed::with(&nats());
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let told = bed.active(&mut control, 50_000);
    assert_eq!(bed.bindings.len(), 2);
    bed.pass(61 * 954);
    assert_eq!(bed.bindings.len(), 1);
    let syn = segment(at("198.51.100.2:20"), told, SYN, (1, 0), &[]);
    bed.refused(WAN, &syn, Kind::Stack, Reason::Local);
    // At most so many at a time, and what has come counts no more.
    let all: Vec<SocketAddr> = (0..18).map(|port| bed.active(&mut control, 51_000 + port)).collect();
    assert_eq!(bed.bindings.len(), 1 + 16);
    bed.refused(WAN, &segment(at("198.51.100.2:20"), all[0], SYN, (1, 0), &[]), Kind::Stack, Reason::Local);
    bed.data([WAN, LAN], at("198.51.100.2:20"), all[17]);
}

// N13: what makes room for others is not a request whose transfer runs, though nothing ever answers it.
#[test]
fn a_request_stays_while_its_transfer_runs() {
    let mut bed = Bed::sized(FTP, 64, false);
    let (client, server) = (at("10.1.0.2:3000"), at("198.51.100.2:69"));
    let request = bed.send(LAN, &Spec::udp(client, server, b"\0\x01boot.img\0octet\0")).session.unwrap();
    let data = Spec::udp(at("198.51.100.2:50123"), client, b"\0\x03\0\x01hello");
    let transfer = bed.send(WAN, &data).session.unwrap();
    bed.passes(LAN, &Spec::udp(client, at("198.51.100.2:50123"), b"\0\x04\0\x01"));
    for port in 4000..4400 {
        bed.send(LAN, &Spec::udp(SocketAddr::new(client.ip(), port), server, b"\0\x01boot.img\0octet\0"));
        bed.outside.sent.clear();
        bed.turn();
    }
    assert!(bed.goes_on(request) && bed.goes_on(transfer));
}

// A connection that finds no room is expected still.
#[test]
fn a_full_table_takes_no_expectation_away() {
    let mut bed = Bed::sized(&nats(), 8, false);
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let told = bed.active(&mut control, 50_000);
    let server = at("198.51.100.2:20");
    // An interface that is not there any more: the connection cannot be made.
    let syn = segment(server, told, SYN, (7000, 0), &[]);
    bed.event(Event::LinkUpsert(Link { mtu: 1500, up: false, ..Link::ethernet(11, "lan0", crate::bed::LAN_MAC) }));
    assert_eq!(bed.send(WAN, &syn).kind, Kind::Drop);
    bed.event(Event::LinkUpsert(Link::ethernet(11, "lan0", crate::bed::LAN_MAC)));
    bed.neighbours();
    bed.outside.sent.clear();
    bed.data([WAN, LAN], server, told);
}

// RFC 5508 REQ-4, RFC 5927 section 4.1: what an error quotes is put back to what was sent, its sequence number too.
#[test]
fn errors_about_shifted_segments_find_their_sender() {
    let mut bed = Bed::with(&nats());
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    bed.active(&mut control, 50_000);
    let text = "STOR a\r\n";
    let outcome = bed.part(&control, 0, control.next[0], ACK, text.as_bytes());
    assert_eq!(outcome.reason, Reason::Forwarded);
    let (_, sent) = bed.last();
    assert_ne!(came(sent.clone()).sequence, control.next[0]);
    let quoted = &sent[14..];
    let l4 = L4::Icmp { kind: icmp4::UNREACHABLE, code: icmp4::FRAGMENTATION_NEEDED, rest: [0, 0, 0, 68] };
    let quoted = [&quoted[..2], &1500u16.to_be_bytes(), &quoted[4..]].concat();
    let mut quoted = quoted;
    quoted[10..12].fill(0);
    let sum = flowhop_wire::checksum::finish(flowhop_wire::checksum::sum(&quoted[..20]));
    quoted[10..12].copy_from_slice(&sum.to_be_bytes());
    let error = Spec::new(at(SERVER).ip(), at("198.51.100.1:1").ip(), l4, &quoted);
    assert_eq!(bed.send(WAN, &error).reason, Reason::Forwarded);
    let (port, frame) = bed.last();
    assert_eq!(port, LAN);
    let inner = &frame[14 + 20 + 8 + 20..];
    assert_eq!(u32::from_be_bytes(inner[4..8].try_into().unwrap()), control.next[0]);
    // The checksum of the quoted segment is that of what was sent, addresses and ports and numbers put back.
    let mut whole = frame[14 + 20 + 8..].to_vec();
    let length = 20 + 20 + text.len() as u16;
    whole[2..4].copy_from_slice(&length.to_be_bytes());
    // What was acknowledged is not put back; only the numbers of the segment itself are.
    assert_eq!(whole.len(), usize::from(length));
    assert!(flowhop_wire::verify::transport(&whole).is_acceptable());
}

// A connection in the place of one that was reset begins with its own numbers.
#[test]
fn a_new_connection_in_the_place_of_an_old_one_is_not_shifted() {
    let mut bed = Bed::with(&nats());
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    bed.active(&mut control, 50_000);
    assert_eq!(bed.part(&control, 0, control.next[0], RST, &[]).reason, Reason::Forwarded);
    let came = came(bed.last().1);
    assert_eq!(came.sequence, control.expects[1], "a reset is shifted too");
    let mut again = bed.control([LAN, WAN], CLIENT, SERVER, [90_000, 800_000]);
    assert_eq!(again.serial, control.serial);
    assert_eq!(bed.speaks(&mut again, 0, "USER a\r\n"), "USER a\r\n");
    bed.active(&mut again, 50_001);
}

// A connection that was there before is read from its first segment on.
#[test]
fn a_connection_that_is_taken_up_is_read() {
    let mut bed = Bed::with(&FTP.replacen("helper = \"ftp\"", "helper = \"ftp\"\ntake_up = true", 1));
    let (client, server) = (at(CLIENT), at(SERVER));
    let first = segment(client, server, ACK | PSH, (1000, 2000), b"PASV\r\n");
    assert_eq!(bed.send(LAN, &first).reason, Reason::Forwarded);
    let answer = segment(server, client, ACK, (2000, 1006), b"227 (198,51,100,2,200,0)\r\n");
    assert_eq!(bed.send(WAN, &answer).reason, Reason::Forwarded);
    bed.outside.sent.clear();
    bed.data([LAN, WAN], at("10.1.0.2:40001"), at("198.51.100.2:51200"));
    let command = segment(client, server, ACK | PSH, (1006, 2026), b"PORT 10,1,0,2,200,1\r\n");
    assert_eq!(bed.send(LAN, &command).reason, Reason::Forwarded);
    bed.outside.sent.clear();
    bed.data([WAN, LAN], at("198.51.100.2:20"), at("10.1.0.2:51201"));
}

// RFC 1350 section 4: the server answers from another port, to the one that was asked from.
#[test]
fn a_transfer_by_tftp_passes() {
    for translated in [true, false] {
        let mut bed = Bed::with(&if translated { nats() } else { FTP.to_owned() });
        let (client, server) = (at("10.1.0.2:3000"), at("198.51.100.2:69"));
        let outcome = bed.send(LAN, &Spec::udp(client, server, b"\0\x01boot.img\0octet\0"));
        assert_eq!(outcome.reason, Reason::Forwarded);
        let (seen, _) = ends(&bed.last().1);
        let from = at("198.51.100.2:50123");
        let block = |text: &'static [u8]| Spec::udp(from, seen, text);
        let stranger = Spec::udp(at("198.51.100.3:50123"), seen, b"\0\x03\0\x01x");
        assert_eq!(bed.send(WAN, &stranger).kind, Kind::Drop);
        let data = bed.send(WAN, &block(b"\0\x03\0\x01hello"));
        assert_eq!(data.reason, Reason::Forwarded);
        let child = data.session.unwrap();
        assert_eq!(ends(&bed.last().1), (from, client));
        assert_eq!(bed.parent_of(child.0), outcome.session.unwrap().1);
        let (port, ..) = bed.passes(LAN, &Spec::udp(client, from, b"\0\x04\0\x01"));
        assert_eq!(port, WAN);
        // Another port is another connection, which was not announced.
        assert_eq!(bed.send(WAN, &Spec::udp(at("198.51.100.2:50124"), seen, b"x")).kind, Kind::Drop);
        // Only requests announce one.
        let other = bed.send(LAN, &Spec::udp(at("10.1.0.2:3001"), server, b"\0\x05\0\x01error\0"));
        assert_eq!(other.reason, Reason::Forwarded);
        let (seen, _) = ends(&bed.last().1);
        assert_eq!(bed.send(WAN, &Spec::udp(from, seen, b"x")).kind, Kind::Drop);
        bed.engine.delete(outcome.session.unwrap().1);
        bed.pass(100);
        assert!(!bed.goes_on(child));
        bed.ends_clean();
    }
}

/// A message of SIP with a description of where audio is listened for.
fn message(first: &str, via: &str, contact: &str, media: (&str, u16)) -> String {
    let (address, port) = media;
    let family = if address.contains(':') { "IP6" } else { "IP4" };
    let body = format!(
        "v=0\r\no=- 1 1 IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
    );
    format!(
        "{first}\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK1\r\nContact: <sip:a@{contact}>\r\nContent-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What a datagram carries.
fn carried(frame: &[u8]) -> String {
    assert!(is_sound(frame));
    let at = if frame[12..14] == [8, 0] { 42 } else { 62 };
    let length = usize::from(u16::from_be_bytes([frame[at - 4], frame[at - 3]])) - 8;
    String::from_utf8(frame[at..at + length].to_vec()).unwrap()
}

/// The words behind a prefix of a line, up to the end or one of these.
fn behind<'a>(text: &'a str, prefix: &str) -> &'a str {
    let rest = &text[text.find(prefix).unwrap_or_else(|| panic!("{prefix} in {text}")) + prefix.len()..];
    rest.split(['\r', ';', '>', ' ']).next().unwrap()
}

// RFC 3261, RFC 3264, RFC 3550 section 11: a telephone behind a masquerade calls; what each end is told is where it meets
// the other, for the media and, at the next port, for its control.
#[test]
fn a_call_passes_the_masquerade() {
    for (client, server, external, stranger) in [
        ("10.1.0.2:5060", "198.51.100.2:5060", "198.51.100.1", "198.51.100.3:7000"),
        ("[fd00:0:0:1::2]:5060", "[2001:db8:0:2::2]:5060", "[2001:db8:0:2::1]", "[2001:db8:0:2::3]:7000"),
    ] {
        let mut bed = Bed::with(&nats());
        let (client, server) = (at(client), at(server));
        let (own, far) = (client.ip().to_string(), server.ip().to_string());
        let invite = message(
            &format!("INVITE sip:b@{server} SIP/2.0"),
            &client.to_string(),
            &client.to_string(),
            (&own, 30_000),
        );
        let parent = bed.send(LAN, &Spec::udp(client, server, invite.as_bytes()));
        assert_eq!(parent.reason, Reason::Forwarded);
        let (_, frame) = bed.last();
        let (seen, _) = ends(&frame);
        let text = carried(&frame);
        assert_eq!((behind(&text, "SIP/2.0/UDP "), behind(&text, "sip:a@")), (&*seen.to_string(), &*seen.to_string()));
        assert!(!text.contains(&own), "{text}");
        let port: u16 = behind(&text, "m=audio ").parse().unwrap();
        assert!(port.is_multiple_of(2));
        let told = at(&format!("{external}:{port}"));
        // The same again is told the same.
        bed.send(LAN, &Spec::udp(client, server, invite.as_bytes()));
        assert_eq!(carried(&bed.last().1), text);
        let answer = message("SIP/2.0 200 OK", &seen.to_string(), &server.to_string(), (&far, 40_000));
        assert_eq!(bed.send(WAN, &Spec::udp(server, seen, answer.as_bytes())).reason, Reason::Forwarded);
        let back = carried(&bed.last().1);
        assert_eq!(behind(&back, "SIP/2.0/UDP "), client.to_string());
        assert_eq!((behind(&back, "m=audio "), behind(&back, "sip:a@")), ("40000", &*server.to_string()));
        assert_ne!(bed.send(WAN, &Spec::udp(at(stranger), told, b"rtp")).kind, Kind::Forward);
        for more in 0..2 {
            // The telephone speaks first about one, the far end about the other.
            let inside = SocketAddr::new(client.ip(), 30_000 + more);
            let outside = SocketAddr::new(server.ip(), 40_000 + more);
            let at_box = SocketAddr::new(told.ip(), told.port() + more);
            let (out, back) = (Spec::udp(inside, outside, b"rtp"), Spec::udp(outside, at_box, b"rtp"));
            let first = if more == 0 { bed.send(LAN, &out) } else { bed.send(WAN, &back) };
            assert_eq!(first.reason, Reason::Forwarded);
            assert_eq!(bed.parent_of(first.session.unwrap().0), parent.session.unwrap().1);
            bed.outside.sent.clear();
            assert_eq!(bed.passes(LAN, &out), (WAN, at_box, outside));
            assert_eq!(bed.passes(WAN, &back), (LAN, outside, inside));
        }
        bed.engine.delete(parent.session.unwrap().1);
        bed.pass(100);
        assert_eq!(bed.engine.table().live(), 0);
        bed.pass(70 * 954);
        bed.ends_clean();
    }
}

// A description of somebody else, or of a port below 1024, opens nothing; so does what is no message.
#[test]
fn only_the_sender_of_a_description_is_expected() {
    let mut bed = Bed::with(&nats());
    let (client, server) = (at("10.1.0.2:5060"), at("198.51.100.2:5060"));
    for media in [("10.1.0.3", 30_000), ("10.1.0.2", 1022), ("10.1.0.2", 65_535)] {
        let invite = message("INVITE sip:b@198.51.100.2 SIP/2.0", "10.1.0.2:5060", "10.1.0.2:5060", media);
        let outcome = bed.send(LAN, &Spec::udp(client, server, invite.as_bytes()));
        assert_eq!((outcome.kind, outcome.reason), (Kind::Forward, Reason::HelperDeclined));
        assert_eq!(behind(&carried(&bed.last().1), "m=audio "), media.1.to_string());
        assert_eq!(bed.bindings.len(), 1);
    }
    let junk = [b"INVITE ".repeat(40), vec![0xff; 300], b"\r\n\r\n".to_vec()].concat();
    bed.passes(LAN, &Spec::udp(client, server, &junk));
}

// RFC 791 section 3.2: a message that outgrows the MTU leaves in fragments, though its sender did not want any.
#[test]
fn a_message_that_outgrows_the_output_leaves_in_fragments() {
    let mut bed = Bed::with(&nats());
    bed.event(Event::LinkUpsert(Link { mtu: 1300, ..Link::ethernet(12, "wan0", WAN_MAC) }));
    bed.neighbours();
    let (client, server) = (at("10.1.0.2:5060"), at("198.51.100.2:5060"));
    let mut invite =
        message("INVITE sip:b@198.51.100.2 SIP/2.0", "10.1.0.2:5060", "10.1.0.2:5060", ("10.1.0.2", 30_000));
    let fill = "x".repeat(1300 - 28 - invite.len() - "X: \r\n".len());
    invite = invite.replacen("Via:", &format!("X: {fill}\r\nVia:"), 1);
    assert_eq!(invite.len(), 1272);
    let outcome = bed.send(LAN, &Spec::udp(client, server, invite.as_bytes()));
    assert_eq!(outcome.reason, Reason::Fragmented);
    assert_eq!(bed.outside.sent.len(), 2);
    assert!(bed.outside.sent.iter().all(|(_, frame)| frame.len() <= 1314 && crate::bed::header(frame).is_fragment()));
}
