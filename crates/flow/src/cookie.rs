//! SYN cookies: SYNs to published services that are answered without a trace (RFC 4987 section 3.6).
//!
//! # What
//! While half-open connections press, a SYN to a [`Service`] is turned into its own SYN|ACK and goes back where it came
//! from. Its sequence number is the cookie, a keyed digest of all that has to be remembered. Only the client's
//! acknowledgment, which proves that the client is where it says it is, goes to the slow path: that opens the connection
//! and brings the server in.
//!
//! # The cookie
//! From the low bit on: 3 bits, which of the [`SIZES`] the client takes; 2 bits, the slot of time, about 34 seconds each;
//! 14 bits of SipHash-2-4 over addresses, ports, slot and size; 13 bits of the same over the client's first sequence
//! number as well. The first digest alone tells segments that follow the acknowledgment, whose sequence numbers are
//! further on, from those of strangers; a connection is opened by both only. A cookie is good in its slot and the next.
//!
//! # Rules
//! * Nothing is answered that is longer than what asked, nothing but plain SYNs, nothing for a source that may be made up
//!   ([`Host::origin`]); what is doubtful the slow path judges, which can answer as well.
//! * No option but the segment size is agreed on: no scaling, no selective acknowledgments, no timestamps, no ECN
//!   (RFC 3168 section 6.1.1: a SYN|ACK without ECE).
//! * The secrets of two generations are there at once, each used by the slots of its own, so that nothing has to change
//!   at the moment when one takes over from the other.

mod answer;
mod digest;
mod shared;

use flowhop_wire::checksum::Delta;
use flowhop_wire::tcp_flags;

use answer::Answer;
pub use answer::answer;
use digest::Terms;
pub use digest::{Worth, seal, worth};
pub use shared::Cookies;

use crate::cell::{Cell32, Cell64};
use crate::forward::{Arrival, Host, Level, Packet};
use crate::key::{Address, Key};
use crate::parse::{ETHERNET, Parsed, Segment};
use crate::reason::Reason;
use crate::record::{Config, Tick};

/// Segment sizes that a cookie can name, in bytes of payload. A client that takes less than the smallest gets that.
pub const SIZES: [u16; 8] = [216, 536, 1220, 1360, 1400, 1440, 1460, 8960];
/// Services that can be answered for at once.
pub const SERVICES: usize = 4096;
/// Prefixes that sources are looked up in.
pub const ORIGINS: usize = 4096;
/// The window of a SYN|ACK, in bytes: what follows it before the server has answered is kept in user space.
pub const WINDOW: u16 = 5840;

/// A slot of time is `1 << SLOT` ticks.
const SLOT: u32 = 15;
/// Slots are counted modulo `2^17`, as many as there are before ticks wrap.
const SLOTS: u32 = 1 << (32 - SLOT);
/// A secret is used for so many slots, a power of two.
const GENERATION: u32 = 64;
/// What a clock may lag behind that of whoever made a cookie, in ticks.
const LEEWAY: Tick = 128;
/// Slots that a cookie is good in.
const GOOD: u32 = 2;
/// How long after the last answer acknowledgments may come, in ticks.
pub const LIFE: Tick = GOOD << SLOT;

/// Bits of [`Cookies::state`]; 0: no packet is looked at.
pub mod state {
    /// SYNs to services are answered.
    pub const ANSWER: u32 = 1;
    /// Acknowledgments of cookies may come: segments of no connection are judged by them.
    pub const ACCEPT: u32 = 2;
    /// A segment without a cookie may be of a connection that is taken up, and is not refused here.
    pub const TAKE_UP: u32 = 4;
}

/// Generations before they begin anew.
pub const GENERATIONS: u32 = SLOTS / GENERATION;

/// What secrets are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// None.
    Nothing,
    /// That of the next generation.
    Next,
    /// Those of this generation and the next: there are none, or they are of long ago.
    Both,
}

impl Cookies {
    /// Which secrets have to be made by now. The next one is made in the second half of a generation, when no cookie of
    /// the generation before, whose place it takes, is good any more.
    #[must_use]
    pub fn due(&self, now: Tick) -> Due {
        let generation = generation_of(slot_of(now));
        let ahead = self.newest.load().wrapping_sub(generation) % GENERATIONS;
        let made = self.secrets.iter().flatten().any(|word| word.load() != 0);
        match ahead {
            1 if made => Due::Nothing,
            0 if made && slot_of(now) % GENERATION < GENERATION / 2 => Due::Nothing,
            0 if made => Due::Next,
            _ => Due::Both,
        }
    }

    /// Stores the secret of this generation, or of the next one.
    pub fn set_secret(&self, now: Tick, next: bool, secret: [u64; 2]) {
        let generation = (generation_of(slot_of(now)) + u32::from(next)) % GENERATIONS;
        for (cell, word) in self.secrets[(generation & 1) as usize].iter().zip(secret) {
            cell.store(word);
        }
        self.newest.store(generation);
    }

    #[inline(always)]
    fn secret(&self, slot: u32) -> [u64; 2] {
        let [a, b] = &self.secrets[(generation_of(slot) & 1) as usize];
        [a.load(), b.load()]
    }
}

#[inline(always)]
const fn slot_of(now: Tick) -> u32 {
    now >> SLOT
}

#[inline(always)]
const fn generation_of(slot: u32) -> u32 {
    slot / GENERATION
}

/// An address and port that clients connect to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Destination address as received.
    pub address: Address,
    /// `port | family << 16`, the port in host order.
    pub endpoint: u32,
}

impl ServiceKey {
    /// The key of a service.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address, port: u16, family: u8) -> Self {
        Self { address, endpoint: port as u32 | (family as u32) << 16 }
    }

    /// The service that a packet is for.
    #[inline(always)]
    #[must_use]
    pub const fn of(key: &Key) -> Self {
        Self::new(key.destination, key.destination_port(), key.family())
    }
}

/// What is known of a service.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Service {
    /// `segment size | flags`: what clients are told, in bytes; see [`service_flags`].
    pub word: Cell32,
    /// Room.
    pub unused: Cell32,
    /// The ports that it is published to, one bit each.
    pub ports: [Cell64; 4],
}

/// Bits of [`Service::word`].
pub mod service_flags {
    /// Its SYNs are answered whether half-open connections press or not.
    pub const ALWAYS: u32 = 1 << 16;
}

impl Service {
    #[inline(always)]
    fn is_open_to(&self, port: u8) -> bool {
        self.ports[usize::from(port >> 6)].load() >> (port & 63) & 1 != 0
    }
}

/// Answers of [`Host::origin`] beside the number of the port, plus one, that a source has to come in through.
pub mod origin {
    /// Nothing is known: it may come in anywhere.
    pub const ANYWHERE: u32 = 0;
    /// The slow path has to judge it.
    pub const ASK: u32 = u32::MAX;
}

/// What a segment to a service is to cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it goes the way of all segments.
    Nothing,
    /// A SYN that is answered; the answer announces segments of `size` bytes.
    Answer {
        /// See there.
        size: u16,
    },
    /// An acknowledgment that opens a connection; see [`Worth::Whole`].
    Accept {
        /// See there.
        size: u8,
    },
    /// It is of no connection.
    Refuse,
}

/// What a segment would be to cookies, before the digests are made.
#[derive(Clone, Copy)]
enum Class {
    Nothing,
    Syn {
        size: u16,
    },
    /// `refuse`: it is nothing else's if it acknowledges no cookie.
    Ack {
        refuse: bool,
    },
}

#[inline(always)]
fn classify(cookies: &Cookies, service: &Service, segment: &Segment, port: u8) -> Class {
    let state = cookies.state.load();
    let word = service.word.load();
    let on = |bit: u32| state & bit != 0 || word & service_flags::ALWAYS != 0;
    if !service.is_open_to(port) {
        return Class::Nothing;
    }
    match segment.flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST) {
        tcp_flags::ACK if on(state::ACCEPT) => Class::Ack { refuse: state & state::TAKE_UP == 0 },
        // What a FIN with it is worth, or urgent data, is for the slow path to tell.
        tcp_flags::SYN if on(state::ANSWER) && segment.flags & (tcp_flags::FIN | tcp_flags::URG) == 0 => {
            Class::Syn { size: word as u16 }
        }
        _ => Class::Nothing,
    }
}

/// Decides about a segment of no known connection that came in through a port.
#[must_use]
pub fn decide(
    cookies: &Cookies,
    service: &Service,
    parsed: &Parsed,
    segment: &Segment,
    port: u8,
    now: Tick,
) -> Decision {
    match classify(cookies, service, segment, port) {
        Class::Nothing => Decision::Nothing,
        Class::Syn { size } => Decision::Answer { size },
        Class::Ack { refuse } => match worth(cookies, &parsed.key, segment.sequence, segment.acknowledgment, now) {
            Worth::Whole { size } => Decision::Accept { size },
            Worth::Nothing if refuse => Decision::Refuse,
            Worth::Part | Worth::Nothing => Decision::Nothing,
        },
    }
}

/// Judges a TCP segment of no known connection. [`Reason::SynCookie`]: the packet has become its own answer, to be sent
/// out of where it came in; [`Reason::OutputLevel`]: it would, but cannot be sent back at this level.
/// [`Reason::CookieRefused`] and [`Reason::CookieAccepted`]: a segment without, and with, a cookie. `None`: it is no
/// segment for here.
#[expect(clippy::too_many_arguments, reason = "inlined into its one caller")]
#[inline(always)]
pub fn judge<H: Host, P: Packet>(
    host: &H,
    config: &Config,
    packet: &mut P,
    parsed: &Parsed,
    segment: &Segment,
    arrival: &Arrival,
    port: u8,
    now: Tick,
) -> Option<Reason> {
    let service = host.service(&ServiceKey::of(&parsed.key))?;
    let class = classify(&config.cookies, service, segment, port);
    let terms = match class {
        Class::Nothing => return None,
        Class::Ack { refuse } => match Terms::of(segment.sequence, segment.acknowledgment, now) {
            Some(terms) => terms,
            None if refuse => return Some(Reason::CookieRefused),
            None => return None,
        },
        // The sum over data would have to be taken off: that the slow path does.
        Class::Syn { .. } if segment.payload != 0 || !may_answer(host, packet, parsed, arrival, port) => return None,
        Class::Syn { .. } if H::LEVEL == Level::Driver && !host.sends_back(port) => return Some(Reason::OutputLevel),
        Class::Syn { .. } => Terms::new(segment.sequence, answer::announced(packet, parsed, segment), now),
    };
    let digests = digest::digests(&config.cookies, &parsed.key, terms);
    match class {
        Class::Nothing => None,
        Class::Ack { refuse } => match terms.worth(segment.acknowledgment, digests) {
            Worth::Whole { .. } => Some(Reason::CookieAccepted),
            Worth::Nothing if refuse => Some(Reason::CookieRefused),
            Worth::Part | Worth::Nothing => None,
        },
        Class::Syn { size } => {
            let answer = Answer { cookie: terms.cookie(digests), size };
            answer.write(packet, parsed, segment, Delta::ZERO)?;
            Some(Reason::SynCookie)
        }
    }
}

/// Whether the sender of a SYN is who may be answered without asking.
#[inline(always)]
fn may_answer<H: Host, P: Packet>(host: &H, packet: &P, parsed: &Parsed, arrival: &Arrival, port: u8) -> bool {
    let Key { source, destination, .. } = parsed.key;
    // The unspecified and the loopback address, and those that stand for IPv4 ones.
    if parsed.key.family() != 4 && source[0] | source[1] == 0 {
        return false;
    }
    if source == destination {
        return false;
    }
    let from_station = arrival.network < ETHERNET || packet.read::<1>(6).is_some_and(|[first]| first & 1 == 0);
    let origin = host.origin(&source);
    from_station && (origin == origin::ANYWHERE || origin == u32::from(port) + 1)
}

const _: () = assert!(size_of::<Cookies>() == 64);
const _: () = assert!(size_of::<ServiceKey>() == 20);
const _: () = assert!(size_of::<Service>() == 40);
