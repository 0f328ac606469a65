//! Address prefixes, for people and for the trie.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// A prefix is not one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// The length exceeds the address's width.
    #[error("prefix length {length} of {address} exceeds {width} bits")]
    TooLong {
        /// The address the length was given for.
        address: IpAddr,
        /// The length found.
        length: u8,
        /// The longest length possible for the address's family, in bits.
        width: u8,
    },
    /// The text is not `address/length`.
    #[error("`{0}` is not an address or address/length")]
    Syntax(String),
}

/// An IPv4 or IPv6 prefix in canonical form: the bits behind the length are zero.
///
/// ```
/// use flowhop_routing::IpPrefix;
///
/// let prefix: IpPrefix = "192.0.2.17/24".parse()?;
/// assert_eq!(prefix.to_string(), "192.0.2.0/24");
/// assert!(prefix.contains("192.0.2.255".parse().unwrap()));
/// # Ok::<(), flowhop_routing::PrefixError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

impl IpPrefix {
    /// `0.0.0.0/0`: every IPv4 destination.
    pub const ALL_V4: IpPrefix = IpPrefix { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };

    /// `::/0`: every IPv6 destination.
    pub const ALL_V6: IpPrefix = IpPrefix { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };

    /// The prefix of `length` bits that `address` lies in.
    ///
    /// # Errors
    ///
    /// [`PrefixError::TooLong`] when `length` exceeds 32 (IPv4) or 128 (IPv6).
    pub fn new(address: IpAddr, length: u8) -> Result<IpPrefix, PrefixError> {
        let width = width_of(address);
        if length > width {
            return Err(PrefixError::TooLong { address, length, width });
        }
        Ok(IpPrefix::masked(address, length))
    }

    /// The prefix that holds `address` alone.
    #[must_use]
    pub fn host(address: IpAddr) -> IpPrefix {
        IpPrefix { address, length: width_of(address) }
    }

    /// The first address, all bits behind the length zero.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The length in bits: 0 to 32 (IPv4) or 128 (IPv6).
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` is of this family and inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && IpPrefix::masked(address, self.length).address == self.address
    }

    /// The last address of an IPv4 prefix that has a broadcast address (length at most 30).
    #[must_use]
    pub fn directed_broadcast(&self) -> Option<Ipv4Addr> {
        let IpAddr::V4(first) = self.address else {
            return None;
        };
        (self.length <= 30).then(|| Ipv4Addr::from_bits(first.to_bits() | !Key::<u32>::mask(self.length)))
    }

    /// `length` must not exceed the width; both callers have checked it.
    fn masked(address: IpAddr, length: u8) -> IpPrefix {
        let address = match address {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & Key::<u32>::mask(length))),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & Key::<u128>::mask(length))),
        };
        IpPrefix { address, length }
    }
}

fn width_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for IpPrefix {
    type Err = PrefixError;

    /// Reads `address/length`, or an address alone as the prefix that holds only it.
    fn from_str(text: &str) -> Result<IpPrefix, PrefixError> {
        let syntax = || PrefixError::Syntax(text.to_owned());
        match text.split_once('/') {
            Some((address, length)) => {
                IpPrefix::new(address.parse().map_err(|_| syntax())?, length.parse().map_err(|_| syntax())?)
            }
            None => Ok(IpPrefix::host(text.parse().map_err(|_| syntax())?)),
        }
    }
}

/// A trie key of one family; the width of `R` is the family's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<R> {
    pub(crate) bits: R,
    pub(crate) length: u8,
}

impl Key<u32> {
    /// The network mask of `length` bits.
    pub(crate) fn mask(length: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0)
    }
}

impl Key<u128> {
    /// The network mask of `length` bits.
    pub(crate) fn mask(length: u8) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0)
    }
}

impl prefix_trie::Prefix for Key<u32> {
    type R = u32;

    fn repr(&self) -> u32 {
        self.bits
    }

    fn prefix_len(&self) -> u8 {
        self.length
    }

    fn from_repr_len(bits: u32, length: u8) -> Self {
        Key { bits, length }
    }
}

impl prefix_trie::Prefix for Key<u128> {
    type R = u128;

    fn repr(&self) -> u128 {
        self.bits
    }

    fn prefix_len(&self) -> u8 {
        self.length
    }

    fn from_repr_len(bits: u128, length: u8) -> Self {
        Key { bits, length }
    }
}

impl From<Key<u32>> for IpPrefix {
    fn from(key: Key<u32>) -> IpPrefix {
        IpPrefix::masked(IpAddr::V4(Ipv4Addr::from_bits(key.bits)), key.length)
    }
}

impl From<Key<u128>> for IpPrefix {
    fn from(key: Key<u128>) -> IpPrefix {
        IpPrefix::masked(IpAddr::V6(Ipv6Addr::from_bits(key.bits)), key.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_canonical_and_bounded() {
        let prefix: IpPrefix = "10.1.2.3/8".parse().unwrap();
        assert_eq!(prefix.to_string(), "10.0.0.0/8");
        assert_eq!("::1".parse::<IpPrefix>().unwrap().to_string(), "::1/128", "an address alone");
        assert!(matches!(IpPrefix::new("10.0.0.0".parse().unwrap(), 33), Err(PrefixError::TooLong { width: 32, .. })));
        assert!(matches!("10.0.0.0/x".parse::<IpPrefix>(), Err(PrefixError::Syntax(_))));
    }

    #[test]
    fn contains_only_its_own_family() {
        assert!(IpPrefix::ALL_V4.contains("192.0.2.1".parse().unwrap()));
        assert!(!IpPrefix::ALL_V4.contains("::1".parse().unwrap()));
        assert!(!IpPrefix::ALL_V6.contains("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn point_to_point_prefixes_have_no_broadcast() {
        let broadcast = |text: &str| text.parse::<IpPrefix>().unwrap().directed_broadcast();
        assert_eq!(broadcast("10.0.0.0/24"), Some(Ipv4Addr::new(10, 0, 0, 255)));
        assert_eq!(broadcast("10.0.0.0/30"), Some(Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(broadcast("10.0.0.0/31"), None);
        assert_eq!(broadcast("10.0.0.1/32"), None);
        assert_eq!(broadcast("2001:db8::/64"), None);
    }
}
