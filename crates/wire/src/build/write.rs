//! The packet of a description, byte by byte.

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::{BuildError, Checksum, Extension, Ip, L4, Spec, V4, V6};
use crate::link::{Ethernet, VlanTag};
use crate::network::{Ipv4, Ipv6};
use crate::transport::{Icmp, Tcp, Udp};
use crate::{checksum, ethertype, protocol};

impl Spec<'_> {
    /// The packet in memory of its own.
    ///
    /// # Errors
    ///
    /// As [`Spec::write`], with a buffer that is large enough.
    #[cfg(any(test, feature = "std"))]
    pub fn to_vec(&self) -> Result<std::vec::Vec<u8>, BuildError> {
        self.check()?;
        let mut bytes = std::vec![0; self.len()];
        self.write(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the packet to the beginning of `buffer` and gives its length in bytes.
    ///
    /// # Errors
    ///
    /// [`BuildError`], with nothing written, if the buffer is too small or the headers cannot express a length.
    pub fn write(&self, buffer: &mut [u8]) -> Result<usize, BuildError> {
        self.check()?;
        let too_small = BuildError::BufferTooSmall { needed: self.len(), available: buffer.len() };
        let packet = buffer.get_mut(..self.len()).ok_or(too_small)?;
        let (head, segment) = packet.split_at_mut_checked(self.l4_offset()).ok_or(too_small)?;
        self.write_head(head, segment.len()).ok_or(too_small)?;
        self.write_segment(segment).ok_or(too_small)?;
        Ok(self.len())
    }

    fn check(&self) -> Result<(), BuildError> {
        let ip_options = if let Ip::V4(ip) = &self.ip { ip.options.len() } else { 0 };
        let tcp_options = if let L4::Tcp(tcp) = &self.l4 { tcp.options.len() } else { 0 };
        let length = ip_options.max(tcp_options);
        if length > 40 {
            return Err(BuildError::OptionsTooLong { length });
        }
        let before = match self.ip {
            Ip::V4(_) => self.ip_offset(),
            Ip::V6(_) => self.ip_offset() + Ipv6::LEN,
        };
        let length = self.len().saturating_sub(before);
        if length > usize::from(u16::MAX) {
            return Err(BuildError::PacketTooLong { length });
        }
        Ok(())
    }

    fn protocol(&self) -> u8 {
        match (&self.l4, &self.ip) {
            (L4::Tcp(_), _) => protocol::TCP,
            (L4::Udp { .. }, _) => protocol::UDP,
            (L4::Icmp { .. }, Ip::V4(_)) => protocol::ICMP,
            (L4::Icmp { .. }, Ip::V6(_)) => protocol::ICMPV6,
            (L4::Raw { protocol }, _) => *protocol,
        }
    }

    /// Ethernet, tags and IP header, for a transport segment of `length` bytes.
    fn write_head(&self, bytes: &mut [u8], length: usize) -> Option<()> {
        let mut out = Writer(bytes);
        if let Some(link) = self.link {
            let inner = if matches!(self.ip, Ip::V4(_)) { ethertype::IPV4 } else { ethertype::IPV6 };
            // The ethertype of a tag stands in the header before it.
            let type_of = |tags: &[u16]| match tags {
                [] => inner,
                [_] => ethertype::VLAN,
                _ => ethertype::QINQ,
            };
            out.put(&Ethernet {
                destination: link.destination,
                source: link.source,
                ethertype: U16::new(type_of(self.vlans)),
            })?;
            let mut tags = self.vlans;
            while let [tci, after @ ..] = tags {
                out.put(&VlanTag { tci: U16::new(*tci), ethertype: U16::new(type_of(after)) })?;
                tags = after;
            }
        }
        match &self.ip {
            Ip::V4(ip) => self.write_v4(ip, out, length),
            Ip::V6(ip) => self.write_v6(ip, out, length),
        }
    }

    fn write_v4(&self, ip: &V4<'_>, mut out: Writer<'_>, length: usize) -> Option<()> {
        let header_len = self.ip.len();
        let mut flags = (ip.offset / 8) as u16 & Ipv4::OFFSET_MASK;
        if ip.df {
            flags |= Ipv4::DONT_FRAGMENT;
        }
        if ip.more {
            flags |= Ipv4::MORE_FRAGMENTS;
        }
        let mut header = Ipv4 {
            version_ihl: 0x40 | (header_len / 4) as u8,
            dscp_ecn: (ip.dscp << 2) | (ip.ecn & 3),
            total_length: U16::new((header_len + length) as u16),
            identification: U16::new(ip.id),
            flags_fragment: U16::new(flags),
            ttl: ip.ttl,
            protocol: self.protocol(),
            checksum: U16::ZERO,
            source: ip.source,
            destination: ip.destination,
        };
        header.checksum.set(checksum::finish(checksum::sum(header.as_bytes()) + checksum::sum(ip.options)));
        out.put(&header)?;
        out.bytes(ip.options)?;
        out.zeros()
    }

    fn write_v6(&self, ip: &V6<'_>, mut out: Writer<'_>, length: usize) -> Option<()> {
        let class = u32::from((ip.dscp << 2) | (ip.ecn & 3));
        let next = |rest: &[Extension<'_>]| rest.first().map_or(self.protocol(), |extension| extension.protocol);
        out.put(&Ipv6 {
            version_class_flow: U32::new((6 << 28) | (class << 20) | (ip.flow_label & 0x000f_ffff)),
            payload_length: U16::new((ip.extensions_len() + length) as u16),
            next_header: next(ip.extensions),
            hop_limit: ip.hop_limit,
            source: ip.source,
            destination: ip.destination,
        })?;
        let mut rest = ip.extensions;
        while let [extension, after @ ..] = rest {
            if let [_, body @ ..] = extension.bytes {
                out.put(&next(after))?;
                out.bytes(body)?;
            }
            rest = after;
        }
        Some(())
    }

    /// Transport header and payload, which are all of `bytes`, and then the checksum over them.
    fn write_segment(&self, bytes: &mut [u8]) -> Option<()> {
        let length = bytes.len();
        let (header, payload) = bytes.split_at_mut_checked(self.l4.len())?;
        payload.copy_from_slice(self.payload);
        let mut out = Writer(header);
        match self.l4 {
            L4::Tcp(tcp) => {
                out.put(&Tcp {
                    source_port: U16::new(tcp.source_port),
                    destination_port: U16::new(tcp.destination_port),
                    sequence: U32::new(tcp.sequence),
                    acknowledgment: U32::new(tcp.acknowledgment),
                    offset_reserved: (self.l4.len() / 4) as u8 * 16,
                    flags: tcp.flags,
                    window: U16::new(tcp.window),
                    checksum: U16::ZERO,
                    urgent: U16::new(tcp.urgent),
                })?;
                out.bytes(tcp.options)?;
                out.zeros()?;
            }
            L4::Udp { source_port, destination_port } => out.put(&Udp {
                source_port: U16::new(source_port),
                destination_port: U16::new(destination_port),
                length: U16::new(length as u16),
                checksum: U16::ZERO,
            })?,
            L4::Icmp { kind, code, rest } => out.put(&Icmp { kind, code, checksum: U16::ZERO, rest })?,
            L4::Raw { .. } => {}
        }
        let Some(offset) = self.l4.checksum_offset() else { return Some(()) };
        let field = match self.checksum {
            Checksum::Value(value) => value,
            Checksum::Partial => checksum::fold(self.pseudo_header(length)),
            Checksum::Full => match (self.l4, self.pseudo_header(length) + checksum::sum(bytes)) {
                (L4::Udp { .. }, sum) => checksum::finish_nonzero(sum),
                (_, sum) => checksum::finish(sum),
            },
        };
        *bytes.get_mut(offset..)?.first_chunk_mut()? = field.to_be_bytes();
        Some(())
    }

    fn pseudo_header(&self, length: usize) -> u32 {
        match (&self.ip, self.protocol()) {
            // RFC 792: the checksum of ICMP over IPv4 covers the message only.
            (Ip::V4(_), protocol::ICMP) => 0,
            (Ip::V4(ip), protocol) => checksum::pseudo_v4(ip.source, ip.destination, protocol, length as u16),
            (Ip::V6(ip), protocol) => checksum::pseudo_v6(ip.source, ip.destination, protocol, length as u32),
        }
    }
}

/// Bytes still to be written. `None` means that they do not suffice, which the lengths computed before rule out.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.0.split_off_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(())
    }

    fn put<T: IntoBytes + Immutable>(&mut self, header: &T) -> Option<()> {
        self.bytes(header.as_bytes())
    }

    fn zeros(&mut self) -> Option<()> {
        self.0.fill(0);
        self.0 = &mut [];
        Some(())
    }
}
