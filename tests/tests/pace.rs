//! Numbered UDP at a pace, from the very first packet of flows that begin all the time (checklist A5, F11): nothing is
//! lost, nothing comes twice, nothing overtakes, on any path.

use std::thread;
use std::time::Duration;

use flowhop_tests::numbered;
use flowhop_tests::wait::undisturbed;
use flowhop_tests::{Bed, Daemon, Family, Load, Policy, alone};

const PORT: u16 = 5000;
/// Packets a second, of all flows together.
const RATE: u32 = 50_000;
/// Flows that begin in a second.
const NEW_FLOWS: u32 = 100;
/// How long.
const MILLIS: u64 = 2000;

/// New flows all the time, so many of which send at the same time.
fn load(family: Family, together: u32) -> Load {
    Load::new(family.outside_host(), PORT).rate(RATE, MILLIS).new_flows(NEW_FLOWS, together)
}

// One flow after the other, back to back, and ten at a time.
#[test]
fn flows_that_begin_all_the_time_lose_nothing_from_their_first_packet_on() {
    let _turn = alone();
    undisturbed();
    for path in ["driver", "skb", "user"] {
        let bed = Bed::for_path("pace", path);
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path(path));
        for (family, together) in [(Family::V4, 1), (Family::V6, 10)] {
            let before = daemon.path_packets(path);
            let load = load(family, together);
            let report = numbered::run(&bed.inside, &bed.outside, &load);
            let carried = daemon.path_packets(path) - before;
            let context = format!("{path}, {family:?}, {together} at a time");
            println!("{context}: {report}; {carried} by {path}");
            assert!(report.is_clean(), "{context}: {report}\ndrops: {}", daemon.json("show drops"));
            assert_eq!(report.forward.sources.len(), 200, "{context}: every flow has a source of its own");
            assert!(carried > load.packets / 2, "{context}: {carried} by {path}");
        }
    }
}

// A5: the same while all flows are moved from path to path by command, again and again.
#[test]
fn flows_that_are_moved_between_paths_lose_nothing() {
    let _turn = alone();
    undisturbed();
    let bed = Bed::for_path("moved", "driver");
    let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path("driver"));
    let there_and_back = load(Family::V6, 20).rate(10_000, MILLIS).flows(100).echo();
    for load in [load(Family::V4, 1), load(Family::V6, 10), load(Family::V4, 200), there_and_back] {
        let running = numbered::start(&bed.inside, &[&bed.outside], &load);
        let mut moves = 0;
        for path in ["skb", "driver", "user", "skb", "user", "driver", "default"].into_iter().cycle() {
            if running.sent() >= load.packets {
                break;
            }
            daemon.client(&format!("move flow all {path}")).ok();
            moves += 1;
            thread::sleep(Duration::from_millis(20));
        }
        let report = running.finish();
        let context = format!("{} at a time to {}, moved {moves} times", load.together, load.to);
        println!("{context}: {report}");
        assert!(moves > 5, "{context}");
        assert!(report.is_clean(), "{context}: {report}\ndrops: {}", daemon.json("show drops"));
    }
    for path in ["driver", "skb", "user"] {
        assert!(daemon.path_packets(path) > 1000, "{path}: {}", daemon.json("show paths"));
    }
}
