//! What the forwarding function needs around it, from maps.

use core::cell::Cell;
use core::marker::PhantomData;

use aya_ebpf::maps::lpm_trie;
use flowhop_flow::cookie::{Service, ServiceKey, origin};
use flowhop_flow::key::Address;
use flowhop_flow::record::{
    Adjacency, Block, Bucket, Config, Gate, NextHop, PORT_PROBES, Port, PortKey, Steer, local_flags, port_flags,
};
use flowhop_flow::shadow::is_due;
use flowhop_flow::{Hit, Host, Key, Level, Packet, Parsed};
use flowhop_table::lookup::{self, Arrays, block_of, place_of};
use flowhop_wire::{icmp4, icmp6, protocol};

use crate::maps::{
    ADJACENCIES, BLOCKS, BUCKETS, GATES, KERNEL_INDEX, LOCALS, ORIGINS, PORT_BITS, PORT_SLOTS, PORTS, SERVICES,
};
use crate::shadow;
use crate::window::opaque;

/// A key of the prefixes, with its address at a place where the kernel takes stores of whole words.
#[repr(C, align(8))]
struct Prefix {
    room: u32,
    key: lpm_trie::Key<Address>,
}

/// How entries are found.
pub trait Index {
    /// The place of the entry with this key.
    fn find(config: &Config, key: &Key, hash: u64) -> Option<u32>;
}

/// Our own lines of tags.
pub struct Lines;

/// The maps, and the block that was looked at last.
struct Memory(Cell<u32>);

impl Arrays for Memory {
    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<&Bucket> {
        BUCKETS.get(number)
    }

    #[inline(always)]
    fn block(&self, number: u32) -> Option<&Block> {
        self.0.set(number);
        BLOCKS.get(number)
    }
}

impl Index for Lines {
    #[inline(always)]
    fn find(config: &Config, key: &Key, hash: u64) -> Option<u32> {
        let memory = Memory(Cell::new(0));
        let (_, direction) = lookup::find(&memory, config.span(), key, hash)?;
        Some(place_of(memory.0.get(), direction))
    }
}

/// A hash map of the kernel's.
pub struct KernelHash;

impl Index for KernelHash {
    #[inline(always)]
    fn find(_: &Config, key: &Key, _: u64) -> Option<u32> {
        // SAFETY: the value is one aligned word, written whole; an element that was given to another key
        // meanwhile names a block whose own key, compared below, differs.
        let place = *unsafe { KERNEL_INDEX.get(key) }?;
        let (block, direction) = block_of(place);
        lookup::has_key(BLOCKS.get(block)?, direction, key).then_some(place)
    }
}

/// The number and record of a port.
#[inline(always)]
pub fn port_of(key: PortKey) -> Option<(u8, &'static Port)> {
    for probe in 0..PORT_PROBES as u32 {
        if let Some(number) = PORT_SLOTS.get(key.slot(probe))?.port_of(key) {
            return PORTS.get(u32::from(number)).map(|port| (number, port));
        }
    }
    None
}

/// The tables at one level (in the driver or on the socket buffer), with one kind of index.
pub struct Tables<I, const DRIVER: bool> {
    /// Settings, looked up once per packet.
    pub config: &'static Config,
    /// The kind of index.
    pub index: PhantomData<I>,
}

impl<I: Index, const DRIVER: bool> Host for Tables<I, DRIVER> {
    const LEVEL: Level = if DRIVER { Level::Driver } else { Level::Skb };

    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        Some(self.config)
    }

    #[inline(always)]
    fn port(&self, key: PortKey) -> Option<(u8, &Port)> {
        port_of(key)
    }

    #[inline(always)]
    fn find(&self, key: &Key, hash: u64) -> Option<Hit<'_>> {
        // The block is looked up once more by a number whose origin is hidden: then it does not matter to the
        // verifier in which of the many places the entry was found, and it follows the rest of the program once.
        let (block, direction) = block_of(opaque(I::find(self.config, key, hash)? as usize) as u32);
        Some(Hit { block: BLOCKS.get(block)?, direction })
    }

    #[inline(always)]
    fn adjacency(&self, index: u16) -> Option<&Adjacency> {
        ADJACENCIES.get(u32::from(index))
    }

    #[inline(always)]
    fn gate(&self, number: u32) -> Option<&Gate> {
        GATES.get(number)
    }

    #[inline(always)]
    fn is_local(&self, destination: &Address, transport: Option<&Key>) -> bool {
        // SAFETY: the value is one aligned word, written whole; of an element that was given to another address
        // meanwhile at worst that address's flags are read, once.
        let Some(&flags) = (unsafe { LOCALS.get(destination) }) else {
            return false;
        };
        // What translations use of an address only the slow path can tell, unless a port says it is not used.
        flags & local_flags::TRANSLATED == 0 || transport.is_some_and(|key| is_untranslated(flags, key))
    }

    #[inline(always)]
    fn before<P: Packet>(
        &self,
        packet: &P,
        parsed: &Parsed,
        hit: &Hit<'_>,
        steer: Steer,
        port: u8,
        segment: u32,
    ) {
        let every = self.config.shadow.load();
        if every != 0 {
            if is_due(hit, every) {
                shadow::before(packet, parsed, hit, steer, port, segment);
            } else {
                shadow::forget();
            }
        }
    }

    #[inline(always)]
    fn after<P: Packet>(&self, packet: &P, hop: &NextHop) {
        if self.config.shadow.load() != 0 {
            shadow::after(packet, hop, DRIVER);
        }
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        // SAFETY: the value is read word by word; of an element that was given to another service meanwhile at worst one
        // SYN is answered as that one's would be.
        unsafe { SERVICES.get(key) }
    }

    #[inline(always)]
    fn origin(&self, source: &Address) -> u32 {
        let prefix = Prefix { room: 0, key: lpm_trie::Key::new(128, *source) };
        ORIGINS.get(&prefix.key).copied().unwrap_or(origin::ANYWHERE)
    }

    #[inline(always)]
    fn sends_back(&self, port: u8) -> bool {
        PORTS.get(u32::from(port)).is_some_and(|port| port.driver.load() & port_flags::SENDS_BACK != 0)
    }
}

/// Whether no translation uses the port of an own address that a packet is for.
#[inline(always)]
fn is_untranslated(flags: u32, key: &Key) -> bool {
    let (row, port) = match (key.protocol(), key.family()) {
        (protocol::TCP, _) => (0, key.destination_port()),
        (protocol::UDP, _) => (1, key.destination_port()),
        (protocol::ICMP, 4) | (protocol::ICMPV6, 6) => {
            // The second half of an echo's ports word is type and code; no mapping waits for requests.
            let kind = (key.destination_port() >> 8) as u8;
            if kind == icmp4::ECHO_REQUEST || kind == icmp6::ECHO_REQUEST {
                return flags & local_flags::ECHO == 0;
            }
            (2, key.source_port())
        }
        _ => return flags & local_flags::OTHERS == 0,
    };
    let Some(map) = PORT_BITS.get_ptr(flags & 0xffff) else {
        return false;
    };
    let word = opaque(row * 1024 + (port as usize >> 6));
    if word >= 3 * 1024 {
        return false;
    }
    // SAFETY: the map's value is three rows of 1024 words one behind the other, and the index is below that.
    let bits = unsafe { &*map.cast::<flowhop_flow::cell::Cell64>().add(word) };
    bits.load() >> (port & 63) & 1 == 0
}
