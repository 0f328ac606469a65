//! The real function with its tables, natively or in the kernel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use flowhop_flow::cell::Cell64;
use flowhop_flow::key::{self, Address};
use flowhop_flow::parse::ETHERNET;
use flowhop_flow::reason::Reason;
use flowhop_flow::record::{Adjacency, Config, Gate, NextHop, Port, PortKey, index_kind, local_flags};
use flowhop_flow::rewrite::fix_in_place;
use flowhop_flow::{Arrival, Hit, Host, Key, Kind, Level, Verdict, forward};
use flowhop_io::bpf::{self, Context, IndexKind, Program};
use flowhop_io::xsk::METADATA;
use flowhop_table::{Geometry, KernelHashSync, Regions, Table, lookup};
use flowhop_tests::history::{
    ALIVE_FOR, NO_PORT, NOT_IN_DRIVER, ORPHAN_GRACE, POLICY, PORTS, Packet, VLAN, locals, neighbours, port_mac,
    port_number,
};
use flowhop_tests::programs::{self, driver_word};
use flowhop_tests::reference::{Outcome, UsedPorts, packet};
use flowhop_wire::Frame;
use flowhop_wire::checksum::Delta;

use crate::faults::{Case, Fault};

const CONNECTIONS: u32 = 256;

/// A packet that the native function judges.
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    partial: bool,
    fault: Option<Fault>,
}

impl Buffer {
    /// One with whole checksums.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), partial: false, fault: None }
    }
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

    fn shorten(&mut self, length: usize) -> Option<()> {
        self.bytes.truncate(length);
        Some(())
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

/// A program in the kernel, and what its counters should say.
struct Programs {
    programs: programs::Programs,
    socket: bool,
    expected: HashMap<(u8, Reason), bpf::Tally>,
}

/// The real function with its tables.
pub(crate) struct Rig {
    pub(crate) table: Table,
    hash: Option<Hash>,
    locals: HashMap<Address, Option<UsedPorts>>,
    fault: Option<Fault>,
    programs: Option<Programs>,
    level: Level,
}

/// The tables as the native function sees them in a driver, or on the socket buffer.
pub(crate) struct Tables<'a, const DRIVER: bool>(pub(crate) &'a Rig);

impl<const DRIVER: bool> Host for Tables<'_, DRIVER> {
    const LEVEL: Level = if DRIVER { Level::Driver } else { Level::Skb };

    fn config(&self) -> Option<&Config> {
        Some(self.0.table.config())
    }

    fn port(&self, key: PortKey) -> Option<(u8, &Port)> {
        let ifindex = if (key.ifindex, key.vid) == VLAN { PORTS[3] } else { PortKey::of(key.ifindex).ifindex };
        let known = PORTS.contains(&ifindex) && (key.vid == 0 || ifindex == PORTS[3]);
        let number = known.then(|| port_number(ifindex))?;
        Some((number, &self.0.table.regions().ports[usize::from(number)]))
    }

    fn find(&self, key: &Key, hash: u64) -> Option<Hit<'_>> {
        self.0.find(key, hash)
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
                _ => true,
            },
        }
    }
}

/// What the real function made of a packet.
pub(crate) struct Seen {
    pub(crate) verdict: Verdict,
    pub(crate) bytes: Vec<u8>,
}

impl Rig {
    /// The function compiled for this process.
    pub(crate) fn native(level: Level, hashed: bool, secret: [u32; 10], fault: Option<Fault>) -> Self {
        let index = if hashed { index_kind::KERNEL_HASH } else { index_kind::LINES };
        let geometry = Geometry::for_connections(CONNECTIONS, index);
        let hash = hashed.then(Hash::default);
        let kernel = hash.clone().map(|hash| Box::new(hash) as Box<dyn KernelHashSync>);
        let table = Table::create(Regions::private(geometry), geometry, secret, kernel);
        Self { table, hash, locals: HashMap::new(), fault, programs: None, level }.settle()
    }

    /// The program of a level in the kernel. With `socket`, the one in the driver has a socket to hand down to.
    pub(crate) fn kernel(
        level: Level,
        index: IndexKind,
        socket: bool,
        secret: [u32; 10],
        name: &str,
    ) -> Result<Self, bpf::KernelError> {
        let geometry = programs::Programs::geometry(CONNECTIONS, index);
        let mut programs = programs::Programs::load(level, index, geometry, name)?;
        let table = programs.table(geometry, secret);
        keys().for_each(|(key, ifindex)| programs.name_port(key, port_number(ifindex)));
        for (number, (address, used)) in locals().into_iter().enumerate() {
            let flags = if used.is_some() { local_flags::TRANSLATED | number as u32 } else { 0 };
            let mut kernel = programs.kernel();
            kernel.insert_local(&key::address(address), flags).unwrap();
            for (row, port) in used.into_iter().flatten() {
                let word: &Cell64 = &kernel.shared().port_bits[number].0[usize::from(row)][usize::from(port) / 64];
                word.store(word.load() | 1 << (port % 64));
            }
        }
        PORTS.into_iter().filter(|_| socket).for_each(|ifindex| programs.bind(ifindex));
        table.config().punt_ifindex.store(NO_PORT);
        // The program is loaded now, not while the first heartbeat grows old.
        programs.run(&[0; 64], Context { ifindex: NO_PORT, mark: 0, gso_size: 0 })?;
        let programs = Programs { programs, socket, expected: HashMap::new() };
        Ok(Self { table, hash: None, locals: HashMap::new(), fault: None, programs: Some(programs), level }.settle())
    }

    /// Settings that an episode starts with.
    fn settle(mut self) -> Self {
        let config = self.table.config();
        config.policy_generation.store(u32::from(POLICY));
        config.alive_for.store(ALIVE_FOR);
        config.orphan_grace.store(ORPHAN_GRACE);
        for ifindex in PORTS {
            let port = &self.table.regions().ports[usize::from(port_number(ifindex))];
            port.ifindex.store(ifindex);
            port.set_mac(port_mac(ifindex));
            // Frames of a VLAN come through the device below, and its queues are what has sockets.
            let device = if ifindex == PORTS[3] { VLAN.0 } else { ifindex };
            port.driver.store(driver_word(ifindex != NOT_IN_DRIVER, device));
        }
        for (index, hop) in neighbours().iter().enumerate() {
            self.table.regions().adjacencies[index].write(hop);
        }
        self.locals = locals().into_iter().map(|(ip, used)| (key::address(ip), used)).collect();
        self
    }

    /// The entry with this key.
    pub(crate) fn find(&self, key: &Key, hash: u64) -> Option<Hit<'_>> {
        let table = &self.table;
        let (block, direction) = match &self.hash {
            None => lookup::find(table.regions(), table.config().buckets.load(), key, hash)?,
            Some(map) => {
                let place = *map.0.lock().unwrap().get(key)?;
                let (block, direction) = (table.block(place >> 1)?, (place & 1) as usize);
                lookup::has_key(block, direction, key).then_some((block, direction))?
            }
        };
        Some(Hit { block, direction })
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    pub(crate) fn is_in_kernel(&self) -> bool {
        self.programs.is_some()
    }

    /// Whether hand-downs from a driver have somebody to go to.
    pub(crate) fn has_socket(&self) -> bool {
        self.programs.as_ref().is_none_or(|programs| programs.socket)
    }

    pub(crate) fn run(&mut self, packet: &Packet, expected: &Outcome, now: u32) -> Result<Seen, String> {
        if self.programs.is_some() {
            return self.run_program(packet, expected);
        }
        let in_driver = self.level == Level::Driver;
        let tag = packet::untag(&packet.bytes).1.filter(|_| in_driver);
        let arrival = Arrival {
            port: PortKey { ifindex: packet.arrival.ifindex, vid: tag.unwrap_or(0) % 0x1000 },
            network: if tag.is_some() { ETHERNET + 4 } else { ETHERNET },
            tagged: packet.arrival.tagged,
            segment: packet.arrival.segment,
        };
        let mut buffer = Buffer { bytes: packet.bytes.clone(), partial: packet.arrival.partial, fault: self.fault };
        let mut verdict = if in_driver {
            forward(&Tables::<true>(self), &mut buffer, &arrival, now)
        } else {
            forward(&Tables::<false>(self), &mut buffer, &arrival, now)
        };
        if let Some(fault) = self.fault {
            let case = Case { rig: self, packet, arrival, now };
            if in_driver {
                case.spoil::<true>(fault, &mut buffer, &mut verdict);
            } else {
                case.spoil::<false>(fault, &mut buffer, &mut verdict);
            }
        }
        let mut bytes = buffer.bytes;
        if in_driver && verdict.kind == Kind::Forward {
            // The shell's part; the program in the kernel does it by itself.
            bytes = packet::retag(&packet::untag(&bytes).0, tag, verdict.hop.vid);
        }
        // Of the next hop it is the output that has to be the same; what is sent shows the rest.
        let ifindex = if in_driver { verdict.hop.lower } else { verdict.hop.ifindex };
        verdict.hop = NextHop { ifindex, ..NextHop::NONE };
        Ok(Seen { verdict, bytes })
    }

    fn run_program(&mut self, packet: &Packet, expected: &Outcome) -> Result<Seen, String> {
        let Some(programs) = &mut self.programs else { return Err(String::from("no kernel")) };
        let context = Context { ifindex: packet.arrival.ifindex, mark: 0, gso_size: packet.arrival.segment };
        let run = programs.programs.run(&packet.bytes, context).map_err(|error| format!("run: {error}"))?;
        let port = expected.port;
        let moved = programs.moved(port)?;
        let tag = if self.level == Level::Driver { packet::untag(&packet.bytes).1 } else { None };
        let length = packet.bytes.len() as u64 - if tag.is_some() { 4 } else { 0 };
        // The reason is the one whose counter moved.
        let reason = match moved[..] {
            [] if self.level == Level::Driver && expected.kind == Kind::Pass => expected.reason,
            [] if port == 0 => Reason::NoInterface,
            [(reason, 1, bytes)] if bytes == length => reason,
            _ => return Err(format!("counters moved: {moved:?}, action {}", run.action)),
        };
        let mut bytes = run.frame;
        let (mut gate, mut ifindex) = (0, 0);
        let kind = match (self.level, run.action, reason.fast_kind()) {
            (Level::Skb, -1, Kind::Stack) => Kind::Stack,
            (Level::Skb, 2, Kind::Drop) | (Level::Driver, 1, Kind::Drop) => Kind::Drop,
            (Level::Driver, 2, _) if moved.is_empty() => Kind::Pass,
            (Level::Skb, 7, Kind::Forward) | (Level::Driver, 4, Kind::Forward) => {
                ifindex = expected.ifindex;
                Kind::Forward
            }
            (Level::Skb, 7, Kind::HandDown) | (Level::Driver, 4, Kind::HandDown) => {
                let [a, b, from, why, high, low] = *bytes.first_chunk::<6>().unwrap();
                if [a, b, from, why] != [0x02, 0x46, port, reason.number()] {
                    return Err(format!("metadata {:02x?} for {reason:?}", &bytes[..6]));
                }
                if self.level == Level::Driver {
                    // In front of the frame.
                    bytes.drain(..METADATA);
                } else {
                    bytes[..6].copy_from_slice(&packet.bytes[..6]);
                }
                gate = u32::from(high) << 8 | u32::from(low);
                Kind::HandDown
            }
            other => return Err(format!("action and reason {other:?} {reason:?}")),
        };
        let hop = NextHop { ifindex, ..NextHop::NONE };
        Ok(Seen { verdict: Verdict { kind, reason, port, hop, gate }, bytes })
    }
}

impl Programs {
    /// The counters of a port that moved since they were looked at last: reason, packets, bytes.
    fn moved(&mut self, port: u8) -> Result<Vec<(Reason, u64, u64)>, String> {
        let kernel = self.programs.kernel();
        let in_driver = matches!(self.programs.program(), Program::Driver | Program::DriverHash);
        let tallies = if in_driver { kernel.driver_counters(port) } else { kernel.counters(port) };
        let mut moved = Vec::new();
        for (reason, tally) in tallies.map_err(|error| error.to_string())?.moved() {
            let before = self.expected.entry((port, reason)).or_default();
            if tally != *before {
                moved.push((reason, tally.packets - before.packets, tally.bytes - before.bytes));
                *before = tally;
            }
        }
        Ok(moved)
    }
}

/// Every key of every port, with the port's own index.
fn keys() -> impl Iterator<Item = (PortKey, u32)> {
    let own = PORTS.into_iter().map(|ifindex| (PortKey::of(ifindex), ifindex));
    own.chain([(PortKey { ifindex: VLAN.0, vid: VLAN.1 }, PORTS[3])])
}
