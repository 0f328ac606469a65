//! `cargo xtask mutants`: changes the forwarding function and the decision table in every small way there is, and asks whether
//! the tests notice.

use std::ffi::OsString;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::system::{cargo, has_program, output, root, run, target};

/// Packets of each history test: most mutants differ after some dozens.
const PACKETS: &str = "30000";

/// Which of them.
pub(crate) enum Chosen<'a> {
    All,
    /// Those of files and functions whose names match.
    Named(&'a str),
    /// Those of code that has changed since a commit.
    Since(&'a str),
}

/// Runs mutants; what is asked of them is in `.cargo/mutants.toml`.
pub(crate) fn mutants(chosen: &Chosen<'_>) -> Result<()> {
    if !has_program("cargo-mutants") {
        bail!("cargo-mutants is not installed; run: cargo install --locked cargo-mutants");
    }
    let mut command = cargo();
    command.current_dir(root()).args(["mutants", "--no-shuffle", "--jobs", "2", "--output", "target"]);
    command.args(["--package", "flowhop-flow", "--package", "flowhop-table"]);
    match chosen {
        Chosen::All => {}
        Chosen::Named(names) => {
            command.args(["--re", names]);
        }
        Chosen::Since(commit) => {
            command.arg("--in-diff").arg(changes_since(commit)?);
        }
    }
    // Disagreements are not shortened: here it is enough that there is one.
    command.env("FLOWHOP_DIFF_PACKETS", PACKETS).env("FLOWHOP_DIFF_SHRINK", "0");
    // Or else an input that once failed by chance is tried first with every mutant after it, and all seem to be noticed.
    run(command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1"))
}

/// The file with what has changed in the crates since a commit.
fn changes_since(commit: &str) -> Result<OsString> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["diff", commit, "--", "crates/flow/src", "crates/table/src"]);
    let file = target().join("mutants.diff");
    fs::write(&file, output(&mut git)?).with_context(|| format!("write {}", file.display()))?;
    Ok(file.into())
}
