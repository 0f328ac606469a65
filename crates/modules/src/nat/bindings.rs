//! Bindings: which external endpoint stands for which inside endpoint (RFC 3022, RFC 4787 terms: mappings).
//!
//! An inside endpoint has one binding under each translation, so that its external endpoint is the same for all
//! destinations that the translation is about; or one for each remote address, or remote address and port, where the
//! translation says so. It has another one beside it only where the address of the first is not to be used any more, or
//! not by the interface that the connection leaves through. A binding lives as long as one of its host's connections;
//! each takes a share. Those that came in keep its port out of other hands until they have ended, too. One that its host
//! has asked for ([`explicit`](super::explicit)) lives until its time is over, and is for all destinations, whatever the
//! translation says. The modules share the bindings, all on the engine's one thread; the lock is never contended.

mod asked;
mod choose;
mod shares;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowhop_flow::Reason;
use flowhop_flow::key::Address;
use flowhop_flow::record::Tick;
use flowhop_policy::{Dependence, NatLimits};
use rand_core::RngCore;

use super::blocks::{Blocks, Cut};
use super::explicit::Explicit;
use super::permits::Permits;
use super::port_set::{PortSet, Words};
use super::remotes::Remotes;
use super::resting::Resting;
use super::subscribers::Subscribers;

pub use asked::Asked;
pub(crate) use asked::Refused;
pub(super) use asked::{Bounds, Exactly};
pub(super) use choose::Choices;

/// Address and port (or echo identifier) of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// External ports came into an inside address's use, or out of it, and are to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Identity of the translation.
    pub nat: u16,
    /// The inside endpoint; of a block its address, with the protocol and the port 0.
    pub inside: Endpoint,
    /// The external address.
    pub external: Address,
    /// First and last external port.
    pub ports: (u16, u16),
    /// A block of ports, for all protocols.
    pub block: bool,
    /// In use from now on.
    pub begun: bool,
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
    /// The blocks that its external port is from.
    pub(super) cut: Option<Cut>,
    pub(super) log: bool,
    /// For one who is expected: nobody else is let in, whatever filtering says, unless its host has other connections by
    /// it.
    pub(super) expected: bool,
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

/// Whose connection has a share in a binding.
#[derive(Clone, Copy, Debug)]
pub(super) enum Share {
    /// One of its host, to this remote address.
    Own(Address),
    /// One that came in. It keeps the external port, since it uses it, but neither the mapping, nor does its sender count
    /// as one whom the host has sent to (RFC 4787 REQ-6, RFC 7857 section 7).
    Inbound,
}

#[derive(Debug)]
struct Binding {
    place: Place,
    /// That of the connection of its host that took it up.
    rule: u16,
    /// The first port of the block that it is in.
    block: Option<u16>,
    log: bool,
    /// Only for who is expected.
    expected: bool,
    /// Its host has asked for it: it stays without connections, and lets in whom the host says.
    explicit: bool,
    /// Connections of its host. None: nobody more is let in.
    own: u32,
    inbound: u32,
    remotes: Remotes,
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
    /// By permission of a mapping that was asked for.
    pub(super) explicit: bool,
}

#[derive(Debug)]
struct State {
    /// External endpoints of an inside one.
    by_inside: HashMap<Place, Vec<Endpoint>>,
    by_external: HashMap<Endpoint, Binding>,
    /// External ports in use.
    ports: HashMap<(Address, u8), PortSet>,
    resting: Resting,
    subscribers: Subscribers,
    permits: Permits,
    blocks: Blocks,
    explicit: Explicit,
    changes: Vec<PortChange>,
    leases: Vec<Lease>,
}

/// All bindings.
#[derive(Clone, Debug)]
pub struct Bindings(Arc<Mutex<State>>);

impl Bindings {
    /// None yet, for a table of so many connections.
    #[must_use]
    pub fn new(connections: u32) -> Self {
        let state = State {
            by_inside: HashMap::new(),
            by_external: HashMap::new(),
            ports: HashMap::new(),
            resting: Resting::new(connections as usize / 2),
            subscribers: Subscribers::default(),
            permits: Permits::default(),
            blocks: Blocks::default(),
            explicit: Explicit::new(connections as usize),
            changes: Vec::new(),
            leases: Vec::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on so many external ports rest, for so many ticks each (RFC 6888 REQ-8).
    pub fn set_rest(&self, rest: Tick, ports: usize) {
        self.state().resting.configure(rest, ports);
    }

    /// The external endpoint of an inside one, an existing binding or a new one; takes a share in it.
    ///
    /// # Errors
    /// When no port is free at any of the addresses, or the inside address has all that it may have.
    pub(super) fn map(
        &self,
        terms: Terms,
        choices: &Choices<'_>,
        random: &mut dyn RngCore,
        now: Tick,
    ) -> Result<Endpoint, Reason> {
        let mut state = self.state();
        let state = &mut *state;
        let known = state.by_inside.get(&terms.place()).into_iter().flatten();
        let known = state.asked_for(&terms).into_iter().chain(known.copied());
        let kept = known.into_iter().find(|external| (choices.keeps)(&external.address));
        state.subscribers.admit(&terms.inside.address, terms.nat, choices.limits, kept.is_none())?;
        if let Some(external) = kept {
            state.take_up(&terms, &external);
            return Ok(external);
        }
        let external = state.choose(&terms, choices, random, now).ok_or(Reason::NatExhausted)?;
        state.resting.wake(&external);
        let begun = state.bind(&terms, external, Some(Share::Own(terms.remote.address)));
        state.leases.extend(begun.filter(|_| terms.log));
        Ok(external)
    }

    /// Takes over a binding of an adopted connection of its host; `false` when it contradicts another one.
    pub(super) fn adopt(&self, terms: Terms, external: Endpoint) -> bool {
        self.take_over(&terms, external, Share::Own(terms.remote.address))
    }

    /// The same of a connection that came in. It does not say what of its remote end the mapping is for alone.
    pub(super) fn adopt_inbound(&self, terms: Terms, external: Endpoint) -> bool {
        self.take_over(&terms, external, Share::Inbound)
    }

    fn take_over(&self, terms: &Terms, external: Endpoint, share: Share) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        match state.by_external.get(&external).map(|binding| binding.is_of(&terms.inside, terms.nat)) {
            Some(false) => return false,
            Some(true) => match share {
                Share::Own(_) => state.take_up(terms, &external),
                Share::Inbound => state.take_share(&external, share),
            },
            None => {
                // What began was logged when it did.
                let _begun = state.bind(terms, external, Some(share));
            }
        }
        true
    }

    /// Gives a share back; the last one ends the binding. Does nothing if there is no such binding.
    pub(super) fn release(&self, inside: Endpoint, nat: u16, external: Endpoint, share: Share, now: Tick) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(binding) = state.by_external.get_mut(&external).filter(|binding| binding.is_of(&inside, nat)) else {
            return;
        };
        binding.give_share(share);
        state.subscribers.disconnected(&inside.address, nat, share);
        state.end_if_unused(&external, now);
    }

    /// Who was expected at a binding comes in: its share is one of a connection that came in.
    pub(super) fn come_in(&self, inside: Endpoint, nat: u16, external: Endpoint, remote: Address, now: Tick) {
        self.state().take_share(&external, Share::Inbound);
        self.release(inside, nat, external, Share::Own(remote), now);
    }

    /// It did not come in; the share of its connection is given back by whoever gives up the connection.
    pub(super) fn expect_again(&self, external: &Endpoint, remote: Address) {
        self.state().take_share(external, Share::Own(remote));
    }

    /// Nobody is expected at a binding any more.
    pub(super) fn give_up(&self, inside: Endpoint, nat: u16, external: Endpoint, remote: Address, now: Tick) {
        self.release(inside, nat, external, Share::Own(remote), now);
    }

    /// Whether a binding has this external endpoint.
    pub(super) fn knows(&self, external: &Endpoint) -> bool {
        self.nat_of(external).is_some()
    }

    /// Identity of the translation of the binding that has this external endpoint.
    pub(super) fn nat_of(&self, external: &Endpoint) -> Option<u16> {
        self.state().by_external.get(external).map(|binding| binding.place.nat)
    }

    /// Whether an inside endpoint has this external one under a translation.
    pub(super) fn holds(&self, inside: &Endpoint, nat: u16, external: &Endpoint) -> bool {
        self.state().by_external.get(external).is_some_and(|binding| binding.is_of(inside, nat))
    }

    /// Whether the host of a mapping sends to an address.
    pub(super) fn sends_to(&self, external: &Endpoint, address: &Address) -> bool {
        self.state().by_external.get(external).is_some_and(|binding| binding.remotes.contains(address))
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

    /// The binding that an inbound packet may use, by the filtering in force (RFC 4787 section 5); takes a share in it.
    pub(super) fn admit(
        &self,
        external: &Endpoint,
        caller: &Caller,
        filtering: Dependence,
        now: Tick,
    ) -> Option<Admitted> {
        let mut state = self.state();
        let state = &mut *state;
        let binding = state.by_external.get(external)?;
        if binding.explicit {
            return state.admit_asked(external, caller);
        }
        if binding.own == 0 || binding.expected {
            return None;
        }
        let known_as = caller.known_as.iter().map(|endpoint| &endpoint.address);
        let open = match filtering {
            Dependence::EndpointIndependent => true,
            Dependence::AddressDependent => std::iter::once(&caller.endpoint.address)
                .chain(known_as)
                .any(|address| binding.remotes.contains(address)),
            Dependence::AddressAndPortDependent => false,
        };
        if !open && !state.permits.allow(external, &caller.known_as, filtering, now) {
            return None;
        }
        let Binding { place: Place { inside, nat, .. }, rule, .. } = *binding;
        state.take_share(external, Share::Inbound);
        Some(Admitted { inside, nat, rule, explicit: false })
    }

    /// Whether the host of a mapping that has let one in has more of these than it may have.
    pub(super) fn is_over(&self, admitted: &Admitted, limits: NatLimits) -> bool {
        self.state().subscribers.is_over(&admitted.inside.address, admitted.nat, limits)
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

    /// What is to be logged since the last call.
    #[must_use]
    pub fn take_leases(&self) -> Vec<Lease> {
        std::mem::take(&mut self.state().leases)
    }

    /// The ports, or identifiers, of an address that bindings of a protocol use: one bit for each, the lowest first.
    /// `None` when there is none.
    #[must_use]
    pub fn ports_of(&self, address: &Address, protocol: u8) -> Option<Box<Words>> {
        self.state().ports.get(&(*address, protocol)).map(PortSet::words)
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
