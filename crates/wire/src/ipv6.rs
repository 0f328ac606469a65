//! The chain of IPv6 extension headers (RFC 8200 section 4).
//!
//! [`walk`] is for the slow path: it goes over everything between the fixed header and the transport header once,
//! bounded in headers and options, and says what a router needs to judge the packet. Options other than hop-by-hop
//! are those of the hosts and not looked into.

use core::fmt;
use core::iter::FusedIterator;

use zerocopy::FromBytes;

use crate::network::{Ipv6Extension, Ipv6Fragment};
use crate::protocol;

/// Most extension headers that [`walk`] passes. RFC 8200 section 4.1 names seven places, each used once.
pub const MAX_HEADERS: usize = 8;

/// Most hop-by-hop options that [`walk`] reads, padding included (RFC 8504 section 5.3 lets a node set such limits).
pub const MAX_OPTIONS: usize = 32;

/// Types of options in hop-by-hop and destination options headers (IANA "destination options and hop-by-hop options").
pub mod option {
    /// One byte of padding, without length (RFC 8200 section 4.2).
    pub const PAD1: u8 = 0x00;
    /// Padding of two and more bytes (RFC 8200 section 4.2).
    pub const PADN: u8 = 0x01;
    /// Router alert (RFC 2711).
    pub const ROUTER_ALERT: u8 = 0x05;
    /// Jumbo payload (RFC 2675).
    pub const JUMBO: u8 = 0xc2;
}

/// What stands between the fixed header and the upper layer. Offsets are bytes after the end of the fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Protocol of the upper layer ([`crate::protocol`]). In a fragment that is not the first one it is what the
    /// fragmentable part begins with, which may be an extension header and is not in this packet.
    pub protocol: u8,
    /// Where the upper layer begins; at most the length of the bytes walked, which leaves room for nothing.
    pub offset: usize,
    /// Hop-by-hop options, if there are any.
    pub hop_by_hop: Option<HopByHop>,
    /// The last routing header, if there is one.
    pub routing: Option<Routing>,
    /// There is a routing header of type 0, deprecated for the attacks it makes possible (RFC 5095).
    pub routing_type0: bool,
    /// The fragment header, if there is one.
    pub fragment: Option<Fragment>,
    /// There is an authentication header (RFC 4302): a rewritten packet will fail at the receiver.
    pub authenticated: bool,
}

/// What a hop-by-hop options header asks of a router (RFC 8200 section 4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopByHop {
    /// Value of a router alert option: 0 for MLD, 1 for RSVP (RFC 2711 section 2.1).
    pub router_alert: Option<u16>,
    /// Payload length of a jumbogram in bytes (RFC 2675 section 2).
    pub jumbo: Option<u32>,
    /// The first option of unknown type that must not simply be skipped.
    pub unknown: Option<UnknownOption>,
}

/// An option whose type says that a node that does not know it shall discard the packet (RFC 8200 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownOption {
    /// Type of the option.
    pub kind: u8,
    /// Where the option begins: with 40 added, the pointer of the ICMPv6 parameter problem.
    pub offset: usize,
}

impl UnknownOption {
    /// What shall happen to the packet.
    #[inline]
    pub const fn action(&self) -> UnknownAction {
        UnknownAction::of(self.kind)
    }
}

/// The action in the two highest bits of an option type (RFC 8200 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownAction {
    /// 00: pass over the option.
    Skip,
    /// 01: discard silently.
    Discard,
    /// 10: discard and send a parameter problem with code 2.
    DiscardReport,
    /// 11: the same, unless the destination is a multicast address.
    DiscardReportUnicast,
}

impl UnknownAction {
    /// The action for options of type `kind`.
    #[inline]
    pub const fn of(kind: u8) -> Self {
        match kind >> 6 {
            0 => Self::Skip,
            1 => Self::Discard,
            2 => Self::DiscardReport,
            _ => Self::DiscardReportUnicast,
        }
    }
}

/// A routing header (RFC 8200 section 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Routing type.
    pub kind: u8,
    /// Nodes still to be visited; above zero, the destination of the fixed header is not the final one.
    pub segments_left: u8,
    /// Where the header begins.
    pub header: usize,
}

/// A fragment header (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Where the header begins: everything before it is in every fragment. The bytes of the fragment follow 8 on.
    pub header: usize,
    /// Protocol or extension header that the fragmentable part begins with.
    pub next_header: u8,
    /// Place of these bytes within the fragmentable part, in bytes.
    pub offset: usize,
    /// More fragments follow.
    pub more: bool,
    /// Names the original packet, together with its addresses.
    pub identification: u32,
}

impl Fragment {
    /// True if the packet is whole in spite of its fragment header (RFC 6946).
    #[inline]
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }

    /// True if the upper layer begins in this packet.
    #[inline]
    pub const fn is_first(&self) -> bool {
        self.offset == 0
    }
}

/// Why a chain cannot be followed. Offsets are bytes after the end of the fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// The packet ends within an extension header.
    Truncated {
        /// Which header ([`crate::protocol`]).
        header: u8,
        /// Where it begins.
        offset: usize,
    },
    /// The same in a first fragment: the chain goes on in the next one, which RFC 7112 forbids. Answered by an ICMPv6
    /// parameter problem with code 3 if at all.
    SplitAcrossFragments {
        /// Which header ([`crate::protocol`]).
        header: u8,
        /// Where it begins.
        offset: usize,
    },
    /// Hop-by-hop options after another extension header (RFC 8200 section 4.1).
    HopByHopNotFirst {
        /// Where the header begins.
        offset: usize,
    },
    /// A second fragment header; no node that conforms makes one.
    RepeatedFragment {
        /// Where the header begins.
        offset: usize,
    },
    /// A hop-by-hop option goes beyond its header or has a length that its type may not have.
    Option {
        /// Type of the option.
        kind: u8,
        /// Where the option begins.
        offset: usize,
    },
    /// More than [`MAX_OPTIONS`] hop-by-hop options.
    TooManyOptions,
    /// More than [`MAX_HEADERS`] extension headers.
    TooManyHeaders,
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { header, offset } => {
                write!(f, "the packet ends within extension header {header} at byte {offset}")
            }
            Self::SplitAcrossFragments { header, offset } => {
                write!(f, "the first fragment ends within extension header {header} at byte {offset}")
            }
            Self::HopByHopNotFirst { offset } => {
                write!(f, "hop-by-hop options at byte {offset} come after another extension header")
            }
            Self::RepeatedFragment { offset } => write!(f, "there is a second fragment header at byte {offset}"),
            Self::Option { kind, offset } => write!(f, "hop-by-hop option {kind} at byte {offset} is malformed"),
            Self::TooManyOptions => write!(f, "there are more than {MAX_OPTIONS} hop-by-hop options"),
            Self::TooManyHeaders => write!(f, "there are more than {MAX_HEADERS} extension headers"),
        }
    }
}

impl core::error::Error for ChainError {}

/// Follows the chain of extension headers.
///
/// `bytes` are those of the packet after the fixed header (cut to its payload length), `next_header` is the field of
/// the fixed header. The walk ends at whatever is not one of hop-by-hop options, routing, fragment, authentication and
/// destination options: ESP, because what follows is encrypted; "no next header"; and mobility, HIP and shim6, which
/// have the form of extension headers but are the end of the chain in practice and what a rule wants to see.
///
/// # Errors
///
/// [`ChainError`] for a packet that a router has to drop.
pub fn walk(bytes: &[u8], next_header: u8) -> Result<Chain, ChainError> {
    let mut chain = Chain {
        protocol: next_header,
        offset: 0,
        hop_by_hop: None,
        routing: None,
        routing_type0: false,
        fragment: None,
        authenticated: false,
    };
    for _ in 0..=MAX_HEADERS {
        if !step(bytes, &mut chain)? {
            return Ok(chain);
        }
    }
    Err(ChainError::TooManyHeaders)
}

/// Passes the header that `chain` stands at. False if it is the end of the chain.
fn step(bytes: &[u8], chain: &mut Chain) -> Result<bool, ChainError> {
    let (header, offset) = (chain.protocol, chain.offset);
    let truncated = if chain.fragment.is_some_and(|fragment| fragment.more) {
        ChainError::SplitAcrossFragments { header, offset }
    } else {
        ChainError::Truncated { header, offset }
    };
    let rest = bytes.get(offset..).ok_or(truncated)?;
    let extension = || Ipv6Extension::read_from_prefix(rest).map(|(extension, _)| extension).map_err(|_| truncated);
    let (next_header, length) = match header {
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
            let extension = extension()?;
            (extension.next_header, extension.header_len())
        }
        // The one extension header that counts in units of 4 bytes and less two (RFC 4302 section 2.2).
        protocol::AH => {
            let extension = extension()?;
            (extension.next_header, (usize::from(extension.length) + 2) * 4)
        }
        protocol::FRAGMENT => (extension()?.next_header, Ipv6Fragment::LEN),
        _ => return Ok(false),
    };
    let whole = rest.get(..length).ok_or(truncated)?;
    match header {
        protocol::HOP_BY_HOP if offset != 0 => return Err(ChainError::HopByHopNotFirst { offset }),
        protocol::HOP_BY_HOP => chain.hop_by_hop = Some(hop_by_hop(whole, offset)?),
        protocol::ROUTING => {
            if let [_, _, kind, segments_left, ..] = *whole {
                chain.routing = Some(Routing { kind, segments_left, header: offset });
                chain.routing_type0 |= kind == 0;
            }
        }
        protocol::FRAGMENT => {
            if chain.fragment.is_some() {
                return Err(ChainError::RepeatedFragment { offset });
            }
            let fragment = Ipv6Fragment::read_from_bytes(whole).map_err(|_| truncated)?;
            chain.fragment = Some(Fragment {
                header: offset,
                next_header,
                offset: fragment.fragment_offset(),
                more: fragment.more_fragments(),
                identification: fragment.identification.get(),
            });
        }
        protocol::AH => chain.authenticated = true,
        _ => {}
    }
    chain.protocol = next_header;
    chain.offset = offset + length;
    // The rest of a later fragment is the middle of something.
    Ok(chain.fragment.is_none_or(|fragment| fragment.is_first()))
}

/// Reads the options of a whole hop-by-hop header that begins at `offset`.
fn hop_by_hop(header: &[u8], offset: usize) -> Result<HopByHop, ChainError> {
    let mut found = HopByHop::default();
    for (count, option) in Ipv6Options::new(header.get(Ipv6Extension::LEN..).unwrap_or_default()).enumerate() {
        if count == MAX_OPTIONS {
            return Err(ChainError::TooManyOptions);
        }
        let at = |place: usize| offset + Ipv6Extension::LEN + place;
        let option = option.map_err(|error| ChainError::Option { kind: error.kind, offset: at(error.offset) })?;
        let malformed = ChainError::Option { kind: option.kind, offset: at(option.offset) };
        match (option.kind, option.data) {
            (option::PAD1 | option::PADN, _) => {}
            (option::ROUTER_ALERT, &[a, b]) => found.router_alert = Some(u16::from_be_bytes([a, b])),
            (option::JUMBO, &[a, b, c, d]) => found.jumbo = Some(u32::from_be_bytes([a, b, c, d])),
            (option::ROUTER_ALERT | option::JUMBO, _) => return Err(malformed),
            (kind, _) if UnknownAction::of(kind) == UnknownAction::Skip => {}
            (kind, _) => {
                let unknown = UnknownOption { kind, offset: at(option.offset) };
                found.unknown = found.unknown.or(Some(unknown));
            }
        }
    }
    Ok(found)
}

/// One option of a hop-by-hop or destination options header (RFC 8200 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Option<'a> {
    /// Where the option begins, in bytes from the start of the options (2 after that of the header).
    pub offset: usize,
    /// Type: see [`mod@option`].
    pub kind: u8,
    /// What follows type and length.
    pub data: &'a [u8],
}

/// An option that goes beyond its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6OptionError {
    /// Where the option begins, in bytes from the start of the options.
    pub offset: usize,
    /// Type of the option.
    pub kind: u8,
}

impl fmt::Display for Ipv6OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, offset } = self;
        write!(f, "option {kind} at byte {offset} goes beyond its header")
    }
}

impl core::error::Error for Ipv6OptionError {}

/// The options of a hop-by-hop or destination options header, padding included; an error is the last item.
#[derive(Clone, Debug)]
pub struct Ipv6Options<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Ipv6Options<'a> {
    /// Walks `bytes`: those of the header after its first 2.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }
}

impl<'a> Iterator for Ipv6Options<'a> {
    type Item = Result<Ipv6Option<'a>, Ipv6OptionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.offset;
        let (&kind, after) = self.rest.split_first()?;
        if kind == option::PAD1 {
            self.rest = after;
            self.offset += 1;
            return Some(Ok(Ipv6Option { offset, kind, data: &[] }));
        }
        let split = after.split_first().and_then(|(&length, after)| after.split_at_checked(usize::from(length)));
        let Some((data, rest)) = split else {
            self.rest = &[];
            return Some(Err(Ipv6OptionError { offset, kind }));
        };
        self.rest = rest;
        self.offset += data.len() + 2;
        Some(Ok(Ipv6Option { offset, kind, data }))
    }
}

impl FusedIterator for Ipv6Options<'_> {}
