//! Mappings that hosts ask for: under which translation, and at which external address.
//!
//! A host does not say whom a mapping is for. So it is made under the first translation of a policy that is about most
//! destinations and about all ports of the protocol; where none is, or it keeps ports, there is nothing to be bound and a
//! pinhole is made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowhop_engine::Context;
use flowhop_flow::key::{self, Address};
use flowhop_policy::{Allocation, Dependence, NatRule, PcpSettings, PortPool, SourceTranslation, ZoneId, key_address};

use super::bindings::{Bindings, Bounds, Endpoint, Exactly, Refused};
use super::explicit::{Grant, Mapping};
use super::source::{Choice, Likeness, Request, has_conflict, lot_of, with_choices};
use super::{destination, is_of_interface, nat_of, pool};
use crate::shared::{Current, Shared, number};

/// The share of a translation's ports that mappings may have which were asked for: one in so many.
const PORTS_SHARE: u32 = 4;

/// What a host asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Whose mapping it is to be.
    pub(crate) inside: Endpoint,
    /// Zone of the host.
    pub(crate) from: u16,
    /// The external address that it suggests.
    pub(crate) address: Option<Address>,
    /// The external port that it suggests.
    pub(crate) port: Option<u16>,
    /// No other external endpoint will do.
    pub(crate) exactly: bool,
    /// An IPv6 host asks for an IPv4 address.
    pub(crate) across: bool,
}

impl Wish {
    /// Whether an external endpoint is what the host insists on, if it insists.
    pub(crate) fn takes(&self, external: &Endpoint) -> bool {
        self.exact().is_none_or(|exactly| exactly.is(external))
    }

    fn exact(&self) -> Option<Exactly> {
        self.port.filter(|_| self.exactly).map(|port| Exactly { address: self.address, port })
    }
}

/// Grants a host what it asks for.
///
/// # Errors
/// Why not; then nothing has changed.
pub(crate) fn grant(
    shared: &Shared,
    bindings: &Bindings,
    wish: &Wish,
    grant: Grant,
    context: &mut Context<'_>,
) -> Result<Endpoint, Refused> {
    let current = shared.current();
    let Some(settings) = &current.policy.pcp else { return Err(Refused::NotHere) };
    let inside = wish.inside;
    let Some((identity, nat)) = translation(&current, settings, wish) else {
        return pinhole(bindings, settings, wish, inside, grant, context);
    };
    if identity == 0 {
        return Err(Refused::NotHere);
    }
    if let Some(fixed) = nat.translate_source.as_ref().filter(|new| new.is_fixed()) {
        let address = fixed.fixed(number(&inside.address)).ok_or(Refused::NoAddress)?;
        let external = Endpoint { address: key::address(key_address(address)), ..inside };
        return pinhole(bindings, settings, wish, external, grant, context);
    }
    let addresses = external_addresses(settings, nat, wish, context)?;
    let request = Request {
        inside,
        remote: Endpoint { address: Address::default(), port: 0, ..inside },
        rule: current.pcp,
        choice: Choice::of(identity, nat),
        addresses,
        expected: false,
        // As its users know it, where that can be had.
        port: Likeness::Port(wish.port.unwrap_or(inside.port)),
        mapping: Some(Dependence::EndpointIndependent),
        among: Some(&settings.ports),
    };
    let bounds = Bounds { exactly: wish.exact(), among: &settings.ports, at_one: most_of(&nat.pool) };
    with_choices(shared, &current, &request, context, |terms, choices, random, now| {
        bindings.grant(terms, choices, &bounds, grant, random, now)
    })
}

/// Mappings of a protocol that there may be at one external address where ports are given out one by one: whoever asks for
/// many, in many names, must not leave none for what is sent.
fn most_of(pool: &PortPool) -> u32 {
    let (first, last) = pool.whole_range();
    match pool.allocation {
        Allocation::Ports => (u32::from(last - first) / PORTS_SHARE).max(1),
        Allocation::Blocks(_) | Allocation::Deterministic(_) => u32::MAX,
    }
}

fn pinhole(
    bindings: &Bindings,
    settings: &PcpSettings,
    wish: &Wish,
    external: Endpoint,
    grant: Grant,
    context: &Context<'_>,
) -> Result<Endpoint, Refused> {
    if !wish.takes(&external) {
        return Err(Refused::Another);
    }
    if !settings.ports.contains(external.port) {
        return Err(Refused::NotHere);
    }
    bindings.grant_pinhole(wish.inside, external, grant, context.now)?;
    Ok(external)
}

/// The translation that a mapping is made under: of an IPv6 host that asks for an IPv4 address one between the two, if
/// there is any.
fn translation<'a>(current: &'a Current, settings: &PcpSettings, wish: &Wish) -> Option<(u16, &'a NatRule)> {
    let Wish { inside, from, .. } = wish;
    let host = key::ip(&inside.address);
    let find = |across: bool| {
        let mut all = current.policy.nats.iter().zip(&current.nats);
        let found = all.find(|(nat, _)| {
            nat.prefix64.is_some() == across && nat.maps_in_general(ZoneId(*from), &settings.to, host, inside.protocol)
        });
        found.map(|(nat, identity)| (*identity, nat))
    };
    find(true).filter(|_| wish.across).or_else(|| find(false))
}

/// External addresses that a mapping may have, the best first.
fn external_addresses(
    settings: &PcpSettings,
    nat: &NatRule,
    wish: &Wish,
    context: &mut Context<'_>,
) -> Result<Vec<Address>, Refused> {
    let is_v4 = nat.prefix64.is_some() || key::ip(&wish.inside.address).is_ipv4();
    if let Allocation::Deterministic(_) = nat.pool.allocation {
        let (address, _) = lot_of(&nat.pool, &wish.inside.address)?.ok_or(Refused::NoRoom)?;
        return Ok(vec![address]);
    }
    let mut addresses = match &nat.translate_source {
        Some(SourceTranslation::Ranges(ranges)) => {
            let ranges: Vec<_> = ranges.iter().filter(|(first, _)| first.is_ipv4() == is_v4).collect();
            let mut addresses = pool::candidates(&ranges, number(&wish.inside.address));
            let offered =
                |address: &Address| ranges.iter().any(|(first, last)| (*first..=*last).contains(&key::ip(address)));
            addresses.extend(wish.address.filter(offered));
            addresses
        }
        _ => own_addresses(settings, nat, wish, is_v4, context),
    };
    if let Some(place) = wish.address.and_then(|wanted| addresses.iter().position(|address| *address == wanted)) {
        addresses.swap(0, place);
    }
    if addresses.is_empty() { Err(Refused::NoAddress) } else { Ok(addresses) }
}

/// The addresses that connections are masqueraded with that leave by interfaces which a translation leads to; that of
/// the default route first.
fn own_addresses(
    settings: &PcpSettings,
    nat: &NatRule,
    wish: &Wish,
    is_v4: bool,
    context: &mut Context<'_>,
) -> Vec<Address> {
    let anywhere = if is_v4 { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let default = context.default_route(is_v4);
    let leads = |zone: u16| settings.to.contains(ZoneId(zone)) && nat.to.contains(ZoneId(zone));
    let outputs = context.interfaces.iter().filter(|interface| interface.ifindex != 0 && leads(interface.zone));
    let mut outputs: Vec<u32> = outputs.map(|interface| interface.ifindex).collect();
    // As with connections: there is none by an address that may be inside as well.
    outputs
        .retain(|ifindex| nat.pool.overlap || !has_conflict(wish.from, &wish.inside.address, *ifindex, is_v4, context));
    outputs.sort_by_key(|ifindex| default.is_none_or(|(first, _)| first != *ifindex));
    let address = |ifindex: u32| {
        let towards = default.filter(|(first, hop)| *first == ifindex && hop.is_ipv4() == is_v4);
        let towards = towards.map_or(anywhere, |(_, hop)| hop);
        context.routing.source_towards(ifindex, towards).filter(|address| address.is_ipv4() == is_v4)
    };
    outputs.into_iter().filter_map(address).map(key::address).collect()
}

/// The external endpoint of a service that the policy publishes at an inside endpoint to hosts in some of these zones.
pub(crate) fn published(current: &Current, settings: &PcpSettings, inside: &Endpoint) -> Option<Endpoint> {
    settings.to.as_slice().iter().find_map(|zone| destination::published_as(current, inside, *zone))
}

/// Whether the policy in force lets a mapping be that a host in a zone has asked for.
pub(crate) fn stays(current: &Current, inside: &Endpoint, mapping: &Mapping, zone: Option<u16>) -> bool {
    let Some(settings) = &current.policy.pcp else { return false };
    // Whose way is not known at the moment stays.
    let served = zone.is_none_or(|zone| settings.serves(ZoneId(zone), key::ip(&inside.address)));
    let nat = nat_of(current, mapping.nat);
    let translated = mapping.nat == 0
        || nat.is_some_and(|nat| {
            let offers = match &nat.translate_source {
                Some(new @ SourceTranslation::Ranges(_)) => new.offers(key::ip(&mapping.external.address)),
                Some(SourceTranslation::Interface) => true,
                _ => false,
            };
            offers && nat.source.contains_address(key::ip(&inside.address))
        });
    served
        && translated
        && settings.source.contains_address(key::ip(&inside.address))
        && settings.ports.contains(mapping.external.port)
}

/// Whether mappings under a translation are at addresses of the box's own, which it may lose.
pub(crate) fn is_of_box(current: &Current, nat: u16) -> bool {
    nat != 0 && is_of_interface(current, nat)
}

/// Whether the policy in force lets hosts of a zone reach what a host in another one has asked for. Beside the zones that
/// it is asked for is the host's own: hairpinning (RFC 4787 REQ-9).
pub(crate) fn reaches(current: &Current, inside: &Address, from: u16, zone: Option<u16>) -> bool {
    let (Some(settings), Some(zone)) = (&current.policy.pcp, zone) else { return false };
    settings.serves(ZoneId(zone), key::ip(inside)) && (settings.to.contains(ZoneId(from)) || from == zone)
}

/// Whether an inside endpoint has connections by a binding that it has not asked for.
pub(crate) fn has_own(bindings: &Bindings, current: &Current, inside: &Endpoint) -> bool {
    bindings.has_own(inside, current.nats.iter().copied())
}
