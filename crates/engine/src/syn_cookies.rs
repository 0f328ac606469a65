//! SYN cookies: when SYNs to published services are answered without a trace, and what is known of the services.
//!
//! What a cookie is, and how a SYN is answered, is in [`flowhop_flow::cookie`], which the kernel programs run as well. The
//! daemon tells the engine the services of the policy ([`Engine::set_services`]) and the programs what the engine makes of
//! them ([`Engine::told`]). What follows an acknowledgment of a cookie is in `proxied`.
//!
//! # When
//! Answering begins when half-open connections have taken [`PRESSED`] of their share, and ends when no more than
//! [`RELAXED`] of it is left, after [`SHORTEST`] at the least. Acknowledgments are taken for as long as a cookie is good
//! after that. A service may be set to be answered for always.

use std::collections::HashMap;

use flowhop_flow::cookie::{self, Cookies, Decision, Due, SERVICES, Service, ServiceKey, origin, service_flags, state};
use flowhop_flow::key::{self, Address};
use flowhop_flow::parse::Segment;
use flowhop_flow::record::Tick;
use flowhop_flow::{Parsed, Reason, Transport};
use flowhop_routing::Resolution;
use flowhop_wire::checksum::{self, Delta};
use rand_core::RngCore;

use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::io::{Arrived, Io, Outcome};
use crate::mss::MssClamp;
use crate::proxied::Openings;
use crate::spoofing::ReversePath;
use crate::validate::addresses;

/// Answering begins with one in so many of the share of half-open connections.
const PRESSED: usize = 2;
/// It ends with one in so many.
const RELAXED: usize = 4;
/// It lasts for so long at the least, in ticks: about ten seconds.
const SHORTEST: Tick = 10_000;
/// Segment sizes that clients are told where nothing asks for less: Ethernet's, of IPv4 and IPv6.
const SIZES: [u16; 2] = [1460, 1440];

/// A service of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedService {
    /// Address and port.
    pub key: ServiceKey,
    /// Its SYNs are always answered.
    pub always: bool,
    /// The ports that it is published to, one bit each.
    pub ports: [u64; 4],
    /// Where it is; of several servers one.
    pub inside: Address,
    /// What its translation brings announced segment sizes down to.
    pub clamp: Option<MssClamp>,
}

/// What the kernel programs are told about services: a [`Service`]'s word and ports.
pub type ToldService = (u32, [u64; 4]);

/// What the kernel programs are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Services, with those of their ports where the programs can tell made-up sources.
    pub services: HashMap<ServiceKey, ToldService>,
    /// Prefixes of sources, with their lengths in bits: see [`flowhop_flow::cookie::origin`].
    pub origins: HashMap<(Address, u32), u32>,
}

/// How cookies are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CookieStatus {
    /// SYNs to services that are not always answered are.
    pub answering: bool,
    /// Services that may be answered for.
    pub services: usize,
    /// Connections that acknowledged cookies have opened so far.
    pub accepted: u64,
    /// Those of them whose servers have not answered yet.
    pub opening: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SynCookies {
    services: HashMap<ServiceKey, Service>,
    always: bool,
    /// Since when SYNs are answered.
    answering: Option<Tick>,
    /// When that ended.
    answered: Option<Tick>,
    pub(crate) accepted: u64,
    pub(crate) openings: Openings,
}

impl SynCookies {
    /// After an earlier process, or none: what that one has answered is good for a while.
    pub(crate) fn after(shared: &Cookies, now: Tick) -> Self {
        let answered = (shared.state.load() & state::ACCEPT != 0).then_some(now);
        Self { answered, ..Self::default() }
    }
}

impl Engine {
    /// How cookies are doing.
    #[must_use]
    pub fn cookies(&self) -> CookieStatus {
        CookieStatus {
            answering: self.syn_cookies.answering.is_some(),
            services: self.syn_cookies.services.len(),
            accepted: self.syn_cookies.accepted,
            opening: self.syn_cookies.openings.len(),
        }
    }

    /// Takes in the services of the policy, at most [`SERVICES`]; in place of all that were known.
    pub fn set_services(&mut self, services: &[PublishedService], now: Tick) {
        let mut known = HashMap::new();
        for published in services.iter().take(SERVICES) {
            let size = self.announced_size(published);
            let service = Service::default();
            service.word.store(u32::from(size) | if published.always { service_flags::ALWAYS } else { 0 });
            service.ports.iter().zip(published.ports).for_each(|(cell, word)| cell.store(word));
            known.insert(published.key, service);
        }
        self.syn_cookies.always = services.iter().any(|published| published.always);
        self.syn_cookies.services = known;
        self.tend_cookies(now);
    }

    /// The size of segments that clients of a service may send: what fits the way to it.
    fn announced_size(&mut self, published: &PublishedService) -> u16 {
        let v6 = usize::from(published.key.endpoint >> 16 == 6);
        let way = match self.routing.lookup(key::ip(&published.inside), 0) {
            Resolution::Via { adjacency, .. } => self.routing.adjacency(adjacency).map(|adjacency| adjacency.mtu),
            _ => None,
        };
        let fits = way.map(|mtu| mtu.saturating_sub([40, 60][v6])).filter(|size| *size > 0);
        let clamp = match published.clamp {
            Some(MssClamp::Bytes(bytes)) => u32::from(bytes),
            Some(MssClamp::Path) | None => u32::MAX,
        };
        let least = fits.unwrap_or(u32::MAX).min(clamp).min(u32::from(SIZES[v6]));
        u16::try_from(least).unwrap_or(SIZES[v6])
    }

    /// What the kernel programs have to be told; `distrusted` are prefixes that nobody sends from.
    #[must_use]
    pub fn told(&self, distrusted: &[(Address, u32)]) -> Told {
        let mut trusted = [0u64; 4];
        for interface in self.interfaces.iter().filter(|interface| interface.reverse_path == ReversePath::Off) {
            trusted[usize::from(interface.port >> 6)] |= 1 << (interface.port & 63);
        }
        let told = |service: &Service| {
            let mut ports = trusted;
            ports.iter_mut().zip(&service.ports).for_each(|(word, cell)| *word &= cell.load());
            (service.word.load(), ports)
        };
        let services = self.syn_cookies.services.iter().map(|(key, service)| (*key, told(service))).collect();
        let mut origins = HashMap::new();
        let mut all = self.interfaces.iter().map(|interface| interface.martians);
        let martians =
            all.try_fold(None, |most, one| if most.is_none_or(|most| most == one) { Ok(Some(one)) } else { Err(()) });
        // Where interfaces differ, whatever one of them refuses is for the slow path to judge.
        for (address, length, forwardable) in addresses::prefixes(martians.ok().flatten()) {
            origins.insert((address, length), if forwardable { origin::ANYWHERE } else { origin::ASK });
        }
        for (address, length) in distrusted {
            origins.insert((*address, *length), origin::ASK);
        }
        let martian: Vec<_> =
            origins.iter().filter(|(_, origin)| **origin == origin::ASK).map(|(key, _)| *key).collect();
        for (address, length, ifindex) in self.routing.on_link_prefixes() {
            let (address, length) = (key::address(address), u32::from(length) + if address.is_ipv4() { 96 } else { 0 });
            let port = self.interfaces.ifindex(ifindex).map(|interface| u32::from(interface.port) + 1);
            let asked = martian.iter().any(|(prefix, bits)| *bits <= length && covers(prefix, *bits, &address));
            let value = port.filter(|_| !asked).unwrap_or(origin::ASK);
            let entry = origins.entry((address, length)).or_insert(value);
            if *entry != value {
                *entry = origin::ASK;
            }
        }
        for own in self.routing.own_addresses() {
            origins.insert((key::address(own.address), 128), origin::ASK);
        }
        for broadcast in self.routing.directed_broadcasts() {
            origins.insert((key::mapped(broadcast.octets()), 128), origin::ASK);
        }
        Told { services, origins }
    }

    /// Half-open connections have become more: answers may have to begin.
    pub(crate) fn press_cookies(&mut self, now: Tick) {
        let pressed = self.half_open.len() >= (self.half_open.most() / PRESSED).max(1);
        if pressed && self.syn_cookies.answering.is_none() && !self.syn_cookies.services.is_empty() {
            self.tend_cookies(now);
        }
    }

    /// Begins and ends answering, and sees to the secrets.
    pub(crate) fn tend_cookies(&mut self, now: Tick) {
        let (half_open, most) = (self.half_open.len(), self.half_open.most());
        let cookies = &mut self.syn_cookies;
        if cookies.services.is_empty() {
            cookies.answering = None;
            cookies.answered = None;
        } else if half_open >= (most / PRESSED).max(1) {
            cookies.answering.get_or_insert(now);
        } else if let Some(since) = cookies.answering
            && half_open <= most / RELAXED
            && now.wrapping_sub(since) > SHORTEST
        {
            cookies.answering = None;
            cookies.answered = Some(now);
        }
        if cookies.answered.is_some_and(|ended| now.wrapping_sub(ended) > cookie::LIFE) {
            cookies.answered = None;
        }
        let (answering, accepting) = (cookies.answering.is_some(), cookies.answered.is_some() || cookies.always);
        let shared = &self.table.config().cookies;
        if !self.syn_cookies.services.is_empty() {
            let due = shared.due(now);
            let wanted: &[bool] = match due {
                Due::Nothing => &[],
                Due::Next => &[true],
                Due::Both => &[false, true],
            };
            for next in wanted {
                shared.set_secret(now, *next, [self.random.next_u64(), self.random.next_u64()]);
            }
        }
        let mut word = 0;
        if answering {
            word |= state::ANSWER;
        }
        if answering || accepting {
            word |= state::ACCEPT;
            if self.modules.iter().any(|module| module.takes_up()) {
                word |= state::TAKE_UP;
            }
        }
        if shared.state.load() != word {
            shared.state.store(word);
        }
    }

    /// A segment of no known connection: what cookies make of it, if it is for them.
    pub(crate) fn cookie(
        &mut self,
        arrived: &Arrived,
        parsed: &Parsed,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Option<Outcome> {
        let Transport::Tcp(segment) = &parsed.transport else { return None };
        let shared = &self.table.config().cookies;
        if shared.state.load() == 0 {
            return None;
        }
        let service = self.syn_cookies.services.get(&ServiceKey::of(&parsed.key))?;
        match cookie::decide(shared, service, parsed, segment, arrived.port, arrived.now) {
            Decision::Nothing => None,
            Decision::Refuse => Some(Outcome::of(Reason::CookieRefused)),
            Decision::Answer { size } => self.answer_with_cookie(arrived, parsed, segment, size, packet, io),
            Decision::Accept { size } => Some(self.open_by_cookie(arrived, parsed, segment, size, packet, io)),
        }
    }

    /// Answers a SYN, unless its sender may be made up: why that is dropped is found out the usual way.
    fn answer_with_cookie(
        &self,
        arrived: &Arrived,
        parsed: &Parsed,
        syn: &Segment,
        size: u16,
        packet: &mut Buffer<'_>,
        io: &mut dyn Io,
    ) -> Option<Outcome> {
        let source = parsed.key.source;
        // Options, or extension headers, would have to be taken off.
        let plain = parsed.transport_offset - parsed.network == if parsed.key.family() == 4 { 20 } else { 40 };
        let from_station = packet.bytes().get(6).is_some_and(|first| first & 1 == 0);
        if !plain
            || !from_station
            || self.source_fault(arrived.port, &parsed.key).is_some()
            || self.modules.iter().any(|module| module.embeds(&source))
        {
            return None;
        }
        packet.complete_checksum();
        let data = parsed.transport_offset + usize::from(syn.header);
        let payload = packet.bytes().get(data..data + syn.payload as usize)?;
        let sum = checksum::sum(payload) as u16;
        let removed = Delta(!u16::from_ne_bytes(sum.to_be_bytes()));
        cookie::answer(&self.table.config().cookies, packet, parsed, syn, size, removed, arrived.now)?;
        let ifindex = self.interfaces.port(arrived.port)?.ifindex;
        let offload = crate::buffer::Offload::default();
        let sent = io.transmit(arrived.port, ifindex, packet.bytes_mut(), &offload);
        Some(Outcome::of(if sent { Reason::SynCookie } else { Reason::Device }))
    }
}

/// Whether a prefix holds an address.
fn covers(prefix: &Address, length: u32, address: &Address) -> bool {
    let [prefix, address] = [prefix, address].map(|words| u128::from_be_bytes(key::bytes(words)));
    length == 0 || (prefix ^ address) >> (128 - length) == 0
}
