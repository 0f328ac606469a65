//! The table against a map of std's, keys against each other, and how full the index gets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is their report"
)]

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use flowhop_flow::Key;
use flowhop_flow::key::{self, mapped, ports};
use flowhop_flow::record::{Action, BUCKET_ENTRIES, Steer, TAG_PLACES, index_kind};
use flowhop_flow::rewrite::Rewrite;
use flowhop_table::index::Entered;
use flowhop_table::lookup::{self, lines_in, tag_of};
use flowhop_table::writer::rewrite_between;
use flowhop_table::{
    AdoptError, AfterGrace, BlockIndex, Draft, DraftSide, Geometry, InsertError, Inserted, KernelHashSync, Regions,
    Removal, Table, is_live, key_of,
};
use proptest::prelude::*;

use common::{SECRET, spread};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        spread(self.0)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }
}

/// Connection number `n` of a pool: every third IPv6, every second translated.
fn pair(n: u32) -> [Key; 2] {
    let [_, a, b, c] = n.to_be_bytes();
    let (inside, outside, own) = if n.is_multiple_of(3) {
        let v6 = |net: u8, host: [u8; 3]| {
            key::words(&[0xfd, net, host[0], 0, 0, 0, 0, host[1], 0, 0, 0, 0, 0, 0, 0, host[2]])
        };
        (v6(1, [a, b, c]), v6(2, [0, 0, c]), v6(3, [0, 0, 1]))
    } else {
        (mapped([10, a, b, c]), mapped([198, 51, 100, c]), mapped([203, 0, 113, b]))
    };
    let family = if n.is_multiple_of(3) { 6 } else { 4 };
    let identity = Key::identity(if n % 5 < 2 { 6 } else { 17 }, family, 0);
    let forward = Key { source: inside, destination: outside, ports: ports(1024 + u16::from(c), 443), identity };
    let reverse = if n.is_multiple_of(2) {
        Key { source: outside, destination: own, ports: ports(443, (n % 60_000) as u16 + 1), identity }
    } else {
        Key { source: outside, destination: inside, ports: ports(443, 1024 + u16::from(c)), identity }
    };
    [forward, reverse]
}

fn draft(keys: [Key; 2], tag: u32) -> Draft {
    let side = |key| DraftSide {
        key,
        steer: Steer { adjacency: tag as u16, ingress: 1, action: Action::Forward, ..Steer::default() },
        service: tag,
    };
    Draft { sides: [side(keys[0]), side(keys[1])], rules: tag, flags: 0, parent: 0 }
}

/// A stand-in for the kernel's hash map, that outlives its table.
#[derive(Clone, Default)]
struct Hash(Arc<Mutex<HashMap<Key, u32>>>);

impl KernelHashSync for Hash {
    fn insert(&mut self, key: &Key, place: u32) -> Result<(), String> {
        self.0.lock().unwrap().insert(*key, place);
        Ok(())
    }

    fn remove(&mut self, key: &Key) {
        self.0.lock().unwrap().remove(key);
    }

    fn retain(&mut self, keep: &dyn Fn(&Key, u32) -> bool) {
        self.0.lock().unwrap().retain(|key, place| keep(key, *place));
    }
}

struct Entry {
    number: u32,
    serial: u32,
}

/// The table and a map that says what should be in it.
struct Pair {
    table: Table,
    geometry: Geometry,
    hash: Option<Hash>,
    blocks: HashMap<BlockIndex, Entry>,
    keys: HashMap<Key, (BlockIndex, usize)>,
    aside: Vec<(BlockIndex, Entry, Removal, bool)>,
    serials: HashSet<u32>,
    full: usize,
    revived: usize,
}

impl Pair {
    fn new(geometry: Geometry) -> Self {
        let hash = (geometry.index == index_kind::KERNEL_HASH).then(Hash::default);
        let kernel = hash.clone().map(|hash| Box::new(hash) as Box<dyn KernelHashSync>);
        Self {
            table: Table::create(Regions::private(geometry), geometry, SECRET, kernel),
            geometry,
            hash,
            blocks: HashMap::new(),
            keys: HashMap::new(),
            aside: Vec::new(),
            serials: HashSet::new(),
            full: 0,
            revived: 0,
        }
    }

    fn insert(&mut self, number: u32, now: u32) {
        let keys = pair(number);
        let taken: Vec<BlockIndex> = keys.iter().filter_map(|key| Some(self.keys.get(key)?.0)).collect();
        let free = self.geometry.blocks as usize - self.blocks.len() - self.aside.len();
        let mut prepared = false;
        let result = self.table.insert(&draft(keys, number), now, |block| {
            prepared = true;
            assert!(!is_live(block), "prepared before it is published");
        });
        match result {
            Ok(Inserted::New(block)) => {
                assert!(taken.is_empty() && free > 0 && prepared);
                let serial = self.table.block(block).unwrap().owner.serial.load();
                assert!(self.serials.insert(serial), "serial {serial} was used before");
                assert!(self.blocks.insert(block, Entry { number, serial }).is_none());
                for (direction, key) in keys.into_iter().enumerate() {
                    self.keys.insert(key, (block, direction));
                }
            }
            Ok(Inserted::Exists(block)) => assert!(taken.contains(&block) && !prepared),
            Err(InsertError::NoBlock) => assert!(taken.is_empty() && free == 0),
            Err(InsertError::NoPlace) => {
                assert!(taken.is_empty() && self.hash.is_none());
                self.full += 1;
            }
            Err(InsertError::Kernel(error)) => panic!("{error}"),
        }
    }

    fn remove(&mut self, block: BlockIndex, removal: Removal) {
        let known = self.blocks.remove(&block);
        assert_eq!(self.table.remove(block, removal), known.is_some());
        if let Some(entry) = known {
            for key in pair(entry.number) {
                self.keys.remove(&key);
            }
            self.aside.push((block, entry, removal, false));
        }
    }

    /// A packet that found the entry before it was removed.
    fn touch(&mut self, which: usize, now: u32) {
        if let Some((block, _, _, woke)) = self.aside.get_mut(which) {
            let cell = &self.table.block(*block).unwrap().hot[which % 2].last_seen;
            *woke |= cell.load() != now;
            cell.store(now);
        }
    }

    fn grace(&mut self) {
        let begun = self.table.begin_grace();
        let outcomes: Vec<AfterGrace> = std::iter::from_fn(|| self.table.after_grace(begun)).collect();
        assert!(!self.table.wants_grace());
        let mut outcomes = outcomes.into_iter();
        for (block, entry, removal, woke) in std::mem::take(&mut self.aside) {
            let keys = pair(entry.number);
            let taken = keys.iter().any(|key| self.keys.contains_key(key));
            // A full index may refuse to take a connection back.
            let outcome = outcomes.next().expect("freed or revived");
            if outcome == AfterGrace::Revived(block) {
                assert!(removal == Removal::Expiry && woke && !taken, "a connection is back that must not be");
                self.revived += 1;
                for (direction, key) in keys.into_iter().enumerate() {
                    self.keys.insert(key, (block, direction));
                }
                self.blocks.insert(block, entry);
                continue;
            }
            let must = removal == Removal::Expiry && woke && !taken;
            assert!(!must || self.hash.is_none() && self.load() > 0.8, "a connection that woke was freed");
            let AfterGrace::Freed(freed) = outcome else { panic!("{outcome:?} in place of {block}") };
            assert_eq!((freed.block, freed.serial, freed.keys), (block, entry.serial, keys));
            assert_eq!((freed.ports, freed.rules), ([1, 1], entry.number));
        }
        assert!(outcomes.next().is_none());
    }

    fn adopt(&mut self) {
        let kernel = self.hash.clone().map(|hash| Box::new(hash) as Box<dyn KernelHashSync>);
        self.table = Table::adopt(self.table.regions().clone(), self.geometry, kernel).unwrap();
        // What waited for a grace period is gone with the process that waited.
        self.aside.clear();
    }

    fn load(&self) -> f64 {
        2.0 * self.blocks.len() as f64 / (f64::from(self.geometry.buckets) * BUCKET_ENTRIES as f64)
    }

    /// What a reader in the kernel would find.
    fn read(&self, key: &Key) -> Option<(BlockIndex, usize)> {
        let regions = self.table.regions();
        let (block, direction) = match &self.hash {
            None => lookup::find(regions, regions.config[0].span(), key, key.hash(&SECRET))?,
            Some(hash) => {
                let place = *hash.0.lock().unwrap().get(key)?;
                let (block, direction) = lookup::block_of(place);
                let block = &regions.blocks[block as usize];
                lookup::has_key(block, direction, key).then_some((block, direction))?
            }
        };
        let number = regions.blocks.iter().position(|other| std::ptr::eq(other, block))?;
        Some((number as u32, direction))
    }

    fn compare(&self, number: u32) {
        for key in pair(number) {
            let expected = self.keys.get(&key).copied();
            assert_eq!(self.table.find(&key, self.table.hash(&key)), expected, "connection {number}");
        }
    }

    fn compare_all(&self, pool: u32) {
        for number in 0..pool {
            self.compare(number);
        }
        for (&block, entry) in &self.blocks {
            let record = self.table.block(block).unwrap();
            let keys = pair(entry.number);
            assert_eq!([key_of(record, 0), key_of(record, 1)], keys);
            assert_eq!(record.owner.rules.load(), entry.number);
            assert_eq!(
                [0, 1].map(|direction| self.read(&keys[direction])),
                [0, 1].map(|direction| Some((block, direction)))
            );
        }
        assert_eq!(self.table.live() as usize, self.blocks.len());
        assert_eq!(self.table.live_blocks().collect::<HashSet<_>>(), self.blocks.keys().copied().collect());
        assert_eq!(self.table.free(), self.geometry.blocks as usize - self.blocks.len() - self.aside.len());
    }
}

/// One hundred thousand random operations (B12: with either index).
fn model(geometry: Geometry, pool: u32, seed: u64) -> Pair {
    let mut random = Random(seed);
    let mut pair = Pair::new(geometry);
    for operation in 0..100_000u32 {
        let number = random.below(u64::from(pool)) as u32;
        match random.below(1000) {
            0..=499 => pair.insert(number, operation),
            500..=799 => pair.compare(number),
            800..=909 => {
                let block = random.below(u64::from(geometry.blocks) + 2) as u32;
                pair.remove(block, Removal::Final);
            }
            910..=949 => {
                let block = random.below(u64::from(geometry.blocks)) as u32;
                pair.remove(block, Removal::Expiry);
            }
            950..=969 => pair.touch(random.below(8) as usize, operation),
            970..=997 => pair.grace(),
            998 if operation % 8 == 0 => pair.adopt(),
            _ if operation % 4 == 0 => pair.compare_all(pool),
            _ => {}
        }
    }
    pair.grace();
    pair.compare_all(pool);
    pair
}

#[test]
fn lines_behave_like_a_map() {
    let pair = model(Geometry::for_connections(256, index_kind::LINES), 1000, 1);
    assert!(pair.revived > 50, "{} revived", pair.revived);
}

// Load above 0.9, where entries have to move and some find no place.
#[test]
fn crowded_lines_behave_like_a_map() {
    let pair = model(Geometry { buckets: 22, levels: 1, blocks: 130, index: index_kind::LINES }, 600, 2);
    assert!(pair.full > 0, "the index was never full");
}

// Levels of 64, 32, 16, 8 and 4 lines, and as many connections as each of them has room for, up and down.
#[test]
fn an_index_that_grows_and_shrinks_behaves_like_a_map() {
    let geometry = Geometry { buckets: 64, levels: 5, blocks: 380, index: index_kind::LINES };
    let (mut pair, mut random) = (Pair::new(geometry), Random(5));
    let mut seen = HashSet::new();
    for operation in 0..100_000u32 {
        // One wave takes a sixth of the operations.
        let rising = operation / 8000 % 2 == 0;
        let number = random.below(900) as u32;
        match random.below(100) {
            0..=39 if rising => pair.insert(number, operation),
            0..=9 => pair.insert(number, operation),
            10..=59 => pair.compare(number),
            60..=69 => pair.remove(random.below(380) as u32, Removal::Final),
            70..=89 if !rising => pair.remove(random.below(380) as u32, Removal::Final),
            90..=91 => pair.remove(random.below(380) as u32, Removal::Expiry),
            92..=93 => pair.touch(random.below(8) as usize, operation),
            94..=97 => pair.grace(),
            98 => {
                pair.table.tend(1);
            }
            _ if operation % 64 == 0 => pair.adopt(),
            _ if operation % 8 == 0 => pair.compare_all(900),
            _ => {}
        }
        seen.insert(pair.table.config().span().lines);
    }
    pair.grace();
    pair.compare_all(900);
    assert_eq!(seen, HashSet::from([4, 8, 16, 32, 64]), "every level was in use");
    assert!(pair.revived > 50, "{} revived", pair.revived);
}

// Where readers look is the smallest level that has room, and again when most have gone.
#[test]
fn the_index_is_as_large_as_what_is_in_it() {
    let geometry = Geometry { buckets: 1 << 14, levels: 6, blocks: 70_000, index: index_kind::LINES };
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    let lines = |table: &Table| table.config().span().lines;
    assert_eq!(lines(&table), 512);
    let mut highest = 0.0f64;
    for number in 0..70_000 {
        assert!(matches!(table.insert(&draft(pair(number), 0), 0, |_| {}), Ok(Inserted::New(_))));
        highest = highest.max(f64::from(2 * table.live()) / (f64::from(lines(&table)) * BUCKET_ENTRIES as f64));
        let needed = f64::from(2 * table.live()) / BUCKET_ENTRIES as f64;
        assert!(f64::from(lines(&table)) < (2.6 * needed).max(513.0), "{} lines for {needed}", lines(&table));
    }
    assert_eq!(lines(&table), 1 << 14);
    assert!(highest < 0.93, "a level was {highest} full");
    for number in 0..69_000 {
        assert!(table.remove(number, Removal::Final));
    }
    for _ in 0..1000 {
        table.tend(64);
    }
    assert_eq!(lines(&table), 1 << 10, "two thousand entries");
    let begun = table.begin_grace();
    while table.after_grace(begun).is_some() {}
    for number in 69_000..70_000 {
        let key = pair(number)[0];
        assert!(table.find(&key, table.hash(&key)).is_some());
        let hash = key.hash(&SECRET);
        assert!(lookup::find(table.regions(), table.config().span(), &key, hash).is_some());
    }
}

#[test]
fn two_lines_behave_like_a_map() {
    model(Geometry { buckets: 2, levels: 1, blocks: 14, index: index_kind::LINES }, 60, 3);
}

#[test]
fn a_kernel_hash_behaves_like_a_map() {
    let pair = model(Geometry { buckets: 1, levels: 1, blocks: 256, index: index_kind::KERNEL_HASH }, 1000, 4);
    assert!(pair.revived > 50, "{} revived", pair.revived);
}

// Design section 5: load 0.95 with one move; never below 0.85.
#[test]
fn the_index_takes_at_least_85_percent() {
    for (buckets, seed) in [(1000u32, 0u32), (5000, 1 << 20), (20_000, 2 << 20)] {
        let geometry = Geometry { buckets, levels: 1, blocks: buckets * 6 + 1, index: index_kind::LINES };
        let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
        let mut number = seed;
        loop {
            number += 1;
            match table.insert(&draft(pair(number), 0), 0, |_| {}) {
                Ok(_) => {}
                Err(InsertError::NoPlace) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        let load = 2.0 * f64::from(table.live()) / (f64::from(buckets) * BUCKET_ENTRIES as f64);
        println!("{buckets} lines: load {load:.3} at the first failure");
        assert!(load >= 0.85);
    }
}

// A line may hold more equal tags than a reader follows. The writer must see the entry all the same, or it
// would make the connection again with each packet (B18).
#[test]
fn the_writer_sees_keys_that_readers_do_not() {
    let geometry = Geometry { buckets: 2, levels: 1, blocks: 16, index: index_kind::LINES };
    // Keys whose two lines are one and the same, and whose tags are equal.
    let mut by_tag: HashMap<(u16, u32), Vec<u32>> = HashMap::new();
    let found = (0..4_000_000u32).map(|n| n * 6 + 1).find_map(|number| {
        let [forward, _] = pair(number);
        let hash = forward.hash(&SECRET);
        let [a, b] = lines_in(hash, geometry.buckets);
        if a != b {
            return None;
        }
        let group = by_tag.entry((tag_of(hash), a)).or_default();
        group.push(number);
        (group.len() == 4).then(|| group.clone())
    });
    let numbers = found.unwrap();
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    for number in &numbers {
        assert!(matches!(table.insert(&draft(pair(*number), 0), 0, |_| {}), Ok(Inserted::New(_))));
    }
    for number in &numbers {
        // Another translation, as a writer chooses who believes that the connection is new.
        let [forward, reverse] = pair(*number);
        let other = Key { ports: ports(443, 61_000), ..reverse };
        let again = table.insert(&draft([forward, other], 0), 0, |_| {});
        assert!(matches!(again, Ok(Inserted::Exists(_))), "{again:?}");
    }
}

#[test]
fn memory_of_others_is_refused() {
    let geometry = Geometry::for_connections(16, index_kind::LINES);
    let regions = Regions::private(geometry);
    assert_eq!(Table::adopt(regions.clone(), geometry, None).unwrap_err(), AdoptError::Foreign);
    let table = Table::create(regions.clone(), geometry, SECRET, None);
    let other = Geometry { blocks: 17, ..geometry };
    assert_eq!(Table::adopt(regions.clone(), other, None).unwrap_err(), AdoptError::Geometry);
    table.config().layout.store(77);
    assert!(matches!(Table::adopt(regions, geometry, None).unwrap_err(), AdoptError::Layout(77, _)));
}

// A writer that was killed between the stores of an insertion or a removal leaves nothing half-made.
#[test]
fn half_made_connections_are_cleaned_up() {
    let geometry = Geometry::for_connections(16, index_kind::LINES);
    for identities in [[0, 1], [1, 0], [0, 0]] {
        let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
        let Ok(Inserted::New(whole)) = table.insert(&draft(pair(1), 1), 0, |_| {}) else { panic!() };
        let Ok(Inserted::New(half)) = table.insert(&draft(pair(2), 2), 0, |_| {}) else { panic!() };
        for (hot, keep) in table.block(half).unwrap().hot.iter().zip(identities) {
            if keep == 0 {
                hot.identity.store(0);
            }
        }
        let table = Table::adopt(table.regions().clone(), geometry, None).unwrap();
        assert_eq!((table.live(), table.free()), (1, 15));
        assert_eq!(table.find(&pair(1)[0], table.hash(&pair(1)[0])), Some((whole, 0)));
        assert_eq!(table.find(&pair(2)[0], table.hash(&pair(2)[0])), None);
        assert!(table.regions().blocks[half as usize].hot.iter().all(|hot| hot.identity.load() == 0));
        let tags =
            table.regions().buckets.iter().flat_map(|b| (0..BUCKET_ENTRIES).map(|e| flowhop_table::index::tag(b, e)));
        assert_eq!(tags.filter(|tag| *tag != 0).count(), 2, "index entries of the half-made one are left");
    }
}

// B18, RFC 6056: whoever could have a packet taken for one of another flow would only need a tag of sixteen bits.
#[test]
fn an_entry_is_that_of_its_whole_key() {
    for number in [1, 2, 3, 6] {
        let keys = pair(number);
        let geometry = Geometry::for_connections(4, index_kind::LINES);
        let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
        let Inserted::New(block) = table.insert(&draft(keys, 1), 0, |_| {}).unwrap() else { panic!("it was there") };
        let block = table.block(block).unwrap();
        for (direction, key) in keys.iter().enumerate() {
            assert!(lookup::has_key(block, direction, key));
            let mut others = Vec::new();
            for bit in (0..32).map(|n| 1 << n) {
                others.push(Key { ports: key.ports ^ bit, ..*key });
                others.push(Key { identity: key.identity ^ bit, ..*key });
                // The upper words of IPv4 addresses are the same for all.
                for word in (0..4).filter(|word| key.family() == 6 || *word == 3) {
                    let [mut source, mut destination] = [key.source, key.destination];
                    source[word] ^= bit;
                    destination[word] ^= bit;
                    others.push(Key { source, ..*key });
                    others.push(Key { destination, ..*key });
                }
            }
            for other in others {
                assert!(!lookup::has_key(block, direction, &other), "{other:?} is {key:?}");
            }
            assert!(!lookup::has_key(block, direction ^ 1, key));
        }
    }
}

// B12: at most 80 % of the index are taken when all blocks are, and a connection takes no more than 320 bytes of both.
#[test]
fn the_index_is_as_large_as_the_blocks_need() {
    for connections in [1, 7, 64, 4096, 65_536, 1_000_000, 8_388_608] {
        let geometry = Geometry::for_connections(connections, index_kind::LINES);
        let Geometry { buckets, blocks, .. } = geometry;
        assert_eq!(blocks, connections);
        let (entries, keys) = (u64::from(buckets) * BUCKET_ENTRIES as u64, 2 * u64::from(blocks));
        assert!(entries * 8 / 10 >= keys, "{keys} keys in {entries} entries");
        let bytes = u64::from(geometry.lines()) * 64 + u64::from(blocks) * 256;
        assert!(connections < 64 || bytes <= 320 * u64::from(connections), "{bytes} bytes");
    }
    assert_eq!(Geometry::for_connections(u32::MAX, index_kind::LINES).blocks, 1 << 23);
    assert_eq!(Geometry::for_connections(0, index_kind::LINES).buckets, 2);
    assert_eq!(Geometry::for_connections(1 << 20, index_kind::KERNEL_HASH).lines(), 1, "the kernel has the index");
}

// What a new process does until it knows the table must not be seen by programs that run meanwhile (A12).
#[test]
fn adoption_leaves_readers_their_level() {
    let geometry = Geometry { buckets: 64, levels: 5, blocks: 380, index: index_kind::LINES };
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    for number in 0..200 {
        made(&mut table, number);
    }
    let regions = table.regions().clone();
    let before = regions.config[0].span();
    assert_eq!(before.lines, geometry.lines_of(200));
    drop(table);
    // Not even for a moment: whoever looked would miss all connections.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = HashSet::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let span = regions.config[0].span();
                seen.insert((span.start, span.lines));
            }
            seen
        });
        for _ in 0..2000 {
            let table = Table::adopt(regions.clone(), geometry, None).unwrap();
            assert_eq!(table.live(), 200);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(watcher.join().unwrap(), HashSet::from([(before.start, before.lines)]));
    });
}

// A process that died between the two stores of a move leaves an entry twice; one that was put elsewhere by nobody knows
// what is dropped as well.
#[test]
fn adoption_keeps_an_entry_once_and_where_it_belongs() {
    let geometry = Geometry { buckets: 8, levels: 1, blocks: 40, index: index_kind::LINES };
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    for number in 0..20 {
        made(&mut table, number);
    }
    let regions = table.regions().clone();
    let used = || regions.buckets.iter().flat_map(flowhop_table::index::places).count();
    let hash = |number| table.hash(&pair(number)[0]);
    let (twice, stray) = (table.find(&pair(3)[0], hash(3)).unwrap().0, table.find(&pair(4)[0], hash(4)).unwrap().0);
    let none = |_: u32| unreachable!("there is room");
    assert_ne!(flowhop_table::index::insert(&regions.buckets, hash(3), twice << 1, none), Entered::NoRoom);
    // Under the hash of another connection.
    assert_ne!(flowhop_table::index::insert(&regions.buckets, hash(5), stray << 1, none), Entered::NoRoom);
    assert_eq!(used(), 42);
    let table = Table::adopt(regions.clone(), geometry, None).unwrap();
    assert_eq!(used(), 40);
    for number in 0..20 {
        let key = &pair(number)[0];
        assert!(lookup::find(&regions, regions.config[0].span(), key, table.hash(key)).is_some());
    }
}

// A12: programs go on reading while a table is taken over, so that what is live stays where it is.
#[test]
fn live_entries_are_not_touched_by_adoption() {
    let geometry = Geometry { buckets: 2, levels: 1, blocks: 8, index: index_kind::LINES };
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    for number in 1..=6 {
        table.insert(&draft(pair(number), number), 0, |_| {}).unwrap();
    }
    // Those before them go, so that there is room where they would not be if they were entered again.
    for number in [1, 2] {
        let (block, _) = table.find(&pair(number)[0], table.hash(&pair(number)[0])).unwrap();
        assert!(table.remove(block, Removal::Final));
    }
    let begun = table.begin_grace();
    while table.after_grace(begun).is_some() {}
    let words = |table: &Table| -> Vec<u64> {
        let of = |bucket: &flowhop_flow::record::Bucket| {
            bucket.tags.iter().chain(&bucket.places).map(flowhop_flow::cell::Cell64::load).collect::<Vec<_>>()
        };
        table.regions().buckets.iter().flat_map(of).collect()
    };
    let before = words(&table);
    let adopted = Table::adopt(table.regions().clone(), geometry, None).unwrap();
    assert_eq!((adopted.live(), words(&adopted)), (4, before));
}

/// A kernel's hash map that remembers what was thrown out.
struct Throwing(Hash, Arc<Mutex<Vec<Key>>>);

impl KernelHashSync for Throwing {
    fn insert(&mut self, key: &Key, place: u32) -> Result<(), String> {
        self.0.insert(key, place)
    }

    fn remove(&mut self, key: &Key) {
        self.0.remove(key);
    }

    fn retain(&mut self, keep: &dyn Fn(&Key, u32) -> bool) {
        let mut map = self.0.0.lock().unwrap();
        let out: Vec<Key> = map.iter().filter(|(key, place)| !keep(key, **place)).map(|(key, _)| *key).collect();
        map.retain(|key, _| !out.contains(key));
        self.1.lock().unwrap().extend(out);
    }
}

#[test]
fn what_is_live_stays_in_the_hash_map_that_is_adopted() {
    let (hash, thrown) = (Hash::default(), Arc::default());
    let geometry = Geometry::for_connections(8, index_kind::KERNEL_HASH);
    let kernel = || Some(Box::new(Throwing(hash.clone(), Arc::clone(&thrown))) as Box<dyn KernelHashSync>);
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, kernel());
    for number in 1..=5 {
        table.insert(&draft(pair(number), number), 0, |_| {}).unwrap();
    }
    // A process that was killed while it took one out; and an entry of another key than its block has.
    let (half, _) = table.find(&pair(2)[0], table.hash(&pair(2)[0])).unwrap();
    table.block(half).unwrap().hot[0].identity.store(0);
    let (other, _) = table.find(&pair(3)[0], table.hash(&pair(3)[0])).unwrap();
    hash.0.lock().unwrap().insert(pair(9)[0], other << 1);
    let adopted = Table::adopt(table.regions().clone(), geometry, kernel()).unwrap();
    let expected: HashSet<Key> = [pair(2)[0], pair(9)[0]].into();
    let thrown: HashSet<Key> = thrown.lock().unwrap().iter().copied().collect();
    assert!(thrown.is_superset(&expected) && thrown.len() <= 3, "{thrown:?}");
    assert_eq!(adopted.live(), 4);
    for number in [1, 3, 4, 5] {
        assert!(pair(number).iter().all(|key| !thrown.contains(key)), "{number} was thrown out");
    }
}

fn made(table: &mut Table, number: u32) -> BlockIndex {
    match table.insert(&draft(pair(number), number), 0, |_| {}).unwrap() {
        Inserted::New(block) => block,
        Inserted::Exists(block) => panic!("{number} is {block}"),
    }
}

// A11: a program that found an entry before it was removed has ended before the block is somebody else's.
#[test]
fn a_grace_period_frees_what_was_removed_before_it_began() {
    let geometry = Geometry::for_connections(8, index_kind::LINES);
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    let blocks = [1, 2].map(|number| made(&mut table, number));
    assert!(!table.wants_grace());
    assert!(table.remove(blocks[0], Removal::Final));
    assert!(table.wants_grace());
    let first = table.begin_grace();
    assert!(table.remove(blocks[1], Removal::Final));
    let freed = |table: &mut Table, begun| match table.after_grace(begun) {
        Some(AfterGrace::Freed(freed)) => Some(freed.block),
        Some(AfterGrace::Revived(block)) => panic!("{block} is back"),
        None => None,
    };
    assert_eq!(freed(&mut table, first), Some(blocks[0]));
    assert_eq!(freed(&mut table, first), None);
    assert!(table.wants_grace());
    let second = table.begin_grace();
    assert_eq!((second, table.epoch()), (first + 1, second));
    assert_eq!(freed(&mut table, second), Some(blocks[1]));
    assert!(!table.wants_grace());
}

#[test]
fn a_connection_that_cannot_come_back_leaves_no_entry_behind() {
    let geometry = Geometry { buckets: 2, levels: 1, blocks: 16, index: index_kind::LINES };
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    made(&mut table, 12);
    let woken = made(&mut table, 1);
    assert!(table.remove(woken, Removal::Expiry));
    table.block(woken).unwrap().hot[0].last_seen.store(77);
    for number in 2..=11 {
        made(&mut table, number);
    }
    // One of the last two entries is taken, so that there is room for one direction.
    let entries = || (0..2).flat_map(|line| (0..BUCKET_ENTRIES).map(move |entry| (line, entry)));
    let is_free = |table: &Table, (line, entry): (usize, usize)| {
        flowhop_table::index::tag(&table.regions().buckets[line], entry) == 0
    };
    let (line, entry) = entries().find(|at| is_free(&table, *at)).unwrap();
    let (word, lane) = TAG_PLACES[entry];
    let word = &table.regions().buckets[line].tags[word];
    word.store(word.load() | 0xffff << (16 * lane));
    let begun = table.begin_grace();
    assert!(matches!(table.after_grace(begun), Some(AfterGrace::Freed(freed)) if freed.block == woken));
    assert_eq!(entries().filter(|at| is_free(&table, *at)).count(), 1);
    assert_eq!(table.live(), 11);
}

// C10: of a connection between families, each direction has an identity of its own.
#[test]
fn each_direction_has_its_own_identity() {
    let (geometry, [forward, _]) = (Geometry::for_connections(4, index_kind::LINES), pair(3));
    let [_, reverse] = pair(1);
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    let Ok(Inserted::New(number)) = table.insert(&draft([forward, reverse], 1), 0, |_| {}) else { panic!("made") };
    let block = table.block(number).unwrap();
    assert_eq!([0, 1].map(|direction| key_of(block, direction)), [forward, reverse]);
    assert!(is_live(block));
    for half in 0..2 {
        let identity = block.hot[half].identity.load();
        block.hot[half].identity.store(0);
        assert!(!is_live(block), "with its other half alone");
        block.hot[half].identity.store(identity);
    }
}

// A kernel's hash map that nobody asks for is left alone.
#[test]
fn a_table_with_lines_does_not_fill_a_hash_map() {
    let hash = Hash::default();
    let geometry = Geometry::for_connections(4, index_kind::LINES);
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, Some(Box::new(hash.clone())));
    table.insert(&draft(pair(1), 1), 0, |_| {}).unwrap();
    assert!(hash.0.lock().unwrap().is_empty());
}

fn any_key() -> impl Strategy<Value = Key> {
    // Few values, so that keys differ in one field only, often.
    let word = prop::sample::select(vec![0u32, 1, 0x0100_0000, u32::MAX]);
    let v6 = prop::array::uniform4(word);
    let v4 = prop::sample::select(vec![[10, 0, 0, 1], [10, 0, 0, 2], [192, 0, 2, 1]]).prop_map(mapped);
    let protocol = prop::sample::select(vec![6u8, 17, 1, 58, 47]);
    let context = 0..3u16;
    let port = || prop::sample::select(vec![0u16, 1, 443, 0xffff]);
    let addresses = prop_oneof![(v4.clone(), v4, Just(4u8)), (v6.clone(), v6, Just(6u8))];
    (addresses, port(), port(), protocol, context).prop_map(
        |((source, destination, family), s, d, protocol, context)| Key {
            source,
            destination,
            ports: ports(s, d),
            identity: Key::identity(protocol, family, context),
        },
    )
}

proptest! {
    // B18: whatever differs (an address word, a port, protocol, family, context) makes another entry.
    #[test]
    fn two_connections_never_share_an_entry(keys in prop::collection::vec(any_key(), 2..40)) {
        let geometry = Geometry::for_connections(64, index_kind::LINES);
        let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
        let mut owners: HashMap<Key, BlockIndex> = HashMap::new();
        for (n, key) in keys.iter().enumerate() {
            // A reverse key of its own in a context that no forward key uses.
            let reverse = Key { source: mapped([1, 1, 1, 1]), destination: mapped([2, 2, 2, 2]), ports: n as u32, identity: Key::identity(17, 4, 99) };
            match table.insert(&draft([*key, reverse], n as u32), 0, |_| {}).unwrap() {
                Inserted::New(block) => prop_assert_eq!(owners.insert(*key, block), None),
                Inserted::Exists(block) => prop_assert_eq!(owners.get(key), Some(&block)),
            }
        }
        let blocks: HashSet<_> = owners.values().collect();
        prop_assert_eq!(blocks.len(), owners.len());
        for (key, block) in &owners {
            prop_assert_eq!(table.find(key, table.hash(key)), Some((*block, 0)));
        }
    }

    // A14: each direction leaves as what the other one comes in as, and what comes back is translated back.
    #[test]
    fn rewrites_are_each_others_inverse(forward in any_key(), reverse in any_key()) {
        let reverse = Key { identity: forward.identity, ..reverse };
        let (there, back) = (rewrite_between(&forward, &reverse), rewrite_between(&reverse, &forward));
        prop_assert_eq!((there.source, there.destination), (reverse.destination, reverse.source));
        prop_assert_eq!((back.source, back.destination), (forward.destination, forward.source));
        let none = Rewrite { source: forward.source, destination: forward.destination, ports: forward.ports, address_delta: 0, port_delta: 0 };
        prop_assert_eq!(none.with_deltas(&forward.source, &forward.destination, forward.ports), none);
        // One's complement: there and back is nothing (either form of zero).
        let both = u32::from(there.address_delta) + u32::from(back.address_delta);
        prop_assert_eq!(both % 0xffff, 0);
        if !matches!(forward.protocol(), 1 | 58) {
            prop_assert_eq!((u32::from(there.port_delta) + u32::from(back.port_delta)) % 0xffff, 0);
        }
    }
}
