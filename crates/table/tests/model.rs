//! The protocol of publishing, moving, removing and reusing entries, under a model checker (loom).
//!
//! Run with `cargo test -p flowhop-table --features model --test model`.
//!
//! The sources of table and records are compiled a second time, over cells whose accesses loom schedules. A cell
//! keeps its size and layout: what loom knows of it hangs in a registry, by address. What is checked is the
//! promise of the table's page: a reader acts on a whole record with exactly its key, or misses.
#![expect(missing_docs, unused_imports, reason = "modules of other crates, whose unit tests are left out")]
#![expect(
    clippy::cast_lossless,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test without std's harness: a panic is its report"
)]

extern crate self as flowhop_flow;

#[path = "../../flow/src/adjacency.rs"]
mod adjacency;
#[path = "../../flow/src/cookie/shared.rs"]
mod cookie;
#[path = "../../flow/src/gate.rs"]
mod gate;
#[path = "../../flow/src/halves.rs"]
mod halves;
/// No part of the protocol, and more cells than a model has room for.
mod identifications {
    #[derive(Debug, Default)]
    #[repr(align(64))]
    pub struct Identifications;

    impl Identifications {
        pub const fn next(&self, _: u64, _: u32) -> u16 {
            0
        }
    }
}
#[path = "../src/index.rs"]
pub mod index;
#[path = "../../flow/src/key.rs"]
pub mod key;
#[path = "../src/levels.rs"]
mod levels;
#[path = "../src/lookup.rs"]
pub mod lookup;
#[path = "../src/memory.rs"]
pub mod memory;
#[path = "../../flow/src/port.rs"]
mod port;
#[path = "../../flow/src/reason.rs"]
pub mod reason;
#[path = "../../flow/src/record.rs"]
pub mod record;
#[path = "../../flow/src/steer.rs"]
mod steer;
#[path = "../../flow/src/traffic.rs"]
pub mod traffic;
#[path = "../src/writer.rs"]
pub mod writer;

pub use key::Key;
pub use reason::Reason;

/// What of the rewriting module the writer uses: the deltas, which no reader here looks at.
pub mod rewrite {
    use crate::key::Address;

    #[derive(Clone, Copy, Debug)]
    pub struct Rewrite {
        pub source: Address,
        pub destination: Address,
        pub ports: u32,
        pub address_delta: u16,
        pub port_delta: u16,
    }

    impl Rewrite {
        pub const fn with_deltas(self, _: &Address, _: &Address, _: u32) -> Self {
            self
        }
    }
}

/// Cells that loom schedules.
pub mod cell {
    use std::cell::UnsafeCell;
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use loom::sync::atomic::{AtomicU64, Ordering};

    /// By address; `None` while a world is built by one thread, in plain memory.
    static WATCHED: Mutex<Option<HashMap<usize, Arc<AtomicU64>>>> = Mutex::new(None);

    fn lock() -> MutexGuard<'static, Option<HashMap<usize, Arc<AtomicU64>>>> {
        // A model that has found its fault leaves it poisoned.
        WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn plain() {
        *lock() = None;
    }

    pub fn watched() {
        *lock() = Some(HashMap::new());
    }

    fn atomic(address: usize, first: u64) -> Option<Arc<AtomicU64>> {
        let mut watched = lock();
        let cells = watched.as_mut()?;
        Some(Arc::clone(cells.entry(address).or_insert_with(|| Arc::new(AtomicU64::new(first)))))
    }

    macro_rules! cell {
        ($name:ident, $word:ident) => {
            #[repr(transparent)]
            #[derive(Debug, Default)]
            pub struct $name(UnsafeCell<$word>);

            // SAFETY: the plain value is written while one thread builds a world, and only read afterwards.
            unsafe impl Sync for $name {}

            impl $name {
                pub const fn new(value: $word) -> Self {
                    Self(UnsafeCell::new(value))
                }

                fn plain(&self) -> u64 {
                    // SAFETY: see `Sync`.
                    unsafe { *self.0.get() as u64 }
                }

                fn watched(&self) -> Option<Arc<AtomicU64>> {
                    atomic(std::ptr::from_ref(self) as usize, self.plain())
                }

                pub fn load(&self) -> $word {
                    match self.watched() {
                        Some(cell) => cell.load(Ordering::Acquire) as $word,
                        None => self.plain() as $word,
                    }
                }

                pub fn store(&self, value: $word) {
                    match self.watched() {
                        Some(cell) => cell.store(value as u64, Ordering::Release),
                        // SAFETY: see `Sync`.
                        None => unsafe { *self.0.get() = value },
                    }
                }
            }
        };
    }

    cell!(Cell32, u32);
    cell!(Cell64, u64);

    impl Cell64 {
        pub fn add(&self, value: u64) -> u64 {
            self.watched().expect("used by threads only").fetch_add(value, Ordering::SeqCst)
        }

        pub fn replace(&self, current: u64, new: u64) -> bool {
            let cell = self.watched().expect("used by threads only");
            cell.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        }
    }
}

use std::time::Duration;

use key::{mapped, ports};
use loom::sync::{Arc, RwLock};
use loom::thread;
use memory::{Geometry, Region, Regions};
use record::{Adjacency, Block, Bucket, Config, Gate, Port, Steer, index_kind};
use writer::{AfterGrace, Draft, DraftSide, Inserted, Removal, Table};

const SECRET: [u32; 10] = [3, 5, 7, 11, 13, 17, 19, 23, 29, 31];

/// Connection number `n`; what Forward leaves with says `n` in every word.
fn pair(n: u8) -> [Key; 2] {
    let identity = Key::identity(17, 4, 0);
    let forward =
        Key { source: mapped([10, 0, 0, n]), destination: mapped([10, 1, 0, n]), ports: ports(n.into(), 53), identity };
    let reverse = Key {
        source: mapped([20, 0, 0, n]),
        destination: mapped([30, 0, 0, n]),
        ports: ports(53, 100 + u16::from(n)),
        identity,
    };
    [forward, reverse]
}

fn draft(n: u8) -> Draft {
    let [forward, reverse] = pair(n);
    let side = |key| DraftSide { key, steer: Steer { adjacency: n.into(), ..Steer::default() }, service: n.into() };
    Draft { sides: [side(forward), side(reverse)], rules: n.into(), flags: 0, parent: 0 }
}

fn regions(geometry: Geometry) -> Regions {
    fn many<T: Default + Send + Sync + 'static>(n: u32) -> Region<T> {
        Region::from_vec(std::iter::repeat_with(T::default).take(n as usize).collect())
    }
    Regions {
        config: many::<Config>(1),
        buckets: many::<Bucket>(geometry.lines()),
        blocks: many::<Block>(geometry.blocks),
        adjacencies: many::<Adjacency>(0),
        gates: many::<Gate>(0),
        ports: many::<Port>(0),
    }
}

/// A kernel program that looks a key up and acts on what it finds; tells whether it found it.
fn read(regions: &Regions, n: u8) -> bool {
    let [forward, reverse] = pair(n);
    let Some((block, direction)) = lookup::find(regions, regions.config[0].span(), &forward, forward.hash(&SECRET))
    else {
        return false;
    };
    assert_eq!(direction, 0);
    let hot = &block.hot[0];
    let acted = (hot.new_source.load(), hot.new_destination.load(), hot.new_ports.load());
    let should = (reverse.destination[3], reverse.source[3], ports(100 + u16::from(n), 53));
    assert_eq!(acted, should, "acted on a record of another connection");
    assert_eq!(Steer::unpack(hot.steer.load()).adjacency, u16::from(n), "steered by another connection");
    true
}

/// Runs readers of some keys beside one writer; of a reader is said whether it has to find its connection. The lock is what
/// a grace period is: the kernel's programs run inside a reading section, and `membarrier` waits for those that run.
fn model(
    geometry: Geometry,
    before: Vec<u8>,
    readers: Vec<(u8, bool)>,
    write: impl Fn(&mut Table, &dyn Fn()) + Send + Sync + 'static,
    after: Vec<(u8, bool)>,
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 100_000;
    builder.max_duration = Some(Duration::from_secs(12));
    builder.check(move || {
        cell::plain();
        let shared = regions(geometry);
        let mut table = Table::create(shared.clone(), geometry, SECRET, None);
        for n in &before {
            assert!(matches!(table.insert(&draft(*n), 0, |_| {}), Ok(Inserted::New(_))));
        }
        cell::watched();
        // Loom gets to know each cell before there are threads.
        shared.config[0].span.load();
        for bucket in shared.buckets.iter() {
            bucket.tags.iter().chain(&bucket.places).for_each(|cell| {
                cell.load();
            });
        }
        for hot in shared.blocks.iter().flat_map(|block| &block.hot) {
            let words =
                [&hot.source, &hot.destination, &hot.ports, &hot.identity, &hot.new_source, &hot.new_destination];
            words.into_iter().chain([&hot.new_ports]).for_each(|cell| {
                cell.load();
            });
            hot.steer.load();
        }
        let running = Arc::new(RwLock::new(()));
        let threads: Vec<_> = readers
            .iter()
            .map(|&(n, sure)| {
                let (shared, running) = (shared.clone(), Arc::clone(&running));
                thread::spawn(move || {
                    let program = running.read().unwrap();
                    let found = read(&shared, n);
                    assert!(found || !sure, "missed connection {n}");
                    drop(program);
                })
            })
            .collect();
        write(&mut table, &|| drop(running.write().unwrap()));
        for thread in threads {
            thread.join().unwrap();
        }
        for (n, found) in &after {
            assert_eq!(read(&shared, *n), *found, "afterwards, connection {n}");
        }
        cell::plain();
    });
}

const SMALL: Geometry = Geometry { buckets: 2, levels: 1, blocks: 2, index: index_kind::LINES };

fn a_connection_appears_whole() {
    let write = |table: &mut Table, _: &dyn Fn()| {
        assert!(matches!(table.insert(&draft(1), 0, |_| {}), Ok(Inserted::New(_))));
    };
    model(SMALL, vec![2], vec![(1, false), (2, true)], write, vec![(1, true), (2, true)]);
}

fn a_block_is_reused_after_a_grace_period() {
    let write = |table: &mut Table, wait: &dyn Fn()| {
        assert!(table.remove(0, Removal::Final));
        let begun = table.begin_grace();
        wait();
        assert!(matches!(table.after_grace(begun), Some(AfterGrace::Freed(_))));
        assert_eq!(table.insert(&draft(2), 0, |_| {}), Ok(Inserted::New(0)));
    };
    model(Geometry { blocks: 1, ..SMALL }, vec![1], vec![(1, false)], write, vec![(1, false), (2, true)]);
}

fn without_a_grace_period_the_model_finds_the_fault() {
    let write = |table: &mut Table, _: &dyn Fn()| {
        assert!(table.remove(0, Removal::Final));
        let begun = table.begin_grace();
        assert!(matches!(table.after_grace(begun), Some(AfterGrace::Freed(_))));
        assert_eq!(table.insert(&draft(2), 0, |_| {}), Ok(Inserted::New(0)));
    };
    model(Geometry { blocks: 1, ..SMALL }, vec![1], vec![(1, false)], write, vec![]);
}

fn a_connection_is_published_again() {
    let write = |table: &mut Table, wait: &dyn Fn()| {
        assert!(table.remove(0, Removal::Expiry));
        let begun = table.begin_grace();
        // A packet that was on its way.
        table.block(0).unwrap().hot[0].last_seen.store(9);
        wait();
        assert_eq!(table.after_grace(begun), Some(AfterGrace::Revived(0)));
    };
    model(Geometry { blocks: 1, ..SMALL }, vec![1], vec![(1, false)], write, vec![(1, true)]);
}

fn an_entry_moves_without_being_taken_for_another() {
    let (before, last, moved) = a_move();
    let write = move |table: &mut Table, _: &dyn Fn()| {
        assert!(matches!(table.insert(&draft(last), 0, |_| {}), Ok(Inserted::New(_))));
    };
    model(CROWDED, before, vec![(moved, false)], write, vec![(moved, true), (last, true)]);
}

const CROWDED: Geometry = Geometry { buckets: 2, levels: 1, blocks: 12, index: index_kind::LINES };

/// Connections, one more that makes an entry move, and whose entry that is.
fn a_move() -> (Vec<u8>, u8, u8) {
    let place = |table: &Table, n: u8| {
        let number = table.find(&pair(n)[0], table.hash(&pair(n)[0]))?.0;
        let holds = |line: &Bucket| {
            (0..record::BUCKET_ENTRIES).any(|e| index::tag(line, e) != 0 && index::place(line, e) == number << 1)
        };
        table.regions().buckets.iter().position(holds)
    };
    for seed in 0..20 {
        let mut table = Table::create(regions(CROWDED), CROWDED, SECRET, None);
        let mut before = Vec::new();
        for n in seed * 12..seed * 12 + 12 {
            let lines: Vec<_> = before.iter().map(|other| place(&table, *other)).collect();
            if table.insert(&draft(n), 0, |_| {}).is_err() {
                break;
            }
            let moved = before.iter().zip(lines).find(|(other, line)| place(&table, **other) != *line);
            if let Some((moved, _)) = moved {
                let moved = *moved;
                return (before, n, moved);
            }
            before.push(n);
        }
    }
    panic!("nothing moves");
}

/// Two levels of two lines and of one: room for six connections, and for twelve.
const GROWING: Geometry = Geometry { buckets: 2, levels: 2, blocks: 12, index: index_kind::LINES };

fn an_index_grows_without_a_miss() {
    let write = |table: &mut Table, _: &dyn Fn()| {
        let small = table.config().span();
        assert_eq!(small.lines, 1);
        table.tend(1);
        assert_eq!(table.config().span().lines, 2);
        assert!(matches!(table.insert(&draft(6), 0, |_| {}), Ok(Inserted::New(_))));
    };
    // The fifth begins with the larger level.
    model(GROWING, vec![1, 2, 3, 4, 5], vec![(1, true), (6, false)], write, vec![(1, true), (6, true)]);
}

fn main() {
    let models: [(&str, fn()); 5] = [
        ("an index grows without a miss", an_index_grows_without_a_miss),
        ("a connection appears whole", a_connection_appears_whole),
        ("a block is reused after a grace period", a_block_is_reused_after_a_grace_period),
        ("a connection is published again", a_connection_is_published_again),
        ("an entry moves without being taken for another", an_entry_moves_without_being_taken_for_another),
    ];
    for (name, model) in models {
        let started = std::time::Instant::now();
        model();
        println!("{name}: ok, {:.1} s", started.elapsed().as_secs_f64());
    }
    // The model itself is tested: it must find what goes wrong without a grace period.
    let found = std::panic::catch_unwind(without_a_grace_period_the_model_finds_the_fault).expect_err("found nothing");
    let text = found.downcast_ref::<String>().map_or("", String::as_str);
    assert!(text.contains("another connection"), "{text}");
    println!("without a grace period the model finds the fault: ok");
}
