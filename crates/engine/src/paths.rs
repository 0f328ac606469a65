//! Which path carries a connection's packets, and moving a live connection to another (checklist A3 to A5).
//!
//! The path of a direction follows from what its input and its output can do. When it changes, packets of the direction
//! may be anywhere: in a driver's batch, in the socket buffer's receive queue, in the queues to user space. So the entry
//! becomes pending, which brings all further packets here; and where the level changes (driver or socket buffer, each
//! with a queue of its own to user space), packets that come by the new level's queue are held until the kernel
//! programs' grace period has passed and the old level's queue is empty. Then nothing of before is on its way any more.
//! The program in a driver hands down what belongs to a pending entry whatever the level, so that the packets that come
//! before an entry is there, or active, come by one queue.

use std::collections::BTreeMap;

use flowhop_flow::Reason;
use flowhop_flow::forward::gate_of;
use flowhop_flow::record::{Action, Adjacency, Block, Steer, Tick};
use flowhop_table::{BlockIndex, is_live, key_of};

use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::hold::Wait;
use crate::interfaces::{FastPath, PathReason};
use crate::io::{Arrived, Io, Outcome};
use crate::nat64;
use crate::refusals::is_refusal;

/// Where established flows are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// By the program in the driver.
    Driver,
    /// By the program on the socket buffer.
    Skb,
    /// By the daemon.
    User,
}

impl Path {
    /// The name that operators see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Skb => "skb",
            Self::User => "user",
        }
    }

    /// The path that an entry's word stands for.
    #[must_use]
    pub const fn of(steer: Steer) -> Self {
        match (steer.action, steer.skb) {
            (Action::Forward, false) => Self::Driver,
            (Action::Forward, true) => Self::Skb,
            _ => Self::User,
        }
    }
}

/// The way of one direction's packets, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// What the kernel paths do.
    pub(crate) action: Action,
    /// The program in the driver passes packets on.
    pub(crate) skb: bool,
    /// Why.
    pub(crate) reason: PathReason,
}

impl Way {
    /// The same for a connection between IPv6 and IPv4.
    pub(crate) fn across_families(self) -> Self {
        Self { action: Action::User, reason: PathReason::Nat64, ..self }
    }

    /// The same while a connection is opening whose SYNs have to come here.
    pub(crate) fn while_opening(self) -> Self {
        match self.action {
            Action::Forward => Self { action: Action::User, reason: PathReason::Handshake, ..self },
            _ => self,
        }
    }

    /// The same while the server of a connection has not answered, whose client was answered with a cookie.
    pub(crate) fn without_server(self) -> Self {
        match self.action {
            Action::Forward => Self { action: Action::User, reason: PathReason::SynCookie, ..self },
            _ => self,
        }
    }

    /// The same of a connection whose payload is looked at.
    pub(crate) fn with_helper(self) -> Self {
        Self { action: Action::User, reason: PathReason::Helper, ..self }
    }
}

/// Directions whose level changed a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Moves(BTreeMap<(BlockIndex, usize), Move>);

#[derive(Clone, Copy, Debug)]
struct Move {
    /// Serial number of the connection, so that nothing is done to the next one in its block.
    serial: u32,
    /// The new level is the driver's.
    driver: bool,
    /// The last grace period that had begun.
    grace: u64,
    /// What was decided meanwhile: it has to wait, or what is held now would be overtaken by what comes then.
    next: Option<Way>,
}

impl Moves {
    /// Whether a packet that came by one of the two queues has to wait.
    pub(crate) fn holds(&self, block: BlockIndex, direction: usize, driver: bool) -> bool {
        !self.0.is_empty() && self.0.get(&(block, direction)).is_some_and(|change| change.driver == driver)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The move of a direction of this connection that is not complete.
    fn of(&mut self, block: BlockIndex, direction: usize, serial: u32) -> Option<&mut Move> {
        self.0.get_mut(&(block, direction)).filter(|change| change.serial == serial)
    }
}

/// Why a connection was not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveError {
    /// There is no such connection.
    Unknown,
    /// Its input has no program there, its output takes nothing from it, or its rule keeps it on the user path.
    Impossible,
}

impl Engine {
    /// The way of packets from one port to another, the fastest that both can do.
    pub(crate) fn way(&self, accelerate: bool, input: u8, output: u8) -> Way {
        let Some(input) = self.interfaces.port(input) else {
            return Way { action: Action::User, skb: true, reason: PathReason::NoKernel };
        };
        let skb = input.fast != FastPath::Driver;
        if !accelerate {
            return Way { action: Action::User, skb, reason: PathReason::Rule };
        }
        match input.fast {
            FastPath::None => Way { action: Action::User, skb, reason: input.reason },
            FastPath::Skb => Way { action: Action::Forward, skb, reason: input.reason },
            FastPath::Driver if self.takes_frames(output) => Way { action: Action::Forward, skb, reason: input.reason },
            FastPath::Driver if input.falls_back => {
                Way { action: Action::Forward, skb: true, reason: PathReason::Output }
            }
            FastPath::Driver => Way { action: Action::User, skb, reason: PathReason::Output },
        }
    }

    fn takes_frames(&self, port: u8) -> bool {
        self.interfaces.port(port).is_some_and(|output| output.takes_frames)
    }

    /// What the interfaces can do changed: connections follow in slices, by [`maintain`](Self::maintain).
    pub const fn paths_changed(&mut self) {
        self.sweep.paths();
    }

    /// Moves a connection, by its identifier, to a path of the operator's choice; `None` gives the choice back. Returns
    /// the path of each direction, at once or as soon as an earlier move is complete: one whose interfaces cannot do it
    /// stays where it is.
    ///
    /// # Errors
    /// When there is no such connection, or neither direction can take that path.
    pub fn move_flow(&mut self, serial: u32, path: Option<Path>, now: Tick) -> Result<[Path; 2], MoveError> {
        let found = self
            .table
            .live_blocks()
            .find(|&number| self.table.block(number).is_some_and(|block| block.owner.serial.load() == serial));
        self.move_block(found.ok_or(MoveError::Unknown)?, path, now)
    }

    /// Moves all connections that can be moved, in slices, by [`maintain`](Self::maintain); when that is done,
    /// [`take_moved`](Self::take_moved) says how many.
    pub fn move_flows(&mut self, path: Option<Path>) {
        self.sweep.order(path);
    }

    pub(crate) fn move_block(
        &mut self,
        number: BlockIndex,
        path: Option<Path>,
        now: Tick,
    ) -> Result<[Path; 2], MoveError> {
        if self.table.block(number).is_none_or(is_refusal) {
            return Err(MoveError::Unknown);
        }
        let mut moved = false;
        let paths = [0, 1].map(|direction| {
            let way = match path {
                None => self.default_way(number, direction),
                Some(path) => self.way_by(number, direction, path),
            };
            let Some(way) = way else { return self.path(number, direction) };
            self.put(number, direction, way, now);
            moved = true;
            Path::of(Steer { action: way.action, skb: way.skb, ..Steer::default() })
        });
        if moved { Ok(paths) } else { Err(MoveError::Impossible) }
    }

    fn path(&self, number: BlockIndex, direction: usize) -> Path {
        let block = self.table.block(number);
        block.map_or(Path::User, |block| Path::of(Steer::unpack(block.hot[direction & 1].steer.load())))
    }

    /// The ports of a direction: input, output. Where its adjacency is of no port, the output is where answers come in.
    fn ends(&self, number: BlockIndex, direction: usize) -> Option<(u8, u8)> {
        let block = self.table.block(number).filter(|block| is_live(block))?;
        let steer = |direction: usize| Steer::unpack(block.hot[direction & 1].steer.load());
        let adjacency = self.table.regions().adjacencies.get(usize::from(steer(direction).adjacency));
        let output = adjacency.and_then(Adjacency::read).map(|hop| hop.port).filter(|port| *port != 0);
        Some((steer(direction).ingress, output.unwrap_or_else(|| steer(direction ^ 1).ingress)))
    }

    /// The way of a live direction by what its ports can do; a rule's choice stays.
    fn default_way(&self, number: BlockIndex, direction: usize) -> Option<Way> {
        let (input, output) = self.ends(number, direction)?;
        let reason = self.reason(number, direction)?;
        let way = self.way(reason != PathReason::Rule, input, output);
        if self.table.block(number).is_some_and(nat64::crosses) {
            return Some(way.across_families());
        }
        Some(match reason {
            PathReason::Helper => way.with_helper(),
            PathReason::Shadow => Way { action: Action::User, reason, ..way },
            _ if self.awaits_server(number) => way.without_server(),
            PathReason::Handshake if !self.has_opened(number) => way.while_opening(),
            _ => way,
        })
    }

    /// A way of the operator's choice, if the ports can do it and the rule leaves a choice.
    fn way_by(&self, number: BlockIndex, direction: usize, path: Path) -> Option<Way> {
        let (input, output) = self.ends(number, direction)?;
        let fast = self.interfaces.port(input)?.fast;
        let steer = Steer::unpack(self.table.block(number)?.hot[direction & 1].steer.load());
        let crosses = self.table.block(number).is_some_and(nat64::crosses);
        let reason = if crosses { PathReason::Nat64 } else { self.reason(number, direction)? };
        if matches!(reason, PathReason::Rule | PathReason::Helper | PathReason::Nat64 | PathReason::Shadow)
            || (reason == PathReason::Handshake && !self.has_opened(number))
            || self.awaits_server(number)
        {
            let way = Way { action: Action::User, skb: steer.skb, reason };
            return (path == Path::User).then_some(way);
        }
        let (action, skb) = match path {
            // Handed down from where it is now.
            Path::User => (Action::User, steer.skb),
            Path::Skb if fast != FastPath::None => (Action::Forward, true),
            Path::Driver if fast == FastPath::Driver && self.takes_frames(output) => (Action::Forward, false),
            Path::Skb | Path::Driver => return None,
        };
        Some(Way { action, skb, reason: PathReason::Moved })
    }

    fn reason(&self, number: BlockIndex, direction: usize) -> Option<PathReason> {
        let flags = self.table.block(number)?.owner.flags.load();
        Some(PathReason::from_number((flags >> (8 * (direction & 1))) as u8))
    }

    /// A connection whose interfaces changed, or what they can do. An operator's choice stays while it is possible.
    pub(crate) fn follow_paths(&mut self, number: BlockIndex, now: Tick) {
        for direction in 0..2 {
            let chosen = self.reason(number, direction) == Some(PathReason::Moved);
            let possible = self.way_by(number, direction, self.path(number, direction));
            if chosen && possible.is_some() {
                continue;
            }
            if let Some(way) = self.default_way(number, direction) {
                self.put(number, direction, way, now);
            }
        }
    }

    /// Puts a direction on a way; see the module for how it gets there.
    pub(crate) fn put(&mut self, number: BlockIndex, direction: usize, way: Way, now: Tick) {
        let is_connection = |block: &&Block| is_live(block) && !is_refusal(block);
        let Some(block) = self.table.block(number).filter(is_connection) else { return };
        let shift = 8 * direction;
        let others = block.owner.flags.load() & !(0xff << shift);
        block.owner.flags.store(others | u32::from(way.reason as u8) << shift);
        let steer = Steer::unpack(block.hot[direction].steer.load());
        let serial = block.owner.serial.load();
        if let Some(change) = self.moves.of(number, direction, serial) {
            change.next = Some(way);
            return;
        }
        if (steer.action, steer.skb) == (way.action, way.skb) || !self.kernel {
            return;
        }
        let gate = gate_of(self.table.hash(&key_of(block, direction)));
        // What the daemon forwards itself from now on it gets in order, unless the queue changes as well.
        let pending = way.action == Action::Forward;
        let epoch = if pending { self.gates.epoch(gate) } else { 0 };
        let new = Steer { action: way.action, skb: way.skb, pending, epoch, ..steer };
        block.hot[direction].steer.store(new.pack());
        let grace = self.table.epoch();
        if pending {
            self.gates.wait_again(number, serial, direction, gate, grace, now);
        }
        self.note_queue(number, direction, steer, new);
    }

    /// Notes that packets of a direction come by another queue from now on, if they do, so that those of the old queue
    /// go first. In a driver what is pending is handed down whatever the level; see
    /// [`forward`](flowhop_flow::forward::forward).
    pub(crate) fn note_queue(&mut self, number: BlockIndex, direction: usize, before: Steer, after: Steer) {
        let in_driver = self.interfaces.port(after.ingress).is_some_and(|input| input.fast == FastPath::Driver);
        let was = !before.skb || (before.pending && in_driver);
        let is = in_driver && (!after.skb || after.pending);
        let Some(block) = self.table.block(number).filter(|_| self.kernel && was != is) else { return };
        let change = Move { serial: block.owner.serial.load(), driver: is, grace: self.table.epoch(), next: None };
        self.moves.0.insert((number, direction), change);
    }

    /// A packet that came by the new level's queue before all of the old one's have.
    pub(crate) fn hold_for_move(
        &mut self,
        arrived: &Arrived,
        number: BlockIndex,
        direction: usize,
        packet: &Buffer<'_>,
    ) -> Outcome {
        Outcome::of(self.keep(arrived, Wait::Move(number, direction), packet))
    }

    /// Lets go what waited for moves that are complete. The queues from the kernel are empty.
    pub(crate) fn finish_moves(&mut self, now: Tick, io: &mut dyn Io) {
        if self.moves.is_empty() {
            return;
        }
        let passed = self.passed;
        let done: BTreeMap<_, _> = self.moves.0.extract_if(.., |_, change| passed > change.grace).collect();
        // All at once: a walk over the packets for each of many moves would keep the next ones waiting.
        let is_done = |wait| matches!(wait, Wait::Move(number, direction) if done.contains_key(&(number, direction)));
        for mut held in self.hold.take_all(is_done) {
            self.counters.take_back(held.port, Reason::HeldMove, held.bytes.len());
            let arrived = Arrived { port: held.port, gate: held.gate, driver: held.driver, now };
            let mut packet = Buffer::new(&mut held.bytes, held.offload);
            self.receive(&arrived, &mut packet, io);
        }
        for ((number, direction), change) in done {
            let is_same = self.table.block(number).is_some_and(|block| block.owner.serial.load() == change.serial);
            if let Some(way) = change.next.filter(|_| is_same) {
                self.put(number, direction, way, now);
            }
        }
    }
}
