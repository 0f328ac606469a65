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
        while self.order.len() > self.room {
            self.wake_oldest();
        }
    }

    /// A port is not in use any more.
    pub(super) fn lay_down(&mut self, external: Endpoint, inside: Endpoint, now: Tick) {
        self.expire(now);
        while self.order.len() >= self.room {
            self.wake_oldest();
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
