//! The decision table: flow entries in memory that every forwarding path shares.
//!
//! # What
//! A hash table laid over memory-mappable arrays. The index is lines of twelve (16-bit tag, 24-bit place)
//! entries, two candidate lines for a key; a place names one direction of a 256-byte connection block. The
//! reader ([`lookup`]) is `no_std` and runs in the kernel programs; the writer (feature `std`) runs in the one
//! user-level thread that owns all sessions and writes with plain stores, no system call.
//!
//! # Protocol
//! One writer, any number of readers on any core, none of which ever waits.
//!
//! * **Publish**: fill the block while its `identity` words are 0; enter both places into the index (place
//!   first, tag after); store the two `identity` words last (release). A reader that finds a place early sees
//!   identity 0 and reports a miss.
//! * **Insert** is lookup-or-insert by the keys of both directions: one existing key and nothing is made.
//! * **Update** of a live entry is one store of its [`Steer`](flowhop_flow::record::Steer) word. Keys and
//!   rewrites of a live entry never change.
//! * **Move** of an index entry: the new place is written first, the old one cleared after. A reader that runs
//!   between its two lines may miss once, which hands the packet down; it never finds a wrong entry, because
//!   the block's own key decides.
//! * **Grow and shrink** of the index: another level is filled beside the one in use, and one store tells readers of it.
//!   One that still looks at the old level may miss, as with a move.
//! * **Remove**: store identity 0 in both directions (unpublish), clear both tags, and put the block aside. A
//!   reader that found it before may still forward one packet by it. After a grace period of all kernel
//!   programs nobody can: then the last-seen stamps are read again. If a packet came in between, an *expiry* is
//!   taken back (published again); a deletion is final. Only then is the block free for another connection.
//! * A block that is reused gets a new serial, so that identifiers given to people stay unique.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(feature = "std")]
pub mod index;
#[cfg(feature = "std")]
mod levels;
pub mod lookup;
#[cfg(feature = "std")]
pub mod memory;
#[cfg(feature = "std")]
pub mod writer;

#[cfg(feature = "std")]
pub use memory::{Geometry, Region, Regions};
#[cfg(feature = "std")]
pub use writer::{
    AdoptError, AfterGrace, BlockIndex, Draft, DraftSide, Freed, Index, InsertError, Inserted, KernelHashSync, Removal,
    Table, is_live, key_of, rewrite_between, set_rewrite,
};
