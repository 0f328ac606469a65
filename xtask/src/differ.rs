//! `cargo xtask differ`: long runs of the differential test.

use std::time::Instant;

use anyhow::Result;

use crate::system::{cargo, root, run};

/// Packets of one history: each loads the kernel programs, which takes the verifier seconds.
const EPISODE: &str = "240000";

/// Runs the same histories, of so many packets in all, through the reference model and each fast path.
pub(crate) fn differ(packets: &str, seed: &str) -> Result<()> {
    println!("==> {packets} packets of each path, histories of {EPISODE} from seed {seed} on");
    let start = Instant::now();
    // Optimised, but not as a whole, which would take minutes.
    run(cargo()
        .args(["test", "--release", "-p", "flowhop-tests", "--test", "differential", "--target-dir"])
        .arg(root().join("target/differ"))
        .args(["--", "--nocapture", "--skip", "planted"])
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("FLOWHOP_DIFF_PACKETS", packets)
        .env("FLOWHOP_DIFF_EPISODE", EPISODE)
        .env("FLOWHOP_DIFF_SEED", seed))?;
    println!("no difference; {} s", start.elapsed().as_secs());
    Ok(())
}
