//! Clauses about the translation of UDP.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use flowhop_wire::build::Spec;
use flowhop_wire::icmp4;

use super::clause::Level::Should;
use super::clause::{Clause, may, must, should, unmet};
use super::field::{Fault, Field, Seen, Side, holds};
use super::icmp::{Kind, error_about};
use super::policies::{ADDRESS, MASQUERADE, OPEN, POOL};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(
        4787,
        "REQ-1",
        &MASQUERADE,
        endpoint_independent,
        "maps an inside endpoint to the same external one whatever it talks to",
    ),
    should(4787, "REQ-2", &POOL, paired, "gives all mappings of an inside address the same external address"),
    should(
        7857,
        "8, parity",
        &ADDRESS,
        parity,
        "keeps the parity of ports where the operator says so; a host cannot ask for it",
    ),
    must(4787, "REQ-3", &MASQUERADE, no_overloading, "does not give one external endpoint to two inside ones"),
    should(4787, "REQ-3 a", &MASQUERADE, port_ranges, "keeps ports below 1024 below, and others above"),
    should(4787, "REQ-4", &ADDRESS, parity, "keeps the parity of ports where the translation says `parity`"),
    unmet(
        4787,
        "REQ-4 default",
        Should,
        "draws ports of any parity unless the translation says `parity`",
        "RFC 7857 section 8 lets it be off, and parity halves what an attacker has to guess",
    ),
    should(
        4787,
        "REQ-8",
        &OPEN,
        open_filtering,
        "lets everybody send to a mapping where `filtering` is \"endpoint-independent\"",
    ),
    should(
        4787,
        "REQ-8",
        &ADDRESS,
        address_filtering,
        "lets those send to a mapping whose address it has sent to where `filtering` is \"address-dependent\"",
    ),
    may(
        4787,
        "REQ-8 a",
        &MASQUERADE,
        strict_filtering,
        "has `filtering` in the policy; without it, those alone may send to a mapping whose address and port it has sent to",
    ),
    unmet(
        4787,
        "REQ-8 default",
        Should,
        "filters by address and port by default, more strictly than either behaviour that is recommended",
        "a firewall admits by default only what was asked for; one key of the translation opens it",
    ),
    must(
        4787,
        "REQ-7",
        &MASQUERADE,
        conflict,
        "sees to it that inside and outside networks have no addresses in common: translates to no address of such a network",
    ),
    must(4787, "REQ-9", &OPEN, hairpin, "connects inside hosts by their external endpoints"),
    must(
        4787,
        "REQ-9 a",
        &MASQUERADE,
        strict_hairpin,
        "shows inside hosts that are connected so to each other by their external endpoints, source included",
    ),
    should(
        4787,
        "REQ-10",
        &MASQUERADE,
        |field| payloads(field, 5060, SIP),
        "changes nothing in payloads unless a rule names a helper",
    ),
    must(
        4787,
        "REQ-11",
        &MASQUERADE,
        deterministic,
        "maps and filters in the same way when hosts use the same port and when many mappings exist",
    ),
    must(4787, "REQ-12", &MASQUERADE, errors_end_nothing, "ends no mapping because of an ICMP error"),
    should(
        4787,
        "REQ-12 b",
        &MASQUERADE,
        errors_end_nothing,
        "translates ICMP Destination Unreachable and Time Exceeded, and has them arrive",
    ),
    should(4787, "REQ-12 a", &MASQUERADE, errors_of_routers, "admits ICMP errors about a mapping from any router"),
    should(
        4787,
        "REQ-8",
        &MASQUERADE,
        no_way_in,
        "admits nothing to inside addresses by themselves, nor to ports without a mapping",
    ),
];

/// That an inside endpoint has one external endpoint towards all; that one.
fn same_for_all(field: &Field, from: SocketAddr) -> Result<SocketAddr, Fault> {
    let first = field.udp_out(from, field.at(Side::Outside, false))?;
    holds(first.ip() != from.ip(), || "it was not translated".to_owned())?;
    for host in 0..3 {
        let to = SocketAddr::new(Side::Outside.host(false, host), field.fresh());
        let mapped = field.udp_out(from, to)?;
        holds(mapped == first, || format!("{first} towards one, {mapped} towards {to}"))?;
    }
    Ok(first)
}

fn endpoint_independent(field: &Field) -> Result<(), Fault> {
    same_for_all(field, field.at(Side::Inside, false)).map(drop)
}

fn paired(field: &Field) -> Result<(), Fault> {
    for host in 0..4 {
        let inside = Side::Inside.host(false, host);
        let mut external = Vec::new();
        for _ in 0..4 {
            external.push(field.udp_out(SocketAddr::new(inside, field.fresh()), field.at(Side::Outside, false))?.ip());
        }
        external.dedup();
        holds(external.len() == 1, || format!("{inside} has {external:?}"))?;
    }
    Ok(())
}

fn no_overloading(field: &Field) -> Result<(), Fault> {
    let (port, to) = (field.fresh(), field.at(Side::Outside, false));
    let mut mapped = Vec::new();
    for host in 0..4 {
        mapped.push(field.udp_out(SocketAddr::new(Side::Inside.host(false, host), port), to)?);
    }
    let all = mapped.len();
    mapped.sort_unstable();
    mapped.dedup();
    holds(mapped.len() == all, || format!("{all} inside endpoints share {mapped:?}"))
}

fn port_ranges(field: &Field) -> Result<(), Fault> {
    let (inside, to) = (Side::Inside.host(false, 0), field.at(Side::Outside, false));
    for port in [500, 501, 502, 1024, 1025, 65_535] {
        let mapped = field.udp_out(SocketAddr::new(inside, port), to)?.port();
        // An own address keeps its ports below 1024 for the box, see docs/nat.md.
        let same = mapped >= 1024 || port < 1024;
        holds(same, || format!("port {port} became {mapped}"))?;
    }
    Ok(())
}

fn parity(field: &Field) -> Result<(), Fault> {
    let to = field.at(Side::Outside, false);
    for _ in 0..8 {
        let from = field.at(Side::Inside, false);
        let mapped = field.udp_out(from, to)?;
        holds(mapped.port() % 2 == from.port() % 2, || format!("port {} became {}", from.port(), mapped.port()))?;
    }
    Ok(())
}

/// An exchange of datagrams: inside endpoint, its external one, and whom it sent to.
fn exchange(field: &Field) -> Result<[SocketAddr; 3], Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mapped = field.udp_out(from, to)?;
    let seen = field.admits(to, mapped, from)?;
    holds(seen.from() == to, || format!("what {to} sent came from {}", seen.from()))?;
    Ok([from, mapped, to])
}

/// Another port of the same host, and another host.
fn strangers(field: &Field, known: SocketAddr) -> [SocketAddr; 2] {
    [SocketAddr::new(known.ip(), field.fresh()), SocketAddr::new(Side::Outside.host(false, 1), known.port())]
}

fn open_filtering(field: &Field) -> Result<(), Fault> {
    let [from, mapped, to] = exchange(field)?;
    for stranger in strangers(field, to) {
        field.admits(stranger, mapped, from)?;
    }
    Ok(())
}

fn address_filtering(field: &Field) -> Result<(), Fault> {
    let [from, mapped, to] = exchange(field)?;
    let [other_port, other_host] = strangers(field, to);
    field.admits(other_port, mapped, from)?;
    field.refuses(other_host, mapped, from)
}

fn strict_filtering(field: &Field) -> Result<(), Fault> {
    let [from, mapped, to] = exchange(field)?;
    for stranger in strangers(field, to) {
        field.refuses(stranger, mapped, from)?;
        // Whom it sends to is not a stranger any more.
        field.udp_out(from, stranger)?;
        field.admits(stranger, mapped, from)?;
    }
    Ok(())
}

fn no_way_in(field: &Field) -> Result<(), Fault> {
    let [from, mapped, to] = exchange(field)?;
    let free = SocketAddr::new(mapped.ip(), if mapped.port() == 9 { 10 } else { 9 });
    for target in [from, free] {
        field.send(Side::Outside, &Spec::udp(to, target, b"answer"))?;
        let is = |seen: &Seen| seen.source == to.ip();
        field.nothing(Side::Inside, &format!("a datagram to {target}"), is)?;
    }
    Ok(())
}

/// The outside link is given the inside network, and another one again.
fn conflict(field: &Field) -> Result<(), Fault> {
    let passes = || field.udp_out(field.at(Side::Inside, false), field.at(Side::Outside, false)).map(drop);
    passes()?;
    let address = |what| field.bed.router.ip(&[], &format!("address {what} 10.1.0.129/26 dev wan0\n"));
    address("add")?;
    let refused = until_changed(|| {
        let before = field.drops("address_conflict")?;
        field.send(Side::Inside, &Spec::udp(field.at(Side::Inside, false), field.at(Side::Outside, false), b"x"))?;
        Ok(field.drops("address_conflict")? > before)
    });
    address("del")?;
    holds(refused?, || "connections were translated all the same".to_owned())?;
    let passes_again = until_changed(|| Ok(passes().is_ok()));
    holds(passes_again?, || "connections are still refused".to_owned())
}

/// Whether something is so within a few attempts: what the kernel says of addresses takes its time.
fn until_changed(attempt: impl Fn() -> Result<bool, Fault>) -> Result<bool, Fault> {
    for _ in 0..40 {
        if attempt()? {
            return Ok(true);
        }
        sleep(Duration::from_millis(50));
    }
    Ok(false)
}

fn hairpin(field: &Field) -> Result<(), Fault> {
    let (a, b) = (field.at(Side::Inside, false), SocketAddr::new(Side::Inside.host(false, 1), field.fresh()));
    let outside = field.at(Side::Outside, false);
    let (mapped_a, mapped_b) = (field.udp_out(a, outside)?, field.udp_out(b, outside)?);
    hairpins(field, [a, mapped_b, b], mapped_a)?;
    hairpins(field, [b, mapped_a, a], mapped_b)
}

/// A datagram from an inside host to another's external endpoint arrives there, from this source.
fn hairpins(field: &Field, [from, to, at]: [SocketAddr; 3], source: SocketAddr) -> Result<(), Fault> {
    field.send(Side::Inside, &Spec::udp(from, to, b"hello"))?;
    let seen = field.expect(Side::Inside, &format!("a datagram from {from} to {to}"), |seen| seen.to() == at)?;
    holds(seen.from() == source, || format!("it came from {} instead of {source}", seen.from()))
}

fn strict_hairpin(field: &Field) -> Result<(), Fault> {
    let (a, b) = (field.at(Side::Inside, false), SocketAddr::new(Side::Inside.host(false, 1), field.fresh()));
    let outside = field.at(Side::Outside, false);
    let (mapped_a, mapped_b) = (field.udp_out(a, outside)?, field.udp_out(b, outside)?);
    // The first one finds that the other has not sent; then both have.
    field.send(Side::Inside, &Spec::udp(a, mapped_b, b"hello"))?;
    field.nothing(Side::Inside, "a datagram from a stranger", |seen| seen.to() == b)?;
    hairpins(field, [b, mapped_a, a], mapped_b)?;
    hairpins(field, [a, mapped_b, b], mapped_a)
}

/// What a gateway for SIP would change.
const SIP: &[u8] = b"REGISTER sip:198.51.100.50 SIP/2.0\r\nVia: SIP/2.0/UDP 10.1.0.50:5060\r\n\
    Contact: <sip:a@10.1.0.50:5060>\r\nContent-Length: 0\r\n\r\n";

fn payloads(field: &Field, port: u16, payload: &[u8]) -> Result<(), Fault> {
    let from = field.at(Side::Inside, false);
    let to = SocketAddr::new(Side::Outside.host(false, 0), port);
    let seen = field.crosses(Side::Inside, &Spec::udp(from, to, payload), |seen| seen.to() == to)?;
    holds(seen.frame.ends_with(payload), || "it was changed".to_owned())
}

fn deterministic(field: &Field) -> Result<(), Fault> {
    let port = field.fresh();
    let hosts = [0, 1, 2, 3].map(|host| SocketAddr::new(Side::Inside.host(false, host), port));
    let mut mapped = Vec::new();
    for host in hosts {
        mapped.push(same_for_all(field, host)?);
    }
    // Beside many others.
    let (other, to) = (Side::Inside.host(false, 1), field.at(Side::Outside, false));
    for _ in 0..200 {
        field.send(Side::Inside, &Spec::udp(SocketAddr::new(other, field.fresh()), to, b"x"))?;
    }
    for (host, mapped) in hosts.into_iter().zip(mapped) {
        let again = same_for_all(field, host)?;
        holds(again == mapped, || format!("{host} was {mapped} and became {again}"))?;
        let stranger = field.at(Side::Outside, false);
        field.refuses(stranger, mapped, host)?;
    }
    Ok(())
}

fn errors_end_nothing(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let out = field.crosses(Side::Inside, &Spec::udp(from, to, b"question"), |seen| seen.to() == to)?;
    for (kind, code) in [(icmp4::UNREACHABLE, 0), (icmp4::UNREACHABLE, 3), (icmp4::TIME_EXCEEDED, 0)] {
        let error = error_about(field, Side::Outside, to.ip(), &out, Kind::plain(kind, code))?;
        field.send_frame(Side::Outside, error)?;
        let is = |seen: &Seen| seen.icmp() == Some((kind, code)) && seen.destination == from.ip();
        field.expect(Side::Inside, "the error", is)?;
    }
    field.admits(to, out.from(), from)?;
    let again = field.udp_out(from, to)?;
    holds(again == out.from(), || format!("{} became {again}", out.from()))
}

fn errors_of_routers(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let out = field.crosses(Side::Inside, &Spec::udp(from, to, b"question"), |seen| seen.to() == to)?;
    let router = "203.0.113.9".parse().map_err(|_| Fault("no address".to_owned()))?;
    let kind = Kind::plain(icmp4::TIME_EXCEEDED, 0);
    field.send_frame(Side::Outside, error_about(field, Side::Outside, router, &out, kind)?)?;
    let is = |seen: &Seen| seen.icmp() == Some((icmp4::TIME_EXCEEDED, 0)) && seen.destination == from.ip();
    let seen = field.expect(Side::Inside, "the error", is)?;
    holds(seen.source == router, || format!("its source became {}", seen.source))
}
