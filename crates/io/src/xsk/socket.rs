//! One AF_XDP socket, on one receive queue of one device.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpDescOptions, XdpMmapOffsets,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};

use super::ring::{Consumer, Producer};
use super::umem::{FRAME, Umem};
use super::{METADATA, Received, Statistics, XskError};

const COPY: SocketAddrXdpFlags = SocketAddrXdpFlags::XDP_COPY;
const NEED_WAKEUP: SocketAddrXdpFlags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
const SG: SocketAddrXdpFlags = SocketAddrXdpFlags::XDP_USE_SG;
/// Frames of the largest packet that is sent: the kernel turns no more into one buffer of its own (`MAX_SKB_FRAGS`, which
/// is never configured below 17).
const SEND_CHAIN: usize = 16;
/// Packets that one system call sends (`XDP_MAX_TX_BUDGET` of the kernel's `TX_BATCH_SIZE`).
const SENT_AT_ONCE: u32 = 32;
/// What the kernel reckons a frame with at most, when it limits how much a socket has on its way out.
const RECKONED: usize = 4096;

/// A bound socket with its rings and its memory.
pub(super) struct Socket {
    ifindex: u32,
    queue: u32,
    /// Empty frames, to the kernel. As many entries as there are frames to receive into.
    fill: Producer<u64>,
    /// Packets, from the kernel.
    receive: Consumer<XdpDesc>,
    /// Packets, to the kernel.
    transmit: Producer<XdpDesc>,
    /// Frames that were sent, from the kernel.
    completion: Consumer<u64>,
    /// Frames to send from that nobody uses.
    unused: Vec<u64>,
    /// Frames below this address are for receiving.
    end_of_receive: u64,
    socket: OwnedFd,
    umem: Umem,
}

/// Why a packet was thrown away.
enum Unfit {
    TooLong,
    Invalid,
}

impl Socket {
    /// Makes a socket with frames for each direction (powers of two) and binds it.
    pub(super) fn bind(ifindex: u32, queue: u32, receive: u32, send: u32) -> Result<Self, XskError> {
        let failed = |(call, error)| XskError::of(ifindex, queue, call, error);
        let failed_io = |call| move |error| XskError::System { ifindex, queue, call, error };
        let umem = Umem::new(receive + send).map_err(failed_io("memory"))?;
        let (socket, at) = open(&umem, receive, send).map_err(failed)?;
        let fd = socket.as_fd();
        let mapped = failed_io("mmap");
        let frames = |range: std::ops::Range<u32>| range.map(|frame| u64::from(frame) * FRAME as u64);
        let mut made = Self {
            ifindex,
            queue,
            fill: Producer::map(fd, XDP_UMEM_PGOFF_FILL_RING, &at.fr, receive).map_err(mapped)?,
            receive: Consumer::map(fd, XDP_PGOFF_RX_RING, &at.rx, receive).map_err(mapped)?,
            transmit: Producer::map(fd, XDP_PGOFF_TX_RING, &at.tx, send).map_err(mapped)?,
            completion: Consumer::map(fd, XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr, send).map_err(mapped)?,
            unused: frames(receive..receive + send).collect(),
            end_of_receive: u64::from(receive) * FRAME as u64,
            socket,
            umem,
        };
        for frame in frames(0..receive) {
            made.fill.push(frame);
        }
        made.fill.publish();
        let address = SocketAddrXdp::new(COPY | NEED_WAKEUP | SG, ifindex, queue);
        rustix::net::bind(&made.socket, &address).map_err(|error| failed(("bind", error)))?;
        Ok(made)
    }

    /// What tells it from the others.
    pub(super) const fn key(&self) -> (u32, u32) {
        (self.ifindex, self.queue)
    }

    /// The next packet, copied into `buffer`. Packets that cannot be had are counted and passed over, at most as many in
    /// one call as the ring holds.
    pub(super) fn receive(&mut self, buffer: &mut [u8], counted: &mut Statistics) -> Option<Received> {
        for _ in 0..self.receive.size() {
            let chain = self.chain()?;
            let copied = self.copy(chain, buffer);
            self.give_back(chain);
            match copied {
                Ok(received) => {
                    counted.received += 1;
                    return Some(received);
                }
                Err(Unfit::TooLong) => counted.too_long += 1,
                Err(Unfit::Invalid) => counted.invalid += 1,
            }
        }
        None
    }

    /// Number of descriptors of the next packet; `None` unless all of them have come.
    fn chain(&mut self) -> Option<u32> {
        let mut length = 0;
        loop {
            let descriptor = self.receive.peek(length)?;
            length += 1;
            if !descriptor.options.contains(XdpDescOptions::XDP_PKT_CONTD) {
                return Some(length);
            }
        }
    }

    /// Copies a packet of `chain` descriptors.
    fn copy(&mut self, chain: u32, buffer: &mut [u8]) -> Result<Received, Unfit> {
        let mut metadata = [0; METADATA];
        let mut len = 0;
        for n in 0..chain {
            let part = self.receive.peek(n).ok_or(Unfit::Invalid)?;
            if n == 0 {
                self.read_metadata(part.addr, &mut metadata)?;
            }
            let rest = buffer.get_mut(len..).unwrap_or_default();
            let room = rest.get_mut(..part.len as usize).ok_or(Unfit::TooLong)?;
            if Umem::frame_of(part.addr) >= self.end_of_receive || !self.umem.read(part.addr, room) {
                return Err(Unfit::Invalid);
            }
            len += room.len();
        }
        Ok(Received { ifindex: self.ifindex, queue: self.queue, metadata, len })
    }

    /// Reads what the kernel program left in front of the packet: the kernel leaves room for it in the frame.
    fn read_metadata(&self, packet: u64, metadata: &mut [u8; METADATA]) -> Result<(), Unfit> {
        let start = packet.checked_sub(METADATA as u64).ok_or(Unfit::Invalid)?;
        let same_frame = Umem::frame_of(start) == Umem::frame_of(packet);
        if same_frame && self.umem.read(start, metadata) { Ok(()) } else { Err(Unfit::Invalid) }
    }

    /// Has the kernel use the frames of a packet again, at once: it drops what comes while it has none.
    fn give_back(&mut self, chain: u32) {
        for n in 0..chain {
            let Some(part) = self.receive.peek(n) else { break };
            let frame = Umem::frame_of(part.addr);
            // A frame that is not one of those must not get among them.
            if frame < self.end_of_receive {
                self.fill.push(frame);
            }
        }
        self.fill.publish();
        self.receive.advance(chain);
    }

    /// Puts a packet into the transmit ring, as a chain if it is larger than a frame; `false` when there is no room even
    /// after what is there was sent, or when the packet is of a size that cannot be sent.
    pub(super) fn send(&mut self, packet: &[u8], counted: &mut Statistics) -> bool {
        let chain = packet.len().div_ceil(FRAME);
        if !(1..=SEND_CHAIN).contains(&chain) {
            return false;
        }
        if !self.has_room(chain) {
            self.flush(counted);
            if !self.has_room(chain) {
                return false;
            }
        }
        for (n, part) in packet.chunks(FRAME).enumerate() {
            let Some(addr) = self.unused.pop() else { break };
            self.umem.write(addr, part);
            let options = if n + 1 < chain { XdpDescOptions::XDP_PKT_CONTD } else { XdpDescOptions::empty() };
            self.transmit.push(XdpDesc { addr, len: part.len() as u32, options });
        }
        // Only now: the kernel takes the end of what is published for the end of the packet.
        self.transmit.publish();
        true
    }

    fn has_room(&mut self, chain: usize) -> bool {
        self.unused.len() >= chain && self.transmit.has_room(chain as u32)
    }

    /// Has the kernel send what is in the transmit ring, and takes back the frames that were sent. `false` when something
    /// is left that the kernel takes in a moment; what a device that is down does not take is not waited for.
    pub(super) fn flush(&mut self, counted: &mut Statistics) -> bool {
        let waiting = self.transmit.waiting();
        let busy = waiting != 0 && self.transmit.needs_wakeup() && self.kick(waiting, counted);
        self.reap();
        !busy || self.transmit.waiting() == 0
    }

    /// Has the kernel send as many packets as wait, by as few system calls as that takes. Tells whether it would have to be
    /// asked again: it lends a socket memory for so many packets at a time.
    fn kick(&mut self, mut waiting: u32, counted: &mut Statistics) -> bool {
        let mut calls = waiting / SENT_AT_ONCE + 1;
        let limit = counted.refused + u64::from(waiting);
        while calls > 0 {
            match rustix::net::send(&self.socket, &[], SendFlags::DONTWAIT) {
                // More to send, or (seldom) more than the device takes.
                Err(Errno::AGAIN | Errno::INTR) => {
                    let left = self.transmit.waiting();
                    calls = if left == waiting { 0 } else { calls - 1 };
                    waiting = left;
                }
                Err(Errno::NOBUFS | Errno::NOMEM) => return true,
                // A packet was lost, behind the ring: no carrier, or no room in the queue of the device. On with the next.
                Err(Errno::BUSY) if counted.refused < limit => counted.refused += 1,
                // All is sent, or nothing can be: the device is down or gone.
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    /// Takes back frames that were sent.
    fn reap(&mut self) {
        while let Some(frame) = self.completion.peek(0) {
            self.completion.advance(1);
            self.unused.push(Umem::frame_of(frame));
        }
    }

    /// What the kernel has counted.
    pub(super) fn count(&self, into: &mut Statistics) {
        // A bound socket has them.
        let Ok(kernel) = sockopt::xdp_statistics(&self.socket) else { return };
        into.kernel_dropped += kernel.rx_dropped + kernel.rx_ring_full.unwrap_or_default();
        into.fill_ring_empty += kernel.rx_fill_ring_empty_descs.unwrap_or_default();
        into.invalid += kernel.rx_invalid_descs + kernel.tx_invalid_descs;
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket for this memory, with rings of the sizes given, and where in the mappings of the rings everything is. On
/// error, what failed and why.
fn open(umem: &Umem, receive: u32, send: u32) -> Result<(OwnedFd, XdpMmapOffsets), (&'static str, Errno)> {
    let failed = |call| move |error| (call, error);
    let socket = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(failed("socket"))?;
    sockopt::set_xdp_umem_reg(&socket, umem.registration()).map_err(failed("XDP_UMEM_REG"))?;
    sockopt::set_xdp_umem_fill_ring_size(&socket, receive).map_err(failed("XDP_UMEM_FILL_RING"))?;
    sockopt::set_xdp_umem_completion_ring_size(&socket, send).map_err(failed("XDP_UMEM_COMPLETION_RING"))?;
    sockopt::set_xdp_rx_ring_size(&socket, receive).map_err(failed("XDP_RX_RING"))?;
    sockopt::set_xdp_tx_ring_size(&socket, send).map_err(failed("XDP_TX_RING"))?;
    // The frames are the limit of what is on its way out; without CAP_NET_ADMIN the system's limit may be lower.
    let buffer = send as usize * RECKONED;
    if sockopt::set_socket_send_buffer_size_force(&socket, buffer).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, buffer).map_err(failed("SO_SNDBUF"))?;
    }
    let offsets = sockopt::xdp_mmap_offsets(&socket).map_err(failed("XDP_MMAP_OFFSETS"))?;
    Ok((socket, offsets))
}

impl XskError {
    /// What an error of a system call means.
    fn of(ifindex: u32, queue: u32, call: &'static str, error: Errno) -> Self {
        match (call, error) {
            (_, Errno::PERM | Errno::ACCESS) => Self::NotPermitted,
            ("socket", Errno::AFNOSUPPORT) => Self::NotSupported,
            ("XDP_UMEM_REG", Errno::NOBUFS | Errno::NOMEM) => Self::NoMemory { ifindex, queue },
            ("bind", Errno::NODEV) => Self::NoInterface(ifindex),
            ("bind", Errno::INVAL) => Self::NoQueue { ifindex, queue },
            ("bind", Errno::BUSY) => Self::Busy { ifindex, queue },
            _ => Self::System { ifindex, queue, call, error: io::Error::from(error) },
        }
    }
}
