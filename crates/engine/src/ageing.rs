//! Ageing: a timer wheel that is armed once for a connection and, when it fires, looks at the last-seen stamps
//! and is armed again for what remains. Packets never touch a timer.

use std::time::Duration;

use flowhop_flow::record::{Block, Tick};
use flowhop_flow::tcp::Phase;
use flowhop_table::BlockIndex;
use flowhop_wire::protocol;
use hierarchical_hash_wheel_timer::wheels::Skip;
use hierarchical_hash_wheel_timer::wheels::quad_wheel::{PruneDecision, QuadWheelWithOverflow};

use crate::engine::Timeouts;

/// A connection to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its block.
    pub block: BlockIndex,
    /// Its serial, so that a later tenant of the block is not meant.
    pub serial: u32,
}

/// The wheel. One of its milliseconds is a [`Tick`].
pub struct Wheel {
    wheel: QuadWheelWithOverflow<Due>,
    at: Tick,
}

impl std::fmt::Debug for Wheel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wheel").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Wheel {
    /// A wheel that stands at `now`.
    #[must_use]
    pub fn new(now: Tick) -> Self {
        Self { wheel: QuadWheelWithOverflow::new(|_| PruneDecision::Keep), at: now }
    }

    /// Has a connection looked at after so many ticks.
    pub fn arm(&mut self, due: Due, after: Tick) {
        // The wheel refuses only delays of zero, which mean the next tick.
        let after = Duration::from_millis(u64::from(after.max(1)));
        if let Err(error) = self.wheel.insert_with_delay(due, after) {
            debug_assert!(false, "{error:?}");
        }
    }

    /// Moves to `now` and collects what is due, at most about `limit` connections at a time; the wheel then
    /// stays behind and goes on with the next call.
    pub fn turn(&mut self, now: Tick, limit: usize, due: &mut Vec<Due>) {
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
                    due.extend(self.wheel.tick());
                    self.at = self.at.wrapping_add(1);
                }
            }
        }
    }
}

/// The state that people see of a connection, and how long it may be idle.
#[must_use]
pub fn state_of(block: &Block, protocol: u8, timeouts: &Timeouts) -> (&'static str, Tick) {
    match protocol {
        protocol::TCP => {
            let phase = Phase::of(block.tcp[0].flags(), block.tcp[1].flags());
            let timeout = if phase == Phase::Established { timeouts.tcp_established } else { timeouts.tcp_transitory };
            (phase.name(), timeout)
        }
        protocol::UDP => (answered(block), timeouts.udp),
        protocol::ICMP | protocol::ICMPV6 => (answered(block), timeouts.icmp),
        _ => (answered(block), timeouts.other),
    }
}

/// A request without or with a response (RFC 2663's sense of a UDP session).
fn answered(block: &Block) -> &'static str {
    if block.hot[1].traffic.is_none() { "new" } else { "replied" }
}

/// Ticks since the last packet of either direction.
#[must_use]
pub fn idle(block: &Block, now: Tick) -> Tick {
    let since = |direction: usize| now.wrapping_sub(block.hot[direction].last_seen.load());
    // A stamp just ahead of `now` (another core's clock) is no idleness.
    let clamp = |ticks: Tick| if ticks as i32 > 0 { ticks } else { 0 };
    clamp(since(0)).min(clamp(since(1)))
}

/// How long until an idle connection is to be looked at: what remains, but never so long that a change of
/// state to a shorter timeout goes unnoticed.
#[must_use]
pub fn next_look(remaining: Tick, protocol: u8, timeouts: &Timeouts) -> Tick {
    match protocol {
        protocol::TCP => remaining.min(timeouts.tcp_transitory),
        _ => remaining,
    }
    .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_armed_comes_due_once_and_on_time() {
        let mut wheel = Wheel::new(u32::MAX - 10);
        for block in 0..100 {
            wheel.arm(Due { block, serial: 1 }, block * 10 + 1);
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
}
