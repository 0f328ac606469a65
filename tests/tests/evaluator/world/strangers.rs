//! Whom nobody has called: what has to be dropped, what is published, and floods.

use std::net::{Ipv4Addr, SocketAddr};

use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, SYN};

use super::{Is, Known, PUBLIC, Protocol, SERVER, World};
use crate::bed::{LAN, WAN, at, ends};

/// Packets of a flood: more than there are connections in the table.
pub(crate) const STRANGERS: u32 = 5000;
/// Before the first stranger's address.
const STRANGER: u32 = 0x0b00_0000;

impl World {
    /// A stranger, or an inside address from outside.
    pub(super) fn stray(&mut self) {
        let (inside, remote) = (self.inside(), self.remote());
        let spec = match self.below(4) {
            0 => Spec::udp(remote, inside, b"x"),
            1 => Spec::tcp(remote, inside, SYN, &[]),
            2 => Spec::tcp(inside, at("10.1.0.80:9"), ACK, &[]),
            _ => Spec::udp(remote, at("198.51.100.9:81"), b"x"),
        };
        let left = self.send(WAN, &spec, &format!("stray {remote} > {inside}"));
        self.agrees(Is::Gone, left, LAN);
    }

    pub(super) fn published(&mut self) {
        let (client, public, server) = (self.remote(), at(PUBLIC), at(SERVER));
        let key = (Protocol::Udp, client, server);
        let left = self.send(WAN, &Spec::udp(client, public, b"ask"), &format!("udp {client} > {public}"));
        let frame = self.agrees(Is::There, left, LAN).unwrap();
        self.must(ends(&frame) == (client, server), "published as something else");
        let known = Known {
            external: public,
            last: self.bed.now,
            next: [0; 2],
            answered: true,
            established: true,
            closing: false,
        };
        self.known.insert(key, known);
        let left = self.send(LAN, &Spec::udp(server, client, b"tell"), &format!("udp {server} > {client}"));
        let frame = self.agrees(Is::There, left, WAN).unwrap();
        self.must(ends(&frame) == (public, client), "answered as somebody else");
    }

    /// An inside host that addresses the published service as others do: it is seen as they would see it, and gets its
    /// answer from the address that it addressed (RFC 4787 REQ-9).
    pub(super) fn published_from_inside(&mut self) {
        let (client, public, server) = (self.inside(), at(PUBLIC), at(SERVER));
        let left = self.send(LAN, &Spec::udp(client, public, b"ask"), &format!("udp {client} > {public}"));
        let frame = self.agrees(Is::There, left, LAN).unwrap();
        let (seen, to) = ends(&frame);
        self.must(to == server, "published as something else");
        let key = (Protocol::Udp, client, public);
        self.note_out(key, seen);
        let left = self.send(LAN, &Spec::udp(server, seen, b"tell"), &format!("udp {server} > {seen}"));
        let frame = self.agrees(Is::There, left, LAN).unwrap();
        self.must(ends(&frame) == (public, client), "answered as somebody else");
        self.note_in(&key);
    }

    /// Strangers, each with one packet for the published service, until there is room for nobody, and some more. They crowd
    /// out each other, and nobody who has had an answer.
    pub(super) fn flood(&mut self) {
        let evicted = self.bed.engine.pressure(0).evicted;
        let spec = if self.below(2) == 0 { Spec::udp } else { |from, to, _: &[u8]| Spec::tcp(from, to, SYN, &[]) };
        for number in 0..STRANGERS {
            self.strangers += 1;
            let from = SocketAddr::new(Ipv4Addr::from_bits(STRANGER + self.strangers).into(), 1024);
            let left = self.send(WAN, &spec(from, at(PUBLIC), b"me too"), &format!("stranger {from}"));
            self.agrees(Is::There, left, LAN);
            if number % 16 == 0 {
                self.bed.turn();
            }
        }
        self.must(self.bed.engine.pressure(0).evicted > evicted, "the table is full, and nobody made room");
        self.floods += 1;
        self.flooded = Some(self.bed.now);
        self.bed.pass(1);
    }
}
