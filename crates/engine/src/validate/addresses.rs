//! Addresses that are not forwarded, whatever the routes say.
//!
//! Some are refused in any case, because the standards leave no choice; the rest, "martians", by what the interface is set
//! to. Link-local addresses and the box's own concern only what is forwarded: see `spoofing`.

use flowhop_flow::Reason;
use flowhop_flow::key::{self, Address, Key};

/// Which martian addresses are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Martians {
    /// None but those that are refused in any case.
    Off,
    /// Networks 0 and 240 to 255 (RFC 1812 section 5.3.7), and IPv4 link-local transit (RFC 3927 section 7).
    #[default]
    Rfc1812,
    /// What the registries of special-purpose addresses say is not forwardable (RFC 6890, RFC 8190). That includes the
    /// prefixes for documentation.
    Registry,
}

/// Judges source and destination.
///
/// # Errors
/// The reason to drop the packet with.
pub fn judge(key: &Key, martians: Martians) -> Result<(), Reason> {
    if key.source == key.destination {
        return Err(Reason::LandAttack);
    }
    match key.family() {
        4 => ipv4(key.source[3].to_ne_bytes(), key.destination[3].to_ne_bytes(), martians),
        _ => ipv6(&key::bytes(&key.source), &key::bytes(&key.destination), martians),
    }
}

fn ipv4(source: [u8; 4], destination: [u8; 4], martians: Martians) -> Result<(), Reason> {
    // RFC 1122 section 3.2.1.3 g: never outside a host. The switch that RFC 1812 section 5.3.7 allows is not for these.
    if source[0] == 127 || destination[0] == 127 {
        return Err(Reason::LoopbackAddress);
    }
    if source[0] & 0xf0 == 0xe0 || source == [0xff; 4] {
        return Err(Reason::MulticastSource);
    }
    let is_martian = |address: [u8; 4]| match martians {
        Martians::Off => false,
        Martians::Rfc1812 => address[0] == 0 || address[0] >= 240,
        Martians::Registry => !is_forwardable(high(address), &REGISTRY_V4),
    };
    if is_martian(source) {
        return Err(Reason::MartianSource);
    }
    if is_martian(destination) { Err(Reason::MartianDestination) } else { Ok(()) }
}

fn ipv6(source: &[u8; 16], destination: &[u8; 16], martians: Martians) -> Result<(), Reason> {
    for address in [source, destination] {
        match u128::from_be_bytes(*address) {
            0 => return Err(Reason::UnspecifiedAddress),
            1 => return Err(Reason::LoopbackAddress),
            // RFC 4291 section 2.5.5: in a key such an address stands for an IPv4 one, and would pass by the rules for it.
            bits if matches!(bits >> 32, 0 | 0xffff) => return Err(Reason::MappedAddress),
            _ => {}
        }
    }
    if source[0] == 0xff {
        return Err(Reason::MulticastSource);
    }
    if martians != Martians::Registry {
        return Ok(());
    }
    let is_martian = |address: &[u8; 16]| !is_forwardable(u128::from_be_bytes(*address), &REGISTRY_V6);
    if is_martian(source) {
        return Err(Reason::MartianSource);
    }
    if !is_martian(destination) { Ok(()) } else { Err(Reason::MartianDestination) }
}

/// Prefixes of sources that are, and are not, forwarded under a setting: address, length in bits, and which. The longest that
/// holds an address counts. Without a setting, all that any of them refuses.
pub(crate) fn prefixes(martians: Option<Martians>) -> Vec<(Address, u32, bool)> {
    let v4 = |bits: u128, length: u8| (key::mapped(((bits >> 96) as u32).to_be_bytes()), 96 + u32::from(length));
    let v6 = |bits: u128, length: u8| (key::words(&bits.to_be_bytes()), u32::from(length));
    let mut refused = vec![
        v4(high([127, 0, 0, 0]), 8),
        v4(high([224, 0, 0, 0]), 4),
        v4(high([255, 255, 255, 255]), 32),
        v6(0xff << 120, 8),
        v6(0xfe80 << 112, 10),
    ];
    if martians != Some(Martians::Off) {
        // RFC 3927 section 7 with the others.
        refused.extend(
            [([0; 4], 8), ([240, 0, 0, 0], 4), ([169, 254, 0, 0], 16)].map(|(net, length)| v4(high(net), length)),
        );
    }
    let mut all: Vec<_> = refused.into_iter().map(|(address, length)| (address, length, false)).collect();
    if matches!(martians, None | Some(Martians::Registry)) {
        let registries = REGISTRY_V4.iter().map(|(bits, length, forwardable)| (v4(*bits, *length), *forwardable));
        let registries = registries.chain(REGISTRY_V6.iter().map(|(bits, length, yes)| (v6(*bits, *length), *yes)));
        all.extend(registries.map(|((address, length), forwardable)| (address, length, forwardable)));
    }
    all
}

/// Whether a registry lets an address be forwarded: by the first prefix that holds it; what is in none is.
fn is_forwardable(address: u128, registry: &[(u128, u8, bool)]) -> bool {
    let holds = |prefix: u128, length: u8| (address ^ prefix) & (u128::MAX << (128 - length)) == 0;
    registry.iter().find(|(prefix, length, _)| holds(*prefix, *length)).is_none_or(|(.., forwardable)| *forwardable)
}

/// An IPv4 address in the high bits.
const fn high(address: [u8; 4]) -> u128 {
    (u32::from_be_bytes(address) as u128) << 96
}

/// Column "Forwardable" of IANA "IPv4 Special-Purpose Address Registry" where it is false, exceptions first. Link-local
/// addresses are refused in transit, multicast is not in the registry.
const REGISTRY_V4: [(u128, u8, bool); 9] = [
    (high([0, 0, 0, 0]), 8, false),
    // DS-Lite (RFC 7335), anycast of PCP and TURN (RFC 7723, RFC 8155).
    (high([192, 0, 0, 0]), 29, true),
    (high([192, 0, 0, 9]), 32, true),
    (high([192, 0, 0, 10]), 32, true),
    (high([192, 0, 0, 0]), 24, false),
    // Documentation (RFC 5737).
    (high([192, 0, 2, 0]), 24, false),
    (high([198, 51, 100, 0]), 24, false),
    (high([203, 0, 113, 0]), 24, false),
    (high([240, 0, 0, 0]), 4, false),
];

/// The same of IANA "IPv6 Special-Purpose Address Registry". What is refused in any case is left out.
const REGISTRY_V6: [(u128, u8, bool); 13] = [
    // Dummy prefix (RFC 9780).
    (0x0100_0000_0000_0001 << 64, 64, false),
    // Within the protocol assignments: Teredo, anycast of PCP, TURN and DNS-SD, benchmarking, AMT, AS112, ORCHIDv2,
    // identification of drones.
    (0x2001_0000 << 96, 32, true),
    (0x2001_0001 << 96 | 1, 128, true),
    (0x2001_0001 << 96 | 2, 128, true),
    (0x2001_0001 << 96 | 3, 128, true),
    (0x2001_0002 << 96, 48, true),
    (0x2001_0003 << 96, 32, true),
    (0x2001_0004_0112 << 80, 48, true),
    (0x2001_0020 << 96, 28, true),
    (0x2001_0030 << 96, 28, true),
    (0x2001_0000 << 96, 23, false),
    // Documentation (RFC 3849, RFC 9637).
    (0x2001_0db8 << 96, 32, false),
    (0x3fff << 112, 20, false),
];

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn judged(source: &str, destination: &str, martians: Martians) -> Option<Reason> {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let family = if address(source).is_ipv4() { 4 } else { 6 };
        let words = |text: &str| match address(text) {
            IpAddr::V4(v4) => key::mapped(v4.octets()),
            IpAddr::V6(v6) => key::words(&v6.octets()),
        };
        let identity = Key::identity(17, family, 0);
        judge(&Key { source: words(source), destination: words(destination), ports: 0, identity }, martians).err()
    }

    const ALL: [Martians; 3] = [Martians::Off, Martians::Rfc1812, Martians::Registry];

    // RFC 1122 section 3.2.1.3, RFC 1812 section 5.3.7, RFC 4291 sections 2.5.2, 2.5.3, 2.5.5, 2.7.
    #[test]
    fn what_no_standard_lets_pass_is_refused_in_any_mode() {
        for martians in ALL {
            for (source, destination, reason) in [
                ("10.0.0.1", "10.0.0.1", Reason::LandAttack),
                ("2600::1", "2600::1", Reason::LandAttack),
                ("127.0.0.1", "10.0.0.1", Reason::LoopbackAddress),
                ("10.0.0.1", "127.9.9.9", Reason::LoopbackAddress),
                ("224.0.0.1", "10.0.0.1", Reason::MulticastSource),
                ("239.255.255.255", "10.0.0.1", Reason::MulticastSource),
                ("255.255.255.255", "10.0.0.1", Reason::MulticastSource),
                ("::1", "2600::1", Reason::LoopbackAddress),
                ("2600::1", "::1", Reason::LoopbackAddress),
                ("::", "2600::1", Reason::UnspecifiedAddress),
                ("2600::1", "::", Reason::UnspecifiedAddress),
                ("::ffff:10.1.0.2", "2600::1", Reason::MappedAddress),
                ("2600::1", "::ffff:10.1.0.2", Reason::MappedAddress),
                ("::10.1.0.2", "2600::1", Reason::MappedAddress),
                ("ff02::1", "2600::1", Reason::MulticastSource),
            ] {
                assert_eq!(judged(source, destination, martians), Some(reason), "{source} {destination} {martians:?}");
            }
        }
    }

    // RFC 1812 section 5.3.7; the registries of RFC 6890 as updated by RFC 8190.
    #[test]
    fn martians_are_by_mode() {
        use Martians::{Registry, Rfc1812};
        for (address, refused) in [
            ("0.0.0.1", &[Rfc1812, Registry][..]),
            ("0.255.0.1", &[Rfc1812, Registry]),
            ("240.0.0.1", &[Rfc1812, Registry]),
            ("254.1.1.1", &[Rfc1812, Registry]),
            ("192.0.0.1", &[]),
            ("192.0.0.8", &[Registry]),
            ("192.0.0.9", &[]),
            ("192.0.0.10", &[]),
            ("192.0.0.170", &[Registry]),
            ("192.0.1.0", &[]),
            ("192.0.2.1", &[Registry]),
            ("198.51.100.1", &[Registry]),
            ("203.0.113.255", &[Registry]),
            ("10.1.1.1", &[]),
            ("100.64.0.1", &[]),
            ("172.16.0.1", &[]),
            ("192.168.0.1", &[]),
            ("198.18.0.1", &[]),
            ("192.88.99.1", &[]),
            ("8.8.8.8", &[]),
            ("2001:db8::1", &[Registry]),
            ("2001:db9::1", &[]),
            ("3fff:fff::1", &[Registry]),
            ("3fff:1000::1", &[]),
            ("2001::1", &[]),
            ("2001:1::1", &[]),
            ("2001:1::4", &[Registry]),
            ("2001:2::1", &[]),
            ("2001:2:1::1", &[Registry]),
            ("2001:4:112::1", &[]),
            ("2001:10::1", &[Registry]),
            ("2001:2f::1", &[]),
            ("2001:100::1", &[Registry]),
            ("2001:200::1", &[]),
            ("100::1", &[]),
            ("100:0:0:1::1", &[Registry]),
            ("64:ff9b::1", &[]),
            ("2002::1", &[]),
            ("5f00::1", &[]),
            ("fc00::1", &[]),
            ("2600::1", &[]),
        ] {
            let other = if address.contains(':') { "2a00::2" } else { "9.9.9.9" };
            for martians in ALL {
                let expected = |reason| refused.contains(&martians).then_some(reason);
                assert_eq!(judged(address, other, martians), expected(Reason::MartianSource), "{address} {martians:?}");
                let reason = expected(Reason::MartianDestination);
                assert_eq!(judged(other, address, martians), reason, "{address} {martians:?}");
            }
        }
    }
}
