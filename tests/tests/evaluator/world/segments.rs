//! TCP connections: what well-behaved ends send, and what forgers do.

use std::net::SocketAddr;

use flowhop_wire::build::Spec;
use flowhop_wire::tcp_flags::{ACK, FIN, RST, SYN};

use super::{Is, Key, Known, MARGIN, Protocol, SECOND, World};
use crate::bed::{LAN, WAN, ends};

impl World {
    /// A step in the life of a TCP connection, by ends that behave, or by a forger.
    pub(super) fn segment(&mut self) {
        let (client, server) = self.ends();
        let key = (Protocol::Tcp, client, server);
        let is = self.is(&key);
        match self.known.get(&key).copied().filter(|_| is == Is::There) {
            None if is == Is::Gone => self.handshake(key),
            None => {
                // Closing, or about to expire: it is left alone until it has gone.
                let idle = self.bed.now.wrapping_sub(self.known[&key].last);
                if idle > 7440 * SECOND + MARGIN || (self.known[&key].closing && idle > 240 * SECOND + MARGIN) {
                    self.known.remove(&key);
                }
            }
            Some(known) if self.below(4) == 0 => self.forged(key, known),
            Some(known) => self.data(key, known),
        }
    }

    fn tcp_out(&mut self, key: Key, flags: u8, [sequence, acknowledged]: [u32; 2]) -> Option<SocketAddr> {
        let data: &[u8] = if flags == ACK { b"question" } else { b"" };
        let spec = Spec::tcp(key.1, key.2, flags, data).with_sequence(sequence, acknowledged);
        let left = self.send(LAN, &spec, &format!("tcp {} > {} {flags:#x}", key.1, key.2));
        self.agrees(Is::There, left, WAN).map(|frame| ends(&frame).0)
    }

    fn tcp_in(&mut self, is: Is, key: Key, external: SocketAddr, flags: u8, [sequence, acknowledged]: [u32; 2]) {
        let data: &[u8] = if flags == ACK { b"answer" } else { b"" };
        let spec = Spec::tcp(key.2, external, flags, data).with_sequence(sequence, acknowledged);
        let left = self.send(WAN, &spec, &format!("tcp {} > {external} {flags:#x}", key.2));
        if let Some(frame) = self.agrees(is, left, LAN) {
            self.must(ends(&frame) == (key.2, key.1), "a segment to somebody else");
        }
    }

    fn handshake(&mut self, key: Key) {
        self.known.remove(&key);
        let [mine, theirs] = [self.below(1 << 32) as u32, self.below(1 << 32) as u32];
        if self.allowed(key.2) == Is::Gone {
            let left = self.send(LAN, &Spec::tcp(key.1, key.2, SYN, &[]), &format!("tcp {} > {}", key.1, key.2));
            self.agrees(Is::Gone, left, WAN);
            return;
        }
        let external = self.tcp_out(key, SYN, [mine, 0]).unwrap();
        self.note_out(key, external);
        // What does not acknowledge the SYN is no answer.
        self.tcp_in(Is::Gone, key, external, SYN | ACK, [theirs, mine.wrapping_sub(1 << 20)]);
        self.tcp_in(Is::There, key, external, SYN | ACK, [theirs, mine.wrapping_add(1)]);
        let next = [mine.wrapping_add(1), theirs.wrapping_add(1)];
        self.tcp_out(key, ACK, next);
        let known = self.known.get_mut(&key).unwrap();
        known.next = [next[0].wrapping_add(8), next[1]];
        (known.answered, known.established, known.last) = (true, true, self.bed.now);
    }

    fn data(&mut self, key: Key, known: Known) {
        let [mine, theirs] = known.next;
        let mut next = known.next;
        let mut closing = false;
        match self.below(12) {
            0 => {
                self.tcp_out(key, FIN | ACK, [mine, theirs]);
                closing = true;
            }
            1 => {
                self.tcp_in(Is::There, key, known.external, RST, [theirs, 0]);
                closing = true;
            }
            2..=6 => {
                self.tcp_out(key, ACK, [mine, theirs]);
                next[0] = mine.wrapping_add(8);
                // Sent again, as if it had been lost.
                if self.below(3) == 0 {
                    self.tcp_out(key, ACK, [mine, theirs]);
                }
            }
            _ => {
                self.tcp_in(Is::There, key, known.external, ACK, [theirs, mine]);
                next[1] = theirs.wrapping_add(6);
            }
        }
        let known = self.known.get_mut(&key).unwrap();
        (known.next, known.closing, known.last) = (next, closing, self.bed.now);
    }

    fn forged(&mut self, key: Key, known: Known) {
        let [mine, theirs] = known.next;
        let far = 1 << 21;
        let (flags, numbers) = match self.below(5) {
            0 => (RST, [theirs.wrapping_add(far), 0]),
            1 => (ACK, [theirs.wrapping_add(far), mine]),
            2 => (ACK, [theirs.wrapping_sub(far), mine]),
            3 => (ACK, [theirs, mine.wrapping_add(far)]),
            _ => (FIN | ACK, [theirs.wrapping_add(far), mine]),
        };
        self.tcp_in(Is::Gone, key, known.external, flags, numbers);
    }
}
