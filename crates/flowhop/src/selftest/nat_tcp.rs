//! Clauses about the translation of TCP.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use flowhop_wire::build::Spec;
use flowhop_wire::icmp4;
use flowhop_wire::tcp_flags::{ACK, RST, SYN};

use super::clause::Level::Should;
use super::clause::{Clause, may, must, should, unmet};
use super::connection::Connection;
use super::field::{Fault, Field, Seen, Side, holds};
use super::icmp::{Kind, error_about, quoted};
use super::policies::{ADDRESS, MASQUERADE, OPEN, SILENT};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(
        5382,
        "REQ-1",
        &MASQUERADE,
        endpoint_independent,
        "maps an inside endpoint to the same external one whatever it talks to",
    ),
    must(5382, "REQ-2", &MASQUERADE, handshake, "passes all that a connection may consist of, from SYN to its end"),
    must(5382, "REQ-2 a", &MASQUERADE, simultaneous, "passes simultaneous open"),
    should(
        5382,
        "REQ-3",
        &OPEN,
        open_filtering,
        "lets everybody open a connection to a mapping where `filtering` is \"endpoint-independent\"",
    ),
    should(
        5382,
        "REQ-3",
        &ADDRESS,
        address_filtering,
        "lets those open a connection whose address it has sent to where `filtering` is \"address-dependent\"",
    ),
    unmet(
        5382,
        "REQ-3 default",
        Should,
        "filters by address and port by default, more strictly than either behaviour that is recommended",
        "a firewall admits by default only what was asked for; one key of the translation opens it",
    ),
    may(5382, "REQ-3 a", &ADDRESS, address_filtering, "has `filtering` in the policy"),
    must(
        5382,
        "REQ-4",
        &MASQUERADE,
        unsolicited,
        "says nothing for six seconds to a SYN that a mapping does not admit",
    ),
    should(5382, "REQ-4, error", &MASQUERADE, unsolicited, "sends ICMP port unreachable about such a SYN then"),
    must(
        5382,
        "REQ-4, opened",
        &MASQUERADE,
        solicited,
        "forgets such a SYN when the inside host opens the same connection meanwhile",
    ),
    should(5382, "REQ-6", &MASQUERADE, payloads, "changes nothing in payloads unless a rule names a helper"),
    must(
        5382,
        "REQ-4 a",
        &SILENT,
        silent,
        "says nothing at all to such a SYN where the translation has `unsolicited = \"drop\"`",
    ),
    must(5382, "REQ-7", &MASQUERADE, no_overloading, "does not give one external endpoint to two inside ones"),
    must(5382, "REQ-8", &OPEN, hairpin, "connects inside hosts by their external endpoints"),
    must(5382, "REQ-8 a", &OPEN, hairpin, "shows them to each other by their external endpoints, source included"),
    should(
        5382,
        "REQ-9",
        &MASQUERADE,
        errors,
        "translates ICMP Destination Unreachable with the segment that it quotes",
    ),
    must(5382, "REQ-10", &MASQUERADE, errors, "ends no connection because of an ICMP error"),
    should(7857, "5", &MASQUERADE, by_protocol, "maps the same inside endpoint for each protocol by itself"),
    should(7857, "6", &OPEN, filtering_by_protocol, "admits strangers to a mapping of the same protocol alone"),
    may(7857, "8", &MASQUERADE, random_ports, "does not keep the parity of ports unless it is told to"),
    should(7857, "9", &MASQUERADE, random_ports, "draws external ports at random (RFC 6056)"),
    should(6888, "REQ-15", &MASQUERADE, random_ports, "draws external ports at random"),
];

/// Sends a SYN out; from where it arrives at `to`.
pub(super) fn syn_out(field: &Field, from: SocketAddr, to: SocketAddr) -> Result<SocketAddr, Fault> {
    let syn = Spec::tcp(from, to, SYN, &[]).with_sequence(1000, 0);
    Ok(field.crosses(Side::Inside, &syn, |seen| seen.to() == to && seen.flags() == SYN)?.from())
}

fn endpoint_independent(field: &Field) -> Result<(), Fault> {
    let from = field.at(Side::Inside, false);
    let first = syn_out(field, from, field.at(Side::Outside, false))?;
    holds(first.ip() != from.ip(), || "it was not translated".to_owned())?;
    for host in 0..3 {
        let to = SocketAddr::new(Side::Outside.host(false, host), field.fresh());
        let mapped = syn_out(field, from, to)?;
        holds(mapped == first, || format!("{first} towards one, {mapped} towards {to}"))?;
    }
    Ok(())
}

fn handshake(field: &Field) -> Result<(), Fault> {
    let mut connection = Connection::open(field, false)?;
    connection.talks()?;
    connection.closes()
}

fn simultaneous(field: &Field) -> Result<(), Fault> {
    Connection::open_both(field, false)?.talks()
}

fn filtered(field: &Field) -> Result<[SocketAddr; 3], Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    Ok([from, syn_out(field, from, to)?, to])
}

/// A SYN to a mapping.
fn syn_in(field: &Field, from: SocketAddr, mapped: SocketAddr) -> Result<(), Fault> {
    field.send(Side::Outside, &Spec::tcp(from, mapped, SYN, &[]).with_sequence(5000, 0))
}

fn admits(field: &Field, from: SocketAddr, mapped: SocketAddr, inside: SocketAddr) -> Result<(), Fault> {
    syn_in(field, from, mapped)?;
    field.expect(Side::Inside, "a stranger's SYN", |seen| seen.to() == inside && seen.from() == from)?;
    // The answer goes back by the mapping.
    let answer = Spec::tcp(inside, from, SYN | ACK, &[]).with_sequence(9000, 5001);
    let seen = field.crosses(Side::Inside, &answer, |seen| seen.to() == from)?;
    holds(seen.from() == mapped, || format!("the answer came from {} instead of {mapped}", seen.from()))
}

fn open_filtering(field: &Field) -> Result<(), Fault> {
    let [from, mapped, to] = filtered(field)?;
    admits(field, SocketAddr::new(to.ip(), field.fresh()), mapped, from)?;
    admits(field, SocketAddr::new(Side::Outside.host(false, 1), field.fresh()), mapped, from)
}

fn address_filtering(field: &Field) -> Result<(), Fault> {
    let [from, mapped, to] = filtered(field)?;
    admits(field, SocketAddr::new(to.ip(), field.fresh()), mapped, from)?;
    let stranger = SocketAddr::new(Side::Outside.host(false, 1), to.port());
    syn_in(field, stranger, mapped)?;
    field.nothing(Side::Inside, "a stranger's SYN", |seen| seen.to() == from)
}

fn unsolicited(field: &Field) -> Result<(), Fault> {
    let [from, mapped, _] = filtered(field)?;
    let stranger = SocketAddr::new(Side::Outside.host(false, 2), field.fresh());
    let sent = Instant::now();
    syn_in(field, stranger, mapped)?;
    field.nothing(Side::Inside, "a stranger's SYN", |seen| seen.to() == from)?;
    let is = |seen: &Seen| {
        let port = seen.icmp() == Some((icmp4::UNREACHABLE, icmp4::PORT_UNREACHABLE));
        port && seen.destination == stranger.ip() && quoted(seen).is_ok_and(|quoted| quoted.from() == stranger)
    };
    field.expect_within(Side::Outside, Duration::from_secs(12), "port unreachable", is)?;
    let waited = sent.elapsed();
    holds(waited >= Duration::from_secs(6), || format!("it came after {} ms", waited.as_millis()))
}

fn solicited(field: &Field) -> Result<(), Fault> {
    let [from, mapped, _] = filtered(field)?;
    let stranger = SocketAddr::new(Side::Outside.host(false, 3), field.fresh());
    syn_in(field, stranger, mapped)?;
    field.nothing(Side::Inside, "a stranger's SYN", |seen| seen.to() == from)?;
    let again = syn_out(field, from, stranger)?;
    holds(again == mapped, || format!("{mapped} became {again}"))?;
    // The peer repeats its SYN: a simultaneous open.
    syn_in(field, stranger, mapped)?;
    field.expect(Side::Inside, "the peer's SYN", |seen| seen.to() == from && seen.flags() == SYN)?;
    let is = |seen: &Seen| seen.icmp().is_some() && seen.destination == stranger.ip();
    match field.expect_within(Side::Outside, Duration::from_secs(7), "an error", is) {
        Err(_) => Ok(()),
        Ok(seen) => Err(Fault(format!("the SYN that is forgotten was answered with {:?}", seen.icmp()))),
    }
}

fn silent(field: &Field) -> Result<(), Fault> {
    let [from, mapped, _] = filtered(field)?;
    let stranger = SocketAddr::new(Side::Outside.host(false, 2), field.fresh());
    syn_in(field, stranger, mapped)?;
    field.nothing(Side::Inside, "a stranger's SYN", |seen| seen.to() == from)?;
    let is = |seen: &Seen| seen.destination == stranger.ip();
    match field.expect_within(Side::Outside, Duration::from_secs(8), "an answer", is) {
        Err(_) => Ok(()),
        Ok(seen) => Err(Fault(format!("the SYN was answered with {:?}", seen.icmp()))),
    }
}

fn payloads(field: &Field) -> Result<(), Fault> {
    let mut connection = Connection::open(field, false)?;
    connection.client_sends(ACK, b"PORT 10,1,0,50,4,1\r\n")?;
    let seen = connection.at_server("a command of FTP", ACK)?;
    holds(seen.frame.ends_with(b"PORT 10,1,0,50,4,1\r\n"), || "it was changed".to_owned())?;
    connection.sent += 20;
    connection.talks()
}

fn no_overloading(field: &Field) -> Result<(), Fault> {
    let (port, to) = (field.fresh(), field.at(Side::Outside, false));
    let mut mapped = Vec::new();
    for host in 0..4 {
        mapped.push(syn_out(field, SocketAddr::new(Side::Inside.host(false, host), port), to)?);
    }
    let all = mapped.len();
    mapped.sort_unstable();
    mapped.dedup();
    holds(mapped.len() == all, || format!("{all} inside endpoints share {mapped:?}"))
}

fn hairpin(field: &Field) -> Result<(), Fault> {
    let [b, mapped_b, _] = filtered(field)?;
    let a = SocketAddr::new(Side::Inside.host(false, 1), field.fresh());
    let mapped_a = syn_out(field, a, field.at(Side::Outside, false))?;
    let syn = Spec::tcp(a, mapped_b, SYN, &[]).with_sequence(1000, 0);
    field.send(Side::Inside, &syn)?;
    let seen = field.expect(Side::Inside, "the SYN", |seen| seen.to() == b && seen.flags() == SYN)?;
    holds(seen.from() == mapped_a, || format!("it came from {} instead of {mapped_a}", seen.from()))?;
    field.send(Side::Inside, &Spec::tcp(b, mapped_a, SYN | ACK, &[]).with_sequence(9000, 1001))?;
    let seen = field.expect(Side::Inside, "the answer", |seen| seen.to() == a && seen.flags() == SYN | ACK)?;
    holds(seen.from() == mapped_b, || format!("it came from {} instead of {mapped_b}", seen.from()))
}

fn errors(field: &Field) -> Result<(), Fault> {
    let mut connection = Connection::open(field, false)?;
    connection.talks()?;
    connection.client_sends(ACK, b"under way")?;
    let seen = connection.at_server("data", ACK)?;
    let router = Side::Outside.host(false, 1);
    for code in [0, 1, 3, 13] {
        let kind = Kind::plain(icmp4::UNREACHABLE, code);
        field.send_frame(Side::Outside, error_about(field, Side::Outside, router, &seen, kind)?)?;
        let client = connection.client;
        let is = |seen: &Seen| seen.icmp() == Some((icmp4::UNREACHABLE, code)) && seen.destination == client.ip();
        let inner = quoted(&field.expect(Side::Inside, "the error", is)?)?;
        let right = (inner.from(), inner.to()) == (client, connection.server);
        holds(right, || format!("it quotes {} to {}", inner.from(), inner.to()))?;
    }
    connection.sent += 9;
    connection.talks()
}

fn by_protocol(field: &Field) -> Result<(), Fault> {
    // That both get the same port by chance three times is not to be expected.
    for _ in 0..3 {
        let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
        if field.udp_out(from, to)? != syn_out(field, from, to)? {
            return Ok(());
        }
    }
    Err(Fault("UDP and TCP share mappings".to_owned()))
}

fn filtering_by_protocol(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mapped = field.udp_out(from, to)?;
    syn_in(field, to, mapped)?;
    field.nothing(Side::Inside, "a SYN to a mapping of UDP", |seen| seen.flags() == SYN && seen.from() == to)?;
    field.admits(to, mapped, from).map(drop)
}

fn random_ports(field: &Field) -> Result<(), Fault> {
    let to = field.at(Side::Outside, false);
    let mut ports = Vec::new();
    for _ in 0..16 {
        let from = field.at(Side::Inside, false);
        ports.push((from.port(), syn_out(field, from, to)?.port()));
    }
    let kept = ports.iter().filter(|(inside, mapped)| inside == mapped).count();
    let steps = ports.windows(2).filter(|pair| pair[0].1.abs_diff(pair[1].1) < 16).count();
    let even = ports.iter().filter(|(inside, mapped)| inside % 2 == mapped % 2).count();
    holds(kept < 4 && steps < 4 && even < 16, || format!("inside and external ports: {ports:?}"))
}

/// A reset from inside to a stranger, for the clauses about timers.
pub(super) fn refuse(field: &Field, from: SocketAddr, to: SocketAddr) -> Result<(), Fault> {
    let reset = Spec::tcp(from, to, RST | ACK, &[]).with_sequence(0, 5001);
    field.crosses(Side::Inside, &reset, |seen| seen.to() == to && seen.flags() == RST | ACK).map(drop)
}
