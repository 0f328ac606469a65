//! The network around a replay, made up from the policy alone: see `flowhop replay --help`, which is the
//! specification of everything here.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowhop_engine::{Engine, FastPath, Interface, Io, PathReason};
use flowhop_flow::record::{PortKey, Tick, port_flags};
use flowhop_policy::{Action, Destination, ForwardingPath, Policy, Rule, address_key, key_address};
use flowhop_routing::{Event, InterfaceAddress, IpPrefix, Link, NeighbourState, Route, RouteKind, TABLE_LOCAL};

use crate::convert;
use crate::replay::ReplayError;

/// Interfaces that there are addresses for.
const MOST: usize = 250;
/// Sources that are remembered by the interface where they were first seen.
const SOURCES: usize = 1 << 20;

/// The network.
#[derive(Debug)]
pub struct Network {
    /// The port that packets come in through where nothing else says so.
    input: u8,
    /// The port that the default route leads out through.
    output: u8,
    /// Names and devices of the interfaces by port.
    names: Vec<(String, String)>,
    /// Where sources were first seen.
    sources: HashMap<IpAddr, u8>,
    /// First and last of the addresses that destinations are translated to, and the port that they are behind.
    servers: Vec<(IpAddr, IpAddr, u8)>,
}

impl Network {
    /// The network for a policy; `input` names an interface.
    ///
    /// # Errors
    /// When the policy has no interfaces, too many, or none of this name.
    pub fn new(policy: &Policy, input: Option<&str>) -> Result<Self, ReplayError> {
        let names: Vec<(String, String)> =
            policy.interfaces.iter().map(|interface| (interface.name.clone(), interface.device.clone())).collect();
        if names.is_empty() {
            return Err(ReplayError::NoInterface);
        }
        if names.len() > MOST {
            return Err(ReplayError::TooManyInterfaces(names.len()));
        }
        let input = match input {
            None => 0,
            Some(name) => names
                .iter()
                .position(|(known, _)| known == name)
                .ok_or_else(|| ReplayError::UnknownInterface(name.to_owned()))?,
        };
        let output = (0..names.len()).find(|port| *port != input).unwrap_or(input);
        let servers = servers(policy);
        Ok(Self { input: input as u8, output: output as u8, names, sources: HashMap::new(), servers })
    }

    /// Name of a port's interface.
    #[must_use]
    pub fn name(&self, port: u8) -> &str {
        self.names.get(usize::from(port)).map_or("", |(name, _)| name)
    }

    /// Tells the engine about interfaces, links, addresses, routes and neighbours.
    pub fn build(&self, policy: &Policy, engine: &mut Engine, now: Tick, io: &mut dyn Io) {
        for (port, interface) in policy.interfaces.iter().enumerate() {
            let port = port as u8;
            let (fast, reason) = fast_path(policy, interface.path);
            engine.interfaces_mut().set(Interface {
                name: interface.name.as_str().into(),
                device: interface.device.as_str().into(),
                port,
                ifindex: ifindex(port),
                mac: mac(port),
                lower: PortKey::of(ifindex(port)),
                partial_checksums: false,
                takes_frames: true,
                zone: interface.zone.0,
                fast,
                falls_back: true,
                reason,
                martians: convert::martians(interface.martians),
                reverse_path: convert::reverse_path(interface.rpf),
            });
            if let Some(record) = engine.table().regions().ports.get(usize::from(port)) {
                record.ifindex.store(ifindex(port));
                record.set_mac(mac(port));
                record.driver.store(if fast == FastPath::Driver { port_flags::DRIVER } else { 0 });
            }
            engine.routing_event(
                Event::LinkUpsert(Link::ethernet(ifindex(port), &interface.device, mac(port))),
                now,
                io,
            );
            for address in addresses(port) {
                let length = if address.is_ipv4() { 32 } else { 128 };
                let own = InterfaceAddress::global(ifindex(port), address, length);
                engine.routing_event(Event::AddressAdded(own), now, io);
                let local = Route {
                    kind: RouteKind::Local,
                    table: TABLE_LOCAL,
                    ..Route::unicast(IpPrefix::host(address), None, ifindex(port))
                };
                engine.routing_event(Event::RouteAdded(local), now, io);
            }
            for address in routers(port) {
                let state = NeighbourState::Resolved(router_mac(port));
                engine.routing_event(Event::NeighbourChanged { ifindex: ifindex(port), address, state }, now, io);
            }
        }
        let [v4, v6] = routers(self.output);
        for (prefix, router) in [(IpPrefix::ALL_V4, v4), (IpPrefix::ALL_V6, v6)] {
            let default = Route::unicast(prefix, Some(router), ifindex(self.output));
            engine.routing_event(Event::RouteAdded(default), now, io);
        }
        for (first, last, port) in &self.servers {
            for prefix in prefixes(*first, *last) {
                let route = Route::unicast(prefix, Some(router(*first, *port)), ifindex(*port));
                engine.routing_event(Event::RouteReplaced(route), now, io);
            }
        }
    }

    /// The port with the interface of this name, or device, or place in the order.
    #[must_use]
    pub fn port_of(&self, name: Option<&str>, place: usize) -> Option<u8> {
        let named =
            self.names.iter().position(|(known, device)| Some(known.as_str()) == name || Some(device.as_str()) == name);
        named.or((place < self.names.len()).then_some(place)).map(|port| port as u8)
    }

    /// The port that a packet of no known flow comes in through.
    #[must_use]
    pub fn guess(&self, source: Option<IpAddr>) -> u8 {
        let known = |source| self.sources.get(&source).copied().or_else(|| self.server(source));
        source.and_then(known).unwrap_or(self.input)
    }

    /// The port that an address is behind because destinations are translated to it.
    fn server(&self, address: IpAddr) -> Option<u8> {
        let mut all = self.servers.iter();
        let family = |first: &IpAddr| first.is_ipv4() == address.is_ipv4();
        all.find(|(first, last, _)| family(first) && *first <= address && address <= *last).map(|(.., port)| *port)
    }

    /// Notes where a source was seen, and has it reached there.
    pub fn learn(&mut self, source: IpAddr, port: u8, engine: &mut Engine, now: Tick, io: &mut dyn Io) {
        let usable = !source.is_unspecified() && !source.is_multicast() && !engine.routing().is_own(source);
        if !usable || self.sources.contains_key(&source) || self.sources.len() >= SOURCES {
            return;
        }
        self.sources.insert(source, port);
        if port != self.server(source).unwrap_or(self.output) {
            let route = Route::unicast(IpPrefix::host(source), Some(router(source, port)), ifindex(port));
            engine.routing_event(Event::RouteReplaced(route), now, io);
        }
    }
}

/// Where the addresses are that destinations are translated to: see `flowhop replay --help`.
fn servers(policy: &Policy) -> Vec<(IpAddr, IpAddr, u8)> {
    let translations = policy.nats.iter().filter_map(|nat| nat.translate_destination.as_ref());
    translations
        .map(|translation| (translation.inside.0, translation.inside.1, behind(policy, translation.inside.0)))
        .collect()
}

/// The interface that the first rule with this destination allows connections out through.
fn behind(policy: &Policy, address: IpAddr) -> u8 {
    let about = |rule: &&Rule| {
        rule.action == Action::Allow && !rule.destination.is_any() && rule.destination.contains_address(address)
    };
    let to = policy.rules.iter().find(about).map(|rule| &rule.to);
    let leads = |zone| to.is_none_or(|to| to.contains(Destination::Zone(zone)));
    policy.interfaces.iter().position(|interface| leads(interface.zone)).unwrap_or_default() as u8
}

/// The prefixes that hold these addresses and no others.
fn prefixes(first: IpAddr, last: IpAddr) -> Vec<IpPrefix> {
    let (mut next, last) = (address_key(first), address_key(last));
    let mut found = Vec::new();
    while next <= last {
        // The largest block that begins here and does not reach too far.
        let room = (last - next).saturating_add(1).ilog2();
        let bits = next.trailing_zeros().min(room);
        let width = if first.is_ipv4() { 32 } else { 128 };
        found.extend(IpPrefix::new(key_address(next), width - bits as u8));
        let Some(after) = next.checked_add(1 << bits) else { break };
        next = after;
    }
    found
}

/// The interface index of a port.
#[must_use]
pub const fn ifindex(port: u8) -> u32 {
    port as u32 + 1
}

/// The link-layer address of a port.
#[must_use]
pub const fn mac(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, port + 1]
}

const fn router_mac(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, port + 1]
}

/// The port's own addresses.
fn addresses(port: u8) -> [IpAddr; 2] {
    let number = u16::from(port) + 1;
    [Ipv4Addr::new(198, 51, 100, 254 - port).into(), Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, number).into()]
}

/// The router behind a port. Nobody sees its addresses.
fn routers(port: u8) -> [IpAddr; 2] {
    [Ipv4Addr::new(169, 254, port, 1).into(), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(port) + 1).into()]
}

fn router(family_of: IpAddr, port: u8) -> IpAddr {
    let [v4, v6] = routers(port);
    if family_of.is_ipv4() { v4 } else { v6 }
}

/// The path of flows that come in through an interface: `skb`, as on any virtual device, unless the policy says
/// otherwise.
fn fast_path(policy: &Policy, asked: Option<ForwardingPath>) -> (FastPath, PathReason) {
    match asked {
        Some(ForwardingPath::Driver) => (FastPath::Driver, PathReason::Interface),
        Some(ForwardingPath::Skb) => (FastPath::Skb, PathReason::Interface),
        Some(ForwardingPath::User) => (FastPath::None, PathReason::Interface),
        None if policy.paths.allows(ForwardingPath::Skb) => (FastPath::Skb, PathReason::Default),
        None if policy.paths.allows(ForwardingPath::Driver) => (FastPath::Driver, PathReason::NotAllowed),
        None => (FastPath::None, PathReason::NotAllowed),
    }
}
