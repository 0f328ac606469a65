//! A second forwarding function, slow and obvious, to compare the real one with.
//!
//! It is written from the documents (the pages of `flowhop_flow`'s modules, RFC 791, 1071, 1812, 5961, 7323,
//! 8200, 9293), in plain arithmetic over std collections, and calls none of the code that it judges: checksums
//! are computed whole, sequence numbers are compared in 64 bits, connections hang in a map by their five-tuple.
//! What it shares with that code are names: [`Reason`], [`Kind`], and the plain records [`Steer`] and
//! [`NextHop`].
//!
//! It judges as the path of the socket buffer does, or, when told, as a program in a driver, which knows VLANs by their
//! tags and passes on what is not for its level.
//!
//! * [`packet`]: reading and rewriting bytes;
//! * [`tcp`]: the context of a TCP connection;
//! * [`World`]: tables, the order of the checks, counters.

pub mod packet;
pub mod tcp;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use flowhop_flow::record::{Action, NextHop, Steer};
use flowhop_flow::{Kind, Reason};

use packet::{Headers, L4};
use tcp::Half;

/// One direction of a connection, as its packets come in.
///
/// ICMP echo: `source_port` is the identifier, `destination_port` is type and code. Other protocols: both 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Source port or identifier.
    pub source_port: u16,
    /// Destination port, or type and code.
    pub destination_port: u16,
}

impl Tuple {
    /// Whether this is an ICMP echo in its family.
    #[must_use]
    pub const fn is_echo(&self) -> bool {
        matches!((self.source, self.protocol), (IpAddr::V4(_), 1) | (IpAddr::V6(_), 58))
    }

    /// What a packet with this key leaves as when the other direction of its connection has the key `other`.
    #[must_use]
    pub const fn leaving(&self, other: &Self) -> Self {
        if self.is_echo() {
            let source_port = other.source_port;
            return Self { source: other.destination, destination: other.source, source_port, ..*self };
        }
        Self {
            source: other.destination,
            destination: other.source,
            source_port: other.destination_port,
            destination_port: other.source_port,
            ..*self
        }
    }
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Interface that it came in through.
    pub ifindex: u32,
    /// It carries a VLAN tag beside the frame.
    pub tagged: bool,
    /// Payload of each segment of a super-packet, else 0.
    pub segment: u32,
    /// The transport checksum is partial: its field holds the sum of the pseudo-header only.
    pub partial: bool,
}

/// A next hop.
#[derive(Clone, Copy, Debug, Default)]
pub struct Neighbour {
    /// What it says.
    pub hop: NextHop,
    /// Somebody is about to change it.
    pub torn: bool,
}

/// One direction of a connection.
#[derive(Clone, Debug)]
pub struct Direction {
    /// As its packets come in.
    pub key: Tuple,
    /// As they leave.
    pub leaves_as: Tuple,
    /// Where they go.
    pub steer: Steer,
    /// TCP context of the side that sends them.
    pub tcp: Half,
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of frames forwarded.
    pub bytes: u64,
    /// When the last one was.
    pub last_seen: u32,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Forward and Reverse.
    pub directions: [Direction; 2],
    /// It is in the table.
    pub published: bool,
}

/// The count and the epoch of a gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// Packets handed over.
    pub handed: u32,
    /// The epoch.
    pub epoch: u32,
}

/// An interface of policy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub number: u8,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Programs in drivers judge its packets.
    pub driver: bool,
}

/// A port: an own address's use by translations is a set of (TCP 0, UDP 1, ICMP 2; port).
pub type UsedPorts = HashSet<(u8, u16)>;

/// Everything that a packet's fate depends on.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The time, in ticks.
    pub now: u32,
    /// When the daemon was last known alive.
    pub heartbeat: u32,
    /// For how long afterwards packets are handed down.
    pub alive_for: u32,
    /// For how long afterwards flows are forwarded.
    pub orphan_grace: u32,
    /// Generation of the policy.
    pub policy: u16,
    /// Policy judges packets to the box itself.
    pub judge_local: bool,
    /// Secret of the key hash.
    pub secret: [u32; 10],
    /// It judges as a program in a driver does.
    pub in_driver: bool,
    /// Programs in drivers have no sockets to hand down to: they pass such packets on as well.
    pub no_sockets: bool,
    /// Ports by interface index and VLAN id.
    pub ports: HashMap<(u32, u16), Port>,
    /// Next hops.
    pub neighbours: HashMap<u16, Neighbour>,
    /// The box's own addresses; with a set of ports where translations use them.
    pub locals: HashMap<IpAddr, Option<UsedPorts>>,
    /// Connections, in the order of their making.
    pub connections: Vec<Connection>,
    /// Connection and direction by key.
    pub keys: HashMap<Tuple, (usize, usize)>,
    /// Gates that are not all zero.
    pub gates: HashMap<u32, Gate>,
}

/// What should become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Fate.
    pub kind: Kind,
    /// Why.
    pub reason: Reason,
    /// Port that it came in through.
    pub port: u8,
    /// Output interface of a forwarded packet, else 0; in a driver, that of the device that carries it.
    pub ifindex: u32,
    /// The gate that it was counted at, plus one; 0 = none.
    pub gate: u32,
    /// The bytes afterwards.
    pub bytes: Vec<u8>,
    /// Offset of a checksum that was wrong before: both forms of zero are right then.
    pub loose: Option<usize>,
    /// Offset of an IPv4 header whose identification is chosen anew: any that is not that of one before it.
    pub identified: Option<usize>,
    /// Connection and direction that it belongs to.
    pub hit: Option<(usize, usize)>,
    /// The gate of its key, if it has one.
    pub door: Option<u32>,
}

/// Why a packet is not forwarded here.
enum No {
    /// For this reason.
    Because(Reason),
    /// It is for the path of the socket buffer, which will say why.
    NextLevel,
}

impl From<Reason> for No {
    fn from(reason: Reason) -> Self {
        Self::Because(reason)
    }
}

/// What the fast path does for a reason (`reason.rs`: the list of reasons).
const fn kind_of(reason: Reason) -> Kind {
    match reason {
        Reason::Forwarded => Kind::Forward,
        Reason::Orphaned | Reason::NoDaemon | Reason::FlowDropped => Kind::Drop,
        Reason::Local
        | Reason::NotIp
        | Reason::LinkLocal
        | Reason::NeighbourDiscovery
        | Reason::OtherHost
        | Reason::NoInterface
        | Reason::StackFlow
        | Reason::Tagged => Kind::Stack,
        _ => Kind::HandDown,
    }
}

impl World {
    /// Makes a connection, unless a key is taken; tells its number.
    pub fn connect(&mut self, keys: [Tuple; 2], steers: [Steer; 2], halves: [Half; 2]) -> Option<usize> {
        if keys.iter().any(|key| self.keys.contains_key(key)) {
            return None;
        }
        let number = self.connections.len();
        let [a, b] = halves;
        let direction = |own: usize, tcp| Direction {
            key: keys[own],
            leaves_as: keys[own].leaving(&keys[own ^ 1]),
            steer: steers[own],
            tcp,
            packets: 0,
            bytes: 0,
            last_seen: self.now,
        };
        let connection = Connection { directions: [direction(0, a), direction(1, b)], published: true };
        self.connections.push(connection);
        for (direction, key) in keys.iter().enumerate() {
            self.keys.insert(*key, (number, direction));
        }
        Some(number)
    }

    /// Removes a connection.
    pub fn remove(&mut self, number: usize) {
        self.connections[number].published = false;
        self.keys.retain(|_, (owner, _)| *owner != number);
    }

    /// Number of a key's gate (`key.rs`: NH over 32-bit halves in memory order, MurmurHash3's finaliser).
    #[must_use]
    pub fn gate_of(&self, key: &Tuple) -> u32 {
        let words = |ip: IpAddr| -> [u32; 4] {
            let octets = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            std::array::from_fn(|i| u32::from_ne_bytes(std::array::from_fn(|j| octets[4 * i + j])))
        };
        let (s, d) = (words(key.source), words(key.destination));
        let [a, b] = key.source_port.to_be_bytes();
        let [c, e] = key.destination_port.to_be_bytes();
        let family = if key.source.is_ipv4() { 4 } else { 6 };
        let identity = u32::from(key.protocol) + 256 * family;
        let pairs =
            [(s[3], d[3]), (u32::from_ne_bytes([a, b, c, e]), identity), (s[0], d[0]), (s[1], d[1]), (s[2], d[2])];
        let mut sum = 0u128;
        for (i, (left, right)) in pairs.into_iter().enumerate() {
            let left = (u128::from(left) + u128::from(self.secret[2 * i])) % (1 << 32);
            let right = (u128::from(right) + u128::from(self.secret[2 * i + 1])) % (1 << 32);
            sum += left * right;
        }
        let mut hash = sum % (1 << 64);
        for multiplier in [0xff51_afd7_ed55_8ccd_u128, 0xc4ce_b9fe_1a85_ec53] {
            hash ^= hash >> 33;
            hash = hash * multiplier % (1 << 64);
        }
        hash ^= hash >> 33;
        (hash >> 24) as u32 % 16384
    }

    /// Ticks since the daemon was last known alive; a clock that lags a little behind is no silence.
    fn silence(&self) -> i64 {
        let silence = self.now.wrapping_sub(self.heartbeat);
        if silence > u32::MAX - 4096 { 0 } else { i64::from(silence) }
    }

    /// Judges a packet and moves the world on. Steps are those of the page of `forward.rs`.
    pub fn judge(&mut self, frame: &[u8], arrival: &Arrival) -> Outcome {
        let stack = if self.in_driver { Kind::Pass } else { Kind::Stack };
        let mut outcome = Outcome {
            kind: stack,
            reason: Reason::NoInterface,
            port: 0,
            ifindex: 0,
            gate: 0,
            bytes: frame.to_vec(),
            loose: None,
            identified: None,
            hit: None,
            door: None,
        };
        // Only drivers have tags in their frames; the stack takes them out.
        let (plain, tag) = if self.in_driver { packet::untag(frame) } else { (frame.to_vec(), None) };
        let Some(&port) = self.ports.get(&(arrival.ifindex, tag.unwrap_or(0) % 0x1000)) else {
            return outcome;
        };
        outcome.port = port.number;
        match self.decide(&plain, frame.len(), arrival, port, &mut outcome) {
            Ok(hop) => {
                outcome.kind = Kind::Forward;
                outcome.reason = Reason::Forwarded;
                outcome.ifindex = hop.ifindex;
                if self.in_driver {
                    outcome.ifindex = hop.lower;
                    outcome.bytes = packet::retag(&outcome.bytes, tag, hop.vid);
                    // The tag that it leaves with, if any, is in front of the checksum.
                    let moved = |at: usize| if hop.vid == 0 { at } else { at + 4 };
                    (outcome.loose, outcome.identified) = (outcome.loose.map(moved), outcome.identified.map(moved));
                }
            }
            Err(No::NextLevel) => {
                outcome.kind = Kind::Pass;
                outcome.reason = Reason::Forwarded;
            }
            Err(No::Because(reason)) => self.refuse(reason, stack, &mut outcome),
        }
        outcome
    }

    fn refuse(&mut self, reason: Reason, stack: Kind, outcome: &mut Outcome) {
        outcome.reason = reason;
        outcome.kind = if kind_of(reason) == Kind::Stack { stack } else { kind_of(reason) };
        if outcome.kind == Kind::HandDown && self.silence() > i64::from(self.alive_for) {
            outcome.reason = Reason::NoDaemon;
            outcome.kind = Kind::Drop;
            outcome.gate = 0;
        } else if outcome.kind == Kind::HandDown && self.in_driver && self.no_sockets {
            outcome.kind = Kind::Pass;
            outcome.gate = 0;
        } else if outcome.gate != 0 {
            let gate = self.gates.entry(outcome.gate - 1).or_default();
            gate.handed = gate.handed.wrapping_add(1);
        }
    }

    /// `received` is the length of the frame with its tag.
    fn decide(
        &mut self,
        frame: &[u8],
        received: usize,
        arrival: &Arrival,
        port: Port,
        outcome: &mut Outcome,
    ) -> Result<NextHop, No> {
        if self.in_driver && !port.driver {
            return Err(No::NextLevel);
        }
        let headers = self.read(frame, received, arrival, port.mac)?;
        // 3. Entry.
        let gate = self.gate_of(&headers.key);
        outcome.door = Some(gate);
        let Some(&(number, direction)) = self.keys.get(&headers.key) else {
            if self.is_own(headers.key.destination, Some(&headers)) {
                return Err(No::Because(Reason::Local));
            }
            outcome.gate = gate + 1;
            return Err(No::Because(Reason::Miss));
        };
        outcome.hit = Some((number, direction));
        let steer = self.connections[number].directions[direction].steer;
        if steer.pending {
            let epoch = self.gates.get(&gate).copied().unwrap_or_default().epoch % 16;
            if epoch == u32::from(steer.epoch) {
                outcome.gate = gate + 1;
                return Err(No::Because(Reason::Pending));
            }
        }
        if self.in_driver && steer.skb {
            return Err(No::NextLevel);
        }
        let hop = self.next_hop(steer, port.number, &headers, arrival)?;
        // 6. TCP context.
        let connection = &mut self.connections[number];
        if let L4::Tcp(segment) = &headers.l4 {
            let [forward, reverse] = &mut connection.directions;
            let (own, peer) = if direction == 0 { (forward, reverse) } else { (reverse, forward) };
            tcp::check(&mut own.tcp, &peer.tcp, segment)?;
        }
        // 7. Rewrite and count.
        let shifts = [direction, direction ^ 1].map(|side| connection.directions[side].tcp.shift.unwrap_or(0));
        let entry = &mut connection.directions[direction];
        outcome.bytes = frame.to_vec();
        outcome.identified = packet::is_identified_anew(frame, &headers.key, &entry.leaves_as).then_some(14);
        outcome.loose = packet::rewrite(&mut outcome.bytes, &headers, &entry.leaves_as, shifts, arrival.partial);
        outcome.bytes[..12].copy_from_slice(&hop.macs);
        entry.packets += 1;
        entry.bytes += frame.len() as u64;
        entry.last_seen = self.now;
        Ok(hop)
    }

    /// Steps 1 and 2: the headers of a packet for this station.
    fn read(&self, frame: &[u8], received: usize, arrival: &Arrival, mac: [u8; 6]) -> Result<Headers, Reason> {
        // 1. Link.
        if arrival.tagged {
            return Err(Reason::Tagged);
        }
        if received < 14 {
            return Err(Reason::NotIp);
        }
        if frame[0] % 2 == 1 {
            return Err(Reason::LinkLocal);
        }
        if frame[..6] != mac {
            return Err(Reason::OtherHost);
        }
        // Behind a tag there may be nothing.
        match frame.get(12..14) {
            Some([0x08, 0x00] | [0x86, 0xdd]) => {}
            Some([0x81, 0x00] | [0x88, 0xa8]) => return Err(Reason::Tagged),
            _ => return Err(Reason::NotIp),
        }
        // 2. Headers.
        let read = packet::read(frame);
        let destination = match &read {
            Ok(headers) => Some(headers.key.destination),
            Err(refused) => refused.destination,
        };
        if destination.is_some_and(stays_on_link) {
            return Err(Reason::LinkLocal);
        }
        read.map_err(|refused| {
            let own = destination.is_some_and(|destination| self.is_own(destination, None));
            if own { Reason::Local } else { refused.reason }
        })
    }

    /// Steps 4 and 5: what the entry says, and its next hop.
    fn next_hop(&self, steer: Steer, port: u8, headers: &Headers, arrival: &Arrival) -> Result<NextHop, Reason> {
        // 4. What the entry says.
        if self.silence() > i64::from(self.orphan_grace) {
            return Err(Reason::Orphaned);
        }
        match steer.action {
            Action::Forward => {}
            Action::User => return Err(Reason::SlowPath),
            Action::Stack => return Err(Reason::StackFlow),
            // Refused on this port and under the policy in force; anything else is judged anew.
            Action::Drop if steer.ingress != port || (steer.policy_generation.wrapping_sub(self.policy) as i16) < 0 => {
                return Err(Reason::SlowPath);
            }
            Action::Drop => return Err(Reason::FlowDropped),
        }
        if steer.ingress != port {
            return Err(Reason::WrongInterface);
        }
        // Judged under an older policy; one that is about to be in force may have judged it already.
        if (steer.policy_generation.wrapping_sub(self.policy) as i16) < 0 {
            return Err(Reason::StalePolicy);
        }
        // 5. Next hop.
        let neighbour = self.neighbours.get(&steer.adjacency).copied().unwrap_or_default();
        if neighbour.torn {
            return Err(Reason::Torn);
        }
        if neighbour.hop.generation != steer.adjacency_generation {
            return Err(Reason::StaleAdjacency);
        }
        if self.in_driver && neighbour.hop.lower == 0 {
            return Err(Reason::OutputLevel);
        }
        if neighbour.hop.flags & NextHop::RESOLVED == 0 {
            return Err(Reason::NeighbourUnresolved);
        }
        if headers.ttl < 2 {
            return Err(Reason::TtlExceeded);
        }
        if wire_length(headers, arrival) > neighbour.hop.mtu as usize {
            return Err(Reason::TooBig);
        }
        Ok(neighbour.hop)
    }

    /// Whether a packet that no flow knows is the box's own.
    fn is_own(&self, destination: IpAddr, headers: Option<&Headers>) -> bool {
        // Where new connections to the box are judged, only answers go past the judge.
        let answers = headers.is_some_and(|headers| match &headers.l4 {
            L4::Tcp(segment) => segment.flags & 0b1_0010 != 0b0_0010,
            L4::Echo => matches!(headers.key.destination_port >> 8, 0 | 129),
            _ => false,
        });
        if self.judge_local && !answers {
            return false;
        }
        let key = headers.map(|headers| &headers.key);
        match (self.locals.get(&destination), key) {
            (None, _) | (Some(Some(_)), None) => false,
            (Some(None), _) => true,
            (Some(Some(used)), Some(key)) => match key.protocol {
                6 => !used.contains(&(0, key.destination_port)),
                17 => !used.contains(&(1, key.destination_port)),
                _ if key.is_echo() => match key.destination_port >> 8 {
                    8 | 128 => true,
                    _ => !used.contains(&(2, key.source_port)),
                },
                // Only those with ports are translated here.
                _ => true,
            },
        }
    }
}

/// Multicast, limited broadcast and link-local destinations (RFC 1812 section 5.3.5, RFC 4291 section 2.5.6).
fn stays_on_link(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local(),
    }
}

/// Bytes from the IP header on of the largest packet on the wire.
fn wire_length(headers: &Headers, arrival: &Arrival) -> usize {
    if arrival.segment == 0 {
        return headers.length;
    }
    let transport = match &headers.l4 {
        L4::Tcp(segment) => 20 + segment.options.len(),
        _ => 8,
    };
    headers.transport - 14 + transport + arrival.segment as usize
}
