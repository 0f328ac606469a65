//! Reading captures: pcap (all four byte orders and resolutions) and pcapng.
//!
//! A capture is foreign data. Every length is checked against what is there and against a limit, and a file that
//! ends in the middle of a packet is an error that says where.

use std::io::{self, Read};

use thiserror::Error;

/// Longest packet that is taken.
const LONGEST_PACKET: usize = 1 << 20;
/// Longest block of a pcapng file that is taken.
const LONGEST_BLOCK: usize = 16 << 20;
/// Most interfaces in a section of a pcapng file.
const MOST_INTERFACES: usize = 4096;

/// What is wrong with a capture.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is something else.
    #[error("it is neither a pcap nor a pcapng file")]
    Foreign,
    /// The file ends too early.
    #[error("it ends in the middle of something, after {0} packets")]
    Cut(u64),
    /// A part of it makes no sense.
    #[error("{what} after {packets} packets")]
    Malformed {
        /// What part.
        what: &'static str,
        /// Packets before it.
        packets: u64,
    },
    /// Packets that do not begin with an Ethernet or IP header.
    #[error("link type {0} is not supported; those that are: Ethernet (1) and raw IP (12, 101, 228, 229)")]
    LinkType(u32),
}

/// What a packet begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// An Ethernet header.
    Ethernet,
    /// An IP header.
    Ip,
}

impl LinkType {
    fn from_number(number: u32) -> Result<Self, CaptureError> {
        // The upper half of pcap's field tells about check sequences.
        match number & 0xffff {
            1 => Ok(Self::Ethernet),
            12 | 101 | 228 | 229 => Ok(Self::Ip),
            other => Err(CaptureError::LinkType(other)),
        }
    }
}

/// A packet of a capture; its bytes are in the buffer that was given to [`Capture::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When, in nanoseconds since 1970.
    pub nanos: u64,
    /// What it begins with.
    pub link: LinkType,
    /// Number of the interface in a pcapng file.
    pub interface: Option<usize>,
}

/// An interface that a pcapng file describes.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// Its name, if it says one.
    pub name: Option<String>,
    link: u32,
    snap: usize,
    resolution: u8,
    offset: i64,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Classic { link: LinkType, nano: bool },
    Next,
}

/// A capture that is being read.
pub struct Capture<R> {
    input: R,
    format: Format,
    big: bool,
    interfaces: Vec<Described>,
    packets: u64,
    /// Time of the last packet, for those without one.
    nanos: u64,
}

impl<R> std::fmt::Debug for Capture<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("format", &self.format).field("packets", &self.packets).finish_non_exhaustive()
    }
}

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

impl<R: Read> Capture<R> {
    /// Begins to read a capture.
    ///
    /// # Errors
    /// When it is no capture.
    pub fn open(mut input: R) -> Result<Self, CaptureError> {
        let mut magic = [0; 4];
        if fill(&mut input, &mut magic)? < magic.len() {
            return Err(CaptureError::Foreign);
        }
        let (big, nano) = match u32::from_le_bytes(magic) {
            0xa1b2_c3d4 => (false, false),
            0xa1b2_3c4d => (false, true),
            0xd4c3_b2a1 => (true, false),
            0x4d3c_b2a1 => (true, true),
            SECTION => {
                let mut capture =
                    Self { input, format: Format::Next, big: false, interfaces: Vec::new(), packets: 0, nanos: 0 };
                capture.section()?;
                return Ok(capture);
            }
            _ => return Err(CaptureError::Foreign),
        };
        let mut header = [0; 20];
        if fill(&mut input, &mut header)? < header.len() {
            return Err(CaptureError::Cut(0));
        }
        let link = LinkType::from_number(word(&header, 16, big))?;
        Ok(Self { input, format: Format::Classic { link, nano }, big, interfaces: Vec::new(), packets: 0, nanos: 0 })
    }

    /// Interfaces that the file has described so far; none in a pcap file.
    #[must_use]
    pub fn interfaces(&self) -> &[Described] {
        &self.interfaces
    }

    /// Whether times are finer than microseconds, as far as is known.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        match self.format {
            Format::Classic { nano, .. } => nano,
            Format::Next => self.interfaces.iter().any(|interface| interface.resolution > 6),
        }
    }

    /// Reads the next packet into `bytes`; `None` at the end.
    ///
    /// # Errors
    /// When the file is damaged or ends too early.
    pub fn next(&mut self, bytes: &mut Vec<u8>) -> Result<Option<Captured>, CaptureError> {
        let captured = match self.format {
            Format::Classic { link, nano } => self.record(link, nano, bytes)?,
            Format::Next => self.block_with_packet(bytes)?,
        };
        if let Some(captured) = captured {
            self.packets += 1;
            self.nanos = captured.nanos;
        }
        Ok(captured)
    }

    fn record(&mut self, link: LinkType, nano: bool, bytes: &mut Vec<u8>) -> Result<Option<Captured>, CaptureError> {
        let mut header = [0; 16];
        match fill(&mut self.input, &mut header)? {
            0 => return Ok(None),
            16 => {}
            _ => return Err(CaptureError::Cut(self.packets)),
        }
        let [seconds, fraction, length] = [0, 4, 8].map(|at| word(&header, at, self.big));
        let length = length as usize;
        if length > LONGEST_PACKET {
            return Err(self.malformed("an impossibly long packet"));
        }
        self.read(length, bytes)?;
        let fraction = u64::from(fraction) * if nano { 1 } else { 1000 };
        Ok(Some(Captured { nanos: u64::from(seconds) * 1_000_000_000 + fraction, link, interface: None }))
    }

    fn block_with_packet(&mut self, bytes: &mut Vec<u8>) -> Result<Option<Captured>, CaptureError> {
        let mut body = Vec::new();
        loop {
            let mut kind = [0; 4];
            match fill(&mut self.input, &mut kind)? {
                0 => return Ok(None),
                4 => {}
                _ => return Err(CaptureError::Cut(self.packets)),
            }
            // The type of a section block reads the same in both byte orders; it says which one follows.
            if u32::from_le_bytes(kind) == SECTION {
                self.section()?;
                continue;
            }
            let kind = word(&kind, 0, self.big);
            self.body(&mut body)?;
            match kind {
                INTERFACE => self.describe(&body)?,
                ENHANCED_PACKET => return self.enhanced(&body, word_at(&body, 0, self.big), bytes).map(Some),
                PACKET => {
                    let number = half_at(&body, 0, self.big).map(u32::from);
                    return self.enhanced(&body, number, bytes).map(Some);
                }
                SIMPLE_PACKET => return self.simple(&body, bytes).map(Some),
                _ => {}
            }
        }
    }

    /// A section header block from behind its type on.
    fn section(&mut self) -> Result<(), CaptureError> {
        let mut start = [0; 8];
        self.exact(&mut start)?;
        self.big = match word(&start, 4, false) {
            0x1a2b_3c4d => false,
            0x4d3c_2b1a => true,
            _ => return Err(self.malformed("a section of unknown byte order")),
        };
        let length = word(&start, 0, self.big) as usize;
        if !(28..=LONGEST_BLOCK).contains(&length) || !length.is_multiple_of(4) {
            return Err(self.malformed("a section header of impossible length"));
        }
        let mut rest = Vec::new();
        self.read(length - 12, &mut rest)?;
        self.interfaces.clear();
        Ok(())
    }

    /// The body of a block from behind its type on.
    fn body(&mut self, body: &mut Vec<u8>) -> Result<(), CaptureError> {
        let mut length = [0; 4];
        self.exact(&mut length)?;
        let length = word(&length, 0, self.big) as usize;
        if !(12..=LONGEST_BLOCK).contains(&length) || !length.is_multiple_of(4) {
            return Err(self.malformed("a block of impossible length"));
        }
        self.read(length - 12, body)?;
        let mut again = [0; 4];
        self.exact(&mut again)?;
        if word(&again, 0, self.big) as usize != length {
            return Err(self.malformed("a block with two lengths"));
        }
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), CaptureError> {
        let (Some(link), Some(snap)) = (half_at(body, 0, self.big), word_at(body, 4, self.big)) else {
            return Err(self.malformed("an interface description that is too short"));
        };
        if self.interfaces.len() >= MOST_INTERFACES {
            return Err(self.malformed("too many interfaces"));
        }
        let mut described =
            Described { name: None, link: u32::from(link), snap: snap as usize, resolution: 6, offset: 0 };
        let mut rest = body.get(8..).unwrap_or_default();
        while let (Some(code), Some(length)) = (half_at(rest, 0, self.big), half_at(rest, 2, self.big)) {
            let length = usize::from(length);
            let Some(value) = rest.get(4..4 + length) else { break };
            match code {
                0 => break,
                2 => described.name = Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()),
                9 => described.resolution = value.first().copied().unwrap_or(6),
                14 => described.offset = long_at(value, self.big).unwrap_or_default(),
                _ => {}
            }
            rest = rest.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
        }
        self.interfaces.push(described);
        Ok(())
    }

    fn enhanced(&self, body: &[u8], number: Option<u32>, bytes: &mut Vec<u8>) -> Result<Captured, CaptureError> {
        let too_short = || self.malformed("a packet block that is too short");
        let number = number.ok_or_else(too_short)? as usize;
        let words = [4, 8, 12].map(|at| word_at(body, at, self.big));
        let [Some(high), Some(low), Some(length)] = words else { return Err(too_short()) };
        let data = body.get(20..).and_then(|data| data.get(..length as usize)).ok_or_else(too_short)?;
        let described =
            self.interfaces.get(number).ok_or_else(|| self.malformed("a packet of an unknown interface"))?;
        if data.len() > LONGEST_PACKET {
            return Err(self.malformed("an impossibly long packet"));
        }
        bytes.clear();
        bytes.extend_from_slice(data);
        Ok(Captured {
            nanos: described.nanos(u64::from(high) << 32 | u64::from(low)),
            link: LinkType::from_number(described.link)?,
            interface: Some(number),
        })
    }

    fn simple(&self, body: &[u8], bytes: &mut Vec<u8>) -> Result<Captured, CaptureError> {
        let original = word_at(body, 0, self.big).ok_or_else(|| self.malformed("a packet block that is too short"))?;
        let first = self.interfaces.first().ok_or_else(|| self.malformed("a packet of an unknown interface"))?;
        let snap = if first.snap == 0 { usize::MAX } else { first.snap };
        let data = body.get(4..).unwrap_or_default();
        let length = data.len().min(original as usize).min(snap).min(LONGEST_PACKET);
        bytes.clear();
        bytes.extend_from_slice(data.get(..length).unwrap_or_default());
        Ok(Captured { nanos: self.nanos, link: LinkType::from_number(first.link)?, interface: Some(0) })
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), CaptureError> {
        if fill(&mut self.input, bytes)? < bytes.len() { Err(CaptureError::Cut(self.packets)) } else { Ok(()) }
    }

    fn read(&mut self, length: usize, bytes: &mut Vec<u8>) -> Result<(), CaptureError> {
        bytes.clear();
        bytes.resize(length, 0);
        self.exact(bytes)
    }

    const fn malformed(&self, what: &'static str) -> CaptureError {
        CaptureError::Malformed { what, packets: self.packets }
    }
}

impl Described {
    /// A time stamp in nanoseconds.
    fn nanos(&self, stamp: u64) -> u64 {
        let exponent = u32::from(self.resolution & 0x7f);
        let nanos = if self.resolution & 0x80 == 0 {
            match exponent {
                0..=9 => u128::from(stamp) * 10u128.pow(9 - exponent),
                _ => u128::from(stamp) / 10u128.pow((exponent - 9).min(38)),
            }
        } else {
            (u128::from(stamp) * 1_000_000_000).checked_shr(exponent).unwrap_or(0)
        };
        let total = i128::try_from(nanos).unwrap_or(i128::MAX).saturating_add(i128::from(self.offset) * 1_000_000_000);
        u64::try_from(total.max(0)).unwrap_or(u64::MAX)
    }
}

/// Reads as much as there is, up to the length of `bytes`.
fn fill(input: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match input.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn word_at(bytes: &[u8], at: usize, big: bool) -> Option<u32> {
    let word = *bytes.get(at..)?.first_chunk()?;
    Some(if big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
}

fn half_at(bytes: &[u8], at: usize, big: bool) -> Option<u16> {
    let half = *bytes.get(at..)?.first_chunk()?;
    Some(if big { u16::from_be_bytes(half) } else { u16::from_le_bytes(half) })
}

fn long_at(bytes: &[u8], big: bool) -> Option<i64> {
    let long = *bytes.first_chunk()?;
    Some(if big { i64::from_be_bytes(long) } else { i64::from_le_bytes(long) })
}

/// A word of a header whose length is known.
fn word(bytes: &[u8], at: usize, big: bool) -> u32 {
    word_at(bytes, at, big).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::output::Output;

    fn read_all(file: &[u8]) -> Result<Vec<(Captured, Vec<u8>)>, CaptureError> {
        let mut capture = Capture::open(file)?;
        let (mut packets, mut bytes) = (Vec::new(), Vec::new());
        while let Some(captured) = capture.next(&mut bytes)? {
            packets.push((captured, bytes.clone()));
        }
        Ok(packets)
    }

    #[test]
    fn what_is_written_is_read() {
        for fine in [false, true] {
            let mut output = Output::new(Vec::new(), fine).unwrap();
            output.write(1_700_000_000_123_456_789, b"packet").unwrap();
            let file = output.finish().unwrap();
            let packets = read_all(&file).unwrap();
            let nanos = if fine { 1_700_000_000_123_456_789 } else { 1_700_000_000_123_456_000 };
            assert_eq!(packets, [(Captured { nanos, link: LinkType::Ethernet, interface: None }, b"packet".to_vec())]);
            for length in 0..file.len() {
                let cut = read_all(&file[..length]);
                assert!(length == 24 || cut.is_err(), "{length}");
            }
        }
    }

    /// A pcapng block in big-endian order, or in little-endian order.
    fn block(kind: u32, body: &[u8], big: bool) -> Vec<u8> {
        let number = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let length = number(12 + body.len().next_multiple_of(4) as u32);
        let mut block = [&number(kind)[..], &length, body].concat();
        block.resize(block.len().next_multiple_of(4), 0);
        block.extend(length);
        block
    }

    #[test]
    fn pcapng_in_both_orders_with_names_and_resolutions() {
        for big in [false, true] {
            let number = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
            let half = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
            let section = [number(0x1a2b_3c4d), number(1), [0xff; 4], [0xff; 4]].concat();
            let option = |code, value: &[u8]| {
                let mut option = [&half(code)[..], &half(value.len() as u16), value].concat();
                option.resize(option.len().next_multiple_of(4), 0);
                option
            };
            let interface =
                [[half(1), half(0)].concat(), number(0).to_vec(), option(2, b"wan0"), option(9, &[9]), option(0, &[])];
            let packet = [&number(0)[..], &number(0), &number(77), &number(5), &number(5), b"hello"].concat();
            let file = [
                block(SECTION, &section, big),
                block(INTERFACE, &interface.concat(), big),
                block(0x99, b"something else", big),
                block(ENHANCED_PACKET, &packet, big),
            ]
            .concat();
            let mut capture = Capture::open(&file[..]).unwrap();
            let mut bytes = Vec::new();
            let captured = capture.next(&mut bytes).unwrap().unwrap();
            assert_eq!(captured, Captured { nanos: 77, link: LinkType::Ethernet, interface: Some(0) });
            assert_eq!((bytes.as_slice(), capture.is_fine()), (&b"hello"[..], true));
            assert_eq!(capture.interfaces()[0].name.as_deref(), Some("wan0"));
            assert_eq!(capture.next(&mut bytes).unwrap(), None);
            for length in 0..file.len() {
                let _error_or_not = read_all(&file[..length]);
                let mut damaged = file.clone();
                damaged[length] ^= 0xff;
                let _error_or_not = read_all(&damaged);
            }
        }
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(read_all(b""), Err(CaptureError::Foreign)));
        assert!(matches!(read_all(b"#!/bin/sh\necho hello\n"), Err(CaptureError::Foreign)));
    }
}
