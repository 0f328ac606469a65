//! Clauses about fragments, and about what may stand in front of a transport header.

use std::net::SocketAddr;

use flowhop_wire::build::{Extension, Ip, Spec, V4, V6};
use flowhop_wire::{checksum, icmp6, protocol, tcp_flags};

use super::clause::Clause;
use super::clause::How::Tried;
use super::clause::Level::{Must, Should};
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::{MASQUERADE, PLAIN};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    Clause {
        rfc: 1858,
        clause: "3",
        level: Should,
        does: "drops first fragments that do not hold the whole TCP header, and fragments that reach into it",
        how: Tried(&PLAIN, tiny),
    },
    Clause {
        rfc: 4787,
        clause: "REQ-14",
        level: Must,
        does: "forwards fragments that come out of order, translated, once their datagram is complete",
        how: Tried(&MASQUERADE, out_of_order),
    },
    Clause {
        rfc: 5095,
        clause: "4.2",
        level: Should,
        does: "drops packets with a routing header of type 0",
        how: Tried(&PLAIN, routing_header),
    },
    Clause {
        rfc: 5722,
        clause: "3",
        level: Must,
        does: "drops all fragments of a datagram that overlaps itself",
        how: Tried(&PLAIN, overlapping),
    },
    Clause {
        rfc: 6946,
        clause: "4",
        level: Must,
        does: "forwards a packet that is whole in spite of a fragment header by itself",
        how: Tried(&PLAIN, atomic),
    },
    Clause {
        rfc: 7126,
        clause: "4.3",
        level: Should,
        does: "drops packets with a source route",
        how: Tried(&PLAIN, source_route),
    },
    Clause {
        rfc: 8200,
        clause: "4.2",
        level: Must,
        does: "drops packets with an unknown hop-by-hop option whose type says so, and answers if it says so",
        how: Tried(&PLAIN, unknown_option),
    },
];

const DATA: [u8; 72] = [7; 72];

/// The bytes `[from, to)` behind the IP header of a frame, as a fragment of it.
fn fragment(frame: &[u8], identification: u16, from: usize, to: usize) -> Vec<u8> {
    let v4 = frame[12..14] == [8, 0];
    let start = if v4 { 34 } else { 54 };
    let to = to.min(frame.len() - start);
    let more = u16::from(start + to < frame.len());
    let mut out = frame[..start].to_vec();
    if v4 {
        out[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
        out[18..20].copy_from_slice(&identification.to_be_bytes());
        out[20..22].copy_from_slice(&(from as u16 / 8 + 0x2000 * more).to_be_bytes());
        out[24..26].fill(0);
        let sum = checksum::finish(checksum::sum(&out[14..34]));
        out[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        out[18..20].copy_from_slice(&((8 + to - from) as u16).to_be_bytes());
        let next = std::mem::replace(&mut out[20], protocol::FRAGMENT);
        out.extend_from_slice(&[next, 0]);
        out.extend_from_slice(&(from as u16 | more).to_be_bytes());
        out.extend_from_slice(&u32::from(identification).to_be_bytes());
    }
    out.extend_from_slice(&frame[start + from..start + to]);
    out
}

/// A datagram of 80 bytes behind the IP header, from inside to a fresh port outside.
fn datagram(field: &Field, six: bool) -> Result<(SocketAddr, Vec<u8>), Fault> {
    let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
    Ok((to, field.frame(Side::Inside, &Spec::udp(from, to, &DATA))?))
}

/// Whether a frame is a fragment whose data begins with these bytes, sent to somebody.
fn is_piece(seen: &Seen, to: SocketAddr, data: &[u8]) -> bool {
    seen.destination == to.ip() && seen.frame.ends_with(data)
}

fn out_of_order(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let (to, frame) = datagram(field, six)?;
        for (from, end) in [(40, 80), (24, 40), (0, 24)] {
            field.send_frame(Side::Inside, fragment(&frame, 9, from, end))?;
        }
        let first = field.expect(Side::Outside, "the first fragment", |seen| {
            let at = if six { 64 } else { 36 };
            seen.destination == to.ip() && seen.frame.get(at..at + 2) == Some(&to.port().to_be_bytes())
        })?;
        if !six {
            let router = "198.51.100.1".parse().ok();
            holds(Some(first.source) == router, || format!("its source is {}", first.source))?;
        }
        for length in [16, 40] {
            let is = |seen: &Seen| seen.source == first.source && is_piece(seen, to, &DATA[..length]);
            field.expect(Side::Outside, "a later fragment", is)?;
        }
    }
    Ok(())
}

fn overlapping(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let (to, frame) = datagram(field, six)?;
        let before = field.drops("overlapping_fragment")?;
        for (from, end) in [(0, 40), (32, 64), (40, 80)] {
            field.send_frame(Side::Inside, fragment(&frame, 10, from, end))?;
        }
        field.nothing(Side::Outside, "a fragment", |seen| is_piece(seen, to, &DATA[..24]))?;
        let counted = field.drops("overlapping_fragment")? - before;
        holds(counted == 3, || format!("{counted} counted as overlapping_fragment"))?;
    }
    Ok(())
}

fn tiny(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
        let frame = field.frame(Side::Inside, &Spec::tcp(from, to, tcp_flags::SYN, &DATA))?;
        let before = field.drops("tiny_fragment")?;
        for (start, end) in [(0, 16), (8, 96)] {
            field.send_frame(Side::Inside, fragment(&frame, 11, start, end))?;
        }
        field.nothing(Side::Outside, "a fragment", |seen| seen.destination == to.ip() && seen.source == from.ip())?;
        let counted = field.drops("tiny_fragment")? - before;
        holds(counted == 2, || format!("{counted} counted as tiny_fragment"))?;
    }
    Ok(())
}

fn atomic(field: &Field) -> Result<(), Fault> {
    let (to, frame) = datagram(field, true)?;
    field.send_frame(Side::Inside, fragment(&frame, 12, 0, 40))?;
    field.send_frame(Side::Inside, fragment(&frame, 12, 0, 80))?;
    field.expect(Side::Outside, "the packet", |seen| is_piece(seen, to, &DATA))?;
    field.nothing(Side::Outside, "the other", |seen| is_piece(seen, to, &DATA[..32]))
}

fn with_options<'a>(from: SocketAddr, to: SocketAddr, options: &'a [u8]) -> Spec<'a> {
    let spec = Spec::udp(from, to, b"x");
    match spec.ip {
        Ip::V4(v4) => Spec { ip: Ip::V4(V4 { options, ..v4 }), ..spec },
        Ip::V6(_) => spec,
    }
}

fn with_extension<'a>(from: SocketAddr, to: SocketAddr, extensions: &'a [Extension<'a>]) -> Spec<'a> {
    let spec = Spec::udp(from, to, b"x");
    match spec.ip {
        Ip::V6(v6) => Spec { ip: Ip::V6(V6 { extensions, ..v6 }), ..spec },
        Ip::V4(_) => spec,
    }
}

/// That a packet is dropped for a reason.
fn dropped(field: &Field, spec: &Spec<'_>, from: SocketAddr, to: SocketAddr, reason: &str) -> Result<(), Fault> {
    let before = field.drops(reason)?;
    field.send(Side::Inside, spec)?;
    let is = |seen: &Seen| (seen.source, seen.destination) == (from.ip(), to.ip());
    field.nothing(Side::Outside, "the packet", is)?;
    let counted = field.drops(reason)? - before;
    holds(counted == 1, || format!("{counted} counted as {reason}"))
}

fn source_route(field: &Field) -> Result<(), Fault> {
    for kind in [131, 137] {
        let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
        let route = [kind, 7, 4, 198, 51, 100, 51, 0];
        dropped(field, &with_options(from, to, &route), from, to, "source_route")?;
    }
    Ok(())
}

fn routing_header(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, true));
    let header = [Extension { protocol: protocol::ROUTING, bytes: &[0; 8] }];
    dropped(field, &with_extension(from, to, &header), from, to, "routing_header_0")
}

fn unknown_option(field: &Field) -> Result<(), Fault> {
    for (kind, answered) in [(0x5e, false), (0x9e, true), (0xde, true)] {
        let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, true));
        let bytes = [0, 0, kind, 4, 0, 0, 0, 0];
        let header = [Extension { protocol: protocol::HOP_BY_HOP, bytes: &bytes }];
        dropped(field, &with_extension(from, to, &header), from, to, "unknown_option")?;
        let is = |seen: &Seen| {
            seen.icmp() == Some((icmp6::PARAMETER_PROBLEM, icmp6::UNKNOWN_OPTION)) && seen.destination == from.ip()
        };
        if answered {
            field.expect(Side::Inside, "the answer", is)?;
        } else {
            field.nothing(Side::Inside, "an answer", is)?;
        }
    }
    // One that is to be skipped passes.
    let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, true));
    let header = [Extension { protocol: protocol::HOP_BY_HOP, bytes: &[0, 0, 0x1e, 4, 0, 0, 0, 0] }];
    field.send(Side::Inside, &with_extension(from, to, &header))?;
    field.expect(Side::Outside, "the packet", |seen| (seen.source, seen.destination) == (from.ip(), to.ip()))?;
    Ok(())
}
