//! Inside addresses that have mappings, one by one: the terms of RFC 6888 call them subscribers.

use std::collections::HashMap;

use flowhop_flow::Reason;
use flowhop_flow::key::Address;
use flowhop_policy::NatLimits;

/// What is known of each, by inside address and identity of the translation.
#[derive(Debug, Default)]
pub(super) struct Subscribers(HashMap<(Address, u16), Subscriber>);

#[derive(Debug)]
struct Subscriber {
    /// The external address that it got last.
    external: Address,
    mappings: u32,
    connections: u32,
}

impl Subscribers {
    /// The external address of one that has mappings.
    pub(super) fn external(&self, inside: &Address, nat: u16) -> Option<Address> {
        self.0.get(&(*inside, nat)).map(|subscriber| subscriber.external)
    }

    /// Whether one may have a connection more, and a mapping as well if that is `new` (RFC 6888 REQ-4, REQ-5).
    pub(super) fn admit(&self, inside: &Address, nat: u16, limits: NatLimits, new: bool) -> Result<(), Reason> {
        let Some(subscriber) = self.0.get(&(*inside, nat)) else { return Ok(()) };
        let full = |limit: Option<u32>, number: u32| limit.is_some_and(|limit| number >= limit);
        let refused =
            (new && full(limits.ports, subscriber.mappings)) || full(limits.connections, subscriber.connections);
        if refused { Err(Reason::NatLimit) } else { Ok(()) }
    }

    /// One has a connection more.
    pub(super) fn connected(&mut self, inside: &Address, nat: u16) {
        if let Some(subscriber) = self.0.get_mut(&(*inside, nat)) {
            subscriber.connections += 1;
        }
    }

    /// One has a connection less.
    pub(super) fn disconnected(&mut self, inside: &Address, nat: u16) {
        if let Some(subscriber) = self.0.get_mut(&(*inside, nat)) {
            subscriber.connections = subscriber.connections.saturating_sub(1);
        }
    }

    /// One has a mapping more.
    pub(super) fn bound(&mut self, inside: Address, nat: u16, external: Address) {
        let subscriber = self.0.entry((inside, nat)).or_insert(Subscriber { external, mappings: 0, connections: 0 });
        subscriber.external = external;
        subscriber.mappings += 1;
    }

    /// One has a mapping less.
    pub(super) fn unbound(&mut self, inside: Address, nat: u16) {
        if let Some(subscriber) = self.0.get_mut(&(inside, nat)) {
            subscriber.mappings = subscriber.mappings.saturating_sub(1);
            if subscriber.mappings == 0 {
                self.0.remove(&(inside, nat));
            }
        }
    }
}
