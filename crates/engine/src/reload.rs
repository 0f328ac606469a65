//! Another policy for the connections that exist, without stopping anything.
//!
//! # How
//! Every entry names the generation of the policy that it was judged under, and every path refuses entries of a
//! generation before the one in force ([`judge`](flowhop_flow::forward::judge)). A new policy is brought in like this:
//!
//! ```text
//!  policy_changed     target := target + 1         new connections are made under the new policy, in the target's
//!   │                                              generation, which is ahead of the one in force
//!   ▼
//!  Judging            slice by slice               every connection that may go on gets the target's generation; the
//!   │                                              others stay as they are, and go on as well
//!   ▼
//!                     in force := target           all others are cut at the same instant, on all paths
//!   ▼
//!  Ending             slice by slice               they are removed; their ports become free
//! ```
//!
//! A connection that stays never meets a generation behind the one in force, so none of its packets is handed down.
//! Another policy that comes meanwhile begins anew with the next target.
//!
//! # Wrap-around
//! Generations are compared by their 16-bit difference, which must stay below half the range. No live entry is behind
//! the generation in force but those that `Ending` is about to remove; those are of the generation that was in force
//! before, at most [`FURTHEST`] behind, and the next change asks about them again. No entry is ahead by more than
//! [`FURTHEST`] either: a change that would make it so first finishes the one before. A connection that is taken back
//! while it was being removed was not looked at, and is asked about then.

use flowhop_flow::Reason;
use flowhop_flow::record::{Block, Steer, Tick};
use flowhop_table::{BlockIndex, Removal, is_live};

use crate::engine::Engine;
use crate::interfaces::PathReason;
use crate::module::Kept;
use crate::refusals::is_refusal;
use crate::views::view_of;

/// Rules that may have to be looked at in one slice, which then takes about half a millisecond.
const EFFORT: usize = 16_384;
/// What asking about a connection takes beside that, in rules.
const ASKING: usize = 32;
/// How far the generation of new entries may be ahead of the one in force.
const FURTHEST: u16 = 1 << 14;

/// How far the change to another policy has come.
#[derive(Debug, Default)]
pub(crate) struct Reload {
    /// Generation of entries that are made or judged now.
    target: u16,
    stage: Stage,
    /// Connections that go on, as far as they have been looked at.
    live: u32,
    /// Connections that were ended since the first change that is not complete.
    ended: u32,
    /// Some may be accelerated now that might not before, or the reverse.
    ways_changed: bool,
    complete: Option<Revalidated>,
}

/// What is being done, from which block on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    Judging(BlockIndex),
    Ending(BlockIndex),
}

/// What a new policy meant for the connections that were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revalidated {
    /// Connections that go on.
    pub live: u32,
    /// Connections that it ended.
    pub ended: u32,
}

impl Reload {
    /// Goes on from a generation that another process left.
    pub(crate) fn starting_at(generation: u16) -> Self {
        Self { target: generation, ..Self::default() }
    }
}

impl Engine {
    /// The policy changed: new connections are judged by it from now on, those that exist are asked about in slices,
    /// by [`maintain`](Self::maintain). See the module.
    pub fn policy_changed(&mut self, now: Tick) {
        if self.reload.target.wrapping_sub(self.in_force()) >= FURTHEST {
            self.finish_reload(now);
        }
        self.reload.target = self.reload.target.wrapping_add(1);
        self.reload.stage = Stage::Judging(0);
    }

    /// Judges the connections of an adopted table, all at once: packets are not let in yet. What an earlier process
    /// was in the middle of does not matter.
    pub fn policy_adopted(&mut self, now: Tick) -> Revalidated {
        let in_force = self.in_force();
        let ahead = |block: &Block| {
            let generation = |direction: usize| Steer::unpack(block.hot[direction].steer.load()).policy_generation;
            [0, 1].map(|direction| generation(direction).wrapping_sub(in_force) as i16).into_iter().max()
        };
        let blocks = self.table.regions().blocks.iter();
        let furthest = blocks.filter(|block| is_live(block)).filter_map(ahead).max().unwrap_or(0).max(0);
        self.reload.target = in_force.wrapping_add(furthest as u16);
        self.policy_changed(now);
        self.finish_reload(now);
        self.take_revalidated().unwrap_or_default()
    }

    /// What the last change of policy meant, once it is complete.
    pub const fn take_revalidated(&mut self) -> Option<Revalidated> {
        self.reload.complete.take()
    }

    /// Generation of the policy that entries are made under.
    pub(crate) const fn generation(&self) -> u16 {
        self.reload.target
    }

    fn in_force(&self) -> u16 {
        self.table.config().policy_generation.load() as u16
    }

    /// Whether an entry was judged under a policy before the one in force.
    pub(crate) fn is_stale(&self, steer: Steer) -> bool {
        (steer.policy_generation.wrapping_sub(self.in_force()) as i16) < 0
    }

    /// Whether all connections have been judged under the policy in force.
    pub(crate) fn reload_is_over(&self) -> bool {
        self.reload.stage == Stage::Idle
    }

    fn finish_reload(&mut self, now: Tick) {
        while self.reload_slice(now) {}
    }

    /// One slice of a change of policy; true while there is more.
    pub(crate) fn reload_slice(&mut self, now: Tick) -> bool {
        match self.reload.stage {
            Stage::Idle => return false,
            Stage::Judging(from) => match self.judge_from(from, now) {
                Some(next) => self.reload.stage = Stage::Judging(next),
                None => self.put_in_force(),
            },
            Stage::Ending(from) => match self.end_from(from, now) {
                Some(next) => self.reload.stage = Stage::Ending(next),
                None => {
                    self.reload.stage = Stage::Idle;
                    let ended = std::mem::take(&mut self.reload.ended);
                    self.reload.complete = Some(Revalidated { live: self.reload.live, ended });
                }
            },
        }
        self.reload.stage != Stage::Idle
    }

    /// All that may go on are in the target's generation.
    fn put_in_force(&mut self) {
        self.table.config().policy_generation.store(u32::from(self.reload.target));
        self.reload.stage = Stage::Ending(0);
        self.reload.live = 0;
        if std::mem::take(&mut self.reload.ways_changed) {
            self.paths_changed();
        }
    }

    /// Gives those that may go on the target's generation; returns where to go on.
    fn judge_from(&mut self, from: BlockIndex, now: Tick) -> Option<BlockIndex> {
        self.walk(from, self.judged_in_a_slice(), |engine, number| {
            if engine.table.block(number).is_some_and(is_refusal) {
                engine.forget_refusal(number);
                return true;
            }
            let judged = |block: &Block| {
                let steer = |direction: usize| Steer::unpack(block.hot[direction].steer.load());
                [0, 1].into_iter().all(|direction| steer(direction).policy_generation == engine.reload.target)
            };
            if engine.table.block(number).is_none_or(judged) {
                return false;
            }
            if let Some(kept) = engine.ask_again(number) {
                engine.go_on(number, kept, now);
            }
            true
        })
    }

    /// Removes those that were cut; returns where to go on.
    fn end_from(&mut self, from: BlockIndex, now: Tick) -> Option<BlockIndex> {
        self.walk(from, self.judged_in_a_slice(), |engine, number| {
            let Some(block) = engine.table.block(number) else { return false };
            let cut = block.hot.iter().any(|hot| engine.is_stale(Steer::unpack(hot.steer.load())));
            let goes_on = !is_refusal(block) && (!cut || engine.revalidate(number, now).is_ok());
            engine.reload.live += u32::from(goes_on);
            cut
        })
    }

    /// How many connections can be asked about in one slice.
    fn judged_in_a_slice(&self) -> usize {
        let rules: usize = self.modules.iter().map(|module| module.rules()).sum();
        (EFFORT / (ASKING + rules)).max(1)
    }

    /// What the modules say to a connection under the policy as it is now; `None`: it may not go on.
    pub(crate) fn ask_again(&mut self, number: BlockIndex) -> Option<Kept> {
        let mut view = view_of(self.table.block(number)?);
        if view.ports.iter().any(|port| self.interfaces.port(*port).is_none()) {
            return None;
        }
        if view.parent != 0 {
            return self.ask_about_parent(&view);
        }
        let mut accelerate = true;
        for module in &mut self.modules {
            let kept = module.revalidate(&view, &self.interfaces)?;
            view.rule = kept.rule;
            accelerate &= kept.accelerate;
        }
        Some(Kept { rule: view.rule, accelerate })
    }

    /// A refusal of the policy before: whatever comes is judged anew.
    fn forget_refusal(&mut self, number: BlockIndex) {
        let target = self.reload.target;
        let old = |block: &Block| Steer::unpack(block.hot[0].steer.load()).policy_generation != target;
        if self.table.block(number).is_some_and(old) {
            self.remove(number, Removal::Final);
        }
    }

    /// Asks the modules whether a connection may go on; ends it if not.
    pub(crate) fn revalidate(&mut self, number: BlockIndex, now: Tick) -> Result<(), Reason> {
        if self.table.block(number).is_some_and(is_refusal) {
            // Judged anew with its next packet.
            self.remove(number, Removal::Final);
            return Err(Reason::NoRule);
        }
        match self.ask_again(number) {
            Some(kept) => {
                self.go_on(number, kept, now);
                Ok(())
            }
            None => {
                if self.remove(number, Removal::Final) {
                    self.reload.ended += 1;
                }
                Err(Reason::NoRule)
            }
        }
    }

    /// Notes what the modules said.
    fn go_on(&mut self, number: BlockIndex, kept: Kept, now: Tick) {
        for direction in 0..2 {
            let Some(block) = self.table.block(number) else { return };
            // Packets of an entry that was refused are on their way here: no later one may overtake them.
            if self.is_stale(Steer::unpack(block.hot[direction].steer.load())) {
                self.pend(number, direction, now);
            }
            let Some(block) = self.table.block(number) else { return };
            let steer = Steer::unpack(block.hot[direction].steer.load());
            block.hot[direction].steer.store(Steer { policy_generation: self.reload.target, ..steer }.pack());
        }
        let Some(block) = self.table.block(number) else { return };
        let nat = block.owner.rules.load() >> 16;
        block.owner.rules.store(u32::from(kept.rule) | nat << 16);
        self.note_acceleration(number, kept);
        self.distrust(number);
    }

    /// Notes at a connection whether its rule lets it be accelerated; a sweep then puts it on its way. One whose numbers are
    /// shifted needs that for as long as it lives.
    fn note_acceleration(&mut self, number: BlockIndex, kept: Kept) {
        let Some(block) = self.table.block(number) else { return };
        let shifted = block.tcp.iter().any(|half| half.shift() != half.constant_shift());
        let view = view_of(block);
        let helps = self.helps(kept.rule) && !self.is_between_families([view.nat, view.destination_nat]);
        let helped = block.tcp[0].parent.load() == 0 && (shifted || helps);
        let before = block.owner.flags.load();
        if !self.helps(kept.rule) {
            self.pause_dialogue(block.owner.serial.load());
        }
        let Some(block) = self.table.block(number) else { return };
        let mut flags = before;
        for shift in [0, 8] {
            let reason = match (kept.accelerate, PathReason::from_number((flags >> shift) as u8)) {
                _ if helped => PathReason::Helper,
                (false, _) => PathReason::Rule,
                (true, PathReason::Rule | PathReason::Helper) => PathReason::Default,
                (true, other) => other,
            };
            flags = flags & !(0xff << shift) | u32::from(reason as u8) << shift;
        }
        if flags == before {
            return;
        }
        block.owner.flags.store(flags);
        if matches!(self.reload.stage, Stage::Judging(_)) {
            self.reload.ways_changed = true;
        } else {
            self.paths_changed();
        }
    }

    /// A connection that was being removed is back.
    pub(crate) fn revived(&mut self, number: BlockIndex, now: Tick) {
        let target = self.reload.target;
        let old =
            |block: &Block| block.hot.iter().any(|hot| Steer::unpack(hot.steer.load()).policy_generation != target);
        if self.table.block(number).is_some_and(old) && self.revalidate(number, now).is_err() {
            return;
        }
        self.arm(number, now);
        self.note_half_open(number);
    }
}
