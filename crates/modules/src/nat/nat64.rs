//! Translation between IPv6 and IPv4 (stateful NAT64, RFC 6146): which translation is about a connection, and the addresses
//! that stand for each other under it (RFC 6052).
//!
//! The IPv6 source is mapped to an external IPv4 endpoint as any other source is, by the same bindings, filters and limits.
//! Mappings are named by what is seen of them on the IPv4 side: those of echo have the protocol ICMP.

use flowhop_engine::module::SessionView;
use flowhop_flow::key::{self, Address};
use flowhop_flow::{Key, Reason};
use flowhop_policy::{Destination, NatRule, Prefix64, ZoneId};
use flowhop_wire::protocol;

use super::{is_echo, nat_of};
use crate::shared::{Current, connection};

/// Where a connection to an address behind a prefix goes.
pub(super) struct Crossing<'a> {
    /// Identity of the translation; 0 = none that a record could name.
    pub(super) identity: u16,
    pub(super) nat: &'a NatRule,
    /// The IPv4 destination.
    pub(super) destination: Address,
}

/// The first translation that is about a new connection, by its key as received. `to`: the zone that an IPv4 destination
/// is in, if it is in any.
pub(super) fn crossing<'a>(
    current: &'a Current,
    key: &Key,
    from: u16,
    mut to: impl FnMut(&Address) -> Option<u16>,
) -> Option<Crossing<'a>> {
    if key.family() != 6 {
        return None;
    }
    let std::net::IpAddr::V6(address) = key::ip(&key.destination) else { return None };
    current.policy.nats.iter().zip(&current.nats).find_map(|(nat, identity)| {
        let destination = key::address(nat.prefix64?.extract(address)?.into());
        let crossing = Crossing { identity: *identity, nat, destination };
        let connection = connection(key, &destination, key.ports, from, Destination::SelfBox);
        // What must not be carried goes nowhere, wherever that would be.
        let leads = |to: Option<u16>| to.is_none_or(|to| nat.to.contains(ZoneId(to)));
        let is_about = nat.matches_anywhere(&connection) && (!crossing.carries() || leads(to(&destination)));
        is_about.then_some(crossing)
    })
}

/// Whether a source is behind a prefix of the policy. Nobody but this box sends from there; it would be translated in a
/// circle (RFC 6146 section 3.5).
pub(super) fn embeds(current: &Current, source: &Address) -> bool {
    let std::net::IpAddr::V6(source) = key::ip(source) else { return false };
    current.policy.nats.iter().filter_map(|nat| nat.prefix64).any(|prefix| prefix.contains(source))
}

impl Crossing<'_> {
    /// Whether the prefix may stand in front of the destination.
    fn carries(&self) -> bool {
        let std::net::IpAddr::V4(address) = key::ip(&self.destination) else { return false };
        self.nat.prefix64.is_some_and(|prefix| prefix.may_carry(address))
    }

    /// Why the connection cannot be made.
    pub(super) fn refusal(&self, key: &Key) -> Option<Reason> {
        let has_ports = matches!(key.protocol(), protocol::TCP | protocol::UDP) || is_echo(key.protocol());
        if !self.carries() {
            // RFC 6052 section 3.1.
            Some(Reason::MartianDestination)
        } else if self.identity == 0 || !has_ports {
            Some(Reason::NatUnsupported)
        } else {
            None
        }
    }
}

/// The IPv6 address that stands for an IPv4 one under a translation; none if it is not between the two.
pub(super) fn embed(current: &Current, identity: u16, address: &Address) -> Option<Address> {
    let std::net::IpAddr::V4(address) = key::ip(address) else { return None };
    Some(key::address(current.prefixes.get(&identity)?.embed(address).into()))
}

/// The IPv4 address that an IPv6 one stands for under one of two translations, else the address as it is.
pub(super) fn plain(current: &Current, identities: [u16; 2], address: &Address) -> Address {
    let std::net::IpAddr::V6(v6) = key::ip(address) else { return *address };
    let mut prefixes = identities.into_iter().filter_map(|identity| current.prefixes.get(&identity));
    prefixes.find_map(|prefix: &Prefix64| prefix.extract(v6)).map_or(*address, |v4| key::address(v4.into()))
}

/// The same of a connection's addresses.
pub(super) fn plain_of(current: &Current, session: &SessionView, address: &Address) -> Address {
    plain(current, [session.nat, session.destination_nat], address)
}

/// The protocol that a mapping of a source has under a translation.
pub(super) fn mapped_protocol(current: &Current, identity: u16, protocol: u8) -> u8 {
    if protocol == protocol::ICMPV6 && current.prefixes.contains_key(&identity) { protocol::ICMP } else { protocol }
}

/// Whether a translation in force is between IPv6 and IPv4.
pub(super) fn is_between(current: &Current, identity: u16) -> bool {
    nat_of(current, identity).is_some_and(|nat| nat.prefix64.is_some())
}
