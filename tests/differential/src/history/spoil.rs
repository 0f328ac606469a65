//! Good frames made bad or strange.

use super::Episode;
use super::frames::{frame, seal};
use super::setting::{NAT4, NAT6, NO_PORT, OWN4, OWN6, PORTS, port_mac};
use crate::reference::packet::{checksum_offset, sum};
use crate::reference::{Arrival, Tuple};

impl Episode {
    /// Makes a good frame a bad or strange one; tells in what way.
    pub(super) fn spoil(&mut self, bytes: &mut Vec<u8>, arrival: &mut Arrival, key: &Tuple) -> &'static str {
        let is_v4 = key.source.is_ipv4();
        let random = &mut self.random;
        let transport = if is_v4 { 34 } else { 54 };
        match random.below(36) {
            0 | 1 => {
                let ttl = random.pick(&[0, 1, 2]);
                bytes[if is_v4 { 22 } else { 21 }] = ttl;
                seal(bytes, is_v4);
                "TTL at the end"
            }
            2 if is_v4 => {
                let word: u16 = random.pick(&[0x2000, 0x2001, 0x0001, 0x1fff, 0x4000, 0x8000, 0x6000]);
                bytes[20..22].copy_from_slice(&word.to_be_bytes());
                seal(bytes, is_v4);
                "fragment bits"
            }
            2 | 3 if !is_v4 => {
                bytes[20] = random.pick(&[44, 0, 43, 51, 59, 60, 135, 139, 140]);
                "extension header"
            }
            3 | 4 if is_v4 => {
                bytes.splice(34..34, [1, 1, 1, 0]);
                bytes[14] = 0x46;
                let length = (bytes.len() - 14) as u16;
                bytes[16..18].copy_from_slice(&length.to_be_bytes());
                bytes[24..26].fill(0);
                let checksum = !(sum(&bytes[14..38]) as u16);
                bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
                "options"
            }
            5 if is_v4 => {
                bytes[24] ^= 1 + random.below(255) as u8;
                "bad header checksum"
            }
            6 => {
                bytes[14] = random.pick(&[0x44, 0x40, 0x54, 0x65, 0x64, 0x60, 0x45, 0x4f]);
                seal(bytes, is_v4);
                "version or header length"
            }
            7 => {
                let at = if is_v4 { 16 } else { 18 };
                let length: u16 = random.pick(&[0, 19, 20, 27, 28, 39, 40, random.clone().bits() as u16]);
                bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
                seal(bytes, is_v4);
                "another length"
            }
            8 | 9 => {
                let at = random.below(bytes.len() as u32) as usize;
                bytes[at] ^= 1 << random.below(8);
                "a flipped bit"
            }
            10 => {
                let at = 14 + random.below(60) as usize;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                    seal(bytes, is_v4);
                }
                "a flipped bit, sealed"
            }
            11 | 12 => {
                bytes.truncate(random.below(bytes.len() as u32 + 1) as usize);
                "truncated"
            }
            13 => {
                bytes.truncate(transport + random.below(24) as usize);
                let length = (bytes.len() - if is_v4 { 14 } else { 54 }) as u16;
                let at = if is_v4 { 16 } else { 18 };
                bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
                seal(bytes, is_v4);
                "short transport"
            }
            14 | 15 => {
                let length = bytes.len().max(60) + random.pick(&[0, 0, 6]);
                bytes.resize(length, 0xa5);
                "padding"
            }
            16 | 33 | 34 => {
                arrival.ifindex = random.pick(&[PORTS[0], PORTS[1], PORTS[2], PORTS[3], NO_PORT]);
                if arrival.ifindex != NO_PORT {
                    bytes[..6].copy_from_slice(&port_mac(arrival.ifindex));
                }
                "another interface"
            }
            17 => {
                bytes[random.below(6) as usize] ^= 2;
                "another station"
            }
            18 => {
                let mac = random.pick(&[[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]]);
                bytes[..6].copy_from_slice(&mac);
                "multicast frame"
            }
            19 => {
                let kind: u16 = random.pick(&[0x0806, 0x88cc, 0x8847, 0x0801, 0, 0x0800, 0x86dd]);
                bytes[12..14].copy_from_slice(&kind.to_be_bytes());
                "another ethertype"
            }
            20 => {
                if random.chance(50) {
                    arrival.tagged = true;
                } else {
                    // Nobody's, double, and priority tags.
                    let tags = [[0x81, 0, 0, 5], [0x88, 0xa8, 0, 5], [0x81, 0, 0xe0, 0], [0x81, 0, 0, 100]];
                    bytes.splice(12..12, random.pick(&tags));
                }
                "VLAN"
            }
            21 if key.protocol == 17 => {
                bytes[transport + 6..transport + 8].fill(0);
                // Without a checksum nothing can be partial.
                arrival.partial = false;
                "no checksum (RFC 768)"
            }
            22 | 23 if matches!(key.protocol, 6 | 17) || key.is_echo() => {
                let field = transport + checksum_offset(key.protocol);
                let wrong = random.pick(&[0, 0xffff, 1, random.clone().bits() as u16]);
                bytes[field..field + 2].copy_from_slice(&wrong.to_be_bytes());
                arrival.partial = false;
                "wrong checksum"
            }
            24 => {
                let protocol = random.pick(&[1, 58, 6, 17, 132]);
                bytes[if is_v4 { 23 } else { 20 }] = protocol;
                seal(bytes, is_v4);
                // A partial checksum of one protocol is no field of another.
                arrival.partial = false;
                "another protocol"
            }
            25 | 26 => {
                let kind = if is_v4 {
                    random.pick(&[3, 4, 5, 11, 12, 13, 8])
                } else {
                    random.pick(&[1, 2, 3, 4, 133, 134, 135, 136, 137, 138])
                };
                let code = random.below(3) as u8;
                let message = [&[kind, code, 0, 0, 0, 0, 0, 1][..], &[0x45; 40]].concat();
                let key = Tuple { protocol: if is_v4 { 1 } else { 58 }, ..*key };
                arrival.partial = false;
                arrival.segment = 0;
                *bytes = frame(&key, random.pick(&[255, 64]), &message, port_mac(arrival.ifindex), false);
                "ICMP error or neighbour discovery"
            }
            27 => {
                let (at, length) = if is_v4 { (30, 4) } else { (38, 16) };
                let mut address = vec![0; length];
                let first = if is_v4 { random.pick(&[224, 239, 255]) } else { random.pick(&[0xff, 0xfe]) };
                address[0] = first;
                address[1] = if first == 0xfe { 0x80 } else { first };
                address[length - 1] = if first == 255 { 255 } else { 1 };
                if first == 255 && is_v4 {
                    address.fill(255);
                }
                bytes[at..at + length].copy_from_slice(&address);
                seal(bytes, is_v4);
                "link-local destination"
            }
            28..=30 => {
                let (at, length) = if is_v4 { (30, 4) } else { (38, 16) };
                let own = random.chance(50);
                let octets = match (is_v4, own) {
                    (true, true) => OWN4.octets().to_vec(),
                    (true, false) => NAT4.octets().to_vec(),
                    (false, true) => OWN6.octets().to_vec(),
                    (false, false) => NAT6.octets().to_vec(),
                };
                bytes[at..at + length].copy_from_slice(&octets);
                if matches!(key.protocol, 6 | 17) && bytes.len() > transport + 4 {
                    let port: u16 = random.pick(&[22, 500, 20_001, 65_535]);
                    bytes[transport + 2..transport + 4].copy_from_slice(&port.to_be_bytes());
                } else if bytes.len() > transport + 8 {
                    bytes[transport + 4] ^= random.below(2) as u8 * 0x4e;
                }
                seal(bytes, is_v4);
                "to the box"
            }
            31 | 32 if bytes.len() > transport + 4 => {
                bytes[transport] ^= 0x10;
                "another source port"
            }
            _ => {
                let at = if is_v4 { 26 + random.below(8) } else { 22 + random.below(32) } as usize;
                bytes[at] ^= 1 << random.below(8);
                seal(bytes, is_v4);
                "another address"
            }
        }
    }
}
