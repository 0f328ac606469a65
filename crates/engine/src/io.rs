//! Where the engine meets the outside: packets that arrive, what becomes of them, what it asks for.

use std::net::IpAddr;

use flowhop_flow::record::Tick;
use flowhop_flow::{Key, Kind, Reason};
use flowhop_table::BlockIndex;

use crate::buffer::Offload;

/// What the engine asks of the outside. Calls must not fail silently: `false` means that the packet is lost and
/// will be counted so.
pub trait Io {
    /// Sends a finished frame out through a port.
    fn transmit(&mut self, port: u8, ifindex: u32, frame: &mut [u8], offload: &Offload) -> bool;
    /// Has everything leave that was given to be sent: kernel paths are about to forward later packets by themselves.
    /// `false`: not all of it has, and it is to be called again.
    fn flush(&mut self) -> bool {
        true
    }
    /// Bytes, from the IP header on, that a packet may have which is cut into fragments anyway: those that the output
    /// carries, or fewer.
    fn room(&self, carried: usize, _is_v4: bool) -> usize {
        carried
    }
    /// Gives a frame that came in through a port to the kernel's own stack.
    fn stack(&mut self, port: u8, frame: &mut [u8], offload: &Offload) -> bool;
    /// Has the kernel resolve, or confirm, a neighbour.
    fn resolve(&mut self, ifindex: u32, next_hop: IpAddr);
    /// A connection was made and its first packet is about to leave: whatever answers may meet has to be in place.
    fn opened(&mut self) {}
    /// A frame with a partial checksum came in through a driver's program, which loses what would complete it: frames
    /// that the program forwards itself would leave broken.
    fn partial_checksum(&mut self, _port: u8) {}
    /// A rule asks for a log line.
    fn log(&mut self, event: &LogEvent);
}

/// A line for the log, written because a rule says so.
#[derive(Clone, Copy, Debug)]
pub struct LogEvent {
    /// Identity of the rule.
    pub rule: u16,
    /// What became of the connection.
    pub reason: Reason,
    /// Key of the first packet.
    pub key: Key,
    /// Port it came in through.
    pub port: u8,
}

/// A packet's arrival in user space.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// Port it came in through.
    pub port: u8,
    /// Gate it was counted at, plus one; 0 = none.
    pub gate: u32,
    /// A program in a driver handed it down, not one on the socket buffer.
    pub driver: bool,
    /// The time.
    pub now: Tick,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Forwarded, dropped, …
    pub kind: Kind,
    /// Why.
    pub reason: Reason,
    /// Its connection, if any: block and serial.
    pub session: Option<(BlockIndex, u32)>,
    /// Rule identity of the connection; 0 = none.
    pub rule: u16,
    /// Output port of a forwarded packet.
    pub out: Option<u8>,
}

impl Outcome {
    pub(crate) const fn of(reason: Reason) -> Self {
        Self { kind: reason.slow_kind(), reason, session: None, rule: 0, out: None }
    }
}
