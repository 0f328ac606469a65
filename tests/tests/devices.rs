//! Devices of other kinds than veth as interfaces (checklist A8, A9, B9): each works on a named path, or is refused by
//! name with the reason.

use std::time::Duration;

use flowhop_tests::{Bed, Daemon, Family, Link, Policy, alone, assert_carried, tools, until};

const SECONDS: Duration = Duration::from_secs(5);

// A9: a link without a header, on either side and on both.
#[test]
fn links_without_a_header_are_interfaces_on_the_socket_buffer() {
    let _turn = alone();
    for links in [[Link::Tun, Link::Veth], [Link::Veth, Link::Tun], [Link::Tun, Link::Tun]] {
        let bed = Bed::with_links("tun", "skb", links);
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true));
        let context = format!("{links:?}");
        assert_carried(&bed, &daemon, [("skb", "default"); 2], &context);
        let headerless = if links[0] == Link::Tun { "lan" } else { "wan" };
        assert_eq!(daemon.interface(headerless)["path"], "skb", "{context}");
    }
}

// A9, B9: what is asked of it and cannot be is said, and the rest works. Its neighbour's frames go to it as packets.
#[test]
fn a_link_without_a_header_refuses_the_driver() {
    let _turn = alone();
    for links in [[Link::Veth, Link::Tun], [Link::Tun, Link::Veth]] {
        let bed = Bed::with_links("tundrv", "driver", links);
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path("driver"));
        let (veth, tun) = if links[0] == Link::Veth { ("lan", "wan") } else { ("wan", "lan") };
        assert_eq!((&daemon.interface(veth)["path"]), "driver", "{links:?}");
        let refused = daemon.interface(tun);
        assert_eq!((&refused["path"], &refused["path_reason"]), (&"skb".into(), &"driver_refused".into()), "{links:?}");
        assert!(daemon.stderr().contains("has no Ethernet header"), "{}", daemon.stderr());
        let ways = [("skb", "output"), ("skb", "driver_refused")];
        let ways = if links[0] == Link::Veth { ways } else { [ways[1], ways[0]] };
        assert_carried(&bed, &daemon, ways, &format!("{links:?}"));
    }
}

// B9: tap devices, by default and in the driver.
#[test]
fn tap_devices_are_interfaces_on_both_kernel_paths() {
    let _turn = alone();
    for path in ["default", "driver"] {
        let bed = Bed::with_links("tap", "skb", [Link::Tap, Link::Tap]);
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path(path));
        let way = if path == "driver" { ("driver", "interface") } else { ("skb", "default") };
        assert_carried(&bed, &daemon, [way; 2], path);
    }
}

/// Puts `lan0` below another device, which takes over its addresses; false where the kernel has no such device.
fn put_below(bed: &Bed, kind: &str) -> bool {
    let more = if kind == "bond" { " mode active-backup" } else { "" };
    if !bed.router.tries_ip(&format!("link add master0 type {kind}{more}")) {
        eprintln!("not run: this kernel has no {kind} devices");
        return false;
    }
    let [v4, v6] = Family::BOTH.map(Family::inside_router);
    bed.router.ip_batch(&format!(
        "addr flush dev lan0\nlink set lan0 down\nlink set lan0 master master0\nlink set lan0 up\n\
         addr add {v4}/24 dev master0\naddr add {v6}/64 dev master0 nodad\nlink set master0 up\n"
    ));
    true
}

// B9: the master is an interface; what it is made of is not.
#[test]
fn bridges_and_bonds_are_interfaces_and_their_parts_are_refused() {
    let _turn = alone();
    for (kind, refusal) in [("bridge", "port of a bridge"), ("bond", "part of a bond")] {
        let bed = Bed::new(kind);
        if !put_below(&bed, kind) {
            continue;
        }
        // The address of a bridge is that of its first port; hosts may have asked for the port's before.
        for host in [&bed.inside, &bed.outside] {
            host.ip("neigh flush all");
        }
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).device("lan", "master0"));
        assert_carried(&bed, &daemon, [("skb", "default"); 2], kind);
        drop(daemon);

        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true));
        let part = daemon.interface("lan");
        assert!(part["problem"].as_str().is_some_and(|problem| problem.contains(refusal)), "{kind}: {part}");
        assert!(part["ifindex"].is_null(), "{kind}: {part}");
        assert!(daemon.stderr().contains(refusal), "{kind}: {}", daemon.stderr());
        assert!(daemon.interface("wan")["problem"].is_null());
        let host = Family::V4.outside_host();
        assert_eq!(tools::ping(&bed.inside, host, 1).received, 0, "{kind}: nothing passes a port that is refused");
        // Once it is by itself again it is taken into use.
        bed.router.ip_batch("link del master0\nlink set lan0 up\n");
        let [v4, v6] = Family::BOTH.map(Family::inside_router);
        bed.router.ip_batch(&format!("addr replace {v4}/24 dev lan0\naddr replace {v6}/64 dev lan0 nodad\n"));
        until("the port to be an interface", SECONDS, || daemon.interface("lan")["problem"].is_null().then_some(()));
        until("answers", SECONDS, || (tools::ping(&bed.inside, host, 1).received == 1).then_some(()));
    }
}

// B9: a forced driver on devices that have none.
#[test]
fn a_driver_that_is_not_there_is_refused_and_the_rest_works() {
    let _turn = alone();
    let bed = Bed::new("nodriver");
    assert!(put_below(&bed, "bridge"));
    let policy = Policy::new().masquerade(true).device("lan", "master0").path_of("lan", "driver");
    let daemon = Daemon::start(&bed.router, &policy);
    assert_carried(&bed, &daemon, [("skb", "driver_refused"), ("skb", "default")], "bridge");
    assert!(daemon.stderr().contains("no native XDP"), "{}", daemon.stderr());
}

// B9: devices that share another one.
#[test]
fn macvlan_devices_are_interfaces() {
    let _turn = alone();
    let bed = Bed::new("macvlan");
    if !bed.router.tries_ip("link add link lan0 name mac0 type macvlan mode private") {
        eprintln!("not run: this kernel has no macvlan devices");
        return;
    }
    let [v4, v6] = Family::BOTH.map(Family::inside_router);
    bed.router.ip_batch(&format!(
        "addr flush dev lan0\naddr add {v4}/24 dev mac0\naddr add {v6}/64 dev mac0 nodad\nlink set mac0 up\n"
    ));
    // Or the kernel answers for the address on the device below as well.
    bed.router.sysctl("net/ipv4/conf/lan0/arp_ignore", "1");
    let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).device("lan", "mac0"));
    assert_carried(&bed, &daemon, [("skb", "default"); 2], "macvlan");
}
