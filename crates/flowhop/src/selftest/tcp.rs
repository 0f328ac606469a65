//! Clauses about TCP.

use std::net::SocketAddr;

use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, RST, SYN};

use super::clause::Clause;
use super::clause::How::Tried;
use super::clause::Level::Must;
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::{MASQUERADE, PLAIN};

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    Clause {
        rfc: 5961,
        clause: "3.2",
        level: Must,
        does: "passes a reset in the window that is not exact, without ending anything, and no reset out of it",
        how: Tried(&MASQUERADE, resets),
    },
    Clause {
        rfc: 5961,
        clause: "4.2",
        level: Must,
        does: "passes a SYN on an established connection and the challenge that answers it, without ending anything",
        how: Tried(&MASQUERADE, challenge),
    },
    Clause {
        rfc: 9293,
        clause: "3.10.7.4",
        level: Must,
        does: "drops segments out of the window and acknowledgments of what was never sent",
        how: Tried(&MASQUERADE, windows),
    },
    Clause {
        rfc: 9293,
        clause: "3.5.2",
        level: Must,
        does: "answers the first segment of a connection that a rule rejects with a reset that its sender accepts",
        how: Tried(&PLAIN, rejected),
    },
];

/// A TCP connection from inside to outside; sequence numbers are those of the next bytes.
pub(super) struct Connection<'a> {
    field: &'a Field,
    /// The client, inside.
    pub(super) client: SocketAddr,
    /// The client as the server sees it.
    pub(super) external: SocketAddr,
    /// The server.
    pub(super) server: SocketAddr,
    /// The client's next byte.
    pub(super) sent: u32,
    /// The server's.
    pub(super) answered: u32,
}

impl<'a> Connection<'a> {
    /// Opens one.
    ///
    /// # Errors
    /// When a segment of the handshake is lost.
    pub(super) fn open(field: &'a Field, six: bool) -> Result<Self, Fault> {
        let (client, server) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
        let mut connection = Self { field, client, external: client, server, sent: 1000, answered: 77_000 };
        connection.client_sends(SYN, b"")?;
        connection.external = connection.at_server("the SYN", SYN)?.from();
        connection.sent += 1;
        connection.server_answers(SYN | ACK, b"")?;
        connection.at_client("the SYN|ACK", SYN | ACK)?;
        connection.answered += 1;
        connection.client_sends(ACK, b"")?;
        connection.at_server("the last segment of the handshake", ACK)?;
        Ok(connection)
    }

    /// A segment from the client, without counting it.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub(super) fn client_sends(&self, flags: u8, data: &[u8]) -> Result<(), Fault> {
        let acknowledged = if flags & ACK != 0 { self.answered } else { 0 };
        self.field.send(
            Side::Inside,
            &Spec::tcp(self.client, self.server, flags, data).with_sequence(self.sent, acknowledged),
        )
    }

    /// A segment from the server, without counting it.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub(super) fn server_answers(&self, flags: u8, data: &[u8]) -> Result<(), Fault> {
        let acknowledged = if flags & ACK != 0 { self.sent } else { 0 };
        self.server_sends(flags, self.answered, acknowledged, data)
    }

    /// A segment from the server with these numbers.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub(super) fn server_sends(&self, flags: u8, sequence: u32, acknowledged: u32, data: &[u8]) -> Result<(), Fault> {
        let spec = Spec::tcp(self.server, self.external, flags, data).with_sequence(sequence, acknowledged);
        self.field.send(Side::Outside, &spec)
    }

    /// What arrives at the server.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn at_server(&self, what: &str, flags: u8) -> Result<Seen, Fault> {
        self.field.expect(Side::Outside, what, |seen| seen.to() == self.server && seen.flags() == flags)
    }

    /// What arrives at the client.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn at_client(&self, what: &str, flags: u8) -> Result<Seen, Fault> {
        self.field.expect(Side::Inside, what, |seen| seen.to() == self.client && seen.flags() == flags)
    }

    /// That nothing of the server's arrives at the client.
    ///
    /// # Errors
    /// When something does.
    pub(super) fn nothing_at_client(&self, what: &str) -> Result<(), Fault> {
        self.field.nothing(Side::Inside, what, |seen| seen.from() == self.server)
    }

    /// Data both ways.
    ///
    /// # Errors
    /// When it does not arrive.
    pub(super) fn talks(&mut self) -> Result<(), Fault> {
        self.client_sends(ACK, b"question")?;
        let seen = self.at_server("data of the client", ACK)?;
        holds(seen.frame.ends_with(b"question"), || "data of the client was changed".to_owned())?;
        self.sent += 8;
        self.server_answers(ACK, b"answer")?;
        self.at_client("data of the server", ACK)?;
        self.answered += 6;
        self.client_sends(ACK, b"")?;
        self.at_server("an acknowledgment", ACK).map(drop)
    }
}

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
        connection.server_sends(ACK, sequence, acknowledged.wrapping_add(1000), b"x")?;
        connection.nothing_at_client("an acknowledgment of what was never sent")?;
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
