//! Numbered UDP at a pace, from the very first packet of flows that begin all the time (checklist A5, F11): nothing is
//! lost, nothing comes twice, nothing overtakes, on any path.

use flowhop_tests::numbered;
use flowhop_tests::wait::undisturbed;
use flowhop_tests::{Bed, Daemon, Family, Load, Policy, Report, alone};

const PORT: u16 = 5000;
/// Packets a second, of all flows together.
const RATE: u32 = 50_000;
/// Flows that begin in a second.
const NEW_FLOWS: u32 = 100;
/// How long.
const MILLIS: u64 = 2000;

/// Sends at that pace, so many flows at the same time, and says what came of it when `meanwhile` has done its work.
fn run(bed: &Bed, family: Family, together: u32, meanwhile: impl FnOnce(&numbered::Running)) -> Report {
    let load = Load::new(family.outside_host(), PORT).rate(RATE, MILLIS).new_flows(NEW_FLOWS, together);
    let running = numbered::start(&bed.inside, &[&bed.outside], &load);
    meanwhile(&running);
    running.finish()
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
            let report = run(&bed, family, together, |_| ());
            let context = format!("{path}, {family:?}, {together} at a time");
            println!("{context}: {report}");
            assert!(report.is_clean(), "{context}: {report}\ndrops: {}", daemon.json("show drops"));
            assert_eq!(report.forward.sources.len(), 200, "{context}: every flow has a source of its own");
        }
    }
}
