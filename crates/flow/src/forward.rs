//! The forwarding function.
//!
//! [`forward`] is what a kernel path does with a packet; [`judge`] is its second half, from the found entry on,
//! and is all that the user-level path calls when it has found the entry itself. The order:
//!
//! 1. link: is it IP, is it for this station, is the interface one of policy's;
//! 2. [`parse`](crate::parse): the key, or an exception to hand down;
//! 3. find the entry; when there is none, answer SYNs to published services with [cookies](crate::cookie) if those are
//!    on, tell the box's own packets, then pass the [gate](crate::record::Gate) and look once more;
//! 4. entry: ingress, policy generation, action, pending or active;
//! 5. adjacency: generation, resolved; TTL; MTU;
//! 6. TCP context;
//! 7. rewrite, count, age, output.
//!
//! Nothing of the packet or the record is changed before 6 has passed, so a packet that is handed down arrives
//! as it came.

use flowhop_wire::checksum::Delta;
use flowhop_wire::{Ethernet, Frame, ethertype, icmp4, icmp6, pcp, protocol, tcp_flags};
use zerocopy::transmute_ref;

use crate::cookie::{self, Service, ServiceKey};
use crate::key::{Address, Key};
use crate::parse::{self, ETHERNET, Exception, Parsed, Transport};
use crate::reason::{Kind, Reason};
use crate::record::{
    Action, Adjacency, Block, Config, Gate, Hot, NextHop, Port, PortKey, Steer, Tick, config_flags, port_flags, widen,
};
use crate::rewrite::{self, Rewrite};
use crate::shadow::HEAD;
use crate::tcp;

/// A packet buffer that can be rewritten.
pub trait Packet: Frame {
    /// Transport checksums are in the packet as they are to be on the wire: nothing beside it says otherwise.
    const WHOLE_CHECKSUMS: bool = false;

    /// Applies deltas to the transport checksum at `offset`: that of pseudo-header words (`addresses`) and that
    /// of the transport header (`ports`), in memory order. The buffer knows whether its checksum is complete,
    /// partial, or to be verified by the device. `None` when `offset` is outside the packet.
    fn fix_checksum(&mut self, offset: usize, addresses: Delta, ports: Delta, udp: bool) -> Option<()>;
    /// Words of an IPv6 header were replaced that no checksum covers: a buffer that keeps a sum over all brings it along.
    #[inline(always)]
    fn header_changed(&mut self, _delta: Delta) {}
    /// Copies so many of the first bytes of the packet; tells whether it did, which it does not where nobody asks.
    #[inline(always)]
    fn head(&self, _to: &mut [u8; HEAD], _length: u32) -> bool {
        false
    }

    /// Cuts the packet off behind so many bytes. `None` when it cannot.
    fn shorten(&mut self, length: usize) -> Option<()>;
}

/// Where in the system the function runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// In the driver, before a socket buffer exists; what is not its own it passes on to that path.
    Driver,
    /// On the socket buffer.
    Skb,
    /// The user-level path, the last one.
    User,
}

/// An entry that was found: its block and which direction of it (0 Forward, 1 Reverse).
#[derive(Clone, Copy)]
pub struct Hit<'a> {
    /// The connection.
    pub block: &'a Block,
    /// The direction, 0 or 1.
    pub direction: usize,
}

/// What the forwarding function needs around it: shared tables and the map of interfaces.
pub trait Host {
    /// Where it runs.
    const LEVEL: Level;

    /// Global settings.
    fn config(&self) -> Option<&Config>;
    /// The number and record of a port.
    fn port(&self, key: PortKey) -> Option<(u8, &Port)>;
    /// The entry with exactly this key.
    fn find(&self, key: &Key, hash: u64) -> Option<Hit<'_>>;
    /// An adjacency by index.
    fn adjacency(&self, index: u16) -> Option<&Adjacency>;
    /// The gate with this number.
    fn gate(&self, number: u32) -> Option<&Gate>;
    /// Whether a packet that no flow knows is the box's own: its destination is an address of the box, and no
    /// translation uses that address and port.
    fn is_local(&self, destination: &Address, transport: Option<&Key>) -> bool;
    /// Notes a packet that is to be looked at once more, before it is rewritten; see [`shadow`](crate::shadow).
    #[inline(always)]
    fn before<P: Packet>(
        &self,
        _packet: &P,
        _parsed: &Parsed,
        _hit: &Hit<'_>,
        _steer: Steer,
        _port: u8,
        _segment: u32,
    ) {
    }

    /// Notes what became of it.
    #[inline(always)]
    fn after<P: Packet>(&self, _packet: &P, _hop: &NextHop) {}

    /// A published service whose SYNs may be answered here; see [`cookie`].
    #[inline(always)]
    fn service(&self, _key: &ServiceKey) -> Option<&Service> {
        None
    }
    /// Where a source may come in, see [`cookie::origin`].
    #[inline(always)]
    fn origin(&self, _source: &Address) -> u32 {
        cookie::origin::ASK
    }
    /// Whether what came in through a port can be sent out of it at this level.
    #[inline(always)]
    fn sends_back(&self, _port: u8) -> bool {
        true
    }
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Port it came in through.
    pub port: PortKey,
    /// Offset of the IP header: behind an Ethernet header (14) with a VLAN tag (18), or at the start (0) where the
    /// link has no header.
    pub network: usize,
    /// It carries a VLAN tag beside the frame, or a second one in it: for an interface of its own.
    pub tagged: bool,
    /// Payload bytes of each segment if this is a super-packet of segmentation offload, else 0.
    pub segment: u32,
}

impl Arrival {
    /// A plain frame with an Ethernet header.
    #[must_use]
    pub const fn ethernet(ifindex: u32, segment: u32) -> Self {
        Self { port: PortKey::of(ifindex), network: ETHERNET, tagged: false, segment }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Forward, hand down, drop, or leave to the stack.
    pub kind: Kind,
    /// Why.
    pub reason: Reason,
    /// Port it came in through; 0 if none of policy's (see `reason`).
    pub port: u8,
    /// Where a forwarded packet goes.
    pub hop: NextHop,
    /// The gate that a handed-down packet was counted at, plus one; 0 = none.
    pub gate: u32,
}

impl Verdict {
    #[inline(always)]
    const fn of(reason: Reason, port: u8, level: Level) -> Self {
        let kind = match (level, reason.fast_kind()) {
            (Level::User, _) => reason.slow_kind(),
            (Level::Driver, Kind::Stack) => Kind::Pass,
            (_, kind) => kind,
        };
        Self { kind, reason, port, hop: NextHop::NONE, gate: 0 }
    }

    /// The path of the socket buffer judges the packet, and says why.
    #[inline(always)]
    const fn pass(port: u8) -> Self {
        Self { kind: Kind::Pass, reason: Reason::Forwarded, port, hop: NextHop::NONE, gate: 0 }
    }
}

/// Number of the gate of a key hash.
#[inline(always)]
#[must_use]
pub const fn gate_of(hash: u64) -> u32 {
    (hash >> 24) as u32 & (crate::record::GATES as u32 - 1)
}

/// Judges a packet that came in through an interface. See the module.
#[inline(always)]
pub fn forward<H: Host, P: Packet>(host: &H, packet: &mut P, arrival: &Arrival, now: Tick) -> Verdict {
    let stack = |reason| Verdict::of(reason, 0, H::LEVEL);
    let Some(config) = host.config() else {
        return stack(Reason::NoInterface);
    };
    let Some((number, port)) = host.port(arrival.port) else {
        return stack(Reason::NoInterface);
    };
    let verdict = |reason| Verdict::of(reason, number, H::LEVEL);
    if H::LEVEL == Level::Driver && port.driver.load() & port_flags::DRIVER == 0 {
        return Verdict::pass(number);
    }

    let ethertype = match link(packet, port, arrival) {
        Ok(ethertype) => ethertype,
        Err(reason) => return verdict(reason),
    };
    let parsed = match ethertype {
        ethertype::IPV4 => parse::ipv4(packet, arrival.network, 0),
        _ => parse::ipv6(packet, arrival.network, 0),
    };
    let parsed = match &parsed {
        Ok(parsed) if is_link_local(&parsed.key.destination, ethertype) && !asks(config, &parsed.key) => {
            return verdict(Reason::LinkLocal);
        }
        Ok(parsed) => parsed,
        Err(Exception { destination, .. }) if is_link_local(destination, ethertype) => {
            return verdict(Reason::LinkLocal);
        }
        Err(Exception { reason, destination }) => {
            let own = H::LEVEL != Level::User && takes_local(host, config, destination, None);
            return if own { verdict(Reason::Local) } else { hand_down(config, verdict(*reason), now) };
        }
    };

    let hash = config.hash(&parsed.key);
    let gate = gate_of(hash);
    let mut entered = None;
    let mut why = Reason::Miss;
    let hit = loop {
        if let Some(hit) = host.find(&parsed.key, hash) {
            break hit;
        }
        if entered.is_some() {
            return Verdict { gate: gate + 1, ..verdict(why) };
        }
        if config.cookies.state.load() != 0
            && let Transport::Tcp(segment) = &parsed.transport
            && silence(config, now) <= config.alive_for.load()
        {
            match cookie::judge(host, config, packet, parsed, segment, arrival, number, now) {
                Some(Reason::OutputLevel) => return Verdict::pass(number),
                Some(Reason::CookieAccepted) => why = Reason::CookieAccepted,
                Some(reason) => return verdict(reason),
                None => {}
            }
        }
        if takes_local(host, config, &parsed.key.destination, Some(parsed)) {
            return verdict(Reason::Local);
        }
        let miss = hand_down(config, verdict(why), now);
        let (Kind::HandDown, Some(door)) = (miss.kind, host.gate(gate)) else {
            return miss;
        };
        entered = Some(door.enter());
    };
    let steer = Steer::unpack(hot(&hit).steer.load());
    if steer.pending {
        // An entry that was pending under an epoch that has passed is active.
        let epoch = match (entered, host.gate(gate)) {
            (Some(epoch), _) => epoch,
            (None, Some(door)) => {
                let epoch = door.enter();
                entered = Some(epoch);
                epoch
            }
            (None, None) => steer.epoch,
        };
        if epoch == steer.epoch {
            let pending = hand_down(config, verdict(Reason::Pending), now);
            if pending.kind == Kind::HandDown {
                return Verdict { gate: gate + 1, ..pending };
            }
            if let Some(door) = host.gate(gate) {
                door.leave();
            }
            return pending;
        }
    }
    if entered.is_some()
        && let Some(door) = host.gate(gate)
    {
        door.leave();
    }

    // Only now: while the entry waits, all of its packets go to user space by one and the same queue, that of the
    // driver, where the first of them have gone.
    if H::LEVEL == Level::Driver && steer.skb {
        return Verdict::pass(number);
    }

    if H::LEVEL != Level::User {
        if silence(config, now) > config.orphan_grace.load() {
            return verdict(Reason::Orphaned);
        }
        match steer.action {
            Action::Forward => {}
            Action::User => return hand_down(config, verdict(Reason::SlowPath), now),
            Action::Stack => return verdict(Reason::StackFlow),
            // The decision was about packets of this port, and rests on the policy that is in force.
            Action::Drop if steer.ingress == number && !is_stale(config, steer) => return verdict(refusal(hot(&hit))),
            Action::Drop => return hand_down(config, verdict(Reason::SlowPath), now),
        }
    }
    match judge(host, config, packet, parsed, &hit, steer, number, arrival.segment, now) {
        Ok(hop) => Verdict { kind: Kind::Forward, reason: Reason::Forwarded, port: number, hop, gate: 0 },
        Err(reason) => hand_down(config, verdict(reason), now),
    }
}

/// Judges a packet by its entry, and rewrites and counts it. `steer` is the entry's word as it was read.
///
/// # Errors
/// The reason why the packet cannot be forwarded by this entry as it is; packet and record are unchanged,
/// save that a packet whose bytes cannot be written (never seen after a successful parse) may be half rewritten.
#[expect(clippy::too_many_arguments, reason = "inlined into its few callers; a struct would be built for each packet")]
#[inline(always)]
pub fn judge<H: Host, P: Packet>(
    host: &H,
    config: &Config,
    packet: &mut P,
    parsed: &Parsed,
    hit: &Hit<'_>,
    steer: Steer,
    port: u8,
    segment: u32,
    now: Tick,
) -> Result<NextHop, Reason> {
    host.before(packet, parsed, hit, steer, port, segment);
    let hop = admit(host, config, packet, parsed, hit, steer, port, wire_length(parsed, segment))?;
    let hot = hot(hit);
    let mut rewrite = rewrite_of(hit, parsed.key.family());
    // What an Ethernet frame without tags would have: the same on every path.
    let bytes = (packet.len() + ETHERNET - parsed.network) as u64;
    if let Transport::Tcp(_) = &parsed.transport {
        let (own, peer) = halves(hit);
        if own.has_constant_shift() {
            let shifts = [own.constant_shift(), peer.constant_shift()];
            let delta = rewrite::renumber(packet, parsed.transport_offset, shifts).ok_or(Reason::Truncated)?;
            rewrite.port_delta = rewrite::canonical(Delta(rewrite.port_delta).and(delta));
        }
    }
    let identify =
        || config.identify(&rewrite.source, &rewrite.destination, parsed.key.identity, wire_packets(parsed, segment));
    rewrite::apply(packet, parsed, &rewrite, &hop.macs, identify).ok_or(Reason::Truncated)?;
    host.after(packet, &hop);
    count(hot, bytes, now);
    Ok(hop)
}

/// Judges a packet by its entry and notes what it says of its TCP connection; it is not changed. `length` is that of the
/// longest packet that will go on the wire, in bytes from the IP header on.
///
/// # Errors
/// As [`judge`].
#[expect(clippy::too_many_arguments, reason = "as judge")]
#[inline(always)]
pub fn admit<H: Host, P: Packet>(
    host: &H,
    config: &Config,
    packet: &P,
    parsed: &Parsed,
    hit: &Hit<'_>,
    steer: Steer,
    port: u8,
    length: u32,
) -> Result<NextHop, Reason> {
    if steer.ingress != port {
        return Err(Reason::WrongInterface);
    }
    if is_stale(config, steer) {
        return Err(Reason::StalePolicy);
    }
    let Some(hop) = host.adjacency(steer.adjacency).ok_or(Reason::BadRecord)?.read() else {
        return Err(Reason::Torn);
    };
    if hop.generation != steer.adjacency_generation {
        return Err(Reason::StaleAdjacency);
    }
    if H::LEVEL == Level::Driver && hop.lower == 0 {
        return Err(Reason::OutputLevel);
    }
    if hop.flags & NextHop::RESOLVED == 0 {
        return Err(Reason::NeighbourUnresolved);
    }
    if parsed.ttl <= 1 {
        return Err(Reason::TtlExceeded);
    }
    if length > hop.mtu {
        return Err(Reason::TooBig);
    }
    let (own, peer) = halves(hit);
    if let Transport::Tcp(segment) = &parsed.transport
        && !segment.vouched
    {
        // The options of a SYN|ACK of Linux, Windows and the BSDs take six steps; the kernel's verifier goes through
        // each step on every way that leads here. More are read by the slow path.
        let turns = if H::LEVEL == Level::User { 40 } else { 6 };
        tcp::check(own, peer, segment, || tcp::offer(packet, parsed.transport_offset, segment, turns))?;
    }
    Ok(hop)
}

/// Whether an entry was judged under a policy before the one in force. One that is about to be in force has judged it
/// already when its generation is ahead.
#[inline(always)]
fn is_stale(config: &Config, steer: Steer) -> bool {
    (steer.policy_generation.wrapping_sub(config.policy_generation.load() as u16) as i16) < 0
}

/// Why an entry's packets are dropped: what the slow path noted in the place of the service.
#[inline(always)]
fn refusal(hot: &Hot) -> Reason {
    const NO_RULE: u32 = Reason::NoRule as u32;
    const RULE_DROP: u32 = Reason::RuleDrop as u32;
    match hot.service.load() {
        NO_RULE => Reason::NoRule,
        RULE_DROP => Reason::RuleDrop,
        _ => Reason::FlowDropped,
    }
}

/// Counts a forwarded packet on its direction and stamps the direction's age.
#[inline(always)]
pub fn count(hot: &Hot, bytes: u64, now: Tick) {
    hot.traffic.count(bytes);
    if hot.last_seen.load() != now {
        hot.last_seen.store(now);
    }
}

/// What the entry makes of a packet of its direction.
#[inline(always)]
#[must_use]
pub fn rewrite_of(hit: &Hit<'_>, family: u8) -> Rewrite {
    let hot = hot(hit);
    let deltas = hot.deltas.load();
    let (mut source, mut destination) = ([0, 0, 0, hot.new_source.load()], [0, 0, 0, hot.new_destination.load()]);
    if family != 4 {
        // Forward leaves with the new addresses; Reverse with what Forward came with, swapped.
        let (s, d) = if hit.direction & 1 == 0 { (2, 3) } else { (1, 0) };
        source = widen(&hit.block.wide[s], source[3]);
        destination = widen(&hit.block.wide[d], destination[3]);
    }
    Rewrite {
        source,
        destination,
        ports: hot.new_ports.load(),
        address_delta: deltas as u16,
        port_delta: (deltas >> 16) as u16,
    }
}

/// The hot line of a hit.
#[inline(always)]
#[must_use]
pub fn hot<'a>(hit: &Hit<'a>) -> &'a Hot {
    &hit.block.hot[hit.direction & 1]
}

/// TCP context of a hit: own half, peer's half.
#[inline(always)]
#[must_use]
pub fn halves<'a>(hit: &Hit<'a>) -> (&'a crate::record::TcpHalf, &'a crate::record::TcpHalf) {
    (&hit.block.tcp[hit.direction & 1], &hit.block.tcp[(hit.direction & 1) ^ 1])
}

/// Packets that go on the wire of one, at most: of a super-packet, its segments.
#[inline(always)]
#[must_use]
pub fn wire_packets(parsed: &Parsed, segment: u32) -> u32 {
    parsed.length.checked_div(segment).map_or(1, |segments| 1 + segments)
}

/// Bytes from the IP header on of the largest packet that goes on the wire: of a super-packet, one segment.
#[inline(always)]
#[must_use]
pub fn wire_length(parsed: &Parsed, segment: u32) -> u32 {
    if segment == 0 {
        return parsed.length;
    }
    let headers = (parsed.transport_offset - parsed.network) as u32;
    match parsed.transport {
        Transport::Tcp(tcp) => headers + u32::from(tcp.header) + segment,
        _ => headers + 8 + segment,
    }
}

/// The ethertype of a frame that is for this station and IP.
#[inline(always)]
fn link<P: Packet>(packet: &P, port: &Port, arrival: &Arrival) -> Result<u16, Reason> {
    if arrival.tagged {
        return Err(Reason::Tagged);
    }
    if arrival.network == 0 {
        return match packet.read::<1>(0) {
            Some([first]) if first >> 4 == 4 => Ok(ethertype::IPV4),
            Some([first]) if first >> 4 == 6 => Ok(ethertype::IPV6),
            _ => Err(Reason::NotIp),
        };
    }
    let Some(bytes) = packet.read::<ETHERNET>(0) else {
        return Err(Reason::NotIp);
    };
    let header: &Ethernet = transmute_ref!(bytes);
    if header.destination[0] & 1 != 0 {
        return Err(Reason::LinkLocal);
    }
    if header.destination != port.mac() {
        return Err(Reason::OtherHost);
    }
    let ethertype = if arrival.network == ETHERNET {
        header.ethertype.get()
    } else {
        packet.read::<2>(arrival.network - 2).map_or(0, |bytes| u16::from_be_bytes(*bytes))
    };
    match ethertype {
        known @ (ethertype::IPV4 | ethertype::IPV6) => Ok(known),
        ethertype::VLAN | ethertype::QINQ => Err(Reason::Tagged),
        _ => Err(Reason::NotIp),
    }
}

/// Multicast, limited broadcast and link-local destinations stay on their link: the stack's business.
///
/// One word of the address is read: in the kernel programs that is much cheaper than to compare all that make it v4-mapped.
#[inline(always)]
fn is_link_local(destination: &Address, ethertype: u16) -> bool {
    if ethertype == ethertype::IPV4 {
        let [first, ..] = destination[3].to_ne_bytes();
        return first & 0xf0 == 0xe0 || destination[3] == u32::MAX;
    }
    let [a, b, ..] = destination[0].to_ne_bytes();
    a == 0xff || (a == 0xfe && b & 0xc0 == 0x80)
}

/// Whether an IPv6 host asks its router for a mapping, which it knows by a link-local address, and is answered by the slow
/// path.
#[inline(always)]
fn asks(config: &Config, key: &Key) -> bool {
    let [first, ..] = key.destination[0].to_ne_bytes();
    key.destination_port() == pcp::SERVER_PORT
        && key.identity == Key::identity(protocol::UDP, 6, 0)
        && first == 0xfe
        && config.flags.load() & config_flags::SERVES != 0
}

/// Whether a packet that no flow knows goes to the stack as the box's own. Where new connections to the box are
/// judged, what starts none still goes there: the stack knows its own connections.
#[inline(always)]
fn takes_local<H: Host>(host: &H, config: &Config, destination: &Address, parsed: Option<&Parsed>) -> bool {
    if !host.is_local(destination, parsed.map(|parsed| &parsed.key)) {
        return false;
    }
    config.flags.load() & config_flags::JUDGE_LOCAL == 0 || parsed.is_some_and(answers)
}

/// Whether a packet can only be an answer: a TCP segment that opens nothing, an echo reply.
#[inline(always)]
fn answers(parsed: &Parsed) -> bool {
    match &parsed.transport {
        Transport::Tcp(segment) => segment.flags & tcp_flags::SYN_ACK != tcp_flags::SYN,
        Transport::Echo => {
            let kind = (parsed.key.destination_port() >> 8) as u8;
            kind == if parsed.key.family() == 4 { icmp4::ECHO_REPLY } else { icmp6::ECHO_REPLY }
        }
        Transport::Udp | Transport::Opaque => false,
    }
}

/// Ticks since the daemon was last known alive.
///
/// A clock that lags behind the heartbeat a little is no silence. A silence of half the clock's range is kept at
/// that by moving the heartbeat along, or a daemon that is long dead would seem alive when the clock wraps.
#[inline(always)]
fn silence(config: &Config, now: Tick) -> u32 {
    const LAG: u32 = 1 << 12;
    const LONGEST: u32 = 1 << 31;
    let silence = now.wrapping_sub(config.heartbeat.load());
    if silence > u32::MAX - LAG {
        return 0;
    }
    if silence > LONGEST {
        config.heartbeat.store(now.wrapping_sub(LONGEST));
    }
    silence
}

/// A hand-down needs somebody to hand to.
#[inline(always)]
fn hand_down(config: &Config, verdict: Verdict, now: Tick) -> Verdict {
    if verdict.kind == Kind::HandDown && silence(config, now) > config.alive_for.load() {
        return Verdict { kind: Kind::Drop, reason: Reason::NoDaemon, ..verdict };
    }
    verdict
}
