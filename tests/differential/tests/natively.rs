//! The function in this process against the reference model (checklist A14, A17, B12, F11), with either index.

use flowhop_differential::faults::Fault;
use flowhop_differential::history::Episode;
use flowhop_differential::native::Native;
use flowhop_differential::replay::replay;
use flowhop_differential::run::{EPISODE, assert_telling, episode, packets, run, secret, seed};
use flowhop_flow::Level;

/// Runs histories through the function in this process.
fn natively(level: Level, hashed: bool, seed: u64) {
    let tally =
        run(packets(100_000), episode(EPISODE), seed, &mut |secret| Box::new(Native::new(level, hashed, secret, None)));
    assert_telling(&tally, level, &[]);
}

// B12, A17, F11: the same results with our own index.
#[test]
fn with_lines_the_model_agrees() {
    natively(Level::Skb, false, seed(0));
}

// B12: the same results with a hash map in the kernel's place.
#[test]
fn with_a_hash_map_the_model_agrees() {
    natively(Level::Skb, true, seed(1));
}

// A3, A8: the same histories in a driver, which leaves some of it to the socket buffer and knows VLANs by their tags.
#[test]
fn in_a_driver_the_model_agrees() {
    natively(Level::Driver, false, seed(4));
}

// The comparison itself is tested: a function that does one thing wrong is found out.
#[test]
fn planted_faults_are_found() {
    let faults = [
        (Level::Skb, Fault::PortChecksum),
        (Level::Skb, Fault::AnyInterface),
        (Level::Skb, Fault::Count),
        (Level::Skb, Fault::TimeToLive),
        (Level::Skb, Fault::NoWindow),
        (Level::Skb, Fault::AnyPolicy),
        (Level::Skb, Fault::NoGate),
        (Level::Driver, Fault::NoGate),
        (Level::Driver, Fault::AnyLevel),
        (Level::Driver, Fault::AnyOutput),
        (Level::Driver, Fault::NoTag),
        (Level::Skb, Fault::Identification),
    ];
    for (level, fault) in faults {
        let steps = Episode::steps(seed(0), EPISODE);
        let secret = secret(seed(0));
        let found = replay(&steps, &mut Native::new(level, false, secret, Some(fault)), secret);
        let found = found.expect_err(&format!("{fault:?} was not found in {EPISODE} packets"));
        println!("{level:?} {fault:?}: packet {}: {}", found.packet, found.text.lines().next().unwrap_or(""));
    }
}
