//! The maps. Their names and value layouts are the contract with the loader (`flowhop-io`, module `bpf`).
//!
//! What the daemon writes with plain stores is memory-mappable. `BUCKETS`, `BLOCKS` and `KERNEL_INDEX` are
//! declared with one entry and get their size from the loader.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, XskMap};
use flowhop_flow::Key;
use flowhop_flow::cookie::{ORIGINS as ORIGIN_PREFIXES, SERVICES as SERVICE_KEYS, Service, ServiceKey};
use flowhop_flow::key::Address;
use flowhop_flow::record::{
    self, Adjacency, Block, Bucket, Config, Gate, PORT_MAPS, Port, PortCounters, PortMap, PortSlot,
};
use flowhop_flow::shadow::Sample;

/// Settings of the whole.
#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// From interface index to port number.
#[map]
pub static PORT_SLOTS: Array<PortSlot> = Array::with_max_entries(record::PORT_SLOTS as u32, BPF_F_MMAPABLE);
/// Interfaces that policy names.
#[map]
pub static PORTS: Array<Port> = Array::with_max_entries(record::PORTS as u32, BPF_F_MMAPABLE);
/// Lines of the index.
#[map]
pub static BUCKETS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Connections.
#[map]
pub static BLOCKS: Array<Block> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Next hops.
#[map]
pub static ADJACENCIES: Array<Adjacency> = Array::with_max_entries(record::ADJACENCIES as u32, BPF_F_MMAPABLE);
/// Order between kernel and user space.
#[map]
pub static GATES: Array<Gate> = Array::with_max_entries(record::GATES as u32, BPF_F_MMAPABLE);
/// The second back end of the index: from key to `2 * block + direction`.
#[map]
pub static KERNEL_INDEX: HashMap<Key, u32> = HashMap::with_max_entries(1, 0);
/// The box's own addresses, with their flags (`record::local_flags`).
#[map]
pub static LOCALS: HashMap<Address, u32> = HashMap::with_max_entries(4096, 0);
/// Ports that translations use on own addresses.
#[map]
pub static PORT_BITS: Array<PortMap> = Array::with_max_entries(PORT_MAPS as u32, BPF_F_MMAPABLE);
/// What the programs on ports did with the packets of each port.
#[map]
pub static COUNTERS: PerCpuArray<PortCounters> = PerCpuArray::with_max_entries(record::PORTS as u32, 0);
/// What the program on the punt device sent, by the port it was sent to.
#[map]
pub static TAP_COUNTERS: PerCpuArray<PortCounters> = PerCpuArray::with_max_entries(record::PORTS as u32, 0);
/// What the programs in drivers did with the packets of each port.
#[map]
pub static DRIVER_COUNTERS: PerCpuArray<PortCounters> = PerCpuArray::with_max_entries(record::PORTS as u32, 0);
/// The daemon's AF_XDP sockets: where those of a device begin says `Port::driver`, the queue's number follows.
#[map]
pub static SOCKETS: XskMap = XskMap::with_max_entries(record::SOCKETS as u32, 0);
/// Published services whose SYNs may be answered with cookies.
#[map]
pub static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(SERVICE_KEYS as u32, 0);
/// Where sources may come in, for those answers (`cookie::origin`).
#[map]
pub static ORIGINS: LpmTrie<Address, u32> = LpmTrie::with_max_entries(ORIGIN_PREFIXES as u32, BPF_F_NO_PREALLOC);
/// The packet that is looked at, of each processor.
#[map]
pub static SAMPLE: PerCpuArray<Sample> = PerCpuArray::with_max_entries(1, 0);
/// Packets that were looked at; those for which there is no room are left out.
#[map]
pub static SAMPLES: RingBuf = RingBuf::with_byte_size(1 << 18, 0);
