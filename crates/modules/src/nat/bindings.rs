//! Bindings: which external endpoint stands for which inside endpoint (RFC 3022, RFC 4787 terms: mappings).
//!
//! A binding lives as long as one of its connections; each takes a share. Inbound and source translation share
//! the bindings, both on the engine's one thread; the lock is never contended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowhop_flow::key::Address;
use flowhop_policy::Dependence;
use flowhop_wire::protocol;
use rand_core::RngCore;

use super::pool::Ports;
use crate::shared::Reserved;

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

#[derive(Debug)]
struct Binding {
    external: Endpoint,
    nat: u16,
    rule: u16,
    filtering: Dependence,
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
    by_inside: HashMap<Endpoint, Binding>,
    by_external: HashMap<Endpoint, Endpoint>,
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
    #[expect(clippy::too_many_arguments, reason = "everything that a binding is made of")]
    pub(super) fn map(
        &self,
        inside: Endpoint,
        nat: u16,
        rule: u16,
        filtering: Dependence,
        addresses: &[Address],
        own: &dyn Fn(&Address) -> bool,
        reserved: &Reserved,
        remote: Address,
        random: &mut dyn RngCore,
    ) -> Option<Endpoint> {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(binding) = state.by_inside.get_mut(&inside).filter(|binding| binding.nat == nat) {
            binding.take_share(remote);
            return Some(binding.external);
        }
        if state.by_inside.contains_key(&inside) {
            // Bound under another translation: a second external endpoint would not be endpoint-independent.
            return None;
        }
        for address in addresses {
            let is_own = own(address);
            let in_use =
                |port: u16| reserved.ephemeral.contains(&port) || reserved.bound.contains(&(inside.protocol, port));
            let allowed =
                |port: u16| !is_own || (reserved.within.contains(&port) && !(is_port(inside.protocol) && in_use(port)));
            let ports = state.ports.entry((*address, inside.protocol)).or_insert_with(Ports::new);
            let Some(port) = ports.take(random, allowed) else { continue };
            let external = Endpoint { protocol: inside.protocol, address: *address, port };
            state.bind(inside, external, nat, rule, filtering, remote);
            return Some(external);
        }
        None
    }

    /// Takes over a binding of an adopted connection; `false` when it contradicts another one.
    pub(super) fn adopt(
        &self,
        inside: Endpoint,
        external: Endpoint,
        nat: u16,
        rule: u16,
        filtering: Dependence,
        remote: Address,
    ) -> bool {
        let mut state = self.state();
        let taken = state.by_external.contains_key(&external);
        match (state.by_inside.get_mut(&inside), taken) {
            (Some(binding), _) if binding.external == external => {
                binding.take_share(remote);
                true
            }
            (None, false) => {
                state
                    .ports
                    .entry((external.address, external.protocol))
                    .or_insert_with(Ports::new)
                    .set(external.port, true);
                state.bind(inside, external, nat, rule, filtering, remote);
                true
            }
            _ => false,
        }
    }

    /// Gives a share back; the last one ends the binding.
    pub(super) fn release(&self, inside: Endpoint, external: Endpoint, remote: Address) {
        let mut state = self.state();
        let Some(binding) = state.by_inside.get_mut(&inside).filter(|binding| binding.external == external) else {
            return;
        };
        binding.give_share(remote);
        if binding.sessions > 0 {
            return;
        }
        state.by_inside.remove(&inside);
        state.by_external.remove(&external);
        let place = (external.address, external.protocol);
        if let Some(ports) = state.ports.get_mut(&place) {
            ports.set(external.port, false);
            if ports.is_empty() {
                state.ports.remove(&place);
            }
        }
        state.changes.push(PortChange { endpoint: external, used: false });
    }

    /// Whether a binding has this external endpoint.
    pub(super) fn knows(&self, external: &Endpoint) -> bool {
        self.state().by_external.contains_key(external)
    }

    /// The binding that an inbound packet from `remote` may use, by its filtering (RFC 4787 section 5); takes a
    /// share in it.
    pub(super) fn admit(&self, external: &Endpoint, remote: &Address) -> Option<Admitted> {
        let mut state = self.state();
        let inside = *state.by_external.get(external)?;
        let binding = state.by_inside.get_mut(&inside)?;
        let admits = match binding.filtering {
            Dependence::EndpointIndependent => true,
            Dependence::AddressDependent => binding.remotes.contains_key(remote),
            Dependence::AddressAndPortDependent => false,
        };
        if !admits {
            return None;
        }
        binding.take_share(*remote);
        Some(Admitted { inside, nat: binding.nat, rule: binding.rule })
    }

    /// Ports that came into use or out of it since the last call.
    #[must_use]
    pub fn take_changes(&self) -> Vec<PortChange> {
        std::mem::take(&mut self.state().changes)
    }

    /// Number of bindings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().by_inside.len()
    }

    /// There is no binding.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const fn is_port(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}

impl State {
    fn bind(
        &mut self,
        inside: Endpoint,
        external: Endpoint,
        nat: u16,
        rule: u16,
        filtering: Dependence,
        remote: Address,
    ) {
        let mut binding = Binding { external, nat, rule, filtering, sessions: 0, remotes: HashMap::new() };
        binding.take_share(remote);
        self.by_inside.insert(inside, binding);
        self.by_external.insert(external, inside);
        self.changes.push(PortChange { endpoint: external, used: true });
    }
}

impl Binding {
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
