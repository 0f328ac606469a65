//! From the policy's terms to the engine's.

use std::time::Duration;

use flowhop_engine::{Limits, Timeouts};
use flowhop_flow::record::{TICK_SHIFT, Tick};
use flowhop_policy::Policy;

/// A duration in ticks, rounded up; at most half the range of the wrapping clock.
#[must_use]
pub fn ticks(duration: Duration) -> Tick {
    let ticks = duration.as_nanos().div_ceil(1 << TICK_SHIFT);
    Tick::try_from(ticks).unwrap_or(Tick::MAX).min(i32::MAX as Tick)
}

/// Ticks in seconds, to the hundredth, so that a duration that was given in seconds reads the same again.
#[must_use]
pub fn seconds(ticks: Tick) -> f64 {
    let hundredths = ((u64::from(ticks) << TICK_SHIFT) + 5_000_000) / 10_000_000;
    hundredths as f64 / 100.0
}

/// The timeouts of a policy.
#[must_use]
pub fn timeouts(policy: &flowhop_policy::Timeouts) -> Timeouts {
    Timeouts {
        udp: ticks(policy.udp),
        tcp_established: ticks(policy.tcp_established),
        tcp_opening: ticks(policy.tcp_opening.unwrap_or(policy.tcp_transitory)),
        tcp_closing: ticks(policy.tcp_closing.unwrap_or(policy.tcp_transitory)),
        icmp: ticks(policy.icmp),
        other: ticks(policy.other),
    }
}

/// The engine's bounds under a policy.
#[must_use]
pub fn limits(policy: &Policy) -> Limits {
    Limits { half_open: policy.table.half_open.map(|most| most as usize), ..Limits::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_a_little_longer_than_milliseconds() {
        assert_eq!(ticks(Duration::from_secs(300)), 286_103);
        for whole in [1, 60, 240, 300, 7440, 14 * 86_400] {
            assert_eq!(seconds(ticks(Duration::from_secs(whole))), whole as f64);
        }
        assert_eq!(ticks(Duration::MAX), i32::MAX as u32);
    }
}
