//! Clauses about ICMP through translation.

use std::net::{IpAddr, SocketAddr};

use flowhop_wire::build::{Ip, L4, Spec, V4};
use flowhop_wire::{icmp4, protocol};

use super::clause::{Clause, may, must, should};
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::{MASQUERADE, OPEN, PAIRS};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(
        5508,
        "REQ-1",
        &MASQUERADE,
        echo,
        "lets echo requests out, with identifiers translated, and their replies back",
    ),
    should(5508, "REQ-1 a", &MASQUERADE, same_identifier, "maps an identifier to the same one towards all hosts"),
    should(5508, "REQ-3", &MASQUERADE, bad_checksum, "drops ICMP messages whose checksum is wrong silently"),
    should(5508, "REQ-3 a", &MASQUERADE, bad_quote, "drops errors that quote a header with a wrong checksum silently"),
    must(5508, "REQ-3 b", &MASQUERADE, quoted_options, "finds the transport header behind quoted IP options"),
    should(5508, "REQ-3 c", &MASQUERADE, quoted_checksum, "does not look at quoted transport checksums"),
    must(
        5508,
        "REQ-3 d",
        &MASQUERADE,
        extensions,
        "does not take padding and extensions of an error for the packet that it quotes, and passes them unaltered",
    ),
    must(
        5508,
        "REQ-4",
        &MASQUERADE,
        error_from_outside,
        "translates errors from outside with what they quote, leaving type and code, and drops those about no mapping",
    ),
    must(
        5508,
        "REQ-5",
        &OPEN,
        error_from_inside,
        "translates errors from inside with what they quote and with their source, and drops those about no mapping",
    ),
    must(
        5508,
        "REQ-6",
        &MASQUERADE,
        errors_about_echo,
        "passes errors about echo requests without refreshing or ending anything",
    ),
    must(5508, "REQ-7", &OPEN, hairpinned_error, "translates errors about packets between two inside hosts both ways"),
    must(
        5508,
        "REQ-7, Basic NAT",
        &PAIRS,
        hairpinned_query,
        "connects echo requests between inside hosts that have external addresses of their own",
    ),
    may(5508, "REQ-11", &MASQUERADE, others, "drops ICMP messages that are neither echo nor errors"),
];

/// Type, code and second word of an error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    kind: u8,
    code: u8,
    rest: [u8; 4],
}

impl Kind {
    /// With nothing more to say.
    pub(super) const fn plain(kind: u8, code: u8) -> Self {
        Self { kind, code, rest: [0; 4] }
    }

    /// With this second word.
    pub(super) const fn with(kind: u8, code: u8, rest: [u8; 4]) -> Self {
        Self { kind, code, rest }
    }
}

/// The port is not in use.
const NO_PORT: Kind = Kind::plain(icmp4::UNREACHABLE, 3);

/// An error from a side, by a router, about a packet that was seen there.
pub(super) fn error_about(field: &Field, side: Side, by: IpAddr, seen: &Seen, kind: Kind) -> Result<Vec<u8>, Fault> {
    error_with(field, side, by, seen.source, seen.frame.get(14..).unwrap_or_default(), kind)
}

/// An error to `to` that quotes these bytes.
fn error_with(field: &Field, side: Side, by: IpAddr, to: IpAddr, quote: &[u8], kind: Kind) -> Result<Vec<u8>, Fault> {
    let Kind { kind, code, rest } = kind;
    field.frame(side, &Spec::new(by, to, L4::Icmp { kind, code, rest }, quote))
}

/// The packet that an error quotes.
pub(super) fn quoted(error: &Seen) -> Result<Seen, Fault> {
    let ethertype: &[u8] = if error.source.is_ipv4() { &[8, 0] } else { &[0x86, 0xdd] };
    let frame = [&[0; 12][..], ethertype, error.l4().get(8..).unwrap_or_default()].concat();
    Seen::of(&frame).ok_or_else(|| Fault("it quotes no packet".to_owned()))
}

/// That an error of this kind arrives at a host; the packet that it quotes.
fn arrives(field: &Field, side: Side, at: IpAddr, kind: Kind) -> Result<(Seen, Seen), Fault> {
    let is = |seen: &Seen| seen.icmp() == Some((kind.kind, kind.code)) && seen.destination == at;
    let error = field.expect(side, "the error", is)?;
    let quoted = quoted(&error)?;
    Ok((error, quoted))
}

fn request(field: &Field, identifier: u16, to: IpAddr) -> Result<Seen, Fault> {
    let inside = Side::Inside.host(false, 0);
    let is = |seen: &Seen| seen.icmp() == Some((icmp4::ECHO_REQUEST, 0)) && seen.destination == to;
    field.crosses(Side::Inside, &Spec::echo_request(inside, to, identifier, 7, b"x"), is)
}

/// That the reply to a request that was seen comes back to its identifier.
fn reply(field: &Field, out: &Seen, identifier: u16) -> Result<(), Fault> {
    let inside = Side::Inside.host(false, 0);
    let is = |seen: &Seen| seen.icmp() == Some((icmp4::ECHO_REPLY, 0)) && seen.destination == inside;
    let reply = Spec::echo_reply(out.destination, out.source, out.word(4), 7, b"x");
    let back = field.crosses(Side::Outside, &reply, is)?;
    holds(back.word(4) == identifier, || format!("identifier {identifier} came back as {}", back.word(4)))
}

fn echo(field: &Field) -> Result<(), Fault> {
    let identifier = field.fresh();
    let out = request(field, identifier, Side::Outside.host(false, 0))?;
    holds(out.source != Side::Inside.host(false, 0), || "it was not translated".to_owned())?;
    reply(field, &out, identifier)
}

fn same_identifier(field: &Field) -> Result<(), Fault> {
    let identifier = field.fresh();
    let mut mapped = Vec::new();
    for host in 0..3 {
        mapped.push(request(field, identifier, Side::Outside.host(false, host))?.word(4));
    }
    mapped.dedup();
    holds(mapped.len() == 1, || format!("identifier {identifier} became {mapped:?}"))
}

/// A datagram that went out, as it was seen outside, and the endpoint that sent it.
fn datagram(field: &Field) -> Result<(SocketAddr, Seen), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let out = field.crosses(Side::Inside, &Spec::udp(from, to, b"question"), |seen| seen.to() == to)?;
    Ok((from, out))
}

fn bad_checksum(field: &Field) -> Result<(), Fault> {
    let (from, out) = datagram(field)?;
    let mut frame = error_about(field, Side::Outside, out.destination, &out, NO_PORT)?;
    frame[36] ^= 1;
    field.send_frame(Side::Outside, frame)?;
    field.nothing(Side::Inside, "the error", |seen| seen.icmp().is_some() && seen.destination == from.ip())?;
    field.nothing(Side::Outside, "an answer", |seen| seen.icmp().is_some() && seen.destination == out.destination)
}

fn bad_quote(field: &Field) -> Result<(), Fault> {
    let (from, out) = datagram(field)?;
    let mut quote = out.frame.get(14..).unwrap_or_default().to_vec();
    quote[10] ^= 0x55;
    let frame = error_with(field, Side::Outside, out.destination, out.source, &quote, NO_PORT)?;
    field.send_frame(Side::Outside, frame)?;
    field.nothing(Side::Inside, "the error", |seen| seen.icmp().is_some() && seen.destination == from.ip())
}

fn quoted_options(field: &Field) -> Result<(), Fault> {
    let (from, out) = datagram(field)?;
    let mut spec = Spec::udp(out.from(), out.to(), b"question").without_link();
    if let Ip::V4(ip) = spec.ip {
        spec.ip = Ip::V4(V4 { options: &[1, 1, 1, 1, 148, 4, 0, 0], ..ip });
    }
    let quote = spec.to_vec().map_err(|error| Fault(error.to_string()))?;
    let frame = error_with(field, Side::Outside, out.destination, out.source, &quote, NO_PORT)?;
    field.send_frame(Side::Outside, frame)?;
    let (_, inner) = arrives(field, Side::Inside, from.ip(), NO_PORT)?;
    holds((inner.from(), inner.to()) == (from, out.to()), || format!("it quotes {} to {}", inner.from(), inner.to()))
}

fn quoted_checksum(field: &Field) -> Result<(), Fault> {
    let (from, out) = datagram(field)?;
    let mut quote = out.frame.get(14..).unwrap_or_default().to_vec();
    quote[26] ^= 0x55;
    let frame = error_with(field, Side::Outside, out.destination, out.source, &quote, NO_PORT)?;
    field.send_frame(Side::Outside, frame)?;
    arrives(field, Side::Inside, from.ip(), NO_PORT).map(drop)
}

fn error_from_outside(field: &Field) -> Result<(), Fault> {
    let (from, out) = datagram(field)?;
    let router = Side::Outside.host(false, 1);
    for kind in [NO_PORT, Kind::plain(icmp4::UNREACHABLE, 13), Kind::plain(icmp4::TIME_EXCEEDED, 1)] {
        field.send_frame(Side::Outside, error_about(field, Side::Outside, router, &out, kind)?)?;
        let (error, inner) = arrives(field, Side::Inside, from.ip(), kind)?;
        holds(error.source == router, || format!("its source became {}", error.source))?;
        let right = (inner.from(), inner.to()) == (from, out.to());
        holds(right, || format!("it quotes {} to {}", inner.from(), inner.to()))?;
        holds(inner.is_sound(), || "what it quotes has wrong checksums".to_owned())?;
    }
    // About a port that nobody uses.
    let strange = Spec::udp(SocketAddr::new(out.source, 9), out.to(), b"question").without_link();
    let quote = strange.to_vec().map_err(|error| Fault(error.to_string()))?;
    field.send_frame(Side::Outside, error_with(field, Side::Outside, router, out.source, &quote, NO_PORT)?)?;
    let is = |seen: &Seen| seen.protocol == protocol::ICMP && seen.source == router;
    field.nothing(Side::Inside, "an error about nothing", is)
}

fn error_from_inside(field: &Field) -> Result<(), Fault> {
    let (from, out) = datagram(field)?;
    let stranger = SocketAddr::new(Side::Outside.host(false, 2), field.fresh());
    let seen = field.admits(stranger, out.from(), from)?;
    // By the host itself, and by a router in front of it, which has no mapping.
    for by in [from.ip(), Side::Inside.host(false, 3)] {
        let error = error_with(field, Side::Inside, by, seen.source, &seen.frame[14..], NO_PORT)?;
        field.send_frame(Side::Inside, error)?;
        let (error, inner) = arrives(field, Side::Outside, stranger.ip(), NO_PORT)?;
        holds(error.source == out.source, || format!("its source became {}", error.source))?;
        let right = (inner.from(), inner.to()) == (stranger, out.from());
        holds(right, || format!("it quotes {} to {}", inner.from(), inner.to()))?;
    }
    // About what never came in.
    let strange = Spec::udp(field.at(Side::Outside, false), from, b"answer").without_link();
    let quote = strange.to_vec().map_err(|error| Fault(error.to_string()))?;
    field.send_frame(Side::Inside, error_with(field, Side::Inside, from.ip(), seen.source, &quote, NO_PORT)?)?;
    field.nothing(Side::Outside, "an error about nothing", |seen| seen.protocol == protocol::ICMP)
}

fn errors_about_echo(field: &Field) -> Result<(), Fault> {
    let (identifier, inside) = (field.fresh(), Side::Inside.host(false, 0));
    let out = request(field, identifier, Side::Outside.host(false, 0))?;
    let flow = SocketAddr::new(inside, identifier);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let router = Side::Outside.host(false, 1);
    let kind = Kind::plain(icmp4::TIME_EXCEEDED, 0);
    field.send_frame(Side::Outside, error_about(field, Side::Outside, router, &out, kind)?)?;
    let (_, inner) = arrives(field, Side::Inside, inside, kind)?;
    holds(inner.word(4) == identifier, || format!("it quotes identifier {}", inner.word(4)))?;
    let flow = field.flow(flow)?.ok_or_else(|| Fault("the error ended the flow".to_owned()))?;
    let idle = flow["idle_s"].as_f64().unwrap_or(0.0);
    holds(idle >= 1.0, || format!("idle for {idle} s: the error refreshed it"))?;
    reply(field, &out, identifier)
}

fn hairpinned_query(field: &Field) -> Result<(), Fault> {
    let [a, b] = [0, 1].map(|host| Side::Inside.host(false, host));
    let external = |inside: IpAddr| match inside {
        IpAddr::V4(inside) => {
            let [.., last] = inside.octets();
            Ok(IpAddr::from([198, 51, 100, last - 48 + 128]))
        }
        IpAddr::V6(_) => Err(Fault("no IPv4 address".to_owned())),
    };
    let (external_a, external_b) = (external(a)?, external(b)?);
    let identifier = field.fresh();
    field.send(Side::Inside, &Spec::echo_request(a, external_b, identifier, 1, b"x"))?;
    let is = |kind: u8, at: IpAddr| move |seen: &Seen| seen.icmp() == Some((kind, 0)) && seen.destination == at;
    let seen = field.expect(Side::Inside, "the request", is(icmp4::ECHO_REQUEST, b))?;
    holds(seen.source == external_a, || format!("it came from {} instead of {external_a}", seen.source))?;
    field.send(Side::Inside, &Spec::echo_reply(b, external_a, seen.word(4), 1, b"x"))?;
    let seen = field.expect(Side::Inside, "the reply", is(icmp4::ECHO_REPLY, a))?;
    holds(seen.source == external_b, || format!("it came from {} instead of {external_b}", seen.source))?;
    holds(seen.word(4) == identifier, || format!("identifier {identifier} became {}", seen.word(4)))
}

fn extensions(field: &Field) -> Result<(), Fault> {
    // An extension of 8 bytes behind a quote of 128 (RFC 4884 section 7), whose transport checksum is right without it.
    const EXTENSION: [u8; 12] = [0x20, 0, 0x5c, 0xb8, 0, 8, 0xf7, 1, 1, 2, 3, 4];
    let (from, out) = datagram(field)?;
    let mut quote = out.frame.get(14..).unwrap_or_default().to_vec();
    quote.truncate(20 + 8 + b"question".len());
    quote.resize(128, 0);
    quote.extend_from_slice(&EXTENSION);
    let kind = Kind::with(icmp4::TIME_EXCEEDED, 0, [0, 32, 0, 0]);
    field.send_frame(Side::Outside, error_with(field, Side::Outside, out.destination, out.source, &quote, kind)?)?;
    let (error, inner) = arrives(field, Side::Inside, from.ip(), kind)?;
    holds(inner.from() == from, || format!("it quotes what {} sent", inner.from()))?;
    let length = error.l4().get(5).copied();
    holds(length == Some(32), || format!("the length of the quote became {length:?}"))?;
    holds(error.l4().get(8 + 128..) == Some(&EXTENSION), || "the extension was changed".to_owned())?;
    let padding = error.l4().get(8 + 36..8 + 128).unwrap_or_default();
    holds(padding == [0; 92], || "the padding was changed".to_owned())
}

fn hairpinned_error(field: &Field) -> Result<(), Fault> {
    let (a, b) = (field.at(Side::Inside, false), SocketAddr::new(Side::Inside.host(false, 1), field.fresh()));
    let outside = field.at(Side::Outside, false);
    let (mapped_a, mapped_b) = (field.udp_out(a, outside)?, field.udp_out(b, outside)?);
    field.send(Side::Inside, &Spec::udp(a, mapped_b, b"hello"))?;
    let seen = field.expect(Side::Inside, "a hairpinned datagram", |seen| seen.to() == b)?;
    let error = error_with(field, Side::Inside, b.ip(), seen.source, &seen.frame[14..], NO_PORT)?;
    field.send_frame(Side::Inside, error)?;
    let (error, inner) = arrives(field, Side::Inside, a.ip(), NO_PORT)?;
    holds(error.source == mapped_b.ip(), || format!("its source became {}", error.source))?;
    let right = (inner.from(), inner.to()) == (a, mapped_b);
    holds(right, || format!("it quotes {} to {} instead of {a}, {mapped_a} outside", inner.from(), inner.to()))
}

fn others(field: &Field) -> Result<(), Fault> {
    let (inside, outside) = (Side::Inside.host(false, 0), Side::Outside.host(false, 0));
    for kind in [icmp4::TIMESTAMP_REQUEST, icmp4::ROUTER_SOLICITATION, 17] {
        let l4 = L4::Icmp { kind, code: 0, rest: [0; 4] };
        field.send(Side::Inside, &Spec::new(inside, outside, l4, &[0; 12]))?;
        let is = |seen: &Seen| seen.icmp().is_some_and(|(seen, _)| seen == kind);
        field.nothing(Side::Outside, &format!("ICMP type {kind}"), is)?;
    }
    Ok(())
}
