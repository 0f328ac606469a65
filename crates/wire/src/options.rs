//! Options of IPv4 and TCP headers.
//!
//! Both iterators take the bytes between fixed header and payload, skip padding ("no operation"), end at "end of
//! options", and report the first malformed option as their last item: what follows it cannot be made out.

use core::fmt;
use core::iter::FusedIterator;

/// Why an option cannot be read. Offsets are bytes from the start of the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// The options end before the length byte of this one.
    Truncated {
        /// Kind of the option.
        kind: u8,
        /// Where the option begins.
        offset: usize,
    },
    /// The length byte leaves the options, does not even cover itself, or is not one that this kind may have.
    Length {
        /// Kind of the option.
        kind: u8,
        /// Where the option begins.
        offset: usize,
        /// What the length byte says.
        length: u8,
    },
}

impl OptionError {
    /// Where the fault is, in bytes from the start of the options: the length byte, or the option that has none.
    #[must_use]
    pub const fn place(&self) -> usize {
        match self {
            Self::Truncated { offset, .. } => *offset,
            Self::Length { offset, .. } => *offset + 1,
        }
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { kind, offset } => write!(f, "option {kind} at byte {offset} has no length"),
            Self::Length { kind, offset, length } => {
                write!(f, "option {kind} at byte {offset} has an impossible length of {length} bytes")
            }
        }
    }
}

impl core::error::Error for OptionError {}

/// Kinds of IPv4 options, with the copied flag and class included (RFC 791 section 3.1, IANA "IP option numbers").
pub mod ipv4_option {
    /// End of the options.
    pub const END: u8 = 0;
    /// No operation.
    pub const NO_OPERATION: u8 = 1;
    /// Record route.
    pub const RECORD_ROUTE: u8 = 7;
    /// Internet timestamp.
    pub const TIMESTAMP: u8 = 68;
    /// Security (RFC 1108).
    pub const SECURITY: u8 = 130;
    /// Loose source and record route.
    pub const LOOSE_SOURCE_ROUTE: u8 = 131;
    /// Extended security (RFC 1108).
    pub const EXTENDED_SECURITY: u8 = 133;
    /// Commercial security (CIPSO).
    pub const COMMERCIAL_SECURITY: u8 = 134;
    /// Strict source and record route.
    pub const STRICT_SOURCE_ROUTE: u8 = 137;
    /// Router alert (RFC 2113).
    pub const ROUTER_ALERT: u8 = 148;
}

/// One IPv4 option (RFC 791 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Option<'a> {
    /// Where the option begins, in bytes from the start of the options.
    pub offset: usize,
    /// Copied flag, class and number: see [`ipv4_option`].
    pub kind: u8,
    /// What follows kind and length.
    pub data: &'a [u8],
}

impl Ipv4Option<'_> {
    /// True if every fragment carries the option.
    #[inline]
    pub const fn is_copied(&self) -> bool {
        self.kind & 0x80 != 0
    }

    /// True for the options that RFC 7126 sections 4.6, 4.9 to 4.11 and 4.15 to 4.20 have dropped: stream identifier, probe
    /// and reply MTU, traceroute, experimental access control, extended internet protocol, address extension, sender
    /// directed delivery, dynamic packet state, upstream multicast.
    #[inline]
    pub const fn is_obsolete(&self) -> bool {
        matches!(self.kind, 11 | 12 | 82 | 136 | 142 | 145 | 147 | 149 | 151 | 152)
    }

    /// True for options for experiments (RFC 4727 section 3.1, RFC 7126 section 4.22).
    #[inline]
    pub const fn is_experimental(&self) -> bool {
        matches!(self.kind, 30 | 94 | 158 | 222)
    }

    /// True for a loose or strict source route (RFC 7126 sections 4.3, 4.4).
    #[inline]
    pub const fn is_source_route(&self) -> bool {
        matches!(self.kind, ipv4_option::LOOSE_SOURCE_ROUTE | ipv4_option::STRICT_SOURCE_ROUTE)
    }
}

/// The options of an IPv4 header.
#[derive(Clone, Debug)]
pub struct Ipv4Options<'a>(Raw<'a>);

impl<'a> Ipv4Options<'a> {
    /// Walks `bytes`: those of the header after its first 20.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(Raw::new(bytes))
    }
}

impl<'a> Iterator for Ipv4Options<'a> {
    type Item = Result<Ipv4Option<'a>, OptionError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl FusedIterator for Ipv4Options<'_> {}

/// Kinds of TCP options (IANA "TCP option kind numbers").
pub mod tcp_option {
    /// End of the options.
    pub const END: u8 = 0;
    /// No operation.
    pub const NO_OPERATION: u8 = 1;
    /// Maximum segment size.
    pub const MSS: u8 = 2;
    /// Window scale.
    pub const WINDOW_SCALE: u8 = 3;
    /// Selective acknowledgment permitted.
    pub const SACK_PERMITTED: u8 = 4;
    /// Selective acknowledgment.
    pub const SACK: u8 = 5;
    /// Timestamps.
    pub const TIMESTAMPS: u8 = 8;
    /// Authentication (RFC 5925).
    pub const AUTHENTICATION: u8 = 29;
    /// Fast open cookie (RFC 7413).
    pub const FAST_OPEN: u8 = 34;
}

/// One TCP option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOption<'a> {
    /// Largest segment in bytes that the sender takes (RFC 9293 section 3.2).
    Mss(u16),
    /// Shift of the sender's window as it stands in the segment; above 14 it counts as 14 (RFC 7323 section 2.3).
    WindowScale(u8),
    /// The sender understands selective acknowledgments (RFC 2018 section 2).
    SackPermitted,
    /// Blocks that the sender has received (RFC 2018 section 3).
    Sack(SackRanges<'a>),
    /// Timestamps of both ends (RFC 7323 section 3.2).
    Timestamps {
        /// Clock of the sender (`TSval`).
        value: u32,
        /// Clock of the receiver as the sender saw it last (`TSecr`), if the segment has ACK.
        echo: u32,
    },
    /// Any other option.
    Other {
        /// See [`tcp_option`].
        kind: u8,
        /// What follows kind and length.
        data: &'a [u8],
    },
}

/// The blocks of a selective acknowledgment; at most four fit into a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SackRanges<'a>(&'a [[u8; 8]]);

impl<'a> SackRanges<'a> {
    /// First sequence number of each block, and the one after its last.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u32, u32)> + use<'a> {
        self.0.iter().map(|[a, b, c, d, e, f, g, h]| {
            (u32::from_be_bytes([*a, *b, *c, *d]), u32::from_be_bytes([*e, *f, *g, *h]))
        })
    }

    /// Number of blocks.
    #[inline]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is no block; the iterator reports such an option as malformed and never gives it.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The options of a TCP header.
#[derive(Clone, Debug)]
pub struct TcpOptions<'a> {
    raw: Raw<'a>,
    last: usize,
}

impl<'a> TcpOptions<'a> {
    /// Walks `bytes`: those of the header after its first 20.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { raw: Raw::new(bytes), last: 0 }
    }

    /// Where the option that was given last begins, in bytes from the start of the options. A value stands 2 bytes
    /// further on; whoever rewrites it needs this.
    #[inline]
    pub const fn offset(&self) -> usize {
        self.last
    }
}

impl<'a> Iterator for TcpOptions<'a> {
    type Item = Result<TcpOption<'a>, OptionError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let option = match self.raw.next()? {
            Ok(option) => option,
            Err(error) => return Some(Err(error)),
        };
        self.last = option.offset;
        let known = tcp(option.kind, option.data);
        if known.is_none() {
            self.raw.stop();
        }
        Some(known.ok_or(OptionError::Length {
            kind: option.kind,
            offset: option.offset,
            length: (option.data.len() + 2) as u8,
        }))
    }
}

impl FusedIterator for TcpOptions<'_> {}

/// The meaning of one TCP option, or `None` if its length is not one that the kind may have.
#[inline]
fn tcp(kind: u8, data: &[u8]) -> Option<TcpOption<'_>> {
    match (kind, data) {
        (tcp_option::MSS, &[a, b]) => Some(TcpOption::Mss(u16::from_be_bytes([a, b]))),
        (tcp_option::WINDOW_SCALE, &[shift]) => Some(TcpOption::WindowScale(shift)),
        (tcp_option::SACK_PERMITTED, []) => Some(TcpOption::SackPermitted),
        (tcp_option::SACK, data) => match data.as_chunks::<8>() {
            ([], _) => None,
            (blocks, []) => Some(TcpOption::Sack(SackRanges(blocks))),
            _ => None,
        },
        (tcp_option::TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => Some(TcpOption::Timestamps {
            value: u32::from_be_bytes([a, b, c, d]),
            echo: u32::from_be_bytes([e, f, g, h]),
        }),
        (tcp_option::MSS..=tcp_option::SACK_PERMITTED | tcp_option::TIMESTAMPS, _) => None,
        _ => Some(TcpOption::Other { kind, data }),
    }
}

/// The form that IPv4 and TCP options have in common: END and NO_OPERATION alone, everything else with a length.
#[derive(Clone, Debug)]
struct Raw<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Raw<'a> {
    #[inline]
    const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    #[inline]
    fn stop(&mut self) {
        self.rest = &[];
    }

    #[inline]
    fn next(&mut self) -> Option<Result<Ipv4Option<'a>, OptionError>> {
        loop {
            let (&kind, after) = self.rest.split_first()?;
            let offset = self.offset;
            match kind {
                0 => {
                    self.stop();
                    return None;
                }
                1 => {
                    self.rest = after;
                    self.offset += 1;
                }
                _ => {
                    let Some((&length, after)) = after.split_first() else {
                        self.stop();
                        return Some(Err(OptionError::Truncated { kind, offset }));
                    };
                    let split = usize::from(length).checked_sub(2).and_then(|size| after.split_at_checked(size));
                    let Some((data, rest)) = split else {
                        self.stop();
                        return Some(Err(OptionError::Length { kind, offset, length }));
                    };
                    self.rest = rest;
                    self.offset += usize::from(length);
                    return Some(Ok(Ipv4Option { offset, kind, data }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn tcp_list(bytes: &[u8]) -> Vec<Result<TcpOption<'_>, OptionError>> {
        TcpOptions::new(bytes).collect()
    }

    #[test]
    fn options_of_a_usual_syn() {
        let bytes = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7];
        assert_eq!(
            tcp_list(&bytes),
            [
                Ok(TcpOption::Mss(1460)),
                Ok(TcpOption::SackPermitted),
                Ok(TcpOption::Timestamps { value: 1, echo: 2 }),
                Ok(TcpOption::WindowScale(7)),
            ]
        );
        let mut options = TcpOptions::new(&bytes);
        let offsets: Vec<_> = core::iter::from_fn(|| options.next().map(|_| options.offset())).collect();
        assert_eq!(offsets, [0, 4, 6, 17]);
    }

    #[test]
    fn selective_acknowledgment_has_whole_blocks() {
        // RFC 2018 section 3: length 8n + 2.
        let bytes = [5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4];
        let Some(Ok(TcpOption::Sack(ranges))) = TcpOptions::new(&bytes).next() else { panic!("no ranges") };
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(1, 2), (3, 4)]);
        assert_eq!(ranges.len(), 2);
        assert!(!ranges.is_empty());
        assert_eq!(tcp_list(&[5, 2, 2, 4, 0, 1]), [Err(OptionError::Length { kind: 5, offset: 0, length: 2 })]);
        assert_eq!(tcp_list(&[5, 6, 0, 0, 0, 1]), [Err(OptionError::Length { kind: 5, offset: 0, length: 6 })]);
    }

    #[test]
    fn impossible_lengths_end_the_walk() {
        // RFC 9293 section 3.1 MUST-7: illegal option lengths must not crash.
        let of = |length| OptionError::Length { kind: 2, offset: 1, length };
        assert_eq!(tcp_list(&[1, 2, 0, 1, 1]), [Err(of(0))]);
        assert_eq!(tcp_list(&[1, 2, 1, 1, 1]), [Err(of(1))]);
        assert_eq!(tcp_list(&[1, 2, 5, 1, 1]), [Err(of(5))]);
        assert_eq!(tcp_list(&[1, 2, 3, 1, 4, 2]), [Err(of(3))]);
        assert_eq!(tcp_list(&[1, 2]), [Err(OptionError::Truncated { kind: 2, offset: 1 })]);
        for kind in [3, 4, 8] {
            assert_eq!(tcp_list(&[kind, 5, 0, 0, 0]), [Err(OptionError::Length { kind, offset: 0, length: 5 })]);
        }
    }

    #[test]
    fn nothing_is_read_after_the_end() {
        assert_eq!(tcp_list(&[0, 2, 0]), []);
        assert_eq!(tcp_list(&[]), []);
        assert_eq!(tcp_list(&[254, 3, 9, 0]), [Ok(TcpOption::Other { kind: 254, data: &[9] })]);
    }

    #[test]
    fn router_alert_and_source_route() {
        // RFC 2113 section 2.1; RFC 791 section 3.1.
        let bytes = [148, 4, 0, 0, 1, 131, 7, 4, 10, 0, 0, 1];
        let options: Vec<_> = Ipv4Options::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(options[0], Ipv4Option { offset: 0, kind: ipv4_option::ROUTER_ALERT, data: &[0, 0] });
        assert_eq!(options[1], Ipv4Option { offset: 5, kind: 131, data: &[4, 10, 0, 0, 1] });
        assert!(options[0].is_copied() && !options[0].is_source_route() && options[1].is_source_route());
        let error = Ipv4Options::new(&[7, 3]).next().unwrap().unwrap_err();
        assert_eq!(std::format!("{error}"), "option 7 at byte 0 has an impossible length of 3 bytes");
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_in_bounds(bytes in prop::collection::vec(prop_oneof![0u8..12, any::<u8>()], 0..64)) {
            let mut errors = 0;
            for option in Ipv4Options::new(&bytes) {
                prop_assert_eq!(errors, 0, "an item after an error");
                match option {
                    Ok(option) => prop_assert_eq!(bytes.get(option.offset), Some(&option.kind)),
                    Err(_) => errors += 1,
                }
            }
            let tcp = tcp_list(&bytes);
            let errors = tcp.iter().rev().skip(1).filter(|item| item.is_err()).count();
            prop_assert_eq!(errors, 0);
        }
    }
}
