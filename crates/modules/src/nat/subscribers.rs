//! Inside addresses that have mappings, one by one: the terms of RFC 6888 call them subscribers.

use std::collections::HashMap;

use flowhop_flow::Reason;
use flowhop_flow::key::Address;
use flowhop_policy::NatLimits;

use super::bindings::Share;

/// What is known of each, by inside address and identity of the translation.
#[derive(Debug, Default)]
pub(super) struct Subscribers(HashMap<(Address, u16), Subscriber>);

#[derive(Debug)]
struct Subscriber {
    /// The external address that it got last.
    external: Address,
    mappings: u32,
    connections: u32,
    /// Connections that came in to its mappings: strangers cannot use up what is its own.
    inbound: u32,
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

    /// Whether one has all mappings that it may have.
    pub(super) fn has_all_mappings(&self, inside: &Address, nat: u16, limits: NatLimits) -> bool {
        let mappings = self.0.get(&(*inside, nat)).map_or(0, |subscriber| subscriber.mappings);
        limits.ports.is_some_and(|limit| mappings >= limit)
    }

    /// Whether more have come in to one than it may have.
    pub(super) fn is_over(&self, inside: &Address, nat: u16, limits: NatLimits) -> bool {
        let inbound = self.0.get(&(*inside, nat)).map_or(0, |subscriber| subscriber.inbound);
        limits.connections.is_some_and(|limit| inbound > limit)
    }

    /// One has a connection more.
    pub(super) fn connected(&mut self, inside: &Address, nat: u16, share: Share) {
        if let Some(count) = self.count(inside, nat, share) {
            *count += 1;
        }
    }

    /// One has a connection less.
    pub(super) fn disconnected(&mut self, inside: &Address, nat: u16, share: Share) {
        if let Some(count) = self.count(inside, nat, share) {
            *count = count.saturating_sub(1);
        }
    }

    fn count(&mut self, inside: &Address, nat: u16, share: Share) -> Option<&mut u32> {
        let subscriber = self.0.get_mut(&(*inside, nat))?;
        Some(match share {
            Share::Own(_) => &mut subscriber.connections,
            Share::Inbound => &mut subscriber.inbound,
        })
    }

    /// One has a mapping more.
    pub(super) fn bound(&mut self, inside: Address, nat: u16, external: Address) {
        let new = Subscriber { external, mappings: 0, connections: 0, inbound: 0 };
        let subscriber = self.0.entry((inside, nat)).or_insert(new);
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
