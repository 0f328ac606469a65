//! The largest segments of TCP connections, as their SYNs announce them, brought down to what the way can carry.
//!
//! Both SYNs have to pass here for that, so a connection that is to be clamped stays on the user path until it is
//! established ([`PathReason::Handshake`](crate::PathReason::Handshake)).

use flowhop_flow::forward::Packet;
use flowhop_flow::record::{Action, Steer, Tick};
use flowhop_flow::tcp::Phase;
use flowhop_flow::{Parsed, Transport};
use flowhop_table::BlockIndex;
use flowhop_wire::checksum::Delta;
use flowhop_wire::options::{TcpOption, TcpOptions};
use flowhop_wire::{Frame, tcp_flags};

use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::interfaces::PathReason;
use crate::paths::Way;
use crate::views::view_of;

/// What the announced size is brought down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssClamp {
    /// What fits the MTU of both outputs.
    Path,
    /// So many bytes.
    Bytes(u16),
}

/// Bytes of the IP and TCP headers that the MTU has room for beside a segment (RFC 6691).
const HEADERS: [u32; 2] = [20 + 20, 40 + 20];
/// Offset of the checksum in a TCP header, and length of one without options.
const CHECKSUM: usize = 16;
const TCP_HEADER: usize = 20;

impl Engine {
    /// Whether SYNs of a connection are clamped, from the identities of its rule and translations.
    pub(crate) fn clamps(&self, rule: u16, nats: [u16; 2]) -> bool {
        self.clamp_of(rule, nats).next().is_some()
    }

    fn clamp_of(&self, rule: u16, nats: [u16; 2]) -> impl Iterator<Item = MssClamp> {
        self.modules.iter().flat_map(move |module| nats.map(|nat| module.mss(rule, nat))).flatten()
    }

    /// Brings down what a SYN of a connection announces, if the policy says so.
    pub(crate) fn clamp_mss(&self, number: BlockIndex, parsed: &Parsed, packet: &mut Buffer<'_>) {
        let Transport::Tcp(segment) = &parsed.transport else { return };
        let Some(block) = self.table.block(number).filter(|_| segment.flags & tcp_flags::SYN != 0) else { return };
        let view = view_of(block);
        let path = || {
            let sizes = [0, 1].into_iter().filter_map(|direction| {
                // What leaves is of the family that its answers are of.
                let headers = HEADERS[usize::from(view.keys[direction ^ 1].family() == 6)];
                self.hop_of(number, direction)?.mtu.checked_sub(headers).filter(|size| *size > 0)
            });
            sizes.min().map(|size| u16::try_from(size).unwrap_or(u16::MAX))
        };
        let most = self.clamp_of(view.rule, [view.nat, view.destination_nat]).filter_map(|clamp| match clamp {
            MssClamp::Bytes(bytes) => Some(bytes),
            MssClamp::Path => path(),
        });
        if let Some(most) = most.min() {
            // Options that make no sense are somebody else's to refuse.
            let _absent = clamp(packet, parsed.transport_offset, usize::from(segment.header), most);
        }
    }

    /// A known connection opens anew: both SYNs have to come here if they are clamped.
    pub(crate) fn begin_handshake(&mut self, number: BlockIndex, now: Tick) {
        let Some(block) = self.table.block(number) else { return };
        let view = view_of(block);
        if !self.clamps(view.rule, [view.nat, view.destination_nat]) {
            return;
        }
        for direction in 0..2 {
            let Some(block) = self.table.block(number) else { return };
            let steer = Steer::unpack(block.hot[direction].steer.load());
            if steer.action == Action::Forward {
                let way = Way { action: Action::User, skb: steer.skb, reason: PathReason::Handshake };
                self.put(number, direction, way, now);
            }
        }
    }

    /// Whether a connection was kept here for its SYNs and is established, so that it may go where it is fastest.
    pub(crate) fn has_opened(&self, number: BlockIndex) -> bool {
        let Some(block) = self.table.block(number) else { return false };
        let flags = block.owner.flags.load();
        let reasons = [0, 8].map(|shift| PathReason::from_number((flags >> shift) as u8));
        let waits = reasons.iter().any(|reason| matches!(reason, PathReason::Handshake | PathReason::SynCookie));
        waits && Phase::of(block.tcp[0].flags(), block.tcp[1].flags()) >= Phase::Established
    }
}

/// Writes the size over a larger one in the options of a TCP header of so many bytes.
fn clamp(packet: &mut Buffer<'_>, transport: usize, header: usize, most: u16) -> Option<()> {
    let list = packet.bytes().get(transport + TCP_HEADER..transport + header)?;
    let mut options = TcpOptions::new(list);
    let old = loop {
        if let TcpOption::Mss(size) = options.next()?.ok()? {
            break size;
        }
    };
    if old <= most {
        return Some(());
    }
    let value = transport + TCP_HEADER + options.offset() + 2;
    *packet.write::<2>(value)? = most.to_be_bytes();
    // In memory order; where the value is in two words of the sum, it counts with its bytes in exchange.
    let word = |size: u16| {
        let word = u16::from_ne_bytes(size.to_be_bytes());
        if (value - transport).is_multiple_of(2) { word } else { word.swap_bytes() }
    };
    packet.fix_checksum(transport + CHECKSUM, Delta::ZERO, Delta::ZERO.replace16(word(old), word(most)), false)
}
