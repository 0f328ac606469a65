//! UDP sockets that say which ICMP errors came back for what they sent, as traceroute does.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::wait::{readable, until};

const LIMIT: Duration = Duration::from_secs(3);

/// An ICMP error that the kernel found to belong to a socket: addresses, ports and identifiers in it were right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Who sent it.
    pub from: IpAddr,
    /// What it means to the socket, such as `ECONNREFUSED`.
    pub errno: i32,
    /// Its ICMP or ICMPv6 type and code.
    pub kind: (u8, u8),
    /// The MTU that it tells, or other information.
    pub information: u32,
}

/// A UDP socket connected to one address, with its errors.
#[derive(Debug)]
pub struct Probe {
    socket: UdpSocket,
    v6: bool,
}

impl Probe {
    /// A socket with a port of the kernel's choice.
    pub fn connect(namespace: &Namespace, to: SocketAddr) -> Self {
        let any: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = namespace.enter(|| UdpSocket::bind((any, 0)).expect("bind"));
        Self::over(socket, to)
    }

    /// Connects a socket that is bound already.
    pub fn over(socket: UdpSocket, to: SocketAddr) -> Self {
        socket.connect(to).expect("connect");
        let probe = Self { socket, v6: to.is_ipv6() };
        probe.set(libc::IP_RECVERR, libc::IPV6_RECVERR, 1);
        probe
    }

    /// Sends a datagram that lives for so many hops.
    pub fn send(&self, hops: u8, payload: &[u8]) {
        self.set(libc::IP_TTL, libc::IPV6_UNICAST_HOPS, hops.into());
        // A report that has come meanwhile is what this call would return; the datagram is then not sent.
        let sent = self.socket.send(payload).or_else(|_| self.socket.send(payload));
        sent.expect("send");
    }

    /// The socket, for traffic without errors.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The next error; panics if none comes.
    #[track_caller]
    pub fn report(&self) -> Report {
        until("an ICMP error", LIMIT, || self.take_report())
    }

    fn set(&self, v4: i32, v6: i32, value: i32) {
        let (level, name) = if self.v6 { (libc::IPPROTO_IPV6, v6) } else { (libc::IPPROTO_IP, v4) };
        // SAFETY: the value is an int that lives for the call, and the length says so.
        let done = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        assert!(done == 0, "setsockopt {name}: {}", io::Error::last_os_error());
    }

    fn take_report(&self) -> Option<Report> {
        let mut payload = [0u8; 2048];
        let mut control = [0u64; 64];
        let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        // SAFETY: all zero bytes are a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: the message points to buffers of the stated lengths that live for the call.
        let length = unsafe {
            libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        };
        if length < 0 {
            return None;
        }
        // SAFETY: the kernel has filled in the message, whose buffers are still there.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        while !header.is_null() {
            // SAFETY: a header inside the control buffer, as the macros of the C library gave it.
            let (level, kind, data) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, libc::CMSG_DATA(header)) };
            if (level, kind) == (libc::IPPROTO_IP, libc::IP_RECVERR)
                || (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            {
                // SAFETY: with this type the kernel writes a sock_extended_err and the offender's address after it.
                return Some(unsafe { report(data) });
            }
            // SAFETY: as above.
            header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
        }
        None
    }

    /// Waits for a datagram and returns it.
    #[track_caller]
    pub fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        assert!(readable(&self.socket, LIMIT), "no datagram came");
        let length = self.socket.recv(&mut buffer).expect("receive");
        buffer[..length].to_vec()
    }
}

/// # Safety
/// `data` is that of an `IP_RECVERR` or `IPV6_RECVERR` message from the kernel.
unsafe fn report(data: *const u8) -> Report {
    // SAFETY: the caller says so; reads are unaligned.
    let (error, address) = unsafe {
        let error = data.cast::<libc::sock_extended_err>().read_unaligned();
        (error, data.add(size_of::<libc::sock_extended_err>()))
    };
    // SAFETY: a socket address follows, whose first field is its family.
    let from = match i32::from(unsafe { address.cast::<libc::sa_family_t>().read_unaligned() }) {
        libc::AF_INET => {
            // SAFETY: of this family.
            let address = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            IpAddr::V4(u32::from_be(address.sin_addr.s_addr).into())
        }
        libc::AF_INET6 => {
            // SAFETY: of this family.
            let address = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            IpAddr::V6(address.sin6_addr.s6_addr.into())
        }
        other => panic!("an error by family {other}: {}", error.ee_errno),
    };
    Report { from, errno: error.ee_errno as i32, kind: (error.ee_type, error.ee_code), information: error.ee_info }
}
