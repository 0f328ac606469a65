//! Packets that wait for a neighbour's link-layer address, in bounded memory and in order.

use std::collections::VecDeque;

use flowhop_flow::record::Tick;

use crate::buffer::Offload;

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
    /// Adjacency it waits for.
    pub adjacency: u16,
    /// When it was put here.
    pub since: Tick,
}

/// The packets kept, oldest first.
#[derive(Debug)]
pub struct Hold {
    packets: VecDeque<Held>,
    bytes: usize,
    max_bytes: usize,
    max_packets: usize,
}

/// Packets that may wait for one neighbour. RFC 1122 section 2.3.2.2 asks for one at least.
const PER_NEIGHBOUR: usize = 128;

impl Hold {
    /// A hold of so many packets and bytes.
    #[must_use]
    pub fn new(max_packets: usize, max_bytes: usize) -> Self {
        Self { packets: VecDeque::with_capacity(max_packets), bytes: 0, max_bytes, max_packets }
    }

    /// Keeps a packet; gives it back when there is no room.
    ///
    /// # Errors
    /// The packet, when it cannot be kept.
    pub fn keep(&mut self, packet: Held) -> Result<(), Held> {
        let same = self.packets.iter().filter(|held| held.adjacency == packet.adjacency).count();
        if self.packets.len() >= self.max_packets
            || self.bytes + packet.bytes.len() > self.max_bytes
            || same >= PER_NEIGHBOUR
        {
            return Err(packet);
        }
        self.bytes += packet.bytes.len();
        self.packets.push_back(packet);
        Ok(())
    }

    /// Whether packets wait for this adjacency.
    #[must_use]
    pub fn waits_for(&self, adjacency: u16) -> bool {
        self.packets.iter().any(|held| held.adjacency == adjacency)
    }

    /// Takes out what waits for an adjacency, in order of arrival.
    pub fn take(&mut self, adjacency: u16) -> Vec<Held> {
        self.take_if(|held| held.adjacency == adjacency)
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
                taken.push(held);
            } else {
                self.packets.push_back(held);
            }
        }
        taken
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
        Held { bytes: vec![0; 100], offload: Offload::default(), port: 0, gate: 0, adjacency, since }
    }

    #[test]
    fn room_is_bounded_by_packets_bytes_and_neighbour() {
        let mut hold = Hold::new(200, 15_000);
        let kept = (0..200).filter(|_| hold.keep(packet(1, 0)).is_ok()).count();
        assert_eq!(kept, PER_NEIGHBOUR);
        let kept = (0..200).filter(|_| hold.keep(packet(2, 0)).is_ok()).count();
        assert_eq!(kept, 150 - PER_NEIGHBOUR);
        assert_eq!(hold.take(1).len(), PER_NEIGHBOUR);
        assert!(!hold.waits_for(1) && hold.waits_for(2));
        assert!(hold.expired(10, 20).is_empty());
        assert_eq!(hold.expired(30, 20).len(), 150 - PER_NEIGHBOUR);
        assert!(hold.is_empty());
    }
}
