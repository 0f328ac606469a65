//! The forwarding function against the reference model, packet by packet (checklist A14, A17, B12, F11).
//!
//! One history runs through the real function and through [`flowhop_tests::reference`]; after every packet the
//! verdict, the reason, the bytes, both directions' records, the TCP context and the gate must agree. The real
//! function runs natively over a private table with either index, and, where there is root, in the kernel.
//!
//! `FLOWHOP_DIFF_PACKETS` and `FLOWHOP_DIFF_SEED` make longer or other runs.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is their report"
)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use flowhop_flow::cell::Cell64;
use flowhop_flow::forward::{gate_of, secret as secret_of};
use flowhop_flow::key::{self, Address};
use flowhop_flow::parse;
use flowhop_flow::reason::Reason;
use flowhop_flow::record::{
    Adjacency, Config, Gate, NextHop, Port, PortKey, PortSlot, Steer, config_flags, index_kind, local_flags,
};
use flowhop_flow::rewrite::fix_in_place;
use flowhop_flow::{Arrival, Hit, Host, Key, Kind, Level, Transport, Verdict, forward, judge, tcp};
use flowhop_io::bpf::{self, Context, IndexKind, Kernel, Program, Shared};
use flowhop_table::{
    BlockIndex, Draft, DraftSide, Geometry, Inserted, KernelHashSync, Region, Regions, Removal, Table, key_of, lookup,
};
use flowhop_tests::history::{
    ALIVE_FOR, Episode, INTERFACES, ORPHAN_GRACE, Opening, POLICY, Packet, Random, Step, locals, neighbours, port_mac,
    port_number,
};
use flowhop_tests::reference::tcp::Half;
use flowhop_tests::reference::{Neighbour, Outcome, Tuple, UsedPorts, World};
use flowhop_wire::Frame;
use flowhop_wire::checksum::Delta;

/// Packets of one episode: enough for connections to live through, few enough to shrink.
const EPISODE: usize = 2000;
const CONNECTIONS: u32 = 256;

/// Faults that are planted to see that they are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The transport checksum does not follow the ports.
    PortChecksum,
    /// Any interface will do.
    AnyInterface,
    /// Bytes are counted one short.
    Count,
    /// The time to live stays.
    TimeToLive,
    /// The TCP windows are not looked at.
    NoWindow,
    /// The policy's generation is not looked at.
    AnyPolicy,
    /// A handed-down packet is not counted at its gate.
    NoGate,
}

struct Buffer {
    bytes: Vec<u8>,
    partial: bool,
    fault: Option<Fault>,
}

impl Frame for Buffer {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.bytes.get(offset..)?.first_chunk()
    }

    fn write<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(offset..)?.first_chunk_mut()
    }
}

impl flowhop_flow::Packet for Buffer {
    fn fix_checksum(&mut self, offset: usize, addresses: Delta, ports: Delta, udp: bool) -> Option<()> {
        let ports = if self.fault == Some(Fault::PortChecksum) { Delta::ZERO } else { ports };
        let partial = self.partial;
        fix_in_place(self, offset, addresses, ports, udp, partial)
    }
}

/// A stand-in for the kernel's hash map.
#[derive(Clone, Default)]
struct Hash(Arc<Mutex<HashMap<Key, u32>>>);

impl KernelHashSync for Hash {
    fn insert(&mut self, key: &Key, place: u32) -> Result<(), String> {
        self.0.lock().unwrap().insert(*key, place);
        Ok(())
    }

    fn remove(&mut self, key: &Key) {
        self.0.lock().unwrap().remove(key);
    }

    fn retain(&mut self, keep: &dyn Fn(&Key, u32) -> bool) {
        self.0.lock().unwrap().retain(|key, place| keep(key, *place));
    }
}

/// The kernel programs with their maps, and what their counters should say.
struct Programs {
    kernel: Arc<Mutex<Kernel>>,
    program: Program,
    expected: HashMap<(u8, Reason), bpf::Tally>,
    state: PathBuf,
}

struct KernelIndex(Arc<Mutex<Kernel>>);

impl KernelHashSync for KernelIndex {
    fn insert(&mut self, key: &Key, place: u32) -> Result<(), String> {
        self.0.lock().unwrap().insert_key(key, place).map_err(|error| error.to_string())
    }

    fn remove(&mut self, key: &Key) {
        self.0.lock().unwrap().remove_key(key).unwrap();
    }

    fn retain(&mut self, _: &dyn Fn(&Key, u32) -> bool) {
        unreachable!("this table is never adopted");
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _removed = Kernel::take_down(&self.state);
        let _removed = std::fs::remove_dir_all(&self.state);
    }
}

/// The real function with its tables.
struct Rig {
    table: Table,
    hash: Option<Hash>,
    locals: HashMap<Address, Option<UsedPorts>>,
    fault: Option<Fault>,
    programs: Option<Programs>,
}

struct Tables<'a>(&'a Rig);

impl Host for Tables<'_> {
    const LEVEL: Level = Level::Skb;

    fn config(&self) -> Option<&Config> {
        Some(self.0.table.config())
    }

    fn port(&self, key: PortKey) -> Option<(u8, &Port)> {
        let number = INTERFACES[..3].contains(&key.ifindex).then(|| port_number(key.ifindex))?;
        Some((number, &self.0.table.regions().ports[usize::from(number)]))
    }

    fn find(&self, key: &Key, hash: u64) -> Option<Hit<'_>> {
        let table = &self.0.table;
        let (block, direction) = match &self.0.hash {
            None => lookup::find(table.regions(), table.config().buckets.load(), key, hash)?,
            Some(map) => {
                let place = *map.0.lock().unwrap().get(key)?;
                let (block, direction) = (table.block(place >> 1)?, (place & 1) as usize);
                lookup::has_key(block, direction, key).then_some((block, direction))?
            }
        };
        Some(Hit { block, direction })
    }

    fn adjacency(&self, index: u16) -> Option<&Adjacency> {
        self.0.table.regions().adjacencies.get(usize::from(index))
    }

    fn gate(&self, number: u32) -> Option<&Gate> {
        self.0.table.regions().gates.get(number as usize)
    }

    fn is_local(&self, destination: &Address, transport: Option<&Key>) -> bool {
        match (self.0.locals.get(destination), transport) {
            (Some(None), _) => true,
            (None, _) | (Some(Some(_)), None) => false,
            (Some(Some(used)), Some(key)) => match (key.protocol(), key.family()) {
                (6, _) => !used.contains(&(0, key.destination_port())),
                (17, _) => !used.contains(&(1, key.destination_port())),
                (1, 4) | (58, 6) => {
                    matches!(key.destination_port() >> 8, 8 | 128) || !used.contains(&(2, key.source_port()))
                }
                _ => false,
            },
        }
    }
}

/// What the real function made of a packet.
struct Seen {
    verdict: Verdict,
    bytes: Vec<u8>,
}

fn key_of_tuple(tuple: &Tuple) -> Key {
    Key {
        source: key::address(tuple.source),
        destination: key::address(tuple.destination),
        ports: key::ports(tuple.source_port, tuple.destination_port),
        identity: Key::identity(tuple.protocol, if tuple.source.is_ipv4() { 4 } else { 6 }, 0),
    }
}

fn segment_of(opening: &Opening) -> (parse::Segment, tcp::Offer) {
    let s = &opening.segment;
    let segment = parse::Segment {
        sequence: s.sequence,
        acknowledgment: s.acknowledgment,
        flags: s.flags,
        window: s.window,
        header: 20 + s.options.len() as u8,
        payload: s.payload,
        vouched: false,
    };
    (segment, tcp::Offer { scale: opening.scale, sack: opening.sack })
}

/// Milliseconds-like ticks as the kernel program reads them.
fn kernel_now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time) }, 0);
    ((time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64) >> 20) as u32
}

/// Keeps a heartbeat's age away from the limits: the kernel's clock runs on between setting it and the packet.
fn coarse(age: u32) -> u32 {
    for limit in [ALIVE_FOR, ORPHAN_GRACE] {
        if age.abs_diff(limit) < 100 {
            return if age > limit { limit + 300 } else { limit - 300 };
        }
    }
    age
}

impl Rig {
    fn native(hashed: bool, secret: [u32; 10], fault: Option<Fault>) -> Self {
        let index = if hashed { index_kind::KERNEL_HASH } else { index_kind::LINES };
        let geometry = Geometry::for_connections(CONNECTIONS, index);
        let hash = hashed.then(Hash::default);
        let kernel = hash.clone().map(|hash| Box::new(hash) as Box<dyn KernelHashSync>);
        let table = Table::create(Regions::private(geometry), geometry, secret, kernel);
        Self { table, hash, locals: HashMap::new(), fault, programs: None }.settle()
    }

    fn kernel(index: IndexKind, secret: [u32; 10], name: &str) -> Result<Self, bpf::KernelError> {
        let geometry = Geometry::for_connections(
            CONNECTIONS,
            if index == IndexKind::Lines { index_kind::LINES } else { index_kind::KERNEL_HASH },
        );
        let state = std::env::temp_dir().join(format!("flowhop-diff-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&state).unwrap();
        let kernel = Kernel::load(&state, bpf::Geometry { buckets: geometry.buckets, blocks: geometry.blocks, index })?;
        let kernel = Arc::new(Mutex::new(kernel));
        let regions = {
            let owner: Arc<Mutex<Kernel>> = Arc::clone(&kernel);
            let guard = kernel.lock().unwrap();
            shared_regions(guard.shared(), &owner)
        };
        let sync: Option<Box<dyn KernelHashSync>> =
            (index == IndexKind::KernelHash).then(|| Box::new(KernelIndex(Arc::clone(&kernel))) as _);
        let table = Table::create(regions, geometry, secret, sync);
        {
            let mut kernel = kernel.lock().unwrap();
            for ifindex in &INTERFACES[..3] {
                let key = PortKey::of(*ifindex);
                let slot = &kernel.shared().port_slots[key.slot(0) as usize];
                slot.0.store(PortSlot::word(key, port_number(*ifindex)));
            }
            for (number, (address, used)) in locals().into_iter().enumerate() {
                let flags = if used.is_some() { local_flags::TRANSLATED | number as u32 } else { 0 };
                kernel.insert_local(&key::address(address), flags).unwrap();
                for (row, port) in used.into_iter().flatten() {
                    let word: &Cell64 = &kernel.shared().port_bits[number].0[usize::from(row)][usize::from(port) / 64];
                    word.store(word.load() | 1 << (port % 64));
                }
            }
        }
        table.config().punt_ifindex.store(INTERFACES[3]);
        let programs = Programs { kernel, program: Program::ingress(index), expected: HashMap::new(), state };
        Ok(Self { table, hash: None, locals: HashMap::new(), fault: None, programs: Some(programs) }.settle())
    }

    /// Settings that an episode starts with.
    fn settle(mut self) -> Self {
        let config = self.table.config();
        config.policy_generation.store(u32::from(POLICY));
        config.alive_for.store(ALIVE_FOR);
        config.orphan_grace.store(ORPHAN_GRACE);
        for ifindex in &INTERFACES[..3] {
            let port = &self.table.regions().ports[usize::from(port_number(*ifindex))];
            port.ifindex.store(*ifindex);
            port.set_mac(port_mac(*ifindex));
        }
        for (index, hop) in neighbours().iter().enumerate() {
            self.table.regions().adjacencies[index].write(hop);
        }
        self.locals = locals().into_iter().map(|(ip, used)| (key::address(ip), used)).collect();
        self
    }

    fn run(&mut self, packet: &Packet, expected: &Outcome, now: u32) -> Result<Seen, String> {
        let arrival = Arrival {
            tagged: packet.arrival.tagged,
            ..Arrival::ethernet(packet.arrival.ifindex, packet.arrival.segment)
        };
        if self.programs.is_some() {
            return self.run_program(packet, expected);
        }
        let mut buffer = Buffer { bytes: packet.bytes.clone(), partial: packet.arrival.partial, fault: self.fault };
        let mut verdict = forward(&Tables(self), &mut buffer, &arrival, now);
        if let Some(fault) = self.fault {
            self.spoil(fault, &mut buffer, &arrival, &mut verdict, packet, now);
        }
        // Of the next hop it is the output that has to be the same; what is sent shows the rest.
        verdict.hop = NextHop { ifindex: verdict.hop.ifindex, ..NextHop::NONE };
        Ok(Seen { verdict, bytes: buffer.bytes })
    }

    /// Makes the answer what a function with this fault would have answered.
    fn spoil(
        &self,
        fault: Fault,
        buffer: &mut Buffer,
        arrival: &Arrival,
        verdict: &mut Verdict,
        packet: &Packet,
        now: u32,
    ) {
        let forwarded = verdict.kind == Kind::Forward;
        let is_v4 = packet.bytes.get(12) == Some(&8);
        let tables = Tables(self);
        let hit = |key: &Key| tables.find(key, key.hash(&secret_of(self.table.config())));
        let read = || {
            let parsed = if is_v4 { parse::ipv4(buffer, 14, 0) } else { parse::ipv6(buffer, 14, 0) };
            parsed.ok()
        };
        match fault {
            Fault::PortChecksum => {}
            Fault::AnyInterface if verdict.reason == Reason::WrongInterface => {
                for ifindex in &INTERFACES[..3] {
                    buffer.bytes[..6].copy_from_slice(&port_mac(*ifindex));
                    let other =
                        forward(&Tables(self), buffer, &Arrival { port: PortKey::of(*ifindex), ..*arrival }, now);
                    if other.reason != Reason::WrongInterface {
                        *verdict = Verdict { port: verdict.port, ..other };
                        return;
                    }
                }
            }
            Fault::Count if forwarded => {
                let parsed = if is_v4 {
                    parse::ipv4(&Buffer { bytes: packet.bytes.clone(), partial: false, fault: None }, 14, 0)
                } else {
                    parse::ipv6(&Buffer { bytes: packet.bytes.clone(), partial: false, fault: None }, 14, 0)
                };
                if let Some(hit) = parsed.ok().and_then(|parsed| hit(&parsed.key)) {
                    hit.block.hot[hit.direction].bytes.add(u64::MAX);
                }
            }
            Fault::TimeToLive if forwarded => {
                let at = if is_v4 { 22 } else { 21 };
                buffer.bytes[at] = packet.bytes[at];
            }
            Fault::NoWindow if verdict.reason == Reason::TcpWindow => {
                let Some(mut parsed) = read() else { return };
                let Some(hit) = hit(&parsed.key) else { return };
                if let Transport::Tcp(segment) = &mut parsed.transport {
                    segment.vouched = true;
                }
                let steer = Steer::unpack(hit.block.hot[hit.direction].steer.load());
                let config = self.table.config();
                if let Ok(hop) =
                    judge(&tables, config, buffer, &parsed, &hit, steer, verdict.port, arrival.segment, now)
                {
                    *verdict = Verdict { kind: Kind::Forward, reason: Reason::Forwarded, hop, ..*verdict };
                }
            }
            Fault::AnyPolicy if verdict.reason == Reason::StalePolicy => {
                let Some(parsed) = read() else { return };
                let Some(hit) = hit(&parsed.key) else { return };
                let steer = Steer::unpack(hit.block.hot[hit.direction].steer.load());
                let generation = &self.table.config().policy_generation;
                let right = generation.load();
                generation.store(u32::from(steer.policy_generation));
                *verdict = forward(&Tables(self), buffer, arrival, now);
                generation.store(right);
            }
            Fault::NoGate if verdict.gate != 0 => {
                self.table.regions().gates[verdict.gate as usize - 1].leave();
            }
            _ => {}
        }
    }

    fn run_program(&mut self, packet: &Packet, expected: &Outcome) -> Result<Seen, String> {
        let Some(programs) = &mut self.programs else { return Err(String::from("no kernel")) };
        let mut kernel = programs.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let context = Context { ifindex: packet.arrival.ifindex, mark: 0, gso_size: packet.arrival.segment };
        let run =
            kernel.test_run(programs.program, &packet.bytes, context, 1).map_err(|error| format!("run: {error}"))?;
        // The reason is the one whose counter moved.
        let port =
            if INTERFACES[..3].contains(&packet.arrival.ifindex) { port_number(packet.arrival.ifindex) } else { 0 };
        let mut moved = Vec::new();
        for (reason, tally) in kernel.counters(port).map_err(|error| error.to_string())?.moved() {
            let before = programs.expected.entry((port, reason)).or_default();
            if tally != *before {
                moved.push((reason, tally.packets - before.packets, tally.bytes - before.bytes));
                *before = tally;
            }
        }
        let reason = match moved[..] {
            [] if port == 0 => Reason::NoInterface,
            [(reason, 1, bytes)] if bytes == packet.bytes.len() as u64 => reason,
            _ => return Err(format!("counters moved: {moved:?}")),
        };
        let mut bytes = run.frame;
        let (kind, mut gate, mut ifindex) = match (run.action, reason.fast_kind()) {
            (-1, Kind::Stack) => (Kind::Stack, 0, 0),
            (2, Kind::Drop) => (Kind::Drop, 0, 0),
            (7, Kind::Forward) => (Kind::Forward, 0, expected.ifindex),
            (7, Kind::HandDown) => {
                let [a, b, from, why, high, low] = *bytes.first_chunk::<6>().unwrap();
                if [a, b, from, why] != [0x02, 0x46, port, reason.number()] {
                    return Err(format!("metadata {:02x?} for {reason:?}", &bytes[..6]));
                }
                bytes[..6].copy_from_slice(&packet.bytes[..6]);
                (Kind::HandDown, u32::from(high) << 8 | u32::from(low), 0)
            }
            other => return Err(format!("action and reason {other:?} {reason:?}")),
        };
        if kind != Kind::HandDown {
            gate = 0;
        }
        if kind != Kind::Forward {
            ifindex = 0;
        }
        let hop = NextHop { ifindex, ..NextHop::NONE };
        Ok(Seen { verdict: Verdict { kind, reason, port, hop, gate }, bytes })
    }
}

fn shared_regions(shared: &Shared, owner: &Arc<Mutex<Kernel>>) -> Regions {
    fn region<T: Sync + Send + 'static>(records: &[T], owner: &Arc<Mutex<Kernel>>) -> Region<T> {
        let owner: Arc<Mutex<Kernel>> = Arc::clone(owner);
        // SAFETY: the kernel's mappings live as long as it does, stay where they are, and consist of cells.
        unsafe { Region::from_raw(std::ptr::NonNull::from(records).cast(), records.len(), owner) }
    }
    Regions {
        config: region(&shared.config, owner),
        buckets: region(&shared.buckets, owner),
        blocks: region(&shared.blocks, owner),
        adjacencies: region(&shared.adjacencies, owner),
        gates: region(&shared.gates, owner),
        ports: region(&shared.ports, owner),
    }
}

/// Where the two disagree.
#[derive(Debug)]
struct Disagreement {
    step: usize,
    packet: usize,
    text: String,
}

/// What a run did, for people and against histories that test nothing.
#[derive(Clone, Debug, Default)]
struct Tally {
    packets: usize,
    reasons: HashMap<Reason, usize>,
    translated: usize,
    loose: usize,
    scaled: usize,
}

struct Replay<'a> {
    rig: &'a mut Rig,
    world: World,
    /// By the number in the history: number in the world, block in the table.
    names: Vec<Option<(usize, BlockIndex)>>,
    blocks: Vec<BlockIndex>,
    age: u32,
    tally: Tally,
}

fn replay(steps: &[Step], rig: &mut Rig, secret: [u32; 10]) -> Result<Tally, Disagreement> {
    let mut world = World {
        now: 1_000_000,
        heartbeat: 1_000_000,
        alive_for: ALIVE_FOR,
        orphan_grace: ORPHAN_GRACE,
        policy: POLICY,
        secret,
        locals: locals().into_iter().collect::<HashMap<IpAddr, _>>(),
        ..World::default()
    };
    for ifindex in &INTERFACES[..3] {
        world.ports.insert(*ifindex, (port_number(*ifindex), port_mac(*ifindex)));
    }
    for (index, hop) in neighbours().into_iter().enumerate() {
        world.neighbours.insert(index as u16, Neighbour { hop, torn: false });
    }
    let mut replay = Replay { rig, world, names: Vec::new(), blocks: Vec::new(), age: 0, tally: Tally::default() };
    for (number, step) in steps.iter().enumerate() {
        let done = replay.step(step).and_then(|()| {
            let last = number + 1 == steps.len();
            if last || number.is_multiple_of(256) { replay.compare_all() } else { Ok(()) }
        });
        if let Err(text) = done {
            return Err(Disagreement { step: number, packet: replay.tally.packets, text });
        }
    }
    Ok(replay.tally)
}

impl Replay<'_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        if self.rig.programs.is_some() {
            let now = kernel_now();
            self.world.now = now;
            self.world.heartbeat = now.wrapping_sub(coarse(self.age));
        }
        self.rig.table.config().heartbeat.store(self.world.heartbeat);
        let now = self.world.now;
        let table = &mut self.rig.table;
        match step {
            Step::Connect(connect) => {
                let (keys, steers, opening) = &**connect;
                let first = opening.as_ref().map_or_else(Half::default, |o| Half::opening(&o.segment, o.scale, o.sack));
                let number = self.world.connect(*keys, *steers, [first, Half::default()]);
                let side = |n: usize| DraftSide { key: key_of_tuple(&keys[n]), steer: steers[n], service: 0 };
                let draft = Draft { sides: [side(0), side(1)], rules: 0, flags: 0 };
                let inserted = table.insert(&draft, now, |block| {
                    if let Some(opening) = opening {
                        let (segment, offer) = segment_of(opening);
                        tcp::open(&block.tcp[0], &block.tcp[1], &segment, offer);
                    }
                });
                let name = match (number, inserted) {
                    (Some(number), Ok(Inserted::New(block))) => {
                        self.blocks.push(block);
                        Some((number, block))
                    }
                    (None, Ok(Inserted::Exists(_))) => None,
                    other => return Err(format!("insertion: {other:?}")),
                };
                self.names.push(name);
            }
            Step::SecondSyn(name, opening) => {
                let Some((number, block)) = self.named(*name) else { return Ok(()) };
                let half = &mut self.world.connections[number].directions[1].tcp;
                // The slow path adds a SYN only where there is none.
                if !half.syn && !half.rst {
                    *half = Half::opening(&opening.segment, opening.scale, opening.sack);
                    let (segment, offer) = segment_of(opening);
                    tcp::open_too(&self.rig.table.block(block).unwrap().tcp[1], &segment, offer);
                }
            }
            Step::Remove(name) => {
                let Some((number, block)) = self.named(*name) else { return Ok(()) };
                self.world.remove(number);
                self.names[*name] = None;
                let table = &mut self.rig.table;
                assert!(table.remove(block, Removal::Final));
                let begun = table.begin_grace();
                assert_eq!(table.grace_passed(begun).freed.len(), 1);
            }
            Step::Steer(name, direction, steer) => self.steer(*name, *direction, *steer),
            Step::Pend(name, direction) => {
                let Some((number, block)) = self.named(*name) else { return Ok(()) };
                let steer = self.world.connections[number].directions[*direction].steer;
                let gate = self.gate(block, *direction);
                let (_, epoch) = self.rig.table.regions().gates[gate as usize].read();
                if self.world.gates.get(&gate).copied().unwrap_or_default().epoch != epoch {
                    return Err(format!("epoch of gate {gate} is {epoch}"));
                }
                let epoch = (epoch % 16) as u8;
                self.steer(*name, *direction, Steer { pending: true, epoch, ..steer });
            }
            Step::Raise(name, direction) => {
                let Some((_, block)) = self.named(*name) else { return Ok(()) };
                let number = self.gate(block, *direction);
                let gate = &self.rig.table.regions().gates[number as usize];
                let (handed, epoch) = gate.read();
                if !gate.raise(handed, epoch) {
                    return Err(String::from("a gate was not raised"));
                }
                self.world.gates.entry(number).or_default().epoch += 1;
            }
            Step::Neighbour(index, hop, torn) => {
                self.neighbour(*index, hop, *torn);
            }
            Step::Policy(generation) => {
                self.world.policy = *generation;
                // What is above the low half must not matter.
                table.config().policy_generation.store(u32::from(*generation) | 0xabcd << 16);
            }
            Step::Advance(ticks) => {
                self.age = self.age.saturating_add(*ticks).min(ALIVE_FOR - 1);
                if self.rig.programs.is_none() {
                    self.world.now = self.world.now.wrapping_add(*ticks);
                    self.world.heartbeat = self.world.now.wrapping_sub(self.age);
                }
            }
            Step::Silence(ticks) => {
                self.age = *ticks;
                self.world.heartbeat = self.world.now.wrapping_sub(*ticks);
            }
            Step::JudgeLocal(judge) => {
                self.world.judge_local = *judge;
                table.config().flags.store(if *judge { config_flags::JUDGE_LOCAL } else { 0 });
            }
            Step::Packet(packet) => return self.packet(packet),
        }
        Ok(())
    }

    fn named(&self, name: usize) -> Option<(usize, BlockIndex)> {
        self.names.get(name).copied().flatten()
    }

    fn steer(&mut self, name: usize, direction: usize, steer: Steer) {
        if let Some((number, block)) = self.named(name) {
            self.world.connections[number].directions[direction].steer = steer;
            self.rig.table.block(block).unwrap().hot[direction].steer.store(steer.pack());
        }
    }

    fn neighbour(&mut self, index: u16, hop: &NextHop, torn: bool) {
        self.world.neighbours.insert(index, Neighbour { hop: *hop, torn });
        let adjacency = &self.rig.table.regions().adjacencies[usize::from(index)];
        adjacency.write(hop);
        if torn {
            adjacency.sequence.add(1);
        }
    }

    fn gate(&self, block: BlockIndex, direction: usize) -> u32 {
        let key = key_of(self.rig.table.block(block).unwrap(), direction);
        gate_of(self.rig.table.hash(&key))
    }

    fn packet(&mut self, packet: &Packet) -> Result<(), String> {
        let in_kernel = self.rig.programs.is_some();
        // A test run has no offloads, wants the IP header that the Ethernet header announces, and takes one page.
        let least = if packet.bytes.get(12..14) == Some(&[0x86, 0xdd]) { 54 } else { 34 };
        let fits = (least..3400).contains(&packet.bytes.len());
        if in_kernel && (packet.arrival.partial || packet.arrival.tagged || !fits) {
            return Ok(());
        }
        let now = self.world.now;
        let mut expected = self.world.judge(&packet.bytes, &packet.arrival);
        let seen = self.rig.run(packet, &expected, now)?;
        self.tally.packets += 1;
        *self.tally.reasons.entry(expected.reason).or_default() += 1;
        self.tally.loose += usize::from(expected.loose.is_some());
        if let Some(at) = expected.loose
            && seen.bytes.get(at..at + 2) == Some(&[0xff, 0xff])
            && expected.bytes[at..at + 2] == [0, 0]
        {
            expected.bytes[at..at + 2].fill(0xff);
        }
        let verdict = Verdict {
            kind: expected.kind,
            reason: expected.reason,
            port: expected.port,
            hop: NextHop { ifindex: expected.ifindex, ..NextHop::NONE },
            gate: expected.gate,
        };
        if seen.verdict != verdict {
            return Err(format!("verdict {:?}, should be {verdict:?}", seen.verdict));
        }
        if seen.bytes != expected.bytes {
            let differences: Vec<usize> = (0..seen.bytes.len().max(expected.bytes.len()))
                .filter(|&n| seen.bytes.get(n) != expected.bytes.get(n))
                .collect();
            let text = format!(
                "bytes differ at {differences:?}\n  is        {}\n  should be {}",
                hex(&seen.bytes),
                hex(&expected.bytes)
            );
            return Err(text);
        }
        if let Some((number, direction)) = expected.hit {
            let entry = &mut self.world.connections[number].directions[direction];
            self.tally.translated += usize::from(expected.kind == Kind::Forward && entry.key != entry.leaves_as);
            self.tally.scaled += usize::from(entry.tcp.window > 65_535);
            if in_kernel && expected.kind == Kind::Forward {
                // The program's clock is its own, between ours before and ours after.
                let stamp = self.rig.table.block(self.blocks[number]).unwrap().hot[direction].last_seen.load();
                if stamp.wrapping_sub(now) > kernel_now().wrapping_sub(now) {
                    return Err(format!("last seen at {stamp}, now is {now}"));
                }
                entry.last_seen = stamp;
            }
            self.compare(number)?;
        }
        if expected.gate != 0 {
            self.compare_gate(expected.gate - 1)?;
        }
        Ok(())
    }

    fn compare_gate(&self, number: u32) -> Result<(), String> {
        let (handed, epoch) = self.rig.table.regions().gates[number as usize].read();
        let expected = self.world.gates.get(&number).copied().unwrap_or_default();
        if (handed, epoch) == (expected.handed, expected.epoch) {
            return Ok(());
        }
        Err(format!("gate {number}: {handed} handed, epoch {epoch}, should be {expected:?}"))
    }

    fn compare(&self, number: usize) -> Result<(), String> {
        let block = self.rig.table.block(self.blocks[number]).unwrap();
        for direction in 0..2 {
            let expected = &self.world.connections[number].directions[direction];
            let hot = &block.hot[direction];
            let tcp = &block.tcp[direction];
            let is = (
                (hot.packets.load(), hot.bytes.load(), hot.last_seen.load()),
                Steer::unpack(hot.steer.load()),
                [tcp.sent.load(), tcp.allowed.load(), tcp.state.load()],
            );
            let should = ((expected.packets, expected.bytes, expected.last_seen), expected.steer, expected.tcp.words());
            if is != should {
                return Err(format!(
                    "connection {number} direction {direction}:\n  is        {is:x?}\n  should be {should:x?}"
                ));
            }
        }
        Ok(())
    }

    fn compare_all(&self) -> Result<(), String> {
        let mut live = 0;
        for (number, connection) in self.world.connections.iter().enumerate() {
            if !connection.published {
                continue;
            }
            live += 1;
            self.compare(number)?;
            let block = self.rig.table.block(self.blocks[number]).unwrap();
            for (direction, expected) in connection.directions.iter().enumerate() {
                if key_of(block, direction) != key_of_tuple(&expected.key) {
                    return Err(format!("connection {number} has another key"));
                }
            }
        }
        if self.rig.table.live() != live {
            return Err(format!("{} connections, should be {live}", self.rig.table.live()));
        }
        self.world.gates.keys().try_for_each(|number| self.compare_gate(*number))
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (n, byte) in bytes.iter().take(120).enumerate() {
        let _ = write!(text, "{}{byte:02x}", if n % 2 == 0 { " " } else { "" });
    }
    text
}

fn secret(seed: u64) -> [u32; 10] {
    let mut random = Random::new(seed ^ 0x5ec7e7);
    std::array::from_fn(|_| random.bits() as u32)
}

/// Leaves out what the disagreement does not need.
fn shrink(steps: &[Step], end: usize, rig: &mut dyn FnMut() -> Rig, secret: [u32; 10]) -> (Vec<Step>, Disagreement) {
    let mut kept: Vec<Step> = steps[..=end].to_vec();
    let mut last = replay(&kept, &mut rig(), secret).expect_err("it failed before");
    let mut chunk = kept.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < kept.len() {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + chunk).min(kept.len()));
            // Names are numbers of connects, so those stay.
            let whole = kept[at..(at + chunk).min(kept.len())].iter().all(|step| !matches!(step, Step::Connect(_)));
            match (whole, whole.then(|| replay(&fewer, &mut rig(), secret))) {
                (true, Some(Err(disagreement))) => {
                    fewer.truncate(disagreement.step + 1);
                    kept = fewer;
                    last = disagreement;
                }
                _ => at += chunk,
            }
        }
        chunk /= 2;
    }
    (kept, last)
}

/// Runs episodes until so many packets have gone through, and reports the first disagreement in full.
fn run(packets: usize, episode: usize, first_seed: u64, make: &mut dyn FnMut([u32; 10]) -> Rig) -> Tally {
    let mut total = Tally::default();
    let mut seed = first_seed;
    while total.packets < packets {
        let steps = Episode::steps(seed, episode);
        let secret = secret(seed);
        let mut rig = make(secret);
        match replay(&steps, &mut rig, secret) {
            Ok(tally) => {
                total.packets += tally.packets;
                total.translated += tally.translated;
                total.loose += tally.loose;
                total.scaled += tally.scaled;
                for (reason, count) in tally.reasons {
                    *total.reasons.entry(reason).or_default() += count;
                }
            }
            Err(found) => {
                drop(rig);
                eprintln!("seed {seed}, packet {} (step {}): {}", found.packet, found.step, found.text);
                eprintln!("at {:?}", steps[found.step]);
                let (kept, last) = shrink(&steps, found.step, &mut || make(secret), secret);
                let mut text = String::new();
                for step in &kept {
                    match step {
                        Step::Packet(packet) => {
                            let _ =
                                writeln!(text, "  {} {:?}\n    {}", packet.about, packet.arrival, hex(&packet.bytes));
                        }
                        Step::Connect(_) => {}
                        other => {
                            let _ = writeln!(text, "  {other:?}");
                        }
                    }
                }
                panic!("shrunk to {} steps:\n{text}{}", kept.len(), last.text);
            }
        }
        seed = seed.wrapping_add(1);
    }
    total
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn packets(default: u64) -> usize {
    setting("FLOWHOP_DIFF_PACKETS", default) as usize
}

fn seed() -> u64 {
    setting("FLOWHOP_DIFF_SEED", 20_260_101)
}

/// Reasons that a fast path can give; a history that never brings one about tests less than it seems to.
const EXPECTED: &[Reason] = &[
    Reason::Forwarded,
    Reason::Miss,
    Reason::Pending,
    Reason::SlowPath,
    Reason::WrongInterface,
    Reason::StalePolicy,
    Reason::StaleAdjacency,
    Reason::NeighbourUnresolved,
    Reason::TtlExceeded,
    Reason::TooBig,
    Reason::Fragment,
    Reason::Options,
    Reason::ExtensionHeader,
    Reason::Icmp,
    Reason::Truncated,
    Reason::BadHeader,
    Reason::BadIpChecksum,
    Reason::TcpSyn,
    Reason::TcpFlags,
    Reason::TcpWindow,
    Reason::TcpState,
    Reason::Torn,
    Reason::Orphaned,
    Reason::NoDaemon,
    Reason::FlowDropped,
    Reason::Local,
    Reason::NotIp,
    Reason::LinkLocal,
    Reason::NeighbourDiscovery,
    Reason::OtherHost,
    Reason::NoInterface,
    Reason::StackFlow,
    Reason::Tagged,
];

/// Reasons in `rare` need not have come up.
fn assert_telling(tally: &Tally, rare: &[Reason]) {
    let mut reasons: Vec<_> = tally.reasons.iter().map(|(reason, count)| (*reason, *count)).collect();
    reasons.sort();
    println!(
        "{} packets, {} translated, {} scaled, {} loose",
        tally.packets, tally.translated, tally.scaled, tally.loose
    );
    println!("{reasons:?}");
    // A short run, asked for by hand, need not have everything in it.
    if tally.packets < 20_000 {
        return;
    }
    for reason in EXPECTED.iter().filter(|reason| !rare.contains(reason)) {
        assert!(tally.reasons.contains_key(reason), "no packet was {}", reason.name());
    }
    assert!(tally.reasons[&Reason::Forwarded] * 4 > tally.packets, "most packets should be forwarded");
    assert!(tally.translated * 10 > tally.packets && tally.scaled * 40 > tally.packets);
}

// B12, A17, F11: the same results with our own index.
#[test]
fn with_lines_the_model_agrees() {
    assert_telling(&run(packets(100_000), EPISODE, seed(), &mut |secret| Rig::native(false, secret, None)), &[]);
}

// B12: the same results with a hash map in the kernel's place.
#[test]
fn with_a_hash_map_the_model_agrees() {
    assert_telling(
        &run(packets(100_000), EPISODE, seed() + 1_000_000, &mut |secret| Rig::native(true, secret, None)),
        &[],
    );
}

// The comparison itself is tested: a function that does one thing wrong is found out.
#[test]
fn planted_faults_are_found() {
    let faults = [
        Fault::PortChecksum,
        Fault::AnyInterface,
        Fault::Count,
        Fault::TimeToLive,
        Fault::NoWindow,
        Fault::AnyPolicy,
        Fault::NoGate,
    ];
    for fault in faults {
        let steps = Episode::steps(seed(), EPISODE);
        let secret = secret(seed());
        let found = replay(&steps, &mut Rig::native(false, secret, Some(fault)), secret);
        let found = found.expect_err(&format!("{fault:?} was not found in {EPISODE} packets"));
        println!("{fault:?}: packet {}: {}", found.packet, found.text.lines().next().unwrap_or(""));
    }
}

/// Runs something in network and mount namespaces of its own, with the interfaces of a history in them.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no memory is passed; only this thread is moved.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) }, 0, "unshare");
            let private = libc::MS_REC | libc::MS_PRIVATE;
            // SAFETY: the strings are constant and ended by zeros, and the other pointers may be null.
            let done =
                unsafe { libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()) };
            assert_eq!(done, 0, "mounts of its own");
            for pair in INTERFACES.as_chunks::<2>().0 {
                let [one, two] = pair.map(|ifindex| (format!("d{ifindex}"), ifindex.to_string()));
                let arguments =
                    ["link", "add", &one.0, "index", &one.1, "type", "veth", "peer", "name", &two.0, "index", &two.1];
                let status = std::process::Command::new("ip").args(arguments).status().unwrap();
                assert!(status.success(), "ip {arguments:?}");
            }
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The programs in the kernel agree with the model (A14, A17, B12): verdict, reason by counter, bytes, records.
fn in_the_kernel(index: IndexKind, seed: u64) {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: needs root");
        return;
    }
    let tally = apart(|| {
        let mut number = 0;
        // Long episodes, because each loads the programs, which takes the verifier seconds.
        run(packets(50_000), 5 * EPISODE, seed, &mut |secret| {
            number += 1;
            Rig::kernel(index, secret, &format!("{index:?}-{number}")).unwrap_or_else(|error| panic!("{error}"))
        })
    });
    assert_telling(&tally, &[Reason::Tagged]);
}

#[test]
fn the_kernel_program_agrees() {
    in_the_kernel(IndexKind::Lines, seed() + 2_000_000);
}

#[test]
fn the_kernel_program_with_a_hash_map_agrees() {
    in_the_kernel(IndexKind::KernelHash, seed() + 3_000_000);
}
