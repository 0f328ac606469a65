//! The place of the kernel programs in a replay: the same function, on the same table, at the same level.

use flowhop_flow::key::Address;
use flowhop_flow::record::{Adjacency, Config, Gate, Port, PortKey};
use flowhop_flow::{Hit, Host, Key, Level};
use flowhop_table::lookup;
use flowhop_table::{BlockIndex, Regions};

/// The table as a kernel program sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage<'a, const DRIVER: bool>(pub(super) &'a Regions);

impl<const DRIVER: bool> Host for Stage<'_, DRIVER> {
    const LEVEL: Level = if DRIVER { Level::Driver } else { Level::Skb };

    fn config(&self) -> Option<&Config> {
        self.0.config.first()
    }

    fn port(&self, key: PortKey) -> Option<(u8, &Port)> {
        let (number, port) = self.0.ports.iter().enumerate().find(|(_, port)| port.ifindex.load() == key.ifindex)?;
        Some((number as u8, port))
    }

    fn find(&self, key: &Key, hash: u64) -> Option<Hit<'_>> {
        let (block, direction) = lookup::find(self.0, self.0.config[0].span(), key, hash)?;
        Some(Hit { block, direction })
    }

    fn adjacency(&self, index: u16) -> Option<&Adjacency> {
        self.0.adjacencies.get(usize::from(index))
    }

    fn gate(&self, number: u32) -> Option<&Gate> {
        self.0.gates.get(number as usize)
    }

    /// Which own addresses and ports translations use, the kernel programs read from a map that the daemon keeps
    /// for them. Without that map they hand such packets down, and the slow path comes to the same end.
    fn is_local(&self, _: &Address, _: Option<&Key>) -> bool {
        false
    }
}

/// Block and direction of the flow with a key.
#[must_use]
pub(super) fn find(table: &flowhop_table::Table, key: &Key) -> Option<(BlockIndex, usize)> {
    table.find(key, table.hash(key))
}
