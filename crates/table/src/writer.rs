//! The writer: the one user-level thread that makes, changes and removes entries. See the crate's protocol.

use std::collections::{HashMap, VecDeque};

use flowhop_flow::key::Address;
use flowhop_flow::record::{Block, Config, Hot, LAYOUT_VERSION, MAGIC, Span, Steer, index_kind, widen};
use flowhop_flow::rewrite::Rewrite;
use flowhop_flow::{Key, Reason};

use crate::index;
use crate::levels::Levels;
use crate::lookup::{block_of, has_key, place_of};
use crate::memory::{Geometry, Regions};

pub use crate::index::{Index, KernelHashSync};

/// Number of a connection block.
pub type BlockIndex = u32;

/// One direction of a connection to be made.
#[derive(Clone, Copy, Debug)]
pub struct DraftSide {
    /// Key of packets as received.
    pub key: Key,
    /// Where they go.
    pub steer: Steer,
    /// `class | queue << 8 | meter << 16`.
    pub service: u32,
}

/// A connection to be made. What Forward leaves with is what Reverse comes in with, swapped, and the reverse.
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    /// Forward and Reverse.
    pub sides: [DraftSide; 2],
    /// Identities of rule (low half) and translation (high half).
    pub rules: u32,
    /// Path reasons and flags, see [`flowhop_flow::record::Owner::flags`].
    pub flags: u32,
    /// Serial number of the connection that announced it; 0 = none.
    pub parent: u32,
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// A new connection in this block.
    New(BlockIndex),
    /// One of the keys is taken by this connection.
    Exists(BlockIndex),
}

/// Why nothing could be inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// All blocks are taken, or wait for their grace period.
    NoBlock,
    /// No free entry in the key's lines of the largest level, even after a move.
    NoPlace,
    /// The kernel refused (hash back end).
    Kernel(String),
}

impl InsertError {
    /// The reason that a packet is dropped with.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::TableFull
    }
}

/// Why a connection is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It ends, whatever comes.
    Final,
    /// It was idle; taken back if a packet comes during the grace period.
    Expiry,
}

#[derive(Debug)]
struct Aside {
    block: BlockIndex,
    serial: u32,
    identities: [u32; 2],
    removal: Removal,
    last_seen: [u32; 2],
    epoch: u64,
}

/// A connection that is gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// The block, free for another connection.
    pub block: BlockIndex,
    /// The serial of the connection that was in it.
    pub serial: u32,
    /// Its keys.
    pub keys: [Key; 2],
    /// Its input ports.
    pub ports: [u8; 2],
    /// Identities of rule (low half) and translation (high half).
    pub rules: u32,
    /// Path reasons and flags, see [`flowhop_flow::record::Owner::flags`].
    pub flags: u32,
    /// Serial number of the connection that announced it; 0 = none.
    pub parent: u32,
}

/// Blocks that may wait for a grace period before room is made for more.
const FIRST_ASIDE: usize = 65_536;

/// What a grace period brought about for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterGrace {
    /// It is gone.
    Freed(Freed),
    /// It woke up and is published again.
    Revived(BlockIndex),
}

/// The table as its one writer has it.
#[derive(Debug)]
pub struct Table {
    regions: Regions,
    index: Index,
    secret: [u32; 10],
    free: Vec<BlockIndex>,
    aside: VecDeque<Aside>,
    epoch: u64,
    next_serial: u32,
    live: u32,
}

/// Why memory cannot be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptError {
    /// The memory does not begin with our magic number.
    Foreign,
    /// Another version of the layout: found, expected.
    Layout(u32, u32),
    /// Another size or kind of index than the maps have.
    Geometry,
}

impl std::fmt::Display for AdoptError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign => f.write_str("the table there was not made by flowhop"),
            Self::Layout(found, expected) => {
                write!(f, "the table there has layout version {found}, this flowhop needs {expected}")
            }
            Self::Geometry => f.write_str("the table there has another size or index than its maps"),
        }
    }
}

impl std::error::Error for AdoptError {}

impl Table {
    /// A new, empty table in zeroed memory. `secret` must be random and unknown to peers.
    #[must_use]
    pub fn create(
        regions: Regions,
        geometry: Geometry,
        secret: [u32; 10],
        kernel: Option<Box<dyn KernelHashSync>>,
    ) -> Self {
        let mut table = Self::over(regions, geometry, secret, kernel);
        table.free.extend((0..geometry.blocks).rev());
        let config = table.config();
        config.layout.store(LAYOUT_VERSION);
        config.index.store(geometry.index);
        config.buckets.store(geometry.lines());
        config.blocks.store(geometry.blocks);
        config.set_secret(secret);
        config.span.store(Levels::new(geometry).span().pack());
        config.magic.store(MAGIC);
        table
    }

    /// What the writer keeps beside the memory, which is not written to: kernel programs may be using it.
    fn over(regions: Regions, geometry: Geometry, secret: [u32; 10], kernel: Option<Box<dyn KernelHashSync>>) -> Self {
        let index = match kernel {
            Some(kernel) if geometry.index == index_kind::KERNEL_HASH => {
                Index::KernelHash { mirror: HashMap::with_capacity(2 * geometry.blocks as usize), kernel }
            }
            _ => Index::Lines(Levels::new(geometry)),
        };
        let free = Vec::with_capacity(geometry.blocks as usize);
        let aside = VecDeque::with_capacity(FIRST_ASIDE.min(geometry.blocks as usize));
        Self { regions, index, secret, free, aside, epoch: 0, next_serial: 1, live: 0 }
    }

    /// Takes over a table that another process left, with all its published connections. Half-made and
    /// half-removed ones are cleaned up; nobody but kernel programs may use the memory.
    ///
    /// # Errors
    /// When the memory is not ours or of another layout; it is then untouched.
    pub fn adopt(
        regions: Regions,
        geometry: Geometry,
        kernel: Option<Box<dyn KernelHashSync>>,
    ) -> Result<Self, AdoptError> {
        let config = &regions.config[0];
        if config.magic.load() != MAGIC {
            return Err(AdoptError::Foreign);
        }
        if config.layout.load() != LAYOUT_VERSION {
            return Err(AdoptError::Layout(config.layout.load(), LAYOUT_VERSION));
        }
        let found = (config.buckets.load(), config.blocks.load(), config.index.load());
        let memory = (regions.buckets.len(), regions.blocks.len());
        let wanted = (geometry.lines(), geometry.blocks);
        if found != (wanted.0, wanted.1, geometry.index) || memory != (wanted.0 as usize, wanted.1 as usize) {
            return Err(AdoptError::Geometry);
        }
        let (secret, span) = (config.secret(), config.span());
        let mut table = Self::over(regions, geometry, secret, kernel);
        table.adopt_span(span);
        let mut serial = 0;
        let mut live = Vec::new();
        for number in (0..geometry.blocks).rev() {
            let block = &table.regions.blocks[number as usize];
            let [forward, reverse] = [block.hot[0].identity.load(), block.hot[1].identity.load()];
            serial = serial.max(block.owner.serial.load());
            if forward != 0 && reverse != 0 {
                live.push(number);
                continue;
            }
            for hot in &block.hot {
                hot.identity.store(0);
            }
            table.free.push(number);
        }
        table.next_serial = serial.wrapping_add(1).max(1);
        table.live = live.len() as u32;
        table.rebuild_index(&live);
        Ok(table)
    }

    /// Goes on with the level of the index that readers use. Without one, which nobody leaves behind who has made a
    /// connection, they are shown the largest, empty.
    fn adopt_span(&mut self, span: Span) {
        if let Index::Lines(levels) = &mut self.index
            && !levels.adopt(span)
        {
            levels.current(&self.regions.buckets).iter().for_each(index::empty);
            self.regions.config[0].span.store(levels.span().pack());
        }
    }

    /// Drops index entries that are not those of a live connection, once and where they belong, and enters those that are
    /// missing.
    fn rebuild_index(&mut self, live: &[BlockIndex]) {
        let Regions { buckets, blocks, .. } = &self.regions;
        let mut kept = vec![false; 2 * blocks.len()];
        match &mut self.index {
            Index::KernelHash { kernel, .. } => kernel.retain(&|key, place| {
                let (block, direction) = block_of(place);
                blocks.get(block as usize).is_some_and(|block| has_key(block, direction, key))
            }),
            Index::Lines(levels) => levels.keep(buckets, &mut kept, |place| {
                let (block, direction) = block_of(place);
                let block = blocks.get(block as usize).filter(|block| is_live(block))?;
                Some(key_of(block, direction).hash(&self.secret))
            }),
        }
        for &number in live {
            let keys = [0, 1].map(|direction| key_of(&self.regions.blocks[number as usize], direction));
            let hashes = keys.map(|key| key.hash(&self.secret));
            for (direction, key) in keys.iter().enumerate() {
                let place = place_of(number, direction);
                if !kept[place as usize] {
                    let _entered = self.enter(key, hashes, place);
                }
            }
        }
    }

    /// The shared arrays.
    #[must_use]
    pub const fn regions(&self) -> &Regions {
        &self.regions
    }

    /// Global settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.regions.config[0]
    }

    /// A block by number.
    #[must_use]
    pub fn block(&self, number: BlockIndex) -> Option<&Block> {
        self.regions.blocks.get(number as usize)
    }

    /// Published connections.
    #[must_use]
    pub const fn live(&self) -> u32 {
        self.live
    }

    /// Blocks that are neither published nor waiting for a grace period.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Numbers of all published connections.
    pub fn live_blocks(&self) -> impl Iterator<Item = BlockIndex> + '_ {
        let blocks = &self.regions.blocks;
        (0..blocks.len() as u32).filter(|&number| is_live(&blocks[number as usize]))
    }

    /// The hash of a key under this table's secret.
    #[must_use]
    pub fn hash(&self, key: &Key) -> u64 {
        key.hash(&self.secret)
    }

    /// Block and direction of the published entry with this key.
    #[must_use]
    pub fn find(&self, key: &Key, hash: u64) -> Option<(BlockIndex, usize)> {
        match &self.index {
            Index::Lines(levels) => {
                // Readers give up after some equal tags in a line, and the packet comes here; giving up here as well
                // would make the connection once more with each of them.
                let is_it = |place| {
                    let (block, direction) = block_of(place);
                    self.block(block).is_some_and(|block| has_key(block, direction, key))
                };
                let place = index::find(levels.current(&self.regions.buckets), hash, is_it)?;
                Some(block_of(place))
            }
            Index::KernelHash { mirror, .. } => {
                let place = *mirror.get(key)?;
                let (number, direction) = block_of(place);
                has_key(self.block(number)?, direction, key).then_some((number, direction))
            }
        }
    }

    /// Makes a connection, unless one of its keys is taken. `prepare` fills in what depends on the connection
    /// (TCP context) before it is published.
    ///
    /// # Errors
    /// When the table is full; nothing is changed then.
    pub fn insert(&mut self, draft: &Draft, now: u32, prepare: impl FnOnce(&Block)) -> Result<Inserted, InsertError> {
        let keys = [draft.sides[0].key, draft.sides[1].key];
        let hashes = keys.map(|key| key.hash(&self.secret));
        for (key, hash) in keys.iter().zip(hashes) {
            if let Some((existing, _)) = self.find(key, hash) {
                return Ok(Inserted::Exists(existing));
            }
        }
        let number = *self.free.last().ok_or(InsertError::NoBlock)?;
        let block = &self.regions.blocks[number as usize];
        fill(block, draft, now);
        block.owner.serial.store(self.next_serial);
        prepare(block);
        for direction in 0..2 {
            let place = place_of(number, direction);
            if let Err(error) = self.enter(&keys[direction], hashes, place) {
                for earlier in 0..direction {
                    self.leave(&keys[earlier], hashes[earlier], place_of(number, earlier));
                }
                return Err(error);
            }
        }
        self.next_serial = self.next_serial.wrapping_add(1).max(1);
        self.free.pop();
        self.live += 1;
        let block = &self.regions.blocks[number as usize];
        block.hot[1].identity.store(keys[1].identity);
        block.hot[0].identity.store(keys[0].identity);
        self.tend(1);
        Ok(Inserted::New(number))
    }

    /// Has the index grow or shrink with what is in it, by some turns of bounded work; `true` while there is more of it.
    /// Insertions do it by themselves; it is to be called now and then besides.
    pub fn tend(&mut self, turns: u32) -> bool {
        let Index::Lines(levels) = &mut self.index else { return false };
        let Regions { buckets, blocks, config, .. } = &self.regions;
        let hash_of = |place| {
            let (block, direction) = block_of(place);
            key_of(&blocks[block as usize], direction).hash(&self.secret)
        };
        if let Some(span) = levels.tend(buckets, 2 * u64::from(self.live), turns, hash_of) {
            config[0].span.store(span.pack());
        }
        levels.is_building()
    }

    /// Enters one direction of a connection into the index. `hashes` are those of both.
    fn enter(&mut self, key: &Key, hashes: [u64; 2], place: u32) -> Result<(), InsertError> {
        match &mut self.index {
            Index::Lines(levels) => {
                let (buckets, blocks, secret) = (&self.regions.buckets, &self.regions.blocks, &self.secret);
                let (own, direction) = block_of(place);
                let hash_of = |moved| {
                    let (block, direction) = block_of(moved);
                    // The other direction may be what has to move, and the block has no identity yet.
                    if block == own {
                        hashes[direction]
                    } else {
                        key_of(&blocks[block as usize], direction).hash(secret)
                    }
                };
                let hash = hashes[direction];
                while !levels.insert(buckets, hash, place, hash_of) {
                    let span = levels.enlarge(buckets, hash_of).ok_or(InsertError::NoPlace)?;
                    self.regions.config[0].span.store(span.pack());
                }
                Ok(())
            }
            Index::KernelHash { mirror, kernel } => {
                kernel.insert(key, place).map_err(InsertError::Kernel)?;
                mirror.insert(*key, place);
                Ok(())
            }
        }
    }

    fn leave(&mut self, key: &Key, hash: u64, place: u32) {
        match &mut self.index {
            Index::Lines(levels) => levels.remove(&self.regions.buckets, hash, place),
            Index::KernelHash { mirror, kernel } => {
                kernel.remove(key);
                mirror.remove(key);
            }
        }
    }

    /// Unpublishes a connection and puts its block aside until a grace period has passed. A connection that is
    /// not published is left alone; tells whether it was.
    pub fn remove(&mut self, number: BlockIndex, removal: Removal) -> bool {
        let Some(block) = self.regions.blocks.get(number as usize) else {
            return false;
        };
        let identities = [block.hot[0].identity.load(), block.hot[1].identity.load()];
        if identities[0] == 0 {
            return false;
        }
        let keys = [key_of(block, 0), key_of(block, 1)];
        let last_seen = [block.hot[0].last_seen.load(), block.hot[1].last_seen.load()];
        let serial = block.owner.serial.load();
        block.hot[0].identity.store(0);
        block.hot[1].identity.store(0);
        for (direction, key) in keys.iter().enumerate() {
            let hash = key.hash(&self.secret);
            self.leave(key, hash, place_of(number, direction));
        }
        self.live -= 1;
        self.aside.push_back(Aside { block: number, serial, identities, removal, last_seen, epoch: self.epoch });
        true
    }

    /// Whether blocks wait for a grace period: there will be free ones in a moment.
    #[must_use]
    pub fn wants_grace(&self) -> bool {
        !self.aside.is_empty()
    }

    /// The number of the last grace period that began.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Marks the start of a grace period; hand the number back to [`after_grace`](Self::after_grace) when
    /// every kernel program that ran at this moment has ended.
    pub const fn begin_grace(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch
    }

    /// Frees the next of the blocks that were put aside before the grace period `begun` began, or publishes it again.
    /// Call it until there is none: a flood puts as many aside as the table holds, and no list is made of them.
    pub fn after_grace(&mut self, begun: u64) -> Option<AfterGrace> {
        let aside = self.aside.pop_front_if(|aside| aside.epoch < begun)?;
        if aside.removal == Removal::Expiry && self.woke(&aside) && self.republish(&aside) {
            return Some(AfterGrace::Revived(aside.block));
        }
        self.free.push(aside.block);
        Some(AfterGrace::Freed(self.freed(&aside)))
    }

    fn freed(&self, aside: &Aside) -> Freed {
        let block = &self.regions.blocks[aside.block as usize];
        Freed {
            block: aside.block,
            serial: aside.serial,
            keys: [0, 1].map(|direction| key_with_identity(block, direction, aside.identities[direction])),
            ports: [0, 1].map(|direction| Steer::unpack(block.hot[direction].steer.load()).ingress),
            rules: block.owner.rules.load(),
            flags: block.owner.flags.load(),
            parent: block.tcp[0].parent.load(),
        }
    }

    fn woke(&self, aside: &Aside) -> bool {
        let block = &self.regions.blocks[aside.block as usize];
        [block.hot[0].last_seen.load(), block.hot[1].last_seen.load()] != aside.last_seen
    }

    fn republish(&mut self, aside: &Aside) -> bool {
        let number = aside.block;
        let block = &self.regions.blocks[number as usize];
        let keys = [0, 1].map(|direction| key_with_identity(block, direction, aside.identities[direction]));
        let hashes = keys.map(|key| key.hash(&self.secret));
        if keys.iter().zip(hashes).any(|(key, hash)| self.find(key, hash).is_some()) {
            return false;
        }
        for (direction, key) in keys.iter().enumerate() {
            if self.enter(key, hashes, place_of(number, direction)).is_err() {
                if direction == 1 {
                    self.leave(&keys[0], hashes[0], number << 1);
                }
                return false;
            }
        }
        let block = &self.regions.blocks[number as usize];
        block.hot[1].identity.store(aside.identities[1]);
        block.hot[0].identity.store(aside.identities[0]);
        self.live += 1;
        true
    }
}

/// Whether both directions of a block are published.
#[must_use]
pub fn is_live(block: &Block) -> bool {
    block.hot[0].identity.load() != 0 && block.hot[1].identity.load() != 0
}

/// The key of a direction of a published block.
#[must_use]
pub fn key_of(block: &Block, direction: usize) -> Key {
    key_with_identity(block, direction, block.hot[direction & 1].identity.load())
}

fn key_with_identity(block: &Block, direction: usize, identity: u32) -> Key {
    let hot = &block.hot[direction & 1];
    let (low_source, low_destination) = (hot.source.load(), hot.destination.load());
    let (source, destination) = if identity >> 8 & 0xff == 4 {
        (v4(low_source), v4(low_destination))
    } else {
        let (s, d) = if direction & 1 == 0 { (0, 1) } else { (3, 2) };
        (widen(&block.wide[s], low_source), widen(&block.wide[d], low_destination))
    };
    Key { source, destination, ports: hot.ports.load(), identity }
}

const fn v4(low: u32) -> Address {
    [0, 0, flowhop_flow::key::V4_MAPPED, low]
}

/// What a direction leaves with, given the key of the other direction: that key, swapped.
#[must_use]
pub fn rewrite_between(own: &Key, other: &Key) -> Rewrite {
    Rewrite {
        source: other.destination,
        destination: other.source,
        ports: swapped_ports(own, other),
        address_delta: 0,
        port_delta: 0,
    }
    .with_deltas(&own.source, &own.destination, own.ports)
}

/// Writes what a direction leaves with; of IPv6 addresses the upper words are with the keys.
pub fn set_rewrite(hot: &Hot, rewrite: &Rewrite) {
    hot.new_source.store(rewrite.source[3]);
    hot.new_destination.store(rewrite.destination[3]);
    hot.new_ports.store(rewrite.ports);
    hot.deltas.store(u32::from(rewrite.address_delta) | u32::from(rewrite.port_delta) << 16);
}

/// Ports as sent: the other direction's, swapped. An ICMP identifier stays in place, as do type and code.
const fn swapped_ports(own: &Key, other: &Key) -> u32 {
    let [a, b, c, d] = other.ports.to_ne_bytes();
    match own.protocol() {
        1 | 58 => {
            let [_, _, kind, code] = own.ports.to_ne_bytes();
            u32::from_ne_bytes([a, b, kind, code])
        }
        _ => u32::from_ne_bytes([c, d, a, b]),
    }
}

/// Fills an unpublished block from a draft.
fn fill(block: &Block, draft: &Draft, now: u32) {
    for direction in 0..2 {
        let (own, other) = (&draft.sides[direction], &draft.sides[direction ^ 1]);
        let hot = &block.hot[direction];
        let rewrite = rewrite_between(&own.key, &other.key);
        hot.source.store(own.key.source[3]);
        hot.destination.store(own.key.destination[3]);
        hot.ports.store(own.key.ports);
        set_rewrite(hot, &rewrite);
        hot.steer.store(own.steer.pack());
        hot.last_seen.store(now);
        hot.service.store(own.service);
        hot.traffic.set(0, 0);
        let tcp = &block.tcp[direction];
        tcp.sent.store(0);
        tcp.allowed.store(0);
        tcp.state.store(0);
        tcp.parent.store(0);
        tcp.association.store(0);
    }
    let [forward, reverse] = [&draft.sides[0].key, &draft.sides[1].key];
    let parts = [&forward.source, &forward.destination, &reverse.destination, &reverse.source];
    for (wide, address) in block.wide.iter().zip(parts) {
        for (cell, word) in wide.iter().zip(address) {
            cell.store(*word);
        }
    }
    block.tcp[0].parent.store(draft.parent);
    block.owner.rules.store(draft.rules);
    block.owner.created.store(now);
    block.owner.flags.store(draft.flags);
}
