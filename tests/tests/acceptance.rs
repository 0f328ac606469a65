//! The daemon in a network of namespaces, on real traffic: what it promises, as cases.
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`). They run one at a
//! time, whatever the number of test threads.
#![expect(clippy::expect_used, reason = "helpers of tests fail the test on the spot")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use flowhop_tests::bed::endpoint;
use flowhop_tests::numbered::{self, Running};
use flowhop_tests::tools::{self, HttpServer};
use flowhop_tests::{
    Bed, Connection, Daemon, Family, Flags, Frame, Launch, Load, Offloads, Packet, Policy, RawPort, Transport, alone,
    until,
};
use serde_json::Value;

/// Paths that are forced in turn where all have to behave the same.
const PATHS: [&str; 3] = ["driver", "skb", "user"];
/// Those that the daemon has no part in.
const KERNEL_PATHS: [&str; 2] = ["driver", "skb"];
/// Where the numbered packets go.
const PORT: u16 = 5000;
/// How long a packet that must not come is waited for, after one that must has come.
const SILENCE: Duration = Duration::from_millis(200);
const SECOND: Duration = Duration::from_secs(1);

/// Packets that the first packet path may take of a flow before the fast path has it.
const FIRST: u64 = 200;

/// One case of the matrix: path, masquerading, offloads; both families.
fn real_tools_and_numbers(path: &str, masquerade: bool, offloads: Offloads) {
    let _turn = alone();
    let bed = Bed::with_offloads("matrix", offloads);
    let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(masquerade).path(path));
    // All devices are veth pairs: `skb` is the default there.
    let path = if path == "default" { "skb" } else { path };
    for family in Family::BOTH {
        let context = format!("{path}, masquerade {masquerade}, offloads {offloads:?}, {family:?}");
        let host = family.outside_host();
        let ping = tools::ping(&bed.inside, host, 5);
        assert!(ping.is_clean(), "{context}: {ping:?}");
        let server = HttpServer::start(&bed.outside, host);
        tools::assert_download(&bed.inside, &server);
        let bulk = tools::iperf3(&bed.inside, &bed.outside, host, 1);
        assert!(bulk.bits_per_second > 1e7, "{context}: {bulk:?}");

        let load = Load::new(host, PORT);
        let before = daemon.path_packets(path);
        let running = numbered::start(&bed.inside, &[&bed.outside], &load);
        let port = running.ports[0];
        let report = running.finish();
        println!("{context}: {bulk:?}; {report}");
        report.assert_clean(&context);
        let source = if masquerade { family.outside_router() } else { family.inside_host() };
        assert!(
            report.forward.sources.iter().all(|from| from.ip() == source),
            "{context}: seen from {:?}",
            report.forward.sources
        );

        let carried = daemon.path_packets(path) - before;
        assert!(carried >= load.packets - FIRST, "{context}: {path} carried {carried} of {}", load.packets);
        let flow = daemon.only_flow_to(&endpoint(host, PORT));
        let forward = &flow["forward"];
        assert_eq!(forward["path"], *path, "{context}: {flow}");
        assert!(forward["path_reason"].is_string(), "{context}: {flow}");
        assert_eq!(forward["source"], *endpoint(family.inside_host(), port), "{context}: {flow}");
        assert_eq!(forward["translated_destination"], *endpoint(host, PORT), "{context}: {flow}");
        let translated: Vec<Value> = report.forward.sources.iter().map(|from| from.to_string().into()).collect();
        assert_eq!(translated, [forward["translated_source"].clone()], "{context}: {flow}");
        assert_eq!((&forward["in"], &forward["out"]), (&"lan".into(), &"wan".into()), "{context}: {flow}");
        assert_eq!(forward["packets"], load.packets, "{context}: {flow}");
        assert_eq!(flow["rule"], "inside to outside", "{context}: {flow}");
    }
}

macro_rules! matrix {
    ($($name:ident: $path:literal, $masquerade:literal, $offloads:ident;)*) => {
        $(#[test]
        fn $name() {
            real_tools_and_numbers($path, $masquerade, Offloads::$offloads);
        })*
    };
}

matrix! {
    matrix_skb_plain_offloads_on: "skb", false, On;
    matrix_skb_plain_offloads_off: "skb", false, Off;
    matrix_skb_masqueraded_offloads_on: "skb", true, On;
    matrix_skb_masqueraded_offloads_off: "skb", true, Off;
    matrix_driver_plain: "driver", false, Driver;
    matrix_driver_masqueraded: "driver", true, Driver;
    matrix_user_plain_offloads_on: "user", false, On;
    matrix_user_plain_offloads_off: "user", false, Off;
    matrix_user_masqueraded_offloads_on: "user", true, On;
    matrix_user_masqueraded_offloads_off: "user", true, Off;
    matrix_default_plain_offloads_on: "default", false, On;
    matrix_default_plain_offloads_off: "default", false, Off;
    matrix_default_masqueraded_offloads_on: "default", true, On;
    matrix_default_masqueraded_offloads_off: "default", true, Off;
}

#[test]
fn many_flows_there_and_back() {
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::for_path("many", path);
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path(path));
        for family in Family::BOTH {
            let host = family.outside_host();
            let load = Load::new(host, PORT).flows(100).rate(10_000, 1000).size(600).echo();
            let report = numbered::run(&bed.inside, &bed.outside, &load);
            report.assert_clean(&format!("{path}, {family:?}, 100 flows with echo"));
            assert_eq!(report.forward.sources.len(), 100, "every flow has a source of its own: {path}, {family:?}");
            assert_eq!(daemon.flows_to(&endpoint(host, PORT)).len(), 100);
        }
    }
}

#[test]
fn a_fast_packet_costs_the_daemon_no_system_call() {
    let _turn = alone();
    for path in KERNEL_PATHS {
        let bed = Bed::for_path("calls", path);
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path(path));
        let load = Load::new(Family::V4.outside_host(), PORT).rate(20_000, 4000);
        let running = numbered::start(&bed.inside, &[&bed.outside], &load);
        running.wait_sent(10_000);
        let (busy, ()) = tools::activity(daemon.id(), || running.wait_sent(70_000));
        running.finish().assert_clean("while system calls are counted");
        // The same time with nothing to do; strace itself shows up in both.
        let (idle, ()) = tools::activity(daemon.id(), || std::thread::sleep(3 * SECOND));
        println!("{path}: 60 000 fast packets: {busy:?}; none: {idle:?}");
        let more = |busy: u64, idle: u64, what: &str| {
            assert!(busy <= idle + idle / 4 + 60, "{path}: {what}: {busy} in 3 s with 60 000 packets, {idle} without");
        };
        more(busy.reads_and_writes, idle.reads_and_writes, "reads and writes");
        if let (Some(busy), Some(idle)) = (busy.system_calls, idle.system_calls) {
            more(busy, idle, "system calls");
        }
    }
}

#[test]
fn what_no_rule_allows_does_not_pass() {
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::for_path("denied", path);
        let daemon = Daemon::start(&bed.router, &Policy::new().path(path).services(&["udp/5000"]));
        let (inside, outside) = (RawPort::open(&bed.inside, "eth0"), RawPort::open(&bed.outside, "eth0"));
        let to_router = |port: &RawPort, device: &str| (port.mac, bed.router.mac(device));
        for family in Family::BOTH {
            let (near, far) = (family.inside_host(), family.outside_host());
            let at = SocketAddr::new;
            let syn = Transport::Tcp { seq: 1, ack: 0, flags: Flags::SYN, window: 1000 };
            let ack = Transport::Tcp { seq: 1, ack: 1, flags: Flags::ACK, window: 1000 };
            let mut dropped = daemon.drops(None);
            for transport in [Transport::Udp, syn, ack] {
                let port = if transport == Transport::Udp { 5001 } else { PORT };
                let macs = to_router(&inside, "lan0");
                let packet = Packet::new(macs, at(near, 4000), at(far, port), transport, b"denied");
                assert_gets_nowhere(&bed, family, &inside, &outside, &packet);
                // What is allowed one way is not allowed the other way.
                let macs = to_router(&outside, "wan0");
                let packet = Packet::new(macs, at(far, 4001), at(near, PORT), transport, b"denied");
                assert_gets_nowhere(&bed, family, &outside, &inside, &packet);
                let now = until("the drops to be counted", SECOND, || {
                    Some(daemon.drops(None)).filter(|&now| now >= dropped + 20)
                });
                dropped = now;
            }
            assert_eq!(tools::ping(&bed.inside, far, 2).received, 0, "{path}, {family:?}: ping is not allowed");
            assert!(daemon.flows_to(&endpoint(far, 5001)).is_empty(), "a flow was made for what is denied");
        }
    }
}

#[test]
fn an_outside_host_with_an_inside_five_tuple_gets_nowhere() {
    let _turn = alone();
    for path in PATHS {
        for masquerade in [false, true] {
            let bed = Bed::for_path("spoof", path);
            let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(masquerade).path(path));
            let (inside, outside) = (RawPort::open(&bed.inside, "eth0"), RawPort::open(&bed.outside, "eth0"));
            for family in Family::BOTH {
                let context = format!("{path}, masquerade {masquerade}, {family:?}");
                let host = family.outside_host();
                let load = Load::new(host, PORT).rate(2000, 500);
                let running = numbered::start(&bed.inside, &[&bed.outside], &load);
                running.wait_sent(200);
                let before = daemon.drops(Some("wrong_interface"));
                let source = SocketAddr::new(family.inside_host(), running.ports[0]);
                let macs = (outside.mac, bed.router.mac("wan0"));
                let packet = Packet::new(macs, source, SocketAddr::new(host, PORT), Transport::Udp, b"spoofed");
                for _ in 0..50 {
                    outside.send(&packet.build());
                }
                let report = running.finish();
                report.assert_clean(&context);
                for port in [&inside, &outside] {
                    let seen = port.capture_until(SILENCE, |frame| is_incoming(frame, b"spoofed"), |_| false);
                    assert!(seen.is_empty(), "{context}: {} spoofed packets went on", seen.len());
                }
                let dropped = daemon.drops(Some("wrong_interface")) - before;
                assert_eq!(dropped, 50, "{context}: drops for wrong_interface");
                let flow = daemon.only_flow_to(&endpoint(host, PORT));
                assert_eq!(flow["forward"]["packets"], load.packets, "{context}: {flow}");
            }
        }
    }
}

#[test]
fn segments_out_of_the_window_neither_close_nor_enter_a_connection() {
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::for_path("window", path);
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path(path));
        for family in Family::BOTH {
            let context = format!("{path}, {family:?}");
            let mut connection = Connection::open(&bed, family);
            let flow = daemon.only_flow_to(&connection.address.to_string());
            for direction in ["forward", "reverse"] {
                assert_eq!(flow[direction]["path"], *path, "{context}: {flow}");
            }
            let (id, state) = (flow["id"].clone(), flow["state"].clone());
            let dropped = daemon.drops(None);
            let marker = b"out of the window";
            // Far ahead, and far behind.
            let offsets = [0x4000_0000, 0xc000_0000];
            let kinds = [(Flags::RST, &b""[..]), (Flags::RST_ACK, b""), (Flags::PSH_ACK, marker)];
            connection.inside.clear();
            connection.outside.clear();
            for offset in offsets {
                for (flags, payload) in kinds {
                    connection.forge_from_server(offset, flags, payload);
                    connection.forge_from_client(offset, flags, payload);
                }
            }
            let forged = |frame: &Frame| {
                let reset = frame.packet().is_some_and(
                    |packet| matches!(packet.transport, Transport::Tcp { flags, .. } if flags.has(Flags::RST)),
                );
                (reset && !frame.outgoing) || is_incoming(frame, marker)
            };
            for port in [&connection.inside, &connection.outside] {
                let seen = port.capture_until(SILENCE, forged, |_| false);
                assert!(seen.is_empty(), "{context}: went on: {:?}", seen.first().and_then(Frame::packet));
            }
            let count = 4 * u64::try_from(kinds.len()).unwrap();
            until("the drops to be counted", SECOND, || (daemon.drops(None) >= dropped + count).then_some(()));
            connection.exchange();
            let flow = daemon.only_flow_to(&connection.address.to_string());
            assert_eq!((&flow["id"], &flow["state"]), (&id, &state), "{context}: {flow}");
            for direction in ["forward", "reverse"] {
                assert_eq!(flow[direction]["path"], *path, "{context}: {flow}");
            }
            // The same frames with the right number do reach the client: the test can tell.
            connection.forge_from_server(0, Flags::RST, b"");
            connection.try_exchange().expect_err("an exact reset closes the connection");
        }
    }
}

#[test]
fn every_packet_is_accounted_for() {
    let _turn = alone();
    for path in PATHS {
        // Without offloads a frame is a packet for everybody who counts.
        let offloads = if path == "driver" { Offloads::Driver } else { Offloads::Off };
        let bed = Bed::with_offloads("account", offloads);
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path(path).services(&["udp"]));
        let outside = RawPort::open(&bed.outside, "eth0");
        let host = Family::V4.outside_host();
        // Neighbours know each other before anything is counted.
        numbered::run(&bed.inside, &bed.outside, &Load::new(host, PORT).rate(100, 100));

        let received = || ["lan0", "wan0"].map(|device| bed.router.device_packets(device).0).iter().sum::<u64>();
        let all_paths = || ["driver", "skb", "stack", "user"].map(|path| daemon.path_packets(path)).iter().sum::<u64>();
        // What comes in while it is read (the hosts' kernels announce themselves) would be in some of the numbers.
        let before = until("a moment without packets", 10 * SECOND, || {
            let before = (received(), all_paths(), daemon.drops(None));
            (received() == before.0).then_some(before)
        });
        let load = Load::new(host, PORT).rate(5000, 400);
        let running = numbered::start(&bed.inside, &[&bed.outside], &load);
        running.wait_sent(500);
        let macs = (outside.mac, bed.router.mac("wan0"));
        let inside = SocketAddr::new(Family::V4.inside_host(), running.ports[0]);
        let spoofed = Packet::new(macs, inside, SocketAddr::new(host, PORT), Transport::Udp, b"spoofed");
        let denied = Packet::new(
            macs,
            SocketAddr::new(host, 4001),
            SocketAddr::new(Family::V4.inside_host(), 4002),
            Transport::Udp,
            b"denied",
        );
        for _ in 0..100 {
            outside.send(&spoofed.build());
            outside.send(&denied.build());
        }
        running.finish().assert_clean(path);
        // A packet counts with the path that sent it on or took it in, or with the drops.
        let mut last = Value::Null;
        let settled = |last: &mut Value| {
            let (all, paths, drops) = (received() - before.0, all_paths() - before.1, daemon.drops(None) - before.2);
            *last = serde_json::json!({ "received": all, "paths": paths, "drops": drops });
            (all == paths + drops && drops == 200 && paths >= load.packets).then_some(())
        };
        let end = std::time::Instant::now() + 2 * SECOND;
        while settled(&mut last).is_none() {
            assert!(std::time::Instant::now() < end, "{path}: {last} of {} allowed and 200 not", load.packets);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_killed_daemon_loses_nothing_and_its_successor_adopts_everything() {
    let _turn = alone();
    let cases = [
        ("driver", Launch::Direct, Family::V6),
        ("skb", Launch::Direct, Family::V4),
        ("driver", Launch::IpNetnsExec, Family::V4),
    ];
    for (path, launch, family) in cases {
        let context = format!("{path}, {launch:?}, {family:?}");
        let bed = Bed::for_path("kill", path);
        let policy = Policy::new().masquerade(true).path(path);
        let mut daemon = Daemon::start_by(launch, &bed.router, &policy);
        let host = family.outside_host();
        let mut connection = Connection::open(&bed, family);
        let bulk = tools::start_iperf3(&bed.inside, &bed.outside, host, 5);
        let load = Load::new(host, PORT);
        let running = numbered::start(&bed.inside, &[&bed.outside], &load);
        running.wait_sent(20_000);
        let before = identities(&daemon);
        let counted = daemon.only_flow_to(&endpoint(host, PORT))["forward"]["packets"].as_u64();
        let carried = daemon.path_packets(path);
        assert!(counted >= Some(19_000), "{context}: {counted:?}");
        daemon.kill9();
        running.wait_sent(60_000);
        connection.exchange();
        daemon.start_again();
        let after = identities(&daemon);
        for flow in &before {
            assert!(after.contains(flow), "{context}: {flow} is not adopted: {after:?}");
        }
        let adopted = daemon.only_flow_to(&endpoint(host, PORT))["forward"]["packets"].as_u64();
        assert!(adopted >= Some(59_000), "{context}: {counted:?} packets before the kill, {adopted:?} adopted");
        assert!(daemon.path_packets(path) >= carried, "{context}: the counters of the paths start anew");
        let report = running.finish();
        println!("{context}: {report}");
        report.assert_clean(&context);
        assert_eq!(report.forward.sources.len(), 1, "{context}: {:?}", report.forward.sources);
        let bulk = bulk.finish(5);
        assert!(bulk.bits_per_second > 1e7, "{context}: {bulk:?}");
        let flow = daemon.only_flow_to(&endpoint(host, PORT));
        assert_eq!(flow["forward"]["packets"], load.packets, "{context}: {flow}");
        // A port leased before is not given to a newcomer, and newcomers are served.
        connection.exchange();
        let newcomer = Connection::open(&bed, family);
        assert_ne!(newcomer.client_outside, connection.client_outside, "{context}");
    }
}

#[test]
fn a_terminated_daemon_is_followed_without_loss() {
    let _turn = alone();
    let bed = Bed::for_path("term", "driver");
    let mut daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path("driver"));
    let load = Load::new(Family::V4.outside_host(), PORT).flows(20).rate(10_000, 2000).echo();
    let running = numbered::start(&bed.inside, &[&bed.outside], &load);
    running.wait_sent(4000);
    let before = identities(&daemon);
    daemon.terminate();
    running.wait_sent(10_000);
    daemon.start_again();
    let after = identities(&daemon);
    assert!(before.iter().all(|flow| after.contains(flow)), "{before:?} became {after:?}");
    running.finish().assert_clean("SIGTERM and a new start");
}

#[test]
fn an_orphaned_kernel_side_stops_after_the_grace() {
    let _turn = alone();
    let bed = Bed::for_path("orphan", "driver");
    let policy = Policy::new().path("driver").extra("[paths]\norphan_grace = \"1s\"");
    let mut daemon = Daemon::start(&bed.router, &policy);
    let load = Load::new(Family::V4.outside_host(), PORT).rate(1000, 6000);
    let running = numbered::start(&bed.inside, &[&bed.outside], &load);
    running.wait_sent(500);
    daemon.kill9();
    let killed = running.sent();
    // New connections need a daemon.
    assert_eq!(tools::ping(&bed.inside, Family::V4.outside_host(), 1).received, 0, "nobody can allow this");
    running.wait_sent(4500);
    daemon.start_again();
    let restarted = running.sent();
    let report = running.finish();
    println!("killed at {killed}, ready again at {restarted}: {report}");
    let ranges = report.forward.flows[0].missing_ranges();
    let &[(first, last)] = &ranges[..] else { panic!("one gap, not {ranges:?}") };
    assert!(first >= killed + 700 && first <= killed + 2500, "the grace was 1 s: {report}");
    assert!(last <= restarted + 200, "ready means forwarding: {report}");
    assert_eq!(report.forward.duplicates() + report.forward.out_of_order(), 0, "{report}");
}

#[test]
fn down_takes_everything_off() {
    let _turn = alone();
    for alive in [true, false] {
        let bed = Bed::for_path("down", "driver");
        let before = bed.router.ip("-br link");
        let mut daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path_of("lan", "driver"));
        let in_drivers = || bed.router.ip("-d link").matches("prog/xdp").count();
        assert_eq!(in_drivers(), 1, "{}", bed.router.ip("-d link"));
        assert!(tools::ping(&bed.inside, Family::V4.outside_host(), 2).is_clean());
        if !alive {
            daemon.kill9();
        }
        daemon.down().ok();
        let after = || bed.router.ip("-br link");
        until("the devices to be as before", 5 * SECOND, || (after() == before).then_some(()));
        assert_eq!(tools::ping(&bed.inside, Family::V4.outside_host(), 1).received, 0);
        assert_eq!(in_drivers(), 0);
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(daemon.state().to_str().unwrap()), "{mounts}");
        assert!(!Path::new(&daemon.state()).join("control.sock").exists());
    }
}

#[test]
fn a_changed_neighbour_is_followed_within_a_second() {
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::for_path("mac", path);
        let _daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path(path));
        for (family, mac) in [(Family::V4, "02:00:00:00:00:77"), (Family::V6, "02:00:00:00:00:78")] {
            let load = Load::new(family.outside_host(), PORT).rate(5000, 2500);
            let running = numbered::start(&bed.inside, &[&bed.outside], &load);
            running.wait_sent(5000);
            let changed = running.sent();
            bed.change_mac(&bed.outside, mac);
            let report = running.finish();
            println!("{path}, {family:?}, changed at {changed}: {report}");
            assert_lost_only_within_a_second(&report.forward, changed, &load, path);
        }
    }
}

#[test]
fn a_changed_route_is_followed_within_a_second() {
    let _turn = alone();
    for path in PATHS {
        let bed = Bed::for_path_with_second("route", path);
        let daemon = Daemon::start(&bed.router, &Policy::new().path(path).second());
        for family in Family::BOTH {
            let context = format!("{path}, {family:?}");
            bed.route_roaming(false);
            // A flow that the change is none of the business of.
            let other = Load::new(family.outside_host(), PORT).rate(2000, 2500);
            let bystander = numbered::start(&bed.inside, &[&bed.outside], &other);
            let load = Load::new(family.roaming(), PORT + 1).rate(5000, 2500);
            let running: Running = numbered::start(&bed.inside, &[&bed.outside, bed.second()], &load);
            running.wait_sent(5000);
            let changed = running.sent();
            bed.route_roaming(true);
            let report = running.finish();
            println!("{context}, changed at {changed}: {report}");
            assert_lost_only_within_a_second(&report.forward, changed, &load, &context);
            let old = report.receivers[0].flows[0].last();
            assert!(old <= Some(changed + u64::from(load.rate)), "{context}: the old host still got {old:?}");
            assert!(report.receivers[1].received() > 0, "{context}: the new host got nothing");
            bystander.finish().assert_clean(&context);
            let flow = daemon.only_flow_to(&endpoint(family.roaming(), PORT + 1));
            assert_eq!(flow["forward"]["out"], "second", "{context}: {flow}");
        }
    }
}

/// What must be the same of every flow after a restart.
fn identities(daemon: &Daemon) -> Vec<Value> {
    let flows = daemon.json("show flows");
    let flows = flows["flows"].as_array().expect("a list of flows");
    let ends = |direction: &Value| {
        ["source", "destination", "translated_source", "translated_destination", "in", "out"]
            .map(|key| direction[key].clone())
            .to_vec()
    };
    flows
        .iter()
        .map(|flow| {
            let head = ["id", "protocol", "rule", "nat"].map(|key| flow[key].clone()).to_vec();
            Value::from([head, ends(&flow["forward"]), ends(&flow["reverse"])].concat())
        })
        .collect()
}

fn is_incoming(frame: &Frame, payload: &[u8]) -> bool {
    !frame.outgoing && frame.packet().is_some_and(|packet| packet.payload == payload)
}

/// Sends a packet ten times and panics if it arrives on the far wire, whatever became of its header,
/// before and shortly after a packet that is allowed.
#[track_caller]
fn assert_gets_nowhere(bed: &Bed, family: Family, from: &RawPort, to: &RawPort, packet: &Packet) {
    to.clear();
    for _ in 0..10 {
        from.send(&packet.build());
    }
    let allowed = Load::new(family.outside_host(), PORT).rate(1000, 10);
    numbered::run(&bed.inside, &bed.outside, &allowed).assert_clean("what the rule allows");
    let same = |frame: &Frame| {
        let tcp = |packet: &Packet| matches!(packet.transport, Transport::Tcp { .. });
        is_incoming(frame, &packet.payload)
            || (!frame.outgoing && tcp(packet) && frame.packet().is_some_and(|seen| tcp(&seen)))
    };
    let seen = to.capture_until(SILENCE, same, |_| false);
    assert!(seen.is_empty(), "{packet:?} went on {} times", seen.len());
}

/// Losses, if any, lie within the second after a change; nothing came twice or late.
#[track_caller]
fn assert_lost_only_within_a_second(tally: &numbered::Tally, changed: u64, load: &Load, context: &str) {
    let others = tally.duplicates() + tally.out_of_order() + tally.corrupted;
    assert_eq!(others, 0, "{context}: {tally}");
    let ranges = tally.flows[0].missing_ranges();
    // The sender is a tick or two further than it says.
    let span = changed..=changed + u64::from(load.rate);
    assert!(
        ranges.iter().all(|(first, last)| span.contains(first) && span.contains(last)),
        "{context}: changed at {changed}, lost {ranges:?}"
    );
}

#[test]
fn a_client_without_a_daemon_says_so() {
    let _turn = alone();
    let bed = Bed::new("none");
    let mut daemon = Daemon::start(&bed.router, &Policy::new());
    assert_eq!(daemon.client("show status").code(), Some(0));
    daemon.terminate();
    let output = daemon.client("show status");
    assert_eq!(output.code(), Some(3), "{output:?}");
    assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
}

#[test]
fn traffic_of_the_box_itself_is_the_kernels_business() {
    let _turn = alone();
    let bed = Bed::new("self");
    let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true));
    for family in Family::BOTH {
        assert!(tools::ping(&bed.inside, family.inside_router(), 3).is_clean());
        assert!(tools::ping(&bed.router, family.outside_host(), 3).is_clean());
        // A service on the router, and the router as a client of the outside.
        let server = HttpServer::start(&bed.router, family.inside_router());
        tools::assert_download(&bed.inside, &server);
        let server = HttpServer::start(&bed.outside, family.outside_host());
        tools::assert_download(&bed.router, &server);
    }
    assert!(daemon.path_packets("stack") > 0);
}
