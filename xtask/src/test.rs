//! `cargo xtask test`: everything that a change has to pass.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::system::{self, Package, cargo, has_program, run};
use crate::{arrows, bpf};

/// What the tests run beside the compiler.
pub(crate) const TOOLS: [Package<'static>; 16] = [
    Package { name: "nftables", known_by: "nft" },
    Package { name: "iperf3", known_by: "iperf3" },
    Package { name: "curl", known_by: "curl" },
    Package { name: "tcpdump", known_by: "tcpdump" },
    Package { name: "tshark", known_by: "tshark" },
    Package { name: "ethtool", known_by: "ethtool" },
    Package { name: "iputils-ping", known_by: "ping" },
    Package { name: "strace", known_by: "strace" },
    Package { name: "iproute2", known_by: "ip" },
    Package { name: "coturn", known_by: "turnserver" },
    Package { name: "nmap", known_by: "nmap" },
    Package { name: "traceroute", known_by: "traceroute" },
    Package { name: "vsftpd", known_by: "vsftpd" },
    Package { name: "tftpd-hpa", known_by: "in.tftpd" },
    Package { name: "sip-tester", known_by: "sipp" },
    Package { name: "natpmpc", known_by: "natpmpc" },
];

/// Runs all checks and tests; the last line says how many tests passed.
pub(crate) fn run_all() -> Result<()> {
    system::need(&TOOLS).context("tools that the tests run")?;
    step("format");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    step("lints");
    run(cargo().args(["clippy", "-q", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("kernel programs");
    bpf::check()?;
    step("crate arrows");
    arrows::check()?;
    step("dependencies");
    if has_program("cargo-deny") {
        // Advisories are looked up on the network, so they are not part of what has to pass everywhere.
        run(cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    } else {
        println!("skipped: cargo-deny is not installed (cargo install --locked cargo-deny, about five minutes)");
    }
    step("model of the table's protocol");
    run(cargo().args(["test", "-q", "-p", "flowhop-table", "--features", "model", "--test", "model"]))?;
    step("tests");
    tests()
}

fn step(what: &str) {
    println!("==> {what}");
}

/// Runs the tests of the workspace and sums up what each of their programs says at its end.
fn tests() -> Result<()> {
    // The acceptance tests run the program itself.
    run(cargo().args(["build", "-q", "-p", "flowhop"]))?;
    let mut command: Command = cargo();
    let mut child = command
        .args(["test", "--workspace", "--no-fail-fast"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let output = child.stdout.take().context("output of cargo test")?;
    let (mut passed, mut failed) = (0, 0);
    let mut panics = Panics::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        panics.take(&line);
        if let Some((more_passed, more_failed)) = summary(&line) {
            passed += more_passed;
            failed += more_failed;
        }
    }
    let status = child.wait()?;
    // Once more where it is found: the output of a failed test is long.
    panics.lines.iter().for_each(|line| println!("{line:.LINE$}"));
    println!("{passed} passed, {failed} failed");
    if !status.success() {
        bail!("cargo test failed: {status}");
    }
    Ok(())
}

/// Characters of a line of a panic that are repeated at the end, and lines of it.
const LINE: usize = 600;
const LINES: usize = 6;

/// What failed tests panicked with.
#[derive(Default)]
struct Panics {
    lines: Vec<String>,
    left: usize,
}

impl Panics {
    fn take(&mut self, line: &str) {
        if line.starts_with("thread '") && line.contains("panicked at ") {
            self.left = LINES;
        }
        if line.starts_with("stack backtrace:") || line.starts_with("note: ") {
            self.left = 0;
        }
        if self.left > 0 {
            self.left -= 1;
            self.lines.push(line.to_owned());
        }
    }
}

/// Tests passed and failed, of a line such as `test result: ok. 3 passed; 0 failed; …`.
pub(crate) fn summary(line: &str) -> Option<(u32, u32)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut parts = counts.split("; ").map(|part| part.split(' ').next()?.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_found() {
        let mut panics = Panics::default();
        let text =
            "ok\nthread 'a' panicked at x.rs:1:1:\nleft\nright\nstack backtrace:\n  0: b\nthread 'c' panicked at y\n";
        text.lines().for_each(|line| panics.take(line));
        assert_eq!(panics.lines, ["thread 'a' panicked at x.rs:1:1:", "left", "right", "thread 'c' panicked at y"]);
    }

    #[test]
    fn summaries_are_read() {
        let line = "test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(summary(line), Some((12, 1)));
        assert_eq!(summary("test a ... ok"), None);
    }
}
