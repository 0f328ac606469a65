//! Clauses about TCP.

use std::net::SocketAddr;

use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, FIN, PSH, RST, SYN, URG};
use flowhop_wire::{icmp4, icmp6};

use super::clause::{Clause, may, must, should};
use super::connection::Connection;
use super::field::{Fault, Field, Seen, Side, holds};
use super::icmp::{Kind, error_about};
use super::policies::{MASQUERADE, PLAIN};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    should(
        5961,
        "3.2, 9.3",
        &MASQUERADE,
        resets,
        "passes a reset in the window that is not exact, without ending anything, and no reset out of it",
    ),
    should(
        5961,
        "4.2",
        &MASQUERADE,
        challenge,
        "passes a SYN on an established connection and the challenge that answers it, without ending anything",
    ),
    may(
        5961,
        "5.2",
        &MASQUERADE,
        acknowledgments,
        "drops data that acknowledges what was never sent, or what was acknowledged long ago",
    ),
    must(9293, "3.10.7.4", &MASQUERADE, windows, "drops segments out of the window"),
    must(
        9293,
        "3.5.2",
        &PLAIN,
        rejected,
        "answers the first segment of a connection that a rule rejects with a reset that its sender accepts",
    ),
    must(9293, "3.5", &PLAIN, handshakes, "passes the handshake, repeated segments included, and simultaneous open"),
    must(9293, "3.6", &PLAIN, half_close, "passes data towards the side that has closed until the other one closes"),
    may(9293, "3.6.1", &PLAIN, reopen, "lets a new connection take the place of one in TIME-WAIT"),
    must(9293, "3.8.1", &MASQUERADE, retransmission, "passes what is sent again, whole or in part, and late"),
    may(9293, "3.8.4", &MASQUERADE, keep_alive, "passes keep-alives, which lie before the window, and their answers"),
    must(9293, "3.8.6.1", &MASQUERADE, zero_window, "passes probes of a window of zero"),
    may(9293, "3.1", &PLAIN, flags, "drops combinations of flags that no TCP sends, and segments of no connection"),
    may(5927, "4.1", &PLAIN, errors_in_window, "drops ICMP errors that quote a segment which is not under way"),
];

fn resets(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let mut connection = Connection::open(field, six)?;
        connection.talks()?;
        connection.server_sends(RST, connection.answered + 100, 0, b"")?;
        connection.at_client("an inexact reset in the window", RST)?;
        connection.talks()?;
        connection.server_sends(RST, connection.answered.wrapping_add(1 << 30), 0, b"")?;
        connection.nothing_at_client("a reset out of the window")?;
        connection.talks()?;
    }
    Ok(())
}

fn challenge(field: &Field) -> Result<(), Fault> {
    let mut connection = Connection::open(field, false)?;
    connection.talks()?;
    connection.client_sends(SYN, b"")?;
    connection.at_server("a SYN in the window", SYN)?;
    connection.server_answers(ACK, b"")?;
    connection.at_client("the challenge", ACK)?;
    connection.talks()
}

fn windows(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let mut connection = Connection::open(field, six)?;
        connection.talks()?;
        let (sequence, acknowledged) = (connection.answered, connection.sent);
        connection.server_sends(ACK, sequence.wrapping_add(1 << 28), acknowledged, b"x")?;
        connection.nothing_at_client("data beyond the window")?;
        connection.server_sends(ACK, sequence.wrapping_sub(1 << 28), acknowledged, b"x")?;
        connection.nothing_at_client("data from long ago")?;
        connection.talks()?;
    }
    Ok(())
}

fn acknowledgments(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let mut connection = Connection::open(field, six)?;
        connection.talks()?;
        let (sequence, acknowledged) = (connection.answered, connection.sent);
        connection.server_sends(ACK, sequence, acknowledged.wrapping_add(1000), b"x")?;
        connection.nothing_at_client("an acknowledgment of what was never sent")?;
        connection.server_sends(ACK, sequence, acknowledged.wrapping_sub(1 << 20), b"x")?;
        connection.nothing_at_client("an acknowledgment from long ago")?;
        connection.talks()?;
    }
    Ok(())
}

fn rejected(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let from = field.at(Side::Outside, six);
        let to = SocketAddr::new(Side::Inside.host(six, 0), 23);
        field.send(Side::Outside, &Spec::tcp(from, to, SYN, &[]).with_sequence(4711, 0))?;
        let is = |seen: &Seen| seen.to() == from && seen.from() == to;
        let reset = field.expect(Side::Outside, "the reset", is)?;
        let (flags, acknowledged) = (reset.flags(), reset.long(8));
        holds(flags == RST | ACK && acknowledged == 4712, || format!("flags {flags:#x}, acknowledges {acknowledged}"))?;
        field.nothing(Side::Inside, "what is rejected", |seen| seen.from() == from)?;
    }
    Ok(())
}

fn handshakes(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        Connection::open_patiently(field, six)?.talks()?;
        Connection::open_both(field, six)?.talks()?;
    }
    Ok(())
}

fn half_close(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let mut connection = Connection::open(field, six)?;
        connection.talks()?;
        connection.client_sends(FIN | ACK, b"")?;
        connection.at_server("the client's FIN", FIN | ACK)?;
        connection.sent += 1;
        for _ in 0..3 {
            connection.server_answers(ACK, b"more")?;
            connection.at_client("data after the FIN", ACK)?;
            connection.answered += 4;
            connection.client_sends(ACK, b"")?;
            connection.at_server("its acknowledgment", ACK)?;
        }
        connection.server_closes()?;
    }
    Ok(())
}

fn reopen(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let mut connection = Connection::open(field, six)?;
        connection.talks()?;
        connection.closes()?;
        // The last acknowledgment was lost: it is asked for again.
        connection.answered -= 1;
        connection.server_answers(FIN | ACK, b"")?;
        connection.at_client("the FIN again", FIN | ACK)?;
        connection.answered += 1;
        connection.sent += 100_000;
        connection.answered += 500_000;
        connection.opens()?;
        connection.talks()?;
    }
    Ok(())
}

fn retransmission(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let mut connection = Connection::open(field, six)?;
        connection.talks()?;
        let answered = connection.answered;
        // The first is lost beyond, the others come, then the first again, then more than that.
        for (offset, data) in [(0, &b"aaaa"[..]), (4, b"bbbb"), (8, b"cccc"), (0, b"aaaa"), (0, b"aaaabbbbcccc")] {
            connection.server_sends(ACK | PSH, answered + offset, connection.sent, data)?;
            let seen = connection.at_client("data in some order", ACK | PSH)?;
            holds(seen.frame.ends_with(data), || "data was changed".to_owned())?;
        }
        connection.answered += 12;
        connection.talks()?;
        // Long acknowledged, and sent again all the same.
        connection.server_sends(ACK | PSH, answered, connection.sent, b"aaaa")?;
        connection.at_client("data that is not needed", ACK | PSH)?;
        connection.talks()?;
    }
    Ok(())
}

fn keep_alive(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let mut connection = Connection::open(field, six)?;
        connection.talks()?;
        for data in [&b""[..], b"x"] {
            connection.server_sends(ACK, connection.answered - 1, connection.sent, data)?;
            connection.at_client("a keep-alive", ACK)?;
            connection.client_sends(ACK, b"")?;
            connection.at_server("its answer", ACK)?;
        }
        connection.talks()?;
    }
    Ok(())
}

fn zero_window(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let mut connection = Connection::open(field, six)?;
        connection.talks()?;
        connection.client_sends_window(0)?;
        connection.at_server("a window of zero", ACK)?;
        connection.server_answers(ACK, b"p")?;
        connection.at_client("the probe", ACK)?;
        connection.client_sends_window(0)?;
        connection.at_server("the answer to it", ACK)?;
        connection.talks()?;
    }
    Ok(())
}

fn flags(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let mut connection = Connection::open(field, six)?;
        connection.talks()?;
        let (sequence, acknowledged) = (connection.answered, connection.sent);
        for flags in [0, FIN, FIN | PSH | URG, SYN | FIN, SYN | RST, FIN | RST | ACK, SYN | FIN | RST | ACK | PSH | URG]
        {
            connection.server_sends(flags, sequence, acknowledged, b"")?;
            connection.nothing_at_client(&format!("flags {flags:#x}"))?;
        }
        connection.talks()?;
        // To the port that is open, of no connection.
        let (from, to) = (field.at(Side::Outside, six), SocketAddr::new(Side::Inside.host(six, 0), 80));
        for flags in [ACK, SYN | ACK, FIN | ACK, RST, RST | ACK, 0, FIN, FIN | PSH | URG] {
            field.send(Side::Outside, &Spec::tcp(from, to, flags, &[]).with_sequence(1, 1))?;
            field.nothing(Side::Inside, &format!("flags {flags:#x} of no connection"), |seen| seen.from() == from)?;
            field.nothing(Side::Outside, "an answer", |seen| seen.destination == from.ip())?;
        }
    }
    Ok(())
}

fn errors_in_window(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let mut connection = Connection::open(field, six)?;
        connection.talks()?;
        let old = {
            connection.client_sends(ACK, b"old")?;
            connection.at_server("data", ACK)?
        };
        connection.sent += 3;
        connection.talks()?;
        connection.client_sends(ACK, b"fresh")?;
        let fresh = connection.at_server("data", ACK)?;
        let kind = if six { Kind::plain(icmp6::UNREACHABLE, 4) } else { Kind::plain(icmp4::UNREACHABLE, 3) };
        let router = Side::Outside.host(six, 1);
        let is = |seen: &Seen| seen.source == router && seen.icmp().is_some();
        field.send_frame(Side::Outside, error_about(field, Side::Outside, router, &old, kind)?)?;
        field.nothing(Side::Inside, "an error about what was acknowledged", is)?;
        field.send_frame(Side::Outside, error_about(field, Side::Outside, router, &fresh, kind)?)?;
        field.expect(Side::Inside, "an error about what is under way", is)?;
    }
    Ok(())
}
