//! A new connection: the modules are asked, the answer is compiled to a pair of flow next hops and installed,
//! and the first packet goes on by it (blocks 450 to 470).

use flowhop_flow::forward::gate_of;
use flowhop_flow::key::{self, Address};
use flowhop_flow::record::{Action, Block, Steer, Tick};
use flowhop_flow::tcp;
use flowhop_flow::{Key, Parsed, Reason, Transport};
use flowhop_routing::Resolution;
use flowhop_table::{BlockIndex, Draft, DraftSide, Inserted, Removal};
use flowhop_wire::{icmp4, icmp6, protocol, tcp_flags};

use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::io::{Arrived, Io, LogEvent, Outcome};
use crate::known::{NOWHERE, unreachable};
use crate::module::{Context, MAX_NAT, NewSession, Step, Via};
use crate::paths::Way;
use crate::refusals::is_refusal;

impl Engine {
    pub(crate) fn open(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        hash: u64,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Outcome {
        self.open_with(arrived, parsed, hash, packet, false, io)
    }

    /// The same; `proxied`: the packet is a SYN in the name of a client that was answered with a cookie. If it is refused
    /// its sender, who has not sent it, is told nothing here.
    pub(crate) fn open_with(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        hash: u64,
        packet: &mut Buffer<'_>,
        proxied: bool,
        io: &mut dyn Io,
    ) -> Outcome {
        let running = is_running(parsed) && self.modules.iter().any(|module| module.takes_up());
        if !running && !starts_connection(parsed) {
            return Outcome::of(Reason::NotNew);
        }
        let Some(from) = self.interfaces.port(arrived.port).map(|interface| interface.zone) else {
            return Outcome::of(Reason::NoZone);
        };
        if let Some(reason) = self.source_fault(arrived.port, &parsed.key) {
            return Outcome::of(reason);
        }
        let mut session = NewSession {
            key: parsed.key,
            ingress: arrived.port,
            from,
            source: parsed.key.source,
            destination: parsed.key.destination,
            ports: parsed.key.ports,
            via: None,
            rule: 0,
            nat: 0,
            destination_nat: 0,
            accelerate: true,
            running,
            proxied,
            log: false,
            admitted: false,
            related: None,
            service: 0,
        };
        let mut parsed = *parsed;
        match self.ask(&mut session, hash, arrived.now) {
            Ok(()) => {}
            Err((step, asked)) => {
                self.abandon(&session, asked, arrived.now);
                if running {
                    return Outcome { rule: session.rule, ..Outcome::of(Reason::NotNew) };
                }
                if proxied {
                    return self.refuse_proxied(&session, step, io);
                }
                match step {
                    Step::Drop(reason) => self.remember_refusal(&session, reason, arrived.now),
                    Step::DropLater(reason) if matches!(parsed.transport, Transport::Tcp(_)) => {
                        return self.keep_unsolicited(&session.key, reason, arrived, packet);
                    }
                    _ => {}
                }
                return self.refuse(arrived, &parsed, &session, step, packet, io);
            }
        }
        // Its peer knows it by the port that it had.
        if running && key::port(session.ports, 0) != key::port(session.key.ports, 0) {
            self.abandon(&session, self.order.len(), arrived.now);
            return Outcome { rule: session.rule, ..Outcome::of(Reason::NotNew) };
        }
        self.make_room(session.key.protocol() == protocol::TCP, arrived.now);
        let reason = match self.install(&session, &mut parsed, packet, arrived.now) {
            Ok(number) => {
                if let Transport::Tcp(segment) = &parsed.transport {
                    self.solicit(&reverse_key(&session));
                    if running {
                        self.take_up_dialogue(number, segment);
                    }
                }
                io.opened();
                if session.log {
                    self.log(&session, Reason::Forwarded, io);
                }
                self.answer_redirect(arrived, &session, parsed.ttl, packet, io);
                return self.known(arrived, &parsed, number, 0, packet, io);
            }
            Err(reason) => reason,
        };
        self.abandon(&session, self.order.len(), arrived.now);
        if !proxied {
            self.answer_undeliverable(arrived, reason, packet, io);
        }
        Outcome { rule: session.rule, ..Outcome::of(reason) }
    }

    /// Asks the modules in order; the error says how many were asked.
    fn ask(&mut self, session: &mut NewSession, hash: u64, now: Tick) -> Result<(), (Step, usize)> {
        for asked in 0..self.order.len() {
            let step = match self.order[asked] {
                None => self.route_session(session, hash),
                Some(index) => {
                    let mut context = Context {
                        routing: &mut self.routing,
                        interfaces: &self.interfaces,
                        random: &mut self.random,
                        sources: &self.sources,
                        now,
                    };
                    self.modules[index].open(session, &mut context)
                }
            };
            if step != Step::Continue {
                return Err((step, asked));
            }
        }
        Ok(())
    }

    fn abandon(&mut self, session: &NewSession, asked: usize, now: Tick) {
        for place in self.order.iter().take(asked).flatten() {
            self.modules[*place].abandon(session, now);
        }
    }

    fn refuse(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        session: &NewSession,
        step: Step,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Outcome {
        let reason = match step {
            Step::Reject(reason) => {
                self.answer_reject(arrived, parsed, packet, io);
                reason
            }
            Step::Drop(reason) | Step::DropLater(reason) => {
                self.answer_undeliverable(arrived, reason, packet, io);
                reason
            }
            Step::Continue => Reason::BadRecord,
        };
        if session.log {
            self.log(session, reason, io);
        }
        Outcome { rule: session.rule, ..Outcome::of(reason) }
    }

    fn refuse_proxied(&self, session: &NewSession, step: Step, io: &mut dyn Io) -> Outcome {
        let reason = match step {
            Step::Drop(reason) | Step::DropLater(reason) | Step::Reject(reason) => reason,
            Step::Continue => Reason::BadRecord,
        };
        if session.log {
            self.log(session, reason, io);
        }
        Outcome { rule: session.rule, ..Outcome::of(reason) }
    }

    fn log(&self, session: &NewSession, reason: Reason, io: &mut dyn Io) {
        io.log(&LogEvent { rule: session.rule, reason, key: session.key, port: session.ingress });
    }

    /// The engine's own step: where the (translated) destination is.
    fn route_session(&mut self, session: &mut NewSession, hash: u64) -> Step {
        match self.route(&session.destination, hash) {
            Resolution::Via { ifindex, next_hop, adjacency } => {
                let Some(interface) = self.interfaces.ifindex(ifindex) else {
                    return Step::Drop(Reason::NoZone);
                };
                let generation = self.routing.adjacency(adjacency).map_or(0, |adjacency| adjacency.generation);
                session.via = Some(Via {
                    port: interface.port,
                    zone: interface.zone,
                    ifindex,
                    next_hop,
                    adjacency: adjacency.get(),
                    generation,
                });
                Step::Continue
            }
            Resolution::Unreachable(reason) => Step::Drop(unreachable(reason)),
            // Claimed by a module, but translated to nowhere.
            Resolution::Local => Step::Drop(Reason::NatFiltered),
            Resolution::Broadcast => Step::Drop(Reason::DirectedBroadcast),
            Resolution::Multicast => Step::Drop(Reason::MartianDestination),
        }
    }

    /// Compiles the session to a pair of flow next hops and publishes them.
    fn install(
        &mut self,
        session: &NewSession,
        parsed: &mut Parsed,
        packet: &Buffer<'_>,
        now: Tick,
    ) -> Result<BlockIndex, Reason> {
        let via = session.via.ok_or(Reason::NoRoute)?;
        if key::ip(&session.source).is_ipv4() != key::ip(&session.destination).is_ipv4() {
            return Err(Reason::NatUnsupported);
        }
        let parent = session.related.map_or(0, |related| related.parent);
        if parent != 0 && !self.is_parent(parent) {
            return Err(Reason::NoRule);
        }
        let reverse = reverse_key(session);
        let (back_adjacency, back_generation) = self.way_back(&session.key.source, &reverse);
        let generation = self.generation();
        let opens = session.key.protocol() == protocol::TCP
            && self.clamps(session.rule, [session.nat, session.destination_nat]);
        let crosses = reverse.family() != session.key.family();
        let nats = [session.nat, session.destination_nat];
        let helped = parent == 0 && self.helps(session.rule) && !self.is_between_families(nats);
        let ways = [(session.ingress, via.port), (via.port, session.ingress)].map(|(input, output)| {
            let way = self.way(session.accelerate, input, output);
            if crosses {
                return way.across_families();
            }
            match (helped, session.proxied, opens) {
                (true, ..) => way.with_helper(),
                (false, true, _) => way.without_server(),
                (false, false, true) => way.while_opening(),
                (false, false, false) => way,
            }
        });
        let side = |engine: &Self, key: Key, direction: usize, ingress, adjacency, adjacency_generation| {
            let Way { action, skb, .. } = ways[direction];
            let pending = engine.kernel && action == Action::Forward;
            let epoch = if pending { engine.gates.epoch(gate_of(engine.table.hash(&key))) } else { 0 };
            let steer = Steer {
                adjacency,
                ingress,
                action,
                pending,
                skb,
                epoch,
                policy_generation: generation,
                adjacency_generation,
            };
            DraftSide { key, steer, service: session.service }
        };
        let draft = Draft {
            sides: [
                side(self, session.key, 0, session.ingress, via.adjacency, via.generation),
                side(self, reverse, 1, via.port, back_adjacency, back_generation),
            ],
            rules: u32::from(session.rule) | u32::from(session.nat) << 16,
            flags: u32::from(ways[0].reason as u8) | u32::from(ways[1].reason as u8) << 8 | destination_flags(session),
            parent,
        };
        let offer = match &mut parsed.transport {
            Transport::Tcp(segment) if session.running => {
                segment.vouched = true;
                Some((*segment, None))
            }
            Transport::Tcp(segment) => {
                let offer = tcp::offer(packet, parsed.transport_offset, segment, 40).ok_or(Reason::TcpFlags)?;
                segment.vouched = true;
                Some((*segment, Some(offer)))
            }
            _ => None,
        };
        let prepare = |block: &Block| match &offer {
            Some((segment, Some(offer))) => tcp::open(&block.tcp[0], &block.tcp[1], segment, *offer),
            Some((segment, None)) => tcp::take_up(&block.tcp[0], &block.tcp[1], segment),
            None => {}
        };
        let mut inserted = self.table.insert(&draft, now, prepare);
        if let Ok(Inserted::Exists(number)) = inserted
            && self.table.block(number).is_some_and(is_refusal)
        {
            self.remove(number, Removal::Final);
            inserted = self.table.insert(&draft, now, prepare);
        }
        match inserted {
            Ok(Inserted::New(number)) => {
                self.await_activation(number, &draft, now);
                self.arm(number, now);
                self.sources.opened(&session.key.source);
                self.relate(parent, number);
                self.note_half_open(number);
                Ok(number)
            }
            // The key that answers would have belongs to another connection: nothing can be done for this one.
            Ok(Inserted::Exists(_)) => Err(Reason::NatExhausted),
            Err(error) => Err(error.reason()),
        }
    }

    fn await_activation(&mut self, number: BlockIndex, draft: &Draft, now: Tick) {
        let serial = self.table.block(number).map_or(0, |block| block.owner.serial.load());
        for (direction, side) in draft.sides.iter().enumerate() {
            if side.steer.pending {
                let gate = gate_of(self.table.hash(&side.key));
                self.gates.wait(number, serial, direction, gate, now);
            }
        }
    }

    /// The adjacency for answers to the initiator. None is no obstacle: the first answer looks again.
    fn way_back(&mut self, initiator: &Address, reverse: &Key) -> (u16, u16) {
        let hash = self.table.hash(reverse);
        match self.route(initiator, hash) {
            Resolution::Via { adjacency, .. } => {
                let generation = self.routing.adjacency(adjacency).map_or(0, |adjacency| adjacency.generation);
                (adjacency.get(), generation)
            }
            _ => NOWHERE,
        }
    }
}

/// Whether a packet may be the first of a connection: a SYN, an echo request, or anything without such rules.
fn starts_connection(parsed: &Parsed) -> bool {
    match &parsed.transport {
        Transport::Tcp(segment) => segment.flags & tcp_flags::STATE == tcp_flags::SYN,
        Transport::Echo => {
            let kind = parsed.key.ports.to_ne_bytes()[2];
            kind == if parsed.key.family() == 4 { icmp4::ECHO_REQUEST } else { icmp6::ECHO_REQUEST }
        }
        Transport::Udp | Transport::Opaque => true,
    }
}

/// Whether a packet can only be of a TCP connection that is running already.
fn is_running(parsed: &Parsed) -> bool {
    matches!(&parsed.transport, Transport::Tcp(segment) if segment.flags & tcp_flags::STATE == tcp_flags::ACK)
}

/// The key that answers come in with.
fn reverse_key(session: &NewSession) -> Key {
    let [a, b, c, d] = session.ports.to_ne_bytes();
    let family = if key::ip(&session.destination).is_ipv4() { 4 } else { 6 };
    let protocol = match (session.key.protocol(), session.key.family()) {
        (protocol::ICMP, 4) if family == 6 => protocol::ICMPV6,
        (protocol::ICMPV6, 6) if family == 4 => protocol::ICMP,
        (same, _) => same,
    };
    let ports = match protocol {
        protocol::ICMP => u32::from_ne_bytes([a, b, icmp4::ECHO_REPLY, 0]),
        protocol::ICMPV6 => u32::from_ne_bytes([a, b, icmp6::ECHO_REPLY, 0]),
        _ => u32::from_ne_bytes([c, d, a, b]),
    };
    let identity = Key::identity(protocol, family, session.key.context());
    Key { source: session.destination, destination: session.source, ports, identity }
}

/// Who changed the destination, as a record's flags say it.
fn destination_flags(session: &NewSession) -> u32 {
    u32::from(session.destination_nat & MAX_NAT) << 16 | u32::from(session.admitted) << 31
}
