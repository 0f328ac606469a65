//! Walks over all connections, in slices, when something changed that many may depend on.

use flowhop_flow::forward::{Hit, rewrite_of};
use flowhop_flow::key;
use flowhop_flow::record::{Steer, Tick};
use flowhop_routing::{AdjacencyIndex, IpPrefix};
use flowhop_table::{BlockIndex, Removal, is_live, key_of};

use crate::engine::{Engine, Io};
use crate::hold::Wait;
use crate::known::NOWHERE;
use crate::refusals::is_refusal;

/// Blocks looked at in one slice.
const SLICE: u32 = 16_384;
/// Prefixes that are swept for one by one; more are swept as "everything".
const MAX_PREFIXES: usize = 32;
/// How often adjacencies that no connection names are given back, in ticks.
const RETAIN_EVERY: Tick = 60_000;
/// How soon it may be done again when there is no adjacency left, in ticks: it looks at every connection.
const RETAIN_AGAIN: Tick = 1_000;

/// What is being looked for, and how far it got.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    queued: Vec<IpPrefix>,
    queued_all: bool,
    queued_paths: bool,
    running: Option<Running>,
    retained: Tick,
}

#[derive(Debug)]
struct Running {
    prefixes: Vec<IpPrefix>,
    all: bool,
    paths: bool,
    next: BlockIndex,
}

impl Sweep {
    /// Routes of a prefix changed.
    pub(crate) fn routes(&mut self, prefix: IpPrefix) {
        if self.queued_all || self.queued.contains(&prefix) {
            return;
        }
        if self.queued.len() >= MAX_PREFIXES {
            self.queued.clear();
            self.queued_all = true;
        } else {
            self.queued.push(prefix);
        }
    }

    /// What interfaces can do changed.
    pub(crate) const fn paths(&mut self) {
        self.queued_paths = true;
    }

    fn is_queued(&self) -> bool {
        self.queued_all || self.queued_paths || !self.queued.is_empty()
    }

    fn start(&mut self) {
        if self.running.is_none() && self.is_queued() {
            let prefixes = std::mem::take(&mut self.queued);
            let all = std::mem::take(&mut self.queued_all);
            let paths = std::mem::take(&mut self.queued_paths);
            self.running = Some(Running { prefixes, all, paths, next: 0 });
        }
    }
}

impl Engine {
    /// One slice of whatever is to be swept; true while there is more.
    pub(crate) fn sweep_slice(&mut self, now: Tick, io: &mut dyn Io) -> bool {
        self.sweep.start();
        let Some(mut running) = self.sweep.running.take() else {
            self.retain_adjacencies(now);
            return false;
        };
        let end = self.table.regions().blocks.len() as u32;
        let stop = running.next.saturating_add(SLICE).min(end);
        while running.next < stop {
            if running.all || !running.prefixes.is_empty() {
                self.follow_route(running.next, &running, now, io);
            }
            if running.paths {
                self.follow_paths(running.next, now);
            }
            running.next += 1;
        }
        if running.next < end {
            self.sweep.running = Some(running);
        }
        self.sweep.running.is_some() || self.sweep.is_queued()
    }

    fn follow_route(&mut self, number: BlockIndex, sweep: &Running, now: Tick, io: &mut dyn Io) {
        for direction in 0..2 {
            let Some(block) = self.table.block(number).filter(|block| is_live(block)) else { return };
            let family = key_of(block, direction).family();
            let low = rewrite_of(&Hit { block, direction }, family).destination;
            let destination = key::ip(&if family == 4 { [0, 0, key::V4_MAPPED, low[3]] } else { low });
            let meant = sweep.all || sweep.prefixes.iter().any(|prefix| prefix.contains(destination));
            if meant && is_refusal(block) {
                // Where it leads decides which rules are asked.
                self.table.remove(number, Removal::Final);
                return;
            }
            if meant && self.reroute(number, direction, now, io).is_err() {
                self.unroute(number, direction);
            }
        }
    }

    /// Takes a direction's output away: its packets are handed down, looked up again, and answered if there is no
    /// route. The old neighbour may be in good health, it is just not the way any more.
    fn unroute(&self, number: BlockIndex, direction: usize) {
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
