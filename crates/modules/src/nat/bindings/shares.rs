//! Shares in bindings: how bindings come to be, who takes part in them, and how they end.

use flowhop_flow::key::Address;
use flowhop_flow::record::Tick;
use flowhop_policy::Dependence;

use super::super::port_set::PortSet;
use super::super::remotes::Remotes;
use super::{Admitted, Binding, Caller, Endpoint, Lease, Place, PortChange, Share, State, Terms};

impl State {
    /// The binding that the inside endpoint of a connection has asked for, whatever its destination.
    pub(super) fn asked_for(&self, terms: &Terms) -> Option<Endpoint> {
        let mapping = self.explicit.get(&terms.inside)?;
        (mapping.nat == terms.nat && mapping.nat != 0).then_some(mapping.external)
    }

    /// Its filters decide, and nothing else does (RFC 6887 section 13.3).
    pub(super) fn admit_asked(&mut self, external: &Endpoint, caller: &Caller) -> Option<Admitted> {
        let Binding { place: Place { inside, nat, .. }, rule, .. } = *self.by_external.get(external)?;
        let known = std::iter::once(&caller.endpoint).chain(&caller.known_as);
        self.explicit.get(&inside).filter(|mapping| mapping.lets_in(known))?;
        self.take_share(external, Share::Inbound);
        Some(Admitted { inside, nat, rule, explicit: true })
    }

    /// Ends a binding that nobody has a share in, unless its host has asked for it.
    pub(super) fn end_if_unused(&mut self, external: &Endpoint, now: Tick) {
        let unused = |binding: &&Binding| binding.own == 0 && binding.inbound == 0 && !binding.explicit;
        let Some(binding) = self.by_external.get(external).filter(unused) else { return };
        let (place, block, log) = (binding.place, binding.block, binding.log);
        let Place { inside, nat, .. } = place;
        self.by_external.remove(external);
        self.displace(&place, external);
        self.subscribers.unbound(inside.address, nat);
        let place = (external.address, external.protocol);
        if let Some(ports) = self.ports.get_mut(&place) {
            ports.set(external.port, false);
        }
        self.forget_empty(&place);
        self.resting.lay_down(*external, inside, now);
        let ended = match block {
            Some(first) => {
                let last = self.blocks.unbound(external.address, first);
                last.map(|last| Lease::block(&inside, nat, external.address, (first, last)))
            }
            None => Some(Lease::mapping(&inside, nat, external)),
        };
        self.leases.extend(ended.filter(|_| log).map(|lease| Lease { begun: false, ..lease }));
        self.changes.push(PortChange { endpoint: *external, used: false });
    }

    pub(super) fn take_share(&mut self, external: &Endpoint, share: Share) {
        if let Some(binding) = self.by_external.get_mut(external) {
            binding.take_share(share);
            self.subscribers.connected(&binding.place.inside.address, binding.place.nat, share);
        }
    }

    /// The host has a connection more by a binding. The first one says what the binding is for.
    pub(super) fn take_up(&mut self, terms: &Terms, external: &Endpoint) {
        if let Some(binding) = self.by_external.get_mut(external)
            && binding.own == 0
        {
            // One that was asked for stays for all destinations.
            let (before, place) = (binding.place, if binding.explicit { binding.place } else { terms.place() });
            (binding.rule, binding.place) = (terms.rule, place);
            self.displace(&before, external);
            self.put(place, *external);
        }
        if let Some(binding) = self.by_external.get_mut(external) {
            binding.expected &= terms.expected;
        }
        self.take_share(external, Share::Own(terms.remote.address));
    }

    fn put(&mut self, place: Place, external: Endpoint) {
        // One is the rule: the memory of a list that grows by itself would be wasted on most of them.
        let externals = self.by_inside.entry(place).or_default();
        externals.reserve_exact(1);
        externals.push(external);
    }

    fn displace(&mut self, place: &Place, external: &Endpoint) {
        if let Some(externals) = self.by_inside.get_mut(place) {
            externals.retain(|other| other != external);
            if externals.is_empty() {
                self.by_inside.remove(place);
            }
        }
    }

    /// Notes a binding; what came into use with it, a mapping or a block. `share`: whose connection it is made for, if for
    /// one.
    pub(super) fn bind(&mut self, terms: &Terms, external: Endpoint, share: Option<Share>) -> Option<Lease> {
        let place = terms.place();
        let Terms { inside, nat, rule, log, expected, .. } = *terms;
        let owner = (inside.address, nat);
        let block = terms.cut.and_then(|cut| self.blocks.bound(owner, external.address, external.port, cut));
        let lease = match block {
            Some((first, last)) => last.map(|last| Lease::block(&inside, nat, external.address, (first, last))),
            None => Some(Lease::mapping(&inside, nat, &external)),
        };
        let block = block.map(|(first, _)| first);
        let (own, inbound, remotes) = (0, 0, Remotes::default());
        let binding = Binding { place, rule, block, log, expected, explicit: false, own, inbound, remotes };
        // Of one that is dependent a stranger's connection does not say whom it is for: it is not found from inside.
        if !matches!(share, Some(Share::Inbound)) || terms.mapping == Dependence::EndpointIndependent {
            self.put(place, external);
        }
        self.by_external.insert(external, binding);
        let ports = self.ports.entry((external.address, external.protocol)).or_default();
        ports.set(external.port, true);
        self.subscribers.bound(terms.inside.address, terms.nat, external.address);
        if let Some(share) = share {
            self.take_share(&external, share);
        }
        self.changes.push(PortChange { endpoint: external, used: true });
        lease
    }

    fn forget_empty(&mut self, place: &(Address, u8)) {
        if self.ports.get(place).is_some_and(PortSet::is_empty) {
            self.ports.remove(place);
        }
    }
}

impl Lease {
    pub(super) const fn mapping(inside: &Endpoint, nat: u16, external: &Endpoint) -> Self {
        let ports = (external.port, external.port);
        Self { nat, inside: *inside, external: external.address, ports, block: false, begun: true }
    }

    pub(super) const fn block(inside: &Endpoint, nat: u16, external: Address, ports: (u16, u16)) -> Self {
        let inside = Endpoint { protocol: 0, address: inside.address, port: 0 };
        Self { nat, inside, external, ports, block: true, begun: true }
    }
}

impl Binding {
    pub(super) fn is_of(&self, inside: &Endpoint, nat: u16) -> bool {
        self.place.inside == *inside && self.place.nat == nat
    }

    pub(super) fn take_share(&mut self, share: Share) {
        match share {
            Share::Own(remote) => {
                self.own += 1;
                self.remotes.add(remote);
            }
            Share::Inbound => self.inbound += 1,
        }
    }

    pub(super) fn give_share(&mut self, share: Share) {
        match share {
            Share::Own(remote) => {
                self.own = self.own.saturating_sub(1);
                self.remotes.remove(&remote);
            }
            Share::Inbound => self.inbound = self.inbound.saturating_sub(1),
        }
    }
}
