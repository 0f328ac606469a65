//! The forwarding function against the reference model, packet by packet (checklist A14, A17, B12, F11).
//!
//! One history runs through the real function and through [`flowhop_tests::reference`]; after every packet the
//! verdict, the reason, the bytes, both directions' records, the TCP context and the gate must agree. The real
//! function runs natively over a private table with either index, and, where there is root, in the kernel.
//!
//! `cargo xtask differ` makes long runs, in which all paths see the same histories, by `FLOWHOP_DIFF_PACKETS` (of each
//! path), `FLOWHOP_DIFF_EPISODE` (packets of one history) and `FLOWHOP_DIFF_SEED`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is their report"
)]

mod faults;
mod replay;
mod rig;

use std::fmt::Write as _;

use flowhop_flow::Level;
use flowhop_flow::reason::Reason;
use flowhop_io::bpf::IndexKind;
use flowhop_tests::history::{Episode, Random, Step};
use flowhop_tests::programs::apart;

use faults::Fault;
use replay::{Disagreement, Tally, hex, replay};
use rig::Rig;

/// Packets of one episode: enough for connections to live through, few enough to shrink.
const EPISODE: usize = 2000;

fn secret(seed: u64) -> [u32; 10] {
    let mut random = Random::new(seed ^ 0x5ec7e7);
    std::array::from_fn(|_| random.bits() as u32)
}

/// Leaves out what the disagreement does not need.
fn shrink(steps: &[Step], end: usize, rig: &mut dyn FnMut() -> Rig, secret: [u32; 10]) -> (Vec<Step>, Disagreement) {
    let mut kept: Vec<Step> = steps[..=end].to_vec();
    let mut last = replay(&kept, &mut rig(), secret).expect_err("it failed before");
    let mut chunk = kept.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < kept.len() {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + chunk).min(kept.len()));
            // Names are numbers of connects, so those stay.
            let whole = kept[at..(at + chunk).min(kept.len())].iter().all(|step| !matches!(step, Step::Connect(_)));
            match (whole, whole.then(|| replay(&fewer, &mut rig(), secret))) {
                (true, Some(Err(disagreement))) => {
                    fewer.truncate(disagreement.step + 1);
                    kept = fewer;
                    last = disagreement;
                }
                _ => at += chunk,
            }
        }
        chunk /= 2;
    }
    (kept, last)
}

/// Runs episodes until so many packets have gone through, and reports the first disagreement in full.
fn run(packets: usize, episode: usize, first_seed: u64, make: &mut dyn FnMut([u32; 10]) -> Rig) -> Tally {
    let mut total = Tally::default();
    let mut seed = first_seed;
    while total.packets < packets {
        let steps = Episode::steps(seed, episode);
        let secret = secret(seed);
        let mut rig = make(secret);
        match replay(&steps, &mut rig, secret) {
            Ok(tally) => {
                total.packets += tally.packets;
                total.translated += tally.translated;
                total.loose += tally.loose;
                total.identified += tally.identified;
                total.scaled += tally.scaled;
                total.shifted += tally.shifted;
                total.passed += tally.passed;
                total.tagged += tally.tagged;
                for (reason, count) in tally.reasons {
                    *total.reasons.entry(reason).or_default() += count;
                }
            }
            Err(found) => {
                drop(rig);
                eprintln!("seed {seed}, packet {} (step {}): {}", found.packet, found.step, found.text);
                eprintln!("at {:?}", steps[found.step]);
                let (kept, last) = shrink(&steps, found.step, &mut || make(secret), secret);
                let mut text = String::new();
                for step in &kept {
                    match step {
                        Step::Packet(packet) => {
                            let _ =
                                writeln!(text, "  {} {:?}\n    {}", packet.about, packet.arrival, hex(&packet.bytes));
                        }
                        Step::Connect(_) => {}
                        other => {
                            let _ = writeln!(text, "  {other:?}");
                        }
                    }
                }
                panic!("shrunk to {} steps:\n{text}{}", kept.len(), last.text);
            }
        }
        seed = seed.wrapping_add(1);
    }
    total
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn packets(default: u64) -> usize {
    setting("FLOWHOP_DIFF_PACKETS", default) as usize
}

/// The seed of the first history. One that is asked for is that of all paths; else each has its own.
fn seed(path: u64) -> u64 {
    setting("FLOWHOP_DIFF_SEED", 20_260_101 + path * 1_000_000)
}

/// Packets of one history.
fn episode(default: usize) -> usize {
    setting("FLOWHOP_DIFF_EPISODE", default as u64) as usize
}

/// From so many packets on, each reason has to have come up at least [`OFTEN`].
const LONG: usize = 5_000_000;
const OFTEN: usize = 1000;

/// Reasons that a fast path can give; a history that never brings one about tests less than it seems to.
const EXPECTED: &[Reason] = &[
    Reason::Forwarded,
    Reason::Miss,
    Reason::Pending,
    Reason::SlowPath,
    Reason::WrongInterface,
    Reason::StalePolicy,
    Reason::StaleAdjacency,
    Reason::NeighbourUnresolved,
    Reason::TtlExceeded,
    Reason::TooBig,
    Reason::Fragment,
    Reason::Options,
    Reason::ExtensionHeader,
    Reason::Icmp,
    Reason::Truncated,
    Reason::BadHeader,
    Reason::BadIpChecksum,
    Reason::TcpSyn,
    Reason::TcpFlags,
    Reason::TcpWindow,
    Reason::TcpState,
    Reason::Torn,
    Reason::Orphaned,
    Reason::NoDaemon,
    Reason::FlowDropped,
    Reason::Local,
    Reason::NotIp,
    Reason::LinkLocal,
    Reason::NeighbourDiscovery,
    Reason::OtherHost,
    Reason::NoInterface,
    Reason::StackFlow,
    Reason::Tagged,
];

/// Reasons that only a program in a driver gives.
const IN_DRIVER: &[Reason] = &[Reason::OutputLevel];

/// Reasons in `rare` need not have come up.
fn assert_telling(tally: &Tally, level: Level, rare: &[Reason]) {
    let mut reasons: Vec<_> = tally.reasons.iter().map(|(reason, count)| (*reason, *count)).collect();
    reasons.sort();
    println!(
        "{} packets, {} translated, {} identified, {} scaled, {} shifted, {} loose, {} passed, {} tagged",
        tally.packets,
        tally.translated,
        tally.identified,
        tally.scaled,
        tally.shifted,
        tally.loose,
        tally.passed,
        tally.tagged
    );
    println!("{reasons:?}");
    // A short run, asked for by hand, need not have everything in it.
    if tally.packets < 20_000 {
        return;
    }
    let expected = EXPECTED.iter().chain(if level == Level::Driver { IN_DRIVER } else { &[] });
    let least = if tally.packets < LONG { 1 } else { OFTEN };
    for reason in expected.filter(|reason| !rare.contains(reason)) {
        let count = tally.reasons.get(reason).copied().unwrap_or(0);
        assert!(count >= least, "{count} packets were {}, at least {least} should be", reason.name());
    }
    assert!(tally.reasons[&Reason::Forwarded] * 4 > tally.packets, "most packets should be forwarded");
    assert!(tally.translated * 10 > tally.packets && tally.scaled * 40 > tally.packets);
    assert!(tally.identified * 50 > tally.packets && tally.shifted * 20 > tally.packets);
    let in_driver = [tally.passed, tally.tagged].map(|count| count * 20 > tally.packets);
    assert_eq!(in_driver, [level == Level::Driver; 2]);
}

/// Runs histories through the function in this process.
fn natively(level: Level, hashed: bool, seed: u64) {
    let tally = run(packets(100_000), episode(EPISODE), seed, &mut |secret| Rig::native(level, hashed, secret, None));
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
        let found = replay(&steps, &mut Rig::native(level, false, secret, Some(fault)), secret);
        let found = found.expect_err(&format!("{fault:?} was not found in {EPISODE} packets"));
        println!("{level:?} {fault:?}: packet {}: {}", found.packet, found.text.lines().next().unwrap_or(""));
    }
}

/// The programs in the kernel agree with the model (A14, A17, B12): verdict, reason by counter, bytes, records.
fn in_the_kernel(level: Level, index: IndexKind, socket: bool, seed: u64) {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: needs root");
        return;
    }
    let tally = apart(&[[2, 3], [4, 5], [6, 7]], || {
        let mut number = 0;
        // Long episodes, because each loads the programs, which takes the verifier seconds.
        run(packets(50_000), episode(12 * EPISODE), seed, &mut |secret| {
            number += 1;
            let name = format!("{level:?}-{index:?}-{number}");
            Rig::kernel(level, index, socket, secret, &name).unwrap_or_else(|error| panic!("{error}"))
        })
    });
    assert_telling(&tally, level, if level == Level::Skb { &[Reason::Tagged] } else { &[] });
}

#[test]
fn the_kernel_program_agrees() {
    in_the_kernel(Level::Skb, IndexKind::Lines, false, seed(2));
}

#[test]
fn the_kernel_program_with_a_hash_map_agrees() {
    in_the_kernel(Level::Skb, IndexKind::KernelHash, false, seed(3));
}

// A3, A4: what is handed down goes to a socket, with metadata in front.
#[test]
fn the_kernel_program_in_a_driver_agrees() {
    in_the_kernel(Level::Driver, IndexKind::Lines, true, seed(5));
}

// Without a socket it is passed on, and the gate is as it was.
#[test]
fn the_kernel_program_in_a_driver_with_a_hash_map_and_without_sockets_agrees() {
    in_the_kernel(Level::Driver, IndexKind::KernelHash, false, seed(6));
}
