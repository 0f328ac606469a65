//! What an ICMP error quotes of the packet that it is about.
//!
//! Nothing here is believed but that the flow it names has to exist. Lengths that the quote states may exceed what is
//! quoted (RFC 792: header and 8 bytes). The checksum of its IPv4 header has to be right (RFC 5508 REQ-3 a), options in
//! that header are passed over (b), the checksum of its transport header is not looked at (c).

use flowhop_flow::Key;
use flowhop_flow::key::{self, Address};
use flowhop_wire::{Ipv4, Ipv6, checksum, icmp4, icmp6, ipv6, protocol};
use zerocopy::FromBytes;

/// What every quote has to hold of a transport header (RFC 792, "64 bits").
const QUOTED: usize = 8;

/// The IP headers of a packet, of which no more need be there than those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    /// Source as in the fixed header.
    pub source: Address,
    /// Destination as in the fixed header.
    pub destination: Address,
    /// Protocol behind the headers.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Bytes, options or extension headers included: where the transport header begins.
    pub length: usize,
    /// A fragment other than the first: what follows is the middle of something.
    pub later_fragment: bool,
    /// Bytes of the whole packet as its header says; 0 if it does not say.
    pub total: u32,
}

impl Headers {
    /// Reads the headers that `ip` begins with; `None` when they are not whole or make no sense.
    pub(crate) fn read(ip: &[u8]) -> Option<Self> {
        match ip.first()? >> 4 {
            4 => Self::ipv4(ip),
            6 => Self::ipv6(ip),
            _ => None,
        }
    }

    fn ipv4(ip: &[u8]) -> Option<Self> {
        let (header, _) = Ipv4::ref_from_prefix(ip).ok()?;
        let length = header.header_len();
        (length >= Ipv4::LEN && length <= ip.len()).then_some(Self {
            source: key::mapped(header.source),
            destination: key::mapped(header.destination),
            protocol: header.protocol,
            family: 4,
            length,
            later_fragment: header.fragment_offset() != 0,
            total: u32::from(header.total_length.get()),
        })
    }

    fn ipv6(ip: &[u8]) -> Option<Self> {
        let (header, rest) = Ipv6::ref_from_prefix(ip).ok()?;
        let chain = ipv6::walk(rest, header.next_header).ok()?;
        Some(Self {
            source: key::words(&header.source),
            destination: key::words(&header.destination),
            protocol: chain.protocol,
            family: 6,
            length: Ipv6::LEN + chain.offset,
            later_fragment: chain.fragment.is_some_and(|fragment| !fragment.is_first()),
            total: match u32::from(header.payload_length.get()) {
                0 => 0,
                payload => Ipv6::LEN as u32 + payload,
            },
        })
    }

    /// Whether the packet is an ICMP or ICMPv6 error, or a redirect: about those no error is sent (RFC 1812 section
    /// 4.3.2.7, RFC 4443 section 2.4 e). `ip` is what the headers were read of; a type that is not there counts.
    pub(crate) fn is_error(&self, ip: &[u8]) -> bool {
        let kind = ip.get(self.length).copied();
        match (self.family, self.protocol) {
            (4, protocol::ICMP) => kind.is_none_or(icmp4::is_error),
            (6, protocol::ICMPV6) => kind.is_none_or(|kind| icmp6::is_error(kind) || kind == icmp6::REDIRECT),
            _ => false,
        }
    }
}

/// The packet that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quote {
    /// The key of its flow as it was sent: translated, if it was.
    pub key: Key,
    /// The key of the packets that come back: the quoted packet left us, so its addresses and ports in exchange are
    /// those that its answers carry.
    pub answers: Key,
    /// Bytes of its IP headers: where its transport header begins.
    pub headers: usize,
    /// Bytes quoted.
    pub length: usize,
    /// Sequence number of a TCP segment.
    pub sequence: Option<u32>,
    /// The same as its sender chose it, once that is known.
    pub chosen: Option<u32>,
    /// Bytes of the whole packet as its header says; 0 if it does not say.
    pub total: u32,
    /// The checksum of its IPv4 header is right.
    pub is_sound: bool,
}

impl Quote {
    /// Reads a quote in an error of this family; `None` for what cannot name a connection: cut before the ports, a
    /// later fragment of something with ports, an ICMP message other than echo.
    pub(super) fn read(quoted: &[u8], family: u8) -> Option<Self> {
        let headers = Headers::read(quoted)?;
        if headers.family != family {
            return None;
        }
        let transport = quoted.get(headers.length..).and_then(|rest| rest.first_chunk::<QUOTED>());
        let (ports, answering, sequence) = match (headers.protocol, family) {
            (protocol::TCP | protocol::UDP, _) | (protocol::ICMP, 4) | (protocol::ICMPV6, 6)
                if headers.later_fragment =>
            {
                return None;
            }
            (protocol::TCP | protocol::UDP, _) => {
                let [a, b, c, d, sequence @ ..] = *transport?;
                let sequence = (headers.protocol == protocol::TCP).then(|| u32::from_be_bytes(sequence));
                ([a, b, c, d], [c, d, a, b], sequence)
            }
            (protocol::ICMP, 4) | (protocol::ICMPV6, 6) => {
                let [kind, code, _, _, a, b, ..] = *transport?;
                let answering = answering_echo(kind, code, family)?;
                ([a, b, kind, code], [a, b, answering, code], None)
            }
            _ => ([0; 4], [0; 4], None),
        };
        let Headers { source, destination, protocol, .. } = headers;
        let identity = Key::identity(protocol, family, 0);
        Some(Self {
            key: Key { source, destination, ports: u32::from_ne_bytes(ports), identity },
            answers: Key { source: destination, destination: source, ports: u32::from_ne_bytes(answering), identity },
            headers: headers.length,
            length: quoted.len(),
            sequence,
            chosen: None,
            total: headers.total,
            is_sound: family == 6
                || quoted.get(..headers.length).is_some_and(|header| checksum::finish(checksum::sum(header)) == 0),
        })
    }
}

/// The type of the echo message that goes the other way.
const fn answering_echo(kind: u8, code: u8, family: u8) -> Option<u8> {
    match (family, kind, code) {
        (4, icmp4::ECHO_REQUEST, 0) => Some(icmp4::ECHO_REPLY),
        (4, icmp4::ECHO_REPLY, 0) => Some(icmp4::ECHO_REQUEST),
        (6, icmp6::ECHO_REQUEST, 0) => Some(icmp6::ECHO_REPLY),
        (6, icmp6::ECHO_REPLY, 0) => Some(icmp6::ECHO_REQUEST),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use flowhop_wire::build::{Extension, Ip, L4, Spec, V6};
    use flowhop_wire::tcp_flags;

    use super::*;

    fn packet(spec: &Spec<'_>) -> Vec<u8> {
        spec.without_link().to_vec().unwrap()
    }

    // RFC 792: header and 8 bytes are enough, one less is not.
    #[test]
    fn eight_bytes_of_the_transport_header_are_enough() {
        let (a, b) = ("10.0.0.1:1000", "192.0.2.1:53");
        let tcp = Spec::tcp(a.parse().unwrap(), b.parse().unwrap(), tcp_flags::ACK, b"x").with_sequence(77, 0);
        let bytes = packet(&tcp);
        for length in 0..bytes.len() {
            let quote = Quote::read(&bytes[..length], 4);
            assert_eq!(quote.is_some(), length >= 28, "{length}");
            if let Some(quote) = quote {
                assert_eq!((quote.sequence, quote.headers, quote.length), (Some(77), 20, length));
                assert_eq!((quote.key.source_port(), quote.key.destination_port()), (1000, 53));
                let answers = quote.answers;
                assert_eq!((answers.source_port(), answers.destination_port()), (53, 1000));
                assert_eq!((answers.source, answers.destination), (quote.key.destination, quote.key.source));
            }
        }
        assert_eq!(Quote::read(&bytes, 6), None, "another family than the error's");
    }

    #[test]
    fn echo_is_answered_by_the_other_type_and_errors_by_nothing() {
        let (a, b) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let request = Quote::read(&packet(&Spec::echo_request(a, b, 7, 1, b"")), 6).unwrap();
        let reply = Quote::read(&packet(&Spec::echo_reply(b, a, 7, 1, b"")), 6).unwrap();
        assert_eq!((request.answers, reply.answers), (reply.key, request.key));
        for kind in [icmp6::UNREACHABLE, icmp6::PACKET_TOO_BIG, icmp6::MLD_REPORT, icmp6::NEIGHBOR_SOLICITATION] {
            let other = Spec::new(a, b, L4::Icmp { kind, code: 0, rest: [0; 4] }, &[0; 8]);
            assert_eq!(Quote::read(&packet(&other), 6), None, "type {kind}");
        }
    }

    // RFC 8200 section 4: the chain is walked; ESP behind it is no later fragment.
    #[test]
    fn extension_headers_are_walked() {
        let (a, b) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let bytes = &[0, 0, 1, 4, 0, 0, 0, 0];
        let extensions = [Extension { protocol: protocol::DESTINATION_OPTIONS, bytes }];
        let mut spec = Spec::new(a, b, L4::Raw { protocol: protocol::ESP }, &[9; 16]);
        let Ip::V6(v6) = spec.ip else { panic!("two IPv6 addresses") };
        spec.ip = Ip::V6(V6 { extensions: &extensions, ..v6 });
        let headers = Headers::read(&packet(&spec)).unwrap();
        assert_eq!((headers.protocol, headers.length, headers.later_fragment), (protocol::ESP, 48, false));
    }

    // RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e.1), (e.2).
    #[test]
    fn errors_and_later_fragments_are_told() {
        let (a, b) = ("10.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let error = |kind| packet(&Spec::new(a, b, L4::Icmp { kind, code: 0, rest: [0; 4] }, &[0; 28]));
        for (kind, expected) in [(3, true), (4, true), (5, true), (8, false), (11, true), (12, true), (13, false)] {
            let bytes = error(kind);
            assert_eq!(Headers::read(&bytes).unwrap().is_error(&bytes), expected, "type {kind}");
        }
        let mut bytes = packet(&Spec::udp("10.0.0.1:1".parse().unwrap(), "192.0.2.1:2".parse().unwrap(), &[0; 64]));
        bytes[7] = 3;
        assert!(Headers::read(&bytes).unwrap().later_fragment);
        assert_eq!(Quote::read(&bytes, 4), None, "its ports are not there");
        bytes[9] = 47;
        assert_eq!(Quote::read(&bytes, 4).unwrap().key.ports, 0, "it has none");
    }
}
