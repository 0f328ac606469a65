//! From the policy's terms to the engine's.

use std::time::Duration;

use flowhop_engine::{Answering, Limits, Martians, Passing, Recording, ReversePath, Timeouts};
use flowhop_flow::record::{TICK_SHIFT, Tick};
use flowhop_policy::{Handling, IpSettings, Policy};

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

/// How long external ports rest, in ticks, and how many at a time (RFC 6888 REQ-8).
#[must_use]
pub fn rest(policy: &Policy) -> (Tick, usize) {
    let ports = policy.table.resting_ports.unwrap_or(policy.table.connections / 2);
    (ticks(policy.timeouts.port_rest), ports as usize)
}

/// The engine's bounds under a policy.
#[must_use]
pub fn limits(policy: &Policy) -> Limits {
    Limits { half_open: policy.table.half_open.map(|most| most as usize), ..Limits::default() }
}

/// Which martians an interface refuses.
#[must_use]
pub const fn martians(policy: flowhop_policy::Martians) -> Martians {
    match policy {
        flowhop_policy::Martians::Off => Martians::Off,
        flowhop_policy::Martians::Rfc1812 => Martians::Rfc1812,
        flowhop_policy::Martians::Registry => Martians::Registry,
    }
}

/// What an interface asks of the way back to its sources.
#[must_use]
pub const fn reverse_path(policy: flowhop_policy::ReversePath) -> ReversePath {
    match policy {
        flowhop_policy::ReversePath::Off => ReversePath::Off,
        flowhop_policy::ReversePath::Loose => ReversePath::Loose,
        flowhop_policy::ReversePath::Feasible => ReversePath::Feasible,
        flowhop_policy::ReversePath::Strict => ReversePath::Strict,
    }
}

/// The options and extension headers that `[ip]` lets pass.
#[must_use]
pub fn passing(policy: &IpSettings) -> Passing {
    let passes = |handling| handling != Handling::Drop;
    let recording = |handling| match handling {
        Handling::Drop => Recording::Drop,
        Handling::Pass => Recording::Pass,
        Handling::Record => Recording::Record,
    };
    Passing {
        record_route: recording(policy.record_route),
        timestamp: recording(policy.timestamp),
        router_alert: passes(policy.router_alert),
        security: passes(policy.security),
        obsolete_options: passes(policy.obsolete_options),
        experimental_options: passes(policy.experimental_options),
        unknown_options: passes(policy.unknown_options),
        hop_by_hop: passes(policy.hop_by_hop),
        routing_header: passes(policy.routing_header),
    }
}

/// The answers of the router's own that `[ip]` asks for.
#[must_use]
pub const fn answering(policy: &IpSettings) -> Answering {
    Answering { per_second: policy.errors_per_second, redirects: policy.redirects }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Engine and policy each have defaults, for tests of the one without the other.
    #[test]
    fn options_pass_by_default_as_the_engine_has_it() {
        assert_eq!(passing(&IpSettings::default()), Passing::default());
        assert_eq!(answering(&IpSettings::default()), Answering::default());
    }

    #[test]
    fn ticks_are_a_little_longer_than_milliseconds() {
        assert_eq!(ticks(Duration::from_secs(300)), 286_103);
        for whole in [1, 60, 240, 300, 7440, 14 * 86_400] {
            assert_eq!(seconds(ticks(Duration::from_secs(whole))), whole as f64);
        }
        assert_eq!(ticks(Duration::MAX), i32::MAX as u32);
    }
}
