//! What changes around live flows that send numbered packets, on the kernel paths (checklist A5, B14, D8): an interface
//! that goes down and comes up, an address that goes away.
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`). Changed neighbours and routes are
//! in `acceptance.rs`, changed abilities of devices in `levels.rs`.
#![expect(clippy::expect_used, reason = "helpers of tests fail the test on the spot")]

use std::net::IpAddr;
use std::time::Duration;

use flowhop_tests::bed::endpoint;
use flowhop_tests::numbered;
use flowhop_tests::wait::undisturbed;
use flowhop_tests::{Bed, Daemon, Family, Load, Policy, alone, until, ways};
use serde_json::Value;

const PATHS: [&str; 2] = ["driver", "skb"];
const PORT: u16 = 5000;
const FLOWS: u32 = 10;
/// Packets a second that can be held for a second: a host that is ready later than the router's interface misses the first
/// question for its address, which is repeated a second later (RFC 1122 section 2.3.2.1, RFC 4861 section 10).
const HELD: u32 = 3000;
const SECOND: Duration = Duration::from_secs(1);

/// Identifiers and translated sources of the flows to a destination, in the order of the identifiers.
fn translations(daemon: &Daemon, host: IpAddr, port: u16) -> Vec<(u64, String)> {
    let of = |flow: &Value| {
        let source = flow["forward"]["translated_source"].as_str().expect("a source").to_owned();
        (flow["id"].as_u64().expect("an identifier"), source)
    };
    let mut all: Vec<_> = daemon.flows_to(&endpoint(host, port)).iter().map(of).collect();
    all.sort();
    all
}

// D8: while a device is down its flows wait; then they go on as they were.
#[test]
fn flows_outlive_an_interface_that_is_down_for_a_while() {
    let _turn = alone();
    undisturbed();
    for path in PATHS {
        for masquerade in [true, false] {
            let bed = Bed::for_path("flap", path);
            let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(masquerade).path(path));
            // Else the kernel takes IPv6 addresses off a device that goes down.
            bed.router.sysctl("net/ipv6/conf/wan0/keep_addr_on_down", if masquerade { "1" } else { "0" });
            let loads = Family::BOTH.map(|family| Load::new(family.outside_host(), PORT).flows(FLOWS).rate(HELD, 5000));
            let running = loads.each_ref().map(|load| numbered::start(&bed.inside, &[&bed.outside], load));
            running.iter().for_each(|running| running.wait_sent(3000));
            let before = loads.each_ref().map(|load| translations(&daemon, load.to.ip(), PORT));

            let down = running.each_ref().map(numbered::Running::sent);
            bed.router.ip("link set wan0 down");
            std::thread::sleep(SECOND / 2);
            bed.router.ip("link set wan0 up");
            if !masquerade {
                let address = Family::V6.outside_router();
                bed.router.ip(&format!("addr add {address}/64 dev wan0 nodad"));
            }
            let up = running.each_ref().map(numbered::Running::sent);
            running.iter().zip(up).for_each(|(running, up)| running.wait_sent(up + 6000));
            let carried = daemon.path_packets(path);
            running.iter().for_each(|running| running.wait_sent(running.sent() + 1200));
            let carried = daemon.path_packets(path) - carried;
            assert!(carried >= 2400, "{path}: {carried} of 2400 packets after it came up");
            for (running, (load, (before, (down, up)))) in
                running.into_iter().zip(loads.iter().zip(before.iter().zip(down.into_iter().zip(up))))
            {
                let host = load.to.ip();
                let context = format!("{path}, masquerade {masquerade}, {host}");
                let report = running.finish();
                println!("{context}: down from {down} to {up}: {report}");
                let tally = &report.forward;
                assert_eq!(tally.duplicates() + tally.out_of_order() + tally.corrupted, 0, "{context}: {report}");
                assert!(tally.missing() > 0, "{context}: it was not down");
                assert_eq!(tally.sources.len(), FLOWS as usize, "{context}: {:?}", tally.sources);
                for flow in &tally.flows {
                    for (first, last) in flow.missing_ranges() {
                        let (first, last) = (first * u64::from(FLOWS), last * u64::from(FLOWS));
                        // The sender is a tick or two further than it says.
                        let slack = u64::from(load.rate) / 20;
                        assert!(
                            first + slack >= down && last <= up + slack,
                            "{context}: lost {first} to {last}, down from {down} to {up}"
                        );
                    }
                }
                assert_eq!(translations(&daemon, host, PORT), *before, "{context}");
                for flow in daemon.flows_to(&endpoint(host, PORT)) {
                    assert_eq!(ways(&flow)[0], (path, "interface"), "{context}: {flow}");
                }
            }
        }
    }
}

// Issue 3 item 6: an address of an interface that goes away ends what is translated to it, and nothing else.
#[test]
fn an_address_that_goes_away_ends_its_flows_and_no_others() {
    let _turn = alone();
    undisturbed();
    for path in PATHS {
        let bed = Bed::for_path("renumber", path);
        // As a machine that gets its addresses from others has it.
        bed.router.sysctl("net/ipv4/conf/wan0/promote_secondaries", "1");
        let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path(path));
        for (family, length, new) in [(Family::V4, 24, "198.51.100.7"), (Family::V6, 64, "2001:db8:0:2::7")] {
            let context = format!("{path}, {family:?}");
            let (host, old, new) =
                (family.outside_host(), family.outside_router(), new.parse::<IpAddr>().expect("an address"));
            let of_old = Load::new(host, PORT).flows(FLOWS).rate(5000, 4000);
            let leaving = numbered::start(&bed.inside, &[&bed.outside], &of_old);
            leaving.wait_sent(1000);
            // A new address; the old one is still good for what uses it.
            bed.router.ip_batch(&format!(
                "addr add {new}/{length} dev wan0 {}\naddr change {old}/{length} dev wan0 preferred_lft 0\n",
                if new.is_ipv6() { "nodad" } else { "" },
            ));
            let own = |address: IpAddr| {
                move |flow: &(u64, String)| flow.1.starts_with(endpoint(address, 0).trim_end_matches('0'))
            };
            let of_new = Load::new(host, PORT + 1).flows(FLOWS).rate(5000, 2500).echo();
            let staying = until("new flows to use the new address", 5 * SECOND, || {
                let probe = numbered::run(&bed.inside, &bed.outside, &Load::new(host, PORT + 2).rate(100, 10));
                probe
                    .forward
                    .sources
                    .iter()
                    .all(|source| source.ip() == new)
                    .then(|| numbered::start(&bed.inside, &[&bed.outside], &of_new))
            });
            staying.wait_sent(2500);
            let before = [PORT, PORT + 1].map(|port| translations(&daemon, host, port));
            assert!(before[0].iter().all(own(old)) && before[1].iter().all(own(new)), "{context}: {before:?}");
            assert_eq!(before.each_ref().map(Vec::len), [FLOWS as usize; 2], "{context}: {before:?}");

            let gone = leaving.sent();
            bed.router.ip(&format!("addr del {old}/{length} dev wan0"));
            until("the flows to end", SECOND, || {
                let after = translations(&daemon, host, PORT);
                after.iter().all(|flow| !before[0].contains(flow)).then_some(())
            });
            let ended = leaving.sent();
            let staying = staying.finish();
            println!("{context}: those that stay: {staying}");
            staying.assert_clean(&context);
            assert_eq!(staying.forward.sources.len(), FLOWS as usize, "{context}: {:?}", staying.forward.sources);
            assert_eq!(translations(&daemon, host, PORT + 1), before[1], "{context}");
            let leaving = leaving.finish();
            println!("{context}: removed at {gone}, ended at {ended}: {leaving}");
            assert_eq!(leaving.forward.duplicates() + leaving.forward.corrupted, 0, "{context}: {leaving}");
            // They are connections like others, which begin anew.
            let after = translations(&daemon, host, PORT);
            assert!(after.len() == FLOWS as usize && after.iter().all(own(new)), "{context}: {after:?}");
            let expected: usize = before[0].len() + after.len();
            assert_eq!(leaving.forward.sources.len(), expected, "{context}: {:?}", leaving.forward.sources);
        }
    }
}
