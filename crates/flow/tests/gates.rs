//! The gates with threads: a flow that moves from user space into the kernel stays in order (checklist A5).
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is their report")]

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use flowhop_flow::cell::Cell64;
use flowhop_flow::record::{Action, Adjacency, Gate, NextHop, Steer};

/// One life of an entry: packets are handed to user space until the entry is published, pending, and forwarded
/// once it is active.
#[derive(Default)]
struct Flow {
    gate: Gate,
    /// The steer word; 0 = no entry.
    entry: Cell64,
    /// The punt device.
    queue: Mutex<VecDeque<u32>>,
    /// Packets in the order in which they left.
    left: Mutex<Vec<u32>>,
}

impl Flow {
    /// What the kernel path does with a packet: the protocol of `forward`, with the same calls.
    fn kernel(&self, packet: u32) {
        let mut entered = None;
        let mut entry = self.entry.load();
        if entry == 0 {
            entered = Some(self.gate.enter());
            entry = self.entry.load();
            if entry == 0 {
                return self.queue.lock().unwrap().push_back(packet);
            }
        }
        let steer = Steer::unpack(entry);
        if steer.pending {
            let epoch = entered.unwrap_or_else(|| {
                let epoch = self.gate.enter();
                entered = Some(epoch);
                epoch
            });
            if epoch == steer.epoch {
                return self.queue.lock().unwrap().push_back(packet);
            }
        }
        if entered.is_some() {
            self.gate.leave();
        }
        self.left.lock().unwrap().push(packet);
    }

    /// What user space does: it makes the entry with the first packet, sends what it gets, raises when it can.
    fn user(&self, stop: &AtomicBool, finished: &mut u32) {
        let mut published = false;
        loop {
            // Asked before the queue: after it, everything may have come in between.
            let stopped = stop.load(Ordering::SeqCst);
            let packet = self.queue.lock().unwrap().pop_front();
            if let Some(packet) = packet {
                if !published {
                    let epoch = (self.gate.read().1 % 16) as u8;
                    let steer = Steer { action: Action::Forward, pending: true, epoch, ..Steer::default() };
                    self.entry.store(steer.pack());
                    published = true;
                }
                // Now and then the kernel gets ahead, were it not for the gate.
                if packet.is_multiple_of(7) {
                    thread::yield_now();
                }
                self.left.lock().unwrap().push(packet);
                *finished = finished.wrapping_add(1);
                continue;
            }
            let (handed, epoch) = self.gate.read();
            if published && handed == *finished && self.gate.raise(handed, epoch) {
                let active = Steer { pending: false, ..Steer::unpack(self.entry.load()) };
                self.entry.store(active.pack());
                return;
            }
            if stopped && !published {
                return;
            }
            thread::yield_now();
        }
    }
}

// A5: no packet overtakes another, none is lost, none comes twice. One receiving thread, since only packets of
// one thread have an order that could be kept.
#[test]
fn a_flow_stays_in_order_when_it_moves_into_the_kernel() {
    let mut in_user = 0;
    for round in 0..400 {
        let flow = Flow::default();
        let stop = AtomicBool::new(false);
        let packets = 50 + round % 100;
        thread::scope(|scope| {
            scope.spawn(|| {
                for packet in 0..packets {
                    flow.kernel(packet);
                }
                stop.store(true, Ordering::SeqCst);
            });
            let mut finished = 0;
            flow.user(&stop, &mut finished);
            in_user += finished;
        });
        // What was handed over after the raise is still in the queue: nothing may be.
        assert!(flow.queue.lock().unwrap().is_empty(), "round {round}: packets are left behind");
        let left = flow.left.into_inner().unwrap();
        assert_eq!(left, (0..packets).collect::<Vec<_>>(), "round {round}");
        assert_eq!(flow.gate.read().1, 1);
    }
    println!("{in_user} packets through user space");
}

// A5: several receiving threads; each one's packets stay in order, and none is lost.
#[test]
fn each_threads_packets_stay_in_order() {
    const THREADS: u32 = 3;
    const PACKETS: u32 = 60;
    for round in 0..200 {
        let flow = Flow::default();
        let stop = AtomicBool::new(false);
        let running = AtomicU32::new(THREADS);
        thread::scope(|scope| {
            for sender in 0..THREADS {
                let (flow, stop, running) = (&flow, &stop, &running);
                scope.spawn(move || {
                    for packet in 0..PACKETS {
                        flow.kernel(sender * 1000 + packet);
                    }
                    if running.fetch_sub(1, Ordering::SeqCst) == 1 {
                        stop.store(true, Ordering::SeqCst);
                    }
                });
            }
            flow.user(&stop, &mut 0);
        });
        assert!(flow.queue.lock().unwrap().is_empty(), "round {round}");
        let left = flow.left.into_inner().unwrap();
        assert_eq!(left.len() as u32, THREADS * PACKETS);
        for sender in 0..THREADS {
            let own: Vec<u32> =
                left.iter().filter(|packet| *packet / 1000 == sender).map(|packet| packet % 1000).collect();
            assert_eq!(own, (0..PACKETS).collect::<Vec<_>>(), "round {round}");
        }
    }
}

// A writer that was killed half-way left an odd number; whoever comes after must not make it even too early.
#[test]
fn a_next_hop_recovers_from_half_a_change() {
    let adjacency = Adjacency::default();
    let hop = NextHop { ifindex: 3, generation: 1, flags: NextHop::RESOLVED, mtu: 1500, ..NextHop::default() };
    adjacency.write(&hop);
    adjacency.sequence.add(1);
    assert_eq!(adjacency.read(), None);
    let before = adjacency.sequence.load();
    adjacency.write(&hop);
    assert_eq!(adjacency.read(), Some(hop));
    assert!(adjacency.sequence.load() > before, "a reader of the half change would take it for whole");
}

// Readers never see half a next hop, also while a writer repairs one that was left half changed.
#[test]
fn next_hops_are_read_whole() {
    let adjacency = Adjacency::default();
    let stop = AtomicBool::new(false);
    let hop = |n: u8| NextHop {
        lower: u32::from(n),
        vid: u16::from(n),
        ifindex: u32::from(n),
        generation: u16::from(n),
        port: n,
        flags: n,
        macs: [n; 12],
        mtu: u32::from(n),
    };
    adjacency.write(&hop(1));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(read) = adjacency.read() {
                        assert_eq!(read, hop(read.port));
                    }
                }
            });
        }
        for n in 0..200_000u32 {
            if n.is_multiple_of(5) {
                // A writer that died in the middle.
                adjacency.sequence.add(1);
            }
            adjacency.write(&hop(n as u8));
        }
        stop.store(true, Ordering::Relaxed);
    });
}
