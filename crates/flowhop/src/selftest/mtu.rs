//! Clauses about packets that are too big.

use std::net::SocketAddr;

use flowhop_wire::build::{Ip, Spec};
use flowhop_wire::tcp_flags::ACK;
use flowhop_wire::{icmp4, icmp6, protocol};

use super::clause::{Clause, must, should};
use super::connection::Connection;
use super::field::{Fault, Field, Seen, Side, holds, right_header};
use super::fragments::gathered;
use super::icmp::{Kind, error_about, quoted};
use super::policies::{MASQUERADE, NARROW, PLAIN};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(791, "3.2", &NARROW, fragments, "cuts what is too big into fragments of eight-byte multiples, in order"),
    must(
        1191,
        "4",
        &NARROW,
        |field| too_big(field, false),
        "answers what is too big and must not be cut with the MTU of the next link, and quotes it as it was sent",
    ),
    must(
        5508,
        "7.1.1",
        &NARROW,
        |field| too_big(field, false),
        "answers what is too big and must not be cut, and forwards none of it",
    ),
    must(
        5508,
        "7.1.2",
        &MASQUERADE,
        |field| from_beyond(field, false),
        "passes the MTU that routers beyond the translation tell",
    ),
    must(4787, "REQ-13", &NARROW, |field| too_big(field, false), "answers a datagram with DF that is too big"),
    must(4787, "REQ-13 a", &NARROW, fragments, "cuts a datagram without DF that is too big, and sends all of it"),
    should(4787, "REQ-13 a", &NARROW, fragments, "sends the fragments in order"),
    must(1812, "5.2.5, fragments", &NARROW, reserved_bit, "copies the reserved bit of a header into its fragments"),
    must(3168, "5, fragments", &NARROW, congestion_bits, "copies the congestion bits of a header into its fragments"),
    must(
        4443,
        "3.2",
        &NARROW,
        |field| too_big(field, true),
        "answers what is too big with Packet Too Big and the MTU of the next link",
    ),
    must(4890, "4.3.1", &PLAIN, |field| from_beyond(field, true), "passes Packet Too Big with its MTU to the sender"),
    must(8201, "4", &PLAIN, below_the_least, "drops Packet Too Big with an MTU below 1280"),
    must(8200, "4.5, routers", &NARROW, no_cutting, "never cuts an IPv6 packet"),
];

/// What fits Ethernet's MTU and not that of the narrow link.
const BIG: [u8; 1400] = [0x5a; 1400];
/// The narrow link's MTU.
const MTU: u32 = 1280;

/// What an error for a packet that is too big is, by family.
const fn kind(six: bool) -> (u8, u8) {
    if six { (icmp6::PACKET_TOO_BIG, 0) } else { (icmp4::UNREACHABLE, icmp4::FRAGMENTATION_NEEDED) }
}

/// That the error about a packet from inside comes, about this endpoint, with the right MTU.
fn told(field: &Field, from: SocketAddr, to: SocketAddr) -> Result<(), Fault> {
    let is = |seen: &Seen| seen.icmp() == Some(kind(from.is_ipv6())) && seen.destination == from.ip();
    let error = field.expect(Side::Inside, "the error", is)?;
    let mtu = if from.is_ipv6() { error.long(4) } else { u32::from(error.word(6)) };
    holds(mtu == MTU, || format!("it tells an MTU of {mtu}"))?;
    let inner = quoted(&error)?;
    holds((inner.from(), inner.to()) == (from, to), || format!("it quotes {} to {}", inner.from(), inner.to()))
}

fn too_big(field: &Field, six: bool) -> Result<(), Fault> {
    // Of a new flow, and of one that is known.
    let (from, to) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
    field.send(Side::Inside, &Spec::udp(from, to, &BIG))?;
    told(field, from, to)?;
    field.udp_out(from, to)?;
    field.send(Side::Inside, &Spec::udp(from, to, &BIG))?;
    told(field, from, to)?;
    field.nothing(Side::Outside, "what is too big", |seen| seen.frame.len() > 14 + MTU as usize)?;
    let mut connection = Connection::open(field, six)?;
    connection.talks()?;
    connection.client_sends(ACK, &BIG)?;
    told(field, connection.client, connection.server)?;
    // It is sent again in parts.
    for part in BIG.chunks(1000) {
        connection.client_sends(ACK, part)?;
        connection.at_server("a part", ACK)?;
        connection.sent += part.len() as u32;
    }
    connection.talks()
}

/// Data that a server got, whose sender a router beyond tells of an MTU.
fn told_beyond(field: &Field, connection: &Connection<'_>, mtu: u16) -> Result<(), Fault> {
    let six = connection.client.is_ipv6();
    connection.client_sends(ACK, &BIG)?;
    let seen = connection.at_server("data", ACK)?;
    let seen = seen.cut(500);
    let ((number, code), [high, low]) = (kind(six), mtu.to_be_bytes());
    let router = Side::Outside.host(six, 1);
    let error = error_about(field, Side::Outside, router, &seen, Kind::with(number, code, [0, 0, high, low]))?;
    field.send_frame(Side::Outside, error)
}

fn from_beyond(field: &Field, six: bool) -> Result<(), Fault> {
    let mut connection = Connection::open(field, six)?;
    connection.talks()?;
    told_beyond(field, &connection, 1300)?;
    let is = |seen: &Seen| seen.icmp() == Some(kind(six)) && seen.destination == connection.client.ip();
    let error = field.expect(Side::Inside, "the error", is)?;
    holds(error.long(4) == 1300, || format!("an MTU of 1300 became {}", error.long(4)))?;
    let inner = quoted(&error)?;
    let right = (inner.from(), inner.to()) == (connection.client, connection.server);
    holds(right, || format!("it quotes {} to {}", inner.from(), inner.to()))
}

fn fragments(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let mapped = field.udp_out(from, to)?;
    for _ in 0..2 {
        let mut spec = Spec::udp(from, to, &BIG);
        if let Ip::V4(ip) = &mut spec.ip {
            (ip.df, ip.id) = (false, field.fresh());
        }
        field.send(Side::Inside, &spec)?;
        let data = gathered(field, Side::Outside, MTU as usize, mapped.ip())?;
        holds(data.len() == 8 + BIG.len() && data.ends_with(&BIG), || "the fragments are not the datagram".to_owned())?;
        let port = data.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
        holds(port == Some(mapped.port()), || format!("the source port is {port:?} instead of {}", mapped.port()))?;
    }
    Ok(())
}

fn below_the_least(field: &Field) -> Result<(), Fault> {
    let mut connection = Connection::open(field, true)?;
    connection.talks()?;
    let is = |seen: &Seen| seen.icmp() == Some(kind(true)) && seen.destination == connection.client.ip();
    told_beyond(field, &connection, 1279)?;
    field.nothing(Side::Inside, "an error that tells an MTU of 1279", is)?;
    told_beyond(field, &connection, 1280)?;
    field.expect(Side::Inside, "an error that tells an MTU of 1280", is).map(drop)
}

/// That a byte of the headers of both fragments of a datagram has these bits, if that of the datagram has them.
fn copied(field: &Field, at: usize, bits: u8) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    for _ in 0..2 {
        let mut spec = Spec::udp(from, to, &BIG);
        if let Ip::V4(ip) = &mut spec.ip {
            (ip.df, ip.id) = (false, field.fresh());
        }
        let mut frame = field.frame(Side::Inside, &spec)?;
        frame[at] |= bits;
        right_header(&mut frame);
        field.send_frame(Side::Inside, frame)?;
        for number in 0..2 {
            let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.destination == to.ip();
            let seen = field.expect(Side::Outside, "a fragment", is)?;
            holds(seen.frame[at] & bits == bits, || {
                format!("byte {at} of fragment {number} is {:#x}", seen.frame[at])
            })?;
        }
    }
    Ok(())
}

fn reserved_bit(field: &Field) -> Result<(), Fault> {
    copied(field, 20, 0x80)
}

fn congestion_bits(field: &Field) -> Result<(), Fault> {
    copied(field, 15, 3)
}

fn no_cutting(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, true));
    field.udp_out(from, to)?;
    field.send(Side::Inside, &Spec::udp(from, to, &BIG))?;
    field.nothing(Side::Outside, "what is too big", |seen| seen.source == from.ip())?;
    told(field, from, to)
}
