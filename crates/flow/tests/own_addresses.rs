//! How the box's own addresses are marked for the programs in the kernel (checklist A4).

use flowhop_flow::record::{PORT_MAPS, local_flags};

// The word of an address is these flags and, in its low half, the number of its bitmap, or one that no bitmap has.
#[test]
fn flags_of_an_address_leave_room_for_the_number_of_its_bitmap() {
    let flags = [local_flags::TRANSLATED, local_flags::ECHO, local_flags::OTHERS];
    for (n, flag) in flags.into_iter().enumerate() {
        assert_eq!(flag.count_ones(), 1);
        assert!(flag > 0xffff, "{flag:#x} is a number");
        assert!(!flags[..n].contains(&flag));
    }
    const { assert!(PORT_MAPS < 0xffff) };
}
