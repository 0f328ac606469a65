//! Clauses about the addresses that packets may have.

use std::net::{IpAddr, SocketAddr};

use flowhop_wire::build::Spec;
use flowhop_wire::protocol;

use super::clause::{Clause, may, must, should};
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::{FEASIBLE, LOOSE, PLAIN, REGISTRY, STRICT};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    may(1812, "5.3.8, links", &PLAIN, connected, "drops sources that are its own, or on the link of another interface"),
    should(
        1812,
        "5.3.8",
        &STRICT,
        strict,
        "drops with `rpf = \"strict\"` sources to which it would not route through the interface",
    ),
    must(
        1812,
        "5.3.8, default",
        &PLAIN,
        no_reverse_path,
        "does not look for a route back to a source unless an interface says `rpf`",
    ),
    may(3704, "2.2", &STRICT, strict, "drops with `rpf = \"strict\"` sources whose best route leads elsewhere"),
    may(3704, "2.3", &FEASIBLE, feasible, "drops with `rpf = \"feasible\"` sources to which no route leads there"),
    may(3704, "2.4", &LOOSE, loose, "drops with `rpf = \"loose\"` sources to which there is no route at all"),
    should(
        6890,
        "2.2.1",
        &REGISTRY,
        registry,
        "drops with `martians = \"registry\"` from and to what IANA's registries call not forwardable, and nothing else",
    ),
    must(4291, "2.7", &PLAIN, multicast, "does not forward packets with a multicast source"),
    must(4291, "2.5.2", &PLAIN, unspecified, "does not forward packets with the unspecified address"),
];

fn ip(text: &str) -> Result<IpAddr, Fault> {
    text.parse().map_err(|_| Fault(format!("{text} is no address")))
}

/// A datagram with this source, sent from a side to the web server, or out: where it would arrive, and what it is.
fn sent(field: &Field, side: Side, source: &str) -> Result<(Side, impl Fn(&Seen) -> bool + use<>), Fault> {
    let source = ip(source)?;
    let from = SocketAddr::new(source, field.fresh());
    let port = if side == Side::Inside { field.fresh() } else { 80 };
    let to = SocketAddr::new(side.other().host(source.is_ipv6(), 0), port);
    field.send(side, &Spec::udp(from, to, b"x"))?;
    Ok((side.other(), move |seen: &Seen| seen.protocol == protocol::UDP && seen.from() == from))
}

/// That of these sources the first ones pass from a side and the others do not.
fn only(field: &Field, side: Side, good: &[&str], bad: &[&str]) -> Result<(), Fault> {
    for source in good {
        let (to, is) = sent(field, side, source)?;
        field.expect(to, &format!("a packet with source {source} from {side:?}"), is)?;
    }
    for source in bad {
        let (to, is) = sent(field, side, source)?;
        field.nothing(to, &format!("a packet with source {source} from {side:?}"), is)?;
    }
    Ok(())
}

fn connected(field: &Field) -> Result<(), Fault> {
    let own = ["10.1.0.1", "198.51.100.1", "fd00:0:0:1::1", "2001:db8:0:2::1"];
    only(field, Side::Outside, &["198.51.100.99", "2001:db8:0:2::99"], &["10.1.0.99", "fd00:0:0:1::99"])?;
    only(field, Side::Inside, &["10.1.0.99", "fd00:0:0:1::99"], &["198.51.100.99", "2001:db8:0:2::99"])?;
    only(field, Side::Outside, &[], &own)?;
    only(field, Side::Inside, &[], &own)
}

fn no_reverse_path(field: &Field) -> Result<(), Fault> {
    // Of a host to which the route leads outside, and of one to which there is none.
    only(field, Side::Inside, &["203.0.113.5", "192.0.2.5", "2001:db8:99::5", "2001:db8:77::5"], &[])
}

fn strict(field: &Field) -> Result<(), Fault> {
    let bad = ["203.0.113.5", "192.0.2.5", "2001:db8:99::5", "2001:db8:77::5"];
    only(field, Side::Inside, &["10.1.0.99", "fd00:0:0:1::99"], &bad)
}

fn feasible(field: &Field) -> Result<(), Fault> {
    let good = ["10.1.0.99", "203.0.113.5", "2001:db8:99::5"];
    only(field, Side::Inside, &good, &["203.0.114.5", "192.0.2.5", "2001:db8:98::5", "2001:db8:77::5"])
}

fn loose(field: &Field) -> Result<(), Fault> {
    let good = ["10.1.0.99", "203.0.113.5", "203.0.114.5", "2001:db8:99::5", "2001:db8:98::5"];
    only(field, Side::Inside, &good, &["192.0.2.5", "2001:db8:77::5"])
}

fn multicast(field: &Field) -> Result<(), Fault> {
    for side in [Side::Inside, Side::Outside] {
        only(field, side, &[], &["224.0.1.1", "239.1.1.1", "ff02::1", "ff0e::1"])?;
    }
    Ok(())
}

fn unspecified(field: &Field) -> Result<(), Fault> {
    only(field, Side::Inside, &[], &["::"])?;
    only(field, Side::Outside, &[], &["::"])
}

fn registry(field: &Field) -> Result<(), Fault> {
    let send = |source: &str| {
        let source = ip(source)?;
        // Inside hosts reach each other through the router, too.
        let to = SocketAddr::new(Side::Inside.host(source.is_ipv6(), 1), field.fresh());
        field.send(Side::Inside, &Spec::udp(SocketAddr::new(source, 9), to, b"x"))?;
        Ok::<_, Fault>(to)
    };
    let good = ["10.9.9.9", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "8.8.8.8", "192.0.0.9"];
    for source in good.into_iter().chain(["fd00::1", "2600::1", "100::1", "2001:1::1"]) {
        let to = send(source)?;
        field.expect(Side::Inside, &format!("what {source} sent"), |seen| seen.to() == to)?;
    }
    let bad = [
        "0.1.1.1",
        "127.1.1.1",
        "169.254.1.1",
        "192.0.0.170",
        "192.0.2.1",
        "198.51.100.9",
        "203.0.113.1",
        "250.1.1.1",
        "::1",
        "::ffff:8.8.8.8",
        "fe80::9",
        "2001:db8::1",
    ];
    for address in bad {
        let to = send(address)?;
        field.nothing(Side::Inside, &format!("what {address} sent"), |seen| seen.to() == to)?;
        // Packets to these are the kernel's from the first look on.
        if ["::1", "fe80::9"].contains(&address) {
            continue;
        }
        let to = SocketAddr::new(ip(address)?, field.fresh());
        let before = dropped(field)?;
        field.send(Side::Inside, &Spec::udp(SocketAddr::new(Side::Inside.host(to.is_ipv6(), 0), 9), to, b"x"))?;
        field.nothing(Side::Outside, &format!("what was sent to {address}"), |seen| seen.to() == to)?;
        let counted = dropped(field)? - before;
        holds(counted == 1, || format!("{counted} counted as invalid of one packet to {address}"))?;
    }
    Ok(())
}

/// Packets dropped so far because of an address that none may have.
fn dropped(field: &Field) -> Result<u64, Fault> {
    let reasons =
        ["martian_destination", "loopback_address", "mapped_address", "link_local_transit", "unspecified_address"];
    reasons.iter().map(|reason| field.drops(reason)).sum()
}
