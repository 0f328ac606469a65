//! Clauses about what TCP negotiates: it has to get through unharmed.

use flowhop_wire::build::{Ip, Spec, V4, V6};
use flowhop_wire::tcp_flags::{ACK, SYN};

use super::clause::{Clause, must};
use super::connection::Connection;
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::{MASQUERADE, PLAIN};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    must(
        7323,
        "2.2",
        &MASQUERADE,
        scaling,
        "scales windows by what both SYNs say, and does not if one of them says nothing",
    ),
    must(7323, "2.3", &MASQUERADE, largest_scale, "takes shifts above 14 as 14"),
    must(7323, "3.2", &PLAIN, timestamps, "passes timestamps as they are"),
    must(2018, "3", &PLAIN, selective, "passes selective acknowledgments as they are, permitted and used"),
    must(7413, "4.2", &MASQUERADE, data_in_syn, "passes data in SYN segments with its cookie, acknowledged or not"),
    must(8684, "3", &PLAIN, multipath, "passes options of Multipath TCP as they are, in all segments"),
    must(3168, "6.1", &MASQUERADE, congestion_flags, "passes the flags ECE and CWR of all segments"),
    must(3168, "5", &MASQUERADE, congestion_bits, "passes the congestion bits of IP headers in all their values"),
    must(9768, "2", &MASQUERADE, accurate, "passes the three flags of accurate ECN in all their values"),
];

/// The byte of the flags that the kernel of TCP does not name: AE is its lowest bit.
const HIGH_FLAGS: usize = 12;

const SCALE_0: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 0];
const SCALE_10: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 10];
const SCALE_14: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 14];
const SCALE_200: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 200];
const NO_SCALE: &[u8] = &[2, 4, 5, 0xb4];

/// A connection with these options.
fn with<'a>(field: &'a Field, six: bool, client: &'a [u8], server: &'a [u8]) -> Result<Connection<'a>, Fault> {
    let mut connection = Connection::new(field, six);
    connection.options = [client, server];
    connection.opens()?;
    Ok(connection)
}

/// Whether data so far ahead of what the client has acknowledged gets to it.
fn reaches(connection: &Connection<'_>, ahead: u32) -> Result<bool, Fault> {
    connection.server_sends(ACK, connection.answered.wrapping_add(ahead), connection.sent, b"x")?;
    Ok(connection.nothing_at_client("data").is_err())
}

fn scaling(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        // The client's window is 65535, times 1024 if both scale.
        let mut connection = with(field, six, SCALE_10, SCALE_0)?;
        connection.talks()?;
        holds(reaches(&connection, 60_000_000)?, || "a window that is scaled was not used up".to_owned())?;
        holds(!reaches(&connection, 68_000_000)?, || "what is beyond a window that is scaled passed".to_owned())?;
        let mut connection = with(field, six, SCALE_10, NO_SCALE)?;
        connection.talks()?;
        holds(reaches(&connection, 60_000)?, || "a window without scaling was not used up".to_owned())?;
        holds(!reaches(&connection, 300_000)?, || "a window was scaled that one side does not scale".to_owned())?;
    }
    Ok(())
}

fn largest_scale(field: &Field) -> Result<(), Fault> {
    let mut connection = with(field, false, SCALE_200, SCALE_14)?;
    connection.talks()?;
    holds(reaches(&connection, 1 << 29)?, || "a shift of 200 was not taken as 14".to_owned())?;
    holds(!reaches(&connection, (1 << 30) + (1 << 20))?, || "a shift of 200 was taken as more than 14".to_owned())
}

/// That segments of both sides with these options arrive with them.
fn carries(connection: &mut Connection<'_>, options: [&'static [u8]; 2]) -> Result<(), Fault> {
    connection.options = options;
    connection.client_sends(ACK, b"x")?;
    let seen = connection.at_server("a segment with options", ACK)?;
    holds(seen.tcp_options() == options[0], || format!("{:?} became {:?}", options[0], seen.tcp_options()))?;
    connection.sent += 1;
    connection.server_answers(ACK, b"x")?;
    let seen = connection.at_client("a segment with options", ACK)?;
    holds(seen.tcp_options() == options[1], || format!("{:?} became {:?}", options[1], seen.tcp_options()))?;
    connection.answered += 1;
    connection.options = [&[]; 2];
    Ok(())
}

fn timestamps(field: &Field) -> Result<(), Fault> {
    const FIRST: &[u8] = &[1, 1, 8, 10, 0, 0, 1, 0, 0, 0, 0, 0];
    const SECOND: &[u8] = &[1, 1, 8, 10, 0xff, 0xff, 1, 0, 0, 0, 1, 0];
    for six in [false, true] {
        let mut connection = with(field, six, FIRST, SECOND)?;
        connection.talks()?;
        carries(&mut connection, [FIRST, SECOND])?;
    }
    Ok(())
}

fn selective(field: &Field) -> Result<(), Fault> {
    const PERMITTED: &[u8] = &[1, 1, 4, 2];
    for six in [false, true] {
        let mut connection = with(field, six, PERMITTED, PERMITTED)?;
        connection.talks()?;
        // The first of two segments was lost.
        connection.server_sends(ACK, connection.answered + 100, connection.sent, &[7; 100])?;
        connection.at_client("the second segment", ACK)?;
        let (left, right) = (connection.answered + 100, connection.answered + 200);
        let block = [&[1, 1, 5, 10][..], &left.to_be_bytes(), &right.to_be_bytes()].concat();
        let spec = Spec::tcp(connection.client, connection.server, ACK, &[])
            .with_sequence(connection.sent, connection.answered)
            .with_tcp_options(&block);
        let seen = field.crosses(Side::Inside, &spec, |seen| seen.to() == connection.server)?;
        holds(seen.tcp_options() == block, || format!("{block:?} became {:?}", seen.tcp_options()))?;
        connection.server_answers(ACK, &[7; 100])?;
        connection.at_client("the first segment", ACK)?;
        connection.answered += 200;
        connection.talks()?;
    }
    Ok(())
}

fn data_in_syn(field: &Field) -> Result<(), Fault> {
    const ASK: &[u8] = &[1, 1, 34, 2];
    const COOKIE: &[u8] = &[1, 1, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    for six in [false, true] {
        for (taken, options) in [(8, [COOKIE, &[][..]]), (0, [COOKIE, COOKIE]), (0, [ASK, COOKIE])] {
            let mut connection = Connection::new(field, six);
            connection.options = options;
            connection.client_sends(SYN, b"question")?;
            let seen = connection.at_server("a SYN with data", SYN)?;
            let same = seen.tcp_options() == options[0] && seen.frame.ends_with(b"question");
            holds(same, || "the SYN was changed".to_owned())?;
            connection.external = seen.from();
            connection.sent += 1 + taken;
            connection.server_answers(SYN | ACK, b"")?;
            let seen = connection.at_client("the SYN|ACK", SYN | ACK)?;
            holds(seen.tcp_options() == options[1], || "the SYN|ACK was changed".to_owned())?;
            connection.answered += 1;
            connection.options = [&[]; 2];
            // The server may answer before the handshake is over.
            connection.server_answers(ACK, b"answer")?;
            connection.at_client("an early answer", ACK)?;
            connection.answered += 6;
            connection.client_sends(ACK, b"")?;
            connection.at_server("an acknowledgment", ACK)?;
            connection.talks()?;
        }
    }
    Ok(())
}

fn multipath(field: &Field) -> Result<(), Fault> {
    const CAPABLE: &[u8] = &[30, 12, 0x01, 0x81, 1, 2, 3, 4, 5, 6, 7, 8];
    const SIGNAL: &[u8] = &[30, 20, 0x20, 0x05, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 4, 0, 0];
    const ADDRESS: &[u8] = &[30, 8, 0x30, 1, 10, 1, 0, 50];
    for six in [false, true] {
        let mut connection = with(field, six, &[30, 4, 0x01, 0x81], CAPABLE)?;
        connection.talks()?;
        carries(&mut connection, [SIGNAL, ADDRESS])?;
        carries(&mut connection, [ADDRESS, SIGNAL])?;
    }
    Ok(())
}

const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// The same with these flags beside those that are there; `high` is the low half of the byte before the flags.
fn flagged(field: &Field, side: Side, spec: &Spec<'_>, flags: u8, high: u8) -> Result<Vec<u8>, Fault> {
    let mut frame = field.frame(side, spec)?;
    let at = spec.l4_offset();
    frame[at + HIGH_FLAGS] |= high;
    frame[at + 13] |= flags;
    frame[at + 16..at + 18].fill(0);
    let length = frame.len() - at;
    let pseudo = match spec.ip {
        Ip::V4(V4 { source, destination, .. }) => {
            flowhop_wire::checksum::pseudo_v4(source, destination, 6, length as u16)
        }
        Ip::V6(V6 { source, destination, .. }) => {
            flowhop_wire::checksum::pseudo_v6(source, destination, 6, length as u32)
        }
    };
    let sum = flowhop_wire::checksum::finish(pseudo + flowhop_wire::checksum::sum(&frame[at..]));
    frame[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
    Ok(frame)
}

/// A handshake and data whose SYN, SYN|ACK and data have these flags beside the usual ones.
fn passes_flags(field: &Field, six: bool, sets: [(u8, u8); 3]) -> Result<(), Fault> {
    let mut connection = Connection::new(field, six);
    let check = |seen: &Seen, (flags, high): (u8, u8)| {
        let found = (seen.l4()[13] & (ECE | CWR), seen.l4()[HIGH_FLAGS] & 15);
        holds(found == (flags, high), || format!("flags {flags:#x} {high:#x} became {found:x?}"))
    };
    let syn = Spec::tcp(connection.client, connection.server, SYN, &[]).with_sequence(connection.sent, 0);
    field.send_frame(Side::Inside, flagged(field, Side::Inside, &syn, sets[0].0, sets[0].1)?)?;
    let seen = field.expect(Side::Outside, "the SYN", |seen| seen.to() == connection.server)?;
    check(&seen, sets[0])?;
    connection.external = seen.from();
    connection.sent += 1;
    let answer = Spec::tcp(connection.server, connection.external, SYN | ACK, &[])
        .with_sequence(connection.answered, connection.sent);
    field.send_frame(Side::Outside, flagged(field, Side::Outside, &answer, sets[1].0, sets[1].1)?)?;
    check(&field.expect(Side::Inside, "the SYN|ACK", |seen| seen.to() == connection.client)?, sets[1])?;
    connection.answered += 1;
    connection.talks()?;
    let data =
        Spec::tcp(connection.client, connection.server, ACK, b"x").with_sequence(connection.sent, connection.answered);
    field.send_frame(Side::Inside, flagged(field, Side::Inside, &data, sets[2].0, sets[2].1)?)?;
    check(&field.expect(Side::Outside, "data", |seen| seen.to() == connection.server)?, sets[2])?;
    connection.sent += 1;
    connection.talks()
}

fn congestion_flags(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        passes_flags(field, six, [(ECE | CWR, 0), (ECE, 0), (CWR, 0)])?;
        passes_flags(field, six, [(ECE | CWR, 0), (ECE, 0), (ECE, 0)])?;
    }
    Ok(())
}

fn accurate(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        for number in 0..8 {
            let bits = ((number & 3) << 6, number >> 2);
            passes_flags(field, six, [(ECE | CWR, 1), bits, bits])?;
        }
    }
    Ok(())
}

fn congestion_bits(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let mut connection = Connection::open(field, six)?;
        connection.talks()?;
        for value in 0..4 {
            let mut spec = Spec::tcp(connection.client, connection.server, ACK, b"x")
                .with_sequence(connection.sent, connection.answered)
                .with_dscp(10);
            match &mut spec.ip {
                Ip::V4(ip) => ip.ecn = value,
                Ip::V6(ip) => ip.ecn = value,
            }
            let seen = field.crosses(Side::Inside, &spec, |seen| seen.to() == connection.server)?;
            connection.sent += 1;
            let class = if six { (seen.frame[14] << 4) | (seen.frame[15] >> 4) } else { seen.frame[15] };
            holds(class == 10 << 2 | value, || format!("bits {value} became {:#x}", class & 3))?;
        }
        connection.talks()?;
    }
    Ok(())
}
