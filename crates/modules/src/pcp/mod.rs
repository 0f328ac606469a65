//! The server of the Port Control Protocol (RFC 6887): hosts ask it for mappings, so that they can be reached.
//!
//! # Who is answered
//! Whoever sends from a zone that `[pcp]` names, from where its answers go, to an address that the box has in such a zone.
//! All others are not served: their datagrams are the kernel's, as if there were no server. The *simple threat model* of
//! the RFC is what is built (section 18.1): a host maps itself alone, and who changes a mapping has to know its nonce.
//!
//! # What is granted
//! MAP for TCP and UDP, with the options PREFER_FAILURE and FILTER ([`map`]); ANNOUNCE. Not PEER, which section 12 lets
//! administrators switch off, and not THIRD_PARTY, nor mappings of all ports or all protocols.
//!
//! # State
//! Mappings are kept beside the bindings of translations ([`explicit`](crate::nat::explicit)) in this process' memory. A
//! new process has none of them, so it begins a new epoch and tells so to all hosts (section 14.1.3), which then ask
//! again; so it does when mappings were lost for another reason: the policy, or an address that the box has no more.
//! Connections by a mapping outlive it, and the process.
//!
//! # Bounds
//! Requests of one source and of all together have a limit of their own each; an answer is no longer than its request,
//! or than a header. Mappings are limited for each host and in all, filters for each mapping.

mod map;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use flowhop_engine::{Announcement, Context, Module, NewSession, Query, Reply, Step};
use flowhop_flow::key::{self, Address};
use flowhop_flow::record::{TICK_SHIFT, Tick};
use flowhop_flow::{Key, Reason};
use flowhop_policy::{PcpSettings, RateLimit, ZoneId};
use flowhop_wire::pcp::{self, MAX_LEN, Operation, Request, ResultCode, Said, Unread, opcode, option};
use flowhop_wire::protocol;

use crate::nat::explicit::Clock;
use crate::nat::{Bindings, granting};
use crate::rates::{RuleRates, SourceRates};
use crate::shared::{Current, Shared};

/// Name of the module.
pub const NAME: &str = "pcp";

/// Requests of one source that are answered: far more than a host has mappings to renew.
const OF_SOURCE: RateLimit = RateLimit { count: 50, per: Duration::from_secs(1) };
/// Requests that are answered in all.
const OF_ALL: RateLimit = RateLimit { count: 2000, per: Duration::from_secs(1) };
/// Times that the loss of state is told (RFC 6887 section 14.1.3: up to ten).
const TOLD: u32 = 4;
/// Ticks between the first two times: 250 ms; each pause after that is twice as long.
const FIRST_PAUSE: u64 = 239;
/// All hosts of a link.
const ALL_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1));
const ALL_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
/// Addresses of a link that it is told from; none has more that hosts know their router by.
const ADDRESSES: usize = 16;
/// Ticks between two looks at whether the box still has the addresses that mappings are at: a second.
const LOOK: u64 = 954;

/// How a request ended.
#[derive(Debug)]
struct Refusal {
    result: ResultCode,
    /// Seconds.
    lifetime: u32,
}

impl From<ResultCode> for Refusal {
    fn from(result: ResultCode) -> Self {
        Self { result, lifetime: result.lifetime() }
    }
}

/// The module.
#[derive(Debug)]
pub struct Server {
    shared: Shared,
    bindings: Bindings,
    source_rates: SourceRates,
    rates: RuleRates,
    clock: Clock,
    /// When its state was lost last.
    since: u64,
    /// How often that was told, and when it is to be told next.
    told: u32,
    tell: u64,
    looked: u64,
    /// The policy that all mappings were last judged by.
    judged: Option<Arc<Current>>,
}

impl Server {
    /// The module on shared policy and bindings.
    #[must_use]
    pub fn new(shared: Shared, bindings: Bindings) -> Self {
        Self {
            shared,
            bindings,
            source_rates: SourceRates::default(),
            rates: RuleRates::default(),
            clock: Clock::default(),
            since: 0,
            told: TOLD,
            tell: 0,
            looked: 0,
            judged: None,
        }
    }

    /// Seconds since its state was lost (section 8.5).
    fn epoch(&mut self, now: Tick) -> u32 {
        seconds(self.clock.at(now).saturating_sub(self.since))
    }

    /// State was lost at this moment.
    const fn lose(&mut self, at: u64) {
        (self.since, self.told, self.tell) = (at, 0, at);
    }

    /// Whether the box has all addresses that mappings are at.
    fn has_addresses(&mut self, current: &Current, now: u64, context: &Context<'_>) -> bool {
        self.looked = now;
        let places = self.bindings.asked_at();
        let own = |(nat, address): &(u16, Address)| {
            !granting::is_of_box(current, *nat) || context.routing.is_own(key::ip(address))
        };
        places.iter().all(own)
    }

    /// Ends what the policy in force, or the addresses of the box, do not allow any more.
    fn tidy(&mut self, context: &mut Context<'_>) {
        let now = self.clock.at(context.now);
        let current = self.shared.current();
        let another = self.judged.as_ref().is_none_or(|judged| !Arc::ptr_eq(judged, &current));
        if !another && (now.saturating_sub(self.looked) < LOOK || self.has_addresses(&current, now, context)) {
            return;
        }
        let served = |judged: &Option<Arc<Current>>| judged.as_ref().is_some_and(|judged| judged.policy.pcp.is_some());
        let begins = current.policy.pcp.is_some() && !served(&self.judged);
        let mut lost = 0;
        for (inside, mapping) in self.bindings.mappings() {
            let zone = context.zone_towards(&inside.address);
            let own = !granting::is_of_box(&current, mapping.nat)
                || context.routing.is_own(key::ip(&mapping.external.address));
            if !own || !granting::stays(&current, &inside, &mapping, zone) {
                self.bindings.revoke(&inside, context.now);
                lost += 1;
            }
        }
        self.judged = Some(current);
        if begins || lost > 0 {
            self.lose(now);
        }
    }

    /// Whether a request is one too many.
    fn is_over_limit(&mut self, query: &Query<'_>, context: &mut Context<'_>) -> bool {
        !self.source_rates.take(0, &query.key.source, OF_SOURCE, context.now, context.random)
            || !self.rates.take(0, OF_ALL, context.now)
    }

    /// The body of the answer to a request that can be read: MAP and the options that were processed.
    fn act(
        &mut self,
        request: &Request<'_>,
        query: &Query<'_>,
        context: &mut Context<'_>,
    ) -> Result<(u32, Vec<u8>), Refusal> {
        if request.header.client != key::bytes(&query.key.source) {
            return Err(ResultCode::AddressMismatch.into());
        }
        match request.operation {
            Operation::Announce => announce_options(*request).map(|()| (0, Vec::new())),
            Operation::Map(map) => self.map(request, map, query, context),
        }
    }
}

/// ANNOUNCE has no options of its own (section 14.1.1); those of others make no sense there.
fn announce_options(mut request: Request<'_>) -> Result<(), Refusal> {
    match request.options.find(|option| option.code < option::OPTIONAL).map(|option| option.code) {
        None => Ok(()),
        Some(option::THIRD_PARTY | option::PREFER_FAILURE | option::FILTER) => Err(ResultCode::MalformedOption.into()),
        Some(_) => Err(ResultCode::UnsupportedOption.into()),
    }
}

/// Whole seconds.
fn seconds(ticks: u64) -> u32 {
    let nanoseconds = u128::from(ticks) << TICK_SHIFT;
    u32::try_from(nanoseconds / 1_000_000_000).unwrap_or(u32::MAX)
}

/// Ticks, at least as long.
fn ticks(duration: Duration) -> Tick {
    u32::try_from(duration.as_nanos().div_ceil(1 << TICK_SHIFT)).unwrap_or(Tick::MAX)
}

/// Whether an address is the box's own in a zone that is served.
fn is_served(settings: &PcpSettings, address: IpAddr, context: &Context<'_>) -> bool {
    let served = |ifindex: u32| {
        context.interfaces.ifindex(ifindex).is_some_and(|interface| settings.from.contains(ZoneId(interface.zone)))
    };
    context.routing.own_addresses().any(|own| own.address == address && served(own.ifindex))
}

impl Module for Server {
    fn name(&self) -> &'static str {
        NAME
    }

    fn open(&mut self, _: &mut NewSession, _: &mut Context<'_>) -> Step {
        Step::Continue
    }

    fn serves(&self, key: &Key, from: u16, context: &Context<'_>) -> bool {
        if key.protocol() != protocol::UDP || key.destination_port() != pcp::SERVER_PORT {
            return false;
        }
        let current = self.shared.current();
        let settings = current.policy.pcp.as_ref().filter(|settings| settings.from.contains(ZoneId(from)));
        settings.is_some_and(|settings| is_served(settings, key::ip(&key.destination), context))
    }

    fn answer(&mut self, query: &Query<'_>, context: &mut Context<'_>) -> Option<Reply> {
        if query.key.source_port() == 0 {
            return Some(Reply::Silence(Reason::PcpInvalid));
        }
        let read = pcp::request(query.payload);
        if read == Err(Unread::Silent) {
            return Some(Reply::Silence(Reason::PcpInvalid));
        }
        if self.is_over_limit(query, context) {
            return Some(Reply::Silence(Reason::PcpLimit));
        }
        let mut out = [0; MAX_LEN];
        let refuse = |refusal: Refusal, read: bool, epoch: u32, out: &mut [u8; MAX_LEN]| {
            let said = Said { result: refusal.result, lifetime: refusal.lifetime, epoch };
            let length = pcp::refuse(query.payload, said, read, out);
            Some(Reply::Answer(Reason::PcpRefused, out[..length].to_vec()))
        };
        let request = match read {
            Ok(request) => request,
            Err(Unread::Refused(code)) => return refuse(code.into(), false, self.epoch(context.now), &mut out),
            Err(Unread::Silent) => return None,
        };
        self.tidy(context);
        let done = self.act(&request, query, context);
        let epoch = self.epoch(context.now);
        let (lifetime, body) = match done {
            Ok(done) => done,
            Err(refusal) => return refuse(refusal, true, epoch, &mut out),
        };
        let said = Said { result: ResultCode::Success, lifetime, epoch };
        let head = pcp::respond(request.header.opcode, said, &mut out);
        // What is processed was in the request: it is never too long.
        let length = pcp::append(&body, head, &mut out)?;
        Some(Reply::Answer(Reason::PcpAnswered, out[..length].to_vec()))
    }

    fn announce(&mut self, context: &mut Context<'_>) -> Vec<Announcement> {
        self.bindings.expire(context.now);
        self.tidy(context);
        let now = self.clock.at(context.now);
        let current = self.shared.current();
        let Some(settings) = current.policy.pcp.as_ref().filter(|_| self.told < TOLD && now >= self.tell) else {
            return Vec::new();
        };
        self.tell = now + (FIRST_PAUSE << self.told) + 1;
        self.told += 1;
        let mut out = [0; MAX_LEN];
        let said = Said { result: ResultCode::Success, lifetime: 0, epoch: self.epoch(context.now) };
        let length = pcp::respond(opcode::ANNOUNCE, said, &mut out);
        announcements(settings, &out[..length], context)
    }
}

/// To all hosts of all links that are served, from each address there that requests are sent to: a client listens to the one
/// that it knows alone.
fn announcements(settings: &PcpSettings, payload: &[u8], context: &Context<'_>) -> Vec<Announcement> {
    let served = context.interfaces.iter().filter(|interface| settings.from.contains(ZoneId(interface.zone)));
    let mut all = Vec::new();
    for interface in served.filter(|interface| interface.ifindex != 0) {
        let own = context.routing.addresses_of(interface.ifindex).filter(|own| !own.tentative);
        all.extend(own.take(ADDRESSES).map(|own| Announcement {
            port: interface.port,
            source: SocketAddr::new(own.address, pcp::SERVER_PORT),
            destination: SocketAddr::new(if own.address.is_ipv4() { ALL_V4 } else { ALL_V6 }, pcp::CLIENT_PORT),
            payload: payload.to_vec(),
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_seconds_agree() {
        for duration in [1, 2, 120, 86_400, 14 * 86_400] {
            assert_eq!(seconds(u64::from(ticks(Duration::from_secs(duration)))), duration as u32);
        }
        assert_eq!(seconds(u64::from(ticks(Duration::from_secs(120))) - 1), 119);
    }
}
