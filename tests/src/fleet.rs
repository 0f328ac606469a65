//! Numbered UDP of more flows than there are sockets: frames by hand from many ports of the inside host to a few ports
//! of the outside host, where sockets listen.
//!
//! Payload: 4 bytes run, 4 bytes flow, 4 bytes sequence, big endian. Flows send in turn, one packet each; neighbours in
//! this order go to different ports.

use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::bed::{Bed, Family};
use crate::numbered::{dropped_by_socket, large_buffer};
use crate::raw::{Packet, RawPort, Transport};
use crate::wait::until;

/// The sender wakes this often.
const TICK: Duration = Duration::from_millis(1);
/// A sender that was held up makes good at most this many packets in one tick.
const BURST: u64 = 128;
/// The receiver ends when nothing has come for this long after the sender's end.
const QUIET: Duration = Duration::from_millis(500);
/// Rounds that can be told apart.
const ROUNDS: u64 = 64;

static RUN: AtomicU32 = AtomicU32::new(1);

/// Which flows.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// From the inside to the outside host.
    pub family: Family,
    /// Ports of the inside host.
    pub sources: Range<u16>,
    /// Ports of the outside host.
    pub ports: Range<u16>,
}

impl Fleet {
    /// How many flows.
    pub fn flows(&self) -> u64 {
        self.sources.len() as u64 * self.ports.len() as u64
    }

    /// Source and destination port of a flow.
    fn ends(&self, flow: u64) -> (u16, u16) {
        let (source, port) = (flow / self.ports.len() as u64, flow % self.ports.len() as u64);
        (self.sources.start + source as u16, self.ports.start + port as u16)
    }

    /// The destination port of a flow.
    pub fn port(&self, flow: usize) -> u16 {
        self.ends(flow as u64).1
    }
}

/// What has come of one flow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arrivals {
    /// A bit for each sequence number that came.
    seen: u64,
    /// As whom the receiver saw the sender first.
    pub source: Option<SocketAddr>,
    /// Packets with a number that had come before.
    pub twice: u32,
    /// Packets that came after one with a higher number.
    pub late: u32,
    /// Packets from another source than the first.
    pub moved: u32,
}

impl Arrivals {
    fn record(&mut self, sequence: u32, from: SocketAddr) {
        let bit = 1 << sequence;
        self.twice += u32::from(self.seen & bit != 0);
        self.late += u32::from(self.seen > bit);
        self.seen |= bit;
        self.moved += u32::from(*self.source.get_or_insert(from) != from);
    }

    /// Different numbers that came.
    pub fn received(&self) -> u64 {
        u64::from(self.seen.count_ones())
    }

    /// How many numbers came before the first that did not.
    pub fn unbroken(&self) -> u64 {
        u64::from(self.seen.trailing_ones())
    }
}

/// What became of a fleet.
#[derive(Debug)]
pub struct FleetReport {
    /// Packets sent, of all flows together.
    pub sent: u64,
    /// One of each flow.
    pub flows: Vec<Arrivals>,
    /// Packets with something else in them than was sent.
    pub corrupted: u64,
    /// Packets that came to a socket and found no room: the test's own fault.
    pub overrun: u64,
}

impl FleetReport {
    /// Packets sent of a flow before so many of all flows were.
    pub fn sent_of(&self, flow: usize, sent: u64) -> u64 {
        let (flows, flow) = (self.flows.len() as u64, flow as u64);
        sent / flows + u64::from(sent % flows > flow)
    }

    /// The place among all packets of a flow's packet.
    pub fn place(&self, flow: usize, sequence: u64) -> u64 {
        sequence * self.flows.len() as u64 + flow as u64
    }

    /// Packets that came twice, late, from another source or with other bytes: none of these is ever right.
    pub fn wrong(&self) -> u64 {
        let of = |flow: &Arrivals| u64::from(flow.twice + flow.late + flow.moved);
        self.corrupted + self.flows.iter().map(of).sum::<u64>()
    }
}

/// A fleet on its way. Dropping it stops the traffic and waits for its threads.
#[derive(Debug)]
pub struct Sailing {
    progress: Arc<Progress>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<FleetReport>>,
}

#[derive(Debug)]
struct Progress {
    sent: AtomicU64,
    /// Packets a second.
    rate: AtomicU32,
    /// The sender waits when it has sent that many.
    allowed: AtomicU64,
    stop: AtomicBool,
    done: AtomicBool,
}

/// Tells the receiver that the sender has ended, after a panic too.
struct Ended<'a>(&'a Progress);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// Starts a fleet at so many packets a second. Hosts and router have to know their neighbours.
pub fn start(bed: &Bed, fleet: &Fleet, rate: u32) -> Sailing {
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let progress = Arc::new(Progress {
        sent: AtomicU64::new(0),
        rate: AtomicU32::new(rate),
        allowed: AtomicU64::new(u64::MAX),
        stop: AtomicBool::new(false),
        done: AtomicBool::new(false),
    });
    let sockets: Vec<UdpSocket> = bed.outside.enter(|| {
        let listen = |port| UdpSocket::bind((fleet.family.outside_host(), port)).expect("bind a port of the fleet");
        fleet.ports.clone().map(listen).collect()
    });
    sockets.iter().for_each(large_buffer);
    let wire = RawPort::open(&bed.inside, "eth0");
    let macs = (wire.mac, bed.router.mac("lan0"));
    let receiver = {
        let (fleet, progress) = (fleet.clone(), Arc::clone(&progress));
        bed.outside.thread(move || receive(&sockets, &fleet, run, &progress))
    };
    let sender = {
        let (fleet, progress) = (fleet.clone(), Arc::clone(&progress));
        bed.inside.thread(move || send(&wire, &Frames::new(&fleet, macs, run), &fleet, &progress))
    };
    Sailing { progress, sender: Some(sender), receiver: Some(receiver) }
}

impl Sailing {
    /// Packets sent up to now; a few more may be on their way.
    pub fn sent(&self) -> u64 {
        self.progress.sent.load(Ordering::Acquire)
    }

    /// Waits until that many packets have been sent.
    pub fn wait_sent(&self, packets: u64) {
        let rate = u64::from(self.progress.rate.load(Ordering::Relaxed));
        let limit = Duration::from_secs(10 + 2 * packets / rate);
        until("the fleet", limit, || (self.sent() >= packets).then_some(()));
    }

    /// Goes on at another pace.
    pub fn set_rate(&self, rate: u32) {
        self.progress.rate.store(rate, Ordering::Relaxed);
    }

    /// Sends no more than that many in all until told otherwise, whatever the pace.
    pub fn allow(&self, packets: u64) {
        self.progress.allowed.store(packets, Ordering::Relaxed);
    }

    /// Stops sending and waits for the last packets.
    pub fn finish(mut self) -> FleetReport {
        self.progress.stop.store(true, Ordering::Relaxed);
        let sender = self.sender.take().expect("a fleet ends once");
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let receiver = self.receiver.take().expect("a fleet ends once");
        receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Sailing {
    fn drop(&mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
        let _ = self.sender.take().map(JoinHandle::join);
        let _ = self.receiver.take().map(JoinHandle::join);
    }
}

/// A frame in which ports, flow and sequence number are replaced.
struct Frames {
    template: Vec<u8>,
    /// Sum of what the UDP checksum covers, with ports, flow and sequence number 0.
    sum: u64,
    /// Where the UDP header begins.
    udp: usize,
}

impl Frames {
    fn new(fleet: &Fleet, macs: ([u8; 6], [u8; 6]), run: u32) -> Self {
        let ends = [fleet.family.inside_host(), fleet.family.outside_host()].map(|address| SocketAddr::new(address, 0));
        let payload = [run.to_be_bytes(), [0; 4], [0; 4]].concat();
        let template = Packet::new(macs, ends[0], ends[1], Transport::Udp, &payload).build();
        let udp = template.len() - payload.len() - 8;
        let sum = !u16::from_be_bytes([template[udp + 6], template[udp + 7]]);
        Self { template, sum: u64::from(sum), udp }
    }

    fn fill(&self, frame: &mut [u8], (source, port): (u16, u16), flow: u32, sequence: u32) {
        let words = [flow >> 16, flow & 0xffff, sequence >> 16, sequence & 0xffff];
        let mut sum =
            self.sum + u64::from(source) + u64::from(port) + words.iter().copied().map(u64::from).sum::<u64>();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let checksum = match !(sum as u16) {
            0 => 0xffff,
            checksum => checksum,
        };
        let segment = &mut frame[self.udp..];
        segment[..2].copy_from_slice(&source.to_be_bytes());
        segment[2..4].copy_from_slice(&port.to_be_bytes());
        segment[6..8].copy_from_slice(&checksum.to_be_bytes());
        segment[12..16].copy_from_slice(&flow.to_be_bytes());
        segment[16..20].copy_from_slice(&sequence.to_be_bytes());
    }
}

fn send(wire: &RawPort, frames: &Frames, fleet: &Fleet, progress: &Progress) {
    let _ended = Ended(progress);
    let mut frame = frames.template.clone();
    let (mut sent, flows) = (0, fleet.flows());
    let mut last = Instant::now();
    let mut owed = 0.0;
    while !progress.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        owed += (now - last).as_secs_f64() * f64::from(progress.rate.load(Ordering::Relaxed));
        last = now;
        let left = progress.allowed.load(Ordering::Relaxed).saturating_sub(sent);
        for _ in 0..(owed as u64).min(BURST).min(left) {
            let (sequence, flow) = (sent / flows, sent % flows);
            assert!(sequence < ROUNDS, "the fleet has been on its way for too long");
            frames.fill(&mut frame, fleet.ends(flow), flow as u32, sequence as u32);
            wire.send(&frame);
            sent += 1;
            progress.sent.store(sent, Ordering::Release);
        }
        // What was due long ago stays undone.
        owed = (owed - owed.floor().min(BURST as f64)).min(4.0 * BURST as f64);
        thread::sleep(TICK.saturating_sub(now.elapsed()));
    }
}

fn receive(sockets: &[UdpSocket], fleet: &Fleet, run: u32, progress: &Progress) -> FleetReport {
    let flows = usize::try_from(fleet.flows()).expect("a number of flows");
    let mut report = FleetReport { sent: 0, flows: vec![Arrivals::default(); flows], corrupted: 0, overrun: 0 };
    let mut buffer = [0; 2048];
    let mut polls: Vec<_> = sockets
        .iter()
        .map(|socket| {
            socket.set_nonblocking(true).expect("a socket that does not block");
            libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 }
        })
        .collect();
    let mut last = Instant::now();
    while !progress.done.load(Ordering::Acquire) || last.elapsed() < QUIET {
        // SAFETY: `polls` holds as many entries as said.
        unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 20) };
        for (place, socket) in sockets.iter().enumerate().filter(|(place, _)| polls[*place].revents != 0) {
            for _ in 0..256 {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { break };
                last = Instant::now();
                take(&mut report, &buffer[..length], from, run, fleet.ports.start + place as u16, fleet);
            }
        }
    }
    report.sent = progress.sent.load(Ordering::Acquire);
    report.overrun = sockets.iter().map(dropped_by_socket).sum();
    report
}

fn take(report: &mut FleetReport, payload: &[u8], from: SocketAddr, run: u32, port: u16, fleet: &Fleet) {
    let word = |place: usize| {
        payload.get(place..place + 4).map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().expect("4 bytes")))
    };
    let [of, flow, sequence] = [word(0), word(4), word(8)];
    let known = of == run && payload.len() == 12 && u64::from(sequence) < ROUNDS && u64::from(flow) < fleet.flows();
    if known && fleet.port(flow as usize) == port {
        report.flows[flow as usize].record(sequence, from);
    } else {
        report.corrupted += 1;
    }
}
