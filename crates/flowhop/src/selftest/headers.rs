//! Clauses about options of IPv4 and extension headers of IPv6.

use std::net::{IpAddr, SocketAddr};

use flowhop_wire::build::{Extension, Ip, Spec};
use flowhop_wire::{icmp4, icmp6, protocol};

use super::clause::{Clause, may, must, should};
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::{LOOSE as LOOSE_SOURCES, OPTIONS, PLAIN, RECORDING};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    should(
        7126,
        "4.1, 4.2",
        &PLAIN,
        padding,
        "does not drop packets because of padding between options or behind them",
    ),
    should(7126, "4.12 to 4.14", &LOOSE_SOURCES, labels, "passes security labels, unaltered, unless `[ip]` drops them"),
    must(
        1812,
        "5.3.13.1",
        &PLAIN,
        |field| passes(field, &UNKNOWN),
        "passes unknown options unchanged unless `[ip]` drops them",
    ),
    must(1812, "5.3.13.5", &RECORDING, routes, "records its address in record route where `[ip]` says \"record\""),
    must(
        1812,
        "5.3.13.6",
        &RECORDING,
        times,
        "records the time, of no standard clock, with its address or where its address is the next, where `[ip]` says \"record\"",
    ),
    may(791, "3.1", &PLAIN, malformed, "drops packets whose options run over or below their length"),
    must(1812, "4.3.3.5", &PLAIN, malformed, "answers malformed options with Parameter Problem, which says where"),
    must(1812, "5.2.2, truncated", &PLAIN, truncated, "discards what is shorter than its total length"),
    should(
        1812,
        "5.2.2, truncated",
        &PLAIN,
        truncated,
        "answers what is shorter than its total length with Parameter Problem, which points to that",
    ),
    should(7126, "4.3", &PLAIN, |field| dropped(field, &LOOSE), "drops loose source routes"),
    should(7126, "4.4", &PLAIN, |field| dropped(field, &STRICT), "drops strict source routes"),
    should(7126, "4.5", &PLAIN, |field| dropped(field, &RECORD), "drops record route unless `[ip]` lets it pass"),
    should(7126, "4.7", &PLAIN, |field| dropped(field, &TIMESTAMP), "drops timestamps unless `[ip]` lets them pass"),
    should(
        7126,
        "4.6 to 4.20",
        &PLAIN,
        obsolete,
        "drops the options of sections 4.6, 4.9 to 4.11 and 4.15 to 4.20 unless `[ip]` lets obsolete ones pass",
    ),
    should(
        7126,
        "4.22",
        &PLAIN,
        experiments,
        "drops packets with options for experiments unless `[ip]` lets them pass",
    ),
    should(
        7126,
        "4.6 to 4.23, keys",
        &OPTIONS,
        allowed,
        "passes record route, timestamps, obsolete and experimental options where `[ip]` says so, and drops others",
    ),
    should(7126, "4.5", &RECORDING, routes, "processes record route where `[ip]` says \"record\""),
    should(
        7126,
        "4.21",
        &PLAIN,
        |field| passes(field, &QUICK_START),
        "ignores Quick-Start by default, as any unknown option",
    ),
    should(7126, "4.8", &PLAIN, router_alert, "ignores router alert by default"),
    should(7126, "4.8, key", &OPTIONS, no_router_alert, "drops packets with router alert where `[ip]` says so"),
    must(2113, "2.2", &PLAIN, router_alert, "passes packets with router alert on, as nothing here listens to them"),
    should(6398, "5", &PLAIN, router_alert, "ignores the presence of router alert, of both families"),
    may(6398, "5, filter", &OPTIONS, no_router_alert, "drops packets with router alert where `[ip]` says so"),
    should(5095, "4.1", &PLAIN, routing_zero, "does not forward packets with a routing header of type 0"),
    must(
        5095,
        "4.2",
        &PLAIN,
        routing_other,
        "drops routing headers of type 0 and passes others unless `[ip]` drops them",
    ),
    must(8200, "4.2", &PLAIN, unknown_options, "treats unknown hop-by-hop options as their type says"),
    should(8200, "4, order", &PLAIN, hop_by_hop_first, "drops hop-by-hop options elsewhere than first"),
    must(
        8200,
        "4",
        &PLAIN,
        extension_headers,
        "finds the transport header behind extension headers, and leaves these alone",
    ),
];

const LOOSE: [u8; 8] = [131, 7, 4, 198, 51, 100, 53, 0];
const STRICT: [u8; 8] = [137, 7, 4, 198, 51, 100, 53, 0];
const RECORD: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];
const TIMESTAMP: [u8; 8] = [68, 8, 5, 0, 0, 0, 0, 0];
const UNKNOWN: [u8; 8] = [150, 4, 0, 0, 1, 1, 1, 0];
const QUICK_START: [u8; 8] = [25, 8, 0, 0, 0, 0, 0, 0];
const SECURITY: [u8; 12] = [130, 11, 0xab, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ALERT: [u8; 4] = [148, 4, 0, 0];

/// A datagram with these options.
fn with_options<'a>(from: SocketAddr, to: SocketAddr, options: &'a [u8]) -> Spec<'a> {
    let mut spec = Spec::udp(from, to, b"x");
    if let Ip::V4(ip) = &mut spec.ip {
        ip.options = options;
    }
    spec
}

/// That packets with these options pass unaltered, as the first of a flow and later.
fn passes(field: &Field, options: &[u8]) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    for _ in 0..3 {
        let seen = field.crosses(Side::Inside, &with_options(from, to, options), |seen| seen.to() == to)?;
        let found = seen.frame.get(34..seen.at).unwrap_or_default();
        holds(found == options, || format!("options {options:?} became {found:?}"))?;
        field.udp_out(from, to)?;
    }
    Ok(())
}

/// That packets with these options do not, neither as the first nor of a flow that is known; nobody is told.
fn dropped(field: &Field, options: &[u8]) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    for _ in 0..2 {
        field.send(Side::Inside, &with_options(from, to, options))?;
        field.nothing(Side::Outside, &format!("a packet with options {options:?}"), |seen| seen.to() == to)?;
        field.udp_out(from, to)?;
    }
    field.nothing(Side::Inside, "an answer", |seen| seen.icmp().is_some() && seen.destination == from.ip())
}

fn padding(field: &Field) -> Result<(), Fault> {
    passes(field, &[1, 1, 1, 0])?;
    passes(field, &[1, 1, 1, 1, 0, 0, 0, 0])
}

/// The host beyond complains about a label of a domain that it does not know: not where answers are looked for.
fn labels(field: &Field) -> Result<(), Fault> {
    passes(field, &SECURITY)?;
    passes(field, &[133, 4, 1, 2])?;
    passes(field, &[134, 10, 0, 0, 0, 1, 1, 4, 0, 1, 0, 0])
}

fn obsolete(field: &Field) -> Result<(), Fault> {
    for kind in [136, 11, 12, 82, 142, 145, 147, 149, 151, 152] {
        dropped(field, &[kind, 4, 0, 1])?;
    }
    Ok(())
}

fn experiments(field: &Field) -> Result<(), Fault> {
    // RFC 4727 section 3.1: of each class, copied and not.
    [30, 94, 158, 222].into_iter().try_for_each(|kind| dropped(field, &[kind, 4, 0, 1]))
}

/// That a frame is dropped, and its sender told where in the header the problem is.
fn told(field: &Field, frame: Vec<u8>, from: SocketAddr, to: SocketAddr, pointer: u8) -> Result<(), Fault> {
    field.send_frame(Side::Inside, frame)?;
    let is = |seen: &Seen| seen.icmp() == Some((icmp4::PARAMETER_PROBLEM, 0)) && seen.destination == from.ip();
    let error = field.expect(Side::Inside, "Parameter Problem", is)?;
    let found = error.long(4) >> 24;
    holds(found == u32::from(pointer), || format!("it points to byte {found} instead of {pointer}"))?;
    field.nothing(Side::Outside, "what is malformed", |seen| seen.to() == to)
}

fn malformed(field: &Field) -> Result<(), Fault> {
    for (options, pointer) in [([148, 0, 0, 0], 21), ([148, 1, 0, 0], 21), ([148, 9, 0, 0], 21), ([1, 1, 1, 148], 23)] {
        let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
        for _ in 0..2 {
            told(field, field.frame(Side::Inside, &with_options(from, to, &options))?, from, to, pointer)?;
            field.udp_out(from, to)?;
        }
    }
    Ok(())
}

fn truncated(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    for _ in 0..2 {
        let mut frame = field.frame(Side::Inside, &Spec::udp(from, to, &[7; 100]))?;
        frame.truncate(frame.len() - 10);
        told(field, frame, from, to, 2)?;
        field.udp_out(from, to)?;
    }
    Ok(())
}

/// What options look like behind the router, as those of the first packet of a flow and of a later one.
fn arrives_with(field: &Field, options: &[u8]) -> Result<Vec<u8>, Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mut last = Vec::new();
    for _ in 0..2 {
        let seen = field.crosses(Side::Inside, &with_options(from, to, options), |seen| seen.to() == to)?;
        last = seen.frame.get(34..seen.at).unwrap_or_default().to_vec();
        field.udp_out(from, to)?;
    }
    Ok(last)
}

/// The router's address on the outside link.
const OUTSIDE: [u8; 4] = [198, 51, 100, 1];

fn routes(field: &Field) -> Result<(), Fault> {
    let once = arrives_with(field, &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    let expected = [&[7, 11, 8][..], &OUTSIDE, &[0; 5]].concat();
    holds(once == expected, || format!("the first hop is recorded as {once:?}"))?;
    let twice = arrives_with(field, &once)?;
    let expected = [&[7, 11, 12][..], &OUTSIDE, &OUTSIDE, &[0]].concat();
    holds(twice == expected, || format!("the second hop is recorded as {twice:?}"))?;
    passes(field, &twice)
}

fn times(field: &Field) -> Result<(), Fault> {
    let is_time = |time: Option<&u8>| time.is_some_and(|byte| byte & 0x80 != 0);
    let alone = arrives_with(field, &TIMESTAMP)?;
    holds(alone.starts_with(&[68, 8, 9, 0]) && is_time(alone.get(4)), || format!("a time became {alone:?}"))?;
    let with_address = arrives_with(field, &[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0])?;
    let expected = [&[68, 12, 13, 1][..], &OUTSIDE].concat();
    let right = with_address.starts_with(&expected) && is_time(with_address.get(8));
    holds(right, || format!("an address and a time became {with_address:?}"))?;
    // RFC 1812: any address of the router, not only that of the link.
    let chosen = arrives_with(field, &[68, 12, 5, 3, 10, 1, 0, 1, 0, 0, 0, 0])?;
    let right = chosen.starts_with(&[68, 12, 13, 3, 10, 1, 0, 1]) && is_time(chosen.get(8));
    holds(right, || format!("a time that was asked of it became {chosen:?}"))?;
    passes(field, &[68, 12, 5, 3, 10, 1, 0, 2, 0, 0, 0, 0])
}

fn allowed(field: &Field) -> Result<(), Fault> {
    let obsolete = [136, 4, 0, 1, 0, 0, 0, 0];
    let experiment = [158, 4, 0, 1, 0, 0, 0, 0];
    [RECORD, TIMESTAMP, obsolete, experiment].iter().try_for_each(|options| passes(field, options))?;
    dropped(field, &UNKNOWN)?;
    // Source routes never.
    dropped(field, &LOOSE)
}

/// A hop-by-hop header with router alert.
const ALERT_SIX: [u8; 8] = [0, 0, 5, 2, 0, 0, 1, 0];

fn router_alert(field: &Field) -> Result<(), Fault> {
    passes(field, &ALERT)?;
    reaches(field, &[(protocol::HOP_BY_HOP, &ALERT_SIX)])
        .and_then(|reached| holds(reached, || "it was dropped".to_owned()))
}

fn no_router_alert(field: &Field) -> Result<(), Fault> {
    dropped(field, &ALERT)?;
    reaches(field, &[(protocol::HOP_BY_HOP, &ALERT_SIX)]).and_then(|reached| holds(!reached, || "it passed".to_owned()))
}

/// A datagram with these extension headers between fresh endpoints.
fn send_with(field: &Field, headers: &[(u8, &[u8])]) -> Result<(SocketAddr, SocketAddr), Fault> {
    let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, true));
    let extensions: Vec<_> = headers.iter().map(|(protocol, bytes)| Extension { protocol: *protocol, bytes }).collect();
    let mut spec = Spec::udp(from, to, b"x");
    if let Ip::V6(ip) = &mut spec.ip {
        ip.extensions = &extensions;
    }
    let frame = field.frame(Side::Inside, &spec)?;
    field.send_frame(Side::Inside, frame)?;
    Ok((from, to))
}

/// Whether a datagram with these extension headers gets through, with all of them.
fn reaches(field: &Field, headers: &[(u8, &[u8])]) -> Result<bool, Fault> {
    let (from, to) = send_with(field, headers)?;
    let all: usize = headers.iter().map(|(_, bytes)| bytes.len()).sum();
    let is = |seen: &Seen| {
        let transport = seen.frame.get(54 + all..).unwrap_or_default();
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        seen.destination == to.ip() && transport.starts_with(&ports)
    };
    Ok(field.nothing(Side::Outside, "it", is).is_err())
}

fn routing_zero(field: &Field) -> Result<(), Fault> {
    let address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0x53];
    for left in [0, 1] {
        let header = [&[0, 2, 0, left, 0, 0, 0, 0][..], &address].concat();
        let reached = reaches(field, &[(protocol::ROUTING, &header)])?;
        holds(!reached, || format!("one with {left} segments left passed"))?;
    }
    Ok(())
}

/// A routing header of type 2, as Mobile IPv6 has it, whose address is the packet's own destination.
fn routing_other(field: &Field) -> Result<(), Fault> {
    routing_zero(field)?;
    let IpAddr::V6(address) = Side::Outside.host(true, 0) else { return Err(Fault("no IPv6 address".to_owned())) };
    let header = [&[0, 2, 2, 1, 0, 0, 0, 0][..], &address.octets()].concat();
    let reached = reaches(field, &[(protocol::ROUTING, &header)])?;
    holds(reached, || "one of type 2 was dropped".to_owned())
}

fn unknown_options(field: &Field) -> Result<(), Fault> {
    // The upper two bits of a type: skip, discard, discard and tell, discard and tell unless it went to many.
    for (kind, passes, tells) in [(0x1e, true, false), (0x5e, false, false), (0x9e, false, true), (0xde, false, true)] {
        let header = [0, 0, kind, 4, 0, 0, 0, 0];
        let reached = reaches(field, &[(protocol::HOP_BY_HOP, &header)])?;
        holds(reached == passes, || {
            format!("type {kind:#x}: {}", if reached { "it passed" } else { "it was dropped" })
        })?;
        let is = |seen: &Seen| seen.icmp() == Some((icmp6::PARAMETER_PROBLEM, icmp6::UNKNOWN_OPTION));
        if tells {
            let error = field.expect(Side::Inside, "Parameter Problem", is)?;
            holds(error.long(4) == 42, || format!("it points to byte {}", error.long(4)))?;
        } else {
            field.nothing(Side::Inside, "Parameter Problem", is)?;
        }
    }
    Ok(())
}

/// A destination options header of padding.
const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

fn hop_by_hop_first(field: &Field) -> Result<(), Fault> {
    let first = [(protocol::HOP_BY_HOP, &PADDING[..]), (protocol::DESTINATION_OPTIONS, &PADDING)];
    let [a, b] = first;
    holds(reaches(field, &first)?, || "hop-by-hop options that are first were dropped".to_owned())?;
    holds(!reaches(field, &[b, a])?, || "hop-by-hop options that are second passed".to_owned())
}

fn extension_headers(field: &Field) -> Result<(), Fault> {
    for number in 1..4 {
        let headers: Vec<_> = (0..number).map(|_| (protocol::DESTINATION_OPTIONS, &PADDING[..])).collect();
        holds(reaches(field, &headers)?, || format!("{number} headers were not passed over"))?;
    }
    Ok(())
}
