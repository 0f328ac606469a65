//! The replay itself: one packet in, what became of it out.

use std::net::IpAddr;

use flowhop_engine::engine::Parts;
use flowhop_engine::{Arrived, Buffer, Counters, Engine, Io, LogEvent, Offload};
use flowhop_flow::parse::{self, ETHERNET};
use flowhop_flow::record::{TICK_SHIFT, Tick, index_kind};
use flowhop_flow::{Arrival, Key, Kind, Reason, forward};
use flowhop_modules::{Bindings, Names, Shared, standard};
use flowhop_policy::Policy;
use flowhop_routing::Routing;
use flowhop_table::{Geometry, Regions, Table};
use flowhop_wire::ethertype;
use serde::Serialize;

use crate::convert;
use crate::lease;
use crate::replay::ReplayError;
use crate::replay::capture::{Captured, Described, LinkType};
use crate::replay::network::{self, Network};
use crate::replay::stage::{Stage, find};

/// Seed of the engine's random generator.
const SEED: [u8; 32] = *b"the same input, the same output.";
/// Secret of the table's hash.
const SECRET: [u32; 10] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
    0xcbbb_9d5d,
    0x629a_292a,
];
/// Fewest bytes that a packet which begins a connection takes in a capture: its header and an IPv4 header.
const SMALLEST_RECORD: u64 = 16 + 20;
/// Fewest connections that there is memory for.
const FEWEST_CONNECTIONS: u64 = 1024;
/// Adjacencies: one for each interface and family.
const ADJACENCIES: u16 = 1024;
/// The clock is moved on in steps of at most this, since it wraps.
const STEP: u64 = 1 << 28;
/// How often the engine does its regular work, in ticks.
const MAINTAIN_EVERY: u64 = 10;
/// Most turns of it at once.
const MAINTAIN_TURNS: u64 = 256;

/// What became of a packet: an object of `replay -j`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Place of the packet in the capture, from 0.
    pub index: u64,
    /// `forward`, `drop`, `stack`, `hold` or `consume`.
    pub verdict: &'static str,
    /// Name of the reason.
    pub reason: &'static str,
    /// The path that judged it.
    pub path: &'static str,
    /// Name of the rule that allowed or refused its connection.
    pub rule: Option<String>,
    /// Identifier of its flow.
    pub flow: Option<u32>,
    /// The interface that it was sent out through.
    pub out: Option<String>,
}

/// A replay in progress.
pub struct Replay {
    engine: Engine,
    network: Network,
    rules: Names,
    nats: Names,
    bindings: Bindings,
    /// What the last packet brought to be logged.
    leases: Vec<String>,
    outbox: Outbox,
    /// Time of the first packet.
    first: Option<u64>,
    /// Ticks since then; they never go back.
    clock: u64,
    /// When the engine did its regular work last.
    maintained: u64,
    index: u64,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("network", &self.network).field("index", &self.index).finish_non_exhaustive()
    }
}

/// Keeps what is sent.
#[derive(Debug, Default)]
struct Outbox {
    frames: Vec<Vec<u8>>,
}

impl Io for Outbox {
    fn transmit(&mut self, _: u8, _: u32, frame: &mut [u8], _: &Offload) -> bool {
        self.frames.push(frame.to_vec());
        true
    }

    fn stack(&mut self, _: u8, _: &mut [u8], _: &Offload) -> bool {
        true
    }

    /// All neighbours are known from the start.
    fn resolve(&mut self, _: u32, _: IpAddr) {}

    /// Every packet has its line anyway.
    fn log(&mut self, _: &LogEvent) {}
}

/// A verdict before it is written down.
struct Judged {
    kind: Kind,
    reason: Reason,
    path: &'static str,
    rule: u16,
    flow: Option<u32>,
    out: Option<u8>,
}

impl Replay {
    /// A replay under a policy, of a capture of so many bytes (`u64::MAX` if unknown); `input` names an interface.
    ///
    /// # Errors
    /// When the policy and `input` do not make a network.
    pub fn new(policy: Policy, input: Option<&str>, size: u64) -> Result<Self, ReplayError> {
        let network = Network::new(&policy, input)?;
        let most = (size / SMALLEST_RECORD).max(FEWEST_CONNECTIONS);
        let connections = u64::from(policy.table.connections).min(most) as u32;
        let geometry = Geometry::for_connections(connections, index_kind::LINES);
        let table = Table::create(Regions::private(geometry), geometry, SECRET, None);
        // The kernel side believes in a daemon for ever.
        table.config().alive_for.store(i32::MAX as u32);
        table.config().orphan_grace.store(i32::MAX as u32);
        let (mut rules, mut nats) = (Names::default(), Names::default());
        let timeouts = convert::timeouts(&policy.timeouts);
        let (passing, answering) = (convert::passing(&policy.ip), convert::answering(&policy.ip));
        let guards = (0..policy.zones.len()).any(|zone| policy.guards_self_from(flowhop_policy::ZoneId(zone as u16)));
        let serves = policy.pcp.is_some();
        let limits = convert::limits(&policy);
        let (rest, resting_ports) = convert::rest(&policy);
        let shared = Shared::new(policy, &mut rules, &mut nats);
        let bindings = Bindings::new(connections);
        bindings.set_rest(rest, resting_ports);
        let parts = Parts {
            table,
            routing: Routing::new(ADJACENCIES),
            modules: standard(&shared, &bindings),
            counters: Counters::private(),
            timeouts,
            limits,
            seed: SEED,
            kernel: false,
        };
        let mut engine = Engine::new(parts, 0).map_err(ReplayError::Engine)?;
        engine.set_passing(passing);
        engine.set_answering(answering);
        engine.set_judge_local(guards);
        engine.set_serves(serves);
        let mut outbox = Outbox::default();
        network.build(&shared.current().policy, &mut engine, 0, &mut outbox);
        let leases = Vec::new();
        Ok(Self {
            engine,
            network,
            rules,
            nats,
            bindings,
            leases,
            outbox,
            first: None,
            clock: 0,
            maintained: 0,
            index: 0,
        })
    }

    /// Sends one packet through. `bytes` are its own and are changed.
    pub fn packet(&mut self, captured: &Captured, described: &[Described], bytes: &mut Vec<u8>) -> Line {
        let now = self.advance(captured.nanos);
        if captured.link == LinkType::Ip {
            add_link_header(bytes);
        }
        let key = key_of(bytes);
        let port = self.input(captured, described, key.as_ref(), bytes);
        if let Some(destination) = bytes.first_chunk_mut::<6>()
            && destination[0] & 1 == 0
        {
            *destination = network::mac(port);
        }
        if let Some(source) = source_of(bytes) {
            self.network.learn(source, port, &mut self.engine, now, &mut self.outbox);
        }
        let judged = self.judge(port, key.as_ref(), bytes, now);
        let line = Line {
            index: self.index,
            verdict: verdict(judged.kind),
            reason: judged.reason.name(),
            path: judged.path,
            rule: self.rules.name(judged.rule).map(str::to_owned),
            flow: judged.flow,
            out: judged.out.map(|port| self.network.name(port).to_owned()),
        };
        self.index += 1;
        // No kernel has to be told of ports here.
        let _ports = self.bindings.take_changes();
        self.leases = self.bindings.take_leases().iter().map(|lease| lease::line(lease, &self.nats)).collect();
        line
    }

    /// What the last packet, and the time before it, brought to be logged of mappings and blocks of ports.
    #[must_use]
    pub fn leases(&self) -> &[String] {
        &self.leases
    }

    /// The frames that were sent since they were cleared last.
    #[must_use]
    pub fn sent(&self) -> &[Vec<u8>] {
        &self.outbox.frames
    }

    /// Forgets what was sent.
    pub fn clear_sent(&mut self) {
        self.outbox.frames.clear();
    }

    /// The engine, to be looked at.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Moves the clock to the time of a packet, with the work that falls due on the way.
    fn advance(&mut self, nanos: u64) -> Tick {
        let first = *self.first.get_or_insert(nanos);
        let target = nanos.saturating_sub(first) >> TICK_SHIFT;
        while self.clock < target {
            self.clock += (target - self.clock).min(STEP);
            let passed = self.clock - self.maintained;
            if passed >= MAINTAIN_EVERY {
                self.maintained = self.clock;
                // Bounded: every source that is learned brings a route, and every route a walk over all flows, which
                // goes on with the next turns as in the daemon.
                let turns = passed.min(MAINTAIN_TURNS * MAINTAIN_EVERY) / MAINTAIN_EVERY;
                for _ in 0..turns {
                    if !self.engine.maintain(self.clock as Tick, &mut self.outbox) {
                        break;
                    }
                }
            }
        }
        self.clock as Tick
    }

    /// The port that a packet comes in through; see `flowhop replay --help`.
    fn input(&self, captured: &Captured, described: &[Described], key: Option<&Key>, bytes: &[u8]) -> u8 {
        let table = self.engine.table();
        if let Some((block, direction)) = key.and_then(|key| find(table, key))
            && let Some(block) = table.block(block)
        {
            return flowhop_flow::record::Steer::unpack(block.hot[direction].steer.load()).ingress;
        }
        if described.len() > 1
            && let Some(place) = captured.interface
            && let Some(interface) = described.get(place)
            && let Some(port) = self.network.port_of(interface.name.as_deref(), place)
        {
            return port;
        }
        self.network.guess(source_of(bytes))
    }

    /// First as the kernel programs do it, in the driver where policy says so and on the socket buffer, then, if it hands down, as the daemon does it.
    fn judge(&mut self, port: u8, key: Option<&Key>, bytes: &mut [u8], now: Tick) -> Judged {
        let table = self.engine.table();
        table.config().heartbeat.store(now);
        let known = key.and_then(|key| find(table, key)).and_then(|(block, _)| table.block(block));
        let (rule, flow) =
            known.map_or((0, None), |block| (block.owner.rules.load() as u16, Some(block.owner.serial.load())));
        let arrival = Arrival::ethernet(network::ifindex(port), 0);
        let mut packet = Buffer::new(bytes, Offload::default());
        let mut verdict = forward(&Stage::<true>(table.regions()), &mut packet, &arrival, now);
        let driver = verdict.kind != Kind::Pass;
        if !driver {
            verdict = forward(&Stage::<false>(table.regions()), &mut packet, &arrival, now);
        }
        if verdict.kind != Kind::HandDown {
            let mut out = None;
            if verdict.kind == Kind::Forward {
                out = Some(verdict.hop.port);
                self.outbox.frames.push(bytes.to_vec());
            }
            let path = if driver { "driver" } else { "skb" };
            return Judged { kind: verdict.kind, reason: verdict.reason, path, rule, flow, out };
        }
        let arrived = Arrived { port: verdict.port, gate: verdict.gate, driver, now };
        let outcome = self.engine.receive(&arrived, &mut packet, &mut self.outbox);
        self.engine.settle(now, true, &mut self.outbox);
        Judged {
            kind: outcome.kind,
            reason: outcome.reason,
            path: "user",
            rule: outcome.rule,
            flow: outcome.session.map(|(_, serial)| serial),
            out: outcome.out,
        }
    }
}

const fn verdict(kind: Kind) -> &'static str {
    match kind {
        Kind::Forward => "forward",
        Kind::Drop | Kind::HandDown => "drop",
        Kind::Stack | Kind::Pass => "stack",
        Kind::Hold => "hold",
        Kind::Consume => "consume",
    }
}

/// Puts an Ethernet header before a packet that begins with its IP header.
fn add_link_header(bytes: &mut Vec<u8>) {
    let ethertype = match bytes.first().map(|first| first >> 4) {
        Some(6) => ethertype::IPV6,
        _ => ethertype::IPV4,
    };
    let [high, low] = ethertype.to_be_bytes();
    bytes.splice(..0, [2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, high, low]);
}

fn ethertype_of(bytes: &[u8]) -> Option<u16> {
    bytes.get(12..).and_then(<[u8]>::first_chunk).map(|word| u16::from_be_bytes(*word))
}

/// The key of a packet that has one.
fn key_of(bytes: &mut [u8]) -> Option<Key> {
    let ethertype = ethertype_of(bytes)?;
    let packet = Buffer::new(bytes, Offload::default());
    let parsed = match ethertype {
        ethertype::IPV4 => parse::ipv4(&packet, ETHERNET, 0),
        ethertype::IPV6 => parse::ipv6(&packet, ETHERNET, 0),
        _ => return None,
    };
    parsed.ok().map(|parsed| parsed.key)
}

/// The source address of an IP packet, whatever else it is.
fn source_of(bytes: &[u8]) -> Option<IpAddr> {
    match ethertype_of(bytes)? {
        ethertype::IPV4 => bytes.get(26..)?.first_chunk::<4>().map(|address| IpAddr::from(*address)),
        ethertype::IPV6 => bytes.get(22..)?.first_chunk::<16>().map(|address| IpAddr::from(*address).to_canonical()),
        _ => None,
    }
}
