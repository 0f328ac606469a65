//! The user-level side of the gates: entries become active when nothing of their flows is on its way here.
//!
//! See [`flowhop_flow::record::Gate`]. A packet that was counted at a gate but lost before it arrived (full
//! queue of the punt device) would keep the gate shut; an entry that has waited for [`STUCK`] takes such packets
//! for lost, or for [`STUCK_IN_QUEUE`] where they may still be in a queue.

use std::collections::{HashMap, VecDeque};

use flowhop_flow::record::{GATES, Gate, Steer, Tick};
use flowhop_table::{BlockIndex, Region, Table};

use crate::hold::HOLD_LIMIT;

/// How long an entry may wait, in ticks, before packets that were counted at its gate and have not come are taken
/// for lost, if the queues from the kernel are empty. A packet is on its way to a queue for microseconds.
const STUCK: Tick = 200;
/// The same where the queues are never empty.
const STUCK_IN_QUEUE: Tick = 2000;
/// Entries looked at in one call.
const LOOKED_AT: usize = 4096;

#[derive(Debug)]
struct Waiting {
    block: BlockIndex,
    serial: u32,
    direction: usize,
    gate: u32,
    since: Tick,
}

/// What is known of packets that may still be on their way.
#[derive(Clone, Copy, Debug)]
pub struct Quiet {
    /// Packets are kept in user space for reasons of their own, so that none is taken for lost.
    pub holding: bool,
    /// The queues from the kernel are empty.
    pub drained: bool,
    /// Something that was sent waits for a device. With one that takes less than it is given that is always so, and no
    /// entry waits for it longer than [`STUCK`].
    pub unsent: bool,
    /// The last grace period of the kernel programs that has passed.
    pub grace: u64,
}

/// What user space knows of the gates.
#[derive(Debug)]
pub struct Gates {
    shared: Region<Gate>,
    finished: Vec<u32>,
    waiting: VecDeque<Waiting>,
    /// Those that were active before: packets that were handed down then are counted at no gate. With the grace period
    /// that was the last to begin when they were made pending.
    again: HashMap<(BlockIndex, usize), u64>,
}

impl Gates {
    /// Takes the gates over; packets that were on their way to an earlier process are lost.
    #[must_use]
    pub fn new(shared: Region<Gate>) -> Self {
        let finished = shared.iter().map(|gate| gate.read().0).collect();
        Self { shared, finished, waiting: VecDeque::with_capacity(GATES), again: HashMap::new() }
    }

    /// The epoch that a pending entry of a key hash is published under.
    #[must_use]
    pub fn epoch(&self, gate: u32) -> u8 {
        self.shared.get(gate as usize).map_or(0, |gate| gate.read().1 as u8 & 15)
    }

    /// A packet that was counted at a gate (`number + 1`, 0 = none) has left user space.
    pub fn finish(&mut self, gate_plus_one: u32) {
        if let Some(count) = gate_plus_one.checked_sub(1).and_then(|gate| self.finished.get_mut(gate as usize)) {
            *count = count.wrapping_add(1);
        }
    }

    /// A direction was published pending.
    pub fn wait(&mut self, block: BlockIndex, serial: u32, direction: usize, gate: u32, now: Tick) {
        self.waiting.push_back(Waiting { block, serial, direction, gate, since: now });
    }

    /// A direction that was active was made pending again, when `grace` was the last grace period to have begun.
    pub fn wait_again(&mut self, block: BlockIndex, serial: u32, direction: usize, gate: u32, grace: u64, now: Tick) {
        self.again.insert((block, direction), grace);
        self.waiting.push_back(Waiting { block, serial, direction, gate, since: now });
    }

    /// Whether a direction waits for a grace period to begin after the one that passed last.
    #[must_use]
    pub fn wants_grace(&self, passed: u64) -> bool {
        self.again.values().any(|begun| passed <= *begun)
    }

    /// Directions that are pending.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Activates what can be: entries whose gate counts no packet that has not left. What was active before waits also
    /// until every program that saw it so has ended, and what those handed down has left.
    pub fn activate(&mut self, table: &Table, now: Tick, quiet: Quiet) {
        let Quiet { holding, drained, unsent, grace } = quiet;
        for _ in 0..self.waiting.len().min(LOOKED_AT) {
            let Some(waiting) = self.waiting.pop_front() else { return };
            let place = (waiting.block, waiting.direction);
            let Some(block) = table.block(waiting.block).filter(|block| block.owner.serial.load() == waiting.serial)
            else {
                self.again.remove(&place);
                continue;
            };
            let steer = Steer::unpack(block.hot[waiting.direction].steer.load());
            if !steer.pending {
                self.again.remove(&place);
                continue;
            }
            if unsent && now.wrapping_sub(waiting.since) <= STUCK {
                self.waiting.push_back(waiting);
                continue;
            }
            // What was kept when it was made pending has been sent or given up by then.
            let kept = holding && now.wrapping_sub(waiting.since) <= HOLD_LIMIT;
            if self.again.get(&place).is_some_and(|begun| kept || !drained || grace <= *begun) {
                self.waiting.push_back(waiting);
                continue;
            }
            let Some(gate) = self.shared.get(waiting.gate as usize) else { continue };
            let (handed, epoch) = gate.read();
            if epoch as u8 & 15 == steer.epoch {
                let finished = &mut self.finished[waiting.gate as usize];
                let patience = if drained { STUCK } else { STUCK_IN_QUEUE };
                if handed != *finished && !holding && now.wrapping_sub(waiting.since) > patience {
                    *finished = handed;
                }
                if handed != *finished || !gate.raise(handed, epoch) {
                    self.waiting.push_back(waiting);
                    continue;
                }
            }
            self.again.remove(&place);
            // From the raise on the kernel paths take the entry for active; this only says so in the entry.
            let steer = Steer { pending: false, ..Steer::unpack(block.hot[waiting.direction].steer.load()) };
            block.hot[waiting.direction].steer.store(steer.pack());
        }
    }
}
