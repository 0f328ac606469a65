//! Shadow mode (checklist A14, N5): the daemon judges packets once more that a kernel program has forwarded.

#![expect(clippy::expect_used, reason = "helpers of tests fail the test on the spot")]

use std::time::Duration;

use flowhop_flow::record::Block;
use flowhop_io::bpf::Kernel;
use flowhop_table::{Geometry, is_live};
use flowhop_tests::wait::undisturbed;
use flowhop_tests::{Bed, Daemon, Family, Load, Policy, alone, until};
use flowhop_tests::{numbered, tools};

const PORT: u16 = 5000;
const CONNECTIONS: u32 = 4096;
const PATHS: [&str; 2] = ["driver", "skb"];

fn policy(path: &str, one_in: u32) -> Policy {
    Policy::new().masquerade(true).path(path).connections(CONNECTIONS).extra(&format!("[paths]\nshadow = {one_in}\n"))
}

fn status(daemon: &Daemon, what: &str) -> u64 {
    daemon.json("show status")["status"]["shadow"][what].as_u64().expect("a number")
}

// The programs and the daemon agree, whatever devices are left to finish.
#[test]
fn the_same_is_made_of_packets_of_all_kinds() {
    let _turn = alone();
    undisturbed();
    for path in PATHS {
        let bed = Bed::for_path("shadow", path);
        let daemon = Daemon::start(&bed.router, &policy(path, 3));
        assert_eq!(status(&daemon, "one_in"), 4, "a power of two");
        for family in [Family::V4, Family::V6] {
            let load = Load::new(family.outside_host(), PORT).flows(20).rate(5000, 1000).echo();
            numbered::run(&bed.inside, &bed.outside, &load).assert_clean(path);
            assert!(tools::iperf3(&bed.inside, &bed.outside, family.outside_host(), 1).bits_per_second > 1e6);
        }
        until("comparisons", Duration::from_secs(5), || (status(&daemon, "same") > 1000).then_some(()));
        assert_eq!(status(&daemon, "different"), 0, "{path}: {}", daemon.stderr());
    }
}

/// A word of an entry that falls over.
fn plant(daemon: &Daemon, fault: impl Fn(&Block)) -> usize {
    let geometry = Geometry::for_connections(CONNECTIONS, 0);
    let kernel = Kernel::load(&daemon.state(), geometry.into()).expect("the daemon's maps");
    assert!(kernel.adopted());
    let live = kernel.shared().blocks.iter().filter(|block| is_live(block));
    live.map(fault).count()
}

// A fault in an entry is found under load, told, kept, mended, and the flow stays on the user path.
#[test]
fn a_planted_fault_is_found() {
    let _turn = alone();
    undisturbed();
    for path in PATHS {
        let bed = Bed::for_path("fault", path);
        let daemon = Daemon::start(&bed.router, &policy(path, 1000));
        let load = Load::new(Family::V4.outside_host(), PORT).flows(4).rate(20_000, 4000);
        let running = numbered::start(&bed.inside, &[&bed.outside], &load);
        running.wait_sent(20_000);
        assert_eq!(status(&daemon, "different"), 0, "{path}");
        let before = running.sent();
        // One bit of the source port that packets leave with.
        assert_eq!(plant(&daemon, |block| block.hot[0].new_ports.store(block.hot[0].new_ports.load() ^ 1)), 4);
        until("the fault to be found", Duration::from_secs(10), || (status(&daemon, "different") >= 4).then_some(()));
        println!(
            "{path}: 4 flows of {} packets a second together, found in {} packets",
            load.rate,
            running.sent() - before
        );
        running.finish();
        for flow in daemon.flows_to(&flowhop_tests::bed::endpoint(Family::V4.outside_host(), PORT)) {
            let forward = &flow["forward"];
            assert_eq!(
                (forward["path"].as_str(), forward["path_reason"].as_str()),
                (Some("user"), Some("shadow")),
                "{flow}"
            );
        }
        let kept = |name: &str| std::fs::read(daemon.state().join(name)).unwrap_or_default();
        assert!(kept("shadow-0.pcap").len() > 24 + 3 * 16 && kept("shadow-0.json").starts_with(b"{"), "{path}");
        assert!(daemon.stderr().contains("shadow mode: the program"), "{}", daemon.stderr());
        // What they send now is translated as it was, and others are as fast as ever.
        let load = Load::new(Family::V4.outside_host(), PORT + 1).flows(4).rate(5000, 500).echo();
        numbered::run(&bed.inside, &bed.outside, &load).assert_clean(path);
    }
}
