//! File transfer (RFC 959, RFC 2428): which lines of a control connection announce a data connection.
//!
//! # What
//! A client that says `PORT` or `EPRT` listens, and the server connects to it; when the server answers `PASV` with 227, or
//! `EPSV` with 229, it is the other way round. A line is read when its end has come, also when it comes in pieces; of a line
//! longer than [`LINE`] only the first bytes are kept.
//!
//! # Rules
//! Who could have what they like passed on would have a way through the firewall, so:
//! * commands count only after the server has said something; a reply counts only to a command that asked for it;
//! * a `PORT` or `EPRT` that is not just what the RFC says is refused, because a server may read more in it; so is a line
//!   that is one for a server that takes out Telnet's commands, or passes over what is in front of the verb;
//! * after `AUTH` was accepted (RFC 4217) nothing can be read, and nothing is looked for. The first reply to it says so, and
//!   not a line in one of several lines.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

/// Bytes of a line that are kept.
pub const LINE: usize = 512;
/// Data connections that one piece of payload may announce.
pub const AT_ONCE: usize = flowhop_engine::shift::AT_ONCE;
/// Commands of Telnet, which may stand in front of a line (RFC 854, RFC 959 section 3.1.1 "ABOR").
const INTERPRET_AS_COMMAND: u8 = 255;
const WITH_OPTION: std::ops::RangeInclusive<u8> = 251..=254;
/// Those without an option. One that is sent as urgent data may lose its first byte on the way (RFC 854 "Synch").
const ALONE: std::ops::RangeInclusive<u8> = 240..=250;

/// How a data connection is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `h1,h2,h3,h4,p1,p2`: `PORT`, and the reply to `PASV`.
    Numbers,
    /// Address and port between a delimiter: `EPRT`.
    Extended(u8),
    /// The port alone: the reply to `EPSV`.
    Port,
}

impl Form {
    /// How an address and a port are written in this form; `None` for an address that has no such form.
    #[must_use]
    pub fn text(self, address: IpAddr, port: u16) -> Option<Vec<u8>> {
        match (self, address) {
            (Self::Numbers, IpAddr::V4(v4)) => {
                let [a, b, c, d] = v4.octets();
                let [high, low] = port.to_be_bytes();
                Some(format!("{a},{b},{c},{d},{high},{low}").into_bytes())
            }
            (Self::Numbers, IpAddr::V6(_)) => None,
            (Self::Extended(delimiter), _) => Some(format!("{address}{}{port}", char::from(delimiter)).into_bytes()),
            (Self::Port, _) => Some(port.to_string().into_bytes()),
        }
    }
}

/// What a line means for the firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Who says it listens here.
    Listens {
        /// Address; `None`: that of the control connection.
        address: Option<IpAddr>,
        /// Port.
        port: u16,
        /// How it was written.
        form: Form,
        /// Where, in bytes from the start of the payload; negative where that was in an earlier piece.
        place: Range<isize>,
        /// What of it came in earlier pieces.
        gone: Vec<u8>,
    },
    /// A command that must not be passed on.
    Refused,
    /// A reply that is not acted on.
    Declined,
}

/// A reply that a command has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passive {
    Numbers,
    Port,
}

/// The beginning of a line whose end has not come.
#[derive(Clone, Debug, Default)]
struct Begun {
    head: Vec<u8>,
    /// Bytes, those that are not kept included.
    length: usize,
}

/// A control connection.
#[derive(Clone, Debug, Default)]
pub struct Dialogue {
    /// Of the client, of the server.
    begun: [Begun; 2],
    /// The server has said something.
    greeted: bool,
    asked: Option<Passive>,
    /// The code of a reply of several lines that has begun (RFC 959 section 4.2).
    several: Option<[u8; 3]>,
    /// `AUTH` was said and not answered.
    offered: bool,
    encrypted: bool,
}

/// Address, port, form and place in its line.
type Named = (Option<IpAddr>, u16, Form, Range<usize>);

impl Dialogue {
    /// One that is in its middle.
    #[must_use]
    pub fn running() -> Self {
        Self { greeted: true, ..Self::default() }
    }

    /// What the client (direction 0) or the server (1) says next.
    pub fn hear(&mut self, direction: usize, payload: &[u8]) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut at = 0;
        for piece in payload.split_inclusive(|byte| *byte == b'\n') {
            if self.encrypted {
                break;
            }
            let begun = &mut self.begun[direction & 1];
            let before = begun.length;
            begun.length = begun.length.saturating_add(piece.len());
            let room = LINE - begun.head.len().min(LINE);
            begun.head.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
            if piece.ends_with(b"\n") {
                let Begun { head, length } = std::mem::take(begun);
                let line = Line { text: &head, whole: head.len() == length, before, at };
                let meaning = if direction == 0 { self.command(&line) } else { self.reply(&line) };
                heard.extend(meaning);
            }
            at += piece.len();
        }
        heard
    }

    fn command(&mut self, line: &Line<'_>) -> Option<Heard> {
        let (verb, argument) = line.command();
        if line.hides_a_port(verb) {
            return Some(Heard::Refused);
        }
        let named = match verb.to_ascii_uppercase().as_slice() {
            b"PORT" => line.numbers(argument),
            b"EPRT" => line.extended(argument),
            b"AUTH" => {
                self.offered = true;
                return None;
            }
            b"PASV" => {
                self.asked = Some(Passive::Numbers);
                return None;
            }
            b"EPSV" => {
                let all = line.text.get(argument).unwrap_or_default().eq_ignore_ascii_case(b"ALL");
                self.asked = if all { self.asked } else { Some(Passive::Port) };
                return None;
            }
            _ => return None,
        };
        match named.filter(|_| line.whole && self.greeted) {
            Some(named) => Some(line.listens(named)),
            None => Some(Heard::Refused),
        }
    }

    fn reply(&mut self, line: &Line<'_>) -> Option<Heard> {
        let [a, b, c, more, ..] = line.text else { return None };
        if ![a, b, c].into_iter().all(u8::is_ascii_digit) {
            return None;
        }
        self.greeted = true;
        let (code, ends) = ([*a, *b, *c], *more == b' ');
        if self.several.is_some_and(|begun| begun != code) {
            return None;
        }
        self.several = (*more == b'-').then_some(code);
        let offered = self.offered && ends;
        self.offered &= !ends;
        let named = match (&code, self.asked) {
            (b"234", _) if offered => {
                self.encrypted = true;
                return None;
            }
            (b"227", Some(Passive::Numbers)) if ends => line.passive(),
            (b"229", Some(Passive::Port)) if ends => line.extended_passive(),
            (b"227" | b"229", _) if ends => None,
            _ => return None,
        };
        self.asked = None;
        Some(named.filter(|_| line.whole).map_or(Heard::Declined, |named| line.listens(named)))
    }
}

/// A line, or the beginning of a long one.
struct Line<'a> {
    text: &'a [u8],
    whole: bool,
    /// Bytes of it that came in earlier pieces.
    before: usize,
    /// Where the rest of it begins in the payload.
    at: usize,
}

impl Line<'_> {
    /// The verb of a command, and where its argument is.
    fn command(&self) -> (&[u8], Range<usize>) {
        let mut first = 0;
        while let Some([INTERPRET_AS_COMMAND, command, ..]) = self.text.get(first..) {
            first += if WITH_OPTION.contains(command) { 3 } else { 2 };
        }
        let rest = self.text.get(first..).unwrap_or_default();
        let length = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let verb = rest.get(..length).unwrap_or_default();
        let blank = |byte: &&u8| matches!(**byte, b' ' | b'\t');
        let begin = first + length + rest.iter().skip(length).take_while(blank).count();
        let ends = |byte: &&u8| matches!(**byte, b' ' | b'\t' | b'\r' | b'\n');
        let end = self.text.len() - self.text.iter().rev().take_while(ends).count();
        (verb, begin..end.max(begin))
    }

    /// Whether a server that reads it otherwise finds a `PORT` or `EPRT` where this verb is.
    fn hides_a_port(&self, verb: &[u8]) -> bool {
        let mut plain = Vec::with_capacity(self.text.len());
        let mut rest = self.text;
        while let Some((first, behind)) = rest.split_first() {
            rest = match (*first, behind) {
                (INTERPRET_AS_COMMAND, [INTERPRET_AS_COMMAND, behind @ ..]) => behind,
                (INTERPRET_AS_COMMAND, [command, _, behind @ ..]) if WITH_OPTION.contains(command) => behind,
                (INTERPRET_AS_COMMAND, [_, behind @ ..]) => behind,
                (byte, behind) => {
                    if !ALONE.contains(&byte) {
                        plain.push(byte);
                    }
                    behind
                }
            };
        }
        let begins = plain.iter().position(u8::is_ascii_alphabetic);
        let Some(plain) = begins.and_then(|at| plain.get(at..)) else { return !self.whole };
        let length = plain.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let found = plain.get(..length).unwrap_or_default();
        let is_port = |verb: &[u8]| verb.eq_ignore_ascii_case(b"PORT") || verb.eq_ignore_ascii_case(b"EPRT");
        is_port(found) && !is_port(verb)
    }

    /// `h1,h2,h3,h4,p1,p2` and nothing else.
    fn numbers(&self, place: Range<usize>) -> Option<Named> {
        let fields: Vec<&[u8]> = self.text.get(place.clone())?.split(|byte| *byte == b',').collect();
        let [a, b, c, d, high, low] = fields.as_slice() else { return None };
        let octet = |field: &&[u8]| u8::try_from(decimal(field, 3)?).ok();
        let address = Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?);
        let port = u16::from_be_bytes([octet(high)?, octet(low)?]);
        Some((Some(address.into()), port, Form::Numbers, place))
    }

    /// `|1|132.235.1.2|6275|` (RFC 2428 section 2).
    fn extended(&self, place: Range<usize>) -> Option<Named> {
        let text = self.text.get(place.clone())?;
        let delimiter = *text.first().filter(|byte| (33..=126).contains(*byte))?;
        let fields: Vec<&[u8]> = text.split(|byte| *byte == delimiter).collect();
        let [b"", family, address, port, b""] = fields.as_slice() else { return None };
        let place = place.start + 2 + family.len()..place.end - 1;
        let address: IpAddr = std::str::from_utf8(address).ok()?.parse().ok()?;
        let fits = match *family {
            b"1" => address.is_ipv4(),
            b"2" => address.is_ipv6(),
            _ => false,
        };
        let port = u16::try_from(decimal(port, 5)?).ok()?;
        fits.then_some((Some(address), port, Form::Extended(delimiter), place))
    }

    /// The numbers in a reply to `PASV`: the text around them is anything (RFC 1123 section 4.1.2.6).
    fn passive(&self) -> Option<Named> {
        let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b',';
        let begin = 4 + self.text.get(4..)?.iter().position(u8::is_ascii_digit)?;
        let end = begin + self.text.get(begin..)?.iter().take_while(|byte| is_part(byte)).count();
        self.numbers(begin..end)
    }

    /// The port in a reply to `EPSV`: `(|||6446|)` (RFC 2428 section 3).
    fn extended_passive(&self) -> Option<Named> {
        let open = 1 + self.text.iter().position(|byte| *byte == b'(')?;
        let rest = self.text.get(open..)?;
        let rest = rest.get(..rest.iter().position(|byte| *byte == b')')?)?;
        let delimiter = *rest.first().filter(|byte| (33..=126).contains(*byte))?;
        let fields: Vec<&[u8]> = rest.split(|byte| *byte == delimiter).collect();
        let [b"", b"", b"", port, b""] = fields.as_slice() else { return None };
        let place = open + 3..open + 3 + port.len();
        Some((None, u16::try_from(decimal(port, 5)?).ok()?, Form::Port, place))
    }

    fn listens(&self, (address, port, form, place): Named) -> Heard {
        let in_payload = |at: usize| at as isize - self.before as isize + self.at as isize;
        let gone = self.text.get(place.start..place.end.min(self.before)).unwrap_or_default().to_vec();
        Heard::Listens { address, port, form, place: in_payload(place.start)..in_payload(place.end), gone }
    }
}

/// A decimal number of so many digits at most, at least one.
fn decimal(digits: &[u8], most: usize) -> Option<u32> {
    let fits = (1..=most).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    fits.then(|| digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeted() -> Dialogue {
        let mut dialogue = Dialogue::default();
        assert_eq!(dialogue.hear(1, b"220 ready\r\n"), []);
        dialogue
    }

    fn listens(heard: &[Heard]) -> (Option<IpAddr>, u16, Range<isize>) {
        let [Heard::Listens { address, port, place, .. }] = heard else { panic!("{heard:?}") };
        (*address, *port, place.clone())
    }

    // RFC 959 section 4.1.2, RFC 2428 section 2: the examples of the RFCs, whatever the case.
    #[test]
    fn commands_name_where_the_client_listens() {
        for (line, address, port, text) in [
            ("PORT 132,235,1,2,24,131\r\n", "132.235.1.2", 6275, "132,235,1,2,24,131"),
            ("port 10,1,0,2,4,0\n", "10.1.0.2", 1024, "10,1,0,2,4,0"),
            ("EPRT |1|132.235.1.2|6275|\r\n", "132.235.1.2", 6275, "132.235.1.2|6275"),
            ("EPRT |2|1080::8:800:200C:417A|5282|\r\n", "1080::8:800:200c:417a", 5282, "1080::8:800:200C:417A|5282"),
            ("eprt !1!10.1.0.2!65535!  \r\n", "10.1.0.2", 65535, "10.1.0.2!65535"),
        ] {
            let heard = greeted().hear(0, line.as_bytes());
            let (found, found_port, place) = listens(&heard);
            assert_eq!((found, found_port), (Some(address.parse().unwrap()), port), "{line:?}");
            assert_eq!(&line[place.start as usize..place.end as usize], text);
        }
        // In front of it what Telnet sends with an interruption (RFC 959 section 4.1.3).
        let line = b"\xff\xf4\xff\xf2PORT 10,1,0,2,4,1\r\n";
        assert_eq!(listens(&greeted().hear(0, line)).1, 1025);
    }

    // RFC 2577 section 3: what a server might read otherwise does not pass.
    #[test]
    fn commands_that_are_not_to_the_letter_are_refused() {
        let long = format!("PORT{}10,1,0,2,4,0\r\n", " ".repeat(LINE));
        for line in [
            "PORT\r\n",
            "PORT 10,1,0,2,4\r\n",
            "PORT 10,1,0,2,4,0,\r\n",
            "PORT 10,1,0,2,4,0 x\r\n",
            "PORT 10,1,0,256,4,0\r\n",
            "PORT 10,1,0,2,4,0000\r\n",
            "PORT -1,1,0,2,4,0\r\n",
            "EPRT 10.1.0.2 1024\r\n",
            "EPRT |2|10.1.0.2|1024|\r\n",
            "EPRT |3|10.1.0.2|1024|\r\n",
            "EPRT |1|10.1.0.2|70000|\r\n",
            "EPRT |1|10.1.0.2|1024|x\r\n",
            "\u{0}PORT 10,1,0,2,4,0\r\n",
            " PORT 10,1,0,2,4,0\r\n",
            &long,
        ] {
            assert_eq!(greeted().hear(0, line.as_bytes()), [Heard::Refused], "{line:?}");
        }
        // Before the server has said anything this is something else that goes to its port.
        assert_eq!(Dialogue::default().hear(0, b"PORT 10,1,0,2,4,0\r\n"), [Heard::Refused]);
        assert_eq!(listens(&Dialogue::running().hear(0, b"PORT 10,1,0,2,4,0\r\n")).1, 1024);
        // Only at the beginning of a line.
        for line in ["STOR PORT 10,1,0,2,4,0\r\n", "SITE\rPORT 1,1,1,1,1,1\r\n", "PORTX 1\r\n", "\r\n"] {
            assert_eq!(greeted().hear(0, line.as_bytes()), [], "{line:?}");
        }
    }

    // RFC 959 section 5.4, RFC 1123 section 4.1.2.6, RFC 2428 section 3.
    #[test]
    fn replies_name_where_the_server_listens() {
        for (asked, line, address, port, text) in [
            ("PASV", "227 Entering Passive Mode (192,0,2,7,200,10)\r\n", Some("192.0.2.7"), 51210, "192,0,2,7,200,10"),
            ("PASV", "227 =192,0,2,7,4,0\r\n", Some("192.0.2.7"), 1024, "192,0,2,7,4,0"),
            ("EPSV", "229 Entering Extended Passive Mode (|||6446|)\r\n", None, 6446, "6446"),
            ("epsv 2", "229 x (!!!1!)\r\n", None, 1, "1"),
        ] {
            let mut dialogue = greeted();
            assert_eq!(dialogue.hear(0, format!("{asked}\r\n").as_bytes()), []);
            let heard = dialogue.hear(1, line.as_bytes());
            let (found, found_port, place) = listens(&heard);
            assert_eq!((found, found_port), (address.map(|text| text.parse().unwrap()), port), "{line:?}");
            assert_eq!(&line[place.start as usize..place.end as usize], text);
            // Once.
            assert_eq!(dialogue.hear(1, line.as_bytes()), [Heard::Declined]);
        }
    }

    #[test]
    fn replies_that_nobody_asked_for_or_that_make_no_sense_are_not_acted_on() {
        for (asked, line) in [
            ("NOOP", "227 (192,0,2,7,4,0)\r\n"),
            ("EPSV", "227 (192,0,2,7,4,0)\r\n"),
            ("EPSV ALL", "229 (|||6446|)\r\n"),
            ("PASV", "229 (|||6446|)\r\n"),
            ("PASV", "227 Entering Passive Mode\r\n"),
            ("PASV", "227 (192,0,2,7,4)\r\n"),
            ("EPSV", "229 (|1||6446|)\r\n"),
            ("EPSV", "229 (|||66446|)\r\n"),
            ("EPSV", "229 |||6446|\r\n"),
        ] {
            let mut dialogue = greeted();
            dialogue.hear(0, format!("{asked}\r\n").as_bytes());
            assert_eq!(dialogue.hear(1, line.as_bytes()), [Heard::Declined], "{asked} {line:?}");
        }
        let mut dialogue = greeted();
        dialogue.hear(0, b"PASV\r\n");
        // Of more than one line the last counts (RFC 959 section 4.2), and an error is none.
        assert_eq!(dialogue.hear(1, b"227-(192,0,2,7,4,0)\r\n 227 (192,0,2,7,4,0)\r\n500 no\r\n"), []);
        assert_eq!(listens(&dialogue.hear(1, b"227 (192,0,2,7,4,0)\r\n")).1, 1024);
    }

    // However the stream is cut, the same is heard, in the same places.
    #[test]
    fn lines_in_pieces_are_heard_at_their_end() {
        let text = b"USER x\r\nPORT 10,1,0,2,4,0\r\nNOOP\r\n";
        for first in 0..text.len() {
            for second in first..text.len() {
                let mut dialogue = greeted();
                let mut found = Vec::new();
                for (at, piece) in [(0, &text[..first]), (first, &text[first..second]), (second, &text[second..])] {
                    for heard in dialogue.hear(0, piece) {
                        let Heard::Listens { port, place, gone, .. } = heard else { panic!("{heard:?}") };
                        let start = place.start + at as isize;
                        found.push((port, start, place.end + at as isize));
                        assert_eq!(gone, text[start as usize..at.clamp(start as usize, 25)]);
                    }
                }
                assert_eq!(found, [(1024, 13, 25)], "{first} {second}");
            }
        }
    }

    // N13: what is kept of a line is bounded; what follows it is heard.
    #[test]
    fn long_lines_are_passed_over() {
        let mut dialogue = greeted();
        for _ in 0..100 {
            assert_eq!(dialogue.hear(0, &[b'x'; 1000]), []);
        }
        assert_eq!(dialogue.begun[0].head.len(), LINE);
        assert_eq!(dialogue.hear(0, b"\r\n"), []);
        assert_eq!(listens(&dialogue.hear(0, b"PORT 10,1,0,2,4,0\r\n")).1, 1024);
    }

    // RFC 4217 section 4: what follows is encrypted.
    #[test]
    fn nothing_is_heard_after_authentication() {
        let mut dialogue = greeted();
        dialogue.hear(0, b"AUTH TLS\r\n");
        dialogue.hear(1, b"234 go on\r\n");
        assert_eq!(dialogue.hear(0, b"PORT 10,9,9,9,4,0\r\n"), []);
    }

    // RFC 4217 section 4: only the reply to it accepts; a file may have any name, and its name may be in a reply.
    #[test]
    fn authentication_is_accepted_by_its_own_reply() {
        for replies in [
            &["234 x\r\n"][..],
            &["213-status\r\n234 x\r\n213 end\r\n", "234 x\r\n"],
            &["213-status\r\n213 234 x\r\n234 x\r\n", "500 no\r\n"],
            &["500 no\r\n", "234 x\r\n"],
        ] {
            let mut dialogue = greeted();
            if replies.len() > 1 {
                dialogue.hear(0, b"STAT a\r\nAUTH TLS\r\n");
            }
            assert!(replies.iter().all(|reply| dialogue.hear(1, reply.as_bytes()).is_empty()));
            assert_eq!(dialogue.hear(0, b"PORT 1\r\n"), [Heard::Refused], "{replies:?}");
        }
    }

    // RFC 959 section 4.1.2, RFC 2428 sections 2 and 3.
    #[test]
    fn texts_are_written_as_they_are_read() {
        let v4: IpAddr = "198.51.100.1".parse().unwrap();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let text = |form: Form, address| form.text(address, 51210).map(|text| String::from_utf8(text).unwrap());
        assert_eq!(text(Form::Numbers, v4).as_deref(), Some("198,51,100,1,200,10"));
        assert_eq!(text(Form::Numbers, v6), None);
        assert_eq!(text(Form::Extended(b'!'), v6).as_deref(), Some("2001:db8::1!51210"));
        assert_eq!(text(Form::Port, v6).as_deref(), Some("51210"));
    }
}
