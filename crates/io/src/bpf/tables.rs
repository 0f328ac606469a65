//! The decision table in the memory that the kernel programs read.

use std::ptr::NonNull;
use std::sync::Arc;

use aya::maps::{HashMap, Map, MapData};
use flowhop_flow::Key;
use flowhop_table::{KernelHashSync, Region, Regions};

use super::error::KernelError;
use super::{IndexKind, Kernel, Shared, words};
use crate::map::{MappedArray, Record};

impl Shared {
    /// The arrays as the table's writer takes them.
    #[must_use]
    pub fn regions(self: &Arc<Self>) -> Regions {
        Regions {
            config: region(self, &self.config),
            buckets: region(self, &self.buckets),
            blocks: region(self, &self.blocks),
            adjacencies: region(self, &self.adjacencies),
            gates: region(self, &self.gates),
            ports: region(self, &self.ports),
        }
    }
}

fn region<T: Record + Send + 'static>(owner: &Arc<Shared>, array: &MappedArray<T>) -> Region<T> {
    let start = NonNull::from(&**array).cast();
    let owner: Arc<Shared> = Arc::clone(owner);
    // SAFETY: the mapping is a field of `owner`, which the region keeps alive; it never moves, and records are
    // made of cells (`Record`).
    unsafe { Region::from_raw(start, array.len(), owner) }
}

impl Kernel {
    /// The arrays as the table's writer takes them.
    #[must_use]
    pub fn regions(&self) -> Regions {
        self.shared.regions()
    }

    /// What keeps the kernel's hash map equal to the writer's mirror, if the programs look up there.
    ///
    /// # Errors
    /// When the map cannot be opened a second time.
    pub fn index_sync(&self) -> Result<Option<Box<dyn KernelHashSync>>, KernelError> {
        if self.geometry().index != IndexKind::KernelHash {
            return Ok(None);
        }
        let failed = |error| KernelError::Map { name: "KERNEL_INDEX", error };
        let data = MapData::from_pin(self.pins.map("KERNEL_INDEX")).map_err(failed)?;
        let map = HashMap::try_from(Map::HashMap(data)).map_err(failed)?;
        Ok(Some(Box::new(KernelIndex(map))))
    }
}

struct KernelIndex(HashMap<MapData, [u32; 10], u32>);

impl KernelHashSync for KernelIndex {
    fn insert(&mut self, key: &Key, place: u32) -> Result<(), String> {
        self.0.insert(words(key), place, 0).map_err(|error| error.to_string())
    }

    fn retain(&mut self, keep: &dyn Fn(&Key, u32) -> bool) {
        // Taken first, because removing while iterating makes the kernel begin anew.
        let entries: Vec<_> = self.0.iter().flatten().collect();
        for (words, place) in entries {
            if !keep(&key_of(&words), place) {
                let _absent = self.0.remove(&words);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        // One that is not there is what was wanted.
        let _absent = self.0.remove(&words(key));
    }
}

/// The inverse of [`words`].
const fn key_of(words: &[u32; 10]) -> Key {
    let [a, b, c, d, e, f, g, h, ports, identity] = *words;
    Key { source: [a, b, c, d], destination: [e, f, g, h], ports, identity }
}

impl From<flowhop_table::Geometry> for super::Geometry {
    fn from(geometry: flowhop_table::Geometry) -> Self {
        let index = match geometry.index {
            flowhop_flow::record::index_kind::KERNEL_HASH => IndexKind::KernelHash,
            _ => IndexKind::Lines,
        };
        Self { buckets: geometry.lines(), blocks: geometry.blocks, index }
    }
}
