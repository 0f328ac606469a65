//! `cargo xtask differ`: long runs of what compares the paths.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::system::{cargo, root, run};

/// Packets of one history: each loads the kernel programs, which takes the verifier seconds.
const EPISODE: &str = "240000";

/// Runs the same histories, of so many packets in all, through the reference model and each fast path; then as many
/// packets through the slow path, alone and behind each fast path, in histories that the evaluator judges.
pub(crate) fn differ(packets: &str, seed: &str) -> Result<()> {
    println!("==> {packets} packets of each path, histories of {EPISODE} from seed {seed} on");
    let start = Instant::now();
    run(test(&["natively", "differential"])
        .args(["--nocapture", "--skip", "planted"])
        .env("FLOWHOP_DIFF_PACKETS", packets)
        .env("FLOWHOP_DIFF_EPISODE", EPISODE)
        .env("FLOWHOP_DIFF_SEED", seed))?;
    println!("==> {packets} packets of the slow path, alone and behind each program");
    run(test(&["evaluator"]).arg("--nocapture").env("FLOWHOP_PACKETS", packets))?;
    println!("no difference; {} s", start.elapsed().as_secs());
    Ok(())
}

/// Test programs, optimised, but not as a whole, which would take minutes; what follows are their arguments.
fn test(programs: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["test", "--release", "-p", "flowhop-differential", "-p", "flowhop-tests", "--target-dir"]);
    command.arg(root().join("target/differ"));
    command.args(programs.iter().flat_map(|program| ["--test", program]));
    command.arg("--").env("CARGO_PROFILE_RELEASE_LTO", "off");
    command
}
