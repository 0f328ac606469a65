//! Datagrams in fragments: collected, judged as a whole, forwarded fragment by fragment.
//!
//! The whole is put together for inspection alone: its lengths, checksum and transport header are validated as those of
//! any packet, and the window check of TCP sees the whole segment. What is sent are the fragments that came, translated:
//! addresses in each, ports and checksum in the first. They are cut again only where one does not fit the output and
//! may be cut. Translated as a whole are ICMP errors, because the packet that they quote may go on in their second
//! fragment, and what goes from one family to the other ([`nat64`](crate::nat64)); both leave in fragments of the length
//! that they came in.

use flowhop_flow::parse::ETHERNET;
use flowhop_flow::record::Tick;
use flowhop_flow::{Key, Kind, Parsed, Reason};
use flowhop_wire::{Ipv6, Ipv6Fragment};

use crate::answers;
use crate::buffer::{Buffer, Offload};
use crate::engine::Engine;
use crate::fragments::{Datagram, Fate, Piece};
use crate::identification;
use crate::io::{Arrived, Io, LogEvent, Outcome};
use crate::nat64;
use crate::validate::{FragmentPlace, Validated, validate};

/// What the first fragment got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Forwarded by the entry with this key.
    Flow(Key),
    /// Left to the stack.
    Stack(Reason),
    /// Dropped.
    Drop(Reason),
}

impl Engine {
    pub(crate) fn fragment(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        place: &FragmentPlace,
        packet: &Buffer<'_>,
        io: &mut dyn Io,
    ) -> Outcome {
        let zone = self.interfaces.port(arrived.port).map_or(u16::MAX, |interface| interface.zone);
        let datagram = Datagram::of(&parsed.key, place, zone);
        let (bytes, offload) = (packet.bytes().to_vec(), packet.offload);
        let piece =
            Piece { bytes, offload, port: arrived.port, driver: arrived.driver, parsed: *parsed, place: *place };
        let (fate, given_up) = self.fragments.take(datagram, piece, arrived.now);
        self.drop_kept(&given_up, Reason::FragmentLimit);
        match fate {
            Fate::Kept => Outcome::of(Reason::HeldFragment),
            Fate::Repeated => Outcome::of(Reason::RepeatedFragment),
            Fate::Refused(reason, pieces) => {
                self.drop_kept(&pieces, reason);
                Outcome::of(reason)
            }
            Fate::Complete(pieces) => self.datagram(pieces, place.offset, arrived.now, io),
        }
    }

    /// Gives up what was not complete in time; its sender is told if the first fragment is here.
    pub(crate) fn give_up_fragments(&mut self, now: Tick, io: &mut dyn Io) {
        while let Some(mut pieces) = self.fragments.expired(now) {
            self.drop_kept(&pieces, Reason::FragmentTimeout);
            if let Some(first) = pieces.first_mut().filter(|first| first.place.offset == 0) {
                let arrived = Arrived { port: first.port, gate: 0, driver: first.driver, now };
                self.answer_not_complete(&arrived, &mut Buffer::new(&mut first.bytes, first.offload), io);
            }
        }
    }

    fn drop_kept(&self, pieces: &[Piece], reason: Reason) {
        for piece in pieces {
            self.counters.take_back(piece.port, Reason::HeldFragment, piece.bytes.len());
            self.counters.add(piece.port, reason, piece.bytes.len());
        }
    }

    /// A complete datagram. The fragment that came last, at the offset `last`, is the one whose outcome is returned; the
    /// others are counted here.
    fn datagram(&mut self, mut pieces: Vec<Piece>, last: u32, now: Tick, io: &mut dyn Io) -> Outcome {
        let mut outcome = Outcome::of(Reason::BadFragment);
        let outcomes = self.judge_whole(&mut pieces, now, io);
        for (piece, became) in pieces.iter().zip(outcomes) {
            if piece.place.offset == last {
                outcome = became;
                continue;
            }
            self.counters.take_back(piece.port, Reason::HeldFragment, piece.bytes.len());
            self.counters.add(piece.port, became.reason, piece.bytes.len());
        }
        outcome
    }

    /// What becomes of each fragment of a datagram.
    fn judge_whole(&mut self, pieces: &mut [Piece], now: Tick, io: &mut dyn Io) -> Vec<Outcome> {
        let all = |outcome: Outcome| vec![outcome; pieces.len()];
        let (Some(mut whole), Some(first)) = (whole(pieces), pieces.first()) else {
            return all(Outcome::of(Reason::BadFragment));
        };
        let arrived = Arrived { port: first.port, gate: 0, driver: first.driver, now };
        let Some(martians) = self.interfaces.port(arrived.port).map(|interface| interface.martians) else {
            return all(Outcome::of(Reason::NoZone));
        };
        let mut packet = Buffer::new(&mut whole, Offload::default());
        match validate(&packet, martians, &self.passing) {
            Err(fault) => all(Outcome::of(fault.reason)),
            Ok(Validated::Flow(parsed)) if !self.is_across(&parsed.key, arrived.port, now) => {
                self.forward_all(&parsed, pieces, now, io)
            }
            Ok(whole @ (Validated::Flow(parsed) | Validated::Message(parsed))) => {
                let bytes = packet.bytes().len();
                let mut io = InPieces { pieces, io };
                let outcome = if let Validated::Flow(_) = whole {
                    self.flow(&arrived, &parsed, &mut packet, &mut io)
                } else {
                    self.message(&arrived, &parsed, &mut packet, &mut io)
                };
                let mut outcomes = vec![outcome; pieces.len()];
                if outcome.kind == Kind::Hold {
                    self.count_held_whole(pieces, bytes, &mut outcomes);
                }
                outcomes
            }
            // Neighbour discovery must not be in fragments (RFC 6980); of the others there is none in a whole.
            Ok(Validated::NeighbourDiscovery | Validated::Fragment(..) | Validated::NotIp) => {
                all(Outcome::of(Reason::BadFragment))
            }
        }
    }

    /// The whole is kept, as one packet of its length, which is counted as the fragment that came first in it.
    fn count_held_whole(&self, pieces: &[Piece], bytes: usize, outcomes: &mut [Outcome]) {
        for outcome in outcomes.iter_mut().skip(1) {
            *outcome = Outcome::of(Reason::Reassembled);
        }
        if let (Some(first), Some(outcome)) = (pieces.first(), outcomes.first()) {
            self.counters.add(first.port, outcome.reason, bytes);
            self.counters.take_back(first.port, outcome.reason, first.bytes.len());
        }
    }

    /// Judges the first fragment with the transport header of the whole, and has the others follow it.
    fn forward_all(&mut self, parsed: &Parsed, pieces: &mut [Piece], now: Tick, io: &mut dyn Io) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(pieces.len());
        let mut decision = Decision::Drop(Reason::BadFragment);
        // What is sent on behalf of the first fragment may let go what was held, another datagram in fragments among it.
        let outer = self.datagram.replace(identification::Datagram::Unnamed);
        for piece in pieces {
            let arrived = Arrived { port: piece.port, gate: 0, driver: piece.driver, now };
            let mut packet = Buffer::new(&mut piece.bytes, piece.offload);
            if piece.place.offset != 0 {
                outcomes.push(self.follow(&arrived, &piece.parsed, decision, &mut packet, io));
                continue;
            }
            let first = Parsed { length: piece.parsed.length, ..*parsed };
            let outcome = self.flow(&arrived, &first, &mut packet, io);
            decision = match outcome.kind {
                Kind::Forward | Kind::Hold | Kind::Consume => Decision::Flow(first.key),
                Kind::Stack => Decision::Stack(outcome.reason),
                Kind::Drop | Kind::HandDown | Kind::Pass => Decision::Drop(outcome.reason),
            };
            outcomes.push(outcome);
        }
        self.datagram.set(outer);
        outcomes
    }

    /// A later fragment goes where the first one went.
    fn follow(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        decision: Decision,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Outcome {
        match decision {
            Decision::Drop(reason) => Outcome::of(reason),
            Decision::Stack(reason) => self.to_stack(arrived.port, reason, packet, io),
            Decision::Flow(key) => match self.table.find(&key, self.table.hash(&key)) {
                Some((block, direction)) => self.known(arrived, parsed, block, direction, packet, io),
                None => Outcome::of(Reason::BadFragment),
            },
        }
    }
}

/// The datagram that fragments in order of their places make, as one frame: with IPv6 the fragment header stays and says
/// that there is nothing but this (RFC 6946). `None` if no packet can be that long.
fn whole(pieces: &[Piece]) -> Option<Vec<u8>> {
    let first = pieces.first().filter(|first| first.place.offset == 0)?;
    let mut frame = first.bytes.get(..first.place.data)?.to_vec();
    for piece in pieces {
        frame.extend_from_slice(piece.data());
    }
    let (headers, length) = (first.place.data - ETHERNET, frame.len() - ETHERNET);
    if first.parsed.key.family() == 4 {
        u16::try_from(length).ok()?;
        answers::set_fragment(&mut frame, headers, length, 0, false);
    } else {
        let payload = u16::try_from(length - Ipv6::LEN).ok()?;
        frame.get_mut(ETHERNET + 4..ETHERNET + 6)?.copy_from_slice(&payload.to_be_bytes());
        let fragment = first.place.data.checked_sub(Ipv6Fragment::LEN)?;
        frame.get_mut(fragment + 2..fragment + 4)?.fill(0);
    }
    Some(frame)
}

/// Sends what was put together in fragments as long as those that it came in, and leaves these themselves to the stack.
struct InPieces<'a> {
    pieces: &'a [Piece],
    io: &'a mut dyn Io,
}

impl Io for InPieces<'_> {
    fn transmit(&mut self, port: u8, ifindex: u32, frame: &mut [u8], offload: &Offload) -> bool {
        let is_v4 = nat64::is_v4(frame);
        let longest = self.room(usize::MAX, is_v4);
        // Of IPv6 an error fits any link (RFC 4443 section 2.4 c), and what else there is has been cut.
        if !is_v4 || frame.len() <= ETHERNET + longest {
            return self.io.transmit(port, ifindex, frame, offload);
        }
        answers::fragment(frame, longest as u32, |piece| self.io.transmit(port, ifindex, piece, offload))
    }

    fn room(&self, carried: usize, is_v4: bool) -> usize {
        let longest = self.pieces.iter().map(|piece| piece.parsed.length as usize).max().unwrap_or(0);
        let was_v4 = self.pieces.first().is_some_and(|first| first.parsed.key.family() == 4);
        carried.min(match (was_v4, is_v4) {
            (true, false) => longest + nat64::FRAGMENTS_DIFFER,
            (false, true) => longest.saturating_sub(nat64::FRAGMENTS_DIFFER),
            _ => longest,
        })
    }

    fn stack(&mut self, _: u8, _: &mut [u8], _: &Offload) -> bool {
        self.pieces.iter().all(|piece| {
            let mut frame = piece.bytes.clone();
            self.io.stack(piece.port, &mut frame, &piece.offload)
        })
    }

    fn flush(&mut self) -> bool {
        self.io.flush()
    }

    fn resolve(&mut self, ifindex: u32, next_hop: std::net::IpAddr) {
        self.io.resolve(ifindex, next_hop);
    }

    fn opened(&mut self) {
        self.io.opened();
    }

    fn partial_checksum(&mut self, port: u8) {
        self.io.partial_checksum(port);
    }

    fn log(&mut self, event: &LogEvent) {
        self.io.log(event);
    }
}
