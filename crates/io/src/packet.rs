//! Frames of one interface through an `AF_PACKET` socket: the way in and out where there is no `bpf(2)` and no TAP.
//!
//! Frames carry a virtio header in both directions, so super-packets of segmentation offload and partial checksums go
//! through whole. An ordinary user inside a user namespace may do all this.
//!
//! The kernel's own stack gets each frame as well; what it must not answer is kept from it by
//! [`KernelFilter`](crate::cbpf::KernelFilter), which comes behind these sockets. So there is nothing to hand to the
//! stack, and nothing from here may be sent to it a second time.

use std::cell::Cell;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use flowhop_engine::Offload;
use rustix::net::sockopt;
use thiserror::Error;

mod batch;
mod header;
mod message;

pub use batch::Batch;
pub use message::{PacketType, Received};

use header::HEADER;
use message::{NO_PART, Slot, message};

/// Bytes that hold any frame of a device with usual settings: a super-packet and its Ethernet header with tags.
pub const MAX_FRAME: usize = 65536 + 64;
/// Wanted for packets that wait, in each direction. Without privileges in the initial user namespace the limits are
/// `net.core.rmem_max` and `net.core.wmem_max`.
const SOCKET_BUFFER: usize = 16 << 20;
/// How many frames that cannot be had one call passes over.
const UNREADABLE_AT_ONCE: usize = 64;
const ETH_P_ALL: u16 = (libc::ETH_P_ALL as u16).to_be();

/// Why an interface cannot be read and written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PacketError {
    /// No `CAP_NET_RAW` over the network namespace.
    #[error("raw packets need root (CAP_NET_RAW) or a user namespace (unshare -Urnm)")]
    NotPermitted,
    /// There is no such interface in the network namespace.
    #[error("there is no interface with index {0}")]
    NoInterface(u32),
    /// Its frames have no Ethernet header.
    #[error("interface {ifindex} is of hardware type {kind}, and only Ethernet (1) will do")]
    NotEthernet {
        /// The interface.
        ifindex: u32,
        /// Its `ARPHRD_…` number.
        kind: u16,
    },
    /// Something else.
    #[error("packet socket on interface {ifindex}: {call}: {error}")]
    System {
        /// The interface.
        ifindex: u32,
        /// What failed.
        call: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// One interface, for raw frames.
#[derive(Debug)]
pub struct PacketPort {
    socket: OwnedFd,
    ifindex: u32,
    unreadable: Cell<u32>,
}

impl PacketPort {
    /// Takes an interface of the caller's network namespace into use. It may be down and come up later.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(ifindex: u32) -> Result<Self, PacketError> {
        let failed = |call| move |error| PacketError::System { ifindex, call, error };
        // With protocol 0 the socket gets nothing until it is bound: else frames of all interfaces would be in it.
        // SAFETY: no memory is passed.
        let socket =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
        if socket < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => PacketError::NotPermitted,
                _ => failed("socket")(error),
            });
        }
        // SAFETY: a new descriptor that nobody else has.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        for (option, call) in [
            (libc::PACKET_VNET_HDR, "PACKET_VNET_HDR"),
            (libc::PACKET_AUXDATA, "PACKET_AUXDATA"),
            (libc::PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING"),
        ] {
            switch_on(&socket, option).map_err(failed(call))?;
        }
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER)
                .map_err(|error| failed("SO_RCVBUF")(error.into()))?;
        }
        sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER)
            .map_err(|error| failed("SO_SNDBUF")(error.into()))?;
        bind(&socket, ifindex).map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => PacketError::NoInterface(ifindex),
            _ => failed("bind")(error),
        })?;
        match hardware_type(&socket).map_err(failed("getsockname"))? {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Ok(Self { socket, ifindex, unreadable: Cell::new(0) }),
            kind => Err(PacketError::NotEthernet { ifindex, kind }),
        }
    }

    /// The interface.
    #[must_use]
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Takes one frame; `None` when none waits. The buffer should hold [`MAX_FRAME`] bytes.
    ///
    /// An interface that goes down, or away, is no error here: nothing comes any more, and links are watched by netlink.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn recv(&self, frame: &mut [u8]) -> io::Result<Option<Received>> {
        let mut slot = Slot::new();
        let mut parts = [NO_PART; 2];
        let mut message = message(&mut slot, &mut parts, frame);
        let got = self.patiently(|socket| {
            // SAFETY: the message points to the slot and, by way of the parts, to the slot's header and the frame; all
            // are exclusive borrows, have the lengths given in it, and outlive the call.
            let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
            if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got as usize) }
        })?;
        Ok(got.map(|got| slot.received(&message, got, frame)))
    }

    /// Takes as many frames as wait and fit the batch; returns how many.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); frames taken before stay taken.
    pub fn recv_batch(&self, batch: &mut Batch) -> io::Result<usize> {
        Ok(self.patiently(|socket| batch.fill(socket))?.unwrap_or(0))
    }

    /// Sends one frame; `false` when the interface cannot take it now (or is down): it is lost then.
    ///
    /// # Errors
    /// What the kernel says: `EMSGSIZE` for a frame beyond the MTU, `EINVAL` for offload fields that make no sense,
    /// `ENXIO` when the interface is gone. The frame is lost.
    pub fn send(&self, frame: &[u8], offload: &Offload) -> io::Result<bool> {
        let header = header::encode(offload);
        let parts = [
            libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: HEADER },
            libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() },
        ];
        // SAFETY: a `msghdr` of zeros is valid: no address, no control data, no parts.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_ptr().cast_mut();
        message.msg_iovlen = parts.len();
        // SAFETY: sending reads the two parts, which have the lengths given and outlive the call.
        if unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) } >= 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENETDOWN) => Ok(false),
            _ => Err(error),
        }
    }

    /// How many frames were lost on the way in since the last call: no room in the socket, or super-packets of a kind
    /// that a virtio header cannot describe (tunnels).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take_drops(&self) -> io::Result<u64> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel fills in at most `length` bytes, the size of the structure.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(u64::from(statistics.tp_drops) + u64::from(self.unreadable.take()))
    }

    /// The receive buffer that the kernel gave, in bytes of its own accounting.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn receive_buffer(&self) -> io::Result<usize> {
        Ok(sockopt::socket_recv_buffer_size(&self.socket)?)
    }

    /// Receives until something came or nothing waits, counting what is lost.
    fn patiently<T>(&self, mut receive: impl FnMut(&OwnedFd) -> io::Result<T>) -> io::Result<Option<T>> {
        for _ in 0..UNREADABLE_AT_ONCE {
            match receive(&self.socket) {
                Ok(got) => return Ok(Some(got)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    // Said once when the interface goes down; frames from before it are still there.
                    Some(libc::ENETDOWN | libc::EINTR) => {}
                    // The kernel has no virtio header for this frame and has thrown it away.
                    Some(libc::EINVAL) => self.unreadable.set(self.unreadable.get().saturating_add(1)),
                    _ => return Err(error),
                },
            }
        }
        // The descriptor stays readable.
        Ok(None)
    }
}

impl AsFd for PacketPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn switch_on(socket: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one int.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const one).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind(socket: &OwnedFd, ifindex: u32) -> io::Result<()> {
    // Index 0 would mean all interfaces.
    let index = i32::try_from(ifindex).ok().filter(|&index| index > 0);
    let mut address = message::no_address();
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETH_P_ALL;
    address.sll_ifindex = index.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads an address of this length.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The hardware type of the interface that the socket is bound to.
fn hardware_type(socket: &OwnedFd) -> io::Result<u16> {
    let mut address = message::no_address();
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel fills in at most `length` bytes, the size of the address.
    if unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(address.sll_hatype)
}
