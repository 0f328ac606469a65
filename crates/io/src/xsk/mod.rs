//! AF_XDP sockets: packets that the kernel programs in the drivers hand down, and packets that go out past the stack.
//!
//! # What
//!
//! [`Sockets`] holds one socket for each (interface, receive queue). A kernel program gives a packet to a socket by
//! redirecting it to the entry of its queue in an `XSKMAP`, which holds [`Sockets::fd`]; in front of the packet it leaves
//! eight bytes of metadata (`bpf_xdp_adjust_meta`), which come with it. Sending needs no kernel program.
//!
//! Each socket has its own memory, because packets are copied on the way in and on the way out: no frame moves from one
//! socket to another. It is 2 KiB for each frame of [`Limits`], locked for as long as the socket is there.
//!
//! # Rules
//!
//! - Copy mode (`XDP_COPY`) on purpose: it works with every driver that runs programs, and only packets that need a
//!   decision come this way. In this mode the kernel takes frames from the fill ring as packets come, so it never has to
//!   be woken for receiving.
//! - Jumbo frames are chains of descriptors (`XDP_USE_SG`, Linux 6.6), and never split: a chain is received when all of it
//!   is there, dropped whole where it does not fit, and sent whole or not at all. The kernel program must be one for
//!   packets of several buffers, else the kernel drops them before.
//! - A packet that comes while all frames wait to be received is dropped and counted by the kernel
//!   ([`Statistics::kernel_dropped`]); the kernel program has counted it as handed down by then.
//! - A closed socket disappears from the `XSKMAP` by itself; redirecting to its entry does what the program asks for then.
//!
//! Everything is in the network namespace that the calling thread is in when a socket is bound.

mod mapping;
mod ring;
mod socket;
mod umem;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use thiserror::Error;

use self::socket::Socket;

/// Bytes that a kernel program leaves in front of a packet.
pub const METADATA: usize = 8;
/// Packets taken from one socket before the next one has its turn.
const BATCH: u32 = 64;

/// Why there is no socket on a queue.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum XskError {
    /// Without the rights.
    #[error("AF_XDP sockets need root (CAP_NET_RAW)")]
    NotPermitted,
    /// The kernel was built without them.
    #[error("the kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS)")]
    NotSupported,
    /// There is no such interface in the network namespace.
    #[error("there is no interface with index {0}")]
    NoInterface(u32),
    /// The interface does not have so many queues, or the kernel does not know chains: it says the same to both.
    #[error("interface {ifindex} has no queue {queue}, or Linux is older than 6.6")]
    NoQueue {
        /// The interface.
        ifindex: u32,
        /// The queue.
        queue: u32,
    },
    /// Another socket is on this queue. The kernel needs a moment to be done with one that was closed.
    #[error("another AF_XDP socket is on queue {queue} of interface {ifindex}")]
    Busy {
        /// The interface.
        ifindex: u32,
        /// The queue.
        queue: u32,
    },
    /// The memory cannot be locked.
    #[error(
        "no memory for an AF_XDP socket on queue {queue} of interface {ifindex} (RLIMIT_MEMLOCK, unless CAP_IPC_LOCK)"
    )]
    NoMemory {
        /// The interface.
        ifindex: u32,
        /// The queue.
        queue: u32,
    },
    /// As many sockets as there may be are there.
    #[error("there are {0} AF_XDP sockets already, the most that there may be")]
    TooMany(usize),
    /// Something else.
    #[error("AF_XDP socket on queue {queue} of interface {ifindex}: {call}: {error}")]
    System {
        /// The interface.
        ifindex: u32,
        /// The queue.
        queue: u32,
        /// What failed.
        call: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// How much memory the sockets may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sockets at the same time.
    pub sockets: usize,
    /// Frames of 2 KiB that each socket receives into, so how many packets (of usual size) may wait. Rounded up to a power
    /// of two from 64 to 32768.
    pub receive_frames: u32,
    /// Frames of 2 KiB that each socket sends from; rounded in the same way.
    pub send_frames: u32,
}

impl Default for Limits {
    /// 64 sockets of 2048 and 1024 frames, 6 MiB each.
    fn default() -> Self {
        Self { sockets: 64, receive_frames: 2048, send_frames: 1024 }
    }
}

/// A packet that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The interface that it came in on.
    pub ifindex: u32,
    /// The receive queue.
    pub queue: u32,
    /// What the kernel program left in front of it. Of a program that leaves nothing it is meaningless.
    pub metadata: [u8; METADATA],
    /// Its length in bytes, from the Ethernet header on.
    pub len: usize,
}

/// What all sockets have counted, closed ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets received.
    pub received: u64,
    /// Packets dropped because they were longer than the buffer.
    pub too_long: u64,
    /// Packets put into a transmit ring.
    pub sent: u64,
    /// Packets that were not taken: no room, no socket, or a size that cannot be sent.
    pub not_taken: u64,
    /// Packets lost behind the transmit ring, in the queue of the device.
    pub refused: u64,
    /// Packets that the kernel dropped because all frames were in use.
    pub kernel_dropped: u64,
    /// How often the kernel wanted a frame to receive into and there was none.
    pub fill_ring_empty: u64,
    /// Descriptors that made no sense, to the kernel or to us.
    pub invalid: u64,
}

/// All AF_XDP sockets of the daemon: one for each (interface, receive queue).
pub struct Sockets {
    limits: Limits,
    /// In the order of their keys.
    sockets: Vec<Socket>,
    /// The socket that is received from.
    turn: usize,
    /// Packets received in this turn.
    taken: u32,
    counted: Statistics,
}

impl Default for Sockets {
    /// With the default [`Limits`].
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Sockets {
    /// No sockets. Nothing is allocated before the first is bound.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let power_of_two = |frames: u32| frames.clamp(64, 32768).next_power_of_two();
        let limits = Limits {
            sockets: limits.sockets,
            receive_frames: power_of_two(limits.receive_frames),
            send_frames: power_of_two(limits.send_frames),
        };
        Self { limits, sockets: Vec::new(), turn: 0, taken: 0, counted: Statistics::default() }
    }

    /// Puts a socket on a receive queue. Nothing comes before it is in an `XSKMAP`. It is fine if there is one already.
    ///
    /// # Errors
    /// What is missing. [`XskError::Busy`] also for some 20 ms after a socket on this queue was closed, by whatever process:
    /// to be tried again then.
    pub fn bind(&mut self, ifindex: u32, queue: u32) -> Result<(), XskError> {
        let Err(place) = self.find(ifindex, queue) else { return Ok(()) };
        if self.sockets.len() >= self.limits.sockets {
            return Err(XskError::TooMany(self.limits.sockets));
        }
        let socket = Socket::bind(ifindex, queue, self.limits.receive_frames, self.limits.send_frames)?;
        self.sockets.insert(place, socket);
        Ok(())
    }

    /// Whether there is a socket on this queue.
    #[must_use]
    pub fn is_bound(&self, ifindex: u32, queue: u32) -> bool {
        self.find(ifindex, queue).is_ok()
    }

    /// The socket on this queue, to be put into the `XSKMAP` and to be polled.
    #[must_use]
    pub fn fd(&self, ifindex: u32, queue: u32) -> Option<BorrowedFd<'_>> {
        let place = self.find(ifindex, queue).ok()?;
        self.sockets.get(place).map(Socket::as_fd)
    }

    /// All sockets, to be polled.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(Socket::as_fd)
    }

    /// Closes all sockets of an interface. What waits in them is lost. Takes some 10 ms each: the kernel waits until nobody
    /// uses them.
    pub fn close(&mut self, ifindex: u32) {
        let counted = &mut self.counted;
        self.sockets.retain(|socket| {
            let stays = socket.key().0 != ifindex;
            if !stays {
                socket.count(counted);
            }
            stays
        });
    }

    /// Takes the next packet of any socket into `buffer`; `None` when none waits. Sockets take turns, some packets each.
    ///
    /// A packet that does not fit the buffer is dropped whole and counted.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Option<Received> {
        // Once around, and to the first again: its turn may have been over.
        for _ in 0..=self.sockets.len() {
            if self.taken < BATCH
                && let Some(socket) = self.sockets.get_mut(self.turn)
                && let Some(received) = socket.receive(buffer, &mut self.counted)
            {
                self.taken += 1;
                return Some(received);
            }
            self.turn = if self.turn + 1 < self.sockets.len() { self.turn + 1 } else { 0 };
            self.taken = 0;
        }
        None
    }

    /// Sends a frame, from its Ethernet header on, out of an interface. It leaves with the next [`flush`](Self::flush) at
    /// the latest. The order of frames of one interface is kept: they all go through one socket.
    ///
    /// `false` when it was not taken: no room even after what is in the ring was sent, no socket on the interface, or a
    /// size that cannot be sent (empty, or more than 32 KiB).
    pub fn send(&mut self, ifindex: u32, frame: &[u8]) -> bool {
        let first = self.sockets.partition_point(|socket| socket.key() < (ifindex, 0));
        let socket = self.sockets.get_mut(first).filter(|socket| socket.key().0 == ifindex);
        let taken = socket.is_some_and(|socket| socket.send(frame, &mut self.counted));
        if taken {
            self.counted.sent += 1;
        } else {
            self.counted.not_taken += 1;
        }
        taken
    }

    /// Has the kernel send what is in the transmit rings. `false` when something is left that it takes in a moment: to be
    /// called again, soon.
    pub fn flush(&mut self) -> bool {
        let mut empty = true;
        for socket in &mut self.sockets {
            empty &= socket.flush(&mut self.counted);
        }
        empty
    }

    /// What was counted since the beginning.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut sum = self.counted;
        self.sockets.iter().for_each(|socket| socket.count(&mut sum));
        sum
    }

    /// The place of a socket, or where it would be.
    fn find(&self, ifindex: u32, queue: u32) -> Result<usize, usize> {
        self.sockets.binary_search_by_key(&(ifindex, queue), Socket::key)
    }
}
