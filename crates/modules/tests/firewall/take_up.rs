//! TCP connections that were there before flowhop (issue: picking up running connections by policy, off by default).

use flowhop_flow::{Kind, Reason};
use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, FIN, RST, SYN};

use crate::bed::{Bed, LAN, WAN, at, ends};

fn rules(more: &str, nat: &str) -> String {
    format!(
        "[[rule]]\nname = \"a\"\nfrom = \"inside\"\nto = \"outside\"\naction = \"allow\"\n{more}\n\
         [[rule]]\nname = \"b\"\nfrom = \"outside\"\nto = \"inside\"\nservice = \"tcp/23\"\naction = \"reject\"\n{nat}"
    )
}

const HIDE: &str = "[[nat]]\nname = \"hide\"\nto = \"outside\"\ntranslate.source = \"interface\"\n";

#[test]
fn running_connections_are_taken_up_where_a_rule_says_so() {
    let (client, server) = (at("10.1.0.2:40000"), at("198.51.100.2:443"));
    let segment = |flags| Spec::tcp(client, server, flags, b"data").with_sequence(1_000_000, 2_000_000);
    let mut bed = Bed::with(&rules("", ""));
    assert_eq!(bed.send(LAN, &segment(ACK)).reason, Reason::NotNew);

    let mut bed = Bed::with(&rules("take_up = true", ""));
    for flags in [FIN | ACK, RST, RST | ACK, SYN | ACK] {
        assert_eq!(bed.send(LAN, &segment(flags)).reason, Reason::NotNew, "{flags:#x}");
    }
    // From outside no rule takes it up, and what is rejected is not answered: it starts nothing.
    let stray = Spec::tcp(at("198.51.100.2:999"), at("10.1.0.2:23"), ACK, &[]).with_sequence(1, 1);
    assert_eq!(bed.send(WAN, &stray).reason, Reason::NotNew);
    assert!(bed.outside.sent.is_empty());

    let first = bed.send(LAN, &segment(ACK));
    assert_eq!((first.kind, first.out), (Kind::Forward, Some(WAN)));
    // The answers had a window of their own, of which nothing was seen: ten megabytes ahead is in it.
    let ahead = Spec::tcp(server, client, ACK, b"x").with_sequence(2_000_000 + 10_000_000, 1_000_004);
    assert_eq!(bed.send(WAN, &ahead).kind, Kind::Forward);
    let acknowledges = Spec::tcp(client, server, ACK, &[]).with_sequence(1_000_004, 2_000_000 + 10_000_001);
    assert_eq!(bed.send(LAN, &acknowledges).kind, Kind::Forward);
    // What is nowhere near is out of it all the same.
    let wild = Spec::tcp(server, client, ACK, b"x").with_sequence(2_000_000_u32.wrapping_add(0x9000_0000), 1_000_004);
    assert_eq!(bed.send(WAN, &wild).reason, Reason::TcpWindow);
    let fin = Spec::tcp(client, server, FIN | ACK, &[]).with_sequence(1_000_004, 2_000_000 + 10_000_001);
    assert_eq!(bed.send(LAN, &fin).kind, Kind::Forward);
}

// The peer knows a translated connection by a port that cannot be guessed.
#[test]
fn translated_connections_are_taken_up_only_with_the_port_that_they_had() {
    let segment =
        |port: u16| Spec::tcp(at(&format!("10.1.0.2:{port}")), at("198.51.100.2:443"), ACK, b"x").with_sequence(1, 1);
    let mut bed = Bed::with(&rules("take_up = true", HIDE));
    assert_eq!(bed.send(LAN, &segment(40_000)).reason, Reason::NotNew);
    assert_eq!(bed.engine.table().live(), 0);

    let mut bed = Bed::with(&rules("take_up = true", &format!("{HIDE}keep_port = true\n")));
    assert_eq!(bed.send(LAN, &segment(20_000)).reason, Reason::Forwarded);
    assert_eq!(ends(&bed.last().1).0, at("198.51.100.1:20000"));
}
