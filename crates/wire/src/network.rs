//! Headers of the network layer: IPv4, IPv6 and its extension headers.

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IPv4 header without its options (RFC 791 section 3.1).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (high 4 bits) and header length in words of 4 bytes (low 4 bits).
    pub version_ihl: u8,
    /// Differentiated services code point (high 6 bits, RFC 2474) and ECN (low 2 bits, RFC 3168).
    pub dscp_ecn: u8,
    /// Length of header and payload in bytes.
    pub total_length: U16,
    /// Names the datagram that a fragment belongs to; without meaning otherwise (RFC 6864).
    pub identification: U16,
    /// Flags (high 3 bits) and fragment offset in units of 8 bytes (low 13 bits).
    pub flags_fragment: U16,
    /// Time to live in hops.
    pub ttl: u8,
    /// Protocol of the payload ([`crate::protocol`]).
    pub protocol: u8,
    /// Checksum of the header with its options.
    pub checksum: U16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

impl Ipv4 {
    /// Length of the header without options in bytes.
    pub const LEN: usize = 20;
    /// Flag "don't fragment" within [`Ipv4::flags_fragment`].
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// Flag "more fragments" within [`Ipv4::flags_fragment`].
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// The bits of the fragment offset within [`Ipv4::flags_fragment`].
    pub const OFFSET_MASK: u16 = 0x1fff;

    /// Version; 4 in every valid packet.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Length of the header with its options in bytes, 0..=60; below 20 the header is malformed.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Differentiated services code point, 0..=63 (RFC 2474 section 3).
    #[inline(always)]
    pub const fn dscp(&self) -> u8 {
        self.dscp_ecn >> 2
    }

    /// Explicit congestion notification, 0..=3 (RFC 3168 section 5).
    #[inline(always)]
    pub const fn ecn(&self) -> u8 {
        self.dscp_ecn & 3
    }

    /// Flag "don't fragment".
    #[inline(always)]
    pub const fn dont_fragment(&self) -> bool {
        self.flags_fragment.get() & Self::DONT_FRAGMENT != 0
    }

    /// Flag "more fragments".
    #[inline(always)]
    pub const fn more_fragments(&self) -> bool {
        self.flags_fragment.get() & Self::MORE_FRAGMENTS != 0
    }

    /// Place of the payload within the unfragmented datagram in bytes, 0..=65528.
    #[inline(always)]
    pub const fn fragment_offset(&self) -> usize {
        (self.flags_fragment.get() & Self::OFFSET_MASK) as usize * 8
    }

    /// True for any fragment, the first one included.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.flags_fragment.get() & (Self::MORE_FRAGMENTS | Self::OFFSET_MASK) != 0
    }
}

/// IPv6 fixed header (RFC 8200 section 3).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub version_class_flow: U32,
    /// Length of everything after this header in bytes, extension headers included.
    pub payload_length: U16,
    /// Protocol or extension header that follows ([`crate::protocol`]).
    pub next_header: u8,
    /// Hop limit in hops.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

impl Ipv6 {
    /// Length of the header in bytes.
    pub const LEN: usize = 40;

    /// Version; 6 in every valid packet.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        (self.version_class_flow.get() >> 28) as u8
    }

    /// Traffic class: DSCP (high 6 bits) and ECN (low 2 bits), laid out as [`Ipv4::dscp_ecn`].
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// Differentiated services code point, 0..=63 (RFC 2474 section 3).
    #[inline(always)]
    pub const fn dscp(&self) -> u8 {
        self.traffic_class() >> 2
    }

    /// Explicit congestion notification, 0..=3 (RFC 3168 section 5).
    #[inline(always)]
    pub const fn ecn(&self) -> u8 {
        self.traffic_class() & 3
    }

    /// Flow label, 20 bits (RFC 6437).
    #[inline(always)]
    pub const fn flow_label(&self) -> u32 {
        self.version_class_flow.get() & 0x000f_ffff
    }
}

/// What hop-by-hop options, routing header and destination options begin with (RFC 8200 sections 4.3, 4.4, 4.6).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ipv6Extension {
    /// Protocol or extension header that follows ([`crate::protocol`]).
    pub next_header: u8,
    /// Length in units of 8 bytes, the first 8 bytes not counted.
    pub length: u8,
}

impl Ipv6Extension {
    /// Length of this struct in bytes; the whole header is at least 8.
    pub const LEN: usize = 2;

    /// Length of the whole extension header in bytes, 8..=2048.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        (self.length as usize + 1) * 8
    }
}

/// IPv6 fragment header (RFC 8200 section 4.5).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ipv6Fragment {
    /// First header of the fragmentable part of the original packet ([`crate::protocol`]).
    pub next_header: u8,
    /// Ignored on reception.
    pub reserved: u8,
    /// Fragment offset in units of 8 bytes (high 13 bits), reserved (2 bits), more fragments (lowest bit).
    pub offset_flags: U16,
    /// Names the original packet, together with its addresses.
    pub identification: U32,
}

impl Ipv6Fragment {
    /// Length of the header in bytes.
    pub const LEN: usize = 8;

    /// Place of the payload within the fragmentable part in bytes, 0..=65528.
    #[inline(always)]
    pub const fn fragment_offset(&self) -> usize {
        (self.offset_flags.get() & 0xfff8) as usize
    }

    /// Flag "more fragments".
    #[inline(always)]
    pub const fn more_fragments(&self) -> bool {
        self.offset_flags.get() & 1 != 0
    }

    /// True if offset and flag are both zero: the packet is whole in spite of its fragment header (RFC 6946).
    #[inline(always)]
    pub const fn is_atomic(&self) -> bool {
        self.offset_flags.get() & 0xfff9 == 0
    }
}
