//! Ends, and others, that want more than they may have: what passes unread, or is read otherwise than it arrives.

use std::net::SocketAddr;

use flowhop_flow::{Kind, Reason};
use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, PSH, SYN};

use super::{CLIENT, FTP, SERVER, STREAMS, came, nats, segment};
use crate::bed::{Bed, LAN, WAN, at, ends, framed};
use crate::pieces::split;

const BOUNCE: &[u8] = b"PORT 10,1,0,3,200,0\r\n";

fn refused() -> (Kind, Reason) {
    (Kind::Drop, Reason::HelperRefused)
}

// RFC 2577 section 3, RFC 9293 section 3.10.7.4: a server that does not take data with a SYN gets them again, and they may
// be others then.
#[test]
fn what_a_syn_carries_does_not_pass_unread() {
    let mut bed = Bed::with(FTP);
    let (client, server) = (at(CLIENT), at(SERVER));
    let outcome = bed.send(LAN, &segment(client, server, SYN, (1000, 0), &[b'x'; 40]));
    assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, Reason::HelperIncomplete));
    // Without them it is a connection like any other.
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let outcome = bed.send(LAN, &segment(client, server, SYN, (1000, 0), BOUNCE));
    assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, Reason::HelperIncomplete));
    let outcome = bed.part(&control, 0, control.next[0], ACK, BOUNCE);
    assert_eq!((outcome.kind, outcome.reason), refused());
    bed.active(&mut control, 50_000);
}

// RFC 9293 section 3.5.1: a server that knows an old connection answers a SYN with an acknowledgment. Anybody may send one.
#[test]
fn a_stray_segment_before_the_handshake_changes_nothing() {
    let mut bed = Bed::with(FTP);
    let (client, server) = (at(CLIENT), at(SERVER));
    assert_eq!(bed.send(LAN, &segment(client, server, SYN, (1000, 0), &[])).reason, Reason::Forwarded);
    bed.send(WAN, &segment(server, client, ACK, (77, 88), &[]));
    bed.send(LAN, &segment(client, server, ACK, (1001, 99), &[]));
    for (port, from, to, flags, numbers, text) in [
        (WAN, server, client, SYN | ACK, (0x9000_0000, 1001), ""),
        (WAN, server, client, ACK, (0x9000_0001, 1001), "220 ready\r\n"),
        (LAN, client, server, ACK, (1001, 0x9000_000c), "PASV\r\n"),
        (WAN, server, client, ACK, (0x9000_000c, 1007), "227 (198,51,100,2,200,0)\r\n"),
    ] {
        let outcome = bed.send(port, &segment(from, to, flags, numbers, text.as_bytes()));
        assert_eq!(outcome.reason, Reason::Forwarded, "{text}");
    }
    bed.outside.sent.clear();
    bed.data([LAN, WAN], at("10.1.0.2:40001"), at("198.51.100.2:51200"));
}

// RFC 2577 section 3: what was read is what arrives, though the first copy may get lost on the way, or is not meant to
// arrive: it may be too big, or its hop limit too low. RFC 9293 section 3.8.1 allows to repeat, not to say something else.
#[test]
fn what_is_repeated_has_to_be_the_same() {
    for (ttl, size, reason) in
        [(64, BOUNCE.len(), Reason::Forwarded), (1, BOUNCE.len(), Reason::TtlExceeded), (64, 1461, Reason::TooBig)]
    {
        let mut bed = Bed::with(FTP);
        let control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
        let harmless = [vec![b'x'; size - 2], b"\r\n".to_vec()].concat();
        let numbers = (control.next[0], control.expects[0]);
        let first = segment(control.own[0], control.peer[0], ACK | PSH, numbers, &harmless).with_ttl(ttl);
        assert_eq!(bed.send(LAN, &first).reason, reason);
        bed.outside.sent.clear();
        if ttl > 1 {
            let outcome = bed.part(&control, 0, control.next[0], ACK | PSH, BOUNCE);
            assert_eq!((outcome.kind, outcome.reason), refused(), "{reason:?}");
            // In pieces neither, and not in front of what is new.
            let outcome = bed.part(&control, 0, control.next[0] + 3, ACK | PSH, &BOUNCE[3..5]);
            assert_eq!((outcome.kind, outcome.reason), refused());
            let longer = [&[b'y'; 1][..], &harmless[1..size.min(100)], b"NOOP\r\n"].concat();
            let outcome = bed.part(&control, 0, control.next[0], ACK | PSH, &longer);
            assert_eq!((outcome.kind, outcome.reason), refused());
            // The same passes again, however it is cut.
            let outcome = bed.part(&control, 0, control.next[0] + 2, ACK | PSH, &harmless[2..size.min(100)]);
            assert_eq!(outcome.reason, Reason::Forwarded);
        } else {
            // It was not read.
            let outcome = bed.part(&control, 0, control.next[0], ACK | PSH, BOUNCE);
            assert_eq!((outcome.kind, outcome.reason), refused());
            assert_eq!(bed.part(&control, 0, control.next[0], ACK | PSH, b"USER a\r\n").reason, Reason::Forwarded);
        }
    }
}

// RFC 1350: a request counts if it comes from where its client is.
#[test]
fn nothing_is_announced_from_elsewhere() {
    let mut bed = Bed::with(FTP);
    let (client, server) = (at("10.1.0.2:3000"), at("198.51.100.2:69"));
    let request = Spec::udp(client, server, b"\0\x01boot.img\0octet\0");
    assert_eq!(bed.send(LAN, &request).reason, Reason::Forwarded);
    let data = |port: u16| Spec::udp(SocketAddr::new(server.ip(), port), client, b"\0\x03\0\x01hello");
    assert_eq!(bed.send(WAN, &data(50_000)).reason, Reason::Forwarded);
    assert_eq!(bed.send(WAN, &data(50_001)).kind, Kind::Drop);
    assert_eq!(bed.send(WAN, &request).kind, Kind::Drop);
    assert_eq!(bed.send(LAN, &request.with_ttl(1)).kind, Kind::Drop);
    assert_eq!(bed.send(WAN, &data(50_002)).kind, Kind::Drop);
}

// RFC 9293 section 3.4: a fragment of what was sent before has other numbers too, and they cannot be put into it.
#[test]
fn fragments_of_a_shifted_stream_do_not_leave_as_they_came() {
    let mut bed = Bed::with(&nats());
    let mut control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    bed.active(&mut control, 50_000);
    let text = "STOR a.very.long.name.of.a.file\r\n";
    let at = control.next[0];
    let begins = control.expects[1];
    bed.speaks(&mut control, 0, text);
    let spec = segment(control.own[0], control.peer[0], ACK | PSH, (at, control.expects[0]), text.as_bytes());
    for fragment in split(&framed(LAN, &spec), 7, 40) {
        bed.receive(LAN, fragment);
    }
    for (_, frame) in &bed.outside.sent {
        assert_eq!(came(frame.clone()).sequence, begins, "{:?}", ends(frame));
    }
}

// RFC 854, RFC 959 section 3.1: commands of Telnet are no part of a line, wherever they stand, and servers pass over what
// is in front of it.
#[test]
fn commands_of_telnet_hide_nothing() {
    let mut bed = Bed::with(FTP);
    let control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let far = [&b"\xff\xf1".repeat(300), BOUNCE].concat();
    for line in [
        &b"P\xff\xf1ORT 10,1,0,3,200,0\r\n"[..],
        b"PO\xff\xfb\x01RT 10,1,0,3,200,0\r\n",
        b"PORT\xff\xf1 10,1,0,3,200,0\r\n",
        b" PORT 10,1,0,3,200,0\r\n",
        b"\0PORT 10,1,0,3,200,0\r\n",
        b"\xff\xf4\xff\xf2\t EPRT |1|10.1.0.3|51200|\r\n",
        b"PO\xf2RT 10,1,0,3,200,0\r\n",
        &far,
    ] {
        let outcome = bed.part(&control, 0, control.next[0], ACK | PSH, line);
        assert_eq!((outcome.kind, outcome.reason), refused(), "{}", line.escape_ascii());
    }
    let abort = b"\xff\xf4\xff\xf2ABOR\r\n";
    assert_eq!(bed.part(&control, 0, control.next[0], ACK | PSH, abort).reason, Reason::Forwarded);
}

// Too many texts: what is dropped for that counts as not read, and the beginning of its line as read once.
#[test]
fn what_finds_no_room_is_read_again() {
    let mut bed = Bed::with(&nats());
    let control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let line = b"PORT 10,1,0,2,200,0\r\n";
    // The server acknowledges nothing.
    let mut at = control.next[0];
    for _ in 0..9 {
        assert_eq!(bed.part(&control, 0, at, ACK | PSH, &line[..6]).reason, Reason::Forwarded);
        assert_eq!(bed.part(&control, 0, at + 6, ACK | PSH, &line[6..]).reason, Reason::Forwarded);
        at += line.len() as u32;
    }
    for piece in [&b"PORT 1"[..], line, BOUNCE, b"9,9,9,200,0\r\n"] {
        let outcome = bed.part(&control, 0, at, ACK | PSH, piece);
        assert_eq!((outcome.kind, outcome.reason), (Kind::Drop, Reason::HelperLimit));
    }
    // The server has it all: there is room.
    bed.outside.sent.clear();
    assert_eq!(bed.part(&control, 0, at, ACK, b"").reason, Reason::Forwarded);
    let end = came(bed.last().1).sequence;
    let answer = segment(control.own[1], control.peer[1], ACK, (control.next[1], end), &[]);
    assert_eq!(bed.send(WAN, &answer).reason, Reason::Forwarded);
    assert_eq!(bed.part(&control, 0, at, ACK | PSH, &line[..6]).reason, Reason::Forwarded);
    let outcome = bed.part(&control, 0, at + 6, ACK | PSH, b"0,1,0,3,200,0\r\n");
    assert_eq!((outcome.kind, outcome.reason), refused());
    assert_eq!(bed.part(&control, 0, at + 6, ACK | PSH, &line[6..]).reason, Reason::Forwarded);
}

// N13: bounded. What was not acknowledged is remembered up to a size; it passes when the server has what was said before.
#[test]
fn what_is_remembered_of_a_stream_is_bounded() {
    let mut bed = Bed::with(FTP);
    let control = bed.control([LAN, WAN], CLIENT, SERVER, STREAMS);
    let many = [b'x'; 1400];
    let at = |number: u32| control.next[0] + number * 1400;
    for number in 0..6 {
        assert_eq!(bed.part(&control, 0, at(number), ACK, &many).reason, Reason::Forwarded);
    }
    assert_eq!(bed.part(&control, 0, at(6), ACK, &many).reason, Reason::HelperLimit);
    let answer = segment(control.own[1], control.peer[1], ACK, (control.next[1], at(3)), &[]);
    assert_eq!(bed.send(WAN, &answer).reason, Reason::Forwarded);
    for number in 6..9 {
        assert_eq!(bed.part(&control, 0, at(number), ACK, &many).reason, Reason::Forwarded);
    }
    assert_eq!(bed.part(&control, 0, at(9), ACK, &many).reason, Reason::HelperLimit);
}

// A connection that was taken up is read on by another process, and under a policy that takes the helper away and gives it
// back: what its server has sent so far was never seen.
#[test]
fn a_connection_that_was_taken_up_is_read_on() {
    let taken_up = FTP.replace("helper = \"ftp\"", "helper = \"ftp\"\ntake_up = true");
    for adopted in [true, false] {
        let mut bed = Bed::with(&taken_up);
        let (client, server) = (at(CLIENT), at(SERVER));
        let first = segment(client, server, ACK | PSH, (1000, 2000), b"NOOP\r\n");
        assert_eq!(bed.send(LAN, &first).reason, Reason::Forwarded);
        if adopted {
            bed = bed.adopt().0;
        } else {
            bed.reload(&taken_up.replace("helper = \"ftp\"\n", ""));
            let answer = segment(server, client, ACK | PSH, (2000, 1006), b"");
            assert_eq!(bed.send(WAN, &answer).reason, Reason::Forwarded);
            bed.reload(&taken_up);
        }
        for (port, from, to, numbers, text) in [
            (WAN, server, client, (2000, 1006), "200 fine\r\n"),
            (LAN, client, server, (1006, 2010), "PASV\r\n"),
            (WAN, server, client, (2010, 1012), "227 (198,51,100,2,200,0)\r\n"),
        ] {
            let outcome = bed.send(port, &segment(from, to, ACK | PSH, numbers, text.as_bytes()));
            assert_eq!(outcome.reason, Reason::Forwarded, "{text}");
        }
        bed.outside.sent.clear();
        bed.data([LAN, WAN], at("10.1.0.2:40001"), at("198.51.100.2:51200"));
    }
}
