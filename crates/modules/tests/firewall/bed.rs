//! The engine between an inside and an outside network that are made up.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use flowhop_engine::engine::Parts;
use flowhop_engine::interfaces::{FastPath, Interface, PathReason};
use flowhop_engine::{
    Arrived, Buffer, Counters, Engine, Io, Limits, LogEvent, Martians, Offload, Outcome, Revalidated, ReversePath,
    Timeouts,
};
use flowhop_flow::record::PortKey;
use flowhop_modules::{Bindings, Names, Shared};
use flowhop_policy::{Policy, Source};
use flowhop_routing::{Event, InterfaceAddress, IpPrefix, Link, NeighbourState, Route, Routing};
use flowhop_table::{Geometry, Regions, Table};
use flowhop_wire::build::Spec;
use flowhop_wire::{Ipv4, Tcp, verify};
use zerocopy::FromBytes;

pub(crate) const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const INSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
/// Port numbers.
pub(crate) const LAN: u8 = 1;
pub(crate) const WAN: u8 = 2;

#[derive(Default)]
pub(crate) struct Outside {
    pub(crate) sent: Vec<(u8, Vec<u8>)>,
    pub(crate) resolved: Vec<IpAddr>,
    /// What was sent has not left: the device is busy.
    pub(crate) busy: bool,
}

impl Io for Outside {
    fn transmit(&mut self, port: u8, _: u32, frame: &mut [u8], _: &Offload) -> bool {
        self.sent.push((port, frame.to_vec()));
        true
    }
    fn flush(&mut self) -> bool {
        !self.busy
    }
    fn stack(&mut self, _: u8, _: &mut [u8], _: &Offload) -> bool {
        true
    }
    fn resolve(&mut self, _: u32, next_hop: IpAddr) {
        self.resolved.push(next_hop);
    }
    fn log(&mut self, _: &LogEvent) {}
}

/// A table for so many connections whose index begins with a few lines, so that it grows in tests too.
pub(crate) fn geometry(connections: u32) -> Geometry {
    Geometry::for_connections(connections, 0).growing_from(8)
}

/// Interfaces `lan` (zone inside: 10.1.0.1/24, 10.2.0.1/24) and `wan` (zone outside: 198.51.100.1/24, and
/// 198.51.100.9), both with IPv6.
pub(crate) struct Bed {
    pub(crate) engine: Engine,
    pub(crate) outside: Outside,
    pub(crate) now: u32,
    pub(crate) bindings: Bindings,
    shared: Shared,
    names: [Names; 2],
}

pub(crate) const INTERFACES: &str = r#"
[interfaces]
lan = { device = "lan0", zone = "inside" }
wan = { device = "wan0", zone = "outside" }
"#;

const POLICY: &str = r#"
[[rule]]
name = "browse"
from = "inside"
to = "outside"
action = "allow"
[[rule]]
name = "no telnet here"
from = "outside"
to = "inside"
service = "tcp/23"
action = "reject"
[[nat]]
name = "hide"
to = "outside"
translate.source = "interface"
"#;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn policy(text: &str) -> Policy {
    let source = Source { name: "test.toml".into(), text: format!("{INTERFACES}{text}") };
    flowhop_policy::parse(&[source]).unwrap_or_else(|faults| panic!("{}", faults[0])).policy
}

impl Bed {
    /// Browsing is allowed and masqueraded; `resolved`: all neighbours are known.
    pub(crate) fn new(resolved: bool) -> Self {
        let mut bed = Self::unresolved(POLICY);
        if resolved {
            bed.neighbours();
        }
        bed
    }

    /// A policy of one's own, without its interfaces; all neighbours are known.
    pub(crate) fn with(text: &str) -> Self {
        let mut bed = Self::unresolved(text);
        bed.neighbours();
        bed
    }

    /// The same with room for so many connections; `kernel`: kernel programs read the table, and forward what comes in
    /// on the socket buffer.
    pub(crate) fn sized(text: &str, connections: u32, kernel: bool) -> Self {
        let mut bed = Self::made(text, connections, kernel);
        bed.neighbours();
        bed
    }

    /// A policy of one's own; no neighbour is known.
    pub(crate) fn unresolved_with(text: &str) -> Self {
        Self::unresolved(text)
    }

    fn unresolved(text: &str) -> Self {
        Self::made(text, 1024, false)
    }

    fn made(text: &str, connections: u32, kernel: bool) -> Self {
        let geometry = geometry(connections);
        let table = Table::create(Regions::private(geometry), geometry, [7; 10], None);
        Self::over(table, text, if kernel { FastPath::Skb } else { FastPath::None })
    }

    /// A policy over a table of one's own, which kernel programs of this kind read.
    pub(crate) fn over(table: Table, text: &str, fast: FastPath) -> Self {
        let mut names = [Names::default(), Names::default()];
        let [rules, nats] = &mut names;
        let shared = Shared::new(policy(text), rules, nats);
        table.config().orphan_grace.store(100_000);
        Self::around(table, shared, names, 1000, fast)
    }

    fn around(table: Table, shared: Shared, names: [Names; 2], now: u32, fast: FastPath) -> Self {
        let kernel = fast != FastPath::None;
        let second = 954;
        let bindings = Bindings::new(table.regions().blocks.len() as u32);
        let parts = Parts {
            table,
            routing: Routing::new(100),
            modules: flowhop_modules::standard(&shared, &bindings),
            counters: Counters::private(),
            timeouts: Timeouts {
                udp: 300 * second,
                tcp_established: 7440 * second,
                tcp_opening: 240 * second,
                tcp_closing: 240 * second,
                icmp: 60 * second,
                other: 600 * second,
            },
            limits: Limits::default(),
            seed: [1; 32],
            kernel,
        };
        let mut engine = Engine::new(parts, now).unwrap();
        // As the daemon does when there is something: before it learns of the system's links and routes.
        if engine.table().live() > 0 {
            engine.inherit_adjacencies();
        }
        let mut bed = Self { engine, outside: Outside::default(), now, bindings, shared, names };
        for (port, name, ifindex, mac) in [(LAN, "lan", 11, LAN_MAC), (WAN, "wan", 12, WAN_MAC)] {
            bed.event(Event::LinkUpsert(Link::ethernet(ifindex, &format!("{name}0"), mac)));
            bed.engine.interfaces_mut().set(Interface {
                name: Arc::from(name),
                device: Arc::from(format!("{name}0")),
                port,
                ifindex,
                mac,
                zone: u16::from(port) - 1,
                fast,
                reason: if kernel { PathReason::Default } else { PathReason::NoKernel },
                martians: Martians::Rfc1812,
                reverse_path: ReversePath::Off,
                lower: PortKey::of(ifindex),
                partial_checksums: false,
                takes_frames: fast == FastPath::Driver,
                falls_back: true,
            });
        }
        for (ifindex, address, length) in [
            (11, "10.1.0.1", 24),
            (11, "10.2.0.1", 24),
            (12, "198.51.100.1", 24),
            (12, "198.51.100.9", 24),
            (11, "fd00:0:0:1::1", 64),
            (12, "2001:db8:0:2::1", 64),
        ] {
            bed.add_address(ifindex, address, length);
            let network = IpPrefix::new(masked(ip(address), length), length).unwrap();
            bed.event(Event::RouteAdded(Route::unicast(network, None, ifindex)));
        }
        bed
    }

    pub(crate) fn add_address(&mut self, ifindex: u32, address: &str, length: u8) {
        self.event(Event::AddressAdded(InterfaceAddress::global(ifindex, ip(address), length)));
    }

    pub(crate) fn neighbours(&mut self) {
        let inside = ["10.1.0.2", "10.1.0.3", "10.1.0.80", "10.1.0.81", "10.1.0.82", "10.1.0.83", "10.2.0.2"];
        let inside6 = ["fd00:0:0:1::2", "fd00:0:0:1::80"];
        let outside = ["198.51.100.2", "198.51.100.3", "2001:db8:0:2::2"];
        let inside = inside.iter().chain(&inside6).map(|address| (11, address, INSIDE_MAC));
        for (ifindex, address, mac) in inside.chain(outside.iter().map(|address| (12, address, OUTSIDE_MAC))) {
            let state = NeighbourState::Resolved(mac);
            self.event(Event::NeighbourChanged { ifindex, address: ip(address), state });
        }
    }

    /// Tells the engine which services SYNs may be answered for, as the daemon does when policy or interfaces change.
    pub(crate) fn services(&mut self) {
        let services = flowhop_modules::cookie_services(&self.shared.current(), self.engine.interfaces());
        self.engine.set_services(&services, self.now);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.engine.routing_event(event, self.now, &mut self.outside);
    }

    pub(crate) fn send(&mut self, port: u8, spec: &Spec<'_>) -> Outcome {
        self.receive(port, framed(port, spec))
    }

    pub(crate) fn receive(&mut self, port: u8, frame: Vec<u8>) -> Outcome {
        let arrived = Arrived { port, gate: 0, driver: false, now: self.now };
        self.judge(&arrived, frame)
    }

    /// What a kernel program handed down.
    pub(crate) fn judge(&mut self, arrived: &Arrived, mut frame: Vec<u8>) -> Outcome {
        self.engine.receive(arrived, &mut Buffer::new(&mut frame, Offload::default()), &mut self.outside)
    }

    pub(crate) fn last(&mut self) -> (u8, Vec<u8>) {
        self.outside.sent.pop().expect("a packet was sent")
    }

    /// Has everything leave that waits: nothing is on its way from the kernel side.
    pub(crate) fn settle(&mut self) {
        for _ in 0..3 {
            if let Some(grace) = self.engine.begin_grace() {
                self.engine.grace_passed(grace, self.now);
            }
            self.engine.settle(self.now, true, &mut self.outside);
        }
    }

    pub(crate) fn pass(&mut self, ticks: u32) {
        for _ in 0..ticks / 1000 + 1 {
            self.now += 1000.min(ticks);
            while self.engine.maintain(self.now, &mut self.outside) {}
        }
    }

    /// Puts another policy in force for new connections, and begins to ask about those that exist.
    pub(crate) fn begin_reload(&mut self, text: &str) {
        let [rules, nats] = &mut self.names;
        self.shared.replace(policy(text), rules, nats);
        self.engine.policy_changed(self.now);
    }

    /// Puts another policy in force; how many connections go on and how many ended.
    pub(crate) fn reload(&mut self, text: &str) -> (u32, u32) {
        self.begin_reload(text);
        let done = self.judged();
        (done.live, done.ended)
    }

    /// One turn of regular work.
    pub(crate) fn turn(&mut self) -> bool {
        self.engine.maintain(self.now, &mut self.outside)
    }

    /// Regular work until a change of policy is complete.
    pub(crate) fn judged(&mut self) -> Revalidated {
        for _ in 0..1000 {
            self.turn();
            if let Some(done) = self.engine.take_revalidated() {
                return done;
            }
        }
        panic!("the change of policy is not complete after 1000 turns");
    }

    /// Another process takes over the table; how many connections it keeps and how many had to end.
    pub(crate) fn adopt(mut self) -> (Self, (u32, u32)) {
        let adopted = self.restart(FastPath::None);
        (self, adopted)
    }

    /// The same in place, beside kernel programs if there are some.
    pub(crate) fn restart(&mut self, fast: FastPath) -> (u32, u32) {
        let regions = self.engine.table().regions().clone();
        let geometry = geometry(regions.blocks.len() as u32);
        let table = Table::adopt(regions, geometry, None).unwrap();
        *self = Self::around(table, self.shared.clone(), std::mem::take(&mut self.names), self.now, fast);
        self.neighbours();
        self.engine.interfaces_changed();
        let (kept, ended) = self.engine.adopt(self.now);
        let judged = self.engine.policy_adopted(self.now);
        assert!(judged.live <= kept);
        (judged.live, ended + judged.ended)
    }
}

/// A packet as a host sends it that this port leads to.
pub(crate) fn framed(port: u8, spec: &Spec<'_>) -> Vec<u8> {
    let (from, to) = if port == LAN { (INSIDE_MAC, LAN_MAC) } else { (OUTSIDE_MAC, WAN_MAC) };
    spec.with_link(from, to).to_vec().unwrap()
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => (u32::from(v4) & (u32::MAX << (32 - length))).to_be_bytes().into(),
        IpAddr::V6(v6) => (u128::from(v6) & (u128::MAX << (128 - length))).to_be_bytes().into(),
    }
}

pub(crate) fn header(frame: &[u8]) -> Ipv4 {
    Ipv4::read_from_prefix(&frame[14..]).unwrap().0
}

pub(crate) fn tcp(frame: &[u8]) -> Tcp {
    Tcp::read_from_prefix(&frame[34..]).unwrap().0
}

pub(crate) fn is_sound(frame: &[u8]) -> bool {
    let v4 = frame[12..14] == [8, 0];
    verify::transport(&frame[14..]).is_acceptable() && (!v4 || verify::ipv4_header(&frame[14..]).is_acceptable())
}

/// Source and destination of a TCP or UDP frame.
pub(crate) fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if frame[12..14] == [8, 0] {
        let header = header(frame);
        return ((header.source, port(34)).into(), (header.destination, port(36)).into());
    }
    let address = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap();
    ((address(22), port(54)).into(), (address(38), port(56)).into())
}
