//! Histories to run the forwarding function through: connections, packets good and bad, changes of settings.
//!
//! Everything follows from a seed. An *episode* is one fresh world with some dozens of connections and a
//! sequence of [`Step`]s; it knows nothing of what the judged code answers.

mod crowd;
mod frames;
mod random;
mod segments;
mod setting;
mod spoil;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowhop_flow::record::{Action, NextHop, Steer};

use crate::reference::tcp::{Segment, offers};
use crate::reference::{Arrival, Tuple};

pub use crowd::Crowd;
pub use frames::frame;
use frames::ports;
pub use random::Random;
use segments::{Peer, SYN, Talk, syn_options};
pub use setting::{
    ALIVE_FOR, NO_PORT, NOT_IN_DRIVER, ORPHAN_GRACE, POLICY, PORTS, VLAN, locals, neighbours, on_the_wire, port_mac,
    port_number, used_ports,
};
use setting::{NAT4, NAT6};

/// A frame that is longer can be spoiled twice: all headers are in it.
const LONG: usize = 100;

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
    /// A constant is added to what the second side of a connection sends from now on, as that of a server whose client was
    /// answered with a cookie.
    Shift(usize, u32),
    /// A connection is deleted, and its block is free.
    Remove(usize),
    /// As many connections are made as there is room for, and one is refused.
    Crowd(Box<Crowd>),
    /// They are all deleted.
    Disperse,
    /// Another process takes the table over.
    Adopt,
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
        let mut steers = if from_outside {
            [self.steer(back, 3), self.steer(1, inner)]
        } else {
            [self.steer(there, inner), self.steer(back, 3)]
        };
        steers.iter_mut().zip(passed).for_each(|(steer, passed)| steer.skb = passed);
        Talk { keys, steers, peers: <[Peer; 2]>::default(), number: 0, tcp_packets: 0, shift: None }
    }

    /// To a next hop, for what comes in through an interface.
    fn steer(&self, adjacency: u16, ifindex: u32) -> Steer {
        Steer {
            skb: false,
            adjacency,
            ingress: port_number(ifindex),
            action: Action::Forward,
            pending: false,
            epoch: 0,
            policy_generation: self.policy,
            adjacency_generation: self.hops[usize::from(adjacency)].generation,
        }
    }

    fn connect(&mut self, mut talk: Talk) {
        talk.number = self.numbers;
        self.numbers += 1;
        talk.tcp_packets = 0;
        talk.shift = None;
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
        match self.random.below(42) {
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
                self.new_policy();
                self.judge_again();
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
                for _ in 0..3 {
                    self.packet_of(which);
                }
                if self.random.chance(10) {
                    self.new_policy();
                    self.packet_of(which);
                    self.judge_again();
                }
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
            35 => self.steps.push(Step::Adopt),
            36 if self.random.chance(25) => self.crowd(),
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

    /// The table fills up until it refuses more. New ones are refused, those that are there go on, and what one of them
    /// leaves the next one has.
    fn crowd(&mut self) {
        let steers = [self.steer(1, 2), self.steer(0, 3)];
        let crowd = Crowd { number: self.random.bits() as u16, steers };
        self.steps.push(Step::Crowd(Box::new(crowd.clone())));
        for _ in 0..3 {
            for _ in 0..4 {
                self.packet();
            }
            let member = self.random.below(100) as u16;
            self.packet_of_crowd(&crowd, member);
            let talk = self.invent(self.numbers as u32);
            self.connect(talk);
            self.packet_of(self.talks.len() - 1);
            self.talks.pop();
            if self.random.chance(30) {
                self.steps.push(Step::Adopt);
            }
            let old = self.talks.swap_remove(self.random.below(self.talks.len() as u32) as usize);
            self.steps.push(Step::Remove(old.number));
            self.connect(old);
        }
        self.steps.push(Step::Disperse);
    }

    fn packet_of_crowd(&mut self, crowd: &Crowd, member: u16) {
        let direction = self.random.below(2) as usize;
        let key = crowd.keys(member)[direction];
        let payload = self.payload(20);
        let mut l4 = ports(&key).to_vec();
        l4.extend([0, 8 + payload.len() as u8, 0, 0]);
        l4.extend(payload);
        let arrival = Arrival { ifindex: u32::from(crowd.steers[direction].ingress) / 3, ..Arrival::default() };
        let bytes = frame(&key, 64, &l4, port_mac(arrival.ifindex), false);
        self.steps.push(Step::Packet(Box::new(Packet { bytes, arrival, about: String::from("UDP of a crowd") })));
    }

    fn new_policy(&mut self) {
        self.policy = self.policy.wrapping_add(1);
        self.steps.push(Step::Policy(self.policy));
    }

    /// Most connections are judged again, one by one; the others stay as they are for a while.
    fn judge_again(&mut self) {
        for n in 0..self.talks.len() {
            for direction in 0..2 {
                if self.random.chance(97) {
                    self.renew(n, direction);
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
            if bytes.len() > LONG && self.random.chance(20) {
                about.push_str(", ");
                about.push_str(self.spoil(&mut bytes, &mut arrival, &key));
            }
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
}

/// Another own address for each connection, for translations without ports.
fn one_to_one(own: IpAddr, n: u32) -> IpAddr {
    match own {
        IpAddr::V4(_) => Ipv4Addr::from([203, 0, 113, 10 + (n % 200) as u8]).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xfff0, 0, 0, 9, 0, 10 + n as u16).into(),
    }
}
