//! Clauses about prefix translation for IPv6.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use flowhop_wire::build::{L4, Spec};
use flowhop_wire::{icmp6, protocol};

use super::clause::Level::Should;
use super::clause::{Clause, must, unmet};
use super::field::{Fault, Field, Seen, Side, holds};
use super::icmp::{Kind, error_about, quoted};
use super::policies::{PREFIX, SHORT_PREFIX, UNEVEN_PREFIX};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(6296, "2.6", &PREFIX, neutral, "exchanges prefixes without changing any transport checksum"),
    must(6296, "2.5", &PREFIX, both_ways, "maps addresses one to one, in both directions and without state of its own"),
    must(6296, "3.5", &PREFIX, words, "changes behind longer prefixes the first word that is not ffff"),
    must(
        6296,
        "3.4",
        &SHORT_PREFIX,
        short,
        "changes behind prefixes of 48 bits the subnet, and no interface identifier",
    ),
    must(6296, "3.7", &PREFIX, ones, "drops what has an interface identifier of all ones"),
    must(6296, "4.3", &PREFIX, hairpin, "connects inside hosts by their external addresses, source included"),
    must(6296, "6", &PREFIX, unchanged, "changes addresses of the inside prefix alone, and no ports"),
    must(6296, "2.6, errors", &PREFIX, errors, "translates ICMPv6 errors with the packet that they quote"),
    must(6296, "2.6, protocols", &PREFIX, every_protocol, "translates protocols whose checksum it does not know"),
    must(
        6296,
        "4.1",
        &UNEVEN_PREFIX,
        uneven,
        "takes prefixes of any two lengths up to 64 bits, beyond which section 3.7 has no mapping",
    ),
    must(6296, "3.7, zeros", &PREFIX, zeros, "drops what has an interface identifier of zero behind longer prefixes"),
    unmet(
        6296,
        "3.7, answer",
        Should,
        "tells who has such an identifier that it is prohibited (Destination Unreachable, code 1)",
        "it is told what others are told for whom there is no mapping, instead of Parameter Problem",
    ),
];

/// The external twin of the inside host, by another way of counting: the sums of both are the same.
fn twin(inside: IpAddr) -> Result<Ipv6Addr, Fault> {
    twin_with(inside, &[0x2001, 0xdb8, 0x77, 1])
}

/// The same with another external prefix.
fn twin_with(inside: IpAddr, prefix: &[u16]) -> Result<Ipv6Addr, Fault> {
    let IpAddr::V6(inside) = inside else { return Err(Fault("no IPv6 address".to_owned())) };
    let sum = |words: &[u16]| words.iter().map(|word| u32::from(*word)).sum::<u32>() % 0xffff;
    let mut words = inside.segments();
    let before = sum(&words);
    words[..prefix.len()].copy_from_slice(prefix);
    // Behind prefixes of 48 bits the subnet is changed, behind longer ones the first word that has room.
    let change = (before + 0xffff - sum(&words)) % 0xffff;
    let word = words.iter_mut().skip(prefix.len()).find(|word| **word != 0xffff);
    let word = word.ok_or_else(|| Fault("an identifier of all ones".to_owned()))?;
    *word = ((u32::from(*word) + change) % 0xffff) as u16;
    Ok(Ipv6Addr::from(words))
}

fn short(field: &Field) -> Result<(), Fault> {
    for host in 0..4 {
        let (from, to) = (SocketAddr::new(Side::Inside.host(true, host), field.fresh()), field.at(Side::Outside, true));
        let expected = twin_with(from.ip(), &[0x2001, 0xdb8, 0x77])?;
        let seen = field.udp_out(from, to)?;
        holds(seen.ip() == expected, || format!("{} became {} instead of {expected}", from.ip(), seen.ip()))?;
    }
    Ok(())
}

fn words(field: &Field) -> Result<(), Fault> {
    let to = field.at(Side::Outside, true);
    for text in
        ["fd00:0:0:1:ffff::5", "fd00:0:0:1:ffff:ffff:1:5", "fd00:0:0:1:ffff:ffff:ffff:5", "fd00:0:0:1:1:ffff::5"]
    {
        let from = SocketAddr::new(text.parse().map_err(|_| Fault("no address".to_owned()))?, field.fresh());
        let (seen, expected) = (field.udp_out(from, to)?, twin(from.ip())?);
        holds(seen.ip() == expected, || format!("{text} became {} instead of {expected}", seen.ip()))?;
    }
    Ok(())
}

/// Against the arithmetic of the subnet of all zeros that the shorter prefix is taken with.
fn uneven(field: &Field) -> Result<(), Fault> {
    for host in 0..4 {
        let from = SocketAddr::new(Side::Inside.host(true, host), field.fresh());
        let expected = twin_with(from.ip(), &[0x2001, 0xdb8, 0x77, 0])?;
        let to = field.at(Side::Outside, true);
        let seen = field.udp_out(from, to)?;
        holds(seen.ip() == expected, || format!("{} became {} instead of {expected}", from.ip(), seen.ip()))?;
        field.admits(to, seen, from)?;
    }
    Ok(())
}

fn ones(field: &Field) -> Result<(), Fault> {
    untranslatable(field, "fd00:0:0:1:ffff:ffff:ffff:ffff")
}

fn zeros(field: &Field) -> Result<(), Fault> {
    untranslatable(field, "fd00:0:0:1::")
}

fn untranslatable(field: &Field, address: &str) -> Result<(), Fault> {
    let address = address.parse().map_err(|_| Fault("no address".to_owned()))?;
    let (from, to) = (SocketAddr::new(address, field.fresh()), field.at(Side::Outside, true));
    let before = field.drops("nat_unsupported")?;
    field.send(Side::Inside, &Spec::udp(from, to, b"x"))?;
    field.nothing(Side::Outside, "what cannot be translated", |seen| seen.to() == to)?;
    holds(field.drops("nat_unsupported")? > before, || "it is not counted as nat_unsupported".to_owned())
}

fn hairpin(field: &Field) -> Result<(), Fault> {
    let [a, b] = [0, 1].map(|host| SocketAddr::new(Side::Inside.host(true, host), field.fresh()));
    let external = |inside: SocketAddr| Ok::<_, Fault>(SocketAddr::new(twin(inside.ip())?.into(), inside.port()));
    let (external_a, external_b) = (external(a)?, external(b)?);
    for (from, to, at, shown) in [(a, external_b, b, external_a), (b, external_a, a, external_b)] {
        field.send(Side::Inside, &Spec::udp(from, to, b"hello"))?;
        let seen = field.expect(Side::Inside, &format!("a datagram from {from} to {to}"), |seen| seen.to() == at)?;
        holds(seen.from() == shown, || format!("it came from {} instead of {shown}", seen.from()))?;
    }
    Ok(())
}

fn neutral(field: &Field) -> Result<(), Fault> {
    for host in 0..4 {
        let from = SocketAddr::new(Side::Inside.host(true, host), field.fresh());
        let to = field.at(Side::Outside, true);
        let spec = Spec::udp(from, to, b"x");
        let sent = field.frame(Side::Inside, &spec)?;
        let seen = field.crosses(Side::Inside, &spec, |seen| seen.to() == to)?;
        let expected = twin(from.ip())?;
        holds(seen.source == expected, || format!("{} became {} instead of {expected}", from.ip(), seen.source))?;
        let checksum = u16::from_be_bytes([sent[60], sent[61]]);
        holds(seen.word(6) == checksum, || format!("the checksum {checksum:#06x} became {:#06x}", seen.word(6)))?;
    }
    Ok(())
}

fn both_ways(field: &Field) -> Result<(), Fault> {
    for host in 0..2 {
        let inside = SocketAddr::new(Side::Inside.host(true, host), 80);
        let external = SocketAddr::new(twin(inside.ip())?.into(), 80);
        // From outside first: nothing has been sent out.
        let from = field.at(Side::Outside, true);
        field.send(Side::Outside, &Spec::udp(from, external, b"x"))?;
        field.expect(Side::Inside, "a datagram to the external prefix", |seen| seen.to() == inside)?;
        let answer = field.crosses(Side::Inside, &Spec::udp(inside, from, b"y"), |seen| seen.to() == from)?;
        holds(answer.from() == external, || format!("the answer came from {}", answer.from()))?;
    }
    Ok(())
}

fn unchanged(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, true));
    let seen = field.udp_out(from, to)?;
    holds(seen.port() == from.port(), || format!("port {} became {}", from.port(), seen.port()))?;
    // A rule of the filter, not the translation, keeps others out.
    let external = SocketAddr::new(twin(from.ip())?.into(), 81);
    field.send(Side::Outside, &Spec::udp(to, external, b"x"))?;
    field.nothing(Side::Inside, "what no rule allows", |seen| seen.source == to.ip() && seen.word(2) == 81)?;
    let four = field.at(Side::Inside, false);
    let seen = field.udp_out(four, field.at(Side::Outside, false))?;
    holds(seen == four, || format!("{four} became {seen}"))
}

fn errors(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, true));
    let seen = field.crosses(Side::Inside, &Spec::udp(from, to, b"x"), |seen| seen.to() == to)?;
    let router = Side::Outside.host(true, 1);
    let kind = Kind::plain(icmp6::TIME_EXCEEDED, 0);
    field.send_frame(Side::Outside, error_about(field, Side::Outside, router, &seen, kind)?)?;
    let is = |seen: &Seen| seen.icmp() == Some((icmp6::TIME_EXCEEDED, 0)) && seen.destination == from.ip();
    let inner = quoted(&field.expect(Side::Inside, "the error", is)?)?;
    holds((inner.from(), inner.to()) == (from, to), || format!("it quotes {} to {}", inner.from(), inner.to()))?;
    holds(inner.is_sound(), || "what it quotes has a wrong checksum".to_owned())
}

fn every_protocol(field: &Field) -> Result<(), Fault> {
    let (from, to) = (Side::Inside.host(true, 2), Side::Outside.host(true, 2));
    for number in [protocol::SCTP, protocol::GRE, 253] {
        let spec = Spec::new(from, to, L4::Raw { protocol: number }, &[0x5a; 40]);
        let seen = field.crosses(Side::Inside, &spec, |seen| seen.protocol == number && seen.destination == to)?;
        holds(seen.source == twin(from)?, || format!("protocol {number} came from {}", seen.source))?;
        holds(seen.l4() == [0x5a; 40], || format!("protocol {number} was changed"))?;
        let is = |seen: &Seen| seen.protocol == number && seen.destination == from;
        field.crosses(Side::Outside, &Spec::new(to, seen.source, L4::Raw { protocol: number }, &[1; 40]), is)?;
    }
    Ok(())
}
