//! Bindings: which external endpoint stands for which inside endpoint (RFC 3022, RFC 4787 terms: mappings).
//!
//! An inside endpoint has one binding under each translation, so that its external endpoint is the same for all
//! destinations that the translation is about; or one for each remote address, or remote address and port, where the
//! translation says so. It has another one beside it only where the address of the first is not to be used any more, or
//! not by the interface that the connection leaves through. A binding lives as long as one of its connections; each
//! takes a share. The modules share the bindings, all on the engine's one thread; the lock is never contended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowhop_flow::key::Address;
use flowhop_flow::record::Tick;
use flowhop_policy::Dependence;
use rand_core::RngCore;

use super::permits::Permits;
use super::pool::Ports;
use super::subscribers::Subscribers;

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
    /// Whom it sends to, as it addresses it; of echo the port is 0.
    pub(super) remote: Endpoint,
    /// Identity of the translation.
    pub(super) nat: u16,
    /// Identity of the rule that allowed its first connection.
    pub(super) rule: u16,
    pub(super) mapping: Dependence,
    pub(super) filtering: Dependence,
}

impl Terms {
    const fn place(&self) -> Place {
        Place { inside: self.inside, nat: self.nat, scope: scope(self.mapping, &self.remote) }
    }
}

/// What bindings are found by from inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    inside: Endpoint,
    nat: u16,
    scope: Scope,
}

/// What of the remote endpoint a mapping is for alone (RFC 4787 section 4.1).
type Scope = Option<(Address, Option<u16>)>;

const fn scope(mapping: Dependence, remote: &Endpoint) -> Scope {
    match mapping {
        Dependence::EndpointIndependent => None,
        Dependence::AddressDependent => Some((remote.address, None)),
        Dependence::AddressAndPortDependent => Some((remote.address, Some(remote.port))),
    }
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
    place: Place,
    rule: u16,
    filtering: Dependence,
    sessions: u32,
    /// Connections by remote address, kept where filtering asks for it.
    remotes: HashMap<Address, u32>,
}

/// Who sends to a mapping.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Its endpoint as received.
    pub(super) endpoint: Endpoint,
    /// The external endpoints by which the mapping's host knows it, if it is behind a translation itself.
    pub(super) known_as: Vec<Endpoint>,
}

/// What an admitted inbound packet is translated to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    pub(super) inside: Endpoint,
    pub(super) nat: u16,
    pub(super) rule: u16,
    /// By what its host had sent, whatever filtering is.
    pub(super) asked: bool,
}

#[derive(Debug, Default)]
struct State {
    /// External endpoints of an inside one.
    by_inside: HashMap<Place, Vec<Endpoint>>,
    by_external: HashMap<Endpoint, Binding>,
    ports: HashMap<(Address, u8), Ports>,
    subscribers: Subscribers,
    permits: Permits,
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
    pub(super) fn map(&self, terms: Terms, choices: &Choices<'_>, random: &mut dyn RngCore) -> Option<Endpoint> {
        let mut state = self.state();
        let state = &mut *state;
        let known = state.by_inside.get(&terms.place()).into_iter().flatten();
        let kept = known.copied().find(|external| (choices.keeps)(&external.address));
        if let Some(external) = kept {
            if let Some(binding) = state.by_external.get_mut(&external) {
                binding.take_share(terms.remote.address);
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
            state.bind(&terms, external);
            return Some(external);
        }
        None
    }

    /// Takes over a binding of an adopted connection; `false` when it contradicts another one.
    pub(super) fn adopt(&self, terms: Terms, external: Endpoint) -> bool {
        let mut state = self.state();
        if let Some(binding) = state.by_external.get_mut(&external) {
            let same = binding.is_of(&terms.inside, terms.nat);
            if same {
                binding.take_share(terms.remote.address);
            }
            return same;
        }
        let place = (external.address, external.protocol);
        state.ports.entry(place).or_insert_with(Ports::new).set(external.port, true);
        state.bind(&terms, external);
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
        let place = binding.place;
        state.by_external.remove(&external);
        if let Some(externals) = state.by_inside.get_mut(&place) {
            externals.retain(|other| *other != external);
            if externals.is_empty() {
                state.by_inside.remove(&place);
            }
        }
        state.subscribers.unbound(inside.address, nat);
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

    /// Who sends from an inside endpoint to `remote`, as hosts outside know it: under each of these translations the
    /// endpoint that it has already, else its address with the port 0, which no mapping has.
    pub(super) fn known_as(
        &self,
        inside: &Endpoint,
        remote: &Endpoint,
        nats: impl Iterator<Item = (u16, Dependence)>,
    ) -> Vec<Endpoint> {
        let state = self.state();
        let mut known = Vec::new();
        for (nat, mapping) in nats {
            let Some(address) = state.subscribers.external(&inside.address, nat) else { continue };
            let place = Place { inside: *inside, nat, scope: scope(mapping, remote) };
            match state.by_inside.get(&place) {
                Some(externals) => known.extend_from_slice(externals),
                None => known.push(Endpoint { address, port: 0, ..*inside }),
            }
        }
        known
    }

    /// The binding that an inbound packet may use, by its filtering (RFC 4787 section 5); takes a share in it.
    pub(super) fn admit(&self, external: &Endpoint, caller: &Caller, now: Tick) -> Option<Admitted> {
        let mut state = self.state();
        let state = &mut *state;
        let binding = state.by_external.get_mut(external)?;
        let permitted = || state.permits.allow(external, &caller.known_as, binding.filtering, now);
        let known = |address: &Address| binding.remotes.contains_key(address);
        let open = match binding.filtering {
            Dependence::EndpointIndependent => true,
            Dependence::AddressDependent => {
                known(&caller.endpoint.address) || caller.known_as.iter().any(|endpoint| known(&endpoint.address))
            }
            Dependence::AddressAndPortDependent => false,
        };
        let asked = permitted();
        if !open && !asked {
            return None;
        }
        binding.take_share(caller.endpoint.address);
        let Binding { place: Place { inside, nat, .. }, rule, .. } = *binding;
        Some(Admitted { inside, nat, rule, asked })
    }

    /// A host that is known by these endpoints has sent to a mapping that does not admit it.
    pub(super) fn permit(&self, known_as: &[Endpoint], mapping: Endpoint, now: Tick) {
        let mut state = self.state();
        let state = &mut *state;
        for own in known_as.iter().filter(|own| state.by_external.contains_key(*own)) {
            state.permits.note(*own, mapping, now);
        }
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
    fn bind(&mut self, terms: &Terms, external: Endpoint) {
        let place = terms.place();
        let Terms { rule, filtering, .. } = *terms;
        let mut binding = Binding { place, rule, filtering, sessions: 0, remotes: HashMap::new() };
        binding.take_share(terms.remote.address);
        // One is the rule: the memory of a list that grows by itself would be wasted on most of them.
        let externals = self.by_inside.entry(place).or_default();
        externals.reserve_exact(1);
        externals.push(external);
        self.by_external.insert(external, binding);
        self.subscribers.bound(terms.inside.address, terms.nat, external.address);
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
        self.place.inside == *inside && self.place.nat == nat
    }

    fn take_share(&mut self, remote: Address) {
        self.sessions += 1;
        if self.filtering == Dependence::AddressDependent {
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
