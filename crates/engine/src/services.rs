//! Services of the box that modules give: datagrams to it that are answered here, and what they tell by themselves.
//!
//! A module says which datagrams it serves. They never reach the kernel, so no socket is needed, and they are answered in
//! the same way on every path. Answers go back the way the question came: to the station that sent it, on the interface
//! it came in. How many there may be is for the module to say; they have no part in the limit of ICMP errors.

use std::net::{IpAddr, SocketAddr};

use flowhop_flow::parse::ETHERNET;
use flowhop_flow::record::Tick;
use flowhop_flow::{Parsed, Reason, key};
use flowhop_wire::build::Spec;
use flowhop_wire::{Ethernet, Frame, Udp, protocol};
use zerocopy::transmute_ref;

use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::io::{Arrived, Io, Outcome};
use crate::module::{Announcement, Context, Query, Reply};

impl Engine {
    fn context(&mut self, now: Tick) -> (&mut [Box<dyn crate::Module>], Context<'_>) {
        let context = Context {
            routing: &mut self.routing,
            interfaces: &self.interfaces,
            random: &mut self.random,
            sources: &self.sources,
            now,
        };
        (&mut self.modules, context)
    }

    /// A datagram to an own address, if a module serves it.
    pub(crate) fn serve(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        packet: &Buffer<'_>,
        io: &mut dyn Io,
    ) -> Option<Outcome> {
        if parsed.key.protocol() != protocol::UDP {
            return None;
        }
        let from = self.interfaces.port(arrived.port)?.zone;
        let (modules, context) = self.context(arrived.now);
        let server = modules.iter().position(|module| module.serves(&parsed.key, from, &context))?;
        let link: &Ethernet = transmute_ref!(packet.read::<ETHERNET>(0)?);
        let station = link.source;
        // A source that is made up would have others answered for it.
        if let Err(reason) = self.may_ask(arrived.port, &parsed.key) {
            return Some(Outcome::of(reason));
        }
        let query = Query { key: parsed.key, from, payload: payload(parsed, packet)? };
        let (modules, mut context) = self.context(arrived.now);
        match modules.get_mut(server)?.answer(&query, &mut context)? {
            Reply::Silence(reason) => Some(Outcome::of(reason)),
            Reply::Answer(reason, payload) => {
                io.opened();
                let end = |address, port| SocketAddr::new(key::ip(address), port);
                let asked = end(&parsed.key.destination, parsed.key.destination_port());
                let asking = end(&parsed.key.source, parsed.key.source_port());
                let sent = self.send_own(arrived.port, station, Spec::udp(asked, asking, &payload), io);
                Some(Outcome::of(if sent { reason } else { Reason::Device }))
            }
        }
    }

    /// What modules tell without being asked.
    pub(crate) fn announce(&mut self, now: Tick, io: &mut dyn Io) {
        let (modules, mut context) = self.context(now);
        let all: Vec<Announcement> = modules.iter_mut().flat_map(|module| module.announce(&mut context)).collect();
        for announcement in &all {
            let Announcement { port, source, destination, payload } = announcement;
            if let Some(station) = group_station(destination.ip()) {
                self.send_own(*port, station, Spec::udp(*source, *destination, payload).with_ttl(1), io);
            }
        }
        if !all.is_empty() {
            io.flush();
        }
    }
}

fn payload<'a>(parsed: &Parsed, packet: &'a Buffer<'_>) -> Option<&'a [u8]> {
    let header: &Udp = transmute_ref!(packet.read::<{ Udp::LEN }>(parsed.transport_offset)?);
    let length = usize::from(header.length.get());
    packet.bytes().get(parsed.transport_offset + Udp::LEN..parsed.transport_offset + length)
}

/// The link-layer address that frames to a multicast address have (RFC 1112 section 6.4, RFC 2464 section 7).
fn group_station(group: IpAddr) -> Option<[u8; 6]> {
    if !group.is_multicast() {
        return None;
    }
    Some(match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_stations_and_hosts_do_not() {
        let station = |text: &str| group_station(text.parse().unwrap());
        assert_eq!(station("224.0.0.1"), Some([1, 0, 0x5e, 0, 0, 1]));
        assert_eq!(station("239.129.2.3"), Some([1, 0, 0x5e, 1, 2, 3]));
        assert_eq!(station("ff02::1"), Some([0x33, 0x33, 0, 0, 0, 1]));
        assert_eq!((station("10.0.0.1"), station("fe80::1")), (None, None));
    }
}
