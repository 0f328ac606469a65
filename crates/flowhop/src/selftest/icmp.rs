//! Clauses about ICMP and ICMPv6.

use std::net::SocketAddr;

use flowhop_wire::build::{L4, Spec};
use flowhop_wire::{icmp4, protocol};

use super::clause::Clause;
use super::clause::How::Tried;
use super::clause::Level::{Must, Should};
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::MASQUERADE;

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    Clause {
        rfc: 5508,
        clause: "REQ-1",
        level: Must,
        does: "lets echo requests out, with identifiers translated, and their replies back",
        how: Tried(&MASQUERADE, echo),
    },
    Clause {
        rfc: 5508,
        clause: "REQ-3",
        level: Must,
        does: "drops ICMP messages whose checksum is wrong silently",
        how: Tried(&MASQUERADE, bad_checksum),
    },
    Clause {
        rfc: 5508,
        clause: "REQ-3 a",
        level: Should,
        does: "drops errors that quote an IPv4 header whose checksum is wrong silently",
        how: Tried(&MASQUERADE, bad_quote),
    },
    Clause {
        rfc: 5508,
        clause: "REQ-4",
        level: Must,
        does: "translates errors from outside with what they quote, and drops those about no mapping",
        how: Tried(&MASQUERADE, error_from_outside),
    },
];

fn echo(field: &Field) -> Result<(), Fault> {
    let (inside, outside) = (Side::Inside.host(false, 0), Side::Outside.host(false, 0));
    let identifier = field.fresh();
    field.send(Side::Inside, &Spec::echo_request(inside, outside, identifier, 7, b"x"))?;
    let is = |seen: &Seen| seen.icmp() == Some((icmp4::ECHO_REQUEST, 0)) && seen.destination == outside;
    let out = field.expect(Side::Outside, "the request", is)?;
    field.send(Side::Outside, &Spec::echo_reply(outside, out.source, out.word(4), 7, b"x"))?;
    let is = |seen: &Seen| seen.icmp() == Some((icmp4::ECHO_REPLY, 0)) && seen.destination == inside;
    let back = field.expect(Side::Inside, "the reply", is)?;
    holds(back.word(4) == identifier, || format!("identifier {identifier} came back as {}", back.word(4)))
}

/// An error from `by` about what was sent from `mapped` to `to`, as it was seen outside.
fn error_about(by: std::net::IpAddr, seen: &Seen) -> (Spec<'static>, Vec<u8>) {
    let quote = seen.frame.get(14..).unwrap_or_default().to_vec();
    let l4 = L4::Icmp { kind: icmp4::UNREACHABLE, code: 3, rest: [0; 4] };
    (Spec::new(by, seen.source, l4, &[]), quote)
}

fn bad_checksum(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    field.udp_out(from, to)?;
    field.send(Side::Inside, &Spec::udp(from, to, b"again"))?;
    let out = field.expect(Side::Outside, "the datagram", |seen| seen.to() == to)?;
    let (spec, quote) = error_about(to.ip(), &out);
    let mut frame = field.frame(Side::Outside, &Spec { payload: &quote, ..spec })?;
    frame[36] ^= 1;
    field.send_frame(Side::Outside, frame)?;
    field.nothing(Side::Inside, "the error", |seen| seen.icmp().is_some() && seen.destination == from.ip())
}

fn bad_quote(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    field.send(Side::Inside, &Spec::udp(from, to, b"question"))?;
    let out = field.expect(Side::Outside, "the datagram", |seen| seen.to() == to)?;
    let (spec, mut quote) = error_about(to.ip(), &out);
    let before = field.drops("icmp_quote")?;
    quote[8] ^= 1;
    field.send(Side::Outside, &Spec { payload: &quote, ..spec })?;
    field.nothing(Side::Inside, "the error", |seen| seen.icmp().is_some() && seen.destination == from.ip())?;
    let counted = field.drops("icmp_quote")? - before;
    holds(counted == 1, || format!("{counted} counted as icmp_quote"))
}

fn error_from_outside(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    field.send(Side::Inside, &Spec::udp(from, to, b"question"))?;
    let out = field.expect(Side::Outside, "the datagram", |seen| seen.to() == to)?;
    let router = Side::Outside.host(false, 1);
    let (spec, quote) = error_about(router, &out);
    field.send(Side::Outside, &Spec { payload: &quote, ..spec })?;
    let is = |seen: &Seen| seen.icmp() == Some((icmp4::UNREACHABLE, 3)) && seen.destination == from.ip();
    let error = field.expect(Side::Inside, "the error", is)?;
    holds(error.source == router, || format!("its source became {}", error.source))?;
    let inner = error.l4().get(8..).unwrap_or_default();
    let quoted = [&[0; 12][..], &[8, 0], inner].concat();
    let quoted = Seen::of(&quoted).ok_or_else(|| Fault("it quotes no packet".to_owned()))?;
    holds((quoted.from(), quoted.to()) == (from, to), || format!("it quotes {} to {}", quoted.from(), quoted.to()))?;
    // About a port that nobody uses.
    let strange = Spec::udp(SocketAddr::new(out.source, 9), to, b"question").without_link();
    let quote = strange.to_vec().map_err(|error| Fault(error.to_string()))?;
    field.send(Side::Outside, &Spec { payload: &quote, ..spec })?;
    let is = |seen: &Seen| seen.protocol == protocol::ICMP && seen.source == router;
    field.nothing(Side::Inside, "an error about nothing", is)
}
