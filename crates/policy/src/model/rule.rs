//! Rules and translations, resolved: nothing on the match path is a string.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::address::{AddressSet, address_key, key_address};
use super::pool::PortPool;
use super::prefix::PrefixPair;
use super::prefix64::Prefix64;
use super::service::{PortSet, ServiceSet, TCP, UDP};
use super::zone::{Destination, RuleTarget, ZoneId, ZoneMatch};

/// What of a new connection the rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewConnection {
    /// The zone that it came in from.
    pub from: ZoneId,
    /// Where routing sends it.
    pub to: Destination,
    /// Key of the source (see [`address_key`](crate::address_key)). Rules see it before translation.
    pub source: u128,
    /// Key of the destination. Rules see it after translation.
    pub destination: u128,
    /// Protocol number.
    pub protocol: u8,
    /// Source port, 0 where there is none.
    pub source_port: u16,
    /// Destination port, 0 where there is none.
    pub destination_port: u16,
    /// Type of ICMP or ICMPv6, 0 for other protocols.
    pub icmp_type: u8,
}

/// What happens to a new connection that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It passes, with its replies and the errors about it.
    Allow,
    /// It vanishes.
    Drop,
    /// It is answered with an error: a reset for TCP, an ICMP error otherwise.
    Reject,
}

impl Action {
    /// As the file spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Drop => "drop",
            Self::Reject => "reject",
        }
    }
}

/// So many new connections in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// New connections, at least 1.
    pub count: u32,
    /// In this time.
    pub per: Duration,
}

/// What the largest segment that a SYN announces is brought down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MssClamp {
    /// What fits the MTU of both outputs.
    Path,
    /// So many bytes.
    Bytes(u16),
}

/// A protocol whose payload announces connections to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Helper {
    /// File transfer (RFC 959, RFC 2428).
    Ftp,
    /// Trivial file transfer (RFC 1350).
    Tftp,
    /// Session initiation over UDP (RFC 3261), with RTP (RFC 3550).
    Sip,
}

impl Helper {
    /// As the file spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ftp => "ftp",
            Self::Tftp => "tftp",
            Self::Sip => "sip",
        }
    }

    /// Number of the protocol that it is spoken over.
    #[must_use]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Ftp => TCP,
            Self::Tftp | Self::Sip => UDP,
        }
    }
}

/// One `[[rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique among the rules; the identity of the rule across reloads.
    pub name: String,
    /// Zones that a connection comes in from.
    pub from: ZoneMatch,
    /// Where it goes.
    pub to: RuleTarget,
    /// Sources, before translation.
    pub source: AddressSet,
    /// Destinations, after translation.
    pub destination: AddressSet,
    /// Protocols, ports and types; includes the restriction by `source_port`.
    pub service: ServiceSet,
    /// Source ports, for display.
    pub source_port: PortSet,
    /// What happens.
    pub action: Action,
    /// Whether a match is logged.
    pub log: bool,
    /// Of the new connections that it allows, those beyond this rate are dropped (`rule_limit`); no later rule is asked.
    /// Means nothing beside another action.
    pub limit: Option<RateLimit>,
    /// The same for the new connections of each source (`source_limit`); an IPv6 source is a prefix of 64 bits.
    pub source_limit: Option<RateLimit>,
    /// A new connection that it allows is dropped (`source_limit`) when its source has so many already, by whatever rule.
    pub source_connections: Option<u32>,
    /// `false`: packets of its connections stay on the `user` path.
    pub accelerate: bool,
    /// Takes up TCP connections that are running already when their first packet comes, with no more than a guess at their
    /// windows.
    pub take_up: bool,
    /// What its TCP connections may announce as their largest segment.
    pub mss_clamp: Option<MssClamp>,
    /// What looks at the payload of its connections, to let those in that they announce.
    pub helper: Option<Helper>,
    /// The file that it stands in.
    pub file: Arc<str>,
    /// The line that it begins on, from 1.
    pub line: u32,
}

impl Rule {
    /// Whether the rule is about this connection. `limit` is the caller's business.
    #[must_use]
    pub fn matches(&self, connection: &NewConnection) -> bool {
        let c = connection;
        self.from.contains(c.from)
            && self.to.contains(c.to)
            && self.service.matches(c.protocol, c.source_port, c.destination_port, c.icmp_type)
            && self.destination.contains(c.destination)
            && self.source.contains(c.source)
    }
}

/// The family that a translation is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Whether the address is of this family.
    #[must_use]
    pub fn holds(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::Ipv4)
    }

    /// As the file spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// When SYNs to a published service are answered with cookies (RFC 4987 section 3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SynCookies {
    /// While half-open connections press.
    Auto,
    /// Always.
    Always,
    /// Never.
    Off,
}

/// What a mapping, or a filter, depends on: the terms of RFC 4787 sections 4.1 and 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dependence {
    /// On nothing but the inside endpoint.
    EndpointIndependent,
    /// Also on the outside address.
    AddressDependent,
    /// Also on the outside address and port.
    AddressAndPortDependent,
}

impl Dependence {
    /// As the file spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

/// What a source becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceTranslation {
    /// The address of the interface that the packet leaves by.
    Interface,
    /// One of these addresses: inclusive ranges, sorted, disjoint, all of the family of the translation.
    Ranges(Vec<(IpAddr, IpAddr)>),
    /// Of equally many addresses the one in the same place; ports stay.
    OneToOne {
        /// First and last source.
        inside: (IpAddr, IpAddr),
        /// First and last of what they become.
        external: (IpAddr, IpAddr),
    },
    /// The one with another prefix; ports stay.
    Prefix(PrefixPair),
}

impl SourceTranslation {
    /// Whether it may give a source this address. Own addresses of interfaces are not known here.
    #[must_use]
    pub fn offers(&self, address: IpAddr) -> bool {
        let holds = |(first, last): &(IpAddr, IpAddr)| {
            (address_key(*first)..=address_key(*last)).contains(&address_key(address))
        };
        match self {
            Self::Interface => false,
            Self::Ranges(ranges) => ranges.iter().any(holds),
            Self::OneToOne { external, .. } => holds(external),
            Self::Prefix(pair) => {
                let (first, last) = pair.external_range();
                holds(&(first.into(), last.into()))
            }
        }
    }

    /// Whether each source has an address of its own, and keeps its ports.
    #[must_use]
    pub const fn is_fixed(&self) -> bool {
        matches!(self, Self::OneToOne { .. } | Self::Prefix(_))
    }

    /// The key of that address, if the source has one.
    #[must_use]
    pub fn fixed(&self, source: u128) -> Option<u128> {
        match self {
            Self::Interface | Self::Ranges(_) => None,
            Self::OneToOne { inside, external } => {
                let address = address_key(external.0).checked_add(source.checked_sub(address_key(inside.0))?)?;
                (address <= address_key(external.1)).then_some(address)
            }
            Self::Prefix(pair) => pair.external_of(source),
        }
    }
}

/// New connections to some addresses, and where they go instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationTranslation {
    /// The family that it translates.
    pub family: Family,
    /// Zones that a connection comes in from.
    pub from: ZoneMatch,
    /// Sources.
    pub source: AddressSet,
    /// Destinations as received.
    pub external: AddressSet,
    /// Protocols, ports and types as received.
    pub service: ServiceSet,
    /// First and last of the addresses that they become.
    pub inside: (IpAddr, IpAddr),
    /// The port that they become; `None`: it stays.
    pub port: Option<u16>,
    /// Each becomes the one with another prefix.
    pub prefix: Option<PrefixPair>,
}

impl DestinationTranslation {
    /// Addresses and TCP ports of one translation whose SYNs may be answered with cookies.
    pub const MOST_ENDPOINTS: u128 = 1024;

    /// How many pairs of an address and a TCP port it takes connections of; whole addresses count with all their ports.
    #[must_use]
    pub fn tcp_endpoints(&self) -> u128 {
        let ports = self.service.ports(TCP);
        let ports: u128 = ports.ranges().iter().map(|(first, last)| u128::from(last - first) + 1).sum();
        let sizes = self.external.ranges().iter().map(|(first, last)| last - first);
        sizes.fold(0u128, |sum, size| sum.saturating_add(size).saturating_add(1)).saturating_mul(ports)
    }

    /// Whether the translation is about this connection, described as received. Where it goes is not looked at: that
    /// follows from the translation.
    #[must_use]
    pub fn matches(&self, connection: &NewConnection) -> bool {
        let c = connection;
        self.family.holds(key_address(c.destination))
            && self.external.contains(c.destination)
            && self.service.matches(c.protocol, c.source_port, c.destination_port, c.icmp_type)
            && self.from.contains(c.from)
            && self.source.contains(c.source)
    }

    /// Number of addresses that destinations may become.
    #[must_use]
    pub fn members(&self) -> u128 {
        address_key(self.inside.1).saturating_sub(address_key(self.inside.0)).saturating_add(1)
    }

    /// The key of the address in a certain place.
    #[must_use]
    pub fn member(&self, place: u128) -> u128 {
        address_key(self.inside.0).saturating_add(place.min(self.members() - 1))
    }

    /// The place of an external address, if each has a member of its own.
    #[must_use]
    pub fn place_of(&self, external: u128) -> Option<u128> {
        match self.external.ranges() {
            [(first, last)] if last - first == self.members() - 1 => external.checked_sub(*first),
            _ => None,
        }
    }
}

/// One `[[nat]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatRule {
    /// Unique among the translations.
    pub name: String,
    /// Zones that a connection comes in from.
    pub from: ZoneMatch,
    /// Zones that it goes out to.
    pub to: ZoneMatch,
    /// Sources, before translation.
    pub source: AddressSet,
    /// Destinations.
    pub destination: AddressSet,
    /// Protocols, ports and types.
    pub service: ServiceSet,
    /// What the source becomes.
    pub translate_source: Option<SourceTranslation>,
    /// What the destination becomes, and of which connections.
    pub translate_destination: Option<DestinationTranslation>,
    /// Whether another destination gives the same source another port.
    pub mapping: Dependence,
    /// Who may send to a mapping from outside.
    pub filtering: Dependence,
    /// Whether whoever sends a SYN to a mapping without being admitted is told, in time, that nobody is there.
    pub answers_unsolicited: bool,
    /// How its external ports are shared out.
    pub pool: PortPool,
    /// Whether its mappings, or blocks of ports, are logged.
    pub log: bool,
    /// What its TCP connections may announce as their largest segment.
    pub mss_clamp: Option<MssClamp>,
    /// When SYNs to what it publishes are answered with cookies.
    pub syn_cookies: SynCookies,
    /// The family of the sources that it translates.
    pub family: Family,
    /// Stateful NAT64 (RFC 6146): it is about destinations behind this prefix, which become the IPv4 addresses that they
    /// stand for; `destination` is about these.
    pub prefix64: Option<Prefix64>,
    /// The file that it stands in.
    pub file: Arc<str>,
    /// The line that it begins on, from 1.
    pub line: u32,
}

impl NatRule {
    /// Whether the source translation is about this connection, its family included. The destination is that after
    /// translation.
    #[must_use]
    pub fn matches(&self, connection: &NewConnection) -> bool {
        let Destination::Zone(to) = connection.to else { return false };
        self.to.contains(to) && self.matches_anywhere(connection)
    }

    /// The same wherever the connection goes out to.
    #[must_use]
    pub fn matches_anywhere(&self, connection: &NewConnection) -> bool {
        let c = connection;
        self.from.contains(c.from)
            && self.family.holds(key_address(c.source))
            && self.service.matches(c.protocol, c.source_port, c.destination_port, c.icmp_type)
            && self.destination.contains(c.destination)
            && self.source.contains(c.source)
    }

    /// Whether its source translation is for those connections alone whose destination it translates.
    #[must_use]
    pub fn is_twofold(&self) -> bool {
        self.translate_source.is_some() && self.translate_destination.is_some() && !self.is_fixed()
    }

    /// Whether it translates addresses to equally many others, in both directions.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.translate_source.as_ref().is_some_and(SourceTranslation::is_fixed)
    }
}
