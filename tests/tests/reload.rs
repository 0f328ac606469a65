//! Another policy (SIGHUP) while 200 000 flows send numbered packets (checklist A5, C10, F12): what
//! stays loses nothing and keeps its translation, what is forbidden ends at one instant, and nothing else does. Then the
//! daemon is killed, and its successor goes on with all of it.
//!
//! `FLOWHOP_RELOAD_SERVICES`, 8 if it is not set, are the services that 25 000 flows each are of: 40 for a million.
//!
//! The tests need root and the program (`cargo build -p flowhop`, or `FLOWHOP_BIN`).
#![expect(clippy::expect_used, reason = "helpers of tests fail the test on the spot")]

use std::time::Duration;

use flowhop_tests::fleet::{self, FleetReport, Sailing};
use flowhop_tests::numbered;
use flowhop_tests::wait::undisturbed;
use flowhop_tests::{Bed, Daemon, Family, Fleet, Load, Policy, alone, until};

/// The service that the first change forbids.
const FIRST: u16 = 5000;
/// The service that the last of many changes forbids.
const LAST: u16 = 5001;
/// The first of the services that every policy allows.
const KEPT: u16 = 5002;
/// Services that are allowed by another rule, at another place, every other time.
const OTHERWISE: std::ops::RangeInclusive<u16> = 5004..=5005;
/// Of a few flows with many packets each, in both directions, beside the many.
const FEW: u16 = 4999;
/// Inside ports: as many external ports, whatever the number of services.
const SOURCES: std::ops::Range<u16> = 20_000..45_000;
/// Flows of one service.
const OF_A_SERVICE: usize = SOURCES.end as usize - SOURCES.start as usize;
/// New flows a second.
const OPENING: u32 = 25_000;
/// First packets that may wait for the daemon: fewer than its queues hold, however long it is kept from its work.
const AHEAD: usize = 2048;
/// Packets a second of flows that are there.
const RATE: u32 = 30_000;
const RELOADS: usize = 100;
const LIMIT: Duration = Duration::from_secs(30);

/// How many services there are; the ones that are forbidden are among them.
fn services() -> u16 {
    std::env::var("FLOWHOP_RELOAD_SERVICES").map_or(8, |number| number.parse().expect("a number of services"))
}

/// What each change of policy may forbid has a rule of its own.
#[derive(Clone, Copy)]
struct Rules {
    path: &'static str,
    first: bool,
    last: bool,
    /// Some flows are allowed by another rule than before, at another place.
    otherwise: bool,
}

impl Rules {
    fn policy(self) -> Policy {
        let rule = |name: &str, services: &[&str]| {
            format!(
                "[[rule]]\nname = \"{name}\"\nfrom = \"inside\"\nto = \"outside\"\nservice = {services:?}\naction = \"allow\"\n"
            )
        };
        let mut rules = String::new();
        if self.otherwise {
            rules += &rule("kept otherwise", &[&format!("udp/{}-{}", OTHERWISE.start(), OTHERWISE.end())]);
        }
        rules += &rule("kept", &[&format!("udp/{FEW}"), &format!("udp/{KEPT}-{}", FIRST + services() - 1)]);
        if self.first {
            rules += &rule("first", &[&format!("udp/{FIRST}")]);
        }
        if self.last {
            rules += &rule("last", &[&format!("udp/{LAST}")]);
        }
        // The one rule that the policy begins with is about nothing here.
        Policy::new()
            .masquerade(true)
            .path(self.path)
            .connections(32_768 * u32::from(services()))
            .services(&["udp/9"])
            .extra(&rules)
    }
}

/// How many connections the daemon knows.
fn connections(daemon: &Daemon) -> usize {
    let status = daemon.json("show status");
    let connections = status["status"]["table"]["connections"].as_u64().expect("a number");
    usize::try_from(connections).expect("a number of flows")
}

/// How many flows each of these rules has, and how many there are, by `show flows -j`, which takes its time.
fn flows_by_rule<const N: usize>(daemon: &Daemon, rules: [&str; N]) -> ([usize; N], usize) {
    let text = daemon.client_within(2 * LIMIT, "show flows -j").ok().stdout;
    (rules.map(|rule| text.matches(&format!("\"rule\":\"{rule}\"")).count()), text.matches("\"rule\":").count())
}

/// Reloads, and waits until the daemon has read the policy; with `all`, until it holds for all connections. Returns what
/// the daemon says about that.
fn reload(daemon: &Daemon, rules: Rules, all: bool) -> String {
    let count = |text: &str| daemon.stderr().matches(text).count();
    let (read, holds) = (count("policy reloaded"), count("holds for all"));
    daemon.reload(&rules.policy());
    until("the policy to be read", LIMIT, || (count("policy reloaded") > read).then_some(()));
    if all {
        until("the policy to hold for all", LIMIT, || (count("holds for all") > holds).then_some(()));
    }
    let text = daemon.stderr();
    text.lines().rfind(|line| line.contains("holds for all")).unwrap_or_default().to_owned()
}

/// The numbers of packets sent before and after a change that forbids a service.
struct Cut {
    port: u16,
    /// Sent when the policy was not changed yet.
    before: u64,
    /// Sent when it was known to hold.
    after: u64,
}

fn cut(daemon: &Daemon, fleet: &Sailing, rules: Rules, port: u16, few: usize) -> Cut {
    let before = fleet.sent();
    let left = usize::from(services()) - usize::from(!rules.first) - usize::from(!rules.last);
    let said = reload(daemon, rules, true);
    let after = fleet.sent();
    println!("{said}; {} packets sent meanwhile", after - before);
    let expected = format!("{} go on, {OF_A_SERVICE} ended", left * OF_A_SERVICE + few);
    assert!(said.ends_with(&expected), "{said}: not {expected}");
    Cut { port, before, after }
}

/// Everything of the services that stay has come; of one that was cut, everything up to one instant.
fn assert_arrived(report: &FleetReport, fleet: &Fleet, cuts: &[Cut], context: &str) -> u64 {
    assert_eq!(
        (report.wrong(), report.overrun),
        (0, 0),
        "{context}: twice, late, from elsewhere, other bytes; overrun"
    );
    let (mut lost, mut missing) = (0, Vec::new());
    for (flow, arrivals) in report.flows.iter().enumerate() {
        let sent = report.sent_of(flow, report.sent);
        lost += sent - arrivals.received();
        if arrivals.received() != sent && !cuts.iter().any(|cut| cut.port == fleet.port(flow)) {
            missing.push((report.place(flow, arrivals.unbroken()), flow));
        }
    }
    missing.sort_unstable();
    let first = &missing[..missing.len().min(8)];
    assert!(missing.is_empty(), "{context}: {} flows that stay lost packets, (place, flow): {first:?}", missing.len());
    for cut in cuts {
        let of_it = || report.flows.iter().enumerate().filter(|(flow, _)| fleet.port(*flow) == cut.port);
        let last = of_it().map(|(flow, arrivals)| report.place(flow, arrivals.unbroken() - 1)).max().unwrap_or(0);
        let first_lost = of_it().map(|(flow, arrivals)| report.place(flow, arrivals.unbroken())).min().unwrap_or(0);
        println!(
            "{context}: {} forbidden between {} and {}: the last to pass is {last}, the first that does not {first_lost}",
            cut.port, cut.before, cut.after
        );
        for (flow, arrivals) in of_it() {
            assert_eq!(arrivals.received(), arrivals.unbroken(), "{context}: flow {flow} is back: {arrivals:?}");
            assert!(arrivals.unbroken() >= report.sent_of(flow, cut.before), "{context}: flow {flow} ends too early");
            assert!(arrivals.unbroken() <= report.sent_of(flow, cut.after + 1), "{context}: flow {flow} ends too late");
        }
        assert!(last < first_lost, "{context}: they do not end at one instant");
    }
    lost
}

fn reloads_under_two_hundred_thousand_flows(path: &'static str, family: Family) {
    let _turn = alone();
    undisturbed();
    let bed = Bed::for_path("reload", path);
    let rules = Rules { path, first: true, last: true, otherwise: false };
    let mut daemon = Daemon::start(&bed.router, &rules.policy());
    let services = usize::from(services());
    let context = format!("{path}, {family:?}");
    // Neighbours know each other before the many come.
    let few = Load::new(family.outside_host(), FEW).flows(10).rate(1000, 100).echo();
    numbered::run(&bed.inside, &bed.outside, &few).assert_clean(&context);
    let known = daemon.flows_to(&flowhop_tests::bed::endpoint(family.outside_host(), FEW)).len();

    let many = Fleet { family, sources: SOURCES, ports: FIRST..FIRST + services as u16 };
    let fleet = fleet::start(&bed, &many, OPENING);
    until("all flows to be known", LIMIT * services as u32, || {
        let there = connections(&daemon) - known;
        fleet.allow((there + AHEAD) as u64);
        (there == services * OF_A_SERVICE).then_some(())
    });
    fleet.allow(u64::MAX);
    fleet.set_rate(RATE);

    // A single change, which forbids a service.
    let dropped = daemon.drops(None);
    let rules = Rules { first: false, ..rules };
    let first = cut(&daemon, &fleet, rules, FIRST, known);
    assert_eq!(connections(&daemon), (services - 1) * OF_A_SERVICE + known, "{context}: one service fewer");

    // Many in a row, most of them while the one before is not complete, the last of which forbids another.
    let load = few.rate(5000, 6000);
    let running = numbered::start(&bed.inside, &[&bed.outside], &load);
    let flows = 10 + known;
    let mut said = String::new();
    for number in 1..RELOADS {
        said = reload(&daemon, Rules { otherwise: number % 2 == 1, ..rules }, number % 25 == 24);
    }
    assert!(said.ends_with(&format!("{} go on, 0 ended", (services - 1) * OF_A_SERVICE + flows)), "{context}: {said}");
    println!("{context}: {RELOADS} changes; {} of {} packets of the few sent meanwhile", running.sent(), load.packets);
    let last = cut(&daemon, &fleet, Rules { last: false, otherwise: true, ..rules }, LAST, flows);
    let kept = (services - 2) * OF_A_SERVICE;
    assert_eq!(connections(&daemon), kept + flows, "{context}: {RELOADS} changes");
    running.finish().assert_clean(&context);

    // The process dies under the same traffic, and another one takes over.
    let killed = fleet.sent();
    daemon.kill9();
    daemon.start_again();
    assert_eq!(connections(&daemon), kept + flows, "{context}: all are adopted");
    println!("{context}: killed after packet {killed}, and started again; {} sent meanwhile", fleet.sent() - killed);

    // Every flow sends once more.
    let started = fleet.sent();
    fleet.set_rate(2 * RATE);
    fleet.wait_sent(started + many.flows());
    let report = fleet.finish();
    let lost = assert_arrived(&report, &many, &[first, last], &context);
    println!("{context}: {} sent, {lost} of forbidden flows lost; {}", report.sent, daemon.json("show paths"));
    until("the drops to be counted", LIMIT, || (daemon.drops(None) - dropped == lost).then_some(()));
    let otherwise = OTHERWISE.len() * OF_A_SERVICE;
    let expected = ([kept - otherwise + flows, otherwise, 0, 0], kept + flows);
    let rules = ["kept", "kept otherwise", "first", "last"];
    assert_eq!(flows_by_rule(&daemon, rules), expected, "{context}: {RELOADS} changes");
    let carried = daemon.path_packets(path);
    assert!(carried >= report.sent - many.flows() - lost, "{context}: {path} carried {carried} of {}", report.sent);
}

#[test]
fn reloads_under_load_cut_what_they_forbid_and_nothing_else_in_the_driver() {
    reloads_under_two_hundred_thousand_flows("driver", Family::V4);
}

#[test]
fn reloads_under_load_cut_what_they_forbid_and_nothing_else_on_the_socket_buffer() {
    reloads_under_two_hundred_thousand_flows("skb", Family::V6);
}
