//! Words of two halves, which are read and written at once.

/// Two halves in one word, the low one first.
#[inline(always)]
pub(crate) const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// The halves of a word, the low one first.
#[inline(always)]
pub(crate) const fn split(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
