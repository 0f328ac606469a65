//! Frames sent and answered by hand: the first packets of very many connections.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flowhop_wire::checksum;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

use super::generator::FIRST_SEQUENCE;

/// Frames of one system call.
const BATCH: usize = 64;
/// Wanted for frames that wait to be answered.
const BUFFER: usize = 256 << 20;
/// How long a send may find everything full before it is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A packet socket on one device of the calling thread's namespace.
#[derive(Debug)]
pub(super) struct Wire(OwnedFd);

impl Wire {
    /// Opens it; it receives IPv4 if told so.
    pub(super) fn open(ifindex: u32, receives: bool) -> io::Result<Self> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        if receives {
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        }
        // SAFETY: zero is a valid address of this kind.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = if receives { (libc::ETH_P_IP as u16).to_be() } else { 0 };
        address.sll_ifindex = ifindex as i32;
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the kernel reads an address of this length.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(socket))
    }

    /// Sends frames, at most so many in a second.
    pub(super) fn send<const N: usize>(&self, frames: impl Iterator<Item = [u8; N]>, rate: u32) -> io::Result<()> {
        let start = Instant::now();
        let mut sent = 0u64;
        let mut batch: Vec<[u8; N]> = Vec::with_capacity(BATCH);
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

    fn send_all<const N: usize>(&self, frames: &mut [[u8; N]]) -> io::Result<()> {
        let mut parts: Vec<libc::iovec> =
            frames.iter_mut().map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: N }).collect();
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

    /// Answers the first packet of every TCP connection, until told to stop; how many there were.
    pub(super) fn answer(&self, stop: &Arc<AtomicBool>) -> io::Result<u32> {
        setsockopt(&self.0, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(0, 20_000))?;
        let mut frame = [0u8; 2048];
        let mut answered = 0;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            // SAFETY: the kernel writes at most as much as there is room for.
            let got = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
            if got > 0 {
                if let Some(answer) = frame.get(..got as usize).and_then(answer_of) {
                    batch.push(answer);
                    answered += 1;
                }
            } else if stop.load(Ordering::Acquire) && batch.is_empty() {
                return Ok(answered);
            }
            if batch.len() == BATCH || got <= 0 {
                self.send_all(&mut batch)?;
                batch.clear();
            }
        }
    }
}

/// The second packet of a TCP handshake, in answer to the first.
fn answer_of(frame: &[u8]) -> Option<[u8; 60]> {
    let frame = frame.first_chunk::<60>()?;
    let [_, theirs] = FIRST_SEQUENCE;
    if frame[12..14] != [8, 0] || frame[14] != 0x45 || frame[23] != 6 || frame[47] != 2 {
        return None;
    }
    let mut answer = *frame;
    for (to, from, length) in [(0, 6, 6), (6, 0, 6), (26, 30, 4), (30, 26, 4), (34, 36, 2), (36, 34, 2)] {
        answer[to..to + length].copy_from_slice(&frame[from..from + length]);
    }
    let sequence = u32::from_be_bytes(*frame[38..].first_chunk()?);
    answer[38..42].copy_from_slice(&theirs.to_be_bytes());
    answer[42..46].copy_from_slice(&(sequence + 1).to_be_bytes());
    answer[47] = 0x12;
    // Swapping changes no sum, but the other side counted the hops down.
    answer[22] = 64;
    answer[24..26].fill(0);
    let ip = checksum::finish(checksum::sum(&answer[14..34]));
    answer[24..26].copy_from_slice(&ip.to_be_bytes());
    answer[50..52].fill(0);
    let (source, target) = (*answer[26..].first_chunk()?, *answer[30..].first_chunk()?);
    let length = u16::from_be_bytes([answer[16], answer[17]]).checked_sub(20)?;
    let segment = answer.get(34..34 + usize::from(length))?;
    let sum = checksum::finish(checksum::pseudo_v4(source, target, 6, length) + checksum::sum(segment));
    answer[50..52].copy_from_slice(&sum.to_be_bytes());
    Some(answer)
}
