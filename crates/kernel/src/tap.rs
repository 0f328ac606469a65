//! The punt device's program: it carries out what the daemon orders for a packet.

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS};
use flowhop_flow::Reason;
use flowhop_wire::Frame;

use crate::ingress::SHOT;
use crate::maps::{CONFIG, PORTS, TAP_COUNTERS};
use crate::metadata::{Order, TO_STACK, TRANSMIT};
use crate::skb::Skb;
use crate::{count, redirect};

/// A packet comes from the daemon.
#[inline(always)]
pub fn obey(raw: *mut __sk_buff) -> i32 {
    let mut packet = Skb::new(raw);
    let length = packet.len();
    let order = packet.read::<6>(6).and_then(|source| Order::parse(*source));
    let Some(order) = order else {
        count(&TAP_COUNTERS, 0, Reason::BadHeader, length);
        return SHOT;
    };
    let (action, reason) = carry_out(&mut packet, order);
    count(&TAP_COUNTERS, order.port, reason, length);
    action
}

#[inline(always)]
fn carry_out(packet: &mut Skb, order: Order) -> (i32, Reason) {
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
