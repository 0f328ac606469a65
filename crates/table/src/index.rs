//! The writer's side of the index: our own lines, or a kernel hash map with a mirror.

use std::collections::HashMap;

use flowhop_flow::Key;
use flowhop_flow::record::{BUCKET_ENTRIES, Bucket, TAG_PLACES};

use crate::levels::Levels;
use crate::lookup::{lines_in, lowest, matching_tags, place_at, tag_of};

/// Keeps a kernel hash map equal to the writer's mirror of it.
pub trait KernelHashSync: Send {
    /// Adds an entry.
    ///
    /// # Errors
    /// The kernel's own words, for people.
    fn insert(&mut self, key: &Key, place: u32) -> Result<(), String>;
    /// Removes an entry; one that is not there is no error.
    fn remove(&mut self, key: &Key);
    /// Removes the entries that are not to be kept: what a killed process left half removed.
    fn retain(&mut self, keep: &dyn Fn(&Key, u32) -> bool);
}

/// How entries are found.
pub enum Index {
    /// Lines of tags in shared memory.
    Lines(Levels),
    /// A kernel hash map, mirrored here because the slow path looks up often.
    KernelHash {
        /// What the kernel map holds.
        mirror: HashMap<Key, u32>,
        /// The kernel map.
        kernel: Box<dyn KernelHashSync>,
    },
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lines(_) => "Lines",
            Self::KernelHash { .. } => "KernelHash",
        })
    }
}

/// The tag in entry 0..12 of a line.
#[must_use]
pub fn tag(bucket: &Bucket, entry: usize) -> u16 {
    let (word, lane) = TAG_PLACES[entry];
    (bucket.tags[word].load() >> (16 * lane)) as u16
}

/// The place in entry 0..12 of a line.
#[must_use]
pub fn place(bucket: &Bucket, entry: usize) -> u32 {
    place_at(bucket, entry as u32)
}

fn set_tag(bucket: &Bucket, entry: usize, tag: u16) {
    let (word, lane) = TAG_PLACES[entry];
    let (cell, shift) = (&bucket.tags[word], 16 * lane);
    let word = cell.load() & !(0xffff << shift);
    cell.store(word | u64::from(tag) << shift);
}

fn set_place(bucket: &Bucket, entry: usize, place: u32) {
    // The bits of other entries in these words do not change, so that readers of those never see them wrong.
    let (word, shift) = (entry * 24 / 64, entry * 24 % 64);
    let place = u64::from(place);
    let low = bucket.places[word].load() & !(0x00ff_ffff << shift);
    bucket.places[word].store(low | place << shift);
    if shift > 40 {
        let high = bucket.places[word + 1].load() & !(0x00ff_ffff >> (64 - shift));
        bucket.places[word + 1].store(high | place >> (64 - shift));
    }
}

/// Empties an entry of a line.
pub fn clear(bucket: &Bucket, entry: usize) {
    set_tag(bucket, entry, 0);
}

/// Empties a line.
pub fn empty(bucket: &Bucket) {
    bucket.tags.iter().for_each(|cell| cell.store(0));
}

/// The places that are in a line.
pub fn places(bucket: &Bucket) -> impl Iterator<Item = u32> + '_ {
    (0..BUCKET_ENTRIES).filter(|&entry| tag(bucket, entry) != 0).map(|entry| place(bucket, entry))
}

fn free_entry(bucket: &Bucket) -> Option<usize> {
    (0..BUCKET_ENTRIES).find(|&entry| tag(bucket, entry) == 0)
}

fn write(bucket: &Bucket, entry: usize, hash: u64, place: u32) {
    set_place(bucket, entry, place);
    set_tag(bucket, entry, tag_of(hash));
}

/// Entries of a line that are taken by whose first line it is only where the other one is fuller.
const KEPT_FREE: usize = 2;

/// What became of entering a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// It took a free entry.
    Free,
    /// It took the entry of another place, which is in that one's other line now.
    Moved {
        /// The hash of the place that moved.
        hash: u64,
        /// The place that moved.
        place: u32,
    },
    /// Both lines are full, and no entry of them can move.
    NoRoom,
}

/// Enters a place; at need it moves one entry of either line to that entry's other line.
///
/// `hash_of` gives the hash of the entry that a place names.
pub fn insert(buckets: &[Bucket], hash: u64, place: u32, hash_of: impl Fn(u32) -> u64) -> Entered {
    let lines = lines_in(hash, buckets.len() as u32).map(|line| line as usize);
    let room = lines.map(|line| (0..BUCKET_ENTRIES).filter(|&entry| tag(&buckets[line], entry) == 0).count());
    // The first line is what readers look at first. The last entries of it are kept for the sake of balance: nothing has to
    // move before three quarters of all are taken.
    let order = if room[0] <= KEPT_FREE && room[1] > room[0] { [lines[1], lines[0]] } else { lines };
    for line in order {
        if let Some(entry) = free_entry(&buckets[line]) {
            write(&buckets[line], entry, hash, place);
            return Entered::Free;
        }
    }
    for line in order {
        for entry in 0..BUCKET_ENTRIES {
            let moved = self::place(&buckets[line], entry);
            let moved_hash = hash_of(moved);
            let [a, b] = lines_in(moved_hash, buckets.len() as u32).map(|line| line as usize);
            let other = if a == line { b } else { a };
            if other == line {
                continue;
            }
            if let Some(free) = free_entry(&buckets[other]) {
                write(&buckets[other], free, moved_hash, moved);
                set_tag(&buckets[line], entry, 0);
                write(&buckets[line], entry, hash, place);
                return Entered::Moved { hash: moved_hash, place: moved };
            }
        }
    }
    Entered::NoRoom
}

/// The place of which `is_it` holds, among all entries of a hash: also those that a reader does not follow.
pub fn find(buckets: &[Bucket], hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
    let lines = lines_in(hash, buckets.len() as u32).map(|line| &buckets[line as usize]);
    // Both lines are asked for before either is waited for: they are rarely in a cache.
    let equal = lines.map(|bucket| matching_tags(bucket, hash));
    for (bucket, mut matches) in lines.into_iter().zip(equal) {
        while matches != 0 {
            let place = place_at(bucket, lowest(matches));
            if is_it(place) {
                return Some(place);
            }
            matches &= matches - 1;
        }
    }
    None
}

/// Takes a place out of the index; tells whether it was there.
pub fn remove(buckets: &[Bucket], hash: u64, place: u32) -> bool {
    for line in lines_in(hash, buckets.len() as u32) {
        let bucket = &buckets[line as usize];
        for entry in 0..BUCKET_ENTRIES {
            if tag(bucket, entry) == tag_of(hash) && self::place(bucket, entry) == place {
                set_tag(bucket, entry, 0);
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_do_not_disturb_their_neighbours() {
        let bucket = Bucket::default();
        for entry in 0..BUCKET_ENTRIES {
            write(&bucket, entry, (entry as u64 + 1) << 8, 0x00ab_cd00 + entry as u32);
        }
        for entry in 0..BUCKET_ENTRIES {
            assert_eq!(tag(&bucket, entry), entry as u16 + 1);
            assert_eq!(place(&bucket, entry), 0x00ab_cd00 + entry as u32);
        }
        set_place(&bucket, 2, 0x00ff_ffff);
        assert_eq!(place(&bucket, 1), 0x00ab_cd01);
        assert_eq!(place(&bucket, 3), 0x00ab_cd03);
    }

    // What the multiplication in `lowest` relies on.
    #[test]
    fn a_tag_is_found_in_its_entry() {
        for entry in 0..BUCKET_ENTRIES {
            let bucket = Bucket::default();
            for other in entry..BUCKET_ENTRIES {
                write(&bucket, other, 7 << 8, other as u32);
            }
            let mut matches = matching_tags(&bucket, 7 << 8);
            assert_eq!(matches.count_ones() as usize, BUCKET_ENTRIES - entry);
            let mut found: Vec<u32> = Vec::new();
            while matches != 0 {
                found.push(lowest(matches));
                matches &= matches - 1;
            }
            found.sort_unstable();
            assert_eq!(found, (entry as u32..BUCKET_ENTRIES as u32).collect::<Vec<_>>());
        }
    }

    // The last entries of a line are kept free as long as the other line has more of them, so that none has to move while
    // there is room for many.
    #[test]
    fn lines_fill_evenly() {
        let buckets: Vec<Bucket> = (0..1024).map(|_| Bucket::default()).collect();
        let mut state = 1u64;
        let mut hashes = Vec::new();
        let moved = std::cell::Cell::new(false);
        while !moved.get() {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let hash = (state ^ state >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
            hashes.push(hash);
            let place = hashes.len() as u32 - 1;
            let hash_of = |place: u32| {
                moved.set(true);
                hashes[place as usize]
            };
            assert_ne!(insert(&buckets, hash, place, hash_of), Entered::NoRoom);
        }
        let load = hashes.len() as f64 / (buckets.len() * BUCKET_ENTRIES) as f64;
        assert!(load > 0.75, "an entry had to move at {load}");
    }
}
