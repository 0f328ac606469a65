//! The kernel programs.
//!
//! Thin shells over [`flowhop_flow::forward`]: they make a receive buffer or a socket buffer into a packet, maps into
//! tables, and a verdict into an action. Nothing is decided here.
//!
//! * `flowhop_xdp`, `flowhop_xdp_hash`: in the driver (XDP), with our own index or a hash map of the kernel's;
//! * `flowhop_ingress`, `flowhop_ingress_hash`: on the ingress of every port (tcx); `flowhop_ingress_l3` and
//!   `flowhop_ingress_l3_hash` where the link has no header;
//! * `flowhop_clock`: run by the loader, to learn the time;
//! * `flowhop_tap`: on the ingress of the punt device, that is for packets that the daemon writes.
//!
//! Interfaces to user space: [`maps`] and [`metadata`].
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "whether LLVM knows a value is told by an intrinsic only")]
#![expect(missing_docs, reason = "the program macros make functions of their own, without the comments")]

mod driver;
mod host;
mod ingress;
mod maps;
#[expect(dead_code, reason = "user space reads what is written here, and the other way round")]
mod metadata;
mod shadow;
mod skb;
mod tap;
mod window;
mod xdp;

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_redirect};
use aya_ebpf::macros::{classifier, xdp as in_driver};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::{TcContext, XdpContext};
use flowhop_flow::Reason;
use flowhop_flow::parse::ETHERNET;
use flowhop_flow::reason::REASON_SLOTS;
use flowhop_flow::record::{Config, PortCounters, TICK_SHIFT, Tick};

use crate::host::{KernelHash, Lines};
use crate::maps::CONFIG;
use crate::window::opaque;

/// In the driver, with our own index.
#[in_driver(frags)]
pub fn flowhop_xdp(context: XdpContext) -> u32 {
    driver::receive::<Lines>(context.ctx)
}

/// In the driver, with a hash map of the kernel's as index.
#[in_driver(frags)]
pub fn flowhop_xdp_hash(context: XdpContext) -> u32 {
    driver::receive::<KernelHash>(context.ctx)
}

/// Ingress of a port, with our own index.
#[classifier]
pub fn flowhop_ingress(context: TcContext) -> i32 {
    ingress::receive::<Lines, ETHERNET>(context.skb.skb)
}

/// Ingress of a port, with a hash map of the kernel's as index.
#[classifier]
pub fn flowhop_ingress_hash(context: TcContext) -> i32 {
    ingress::receive::<KernelHash, ETHERNET>(context.skb.skb)
}

/// Ingress of a port whose link has no header, with our own index.
#[classifier]
pub fn flowhop_ingress_l3(context: TcContext) -> i32 {
    ingress::receive::<Lines, 0>(context.skb.skb)
}

/// Ingress of a port whose link has no header, with a hash map of the kernel's as index.
#[classifier]
pub fn flowhop_ingress_l3_hash(context: TcContext) -> i32 {
    ingress::receive::<KernelHash, 0>(context.skb.skb)
}

/// Ingress of the punt device: carries out the daemon's orders.
#[classifier]
pub fn flowhop_tap(context: TcContext) -> i32 {
    tap::obey(context.skb.skb)
}

/// Reads the jiffy and the coarse clock for the loader, which finds from it how the time follows from jiffies.
#[classifier]
pub fn flowhop_clock(_: TcContext) -> i32 {
    if let Some(config) = CONFIG.get(0) {
        // SAFETY: the helpers have no preconditions.
        let (jiffies, clock) = unsafe { (bpf_jiffies64(), bpf_ktime_get_coarse_ns()) };
        config.jiffies_read.store(jiffies);
        config.clock_read.store(clock);
    }
    0
}

/// The coarse time.
///
/// By jiffies where their relation to the clock is known: that helper is no call, the kernel puts a load in its place.
#[inline(always)]
fn now(config: &Config) -> Tick {
    let period = config.jiffy.load();
    // SAFETY: the helpers have no preconditions.
    let nanoseconds = unsafe {
        if period == 0 {
            bpf_ktime_get_coarse_ns()
        } else {
            bpf_jiffies64().wrapping_mul(u64::from(period)).wrapping_add(config.clock_base.load())
        }
    };
    (nanoseconds >> TICK_SHIFT) as Tick
}

/// Has a packet sent, or received, by another device; the answer is the program's action.
#[inline(always)]
fn redirect(ifindex: u32, flags: u64) -> i32 {
    // SAFETY: the helper has no preconditions; for unknown flags it answers with the action that drops.
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
