//! Bindings that hosts have asked for; see [`explicit`](super::super::explicit).

use std::collections::HashSet;

use flowhop_flow::Reason;
use flowhop_flow::key::Address;
use flowhop_flow::record::Tick;
use flowhop_policy as policy;
use rand_core::RngCore;

use super::super::explicit::{Grant, Mapping, Peers};
use super::{Bindings, Choices, Endpoint, Place, State, Terms};

/// Mappings that are ended at once when their time is over; others have to wait for the next turn.
const ENDED: usize = 256;

/// A mapping that a host has asked for, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whose it is.
    pub inside: Endpoint,
    /// How it is known outside.
    pub external: Endpoint,
    /// The translation that makes it so; 0 = none, or one that needs no binding.
    pub nat: u16,
    /// Ticks that it has left.
    pub left: u64,
    /// Who may send to it; nobody named: all.
    pub filters: Vec<Peers>,
}

/// An external endpoint that alone will do.
#[derive(Clone, Copy, Debug)]
pub(in crate::nat) struct Exactly {
    /// `None`: any.
    pub(in crate::nat) address: Option<Address>,
    pub(in crate::nat) port: u16,
}

impl Exactly {
    pub(in crate::nat) fn is(&self, external: &Endpoint) -> bool {
        self.port == external.port && self.address.is_none_or(|address| address == external.address)
    }
}

/// What an external endpoint has to be like.
#[derive(Clone, Copy, Debug)]
pub(in crate::nat) struct Bounds<'a> {
    /// This one.
    pub(in crate::nat) exactly: Option<Exactly>,
    /// Ports that it may have.
    pub(in crate::nat) among: &'a policy::PortSet,
    /// Mappings of a protocol that there may be at one external address.
    pub(in crate::nat) at_one: u32,
}

/// Why a mapping is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It would have another external endpoint than the one that is insisted on.
    Another,
    /// There are as many as there is room for, or no port is left.
    NoRoom,
    /// The translation allows the host no more.
    Quota,
    /// There is no external address.
    NoAddress,
    /// The translation takes no mappings.
    NotHere,
}

impl Bindings {
    /// The mapping that an inside endpoint has asked for, and the ticks that it has left.
    pub(crate) fn asked(&self, inside: &Endpoint, now: Tick) -> Option<(Mapping, u64)> {
        let mut state = self.state();
        let left = state.explicit.left(inside, now);
        Some((state.explicit.get(inside)?.clone(), left))
    }

    /// How many mappings the host of an address has asked for.
    pub(crate) fn asked_of(&self, address: &Address) -> u32 {
        self.state().explicit.of(address)
    }

    /// All that hosts have asked for.
    #[must_use]
    pub fn all_asked(&self, now: Tick) -> Vec<Asked> {
        let mut state = self.state();
        let State { explicit, .. } = &mut *state;
        let insides: Vec<Endpoint> = explicit.iter().map(|(inside, _)| *inside).collect();
        let shown = |inside: Endpoint| {
            let left = explicit.left(&inside, now);
            let Mapping { external, nat, filters, .. } = explicit.get(&inside)?.clone();
            Some(Asked { inside, external, nat, left, filters })
        };
        insides.into_iter().filter_map(shown).collect()
    }

    /// Grants an inside endpoint a mapping: by the binding that it has, or a new one.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub(in crate::nat) fn grant(
        &self,
        terms: Terms,
        choices: &Choices<'_>,
        bounds: &Bounds<'_>,
        grant: Grant,
        random: &mut dyn RngCore,
        now: Tick,
    ) -> Result<Endpoint, Refused> {
        let mut state = self.state();
        let state = &mut *state;
        if state.explicit.is_full() {
            return Err(Refused::NoRoom);
        }
        let Terms { inside, nat, .. } = terms;
        let known = state.by_inside.get(&terms.place()).into_iter().flatten();
        let kept = known.copied().find(|external| (choices.keeps)(&external.address));
        if kept.is_none() && state.subscribers.has_all_mappings(&inside.address, nat, choices.limits) {
            return Err(Refused::Quota);
        }
        let external = kept.or_else(|| state.choose(&terms, choices, random, now)).ok_or(Refused::NoRoom)?;
        if bounds.exactly.is_some_and(|exactly| !exactly.is(&external)) {
            return Err(Refused::Another);
        }
        if !bounds.among.contains(external.port) {
            return Err(Refused::NotHere);
        }
        if state.explicit.at(&external) >= bounds.at_one {
            return Err(Refused::NoRoom);
        }
        if kept.is_none() {
            state.resting.wake(&external);
            let begun = state.bind(&terms, external, None);
            state.leases.extend(begun.filter(|_| terms.log));
        }
        if let Some(binding) = state.by_external.get_mut(&external) {
            binding.explicit = true;
        }
        state.explicit.put(inside, external, nat, grant, now);
        Ok(external)
    }

    /// Grants an inside endpoint a pinhole, which is known outside by `external`.
    ///
    /// # Errors
    /// When there are as many mappings as there is room for.
    pub(in crate::nat) fn grant_pinhole(
        &self,
        inside: Endpoint,
        external: Endpoint,
        grant: Grant,
        now: Tick,
    ) -> Result<(), Refused> {
        let mut state = self.state();
        if state.explicit.is_full() {
            return Err(Refused::NoRoom);
        }
        state.explicit.put(inside, external, 0, grant, now);
        Ok(())
    }

    /// A mapping that was asked for goes on as is said now.
    pub(crate) fn renew(&self, inside: &Endpoint, grant: Grant, now: Tick) {
        let mut state = self.state();
        if let Some(mapping) = state.explicit.take(inside) {
            state.explicit.put(*inside, mapping.external, mapping.nat, grant, now);
        }
    }

    /// A mapping that was asked for ends. What came in by it goes on, and keeps its external port.
    pub(crate) fn revoke(&self, inside: &Endpoint, now: Tick) {
        self.state().revoke(inside, now);
    }

    /// Ends what was asked for and is over.
    pub(crate) fn expire(&self, now: Tick) {
        let mut state = self.state();
        for _ in 0..ENDED {
            let Some(inside) = state.explicit.first_over(now) else { return };
            state.revoke(&inside, now);
        }
    }

    /// Translations and external addresses that mappings which hosts have asked for are at.
    pub(crate) fn asked_at(&self) -> HashSet<(u16, Address)> {
        self.state().explicit.iter().map(|(_, mapping)| (mapping.nat, mapping.external.address)).collect()
    }

    /// All mappings that hosts have asked for, with the inside endpoints that they belong to.
    pub(crate) fn mappings(&self) -> Vec<(Endpoint, Mapping)> {
        self.state().explicit.iter().map(|(inside, mapping)| (*inside, mapping.clone())).collect()
    }

    /// Whether an inside endpoint has asked for a pinhole that a peer may use.
    pub(crate) fn has_pinhole(&self, inside: &Endpoint, peer: &Endpoint) -> bool {
        let state = self.state();
        state.explicit.get(inside).is_some_and(|mapping| mapping.nat == 0 && mapping.lets_in(std::iter::once(peer)))
    }

    /// Whether an inside endpoint has connections by a binding of one of these translations.
    pub(in crate::nat) fn has_own(&self, inside: &Endpoint, nats: impl Iterator<Item = u16>) -> bool {
        let state = self.state();
        let mut places = nats.map(|nat| Place { inside: *inside, nat, scope: None });
        places.any(|place| {
            let externals = state.by_inside.get(&place).into_iter().flatten();
            externals.filter_map(|external| state.by_external.get(external)).any(|binding| binding.own > 0)
        })
    }
}

impl State {
    fn revoke(&mut self, inside: &Endpoint, now: Tick) {
        let Some(mapping) = self.explicit.take(inside) else { return };
        let binding = self.by_external.get_mut(&mapping.external);
        if let Some(binding) = binding.filter(|binding| mapping.nat != 0 && binding.is_of(inside, mapping.nat)) {
            binding.explicit = false;
            self.end_if_unused(&mapping.external, now);
        }
    }
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NatLimit => Self::Quota,
            _ => Self::NoRoom,
        }
    }
}
