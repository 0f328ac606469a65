//! A TCP connection whose both ends are played.

use std::net::SocketAddr;

use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, FIN, SYN};

use super::field::{Fault, Field, Seen, Side, holds};

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
    /// Options of what the client and the server send, in whole words.
    pub(super) options: [&'a [u8]; 2],
}

impl<'a> Connection<'a> {
    /// One that is closed, between endpoints that nobody has used.
    pub(super) fn new(field: &'a Field, six: bool) -> Self {
        let (client, server) = (field.at(Side::Inside, six), field.at(Side::Outside, six));
        Self { field, client, external: client, server, sent: 1000, answered: 77_000, options: [&[]; 2] }
    }

    /// Opens one.
    ///
    /// # Errors
    /// When a segment of the handshake is lost.
    pub(super) fn open(field: &'a Field, six: bool) -> Result<Self, Fault> {
        let mut connection = Self::new(field, six);
        connection.opens()?;
        Ok(connection)
    }

    /// Opens it from the client.
    ///
    /// # Errors
    /// When a segment of the handshake is lost, or its options are changed.
    pub(super) fn opens(&mut self) -> Result<(), Fault> {
        self.client_sends(SYN, b"")?;
        let seen = self.at_server("the SYN", SYN)?;
        self.external = seen.from();
        holds(seen.tcp_options() == self.options[0], || format!("options of the SYN became {:?}", seen.tcp_options()))?;
        self.sent += 1;
        self.server_answers(SYN | ACK, b"")?;
        let seen = self.at_client("the SYN|ACK", SYN | ACK)?;
        let options = seen.tcp_options();
        holds(options == self.options[1], || format!("options of the SYN|ACK became {options:?}"))?;
        self.answered += 1;
        self.options = [&[]; 2];
        self.client_sends(ACK, b"")?;
        self.at_server("the last segment of the handshake", ACK).map(drop)
    }

    /// Opens one with each segment sent twice.
    ///
    /// # Errors
    /// When one is lost.
    pub(super) fn open_patiently(field: &'a Field, six: bool) -> Result<Self, Fault> {
        let mut connection = Self::new(field, six);
        for _ in 0..2 {
            connection.client_sends(SYN, b"")?;
            connection.external = connection.at_server("the SYN", SYN)?.from();
        }
        connection.sent += 1;
        for _ in 0..2 {
            connection.server_answers(SYN | ACK, b"")?;
            connection.at_client("the SYN|ACK", SYN | ACK)?;
        }
        connection.answered += 1;
        for _ in 0..2 {
            connection.client_sends(ACK, b"")?;
            connection.at_server("the last segment of the handshake", ACK)?;
        }
        Ok(connection)
    }

    /// Opens one from both sides at the same time (RFC 9293 section 3.5, figure 7).
    ///
    /// # Errors
    /// When a segment is lost.
    pub(super) fn open_both(field: &'a Field, six: bool) -> Result<Self, Fault> {
        let mut connection = Self::new(field, six);
        connection.client_sends(SYN, b"")?;
        connection.external = connection.at_server("the client's SYN", SYN)?.from();
        connection.server_answers(SYN, b"")?;
        connection.at_client("the server's SYN", SYN)?;
        connection.answered += 1;
        connection.client_sends(SYN | ACK, b"")?;
        connection.at_server("the client's SYN|ACK", SYN | ACK)?;
        connection.sent += 1;
        connection.answered -= 1;
        connection.server_answers(SYN | ACK, b"")?;
        connection.at_client("the server's SYN|ACK", SYN | ACK)?;
        connection.answered += 1;
        Ok(connection)
    }

    /// Closes it, the client first.
    ///
    /// # Errors
    /// When a segment is lost.
    pub(super) fn closes(&mut self) -> Result<(), Fault> {
        self.client_sends(FIN | ACK, b"")?;
        self.at_server("the client's FIN", FIN | ACK)?;
        self.sent += 1;
        self.server_answers(ACK, b"")?;
        self.at_client("the acknowledgment of the client's FIN", ACK)?;
        self.server_closes()
    }

    /// The server closes, too.
    ///
    /// # Errors
    /// When a segment is lost.
    pub(super) fn server_closes(&mut self) -> Result<(), Fault> {
        self.server_answers(FIN | ACK, b"")?;
        self.at_client("the server's FIN", FIN | ACK)?;
        self.answered += 1;
        self.client_sends(ACK, b"")?;
        self.at_server("the acknowledgment of the server's FIN", ACK).map(drop)
    }

    /// An acknowledgment from the client with another window.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub(super) fn client_sends_window(&self, window: u16) -> Result<(), Fault> {
        let spec = Spec::tcp(self.client, self.server, ACK, &[]).with_sequence(self.sent, self.answered);
        self.field.send(Side::Inside, &spec.with_window(window))
    }

    /// A segment from the client, without counting it.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub(super) fn client_sends(&self, flags: u8, data: &[u8]) -> Result<(), Fault> {
        let acknowledged = if flags & ACK != 0 { self.answered } else { 0 };
        self.field.send(
            Side::Inside,
            &Spec::tcp(self.client, self.server, flags, data)
                .with_sequence(self.sent, acknowledged)
                .with_tcp_options(self.options[0]),
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
        self.field.send(Side::Outside, &spec.with_tcp_options(self.options[1]))
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
