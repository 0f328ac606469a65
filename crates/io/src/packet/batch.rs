//! Many frames in one system call.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::MAX_FRAME;
use super::message::{NO_PART, Received, Slot, message};

/// Frames received at once.
const FRAMES: usize = 32;

/// Buffers for the frames that [`recv_batch`](super::PacketPort::recv_batch) takes; one may serve many ports.
pub struct Batch {
    bytes: Box<[u8]>,
    received: [Option<Received>; FRAMES],
}

impl Default for Batch {
    fn default() -> Self {
        Self { bytes: vec![0; FRAMES * MAX_FRAME].into_boxed_slice(), received: [None; FRAMES] }
    }
}

impl Batch {
    /// Frames that fit.
    pub const FRAMES: usize = FRAMES;

    /// The frames that the last call took, in their order, for rewriting in place.
    pub fn frames(&mut self) -> impl Iterator<Item = (Received, &mut [u8])> {
        let frames = self.bytes.chunks_exact_mut(MAX_FRAME);
        self.received.iter().zip(frames).map_while(|(received, frame)| {
            let received = (*received)?;
            Some((received, frame.get_mut(..received.len)?))
        })
    }

    pub(super) fn fill(&mut self, socket: &OwnedFd) -> io::Result<usize> {
        self.received = [None; FRAMES];
        let mut slots = [Slot::new(); FRAMES];
        let mut parts = [[NO_PART; 2]; FRAMES];
        // SAFETY: headers of zeros are valid.
        let mut messages: [libc::mmsghdr; FRAMES] = unsafe { std::mem::zeroed() };
        let places = slots.iter_mut().zip(parts.iter_mut()).zip(self.bytes.chunks_exact_mut(MAX_FRAME));
        for (header, ((slot, parts), frame)) in messages.iter_mut().zip(places) {
            header.msg_hdr = message(slot, parts, frame);
        }
        let count = FRAMES as libc::c_uint;
        let flags = libc::MSG_DONTWAIT as _;
        // SAFETY: each message points to its slot, its parts and its chunk of the buffer, which are distinct, have the
        // lengths given, and are neither moved nor borrowed until the call is over.
        let got =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, flags, std::ptr::null_mut()) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        let frames = self.bytes.chunks_exact(MAX_FRAME);
        for (((known, header), slot), frame) in
            self.received.iter_mut().zip(&messages).zip(&slots).zip(frames).take(got)
        {
            *known = Some(slot.received(&header.msg_hdr, header.msg_len as usize, frame));
        }
        Ok(got)
    }
}
