//! The evaluator: it knows connections by a list and the time, and of TCP what well-behaved ends would send. What it cannot
//! tell (a connection about to expire, or already closing) it takes from what happens.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use flowhop_engine::FastPath;
use flowhop_flow::Kind;
use flowhop_wire::build::{L4, Spec};

use crate::bed::{Bed, INSIDE_MAC, LAN, WAN, at, ends, framed, ip, is_sound};
use crate::front::{Front, Verdict};
use crate::pieces::{piece, split};

mod segments;
mod strangers;

pub(crate) use strangers::STRANGERS;

/// Stands before the policy at times: what it refuses ends at once, and nothing else does.
const STRICTER: &str = r#"
[[rule]]
name = "no games"
from = "inside"
to = "outside"
service = ["tcp/5000", "udp/5000"]
action = "drop"
"#;
const POLICY: &str = r#"
[[rule]]
name = "browse"
from = "inside"
to = "outside"
action = "allow"
[[rule]]
name = "published"
to = "inside"
destination = "10.1.0.80"
service = ["tcp/8080", "udp/8080"]
action = "allow"
[[nat]]
name = "hide"
to = "outside"
source = ["10.1.0.0/28", "10.2.0.0/24"]
translate.source = "198.51.100.1"
[[nat]]
name = "publish"
destination = "198.51.100.9"
service = ["tcp/80", "udp/80"]
translate.destination = "10.1.0.80:8080"
"#;

/// Ticks of a second, as the bed has them.
const SECOND: u32 = 954;
/// How long before and after its timeout a connection may or may not be there, in ticks.
const MARGIN: u32 = 3 * SECOND;
/// How long a table is full after a flood, at most: until the last of its connections has expired.
const FULL_FOR: u32 = 300 * SECOND + MARGIN;
/// The port that the stricter policy refuses.
const GAMES: u16 = 5000;
/// Own address that inside hosts of IPv4 are seen as; those of IPv6 are seen as themselves.
const OWN: &str = "198.51.100.1";
const INSIDE6: &str = "fd00:0:0:1::2";
const REMOTE6: &str = "2001:db8:0:2::2";
const PUBLIC: &str = "198.51.100.9:80";
const SERVER: &str = "10.1.0.80:8080";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Udp,
    Tcp,
    Echo,
}

/// Who began it, and with whom.
type Key = (Protocol, SocketAddr, SocketAddr);

/// A connection from an inside endpoint to a remote one, or from a remote one to the server.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Where it is reached from outside.
    external: SocketAddr,
    last: u32,
    /// Both ends have sent something.
    answered: bool,
    /// Of TCP: next sequence numbers of both ends (initiator first), the handshake, and whether it may be closing.
    next: [u32; 2],
    established: bool,
    closing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    There,
    Gone,
    /// It may be either.
    Unknown,
}

pub(crate) struct World {
    bed: Bed,
    front: Option<Front>,
    random: u64,
    known: BTreeMap<Key, Known>,
    log: Vec<String>,
    /// The stricter policy is in force.
    strict: bool,
    /// When strangers last filled the table: as long as they are in it, who has had no answer may have to go.
    flooded: Option<u32>,
    strangers: u32,
    pub(crate) packets: usize,
    pub(crate) passed: usize,
    pub(crate) refused: usize,
    /// Datagrams in fragments that passed.
    pub(crate) joined: usize,
    /// Of those that passed, those that the engine has not seen.
    pub(crate) fast: usize,
    /// Changes of the policy, and of the process.
    pub(crate) reloads: usize,
    pub(crate) restarts: usize,
    /// Times that strangers filled the table.
    pub(crate) floods: usize,
}

impl World {
    pub(crate) fn new(seed: u64, front: Option<Front>) -> Self {
        let mut bed = match &front {
            None => Bed::sized(POLICY, 4096, false),
            Some(front) => Bed::over(front.table(), POLICY, front.fast()),
        };
        bed.neighbours();
        let (known, log) = (BTreeMap::new(), Vec::new());
        Self {
            bed,
            front,
            random: seed,
            known,
            log,
            strict: false,
            flooded: None,
            strangers: 0,
            packets: 0,
            passed: 0,
            refused: 0,
            joined: 0,
            fast: 0,
            reloads: 0,
            restarts: 0,
            floods: 0,
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    /// An inside and a remote endpoint of one family.
    fn ends(&mut self) -> (SocketAddr, SocketAddr) {
        let (inside, remote) = (self.inside(), self.remote());
        if self.below(4) > 0 {
            return (inside, remote);
        }
        (SocketAddr::new(ip(INSIDE6), inside.port()), SocketAddr::new(ip(REMOTE6), remote.port()))
    }

    fn inside(&mut self) -> SocketAddr {
        let host = ["10.1.0.2", "10.1.0.3", "10.2.0.2"][self.below(3) as usize];
        SocketAddr::new(ip(host), 2000 + self.below(12) as u16)
    }

    fn remote(&mut self) -> SocketAddr {
        let host = ["198.51.100.2", "198.51.100.3"][self.below(2) as usize];
        SocketAddr::new(ip(host), [53, 80, 443, 5000][self.below(4) as usize])
    }

    fn timeout(protocol: Protocol, known: &Known) -> u32 {
        match protocol {
            Protocol::Udp => 300 * SECOND,
            Protocol::Echo => 60 * SECOND,
            Protocol::Tcp if known.established && !known.closing => 7440 * SECOND,
            Protocol::Tcp => 240 * SECOND,
        }
    }

    fn is(&self, key: &Key) -> Is {
        let Some(known) = self.known.get(key) else { return Is::Gone };
        let idle = self.bed.now.wrapping_sub(known.last);
        let timeout = Self::timeout(key.0, known);
        let crowded_out = !known.answered && self.flooded.is_some_and(|flooded| known.last <= flooded + FULL_FOR);
        match idle {
            _ if known.closing => Is::Unknown,
            _ if crowded_out && idle <= timeout + MARGIN => Is::Unknown,
            _ if idle + MARGIN < timeout => Is::There,
            _ if idle > timeout + MARGIN => Is::Gone,
            _ => Is::Unknown,
        }
    }

    /// Sends a packet in; what left, if it was forwarded: the port and the frame.
    fn send(&mut self, port: u8, spec: &Spec<'_>, what: &str) -> Option<(u8, Vec<u8>)> {
        let mut left = self.send_frame(port, &framed(port, spec), what);
        self.must(left.len() <= 1, "more than one packet leaves");
        left.pop()
    }

    /// What left for this packet, own answers aside. All of it, where fragments had waited for each other.
    fn send_frame(&mut self, port: u8, frame: &[u8], what: &str) -> Vec<(u8, Vec<u8>)> {
        self.packets += 1;
        self.bed.outside.sent.clear();
        let verdict = match &mut self.front {
            None => None,
            Some(front) => Some(front.run(self.bed.engine.table(), port, frame, self.bed.now)),
        };
        let outcome = match verdict {
            None => self.bed.receive(port, frame.to_vec()),
            Some(Verdict::HandedDown(arrived, bytes)) => {
                let outcome = self.bed.judge(&arrived, bytes);
                self.bed.settle();
                outcome
            }
            Some(Verdict::Forwarded(bytes)) => {
                self.note(format!("{} {what}: forwarded by the program", self.bed.now));
                self.passed += 1;
                self.fast += 1;
                self.must(is_sound(&bytes), "a wrong checksum leaves");
                let out = if bytes[..6] == INSIDE_MAC { LAN } else { WAN };
                return vec![(out, bytes)];
            }
            Some(Verdict::Refused) => {
                self.note(format!("{} {what}: refused by the program", self.bed.now));
                self.refused += 1;
                return Vec::new();
            }
        };
        self.note(format!("{} {what}: {:?} {:?}", self.bed.now, outcome.kind, outcome.reason));
        if outcome.kind != Kind::Forward {
            self.refused += usize::from(outcome.kind == Kind::Drop);
            return Vec::new();
        }
        self.passed += 1;
        let left = std::mem::take(&mut self.bed.outside.sent);
        self.must(left.iter().all(|(_, frame)| is_fragment(frame) || is_sound(frame)), "a wrong checksum leaves");
        left
    }

    fn note(&mut self, line: String) {
        self.log.push(line);
        if self.log.len() > 60 {
            self.log.remove(0);
        }
    }

    fn history(&self) -> String {
        self.log.iter().fold(String::new(), |mut text, line| {
            let _written = writeln!(text, "{line}");
            text
        })
    }

    #[track_caller]
    fn must(&self, holds: bool, what: &str) {
        assert!(holds, "{what}\n{}", self.history());
    }

    /// That what left agrees with whether it may: the frame, if it did.
    #[track_caller]
    fn agrees(&self, is: Is, left: Option<(u8, Vec<u8>)>, out: u8) -> Option<Vec<u8>> {
        match (is, left) {
            (Is::There, None) => self.must(false, "dropped, and has to pass"),
            (Is::Gone, Some(_)) => self.must(false, "forwarded, and must not be"),
            (_, Some((port, frame))) => {
                self.must(port == out, "by the wrong interface");
                return Some(frame);
            }
            _ => {}
        }
        None
    }

    /// A packet of an inside endpoint has left: as who?
    fn note_out(&mut self, key: Key, external: SocketAddr) {
        let now = self.bed.now;
        let (protocol, inside, remote) = key;
        if inside.is_ipv6() {
            self.must(external == inside, "translated");
        } else {
            self.must(external.ip() == ip(OWN), "translated to another address");
        }
        let others: Vec<_> = self
            .known
            .iter()
            .filter(|((p, _, to), _)| *p == protocol && *to != at(SERVER))
            .map(|(other, known)| (*other, known.external))
            .collect();
        for (other, used) in others {
            if other == key || self.is(&other) != Is::There {
                continue;
            }
            // RFC 4787 REQ-1 and REQ-3.
            let same = other.1 == inside;
            self.must(
                (used == external) == same,
                &format!("{inside} is {external} to {remote}; {} is {used} to {}", other.1, other.2),
            );
        }
        let fresh = Known { external, last: now, next: [0; 2], answered: false, established: false, closing: false };
        let goes_on = self.is(&key) == Is::There;
        let known = self.known.entry(key).or_insert(fresh);
        if known.external != external || !goes_on {
            *known = fresh;
        }
        known.last = now;
    }

    /// Whether an inside endpoint may begin something with a remote one.
    fn allowed(&self, remote: SocketAddr) -> Is {
        if self.strict && remote.port() == GAMES { Is::Gone } else { Is::There }
    }

    fn datagram_out(&mut self) {
        let (inside, remote) = self.ends();
        let left = self.send(LAN, &Spec::udp(inside, remote, b"out"), &format!("udp {inside} > {remote}"));
        let Some(frame) = self.agrees(self.allowed(remote), left, WAN) else { return };
        let (source, destination) = ends(&frame);
        self.must(destination == remote, "to somebody else");
        self.note_out((Protocol::Udp, inside, remote), source);
    }

    /// Whose a packet from a remote to an external endpoint is, and whether they are there. An endpoint that was one
    /// inside host's may be another's later.
    fn between(&self, protocol: Protocol, remote: SocketAddr, external: SocketAddr) -> (Is, Vec<Key>) {
        let theirs = self
            .known
            .iter()
            .filter(|((of, _, to), known)| *of == protocol && *to == remote && known.external == external);
        let keys: Vec<_> = theirs.map(|(key, _)| *key).filter(|key| self.is(key) != Is::Gone).collect();
        match keys.iter().find(|key| self.is(key) == Is::There) {
            Some(key) => (Is::There, vec![*key]),
            None if keys.is_empty() => (Is::Gone, keys),
            None => (Is::Unknown, keys),
        }
    }

    /// From a remote endpoint to some external one, known or not.
    fn datagram_in(&mut self) {
        let (_, remote) = self.ends();
        let known = self.known.values().map(|known| known.external);
        let known: Vec<SocketAddr> = known.filter(|external| external.is_ipv4() == remote.is_ipv4()).collect();
        let external = match self.below(4) {
            0 => {
                let address = if remote.is_ipv4() { OWN } else { INSIDE6 };
                SocketAddr::new(ip(address), 1024 + self.below(60_000) as u16)
            }
            _ if known.is_empty() => return,
            _ => known[self.below(known.len() as u64) as usize],
        };
        if external == at(PUBLIC) {
            return;
        }
        let (is, keys) = self.between(Protocol::Udp, remote, external);
        let left = self.send(WAN, &Spec::udp(remote, external, b"in"), &format!("udp {remote} > {external}"));
        if let Some(frame) = self.agrees(is, left, LAN) {
            let (source, destination) = ends(&frame);
            let key = keys.iter().find(|key| key.1 == destination).copied();
            self.must(source == remote && key.is_some(), "to the wrong endpoint");
            self.note_in(&key.unwrap());
        }
    }

    /// A packet of a remote endpoint has come in.
    fn note_in(&mut self, key: &Key) {
        let known = self.known.get_mut(key).unwrap();
        (known.answered, known.last) = (true, self.bed.now);
    }

    /// A datagram of an inside endpoint, or to one, in fragments in any order; maybe one is missing, or lies over another.
    fn datagram_in_pieces(&mut self) {
        let (inside, remote) = (self.inside(), self.remote());
        let payload: Vec<u8> = (0..400 + self.below(1000)).map(|n| n as u8).collect();
        let key = (Protocol::Udp, inside, remote);
        let known = self.known.get(&key).map(|known| known.external);
        let (port, source, destination) = match known.filter(|_| self.random.is_multiple_of(2)) {
            None => (LAN, inside, remote),
            Some(external) => (WAN, remote, external),
        };
        let (is, owners) = if port == LAN {
            (self.allowed(remote), vec![key])
        } else {
            self.between(Protocol::Udp, source, destination)
        };
        let whole = framed(port, &Spec::udp(source, destination, &payload));
        let identification = self.below(65_536) as u16;
        let mut pieces = split(&whole, identification, 8 * (10 + self.below(15) as usize));
        for at in (1..pieces.len()).rev() {
            let other = self.below(at as u64 + 1) as usize;
            pieces.swap(at, other);
        }
        let spoilt = self.below(4);
        match spoilt {
            0 => drop(pieces.pop()),
            // Before the last one: what comes after that is of another datagram.
            1 => pieces.insert(self.random as usize % pieces.len(), piece(&whole, identification, 8, 24)),
            _ => {}
        }
        let spoilt = spoilt < 2;
        let mut left = Vec::new();
        for (number, piece) in pieces.iter().enumerate() {
            left.extend(self.send_frame(port, piece, &format!("piece {number} of {source} > {destination}, {spoilt}")));
        }
        // No reassembly is left for the next datagram with this number.
        if spoilt {
            self.bed.pass(61 * SECOND);
            self.note(String::from("61 s pass"));
        }
        let is = if spoilt { Is::Gone } else { is };
        let first = left.iter().find(|(_, frame)| u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff == 0).cloned();
        let Some(frame) = self.agrees(is, first, if port == LAN { WAN } else { LAN }) else { return };
        self.must(left.len() == pieces.len(), "not all fragments leave");
        let (from, to) = ends(&frame);
        self.must(joined(&left) == whole[42..], "other bytes leave");
        self.joined += 1;
        if port == LAN {
            self.must(to == remote, "to somebody else");
            self.note_out(key, from);
        } else {
            let owner = owners.iter().find(|owner| owner.1 == to).copied();
            self.must(from == remote && owner.is_some(), "to the wrong endpoint");
            self.note_in(&owner.unwrap());
        }
    }

    fn echo(&mut self) {
        let (inside, remote) = (self.inside(), SocketAddr::new(self.remote().ip(), 0));
        let key = (Protocol::Echo, inside, remote);
        let request = Spec::echo_request(inside.ip(), remote.ip(), inside.port(), 1, b"x");
        let left = self.send(LAN, &request, &format!("echo {inside} > {remote}"));
        let frame = self.agrees(Is::There, left, WAN).unwrap();
        let source = IpAddr::from([frame[26], frame[27], frame[28], frame[29]]);
        let identifier = u16::from_be_bytes([frame[38], frame[39]]);
        self.note_out(key, SocketAddr::new(source, identifier));
        let strange = self.below(3) == 0;
        let identifier = if strange { self.below(65_536) as u16 } else { identifier };
        let (is, _) = self.between(Protocol::Echo, remote, SocketAddr::new(source, identifier));
        let reply = Spec::echo_reply(remote.ip(), source, identifier, 1, b"x");
        let left = self.send(WAN, &reply, &format!("echo reply {remote} > {identifier}"));
        self.agrees(is, left, LAN);
    }

    /// An error about something that was sent, or was not.
    fn error(&mut self) {
        let told = |key: &Key| key.0 == Protocol::Udp && key.2 != at(SERVER) && key.2 != at(PUBLIC);
        let keys: Vec<_> = self.known.iter().filter(|(key, _)| told(key)).collect();
        if keys.is_empty() {
            return;
        }
        let (key, known) = keys[self.random as usize % keys.len()];
        let (key, external) = (*key, known.external);
        let strange = self.below(3) == 0;
        let port = if strange { 1 } else { external.port() };
        let quoted = Spec::udp(SocketAddr::new(external.ip(), port), key.2, b"out").without_link().to_vec().unwrap();
        let (is, owners) = if strange { (Is::Gone, vec![]) } else { self.between(Protocol::Udp, key.2, external) };
        let (kind, code) = if external.is_ipv4() { (3, 3) } else { (1, 4) };
        let l4 = L4::Icmp { kind, code, rest: [0; 4] };
        let spec = Spec::new(key.2.ip(), external.ip(), l4, &quoted);
        let left = self.send(WAN, &spec, &format!("error about {external} > {}", key.2));
        if let Some(frame) = self.agrees(is, left, LAN) {
            // The ports are no ports here.
            let to = ends(&frame).1.ip();
            self.must(owners.iter().any(|owner| owner.1.ip() == to), "an error to somebody else");
        }
    }

    /// The other policy, while everything goes on.
    fn reload(&mut self) {
        self.strict = !self.strict;
        let (live, ended) =
            self.bed.reload(&if self.strict { format!("{STRICTER}{POLICY}") } else { POLICY.to_owned() });
        self.note(format!("reloaded, strict {}: {live} go on, {ended} ended", self.strict));
        if self.strict {
            self.known.retain(|(protocol, _, remote), _| *protocol == Protocol::Echo || remote.port() != GAMES);
        }
        self.reloads += 1;
    }

    /// Another process goes on with the same table.
    fn restart(&mut self) {
        let fast = self.front.as_ref().map_or(FastPath::None, Front::fast);
        let (kept, ended) = self.bed.restart(fast);
        self.note(format!("restarted: {kept} kept, {ended} ended"));
        self.restarts += 1;
    }

    pub(crate) fn step(&mut self) {
        match self.below(20_000) {
            0..10 => return self.reload(),
            10..20 => return self.restart(),
            20 | 21 => return self.flood(),
            _ => {}
        }
        match self.below(100) {
            0..24 => self.datagram_out(),
            24..30 => self.datagram_in_pieces(),
            30..50 => self.datagram_in(),
            50..55 => self.echo(),
            55..62 => self.stray(),
            62..65 => self.published(),
            65..68 => self.published_from_inside(),
            68..70 => self.error(),
            70..99 => self.segment(),
            _ => {
                let seconds = [1, 5, 30, 70, 310][self.below(5) as usize];
                self.bed.pass(seconds * SECOND);
                self.note(format!("{seconds} s pass"));
            }
        }
    }
}

fn is_fragment(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0] && u16::from_be_bytes([frame[20], frame[21]]) & 0x3fff != 0
}

/// The payload of a UDP datagram of which these are the fragments.
fn joined(fragments: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut whole = vec![0; 8];
    for (_, frame) in fragments {
        let start = usize::from(u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff) * 8;
        let bytes = &frame[34..];
        whole.resize(whole.len().max(start + bytes.len()), 0);
        whole[start..start + bytes.len()].copy_from_slice(bytes);
    }
    whole.split_off(8)
}
