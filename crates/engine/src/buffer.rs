//! A packet in user space with what the device said about its checksum and segmentation.

use flowhop_flow::Packet;
use flowhop_flow::rewrite::fix_in_place;
use flowhop_wire::Frame;
use flowhop_wire::checksum::Delta;

/// What travels beside a packet: the fields of a virtio-net header that concern routers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Checksum is partial: the device or the receiver completes it from `checksum_start` on.
    pub partial: bool,
    /// The checksum was verified by the device.
    pub verified: bool,
    /// Offset of the first byte that the partial checksum covers.
    pub checksum_start: u16,
    /// Offset of the checksum field from `checksum_start`.
    pub checksum_offset: u16,
    /// Kind of segmentation (virtio-net numbers); 0 = none.
    pub segmentation: u8,
    /// Payload bytes of each segment.
    pub segment: u16,
    /// Length of the headers in front of the payload.
    pub headers: u16,
}

/// A frame in a buffer that can be rewritten in place.
#[derive(Debug)]
pub struct Buffer<'a> {
    bytes: &'a mut [u8],
    /// See [`Offload`].
    pub offload: Offload,
}

impl<'a> Buffer<'a> {
    /// Takes bytes as one whole frame.
    #[must_use]
    pub const fn new(bytes: &'a mut [u8], offload: Offload) -> Self {
        Self { bytes, offload }
    }

    /// The same frame for a while.
    pub const fn reborrow(&mut self) -> Buffer<'_> {
        Buffer { bytes: self.bytes, offload: self.offload }
    }

    /// The frame.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The frame, for writing.
    pub const fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// Payload bytes of each segment of a super-packet, else 0.
    #[must_use]
    pub fn segment(&self) -> u32 {
        if self.offload.segmentation == 0 { 0 } else { u32::from(self.offload.segment) }
    }
}

impl Frame for Buffer<'_> {
    #[inline]
    fn len(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.bytes.get(offset..)?.first_chunk()
    }

    #[inline]
    fn write<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(offset..)?.first_chunk_mut()
    }
}

impl Packet for Buffer<'_> {
    #[inline]
    fn shorten(&mut self, length: usize) -> Option<()> {
        let bytes = std::mem::take(&mut self.bytes);
        let shorter = length.min(bytes.len());
        self.bytes = &mut bytes[..shorter];
        Some(())
    }

    #[inline]
    fn fix_checksum(&mut self, offset: usize, addresses: Delta, ports: Delta, udp: bool) -> Option<()> {
        let field = usize::from(self.offload.checksum_start) + usize::from(self.offload.checksum_offset);
        let partial = self.offload.partial && field == offset;
        fix_in_place(self, offset, addresses, ports, udp, partial)
    }
}
