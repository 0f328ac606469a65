//! The memory that a socket's packets are in: frames of one size.

use std::io;

use rustix::net::xdp::{XdpUmemReg, XdpUmemRegFlags};

use super::mapping::Mapping;

/// Bytes of a frame. The kernel wants a power of two from 2048 to the size of a page; a larger packet is a chain.
pub(super) const FRAME: usize = 2048;

/// Frames, named by the offset of their first byte. Which of them belong to the kernel at a time is for the rings to say:
/// here bytes are copied, and no references into the memory are given out.
pub(super) struct Umem(Mapping);

impl Umem {
    pub(super) fn new(frames: u32) -> io::Result<Self> {
        let bytes = (frames as usize).checked_mul(FRAME).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self(Mapping::anonymous(bytes)?))
    }

    /// What tells the kernel of it. No headroom: packets to send begin where their frame begins.
    pub(super) fn registration(&self) -> XdpUmemReg {
        XdpUmemReg {
            addr: self.0.base().as_ptr() as u64,
            len: self.0.len() as u64,
            chunk_size: FRAME as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        }
    }

    /// The frame that an address lies in.
    pub(super) const fn frame_of(address: u64) -> u64 {
        address & !(FRAME as u64 - 1)
    }

    /// Copies what is at `address`; `false`, and nothing is copied, unless all of it is in one frame.
    pub(super) fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let Some(from) = self.within_frame(address, into.len()) else {
            return false;
        };
        // SAFETY: the source is inside of the mapping, the destination is an exclusive borrow that cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        true
    }

    /// Copies to `address`; `false`, and nothing is copied, unless it fits into the frame there.
    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(to) = self.within_frame(address, bytes.len()) else {
            return false;
        };
        // SAFETY: the destination is inside of the mapping, which is exclusively borrowed and which the source, a slice,
        // cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        true
    }

    fn within_frame(&self, address: u64, length: usize) -> Option<*mut u8> {
        let offset = address - Self::frame_of(address);
        if offset as usize + length > FRAME {
            return None;
        }
        self.0.at::<u8>(address, length).map(std::ptr::NonNull::as_ptr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut umem = Umem::new(4).unwrap();
        let mut back = [0; FRAME];
        for frame in 0..4u64 {
            assert!(umem.write(frame * FRAME as u64, &[frame as u8 + 1; FRAME]));
        }
        for frame in 0..4u64 {
            assert!(umem.read(frame * FRAME as u64, &mut back));
            assert_eq!(back, [frame as u8 + 1; FRAME]);
            assert_eq!(Umem::frame_of(frame * FRAME as u64 + 300), frame * FRAME as u64);
        }
    }

    #[test]
    fn nothing_outside_of_the_memory_or_across_frames_is_touched() {
        let mut umem = Umem::new(2).unwrap();
        let mut back = [0xa5; 8];
        for address in [2 * FRAME as u64, 2 * FRAME as u64 - 7, FRAME as u64 - 1, u64::MAX, u64::MAX - 7, 1 << 63] {
            assert!(!umem.read(address, &mut back), "{address:#x}");
            assert!(!umem.write(address, &back), "{address:#x}");
        }
        assert_eq!(back, [0xa5; 8]);
        assert!(!umem.write(0, &[0; FRAME + 1]));
        assert!(umem.read(2 * FRAME as u64 - 8, &mut back));
    }
}
