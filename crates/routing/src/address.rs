//! Own addresses.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use crate::IpPrefix;
use crate::overlaps::Overlaps;

/// An address configured on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The link's interface index.
    pub ifindex: u32,
    /// The own address.
    pub address: IpAddr,
    /// Length of its prefix in bits: 0 to 32 or 128.
    pub prefix_len: u8,
    /// Broadcast address as configured.
    pub broadcast: Option<Ipv4Addr>,
    /// The other end, when the address was configured with one.
    pub peer: Option<IpAddr>,
    /// How far the address is valid.
    pub scope: AddressScope,
    /// Secondary (IPv4: not the first of its prefix; IPv6: temporary).
    pub secondary: bool,
    /// Fit as the source of new connections: neither deprecated, tentative nor a detected duplicate.
    pub preferred: bool,
    /// Not assigned yet: whether another host has it is being found out, or it is a duplicate (RFC 4862 section 5.4).
    pub tentative: bool,
}

/// How far an address is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressScope {
    /// Everywhere.
    Global,
    /// On its link.
    Link,
    /// On this machine.
    Host,
}

impl InterfaceAddress {
    /// A preferred global address without broadcast and peer: a starting point for tests and simulation.
    #[must_use]
    pub fn global(ifindex: u32, address: IpAddr, prefix_len: u8) -> InterfaceAddress {
        InterfaceAddress {
            ifindex,
            address,
            prefix_len,
            broadcast: None,
            peer: None,
            scope: AddressScope::Global,
            secondary: false,
            preferred: true,
            tentative: false,
        }
    }

    /// The prefix that is on the link by this address: the peer's where there is one.
    pub(crate) fn on_link_prefix(&self) -> Option<IpPrefix> {
        IpPrefix::new(self.peer.unwrap_or(self.address), self.prefix_len).ok()
    }

    /// Whether another address is on the link by this one.
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        self.on_link_prefix().is_some_and(|prefix| prefix.contains(address))
    }

    /// Whether a prefix is that on the link by this address.
    pub(crate) fn is_on(&self, prefix: &IpPrefix) -> bool {
        self.on_link_prefix().as_ref() == Some(prefix)
    }
}

/// The addresses of all links, in the order they were announced: the kernel announces the primary ones first.
#[derive(Debug, Default)]
pub(crate) struct OwnAddresses {
    by_link: BTreeMap<u32, Vec<Stamped>>,
    /// How many times each address is configured: one address may be on several links.
    count: HashMap<IpAddr, u32>,
    overlaps: Overlaps,
}

#[derive(Debug)]
struct Stamped {
    epoch: u32,
    address: InterfaceAddress,
}

impl OwnAddresses {
    /// Returns whether anything changed.
    pub(crate) fn upsert(&mut self, address: InterfaceAddress, epoch: u32) -> bool {
        let on_link = self.by_link.entry(address.ifindex).or_default();
        let known = on_link
            .iter_mut()
            .find(|known| known.address.address == address.address && known.address.prefix_len == address.prefix_len);
        let changed = match known {
            Some(known) => {
                known.epoch = epoch;
                let changed = known.address != address;
                known.address = address;
                changed
            }
            None => {
                on_link.push(Stamped { epoch, address });
                *self.count.entry(address.address).or_default() += 1;
                true
            }
        };
        if changed {
            self.overlaps = Overlaps::default();
        }
        changed
    }

    /// Removes what `keep` refuses; returns whether that was anything.
    fn retain(&mut self, mut keep: impl FnMut(&Stamped) -> bool) -> bool {
        let count = &mut self.count;
        let mut changed = false;
        for on_link in self.by_link.values_mut() {
            on_link.retain(|known| {
                let keeps = keep(known);
                if !keeps {
                    changed = true;
                    forget(count, known.address.address);
                }
                keeps
            });
        }
        self.by_link.retain(|_, on_link| !on_link.is_empty());
        if changed {
            self.overlaps = Overlaps::default();
        }
        changed
    }

    /// The other links with a connected prefix of a family that has addresses in common with one of a link; link-local
    /// ones, which all links have, do not count.
    pub(crate) fn overlapping(&mut self, ifindex: u32, is_v4: bool) -> &[u32] {
        let all = self.by_link.values().flatten().map(|known| &known.address);
        let global = all.filter(|own| own.scope == AddressScope::Global);
        self.overlaps
            .of(ifindex, is_v4, || global.filter_map(|own| Some((own.on_link_prefix()?, own.ifindex))).collect())
    }

    /// Returns whether the address was known.
    pub(crate) fn remove(&mut self, ifindex: u32, address: IpAddr, prefix_len: u8) -> bool {
        self.retain(|known| {
            known.address.ifindex != ifindex
                || known.address.address != address
                || known.address.prefix_len != prefix_len
        })
    }

    /// Returns whether the link had addresses.
    pub(crate) fn remove_link(&mut self, ifindex: u32) -> bool {
        self.retain(|known| known.address.ifindex != ifindex)
    }

    /// Removes what was not announced in `epoch`; returns whether that was anything.
    pub(crate) fn sweep(&mut self, epoch: u32) -> bool {
        self.retain(|known| known.epoch == epoch)
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.count.contains_key(&address)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &InterfaceAddress> {
        self.by_link.values().flatten().map(|known| &known.address)
    }

    pub(crate) fn on_link(&self, ifindex: u32) -> impl Iterator<Item = &InterfaceAddress> {
        self.by_link.get(&ifindex).into_iter().flatten().map(|known| &known.address)
    }

    /// The address to send from towards `next_hop`: of its family and global where possible, preferred, in the
    /// same prefix as the next hop, primary; in this order of weight, and the first announced among equals.
    pub(crate) fn source_towards(&self, ifindex: u32, next_hop: IpAddr) -> Option<&InterfaceAddress> {
        self.on_link(ifindex)
            .filter(|own| own.address.is_ipv4() == next_hop.is_ipv4())
            .filter(|own| own.scope != AddressScope::Host)
            .min_by_key(|own| {
                let near = own.on_link_prefix().is_some_and(|prefix| prefix.contains(next_hop));
                (own.scope, !own.preferred, !near, own.secondary)
            })
    }

    pub(crate) fn is_directed_broadcast(&self, address: Ipv4Addr) -> bool {
        self.iter().any(|own| {
            own.broadcast == Some(address)
                || own.on_link_prefix().is_some_and(|prefix| prefix.directed_broadcast() == Some(address))
        })
    }
}

fn forget(count: &mut HashMap<IpAddr, u32>, address: IpAddr) {
    if let Some(times) = count.get_mut(&address) {
        *times = times.saturating_sub(1);
        if *times == 0 {
            count.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(ifindex: u32, address: &str, prefix_len: u8) -> InterfaceAddress {
        InterfaceAddress::global(ifindex, address.parse().unwrap(), prefix_len)
    }

    fn source(addresses: &OwnAddresses, ifindex: u32, next_hop: &str) -> Option<String> {
        addresses.source_towards(ifindex, next_hop.parse().unwrap()).map(|own| own.address.to_string())
    }

    #[test]
    fn source_prefers_the_prefix_of_the_next_hop_then_the_primary() {
        let mut addresses = OwnAddresses::default();
        addresses.upsert(own(1, "192.0.2.1", 24), 0);
        addresses.upsert(own(1, "198.51.100.1", 24), 0);
        let secondary = InterfaceAddress { secondary: true, ..own(1, "198.51.100.2", 24) };
        addresses.upsert(secondary, 0);
        assert_eq!(source(&addresses, 1, "198.51.100.9").as_deref(), Some("198.51.100.1"));
        assert_eq!(
            source(&addresses, 1, "203.0.113.9").as_deref(),
            Some("192.0.2.1"),
            "the first announced where no prefix fits"
        );
        assert_eq!(source(&addresses, 2, "198.51.100.9"), None);
        assert_eq!(source(&addresses, 1, "fe80::1"), None);
    }

    // RFC 4787 REQ-7.
    #[test]
    fn links_overlap_by_prefixes_in_one_another() {
        let mut addresses = OwnAddresses::default();
        let overlapping = |addresses: &mut OwnAddresses, link| addresses.overlapping(link, true).to_vec();
        for (link, address, length) in [(1, "10.1.0.1", 24), (2, "10.1.1.1", 24), (3, "2001:db8::1", 64)] {
            addresses.upsert(own(link, address, length), 0);
            let link_local = InterfaceAddress { scope: AddressScope::Link, ..own(link, "fe80::1", 64) };
            addresses.upsert(link_local, 0);
        }
        assert!((1..4).all(|link| overlapping(&mut addresses, link).is_empty()));
        addresses.upsert(own(4, "10.0.0.1", 8), 0);
        addresses.upsert(own(4, "10.1.0.77", 24), 0);
        addresses.upsert(own(4, "2001:db8::2", 80), 0);
        assert_eq!(overlapping(&mut addresses, 1), [4]);
        assert_eq!((overlapping(&mut addresses, 4), overlapping(&mut addresses, 3)), (vec![1, 2], vec![]));
        assert_eq!((addresses.overlapping(3, false).to_vec(), addresses.overlapping(4, false)), (vec![4], &[3][..]));
        addresses.remove(4, "10.0.0.1".parse().unwrap(), 8);
        assert_eq!((overlapping(&mut addresses, 1), overlapping(&mut addresses, 2)), (vec![4], vec![]));
        addresses.remove_link(4);
        assert!(overlapping(&mut addresses, 1).is_empty());
    }

    #[test]
    fn source_towards_a_link_local_router_is_global() {
        let mut addresses = OwnAddresses::default();
        let link_local = InterfaceAddress { scope: AddressScope::Link, ..own(1, "fe80::2", 64) };
        addresses.upsert(link_local, 0);
        addresses.upsert(own(1, "2001:db8::2", 64), 0);
        assert_eq!(source(&addresses, 1, "fe80::1").as_deref(), Some("2001:db8::2"));
    }

    #[test]
    fn an_address_on_two_links_is_own_until_both_are_gone() {
        let mut addresses = OwnAddresses::default();
        assert!(addresses.upsert(own(1, "192.0.2.1", 24), 0));
        assert!(addresses.upsert(own(2, "192.0.2.1", 24), 0));
        assert!(!addresses.upsert(own(2, "192.0.2.1", 24), 1), "no change");
        let address = "192.0.2.1".parse().unwrap();
        assert!(addresses.remove(2, address, 24));
        assert!(addresses.contains(address));
        assert!(addresses.sweep(1), "the other was not announced again");
        assert!(!addresses.contains(address));
    }

    #[test]
    fn directed_broadcast_is_known_without_being_configured() {
        let mut addresses = OwnAddresses::default();
        addresses.upsert(own(1, "192.0.2.1", 24), 0);
        let odd = InterfaceAddress { broadcast: Some(Ipv4Addr::new(198, 51, 100, 77)), ..own(1, "198.51.100.1", 31) };
        addresses.upsert(odd, 0);
        assert!(addresses.is_directed_broadcast(Ipv4Addr::new(192, 0, 2, 255)));
        assert!(addresses.is_directed_broadcast(Ipv4Addr::new(198, 51, 100, 77)));
        assert!(!addresses.is_directed_broadcast(Ipv4Addr::new(192, 0, 2, 254)));
    }
}
