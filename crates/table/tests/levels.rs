//! Levels of the index: when another one is built, how much of it in a turn, and what is in it then (checklist B12).
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests: a panic is their report")]

#[expect(dead_code, reason = "other tests need it")]
mod common;

use flowhop_flow::Key;
use flowhop_flow::key::{mapped, ports};
use flowhop_flow::record::{Bucket, Steer, index_kind};
use flowhop_table::lookup::{self, lines_in, tag_of};
use flowhop_table::{
    AdoptError, BlockIndex, Draft, DraftSide, Geometry, InsertError, Inserted, Regions, Removal, Table, index, is_live,
};

use common::SECRET;

/// Both keys of connection `n`.
fn keys(n: u32) -> [Key; 2] {
    let [_, a, b, c] = n.to_be_bytes();
    let (inside, outside) = (mapped([10, a, b, c]), mapped([198, 51, 100, 7]));
    let identity = Key::identity(17, 4, 0);
    [
        Key { source: inside, destination: outside, ports: ports(4000, 53), identity },
        Key { source: outside, destination: inside, ports: ports(53, 4000), identity },
    ]
}

fn table(buckets: u32, levels: u32, blocks: u32) -> Table {
    let geometry = Geometry { buckets, levels, blocks, index: index_kind::LINES };
    Table::create(Regions::private(geometry), geometry, SECRET, None)
}

fn try_insert(table: &mut Table, n: u32) -> Result<BlockIndex, InsertError> {
    let sides = keys(n).map(|key| DraftSide { key, steer: Steer::default(), service: 0 });
    match table.insert(&Draft { sides, rules: n, flags: 0, parent: 0 }, 0, |_| {})? {
        Inserted::New(block) => Ok(block),
        Inserted::Exists(block) => panic!("{n} is {block}"),
    }
}

fn insert(table: &mut Table, n: u32) -> BlockIndex {
    try_insert(table, n).unwrap()
}

fn lines(table: &Table) -> u32 {
    table.config().span().lines
}

/// The lines that readers look at.
fn in_use(table: &Table) -> &[Bucket] {
    let span = table.config().span();
    &table.regions().buckets[span.start as usize..][..span.lines as usize]
}

/// Each direction of each published connection is in the index once, where readers look, and nothing else is.
fn check(table: &Table) {
    let mut there: Vec<u32> = in_use(table).iter().flat_map(index::places).collect();
    there.sort_unstable();
    let expected: Vec<u32> = table.live_blocks().flat_map(|block| [block << 1, block << 1 | 1]).collect();
    assert_eq!(there, expected);
    for block in table.live_blocks() {
        for (direction, key) in keys(table.block(block).unwrap().owner.rules.load()).iter().enumerate() {
            let hash = table.hash(key);
            assert_eq!(table.find(key, hash), Some((block, direction)));
            let (record, side) = lookup::find(table.regions(), table.config().span(), key, hash).unwrap();
            assert!(is_live(record) && side == direction);
        }
    }
}

fn grace(table: &mut Table) {
    let begun = table.begin_grace();
    while table.after_grace(begun).is_some() {}
}

/// A turn with each call until nothing is left to do; how many there were.
fn turns(table: &mut Table) -> u32 {
    let mut turns = 0;
    while table.tend(0) {
        table.tend(1);
        turns += 1;
        assert!(turns < 10_000, "there is always more to do");
    }
    turns
}

// Levels of 25, 50 and 100 lines of twelve entries, of which a connection takes two.
#[test]
fn a_larger_level_is_begun_above_82_percent() {
    let mut table = table(100, 3, 600);
    for n in 0..123 {
        insert(&mut table, n);
        assert!(!table.tend(0), "{n}: 246 of 300 entries are no more than 82 percent");
    }
    insert(&mut table, 123);
    assert!(table.tend(0));
    assert_eq!(lines(&table), 25, "readers look there until the other one is complete");
    turns(&mut table);
    assert_eq!(lines(&table), 50);
    check(&table);
}

#[test]
fn how_large_an_index_becomes_is_known_beforehand() {
    let geometry = Geometry { buckets: 100, levels: 3, blocks: 600, index: index_kind::LINES };
    let mut table = table(geometry.buckets, geometry.levels, geometry.blocks);
    assert_eq!(lines(&table), geometry.lines_of(0));
    for n in 0..560 {
        insert(&mut table, n);
        turns(&mut table);
        assert_eq!(lines(&table), geometry.lines_of(n + 1), "{n}");
    }
    assert_eq!(lines(&table), 100, "more than 82 percent are taken, and there is no larger one");
}

#[test]
fn a_smaller_level_is_begun_below_15_percent() {
    let mut table = table(100, 3, 600);
    for n in 0..124 {
        insert(&mut table, n);
    }
    turns(&mut table);
    assert_eq!(lines(&table), 50);
    for block in 45..124 {
        table.remove(block, Removal::Final);
        assert!(!table.tend(0), "{block}: 90 of 600 entries are no fewer than 15 percent");
    }
    table.remove(44, Removal::Final);
    assert!(table.tend(0));
    turns(&mut table);
    assert_eq!(lines(&table), 25);
    check(&table);
    // There is none below it, however little is in it.
    (0..44).for_each(|block| _ = table.remove(block, Removal::Final));
    assert!(!table.tend(100));
    assert_eq!(lines(&table), 25);
}

// Whoever makes a connection waits for one turn, which is the same for every size of the index: 64 lines are emptied, or
// what is in four of them is carried over.
#[test]
fn a_turn_is_as_long_for_every_index() {
    for (smallest, growing) in [(25u32, 1 + 7), (96, 3 + 24), (250, 8 + 63), (1024, 32 + 256)] {
        let mut table = table(4 * smallest, 3, 12 * smallest);
        let mut number = 0;
        while !table.tend(0) {
            insert(&mut table, number);
            number += 1;
        }
        // The connection that it was begun with has had the first turn.
        assert_eq!(1 + turns(&mut table), growing, "{smallest} lines");
        assert_eq!(lines(&table), 2 * smallest);
        check(&table);
        // All of them in one call are as many.
        for block in 0..number {
            table.remove(block, Removal::Final);
        }
        let shrinking = smallest.div_ceil(64) + (2 * smallest).div_ceil(4);
        assert!(table.tend(shrinking - 1));
        assert!(!table.tend(1));
        assert_eq!(lines(&table), smallest);
    }
}

// With a turn for every connection: those that are made and removed meanwhile are in the new level or not, as they are in
// the old one, wherever the turns have come to.
#[test]
fn what_comes_and_goes_while_a_level_is_built_is_in_it_or_not() {
    for step in 1..8 {
        let mut table = table(100, 3, 600);
        let mut number = 0;
        while !table.tend(0) {
            insert(&mut table, number);
            number += 1;
        }
        let mut gone = 0;
        while lines(&table) == 25 {
            insert(&mut table, number);
            number += 1;
            if number % step == 0 {
                table.remove(gone, Removal::Final);
                gone += 1;
            }
            check(&table);
        }
        assert_eq!(lines(&table), 50);
        check(&table);
    }
}

// Levels of even numbers lie over one another, and so do the others: what an earlier one has left there is no entry of it.
#[test]
fn nothing_is_left_of_an_earlier_level_in_the_same_memory() {
    let mut table = table(64, 5, 380);
    for wave in 0..3u32 {
        let mut blocks: Vec<BlockIndex> = Vec::new();
        for n in 0..300 {
            blocks.push(insert(&mut table, wave << 16 | n));
            if n % 20 == 0 {
                check(&table);
            }
        }
        turns(&mut table);
        assert_eq!(lines(&table), 64);
        for (n, block) in blocks.into_iter().enumerate() {
            table.remove(block, Removal::Final);
            turns(&mut table);
            if n % 20 == 0 {
                check(&table);
            }
        }
        grace(&mut table);
        assert_eq!(lines(&table), 4);
    }
}

// Thirteen connections whose first directions have no more than one line between them, which has twelve entries.
#[test]
fn an_index_with_a_full_line_is_enlarged_at_once() {
    let mut table = table(32, 3, 200);
    // The middle one of three levels is in use.
    let mut number = 0;
    while lines(&table) < 16 {
        insert(&mut table, number);
        number += 1;
    }
    // Those that are left are as many as it takes for a smaller one not to be begun.
    for block in 15..number {
        table.remove(block, Removal::Final);
    }
    let all_in = |line, count| -> Vec<u32> {
        let same = |n: &u32| lines_in(table.hash(&keys(*n)[0]), 16) == [line, line];
        (1 << 20..1 << 24).filter(same).take(count).collect()
    };
    // Lines 4 and 5 are one line of a level half as large.
    let (crowd, beside) = (all_in(5, 13), all_in(4, 1));
    for n in crowd[..12].iter().chain(&beside) {
        insert(&mut table, *n);
    }
    for block in 0..15 {
        table.remove(block, Removal::Final);
    }
    assert!(table.tend(1), "a smaller one is begun, which has no room for those either");
    assert_eq!(lines(&table), 16);
    insert(&mut table, crowd[12]);
    assert_eq!(lines(&table), 32);
    check(&table);
}

#[test]
fn a_full_line_of_the_largest_level_takes_no_more() {
    let mut table = table(16, 1, 200);
    let same = |n: &u32| lines_in(table.hash(&keys(*n)[0]), 16) == [5, 5];
    let crowd: Vec<u32> = (0..1 << 24).filter(same).take(13).collect();
    for n in &crowd[..12] {
        insert(&mut table, *n);
    }
    assert_eq!(try_insert(&mut table, crowd[12]), Err(InsertError::NoPlace));
    assert_eq!((table.live(), lines(&table)), (12, 16));
    check(&table);
}

// A12: readers go on with the level that they have, and one that was being built is forgotten.
#[test]
fn a_table_is_taken_over_with_its_level() {
    let geometry = Geometry { buckets: 100, levels: 3, blocks: 600, index: index_kind::LINES };
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    for (until, expected) in [(100, 25), (124, 25), (200, 50), (300, 100)] {
        for n in table.live()..until {
            insert(&mut table, n);
        }
        let span = table.config().span();
        table = Table::adopt(table.regions().clone(), geometry, None).unwrap();
        assert_eq!((table.config().span(), lines(&table)), (span, expected));
        check(&table);
    }
}

// Both what the memory says and how much of it there is have to be as this process would have made it.
#[test]
fn memory_of_another_shape_is_refused() {
    let geometry = Geometry { buckets: 16, levels: 1, blocks: 40, index: index_kind::LINES };
    let table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    let hash = Geometry { index: index_kind::KERNEL_HASH, ..geometry };
    assert_eq!(Table::adopt(table.regions().clone(), hash, None).unwrap_err(), AdoptError::Geometry);
    for more in [Geometry { buckets: 17, ..geometry }, Geometry { blocks: 41, ..geometry }] {
        let table = Table::create(Regions::private(more), geometry, SECRET, None);
        assert_eq!(Table::adopt(table.regions().clone(), geometry, None).unwrap_err(), AdoptError::Geometry);
    }
}

// What lies in the memory of the largest level may be an old copy, with blocks that are other connections' by now.
#[test]
fn without_a_level_the_largest_one_is_filled_anew() {
    let geometry = Geometry { buckets: 100, levels: 3, blocks: 600, index: index_kind::LINES };
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    (0..300).for_each(|n| _ = insert(&mut table, n));
    turns(&mut table);
    assert_eq!(lines(&table), 100);
    (0..300).for_each(|block| _ = table.remove(block, Removal::Final));
    (0..2).for_each(|_| _ = turns(&mut table));
    grace(&mut table);
    (1000..1020).for_each(|n| _ = insert(&mut table, n));
    table.config().span.store(0);
    let table = Table::adopt(table.regions().clone(), geometry, None).unwrap();
    assert_eq!((table.live(), lines(&table)), (20, 100));
    check(&table);
}

// Every second level lies over the largest one, and the others over the second largest one, which is half as large.
#[test]
fn memory_is_for_the_two_largest_levels() {
    for buckets in [2, 3, 100, 1 << 14, 1_747_627] {
        let lines = |levels| Geometry { buckets, levels, blocks: 1, index: index_kind::LINES }.lines();
        assert_eq!(lines(1), buckets, "there is no second one");
        assert_eq!([2, 3, 9].map(lines), [buckets + buckets / 2; 3]);
    }
}

// Each level is half as large as the one before, and the smallest one has at least the lines that were asked for.
#[test]
fn there_are_levels_down_to_the_smallest_that_is_wanted() {
    for buckets in [2, 63, 64, 65, 127, 128, 4096, 1_747_627] {
        for least in [1, 2, 60, 64, 4096] {
            let geometry = Geometry { buckets, levels: 7, blocks: 9, index: index_kind::LINES };
            let Geometry { levels, .. } = geometry.growing_from(least);
            assert_eq!(geometry.growing_from(least), Geometry { levels, ..geometry });
            assert!(levels == 1 || buckets >> (levels - 1) >= least, "{levels} levels of {buckets} lines");
            assert!(buckets >> levels < least, "there could be more than {levels} levels of {buckets} lines");
        }
    }
    assert_eq!(Geometry { buckets: 8, levels: 1, blocks: 9, index: index_kind::LINES }.growing_from(0).levels, 4);
}

// A12: an entry in a line of its hash with another tag, or with its tag in another line, is one that no reader finds.
#[test]
fn entries_that_no_reader_finds_are_entered_anew_by_adoption() {
    let geometry = Geometry { buckets: 16, levels: 1, blocks: 40, index: index_kind::LINES };
    let mut table = Table::create(Regions::private(geometry), geometry, SECRET, None);
    let block = insert(&mut table, 1);
    (2..20).for_each(|n| _ = insert(&mut table, n));
    let hash = table.hash(&keys(1)[0]);
    let own = lines_in(hash, 16);
    let others = || (0..1 << 20).map(|n| table.hash(&keys(n)[1]));
    let of_its_line = others().find(|other| lines_in(*other, 16) == own && tag_of(*other) != tag_of(hash)).unwrap();
    // The tag is made of the bits from the eighth on.
    let with_tag = |other: u64| other & !0x00ff_ff00 | hash & 0x00ff_ff00;
    let of_its_tag = others().map(with_tag).find(|other| lines_in(*other, 16).iter().all(|line| !own.contains(line)));
    for wrong in [of_its_line, of_its_tag.unwrap()] {
        let regions = table.regions().clone();
        assert!(index::remove(&regions.buckets, hash, block << 1));
        assert_ne!(index::insert(&regions.buckets, wrong, block << 1, |_| hash), index::Entered::NoRoom);
        table = Table::adopt(regions, geometry, None).unwrap();
        check(&table);
    }
}
