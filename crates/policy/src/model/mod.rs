//! The policy as the rest of the program sees it.

pub(crate) mod address;
pub(crate) mod deterministic;
pub(crate) mod ip;
pub(crate) mod pcp;
pub(crate) mod pool;
pub(crate) mod prefix;
pub(crate) mod prefix64;
pub(crate) mod ranges;
pub(crate) mod rule;
pub(crate) mod service;
pub(crate) mod zone;

use std::collections::HashMap;
use std::time::Duration;

use ip::IpSettings;
use pcp::PcpSettings;
use rule::{NatRule, NewConnection, Rule};
use zone::{ZoneId, ZoneMatch};

/// A checked policy, all names resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The interfaces, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// Names of the zones; a [`ZoneId`] is an index into this.
    pub zones: Vec<String>,
    /// The rules, in the order of the file. First match decides; what no rule allows is dropped.
    pub rules: Vec<Rule>,
    /// The translations, in the order of the file. First match decides.
    pub nats: Vec<NatRule>,
    /// `[paths]`.
    pub paths: PathSettings,
    /// `[table]`.
    pub table: TableSettings,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[ip]`.
    pub ip: IpSettings,
    /// `[pcp]`; `None`: nobody may ask for mappings.
    pub pcp: Option<PcpSettings>,
    pub(crate) lookup: Lookup,
}

/// What is worked out once from the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    rules_by_name: HashMap<String, usize>,
    /// Zones whose new connections to the box are subject to the rules.
    guarded: ZoneMatch,
    /// Some rule or translation clamps the segments of TCP.
    clamps_mss: bool,
    /// Some rule takes up connections that are running already.
    takes_up: bool,
    /// Some rule has a helper.
    helps: bool,
}

impl Policy {
    /// Works out the lookups after rules have been added.
    pub(crate) fn index(mut self) -> Self {
        self.lookup.rules_by_name =
            self.rules.iter().enumerate().map(|(index, rule)| (rule.name.clone(), index)).collect();
        self.lookup.guarded = guarded_zones(&self.rules);
        self.lookup.clamps_mss = self.rules.iter().any(|rule| rule.mss_clamp.is_some())
            || self.nats.iter().any(|nat| nat.mss_clamp.is_some());
        self.lookup.takes_up = self.rules.iter().any(|rule| rule.take_up);
        self.lookup.helps = self.rules.iter().any(|rule| rule.helper.is_some());
        self
    }

    /// The index into [`rules`](Self::rules) of the rule with this name.
    #[must_use]
    pub fn rule_index_by_name(&self, name: &str) -> Option<usize> {
        self.lookup.rules_by_name.get(name).copied()
    }

    /// The zone with this name.
    #[must_use]
    pub fn zone_id(&self, name: &str) -> Option<ZoneId> {
        let index = self.zones.iter().position(|zone| zone == name)?;
        u16::try_from(index).ok().map(ZoneId)
    }

    /// The name of a zone; empty for a number that is none.
    #[must_use]
    pub fn zone_name(&self, zone: ZoneId) -> &str {
        self.zones.get(zone.index()).map_or("", String::as_str)
    }

    /// The interface with this name in the policy.
    #[must_use]
    pub fn interface_by_name(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// Whether new connections to the box from this zone are subject to the rules, because some rule with
    /// `to = "self"` names it. If not, the kernel gets them unasked.
    #[must_use]
    pub fn guards_self_from(&self, zone: ZoneId) -> bool {
        self.lookup.guarded.contains(zone)
    }

    /// Whether some rule or translation clamps the segments of TCP.
    #[must_use]
    pub const fn clamps_mss(&self) -> bool {
        self.lookup.clamps_mss
    }

    /// Whether some rule takes up connections that are running already.
    #[must_use]
    pub const fn takes_up(&self) -> bool {
        self.lookup.takes_up
    }

    /// Whether some rule has a helper.
    #[must_use]
    pub const fn helps(&self) -> bool {
        self.lookup.helps
    }

    /// The first rule that matches, not counting `limit`, and its index.
    #[must_use]
    pub fn first_match(&self, connection: &NewConnection) -> Option<(usize, &Rule)> {
        self.rules.iter().enumerate().find(|(_, rule)| rule.matches(connection))
    }
}

fn guarded_zones(rules: &[Rule]) -> ZoneMatch {
    let mut zones = Vec::new();
    for rule in rules.iter().filter(|rule| rule.to == zone::RuleTarget::SelfBox) {
        match &rule.from {
            ZoneMatch::Any => return ZoneMatch::Any,
            ZoneMatch::Zones(named) => zones.extend_from_slice(named.as_slice()),
        }
    }
    ZoneMatch::Zones(zone::ZoneSet::of(zones))
}

impl Default for Lookup {
    fn default() -> Self {
        let guarded = ZoneMatch::Zones(zone::ZoneSet::default());
        Self { rules_by_name: HashMap::new(), guarded, clamps_mss: false, takes_up: false, helps: false }
    }
}

/// One entry of `[interfaces]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The name used everywhere else.
    pub name: String,
    /// The kernel's name of the device.
    pub device: String,
    /// The zone that it belongs to.
    pub zone: ZoneId,
    /// The path asked for; `None`: chosen by what the device can do.
    pub path: Option<ForwardingPath>,
    /// Source validation by reverse path.
    pub rpf: ReversePath,
    /// Which impossible addresses are refused.
    pub martians: Martians,
    /// The line that it stands on, from 1.
    pub line: u32,
}

/// Where established flows are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardingPath {
    /// XDP in the driver.
    Driver,
    /// The tc hook of the kernel.
    Skb,
    /// The daemon itself.
    User,
}

impl ForwardingPath {
    /// As the file spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Skb => "skb",
            Self::User => "user",
        }
    }
}

/// Source validation by reverse path (RFC 3704).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// None.
    #[default]
    Off,
    /// There is some route to the source.
    Loose,
    /// Some route to the most specific prefix of the source, whatever its metric, leads through the interface.
    Feasible,
    /// The route to the source leads through the interface.
    Strict,
}

/// Which impossible addresses are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Martians {
    /// Those of RFC 1812 section 5.3.7.
    #[default]
    Rfc1812,
    /// Those that the registries of special-purpose addresses say are not forwarded (RFC 6890, RFC 8190).
    Registry,
    /// None but those that no router may forward.
    Off,
}

/// `[paths]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathSettings {
    /// Where established flows may go; `None`: chosen per interface. `user` serves first packets in any case.
    pub allowed: Option<Vec<ForwardingPath>>,
    /// How long the kernel side goes on without a daemon.
    pub orphan_grace: Duration,
    /// One packet in so many of those that kernel programs forward is judged once more by the daemon, a power of two; 0: none.
    pub shadow: u32,
}

impl PathSettings {
    /// The largest number of packets of which one is judged once more.
    pub const MOST_SHADOW: u32 = 1 << 23;

    /// Whether established flows may go there.
    #[must_use]
    pub fn allows(&self, path: ForwardingPath) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(&path))
    }
}

impl Default for PathSettings {
    fn default() -> Self {
        Self { allowed: None, orphan_grace: Duration::from_secs(120), shadow: 0 }
    }
}

/// `[table]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSettings {
    /// Connections that there is memory for, taken at start.
    pub connections: u32,
    /// How many of them may be TCP whose handshake is not complete; a quarter if not said.
    pub half_open: Option<u32>,
    /// How many external ports may rest at a time (RFC 6888 REQ-8); half as many as connections if not said.
    pub resting_ports: Option<u32>,
    /// How the kernel programs find a flow.
    pub index: TableIndex,
}

impl TableSettings {
    /// Fewest connections.
    pub const MIN_CONNECTIONS: u32 = 1024;
    /// Most connections.
    pub const MAX_CONNECTIONS: u32 = 1 << 23;
}

impl Default for TableSettings {
    fn default() -> Self {
        Self { connections: 1 << 20, half_open: None, resting_ports: None, index: TableIndex::Lines }
    }
}

/// How the kernel programs find a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TableIndex {
    /// The project's own index of cache lines.
    #[default]
    Lines,
    /// A hash map of the kernel.
    KernelHash,
}

/// `[timeouts]`: how long a connection may be idle. The defaults meet the RFCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP; RFC 4787 REQ-5 wants at least 2 minutes and recommends 5.
    pub udp: Duration,
    /// TCP once established; RFC 5382 REQ-5 wants at least 2 hours 4 minutes.
    pub tcp_established: Duration,
    /// TCP while it opens or closes; RFC 5382 REQ-5 wants at least 4 minutes.
    pub tcp_transitory: Duration,
    /// TCP while it opens, if that is another time; RFC 7857 section 2.1 has the two apart.
    pub tcp_opening: Option<Duration>,
    /// TCP while it closes, and after a reset, if that is another time.
    pub tcp_closing: Option<Duration>,
    /// ICMP queries; RFC 5508 REQ-2 wants at least 60 seconds.
    pub icmp: Duration,
    /// All other protocols.
    pub other: Duration,
    /// How long an external port rests before another inside endpoint gets it; RFC 6888 REQ-8 recommends at least 120 seconds.
    pub port_rest: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(300),
            tcp_established: Duration::from_secs(7440),
            tcp_transitory: Duration::from_secs(240),
            tcp_opening: None,
            tcp_closing: None,
            icmp: Duration::from_secs(60),
            other: Duration::from_secs(600),
            port_rest: Duration::from_secs(120),
        }
    }
}
