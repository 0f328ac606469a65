//! What makes room when connections come faster than they go.
//!
//! The contract: a connection with traffic both ways is never ended to make room, whatever comes. What may be, in this
//! order:
//!
//! 1. half-open TCP beyond its share of the table ([`half_open`](crate::half_open));
//! 2. when the table is nearly full, TCP that is reset or closed; other protocols' first packets that were never answered;
//!    closing TCP, and one-way flows of more than [`FEW`] packets, once silent for [`SILENT`];
//! 3. when nothing of that kind is near, half-open TCP.
//!
//! When nothing of that kind is found, new connections are dropped (`table_full`) until others time out. Each new
//! connection ends a few at the most, while there still is [headroom](HEADROOM): blocks are free only after a grace period.

use flowhop_flow::Key;
use flowhop_flow::record::{Block, Tick};
use flowhop_flow::tcp::Phase;
use flowhop_table::{BlockIndex, Removal, is_live, key_of};
use flowhop_wire::protocol;

use crate::ageing;
use crate::engine::Engine;
use crate::half_open::is_half_open;
use crate::refusals::is_refusal;
use crate::sources::{Share, source_of};

/// Room is made while less than one block in so many is free, but for at least one and at most [`MOST_HEADROOM`].
const HEADROOM: usize = 64;
const MOST_HEADROOM: usize = 4096;
/// Blocks looked at, and connections ended, for one new connection.
const LOOKED_AT: u32 = 64;
const ENDED: usize = 4;
/// Packets of a flow that was never answered up to which it may be a scanner's or a flood's.
const FEW: u64 = 3;
/// How long a one-way flow or a closing connection must have been silent, in ticks: about ten seconds.
const SILENT: Tick = 10_000;

/// How full the table is, and of what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// TCP connections whose handshake is under way, about.
    pub half_open: usize,
    /// How many of them there may be.
    pub half_open_limit: usize,
    /// Connections that were ended to make room so far.
    pub evicted: u64,
    /// How many sources there are.
    pub sources: usize,
    /// Those with the most connections, the most first.
    pub top: Vec<Share>,
}

impl Engine {
    /// How full the table is, and of what; names the `n` sources with the most connections.
    #[must_use]
    pub fn pressure(&self, n: usize) -> Pressure {
        Pressure {
            half_open: self.half_open.len(),
            half_open_limit: self.half_open.most(),
            evicted: self.half_open.ended() + self.evicted,
            sources: self.sources.len(),
            top: self.sources.top(n),
        }
    }

    /// A connection is about to be made: sees to it that others can be as well.
    pub(crate) fn make_room(&mut self, tcp: bool, now: Tick) {
        if tcp {
            self.press_cookies(now);
        }
        if tcp && self.half_open.len() >= self.half_open.most() {
            self.end_half_open();
        }
        let blocks = self.table.regions().blocks.len();
        if self.table.free() <= (blocks / HEADROOM).clamp(1, MOST_HEADROOM) && !self.evict(now) {
            self.end_half_open();
        }
    }

    fn end_half_open(&mut self) -> bool {
        let victim = self.half_open.make_room(&self.table);
        victim.is_some_and(|number| self.remove(number, Removal::Expiry))
    }

    /// Ends a few connections that may be, of the next few in the table; tells whether it did. Handshakes that are under
    /// way are none of them, or a flood of something else would end each one as soon as it has begun.
    fn evict(&mut self, now: Tick) -> bool {
        let blocks = self.table.regions().blocks.len() as u32;
        let mut ended = 0;
        for _ in 0..LOOKED_AT.min(blocks) {
            let number = self.evict_cursor;
            self.evict_cursor = (number + 1) % blocks;
            let Some(block) = self.table.block(number) else { continue };
            if !is_live(block) || !is_expendable(block, now) || self.has_related(block) {
                continue;
            }
            ended += usize::from(self.remove(number, Removal::Expiry));
            if ended == ENDED {
                break;
            }
        }
        self.evicted += ended as u64;
        ended != 0
    }

    /// Notes a connection if it is half open.
    pub(crate) fn note_half_open(&mut self, number: BlockIndex) {
        let Some(block) = self.table.block(number) else { return };
        let key = key_of(block, 0);
        if key.protocol() == protocol::TCP && !is_refusal(block) && is_half_open(block) {
            let source = Key { source: source_of(&key.source), identity: key.identity, ..Key::default() };
            self.half_open.note(self.table.hash(&source), number, block.owner.serial.load());
        }
    }
}

/// Whether a connection may be ended to make room, half-open TCP aside.
fn is_expendable(block: &Block, now: Tick) -> bool {
    let silent = || ageing::idle(block, now) > SILENT;
    if is_refusal(block) {
        return true;
    }
    if key_of(block, 0).protocol() != protocol::TCP {
        return block.hot[1].traffic.is_none() && (block.hot[0].traffic.read().0 <= FEW || silent());
    }
    match Phase::of(block.tcp[0].flags(), block.tcp[1].flags()) {
        Phase::Closed | Phase::Reset => true,
        Phase::Closing => silent(),
        Phase::SynSent | Phase::SynReceived | Phase::Established => false,
    }
}
