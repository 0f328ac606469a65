//! Clauses about prefix translation for IPv6.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use flowhop_wire::build::{L4, Spec};
use flowhop_wire::{icmp6, protocol};

use super::clause::{Clause, must};
use super::field::{Fault, Field, Seen, Side, holds};
use super::icmp::{Kind, error_about, quoted};
use super::policies::PREFIX;

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(6296, "2.6", &PREFIX, neutral, "exchanges prefixes without changing any transport checksum"),
    must(6296, "3.1", &PREFIX, both_ways, "maps addresses one to one, in both directions and without state of its own"),
    must(6296, "3.5", &PREFIX, unchanged, "changes addresses of the inside prefix alone, and no ports"),
    must(6296, "2.6", &PREFIX, errors, "translates ICMPv6 errors with the packet that they quote"),
    must(4291, "2.5.4", &PREFIX, every_protocol, "translates protocols whose checksum it does not know"),
];

/// The external twin of the inside host, by another way of counting: the sums of both are the same.
fn twin(inside: IpAddr) -> Result<Ipv6Addr, Fault> {
    let IpAddr::V6(inside) = inside else { return Err(Fault("no IPv6 address".to_owned())) };
    let sum = |words: &[u16]| words.iter().map(|word| u32::from(*word)).sum::<u32>() % 0xffff;
    let mut words = inside.segments();
    let before = sum(&words);
    words[..4].copy_from_slice(&[0x2001, 0xdb8, 0x77, 1]);
    // Behind prefixes longer than 48 bits the first word of the interface identifier is changed.
    let change = (before + 0xffff - sum(&words)) % 0xffff;
    words[4] = ((u32::from(words[4]) + change) % 0xffff) as u16;
    Ok(Ipv6Addr::from(words))
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
