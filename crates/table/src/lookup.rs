//! Finding the entry with exactly a key: the reader's side.

use flowhop_flow::Key;
use flowhop_flow::key::Address;
use flowhop_flow::record::{Block, Bucket, Hot, Span};

/// The arrays of a table, as a reader reaches them: maps in a kernel program, mapped memory elsewhere.
pub trait Arrays {
    /// An index line.
    fn bucket(&self, number: u32) -> Option<&Bucket>;
    /// A connection block.
    fn block(&self, number: u32) -> Option<&Block>;
}

/// The number of each entry, where a bit of [`matching_tags`] shifts it into the four highest bits
/// ([`TAG_PLACES`](flowhop_flow::record::TAG_PLACES)).
const ENTRIES: u64 = 0b000010 << 58 | 0b010110 << 42 | 0b100111 << 26 | 0b101000 << 10;

/// Equal tags that are followed in one line; a third one is a miss, handed down.
const CANDIDATES: usize = 2;

/// The tag of a hash: 16 bits that the line number does not use, never 0.
#[inline(always)]
#[must_use]
pub const fn tag_of(hash: u64) -> u16 {
    let tag = (hash >> 8) as u16;
    if tag == 0 { 1 } else { tag }
}

/// A direction of a block, as the index has it.
#[inline(always)]
#[must_use]
pub const fn place_of(block: u32, direction: usize) -> u32 {
    2 * block + direction as u32
}

/// The block and the direction of a place.
#[inline(always)]
#[must_use]
pub const fn block_of(place: u32) -> (u32, usize) {
    (place / 2, (place % 2) as usize)
}

/// The two lines of a hash among so many. They may be the same line.
#[inline(always)]
#[must_use]
pub const fn lines_in(hash: u64, lines: u32) -> [u32; 2] {
    let first = scale(hash as u32 ^ (hash >> 13) as u32, lines);
    [first, scale((hash >> 32) as u32, lines)]
}

/// Maps 32 hash bits to `0..n`; works for any n, so memory need not be a power of two.
#[inline(always)]
const fn scale(hash: u32, n: u32) -> u32 {
    ((hash as u64 * n as u64) >> 32) as u32
}

/// The block and direction of the published entry with this key, in an index that lies there.
#[inline(always)]
pub fn find<'a, A: Arrays>(arrays: &'a A, span: Span, key: &Key, hash: u64) -> Option<(&'a Block, usize)> {
    let lines = lines_in(hash, span.lines);
    for line in lines {
        let bucket = arrays.bucket(span.start + line)?;
        let mut matches = matching_tags(bucket, hash);
        for _ in 0..CANDIDATES {
            if matches == 0 {
                break;
            }
            let place = place_at(bucket, lowest(matches));
            matches &= matches - 1;
            let (block, direction) = block_of(place);
            if let Some(block) = arrays.block(block)
                && has_key(block, direction, key)
            {
                return Some((block, direction));
            }
        }
    }
    None
}

/// Bit `16 * lane + word` for each entry that has the tag of a hash.
///
/// Above an equal tag in the same word a lane may be reported falsely (a borrow); the key decides anyway.
#[inline(always)]
pub(crate) fn matching_tags(bucket: &Bucket, hash: u64) -> u64 {
    const LOW: u64 = 0x0001_0001_0001_0001;
    const HIGH: u64 = 0x8000_8000_8000_8000;
    let pattern = u64::from(tag_of(hash)) * LOW;
    let equal = |word: u64| {
        let difference = word ^ pattern;
        (difference.wrapping_sub(LOW) & !difference & HIGH) >> 15
    };
    equal(bucket.tags[0].load()) | equal(bucket.tags[1].load()) << 1 | equal(bucket.tags[2].load()) << 2
}

/// The entry number (0..12) of the lowest bit of a word of [`matching_tags`].
///
/// Written without `trailing_zeros`, which becomes a table in read-only data that the kernel's verifier cannot bound, and
/// without branches, which no processor can foresee.
#[inline(always)]
pub(crate) const fn lowest(matches: u64) -> u32 {
    ((matches & matches.wrapping_neg()).wrapping_mul(ENTRIES) >> 60) as u32
}

/// The place in entry 0..12 of a line ([`place_of`]).
#[inline(always)]
pub(crate) fn place_at(bucket: &Bucket, entry: u32) -> u32 {
    let bytes = (opaque(entry) & 15) * 3;
    #[cfg(target_arch = "bpf")]
    // SAFETY: four bytes from byte 45 at most are inside a line, and processors that run kernel programs read them wherever
    // they are. The writer may change them meanwhile; whatever is read, the block's own key decides.
    let word = unsafe { core::ptr::from_ref(bucket).cast::<u8>().add(bytes as usize).cast::<u32>().read_unaligned() };
    #[cfg(not(target_arch = "bpf"))]
    let word = {
        let (word, shift) = (bytes as usize / 8, bytes % 8 * 8);
        let high = if shift > 40 { bucket.places[word + 1].load() << (64 - shift) } else { 0 };
        (bucket.places[word].load() >> shift | high) as u32
    };
    word & 0x00ff_ffff
}

/// Hides from LLVM where a value comes from, so that it keeps the masks that the verifier wants to see.
#[inline(always)]
fn opaque(value: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = u64::from(value);
        // SAFETY: no instruction at all; the value passes through a register unchanged.
        unsafe { core::arch::asm!("/* {0} */", inout(reg) value) };
        value as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// Whether a direction of a block is published under exactly this key.
#[inline(always)]
#[must_use]
pub fn has_key(block: &Block, direction: usize, key: &Key) -> bool {
    let hot: &Hot = &block.hot[direction & 1];
    // Identity first: the rest is complete once it is there.
    if hot.identity.load() != key.identity
        || hot.source.load() != key.source[3]
        || hot.destination.load() != key.destination[3]
        || hot.ports.load() != key.ports
    {
        return false;
    }
    if key.family() == 4 {
        return true;
    }
    let (s, d) = if direction & 1 == 0 { (0, 1) } else { (3, 2) };
    wide_equals(block, s, &key.source) && wide_equals(block, d, &key.destination)
}

#[inline(always)]
fn wide_equals(block: &Block, part: usize, address: &Address) -> bool {
    let wide = &block.wide[part];
    wide[0].load() == address[0] && wide[1].load() == address[1] && wide[2].load() == address[2]
}
