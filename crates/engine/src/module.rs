//! Extension modules of the slow path: what is decided about a connection.
//!
//! A module is asked once for each new connection, in an order that follows from `runs_after`; it never sees
//! other modules. The engine itself is the step named [`ROUTE`]: modules before it may change the destination,
//! modules after it know the output interface.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use flowhop_flow::Key;
use flowhop_flow::key::{self, Address};
use flowhop_flow::parse::Transport;
use flowhop_flow::reason::Reason;
use flowhop_flow::record::Tick;
use flowhop_routing::{Resolution, Routing};
use rand_chacha::ChaCha8Rng;

use crate::interfaces::Interfaces;
use crate::mss::MssClamp;
use crate::sources::Sources;

/// Highest identity of a translation: records have 15 bits for that of the destination's.
pub const MAX_NAT: u16 = 0x7fff;
/// Name of the engine's own step that chooses the output.
pub const ROUTE: &str = "route";

/// What a module says to a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on with the next module.
    Continue,
    /// Drop the packet silently.
    Drop(Reason),
    /// Drop it; of a SYN the sender is told that nobody is there, but not before the inside end has had time to open the
    /// same connection (RFC 5382 REQ-4).
    DropLater(Reason),
    /// Drop it and tell the sender (TCP reset, else ICMP administratively prohibited).
    Reject(Reason),
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// Output port.
    pub port: u8,
    /// Zone of the output.
    pub zone: u16,
    /// Output interface.
    pub ifindex: u32,
    /// Next router, or the destination.
    pub next_hop: std::net::IpAddr,
    /// Adjacency number.
    pub adjacency: u16,
    /// Adjacency generation.
    pub generation: u16,
}

/// What is known of a new connection because another one has announced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Related {
    /// Serial number of the connection that has.
    pub parent: u32,
    /// Zone that it has to come from.
    pub from: u16,
    /// Zone that it has to go to.
    pub to: u16,
    /// Address that its source becomes, and identity of the translation that says so; `None`: it stays.
    pub source: Option<(u16, Address)>,
}

/// A text in payload that is to be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Where it begins, in bytes from the start of the payload that was shown.
    pub at: usize,
    /// Bytes that it has, at least one.
    pub old: usize,
    /// What takes its place.
    pub new: Vec<u8>,
}

/// What becomes of payload that a module was shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// Texts that are replaced, in their order.
    pub replacements: Vec<Replacement>,
    /// A connection is expected that was not before.
    pub announced: bool,
    /// Something was announced that is not acted on: it is forwarded as it is.
    pub declined: bool,
    /// What was shown decided what passes: until it is acknowledged it may be repeated, but nothing else may be said in its
    /// place. Only of streams (TCP).
    pub binding: bool,
}

/// A UDP datagram to an own address at which a module gives a service.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Its key as received.
    pub key: Key,
    /// Zone that it came in from.
    pub from: u16,
    /// What is in it.
    pub payload: &'a [u8],
}

/// What a module makes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is answered with this payload, from where it was sent to, and counted by the reason.
    Answer(Reason, Vec<u8>),
    /// It is dropped.
    Silence(Reason),
}

/// A UDP datagram that a module has the box send by itself, to all hosts of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Port of the box that it leaves through.
    pub port: u8,
    /// An own address there.
    pub source: SocketAddr,
    /// A multicast address.
    pub destination: SocketAddr,
    /// What is in it.
    pub payload: Vec<u8>,
}

/// A connection being made.
#[derive(Clone, Copy, Debug)]
pub struct NewSession {
    /// Key of its first packet as received.
    pub key: Key,
    /// Port it came in through.
    pub ingress: u8,
    /// Zone of that port.
    pub from: u16,
    /// Source as it will be sent.
    pub source: Address,
    /// Destination as it will be sent.
    pub destination: Address,
    /// Ports word as it will be sent.
    pub ports: u32,
    /// Output, known after [`ROUTE`].
    pub via: Option<Via>,
    /// Persistent identity of the rule that allowed it; 0 = none yet.
    pub rule: u16,
    /// Persistent identity of the translation of its source; 0 = none.
    pub nat: u16,
    /// Persistent identity of the translation that changed its destination, at most [`MAX_NAT`]; 0 = none.
    pub destination_nat: u16,
    /// May take a kernel path.
    pub accelerate: bool,
    /// Its first segment is of a TCP connection that is running already; only who takes such up goes on with it.
    pub running: bool,
    /// Its client was answered with a cookie.
    pub proxied: bool,
    /// Its rule asks for a log line.
    pub log: bool,
    /// Its destination is a mapping of a source translation with open filtering, so that rules are not asked.
    pub admitted: bool,
    /// Another connection has announced it: it has that one's rule and translations, none is looked for.
    pub related: Option<Related>,
    /// `class | queue << 8 | meter << 16`.
    pub service: u32,
}

/// What modules may look at and use.
pub struct Context<'a> {
    /// Routes, links, addresses.
    pub routing: &'a mut Routing,
    /// Interfaces of policy.
    pub interfaces: &'a Interfaces,
    /// Random numbers that peers cannot predict.
    pub random: &'a mut ChaCha8Rng,
    /// How many connections each source has.
    pub sources: &'a Sources,
    /// The time.
    pub now: Tick,
}

impl Context<'_> {
    /// The interface index and the next hop of the default route of a family; `None` if there is none.
    pub fn default_route(&mut self, is_v4: bool) -> Option<(u32, std::net::IpAddr)> {
        let anywhere = if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        match self.routing.lookup(anywhere, 0) {
            Resolution::Via { ifindex, next_hop, .. } => Some((ifindex, next_hop)),
            _ => None,
        }
    }

    /// The zone that packets to an address leave through; `None` if they go nowhere.
    pub fn zone_towards(&mut self, address: &Address) -> Option<u16> {
        match self.routing.lookup(key::ip(address), 0) {
            Resolution::Via { ifindex, .. } => self.interfaces.ifindex(ifindex).map(|interface| interface.zone),
            _ => None,
        }
    }
}

/// A connection that exists: both keys and what it was made under.
#[derive(Clone, Copy, Debug)]
pub struct SessionView {
    /// Its serial number.
    pub serial: u32,
    /// Serial number of the connection that has announced it; 0 = none.
    pub parent: u32,
    /// Key of Forward and of Reverse.
    pub keys: [Key; 2],
    /// Input port of Forward and of Reverse (the output of Forward).
    pub ports: [u8; 2],
    /// Rule identity.
    pub rule: u16,
    /// Identity of the source translation; 0 = none.
    pub nat: u16,
    /// Identity of the translation that changed the destination; 0 = none.
    pub destination_nat: u16,
    /// The destination was a mapping of a source translation.
    pub inbound: bool,
    /// Packets have come back; not known of one that has ended.
    pub answered: bool,
}

/// How a connection goes on under another policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Rule identity to note.
    pub rule: u16,
    /// May take a kernel path; every module has to agree.
    pub accelerate: bool,
}

impl Kept {
    /// As far as one module is concerned, nothing changes.
    #[must_use]
    pub const fn as_it_is(session: &SessionView) -> Self {
        Self { rule: session.rule, accelerate: true }
    }
}

/// An extension module.
pub trait Module: Send {
    /// Its name, unique.
    fn name(&self) -> &'static str;

    /// Modules (or [`ROUTE`]) that must have been asked before.
    fn runs_after(&self) -> &'static [&'static str] {
        &[]
    }

    /// Judges a new connection and adds to it.
    fn open(&mut self, session: &mut NewSession, context: &mut Context<'_>) -> Step;

    /// The connection was not made after all: gives back what `open` took.
    fn abandon(&mut self, _session: &NewSession, _now: Tick) {}

    /// The connection has ended and nothing refers to it any more.
    fn closed(&mut self, _session: &SessionView, _now: Tick) {}

    /// A connection that an earlier process made is taken over. `false`: this module cannot have it go on.
    fn adopt(&mut self, _session: &SessionView) -> bool {
        true
    }

    /// Whether the connection may go on under the policy as it is now, and how; `None` ends it.
    fn revalidate(&mut self, session: &SessionView, _interfaces: &Interfaces) -> Option<Kept> {
        Some(Kept::as_it_is(session))
    }

    /// Whether the connection is translated by this module to or from one of these addresses, which the box no longer
    /// has, and cannot go on without it.
    fn ends_with(&self, _session: &SessionView, _gone: &HashSet<Address>) -> bool {
        false
    }

    /// How SYNs of a connection are clamped that was made under this rule and translation (identities; 0 = none).
    fn mss(&self, _rule: u16, _nat: u16) -> Option<MssClamp> {
        None
    }

    /// What of this module looks at the payload of connections under a rule, if anything does.
    fn helper(&self, _rule: u16) -> Option<&'static str> {
        None
    }

    /// The payload of a connection is shown from now on. `running`: what came before was not.
    fn payload_begins(&mut self, _session: &SessionView, _running: bool) {}

    /// Looks at payload of one direction (0 Forward, 1 Reverse) of a connection whose rule has a helper: of a stream at
    /// what follows what was shown before, of other protocols at a whole packet's.
    ///
    /// # Errors
    /// The reason to drop it with; it counts as not shown.
    fn payload(
        &mut self,
        _session: &SessionView,
        _direction: usize,
        _payload: &[u8],
        _context: &mut Context<'_>,
    ) -> Result<Payload, Reason> {
        Ok(Payload::default())
    }

    /// Regular work, about every 10 ms.
    fn maintain(&mut self, _now: Tick) {}

    /// Regular work after that, of a module that gives a service; what it has to tell without being asked.
    fn announce(&mut self, _context: &mut Context<'_>) -> Vec<Announcement> {
        Vec::new()
    }

    /// Whether UDP datagrams with this key, to an own address and from a zone, are for a service of this module.
    fn serves(&self, _key: &Key, _from: u16, _context: &Context<'_>) -> bool {
        false
    }

    /// Answers a datagram that it [`serves`](Self::serves). Its source is known to come in where it should.
    fn answer(&mut self, _query: &Query<'_>, _context: &mut Context<'_>) -> Option<Reply> {
        None
    }

    /// The IPv6 address that stands for an IPv4 one under a translation (identity) between the two (RFC 6052).
    fn embedded(&self, _nat: u16, _address: Ipv4Addr) -> Option<Ipv6Addr> {
        None
    }

    /// Whether an address stands for an IPv4 one under a translation: nobody else sends from there.
    fn embeds(&self, _source: &Address) -> bool {
        false
    }

    /// Whether a new connection with this key, from a zone, would leave as one of the other family.
    fn changes_family(&self, _key: &Key, _from: u16, _context: &mut Context<'_>) -> bool {
        false
    }

    /// How many rules [`revalidate`](Self::revalidate) may have to look at: what bounds how long it takes.
    fn rules(&self) -> usize {
        0
    }

    /// Judges a packet to the box itself that belongs to no connection of flowhop's.
    fn local(&mut self, _key: &Key, _transport: &Transport, _from: u16) -> Step {
        Step::Continue
    }

    /// Whether this module may take up a TCP connection that is running already.
    fn takes_up(&self) -> bool {
        false
    }

    /// Whether a packet to an own address that no flow knows, from a zone, belongs to this module rather than to the
    /// box.
    fn claims(&self, _key: &Key, _from: u16) -> bool {
        false
    }
}

/// Orders modules by their `runs_after`; the place of `None` is the engine's [`ROUTE`] step.
///
/// # Errors
/// Names a module that is waited for in a circle or does not exist.
pub fn order(modules: &[Box<dyn Module>]) -> Result<Vec<Option<usize>>, String> {
    let exists = |name: &str| name == ROUTE || modules.iter().any(|module| module.name() == name);
    for module in modules {
        if let Some(missing) = module.runs_after().iter().find(|name| !exists(name)) {
            return Err(format!("module {} runs after {missing}, which does not exist", module.name()));
        }
    }
    let mut placed: Vec<Option<usize>> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    while placed.len() < modules.len() + 1 {
        let ready = |place: &Option<usize>| match place {
            Some(index) => modules[*index].runs_after().iter().all(|name| names.contains(name)),
            // The route step waits for every module that does not, directly or not, wait for it.
            None => (0..modules.len())
                .all(|index| names.contains(&modules[index].name()) || follows_route(modules, index, 0)),
        };
        let candidates = std::iter::once(None).chain((0..modules.len()).map(Some));
        let next =
            candidates.filter(|place| !names.contains(&place.map_or(ROUTE, |index| modules[index].name()))).find(ready);
        let Some(place) = next else {
            let stuck = modules.iter().find(|module| !names.contains(&module.name()));
            return Err(format!("module {} waits for itself", stuck.map_or(ROUTE, |module| module.name())));
        };
        names.push(place.map_or(ROUTE, |index| modules[index].name()));
        placed.push(place);
    }
    Ok(placed)
}

fn follows_route(modules: &[Box<dyn Module>], index: usize, depth: usize) -> bool {
    depth <= modules.len()
        && modules[index].runs_after().iter().any(|name| {
            *name == ROUTE
                || modules
                    .iter()
                    .position(|module| module.name() == *name)
                    .is_some_and(|other| follows_route(modules, other, depth + 1))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str, &'static [&'static str]);

    impl Module for Named {
        fn name(&self) -> &'static str {
            self.0
        }
        fn runs_after(&self) -> &'static [&'static str] {
            self.1
        }
        fn open(&mut self, _: &mut NewSession, _: &mut Context<'_>) -> Step {
            Step::Continue
        }
    }

    fn names(modules: &[Box<dyn Module>]) -> Vec<&'static str> {
        let order = order(modules).unwrap();
        order.into_iter().map(|place| place.map_or(ROUTE, |index| modules[index].name())).collect()
    }

    // C6: a plurality of modules on one path, in a declared order.
    #[test]
    fn modules_run_in_declared_order() {
        let modules: Vec<Box<dyn Module>> = vec![
            Box::new(Named("source", &["filter"])),
            Box::new(Named("filter", &[ROUTE])),
            Box::new(Named("destination", &[])),
        ];
        assert_eq!(names(&modules), ["destination", ROUTE, "filter", "source"]);
    }

    #[test]
    fn circles_and_missing_modules_are_refused() {
        let circle: Vec<Box<dyn Module>> = vec![Box::new(Named("a", &["b"])), Box::new(Named("b", &["a"]))];
        assert!(order(&circle).unwrap_err().contains("waits for itself"));
        let missing: Vec<Box<dyn Module>> = vec![Box::new(Named("a", &["c"]))];
        assert!(order(&missing).unwrap_err().contains("does not exist"));
    }
}
