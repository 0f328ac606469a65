//! Fragments are collected until their datagram is complete; then it is judged as a whole, and the fragments are
//! forwarded as they came.
//!
//! # What
//! The fragments of a datagram may come in any order (RFC 4787 REQ-14). None leaves before all are here: what is
//! inspected is what the receiver will put together, and nothing of a datagram that overlaps itself gets through. An
//! exact repetition is dropped by itself; whatever else overlaps ends the datagram, in both families (RFC 5722, RFC 8200
//! section 4.5), and so do fragments behind its end. Datagrams that are not complete in time are dropped (RFC 791, RFC
//! 8200 section 4.5).
//!
//! # Memory
//! Bounded by [`Room`], fixed at start: datagrams, bytes with [`OVERHEAD`] for each fragment, fragments of a datagram. One
//! [source](source_of) may use an eighth of datagrams and bytes. What is over the bound makes room by giving up the oldest datagram,
//! of the same source or of all: legitimate ones are complete within milliseconds, so that those of an attack are the
//! oldest. Work for each fragment is a look at those of its datagram.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use flowhop_flow::key::Address;
use flowhop_flow::record::Tick;
use flowhop_flow::{Key, Parsed, Reason};

use crate::buffer::Offload;
use crate::sources::source_of;
use crate::validate::FragmentPlace;

/// How long a datagram may take to be complete, in ticks: 30 s for IPv4 (RFC 791 section 3.2 begins with 15 s), 60 s for
/// IPv6 (RFC 8200 section 4.5).
const LIFETIMES: [Tick; 2] = [30 * 954, 60 * 954];
/// Fragments that one datagram may have: of 64 KiB at the smallest MTU that hosts are asked to take, 576 bytes.
const MAX_PIECES: usize = 128;
/// The share of datagrams and bytes that one source may use.
const SHARE: usize = 8;
/// What a fragment costs beside its bytes, about.
const OVERHEAD: usize = 256;

/// Names a datagram (RFC 791 section 3.2, RFC 8200 section 4.5), and the zone it comes in from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    source: Address,
    destination: Address,
    identity: u32,
    identification: u32,
    zone: u16,
}

impl Datagram {
    /// The datagram that a fragment with this key (ports aside) belongs to.
    #[must_use]
    pub const fn of(key: &Key, place: &FragmentPlace, zone: u16) -> Self {
        Self {
            source: key.source,
            destination: key.destination,
            // What an IPv6 fragment says of the header behind it counts in the first one only.
            identity: if key.family() == 4 { key.identity } else { Key::identity(0, 6, 0) },
            identification: place.identification,
            zone,
        }
    }

    /// 0 for IPv4, 1 for IPv6.
    const fn family(&self) -> usize {
        if self.identity >> 8 & 0xff == 4 { 0 } else { 1 }
    }
}

/// A fragment that is kept.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The frame as it came.
    pub bytes: Vec<u8>,
    /// Its offload state.
    pub offload: Offload,
    /// Port it came in through.
    pub port: u8,
    /// A program in a driver handed it down.
    pub driver: bool,
    /// Its headers; nothing of the transport header is read.
    pub parsed: Parsed,
    /// Its place in the datagram.
    pub place: FragmentPlace,
}

impl Piece {
    const fn end(&self) -> u32 {
        self.place.offset + self.place.length
    }

    /// The bytes that it is about.
    pub(crate) fn data(&self) -> &[u8] {
        let start = self.place.data;
        self.bytes.get(start..start + self.place.length as usize).unwrap_or_default()
    }

    const fn cost(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }
}

/// What has become of a fragment's datagram.
#[derive(Debug)]
pub enum Fate {
    /// Its others are waited for.
    Kept,
    /// It is here already.
    Repeated,
    /// The datagram is given up for this reason, with what there was of it.
    Refused(Reason, Vec<Piece>),
    /// All are here, in order of their places.
    Complete(Vec<Piece>),
}

/// Bounds of memory.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Datagrams.
    pub datagrams: usize,
    /// Bytes.
    pub bytes: usize,
}

/// A datagram in the making.
#[derive(Debug)]
struct Assembly {
    number: u64,
    since: Tick,
    /// In order of their places, none overlapping.
    pieces: Vec<Piece>,
    /// Where it ends, once the last fragment is here.
    end: Option<u32>,
    /// It was given up for this reason; what is still to come is dropped for it too.
    refused: Option<Reason>,
}

impl Assembly {
    fn cost(&self) -> usize {
        self.pieces.iter().map(Piece::cost).sum()
    }

    fn is_complete(&self) -> bool {
        let all: u32 = self.pieces.iter().map(|piece| piece.place.length).sum();
        self.end == Some(all)
    }

    /// Puts a fragment in its place.
    fn put(&mut self, piece: Piece) -> Result<(), Misfit> {
        let at = self.pieces.partition_point(|other| other.place.offset < piece.place.offset);
        if let Some(same) = self.pieces.get(at)
            && (same.place.offset, same.end(), same.place.more) == (piece.place.offset, piece.end(), piece.place.more)
            && same.data() == piece.data()
        {
            return Err(Misfit::Repeated);
        }
        let before = at.checked_sub(1).and_then(|before| self.pieces.get(before));
        if before.is_some_and(|before| before.end() > piece.place.offset)
            || self.pieces.get(at).is_some_and(|after| after.place.offset < piece.end())
        {
            return Err(Misfit::Refused(Reason::OverlappingFragment));
        }
        let beyond = |end: u32| piece.end() > end || !piece.place.more && piece.end() != end;
        let furthest = self.pieces.last().map_or(0, Piece::end);
        if self.end.is_some_and(beyond) || !piece.place.more && furthest > piece.end() {
            return Err(Misfit::Refused(Reason::BadFragment));
        }
        if self.pieces.len() >= MAX_PIECES {
            return Err(Misfit::Refused(Reason::FragmentLimit));
        }
        if !piece.place.more {
            self.end = Some(piece.end());
        }
        self.pieces.insert(at, piece);
        Ok(())
    }
}

enum Misfit {
    Repeated,
    Refused(Reason),
}

/// What one source uses.
#[derive(Debug, Default)]
struct Source {
    bytes: usize,
    /// Its datagrams, the oldest first.
    numbers: BTreeSet<u64>,
}

/// Datagrams in fragments.
#[derive(Debug)]
pub struct Fragments {
    assemblies: HashMap<Datagram, Assembly>,
    /// By age, IPv4 and IPv6.
    order: [BTreeMap<u64, Datagram>; 2],
    sources: HashMap<Address, Source>,
    room: Room,
    bytes: usize,
    last: u64,
}

impl Fragments {
    /// Nothing yet.
    #[must_use]
    pub fn new(room: Room) -> Self {
        Self {
            assemblies: HashMap::with_capacity(room.datagrams),
            order: [BTreeMap::new(), BTreeMap::new()],
            sources: HashMap::new(),
            room,
            bytes: 0,
            last: 0,
        }
    }

    /// Bytes in use, with overhead.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in a fragment, and says what has become of its datagram. The second value is what had to make room for it.
    pub fn take(&mut self, datagram: Datagram, piece: Piece, now: Tick) -> (Fate, Vec<Piece>) {
        let given_up = self.make_room(&datagram, piece.cost());
        let assembly = self.assemblies.entry(datagram).or_insert_with(|| {
            self.last += 1;
            self.order[datagram.family()].insert(self.last, datagram);
            self.sources.entry(source_of(&datagram.source)).or_default().numbers.insert(self.last);
            Assembly { number: self.last, since: now, pieces: Vec::new(), end: None, refused: None }
        });
        if let Some(reason) = assembly.refused {
            return (Fate::Refused(reason, Vec::new()), given_up);
        }
        let cost = piece.cost();
        let fate = match assembly.put(piece) {
            Ok(()) => {
                self.bytes += cost;
                self.sources.entry(source_of(&datagram.source)).or_default().bytes += cost;
                if assembly.is_complete() { Fate::Complete(self.remove(&datagram)) } else { Fate::Kept }
            }
            Err(Misfit::Repeated) => Fate::Repeated,
            Err(Misfit::Refused(reason)) => {
                assembly.refused = Some(reason);
                let (freed, pieces) = (assembly.cost(), std::mem::take(&mut assembly.pieces));
                self.give_back(&datagram, freed);
                Fate::Refused(reason, pieces)
            }
        };
        (fate, given_up)
    }

    /// The next datagram that has not been completed in time: what there is of it, in order of place.
    pub fn expired(&mut self, now: Tick) -> Option<Vec<Piece>> {
        let oldest = self.order.iter().filter_map(|order| order.first_key_value().map(|(_, datagram)| *datagram));
        let over = oldest.into_iter().find(|datagram| {
            let since = self.assemblies.get(datagram).map_or(now, |assembly| assembly.since);
            now.wrapping_sub(since) > LIFETIMES[datagram.family()]
        })?;
        Some(self.remove(&over))
    }

    /// Gives up the oldest datagrams until there is room for a fragment of this one.
    fn make_room(&mut self, datagram: &Datagram, cost: usize) -> Vec<Piece> {
        let mut given_up = Vec::new();
        let is_new = !self.assemblies.contains_key(datagram);
        let count = usize::from(is_new);
        loop {
            let Room { datagrams, bytes } = self.room;
            let source = self.sources.get(&source_of(&datagram.source));
            let of_source = source.filter(|source| {
                source.bytes + cost > bytes / SHARE || source.numbers.len() + count > (datagrams / SHARE).max(1)
            });
            let oldest = if let Some(source) = of_source {
                source.numbers.first().copied()
            } else if self.bytes + cost > bytes || self.assemblies.len() + count > datagrams {
                self.order.iter().filter_map(|order| order.first_key_value()).map(|(number, _)| *number).min()
            } else {
                None
            };
            let find = |number: u64| self.order.iter().find_map(|order| order.get(&number).copied());
            let Some(oldest) = oldest.and_then(find) else { return given_up };
            let own = oldest == *datagram;
            given_up.extend(self.remove(&oldest));
            if own {
                // It begins anew with what comes.
                return given_up;
            }
        }
    }

    fn remove(&mut self, datagram: &Datagram) -> Vec<Piece> {
        let Some(assembly) = self.assemblies.remove(datagram) else { return Vec::new() };
        self.order[datagram.family()].remove(&assembly.number);
        self.give_back(datagram, assembly.cost());
        if let Entry::Occupied(mut source) = self.sources.entry(source_of(&datagram.source)) {
            source.get_mut().numbers.remove(&assembly.number);
            if source.get().numbers.is_empty() {
                source.remove();
            }
        }
        assembly.pieces
    }

    fn give_back(&mut self, datagram: &Datagram, bytes: usize) {
        self.bytes -= bytes;
        if let Some(source) = self.sources.get_mut(&source_of(&datagram.source)) {
            source.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use flowhop_flow::Transport;

    use super::*;

    const ROOM: Room = Room { datagrams: 64, bytes: 64 << 10 };

    fn piece(
        source: u32,
        family: u8,
        identification: u32,
        (offset, length, more): (u32, u32, bool),
    ) -> (Datagram, Piece) {
        filled(source, family, identification, (offset, length, more), 0)
    }

    fn filled(
        source: u32,
        family: u8,
        identification: u32,
        (offset, length, more): (u32, u32, bool),
        fill: u8,
    ) -> (Datagram, Piece) {
        let place = FragmentPlace { identification, offset, length, more, data: 34 };
        let identity = Key::identity(17, family, 0);
        let key = Key { source: [source; 4], destination: [2; 4], ports: 0, identity };
        let parsed = Parsed {
            key,
            network: 14,
            transport_offset: 34,
            transport: Transport::Opaque,
            length: 20 + length,
            ttl: 9,
        };
        let bytes = vec![fill; 34 + length as usize];
        let piece = Piece { bytes, offload: Offload::default(), port: 1, driver: false, parsed, place };
        (Datagram::of(&key, &place, 0), piece)
    }

    fn take(fragments: &mut Fragments, (datagram, piece): (Datagram, Piece), now: Tick) -> Fate {
        let (fate, given_up) = fragments.take(datagram, piece, now);
        assert!(given_up.is_empty());
        fate
    }

    fn is_empty(fragments: &Fragments) -> bool {
        fragments.assemblies.is_empty()
            && fragments.order.iter().all(BTreeMap::is_empty)
            && fragments.sources.is_empty()
            && fragments.bytes == 0
    }

    // RFC 4787 REQ-14: in any order; RFC 8200 section 4.5: an exact repetition ends nothing.
    #[test]
    fn any_order_is_complete_once_all_are_here() {
        let places = [(0, 16, true), (16, 8, true), (24, 24, true), (48, 3, false)];
        for seed in 0..24 {
            let mut order: Vec<usize> = (0..4).collect();
            order.swap(0, seed % 4);
            order.swap(1, 1 + seed / 4 % 3);
            order.swap(2, 2 + seed / 12);
            let mut fragments = Fragments::new(ROOM);
            for (count, at) in order.iter().enumerate() {
                let fate = take(&mut fragments, piece(1, 4, 7, places[*at]), 0);
                if count < 3 {
                    assert!(matches!(fate, Fate::Kept));
                    assert!(matches!(take(&mut fragments, piece(1, 4, 7, places[*at]), 0), Fate::Repeated));
                    continue;
                }
                let Fate::Complete(pieces) = fate else { panic!("{order:?}: {fate:?}") };
                assert_eq!(pieces.iter().map(|piece| piece.place.offset).collect::<Vec<_>>(), [0, 16, 24, 48]);
            }
            assert!(is_empty(&fragments));
        }
    }

    // RFC 1858, RFC 3128, RFC 5722: any overlap ends the datagram, what is still to come included, until its time is over.
    #[test]
    fn whatever_overlaps_ends_the_datagram() {
        for (second, reason) in [
            ((8, 16, true), Reason::OverlappingFragment),
            ((0, 8, true), Reason::OverlappingFragment),
            ((0, 24, true), Reason::OverlappingFragment),
            ((0, 16, false), Reason::OverlappingFragment),
            ((56, 8, true), Reason::OverlappingFragment),
            ((24, 8, false), Reason::BadFragment),
        ] {
            let mut fragments = Fragments::new(ROOM);
            assert!(matches!(take(&mut fragments, piece(1, 6, 7, (0, 16, true)), 0), Fate::Kept));
            assert!(matches!(take(&mut fragments, piece(1, 6, 7, (48, 16, true)), 0), Fate::Kept));
            let fate = take(&mut fragments, piece(1, 6, 7, second), 0);
            let Fate::Refused(why, pieces) = fate else { panic!("{second:?}: {fate:?}") };
            assert_eq!((why, pieces.len()), (reason, 2), "{second:?}");
            let fate = take(&mut fragments, piece(1, 6, 7, (16, 8, true)), 1000);
            assert!(matches!(fate, Fate::Refused(why, _) if why == reason));
            assert_eq!(fragments.bytes(), 0);
            assert!(fragments.expired(LIFETIMES[1]).is_none());
            assert!(fragments.expired(LIFETIMES[1] + 1).is_some_and(|pieces| pieces.is_empty()));
            assert!(is_empty(&fragments));
        }
        // The same place with other bytes is no repetition.
        let mut fragments = Fragments::new(ROOM);
        take(&mut fragments, piece(1, 4, 7, (0, 16, true)), 0);
        let fate = take(&mut fragments, filled(1, 4, 7, (0, 16, true), 1), 0);
        assert!(matches!(fate, Fate::Refused(Reason::OverlappingFragment, _)));
        // Nothing is behind the end.
        let mut fragments = Fragments::new(ROOM);
        take(&mut fragments, piece(1, 4, 7, (16, 8, false)), 0);
        assert!(matches!(
            take(&mut fragments, piece(1, 4, 7, (24, 8, true)), 0),
            Fate::Refused(Reason::BadFragment, _)
        ));
    }

    // RFC 791 section 3.2, RFC 8200 section 4.5: from the first that came.
    #[test]
    fn time_is_by_family() {
        let mut fragments = Fragments::new(ROOM);
        take(&mut fragments, piece(1, 6, 7, (8, 8, true)), 0);
        take(&mut fragments, piece(1, 4, 7, (8, 8, true)), 10);
        take(&mut fragments, piece(1, 4, 7, (0, 8, true)), 20_000);
        assert!(fragments.expired(10 + LIFETIMES[0]).is_none());
        assert_eq!(fragments.expired(11 + LIFETIMES[0]).map(|pieces| pieces.len()), Some(2));
        assert!(fragments.expired(LIFETIMES[1]).is_none());
        assert_eq!(fragments.expired(1 + LIFETIMES[1]).map(|pieces| pieces.len()), Some(1));
        assert!(is_empty(&fragments));
    }

    // Bounded whatever is sent; one source cannot keep another from being served.
    #[test]
    fn memory_is_bounded_and_shared() {
        let mut fragments = Fragments::new(ROOM);
        let (datagram, first) = piece(9, 4, 1, (0, 80, true));
        assert!(matches!(fragments.take(datagram, first, 0).0, Fate::Kept));
        let mut given_up = 0;
        for identification in 0..1000 {
            let (datagram, piece) = piece(1, 4, identification, (0, 800, true));
            given_up += fragments.take(datagram, piece, 0).1.len();
            assert!(fragments.bytes() <= ROOM.bytes && fragments.assemblies.len() <= ROOM.datagrams);
            assert!(fragments.sources[&source_of(&[1; 4])].bytes <= ROOM.bytes / SHARE);
        }
        assert_eq!(
            given_up,
            1000 - ROOM.datagrams / SHARE + 1 - usize::from(8 * (834 + OVERHEAD) <= ROOM.bytes / SHARE)
        );
        let (datagram, last) = piece(9, 4, 1, (80, 8, false));
        assert!(matches!(fragments.take(datagram, last, 0).0, Fate::Complete(_)), "the other source is not concerned");
        // Many sources: the oldest go.
        for source in 100..1000 {
            let (datagram, piece) = piece(source, 6, 1, (0, 800, true));
            fragments.take(datagram, piece, 0);
            assert!(fragments.bytes() <= ROOM.bytes && fragments.assemblies.len() <= ROOM.datagrams);
        }
        assert!(
            !fragments.sources.contains_key(&source_of(&[1; 4]))
                && fragments.sources.contains_key(&source_of(&[999; 4]))
        );
        // A datagram has so many fragments at most.
        let mut fragments = Fragments::new(Room { datagrams: 64, bytes: 16 << 20 });
        for place in 0..MAX_PIECES as u32 {
            assert!(matches!(take(&mut fragments, piece(1, 4, 7, (place * 8, 8, true)), 0), Fate::Kept));
        }
        let fate = take(&mut fragments, piece(1, 4, 7, (8 * MAX_PIECES as u32, 8, true)), 0);
        assert!(matches!(fate, Fate::Refused(Reason::FragmentLimit, pieces) if pieces.len() == MAX_PIECES));
    }
}
