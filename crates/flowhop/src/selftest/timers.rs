//! Clauses about how long mappings and connections last.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use flowhop_wire::build::Spec;
use flowhop_wire::icmp4;
use flowhop_wire::tcp_flags::{ACK, FIN, RST};

use super::clause::{Clause, may, must, should};
use super::connection::Connection;
use super::field::{Fault, Field, Side, holds};
use super::icmp::{Kind, error_about};
use super::nat_tcp::{refuse, syn_out};
use super::policies::{MASQUERADE, QUICK, TIMEOUTS};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(
        4787,
        "REQ-5",
        &MASQUERADE,
        udp_default,
        "keeps UDP mappings for more than 120 seconds, unless `[timeouts]` has less, of which it warns",
    ),
    should(4787, "REQ-5 c", &MASQUERADE, udp_default, "keeps UDP mappings for 300 seconds by default"),
    may(4787, "REQ-5 b", &QUICK, udp_expires, "keeps them for as long as `[timeouts]` says, and no longer"),
    must(4787, "REQ-6", &QUICK, outbound_refresh, "keeps a mapping alive by what goes out through it"),
    must(
        5382,
        "REQ-5",
        &MASQUERADE,
        tcp_defaults,
        "keeps established connections for 7440 idle seconds, opening and closing ones for 240",
    ),
    must(5508, "REQ-2", &MASQUERADE, icmp_default, "keeps mappings of ICMP queries for 60 seconds by default"),
    should(5508, "REQ-2 a", &QUICK, icmp_expires, "keeps them for as long as `[timeouts]` says, and no longer"),
    should(
        7857,
        "2",
        &MASQUERADE,
        tcp_defaults,
        "follows the state of connections from both sides' segments: opening, established, closing",
    ),
    should(7857, "2.1", &TIMEOUTS, tcp_expires, "has a timeout for what opens, and another for what closes"),
    may(5382, "REQ-5 a", &TIMEOUTS, tcp_expires, "has these timeouts in the policy"),
    should(7857, "2.1, default", &MASQUERADE, tcp_defaults, "keeps what opens or closes for four minutes by default"),
    must(7857, "2.2", &MASQUERADE, reset_stays, "translates a reset as the mapping has it"),
    should(
        7857,
        "2.2, four minutes",
        &MASQUERADE,
        reset_stays,
        "keeps the connection after a reset until it has been silent for four minutes",
    ),
    should(
        7857,
        "7",
        &QUICK,
        no_inbound_refresh,
        "does not keep the connection of a stranger, and its mapping, alive by what the stranger sends; \
         the external port is nobody else's until such a connection has ended",
    ),
    should(
        7857,
        "7.1",
        &QUICK,
        answers_do_not_refresh,
        "does not keep the connection of a stranger, and its mapping, alive by resets and ICMP errors that answer it",
    ),
    may(7857, "11", &QUICK, icmp_expires, "ends the mapping of an ICMP query with its last session"),
];

/// A step that is clearly shorter than the two seconds of [`QUICK`].
const STEP: Duration = Duration::from_millis(800);

fn expect_timeout(field: &Field, from: SocketAddr, what: &str, expected: u32) -> Result<(), Fault> {
    let timeout = field.timeout(from)?;
    holds((timeout - f64::from(expected)).abs() < 0.01, || {
        format!("{what} lasts for {timeout} s instead of {expected}")
    })
}

fn udp_default(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mapped = field.udp_out(from, to)?;
    expect_timeout(field, from, "a datagram", 300)?;
    field.admits(to, mapped, from)?;
    expect_timeout(field, from, "an exchange", 300)
}

fn udp_expires(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mapped = field.udp_out(from, to)?;
    sleep(STEP);
    field.admits(to, mapped, from)?;
    field.forgets(from)?;
    // The mapping goes when no packet can be under way by the connection any more.
    sleep(STEP);
    field.refuses(to, mapped, from)
}

fn outbound_refresh(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mapped = field.udp_out(from, to)?;
    for _ in 0..4 {
        sleep(STEP);
        let again = field.udp_out(from, to)?;
        holds(again == mapped, || format!("{mapped} became {again}"))?;
    }
    field.admits(to, mapped, from).map(drop)
}

fn tcp_defaults(field: &Field) -> Result<(), Fault> {
    let opening = field.at(Side::Inside, false);
    syn_out(field, opening, field.at(Side::Outside, false))?;
    expect_timeout(field, opening, "a SYN", 240)?;
    let mut connection = Connection::open(field, false)?;
    connection.talks()?;
    expect_timeout(field, connection.client, "an established connection", 7440)?;
    connection.closes()?;
    expect_timeout(field, connection.client, "a closed connection", 240)
}

fn tcp_expires(field: &Field) -> Result<(), Fault> {
    let opening = field.at(Side::Inside, false);
    syn_out(field, opening, field.at(Side::Outside, false))?;
    expect_timeout(field, opening, "a SYN", 2)?;
    let mut connection = Connection::open(field, false)?;
    connection.talks()?;
    expect_timeout(field, connection.client, "an established connection", 4)?;
    connection.client_sends(FIN | ACK, b"")?;
    connection.at_server("the FIN", FIN | ACK)?;
    expect_timeout(field, connection.client, "a closing connection", 3)?;
    field.forgets(opening)?;
    field.forgets(connection.client)?;
    connection.server_answers(ACK, b"late")?;
    connection.nothing_at_client("a segment of what has ended")
}

fn icmp_default(field: &Field) -> Result<(), Fault> {
    echo(field).and_then(|from| expect_timeout(field, from, "an echo request", 60))
}

/// An echo request that went out; its source and identifier.
fn echo(field: &Field) -> Result<SocketAddr, Fault> {
    let (from, to) = (field.at(Side::Inside, false), Side::Outside.host(false, 0));
    let request = Spec::echo_request(from.ip(), to, from.port(), 1, b"x");
    field.crosses(Side::Inside, &request, |seen| seen.icmp() == Some((icmp4::ECHO_REQUEST, 0)))?;
    Ok(from)
}

fn icmp_expires(field: &Field) -> Result<(), Fault> {
    let from = echo(field)?;
    expect_timeout(field, from, "an echo request", 2)?;
    field.forgets(from)?;
    let nat = field.show("nat")?.to_string();
    holds(!nat.contains(&format!("\"{from}\"")), || format!("there is still a mapping of {from}"))
}

fn reset_stays(field: &Field) -> Result<(), Fault> {
    let mut connection = Connection::open(field, false)?;
    connection.talks()?;
    connection.server_answers(RST, b"")?;
    connection.at_client("the reset", RST)?;
    let flow = field.flow(connection.client)?.ok_or_else(|| Fault("the connection is gone".to_owned()))?;
    let right = flow["state"] == "reset" && flow["timeout_s"] == 240.0;
    holds(right, || format!("its state is {}, it lasts for {} s", flow["state"], flow["timeout_s"]))?;
    // It was not the end: what the client sends still passes.
    connection.client_sends(ACK, b"still here")?;
    connection.at_server("data after the reset", ACK).map(drop)
}

/// A mapping, and a stranger that sends to it once.
fn with_stranger(field: &Field) -> Result<[SocketAddr; 3], Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mapped = field.udp_out(from, to)?;
    let stranger = SocketAddr::new(Side::Outside.host(false, 1), field.fresh());
    field.admits(stranger, mapped, from)?;
    Ok([from, mapped, stranger])
}

fn no_inbound_refresh(field: &Field) -> Result<(), Fault> {
    let [from, mapped, stranger] = with_stranger(field)?;
    for _ in 0..5 {
        sleep(STEP);
        field.send(Side::Outside, &Spec::udp(stranger, mapped, b"again"))?;
    }
    field.drain(Side::Inside)?;
    field.refuses(stranger, mapped, from)
}

fn answers_do_not_refresh(field: &Field) -> Result<(), Fault> {
    // ICMP errors.
    let [from, mapped, stranger] = with_stranger(field)?;
    let seen = field.admits(stranger, mapped, from)?;
    for _ in 0..5 {
        sleep(STEP);
        let error = error_about_inside(field, from, &seen)?;
        field.send_frame(Side::Inside, error)?;
    }
    field.refuses(stranger, mapped, from)?;
    // Resets.
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mapped = syn_out(field, from, to)?;
    let stranger = SocketAddr::new(Side::Outside.host(false, 1), field.fresh());
    let syn = Spec::tcp(stranger, mapped, flowhop_wire::tcp_flags::SYN, &[]).with_sequence(5000, 0);
    field.crosses(Side::Outside, &syn, |seen| seen.to() == from)?;
    refuse(field, from, stranger)?;
    for _ in 0..5 {
        sleep(STEP);
        field.send(Side::Inside, &Spec::tcp(from, stranger, RST | ACK, &[]).with_sequence(0, 5001))?;
    }
    field.drain(Side::Inside)?;
    field.send(Side::Outside, &syn)?;
    field.nothing(Side::Inside, "a SYN to what has ended", |seen| seen.to() == from)
}

/// Port unreachable, by an inside host about a datagram that it got.
fn error_about_inside(field: &Field, from: SocketAddr, seen: &super::field::Seen) -> Result<Vec<u8>, Fault> {
    error_about(field, Side::Inside, from.ip(), seen, Kind::plain(icmp4::UNREACHABLE, 3))
}
