//! Sorted, disjoint, inclusive ranges: the one representation of every set that packets are matched against.

use std::sync::Arc;

/// A number with neighbours.
pub(crate) trait Step: Copy + Ord {
    const MIN: Self;
    const MAX: Self;

    fn next(self) -> Option<Self>;
    fn previous(self) -> Option<Self>;
}

macro_rules! step {
    ($($number:ty),*) => {$(
        impl Step for $number {
            const MIN: Self = <$number>::MIN;
            const MAX: Self = <$number>::MAX;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}

step!(u8, u16, u128);

/// Inclusive ranges, sorted, with a gap between any two neighbours, so that equal sets have equal ranges.
///
/// Shared, because hundreds of rules may name the same large set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ranges<T>(Arc<[(T, T)]>);

impl<T: Step> Ranges<T> {
    pub(crate) fn all() -> Self {
        Self(Arc::new([(T::MIN, T::MAX)]))
    }

    pub(crate) fn none() -> Self {
        Self(Arc::new([]))
    }

    /// The union of ranges in any order. A range with its ends swapped counts as empty.
    pub(crate) fn union(mut ranges: Vec<(T, T)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();

        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if end.next().is_none_or(|next| first <= next) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged.into())
    }

    /// What is in `self` and not in `other`.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut holes = other.0.iter().peekable();
        for &(first, last) in self.0.iter() {
            let mut start = Some(first);
            while let Some(&&(hole_first, hole_last)) = holes.peek() {
                let Some(from) = start else { break };
                if hole_first > last {
                    break;
                }
                if hole_last >= from {
                    if let Some(end) = hole_first.previous().filter(|end| *end >= from) {
                        left.push((from, end));
                    }
                    start = hole_last.next().filter(|next| *next <= last);
                }
                // A hole that reaches beyond this range may also cut the next one.
                if hole_last > last {
                    break;
                }
                holes.next();
            }
            if let Some(from) = start {
                left.push((from, last));
            }
        }
        Self(left.into())
    }

    pub(crate) fn contains(&self, value: T) -> bool {
        self.range_at(value).is_some_and(|(first, _)| first <= value)
    }

    pub(crate) fn covers(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || other
                .0
                .iter()
                .all(|&(first, last)| self.range_at(first).is_some_and(|(start, end)| start <= first && last <= end))
    }

    /// Whether some value between these two, inclusive, is in the set.
    pub(crate) fn meets(&self, first: T, last: T) -> bool {
        self.range_at(first).is_some_and(|(start, _)| start <= last)
    }

    pub(crate) fn is_all(&self) -> bool {
        matches!(self.0.as_ref(), [(first, last)] if *first == T::MIN && *last == T::MAX)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn as_slice(&self) -> &[(T, T)] {
        &self.0
    }

    /// The first range that does not end before `value`.
    fn range_at(&self, value: T) -> Option<(T, T)> {
        let index = self.0.partition_point(|&(_, last)| last < value);
        self.0.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u8, u8)]) -> Ranges<u8> {
        Ranges::union(ranges.to_vec())
    }

    #[test]
    fn union_merges_what_touches() {
        assert_eq!(set(&[(5, 6), (0, 1), (2, 3), (250, 255), (9, 7)]).as_slice(), [(0, 3), (5, 6), (250, 255)]);
        assert_eq!(set(&[(0, 255), (3, 4)]), Ranges::all());
    }

    #[test]
    fn every_operation_agrees_with_a_table_of_booleans() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()[3]
        };
        for _ in 0..2000 {
            let mut pairs = || -> Vec<(u8, u8)> { (0..draw() % 6).map(|_| (draw(), draw())).collect() };
            let (a, b) = (pairs(), pairs());
            let holds = |pairs: &[(u8, u8)], value: u8| pairs.iter().any(|&(f, l)| f <= value && value <= l);
            let (left, right) = (set(&a), set(&b));
            let difference = left.without(&right);
            for value in 0..=255 {
                assert_eq!(left.contains(value), holds(&a, value));
                assert_eq!(difference.contains(value), holds(&a, value) && !holds(&b, value), "{a:?} {b:?} {value}");
            }
            assert_eq!(left.covers(&right), (0..=255).all(|v| !holds(&b, v) || holds(&a, v)), "{a:?} {b:?}");
            assert_eq!(set(difference.as_slice()), difference, "not normal: {difference:?}");
        }
    }
}
