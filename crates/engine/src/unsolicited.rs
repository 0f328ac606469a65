//! SYNs to a mapping that does not admit their sender (RFC 5382 REQ-4).
//!
//! Both ends may be opening the same connection at the same time, and the SYN from outside may be the first to arrive. An
//! answer would end that attempt, so there is none for six seconds. If the inside end has sent its SYN by then, the one
//! from outside is forgotten; if not, its sender is told that there is nobody. Memory is fixed: where there is no room the
//! SYN is dropped without an answer.

use std::collections::VecDeque;

use flowhop_flow::record::Tick;
use flowhop_flow::{Key, Reason};

use crate::buffer::{Buffer, Offload};
use crate::engine::Engine;
use crate::io::{Arrived, Io, Outcome};

/// How long a SYN waits, in ticks: six seconds.
const WAIT: Tick = 5_723;
/// SYNs that may wait.
const ROOM: usize = 1024;
/// What is kept of each: link, IP and TCP header with all options.
const KEPT: usize = 14 + 60 + 60;

#[derive(Debug)]
struct Waiting {
    key: Key,
    reason: Reason,
    port: u8,
    since: Tick,
    /// Of the whole frame.
    length: u32,
    kept: u8,
    bytes: [u8; KEPT],
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Unsolicited(VecDeque<Waiting>);

impl Default for Unsolicited {
    fn default() -> Self {
        Self(VecDeque::with_capacity(ROOM))
    }
}

impl Engine {
    /// Keeps a SYN that would be dropped for a reason, unless it is kept already; what it is counted as.
    pub(crate) fn keep_unsolicited(
        &mut self,
        key: &Key,
        reason: Reason,
        arrived: &Arrived,
        packet: &mut Buffer<'_>,
    ) -> Outcome {
        let waiting = &mut self.unsolicited.0;
        if waiting.len() >= ROOM || waiting.iter().any(|syn| syn.key == *key) {
            return Outcome::of(reason);
        }
        packet.complete_checksum();
        let frame = packet.bytes();
        let kept = frame.len().min(KEPT);
        let mut bytes = [0; KEPT];
        bytes[..kept].copy_from_slice(&frame[..kept]);
        let (port, since, length) = (arrived.port, arrived.now, frame.len() as u32);
        waiting.push_back(Waiting { key: *key, reason, port, since, length, kept: kept as u8, bytes });
        Outcome::of(Reason::HeldSyn)
    }

    /// A connection was opened whose answers have this key: a SYN with it is not answered any more.
    pub(crate) fn solicit(&mut self, answers: &Key) {
        if let Some(place) = self.unsolicited.0.iter().position(|syn| syn.key == *answers)
            && let Some(syn) = self.unsolicited.0.remove(place)
        {
            self.drop_unsolicited(&syn);
        }
    }

    /// Tells the senders of those that have waited for long enough.
    pub(crate) fn answer_unsolicited(&mut self, now: Tick, io: &mut dyn Io) {
        while self.unsolicited.0.front().is_some_and(|syn| now.wrapping_sub(syn.since) > WAIT) {
            let Some(mut syn) = self.unsolicited.0.pop_front() else { return };
            self.drop_unsolicited(&syn);
            let arrived = Arrived { port: syn.port, gate: 0, driver: false, now };
            let kept = usize::from(syn.kept);
            let mut packet = Buffer::new(&mut syn.bytes[..kept], Offload::default());
            self.answer_port_unreachable(&arrived, &mut packet, io);
        }
    }

    fn drop_unsolicited(&self, syn: &Waiting) {
        self.counters.take_back(syn.port, Reason::HeldSyn, syn.length as usize);
        self.counters.add(syn.port, syn.reason, syn.length as usize);
    }
}
