//! An index as large as what is in it: levels of lines, each half as large as the one before, of which readers use one.
//!
//! Lines that are read often have to lie in a cache close to the processor, and a few entries scattered over an index for
//! many would need a line each. So a table begins with its smallest level, and goes on to the next larger one when that
//! fills up, a few lines with every connection that is made: none waits for a whole index to be copied, unless its lines
//! are full before that.
//!
//! While a level is built, connections are entered into both, and removed from both. Then the one word that tells readers
//! where to look is stored. A reader that has the old word still finds what was there: the old level stays as it is until
//! its memory is wanted for another one, and what a reader finds there by then is compared with the block's own key.

use flowhop_flow::record::{BUCKET_ENTRIES, Bucket, Span};

use crate::index::{self, Entered};
use crate::lookup::{lines_in, tag_of};
use crate::memory::Geometry;

/// Of a hundred entries that a level has room for: when more are taken, the next larger level is built. From 75 on some have
/// to move, and with one move there is room for 94.
const GROW_ABOVE: u64 = 82;
/// Of a hundred entries: when fewer are taken, the next smaller level is built.
const SHRINK_BELOW: u64 = 15;
/// Lines of the old level that are gone through in a turn. With a turn for every connection the new level is complete when
/// five of a hundred more are taken in the old one than when it was begun.
const CARRIED: u32 = 4;
/// Lines of the new level that are emptied in a turn.
const EMPTIED: u32 = 64;

/// The levels of an index, and which of them are in use.
#[derive(Debug)]
pub struct Levels {
    geometry: Geometry,
    /// Where readers look.
    current: u32,
    next: Option<Next>,
}

/// A level that is built.
#[derive(Debug)]
struct Next {
    level: u32,
    /// Lines of it that are empty.
    emptied: u32,
    /// Lines of the current level that are in it.
    carried: u32,
}

impl Next {
    const fn of(level: u32) -> Self {
        Self { level, emptied: 0, carried: 0 }
    }
}

impl Levels {
    /// An empty index, at its smallest.
    pub(crate) const fn new(geometry: Geometry) -> Self {
        Self { geometry, current: geometry.levels.saturating_sub(1), next: None }
    }

    /// Goes on with the level that readers use; false where they use none, and now have the largest to look at.
    pub(crate) fn adopt(&mut self, span: Span) -> bool {
        let found = (0..self.geometry.levels.max(1)).find(|level| self.span_of(*level) == span);
        self.current = found.unwrap_or(0);
        found.is_some()
    }

    /// Where readers are to look.
    pub(crate) fn span(&self) -> Span {
        self.span_of(self.current)
    }

    /// Levels of even numbers share their memory, and so do those of odd ones: one is never built over the one in use.
    fn span_of(&self, level: u32) -> Span {
        let start = if level.is_multiple_of(2) { 0 } else { self.geometry.buckets };
        Span { start, lines: self.geometry.lines_at(level) }
    }

    fn lines<'a>(&self, buckets: &'a [Bucket], level: u32) -> &'a [Bucket] {
        let Span { start, lines } = self.span_of(level);
        buckets.get(start as usize..(start + lines) as usize).unwrap_or_default()
    }

    /// The lines that readers look at.
    pub(crate) fn current<'a>(&self, buckets: &'a [Bucket]) -> &'a [Bucket] {
        self.lines(buckets, self.current)
    }

    /// The level that is built, as far as it takes entries.
    fn next<'a>(&self, buckets: &'a [Bucket]) -> Option<&'a [Bucket]> {
        let next = self.next.as_ref()?;
        let lines = self.lines(buckets, next.level);
        (next.emptied as usize == lines.len()).then_some(lines)
    }

    /// Enters a place, at need by moving another one; tells whether there was room.
    pub(crate) fn insert(&mut self, buckets: &[Bucket], hash: u64, place: u32, hash_of: impl Fn(u32) -> u64) -> bool {
        let moved = match index::insert(self.current(buckets), hash, place, &hash_of) {
            Entered::Free => None,
            Entered::Moved { hash, place } => Some((hash, place)),
            Entered::NoRoom => return false,
        };
        // What moved may have left a line that is still to be gone through for one that was.
        let entered = [Some((hash, place)), moved];
        entered.into_iter().flatten().for_each(|(hash, place)| self.carry(buckets, hash, place, &hash_of));
        true
    }

    /// Enters a place of the current level into the next one, unless it is there.
    fn carry(&mut self, buckets: &[Bucket], hash: u64, place: u32, hash_of: impl Fn(u32) -> u64) {
        let Some(next) = self.next(buckets) else { return };
        let has = index::find(next, hash, |found| found == place).is_some();
        if !has && index::insert(next, hash, place, hash_of) == Entered::NoRoom {
            // It was begun too small, and is begun again when there is a reason.
            self.next = None;
        }
    }

    /// Takes a place out.
    pub(crate) fn remove(&self, buckets: &[Bucket], hash: u64, place: u32) {
        index::remove(self.current(buckets), hash, place);
        if let Some(next) = self.next(buckets) {
            index::remove(next, hash, place);
        }
    }

    /// Drops the entries of the current level that have no hash, those that do not belong where they are, and those that are
    /// there twice. Notes whose entries are kept.
    pub(crate) fn keep(&self, buckets: &[Bucket], kept: &mut [bool], hash_of: impl Fn(u32) -> Option<u64>) {
        let lines = self.current(buckets);
        for (number, line) in lines.iter().enumerate() {
            for entry in (0..BUCKET_ENTRIES).filter(|&entry| index::tag(line, entry) != 0) {
                let place = index::place(line, entry);
                let belongs = hash_of(place).is_some_and(|hash| {
                    let those = lines_in(hash, lines.len() as u32);
                    index::tag(line, entry) == tag_of(hash) && those.contains(&(number as u32))
                });
                if !belongs || std::mem::replace(&mut kept[place as usize], true) {
                    index::clear(line, entry);
                }
            }
        }
    }

    /// Begins with another level if the number of entries asks for it, and goes on building it for some turns. Returns where
    /// readers are to look from now on, when that changes. All entries are published.
    pub(crate) fn tend(
        &mut self,
        buckets: &[Bucket],
        entries: u64,
        turns: u32,
        hash_of: impl Fn(u32) -> u64,
    ) -> Option<Span> {
        if self.next.is_none() {
            let level = self.wanted(entries)?;
            self.next = Some(Next::of(level));
        }
        (0..turns).find_map(|_| self.turn(buckets, &hash_of))
    }

    /// Makes room by the next larger level, all at once. Returns where readers are to look from now on; nothing when there
    /// is no larger one.
    pub(crate) fn enlarge(&mut self, buckets: &[Bucket], hash_of: impl Fn(u32) -> u64) -> Option<Span> {
        let level = self.current.checked_sub(1)?;
        if self.next.as_ref().is_none_or(|next| next.level != level) {
            self.next = Some(Next::of(level));
        }
        while self.next.is_some() {
            if let Some(span) = self.turn(buckets, &hash_of) {
                return Some(span);
            }
        }
        None
    }

    /// Whether another level is being built.
    pub(crate) const fn is_building(&self) -> bool {
        self.next.is_some()
    }

    /// The level that so many entries should be in, if that is another one.
    fn wanted(&self, entries: u64) -> Option<u32> {
        let lines = self.span().lines;
        if !is_enough(lines, entries) {
            return self.current.checked_sub(1);
        }
        let smaller = self.current + 1;
        (entries * 100 < room(lines) * SHRINK_BELOW && smaller < self.geometry.levels).then_some(smaller)
    }

    fn turn(&mut self, buckets: &[Bucket], hash_of: impl Fn(u32) -> u64) -> Option<Span> {
        let &Next { level, emptied, carried } = self.next.as_ref()?;
        let lines = self.lines(buckets, level);
        if (emptied as usize) < lines.len() {
            let end = lines.len().min((emptied + EMPTIED) as usize);
            lines[emptied as usize..end].iter().for_each(index::empty);
            self.next.as_mut()?.emptied = end as u32;
            return None;
        }
        let old = self.current(buckets);
        let end = old.len().min((carried + CARRIED) as usize);
        for line in &old[carried as usize..end] {
            for place in index::places(line) {
                self.carry(buckets, hash_of(place), place, &hash_of);
            }
        }
        // Nothing is left of a level that has become too small meanwhile.
        self.next.as_mut()?.carried = end as u32;
        if end < old.len() {
            return None;
        }
        self.next = None;
        self.current = level;
        Some(self.span())
    }
}

/// Entries that lines have room for.
const fn room(lines: u32) -> u64 {
    lines as u64 * BUCKET_ENTRIES as u64
}

/// Whether so many entries may be in lines without more being wanted.
const fn is_enough(lines: u32, entries: u64) -> bool {
    entries * 100 <= room(lines) * GROW_ABOVE
}

impl Geometry {
    /// Lines of a level.
    fn lines_at(self, level: u32) -> u32 {
        (self.buckets >> level).max(1)
    }

    /// Lines that an index of this geometry has in use once there are so many connections.
    #[must_use]
    pub fn lines_of(self, connections: u32) -> u32 {
        let mut lines = (0..self.levels.max(1)).rev().map(|level| self.lines_at(level));
        lines.find(|lines| is_enough(*lines, 2 * u64::from(connections))).unwrap_or(self.buckets)
    }
}
