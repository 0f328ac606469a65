//! Every packet of a million on every path, in histories of connections, judged by a simple evaluator of its own: nothing
//! is forwarded that the policy does not allow, nothing is dropped that has to pass, and what is forwarded is translated
//! as it has to be (checklist A14, C2, C4, F11; RFC 4787 REQ-1, REQ-3, REQ-5, REQ-8, REQ-14; RFC 5508 REQ-1, REQ-4).
//!
//! A packet goes to the kernel program first, if there is one, as it would; what that hands down goes to the engine. Both
//! have the same table. `FLOWHOP_PACKETS` makes longer or shorter runs.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]
#![allow(dead_code, reason = "the bed and the fragments have more than is used here")]

#[path = "../../../crates/modules/tests/firewall/bed.rs"]
mod bed;
mod front;
#[path = "../../../crates/modules/tests/firewall/pieces.rs"]
mod pieces;
mod world;

use flowhop_flow::Level;
use flowhop_tests::programs::apart;

use bed::{LAN, WAN};
use front::Front;
use world::{STRANGERS, World};

/// Packets of one history, where a new one costs nothing.
const HISTORY: usize = 20_000;

#[derive(Default)]
struct Total {
    packets: usize,
    passed: usize,
    refused: usize,
    joined: usize,
    fast: usize,
    reloads: usize,
    restarts: usize,
    floods: usize,
}

fn judge_all(packets_of_each: usize, make: &mut dyn FnMut() -> Option<Front>) -> Total {
    let wanted = std::env::var("FLOWHOP_PACKETS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let mut total = Total::default();
    for seed in 0.. {
        let mut world = World::new(seed * 7919 + 1, make());
        while world.packets < packets_of_each.min(wanted) {
            world.step();
        }
        total.packets += world.packets;
        total.passed += world.passed;
        total.refused += world.refused;
        total.joined += world.joined;
        total.fast += world.fast;
        total.reloads += world.reloads;
        total.restarts += world.restarts;
        total.floods += world.floods;
        if total.packets >= wanted {
            break;
        }
    }
    let Total { packets, passed, refused, joined, fast, reloads, restarts, floods } = total;
    println!(
        "{packets} packets, {passed} passed, {fast} of them without the engine, {refused} refused; \
         {joined} datagrams in fragments passed; {reloads} changes of the policy, {restarts} of the process, \
         {floods} floods"
    );
    assert!(passed > packets / 4 && refused > packets / 10 && joined > packets / 200);
    assert!(reloads > packets / 20_000 && restarts > packets / 20_000);
    assert!(floods > packets / 100_000);
    total
}

fn in_the_kernel(level: Level) {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: needs root");
        return;
    }
    let ifindexes = [LAN, WAN].map(front::ifindex);
    let total = apart(&[ifindexes], || {
        let mut number = 0;
        // Long histories, because each loads the programs, which takes the verifier seconds.
        judge_all(25 * HISTORY, &mut || {
            number += 1;
            Some(Front::load(level, &format!("evaluator-{level:?}-{number}")))
        })
    });
    let of_known = total.passed - total.floods * STRANGERS as usize;
    assert!(total.fast * 2 > of_known, "most should not need the engine");
}

#[test]
fn a_million_packets_by_the_slow_path() {
    judge_all(HISTORY, &mut || None);
}

#[test]
fn a_million_packets_in_the_driver() {
    in_the_kernel(Level::Driver);
}

#[test]
fn a_million_packets_on_the_socket_buffer() {
    in_the_kernel(Level::Skb);
}
