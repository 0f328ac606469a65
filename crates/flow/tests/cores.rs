//! What cores write and read at once: counts are exact (checklist F11), and what is read was so at one moment.
//!
//! The sources are compiled a second time, over cells whose accesses wait for their turn, so that a test goes through the orders
//! in which cores come to them, which hardly ever meet in a run that is left to itself.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is their report")]

use std::sync::Mutex;

use adjacency::{Adjacency, NextHop};
use cell::Turns;
use traffic::Traffic;

#[path = "../src/adjacency.rs"]
pub mod adjacency;
#[path = "../src/halves.rs"]
pub mod halves;
#[path = "../src/traffic.rs"]
pub mod traffic;

/// Cells that are accessed in a given order.
pub mod cell {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::sync::{Arc, Condvar, Mutex, MutexGuard};

    thread_local! {
        /// What this thread takes part in, and which of the cores it is.
        static CORE: RefCell<Option<(Arc<Turns>, usize)>> = const { RefCell::new(None) };
        static ACCESSES: Cell<u32> = const { Cell::new(0) };
    }

    /// Whose access is the next one.
    #[derive(Debug)]
    pub struct Turns(Mutex<Order>, Condvar);

    #[derive(Debug)]
    struct Order {
        coming: VecDeque<usize>,
        /// Cores that have come to an end.
        ended: Vec<bool>,
    }

    impl Order {
        /// One that has ended has no turn; in the end each goes on alone, the first one first.
        fn next(&mut self) -> Option<usize> {
            while self.coming.front().is_some_and(|core| self.ended[*core]) {
                self.coming.pop_front();
            }
            self.coming.front().copied().or_else(|| self.ended.iter().position(|ended| !ended))
        }
    }

    struct End<'a>(&'a Turns, usize);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.0.lock().unwrap().ended[self.1] = true;
            self.0.1.notify_all();
        }
    }

    impl Turns {
        /// Runs what each core does, in threads of their own, and lets them access cells in this order.
        pub fn run(order: &[usize], cores: &[&(dyn Fn() + Sync)]) {
            let order = Order { coming: order.iter().copied().collect(), ended: vec![false; cores.len()] };
            let turns = Arc::new(Self(Mutex::new(order), Condvar::new()));
            std::thread::scope(|scope| {
                for (core, act) in cores.iter().enumerate() {
                    let turns = Arc::clone(&turns);
                    scope.spawn(move || {
                        CORE.set(Some((Arc::clone(&turns), core)));
                        // One that panics has come to an end as well.
                        let _end = End(&turns, core);
                        act();
                    });
                }
            });
        }

        fn wait(&self, core: usize) -> MutexGuard<'_, Order> {
            self.1.wait_while(self.0.lock().unwrap(), |order| order.next() != Some(core)).unwrap()
        }
    }

    /// How often this thread has accessed a cell.
    pub fn accesses() -> u32 {
        ACCESSES.get()
    }

    fn access<T>(act: impl FnOnce() -> T) -> T {
        ACCESSES.set(ACCESSES.get() + 1);
        CORE.with_borrow(|core| {
            let Some((turns, core)) = core else { return act() };
            assert!(ACCESSES.get() < 1000, "a core looks again and again where others have come to an end");
            let mut order = turns.wait(*core);
            let result = act();
            order.coming.pop_front();
            turns.1.notify_all();
            result
        })
    }

    /// What the sources have for a word of shared memory.
    #[derive(Debug, Default)]
    pub struct Cell64(AtomicU64);

    impl Cell64 {
        /// Reads the word.
        pub fn load(&self) -> u64 {
            // The sources' own tests have no turns. One of their threads that looks again and again waits for another one,
            // which may have no core to run on.
            if ACCESSES.get().is_multiple_of(1024) && CORE.with_borrow(Option::is_none) {
                std::thread::yield_now();
            }
            access(|| self.0.load(SeqCst))
        }

        /// Writes the word.
        pub fn store(&self, value: u64) {
            access(|| self.0.store(value, SeqCst));
        }

        /// Adds, and returns what was there before.
        pub fn add(&self, value: u64) -> u64 {
            access(|| self.0.fetch_add(value, SeqCst))
        }
    }
}

/// Bytes of a packet: two of them move half of the range on.
const LARGE: u64 = 1 << 38;
/// Packets that were counted before, so that the next one or the one after it moves on bytes, or packets and bytes.
const BEFORE: [u64; 4] = [0, 1, (1 << 23) - 1, (1 << 23) - 2];

fn counted(packets: u64) -> Traffic {
    let traffic = Traffic::default();
    traffic.set(packets, packets * LARGE);
    traffic
}

/// All orders of so many accesses of two cores.
fn orders(accesses: u32) -> impl Iterator<Item = Vec<usize>> {
    (0..1usize << accesses).map(move |bits| (0..accesses).map(|n| bits >> n & 1).collect())
}

// A core moves a half on while the other one counts further, which must not take it for a half of its own.
#[test]
fn each_half_is_moved_on_once() {
    for order in orders(6) {
        for before in BEFORE {
            let traffic = counted(before);
            let count = || traffic.count(LARGE);
            Turns::run(&order, &[&count, &count]);
            assert_eq!(traffic.read(), (before + 2, (before + 2) * LARGE), "{before}: {order:?}");
        }
    }
}

// All packets have the same size, so that whatever was so at one moment has as many bytes as its packets.
#[test]
fn packets_and_bytes_are_those_of_one_moment() {
    for order in orders(8) {
        for before in BEFORE {
            let traffic = counted(before);
            let read = Mutex::new((0, 0));
            Turns::run(
                &order,
                &[&|| (0..2).for_each(|_| traffic.count(LARGE)), &|| *read.lock().unwrap() = traffic.read()],
            );
            let (packets, bytes) = *read.lock().unwrap();
            assert_eq!(bytes, packets * LARGE, "{before}: {order:?}");
            assert!((before..=before + 2).contains(&packets), "{packets} after {before}: {order:?}");
        }
    }
}

#[test]
fn counts_that_rest_are_looked_at_once() {
    for before in BEFORE {
        let traffic = counted(before);
        let accesses = cell::accesses();
        assert_eq!(traffic.read(), (before, before * LARGE));
        assert_eq!(cell::accesses() - accesses, 3, "one word, and the other one before and after it");
    }
}

#[test]
fn one_packet_is_something() {
    let traffic = Traffic::default();
    assert!(traffic.is_none());
    traffic.count(60);
    assert!(!traffic.is_none());
    // All has been moved on; and as much was moved on as is left, bit by bit.
    for (packets, bytes) in [(1 << 23, 1 << 39), ((1 << 31) + 1, (1 << 39) + 1)] {
        traffic.set(packets, bytes);
        assert!(!traffic.is_none());
    }
}

// What packets are sampled by: each one has a number of its own, which begins anew when a half is moved on.
#[test]
fn recent_packets_are_numbered() {
    let traffic = Traffic::default();
    for number in 1..=3 {
        traffic.count(1500);
        assert_eq!(traffic.recent_packets(), number);
    }
    traffic.set((5 << 23) - 2, 0);
    for number in [(1 << 23) - 1, 0, 1] {
        traffic.count(1500);
        assert_eq!(traffic.recent_packets(), number);
    }
    assert_eq!(traffic.read(), ((5 << 23) + 1, 4500));
}

const OLD: NextHop = NextHop {
    ifindex: 1,
    generation: 2,
    port: 3,
    flags: NextHop::RESOLVED,
    macs: [4; 12],
    mtu: 1500,
    lower: 5,
    vid: 6,
};
const NEW: NextHop = NextHop {
    ifindex: 11,
    generation: 12,
    port: 13,
    flags: NextHop::HEADERLESS,
    macs: [14; 12],
    mtu: 9000,
    lower: 15,
    vid: 16,
};

// A packet goes by the old next hop or the new one or is handed down, never by a part of each. So it is after a writer that
// was killed while it changed the record, of which nobody may go by anything.
#[test]
fn a_next_hop_is_read_in_one_piece() {
    // Seven accesses write it, and six read it.
    for order in orders(13).filter(|order| order.iter().sum::<usize>() == 6) {
        for killed in [false, true] {
            let adjacency = Adjacency::default();
            adjacency.write(&OLD);
            if killed {
                adjacency.sequence.add(1);
            }
            let read = Mutex::new(None);
            Turns::run(&order, &[&|| adjacency.write(&NEW), &|| *read.lock().unwrap() = adjacency.read()]);
            let hop = *read.lock().unwrap();
            assert!(hop.is_none_or(|hop| hop == NEW || hop == OLD && !killed), "{hop:?}: {order:?}");
            assert_eq!(adjacency.read(), Some(NEW));
        }
    }
}

// Whoever looks at a record twice sees whether it is still the change that a killed writer has left half-way.
#[test]
fn a_change_has_another_number_than_one_that_was_left_half_way() {
    // The change itself begins with its second access.
    for (before, changing) in [(0, false), (1, false), (2, true), (6, true)] {
        let adjacency = Adjacency::default();
        adjacency.sequence.add(1);
        let seen = Mutex::new(0);
        let order: Vec<usize> = [vec![0; before], vec![1], vec![0; 7 - before]].concat();
        Turns::run(&order, &[&|| adjacency.write(&NEW), &|| *seen.lock().unwrap() = adjacency.sequence.load()]);
        let seen = *seen.lock().unwrap();
        assert!(seen % 2 == 1 && (seen != 1) == changing, "{seen} after {before} accesses");
    }
}
