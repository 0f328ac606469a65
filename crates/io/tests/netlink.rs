//! The netlink monitor against the kernel of this machine, each test in network namespaces of its own.
//!
//! A namespace without a name lives as long as the thread that made it: nothing has to be removed, whatever fails.
#![cfg(test)]

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use flowhop_io::netlink::{Monitor, NetlinkError, Options};
use flowhop_routing::{AdjacencyState, Change, Event, LinkLayer, Resolution, Routing, UnreachableReason};

#[path = "netlink/support.rs"]
mod support;

use support::{Mirror, PeerNamespace, in_own_namespace, ip, ip_batch};

/// `a` here with 10.0.0.1/24 and fd00::1/64, its other end in another namespace with .2 and ::2.
fn link_to_peer(peer: &PeerNamespace) {
    ip("link add name a type veth peer name b");
    ip(&format!("link set dev b netns {}", peer.path()));
    ip("link set dev a up");
    ip("addr add 10.0.0.1/24 brd + dev a");
    ip("addr add fd00::1/64 dev a nodad");
    peer.ip("link set dev lo up");
    peer.ip("link set dev b address 02:00:00:00:00:0b up");
    peer.ip("addr add 10.0.0.2/24 dev b");
    peer.ip("addr add fd00::2/64 dev b nodad");
    // Whoever asks for one device by its name has the kernel notice that it runs, which it may else do a second later.
    let link = Monitor::open().and_then(|mut monitor| monitor.link("a")).unwrap();
    assert!(link.up, "{link:?}");
}

/// A link that is up, both ends of it here: all that matters is that it exists.
fn closed_link(name: &str) {
    ip(&format!("link add name {name} type veth peer name {name}-far"));
    ip(&format!("link set dev {name}-far up"));
    ip(&format!("link set dev {name} up"));
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn links_and_addresses_are_mirrored() {
    in_own_namespace(|| {
        ip("link add name before type veth peer name before-far");
        ip("link set dev before-far up");
        let mut mirror = Mirror::open();
        let before = mirror.monitor.link("before").unwrap();
        assert_eq!(before.kind.as_deref(), Some("veth"));
        assert_eq!(mirror.routing.link(before.ifindex), Some(&before));
        assert!(!before.up && !before.no_arp && !before.loopback);

        mirror.monitor.set_link_up(before.ifindex, true).unwrap();
        ip("link add name behind type bridge");
        ip("tuntap add tun9 mode tun");
        ip("addr add 192.0.2.1/24 brd + dev before");
        ip("addr add 192.0.2.2/24 dev before");
        ip("addr add 198.51.100.1 peer 198.51.100.9 dev before");
        ip("addr add 2001:db8::1/64 dev before nodad");
        mirror.settle();
        let (index, tun) = (before.ifindex, mirror.monitor.link_index("tun9").unwrap());
        let routing = &mirror.routing;
        assert!(routing.link(index).unwrap().up);
        assert_eq!(routing.link(tun).unwrap().layer2, LinkLayer::Headerless);
        assert_eq!(routing.link(tun).unwrap().mac, None);
        assert!(routing.link(tun).unwrap().point_to_point);
        let kinds: Vec<_> = routing.links().filter_map(|link| link.kind.as_deref()).collect();
        assert_eq!(kinds, ["veth", "veth", "bridge", "tun"]);
        assert!(routing.is_own(address("192.0.2.2")) && routing.is_own(address("2001:db8::1")));
        assert!(!routing.is_own(address("198.51.100.9")), "the peer's address");
        assert_eq!(routing.source_towards(index, address("192.0.2.77")), Some(address("192.0.2.1")));
        assert_eq!(routing.source_towards(index, address("198.51.100.9")), Some(address("198.51.100.1")));
        assert_eq!(routing.source_towards(index, address("fe80::9")), Some(address("2001:db8::1")));
        assert!(routing.is_directed_broadcast("192.0.2.255".parse().unwrap()));
        assert!(routing.addresses_of(index).any(|own| own.secondary));

        ip("addr del 192.0.2.2/24 dev before");
        ip("link del dev behind");
        mirror.settle();
        assert!(!mirror.routing.is_own(address("192.0.2.2")));
        assert_eq!(mirror.routing.links().filter(|link| link.kind.as_deref() == Some("bridge")).count(), 0);
        assert!(matches!(mirror.monitor.link_index("behind"), Err(NetlinkError::NoSuchLink(_))));
        assert!(matches!(mirror.monitor.link_index("a name far too long for it"), Err(NetlinkError::NoSuchLink(_))));
        mirror.assert_as_dumped();
    });
}

// What is on what, as the choice of a path needs it.
#[test]
fn what_a_link_is_over_and_a_port_of_is_known() {
    in_own_namespace(|| {
        let peer = PeerNamespace::new();
        ip("link add name other type bridge"); // So that no two namespaces count alike.
        link_to_peer(&peer);
        closed_link("c");
        closed_link("d");
        let mut mirror = Mirror::open();
        ip("link add link d name m type macvlan");
        ip("link add name t type vxlan id 3 dstport 4789 remote 192.0.2.9");
        ip("link add name br type bridge");
        ip("link set dev c master br");
        mirror.settle();
        let link = |mirror: &Mirror, name: &str| mirror.routing.links().find(|link| link.name == name).unwrap().clone();
        let name_of = |mirror: &Mirror, index: u32| mirror.routing.link(index).unwrap().name.clone();
        let on = |mirror: &Mirror, name: &str| link(mirror, name).lower.map(|lower| name_of(mirror, lower));
        let port_of = |mirror: &Mirror, name: &str| {
            let port = link(mirror, name);
            (port.master.map(|master| name_of(mirror, master)), port.master_kind)
        };
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(on(&mirror, "m"), some("d"));
        assert_eq!(on(&mirror, "t"), None, "a tunnel that is bound to no device");
        assert_eq!(on(&mirror, "c"), some("c-far"), "the other end is here");
        assert_eq!(on(&mirror, "a"), None, "the other end is in another namespace");
        assert_eq!(on(&mirror, "br"), None);
        assert_eq!(on(&mirror, "lo"), None);
        let kinds = ["c", "m", "t", "br", "lo"].map(|name| link(&mirror, name).kind);
        assert_eq!(kinds, [some("veth"), some("macvlan"), some("vxlan"), some("bridge"), None]);
        assert_eq!(port_of(&mirror, "c"), (some("br"), some("bridge")));
        assert_eq!(port_of(&mirror, "d"), (None, None));
        assert!(mirror.routing.links().all(|link| link.vlan.is_none()));
        mirror.assert_as_dumped();

        // All of it is announced when it changes.
        ip("link set dev c nomaster");
        ip("link set dev m master br");
        ip(&format!("link set dev c-far netns {}", peer.path()));
        mirror.until(|routing| routing.links().all(|link| link.name != "c-far"));
        mirror.settle();
        assert_eq!(port_of(&mirror, "c"), (None, None));
        assert_eq!(port_of(&mirror, "m"), (some("br"), some("bridge")));
        assert_eq!(on(&mirror, "c"), None);
        mirror.assert_as_dumped();
    });
}

#[test]
fn routes_of_all_kinds_are_mirrored() {
    in_own_namespace(|| {
        let peer = PeerNamespace::new();
        link_to_peer(&peer);
        closed_link("c");
        let mut mirror = Mirror::open();
        ip("route add default via 10.0.0.2");
        ip("route add 192.0.2.0/24 via 10.0.0.3 metric 50 mtu 1400");
        ip("route add 192.0.2.0/24 via 10.0.0.4 metric 10");
        ip("route add blackhole 198.51.100.0/24");
        ip("route add prohibit 198.51.101.0/24");
        ip("route add unreachable 198.51.102.0/24");
        ip("route add 203.0.113.0/24 nexthop via 10.0.0.5 weight 3 nexthop via 10.0.0.6");
        ip("route add 100.64.0.0/10 via inet6 fd00::2 dev a");
        ip("-6 route add 2001:db8:1::/48 via fd00::3");
        ip("-6 route append 2001:db8:1::/48 via fd00::4");
        ip("-6 route add default via fd00::2 mtu 1300");
        ip("route add 192.0.2.0/24 via 10.0.0.9 table 77");
        ip("route add tos 0x10 192.0.2.0/24 via 10.0.0.9 metric 10");
        mirror.settle();
        mirror.assert_as_dumped();

        let a = mirror.monitor.link_index("a").unwrap();
        let via = |mirror: &mut Mirror, destination: &str, hash: u32| {
            let resolution = mirror.routing.lookup(address(destination), hash);
            let Resolution::Via { ifindex, next_hop, adjacency } = resolution else {
                return format!("{resolution:?}");
            };
            assert_eq!(ifindex, a);
            let mtu = mirror.routing.adjacency(adjacency).unwrap().mtu;
            format!("{next_hop} {mtu}")
        };
        assert_eq!(via(&mut mirror, "8.8.8.8", 0), "10.0.0.2 1500");
        assert_eq!(via(&mut mirror, "10.0.0.77", 0), "10.0.0.77 1500", "directly connected");
        assert_eq!(via(&mut mirror, "192.0.2.1", 0), "10.0.0.4 1500", "the lower metric");
        assert_eq!(via(&mut mirror, "100.64.0.1", 0), "fd00::2 1500", "an IPv6 next hop");
        assert_eq!(via(&mut mirror, "2001:db8:2::1", 0), "fd00::2 1300", "the route's MTU");
        assert_eq!(via(&mut mirror, "203.0.113.1", 0), "10.0.0.5 1500");
        assert_eq!(via(&mut mirror, "203.0.113.1", u32::MAX), "10.0.0.6 1500");
        assert_eq!(via(&mut mirror, "2001:db8:1::1", 0), "fd00::3 1500");
        assert_eq!(via(&mut mirror, "2001:db8:1::1", u32::MAX), "fd00::4 1500");
        assert_eq!(via(&mut mirror, "198.51.100.1", 0), "Unreachable(Blackhole)");
        assert_eq!(via(&mut mirror, "198.51.101.1", 0), "Unreachable(Prohibit)");
        assert_eq!(via(&mut mirror, "198.51.102.1", 0), "Unreachable(Refused)");
        assert_eq!(via(&mut mirror, "10.0.0.1", 0), "Local");
        assert_eq!(via(&mut mirror, "fd00::1", 0), "Local");
        assert_eq!(via(&mut mirror, "127.0.0.1", 0), "Local", "though lo is down in a new namespace");
        assert_eq!(via(&mut mirror, "10.0.0.255", 0), "Broadcast");
        assert_eq!(via(&mut mirror, "224.0.0.5", 0), "Multicast");
        assert_eq!(via(&mut mirror, "ff02::1", 0), "Multicast");
        let ignored: Vec<_> = mirror.routing.ignored_routes().collect();
        assert_eq!(ignored, [(77, 1), (254, 1)]);

        ip("route replace 192.0.2.0/24 via 10.0.0.7 metric 10");
        ip("-6 route del 2001:db8:1::/48 via fd00::3");
        ip("route del default");
        mirror.settle();
        mirror.assert_as_dumped();
        assert_eq!(via(&mut mirror, "192.0.2.1", 0), "10.0.0.7 1500");
        assert_eq!(via(&mut mirror, "2001:db8:1::1", 0), "fd00::4 1500");
        assert_eq!(via(&mut mirror, "8.8.8.8", 0), "Unreachable(NoRoute)");

        ip("-6 route replace 2001:db8:1::/48 nexthop via fd00::5 nexthop via fd00::6");
        ip("route append 192.0.2.0/24 via 10.0.0.8 metric 10");
        mirror.settle();
        mirror.assert_as_dumped();
        ip("-6 route del 2001:db8:1::/48");
        ip("route flush 192.0.2.0/24");
        mirror.settle();
        mirror.assert_as_dumped();
        assert_eq!(mirror.monitor.undecodable(), 0);
    });
}

#[test]
fn a_neighbour_is_resolved_and_its_new_mac_address_is_taken_over() {
    in_own_namespace(|| {
        let peer = PeerNamespace::new();
        link_to_peer(&peer);
        let mut mirror = Mirror::open();
        for text in ["10.0.0.2", "fd00::2"] {
            let Resolution::Via { ifindex, next_hop, adjacency } = mirror.routing.lookup(address(text), 0) else {
                panic!("{text} is directly connected");
            };
            let start = Instant::now();
            let known = mirror.routing.adjacency(adjacency).unwrap().clone();
            if known.state != AdjacencyState::Resolved {
                assert_eq!(known.mac, None);
                mirror.monitor.resolve(ifindex, next_hop).unwrap();
            }
            mirror.until(|routing| routing.adjacency(adjacency).unwrap().state == AdjacencyState::Resolved);
            println!("{text} resolved after {:?}", start.elapsed());
            let resolved = mirror.routing.adjacency(adjacency).unwrap().clone();
            assert_eq!(resolved.mac, Some([2, 0, 0, 0, 0, 0x0b]));
            assert_eq!(resolved.source_mac, mirror.routing.link(ifindex).unwrap().mac);

            ip(&format!("neigh replace {text} lladdr 02:00:00:00:00:0c nud stale dev a"));
            mirror.until(|routing| routing.adjacency(adjacency).unwrap().mac == Some([2, 0, 0, 0, 0, 0x0c]));
            let changed = mirror.routing.adjacency(adjacency).unwrap();
            assert!(changed.stale);
            assert_eq!(changed.generation, resolved.generation, "flows go on");
            mirror.monitor.confirm(ifindex, next_hop).unwrap();
            mirror.until(|routing| !routing.adjacency(adjacency).unwrap().stale);
        }
        // Nobody has this address: three probes, one second apart.
        let absent = address("10.0.0.99");
        let Resolution::Via { ifindex, adjacency, .. } = mirror.routing.lookup(absent, 0) else {
            panic!("{absent} is directly connected");
        };
        mirror.monitor.resolve(ifindex, absent).unwrap();
        mirror.until(|routing| routing.adjacency(adjacency).unwrap().state == AdjacencyState::Failed);
        assert!(matches!(mirror.monitor.resolve(9999, absent), Err(NetlinkError::Refused { errno: libc::ENODEV, .. })));
    });
}

#[test]
fn a_link_that_goes_down_takes_its_routes_and_adjacencies_along() {
    in_own_namespace(|| {
        let peer = PeerNamespace::new();
        link_to_peer(&peer);
        closed_link("c");
        ip("addr add 10.1.0.1/24 dev c");
        ip("route add 192.0.2.0/24 via 10.0.0.2");
        ip("route add 198.51.100.0/24 nexthop via 10.0.0.2 nexthop via 10.1.0.2");
        ip("route add default via 10.1.0.2");
        let mut mirror = Mirror::open();
        let (a, c) = (mirror.monitor.link_index("a").unwrap(), mirror.monitor.link_index("c").unwrap());
        let Resolution::Via { adjacency, .. } = mirror.routing.lookup(address("192.0.2.1"), 0) else {
            panic!("there is a route");
        };
        let generation = mirror.routing.adjacency(adjacency).unwrap().generation;

        ip("link set dev a down");
        mirror.until(|routing| !routing.link(a).unwrap().up);
        let down = mirror.routing.adjacency(adjacency).unwrap().clone();
        assert_eq!((down.state, down.mac), (AdjacencyState::Down, None));
        assert_ne!(down.generation, generation);
        assert!(mirror.changes.contains(&Change::Adjacency(adjacency)));
        let output = |mirror: &mut Mirror, destination: &str| match mirror.routing.lookup(address(destination), 0) {
            Resolution::Via { ifindex, .. } => ifindex,
            other => panic!("{destination}: {other:?}"),
        };
        assert_eq!(output(&mut mirror, "192.0.2.1"), c, "the default route");
        assert_eq!(output(&mut mirror, "198.51.100.1"), c, "the other next hop");
        mirror.settle();
        mirror.assert_as_dumped();

        mirror.changes.clear();
        ip("link set dev a up");
        mirror.until(|routing| routing.link(a).unwrap().up);
        assert!(mirror.changes.contains(&Change::NeedResync));
        mirror.settle();
        assert_eq!(output(&mut mirror, "10.0.0.2"), a, "the connected route was announced");
        assert_eq!(output(&mut mirror, "192.0.2.1"), c, "the kernel has lost the static one");
        assert_eq!(output(&mut mirror, "198.51.100.1"), a, "the next hop lives again");
        mirror.monitor.request_resync();
        mirror.settle();
        mirror.assert_as_dumped();

        // Carrier alone: the kernel keeps the routes and says nothing of them.
        peer.ip("link set dev b down");
        mirror.until(|routing| !routing.link(a).unwrap().up);
        assert_eq!(output(&mut mirror, "10.0.0.2"), c);
        ip("route del default");
        mirror.settle();
        let resolution = mirror.routing.lookup(address("10.0.0.2"), 0);
        assert_eq!(resolution, Resolution::Unreachable(UnreachableReason::LinkDown));
        mirror.assert_as_dumped();

        ip("link del dev a");
        mirror.until(|routing| routing.link(a).is_none());
        mirror.settle();
        assert!(!mirror.routing.is_own(address("10.0.0.1")));
        mirror.assert_as_dumped();
    });
}

#[test]
fn a_removed_address_asks_for_the_routes_that_went_silently() {
    in_own_namespace(|| {
        closed_link("c");
        ip("addr add 10.1.0.1/24 dev c");
        ip("addr add 10.2.0.1/24 dev c");
        ip("route add 192.0.2.0/24 via 10.1.0.2 src 10.2.0.1");
        let mut mirror = Mirror::open();
        ip("addr del 10.2.0.1/24 dev c");
        mirror.until(|routing| !routing.is_own(address("10.2.0.1")));
        assert!(mirror.changes.contains(&Change::NeedResync));
        mirror.monitor.request_resync();
        std::thread::sleep(mirror.monitor.resync_due().unwrap());
        mirror.settle();
        let resolution = mirror.routing.lookup(address("192.0.2.1"), 0);
        assert_eq!(resolution, Resolution::Unreachable(UnreachableReason::NoRoute));
        mirror.assert_as_dumped();
    });
}

#[test]
fn ten_thousand_routes_come_and_go() {
    in_own_namespace(|| {
        closed_link("c");
        ip("addr add 10.1.0.1/24 dev c");
        let mut mirror = Mirror::open();
        let routes = |verb: &str| -> String {
            (0..10_000)
                .map(|n| format!("route {verb} 20.{}.{}.0/24 via 10.1.0.{}\n", n / 256, n % 256, 2 + n % 200))
                .collect()
        };
        let before = mirror.routing.routes().count();
        let start = Instant::now();
        ip_batch(&routes("add"));
        let added = start.elapsed();
        mirror.settle();
        println!("10000 routes: added in {added:?}, mirrored {:?} after the start", start.elapsed());
        assert_eq!(mirror.routing.routes().count(), before + 10_000);
        let start = Instant::now();
        mirror.assert_as_dumped();
        println!("dumped and compared in {:?}", start.elapsed());
        ip_batch(&routes("del"));
        mirror.settle();
        assert_eq!(mirror.routing.routes().count(), before);
        assert_eq!(mirror.monitor.overruns(), 0);
    });
}

#[test]
fn an_overrun_leads_to_a_resync() {
    in_own_namespace(|| {
        closed_link("c");
        ip("addr add 10.1.0.1/24 dev c");
        let resync_interval = Duration::from_millis(300);
        let mut mirror = Mirror::open_with(Options { event_buffer: 4096, resync_interval, ..Options::default() });
        ip("route add 30.0.0.0/24 via 10.1.0.2");
        mirror.settle();
        std::thread::sleep(resync_interval);
        let batch: String =
            (0..2000).map(|n| format!("route add 20.{}.{}.0/24 via 10.1.0.2\n", n / 256, n % 256)).collect();
        ip_batch(&format!("{batch}route del 30.0.0.0/24\n"));
        let mut events = Vec::new();
        let polled = mirror.monitor.poll_events(&mut events).unwrap();
        assert!(polled.overrun && polled.resynced, "{polled:?}");
        assert_eq!(events.last(), Some(&Event::ResyncEnd));
        mirror.apply(events);
        assert!(mirror.monitor.overruns() >= 1);
        assert!(mirror.routing.route_to(address("30.0.0.1")).is_none(), "its removal was lost");
        mirror.assert_as_dumped();

        // The next one comes too early: it is put off, not forgotten.
        ip_batch(&batch.replace("add", "del"));
        let mut events = Vec::new();
        let polled = mirror.monitor.poll_events(&mut events).unwrap();
        mirror.apply(events);
        if !polled.resynced {
            let due = mirror.monitor.resync_due().unwrap();
            assert!(due <= resync_interval);
            std::thread::sleep(due);
            mirror.settle();
        }
        assert_eq!(mirror.monitor.resync_due(), None);
        mirror.assert_as_dumped();
    });
}

/// Started by the next test as root of a user namespace of its own, where nothing of the machine may be touched.
#[test]
#[ignore = "run by works_in_a_user_namespace"]
fn inside_a_user_namespace() {
    assert!(std::env::var_os("FLOWHOP_INNER").is_some(), "to be started by works_in_a_user_namespace");
    let mut mirror = Mirror::open();
    let limit: usize = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
    assert!(mirror.monitor.event_buffer() <= 2 * limit, "SO_RCVBUFFORCE is refused here");
    let lo = mirror.monitor.link_index("lo").unwrap();
    mirror.monitor.set_link_up(lo, true).unwrap();
    mirror.until(|routing| routing.link(lo).unwrap().up);
    mirror.settle();
    assert_eq!(mirror.routing.lookup(address("127.0.0.1"), 0), Resolution::Local);
    closed_link("c");
    ip("addr add 10.1.0.1/24 dev c");
    mirror.settle();
    let c = mirror.monitor.link_index("c").unwrap();
    assert!(mirror.routing.link(c).unwrap().up);
    mirror.monitor.resolve(c, address("10.1.0.2")).unwrap();
}

#[test]
fn works_in_a_user_namespace() {
    support::must_be_root();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside_a_user_namespace", "--ignored", "--nocapture"])
        .env("FLOWHOP_INNER", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_fresh_monitor_and_mirror_agree_with_nothing_configured() {
    in_own_namespace(|| {
        let mut monitor = Monitor::open().unwrap();
        let events = monitor.dump().unwrap();
        assert_eq!(events.first(), Some(&Event::ResyncBegin));
        let mut routing = Routing::new(1);
        let mut changes = Vec::new();
        for event in events {
            routing.apply(event, &mut changes);
        }
        assert!(routing.links().any(|link| link.loopback));
        assert_eq!(routing.lookup(address("192.0.2.1"), 0), Resolution::Unreachable(UnreachableReason::NoRoute));
    });
}
