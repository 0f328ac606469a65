//! Reading and rewriting packets, with whole checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowhop_flow::Reason;

use super::Tuple;
use super::tcp::Segment;

/// What follows the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp(Segment),
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo.
    Echo,
    /// Anything else.
    Other,
}

/// A packet that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Its key.
    pub key: Tuple,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Bytes from the IP header to the end of the packet.
    pub length: usize,
    /// Offset of the transport header.
    pub transport: usize,
    /// The transport header.
    pub l4: L4,
}

/// A packet that was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// Whom it is for, if that could be read.
    pub destination: Option<IpAddr>,
}

/// One's complement sum of the big-endian words, `1..=0xffff`, or 0 when all are zero (RFC 1071).
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0u64;
    for pair in bytes.chunks(2) {
        total += u64::from(pair[0]) * 256 + u64::from(pair.get(1).copied().unwrap_or(0));
    }
    match (total, total % 65535) {
        (0, _) => 0,
        (_, 0) => 65535,
        (_, rest) => rest as u32,
    }
}

fn word(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn long(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

fn v4(frame: &[u8], at: usize) -> IpAddr {
    Ipv4Addr::from(long(frame, at)).into()
}

fn v6(frame: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&frame[at..at + 16]);
    Ipv6Addr::from(octets).into()
}

/// Takes the VLAN tag out of a frame (IEEE 802.1Q): the frame without it, and the tag's second half. A frame that ends
/// within the tag has none.
#[must_use]
pub fn untag(frame: &[u8]) -> (Vec<u8>, Option<u16>) {
    match frame.get(12..16) {
        Some([0x81, 0x00, high, low]) => {
            ([&frame[..12], &frame[16..]].concat(), Some(u16::from_be_bytes([*high, *low])))
        }
        _ => (frame.to_vec(), None),
    }
}

/// Gives a frame without a tag that of a VLAN, with the priority of the tag that it came with; none for VLAN 0.
#[must_use]
pub fn retag(frame: &[u8], came_with: Option<u16>, vid: u16) -> Vec<u8> {
    if vid == 0 {
        return frame.to_vec();
    }
    let tag = came_with.unwrap_or(0) / 0x1000 * 0x1000 + vid;
    [&frame[..12], &[0x81, 0x00], &tag.to_be_bytes(), &frame[12..]].concat()
}

/// Reads a frame that is IP by its ethertype.
///
/// # Errors
/// What keeps the fast path from reading it (RFC 1812 section 5.2.2; options, extension headers, fragments).
pub fn read(frame: &[u8]) -> Result<Headers, Refused> {
    let is_v4 = frame[12..14] == [0x08, 0x00];
    let header = if is_v4 { 20 } else { 40 };
    if frame.len() < 14 + header {
        return Err(Refused { reason: Reason::Truncated, destination: None });
    }
    let (source, destination) = if is_v4 { (v4(frame, 26), v4(frame, 30)) } else { (v6(frame, 22), v6(frame, 38)) };
    let (protocol, ttl, length) = if is_v4 {
        (frame[23], frame[22], usize::from(word(frame, 16)))
    } else {
        (frame[20], frame[21], 40 + usize::from(word(frame, 18)))
    };
    let headers = || -> Result<Headers, Reason> {
        let version = frame[14] / 16;
        if is_v4 {
            match (version, frame[14] % 16) {
                (4, 5) => {}
                (4, 6..) => return Err(Reason::Options),
                _ => return Err(Reason::BadHeader),
            }
        } else if version != 6 {
            return Err(Reason::BadHeader);
        }
        if length < header {
            return Err(Reason::BadHeader);
        }
        if 14 + length > frame.len() {
            return Err(Reason::Truncated);
        }
        if is_v4 {
            if sum(&frame[14..34]) != 65535 {
                return Err(Reason::BadIpChecksum);
            }
            let (more, offset) = (frame[20] & 0x20 != 0, word(frame, 20) % 8192);
            if more || offset != 0 {
                return Err(Reason::Fragment);
            }
        } else {
            match protocol {
                44 => return Err(Reason::Fragment),
                // Hop-by-hop, routing, AH, none, destination options, mobility, HIP, Shim6 (RFC 7045).
                0 | 43 | 51 | 59 | 60 | 135 | 139 | 140 => return Err(Reason::ExtensionHeader),
                _ => {}
            }
        }
        let transport = 14 + header;
        let (l4, source_port, destination_port) = read_l4(&frame[transport..14 + length], protocol, is_v4, ttl)?;
        let key = Tuple { source, destination, protocol, source_port, destination_port };
        Ok(Headers { key, ttl, length, transport, l4 })
    };
    headers().map_err(|reason| Refused { reason, destination: Some(destination) })
}

/// Reads what the IP header carries.
fn read_l4(bytes: &[u8], protocol: u8, is_v4: bool, ttl: u8) -> Result<(L4, u16, u16), Reason> {
    let least = match (protocol, is_v4) {
        (6, _) => 20,
        (17, _) | (1, true) | (58, false) => 8,
        _ => return Ok((L4::Other, 0, 0)),
    };
    if bytes.len() < least {
        return Err(Reason::Truncated);
    }
    match protocol {
        6 => {
            let header = usize::from(bytes[12] / 16) * 4;
            if header < 20 {
                return Err(Reason::BadHeader);
            }
            if header > bytes.len() {
                return Err(Reason::Truncated);
            }
            let segment = Segment {
                sequence: long(bytes, 4),
                acknowledgment: long(bytes, 8),
                flags: bytes[13],
                window: word(bytes, 14),
                options: bytes[20..header].to_vec(),
                payload: (bytes.len() - header) as u32,
            };
            Ok((L4::Tcp(segment), word(bytes, 0), word(bytes, 2)))
        }
        17 => {
            let length = usize::from(word(bytes, 4));
            if length < 8 {
                return Err(Reason::BadHeader);
            }
            if length > bytes.len() {
                return Err(Reason::Truncated);
            }
            Ok((L4::Udp, word(bytes, 0), word(bytes, 2)))
        }
        _ => match (is_v4, bytes[0], bytes[1]) {
            (true, 8 | 0, 0) | (false, 128 | 129, 0) => Ok((L4::Echo, word(bytes, 4), word(bytes, 0))),
            // RFC 4861: router and neighbour solicitation and advertisement, redirect; valid with hop limit 255 only.
            (false, 133..=137, _) if ttl == 255 => Err(Reason::NeighbourDiscovery),
            _ => Err(Reason::Icmp),
        },
    }
}

/// Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for ip in [source, destination] {
        match ip {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// Offset of the checksum inside a transport header.
#[must_use]
pub const fn checksum_offset(protocol: u8) -> usize {
    match protocol {
        6 => 16,
        17 => 6,
        _ => 2,
    }
}

/// The checksum that the transport header at the end of `packet` should have, or, when partial, the sum of its
/// pseudo-header.
#[must_use]
pub fn transport_checksum(l4: &[u8], key: &Tuple, partial: bool) -> u16 {
    let mut covered = Vec::new();
    // ICMP for IPv4 has no pseudo-header (RFC 792).
    if key.protocol != 1 {
        covered.extend(pseudo_header(key.source, key.destination, key.protocol, l4.len()));
    }
    if partial {
        return sum(&covered) as u16;
    }
    let at = covered.len() + checksum_offset(key.protocol);
    covered.extend(l4);
    covered[at..at + 2].fill(0);
    match (!(sum(&covered) as u16), key.protocol) {
        // RFC 768: a computed zero is sent as all ones.
        (0, 17) => 0xffff,
        (checksum, _) => checksum,
    }
}

/// Whether an IPv4 packet that may be cut, and is no fragment, leaves with other addresses: then its identification is chosen
/// anew (RFC 6864 section 5.3.1).
#[must_use]
pub fn is_identified_anew(frame: &[u8], old: &Tuple, new: &Tuple) -> bool {
    let moves = (old.source, old.destination) != (new.source, new.destination);
    old.source.is_ipv4() && moves && word(frame, 20) & 0x7fff == 0
}

/// Rewrites a frame from the key that it came with to the one that it leaves with, and takes one from its time
/// to live; adds to the sequence number of TCP, and takes from its acknowledgment, what `shifts` says. Returns the offset of a transport checksum that was wrong before and thus is wrong by the same
/// amount now.
pub fn rewrite(frame: &mut [u8], headers: &Headers, new: &Tuple, shifts: [u32; 2], partial: bool) -> Option<usize> {
    let (end, at) = (14 + headers.length, headers.transport);
    let old = headers.key;
    let before = match headers.l4 {
        L4::Other => 0,
        _ => transport_checksum(&frame[at..end], &old, partial),
    };
    match (new.source, new.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame[22] -= 1;
            frame[26..30].copy_from_slice(&source.octets());
            frame[30..34].copy_from_slice(&destination.octets());
            frame[24..26].fill(0);
            let checksum = !(sum(&frame[14..34]) as u16);
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame[21] -= 1;
            frame[22..38].copy_from_slice(&source.octets());
            frame[38..54].copy_from_slice(&destination.octets());
        }
        _ => panic!("a connection of two families"),
    }
    match headers.l4 {
        L4::Tcp(_) | L4::Udp => {
            frame[at..at + 2].copy_from_slice(&new.source_port.to_be_bytes());
            frame[at + 2..at + 4].copy_from_slice(&new.destination_port.to_be_bytes());
        }
        L4::Echo => frame[at + 4..at + 6].copy_from_slice(&new.source_port.to_be_bytes()),
        L4::Other => return None,
    }
    if let L4::Tcp(segment) = &headers.l4 {
        let [own, peer] = shifts;
        frame[at + 4..at + 8].copy_from_slice(&segment.sequence.wrapping_add(own).to_be_bytes());
        if segment.flags & 16 != 0 {
            frame[at + 8..at + 12].copy_from_slice(&segment.acknowledgment.wrapping_sub(peer).to_be_bytes());
        }
    }
    let field = at + checksum_offset(old.protocol);
    let stored = word(frame, field);
    let is_udp = old.protocol == 17;
    if *new == old && shifts == [0; 2] || is_udp && stored == 0 && !partial {
        return None;
    }
    let after = transport_checksum(&frame[at..end], new, partial);
    if stored == before {
        frame[field..field + 2].copy_from_slice(&after.to_be_bytes());
        return None;
    }
    // All modulo 65535: `after + (stored - before)`.
    let wrong = (u32::from(after) + u32::from(stored) + 65535 - u32::from(before)) % 65535;
    let wrong = if wrong == 0 && is_udp { 0xffff } else { wrong as u16 };
    frame[field..field + 2].copy_from_slice(&wrong.to_be_bytes());
    (!is_udp).then_some(field)
}
