//! The numbers that cookies are: two keyed digests, with what has to be read back beside them.

use super::{Cookies, GOOD, LEEWAY, SLOTS, slot_of};
use crate::key::Key;
use crate::record::Tick;

/// What an acknowledgment is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// It acknowledges a cookie, and its sequence number is the one behind the SYN. `size` is the place of the client's
    /// segment size among the [`SIZES`].
    Whole {
        /// See there.
        size: u8,
    },
    /// It acknowledges a cookie, and its sequence number is another.
    Part,
    /// It acknowledges no cookie that is good.
    Nothing,
}

/// What a cookie is made of beside the key.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// The client's first sequence number.
    initial: u32,
    /// Place of its segment size.
    size: u32,
    slot: u32,
}

impl Terms {
    /// Those of a cookie that is made now.
    #[inline(always)]
    pub(super) const fn new(initial: u32, size: u32, now: Tick) -> Self {
        Self { initial, size: size & 7, slot: slot_of(now) }
    }

    /// Those of the cookie that a segment with these numbers would acknowledge; `None` when its time is over.
    #[inline(always)]
    pub(super) const fn of(sequence: u32, acknowledgment: u32, now: Tick) -> Option<Self> {
        let cookie = acknowledgment.wrapping_sub(1);
        let current = slot_of(now.wrapping_add(LEEWAY));
        let age = current.wrapping_sub(cookie >> 3) & 3;
        if age >= GOOD {
            return None;
        }
        Some(Self { initial: sequence.wrapping_sub(1), size: cookie & 7, slot: current.wrapping_sub(age) % SLOTS })
    }

    /// The cookie.
    #[inline(always)]
    pub(super) const fn cookie(self, [first, second]: [u32; 2]) -> u32 {
        self.size | (self.slot & 3) << 3 | first << 5 | second << 19
    }

    /// What an acknowledgment of these terms is worth.
    #[inline(always)]
    pub(super) const fn worth(self, acknowledgment: u32, [first, second]: [u32; 2]) -> Worth {
        let cookie = acknowledgment.wrapping_sub(1);
        match (cookie >> 5 & 0x3fff == first, cookie >> 19 == second) {
            (false, _) => Worth::Nothing,
            (true, false) => Worth::Part,
            (true, true) => Worth::Whole { size: self.size as u8 },
        }
    }
}

/// The cookie for a SYN.
#[must_use]
pub fn seal(cookies: &Cookies, key: &Key, initial: u32, size: u32, now: Tick) -> u32 {
    let terms = Terms::new(initial, size, now);
    terms.cookie(digests(cookies, key, terms))
}

/// What a segment with this key is worth. `sequence` and `acknowledgment` are its numbers.
#[must_use]
pub fn worth(cookies: &Cookies, key: &Key, sequence: u32, acknowledgment: u32, now: Tick) -> Worth {
    let Some(terms) = Terms::of(sequence, acknowledgment, now) else { return Worth::Nothing };
    terms.worth(acknowledgment, digests(cookies, key, terms))
}

/// Both digests, of 14 and 13 bits. In the kernel programs there is one copy of this for both of its uses.
#[inline(always)]
pub(super) fn digests(cookies: &Cookies, key: &Key, terms: Terms) -> [u32; 2] {
    let Terms { initial, size, slot } = terms;
    let mut state = Sip::new(cookies.secret(slot));
    state.absorb(pair(key.ports, key.identity));
    state.absorb(pair(size, slot));
    if key.family() != 4 {
        let ([a, b, c, _], [d, e, f, _]) = (key.source, key.destination);
        state.absorb(pair(a, b));
        state.absorb(pair(d, e));
        state.absorb(pair(c, f));
    }
    state.absorb(pair(key.source[3], key.destination[3]));
    // The family is in what was absorbed, so no input goes on where another ends but for the last word.
    let first = state.finish(1 << 56);
    let second = state.finish(2 << 56 | u64::from(initial));
    [first as u32 & 0x3fff, second as u32 & 0x1fff]
}

const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// SipHash-2-4 (Aumasson, Bernstein 2012) over whole words.
#[derive(Clone, Copy)]
struct Sip([u64; 4]);

impl Sip {
    #[inline(always)]
    const fn new([k0, k1]: [u64; 2]) -> Self {
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    const fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }

    #[inline(always)]
    const fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.round();
        self.0[0] ^= word;
    }

    /// The digest with a last word, whose upper byte is never that of another use.
    #[inline(always)]
    const fn finish(mut self, last: u64) -> u64 {
        self.absorb(last);
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.round();
        let [a, b, c, d] = self.0;
        a ^ b ^ c ^ d
    }
}
