//! Echo requests, by raw sockets: `ping` is not installed everywhere.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use flowhop_wire::checksum;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::lab::{LabError, Namespace, Tried};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(1);

/// What became of echo requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// Requests.
    pub sent: u16,
    /// Answers.
    pub answered: u16,
    /// Time from the first request to its answer: with a new connection.
    pub first: Duration,
    /// Mean time of the others.
    pub later: Duration,
}

/// Sends requests, each after the answer to the one before.
///
/// # Errors
/// When the system refuses.
pub fn echo(from: &Namespace, to: IpAddr, count: u16) -> Result<Echo, LabError> {
    let (family, protocol, [request, reply]) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, [8, 0]),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, [128, 129]),
    };
    let socket = from.enter(|| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol))?;
    // That type is a descriptor with the calls for datagrams, whatever the protocol.
    let socket = UdpSocket::from(socket.tried("a raw socket")?);
    socket.connect((to, 0)).tried("connect a raw socket")?;
    let identifier = (std::process::id() as u16).to_be_bytes();
    let mut echo = Echo::default();
    let mut total = Duration::ZERO;
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        let mut message = vec![request, 0, 0, 0, identifier[0], identifier[1], high, low];
        message.extend_from_slice(&[0x5a; 48]);
        if to.is_ipv4() {
            // In IPv6 this is the kernel's business.
            let sum = checksum::finish(checksum::sum(&message));
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let sent = Instant::now();
        socket.send(&message).tried("send an echo request")?;
        echo.sent += 1;
        if answered(&socket, to, reply, &message).tried("receive an echo reply")? {
            echo.answered += 1;
            match number {
                0 => echo.first = sent.elapsed(),
                _ => total += sent.elapsed(),
            }
        }
    }
    echo.later = total / u32::from(echo.answered.saturating_sub(1).max(1));
    Ok(echo)
}

fn answered(socket: &UdpSocket, to: IpAddr, reply: u8, request: &[u8]) -> io::Result<bool> {
    let end = Instant::now() + ANSWER;
    let mut buffer = [0; 2048];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error),
        };
        // In IPv4 the socket gives the header of the packet as well.
        let header = if to.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let answer = buffer.get(header..length).unwrap_or_default();
        if answer.first() == Some(&reply) && answer.get(4..8) == request.get(4..8) {
            return Ok(true);
        }
    }
}
