//! UDP packets with numbers in them: what was sent, what came, what came twice, what came late.
//!
//! Payload: 8 bytes sequence, 4 bytes flow, 4 bytes run, then bytes that follow from the sequence, all
//! big endian. A receiver ignores other runs and counts wrong bytes as corrupted.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::namespace::Namespace;
use crate::wait::until;

const HEADER: usize = 16;
/// The sender wakes this often.
const TICK: Duration = Duration::from_millis(1);
/// A sender that was held up makes good at most this many packets in one tick.
const BURST: u64 = 128;
/// The receiver ends this long after the sender, measured from the last arrival.
const QUIET: Duration = Duration::from_millis(250);
/// Longest time that stragglers may keep a receiver busy.
const STRAGGLERS: Duration = Duration::from_secs(5);
/// Memory for packets that wait for the receiver.
static BUFFER: i32 = 64 << 20;
/// Gaps and late packets of a flow that a report names.
const SHOWN: usize = 8;

static RUN: AtomicU32 = AtomicU32::new(1);

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Where to.
    pub to: SocketAddr,
    /// Where receivers listen: the same, unless destinations are translated on the way.
    pub at: SocketAddr,
    /// How many flows (source ports).
    pub flows: u32,
    /// How many flows send at the same time, in turn; when these have sent all of theirs, the next ones begin.
    pub together: u32,
    /// Packets of all flows together; rounded down to a multiple of `flows`.
    pub packets: u64,
    /// Packets a second, all flows together.
    pub rate: u32,
    /// Bytes of UDP payload, at least 16.
    pub size: usize,
    /// Whether the receiver sends every packet back and the sender checks that too.
    pub echo: bool,
}

impl Load {
    /// The load of the acceptance tests: one flow, 20 000 packets a second for 5 s, 64 bytes each.
    pub fn new(to: IpAddr, port: u16) -> Self {
        let to = SocketAddr::new(to, port);
        Self { to, at: to, flows: 1, together: u32::MAX, packets: 100_000, rate: 20_000, size: 64, echo: false }
    }

    /// Received at another address than it is sent to, because of a translation.
    pub fn received_at(mut self, address: IpAddr, port: u16) -> Self {
        self.at = SocketAddr::new(address, port);
        self
    }

    /// That many packets a second for that many milliseconds.
    pub fn rate(mut self, rate: u32, millis: u64) -> Self {
        self.rate = rate;
        self.packets = u64::from(rate) * millis / 1000;
        self
    }

    /// That many flows.
    pub fn flows(mut self, flows: u32) -> Self {
        self.flows = flows;
        self
    }

    /// Begins new flows all the time: so many in a second, of which so many send at the same time, until the load is over.
    pub fn new_flows(mut self, per_second: u32, together: u32) -> Self {
        let flows = self.packets * u64::from(per_second) / u64::from(self.rate);
        self.flows = u32::try_from(flows).expect("a number of flows");
        self.together = together;
        self
    }

    /// That many bytes of payload.
    pub fn size(mut self, size: usize) -> Self {
        assert!(size >= HEADER, "a numbered packet has at least {HEADER} bytes");
        self.size = size;
        self
    }

    /// And back again.
    pub fn echo(mut self) -> Self {
        self.echo = true;
        self
    }

    fn per_flow(&self) -> u64 {
        self.packets / u64::from(self.flows)
    }

    /// Flow and sequence number of the packet that is sent after so many.
    fn place(&self, sent: u64) -> (u64, u64) {
        let flows = u64::from(self.flows);
        let together = u64::from(self.together).min(flows);
        let group = sent / (together * self.per_flow());
        let first = group * together;
        // The last group may be smaller.
        let turns = together.min(flows - first);
        let within = sent - first * self.per_flow();
        (first + within % turns, within / turns)
    }
}

/// The numbers of one flow that have come, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowTally {
    expected: u64,
    seen: Vec<u64>,
    highest: Option<u64>,
    /// Different numbers received.
    pub received: u64,
    /// Packets whose number had come before.
    pub duplicates: u64,
    /// Packets that came after one with a higher number.
    pub out_of_order: u64,
    /// The first of those, each with the highest number before it.
    late: Vec<(u64, u64)>,
    /// Packets with a number that was never sent.
    pub alien: u64,
}

impl FlowTally {
    /// Expects the numbers from 0 up to but not including `expected`.
    pub fn new(expected: u64) -> Self {
        let words = usize::try_from(expected.div_ceil(64)).expect("a tally fits in memory");
        Self {
            expected,
            seen: vec![0; words],
            highest: None,
            received: 0,
            duplicates: 0,
            out_of_order: 0,
            late: Vec::new(),
            alien: 0,
        }
    }

    fn place(sequence: u64) -> (usize, u64) {
        (usize::try_from(sequence / 64).expect("a tally fits in memory"), 1 << (sequence % 64))
    }

    fn has(&self, sequence: u64) -> bool {
        let (word, bit) = Self::place(sequence);
        self.seen[word] & bit != 0
    }

    /// Takes note of an arrival.
    pub fn record(&mut self, sequence: u64) {
        if sequence >= self.expected {
            self.alien += 1;
            return;
        }
        if self.has(sequence) {
            self.duplicates += 1;
            return;
        }
        let (word, bit) = Self::place(sequence);
        self.seen[word] |= bit;
        self.received += 1;
        match self.highest {
            Some(highest) if sequence < highest => {
                self.out_of_order += 1;
                if self.late.len() < SHOWN {
                    self.late.push((sequence, highest));
                }
            }
            _ => self.highest = Some(sequence),
        }
    }

    /// Adds what another receiver saw of the same flow; what both saw is a duplicate.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.seen.iter_mut().zip(&other.seen) {
            let both = u64::from((*mine & theirs).count_ones());
            self.duplicates += both;
            self.received += u64::from(theirs.count_ones()) - both;
            *mine |= theirs;
        }
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.late.extend(other.late.iter().take(SHOWN.saturating_sub(self.late.len())));
        self.alien += other.alien;
        self.highest = self.highest.max(other.highest);
    }

    /// Numbers that never came.
    pub fn missing(&self) -> u64 {
        self.expected - self.received
    }

    /// The highest number that came.
    pub fn last(&self) -> Option<u64> {
        self.highest
    }

    /// The missing numbers as ranges, first and last included.
    pub fn missing_ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for sequence in (0..self.expected).filter(|&sequence| !self.has(sequence)) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == sequence => *last = sequence,
                _ => ranges.push((sequence, sequence)),
            }
        }
        ranges
    }

    fn is_clean(&self) -> bool {
        self.missing() + self.duplicates + self.out_of_order + self.alien == 0
    }
}

/// The flows of a run in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// One per flow.
    pub flows: Vec<FlowTally>,
    /// Where the packets came from, as the receiver saw it.
    pub sources: BTreeSet<SocketAddr>,
    /// Packets of the run with bytes that were not sent.
    pub corrupted: u64,
    /// Packets that came to the socket and found no room: the test's own fault.
    pub overrun: u64,
}

impl Tally {
    fn new(load: &Load) -> Self {
        let flows = (0..load.flows).map(|_| FlowTally::new(load.per_flow())).collect();
        Self { flows, sources: BTreeSet::new(), corrupted: 0, overrun: 0 }
    }

    /// Checks a payload and takes note of it. False for packets of other runs.
    fn take(&mut self, run: u32, size: usize, payload: &[u8], from: SocketAddr) -> bool {
        let Some((header, body)) = payload.split_at_checked(HEADER) else { return false };
        let number =
            |range: std::ops::Range<usize>| header[range].iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        let (sequence, flow, of) = (number(0..8), number(8..12), number(12..16));
        if of != u64::from(run) {
            return false;
        }
        let right =
            body.len() + HEADER == size && body.iter().zip(filling(sequence)).all(|(&byte, right)| byte == right);
        let flow = usize::try_from(flow).ok().and_then(|flow| self.flows.get_mut(flow));
        match flow {
            Some(flow) if right => flow.record(sequence),
            _ => self.corrupted += 1,
        }
        self.sources.insert(from);
        true
    }

    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.flows.iter_mut().zip(&other.flows) {
            mine.merge(theirs);
        }
        self.sources.extend(&other.sources);
        self.corrupted += other.corrupted;
        self.overrun += other.overrun;
    }

    fn sum(&self, of: impl Fn(&FlowTally) -> u64) -> u64 {
        self.flows.iter().map(of).sum()
    }

    /// Different numbers received, all flows together.
    pub fn received(&self) -> u64 {
        self.sum(|flow| flow.received)
    }

    /// Numbers that never came, all flows together.
    pub fn missing(&self) -> u64 {
        self.sum(FlowTally::missing)
    }

    /// Packets that came again, all flows together.
    pub fn duplicates(&self) -> u64 {
        self.sum(|flow| flow.duplicates)
    }

    /// Packets that came late, all flows together.
    pub fn out_of_order(&self) -> u64 {
        self.sum(|flow| flow.out_of_order)
    }

    /// Everything came once, in order and whole.
    pub fn is_clean(&self) -> bool {
        self.corrupted == 0 && self.flows.iter().all(FlowTally::is_clean)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} received, {} missing, {} twice, {} out of order, {} corrupted, {} alien",
            self.received(),
            self.missing(),
            self.duplicates(),
            self.out_of_order(),
            self.corrupted,
            self.sum(|flow| flow.alien),
        )?;
        if self.overrun > 0 {
            write!(f, ", {} lost in the test's own receiver", self.overrun)?;
        }
        let unclean = self.flows.iter().enumerate().filter(|(_, flow)| flow.missing() > 0 || !flow.late.is_empty());
        for (index, flow) in unclean.take(4) {
            let ranges = flow.missing_ranges();
            if !ranges.is_empty() {
                write!(f, "; flow {index} misses {:?}", &ranges[..ranges.len().min(SHOWN)])?;
            }
            for (sequence, highest) in &flow.late {
                write!(f, "; {sequence} of flow {index} came after {highest}")?;
            }
        }
        Ok(())
    }
}

/// What became of a load.
#[derive(Debug, Clone)]
pub struct Report {
    /// Packets that the sender's kernel took.
    pub sent: u64,
    /// How long the sender took.
    pub took: Duration,
    /// Times that the sender was told that the port is unreachable.
    pub refused: u64,
    /// What the receivers saw, all together.
    pub forward: Tally,
    /// What each receiver saw.
    pub receivers: Vec<Tally>,
    /// What came back, if the load asked for it.
    pub back: Option<Tally>,
}

impl Report {
    /// Everything came once, in order and whole, in every direction asked for.
    pub fn is_clean(&self) -> bool {
        self.forward.is_clean() && self.back.as_ref().is_none_or(Tally::is_clean)
    }

    /// Panics with the report unless it is clean.
    #[track_caller]
    pub fn assert_clean(&self, context: &str) {
        assert!(self.is_clean(), "{context}: {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent in {:.3?}", self.sent, self.took)?;
        if self.refused > 0 {
            write!(f, " ({} refused)", self.refused)?;
        }
        write!(f, ": {}", self.forward)?;
        if let Some(back) = &self.back {
            write!(f, " | back: {back}")?;
        }
        Ok(())
    }
}

/// A load on its way. Dropping it stops the traffic and waits for its threads.
#[derive(Debug)]
pub struct Running {
    load: Load,
    progress: Arc<Progress>,
    sender: Option<JoinHandle<(Duration, u64)>>,
    receivers: Vec<JoinHandle<Tally>>,
    back: Option<JoinHandle<Tally>>,
    /// The local ports of the flows.
    pub ports: Vec<u16>,
}

#[derive(Debug, Default)]
struct Progress {
    sent: AtomicU64,
    /// The sender has ended, well or not.
    done: AtomicBool,
    /// Nobody is interested any more.
    stop: AtomicBool,
}

/// Tells the receivers that the sender has ended, after a panic too.
struct Ended<'a>(&'a Progress);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// Runs a load from one namespace to another and waits for the result.
pub fn run(from: &Arc<Namespace>, to: &Arc<Namespace>, load: &Load) -> Report {
    start(from, &[to], load).finish()
}

/// Starts a load. With several receivers, each binds the same address in its own namespace.
pub fn start(from: &Arc<Namespace>, to: &[&Arc<Namespace>], load: &Load) -> Running {
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let progress = Arc::new(Progress::default());
    // All sockets exist before the first packet leaves.
    let receivers: Vec<_> = to
        .iter()
        .map(|namespace| {
            let socket = namespace
                .enter(|| UdpSocket::bind(load.at).unwrap_or_else(|error| panic!("bind {}: {error}", load.at)));
            large_buffer(&socket);
            (Arc::clone(namespace), socket)
        })
        .collect();
    raise_descriptor_limit();
    let sockets: Arc<Vec<UdpSocket>> = Arc::new(from.enter(|| {
        let any: IpAddr = match load.to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let open = |_| {
            let socket = UdpSocket::bind((any, 0)).expect("bind a source port");
            socket.connect(load.to).unwrap_or_else(|error| panic!("connect {}: {error}", load.to));
            if load.echo {
                large_buffer(&socket);
            }
            socket
        };
        (0..load.flows).map(open).collect()
    }));
    let ports = sockets.iter().map(|socket| socket.local_addr().expect("a bound socket").port()).collect();

    let receivers = receivers
        .into_iter()
        .map(|(namespace, socket)| {
            let (load, progress) = (load.clone(), Arc::clone(&progress));
            namespace.thread(move || receive(&[socket], &load, run, &progress, load.echo))
        })
        .collect();
    let back = load.echo.then(|| {
        let (load, progress, sockets) = (load.clone(), Arc::clone(&progress), Arc::clone(&sockets));
        from.thread(move || receive(&sockets, &load, run, &progress, false))
    });
    let sender = {
        let (load, progress) = (load.clone(), Arc::clone(&progress));
        from.thread(move || send(&sockets, &load, run, &progress))
    };
    Running { load: load.clone(), progress, sender: Some(sender), receivers, back, ports }
}

impl Running {
    /// Packets sent up to now.
    pub fn sent(&self) -> u64 {
        self.progress.sent.load(Ordering::Relaxed)
    }

    /// Waits until that many packets have been sent.
    pub fn wait_sent(&self, packets: u64) {
        let limit = Duration::from_secs(10 + packets / u64::from(self.load.rate));
        until("the sender", limit, || (self.sent() >= packets).then_some(()));
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Report {
        let sender = self.sender.take().expect("a load ends once");
        let (took, refused) = join(sender);
        let mut forward = Tally::new(&self.load);
        let receivers: Vec<Tally> = self.receivers.drain(..).map(join).collect();
        for receiver in &receivers {
            forward.merge(receiver);
        }
        let back = self.back.take().map(join);
        Report { sent: self.sent(), took, refused, forward, receivers, back }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
        for receiver in self.receivers.drain(..).chain(self.back.take()) {
            let _ = receiver.join();
        }
    }
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The bytes after the header of a packet.
fn filling(sequence: u64) -> impl Iterator<Item = u8> {
    let start = sequence.to_le_bytes()[0];
    (0u8..=250).cycle().map(move |step| start.wrapping_add(step))
}

/// Sends the load in ticks, sleeping until each is due. Returns the time it took and refusals.
fn send(sockets: &[UdpSocket], load: &Load, run: u32, progress: &Progress) -> (Duration, u64) {
    let _ended = Ended(progress);
    let flows = u64::from(load.flows);
    let total = load.per_flow() * flows;
    let mut payload = vec![0; load.size];
    let mut refused = 0;
    let start = Instant::now();
    let limit = Duration::from_secs(20 + 2 * total / u64::from(load.rate));
    let (mut sent, mut ticks) = (0, 0u32);
    while sent < total && !progress.stop.load(Ordering::Relaxed) {
        assert!(start.elapsed() < limit, "the sender is stuck after {sent} of {total} packets");
        let micros = u64::try_from(start.elapsed().as_micros()).expect("a short time");
        let due = (micros * u64::from(load.rate) / 1_000_000 + 1).min(total).min(sent + BURST);
        while sent < due {
            let (flow, sequence) = load.place(sent);
            payload[..8].copy_from_slice(&sequence.to_be_bytes());
            payload[8..12].copy_from_slice(&u32::try_from(flow).unwrap_or(0).to_be_bytes());
            payload[12..16].copy_from_slice(&run.to_be_bytes());
            payload[HEADER..].iter_mut().zip(filling(sequence)).for_each(|(to, byte)| *to = byte);
            let socket = &sockets[usize::try_from(flow).unwrap_or(0)];
            match socket.send(&payload) {
                Ok(_) => sent += 1,
                // An earlier packet was answered by an ICMP error; this one was not sent.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
                    ) =>
                {
                    refused += 1;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("send packet {sent} to {}: {error}", load.to),
            }
        }
        progress.sent.store(sent, Ordering::Relaxed);
        ticks += 1;
        let next = start + TICK * ticks;
        let now = Instant::now();
        if next > now {
            thread::sleep(next - now);
        } else {
            // Held up: continue from here, the amount due makes up for it.
            ticks = u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX);
        }
    }
    (start.elapsed(), refused)
}

/// Receives until the sender is done and nothing has come for a while.
fn receive(sockets: &[UdpSocket], load: &Load, run: u32, progress: &Progress, echo: bool) -> Tally {
    let mut tally = Tally::new(load);
    let mut buffer = vec![0; 65536];
    let mut polls: Vec<_> = sockets
        .iter()
        .map(|socket| {
            socket.set_nonblocking(true).expect("a socket that does not block");
            libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 }
        })
        .collect();
    let mut last = Instant::now();
    let mut done_at = None;
    loop {
        let count = libc::nfds_t::try_from(polls.len()).expect("a number of sockets");
        // SAFETY: `polls` holds `count` entries.
        let ready = unsafe { libc::poll(polls.as_mut_ptr(), count, 20) };
        if ready > 0 {
            for (socket, _) in sockets.iter().zip(&polls).filter(|(_, poll)| poll.revents != 0) {
                // Bounded, so that one busy flow does not keep the others waiting.
                for _ in 0..256 {
                    match socket.recv_from(&mut buffer) {
                        Ok((length, from)) => {
                            let ours = tally.take(run, load.size, &buffer[..length], from);
                            last = Instant::now();
                            if ours && echo {
                                // The way back is checked by the one who waits there. A receive
                                // buffer of the own socket does not fill by sending.
                                retry_send(socket, &buffer[..length], from);
                            }
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        // An ICMP error; the sender counts those.
                        Err(_) => {}
                    }
                }
            }
        }
        if progress.done.load(Ordering::Acquire) {
            let done_at = *done_at.get_or_insert_with(Instant::now);
            let quiet = last.max(done_at).elapsed() > QUIET;
            if quiet || progress.stop.load(Ordering::Relaxed) || done_at.elapsed() > STRAGGLERS {
                break;
            }
        }
    }
    tally.overrun = sockets.iter().map(dropped_by_socket).sum();
    tally
}

fn retry_send(socket: &UdpSocket, payload: &[u8], to: SocketAddr) {
    for _ in 0..1000 {
        match socket.send_to(payload, to) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            _ => return,
        }
    }
}

/// `SO_RCVBUFFORCE`: room for seconds of traffic, whatever the machine's limit.
pub(crate) fn large_buffer(socket: &UdpSocket) {
    // SAFETY: the option takes an int, and its size is given.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const BUFFER).cast(), 4)
    };
    assert!(done == 0, "SO_RCVBUFFORCE: {}", std::io::Error::last_os_error());
}

/// What the socket itself had to drop, from `SO_MEMINFO`.
pub(crate) fn dropped_by_socket(socket: &UdpSocket) -> u64 {
    const SO_MEMINFO: i32 = 55;
    const DROPS: usize = 8;
    let mut values = [0u32; 9];
    let mut length: libc::socklen_t = 36;
    // SAFETY: the kernel writes at most `length` bytes into `values`, which has as many.
    unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, values.as_mut_ptr().cast(), &raw mut length);
    }
    u64::from(values[DROPS])
}

/// Many flows need many sockets: takes all that the hard limit gives.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid rlimit.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}
