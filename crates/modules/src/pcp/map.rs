//! MAP: a mapping is made, goes on, or ends (RFC 6887 sections 11, 13 and 15).

use std::net::IpAddr;

use flowhop_engine::{Context, Query};
use flowhop_flow::key::{self, Address};
use flowhop_policy::{PcpSettings, ZoneId};
use flowhop_wire::pcp::{Filter, Map, PcpOption, Request, ResultCode, option};
use flowhop_wire::protocol;

use super::{Refusal, Server, seconds, ticks};
use crate::nat::explicit::{FILTERS, Grant, Peers};
use crate::nat::granting::{self, Wish};
use crate::nat::{Endpoint, Refused};
use crate::shared::Current;

/// What the options of a request say.
#[derive(Debug, Default)]
struct Asked {
    /// PREFER_FAILURE.
    exactly: bool,
    /// The filters that there were go.
    afresh: bool,
    /// Filters that are added.
    filters: Vec<Peers>,
    /// Options as they are in the answer.
    processed: Vec<u8>,
}

/// Prefix length at which those of IPv4 begin.
const V4: u8 = 96;

impl Server {
    /// Answers with a lifetime in seconds and what follows the header.
    pub(super) fn map(
        &self,
        request: &Request<'_>,
        map: &Map,
        query: &Query<'_>,
        context: &mut Context<'_>,
    ) -> Result<(u32, Vec<u8>), Refusal> {
        let current = self.shared.current();
        let Some(settings) = &current.policy.pcp else { return Err(ResultCode::NotAuthorized.into()) };
        let host = key::ip(&query.key.source);
        // A link-local address is reached by nobody else.
        if !settings.serves(ZoneId(query.from), host) || is_link_local(host) {
            return Err(ResultCode::NotAuthorized.into());
        }
        let asked = options(request, map, &query.key.source)?;
        let inside = Endpoint { protocol: map.protocol, address: query.key.source, port: map.internal_port.get() };
        if map.protocol == 0 && inside.port != 0 {
            return Err(ResultCode::MalformedRequest.into());
        }
        let lifetime = request.header.lifetime.get();
        let (lifetime, external) = if lifetime == 0 {
            self.delete(&current, settings, map, &inside, context)?;
            (0, None)
        } else if !matches!(map.protocol, protocol::TCP | protocol::UDP) || inside.port == 0 {
            return Err(ResultCode::UnsupportedProtocol.into());
        } else {
            let wish = wish(map, inside, query.from, asked.exactly);
            let (lifetime, external) =
                self.create(&current, settings, (map.nonce, lifetime), &wish, &asked, context)?;
            (lifetime, Some(external))
        };
        let mut answer = Map { reserved: [0; 3], ..*map };
        if let Some(external) = external {
            answer.external_port = external.port.into();
            answer.external_address = key::bytes(&external.address);
        }
        Ok((lifetime, [answer.bytes(), &asked.processed].concat()))
    }

    /// Section 15.1. The binding stays as long as its host has connections by it, and its port rests after that: nobody
    /// comes by the port of another one sooner than without this request.
    fn delete(
        &self,
        current: &Current,
        settings: &PcpSettings,
        map: &Map,
        inside: &Endpoint,
        context: &Context<'_>,
    ) -> Result<(), Refusal> {
        if map.protocol == 0 || inside.port == 0 {
            // None can have been made.
            return Ok(());
        }
        if granting::published(current, settings, inside).is_some() {
            return Err(ResultCode::NotAuthorized.into());
        }
        match self.bindings.asked(inside, context.now) {
            Some((mapping, left)) if mapping.nonce != map.nonce => Err(held(left)),
            Some(_) => {
                self.bindings.revoke(inside, context.now);
                Ok(())
            }
            None if granting::has_own(&self.bindings, current, inside) => Err(ResultCode::NotAuthorized.into()),
            None => Ok(()),
        }
    }

    /// Section 11.3.
    fn create(
        &self,
        current: &Current,
        settings: &PcpSettings,
        (nonce, seconds): ([u8; 12], u32),
        wish: &Wish,
        asked: &Asked,
        context: &mut Context<'_>,
    ) -> Result<(u32, Endpoint), Refusal> {
        let inside = &wish.inside;
        if let Some(external) = granting::published(current, settings, inside) {
            let taken = wish.takes(&external);
            return if taken { Ok((u32::MAX, external)) } else { Err(ResultCode::CannotProvideExternal.into()) };
        }
        let known = self.bindings.asked(inside, context.now);
        if let Some((mapping, left)) = &known {
            if mapping.nonce != nonce {
                return Err(held(*left));
            }
            if !wish.takes(&mapping.external) {
                return Err(ResultCode::CannotProvideExternal.into());
            }
        }
        let before = known.as_ref().filter(|_| !asked.afresh).map(|(mapping, _)| mapping.filters.clone());
        let mut filters = before.unwrap_or_default();
        for filter in &asked.filters {
            if !filters.contains(filter) {
                filters.push(*filter);
            }
        }
        if filters.len() > FILTERS {
            return Err(ResultCode::ExcessiveRemotePeers.into());
        }
        let lifetime = settings.lifetime(seconds);
        let grant = Grant { nonce, lifetime: ticks(lifetime), filters };
        let granted = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        if let Some((mapping, _)) = known {
            self.bindings.renew(inside, grant, context.now);
            return Ok((granted, mapping.external));
        }
        if self.bindings.asked_of(&inside.address) >= settings.limit {
            return Err(ResultCode::UserExceedsQuota.into());
        }
        let external = granting::grant(&self.shared, &self.bindings, wish, grant, context);
        Ok((granted, external.map_err(result_code)?))
    }
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn result_code(refused: Refused) -> ResultCode {
    match refused {
        Refused::Another => ResultCode::CannotProvideExternal,
        Refused::NoRoom => ResultCode::NoResources,
        Refused::Quota => ResultCode::UserExceedsQuota,
        Refused::NoAddress => ResultCode::NetworkFailure,
        Refused::NotHere => ResultCode::NotAuthorized,
    }
}

/// The mapping is somebody's who knows its nonce, as long as it has these ticks left.
fn held(left: u64) -> Refusal {
    Refusal { result: ResultCode::NotAuthorized, lifetime: seconds(left).saturating_add(1) }
}

fn wish(map: &Map, inside: Endpoint, from: u16, exactly: bool) -> Wish {
    let suggested = key::words(&map.external_address);
    let (v4, named) = match key::ip(&suggested) {
        IpAddr::V4(address) => (true, !address.is_unspecified()),
        IpAddr::V6(address) => (false, !address.is_unspecified()),
    };
    let port = map.external_port.get();
    Wish {
        inside,
        from,
        address: named.then_some(suggested),
        port: (port != 0).then_some(port),
        exactly,
        across: v4 && key::ip(&inside.address).is_ipv6(),
    }
}

/// Processes options in their order (section 7.3).
fn options(request: &Request<'_>, map: &Map, source: &Address) -> Result<Asked, Refusal> {
    let ends = request.header.lifetime.get() == 0;
    let mut asked = Asked::default();
    for option in request.options {
        match option.code {
            option::THIRD_PARTY => return Err(third_party(&option, source).into()),
            option::PREFER_FAILURE => {
                let suggests = map.external_port.get() != 0;
                if asked.exactly || ends || !suggests || !option.data.is_empty() {
                    return Err(ResultCode::MalformedOption.into());
                }
                asked.exactly = true;
            }
            option::FILTER => match filter(&option, source).filter(|_| !ends) {
                Some(Some(peers)) => asked.filters.push(peers),
                Some(None) => {
                    asked.afresh = true;
                    asked.filters.clear();
                }
                None => return Err(ResultCode::MalformedOption.into()),
            },
            option::OPTIONAL.. => continue,
            _ => return Err(ResultCode::UnsupportedOption.into()),
        }
        asked.processed.extend_from_slice(option.whole);
    }
    Ok(asked)
}

/// Nobody maps another host (section 13.1).
fn third_party(option: &PcpOption<'_>, source: &Address) -> ResultCode {
    match <[u8; 16]>::try_from(option.data) {
        Err(_) => ResultCode::MalformedOption,
        Ok(host) if host == key::bytes(source) => ResultCode::MalformedRequest,
        Ok(_) => ResultCode::UnsupportedOption,
    }
}

/// Section 13.3: whom a filter lets in; `Some(None)`: there are to be none. `None`: it cannot be read.
fn filter(option: &PcpOption<'_>, source: &Address) -> Option<Option<Peers>> {
    let filter = Filter::of(option.data)?;
    if filter.prefix_length == 0 {
        return Some(None);
    }
    let address = key::words(&filter.address);
    let is_v4 = key::ip(&address).is_ipv4();
    let least = if is_v4 { V4 } else { 0 };
    // The peer's family is that of the host, whatever lies between them (section 10).
    if is_v4 != key::ip(source).is_ipv4() || !(least..=128).contains(&filter.prefix_length) {
        return None;
    }
    let host = u128::MAX.checked_shr(filter.prefix_length.into()).unwrap_or(0);
    let number = u128::from_be_bytes(filter.address);
    let port = filter.port.get();
    Some(Some(Peers { addresses: (number & !host, number | host), port: (port != 0).then_some(port) }))
}
