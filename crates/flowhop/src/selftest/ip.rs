//! Clauses about IP itself: what is forwarded at all.

use std::net::{IpAddr, SocketAddr};

use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::SYN;
use flowhop_wire::{icmp4, icmp6, protocol};

use super::clause::{Clause, may, must, should};
use super::field::{Fault, Field, Seen, Side, holds, right_header};
use super::policies::PLAIN;

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(
        1812,
        "5.2.2",
        &PLAIN,
        header_checksum,
        "discards packets whose header checksum is wrong silently and counts them",
    ),
    must(
        1812,
        "5.2.2, lengths",
        &PLAIN,
        wrong_headers,
        "discards packets with a wrong version, header length or total length silently",
    ),
    must(
        8200,
        "3, lengths",
        &PLAIN,
        wrong_headers_six,
        "discards packets with a wrong version or payload length silently",
    ),
    should(
        1812,
        "5.3.7, links",
        &PLAIN,
        broadcast_source,
        "drops packets whose source is the broadcast address of a link",
    ),
    may(1812, "5.3.8, land", &PLAIN, land, "drops packets whose source is their destination, which no RFC names"),
    must(
        1812,
        "5.3.1",
        &PLAIN,
        time_to_live,
        "lowers the time to live by one, answers an expired one with Time Exceeded",
    ),
    should(
        1812,
        "5.3.7",
        &PLAIN,
        martians,
        "drops packets from and to loopback addresses, class E and network zero, and from broadcast and multicast ones",
    ),
    must(1812, "5.3.5.1", &PLAIN, limited_broadcast, "does not forward limited broadcasts"),
    must(2644, "3", &PLAIN, directed_broadcast, "does not forward directed broadcasts"),
    must(8200, "3", &PLAIN, hop_limit, "lowers the hop limit by one, and discards what would have none left"),
    must(4443, "3.3", &PLAIN, hop_limit, "answers a hop limit that has expired with Time Exceeded"),
    must(4291, "2.5.6", &PLAIN, link_local, "does not forward packets with link-local source or destination"),
    must(
        4291,
        "2.5.3",
        &PLAIN,
        loopback6,
        "does not forward packets with the loopback address as source or destination",
    ),
];

fn header_checksum(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mut frame = field.frame(Side::Inside, &Spec::udp(from, to, b"x"))?;
    frame[24] ^= 1;
    let before = field.drops("bad_ip_checksum")?;
    field.send_frame(Side::Inside, frame)?;
    field.nothing(Side::Outside, "the packet", |seen| seen.to() == to)?;
    field.nothing(Side::Inside, "an answer", |seen| seen.icmp().is_some() && seen.destination == from.ip())?;
    let counted = field.drops("bad_ip_checksum")? - before;
    holds(counted == 1, || format!("{counted} counted as bad_ip_checksum"))
}

/// That a frame from inside with bytes changed is not forwarded, nor answered; `fix` makes the checksum right.
fn altered(field: &Field, six: bool, fix: bool, what: &str, changes: &[(usize, u8)]) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
    let mut frame = field.frame(Side::Inside, &Spec::udp(from, to, b"altered"))?;
    for (at, value) in changes {
        frame[*at] = *value;
    }
    if fix {
        right_header(&mut frame);
    }
    field.send_frame(Side::Inside, frame)?;
    field.nothing(Side::Outside, what, |seen| seen.frame.ends_with(b"altered"))?;
    field.nothing(Side::Inside, "an answer", |seen| seen.icmp().is_some() && seen.destination == from.ip())
}

fn wrong_headers(field: &Field) -> Result<(), Fault> {
    // The whole packet has 35 bytes.
    let cases: [(&str, &[(usize, u8)]); 5] = [
        ("version 5", &[(14, 0x55)]),
        ("a header of 16 bytes", &[(14, 0x44)]),
        ("a header of no bytes", &[(14, 0x40)]),
        ("a total length below the header's", &[(16, 0), (17, 19)]),
        ("a total length of nothing", &[(16, 0), (17, 0)]),
    ];
    cases.iter().try_for_each(|(what, changes)| altered(field, false, true, what, changes))
}

fn wrong_headers_six(field: &Field) -> Result<(), Fault> {
    let cases: [(&str, &[(usize, u8)]); 3] = [
        ("version 5", &[(14, 0x50)]),
        ("a payload length above what came", &[(18, 0), (19, 200)]),
        ("a payload length of nothing", &[(18, 0), (19, 0)]),
    ];
    cases.iter().try_for_each(|(what, changes)| altered(field, true, false, what, changes))
}

fn land(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let inside = SocketAddr::new(Side::Inside.host(six, 0), 80);
        field.send(Side::Outside, &Spec::tcp(inside, inside, SYN, b"land").with_sequence(1, 0))?;
        field.nothing(Side::Inside, "a packet to its own source", |seen| seen.frame.ends_with(b"land"))?;
    }
    Ok(())
}

fn expires(field: &Field, six: bool, error: (u8, u8)) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
    field.send(Side::Inside, &Spec::udp(from, to, b"x").with_ttl(9))?;
    let seen = field.expect(Side::Outside, "the packet", |seen| seen.to() == to)?;
    holds(seen.ttl == 8, || format!("9 became {}", seen.ttl))?;
    // Of a known flow, as of a new one.
    for to in [to, field.at(Side::Outside, six)] {
        field.send(Side::Inside, &Spec::udp(from, to, b"x").with_ttl(1))?;
        let is = |seen: &Seen| seen.destination == from.ip() && seen.icmp() == Some(error);
        field.expect(Side::Inside, "Time Exceeded", is)?;
        field.nothing(Side::Outside, "the expired packet", |seen| seen.to() == to)?;
    }
    Ok(())
}

fn time_to_live(field: &Field) -> Result<(), Fault> {
    expires(field, false, (icmp4::TIME_EXCEEDED, 0))
}

fn hop_limit(field: &Field) -> Result<(), Fault> {
    expires(field, true, (icmp6::TIME_EXCEEDED, 0))
}

/// That packets between these do not get from a side to the other.
fn refused(field: &Field, side: Side, pairs: &[(IpAddr, IpAddr)]) -> Result<(), Fault> {
    let other = if side == Side::Inside { Side::Outside } else { Side::Inside };
    for (source, destination) in pairs {
        let port = field.fresh();
        let (from, to) = (SocketAddr::new(*source, port), SocketAddr::new(*destination, 80));
        field.send(side, &Spec::udp(from, to, b"x"))?;
        let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.word(0) == port;
        field.nothing(other, &format!("a packet from {source} to {destination}"), is)?;
    }
    Ok(())
}

fn ip(text: &str) -> Result<IpAddr, Fault> {
    text.parse().map_err(|_| Fault(format!("{text} is no address")))
}

fn martians(field: &Field) -> Result<(), Fault> {
    let (inside, outside) = (Side::Inside.host(false, 0), Side::Outside.host(false, 0));
    for text in ["127.0.0.1", "0.1.2.3", "240.0.0.1", "255.255.255.255"] {
        refused(field, Side::Inside, &[(ip(text)?, outside), (inside, ip(text)?)])?;
        refused(field, Side::Outside, &[(ip(text)?, inside)])?;
    }
    refused(field, Side::Outside, &[(ip("224.0.0.1")?, inside)])
}

fn limited_broadcast(field: &Field) -> Result<(), Fault> {
    refused(field, Side::Inside, &[(Side::Inside.host(false, 0), ip("255.255.255.255")?)])?;
    refused(field, Side::Outside, &[(Side::Outside.host(false, 0), ip("255.255.255.255")?)])
}

fn broadcast_source(field: &Field) -> Result<(), Fault> {
    let before = field.drops("martian_source")?;
    refused(field, Side::Inside, &[(ip("10.1.0.255")?, Side::Outside.host(false, 0))])?;
    refused(field, Side::Outside, &[(ip("198.51.100.255")?, Side::Inside.host(false, 0))])?;
    let counted = field.drops("martian_source")? - before;
    holds(counted == 2, || format!("{counted} of 2 counted as martian_source"))
}

fn directed_broadcast(field: &Field) -> Result<(), Fault> {
    refused(field, Side::Inside, &[(Side::Inside.host(false, 0), ip("198.51.100.255")?)])?;
    refused(field, Side::Outside, &[(Side::Outside.host(false, 0), ip("10.1.0.255")?)])
}

fn link_local(field: &Field) -> Result<(), Fault> {
    let (inside, outside) = (Side::Inside.host(true, 0), Side::Outside.host(true, 0));
    let local = ip("fe80::50")?;
    refused(field, Side::Inside, &[(local, outside), (inside, local)])?;
    refused(field, Side::Outside, &[(local, inside)])
}

fn loopback6(field: &Field) -> Result<(), Fault> {
    let (inside, outside) = (Side::Inside.host(true, 0), Side::Outside.host(true, 0));
    refused(field, Side::Inside, &[(ip("::1")?, outside), (inside, ip("::1")?)])?;
    refused(field, Side::Outside, &[(ip("::1")?, inside)])
}
