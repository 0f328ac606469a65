//! Ageing: a timer wheel that is armed once for a block and, when it fires, looks at the last-seen stamps of the
//! connection that is there then, and is armed again for what remains. Packets never touch a timer.
//!
//! A block that is given to another connection keeps its timer, unless the next one has to be looked at sooner: so a flood
//! of connections that come and go adds none, and memory is bounded by the number of blocks.

use std::collections::HashMap;
use std::time::Duration;

use flowhop_flow::record::{Block, Tick};
use flowhop_flow::tcp::{Phase, flag};
use flowhop_table::BlockIndex;
use flowhop_wire::protocol;
use hierarchical_hash_wheel_timer::wheels::Skip;
use hierarchical_hash_wheel_timer::wheels::quad_wheel::{PruneDecision, QuadWheelWithOverflow};

use crate::engine::Timeouts;

/// A timer in the wheel. Of one block's timers only the one counts that is armed.
#[derive(Debug)]
struct Timer {
    block: BlockIndex,
    deadline: Tick,
}

/// The wheel. One of its milliseconds is a [`Tick`].
pub struct Wheel {
    wheel: QuadWheelWithOverflow<Timer>,
    /// Of each block the timer that counts, and the one after it that it was put before.
    armed: Vec<[Option<Tick>; 2]>,
    at: Tick,
}

impl std::fmt::Debug for Wheel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wheel").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Wheel {
    /// A wheel for so many blocks that stands at `now`.
    #[must_use]
    pub fn new(blocks: usize, now: Tick) -> Self {
        Self { wheel: QuadWheelWithOverflow::new(|_| PruneDecision::Keep), armed: vec![[None; 2]; blocks], at: now }
    }

    /// Has a block looked at after so many ticks, or sooner.
    pub fn arm(&mut self, block: BlockIndex, after: Tick) {
        // The wheel refuses only delays of zero, which mean the next tick.
        let after = after.max(1);
        let deadline = self.at.wrapping_add(after);
        let Some(armed) = self.armed.get_mut(block as usize) else { return };
        let [first, second] = *armed;
        if first.is_some_and(|first| first.wrapping_sub(deadline) as i32 <= 0) {
            return;
        }
        *armed = [Some(deadline), second.or(first)];
        if let Err(error) =
            self.wheel.insert_with_delay(Timer { block, deadline }, Duration::from_millis(u64::from(after)))
        {
            debug_assert!(false, "{error:?}");
        }
    }

    fn fired(&mut self, timer: &Timer) -> Option<BlockIndex> {
        let armed = self.armed.get_mut(timer.block as usize)?;
        if armed[0] != Some(timer.deadline) {
            return None;
        }
        // The later one is in the wheel still.
        *armed = [armed[1], None];
        Some(timer.block)
    }

    /// Moves to `now` and collects blocks to look at, at most about `limit` at a time; the wheel then stays behind and goes
    /// on with the next call.
    pub fn turn(&mut self, now: Tick, limit: usize, due: &mut Vec<BlockIndex>) {
        while now.wrapping_sub(self.at) as i32 > 0 && due.len() < limit {
            let behind = now.wrapping_sub(self.at);
            match self.wheel.can_skip() {
                Skip::Empty => {
                    self.at = now;
                    return;
                }
                Skip::Millis(ms) if ms > 0 => {
                    let step = ms.min(behind);
                    self.wheel.skip(step);
                    self.at = self.at.wrapping_add(step);
                }
                _ => {
                    for timer in self.wheel.tick() {
                        due.extend(self.fired(&timer));
                    }
                    self.at = self.at.wrapping_add(1);
                }
            }
        }
    }
}

/// How long a connection is remembered that came in to a mapping and was refused by its host, in ticks: it is not to keep
/// the mapping (RFC 7857: answers to what comes in do not refresh it).
const REFUSED: Tick = 10_000;

/// The state that people see of a connection, and how long it may be idle.
#[must_use]
pub fn state_of(block: &Block, protocol: u8, timeouts: &Timeouts) -> (&'static str, Tick) {
    match protocol {
        protocol::TCP => {
            let flags = [0, 1].map(|direction| block.tcp[direction].flags());
            let phase = Phase::of(flags[0], flags[1]);
            let timeout = match phase {
                Phase::Established => timeouts.tcp_established,
                Phase::SynSent | Phase::SynReceived => timeouts.tcp_opening,
                Phase::Reset if is_refused(block) => timeouts.tcp_closing.min(REFUSED),
                Phase::Closing | Phase::Closed | Phase::Reset => timeouts.tcp_closing,
            };
            (phase.name(), timeout)
        }
        protocol::UDP => (answered(block), timeouts.udp),
        protocol::ICMP | protocol::ICMPV6 => (answered(block), timeouts.icmp),
        _ => (answered(block), timeouts.other),
    }
}

/// Whether a connection came in to a mapping of a source translation.
pub(crate) fn is_inbound(block: &Block) -> bool {
    block.owner.flags.load() >> 31 != 0
}

/// Whether it is TCP that came in so, and its host has sent nothing but resets.
fn is_refused(block: &Block) -> bool {
    is_inbound(block) && block.tcp[1].flags() & (flag::KNOWN | flag::RST) == flag::RST
}

/// Connections that were reset when they were last looked at, and when that was. Bounded by the number of blocks.
///
/// A reset need not be the end: the one who should act on it may not have got it, or not sent it. RFC 7857 section 2.2
/// keeps the connection for as long as a closing one, and RFC 6146 section 3.5.2.2 has it open again if both sides go on.
#[derive(Debug, Default)]
pub(crate) struct Resets(HashMap<BlockIndex, (u32, Tick)>);

impl Resets {
    /// Whether both sides of a connection have gone on since it was found reset.
    pub(crate) fn go_on(&mut self, number: BlockIndex, block: &Block, now: Tick) -> bool {
        if Phase::of(block.tcp[0].flags(), block.tcp[1].flags()) != Phase::Reset {
            self.0.remove(&number);
            return false;
        }
        let current = block.owner.serial.load();
        let found = self.0.get(&number).filter(|(serial, _)| *serial == current);
        let since = found.map(|(_, since)| *since);
        let goes_on = since
            .is_some_and(|since| block.hot.iter().all(|hot| (hot.last_seen.load().wrapping_sub(since) as i32) > 0));
        if since.is_none() {
            self.0.insert(number, (current, now));
        } else if goes_on {
            self.0.remove(&number);
        }
        goes_on
    }
}

/// A connection that was reset goes on.
pub(crate) fn forget_reset(block: &Block) {
    for half in &block.tcp {
        let state = half.state.load();
        // Another change at the same time is newer than what is known here.
        let _changed = half.state.replace(state, state & !u64::from(flag::RST));
    }
}

/// A request without or with a response (RFC 2663's sense of a UDP session).
fn answered(block: &Block) -> &'static str {
    if block.hot[1].traffic.is_none() { "new" } else { "replied" }
}

/// Ticks since the last packet of either direction; of a connection that came in to a mapping, since the last one of its
/// host: strangers are not to keep a mapping (RFC 4787 REQ-6, RFC 7857); of one that its host refuses, since it began
/// (RFC 7857 section 7.1: neither are resets that answer them).
#[must_use]
pub fn idle(block: &Block, now: Tick) -> Tick {
    let since = |direction: usize| now.wrapping_sub(block.hot[direction].last_seen.load());
    // A stamp just ahead of `now` (another core's clock) is no idleness.
    let clamp = |ticks: Tick| if ticks as i32 > 0 { ticks } else { 0 };
    if is_refused(block) {
        return clamp(now.wrapping_sub(block.owner.created.load()));
    }
    let host = clamp(since(1));
    if is_inbound(block) { host } else { clamp(since(0)).min(host) }
}

/// How long until an idle connection is to be looked at: what remains, but never so long that a change of
/// state to a shorter timeout goes unnoticed.
#[must_use]
pub fn next_look(block: &Block, remaining: Tick, protocol: u8, timeouts: &Timeouts) -> Tick {
    let most = match protocol {
        protocol::TCP if is_inbound(block) && block.tcp[1].flags() & flag::KNOWN == 0 => REFUSED,
        protocol::TCP => timeouts.tcp_opening.min(timeouts.tcp_closing),
        _ => remaining,
    };
    remaining.min(most).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_armed_comes_due_once_and_on_time() {
        let mut wheel = Wheel::new(100, u32::MAX - 10);
        for block in 0..100 {
            wheel.arm(block, block * 10 + 1);
        }
        let mut due = Vec::new();
        wheel.turn(u32::MAX - 10, 1000, &mut due);
        assert!(due.is_empty());
        wheel.turn(u32::MAX.wrapping_add(500), 1000, &mut due);
        let first = due.len();
        assert!((50..=53).contains(&first), "{first}");
        wheel.turn(2000, 1000, &mut due);
        assert_eq!(due.len(), 100);
    }

    // N13: connections that take turns on a block add no timers.
    #[test]
    fn a_block_keeps_its_timer_unless_it_is_due_sooner() {
        let mut wheel = Wheel::new(1, 0);
        let mut due = Vec::new();
        for now in 0..10_000 {
            wheel.turn(now, 1000, &mut due);
            wheel.arm(0, 240_000);
        }
        assert!(due.is_empty());
        wheel.arm(0, 60_000);
        wheel.turn(70_001, 1000, &mut due);
        assert_eq!(due, [0]);
        // That of the beginning is in the wheel still, so that the next one needs none.
        for now in 70_002..80_000 {
            wheel.turn(now, 1000, &mut due);
            wheel.arm(0, 240_000);
        }
        wheel.turn(1_000_000, 1000, &mut due);
        assert_eq!(due, [0, 0]);
    }
}
