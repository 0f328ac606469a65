//! What several targets need: numbers from the input, and addresses in requests for mappings.

use std::net::IpAddr;

/// Numbers from the input; zeros when it has ended.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.min(self.0.len())).map(|_| self.byte()).collect()
    }

    pub fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[usize::from(self.byte()) % all.len()]
    }
}

/// An address as PCP has it (RFC 6887 section 5).
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
