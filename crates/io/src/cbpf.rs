//! Keeps the kernel from answering in flowhop's place where flowhop sees packets through [`PacketPort`](crate::packet::PacketPort)s.
//!
//! # What
//!
//! A socket of that kind gets a *copy*: the kernel's stack gets the packet too, answers a reply to a translated
//! connection with a reset or "port unreachable", and forwards transit if `ip_forward` is set. A [`KernelFilter`] is a
//! classic-BPF program at the tc ingress of the interface, behind the sockets and before the stack. An ordinary user may
//! install it inside a user namespace, unlike a program of `bpf(2)`.
//!
//! # Rules
//!
//! What the stack gets, and nothing else:
//!
//! - what is not IP, and what is addressed to all or many on the link (the stack forwards no such packet);
//! - VLAN-tagged frames with a number: the VLAN's own device has them, and a filter of its own if flowhop uses it. Tags
//!   with number 0 mark a priority only; behind one a packet is judged as without it;
//! - packets to the box's own addresses, except to what translations of that address claim ([`Claim`]). A first fragment
//!   is judged as the whole would be, so that the stack never gets the whole; later fragments pass;
//! - neighbour discovery (with hop limit 255) to link-local addresses, so that it works while an address is too new to
//!   be known here.
//!
//! Of IPv6 extension headers only a fragment header is looked behind: what has others passes to the own address, claimed
//! or not.
//!
//! A packet that ends before the field that decides passes: only fields of packets to own addresses are looked at then,
//! or the stack throws it away for being too short.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use thiserror::Error;

mod attach;
mod program;

pub use attach::remove;
pub use program::Instruction;

/// The kernel's limit for a program (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;
/// The verdict for the stack: what other filters are there decide (`TC_ACT_UNSPEC`).
pub const PASS: u32 = u32::MAX;
/// The verdict for all else (`TC_ACT_SHOT`).
pub const DROP: u32 = 2;

/// Why a filter is not in place.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FilterError {
    /// Too many addresses, or ranges of ports, for one program.
    #[error(
        "{addresses} own addresses with their translated ports need a kernel filter of {instructions} instructions, \
         and {MAX_INSTRUCTIONS} is the limit: use fewer addresses, or run as root, where there is none"
    )]
    TooLarge {
        /// Own addresses.
        addresses: usize,
        /// Length of the program.
        instructions: usize,
    },
    /// A netlink socket could not be used.
    #[error("{request}: cannot talk to the kernel: {source}")]
    Netlink {
        /// What was asked for.
        request: &'static str,
        /// What the system call said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{request} on interface {ifindex}: {}{}", io::Error::from_raw_os_error(*errno), because(.message))]
    Refused {
        /// What was asked for.
        request: &'static str,
        /// The interface.
        ifindex: u32,
        /// The error number.
        errno: i32,
        /// What the kernel says about it, or nothing.
        message: String,
    },
}

fn because(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

/// What a translation takes from the stack, of what is addressed to an own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// TCP to these ports.
    Tcp(RangeInclusive<u16>),
    /// UDP to these ports.
    Udp(RangeInclusive<u16>),
    /// Echo replies with these identifiers.
    Echo(RangeInclusive<u16>),
    /// Echo requests.
    EchoRequest,
    /// Everything of an IP protocol.
    Protocol(u8),
}

/// Own addresses and what of them is translated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelFilter {
    /// Addresses of the box, on whatever interface, link-local ones included. One that is translated as a whole is
    /// just not among them.
    pub own: Vec<IpAddr>,
    /// Claims on own addresses; such on other addresses mean nothing, the stack gets nothing to those. Repetitions and
    /// overlaps are fine.
    pub translated: Vec<(IpAddr, Claim)>,
}

impl KernelFilter {
    /// The program, to be run with a frame from its Ethernet header on.
    ///
    /// # Errors
    /// [`FilterError::TooLarge`].
    pub fn compile(&self) -> Result<Vec<Instruction>, FilterError> {
        let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
        for address in &self.own {
            let claims = Claims::of(*address, &self.translated);
            match address.to_canonical() {
                IpAddr::V4(address) => drop(v4.insert(address, claims)),
                IpAddr::V6(address) => drop(v6.insert(address, claims)),
            }
        }
        let addresses = v4.len() + v6.len();
        let program = program::generate(&v4, &v6);
        match program.len() {
            0..=MAX_INSTRUCTIONS => Ok(program),
            instructions => Err(FilterError::TooLarge { addresses, instructions }),
        }
    }

    /// Puts the filter on an interface of the caller's network namespace. One that is there already is replaced, with
    /// no packet in between that meets neither.
    ///
    /// # Errors
    /// All; the filter that was there before stays then.
    pub fn install(&self, ifindex: u32) -> Result<(), FilterError> {
        attach::install(ifindex, &self.compile()?)
    }
}

/// The claims on one address, sorted and without overlaps: equal ones share code.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Claims {
    protocols: BTreeSet<u8>,
    tcp: Vec<(u16, u16)>,
    udp: Vec<(u16, u16)>,
    echo: Vec<(u16, u16)>,
    echo_request: bool,
}

impl Claims {
    fn of(address: IpAddr, translated: &[(IpAddr, Claim)]) -> Self {
        let mut claims = Self::default();
        for (_, claim) in translated.iter().filter(|(other, _)| other.to_canonical() == address.to_canonical()) {
            match claim {
                Claim::Tcp(ports) => claims.tcp.push((*ports.start(), *ports.end())),
                Claim::Udp(ports) => claims.udp.push((*ports.start(), *ports.end())),
                Claim::Echo(identifiers) => claims.echo.push((*identifiers.start(), *identifiers.end())),
                Claim::EchoRequest => claims.echo_request = true,
                Claim::Protocol(protocol) => {
                    claims.protocols.insert(*protocol);
                }
            }
        }
        for ranges in [&mut claims.tcp, &mut claims.udp, &mut claims.echo] {
            merge(ranges);
        }
        claims
    }

    fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// Sorts ranges and joins those that touch.
fn merge(ranges: &mut Vec<(u16, u16)>) {
    ranges.retain(|(low, high)| low <= high);
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let joined = next.0 <= last.1.saturating_add(1);
        if joined {
            last.1 = last.1.max(next.1);
        }
        joined
    });
}

type Addresses<A> = BTreeMap<A, Claims>;
type Addresses4 = Addresses<Ipv4Addr>;
type Addresses6 = Addresses<Ipv6Addr>;
