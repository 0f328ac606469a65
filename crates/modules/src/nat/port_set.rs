//! Sets of ports, looked through by words of 64: what a search costs does not depend on what is in them.

use std::ops::RangeInclusive;

/// One bit for each port, the lowest first.
pub(crate) type Words = [u64; WORDS];

const WORDS: usize = 1024;
const PAGES: usize = 16;
const PAGE: usize = WORDS / PAGES;

/// No port.
pub(crate) fn none() -> Box<Words> {
    Box::new([0; WORDS])
}

/// Puts ports between two, both included, into a set.
pub(crate) fn add(words: &mut Words, (first, last): (u16, u16)) {
    for index in places((first, last)) {
        words[index] |= mask((first, last), index);
    }
}

/// The words that ports between two are in.
pub(super) fn places((first, last): (u16, u16)) -> RangeInclusive<usize> {
    usize::from(first >> 6)..=usize::from(last >> 6)
}

/// The bits of one word that are between two ports, both included.
pub(super) const fn mask((first, last): (u16, u16), index: usize) -> u64 {
    let base = index as u32 * 64;
    let from = if first as u32 > base { first as u32 } else { base };
    let to = if (last as u32) < base + 63 { last as u32 } else { base + 63 };
    if from > to { 0 } else { (u64::MAX >> (63 - (to - from))) << (from - base) }
}

/// Whether a set has one of the ports between two; `words`: the set.
pub(super) fn has_any(range: (u16, u16), words: impl Fn(usize) -> u64) -> bool {
    places(range).any(|index| words(index) & mask(range, index) != 0)
}

/// Ports that must not be given out, from several sources: found word by word, since a search rarely looks at more than a few.
#[derive(Debug)]
pub(super) struct Barred<'a> {
    ports: flowhop_policy::PortSet,
    words: Option<&'a Words>,
}

impl<'a> Barred<'a> {
    /// Those between two each, both included, in any order, and those of a set.
    pub(super) fn new(ranges: Vec<(u16, u16)>, words: Option<&'a Words>) -> Self {
        Self { ports: flowhop_policy::PortSet::of_ranges(ranges), words }
    }

    /// Those of a word.
    pub(super) fn word(&self, index: usize) -> u64 {
        let (base, end) = (index * 64, index * 64 + 63);
        let ranges = self.ports.ranges();
        let from = ranges.partition_point(|(_, last)| usize::from(*last) < base);
        let of_word = ranges[from..].iter().take_while(|(first, _)| usize::from(*first) <= end);
        let in_ranges = of_word.fold(0, |word, range| word | mask(*range, index));
        in_ranges | self.words.map_or(0, |words| words[index])
    }
}

/// A set that takes memory only where it has ports.
#[derive(Debug, Default)]
pub(super) struct PortSet {
    pages: [Option<Box<[u64; PAGE]>>; PAGES],
}

impl PortSet {
    /// 64 ports.
    pub(super) fn word(&self, index: usize) -> u64 {
        self.pages[index / PAGE].as_ref().map_or(0, |page| page[index % PAGE])
    }

    pub(super) fn set(&mut self, port: u16, member: bool) {
        let index = usize::from(port >> 6);
        let bit = 1 << (port & 63);
        let page = &mut self.pages[index / PAGE];
        if member {
            page.get_or_insert_with(|| Box::new([0; PAGE]))[index % PAGE] |= bit;
        } else if let Some(words) = page {
            words[index % PAGE] &= !bit;
            if words.iter().all(|word| *word == 0) {
                *page = None;
            }
        }
    }

    pub(super) fn set_all(&mut self, (first, last): (u16, u16), member: bool) {
        (first..=last).for_each(|port| self.set(port, member));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pages.iter().all(Option::is_none)
    }

    pub(super) fn words(&self) -> Box<Words> {
        let mut words = none();
        for (place, page) in self.pages.iter().enumerate() {
            if let Some(page) = page {
                words[place * PAGE..][..PAGE].copy_from_slice(page.as_slice());
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let mut set = PortSet::default();
        for port in [0, 63, 64, 4095, 4096, 65535] {
            set.set(port, true);
            assert_eq!(set.word(usize::from(port >> 6)) >> (port & 63) & 1, 1);
        }
        assert_eq!(set.words().iter().map(|word| word.count_ones()).sum::<u32>(), 6);
        for port in [0, 63, 64, 4095, 4096, 65535] {
            assert!(!set.is_empty());
            set.set(port, false);
        }
        assert!(set.is_empty());
    }

    #[test]
    fn ranges_cover_their_ports() {
        for (first, last) in [(0, 0), (0, 65535), (63, 64), (100, 101), (1024, 65535), (7, 4096), (65535, 65535)] {
            let mut words = none();
            add(&mut words, (first, last));
            let all = (0..=u16::MAX).filter(|port| words[usize::from(port >> 6)] >> (port & 63) & 1 != 0);
            assert!(all.eq(first..=last));
        }
        let mut words = none();
        add(&mut words, (5, 4));
        add(&mut words, (500, 4));
        assert_eq!(words, none());
    }

    fn members(barred: &Barred<'_>) -> Vec<u16> {
        (0..=u16::MAX).filter(|port| barred.word(usize::from(port >> 6)) >> (port & 63) & 1 != 0).collect()
    }

    #[test]
    fn what_is_barred_for_several_reasons_is_barred() {
        let mut words = none();
        add(&mut words, (40_000, 40_100));
        let ranges =
            [(500, 600), (10, 20), (21, 30), (550, 551), (64, 64), (7, 5), (0, 0), (600, 700), (65_535, 65_535)];
        let barred = Barred::new(ranges.to_vec(), Some(&words));
        let all = ranges.into_iter().chain([(40_000, 40_100)]);
        let expected: std::collections::BTreeSet<u16> = all.flat_map(|(first, last)| first..=last).collect();
        assert_eq!(members(&barred), expected.into_iter().collect::<Vec<_>>());
        assert_eq!(members(&Barred::new(vec![(0, u16::MAX), (3, 4)], None)).len(), 65_536);
    }
}
