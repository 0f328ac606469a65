//! The memory that a table lies in: mapped BPF arrays, or memory of this process alone.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use flowhop_flow::record::{
    ADJACENCIES, Adjacency, BUCKET_ENTRIES, Block, Bucket, Config, GATES, Gate, MAX_BLOCKS, PORTS, Port, index_kind,
};

/// A fixed run of shared records. Cloning shares it.
pub struct Region<T> {
    start: NonNull<T>,
    length: usize,
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: a region hands out shared references only, and its records consist of cells made for sharing
// (`T: Sync` where it is built); the owner that keeps the memory alive is itself Send and Sync.
unsafe impl<T: Sync> Send for Region<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Region<T> {}

impl<T: Sync + Send + 'static> Region<T> {
    /// A region in memory of this process.
    #[must_use]
    pub fn from_vec(records: Vec<T>) -> Self {
        let owner: Arc<Vec<T>> = Arc::new(records);
        let start = NonNull::from(owner.as_slice()).cast();
        Self { start, length: owner.len(), owner }
    }

    /// A region in memory that `owner` keeps mapped.
    ///
    /// # Safety
    /// `start` points to `length` valid, aligned records, which stay where they are and mapped as long as
    /// `owner` lives, and which nobody accesses other than through their cells.
    #[must_use]
    pub unsafe fn from_raw(start: NonNull<T>, length: usize, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { start, length, owner }
    }
}

impl<T> Clone for Region<T> {
    fn clone(&self) -> Self {
        Self { start: self.start, length: self.length, owner: Arc::clone(&self.owner) }
    }
}

impl<T> Deref for Region<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `from_vec` and the contract of `from_raw`: valid for as long as `owner`, which self holds.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T> fmt::Debug for Region<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("length", &self.length).finish_non_exhaustive()
    }
}

/// The arrays of one table.
#[derive(Clone, Debug)]
pub struct Regions {
    /// One [`Config`].
    pub config: Region<Config>,
    /// Index lines.
    pub buckets: Region<Bucket>,
    /// Connection blocks.
    pub blocks: Region<Block>,
    /// Adjacencies.
    pub adjacencies: Region<Adjacency>,
    /// Gates.
    pub gates: Region<Gate>,
    /// Ports.
    pub ports: Region<Port>,
}

/// Lines of the smallest level of an index: a quarter of what processors keep close.
const LEAST_LINES: u32 = 4096;

/// Sizes of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Lines of the largest level of the index.
    pub buckets: u32,
    /// Levels of the index, each half as large as the one before.
    pub levels: u32,
    /// Connection blocks.
    pub blocks: u32,
    /// One of [`flowhop_flow::record::index_kind`].
    pub index: u32,
}

impl Geometry {
    /// The geometry for a number of connections: an index that is at most 80 % full when all blocks are taken.
    #[must_use]
    pub fn for_connections(connections: u32, index: u32) -> Self {
        let blocks = connections.clamp(1, MAX_BLOCKS);
        if index == index_kind::KERNEL_HASH {
            // The kernel has the index.
            return Self { buckets: 1, levels: 1, blocks, index };
        }
        let entries = u64::from(blocks) * 2 * 10 / 8;
        let buckets = entries.div_ceil(BUCKET_ENTRIES as u64).max(2) as u32;
        Self { buckets, levels: 1, blocks, index }.growing_from(LEAST_LINES)
    }

    /// The same, with levels down to a smallest one of at least so many lines, if there can be more than one.
    #[must_use]
    pub fn growing_from(self, least: u32) -> Self {
        Self { levels: 1 + (self.buckets / least.max(1)).checked_ilog2().unwrap_or(0), ..self }
    }

    /// Index lines that memory is needed for: every second level lies where the largest one is, the others behind it.
    #[must_use]
    pub const fn lines(&self) -> u32 {
        if self.levels > 1 { self.buckets + self.buckets / 2 } else { self.buckets }
    }
}

impl Regions {
    /// A table in memory of this process: replay, tests, and the user-level path without root.
    #[must_use]
    pub fn private(geometry: Geometry) -> Self {
        fn many<T: Default + Send + Sync + 'static>(n: usize) -> Region<T> {
            Region::from_vec(std::iter::repeat_with(T::default).take(n).collect())
        }
        Self {
            config: many(1),
            buckets: many(geometry.lines() as usize),
            blocks: many(geometry.blocks as usize),
            adjacencies: many(ADJACENCIES),
            gates: many(GATES),
            ports: many(PORTS),
        }
    }
}

impl crate::lookup::Arrays for Regions {
    #[inline]
    fn bucket(&self, number: u32) -> Option<&Bucket> {
        self.buckets.get(number as usize)
    }

    #[inline]
    fn block(&self, number: u32) -> Option<&Block> {
        self.blocks.get(number as usize)
    }
}
