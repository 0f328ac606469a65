//! One history through the real function and through the model, compared after every packet.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::history::{
    ALIVE_FOR, NOT_IN_DRIVER, ORPHAN_GRACE, Opening, POLICY, PORTS, Packet, Step, VLAN, locals, neighbours,
    on_the_wire, port_mac, port_number,
};
use crate::reference::tcp::Half;
use crate::reference::{Neighbour, Outcome, Port, Tuple, World, packet};
use flowhop_flow::forward::gate_of;
use flowhop_flow::reason::Reason;
use flowhop_flow::record::{NextHop, Steer, config_flags};
use flowhop_flow::{Key, Kind, Level, Verdict, key, parse, tcp};
use flowhop_table::{AfterGrace, BlockIndex, Draft, DraftSide, InsertError, Inserted, Removal, key_of};

use crate::judged::{CONNECTIONS, Judged};

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

/// Keeps a heartbeat's age away from the limits: the kernel's clock runs on between setting it and the packet, for
/// seconds on a busy machine.
fn coarse(age: u32) -> u32 {
    for limit in [ALIVE_FOR, ORPHAN_GRACE] {
        if age.abs_diff(limit) < 2500 {
            return if age > limit { limit + 3000 } else { limit - 3000 };
        }
    }
    age
}

/// So many packets between the same addresses must not have the same identification.
const LATELY: usize = 500;

/// From so many connections on one may find no place in the index.
const NEARLY_FULL: u32 = CONNECTIONS / 8 * 7;

/// Where the two disagree.
#[derive(Debug)]
pub struct Disagreement {
    /// The step of the history.
    pub step: usize,
    /// Packets before it.
    pub packet: usize,
    /// What is, and what should be.
    pub text: String,
}

/// What a run did, for people and against histories that test nothing.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Packets that were judged.
    pub packets: usize,
    /// Of each reason.
    pub reasons: HashMap<Reason, usize>,
    /// Forwarded with another address or port.
    pub translated: usize,
    /// With a checksum that has two right forms.
    pub loose: usize,
    /// Of a TCP direction with a window beyond 65535 bytes.
    pub scaled: usize,
    /// Forwarded with other sequence, or acknowledgment, numbers.
    pub shifted: usize,
    /// With an identification that was chosen.
    pub identified: usize,
    /// Passed by a program in a driver to the path of the socket buffer.
    pub passed: usize,
    /// Forwarded with a VLAN tag on at least one side.
    pub tagged: usize,
    /// Connections that the table had no room for.
    pub refused: usize,
    /// Times that another process took the table over.
    pub adopted: usize,
}

struct Replay<'a> {
    judged: &'a mut dyn Judged,
    world: World,
    /// By the number in the history: number in the world, block in the table.
    names: Vec<Option<(usize, BlockIndex)>>,
    blocks: Vec<BlockIndex>,
    /// Those that fill the table, by number in the world.
    crowd: Vec<usize>,
    age: u32,
    /// The last identifications that were chosen for packets of a protocol between two addresses.
    identifications: HashMap<(u8, Vec<u8>), VecDeque<[u8; 2]>>,
    tally: Tally,
}

/// Runs a history through the model and through the real function.
///
/// # Errors
/// At the first step after which they disagree.
pub fn replay(steps: &[Step], judged: &mut dyn Judged, secret: [u32; 10]) -> Result<Tally, Disagreement> {
    let mut world = World {
        now: 1_000_000,
        heartbeat: 1_000_000,
        alive_for: ALIVE_FOR,
        orphan_grace: ORPHAN_GRACE,
        policy: POLICY,
        secret,
        locals: locals().into_iter().collect::<HashMap<IpAddr, _>>(),
        in_driver: judged.level() == Level::Driver,
        no_sockets: !judged.has_socket(),
        ..World::default()
    };
    for ifindex in PORTS {
        let driver = ifindex != NOT_IN_DRIVER;
        let port = Port { number: port_number(ifindex), mac: port_mac(ifindex), driver };
        world.ports.insert((ifindex, 0), port);
        if ifindex == PORTS[3] {
            world.ports.insert(VLAN, port);
        }
    }
    for (index, hop) in neighbours().into_iter().enumerate() {
        world.neighbours.insert(index as u16, Neighbour { hop, torn: false });
    }
    let mut replay = Replay {
        judged,
        world,
        names: Vec::new(),
        blocks: Vec::new(),
        crowd: Vec::new(),
        age: 0,
        identifications: HashMap::new(),
        tally: Tally::default(),
    };
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
        if let Some(now) = self.judged.clock() {
            self.world.now = now;
            self.world.heartbeat = now.wrapping_sub(coarse(self.age));
        }
        self.judged.table().config().heartbeat.store(self.world.heartbeat);
        match step {
            Step::Connect(connect) => {
                let (keys, steers, opening) = &**connect;
                let number = self.connect(keys, steers, opening.as_ref())?;
                self.names.push(number.map(|number| (number, self.blocks[number])));
            }
            Step::Crowd(crowd) => {
                for member in 0.. {
                    let Some(number) = self.connect(&crowd.keys(member), &crowd.steers, None)? else { break };
                    self.crowd.push(number);
                }
            }
            Step::Disperse => {
                for number in std::mem::take(&mut self.crowd) {
                    self.remove(number);
                }
            }
            Step::Adopt => {
                self.judged.adopt().map_err(|error| error.to_string())?;
                self.tally.adopted += 1;
                self.compare_all()?;
            }
            Step::SecondSyn(name, opening) => {
                let Some((number, block)) = self.named(*name) else { return Ok(()) };
                let half = &mut self.world.connections[number].directions[1].tcp;
                // The slow path adds a SYN only where there is none.
                if !half.syn && !half.rst {
                    *half = Half::opening(&opening.segment, opening.scale, opening.sack);
                    let (segment, offer) = segment_of(opening);
                    tcp::open_too(&self.judged.table().block(block).unwrap().tcp[1], &segment, offer);
                }
            }
            Step::Shift(name, shift) => {
                let Some((number, block)) = self.named(*name) else { return Ok(()) };
                let directions = &mut self.world.connections[number].directions;
                // The slow path learns the distance from the answer to the SYN.
                if directions.iter().all(|direction| direction.tcp.syn) {
                    let [forward, reverse] = &self.judged.table().block(block).unwrap().tcp;
                    forward.set_constant_shift(0);
                    reverse.set_constant_shift(*shift);
                    directions[0].tcp.shift = Some(0);
                    directions[1].tcp.shift = Some(*shift);
                }
            }
            Step::Remove(name) => {
                let Some((number, _)) = self.named(*name) else { return Ok(()) };
                self.names[*name] = None;
                self.remove(number);
            }
            Step::Steer(name, direction, steer) => self.steer(*name, *direction, *steer),
            Step::Pend(name, direction) => {
                let Some((number, block)) = self.named(*name) else { return Ok(()) };
                let steer = self.world.connections[number].directions[*direction].steer;
                let gate = self.gate(block, *direction);
                let (_, epoch) = self.judged.table().regions().gates[gate as usize].read();
                if self.world.gates.get(&gate).copied().unwrap_or_default().epoch != epoch {
                    return Err(format!("epoch of gate {gate} is {epoch}"));
                }
                let epoch = (epoch % 16) as u8;
                self.steer(*name, *direction, Steer { pending: true, epoch, ..steer });
            }
            Step::Raise(name, direction) => {
                let Some((_, block)) = self.named(*name) else { return Ok(()) };
                let number = self.gate(block, *direction);
                let gate = &self.judged.table().regions().gates[number as usize];
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
                self.judged.table().config().policy_generation.store(u32::from(*generation) | 0xabcd << 16);
            }
            Step::Advance(ticks) => {
                self.age = self.age.saturating_add(*ticks).min(ALIVE_FOR - 1);
                if self.judged.clock().is_none() {
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
                self.judged.table().config().flags.store(if *judge { config_flags::JUDGE_LOCAL } else { 0 });
            }
            Step::Packet(packet) => return self.packet(packet),
        }
        Ok(())
    }

    /// Makes a connection in both, and tells its number in the world. `None` where one of its keys is taken, or where both
    /// have no room.
    fn connect(
        &mut self,
        keys: &[Tuple; 2],
        steers: &[Steer; 2],
        opening: Option<&Opening>,
    ) -> Result<Option<usize>, String> {
        let side = |n: usize| DraftSide { key: key_of_tuple(&keys[n]), steer: steers[n], service: 0 };
        let draft = Draft { sides: [side(0), side(1)], rules: 0, flags: 0, parent: 0 };
        let inserted = self.judged.table_mut().insert(&draft, self.world.now, |block| {
            if let Some(opening) = opening {
                let (segment, offer) = segment_of(opening);
                tcp::open(&block.tcp[0], &block.tcp[1], &segment, offer);
            }
        });
        let taken = keys.iter().any(|key| self.world.keys.contains_key(key));
        match inserted {
            Ok(Inserted::Exists(_)) if taken => Ok(None),
            // Two entries of the index for each connection: the last of them may not find a place.
            Err(InsertError::NoBlock) if !taken && self.live() == CONNECTIONS => Ok(self.refuse()),
            Err(InsertError::NoPlace) if !taken && self.live() >= NEARLY_FULL => Ok(self.refuse()),
            Ok(Inserted::New(block)) if !taken && self.live() < CONNECTIONS => {
                let first = opening.map_or_else(Half::default, |o| Half::opening(&o.segment, o.scale, o.sack));
                self.blocks.push(block);
                Ok(self.world.connect(*keys, *steers, [first, Half::default()]))
            }
            other => Err(format!("insertion beside {} connections: {other:?}", self.live())),
        }
    }

    fn refuse(&mut self) -> Option<usize> {
        self.tally.refused += 1;
        None
    }

    fn remove(&mut self, number: usize) {
        self.world.remove(number);
        let table = self.judged.table_mut();
        assert!(table.remove(self.blocks[number], Removal::Final));
        let begun = table.begin_grace();
        assert!(matches!(table.after_grace(begun), Some(AfterGrace::Freed(_))));
    }

    /// Connections in the world.
    fn live(&self) -> u32 {
        // Both directions have a key.
        self.world.keys.len() as u32 / 2
    }

    /// Takes the identification that was chosen, if one was to be, unless another packet with these addresses and of this
    /// protocol has had it lately.
    fn accept_identification(&mut self, expected: &mut Outcome, seen: &[u8]) -> Result<(), String> {
        let Some(at) = expected.identified else { return Ok(()) };
        let (Some(seen), Some(header)) = (seen.get(at..at + 20), expected.bytes.get_mut(at..at + 20)) else {
            return Ok(());
        };
        header[4..6].copy_from_slice(&seen[4..6]);
        header[10..12].fill(0);
        let checksum = !(packet::sum(header) as u16);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        self.tally.identified += 1;
        let ends = (header[9], header[12..20].to_vec());
        let before = self.identifications.entry(ends).or_default();
        if before.contains(&[seen[4], seen[5]]) {
            return Err(format!("identification {:02x?} again", &seen[4..6]));
        }
        before.push_back([seen[4], seen[5]]);
        if before.len() > LATELY {
            before.pop_front();
        }
        Ok(())
    }

    fn named(&self, name: usize) -> Option<(usize, BlockIndex)> {
        self.names.get(name).copied().flatten()
    }

    fn steer(&mut self, name: usize, direction: usize, steer: Steer) {
        if let Some((number, block)) = self.named(name) {
            self.world.connections[number].directions[direction].steer = steer;
            self.judged.table().block(block).unwrap().hot[direction].steer.store(steer.pack());
        }
    }

    fn neighbour(&mut self, index: u16, hop: &NextHop, torn: bool) {
        self.world.neighbours.insert(index, Neighbour { hop: *hop, torn });
        let adjacency = &self.judged.table().regions().adjacencies[usize::from(index)];
        adjacency.write(hop);
        if torn {
            adjacency.sequence.add(1);
        }
    }

    fn gate(&self, block: BlockIndex, direction: usize) -> u32 {
        let key = key_of(self.judged.table().block(block).unwrap(), direction);
        gate_of(self.judged.table().hash(&key))
    }

    fn packet(&mut self, packet: &Packet) -> Result<(), String> {
        let in_kernel = self.judged.clock().is_some();
        let in_driver = self.judged.level() == Level::Driver;
        let on_the_wire = in_driver.then(|| on_the_wire(packet));
        let packet = on_the_wire.as_ref().unwrap_or(packet);
        // Drivers know nothing of checksums, and of tags only those in the frame.
        if (in_kernel || in_driver) && (packet.arrival.partial || packet.arrival.tagged) {
            return Ok(());
        }
        // A test run on a socket buffer has no offloads, wants the IP header that the Ethernet header announces, and
        // takes one page; one in a driver wants an Ethernet header.
        let fits = match (in_driver, packet.bytes.get(12..14)) {
            (true, _) => 14..10_000,
            (false, Some([0x86, 0xdd])) => 54..3400,
            (false, _) => 34..3400,
        };
        if in_kernel && !fits.contains(&packet.bytes.len()) {
            return Ok(());
        }
        let now = self.world.now;
        let mut expected = self.world.judge(&packet.bytes, &packet.arrival);
        let seen = self.judged.run(packet, &expected, now)?;
        self.tally.packets += 1;
        *self.tally.reasons.entry(expected.reason).or_default() += 1;
        self.tally.loose += usize::from(expected.loose.is_some());
        if let Some(at) = expected.loose
            && seen.bytes.get(at..at + 2) == Some(&[0xff, 0xff])
            && expected.bytes[at..at + 2] == [0, 0]
        {
            expected.bytes[at..at + 2].fill(0xff);
        }
        self.accept_identification(&mut expected, &seen.bytes)?;
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
            self.tally.shifted += usize::from(entry.tcp.shift.is_some());
            if in_kernel && expected.kind == Kind::Forward {
                // The program's clock is its own, between ours before and ours after but for a jiffy, by which it goes.
                const JIFFY: u32 = 10;
                let stamp = self.judged.table().block(self.blocks[number]).unwrap().hot[direction].last_seen.load();
                if stamp.wrapping_add(JIFFY).wrapping_sub(now)
                    > self.judged.clock().unwrap_or(now).wrapping_sub(now) + 2 * JIFFY
                {
                    return Err(format!("last seen at {stamp}, now is {now}"));
                }
                entry.last_seen = stamp;
            }
            self.compare(number)?;
        }
        self.tally.passed += usize::from(expected.kind == Kind::Pass);
        let is_tagged = |bytes: &[u8]| bytes.get(12..14) == Some(&[0x81, 0]);
        let tagged = expected.kind == Kind::Forward && (is_tagged(&packet.bytes) || is_tagged(&seen.bytes));
        self.tally.tagged += usize::from(tagged);
        // What is passed on leaves the gate as it was.
        expected.door.map_or(Ok(()), |door| self.compare_gate(door))
    }

    fn compare_gate(&self, number: u32) -> Result<(), String> {
        let (handed, epoch) = self.judged.table().regions().gates[number as usize].read();
        let expected = self.world.gates.get(&number).copied().unwrap_or_default();
        if (handed, epoch) == (expected.handed, expected.epoch) {
            return Ok(());
        }
        Err(format!("gate {number}: {handed} handed, epoch {epoch}, should be {expected:?}"))
    }

    fn compare(&self, number: usize) -> Result<(), String> {
        let block = self.judged.table().block(self.blocks[number]).unwrap();
        for direction in 0..2 {
            let expected = &self.world.connections[number].directions[direction];
            let hot = &block.hot[direction];
            let tcp = &block.tcp[direction];
            let (packets, bytes) = hot.traffic.read();
            let is = (
                (packets, bytes, hot.last_seen.load()),
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
        for (number, connection) in self.world.connections.iter().enumerate() {
            if !connection.published {
                continue;
            }
            self.compare(number)?;
            let block = self.judged.table().block(self.blocks[number]).unwrap();
            for (direction, expected) in connection.directions.iter().enumerate() {
                if key_of(block, direction) != key_of_tuple(&expected.key) {
                    return Err(format!("connection {number} has another key"));
                }
            }
        }
        let (live, expected) = (self.judged.table().live(), self.live());
        if live != expected {
            return Err(format!("{live} connections, should be {expected}"));
        }
        self.world.gates.keys().try_for_each(|number| self.compare_gate(*number))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (n, byte) in bytes.iter().take(120).enumerate() {
        let _ = write!(text, "{}{byte:02x}", if n % 2 == 0 { " " } else { "" });
    }
    text
}
