//! Routes and times that routers record in IPv4 options (RFC 791 section 3.1, RFC 1812 section 5.3.13).

use crate::options::{Ipv4Option, Ipv4Options, ipv4_option};

/// What a router says of itself.
pub trait Recorder {
    /// Its address on the link that the packet leaves by.
    fn address(&self) -> [u8; 4];
    /// Whether an address is one of its own.
    fn is_own(&self, address: [u8; 4]) -> bool;
    /// Milliseconds since midnight UT, or, with the highest bit set, of any other clock.
    fn time(&self) -> u32;
}

/// Kinds of internet timestamps: what a slot of the option holds.
mod slots {
    /// A time.
    pub(super) const TIMES: u8 = 0;
    /// An address and a time.
    pub(super) const ADDRESSES: u8 = 1;
    /// An address that the sender has chosen, and room for the time of whose it is.
    pub(super) const CHOSEN: u8 = 3;
}

/// What is to be done with an option.
#[derive(Clone, Copy)]
enum Entry {
    /// Its slots are full.
    Full,
    /// They are full, and the next router that found no room is counted.
    Overflow,
    /// The next slot begins here, in bytes from the start of the option.
    At(usize),
}

/// Finds the next slot of an option to record in.
///
/// # Errors
/// Where in the option the fault is, in bytes from its start (RFC 791: it has no pointer, or no kind; the pointer is short
/// of the first slot; the room that is left holds no whole slot; the count of those without one is at its end; a kind of timestamp that is none).
fn entry(option: &Ipv4Option<'_>) -> Result<Entry, usize> {
    let (first, slot) = match option.kind {
        ipv4_option::RECORD_ROUTE if option.data.is_empty() => return Err(1),
        ipv4_option::RECORD_ROUTE => (4, 4),
        _ if option.data.len() < 2 => return Err(1),
        _ => match option.data.get(1).map(|flags| flags & 0xf) {
            Some(slots::TIMES) => (5, 4),
            Some(slots::ADDRESSES | slots::CHOSEN) => (5, 8),
            _ => return Err(3),
        },
    };
    let length = option.data.len() + 2;
    let pointer = option.data.first().map_or(0, |pointer| usize::from(*pointer));
    if pointer < first {
        return Err(2);
    }
    if pointer <= length {
        return if pointer + slot - 1 <= length { Ok(Entry::At(pointer - 1)) } else { Err(2) };
    }
    match option.data.get(1) {
        _ if option.kind == ipv4_option::RECORD_ROUTE => Ok(Entry::Full),
        Some(flags) if flags & 0xf == slots::CHOSEN => Ok(Entry::Full),
        Some(flags) if flags >> 4 < 15 => Ok(Entry::Overflow),
        _ => Err(3),
    }
}

/// Whether something can be recorded in an option, or it is full.
///
/// # Errors
/// Where in the option the fault is, in bytes from its start.
pub fn check(option: &Ipv4Option<'_>) -> Result<(), usize> {
    entry(option).map(|_| ())
}

/// Records a hop in the options of an IPv4 header (its bytes after the first 20) whose kind `wanted` names; tells
/// whether anything was changed. Options with faults stay as they are.
pub fn record(options: &mut [u8], wanted: impl Fn(u8) -> bool, hop: &impl Recorder) -> bool {
    let mut changed = false;
    // At most two kinds are ever recorded, each where it stands first.
    for kind in [ipv4_option::RECORD_ROUTE, ipv4_option::TIMESTAMP].into_iter().filter(|kind| wanted(*kind)) {
        let found = Ipv4Options::new(options).map_while(Result::ok).find(|option| option.kind == kind);
        let Some((at, entry)) = found.and_then(|option| Some((option.offset, entry(&option).ok()?))) else { continue };
        let bytes = options.get_mut(at..).unwrap_or_default();
        changed |= write(bytes, kind, entry, hop).is_some();
    }
    changed
}

/// Writes an entry into an option; `None` if there is nothing to write.
fn write(option: &mut [u8], kind: u8, entry: Entry, hop: &impl Recorder) -> Option<()> {
    let at = match entry {
        Entry::Full => return None,
        Entry::Overflow => {
            *option.get_mut(3)? += 1 << 4;
            return Some(());
        }
        Entry::At(at) => at,
    };
    let time = hop.time().to_be_bytes();
    let flags = option.get(3)? & 0xf;
    let slot = option.get_mut(at..)?;
    let length = if kind == ipv4_option::RECORD_ROUTE {
        *slot.first_chunk_mut()? = hop.address();
        4
    } else if flags == slots::TIMES {
        *slot.first_chunk_mut()? = time;
        4
    } else {
        let (address, rest) = slot.split_first_chunk_mut()?;
        if flags == slots::ADDRESSES {
            *address = hop.address();
        } else if !hop.is_own(*address) {
            return None;
        }
        *rest.first_chunk_mut()? = time;
        8
    };
    *option.get_mut(2)? += length;
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    struct Router;

    impl Recorder for Router {
        fn address(&self) -> [u8; 4] {
            [192, 0, 2, 1]
        }

        fn is_own(&self, address: [u8; 4]) -> bool {
            address == [192, 0, 2, 1] || address == [198, 51, 100, 1]
        }

        fn time(&self) -> u32 {
            0x8000_0007
        }
    }

    fn recorded(options: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = options.to_vec();
        record(&mut bytes, |_| true, &Router).then_some(bytes)
    }

    fn fault(options: &[u8]) -> Option<usize> {
        Ipv4Options::new(options).map(Result::unwrap).find_map(|option| check(&option).err())
    }

    #[test]
    fn a_route_is_recorded_until_it_is_full() {
        // RFC 791 section 3.1, "Record Route".
        let once = recorded(&[1, 7, 11, 4, 0, 0, 0, 0, 9, 9, 9, 9]).unwrap();
        assert_eq!(once, [1, 7, 11, 8, 192, 0, 2, 1, 9, 9, 9, 9]);
        let twice = recorded(&once).unwrap();
        assert_eq!(twice, [1, 7, 11, 12, 192, 0, 2, 1, 192, 0, 2, 1]);
        assert_eq!((recorded(&twice), fault(&twice)), (None, None), "full");
        assert_eq!(fault(&[7, 7, 3, 0, 0, 0, 0]), Some(2), "short of the first slot");
        assert_eq!(fault(&[7, 7, 5, 0, 0, 0, 0]), Some(2), "no whole slot");
        assert_eq!(recorded(&[7, 7, 5, 0, 0, 0, 0]), None);
        for short in [&[7, 2][..], &[68, 2], &[68, 3, 5]] {
            assert_eq!(fault(short), Some(1), "too short for what it has to hold");
        }
    }

    #[test]
    fn times_are_recorded_as_their_kind_says() {
        // RFC 791 section 3.1, "Internet Timestamp"; RFC 1812 section 5.3.13.6.
        assert_eq!(recorded(&[68, 8, 5, 0x20, 0, 0, 0, 0]).unwrap(), [68, 8, 9, 0x20, 0x80, 0, 0, 7]);
        let both = recorded(&[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(both, [68, 12, 13, 1, 192, 0, 2, 1, 0x80, 0, 0, 7]);
        let chosen = recorded(&[68, 12, 5, 3, 198, 51, 100, 1, 0, 0, 0, 0]).unwrap();
        assert_eq!(chosen, [68, 12, 13, 3, 198, 51, 100, 1, 0x80, 0, 0, 7]);
        assert_eq!(recorded(&[68, 12, 5, 3, 198, 51, 100, 2, 0, 0, 0, 0]), None, "another's turn");
        assert_eq!(recorded(&[68, 8, 9, 0xe0, 1, 2, 3, 4]).unwrap(), [68, 8, 9, 0xf0, 1, 2, 3, 4], "no room: counted");
        assert_eq!(fault(&[68, 8, 9, 0xf0, 1, 2, 3, 4]), Some(3), "the count is at its end");
        assert_eq!((recorded(&chosen), fault(&chosen)), (None, None), "all chosen had their turn");
        for (options, at) in
            [([68, 8, 5, 2, 0, 0, 0, 0], 3), ([68, 8, 5, 1, 0, 0, 0, 0], 2), ([68, 8, 4, 0, 0, 0, 0, 0], 2)]
        {
            assert_eq!(fault(&options), Some(at), "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn lengths_and_kinds_stay(bytes in prop::collection::vec(prop_oneof![0u8..12, Just(68), any::<u8>()], 0..41)) {
            let mut after = bytes.clone();
            record(&mut after, |_| true, &Router);
            let shape = |bytes: &[u8]| {
                Ipv4Options::new(bytes).map(|option| option.map(|option| (option.offset, option.kind, option.data.len()))).collect::<Vec<_>>()
            };
            prop_assert_eq!(shape(&bytes), shape(&after));
        }
    }
}
