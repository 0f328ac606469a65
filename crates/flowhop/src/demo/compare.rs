//! The same traffic through the same firewall in user space, and through the kernel's own.

use std::time::Duration;

use super::Story;
use crate::lab::daemon::Policy;
use crate::lab::traffic::{blast, stream};
use crate::lab::{Bed, Daemon, Family, LabError, Mode, Sandbox};

/// Rounds, in which everybody has a turn.
const ROUNDS: usize = 3;
const STREAM: Duration = Duration::from_millis(1000);
const BLAST: Duration = Duration::from_millis(500);

/// One who forwards, and what was measured.
struct Runner {
    name: &'static str,
    gigabits: Vec<f64>,
    packets: Vec<f64>,
}

/// Measures in turns and prints the medians.
pub(super) fn compare(story: &mut Story<'_>, sandbox: &Sandbox, chosen: &Bed) -> Result<(), LabError> {
    story.say(format!("\n6. In comparison: medians of {ROUNDS} rounds in which everybody has a turn"))?;
    let (user, kernel) = (Bed::new()?, Bed::new()?);
    let policy = Policy { mode: Mode::User, ..Policy::default() };
    let daemon = Daemon::start(&user, &sandbox.folder().join("user"), &policy)?;
    let mut beds = vec![(chosen, "flowhop, path skb"), (&user, "flowhop, path user")];
    if kernel.kernel_translates("masquerade")? {
        beds.push((&kernel, "kernel, nftables"));
    } else {
        story.say("   nft is not installed, so the kernel's own firewall is left out")?;
    }
    let mut runners: Vec<Runner> =
        beds.iter().map(|(_, name)| Runner { name, gigabits: Vec::new(), packets: Vec::new() }).collect();
    let to = Family::V4.outside_host();
    for _ in 0..ROUNDS {
        for ((bed, _), runner) in beds.iter().zip(&mut runners) {
            runner.gigabits.push(stream(bed, to, STREAM)?.gigabits());
            runner.packets.push(blast(bed, to, BLAST)?);
        }
    }
    daemon.stop()?;
    let [first, ..] = runners.as_mut_slice() else { return Ok(()) };
    let ours = (median(&mut first.gigabits), median(&mut first.packets));
    story.say(format!("   {:<22}{:>16}{:>26}", "", "TCP, 1 stream", "small datagrams, 1 flow"))?;
    for runner in &mut runners {
        let (gigabits, packets) = (median(&mut runner.gigabits), median(&mut runner.packets));
        story.say(format!(
            "   {:<22}{gigabits:>9.1} Gbit/s{:>16.0} packets/s   flowhop's skb path: {:.2} x and {:.2} x of that",
            runner.name,
            packets,
            ours.0 / gigabits,
            ours.1 / packets,
        ))?;
    }
    story.say("   Sender and receiver run on the same processors and take most of the time; see docs/benchmarks.md.")
}

/// The middle one; of an even number the lower of the two.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
