//! The test bed tested by itself: the kernel is the router here.

use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use flowhop_tests::numbered::{self, FlowTally, Tally};
use flowhop_tests::tools::{self, HttpServer};
use flowhop_tests::{
    Bed, Connection, Family, Flags, Load, Namespace, Offloads, Packet, Policy, RawPort, Transport, alone,
};

#[test]
fn numbered_packets_cross_the_kernel_without_loss() {
    let _turn = alone();
    let bed = Bed::new("loss");
    bed.masquerade_by_kernel();
    for family in Family::BOTH {
        let load = Load::new(family.outside_host(), 5000).rate(20_000, 1000);
        let report = numbered::run(&bed.inside, &bed.outside, &load);
        println!("{family:?}: {report}");
        report.assert_clean("kernel forwarding");
        assert_eq!(report.sent, 20_000);
        let took = report.took.as_secs_f64();
        assert!((0.9..1.5).contains(&took), "20 000 packets at 20 000 a second took {took} s");
    }
    let load = Load::new(Family::V4.outside_host(), 5001).rate(10_000, 500).flows(50).size(1000).echo();
    let report = numbered::run(&bed.inside, &bed.outside, &load);
    println!("50 flows: {report}");
    report.assert_clean("50 flows with echo");
    assert_eq!(report.back.expect("echo was asked for").received(), 5000);
}

#[test]
fn a_route_that_is_taken_away_shows_as_loss_and_a_changed_one_moves_the_flow() {
    let _turn = alone();
    let bed = Bed::with_second("move");
    bed.forward_by_kernel();
    for family in Family::BOTH {
        bed.route_roaming(false);
        let load = Load::new(family.roaming(), 5000).rate(5000, 600);
        let running = numbered::start(&bed.inside, &[&bed.outside, bed.second()], &load);
        running.wait_sent(1500);
        bed.route_roaming(true);
        let report = running.finish();
        report.assert_clean("a changed route");
        let by_host = [&report.receivers[0], &report.receivers[1]].map(Tally::received);
        assert!(by_host[0] >= 1500 && by_host[1] > 0, "{by_host:?}");
        assert_eq!(report.receivers[0].flows[0].last(), Some(by_host[0] - 1));

        let running = numbered::start(&bed.inside, &[&bed.outside], &load);
        let report = running.finish();
        assert_eq!(report.forward.missing(), 3000, "only the second host gets these: {report}");
    }
}

#[test]
fn a_changed_mac_is_announced() {
    let _turn = alone();
    let bed = Bed::new("mac");
    bed.forward_by_kernel();
    for (family, mac) in [(Family::V4, "02:00:00:00:00:77"), (Family::V6, "02:00:00:00:00:78")] {
        let load = Load::new(family.outside_host(), 5000).rate(5000, 1500);
        let running = numbered::start(&bed.inside, &[&bed.outside], &load);
        running.wait_sent(1500);
        bed.change_mac(&bed.outside, mac);
        let report = running.finish();
        println!("{family:?}: {report}");
        assert!(report.forward.missing() < 2500, "half a second at most: {report}");
        assert_eq!(report.forward.duplicates() + report.forward.out_of_order(), 0, "{report}");
    }
}

#[test]
fn the_tally_reports_planted_faults() {
    let mut tally = FlowTally::new(100);
    for sequence in (0..100).filter(|sequence| !matches!(sequence, 10 | 20..=29 | 50 | 99)) {
        tally.record(sequence);
        if sequence == 60 {
            tally.record(50); // late
            tally.record(5); // again
            tally.record(60); // again
            tally.record(100); // never sent
        }
    }
    assert_eq!((tally.received, tally.missing()), (88, 12));
    assert_eq!((tally.duplicates, tally.out_of_order, tally.alien), (2, 1, 1));
    assert_eq!(tally.missing_ranges(), [(10, 10), (20, 29), (99, 99)]);

    let mut other = FlowTally::new(100);
    for sequence in [10, 20, 30] {
        other.record(sequence);
    }
    tally.merge(&other);
    assert_eq!((tally.received, tally.missing(), tally.duplicates), (90, 10, 3));
}

#[test]
fn planted_loss_on_the_wire_is_reported() {
    let _turn = alone();
    if tools::find("nft").is_none() {
        eprintln!("not run: planted loss, nft is not installed");
        return;
    }
    let bed = Bed::new("planted");
    bed.forward_by_kernel();
    bed.router.run("nft", &["table inet l { chain f { type filter hook forward priority 0; udp dport 5000 numgen inc mod 10 == 0 drop; }; }"]).ok();
    let load = Load::new(Family::V4.outside_host(), 5000).rate(5000, 200);
    let report = numbered::run(&bed.inside, &bed.outside, &load);
    assert_eq!((report.sent, report.forward.missing()), (1000, 100), "{report}");
    assert!(!report.is_clean());
}

#[test]
fn namespaces_and_processes_go_with_a_panicking_test() {
    let _turn = alone();
    let mut names = Vec::new();
    let mut id = 0;
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let bed = Bed::new("panic");
        let process = bed.inside.spawn("sleep", &["1000"]);
        let load = Load::new(Family::V4.outside_host(), 5000);
        let running = numbered::start(&bed.inside, &[&bed.outside], &load);
        running.wait_sent(100);
        (names, id) =
            ([&bed.inside, &bed.router, &bed.outside].map(|one| one.name().to_owned()).to_vec(), process.id());
        assert!(names.iter().all(|name| Path::new("/run/netns").join(name).exists()));
        panic!("planted");
    }));
    assert!(panic.is_err());
    assert!(names.len() == 3 && names.iter().all(|name| !Path::new("/run/netns").join(name).exists()));
    assert!(!Path::new(&format!("/proc/{id}")).exists());
}

#[test]
fn tools_work_with_all_offloads() {
    let _turn = alone();
    for offloads in [Offloads::Default, Offloads::On, Offloads::Off] {
        let bed = Bed::with_offloads("tools", offloads);
        let masqueraded = bed.masquerade_by_kernel();
        for family in Family::BOTH {
            let host = family.outside_host();
            let ping = tools::ping(&bed.inside, host, 5);
            assert!(ping.is_clean(), "{ping:?}");
            let server = HttpServer::start(&bed.outside, host);
            tools::assert_download(&bed.inside, &server);
            let bulk = tools::iperf3(&bed.inside, &bed.outside, host, 1);
            println!("{offloads:?} {family:?} {bulk:?}");
            assert!(bulk.bits_per_second > 1e7, "{bulk:?}");
            // Numbered packets and a bulk transfer side by side, as some tests of the daemon want them.
            let bulk = tools::start_iperf3(&bed.inside, &bed.outside, host, 1);
            let load = Load::new(host, 5000).rate(20_000, 800);
            let report = numbered::run(&bed.inside, &bed.outside, &load);
            bulk.finish(1);
            println!("beside iperf3: {report}");
            report.assert_clean("beside iperf3");
            let source = if masqueraded { family.outside_router() } else { family.inside_host() };
            assert!(report.forward.sources.iter().all(|from| from.ip() == source));
        }
    }
}

#[test]
fn an_unreachable_host_does_not_answer_pings() {
    let _turn = alone();
    let bed = Bed::new("ping");
    let ping = tools::ping(&bed.inside, Family::V4.outside_host(), 2);
    assert_eq!((ping.sent, ping.received), (2, 0), "ip_forward is off");
}

#[test]
fn frames_are_built_as_the_kernel_wants_them() {
    let _turn = alone();
    let bed = Bed::with_offloads("raw", Offloads::Off);
    bed.forward_by_kernel();
    let port = RawPort::open(&bed.inside, "eth0");
    let far = RawPort::open(&bed.outside, "eth0");
    let macs = (port.mac, bed.router.mac("lan0"));
    assert_eq!(port.mac, bed.inside.mac("eth0"));
    for family in Family::BOTH {
        let from = SocketAddr::new(family.inside_host(), 1234);
        let to = SocketAddr::new(family.outside_host(), 4321);
        let socket = bed.outside.enter(|| UdpSocket::bind(to).expect("bind"));
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let packet = Packet::new(macs, from, to, Transport::Udp, b"by hand");
        assert_eq!(Packet::parse(&packet.build()).as_ref(), Some(&packet));
        // The first packet makes the kernel resolve its neighbours.
        port.send(&packet.build());
        let mut buffer = [0; 64];
        let (length, source) = socket.recv_from(&mut buffer).expect("the packet arrives");
        assert_eq!((&buffer[..length], source), (&b"by hand"[..], from));
        let frame = far.capture(Duration::from_secs(5), |frame| frame.came(from, to));
        let seen = frame.and_then(|frame| frame.packet()).expect("a captured packet");
        assert!(seen.checksums && seen.ttl == 63, "{seen:?}");

        // A SYN by hand to a closed port: the kernel answers only to a right checksum.
        let transport = Transport::Tcp { seq: 7000, ack: 0, flags: Flags::SYN, window: 1000 };
        port.send(&Packet::new(macs, from, to, transport, b"").build());
        let reply = port.capture(Duration::from_secs(5), |frame| frame.came(to, from));
        let reply = reply.and_then(|frame| frame.packet()).expect("an answer");
        let Transport::Tcp { ack, flags, .. } = reply.transport else { panic!("{reply:?}") };
        assert!(flags.has(Flags::RST_ACK) && ack == 7001 && reply.checksums, "{reply:?}");

        let mut wrong = packet.build();
        *wrong.last_mut().expect("bytes") ^= 1;
        assert!(!Packet::parse(&wrong).expect("still a packet").checksums);
    }
}

#[test]
fn connections_know_their_sequence_numbers() {
    let _turn = alone();
    let bed = Bed::new("seq");
    let masqueraded = bed.masquerade_by_kernel();
    for family in Family::BOTH {
        let mut connection = Connection::open(&bed, family);
        let source = if masqueraded { family.outside_router() } else { family.inside_host() };
        assert_eq!(connection.client_outside.ip(), source);
        let before = connection.client_next;
        connection.exchange();
        assert_eq!(connection.client_next.wrapping_sub(before), 15);
        // At the right number, the data of a stranger enters.
        connection.forge_from_server(0, Flags::PSH_ACK, b"stranger");
        let mut got = [0; 8];
        connection.client.read_exact(&mut got).expect("the client reads forged bytes");
        assert_eq!(&got, b"stranger");
    }
    // Out of the window, the hosts themselves do not mind.
    let mut connection = Connection::open(&bed, Family::V4);
    connection.forge_from_server(0x4000_0000, Flags::RST, b"");
    connection.forge_from_client(0x4000_0000, Flags::RST, b"");
    connection.exchange();
    // In the window, to the byte, a reset is obeyed.
    connection.forge_from_server(0, Flags::RST, b"");
    connection.try_exchange().expect_err("the reset has closed it");
}

#[test]
fn activity_of_a_process_is_counted() {
    let _turn = alone();
    let namespace = Namespace::new("busy");
    let sleeper = namespace.spawn("sleep", &["1000"]);
    let wait = || std::thread::sleep(Duration::from_millis(200));
    // It may still be starting.
    let (idle, ()) = tools::activity(sleeper.id(), wait);
    assert!(idle.system_calls.unwrap_or(0) <= 50 && idle.reads_and_writes <= 50, "{idle:?}");
    let copier = namespace.spawn("dd", &["if=/dev/zero", "of=/dev/null", "bs=1"]);
    let (busy, ()) = tools::activity(copier.id(), wait);
    assert!(busy.system_calls.unwrap_or(1000) >= 1000 && busy.reads_and_writes >= 1000, "{busy:?}");
}

#[test]
fn policies_say_what_was_asked_for() {
    let text = Policy::new().masquerade(true).path("skb").second().services(&["udp", "tcp/80"]).text();
    for part in [
        "lan = { device = \"lan0\", zone = \"inside\", path = \"skb\" }",
        "second = { device = \"wan1\", zone = \"outside\", path = \"skb\" }",
        "service = [\"udp\", \"tcp/80\"]",
        "family = \"ipv6\"",
        "connections = 65536",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(!Policy::new().path("default").text().contains("path"));
    assert!(!Policy::new().text().contains("[[nat]]"));
}
