//! Who may ask for mappings by the Port Control Protocol (RFC 6887).

use std::net::IpAddr;
use std::time::Duration;

use super::address::AddressSet;
use super::rule::{Family, NatRule};
use super::service::PortSet;
use super::zone::{ZoneId, ZoneSet};

/// `[pcp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcpSettings {
    /// Zones whose hosts may ask.
    pub from: ZoneSet,
    /// Zones from which their mappings can be reached; none of them is in `from`.
    pub to: ZoneSet,
    /// Hosts that may ask.
    pub source: AddressSet,
    /// External ports that they may have.
    pub ports: PortSet,
    /// What a mapping lasts at least.
    pub min_lifetime: Duration,
    /// What it lasts at most without being renewed.
    pub max_lifetime: Duration,
    /// Mappings that one host may have; of IPv6 one prefix of 64 bits.
    pub limit: u32,
}

impl PcpSettings {
    /// What a mapping lasts at least if nothing is said (RFC 6887 section 15).
    pub const MIN_LIFETIME: Duration = Duration::from_secs(120);
    /// What it lasts at most if nothing is said (RFC 6887 section 15).
    pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
    /// Mappings of one host if nothing is said.
    pub const LIMIT: u32 = 64;
    /// Largest such number.
    pub const LARGEST_LIMIT: u32 = 65_535;

    /// Whether a host may ask that is in a zone.
    #[must_use]
    pub fn serves(&self, zone: ZoneId, host: IpAddr) -> bool {
        self.from.contains(zone) && self.source.contains_address(host)
    }

    /// What a mapping lasts that was asked for so many seconds.
    #[must_use]
    pub fn lifetime(&self, seconds: u32) -> Duration {
        Duration::from_secs(seconds.into()).clamp(self.min_lifetime, self.max_lifetime)
    }
}

impl NatRule {
    /// Whether the source translation is about what a host in a zone sends to most of these zones' addresses, from all
    /// ports of a protocol: a mapping that it has not said the purpose of is one of it. What is for some destinations or
    /// services alone is not.
    #[must_use]
    pub fn maps_in_general(&self, from: ZoneId, to: &ZoneSet, host: IpAddr, protocol: u8) -> bool {
        let destinations = if self.prefix64.is_some() { Family::Ipv4 } else { self.family };
        self.translate_source.is_some()
            && !self.is_twofold()
            && self.from.contains(from)
            && to.as_slice().iter().any(|zone| self.to.contains(*zone))
            && self.family.holds(host)
            && self.source.contains_address(host)
            && self.service.ports(protocol).is_any()
            && self.destination.is_most_of(destinations)
    }
}

impl AddressSet {
    /// Whether more than half of the addresses of a family are in the set.
    fn is_most_of(&self, family: Family) -> bool {
        let size = |set: &Self| set.ranges().iter().fold(0_u128, |sum, (first, last)| sum.saturating_add(last - first));
        size(&self.of_family(family)) > size(&Self::any().of_family(family)) / 2
    }
}

#[cfg(test)]
mod tests {
    use crate::{Source, parse};

    use super::*;

    fn nats(text: &str) -> Vec<NatRule> {
        let interfaces = "[interfaces]\nlan = { device = \"lan0\", zone = \"inside\" }\nwan = { device = \"wan0\", zone = \
                          \"outside\" }\n";
        let text = format!("{interfaces}{text}");
        parse(&[Source { name: "p.toml".to_owned(), text }]).unwrap().policy.nats
    }

    #[test]
    fn a_translation_for_some_purposes_alone_is_not_asked_for_mappings() {
        let general = |more: &str, host: &str| {
            let nat = "[[nat]]\nname = \"n\"\nto = \"outside\"\ntranslate.source = \"interface\"\n";
            let nats = nats(&format!("{nat}{more}\n"));
            nats[0].maps_in_general(ZoneId(0), &ZoneSet::of(vec![ZoneId(1)]), host.parse().unwrap(), crate::TCP)
        };
        assert!(general("", "10.1.0.2"));
        assert!(general("destination = \"!192.0.2.0/24\"", "10.1.0.2"));
        assert!(general("service = [\"tcp\", \"udp\"]", "10.1.0.2"));
        assert!(general("family = \"ipv6\"\ndestination = \"!2001:db8::/32\"", "fd00::2"));
        for (more, host) in [
            ("", "fd00::2"),
            ("destination = \"192.0.2.0/24\"", "10.1.0.2"),
            ("service = \"tcp/80\"", "10.1.0.2"),
            ("service = \"udp\"", "10.1.0.2"),
            ("source = \"10.2.0.0/16\"", "10.1.0.2"),
            ("from = \"outside\"", "10.1.0.2"),
        ] {
            assert!(!general(more, host), "{more}");
        }
    }
}
