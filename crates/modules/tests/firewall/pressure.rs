//! What makes room when connections come faster than they go, and what a source may have.

use std::net::{Ipv4Addr, SocketAddr};

use flowhop_flow::{Kind, Reason};
use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags;

use crate::bed::{Bed, LAN, WAN, at, ip};

const SERVER: &str = "10.1.0.80:80";

/// A server inside that is reached from outside, in a table of so many connections.
fn published(connections: u32, more: &str) -> Bed {
    let rule = format!(
        "[[rule]]\nname = \"web\"\nfrom = \"outside\"\nto = \"inside\"\nservice = [\"tcp/80\", \"udp/80\"]\n\
         action = \"allow\"\n{more}\n"
    );
    Bed::sized(&rule, connections, false)
}

fn client(number: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0b00_0000 + number).into(), 1024 + (number % 60_000) as u16)
}

impl Bed {
    fn syn(&mut self, from: SocketAddr) -> Reason {
        let reason = self.send(WAN, &Spec::tcp(from, at(SERVER), tcp_flags::SYN, &[]).with_sequence(1000, 0)).reason;
        self.outside.sent.clear();
        reason
    }

    /// The rest of the handshake.
    fn complete(&mut self, from: SocketAddr) -> [Reason; 2] {
        let syn_ack = Spec::tcp(at(SERVER), from, tcp_flags::SYN | tcp_flags::ACK, &[]).with_sequence(5000, 1001);
        let ack = Spec::tcp(from, at(SERVER), tcp_flags::ACK, &[]).with_sequence(1001, 5001);
        let reasons = [self.send(LAN, &syn_ack).reason, self.send(WAN, &ack).reason];
        self.outside.sent.clear();
        reasons
    }

    /// Data both ways.
    fn talks(&mut self, from: SocketAddr) -> bool {
        let request = Spec::tcp(from, at(SERVER), tcp_flags::ACK, &[]).with_sequence(1001, 5001);
        let answer = Spec::tcp(at(SERVER), from, tcp_flags::ACK, &[]).with_sequence(5001, 1001);
        let both = [self.send(WAN, &request).kind, self.send(LAN, &answer).kind];
        self.outside.sent.clear();
        both == [Kind::Forward; 2]
    }
}

// N13, RFC 4987: a flood of ten times the table takes no more than its share, ends no established connection, and
// leaves a client of another source time for its handshake.
#[test]
fn a_flood_of_syns_keeps_to_its_share() {
    let mut bed = published(4096, "");
    let established: Vec<SocketAddr> =
        (0..1000).map(|number| SocketAddr::new(ip("198.51.100.2"), 2000 + number)).collect();
    for from in &established {
        assert_eq!(bed.syn(*from), Reason::Forwarded);
        assert_eq!(bed.complete(*from), [Reason::Forwarded; 2]);
    }
    for number in 0..40_960 {
        assert_eq!(bed.syn(client(number)), Reason::Forwarded, "{number}");
        if number % 256 == 0 {
            // A call of regular work, with which the blocks that were ended come back.
            bed.turn();
        }
        if number % 4096 == 17 {
            let honest = at(&format!("198.51.100.3:{}", 3000 + number / 4096));
            assert_eq!(bed.syn(honest), Reason::Forwarded);
            for more in 0..200 {
                bed.syn(client(1_000_000 + number + more));
            }
            assert_eq!(bed.complete(honest), [Reason::Forwarded; 2], "{number}");
            assert!(bed.talks(honest));
        }
    }
    let pressure = bed.engine.pressure(3);
    assert_eq!(pressure.half_open_limit, 1024);
    assert!(pressure.half_open <= 1024, "{pressure:?}");
    assert!(pressure.evicted > 30_000, "{pressure:?}");
    assert_eq!((pressure.top[0].source, pressure.top[0].connections), (ip("198.51.100.2"), 1000));
    for from in &established {
        assert!(bed.talks(*from), "{from}");
    }
}

// Who floods from one source crowds out itself, however slow the handshakes of others are.
#[test]
fn one_source_crowds_out_itself() {
    let mut bed = published(4096, "");
    let slow: Vec<SocketAddr> = (0..50).map(|number| SocketAddr::new(ip("198.51.100.3"), 2000 + number)).collect();
    slow.iter().for_each(|from| assert_eq!(bed.syn(*from), Reason::Forwarded));
    for number in 0..20_000_u32 {
        let from = SocketAddr::new(ip("198.51.100.2"), 1024 + (number % 60_000) as u16);
        assert_eq!(bed.syn(from), Reason::Forwarded, "{number}");
        if number % 256 == 0 {
            bed.turn();
        }
    }
    let complete = slow.iter().filter(|from| bed.complete(**from) == [Reason::Forwarded; 2]).count();
    assert_eq!(complete, 50);
}

// A flood of single datagrams ends its own flows; one-way flows that go on, and two-way ones, stay.
#[test]
fn single_datagrams_make_room_for_each_other() {
    let mut bed = published(4096, "");
    let udp = |from: SocketAddr| Spec::udp(from, at(SERVER), b"x");
    let (one_way, two_way) = (at("198.51.100.2:514"), at("198.51.100.3:53"));
    assert_eq!(bed.send(WAN, &udp(two_way)).kind, Kind::Forward);
    assert_eq!(bed.send(LAN, &Spec::udp(at(SERVER), two_way, b"y")).kind, Kind::Forward);
    (0..10).for_each(|_| assert_eq!(bed.send(WAN, &udp(one_way)).kind, Kind::Forward));
    let sessions: Vec<_> = [one_way, two_way].iter().map(|from| bed.send(WAN, &udp(*from)).session).collect();
    let mut refused = 0;
    for number in 0..40_960 {
        refused += u32::from(bed.send(WAN, &udp(client(number))).kind != Kind::Forward);
        bed.outside.sent.clear();
        if number % 16 == 0 {
            bed.turn();
        }
    }
    assert_eq!(refused, 0);
    let after: Vec<_> = [one_way, two_way].iter().map(|from| bed.send(WAN, &udp(*from)).session).collect();
    assert_eq!(sessions, after);
}

// A flood of datagrams does not end handshakes that are under way.
#[test]
fn datagrams_leave_handshakes_time() {
    let mut bed = published(4096, "");
    for number in 0..20_480 {
        bed.send(WAN, &Spec::udp(client(number), at(SERVER), b"x"));
        bed.outside.sent.clear();
        if number % 16 == 0 {
            bed.turn();
        }
        if number % 2048 == 2047 {
            let honest = at(&format!("198.51.100.3:{}", 3000 + number / 2048));
            assert_eq!(bed.syn(honest), Reason::Forwarded);
            for more in 0..200 {
                bed.send(WAN, &Spec::udp(client(1_000_000 + number + more), at(SERVER), b"x"));
                if more % 16 == 0 {
                    bed.turn();
                }
            }
            assert_eq!(bed.complete(honest), [Reason::Forwarded; 2], "{number}");
        }
    }
}

// Checklist C2: limits of a source, by rate and by number; other sources are not affected.
#[test]
fn a_source_has_limits_of_its_own() {
    let mut bed = published(4096, "source_limit = \"5/s\"\nsource_connections = 8");
    let from = |host: u8, port: u16| SocketAddr::new(ip(&format!("198.51.100.{host}")), port);
    let allowed = |bed: &mut Bed, host: u8, ports: std::ops::Range<u16>| {
        let reasons: Vec<Reason> = ports.map(|port| bed.syn(from(host, port))).collect();
        assert!(reasons.iter().all(|reason| matches!(reason, Reason::Forwarded | Reason::SourceLimit)), "{reasons:?}");
        reasons.iter().filter(|reason| **reason == Reason::Forwarded).count()
    };
    assert_eq!(allowed(&mut bed, 2, 2000..2020), 5);
    assert_eq!(allowed(&mut bed, 3, 2000..2020), 5);
    bed.pass(1000);
    // Two a second later would be five by the rate, and are three by the number.
    assert_eq!(allowed(&mut bed, 2, 3000..3020), 3);
    let ended = bed.engine.table().live_blocks().count();
    assert_eq!(ended, 13);
    // What ends makes room for others of the same source.
    bed.pass(241 * 954);
    assert_eq!(bed.engine.pressure(1).sources, 0);
    assert_eq!(allowed(&mut bed, 2, 4000..4020), 5);
}

// The counts of sources go over to the next process with the connections.
#[test]
fn sources_are_counted_again_by_the_next_process() {
    let mut bed = published(1024, "source_connections = 8");
    for port in 2000..2008 {
        assert_eq!(bed.syn(SocketAddr::new(ip("198.51.100.2"), port)), Reason::Forwarded);
    }
    let (mut bed, kept) = bed.adopt();
    assert_eq!(kept, (8, 0));
    assert_eq!(bed.syn(at("198.51.100.2:3000")), Reason::SourceLimit);
    assert_eq!(bed.engine.pressure(1).half_open, 8);
}
