//! Clauses for carriers: pools, limits, blocks, what is deterministic.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use flowhop_wire::build::{L4, Spec};
use flowhop_wire::tcp_flags::SYN;
use flowhop_wire::{icmp4, protocol};

use super::clause::Level::{Must, Should};
use super::clause::{Clause, may, must, overruled, should, unmet};
use super::field::{Fault, Field, Seen, Side, holds};
use super::nat_tcp::syn_out;
use super::policies::{BLOCKS, DETERMINISTIC, ONE_RESTS, OPEN, POOL, QUICK, RESTLESS, SCATTERED};

/// Protocol number of DCCP (RFC 4340).
const DCCP: u8 = 33;

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(6888, "REQ-2", &POOL, paired_protocols, "pairs inside and external addresses by default, for all protocols"),
    must(6888, "REQ-3", &SCATTERED, scattered, "takes external addresses that are not next to each other"),
    must(
        6888,
        "REQ-4",
        &POOL,
        limit,
        "limits the ports of an inside address to `limit.ports`, of one protocol or several",
    ),
    should(6888, "REQ-4 c", &SCATTERED, rate, "limits the new connections of an address by `source_limit` of a rule"),
    should(6888, "REQ-5 b", &SCATTERED, rate, "limits how fast an address gets new connections, as the same key says"),
    should(7857, "4", &SCATTERED, anchored, "drops what would need a port of another address than the host has"),
    should(
        6888,
        "REQ-5",
        &POOL,
        connections,
        "limits the state of an inside address by `limit.ports` and `limit.connections`",
    ),
    must(6888, "REQ-6", &POOL, exempt, "leaves untranslated what goes to destinations that the translation excludes"),
    should(
        6888,
        "REQ-7",
        &OPEN,
        open,
        "does not filter by the remote end where `filtering` is \"endpoint-independent\"",
    ),
    unmet(
        6888,
        "REQ-7 default",
        Should,
        "filters by address and port by default",
        "a firewall admits by default only what was asked for; one key of the translation opens it",
    ),
    should(
        6888,
        "REQ-8",
        &QUICK,
        resting,
        "gives a port that was freed to nobody else for 120 seconds, as long as there are others",
    ),
    must(
        6888,
        "REQ-8, keys",
        &RESTLESS,
        |field| given_again(field, Duration::from_millis(1200)),
        "has ports rest for as long as `port_rest` of `[timeouts]` says",
    ),
    must(
        6888,
        "REQ-8, keys",
        &ONE_RESTS,
        |field| given_again(field, Duration::ZERO),
        "has as many ports rest at a time as `resting_ports` of `[table]` says",
    ),
    unmet(
        6888,
        "REQ-8, restart",
        Should,
        "does not know after a start which ports rested before",
        "what rests is not kept anywhere; connections themselves are taken over",
    ),
    must(
        6888,
        "REQ-1",
        &POOL,
        no_dccp,
        "meets RFC 4787, 5382 and 5508 (see there) for the protocols that it translates, and translates no DCCP (RFC 5597)",
    ),
    must(6888, "REQ-11 A", &POOL, over_the_limit, "drops what cannot have a mapping, counted as `nat_limit`"),
    should(5508, "REQ-8", &POOL, told, "tells who cannot have a mapping that it is prohibited (code 13)"),
    unmet(
        6888,
        "REQ-11 B",
        Should,
        "tells who cannot have a mapping that it is prohibited (code 13), not that the host is unreachable (code 1)",
        "RFC 5508 REQ-8 and this one cannot both be met",
    ),
    must(6888, "REQ-11 D", &POOL, keeps_old, "ends no mapping to make room for one beyond `limit`"),
    overruled(
        6888,
        "REQ-11 D, full table",
        Must,
        "ends half-open, closed and unanswered connections, and so their mappings, while the table is nearly full",
        "flowhop is to make room by such connections, or else a flood could shut out everybody; those with recent traffic \
         both ways are never ended",
    ),
    unmet(
        6888,
        "REQ-13",
        Should,
        "gives no port to two mappings at a time, whatever their destinations",
        "RFC 4787 REQ-3 and RFC 6888 REQ-15 pull the other way; RFC 7857 section 3 leaves it open",
    ),
    should(6888, "REQ-12", &BLOCKS, logs, "logs no destination: lines are about blocks, or mappings"),
    should(
        6888,
        "REQ-14",
        &BLOCKS,
        blocks,
        "gives ports in blocks with `allocation = \"blocks\"`, a line of log for each",
    ),
    unmet(
        6888,
        "REQ-11 C",
        Should,
        "counts what was refused, by reason, without notifying anybody",
        "there is no management protocol; `flowhop show drops` is what monitoring can ask",
    ),
    unmet(6888, "REQ-10", Should, "has no MIB", "there is no SNMP; `flowhop show nat -j` has what the MIB would have"),
    may(
        7422,
        "2",
        &DETERMINISTIC,
        deterministic,
        "derives external address and ports from the inside address by the formula of docs/nat.md",
    ),
];

fn inside(host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(Side::Inside.host(false, host), port)
}

fn paired_protocols(field: &Field) -> Result<(), Fault> {
    let from = inside(3, field.fresh());
    let udp = field.udp_out(from, field.at(Side::Outside, false))?.ip();
    let tcp = syn_out(field, from, field.at(Side::Outside, false))?.ip();
    let outside = Side::Outside.host(false, 0);
    let request = Spec::echo_request(from.ip(), outside, field.fresh(), 1, b"x");
    let echo = field.crosses(Side::Inside, &request, |seen| seen.icmp() == Some((icmp4::ECHO_REQUEST, 0)))?.source;
    holds(udp == tcp && tcp == echo, || format!("{udp} for UDP, {tcp} for TCP, {echo} for ICMP"))
}

/// An inside host that has used up all its ports: some of UDP, the rest of TCP; one of them.
fn full(field: &Field, host: u8) -> Result<[SocketAddr; 3], Fault> {
    let to = field.at(Side::Outside, false);
    let first = inside(host, field.fresh());
    let mapped = field.udp_out(first, to)?;
    for _ in 0..12 {
        field.send(Side::Inside, &Spec::udp(inside(host, field.fresh()), to, b"x"))?;
    }
    // Packets of new connections are seen to in their order, which `first` may overtake: the last is another host's.
    exempt(field)?;
    Ok([first, mapped, to])
}

fn limit(field: &Field) -> Result<(), Fault> {
    let host = 2;
    let [first, mapped, to] = full(field, host)?;
    let from = inside(host, field.fresh());
    field.send(Side::Inside, &Spec::udp(from, to, b"one too many"))?;
    field.nothing(Side::Outside, "a ninth mapping", |seen| seen.frame.ends_with(b"one too many"))?;
    let request = Spec::echo_request(from.ip(), to.ip(), field.fresh(), 1, b"one too many");
    field.send(Side::Inside, &request)?;
    field.nothing(Side::Outside, "another identifier", |seen| seen.frame.ends_with(b"one too many"))?;
    let again = field.udp_out(first, to)?;
    holds(again == mapped, || format!("{mapped} became {again}"))
}

fn scattered(field: &Field) -> Result<(), Fault> {
    let mut found = Vec::new();
    for host in 50..90 {
        let from = SocketAddr::new(Ipv4Addr::new(10, 1, 0, host).into(), field.fresh());
        found.push(field.udp_out(from, field.at(Side::Outside, false))?.ip());
        let all = [128, 131, 140, 141].map(|last| IpAddr::from(Ipv4Addr::new(198, 51, 100, last)));
        holds(found.iter().all(|address| all.contains(address)), || format!("external addresses are {found:?}"))?;
        if all.iter().all(|address| found.contains(address)) {
            return Ok(());
        }
    }
    Err(Fault(format!("external addresses are {found:?} alone")))
}

fn rate(field: &Field) -> Result<(), Fault> {
    let before = field.drops("source_limit")?;
    // A host that has not been limited before.
    let (host, to) = ((field.fresh() % 100) as u8 + 60, Side::Outside.host(false, 0));
    for _ in 0..12 {
        let syn = Spec::tcp(inside(host, field.fresh()), SocketAddr::new(to, 80), SYN, &[]);
        field.send(Side::Inside, &syn.with_sequence(1, 0))?;
    }
    // Another host has a rate of its own.
    syn_out(field, inside(host + 1, field.fresh()), SocketAddr::new(to, 80))?;
    let counted = field.drops("source_limit")? - before;
    holds((1..12).contains(&counted), || format!("{counted} of 12 counted as source_limit"))
}

fn anchored(field: &Field) -> Result<(), Fault> {
    // A host whose external address others have taken little of: then it uses all eight ports itself.
    let (host, to) = (45, field.at(Side::Outside, false));
    let mut mapped: Vec<SocketAddr> = Vec::new();
    for _ in 0..9 {
        let from = inside(host, field.fresh());
        field.send(Side::Inside, &Spec::udp(from, to, b"anchored"))?;
        let is = |seen: &Seen| seen.to() == to && seen.frame.ends_with(b"anchored");
        let Ok(seen) = field.expect_within(Side::Outside, Duration::from_millis(500), "a datagram", is) else { break };
        mapped.push(seen.from());
    }
    holds((1..9).contains(&mapped.len()), || format!("{} mappings of eight ports", mapped.len()))?;
    holds(mapped.iter().all(|one| one.ip() == mapped[0].ip()), || format!("mappings are {mapped:?}"))
}

fn connections(field: &Field) -> Result<(), Fault> {
    let from = inside(10, field.fresh());
    let to = Side::Outside.host(false, 0);
    for _ in 0..16 {
        field.udp_out(from, SocketAddr::new(to, field.fresh()))?;
    }
    field.send(Side::Inside, &Spec::udp(from, SocketAddr::new(to, field.fresh()), b"one too many"))?;
    field.nothing(Side::Outside, "a seventeenth connection", |seen| seen.frame.ends_with(b"one too many"))
}

fn over_the_limit(field: &Field) -> Result<(), Fault> {
    let [_, _, to] = full(field, 1)?;
    let before = field.drops("nat_limit")?;
    field.send(Side::Inside, &Spec::udp(inside(1, field.fresh()), to, b"one too many"))?;
    field.nothing(Side::Outside, "a ninth mapping", |seen| seen.frame.ends_with(b"one too many"))?;
    let counted = field.drops("nat_limit")? - before;
    holds(counted == 1, || format!("{counted} counted as nat_limit"))
}

fn told(field: &Field) -> Result<(), Fault> {
    let (host, to) = (11, field.at(Side::Outside, false));
    for _ in 0..9 {
        field.send(Side::Inside, &Spec::udp(inside(host, field.fresh()), to, b"x"))?;
    }
    let from = Side::Inside.host(false, host);
    let is = |seen: &Seen| seen.icmp() == Some((icmp4::UNREACHABLE, 13)) && seen.destination == from;
    field.expect(Side::Inside, "administratively prohibited", is).map(drop)
}

fn keeps_old(field: &Field) -> Result<(), Fault> {
    let [first, mapped, to] = full(field, 0)?;
    let from = inside(0, field.fresh());
    for _ in 0..3 {
        field.send(Side::Inside, &Spec::udp(from, to, b"one too many"))?;
    }
    field.nothing(Side::Outside, "a ninth mapping", |seen| seen.frame.ends_with(b"one too many"))?;
    field.admits(to, mapped, first).map(drop)
}

fn exempt(field: &Field) -> Result<(), Fault> {
    let from = inside(3, field.fresh());
    let to = SocketAddr::new(Side::Outside.host(false, 3), field.fresh());
    let seen = field.udp_out(from, to)?;
    holds(seen == from, || format!("{from} became {seen}"))?;
    field.admits(to, from, from).map(drop)
}

fn open(field: &Field) -> Result<(), Fault> {
    let from = field.at(Side::Inside, false);
    let mapped = field.udp_out(from, field.at(Side::Outside, false))?;
    let stranger = SocketAddr::new(Side::Outside.host(false, 2), field.fresh());
    field.admits(stranger, mapped, from).map(drop)
}

/// Its checksum covers the addresses; UDP between the same hosts is translated.
fn no_dccp(field: &Field) -> Result<(), Fault> {
    let to = field.at(Side::Outside, false);
    let from = inside(3, field.fresh());
    field.udp_out(from, to)?;
    let before = field.drops("nat_unsupported")?;
    field.send(Side::Inside, &Spec::new(from.ip(), to.ip(), L4::Raw { protocol: DCCP }, &[0; 24]))?;
    field.nothing(Side::Outside, "DCCP", |seen| seen.protocol == DCCP)?;
    holds(field.drops("nat_unsupported")? > before, || "it is not counted as nat_unsupported".to_owned())
}

fn resting(field: &Field) -> Result<(), Fault> {
    let again = ports_given_again(field, Duration::ZERO)?;
    holds(again.is_empty(), || format!("ports {again:?} went to another host at once"))
}

/// That ports that one host has had go to another when they have rested for so long.
fn given_again(field: &Field, rest: Duration) -> Result<(), Fault> {
    let again = ports_given_again(field, rest)?;
    // Of 64 ports one host has had 12 and the other gets 40: that it gets none of these happens about once in a million times.
    holds(!again.is_empty(), || "no port that had rested went to another host".to_owned())
}

/// Ports of a host's mappings that have ended which another host gets when so much time has passed since.
fn ports_given_again(field: &Field, rest: Duration) -> Result<Vec<u16>, Fault> {
    let to = field.at(Side::Outside, false);
    let mut rested = Vec::new();
    let mut last = inside(0, 0);
    for _ in 0..12 {
        last = inside(0, field.fresh());
        rested.push(field.udp_out(last, to)?.port());
    }
    field.forgets(last)?;
    field.reclaims()?;
    sleep(rest);
    let mut again = Vec::new();
    for _ in 0..40 {
        let port = field.udp_out(inside(1, field.fresh()), to)?.port();
        again.extend(rested.contains(&port).then_some(port));
    }
    Ok(again)
}

fn blocks(field: &Field) -> Result<(), Fault> {
    let to = field.at(Side::Outside, false);
    for host in 1..3 {
        let mut ports = Vec::new();
        for _ in 0..16 {
            ports.push(field.udp_out(inside(host, field.fresh()), to)?.port());
        }
        let block = |port: &u16| (port - 10_000) / 16;
        holds(ports.iter().all(|port| block(port) == block(&ports[0])), || format!("ports of a host are {ports:?}"))?;
    }
    for host in 1..3 {
        let lines = field.logged(&format!("inside={} ", Side::Inside.host(false, host)))?;
        let right = lines.len() == 1 && lines[0].contains("block=begin");
        holds(right, || format!("logged: {lines:?}"))?;
    }
    Ok(())
}

fn logs(field: &Field) -> Result<(), Fault> {
    let (from, to) = (inside(3, field.fresh()), field.at(Side::Outside, false));
    field.udp_out(from, to)?;
    let lines = field.logged(&format!("inside={} ", from.ip()))?;
    let destination = to.ip().to_string();
    holds(!lines.iter().any(|line| line.contains(&destination)), || format!("a destination is logged: {lines:?}"))
}

fn deterministic(field: &Field) -> Result<(), Fault> {
    // 256 inside addresses, 4 external ones, 64512 ports: 64 share an address, with 1008 ports each.
    let to = field.at(Side::Outside, false);
    for (host, third) in [(50, 0), (51, 0), (64, 1), (130, 2), (254, 3)] {
        let from = SocketAddr::new(Ipv4Addr::new(10, 1, 0, host).into(), field.fresh());
        field.send(Side::Inside, &Spec::udp(from, to, b"x"))?;
        let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == to;
        let mapped = field.expect(Side::Outside, "the datagram", is)?.from();
        let external: IpAddr = Ipv4Addr::new(198, 51, 100, 128 + third).into();
        let first = 1024 + u16::from(host % 64) * 1008;
        let right = mapped.ip() == external && (first..=first + 1007).contains(&mapped.port());
        holds(right, || format!("{from} became {mapped} instead of {external}, from {first} on"))?;
    }
    Ok(())
}
