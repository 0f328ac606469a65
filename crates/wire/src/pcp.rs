//! Messages of the Port Control Protocol (RFC 6887): requests read from untrusted bytes, responses written.
//!
//! [`request`] says in one go what of a datagram can be read, and else how it is refused; what an operation means is not
//! known here.

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where servers listen (section 19.1).
pub const SERVER_PORT: u16 = 5351;
/// Where clients listen for what was not asked for.
pub const CLIENT_PORT: u16 = 5350;
/// The version that is spoken.
pub const VERSION: u8 = 2;
/// Longest message in bytes (section 7).
pub const MAX_LEN: usize = 1100;
/// Set in the second byte of responses.
const RESPONSE: u8 = 0x80;
/// Where the last 96 bits of the client's address are in a request, and reserved ones in a response.
const COPIED: core::ops::Range<usize> = 12..24;

/// Operations (section 19.2).
pub mod opcode {
    /// Asks, or tells, whether the server has lost its state (section 14.1).
    pub const ANNOUNCE: u8 = 0;
    /// Makes, prolongs or deletes an inbound mapping (section 11).
    pub const MAP: u8 = 1;
    /// Makes or prolongs an outbound mapping to one peer (section 12).
    pub const PEER: u8 = 2;
}

/// Options (section 13). Below 128 it is mandatory to process one.
pub mod option {
    /// The mapping is another host's.
    pub const THIRD_PARTY: u8 = 1;
    /// No other external endpoint than the one that is suggested.
    pub const PREFER_FAILURE: u8 = 2;
    /// Who may send to the mapping.
    pub const FILTER: u8 = 3;
    /// The first one that may be ignored.
    pub const OPTIONAL: u8 = 128;
}

/// Result codes (section 7.4).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultCode {
    /// Done.
    Success = 0,
    /// The version is not spoken.
    UnsupportedVersion = 1,
    /// The client may not do that.
    NotAuthorized = 2,
    /// The request cannot be read.
    MalformedRequest = 3,
    /// The operation is not known.
    UnsupportedOpcode = 4,
    /// An option that is mandatory to process is not known, or not allowed.
    UnsupportedOption = 5,
    /// An option cannot be read, or is where it makes no sense.
    MalformedOption = 6,
    /// There is no external address.
    NetworkFailure = 7,
    /// There is no room.
    NoResources = 8,
    /// The protocol cannot be mapped.
    UnsupportedProtocol = 9,
    /// The subscriber has as many mappings as it may have.
    UserExceedsQuota = 10,
    /// The external endpoint that the client insists on is not to be had.
    CannotProvideExternal = 11,
    /// The request came from another address than the one it names.
    AddressMismatch = 12,
    /// There is no room for so many filters.
    ExcessiveRemotePeers = 13,
}

impl ResultCode {
    /// How long the client should take it that the same request gets the same answer, in seconds.
    #[must_use]
    pub const fn lifetime(self) -> u32 {
        match self {
            Self::NetworkFailure | Self::NoResources | Self::UserExceedsQuota | Self::CannotProvideExternal => 30,
            _ => 30 * 60,
        }
    }
}

/// What every request begins with (section 7.1).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RequestHeader {
    /// See [`VERSION`].
    pub version: u8,
    /// The high bit is clear; the others are one of [`opcode`].
    pub opcode: u8,
    /// Reserved.
    pub reserved: U16,
    /// Lifetime that is asked for, in seconds.
    pub lifetime: U32,
    /// The client's own address; of IPv4 the mapped one.
    pub client: [u8; 16],
}

impl RequestHeader {
    /// Length in bytes.
    pub const LEN: usize = 24;

    /// As it lies in a message.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// What every response begins with (section 7.2).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ResponseHeader {
    /// See [`VERSION`].
    pub version: u8,
    /// The high bit is set; the others are the request's.
    pub opcode: u8,
    /// Reserved.
    pub reserved: u8,
    /// One of [`ResultCode`].
    pub result: u8,
    /// Lifetime of the mapping, or of the error, in seconds.
    pub lifetime: U32,
    /// Seconds since the server has lost its state.
    pub epoch: U32,
    /// Zeros, or bytes of a request that could not be read.
    pub copied: [u8; 12],
}

impl ResponseHeader {
    /// Length in bytes.
    pub const LEN: usize = 24;

    /// The header of a message, and what is behind it; `None` if it is too short.
    #[must_use]
    pub fn split(message: &[u8]) -> Option<(&Self, &[u8])> {
        Self::ref_from_prefix(message).ok()
    }
}

/// What MAP is about, in requests and responses (section 11.1); PEER begins with the same.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Map {
    /// Chosen by the client; whoever changes the mapping has to know it.
    pub nonce: [u8; 12],
    /// IP protocol; 0 = all.
    pub protocol: u8,
    /// Reserved.
    pub reserved: [u8; 3],
    /// Port of the host; 0 = all.
    pub internal_port: U16,
    /// External port that is suggested, or assigned.
    pub external_port: U16,
    /// External address that is suggested, or assigned; of IPv4 the mapped one.
    pub external_address: [u8; 16],
}

impl Map {
    /// Length in bytes.
    pub const LEN: usize = 36;

    /// What a message has behind its header, and its options; `None` if it is too short.
    #[must_use]
    pub fn split(bytes: &[u8]) -> Option<(&Self, &[u8])> {
        Self::ref_from_prefix(bytes).ok()
    }

    /// As it lies in a message.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Bytes that PEER has beside those of [`Map`] (section 12.1).
const PEER_MORE: usize = 20;

/// The option that says who may send to a mapping (section 13.3).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Filter {
    /// Reserved.
    pub reserved: u8,
    /// Bits of the address that count, of IPv4 96 more than in its own prefixes; 0 removes all filters.
    pub prefix_length: u8,
    /// Port of the peer; 0 = all.
    pub port: U16,
    /// Address of the peer; of IPv4 the mapped one.
    pub address: [u8; 16],
}

impl Filter {
    /// Length in bytes.
    pub const LEN: usize = 20;

    /// The filter in the data of an option; `None` if it has another length.
    #[must_use]
    pub fn of(data: &[u8]) -> Option<&Self> {
        Self::ref_from_bytes(data).ok()
    }

    /// As it lies in an option.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// An option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcpOption<'a> {
    /// One of [`option`], or another one.
    pub code: u8,
    /// What is in it, without padding.
    pub data: &'a [u8],
    /// All of it as it lies in the message.
    pub whole: &'a [u8],
}

/// The options of a message whose structure is known to be sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = PcpOption<'a>;

    fn next(&mut self) -> Option<PcpOption<'a>> {
        let (option, rest) = split_option(self.0)?;
        self.0 = rest;
        Some(option)
    }
}

/// The first option, and what is behind it; `None` if there is none, or it is cut off.
fn split_option(bytes: &[u8]) -> Option<(PcpOption<'_>, &[u8])> {
    let (&[code, _, high, low], behind) = bytes.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let data = behind.get(..length)?;
    let (whole, rest) = bytes.split_at_checked(4 + length.next_multiple_of(4))?;
    Some((PcpOption { code, data, whole }, rest))
}

/// Whether options fill some bytes.
fn is_sound(mut bytes: &[u8]) -> bool {
    while let Some((_, rest)) = split_option(bytes) {
        bytes = rest;
    }
    bytes.is_empty()
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// An answer.
    Announce,
    /// A mapping.
    Map(&'a Map),
}

/// A request that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its header.
    pub header: &'a RequestHeader,
    /// What it asks for.
    pub operation: Operation<'a>,
    /// Its options.
    pub options: Options<'a>,
}

/// Why there is no request to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// No answer is given: it is no request, or too short to be answered.
    Silent,
    /// It is answered with this.
    Refused(ResultCode),
}

/// Reads a request (section 8.2).
///
/// ```
/// use flowhop_wire::pcp::{self, Operation, ResultCode, Unread};
///
/// let mut announce = [0; 24];
/// announce[0] = pcp::VERSION;
/// assert_eq!(pcp::request(&announce)?.operation, Operation::Announce);
/// // What NAT-PMP (RFC 6886) asks for.
/// assert_eq!(pcp::request(&[0, 0]), Err(Unread::Refused(ResultCode::UnsupportedVersion)));
/// # Ok::<(), Unread>(())
/// ```
///
/// # Errors
/// How it is refused.
pub fn request(message: &[u8]) -> Result<Request<'_>, Unread> {
    let refused = |code| Err(Unread::Refused(code));
    let &[version, opcode, ..] = message else { return Err(Unread::Silent) };
    if opcode & RESPONSE != 0 {
        return Err(Unread::Silent);
    }
    if version != VERSION {
        return refused(ResultCode::UnsupportedVersion);
    }
    let Ok((header, rest)) = RequestHeader::ref_from_prefix(message) else { return Err(Unread::Silent) };
    if message.len() > MAX_LEN || !message.len().is_multiple_of(4) {
        return refused(ResultCode::MalformedRequest);
    }
    let (operation, options) = match opcode {
        opcode::ANNOUNCE => (Operation::Announce, rest),
        opcode::MAP => match Map::ref_from_prefix(rest) {
            Ok((map, options)) => (Operation::Map(map), options),
            Err(_) => return refused(ResultCode::MalformedRequest),
        },
        opcode::PEER if rest.len() < Map::LEN + PEER_MORE => return refused(ResultCode::MalformedRequest),
        _ => return refused(ResultCode::UnsupportedOpcode),
    };
    if !is_sound(options) {
        return refused(ResultCode::MalformedOption);
    }
    Ok(Request { header, operation, options: Options(options) })
}

/// What is the server's own in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The result.
    pub result: ResultCode,
    /// Lifetime of the mapping, or of the error, in seconds.
    pub lifetime: u32,
    /// Seconds since the server has lost its state.
    pub epoch: u32,
}

/// Writes the response that refuses a request: all of it, as far as there is room, padded. `read`: it could be read.
/// Returns its length in bytes.
pub fn refuse(message: &[u8], said: Said, read: bool, out: &mut [u8; MAX_LEN]) -> usize {
    let copied = message.len().min(MAX_LEN);
    // Whatever was asked, lifetime and epoch have to be there.
    let length = copied.next_multiple_of(4).clamp(ResponseHeader::LEN, MAX_LEN);
    for (place, byte) in out.iter_mut().zip(message.iter().copied().chain(core::iter::repeat(0)).take(length)) {
        *place = byte;
    }
    head(message.get(1).copied().unwrap_or(0), said, out);
    if read {
        out[COPIED].fill(0);
    }
    length
}

/// Writes the beginning of a response to what could be read, or to nobody's request. Returns its length in bytes.
pub fn respond(opcode: u8, said: Said, out: &mut [u8; MAX_LEN]) -> usize {
    head(opcode, said, out);
    out[COPIED].fill(0);
    ResponseHeader::LEN
}

/// Adds bytes to a response; where it ends then, or `None` if that is too far.
pub fn append(bytes: &[u8], length: usize, out: &mut [u8; MAX_LEN]) -> Option<usize> {
    let end = length.checked_add(bytes.len())?;
    out.get_mut(length..end)?.copy_from_slice(bytes);
    Some(end)
}

fn head(opcode: u8, said: Said, out: &mut [u8; MAX_LEN]) {
    let [a, b, c, d] = said.lifetime.to_be_bytes();
    let [e, f, g, h] = said.epoch.to_be_bytes();
    let head = [VERSION, opcode | RESPONSE, 0, said.result as u8, a, b, c, d, e, f, g, h];
    out[..head.len()].copy_from_slice(&head);
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn map(options: &[u8]) -> Vec<u8> {
        let header = RequestHeader {
            version: VERSION,
            opcode: opcode::MAP,
            reserved: 0.into(),
            lifetime: 7200.into(),
            client: [7; 16],
        };
        let map = Map {
            nonce: *b"twelve bytes",
            protocol: 6,
            reserved: [0; 3],
            internal_port: 8080.into(),
            external_port: 0.into(),
            external_address: [0; 16],
        };
        [header.as_bytes(), map.as_bytes(), options].concat()
    }

    const REFUSED: Said = Said { result: ResultCode::MalformedRequest, lifetime: 1800, epoch: 77 };

    // RFC 6887 section 8.2: what is dropped silently and what is answered.
    #[test]
    fn what_cannot_be_read_is_refused_as_the_section_says() {
        let long = |length: usize| {
            let mut message = map(&[]);
            message.resize(length, 0);
            message
        };
        let cases: [(&str, Vec<u8>, Result<(), Unread>); 13] = [
            ("a request", map(&[]), Ok(())),
            ("nothing", vec![], Err(Unread::Silent)),
            ("one byte", vec![2], Err(Unread::Silent)),
            ("a response", [&[2, 0x81], &map(&[])[2..]].concat(), Err(Unread::Silent)),
            ("no whole header", map(&[])[..23].to_vec(), Err(Unread::Silent)),
            ("version 0", vec![0, 1], Err(Unread::Refused(ResultCode::UnsupportedVersion))),
            ("version 3", [&[3], &map(&[])[1..]].concat(), Err(Unread::Refused(ResultCode::UnsupportedVersion))),
            ("no multiple of 4", long(61), Err(Unread::Refused(ResultCode::MalformedRequest))),
            ("too long", long(1104), Err(Unread::Refused(ResultCode::MalformedRequest))),
            ("too short for MAP", long(56), Err(Unread::Refused(ResultCode::MalformedRequest))),
            (
                "another operation",
                [&[2, 9], &map(&[])[2..]].concat(),
                Err(Unread::Refused(ResultCode::UnsupportedOpcode)),
            ),
            ("an option cut off", map(&[3, 0, 0, 20]), Err(Unread::Refused(ResultCode::MalformedOption))),
            (
                "an option without its padding",
                map(&[200, 0, 0, 5, 1, 2, 3, 4]),
                Err(Unread::Refused(ResultCode::MalformedOption)),
            ),
        ];
        for (what, message, expected) in cases {
            assert_eq!(request(&message).map(drop), expected, "{what}");
        }
    }

    #[test]
    fn options_are_walked_with_their_padding() {
        let message = map(&[200, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 2, 0, 0, 0]);
        let read = request(&message).unwrap();
        let options: Vec<_> = read.options.map(|option| (option.code, option.data.len(), option.whole.len())).collect();
        assert_eq!(options, [(200, 5, 12), (2, 0, 4)]);
        let Operation::Map(map) = read.operation else { panic!("{read:?}") };
        assert_eq!((map.internal_port.get(), &map.nonce), (8080, b"twelve bytes"));
    }

    // RFC 6887 sections 7.2 and 8.2; RFC 6886 section 3.5 reads the same bytes.
    #[test]
    fn refusals_copy_the_request() {
        let mut out = [0xa5; MAX_LEN];
        let message = map(&[1, 0, 0]);
        let length = refuse(&message, REFUSED, false, &mut out);
        assert_eq!(length, 64);
        assert_eq!(out[..12], [2, 0x81, 0, 3, 0, 0, 7, 8, 0, 0, 0, 77]);
        assert_eq!((&out[12..24], &out[24..63], out[63]), (&[7; 12][..], &message[24..], 0));
        refuse(&message, REFUSED, true, &mut out);
        assert_eq!(out[12..24], [0; 12]);
        assert_eq!(refuse(&vec![9; 5000], REFUSED, false, &mut out), MAX_LEN);
        assert_eq!(refuse(&[0, 0], REFUSED, false, &mut out), 24);
        assert_eq!(out[..4], [2, 0x80, 0, 3]);
    }

    #[test]
    fn a_response_grows_up_to_its_limit() {
        let mut out = [0xa5; MAX_LEN];
        let said = Said { result: ResultCode::Success, lifetime: 120, epoch: 5 };
        let length = respond(opcode::MAP, said, &mut out);
        assert_eq!(out[12..24], [0; 12]);
        assert_eq!(append(&[1; 36], length, &mut out), Some(60));
        assert_eq!(append(&[1; 1040], 60, &mut out), Some(1100));
        assert_eq!(append(&[1; 1041], 60, &mut out), None);
    }
}
