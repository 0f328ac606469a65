//! The engine: its state, and what it does with each input. What happens to a packet is in `known` and `open`.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use flowhop_flow::forward::{Hit, Host, Level};
use flowhop_flow::key::{self, Address};
use flowhop_flow::record::{Adjacency as Record, Config, Gate, Port, PortKey, Tick, config_flags};
use flowhop_flow::{Key, Kind, Parsed, Reason};
use flowhop_routing::{Change, Event, Resolution, Routing};
use flowhop_table::{BlockIndex, Table};
use flowhop_wire::protocol;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::ageing::{Resets, Wheel};
use crate::answers::{Answering, Answers};
use crate::buffer::Buffer;
use crate::counters::Counters;
use crate::fragments::{Fragments, Room};
use crate::gates::{Gates, Quiet};
use crate::half_open::HalfOpen;
use crate::helper::Dialogues;
use crate::hold::{HOLD_LIMIT, Hold};
use crate::identification::Datagram;
use crate::interfaces::Interfaces;
use crate::io::{Arrived, Io, Outcome};
use crate::module::{Module, Step, order};
use crate::paths::Moves;
use crate::refusals::{Refusals, is_refusal};
use crate::reload::Reload;
use crate::shadow::ShadowStatus;
use crate::sources::Sources;
use crate::sweep::Sweep;
use crate::syn_cookies::SynCookies;
use crate::unsolicited::Unsolicited;
use crate::validate::{Passing, Validated, validate};

/// How long connections may be idle, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP (RFC 4787 REQ-5).
    pub udp: Tick,
    /// Established TCP (RFC 5382 REQ-5).
    pub tcp_established: Tick,
    /// TCP that opens.
    pub tcp_opening: Tick,
    /// TCP that closes, or was reset.
    pub tcp_closing: Tick,
    /// ICMP echo (RFC 5508 REQ-2).
    pub icmp: Tick,
    /// Everything else.
    pub other: Tick,
}

/// Bounds of the engine's own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Packets that wait for neighbours.
    pub held_packets: usize,
    /// Bytes of packets that wait for neighbours.
    pub held_bytes: usize,
    /// Datagrams in fragments that are collected.
    pub datagrams: usize,
    /// Bytes of fragments that are collected.
    pub fragment_bytes: usize,
    /// TCP connections whose handshake is not complete; a quarter of the table if not said.
    pub half_open: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { held_packets: 8192, held_bytes: 16 << 20, datagrams: 4096, fragment_bytes: 16 << 20, half_open: None }
    }
}

/// The slow path.
pub struct Engine {
    pub(crate) table: Table,
    pub(crate) routing: Routing,
    pub(crate) interfaces: Interfaces,
    pub(crate) modules: Vec<Box<dyn Module>>,
    pub(crate) order: Vec<Option<usize>>,
    pub(crate) gates: Gates,
    pub(crate) hold: Hold,
    pub(crate) fragments: Fragments,
    pub(crate) wheel: Wheel,
    pub(crate) counters: Counters,
    pub(crate) timeouts: Timeouts,
    pub(crate) passing: Passing,
    /// What its fragments are being forwarded of.
    pub(crate) datagram: Cell<Datagram>,
    pub(crate) answers: Answers,
    pub(crate) random: ChaCha8Rng,
    pub(crate) kernel: bool,
    pub(crate) sweep: Sweep,
    pub(crate) reload: Reload,
    pub(crate) evict_cursor: BlockIndex,
    /// Connections that were ended to make room, half-open ones aside.
    pub(crate) evicted: u64,
    pub(crate) half_open: HalfOpen,
    pub(crate) sources: Sources,
    pub(crate) moves: Moves,
    pub(crate) refusals: Refusals,
    pub(crate) dialogues: Dialogues,
    /// Adjacencies whose neighbours are wanted and cannot be asked for: their links have no address to ask from.
    pub(crate) unasked: BTreeSet<u16>,
    pub(crate) resets: Resets,
    pub(crate) unsolicited: Unsolicited,
    pub(crate) syn_cookies: SynCookies,
    pub(crate) shadow: ShadowStatus,
    /// The last grace period of the kernel programs that has passed.
    pub(crate) passed: u64,
    due: Vec<BlockIndex>,
    changes: Vec<Change>,
    resync: bool,
    addresses_changed: bool,
    pub(crate) taking_over: bool,
}

/// The share of the table that half-open connections have: one in so many.
const HALF_OPEN_SHARE: usize = 4;
/// Connections looked at by ageing in one call of [`Engine::maintain`].
const AGEING_SLICE: usize = 4096;
/// Turns of work on an index that grows or shrinks, in one slice: about a millisecond.
const INDEX_TURNS: u32 = 256;

/// The table as the forwarding function sees it on the user-level path.
pub(crate) struct UserHost<'a>(pub &'a Table);

impl Host for UserHost<'_> {
    const LEVEL: Level = Level::User;

    fn config(&self) -> Option<&Config> {
        Some(self.0.config())
    }
    fn port(&self, _: PortKey) -> Option<(u8, &Port)> {
        None
    }
    fn find(&self, key: &Key, hash: u64) -> Option<Hit<'_>> {
        let (block, direction) = self.0.find(key, hash)?;
        Some(Hit { block: self.0.block(block)?, direction })
    }
    fn adjacency(&self, index: u16) -> Option<&Record> {
        self.0.regions().adjacencies.get(usize::from(index))
    }
    fn gate(&self, _: u32) -> Option<&Gate> {
        None
    }
    fn is_local(&self, _: &Address, _: Option<&Key>) -> bool {
        false
    }
}

/// Parts that an engine is made of.
pub struct Parts {
    /// The decision table, new or adopted.
    pub table: Table,
    /// Routing, empty.
    pub routing: Routing,
    /// Extension modules, in any order.
    pub modules: Vec<Box<dyn Module>>,
    /// Counters of the user-level path.
    pub counters: Counters,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Bounds.
    pub limits: Limits,
    /// Seed of the random generator; from the operating system, except in replay.
    pub seed: [u8; 32],
    /// Kernel programs read the table: entries are published pending and wait for grace periods.
    pub kernel: bool,
}

impl Engine {
    /// Puts an engine together.
    ///
    /// # Errors
    /// When the modules cannot be ordered; says why.
    pub fn new(parts: Parts, now: Tick) -> Result<Self, String> {
        let order = order(&parts.modules)?;
        let gates = Gates::new(parts.table.regions().gates.clone());
        let reload = Reload::starting_at(parts.table.config().policy_generation.load() as u16);
        let blocks = parts.table.regions().blocks.len();
        let syn_cookies = SynCookies::after(&parts.table.config().cookies, now);
        let engine = Self {
            gates,
            order,
            table: parts.table,
            routing: parts.routing,
            interfaces: Interfaces::default(),
            modules: parts.modules,
            hold: Hold::new(parts.limits.held_packets, parts.limits.held_bytes),
            fragments: Fragments::new(Room { datagrams: parts.limits.datagrams, bytes: parts.limits.fragment_bytes }),
            wheel: Wheel::new(blocks, now),
            counters: parts.counters,
            timeouts: parts.timeouts,
            passing: Passing::default(),
            datagram: Cell::default(),
            answers: Answers::new(Answering::default(), now),
            random: ChaCha8Rng::from_seed(parts.seed),
            kernel: parts.kernel,
            sweep: Sweep::default(),
            reload,
            evict_cursor: 0,
            evicted: 0,
            half_open: HalfOpen::new(parts.limits.half_open.unwrap_or(blocks / HALF_OPEN_SHARE)),
            sources: Sources::new(blocks),
            moves: Moves::default(),
            dialogues: Dialogues::default(),
            refusals: Refusals::default(),
            unasked: BTreeSet::new(),
            resets: Resets::default(),
            unsolicited: Unsolicited::default(),
            syn_cookies,
            shadow: ShadowStatus::default(),
            passed: 0,
            due: Vec::with_capacity(AGEING_SLICE),
            changes: Vec::new(),
            resync: false,
            addresses_changed: true,
            taking_over: false,
        };
        engine.table.config().heartbeat.store(now);
        Ok(engine)
    }

    /// The decision table.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// Routes, links, addresses, adjacencies.
    #[must_use]
    pub const fn routing(&self) -> &Routing {
        &self.routing
    }

    /// The interfaces of policy.
    #[must_use]
    pub const fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// The modules, in the order in which they are asked.
    pub fn modules(&self) -> impl Iterator<Item = &dyn Module> {
        self.order.iter().flatten().map(|index| &*self.modules[*index])
    }

    /// The interfaces of policy, to be changed.
    pub const fn interfaces_mut(&mut self) -> &mut Interfaces {
        &mut self.interfaces
    }

    /// The names of interfaces of two zones whose connected networks have addresses in common (RFC 4787 REQ-7), each pair once,
    /// and whether these are of IPv4.
    pub fn overlapping_interfaces(&mut self) -> Vec<(Arc<str>, Arc<str>, bool)> {
        let mut found = Vec::new();
        for (one, is_v4) in self.interfaces.iter().flat_map(|one| [(one, true), (one, false)]) {
            let links = self.routing.overlapping(one.ifindex, is_v4).iter();
            for other in links.filter_map(|ifindex| self.interfaces.ifindex(*ifindex)) {
                if one.zone != other.zone && one.port < other.port {
                    found.push((Arc::clone(&one.name), Arc::clone(&other.name), is_v4));
                }
            }
        }
        found
    }

    /// Counters of the user-level path.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Timeouts in force.
    #[must_use]
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Packets held for neighbours.
    #[must_use]
    pub fn held(&self) -> usize {
        self.hold.len()
    }

    /// Changes the timeouts; connections follow when they are next looked at.
    pub const fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Changes which options and extension headers pass.
    pub const fn set_passing(&mut self, passing: Passing) {
        self.passing = passing;
    }

    /// Changes which answers of the router's own there are, and how many.
    pub const fn set_answering(&mut self, answering: Answering) {
        self.answers.change(answering);
    }

    /// Takes in a packet and does with it what is to be done.
    pub fn receive(&mut self, arrived: &Arrived, packet: &mut Buffer<'_>, io: &mut dyn Io) -> Outcome {
        let bytes = packet.bytes().len();
        let lost =
            arrived.driver && self.interfaces.port(arrived.port).is_some_and(|interface| interface.partial_checksums);
        let completed = lost && packet.complete_lost_checksum();
        let mut outcome = self.judge(arrived, packet, io);
        if completed {
            io.partial_checksum(arrived.port);
            if outcome.reason == Reason::Forwarded {
                outcome.reason = Reason::PartialChecksum;
            }
        }
        self.counters.add(arrived.port, outcome.reason, bytes);
        // A SYN that waits is only to be answered: it overtakes nothing.
        if outcome.kind != Kind::Hold || outcome.reason == Reason::HeldSyn {
            self.gates.finish(arrived.gate);
        }
        outcome
    }

    fn judge(&mut self, arrived: &Arrived, packet: &mut Buffer<'_>, io: &mut dyn Io) -> Outcome {
        let Some(interface) = self.interfaces.port(arrived.port) else {
            return Outcome::of(Reason::NoZone);
        };
        match validate(packet, interface.martians, &self.passing) {
            Err(fault) => {
                if let Some(problem) = fault.problem {
                    self.answer_problem(arrived, problem, packet, io);
                }
                Outcome::of(fault.reason)
            }
            Ok(Validated::NotIp) => self.to_stack(arrived.port, Reason::NotIp, packet, io),
            Ok(Validated::NeighbourDiscovery) => self.to_stack(arrived.port, Reason::NeighbourDiscovery, packet, io),
            Ok(Validated::Message(parsed)) => self.message(arrived, &parsed, packet, io),
            Ok(Validated::Flow(parsed)) => self.flow(arrived, &parsed, packet, io),
            Ok(Validated::Fragment(parsed, place)) => self.fragment(arrived, &parsed, &place, packet, io),
        }
    }

    /// A packet with a key: of a known connection, to the box itself, or the first of a new connection.
    pub(crate) fn flow(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Outcome {
        let hash = self.table.hash(&parsed.key);
        if let Some((block, direction)) = self.table.find(&parsed.key, hash) {
            if !self.table.block(block).is_some_and(is_refusal) {
                return self.known(arrived, parsed, block, direction, packet, io);
            }
            if let Some(outcome) = self.refused_again(block, arrived) {
                return outcome;
            }
        }
        if let Some(outcome) = self.cookie(arrived, parsed, packet, io) {
            return outcome;
        }
        let destination = key::ip(&parsed.key.destination);
        // Whole prefixes can be the box's own, by a route of type `local`.
        let own =
            self.routing.is_own(destination) || self.routing.lookup(destination, hash as u32) == Resolution::Local;
        let from = self.interfaces.port(arrived.port).map_or(u16::MAX, |interface| interface.zone);
        if own && !self.modules.iter().any(|module| module.claims(&parsed.key, from)) {
            if let Some(outcome) = self.serve(arrived, parsed, packet, io) {
                return outcome;
            }
            return self.local(arrived, parsed, packet, io);
        }
        if self.is_lease_for_box(arrived.port, parsed) {
            return self.to_stack(arrived.port, Reason::Local, packet, io);
        }
        if let IpAddr::V4(v4) = destination
            && self.routing.is_directed_broadcast(v4)
        {
            return Outcome::of(Reason::DirectedBroadcast);
        }
        self.open(arrived, parsed, hash, packet, io)
    }

    /// A DHCP server's answer to an interface that has no address yet: it is sent to the address that is to become
    /// the box's (RFC 2131 section 4.1).
    fn is_lease_for_box(&self, port: u8, parsed: &Parsed) -> bool {
        let from_server = parsed.key.protocol() == protocol::UDP
            && (parsed.key.source_port(), parsed.key.destination_port()) == (67, 68);
        from_server
            && self
                .interfaces
                .port(port)
                .is_some_and(|interface| !self.routing.addresses_of(interface.ifindex).any(|own| own.address.is_ipv4()))
    }

    /// A packet for the box itself that no translation claims.
    fn local(&mut self, arrived: &Arrived, parsed: &Parsed, packet: &mut Buffer<'_>, io: &mut dyn Io) -> Outcome {
        let from = self.interfaces.port(arrived.port).map_or(u16::MAX, |interface| interface.zone);
        for module in &mut self.modules {
            match module.local(&parsed.key, &parsed.transport, from) {
                Step::Continue => {}
                Step::Drop(reason) | Step::DropLater(reason) => return Outcome::of(reason),
                Step::Reject(reason) => {
                    self.answer_reject(arrived, parsed, packet, io);
                    return Outcome::of(reason);
                }
            }
        }
        self.to_stack(arrived.port, Reason::Local, packet, io)
    }

    pub(crate) fn to_stack(&self, port: u8, reason: Reason, packet: &mut Buffer<'_>, io: &mut dyn Io) -> Outcome {
        let offload = packet.offload;
        Outcome::of(if io.stack(port, packet.bytes_mut(), &offload) { reason } else { Reason::PuntFailed })
    }

    /// Takes in what the kernel announced about routes, links, addresses and neighbours.
    pub fn routing_event(&mut self, event: Event, now: Tick, io: &mut dyn Io) {
        let mut changes = std::mem::take(&mut self.changes);
        self.routing.apply(event, &mut changes);
        for change in changes.drain(..) {
            match change {
                Change::Adjacency(index) => self.adjacency_changed(index, now, io),
                Change::Routes { prefix } => self.sweep.routes(prefix),
                Change::OwnAddresses => {
                    self.addresses_changed = true;
                    self.sweep.addresses();
                    self.ask_for_neighbours(now, io);
                }
                Change::NeedResync => self.resync = true,
                Change::Link { .. } => {}
            }
        }
        self.changes = changes;
    }

    /// Whether own addresses changed since the last call.
    pub const fn take_addresses_changed(&mut self) -> bool {
        std::mem::replace(&mut self.addresses_changed, false)
    }

    /// Whether a full dump of the kernel's tables is wanted since the last call.
    pub const fn take_resync(&mut self) -> bool {
        std::mem::replace(&mut self.resync, false)
    }

    /// Makes entries active whose packets have all left. Call it after every batch of packets; `drained` says that
    /// the queue from the kernel is empty.
    pub fn settle(&mut self, now: Tick, drained: bool, io: &mut dyn Io) {
        if drained {
            self.finish_moves(now, io);
        }
        if self.gates.waiting() != 0 {
            let unsent = !io.flush();
            let quiet = Quiet { holding: !self.hold.is_empty(), drained, unsent, grace: self.passed };
            self.gates.activate(&self.table, now, quiet);
        }
    }

    /// Entries that wait to become active.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.gates.waiting()
    }

    /// Regular work: heartbeat, ageing, packets that waited too long, slices of sweeps. Call it about every
    /// 10 ms, and again at once while it returns true.
    pub fn maintain(&mut self, now: Tick, io: &mut dyn Io) -> bool {
        self.table.config().heartbeat.store(now);
        let expired = self.hold.expired(now, HOLD_LIMIT);
        self.give_up(expired, now, io);
        self.give_up_fragments(now, io);
        self.answer_unsolicited(now, io);
        self.await_servers(now, io);
        let mut due = std::mem::take(&mut self.due);
        self.wheel.turn(now, AGEING_SLICE, &mut due);
        let more = due.len() >= AGEING_SLICE;
        for due in due.drain(..) {
            self.age(due, now);
        }
        self.due = due;
        if !self.kernel && self.table.wants_grace() {
            // Nobody else reads this table, so every moment is a grace period.
            let begun = self.table.begin_grace();
            self.grace_passed(begun, now);
        }
        self.half_open.tidy(&self.table);
        let building = self.table.tend(INDEX_TURNS);
        self.tend_cookies(now);
        for module in &mut self.modules {
            module.maintain(now);
        }
        self.announce(now, io);
        let judging = self.reload_slice(now);
        self.sweep_slice(now, io) || judging || building || more
    }

    /// Whether packets to the box itself are judged here rather than passed by the kernel programs.
    pub fn set_judge_local(&mut self, judge: bool) {
        self.set_flag(config_flags::JUDGE_LOCAL, judge);
    }

    /// Whether requests for mappings to link-local addresses are answered here, or passed by the kernel programs.
    pub fn set_serves(&mut self, serves: bool) {
        self.set_flag(config_flags::SERVES, serves);
    }

    fn set_flag(&self, flag: u32, on: bool) {
        let flags = &self.table.config().flags;
        let others = flags.load() & !flag;
        flags.store(if on { others | flag } else { others });
    }
}
