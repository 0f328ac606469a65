//! Clauses about what a router does with what it forwards, and with what it cannot.

use std::net::SocketAddr;

use flowhop_wire::build::{Ip, Spec};
use flowhop_wire::{icmp4, icmp6};

use super::clause::{Clause, must, should};
use super::field::{Fault, Field, Seen, Side, holds, right_header};
use super::icmp::quoted;
use super::policies::{MASQUERADE, PLAIN};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(1812, "5.2.5", &MASQUERADE, reserved_bit, "forwards packets whose reserved header bit is set, with that bit"),
    must(
        1812,
        "5.3.4",
        &PLAIN,
        |field| many(field, false),
        "does not forward packets that came in frames for many stations, nor answers them",
    ),
    must(
        4443,
        "2.4 e, frames",
        &PLAIN,
        |field| many(field, true),
        "sends no error about packets that came in frames for many stations, and does not forward them",
    ),
    must(1812, "5.3.3.3", &MASQUERADE, precedence, "forwards packets of every precedence, and leaves it as it is"),
    must(
        1812,
        "5.2.7.1, routes",
        &PLAIN,
        |field| no_route(field, false, (icmp4::UNREACHABLE, 0)),
        "answers what it has no route for with code 0",
    ),
    should(
        4443,
        "3.1, routes",
        &PLAIN,
        |field| no_route(field, true, (icmp6::UNREACHABLE, 0)),
        "answers what it has no route for with code 0",
    ),
    must(6864, "4.3", &MASQUERADE, may_be_cut, "leaves the bit DF as it is, set or not"),
];

/// A frame that carries a datagram as an IPv4 header and Ethernet header can have it, changed before it is sent.
fn altered(field: &Field, to: SocketAddr, from: SocketAddr, change: impl Fn(&mut [u8])) -> Result<Seen, Fault> {
    let mut frame = field.frame(Side::Inside, &Spec::udp(from, to, b"x"))?;
    change(&mut frame);
    right_header(&mut frame);
    field.send_frame(Side::Inside, frame)?;
    field.expect(Side::Outside, "the packet", |seen| seen.to() == to)
}

fn reserved_bit(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    for set in [true, false, true] {
        let seen = altered(field, to, from, |frame| frame[20] |= if set { 0x80 } else { 0 })?;
        holds((seen.frame[20] & 0x80 != 0) == set, || format!("the flags became {:#x}", seen.frame[20]))?;
    }
    Ok(())
}

fn precedence(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    for precedence in 0..8 {
        let seen = altered(field, to, from, |frame| frame[15] = precedence << 5)?;
        holds(seen.frame[15] == precedence << 5, || format!("{precedence} became {:#x}", seen.frame[15]))?;
    }
    Ok(())
}

fn may_be_cut(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    for df in [true, false, true, false] {
        let mut spec = Spec::udp(from, to, b"x");
        if let Ip::V4(ip) = &mut spec.ip {
            (ip.df, ip.id) = (df, field.fresh());
        }
        let seen = field.crosses(Side::Inside, &spec, |seen| seen.to() == to)?;
        holds((seen.frame[20] & 0x40 != 0) == df, || format!("the flags became {:#x}", seen.frame[20]))?;
    }
    Ok(())
}

fn many(field: &Field, six: bool) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
    // Of a flow that is known, as of a new one, and such as would be answered.
    field.udp_out(from, to)?;
    for station in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
        for (to, ttl) in [(to, 64), (field.at(Side::Outside, six), 64), (to, 1)] {
            let mut frame = field.frame(Side::Inside, &Spec::udp(from, to, b"to many").with_ttl(ttl))?;
            frame[..6].copy_from_slice(&station);
            field.send_frame(Side::Inside, frame)?;
            let what = format!("a packet in a frame to {station:x?}");
            field.nothing(Side::Outside, &what, |seen| seen.frame.ends_with(b"to many"))?;
            let is = |seen: &Seen| seen.icmp().is_some() && seen.destination == from.ip();
            field.nothing(Side::Inside, &format!("an answer to {what}"), is)?;
        }
    }
    Ok(())
}

fn no_route(field: &Field, six: bool, expected: (u8, u8)) -> Result<(), Fault> {
    let nowhere = if six { "2001:db8:5555::1" } else { "192.0.2.77" };
    let nowhere = nowhere.parse().map_err(|_| Fault("no address".to_owned()))?;
    let (from, to) = (field.at(Side::Inside, six), SocketAddr::new(nowhere, field.fresh()));
    field.send(Side::Inside, &Spec::udp(from, to, b"x"))?;
    let is = |seen: &Seen| seen.icmp() == Some(expected) && seen.destination == from.ip();
    let inner = quoted(&field.expect(Side::Inside, "the error", is)?)?;
    holds((inner.from(), inner.to()) == (from, to), || format!("it quotes {} to {}", inner.from(), inner.to()))
}
