//! Access to the bytes of one packet, whatever holds them.

/// The bytes of one whole packet, from its first header on.
///
/// The forwarding function is generic over this trait, so that one source serves a slice in user space, an XDP
/// buffer and a socket buffer. An implementation checks bounds on every access: in the kernel programs that check is
/// also what the verifier wants to see directly before the load, hence a constant length per access.
pub trait Frame {
    /// Length of the whole packet in bytes, also of such parts as cannot be read directly.
    fn len(&self) -> usize;

    /// Whether the packet has at least `length` bytes. Asked before [`len`](Self::len) where finding out the whole length
    /// costs more.
    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        length <= self.len()
    }

    /// True if the packet has no bytes.
    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `N` bytes at `offset`, or `None` if any of them is outside.
    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// The `N` bytes at `offset` for writing, or `None` if any of them is outside.
    fn write<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;
}

/// A packet in a slice.
#[derive(Debug, PartialEq, Eq)]
pub struct SliceFrame<'a> {
    bytes: &'a mut [u8],
}

impl<'a> SliceFrame<'a> {
    /// Takes `bytes` as one whole packet.
    #[inline(always)]
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes }
    }

    /// The whole packet.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The whole packet for writing.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// Gives the slice back for its whole life.
    #[inline(always)]
    pub fn into_bytes(self) -> &'a mut [u8] {
        self.bytes
    }
}

impl Frame for SliceFrame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.bytes.len()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.bytes.get(offset..)?.first_chunk()
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(offset..)?.first_chunk_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_ends_with_the_packet() {
        let mut bytes = [1, 2, 3, 4];
        let mut frame = SliceFrame::new(&mut bytes);
        assert_eq!(frame.len(), 4);
        assert_eq!(frame.read::<2>(2), Some(&[3, 4]));
        assert_eq!(frame.read::<2>(3), None);
        assert_eq!(frame.read::<0>(4), Some(&[]));
        assert_eq!(frame.read::<1>(usize::MAX), None);
        *frame.write::<2>(1).unwrap() = [9, 9];
        assert_eq!(frame.write::<5>(0), None);
        assert_eq!(frame.bytes(), [1, 9, 9, 4]);
        assert_eq!(frame.into_bytes(), [1, 9, 9, 4]);
        assert!(SliceFrame::new(&mut []).is_empty());
    }
}
