//! Connections that fill the table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowhop_flow::record::Steer;

use crate::reference::Tuple;

/// Connections of UDP that come one after the other for as long as the table has room.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// Another crowd has other keys.
    pub number: u16,
    /// Where all of them go.
    pub steers: [Steer; 2],
}

impl Crowd {
    /// The keys of one of them; every second is of IPv6.
    #[must_use]
    pub fn keys(&self, member: u16) -> [Tuple; 2] {
        let [high, low] = self.number.to_be_bytes();
        let addresses: [IpAddr; 2] = if member.is_multiple_of(2) {
            [Ipv4Addr::new(100, 64, high, low).into(), Ipv4Addr::new(198, 18, 0, 1).into()]
        } else {
            let host = |prefix, number| Ipv6Addr::new(prefix, 0xdb8, 0, 0x40, 0, 0, 0, number).into();
            [host(0xfd00, self.number), host(0x2001, 1)]
        };
        let [source, destination] = addresses;
        let forward = Tuple { source, destination, protocol: 17, source_port: 1024 + member, destination_port: 53 };
        let reverse = Tuple {
            source: destination,
            destination: source,
            source_port: forward.destination_port,
            destination_port: forward.source_port,
            ..forward
        };
        [forward, reverse]
    }
}
