//! Whole packets written from a description: for tests and for what the router itself sends.
//!
//! Lengths, next-header fields and checksums are right unless asked otherwise. Nothing is allocated; every byte of the
//! packet is written, whatever the buffer held.
//!
//! ```
//! use flowhop_wire::build::Spec;
//!
//! let spec = Spec::udp("10.0.0.1:4000".parse()?, "192.0.2.1:53".parse()?, b"question").with_vlans(&[7]);
//! let mut buffer = [0xa5; 100];
//! assert_eq!(spec.write(&mut buffer)?, 14 + 4 + 20 + 8 + 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use core::net::{IpAddr, SocketAddr};

use crate::link::{Ethernet, VlanTag};
use crate::{icmp4, icmp6};

mod fields;
mod write;

pub use fields::{BuildError, Checksum, Extension, Ip, L4, Link, TcpFields, V4, V6};

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec<'a> {
    /// Ethernet header; `None` for a packet that begins with its IP header, with [`Spec::vlans`] ignored.
    pub link: Option<Link>,
    /// Tag control information of the IEEE 802.1Q tags, outermost first. The last tag has ethertype 0x8100, those
    /// around it 0x88a8.
    pub vlans: &'a [u16],
    /// IP header.
    pub ip: Ip<'a>,
    /// Transport header.
    pub l4: L4<'a>,
    /// What the transport-layer checksum field shall be.
    pub checksum: Checksum,
    /// What follows the transport header.
    pub payload: &'a [u8],
}

impl<'a> Spec<'a> {
    /// A packet between these addresses in an untagged Ethernet frame, with everything by default.
    pub fn new(source: IpAddr, destination: IpAddr, l4: L4<'a>, payload: &'a [u8]) -> Self {
        let ip = Ip::between(source, destination);
        Self { link: Some(Link::default()), vlans: &[], ip, l4, checksum: Checksum::Full, payload }
    }

    /// A TCP segment with these flags, and with sequence and acknowledgment number zero.
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8, payload: &'a [u8]) -> Self {
        let (source_port, destination_port) = (source.port(), destination.port());
        let l4 = L4::Tcp(TcpFields { source_port, destination_port, flags, ..TcpFields::default() });
        Self::new(source.ip(), destination.ip(), l4, payload)
    }

    /// A UDP datagram.
    pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &'a [u8]) -> Self {
        let l4 = L4::Udp { source_port: source.port(), destination_port: destination.port() };
        Self::new(source.ip(), destination.ip(), l4, payload)
    }

    /// An echo request of the family that the addresses call for.
    pub fn echo_request(
        source: IpAddr,
        destination: IpAddr,
        identifier: u16,
        sequence: u16,
        payload: &'a [u8],
    ) -> Self {
        Self::echo(source, destination, [icmp4::ECHO_REQUEST, icmp6::ECHO_REQUEST], identifier, sequence, payload)
    }

    /// An echo reply of the family that the addresses call for.
    pub fn echo_reply(source: IpAddr, destination: IpAddr, identifier: u16, sequence: u16, payload: &'a [u8]) -> Self {
        Self::echo(source, destination, [icmp4::ECHO_REPLY, icmp6::ECHO_REPLY], identifier, sequence, payload)
    }

    fn echo(
        source: IpAddr,
        destination: IpAddr,
        [kind4, kind6]: [u8; 2],
        identifier: u16,
        sequence: u16,
        payload: &'a [u8],
    ) -> Self {
        let kind = if source.is_ipv4() && destination.is_ipv4() { kind4 } else { kind6 };
        let ([a, b], [c, d]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
        Self::new(source, destination, L4::Icmp { kind, code: 0, rest: [a, b, c, d] }, payload)
    }

    /// The same with these Ethernet addresses.
    #[must_use]
    pub const fn with_link(self, source: [u8; 6], destination: [u8; 6]) -> Self {
        Self { link: Some(Link { destination, source }), ..self }
    }

    /// The same without an Ethernet header.
    #[must_use]
    pub const fn without_link(self) -> Self {
        Self { link: None, ..self }
    }

    /// The same with these VLAN tags, outermost first.
    #[must_use]
    pub const fn with_vlans(self, vlans: &'a [u16]) -> Self {
        Self { vlans, ..self }
    }

    /// The same with this time to live or hop limit.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: u8) -> Self {
        match &mut self.ip {
            Ip::V4(ip) => ip.ttl = ttl,
            Ip::V6(ip) => ip.hop_limit = ttl,
        }
        self
    }

    /// The same with this differentiated services code point.
    #[must_use]
    pub const fn with_dscp(mut self, dscp: u8) -> Self {
        match &mut self.ip {
            Ip::V4(ip) => ip.dscp = dscp,
            Ip::V6(ip) => ip.dscp = dscp,
        }
        self
    }

    /// The same with these sequence and acknowledgment numbers; no effect unless it is TCP.
    #[must_use]
    pub const fn with_sequence(mut self, sequence: u32, acknowledgment: u32) -> Self {
        if let L4::Tcp(tcp) = &mut self.l4 {
            tcp.sequence = sequence;
            tcp.acknowledgment = acknowledgment;
        }
        self
    }

    /// The same with this receive window; no effect unless it is TCP.
    #[must_use]
    pub const fn with_window(mut self, window: u16) -> Self {
        if let L4::Tcp(tcp) = &mut self.l4 {
            tcp.window = window;
        }
        self
    }

    /// The same with these TCP options; no effect unless it is TCP.
    #[must_use]
    pub const fn with_tcp_options(mut self, options: &'a [u8]) -> Self {
        if let L4::Tcp(tcp) = &mut self.l4 {
            tcp.options = options;
        }
        self
    }

    /// The same with another kind of transport checksum.
    #[must_use]
    pub const fn with_checksum(self, checksum: Checksum) -> Self {
        Self { checksum, ..self }
    }

    /// Where the IP header begins, in bytes.
    pub const fn ip_offset(&self) -> usize {
        match self.link {
            Some(_) => Ethernet::LEN + VlanTag::LEN * self.vlans.len(),
            None => 0,
        }
    }

    /// Where the transport header begins, in bytes; the `csum_start` of a partial checksum.
    pub const fn l4_offset(&self) -> usize {
        self.ip_offset().saturating_add(self.ip.len())
    }

    /// Where the payload begins, in bytes.
    pub const fn payload_offset(&self) -> usize {
        self.l4_offset().saturating_add(self.l4.len())
    }

    /// Length of the packet in bytes; always one byte at least.
    #[expect(clippy::len_without_is_empty, reason = "no packet is empty")]
    pub const fn len(&self) -> usize {
        self.payload_offset().saturating_add(self.payload.len())
    }
}
