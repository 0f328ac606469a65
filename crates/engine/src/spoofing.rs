//! Source validation: may a packet with this source come in here and be forwarded?
//!
//! Asked when a connection opens, when a connection follows its packets to another interface, when a direction of it is
//! routed again, and of errors about it. In between the entry vouches for the source: the key holds it, and the port that
//! it may come in through. When routes to a source change so that it may not come in there, or policy asks for more than
//! before, the direction loses its output: its next packet is handed down and judged anew.

use std::net::IpAddr;

use flowhop_flow::key::{self, Key};
use flowhop_flow::record::Steer;
use flowhop_flow::{Reason, record::Block};
use flowhop_table::{BlockIndex, is_live, key_of};

use crate::engine::Engine;
use crate::interfaces::Interface;
use crate::refusals::is_refusal;
use crate::validate::{Martians, addresses};

/// Where the source of a packet has to be reachable (RFC 3704).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// Anywhere.
    #[default]
    Off,
    /// By some route.
    Loose,
    /// By some route to its most specific prefix through the interface.
    Feasible,
    /// By the best route through the interface.
    Strict,
}

impl Engine {
    /// Why what comes in through a port with this key is not forwarded, whatever the rules say.
    pub(crate) fn source_fault(&self, port: u8, key: &Key) -> Option<Reason> {
        let Some(interface) = self.interfaces.port(port) else { return Some(Reason::NoZone) };
        if let Err(reason) = addresses::judge(key, interface.martians) {
            return Some(reason);
        }
        let (source, destination) = (key::ip(&key.source), key::ip(&key.destination));
        if [source, destination].into_iter().any(|address| is_link_local(address, interface.martians)) {
            return Some(Reason::LinkLocalTransit);
        }
        self.origin_fault(interface, source)
    }

    /// Why a source may not come in through an interface.
    fn origin_fault(&self, interface: &Interface, source: IpAddr) -> Option<Reason> {
        if interface.martians != Martians::Off && self.is_directed_broadcast(source) {
            return Some(Reason::MartianSource);
        }
        if self.routing.is_own(source) {
            return Some(Reason::SpoofedSource);
        }
        if self.routing.is_connected_elsewhere(source, interface.ifindex) {
            return Some(Reason::SpoofedConnected);
        }
        let returns = match interface.reverse_path {
            ReversePath::Off => true,
            ReversePath::Loose => self.routing.is_routed(source),
            ReversePath::Feasible => self.routing.is_feasible_through(source, interface.ifindex),
            ReversePath::Strict => self.routing.is_reachable_through(source, interface.ifindex),
        };
        (!returns).then_some(Reason::ReversePath)
    }

    /// Whether an address is everybody's on a link of this box (RFC 1812 section 4.2.2.11 d: never a source).
    pub(crate) fn is_directed_broadcast(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(address) if self.routing.is_directed_broadcast(address))
    }

    /// Whether what comes in through a port from this source is answered in the box's name: only where the answer goes. On
    /// its link a host may be known by a link-local address of IPv6, or know the box by one.
    ///
    /// # Errors
    /// The reason to drop it with.
    pub(crate) fn may_ask(&self, port: u8, key: &Key) -> Result<(), Reason> {
        let interface = self.interfaces.port(port).ok_or(Reason::NoZone)?;
        let source = key::ip(&key.source);
        if let Some(reason) = self.origin_fault(interface, source) {
            return Err(reason);
        }
        let on_link = matches!(source, IpAddr::V6(source) if source.is_unicast_link_local());
        if on_link || self.routing.is_reachable_through(source, interface.ifindex) {
            Ok(())
        } else {
            Err(Reason::WrongInterface)
        }
    }

    /// Whether a connection may follow packets from this source to a port.
    ///
    /// # Errors
    /// The reason to drop them with.
    pub(crate) fn may_follow(&self, port: u8, key: &Key) -> Result<(), Reason> {
        if let Some(reason) = self.source_fault(port, key) {
            return Err(reason);
        }
        let interface = self.interfaces.port(port).ok_or(Reason::NoZone)?;
        // Where nothing is said, packets that turn up elsewhere have to come from where the answers go.
        let strict = interface.reverse_path == ReversePath::Off;
        if strict && !self.routing.is_reachable_through(key::ip(&key.source), interface.ifindex) {
            return Err(Reason::WrongInterface);
        }
        Ok(())
    }

    /// Takes the outputs of directions away whose sources may not come in where they do. Tells whether there were any.
    pub(crate) fn distrust(&self, number: BlockIndex) -> bool {
        let Some(block) = self.table.block(number).filter(|block| is_live(block) && !is_refusal(block)) else {
            return false;
        };
        let at_fault = |direction: usize| self.source_fault(ingress(block, direction), &key_of(block, direction));
        let mut any = false;
        for direction in 0..2 {
            if at_fault(direction).is_some() {
                self.unroute(number, direction);
                any = true;
            }
        }
        any
    }
}

fn ingress(block: &Block, direction: usize) -> u8 {
    Steer::unpack(block.hot[direction].steer.load()).ingress
}

/// RFC 4291 section 2.5.6, and RFC 3927 section 7 unless martians may pass.
const fn is_link_local(address: IpAddr, martians: Martians) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() && !matches!(martians, Martians::Off),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
