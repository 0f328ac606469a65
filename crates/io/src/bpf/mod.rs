//! The kernel programs: loading, attaching, sharing memory with them, taking them down.
//!
//! # What outlives the daemon
//! Maps and links are pinned in a bpffs at `<state>/bpf`. A killed daemon leaves the programs attached and the
//! flows in place; the next one adopts the maps if they were made by the same layout and geometry, and swaps
//! each interface's program in one step. [`Kernel::take_down`] removes everything, with or without a daemon.
//!
//! # What it does not do
//! It decides nothing and fills no table: [`Kernel::load`] makes empty tables with a fresh secret, and what
//! is written there is the business of who owns the tables.

mod attach;
mod cookies;
mod error;
mod jiffies;
mod pins;
mod run;
mod tables;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf, XskMap};
use aya::{Ebpf, EbpfLoader};
use flowhop_flow::key::Address;
use flowhop_flow::reason::{REASON_SLOTS, Reason};
use flowhop_flow::record::{
    ADJACENCIES, Adjacency, Block, Bucket, Config, GATES, Gate, LAYOUT_VERSION, MAGIC, MAX_BLOCKS, PORT_MAPS,
    PORT_SLOTS, PORTS, Port, PortMap, PortSlot, Span, index_kind,
};
use flowhop_flow::shadow::Sample;
use flowhop_flow::{Key, record};
use zerocopy::FromBytes;

pub use attach::Attachment;
pub use cookies::ServiceValue;
pub use error::KernelError;
pub(crate) use run::load_program;
pub use run::{Context, Program, TestRun};

use crate::map::{MappedArray, Record};
use crate::tap;
use pins::{Hook, Pins};

/// The compiled programs; see `cargo xtask bpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/flowhop.o"));

/// The compiled programs.
pub(crate) const fn object() -> &'static [u8] {
    OBJECT
}

/// All maps by name; `CONFIG`, by which the others are judged, is pinned first and removed last.
const MAPS: [&str; 18] = [
    "SAMPLES",
    "SAMPLE",
    "ORIGINS",
    "SERVICES",
    "SOCKETS",
    "DRIVER_COUNTERS",
    "TAP_COUNTERS",
    "COUNTERS",
    "PORT_BITS",
    "LOCALS",
    "KERNEL_INDEX",
    "GATES",
    "ADJACENCIES",
    "BLOCKS",
    "BUCKETS",
    "PORTS",
    "PORT_SLOTS",
    "CONFIG",
];

/// How entries are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// Our own lines of tags, in mapped memory.
    Lines,
    /// A hash map of the kernel's: a system call for each insertion, slower lookups, nobody else's code.
    KernelHash,
}

/// Size of the tables. It is fixed when they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Lines that there is memory for in the index, all its levels together: twelve entries each.
    pub buckets: u32,
    /// Connections.
    pub blocks: u32,
    /// Kind of index.
    pub index: IndexKind,
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.index {
            IndexKind::Lines => "lines",
            IndexKind::KernelHash => "kernel hash",
        };
        write!(f, "{} connections, index of {} lines ({kind})", self.blocks, self.buckets)
    }
}

impl Geometry {
    fn check(self) -> Result<Self, KernelError> {
        if self.buckets == 0 || self.blocks == 0 || self.blocks > MAX_BLOCKS {
            return Err(KernelError::BadGeometry(self));
        }
        Ok(self)
    }

    /// Values that a map needs for this geometry, where that is not what the object says.
    fn entries(self) -> [(&'static str, u32); 3] {
        let hashed = if self.index == IndexKind::KernelHash { self.blocks.saturating_mul(2) } else { 1 };
        [("BUCKETS", self.buckets), ("BLOCKS", self.blocks), ("KERNEL_INDEX", hashed)]
    }

    fn of(config: &Config) -> Self {
        let index =
            if config.index.load() == index_kind::KERNEL_HASH { IndexKind::KernelHash } else { IndexKind::Lines };
        Self { buckets: config.buckets.load(), blocks: config.blocks.load(), index }
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// What one path did with the packets of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tallies([Tally; REASON_SLOTS]);

impl Tallies {
    /// What it did for a reason.
    #[must_use]
    pub fn of(&self, reason: Reason) -> Tally {
        self.0[usize::from(reason.number())]
    }

    /// All reasons that moved a counter.
    pub fn moved(&self) -> impl Iterator<Item = (Reason, Tally)> + '_ {
        Reason::ALL.iter().map(|reason| (*reason, self.of(*reason))).filter(|(_, tally)| tally.packets != 0)
    }
}

/// The memory that the programs share with this process.
pub struct Shared {
    /// One record.
    pub config: MappedArray<Config>,
    /// From interface index to port; see [`Kernel::attach`].
    pub port_slots: MappedArray<PortSlot>,
    /// Interfaces.
    pub ports: MappedArray<Port>,
    /// Lines of the index.
    pub buckets: MappedArray<Bucket>,
    /// Connections.
    pub blocks: MappedArray<Block>,
    /// Next hops.
    pub adjacencies: MappedArray<Adjacency>,
    /// Gates.
    pub gates: MappedArray<Gate>,
    /// Ports that translations use on own addresses.
    pub port_bits: MappedArray<PortMap>,
}

impl Shared {
    /// The same tables in memory of this process alone, for work without kernel programs.
    ///
    /// # Errors
    /// When there is not that much memory, or the geometry is out of bounds.
    pub fn anonymous(geometry: Geometry) -> Result<Self, KernelError> {
        let geometry = geometry.check()?;
        fn array<T: Record>(name: &'static str, count: usize) -> Result<MappedArray<T>, KernelError> {
            MappedArray::anonymous(count).map_err(|error| KernelError::Mmap { name, error })
        }
        let shared = Self {
            config: array("CONFIG", 1)?,
            port_slots: array("PORT_SLOTS", PORT_SLOTS)?,
            ports: array("PORTS", PORTS)?,
            buckets: array("BUCKETS", geometry.buckets as usize)?,
            blocks: array("BLOCKS", geometry.blocks as usize)?,
            adjacencies: array("ADJACENCIES", ADJACENCIES)?,
            gates: array("GATES", GATES)?,
            port_bits: array("PORT_BITS", PORT_MAPS)?,
        };
        initialise(&shared.config[0], geometry)?;
        Ok(shared)
    }

    fn of(maps: &mut Ebpf, geometry: Geometry) -> Result<Self, KernelError> {
        Ok(Self {
            config: mapped(maps, "CONFIG", 1)?,
            port_slots: mapped(maps, "PORT_SLOTS", PORT_SLOTS)?,
            ports: mapped(maps, "PORTS", PORTS)?,
            buckets: mapped(maps, "BUCKETS", geometry.buckets as usize)?,
            blocks: mapped(maps, "BLOCKS", geometry.blocks as usize)?,
            adjacencies: mapped(maps, "ADJACENCIES", ADJACENCIES)?,
            gates: mapped(maps, "GATES", GATES)?,
            port_bits: mapped(maps, "PORT_BITS", PORT_MAPS)?,
        })
    }
}

/// The loaded programs and their maps.
pub struct Kernel {
    ebpf: Ebpf,
    pins: Pins,
    geometry: Geometry,
    adopted: bool,
    shared: Arc<Shared>,
    locals: HashMap<MapData, Address, u32>,
    kernel_index: HashMap<MapData, [u32; 10], u32>,
    services: HashMap<MapData, [u32; 5], [u64; 5]>,
    origins: LpmTrie<MapData, Address, u32>,
    sockets: XskMap<MapData>,
    samples: RingBuf<MapData>,
    driver_counters: PerCpuArray<MapData, [u64; 2 * REASON_SLOTS]>,
    counters: PerCpuArray<MapData, [u64; 2 * REASON_SLOTS]>,
    tap_counters: PerCpuArray<MapData, [u64; 2 * REASON_SLOTS]>,
}

impl Kernel {
    /// Loads the programs; makes the tables, or adopts those that are pinned below the state directory.
    ///
    /// No program is attached by this. Interfaces that still have an earlier daemon's program keep it until
    /// [`attach`](Self::attach) or [`detach`](Self::detach).
    ///
    /// # Errors
    /// What is missing on this system, or why what is pinned cannot be adopted; then nothing was changed.
    pub fn load(state: &Path, geometry: Geometry) -> Result<Self, KernelError> {
        let geometry = geometry.check()?;
        let mut pins = Pins::of(state);
        pins.mount()?;
        let adopted = match inspect(&pins, geometry)? {
            Pinned::Whole => true,
            Pinned::Nothing => false,
            // A daemon was killed while it made the tables: nothing uses them.
            Pinned::Unfinished => {
                pins.clear(&MAPS)?;
                false
            }
        };
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            loader.map_pin_path(name, pins.map(name));
        }
        for (name, entries) in geometry.entries() {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader.load(OBJECT).map_err(KernelError::of_load)?;
        // The others when an interface needs them: the verifier takes its time for each. What drivers run already they are
        // to run on without a pause once this process has shown itself in the table.
        let in_drivers = adopted && !pins.links(Hook::Driver)?.is_empty();
        let programs = [Some(Program::ingress(geometry.index)), Some(Program::Tap)];
        let driver = in_drivers.then_some(Program::driver(geometry.index));
        for program in programs.into_iter().chain([driver]).flatten() {
            load_program(&mut ebpf, program)?;
        }
        let shared = Shared::of(&mut ebpf, geometry)?;
        if !adopted {
            initialise(&shared.config[0], geometry)?;
        }
        jiffies::set_clock(&mut ebpf, &shared.config[0])?;
        Ok(Self {
            locals: typed(&mut ebpf, "LOCALS")?,
            kernel_index: typed(&mut ebpf, "KERNEL_INDEX")?,
            services: typed(&mut ebpf, "SERVICES")?,
            origins: typed(&mut ebpf, "ORIGINS")?,
            sockets: typed(&mut ebpf, "SOCKETS")?,
            samples: typed(&mut ebpf, "SAMPLES")?,
            driver_counters: typed(&mut ebpf, "DRIVER_COUNTERS")?,
            counters: typed(&mut ebpf, "COUNTERS")?,
            tap_counters: typed(&mut ebpf, "TAP_COUNTERS")?,
            ebpf,
            pins,
            geometry,
            adopted,
            shared: Arc::new(shared),
        })
    }

    /// Whether the tables are an earlier daemon's, with its flows.
    #[must_use]
    pub const fn adopted(&self) -> bool {
        self.adopted
    }

    /// Whether it is known that pins made by this process outlive it.
    #[must_use]
    pub fn pins_last(&self) -> bool {
        Pins::last()
    }

    /// Size of the tables.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The memory that the programs share.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The next packet that the programs let be looked at once more; see [`flowhop_flow::shadow`].
    pub fn next_sample(&mut self) -> Option<Sample> {
        loop {
            // What is not a sample is of nobody that this process knows.
            if let Ok(sample) = Sample::read_from_bytes(&self.samples.next()?) {
                return Some(sample);
            }
        }
    }

    /// Is readable when there is one.
    #[must_use]
    pub fn samples(&self) -> BorrowedFd<'_> {
        self.samples.as_fd()
    }

    /// Makes an address the box's own; flags are those of `record::local_flags`.
    ///
    /// # Errors
    /// When the map is full.
    pub fn insert_local(&mut self, address: &Address, flags: u32) -> Result<(), KernelError> {
        self.locals.insert(address, flags, 0).map_err(|error| KernelError::Map { name: "LOCALS", error })
    }

    /// Ends that; an address that is not there is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_local(&mut self, address: &Address) -> Result<(), KernelError> {
        absent_is_fine("LOCALS", self.locals.remove(address))
    }

    /// The box's own addresses with their flags.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn locals(&self) -> Result<Vec<(Address, u32)>, KernelError> {
        self.locals.iter().collect::<Result<_, _>>().map_err(|error| KernelError::Map { name: "LOCALS", error })
    }

    /// Enters a key into the kernel's hash map; `place` is `2 * block + direction`.
    ///
    /// # Errors
    /// When the map is full.
    pub fn insert_key(&mut self, key: &Key, place: u32) -> Result<(), KernelError> {
        let result = self.kernel_index.insert(words(key), place, 0);
        result.map_err(|error| KernelError::Map { name: "KERNEL_INDEX", error })
    }

    /// Removes a key from the kernel's hash map; one that is not there is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_key(&mut self, key: &Key) -> Result<(), KernelError> {
        absent_is_fine("KERNEL_INDEX", self.kernel_index.remove(&words(key)))
    }

    /// What the programs did with packets that came in through a port, summed over all processors.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&self, port: u8) -> Result<Tallies, KernelError> {
        sum("COUNTERS", &self.counters, port)
    }

    /// What the programs in drivers did with packets of a port, summed over all processors; what they passed on is not
    /// among it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn driver_counters(&self, port: u8) -> Result<Tallies, KernelError> {
        sum("DRIVER_COUNTERS", &self.driver_counters, port)
    }

    /// What the program on the punt device sent through a port, summed over all processors.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn tap_counters(&self, port: u8) -> Result<Tallies, KernelError> {
        sum("TAP_COUNTERS", &self.tap_counters, port)
    }

    /// Removes links, maps and the punt device of a state directory, with or without a daemon. The punt device is
    /// looked for in the caller's network namespace. Nothing there is fine.
    ///
    /// # Errors
    /// What could not be removed. Links go first, so that nothing is forwarded any more in any case.
    pub fn take_down(state: &Path) -> Result<(), KernelError> {
        Self::forget(state)?;
        tap::delete(tap::NAME).map_err(|error| KernelError::System { call: "remove the punt device", error })
    }

    /// Removes what is pinned below the state directory, programs on interfaces with it. The punt device stays.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn forget(state: &Path) -> Result<(), KernelError> {
        let mut pins = Pins::of(state);
        let mounted =
            pins.is_mounted().map_err(|error| KernelError::File { path: pins.path().to_path_buf(), error })?;
        if mounted {
            pins.clear(&MAPS)?;
            pins.unmount()?;
        }
        Ok(())
    }
}

/// Waits until every program that runs now has ended (an RCU grace period): what was unpublished before is then
/// seen by nobody. Takes some ten milliseconds.
///
/// # Errors
/// `EINVAL` on kernels with `nohz_full` processors, which do not offer it.
pub fn membarrier_global() -> io::Result<()> {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: no memory is passed.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What is pinned below a state directory.
enum Pinned {
    Nothing,
    Unfinished,
    Whole,
}

/// Looks at what is pinned before anything is touched.
fn inspect(pins: &Pins, wanted: Geometry) -> Result<Pinned, KernelError> {
    let path = pins.map("CONFIG");
    if !path.exists() {
        let any = MAPS.iter().any(|name| pins.map(name).exists());
        return Ok(if any { Pinned::Unfinished } else { Pinned::Nothing });
    }
    let foreign = || KernelError::Foreign(path.clone());
    let info = MapInfo::from_pin(&path).map_err(|_| foreign())?;
    if info.value_size() as usize != size_of::<Config>() || info.max_entries() != 1 {
        return Err(foreign());
    }
    let map = MapData::from_pin(&path).map_err(|_| foreign())?;
    let config = MappedArray::<Config>::of_map(map.fd().as_fd(), 1).map_err(|_| foreign())?;
    let config = &config[0];
    match config.magic.load() {
        MAGIC => {}
        0 => return Ok(Pinned::Unfinished),
        _ => return Err(foreign()),
    }
    let found = config.layout.load();
    let path = pins.path().to_path_buf();
    if found != LAYOUT_VERSION {
        return Err(KernelError::OtherLayout { path, found, expected: LAYOUT_VERSION });
    }
    let found = Geometry::of(config);
    if found != wanted {
        return Err(KernelError::OtherGeometry { path, found, wanted });
    }
    // The loader takes pinned maps as they are, so their sizes are checked here.
    for (name, entries) in wanted.entries() {
        let info = MapInfo::from_pin(pins.map(name)).map_err(|_| KernelError::Foreign(pins.map(name)))?;
        if info.max_entries() != entries {
            return Err(KernelError::Foreign(pins.map(name)));
        }
    }
    match MAPS.iter().find(|name| !pins.map(name).exists()) {
        Some(name) => Err(KernelError::Foreign(pins.map(name))),
        None => Ok(Pinned::Whole),
    }
}

/// Fills in what says whose tables these are; the magic last, so that unfinished tables are known as such.
fn initialise(config: &Config, geometry: Geometry) -> Result<(), KernelError> {
    let mut secret = [0u32; 10];
    // SAFETY: the buffer has the length that is passed.
    let got = unsafe { libc::getrandom(secret.as_mut_ptr().cast(), size_of_val(&secret), 0) };
    if got != size_of_val(&secret) as isize {
        return Err(KernelError::System { call: "getrandom", error: io::Error::last_os_error() });
    }
    config.set_secret(secret);
    config.layout.store(LAYOUT_VERSION);
    config.buckets.store(geometry.buckets);
    // Whoever makes a table of it says which of them are in use.
    config.span.store(Span { start: 0, lines: geometry.buckets }.pack());
    config.blocks.store(geometry.blocks);
    config.index.store(match geometry.index {
        IndexKind::Lines => index_kind::LINES,
        IndexKind::KernelHash => index_kind::KERNEL_HASH,
    });
    config.magic.store(MAGIC);
    Ok(())
}

fn mapped<T: Record>(ebpf: &mut Ebpf, name: &'static str, count: usize) -> Result<MappedArray<T>, KernelError> {
    let Some(Map::Array(data)) = ebpf.map(name) else {
        return Err(KernelError::Absent(name));
    };
    MappedArray::of_map(data.fd().as_fd(), count).map_err(|error| KernelError::Mmap { name, error })
}

fn typed<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, KernelError> {
    let map = ebpf.take_map(name).ok_or(KernelError::Absent(name))?;
    M::try_from(map).map_err(|error| KernelError::Map { name, error })
}

fn sum(
    name: &'static str,
    map: &PerCpuArray<MapData, [u64; 2 * REASON_SLOTS]>,
    port: u8,
) -> Result<Tallies, KernelError> {
    let each = map.get(&u32::from(port), 0).map_err(|error| KernelError::Map { name, error })?;
    let mut sums = [Tally::default(); REASON_SLOTS];
    for one in each.iter() {
        for (sum, count) in sums.iter_mut().zip(one.as_chunks::<2>().0) {
            sum.packets += count[0];
            sum.bytes += count[1];
        }
    }
    Ok(Tallies(sums))
}

fn words(key: &Key) -> [u32; 10] {
    let ([a, b, c, d], [e, f, g, h]) = (key.source, key.destination);
    [a, b, c, d, e, f, g, h, key.ports, key.identity]
}

fn absent_is_fine(name: &'static str, result: Result<(), MapError>) -> Result<(), KernelError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(|error| KernelError::Map { name, error }),
    }
}

const _: () = assert!(size_of::<record::PortCounters>() == size_of::<[u64; 2 * REASON_SLOTS]>());
