//! The external endpoint of a new binding.

use flowhop_flow::key::Address;
use flowhop_flow::record::Tick;
use flowhop_policy::NatLimits;
use rand_core::RngCore;

use super::super::pool::{self, PortRange};
use super::super::resting::Holder;
use super::{Endpoint, State, Terms};

/// What a binding may look like from outside.
pub(in crate::nat) struct Choices<'a> {
    /// Addresses for a new one, the best first.
    pub(in crate::nat) addresses: &'a [Address],
    /// Whether one that has this address goes on being used.
    pub(in crate::nat) keeps: &'a dyn Fn(&Address) -> bool,
    /// Whether a new one may have this port of this address.
    pub(in crate::nat) allowed: &'a dyn Fn(&Address, u16) -> bool,
    /// An inside address that has mappings gets no other external address.
    pub(in crate::nat) paired: bool,
    /// The port that it should have if that is free.
    pub(in crate::nat) wanted: Option<u16>,
    /// Ports for a new one, the best first; nothing beside the terms' blocks.
    pub(in crate::nat) ports: &'a [PortRange],
    /// Of blocks, ports like this one come first: even or odd.
    pub(in crate::nat) like: Option<u16>,
    /// For whom freed ports do not have to rest.
    pub(in crate::nat) holder: Holder,
    pub(in crate::nat) limits: NatLimits,
}

impl State {
    /// An external endpoint that is free. What rests is taken only where there is nothing else.
    pub(super) fn choose(
        &mut self,
        terms: &Terms,
        choices: &Choices<'_>,
        random: &mut dyn RngCore,
        now: Tick,
    ) -> Option<Endpoint> {
        let paired = self.subscribers.external(&terms.inside.address, terms.nat);
        let paired = paired.filter(|address| choices.paired && (choices.keeps)(address));
        let addresses = paired.as_ref().map_or(choices.addresses, std::slice::from_ref);
        for wakes in [false, true] {
            for address in addresses {
                let external = |port| Endpoint { port, address: *address, ..terms.inside };
                let allowed = |port| {
                    let rests = || self.resting.holds(&external(port), &terms.inside, choices.holder, now);
                    (choices.allowed)(address, port) && (wakes || !rests())
                };
                let ports = self.ports.get(&(*address, terms.inside.protocol));
                let from = |ranges: &[PortRange], random: &mut dyn RngCore| {
                    pool::search(ports, ranges, choices.wanted, random, allowed)
                };
                let found = match terms.cut {
                    None => from(choices.ports, random),
                    Some(cut) => {
                        let owned = self.blocks.of(&(terms.inside.address, terms.nat), address);
                        from(&pool::of_parity(&owned, choices.like), random).or_else(|| {
                            let block = self.blocks.free(cut, address, random)?;
                            from(&pool::of_parity(&[block], choices.like), random)
                        })
                    }
                };
                if let Some(port) = found {
                    return Some(external(port));
                }
            }
        }
        None
    }
}
