//! Clauses about the ICMP errors that flowhop sends by itself.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use flowhop_wire::build::{Ip, L4, Spec};
use flowhop_wire::tcp_flags::RST;
use flowhop_wire::{icmp4, icmp6, protocol};

use super::clause::{Clause, must, should};
use super::field::{Fault, Field, Seen, Side, holds};
use super::icmp::quoted;
use super::policies::{MASQUERADE, PLAIN, RECORDING};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    should(1812, "4.3.2.3", &PLAIN, quotes, "quotes as much of a packet as makes an error of 576 bytes"),
    must(1812, "4.3.2.4", &PLAIN, sources, "sends errors from an address of the interface that they leave by"),
    must(4443, "2.2", &PLAIN, sources, "sends errors from an address of its own"),
    should(1812, "4.3.2.5", &PLAIN, precedence, "sends errors with precedence 6"),
    must(
        1812,
        "4.3.2.7",
        &PLAIN,
        |field| never(field, false),
        "sends no error about ICMP errors, later fragments, packets to or from many or nobody, and none about resets",
    ),
    should(1812, "4.3.2.8", &PLAIN, |field| rate(field, false), "limits how many errors it sends in a second"),
    should(
        1812,
        "4.3.2.8, keys",
        &RECORDING,
        |field| limit(field, false),
        "sends as many errors in a second as `[ip]` says",
    ),
    should(
        4443,
        "2.4 f, keys",
        &RECORDING,
        |field| limit(field, true),
        "sends as many errors in a second as `[ip]` says",
    ),
    must(
        1812,
        "5.2.7.2",
        &RECORDING,
        redirect,
        "tells hosts of a next hop on their own link with Redirect for Host where `[ip]` says so",
    ),
    should(
        1812,
        "5.2.7.1",
        &PLAIN,
        |field| prohibited(field, false, (icmp4::UNREACHABLE, 13)),
        "answers what a rule rejects with code 13, and what it drops not at all",
    ),
    must(4443, "2.4 c", &PLAIN, quotes, "quotes as much of a packet as makes an error of 1280 bytes"),
    must(
        4443,
        "2.4 e",
        &PLAIN,
        |field| never(field, true),
        "sends no error about ICMPv6 errors, redirects, and packets to or from many or nobody",
    ),
    must(4443, "2.4 f", &PLAIN, |field| rate(field, true), "limits how many errors it sends in a second"),
    should(
        4443,
        "3.1",
        &PLAIN,
        |field| prohibited(field, true, (icmp6::UNREACHABLE, 1)),
        "answers what a rule rejects with code 1, and what it drops not at all",
    ),
    must(6633, "8", &MASQUERADE, quench, "discards source quench silently"),
    must(6633, "4", &MASQUERADE, quench, "takes no notice of source quench"),
    should(5508, "REQ-10 c", &MASQUERADE, quench, "sends no source quench, and forwards none"),
    must(5508, "REQ-10 a", &MASQUERADE, expired, "sends Time Exceeded about the packet as its sender sent it"),
];

fn exceeded(six: bool) -> (u8, u8) {
    if six { (icmp6::TIME_EXCEEDED, 0) } else { (icmp4::TIME_EXCEEDED, 0) }
}

/// The error about a packet that expires.
fn expires(field: &Field, spec: &Spec<'_>, from: IpAddr) -> Result<Seen, Fault> {
    field.send(Side::Inside, &spec.with_ttl(1))?;
    let is = |seen: &Seen| seen.icmp() == Some(exceeded(from.is_ipv6())) && seen.destination == from;
    field.expect(Side::Inside, "Time Exceeded", is)
}

fn quotes(field: &Field) -> Result<(), Fault> {
    for (six, most) in [(false, 576), (true, 1280)] {
        let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
        for (length, expected) in [(1400, most), (100, 0)] {
            let payload = vec![0x5a; length];
            let spec = Spec::udp(from, to, &payload);
            let error = expires(field, &spec, from.ip())?;
            let size = error.frame.len() - 14;
            let whole = if six { 40 + 8 + 48 } else { 20 + 8 + 28 } + length;
            let expected = if expected == 0 { whole } else { expected };
            holds(size == expected, || format!("an error of {size} bytes instead of {expected}"))?;
        }
    }
    Ok(())
}

fn sources(field: &Field) -> Result<(), Fault> {
    for (six, own) in [(false, "10.1.0.1"), (true, "fd00:0:0:1::1")] {
        let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
        let error = expires(field, &Spec::udp(from, to, b"x"), from.ip())?;
        holds(error.source.to_string() == own, || format!("it came from {}", error.source))?;
    }
    Ok(())
}

fn precedence(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let error = expires(field, &Spec::udp(from, to, b"x"), from.ip())?;
    holds(error.frame[15] >> 5 == 6, || format!("its type of service is {:#x}", error.frame[15]))
}

/// That a packet that expires on its way from inside is not answered.
fn unanswered(field: &Field, what: &str, spec: &Spec<'_>) -> Result<(), Fault> {
    field.send(Side::Inside, &spec.with_ttl(1))?;
    let mac = field.frame(Side::Inside, spec)?;
    // Whomever it is sent to, it would be sent to this station.
    let is = |seen: &Seen| {
        seen.frame.get(..6) == mac.get(6..12) && seen.icmp().is_some_and(|(kind, _)| is_error(seen, kind))
    };
    field.nothing(Side::Inside, &format!("an error about {what}"), is)
}

fn is_error(seen: &Seen, kind: u8) -> bool {
    if seen.source.is_ipv4() { icmp4::is_error(kind) } else { icmp6::is_error(kind) }
}

fn never(field: &Field, six: bool) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
    // The same about what may be answered: or nothing would be shown.
    expires(field, &Spec::udp(from, to, b"x"), from.ip())?;
    let inner = Spec::udp(to, from, b"x").without_link().to_vec().map_err(|error| Fault(error.to_string()))?;
    let errors: &[u8] = if six {
        &[icmp6::UNREACHABLE, icmp6::TIME_EXCEEDED, icmp6::REDIRECT]
    } else {
        &[icmp4::UNREACHABLE, icmp4::TIME_EXCEEDED]
    };
    for &kind in errors {
        let error = Spec::new(from.ip(), to.ip(), L4::Icmp { kind, code: 0, rest: [0; 4] }, &inner);
        unanswered(field, "an error", &error)?;
    }
    unanswered(field, "a reset", &Spec::tcp(from, to, RST, &[]))?;
    if six {
        let many = SocketAddr::new("ff0e::1".parse().map_err(|_| Fault("no address".to_owned()))?, 9);
        unanswered(field, "a packet to many", &Spec::udp(from, many, b"x"))?;
        for text in ["::", "ff0e::1", "::1"] {
            let nobody = SocketAddr::new(text.parse().map_err(|_| Fault("no address".to_owned()))?, 9);
            unanswered(field, "a packet from nobody", &Spec::udp(nobody, to, b"x"))?;
        }
        return Ok(());
    }
    let mut later = Spec::new(from.ip(), to.ip(), L4::Raw { protocol: protocol::UDP }, &[0x5a; 64]);
    if let Ip::V4(ip) = &mut later.ip {
        (ip.df, ip.offset, ip.id) = (false, 64, field.fresh());
    }
    unanswered(field, "a later fragment", &later)?;
    for text in ["224.0.1.1", "255.255.255.255", "198.51.100.255"] {
        let many = SocketAddr::new(text.parse().map_err(|_| Fault("no address".to_owned()))?, 9);
        unanswered(field, "a packet to many", &Spec::udp(from, many, b"x"))?;
    }
    for text in ["0.0.0.0", "127.0.0.1", "240.0.0.1", "255.255.255.255"] {
        let nobody = SocketAddr::new(text.parse().map_err(|_| Fault("no address".to_owned()))?, 9);
        unanswered(field, "a packet from nobody", &Spec::udp(nobody, to, b"x"))?;
    }
    Ok(())
}

/// Packets that expire, at once.
const BURST: usize = 3000;

fn redirect(field: &Field) -> Result<(), Fault> {
    let hosts = [0, 1].map(|host| SocketAddr::new(Side::Inside.host(false, host), field.fresh()));
    let is = |seen: &Seen| seen.icmp().is_some_and(|(kind, _)| kind == icmp4::REDIRECT);
    field.send(Side::Inside, &Spec::udp(hosts[0], hosts[1], b"x"))?;
    let told = field.expect(Side::Inside, "Redirect", is)?;
    let right = told.icmp() == Some((icmp4::REDIRECT, icmp4::REDIRECT_HOST))
        && told.destination == hosts[0].ip()
        && told.source.to_string() == "10.1.0.1";
    holds(right, || format!("{:?} from {} to {}", told.icmp(), told.source, told.destination))?;
    let gateway = told.long(4).to_be_bytes();
    holds(IpAddr::from(gateway) == hosts[1].ip(), || format!("it names {gateway:?}"))?;
    // A host of a network elsewhere, and what goes out by another link.
    let elsewhere = SocketAddr::new(IpAddr::from([10, 7, 0, 1]), field.fresh());
    field.send(Side::Inside, &Spec::udp(elsewhere, hosts[1], b"x"))?;
    field.send(Side::Inside, &Spec::udp(hosts[0], field.at(Side::Outside, false), b"x"))?;
    field.nothing(Side::Inside, "another Redirect", is)
}

/// What a burst of packets is answered with, at most in a second.
fn limit(field: &Field, six: bool) -> Result<(), Fault> {
    const LIMIT: usize = 20;
    // What was earned before is at most one second's.
    let count = answers_to_burst(field, six)?;
    holds(count > 0 && count <= 2 * LIMIT, || format!("{count} errors instead of {LIMIT} in a second"))
}

fn rate(field: &Field, six: bool) -> Result<(), Fault> {
    let count = answers_to_burst(field, six)?;
    holds(count > 0 && count < BURST / 2, || format!("{count} errors about {BURST} packets"))?;
    let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
    expires(field, &Spec::udp(from, to, b"x"), from.ip()).map(drop)
}

/// How many errors answer a burst of packets that expire; after it, others may be answered.
fn answers_to_burst(field: &Field, six: bool) -> Result<usize, Fault> {
    let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
    let spec = Spec::udp(from, to, b"x").with_ttl(1);
    for _ in 0..BURST {
        field.send(Side::Inside, &spec)?;
    }
    let count = Cell::new(0);
    // Nothing is what is looked for; on the way all that comes is counted.
    field.nothing(Side::Inside, "nothing", |seen| {
        let counts = seen.icmp() == Some(exceeded(six)) && seen.destination == from.ip();
        count.set(count.get() + usize::from(counts));
        false
    })?;
    // Others may be answered in a second.
    sleep(Duration::from_millis(1100));
    Ok(count.get())
}

fn prohibited(field: &Field, six: bool, expected: (u8, u8)) -> Result<(), Fault> {
    let from = field.at(Side::Outside, six);
    let inside = Side::Inside.host(six, 0);
    field.send(Side::Outside, &Spec::udp(from, SocketAddr::new(inside, 23), b"x"))?;
    let is = |seen: &Seen| seen.icmp() == Some(expected) && seen.destination == from.ip();
    let error = field.expect(Side::Outside, "the error", is)?;
    let inner = quoted(&error)?;
    holds(inner.from() == from, || format!("it quotes what {} sent", inner.from()))?;
    field.send(Side::Outside, &Spec::udp(from, SocketAddr::new(inside, 24), b"x"))?;
    field.nothing(Side::Outside, "an answer", |seen| seen.icmp().is_some() && seen.destination == from.ip())
}

fn quench(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let is_quench = |seen: &Seen| seen.icmp().is_some_and(|(kind, _)| kind == icmp4::SOURCE_QUENCH);
    let out = field.crosses(Side::Inside, &Spec::udp(from, to, b"x"), |seen| seen.to() == to)?;
    let l4 = L4::Icmp { kind: icmp4::SOURCE_QUENCH, code: 0, rest: [0; 4] };
    let quote = out.frame[14..].to_vec();
    field.send(Side::Outside, &Spec::new(to.ip(), out.source, l4, &quote))?;
    field.nothing(Side::Inside, "a source quench", is_quench)?;
    for _ in 0..500 {
        field.send(Side::Inside, &Spec::udp(from, to, b"much"))?;
    }
    field.nothing(Side::Inside, "a source quench", is_quench)
}

fn expired(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    field.udp_out(from, to)?;
    let error = expires(field, &Spec::udp(from, to, b"x"), from.ip())?;
    let inner = quoted(&error)?;
    holds((inner.from(), inner.to()) == (from, to), || format!("it quotes {} to {}", inner.from(), inner.to()))
}
