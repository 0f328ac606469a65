//! Sums of IPv4 headers that hardly any traffic has (RFC 791, RFC 1071).

use flowhop_flow::Reason;
use flowhop_flow::parse::ipv4;
use flowhop_wire::SliceFrame;

/// What is said of an IPv4 header of these words, as they lie in memory.
fn fault(words: [u32; 5]) -> Option<Reason> {
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    ipv4(&SliceFrame::new(&mut bytes), 0, 0).err().map(|exception| exception.reason)
}

// The sum is folded to 32 bits and then to 16, and either may carry. Where the first one does, the sum of the header is next
// to zero, and never what that of a good one is.
#[test]
fn a_header_whose_sum_carries_twice_is_no_good_one() {
    const ALL: u64 = u32::MAX as u64;
    let first = u32::from_ne_bytes([0x45, 0, 0, 20]);
    let mut tried = 0;
    for carries in 1..=4u64 {
        for above in 0..carries {
            for others in [[0, 0, 0], [ALL, 0, 0], [ALL, ALL, 0], [ALL, ALL, ALL]] {
                // The low half of the sum and its carries are 2^32 and a little more.
                let sum = (carries << 32) + (1 << 32) - carries + above;
                let rest = u64::from(first) + others.iter().sum::<u64>();
                let Some(Ok(last)) = sum.checked_sub(rest).map(u32::try_from) else { continue };
                let [a, b, c] = others.map(|word| word as u32);
                let found = fault([first, a, b, c, last]);
                assert_eq!(found, Some(Reason::BadIpChecksum), "{carries} carries, {above} above");
                tried += 1;
            }
        }
    }
    assert!(tried >= 4, "{tried}");
}
