//! Where in the index an entry is put: readers find most in the line that they look at first.

#[expect(dead_code, reason = "other tests need it")]
mod common;

use std::cell::Cell;

use flowhop_flow::record::{BUCKET_ENTRIES, Bucket};
use flowhop_table::index::{Entered, find, insert, place, places, remove, tag};
use flowhop_table::lookup::{lines_in, tag_of};

use common::spread;

/// A hash, as different from that of the next number as those of keys are.
fn hash(n: u32) -> u64 {
    spread((u64::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn lines(number: usize) -> Vec<Bucket> {
    std::iter::repeat_with(Bucket::default).take(number).collect()
}

fn room(bucket: &Bucket) -> usize {
    BUCKET_ENTRIES - places(bucket).count()
}

// The last two entries of a line are kept for those that have no better one: lines that are filled evenly take more before
// anything has to move, and whatever is in its first line costs a reader one line and not two.
#[test]
fn an_entry_is_in_its_first_line_unless_the_other_one_is_emptier_by_then() {
    let buckets = lines(64);
    let moved = Cell::new(false);
    for n in 0.. {
        let [first, second] = lines_in(hash(n), 64).map(|line| &buckets[line as usize]);
        let (own, other) = (room(first), room(second));
        let entered = insert(&buckets, hash(n), n, |place| {
            moved.set(true);
            hash(place)
        });
        if moved.get() {
            assert!(own == 0 && other == 0, "{n} had something moved though there was room");
            break;
        }
        assert_eq!(entered, Entered::Free);
        if std::ptr::eq(first, second) {
            continue;
        }
        if own > 2 || own >= other {
            assert_eq!((room(first), room(second)), (own - 1, other), "{n}: there was room for {own} and {other}");
        } else {
            assert_eq!((room(first), room(second)), (own, other - 1), "{n}: there was room for {own} and {other}");
        }
    }
}

// Until nothing can move: each entry is in one of its own lines, once, with its own tag.
#[test]
fn what_moves_stays_where_readers_look_for_it() {
    let buckets = lines(16);
    let mut entered = 0;
    while insert(&buckets, hash(entered), entered, hash) != Entered::NoRoom {
        entered += 1;
        let mut there = Vec::new();
        for (number, bucket) in (0..).zip(&buckets) {
            for entry in (0..BUCKET_ENTRIES).filter(|entry| tag(bucket, *entry) != 0) {
                let place = place(bucket, entry);
                assert_eq!(tag(bucket, entry), tag_of(hash(place)));
                assert!(lines_in(hash(place), 16).contains(&number), "{place}");
                there.push(place);
            }
        }
        there.sort_unstable();
        assert_eq!(there, (0..entered).collect::<Vec<_>>());
    }
    assert!(f64::from(entered) > 0.85 * (16 * BUCKET_ENTRIES) as f64, "{entered} entries");
    for n in 0..entered {
        assert_eq!(find(&buckets, hash(n), |place| place == n), Some(n));
        assert!(remove(&buckets, hash(n), n));
        assert!(!remove(&buckets, hash(n), n));
        assert_eq!(find(&buckets, hash(n), |place| place == n), None);
    }
    assert!(buckets.iter().all(|bucket| room(bucket) == BUCKET_ENTRIES));
}
