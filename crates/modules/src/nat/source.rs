//! Source translation, hairpinning included.
//!
//! A connection whose destination was translated, and that leaves through the interface that it came in by, gets
//! another source as well, whether a translation was written for that way or not: the answers would else go past the
//! box, and the client would not know them (RFC 4787 REQ-9, RFC 5382 REQ-8: external source address and port).

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use flowhop_engine::MssClamp;
use flowhop_engine::interfaces::Interfaces;
use flowhop_engine::module::{Context, Kept, Module, NewSession, Related, SessionView, Step, Via};
use flowhop_flow::key::{self, Address, port};
use flowhop_flow::record::Tick;
use flowhop_flow::{Key, Reason};
use flowhop_policy::{
    Allocation, Dependence, Destination, NatRule, NewConnection, Pooling, PortPool, PortSet, SourceTranslation, ZoneId,
    key_address,
};
use flowhop_wire::{pcp, protocol};
use rand_core::RngCore;

use super::bindings::{Bindings, Choices, Endpoint, Share, Terms};
use super::port_set::Barred;
use super::resting::Holder;
use super::{
    cut, has_uncovered_checksum, is_echo, is_of_interface, nat_of, nat64, pool, remote, translated_ports,
    with_source_port,
};
use crate::filter;
use crate::shared::{Current, Shared, clamp, connection, number};

/// Translates the source of new connections.
#[derive(Debug)]
pub struct Source {
    shared: Shared,
    bindings: Bindings,
}

/// The translation that a connection's source gets.
#[derive(Clone, Copy)]
pub(super) struct Choice<'a> {
    identity: u16,
    /// None: by the translation of the destination alone.
    nat: Option<&'a NatRule>,
    hairpin: bool,
}

impl Choice<'_> {
    fn new_source(&self) -> Option<&SourceTranslation> {
        self.nat.and_then(|nat| nat.translate_source.as_ref())
    }

    fn is_of_interface(&self) -> bool {
        matches!(self.new_source(), Some(SourceTranslation::Interface))
    }

    fn pool(&self) -> Cow<'_, PortPool> {
        self.nat.map_or_else(Cow::default, |nat| Cow::Borrowed(&nat.pool))
    }

    fn mapping(&self) -> Dependence {
        self.nat.map_or(Dependence::EndpointIndependent, |nat| nat.mapping)
    }
}

impl<'a> Choice<'a> {
    /// That of a translation whose mappings are asked for.
    pub(super) const fn of(identity: u16, nat: &'a NatRule) -> Self {
        Self { identity, nat: Some(nat), hairpin: false }
    }
}

/// The choice of a connection whose parent has one: no rule says which.
pub(super) fn parent_choice(current: &Current, identity: u16) -> Choice<'_> {
    let nat = nat_of(current, identity).filter(|nat| nat.translate_source.is_some());
    Choice { identity, nat, hairpin: false }
}

/// Who gets an external endpoint.
pub(super) struct Request<'a> {
    pub(super) inside: Endpoint,
    /// Whom it sends to, as it addresses it.
    pub(super) remote: Endpoint,
    pub(super) rule: u16,
    pub(super) choice: Choice<'a>,
    /// Addresses that it may have, the best first.
    pub(super) addresses: Vec<Address>,
    /// It is for one who is expected, and for nobody else.
    pub(super) expected: bool,
    /// What its port should be like: as the inside one even or odd, or this one.
    pub(super) port: Likeness,
    /// What the mapping is for, if the translation does not say.
    pub(super) mapping: Option<Dependence>,
    /// External ports that it may have, beside what the translation says.
    pub(super) among: Option<&'a PortSet>,
}

/// What an external port should be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// As the translation says.
    Usual,
    /// Even or odd as the inside one.
    Parity,
    /// This one.
    Port(u16),
}

/// An external address and the first and last port of it.
type Lot = (Address, (u16, u16));

/// The address and ports of an inside address, if it has some of its own.
pub(super) fn lot_of(pool: &PortPool, inside: &Address) -> Result<Option<Lot>, Reason> {
    let Allocation::Deterministic(lots) = &pool.allocation else { return Ok(None) };
    match lots.external_of(key::ip(inside)) {
        Some((address, ports)) => Ok(Some((key::address(address), ports))),
        None => Err(Reason::NatExhausted),
    }
}

/// The external endpoint of an inside one: the one that it has, or a new one. Takes a share in it.
///
/// # Errors
/// When no port is free at any of the addresses, or the inside address has all that it may have.
pub(super) fn allocate(
    shared: &Shared,
    bindings: &Bindings,
    current: &Current,
    request: &Request<'_>,
    context: &mut Context<'_>,
) -> Result<Endpoint, Reason> {
    with_choices(shared, current, request, context, |terms, choices, random, now| {
        bindings.map(terms, choices, random, now)
    })
}

/// Has something done with what a request comes to under its translation.
///
/// # Errors
/// Those of what is done, and when the inside address is to have ports of its own, but has none.
pub(super) fn with_choices<E: From<Reason>>(
    shared: &Shared,
    current: &Current,
    request: &Request<'_>,
    context: &mut Context<'_>,
    then: impl FnOnce(Terms, &Choices<'_>, &mut dyn RngCore, Tick) -> Result<Endpoint, E>,
) -> Result<Endpoint, E> {
    let Request { inside, choice, addresses, .. } = request;
    let (protocol, inside_port) = (inside.protocol, inside.port);
    let pool = choice.pool();
    let lot = lot_of(&pool, &inside.address)?;
    let routing = &*context.routing;
    let own = |address: &Address| routing.is_own(key::ip(address));
    let closed = shared.closed();
    let bar = |address: &Address| {
        let mut barred = Vec::new();
        current.published.bar(address, protocol, &mut barred);
        if let Some(among) = request.among {
            barred.extend(among.outside().ranges());
        }
        if protocol == protocol::UDP && current.policy.pcp.is_some() {
            barred.push((pcp::CLIENT_PORT, pcp::SERVER_PORT));
        }
        let others = current.policy.nats.iter().zip(&current.nats).filter(|(_, other)| **other != choice.identity);
        for (nat, _) in others {
            if let Allocation::Deterministic(lots) = &nat.pool.allocation
                && let Some(range) = lots.given_out(key::ip(address))
            {
                barred.push(range);
            }
        }
        Barred::new(barred, own(address).then(|| closed.words(protocol)))
    };
    let keeps = |address: &Address| match choice.new_source() {
        Some(new @ SourceTranslation::Ranges(_)) => new.offers(key::ip(address)),
        // A client that is known outside by another address of the box is known by it here.
        Some(SourceTranslation::Interface) if choice.hairpin => addresses.contains(address) || own(address),
        _ => addresses.contains(address),
    };
    let terms = Terms {
        inside: *inside,
        remote: request.remote,
        nat: choice.identity,
        rule: request.rule,
        mapping: request.mapping.unwrap_or_else(|| choice.mapping()),
        cut: cut(&pool),
        log: choice.nat.is_some_and(|nat| nat.log),
        expected: request.expected,
    };
    let sided = Some(inside_port).filter(|_| !is_echo(protocol));
    let ranges = lot.map_or_else(|| pool.ranges(sided), |(_, ports)| vec![ports]);
    let like = sided.filter(|_| pool.parity || request.port == Likeness::Parity);
    let holder = if pool.allocation == Allocation::Ports { Holder::Endpoint } else { Holder::Address };
    let choices = Choices {
        addresses,
        keeps: &keeps,
        bar: &bar,
        paired: pool.pooling == Pooling::Paired && matches!(choice.new_source(), Some(SourceTranslation::Ranges(_))),
        wanted: match request.port {
            Likeness::Port(port) => Some(port),
            _ => pool.keeps(inside_port).then_some(inside_port),
        },
        ports: &pool::of_parity(&ranges, like),
        like,
        holder,
        limits: pool.limits,
    };
    then(terms, &choices, context.random, context.now)
}

/// Chooses by the policy. `hairpin`: if no translation is for where the connection goes, the first one counts that is
/// for it wherever it went; if there is none, that of the destination.
fn choose<'a>(
    current: &'a Current,
    connection: &NewConnection,
    destination_nat: u16,
    hairpin: bool,
) -> Option<Choice<'a>> {
    let Destination::Zone(to) = connection.to else { return None };
    let find = |anywhere: bool| {
        // Those between IPv6 and IPv4 are chosen by the destination, before there is a route.
        let mut all = current.policy.nats.iter().zip(&current.nats).filter(|(nat, _)| nat.prefix64.is_none());
        all.find(|(nat, identity)| match nat.is_twofold() {
            true => destination_nat != 0 && **identity == destination_nat && (anywhere || nat.to.contains(to)),
            false if nat.translate_source.is_none() => false,
            false if anywhere => nat.matches_anywhere(connection),
            false => nat.matches(connection),
        })
    };
    let choice = |hairpin| {
        move |(nat, identity): (&'a NatRule, &'a u16)| Choice { identity: *identity, nat: Some(nat), hairpin }
    };
    let plain = find(false).map(choice(false));
    if plain.is_some() || !hairpin {
        return plain;
    }
    Some(find(true).map_or(Choice { identity: destination_nat, nat: None, hairpin }, choice(true)))
}

/// The translation between IPv6 and IPv4 that a connection was sent on by.
fn across(current: &Current, identity: u16, admitted: bool) -> Option<Choice<'_>> {
    let nat = nat_of(current, identity).filter(|nat| nat.prefix64.is_some())?;
    Some(Choice { identity, nat: Some(nat), hairpin: admitted })
}

impl Source {
    /// The module on shared policy and bindings.
    #[must_use]
    pub const fn new(shared: Shared, bindings: Bindings) -> Self {
        Self { shared, bindings }
    }

    fn bind(
        &self,
        session: &mut NewSession,
        choice: &Choice<'_>,
        via: &Via,
        current: &Current,
        context: &mut Context<'_>,
    ) -> Step {
        // The IPv4 address that the client addresses, under a translation from IPv6.
        let known = nat64::plain(current, [choice.identity, 0], &session.key.destination);
        let lot = match lot_of(&choice.pool(), &session.key.source) {
            Ok(lot) => lot,
            Err(reason) => return Step::Drop(reason),
        };
        if !choice.hairpin
            && choice.is_of_interface()
            && !choice.pool().overlap
            && has_conflict(session.from, &session.key.source, via.ifindex, key::ip(&known).is_ipv4(), context)
        {
            return Step::Drop(Reason::AddressConflict);
        }
        let addresses = match lot {
            Some((address, _)) => vec![address],
            None => external_addresses(choice, &session.key, &known, via, context),
        };
        self.bind_to(session, choice, addresses, current, context)
    }

    /// Binds the source of a connection to one of these addresses.
    fn bind_to(
        &self,
        session: &mut NewSession,
        choice: &Choice<'_>,
        addresses: Vec<Address>,
        current: &Current,
        context: &mut Context<'_>,
    ) -> Step {
        let Some(first) = addresses.first().copied() else { return Step::Drop(Reason::NatExhausted) };
        let Some(inside_port) = mapped_port(&session.key) else {
            session.source = first;
            session.nat = choice.identity;
            return Step::Continue;
        };
        let protocol = nat64::mapped_protocol(current, choice.identity, session.key.protocol());
        let known = nat64::plain(current, [choice.identity, 0], &session.key.destination);
        let request = Request {
            inside: Endpoint { protocol, address: session.key.source, port: inside_port },
            remote: Endpoint { protocol, address: known, ..remote(&session.key) },
            rule: session.rule,
            choice: *choice,
            addresses,
            expected: false,
            port: Likeness::Usual,
            mapping: None,
            among: None,
        };
        let external = match allocate(&self.shared, &self.bindings, current, &request, context) {
            Ok(external) => external,
            Err(reason) => return Step::Drop(reason),
        };
        // To an IPv6 host an IPv4 source is shown as an IPv6 address: by the translation of the destination, if that is
        // between the two, else by its own, when both hosts are behind it.
        let shown = || {
            let identities = [session.destination_nat, choice.identity];
            identities.into_iter().find_map(|identity| nat64::embed(current, identity, &external.address))
        };
        let to_v6 = key::ip(&session.destination).is_ipv6();
        session.source = if to_v6 { shown().unwrap_or(external.address) } else { external.address };
        session.ports = with_source_port(&session.key, session.ports, external.port);
        session.nat = choice.identity;
        Step::Continue
    }

    /// A connection that another one has announced has that one's translation, and its address.
    fn open_related(&self, session: &mut NewSession, related: &Related, context: &mut Context<'_>) -> Step {
        let Some((identity, address)) = related.source else { return Step::Continue };
        let current = self.shared.current();
        if nat_of(&current, identity).is_some_and(NatRule::is_fixed) {
            session.source = address;
            session.nat = identity;
            return Step::Continue;
        }
        self.bind_to(session, &parent_choice(&current, identity), vec![address], &current, context)
    }

    /// Whether a connection has a source that the policy would give it. An interface's own address is followed by
    /// events.
    fn offers(&self, current: &Current, choice: &Choice<'_>, session: &SessionView) -> bool {
        let [forward, reverse] = &session.keys;
        let external = nat64::plain_of(current, session, &reverse.destination);
        if let Some(fixed) = choice.new_source().filter(|new| new.is_fixed()) {
            let port = port(translated_ports(session), 0);
            // A mapping that happens to look the same would be left without its connection.
            let mapped = mapping_of(current, session)
                .is_some_and(|(inside, external, _)| self.bindings.holds(&inside, session.nat, &external));
            return fixed.fixed(number(&forward.source)) == Some(number(&reverse.destination))
                && port == forward.source_port()
                && !mapped;
        }
        let bound = mapping_of(current, session)
            .is_none_or(|(inside, external, _)| self.bindings.holds(&inside, session.nat, &external));
        let offered = match choice.new_source() {
            _ if let Allocation::Deterministic(lots) = &choice.pool().allocation => {
                let port = port(translated_ports(session), 0);
                lots.inside_of(key::ip(&external), port) == Some(key::ip(&forward.source))
            }
            Some(new @ SourceTranslation::Ranges(_)) => new.offers(key::ip(&external)),
            _ => true,
        };
        bound && offered
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
        let Some(via) = session.via else { return Step::Drop(Reason::NoRoute) };
        if let Some(related) = session.related {
            return self.open_related(session, &related, context);
        }
        let current = self.shared.current();
        if let Some(choice) = across(&current, session.nat, session.admitted) {
            return self.bind(session, &choice, &via, &current, context);
        }
        let returns = via.port == session.ingress || (session.admitted && via.zone == session.from);
        let hairpin = session.destination_nat != 0 && returns;
        if session.admitted && !hairpin {
            return Step::Continue;
        }
        let to = Destination::Zone(ZoneId(via.zone));
        let connection = connection(&session.key, &session.destination, session.ports, session.from, to);
        let Some(choice) = choose(&current, &connection, session.destination_nat, hairpin) else {
            return Step::Continue;
        };
        let neutral = matches!(choice.new_source(), Some(SourceTranslation::Prefix(_)));
        if choice.identity == 0 || (!neutral && has_uncovered_checksum(session.key.protocol())) {
            return Step::Drop(Reason::NatUnsupported);
        }
        let Some(fixed) = choice.new_source().filter(|new| new.is_fixed()) else {
            return self.bind(session, &choice, &via, &current, context);
        };
        let Some(source) = fixed.fixed(number(&session.key.source)) else {
            return Step::Drop(Reason::NatUnsupported);
        };
        session.source = key::address(key_address(source));
        session.nat = choice.identity;
        Step::Continue
    }

    fn abandon(&mut self, session: &NewSession, now: Tick) {
        if session.nat != 0
            && let Some(inside_port) = mapped_port(&session.key)
        {
            let current = self.shared.current();
            let nats = [session.nat, session.destination_nat];
            let plain = |address| nat64::plain(&current, nats, address);
            let protocol = nat64::mapped_protocol(&current, session.nat, session.key.protocol());
            self.bindings.release(
                Endpoint { protocol, address: session.key.source, port: inside_port },
                session.nat,
                Endpoint { protocol, address: plain(&session.source), port: port(session.ports, 0) },
                Share::Own(plain(&session.key.destination)),
                now,
            );
        }
    }

    fn closed(&mut self, session: &SessionView, now: Tick) {
        if let Some((inside, external, remote)) = mapping_of(&self.shared.current(), session) {
            self.bindings.release(inside, session.nat, external, Share::Own(remote.address), now);
        }
    }

    fn adopt(&mut self, session: &SessionView) -> bool {
        let current = self.shared.current();
        if session.keys[0].family() != session.keys[1].family()
            && ![session.nat, session.destination_nat].iter().any(|nat| nat64::is_between(&current, *nat))
        {
            return false;
        }
        let Some((inside, external, remote)) = mapping_of(&current, session) else { return true };
        let rule = nat_of(&current, session.nat);
        if rule.is_some_and(NatRule::is_fixed) {
            return true;
        }
        let terms = Terms {
            inside,
            remote,
            nat: session.nat,
            rule: session.rule,
            mapping: rule.map_or(Dependence::EndpointIndependent, |nat| nat.mapping),
            cut: rule.and_then(|nat| cut(&nat.pool)),
            log: rule.is_some_and(|nat| nat.log),
            expected: false,
        };
        self.bindings.adopt(terms, external)
    }

    fn revalidate(&mut self, session: &SessionView, interfaces: &Interfaces) -> Option<Kept> {
        let current = self.shared.current();
        let [forward, reverse] = &session.keys;
        let from = interfaces.port(session.ports[0])?.zone;
        let to = interfaces.port(session.ports[1])?.zone;
        let returns = session.ports[0] == session.ports[1] || (session.inbound && from == to);
        let hairpin = session.destination_nat != 0 && returns;
        // One to a mapping was sent on by the address of that, which is behind no zone.
        let wanted = nat64::crossing(&current, forward, from, |_| (!session.inbound).then_some(to));
        if wanted.is_some() || nat64::is_between(&current, session.nat) {
            let same = wanted.filter(|wanted| wanted.identity == session.nat).is_some_and(|wanted| {
                across(&current, wanted.identity, session.inbound)
                    .is_some_and(|choice| self.offers(&current, &choice, session))
            });
            return same.then(|| Kept::as_it_is(session));
        }
        let ports = translated_ports(session);
        let connection = connection(forward, &reverse.source, ports, from, Destination::Zone(ZoneId(to)));
        let choose = |hairpin| choose(&current, &connection, session.destination_nat, hairpin);
        let wanted = if session.inbound && !hairpin { None } else { choose(hairpin) };
        let same = match wanted {
            Some(choice) => choice.identity == session.nat && self.offers(&current, &choice, session),
            None if session.nat == 0 => true,
            // It did leave through the interface that it came in by; a route has changed since.
            None => {
                session.destination_nat != 0
                    && choose(true)
                        .is_some_and(|choice| choice.identity == session.nat && self.offers(&current, &choice, session))
            }
        };
        same.then(|| Kept::as_it_is(session))
    }

    fn ends_with(&self, session: &SessionView, gone: &HashSet<Address>) -> bool {
        session.nat != 0
            && gone.contains(&nat64::plain_of(&self.shared.current(), session, &session.keys[1].destination))
            && is_of_interface(&self.shared.current(), session.nat)
    }

    fn embedded(&self, nat: u16, address: Ipv4Addr) -> Option<Ipv6Addr> {
        self.shared.current().prefixes.get(&nat).map(|prefix| prefix.embed(address))
    }

    /// For the other modules of translation as well.
    fn mss(&self, _: u16, nat: u16) -> Option<MssClamp> {
        let current = self.shared.current();
        if !current.policy.clamps_mss() || nat == 0 {
            return None;
        }
        nat_of(&current, nat)?.mss_clamp.map(clamp)
    }

    /// Those of the other modules of translation are the same ones.
    fn rules(&self) -> usize {
        self.shared.current().policy.nats.len()
    }
}

/// Inside, external and remote endpoint of a connection that has its source translated and has ports.
fn mapping_of(current: &Current, session: &SessionView) -> Option<(Endpoint, Endpoint, Endpoint)> {
    let [forward, reverse] = &session.keys;
    if session.nat == 0 {
        return None;
    }
    let plain = |address| nat64::plain_of(current, session, address);
    let protocol = nat64::mapped_protocol(current, session.nat, forward.protocol());
    let inside = Endpoint { protocol, address: forward.source, port: mapped_port(forward)? };
    let external =
        Endpoint { protocol, address: plain(&reverse.destination), port: port(translated_ports(session), 0) };
    let remote = Endpoint { protocol, address: plain(&forward.destination), ..remote(forward) };
    Some((inside, external, remote))
}

/// The port, or echo identifier, that a mapping is about; none for protocols without.
fn mapped_port(key: &Key) -> Option<u16> {
    match key.protocol() {
        protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6 => Some(key.source_port()),
        _ => None,
    }
}

/// The addresses that a connection may be translated to, the one it is paired with first.
///
/// `known`: what the client addresses, in the family of the external addresses.
fn external_addresses(
    choice: &Choice<'_>,
    key: &Key,
    known: &Address,
    via: &Via,
    context: &Context<'_>,
) -> Vec<Address> {
    let is_v4 = key::ip(known).is_ipv4();
    let of_interface = || {
        context
            .routing
            .source_towards(via.ifindex, family_next_hop(via, is_v4))
            .filter(|address| address.is_ipv4() == is_v4)
            .map(key::address)
    };
    match choice.new_source() {
        Some(SourceTranslation::Ranges(ranges)) => {
            let ranges: Vec<_> = ranges.iter().filter(|(first, _)| first.is_ipv4() == is_v4).collect();
            pool::candidates(&ranges, number(&key.source))
        }
        Some(SourceTranslation::Interface) if !choice.hairpin => of_interface().into_iter().collect(),
        Some(SourceTranslation::OneToOne { .. } | SourceTranslation::Prefix(_)) => Vec::new(),
        // The address that the client knows the box by; another one where that has no ports to give.
        Some(SourceTranslation::Interface) | None => std::iter::once(*known).chain(of_interface()).collect(),
    }
}

/// Whether the network of the output has addresses in common with one of the zone that a connection comes from: then some host
/// outside could not be told from one inside (RFC 4787 REQ-7). Only networks of the family count that it is translated in; one
/// between IPv6 and IPv4 has no addresses that could be both.
pub(super) fn has_conflict(from: u16, inside: &Address, output: u32, is_v4: bool, context: &mut Context<'_>) -> bool {
    let zone_of = |ifindex| context.interfaces.ifindex(ifindex).map(|interface| interface.zone);
    let overlaps = |other: &u32| zone_of(*other) == Some(from);
    key::ip(inside).is_ipv4() == is_v4
        && zone_of(output) != Some(from)
        && context.routing.overlapping(output, is_v4).iter().any(overlaps)
}

/// A next hop of the external addresses' own family, to choose the interface's address by; a router of the other family
/// (RFC 5549) says nothing about that.
fn family_next_hop(via: &Via, is_v4: bool) -> std::net::IpAddr {
    if via.next_hop.is_ipv4() == is_v4 {
        via.next_hop
    } else if is_v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}
