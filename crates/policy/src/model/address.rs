//! Sets of addresses of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ranges::Ranges;
use super::rule::Family;

/// First key of the IPv4 addresses: `::ffff:0.0.0.0`.
pub(crate) const IPV4_FIRST: u128 = 0xffff_0000_0000;
/// Last key of the IPv4 addresses: `::ffff:255.255.255.255`.
pub(crate) const IPV4_LAST: u128 = 0xffff_ffff_ffff;

/// The key of an address: IPv6 as it is, IPv4 in v4-mapped form (`::ffff:a.b.c.d`).
#[must_use]
pub fn address_key(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address of a key: the inverse of [`address_key`].
#[must_use]
pub fn key_address(key: u128) -> IpAddr {
    let v6 = Ipv6Addr::from(key);
    match v6.to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(v4),
        None => IpAddr::V6(v6),
    }
}

/// A set of addresses, IPv4 and IPv6 together, as sorted disjoint inclusive ranges of keys.
///
/// IPv4 lives in v4-mapped form; an IPv6 prefix however short, `::/0` included, never contains IPv4.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressSet(Ranges<u128>);

impl AddressSet {
    /// Every address of both families: what an absent `source` means.
    #[must_use]
    pub fn any() -> Self {
        Self(Ranges::all())
    }

    /// No address at all.
    #[must_use]
    pub fn none() -> Self {
        Self(Ranges::none())
    }

    /// Every IPv4 address and nothing else.
    #[must_use]
    pub fn ipv4() -> Self {
        Self::of_keys(vec![(IPV4_FIRST, IPV4_LAST)])
    }

    /// The union of inclusive ranges of keys, in any order.
    #[must_use]
    pub fn of_keys(ranges: Vec<(u128, u128)>) -> Self {
        Self(Ranges::union(ranges))
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.without(&other.0))
    }

    /// What of this set is of one family.
    #[must_use]
    pub fn of_family(&self, family: Family) -> Self {
        let v6 = self.without(&Self::ipv4());
        if family == Family::Ipv4 { self.without(&v6) } else { v6 }
    }

    /// Whether the address with this key is in the set. Binary search.
    #[must_use]
    pub fn contains(&self, key: u128) -> bool {
        self.0.contains(key)
    }

    /// Whether the address is in the set.
    #[must_use]
    pub fn contains_address(&self, address: IpAddr) -> bool {
        self.contains(address_key(address))
    }

    /// Whether everything in `other` is in this set.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0.covers(&other.0)
    }

    /// Whether some IPv4 address is in the set.
    #[must_use]
    pub fn has_ipv4(&self) -> bool {
        self.0.meets(IPV4_FIRST, IPV4_LAST)
    }

    /// Whether some IPv6 address is in the set.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.0.meets(0, IPV4_FIRST - 1) || self.0.meets(IPV4_LAST + 1, u128::MAX)
    }

    /// Whether this is every address of both families.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.is_all()
    }

    /// Whether no address is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges of keys, inclusive, sorted, with gaps between them.
    #[must_use]
    pub fn ranges(&self) -> &[(u128, u128)] {
        self.0.as_slice()
    }
}

impl Default for AddressSet {
    fn default() -> Self {
        Self::any()
    }
}

/// Whether a translation may put this address on a packet.
pub(crate) fn is_usable_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.octets()[0] != 0
                && !v4.is_loopback()
                && !v4.is_multicast()
                && v4 != Ipv4Addr::BROADCAST
                && v4.octets()[0] < 240
        }
        IpAddr::V6(v6) => {
            !v6.is_unspecified() && !v6.is_loopback() && !v6.is_multicast() && !v6.is_unicast_link_local()
        }
    }
}
