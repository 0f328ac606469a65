//! Where the identifications of translated IPv4 packets come from.

use crate::cell::Cell64;

/// Counters that the identifications of IPv4 packets are taken from, one for all packets between the same two addresses of
/// the same protocol (RFC 6864 section 5.3.1: who translates addresses chooses them as the source would).
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Identifications([Cell64; SLOTS]);

const SLOTS: usize = 1024;

impl Identifications {
    /// The next one of what has this hash, which has the following ones as well if there are more packets.
    #[inline(always)]
    pub fn next(&self, hash: u64, packets: u32) -> u16 {
        let slot = &self.0[hash as usize & (SLOTS - 1)];
        // Where the count begins is nobody's to know.
        (slot.add(u64::from(packets)) as u16).wrapping_add((hash >> 32) as u16)
    }
}

impl Default for Identifications {
    fn default() -> Self {
        Self(core::array::from_fn(|_| Cell64::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 6864 section 5.3.1, RFC 7739: packets of one slot follow each other; where they begin follows from a secret.
    #[test]
    fn counts_go_on_from_where_the_hash_says() {
        let counters = Identifications::default();
        let of = |start: u64| 5 | start << 32;
        assert_eq!([counters.next(of(0x1234), 3), counters.next(of(0x1234), 1)], [0x1234, 0x1237]);
        assert_eq!(counters.next(of(0xffff), 1), 0xffff_u16.wrapping_add(4));
        assert_eq!(counters.next(6, 1), 0);
    }
}
