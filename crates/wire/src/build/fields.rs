//! What a packet is described by.

use core::fmt;
use core::net::IpAddr;

use crate::network::{Ipv4, Ipv6};
use crate::transport::{Icmp, Tcp, Udp};

/// Addresses of the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Station that the frame is for.
    pub destination: [u8; 6],
    /// Station that sends the frame.
    pub source: [u8; 6],
}

impl Default for Link {
    /// From 02:00:00:00:00:01 to 02:00:00:00:00:02, both locally administered.
    fn default() -> Self {
        Self { destination: [2, 0, 0, 0, 0, 2], source: [2, 0, 0, 0, 0, 1] }
    }
}

/// IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip<'a> {
    /// IPv4.
    V4(V4<'a>),
    /// IPv6.
    V6(V6<'a>),
}

impl Ip<'_> {
    /// The header between these addresses, by default values else. If the families differ, the IPv4 address is taken
    /// in its form mapped into IPv6 (RFC 4291 section 2.5.5.2).
    pub fn between(source: IpAddr, destination: IpAddr) -> Self {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Self::V4(V4 { source: source.octets(), destination: destination.octets(), ..V4::default() })
            }
            _ => Self::V6(V6 { source: octets6(source), destination: octets6(destination), ..V6::default() }),
        }
    }

    pub(super) const fn len(&self) -> usize {
        match self {
            Self::V4(ip) => Ipv4::LEN + ip.options.len().next_multiple_of(4),
            Self::V6(ip) => Ipv6::LEN + ip.extensions_len(),
        }
    }
}

fn octets6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Fields of an IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4<'a> {
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// Time to live in hops.
    pub ttl: u8,
    /// Differentiated services code point, 0..=63; higher bits are ignored.
    pub dscp: u8,
    /// Explicit congestion notification, 0..=3; higher bits are ignored.
    pub ecn: u8,
    /// Identification.
    pub id: u16,
    /// Flag "don't fragment".
    pub df: bool,
    /// Flag "more fragments".
    pub more: bool,
    /// Fragment offset in bytes, a multiple of 8, at most 65528; other bits are ignored.
    pub offset: usize,
    /// Options, at most 40 bytes; filled up with "end of options" to a multiple of 4.
    pub options: &'a [u8],
}

impl Default for V4<'_> {
    /// Time to live 64, "don't fragment", all else zero.
    fn default() -> Self {
        Self {
            source: [0; 4],
            destination: [0; 4],
            ttl: 64,
            dscp: 0,
            ecn: 0,
            id: 0,
            df: true,
            more: false,
            offset: 0,
            options: &[],
        }
    }
}

/// Fields of an IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6<'a> {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Hop limit in hops.
    pub hop_limit: u8,
    /// Differentiated services code point, 0..=63; higher bits are ignored.
    pub dscp: u8,
    /// Explicit congestion notification, 0..=3; higher bits are ignored.
    pub ecn: u8,
    /// Flow label, 20 bits; higher bits are ignored.
    pub flow_label: u32,
    /// Extension headers in their order.
    pub extensions: &'a [Extension<'a>],
}

impl V6<'_> {
    pub(super) const fn extensions_len(&self) -> usize {
        let (mut rest, mut len) = (self.extensions, 0usize);
        while let [extension, after @ ..] = rest {
            len = len.saturating_add(extension.bytes.len());
            rest = after;
        }
        len
    }
}

impl Default for V6<'_> {
    /// Hop limit 64, all else zero.
    fn default() -> Self {
        Self { source: [0; 16], destination: [0; 16], hop_limit: 64, dscp: 0, ecn: 0, flow_label: 0, extensions: &[] }
    }
}

/// One IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Which header it is ([`crate::protocol`]).
    pub protocol: u8,
    /// The whole header, not empty. Its first byte, the next header, is replaced by what does follow.
    pub bytes: &'a [u8],
}

/// Transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4<'a> {
    /// TCP.
    Tcp(TcpFields<'a>),
    /// UDP.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
    /// ICMP in an IPv4 packet, ICMPv6 in an IPv6 packet.
    Icmp {
        /// Type: see [`crate::icmp4`] and [`crate::icmp6`].
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes after the checksum.
        rest: [u8; 4],
    },
    /// No header: the payload follows the IP header. Also for fragments, whose checksum covers more than the packet.
    Raw {
        /// Protocol ([`crate::protocol`]).
        protocol: u8,
    },
}

impl L4<'_> {
    pub(super) const fn len(&self) -> usize {
        match self {
            Self::Tcp(tcp) => Tcp::LEN + tcp.options.len().next_multiple_of(4),
            Self::Udp { .. } => Udp::LEN,
            Self::Icmp { .. } => Icmp::LEN,
            Self::Raw { .. } => 0,
        }
    }

    pub(super) const fn checksum_offset(&self) -> Option<usize> {
        match self {
            Self::Tcp(_) => Some(Tcp::CHECKSUM_OFFSET),
            Self::Udp { .. } => Some(Udp::CHECKSUM_OFFSET),
            Self::Icmp { .. } => Some(Icmp::CHECKSUM_OFFSET),
            Self::Raw { .. } => None,
        }
    }
}

/// Fields of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFields<'a> {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// See [`crate::tcp_flags`].
    pub flags: u8,
    /// Receive window, unscaled.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options, at most 40 bytes; filled up with "end of options" to a multiple of 4.
    pub options: &'a [u8],
}

impl Default for TcpFields<'_> {
    /// Window 65535, all else zero.
    fn default() -> Self {
        Self {
            source_port: 0,
            destination_port: 0,
            sequence: 0,
            acknowledgment: 0,
            flags: 0,
            window: 0xffff,
            urgent: 0,
            options: &[],
        }
    }
}

/// What the transport-layer checksum field shall be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The right one.
    #[default]
    Full,
    /// The folded sum of the pseudo-header, to be completed by somebody else ([`crate::verify::complete_partial`]).
    Partial,
    /// This value, such as 0 for UDP without a checksum.
    Value(u16),
}

/// Why a packet was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The buffer does not hold the packet.
    BufferTooSmall {
        /// Length of the packet in bytes.
        needed: usize,
        /// Length of the buffer in bytes.
        available: usize,
    },
    /// The options of IPv4 or TCP are longer than 40 bytes, so that no header length can say it.
    OptionsTooLong {
        /// Length of the options in bytes.
        length: usize,
    },
    /// The IP packet is longer than its length field can say.
    PacketTooLong {
        /// What the length field would have to hold, in bytes.
        length: usize,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BufferTooSmall { needed, available } => {
                write!(f, "a packet of {needed} bytes does not fit into a buffer of {available} bytes")
            }
            Self::OptionsTooLong { length } => write!(f, "options of {length} bytes exceed 40 bytes"),
            Self::PacketTooLong { length } => write!(f, "a length of {length} bytes exceeds 65535 bytes"),
        }
    }
}

impl core::error::Error for BuildError {}
