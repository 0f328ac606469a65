//! The packet filter: rules in order, the first match decides, what none allows is dropped.

use std::collections::HashMap;

use flowhop_engine::interfaces::Interfaces;
use flowhop_engine::{Context, Kept, Module, NewSession, SessionView, Step, module::ROUTE};
use flowhop_flow::key::port;
use flowhop_flow::parse::Transport;
use flowhop_flow::record::Tick;
use flowhop_flow::{Key, Reason};
use flowhop_policy::{Action, Destination, RateLimit, ZoneId};
use flowhop_wire::{icmp4, icmp6, protocol, tcp_flags};

use crate::nat::translated_ports;
use crate::shared::{Shared, connection};

/// Name of the module.
pub const NAME: &str = "filter";

/// The module.
#[derive(Debug)]
pub struct Filter {
    shared: Shared,
    buckets: HashMap<u16, Bucket>,
}

/// Tokens of a rule's limit of new connections, in thousandths.
#[derive(Debug)]
struct Bucket {
    limit: RateLimit,
    tokens: u64,
    at: Tick,
}

impl Filter {
    /// A filter by the shared policy.
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        Self { shared, buckets: HashMap::new() }
    }

    fn within_limit(&mut self, rule: u16, limit: Option<RateLimit>, now: Tick) -> bool {
        let Some(limit) = limit else { return true };
        let full = u64::from(limit.count) * 1000;
        let bucket = self.buckets.entry(rule).or_insert(Bucket { limit, tokens: full, at: now });
        if bucket.limit != limit {
            *bucket = Bucket { limit, tokens: full, at: now };
        }
        bucket.take(now)
    }
}

impl Bucket {
    /// Takes one connection's worth if it is there. The bucket holds one period's count.
    fn take(&mut self, now: Tick) -> bool {
        let full = u128::from(self.limit.count) * 1000;
        let period = self.limit.per.as_nanos().max(1);
        let elapsed = u128::from(now.wrapping_sub(self.at)) << flowhop_flow::record::TICK_SHIFT;
        let earned = (elapsed.min(period) * full / period) as u64;
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(full as u64);
            self.at = now;
        }
        let allowed = self.tokens >= 1000;
        if allowed {
            self.tokens -= 1000;
        }
        allowed
    }
}

impl Module for Filter {
    fn name(&self) -> &'static str {
        NAME
    }

    fn runs_after(&self) -> &'static [&'static str] {
        &[ROUTE]
    }

    fn open(&mut self, session: &mut NewSession, context: &mut Context<'_>) -> Step {
        if session.admitted {
            return Step::Continue;
        }
        let Some(via) = session.via else { return Step::Drop(Reason::NoRoute) };
        let current = self.shared.current();
        let to = Destination::Zone(ZoneId(via.zone));
        let connection = connection(&session.key, &session.destination, session.ports, session.from, to);
        let Some((index, rule)) = current.policy.first_match(&connection) else {
            return Step::Drop(Reason::NoRule);
        };
        let identity = current.rules.get(index).copied().unwrap_or_default();
        session.rule = identity;
        session.log = rule.log;
        session.accelerate &= rule.accelerate;
        match rule.action {
            Action::Drop => Step::Drop(Reason::RuleDrop),
            Action::Reject => Step::Reject(Reason::RuleReject),
            Action::Allow if self.within_limit(identity, rule.limit, context.now) => Step::Continue,
            Action::Allow => Step::Drop(Reason::RuleLimit),
        }
    }

    fn revalidate(&mut self, session: &SessionView, interfaces: &Interfaces) -> Option<Kept> {
        if session.inbound {
            return Some(Kept::as_it_is(session));
        }
        let current = self.shared.current();
        let from = interfaces.port(session.ports[0])?.zone;
        let to = Destination::Zone(ZoneId(interfaces.port(session.ports[1])?.zone));
        let [forward, reverse] = &session.keys;
        let connection = connection(forward, &reverse.source, translated_ports(session), from, to);
        let (index, rule) = current.policy.first_match(&connection)?;
        let identity = current.rules.get(index).copied().unwrap_or_default();
        (rule.action == Action::Allow).then_some(Kept { rule: identity, accelerate: rule.accelerate })
    }

    fn rules(&self) -> usize {
        self.shared.current().policy.rules.len()
    }

    fn local(&mut self, key: &Key, transport: &Transport, from: u16) -> Step {
        let current = self.shared.current();
        if !current.policy.guards_self_from(ZoneId(from)) || !starts(key, transport, &self.shared) {
            return Step::Continue;
        }
        let connection = connection(key, &key.destination, key.ports, from, Destination::SelfBox);
        match current.policy.first_match(&connection).map(|(_, rule)| rule.action) {
            Some(Action::Allow) => Step::Continue,
            Some(Action::Reject) => Step::Reject(Reason::RuleReject),
            Some(Action::Drop) => Step::Drop(Reason::RuleDrop),
            None => Step::Drop(Reason::NoRule),
        }
    }
}

/// Whether a packet to the box may start something there. Replies to the box's own connections always pass: for
/// TCP everything but a SYN (the kernel knows its connections); for UDP what goes to the ports that the kernel
/// gives to the box's own clients; DHCP answers; echo replies.
fn starts(key: &Key, transport: &Transport, shared: &Shared) -> bool {
    match transport {
        Transport::Tcp(segment) => segment.flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) == tcp_flags::SYN,
        Transport::Udp => {
            let to = port(key.ports, 2);
            !matches!(to, 68 | 546) && !shared.reserved().ephemeral.contains(&to)
        }
        Transport::Echo => {
            let kind = key.ports.to_ne_bytes()[2];
            kind == if key.protocol() == protocol::ICMP { icmp4::ECHO_REQUEST } else { icmp6::ECHO_REQUEST }
        }
        Transport::Opaque => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_limit_holds_over_its_period_and_refills() {
        let limit = RateLimit { count: 10, per: Duration::from_secs(1) };
        let mut bucket = Bucket { limit, tokens: 10_000, at: 0 };
        assert_eq!((0..100).filter(|_| bucket.take(0)).count(), 10);
        // Half a second later, half of them again.
        assert_eq!((0..100).filter(|_| bucket.take(477)).count(), 5);
        assert_eq!((0..100).filter(|_| bucket.take(100_000)).count(), 10);
    }
}
