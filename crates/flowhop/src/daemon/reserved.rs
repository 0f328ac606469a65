//! Ports that the box's own sockets use, as the kernel shows them.
//!
//! They are read beside the daemon's thread: the kernel goes through all of its tables for it, which takes it ten
//! milliseconds and more where there is much memory or there are many connections, and packets would wait as long.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use flowhop_modules::Reserved;
use flowhop_wire::protocol;

/// How often they are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// A thread that looks at them. It ends with this value.
#[derive(Debug)]
pub(super) struct Watch {
    changed: Receiver<Reserved>,
    _alive: Sender<()>,
}

impl Watch {
    /// Starts the thread; with what it goes on from.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(within: RangeInclusive<u16>) -> io::Result<(Self, Reserved)> {
        let (outgoing, changed) = channel();
        let (alive, watched) = channel();
        let first = read(within);
        let mut last = first.clone();
        std::thread::Builder::new().name("ports".into()).spawn(move || {
            while watched.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let now = read(last.within.clone());
                if now != last && outgoing.send(now.clone()).is_err() {
                    return;
                }
                last = now;
            }
        })?;
        Ok((Self { changed, _alive: alive }, first))
    }

    /// What is to be seen now, if that has changed.
    pub(super) fn changed(&self) -> Option<Reserved> {
        self.changed.try_iter().last()
    }
}

/// Reads the range of the kernel's own client ports, and the ports that are bound. `within` is what
/// translations may use on own addresses at all.
#[must_use]
fn read(within: RangeInclusive<u16>) -> Reserved {
    let default = Reserved::default();
    let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| {
            let mut numbers = text.split_whitespace().map(str::parse::<u16>);
            Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
        })
        .unwrap_or(default.ephemeral);
    let mut bound = HashSet::new();
    for (protocol, file) in [
        (protocol::TCP, "/proc/self/net/tcp"),
        (protocol::TCP, "/proc/self/net/tcp6"),
        (protocol::UDP, "/proc/self/net/udp"),
        (protocol::UDP, "/proc/self/net/udp6"),
    ] {
        let text = fs::read_to_string(file).unwrap_or_default();
        bound.extend(text.lines().skip(1).filter_map(local_port).map(|port| (protocol, port)));
    }
    Reserved { ephemeral, within, bound }
}

/// The local port in a line of /proc/net/tcp: `  0: 0100007F:1F90 00000000:0000 0A …`.
fn local_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
    use std::time::Instant;

    use super::*;

    #[test]
    fn sockets_that_come_and_go_are_seen() {
        let port = |socket: &UdpSocket| (protocol::UDP, socket.local_addr().unwrap().port());
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (watch, first) = Watch::start(1024..=u16::MAX).unwrap();
        assert!(first.bound.contains(&port(&socket)));
        assert_eq!(first.within, 1024..=u16::MAX);
        let other = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let (gone, new) = (port(&socket), port(&other));
        drop(socket);
        let end = Instant::now() + 10 * EVERY;
        while !watch.changed().is_some_and(|now| now.bound.contains(&new) && !now.bound.contains(&gone)) {
            assert!(Instant::now() < end, "{new:?} is not seen, or {gone:?} still");
            std::thread::sleep(EVERY / 20);
        }
    }

    #[test]
    fn the_local_port_is_read_from_both_families() {
        assert_eq!(local_port("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000"), Some(8080));
        assert_eq!(local_port("   1: 00000000000000000000000001000000:0016 0000:0000 0A"), Some(22));
        assert_eq!(local_port("  sl  local_address rem_address"), None);
    }
}
