//! The real function with its tables in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowhop_flow::key::Address;
use flowhop_flow::parse::ETHERNET;
use flowhop_flow::record::{Adjacency, Config, Gate, NextHop, Port, PortKey, Tick, index_kind};
use flowhop_flow::rewrite::fix_in_place;
use flowhop_flow::{Arrival, Hit, Host, Key, Kind, Level, forward};
use flowhop_table::{AdoptError, Geometry, KernelHashSync, Regions, Table, lookup};
use flowhop_wire::Frame;
use flowhop_wire::checksum::Delta;

use crate::faults::{Case, Fault};
use crate::history::{PORTS, Packet, VLAN, locals, port_number};
use crate::judged::{CONNECTIONS, Judged, LEAST_LINES, Seen, settle};
use crate::reference::{Outcome, UsedPorts, packet};

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

impl Hash {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KernelHashSync for Hash {
    fn insert(&mut self, key: &Key, place: u32) -> Result<(), String> {
        self.lock().insert(*key, place);
        Ok(())
    }

    fn remove(&mut self, key: &Key) {
        self.lock().remove(key);
    }

    fn retain(&mut self, keep: &dyn Fn(&Key, u32) -> bool) {
        self.lock().retain(|key, place| keep(key, *place));
    }
}

/// The function compiled for this process.
pub struct Native {
    pub(crate) table: Table,
    geometry: Geometry,
    hash: Option<Hash>,
    locals: HashMap<Address, Option<UsedPorts>>,
    fault: Option<Fault>,
    level: Level,
}

/// The tables as the native function sees them in a driver, or on the socket buffer.
pub(crate) struct Tables<'a, const DRIVER: bool>(pub(crate) &'a Native);

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

impl Native {
    /// It, with our own index or a hash map, and with a fault if one is planted.
    #[must_use]
    pub fn new(level: Level, hashed: bool, secret: [u32; 10], fault: Option<Fault>) -> Self {
        let index = if hashed { index_kind::KERNEL_HASH } else { index_kind::LINES };
        let geometry = Geometry::for_connections(CONNECTIONS, index).growing_from(LEAST_LINES);
        let hash = hashed.then(Hash::default);
        let kernel = hash.clone().map(|hash| Box::new(hash) as Box<dyn KernelHashSync>);
        let table = Table::create(Regions::private(geometry), geometry, secret, kernel);
        settle(&table);
        let locals = locals().into_iter().map(|(ip, used)| (flowhop_flow::key::address(ip), used)).collect();
        Self { table, geometry, hash, locals, fault, level }
    }

    /// The entry with this key.
    pub(crate) fn find(&self, key: &Key, hash: u64) -> Option<Hit<'_>> {
        let table = &self.table;
        let (block, direction) = match &self.hash {
            None => lookup::find(table.regions(), table.config().span(), key, hash)?,
            Some(map) => {
                let place = *map.lock().get(key)?;
                let (block, direction) = lookup::block_of(place);
                let block = table.block(block)?;
                lookup::has_key(block, direction, key).then_some((block, direction))?
            }
        };
        Some(Hit { block, direction })
    }
}

impl Judged for Native {
    fn table(&self) -> &Table {
        &self.table
    }

    fn table_mut(&mut self) -> &mut Table {
        &mut self.table
    }

    fn adopt(&mut self) -> Result<(), AdoptError> {
        let kernel = self.hash.clone().map(|hash| Box::new(hash) as Box<dyn KernelHashSync>);
        self.table = Table::adopt(self.table.regions().clone(), self.geometry, kernel)?;
        Ok(())
    }

    fn level(&self) -> Level {
        self.level
    }

    fn run(&mut self, packet: &Packet, _expected: &Outcome, now: Tick) -> Result<Seen, String> {
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
            let case = Case { judged: self, packet, arrival, now };
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
}
