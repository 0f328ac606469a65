//! Which IPv4 packets may be cut and which were, and so whose identification is a new one (RFC 791, RFC 6864).

use flowhop_flow::rewrite::{is_fragment, may_be_cut};
use flowhop_wire::Ipv4;

/// A header with these flags and offset.
fn header(field: u16) -> [u8; Ipv4::LEN] {
    let mut header = [0xff; Ipv4::LEN];
    [header[6], header[7]] = field.to_be_bytes();
    header
}

const RESERVED: u16 = 1 << 15;
const DONT_FRAGMENT: u16 = 1 << 14;
const MORE_FRAGMENTS: u16 = 1 << 13;

// RFC 6864 section 4.1: what has neither offset nor more to follow, and the bit DF, is atomic, and its identification says
// nothing. The bit that RFC 791 reserves is no reason to treat a packet as another one.
#[test]
fn an_identification_matters_where_a_packet_may_be_cut_or_was() {
    for reserved in [0, RESERVED] {
        assert!(may_be_cut(&header(reserved)) && !is_fragment(&header(reserved)));
        let atomic = header(reserved | DONT_FRAGMENT);
        assert!(!may_be_cut(&atomic) && !is_fragment(&atomic));
        for other in [0, DONT_FRAGMENT] {
            // Offsets of each bit, and some with the same bits in both bytes.
            let offsets = (0..13).map(|n| 1 << n).chain([0x0101, 0x1515, 0x1fff]);
            let pieces = offsets.flat_map(|offset| [offset, offset | MORE_FRAGMENTS]).chain([MORE_FRAGMENTS]);
            for piece in pieces {
                let piece = header(reserved | other | piece);
                assert!(is_fragment(&piece) && !may_be_cut(&piece), "{:#x} {:#x}", piece[6], piece[7]);
            }
        }
    }
}
