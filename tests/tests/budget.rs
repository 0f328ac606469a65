//! What a packet of a known flow costs the daemon (checklist A6, design §10: no system call, no allocation, no wake-up for
//! a packet that a program forwards): nothing, because it is not told of it.

#![expect(clippy::expect_used, reason = "helpers of tests fail the test on the spot")]

use std::fs;
use std::thread;
use std::time::Instant;

use flowhop_tests::numbered;
use flowhop_tests::wait::undisturbed;
use flowhop_tests::{Bed, Daemon, Family, Load, Policy, alone};

const PORT: u16 = 5000;
/// Packets that are sent before and while it is looked at.
const BEFORE: u64 = 10_000;
const WHILE: u64 = 100_000;
/// Of so many packets the daemon may run for one at most: it has other things to do at any time, and not always as many.
const OFTEN: u64 = 1000;

/// How often the kernel let a thread of the daemon run: who does not run calls nobody and allocates nothing.
fn turns(daemon: &Daemon) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("the daemon's threads");
    let turns = threads.map(|thread| {
        // Nanoseconds that it ran, nanoseconds that it waited to run, turns.
        let text = fs::read_to_string(thread.expect("a thread").path().join("schedstat")).expect("its schedstat");
        text.split_whitespace().nth(2).and_then(|turns| turns.parse::<u64>().ok()).expect("the number of its turns")
    });
    turns.sum()
}

/// What a run of numbered packets let the daemon do: turns while they were sent, and in as much time without.
fn turns_with_and_without(path: &str, family: Family) -> [u64; 2] {
    let bed = Bed::for_path("budget", path);
    let daemon = Daemon::start(&bed.router, &Policy::new().masquerade(true).path(path));
    let load = Load::new(family.outside_host(), PORT).flows(16).rate(50_000, 2500);
    let running = numbered::start(&bed.inside, &[&bed.outside], &load);
    running.wait_sent(BEFORE);
    let (start, before) = (Instant::now(), turns(&daemon));
    running.wait_sent(BEFORE + WHILE);
    let (took, with) = (start.elapsed(), turns(&daemon) - before);
    running.finish();
    // Nothing is waited for: this is the other half of what is measured, as long a time in which nothing comes.
    let before = turns(&daemon);
    thread::sleep(took);
    let without = turns(&daemon) - before;
    let carried = daemon.path_packets(path);
    assert!(carried >= WHILE, "{path}, {family:?}: {carried} packets");
    println!("{path}, {family:?}: {with} turns of the daemon beside {WHILE} packets, {without} without any");
    [with, without]
}

#[test]
fn packets_of_known_flows_cost_the_daemon_nothing() {
    let _turn = alone();
    undisturbed();
    for path in ["driver", "skb"] {
        for family in [Family::V4, Family::V6] {
            let [with, without] = turns_with_and_without(path, family);
            assert!(with <= without + WHILE / OFTEN, "{path}, {family:?}: {with} turns, {without} without packets");
        }
    }
}

// The same counted for packets that the daemon does forward: the count is of what it is meant to be.
#[test]
fn packets_that_user_space_forwards_are_seen_in_the_same_count() {
    let _turn = alone();
    undisturbed();
    let [with, without] = turns_with_and_without("user", Family::V4);
    assert!(with > without + WHILE / OFTEN, "{with} turns, {without} without packets");
}
