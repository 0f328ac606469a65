//! Bindings: which external endpoint stands for which inside endpoint (RFC 3022, RFC 4787 terms: mappings).
//!
//! An inside endpoint has one binding under each translation, so that its external endpoint is the same for all
//! destinations that the translation is about; it has another one beside it only where the address of the first is
//! not to be used any more, or not by the interface that the connection leaves through. A binding lives as long as
//! one of its connections; each takes a share. The modules share the bindings, all on the engine's one thread; the
//! lock is never contended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowhop_flow::key::Address;
use flowhop_policy::Dependence;
use rand_core::RngCore;

use super::pool::Ports;

/// Address and port (or echo identifier) of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// IP protocol.
    pub protocol: u8,
    /// Address.
    pub address: Address,
    /// Port or identifier.
    pub port: u16,
}

/// A port of an external address came into use or out of it; the kernel programs are told of those of the box's
/// own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortChange {
    /// The external endpoint.
    pub endpoint: Endpoint,
    /// In use from now on.
    pub used: bool,
}

/// What a binding is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The inside endpoint.
    pub(super) inside: Endpoint,
    /// Identity of the translation.
    pub(super) nat: u16,
    /// Identity of the rule that allowed its first connection.
    pub(super) rule: u16,
    pub(super) filtering: Dependence,
}

/// What a binding may look like from outside.
pub(super) struct Choices<'a> {
    /// Addresses for a new one, the best first.
    pub(super) addresses: &'a [Address],
    /// Whether one that has this address goes on being used.
    pub(super) keeps: &'a dyn Fn(&Address) -> bool,
    /// Whether a new one may have this port of this address.
    pub(super) allowed: &'a dyn Fn(&Address, u16) -> bool,
}

#[derive(Debug)]
struct Binding {
    terms: Terms,
    sessions: u32,
    /// Connections by remote address, kept where filtering asks for it.
    remotes: HashMap<Address, u32>,
}

/// What an admitted inbound packet is translated to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    pub(super) inside: Endpoint,
    pub(super) nat: u16,
    pub(super) rule: u16,
}

#[derive(Debug, Default)]
struct State {
    /// External endpoints of an inside one under a translation.
    by_inside: HashMap<(Endpoint, u16), Vec<Endpoint>>,
    by_external: HashMap<Endpoint, Binding>,
    ports: HashMap<(Address, u8), Ports>,
    changes: Vec<PortChange>,
}

/// All bindings.
#[derive(Clone, Debug, Default)]
pub struct Bindings(Arc<Mutex<State>>);

impl Bindings {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The external endpoint of an inside one, an existing binding or a new one; takes a share in it. `None`
    /// when no port is free at any of the addresses.
    pub(super) fn map(
        &self,
        terms: Terms,
        choices: &Choices<'_>,
        remote: Address,
        random: &mut dyn RngCore,
    ) -> Option<Endpoint> {
        let mut state = self.state();
        let state = &mut *state;
        let known = state.by_inside.get(&(terms.inside, terms.nat)).into_iter().flatten();
        let kept = known.copied().find(|external| (choices.keeps)(&external.address));
        if let Some(external) = kept {
            if let Some(binding) = state.by_external.get_mut(&external) {
                binding.take_share(remote);
            }
            return Some(external);
        }
        let protocol = terms.inside.protocol;
        for address in choices.addresses {
            let ports = state.ports.entry((*address, protocol)).or_insert_with(Ports::new);
            let Some(port) = ports.take(random, |port| (choices.allowed)(address, port)) else {
                state.forget_empty(&(*address, protocol));
                continue;
            };
            let external = Endpoint { protocol, address: *address, port };
            state.bind(terms, external, remote);
            return Some(external);
        }
        None
    }

    /// Takes over a binding of an adopted connection; `false` when it contradicts another one.
    pub(super) fn adopt(&self, terms: Terms, external: Endpoint, remote: Address) -> bool {
        let mut state = self.state();
        if let Some(binding) = state.by_external.get_mut(&external) {
            let same = binding.is_of(&terms.inside, terms.nat);
            if same {
                binding.take_share(remote);
            }
            return same;
        }
        let place = (external.address, external.protocol);
        state.ports.entry(place).or_insert_with(Ports::new).set(external.port, true);
        state.bind(terms, external, remote);
        true
    }

    /// Gives a share back; the last one ends the binding. Does nothing if there is no such binding.
    pub(super) fn release(&self, inside: Endpoint, nat: u16, external: Endpoint, remote: Address) {
        let mut state = self.state();
        let Some(binding) = state.by_external.get_mut(&external).filter(|binding| binding.is_of(&inside, nat)) else {
            return;
        };
        binding.give_share(remote);
        if binding.sessions > 0 {
            return;
        }
        state.by_external.remove(&external);
        if let Some(externals) = state.by_inside.get_mut(&(inside, nat)) {
            externals.retain(|other| *other != external);
            if externals.is_empty() {
                state.by_inside.remove(&(inside, nat));
            }
        }
        let place = (external.address, external.protocol);
        if let Some(ports) = state.ports.get_mut(&place) {
            ports.set(external.port, false);
        }
        state.forget_empty(&place);
        state.changes.push(PortChange { endpoint: external, used: false });
    }

    /// Whether a binding has this external endpoint.
    pub(super) fn knows(&self, external: &Endpoint) -> bool {
        self.state().by_external.contains_key(external)
    }

    /// Whether an inside endpoint has this external one under a translation.
    pub(super) fn holds(&self, inside: &Endpoint, nat: u16, external: &Endpoint) -> bool {
        self.state().by_external.get(external).is_some_and(|binding| binding.is_of(inside, nat))
    }

    /// The binding that an inbound packet from `remote` may use, by its filtering (RFC 4787 section 5); takes a
    /// share in it.
    pub(super) fn admit(&self, external: &Endpoint, remote: &Address) -> Option<Admitted> {
        let mut state = self.state();
        let binding = state.by_external.get_mut(external)?;
        let admits = match binding.terms.filtering {
            Dependence::EndpointIndependent => true,
            Dependence::AddressDependent => binding.remotes.contains_key(remote),
            Dependence::AddressAndPortDependent => false,
        };
        if !admits {
            return None;
        }
        binding.take_share(*remote);
        let Terms { inside, nat, rule, .. } = binding.terms;
        Some(Admitted { inside, nat, rule })
    }

    /// Ports that came into use or out of it since the last call.
    #[must_use]
    pub fn take_changes(&self) -> Vec<PortChange> {
        std::mem::take(&mut self.state().changes)
    }

    /// The ports, or identifiers, of an address that bindings of a protocol use: one bit for each, the lowest first.
    /// `None` when there is none.
    #[must_use]
    pub fn ports_of(&self, address: &Address, protocol: u8) -> Option<Box<[u64; 1024]>> {
        self.state().ports.get(&(*address, protocol)).map(|ports| Box::new(*ports.bits()))
    }

    /// Number of bindings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().by_external.len()
    }

    /// There is no binding.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    fn bind(&mut self, terms: Terms, external: Endpoint, remote: Address) {
        let mut binding = Binding { terms, sessions: 0, remotes: HashMap::new() };
        binding.take_share(remote);
        // One is the rule: the memory of a list that grows by itself would be wasted on most of them.
        let externals = self.by_inside.entry((terms.inside, terms.nat)).or_default();
        externals.reserve_exact(1);
        externals.push(external);
        self.by_external.insert(external, binding);
        self.changes.push(PortChange { endpoint: external, used: true });
    }

    fn forget_empty(&mut self, place: &(Address, u8)) {
        if self.ports.get(place).is_some_and(Ports::is_empty) {
            self.ports.remove(place);
        }
    }
}

impl Binding {
    fn is_of(&self, inside: &Endpoint, nat: u16) -> bool {
        self.terms.inside == *inside && self.terms.nat == nat
    }

    fn take_share(&mut self, remote: Address) {
        self.sessions += 1;
        if self.terms.filtering == Dependence::AddressDependent {
            *self.remotes.entry(remote).or_default() += 1;
        }
    }

    fn give_share(&mut self, remote: Address) {
        self.sessions = self.sessions.saturating_sub(1);
        if let Some(count) = self.remotes.get_mut(&remote) {
            *count -= 1;
            if *count == 0 {
                self.remotes.remove(&remote);
            }
        }
    }
}
