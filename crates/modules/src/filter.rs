//! The packet filter: rules in order, the first match decides, what none allows is dropped, unless the host that it is for
//! has asked for it where that is allowed.

use flowhop_engine::interfaces::Interfaces;
use flowhop_engine::{Context, Kept, Module, MssClamp, NewSession, Related, SessionView, Step, module::ROUTE};
use flowhop_flow::key::{Address, port};
use flowhop_flow::parse::Transport;
use flowhop_flow::{Key, Reason};
use flowhop_policy::{Action, Destination, NewConnection, RateLimit, ZoneId};
use flowhop_wire::{icmp4, icmp6, protocol, tcp_flags};

use crate::nat::{Bindings, Endpoint, granting, translated_ports};
use crate::rates::{RuleRates, SourceRates};
use crate::shared::{Current, Shared, clamp, connection};

/// Name of the module.
pub const NAME: &str = "filter";

/// The module.
#[derive(Debug)]
pub struct Filter {
    shared: Shared,
    bindings: Bindings,
    rates: RuleRates,
    source_rates: SourceRates,
}

impl Filter {
    /// A filter by the shared policy, and by what hosts have asked for.
    #[must_use]
    pub fn new(shared: Shared, bindings: Bindings) -> Self {
        Self { shared, bindings, rates: RuleRates::default(), source_rates: SourceRates::default() }
    }

    /// A connection that another one has announced: that one's rule has allowed it, if it goes where that one goes.
    fn open_related(&self, session: &mut NewSession, related: &Related, to: u16) -> Step {
        let current = self.shared.current();
        let index = current.rules.iter().position(|number| *number == session.rule);
        let Some(rule) = index.and_then(|index| current.policy.rules.get(index)) else {
            return Step::Drop(Reason::NoRule);
        };
        if (session.from, to) != (related.from, related.to) || rule.action != Action::Allow {
            return Step::Drop(Reason::NoRule);
        }
        session.log = rule.log;
        session.accelerate &= rule.accelerate;
        Step::Continue
    }

    /// What no rule is about is allowed if the host has asked for it.
    fn open_pinhole(&self, current: &Current, session: &mut NewSession, to: u16) -> Step {
        let protocol = session.key.protocol();
        let inside = Endpoint { protocol, address: session.destination, port: port(session.ports, 2) };
        let peer = Endpoint { protocol, address: session.key.source, port: session.key.source_port() };
        let asked = !session.running
            && granting::reaches(current, &inside.address, session.from, Some(to))
            && self.bindings.has_pinhole(&inside, &peer);
        if !asked {
            return Step::Drop(Reason::NoRule);
        }
        session.rule = current.pcp;
        Step::Continue
    }

    /// Whether the limits of a rule admit another connection. Those of the source are asked first, so that what they
    /// refuse takes nothing of what others may have.
    fn within_limits(
        &mut self,
        identity: u16,
        limits: &Limits,
        source: &Address,
        context: &mut Context<'_>,
    ) -> Result<(), Reason> {
        let now = context.now;
        if limits.source_connections.is_some_and(|most| context.sources.connections(source) >= most) {
            return Err(Reason::SourceLimit);
        }
        if let Some(limit) = limits.source
            && !self.source_rates.take(identity, source, limit, now, context.random)
        {
            return Err(Reason::SourceLimit);
        }
        match limits.rule {
            Some(limit) if !self.rates.take(identity, limit, now) => Err(Reason::RuleLimit),
            _ => Ok(()),
        }
    }
}

/// A connection to what its host has asked for: no rule has to allow it, but one may forbid it.
fn unless_forbidden(current: &Current, connection: &NewConnection, session: &mut NewSession) -> Step {
    let Some((_, rule)) = current.policy.first_match(connection).filter(|(_, rule)| rule.action != Action::Allow)
    else {
        return Step::Continue;
    };
    session.log = rule.log;
    match rule.action {
        Action::Reject => Step::Reject(Reason::RuleReject),
        _ => Step::Drop(Reason::RuleDrop),
    }
}

/// What a rule allows of new connections.
struct Limits {
    rule: Option<RateLimit>,
    source: Option<RateLimit>,
    source_connections: Option<u32>,
}

impl Module for Filter {
    fn name(&self) -> &'static str {
        NAME
    }

    fn runs_after(&self) -> &'static [&'static str] {
        &[ROUTE]
    }

    fn open(&mut self, session: &mut NewSession, context: &mut Context<'_>) -> Step {
        if session.admitted && session.related.is_none() && session.running {
            // No rule says that it takes up what is running.
            return Step::Drop(Reason::NotNew);
        }
        let Some(via) = session.via else { return Step::Drop(Reason::NoRoute) };
        if let Some(related) = session.related {
            return self.open_related(session, &related, via.zone);
        }
        let current = self.shared.current();
        let to = Destination::Zone(ZoneId(via.zone));
        let connection = connection(&session.key, &session.destination, session.ports, session.from, to);
        if session.admitted {
            let asked = session.rule == current.pcp;
            return if asked { unless_forbidden(&current, &connection, session) } else { Step::Continue };
        }
        let Some((index, rule)) = current.policy.first_match(&connection) else {
            return self.open_pinhole(&current, session, via.zone);
        };
        let identity = current.rules.get(index).copied().unwrap_or_default();
        session.rule = identity;
        session.log = rule.log;
        session.accelerate &= rule.accelerate;
        match rule.action {
            Action::Drop => Step::Drop(Reason::RuleDrop),
            Action::Reject => Step::Reject(Reason::RuleReject),
            Action::Allow if session.running && !rule.take_up => Step::Drop(Reason::NotNew),
            Action::Allow => {
                let limits =
                    Limits { rule: rule.limit, source: rule.source_limit, source_connections: rule.source_connections };
                match self.within_limits(identity, &limits, &session.key.source, context) {
                    Ok(()) => Step::Continue,
                    Err(reason) => Step::Drop(reason),
                }
            }
        }
    }

    fn takes_up(&self) -> bool {
        self.shared.current().policy.takes_up()
    }

    fn mss(&self, rule: u16, _: u16) -> Option<MssClamp> {
        let current = self.shared.current();
        if !current.policy.clamps_mss() || rule == 0 {
            return None;
        }
        let index = current.rules.iter().position(|number| *number == rule)?;
        current.policy.rules.get(index)?.mss_clamp.map(clamp)
    }

    fn revalidate(&mut self, session: &SessionView, interfaces: &Interfaces) -> Option<Kept> {
        let current = self.shared.current();
        let asked = current.pcp != 0 && session.rule == current.pcp;
        if session.inbound && !asked {
            return Some(Kept::as_it_is(session));
        }
        let [from, to] = session.ports.map(|port| interfaces.port(port).map(|interface| interface.zone));
        let (from, to) = (from?, to?);
        let [forward, reverse] = &session.keys;
        let towards = Destination::Zone(ZoneId(to));
        let connection = connection(forward, &reverse.source, translated_ports(session), from, towards);
        let found = current.policy.first_match(&connection);
        if asked && found.is_none_or(|(_, rule)| session.inbound && rule.action == Action::Allow) {
            // Of a mapping's translation others judge.
            let reaches = session.inbound || granting::reaches(&current, &reverse.source, from, Some(to));
            return reaches.then(|| Kept::as_it_is(session));
        }
        let (index, rule) = found?;
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
