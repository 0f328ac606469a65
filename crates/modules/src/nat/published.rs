//! What destination translations take of addresses, whoever asks: of the box's own, which the kernel programs have
//! to be told, and of those that mappings get their ports from. With it goes what the daemon itself answers at own
//! addresses, the requests of hosts for mappings.

use std::collections::BTreeSet;

use flowhop_flow::key::Address;
use flowhop_policy::{DestinationTranslation, ICMP, ICMPV6, Policy, TCP, UDP, ZoneId, ZoneSet};
use flowhop_wire::{icmp4, icmp6, pcp};

use super::port_set;
use crate::shared::number;

/// The destination translations of a policy, or those of them that one zone may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    entries: Vec<Entry>,
    served: Served,
}

/// Own addresses at which requests for mappings are answered, and the zones that they come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Served {
    addresses: BTreeSet<Address>,
    from: ZoneSet,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    translation: DestinationTranslation,
    one_to_one: bool,
}

impl Published {
    /// Those of a policy.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let entry = |nat: &flowhop_policy::NatRule| {
            let translation = nat.translate_destination.clone()?;
            Some(Entry { name: nat.name.clone(), translation, one_to_one: nat.is_fixed() })
        };
        Self { entries: policy.nats.iter().filter_map(entry).collect(), served: Served::default() }
    }

    /// The same, with these own addresses at which requests for mappings are answered that come from some zones.
    #[must_use]
    pub fn serving(mut self, addresses: impl IntoIterator<Item = Address>, from: &ZoneSet) -> Self {
        self.served = Served { addresses: addresses.into_iter().collect(), from: from.clone() };
        self
    }

    fn serves(&self, address: &Address) -> bool {
        self.served.addresses.contains(address)
    }

    /// Those that packets from a zone may meet.
    #[must_use]
    pub fn from_zone(&self, zone: u16) -> Self {
        let open = |entry: &&Entry| entry.translation.from.contains(ZoneId(zone));
        let served = if self.served.from.contains(ZoneId(zone)) { self.served.clone() } else { Served::default() };
        Self { entries: self.entries.iter().filter(open).cloned().collect(), served }
    }

    /// Whether anything of an address is translated, or answered.
    #[must_use]
    pub fn takes(&self, address: &Address) -> bool {
        self.serves(address) || self.entries(address).next().is_some()
    }

    /// Inclusive ranges of ports of TCP, or of UDP, that are translated or answered; they may overlap.
    #[must_use]
    pub fn ports(&self, address: &Address, protocol: u8) -> Vec<(u16, u16)> {
        let published = self.entries(address).flat_map(|entry| entry.translation.service.ports(protocol).ranges());
        let served = (protocol == UDP && self.serves(address)).then_some((pcp::SERVER_PORT, pcp::SERVER_PORT));
        published.copied().chain(served).collect()
    }

    /// The same, one bit for each port, the lowest first.
    #[must_use]
    pub fn port_bits(&self, address: &Address, protocol: u8) -> Box<[u64; 1024]> {
        let mut bits = port_set::none();
        for range in self.ports(address, protocol) {
            port_set::add(&mut bits, range);
        }
        bits
    }

    /// Whether a port of TCP or UDP is translated, or answered.
    #[must_use]
    pub fn has_port(&self, address: &Address, protocol: u8, port: u16) -> bool {
        let holds = |(first, last): &(u16, u16)| (*first..=*last).contains(&port);
        matches!(protocol, TCP | UDP) && self.ports(address, protocol).iter().any(holds)
    }

    /// Whether echo requests are translated.
    #[must_use]
    pub fn has_echo(&self, address: &Address) -> bool {
        self.entries(address).any(|entry| {
            let service = &entry.translation.service;
            service.matches(ICMP, 0, 0, icmp4::ECHO_REQUEST) || service.matches(ICMPV6, 0, 0, icmp6::ECHO_REQUEST)
        })
    }

    /// Protocols without ports and echo that are translated.
    #[must_use]
    pub fn others(&self, address: &Address) -> Vec<u8> {
        let mut numbers: Vec<u8> = self.entries(address).flat_map(|entry| entry.translation.service.others()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// A translation of this address that takes packets from some sources only, by name.
    #[must_use]
    pub fn limited_by_source(&self, address: &Address) -> Option<&str> {
        self.entries(address).find(|entry| !entry.translation.source.is_any()).map(|entry| entry.name.as_str())
    }

    /// Adds the ports, or identifiers, of an address that a mapping must not have. Where a service is published on every
    /// port there is none to be left to it: then mappings may use them all, since their packets are known flows.
    /// The addresses of a one-to-one translation have but one user.
    pub(super) fn bar(&self, address: &Address, protocol: u8, barred: &mut Vec<(u16, u16)>) {
        for entry in self.entries(address) {
            if entry.one_to_one {
                barred.push((0, u16::MAX));
                return;
            }
            let ports = entry.translation.service.ports(protocol);
            if matches!(protocol, TCP | UDP) && !ports.is_any() {
                barred.extend(ports.ranges());
            }
        }
    }

    fn entries(&self, address: &Address) -> impl Iterator<Item = &Entry> {
        let (key, ip) = (number(address), flowhop_flow::key::ip(address));
        self.entries
            .iter()
            .filter(move |entry| entry.translation.family.holds(ip) && entry.translation.external.contains(key))
    }
}
