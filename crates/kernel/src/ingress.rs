//! The shell around the forwarding function on the socket buffer (tc ingress).

use core::marker::PhantomData;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT};
use flowhop_flow::parse::ETHERNET;
use flowhop_flow::record::{Config, Gate, NextHop, PortKey};
use flowhop_flow::{Arrival, Host, Kind, Reason, Verdict, forward};
use flowhop_wire::Frame;

use crate::host::{Index, Tables, port_of};
use crate::maps::{CONFIG, COUNTERS};
use crate::metadata::Punt;
use crate::skb::Skb;
use crate::{count, now, redirect};

/// `TCX_NEXT`: the next program, or else the stack.
const NEXT: i32 = -1;
/// `TCX_DROP`.
pub const SHOT: i32 = TC_ACT_SHOT as i32;

/// A packet comes in, with its IP header at `NETWORK`.
#[inline(always)]
pub fn receive<I: Index, const NETWORK: usize>(raw: *mut __sk_buff) -> i32 {
    let mut packet = Skb::new(raw);
    let Some(config) = CONFIG.get(0) else {
        return NEXT;
    };
    let key = PortKey::of(packet.ifindex());
    let mark = packet.mark();
    if mark != 0 && mark == config.reinject_mark.load() {
        packet.set_mark(0);
        if let Some((port, _)) = port_of(key) {
            count(&COUNTERS, port, Reason::Reinjected, packet.len());
        }
        return NEXT;
    }
    if packet.priority_tagged() {
        packet.pop_tag();
        if packet.priority_tagged() {
            if let Some((port, _)) = port_of(key) {
                count(&COUNTERS, port, Reason::PriorityTag, packet.len());
            }
            return SHOT;
        }
    }
    packet.pull_headers(NETWORK);
    let tables = Tables::<I, false> { config, index: PhantomData };
    let arrival = Arrival { port: key, network: NETWORK, tagged: packet.tagged(), segment: packet.segment() };
    let length = packet.len() + ETHERNET - NETWORK;
    let verdict = forward(&tables, &mut packet, &arrival, now(config));
    let (action, reason) = match verdict.kind {
        Kind::Forward => transmit::<NETWORK>(&mut packet, &verdict),
        Kind::Stack | Kind::Pass => (NEXT, verdict.reason),
        Kind::HandDown => hand_down::<_, NETWORK>(&tables, config, &mut packet, &verdict),
        // It has become its own answer.
        Kind::Consume => {
            packet.settle_answer(NETWORK);
            (redirect(key.ifindex, 0), verdict.reason)
        }
        // Nothing is held at this level.
        Kind::Drop | Kind::Hold => (SHOT, verdict.reason),
    };
    if verdict.reason != Reason::NoInterface {
        count(&COUNTERS, verdict.port, reason, length);
    }
    action
}

/// Sends a rewritten packet out. A link-layer header that the output does not have is taken off by the kernel.
#[inline(always)]
fn transmit<const NETWORK: usize>(packet: &mut Skb, verdict: &Verdict) -> (i32, Reason) {
    packet.settle(NETWORK);
    let hop = &verdict.hop;
    if NETWORK == 0 && hop.flags & NextHop::HEADERLESS == 0 && !packet.push_link(&hop.macs) {
        return (SHOT, Reason::Device);
    }
    (redirect(hop.ifindex, 0), verdict.reason)
}

/// Sends a packet to the daemon, with what is known of it in the destination address.
#[inline(always)]
fn hand_down<H: Host, const NETWORK: usize>(
    host: &H,
    config: &Config,
    packet: &mut Skb,
    verdict: &Verdict,
) -> (i32, Reason) {
    let punt = Punt { port: verdict.port, reason: verdict.reason.number(), gate: verdict.gate as u16 };
    let device = config.punt_ifindex.load();
    if device != 0 && (NETWORK != 0 || packet.push_link(&[0; 12])) && packet.set(0, punt.address()) {
        return (redirect(device, 0), verdict.reason);
    }
    if verdict.gate != 0 {
        host.gate(verdict.gate - 1).map(Gate::leave);
    }
    (SHOT, Reason::PuntFailed)
}
