//! The kernel programs.
//!
//! Thin shells over [`flowhop_flow::forward`]: they make a socket buffer into a packet, maps into tables, and a
//! verdict into an action. Nothing is decided here.
//!
//! * `flowhop_ingress`, `flowhop_ingress_hash`: on the ingress of every port (tcx), with our own index or a
//!   hash map of the kernel's;
//! * `flowhop_tap`: on the ingress of the punt device, that is for packets that the daemon writes.
//!
//! Interfaces to user space: [`maps`] and [`metadata`].
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, reason = "the `classifier` macro makes functions of its own, without the comments")]

mod host;
mod maps;
#[expect(dead_code, reason = "user space reads what is written here, and the other way round")]
mod metadata;
mod skb;

use core::marker::PhantomData;

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_redirect};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::{macros::classifier, programs::TcContext};
use flowhop_flow::reason::REASON_SLOTS;
use flowhop_flow::record::{Config, Gate, PortCounters, TICK_SHIFT};
use flowhop_flow::{Arrival, Host, Kind, Reason, Verdict, forward};
use flowhop_wire::Frame;

use crate::host::{Index, KernelHash, Lines, Tables, port_of};
use crate::maps::{CONFIG, COUNTERS, PORTS, TAP_COUNTERS};
use crate::metadata::{Order, Punt, TO_STACK, TRANSMIT};
use crate::skb::{Skb, opaque};

/// `TCX_NEXT`: the next program, or else the stack.
const NEXT: i32 = -1;
/// `TCX_DROP`.
const SHOT: i32 = TC_ACT_SHOT as i32;

/// Ingress of a port, with our own index.
#[classifier]
pub fn flowhop_ingress(context: TcContext) -> i32 {
    ingress::<Lines>(context.skb.skb)
}

/// Ingress of a port, with a hash map of the kernel's as index.
#[classifier]
pub fn flowhop_ingress_hash(context: TcContext) -> i32 {
    ingress::<KernelHash>(context.skb.skb)
}

/// Ingress of the punt device: carries out the daemon's orders.
#[classifier]
pub fn flowhop_tap(context: TcContext) -> i32 {
    tap(context.skb.skb)
}

#[inline(always)]
fn ingress<I: Index>(raw: *mut __sk_buff) -> i32 {
    let mut packet = Skb::new(raw);
    let Some(config) = CONFIG.get(0) else {
        return NEXT;
    };
    let mark = packet.mark();
    if mark != 0 && mark == config.reinject_mark.load() {
        packet.set_mark(0);
        if let Some((port, _)) = port_of(packet.ifindex()) {
            count(&COUNTERS, port, Reason::Reinjected, packet.len());
        }
        return NEXT;
    }
    if packet.priority_tagged() {
        packet.pop_tag();
        if packet.priority_tagged() {
            if let Some((port, _)) = port_of(packet.ifindex()) {
                count(&COUNTERS, port, Reason::PriorityTag, packet.len());
            }
            return SHOT;
        }
    }
    packet.pull_headers();
    let tables = Tables::<I> { config, index: PhantomData };
    let arrival = Arrival { ifindex: packet.ifindex(), tagged: packet.tagged(), segment: packet.segment() };
    // SAFETY: the helper has no preconditions.
    let now = (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32;
    let length = packet.len();
    let verdict = forward(&tables, &mut packet, &arrival, now);
    let (action, reason) = match verdict.kind {
        Kind::Forward => {
            packet.settle();
            (redirect(verdict.ifindex, 0), verdict.reason)
        }
        Kind::Stack => (NEXT, verdict.reason),
        Kind::HandDown => hand_down(&tables, config, &mut packet, &verdict),
        // Nothing is held or consumed at this level.
        Kind::Drop | Kind::Hold | Kind::Consume => (SHOT, verdict.reason),
    };
    if verdict.reason != Reason::NoInterface {
        count(&COUNTERS, verdict.port, reason, length);
    }
    action
}

/// Sends a packet to the daemon, with what is known of it in the destination address.
#[inline(always)]
fn hand_down<H: Host>(host: &H, config: &Config, packet: &mut Skb, verdict: &Verdict) -> (i32, Reason) {
    let punt = Punt { port: verdict.port, reason: verdict.reason.number(), gate: verdict.gate as u16 };
    let device = config.punt_ifindex.load();
    if device != 0 && packet.set(0, punt.address()) {
        return (redirect(device, 0), verdict.reason);
    }
    if verdict.gate != 0 {
        host.gate(verdict.gate - 1).map(Gate::leave);
    }
    (SHOT, Reason::PuntFailed)
}

#[inline(always)]
fn tap(raw: *mut __sk_buff) -> i32 {
    let mut packet = Skb::new(raw);
    let length = packet.len();
    let order = packet.read::<6>(6).and_then(|source| Order::parse(*source));
    let Some(order) = order else {
        count(&TAP_COUNTERS, 0, Reason::BadHeader, length);
        return SHOT;
    };
    let (action, reason) = obey(&mut packet, order);
    count(&TAP_COUNTERS, order.port, reason, length);
    action
}

#[inline(always)]
fn obey(packet: &mut Skb, order: Order) -> (i32, Reason) {
    let Some(port) = PORTS.get(u32::from(order.port)) else {
        return (SHOT, Reason::Device);
    };
    let ifindex = port.ifindex.load();
    if ifindex == 0 {
        return (SHOT, Reason::Device);
    }
    let mac = port.mac();
    match order.action {
        TRANSMIT if packet.set(6, mac) => (redirect(ifindex, 0), Reason::Forwarded),
        TO_STACK => {
            let Some(config) = CONFIG.get(0) else {
                return (SHOT, Reason::Device);
            };
            // The stack takes only what is addressed to the interface. The sender's address is lost on the way
            // through the daemon and the stack does not read it; it must only not be the interface's own.
            let [a, b, c, d, e, f] = mac;
            if !packet.set(0, [a, b, c, d, e, f, a ^ 2, b, c, d, e, f]) {
                return (SHOT, Reason::Device);
            }
            packet.set_mark(config.reinject_mark.load());
            (redirect(ifindex, u64::from(BPF_F_INGRESS)), Reason::Reinjected)
        }
        _ => (SHOT, Reason::BadHeader),
    }
}

#[inline(always)]
fn redirect(ifindex: u32, flags: u64) -> i32 {
    // SAFETY: the helper has no preconditions; it answers `TC_ACT_REDIRECT`, or drops for unknown flags.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}

/// Moves the one counter of a packet. Counters are this processor's own, and programs on it do not interrupt
/// each other, so plain additions do.
#[inline(always)]
fn count(counters: &'static PerCpuArray<PortCounters>, port: u8, reason: Reason, length: usize) {
    let number = opaque(reason.number() as usize);
    let Some(counters) = counters.get_ptr(u32::from(port)) else {
        return;
    };
    if number >= REASON_SLOTS {
        return;
    }
    // SAFETY: the value is `REASON_SLOTS` counts one behind the other, and the number is below that.
    let slot = unsafe { &*counters.cast::<flowhop_flow::record::Count>().add(number) };
    slot.packets.store(slot.packets.load() + 1);
    slot.bytes.store(slot.bytes.load() + length as u64);
}

/// The kernel loads programs with helpers for GPL-compatible licences only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Nothing panics; the verifier would refuse a program that could.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
