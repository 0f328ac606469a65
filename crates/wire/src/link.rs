//! Headers of the link: Ethernet II, IEEE 802.1Q tags, ARP.

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Ethernet II header (RFC 894; IEEE 802.3 clause 3).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ethernet {
    /// Station that the frame is for.
    pub destination: [u8; 6],
    /// Station that sent the frame.
    pub source: [u8; 6],
    /// What follows ([`crate::ethertype`]); below 1536 it is an 802.3 length instead.
    pub ethertype: U16,
}

impl Ethernet {
    /// Length of the header in bytes.
    pub const LEN: usize = 14;
}

/// IEEE 802.1Q tag as it follows the ethertype 0x8100 or 0x88a8 (IEEE 802.1Q clause 9.6).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct VlanTag {
    /// Tag control information: priority (3 bits), drop eligible (1 bit), VLAN identifier (12 bits).
    pub tci: U16,
    /// What follows the tag ([`crate::ethertype`]).
    pub ethertype: U16,
}

impl VlanTag {
    /// Length of the tag in bytes.
    pub const LEN: usize = 4;

    /// VLAN identifier, 0..=4095; 0 means a priority tag without a VLAN.
    #[inline(always)]
    pub const fn vlan_id(&self) -> u16 {
        self.tci.get() & 0x0fff
    }

    /// Priority code point, 0..=7.
    #[inline(always)]
    pub const fn pcp(&self) -> u8 {
        (self.tci.get() >> 13) as u8
    }

    /// Drop eligible indicator.
    #[inline(always)]
    pub const fn drop_eligible(&self) -> bool {
        self.tci.get() & 0x1000 != 0
    }
}

/// ARP packet for IPv4 over Ethernet (RFC 826).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Arp {
    /// `ar$hrd`: 1 for Ethernet.
    pub hardware_type: U16,
    /// `ar$pro`: the ethertype of IPv4.
    pub protocol_type: U16,
    /// `ar$hln`: 6.
    pub hardware_length: u8,
    /// `ar$pln`: 4.
    pub protocol_length: u8,
    /// `ar$op`: see [`crate::arp`].
    pub operation: U16,
    /// `ar$sha`: link address of the sender.
    pub sender_hardware: [u8; 6],
    /// `ar$spa`: IPv4 address of the sender.
    pub sender_protocol: [u8; 4],
    /// `ar$tha`: link address of the target; unset in a request.
    pub target_hardware: [u8; 6],
    /// `ar$tpa`: IPv4 address of the target.
    pub target_protocol: [u8; 4],
}

impl Arp {
    /// Length of the packet in bytes, without the padding to a minimal frame.
    pub const LEN: usize = 28;

    /// True if the packet is about IPv4 over Ethernet, so that the address fields mean what their names say.
    #[inline]
    pub const fn is_ipv4_over_ethernet(&self) -> bool {
        self.hardware_type.get() == crate::arp::HARDWARE_ETHERNET
            && self.protocol_type.get() == crate::ethertype::IPV4
            && self.hardware_length == 6
            && self.protocol_length == 4
    }
}
