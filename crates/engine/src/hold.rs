//! Packets that wait, for a neighbour's link-layer address or for earlier ones of their flow, in bounded memory and in
//! order.

use std::collections::{HashMap, VecDeque};

use flowhop_flow::Reason;
use flowhop_flow::record::Tick;
use flowhop_table::BlockIndex;

use crate::buffer::Offload;

/// How long a packet waits for its neighbour, in ticks; the kernel gives up after three probes a second apart.
pub(crate) const HOLD_LIMIT: Tick = 3_500;

/// What packets wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// The neighbour of an adjacency.
    Neighbour(u16),
    /// Packets of the same direction of a connection that are on their way along the path that it had before.
    Move(BlockIndex, usize),
    /// The server of a connection whose client was answered with a cookie.
    Server(BlockIndex),
}

impl Wait {
    /// What a packet is counted under while it waits.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Neighbour(_) => Reason::HeldNeighbour,
            Self::Move(..) => Reason::HeldMove,
            Self::Server(_) => Reason::HeldServer,
        }
    }
}

/// A packet that is kept.
#[derive(Debug)]
pub struct Held {
    /// The frame as it came.
    pub bytes: Vec<u8>,
    /// Its offload state.
    pub offload: Offload,
    /// Port it came in through.
    pub port: u8,
    /// Gate it was counted at, plus one.
    pub gate: u32,
    /// A program in a driver handed it down.
    pub driver: bool,
    /// What it waits for.
    pub wait: Wait,
    /// When it was put here.
    pub since: Tick,
}

/// The packets kept, oldest first.
#[derive(Debug)]
pub struct Hold {
    packets: VecDeque<Held>,
    by_wait: HashMap<Wait, usize>,
    bytes: usize,
    max_bytes: usize,
    max_packets: usize,
}

/// The share of the room that the packets of one neighbour, or one connection, may take: half. RFC 1122 section 2.3.2.2 asks for one
/// packet at least; a neighbour that answers within milliseconds should cost none.
const SHARE: usize = 2;

impl Hold {
    /// A hold of so many packets and bytes.
    #[must_use]
    pub fn new(max_packets: usize, max_bytes: usize) -> Self {
        let packets = VecDeque::with_capacity(max_packets);
        Self { packets, by_wait: HashMap::new(), bytes: 0, max_bytes, max_packets }
    }

    /// Keeps a packet; gives it back when there is no room.
    ///
    /// # Errors
    /// The packet, when it cannot be kept.
    pub fn keep(&mut self, packet: Held) -> Result<(), Held> {
        let same = self.by_wait.get(&packet.wait).copied().unwrap_or_default();
        if self.packets.len() >= self.max_packets
            || self.bytes + packet.bytes.len() > self.max_bytes
            || same >= self.max_packets / SHARE
        {
            return Err(packet);
        }
        self.bytes += packet.bytes.len();
        self.by_wait.insert(packet.wait, same + 1);
        self.packets.push_back(packet);
        Ok(())
    }

    /// Whether packets wait for this.
    #[must_use]
    pub fn waits_for(&self, wait: Wait) -> bool {
        self.by_wait.contains_key(&wait)
    }

    /// How many packets wait for this.
    #[must_use]
    pub fn count(&self, wait: Wait) -> usize {
        self.by_wait.get(&wait).copied().unwrap_or_default()
    }

    /// Takes out what waits for something, in order of arrival.
    pub fn take(&mut self, wait: Wait) -> Vec<Held> {
        if self.waits_for(wait) { self.take_if(|held| held.wait == wait) } else { Vec::new() }
    }

    /// Takes out what waits for any of several things, in order of arrival; `waits` says which these are.
    pub fn take_all(&mut self, waits: impl Fn(Wait) -> bool) -> Vec<Held> {
        if self.by_wait.keys().any(|wait| waits(*wait)) { self.take_if(|held| waits(held.wait)) } else { Vec::new() }
    }

    /// Takes out what has waited for longer than `limit` ticks.
    pub fn expired(&mut self, now: Tick, limit: Tick) -> Vec<Held> {
        if self.packets.front().is_none_or(|held| now.wrapping_sub(held.since) <= limit) {
            return Vec::new();
        }
        self.take_if(|held| now.wrapping_sub(held.since) > limit)
    }

    fn take_if(&mut self, wanted: impl Fn(&Held) -> bool) -> Vec<Held> {
        let mut taken = Vec::new();
        for _ in 0..self.packets.len() {
            let Some(held) = self.packets.pop_front() else { break };
            if wanted(&held) {
                self.bytes -= held.bytes.len();
                self.let_go(held.wait);
                taken.push(held);
            } else {
                self.packets.push_back(held);
            }
        }
        taken
    }

    fn let_go(&mut self, wait: Wait) {
        match self.by_wait.get_mut(&wait) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.by_wait.remove(&wait);
            }
        }
    }

    /// Packets kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(adjacency: u16, since: Tick) -> Held {
        let wait = Wait::Neighbour(adjacency);
        Held { bytes: vec![0; 100], offload: Offload::default(), port: 0, gate: 0, driver: false, wait, since }
    }

    #[test]
    fn room_is_bounded_by_packets_bytes_and_neighbour() {
        let mut hold = Hold::new(200, 15_000);
        let kept = (0..200).filter(|_| hold.keep(packet(1, 0)).is_ok()).count();
        assert_eq!(kept, 100);
        let kept = (0..200).filter(|_| hold.keep(packet(2, 0)).is_ok()).count();
        assert_eq!(kept, 50);
        assert_eq!(hold.take(Wait::Neighbour(1)).len(), 100);
        assert!(!hold.waits_for(Wait::Neighbour(1)) && hold.waits_for(Wait::Neighbour(2)));
        assert!(hold.expired(10, 20).is_empty());
        assert_eq!(hold.expired(30, 20).len(), 50);
        assert!(hold.is_empty() && !hold.waits_for(Wait::Neighbour(2)));
    }
}
