//! External ports that were in use a moment ago.
//!
//! What is still on its way to one must not reach another host: for two minutes a port is given back to nobody but the
//! host that had it, as long as there are others (RFC 6888 REQ-8).

use std::collections::{HashMap, VecDeque};

use flowhop_flow::record::Tick;

use super::bindings::Endpoint;

/// How long a port rests, in ticks: 120 seconds.
const REST: Tick = 114_441;

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
    order: VecDeque<(Endpoint, Tick)>,
    room: usize,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    inside: Endpoint,
    since: Tick,
}

impl Resting {
    /// Room for so many ports.
    pub(super) fn new(room: usize) -> Self {
        Self { ports: HashMap::new(), order: VecDeque::new(), room: room.max(1) }
    }

    /// A port is not in use any more.
    pub(super) fn lay_down(&mut self, external: Endpoint, inside: Endpoint, now: Tick) {
        while self
            .order
            .front()
            .is_some_and(|(_, since)| self.order.len() >= self.room || now.wrapping_sub(*since) > REST)
        {
            if let Some((oldest, since)) = self.order.pop_front()
                && self.ports.get(&oldest).is_some_and(|rest| rest.since == since)
            {
                self.ports.remove(&oldest);
            }
        }
        self.ports.insert(external, Rest { inside, since: now });
        self.order.push_back((external, now));
    }

    /// Whether a port should not be given to an inside endpoint yet.
    pub(super) fn holds(&self, external: &Endpoint, inside: &Endpoint, holder: Holder, now: Tick) -> bool {
        let rest = self.ports.get(external);
        let same = |rest: &Rest| match holder {
            Holder::Endpoint => rest.inside == *inside,
            Holder::Address => rest.inside.address == inside.address,
        };
        rest.is_some_and(|rest| !same(rest) && now.wrapping_sub(rest.since) <= REST)
    }

    /// A port is in use again.
    pub(super) fn wake(&mut self, external: &Endpoint) {
        self.ports.remove(external);
    }
}
