//! Frames that were seen.

use std::net::{IpAddr, SocketAddr};

use flowhop_wire::{protocol, verify};

/// A frame that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// All of it.
    pub frame: Vec<u8>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol behind the IP header.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Where the transport header begins.
    pub at: usize,
}

/// What a packet holds of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Identification, of IPv6 its lower half.
    pub id: u16,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// More follow.
    pub more: bool,
    /// Its bytes.
    pub data: &'a [u8],
}

impl Seen {
    /// What a frame is; `None` when it is no whole IP packet.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let frame = frame.to_vec();
        let (source, destination, protocol, ttl, at) = match frame.get(12..15)? {
            [8, 0, first] if first >> 4 == 4 => {
                let header = frame.get(14..34)?;
                let address = |at: usize| header.get(at..at + 4)?.first_chunk::<4>().map(|bytes| (*bytes).into());
                (address(12)?, address(16)?, header[9], header[8], 14 + usize::from(first & 15) * 4)
            }
            [0x86, 0xdd, _] => {
                let header = frame.get(14..54)?;
                let address = |at: usize| header.get(at..at + 16)?.first_chunk::<16>().map(|bytes| (*bytes).into());
                (address(8)?, address(24)?, header[6], header[7], 54)
            }
            _ => return None,
        };
        Some(Self { frame, source, destination, protocol, ttl, at })
    }

    /// What it holds of its datagram; `None` of IPv6 without a fragment header, and of what is cut off.
    #[must_use]
    pub fn part(&self) -> Option<Part<'_>> {
        let ip = self.frame.get(14..)?;
        let word = |at: usize| ip.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
        if self.source.is_ipv4() {
            let (place, data) = (word(6)?, self.frame.get(self.at..14 + usize::from(word(2)?))?);
            let offset = usize::from(place & 0x1fff) * 8;
            return Some(Part { id: word(4)?, offset, more: place & 0x2000 != 0, data });
        }
        if self.protocol != protocol::FRAGMENT {
            return None;
        }
        let (place, data) = (word(42)?, self.frame.get(62..54 + usize::from(word(4)?))?);
        Some(Part { id: word(46)?, offset: usize::from(place & !7), more: place & 1 != 0, data })
    }

    /// The same without what is behind so many bytes, for a quote.
    #[must_use]
    pub fn cut(mut self, bytes: usize) -> Self {
        self.frame.truncate(bytes);
        self
    }

    /// What is behind the IP header.
    #[must_use]
    pub fn l4(&self) -> &[u8] {
        self.frame.get(self.at..).unwrap_or_default()
    }

    /// Big-endian 16 bits of it.
    #[must_use]
    pub fn word(&self, at: usize) -> u16 {
        self.l4().get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }

    /// Big-endian 32 bits of it.
    #[must_use]
    pub fn long(&self, at: usize) -> u32 {
        self.l4().get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    /// Source with port.
    #[must_use]
    pub fn from(&self) -> SocketAddr {
        SocketAddr::new(self.source, self.word(0))
    }

    /// Destination with port.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(self.destination, self.word(2))
    }

    /// TCP flags.
    #[must_use]
    pub fn flags(&self) -> u8 {
        if self.protocol == protocol::TCP { self.l4().get(13).copied().unwrap_or(0) & 0x3f } else { 0 }
    }

    /// TCP options.
    #[must_use]
    pub fn tcp_options(&self) -> &[u8] {
        let length = usize::from(self.l4().get(12).copied().unwrap_or(0) >> 4) * 4;
        self.l4().get(20..length).unwrap_or_default()
    }

    /// Type and code, if it is ICMP of its family.
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        let is = self.protocol == if self.source.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        match self.l4() {
            [kind, code, ..] if is => Some((*kind, *code)),
            _ => None,
        }
    }

    /// Whether all checksums are right that are there.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let packet = self.frame.get(14..).unwrap_or_default();
        let header = !self.source.is_ipv4() || verify::ipv4_header(packet) == verify::Verified::Valid;
        let absent = self.protocol == protocol::UDP && self.word(6) == 0;
        header && (absent || verify::transport(packet).is_acceptable())
    }
}
