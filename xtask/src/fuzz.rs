//! `cargo xtask fuzz`: the fuzz targets, each for a while.
//!
//! They are instrumented by options that stable compilers have only when told that it is theirs to use them.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::system::{cargo, has_program, root, run};

/// The targets, and how long an input each takes.
const TARGETS: [(&str, u32); 5] =
    [("headers", 1600), ("policy", 4096), ("capture", 4096), ("helpers", 1024), ("engine", 4096)];

/// Runs one target, or all, for so many seconds each.
pub(crate) fn fuzz(target: Option<&str>, seconds: u32) -> Result<()> {
    if !has_program("cargo-fuzz") {
        bail!("cargo-fuzz is not installed; run: cargo install --locked cargo-fuzz");
    }
    let known = |name: &str| TARGETS.iter().any(|(target, _)| *target == name);
    if let Some(name) = target.filter(|name| !known(name)) {
        let names: Vec<&str> = TARGETS.iter().map(|(target, _)| *target).collect();
        bail!("there is no target {name:?}; there are {}", names.join(", "));
    }
    for (name, length) in TARGETS.iter().filter(|(name, _)| target.is_none_or(|target| target == *name)) {
        println!("==> {name}, {seconds} s");
        seed(name)?;
        run(instrumented(cargo().args(["fuzz", "run", "--sanitizer", "none", name, "--"]))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={length}"))
            .arg("-print_final_stats=1")
            .arg("-rss_limit_mb=8192"))
        .with_context(|| format!("{name}: see fuzz/artifacts/{name}"))?;
    }
    Ok(())
}

fn instrumented(command: &mut Command) -> &mut Command {
    command.current_dir(root().join("fuzz")).env("RUSTC_BOOTSTRAP", "1")
}

/// Something to begin with: policies where policies are read.
fn seed(target: &str) -> Result<()> {
    let corpus = root().join("fuzz/corpus").join(target);
    fs::create_dir_all(&corpus)?;
    if target == "policy" {
        for name in ["everything.toml", "contract.toml"] {
            fs::copy(root().join("crates/policy/tests/policies").join(name), corpus.join(name))?;
        }
    }
    Ok(())
}
