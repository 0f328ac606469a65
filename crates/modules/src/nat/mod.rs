//! Network address translation: [`Source`] rewrites the source of new connections, [`Inbound`] looks at
//! packets that arrive at a mapping.
//!
//! Mapping is endpoint-independent (RFC 4787 REQ-1): an inside address and port keep one external address and
//! port for all their connections; no external port serves two of them (REQ-3); an inside address keeps its
//! external address (REQ-2, paired pooling); ports are random (RFC 6056).

mod bindings;
mod pool;

use flowhop_engine::interfaces::Interfaces;
use flowhop_engine::module::{Context, Module, NewSession, SessionView, Step, Via};
use flowhop_flow::key::{self, Address, port, ports};
use flowhop_flow::{Key, Reason};
use flowhop_policy::{Action, Dependence, Destination, NatRule, SourceTranslation, ZoneId};
use flowhop_wire::{icmp4, icmp6, protocol};

use bindings::Endpoint;
pub use bindings::{Bindings, PortChange};

use crate::filter;
use crate::shared::{Current, Shared, connection, is_inbound, number};

/// Translates the source of new connections.
#[derive(Debug)]
pub struct Source {
    shared: Shared,
    bindings: Bindings,
}

impl Source {
    /// The module on shared policy and bindings.
    #[must_use]
    pub const fn new(shared: Shared, bindings: Bindings) -> Self {
        Self { shared, bindings }
    }
}

impl Module for Source {
    fn name(&self) -> &'static str {
        "nat_source"
    }

    fn runs_after(&self) -> &'static [&'static str] {
        &[filter::NAME]
    }

    fn open(&mut self, session: &mut NewSession, context: &mut Context<'_>) -> Step {
        if session.nat != 0 {
            return Step::Continue;
        }
        let Some(via) = session.via else { return Step::Drop(Reason::NoRoute) };
        let current = self.shared.current();
        let connection = connection(
            &session.key,
            &session.destination,
            session.ports,
            session.from,
            Destination::Zone(ZoneId(via.zone)),
        );
        let source = key::ip(&session.key.source);
        let matching =
            current.policy.nats.iter().enumerate().find(|(_, nat)| {
                nat.translate_source.is_some() && nat.family.holds(source) && nat.matches(&connection)
            });
        let Some((index, rule)) = matching else { return Step::Continue };
        let identity = current.nats.get(index).copied().unwrap_or_default();
        if has_uncovered_checksum(session.key.protocol()) {
            return Step::Drop(Reason::NatUnsupported);
        }
        let addresses = external_addresses(rule, &session.key.source, &via, context);
        if addresses.is_empty() {
            return Step::Drop(Reason::NatExhausted);
        }
        let Some(inside_port) = mapped_port(&session.key) else {
            session.source = addresses[0];
            session.nat = identity;
            return Step::Continue;
        };
        let inside = Endpoint { protocol: session.key.protocol(), address: session.key.source, port: inside_port };
        let reserved = self.shared.reserved();
        let routing = &*context.routing;
        let own = |address: &Address| routing.is_own(key::ip(address));
        let remote = session.destination;
        let Some(external) = self.bindings.map(
            inside,
            identity,
            session.rule,
            rule.filtering,
            &addresses,
            &own,
            &reserved,
            remote,
            context.random,
        ) else {
            return Step::Drop(Reason::NatExhausted);
        };
        session.source = external.address;
        session.ports = with_source_port(&session.key, session.ports, external.port);
        session.nat = identity;
        Step::Continue
    }

    fn abandon(&mut self, session: &NewSession) {
        if session.nat != 0
            && !session.admitted
            && let Some(inside_port) = mapped_port(&session.key)
        {
            let external = port(session.ports, 0);
            self.bindings.release(
                Endpoint { protocol: session.key.protocol(), address: session.key.source, port: inside_port },
                Endpoint { protocol: session.key.protocol(), address: session.source, port: external },
                session.destination,
            );
        }
    }

    fn closed(&mut self, session: &SessionView) {
        if let Some((inside, external, remote)) = mapping_of(session) {
            self.bindings.release(inside, external, remote);
        }
    }

    fn adopt(&mut self, session: &SessionView) -> bool {
        let Some((inside, external, remote)) = mapping_of(session) else { return true };
        let current = self.shared.current();
        let filtering = rule_of(&current, session.nat).map_or(Dependence::AddressAndPortDependent, |nat| nat.filtering);
        self.bindings.adopt(inside, external, session.nat, session.rule, filtering, remote)
    }

    fn revalidate(&mut self, session: &SessionView, interfaces: &Interfaces) -> Option<u16> {
        let current = self.shared.current();
        if is_inbound(session) {
            let from = interfaces.port(session.ports[0])?.zone;
            return admits(&current, session.nat, session.rule, from).then_some(session.rule);
        }
        let [forward, reverse] = &session.keys;
        let from = interfaces.port(session.ports[0])?.zone;
        let to = Destination::Zone(ZoneId(interfaces.port(session.ports[1])?.zone));
        let connection = connection(forward, &reverse.source, forward.ports, from, to);
        let source = key::ip(&forward.source);
        let wanted =
            current.policy.nats.iter().zip(&current.nats).find(|(nat, _)| {
                nat.translate_source.is_some() && nat.family.holds(source) && nat.matches(&connection)
            });
        let same = match wanted {
            None => session.nat == 0,
            Some((rule, identity)) => *identity == session.nat && offers(rule, &reverse.destination),
        };
        same.then_some(session.rule)
    }
}

/// Looks at packets that arrive at an external address of a translation.
#[derive(Debug)]
pub struct Inbound {
    shared: Shared,
    bindings: Bindings,
}

impl Inbound {
    /// The module on shared policy and bindings.
    #[must_use]
    pub const fn new(shared: Shared, bindings: Bindings) -> Self {
        Self { shared, bindings }
    }

    /// What is sent to an address that is only there for translations, and belongs to none, goes nowhere.
    fn unless_pooled(&self, session: &NewSession) -> Step {
        let current = self.shared.current();
        let pooled = current.policy.nats.iter().any(|nat| in_ranges(nat, &session.key.destination));
        if pooled { Step::Drop(Reason::NatFiltered) } else { Step::Continue }
    }

    /// Whether the policy in force still has the translation, open to this zone, and the rule that allowed it.
    fn still_admits(&self, nat: u16, rule: u16, from: u16) -> bool {
        admits(&self.shared.current(), nat, rule, from)
    }
}

/// Whether a policy has a translation that lets a zone in, and the rule that its binding was made under.
fn admits(current: &Current, nat: u16, rule: u16, from: u16) -> bool {
    let open = rule_of(current, nat)
        .is_some_and(|nat| nat.to.contains(ZoneId(from)) && nat.filtering != Dependence::AddressAndPortDependent);
    let allowed = current.rules.iter().zip(&current.policy.rules);
    open && allowed.into_iter().any(|(number, kept)| *number == rule && kept.action == Action::Allow)
}

impl Module for Inbound {
    fn name(&self) -> &'static str {
        "nat_inbound"
    }

    fn open(&mut self, session: &mut NewSession, _: &mut Context<'_>) -> Step {
        if is_echo_request(&session.key) {
            return self.unless_pooled(session);
        }
        let external = Endpoint {
            protocol: session.key.protocol(),
            address: session.key.destination,
            port: inbound_port(&session.key),
        };
        let Some(mapping) = self.bindings.admit(&external, &session.key.source) else {
            return if self.bindings.knows(&external) {
                Step::Drop(Reason::NatFiltered)
            } else {
                self.unless_pooled(session)
            };
        };
        if !self.still_admits(mapping.nat, mapping.rule, session.from) {
            self.bindings.release(mapping.inside, external, session.key.source);
            return Step::Drop(Reason::NatFiltered);
        }
        session.destination = mapping.inside.address;
        session.ports = with_destination_port(&session.key, session.ports, mapping.inside.port);
        session.nat = mapping.nat;
        session.rule = mapping.rule;
        session.admitted = true;
        Step::Continue
    }

    fn abandon(&mut self, session: &NewSession) {
        if session.admitted {
            let protocol = session.key.protocol();
            self.bindings.release(
                Endpoint { protocol, address: session.destination, port: port(session.ports, 2) },
                Endpoint { protocol, address: session.key.destination, port: inbound_port(&session.key) },
                session.key.source,
            );
        }
    }

    fn claims(&self, key: &Key) -> bool {
        if is_echo_request(key) {
            return false;
        }
        let external = Endpoint { protocol: key.protocol(), address: key.destination, port: inbound_port(key) };
        self.bindings.knows(&external)
    }
}

/// Inside and external endpoint and the remote address of a translated connection with ports.
fn mapping_of(session: &SessionView) -> Option<(Endpoint, Endpoint, Address)> {
    let [forward, reverse] = &session.keys;
    if session.nat == 0 {
        return None;
    }
    let protocol = forward.protocol();
    if is_inbound(session) {
        let inside = Endpoint { protocol, address: reverse.source, port: reverse.source_port() };
        let external = Endpoint { protocol, address: forward.destination, port: inbound_port(forward) };
        return Some((inside, external, forward.source));
    }
    let inside = Endpoint { protocol, address: forward.source, port: mapped_port(forward)? };
    let external_port = if is_echo(protocol) { reverse.source_port() } else { reverse.destination_port() };
    let external = Endpoint { protocol, address: reverse.destination, port: external_port };
    Some((inside, external, reverse.source))
}

fn rule_of(current: &Current, identity: u16) -> Option<&NatRule> {
    current.nats.iter().position(|number| *number == identity).and_then(|index| current.policy.nats.get(index))
}

const fn is_echo(protocol: u8) -> bool {
    matches!(protocol, protocol::ICMP | protocol::ICMPV6)
}

/// An echo request is never for a mapping: mappings of echo are waited at by replies.
const fn is_echo_request(key: &Key) -> bool {
    let kind = (key.destination_port() >> 8) as u8;
    match key.protocol() {
        protocol::ICMP => kind == icmp4::ECHO_REQUEST,
        protocol::ICMPV6 => kind == icmp6::ECHO_REQUEST,
        _ => false,
    }
}

/// The port, or echo identifier, that a mapping is about; none for protocols without.
fn mapped_port(key: &Key) -> Option<u16> {
    match key.protocol() {
        protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6 => Some(key.source_port()),
        _ => None,
    }
}

/// The external port that an inbound packet is for; of an echo message its identifier.
fn inbound_port(key: &Key) -> u16 {
    if is_echo(key.protocol()) { key.source_port() } else { key.destination_port() }
}

/// Protocols whose checksum covers the addresses but whose header is not rewritten.
const fn has_uncovered_checksum(protocol: u8) -> bool {
    matches!(protocol, protocol::UDP_LITE | protocol::DCCP)
}

fn with_source_port(key: &Key, word: u32, new: u16) -> u32 {
    if is_echo(key.protocol()) {
        let [_, _, kind, code] = word.to_ne_bytes();
        let [a, b] = new.to_be_bytes();
        u32::from_ne_bytes([a, b, kind, code])
    } else {
        ports(new, port(word, 2))
    }
}

fn with_destination_port(key: &Key, word: u32, new: u16) -> u32 {
    if is_echo(key.protocol()) { with_source_port(key, word, new) } else { ports(port(word, 0), new) }
}

/// The addresses that a connection may be translated to, the one it is paired with first.
fn external_addresses(rule: &NatRule, inside: &Address, via: &Via, context: &Context<'_>) -> Vec<Address> {
    let source = key::ip(inside);
    match &rule.translate_source {
        None => Vec::new(),
        Some(SourceTranslation::Interface) => context
            .routing
            .source_towards(via.ifindex, family_next_hop(via, source))
            .filter(|address| address.is_ipv4() == source.is_ipv4())
            .map(|address| vec![key::address(address)])
            .unwrap_or_default(),
        Some(SourceTranslation::Ranges(ranges)) => {
            let ranges: Vec<_> = ranges.iter().filter(|(first, _)| first.is_ipv4() == source.is_ipv4()).collect();
            pool::candidates(&ranges, number(inside))
        }
    }
}

/// A next hop of the packet's own family, to choose the interface's address by; a router of the other family
/// (RFC 5549) says nothing about that.
fn family_next_hop(via: &Via, source: std::net::IpAddr) -> std::net::IpAddr {
    if via.next_hop.is_ipv4() == source.is_ipv4() {
        via.next_hop
    } else if source.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    }
}

/// Whether a rule would still translate to this address. An interface's own address is followed by events.
fn offers(rule: &NatRule, external: &Address) -> bool {
    match &rule.translate_source {
        None => false,
        Some(SourceTranslation::Interface) => true,
        Some(SourceTranslation::Ranges(_)) => in_ranges(rule, external),
    }
}

fn in_ranges(rule: &NatRule, address: &Address) -> bool {
    let Some(SourceTranslation::Ranges(ranges)) = &rule.translate_source else { return false };
    let ip = key::ip(address);
    ranges.iter().any(|(first, last)| *first <= ip && ip <= *last && first.is_ipv4() == ip.is_ipv4())
}
