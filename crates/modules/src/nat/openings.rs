//! Where connections that are expected come in: an inside endpoint may be known outside by another one.
//!
//! If a translation gives an endpoint away that nobody else has, it gives one here as well: a mapping is made, by the
//! translation of the connection that announces another one and at its address, which lets nobody in but whom is expected.

use flowhop_engine::Context;
use flowhop_flow::key::{self, Address};
use flowhop_flow::record::Tick;
use flowhop_flow::{Key, Reason};
use flowhop_policy::NatRule;

use super::bindings::{Bindings, Endpoint};
use super::source::{Likeness, Request, allocate, parent_choice};
use super::{destination, nat_of};
use crate::shared::{Current, Shared};

/// An inside endpoint as it is known outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    /// Who listens.
    pub(crate) inside: Endpoint,
    /// Where whoever connects goes to.
    pub(crate) external: Endpoint,
    /// Identity of the translation; 0 = none.
    pub(crate) nat: u16,
    /// Who connects, as received.
    remote: Address,
    /// There is a mapping, in which this has a share.
    pub(crate) mapped: bool,
}

#[cfg(test)]
impl Opening {
    /// That of an endpoint that is not translated.
    pub(crate) const fn plain(endpoint: Endpoint, remote: Address) -> Self {
        Self { inside: endpoint, external: endpoint, nat: 0, remote, mapped: false }
    }
}

/// Who listens, and how the other side knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listener {
    /// Its endpoint.
    pub(crate) inside: Endpoint,
    /// The address by which the other side knows it.
    pub(crate) known: Address,
    /// Identity of the translation that makes it so; 0 = none.
    pub(crate) nat: u16,
    /// Who connects, as received; of its port nothing is known.
    pub(crate) remote: Endpoint,
    /// Zone that it connects from.
    pub(crate) from: u16,
    /// Identity of the rule.
    pub(crate) rule: u16,
}

/// How often two ports that follow each other are looked for.
const PAIR_TRIES: usize = 16;

/// Makes openings.
#[derive(Clone, Debug)]
pub(crate) struct Openings {
    shared: Shared,
    bindings: Bindings,
}

impl Openings {
    pub(crate) const fn new(shared: Shared, bindings: Bindings) -> Self {
        Self { shared, bindings }
    }

    /// Where whoever connects to a listener goes to.
    ///
    /// # Errors
    /// When no port is free, or the listener has all that it may have.
    pub(crate) fn open(&self, listener: &Listener, context: &mut Context<'_>) -> Result<Opening, Reason> {
        self.open_like(listener, Likeness::Usual, context)
    }

    /// The same for a listener and for the port behind its own, with external ports that follow each other likewise, the
    /// first of them even or odd as its own (RFC 3550 section 11).
    ///
    /// # Errors
    /// When no two ports are free that do, or the listener has all that it may have.
    pub(crate) fn open_pair(&self, listener: &Listener, context: &mut Context<'_>) -> Result<[Opening; 2], Reason> {
        let next = |endpoint: Endpoint| Endpoint { port: endpoint.port.wrapping_add(1), ..endpoint };
        let second_listener = Listener { inside: next(listener.inside), ..*listener };
        for _ in 0..PAIR_TRIES {
            let first = self.open_like(listener, Likeness::Parity, context)?;
            let behind = next(first.external);
            let second = self.open_like(&second_listener, Likeness::Port(behind.port), context);
            if let Ok(second) = second
                && second.external == behind
            {
                return Ok([first, second]);
            }
            self.close(&first, context.now);
            self.close(&second?, context.now);
        }
        Err(Reason::NatExhausted)
    }

    fn open_like(&self, listener: &Listener, port: Likeness, context: &mut Context<'_>) -> Result<Opening, Reason> {
        let Listener { inside, known, nat, remote, .. } = *listener;
        let current = self.shared.current();
        let same = Endpoint { address: known, ..inside };
        let opening = Opening { inside, external: same, nat, remote: remote.address, mapped: false };
        if is_known_so(&current, listener, &same) {
            return Ok(opening);
        }
        let request = Request {
            inside,
            remote,
            rule: listener.rule,
            choice: parent_choice(&current, nat),
            addresses: vec![known],
            expected: true,
            port,
            mapping: None,
            among: None,
        };
        let external = allocate(&self.shared, &self.bindings, &current, &request, context)?;
        Ok(Opening { external, mapped: true, ..opening })
    }

    /// Whoever was expected comes in: its connection has the share from now on, and is the last that does.
    pub(crate) fn taken(&self, opening: &Opening, now: Tick) {
        if opening.mapped {
            self.bindings.come_in(opening.inside, opening.nat, opening.external, opening.remote, now);
        }
    }

    /// It did not come in after all.
    pub(crate) fn again(&self, opening: &Opening) {
        if opening.mapped {
            self.bindings.expect_again(&opening.external, opening.remote);
        }
    }

    /// Nobody is expected any more.
    pub(crate) fn close(&self, opening: &Opening, now: Tick) {
        if opening.mapped {
            self.bindings.give_up(opening.inside, opening.nat, opening.external, opening.remote, now);
        }
    }
}

/// Whether a listener is known by its own port without further ado: it is not translated, or what translates it keeps
/// ports, or publishes this one as well.
fn is_known_so(current: &Current, listener: &Listener, same: &Endpoint) -> bool {
    let Listener { inside, known, nat, remote, from, .. } = *listener;
    if known == inside.address || nat_of(current, nat).is_some_and(NatRule::is_fixed) {
        return true;
    }
    let family = if key::ip(&known).is_ipv4() { 4 } else { 6 };
    let key = Key {
        source: remote.address,
        destination: known,
        ports: key::ports(remote.port, same.port),
        identity: Key::identity(inside.protocol, family, 0),
    };
    destination::leads_to(current, &key, from) == Some((inside.address, inside.port))
}
