//! Published services whose SYNs may be answered with cookies.

use std::collections::HashMap;

use flowhop_engine::{Interfaces, PublishedService};
use flowhop_flow::cookie::{SERVICES, ServiceKey};
use flowhop_flow::key;
use flowhop_policy::{DestinationTranslation, Family, SynCookies, TCP, ZoneId, key_address};

use crate::shared::{Current, clamp};

/// The services of the policy in force, at most [`SERVICES`], in the order of their translations. A service is published to
/// a port if its translation is the first that is about packets from there, whoever sends them.
#[must_use]
pub fn services(current: &Current, interfaces: &Interfaces) -> Vec<PublishedService> {
    let mut all: HashMap<ServiceKey, PublishedService> = HashMap::new();
    let mut order = Vec::new();
    for (place, nat) in current.policy.nats.iter().enumerate() {
        let Some(translation) = nat.translate_destination.as_ref() else { continue };
        if nat.syn_cookies == SynCookies::Off || current.nats.get(place).is_none_or(|identity| *identity == 0) {
            continue;
        }
        for (external, port) in endpoints(translation) {
            if all.len() >= SERVICES {
                break;
            }
            let family = if translation.family == Family::Ipv4 { 4 } else { 6 };
            let key = ServiceKey::new(key::address(key_address(external)), port, family);
            let ports = ports(current, interfaces, place, external, port);
            if ports == [0; 4] {
                continue;
            }
            let always = nat.syn_cookies == SynCookies::Always;
            let inside = key::address(key_address(translation.member(translation.place_of(external).unwrap_or(0))));
            let clamp = nat.mss_clamp.map(clamp);
            let new = PublishedService { key, always, ports, inside, clamp };
            // Published by another translation to other zones: both are answered alike if they want the same.
            match all.get_mut(&key) {
                None => {
                    order.push(key);
                    all.insert(key, new);
                }
                Some(known) if known.always == always => {
                    known.ports.iter_mut().zip(new.ports).for_each(|(word, more)| *word |= more);
                }
                Some(_) => {}
            }
        }
    }
    order.iter().filter_map(|key| all.remove(key)).collect()
}

/// External addresses with the TCP ports of a translation, none if there are too many.
fn endpoints(translation: &DestinationTranslation) -> impl Iterator<Item = (u128, u16)> {
    let few = translation.tcp_endpoints() <= DestinationTranslation::MOST_ENDPOINTS;
    let addresses = translation.external.ranges().iter().filter(move |_| few).flat_map(|(first, last)| *first..=*last);
    addresses.flat_map(|address| {
        let ports = translation.service.ports(TCP).ranges().iter();
        ports.flat_map(move |(first, last)| (*first..=*last).map(move |port| (address, port)))
    })
}

/// The ports that an endpoint is published to by the translation in a place, one bit each.
fn ports(current: &Current, interfaces: &Interfaces, place: usize, external: u128, port: u16) -> [u64; 4] {
    let address = key_address(external);
    let first_from = |zone: u16| {
        current.policy.nats.iter().position(|nat| {
            nat.translate_destination.as_ref().is_some_and(|translation| {
                translation.family.holds(address)
                    && translation.external.contains(external)
                    && translation.service.ports(TCP).contains(port)
                    && translation.from.contains(ZoneId(zone))
            })
        })
    };
    let mut words = [0u64; 4];
    for interface in interfaces.iter().filter(|interface| first_from(interface.zone) == Some(place)) {
        words[usize::from(interface.port >> 6)] |= 1 << (interface.port & 63);
    }
    words
}
