//! The Internet checksum: whole (RFC 1071), and by what changed only (RFC 1624).
//!
//! # What the numbers are
//!
//! Sums are one's-complement sums of the 16-bit words of a packet, each read as big-endian, in host order: what
//! `u16::from_be_bytes` and [`U16::get`](zerocopy::byteorder::big_endian::U16::get) give. A `u32` sum may be added to
//! others with `+` (each function returns at most `0xffff`) as long as every piece but the last has an even length.
//!
//! One's-complement addition commutes with swapping the bytes of all words (RFC 1071 section 2 (B)). Therefore
//! [`update16`] and [`Delta`] work as well on words that are *all* in the byte order of the wire, in which case the
//! result is in that order too; a fast path need not swap anything.
//!
//! # Zero has two forms
//!
//! `0x0000` and `0xffff` are both zero. The sum of anything that is not all zeros is never `0x0000`, so a computed
//! checksum is never `0xffff`; the incremental update of RFC 1141 got that wrong and RFC 1624 equation 3, which is
//! used here, gets it right. Only UDP stores `0xffff` for a computed `0x0000`, since there `0x0000` means "none"
//! (RFC 768).

/// One's-complement sum of the big-endian words of `bytes`, `0..=0xffff`; a last odd byte is the high half of a word
/// (RFC 1071 section 4.1).
pub fn sum(bytes: &[u8]) -> u32 {
    // Words are added in the byte order of the machine, four bytes at once, which compilers turn into vector code;
    // the folded result is brought into big-endian order once. 2^32 additions fit, that is 16 GiB.
    let (words, tail) = bytes.as_chunks::<4>();
    let mut accumulator = 0u64;
    for word in words {
        accumulator += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    accumulator += u64::from(u32::from_ne_bytes(last));
    accumulator = (accumulator & 0xffff_ffff) + (accumulator >> 32);
    accumulator = (accumulator & 0xffff_ffff) + (accumulator >> 32);
    u32::from(u16::from_be(fold(accumulator as u32)))
}

/// Brings a sum down to 16 bits by adding the carries back in (RFC 1071 section 2).
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The checksum field that belongs to a sum: the complement of the folded sum (RFC 1071 section 1).
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// As [`finish`], with a computed zero stored as `0xffff`: the form that UDP needs (RFC 768) and that means the same
/// everywhere else.
#[inline(always)]
pub const fn finish_nonzero(sum: u32) -> u16 {
    match finish(sum) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Sum of the IPv4 pseudo-header of TCP and UDP (RFC 9293 section 3.1, RFC 768), `0..=0xffff`.
///
/// `length` is that of transport header and payload in bytes.
#[inline]
pub const fn pseudo_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, length: u16) -> u32 {
    let sum = halves(u32::from_be_bytes(source)) + halves(u32::from_be_bytes(destination));
    fold(sum + protocol as u32 + length as u32) as u32
}

/// Sum of the IPv6 pseudo-header (RFC 8200 section 8.1), `0..=0xffff`.
///
/// `length` is that of transport header and payload in bytes, without extension headers; `protocol` is that of the
/// transport header, whatever extension headers precede it.
#[inline]
pub const fn pseudo_v6(source: [u8; 16], destination: [u8; 16], protocol: u8, length: u32) -> u32 {
    let sum = eighths(u128::from_be_bytes(source)) + eighths(u128::from_be_bytes(destination));
    fold(sum + protocol as u32 + halves(length)) as u32
}

/// The checksum after one word of the covered data changed from `old` to `new` (RFC 1624 equation 3).
#[inline(always)]
pub const fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    Delta::ZERO.replace16(old, new).apply(checksum)
}

/// The difference that replacing some words makes to the sum over them.
///
/// It is computed once when a flow is set up and applied to every packet of the flow. Words that change by packet
/// (the time to live, sequence numbers) are added to it on the way.
///
/// The delta of the pseudo-header (addresses) and that of the transport header (ports) are best kept apart and added
/// where they are used, because [`Delta::apply_partial`] wants the former alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Delta(pub u16);

impl Delta {
    /// Nothing was replaced.
    pub const ZERO: Self = Self(0);

    /// Also replaces one word.
    #[inline(always)]
    #[must_use]
    pub const fn replace16(self, old: u16, new: u16) -> Self {
        Self(fold(self.0 as u32 + !old as u32 + new as u32))
    }

    /// Also replaces two words, such as an IPv4 address or a sequence number.
    #[inline(always)]
    #[must_use]
    pub const fn replace32(self, old: u32, new: u32) -> Self {
        Self(fold(self.0 as u32 + halves(!old) + halves(new)))
    }

    /// Also replaces eight words, such as an IPv6 address (`u128::from_be_bytes` of its bytes).
    #[inline(always)]
    #[must_use]
    pub const fn replace128(self, old: u128, new: u128) -> Self {
        Self(fold(self.0 as u32 + eighths(!old) + eighths(new)))
    }

    /// What both deltas together make.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(fold(self.0 as u32 + other.0 as u32))
    }

    /// What takes this delta back, as for the other direction of a flow.
    #[inline(always)]
    #[must_use]
    pub const fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// The field of a complete checksum after the replacement (RFC 1624 equation 3): IPv4 header, TCP, ICMP, ICMPv6.
    ///
    /// A checksum that was wrong stays wrong by the same amount, so errors of the path remain visible to the receiver.
    ///
    /// One datum is beyond this arithmetic: one that *becomes* all zeros, whose checksum is `0xffff` and for which this
    /// gives `0x0000`. Only an ICMP echo reply over IPv4 can, with identifier, sequence number and payload all zero;
    /// a translator that picks identifiers should leave out zero.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(!checksum as u32 + self.0 as u32)
    }

    /// As [`Delta::apply`] for UDP: no checksum stays no checksum, and a computed zero is stored as `0xffff`
    /// (RFC 768; for IPv6 RFC 6936).
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        match (checksum, self.apply(checksum)) {
            (0, _) => 0,
            (_, 0) => 0xffff,
            (_, updated) => updated,
        }
    }

    /// The field of a partial checksum (`CHECKSUM_PARTIAL`, `VIRTIO_NET_HDR_F_NEEDS_CSUM`) after the replacement.
    ///
    /// Such a field holds the folded sum of the pseudo-header, not complemented, and whoever completes it adds header
    /// and payload as they are by then. Therefore this delta must be of words of the pseudo-header only (addresses,
    /// protocol, length): ports and the like are summed later anyway. An ICMP message over IPv4 has no pseudo-header,
    /// thus no delta. The same serves UDP, since a partial checksum is always meant to become a checksum.
    #[inline(always)]
    pub const fn apply_partial(self, field: u16) -> u16 {
        fold(field as u32 + self.0 as u32)
    }
}

/// Sum of the two words of `value`, not folded.
#[inline(always)]
const fn halves(value: u32) -> u32 {
    (value >> 16) + (value & 0xffff)
}

/// Sum of the eight words of `value`, not folded: at most `0x7fff8`.
#[inline(always)]
const fn eighths(value: u128) -> u32 {
    // By halves of 64 bits, since the kernel's machine has no wider registers.
    let (high, low) = ((value >> 64) as u64, value as u64);
    halves((high >> 32) as u32) + halves(high as u32) + halves((low >> 32) as u32) + halves(low as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 4.1, word by word.
    fn slow_sum(bytes: &[u8]) -> u32 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            sum += u32::from(word);
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        sum
    }

    #[test]
    fn rfc1071_section_3_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), 0xddf2);
        assert_eq!(finish(sum(&bytes)), 0x220d);
    }

    #[test]
    fn rfc1624_section_4_example() {
        // RFC 1141 would give 0xffff.
        assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
        assert_eq!(Delta::ZERO.replace16(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
    }

    #[test]
    fn fold_takes_any_sum() {
        assert_eq!(fold(0), 0);
        assert_eq!(fold(0xffff), 0xffff);
        assert_eq!(fold(0x1_0000), 1);
        assert_eq!(fold(u32::MAX), 0xffff);
        assert_eq!(finish_nonzero(0xffff), 0xffff);
        assert_eq!(finish_nonzero(0), 0xffff);
    }

    #[test]
    fn nothing_replaced_changes_nothing() {
        for checksum in 0..=u16::MAX {
            assert_eq!(Delta::ZERO.apply(checksum), checksum);
            assert_eq!(Delta::ZERO.apply_udp(checksum), checksum);
            assert_eq!(Delta::ZERO.apply_partial(checksum), checksum);
        }
    }

    #[test]
    fn a_datum_that_becomes_all_zeros() {
        // The known limit in the documentation of `apply`: from all zeros is right, to all zeros is not.
        assert_eq!(Delta::ZERO.replace16(0, 0x1234).apply(finish(0)), finish(0x1234));
        assert_eq!(Delta::ZERO.replace16(0x1234, 0).apply(finish(0x1234)), !finish(0));
    }

    #[test]
    fn udp_without_checksum_stays_without() {
        // RFC 768: an all zero transmitted checksum means that the transmitter generated none.
        assert_eq!(Delta::ZERO.replace16(1, 2).apply_udp(0), 0);
    }

    #[test]
    fn the_time_to_live_of_all_values() {
        // RFC 1141 and RFC 1624 are about this very case; it must agree with a fresh computation.
        for ttl in 1..=u8::MAX {
            for identification in 0..=u16::MAX {
                let words = |ttl: u8| 0x4500 + u32::from(identification) + (u32::from(ttl) << 8 | 6);
                let (old, new) = (u16::from(ttl) << 8 | 6, u16::from(ttl - 1) << 8 | 6);
                assert_eq!(update16(finish(words(ttl)), old, new), finish(words(ttl - 1)));
            }
        }
    }

    proptest! {
        #[test]
        fn fast_sum_is_the_slow_sum(bytes in prop::collection::vec(any::<u8>(), 0..200), lead in 0usize..8) {
            let bytes = bytes.get(lead..).unwrap_or(&[]);
            prop_assert_eq!(sum(bytes), slow_sum(bytes));
        }

        #[test]
        fn pieces_add_up(mut one in prop::collection::vec(any::<u8>(), 0..64), two in prop::collection::vec(any::<u8>(), 0..64)) {
            if one.len() % 2 == 1 {
                one.pop();
            }
            let pieces = sum(&one) + sum(&two);
            one.extend(&two);
            prop_assert_eq!(u32::from(fold(pieces)), sum(&one));
        }

        #[test]
        fn pseudo_headers(source: [u8; 16], destination: [u8; 16], protocol: u8, length: u32) {
            let mut bytes = std::vec::Vec::new();
            bytes.extend(source);
            bytes.extend(destination);
            bytes.extend(length.to_be_bytes());
            bytes.extend([0, 0, 0, protocol]);
            prop_assert_eq!(pseudo_v6(source, destination, protocol, length), slow_sum(&bytes));

            let (source, destination) = (*source.first_chunk().unwrap(), *destination.first_chunk().unwrap());
            bytes.clear();
            bytes.extend(source);
            bytes.extend(destination);
            bytes.extend([0, protocol]);
            bytes.extend((length as u16).to_be_bytes());
            prop_assert_eq!(pseudo_v4(source, destination, protocol, length as u16), slow_sum(&bytes));
        }

        #[test]
        fn widths_agree(start: u16, old: u128, new: u128) {
            let wide = Delta(start).replace128(old, new);
            let by32 = (0..4).fold(Delta(start), |d, i| d.replace32((old >> (32 * i)) as u32, (new >> (32 * i)) as u32));
            let by16 = (0..8).fold(Delta(start), |d, i| d.replace16((old >> (16 * i)) as u16, (new >> (16 * i)) as u16));
            prop_assert_eq!(wide, by32);
            prop_assert_eq!(wide, by16);
            prop_assert_eq!(wide, Delta(start).and(Delta::ZERO.replace128(old, new)));
        }

        #[test]
        fn replacement_is_recomputation(mut words in prop::collection::vec(any::<u16>(), 1..32), place: prop::sample::Index, new: u16) {
            // A covered datum that never is zero, as the version or protocol field of a real packet.
            words.push(0x4500);
            let total = |words: &[u16]| words.iter().map(|w| u32::from(*w)).sum::<u32>();
            let before = finish(total(&words));
            let place = place.index(words.len() - 1);
            let delta = Delta::ZERO.replace16(words[place], new);
            let old = core::mem::replace(&mut words[place], new);
            let after = finish(total(&words));
            prop_assert_eq!(delta.apply(before), after);
            prop_assert_eq!(update16(before, old, new), after);
            prop_assert_eq!(delta.inverse().apply(after), before);
            // RFC 1071 section 2 (B): the same on words in the other byte order.
            let swapped = Delta::ZERO.replace16(old.swap_bytes(), new.swap_bytes()).apply(before.swap_bytes());
            prop_assert_eq!(swapped, after.swap_bytes());
        }
    }
}
