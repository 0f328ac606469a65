//! Connections that acknowledged cookies have opened, until their servers have answered.
//!
//! # What
//! The client's handshake is over when its acknowledgment arrives here; the server has heard nothing yet. The connection is
//! opened as by the client's SYN, all modules asked, and a SYN with the client's own sequence number, and the segment size
//! that the cookie remembers, goes to the server. Its SYN|ACK ends here, and an acknowledgment in the client's name follows.
//! The server has chosen another number than the cookie: from then on a constant is added to all numbers of its, on every
//! path ([`TcpHalf::set_constant_shift`](flowhop_flow::record::TcpHalf)).
//!
//! # Rules
//! * What the client sends meanwhile is kept, at most [`KEPT`] packets of each connection, and judged as usual afterwards.
//! * A SYN that is not answered is repeated; when the last is not, or the server resets, the client is reset as well.
//! * There are at most [`MOST`] such connections; they are half open, and make room as others do.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use flowhop_flow::cookie::SIZES;
use flowhop_flow::forward::{Hit, count, hot};
use flowhop_flow::parse::{self, ETHERNET, Segment};
use flowhop_flow::record::{Block, Steer, Tick};
use flowhop_flow::tcp::{self, Offer, flag};
use flowhop_flow::{Key, Kind, Parsed, Reason, Transport, key};
use flowhop_table::{BlockIndex, Removal, is_live, key_of};
use flowhop_wire::build::Spec;
use flowhop_wire::options::tcp_option;
use flowhop_wire::tcp_flags;

use crate::buffer::{Buffer, Offload};
use crate::engine::Engine;
use crate::hold::{Held, Wait};
use crate::io::{Arrived, Io, Outcome};

/// Connections whose servers have not answered.
const MOST: usize = 16_384;
/// Packets of a client's that are kept meanwhile.
const KEPT: usize = 16;
/// When a SYN is repeated, and when it is given up, in ticks after the one before: about 1, 2, 4 and 4 seconds.
const PATIENCE: [Tick; 4] = [954, 1907, 3815, 3815];

/// A connection whose server has not answered.
#[derive(Debug)]
struct Opening {
    serial: u32,
    /// What its client takes for the server's first sequence number.
    cookie: u32,
    /// The client's first sequence number.
    initial: u32,
    /// The client's window.
    window: u16,
    /// The SYN, as if it came from the client.
    syn: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    all: BTreeMap<BlockIndex, Opening>,
    /// When something is due, by how many SYNs were sent.
    timers: [VecDeque<(Tick, BlockIndex, u32)>; PATIENCE.len()],
}

impl Openings {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    fn of(&self, number: BlockIndex, serial: u32) -> Option<&Opening> {
        self.all.get(&number).filter(|opening| opening.serial == serial)
    }
}

impl Engine {
    /// Whether the server of a connection has not answered yet, whose client was answered with a cookie.
    pub(crate) fn awaits_server(&self, number: BlockIndex) -> bool {
        self.opening(number).is_some()
    }

    fn opening(&self, number: BlockIndex) -> Option<&Opening> {
        if self.syn_cookies.openings.all.is_empty() {
            return None;
        }
        self.syn_cookies.openings.of(number, self.table.block(number)?.owner.serial.load())
    }

    /// Opens a connection by the acknowledgment of a cookie. `size` is the place of the client's segment size.
    pub(crate) fn open_by_cookie(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        segment: &Segment,
        size: u8,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Outcome {
        if self.syn_cookies.openings.len() >= MOST {
            return Outcome::of(Reason::TableFull);
        }
        let (initial, cookie) = (segment.sequence.wrapping_sub(1), segment.acknowledgment.wrapping_sub(1));
        let Some(link) = packet.bytes().first_chunk::<12>() else { return Outcome::of(Reason::Truncated) };
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *link;
        let [high, low] = SIZES[usize::from(size & 7)].to_be_bytes();
        let options = [tcp_option::MSS, 4, high, low];
        let spec = segment_of(&parsed.key, tcp_flags::SYN)
            .with_sequence(initial, 0)
            .with_window(segment.window)
            .with_tcp_options(&options)
            .with_ttl(parsed.ttl)
            .with_link([g, h, i, j, k, l], [a, b, c, d, e, f]);
        let Ok(syn) = spec.to_vec() else { return Outcome::of(Reason::BadRecord) };
        let opened = self.open_for_client(arrived, parsed, &syn, io);
        let Some((number, serial)) = opened.session.filter(|_| matches!(opened.kind, Kind::Forward | Kind::Hold))
        else {
            if let Some((number, _)) = opened.session {
                self.remove(number, Removal::Final);
            }
            self.answer_reject(arrived, parsed, packet, io);
            return Outcome { kind: Kind::Drop, session: None, ..opened };
        };
        self.syn_cookies.accepted += 1;
        self.table.block(number).map(note_without_server);
        let opening = Opening { serial, cookie, initial, window: segment.window, syn };
        self.syn_cookies.openings.all.insert(number, opening);
        self.syn_cookies.openings.timers[0].push_back((arrived.now.wrapping_add(PATIENCE[0]), number, serial));
        let outcome = |reason| Outcome { session: Some((number, serial)), rule: opened.rule, ..Outcome::of(reason) };
        // More than an acknowledgment has to reach the server.
        if segment.payload == 0 && segment.flags & tcp_flags::FIN == 0 {
            return outcome(Reason::CookieAccepted);
        }
        outcome(self.keep_for_server(arrived, number, packet))
    }

    /// Opens the connection that a SYN in a client's name asks for, and sends that on.
    fn open_for_client(&mut self, arrived: &Arrived, parsed: &Parsed, syn: &[u8], io: &mut dyn Io) -> Outcome {
        let mut bytes = syn.to_vec();
        let mut frame = Buffer::new(&mut bytes, Offload::default());
        let Some(parsed) = read(&frame, parsed.key.family()) else { return Outcome::of(Reason::BadRecord) };
        let arrived = Arrived { gate: 0, ..*arrived };
        let hash = self.table.hash(&parsed.key);
        let outcome = self.open_with(&arrived, &parsed, hash, &mut frame, true, io);
        self.note_own(&arrived, &outcome, syn.len());
        outcome
    }

    /// Counts a packet that came from nowhere if it waits: who lets it go takes that back.
    fn note_own(&self, arrived: &Arrived, outcome: &Outcome, length: usize) {
        if outcome.kind == Kind::Hold {
            self.counters.add(arrived.port, outcome.reason, length);
        }
    }

    fn keep_for_server(&mut self, arrived: &Arrived, number: BlockIndex, packet: &Buffer<'_>) -> Reason {
        let wait = Wait::Server(number);
        if self.hold.count(wait) >= KEPT {
            return Reason::HoldFull;
        }
        self.keep(arrived, wait, packet)
    }

    /// A packet of a connection whose server has not answered; `None`: it goes on as usual.
    pub(crate) fn before_server(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        number: BlockIndex,
        direction: usize,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Option<Outcome> {
        let Opening { serial, cookie, initial, .. } = *self.opening(number)?;
        let Transport::Tcp(segment) = &parsed.transport else { return None };
        let rule = self.table.block(number)?.owner.rules.load() as u16;
        let outcome = |reason| Outcome { session: Some((number, serial)), rule, ..Outcome::of(reason) };
        let flags = segment.flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST);
        if direction == 0 {
            if segment.flags & tcp_flags::SYN != 0 {
                // The client's own offers what is not agreed on: the one in its name goes in its place.
                let same = segment.sequence == initial && flags == tcp_flags::SYN;
                let sent = if same { self.send_syn(arrived, number, io) } else { None };
                return Some(sent.unwrap_or_else(|| outcome(Reason::TcpState)));
            }
            if flags & tcp_flags::ACK != 0 && segment.acknowledgment != cookie.wrapping_add(1) {
                return Some(outcome(Reason::TcpWindow));
            }
            return Some(outcome(self.keep_for_server(arrived, number, packet)));
        }
        let acknowledges = flags & tcp_flags::ACK != 0 && segment.acknowledgment == initial.wrapping_add(1);
        match flags {
            tcp_flags::SYN_ACK if acknowledges => {
                Some(outcome(self.server_answers(arrived, parsed, segment, number, packet, io)))
            }
            tcp_flags::RST_ACK if acknowledges => {
                // It ends the client's connection where the client is.
                let shift = cookie.wrapping_add(1).wrapping_sub(segment.sequence);
                self.table.block(number)?.tcp[1].set_constant_shift(shift);
                let judged = self.by_entry(arrived, parsed, number, 1, packet, None, io);
                if judged.kind == Kind::Forward {
                    self.syn_cookies.openings.all.remove(&number);
                    self.give_up_server(number, arrived.now, io);
                }
                Some(judged)
            }
            // Of a connection that the server still has: it learns that there is none (RFC 9293 section 3.10.7.3).
            tcp_flags::ACK | tcp_flags::SYN_ACK => {
                self.answer_reject(arrived, parsed, packet, io);
                Some(outcome(Reason::TcpState))
            }
            _ => Some(outcome(Reason::TcpState)),
        }
    }

    /// Sends the SYN in a client's name.
    fn send_syn(&mut self, arrived: &Arrived, number: BlockIndex, io: &mut dyn Io) -> Option<Outcome> {
        let mut bytes = self.opening(number)?.syn.clone();
        let family = key_of(self.table.block(number)?, 0).family();
        let mut frame = Buffer::new(&mut bytes, Offload::default());
        let parsed = read(&frame, family)?;
        let outcome = self.by_entry(arrived, &parsed, number, 0, &mut frame, None, io);
        // The SYN has begun the context anew.
        self.table.block(number).map(note_without_server);
        Some(outcome)
    }

    /// The server has answered: its number is known, and what waited goes on.
    fn server_answers(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        segment: &Segment,
        number: BlockIndex,
        packet: &Buffer<'_>,
        io: &mut dyn Io,
    ) -> Reason {
        if let Err(reason) = self.mend_before_reading(arrived, parsed, number, 1) {
            return reason;
        }
        let helper = self.has_helper(number);
        let Some(block) = self.table.block(number) else { return Reason::BadRecord };
        // Nothing was offered, so nothing is agreed on.
        if let Err(reason) = tcp::check(&block.tcp[1], &block.tcp[0], segment, || Some(Offer::default())) {
            return reason;
        }
        let Some(opening) = self.syn_cookies.openings.all.remove(&number) else { return Reason::BadRecord };
        let shift = opening.cookie.wrapping_sub(segment.sequence);
        if helper {
            block.tcp[1].set_shift(shift);
        } else {
            block.tcp[1].set_constant_shift(shift);
        }
        count(hot(&Hit { block, direction: 1 }), packet.bytes().len() as u64, arrived.now);
        let acknowledgment = segment_of(&key_of(block, 0), tcp_flags::ACK)
            .with_sequence(opening.initial.wrapping_add(1), opening.cookie.wrapping_add(1))
            .with_window(opening.window);
        let family = key_of(block, 0).family();
        let port = Steer::unpack(block.hot[0].steer.load()).ingress;
        let from_client = Arrived { port, gate: 0, driver: false, now: arrived.now };
        if let Ok(mut bytes) = acknowledgment.to_vec() {
            let mut frame = Buffer::new(&mut bytes, Offload::default());
            if let Some(parsed) = read(&frame, family) {
                let outcome = self.known(&from_client, &parsed, number, 0, &mut frame, io);
                self.note_own(&from_client, &outcome, bytes.len());
            }
        }
        self.let_go(number, arrived.now, io);
        self.follow_paths(number, arrived.now);
        Reason::ServerAnswered
    }

    /// Judges what a client has sent meanwhile.
    fn let_go(&mut self, number: BlockIndex, now: Tick, io: &mut dyn Io) {
        for mut held in self.hold.take(Wait::Server(number)) {
            self.counters.take_back(held.port, Reason::HeldServer, held.bytes.len());
            let arrived = Arrived { port: held.port, gate: held.gate, driver: held.driver, now };
            let mut packet = Buffer::new(&mut held.bytes, held.offload);
            self.receive(&arrived, &mut packet, io);
        }
    }

    /// Drops what a client has sent meanwhile.
    fn give_up_server(&mut self, number: BlockIndex, now: Tick, io: &mut dyn Io) {
        let held: Vec<Held> = self.hold.take(Wait::Server(number));
        self.give_up(held, now, io);
    }

    /// Repeats SYNs that were not answered, and gives connections up.
    pub(crate) fn await_servers(&mut self, now: Tick, io: &mut dyn Io) {
        for sent in 0..PATIENCE.len() {
            let is_due = |due: &(Tick, BlockIndex, u32)| now.wrapping_sub(due.0) as i32 >= 0;
            while let Some((_, number, serial)) = self.syn_cookies.openings.timers[sent].pop_front_if(|due| is_due(due))
            {
                if self.syn_cookies.openings.of(number, serial).is_none() {
                    continue;
                }
                let live =
                    self.table.block(number).filter(|block| block.owner.serial.load() == serial && is_live(block));
                let Some(port) = live.map(|block| Steer::unpack(block.hot[0].steer.load()).ingress) else {
                    self.syn_cookies.openings.all.remove(&number);
                    self.give_up_server(number, now, io);
                    continue;
                };
                let Some(wait) = PATIENCE.get(sent + 1) else {
                    self.reset_client(number, now, io);
                    continue;
                };
                self.syn_cookies.openings.timers[sent + 1].push_back((now.wrapping_add(*wait), number, serial));
                let arrived = Arrived { port, gate: 0, driver: false, now };
                if let Some(outcome) = self.send_syn(&arrived, number, io) {
                    let length = self.opening(number).map_or(0, |opening| opening.syn.len());
                    self.note_own(&arrived, &outcome, length);
                }
            }
        }
    }

    /// The server does not answer: the client is told, and the connection ends.
    fn reset_client(&mut self, number: BlockIndex, now: Tick, io: &mut dyn Io) {
        let Some(opening) = self.syn_cookies.openings.all.remove(&number) else { return };
        if let Some(block) = self.table.block(number) {
            let spec = segment_of(&key_of(block, 1), tcp_flags::RST_ACK)
                .with_sequence(0, opening.initial.wrapping_add(1))
                .with_window(0);
            block.tcp[1].set_constant_shift(opening.cookie.wrapping_add(1));
            let family = key_of(block, 1).family();
            let port = Steer::unpack(block.hot[1].steer.load()).ingress;
            let arrived = Arrived { port, gate: 0, driver: false, now };
            if let Ok(mut bytes) = spec.to_vec() {
                let mut frame = Buffer::new(&mut bytes, Offload::default());
                if let Some(parsed) = read(&frame, family) {
                    let outcome = self.by_entry(&arrived, &parsed, number, 1, &mut frame, None, io);
                    self.note_own(&arrived, &outcome, bytes.len());
                }
            }
        }
        self.remove(number, Removal::Final);
        self.give_up_server(number, now, io);
    }
}

/// Whether a connection was opened by a cookie and its server has not answered: nobody else can go on with it.
pub(crate) fn is_without_server(block: &Block) -> bool {
    block.tcp[0].has_constant_shift() && block.tcp[1].flags() & flag::KNOWN == 0
}

/// Notes that in the record, where another process finds it: by a constant of nothing for the client's numbers.
fn note_without_server(block: &Block) {
    block.tcp[0].set_constant_shift(0);
}

/// A segment with a key, without payload.
fn segment_of<'a>(key: &Key, flags: u8) -> Spec<'a> {
    let from = SocketAddr::new(key::ip(&key.source), key.source_port());
    let to = SocketAddr::new(key::ip(&key.destination), key.destination_port());
    Spec::tcp(from, to, flags, &[])
}

fn read(frame: &Buffer<'_>, family: u8) -> Option<Parsed> {
    let parsed = if family == 4 { parse::ipv4(frame, ETHERNET, 0) } else { parse::ipv6(frame, ETHERNET, 0) };
    parsed.ok()
}
