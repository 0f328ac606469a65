//! A packet of a known connection: judged by its entry, with what the entry lacks mended on the way.

use flowhop_flow::forward::{Hit, gate_of, hot, judge, wire_length};
use flowhop_flow::record::{Action, Adjacency, NextHop, Steer, Tick};
use flowhop_flow::tcp::{self, Phase, flag};
use flowhop_flow::{Kind, Parsed, Reason, Transport};
use flowhop_routing::{AdjacencyIndex, AdjacencyState, Resolution, UnreachableReason};
use flowhop_table::{BlockIndex, key_of};

use crate::answers;
use crate::buffer::Buffer;
use crate::engine::{Engine, UserHost};
use crate::hold::{Held, Wait};
use crate::io::{Arrived, Io, Outcome};
use crate::nat64;

/// Mends that one packet may bring about: ingress, policy, route, and once more.
const TRIES: usize = 4;
/// What became of a packet that was given to its output.
pub(crate) struct Sent {
    pub(crate) port: u8,
    /// Forwarded, in fragments, or refused by the device.
    pub(crate) reason: Reason,
}

impl Sent {
    fn complete(self, outcome: impl Fn(Reason) -> Outcome) -> Outcome {
        match self.reason {
            Reason::Device => Outcome { kind: Kind::Drop, ..outcome(Reason::Device) },
            reason => Outcome { out: Some(self.port), ..outcome(reason) },
        }
    }
}

/// Adjacency and generation of a direction that has none: a number that no adjacency is given, in a generation that
/// its empty record is not of.
pub(crate) const NOWHERE: (u16, u16) = (u16::MAX, 1);

impl Engine {
    pub(crate) fn known(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        number: BlockIndex,
        direction: usize,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Outcome {
        if self.moves.holds(number, direction, arrived.driver) {
            return self.hold_for_move(arrived, number, direction, packet);
        }
        if let Some(outcome) = self.before_server(arrived, parsed, number, direction, packet, io) {
            return outcome;
        }
        if self.has_helper(number) {
            return self.helped(arrived, parsed, number, direction, packet, io);
        }
        self.by_entry(arrived, parsed, number, direction, packet, None, io)
    }

    /// Judges a packet by its entry and sends it on: as it came, or as `changed`, if a helper makes something else of it.
    #[expect(clippy::too_many_arguments, reason = "the state of one packet's judgement")]
    pub(crate) fn by_entry(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        number: BlockIndex,
        direction: usize,
        packet: &mut Buffer<'_>,
        mut changed: Option<&mut Buffer<'_>>,
        io: &mut dyn Io,
    ) -> Outcome {
        let mut parsed = *parsed;
        let mut last = Reason::BadRecord;
        for _ in 0..TRIES {
            self.clamp_mss(number, &parsed, packet);
            let Some(block) = self.table.block(number) else { break };
            let serial = block.owner.serial.load();
            let rule = block.owner.rules.load() as u16;
            let outcome = |reason| Outcome { session: Some((number, serial)), rule, ..Outcome::of(reason) };
            let hit = Hit { block, direction };
            let steer = Steer::unpack(hot(&hit).steer.load());
            if steer.action == Action::Drop {
                return Outcome::of(Reason::FlowDropped);
            }
            let host = UserHost(&self.table);
            let segment = packet.segment();
            let config = self.table.config();
            let crosses = nat64::crosses(block);
            let result = if crosses {
                self.translate(arrived, &parsed, &hit, steer, packet, io)
            } else {
                let mut leaving = match &mut changed {
                    Some(changed) => changed.reborrow(),
                    None => packet.reborrow(),
                };
                judge(&host, config, &mut leaving, &parsed, &hit, steer, arrived.port, segment, arrived.now).map(
                    |hop| {
                        self.identify_fragment(&parsed, &key_of(block, direction ^ 1), &mut leaving);
                        self.record_hop(&hop, &parsed, &mut leaving, arrived.now);
                        self.send(&hop, &mut leaving, io)
                    },
                )
            };
            let reason = match result {
                Ok(sent) => {
                    let outcome = sent.complete(outcome);
                    if self.has_opened(number) {
                        self.follow_paths(number, arrived.now);
                    }
                    return outcome;
                }
                Err(reason) => reason,
            };
            last = reason;
            let mended = match reason {
                Reason::WrongInterface => self.follow_interface(number, direction, arrived, &parsed),
                Reason::StalePolicy => self.revalidate(number, arrived.now),
                Reason::StaleAdjacency => self.reroute(number, direction, arrived.now, io).map(|_| ()),
                Reason::TcpSyn => self.syn_on_known(number, direction, &mut parsed, packet, arrived.now),
                Reason::NeighbourUnresolved => {
                    self.pend(number, direction, arrived.now);
                    let reason = self.hold_packet(arrived, steer.adjacency, packet, io);
                    return outcome(reason);
                }
                Reason::TtlExceeded => {
                    self.answer_time_exceeded(arrived, packet, io);
                    return outcome(reason);
                }
                Reason::TooBig if crosses => {
                    self.answer_too_big_across(arrived, number, direction, packet, io);
                    return outcome(reason);
                }
                Reason::TooBig => {
                    // Fragments are of what leaves, an answer is about what came.
                    let mut leaving = match &mut changed {
                        Some(changed) if answers::may_fragment(changed, &parsed) => changed.reborrow(),
                        _ => packet.reborrow(),
                    };
                    return self.too_big(arrived, &parsed, number, direction, &mut leaving, outcome(reason), io);
                }
                _ => return outcome(reason),
            };
            match mended {
                Ok(()) => {}
                Err(reason) => {
                    self.answer_undeliverable(arrived, reason, packet, io);
                    return outcome(reason);
                }
            }
        }
        Outcome::of(last)
    }

    fn send(&self, hop: &NextHop, packet: &mut Buffer<'_>, io: &mut dyn Io) -> Sent {
        let offload = packet.offload;
        let taken = io.transmit(hop.port, hop.ifindex, packet.bytes_mut(), &offload);
        Sent { port: hop.port, reason: if taken { Reason::Forwarded } else { Reason::Device } }
    }

    /// A packet that came in through another interface than the entry names: accepted, and the entry follows,
    /// if the interface is of the same zone and the route back to the sender may lead through it.
    pub(crate) fn follow_interface(
        &mut self,
        number: BlockIndex,
        direction: usize,
        arrived: &Arrived,
        parsed: &Parsed,
    ) -> Result<(), Reason> {
        let port = arrived.port;
        let block = self.table.block(number).ok_or(Reason::BadRecord)?;
        let steer = Steer::unpack(block.hot[direction].steer.load());
        let zone_of = |port| self.interfaces.port(port).map(|interface| interface.zone);
        let (old, new) = (zone_of(steer.ingress), zone_of(port));
        if new.is_none() || old != new {
            return Err(Reason::WrongInterface);
        }
        self.may_follow(port, &parsed.key)?;
        block.hot[direction].steer.store(Steer { ingress: port, ..steer }.pack());
        self.follow_paths(number, arrived.now);
        Ok(())
    }

    /// Resolves a direction's output again, if its source may still come in where it does; tells whether it changed.
    pub(crate) fn reroute(
        &mut self,
        number: BlockIndex,
        direction: usize,
        now: Tick,
        io: &mut dyn Io,
    ) -> Result<bool, Reason> {
        let block = self.table.block(number).ok_or(Reason::BadRecord)?;
        let key = key_of(block, direction);
        // Where its answers come from is where it is sent to.
        let destination = key_of(block, direction ^ 1).source;
        if let Some(reason) = self.source_fault(Steer::unpack(block.hot[direction].steer.load()).ingress, &key) {
            return Err(reason);
        }
        let hash = self.table.hash(&key);
        let via = match self.route(&destination, hash) {
            Resolution::Via { ifindex, adjacency, .. } => (ifindex, adjacency),
            Resolution::Unreachable(reason) => return Err(unreachable(reason)),
            Resolution::Local | Resolution::Broadcast | Resolution::Multicast => return Err(Reason::NoRoute),
        };
        let (ifindex, adjacency) = via;
        let port = self.interfaces.ifindex(ifindex).ok_or(Reason::NoZone)?.port;
        let generation = self.routing.adjacency(adjacency).map_or(0, |adjacency| adjacency.generation);
        let block = self.table.block(number).ok_or(Reason::BadRecord)?;
        let steer = Steer::unpack(block.hot[direction].steer.load());
        if (steer.adjacency, steer.adjacency_generation) == (adjacency.get(), generation) {
            return Ok(false);
        }
        // The answers are expected where the packets go now.
        let back = &block.hot[direction ^ 1].steer;
        let other = Steer::unpack(back.load());
        if other.ingress != port {
            back.store(Steer { ingress: port, ..other }.pack());
            self.revalidate(number, now)?;
        }
        // Packets for which the entry led nowhere are on their way here: no later one may overtake them.
        if !self.leads_somewhere(steer) {
            self.pend(number, direction, now);
        }
        let block = self.table.block(number).ok_or(Reason::BadRecord)?;
        let steer = Steer::unpack(block.hot[direction].steer.load());
        let new = Steer { adjacency: adjacency.get(), adjacency_generation: generation, ..steer };
        block.hot[direction].steer.store(new.pack());
        self.follow_paths(number, now);
        self.want_neighbour(adjacency, now, io);
        Ok(true)
    }

    /// Whether the kernel paths can send by an entry.
    fn leads_somewhere(&self, steer: Steer) -> bool {
        let record = self.table.regions().adjacencies.get(usize::from(steer.adjacency));
        record
            .and_then(Adjacency::read)
            .is_some_and(|hop| hop.generation == steer.adjacency_generation && hop.flags & NextHop::RESOLVED != 0)
    }

    /// Has a neighbour resolved that is not.
    pub(crate) fn want_neighbour(&mut self, index: AdjacencyIndex, _now: Tick, io: &mut dyn Io) {
        let Some(adjacency) = self.routing.adjacency(index) else { return };
        if matches!(adjacency.state, AdjacencyState::Incomplete | AdjacencyState::Failed) {
            if self.routing.can_ask(adjacency.ifindex, adjacency.next_hop) {
                io.resolve(adjacency.ifindex, adjacency.next_hop);
            } else {
                self.unasked.insert(index.get());
            }
        }
    }

    /// Packets of an active entry are about to be held: it becomes pending, so that no later one overtakes them.
    pub(crate) fn pend(&mut self, number: BlockIndex, direction: usize, now: Tick) {
        let Some(block) = self.table.block(number).filter(|_| self.kernel) else { return };
        let steer = Steer::unpack(block.hot[direction].steer.load());
        if steer.pending || steer.action != Action::Forward {
            return;
        }
        let gate = gate_of(self.table.hash(&key_of(block, direction)));
        let pending = Steer { pending: true, epoch: self.gates.epoch(gate), ..steer };
        block.hot[direction].steer.store(pending.pack());
        self.gates.wait_again(number, block.owner.serial.load(), direction, gate, self.table.epoch(), now);
        self.note_queue(number, direction, steer, pending);
    }

    pub(crate) fn hold_packet(
        &mut self,
        arrived: &Arrived,
        adjacency: u16,
        packet: &Buffer<'_>,
        io: &mut dyn Io,
    ) -> Reason {
        let index = AdjacencyIndex::new(adjacency);
        let resolved = self.routing.adjacency(index).filter(|adjacency| adjacency.state == AdjacencyState::Resolved);
        if let Some(ifindex) = resolved.map(|adjacency| adjacency.ifindex) {
            if self.interfaces.ifindex(ifindex).is_none() {
                return Reason::NoZone;
            }
            // The record lags behind.
            self.write_adjacency(index);
        }
        let wait = Wait::Neighbour(adjacency);
        let first = !self.hold.waits_for(wait);
        let reason = self.keep(arrived, wait, packet);
        if first && reason == wait.reason() {
            self.want_neighbour(index, arrived.now, io);
        }
        reason
    }

    /// Keeps a packet until what it waits for is there, if there is room.
    pub(crate) fn keep(&mut self, arrived: &Arrived, wait: Wait, packet: &Buffer<'_>) -> Reason {
        let held = Held {
            bytes: packet.bytes().to_vec(),
            offload: packet.offload,
            port: arrived.port,
            gate: arrived.gate,
            driver: arrived.driver,
            wait,
            since: arrived.now,
        };
        if self.hold.keep(held).is_ok() { wait.reason() } else { Reason::HoldFull }
    }

    /// A SYN on a connection that exists: repeated, simultaneous open (RFC 9293 section 3.5), a new connection
    /// on the remains of an old one, or one that its receiver answers with a challenge (RFC 5961 section 4).
    fn syn_on_known(
        &mut self,
        number: BlockIndex,
        direction: usize,
        parsed: &mut Parsed,
        packet: &Buffer<'_>,
        now: Tick,
    ) -> Result<(), Reason> {
        let block = self.table.block(number).ok_or(Reason::BadRecord)?;
        let Transport::Tcp(segment) = &mut parsed.transport else { return Err(Reason::TcpSyn) };
        let offer = tcp::offer(packet, parsed.transport_offset, segment, 40).ok_or(Reason::TcpSyn)?;
        let (own, peer) = (&block.tcp[direction & 1], &block.tcp[(direction & 1) ^ 1]);
        let phase = Phase::of(block.tcp[0].flags(), block.tcp[1].flags());
        match (phase, direction) {
            // Nothing has come back yet: repeated, or begun anew with other numbers.
            (Phase::SynSent, 0) => tcp::open(own, peer, segment, offer),
            (Phase::SynSent, _) => tcp::open_too(own, segment, offer),
            (Phase::Closed | Phase::Reset, 0) => tcp::open(own, peer, segment, offer),
            (_, 0) => {}
            (_, _) if own.flags() & flag::SYN != 0 && tcp::repeats(own, segment) => {}
            _ => return Err(Reason::TcpState),
        }
        segment.vouched = true;
        if matches!(phase, Phase::SynSent | Phase::Closed | Phase::Reset) {
            self.end_dialogue(number);
            self.begin_handshake(number, now);
        }
        if matches!(phase, Phase::Closed | Phase::Reset) {
            self.note_half_open(number);
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the state of one packet's judgement")]
    fn too_big(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        number: BlockIndex,
        direction: usize,
        packet: &mut Buffer<'_>,
        outcome: Outcome,
        io: &mut dyn Io,
    ) -> Outcome {
        let Some(hop) = self.hop_of(number, direction) else { return outcome };
        debug_assert!(wire_length(parsed, packet.segment()) > hop.mtu);
        if !answers::may_fragment(packet, parsed) || packet.offload.segmentation != 0 {
            self.answer_too_big(arrived, hop.mtu, packet, io);
            return outcome;
        }
        // Judged as if it fitted, so that state and counters move; then cut.
        let Some(block) = self.table.block(number) else { return outcome };
        let hit = Hit { block, direction };
        let fits = Parsed { length: hop.mtu.min(parsed.length), ..*parsed };
        let steer = Steer::unpack(hot(&hit).steer.load());
        let host = UserHost(&self.table);
        let config = self.table.config();
        match judge(&host, config, packet, &fits, &hit, steer, arrived.port, 0, arrived.now) {
            Err(reason) => Outcome { kind: reason.slow_kind(), reason, ..outcome },
            Ok(hop) => {
                self.identify_fragment(parsed, &key_of(block, direction ^ 1), packet);
                self.record_hop(&hop, parsed, packet, arrived.now);
                packet.complete_checksum();
                let sent = answers::fragment(packet.bytes(), hop.mtu, |piece| {
                    io.transmit(hop.port, hop.ifindex, piece, &crate::buffer::Offload::default())
                });
                let reason = if sent { Reason::Fragmented } else { Reason::Device };
                Outcome { kind: reason.slow_kind(), reason, out: Some(hop.port), ..outcome }
            }
        }
    }

    pub(crate) fn hop_of(&self, number: BlockIndex, direction: usize) -> Option<NextHop> {
        let steer = Steer::unpack(self.table.block(number)?.hot[direction & 1].steer.load());
        self.table.regions().adjacencies.get(usize::from(steer.adjacency))?.read()
    }
}

/// The reason to drop what cannot be routed.
pub(crate) const fn unreachable(reason: UnreachableReason) -> Reason {
    match reason {
        UnreachableReason::NoRoute | UnreachableReason::AdjacencyTableFull => Reason::NoRoute,
        UnreachableReason::Blackhole | UnreachableReason::Prohibit | UnreachableReason::Refused => Reason::RouteRefused,
        UnreachableReason::LinkDown => Reason::LinkDown,
        UnreachableReason::LinkLocal => Reason::MartianDestination,
        UnreachableReason::Unsupported => Reason::NoZone,
    }
}
