//! What is fed in, and what comes out.

use std::net::IpAddr;

use crate::{AdjacencyIndex, InterfaceAddress, IpPrefix, LinkLayer};

/// The kernel's table *main* (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;

/// The kernel's table *local* (`RT_TABLE_LOCAL`), looked up before *main*.
pub const TABLE_LOCAL: u32 = 255;

/// Something that the kernel announced. All events are idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link exists, with these properties.
    LinkUpsert(Link),
    /// A link is gone, and with it everything that was on it.
    LinkGone {
        /// The link's interface index.
        ifindex: u32,
    },
    /// An address is configured on a link, with these properties.
    AddressAdded(InterfaceAddress),
    /// An address is no longer configured on a link.
    AddressGone {
        /// The link's interface index.
        ifindex: u32,
        /// The address that was removed.
        address: IpAddr,
        /// The length of its prefix in bits; one address may be configured under several.
        prefix_len: u8,
    },
    /// A route was added beside others of the same prefix and metric (they are told apart by their next hops).
    /// An IPv6 route that has all next hops of a known one, and more, takes its place: this is how the kernel
    /// announces an extended multipath route.
    RouteAdded(Route),
    /// A route took the place of the first one of the same table, prefix and metric (`ip route replace`).
    RouteReplaced(Route),
    /// A route was removed. For IPv6 it may carry only some of the next hops: those are removed.
    RouteGone(Route),
    /// The state of a neighbour entry.
    NeighbourChanged {
        /// The link's interface index.
        ifindex: u32,
        /// The neighbour's address.
        address: IpAddr,
        /// What is known about it.
        state: NeighbourState,
    },
    /// A full dump follows, up to [`Event::ResyncEnd`].
    ResyncBegin,
    /// The dump is complete: what was not announced since [`Event::ResyncBegin`] is gone.
    ResyncEnd,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index, never 0.
    pub ifindex: u32,
    /// Interface name.
    pub name: String,
    /// The device's own Ethernet address; `None` unless it has one of 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest network-layer packet in bytes.
    pub mtu: u32,
    /// Usable for output: administratively up, with carrier, and operationally up (or of unknown state).
    pub up: bool,
    /// Administratively up (`IFF_UP`). When this goes away the kernel silently flushes the IPv4 routes of the link.
    pub admin_up: bool,
    /// Driver kind as `IFLA_INFO_KIND` has it (`veth`, `bridge`, `tun`, …); `None` for physical devices.
    pub kind: Option<String>,
    /// What stands in front of the network header on this link.
    pub layer2: LinkLayer,
    /// The loopback device.
    pub loopback: bool,
    /// One peer only (`IFF_POINTOPOINT`).
    pub point_to_point: bool,
    /// No neighbour resolution (`IFF_NOARP`): every frame goes to the device's own address, as the kernel does it.
    pub no_arp: bool,
    /// Interface index of the bridge, bond or VRF that this device is a port of.
    pub master: Option<u32>,
    /// Driver kind of that master as `IFLA_INFO_SLAVE_KIND` has it (`bridge`, `bond`, `vrf`, …).
    pub master_kind: Option<String>,
    /// Interface index of the device that this one works over, in the same network namespace: what a VLAN or macvlan
    /// is on; for a veth its other end (`IFLA_LINK`).
    pub lower: Option<u32>,
    /// VLAN ID of a VLAN device that tags by IEEE 802.1Q; `None` for service tags (802.1ad) and all other devices.
    pub vlan: Option<u16>,
}

impl Link {
    /// An Ethernet link that is up, with an MTU of 1500 bytes: a starting point for tests and simulation.
    #[must_use]
    pub fn ethernet(ifindex: u32, name: &str, mac: [u8; 6]) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            mac: Some(mac),
            mtu: 1500,
            up: true,
            admin_up: true,
            kind: None,
            layer2: LinkLayer::Ethernet,
            loopback: false,
            point_to_point: false,
            no_arp: false,
            master: None,
            master_kind: None,
            lower: None,
            vlan: None,
        }
    }

    /// A link without a link-layer header that is up (TUN and the like), with an MTU of 1500 bytes.
    #[must_use]
    pub fn headerless(ifindex: u32, name: &str) -> Link {
        Link {
            mac: None,
            layer2: LinkLayer::Headerless,
            point_to_point: true,
            no_arp: true,
            ..Link::ethernet(ifindex, name, [0; 6])
        }
    }
}

/// A route of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destinations it is for.
    pub prefix: IpPrefix,
    /// Priority within the same prefix; the lowest wins.
    pub metric: u32,
    /// What happens to packets.
    pub kind: RouteKind,
    /// The kernel's routing table.
    pub table: u32,
    /// Where packets go; several for multipath, none for kinds that do not forward.
    pub next_hops: Vec<NextHop>,
    /// The route's MTU attribute in bytes, when it has one.
    pub mtu: Option<u32>,
    /// The route is for some packets only (type of service, source prefix): recorded as ignored.
    pub restricted: bool,
}

impl Route {
    /// A unicast route of table *main* with metric 0 and one next hop: a starting point for tests and simulation.
    #[must_use]
    pub fn unicast(prefix: IpPrefix, gateway: Option<IpAddr>, ifindex: u32) -> Route {
        Route {
            prefix,
            metric: 0,
            kind: RouteKind::Unicast,
            table: TABLE_MAIN,
            next_hops: vec![NextHop { gateway, ifindex, weight: 1 }],
            mtu: None,
            restricted: false,
        }
    }
}

/// What a route does with packets (`RTN_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Forward.
    Unicast,
    /// Deliver here.
    Local,
    /// Deliver here as broadcast.
    Broadcast,
    /// Deliver here: an address shared with others.
    Anycast,
    /// Multicast destinations.
    Multicast,
    /// Drop silently.
    Blackhole,
    /// Refuse: host unreachable.
    Unreachable,
    /// Refuse: administratively prohibited.
    Prohibit,
    /// Go on with the next table.
    Throw,
    /// Something that only the kernel can do (tunnel encapsulation by route, unknown kinds).
    Unsupported,
}

/// One way that a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// The router, perhaps of the other family (IPv4 over an IPv6 next hop); `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Output interface index.
    pub ifindex: u32,
    /// Share among the next hops of a route, 1 to 256 (0 counts as 1).
    pub weight: u16,
}

/// What is known about a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeighbourState {
    /// Its address is known and confirmed or being confirmed.
    Resolved([u8; 6]),
    /// Its address is known but was not confirmed lately; usable, and use should have it confirmed.
    Stale([u8; 6]),
    /// Resolution is going on; no address is known.
    Probing,
    /// It did not answer.
    Failed,
    /// The kernel has no entry.
    Gone,
}

/// Something that the caller must carry on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// A link appeared, disappeared or has other properties.
    Link {
        /// The link's interface index.
        ifindex: u32,
    },
    /// The set of own addresses, or a property of one of them, is another.
    OwnAddresses,
    /// An adjacency has another generation, state, MAC address or MTU: write it to the forwarding paths.
    Adjacency(AdjacencyIndex),
    /// Destinations in `prefix` may resolve to something else: resolve the flows again that go there. Many prefixes
    /// that change at once are announced as one that covers them.
    Routes {
        /// The prefix that changed or covers what changed.
        prefix: IpPrefix,
    },
    /// The kernel may have changed something without announcing it: dump again, at a rate that suits the caller.
    NeedResync,
}
