//! Packets that arrive at a mapping of a source translation without a connection.

use std::collections::HashSet;

use flowhop_engine::interfaces::Interfaces;
use flowhop_engine::module::{Context, Kept, Module, NewSession, SessionView, Step};
use flowhop_flow::key::{self, Address, port};
use flowhop_flow::record::Tick;
use flowhop_flow::{Key, Reason};
use flowhop_policy::{Action, Dependence, NatRule, ZoneId};

use super::bindings::{Bindings, Caller, Endpoint, Share, Terms};
use super::{
    cut, destination, granting, inbound_port, is_echo, is_echo_request, is_of_interface, nat_of, nat64,
    translated_ports, with_destination_port,
};
use crate::shared::{Current, Shared};

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

    /// Who sends to a mapping, and how its host knows the sender if that is behind a translation as well.
    /// That is believed only of a source that packets come from where it is: others may be made up.
    fn caller(&self, current: &Current, key: &Key, mapping: &Endpoint, in_place: bool) -> Caller {
        let endpoint = Endpoint { protocol: key.protocol(), address: key.source, port: key.source_port() };
        if !in_place {
            return Caller { endpoint, known_as: Vec::new() };
        }
        let mapped = |(nat, identity): (&NatRule, &u16)| {
            (nat.translate_source.is_some() && !nat.is_fixed()).then_some((*identity, nat.mapping))
        };
        let nats = current.policy.nats.iter().zip(&current.nats).filter_map(mapped);
        Caller { endpoint, known_as: self.bindings.known_as(&endpoint, mapping, nats) }
    }

    /// What is sent to an address that is only there for translations, and belongs to none, goes nowhere.
    fn unless_pooled(&self, session: &NewSession) -> Step {
        let current = self.shared.current();
        let address = key::ip(&session.destination);
        let mut pools = current.policy.nats.iter().filter_map(|nat| nat.translate_source.as_ref());
        if pools.any(|pool| pool.offers(address)) { Step::Drop(Reason::NatFiltered) } else { Step::Continue }
    }
}

/// Whether a policy has a translation that lets a zone in to a mapping, and the rule that the mapping was made under.
/// Beside the zones that the translation leads to it is that of the mapping's own host: hairpinning (RFC 4787 REQ-9).
/// In the rule's place may be the permission to ask for mappings; then it has to reach that far.
fn admits(current: &Current, nat: u16, rule: u16, from: u16, inside: Option<u16>, host: &Address) -> bool {
    let open = nat_of(current, nat).is_some_and(|nat| nat.to.contains(ZoneId(from)) || inside == Some(from));
    if is_permission(current, rule) {
        return open && granting::reaches(current, host, from, inside);
    }
    let allowed = current.rules.iter().zip(&current.policy.rules);
    open && allowed.into_iter().any(|(number, kept)| *number == rule && kept.action == Action::Allow)
}

/// Whether what stands in a rule's place is the permission to ask for mappings.
const fn is_permission(current: &Current, rule: u16) -> bool {
    rule != 0 && rule == current.pcp
}

/// What the policy in force says of who may send to mappings of a translation.
fn filtering(current: &Current, nat: u16) -> Dependence {
    nat_of(current, nat).map_or(Dependence::AddressAndPortDependent, |nat| nat.filtering)
}

impl Module for Inbound {
    fn name(&self) -> &'static str {
        "nat_inbound"
    }

    /// A published service goes before a mapping.
    fn runs_after(&self) -> &'static [&'static str] {
        &[destination::NAME]
    }

    fn open(&mut self, session: &mut NewSession, context: &mut Context<'_>) -> Step {
        if session.destination_nat != 0 || session.related.is_some() {
            return Step::Continue;
        }
        let nobody = |session: &NewSession, context: &Context<'_>| {
            // The box itself is not reached by way of a translation from IPv6.
            let own = session.nat != 0 && context.routing.is_own(key::ip(&session.destination));
            if own { Step::Drop(Reason::NatFiltered) } else { self.unless_pooled(session) }
        };
        if is_echo_request(&session.key) {
            return nobody(session, context);
        }
        let current = self.shared.current();
        let protocol = nat64::mapped_protocol(&current, session.nat, session.key.protocol());
        let external = Endpoint { protocol, address: session.destination, port: inbound_port(&session.key) };
        let Some(nat) = self.bindings.nat_of(&external) else { return nobody(session, context) };
        let in_place = context.zone_towards(&session.key.source) == Some(session.from);
        let mut caller = self.caller(&current, &session.key, &external, in_place);
        // An IPv6 host knows whom it lets in by their IPv6 addresses.
        let shown = nat64::embed(&current, nat, &session.key.source);
        caller.known_as.extend(shown.map(|address| Endpoint { address, ..caller.endpoint }));
        let Some(mapping) = self.bindings.admit(&external, &caller, filtering(&current, nat), context.now) else {
            self.bindings.permit(&caller.known_as, external, context.now);
            let silent = nat_of(&current, nat).is_none_or(|nat| !nat.answers_unsolicited);
            let step = if silent { Step::Drop } else { Step::DropLater };
            return step(Reason::NatFiltered);
        };
        let inside = context.zone_towards(&mapping.inside.address);
        let rule = if mapping.explicit { current.pcp } else { mapping.rule };
        let allowed = admits(&current, mapping.nat, rule, session.from, inside, &mapping.inside.address);
        let refused = if !allowed {
            Some(Reason::NatFiltered)
        } else {
            let limits = nat_of(&current, mapping.nat).map(|nat| nat.pool.limits).unwrap_or_default();
            self.bindings.is_over(&mapping, limits).then_some(Reason::NatLimit)
        };
        if let Some(reason) = refused {
            self.bindings.release(mapping.inside, mapping.nat, external, Share::Inbound, context.now);
            return Step::Drop(reason);
        }
        // To an IPv6 host the sender is shown as an IPv6 address.
        if key::ip(&session.key.source).is_ipv4()
            && let Some(source) = nat64::embed(&current, mapping.nat, &session.key.source)
        {
            session.source = source;
        }
        session.destination = mapping.inside.address;
        session.ports = with_destination_port(&session.key, session.ports, mapping.inside.port);
        session.destination_nat = mapping.nat;
        session.rule = rule;
        session.admitted = true;
        Step::Continue
    }

    fn abandon(&mut self, session: &NewSession, now: Tick) {
        if session.admitted {
            let current = self.shared.current();
            let protocol = session.key.protocol();
            let nats = [session.nat, session.destination_nat];
            let address = nat64::plain(&current, nats, &session.key.destination);
            self.bindings.release(
                Endpoint { protocol, address: session.destination, port: port(session.ports, 2) },
                session.destination_nat,
                Endpoint { protocol, address, port: inbound_port(&session.key) },
                Share::Inbound,
                now,
            );
        }
    }

    fn closed(&mut self, session: &SessionView, now: Tick) {
        if let Some((inside, external)) = mapping_of(&self.shared.current(), session) {
            self.bindings.release(inside, session.destination_nat, external, Share::Inbound, now);
        }
    }

    fn adopt(&mut self, session: &SessionView) -> bool {
        let current = self.shared.current();
        let Some((inside, external)) = mapping_of(&current, session) else { return true };
        let nat = session.destination_nat;
        let key = &session.keys[0];
        let port = if is_echo(key.protocol()) { 0 } else { key.source_port() };
        let rule = nat_of(&current, nat);
        let terms = Terms {
            inside,
            remote: Endpoint { protocol: key.protocol(), address: key.source, port },
            nat,
            rule: session.rule,
            mapping: rule.map_or(Dependence::EndpointIndependent, |nat| nat.mapping),
            cut: rule.and_then(|nat| cut(&nat.pool)),
            log: rule.is_some_and(|nat| nat.log),
            expected: session.parent != 0,
        };
        self.bindings.adopt_inbound(terms, external)
    }

    fn revalidate(&mut self, session: &SessionView, interfaces: &Interfaces) -> Option<Kept> {
        let current = self.shared.current();
        let Some((inside, external)) = mapping_of(&current, session) else { return Some(Kept::as_it_is(session)) };
        let [from, to] = session.ports.map(|port| interfaces.port(port).map(|interface| interface.zone));
        let nat = session.destination_nat;
        let forward = &session.keys[0];
        let behind = session.nat != 0;
        let let_in = match filtering(&current, nat) {
            // It was asked for, whatever the translation lets in.
            _ if is_permission(&current, session.rule) => true,
            Dependence::EndpointIndependent => true,
            // What an inside host was refused before it was let in is not known of the past: it is believed.
            Dependence::AddressDependent => behind || self.bindings.sends_to(&external, &forward.source),
            // Whoever is behind a translation as well, and was answered, was sent to.
            Dependence::AddressAndPortDependent => behind && session.answered,
        };
        let same = let_in
            && self.bindings.holds(&inside, nat, &external)
            && admits(&current, nat, session.rule, from?, to, &inside.address);
        same.then(|| Kept::as_it_is(session))
    }

    fn ends_with(&self, session: &SessionView, gone: &HashSet<Address>) -> bool {
        session.inbound
            && gone.contains(&nat64::plain_of(&self.shared.current(), session, &session.keys[0].destination))
            && is_of_interface(&self.shared.current(), session.destination_nat)
    }

    fn changes_family(&self, key: &Key, from: u16, context: &mut Context<'_>) -> bool {
        let current = self.shared.current();
        let crossing = nat64::crossing(&current, key, from, |address| context.zone_towards(address));
        let (address, nat) =
            crossing.as_ref().map_or((key.destination, 0), |found| (found.destination, found.identity));
        let protocol = nat64::mapped_protocol(&current, nat, key.protocol());
        let external = Endpoint { protocol, address, port: inbound_port(key) };
        // To a mapping of an IPv6 host: from IPv4, or from another IPv6 host and back.
        let to_v6 = self.bindings.nat_of(&external).is_some_and(|nat| nat64::is_between(&current, nat));
        if crossing.is_some() { !to_v6 } else { key.family() == 4 && to_v6 }
    }

    fn claims(&self, key: &Key, _: u16) -> bool {
        if is_echo_request(key) {
            return false;
        }
        let external = Endpoint { protocol: key.protocol(), address: key.destination, port: inbound_port(key) };
        self.bindings.knows(&external)
    }
}

/// Inside and external endpoint of the mapping that a connection came in to.
fn mapping_of(current: &Current, session: &SessionView) -> Option<(Endpoint, Endpoint)> {
    if !session.inbound {
        return None;
    }
    let [forward, reverse] = &session.keys;
    // Of echo nothing is let in, so both sides name the protocol alike.
    let protocol = forward.protocol();
    let inside = Endpoint { protocol, address: reverse.source, port: port(translated_ports(session), 2) };
    let address = nat64::plain_of(current, session, &forward.destination);
    let external = Endpoint { protocol, address, port: inbound_port(forward) };
    Some((inside, external))
}
