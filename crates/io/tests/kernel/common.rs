//! A bed with the programs on two interfaces, flows written by hand, and the native function beside.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test bed fails loudly")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use flowhop_flow::forward::Hit;
use flowhop_flow::key::{self, Address};
use flowhop_flow::record::{
    Action, Adjacency, Block, Bucket, Config, Gate, NextHop, PORT_PROBES, Port, PortKey, Steer, TICK_SHIFT, Tick,
    local_flags,
};
use flowhop_flow::rewrite::{self, Rewrite};
use flowhop_flow::{Arrival, Host, Key, Kind, Level, Packet, Verdict, forward, tcp};
use flowhop_io::bpf::{Attachment, Context, Geometry, IndexKind, Kernel, Program, Shared, TestRun};
use flowhop_io::tap::{self, Tap, metadata::Punt};
use flowhop_table::index::{self, Entered};
use flowhop_table::lookup::{self, Arrays};
use flowhop_wire::build::Spec;
use flowhop_wire::checksum::{self, Delta};
use flowhop_wire::{Frame, SliceFrame, protocol, tcp_flags, verify};

/// The direction of the initiator.
pub(crate) const FORWARD: usize = 0;
/// The adjacency that all flows use.
pub(crate) const ADJACENCY: usize = 777;

const GEOMETRY: Geometry = Geometry { buckets: 64, blocks: 256, index: IndexKind::Lines };
const GENERATION: u16 = 5;
/// The station that packets are sent on to.
pub(crate) const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 0x22];
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

/// Runs a test in fresh network and mount namespaces, with a file system of its own at `/mnt`.
pub(crate) fn in_namespaces(test: impl FnOnce() + Send + 'static) {
    let result = thread::spawn(move || {
        // SAFETY: plain system calls; they concern this thread, which ends with the test.
        unsafe {
            let made = libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS);
            assert_eq!(made, 0, "these tests need root: {}", std::io::Error::last_os_error());
            let private = libc::MS_REC | libc::MS_PRIVATE;
            assert_eq!(libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()), 0);
            let tmpfs = c"tmpfs".as_ptr();
            assert_eq!(libc::mount(tmpfs, c"/mnt".as_ptr(), tmpfs, 0, std::ptr::null()), 0);
        }
        test();
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip`; it inherits the namespaces of the calling thread.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

pub(crate) fn has_link(name: &str) -> bool {
    Command::new("ip").args(["link", "show", name]).output().unwrap().status.success()
}

/// Index and link-layer address of an interface.
fn link(name: &str) -> (u32, [u8; 6]) {
    let output = Command::new("ip").args(["-o", "link", "show", name]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let index = text.split(':').next().unwrap().trim().parse().unwrap();
    let mac = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    (index, bytes.try_into().unwrap())
}

/// Now, as the programs know it.
pub(crate) fn tick() -> Tick {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the buffer is one `timespec`.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    ((time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64) >> TICK_SHIFT) as u32
}

/// A connection: its key, what it becomes, and a packet of it.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) key: Key,
    pub(crate) new_source: Address,
    pub(crate) new_destination: Address,
    pub(crate) new_ports: u32,
    frame: Vec<u8>,
}

/// Where the payload of a TCP segment begins.
fn tcp_header(frame: &[u8]) -> usize {
    if frame[12..14] == [8, 0] { 34 } else { 54 }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) const TCP_START: (u32, u32) = (1_000, 5_000);

impl Flow {
    pub(crate) fn udp4() -> Self {
        Self::new(&Spec::udp(socket("10.0.0.2:4000"), socket("192.0.2.1:53"), b"question"), protocol::UDP)
    }

    pub(crate) fn udp6() -> Self {
        Self::new(&Spec::udp(socket("[fd00::2]:4000"), socket("[2001:db8::1]:53"), b"question"), protocol::UDP)
    }

    pub(crate) fn tcp4() -> Self {
        Self::new(&Self::segment("10.0.0.2:4001", "192.0.2.1:80"), protocol::TCP)
    }

    pub(crate) fn tcp6() -> Self {
        Self::new(&Self::segment("[fd00::2]:4001", "[2001:db8::1]:80"), protocol::TCP)
    }

    pub(crate) fn echo4() -> Self {
        Self::echo("10.0.0.2", "192.0.2.1", protocol::ICMP)
    }

    pub(crate) fn echo6() -> Self {
        Self::echo("fd00::2", "2001:db8::1", protocol::ICMPV6)
    }

    fn segment(source: &str, destination: &str) -> Spec<'static> {
        let (sequence, acknowledgment) = TCP_START;
        Spec::tcp(socket(source), socket(destination), tcp_flags::ACK, b"GET /")
            .with_sequence(sequence, acknowledgment)
            .with_window(500)
    }

    fn echo(source: &str, destination: &str, protocol: u8) -> Self {
        let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
        Self::new(&Spec::echo_request(source, destination, 77, 1, b"hello"), protocol)
    }

    fn new(spec: &Spec<'_>, protocol: u8) -> Self {
        let bytes = spec.to_vec().unwrap();
        let mut copy = bytes.clone();
        let packet = SliceFrame::new(&mut copy);
        let parsed = match bytes[12..14] {
            [8, 0] => flowhop_flow::parse::ipv4(&packet, 14, 0),
            _ => flowhop_flow::parse::ipv6(&packet, 14, 0),
        };
        let key = parsed.unwrap().key;
        assert_eq!(key.protocol(), protocol);
        let v4 = key.family() == 4;
        let address = |v4_text: &str, v6_text: &str| key::address(if v4 { v4_text } else { v6_text }.parse().unwrap());
        Self {
            new_source: address("198.51.100.7", "2001:db8:ffff::7"),
            new_destination: address("192.0.2.99", "2001:db8::99"),
            new_ports: match protocol {
                protocol::ICMP | protocol::ICMPV6 => {
                    let [_, _, kind, code] = key.ports.to_ne_bytes();
                    u32::from_ne_bytes([0xab, 0xcd, kind, code])
                }
                _ => key::ports(50_123, 8053),
            },
            key,
            frame: bytes,
        }
    }

    /// The same without a translation.
    pub(crate) fn untranslated(self) -> Self {
        let Key { source, destination, ports, .. } = self.key;
        Self { new_source: source, new_destination: destination, new_ports: ports, ..self }
    }

    /// A segment of the initiator's with other numbers, and the longest life that a packet can have.
    pub(crate) fn segment_at(&self, sequence: u32, acknowledgment: u32) -> Vec<u8> {
        let mut frame = self.frame();
        let at = tcp_header(&frame);
        frame[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
        frame[at + 8..at + 12].copy_from_slice(&acknowledgment.to_be_bytes());
        if frame[12..14] == [8, 0] {
            frame[22] = 255;
            mend(&mut frame);
        } else {
            frame[21] = 255;
        }
        frame
    }

    /// A packet of the initiator's, addressed to the port.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = self.frame.clone();
        frame[..6].copy_from_slice(&LAN_MAC);
        frame[6..12].copy_from_slice(&SENDER);
        frame
    }
}

pub(crate) const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

pub(crate) struct Bed {
    pub(crate) kernel: Kernel,
    pub(crate) tap: Tap,
    pub(crate) state: PathBuf,
    pub(crate) lan: u32,
    pub(crate) wan: u32,
    pub(crate) lan_mac: [u8; 6],
    pub(crate) wan_mac: [u8; 6],
    index: IndexKind,
    blocks: usize,
    keys: Vec<Key>,
}

impl Bed {
    /// Two ports, `lan` (1) and `wan` (2), the punt device, and empty tables with a living daemon.
    pub(crate) fn new(index: IndexKind) -> Self {
        let state = PathBuf::from("/mnt/flowhop");
        ip("link add lan address 02:00:00:00:01:01 type veth peer name lan-peer");
        ip("link add wan address 02:00:00:00:02:02 type veth peer name wan-peer");
        for name in ["lan", "lan-peer", "wan", "wan-peer"] {
            ip(&format!("link set {name} up"));
        }
        let ((lan, lan_mac), (wan, wan_mac)) = (link("lan"), link("wan"));
        let _ = fs::remove_dir_all(&state);
        let tap = Tap::open(tap::NAME).unwrap();
        let mut kernel = Kernel::load(&state, Geometry { index, ..GEOMETRY }).unwrap();
        kernel.attach(&Attachment::skb(lan, 1, lan_mac)).unwrap();
        kernel.attach(&Attachment::skb(wan, 2, wan_mac)).unwrap();
        kernel.attach_tap(tap.ifindex()).unwrap();
        let config = &kernel.shared().config[0];
        config.heartbeat.store(tick());
        config.alive_for.store(200_000);
        config.orphan_grace.store(1_000_000);
        config.policy_generation.store(u32::from(GENERATION));
        let [a, b, c, d, e, f] = NEIGHBOUR;
        let [g, h, i, j, k, l] = wan_mac;
        kernel.shared().adjacencies[ADJACENCY].write(&NextHop {
            lower: wan,
            vid: 0,
            ifindex: wan,
            generation: 3,
            port: 2,
            flags: NextHop::RESOLVED,
            macs: [a, b, c, d, e, f, g, h, i, j, k, l],
            mtu: 1500,
        });
        Self { kernel, tap, state, lan, wan, lan_mac, wan_mac, index, blocks: 0, keys: Vec::new() }
    }

    /// The same tables once more, with programs that another thread can run at the same time.
    pub(crate) fn another(&self) -> Kernel {
        let kernel = Kernel::load(&self.state, self.kernel.geometry()).unwrap();
        assert!(kernel.adopted());
        kernel
    }

    pub(crate) fn replace_kernel(&mut self, make: impl FnOnce(&std::path::Path) -> Kernel) {
        self.kernel = make(&self.state);
    }

    pub(crate) fn run(&mut self, program: Program, frame: &[u8], context: Context) -> TestRun {
        self.kernel.test_run(program, frame, context, 1).unwrap()
    }

    /// Publishes one direction of a flow as an active entry.
    pub(crate) fn insert(&mut self, flow: &Flow, direction: usize) {
        let number = self.blocks;
        self.blocks += 1;
        let shared = self.kernel.shared();
        let block = &shared.blocks[number];
        let hot = &block.hot[direction];
        let rewrite = Rewrite {
            source: flow.new_source,
            destination: flow.new_destination,
            ports: flow.new_ports,
            address_delta: 0,
            port_delta: 0,
        }
        .with_deltas(&flow.key.source, &flow.key.destination, flow.key.ports);
        hot.source.store(flow.key.source[3]);
        hot.destination.store(flow.key.destination[3]);
        hot.ports.store(flow.key.ports);
        hot.new_source.store(flow.new_source[3]);
        hot.new_destination.store(flow.new_destination[3]);
        hot.new_ports.store(flow.new_ports);
        hot.deltas.store(u32::from(rewrite.address_delta) | u32::from(rewrite.port_delta) << 16);
        hot.steer.store(
            Steer {
                skb: false,
                adjacency: ADJACENCY as u16,
                ingress: 1,
                action: Action::Forward,
                pending: false,
                epoch: 0,
                policy_generation: GENERATION,
                adjacency_generation: 3,
            }
            .pack(),
        );
        let parts = [&flow.key.source, &flow.key.destination, &flow.new_source, &flow.new_destination];
        for (wide, part) in block.wide.iter().zip(parts) {
            for (cell, word) in wide.iter().zip(part) {
                cell.store(*word);
            }
        }
        // An established connection that has just reached the packet of `Flow::segment`.
        let (sequence, acknowledgment) = TCP_START;
        let flags = u64::from(tcp::flag::SYN | tcp::flag::GRANTED | tcp::flag::KNOWN);
        let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        for (half, mine, theirs) in [(0, sequence, acknowledgment), (1, acknowledgment, sequence)] {
            block.tcp[half ^ direction].sent.store(word(mine, 60_000));
            block.tcp[half ^ direction].allowed.store(word(theirs, theirs + 60_000));
            block.tcp[half ^ direction].state.store(flags);
        }
        let place = (number << 1 | direction) as u32;
        let secret = shared.config[0].secret();
        let entered = index::insert(&shared.buckets, flow.key.hash(&secret), place, |_| unreachable!("there is room"));
        assert_eq!(entered, Entered::Free);
        hot.identity.store(flow.key.identity);
        if self.index == IndexKind::KernelHash {
            self.kernel.insert_key(&flow.key, place).unwrap();
        }
        self.keys.push(flow.key);
    }

    pub(crate) fn remove_all(&mut self) {
        for block in self.kernel.shared().blocks.iter() {
            block.hot.iter().for_each(|hot| hot.identity.store(0));
        }
        for bucket in self.kernel.shared().buckets.iter() {
            bucket.tags.iter().for_each(|tags| tags.store(0));
        }
        for key in std::mem::take(&mut self.keys) {
            self.kernel.remove_key(&key).unwrap();
        }
        self.blocks = 0;
    }
}

/// A packet socket on an interface.
pub(crate) struct Wire(OwnedFd);

impl Wire {
    pub(crate) fn open(interface: &str) -> Self {
        let (index, _) = link(interface);
        let all = (libc::ETH_P_ALL as u16).to_be();
        let timeout = libc::timeval { tv_sec: 5, tv_usec: 0 };
        // SAFETY: plain system calls on values that outlive them; an address of zeros is valid.
        unsafe {
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all));
            assert!(socket >= 0);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = all;
            address.sll_ifindex = index as i32;
            let length = size_of_val(&address) as u32;
            assert_eq!(libc::bind(socket, (&raw const address).cast(), length), 0);
            let length = size_of_val(&timeout) as u32;
            let option = (&raw const timeout).cast();
            assert_eq!(libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, option, length), 0);
            let on = 1i32;
            let option = (&raw const on).cast();
            assert_eq!(libc::setsockopt(socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, option, 4), 0);
            Self(OwnedFd::from_raw_fd(socket))
        }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer has the length that is passed.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize);
    }

    /// The next frame that is wanted; others (the kernel's own) are passed over.
    pub(crate) fn expect(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            let frame = self.next();
            if wanted(&frame) {
                return frame;
            }
        }
    }
}

impl Wire {
    /// The next frame, with the VLAN tag that it had on the wire: the kernel puts it aside.
    fn next(&self) -> Vec<u8> {
        let mut frame = vec![0; 2048];
        let mut control = [0u64; 8];
        let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
        // SAFETY: a message of zeros is valid; the buffers have the lengths that are passed and outlive the call; what
        // the kernel puts into the control buffer is read by its own macros, and the data is of the type that this
        // socket option gives.
        let (got, tag) = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control) as _;
            let got = libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0);
            assert!(got >= 14, "nothing came: {}", std::io::Error::last_os_error());
            let first = libc::CMSG_FIRSTHDR(&raw const message);
            let beside =
                (!first.is_null()).then(|| libc::CMSG_DATA(first).cast::<libc::tpacket_auxdata>().read_unaligned());
            (
                got,
                beside
                    .filter(|beside| beside.tp_status & libc::TP_STATUS_VLAN_VALID != 0)
                    .map(|beside| beside.tp_vlan_tci),
            )
        };
        frame.truncate(got as usize);
        if let Some(tag) = tag {
            let [high, low] = tag.to_be_bytes();
            frame.splice(12..12, [0x81, 0, high, low]);
        }
        frame
    }
}

/// The next frame that was handed down to the punt device.
pub(crate) fn punted(tap: &Tap) -> (tap::VirtioHeader, Vec<u8>) {
    let mut buffer = vec![0; tap::MAX_FRAME];
    for _ in 0..500 {
        if let Some((header, length)) = tap.read(&mut buffer).unwrap()
            && Punt::parse(*buffer.first_chunk().unwrap()).is_some()
        {
            buffer.truncate(length);
            return (header, buffer);
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("nothing was handed down");
}

/// A packet in a slice, with checksums complete.
pub(crate) struct Plain<'a>(pub(crate) SliceFrame<'a>);

impl Frame for Plain<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.0.read(offset)
    }
    fn write<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.0.write(offset)
    }
}

impl Packet for Plain<'_> {
    fn fix_checksum(&mut self, offset: usize, addresses: Delta, ports: Delta, udp: bool) -> Option<()> {
        rewrite::fix_in_place(&mut self.0, offset, addresses, ports, udp, false)
    }

    fn shorten(&mut self, _: usize) -> Option<()> {
        None
    }
}

/// The native function's surroundings: the same memory.
struct Native<'a> {
    shared: &'a Shared,
    locals: Vec<(Address, u32)>,
}

impl Arrays for Native<'_> {
    fn bucket(&self, number: u32) -> Option<&Bucket> {
        self.shared.buckets.get(number as usize)
    }
    fn block(&self, number: u32) -> Option<&Block> {
        self.shared.blocks.get(number as usize)
    }
}

impl Host for Native<'_> {
    const LEVEL: Level = Level::Skb;
    fn config(&self) -> Option<&Config> {
        self.shared.config.first()
    }
    fn port(&self, key: PortKey) -> Option<(u8, &Port)> {
        (0..PORT_PROBES as u32).find_map(|probe| {
            let number = self.shared.port_slots[key.slot(probe) as usize].port_of(key)?;
            Some((number, &self.shared.ports[usize::from(number)]))
        })
    }
    fn find(&self, key: &Key, hash: u64) -> Option<Hit<'_>> {
        lookup::find(self, self.shared.config[0].span(), key, hash).map(|(block, direction)| Hit { block, direction })
    }
    fn adjacency(&self, index: u16) -> Option<&Adjacency> {
        self.shared.adjacencies.get(usize::from(index))
    }
    fn gate(&self, number: u32) -> Option<&Gate> {
        self.shared.gates.get(number as usize)
    }
    fn is_local(&self, destination: &Address, _: Option<&Key>) -> bool {
        let found = self.locals.iter().find(|(address, _)| address == destination);
        found.is_some_and(|(_, flags)| flags & local_flags::TRANSLATED == 0)
    }
}

/// What both made of a packet.
pub(crate) struct Compared {
    pub(crate) verdict: Verdict,
    pub(crate) kernel: TestRun,
}

/// Gives an IPv4 packet the identification of another one, if it may be cut: each packet that is translated gets the next
/// one (RFC 6864 section 5.3.1).
fn identify_alike(frame: &mut [u8], other: &[u8]) {
    if frame[12..14] == [8, 0] && frame[20] & 0x40 == 0 && frame[18..20] != other[18..20] {
        frame[18..20].copy_from_slice(&other[18..20]);
        frame[24..26].fill(0);
        let sum = checksum::finish(checksum::sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Runs a packet through the kernel program and through the native function, from the same state, and fails unless
/// verdict, bytes and records are the same.
pub(crate) fn compare(bed: &mut Bed, frame: &[u8], segment: u32) -> Compared {
    let before = snapshot(bed);
    let context = Context { ifindex: bed.lan, mark: 0, gso_size: segment };
    let program = Program::ingress(bed.index);
    let kernel = bed.run(program, frame, context);
    let after_kernel = snapshot(bed);
    restore(bed, &before);

    let mut copy = frame.to_vec();
    let arrival = Arrival::ethernet(bed.lan, segment);
    let locals = bed.kernel.locals().unwrap();
    let native = Native { shared: bed.kernel.shared(), locals };
    let verdict = forward(&native, &mut Plain(SliceFrame::new(&mut copy)), &arrival, tick());
    if verdict.kind == Kind::HandDown {
        let punt = Punt { port: verdict.port, reason: verdict.reason.number(), gate: verdict.gate as u16 };
        copy[..6].copy_from_slice(&punt.address());
    }
    if verdict.kind == Kind::Forward {
        identify_alike(&mut copy, &kernel.frame);
    }
    let action = match verdict.kind {
        Kind::Forward | Kind::HandDown => 7,
        Kind::Stack => -1,
        _ => 2,
    };
    assert_eq!(kernel.action, action, "{verdict:?} of {frame:02x?}");
    assert_eq!(kernel.frame, copy, "{verdict:?} of {frame:02x?}");
    assert_eq!(after_kernel, snapshot(bed), "records after {verdict:?} of {frame:02x?}");
    if let Some(gate) = verdict.gate.checked_sub(1) {
        let gate = &bed.kernel.shared().gates[gate as usize];
        assert_eq!(gate.read().0, 2, "counted once by each");
        gate.0.store(0);
    }
    Compared { verdict, kernel }
}

/// What packets write in the blocks in use: counters, and the TCP context.
fn snapshot(bed: &Bed) -> Vec<[u64; 5]> {
    let mut all = Vec::new();
    for block in bed.kernel.shared().blocks.iter().take(bed.blocks) {
        for (hot, tcp) in block.hot.iter().zip(&block.tcp) {
            let (packets, bytes) = hot.traffic.read();
            all.push([packets, bytes, tcp.sent.load(), tcp.allowed.load(), tcp.state.load()]);
        }
    }
    all
}

fn restore(bed: &Bed, saved: &[[u64; 5]]) {
    for (block, saved) in bed.kernel.shared().blocks.iter().zip(saved.as_chunks::<2>().0) {
        for ((hot, tcp), saved) in block.hot.iter().zip(&block.tcp).zip(saved) {
            hot.traffic.set(saved[0], saved[1]);
            tcp.sent.store(saved[2]);
            tcp.allowed.store(saved[3]);
            tcp.state.store(saved[4]);
        }
    }
}

/// Whether all checksums of a frame are right.
pub(crate) fn checksums_are_right(frame: &[u8]) -> bool {
    let packet = &frame[14..];
    let header = packet[0] >> 4 != 4 || verify::ipv4_header(packet) == verify::Verified::Valid;
    header && verify::transport(packet) == verify::Verified::Valid
}

/// Packets of known and unknown flows, many of them damaged, always the same ones.
pub(crate) fn frames(count: usize) -> impl Iterator<Item = (Vec<u8>, u32)> {
    let flows = [Flow::udp4(), Flow::tcp4(), Flow::udp6(), Flow::tcp6(), Flow::echo4(), Flow::echo6()];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) as usize % below
    };
    (0..count).map(move |_| {
        let mut frame = flows[next(flows.len())].frame();
        for _ in 0..[0, 0, 1, 1, 2, 3][next(6)] {
            // Mostly in the headers; the length and flags fields are where the interesting cases are.
            let at = 12 + next((frame.len() - 12).min(64));
            match next(3) {
                0 => frame[at] ^= 1 << next(8),
                1 => frame[at] = next(256) as u8,
                _ => frame[at] = frame[at].wrapping_add(1),
            }
        }
        if next(3) == 0 && frame[12..14] == [8, 0] {
            mend(&mut frame);
        }
        if next(8) == 0 {
            frame.truncate(15 + next(frame.len() - 15));
        }
        // The kernel does not run a program on less than a network header.
        let least = match frame[12..14] {
            [8, 0] => 34,
            [0x86, 0xdd] => 54,
            _ => 15,
        };
        frame.resize(frame.len().max(least), 0);
        let segment = if next(8) == 0 { 1 + next(3000) as u32 } else { 0 };
        (frame, segment)
    })
}

/// Makes the IPv4 header checksum right, so that what lies behind it is reached.
fn mend(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = checksum::finish(checksum::sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// Time of one run on a frame, in nanoseconds: the tenth percentile, since whatever disturbs only adds.
pub(crate) fn measure(bed: &mut Bed, program: Program, frame: &[u8], repeat: u32) -> u128 {
    let context = Context { ifindex: bed.lan, ..Context::default() };
    let mut times: Vec<u128> =
        (0..2001).map(|_| bed.kernel.test_run(program, frame, context, repeat).unwrap().duration.as_nanos()).collect();
    times.sort_unstable();
    times[times.len() / 10]
}

/// Time of a hit. One frame is judged sixty times in a row: two entries turn it into one another, the next hop
/// is the port itself, and only the TTL runs out.
pub(crate) fn measure_hits(bed: &mut Bed, flow: &Flow) -> u128 {
    let back = Flow {
        key: Key {
            source: flow.new_source,
            destination: flow.new_destination,
            ports: flow.new_ports,
            identity: flow.key.identity,
        },
        new_source: flow.key.source,
        new_destination: flow.key.destination,
        new_ports: flow.key.ports,
        frame: Vec::new(),
    };
    bed.insert(flow, FORWARD);
    bed.insert(&back, FORWARD);
    let adjacency = &bed.kernel.shared().adjacencies[ADJACENCY];
    let mut hop = adjacency.read().unwrap();
    hop.macs[..6].copy_from_slice(&LAN_MAC);
    adjacency.write(&hop);
    let before = bed.kernel.counters(1).unwrap().of(flowhop_flow::Reason::Forwarded).packets;
    let time = measure(bed, Program::ingress(bed.index), &flow.frame(), 60);
    let after = bed.kernel.counters(1).unwrap().of(flowhop_flow::Reason::Forwarded).packets;
    assert_eq!(after - before, 2001 * 60, "all hits");
    time
}
