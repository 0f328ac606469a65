//! External ports that were in use a moment ago.
//!
//! What is still on its way to one must not reach another host: for a time a port is given back to nobody but the host that
//! had it, as long as there are others (RFC 6888 REQ-8).

use std::collections::{HashMap, VecDeque};

use flowhop_flow::key::Address;
use flowhop_flow::record::Tick;

use super::bindings::Endpoint;
use super::port_set::PortSet;

/// How long a port rests if nothing is said, in ticks: 120 seconds.
const REST: Tick = 114_441;
/// Most ports that are woken at once; what has rested for long enough may have to wait for the next turn.
const WOKEN: usize = 64;

/// Who had a port, for whom it does not have to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// An inside endpoint.
    Endpoint,
    /// An inside address, which has ports to itself.
    Address,
}

/// See the module. In bounded memory: where more ports are freed than there is room for, the oldest rest for less.
#[derive(Debug)]
pub(super) struct Resting {
    ports: HashMap<Endpoint, Rest>,
    /// The same by external address and protocol.
    sets: HashMap<(Address, u8), PortSet>,
    /// In the order that they were laid down in, and some that are in use again since; never more than twice as many as there
    /// is room for.
    order: VecDeque<(Endpoint, Tick)>,
    room: usize,
    rest: Tick,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    inside: Endpoint,
    since: Tick,
}

impl Resting {
    /// Room for so many ports.
    pub(super) fn new(room: usize) -> Self {
        Self { ports: HashMap::new(), sets: HashMap::new(), order: VecDeque::new(), room: room.max(1), rest: REST }
    }

    /// From now on so many ports rest for so long.
    pub(super) fn configure(&mut self, rest: Tick, room: usize) {
        (self.rest, self.room) = (rest, room.max(1));
        while self.ports.len() > self.room {
            self.wake_oldest();
        }
        self.forget_used();
    }

    /// A port is not in use any more.
    pub(super) fn lay_down(&mut self, external: Endpoint, inside: Endpoint, now: Tick) {
        self.expire(now);
        while self.ports.len() >= self.room {
            self.wake_oldest();
        }
        if self.order.len() >= 2 * self.room {
            self.forget_used();
        }
        self.ports.insert(external, Rest { inside, since: now });
        self.sets.entry((external.address, external.protocol)).or_default().set(external.port, true);
        self.order.push_back((external, now));
    }

    /// Wakes ports that have rested for long enough.
    pub(super) fn expire(&mut self, now: Tick) {
        let rest = self.rest;
        let over = |oldest: &(Endpoint, Tick)| now.wrapping_sub(oldest.1) > rest;
        for _ in 0..WOKEN {
            if !self.order.front().is_some_and(over) {
                return;
            }
            self.wake_oldest();
        }
    }

    fn forget_used(&mut self) {
        let ports = &self.ports;
        self.order.retain(|(external, since)| ports.get(external).is_some_and(|rest| rest.since == *since));
    }

    fn wake_oldest(&mut self) {
        if let Some((oldest, since)) = self.order.pop_front()
            && self.ports.get(&oldest).is_some_and(|rest| rest.since == since)
        {
            self.wake(&oldest);
        }
    }

    /// The ports of an external address that rest.
    pub(super) fn of(&self, address: Address, protocol: u8) -> Option<&PortSet> {
        self.sets.get(&(address, protocol))
    }

    /// Whether a port does not have to rest for an inside endpoint.
    pub(super) fn is_own(&self, external: &Endpoint, inside: &Endpoint, holder: Holder) -> bool {
        self.ports.get(external).is_some_and(|rest| match holder {
            Holder::Endpoint => rest.inside == *inside,
            Holder::Address => rest.inside.address == inside.address,
        })
    }

    /// A port is in use again.
    pub(super) fn wake(&mut self, external: &Endpoint) {
        if self.ports.remove(external).is_none() {
            return;
        }
        let place = (external.address, external.protocol);
        if let Some(set) = self.sets.get_mut(&place) {
            set.set(external.port, false);
            if set.is_empty() {
                self.sets.remove(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint { protocol: 17, address: [0; 4], port }
    }

    // RFC 6888 REQ-8: as many rest as there is room for, however often others come into use again.
    #[test]
    fn a_port_that_is_used_again_takes_no_room() {
        let mut resting = Resting::new(2);
        resting.lay_down(endpoint(1), endpoint(7), 0);
        for now in 1..100 {
            resting.lay_down(endpoint(2), endpoint(8), now);
            assert!(resting.is_own(&endpoint(1), &endpoint(7), Holder::Endpoint), "after {now} turns");
            assert!(resting.order.len() <= 4, "bounded");
            resting.wake(&endpoint(2));
        }
        resting.lay_down(endpoint(3), endpoint(9), 100);
        resting.lay_down(endpoint(4), endpoint(9), 101);
        assert!(!resting.is_own(&endpoint(1), &endpoint(7), Holder::Endpoint), "the oldest makes room");
        resting.configure(REST, 1);
        assert_eq!((resting.ports.len(), resting.order.len()), (1, 1));
        assert!(resting.is_own(&endpoint(4), &endpoint(9), Holder::Endpoint));
    }
}
