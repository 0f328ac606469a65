//! Walks over all connections, in slices, when something changed that many may depend on.
//!
//! What is asked for while a walk of its kind runs is done by the next one. Walks that make entries pending stop while
//! too many wait to become active, so that these do not wait for each other.

use std::collections::{HashSet, VecDeque};

use flowhop_flow::key::{self, Address};
use flowhop_flow::record::{Steer, Tick};
use flowhop_routing::{AdjacencyIndex, IpPrefix};
use flowhop_table::{BlockIndex, Removal, is_live, key_of};

use crate::engine::Engine;
use crate::hold::Wait;
use crate::io::Io;
use crate::known::NOWHERE;
use crate::paths::Path;
use crate::refusals::is_refusal;
use crate::views::view_of;

/// Blocks looked at in one slice.
pub(crate) const LOOKED_AT: u32 = 16_384;
/// Connections changed in one slice.
const CHANGED: usize = 512;
/// Entries that may wait to become active before others are made pending by a walk.
const CROWD: usize = 16_384;
/// Prefixes that are swept for one by one; more are swept as "everything".
const MAX_PREFIXES: usize = 32;
/// How often adjacencies that no connection names are given back, in ticks.
const RETAIN_EVERY: Tick = 60_000;
/// How soon it may be done again when there is no adjacency left, in ticks: it looks at every connection.
const RETAIN_AGAIN: Tick = 1_000;

/// What is being looked for, and how far it got.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    routes: Walk<Routes>,
    paths: Walk<()>,
    addresses: Walk<HashSet<Address>>,
    moves: Walk<Moving>,
    /// Orders to move all connections, the oldest first.
    orders: VecDeque<Option<Path>>,
    /// How many connections each order moved that is complete, the oldest first.
    moved: VecDeque<u32>,
    /// Own addresses when connections that use them were last looked for.
    own: HashSet<Address>,
    addresses_changed: bool,
    retained: Tick,
}

/// A walk for something, and the next one.
#[derive(Debug)]
struct Walk<T> {
    queued: Option<T>,
    running: Option<(T, BlockIndex)>,
}

impl<T> Default for Walk<T> {
    fn default() -> Self {
        Self { queued: None, running: None }
    }
}

impl<T> Walk<T> {
    /// What runs, to be put back with [`go_on`](Self::go_on).
    fn take(&mut self) -> Option<(T, BlockIndex)> {
        self.running.take().or_else(|| self.queued.take().map(|what| (what, 0)))
    }

    /// Goes on with a block; gives back what ran if that was all.
    fn go_on(&mut self, what: T, next: Option<BlockIndex>) -> Option<T> {
        match next {
            Some(next) => self.running = Some((what, next)),
            None => return Some(what),
        }
        None
    }

    const fn is_idle(&self) -> bool {
        self.queued.is_none() && self.running.is_none()
    }
}

/// Where routes changed.
#[derive(Debug, Default)]
struct Routes {
    prefixes: Vec<IpPrefix>,
    all: bool,
}

impl Routes {
    fn contains(&self, address: std::net::IpAddr) -> bool {
        self.all || self.prefixes.iter().any(|prefix| prefix.contains(address))
    }
}

/// An order to move all connections.
#[derive(Debug)]
struct Moving {
    path: Option<Path>,
    moved: u32,
}

impl Sweep {
    /// Routes of a prefix changed.
    pub(crate) fn routes(&mut self, prefix: IpPrefix) {
        let routes = self.routes.queued.get_or_insert_default();
        if routes.all || routes.prefixes.contains(&prefix) {
            return;
        }
        if routes.prefixes.len() >= MAX_PREFIXES {
            *routes = Routes { prefixes: Vec::new(), all: true };
        } else {
            routes.prefixes.push(prefix);
        }
    }

    /// What interfaces can do changed.
    pub(crate) const fn paths(&mut self) {
        self.paths.queued = Some(());
    }

    /// Own addresses changed.
    pub(crate) const fn addresses(&mut self) {
        self.addresses_changed = true;
    }

    /// All connections are to be moved.
    pub(crate) fn order(&mut self, path: Option<Path>) {
        self.orders.push_back(path);
    }

    fn is_idle(&self) -> bool {
        self.routes.is_idle() && self.paths.is_idle() && self.addresses.is_idle() && self.moves.is_idle()
    }
}

impl Engine {
    /// One slice of whatever is to be swept; true while there is more that can be done at once.
    pub(crate) fn sweep_slice(&mut self, now: Tick, io: &mut dyn Io) -> bool {
        self.look_for_gone_addresses();
        if let Some(path) = self.sweep.orders.front().copied().filter(|_| self.sweep.moves.is_idle()) {
            self.sweep.orders.pop_front();
            self.sweep.moves.queued = Some(Moving { path, moved: 0 });
        }
        if self.sweep.is_idle() {
            self.retain_adjacencies(now);
            return false;
        }
        if let Some((routes, from)) = self.sweep.routes.take() {
            let next = self.walk(from, CHANGED, |engine, number| engine.follow_route(number, &routes, now, io));
            self.sweep.routes.go_on(routes, next);
        }
        if let Some((gone, from)) = self.sweep.addresses.take() {
            let next = self.walk(from, CHANGED, |engine, number| engine.end_without(number, &gone));
            self.sweep.addresses.go_on(gone, next);
        }
        if self.gates.waiting() < CROWD {
            self.pending_slice(now);
        }
        let Sweep { routes, paths, addresses, moves, .. } = &self.sweep;
        let crowded = self.gates.waiting() >= CROWD;
        !routes.is_idle() || !addresses.is_idle() || !(crowded || paths.is_idle() && moves.is_idle())
    }

    /// One slice of the walks that make entries pending.
    fn pending_slice(&mut self, now: Tick) {
        if let Some(((), from)) = self.sweep.paths.take() {
            let next = self.walk(from, CHANGED, |engine, number| {
                engine.follow_paths(number, now);
                true
            });
            self.sweep.paths.go_on((), next);
        }
        if let Some((mut moving, from)) = self.sweep.moves.take() {
            let next = self.walk(from, CHANGED, |engine, number| {
                moving.moved += u32::from(engine.move_block(number, moving.path, now).is_ok());
                true
            });
            if let Some(Moving { moved, .. }) = self.sweep.moves.go_on(moving, next) {
                self.sweep.moved.push_back(moved);
            }
        }
    }

    /// Calls `visit` with live blocks until it has said `often` that there was something to do. Returns where to go on,
    /// `None` at the end.
    pub(crate) fn walk(
        &mut self,
        from: BlockIndex,
        often: usize,
        mut visit: impl FnMut(&mut Self, BlockIndex) -> bool,
    ) -> Option<BlockIndex> {
        let end = self.table.regions().blocks.len() as u32;
        let stop = from.saturating_add(LOOKED_AT).min(end);
        let mut left = often;
        for number in from..stop {
            if self.table.block(number).is_some_and(is_live) && visit(self, number) {
                left = left.saturating_sub(1);
            }
            if left == 0 {
                return Some(number + 1).filter(|next| *next < end);
            }
        }
        (stop < end).then_some(stop)
    }

    /// How many connections an order to move all of them has moved; the oldest that is complete and was not told.
    pub fn take_moved(&mut self) -> Option<u32> {
        self.sweep.moved.pop_front()
    }

    /// The box's own addresses as an earlier process knew them: what uses those that are gone since will end.
    pub fn inherit_addresses(&mut self, own: impl IntoIterator<Item = Address>) {
        self.sweep.own.extend(own);
    }

    /// Finds out which own addresses went away since the last look.
    fn look_for_gone_addresses(&mut self) {
        if !self.sweep.addresses_changed || !self.sweep.addresses.is_idle() {
            return;
        }
        self.sweep.addresses_changed = false;
        let own = self.routing.own_addresses().map(|own| key::address(own.address)).collect();
        let before = std::mem::replace(&mut self.sweep.own, own);
        let gone: HashSet<Address> = before.difference(&self.sweep.own).copied().collect();
        if !gone.is_empty() {
            self.sweep.addresses.queued = Some(gone);
        }
    }

    /// Ends a connection whose translation uses an address that is gone; tells whether it did.
    fn end_without(&mut self, number: BlockIndex, gone: &HashSet<Address>) -> bool {
        let Some(block) = self.table.block(number).filter(|block| !is_refusal(block)) else { return false };
        let view = view_of(block);
        // An address may be embedded in an IPv6 one.
        let uses = view.keys.iter().any(|key| key.family() == 6 || gone.contains(&key.destination));
        uses && self.modules.iter().any(|module| module.ends_with(&view, gone)) && self.remove(number, Removal::Final)
    }

    /// A connection whose way, or whose answers' way, leads to where routes changed; tells whether it does.
    fn follow_route(&mut self, number: BlockIndex, routes: &Routes, now: Tick, io: &mut dyn Io) -> bool {
        let mut any = false;
        for direction in 0..2 {
            let Some(block) = self.table.block(number).filter(|block| is_live(block)) else { return true };
            let destination = key::ip(&key_of(block, direction ^ 1).source);
            if !routes.contains(destination) {
                continue;
            }
            any = true;
            if is_refusal(block) {
                // Where it leads decides which rules are asked.
                self.remove(number, Removal::Final);
                return true;
            }
            if self.reroute(number, direction, now, io).is_err() {
                self.unroute(number, direction);
            }
        }
        // A source that may not come in there any more: the route to it is the one that changed.
        if any {
            self.distrust(number);
        }
        any
    }

    /// Takes a direction's output away: its packets are handed down, looked up again, and answered if there is no
    /// route. The old neighbour may be in good health, it is just not the way any more.
    pub(crate) fn unroute(&self, number: BlockIndex, direction: usize) {
        if let Some(block) = self.table.block(number).filter(|block| is_live(block)) {
            let steer = Steer::unpack(block.hot[direction].steer.load());
            let (adjacency, adjacency_generation) = NOWHERE;
            block.hot[direction].steer.store(Steer { adjacency, adjacency_generation, ..steer }.pack());
        }
    }

    /// The table of adjacencies is full: gives those back that no connection names, unless that was done lately.
    pub(crate) fn retain_adjacencies_early(&mut self) -> bool {
        let now = self.table.config().heartbeat.load();
        if now.wrapping_sub(self.sweep.retained) < RETAIN_AGAIN {
            return false;
        }
        self.sweep.retained = now.wrapping_sub(RETAIN_EVERY);
        self.retain_adjacencies(now);
        true
    }

    /// Gives adjacencies back that no connection names.
    fn retain_adjacencies(&mut self, now: Tick) {
        if now.wrapping_sub(self.sweep.retained) < RETAIN_EVERY {
            return;
        }
        self.sweep.retained = now;
        let mut used = vec![false; usize::from(u16::MAX) + 1];
        for block in self.table.regions().blocks.iter().filter(|block| is_live(block)) {
            for hot in &block.hot {
                used[usize::from(Steer::unpack(hot.steer.load()).adjacency)] = true;
            }
        }
        let hold = &self.hold;
        self.routing.retain_adjacencies(|index: AdjacencyIndex| {
            used[usize::from(index.get())] || hold.waits_for(Wait::Neighbour(index.get()))
        });
    }
}
