//! Clauses about stateful translation from IPv6 to IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use flowhop_wire::build::{Extension, Ip, L4, Spec, V6};
use flowhop_wire::tcp_flags::{ACK, SYN};
use flowhop_wire::{icmp4, icmp6, protocol};

use super::clause::{Clause, may, must, should};
use super::field::{Fault, Field, Seen, Side, holds};
use super::fragments::{datagram, gathered};
use super::icmp::{Kind, error_about, quoted};
use super::policies::{NAT64, NAT64_NARROW};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(6052, "2.2", &NAT64, every_length, "reads IPv4 addresses behind prefixes of 32, 40, 48, 56, 64 and 96 bits"),
    must(6052, "2.2", &NAT64, reserved_octet, "translates no address whose bits 64 to 71 are not zero"),
    must(6052, "2.3", &NAT64, suffix, "does not look at what is behind an embedded address"),
    must(6052, "3.1", &NAT64, not_global, "drops what goes to private addresses behind the well-known prefix"),
    may(6052, "3.1", &NAT64, private, "translates to private addresses behind a prefix of the network's own"),
    must(6146, "3.5.1", &NAT64, udp, "translates UDP both ways, by a binding for each IPv6 endpoint"),
    must(6146, "3.5.1", &NAT64, one_binding, "uses one IPv4 endpoint towards all destinations"),
    must(6146, "3.5.2", &NAT64, tcp, "translates TCP both ways, and follows its state"),
    must(6146, "3.5.3", &NAT64, echo, "translates ICMP queries both ways, by their identifiers"),
    must(6146, "3.5", &NAT64, own_prefix, "drops packets whose source is behind the prefix"),
    should(6146, "3.4", &NAT64, other_protocols, "translates neither other protocols nor lets them pass"),
    must(6146, "3.4", &NAT64, fragments, "translates datagrams in fragments, both ways and in any order"),
    must(6146, "3.4", &NAT64, no_checksum, "computes the checksum of UDP from IPv4 that has none"),
    must(6146, "3.8", &NAT64, hairpin, "lets two IPv6 hosts meet at an IPv4 endpoint of one of them"),
    may(6146, "3.5.1", &NAT64, filtered, "lets others in by the filtering of the policy, seen behind the prefix"),
    must(7915, "4.1", &NAT64, headers_up, "takes over traffic class and decreases the hop limit towards IPv6"),
    must(7915, "5.1", &NAT64, headers_down, "takes over traffic class and decreases the time to live towards IPv4"),
    must(7915, "5.1", &NAT64, marked, "marks what is longer than 1260 bytes \"don't fragment\", and nothing shorter"),
    must(7915, "5.1", &NAT64, extension_headers, "leaves extension headers behind"),
    must(7915, "4", &NAT64, cut_up, "cuts what may be cut to 1280 bytes towards IPv6"),
    must(7915, "4.2", &NAT64, errors_up, "translates ICMP errors to ICMPv6 ones, with the packet that they quote"),
    must(7915, "4.2", &NAT64, silent_up, "drops ICMP messages that ICMPv6 has no counterpart of"),
    must(7915, "5.2", &NAT64, errors_down, "translates ICMPv6 errors to ICMP ones, with the packet that they quote"),
    must(7915, "4.1", &NAT64, router, "shows IPv4 routers by their own addresses, so that routes can be traced"),
    must(7915, "4.2", &NAT64, mtu_up, "adds the difference of the headers to the MTU that a router tells"),
    must(
        7915,
        "5",
        &NAT64_NARROW,
        too_big,
        "tells IPv6 hosts the MTU of the IPv4 link with the difference of the headers",
    ),
    should(7915, "4.4", &NAT64, own_error, "answers in the family of the sender"),
];

const WELL_KNOWN: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

fn embedded(address: IpAddr) -> Result<IpAddr, Fault> {
    let IpAddr::V4(address) = address else { return Err(Fault("no IPv4 address".to_owned())) };
    let [a, b, c, d] = address.octets();
    let [p, q, r, s, t, u] = WELL_KNOWN;
    Ok(Ipv6Addr::new(p, q, r, s, t, u, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])).into())
}

/// An inside endpoint, an outside one, and how the former addresses the latter.
fn ends(field: &Field) -> Result<(SocketAddr, SocketAddr, SocketAddr), Fault> {
    let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, false));
    Ok((from, to, SocketAddr::new(embedded(to.ip())?, to.port())))
}

/// Sends a datagram out and tells from where it arrived at the IPv4 endpoint.
fn out(field: &Field, from: SocketAddr, to: SocketAddr) -> Result<SocketAddr, Fault> {
    let shown = SocketAddr::new(embedded(to.ip())?, to.port());
    field.send(Side::Inside, &Spec::udp(from, shown, b"question"))?;
    let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == to;
    Ok(field.expect(Side::Outside, &format!("a datagram from {from} to {to}"), is)?.from())
}

fn every_length(field: &Field) -> Result<(), Fault> {
    let to = SocketAddr::new(Ipv4Addr::new(198, 51, 100, 50).into(), 53);
    for text in [
        "2001:db9:c633:6432::",
        "2001:dba:1c6:3364:32::",
        "2001:dbe:122:c633:64:3200::",
        "2001:dbb:122:3c6:33:6432::",
        "2001:dbc:122:344:c6:3364:3200::",
        "2001:dbd:122:344::c633:6432",
        "64:ff9b::c633:6432",
    ] {
        let shown: IpAddr = text.parse().map_err(|_| Fault(format!("no address: {text}")))?;
        let (from, shown) = (field.at(Side::Inside, true), SocketAddr::new(shown, 53));
        let seen = field.crosses(Side::Inside, &Spec::udp(from, shown, b"x"), |seen| seen.to() == to)?;
        let is = |seen: &Seen| seen.to() == from;
        let answer = field.crosses(Side::Outside, &Spec::udp(to, seen.from(), b"y"), is)?;
        holds(answer.from() == shown, || format!("the answer came from {} instead of {shown}", answer.from()))?;
    }
    Ok(())
}

fn reserved_octet(field: &Field) -> Result<(), Fault> {
    let shown = Ipv6Addr::new(0x2001, 0xdbc, 0x122, 0x344, 0x1c6, 0x3364, 0x3200, 0);
    let from = field.at(Side::Inside, true);
    field.send(Side::Inside, &Spec::udp(from, (shown, 53).into(), b"x"))?;
    field.nothing(Side::Outside, "a translation", |seen| seen.source.is_ipv4() && seen.protocol == protocol::UDP)
}

fn suffix(field: &Field) -> Result<(), Fault> {
    let shown: SocketAddr = (Ipv6Addr::new(0x2001, 0xdbc, 0x122, 0x344, 0xc6, 0x3364, 0x3200, 7), 53).into();
    let (from, to) = (field.at(Side::Inside, true), SocketAddr::new(Side::Outside.host(false, 0), 53));
    let seen = field.crosses(Side::Inside, &Spec::udp(from, shown, b"x"), |seen| seen.to() == to)?;
    let answer = field.crosses(Side::Outside, &Spec::udp(to, seen.from(), b"y"), |seen| seen.to() == from)?;
    holds(answer.from() == shown, || format!("the answer came from {}", answer.from()))
}

fn not_global(field: &Field) -> Result<(), Fault> {
    let before = field.drops("martian_destination")?;
    let from = field.at(Side::Inside, true);
    for address in [[10, 1, 0, 51], [192, 168, 1, 1], [172, 16, 0, 1], [100, 64, 0, 1]] {
        let shown = embedded(Ipv4Addr::from(address).into())?;
        field.send(Side::Inside, &Spec::udp(from, (shown, 53).into(), b"x"))?;
    }
    field.nothing(Side::Inside, "a translation", |seen| seen.source.is_ipv4() && seen.protocol == protocol::UDP)?;
    let dropped = field.drops("martian_destination")? - before;
    holds(dropped == 4, || format!("{dropped} of 4 were dropped as martian_destination"))
}

fn private(field: &Field) -> Result<(), Fault> {
    let to = SocketAddr::new(Side::Inside.host(false, 1), 53);
    let shown: SocketAddr = (Ipv6Addr::new(0x2001, 0xdbd, 0x122, 0x344, 0, 0, 0x0a01, 0x33), 53).into();
    let from = field.at(Side::Inside, true);
    field.send(Side::Inside, &Spec::udp(from, shown, b"x"))?;
    let seen = field.expect(Side::Inside, "a datagram to a private address", |seen| seen.to() == to)?;
    holds(seen.source == Ipv4Addr::new(10, 1, 0, 1), || format!("it came from {}", seen.source))
}

fn udp(field: &Field) -> Result<(), Fault> {
    let (from, to, shown) = ends(field)?;
    let mapped = out(field, from, to)?;
    holds(mapped.ip() == Ipv4Addr::new(198, 51, 100, 1), || format!("it came from {mapped}"))?;
    let answer = field.admits(to, mapped, from)?;
    holds(answer.from() == shown, || format!("the answer came from {} instead of {shown}", answer.from()))?;
    let flow = field.flow(from)?.ok_or_else(|| Fault(format!("no flow from {from}")))?;
    let reason = &flow["forward"]["path_reason"];
    holds(reason == "nat64", || format!("it is on its path for {reason}"))
}

fn one_binding(field: &Field) -> Result<(), Fault> {
    let from = field.at(Side::Inside, true);
    let first = out(field, from, SocketAddr::new(Side::Outside.host(false, 0), 53))?;
    for (host, port) in [(0, 54), (1, 53), (2, 7)] {
        let other = out(field, from, SocketAddr::new(Side::Outside.host(false, host), port))?;
        holds(first == other, || format!("{first} towards one, {other} towards another"))?;
    }
    Ok(())
}

fn tcp(field: &Field) -> Result<(), Fault> {
    let (from, to, shown) = ends(field)?;
    let at_server = |seen: &Seen| seen.protocol == protocol::TCP && seen.to() == to;
    let at_client = |seen: &Seen| seen.protocol == protocol::TCP && (seen.from(), seen.to()) == (shown, from);
    let syn = Spec::tcp(from, shown, SYN, &[]).with_sequence(1000, 0).with_tcp_options(&[2, 4, 5, 160]);
    let mapped = field.crosses(Side::Inside, &syn, at_server)?.from();
    let answer = Spec::tcp(to, mapped, SYN | ACK, &[]).with_sequence(5000, 1001);
    field.crosses(Side::Outside, &answer, at_client)?;
    field.crosses(Side::Inside, &Spec::tcp(from, shown, ACK, b"request").with_sequence(1001, 5001), at_server)?;
    field.crosses(Side::Outside, &Spec::tcp(to, mapped, ACK, b"reply").with_sequence(5001, 1008), at_client)?;
    let flow = field.flow(from)?.ok_or_else(|| Fault(format!("no flow from {from}")))?;
    holds(flow["state"] == "established", || format!("its state is {}", flow["state"]))?;
    field.send(Side::Outside, &Spec::tcp(to, mapped, ACK, b"forged").with_sequence(0x7000_0000, 1008))?;
    field.nothing(Side::Inside, "a segment outside the window", at_client)
}

fn echo(field: &Field) -> Result<(), Fault> {
    let (from, to) = (Side::Inside.host(true, 0), Side::Outside.host(false, 0));
    let (shown, identifier) = (embedded(to)?, field.fresh());
    let request = Spec::echo_request(from, shown, identifier, 3, b"data");
    let is = |seen: &Seen| seen.icmp() == Some((icmp4::ECHO_REQUEST, 0)) && seen.destination == to;
    let seen = field.crosses(Side::Inside, &request, is)?;
    let reply = Spec::echo_reply(to, seen.source, seen.word(4), 3, b"data");
    let is = |seen: &Seen| seen.icmp() == Some((icmp6::ECHO_REPLY, 0)) && seen.destination == from;
    let seen = field.crosses(Side::Outside, &reply, is)?;
    holds(seen.word(4) == identifier, || format!("the identifier {identifier} became {}", seen.word(4)))?;
    holds(seen.source == shown, || format!("the reply came from {}", seen.source))
}

fn own_prefix(field: &Field) -> Result<(), Fault> {
    let before = field.drops("martian_source")?;
    let (_, to, shown) = ends(field)?;
    let forged = SocketAddr::new(embedded(Ipv4Addr::new(198, 51, 100, 99).into())?, 7);
    field.send(Side::Inside, &Spec::udp(forged, shown, b"x"))?;
    field.nothing(Side::Outside, "a translation", |seen| seen.protocol == protocol::UDP && seen.to() == to)?;
    let dropped = field.drops("martian_source")? - before;
    holds(dropped == 1, || format!("{dropped} were dropped as martian_source"))
}

fn other_protocols(field: &Field) -> Result<(), Fault> {
    let (from, to) = (Side::Inside.host(true, 0), Side::Outside.host(false, 0));
    for number in [protocol::SCTP, protocol::GRE, protocol::ESP] {
        field.send(Side::Inside, &Spec::new(from, embedded(to)?, L4::Raw { protocol: number }, &[0; 40]))?;
        field.nothing(Side::Outside, "another protocol", |seen| seen.protocol == number)?;
    }
    Ok(())
}

/// A datagram in two fragments, the second one first if `reversed`.
fn in_two(field: &Field, side: Side, [from, to]: [SocketAddr; 2], payload: &[u8], reversed: bool) -> Result<(), Fault> {
    let (datagram, data) = datagram(field, from, to, payload)?;
    let (first, second) = data.split_at(1200);
    let mut pieces = [(0, true, first), (1200, false, second)];
    if reversed {
        pieces.reverse();
    }
    pieces.into_iter().try_for_each(|piece| datagram.send(field, side, piece))
}

fn fragments(field: &Field) -> Result<(), Fault> {
    let payload: Vec<u8> = (0..2000u32).map(|byte| byte as u8).collect();
    for reversed in [false, true] {
        let (from, to, shown) = ends(field)?;
        let mapped = out(field, from, to)?;
        in_two(field, Side::Inside, [from, shown], &payload, reversed)?;
        let data = gathered(field, Side::Outside, 1220, mapped.ip())?;
        holds(data.get(8..) == Some(&payload[..]), || "the datagram arrived changed".to_owned())?;
        holds(data.starts_with(&mapped.port().to_be_bytes()), || "its first fragment has another port".to_owned())?;
        in_two(field, Side::Outside, [to, mapped], &payload, reversed)?;
        let data = gathered(field, Side::Inside, 1280, shown.ip())?;
        holds(data.get(8..) == Some(&payload[..]), || "the answer arrived changed".to_owned())?;
    }
    Ok(())
}

fn no_checksum(field: &Field) -> Result<(), Fault> {
    let (from, to, _) = ends(field)?;
    let mapped = out(field, from, to)?;
    let mut frame = field.frame(Side::Outside, &Spec::udp(to, mapped, b"none"))?;
    frame[40..42].fill(0);
    field.send_frame(Side::Outside, frame)?;
    let seen =
        field.expect(Side::Inside, "the datagram", |seen| seen.protocol == protocol::UDP && seen.to() == from)?;
    holds(seen.word(6) != 0, || "it has no checksum".to_owned())
}

fn hairpin(field: &Field) -> Result<(), Fault> {
    let server = SocketAddr::new(Side::Inside.host(true, 1), field.fresh());
    let mapped = out(field, server, field.at(Side::Outside, false))?;
    let (client, shown) = (field.at(Side::Inside, true), SocketAddr::new(embedded(mapped.ip())?, mapped.port()));
    field.send(Side::Inside, &Spec::udp(client, shown, b"x"))?;
    let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == server;
    let seen = field.expect(Side::Inside, "the datagram", is)?;
    holds(seen.source == embedded(mapped.ip())?, || format!("it came from {}", seen.source))?;
    field.send(Side::Inside, &Spec::udp(server, seen.from(), b"y"))?;
    let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == client;
    let answer = field.expect(Side::Inside, "the answer", is)?;
    holds(answer.from() == shown, || format!("the answer came from {}", answer.from()))
}

fn filtered(field: &Field) -> Result<(), Fault> {
    let (from, to, _) = ends(field)?;
    let mapped = out(field, from, to)?;
    let stranger = SocketAddr::new(Side::Outside.host(false, 2), field.fresh());
    let seen = field.admits(stranger, mapped, from)?;
    let shown = SocketAddr::new(embedded(stranger.ip())?, stranger.port());
    holds(seen.from() == shown, || format!("it came from {}", seen.from()))?;
    // What was let in is answered from where it was sent to.
    let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == stranger;
    let answer = field.crosses(Side::Inside, &Spec::udp(from, shown, b"y"), is)?;
    holds(answer.from() == mapped, || format!("the answer came from {}", answer.from()))
}

/// A datagram with a traffic class of 0xb9.
fn classed(mut spec: Spec<'_>) -> Spec<'_> {
    match &mut spec.ip {
        Ip::V4(ip) => (ip.dscp, ip.ecn) = (46, 1),
        Ip::V6(ip) => (ip.dscp, ip.ecn) = (46, 1),
    }
    spec
}

fn headers_up(field: &Field) -> Result<(), Fault> {
    let (from, to, _) = ends(field)?;
    let mapped = out(field, from, to)?;
    let spec = classed(Spec::udp(to, mapped, b"x")).with_ttl(9);
    let seen = field.crosses(Side::Outside, &spec, |seen| seen.protocol == protocol::UDP && seen.to() == from)?;
    let class = seen.frame[14] << 4 | seen.frame[15] >> 4;
    holds((class, seen.ttl) == (0xb9, 8), || format!("class {class:#x}, hop limit {}", seen.ttl))
}

fn headers_down(field: &Field) -> Result<(), Fault> {
    let (from, to, shown) = ends(field)?;
    let spec = classed(Spec::udp(from, shown, b"x")).with_ttl(9);
    let seen = field.crosses(Side::Inside, &spec, |seen| seen.protocol == protocol::UDP && seen.to() == to)?;
    holds((seen.frame[15], seen.ttl) == (0xb9, 8), || format!("class {:#x}, time to live {}", seen.frame[15], seen.ttl))
}

fn marked(field: &Field) -> Result<(), Fault> {
    for (payload, expected) in [(1260 - 28, false), (1261 - 28, true)] {
        let (from, to, shown) = ends(field)?;
        let payload = vec![7; payload];
        let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == to;
        let seen = field.crosses(Side::Inside, &Spec::udp(from, shown, &payload), is)?;
        let marked = seen.frame[20] & 0x40 != 0;
        holds(marked == expected, || format!("{} bytes: {marked}", payload.len() + 28))?;
    }
    Ok(())
}

fn extension_headers(field: &Field) -> Result<(), Fault> {
    let (from, to, shown) = ends(field)?;
    let bytes = &[0, 0, 1, 4, 0, 0, 0, 0];
    let extensions = [Extension { protocol: protocol::DESTINATION_OPTIONS, bytes }];
    let mut spec = Spec::udp(from, shown, b"behind");
    if let Ip::V6(ip) = spec.ip {
        spec.ip = Ip::V6(V6 { extensions: &extensions, ..ip });
    }
    let seen = field.crosses(Side::Inside, &spec, |seen| seen.protocol == protocol::UDP && seen.to() == to)?;
    holds(seen.l4().get(8..) == Some(b"behind"), || "what is behind was changed".to_owned())
}

fn cut_up(field: &Field) -> Result<(), Fault> {
    let (from, to, shown) = ends(field)?;
    let mapped = out(field, from, to)?;
    let payload = [0x5a; 1400];
    let mut spec = Spec::udp(to, mapped, &payload);
    if let Ip::V4(ip) = &mut spec.ip {
        (ip.df, ip.id) = (false, 99);
    }
    field.send(Side::Outside, &spec)?;
    let data = gathered(field, Side::Inside, 1280, shown.ip())?;
    holds(data.get(8..) == Some(&payload[..]), || "it arrived changed".to_owned())
}

/// An error of an outside router about a datagram from inside, as it comes to the inside host.
fn error_up(field: &Field, kind: Kind, expected: (u8, u8)) -> Result<Seen, Fault> {
    let (from, to, shown) = ends(field)?;
    let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == to;
    let seen = field.crosses(Side::Inside, &Spec::udp(from, shown, &[1; 1300]), is)?;
    let router = Side::Outside.host(false, 1);
    let seen = seen.cut(200);
    field.send_frame(Side::Outside, error_about(field, Side::Outside, router, &seen, kind)?)?;
    let is = |seen: &Seen| seen.icmp() == Some(expected) && seen.destination == from.ip();
    let error = field.expect(Side::Inside, "the error", is)?;
    let inner = quoted(&error)?;
    holds((inner.from(), inner.to()) == (from, shown), || format!("it quotes {} to {}", inner.from(), inner.to()))?;
    Ok(error)
}

fn errors_up(field: &Field) -> Result<(), Fault> {
    for (kind, code, new) in [
        (icmp4::TIME_EXCEEDED, 0, (icmp6::TIME_EXCEEDED, 0)),
        (icmp4::UNREACHABLE, icmp4::HOST_UNREACHABLE, (icmp6::UNREACHABLE, icmp6::NO_ROUTE)),
        (icmp4::UNREACHABLE, icmp4::PORT_UNREACHABLE, (icmp6::UNREACHABLE, icmp6::PORT_UNREACHABLE)),
        (
            icmp4::UNREACHABLE,
            icmp4::ADMINISTRATIVELY_PROHIBITED,
            (icmp6::UNREACHABLE, icmp6::ADMINISTRATIVELY_PROHIBITED),
        ),
        (icmp4::UNREACHABLE, icmp4::PROTOCOL_UNREACHABLE, (icmp6::PARAMETER_PROBLEM, icmp6::UNKNOWN_NEXT_HEADER)),
    ] {
        error_up(field, Kind::plain(kind, code), new)?;
    }
    Ok(())
}

fn silent_up(field: &Field) -> Result<(), Fault> {
    let (from, to, shown) = ends(field)?;
    let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == to;
    let seen = field.crosses(Side::Inside, &Spec::udp(from, shown, b"x"), is)?;
    let router = Side::Outside.host(false, 1);
    for kind in
        [Kind::plain(icmp4::UNREACHABLE, 14), Kind::plain(icmp4::SOURCE_QUENCH, 0), Kind::plain(icmp4::REDIRECT, 1)]
    {
        field.send_frame(Side::Outside, error_about(field, Side::Outside, router, &seen, kind)?)?;
    }
    field.nothing(Side::Inside, "an error", |seen| seen.icmp().is_some_and(|(kind, _)| icmp6::is_error(kind)))
}

fn router(field: &Field) -> Result<(), Fault> {
    let error = error_up(field, Kind::plain(icmp4::TIME_EXCEEDED, 0), (icmp6::TIME_EXCEEDED, 0))?;
    let expected = embedded(Side::Outside.host(false, 1))?;
    holds(error.source == expected, || format!("it came from {} instead of {expected}", error.source))
}

fn mtu_up(field: &Field) -> Result<(), Fault> {
    for (told, expected) in [(1300u16, 1320), (600, 1280)] {
        let [high, low] = told.to_be_bytes();
        let kind = Kind::with(icmp4::UNREACHABLE, icmp4::FRAGMENTATION_NEEDED, [0, 0, high, low]);
        let error = error_up(field, kind, (icmp6::PACKET_TOO_BIG, 0))?;
        holds(error.long(4) == expected, || format!("{told} became {}", error.long(4)))?;
    }
    Ok(())
}

fn errors_down(field: &Field) -> Result<(), Fault> {
    let (from, to, _) = ends(field)?;
    let mapped = out(field, from, to)?;
    for (kind, code, new) in [
        (icmp6::UNREACHABLE, icmp6::PORT_UNREACHABLE, (icmp4::UNREACHABLE, icmp4::PORT_UNREACHABLE)),
        (icmp6::UNREACHABLE, icmp6::ADDRESS_UNREACHABLE, (icmp4::UNREACHABLE, icmp4::HOST_UNREACHABLE)),
        (icmp6::TIME_EXCEEDED, 0, (icmp4::TIME_EXCEEDED, 0)),
    ] {
        let seen = field.admits(to, mapped, from)?;
        let by = Side::Inside.host(true, 3);
        field.send_frame(Side::Inside, error_about(field, Side::Inside, by, &seen, Kind::plain(kind, code))?)?;
        let is = |seen: &Seen| seen.icmp() == Some(new) && seen.destination == to.ip();
        let error = field.expect(Side::Outside, "the error", is)?;
        let inner = quoted(&error)?;
        holds((inner.from(), inner.to()) == (to, mapped), || format!("it quotes {} to {}", inner.from(), inner.to()))?;
        holds(error.source == mapped.ip(), || format!("it came from {}", error.source))?;
    }
    Ok(())
}

fn too_big(field: &Field) -> Result<(), Fault> {
    let (from, to, shown) = ends(field)?;
    out(field, from, to)?;
    field.send(Side::Inside, &Spec::udp(from, shown, &[0x5a; 1400]))?;
    let is = |seen: &Seen| seen.icmp() == Some((icmp6::PACKET_TOO_BIG, 0)) && seen.destination == from.ip();
    let error = field.expect(Side::Inside, "the error", is)?;
    holds(error.long(4) == 1300, || format!("it tells an MTU of {}", error.long(4)))?;
    let inner = quoted(&error)?;
    holds((inner.from(), inner.to()) == (from, shown), || format!("it quotes {} to {}", inner.from(), inner.to()))?;
    let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == to;
    field.crosses(Side::Inside, &Spec::udp(from, shown, &[0x5a; 1300 - 48]), is).map(drop)
}

fn own_error(field: &Field) -> Result<(), Fault> {
    let (from, to, shown) = ends(field)?;
    let mapped = out(field, from, to)?;
    field.send(Side::Inside, &Spec::udp(from, shown, b"x").with_ttl(1))?;
    let is = |seen: &Seen| seen.icmp() == Some((icmp6::TIME_EXCEEDED, 0)) && seen.destination == from.ip();
    let error = field.expect(Side::Inside, "the error", is)?;
    let inner = quoted(&error)?;
    holds((inner.from(), inner.to()) == (from, shown), || format!("it quotes {} to {}", inner.from(), inner.to()))?;
    field.send(Side::Outside, &Spec::udp(to, mapped, b"x").with_ttl(1))?;
    let is = |seen: &Seen| seen.icmp() == Some((icmp4::TIME_EXCEEDED, 0)) && seen.destination == to.ip();
    let error = field.expect(Side::Outside, "the error", is)?;
    let inner = quoted(&error)?;
    holds((inner.from(), inner.to()) == (to, mapped), || format!("it quotes {} to {}", inner.from(), inner.to()))
}
