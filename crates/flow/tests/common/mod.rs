//! Frames for tests.

use flowhop_flow::Packet;
use flowhop_flow::parse::{self, ETHERNET, Parsed};
use flowhop_flow::rewrite::fix_in_place;
use flowhop_wire::Frame;
use flowhop_wire::checksum::Delta;

/// A frame as a kernel path has it; `partial`: its TCP checksum is that of the pseudo-header only.
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) partial: bool,
}

impl Frame for Buffer {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.bytes.get(offset..)?.first_chunk()
    }

    fn write<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(offset..)?.first_chunk_mut()
    }
}

impl Packet for Buffer {
    fn fix_checksum(&mut self, offset: usize, addresses: Delta, ports: Delta, udp: bool) -> Option<()> {
        let partial = self.partial;
        fix_in_place(self, offset, addresses, ports, udp, partial)
    }

    fn shorten(&mut self, length: usize) -> Option<()> {
        self.bytes.truncate(length);
        Some(())
    }
}

/// What the parser finds in an Ethernet frame with a good packet.
pub(crate) fn parsed(frame: &Buffer) -> Parsed {
    let v4 = frame.bytes[12] == 8;
    let parsed = if v4 { parse::ipv4(frame, ETHERNET, 0) } else { parse::ipv6(frame, ETHERNET, 0) };
    parsed.expect("a good packet")
}
