//! Frames by hand: building, parsing, sending and capturing them past the host's own stack.
//!
//! The parser and the checksums know nothing of the daemon's: they are its oracle.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::namespace::Namespace;
use crate::wait::readable;

/// A hardware address.
pub type Mac = [u8; 6];

const TCP: u8 = 6;
const UDP: u8 = 17;

/// TCP flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// FIN.
    pub const FIN: Self = Self(1);
    /// SYN.
    pub const SYN: Self = Self(2);
    /// RST.
    pub const RST: Self = Self(4);
    /// RST and ACK.
    pub const RST_ACK: Self = Self(0x14);
    /// PSH and ACK.
    pub const PSH_ACK: Self = Self(0x18);
    /// ACK.
    pub const ACK: Self = Self(0x10);

    /// Whether all of these are set.
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// What follows the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP without options when built; options are skipped when parsed.
    Tcp {
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Flags.
        flags: Flags,
        /// The window field as it stands in the header.
        window: u16,
    },
}

/// A UDP or TCP packet over IPv4 or IPv6 in an Ethernet frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Sender on the wire.
    pub from_mac: Mac,
    /// Receiver on the wire.
    pub to_mac: Mac,
    /// Source.
    pub source: SocketAddr,
    /// Destination, of the same family.
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Transport header.
    pub transport: Transport,
    /// Payload.
    pub payload: Vec<u8>,
    /// Parsed packets: whether all checksums are right. False too for those that the sending stack
    /// left to an offload.
    pub checksums: bool,
}

impl Packet {
    /// A packet with a TTL of 64.
    pub fn new(
        (from_mac, to_mac): (Mac, Mac),
        source: SocketAddr,
        destination: SocketAddr,
        transport: Transport,
        payload: &[u8],
    ) -> Self {
        Self { from_mac, to_mac, source, destination, ttl: 64, transport, payload: payload.to_vec(), checksums: true }
    }

    /// The frame, with right checksums whatever `checksums` says.
    pub fn build(&self) -> Vec<u8> {
        let ports = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()].concat();
        let (protocol, mut segment, checksum_at) = match self.transport {
            Transport::Udp => {
                let length = u16::try_from(8 + self.payload.len()).expect("a datagram fits");
                (UDP, [&ports[..], &length.to_be_bytes(), &[0, 0]].concat(), 6)
            }
            Transport::Tcp { seq, ack, flags, window } => {
                let [w1, w0] = window.to_be_bytes();
                let rest = [5 << 4, flags.0, w1, w0, 0, 0, 0, 0];
                let numbers = [seq.to_be_bytes(), ack.to_be_bytes()].concat();
                (TCP, [&ports[..], &numbers, &rest].concat(), 16)
            }
        };
        segment.extend_from_slice(&self.payload);
        let pseudo = pseudo_header(self.source.ip(), self.destination.ip(), protocol, segment.len());
        let mut sum = checksum(&[&pseudo, &segment]);
        if protocol == UDP && sum == 0 {
            sum = 0xffff;
        }
        segment[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());

        let mut frame = [self.to_mac, self.from_mac].concat();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend_from_slice(&[0x08, 0x00]);
                let length = u16::try_from(20 + segment.len()).expect("a packet fits");
                let [l1, l0] = length.to_be_bytes();
                let mut header = vec![0x45, 0, l1, l0, 0x12, 0x34, 0x40, 0, self.ttl, protocol, 0, 0];
                header.extend_from_slice(&source.octets());
                header.extend_from_slice(&destination.octets());
                let sum = checksum(&[&header]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend_from_slice(&header);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend_from_slice(&[0x86, 0xdd]);
                let length = u16::try_from(segment.len()).expect("a packet fits");
                let [l1, l0] = length.to_be_bytes();
                frame.extend_from_slice(&[0x60, 0, 0, 0, l1, l0, protocol, self.ttl]);
                frame.extend_from_slice(&source.octets());
                frame.extend_from_slice(&destination.octets());
            }
            mixed => panic!("a packet of two families: {mixed:?}"),
        }
        frame.extend_from_slice(&segment);
        frame
    }

    /// Reads a UDP or TCP packet; `None` for anything else, fragments and extension headers included.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (to_mac, from_mac) = (frame.get(..6)?.try_into().ok()?, frame.get(6..12)?.try_into().ok()?);
        let packet = frame.get(14..)?;
        let (source, destination, protocol, ttl, segment, header_right): (IpAddr, IpAddr, _, _, _, _);
        match frame.get(12..14)? {
            [0x08, 0x00] => {
                let header = packet.get(..usize::from(packet.first()? & 15) * 4)?;
                if be16(header, 6)? & 0x3fff != 0 {
                    return None;
                }
                // A super-packet of more than 64 kB says 0.
                let length = match usize::from(be16(header, 2)?) {
                    0 => packet.len(),
                    length => length,
                };
                source = <[u8; 4]>::try_from(header.get(12..16)?).ok()?.into();
                destination = <[u8; 4]>::try_from(header.get(16..20)?).ok()?.into();
                (protocol, ttl) = (*header.get(9)?, *header.get(8)?);
                segment = packet.get(header.len()..length)?;
                header_right = checksum(&[header]) == 0;
            }
            [0x86, 0xdd] => {
                let length = match usize::from(be16(packet, 4)?) {
                    0 => packet.len(),
                    length => 40 + length,
                };
                source = <[u8; 16]>::try_from(packet.get(8..24)?).ok()?.into();
                destination = <[u8; 16]>::try_from(packet.get(24..40)?).ok()?.into();
                (protocol, ttl) = (*packet.get(6)?, *packet.get(7)?);
                segment = packet.get(40..length)?;
                header_right = true;
            }
            _ => return None,
        }
        let (transport, payload) = match protocol {
            UDP => (Transport::Udp, segment.get(8..)?),
            TCP => {
                let be32 = |at| Some(u32::from(be16(segment, at)?) << 16 | u32::from(be16(segment, at + 2)?));
                let transport = Transport::Tcp {
                    seq: be32(4)?,
                    ack: be32(8)?,
                    flags: Flags(*segment.get(13)?),
                    window: be16(segment, 14)?,
                };
                (transport, segment.get(usize::from(segment.get(12)? >> 4) * 4..)?)
            }
            _ => return None,
        };
        let pseudo = pseudo_header(source, destination, protocol, segment.len());
        let unused = protocol == UDP && be16(segment, 6)? == 0 && source.is_ipv4();
        Some(Self {
            from_mac,
            to_mac,
            source: SocketAddr::new(source, be16(segment, 0)?),
            destination: SocketAddr::new(destination, be16(segment, 2)?),
            ttl,
            transport,
            payload: payload.to_vec(),
            checksums: header_right && (unused || checksum(&[&pseudo, segment]) == 0),
        })
    }

    /// The sequence number after this packet.
    pub fn next_seq(&self) -> Option<u32> {
        let Transport::Tcp { seq, flags, .. } = self.transport else { return None };
        let controls = u32::from(flags.has(Flags::SYN)) + u32::from(flags.has(Flags::FIN));
        let length = u32::try_from(self.payload.len()).ok()?;
        Some(seq.wrapping_add(length).wrapping_add(controls))
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
        }
    }
    // Both families sum the same: zeros, protocol, length. Every part has an even number of bytes.
    bytes.extend_from_slice(&[0, protocol]);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
    bytes
}

/// RFC 1071 over parts, of which only the last may have an odd length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += match *pair {
                [high, low] => u64::from(u16::from_be_bytes([high, low])),
                [high] => u64::from(high) << 8,
                _ => 0,
            };
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// A captured frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether the host of the port sent it.
    pub outgoing: bool,
}

impl Frame {
    /// What is in it.
    pub fn packet(&self) -> Option<Packet> {
        Packet::parse(&self.bytes)
    }

    /// Whether it came in, from `source` to `destination`.
    pub fn came(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        !self.outgoing
            && self.packet().is_some_and(|packet| packet.source == source && packet.destination == destination)
    }
}

/// A packet socket on one device.
#[derive(Debug)]
pub struct RawPort {
    socket: OwnedFd,
    /// The device's hardware address.
    pub mac: Mac,
}

impl RawPort {
    /// Opens a device for sending; everything it receives and sends from now on can be captured.
    pub fn open(namespace: &Namespace, device: &str) -> Self {
        let name = std::ffi::CString::new(device).expect("a device name");
        let all = i32::from(u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be());
        let size = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(20);
        namespace.enter(|| {
            // SAFETY: plain system calls on a descriptor just opened and on addresses of the sizes
            // given; a zeroed sockaddr_ll is a valid one.
            unsafe {
                let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
                assert!(fd >= 0, "AF_PACKET: {}", io::Error::last_os_error());
                let socket = OwnedFd::from_raw_fd(fd);
                let room = 32i32 << 20;
                libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const room).cast(), 4);
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(17);
                address.sll_protocol = u16::try_from(all).unwrap_or(0);
                address.sll_ifindex = i32::try_from(libc::if_nametoindex(name.as_ptr())).unwrap_or(0);
                assert!(address.sll_ifindex > 0, "[{}] no device {device}", namespace.name());
                let bound = libc::bind(fd, (&raw const address).cast(), size);
                assert!(bound == 0, "bind {device}: {}", io::Error::last_os_error());
                let mut length = size;
                libc::getsockname(fd, (&raw mut address).cast(), &raw mut length);
                let mut mac = [0; 6];
                mac.copy_from_slice(&address.sll_addr[..6]);
                Self { socket, mac }
            }
        })
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer has the length given.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert!(usize::try_from(sent) == Ok(frame.len()), "send {} bytes: {}", frame.len(), io::Error::last_os_error());
    }

    /// The next frame for which `wanted` says yes; others are gone. `None` after `limit`.
    pub fn capture(&self, limit: Duration, mut wanted: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        let end = Instant::now() + limit;
        loop {
            let frame = self.next(end)?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// All frames for which `wanted` says yes, up to the one that `last` names or until `limit` is over.
    pub fn capture_until(
        &self,
        limit: Duration,
        mut wanted: impl FnMut(&Frame) -> bool,
        mut last: impl FnMut(&Frame) -> bool,
    ) -> Vec<Frame> {
        let end = Instant::now() + limit;
        let mut frames = Vec::new();
        while let Some(frame) = self.next(end) {
            let stop = last(&frame);
            if wanted(&frame) {
                frames.push(frame);
            }
            if stop {
                break;
            }
        }
        frames
    }

    /// Forgets what has been captured up to now.
    pub fn clear(&self) {
        while self.next(Instant::now()).is_some() {}
    }

    fn next(&self, end: Instant) -> Option<Frame> {
        if !readable(&self.socket, end.saturating_duration_since(Instant::now())) {
            return None;
        }
        let mut bytes = vec![0; 1 << 18];
        // SAFETY: the buffer and the address have the lengths given; zero is a valid sockaddr_ll.
        let (length, kind) = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            let mut size = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(20);
            let length = libc::recvfrom(
                self.socket.as_raw_fd(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
                (&raw mut address).cast(),
                &raw mut size,
            );
            (length, address.sll_pkttype)
        };
        bytes.truncate(usize::try_from(length).unwrap_or(0));
        Some(Frame { bytes, outgoing: kind == libc::PACKET_OUTGOING })
    }
}
