//! Fragments are forwarded by the decision that their first fragment got.
//!
//! The decision of a datagram is remembered for a while; fragments that come before the first one wait for it,
//! in bounded memory (RFC 4787 REQ-14: in any order). Overlapping fragments end the datagram (RFC 1858,
//! RFC 5722): what was not yet forwarded is dropped.

use std::collections::{HashMap, VecDeque};

use flowhop_flow::Key;
use flowhop_flow::key::Address;
use flowhop_flow::reason::Reason;
use flowhop_flow::record::Tick;

use crate::buffer::Offload;
use crate::validate::FragmentPlace;

/// How long a datagram is remembered, in ticks: as long as its fragments may be under way (RFC 791 suggests
/// 15 s, RFC 8200 section 4.5 60 s for a receiver; a router keeps no more than it must).
const REMEMBERED: Tick = 15_000;
/// How long a later fragment waits for the first one, in ticks.
const WAITS: Tick = 2_000;
/// Places that one datagram may have; a 64 KiB datagram in fragments of 1280 bytes has 52.
const MAX_PIECES: usize = 64;

/// Names a datagram: RFC 791 section 3.2, RFC 8200 section 4.5, and the port it comes in through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    source: Address,
    destination: Address,
    identity: u32,
    identification: u32,
    port: u8,
}

impl Datagram {
    /// The datagram that a fragment with this key (ports aside) belongs to.
    #[must_use]
    pub const fn of(key: &Key, place: &FragmentPlace, port: u8) -> Self {
        Self {
            source: key.source,
            destination: key.destination,
            // ICMPv6 and the like may be named by another header in later fragments of a long chain.
            identity: if key.family() == 4 { key.identity } else { Key::identity(0, 6, 0) },
            identification: place.identification,
            port,
        }
    }
}

/// What the first fragment got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Forwarded by the entry with this key.
    Flow(Key),
    /// Left to the stack.
    Stack,
    /// Dropped.
    Drop(Reason),
}

/// A later fragment that waits.
#[derive(Debug)]
pub struct Waiting {
    /// The frame.
    pub bytes: Vec<u8>,
    /// Its offload state.
    pub offload: Offload,
    /// Port it came in through.
    pub port: u8,
    datagram: Datagram,
    since: Tick,
}

#[derive(Debug)]
struct Entry {
    decision: Option<Decision>,
    pieces: Vec<(u32, u32)>,
    since: Tick,
}

/// Datagrams in fragments.
#[derive(Debug)]
pub struct Fragments {
    entries: HashMap<Datagram, Entry>,
    order: VecDeque<(Datagram, Tick)>,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

/// What to do with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Decide: it is the first one.
    Decide,
    /// As the first one.
    Follow(Decision),
    /// Wait for the first one.
    Wait,
    /// It overlaps, or its datagram cannot be tracked.
    Refuse,
}

impl Fragments {
    /// Room for so many datagrams, and bytes of fragments that wait.
    #[must_use]
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            entries: HashMap::with_capacity(max_entries),
            order: VecDeque::with_capacity(max_entries),
            waiting: VecDeque::new(),
            bytes: 0,
            max_entries,
            max_bytes,
        }
    }

    /// Notes a fragment and says what to do with it.
    pub fn note(&mut self, datagram: Datagram, place: &FragmentPlace, now: Tick) -> Fate {
        self.forget_old(now);
        if !self.entries.contains_key(&datagram) {
            if self.entries.len() >= self.max_entries && !self.forget_oldest() {
                return Fate::Refuse;
            }
            self.order.push_back((datagram, now));
            self.entries.insert(datagram, Entry { decision: None, pieces: Vec::new(), since: now });
        }
        let Some(entry) = self.entries.get_mut(&datagram) else { return Fate::Refuse };
        let (start, end) = (place.offset, place.offset + place.length);
        // An exact repetition is a duplicate on the way, not an attack.
        let repeated = entry.pieces.contains(&(start, end));
        if !repeated {
            let overlaps = entry.pieces.iter().any(|&(s, e)| start < e && s < end);
            if overlaps || entry.pieces.len() >= MAX_PIECES {
                entry.decision = Some(Decision::Drop(Reason::BadFragment));
                return Fate::Refuse;
            }
            entry.pieces.push((start, end));
        }
        match entry.decision {
            Some(Decision::Drop(Reason::BadFragment)) => Fate::Refuse,
            _ if start == 0 => Fate::Decide,
            Some(decision) => Fate::Follow(decision),
            None => Fate::Wait,
        }
    }

    /// Makes room for a datagram by forgetting the one that has been known for longest; what waits for it expires.
    fn forget_oldest(&mut self) -> bool {
        while let Some((datagram, since)) = self.order.pop_front() {
            if self.entries.get(&datagram).is_some_and(|entry| entry.since == since) {
                self.entries.remove(&datagram);
                return true;
            }
        }
        false
    }

    /// The first fragment got its decision; hands out what waited for it.
    pub fn decide(&mut self, datagram: &Datagram, decision: Decision) -> Vec<Waiting> {
        let Some(entry) = self.entries.get_mut(datagram) else { return Vec::new() };
        entry.decision = Some(decision);
        // Most first fragments come first: the queue is not gone through for them.
        if entry.pieces.len() < 2 {
            return Vec::new();
        }
        self.take_if(|waiting| waiting.datagram == *datagram)
    }

    /// Keeps a later fragment; `false` when there is no room.
    pub fn wait(&mut self, bytes: &[u8], offload: Offload, port: u8, datagram: Datagram, now: Tick) -> bool {
        if self.bytes + bytes.len() > self.max_bytes {
            return false;
        }
        self.bytes += bytes.len();
        self.waiting.push_back(Waiting { bytes: bytes.to_vec(), offload, port, datagram, since: now });
        true
    }

    /// Fragments whose first one did not come in time.
    pub fn expired(&mut self, now: Tick) -> Vec<Waiting> {
        self.forget_old(now);
        if self.waiting.front().is_none_or(|waiting| now.wrapping_sub(waiting.since) <= WAITS) {
            return Vec::new();
        }
        self.take_if(|waiting| now.wrapping_sub(waiting.since) > WAITS)
    }

    fn take_if(&mut self, wanted: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else { break };
            if wanted(&waiting) {
                self.bytes -= waiting.bytes.len();
                taken.push(waiting);
            } else {
                self.waiting.push_back(waiting);
            }
        }
        taken
    }

    fn forget_old(&mut self, now: Tick) {
        while let Some((datagram, since)) = self.order.front().copied() {
            if now.wrapping_sub(since) <= REMEMBERED {
                return;
            }
            self.order.pop_front();
            if self.entries.get(&datagram).is_some_and(|entry| entry.since == since) {
                self.entries.remove(&datagram);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u32, length: u32, more: bool) -> FragmentPlace {
        FragmentPlace { identification: 7, offset, length, more }
    }

    fn datagram() -> Datagram {
        let key = Key { source: [1; 4], destination: [2; 4], ports: 0, identity: Key::identity(17, 4, 0) };
        Datagram::of(&key, &place(0, 8, true), 3)
    }

    // RFC 4787 REQ-14: fragments may come in any order.
    #[test]
    fn later_fragments_wait_for_the_first() {
        let mut fragments = Fragments::new(4, 1000);
        assert_eq!(fragments.note(datagram(), &place(8, 8, false), 0), Fate::Wait);
        assert!(fragments.wait(&[0; 50], Offload::default(), 3, datagram(), 0));
        assert_eq!(fragments.note(datagram(), &place(0, 8, true), 1), Fate::Decide);
        assert_eq!(fragments.decide(&datagram(), Decision::Stack).len(), 1);
        assert_eq!(fragments.note(datagram(), &place(16, 8, false), 2), Fate::Follow(Decision::Stack));
    }

    // RFC 5722: an overlap ends the datagram; an exact duplicate does not.
    #[test]
    fn overlap_ends_the_datagram() {
        let mut fragments = Fragments::new(4, 1000);
        assert_eq!(fragments.note(datagram(), &place(0, 16, true), 0), Fate::Decide);
        assert!(fragments.decide(&datagram(), Decision::Stack).is_empty());
        assert_eq!(fragments.note(datagram(), &place(0, 16, true), 0), Fate::Decide);
        assert_eq!(fragments.note(datagram(), &place(8, 16, false), 0), Fate::Refuse);
        assert_eq!(fragments.note(datagram(), &place(32, 16, false), 0), Fate::Refuse);
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let mut fragments = Fragments::new(1, 60);
        assert_eq!(fragments.note(datagram(), &place(8, 8, false), 0), Fate::Wait);
        assert!(fragments.wait(&[0; 50], Offload::default(), 3, datagram(), 0));
        assert!(!fragments.wait(&[0; 50], Offload::default(), 3, datagram(), 0));
        let key = Key { source: [9; 4], destination: [2; 4], ports: 0, identity: Key::identity(17, 4, 0) };
        let other = Datagram::of(&key, &place(0, 8, true), 3);
        // A new datagram takes the place of the oldest.
        assert_eq!(fragments.note(other, &place(0, 8, true), 0), Fate::Decide);
        assert_eq!(fragments.note(datagram(), &place(8, 8, false), 0), Fate::Wait);
        assert_eq!(fragments.expired(WAITS + 1).len(), 1);
        assert!(fragments.wait(&[0; 50], Offload::default(), 3, datagram(), WAITS + 1));
    }
}
