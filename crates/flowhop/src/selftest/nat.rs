//! Clauses about translation.

use std::net::SocketAddr;

use flowhop_wire::build::{Checksum, Spec};
use flowhop_wire::protocol;

use super::clause::Clause;
use super::clause::How::Tried;
use super::clause::Level::Must;
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::MASQUERADE;

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    Clause {
        rfc: 4787,
        clause: "REQ-1",
        level: Must,
        does: "maps an inside endpoint to the same external one whatever it talks to",
        how: Tried(&MASQUERADE, endpoint_independent),
    },
    Clause {
        rfc: 4787,
        clause: "REQ-3",
        level: Must,
        does: "does not give one external endpoint to two inside ones",
        how: Tried(&MASQUERADE, no_overloading),
    },
    Clause {
        rfc: 4787,
        clause: "REQ-8",
        level: Must,
        does: "admits by default only whom the inside endpoint has sent to, by address and port",
        how: Tried(&MASQUERADE, filtering),
    },
    Clause {
        rfc: 768,
        clause: "checksum",
        level: Must,
        does: "leaves a UDP checksum of zero, which means none, as it is",
        how: Tried(&MASQUERADE, no_checksum),
    },
];

fn endpoint_independent(field: &Field) -> Result<(), Fault> {
    let from = field.at(Side::Inside, false);
    let first = field.udp_out(from, field.at(Side::Outside, false))?;
    holds(first.ip() != from.ip(), || "it was not translated".to_owned())?;
    for host in 0..3 {
        let to = SocketAddr::new(Side::Outside.host(false, host), field.fresh());
        let mapped = field.udp_out(from, to)?;
        holds(mapped == first, || format!("{first} towards one, {mapped} towards {to}"))?;
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

fn filtering(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mapped = field.udp_out(from, to)?;
    let other_port = SocketAddr::new(to.ip(), field.fresh());
    let other_host = SocketAddr::new(Side::Outside.host(false, 1), to.port());
    holds(field.udp_in(to, mapped, from)?, || "the answer did not come".to_owned())?;
    holds(!field.udp_in(other_port, mapped, from)?, || "another port was admitted".to_owned())?;
    holds(!field.udp_in(other_host, mapped, from)?, || "another host was admitted".to_owned())
}

fn no_checksum(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    for _ in 0..2 {
        field.send(Side::Inside, &Spec::udp(from, to, b"x").with_checksum(Checksum::Value(0)))?;
        let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == to;
        let seen = field.expect(Side::Outside, "the datagram", is)?;
        holds(seen.word(6) == 0, || format!("the checksum became {:#06x}", seen.word(6)))?;
    }
    Ok(())
}
