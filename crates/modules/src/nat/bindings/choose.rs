//! The external endpoint of a new binding.

use flowhop_flow::key::Address;
use flowhop_flow::record::Tick;
use flowhop_policy::NatLimits;
use flowhop_wire::protocol;
use rand_core::RngCore;

use super::super::blocks::{Blocks, Cut};
use super::super::pool::{self, PortRange};
use super::super::port_set::{self, Barred, PortSet};
use super::super::resting::Holder;
use super::{Endpoint, State, Terms};

/// Resting ports that are looked at for whether they were the host's own.
const OWN_TRIES: usize = 64;

/// What a binding may look like from outside.
pub(in crate::nat) struct Choices<'a> {
    /// Addresses for a new one, the best first.
    pub(in crate::nat) addresses: &'a [Address],
    /// Whether one that has this address goes on being used.
    pub(in crate::nat) keeps: &'a dyn Fn(&Address) -> bool,
    /// The ports of an address that a new one must not have.
    pub(in crate::nat) bar: &'a dyn Fn(&Address) -> Barred<'a>,
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
        self.resting.expire(now);
        let paired = self.subscribers.external(&terms.inside.address, terms.nat);
        let paired = paired.filter(|address| choices.paired && (choices.keeps)(address));
        let addresses = paired.as_ref().map_or(choices.addresses, std::slice::from_ref);
        let mut offers = Vec::with_capacity(addresses.len());
        for address in addresses {
            let offer = Offer::new(self, *address, terms, choices);
            if let Some(port) = offer.find(false, random) {
                return Some(offer.external(port));
            }
            offers.push(offer);
        }
        offers.iter().find_map(|offer| offer.find(true, random).map(|port| offer.external(port)))
    }
}

/// What one external address has to offer.
struct Offer<'a, 'c> {
    state: &'a State,
    terms: &'a Terms,
    choices: &'a Choices<'c>,
    address: Address,
    /// Those that must not be given out.
    barred: Barred<'c>,
    used: Option<&'a PortSet>,
    /// Somebody's blocks, which are nobody else's, though the address may be given out without: that of an interface.
    blocks: Option<&'a PortSet>,
    resting: Option<&'a PortSet>,
}

impl<'a, 'c> Offer<'a, 'c> {
    fn new(state: &'a State, address: Address, terms: &'a Terms, choices: &'a Choices<'c>) -> Self {
        let protocol = terms.inside.protocol;
        Self {
            state,
            terms,
            choices,
            address,
            barred: (choices.bar)(&address),
            used: state.ports.get(&(address, protocol)),
            blocks: if terms.cut.is_none() { state.blocks.ports(&address) } else { None },
            resting: state.resting.of(address, protocol),
        }
    }

    const fn external(&self, port: u16) -> Endpoint {
        Endpoint { port, address: self.address, ..self.terms.inside }
    }

    /// `wakes`: what rests may be taken.
    fn find(&self, wakes: bool, random: &mut dyn RngCore) -> Option<u16> {
        let Some(cut) = self.terms.cut else { return self.search(self.choices.ports, wakes, random) };
        let owned = self.state.blocks.of(&(self.terms.inside.address, self.terms.nat), &self.address);
        self.search(&pool::of_parity(&owned, self.choices.like), wakes, random).or_else(|| {
            let block = self.block(cut, wakes, random)?;
            self.search(&pool::of_parity(&[block], self.choices.like), wakes, random)
        })
    }

    /// A block of which nobody has a port, of any protocol, and that has one to give out.
    fn block(&self, cut: Cut, wakes: bool, random: &mut dyn RngCore) -> Option<(u16, u16)> {
        let of = |protocol: u8| self.state.ports.get(&(self.address, protocol));
        let used = [protocol::TCP, protocol::UDP, protocol::ICMP, protocol::ICMPV6].map(of);
        let taken = [&used[..], &[self.state.blocks.ports(&self.address)]];
        Blocks::free(cut, random, |block| {
            !port_set::has_any(*block, |index| {
                taken.iter().copied().flatten().fold(0, |all, set| all | word(*set, index))
            }) && port_set::has_any(*block, |index| self.open(index, wakes))
        })
    }

    /// A port of some ranges: the one that is wanted, else a random one, of the first range that has one.
    fn search(&self, ranges: &[PortRange], wakes: bool, random: &mut dyn RngCore) -> Option<u16> {
        let is_open = |port: &u16| {
            let (index, bit) = (usize::from(port >> 6), 1 << (port & 63));
            self.open(index, wakes) & bit != 0 || (self.dormant(index) & bit != 0 && self.is_own(*port))
        };
        let wanted = self.choices.wanted.filter(|port| ranges.iter().any(|range| range.contains(*port)));
        wanted.filter(is_open).or_else(|| {
            ranges.iter().find_map(|range| {
                let open = range.pick(random, |index| self.open(index, wakes));
                let own = |port: &u16| self.is_own(*port);
                open.or_else(|| range.ports(random, |index| self.dormant(index)).take(OWN_TRIES).find(own))
            })
        })
    }

    fn open(&self, index: usize, wakes: bool) -> u64 {
        let free = self.free(index);
        if wakes { free } else { free & !word(self.resting, index) }
    }

    /// What could be given out if it did not rest.
    fn dormant(&self, index: usize) -> u64 {
        self.free(index) & word(self.resting, index)
    }

    /// Ports that nobody uses and that may be given out.
    fn free(&self, index: usize) -> u64 {
        !(word(self.used, index) | word(self.blocks, index) | self.barred.word(index))
    }

    fn is_own(&self, port: u16) -> bool {
        self.state.resting.is_own(&self.external(port), &self.terms.inside, self.choices.holder)
    }
}

/// 64 ports of a set, if there is one.
fn word(set: Option<&PortSet>, index: usize) -> u64 {
    set.map_or(0, |set| set.word(index))
}
