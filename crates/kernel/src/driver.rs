//! The shell around the forwarding function in a driver (XDP).
//!
//! What is not for the path in the driver is passed on, unchanged and uncounted, to the program on the socket buffer
//! of the same port, which judges and counts it.

use core::marker::PhantomData;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use flowhop_flow::parse::ETHERNET;
use flowhop_flow::record::{Gate, PortKey, QUEUES};
use flowhop_flow::{Arrival, Host, Kind, Reason, Verdict, forward};
use flowhop_wire::Frame;

use crate::host::{Index, Tables};
use crate::maps::{CONFIG, DRIVER_COUNTERS, PORTS, SOCKETS};
use crate::metadata::Punt;
use crate::xdp::Xdp;
use crate::{count, now, redirect};

/// A frame comes in.
#[inline(always)]
pub fn receive<I: Index>(raw: *mut xdp_md) -> u32 {
    let packet = Xdp::new(raw);
    // Two copies of the forwarding function, so that in each of them every offset is a constant.
    match packet.vid() {
        Some(vid) => judge::<I>(packet, ETHERNET + 4, vid),
        None => judge::<I>(packet, ETHERNET, 0),
    }
}

#[inline(always)]
fn judge<I: Index>(mut packet: Xdp, network: usize, vid: u16) -> u32 {
    let Some(config) = CONFIG.get(0) else {
        return XDP_PASS;
    };
    let tables = Tables::<I, true> { config, index: PhantomData };
    let port = PortKey { ifindex: packet.ifindex(), vid };
    let arrival = Arrival { port, network, tagged: false, segment: 0 };
    let verdict = forward(&tables, &mut packet, &arrival, now(config));
    let whole = matches!(verdict.kind, Kind::Forward | Kind::Consume);
    let frame = if whole { packet.len() } else { packet.measure() };
    let length = frame + ETHERNET - network;
    let (action, reason) = match verdict.kind {
        Kind::Forward => {
            let hop = &verdict.hop;
            if packet.retag(network > ETHERNET, hop.vid, &hop.macs) {
                (redirect(hop.lower, 0) as u32, verdict.reason)
            } else {
                (XDP_DROP, Reason::Device)
            }
        }
        Kind::HandDown => match hand_down(&tables, &mut packet, &verdict) {
            Some(action) => (action, verdict.reason),
            None => return XDP_PASS,
        },
        Kind::Drop => (XDP_DROP, verdict.reason),
        // It has become its own answer, with the tag that it came with.
        Kind::Consume => (redirect(port.ifindex, 0) as u32, verdict.reason),
        // Nothing is held at this level.
        Kind::Pass | Kind::Stack | Kind::Hold => return XDP_PASS,
    };
    count(&DRIVER_COUNTERS, verdict.port, reason, length);
    action
}

/// Sends a frame to the daemon's socket of its queue, with what is known of it in front. `None` where the queue has no
/// socket, as when queues were added a moment ago: then the frame takes the socket buffer's way to the daemon.
#[inline(always)]
fn hand_down<H: Host>(host: &H, packet: &mut Xdp, verdict: &Verdict) -> Option<u32> {
    let queue = packet.queue();
    let first = PORTS.get(u32::from(verdict.port)).map_or(0, |port| port.driver.load() >> 16);
    if (queue as usize) < QUEUES && SOCKETS.get(first + queue).is_some() {
        let punt = Punt { port: verdict.port, reason: verdict.reason.number(), gate: verdict.gate as u16 };
        let [a, b, c, d, e, f] = punt.address();
        if packet.describe([a, b, c, d, e, f, 0, 0]) {
            // Without a socket after all the frame is dropped rather than let through.
            match SOCKETS.redirect(first + queue, u64::from(XDP_DROP)) {
                Ok(action) | Err(action) => return Some(action),
            }
        }
    }
    // The program on the socket buffer counts the packet at the gate by itself.
    if verdict.gate != 0 {
        host.gate(verdict.gate - 1).map(Gate::leave);
    }
    None
}
