//! TCP connections whose handshake is not complete: how many there may be, and which makes room for the next.
//!
//! A flood of SYNs must neither fill the table nor keep others out. So half-open connections have a share of the table,
//! and beyond it each new one ends an old one: the oldest of all, or of a lane that has far more than its part. Sources
//! fall on lanes by a keyed hash: who floods from few sources crowds out itself, and from many, what is left to an honest
//! client is the time that the share holds out at the flood's rate.
//!
//! Packets complete handshakes in the kernel, unseen here. What is no longer half open is found when it is looked at:
//! each new connection, and each call of [`HalfOpen::tidy`], looks at a few.

use flowhop_flow::record::Block;
use flowhop_flow::tcp::Phase;
use flowhop_table::{BlockIndex, Table, is_live};

/// Lanes that sources fall on.
const LANES: usize = 256;
/// Connections looked at in one call of [`HalfOpen::tidy`].
const LOOKED_AT: usize = 2048;
/// A lane has far more than its part with so many times the average, and a few.
const MUCH: usize = 4;
const FEW: usize = 8;
/// No connection.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    block: BlockIndex,
    serial: u32,
    /// Neighbours in the lane, the older first; of a free entry the second is the next free one.
    older: u32,
    newer: u32,
    lane: u32,
    used: bool,
    /// Number of the note.
    order: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lane {
    oldest: u32,
    newest: u32,
    length: u32,
}

/// The half-open connections.
#[derive(Debug)]
pub struct HalfOpen {
    entries: Vec<Entry>,
    lanes: Box<[Lane; LANES]>,
    free: u32,
    length: usize,
    noted: u64,
    cursor: usize,
    ended: u64,
}

/// Whether the handshake of a connection is under way.
#[must_use]
pub fn is_half_open(block: &Block) -> bool {
    matches!(Phase::of(block.tcp[0].flags(), block.tcp[1].flags()), Phase::SynSent | Phase::SynReceived)
}

impl HalfOpen {
    /// Room for so many, at least one; the memory is taken at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let most = most.clamp(1, NONE as usize - 1) as u32;
        let entry = |number: u32| Entry {
            block: 0,
            serial: 0,
            older: NONE,
            newer: if number + 1 < most { number + 1 } else { NONE },
            lane: 0,
            used: false,
            order: 0,
        };
        let lane = Lane { oldest: NONE, newest: NONE, length: 0 };
        Self {
            entries: (0..most).map(entry).collect(),
            lanes: Box::new([lane; LANES]),
            free: 0,
            length: 0,
            noted: 0,
            cursor: 0,
            ended: 0,
        }
    }

    /// How many there may be.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.entries.len()
    }

    /// How many there are, those included that were not looked at since their handshake was complete.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many were ended to make room so far.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.ended
    }

    /// Notes a connection whose SYN was seen; `hash` is that of its source.
    pub fn note(&mut self, hash: u64, block: BlockIndex, serial: u32) {
        let number = self.free;
        let Some(entry) = self.entries.get_mut(number as usize) else { return };
        let lane = hash as u32 % LANES as u32;
        self.free = entry.newer;
        let place = &mut self.lanes[lane as usize];
        *entry = Entry { block, serial, older: place.newest, newer: NONE, lane, used: true, order: self.noted };
        self.noted += 1;
        match self.entries.get_mut(place.newest as usize) {
            Some(before) => before.newer = number,
            None => place.oldest = number,
        }
        place.newest = number;
        place.length += 1;
        self.length += 1;
    }

    fn forget(&mut self, number: u32) {
        let Some(&Entry { older, newer, lane, used: true, .. }) = self.entries.get(number as usize) else { return };
        let place = &mut self.lanes[lane as usize];
        match self.entries.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => place.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(after) => after.older = older,
            None => place.newest = older,
        }
        place.length -= 1;
        self.length -= 1;
        let entry = &mut self.entries[number as usize];
        (entry.used, entry.newer) = (false, self.free);
        self.free = number;
    }

    /// The connection that is next to make room.
    fn next(&self) -> Option<u32> {
        let fullest = self.lanes.iter().max_by_key(|lane| lane.length)?;
        let fair = MUCH * self.length / LANES + FEW;
        let lane = if fullest.length as usize > fair {
            fullest
        } else {
            let order = |lane: &&Lane| self.entries.get(lane.oldest as usize).map_or(u64::MAX, |entry| entry.order);
            self.lanes.iter().min_by_key(order)?
        };
        (lane.oldest != NONE).then_some(lane.oldest)
    }

    /// The connection that is to make room. It is forgotten here. Connections met on the
    /// way that are no longer half open are forgotten as well, and make room for a note without an end.
    pub fn make_room(&mut self, table: &Table) -> Option<BlockIndex> {
        let number = self.next()?;
        let &Entry { block, serial, .. } = self.entries.get(number as usize)?;
        self.forget(number);
        let victim = is_still_half_open(table, block, serial);
        self.ended += u64::from(victim);
        victim.then_some(block)
    }

    /// Forgets some of those that are no longer half open.
    pub fn tidy(&mut self, table: &Table) {
        for _ in 0..LOOKED_AT.min(self.entries.len()) {
            let number = self.cursor;
            self.cursor = (number + 1) % self.entries.len();
            let entry = self.entries[number];
            if entry.used && !is_still_half_open(table, entry.block, entry.serial) {
                self.forget(number as u32);
            }
        }
    }
}

fn is_still_half_open(table: &Table, number: BlockIndex, serial: u32) -> bool {
    let block = table.block(number).filter(|block| block.owner.serial.load() == serial);
    block.is_some_and(|block| is_live(block) && is_half_open(block))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks in the order in which they would make room, by the structure alone.
    fn order(half_open: &mut HalfOpen) -> Vec<BlockIndex> {
        let mut order = Vec::new();
        while !half_open.is_empty() {
            let number = half_open.next().unwrap();
            order.push(half_open.entries[number as usize].block);
            half_open.forget(number);
        }
        order
    }

    // RFC 4987 section 3.4 (recycling the oldest half-open).
    #[test]
    fn the_oldest_makes_room() {
        let mut half_open = HalfOpen::new(8);
        for (hash, block) in [(1, 10), (1, 11), (2, 20), (1, 12), (2, 21), (3, 30)] {
            half_open.note(hash, block, 1);
        }
        assert_eq!(half_open.len(), 6);
        assert_eq!(order(&mut half_open), [10, 11, 20, 12, 21, 30]);
    }

    #[test]
    fn a_lane_with_far_more_than_its_part_makes_room_first() {
        let mut half_open = HalfOpen::new(100);
        half_open.note(1, 0, 1);
        (1..60).for_each(|block| half_open.note(7, block, 1));
        let order = order(&mut half_open);
        assert_eq!(order[..50], (1..51).collect::<Vec<_>>());
        assert_eq!(order.iter().position(|block| *block == 0), Some(51));
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let mut half_open = HalfOpen::new(4);
        for round in 0..10 {
            for block in 0..6 {
                half_open.note(u64::from(block) * round, block, 1);
            }
            assert_eq!(half_open.len(), 4);
            assert_eq!(order(&mut half_open).len(), 4);
            assert_eq!((half_open.len(), half_open.most()), (0, 4));
        }
    }
}
