//! The user path by packet sockets: for network namespaces where no program may be loaded.
//!
//! The sockets see every packet before the kernel does; a filter on each interface keeps the kernel from
//! answering in flowhop's place.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use flowhop_engine::interfaces::Interface;
use flowhop_engine::{Arrived, Offload};
use flowhop_flow::key::{self, Address};
use flowhop_flow::record::Tick;
use flowhop_io::cbpf::{self, Claim, FilterError, KernelFilter};
use flowhop_io::packet::{PacketError, PacketPort, PacketType};
use flowhop_modules::Published;
use flowhop_wire::protocol;
use thiserror::Error;

use super::plane::PlaneError;

/// Ports that mappings use on the box's own addresses here: a fixed range, because the filter cannot be told
/// of each. Published services are claimed beside it. Between the privileged ports and the kernel's own client ports.
pub(super) const TRANSLATED: RangeInclusive<u16> = 16384..=32767;

/// Why an interface cannot be used.
#[derive(Debug, Error)]
pub(super) enum AttachError {
    #[error(transparent)]
    Socket(#[from] PacketError),
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// Packet sockets, one for each interface.
#[derive(Default)]
pub(super) struct PacketPlane {
    ports: HashMap<u32, (u8, PacketPort)>,
    zones: HashMap<u32, u16>,
    order: Vec<u32>,
    turn: usize,
    own: HashSet<Address>,
    published: Published,
}

fn ranges(published: &Published, address: &Address, protocol: u8) -> impl Iterator<Item = RangeInclusive<u16>> {
    published.ports(address, protocol).into_iter().map(|(first, last)| first..=last)
}

/// Whether packet sockets are what is left: there is no right to load programs, but one to open such sockets.
pub(super) fn is_only_choice(error: &PlaneError) -> bool {
    error.is_denied() && in_user_namespace()
}

/// The initial user namespace maps all users to themselves.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

impl PacketPlane {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ports.values().map(|(_, port)| port.as_fd())
    }

    pub(super) fn attach(&mut self, interface: &Interface) -> Result<(), AttachError> {
        if self.zones.get(&interface.ifindex) != Some(&interface.zone) {
            self.filter(interface.zone).install(interface.ifindex)?;
            self.zones.insert(interface.ifindex, interface.zone);
        }
        match self.ports.get_mut(&interface.ifindex) {
            Some((port, _)) => *port = interface.port,
            None => {
                let socket = PacketPort::open(interface.ifindex)?;
                self.ports.insert(interface.ifindex, (interface.port, socket));
                self.order.push(interface.ifindex);
            }
        }
        Ok(())
    }

    pub(super) fn retain(&mut self, ifindexes: &HashSet<u32>) {
        for ifindex in self.order.iter().filter(|ifindex| !ifindexes.contains(ifindex)) {
            // An interface that is gone took its filter with it.
            let _gone = cbpf::remove(*ifindex);
        }
        self.ports.retain(|ifindex, _| ifindexes.contains(ifindex));
        self.zones.retain(|ifindex, _| ifindexes.contains(ifindex));
        self.order.retain(|ifindex| ifindexes.contains(ifindex));
    }

    /// The box's own addresses, and what of them is published: the filters follow.
    pub(super) fn set_own(&mut self, own: &HashSet<Address>, published: &Published) {
        if *own == self.own && *published == self.published {
            return;
        }
        self.own.clone_from(own);
        self.published = published.clone();
        for (ifindex, zone) in &self.zones {
            if let Err(error) = self.filter(*zone).install(*ifindex) {
                say!("flowhop: {error}");
            }
        }
        for address in own {
            if let Some(name) = published.limited_by_source(address) {
                say!(
                    "flowhop: translation {name:?} is for some sources only: without kernel programs, what others \
                     send to its ports of {} is dropped instead of left to this box",
                    key::ip(address)
                );
            }
        }
    }

    /// What the kernel gets of what comes in through an interface of a zone.
    fn filter(&self, zone: u16) -> KernelFilter {
        let published = self.published.from_zone(zone);
        let mut translated: Vec<(IpAddr, Claim)> = Vec::new();
        for address in &self.own {
            let mut claims = vec![Claim::Tcp(TRANSLATED), Claim::Udp(TRANSLATED), Claim::Echo(TRANSLATED)];
            claims.extend(ranges(&published, address, protocol::TCP).map(Claim::Tcp));
            claims.extend(ranges(&published, address, protocol::UDP).map(Claim::Udp));
            claims.extend(published.has_echo(address).then_some(Claim::EchoRequest));
            claims.extend(published.others(address).into_iter().map(Claim::Protocol));
            translated.extend(claims.into_iter().map(|claim| (key::ip(address), claim)));
        }
        KernelFilter { own: self.own.iter().map(key::ip).collect(), translated }
    }

    pub(super) fn send(&self, ifindex: u32, frame: &[u8], offload: &Offload) -> bool {
        self.ports.get(&ifindex).is_some_and(|(_, port)| port.send(frame, offload).unwrap_or(false))
    }

    /// The next packet for a router, from each interface in turn; `None` when there is none.
    pub(super) fn receive(&mut self, frame: &mut [u8], now: Tick) -> Option<(Arrived, Offload, usize)> {
        let mut silent = 0;
        while silent < self.order.len() {
            self.turn = (self.turn + 1) % self.order.len();
            let (port, socket) = self.ports.get(self.order.get(self.turn)?)?;
            match socket.recv(frame) {
                Ok(Some(received)) => {
                    silent = 0;
                    let whole = !received.tagged && !received.truncated;
                    if received.packet_type == PacketType::Host && whole {
                        return Some((
                            Arrived { port: *port, gate: 0, driver: false, now },
                            received.offload,
                            received.len,
                        ));
                    }
                }
                Ok(None) | Err(_) => silent += 1,
            }
        }
        None
    }
}
