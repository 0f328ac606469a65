//! From messages of the kernel to routing events.
//!
//! Headers are read by netlink-packet-route; of the attributes only those that matter are looked at, one by one. The
//! whole-message parsers of that crate refuse a message for a single attribute that they do not understand, and a
//! newer kernel must not make a link or a route invisible.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowhop_routing::{
    AddressScope, Event, InterfaceAddress, IpPrefix, Link, LinkLayer, NeighbourState, NextHop, Route, RouteKind,
};
use netlink_packet_core::{DecodeError, NLM_F_REPLACE, parse_string, parse_u16, parse_u16_be, parse_u32};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressHeader;
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourHeader};
use netlink_packet_route::route::{RouteFlags, RouteHeader, RouteType};

use super::socket::{Message, attributes};

/// Lengths of the fixed parts (`struct ifinfomsg`, `ifaddrmsg`, `rtmsg`, `ndmsg`).
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const NEIGHBOUR_HEADER: usize = 12;

/// The event that a message announces; `None` for messages that are of no concern here.
///
/// # Errors
///
/// A header or an attribute that matters is malformed.
pub(super) fn decode(message: &Message<'_>) -> Result<Option<Event>, DecodeError> {
    let payload = message.payload;
    match message.kind {
        libc::RTM_NEWLINK => Ok(link(payload)?.map(Event::LinkUpsert)),
        libc::RTM_DELLINK => Ok(link(payload)?.map(|link| Event::LinkGone { ifindex: link.ifindex })),
        libc::RTM_NEWADDR => Ok(address(payload)?.map(Event::AddressAdded)),
        libc::RTM_DELADDR => Ok(address(payload)?.map(|own| Event::AddressGone {
            ifindex: own.ifindex,
            address: own.address,
            prefix_len: own.prefix_len,
        })),
        libc::RTM_NEWROUTE if message.flags & NLM_F_REPLACE != 0 => Ok(route(payload)?.map(Event::RouteReplaced)),
        libc::RTM_NEWROUTE => Ok(route(payload)?.map(Event::RouteAdded)),
        libc::RTM_DELROUTE => Ok(route(payload)?.map(Event::RouteGone)),
        libc::RTM_NEWNEIGH => neighbour(payload, false),
        libc::RTM_DELNEIGH => neighbour(payload, true),
        _ => Ok(None),
    }
}

/// Links of the bridge's own message family are ports joining and leaving, not devices coming and going.
fn link(payload: &[u8]) -> Result<Option<Link>, DecodeError> {
    let header = LinkHeader::parse(payload)?;
    if header.interface_family != AddressFamily::Unspec || header.index == 0 {
        return Ok(None);
    }
    let has = |flags| header.flags.contains(flags);
    let mut link = Link {
        ifindex: header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        // RUNNING is set when the operational state is up or unknown, LOWER_UP with carrier.
        up: has(LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp),
        admin_up: has(LinkFlags::Up),
        kind: None,
        layer2: link_layer(u16::from(header.link_layer_type)),
        loopback: has(LinkFlags::Loopback),
        point_to_point: has(LinkFlags::Pointopoint),
        no_arp: has(LinkFlags::Noarp),
        master: None,
        master_kind: None,
        lower: None,
        vlan: None,
    };
    let mut lower_is_elsewhere = false;
    for attribute in attributes(payload, LINK_HEADER) {
        match attribute? {
            (libc::IFLA_IFNAME, value) => link.name = parse_string(value)?,
            (libc::IFLA_ADDRESS, value) => link.mac = value.try_into().ok(),
            (libc::IFLA_MTU, value) => link.mtu = parse_u32(value)?,
            (libc::IFLA_MASTER, value) => link.master = Some(parse_u32(value)?),
            (libc::IFLA_LINK, value) => link.lower = Some(parse_u32(value)?),
            (libc::IFLA_LINK_NETNSID, _) => lower_is_elsewhere = true,
            (libc::IFLA_LINKINFO, value) => link_info(value, &mut link)?,
            _ => {}
        }
    }
    // An index counts in its own namespace only. A tunnel that is bound to no device names index 0, and a device that
    // is over no other may name itself.
    link.lower = link.lower.filter(|&lower| !lower_is_elsewhere && lower != 0 && lower != link.ifindex);
    Ok(Some(link))
}

/// Reads `IFLA_LINKINFO`: the driver's kind, what it says of itself, and the driver kind of the master.
fn link_info(info: &[u8], link: &mut Link) -> Result<(), DecodeError> {
    let mut data = None;
    for attribute in attributes(info, 0) {
        match attribute? {
            (libc::IFLA_INFO_KIND, value) => link.kind = Some(parse_string(value)?),
            (libc::IFLA_INFO_DATA, value) => data = Some(value),
            (libc::IFLA_INFO_SLAVE_KIND, value) => link.master_kind = Some(parse_string(value)?),
            _ => {}
        }
    }
    // The attributes inside are numbered by each driver on its own.
    if let (Some("vlan"), Some(data)) = (link.kind.as_deref(), data) {
        link.vlan = vlan_id(data)?;
    }
    Ok(())
}

/// The VLAN ID of a VLAN device, if its tags are those of IEEE 802.1Q.
fn vlan_id(data: &[u8]) -> Result<Option<u16>, DecodeError> {
    /// `linux/if_link.h`; libc has neither.
    const IFLA_VLAN_ID: u16 = 1;
    const IFLA_VLAN_PROTOCOL: u16 = 5;
    let (mut id, mut customer_tag) = (None, false);
    for attribute in attributes(data, 0) {
        match attribute? {
            (IFLA_VLAN_ID, value) => id = Some(parse_u16(value)?),
            (IFLA_VLAN_PROTOCOL, value) => customer_tag = parse_u16_be(value)? == libc::ETH_P_8021Q as u16,
            _ => {}
        }
    }
    Ok(id.filter(|_| customer_tag))
}

/// What stands in front of the network header, by `ARPHRD_*`.
fn link_layer(hardware: u16) -> LinkLayer {
    /// GRE over IPv6; libc does not have it.
    const ARPHRD_IP6GRE: u16 = 823;
    /// Raw IP (cellular modems); libc does not have it.
    const ARPHRD_RAWIP: u16 = 519;
    match hardware {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkLayer::Ethernet,
        libc::ARPHRD_NONE
        | libc::ARPHRD_PPP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | libc::ARPHRD_IPGRE
        | ARPHRD_IP6GRE
        | ARPHRD_RAWIP => LinkLayer::Headerless,
        _ => LinkLayer::Other,
    }
}

fn address(payload: &[u8]) -> Result<Option<InterfaceAddress>, DecodeError> {
    let header = AddressHeader::parse(payload)?;
    let mut flags = u32::from(header.flags.bits());
    let (mut local, mut far, mut broadcast) = (None, None, None);
    for attribute in attributes(payload, ADDRESS_HEADER) {
        match attribute? {
            (libc::IFA_LOCAL, value) => local = ip(header.family, value)?,
            (libc::IFA_ADDRESS, value) => far = ip(header.family, value)?,
            (libc::IFA_BROADCAST, value) => broadcast = ip(header.family, value)?,
            (libc::IFA_FLAGS, value) => flags = parse_u32(value)?,
            _ => {}
        }
    }
    // IFA_ADDRESS is the own address, or the peer's where IFA_LOCAL is another.
    let Some(own) = local.or(far) else {
        return Ok(None);
    };
    let unfit = libc::IFA_F_DEPRECATED | libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED;
    Ok(Some(InterfaceAddress {
        ifindex: header.index,
        address: own,
        prefix_len: header.prefix_len,
        broadcast: match broadcast {
            Some(IpAddr::V4(broadcast)) => Some(broadcast),
            Some(IpAddr::V6(_)) | None => None,
        },
        peer: far.filter(|&far| far != own),
        scope: match u8::from(header.scope) {
            0..libc::RT_SCOPE_LINK => AddressScope::Global,
            libc::RT_SCOPE_LINK => AddressScope::Link,
            _ => AddressScope::Host,
        },
        secondary: flags & libc::IFA_F_SECONDARY != 0,
        preferred: flags & unfit == 0,
        tentative: flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_OPTIMISTIC) != 0,
    }))
}

fn route(payload: &[u8]) -> Result<Option<Route>, DecodeError> {
    let header = RouteHeader::parse(payload)?;
    let family = header.address_family;
    let Some(mut destination) = unspecified(family) else {
        return Ok(None);
    };
    if header.flags.contains(RouteFlags::Cloned) {
        return Ok(None); // An entry of the route cache.
    }
    let mut route = Route {
        prefix: IpPrefix::ALL_V4,
        metric: 0,
        kind: route_kind(header.kind),
        table: u32::from(header.table),
        next_hops: Vec::new(),
        mtu: None,
        restricted: header.tos != 0 || header.source_prefix_length != 0,
    };
    let (mut output, mut gateway, mut encapsulated) = (None, None, false);
    for attribute in attributes(payload, ROUTE_HEADER) {
        match attribute? {
            (libc::RTA_DST, value) => destination = ip(family, value)?.unwrap_or(destination),
            (libc::RTA_TABLE, value) => route.table = parse_u32(value)?,
            (libc::RTA_PRIORITY, value) => route.metric = parse_u32(value)?,
            (libc::RTA_OIF, value) => output = Some(parse_u32(value)?),
            (libc::RTA_GATEWAY, value) => gateway = ip(family, value)?,
            (libc::RTA_VIA, value) => gateway = via(value)?,
            (libc::RTA_METRICS, value) => route.mtu = route_mtu(value)?,
            (libc::RTA_MULTIPATH, value) => {
                encapsulated |= !next_hops(family, value, &mut route.next_hops)?;
            }
            (libc::RTA_ENCAP, _) => encapsulated = true,
            _ => {}
        }
    }
    if let Some(ifindex) = output.filter(|_| route.next_hops.is_empty()) {
        route.next_hops.push(NextHop { gateway, ifindex, weight: 1 });
    }
    // Nothing here builds the encapsulation of a route, nor follows a next hop object that the kernel did not expand.
    let leads_nowhere = route.kind == RouteKind::Unicast && route.next_hops.is_empty();
    if encapsulated || leads_nowhere {
        route.kind = RouteKind::Unsupported;
    }
    route.prefix = IpPrefix::new(destination, header.destination_prefix_length)
        .map_err(|error| DecodeError::from(error.to_string()))?;
    Ok(Some(route))
}

fn route_kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Anycast => RouteKind::Anycast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        _ => RouteKind::Unsupported,
    }
}

/// `RTAX_MTU` of `linux/rtnetlink.h`; libc does not have it.
const RTAX_MTU: u16 = 2;

fn route_mtu(metrics: &[u8]) -> Result<Option<u32>, DecodeError> {
    for attribute in attributes(metrics, 0) {
        if let (RTAX_MTU, value) = attribute? {
            return Ok(Some(parse_u32(value)?).filter(|&mtu| mtu != 0));
        }
    }
    Ok(None)
}

/// Reads a list of `struct rtnexthop` with attributes; returns whether all are plain next hops.
fn next_hops(family: AddressFamily, list: &[u8], next_hops: &mut Vec<NextHop>) -> Result<bool, DecodeError> {
    const FIXED: usize = 8;
    let mut plain = true;
    let mut rest = list;
    while let Some(&[l0, l1, _flags, hops, i0, i1, i2, i3]) = rest.first_chunk::<FIXED>() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let entry = rest
            .get(..length)
            .filter(|entry| entry.len() >= FIXED)
            .ok_or_else(|| DecodeError::buffer_too_small(rest.len(), length))?;
        let mut gateway = None;
        for attribute in attributes(entry, FIXED) {
            match attribute? {
                (libc::RTA_GATEWAY, value) => gateway = ip(family, value)?,
                (libc::RTA_VIA, value) => gateway = via(value)?,
                (libc::RTA_ENCAP, _) => plain = false,
                _ => {}
            }
        }
        next_hops.push(NextHop { gateway, ifindex: u32::from_ne_bytes([i0, i1, i2, i3]), weight: u16::from(hops) + 1 });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(plain)
}

/// Entries of bridges, of proxies and of multicast groups are of no concern.
fn neighbour(payload: &[u8], gone: bool) -> Result<Option<Event>, DecodeError> {
    let header = NeighbourHeader::parse(payload)?;
    if unspecified(header.family).is_none() || header.flags.contains(NeighbourFlags::Proxy) {
        return Ok(None);
    }
    let (mut address, mut mac) = (None, None);
    for attribute in attributes(payload, NEIGHBOUR_HEADER) {
        match attribute? {
            (libc::NDA_DST, value) => address = ip(header.family, value)?,
            (libc::NDA_LLADDR, value) => mac = <[u8; 6]>::try_from(value).ok(),
            _ => {}
        }
    }
    let Some(address) = address.filter(|address| !address.is_multicast()) else {
        return Ok(None);
    };
    let state = if gone { NeighbourState::Gone } else { neighbour_state(u16::from(header.state), mac) };
    Ok(Some(Event::NeighbourChanged { ifindex: header.ifindex, address, state }))
}

fn neighbour_state(state: u16, mac: Option<[u8; 6]>) -> NeighbourState {
    const CONFIRMED: u16 =
        libc::NUD_REACHABLE | libc::NUD_PERMANENT | libc::NUD_NOARP | libc::NUD_DELAY | libc::NUD_PROBE;
    match mac {
        Some(mac) if state & CONFIRMED != 0 => NeighbourState::Resolved(mac),
        Some(mac) if state & libc::NUD_STALE != 0 => NeighbourState::Stale(mac),
        _ if state & libc::NUD_FAILED != 0 => NeighbourState::Failed,
        _ if state == libc::NUD_NONE => NeighbourState::Gone,
        _ => NeighbourState::Probing,
    }
}

/// The all-zero address of a family that is routed here.
fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

/// An address of `family`; `None` for families other than IP.
fn ip(family: AddressFamily, value: &[u8]) -> Result<Option<IpAddr>, DecodeError> {
    let wrong = || DecodeError::invalid_ip_address(value.len());
    match family {
        AddressFamily::Inet => {
            let octets = <[u8; 4]>::try_from(value).map_err(|_| wrong())?;
            Ok(Some(octets.into()))
        }
        AddressFamily::Inet6 => {
            let octets = <[u8; 16]>::try_from(value).map_err(|_| wrong())?;
            Ok(Some(octets.into()))
        }
        _ => Ok(None),
    }
}

/// `struct rtvia`: a family and an address of it.
fn via(value: &[u8]) -> Result<Option<IpAddr>, DecodeError> {
    let (family, address) =
        value.split_first_chunk::<2>().ok_or_else(|| DecodeError::buffer_too_small(value.len(), 2))?;
    let family = u8::try_from(u16::from_ne_bytes(*family)).unwrap_or_default();
    ip(AddressFamily::from(family), address)
}
