//! Headers above the network layer: TCP, UDP, ICMP and ICMPv6.

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bits of [`Tcp::flags`] (RFC 9293 section 3.1).
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgment field is meaningful.
    pub const ACK: u8 = 16;
    /// The urgent pointer is meaningful.
    pub const URG: u8 = 32;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 64;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 128;
    /// The second segment of a handshake.
    pub const SYN_ACK: u8 = SYN | ACK;
    /// No more data, and what was received is acknowledged.
    pub const FIN_ACK: u8 = FIN | ACK;
    /// The answer to a segment that has no acknowledgment.
    pub const RST_ACK: u8 = RST | ACK;
    /// Those that say what a segment does to its connection.
    pub const STATE: u8 = SYN | ACK | FIN | RST;
    /// Those that RFC 9293 has, without those of RFC 3168.
    pub const CONTROL: u8 = STATE | PSH | URG;
}

/// TCP header without its options (RFC 9293 section 3.1).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tcp {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Sequence number of the first byte of payload, or of the SYN.
    pub sequence: U32,
    /// Next sequence number that the sender expects, if ACK is set.
    pub acknowledgment: U32,
    /// Header length in words of 4 bytes (high 4 bits), reserved (low 4 bits).
    pub offset_reserved: u8,
    /// See [`tcp_flags`].
    pub flags: u8,
    /// Receive window, unscaled.
    pub window: U16,
    /// Checksum of pseudo-header, header and payload.
    pub checksum: U16,
    /// Urgent pointer, if URG is set.
    pub urgent: U16,
}

impl Tcp {
    /// Length of the header without options in bytes.
    pub const LEN: usize = 20;
    /// Offset of the checksum within the header in bytes.
    pub const CHECKSUM_OFFSET: usize = 16;

    /// Length of the header with its options in bytes, 0..=60; below 20 the header is malformed.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        (self.offset_reserved >> 4) as usize * 4
    }
}

/// UDP header (RFC 768).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Udp {
    /// Source port; 0 if no reply is expected.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Length of header and payload in bytes.
    pub length: U16,
    /// Checksum of pseudo-header, header and payload; over IPv4, 0 means that there is none.
    pub checksum: U16,
}

impl Udp {
    /// Length of the header in bytes.
    pub const LEN: usize = 8;
    /// Offset of the checksum within the header in bytes.
    pub const CHECKSUM_OFFSET: usize = 6;
}

/// The first 8 bytes of an ICMP (RFC 792) or ICMPv6 (RFC 4443 section 2.1) message.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Icmp {
    /// Type: see [`crate::icmp4`] and [`crate::icmp6`].
    pub kind: u8,
    /// Code, by type.
    pub code: u8,
    /// Checksum of the message; for ICMPv6 also of a pseudo-header.
    pub checksum: U16,
    /// What the type makes of it: identifier and sequence number, MTU, pointer, gateway or nothing.
    pub rest: [u8; 4],
}

impl Icmp {
    /// Length of the header in bytes.
    pub const LEN: usize = 8;
    /// Offset of the checksum within the header in bytes.
    pub const CHECKSUM_OFFSET: usize = 2;

    /// Identifier of an echo request or reply (RFC 792 page 14, RFC 4443 section 4.1).
    #[inline(always)]
    pub const fn identifier(&self) -> u16 {
        u16::from_be_bytes([self.rest[0], self.rest[1]])
    }

    /// Sequence number of an echo request or reply (RFC 792 page 14, RFC 4443 section 4.1).
    #[inline(always)]
    pub const fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// MTU of the next hop in bytes, of ICMP type 3 code 4 (RFC 1191 section 4); 0 from routers that predate it.
    #[inline(always)]
    pub const fn mtu4(&self) -> u16 {
        self.sequence()
    }

    /// MTU of the next hop in bytes, of an ICMPv6 "packet too big" (RFC 4443 section 3.2).
    #[inline(always)]
    pub const fn mtu6(&self) -> u32 {
        u32::from_be_bytes(self.rest)
    }
}
