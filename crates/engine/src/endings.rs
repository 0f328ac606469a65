//! How connections end: by age, by order, and for good when no kernel program can hold them any more.

use flowhop_flow::key::REFUSED;
use flowhop_flow::record::Tick;
use flowhop_table::{AfterGrace, BlockIndex, Freed, Removal, key_of};
use flowhop_wire::protocol;

use crate::ageing;
use crate::engine::Engine;
use crate::refusals::{self, is_refusal};
use crate::views::freed_view;

impl Engine {
    pub(crate) fn age(&mut self, number: BlockIndex, now: Tick) {
        let Some(block) = self.table.block(number).filter(|block| flowhop_table::is_live(block)) else { return };
        if is_refusal(block) {
            match refusals::remaining(block, now) {
                0 => drop(self.remove(number, Removal::Final)),
                remaining => self.wheel.arm(number, remaining),
            }
            return;
        }
        let protocol = key_of(block, 0).protocol();
        let (_, timeout) = ageing::state_of(block, protocol, &self.timeouts);
        let idle = ageing::idle(block, now);
        if idle >= timeout && self.is_kept_by_others(number) {
            return;
        }
        let Some(block) = self.table.block(number) else { return };
        if idle >= timeout {
            // What only strangers keep sending to is not woken by that.
            let removal = if ageing::is_inbound(block) { Removal::Final } else { Removal::Expiry };
            self.remove(number, removal);
            return;
        }
        if protocol == protocol::TCP && self.resets.go_on(number, block, now) {
            ageing::forget_reset(block);
        }
        self.wheel.arm(number, ageing::next_look(block, timeout - idle, protocol, &self.timeouts));
    }

    /// Whether a grace period of the kernel programs is wanted; if so, its number. Hand it to
    /// [`grace_passed`](Self::grace_passed) when the period is over.
    pub fn begin_grace(&mut self) -> Option<u64> {
        let wanted = self.table.wants_grace() || self.gates.wants_grace(self.passed) || !self.moves.is_empty();
        if wanted { Some(self.table.begin_grace()) } else { None }
    }

    /// A grace period is over: connections that were removed before it began are gone for good.
    pub fn grace_passed(&mut self, begun: u64, now: Tick) {
        self.passed = begun;
        while let Some(outcome) = self.table.after_grace(begun) {
            match outcome {
                AfterGrace::Revived(block) => self.revived(block, now),
                AfterGrace::Freed(freed) => self.gone(&freed, now),
            }
        }
    }

    /// The block of a connection is free for another one.
    fn gone(&mut self, freed: &Freed, now: Tick) {
        if freed.keys[1].context() == REFUSED {
            return;
        }
        self.ended(freed);
        let view = freed_view(freed);
        self.sources.closed(&view.keys[0].source);
        for module in &mut self.modules {
            module.closed(&view, now);
        }
    }

    pub(crate) fn arm(&mut self, number: BlockIndex, now: Tick) {
        let Some(block) = self.table.block(number) else { return };
        let protocol = key_of(block, 0).protocol();
        let (_, timeout) = ageing::state_of(block, protocol, &self.timeouts);
        let remaining = timeout.saturating_sub(ageing::idle(block, now));
        self.wheel.arm(number, ageing::next_look(block, remaining, protocol, &self.timeouts));
    }

    /// Takes a connection or a refusal out of the table; tells whether it was there. No refusal is woken by a packet that
    /// it refused.
    pub(crate) fn remove(&mut self, number: BlockIndex, removal: Removal) -> bool {
        let refusal = self.table.block(number).is_some_and(is_refusal);
        let removed = self.table.remove(number, if refusal { Removal::Final } else { removal });
        if removed && refusal {
            self.refusal_removed();
        }
        removed
    }

    /// Ends a connection at once, by its identifier (serial); tells whether there was one.
    pub fn delete(&mut self, serial: u32) -> bool {
        let found = self
            .table
            .live_blocks()
            .find(|&number| self.table.block(number).is_some_and(|block| block.owner.serial.load() == serial));
        found.is_some_and(|number| self.remove(number, Removal::Final))
    }
}
