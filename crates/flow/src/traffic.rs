//! How many packets and bytes a direction has carried, counted exactly on any number of cores by one atomic addition a
//! packet.
//!
//! An atomic addition costs more than the whole check of a TCP window, so both counts share a word: `bytes (40 bits) |
//! packets (24 bits)`. The packet that sets the top bit of a field moves half of the field's range on to the second
//! word, where there is room for 2^55 packets and 2^71 bytes. It alone does, and until it has, the other cores would
//! have to count half a range more before anything is lost.

use crate::cell::Cell64;

/// Where the packets begin in the word that is added to.
const PACKETS: u32 = 40;
/// The top bits of both fields, and so what is moved on.
const HALF_BYTES: u64 = 1 << (PACKETS - 1);
const HALF_PACKETS: u64 = 1 << 63;
const TOP_BITS: u64 = HALF_BYTES | HALF_PACKETS;
const HALF_RANGE_PACKETS: u64 = HALF_PACKETS >> PACKETS;
/// Looks at the words before what is there is taken as it is: a program moves a half on within nanoseconds.
const LOOKS: usize = 10_000;

/// Packets and bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Traffic {
    /// `bytes | packets << 40`.
    recent: Cell64,
    /// Halves moved on: `of bytes | of packets << 32`.
    halves: Cell64,
}

impl Traffic {
    /// Counts a packet of less than 2^39 bytes.
    #[inline(always)]
    pub fn count(&self, bytes: u64) {
        let added = bytes | 1 << PACKETS;
        let before = self.recent.add(added);
        let set = (before ^ before.wrapping_add(added)) & TOP_BITS;
        if set != 0 {
            self.carry(set);
        }
    }

    /// Moves on what the top bits in `set` stand for.
    #[inline(always)]
    fn carry(&self, set: u64) {
        let packets = u64::from(set & HALF_PACKETS != 0);
        let bytes = u64::from(set & HALF_BYTES != 0);
        self.halves.add(bytes | packets << 32);
        self.recent.add(set.wrapping_neg());
    }

    /// Packets and bytes.
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        for _ in 0..LOOKS {
            let halves = self.halves.load();
            let recent = self.recent.load();
            // With a top bit set, a half is being moved: it may stand in both words.
            if recent & TOP_BITS == 0 && self.halves.load() == halves {
                return Self::sum(recent, halves);
            }
        }
        Self::sum(self.recent.load(), self.halves.load())
    }

    const fn sum(recent: u64, halves: u64) -> (u64, u64) {
        let packets = (recent >> PACKETS) + (halves >> 32) * HALF_RANGE_PACKETS;
        let bytes = (recent & ((1 << PACKETS) - 1)) + (halves & u32::MAX as u64) * HALF_BYTES;
        (packets, bytes)
    }

    /// Sets the counts, while nobody else counts.
    pub fn set(&self, packets: u64, bytes: u64) {
        let recent = (bytes % HALF_BYTES) | ((packets % HALF_RANGE_PACKETS) << PACKETS);
        self.halves.store((bytes / HALF_BYTES) | ((packets / HALF_RANGE_PACKETS) << 32));
        self.recent.store(recent);
    }

    /// Packets, as far as they stand in the word that is added to: a count that begins anew with 0 at 2^23, now and then later.
    #[inline(always)]
    #[must_use]
    pub fn recent_packets(&self) -> u32 {
        (self.recent.load() >> PACKETS) as u32
    }

    /// Whether no packet was counted.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.recent.load() | self.halves.load() == 0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    // F11: exact, also where a field passes half of its range.
    #[test]
    fn halves_are_moved_on() {
        let traffic = Traffic::default();
        assert!(traffic.is_none());
        let (packets, bytes) = (2 * HALF_RANGE_PACKETS - 1, 3 * HALF_BYTES - 10);
        traffic.set(packets, bytes);
        assert_eq!(traffic.read(), (packets, bytes));
        traffic.count(11);
        assert_eq!(traffic.read(), (packets + 1, bytes + 11));
        assert_eq!(traffic.halves.load(), 3 | 2 << 32);
        for n in 2..1000 {
            traffic.count(HALF_BYTES - 1);
            assert_eq!(traffic.read(), (packets + n, bytes + 11 + (n - 1) * (HALF_BYTES - 1)));
        }
    }

    // F11: two threads count through many halves at once, and a reader never sees the counts fall.
    #[test]
    fn counts_are_exact_on_several_cores() {
        const EACH: u64 = 200_000;
        const BYTES: u64 = HALF_BYTES / 500;
        let traffic = Traffic::default();
        traffic.set(HALF_RANGE_PACKETS - EACH, 0);
        std::thread::scope(|scope| {
            let counting: Vec<_> =
                (0..2).map(|_| scope.spawn(|| (0..EACH).for_each(|_| traffic.count(BYTES)))).collect();
            let mut last = traffic.read();
            while !counting.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                let read = traffic.read();
                assert!(read.0 >= last.0 && read.1 >= last.1, "{last:?} became {read:?}");
                last = read;
            }
        });
        assert_eq!(traffic.read(), (HALF_RANGE_PACKETS + EACH, 2 * EACH * BYTES));
    }
}
