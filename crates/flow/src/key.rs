//! The key of a flow: one direction of one connection, exactly.
//!
//! Addresses are 128 bits in both families; IPv4 lives in the v4-mapped form `::ffff:a.b.c.d`, so nothing
//! after the parser knows two families. All words are held as they lie in the packet (memory order), because
//! equality, hashing and one's complement sums do not care and the fast path then never swaps bytes.

/// An address as four words in memory order.
pub type Address = [u32; 4];

/// The third word of a v4-mapped address, `00 00 ff ff`, in memory order.
pub const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// The forwarding context that no packet comes in through: of the second key of a connection that was refused, which is
/// remembered so that the kernel paths drop what comes again.
pub const REFUSED: u16 = u16::MAX;

/// Exactly one direction of one connection.
///
/// `ports` is the word with source and destination port as in the packet; for ICMP echo its first half is the
/// identifier and its second half type and code, so that a request never matches the entry of a reply; for
/// other protocols it is 0. `identity` is `protocol | family << 8 | context << 16` with family 4 or 6, and is
/// never 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Source address as received.
    pub source: Address,
    /// Destination address as received.
    pub destination: Address,
    /// Ports as received, source first.
    pub ports: u32,
    /// Protocol, family and forwarding context; see the type.
    pub identity: u32,
}

impl Key {
    /// The identity word of a protocol in a family (4 or 6) and forwarding context.
    #[inline(always)]
    #[must_use]
    pub const fn identity(protocol: u8, family: u8, context: u16) -> u32 {
        protocol as u32 | (family as u32) << 8 | (context as u32) << 16
    }

    /// The IP protocol number.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.identity as u8
    }

    /// The forwarding context.
    #[inline(always)]
    #[must_use]
    pub const fn context(&self) -> u16 {
        (self.identity >> 16) as u16
    }

    /// 4 or 6.
    #[inline(always)]
    #[must_use]
    pub const fn family(&self) -> u8 {
        (self.identity >> 8) as u8
    }

    /// Source port, or ICMP identifier, in host order.
    #[inline(always)]
    #[must_use]
    pub const fn source_port(&self) -> u16 {
        port(self.ports, 0)
    }

    /// Destination port in host order; for ICMP type and code.
    #[inline(always)]
    #[must_use]
    pub const fn destination_port(&self) -> u16 {
        port(self.ports, 2)
    }

    /// The keyed hash of the key: NH over 32-bit halves (universal, so that collisions cannot be computed
    /// without the secret) and the finaliser of MurmurHash3.
    #[inline(always)]
    #[must_use]
    pub const fn hash(&self, secret: &[u32; 10]) -> u64 {
        let [a, b, c, d, upper @ ..] = *secret;
        self.hash_with([a, b, c, d], upper_sum(&self.source, &self.destination, &upper))
    }

    /// [`hash`](Self::hash) from the first four words of the secret and the [`upper_sum`] of the addresses, which in
    /// IPv4 is the same for all of them.
    #[inline(always)]
    #[must_use]
    pub const fn hash_with(&self, secret: [u32; 4], upper: u64) -> u64 {
        let mut h = nh(self.source[3], secret[0], self.destination[3], secret[1]);
        h = h.wrapping_add(nh(self.ports, secret[2], self.identity, secret[3]));
        h = h.wrapping_add(upper);
        h ^= h >> 33;
        h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 33;
        h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^ (h >> 33)
    }
}

/// What the upper three words of two addresses add to the hash of a key.
#[inline(always)]
#[must_use]
pub const fn upper_sum(source: &Address, destination: &Address, secret: &[u32; 6]) -> u64 {
    let h = nh(source[0], secret[0], destination[0], secret[1]);
    let h = h.wrapping_add(nh(source[1], secret[2], destination[1], secret[3]));
    h.wrapping_add(nh(source[2], secret[4], destination[2], secret[5]))
}

#[inline(always)]
const fn nh(a: u32, ka: u32, b: u32, kb: u32) -> u64 {
    (a.wrapping_add(ka) as u64).wrapping_mul(b.wrapping_add(kb) as u64)
}

/// One of the two halves of a ports word in host order: 0 the first, 2 the second.
#[inline(always)]
#[must_use]
pub const fn port(ports: u32, offset: usize) -> u16 {
    let bytes = ports.to_ne_bytes();
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}

/// A ports word from two ports in host order.
#[inline(always)]
#[must_use]
pub const fn ports(source: u16, destination: u16) -> u32 {
    let s = source.to_be_bytes();
    let d = destination.to_be_bytes();
    u32::from_ne_bytes([s[0], s[1], d[0], d[1]])
}

/// The v4-mapped form of an IPv4 address given as in the packet.
#[inline(always)]
#[must_use]
pub const fn mapped(address: [u8; 4]) -> Address {
    [0, 0, V4_MAPPED, u32::from_ne_bytes(address)]
}

/// An IPv6 address as words in memory order.
#[inline(always)]
#[must_use]
pub const fn words(a: &[u8; 16]) -> Address {
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}

/// The 16 bytes of an address in network order.
#[inline(always)]
#[must_use]
pub const fn bytes(address: &Address) -> [u8; 16] {
    let [a, b, c, d] =
        [address[0].to_ne_bytes(), address[1].to_ne_bytes(), address[2].to_ne_bytes(), address[3].to_ne_bytes()];
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}

/// An address for people and for the routing table: IPv4 when it is v4-mapped.
#[must_use]
pub fn ip(address: &Address) -> core::net::IpAddr {
    core::net::Ipv6Addr::from(bytes(address)).to_canonical()
}

/// The words of an address.
#[must_use]
pub const fn address(ip: core::net::IpAddr) -> Address {
    match ip {
        core::net::IpAddr::V4(v4) => mapped(v4.octets()),
        core::net::IpAddr::V6(v6) => words(&v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_keep_packet_order() {
        let word = ports(0x1234, 0xabcd);
        assert_eq!(word.to_ne_bytes(), [0x12, 0x34, 0xab, 0xcd]);
        assert_eq!((port(word, 0), port(word, 2)), (0x1234, 0xabcd));
    }

    // B18: keys of different connections hash independently of each other and of the order of their fields.
    #[test]
    fn swapping_the_ends_changes_the_hash() {
        let secret = [0x9e37_79b9, 1, 2, 3, 5, 7, 11, 13, 17, 19];
        let a = Key {
            source: mapped([10, 0, 0, 1]),
            destination: mapped([10, 0, 0, 2]),
            ports: ports(1, 2),
            identity: Key::identity(flowhop_wire::protocol::UDP, 4, 0),
        };
        let b = Key { source: a.destination, destination: a.source, ports: ports(2, 1), ..a };
        assert_ne!(a.hash(&secret), b.hash(&secret));
    }

    #[test]
    fn addresses_round_trip() {
        let v4 = core::net::IpAddr::from([10, 1, 2, 3]);
        let v6: core::net::IpAddr = core::net::Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, 7).into();
        assert_eq!(ip(&address(v4)), v4);
        assert_eq!(ip(&address(v6)), v6);
        assert_eq!(bytes(&address(v6))[0], 0xfd);
    }
}
