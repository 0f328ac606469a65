//! Connections that policy refused, remembered for a while so that the kernel paths drop what comes again (checklist A13).
//!
//! A refusal is an entry like a connection's, with the action "drop" and a second key that no packet has. It is made when
//! packets of a key are refused a second time, so that a scan makes none; there are few beside the connections; and each
//! ends after [`LIFE`], because what it rests on (rules, routes, interfaces) may change. A connection that needs its key,
//! as when an inside host begins to talk to the refused one, takes it.

use flowhop_flow::Reason;
use flowhop_flow::key::{Key, REFUSED};
use flowhop_flow::record::{Action, Block, Steer, Tick};
use flowhop_table::{BlockIndex, Draft, DraftSide, Inserted, Removal, key_of};

use crate::engine::Engine;
use crate::interfaces::FastPath;
use crate::io::{Arrived, Outcome};
use crate::known::NOWHERE;
use crate::module::NewSession;

/// How long a refusal is remembered, in ticks: about ten seconds.
const LIFE: Tick = 10_000;
/// The share of the table that refusals may take: one in so many.
const SHARE: u32 = 16;
/// Places to note that a key was refused once.
const PLACES: usize = 4096;

/// What is known of refusals beside the entries.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// Hash of the key that was refused last of those that fall on this place.
    once: Box<[u64; PLACES]>,
    /// Entries that there are.
    live: u32,
    /// Entries that were made.
    made: u64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { once: Box::new([0; PLACES]), live: 0, made: 0 }
    }
}

impl Refusals {
    /// Notes a refusal; tells whether the same key was the last one refused on its place.
    fn again(&mut self, hash: u64) -> bool {
        std::mem::replace(&mut self.once[hash as usize % PLACES], hash) == hash
    }
}

/// Whether a block holds a refusal.
#[must_use]
pub fn is_refusal(block: &Block) -> bool {
    key_of(block, 1).context() == REFUSED
}

/// How much longer a refusal is remembered, in ticks.
#[must_use]
pub(crate) fn remaining(block: &Block, now: Tick) -> Tick {
    LIFE.saturating_sub(now.wrapping_sub(block.owner.created.load()))
}

impl Engine {
    /// Refusals that are remembered.
    #[must_use]
    pub const fn refusals(&self) -> u32 {
        self.refusals.live
    }

    /// Refusals that were remembered so far.
    #[must_use]
    pub const fn refusals_made(&self) -> u64 {
        self.refusals.made
    }

    /// One was taken out of the table.
    pub(crate) const fn refusal_removed(&mut self) {
        // Those of a table that was taken over are not among them.
        self.refusals.live = self.refusals.live.saturating_sub(1);
    }

    /// Policy refused a connection: remembers it if it was refused before.
    pub(crate) fn remember_refusal(&mut self, session: &NewSession, reason: Reason, now: Tick) {
        let by_rule = matches!(reason, Reason::NoRule | Reason::RuleDrop);
        let room = self.refusals.live < self.table.regions().blocks.len() as u32 / SHARE;
        if !by_rule || session.log || !room || !self.refusals.again(self.table.hash(&session.key)) {
            return;
        }
        let fast = self.interfaces.port(session.ingress).map_or(FastPath::None, |interface| interface.fast);
        let (adjacency, adjacency_generation) = NOWHERE;
        let steer = Steer {
            adjacency,
            ingress: session.ingress,
            action: Action::Drop,
            pending: false,
            skb: fast != FastPath::Driver,
            epoch: 0,
            policy_generation: self.generation(),
            adjacency_generation,
        };
        let sides = [session.key, no_packets(&session.key)];
        let service = u32::from(reason.number());
        let draft = Draft { sides: sides.map(|key| DraftSide { key, steer, service }), rules: 0, flags: 0, parent: 0 };
        if let Ok(Inserted::New(number)) = self.table.insert(&draft, now, |_| {}) {
            self.refusals.live += 1;
            self.refusals.made += 1;
            self.wheel.arm(number, LIFE);
        }
    }

    /// A packet that met a refusal here: dropped for the same reason, or to be judged anew (`None`) when the refusal was
    /// about another interface or an older policy, or has lived.
    pub(crate) fn refused_again(&mut self, number: BlockIndex, arrived: &Arrived) -> Option<Outcome> {
        let block = self.table.block(number)?;
        let steer = Steer::unpack(block.hot[0].steer.load());
        let reason = Reason::from_number(block.hot[0].service.load() as u8).unwrap_or(Reason::FlowDropped);
        let age = arrived.now.wrapping_sub(block.owner.created.load());
        let holds = steer.ingress == arrived.port && steer.policy_generation == self.generation() && age < LIFE;
        if holds {
            return Some(Outcome::of(reason));
        }
        self.remove(number, Removal::Final);
        None
    }
}

/// The key that stands for the answers, which there are none of.
fn no_packets(key: &Key) -> Key {
    Key {
        source: key.destination,
        destination: key.source,
        ports: key.ports,
        identity: Key::identity(key.protocol(), key.family(), REFUSED),
    }
}
