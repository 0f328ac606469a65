//! One direction of one connection, driven from all sides at once (checklist A6, A14): by the programs in the driver and
//! on the socket buffer on every processor, and by the user-level path on the same memory.
//!
//! Every packet that is forwarded is counted once by its entry, and the edges of the TCP context only move forward. A
//! packet whose context others keep changing is handed down instead.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flowhop_flow::cell::Cell64;
use flowhop_flow::forward::{Hit, Host, hot};
use flowhop_flow::key::Address;
use flowhop_flow::record::{Adjacency, Config, Gate, Port, PortKey, Steer, port_flags};
use flowhop_flow::{Key, Kind, Level, Reason, judge, parse};
use flowhop_io::bpf::{Context, IndexKind, Kernel, Program};
use flowhop_table::Regions;
use flowhop_wire::SliceFrame;

use super::common::{ADJACENCY, Bed, FORWARD, Flow, LAN_MAC, Plain, TCP_START, in_namespaces, tick};

/// How long all of them work.
const WHILE: Duration = Duration::from_secs(2);
/// Bytes of payload of a segment: the five of [`Flow`]'s.
const PAYLOAD: u32 = 5;
/// What each side grants beyond its start: more than is sent.
const ROOM: u32 = 1 << 29;

/// What the threads share.
struct Stage {
    regions: Regions,
    flow: Flow,
    lan: u32,
    /// Segments given out.
    given: AtomicU32,
    /// Packets that programs were run on, by program: in the driver, on the socket buffer.
    runs: [AtomicU64; 2],
    /// Packets that the user-level path forwarded, and those that it could not for contention.
    user: [AtomicU64; 2],
    /// The highest end of a segment that the user-level path forwarded, as bytes from the start.
    reached: AtomicU32,
    stop: AtomicBool,
}

impl Stage {
    /// The next segment, the second of its numbers being how far it reaches.
    fn segment(&self) -> (Vec<u8>, u32) {
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let reach = (number + 1) * PAYLOAD;
        let (sequence, acknowledgment) = TCP_START;
        (self.flow.segment_at(sequence.wrapping_add(number * PAYLOAD), acknowledgment.wrapping_add(number)), reach)
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Runs both programs in turn.
    fn drive(&self, kernel: &mut Kernel) {
        let context = Context { ifindex: self.lan, ..Context::default() };
        for round in 0u32.. {
            if self.is_over() {
                return;
            }
            for (number, program) in [Program::Driver, Program::Ingress].into_iter().enumerate() {
                // Many times in a row now and then, since the entry leads back to itself; for a program in a driver the
                // kernel patches its own code then, which takes longer than all the rest.
                let repeat = if number == 1 && round % 4 == 0 { 200 } else { 1 };
                kernel.test_run(program, &self.segment().0, context, repeat).unwrap();
                self.runs[number].fetch_add(u64::from(repeat), Ordering::Relaxed);
            }
        }
    }

    /// Judges packets natively, as the user-level path does.
    fn judge(&self) {
        let host = User(&self.regions);
        let config = &self.regions.config[0];
        let hit = Hit { block: &self.regions.blocks[0], direction: FORWARD };
        while !self.is_over() {
            let (mut bytes, reach) = self.segment();
            let mut packet = Plain(SliceFrame::new(&mut bytes));
            let parsed = match self.flow.key.family() {
                4 => parse::ipv4(&packet, 14, 0),
                _ => parse::ipv6(&packet, 14, 0),
            };
            let steer = Steer::unpack(hot(&hit).steer.load());
            match judge(&host, config, &mut packet, &parsed.unwrap(), &hit, steer, 1, 0, tick()) {
                Ok(_) => {
                    self.user[0].fetch_add(1, Ordering::Relaxed);
                    self.reached.fetch_max(reach, Ordering::Relaxed);
                }
                Err(reason) => {
                    assert_eq!(reason, Reason::Contention);
                    self.user[1].fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Looks on: no number ever goes back. Returns how often it looked.
    fn watch(&self) -> u64 {
        let block = &self.regions.blocks[0];
        let (hot, tcp) = (&block.hot[FORWARD], &block.tcp[FORWARD]);
        let halves = |cell: &Cell64| {
            let word = cell.load();
            [word as u32, (word >> 32) as u32]
        };
        let (mut edges, mut counts, mut looks) = ([TCP_START.0, 0, TCP_START.1, 0], [0, 0], 0u64);
        while !self.is_over() {
            let [[end, window], [acknowledged, granted]] = [halves(&tcp.sent), halves(&tcp.allowed)];
            let now = [end, window, acknowledged, granted];
            for (before, now) in edges.iter().zip(now) {
                assert!(now.wrapping_sub(*before) < 1 << 31, "lowered: {edges:x?} became {now:x?}");
            }
            let counted = <[u64; 2]>::from(hot.traffic.read());
            assert!(counted >= counts && counted[1] >= counts[1], "{counts:?} became {counted:?}");
            (edges, counts) = (now, counted);
            looks += 1;
        }
        looks
    }
}

/// The tables as the user-level path has them.
struct User<'a>(&'a Regions);

impl Host for User<'_> {
    const LEVEL: Level = Level::User;

    fn config(&self) -> Option<&Config> {
        self.0.config.first()
    }
    fn port(&self, _: PortKey) -> Option<(u8, &Port)> {
        None
    }
    fn find(&self, _: &Key, _: u64) -> Option<Hit<'_>> {
        None
    }
    fn adjacency(&self, index: u16) -> Option<&Adjacency> {
        self.0.adjacencies.get(usize::from(index))
    }
    fn gate(&self, _: u32) -> Option<&Gate> {
        None
    }
    fn is_local(&self, _: &Address, _: Option<&Key>) -> bool {
        false
    }
}

/// An entry that leads back to itself, with room for all that is sent.
fn prepare(flow: Flow) -> (Bed, Arc<Stage>) {
    let mut bed = Bed::new(IndexKind::Lines);
    bed.insert(&flow, FORWARD);
    let shared = bed.kernel.shared();
    shared.ports[1].driver.store(port_flags::DRIVER);
    let mut hop = shared.adjacencies[ADJACENCY].read().unwrap();
    hop.macs[..6].copy_from_slice(&LAN_MAC);
    shared.adjacencies[ADJACENCY].write(&hop);
    let (sequence, acknowledgment) = TCP_START;
    let [own, peer] = &shared.blocks[0].tcp;
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    own.sent.store(pair(sequence, ROOM));
    own.allowed.store(pair(acknowledgment, acknowledgment));
    peer.sent.store(pair(acknowledgment + ROOM / 2, ROOM));
    peer.allowed.store(pair(sequence, sequence + ROOM));
    let stage = Stage {
        regions: bed.kernel.regions(),
        flow,
        lan: bed.lan,
        given: AtomicU32::new(0),
        runs: [const { AtomicU64::new(0) }; 2],
        user: [const { AtomicU64::new(0) }; 2],
        reached: AtomicU32::new(0),
        stop: AtomicBool::new(false),
    };
    (bed, Arc::new(stage))
}

/// Packets of the entry's port that a program forwarded, and those that it handed down for contention; nothing else
/// may have become of one.
fn forwarded(bed: &Bed, program: Program) -> (u64, u64) {
    let tallies = match program {
        Program::Driver => bed.kernel.driver_counters(1),
        _ => bed.kernel.counters(1),
    };
    let tallies = tallies.unwrap();
    // The devices' own hosts say something now and then, to the stack.
    let ours = |reason: Reason| matches!(reason, Reason::Forwarded | Reason::Contention);
    let others: Vec<_> =
        tallies.moved().filter(|(reason, _)| !ours(*reason) && reason.fast_kind() != Kind::Stack).collect();
    assert!(others.is_empty(), "{program:?}: {others:?}");
    (tallies.of(Reason::Forwarded).packets, tallies.of(Reason::Contention).packets)
}

fn from_all_sides(flow: Flow) {
    in_namespaces(|| {
        let (bed, stage) = prepare(flow);
        let processors = thread::available_parallelism().unwrap().get().clamp(2, 8);
        let mut threads = Vec::new();
        for _ in 0..processors {
            let (stage, mut kernel) = (Arc::clone(&stage), bed.another());
            // A program is loaded when it is first used.
            let context = Context { ifindex: stage.lan, ..Context::default() };
            for program in [Program::Driver, Program::Ingress] {
                kernel.test_run(program, &[0; 60], context, 1).unwrap();
            }
            threads.push(thread::spawn(move || stage.drive(&mut kernel)));
        }
        for _ in 0..2 {
            let stage = Arc::clone(&stage);
            threads.push(thread::spawn(move || stage.judge()));
        }
        let watcher = {
            let stage = Arc::clone(&stage);
            thread::spawn(move || stage.watch())
        };
        let begun = Instant::now();
        while begun.elapsed() < WHILE && stage.given.load(Ordering::Relaxed) < ROOM / 2 / PAYLOAD - 1_000_000 {
            bed.kernel.shared().config[0].heartbeat.store(tick());
            thread::sleep(Duration::from_millis(20));
        }
        stage.stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let looks = watcher.join().unwrap();

        let [in_driver, on_skb] = [Program::Driver, Program::Ingress].map(|program| forwarded(&bed, program));
        let [driver_runs, skb_runs] = stage.runs.each_ref().map(|runs| runs.load(Ordering::Relaxed));
        let [by_user, contended] = stage.user.each_ref().map(|count| count.load(Ordering::Relaxed));
        println!(
            "driver {in_driver:?} of {driver_runs}, skb {on_skb:?} of {skb_runs}, user {by_user} and {contended}; {looks} looks"
        );
        assert!(in_driver.0 > 100 && on_skb.0 > 100 && by_user > 100 && looks > 100);
        // In the driver, what is not forwarded is passed on, uncounted: there is no socket.
        assert!(in_driver.0 <= driver_runs && in_driver.1 == 0);
        assert_eq!(on_skb.0 + on_skb.1, skb_runs);

        let block = &bed.kernel.shared().blocks[0];
        let (hot, tcp) = (&block.hot[FORWARD], &block.tcp[FORWARD]);
        let frames = in_driver.0 + on_skb.0 + by_user;
        let length = stage.flow.frame().len() as u64;
        assert_eq!(hot.traffic.read(), (frames, frames * length));
        let start = TCP_START.0;
        let end = (tcp.sent.load() as u32).wrapping_sub(start);
        let given = stage.given.load(Ordering::Relaxed) * PAYLOAD;
        assert!((stage.reached.load(Ordering::Relaxed)..=given).contains(&end), "{end} of {given} bytes");
    });
}

#[test]
fn a_direction_driven_from_all_sides_counts_every_packet_and_never_goes_back() {
    from_all_sides(Flow::tcp4().untranslated());
}

#[test]
fn the_same_for_ipv6() {
    from_all_sides(Flow::tcp6().untranslated());
}
