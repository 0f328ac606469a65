//! The daemon: one thread that owns the engine, and everything it listens to.
//!
//! Packets from the kernel side come first in every turn of the loop, then the kernel's announcements, then
//! clients. Once the queue of packets is empty the engine is told so, which is what makes new entries active.

mod answers;
mod aside;
mod cookies;
mod driver_plane;
mod grace;
mod interfaces;
mod locals;
mod outside;
mod packet_plane;
mod plane;
mod policy;
mod reserved;
mod shadow;
pub mod state;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use flowhop_engine::engine::Parts;
use flowhop_engine::{Buffer, Counters, Engine, PublishedService, Revalidated};
use flowhop_flow::key;
use flowhop_flow::record::Tick;
use flowhop_io::clock::{self, Clock};
use flowhop_io::netlink::{Monitor, NetlinkError};
use flowhop_io::poll::{Poller, Signal, Signals};
use flowhop_io::tap::MAX_FRAME;
use flowhop_modules::{Bindings, Published, Shared};
use flowhop_policy::{Policy, ZoneId};
use flowhop_routing::Routing;
use flowhop_table::{AdoptError, Regions, Table};
use thiserror::Error;

use crate::control::Server;
use crate::convert;
use aside::Aside;
use grace::Grace;
use interfaces::Devices;
use outside::Outside;
use packet_plane::PacketPlane;
use plane::{KernelPlane, Plane, PlaneError, Received};
pub use policy::PolicyError;
use state::{State, StateError};

/// Adjacencies; one number is kept for "none".
const ADJACENCIES: u16 = u16::MAX;
/// Packets taken from the queue before other work gets its turn.
const BATCH: usize = 256;
/// How often regular work is done when nothing else happens.
const MAINTAIN_EVERY: Duration = Duration::from_millis(50);
/// How long after the last heartbeat the programs take the daemon for gone.
const ALIVE_FOR: Duration = Duration::from_millis(1500);
/// How often it is looked at where sources of new connections to services may come in.
const SERVICES_EVERY: Duration = Duration::from_secs(2);

/// Why the daemon cannot run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// State directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Kernel programs or punt device.
    #[error(transparent)]
    Plane(#[from] PlaneError),
    /// Netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A table that cannot be adopted.
    #[error("{0}; run `flowhop down` to start afresh")]
    Adopt(#[from] AdoptError),
    /// Modules cannot be ordered.
    #[error("{0}")]
    Modules(String),
    /// Something of the system's.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl DaemonError {
    /// Whether it is for want of rights.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Plane(error) => error.is_denied(),
            Self::State(StateError::File { error, .. }) | Self::System { error, .. } => {
                error.kind() == io::ErrorKind::PermissionDenied
            }
            _ => false,
        }
    }
}

/// What the daemon is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Policy file.
    pub config: PathBuf,
    /// State directory.
    pub state: PathBuf,
    /// Control socket.
    pub socket: PathBuf,
}

pub(crate) struct Daemon {
    options: Options,
    state: State,
    policy: Policy,
    shared: Shared,
    engine: Engine,
    outside: Outside,
    devices: Devices,
    grace: Grace,
    sockets: reserved::Watch,
    started: Instant,
    services_told: Instant,
    /// Published services that SYNs may be answered for.
    services: Vec<PublishedService>,
    refused: Vec<(String, String)>,
    /// Interfaces of which it was said that their networks have addresses in common.
    overlaps: Vec<(Arc<str>, Arc<str>, bool)>,
    /// Devices that were interfaces, by other names.
    aside: Vec<Aside>,
    /// Clients that wait until all flows are moved, in the order of their asking.
    moving: VecDeque<SyncSender<u32>>,
    descriptors_changed: bool,
    /// Differences that shadow mode has found and kept.
    differences: usize,
    failed: Option<io::Error>,
    stop: Option<Stop>,
}

/// Why the loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The process ends; the kernel side goes on.
    Leave,
    /// Everything is taken down.
    Down,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When it cannot start, or the system fails it in a way that it cannot go on after.
pub fn run(options: Options) -> Result<(), DaemonError> {
    let policy = policy::read(&options.config)?;
    let signals = Signals::block().map_err(|error| DaemonError::System { what: "cannot watch signals", error })?;
    let state = State::open(&options.state)?;
    let server = Server::listen(&options.socket)
        .map_err(|error| DaemonError::System { what: "cannot listen on the control socket", error })?;
    let mut daemon = Daemon::start(options, policy, state)?;
    say!("ready");
    if let Err(error) = flowhop_io::poll::notify_ready() {
        say!("flowhop: cannot notify systemd: {error}");
    }
    daemon.serve(&signals, &server)?;
    drop(server);
    daemon.leave()
}

impl Daemon {
    fn start(options: Options, policy: Policy, state: State) -> Result<Self, DaemonError> {
        let mut numbers = state.read_numbers()?;
        let monitor = Monitor::open()?;
        let geometry = policy::geometry(&policy);
        let counters = open_counters(&state)?;
        let (plane, regions, adopted) = open_plane(&state, geometry)?;
        // Programs have been loaded, which takes its time: those that run are not to find a sign of life of long ago.
        let now = Clock::now();
        let kernel = matches!(plane, Plane::Kernel(_));
        let table = open_table(&plane, regions, geometry, adopted)?;
        let shared = Shared::new(policy.clone(), &mut numbers.rules, &mut numbers.nats);
        let started = reserved::Watch::start(plane.own_ports());
        let (sockets, reserved) =
            started.map_err(|error| DaemonError::System { what: "cannot start a thread", error })?;
        shared.set_reserved(reserved);
        let bindings = Bindings::new(policy.table.connections);
        let (rest, ports) = convert::rest(&policy);
        bindings.set_rest(rest, ports);
        let parts = Parts {
            table,
            routing: Routing::new(ADJACENCIES),
            modules: flowhop_modules::standard(&shared, &bindings),
            counters,
            timeouts: convert::timeouts(&policy.timeouts),
            limits: convert::limits(&policy),
            seed: clock::random_seed().map_err(|error| DaemonError::System { what: "no random numbers", error })?,
            kernel,
        };
        let mut engine = Engine::new(parts, now).map_err(DaemonError::Modules)?;
        engine.set_passing(convert::passing(&policy.ip));
        engine.set_answering(convert::answering(&policy.ip));
        engine.set_shadow(policy.paths.shadow);
        let grace = Grace::start().map_err(|error| DaemonError::System { what: "cannot start a thread", error })?;
        let mut daemon = Self {
            options,
            state,
            policy,
            shared,
            engine,
            outside: Outside::new(plane, monitor, numbers, bindings),
            devices: Devices::open(),
            grace,
            sockets,
            started: Instant::now(),
            services_told: Instant::now(),
            services: Vec::new(),
            refused: Vec::new(),
            overlaps: Vec::new(),
            aside: Vec::new(),
            moving: VecDeque::new(),
            descriptors_changed: false,
            differences: 0,
            failed: None,
            stop: None,
        };
        daemon.take_over(adopted)?;
        Ok(daemon)
    }

    /// Learns the kernel's tables, takes the interfaces into use and adopts what an earlier daemon left.
    fn take_over(&mut self, adopted: bool) -> Result<(), DaemonError> {
        let now = Clock::now();
        let config = self.engine.table().config();
        config.orphan_grace.store(policy::ticks(self.policy.paths.orphan_grace));
        config.alive_for.store(policy::ticks(ALIVE_FOR));
        if adopted {
            self.engine.inherit_adjacencies();
            if let Plane::Kernel(kernel) = &self.outside.plane {
                let own = kernel.kernel.locals().map_err(PlaneError::from)?;
                self.engine.inherit_addresses(own.into_iter().map(|(address, _)| address));
            }
        }
        let events = self.outside.monitor.dump()?;
        self.routing_events(events, now);
        self.engine.set_judge_local(policy::judges_local(&self.policy));
        self.engine.set_serves(self.policy.pcp.is_some());
        self.sync_interfaces();
        if adopted {
            let (kept, ended) = self.engine.adopt(now);
            let judged = self.engine.policy_adopted(now);
            say!("flowhop: adopted {kept} connections ({} go on, {} ended)", judged.live, ended + judged.ended);
        }
        self.sync_addresses();
        self.outside.note_ports();
        // Programs were loaded meanwhile, which takes its time: whoever forwards from now on is to find this process alive.
        self.publish_plane(Clock::now())?;
        self.state.write_numbers(&self.outside.numbers)?;
        Ok(())
    }

    /// Opens the door between the kernel programs and this process.
    fn publish_plane(&mut self, now: Tick) -> Result<(), DaemonError> {
        if let Plane::Kernel(kernel) = &self.outside.plane {
            let config = self.engine.table().config();
            let [word, ..] =
                clock::random_secret().map_err(|error| DaemonError::System { what: "no random numbers", error })?;
            config.reinject_mark.store(word | 1);
            config.heartbeat.store(now);
            config.punt_ifindex.store(kernel.tap.ifindex());
        }
        Ok(())
    }

    fn serve(&mut self, signals: &Signals, server: &Server) -> Result<(), DaemonError> {
        let fail = |error| DaemonError::System { what: "cannot wait for events", error };
        let mut poller = self.poller(signals, server).map_err(fail)?;
        let mut tokens = Vec::new();
        let mut frame = vec![0u8; MAX_FRAME];
        let mut maintained = Instant::now();
        let (mut more, mut behind, mut all_left) = (false, false, true);
        while self.stop.is_none() {
            let timeout = match (more, self.engine.pending()) {
                (true, _) => Duration::ZERO,
                (false, 0) if all_left => MAINTAIN_EVERY,
                // Packets that were handed down are still on their way, or lost; or some have not left yet.
                (false, _) => Duration::from_millis(1),
            };
            poller.wait(Some(timeout), &mut tokens).map_err(fail)?;

            let now = Clock::now();
            let drained = self.packets(&mut frame, now);
            if let Some(error) = self.failed.take() {
                return Err(DaemonError::System { what: "the punt device flowhop0 is gone", error });
            }
            self.compare_samples(now);
            self.engine.settle(now, drained, &mut self.outside);
            self.outside.note_ports();
            all_left = self.outside.plane.flush();
            let mut events = Vec::new();
            match self.outside.monitor.poll_events(&mut events) {
                Ok(_) => self.routing_events(events, now),
                Err(error) => say!("flowhop: {error}"),
            }
            self.ask_devices();
            if behind || maintained.elapsed() >= Duration::from_millis(10) {
                maintained = Instant::now();
                behind = self.maintain(now);
            }
            more = behind || !drained;
            if let Some(number) = self.grace.passed() {
                self.engine.grace_passed(number, now);
            }
            self.signals(signals);
            server.serve(self);
            if std::mem::take(&mut self.descriptors_changed) {
                poller = self.poller(signals, server).map_err(fail)?;
            }
        }
        Ok(())
    }

    /// Everything that wakes the loop; what it was is seen by looking everywhere, which costs little.
    fn poller(&self, signals: &Signals, server: &Server) -> io::Result<Poller> {
        let poller = Poller::new()?;
        match &self.outside.plane {
            Plane::Kernel(kernel) => kernel.fds().try_for_each(|fd| poller.add(fd, 0))?,
            Plane::Packet(packet) => packet.fds().try_for_each(|fd| poller.add(fd, 0))?,
        }
        poller.add(&self.outside.monitor, 0)?;
        poller.add(signals, 0)?;
        poller.add(&self.grace, 0)?;
        poller.add(server, 0)?;
        Ok(poller)
    }

    /// Takes packets from the queues, up to a batch; true when they are empty.
    fn packets(&mut self, frame: &mut [u8], now: Tick) -> bool {
        let mut drained = false;
        for _ in 0..BATCH {
            let (arrived, offload, place) = match self.outside.plane.receive(frame, now) {
                Received::Packet(arrived, offload, place) => (arrived, offload, place),
                Received::Foreign => continue,
                Received::Nothing => {
                    drained = true;
                    break;
                }
                Received::Failed(error) => {
                    self.failed = Some(error);
                    drained = true;
                    break;
                }
            };
            let Some(bytes) = frame.get_mut(place) else { continue };
            self.engine.receive(&arrived, &mut Buffer::new(bytes, offload), &mut self.outside);
        }
        self.outside.plane.flush();
        if let Some(port) = self.outside.partial.take() {
            self.leave_driver(port);
        }
        drained
    }

    fn routing_events(&mut self, events: Vec<flowhop_routing::Event>, now: Tick) {
        if events.is_empty() {
            return;
        }
        let links = events.iter().any(|event| {
            matches!(
                event,
                flowhop_routing::Event::LinkUpsert(_)
                    | flowhop_routing::Event::LinkGone { .. }
                    | flowhop_routing::Event::ResyncEnd
            )
        });
        for event in events {
            if let (flowhop_routing::Event::LinkGone { ifindex }, Plane::Kernel(kernel)) =
                (&event, &mut self.outside.plane)
            {
                kernel.forget(*ifindex);
            }
            self.engine.routing_event(event, now, &mut self.outside);
        }
        if links {
            self.sync_interfaces();
        }
        if self.engine.take_addresses_changed() {
            self.sync_addresses();
        }
        if self.engine.take_resync() {
            self.outside.monitor.request_resync();
        }
    }

    fn maintain(&mut self, now: Tick) -> bool {
        let more = self.engine.maintain(now, &mut self.outside);
        self.answer_moves();
        if let Some(Revalidated { live, ended }) = self.engine.take_revalidated() {
            say!("flowhop: the policy holds for all connections: {live} go on, {ended} ended");
        }
        if matches!(self.outside.plane, Plane::Kernel(_))
            && self.grace.is_free()
            && let Some(number) = self.engine.begin_grace()
        {
            self.grace.request(number);
        }
        if let Some(reserved) = self.sockets.changed() {
            self.shared.set_reserved(reserved);
        }
        if self.services_told.elapsed() >= SERVICES_EVERY {
            self.services_told = Instant::now();
            self.tell_of_services(now);
        }
        more
    }

    /// Tells the plane the box's own addresses and what translations use of them: when either changes.
    fn sync_addresses(&mut self) {
        let own: HashSet<key::Address> =
            self.engine.routing().own_addresses().map(|own| key::address(own.address)).collect();
        let published = self.published();
        match &mut self.outside.plane {
            Plane::Kernel(kernel) => {
                if let Err(error) = kernel.set_locals(&own, &published, &self.outside.bindings) {
                    say!("flowhop: {error}");
                }
            }
            Plane::Packet(packet) => packet.set_own(&own, &published),
        }
        let overlaps = self.engine.overlapping_interfaces();
        for (one, other, is_v4) in overlaps.iter().filter(|pair| !self.overlaps.contains(pair)) {
            let family = if *is_v4 { "IPv4" } else { "IPv6" };
            say!(
                "flowhop: the networks of {one} and {other} have {family} addresses in common: nothing is translated to the \
                 {family} address of one of them for connections from the other, unless the entry says overlap = true"
            );
        }
        self.overlaps = overlaps;
        self.sync_services();
    }

    /// What is to come here of packets to own addresses.
    fn published(&self) -> Published {
        let published = self.shared.current().published.clone();
        let Some(settings) = &self.policy.pcp else { return published };
        let interfaces = self.engine.interfaces();
        let served = |ifindex: u32| {
            interfaces.ifindex(ifindex).is_some_and(|interface| settings.from.contains(ZoneId(interface.zone)))
        };
        let own = self.engine.routing().own_addresses().filter(|own| served(own.ifindex));
        published.serving(own.map(|own| key::address(own.address)), &settings.from)
    }

    fn signals(&mut self, signals: &Signals) {
        while let Ok(Some(signal)) = signals.next() {
            match signal {
                Signal::Terminate | Signal::Interrupt => self.stop = Some(Stop::Leave),
                Signal::Reload => match self.reload() {
                    Ok(()) => say!("flowhop: policy reloaded"),
                    Err(error) => report(&error),
                },
            }
        }
    }

    /// Puts the policy file in force again; what ran before goes on when it has a fault. New connections are judged by
    /// it at once, those that exist in slices, all with effect from the same instant.
    fn reload(&mut self) -> Result<(), PolicyError> {
        let policy = policy::read(&self.options.config)?;
        let (old, new) = (policy::geometry(&self.policy), policy::geometry(&policy));
        if old != new {
            return Err(PolicyError::Table(format!("{} to {} connections", old.blocks, new.blocks)));
        }
        if self.policy.table.half_open != policy.table.half_open {
            return Err(PolicyError::Table("another number of half-open connections".to_owned()));
        }
        self.shared.replace(policy.clone(), &mut self.outside.numbers.rules, &mut self.outside.numbers.nats);
        let (rest, ports) = convert::rest(&policy);
        self.outside.bindings.set_rest(rest, ports);
        self.engine.set_timeouts(convert::timeouts(&policy.timeouts));
        self.engine.set_passing(convert::passing(&policy.ip));
        self.engine.set_answering(convert::answering(&policy.ip));
        self.engine.set_shadow(policy.paths.shadow);
        self.engine.set_judge_local(policy::judges_local(&policy));
        self.engine.set_serves(policy.pcp.is_some());
        self.engine.table().config().orphan_grace.store(policy::ticks(policy.paths.orphan_grace));
        self.policy = policy;
        // Whoever has the policy read knows what the devices are called.
        self.aside.clear();
        self.sync_interfaces();
        self.engine.policy_changed(Clock::now());
        self.sync_addresses();
        if let Err(error) = self.state.write_numbers(&self.outside.numbers) {
            say!("flowhop: {error}");
        }
        Ok(())
    }

    fn leave(self) -> Result<(), DaemonError> {
        match self.stop {
            Some(Stop::Down) => {
                // The directory stays locked until nothing is left of what it describes.
                let Self { state, engine, outside, .. } = self;
                drop((engine, outside));
                take_down(state.path())
            }
            _ => {
                // From here on exceptions have nobody to go to; cached flows go on for the grace.
                self.engine.table().config().alive_for.store(0);
                Ok(())
            }
        }
    }
}

/// Writes an error, with every fault of a policy, to standard error.
fn report(error: &PolicyError) {
    if let PolicyError::Faults { faults, .. } = error {
        for fault in faults {
            say!("{fault}");
        }
    }
    say!("flowhop: {error}");
}

/// Kernel programs where they can be had; packet sockets in a user namespace, where they cannot.
fn open_plane(state: &State, geometry: flowhop_table::Geometry) -> Result<(Plane, Regions, bool), DaemonError> {
    match KernelPlane::open(state.path(), geometry) {
        Ok(plane) => {
            let regions = plane.kernel.regions();
            let adopted = plane.kernel.adopted();
            Ok((Plane::Kernel(Box::new(plane)), regions, adopted))
        }
        Err(error) if packet_plane::is_only_choice(&error) => {
            say!("flowhop: no right to load kernel programs here; all packets take the user path");
            Ok((Plane::Packet(Box::new(PacketPlane::new())), Regions::private(geometry), false))
        }
        Err(error) => Err(error.into()),
    }
}

fn open_table(
    plane: &Plane,
    regions: Regions,
    geometry: flowhop_table::Geometry,
    adopted: bool,
) -> Result<Table, DaemonError> {
    let kernel_index = match plane {
        Plane::Kernel(kernel) => kernel.kernel.index_sync().map_err(PlaneError::from)?,
        Plane::Packet(_) => None,
    };
    if adopted {
        return Ok(Table::adopt(regions, geometry, kernel_index)?);
    }
    let secret = clock::random_secret().map_err(|error| DaemonError::System { what: "no random numbers", error })?;
    Ok(Table::create(regions, geometry, secret, kernel_index))
}

/// Counters of the user-level path, in a file that the next daemon goes on with.
fn open_counters(state: &State) -> Result<Counters, DaemonError> {
    let path = state.path().join("counters");
    match flowhop_io::map::file_region(&path, flowhop_flow::record::PORTS) {
        Ok(region) => Ok(Counters::shared(region)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(StateError::Foreign { path, why: "it has another length".to_owned() }.into())
        }
        Err(error) => Err(StateError::File { what: "cannot map", path, error }.into()),
    }
}

/// Takes everything off the interfaces and forgets it. No daemon may be running.
///
/// # Errors
/// What could not be removed.
pub fn take_down(state: &Path) -> Result<(), DaemonError> {
    flowhop_io::bpf::Kernel::take_down(state).map_err(PlaneError::Kernel)?;
    state::remove(state)?;
    Ok(())
}
