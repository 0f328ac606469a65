//! Destination translation: published services, whole addresses, and what comes in to one-to-one translations.
//!
//! It only says where a connection goes; whether it may go there is for the rules to say, which see the source before
//! and the destination after translation.

use std::collections::HashSet;

use flowhop_engine::interfaces::Interfaces;
use flowhop_engine::module::{Context, Kept, Module, NewSession, SessionView, Step};
use flowhop_flow::key::{self, Address};
use flowhop_flow::{Key, Reason};
use flowhop_policy::{Destination as To, DestinationTranslation, ZoneId, key_address};

use super::bindings::Endpoint;
use super::{has_uncovered_checksum, nat64, pool, translated_ports, with_destination_port};
use crate::helpers;
use crate::shared::{Current, Shared, connection, number};

/// Name of the module.
pub(super) const NAME: &str = "nat_destination";

/// Translates the destination of new connections.
#[derive(Debug)]
pub struct Destination {
    shared: Shared,
}

impl Destination {
    /// The module on a shared policy.
    #[must_use]
    pub const fn new(shared: Shared) -> Self {
        Self { shared }
    }
}

/// The first translation that is about a connection as received, with its identity.
fn first_match<'a>(current: &'a Current, key: &Key, from: u16) -> Option<(u16, &'a DestinationTranslation)> {
    // Where it goes is not known yet, and not asked about.
    let connection = connection(key, &key.destination, key.ports, from, To::SelfBox);
    let mut all = current.policy.nats.iter().zip(&current.nats);
    all.find_map(|(nat, identity)| {
        let translation = nat.translate_destination.as_ref()?;
        translation.matches(&connection).then_some((*identity, translation))
    })
}

/// Where a translation sends a packet: by another prefix, or place by place if there are as many addresses on either
/// side, else always the same client to the same server. None: an address that no inside one has.
fn target(translation: &DestinationTranslation, key: &Key) -> Option<Address> {
    if let Some(pair) = &translation.prefix {
        return pair.inside_of(number(&key.destination)).map(|inside| key::address(key_address(inside)));
    }
    let spread = || pool::spread(number(&key.source), translation.members());
    let place = translation.place_of(number(&key.destination)).unwrap_or_else(spread);
    Some(key::address(key_address(translation.member(place))))
}

/// Where the first translation that is about a connection sends it: address and port.
pub(super) fn leads_to(current: &Current, key: &Key, from: u16) -> Option<(Address, u16)> {
    let (_, translation) = first_match(current, key, from)?;
    Some((target(translation, key)?, translation.port.unwrap_or(key.destination_port())))
}

/// The external endpoint of a service that is published at an inside endpoint alone, to a zone.
pub(super) fn published_as(current: &Current, inside: &Endpoint, from: ZoneId) -> Option<Endpoint> {
    let at = key::ip(&inside.address);
    let mut all = current.policy.nats.iter().filter(|nat| !nat.is_fixed());
    all.find_map(|nat| {
        let translation = nat.translate_destination.as_ref()?;
        let [(first, last)] = translation.external.ranges() else { return None };
        let ports = translation.service.ports(inside.protocol);
        let port = match (translation.port, ports.ranges()) {
            (None, _) => ports.contains(inside.port).then_some(inside.port)?,
            (Some(port), [(only, end)]) if port == inside.port && only == end => *only,
            _ => return None,
        };
        let alone = translation.prefix.is_none() && translation.inside == (at, at) && first == last;
        let address = key::address(key_address(*first));
        (alone && translation.from.contains(from)).then_some(Endpoint { address, port, ..*inside })
    })
}

/// Whether a translation may have sent a connection where it goes. A server keeps its clients when others are put
/// beside it.
fn offers(translation: &DestinationTranslation, forward: &Key, target: &Address, port: u16) -> bool {
    if let Some(pair) = &translation.prefix {
        return pair.inside_of(number(&forward.destination)) == Some(number(target))
            && port == forward.destination_port();
    }
    let member = match translation.place_of(number(&forward.destination)) {
        Some(place) => number(target) == translation.member(place),
        None => (translation.member(0)..=translation.member(translation.members())).contains(&number(target)),
    };
    member && port == translation.port.unwrap_or(forward.destination_port())
}

impl Module for Destination {
    fn name(&self) -> &'static str {
        NAME
    }

    /// What is expected goes where whoever announced it says.
    fn runs_after(&self) -> &'static [&'static str] {
        &[helpers::NAME]
    }

    fn open(&mut self, session: &mut NewSession, context: &mut Context<'_>) -> Step {
        if session.related.is_some() {
            return Step::Continue;
        }
        let current = self.shared.current();
        if nat64::embeds(&current, &session.key.source) {
            return Step::Drop(Reason::MartianSource);
        }
        let zone = |address: &Address| context.zone_towards(address);
        if let Some(crossing) = nat64::crossing(&current, &session.key, session.from, zone) {
            if let Some(reason) = crossing.refusal(&session.key) {
                return Step::Drop(reason);
            }
            // Its source is mapped once rules have allowed it.
            session.destination = crossing.destination;
            session.nat = crossing.identity;
            return Step::Continue;
        }
        let Some((identity, translation)) = first_match(&current, &session.key, session.from) else {
            return Step::Continue;
        };
        let neutral = translation.prefix.is_some();
        if identity == 0 || (!neutral && has_uncovered_checksum(session.key.protocol())) {
            return Step::Drop(Reason::NatUnsupported);
        }
        let Some(target) = target(translation, &session.key) else { return Step::Drop(Reason::NatUnsupported) };
        session.destination = target;
        if let Some(port) = translation.port {
            session.ports = with_destination_port(&session.key, session.ports, port);
        }
        session.destination_nat = identity;
        Step::Continue
    }

    fn revalidate(&mut self, session: &SessionView, interfaces: &Interfaces) -> Option<Kept> {
        if session.inbound {
            return Some(Kept::as_it_is(session));
        }
        let current = self.shared.current();
        let [forward, reverse] = &session.keys;
        let from = interfaces.port(session.ports[0])?.zone;
        let port = key::port(translated_ports(session), 2);
        let same = match first_match(&current, forward, from) {
            None => session.destination_nat == 0,
            Some((identity, translation)) => {
                identity == session.destination_nat && offers(translation, forward, &reverse.source, port)
            }
        };
        same.then(|| Kept::as_it_is(session))
    }

    fn ends_with(&self, session: &SessionView, gone: &HashSet<Address>) -> bool {
        session.destination_nat != 0 && !session.inbound && gone.contains(&session.keys[0].destination)
    }

    /// Echo replies belong to whoever has sent the request.
    fn claims(&self, key: &Key, from: u16) -> bool {
        let current = self.shared.current();
        !super::is_echo_reply(key)
            && (first_match(&current, key, from).is_some() || nat64::crossing(&current, key, from, |_| None).is_some())
    }

    fn embeds(&self, source: &Address) -> bool {
        nat64::embeds(&self.shared.current(), source)
    }
}
