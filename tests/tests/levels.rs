//! Interfaces of different abilities side by side: which path each direction of a connection takes, and what happens
//! when that changes (checklist A3 to A5, A8, B9).

use std::net::SocketAddr;
use std::time::Duration;

use flowhop_tests::bed::endpoint;
use flowhop_tests::numbered;
use flowhop_tests::{
    Bed, Daemon, Family, Frame, Link, Load, Offload, Packet, Policy, RawPort, Transport, alone, assert_carried,
    switch_offload, until, ways,
};

const PORT: u16 = 5000;
const SECOND: Duration = Duration::from_secs(1);

// B9: the path follows from what input and output can do, for each direction by itself.
#[test]
fn each_direction_takes_the_path_that_its_input_and_output_can_do() {
    let _turn = alone();
    let (driver, fallen, default) = (("driver", "interface"), ("skb", "output"), ("skb", "default"));
    let cases = [
        ("lan", false, [fallen, default]),
        ("lan", true, [driver, default]),
        ("wan", false, [default, fallen]),
        ("wan", true, [default, driver]),
    ];
    let cases = cases.into_iter().flat_map(|case| [true, false].map(|masquerade| (case, masquerade)));
    for ((interface, able, expected), masquerade) in cases {
        let context = format!("driver on {interface}, the other takes frames: {able}, masquerade {masquerade}");
        let bed = Bed::new("mixed");
        let (near, far) = if interface == "lan" { (&bed.inside, &bed.outside) } else { (&bed.outside, &bed.inside) };
        // Only where a program in the driver gets its packets from: the other host leaves all its work to devices.
        switch_offload(near, "eth0", Offload::Transmit, false);
        bed.take_frames(far, able);
        let policy = Policy::new().masquerade(masquerade).path_of(interface, "driver");
        let daemon = Daemon::start(&bed.router, &policy);
        assert_carried(&bed, &daemon, expected, &context);
    }
}

// A5: what an interface can do changes under traffic.
#[test]
fn live_flows_follow_what_their_output_can_do() {
    let _turn = alone();
    for family in Family::BOTH {
        let bed = Bed::new("able");
        bed.complete_checksums();
        bed.take_frames(&bed.outside, false);
        let policy = Policy::new().masquerade(true).path_of("lan", "driver");
        let daemon = Daemon::start(&bed.router, &policy);
        let host = family.outside_host();
        let load = Load::new(host, PORT).rate(5000, 6000);
        let running = numbered::start(&bed.inside, &[&bed.outside], &load);
        running.wait_sent(1000);
        let forward = |daemon: &Daemon| {
            let flow = daemon.only_flow_to(&endpoint(host, PORT));
            let [(path, reason), _] = ways(&flow);
            (path.to_owned(), reason.to_owned())
        };
        let becomes = |path: &str, reason: &str| {
            let right = (path.to_owned(), reason.to_owned());
            until(&format!("{family:?}: {path} for {reason}"), 3 * SECOND, || {
                (forward(&daemon) == right).then_some(())
            });
        };
        becomes("skb", "output");
        bed.take_frames(&bed.outside, true);
        becomes("driver", "interface");
        running.wait_sent(running.sent() + 2000);
        let able = running.sent();
        // Until the daemon has seen it, frames go to a device that takes none: that much is lost.
        bed.take_frames(&bed.outside, false);
        becomes("skb", "output");
        let unable = running.sent();
        let report = running.finish();
        println!("{family:?}, unable from {able}, seen at {unable}: {report}");
        let tally = &report.forward;
        assert_eq!(tally.duplicates() + tally.out_of_order() + tally.corrupted, 0, "{family:?}: {report}");
        let ranges = tally.flows[0].missing_ranges();
        let slack = u64::from(load.rate) / 4;
        assert!(
            ranges.iter().all(|(first, last)| *first + slack >= able && *last <= unable + slack),
            "{family:?}: lost beside the change between {able} and {unable}: {ranges:?}"
        );
    }
}

// B9: a route that leads to another output decides anew.
#[test]
fn a_changed_route_changes_the_path_with_the_output() {
    let _turn = alone();
    for family in Family::BOTH {
        let bed = Bed::with_second("reroute");
        bed.complete_checksums();
        bed.take_frames(&bed.outside, true);
        bed.take_frames(bed.second(), false);
        let policy = Policy::new().second().path_of("lan", "driver");
        let daemon = Daemon::start(&bed.router, &policy);
        let load = Load::new(family.roaming(), PORT).rate(4000, 4000);
        let running = numbered::start(&bed.inside, &[&bed.outside, bed.second()], &load);
        for (to_second, path, reason) in
            [(false, "driver", "interface"), (true, "skb", "output"), (false, "driver", "interface")]
        {
            bed.route_roaming(to_second);
            let right = (path, reason);
            until(&format!("{family:?}: {path} for {reason}"), 2 * SECOND, || {
                let flows = daemon.flows_to(&endpoint(family.roaming(), PORT));
                flows.first().is_some_and(|flow| ways(flow)[0] == right).then_some(())
            });
            running.wait_sent(running.sent() + 1500);
        }
        let report = running.finish();
        println!("{family:?}: {report}");
        assert_eq!(report.forward.corrupted + report.forward.duplicates(), 0, "{family:?}: {report}");
        assert!(report.receivers.iter().all(|host| host.received() > 1000), "{family:?}: {report}");
    }
}

// A8: a tag that names no VLAN (IEEE 802.1Q priority tag) is none, for known and unknown flows.
#[test]
fn priority_tags_are_taken_off() {
    let _turn = alone();
    for path in ["driver", "skb", "user"] {
        let bed = Bed::for_path("priority", path);
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path(path));
        let (inside, outside) = (RawPort::open(&bed.inside, "eth0"), RawPort::open(&bed.outside, "eth0"));
        for family in Family::BOTH {
            let context = format!("{path}, {family:?}");
            let near = SocketAddr::new(family.inside_host(), 4000);
            let far = SocketAddr::new(family.outside_host(), PORT);
            let macs = (inside.mac, bed.router.mac("lan0"));
            let there = Packet::new(macs, near, far, Transport::Udp, b"a tag in front");
            // The first opens the connection, the second is of one that is known.
            let mut seen = Packet::parse(&there.build()).expect("a packet");
            for number in 0..2 {
                inside.send(&tagged(&there.build(), 0x6000));
                let came =
                    |frame: &Frame| !frame.outgoing && frame.packet().is_some_and(|p| p.payload == there.payload);
                let frame =
                    outside.capture(SECOND, came).unwrap_or_else(|| panic!("{context}: packet {number} is lost"));
                seen = frame.packet().expect("a packet");
                assert!(seen.checksums && frame.bytes.len() == there.build().len(), "{context}: {frame:?}");
                until("the flow to be known", SECOND, || (!daemon.flows_to(&far.to_string()).is_empty()).then_some(()));
            }
            let macs = (outside.mac, bed.router.mac("wan0"));
            let back = Packet::new(macs, far, seen.source, Transport::Udp, b"and back");
            for _ in 0..2 {
                outside.send(&tagged(&back.build(), 0));
                let came = |frame: &Frame| !frame.outgoing && frame.packet().is_some_and(|p| p.payload == back.payload);
                // The first one waits for its neighbour, and a host that has just come up may answer the second time only.
                let frame = inside.capture(3 * SECOND, came).unwrap_or_else(|| panic!("{context}: no answer"));
                assert_eq!(frame.packet().map(|packet| packet.destination), Some(near), "{context}");
            }
            let flow = daemon.only_flow_to(&far.to_string());
            for direction in ["forward", "reverse"] {
                assert_eq!(
                    (&flow[direction]["path"], &flow[direction]["packets"]),
                    (&path.into(), &2.into()),
                    "{flow}"
                );
            }
        }
    }
}

/// A frame with an 802.1Q tag.
fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let [high, low] = tag.to_be_bytes();
    bytes.splice(12..12, [0x81, 0x00, high, low]);
    bytes
}

// A8: VLAN devices as interfaces: tags come off, go on and change on the way.
#[test]
fn vlan_interfaces_are_forwarded_between() {
    let _turn = alone();
    if !Bed::has_vlans() {
        eprintln!(
            "not run: this kernel has no VLAN devices (CONFIG_VLAN_8021Q); `cargo xtask vm levels::vlan` has one"
        );
        return;
    }
    let [ten, twenty] = [10, 20].map(Link::Vlan);
    for path in ["driver", "skb"] {
        let all = [[ten, Link::Veth], [Link::Veth, twenty], [ten, ten], [ten, twenty]];
        for (links, masquerade) in all.into_iter().flat_map(|links| [true, false].map(|masquerade| (links, masquerade)))
        {
            let bed = Bed::with_links("vlan", path, links);
            let device = |device: &str, link| match link {
                Link::Vlan(vlan) => format!("{device}.{vlan}"),
                _ => device.to_owned(),
            };
            let policy = Policy::new().masquerade(masquerade).path(path);
            let policy = policy.device("lan", &device("lan0", links[0])).device("wan", &device("wan0", links[1]));
            let daemon = Daemon::start(&bed.router, &policy);
            let context = format!("{path}, {links:?}, masquerade {masquerade}");
            assert_carried(&bed, &daemon, [(path, "interface"); 2], &context);
        }
    }
}

// A10: a sender that leaves checksums to a device that is not there. Nothing leaves with a wrong one, and the interface
// goes where the rest can be done; the other one stays.
#[test]
fn partial_checksums_in_a_driver_are_completed_and_the_interface_leaves_it() {
    let _turn = alone();
    for family in Family::BOTH {
        let bed = Bed::for_path("partial", "driver");
        switch_offload(&bed.inside, "eth0", Offload::Transmit, true);
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path("driver"));
        let host = SocketAddr::new(family.outside_host(), PORT);
        let load = Load::new(host.ip(), PORT).rate(2000, 1000).flows(20).echo();
        numbered::run(&bed.inside, &bed.outside, &load).assert_clean(&format!("{family:?}, from the first packet on"));
        let way = |name: &str| {
            let interface = daemon.interface(name);
            (interface["path"].clone(), interface["path_reason"].clone())
        };
        assert_eq!(way("lan"), ("skb".into(), "partial_checksum".into()), "{family:?}");
        assert_eq!(way("wan"), ("driver".into(), "interface".into()), "{family:?}");
        assert!(daemon.stderr().contains("partial checksums"), "{}", daemon.stderr());
        // From here on with everything that this host leaves to devices.
        assert_carried(&bed, &daemon, [("skb", "partial_checksum"), ("driver", "interface")], "having left the driver");
    }
}
