//! Clauses about SYNs that are answered with cookies in a server's name.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN};

use super::clause::{Clause, may, must};
use super::field::{Fault, Field, Seen, Side, holds};
use super::policies::COOKIES;

/// The clauses.
pub(super) static CLAUSES: &[Clause] = &[
    may(
        4987,
        "3.6",
        &COOKIES,
        opens,
        "answers SYNs to a published service with cookies, keeps nothing of them, and opens a connection by an \
         acknowledgment alone",
    ),
    may(4987, "3.6, forged", &COOKIES, forged, "opens nothing by an acknowledgment of anything else"),
    may(
        4987,
        "3.6, options",
        &COOKIES,
        options,
        "agrees on no option in such an answer but the segment size, and tells the server that of the client",
    ),
    must(
        9293,
        "3.7.1, cookies",
        &COOKIES,
        default_size,
        "takes 536 bytes, or 1220 over IPv6, for the segment size of a client that announced none",
    ),
    must(9293, "3.4, cookies", &COOKIES, numbers, "moves the numbers of such a connection by one distance, both ways"),
    must(
        9293,
        "3.5.2, cookies",
        &COOKIES,
        refused,
        "resets the client of such a connection, with a number that it accepts, when its server refuses",
    ),
    must(3168, "6.1.1, cookies", &COOKIES, no_ecn, "does not agree on ECN in a server's name"),
];

/// The published port.
const PUBLIC: u16 = 8080;
/// The first numbers of clients and servers.
const INITIAL: u32 = u32::MAX;
const SERVERS: u32 = 77_000;

fn public(six: bool) -> SocketAddr {
    match six {
        false => (Ipv4Addr::new(198, 51, 100, 1), PUBLIC).into(),
        true => (Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1), PUBLIC).into(),
    }
}

fn server(six: bool) -> SocketAddr {
    SocketAddr::new(Side::Inside.host(six, 0), 80)
}

/// A client of the published service, and what it was answered with.
struct Client<'a> {
    field: &'a Field,
    six: bool,
    at: SocketAddr,
    cookie: u32,
}

impl<'a> Client<'a> {
    /// One that has sent a SYN.
    fn asks(field: &'a Field, six: bool, flags: u8, options: &[u8]) -> Result<(Self, Seen), Fault> {
        let at = field.at(Side::Outside, six);
        let syn = Spec::tcp(at, public(six), SYN | flags, &[]).with_sequence(INITIAL, 0).with_tcp_options(options);
        field.send(Side::Outside, &syn)?;
        let answer = field.expect(Side::Outside, "the answer", |seen| seen.to() == at && seen.from() == public(six))?;
        let acknowledged = answer.long(8);
        holds(acknowledged == INITIAL.wrapping_add(1), || format!("acknowledges {acknowledged}"))?;
        field.nothing(Side::Inside, "the SYN", |seen| seen.from() == at)?;
        Ok((Self { field, six, at, cookie: answer.long(4) }, answer))
    }

    /// Sends a segment with numbers relative to the first ones.
    fn sends(&self, flags: u8, sent: u32, heard: u32, payload: &[u8]) -> Result<(), Fault> {
        let numbers = (INITIAL.wrapping_add(1 + sent), self.cookie.wrapping_add(1 + heard));
        let spec = Spec::tcp(self.at, public(self.six), flags, payload).with_sequence(numbers.0, numbers.1);
        self.field.send(Side::Outside, &spec)
    }

    /// Acknowledges the cookie; what the server is asked.
    fn acknowledges(&self) -> Result<Seen, Fault> {
        self.sends(ACK, 0, 0, b"")?;
        let syn = self.at_server("the SYN in the client's name", SYN)?;
        let sequence = syn.long(4);
        holds(sequence == INITIAL, || format!("with the number {sequence}"))?;
        Ok(syn)
    }

    fn answers(&self, flags: u8, sequence: u32, heard: u32, payload: &[u8]) -> Result<(), Fault> {
        let spec = Spec::tcp(server(self.six), self.at, flags, payload)
            .with_sequence(sequence, INITIAL.wrapping_add(1 + heard));
        self.field.send(Side::Inside, &spec)
    }

    fn at_server(&self, what: &str, flags: u8) -> Result<Seen, Fault> {
        let (from, to) = (self.at, server(self.six));
        self.field.expect(Side::Inside, what, |seen| seen.from() == from && seen.to() == to && seen.flags() == flags)
    }

    fn at_client(&self, what: &str, flags: u8) -> Result<Seen, Fault> {
        let (from, to) = (public(self.six), self.at);
        self.field.expect(Side::Outside, what, |seen| seen.from() == from && seen.to() == to && seen.flags() == flags)
    }

    /// The server takes the connection.
    fn is_taken(&self) -> Result<(), Fault> {
        self.answers(SYN | ACK, SERVERS, 0, b"")?;
        let last = self.at_server("the last segment of the handshake", ACK)?;
        let (sequence, acknowledged) = (last.long(4), last.long(8));
        holds((sequence, acknowledged) == (INITIAL.wrapping_add(1), SERVERS + 1), || {
            format!("{sequence} acknowledges {acknowledged}")
        })
    }

    /// Both sides say something, and each hears it with the numbers that it knows. `done`: what each has said before.
    fn talks(&self, done: [u32; 2]) -> Result<(), Fault> {
        let [c, s] = done;
        self.sends(PSH | ACK, c, s, b"question")?;
        let seen = self.at_server("a question", PSH | ACK)?;
        let numbers = (seen.long(4), seen.long(8));
        holds(numbers == (INITIAL.wrapping_add(1 + c), SERVERS + 1 + s), || format!("a question with {numbers:?}"))?;
        self.answers(PSH | ACK, SERVERS + 1 + s, c + 8, b"answer")?;
        let seen = self.at_client("an answer", PSH | ACK)?;
        let numbers = (seen.long(4), seen.long(8));
        let expected = (self.cookie.wrapping_add(1 + s), INITIAL.wrapping_add(1 + c + 8));
        holds(numbers == expected, || format!("an answer with {numbers:?} in place of {expected:?}"))
    }
}

fn opens(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let (client, _) = Client::asks(field, six, 0, &[2, 4, 5, 180])?;
        holds(field.flow(client.at)?.is_none(), || "something is kept of the SYN".to_owned())?;
        client.acknowledges()?;
        client.is_taken()?;
        client.talks([0, 0])?;
    }
    Ok(())
}

fn forged(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let (client, _) = Client::asks(field, six, 0, &[])?;
        let before = field.drops("syn_cookie_refused")?;
        for wrong in [1 << 6, 1 << 12, 8] {
            client.sends(ACK, 0, wrong, b"")?;
        }
        let stranger = Client { at: field.at(Side::Outside, six), ..client };
        stranger.sends(ACK, 0, 0, b"")?;
        // Others may still be introduced to servers that have not answered them.
        let senders = [client.at, stranger.at];
        field.nothing(Side::Inside, "a connection", |seen| senders.contains(&seen.from()))?;
        let refused = field.drops("syn_cookie_refused")? - before;
        holds(refused >= 3, || format!("{refused} were refused"))?;
        holds(field.flow(client.at)?.is_none(), || "a connection was opened".to_owned())?;
    }
    Ok(())
}

fn options(field: &Field) -> Result<(), Fault> {
    let all = [2, 4, 5, 130, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    for six in [false, true] {
        let (client, answer) = Client::asks(field, six, 0, &all)?;
        let said = answer.tcp_options().to_vec();
        holds(said.len() == 4 && said[..2] == [2, 4], || format!("options {said:?}"))?;
        let syn = client.acknowledges()?;
        // The largest size that a cookie can name up to the client's 1410.
        holds(syn.tcp_options() == [2, 4, 5, 120], || format!("options of the SYN {:?}", syn.tcp_options()))?;
    }
    Ok(())
}

fn default_size(field: &Field) -> Result<(), Fault> {
    for (six, size) in [(false, 536u16), (true, 1220)] {
        let (client, answer) = Client::asks(field, six, 0, &[])?;
        holds(answer.tcp_options().is_empty(), || "an answer that is longer than what asked".to_owned())?;
        let syn = client.acknowledges()?;
        let [high, low] = size.to_be_bytes();
        holds(syn.tcp_options() == [2, 4, high, low], || format!("options of the SYN {:?}", syn.tcp_options()))?;
    }
    Ok(())
}

fn numbers(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let (client, _) = Client::asks(field, six, 0, &[2, 4, 5, 180])?;
        client.acknowledges()?;
        // Said before the server has answered.
        client.sends(PSH | ACK, 0, 0, b"question")?;
        client.is_taken()?;
        client.at_server("what was said before the server had answered", PSH | ACK)?;
        for round in 1..4 {
            client.talks([round * 8, (round - 1) * 6])?;
        }
        client.sends(FIN | ACK, 32, 18, b"")?;
        let seen = client.at_server("the client's end", FIN | ACK)?;
        holds(seen.long(8) == SERVERS + 19, || format!("acknowledges {}", seen.long(8)))?;
        client.answers(FIN | ACK, SERVERS + 19, 33, b"")?;
        let seen = client.at_client("the server's end", FIN | ACK)?;
        holds(seen.long(4) == client.cookie.wrapping_add(19), || format!("the number {}", seen.long(4)))?;
    }
    Ok(())
}

fn refused(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let (client, _) = Client::asks(field, six, 0, &[])?;
        client.acknowledges()?;
        client.answers(RST | ACK, 0, 0, b"")?;
        let reset = client.at_client("the reset", RST | ACK)?;
        let sequence = reset.long(4);
        holds(sequence == client.cookie.wrapping_add(1), || format!("a reset with the number {sequence}"))?;
    }
    Ok(())
}

fn no_ecn(field: &Field) -> Result<(), Fault> {
    for six in [false, true] {
        let (client, answer) = Client::asks(field, six, ECE | CWR, &[])?;
        holds(answer.flags() == SYN | ACK, || format!("flags {:#x}", answer.flags()))?;
        let syn = client.acknowledges()?;
        holds(syn.flags() == SYN, || format!("flags of the SYN {:#x}", syn.flags()))?;
    }
    Ok(())
}
