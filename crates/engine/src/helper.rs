//! Connections whose payload is looked at, because it announces others (FTP, TFTP, SIP).
//!
//! # What
//! A connection under a rule with a helper stays on the user path ([`PathReason::Helper`](crate::PathReason::Helper)):
//! every packet of it comes here, and a module is shown what each side says, every byte once and in order. It may have
//! texts replaced, which makes the stream longer or shorter ([`Shift`]), and it notes which connections are to come;
//! what becomes of those is in `related`.
//!
//! # Rules
//! * Only payload that the TCP check accepts is shown, of packets that come in where the connection does and may go on. A
//!   segment behind one that has not come is dropped (`helper_incomplete`), so is one in fragments, and a SYN with data;
//!   its sender repeats it.
//! * What was shown and is binding may be repeated until it is acknowledged, but nothing else may come in its place
//!   (`helper_refused`): its first copy may never have arrived.
//! * All numbers of the record are those that the sender of each segment has chosen: acknowledgments are put back before
//!   the check, sequence numbers are moved on after it.
//! * A packet that has to wait, or that is answered, is as it came: what leaves is a copy.
//! * A segment that no longer fits the MTU leaves as two, a datagram of IPv4 in fragments.
//! * By how much each direction is shifted is in the record as well, so that another process goes on with it; texts that
//!   were not acknowledged by then are repeated as they came.

use std::collections::HashMap;

use flowhop_flow::forward::wire_length;
use flowhop_flow::parse::Segment;
use flowhop_flow::record::{Block, NextHop, Steer, TcpHalf};
use flowhop_flow::tcp::{self, flag};
use flowhop_flow::{Kind, Parsed, Reason, Transport};
use flowhop_table::BlockIndex;
use flowhop_wire::{protocol, tcp_flags};

use crate::buffer::{Buffer, Offload};
use crate::engine::Engine;
use crate::interfaces::PathReason;
use crate::io::{Arrived, Io, Outcome};
use crate::leaving::{Leaving, allow_fragments, payload_of, replaced, shifted, split};
use crate::module::{Context, Payload, SessionView};
use crate::shift::Shift;
use crate::views::view_of;

/// Connections whose payload is looked at, by serial number.
#[derive(Debug, Default)]
pub(crate) struct Dialogues(pub(crate) HashMap<u32, Dialogue>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Dialogue {
    pub(crate) block: BlockIndex,
    /// Its two streams, once they have begun.
    streams: Option<[Stream; 2]>,
    /// Something was passed on that was not shown, because no module wanted it.
    paused: bool,
    /// Connections that it has announced and that were made, with their serial numbers.
    pub(crate) children: Vec<(BlockIndex, u32)>,
}

/// More than is ever under way on a connection that is looked at.
const FAR: u32 = 1 << 29;
/// Bytes that are remembered of a stream because they are binding, unless one segment alone has more.
const SHOWN: usize = 9216;

/// What one side says.
#[derive(Debug)]
struct Stream {
    shift: Shift,
    /// Up to where it was looked at.
    next: u32,
    /// What in front of that is binding and was not acknowledged.
    shown: Vec<u8>,
}

impl Stream {
    /// One that goes on from what the record says.
    fn of(half: &TcpHalf, peer: &TcpHalf) -> Self {
        Self { shift: Shift::by(half.shift()), next: reached(half, peer), shown: Vec::new() }
    }

    /// It goes on from a number; what is in front of it was not looked at.
    fn go_on_from(&mut self, next: u32) {
        self.next = next;
        self.shown = Vec::new();
    }

    /// Forgets what its receiver has.
    fn forget(&mut self, acknowledged: u32) {
        let open = self.next.wrapping_sub(acknowledged);
        let open = if (open as i32) < 0 { 0 } else { open as usize };
        if open == 0 {
            self.shown = Vec::new();
        } else {
            self.shown.drain(..self.shown.len().saturating_sub(open));
        }
    }

    /// Whether payload that begins so many bytes in front of what is next says what was said there.
    fn repeats(&self, known: usize, payload: &[u8]) -> bool {
        let first = self.shown.len().saturating_sub(known);
        let behind = known.saturating_sub(self.shown.len());
        let [before, now] = [self.shown.get(first..), payload.get(behind..)].map(Option::unwrap_or_default);
        before.iter().zip(now).all(|(before, now)| before == now)
    }

    /// Whether there is room for what a module may make of so many bytes.
    fn has_room(&self, length: usize, acknowledged: u32) -> bool {
        (self.shown.is_empty() || self.shown.len() + length <= SHOWN) && self.shift.has_room(acknowledged)
    }
}

impl Dialogue {
    pub(crate) const fn of(block: BlockIndex) -> Self {
        Self { block, streams: None, paused: false, children: Vec::new() }
    }
}

impl Dialogues {
    /// The numbers of a direction, if they are not what they were when they came.
    pub(crate) fn shift(&self, serial: u32, direction: usize) -> Option<&Shift> {
        let streams = self.0.get(&serial)?.streams.as_ref()?;
        Some(&streams[direction & 1].shift).filter(|shift| !shift.is_none())
    }
}

impl Engine {
    /// Whether a connection's payload is looked at, or its numbers are shifted.
    pub(crate) fn has_helper(&self, number: BlockIndex) -> bool {
        let flags = self.table.block(number).map_or(0, |block| block.owner.flags.load());
        PathReason::from_number(flags as u8) == PathReason::Helper
    }

    /// Whether the payload of connections under a rule is looked at.
    pub(crate) fn helps(&self, rule: u16) -> bool {
        self.modules.iter().any(|module| module.helper(rule).is_some())
    }

    /// A packet of a connection with a helper.
    pub(crate) fn helped(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        number: BlockIndex,
        direction: usize,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Outcome {
        if let Err(reason) = self.mend_before_reading(arrived, parsed, number, direction) {
            self.answer_undeliverable(arrived, reason, packet, io);
            return self.not_shown(number, reason);
        }
        if parsed.ttl <= 1 {
            return self.by_entry(arrived, parsed, number, direction, packet, None, io);
        }
        let said = match self.look(arrived, parsed, number, direction, packet, io) {
            Ok(said) => said,
            Err(reason) => return self.not_shown(number, reason),
        };
        let datagram = matches!(parsed.transport, Transport::Udp) && !said.replacements.is_empty();
        let mut outcome = if datagram {
            self.leave_replaced(arrived, parsed, number, direction, packet, &said, io)
        } else {
            self.leave(arrived, parsed, number, direction, packet, io)
        };
        if said.declined && outcome.reason == Reason::Forwarded {
            outcome.reason = Reason::HelperDeclined;
        }
        outcome
    }

    /// Mends what the entry lacks for packets that come in so, before anything of them is read.
    pub(crate) fn mend_before_reading(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        number: BlockIndex,
        direction: usize,
    ) -> Result<(), Reason> {
        let steer = |engine: &Self| {
            let block = engine.table.block(number).ok_or(Reason::BadRecord)?;
            Ok(Steer::unpack(block.hot[direction & 1].steer.load()))
        };
        if steer(self)?.ingress != arrived.port {
            self.follow_interface(number, direction, arrived, parsed)?;
        }
        if self.is_stale(steer(self)?) {
            self.revalidate(number, arrived.now)?;
        }
        Ok(())
    }

    fn not_shown(&self, number: BlockIndex, reason: Reason) -> Outcome {
        let Some(block) = self.table.block(number) else { return Outcome::of(Reason::BadRecord) };
        let (serial, rule) = (block.owner.serial.load(), block.owner.rules.load() as u16);
        Outcome { session: Some((number, serial)), rule, ..Outcome::of(reason) }
    }

    /// Shows the module what a packet says, and notes what is to be replaced in a stream.
    fn look(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        number: BlockIndex,
        direction: usize,
        packet: &Buffer<'_>,
        io: &mut dyn Io,
    ) -> Result<Payload, Reason> {
        let nothing = || Ok(Payload::default());
        let block = self.table.block(number).ok_or(Reason::BadRecord)?;
        let view = view_of(block);
        if !self.helps(view.rule) {
            self.pause_dialogue(view.serial);
            return nothing();
        }
        if let Transport::Tcp(segment) = &parsed.transport
            && segment.flags & tcp_flags::SYN != 0
        {
            // Its receiver may not take it, and is then told something else.
            return if segment.payload == 0 { nothing() } else { Err(Reason::HelperIncomplete) };
        }
        self.begin_dialogue(number, &view);
        let (payload, stream_at) = match &parsed.transport {
            Transport::Tcp(segment) => {
                if segment.payload == 0 || !self.is_acceptable(number, &view, direction, segment) {
                    return nothing();
                }
                let payload = payload_of(packet, parsed).ok_or(Reason::HelperIncomplete)?;
                let Some((fresh, next)) = self.fresh(number, &view, direction, segment.sequence, payload)? else {
                    return nothing();
                };
                (fresh, Some(next))
            }
            // Datagrams that a device is to cut apart.
            Transport::Udp if packet.offload.segmentation != 0 => return Err(Reason::HelperIncomplete),
            Transport::Udp => (payload_of(packet, parsed).ok_or(Reason::HelperIncomplete)?, None),
            Transport::Echo | Transport::Opaque => return nothing(),
        };
        let said = self.ask_helpers(&view, direction, payload, arrived)?;
        if said.announced {
            // Whoever connects to what was announced has to meet it.
            io.opened();
        }
        if let Some(at) = stream_at {
            self.replace(number, &view, direction, at, payload, &said)?;
        }
        Ok(said)
    }

    /// Whether the TCP check would accept a segment.
    fn is_acceptable(&self, number: BlockIndex, view: &SessionView, direction: usize, segment: &Segment) -> bool {
        let streams = self.dialogues.0.get(&view.serial).and_then(|dialogue| dialogue.streams.as_ref());
        let (Some(block), Some(streams)) = (self.table.block(number), streams) else { return false };
        let acknowledgment = streams[direction ^ 1].shift.acknowledged(segment.acknowledgment);
        tcp::accepts(&block.tcp[direction], &block.tcp[direction ^ 1], &Segment { acknowledgment, ..*segment })
    }

    /// What is new in the payload of an acceptable segment, and its number; `None` when nothing is.
    fn fresh<'a>(
        &mut self,
        number: BlockIndex,
        view: &SessionView,
        direction: usize,
        sequence: u32,
        payload: &'a [u8],
    ) -> Result<Option<(&'a [u8], u32)>, Reason> {
        let acknowledged = self.table.block(number).ok_or(Reason::BadRecord)?.tcp[direction ^ 1].acknowledged();
        let streams = self.dialogues.0.get_mut(&view.serial).and_then(|dialogue| dialogue.streams.as_mut());
        let Some(stream) = streams.map(|streams| &mut streams[direction]) else { return Ok(None) };
        stream.forget(acknowledged);
        let known = stream.next.wrapping_sub(sequence);
        if (known as i32) < 0 {
            return Err(Reason::HelperIncomplete);
        }
        if !stream.repeats(known as usize, payload) {
            return Err(Reason::HelperRefused);
        }
        let Some(fresh) = payload.get(known as usize..).filter(|fresh| !fresh.is_empty()) else { return Ok(None) };
        if !stream.has_room(fresh.len(), acknowledged) {
            return Err(Reason::HelperLimit);
        }
        Ok(Some((fresh, stream.next)))
    }

    fn ask_helpers(
        &mut self,
        view: &SessionView,
        direction: usize,
        payload: &[u8],
        arrived: &Arrived,
    ) -> Result<Payload, Reason> {
        let mut all = Payload::default();
        for module in &mut self.modules {
            let mut context = Context {
                routing: &mut self.routing,
                interfaces: &self.interfaces,
                random: &mut self.random,
                sources: &self.sources,
                now: arrived.now,
            };
            let said = module.payload(view, direction, payload, &mut context)?;
            all.replacements.extend(said.replacements);
            all.announced |= said.announced;
            all.declined |= said.declined;
            all.binding |= said.binding;
        }
        Ok(all)
    }

    /// Notes that payload from the number `at` on was looked at, and what becomes of it.
    fn replace(
        &mut self,
        number: BlockIndex,
        view: &SessionView,
        direction: usize,
        at: u32,
        payload: &[u8],
        said: &Payload,
    ) -> Result<(), Reason> {
        let block = self.table.block(number).ok_or(Reason::BadRecord)?;
        let acknowledged = block.tcp[direction ^ 1].acknowledged();
        let dialogue = self.dialogues.0.get_mut(&view.serial).and_then(|dialogue| dialogue.streams.as_mut());
        let Some(streams) = dialogue else { return Err(Reason::BadRecord) };
        let stream = &mut streams[direction];
        let mut shift = stream.shift.clone();
        shift.forget(at, acknowledged);
        for replacement in &said.replacements {
            let place = at.wrapping_add(replacement.at as u32);
            if !shift.replace(place, replacement.old as u32, replacement.new.clone(), acknowledged) {
                return Err(Reason::HelperLimit);
            }
        }
        stream.shift = shift;
        stream.next = at.wrapping_add(payload.len() as u32);
        if said.binding {
            stream.shown.extend_from_slice(payload);
        } else {
            stream.shown = Vec::new();
        }
        block.tcp[direction].set_shift(stream.shift.total());
        Ok(())
    }

    /// Begins to look at a connection, unless that has begun.
    fn begin_dialogue(&mut self, number: BlockIndex, view: &SessionView) {
        let Some(block) = self.table.block(number) else { return };
        let is_tcp = view.keys[0].protocol() == protocol::TCP;
        if is_tcp && block.tcp[0].flags() & block.tcp[1].flags() & flag::KNOWN == 0 {
            // Not both sides have said where they begin.
            return;
        }
        let dialogue = self.dialogues.0.entry(view.serial).or_insert_with(|| Dialogue::of(number));
        let paused = std::mem::take(&mut dialogue.paused);
        let [forward, reverse] = &block.tcp;
        match &mut dialogue.streams {
            Some(_) if !paused => return,
            Some([client, server]) => {
                client.go_on_from(reached(forward, reverse));
                server.go_on_from(reached(reverse, forward));
            }
            None => dialogue.streams = Some([Stream::of(forward, reverse), Stream::of(reverse, forward)]),
        }
        let running = is_tcp && is_running(block);
        for module in &mut self.modules {
            module.payload_begins(view, running);
        }
    }

    /// A connection was taken up with a segment of Forward: that is looked at, and of the other side what follows the
    /// segment's acknowledgment.
    pub(crate) fn take_up_dialogue(&mut self, number: BlockIndex, segment: &Segment) {
        if !self.has_helper(number) {
            return;
        }
        let Some(view) = self.table.block(number).map(view_of) else { return };
        self.begin_dialogue(number, &view);
        let dialogue = self.dialogues.0.get_mut(&view.serial).and_then(|dialogue| dialogue.streams.as_mut());
        if let Some([forward, reverse]) = dialogue {
            forward.go_on_from(segment.sequence);
            reverse.go_on_from(segment.acknowledgment);
        }
    }

    /// What a connection says is passed on without being shown.
    pub(crate) fn pause_dialogue(&mut self, serial: u32) {
        if let Some(dialogue) = self.dialogues.0.get_mut(&serial) {
            dialogue.paused = true;
        }
    }

    /// A connection begins anew in the place of one that has ended: what was said is of the old one.
    pub(crate) fn end_dialogue(&mut self, number: BlockIndex) {
        let Some(block) = self.table.block(number) else { return };
        if let Some(dialogue) = self.dialogues.0.get_mut(&block.owner.serial.load()) {
            dialogue.streams = None;
        }
    }

    /// Sends a packet on by its entry with the numbers and the payload that it leaves with.
    fn leave(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        number: BlockIndex,
        direction: usize,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Outcome {
        let mut leaving = match self.prepare(parsed, number, direction, packet) {
            Ok(Some(leaving)) => leaving,
            Ok(None) => return self.by_entry(arrived, parsed, number, direction, packet, None, io),
            Err(reason) => return self.not_shown(number, reason),
        };
        if self.has_outgrown(number, direction, parsed, &leaving, packet)
            && let Some(pieces) = split(packet, parsed)
        {
            return self.leave_in_two(arrived, pieces, number, direction, packet.offload, io);
        }
        let offload = packet.offload;
        let mut changed = Buffer::new(&mut leaving.bytes, offload);
        self.by_entry(arrived, &leaving.parsed, number, direction, packet, Some(&mut changed), io)
    }

    /// Sends a datagram on with other texts in it. One that does not fit the output any more leaves in fragments, whatever
    /// its sender wanted: it cannot know. Over IPv6 it is too big.
    #[expect(clippy::too_many_arguments, reason = "the state of one packet's judgement")]
    fn leave_replaced(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        number: BlockIndex,
        direction: usize,
        packet: &mut Buffer<'_>,
        said: &Payload,
        io: &mut dyn Io,
    ) -> Outcome {
        let Some(mut leaving) = replaced(packet, parsed, said) else { return Outcome::of(Reason::HelperLimit) };
        if parsed.key.family() == 4 && self.has_outgrown(number, direction, parsed, &leaving, packet) {
            allow_fragments(&mut leaving.bytes, parsed);
        }
        let mut changed = Buffer::new(&mut leaving.bytes, packet.offload);
        self.by_entry(arrived, &leaving.parsed, number, direction, packet, Some(&mut changed), io)
    }

    fn leave_in_two(
        &mut self,
        arrived: &Arrived,
        pieces: [Leaving; 2],
        number: BlockIndex,
        direction: usize,
        offload: Offload,
        io: &mut dyn Io,
    ) -> Outcome {
        let mut last = Outcome::of(Reason::BadRecord);
        for mut piece in pieces {
            let mut half = Buffer::new(&mut piece.bytes, offload);
            last = self.leave(arrived, &piece.parsed, number, direction, &mut half, io);
            if last.kind != Kind::Forward {
                return last;
            }
        }
        Outcome { kind: Reason::Fragmented.slow_kind(), reason: Reason::Fragmented, ..last }
    }

    /// Whether a segment that would have fit the output does not, now that it is longer.
    fn has_outgrown(
        &self,
        number: BlockIndex,
        direction: usize,
        parsed: &Parsed,
        leaving: &Leaving,
        packet: &Buffer<'_>,
    ) -> bool {
        let Some(hop) = self.hop_of(number, direction) else { return false };
        let [before, after] = [parsed, &leaving.parsed].map(|parsed| wire_length(parsed, packet.segment()));
        // One whose neighbour is not known waits as it came.
        hop.flags & NextHop::RESOLVED != 0 && before <= hop.mtu && after > hop.mtu
    }

    /// A segment with its numbers and payload as they leave; `None` when it leaves as it came.
    fn prepare(
        &self,
        parsed: &Parsed,
        number: BlockIndex,
        direction: usize,
        packet: &Buffer<'_>,
    ) -> Result<Option<Leaving>, Reason> {
        let Transport::Tcp(segment) = &parsed.transport else { return Ok(None) };
        let block = self.table.block(number).ok_or(Reason::BadRecord)?;
        let dialogue = self.dialogues.0.get(&block.owner.serial.load());
        // Nobody wants to look any more, but what was replaced before another process began shifts it still.
        let recorded = [0, 1].map(|direction| Shift::by(block.tcp[direction].shift()));
        let shifts = match dialogue.and_then(|dialogue| dialogue.streams.as_ref()) {
            Some(streams) => [&streams[0].shift, &streams[1].shift],
            None => [&recorded[0], &recorded[1]],
        };
        let [own, peer] = [shifts[direction & 1], shifts[(direction & 1) ^ 1]];
        if segment.flags & tcp_flags::SYN != 0 || (own.is_none() && peer.is_none()) {
            return Ok(None);
        }
        shifted(packet, parsed, segment, [own, peer]).map(Some).ok_or(Reason::HelperIncomplete)
    }
}

/// Up to where a side has said something. Of one that was taken up it is not known what it has sent, only that its peer
/// has not acknowledged more ([`tcp::take_up`]).
fn reached(half: &TcpHalf, peer: &TcpHalf) -> u32 {
    let acknowledged = peer.acknowledged();
    let is_far = peer.flags() & flag::GRANTED != 0 && half.end().wrapping_sub(acknowledged) > FAR;
    if is_far { acknowledged } else { half.end() }
}

/// Whether both sides have acknowledged each other's SYN.
fn is_running(block: &Block) -> bool {
    block.tcp[0].flags() & block.tcp[1].flags() & flag::GRANTED != 0
}
