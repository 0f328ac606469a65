//! `cargo xtask fuzz`: the fuzz targets, each for a while.
//!
//! They are instrumented by options that stable compilers have only when told that it is theirs to use them.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::system::{cargo, has_program, root, run};

/// The targets, and how long an input each takes.
const TARGETS: [(&str, u32); 8] = [
    ("headers", 1600),
    ("policy", 4096),
    ("capture", 4096),
    ("netlink", 2048),
    ("control", 512),
    ("helpers", 1024),
    ("engine", 4096),
    ("pcp", 1024),
];

/// Runs one target, or all, for so many seconds each.
pub(crate) fn fuzz(target: Option<&str>, seconds: u32) -> Result<()> {
    for (name, length) in chosen(target)? {
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

/// Keeps what is needed of the inputs that were found, of one target or all, to reach every branch that they reach.
pub(crate) fn keep(target: Option<&str>) -> Result<()> {
    let fuzz = root().join("fuzz");
    for (name, _) in chosen(target)? {
        let (all, few) = (fuzz.join("corpus").join(name), fuzz.join("target/kept").join(name));
        let _absent = fs::remove_dir_all(&few);
        fs::create_dir_all(&few)?;
        seed(name)?;
        run(instrumented(cargo().args(["fuzz", "run", "--sanitizer", "none", name])).arg(&few).arg(&all).args([
            "--",
            "-merge=1",
            "-use_counters=0",
        ]))?;
        let mut inputs = Vec::new();
        for entry in fs::read_dir(&few)? {
            inputs.push(fs::read(entry?.path())?);
        }
        inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        let lines: String = inputs.iter().map(|input| hex(input) + "\n").collect();
        fs::write(kept(name), lines)?;
        println!("{name}: {} inputs, {} bytes", inputs.len(), inputs.iter().map(Vec::len).sum::<usize>());
    }
    Ok(())
}

/// The target of this name, or all of them.
fn chosen(target: Option<&str>) -> Result<Vec<(&'static str, u32)>> {
    if !has_program("cargo-fuzz") {
        bail!("cargo-fuzz is not installed; run: cargo install --locked cargo-fuzz");
    }
    let targets: Vec<_> = TARGETS.into_iter().filter(|(name, _)| target.is_none_or(|target| target == *name)).collect();
    if targets.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|(target, _)| *target).collect();
        bail!("there is no target {:?}; there are {}", target.unwrap_or_default(), names.join(", "));
    }
    Ok(targets)
}

/// The inputs of a target that are kept: each a line, in hexadecimal digits.
fn kept(target: &str) -> PathBuf {
    root().join("fuzz/kept").join(target).with_extension("txt")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _written = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(line: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(line.get(at..at + 2)?, 16).ok();
    (0..line.len()).step_by(2).map(digits).collect()
}

fn instrumented(command: &mut Command) -> &mut Command {
    command.current_dir(root().join("fuzz")).env("RUSTC_BOOTSTRAP", "1")
}

/// Something to begin with: what was kept, policies where policies are read, and a message where messages are.
fn seed(target: &str) -> Result<()> {
    let corpus = root().join("fuzz/corpus").join(target);
    fs::create_dir_all(&corpus)?;
    for (number, line) in fs::read_to_string(kept(target)).unwrap_or_default().lines().enumerate() {
        let input = unhex(line).with_context(|| format!("{}: line {}", kept(target).display(), number + 1))?;
        fs::write(corpus.join(format!("kept-{number}")), input)?;
    }
    if target == "helpers" {
        let body = "c=IN IP4 10.1.0.2\r\nm=audio 30000 RTP/AVP 0\r\na=rtcp:30001\r\n";
        let head = "INVITE sip:b@10.1.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.1.0.2;branch=1\r\nm: <sip:a@10.1.0.2:5060>\r\n\
                    c: application/sdp\r\nl: ";
        fs::write(corpus.join("invite"), format!("\0{head}{}\r\n\r\n{body}", body.len()))?;
    }
    if target == "policy" {
        for name in ["everything.toml", "contract.toml"] {
            fs::copy(root().join("crates/policy/tests/policies").join(name), corpus.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        for input in [&[][..], &[0], &[0xff, 0x10, 0x01]] {
            assert_eq!(unhex(&hex(input)).as_deref(), Some(input));
        }
        assert_eq!((unhex("0"), unhex("0g"), unhex("é")), (None, None, None));
    }

    #[test]
    fn every_kept_input_is_one() {
        for (name, _) in TARGETS {
            let text = fs::read_to_string(kept(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!text.is_empty() && text.lines().all(|line| unhex(line).is_some()), "{name}");
        }
    }
}
