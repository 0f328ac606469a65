//! Shadow mode, the slow path's part: a packet that a kernel program has forwarded is judged once more and compared.
//!
//! The entry is made anew from the keys of both directions, with the TCP context and steering word that the program has seen;
//! the forwarding function judges the packet by that, here and now, and the modules are asked whether the connection may be
//! there at all. Where anything differs, the connection is put on the user path for good, its entry is mended, and the
//! daemon keeps what was seen. What has changed meanwhile (the entry, its next hop, the policy) is no difference.

use flowhop_flow::forward::{Hit, judge};
use flowhop_flow::parse;
use flowhop_flow::record::{Action, Block, Steer, Tick};
use flowhop_flow::rewrite::{self, fix_in_place};
use flowhop_flow::shadow::{HEAD, Sample, output, sample_flags};
use flowhop_flow::{Packet, Parsed, Reason};
use flowhop_table::{BlockIndex, is_live, key_of, rewrite_between, set_rewrite};
use flowhop_wire::checksum::Delta;
use flowhop_wire::{Frame, Ipv4};

use crate::engine::{Engine, UserHost};
use crate::identification;
use crate::interfaces::PathReason;
use crate::nat64;
use crate::paths::Way;
use crate::refusals::is_refusal;

/// How often packets were compared, and with what outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowStatus {
    /// One packet in so many of those that kernel programs forward; 0: none.
    pub one_in: u32,
    /// Packets of which the slow path makes the same.
    pub same: u64,
    /// Packets of which it makes something else.
    pub different: u64,
    /// Packets that could not be judged: their connection, next hop or policy is another one by now.
    pub unjudged: u64,
}

/// What differed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differing {
    /// The slow path does not forward the packet, for this reason.
    Verdict(Reason),
    /// It sends it out by another interface, this one.
    Output(u32),
    /// It makes something else of it.
    Bytes,
    /// The modules know of no such connection under the policy.
    Policy,
}

/// A packet of which the slow path makes something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The connection, by its serial number, and the direction, 0 or 1.
    pub session: (u32, usize),
    /// What differs.
    pub what: Differing,
    /// The head of what the slow path makes of the packet; of one that it does not forward, of the packet as it came.
    pub expected: Vec<u8>,
}

/// What became of comparing a packet.
enum Compared {
    Same,
    Unjudged,
    Different(Differing, Head),
}

/// The head of a packet, as a packet.
#[derive(Clone, Copy)]
struct Head {
    bytes: [u8; HEAD],
    kept: usize,
    length: usize,
    /// The transport checksum is the sum of the pseudo-header alone.
    partial: bool,
}

impl Head {
    fn of(sample: &Sample, partial: bool) -> Self {
        let kept = usize::from(sample.kept).min(HEAD);
        Self { bytes: sample.before, kept, length: (sample.length as usize).max(kept), partial }
    }

    fn seen(&self) -> &[u8] {
        self.bytes.get(..self.kept).unwrap_or_default()
    }
}

impl Frame for Head {
    fn len(&self) -> usize {
        self.length
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.seen().get(offset..)?.first_chunk()
    }

    fn write<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(offset..self.kept)?.first_chunk_mut()
    }
}

impl Packet for Head {
    fn shorten(&mut self, _: usize) -> Option<()> {
        None
    }

    fn fix_checksum(&mut self, offset: usize, addresses: Delta, ports: Delta, udp: bool) -> Option<()> {
        let partial = self.partial;
        fix_in_place(self, offset, addresses, ports, udp, partial)
    }
}

/// Reasons that say that something has changed since the program has seen the packet.
const fn is_of_change(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::StalePolicy | Reason::StaleAdjacency | Reason::Torn | Reason::NeighbourUnresolved | Reason::TooBig
    )
}

impl Engine {
    /// Has the kernel programs let one packet in so many be looked at; 0: none.
    pub fn set_shadow(&mut self, one_in: u32) {
        self.shadow.one_in = one_in;
        self.table.config().shadow.store(one_in);
    }

    /// How shadow mode is doing.
    #[must_use]
    pub const fn shadow(&self) -> ShadowStatus {
        self.shadow
    }

    /// Judges a packet once more that a kernel program has forwarded. What differs is returned, once its connection is on the
    /// user path and its entry is as it should be.
    pub fn compare(&mut self, sample: &Sample, now: Tick) -> Option<Difference> {
        let Some((parsed, number, direction)) = self.shadowed(sample) else {
            self.shadow.unjudged += 1;
            return None;
        };
        match self.judged_again(sample, &parsed, number, direction, now) {
            Compared::Same => {
                self.shadow.same += 1;
                None
            }
            Compared::Unjudged => {
                self.shadow.unjudged += 1;
                None
            }
            Compared::Different(what, expected) => {
                self.shadow.different += 1;
                let serial = self.table.block(number).map_or(0, |block| block.owner.serial.load());
                self.demote(number, now);
                Some(Difference { session: (serial, direction), what, expected: expected.seen().to_vec() })
            }
        }
    }

    /// What a sample is of: the packet, and its connection, if its entry is still as the program has seen it.
    fn shadowed(&self, sample: &Sample) -> Option<(Parsed, BlockIndex, usize)> {
        let head = Head::of(sample, false);
        let network = usize::from(sample.network);
        let parsed = match head.seen().get(network)? >> 4 {
            4 => parse::ipv4(&head, network, 0),
            _ => parse::ipv6(&head, network, 0),
        };
        let parsed = parsed.ok()?;
        let (number, direction) = self.table.find(&parsed.key, self.table.hash(&parsed.key))?;
        let block = self.table.block(number).filter(|block| is_live(block))?;
        let unchanged = block.hot[direction].steer.load() == sample.steer;
        (unchanged && !is_refusal(block) && !nat64::crosses(block)).then_some((parsed, number, direction))
    }

    fn judged_again(
        &mut self,
        sample: &Sample,
        parsed: &Parsed,
        number: BlockIndex,
        direction: usize,
        now: Tick,
    ) -> Compared {
        let Some(block) = self.table.block(number) else { return Compared::Unjudged };
        let steer = Steer::unpack(sample.steer);
        let driver = sample.flags & sample_flags::DRIVER != 0;
        // Only on the socket buffer a device may be left to finish checksums, of which the sample does not tell.
        for partial in [false, true] {
            let fresh = remade(block, direction, sample);
            let hit = Hit { block: &fresh, direction };
            let mut head = Head::of(sample, partial);
            let (host, config) = (UserHost(&self.table), self.table.config());
            let result = judge(&host, config, &mut head, parsed, &hit, steer, sample.port, sample.segment, now);
            let hop = match result {
                Ok(hop) => hop,
                Err(reason) if is_of_change(reason) => return Compared::Unjudged,
                Err(reason) => return Compared::Different(Differing::Verdict(reason), Head::of(sample, false)),
            };
            accept_identification(&mut head, sample, parsed);
            // Link-layer addresses are the next hop's business, which may be another by now.
            let from = parsed.network;
            let same = head.seen().get(from..) == sample.after.get(from..head.kept);
            if !same && !partial && !driver {
                continue;
            }
            if !same {
                return Compared::Different(Differing::Bytes, head);
            }
            let out = output(&hop, driver);
            if out != sample.ifindex {
                return Compared::Different(Differing::Output(out), head);
            }
            if !self.reload_is_over() {
                return Compared::Same;
            }
            return match self.ask_again(number) {
                Some(_) => Compared::Same,
                None => Compared::Different(Differing::Policy, head),
            };
        }
        Compared::Unjudged
    }

    /// Puts a connection on the user path for good, and its entry right.
    fn demote(&mut self, number: BlockIndex, now: Tick) {
        for direction in 0..2 {
            let Some(block) = self.table.block(number) else { return };
            let hot = &block.hot[direction];
            set_rewrite(hot, &rewrite_between(&key_of(block, direction), &key_of(block, direction ^ 1)));
            let steer = Steer::unpack(hot.steer.load());
            let way = Way { action: Action::User, skb: steer.skb, reason: PathReason::Shadow };
            self.put(number, direction, way, now);
        }
    }
}

/// The connection of a sample as it should be, with the context that the program has seen.
fn remade(block: &Block, direction: usize, sample: &Sample) -> Block {
    let fresh = Block::default();
    for side in 0..2 {
        let (hot, known) = (&fresh.hot[side], &block.hot[side]);
        hot.source.store(known.source.load());
        hot.destination.store(known.destination.load());
        hot.ports.store(known.ports.load());
        hot.identity.store(known.identity.load());
        set_rewrite(hot, &rewrite_between(&key_of(block, side), &key_of(block, side ^ 1)));
    }
    for (cells, known) in fresh.wide.iter().zip(&block.wide) {
        cells.iter().zip(known).for_each(|(cell, word)| cell.store(word.load()));
    }
    let [sent, allowed, state, others @ ..] = sample.tcp;
    for (half, words) in [(direction, [sent, allowed, state]), (direction ^ 1, others)] {
        let half = &fresh.tcp[half & 1];
        half.sent.store(words[0]);
        half.allowed.store(words[1]);
        half.state.store(words[2]);
    }
    fresh
}

/// Takes the identification that the program has chosen, where it had to choose one.
fn accept_identification(head: &mut Head, sample: &Sample, parsed: &Parsed) {
    let network = parsed.network;
    let is_v4 = parsed.key.family() == 4;
    let Some(seen) = sample.after.get(network..).and_then(|bytes| bytes.first_chunk::<{ Ipv4::LEN }>()) else { return };
    let Some(header) = head.write::<{ Ipv4::LEN }>(network) else { return };
    let moved = sample.before.get(network + 12..network + 20) != Some(&header[12..20]);
    if is_v4 && moved && rewrite::may_be_cut(header) {
        identification::set(header, u16::from_be_bytes([seen[4], seen[5]]));
    }
}
