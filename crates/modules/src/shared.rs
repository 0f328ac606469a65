//! The policy in force, as all modules see it.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use flowhop_engine::{MAX_NAT, MssClamp};
use flowhop_flow::Key;
use flowhop_flow::key::{self, Address, port};
use flowhop_policy::{Destination, NatRule, NewConnection, Policy, Prefix64, ZoneId};
use flowhop_wire::protocol;

use crate::names::Names;
use crate::nat::Published;
use crate::nat::port_set::{self, Words};

/// A policy with the numbers of its rules and translations.
#[derive(Clone, Debug, Default)]
pub struct Current {
    /// The policy.
    pub policy: Policy,
    /// Identity of each rule, by its place in the policy.
    pub rules: Vec<u16>,
    /// Identity of each translation, by its place in the policy; 0 for one that no record could name.
    pub nats: Vec<u16>,
    /// Identity that connections to mappings which hosts have asked for have in a rule's place; 0 = nobody may ask.
    pub pcp: u16,
    /// What its destination translations take.
    pub published: Published,
    /// The prefixes of all translations between IPv6 and IPv4 that identities are known of, those of earlier policies
    /// included: connections outlive their translation by a moment.
    pub prefixes: HashMap<u16, Prefix64>,
}

/// Ports of the box's own addresses that its own sockets use: translations keep away from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Where the kernel takes the ports of the box's own connections from.
    pub ephemeral: RangeInclusive<u16>,
    /// Ports and echo identifiers that translations may use on own addresses at all.
    pub within: RangeInclusive<u16>,
    /// Protocol and port that a socket of the box is bound to.
    pub bound: HashSet<(u8, u16)>,
}

impl Default for Reserved {
    /// The kernel's own default range, and nothing bound.
    fn default() -> Self {
        Self { ephemeral: 32768..=60999, within: 1024..=u16::MAX, bound: HashSet::new() }
    }
}

/// The same as sets of ports that mappings must not have on own addresses.
#[derive(Debug)]
pub(crate) struct Closed {
    /// Of TCP and of UDP.
    ports: [(u8, Box<Words>); 2],
    echo: Box<Words>,
}

impl Closed {
    fn of(reserved: &Reserved) -> Self {
        let (first, last) = (*reserved.within.start(), *reserved.within.end());
        let mut echo = port_set::none();
        if first > 0 {
            port_set::add(&mut echo, (0, first - 1));
        }
        if last < u16::MAX {
            port_set::add(&mut echo, (last + 1, u16::MAX));
        }
        let ports = [protocol::TCP, protocol::UDP].map(|protocol| {
            let mut words = echo.clone();
            port_set::add(&mut words, (*reserved.ephemeral.start(), *reserved.ephemeral.end()));
            for (_, port) in reserved.bound.iter().filter(|(of, _)| *of == protocol) {
                port_set::add(&mut words, (*port, *port));
            }
            (protocol, words)
        });
        Self { ports, echo }
    }

    /// Those of a protocol, or the identifiers of echo.
    pub(crate) fn words(&self, protocol: u8) -> &Words {
        let ports = self.ports.iter().find(|(of, _)| *of == protocol);
        ports.map_or(&self.echo, |(_, closed)| closed)
    }
}

impl Default for Closed {
    fn default() -> Self {
        Self::of(&Reserved::default())
    }
}

/// The policy in force, replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    current: Arc<Mutex<Arc<Current>>>,
    reserved: Arc<Mutex<Arc<Reserved>>>,
    closed: Arc<Mutex<Arc<Closed>>>,
}

impl Shared {
    /// A policy, with numbers for its rules and translations.
    #[must_use]
    pub fn new(policy: Policy, rules: &mut Names, nats: &mut Names) -> Self {
        let shared = Self::default();
        shared.replace(policy, rules, nats);
        shared
    }

    /// Puts another policy in force.
    pub fn replace(&self, policy: Policy, rules: &mut Names, nats: &mut Names) {
        let current = Current {
            rules: policy.rules.iter().map(|rule| rules.number(&rule.name)).collect(),
            nats: policy.nats.iter().map(|nat| nat_number(nats, nat)).collect(),
            // A rule may have the same name.
            pcp: policy.pcp.as_ref().map_or(0, |_| rules.number_of_kind("pcp", "pcp")),
            published: Published::of(&policy),
            prefixes: nats.kinds().filter_map(|(number, kind)| Some((number, kind.parse().ok()?))).collect(),
            policy,
        };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }

    /// The policy in force.
    #[must_use]
    pub fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes the ports that the box itself uses.
    pub fn set_reserved(&self, reserved: Reserved) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Closed::of(&reserved));
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(reserved);
    }

    /// The ports of own addresses that mappings must not have.
    pub(crate) fn closed(&self) -> Arc<Closed> {
        Arc::clone(&self.closed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The ports that the box itself uses.
    #[must_use]
    pub fn reserved(&self) -> Arc<Reserved> {
        Arc::clone(&self.reserved.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The identity of a translation. Records have 15 bits for it. One that takes no ports is never taken for one that does:
/// connections hold a share of a mapping under the latter alone. One between IPv6 and IPv4 is another one with another
/// prefix, which says what its connections' addresses stand for.
fn nat_number(nats: &mut Names, nat: &NatRule) -> u16 {
    let number = match nat.prefix64 {
        Some(prefix) => nats.number_of_kind(&nat.name, &prefix.to_string()),
        None if nat.is_fixed() => nats.number_of_kind(&nat.name, "fixed"),
        None => nats.number(&nat.name),
    };
    if number <= MAX_NAT { number } else { 0 }
}

/// How SYNs are clamped, in the engine's words.
pub(crate) const fn clamp(clamp: flowhop_policy::MssClamp) -> MssClamp {
    match clamp {
        flowhop_policy::MssClamp::Path => MssClamp::Path,
        flowhop_policy::MssClamp::Bytes(bytes) => MssClamp::Bytes(bytes),
    }
}

/// An address as the policy's sets hold it.
pub(crate) const fn number(address: &Address) -> u128 {
    u128::from_be_bytes(key::bytes(address))
}

/// A connection as rules see it: source before, destination after translation.
pub(crate) fn connection(key: &Key, destination: &Address, ports: u32, from: u16, to: Destination) -> NewConnection {
    let echo = matches!(key.protocol(), protocol::ICMP | protocol::ICMPV6);
    NewConnection {
        from: ZoneId(from),
        to,
        source: number(&key.source),
        destination: number(destination),
        protocol: key.protocol(),
        source_port: if echo { 0 } else { key.source_port() },
        destination_port: if echo { 0 } else { port(ports, 2) },
        icmp_type: if echo { key.ports.to_ne_bytes()[2] } else { 0 },
    }
}
