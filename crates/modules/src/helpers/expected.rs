//! Connections that are expected: found by their whole key but the source port, each once, for a while.

use std::collections::{HashMap, VecDeque};

use flowhop_engine::Related;
use flowhop_engine::sources::source_of;
use flowhop_flow::Key;
use flowhop_flow::key::Address;
use flowhop_flow::record::Tick;

use crate::nat::Opening;

/// How long one is waited for, in ticks: a minute.
pub(super) const LIFE: Tick = 57_220;
/// Of one connection; the oldest makes room.
pub(super) const OF_ONE: usize = 16;
/// Of all connections of one source; the oldest makes room, so that nobody takes away what others expect.
pub(super) const OF_SOURCE: usize = OF_ALL / 8;
/// Of all together; the oldest makes room.
pub(super) const OF_ALL: usize = 4096;

/// The key of a connection that is expected, whatever its source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    identity: u32,
    source: Address,
    destination: Address,
    port: u16,
}

impl Wanted {
    /// That of packets with this key.
    pub(super) const fn of(key: &Key) -> Self {
        Self { identity: key.identity, source: key.source, destination: key.destination, port: key.destination_port() }
    }
}

/// Whose expectations are bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    /// A connection, by its serial number.
    Parent(u32),
    /// Connections that one source has begun.
    Source(Address),
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expectation {
    pub(super) opening: Opening,
    pub(super) related: Related,
    /// Who has begun the connection that announced it.
    pub(super) client: Address,
    /// Identity of the rule.
    pub(super) rule: u16,
    pub(super) since: Tick,
}

impl Expectation {
    /// Who holds it, and how many each may hold.
    const fn holders(&self) -> [(Holder, usize); 2] {
        [(Holder::Parent(self.related.parent), OF_ONE), (Holder::Source(source_of(&self.client)), OF_SOURCE)]
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Expected {
    by_key: HashMap<Wanted, Expectation>,
    /// The oldest first.
    by_holder: HashMap<Holder, Vec<Wanted>>,
    /// In the order of their beginning; those that are gone or have begun anew are in it still.
    order: VecDeque<(Wanted, Tick)>,
}

impl Expected {
    /// Adds one; returns those that made room, or that it takes the place of.
    pub(super) fn add(&mut self, wanted: Wanted, expectation: Expectation) -> Vec<Opening> {
        let mut gone: Vec<Opening> = self.take(&wanted).map(|old| old.opening).into_iter().collect();
        for (holder, most) in expectation.holders() {
            let held = self.by_holder.get(&holder).filter(|all| all.len() >= most);
            if let Some(oldest) = held.and_then(|all| all.first().copied()) {
                gone.extend(self.take(&oldest).map(|old| old.opening));
            }
        }
        while self.by_key.len() >= OF_ALL {
            let Some((oldest, since)) = self.order.pop_front() else { break };
            gone.extend(self.take_since(&oldest, since));
        }
        if self.order.len() >= 2 * OF_ALL {
            let by_key = &self.by_key;
            self.order.retain(|(wanted, since)| by_key.get(wanted).is_some_and(|found| found.since == *since));
        }
        self.order.push_back((wanted, expectation.since));
        for (holder, _) in expectation.holders() {
            self.by_holder.entry(holder).or_default().push(wanted);
        }
        self.by_key.insert(wanted, expectation);
        gone
    }

    /// The one with this key, which is not expected any more then.
    pub(super) fn take(&mut self, wanted: &Wanted) -> Option<Expectation> {
        let found = self.by_key.remove(wanted)?;
        for (holder, _) in found.holders() {
            let Some(all) = self.by_holder.get_mut(&holder) else { continue };
            all.retain(|other| other != wanted);
            if all.is_empty() {
                self.by_holder.remove(&holder);
            }
        }
        Some(found)
    }

    /// The one with this key.
    pub(super) fn get(&self, wanted: &Wanted) -> Option<&Expectation> {
        self.by_key.get(wanted)
    }

    /// A connection goes on under another rule.
    pub(super) fn set_rule(&mut self, parent: u32, rule: u16) {
        for wanted in self.by_holder.get(&Holder::Parent(parent)).into_iter().flatten() {
            if let Some(expectation) = self.by_key.get_mut(wanted) {
                expectation.rule = rule;
            }
        }
    }

    /// Those of a connection are not expected any more.
    pub(super) fn forget(&mut self, parent: u32) -> Vec<Opening> {
        let all = self.by_holder.get(&Holder::Parent(parent)).cloned().unwrap_or_default();
        all.iter().filter_map(|wanted| self.take(wanted)).map(|old| old.opening).collect()
    }

    /// Those that were waited for long enough.
    pub(super) fn expire(&mut self, now: Tick) -> Vec<Opening> {
        let mut gone = Vec::new();
        while let Some((wanted, since)) =
            self.order.front().copied().filter(|(_, since)| now.wrapping_sub(*since) > LIFE)
        {
            self.order.pop_front();
            gone.extend(self.take_since(&wanted, since));
        }
        gone
    }

    fn take_since(&mut self, wanted: &Wanted, since: Tick) -> Option<Opening> {
        self.by_key.get(wanted).filter(|found| found.since == since)?;
        self.take(wanted).map(|old| old.opening)
    }
}

#[cfg(test)]
mod tests {
    use flowhop_flow::key::{address, ports};

    use super::*;
    use crate::nat::Endpoint;

    fn one(parent: u32, port: u16, since: Tick) -> (Wanted, Expectation) {
        let [source, destination] = ["192.0.2.1", "10.1.0.2"].map(|text| address(text.parse().unwrap()));
        let key = Key { source, destination, ports: ports(20, port), identity: Key::identity(6, 4, 0) };
        let endpoint = Endpoint { protocol: 6, address: destination, port };
        let related = Related { parent, from: 1, to: 0, source: None };
        let opening = Opening::plain(endpoint, source);
        // Each parent is of another client.
        let client = address(std::net::Ipv4Addr::from(0x0a00_0000 + parent).into());
        (Wanted::of(&key), Expectation { opening, related, client, rule: 1, since })
    }

    // N13: bounded for each connection and in all; the oldest makes room.
    #[test]
    fn the_oldest_makes_room() {
        let mut expected = Expected::default();
        for port in 0..OF_ONE as u16 + 1 {
            let (wanted, expectation) = one(7, 2000 + port, 1);
            assert_eq!(expected.add(wanted, expectation).len(), usize::from(usize::from(port) == OF_ONE));
        }
        assert!(expected.get(&one(7, 2000, 1).0).is_none());
        let others = (OF_ALL - OF_ONE) as u16;
        for port in 0..others {
            let (wanted, expectation) = one(100 + u32::from(port), 3000 + port, 2);
            assert!(expected.add(wanted, expectation).is_empty());
        }
        let (wanted, expectation) = one(8, 50_000, 3);
        assert_eq!(expected.add(wanted, expectation).len(), 1);
        assert!(expected.get(&one(7, 2001, 1).0).is_none());
        assert_eq!((expected.by_key.len(), expected.forget(7).len()), (OF_ALL, OF_ONE - 1));
        for round in 0..10 * OF_ALL as u32 {
            let (wanted, expectation) = one(9, 50_001, round);
            expected.add(wanted, expectation);
        }
        assert!(expected.order.len() <= 2 * OF_ALL);
    }

    // N13: one source takes nothing away from others, however many connections it has.
    #[test]
    fn a_source_makes_room_for_itself() {
        let mut expected = Expected::default();
        let (victim, expectation) = one(7, 2000, 1);
        expected.add(victim, expectation);
        let client = one(8, 2000, 1).1.client;
        for number in 0..2 * OF_ALL as u32 {
            let (wanted, expectation) = one(1000 + number / 4, 3000 + number as u16, 2);
            let gone = expected.add(wanted, Expectation { client, ..expectation });
            assert_eq!(gone.len(), usize::from(number as usize >= OF_SOURCE));
        }
        assert_eq!(expected.by_key.len(), 1 + OF_SOURCE);
        assert!(expected.take(&victim).is_some());
    }

    #[test]
    fn each_is_found_once_and_not_for_ever() {
        let mut expected = Expected::default();
        let (wanted, expectation) = one(7, 2000, u32::MAX - 10);
        assert!(expected.add(wanted, expectation).is_empty());
        assert_eq!(expected.expire(100), []);
        assert!(expected.take(&wanted).is_some());
        assert!(expected.take(&wanted).is_none());
        let (_, again) = one(7, 2000, 200);
        assert!(expected.add(wanted, again).is_empty());
        assert_eq!(expected.expire(LIFE), []);
        assert_eq!(expected.expire(LIFE + 201).len(), 1);
        assert!(expected.by_holder.is_empty() && expected.order.is_empty());
    }
}
