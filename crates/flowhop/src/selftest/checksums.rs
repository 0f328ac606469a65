//! Clauses about checksums: the values at which arithmetic goes wrong.
//!
//! A word of a packet is chosen so that the checksum has to come out as zero: with that word zero the checksum is seen
//! on the other side, and just this value as the word makes the sum all ones.

use flowhop_wire::build::{Checksum, Ip, Spec};
use flowhop_wire::protocol;
use flowhop_wire::tcp_flags::ACK;

use super::clause::{Clause, must};
use super::connection::Connection;
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::{MASQUERADE, PLAIN};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(768, "checksum", &MASQUERADE, no_checksum, "leaves a UDP checksum of zero, which means none, as it is"),
    must(768, "checksum", &MASQUERADE, udp_zero, "writes a UDP checksum that is zero by arithmetic as all ones"),
    must(1071, "1", &MASQUERADE, lengths, "keeps checksums right for payloads of odd and even length"),
    must(1624, "3", &MASQUERADE, ip_zero, "updates a header checksum to zero where that is right, not to all ones"),
    must(1624, "3", &MASQUERADE, tcp_zero, "updates a TCP checksum to zero where that is right, not to all ones"),
    must(6936, "5", &PLAIN, no_checksum_six, "passes UDP over IPv6 without a checksum, beside such with one"),
];

fn no_checksum(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    for _ in 0..2 {
        let spec = Spec::udp(from, to, b"x").with_checksum(Checksum::Value(0));
        let seen = field.crosses(Side::Inside, &spec, |seen| seen.protocol == protocol::UDP && seen.to() == to)?;
        holds(seen.word(6) == 0, || format!("the checksum became {:#06x}", seen.word(6)))?;
    }
    Ok(())
}

fn no_checksum_six(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, true), field.at(Side::Outside, true));
    for checksum in [Checksum::Value(0), Checksum::Full, Checksum::Value(0)] {
        let spec = Spec::udp(from, to, b"x").with_checksum(checksum);
        field.send(Side::Inside, &spec)?;
        let is = |seen: &Seen| seen.protocol == protocol::UDP && seen.to() == to;
        let seen = field.expect(Side::Outside, "the datagram", is)?;
        let none = seen.word(6) == 0;
        holds(none == (checksum == Checksum::Value(0)), || format!("the checksum became {:#06x}", seen.word(6)))?;
    }
    Ok(())
}

fn udp_zero(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let checksum = |word: u16| {
        let payload = word.to_be_bytes();
        let seen = field.crosses(Side::Inside, &Spec::udp(from, to, &payload), |seen| seen.to() == to)?;
        Ok::<u16, Fault>(seen.word(6))
    };
    for _ in 0..3 {
        let found = checksum(checksum(0)?)?;
        holds(found == 0xffff, || format!("it was written as {found:#06x}"))?;
    }
    Ok(())
}

fn lengths(field: &Field) -> Result<(), Fault> {
    const VECTOR: [u8; 9] = [0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7, 0xff];
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    for length in 0..=VECTOR.len() {
        let seen = field.crosses(Side::Inside, &Spec::udp(from, to, &VECTOR[..length]), |seen| seen.to() == to)?;
        field.send(Side::Outside, &Spec::udp(to, seen.from(), &VECTOR[..length]))?;
        field.expect(Side::Inside, "the answer", |seen| seen.to() == from)?;
    }
    Ok(())
}

fn ip_zero(field: &Field) -> Result<(), Fault> {
    let (from, to) = (field.at(Side::Inside, false), field.at(Side::Outside, false));
    let checksum = |id: u16| {
        let mut spec = Spec::udp(from, to, b"x");
        if let Ip::V4(ip) = &mut spec.ip {
            ip.id = id;
        }
        let seen = field.crosses(Side::Inside, &spec, |seen| seen.to() == to)?;
        Ok::<u16, Fault>(u16::from_be_bytes([seen.frame[24], seen.frame[25]]))
    };
    for _ in 0..3 {
        let found = checksum(checksum(0)?)?;
        holds(found == 0, || format!("it became {found:#06x}"))?;
    }
    Ok(())
}

fn tcp_zero(field: &Field) -> Result<(), Fault> {
    let mut connection = Connection::open(field, false)?;
    connection.talks()?;
    for _ in 0..3 {
        connection.client_sends(ACK, &[0, 0])?;
        let word = connection.at_server("data", ACK)?.word(16);
        connection.client_sends(ACK, &word.to_be_bytes())?;
        let found = connection.at_server("data", ACK)?.word(16);
        holds(found == 0, || format!("it became {found:#06x}"))?;
    }
    Ok(())
}
