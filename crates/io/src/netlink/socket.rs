//! Netlink sockets: opening, receiving, and the walk over the messages of a datagram and the attributes of a message.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use netlink_packet_core::{DecodeError, NLA_HEADER_SIZE, NetlinkBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;

/// The kernel fills at most 32 KiB for a dump, and an announcement is smaller; a larger datagram is reported as lost.
const DATAGRAM: usize = 64 * 1024;

/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// A bound netlink socket with a buffer for one datagram.
pub(crate) struct NetlinkSocket {
    socket: Socket,
    datagram: Vec<u8>,
}

/// What a receive call gave.
pub(crate) enum Received<'a> {
    /// A datagram of the kernel.
    Datagram(&'a [u8]),
    /// Announcements were lost: the receive buffer was full.
    Lost,
    /// There is nothing (any more), or nothing came in time.
    Nothing,
}

impl NetlinkSocket {
    /// A socket for a protocol (`NETLINK_*`) in the current network namespace, bound and a member of `groups`.
    pub(crate) fn open(protocol: isize, groups: &[u32]) -> io::Result<NetlinkSocket> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        for &group in groups {
            socket.add_membership(group)?;
        }
        Ok(NetlinkSocket { socket, datagram: vec![0; DATAGRAM] })
    }

    pub(crate) fn set_non_blocking(&self) -> io::Result<()> {
        self.socket.set_non_blocking(true)
    }

    pub(crate) fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(timeout))?;
        Ok(())
    }

    /// Asks for a receive buffer of `bytes`, beyond the system's limit where privileges allow, and returns what the
    /// kernel gave (it counts its own overhead: twice what was asked for).
    pub(crate) fn set_receive_buffer(&self, bytes: usize) -> io::Result<usize> {
        // EPERM without CAP_NET_ADMIN in the initial user namespace; then `net.core.rmem_max` is the limit.
        if sockopt::set_socket_recv_buffer_size_force(&self.socket, bytes).is_err() {
            sockopt::set_socket_recv_buffer_size(&self.socket, bytes)?;
        }
        Ok(sockopt::socket_recv_buffer_size(&self.socket)?)
    }

    pub(crate) fn send(&self, message: &[u8]) -> io::Result<()> {
        let kernel = SocketAddr::new(0, 0);
        self.socket.send_to(message, &kernel, 0)?;
        Ok(())
    }

    pub(crate) fn receive(&mut self) -> io::Result<Received<'_>> {
        loop {
            let mut space = self.datagram.as_mut_slice();
            let received = self.socket.recv_from(&mut space, libc::MSG_TRUNC);
            let (length, sender) = match received {
                Ok(received) => received,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN) => return Ok(Received::Nothing),
                    Some(libc::ENOBUFS) => return Ok(Received::Lost),
                    _ => return Err(error),
                },
            };
            if sender.port_number() != 0 {
                continue; // Another process, not the kernel.
            }
            return Ok(match self.datagram.get(..length) {
                Some(datagram) => Received::Datagram(datagram),
                None => Received::Lost,
            });
        }
    }
}

impl AsRawFd for NetlinkSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One message of a datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram, up to the first that is not well-formed.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = NetlinkBuffer::new_checked(rest).ok()?;
        let length = usize::try_from(header.length()).ok()?;
        let message = Message {
            kind: header.message_type(),
            flags: header.flags(),
            sequence: header.sequence_number(),
            payload: rest.get(HEADER..length)?,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes behind a fixed part, as type and value.
pub(crate) fn attributes(payload: &[u8], fixed: usize) -> impl Iterator<Item = Result<(u16, &[u8]), DecodeError>> {
    let attributes = payload.get(fixed..).unwrap_or_default();
    NlasIterator::new(attributes).map(move |attribute| {
        let attribute = attribute?;
        // The value is borrowed from the message, not from the iterator's item: cut it out of the former.
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        let whole = attribute.into_inner();
        Ok((kind, whole.get(NLA_HEADER_SIZE..length).unwrap_or_default()))
    })
}
