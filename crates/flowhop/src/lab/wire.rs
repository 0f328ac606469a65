//! Frames sent and received by hand.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

/// Frames of one system call.
pub const BATCH: usize = 64;
/// Wanted for frames that wait to be answered.
const BUFFER: usize = 256 << 20;
/// How long a send may find everything full before it is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A packet socket on one device of the calling thread's namespace.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// Opens it; it receives frames of this ethertype, if any, but none that this host sends.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(ifindex: u32, receives: Option<u16>) -> io::Result<Self> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        if receives.is_some() {
            // In a user namespace the system's limit holds.
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)
                .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER))?;
            let on: libc::c_int = 1;
            let length = size_of_val(&on) as libc::socklen_t;
            // SAFETY: the kernel reads an integer of this length.
            let set = unsafe {
                let option = libc::PACKET_IGNORE_OUTGOING;
                libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), length)
            };
            if set != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: zero is a valid address of this kind.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = receives.unwrap_or(0).to_be();
        address.sll_ifindex = ifindex as i32;
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the kernel reads an address of this length.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(socket))
    }

    /// Sends frames, at most so many in a second.
    ///
    /// # Errors
    /// What the system says.
    pub fn send<F: AsMut<[u8]>>(&self, frames: impl Iterator<Item = F>, rate: u32) -> io::Result<()> {
        let start = Instant::now();
        let mut sent = 0u64;
        let mut batch: Vec<F> = Vec::with_capacity(BATCH);
        let mut frames = frames.peekable();
        while frames.peek().is_some() {
            batch.clear();
            batch.extend(frames.by_ref().take(BATCH));
            self.send_all(&mut batch)?;
            sent += batch.len() as u64;
            let due = Duration::from_secs_f64(sent as f64 / f64::from(rate));
            if let Some(early) = due.checked_sub(start.elapsed()) {
                thread::sleep(early);
            }
        }
        Ok(())
    }

    /// Sends frames as fast as can be.
    ///
    /// # Errors
    /// What the system says, or that there was no room for ten seconds.
    pub fn send_all<F: AsMut<[u8]>>(&self, frames: &mut [F]) -> io::Result<()> {
        let mut parts: Vec<libc::iovec> = frames
            .iter_mut()
            .map(AsMut::as_mut)
            .map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: zero is valid for a message without address, parts and control data.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let end = Instant::now() + PATIENCE;
        let mut done = 0;
        while done < messages.len() {
            let rest = &mut messages[done..];
            // SAFETY: the messages name parts, and these name frames; all of them outlive the call.
            let sent = unsafe { libc::sendmmsg(self.0.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
            if sent >= 0 {
                done += sent as usize;
                continue;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR) if Instant::now() < end => thread::yield_now(),
                _ => return Err(error),
            }
        }
        Ok(())
    }

    /// The next frame that comes in, in `buffer`; `None` if none comes within `limit`.
    ///
    /// # Errors
    /// What the system says.
    pub fn receive<'a>(&self, buffer: &'a mut [u8], limit: Duration) -> io::Result<Option<&'a [u8]>> {
        let mut wait = PollFd::new(self.0.as_fd(), PollFlags::POLLIN);
        let limit = PollTimeout::try_from(limit.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
        if poll(std::slice::from_mut(&mut wait), limit)? == 0 {
            return Ok(None);
        }
        // SAFETY: the kernel writes at most as much as there is room for.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(buffer.get(..got as usize))
    }
}
