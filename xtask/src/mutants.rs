//! `cargo xtask mutants`: changes the forwarding function and the decision table in every small way there is, and asks whether
//! the tests notice.

use anyhow::{Result, bail};

use crate::system::{cargo, has_program, root, run};

/// Packets of each history test: most mutants differ after some dozens.
const PACKETS: &str = "30000";

/// Runs all mutants, or those of files and functions whose names match; what is asked of them is in `.cargo/mutants.toml`.
pub(crate) fn mutants(only: Option<&str>) -> Result<()> {
    if !has_program("cargo-mutants") {
        bail!("cargo-mutants is not installed; run: cargo install --locked cargo-mutants");
    }
    let mut command = cargo();
    command.current_dir(root()).args(["mutants", "--no-shuffle", "--jobs", "2", "--output", "target"]);
    command.args(["--package", "flowhop-flow", "--package", "flowhop-table"]);
    if let Some(only) = only {
        command.args(["--re", only]);
    }
    // Disagreements are not shortened: here it is enough that there is one.
    command.env("FLOWHOP_DIFF_PACKETS", PACKETS).env("FLOWHOP_DIFF_SHRINK", "0");
    // Or else an input that once failed by chance is tried first with every mutant after it, and all seem to be noticed.
    run(command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1"))
}
