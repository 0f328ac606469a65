//! Many histories, and what is said of the first one that differs.
//!
//! `cargo xtask differ` makes long runs, in which all paths see the same histories, by `FLOWHOP_DIFF_PACKETS` (of each
//! path), `FLOWHOP_DIFF_EPISODE` (packets of one history) and `FLOWHOP_DIFF_SEED`. With `FLOWHOP_DIFF_SHRINK=0` a history that
//! differs is not shortened.

use std::fmt::Write as _;

use flowhop_flow::Level;
use flowhop_flow::reason::Reason;

use crate::history::{Episode, Random, Step};
use crate::judged::Judged;
use crate::replay::{Disagreement, Tally, hex, replay};

/// Packets of one episode: enough for connections to live through, few enough to shrink.
pub const EPISODE: usize = 2000;

/// The secret of the key hash in a history.
#[must_use]
pub fn secret(seed: u64) -> [u32; 10] {
    let mut random = Random::new(seed ^ 0x5ec7e7);
    std::array::from_fn(|_| random.bits() as u32)
}

/// Leaves out what the disagreement does not need.
fn shrink(
    steps: &[Step],
    end: usize,
    make: &mut dyn FnMut() -> Box<dyn Judged>,
    secret: [u32; 10],
) -> (Vec<Step>, Disagreement) {
    let mut kept: Vec<Step> = steps[..=end].to_vec();
    let mut last = replay(&kept, &mut *make(), secret).expect_err("it failed before");
    let mut chunk = kept.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < kept.len() {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + chunk).min(kept.len()));
            // Names are numbers of connects, so those stay.
            let whole = kept[at..(at + chunk).min(kept.len())].iter().all(|step| !matches!(step, Step::Connect(_)));
            match (whole, whole.then(|| replay(&fewer, &mut *make(), secret))) {
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
pub fn run(
    packets: usize,
    episode: usize,
    first_seed: u64,
    make: &mut dyn FnMut([u32; 10]) -> Box<dyn Judged>,
) -> Tally {
    let mut total = Tally::default();
    let mut seed = first_seed;
    while total.packets < packets {
        let steps = Episode::steps(seed, episode);
        let secret = secret(seed);
        let mut judged = make(secret);
        match replay(&steps, &mut *judged, secret) {
            Ok(tally) => {
                total.packets += tally.packets;
                total.translated += tally.translated;
                total.loose += tally.loose;
                total.identified += tally.identified;
                total.scaled += tally.scaled;
                total.shifted += tally.shifted;
                total.passed += tally.passed;
                total.tagged += tally.tagged;
                total.refused += tally.refused;
                total.adopted += tally.adopted;
                for (reason, count) in tally.reasons {
                    *total.reasons.entry(reason).or_default() += count;
                }
            }
            Err(found) => {
                drop(judged);
                eprintln!("seed {seed}, packet {} (step {}): {}", found.packet, found.step, found.text);
                eprintln!("at {:?}", steps[found.step]);
                assert!(setting("FLOWHOP_DIFF_SHRINK", 1) != 0, "not shortened");
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

/// Packets to go through, if nobody asks for a number.
#[must_use]
pub fn packets(default: u64) -> usize {
    setting("FLOWHOP_DIFF_PACKETS", default) as usize
}

/// The seed of the first history. One that is asked for is that of all paths; else each has its own.
pub fn seed(path: u64) -> u64 {
    setting("FLOWHOP_DIFF_SEED", 20_260_101 + path * 1_000_000)
}

/// Packets of one history.
pub fn episode(default: usize) -> usize {
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
pub fn assert_telling(tally: &Tally, level: Level, rare: &[Reason]) {
    let mut reasons: Vec<_> = tally.reasons.iter().map(|(reason, count)| (*reason, *count)).collect();
    reasons.sort();
    println!(
        "{} packets, {} translated, {} identified, {} scaled, {} shifted, {} loose, {} passed, {} tagged; \
         {} connections refused, {} adoptions",
        tally.packets,
        tally.translated,
        tally.identified,
        tally.scaled,
        tally.shifted,
        tally.loose,
        tally.passed,
        tally.tagged,
        tally.refused,
        tally.adopted
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
    assert!(tally.refused * 2000 > tally.packets && tally.adopted * 2000 > tally.packets);
    let in_driver = [tally.passed, tally.tagged].map(|count| count * 20 > tally.packets);
    assert_eq!(in_driver, [level == Level::Driver; 2]);
}
