//! Frames with all checksums right.

use std::net::IpAddr;

use crate::reference::Tuple;
use crate::reference::packet::{checksum_offset, sum, transport_checksum};

pub(super) fn ports(key: &Tuple) -> [u8; 4] {
    let ([a, b], [c, d]) = (key.source_port.to_be_bytes(), key.destination_port.to_be_bytes());
    [a, b, c, d]
}
/// An Ethernet frame around a transport header, all checksums right. One in three lengths of IPv4 may be cut on the way.
#[must_use]
pub fn frame(key: &Tuple, ttl: u8, l4: &[u8], mac: [u8; 6], partial: bool) -> Vec<u8> {
    let mut bytes = mac.to_vec();
    bytes.extend([2, 9, 9, 9, 9, 9]);
    match (key.source, key.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([0x08, 0x00, 0x45, 0x2e]);
            bytes.extend((20 + l4.len() as u16).to_be_bytes());
            let flags = if l4.len().is_multiple_of(3) { 0 } else { 0x40 };
            bytes.extend([0x12, 0x34, flags, 0, ttl, key.protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            seal(&mut bytes, true);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x86, 0xdd, 0x62, 0xe1, 0x23, 0x45]);
            bytes.extend((l4.len() as u16).to_be_bytes());
            bytes.extend([key.protocol, ttl]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        _ => panic!("a packet of two families"),
    }
    let at = bytes.len();
    bytes.extend(l4);
    let covered = matches!(key.protocol, 6 | 17)
        || matches!((key.source, key.protocol), (IpAddr::V4(_), 1) | (IpAddr::V6(_), 58));
    if covered {
        let field = at + checksum_offset(key.protocol);
        let checksum = transport_checksum(l4, key, partial);
        bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

/// Writes the checksum of an IPv4 header.
pub(super) fn seal(bytes: &mut [u8], is_v4: bool) {
    if is_v4 && bytes.len() >= 34 {
        bytes[24..26].fill(0);
        let checksum = !(sum(&bytes[14..34]) as u16);
        bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
}
