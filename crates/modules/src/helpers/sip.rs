//! Session initiation over UDP (RFC 3261) and the sessions that its messages describe (RFC 8866).
//!
//! # What
//! A message names its sender, and the one that it is sent to, in its first line and in the headers that say where answers
//! and later requests go; a description names where its sender listens for media, for each at a port, and at the next one
//! for the control of the stream (RFC 3550 section 11). [`read`] finds all these places; [`Message::rewrite`] says what is
//! to stand there.
//!
//! # Rules
//! Names of hosts stay as they are: only addresses are somebody's. In other headers, and in whatever else a body holds,
//! nothing is looked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

/// Streams of media that one description may have; those behind are not acted on.
pub const STREAMS: usize = 4;
/// What a URI without a port means (RFC 3261 section 19.1.2).
const DEFAULT_PORT: u16 = 5060;
/// Headers that name who is where, with their compact forms (RFC 3261 section 7.3.3).
const NAMING: [&[u8]; 10] = [b"via", b"v", b"contact", b"m", b"from", b"f", b"to", b"t", b"route", b"record-route"];
/// Those of them in which a port that is missing is the default one.
const WITH_PORT: [&[u8]; 4] = [b"via", b"v", b"contact", b"m"];

/// An address in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    address: IpAddr,
    port: Option<u16>,
    /// Address and port; of an IPv6 address with its brackets.
    place: Range<usize>,
    /// A missing port means the default one.
    defaults: bool,
}

/// Where the sender of a description listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Address; `None` if none is said.
    pub address: Option<IpAddr>,
    /// Port of the media; that of their control is the next one.
    pub port: u16,
    place: Range<usize>,
    /// Where the port of the control is said once more.
    control: Option<Range<usize>>,
}

/// A message with its places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    named: Vec<Named>,
    /// Addresses in the description.
    described: Vec<(IpAddr, Range<usize>)>,
    /// The streams of the description.
    pub streams: Vec<Stream>,
    /// The length of the body as the header says it, and where.
    length: Option<(usize, Range<usize>)>,
    body: Range<usize>,
}

/// A text that is to stand in a place.
pub type Change = (Range<usize>, Vec<u8>);

/// Reads a message; `None` for what is none.
#[must_use]
pub fn read(payload: &[u8]) -> Option<Message> {
    let head_end = payload.windows(4).position(|four| four == b"\r\n\r\n")? + 2;
    let mut message = Message { body: head_end + 2..payload.len(), ..Message::default() };
    let mut lines = logical_lines(payload, head_end);
    message.first_line(payload, lines.next()?)?;
    let mut described = false;
    for line in lines {
        let text = payload.get(line.clone())?;
        let colon = text.iter().position(|byte| *byte == b':')?;
        let name = text.get(..colon)?.trim_ascii().to_ascii_lowercase();
        let value = line.start + colon + 1..line.end;
        if NAMING.contains(&name.as_slice()) {
            message.named.extend(addresses(payload, value, WITH_PORT.contains(&name.as_slice())));
        } else if matches!(name.as_slice(), b"content-length" | b"l") {
            let place = trimmed(payload, value);
            let length = number(payload.get(place.clone())?)?;
            message.length = Some((length as usize, place));
        } else if matches!(name.as_slice(), b"content-type" | b"c") {
            let kind = payload.get(trimmed(payload, value))?.to_ascii_lowercase();
            described = kind.split(|byte| matches!(byte, b';' | b' ')).next() == Some(b"application/sdp");
        }
    }
    if let Some((length, _)) = &message.length {
        message.body.end = message.body.start.checked_add(*length).filter(|end| *end <= payload.len())?;
    }
    if described {
        message.describe(payload);
    }
    Some(message)
}

impl Message {
    /// `INVITE sip:a@192.0.2.1 SIP/2.0`, or `SIP/2.0 200 OK`.
    fn first_line(&mut self, payload: &[u8], line: Range<usize>) -> Option<()> {
        let text = payload.get(line.clone())?;
        if let Some(code) = text.strip_prefix(b"SIP/2.0 ") {
            return (code.len() >= 3 && code[..3].iter().all(u8::is_ascii_digit)).then_some(());
        }
        let words: Vec<&[u8]> = text.split(|byte| *byte == b' ').collect();
        let [method, uri, b"SIP/2.0"] = words.as_slice() else { return None };
        let is_method = !method.is_empty() && method.iter().all(u8::is_ascii_uppercase);
        let begin = line.start + method.len() + 1;
        self.named.extend(addresses(payload, begin..begin + uri.len(), false));
        is_method.then_some(())
    }

    /// Reads a description (RFC 8866 section 5).
    fn describe(&mut self, payload: &[u8]) {
        let mut whole = None;
        // Of the last stream; `Some(None)` of one that is refused, or is not over RTP.
        let mut current: Option<Option<usize>> = None;
        for line in plain_lines(payload, self.body.clone()) {
            let text = payload.get(line.clone()).unwrap_or_default();
            let value = line.start + 2..line.end;
            match text.get(..2) {
                Some(b"o=" | b"c=") => {
                    let Some((address, place)) = described_address(payload, value) else { continue };
                    self.described.push((address, place));
                    if text.starts_with(b"c=") {
                        match current {
                            Some(stream) => {
                                if let Some(stream) = stream.and_then(|stream| self.streams.get_mut(stream)) {
                                    stream.address = Some(address);
                                }
                            }
                            None => whole = Some(address),
                        }
                    }
                }
                Some(b"m=") => {
                    current = Some(media_port(payload, value).map(|(port, place)| {
                        self.streams.push(Stream { address: whole, port, place, control: None });
                        self.streams.len() - 1
                    }));
                }
                Some(b"a=") => {
                    if let Some(stream) = current.flatten().and_then(|stream| self.streams.get_mut(stream))
                        && let Some(place) = control_port(payload, value, stream.port)
                    {
                        stream.control = Some(place);
                    }
                }
                _ => {}
            }
        }
    }

    /// What is to stand where a message names `from`, and at its streams' ports: each with the address and port that the
    /// other end knows. `ports` are those of the streams, `None` where one stays. In the order of the message.
    #[must_use]
    pub fn rewrite(&self, names: &[(SocketAddr, SocketAddr)], ports: &[Option<u16>]) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        for named in &self.named {
            let is_it = |(from, _): &&(SocketAddr, SocketAddr)| {
                let port = named.port.or(named.defaults.then_some(DEFAULT_PORT));
                from.ip() == named.address && port.is_none_or(|port| port == from.port())
            };
            let Some((_, to)) = names.iter().find(is_it).filter(|(from, to)| from != to) else { continue };
            let says_port = named.port.is_some() || (named.defaults && to.port() != DEFAULT_PORT);
            let text = match (says_port, to) {
                (true, to) => to.to_string(),
                (false, SocketAddr::V4(v4)) => v4.ip().to_string(),
                (false, SocketAddr::V6(v6)) => format!("[{}]", v6.ip()),
            };
            changes.push((named.place.clone(), text.into_bytes()));
        }
        for (address, place) in &self.described {
            let sender = names.first().filter(|(from, to)| from.ip() == *address && from.ip() != to.ip());
            changes.extend(sender.map(|(_, to)| (place.clone(), to.ip().to_string().into_bytes())));
        }
        for (stream, port) in self.streams.iter().zip(ports) {
            let Some(port) = port.filter(|port| *port != stream.port) else { continue };
            changes.push((stream.place.clone(), port.to_string().into_bytes()));
            let control = stream.control.clone();
            changes.extend(control.map(|place| (place, port.wrapping_add(1).to_string().into_bytes())));
        }
        let grown: i64 = changes
            .iter()
            .filter(|(place, _)| self.body.contains(&place.start))
            .map(|(place, text)| text.len() as i64 - place.len() as i64)
            .sum();
        if let Some((length, place)) = self.length.as_ref().filter(|_| grown != 0) {
            changes.push((place.clone(), (*length as i64 + grown).to_string().into_bytes()));
        }
        changes.sort_by_key(|(place, _)| place.start);
        changes
    }
}

/// The lines of a head that ends at `end`, each with those that continue it (RFC 3261 section 7.3.1), without their ends.
fn logical_lines(payload: &[u8], end: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = at;
        while at < end {
            let line = payload.get(at..end)?;
            let length = line.windows(2).position(|two| two == b"\r\n")?;
            at += length + 2;
            if !matches!(payload.get(at..end).and_then(<[u8]>::first), Some(b' ' | b'\t')) {
                return Some(begin..at - 2);
            }
        }
        None
    })
}

/// The lines of a description, without their ends.
fn plain_lines(payload: &[u8], body: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let begin = body.start;
    let text = payload.get(body).unwrap_or_default();
    let mut at = begin;
    text.split_inclusive(|byte| *byte == b'\n').map(move |line| {
        let length = line.trim_ascii_end().len();
        let place = at..at + length;
        at += line.len();
        place
    })
}

fn trimmed(payload: &[u8], place: Range<usize>) -> Range<usize> {
    let text = payload.get(place.clone()).unwrap_or_default();
    let begin = place.start + (text.len() - text.trim_ascii_start().len());
    begin..begin + text.trim_ascii().len()
}

fn number(digits: &[u8]) -> Option<u32> {
    let fits = (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    fits.then(|| digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
}

/// The addresses in a value, with the ports behind them.
fn addresses(payload: &[u8], place: Range<usize>, defaults: bool) -> Vec<Named> {
    let mut found = Vec::new();
    let mut at = place.start;
    while at < place.end {
        let rest = payload.get(at..place.end).unwrap_or_default();
        let (length, address) = match rest.first() {
            Some(b'[') => {
                let length = rest.iter().position(|byte| *byte == b']').map_or(1, |close| close + 1);
                let inner = rest.get(1..length.max(2) - 1).unwrap_or_default();
                (length, parse::<Ipv6Addr>(inner).map(IpAddr::V6))
            }
            Some(byte) if is_word(*byte) => {
                let length = rest.iter().take_while(|byte| is_word(**byte)).count();
                (length, rest.get(..length).and_then(parse::<Ipv4Addr>).map(IpAddr::V4))
            }
            _ => (1, None),
        };
        if let Some(address) = address {
            let (port, digits) = port_behind(rest.get(length..).unwrap_or_default());
            found.push(Named { address, port, place: at..at + length + digits, defaults });
            at += digits;
        }
        at += length;
    }
    found
}

/// What the name of a host is made of.
const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

/// A port behind a colon, and bytes of both.
fn port_behind(text: &[u8]) -> (Option<u16>, usize) {
    let Some(rest) = text.strip_prefix(b":") else { return (None, 0) };
    let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match rest.get(..length).and_then(number).and_then(|port| u16::try_from(port).ok()) {
        Some(port) => (Some(port), 1 + length),
        None => (None, 0),
    }
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The address at the end of a `c=` or `o=` line: `IN IP4 192.0.2.1`.
fn described_address(payload: &[u8], value: Range<usize>) -> Option<(IpAddr, Range<usize>)> {
    let text = payload.get(value.clone())?;
    let words: Vec<&[u8]> = text.split(|byte| *byte == b' ').collect();
    let [.., b"IN", family, address] = words.as_slice() else { return None };
    let place = value.end - address.len()..value.end;
    let address: IpAddr = parse(address)?;
    let fits = match *family {
        b"IP4" => address.is_ipv4(),
        b"IP6" => address.is_ipv6(),
        _ => false,
    };
    fits.then_some((address, place))
}

/// The port of a stream of media over RTP: `audio 49170 RTP/AVP 0`. One that is 0 is refused (RFC 3264 section 6).
fn media_port(payload: &[u8], value: Range<usize>) -> Option<(u16, Range<usize>)> {
    let text = payload.get(value.clone())?;
    let words: Vec<&[u8]> = text.split(|byte| *byte == b' ').collect();
    let [kind, port, transport, ..] = words.as_slice() else { return None };
    let over_rtp = transport.split(|byte| *byte == b'/').any(|part| part == b"RTP");
    let begin = value.start + kind.len() + 1;
    let place = begin..begin + port.len();
    let port = u16::try_from(number(port)?).ok().filter(|port| *port != 0 && over_rtp)?;
    Some((port, place))
}

/// The port in `rtcp:53020` (RFC 3605), if it is the one behind that of the media.
fn control_port(payload: &[u8], value: Range<usize>, media: u16) -> Option<Range<usize>> {
    let text = payload.get(value.clone())?.strip_prefix(b"rtcp:")?;
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let begin = value.start + b"rtcp:".len();
    (number(text.get(..length)?)? == u32::from(media) + 1).then_some(begin..begin + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "v=0\r\no=alice 1 1 IN IP4 10.1.0.2\r\ns=-\r\nc=IN IP4 10.1.0.2\r\nt=0 0\r\n\
                        m=audio 49170 RTP/AVP 0\r\na=rtcp:49171\r\nm=video 0 RTP/AVP 31\r\nc=IN IP4 10.9.9.9\r\n\
                        m=application 5000 TCP x\r\nm=video 51372 RTP/SAVP 31\r\nc=IN IP4 192.0.2.9\r\n";

    fn invite(body: &str) -> String {
        format!(
            "INVITE sip:bob@192.0.2.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 10.1.0.2;branch=z9hG4bK7\r\n\
             v: SIP/2.0/UDP 10.1.0.2:5060;branch=1,\r\n SIP/2.0/UDP [fd00::2]:5060\r\nMax-Forwards: 70\r\n\
             To: <sip:bob@192.0.2.1>\r\nFrom: \"10.1.0.2\" <sip:alice@10.1.0.2>;tag=9\r\nCall-ID: 1@10.1.0.2\r\n\
             m: <sip:alice@10.1.0.2:5060;x=a10.1.0.2>, <sip:a@10.1.0.21>, <sip:b@10.1.0.2:5070>\r\n\
             Content-Type: application/sdp\r\nl: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn changed(text: &str, names: &[(&str, &str)], ports: &[Option<u16>]) -> String {
        let message = read(text.as_bytes()).expect("a message");
        let names: Vec<_> = names.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).collect();
        let mut out = String::new();
        let mut done = 0;
        for (place, new) in message.rewrite(&names, ports) {
            assert!(place.start >= done);
            out.push_str(&text[done..place.start]);
            out.push_str(std::str::from_utf8(&new).unwrap());
            done = place.end;
        }
        out + &text[done..]
    }

    // RFC 3261 sections 7.3, 18.1.1 and 20.10, RFC 8866 section 5: names of the sender and of the receiver, in the headers
    // and lines that say where to send, and nowhere else.
    #[test]
    fn a_request_names_its_ends_as_the_other_knows_them() {
        let text = invite(BODY);
        let streams = read(text.as_bytes()).unwrap().streams;
        let found: Vec<_> = streams.iter().map(|stream| (stream.address.unwrap().to_string(), stream.port)).collect();
        assert_eq!(found, [("10.1.0.2".to_owned(), 49170), ("192.0.2.9".to_owned(), 51372)]);
        let names = [("10.1.0.2:5060", "198.51.100.1:40001"), ("192.0.2.1:5060", "10.5.5.5:5060")];
        let out = changed(&text, &names, &[Some(61000), None]);
        for line in [
            "INVITE sip:bob@10.5.5.5:5060 SIP/2.0",
            "Via: SIP/2.0/UDP 198.51.100.1:40001;branch=z9hG4bK7",
            "v: SIP/2.0/UDP 198.51.100.1:40001;branch=1,",
            " SIP/2.0/UDP [fd00::2]:5060",
            "To: <sip:bob@10.5.5.5>",
            "From: \"198.51.100.1\" <sip:alice@198.51.100.1>;tag=9",
            "Call-ID: 1@10.1.0.2",
            "m: <sip:alice@198.51.100.1:40001;x=a10.1.0.2>, <sip:a@10.1.0.21>, <sip:b@10.1.0.2:5070>",
            "o=alice 1 1 IN IP4 198.51.100.1",
            "c=IN IP4 198.51.100.1",
            "m=audio 61000 RTP/AVP 0",
            "a=rtcp:61001",
            "m=video 0 RTP/AVP 31",
            "c=IN IP4 10.9.9.9",
            "m=video 51372 RTP/SAVP 31",
        ] {
            assert!(out.split("\r\n").any(|found| found == line), "{line}\n{out}");
        }
        // The length of the body is that of the new one.
        let again = read(out.as_bytes()).unwrap();
        assert_eq!(again.body.end, out.len());
        // And back: the other way nothing is lost.
        let back: Vec<_> = names.iter().map(|(a, b)| (*b, *a)).collect();
        let restored = changed(&out, &back, &[Some(49170), None]);
        assert_eq!(restored.replace("10.1.0.2:5060;branch=z9hG4bK7", "10.1.0.2;branch=z9hG4bK7"), text);
    }

    // RFC 3261 section 7.2; with nothing to say nothing is changed.
    #[test]
    fn answers_and_messages_without_a_description_are_read() {
        let text = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 198.51.100.1:40001\r\nContact: <sip:a@[2001:db8::1]>\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(changed(text, &[("10.0.0.1:5060", "10.0.0.2:5060")], &[]), text);
        let out =
            changed(text, &[("[2001:db8::1]:5060", "[fd00::1]:7000"), ("198.51.100.1:40001", "10.1.0.2:5060")], &[]);
        assert!(out.contains("Via: SIP/2.0/UDP 10.1.0.2:5060\r\nContact: <sip:a@[fd00::1]:7000>\r\n"), "{out}");
    }

    // Whatever is no message is left alone.
    #[test]
    fn other_datagrams_are_no_messages() {
        let good = invite(BODY);
        for text in [
            "",
            "\r\n\r\n",
            "INVITE sip:a@b HTTP/1.1\r\n\r\n",
            "invite sip:a@b SIP/2.0\r\n\r\n",
            "SIP/2.0 OK\r\n\r\n",
            "SIP/2.0 200 OK\r\nno colon\r\n\r\n",
            "SIP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nabcd",
            "SIP/2.0 200 OK\r\nContent-Length: -5\r\n\r\nabcd",
        ] {
            assert_eq!(read(text.as_bytes()), None, "{text:?}");
        }
        for cut in 0..good.len() {
            assert_eq!(read(&good.as_bytes()[..cut]), None, "{cut}");
        }
        assert!(read(good.as_bytes()).is_some());
    }
}
