//! Packets that programs in drivers hand down: AF_XDP sockets, one for each receive queue of a device.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use flowhop_engine::{Arrived, Offload};
use flowhop_flow::parse::ETHERNET;
use flowhop_flow::record::{QUEUES, SOCKETS, Tick};
use flowhop_io::bpf::Kernel;
use flowhop_io::tap::metadata::Punt;
use flowhop_io::xsk::Sockets;
use flowhop_wire::ethertype;

/// Length of a VLAN tag in a frame.
const TAG: usize = 4;

/// The sockets, and where those of each device begin in the map that the programs look them up in.
#[derive(Default)]
pub(super) struct DriverPlane {
    sockets: Sockets,
    first: HashMap<u32, u16>,
    /// Receive queues that devices had when their sockets were opened.
    queues: HashMap<u32, u32>,
    /// How often the socket of a queue could not be opened.
    failed: HashMap<(u32, u32), u32>,
    /// Devices whose program is gone, and since when: packets that it handed down may still wait.
    closing: Vec<(u32, Instant)>,
}

/// Attempts before it is said that a queue has no socket: one that was closed a moment ago is busy for a while.
const QUIET_FAILURES: u32 = 3;
/// How long sockets stay open without a program: it may still run for a moment where a driver was about to start it.
const LINGER: Duration = Duration::from_millis(50);

impl DriverPlane {
    /// Where the sockets of a device begin in the map; beyond its end when there is no room for another device, whose
    /// packets then take the socket buffer's way to the daemon.
    pub(super) fn first_socket(&mut self, ifindex: u32) -> u16 {
        if let Some(first) = self.first.get(&ifindex) {
            return *first;
        }
        let mut places = (0..SOCKETS as u16).step_by(QUEUES);
        let Some(first) = places.find(|place| !self.first.values().any(|taken| taken == place)) else {
            return SOCKETS as u16;
        };
        self.first.insert(ifindex, first);
        first
    }

    /// Opens a socket for every queue of a device that has none yet; tells whether one was opened.
    pub(super) fn open(&mut self, ifindex: u32, queues: u32, kernel: &mut Kernel) -> bool {
        let first = self.first_socket(ifindex);
        self.closing.retain(|(device, _)| *device != ifindex);
        let mut opened = false;
        for queue in (0..queues.min(QUEUES as u32)).take_while(|_| usize::from(first) < SOCKETS) {
            if self.sockets.is_bound(ifindex, queue) {
                continue;
            }
            let result = self.sockets.bind(ifindex, queue).map_err(|error| error.to_string()).and_then(|()| {
                let socket = self.sockets.fd(ifindex, queue).ok_or_else(|| "no socket".to_owned())?;
                kernel.set_socket(first + queue as u16, socket).map_err(|error| error.to_string())
            });
            match result {
                Ok(()) => {
                    opened = true;
                    self.failed.remove(&(ifindex, queue));
                }
                Err(error) => {
                    let failures = self.failed.entry((ifindex, queue)).or_default();
                    *failures += 1;
                    if *failures == QUIET_FAILURES {
                        say!("flowhop: no AF_XDP socket for queue {queue} of interface {ifindex}: {error}");
                    }
                }
            }
        }
        opened
    }

    /// Notes how many receive queues a device has; tells whether that has changed.
    pub(super) fn queues_changed(&mut self, ifindex: u32, queues: u32) -> bool {
        self.queues.insert(ifindex, queues).is_some_and(|before| before != queues)
    }

    /// Closes the sockets of a device that has no program any more, as soon as nothing waits in them.
    pub(super) fn close_when_empty(&mut self, ifindex: u32) {
        if !self.closing.iter().any(|(device, _)| *device == ifindex) {
            self.closing.push((ifindex, Instant::now()));
        }
    }

    /// Sockets are about to be closed: what waits in them is older than what comes by the socket buffer now.
    pub(super) const fn is_closing(&self) -> bool {
        !self.closing.is_empty()
    }

    /// Closes what has been empty for long enough. Nothing waits in any socket.
    fn close_emptied(&mut self) {
        let done: Vec<u32> =
            self.closing.extract_if(.., |(_, since)| since.elapsed() > LINGER).map(|(d, _)| d).collect();
        done.into_iter().for_each(|device| self.close(device));
    }

    /// Closes the sockets of a device, with what waits in them.
    pub(super) fn close(&mut self, ifindex: u32) {
        self.closing.retain(|(device, _)| *device != ifindex);
        self.sockets.close(ifindex);
        self.first.remove(&ifindex);
        self.queues.remove(&ifindex);
        self.failed.retain(|(device, _), _| *device != ifindex);
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.fds()
    }

    /// The next packet, with where it is in the buffer; `None` when there is none.
    pub(super) fn receive(&mut self, frame: &mut [u8], now: Tick) -> Option<(Arrived, Offload, Range<usize>)> {
        loop {
            let Some(received) = self.sockets.receive(frame) else {
                self.close_emptied();
                return None;
            };
            let [metadata @ .., _, _] = received.metadata;
            // Anything without metadata was not handed down by our program.
            let Some(punt) = Punt::parse(metadata) else { continue };
            let arrived = Arrived { port: punt.port, gate: u32::from(punt.gate), driver: true, now };
            return Some((arrived, Offload::default(), take_tag(frame, received.len)));
        }
    }

    /// Sends a frame out of a device; `false` where that has to take another way.
    pub(super) fn send(&mut self, ifindex: u32, frame: &[u8]) -> bool {
        self.sockets.send(ifindex, frame)
    }

    /// Has the kernel send what was handed over; `false` when something is left for a moment.
    pub(super) fn flush(&mut self) -> bool {
        self.sockets.flush()
    }
}

/// Takes the VLAN tag off a frame: the port that it came in through says what it said. Returns where the frame is.
fn take_tag(frame: &mut [u8], length: usize) -> Range<usize> {
    let tagged = frame.get(12..14).is_some_and(|bytes| bytes == ethertype::VLAN.to_be_bytes());
    if !tagged || length < ETHERNET + TAG {
        return 0..length;
    }
    frame.copy_within(..12, TAG);
    TAG..length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_taken_off_and_a_frame_without_one_stays() {
        let mut frame: Vec<u8> = (0..40).collect();
        assert_eq!(take_tag(&mut frame, 40), 0..40);
        frame[12..18].copy_from_slice(&[0x81, 0, 0x20, 10, 8, 0]);
        let place = take_tag(&mut frame, 40);
        assert_eq!(place, 4..40);
        let rest = &frame[place];
        assert_eq!(rest[..14], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 8, 0]);
        assert_eq!(rest[14], 18);
    }
}
