//! Clauses about the addresses that packets may have.

use std::net::{IpAddr, SocketAddr};

use flowhop_wire::build::Spec;
use flowhop_wire::protocol;

use super::clause::{Clause, may, must, should};
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::{FEASIBLE, LOOSE, PLAIN, REGISTRY, STRICT};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(1812, "5.3.8", &PLAIN, connected, "drops sources that are its own, or on the link of another interface"),
    must(
        1812,
        "5.3.8, forwarding",
        &PLAIN,
        no_reverse_path,
        "does not look for the way back to a source unless an interface says `rpf`",
    ),
    should(3704, "2.2", &STRICT, strict, "drops with `rpf = \"strict\"` sources whose best route leads elsewhere"),
    should(3704, "2.3", &FEASIBLE, feasible, "drops with `rpf = \"feasible\"` sources to which no route leads there"),
    should(8704, "3.1", &FEASIBLE, feasible, "takes routes of any metric as feasible"),
    may(3704, "2.4", &LOOSE, loose, "drops with `rpf = \"loose\"` sources to which there is no route at all"),
    must(
        6890,
        "2.2",
        &REGISTRY,
        registry,
        "drops with `martians = \"registry\"` what IANA's registries call not forwardable, and nothing else",
    ),
    must(4291, "2.7", &PLAIN, multicast, "does not forward packets with a multicast source"),
    must(4291, "2.5.2", &PLAIN, unspecified, "does not forward packets with the unspecified address"),
];

fn ip(text: &str) -> Result<IpAddr, Fault> {
    text.parse().map_err(|_| Fault(format!("{text} is no address")))
}

/// Whether a datagram with this source gets from a side to the web server, or out.
fn passes(field: &Field, side: Side, source: &str) -> Result<bool, Fault> {
    let source = ip(source)?;
    let from = SocketAddr::new(source, field.fresh());
    let port = if side == Side::Inside { field.fresh() } else { 80 };
    let to = SocketAddr::new(side.other().host(source.is_ipv6(), 0), port);
    field.send(side, &Spec::udp(from, to, b"x"))?;
    let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.from() == from;
    Ok(field.nothing(side.other(), "it", is).is_err())
}

/// That of these sources the first ones pass from a side and the others do not.
fn only(field: &Field, side: Side, good: &[&str], bad: &[&str]) -> Result<(), Fault> {
    for source in good {
        holds(passes(field, side, source)?, || format!("{source} did not pass from {side:?}"))?;
    }
    for source in bad {
        holds(!passes(field, side, source)?, || format!("{source} passed from {side:?}"))?;
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
    let (four, six) = (Side::Inside.host(false, 1), Side::Inside.host(true, 1));
    let reaches = |source: &str| {
        let source = ip(source)?;
        let to = SocketAddr::new(if source.is_ipv4() { four } else { six }, field.fresh());
        field.send(Side::Inside, &Spec::udp(SocketAddr::new(source, 9), to, b"x"))?;
        // Inside hosts reach each other through the router, too.
        Ok::<_, Fault>(field.nothing(Side::Inside, "it", |seen| seen.to() == to).is_err())
    };
    let good = ["10.9.9.9", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "8.8.8.8", "192.0.0.9"];
    for source in good.into_iter().chain(["fd00::1", "2600::1", "100::1", "2001:1::1"]) {
        holds(reaches(source)?, || format!("{source} did not pass"))?;
    }
    let bad =
        ["0.1.1.1", "127.1.1.1", "169.254.1.1", "192.0.0.170", "192.0.2.1", "198.51.100.9", "203.0.113.1", "250.1.1.1"];
    for source in bad.into_iter().chain(["::1", "::ffff:8.8.8.8", "fe80::9", "2001:db8::1"]) {
        holds(!reaches(source)?, || format!("{source} passed"))?;
    }
    Ok(())
}
