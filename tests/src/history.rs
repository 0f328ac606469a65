//! Histories to run the forwarding function through: connections, packets good and bad, changes of settings.
//!
//! Everything follows from a seed. An *episode* is one fresh world with some dozens of connections and a
//! sequence of [`Step`]s; it knows nothing of what the judged code answers.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowhop_flow::record::{Action, NextHop, Steer};

use crate::reference::packet::{checksum_offset, sum, transport_checksum};
use crate::reference::tcp::{Segment, offers};
use crate::reference::{Arrival, Tuple, UsedPorts};

/// Small, fast random numbers (SplitMix64): good enough for choices, the same everywhere for ever.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub const fn below(&mut self, n: u32) -> u32 {
        (((self.bits() >> 32) * n as u64) >> 32) as u32
    }

    /// True in `percent` of cases.
    pub const fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    /// One of some things.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }
}

/// The opening of a TCP connection, as the slow path saw it.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The SYN.
    pub segment: Segment,
    /// Window scale offered.
    pub scale: Option<u8>,
    /// SACK offered.
    pub sack: bool,
}

/// A packet to judge.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The frame.
    pub bytes: Vec<u8>,
    /// What is known beside.
    pub arrival: Arrival,
    /// What it is, for people.
    pub about: String,
}

/// One step of a history.
#[derive(Clone, Debug)]
pub enum Step {
    /// A connection is made. Its number is how many were asked for before.
    Connect(Box<([Tuple; 2], [Steer; 2], Option<Opening>)>),
    /// The second SYN of a simultaneous open (RFC 9293 section 3.5), which the slow path has accepted.
    SecondSyn(usize, Box<Opening>),
    /// A connection is deleted, and its block is free.
    Remove(usize),
    /// A direction goes elsewhere from now on.
    Steer(usize, usize, Steer),
    /// A direction waits until its packets have left user space.
    Pend(usize, usize),
    /// They have.
    Raise(usize, usize),
    /// A next hop changes; `true`: stays half written.
    Neighbour(u16, NextHop, bool),
    /// The policy has another generation.
    Policy(u16),
    /// Time passes.
    Advance(u32),
    /// The daemon was last known alive so many ticks ago.
    Silence(u32),
    /// Whether policy judges packets to the box.
    JudgeLocal(bool),
    /// A packet comes in.
    Packet(Box<Packet>),
}

/// Limits that an episode starts with, in ticks.
pub const ALIVE_FOR: u32 = 4000;
/// See [`ALIVE_FOR`].
pub const ORPHAN_GRACE: u32 = 20_000;
/// Interface indices of ports.
pub const PORTS: [u32; 4] = [2, 3, 4, 6];
/// Interface index of no port.
pub const NO_PORT: u32 = 5;
/// The last port is a VLAN of a device that is a port itself: the index of that device, and the VLAN id.
pub const VLAN: (u32, u16) = (2, 100);
/// The port that programs in drivers leave alone.
pub const NOT_IN_DRIVER: u32 = 4;
/// Generation that the policy starts with.
pub const POLICY: u16 = 7;

/// Number of the port of one of the [`PORTS`].
#[must_use]
pub const fn port_number(ifindex: u32) -> u8 {
    ifindex as u8 * 3
}

/// Link-layer address of a port.
#[must_use]
pub const fn port_mac(ifindex: u32) -> [u8; 6] {
    [0x02, 0, 0x5e, 0x10, 0x20, ifindex as u8]
}

/// What a frame is like on the wire where a program in a driver sees it: a VLAN device's has its tag, with priority
/// bits, and comes in through the device below.
#[must_use]
pub fn on_the_wire(packet: &Packet) -> Packet {
    let mut packet = packet.clone();
    if packet.arrival.ifindex == PORTS[3] {
        packet.arrival.ifindex = VLAN.0;
        if packet.bytes.len() >= 12 {
            let [high, low] = VLAN.1.to_be_bytes();
            packet.bytes.splice(12..12, [0x81, 0, 0xa0 | high, low]);
        }
    }
    packet.arrival.segment = 0;
    packet
}

/// Next hops that an episode starts with: toward the inside, the outside, a VLAN with a small MTU, unresolved, through a
/// device that takes no frames from drivers, and to the VLAN of [`VLAN`].
#[must_use]
pub fn neighbours() -> [NextHop; 6] {
    let hop = |i: u8, ifindex, mtu, flags, (lower, vid)| NextHop {
        lower,
        vid,
        ifindex,
        generation: 100 + u16::from(i),
        port: port_number(ifindex),
        flags,
        macs: [2, 1, 1, 1, 1, i, 2, 0, 0x5e, 0x10, 0x20, ifindex as u8],
        mtu,
    };
    [
        hop(0, 2, 1500, 1, (2, 0)),
        hop(1, 3, 1500, 1, (3, 0)),
        hop(2, 3, 600, 1, (3, 20)),
        hop(3, 3, 1500, 0, (3, 0)),
        hop(4, 4, 9000, 1, (0, 0)),
        hop(5, 6, 1500, 1, VLAN),
    ]
}

const NAT4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const NAT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
const OWN4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe);

/// Ports of the translated own addresses that translations use.
#[must_use]
pub fn used_ports() -> UsedPorts {
    let mut used = HashSet::new();
    for row in 0..3 {
        used.extend((0..400).map(|port| (row, port)));
        used.extend((20_000..24_000).map(|port| (row, port)));
    }
    used
}

/// The box's own addresses.
#[must_use]
pub fn locals() -> Vec<(IpAddr, Option<UsedPorts>)> {
    vec![(OWN4.into(), None), (OWN6.into(), None), (NAT4.into(), Some(used_ports())), (NAT6.into(), Some(used_ports()))]
}

/// One TCP peer, as far as its packets can be made up.
#[derive(Clone, Debug, Default)]
struct Peer {
    next: u32,
    received: u32,
    window: u16,
    largest: u32,
    scale: Option<u8>,
    sack: bool,
    granted: u32,
    open: bool,
    finished: bool,
    sent: Vec<(u32, u32, u8)>,
    late: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Talk {
    keys: [Tuple; 2],
    steers: [Steer; 2],
    peers: [Peer; 2],
    number: usize,
    tcp_packets: u32,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const URG: u8 = 32;
const ECE: u8 = 64;
const CWR: u8 = 128;

/// One world's history.
#[derive(Debug)]
pub struct Episode {
    random: Random,
    talks: Vec<Talk>,
    numbers: usize,
    policy: u16,
    hops: [NextHop; 6],
    torn: [bool; 6],
    steps: Vec<Step>,
}

impl Episode {
    /// All steps of an episode with so many packets.
    #[must_use]
    pub fn steps(seed: u64, packets: usize) -> Vec<Step> {
        let mut episode = Self {
            random: Random::new(seed),
            talks: Vec::new(),
            numbers: 0,
            policy: POLICY,
            hops: neighbours(),
            torn: [false; 6],
            steps: Vec::new(),
        };
        let talks = 24 + episode.random.below(40);
        for n in 0..talks {
            let talk = episode.invent(n);
            episode.connect(talk);
        }
        let mut made = 0;
        while made < packets {
            if episode.random.chance(6) {
                episode.change();
            } else {
                episode.packet();
                made += 1;
            }
        }
        episode.steps
    }

    /// A connection from the inside, or from the outside to a published port.
    fn invent(&mut self, n: u32) -> Talk {
        let random = &mut self.random;
        let is_v4 = random.chance(55);
        let protocol = match (random.below(20), is_v4) {
            (0..=9, _) => 6,
            (10..=14, _) => 17,
            (15..=16, true) => 1,
            (15..=16, false) => 58,
            _ => random.pick(&[47, 50, 132, 136, 253, if is_v4 { 58 } else { 1 }]),
        };
        let (low, high) = ((n % 250) as u16, random.below(3) as u16);
        let address = |v4: [u8; 4], v6: u16| -> IpAddr {
            if is_v4 {
                Ipv4Addr::from(v4).into()
            } else {
                Ipv6Addr::new(v6, 0xdb8, high, 0, 0x1234, 0, 0, low + 1).into()
            }
        };
        let inside = address([10, high as u8, 0, low as u8 + 1], 0xfd00);
        let outside = address([198, 51, 100, low as u8 + 1], 0x2001);
        let own: IpAddr = if is_v4 { NAT4.into() } else { NAT6.into() };
        let has_ports = matches!(protocol, 6 | 17);
        let echo = matches!((protocol, is_v4), (1, true) | (58, false));
        let (request, reply) = if is_v4 { (8 << 8, 0) } else { (128 << 8, 129 << 8) };
        let (sp, dp, np) = match (has_ports, echo) {
            (true, _) => (1024 + random.below(60_000) as u16, random.pick(&[53, 80, 443, 5060]), 20_000 + n as u16),
            (_, true) => (1 + random.below(60_000) as u16, request, 20_000 + n as u16),
            _ => (0, 0, 0),
        };
        let key = |source, destination, source_port, destination_port| Tuple {
            source,
            destination,
            protocol,
            source_port,
            destination_port,
        };
        let plain = [
            key(inside, outside, sp, dp),
            if echo { key(outside, inside, sp, reply) } else { key(outside, inside, dp, sp) },
        ];
        let keys = match (random.below(10), echo) {
            (0..=2, _) => plain,
            // Source translation of address and port (or identifier).
            (3..=6, true) => [plain[0], key(outside, own, np, reply)],
            (3..=6, false) => [plain[0], key(outside, if has_ports { own } else { one_to_one(own, n) }, dp, np)],
            // Address only.
            (7, _) => [plain[0], Tuple { destination: one_to_one(own, n), ..plain[1] }],
            // Ports whose sum stays: both change, the checksum does not.
            (8, false) if has_ports => [plain[0], key(outside, inside, dp.wrapping_sub(7), sp.wrapping_add(7))],
            // A published port: from the outside to an inside host.
            (_, false) if has_ports => [key(outside, own, sp, n as u16), key(inside, outside, 8080, sp)],
            _ => plain,
        };
        let from_outside = keys[0].source == outside;
        let there = random.pick(&[2, 2, 3, 4, 5, 1, 1, 1, 1, 1, 1, 1]);
        let (inner, back) = random.pick(&[(2, 0), (2, 0), (6, 5)]);
        let passed = [random.chance(10), random.chance(10)];
        let steer = |direction: usize, adjacency: u16, ifindex| Steer {
            skb: passed[direction],
            adjacency,
            ingress: port_number(ifindex),
            action: Action::Forward,
            pending: false,
            epoch: 0,
            policy_generation: self.policy,
            adjacency_generation: self.hops[usize::from(adjacency)].generation,
        };
        let steers = if from_outside {
            [steer(0, back, 3), steer(1, 1, inner)]
        } else {
            [steer(0, there, inner), steer(1, back, 3)]
        };
        Talk { keys, steers, peers: <[Peer; 2]>::default(), number: 0, tcp_packets: 0 }
    }

    fn connect(&mut self, mut talk: Talk) {
        talk.number = self.numbers;
        self.numbers += 1;
        talk.tcp_packets = 0;
        for steer in &mut talk.steers {
            steer.policy_generation = self.policy;
            steer.adjacency_generation = self.hops[usize::from(steer.adjacency)].generation;
            steer.action = Action::Forward;
            steer.pending = false;
        }
        talk.peers = <[Peer; 2]>::default();
        let opening = (talk.keys[0].protocol == 6).then(|| {
            let payload = if self.random.chance(10) { self.random.below(1200) } else { 0 };
            self.open(&mut talk, 0, payload)
        });
        self.steps.push(Step::Connect(Box::new((talk.keys, talk.steers, opening))));
        self.talks.push(talk);
    }

    /// The SYN of a side, entered into its state.
    fn open(&mut self, talk: &mut Talk, side: usize, payload: u32) -> Opening {
        let random = &mut self.random;
        let peer = &mut talk.peers[side];
        let near = random.below(5000);
        let sequence = random.pick(&[random.clone().bits() as u32, u32::MAX - near, (1 << 31) - near, 0, u32::MAX]);
        peer.window = random.pick(&[0, 1, 512, 1024, 29_200, 65_535, 64_240]);
        peer.largest = u32::from(peer.window).max(1);
        let options = syn_options(random);
        let (scale, sack) = offers(&options).unwrap_or_default();
        peer.scale = scale;
        peer.sack = sack;
        peer.open = true;
        peer.next = sequence.wrapping_add(1).wrapping_add(payload);
        let segment = Segment { sequence, acknowledgment: 0, flags: SYN, window: peer.window, options, payload };
        Opening { segment, scale, sack }
    }

    /// Something beside packets happens.
    fn change(&mut self) {
        if self.talks.is_empty() {
            return;
        }
        let which = self.random.below(self.talks.len() as u32) as usize;
        let direction = self.random.below(2) as usize;
        match self.random.below(40) {
            0..=5 => {
                let ticks = self.random.pick(&[0, 1, 3, 300]);
                self.steps.push(Step::Advance(ticks));
            }
            6 => {
                let near = self.random.below(5);
                let silence = [ALIVE_FOR - 2 + near, ORPHAN_GRACE - 2 + near, ALIVE_FOR + 900, ORPHAN_GRACE + 900];
                let silence = self.random.pick(&silence);
                self.steps.push(Step::Silence(silence));
                // Some packets under it, then the daemon is back.
                for _ in 0..4 {
                    self.packet();
                }
                self.steps.push(Step::Silence(self.random.below(2) * 5));
            }
            7 => self.steps.push(Step::JudgeLocal(self.random.chance(30))),
            8 => {
                self.policy = self.policy.wrapping_add(1);
                self.steps.push(Step::Policy(self.policy));
                // Most connections are judged again, one by one; the others stay as they are for a while.
                for n in 0..self.talks.len() {
                    for direction in 0..2 {
                        if self.random.chance(97) {
                            self.renew(n, direction);
                        }
                    }
                }
            }
            9..=14 => {
                let index = self.random.below(self.hops.len() as u32) as usize;
                let hop = &mut self.hops[index];
                match self.random.below(6) {
                    5 => hop.lower = if hop.lower == 0 { hop.ifindex } else { 0 },
                    0 => hop.generation = hop.generation.wrapping_add(1),
                    1 => hop.flags ^= NextHop::RESOLVED,
                    2 => hop.mtu = self.random.pick(&[68, 576, 600, 1280, 1499, 1500, 9000]),
                    3 => hop.macs[5] ^= self.random.below(255) as u8,
                    _ => self.torn[index] ^= true,
                }
                let hop = *hop;
                self.steps.push(Step::Neighbour(index as u16, hop, self.torn[index]));
                self.packet();
                self.packet();
                // Mended soon, so that most packets are forwarded.
                self.torn[index] = false;
                self.hops[index].flags = u8::from(index != 3 || self.random.chance(20));
                self.hops[index].lower = neighbours()[index].lower;
                self.hops[index].mtu = self.hops[index].mtu.max(if index == 2 { 600 } else { 1500 });
                self.steps.push(Step::Neighbour(index as u16, self.hops[index], false));
                for n in 0..self.talks.len() {
                    for direction in 0..2 {
                        if self.talks[n].steers[direction].adjacency == index as u16 && self.random.chance(95) {
                            self.renew(n, direction);
                        }
                    }
                }
            }
            15..=20 => {
                let actions = [Action::User, Action::Stack, Action::Drop, Action::Forward, Action::Forward];
                self.talks[which].steers[direction].action = self.random.pick(&actions);
                self.renew(which, direction);
                self.packet_of(which);
                self.talks[which].steers[direction].action = Action::Forward;
                self.renew(which, direction);
            }
            21..=26 => {
                let number = self.talks[which].number;
                self.steps.push(Step::Pend(number, direction));
                for _ in 0..self.random.below(6) {
                    self.packet_of(which);
                }
                self.steps.push(Step::Raise(number, direction));
                self.packet_of(which);
                if self.random.chance(70) {
                    self.renew(which, direction);
                }
            }
            27..=31 => {
                let old = self.talks.swap_remove(which);
                self.steps.push(Step::Remove(old.number));
                if self.random.chance(80) {
                    self.connect(old);
                } else {
                    let n = self.numbers as u32;
                    let talk = self.invent(n);
                    self.connect(talk);
                }
            }
            32..=34 => {
                self.talks[which].steers[direction].skb ^= true;
                self.renew(which, direction);
                self.packet_of(which);
            }
            _ => {
                // A key that is taken: nothing is made.
                let talk = self.talks[which].clone();
                let mut keys = talk.keys;
                keys[direction].source_port ^= 0x4000;
                if talk.keys[0].protocol == 17 {
                    self.steps.push(Step::Connect(Box::new((keys, talk.steers, None))));
                    self.numbers += 1;
                }
            }
        }
    }

    fn renew(&mut self, which: usize, direction: usize) {
        let talk = &mut self.talks[which];
        let steer = &mut talk.steers[direction];
        steer.policy_generation = self.policy;
        steer.adjacency_generation = self.hops[usize::from(steer.adjacency)].generation;
        self.steps.push(Step::Steer(talk.number, direction, *steer));
    }

    fn packet(&mut self) {
        let which = self.random.below(self.talks.len() as u32) as usize;
        self.packet_of(which);
    }

    fn packet_of(&mut self, which: usize) {
        let mut talk = self.talks[which].clone();
        let direction = self.random.below(2) as usize;
        let (direction, l4, mut about) = match talk.keys[0].protocol {
            6 => self.segment(&mut talk, direction),
            17 => {
                let length = self.length();
                let mut l4 = vec![0; 8];
                l4[..4].copy_from_slice(&ports(&talk.keys[direction]));
                l4[4..6].copy_from_slice(&(8 + length as u16).to_be_bytes());
                l4.extend(self.payload(length));
                (direction, l4, String::from("UDP"))
            }
            _ if talk.keys[0].is_echo() => {
                let key = &talk.keys[direction];
                let [kind, code] = key.destination_port.to_be_bytes();
                let [a, b] = key.source_port.to_be_bytes();
                let length = self.length();
                // The sequence number is never 0: see `Delta::apply` for the datum that becomes all zeros.
                let mut l4 = vec![kind, code, 0, 0, a, b, 0, 1 + self.random.below(250) as u8];
                l4.extend(self.payload(length));
                (direction, l4, String::from("echo"))
            }
            protocol => {
                let length = self.length();
                (direction, self.payload(length), format!("protocol {protocol}"))
            }
        };
        let key = talk.keys[direction];
        let mut arrival = Arrival { ifindex: u32::from(talk.steers[direction].ingress) / 3, ..Arrival::default() };
        arrival.partial = matches!(key.protocol, 6 | 17) && self.random.chance(8);
        let ttl = self.random.pick(&[64, 64, 64, 64, 255, 63, 2, 3]);
        let mut bytes = frame(&key, ttl, &l4, port_mac(arrival.ifindex), arrival.partial);
        if bytes.len() > 1600 {
            arrival.segment = self.random.pick(&[1200, 1400, 1448, 1460, 1461]);
        }
        let spoiled = self.random.chance(30);
        if spoiled {
            about.push_str(", ");
            about.push_str(self.spoil(&mut bytes, &mut arrival, &key));
        }
        // What is lost at the box is sent again; sometimes a peer goes on as if it had not been.
        if !spoiled || self.random.chance(10) {
            self.talks[which] = talk;
        }
        // A frame that was delayed on the way comes in after this one.
        let late = if self.random.chance(10) { self.talks[which].peers[direction].late.pop() } else { None };
        if key.protocol == 6 && !arrival.partial && arrival.segment == 0 && self.random.chance(4) {
            self.talks[which].peers[direction].late.push(bytes.clone());
        }
        self.steps.push(Step::Packet(Box::new(Packet { bytes, arrival, about })));
        if let Some(bytes) = late {
            let arrival = Arrival { partial: false, segment: 0, ..arrival };
            self.steps.push(Step::Packet(Box::new(Packet { bytes, arrival, about: String::from("late TCP") })));
        }
    }

    fn length(&mut self) -> usize {
        match self.random.below(20) {
            0 => 0,
            1 => 1480 - self.random.below(60) as usize,
            2 => 1 + self.random.below(3) as usize,
            3 if self.random.chance(20) => 1600 + self.random.below(8000) as usize,
            _ => self.random.below(200) as usize,
        }
    }

    fn payload(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.random.bits().to_ne_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// The next TCP segment of a connection: mostly what two peers would say, some at the edges of the rules.
    fn segment(&mut self, talk: &mut Talk, direction: usize) -> (usize, Vec<u8>, String) {
        talk.tcp_packets += 1;
        if !talk.peers[1].open
            && let Some(answer) = self.answer(talk)
        {
            return answer;
        }
        let (mine, other) = (talk.peers[direction].clone(), talk.peers[direction ^ 1].clone());
        let random = &mut self.random;
        let mut sequence = mine.next;
        let mut acknowledgment = other.next;
        let mut flags = ACK;
        let mut payload = 0;
        let mut window = mine.window;
        let mut valid = true;
        let about = match random.below(40) {
            0..=13 => {
                payload = random.pick(&[1, 100, 536, 1448, 1460, random.clone().below(1400)]);
                flags |= random.pick(&[0, PSH, PSH | URG, ECE, CWR]);
                "data"
            }
            14..=17 => "acknowledgment",
            18 => {
                acknowledgment = other.next.wrapping_sub(random.below(3000));
                "delayed acknowledgment"
            }
            19..=20 => {
                let again = mine.sent.get(random.below(mine.sent.len().max(1) as u32) as usize);
                (sequence, payload, flags) = again.map_or((sequence, 0, ACK), |&(s, p, f)| (s, p, f));
                "retransmission"
            }
            21 => {
                sequence = mine.next.wrapping_sub(1);
                payload = random.below(2);
                "keepalive"
            }
            22 if random.chance(30) => {
                window = 0;
                "zero window"
            }
            23 => {
                window = random.bits() as u16;
                "window"
            }
            24 if talk.tcp_packets > 20 => {
                flags |= FIN;
                "FIN"
            }
            25 => {
                flags = FIN | if random.chance(50) { 0 } else { PSH | URG };
                valid = false;
                "FIN without ACK"
            }
            26 if talk.tcp_packets > 40 => {
                flags = RST | random.pick(&[0, ACK]);
                sequence = random.pick(&[mine.next, other.received, other.granted]);
                "RST"
            }
            27 => {
                flags = RST | random.pick(&[0, ACK]);
                let some = random.below(20_000);
                sequence = random.pick(&[
                    mine.next.wrapping_add(1),
                    mine.next.wrapping_add(some),
                    other.granted.wrapping_add(1),
                    mine.next.wrapping_sub(some),
                    random.clone().bits() as u32,
                ]);
                valid = false;
                "inexact RST"
            }
            28..=30 => {
                // Rules 1 and 2 at their edges.
                payload = random.below(3);
                let edge = random.below(3).wrapping_sub(1);
                sequence = random.pick(&[
                    other.granted.wrapping_add(edge),
                    mine.next.wrapping_sub(other.largest).wrapping_sub(payload).wrapping_add(edge),
                    mine.next.wrapping_add(1 << 31).wrapping_add(edge),
                ]);
                valid = false;
                "sequence at an edge"
            }
            31..=33 => {
                // Rules 3 and 4 at their edges.
                let edge = random.below(3).wrapping_sub(1);
                acknowledgment = random.pick(&[
                    other.next.wrapping_add(edge),
                    other.next.wrapping_sub(66_000).wrapping_add(edge),
                    other.next.wrapping_sub(mine.largest).wrapping_add(edge),
                    other.next.wrapping_add(1 << 31),
                ]);
                valid = false;
                "acknowledgment at an edge"
            }
            34 => {
                flags = random.bits() as u8;
                valid = false;
                "random flags"
            }
            35 => {
                flags = SYN | if random.chance(50) { ACK } else { 0 };
                sequence = random.pick(&[mine.next.wrapping_sub(1), mine.next, random.clone().bits() as u32]);
                valid = false;
                "late SYN"
            }
            36 => {
                sequence = random.bits() as u32;
                acknowledgment = random.bits() as u32;
                valid = false;
                "random numbers"
            }
            37 if random.chance(15) => {
                payload = 1600 + random.below(20_000);
                "super-packet"
            }
            38 => {
                // A hole: what was sent before was lost in front of the box.
                sequence = mine.next.wrapping_add(random.pick(&[100, 1460]));
                payload = 100;
                "gap"
            }
            _ => {
                payload = random.below(300);
                "data"
            }
        };
        let options = match random.below(4) {
            0 => vec![],
            1 => vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
            _ => vec![1, 1, 1, 0],
        };
        let options = if flags & SYN != 0 { syn_options(random) } else { options };
        // Peers keep to the window that they were granted, mostly.
        let end = sequence.wrapping_add(payload);
        if valid && payload < 1600 && other.granted.wrapping_sub(end) >= 1 << 31 && random.chance(95) {
            (sequence, payload) = (mine.next, 0);
            flags &= !FIN;
        }
        if valid {
            let peer = &mut talk.peers[direction];
            let scale = if other.scale.is_some() { peer.scale.unwrap_or(0) } else { 0 };
            let offered = u32::from(window) << scale;
            let end = sequence.wrapping_add(payload).wrapping_add(u32::from(flags & FIN != 0));
            if end.wrapping_sub(peer.next) < 1 << 30 {
                peer.next = end;
                peer.sent.push((sequence, payload, flags));
                if peer.sent.len() > 6 {
                    peer.sent.remove(0);
                }
            }
            peer.largest = peer.largest.max(offered);
            peer.received = acknowledgment;
            peer.granted = acknowledgment.wrapping_add(offered);
            peer.finished |= flags & FIN != 0;
        }
        let key = talk.keys[direction];
        let segment = Segment { sequence, acknowledgment, flags, window, options, payload };
        let about = describe(about, direction, &segment);
        (direction, self.tcp_bytes(&key, &segment), about)
    }

    /// The other side's answer to the SYN.
    fn answer(&mut self, talk: &mut Talk) -> Option<(usize, Vec<u8>, String)> {
        let expected = talk.peers[0].next;
        let (about, direction, segment) = match self.random.below(16) {
            0..=7 => {
                let mut segment = self.open(talk, 1, 0).segment;
                segment.flags = SYN | ACK;
                segment.acknowledgment = expected.wrapping_sub(if self.random.chance(5) { 100 } else { 0 });
                let peer = &mut talk.peers[1];
                peer.received = expected;
                peer.granted = expected.wrapping_add(u32::from(peer.window));
                if offers(&segment.options).is_none() {
                    // It will not be taken; another one follows.
                    peer.open = false;
                }
                ("SYN-ACK", 1, segment)
            }
            8 => {
                let flags = RST | self.random.pick(&[0, ACK]);
                let acknowledgment = expected.wrapping_add(self.random.pick(&[0, 0, 1, u32::MAX, 20_000]));
                let sequence = self.random.pick(&[0, 77]);
                let segment = Segment { sequence, acknowledgment, flags, window: 0, options: vec![], payload: 0 };
                ("refusal", 1, segment)
            }
            9 => {
                let mut segment = self.open(talk, 1, 0).segment;
                talk.peers[1].open = false;
                segment.flags = SYN | ACK;
                segment.acknowledgment = expected.wrapping_add(self.random.pick(&[1, 50_000, 1 << 31]));
                ("wrong SYN-ACK", 1, segment)
            }
            10 => {
                let opening = self.open(talk, 1, 0);
                let mut segment = opening.segment.clone();
                self.steps.push(Step::SecondSyn(talk.number, Box::new(opening)));
                segment.flags = SYN | ACK;
                segment.acknowledgment = expected;
                ("second SYN, then SYN-ACK", 1, segment)
            }
            11 => {
                let flags = self.random.pick(&[SYN, ACK, RST, FIN | ACK, SYN | ACK]);
                let sequence = expected.wrapping_sub(u32::from(flags == SYN));
                let options = vec![2, 4, 5, 180];
                ("early", 0, Segment { sequence, acknowledgment: 0, flags, window: 1000, options, payload: 0 })
            }
            _ => return None,
        };
        let key = talk.keys[direction];
        Some((direction, self.tcp_bytes(&key, &segment), describe(about, direction, &segment)))
    }

    fn tcp_bytes(&mut self, key: &Tuple, segment: &Segment) -> Vec<u8> {
        let mut l4 = Vec::with_capacity(20 + segment.options.len() + segment.payload as usize);
        l4.extend(ports(key));
        l4.extend(segment.sequence.to_be_bytes());
        l4.extend(segment.acknowledgment.to_be_bytes());
        l4.push(((20 + segment.options.len() as u8) / 4) << 4);
        l4.push(segment.flags);
        l4.extend(segment.window.to_be_bytes());
        l4.extend([0, 0, 0, 0]);
        l4.extend(&segment.options);
        let payload = self.payload(segment.payload as usize);
        l4.extend(payload);
        l4
    }

    /// Makes a good frame a bad or strange one; tells in what way.
    fn spoil(&mut self, bytes: &mut Vec<u8>, arrival: &mut Arrival, key: &Tuple) -> &'static str {
        let is_v4 = key.source.is_ipv4();
        let random = &mut self.random;
        let transport = if is_v4 { 34 } else { 54 };
        match random.below(34) {
            0 | 1 => {
                let ttl = random.pick(&[0, 1, 2]);
                bytes[if is_v4 { 22 } else { 21 }] = ttl;
                seal(bytes, is_v4);
                "TTL at the end"
            }
            2 if is_v4 => {
                let word: u16 = random.pick(&[0x2000, 0x2001, 0x0001, 0x1fff, 0x4000, 0x8000, 0x6000]);
                bytes[20..22].copy_from_slice(&word.to_be_bytes());
                seal(bytes, is_v4);
                "fragment bits"
            }
            2 | 3 if !is_v4 => {
                bytes[20] = random.pick(&[44, 0, 43, 51, 59, 60, 135, 139, 140]);
                "extension header"
            }
            3 | 4 if is_v4 => {
                bytes.splice(34..34, [1, 1, 1, 0]);
                bytes[14] = 0x46;
                let length = (bytes.len() - 14) as u16;
                bytes[16..18].copy_from_slice(&length.to_be_bytes());
                bytes[24..26].fill(0);
                let checksum = !(sum(&bytes[14..38]) as u16);
                bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
                "options"
            }
            5 if is_v4 => {
                bytes[24] ^= 1 + random.below(255) as u8;
                "bad header checksum"
            }
            6 => {
                bytes[14] = random.pick(&[0x44, 0x40, 0x54, 0x65, 0x64, 0x60, 0x45, 0x4f]);
                seal(bytes, is_v4);
                "version or header length"
            }
            7 => {
                let at = if is_v4 { 16 } else { 18 };
                let length: u16 = random.pick(&[0, 19, 20, 27, 28, 39, 40, random.clone().bits() as u16]);
                bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
                seal(bytes, is_v4);
                "another length"
            }
            8 | 9 => {
                let at = random.below(bytes.len() as u32) as usize;
                bytes[at] ^= 1 << random.below(8);
                "a flipped bit"
            }
            10 => {
                let at = 14 + random.below(60) as usize;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                    seal(bytes, is_v4);
                }
                "a flipped bit, sealed"
            }
            11 | 12 => {
                bytes.truncate(random.below(bytes.len() as u32 + 1) as usize);
                "truncated"
            }
            13 => {
                bytes.truncate(transport + random.below(24) as usize);
                let length = (bytes.len() - if is_v4 { 14 } else { 54 }) as u16;
                let at = if is_v4 { 16 } else { 18 };
                bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
                seal(bytes, is_v4);
                "short transport"
            }
            14 | 15 => {
                let length = bytes.len().max(60) + random.pick(&[0, 0, 6]);
                bytes.resize(length, 0xa5);
                "padding"
            }
            16 => {
                arrival.ifindex = random.pick(&[PORTS[0], PORTS[1], PORTS[2], PORTS[3], NO_PORT]);
                if arrival.ifindex != NO_PORT {
                    bytes[..6].copy_from_slice(&port_mac(arrival.ifindex));
                }
                "another interface"
            }
            17 => {
                bytes[random.below(6) as usize] ^= 2;
                "another station"
            }
            18 => {
                let mac = random.pick(&[[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]]);
                bytes[..6].copy_from_slice(&mac);
                "multicast frame"
            }
            19 => {
                let kind: u16 = random.pick(&[0x0806, 0x88cc, 0x8847, 0x0801, 0, 0x0800, 0x86dd]);
                bytes[12..14].copy_from_slice(&kind.to_be_bytes());
                "another ethertype"
            }
            20 => {
                if random.chance(50) {
                    arrival.tagged = true;
                } else {
                    // Nobody's, double, and priority tags.
                    let tags = [[0x81, 0, 0, 5], [0x88, 0xa8, 0, 5], [0x81, 0, 0xe0, 0], [0x81, 0, 0, 100]];
                    bytes.splice(12..12, random.pick(&tags));
                }
                "VLAN"
            }
            21 if key.protocol == 17 => {
                bytes[transport + 6..transport + 8].fill(0);
                // Without a checksum nothing can be partial.
                arrival.partial = false;
                "no checksum (RFC 768)"
            }
            22 | 23 if matches!(key.protocol, 6 | 17) || key.is_echo() => {
                let field = transport + checksum_offset(key.protocol);
                let wrong = random.pick(&[0, 0xffff, 1, random.clone().bits() as u16]);
                bytes[field..field + 2].copy_from_slice(&wrong.to_be_bytes());
                arrival.partial = false;
                "wrong checksum"
            }
            24 => {
                let protocol = random.pick(&[1, 58, 6, 17, 132]);
                bytes[if is_v4 { 23 } else { 20 }] = protocol;
                seal(bytes, is_v4);
                // A partial checksum of one protocol is no field of another.
                arrival.partial = false;
                "another protocol"
            }
            25 | 26 => {
                let kind = if is_v4 {
                    random.pick(&[3, 4, 5, 11, 12, 13, 8])
                } else {
                    random.pick(&[1, 2, 3, 4, 133, 134, 135, 136, 137, 138])
                };
                let code = random.below(3) as u8;
                let message = [&[kind, code, 0, 0, 0, 0, 0, 1][..], &[0x45; 40]].concat();
                let key = Tuple { protocol: if is_v4 { 1 } else { 58 }, ..*key };
                arrival.partial = false;
                arrival.segment = 0;
                *bytes = frame(&key, random.pick(&[255, 64]), &message, port_mac(arrival.ifindex), false);
                "ICMP error or neighbour discovery"
            }
            27 => {
                let (at, length) = if is_v4 { (30, 4) } else { (38, 16) };
                let mut address = vec![0; length];
                let first = if is_v4 { random.pick(&[224, 239, 255]) } else { random.pick(&[0xff, 0xfe]) };
                address[0] = first;
                address[1] = if first == 0xfe { 0x80 } else { first };
                address[length - 1] = if first == 255 { 255 } else { 1 };
                if first == 255 && is_v4 {
                    address.fill(255);
                }
                bytes[at..at + length].copy_from_slice(&address);
                seal(bytes, is_v4);
                "link-local destination"
            }
            28..=30 => {
                let (at, length) = if is_v4 { (30, 4) } else { (38, 16) };
                let own = random.chance(50);
                let octets = match (is_v4, own) {
                    (true, true) => OWN4.octets().to_vec(),
                    (true, false) => NAT4.octets().to_vec(),
                    (false, true) => OWN6.octets().to_vec(),
                    (false, false) => NAT6.octets().to_vec(),
                };
                bytes[at..at + length].copy_from_slice(&octets);
                if matches!(key.protocol, 6 | 17) && bytes.len() > transport + 4 {
                    let port: u16 = random.pick(&[22, 500, 20_001, 65_535]);
                    bytes[transport + 2..transport + 4].copy_from_slice(&port.to_be_bytes());
                } else if bytes.len() > transport + 8 {
                    bytes[transport + 4] ^= random.below(2) as u8 * 0x4e;
                }
                seal(bytes, is_v4);
                "to the box"
            }
            31 | 32 if bytes.len() > transport + 4 => {
                bytes[transport] ^= 0x10;
                "another source port"
            }
            _ => {
                let at = if is_v4 { 26 + random.below(8) } else { 22 + random.below(32) } as usize;
                bytes[at] ^= 1 << random.below(8);
                seal(bytes, is_v4);
                "another address"
            }
        }
    }
}

/// Another own address for each connection, for translations without ports.
fn one_to_one(own: IpAddr, n: u32) -> IpAddr {
    match own {
        IpAddr::V4(_) => Ipv4Addr::from([203, 0, 113, 10 + (n % 200) as u8]).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xfff0, 0, 0, 9, 0, 10 + n as u16).into(),
    }
}

fn describe(about: &str, direction: usize, s: &Segment) -> String {
    let Segment { sequence, acknowledgment, flags, window, payload, .. } = s;
    format!(
        "TCP {about}, side {direction}: seq {sequence} ack {acknowledgment} flags {flags:#04x} window {window} payload {payload}"
    )
}

fn ports(key: &Tuple) -> [u8; 4] {
    let ([a, b], [c, d]) = (key.source_port.to_be_bytes(), key.destination_port.to_be_bytes());
    [a, b, c, d]
}

/// Options of a SYN, good and bad.
fn syn_options(random: &mut Random) -> Vec<u8> {
    let scale = random.pick(&[0, 2, 7, 14, 15, 255]);
    match random.below(12) {
        0 => vec![],
        1..=2 => vec![2, 4, 5, 180],
        3 => vec![2, 4, 5, 180, 1, 3, 3, scale],
        4..=6 => vec![2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, scale],
        // RFC 7413: a cookie.
        7 => vec![2, 4, 5, 180, 4, 2, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, scale],
        8 => vec![3, 3, scale, 0, 3, 3, 9, 9],
        9 => vec![3, 3, scale, 2],
        10 => random.pick(&[[3, 1, 0, 0], [1, 1, 1, 8], [2, 40, 0, 0], [1, 1, 4, 3]]).to_vec(),
        // As many steps as are taken, and more.
        _ => [vec![1; random.pick(&[8, 9, 12])], vec![3, 3, scale], vec![0; 1]].concat(),
    }
}

/// An Ethernet frame around a transport header, all checksums right.
#[must_use]
pub fn frame(key: &Tuple, ttl: u8, l4: &[u8], mac: [u8; 6], partial: bool) -> Vec<u8> {
    let mut bytes = mac.to_vec();
    bytes.extend([2, 9, 9, 9, 9, 9]);
    match (key.source, key.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([0x08, 0x00, 0x45, 0x2e]);
            bytes.extend((20 + l4.len() as u16).to_be_bytes());
            bytes.extend([0x12, 0x34, 0x40, 0, ttl, key.protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            seal(&mut bytes, true);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x86, 0xdd, 0x62, 0xe1, 0x23, 0x45]);
            bytes.extend((l4.len() as u16).to_be_bytes());
            bytes.extend([key.protocol, ttl]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        _ => panic!("a packet of two families"),
    }
    let at = bytes.len();
    bytes.extend(l4);
    let covered = matches!(key.protocol, 6 | 17)
        || matches!((key.source, key.protocol), (IpAddr::V4(_), 1) | (IpAddr::V6(_), 58));
    if covered {
        let field = at + checksum_offset(key.protocol);
        let checksum = transport_checksum(l4, key, partial);
        bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

/// Writes the checksum of an IPv4 header.
fn seal(bytes: &mut [u8], is_v4: bool) {
    if is_v4 && bytes.len() >= 34 {
        bytes[24..26].fill(0);
        let checksum = !(sum(&bytes[14..34]) as u16);
        bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
}
