//! Inside hosts that have sent to each other's mappings, but have no connection yet.
//!
//! Where filtering asks for it a host behind a translation is let in to a mapping only after the mapping's own host has
//! sent to it. If it is behind a translation as well, what that host sends goes to a mapping, which may refuse it: no
//! connection comes of it, but the sender has asked for answers, and that is noted here (RFC 4787 section 6; what two
//! hosts do that "punch holes" behind one translator).

use std::collections::VecDeque;

use flowhop_flow::record::Tick;
use flowhop_policy::Dependence;

use super::bindings::Endpoint;

/// Notes that are kept; the oldest goes first.
const PERMITS: usize = 1024;
/// How long one counts, in ticks: two minutes, as long as RFC 4787 REQ-5 has a filter stay open at least.
const LIFE: Tick = 114_441;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Permits(VecDeque<Permit>);

#[derive(Clone, Copy, Debug)]
struct Permit {
    /// External endpoint of the host that has sent.
    own: Endpoint,
    /// The mapping that it has sent to.
    peer: Endpoint,
    since: Tick,
}

impl Permits {
    /// The host known as `own` has sent to the mapping `peer`.
    pub(super) fn note(&mut self, own: Endpoint, peer: Endpoint, now: Tick) {
        self.0.retain(|permit| (permit.own, permit.peer) != (own, peer) && now.wrapping_sub(permit.since) <= LIFE);
        if self.0.len() >= PERMITS {
            self.0.pop_front();
        }
        self.0.push_back(Permit { own, peer, since: now });
    }

    /// Whether the host of a mapping has sent to one of these endpoints, or to their addresses where ports do not
    /// matter.
    pub(super) fn allow(&self, own: &Endpoint, peers: &[Endpoint], filtering: Dependence, now: Tick) -> bool {
        let fits = |permit: &Permit| match filtering {
            Dependence::AddressAndPortDependent => peers.contains(&permit.peer),
            _ => peers.iter().any(|peer| peer.address == permit.peer.address),
        };
        self.0.iter().any(|permit| permit.own == *own && now.wrapping_sub(permit.since) <= LIFE && fits(permit))
    }
}
